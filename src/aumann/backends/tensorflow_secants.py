"""Secants on TensorFlow: a graph whose operations are told, one by one, to carry cotangents back over cells.

The graph is the caller's own, so nothing of it is seen elsewhere or has to be undone. `_mark` writes into each
operation that moves and is not affine the name of a gradient, which is how TensorFlow differentiates graphs, bodies of
loops included, and with it where the rows are. `tf.gradients` then calls `_secant` in place of the operation's own
gradient:

    cotangent of y, rows first ──▶ rule(vjp, …, rows) ──▶ cotangent of x, rows back on their axis

where row k of all tensors stands for the cell from row k to row k + 1, whose right end the rule reads from the same
tensors shifted by one row. Cotangents are added up, and carried through affine operations, by TensorFlow as ever. vjp
creates the operation again at the points that the rule asks for, such as the middle of the cells; where the derivative
does not look at the result, that costs nothing, for TensorFlow prunes it. What each operation gets is in
`tensorflow_rules.py`.
"""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from aumann.backends import tensorflow_private as private
from aumann.backends import tensorflow_rows as rows_of
from aumann.backends import tensorflow_rules as rules
from aumann.backends.tensorflow_rows import BRANCHES, CALLS, LOOPS, rows_back, rows_first
from aumann.backends.tensorflow_rules import custom_gradient, is_float
from aumann.core import secant

NAME = "AumannSecant"
FIXED = -2  # in place of the axis of an input that does not move
_cells = threading.local()


def secants(fn: Callable, points: Sequence) -> tuple[Any, Sequence]:
    """fn(points) -> (rows, k) and, for each point and column, the cotangents over each row's cell."""
    private.require_what_secants_need()
    graph = tf.compat.v1.get_default_graph()
    before = {op.name for op in graph.get_operations()}
    values = fn(points)
    operations = [op for op in graph.get_operations() if op.name not in before]
    _cells.rows, _cells.known, _cells.composite_ops = tf.shape(points[0])[0], points[0].shape[0], {}
    try:
        row_axes = rows_of.spread(operations, {point.name: 0 for point in points}, _cells.known)
        _mark(operations, row_axes, _cells.known)
        columns = [tf.gradients(column, points) for column in tf.unstack(values, num=values.shape[1], axis=1)]
    finally:
        _cells.rows = _cells.known = _cells.composite_ops = None
    return values, [list(row) for row in zip(*columns, strict=True)]


def _mark(operations, row_axes, rows):
    """Marks the operations that something moving reaches, with the axis of the rows in their inputs and outputs."""
    for op in operations:
        axes, out_axes = rows_of.axes_of(row_axes, op.inputs), rows_of.axes_of(row_axes, op.outputs)
        if op.type == "StopGradient" or all(k is None for k in axes):
            continue
        if op.type in LOOPS and (body := private.LOOP_BODY.of(op)):  # traced with fn: no other graph runs it
            _mark(body.get_operations(), rows_of.entered(body, rows_of.looped(body, axes, rows), rows), rows)
        elif op.type in BRANCHES:
            for graph in rows_of.graphs_of(op):
                _mark(graph.get_operations(), rows_of.entered(graph, axes[1:], rows), rows)
        if op.type in LOOPS | BRANCHES:
            continue
        if composite_rule(op):
            _cells.composite_ops.update(((id(op.graph), x.name), k) for x, k in zip(op.inputs, axes, strict=True))
            continue
        moving = [k if is_float(x) else None for x, k in zip(op.inputs, axes, strict=True)]
        if rules.is_affine(op, axes) or all(k is None for k in moving) or not any(map(is_float, op.outputs)):
            continue
        if op.type.startswith("TensorList") or rows_of.is_blind(op, axes, out_axes):
            continue  # its rows are on an unknown axis: the derivative at the left end
        gradient, choosers = custom_gradient(op), [None if m == k else k for m, k in zip(moving, axes, strict=True)]
        private.set_attribute(op, "_aumann_axes", list=_integers(moving))
        private.set_attribute(op, "_aumann_out_axes", list=_integers(out_axes))
        private.set_attribute(op, "_aumann_choosers", list=_integers(choosers))
        private.set_attribute(op, "_aumann_ends", b=bool(gradient) or op.type in CALLS)
        if gradient:
            private.set_attribute(op, "_aumann_gradient", s=gradient)
        private.set_attribute(op, "_gradient_op_type", s=NAME.encode())


def _integers(axes):
    return tf.compat.v1.AttrValue.ListValue(i=[FIXED if k is None else k for k in axes])


def has_custom_gradient(operations: Sequence) -> bool:
    """Whether some operations bring a gradient of a user's own, as `tf.custom_gradient` makes them."""
    return any((custom_gradient(op) or b"").startswith(b"CustomGradient") for op in operations)


def composite_op(call: Callable, xs: Sequence, rule: str, rows: Any) -> Any:
    """call(*xs) as one operation with a rule of `core.secant`."""

    @tf.custom_gradient
    def composite(*xs):
        y = call(*xs)

        def carry(cotangent, variables=()):
            axes = [_cells.composite_ops.get((id(x.graph), x.name)) for x in xs]
            carried = _composite_carried(call, xs, axes, y, cotangent, rule, rows)
            return (carried, [None] * len(variables)) if variables else carried

        return y, carry

    y = composite(*xs)
    if not tf.executing_eagerly() and y.op.type == "IdentityN":
        private.set_attribute(y.op, "_aumann_composite", s=rule.encode())
    return y


def composite_rule(op: Any) -> str | None:
    """The rule that an operation was given by `composite_op`, or None."""
    return op.node_def.attr["_aumann_composite"].s.decode() if "_aumann_composite" in op.node_def.attr else None


def _composite_carried(call, xs, axes, y, cotangent, rule, rows):
    """The cotangents of a composite operation's inputs, None for those that do not move."""
    indices = [i for i, k in enumerate(axes) if k is not None]
    axes = [axes[i] for i in indices]
    out_axis = axes[0] if y.shape == xs[indices[0]].shape else 0

    def derivative(points, cotangent):
        moved = dict(zip(indices, points, strict=True))
        inputs = [moved.get(i, x) for i, x in enumerate(xs)]
        slopes = tf.gradients(call(*inputs), inputs, grad_ys=cotangent, unconnected_gradients="zero")
        return [slopes[i] for i in indices]

    def vjp(points, cotangent):
        points = [rows_back(x, k) for x, k in zip(points, axes, strict=True)]
        slopes = derivative(points, rows_back(cotangent, out_axis))
        return [rows_first(x, k) for x, k in zip(slopes, axes, strict=True)]

    if rows_of.LOST in axes:
        carried = derivative([xs[i] for i in indices], cotangent)
    else:
        moved = [rows_first(xs[i], k) for i, k in zip(indices, axes, strict=True)]
        y, cotangent = rows_first(y, out_axis), rows_first(cotangent, out_axis)
        carried = secant.RULES[rule](vjp, moved, y, cotangent, rows)
        carried = [rows_back(x, k) for x, k in zip(carried, axes, strict=True)]
    by_input = dict(zip(indices, carried, strict=True))
    return [by_input.get(i) for i in range(len(xs))]


@tf.RegisterGradient(NAME)
def _secant(op, *cotangents):
    """The gradient that is registered for all marked operations."""
    all_axes, out_axes = op.get_attr("_aumann_axes"), op.get_attr("_aumann_out_axes")
    indices = [i for i, k in enumerate(all_axes) if k != FIXED]
    axes = [all_axes[i] for i in indices]
    carried = dict(zip(indices, _carry(op, indices, axes, out_axes, cotangents, _cells.rows), strict=True))
    return [rows_back(carried.get(i), k) for i, k in enumerate(all_axes)]


def _carry(op, indices, axes, out_axes, cotangents, rows):
    """The cotangents of the inputs that move, rows first."""

    def moving(slopes):
        return [None if slopes[i] is None else rows_first(slopes[i], k) for i, k in zip(indices, axes, strict=True)]

    def back(cotangents):
        return [rows_back(c, k) for c, k in zip(cotangents, out_axes, strict=True)]

    def vjp(points, cotangent):
        moved = {i: rows_back(x, k) for i, x, k in zip(indices, points, axes, strict=True)}
        inputs = [moved.get(i, x) for i, x in enumerate(op.inputs)]
        cotangents = cotangent if isinstance(cotangent, (list, tuple)) else [cotangent]
        return moving(_derivative(_again(op, inputs), back(cotangents)))

    cotangents = [rows_first(c, k) for c, k in zip(cotangents, out_axes, strict=True)]
    if op.get_attr("_aumann_ends"):
        moves = [k != FIXED for k in out_axes]
        return secant.ends(lambda cotangents: moving(_derivative(op, back(cotangents))), cotangents, moves, rows)
    xs = [rows_first(op.inputs[i], k) for i, k in zip(indices, axes, strict=True)]
    if op.type == "TopKV2":
        return rules.top_k(op, xs[0], cotangents[0], rows)
    if choosers := {i: k for i, k in enumerate(op.get_attr("_aumann_choosers")) if k != FIXED}:
        return _chosen(op, indices, axes, choosers, out_axes, cotangents, rows, moving)
    if len(cotangents) > 1:
        return secant.average(vjp, xs, op.outputs, cotangents, rows)
    y = rows_first(op.outputs[0], out_axes[0])
    inputs = list(op.inputs)
    for i, x in enumerate(inputs):  # of an operation entry by entry also those that do not move
        k = axes[indices.index(i)] if i in indices else out_axes[0]
        inputs[i] = rows_first(x, k) if i in indices or x.shape.rank == y.shape.rank else x
    return rules.rule_of(op, indices, axes)(vjp, op, xs, indices, cotangents[0], rows, inputs, y)


def _chosen(op, indices, axes, choosers, out_axes, cotangents, rows, moving):
    """An operation that is affine once indices and conditions that move have chosen: `secant.choice`."""
    if len(op.outputs) > 1:
        return moving(_derivative(op, [rows_back(c, k) for c, k in zip(cotangents, out_axes, strict=True)]))

    def again(points, right):
        moved = {i: rows_back(x, k) for i, x, k in zip(indices, points, axes, strict=True)}
        for i, k in choosers.items():
            x = op.inputs[i]
            moved[i] = rows_back(secant.following(rows_first(x, k), rows), k) if right else x
        return _again(op, [moved.get(i, x) for i, x in enumerate(op.inputs)])

    def call(points, right):
        return rows_first(again(points, right).outputs[0], out_axes[0])

    def vjp(points, right, cotangent):
        return moving(_derivative(again(points, right), [rows_back(cotangent, out_axes[0])]))

    xs = [rows_first(op.inputs[i], k) for i, k in zip(indices, axes, strict=True)]
    return secant.choice(call, vjp, xs, cotangents[0], rows)


OURS = set("_aumann_axes _aumann_out_axes _aumann_choosers _aumann_ends _aumann_gradient _gradient_op_type".split())


def _again(op, inputs):
    """The operation on other inputs, as it was before it was marked."""
    attributes = {k: op.node_def.attr[k] for k in op.node_def.attr if k not in OURS}
    graph = tf.compat.v1.get_default_graph()
    return graph.create_op(op.type, list(inputs), [y.dtype for y in op.outputs], attrs=attributes, op_def=op.op_def)


def _derivative(op, cotangents):
    """The cotangents of all inputs by the operation's own gradient."""
    name = op.node_def.attr["_aumann_gradient"].s.decode() if "_aumann_gradient" in op.node_def.attr else op.type
    slopes = private.gradient(name)(op, *cotangents)
    return list(slopes) if isinstance(slopes, (list, tuple)) else [slopes]
