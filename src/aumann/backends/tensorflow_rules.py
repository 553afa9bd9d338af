"""Which rule of secants each operation of TensorFlow gets: tables of types, and the rules that know its attributes.

A rule is a function (vjp, op, xs, indices, cotangent, rows, inputs, y) -> the cotangents of xs, where

    op          the operation of the graph, whose own inputs and outputs have the rows on whichever axis they are
    xs          inputs that move, with the rows of the batch as their first axis; `indices` are their positions
    inputs      all inputs, and y the output, rows first
    cotangent   dF/dy, or the mean of it over the cell that begins in each row, rows first
    rows        path points in the batch: the right end of row k's cell is row k + 1 (`core/secant.py`)
    vjp         (points, cotangent) -> cotangents of the points by the operation's own derivative

Most rules stand in `core/secant.py`. Those below find the winners of a maximum by the places that TensorFlow reports,
and have XLA fuse what would be ten passes of memory where tensors are large.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from aumann.backends.tensorflow_rows import Axes
from aumann.core import secant

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
LARGE = 1 << 21  # elements of a tensor from which on a rule is worth compiling: 0.1 s for each new shape


def is_float(x: Any) -> bool:
    return x.dtype.is_floating or x.dtype.is_complex or x.dtype == tf.variant


def custom_gradient(op: Any) -> bytes | None:
    """The name of a gradient that an operation brings along, or None."""
    return op.node_def.attr["_gradient_op_type"].s if "_gradient_op_type" in op.node_def.attr else None


def is_affine(op: Any, axes: Axes) -> bool:
    """Whether an operation is affine in what moves; not where an index or a condition moves, which chooses."""
    indices = [i for i, k in enumerate(axes) if k is not None]
    if custom_gradient(op) or not all(is_float(op.inputs[i]) for i in indices):
        return False
    one = len(indices) == 1
    return (
        op.type in AFFINE
        or op.type.startswith("TensorList")
        or (one and op.type in PRODUCTS)
        or (op.type in ("RealDiv", "Div") and indices == [0])
    )


def rule_of(op: Any, indices: Sequence[int], axes: Sequence[int]) -> Callable:
    """The rule of an operation of which these inputs move; the derivative at the middle for any other."""
    if any(op.inputs[i].dtype.is_complex for i in indices):
        return _modulus if op.type == "ComplexAbs" else _common(secant.average)
    if op.type in ("Maximum", "Minimum"):
        return _maximum
    if op.type == "ClipByValue" and indices == [0]:
        return _clip
    if op.type in ("Relu", "Relu6"):
        return _gate
    if op.type == "RealDiv" and indices == [0, 1]:
        return _division
    if op.type in SELECTIONS and len(indices) == 1:
        return _selection if op.type != "MaxPool" or axes == [0] else _selected
    one = len(indices) == 1
    return _common(next((rule for rule, types in RULES.items() if one and op.type in types), secant.average))


def _common(rule):
    """A rule of `core/secant.py`, which does not ask for the operation."""
    return lambda vjp, op, xs, indices, cotangent, rows, inputs, y: rule(vjp, xs, y, cotangent, rows)


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


def _gate(vjp, op, xs, indices, cotangent, rows, inputs, y):
    """ReLU, and that which stops rising at 6."""
    return [_gates(() if op.type == "Relu" else (6.0,))(xs[0], cotangent, rows)]


def _maximum(vjp, op, xs, indices, cotangent, rows, inputs, y):
    """max(a, b): to each the part of the cell in which it wins."""
    a, b = inputs
    share = secant.open_fraction(a - b if op.type == "Maximum" else b - a, rows)
    return [_unbroadcast(cotangent * (1 - share if i else share), inputs[i]) for i in indices]


def _clip(vjp, op, xs, indices, cotangent, rows, inputs, y):
    x, low, high = inputs
    return [cotangent * (secant.open_fraction(x - low, rows) - secant.open_fraction(x - high, rows))]


def _division(vjp, op, xs, indices, cotangent, rows, inputs, y):
    return secant.divided(*xs, cotangent, rows, _unbroadcast)


def _modulus(vjp, op, xs, indices, cotangent, rows, inputs, y):
    """|z|."""
    (z,) = xs
    return [tf.complex(*secant.modulus(tf.math.real(z), tf.math.imag(z), cotangent, rows))]


def top_k(op: Any, x: Any, cotangent: Any, rows: Any) -> list:
    """The largest entries of the last axis."""

    def rank(x):
        return tf.math.top_k(x, op.inputs[1])

    def scatter(positions, c):
        return tf.gradients(tf.gather(x, positions, batch_dims=x.shape.rank - 1), x, grad_ys=c)[0]

    return [secant.ranked(x, cotangent, rows, rank, scatter)]


def _selection(vjp, op, xs, indices, cotangent, rows, inputs, y):
    (x,) = xs
    if op.type == "MaxPool" and op.get_attr("data_format") == b"NHWC" and op.get_attr("padding") in (b"SAME", b"VALID"):
        sizes, strides = op.get_attr("ksize")[1:], op.get_attr("strides")[1:]
        if x.shape[1:].is_fully_defined() and sizes[2] == 1:
            padding, side_by_side = op.get_attr("padding"), sizes == strides
            beyond = padding == b"SAME" and any(n % k for n, k in zip(x.shape[1:], sizes, strict=True))
            sizes, strides = tuple(sizes), tuple(strides)
            rule = _windows(sizes) if side_by_side and not beyond else _pooling(sizes, strides, padding)
            return [rule(x, cotangent, rows, functools.partial(_by_place, op))]
        return [_by_place(op, x, cotangent, rows)]
    return _selected(vjp, op, xs, indices, cotangent, rows, inputs, y)


def _selected(vjp, op, xs, indices, cotangent, rows, inputs, y):
    """The jvp that `secant.selection` needs is the derivative of the vjp, which is linear in its cotangent."""

    def jvp(x, v):
        u = tf.zeros_like(y)
        return tf.gradients(vjp([x], u)[0], u, grad_ys=v)[0]

    return [secant.selection(xs[0], y, cotangent, rows, lambda x, c: vjp([x], c)[0], jvp)]


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

        def position(which):  # of one candidate of each window, in x flattened
            b, p, q, c = tf.meshgrid(*map(tf.range, [tf.shape(x)[0], *counts]), indexing="ij")
            p = p * strides[0] + which // sizes[1] - low[0]
            q = q * strides[1] + which % sizes[1] - low[1]
            return ((b * lengths[0] + p) * lengths[1] + q) * lengths[2] + c

        return position(i), before, position(j), after

    once = tf.function(carry, jit_compile=True, autograph=False)

    def large(x, cotangent, rows):
        window = {"ksize": (1, *sizes), "strides": (1, *strides), "padding": padding, "include_batch_in_index": True}
        i, before, j, after = once(x, cotangent, rows)
        shares = (i, before), (j, after)
        return tf.add_n(
            [
                tf.raw_ops.MaxPoolGradWithArgmax(input=x, grad=c, argmax=tf.cast(winner, tf.int64), **window)
                for winner, c in shares
            ]
        )

    def run(x, cotangent, rows, small):
        wide = tf.size(x, out_type=tf.int64) >= LARGE
        return tf.cond(wide, lambda: large(x, cotangent, rows), lambda: small(x, cotangent, rows))

    return run


def _by_place(op, x, cotangent, rows):
    """A maximum over windows: `secant.selection` by the places of the winners, which are found once."""
    window = {"ksize": op.get_attr("ksize"), "strides": op.get_attr("strides"), "padding": op.get_attr("padding")}
    y, winner = tf.raw_ops.MaxPoolWithArgmax(input=x, include_batch_in_index=True, **window)
    step = tf.shape(x)[0] // rows
    size = tf.size(x, out_type=tf.int64)
    row = size // tf.shape(x, out_type=tf.int64)[0]
    ahead = tf.cast(step, tf.int64) * row  # entries from one of x to the same one at the right end of the cell
    right, y_right = secant.following(winner, rows) - ahead, secant.following(y, rows)
    right = tf.concat([right[:-step], winner[-step:]], axis=0)  # the last row is its own right end
    flat = tf.reshape(x, [-1])
    lag = tf.gather(flat, tf.minimum(winner + ahead, size - 1)) - y_right
    share = secant.left_share(y - tf.gather(flat, right), lag)

    def vjp(winner, c):
        return tf.raw_ops.MaxPoolGradWithArgmax(input=x, grad=c, argmax=winner, include_batch_in_index=True, **window)

    return vjp(winner, cotangent * share) + vjp(right, cotangent * (1 - share))


def _unbroadcast(x, like):
    if x.shape.is_fully_defined() and x.shape == like.shape:
        return x
    axes, _ = tf.raw_ops.BroadcastGradientArgs(s0=tf.shape(like), s1=tf.shape(x))
    return tf.reshape(tf.reduce_sum(x, axes), tf.shape(like))


RULES = {
    secant.smooth: SMOOTH,
    secant.piecewise: {"Elu", "Selu"},
    secant.hinge: {"LeakyRelu", "Abs"},
    secant.softmax: {"Softmax"},
}
