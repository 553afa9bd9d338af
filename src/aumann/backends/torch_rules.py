"""Which rule of secants each operation of PyTorch gets: tables of names, and the rules that know PyTorch's arguments.

A rule is a function (vjp, xs, y, cotangent, rows) -> the cotangents of xs, where

    xs          inputs of the operation that move, with the rows of the batch as their first axis
    y           its output
    cotangent   dF/dy, or the mean of it over the cell that begins in each row
    rows        path points in the batch: the right end of row k's cell is row k + 1 (`core/secant.py`)
    vjp         (points, cotangent) -> cotangents of the points by the operation's own derivative

Most rules stand in `core/secant.py`. Those below work in place and piece by piece, since on CPU memory is what takes
the time, or find the winners of a maximum by the places that PyTorch reports.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from aumann.backends import torch_private as private
from aumann.core import secant

CACHED = 1 << 19  # numbers of an array: the three or four that a rule holds at a time stay in the cache
SMOOTH = set(
    "exp exp2 log log1p log2 log10 expm1 tanh sigmoid expit softplus erf erfc sqrt rsqrt square pow __pow__ "
    "float_power __rpow__ reciprocal __rdiv__ __rtruediv__ sin cos tan sinh cosh asinh acosh atanh asin acos atan "
    "arctan arcsin arccos arcsinh arccosh arctanh silu gelu mish logsigmoid log_sigmoid tanhshrink".split()
)
PIECEWISE = {"elu", "selu", "celu", "hardswish", "softshrink", "softsign"}
# Operations that are affine in whatever moves: differentiated as ever.
AFFINE = set(
    "add sub subtract rsub __add__ __radd__ __sub__ __rsub__ neg negative __neg__ sum mean reshape view permute "
    "transpose swapaxes swapdims movedim moveaxis t flatten unflatten squeeze unsqueeze expand expand_as broadcast_to "
    "cat concat concatenate stack hstack vstack dstack split split_with_sizes tensor_split chunk unbind narrow select "
    "__getitem__ index_select gather take_along_dim take to float double half bfloat16 type contiguous clone detach "
    "pad flip fliplr flipud roll tile repeat repeat_interleave cumsum avg_pool1d avg_pool2d avg_pool3d "
    "adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d interpolate upsample dropout dropout1d dropout2d "
    "dropout3d alpha_dropout feature_dropout feature_alpha_dropout masked_fill masked_scatter masked_select tril triu "
    "diagonal diag diag_embed unfold fold pixel_shuffle pixel_unshuffle as_strided view_as reshape_as ravel type_as "
    "zero fill copy batch_norm positive real imag as_subclass hsplit vsplit dsplit adjoint rot90 trace where "
    "__setitem__ index_add index_copy index_fill index_put scatter scatter_add view_as_real view_as_complex conj "
    "resolve_conj resolve_neg conj_physical complex stft istft fft_fft fft_ifft fft_rfft fft_irfft fft_fft2 fft_ifft2 "
    "fft_rfft2 fft_irfft2 fft_fftn fft_ifftn fft_rfftn fft_irfftn fft_hfft fft_ihfft fft_fftshift fft_ifftshift cpu "
    "cuda".split()
)
# Operations that are affine as long as one operand moves.
PRODUCTS = set(
    "mul multiply __mul__ __rmul__ matmul __matmul__ __rmatmul__ mm bmm mv dot vdot inner outer ger einsum tensordot "
    "linear addmm addmv addbmm baddbmm addr conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d "
    "convolution bilinear kron lerp addcmul cross".split()
)
QUOTIENTS = {"div", "divide", "true_divide", "__truediv__", "__div__"}
# Every number of the result is one of the operand's.
SELECTIONS = set(
    "max_pool1d max_pool2d max_pool3d _max_pool1d _max_pool2d _max_pool3d amax amin adaptive_max_pool1d "
    "adaptive_max_pool2d adaptive_max_pool3d max min sort msort topk kthvalue median nanmedian mode cummax "
    "cummin".split()
)


def affine(name: str, indices: list[int], leaves: Sequence) -> bool:
    """Whether an operation is affine in what moves, these leaves of its arguments; one of AFFINE always is."""
    if name in QUOTIENTS:
        return indices == [0] and not any(isinstance(x, str) for x in leaves)  # not rounded
    return len(indices) == 1 and name in PRODUCTS


def is_float(x: Any) -> bool:
    return torch.is_tensor(x) and (x.is_floating_point() or x.is_complex())


def is_training(args: Sequence, kwargs: dict) -> bool:
    """Whether a batch_norm normalises by the batch, and is therefore not affine."""
    return argument(args, kwargs, 5, "training", False)


def rule_of(name: str, args: Sequence, kwargs: dict, xs: Sequence) -> Callable:
    """The rule of an operation on these arguments, of which xs move; the derivative at the middle for any other."""
    if any(x.is_complex() for x in xs):
        return secant.average
    other = argument(args, kwargs, 1, "other")
    if name in LARGER and torch.is_tensor(other):
        return maximum([argument(args, kwargs, 0, "input"), other], xs, LARGER[name])
    if name in QUOTIENTS and (len(xs) > 1 or kwargs.get("rounding_mode")):
        return secant.average if kwargs.get("rounding_mode") else division
    if len(xs) > 1:
        return secant.average
    if name in RAMPS:
        bounds = RAMPS[name](args, kwargs)
        return secant.average if any(torch.is_tensor(b) and b.numel() > 1 for b in bounds) else ramp(*bounds)
    if name in SELECTIONS:
        return selection
    if name == "softmax":
        return secant.softmax if argument(args, kwargs, 1, "dim") in (-1, xs[0].ndim - 1) else secant.average
    return next((rule for rule, names in RULES.items() if name in names), secant.average)


def ramp(low: float, high: float | None = None, slope: float = 1) -> Callable:
    """Of a function that rises between two kinks and is flat outside: slope times the part of each cell that rises.

        high  ┌────            without `high` it rises for ever, as ReLU does
             /
    ────────┘ low
    """

    def rule(vjp, xs, y, cotangent, rows):
        (x,) = xs
        carried = torch.empty_like(cotangent)
        for left, right in cells(x, rows):
            torch.mul(cotangent[left], open_between(x[left], x[right], low, high), out=carried[left])
        return [carried if slope == 1 else carried.mul_(slope)]

    return rule


def open_between(left: Any, right: Any, low: float, high: float | None) -> Any:
    """`secant.open_fraction` above one kink, less that above the next, in place."""
    most = torch.maximum(left, right)
    cell = (left - right).abs_().add_(secant.least(left))
    share = (most - low).div_(cell).clamp_(0, 1)
    return share if high is None else share.sub_(most.sub_(high).div_(cell).clamp_(0, 1))


def cells(x: Any, rows: int) -> Iterator[tuple[slice, slice]]:
    """(left ends, right ends) of the cells as slices of x: on CPU so few at a time that the results stay in its cache.

    A compiler that watches the operations is shown all cells at once. The last row is its own right end.
    """
    step = len(x) // rows
    last = len(x) - step
    at_once = x.device.type != "cpu" or private.in_dispatch_mode()
    count = max(1, last if at_once else CACHED // max(1, x[0].numel()))
    for first in range(0, last, count):
        end = min(first + count, last)
        yield slice(first, end), slice(first + step, end + step)
    yield slice(last, None), slice(last, None)


def maximum(operands: Sequence, xs: Sequence, sign: int) -> Callable:
    """max(a, b), or min with sign −1: each operand gets the part of the cell in which it wins.

    Args:
        operands: a and b as the operation was given them.
        xs: those of the two that move.
    """
    positions = [next((k for k, x in enumerate(xs) if x is operand), None) for operand in operands]
    fixed = [None if k is not None else operand.detach() for operand, k in zip(operands, positions, strict=True)]

    def rule(vjp, xs, y, cotangent, rows):
        a, b = (operand if k is None else xs[k] for operand, k in zip(fixed, positions, strict=True))
        share = secant.open_fraction(sign * (a - b), rows)
        cotangents = [None] * len(xs)
        for k, part in zip(positions, (share, 1 - share), strict=True):
            if k is not None:
                carried = secant.summed(cotangent * part, xs[k])
                cotangents[k] = carried if cotangents[k] is None else cotangents[k] + carried
        return cotangents

    return rule


def division(vjp: Callable, xs: Sequence, y: Any, cotangent: Any, rows: int) -> Sequence:
    """Both the dividend and the divisor move."""
    return secant.divided(*xs, cotangent, rows)


def selection(vjp: Callable, xs: Sequence, y: Any, cotangent: Any, rows: int) -> Sequence:
    """The jvp that `secant.selection` needs is the derivative of the vjp, which is linear in its cotangent."""

    def jvp(x, v):
        u = torch.zeros_like(y, requires_grad=True)
        with torch.enable_grad():
            (g,) = vjp([x], u, create_graph=True)
            return torch.autograd.grad(g, u, v)[0]

    return [secant.selection(xs[0], y, cotangent, rows, lambda x, c: vjp([x], c)[0], jvp)]


def by_place(pool: Callable, axes: int, args: Sequence, kwargs: dict) -> tuple[Callable, Callable]:
    """A maximum over windows and its rule: `secant.selection` by the places of the winners, which are found once.

    Args:
        pool: the operation that also returns the places.
        axes: of a window.
    """
    kwargs = {k: v for k, v in kwargs.items() if k not in ("input", "return_indices")}
    winners = []

    def call(x):
        y, winner = pool(x, *args[1:], **kwargs)
        winners[:] = [winner]
        return y

    def rule(vjp, xs, y, cotangent, rows):
        (x,), (winner,) = xs, winners
        flat, winner, y, c = (a.flatten(-axes) for a in (x, winner, y, cotangent))
        carried = torch.zeros_like(flat)
        for left, right in cells(flat, rows):
            lead = y[left] - flat[left].gather(-1, winner[right])
            lag = flat[right].gather(-1, winner[left]) - y[right]
            before = c[left] * secant.left_share(lead, lag)
            rows_carried = carried[left].scatter_add_(-1, winner[left], before)
            rows_carried.scatter_add_(-1, winner[right], before.neg_().add_(c[left]))
        return [carried.view_as(x)]

    return call, rule


def argument(args: Sequence, kwargs: dict, position: int, name: str, default: Any = None) -> Any:
    """An argument, handed over by its position or by its name."""
    return args[position] if len(args) > position else kwargs.get(name, default)


def bounds_of(
    args: Sequence, kwargs: dict, names: tuple[str, str] = ("min", "max"), low: Any = None, high: Any = None
) -> tuple:
    """The two bounds of a clipping, far away where there is none."""
    low, high = argument(args, kwargs, 1, names[0], low), argument(args, kwargs, 2, names[1], high)
    return -1e30 if low is None else low, 1e30 if high is None else high


# name: (the operation that also returns the places of the winners, axes of a window)
POOLS = {
    name: (pool, axes)
    for axes, pool in enumerate((F.max_pool1d_with_indices, F.max_pool2d_with_indices, F.max_pool3d_with_indices), 1)
    for name in (f"max_pool{axes}d", f"_max_pool{axes}d")
}
# name: (arguments) -> low, high, and the slope between them where that is not 1
RAMPS = {
    "relu6": lambda args, kwargs: (0.0, 6.0),
    "hardtanh": lambda args, kwargs: bounds_of(args, kwargs, ("min_val", "max_val"), -1.0, 1.0),
    "hardsigmoid": lambda args, kwargs: (-3.0, 3.0, 1 / 6),
    "clamp": bounds_of,
    "clip": bounds_of,
    "clamp_min": lambda args, kwargs: (argument(args, kwargs, 1, "min"), 1e30),
    "clamp_max": lambda args, kwargs: (-1e30, argument(args, kwargs, 1, "max")),
}
RULES = {
    secant.smooth: SMOOTH | QUOTIENTS,
    secant.piecewise: PIECEWISE,
    secant.hinge: {"leaky_relu", "abs", "absolute", "prelu", "_prelu_kernel", "rrelu"},
    ramp(0.0): {"relu"},
}
LARGER = {"maximum": 1, "fmax": 1, "max": 1, "minimum": -1, "fmin": -1, "min": -1}  # of two tensors
