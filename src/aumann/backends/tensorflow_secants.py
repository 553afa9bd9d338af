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
from tensorflow.python.ops import cond_v2, control_flow_util_v2

from aumann.backends import tensorflow_rows as rows_of
from aumann.core import secant

NAME = "AumannSecant"
SMOOTH = set(
    "Exp Log Log1p Expm1 Tanh Sigmoid Softplus Softsign Erf Erfc Sqrt Rsqrt Square Pow Reciprocal Inv Sin Cos "
    "Tan Sinh Cosh Asinh Acosh Atanh Asin Acos Atan".split()
)
# Operations that are affine in whatever moves: differentiated as ever.
AFFINE = set(
    "Add AddV2 AddN Sub BiasAdd BiasAddV1 BiasAddGrad Neg Identity IdentityN RefIdentity Cast Reshape Transpose "
    "Pad PadV2 MirrorPad MirrorPadGrad Concat ConcatV2 Split SplitV Sum Mean Squeeze ExpandDims StridedSlice "
    "StridedSliceGrad TensorStridedSliceUpdate Slice Gather GatherV2 GatherNd Pack Unpack AvgPool AvgPool3D "
    "AvgPoolGrad AvgPool3DGrad Tile BroadcastTo SpaceToBatch SpaceToBatchND BatchToSpace BatchToSpaceND "
    "DepthToSpace SpaceToDepth Reverse ReverseV2 ReverseSequence Cumsum ResizeBilinear ResizeBicubic "
    "ResizeNearestNeighbor ScaleAndTranslate CropAndResize Fill Diag DiagPart MatrixDiag MatrixDiagV2 "
    "MatrixDiagV3 MatrixDiagPart MatrixDiagPartV2 MatrixDiagPartV3 MatrixSetDiag MatrixSetDiagV2 MatrixSetDiagV3 "
    "MatrixBandPart Roll ZerosLike OnesLike Shape Snapshot EnsureShape ScatterNd TensorScatterUpdate "
    "TensorScatterAdd TensorScatterSub SegmentSum SegmentMean UnsortedSegmentSum SparseSegmentSum "
    "SparseSegmentMean SparseSegmentSqrtN DynamicPartition DynamicStitch ParallelDynamicStitch "
    "ExtractImagePatches ExtractVolumePatches PreventGradient CheckNumerics CheckNumericsV2 "
    "PlaceholderWithDefault Select SelectV2 Complex Real Imag Conj ConjugateTranspose FFT FFT2D FFT3D FFTND IFFT "
    "IFFT2D IFFT3D IFFTND RFFT RFFT2D RFFT3D RFFTND IRFFT IRFFT2D IRFFT3D IRFFTND".split()
)
# Operations that are affine as long as one operand moves.
PRODUCTS = set(
    "Mul MulNoNan MatMul BatchMatMul BatchMatMulV2 BatchMatMulV3 Einsum Conv2D Conv3D DepthwiseConv2dNative "
    "Conv2DBackpropInput Conv2DBackpropFilter Conv3DBackpropInputV2 Conv3DBackpropFilterV2 "
    "DepthwiseConv2dNativeBackpropInput DepthwiseConv2dNativeBackpropFilter Cross TridiagonalMatMul "
    "SparseTensorDenseMatMul".split()
)
# Operations of several entries that are smooth wherever they are finite. What stands in no table may hide a kink.
JOINTLY = PRODUCTS | set(
    "RealDiv Div DivNoNan Xlogy Xlog1py Xdivy SquaredDifference Prod Cumprod CumulativeLogsumexp Softmax "
    "LogSoftmax L2Loss LRN FusedBatchNorm FusedBatchNormV2 FusedBatchNormV3 SoftmaxCrossEntropyWithLogits "
    "SparseSoftmaxCrossEntropyWithLogits MatrixInverse MatrixDeterminant Cholesky MatrixSolve "
    "MatrixTriangularSolve BandedTriangularSolve TridiagonalSolve MatrixExponential EuclideanNorm Lgamma Digamma "
    "Polygamma Zeta Igamma Igammac Betainc Erfinv Ndtri BesselI0 BesselI0e BesselI1 BesselI1e InvGrad "
    "ReciprocalGrad SqrtGrad RsqrtGrad TanhGrad SigmoidGrad SoftplusGrad SoftsignGrad".split()
)
KINKS = set(
    "Relu Relu6 LeakyRelu Elu Selu ReluGrad Relu6Grad LeakyReluGrad EluGrad SeluGrad Abs ComplexAbs Angle Atan2 "
    "Maximum Minimum ClipByValue MaxPool MaxPool3D MaxPoolWithArgmax MaxPoolGrad MaxPool3DGrad Max Min Sign "
    "Floor Ceil Rint Round TopKV2 SegmentMax SegmentMin UnsortedSegmentMax UnsortedSegmentMin TensorScatterMax "
    "TensorScatterMin Mod FloorMod FloorDiv TruncateMod NthElement Dilation2D NextAfter".split()
)
STEPS = set("Sign Floor Ceil Rint Round FloorDiv ReluGrad Relu6Grad LeakyReluGrad MaxPoolGrad MaxPool3DGrad".split())
LOOPS = {"While", "StatelessWhile"}
BRANCHES = {"If", "StatelessIf", "Case", "StatelessCase"}
CALLS = {"PartitionedCall", "StatefulPartitionedCall"}
SELECTIONS = {
    "Max",
    "Min",
    "MaxPool",
    "MaxPool3D",
    "SegmentMax",
    "SegmentMin",
    "UnsortedSegmentMax",
    "UnsortedSegmentMin",
}
FINITE = {"IsFinite", "IsNan", "IsInf"}
FIXED = -2  # in place of the axis of an input that does not move

LARGE = 1 << 21  # elements of a tensor from which on a rule is worth compiling: 0.1 s for each new shape

_cells = threading.local()


def secants(fn, points):
    """fn(points) -> (rows, k) and, for each point and column, the cotangents over each row's cell."""
    graph = tf.compat.v1.get_default_graph()
    before = {op.name for op in graph.get_operations()}
    values = fn(points)
    operations = [op for op in graph.get_operations() if op.name not in before]
    _cells.rows, _cells.known, _cells.composite_ops = tf.shape(points[0])[0], points[0].shape[0], {}
    try:
        _mark(operations, _spread(operations, {point.name: 0 for point in points}, _cells.known), _cells.known)
        columns = [tf.gradients(column, points) for column in tf.unstack(values, num=values.shape[1], axis=1)]
    finally:
        _cells.rows = _cells.known = _cells.composite_ops = None
    return values, [list(row) for row in zip(*columns, strict=True)]


def _spread(operations, places, rows, through=False):
    """{tensor: axis of the rows} of all that some tensors reach, which are there already.

    With `through`, also of what moves while its gradient is stopped.
    """
    for op in operations:
        axes = _at(places, op.inputs)
        stopped = op.type == "StopGradient" and (not through or _is_maximum(op.inputs[0]))
        if not stopped and any(k is not None for k in axes):
            out_axes = _followed(op, axes, rows, through)
            places.update((y.name, k) for y, k in zip(op.outputs, out_axes, strict=True) if k is not None)
    return places


def _at(places, tensors):
    return [places.get(x.name) for x in tensors]


def _is_float(x):
    return x.dtype.is_floating or x.dtype.is_complex or x.dtype == tf.variant


def _followed(op, axes, rows, through):
    """The axis of the rows in each output of an operation."""
    if op.type in LOOPS and (body := _graphs(op)):
        return _looped(body[0], axes, rows, through)
    if op.type in BRANCHES and (branches := _graphs(op)):
        each = [_inside(graph, axes[1:], rows, through) for graph in branches]
        return [rows_of.joined(found) for found in zip(*each, strict=True)]
    return rows_of.follow(op, axes, rows)


def _is_maximum(x):
    """Whether x is a maximum, or 0 where that is not finite: with its gradient stopped it is what is taken from the
    exponents of a softmax, and changes nothing.
    """
    if x.op.type in ("Select", "SelectV2") and x.op.inputs[0].op.type == "IsFinite":
        return _is_maximum(x.op.inputs[1])
    return x.op.type == "Max"


def _inside(graph, axes, rows, through):
    return _at(_entered(graph, axes, rows, through), graph.outputs)


def _entered(graph, axes, rows, through=False):
    """Where the rows are in the body of an operation that is given these inputs."""
    given = {x.name: k for x, k in zip(graph.inputs, axes, strict=False) if k is not None}
    return _spread(graph.get_operations(), given, rows, through)


def _looped(body, axes, rows, through=False):
    """What a loop carries moves if it does so after any number of turns."""
    while True:
        grown = [rows_of.joined(two) for two in zip(axes, _inside(body, axes, rows, through), strict=True)]
        if grown == axes:
            return axes
        axes = grown


def _graphs(op):
    """The graphs of what an operation calls: the body of a loop and its condition, the branches of a choice."""
    try:
        if op.type in BRANCHES:
            return list(cond_v2.get_func_graphs(op))
        if op.type in LOOPS:
            names = [op.get_attr(which).name for which in ("body", "cond")]
            own = [getattr(op, which, None) for which in ("_body_graph", "_cond_graph")]
        else:
            names, own = [op.get_attr("f").name], [None]
        shapes = [x.shape for x in op.inputs]
        return [
            graph or control_flow_util_v2.get_func_graph(op, shapes, name)
            for graph, name in zip(own, names, strict=True)
        ]
    except (AttributeError, KeyError, TypeError, ValueError):
        return []


def _own_gradient(op):
    """The name of a gradient that an operation brings along, or None."""
    return op.node_def.attr["_gradient_op_type"].s if "_gradient_op_type" in op.node_def.attr else None


def custom(operations):
    """Whether some operations bring a gradient of a user's own, as `tf.custom_gradient` makes them."""
    return any((_own_gradient(op) or b"").startswith(b"CustomGradient") for op in operations)


def _linear(op, axes):
    """Whether an operation is affine in what moves. What chooses, an index or a condition, may not."""
    here = [i for i, k in enumerate(axes) if k is not None]
    if _own_gradient(op) or not all(_is_float(op.inputs[i]) for i in here):
        return False
    one = len(here) == 1
    return (
        op.type in AFFINE
        or op.type.startswith("TensorList")
        or (one and op.type in PRODUCTS)
        or (op.type in ("RealDiv", "Div") and here == [0])
    )


def _blind(op, axes, out_axes):
    """Whether the rows cannot be told apart in what an operation takes or makes."""
    return rows_of.LOST in axes or rows_of.LOST in out_axes or op.type in LOOPS | BRANCHES


def _mark(operations, places, rows):
    """Marks the operations that something moving reaches, with where the rows are in what they take and make."""
    for op in operations:
        axes, out_axes = _at(places, op.inputs), _at(places, op.outputs)
        if op.type == "StopGradient" or all(k is None for k in axes):
            continue
        if op.type in LOOPS and hasattr(op, "_body_graph"):  # made here: other graphs may be in use elsewhere
            body = op._body_graph
            _mark(body.get_operations(), _entered(body, _looped(body, axes, rows), rows), rows)
        elif op.type in BRANCHES:
            for graph in _graphs(op):
                _mark(graph.get_operations(), _entered(graph, axes[1:], rows), rows)
        if op.type in LOOPS | BRANCHES:
            continue
        if _unit(op):
            _cells.composite_ops.update(((id(op.graph), x.name), k) for x, k in zip(op.inputs, axes, strict=True))
            continue
        moving = [k if _is_float(x) else None for x, k in zip(op.inputs, axes, strict=True)]
        if _linear(op, axes) or all(k is None for k in moving) or not any(map(_is_float, op.outputs)):
            continue
        if op.type.startswith("TensorList") or _blind(op, axes, out_axes):
            continue  # nobody knows where its rows are: the derivative at the left end
        own = _own_gradient(op)
        _set(op, "_aumann_axes", list=_ints(moving))
        _set(op, "_aumann_out_axes", list=_ints(out_axes))
        _set(op, "_aumann_choosers", list=_ints([None if m == k else k for m, k in zip(moving, axes, strict=True)]))
        _set(op, "_aumann_ends", b=bool(own) or op.type in CALLS)
        if own:
            _set(op, "_aumann_gradient", s=own)
        _set(op, "_gradient_op_type", s=NAME.encode())


def _set(op, name, **value):
    op._set_attr(name, attr_value_pb2.AttrValue(**value))


def _ints(axes):
    return attr_value_pb2.AttrValue.ListValue(i=[FIXED if k is None else k for k in axes])


def kinked(fn, points):
    """Whether something that moves passes a kink on its way through fn, which is only traced; None if hidden."""
    for rows in (None, 3):  # a number that is no other axis's tells the rows as well as one that is not known
        try:
            graph = _traced(fn, [[rows, *p.shape[1:]] for p in points], points)
            break
        except Exception:  # a function that asks for the number of rows, or has it in it
            continue
    else:
        rows = points[0].shape[0]
        graph = _traced(fn, [p.shape for p in points], points)
    places = _entered(graph, [0] * len(points), rows, True)  # what comes after them is captured
    found = _kinks(graph, places, rows)
    if not found & {"kink", "hidden"}:
        return False
    return None if "blind" in found or "kink" not in found else True


def _traced(fn, shapes, points):
    specs = [tf.TensorSpec(shape, p.dtype) for shape, p in zip(shapes, points, strict=True)]
    return tf.function(fn, autograph=False).get_concrete_function(specs).graph


def _kinks(graph, places, rows):
    """What stands between the inputs that move and the outputs of a graph, in three words.

    "kink": a kink or a step; "hidden": an operation that may have one; "blind": one that is not affine and of which
    nobody knows where its rows are, so that secants do not see it.
    """
    needed, veiled, within, found = {y.name for y in graph.outputs}, set(), set(), set()
    for op in reversed(graph.get_operations()):
        wanted = [y.name in needed for y in op.outputs]
        inside = not any(wanted) and any(y.name in within for y in op.outputs)
        if not (any(wanted) or inside or any(y.name in veiled for y in op.outputs)):
            continue
        if op.type == "StopGradient" and _is_maximum(op.inputs[0]):
            continue
        axes, unit, inputs = _at(places, op.inputs), _unit(op), {x.name for x in op.inputs}
        if _own_gradient(op) and op.type == "IdentityN" and any(wanted):  # results, then what they are made of
            results = {x.name for x, is_wanted in zip(op.inputs, wanted, strict=True) if is_wanted}
            inputs -= results
            if unit == "average":  # any other operation of one piece is told by its name alone
                within |= results
            elif not unit:
                veiled |= results
        (needed if any(wanted) else within if inside else veiled).update(inputs)
        if any(k is not None for k in axes):
            words = _words(op, axes, _at(places, op.outputs), unit, rows)
            if inside:  # of what is one operation to secants, they know where its rows are
                words = words - {"blind"}
            found |= words if any(wanted) or inside or "kink" not in words else {"hidden", "blind"}
    return found


def _words(op, axes, out_axes, unit, rows):
    """The words for one operation."""
    if op.type in LOOPS | BRANCHES | CALLS:
        graphs = _graphs(op)
        if not graphs:
            return {"hidden", "blind"}
        given = axes[1:] if op.type in BRANCHES else axes
        if op.type in LOOPS:
            given = _looped(graphs[0], axes, rows, True)
        found = set().union(*(_kinks(graph, _entered(graph, given, rows, True), rows) for graph in graphs))
        if op.type in CALLS and "kink" in found:  # secants do not see it
            return found - {"kink"} | {"hidden"}
        return found | ({"kink"} if op.type in BRANCHES and axes[0] is not None else set())
    unseen = {"blind"} if _blind(op, axes, out_axes) else set()
    if op.type == "StopGradient":  # what it makes moves, and secants take it as it is at the left end
        return {"blind"}
    if unit:
        return unseen | ({"kink"} if unit in secant.KINKED else set())
    if _own_gradient(op):
        return unseen | {"hidden"}
    moving = [x for x, k in zip(op.inputs, axes, strict=True) if k is not None]
    if op.type in rows_of.SHAPES | FINITE:
        return set()
    if not any(map(_is_float, moving)):  # a step that becomes a number is a factor that secants do not see
        return {"blind"} if any(map(_is_float, op.outputs)) else set()
    if not any(map(_is_float, op.outputs)):  # a number becomes an integer or a truth; equal it may be at one point only
        return {"hidden"} if op.type in ("Equal", "NotEqual") else {"kink"}
    if _linear(op, axes):
        return set()
    if op.type in AFFINE:  # something chooses: of two, at a single point, or of many, in an order that is not seen
        return unseen if op.type in ("Select", "SelectV2") else {"blind"}
    if op.type in KINKS:
        return unseen | ({"kink", "blind"} if op.type in STEPS else {"kink"})
    return unseen | (set() if op.type in SMOOTH | JOINTLY else {"hidden"})


def operate(call, xs, rule, rows):
    """call(*xs) as one operation with a rule of `core.secant`."""

    @tf.custom_gradient
    def unit(*xs):
        y = call(*xs)

        def carry(cotangent, variables=()):
            axes = [_cells.composite_ops.get((id(x.graph), x.name)) for x in xs]
            found = _unit_carried(call, xs, axes, y, cotangent, rule, rows)
            return (found, [None] * len(variables)) if variables else found

        return y, carry

    y = unit(*xs)
    if not tf.executing_eagerly() and y.op.type == "IdentityN":
        _set(y.op, "_aumann_unit", s=rule.encode())
    return y


def _unit(op):
    """The rule that an operation was given by `operate`, or None."""
    return op.node_def.attr["_aumann_unit"].s.decode() if "_aumann_unit" in op.node_def.attr else None


def _unit_carried(call, xs, axes, y, cotangent, rule, rows):
    here = [i for i, k in enumerate(axes) if k is not None]
    places = [axes[i] for i in here]
    out = places[0] if y.shape == xs[here[0]].shape else 0

    def derivative(points, cotangent):
        given = dict(zip(here, points, strict=True))
        ends = [given.get(i, x) for i, x in enumerate(xs)]
        found = tf.gradients(call(*ends), ends, grad_ys=cotangent, unconnected_gradients="zero")
        return [found[i] for i in here]

    def pull(points, cotangent):
        found = derivative([_back(x, k) for x, k in zip(points, places, strict=True)], _back(cotangent, out))
        return [_first(x, k) for x, k in zip(found, places, strict=True)]

    found = [None] * len(xs)
    if rows_of.LOST in places:
        carried = derivative([xs[i] for i in here], cotangent)
    else:
        moved = [_first(xs[i], k) for i, k in zip(here, places, strict=True)]
        carried = secant.RULES[rule](pull, moved, _first(y, out), _first(cotangent, out), rows)
        carried = [_back(x, k) for x, k in zip(carried, places, strict=True)]
    for i, x in zip(here, carried, strict=True):
        found[i] = x
    return found


@tf.RegisterGradient(NAME)
def _secant(op, *cotangents):
    axes, out_axes = op.get_attr("_aumann_axes"), op.get_attr("_aumann_out_axes")
    here = [i for i, k in enumerate(axes) if k != FIXED]
    found = [None] * len(op.inputs)
    carried = _carry(op, here, [axes[i] for i in here], out_axes, cotangents, _cells.rows)
    for i, k, cotangent in zip(here, [axes[i] for i in here], carried, strict=True):
        found[i] = None if cotangent is None else _back(cotangent, k)
    return found


def _carry(op, here, axes, out_axes, cotangents, rows):
    """The cotangents of the inputs that move, rows first."""

    def given(found):
        return [None if found[i] is None else _first(found[i], k) for i, k in zip(here, axes, strict=True)]

    def back(cotangents):
        return [_back(c, k) for c, k in zip(cotangents, out_axes, strict=True)]

    def pull(points, cotangent):
        moved = {i: _back(x, k) for i, x, k in zip(here, points, axes, strict=True)}
        inputs = [moved.get(i, x) for i, x in enumerate(op.inputs)]
        cotangents = cotangent if isinstance(cotangent, (list, tuple)) else [cotangent]
        return given(_derivative(_again(op, inputs), back(cotangents)))

    cotangents = [_first(c, k) for c, k in zip(cotangents, out_axes, strict=True)]
    if op.get_attr("_aumann_ends"):
        moves = [k != FIXED for k in out_axes]
        return secant.ends(lambda cotangents: given(_derivative(op, back(cotangents))), cotangents, moves, rows)
    xs = [_first(op.inputs[i], k) for i, k in zip(here, axes, strict=True)]
    if op.type == "TopKV2":
        return _ranked(op, xs[0], cotangents[0], rows)
    if choosers := {i: k for i, k in enumerate(op.get_attr("_aumann_choosers")) if k != FIXED}:
        return _chosen(op, here, axes, choosers, out_axes, cotangents, rows, given)
    if len(cotangents) > 1:
        return secant.average(pull, xs, op.outputs, cotangents, rows)
    y = _first(op.outputs[0], out_axes[0])
    inputs = list(op.inputs)
    for i, x in enumerate(inputs):  # of an operation on entries also those that stay as they are
        k = axes[here.index(i)] if i in here else out_axes[0]
        inputs[i] = _first(x, k) if i in here or x.shape.rank == y.shape.rank else x
    return _rule(op, here, axes)(pull, op, xs, here, cotangents[0], rows, inputs, y)


def _first(x, k):
    return x if x is None or k <= 0 else tf.transpose(x, [k, *(a for a in range(x.shape.rank) if a != k)])


def _back(x, k):
    return x if x is None or k <= 0 else tf.transpose(x, [*range(1, k + 1), 0, *range(k + 1, x.shape.rank)])


OURS = set("_aumann_axes _aumann_out_axes _aumann_choosers _aumann_ends _aumann_gradient _gradient_op_type".split())


def _again(op, inputs):
    """The operation on other inputs."""
    attributes = {k: op.node_def.attr[k] for k in op.node_def.attr if k not in OURS}
    graph = tf.compat.v1.get_default_graph()
    return graph._create_op_internal(
        op.type, list(inputs), [y.dtype for y in op.outputs], attrs=attributes, op_def=op.op_def
    )


def _derivative(op, cotangents):
    own = op.node_def.attr["_aumann_gradient"].s.decode() if "_aumann_gradient" in op.node_def.attr else op.type
    found = graphs._gradient_registry.lookup(own)(op, *cotangents)
    return list(found) if isinstance(found, (list, tuple)) else [found]


# ---- the rules: (pull, operation, inputs that move, which, cotangent, rows, all inputs, output) -> the cotangents of
# those that move; rows are the first axis of all of them, and all but the operation's own inputs and outputs ----------


def _rule(op, here, axes):
    if any(op.inputs[i].dtype.is_complex for i in here):
        return _modulus if op.type == "ComplexAbs" else _common(secant.average)
    if op.type in ("Maximum", "Minimum"):
        return _maximum
    if op.type == "ClipByValue" and here == [0]:
        return _clip
    if op.type in ("Relu", "Relu6"):
        return _gate
    if op.type == "RealDiv" and here == [0, 1]:
        return _division
    if op.type in SELECTIONS and len(here) == 1:
        return _selection if op.type != "MaxPool" or axes == [0] else _selected
    one = len(here) == 1
    return _common(next((rule for rule, types in RULES.items() if one and op.type in types), secant.average))


def _common(rule):
    return lambda pull, op, xs, here, cotangent, rows, inputs, y: rule(pull, xs, y, cotangent, rows)


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


def _gate(pull, op, xs, here, cotangent, rows, inputs, y):
    """ReLU, and that which stops rising at 6."""
    return [_gates(() if op.type == "Relu" else (6.0,))(xs[0], cotangent, rows)]


def _maximum(pull, op, xs, here, cotangent, rows, inputs, y):
    """max(a, b): to each the part of the cell in which it wins."""
    a, b = inputs
    share = secant.open_fraction(a - b if op.type == "Maximum" else b - a, rows)
    return [_unbroadcast(cotangent * (1 - share if i else share), inputs[i]) for i in here]


def _clip(pull, op, xs, here, cotangent, rows, inputs, y):
    x, low, high = inputs
    return [cotangent * (secant.open_fraction(x - low, rows) - secant.open_fraction(x - high, rows))]


def _division(pull, op, xs, here, cotangent, rows, inputs, y):
    return secant.divided(*xs, cotangent, rows, _unbroadcast)


def _chosen(op, here, axes, choosers, out_axes, cotangents, rows, given):
    """What is affine once indices and conditions that move have chosen: `secant.choice`."""
    if len(op.outputs) > 1:
        return given(_derivative(op, [_back(c, k) for c, k in zip(cotangents, out_axes, strict=True)]))

    def again(points, right):
        moved = {i: _back(x, k) for i, x, k in zip(here, points, axes, strict=True)}
        for i, k in choosers.items():
            moved[i] = _back(secant.following(_first(op.inputs[i], k), rows), k) if right else op.inputs[i]
        return _again(op, [moved.get(i, x) for i, x in enumerate(op.inputs)])

    def call(points, right):
        return _first(again(points, right).outputs[0], out_axes[0])

    def pull(points, right, cotangent):
        return given(_derivative(again(points, right), [_back(cotangent, out_axes[0])]))

    xs = [_first(op.inputs[i], k) for i, k in zip(here, axes, strict=True)]
    return secant.choice(call, pull, xs, cotangents[0], rows)


def _modulus(pull, op, xs, here, cotangent, rows, inputs, y):
    """|z|."""
    (z,) = xs
    return [tf.complex(*secant.modulus(tf.math.real(z), tf.math.imag(z), cotangent, rows))]


def _ranked(op, x, cotangent, rows):
    """The largest entries of the last axis."""

    def rank(x):
        return tf.math.top_k(x, op.inputs[1])

    def scatter(place, c):
        return tf.gradients(tf.gather(x, place, batch_dims=x.shape.rank - 1), x, grad_ys=c)[0]

    return [secant.ranked(x, cotangent, rows, rank, scatter)]


def _selection(pull, op, xs, here, cotangent, rows, inputs, y):
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
    return _selected(pull, op, xs, here, cotangent, rows, inputs, y)


def _selected(pull, op, xs, here, cotangent, rows, inputs, y):
    def push(x, v):
        u = tf.zeros_like(y)
        return tf.gradients(pull([x], u)[0], u, grad_ys=v)[0]

    return [secant.selection(xs[0], y, cotangent, rows, lambda x, c: pull([x], c)[0], push)]


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
