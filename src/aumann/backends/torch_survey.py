"""What can be told of a function on PyTorch before it is explained: kinks, and what does not carry secants.

A dispatch mode sees the operations of ATen, of which there is one name each, whoever called them and however: methods,
aliases, functions in place, scripts, `torch.vmap`, `torch.func`, the inside of a custom autograd function. What moves
is known by its memory, so that views and detached tensors move too. An operation that is in none of the tables is
unknown: the tables name what is smooth, and nothing passes for smooth because it was forgotten.
"""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import torch

from aumann.backends import torch_private as private
from aumann.backends.torch_rules import is_float
from aumann.backends.torch_secants import Secants, feed

# Affine in whatever moves.
AFFINE = set(
    "add sub rsub neg sum mean view _unsafe_view reshape _reshape_alias permute transpose t squeeze unsqueeze expand "
    "cat stack split split_with_sizes unsafe_split unsafe_chunk chunk unbind narrow select slice as_strided alias "
    "detach clone copy _to_copy to contiguous lift lift_fresh lift_fresh_copy index index_select gather take where "
    "masked_fill masked_scatter masked_select index_put _index_put_impl _unsafe_index _unsafe_index_put index_add "
    "index_copy index_fill scatter scatter_add slice_scatter select_scatter diagonal_scatter as_strided_scatter fill "
    "zero diagonal diag_embed tril triu trace cumsum constant_pad_nd reflection_pad1d reflection_pad2d "
    "reflection_pad3d replication_pad1d replication_pad2d replication_pad3d roll flip repeat tile unfold im2col "
    "col2im pixel_shuffle pixel_unshuffle channel_shuffle avg_pool1d avg_pool2d avg_pool3d _adaptive_avg_pool1d "
    "_adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_avg_pool1d upsample_nearest1d upsample_nearest2d "
    "upsample_nearest3d _upsample_nearest_exact1d _upsample_nearest_exact2d _upsample_nearest_exact3d "
    "upsample_linear1d upsample_bilinear2d upsample_trilinear3d upsample_bicubic2d _upsample_bilinear2d_aa "
    "_upsample_bicubic2d_aa view_as_real view_as_complex _conj conj_physical _conj_physical resolve_conj resolve_neg "
    "_neg_view real imag complex _fft_r2c _fft_c2r _fft_c2c permute_copy view_copy expand_copy slice_copy select_copy "
    "squeeze_copy unsqueeze_copy transpose_copy alias_copy unfold_copy rot90 movedim block_diag embedding "
    "mkldnn_reorder_conv2d_weight to_mkldnn to_dense native_dropout swapaxes _chunk_cat _to_cpu concat hstack vstack "
    "nll_loss_forward nll_loss2d_forward".split()
)
# Affine as long as one of their arguments moves, and smooth.
PRODUCTS = set(
    "mul mm bmm mv dot vdot addmm addmv addbmm baddbmm addr outer ger convolution _convolution mkldnn_convolution "
    "cudnn_convolution cudnn_convolution_transpose slow_conv3d mkldnn_linear linear lerp addcmul kron einsum "
    "_trilinear bilinear matmul tensordot convolution_overrideable _mkldnn_transpose inner cross linalg_cross "
    "conv_depthwise3d _slow_conv2d_forward _conv_depthwise2d slow_conv_transpose2d slow_conv_transpose3d complex_mul "
    "ldexp".split()
)
# Affine in their first argument, smooth in the others.
QUOTIENTS = set(
    "div true_divide divide native_batch_norm cudnn_batch_norm miopen_batch_norm _native_batch_norm_legit "
    "_native_batch_norm_legit_no_training _batch_norm_no_update _batch_norm_with_update batch_norm".split()
)  # fmt: skip
SMOOTH = set(
    "exp exp2 expm1 log log1p log2 log10 tanh sigmoid softplus erf erfc erfinv sqrt rsqrt square pow float_power "
    "reciprocal sin cos tan sinh cosh asin acos atan asinh acosh atanh atan2 hypot sinc gelu silu mish "
    "log_sigmoid_forward log_sigmoid glu _softmax _log_softmax _safe_softmax softmax log_softmax _masked_softmax "
    "logsumexp logaddexp logaddexp2 logcumsumexp prod cumprod var std var_mean std_mean native_layer_norm "
    "native_group_norm layer_norm _fused_rms_norm rms_norm _thnn_fused_lstm_cell _thnn_fused_gru_cell "
    "mkldnn_rnn_layer _cudnn_rnn miopen_rnn lstm gru rnn_tanh _scaled_dot_product_flash_attention_for_cpu "
    "_scaled_dot_product_flash_attention _scaled_dot_product_efficient_attention _scaled_dot_product_cudnn_attention "
    "_scaled_dot_product_fused_attention_overrideable _scaled_dot_product_attention_math_for_mps "
    "_flash_attention_forward _efficient_attention_forward _native_multi_head_attention "
    "_transformer_encoder_layer_fwd addcdiv polar xlogy special_xlog1py special_entr lgamma digamma polygamma i0 "
    "special_i1 special_ndtri special_log_ndtr special_erfcx special_bessel_j0 special_bessel_j1 mse_loss "
    "soft_margin_loss binary_cross_entropy binary_cross_entropy_with_logits kl_div nan_to_num deg2rad rad2deg "
    "linalg_inv_ex inverse _linalg_solve_ex linalg_solve_triangular triangular_solve cholesky_solve cholesky_inverse "
    "linalg_cholesky_ex cholesky _linalg_det _linalg_slogdet linalg_matrix_exp _cosine_similarity "
    "_weight_norm_interface "
    # of gradients that are taken inside a model
    "tanh_backward sigmoid_backward gelu_backward silu_backward mish_backward softplus_backward log_sigmoid_backward "
    "glu_backward _softmax_backward_data _log_softmax_backward_data native_layer_norm_backward "
    "native_group_norm_backward logit_backward convolution_backward".split()
)
# Kinks and steps. What has a rank (sort, topk, median) is left out and counts as hidden: within a cell it may give way
# to others than those at the ends of the cell, which secants do not see here.
KINKS = set(
    "relu relu6 leaky_relu rrelu_with_noise rrelu_with_noise_functional prelu _prelu_kernel elu celu selu hardtanh "
    "hardswish hardsigmoid hardshrink softshrink threshold abs sign sgn signbit clamp clamp_min clamp_max clip "
    "maximum minimum fmax fmin amax amin max min aminmax _aminmax max_pool2d_with_indices max_pool3d_with_indices "
    "mkldnn_max_pool2d mkldnn_max_pool3d quantized_max_pool2d max_pool1d max_pool2d max_pool3d adaptive_max_pool2d "
    "adaptive_max_pool3d fractional_max_pool2d fractional_max_pool3d max_unpool2d max_unpool3d "
    "cummax cummin _cummax_helper _cummin_helper argmax argmin searchsorted "
    "bucketize histc _histogramdd_bin_edges gt ge lt le logical_and logical_or logical_not logical_xor heaviside "
    "floor ceil round trunc fix frac fmod remainder floor_divide copysign nextafter frexp renorm linalg_vector_norm "
    "norm dist _cdist_forward _pdist_forward huber_loss smooth_l1_loss l1_loss margin_ranking_loss multi_margin_loss "
    "multilabel_margin_loss_forward hinge_embedding_loss angle i0e special_i0e special_i1e isclose bernoulli".split()
)
# Look at the shape alone, or are true of single numbers only, which have no length: they tell nothing of what moves.
SHAPES = set(
    "zeros_like ones_like full_like empty_like rand_like randn_like randint_like new_zeros new_ones new_full "
    "new_empty new_empty_strided empty_strided sym_size sym_stride sym_numel sym_storage_offset eq ne isnan isinf "
    "isfinite isneginf isposinf is_same_size _has_compatible_shallow_copy_type record_stream _assert_async "
    "_assert_tensor_metadata".split()
)
NORMS = {name for name in QUOTIENTS if "batch_norm" in name}
# Functions by which numbers leave the tensors, where no operation sees them any more, or derivatives are changed.
ESCAPES = {
    "register_hook",
    "numpy",
    "__array__",
    "tolist",
    "data_ptr",
    "__dlpack__",
    "untyped_storage",
    "storage",
    "_storage",
}


def has_kinks(fn: Callable, points: Sequence) -> bool | None:
    """Whether something that moves passes a kink on its way through fn, which is run on a row and on two.

    None where something cannot be seen, or carries derivatives at the left end of its cell in place of secants.
    """
    if private.DISPATCH_MODE.value is None or private.NO_DISPATCH_MODES.value is None:
        return None
    two = [torch.cat([p, p + torch.sin(1 + torch.arange(p.numel())).to(p).view_as(p)]) for p in points]
    first = _survey(fn, points)
    if not first.kinks and not first.unknown:
        return False
    try:
        second = _survey(fn, two, first.operands)
    except Exception:  # the model takes one row and no more, or these rows alone
        return None
    if first.missed or second.missed or not second.alike or second.before:
        return None
    return True if first.kinks or second.kinks else None


def _survey(fn, points, before=None):
    survey = Survey(before)
    with torch.enable_grad(), Secants(len(points[0]), survey), survey:
        fed = feed([p.detach().clone().requires_grad_() for p in points])
        survey.mark(fed)
        fn(fed)
    return survey


class Survey(private.DISPATCH_MODE.value or contextlib.nullcontext):  # type: ignore[misc]  # the base is found at import
    """A block in which the operations that pass something moving are classified.

    Attributes:
        kinks: whether one of them has kinks.
        unknown: whether one of them is in no table, or has a derivative of its own, of which nothing is seen.
        missed: whether one of them that is not affine runs outside an operation that carries secants.
        operands: of each operation that carries secants, what it was given that moves; of a run of one row.
        alike: whether the operands of a run of that row and another begin as those do. Where they do not, rows are not
            what the first axis of a tensor is made of.

    Args:
        before: the operands of the run of one row, if this is the one of two.
    """

    def __init__(self, before=None):
        super().__init__()
        self.before, self.alike = before, True
        self.kinks = self.unknown = self.missed = False
        self.carried = self.quiet = 0
        self.operands, self._memory = [], {}

    def mark(self, tensors):
        """These move."""
        for x in tensors:
            memory = _memory(x)
            self._memory[_key(memory)] = memory  # held: no other gets its address

    def moves(self, x):
        if not torch.is_tensor(x):
            return False
        return _key(_memory(x)) in self._memory

    def look_at(self, name: str, args: Sequence) -> None:
        """A function of Python: one by which something that moves leaves the tensors hides what comes next."""
        if name in ESCAPES and args and self.moves(args[0]):
            self.escaped()

    @contextlib.contextmanager
    def carries(self, xs, quiet):
        """For the length of an operation that carries secants, given what moves; quiet if it is known to be smooth."""
        with private.no_modes():
            xs = [x.detach() for x in xs]
            if self.before is None:
                self.operands.append([x.clone() for x in xs])
            elif self.alike:
                self.alike = bool(self.before) and _begin(self.before.pop(0), xs)
        self.carried, self.quiet = self.carried + 1, self.quiet + quiet
        try:
            yield
        finally:
            self.carried, self.quiet = self.carried - 1, self.quiet - quiet

    def escaped(self):
        """Numbers that move have left the tensors."""
        self.unknown = self.missed = True

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        with private.no_function_modes():
            leaves, _ = private.flatten((args, kwargs))
            moving = [i for i, x in enumerate(leaves) if self.moves(x)]
            result = func(*args, **kwargs)
            if moving:
                name = _name(func)
                if name not in SHAPES:
                    tensors = [y for y in private.flatten(result)[0] if torch.is_tensor(y)]
                    self._classify(func, name, leaves, moving, tensors)
                    self.mark(tensors)
        return result

    def _classify(self, func, name, leaves, moving, tensors):
        if self.quiet:
            return
        alone = not self.carried and not torch.is_grad_enabled()  # a custom autograd function
        if alone or not tensors or name == "_local_scalar_dense":
            self.escaped()
        kind = kind_of(func, name, leaves, moving, tensors)
        self.kinks |= kind == "kinks"
        self.unknown |= kind == "unknown"
        self.missed |= kind != "affine" and not self.carried


def kind_of(func: Any, name: str, leaves: Sequence, moving: Sequence[int], tensors: Sequence) -> str:
    """The kind of an operation in those leaves of its arguments that move: "affine", "smooth", "kinks" or "unknown"."""
    if func.namespace not in ("aten", "prims", "prim"):
        return "unknown"
    floats = [i for i in moving if is_float(leaves[i])]
    if name in KINKS:
        first = leaves[floats[0]] if floats else None
        if name in ("abs", "sgn") and first is not None and first.is_complex():
            return "smooth"  # but at 0
        return "kinks"
    if name == "logit":
        return "kinks" if any(isinstance(x, float) for x in leaves) else "smooth"
    if name in ("div", "divide") and any(isinstance(x, str) for x in leaves):  # and rounded
        return "kinks"
    if name in SMOOTH:
        return "smooth"
    if len(floats) < len(moving) and name != "embedding" and floats:
        return "smooth"  # a mask or an index moves, by steps that were seen where they arose
    if name in PRODUCTS:
        return "affine" if len(floats) < 2 else "smooth"
    if name in QUOTIENTS:
        trains = name in NORMS and name != "_native_batch_norm_legit_no_training" and any(x is True for x in leaves)
        return "affine" if floats in ([], [0]) and not trains else "smooth"
    if name in AFFINE:
        return "affine" if all(map(is_float, tensors)) or not floats else "kinks"  # a cast to integers has steps
    return "unknown"


def _begin(xs, ys):
    """Whether each y has twice as many entries along its first axis as its x, and begins with those of x."""
    if len(xs) != len(ys):
        return False
    for x, y in zip(xs, ys, strict=True):
        if 2 * len(x) != len(y) or x.shape[1:] != y.shape[1:]:
            return False
        x, y = (a.to(torch.complex128 if a.is_complex() else torch.float64) for a in (x, y[: len(x)]))
        size = float(x.abs().nan_to_num(0, 0, 0).max()) if x.numel() else 0.0
        if not torch.allclose(x, y, rtol=1e-2, atol=1e-2 * size + 1e-12, equal_nan=True):
            return False
    return True


def _name(func):
    name = func.__name__.split(".")[0]  # without its overload
    return name.rstrip("_") if name.endswith("_") else name


def _memory(x):
    """The memory of a tensor, None where it has none of its own kind (sparse ones): all those count as one."""
    try:
        return x.untyped_storage()
    except (NotImplementedError, RuntimeError):
        return None


def _key(memory):
    return None if memory is None else private.storage_id(memory)
