"""What can be told of a function on TensorFlow before it is explained: kinks, and what does not carry secants.

The function is traced, and the operations between its moving inputs and its outputs are classified by their types. A
type that stands in no table may hide a kink: the tables name what is smooth, and nothing passes for smooth because it
was forgotten.
"""

from collections.abc import Callable, Sequence

import tensorflow as tf

from aumann.backends import tensorflow_private as private
from aumann.backends import tensorflow_rows as rows_of
from aumann.backends import tensorflow_rules as rules
from aumann.backends.tensorflow_rows import BRANCHES, CALLS, LOOPS
from aumann.backends.tensorflow_rules import is_float
from aumann.backends.tensorflow_secants import composite_rule
from aumann.core import secant

FINITE = {"IsFinite", "IsNan", "IsInf"}


def has_kinks(fn: Callable, points: Sequence) -> bool | None:
    """Whether something that moves passes a kink on its way through fn, which is only traced; None if hidden."""
    private.require_what_secants_need()
    for rows in (None, 3):  # a number that is no other axis's tells the rows as well as one that is not known
        try:
            graph = _traced(fn, [[rows, *p.shape[1:]] for p in points], points)
            break
        except Exception:  # a function that asks for the number of rows, or has it in it
            continue
    else:
        rows = points[0].shape[0]
        graph = _traced(fn, [p.shape for p in points], points)
    row_axes = rows_of.entered(graph, [0] * len(points), rows, True)  # inputs after the points are captured
    words = _kinks(graph, row_axes, rows)
    if not words & {"kink", "hidden"}:
        return False
    return None if "blind" in words or "kink" not in words else True


def _traced(fn, shapes, points):
    specs = [tf.TensorSpec(shape, p.dtype) for shape, p in zip(shapes, points, strict=True)]
    return tf.function(fn, autograph=False).get_concrete_function(specs).graph


def _kinks(graph, row_axes, rows):
    """What stands between the inputs that move and the outputs of a graph, in three words.

    "kink": a kink or a step; "hidden": an operation that may have one; "blind": one that is not affine and whose rows
    are on an unknown axis, so that secants do not see it.

    From the outputs backwards, each operation is one whose results are `needed`, one `within` a composite operation
    that is looked at for what it is made of, or one `veiled` by a custom gradient, which is what counts then.
    """
    needed, veiled, within, told = {y.name for y in graph.outputs}, set(), set(), set()
    for op in reversed(graph.get_operations()):
        wanted = [y.name in needed for y in op.outputs]
        inside = not any(wanted) and any(y.name in within for y in op.outputs)
        if not (any(wanted) or inside or any(y.name in veiled for y in op.outputs)):
            continue
        if op.type == "StopGradient" and rows_of.is_maximum(op.inputs[0]):
            continue
        axes, rule = rows_of.axes_of(row_axes, op.inputs), composite_rule(op)
        inputs = {x.name for x in op.inputs}
        if rules.custom_gradient(op) and op.type == "IdentityN" and any(wanted):  # results, then what they are made of
            results = {x.name for x, is_wanted in zip(op.inputs, wanted, strict=True) if is_wanted}
            inputs -= results
            if rule == "average":  # any other composite operation is told by its rule alone
                within |= results
            elif not rule:
                veiled |= results
        (needed if any(wanted) else within if inside else veiled).update(inputs)
        if any(k is not None for k in axes):
            words = _words(op, axes, rows_of.axes_of(row_axes, op.outputs), rule, rows)
            if inside:  # a composite operation, whose rows are known
                words = words - {"blind"}
            told |= words if any(wanted) or inside or "kink" not in words else {"hidden", "blind"}
    return told


def _words(op, axes, out_axes, rule, rows):
    """The words for one operation."""
    if op.type in LOOPS | BRANCHES | CALLS:
        graphs = rows_of.graphs_of(op)
        if not graphs:
            return {"hidden", "blind"}
        inputs = axes[1:] if op.type in BRANCHES else axes
        if op.type in LOOPS:
            inputs = rows_of.looped(graphs[0], axes, rows, True)
        words = set().union(*(_kinks(graph, rows_of.entered(graph, inputs, rows, True), rows) for graph in graphs))
        if op.type in CALLS and "kink" in words:  # secants do not see it
            return words - {"kink"} | {"hidden"}
        return words | ({"kink"} if op.type in BRANCHES and axes[0] is not None else set())
    unseen = {"blind"} if rows_of.is_blind(op, axes, out_axes) else set()
    if op.type == "StopGradient":  # its result moves, and secants take it as it is at the left end
        return {"blind"}
    if rule:
        return unseen | ({"kink"} if rule in secant.WITH_KINKS else set())
    if rules.custom_gradient(op):
        return unseen | {"hidden"}
    moving = [x for x, k in zip(op.inputs, axes, strict=True) if k is not None]
    if op.type in rows_of.SHAPES | FINITE:
        return set()
    if not any(map(is_float, moving)):  # a step that becomes a number is a factor that secants do not see
        return {"blind"} if any(map(is_float, op.outputs)) else set()
    if not any(map(is_float, op.outputs)):  # a number becomes an integer or a truth; equal it may be at one point only
        return {"hidden"} if op.type in ("Equal", "NotEqual") else {"kink"}
    if rules.is_affine(op, axes):
        return set()
    if op.type in rules.AFFINE:  # an operand chooses: of two, at a single point, or of many, in an order not seen
        return unseen if op.type in ("Select", "SelectV2") else {"blind"}
    if op.type in rules.KINKS:
        return unseen | ({"kink", "blind"} if op.type in rules.STEPS else {"kink"})
    return unseen | (set() if op.type in rules.SMOOTH | rules.JOINTLY else {"hidden"})
