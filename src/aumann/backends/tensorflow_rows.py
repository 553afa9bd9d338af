"""Which axis of a tensor counts the rows of the batch, on TensorFlow: followed from operation to operation.

An axis counts the rows if its index is row · m + j for some m ≥ 1: a batch of sequences that is reshaped to a batch
of words still does. Graphs are traced for any number of rows, so that it is an axis of unknown length. Where no axis
counts them, or where it is not known which, the axis is LOST.
"""

import math

import tensorflow as tf

LOST = -1
LISTS = {"TensorListFromTensor": -1, "TensorListStack": 1}  # what becomes of the number of axes before the rows
# Operations that look at the shape of a tensor alone.
SHAPES = set(
    "Shape ShapeN Size Rank TensorListLength TensorListElementShape TensorListReserve EmptyTensorList ZerosLike "
    "OnesLike VariableShape".split()
)


def follow(op, axes, rows):
    """The axis of the rows in each output of an operation without a body of its own.

    Args:
        axes: for each input the axis, LOST, or None for one that does not move.
        rows: how many there are, or None where the graph takes any number.
    """
    if op.type in SHAPES:
        return [None] * len(op.outputs)
    if op.type == "IdentityN":
        return axes
    here = [(i, k) for i, k in enumerate(axes) if k is not None]
    return [joined(_one(op, i, k, y, rows) for i, k in here) for y in op.outputs]


def joined(axes):
    """The axis that several agree on; None of several that do not move."""
    found = {k for k in axes if k is not None}
    return found.pop() if len(found) == 1 else LOST if found else None


def _one(op, i, k, y, rows):
    if k == LOST:
        return LOST
    if y.dtype == tf.variant or op.type.startswith("TensorList"):
        return max(k + LISTS.get(op.type, 0), LOST)
    shape, out = (None if x.shape.rank is None else x.shape.as_list() for x in (op.inputs[i], y))
    if shape is None or out is None or k >= len(shape):
        return LOST
    found = {"Transpose": _transpose, "Reshape": _reshape}.get(op.type, _alike)(op, k, shape, out, rows)
    return found if 0 <= found < len(out) else LOST


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
