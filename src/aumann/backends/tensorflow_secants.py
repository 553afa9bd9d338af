"""Secants on TensorFlow: a graph whose operations are told, one by one, to carry cotangents back over cells.

The graph is the caller's own, so nothing of it is seen elsewhere or has to be undone. A gradient looked up in the name
that an operation carries is how TensorFlow differentiates graphs, loop bodies included. Operations that are made again
at the middle of a cell cost nothing where their derivative does not look at what they return: they are pruned.
"""

import functools
import threading

import tensorflow as tf
from tensorflow.core.framework import attr_value_pb2
from tensorflow.python.framework import ops as graphs

from aumann.core import secant

NAME = "AumannSecant"
SMOOTH = set(
    "Exp Log Log1p Expm1 Tanh Sigmoid Softplus Softsign Erf Erfc Sqrt Rsqrt Square Pow Reciprocal Inv Sin Cos Tan "
    "Sinh Cosh Asinh Acosh Atanh Asin Acos Atan".split()
)
# Operations that are affine in whatever moves: differentiated as ever.
AFFINE = set(
    "Add AddV2 AddN Sub BiasAdd Neg Identity IdentityN Cast Reshape Transpose Pad PadV2 MirrorPad ConcatV2 Split "
    "SplitV Sum Mean Squeeze ExpandDims StridedSlice Slice GatherV2 GatherNd Pack Unpack AvgPool AvgPool3D Tile "
    "BroadcastTo SpaceToBatchND BatchToSpaceND DepthToSpace SpaceToDepth ReverseV2 Cumsum ResizeBilinear "
    "ResizeNearestNeighbor Fill MatrixDiagPartV3 Roll ZerosLike OnesLike Shape Real Imag Snapshot EnsureShape".split()
)
# Operations that are affine as long as one operand moves.
PRODUCTS = set(
    "Mul MatMul BatchMatMul BatchMatMulV2 Einsum Conv2D Conv3D DepthwiseConv2dNative Conv2DBackpropInput "
    "Conv3DBackpropInputV2".split()
)
KINKS = set(
    "Relu Relu6 LeakyRelu Elu Selu Abs Maximum Minimum ClipByValue MaxPool MaxPool3D Max Min Sign Floor Ceil Rint "
    "Round TopKV2 SegmentMax UnsortedSegmentMax Greater GreaterEqual Less LessEqual Mod FloorMod".split()
)
HIDING = set("PartitionedCall StatefulPartitionedCall If StatelessIf Case StatelessCase".split())
SELECTIONS = {"Max", "Min", "MaxPool", "MaxPool3D"}

LARGE = 1 << 21  # elements of a tensor from which on a rule is worth compiling: 0.1 s for each new shape

_cells = threading.local()


def secants(fn, points):
    """fn(points) -> (rows, k) and, for each point and column, the cotangents over each row's cell."""
    graph = tf.compat.v1.get_default_graph()
    before = {op.name for op in graph.get_operations()}
    values = fn(points)
    names = {point.name for point in points}
    _mark([op for op in graph.get_operations() if op.name not in before], names)
    _cells.rows, _cells.known = tf.shape(points[0])[0], points[0].shape[0]
    try:
        columns = [tf.gradients(column, points) for column in tf.unstack(values, num=values.shape[1], axis=1)]
    finally:
        _cells.rows = _cells.known = None
    return values, [list(row) for row in zip(*columns, strict=True)]


def _mark(operations, names):
    """Marks the operations that something moving reaches, with which of their inputs move; names gather what moves."""
    for op in operations:
        moves = [x.name in names for x in op.inputs]
        if not any(moves) or op.type == "StopGradient":
            continue
        if getattr(op, "_body_graph", None):
            moves = _mark_loop(op, moves)
            names.update(y.name for y, m in zip(op.outputs, moves, strict=True) if m)
            continue
        names.update(y.name for y in op.outputs if y.dtype.is_floating or y.dtype == tf.variant)
        floats = all(x.dtype.is_floating for x, m in zip(op.inputs, moves, strict=True) if m)
        if op.type in AFFINE or (op.type in PRODUCTS and sum(moves) == 1) or not floats:
            continue
        if not all(y.dtype.is_floating for y in op.outputs) or not op.outputs or op.type.startswith("TensorList"):
            continue
        op._set_attr("_aumann_moves", attr_value_pb2.AttrValue(list=attr_value_pb2.AttrValue.ListValue(b=moves)))
        op._set_attr("_gradient_op_type", attr_value_pb2.AttrValue(s=NAME.encode()))


def _mark_loop(op, moves):
    """What a loop carries moves if it does so after any number of turns."""
    body, moves = op._body_graph, list(moves)
    while True:
        names = {x.name for x, m in zip(body.inputs, moves, strict=True) if m}
        _mark(body.get_operations(), names)
        grown = [m or y.name in names for m, y in zip(moves, body.outputs, strict=True)]
        if grown == moves:
            return moves
        moves = grown


def kinked(fn, points):
    """Whether something that moves passes a kink on its way through fn, which is only traced; None if hidden."""
    specs = [tf.TensorSpec(p.shape, p.dtype) for p in points]
    graph = tf.function(fn, autograph=False).get_concrete_function(specs).graph
    names = {x.name for x in graph.inputs[: len(points)]}  # what comes after them is captured
    types = {op.type for op in _moving(graph.get_operations(), names)}
    return True if types & KINKS else None if types & HIDING else False


def _moving(operations, names):
    """The operations that something moving reaches, in loops too; names gather what moves."""
    for op in operations:
        moves = [x.name in names for x in op.inputs]
        if not any(moves) or op.type == "StopGradient":
            continue
        names.update(y.name for y in op.outputs)
        yield op
        if body := getattr(op, "_body_graph", None):
            yield from _moving(body.get_operations(), {x.name for x in body.inputs if x.dtype.is_floating})


def operate(call, xs, rule, rows):
    """call(*xs) as one operation with a rule of `core.secant`."""

    def pull(points, cotangent):
        return tf.gradients(call(*points), points, grad_ys=cotangent, unconnected_gradients="zero")

    @tf.custom_gradient
    def unit(*xs):
        y = call(*xs)

        def carry(cotangent, variables=()):
            found = secant.RULES[rule](pull, xs, y, cotangent, rows)
            return (found, [None] * len(variables)) if variables else found

        return y, carry

    return unit(*xs)


@tf.RegisterGradient(NAME)
def _secant(op, *cotangents):
    here = [i for i, moves in enumerate(op.get_attr("_aumann_moves")) if moves]
    found = [None] * len(op.inputs)
    for i, cotangent in zip(here, _carry(op, here, cotangents, _cells.rows), strict=True):
        found[i] = cotangent
    return found


def _carry(op, here, cotangents, rows):
    def pull(points, cotangent):
        given = dict(zip(here, points, strict=True))
        inputs = [given.get(i, x) for i, x in enumerate(op.inputs)]
        found = _derivative(_again(op, inputs), cotangent if isinstance(cotangent, (list, tuple)) else [cotangent])
        return [found[i] for i in here]

    xs = [op.inputs[i] for i in here]
    if not all(_fits(x) for x in xs):  # rows are not its first axis: the derivative at the left end
        found = _derivative(op, cotangents)
        return [found[i] for i in here]
    if len(cotangents) > 1:
        return secant.average(pull, xs, op.outputs, cotangents, rows)
    return _rule(op, here)(pull, op, xs, here, cotangents[0], rows)


def _fits(x):
    if not x.shape.rank:
        return False
    known, rows = x.shape[0], _cells.known
    return known is rows if known is None or rows is None else known % rows == 0


def _again(op, inputs):
    """The operation on other inputs."""
    attributes = {k: op.node_def.attr[k] for k in op.node_def.attr if k not in ("_aumann_moves", "_gradient_op_type")}
    graph = tf.compat.v1.get_default_graph()
    return graph._create_op_internal(
        op.type, list(inputs), [y.dtype for y in op.outputs], attrs=attributes, op_def=op.op_def
    )


def _derivative(op, cotangents):
    found = graphs._gradient_registry.lookup(op.type)(op, *cotangents)
    return list(found) if isinstance(found, (list, tuple)) else [found]


# ---- the rules: (pull, operation, inputs that move, which, cotangent, rows) -> the cotangents of those --------------


def _rule(op, here):
    if op.type in ("Maximum", "Minimum"):
        return _maximum
    if op.type == "ClipByValue" and here == [0]:
        return _clip
    if op.type in ("Relu", "Relu6"):
        return _gate
    if op.type == "RealDiv" and here == [0, 1]:
        return _division
    if op.type in SELECTIONS:
        return _selection
    one = len(here) == 1
    rule = next((rule for rule, types in RULES.items() if one and op.type in types), secant.average)
    return lambda pull, op, xs, here, cotangent, rows: rule(pull, xs, op.outputs[0], cotangent, rows)


def _fused(carry):
    """One pass of XLA over what would be ten of memory, where that pays: as fast as the gradient of a ReLU."""
    once = tf.function(carry, jit_compile=True, autograph=False)

    def run(x, cotangent, rows, small=carry):
        large = tf.size(x, out_type=tf.int64) >= LARGE
        return tf.cond(large, lambda: once(x, cotangent, rows), lambda: small(x, cotangent, rows))

    return run


@functools.cache
def _gates(kinks):
    def carry(x, cotangent, rows):
        share = secant.open_fraction(x, rows)
        for kink in kinks:
            share -= secant.open_fraction(x - kink, rows)
        return cotangent * share

    return _fused(carry)


def _gate(pull, op, xs, here, cotangent, rows):
    """ReLU, and that which stops rising at 6."""
    return [_gates(() if op.type == "Relu" else (6.0,))(xs[0], cotangent, rows)]


def _maximum(pull, op, xs, here, cotangent, rows):
    """max(a, b): to each the part of the cell in which it wins."""
    a, b = op.inputs
    share = secant.open_fraction(a - b if op.type == "Maximum" else b - a, rows)
    return [_unbroadcast(cotangent * (1 - share if i else share), op.inputs[i]) for i in here]


def _clip(pull, op, xs, here, cotangent, rows):
    x, low, high = op.inputs
    return [cotangent * (secant.open_fraction(x - low, rows) - secant.open_fraction(x - high, rows))]


def _division(pull, op, xs, here, cotangent, rows):
    return secant.divided(*xs, cotangent, rows, _unbroadcast)


def _selection(pull, op, xs, here, cotangent, rows):
    (x,) = xs
    if op.type == "MaxPool" and op.get_attr("data_format") == b"NHWC" and op.get_attr("padding") in (b"SAME", b"VALID"):
        sizes, strides = op.get_attr("ksize")[1:], op.get_attr("strides")[1:]
        if x.shape[1:].is_fully_defined() and sizes[2] == 1:
            padding, apart = op.get_attr("padding"), sizes == strides
            beyond = padding == b"SAME" and any(n % k for n, k in zip(x.shape[1:], sizes, strict=True))
            sizes, strides = tuple(sizes), tuple(strides)
            rule = _windows(sizes) if apart and not beyond else _pooling(sizes, strides, padding)
            return [rule(x, cotangent, rows, functools.partial(_by_place, op))]
        return [_by_place(op, x, cotangent, rows)]

    def push(x, v):
        u = tf.zeros_like(op.outputs[0])
        return tf.gradients(pull([x], u)[0], u, grad_ys=v)[0]

    return [secant.selection(xs[0], op.outputs[0], cotangent, rows, lambda x, c: pull([x], c)[0], push)]


@functools.cache
def _windows(sizes):
    return _fused(lambda x, cotangent, rows: secant.windows(x, cotangent, rows, sizes))


@functools.cache
def _pooling(sizes, strides, padding):
    """A maximum over windows: XLA finds the winners and their shares, TensorFlow adds these up, where that pays."""

    def carry(x, cotangent, rows):
        lengths, counts = x.shape[1:], cotangent.shape[1:]
        over = [max((n - 1) * s + k - m, 0) for m, n, k, s in zip(lengths, counts, sizes, strides, strict=True)]
        low = [(total // 2 if padding == b"SAME" else 0) for total in over]
        around = [(0, 0), *((a, max(total - a, 0)) for a, total in zip(low, over, strict=True))]
        padded = tf.pad(x, around, constant_values=x.dtype.min) if any(over) else x
        i, before, j, after = secant.contest(padded, cotangent, rows, sizes, strides)

        def place(which):  # in x laid end to end, of a candidate of each window
            b, p, q, c = tf.meshgrid(*map(tf.range, [tf.shape(x)[0], *counts]), indexing="ij")
            p = p * strides[0] + which // sizes[1] - low[0]
            q = q * strides[1] + which % sizes[1] - low[1]
            return ((b * lengths[0] + p) * lengths[1] + q) * lengths[2] + c

        return place(i), before, place(j), after

    once = tf.function(carry, jit_compile=True, autograph=False)

    def large(x, cotangent, rows):
        about = {"ksize": (1, *sizes), "strides": (1, *strides), "padding": padding, "include_batch_in_index": True}
        i, before, j, after = once(x, cotangent, rows)
        due = (i, before), (j, after)
        return tf.add_n(
            [
                tf.raw_ops.MaxPoolGradWithArgmax(input=x, grad=c, argmax=tf.cast(place, tf.int64), **about)
                for place, c in due
            ]
        )

    def run(x, cotangent, rows, small):
        wide = tf.size(x, out_type=tf.int64) >= LARGE
        return tf.cond(wide, lambda: large(x, cotangent, rows), lambda: small(x, cotangent, rows))

    return run


def _by_place(op, x, cotangent, rows):
    """A maximum over windows: `secant.selection` by the places of the winners, which are found once."""
    about = {"ksize": op.get_attr("ksize"), "strides": op.get_attr("strides"), "padding": op.get_attr("padding")}
    y, place = tf.raw_ops.MaxPoolWithArgmax(input=x, include_batch_in_index=True, **about)
    step = tf.shape(x)[0] // rows
    size = tf.size(x, out_type=tf.int64)
    row = size // tf.shape(x, out_type=tf.int64)[0]
    ahead = tf.cast(step, tf.int64) * row  # entries from a place to the same one at the right end of the cell
    right, y_right = secant.following(place, rows) - ahead, secant.following(y, rows)
    right = tf.concat([right[:-step], place[-step:]], axis=0)  # the last path point follows itself
    flat = tf.reshape(x, [-1])
    lag = tf.gather(flat, tf.minimum(place + ahead, size - 1)) - y_right
    share = secant.left_share(y - tf.gather(flat, right), lag)

    def pull(place, c):
        return tf.raw_ops.MaxPoolGradWithArgmax(input=x, grad=c, argmax=place, include_batch_in_index=True, **about)

    return pull(place, cotangent * share) + pull(right, cotangent * (1 - share))


def _unbroadcast(x, like):
    if x.shape.is_fully_defined() and x.shape == like.shape:
        return x
    axes, _ = tf.raw_ops.BroadcastGradientArgs(s0=tf.shape(like), s1=tf.shape(x))
    return tf.reshape(tf.reduce_sum(x, axes), tf.shape(like))


RULES = {
    secant.smooth: SMOOTH,
    secant.kinked: {"Elu", "Selu"},
    secant.hinge: {"LeakyRelu", "Abs"},
    secant.softmax: {"Softmax"},
}
