"""The affine prefix of a network: it keeps a straight line straight, so that the path can be laid behind it.

    h = A x + b:   h(x′ + t (x − x′)) = h(x′) + t (h(x) − h(x′))   and   ∫₀¹ ∂F/∂x dt = Aᵀ ∫₀¹ ∂F/∂h dt

h is evaluated at the two ends of a path, what follows is differentiated at its points, and the sum is pulled back once
in place of a gradient at every point. A secant of an affine map is its derivative, so this holds of cells as well.
Credits that are linear in the slope are given the mean slope; values differ from those of the plain way by rounding.
"""

import math
from dataclasses import dataclass

import keras
from keras import layers as L
from keras import ops

from aumann.core import engine
from aumann.core.credits import Moment, hypothetical, share, slope
from aumann.core.paths import straight
from aumann.model.interception import Place, intercepted
from aumann.model.oracle import Oracle, len_of

LINEAR = (share, slope, hypothetical)  # credits, in the slope
LEAST = 3  # points of a row in a batch: both ends of h and the pull cost about as much as the prefix at 1.5 of them

# Affine layers, at inference; a fused activation ends the prefix right before it.
AFFINE = {
    L.Activation, L.Rescaling, L.Normalization, L.BatchNormalization, L.Dense, L.EinsumDense, L.Conv1D, L.Conv2D,
    L.Conv3D, L.Conv1DTranspose, L.Conv2DTranspose, L.Conv3DTranspose, L.DepthwiseConv1D, L.DepthwiseConv2D,
    L.SeparableConv1D, L.SeparableConv2D, L.ZeroPadding1D, L.ZeroPadding2D, L.ZeroPadding3D, L.Cropping1D,
    L.Cropping2D, L.Cropping3D, L.AveragePooling1D, L.AveragePooling2D, L.AveragePooling3D, L.GlobalAveragePooling1D,
    L.GlobalAveragePooling2D, L.GlobalAveragePooling3D, L.UpSampling1D, L.UpSampling2D, L.UpSampling3D, L.Flatten,
    L.Reshape, L.Permute, L.RepeatVector, L.Identity, L.Dropout, L.SpatialDropout1D, L.SpatialDropout2D,
    L.SpatialDropout3D, L.GaussianNoise, L.GaussianDropout, L.AlphaDropout,
}  # fmt: skip
TRANSPOSED = L.Conv1DTranspose, L.Conv2DTranspose, L.Conv3DTranspose


@dataclass(frozen=True, eq=False)
class Prefix:
    """Affine layers, each of which reads what the one before it makes, and all of the network reads the last one.

    Attributes:
        layers: from the model's input on; of the last one, what its activation is given is the cut.
        shapes: of one row of what each makes, the cut last.
        work: multiply-adds of a row.
    """

    layers: tuple
    shapes: tuple
    work: int

    @property
    def name(self):
        return self.layers[-1].name

    def __call__(self, x):
        """h of rows."""
        last = self.layers[-1]
        bare = {(last, "activation"): lambda original, h: h} if hasattr(last, "activation") else {}
        with intercepted(bare):
            for layer in self.layers:
                x = layer(x, training=False)
        return x

    def skipped(self, h):
        """While the block is open the model finds h at the cut, whatever it is fed, and computes nothing before it."""
        *before, last = self.layers

        def leave(layer, shape):
            return lambda original, *args, **kwargs: _blank(h, shape)

        def enter(original, *args, **kwargs):
            activation = getattr(last, "activation", None)
            return h if activation is None else activation(h)

        handlers = {(layer, "call"): leave(layer, shape) for layer, shape in zip(before, self.shapes, strict=False)}
        return intercepted({**handlers, (last, "call"): enter})


class Laid(Oracle):
    """The oracle of a model, that lays straight paths behind an affine prefix where the model has one and it pays."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.prefix = find(self) if self.fill is None else None

    def lays(self, paths, credit, baselines, points, targets=1):
        """Whether paths with so many points in a batch, from so many baselines, are laid behind the prefix.

        The sums of each target are as large as the cut: where this has more numbers than the inputs, there are to be
        no more of them than points that are.
        """
        if self.prefix is None or baselines > 1 or credit not in LINEAR or any(p is not straight for p in paths):
            return False
        larger = math.prod(self.prefix.shapes[-1]) > math.prod(self.shapes[0])
        return points >= (max(LEAST, targets) if larger else LEAST)

    def _compile(self, what, functions, paths, credit, cells, once):
        plain = super()._compile(what, functions, paths, credit, cells, once)
        if what != "step" or not self.lays(paths, credit, 1, LEAST):
            return plain
        laid = self._laid(functions, credit, cells, once)

        def step(sums, ends, starts, tw, side, index):
            points = tw[0].shape[0] // ends[0].shape[0]
            here = laid if self.lays(paths, credit, starts[0].shape[1], points, sums[0].shape[1]) else plain
            return here(sums, ends, starts, tw, side, index)

        return step

    def _laid(self, functions, credit, cells, once):
        """A step of the engine at the cut, between what leads there and what leads back."""
        prefix, beyond = self.prefix, Beyond(self)

        def gradients(points, side, index):
            return beyond.gradients(points, side, index, functions, cells)

        def ahead(sums, ends, starts):
            (x,), (start,) = ends, starts
            rows = ops.broadcast_to(start[:, 0], (len_of(start), *x.shape[1:]))
            h = prefix(x)
            blank = ops.repeat(ops.expand_dims(ops.zeros_like(h), 1), sums[0].shape[1], axis=1)
            return [blank], [h], [ops.expand_dims(prefix(rows), 1)]

        def back(sums, means, ends, starts):
            (total,), (mean,), (x,), (start,) = sums, means, ends, starts
            mean = ops.reshape(mean, (-1, *prefix.shapes[-1]))

            def products(points):
                h = prefix(points[0]) * mean
                return ops.expand_dims(ops.sum(h, axis=tuple(range(1, len(h.shape)))), 1)

            anywhere = [ops.reshape(ops.zeros_like(total), (-1, *x.shape[1:]))]
            _, ((pulled,),) = self.backend.gradients(products, anywhere)
            pulled = ops.reshape(pulled, ops.shape(total))
            one = ops.ones_like(ops.reshape(pulled, (len_of(x), -1))[:, :1])
            velocity = ops.expand_dims(x, 1) - start
            columns = [
                credit(Moment([pulled[:, k : k + 1]], [velocity], [start], None, one))[0] for k in range(total.shape[1])
            ]
            return [total + ops.stack(columns, axis=1)]

        if not once:
            at_cut = engine.make_step(self.compile(gradients), [straight], slope, self.quick)
            ahead, back = self.quick(ahead), self.quick(back)
        else:
            at_cut = engine.make_step(gradients, [straight], slope)

        def step(sums, ends, starts, tw, side, index):
            blank, hs, from_ = ahead(sums, ends, starts)
            return back(sums, at_cut(blank, hs, from_, tw, side, index), ends, starts)

        return self.compile(step) if once else step


class Beyond(Oracle):
    """What follows the prefix of another oracle: F of h."""

    def __init__(self, whole):
        vars(self).update(vars(whole))

    def flat(self, points, side, *args, **kwargs):
        (h,) = points
        with self.prefix.skipped(h):
            return super().flat([_blank(h, self.shapes[0])], side, *args, **kwargs)


def find(oracle):
    """The prefix at whose end a path is laid, or None."""
    model = oracle.model
    if oracle.roles != ["moves"] or oracle.readings or oracle.inner or isinstance(oracle.output, Place):
        return None
    if not _is_graph(model) or not _fits(_graph(model).inputs[0], oracle.shapes[0]):
        return None
    calls = _calls(model)
    found, layers, shapes, work = [], [], [], 0
    for layer, tensors in _chain(model):
        before = shapes[-1] if shapes else oracle.shapes[0]
        after = tuple(layer.compute_output_shape((1, *before))[1:])
        exact = {layer.compute_dtype, *(t.dtype for t in tensors)} == {oracle.dtype}
        if not exact or calls.count(id(layer)) > 1 or None in after:
            break
        layers.append(layer)
        shapes.append(after)
        work += _work(layer, before, shapes[-1])
        found.append(Prefix(tuple(layers), tuple(shapes), work))

    def worth(prefix):
        return gain(prefix, oracle.shapes[0], oracle.backend.OPERATIONS_PER_ELEMENT)

    best = max(found, key=worth, default=None)
    return best if best and worth(best) > 0 else None


def gain(prefix, row, number):
    """Multiply-adds that are saved at every point; those that numbers to interpolate and to sum are worth included.

    It pays where the cut has no more numbers than the inputs, and where the prefix is worth those that it has more:
    docs/running.md has what was measured.

    Args:
        number: multiply-adds that one number is worth.
    """
    return prefix.work + number * (math.prod(row) - math.prod(prefix.shapes[-1]))


def _work(layer, before, after):
    """Multiply-adds of a row: the numbers of a kernel, or of two, once for each place that it is held against."""
    kernels = [tuple(w.shape) for w in layer.weights if "kernel" in w.name]
    if not kernels:
        return 0
    last = kernels[-1]
    if isinstance(layer, TRANSPOSED):
        places = math.prod(before) // last[-1]
    elif isinstance(layer, L.EinsumDense):
        factors, out = layer.equation.replace(" ", "").split("->")
        axes = zip(factors.split(",")[1], last, strict=True)
        places = math.prod(after) // math.prod(size for axis, size in axes if axis in out)
    else:
        depthwise = isinstance(layer, (L.DepthwiseConv1D, L.DepthwiseConv2D))
        places = math.prod(after) // math.prod(last[-2:] if depthwise else last[-1:])
    return places * sum(map(math.prod, kernels))


def _chain(model):
    """The affine layers that follow one another from the only input of a graph on, nothing else reading on the way.

    Yields (layer, its input and output); returns whether this leads to an output.
    """
    graph = _graph(model)
    if len(graph.inputs) > 1:
        return False
    (x,) = graph.inputs
    nodes = _nodes(graph)
    while True:
        readers = [n for n in nodes if any(t is x for t in n.input_tensors)]
        if any(t is x for t in graph.outputs):
            return True
        if len(readers) != 1 or not _plainly(readers[0], x):
            return False
        layer, (y,) = readers[0].operation, readers[0].output_tensors
        if _is_graph(layer):
            if not (yield from _chain(layer)):
                return False
        elif _is_affine(layer):
            yield layer, (x, y)
            if not _is_linear(layer):
                return False
        else:
            return False
        x = y


def _calls(model):
    """The layers that a graph calls, those of the graphs inside it too, once for each call, by identity."""
    found = []
    for node in _nodes(_graph(model)):
        found += _calls(node.operation) if _is_graph(node.operation) else [id(node.operation)]
    return found


def _nodes(graph):
    return [n for level in graph._nodes_by_depth.values() for n in level if not n.is_input]


def _graph(model):
    return model._functional if isinstance(model, keras.Sequential) else model


def _is_graph(model):
    """Whether a model does what its graph says: a Sequential or Functional one that has no call of its own."""
    own = getattr(type(model).call, "__module__", "") if isinstance(model, keras.Model) else ""
    return own.startswith("keras.src.models.") and hasattr(_graph(model), "_nodes_by_depth")


def _plainly(node, x):
    """Whether a call takes x and nothing else, as inference does: training=True would be another function."""
    arguments = node.arguments
    still = all(value is None or value is False for value in arguments.kwargs.values())
    return still and len(arguments.args) == 1 and arguments.args[0] is x and len(node.output_tensors) == 1


def _is_affine(layer):
    known = type(layer) in AFFINE and "call" not in vars(layer) and getattr(layer, "quantization_mode", None) is None
    return known and (type(layer) is not L.Activation or _is_linear(layer))


def _is_linear(layer):
    return getattr(layer, "activation", None) in (None, keras.activations.linear)


def _fits(tensor, row):
    shape = tensor.shape[1:]
    return len(shape) == len(row) and all(a in (None, b) for a, b in zip(shape, row, strict=True))


def _blank(like, row):
    """Rows that hold nothing, as many as those of another tensor."""
    return ops.broadcast_to(ops.zeros((1,) * (1 + len(row)), like.dtype), (len_of(like), *row))
