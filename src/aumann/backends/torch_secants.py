"""Secants on PyTorch: within a block, the operations of this thread carry cotangents back over cells.

A function mode sees every operation of tensors before it runs, inside Keras layers and foreign modules alike, and is
gone with the block, whatever happens. An operation that moves and is not known to be affine runs as a function with a
backward of its own, `_Operation`:

    forward     y = call(xs), as ever; xs and y are saved
    backward    dF/dy of the rows -> rule(vjp, xs, y, dF/dy, rows): dF/dx of the rows, where row k stands for the cell
                from row k to row k + 1, whose right end the rule reads from the saved tensors shifted by one row

Autograd then does the rest: it adds up cotangents and passes through affine operations, whose derivative at the left
end is the one all over the cell. An operation without a rule is differentiated at the average of the ends of each cell.
What each operation gets is in `torch_rules.py`.
"""

import contextlib
import functools
import threading
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from aumann.backends import torch_private as private
from aumann.backends import torch_rules as rules
from aumann.backends.torch_rules import is_float
from aumann.core import secant

ATTRIBUTES = set(  # what is no operation
    "__get__ __set__ __len__ size dim numel is_contiguous item numpy requires_grad_ register_hook retain_grad stride "
    "storage_offset element_size data_ptr is_floating_point is_complex __repr__ __format__ __hash__ __bool__ __float__ "
    "__int__ __index__ tolist __array__ __dlpack__ __dlpack_device__ untyped_storage nelement ndimension get_device "
    "is_same_size result_type can_cast is_tensor is_nonzero equal allclose broadcast_shapes _set_grad_enabled".split()
)
# Affine operations of which another operand, a mask or an index, may move: it does so in steps.
GATED = {"where", "masked_fill", "gather", "take_along_dim"}
# Entry by entry: the other operand's row belongs to the same path point, also where its gradient was stopped.
ENTRYWISE = {"mul", "multiply", "__mul__", "__rmul__", "addcmul", "lerp"} | rules.QUOTIENTS
GRADIENTS = {"grad", "backward"}


class Secants(TorchFunctionMode):
    """A block in which operations carry cotangents back over cells.

    Args:
        rows: path points in the batch.
        survey: notes which kinds of operations there are (`torch_survey.py`), where that is asked for.
    """

    def __init__(self, rows: int, survey: Any = None) -> None:
        super().__init__()
        private.require_what_secants_need()
        self.rows, self.survey = rows, survey
        self.exact = False  # while a gradient is taken inside the model: that is a derivative, not a secant
        self.saved, self.reached = [], {}  # what operations saved; which nodes of the graph lead back to the points

    def __enter__(self):
        _thread.blocks.append(self)
        return super().__enter__()

    def __exit__(self, *exception):
        _thread.blocks.pop()
        self.saved, self.reached = [], {}
        return super().__exit__(*exception)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = name_of(func)
        if self.survey:
            self.survey.look_at(name, args)
        if name in ATTRIBUTES or private.in_functorch():
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
        norm = name == "batch_norm" and rules.is_training(args, kwargs)
        if name in rules.AFFINE and name not in GATED and not norm:
            return func(*args, **kwargs)
        leaves, spec = private.flatten((args, kwargs))
        indices = self.moving(leaves)
        if indices and name in GATED:
            return self._gated(func, args, kwargs, leaves, spec, indices)
        if indices and name in ENTRYWISE:
            first = leaves[indices[0]]
            indices = [i for i, x in enumerate(leaves) if i in indices or (is_float(x) and same_rows(x, first))]
        if not indices or rules.affine(name, indices, leaves):
            return func(*args, **kwargs)
        return self._carried(func, name, args, kwargs, leaves, spec, indices)

    def _carried(self, func, name, args, kwargs, leaves, spec, indices):
        """The operation with a rule of its own for the way back, rows being moved to the first axis for it."""
        xs, axis = [leaves[i] for i in indices], axis_of(name, args)
        if axis and all(x.ndim > axis for x in xs):
            xs = [x.movedim(axis, 0) for x in xs]
        if not all(fits(x, self.rows) for x in xs):
            return func(*args, **kwargs)  # rows are not its first axis: the derivative at the left end

        for i in indices:
            leaves[i] = None

        def call(*xs):
            moved = dict(zip(indices, (x.movedim(0, axis) for x in xs) if axis else xs, strict=True))
            args, kwargs = private.unflatten([moved.get(i, x) for i, x in enumerate(leaves)], spec)
            return func(*args, **kwargs)

        rule = rules.rule_of(name, args, kwargs, xs)
        if name in rules.POOLS and len(xs) == 1 and not kwargs.get("return_indices"):
            call, rule = rules.by_place(*rules.POOLS[name], (None, *args[1:]), kwargs)
        return apply(call, rule, self.rows, xs)

    def _gated(self, func, args, kwargs, leaves, spec, indices):
        """The mean of the derivatives at both ends of the cell, by the masks and indices at each end."""
        xs = [leaves[i] for i in indices]
        steps = [i for i, x in enumerate(leaves) if torch.is_tensor(x) and not is_float(x) and same_rows(x, xs[0])]
        if not steps or not all(fits(x, self.rows) for x in xs):
            return func(*args, **kwargs)
        for i in indices:
            leaves[i] = None
        rows = self.rows

        def at(gates):
            def call(*xs):
                moved = dict(zip((*indices, *steps), (*xs, *gates()), strict=True))
                args, kwargs = private.unflatten([moved.get(i, x) for i, x in enumerate(leaves)], spec)
                return func(*args, **kwargs)

            return call

        gates = [leaves[i] for i in steps]
        left, right = at(lambda: gates), at(lambda: [secant.following(x, rows) for x in gates])

        def rule(vjp, xs, y, cotangent, rows):
            ends = vjp(xs, cotangent), _Vjp(lambda *xs: [right(*xs)])(xs, cotangent)
            return [0.5 * (a + b) for a, b in zip(*ends, strict=True)]

        return apply(left, rule, rows, xs)

    def moving(self, leaves: Sequence) -> list[int]:
        """Which of these move: what has a derivative, unless it is made of parameters alone."""
        indices = [i for i, x in enumerate(leaves) if torch.is_tensor(x) and x.requires_grad and not x.is_leaf]
        if len(indices) > 1:
            indices = [i for i in indices if self._reaches(leaves[i].grad_fn)]
        return indices

    def _reaches(self, node):
        """Whether a node of the graph leads back to the points; without recursion, for graphs are deep."""
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
        """An operation in place: its twin makes a new tensor, which is copied over the old one."""
        base = base_of(name)
        leaves, _ = private.flatten((args, kwargs))
        indices = self.moving(leaves)
        native = not indices or (base in rules.AFFINE and base != "batch_norm") or rules.affine(base, indices, leaves)
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
        overwritten_memory = memory(target)
        for ctx, memories, saved in self.saved:
            if overwritten_memory in memories and ctx.kept is None:
                saved = ctx.saved_tensors if saved is None else saved
                ctx.kept = [x.detach().clone() if memory(x) == overwritten_memory else x.detach() for x in saved]


class _Thread(threading.local):
    def __init__(self):
        self.blocks = []


_thread = _Thread()


def block() -> Secants | None:
    """The innermost block of this thread, or None."""
    return _thread.blocks[-1] if _thread.blocks else None


def name_of(func: Any) -> str:
    """One name for all the ways to call an operation."""
    return getattr(func, "__name__", "").split(".")[0].removeprefix("special_")


def base_of(name: str) -> str:
    """The name of the twin of an operation in place: add of add_, __pow__ of __ipow__."""
    if name.startswith("__i") and name.endswith("__") and name not in ("__invert__", "__index__", "__int__"):
        return {"__idiv__": "div", "__itruediv__": "div"}.get(name, name.replace("__i", "__", 1))
    return name if name.endswith("__") else name.removesuffix("_")


def overwritten(name: str, args: Sequence, kwargs: dict) -> Any:
    """The tensor that an operation overwrites, or None."""
    if name == "__setitem__" or base_of(name) != name or kwargs.get("inplace") is True:
        return args[0] if args and torch.is_tensor(args[0]) else kwargs.get("input")
    return None


@functools.cache
def twin_of(name: str) -> Callable | None:
    """The operation that makes a new tensor, of one in place; None where there is none."""
    base = base_of(name)
    homes = torch.Tensor, torch, F, private.FUNCTIONS_OF_NN.value
    return next((getattr(home, base) for home in homes if hasattr(home, base)), None)


def axis_of(name: str, args: Sequence) -> int:
    """The axis of the rows: 1 for operations that have the axis of time before it."""
    if name in ("lstm", "gru", "rnn_tanh", "rnn_relu"):
        return 0 if args[-1] is True else 1
    return int(name == "multi_head_attention_forward")


def fits(x: Any, rows: int) -> bool:
    """Whether the first axis of a tensor may be that of the rows, or of m rows of its own for each of them."""
    return bool(x.layout is torch.strided and x.ndim and len(x) and not len(x) % rows and is_float(x))


def same_rows(x: Any, other: Any) -> bool:
    """Whether the rows of x are those of another tensor, both being operands of an operation entry by entry."""
    return torch.is_tensor(x) and x.ndim == other.ndim and x.ndim and len(x) == len(other)


def composite_op(call: Callable, xs: Sequence, rule: str, rows: Any) -> Any:
    """call(*xs) as one operation with a rule of `core.secant`: smooth, unless it is a rule for kinks."""
    indices = [i for i, x in enumerate(xs) if x.requires_grad]
    moving = [xs[i] for i in indices]
    if not moving or private.in_functorch() or not all(fits(x, rows) for x in moving):
        return call(*xs)

    def run(*moving):
        moved = dict(zip(indices, moving, strict=True))
        return call(*(moved.get(i, x) for i, x in enumerate(xs)))

    return apply(run, secant.RULES[rule], rows, moving, quiet=rule not in secant.WITH_KINKS)


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


FED = type(_Fed.apply(torch.zeros(1, requires_grad=True))[0].grad_fn)  # what ends the graph behind the points


def feed(points: Sequence) -> list:
    return list(_Fed.apply(*points))


def apply(call: Callable, rule: Callable, rows: int, xs: Sequence, quiet: bool | None = None) -> Any:
    """call(*xs), a tensor or a structure of tensors and others, with a rule for its way back.

    Args:
        quiet: whether a survey is to take the operation for smooth, whatever it is made of.
    """
    quiet = rule in (secant.smooth, secant.softmax) if quiet is None else quiet
    structure = []

    def flat(*xs):
        leaves, spec = private.flatten(call(*xs))
        structure[:] = [spec]
        return tuple(leaves)

    leaves = _Operation.apply(flat, rule, rows, quiet, *xs)
    return private.unflatten(list(leaves), structure[0])


class _Operation(torch.autograd.Function):
    """An operation whose way back is a rule over cells.

    Rows k and k + 1 of xs and y are the two ends of row k's cell. The rule pairs them by shifting (`secant.following`),
    and the cotangent of row k that it returns is for that cell alone: rows of a batch do not mix.
    """

    @staticmethod
    def forward(ctx, call, rule, rows, quiet, *xs):
        ctx.set_materialize_grads(False)
        ctx.block = block()
        survey = ctx.block.survey if ctx.block else None
        with survey.carries(xs, quiet) if survey else contextlib.nullcontext():
            ys = call(*xs)
            memories = set(map(memory, xs))
            ys = tuple(y.clone() if is_float(y) and memory(y) in memories else y for y in ys)
            ctx.floats = [i for i, y in enumerate(ys) if is_float(y)]
            saved = [*(ys[i] for i in ctx.floats), *xs]
            ctx.save_for_backward(*saved)
            ctx.about, ctx.kept = (call, rule, rows), None
            if ctx.block:
                # a checkpoint's hooks are not to be asked yet for what they were handed
                kept = [x.detach() for x in saved] if private.saved_tensors_hooked() else None
                ctx.block.saved.append((ctx, set(map(memory, saved)), kept))
        return ys

    @staticmethod
    def backward(ctx, *cotangents):
        call, rule, rows = ctx.about
        saved = ctx.saved_tensors if ctx.kept is None else ctx.kept
        ys, xs = saved[: len(ctx.floats)], saved[len(ctx.floats) :]
        cotangents = [cotangents[i] for i in ctx.floats]
        if all(c is None for c in cotangents):
            return None, None, None, None, *[None] * len(xs)
        cotangents = [torch.zeros_like(y) if c is None else c for y, c in zip(ys, cotangents, strict=True)]
        with private.no_function_modes():
            if ctx.block and ctx.block.exact:
                carried = _derivative(call, xs, cotangents)
            elif not all(fits(y, rows) for y in ys):
                carried = secant.average(_Vjp(call), xs, ys, cotangents, rows)
            elif len(ys) == 1 or rule is rules.selection:
                carried = rule(_Vjp(call), xs, ys[0], cotangents[0], rows)
            else:
                carried = secant.average(_Vjp(call), xs, ys, cotangents, rows)
        return None, None, None, None, *carried


def memory(x: Any) -> int:
    """What tells the memory of a tensor from others, as long as both are there."""
    with private.no_function_modes():
        return private.storage_id(x.untyped_storage())


def _derivative(call, xs, cotangents):
    """By the derivative itself, which may be differentiated again."""
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad():
        points = xs if create_graph else [x.detach().requires_grad_() for x in xs]
        return _vjp(call, points, cotangents, create_graph)


def _vjp(call, points, cotangents, create_graph):
    ys = [y for y in call(*points) if is_float(y)]
    pairs = [(y, c) for y, c in zip(ys, cotangents, strict=False) if y.requires_grad]
    if not pairs:  # made of steps
        return [torch.zeros_like(p) for p in points]
    ys, cotangents = zip(*pairs, strict=True)
    slopes = torch.autograd.grad(ys, points, cotangents, create_graph=create_graph, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(points, slopes, strict=True)]


class _Vjp:
    """(points, cotangent or one for each tensor of the result) -> cotangents by the operation's own derivative."""

    def __init__(self, call):
        self.call = call

    def __call__(self, points, cotangent, create_graph=False):
        cotangents = [cotangent] if torch.is_tensor(cotangent) else cotangent
        with torch.enable_grad():
            points = [p.detach().requires_grad_() for p in points]
            return _vjp(self.call, points, cotangents, create_graph)
