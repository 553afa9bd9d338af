"""Secants on PyTorch: within a block, the operations of this thread carry cotangents back over cells.

A function mode sees every operation of tensors before it runs, inside Keras layers and foreign modules alike, and is
gone with the block, whatever happens. An operation that moves and is not known to be affine runs as a function with a
backward of its own; one without a rule of its own is differentiated at the average of the ends of each cell.
"""

import contextlib
import functools
import threading

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from aumann.backends import torch_survey
from aumann.core import secant

CACHED = 1 << 19  # numbers of an array: the three or four that a rule holds at a time stay in the cache
ATTRIBUTES = set(  # what is no operation
    "__get__ __set__ __len__ size dim numel is_contiguous item numpy requires_grad_ register_hook retain_grad stride "
    "storage_offset element_size data_ptr is_floating_point is_complex __repr__ __format__ __hash__ __bool__ __float__ "
    "__int__ __index__ tolist __array__ __dlpack__ __dlpack_device__ untyped_storage nelement ndimension get_device "
    "is_same_size result_type can_cast is_tensor is_nonzero equal allclose broadcast_shapes _set_grad_enabled".split()
)
SMOOTH = set(
    "exp exp2 log log1p log2 log10 expm1 tanh sigmoid expit softplus erf erfc sqrt rsqrt square pow __pow__ "
    "float_power __rpow__ reciprocal __rdiv__ __rtruediv__ sin cos tan sinh cosh asinh acosh atanh asin acos atan "
    "arctan arcsin arccos arcsinh arccosh arctanh silu gelu mish logsigmoid log_sigmoid tanhshrink".split()
)
KINKED = {"elu", "selu", "celu", "hardswish", "softshrink", "softsign"}
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
# Affine operations of which another operand, made of steps, may move: masks and indices.
GATED = {"where", "masked_fill", "gather", "take_along_dim"}
# Entry by entry: what stands beside a row belongs to it, also where its gradient was stopped.
ENTRYWISE = {"mul", "multiply", "__mul__", "__rmul__", "addcmul", "lerp"} | QUOTIENTS
GRADIENTS = {"grad", "backward"}


class Secants(TorchFunctionMode):
    """A block in which operations carry cotangents back over cells.

    Args:
        rows: path points in the batch.
        survey: what is told of the operations, if anything is to be told.
    """

    def __init__(self, rows, survey=None):
        super().__init__()
        self.rows, self.survey = rows, survey
        self.exact = False  # a gradient is taken inside the model: that is a derivative, not a secant
        self.saved, self.reached = [], {}

    def __enter__(self):
        _here.blocks.append(self)
        return super().__enter__()

    def __exit__(self, *exception):
        _here.blocks.pop()
        self.saved, self.reached = [], {}
        return super().__exit__(*exception)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = name_of(func)
        if self.survey and name in torch_survey.ESCAPES and args and self.survey.moves(args[0]):
            self.survey.escaped()
        if name in ATTRIBUTES or transformed():
            return func(*args, **kwargs)
        target = overwritten(name, args, kwargs)
        if target is not None:
            self._keep(target)
        if not torch.is_grad_enabled():
            return func(*args, **kwargs)
        if name in GRADIENTS:
            return self._gradient(func, args, kwargs)
        if target is not None:
            return self._in_place(func, name, target, args, kwargs)
        if name in AFFINE and name not in GATED and not (name == "batch_norm" and trains(args, kwargs)):
            return func(*args, **kwargs)
        leaves, spec = pytree.tree_flatten((args, kwargs))
        here = self.moving(leaves)
        if here and name in GATED:
            return self._gated(func, args, kwargs, leaves, spec, here)
        if here and name in ENTRYWISE:
            here = [i for i, x in enumerate(leaves) if i in here or (_is_float(x) and beside(x, leaves[here[0]]))]
        if not here or affine(name, here, leaves):
            return func(*args, **kwargs)
        xs, axis = [leaves[i] for i in here], axis_of(name, args)
        if axis and all(x.ndim > axis for x in xs):
            xs = [x.movedim(axis, 0) for x in xs]
        if not all(fits(x, self.rows) for x in xs):
            return func(*args, **kwargs)  # rows are not its first axis: the derivative at the left end

        for i in here:
            leaves[i] = None

        def call(*moving):
            given = dict(zip(here, (x.movedim(0, axis) for x in moving) if axis else moving, strict=True))
            args, kwargs = pytree.tree_unflatten([given.get(i, x) for i, x in enumerate(leaves)], spec)
            return func(*args, **kwargs)

        rule = rule_of(name, args, kwargs, xs)
        if name in PLACES and len(xs) == 1 and not kwargs.get("return_indices"):
            call, rule = by_place(*PLACES[name], (None, *args[1:]), kwargs)
        return apply(call, rule, self.rows, xs)

    def _gated(self, func, args, kwargs, leaves, spec, here):
        """The mean of the derivatives at both ends of the cell, by the masks and indices there."""
        xs = [leaves[i] for i in here]
        steps = [i for i, x in enumerate(leaves) if torch.is_tensor(x) and not _is_float(x) and beside(x, xs[0])]
        if not steps or not all(fits(x, self.rows) for x in xs):
            return func(*args, **kwargs)
        for i in here:
            leaves[i] = None
        rows = self.rows

        def at(gates):
            def call(*moving):
                given = dict(zip((*here, *steps), (*moving, *gates()), strict=True))
                args, kwargs = pytree.tree_unflatten([given.get(i, x) for i, x in enumerate(leaves)], spec)
                return func(*args, **kwargs)

            return call

        now = [leaves[i] for i in steps]
        left, right = at(lambda: now), at(lambda: [secant.following(x, rows) for x in now])

        def rule(pull, xs, y, cotangent, rows):
            ends = pull(xs, cotangent), _Pull(lambda *moving: [right(*moving)])(xs, cotangent)
            return [0.5 * (a + b) for a, b in zip(*ends, strict=True)]

        return apply(left, rule, rows, xs)

    def moving(self, leaves):
        """Which of these move: what has a derivative, unless it is made of parameters alone."""
        here = [i for i, x in enumerate(leaves) if torch.is_tensor(x) and x.requires_grad and not x.is_leaf]
        if len(here) > 1:
            here = [i for i in here if self._reaches(leaves[i].grad_fn)]
        return here

    def _reaches(self, node):
        """Whether the points are behind a node of the graph."""
        todo = [node]
        while todo:
            node = todo[-1]
            if node is None or node in self.reached:
                todo.pop()
                continue
            if isinstance(node, FED):
                self.reached[node] = True
            behind = [other for other, _ in node.next_functions if other is not None]
            if node not in self.reached and any(self.reached.get(other) for other in behind):
                self.reached[node] = True
            unknown = [other for other in behind if other not in self.reached]
            if node not in self.reached and not unknown:
                self.reached[node] = False
            if node in self.reached:
                todo.pop()
            else:
                todo.append(unknown[0])
        return self.reached.get(node, False)

    def _gradient(self, func, args, kwargs):
        before, self.exact = self.exact, True
        try:
            return func(*args, **kwargs)
        finally:
            self.exact = before

    def _in_place(self, func, name, target, args, kwargs):
        """As the twin that makes a new tensor, which is then copied to where it belongs."""
        base = base_of(name)
        leaves, _ = pytree.tree_flatten((args, kwargs))
        here = self.moving(leaves)
        native = not here or (base in AFFINE and base != "batch_norm") or affine(base, here, leaves)
        twin = func if "inplace" in kwargs else None if native else twin_of(name)
        if native or twin is None:
            return func(*args, **kwargs)
        before = target.clone()
        args = [before if x is target else x for x in args]
        kwargs = {k: before if x is target else x for k, x in kwargs.items()}
        if "inplace" in kwargs:
            kwargs["inplace"] = False
        target.copy_(self.__torch_function__(twin, (), tuple(args), kwargs))
        return target

    def _keep(self, target):
        """What operations saved of a memory that is about to be overwritten is copied first."""
        own = memory(target)
        for ctx, memories, saved in self.saved:
            if own in memories and ctx.kept is None:
                saved = ctx.saved_tensors if saved is None else saved
                ctx.kept = [x.detach().clone() if memory(x) == own else x.detach() for x in saved]


class _Here(threading.local):
    def __init__(self):
        self.blocks = []


_here = _Here()


def block():
    """The block of this thread, or None."""
    return _here.blocks[-1] if _here.blocks else None


def name_of(func):
    """One name for all the ways to call an operation."""
    return getattr(func, "__name__", "").split(".")[0].removeprefix("special_")


def base_of(name):
    """The name of the twin of an operation in place: add of add_, __pow__ of __ipow__."""
    if name.startswith("__i") and name.endswith("__") and name not in ("__invert__", "__index__", "__int__"):
        return {"__idiv__": "div", "__itruediv__": "div"}.get(name, name.replace("__i", "__", 1))
    return name if name.endswith("__") else name.removesuffix("_")


def overwritten(name, args, kwargs):
    """The tensor that an operation overwrites, or None."""
    if name == "__setitem__" or base_of(name) != name or kwargs.get("inplace") is True:
        return args[0] if args and torch.is_tensor(args[0]) else kwargs.get("input")
    return None


@functools.cache
def twin_of(name):
    """The operation that makes a new tensor, or None."""
    base = base_of(name)
    return next((getattr(m, base) for m in (torch.Tensor, torch, F, torch._C._nn) if hasattr(m, base)), None)


def transformed():
    """Whether torch.vmap or torch.func is at work, whose tensors have other axes than they show."""
    return torch._C._functorch.maybe_current_level() is not None


def axis_of(name, args):
    """The axis of rows, of operations that have it behind that of time."""
    if name in ("lstm", "gru", "rnn_tanh", "rnn_relu"):
        return 0 if args[-1] is True else 1
    return int(name == "multi_head_attention_forward")


def trains(args, kwargs):
    return args[5] if len(args) > 5 else kwargs.get("training", False)


def fits(x, rows):
    """Whether a tensor may have rows, or several of its own for each, for its first axis."""
    return x.layout is torch.strided and x.ndim and len(x) and not len(x) % rows and _is_float(x)


def beside(x, other):
    """Whether the rows of x are those of another tensor, of the operands of an operation entry by entry."""
    return torch.is_tensor(x) and x.ndim == other.ndim and x.ndim and len(x) == len(other)


def kinked(fn, points):
    """Whether something that moves passes a kink on its way through fn, which is run on a row and on two.

    None where something cannot be seen, or carries derivatives at the left end of its cell in place of secants.
    """
    two = [torch.cat([p, p + torch.sin(1 + torch.arange(p.numel())).to(p).view_as(p)]) for p in points]
    first = _survey(fn, points)
    if not first.kinked and not first.unknown:
        return False
    try:
        second = _survey(fn, two, first.operands)
    except Exception:  # the model takes one row and no more, or these rows alone
        return None
    if first.missed or second.missed or not second.alike or second.before:
        return None
    return True if first.kinked or second.kinked else None


def _survey(fn, points, before=None):
    survey = torch_survey.Survey(before)
    with torch.enable_grad(), Secants(len(points[0]), survey), survey:
        fed = feed([p.detach().clone().requires_grad_() for p in points])
        survey.mark(fed)
        fn(fed)
    return survey


def outermost(values, points, retain_graph, allow_unused):
    """`torch.autograd.grad` as a block does not see it, and therefore stays open on the way back."""
    engine = torch.autograd.Variable._execution_engine
    one = torch.ones_like(values)
    return engine.run_backward(
        (values,), (one,), retain_graph, False, tuple(points), allow_unused, accumulate_grad=False
    )


def operate(call, xs, rule, rows):
    """call(*xs) as one operation with a rule of `core.secant`: smooth, unless it is a rule for kinks."""
    here = [i for i, x in enumerate(xs) if x.requires_grad]
    moving = [xs[i] for i in here]
    if not moving or transformed() or not all(fits(x, rows) for x in moving):
        return call(*xs)

    def run(*moving):
        given = dict(zip(here, moving, strict=True))
        return call(*(given.get(i, x) for i, x in enumerate(xs)))

    return apply(run, secant.RULES[rule], rows, moving, quiet=rule not in secant.KINKED)


def affine(name, here, leaves):
    """Whether an operation is affine in what moves, these leaves of its arguments; one of AFFINE always is."""
    if name in QUOTIENTS:
        return here == [0] and not any(isinstance(x, str) for x in leaves)  # not rounded
    return len(here) == 1 and name in PRODUCTS


# ---- one operation ---------------------------------------------------------------------------------------------------


class _Fed(torch.autograd.Function):
    """The points as a model is fed them: where it writes over its inputs, they are no leaves of the graph."""

    @staticmethod
    def forward(ctx, *points):
        ctx.set_materialize_grads(False)
        return tuple(p.data for p in points)

    @staticmethod
    def backward(ctx, *cotangents):
        return cotangents


FED = _Fed._backward_cls


def feed(points):
    return list(_Fed.apply(*points))


def apply(call, rule, rows, xs, quiet=None):
    """call(*xs), structures of tensors and others included, with a rule for its way back."""
    quiet = rule in (secant.smooth, secant.softmax) if quiet is None else quiet
    structure = []

    def flat(*xs):
        leaves, spec = pytree.tree_flatten(call(*xs))
        structure[:] = [spec]
        return tuple(leaves)

    found = _Operation.apply(flat, rule, rows, quiet, *xs)
    return pytree.tree_unflatten(list(found), structure[0])


class _Operation(torch.autograd.Function):
    @staticmethod
    def forward(ctx, call, rule, rows, quiet, *xs):
        ctx.set_materialize_grads(False)
        ctx.block = block()
        survey = ctx.block.survey if ctx.block else None
        with survey.carries(xs, quiet) if survey else contextlib.nullcontext():
            ys = call(*xs)
            own = set(map(memory, xs))
            ys = tuple(y.clone() if _is_float(y) and memory(y) in own else y for y in ys)
            ctx.places = [i for i, y in enumerate(ys) if _is_float(y)]
            saved = [*(ys[i] for i in ctx.places), *xs]
            ctx.save_for_backward(*saved)
            ctx.about, ctx.kept = (call, rule, rows), None
            if ctx.block:
                kept = [x.detach() for x in saved] if hooked() else None
                ctx.block.saved.append((ctx, set(map(memory, saved)), kept))
        return ys

    @staticmethod
    def backward(ctx, *cotangents):
        call, rule, rows = ctx.about
        saved = ctx.saved_tensors if ctx.kept is None else ctx.kept
        ys, xs = saved[: len(ctx.places)], saved[len(ctx.places) :]
        cotangents = [cotangents[i] for i in ctx.places]
        if all(c is None for c in cotangents):
            return None, None, None, None, *[None] * len(xs)
        cotangents = [torch.zeros_like(y) if c is None else c for y, c in zip(ys, cotangents, strict=True)]
        with torch._C.DisableTorchFunction():
            if ctx.block and ctx.block.exact:
                found = _derivative(call, xs, cotangents)
            elif not all(fits(y, rows) for y in ys):
                found = secant.average(_Pull(call), xs, ys, cotangents, rows)
            elif len(ys) == 1 or rule is selection:
                found = rule(_Pull(call), xs, ys[0], cotangents[0], rows)
            else:
                found = secant.average(_Pull(call), xs, ys, cotangents, rows)
        return None, None, None, None, *found


def memory(x):
    """What tells the memory of a tensor from others, as long as both are there."""
    with torch._C.DisableTorchFunction():
        return x.untyped_storage()._cdata


def hooked():
    """Whether what is saved is handed to others, as by a checkpoint, who are not to be asked for it yet."""
    return torch._C._autograd._top_saved_tensors_default_hooks(True) is not None


def _derivative(call, xs, cotangents):
    """By the derivative itself, which may be differentiated again."""
    again = torch.is_grad_enabled()
    with torch.enable_grad():
        return _pulled(call, xs if again else [x.detach().requires_grad_() for x in xs], cotangents, again)


def _pulled(call, points, cotangents, create_graph):
    ys = [y for y in call(*points) if _is_float(y)]
    pairs = [(y, c) for y, c in zip(ys, cotangents, strict=False) if y.requires_grad]
    if not pairs:  # made of steps
        return [torch.zeros_like(p) for p in points]
    ys, cotangents = zip(*pairs, strict=True)
    found = torch.autograd.grad(ys, points, cotangents, create_graph=create_graph, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(points, found, strict=True)]


class _Pull:
    """(points, cotangent or one for each tensor of the result) -> cotangents by the operation's own derivative."""

    def __init__(self, call):
        self.call = call

    def __call__(self, points, cotangent, create_graph=False):
        cotangents = [cotangent] if torch.is_tensor(cotangent) else cotangent
        with torch.enable_grad():
            points = [p.detach().requires_grad_() for p in points]
            return _pulled(self.call, points, cotangents, create_graph)


def _is_float(x):
    return torch.is_tensor(x) and (x.is_floating_point() or x.is_complex())


# ---- the rules: (pull, inputs that move, output, cotangent, rows) -> the cotangents of those -------------------------


def rule_of(name, args, kwargs, xs):
    """The rule of an operation on these arguments, of which xs move."""
    if any(x.is_complex() for x in xs):
        return secant.average
    other = given(args, kwargs, 1, "other")
    if name in LARGER and torch.is_tensor(other):
        return maximum([given(args, kwargs, 0, "input"), other], xs, LARGER[name])
    if name in QUOTIENTS and (len(xs) > 1 or kwargs.get("rounding_mode")):
        return secant.average if kwargs.get("rounding_mode") else division
    if len(xs) > 1:
        return secant.average
    if name in KINKS:
        bounds = KINKS[name](args, kwargs)
        return secant.average if any(torch.is_tensor(b) and b.numel() > 1 for b in bounds) else piecewise(*bounds)
    if name in SELECTIONS:
        return selection
    if name == "softmax":
        return secant.softmax if given(args, kwargs, 1, "dim") in (-1, xs[0].ndim - 1) else secant.average
    return next((rule for rule, names in RULES.items() if name in names), secant.average)


def piecewise(low, high=None, slope=1):
    """Linear between two kinks and flat outside, or linear beyond one: the part of each cell that is not flat."""

    def rule(pull, xs, y, cotangent, rows):
        (x,) = xs
        carried = torch.empty_like(cotangent)
        for left, right in cells(x, rows):
            torch.mul(cotangent[left], open_between(x[left], x[right], low, high), out=carried[left])
        return [carried if slope == 1 else carried.mul_(slope)]

    return rule


def open_between(left, right, low, high):
    """`secant.open_fraction` above one kink, less that above the next; in place, for memory is what takes the time."""
    most = torch.maximum(left, right)
    cell = (left - right).abs_().add_(secant.least(left))
    share = (most - low).div_(cell).clamp_(0, 1)
    return share if high is None else share.sub_(most.sub_(high).div_(cell).clamp_(0, 1))


def cells(x, rows):
    """(rows, their following ones) as slices of x: on CPU so few at a time that what arises of them stays in its cache.

    Whoever watches the operations, to compile them, is shown all of them at once.
    """
    step = len(x) // rows
    last = len(x) - step
    at_once = x.device.type != "cpu" or is_in_torch_dispatch_mode()
    many = max(1, last if at_once else CACHED // max(1, x[0].numel()))
    for first in range(0, last, many):
        end = min(first + many, last)
        yield slice(first, end), slice(first + step, end + step)
    yield slice(last, None), slice(last, None)


def maximum(both, moving, sign):
    """max(a, b): to each the part of the cell in which it wins."""
    places = [next((k for k, x in enumerate(moving) if x is own), None) for own in both]
    still = [None if k is not None else own.detach() for own, k in zip(both, places, strict=True)]

    def rule(pull, xs, y, cotangent, rows):
        a, b = (own if k is None else xs[k] for own, k in zip(still, places, strict=True))
        share = secant.open_fraction(sign * (a - b), rows)
        found = [None] * len(xs)
        for k, part in zip(places, (share, 1 - share), strict=True):
            if k is not None:
                carried = secant.summed(cotangent * part, xs[k])
                found[k] = carried if found[k] is None else found[k] + carried
        return found

    return rule


def division(pull, xs, y, cotangent, rows):
    return secant.divided(*xs, cotangent, rows)


def selection(pull, xs, y, cotangent, rows):
    def push(x, v):
        u = torch.zeros_like(y, requires_grad=True)
        with torch.enable_grad():
            (g,) = pull([x], u, create_graph=True)
            return torch.autograd.grad(g, u, v)[0]

    return [secant.selection(xs[0], y, cotangent, rows, lambda x, c: pull([x], c)[0], push)]


def by_place(places, axes, args, kwargs):
    """A maximum over windows, and its rule: `secant.selection` by the places of the winners, which are found once."""
    kwargs = {k: v for k, v in kwargs.items() if k not in ("input", "return_indices")}
    found = []

    def call(x):
        y, place = places(x, *args[1:], **kwargs)
        found[:] = [place]
        return y

    def rule(pull, xs, y, cotangent, rows):
        (x,), (place,) = xs, found
        flat, place, y, c = (a.flatten(-axes) for a in (x, place, y, cotangent))
        carried = torch.zeros_like(flat)
        for left, right in cells(flat, rows):
            lead = y[left] - flat[left].gather(-1, place[right])
            lag = flat[right].gather(-1, place[left]) - y[right]
            before = c[left] * secant.left_share(lead, lag)
            own = carried[left].scatter_add_(-1, place[left], before)
            own.scatter_add_(-1, place[right], before.neg_().add_(c[left]))
        return [carried.view_as(x)]

    return call, rule


def given(args, kwargs, place, name, default=None):
    """An argument, however it was handed over."""
    return args[place] if len(args) > place else kwargs.get(name, default)


def clipped(args, kwargs, names=("min", "max"), low=None, high=None):
    """The two bounds of a clipping, far away where there is none."""
    low, high = given(args, kwargs, 1, names[0], low), given(args, kwargs, 2, names[1], high)
    return -1e30 if low is None else low, 1e30 if high is None else high


# name: (the same with places, axes of a window)
PLACES = {
    name: (places, axes)
    for axes, places in enumerate((F.max_pool1d_with_indices, F.max_pool2d_with_indices, F.max_pool3d_with_indices), 1)
    for name in (f"max_pool{axes}d", f"_max_pool{axes}d")
}
# name: (arguments) -> low, high, and the slope between them where that is not 1
KINKS = {
    "relu6": lambda args, kwargs: (0.0, 6.0),
    "hardtanh": lambda args, kwargs: clipped(args, kwargs, ("min_val", "max_val"), -1.0, 1.0),
    "hardsigmoid": lambda args, kwargs: (-3.0, 3.0, 1 / 6),
    "clamp": clipped,
    "clip": clipped,
    "clamp_min": lambda args, kwargs: (given(args, kwargs, 1, "min"), 1e30),
    "clamp_max": lambda args, kwargs: (-1e30, given(args, kwargs, 1, "max")),
}
RULES = {
    secant.smooth: SMOOTH | QUOTIENTS,
    secant.kinked: KINKED,
    secant.hinge: {"leaky_relu", "abs", "absolute", "prelu", "_prelu_kernel", "rrelu"},
    piecewise(0.0): {"relu"},
}
LARGER = {"maximum": 1, "fmax": 1, "max": 1, "minimum": -1, "fmin": -1, "min": -1}  # of two tensors
