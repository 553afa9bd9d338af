"""Which axis of a tensor counts the rows of the batch, on TensorFlow: followed from operation to operation.

An axis counts the rows if its index is row · m + j for some m ≥ 1: a batch of sequences that is reshaped to a batch
of words still does. Graphs are traced for any number of rows, so that it is an axis of unknown length. Where no axis
counts them, or where it is not known which, the axis is LOST.

A tensor moves if a moving input leads to it; of one that does not move there is no axis, which is written None.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import tensorflow as tf

from aumann.backends import tensorflow_private as private

Axes = list[int | None]

LOST = -1
LISTS = {"TensorListFromTensor": -1, "TensorListStack": 1}  # what becomes of the number of axes before the rows
# Operations that look at the shape of a tensor alone.
SHAPES = set(
    "Shape ShapeN Size Rank TensorListLength TensorListElementShape TensorListReserve EmptyTensorList ZerosLike "
    "OnesLike VariableShape".split()
)
LOOPS = {"While", "StatelessWhile"}
BRANCHES = {"If", "StatelessIf", "Case", "StatelessCase"}
CALLS = {"PartitionedCall", "StatefulPartitionedCall"}


def spread(operations: Iterable, row_axes: dict, rows: int | None, through: bool = False) -> dict:
    """{name of a tensor: axis of the rows}, with all that the tensors lead to which are there already.

    With `through`, also what moves while its gradient is stopped.
    """
    for op in operations:
        axes = axes_of(row_axes, op.inputs)
        stopped = op.type == "StopGradient" and (not through or is_maximum(op.inputs[0]))
        if not stopped and any(k is not None for k in axes):
            out_axes = _followed(op, axes, rows, through)
            row_axes.update((y.name, k) for y, k in zip(op.outputs, out_axes, strict=True) if k is not None)
    return row_axes


def axes_of(row_axes: dict, tensors: Iterable) -> Axes:
    return [row_axes.get(x.name) for x in tensors]


def _followed(op, axes, rows, through):
    """The axis of the rows in each output of an operation."""
    if op.type in LOOPS and (body := graphs_of(op)):
        return looped(body[0], axes, rows, through)
    if op.type in BRANCHES and (branches := graphs_of(op)):
        each = [_inside(graph, axes[1:], rows, through) for graph in branches]
        return [joined(of_one) for of_one in zip(*each, strict=True)]
    return follow(op, axes, rows)


def is_maximum(x: Any) -> bool:
    """Whether x is a maximum, or 0 where that is not finite. With its gradient stopped it is what a softmax subtracts
    from its exponents, and changes nothing.
    """
    if x.op.type in ("Select", "SelectV2") and x.op.inputs[0].op.type == "IsFinite":
        return is_maximum(x.op.inputs[1])
    return x.op.type == "Max"


def _inside(graph, axes, rows, through):
    return axes_of(entered(graph, axes, rows, through), graph.outputs)


def entered(graph: Any, axes: Sequence, rows: int | None, through: bool = False) -> dict:
    """{name of a tensor: axis of the rows} in the body of an operation whose inputs have these axes."""
    inputs = {x.name: k for x, k in zip(graph.inputs, axes, strict=False) if k is not None}
    return spread(graph.get_operations(), inputs, rows, through)


def looped(body: Any, axes: Axes, rows: int | None, through: bool = False) -> Axes:
    """The axes of what a loop carries, after any number of turns."""
    while True:
        grown = [joined(two) for two in zip(axes, _inside(body, axes, rows, through), strict=True)]
        if grown == axes:
            return axes
        axes = grown


def graphs_of(op: Any) -> list:
    """The graphs that an operation runs: the branches of a choice, the body of a loop and its condition, or one."""
    if op.type in BRANCHES:
        return private.branch_graphs(op)
    return private.loop_graphs(op) if op.type in LOOPS else private.called_graphs(op)


def is_blind(op: Any, axes: Axes, out_axes: Axes) -> bool:
    """Whether the rows cannot be told apart in the inputs or in the outputs of an operation."""
    return LOST in axes or LOST in out_axes or op.type in LOOPS | BRANCHES


def rows_first(x: Any, k: int) -> Any:
    """x with axis k moved to the front."""
    return x if x is None or k <= 0 else tf.transpose(x, [k, *(a for a in range(x.shape.rank) if a != k)])


def rows_back(x: Any, k: int) -> Any:
    """x with its first axis moved back to k."""
    return x if x is None or k <= 0 else tf.transpose(x, [*range(1, k + 1), 0, *range(k + 1, x.shape.rank)])


def follow(op: Any, axes: Axes, rows: int | None) -> Axes:
    """The axis of the rows in each output of an operation without a body of its own.

    Args:
        axes: for each input the axis, LOST, or None for one that does not move.
        rows: how many there are, or None where the graph takes any number.
    """
    if op.type in SHAPES:
        return [None] * len(op.outputs)
    if op.type == "IdentityN":
        return axes
    moving = [(i, k) for i, k in enumerate(axes) if k is not None]
    return [joined(_one(op, i, k, y, rows) for i, k in moving) for y in op.outputs]


def joined(axes: Iterable[int | None]) -> int | None:
    """The axis that several agree on; None of several that do not move."""
    distinct = {k for k in axes if k is not None}
    return distinct.pop() if len(distinct) == 1 else LOST if distinct else None


def _one(op, i, k, y, rows):
    if k == LOST:
        return LOST
    if y.dtype == tf.variant or op.type.startswith("TensorList"):
        return max(k + LISTS.get(op.type, 0), LOST)
    shape, out = (None if x.shape.rank is None else x.shape.as_list() for x in (op.inputs[i], y))
    if shape is None or out is None or k >= len(shape):
        return LOST
    axis = {"Transpose": _transpose, "Reshape": _reshape}.get(op.type, _alike)(op, k, shape, out, rows)
    return axis if 0 <= axis < len(out) else LOST


def _alike(op, k, shape, out, rows):
    unknown = [j for j, n in enumerate(out) if n is None]
    if shape[k] is None and len(unknown) == 1:
        return unknown[0]
    if len(out) == len(shape) and out[k] == shape[k]:
        return k
    return 0 if k == 0 and out and out[0] == shape[0] else LOST


def _transpose(op, k, shape, out, rows):
    order = tf.get_static_value(op.inputs[1])
    return _alike(op, k, shape, out, rows) if order is None else list(order).index(k)


def _reshape(op, k, shape, out, rows):
    """Axis k stays the first of a group of axes if as many entries stand before it as before."""
    if None in shape[:k]:
        return LOST
    before = math.prod(shape[:k])
    fits = [j for j in range(len(out)) if None not in out[:j] and math.prod(out[:j]) == before]
    fits = [j for j in fits if out[j] is None or (rows and shape[k] is not None and out[j] % rows == 0)]
    return next((j for j in fits if out[j] == shape[k]), fits[0] if fits else LOST)
