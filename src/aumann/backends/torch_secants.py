"""Secants on PyTorch: within a block, the operations of this thread carry cotangents back over cells.

A function mode sees every operation of tensors before it runs, inside Keras layers and foreign modules alike, and is
gone with the block, whatever happens. An operation that moves and is not known to be affine runs as a function with a
backward of its own; one without a rule of its own is differentiated at the average of the ends of each cell.
"""

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from aumann.core import secant

CACHED = 1 << 19  # numbers of an array: the three or four that a rule holds at a time stay in the cache
ATTRIBUTES = set(  # what is no operation
    "__get__ __set__ __len__ size dim numel is_contiguous item numpy requires_grad_".split()
)
SMOOTH = set(
    "exp exp2 log log1p log2 log10 expm1 tanh sigmoid softplus softsign erf erfc sqrt rsqrt square pow __pow__ "
    "__rpow__ reciprocal __rdiv__ __rtruediv__ sin cos tan sinh cosh asinh acosh atanh asin acos atan arctan silu gelu "
    "mish logsigmoid log_sigmoid tanhshrink".split()
)
KINKED = {"elu", "selu", "celu", "hardswish", "softshrink", "hardshrink", "threshold"}
# Operations that are affine in whatever moves: differentiated as ever.
AFFINE = set(
    "add sub subtract rsub __add__ __radd__ __sub__ __rsub__ neg negative __neg__ sum mean reshape view permute "
    "transpose swapaxes swapdims movedim moveaxis t flatten unflatten squeeze unsqueeze expand expand_as broadcast_to "
    "cat concat concatenate stack hstack vstack split split_with_sizes tensor_split chunk unbind narrow select "
    "__getitem__ index_select gather take_along_dim take to float double half bfloat16 type contiguous clone detach "
    "pad flip roll tile repeat repeat_interleave cumsum avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d "
    "adaptive_avg_pool2d adaptive_avg_pool3d interpolate dropout alpha_dropout masked_fill tril triu diagonal "
    "diag_embed unfold fold pixel_shuffle pixel_unshuffle as_strided view_as reshape_as ravel type_as zero_ add_ sub_ "
    "fill_ copy_ __iadd__ __isub__ batch_norm positive real imag as_subclass".split()
)
# Operations that are affine as long as one operand moves.
PRODUCTS = set(
    "mul multiply __mul__ __rmul__ mul_ __imul__ matmul __matmul__ __rmatmul__ mm bmm mv dot inner outer einsum "
    "tensordot linear addmm baddbmm conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d "
    "convolution bilinear kron".split()
)
QUOTIENTS = {"div", "divide", "true_divide", "__truediv__", "__div__", "div_", "__itruediv__"}
SELECTIONS = set(
    "max_pool1d max_pool2d max_pool3d _max_pool1d _max_pool2d _max_pool3d amax amin adaptive_max_pool1d "
    "adaptive_max_pool2d adaptive_max_pool3d".split()
)


OTHERS = set(  # that have kinks too
    "relu leaky_relu rrelu prelu abs absolute maximum minimum max min clamp_min clamp_max sign floor ceil round sort "
    "topk amin fmax fmin median trunc fmod remainder norm __gt__ __ge__ __lt__ __le__ gt ge lt le greater "
    "greater_equal less less_equal".split()
)


class Secants(TorchFunctionMode):
    """A block in which operations carry cotangents back over cells.

    Args:
        rows: path points in the batch.
    """

    def __init__(self, rows):
        super().__init__()
        self.rows = rows

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in ATTRIBUTES or name in AFFINE or not torch.is_grad_enabled():
            return func(*args, **kwargs)
        leaves, spec = pytree.tree_flatten((args, kwargs))
        here = [i for i, x in enumerate(leaves) if torch.is_tensor(x) and x.requires_grad and x.is_floating_point()]
        if not here or affine(name, here):
            return func(*args, **kwargs)
        if any(not leaves[i].ndim or not len(leaves[i]) or len(leaves[i]) % self.rows for i in here):
            return func(*args, **kwargs)  # rows are not its first axis: the derivative at the left end

        def call(*moving):
            given = dict(zip(here, moving, strict=True))
            args, kwargs = pytree.tree_unflatten([given.get(i, x) for i, x in enumerate(leaves)], spec)
            return func(*args, **kwargs)

        if name in PLACES:
            call, rule = by_place(*PLACES[name], args, kwargs)
        else:
            rule = rule_of(name, leaves, here)
        if rule is secant.average and not differentiable(call, [leaves[i] for i in here], name):
            return func(*args, **kwargs)
        return _Operation.apply(call, rule, self.rows, *(leaves[i] for i in here))


class _Names(TorchFunctionMode):
    """A block in which the operations that something moving passes are noted by name."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_function__(self, func, types, args=(), kwargs=None):
        leaves, _ = pytree.tree_flatten((args, kwargs or {}))
        if any(torch.is_tensor(x) and x.requires_grad for x in leaves):
            name = getattr(func, "__name__", "")
            self.names.add(name if name.endswith("__") else name.rstrip("_"))
        return func(*args, **kwargs or {})


def kinked(fn, points):
    """Whether something that moves passes a kink on its way through fn, which is run."""
    with torch.enable_grad(), _Names() as seen:
        fn([p.detach().requires_grad_() for p in points])
    return not seen.names.isdisjoint(KINKED | SELECTIONS | KINKS.keys() | OTHERS)


def operate(call, xs, rule, rows):
    """call(*xs) as one operation with a rule of `core.secant`."""
    return _Operation.apply(call, secant.RULES[rule], rows, *xs)


def affine(name, here):
    """Whether an operation is affine in what moves, these leaves of its arguments; one of AFFINE always is."""
    return len(here) == 1 and (name in PRODUCTS or (name in QUOTIENTS and here == [0]))


def differentiable(call, xs, name):
    """Whether an operation that is not known at all makes one tensor that has a derivative, and changes none."""
    if name.endswith("_") and not name.endswith("__"):
        return False
    with torch.no_grad():
        y = call(*xs)
    return torch.is_tensor(y) and y.is_floating_point()


class _Operation(torch.autograd.Function):
    @staticmethod
    def forward(ctx, call, rule, rows, *xs):
        y = call(*xs)
        ctx.save_for_backward(y, *xs)
        ctx.about = call, rule, rows
        return y

    @staticmethod
    def backward(ctx, cotangent):
        call, rule, rows = ctx.about
        y, *xs = ctx.saved_tensors
        return None, None, None, *rule(_Pull(call), xs, y, cotangent, rows)


class _Pull:
    """(points, cotangent) -> cotangents by the operation's own derivative."""

    def __init__(self, call):
        self.call = call

    def __call__(self, points, cotangent, create_graph=False):
        with torch.enable_grad():
            points = [p.detach().requires_grad_() for p in points]
            y = self.call(*points)
            if not y.requires_grad:  # made of steps
                return [torch.zeros_like(p) for p in points]
            found = torch.autograd.grad(y, points, cotangent, create_graph=create_graph, allow_unused=True)
        return [torch.zeros_like(p) if g is None else g for p, g in zip(points, found, strict=True)]


# ---- the rules: (pull, inputs that move, output, cotangent, rows) -> the cotangents of those -------------------------


def rule_of(name, leaves, here):
    """The rule of an operation on these arguments."""
    one = len(here) == 1
    if name in ("maximum", "minimum"):
        return maximum(leaves, here, 1 if name == "maximum" else -1)
    if one and name in KINKS:
        return piecewise(*KINKS[name](leaves))
    if one and name in SELECTIONS:
        return selection
    if not one and name in QUOTIENTS:
        return division
    last = -1, leaves[0].ndim - 1
    if name == "softmax" and one and next((x for x in leaves[1:] if isinstance(x, int)), None) in last:
        return secant.softmax
    return next((rule for rule, names in RULES.items() if one and name in names), secant.average)


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


def maximum(leaves, here, sign):
    """max(a, b): to each the part of the cell in which it wins."""
    a, b = (x.detach() for x in leaves[:2])

    def rule(pull, xs, y, cotangent, rows):
        share = secant.open_fraction(sign * (a - b), rows)
        return [secant.summed(cotangent * (1 - share if i else share), leaves[i]) for i in here]

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


def bounds(leaves):
    """The two bounds of a clipping, far away where there is none."""
    low, high = [*leaves[1:3], None, None][:2]
    return -1e30 if low is None else low, 1e30 if high is None else high


# name: (the same with places, axes of a window)
PLACES = {
    name: (places, axes)
    for axes, places in enumerate((F.max_pool1d_with_indices, F.max_pool2d_with_indices, F.max_pool3d_with_indices), 1)
    for name in (f"max_pool{axes}d", f"_max_pool{axes}d")
}
# name: (leaves of the arguments) -> low, high, and the slope between them where that is not 1
KINKS = {
    "relu6": lambda leaves: (0.0, 6.0),
    "hardtanh": lambda leaves: bounds(leaves) if len(leaves) > 2 else (-1.0, 1.0),
    "hardsigmoid": lambda leaves: (-3.0, 3.0, 1 / 6),
    "clamp": bounds,
    "clip": bounds,
}
RULES = {
    secant.smooth: SMOOTH | QUOTIENTS,
    secant.kinked: KINKED,
    secant.hinge: {"leaky_relu", "abs", "absolute"},
    piecewise(0.0): {"relu"},
}
