"""The affine prefix of a network: layers that keep a straight line straight, so that the path can begin behind them.

    x ───A───▶ h ───rest───▶ F          h = A x + b,   b and A the same everywhere

Along a straight path with d = x − x′ the prefix moves h along a straight path too, and the chain rule has one Aᵀ:

    h(x′ + t d) = h(x′) + t (h(x) − h(x′))          ∫₀¹ ∂F/∂x dt = Aᵀ ∫₀¹ ∂F/∂h dt

So A is evaluated at the two ends, and Aᵀ once, in place of both at each of the nodes tₖ:

    x′, x  ───A───▶  h′, h                                          once
                     h′ + tₖ (h − h′)  ───rest───▶  F, ∂F/∂h        at every node
    Σ wₖ ∂F/∂x  ◀───Aᵀ───  Σ wₖ ∂F/∂h                               once, a vector–Jacobian product

A secant of an affine map is its derivative, so the same holds of cells. Credits that are linear in the slope are given
the mean slope; values differ from those of the path of the inputs by rounding alone.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import keras
from keras import layers as L
from keras import ops

from aumann import backends
from aumann.backends import keras_private
from aumann.core import engine
from aumann.core.credits import Moment, hypothetical, share, slope
from aumann.core.paths import straight
from aumann.model.caller import Caller
from aumann.model.interception import Handlers, Site, intercepted
from aumann.model.signature import len_of
from aumann.model.survey import Survey

LINEAR = (share, slope, hypothetical)  # credits, in the slope
LEAST_NODES = 3  # of a row in a batch: both ends of h and the product with Aᵀ cost about as much as A at 1.5 nodes

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
    """Affine layers, each of which reads what the one before it returns, and all of the network reads the last one.

    Attributes:
        layers: from the model's input on. h is what the activation of the last one is given.
        row: shape of one row of the input.
        shapes: of one row of what each layer returns, that of h last.
        multiply_adds: of a row.
    """

    layers: tuple
    row: tuple
    shapes: tuple
    multiply_adds: int

    @property
    def name(self) -> str:
        """Of the last layer."""
        return self.layers[-1].name

    def __call__(self, x: Any) -> Any:
        """h of rows."""
        last = self.layers[-1]
        bare: Handlers = {(last, "activation"): lambda original, h: h} if hasattr(last, "activation") else {}
        with intercepted(bare):
            for layer in self.layers:
                x = layer(x, training=False)
        return x

    def skipped(self, h: Any) -> AbstractContextManager[None]:
        """While the block is open the model continues from h, whatever it is fed, and computes nothing before it."""
        *before, last = self.layers

        def leave_out(shape):
            return lambda original, *args, **kwargs: _blank(h, shape)

        def enter(original, *args, **kwargs):
            activation = getattr(last, "activation", None)
            return h if activation is None else activation(h)

        handlers = {(layer, "call"): leave_out(shape) for layer, shape in zip(before, self.shapes, strict=False)}
        return intercepted({**handlers, (last, "call"): enter})

    def behind(self, outputs: Callable[..., Any]) -> Callable[..., Any]:
        """The outputs as a function of h: what follows the prefix.

        Args:
            outputs: ([x], held, functions, composite_ops) -> outputs.
        """

        def outputs_of(moving, held, functions, composite_ops):
            (h,) = moving
            with self.skipped(h):
                return outputs([_blank(h, self.row)], held, functions, composite_ops)

        return outputs_of

    def serves(self, paths: Sequence[Callable], credit: Callable) -> bool:
        """Whether values along these paths by this credit can be taken behind the prefix."""
        return credit in LINEAR and all(path is straight for path in paths)

    def pays(self, paths: Sequence[Callable], credit: Callable, baselines: int, nodes: int, targets: int = 1) -> bool:
        """Whether paths from so many baselines, with so many nodes in a batch, are taken behind the prefix.

        The sums of each target are as large as h: where h has more numbers than the inputs, there are to be no more
        targets than nodes.
        """
        if baselines > 1 or not self.serves(paths, credit):
            return False
        larger = math.prod(self.shapes[-1]) > math.prod(self.row)
        return nodes >= (max(LEAST_NODES, targets) if larger else LEAST_NODES)

    def make_step(
        self,
        gradients: Callable[..., Any],
        credit: Callable[..., Any] = share,
        compile: Callable[[Callable], Callable] = lambda fn: fn,
    ) -> Callable[..., Any]:
        """A batch of the sum as `engine.make_step` gives it, for straight paths of one input from one baseline.

        Args:
            gradients: ([h], held, index) -> F, and ∂F/∂h: of what follows the prefix.
            credit: one of `LINEAR`.
            compile: of what comes before and after the gradients, where these are compiled by themselves.
        """

        def forward(sums, ends, starts):
            (x,), (start,) = ends, starts
            rows = ops.broadcast_to(start[:, 0], (len_of(start), *x.shape[1:]))
            h = self(x)
            zeros = ops.repeat(ops.expand_dims(ops.zeros_like(h), 1), sums[0].shape[1], axis=1)
            return [zeros], [h], [ops.expand_dims(self(rows), 1)]

        def back(sums, means, ends, starts):
            (total,), (mean,), (x,), (start,) = sums, means, ends, starts
            slopes = self._transposed(mean, total, x)
            one = ops.ones_like(ops.reshape(slopes, (len_of(x), -1))[:, :1])
            velocity = ops.expand_dims(x, 1) - start
            columns = [
                credit(Moment([slopes[:, k : k + 1]], [velocity], [start], None, one))[0] for k in range(total.shape[1])
            ]
            return [total + ops.stack(columns, axis=1)]

        at_h = engine.make_step(gradients, [straight], slope, compile)
        forward, back = compile(forward), compile(back)

        def step(sums, ends, starts, tw, held, index):
            zeros, h, h_start = forward(sums, ends, starts)
            return back(sums, at_h(zeros, h, h_start, tw, held, index), ends, starts)

        return step

    def _transposed(self, mean: Any, total: Any, x: Any) -> Any:
        """Aᵀ · mean of each row and target, of the shape of `total`: the gradient of ⟨A x + b, mean⟩ at any x."""
        mean = ops.reshape(mean, (-1, *self.shapes[-1]))

        def products(points):
            h = self(points[0]) * mean
            return ops.expand_dims(ops.sum(h, axis=tuple(range(1, len(h.shape)))), 1)

        anywhere = [ops.reshape(ops.zeros_like(total), (-1, *x.shape[1:]))]
        _, ((pulled,),) = backends.active().gradients(products, anywhere)
        return ops.reshape(pulled, ops.shape(total))


def find(caller: Caller, survey: Survey) -> Prefix | None:
    """The prefix that saves most of a model, or None."""
    model, signature = caller.model, survey.signature
    if signature.roles != ("moves",) or survey.embedding_inputs or survey.target_layers or caller.fill is not None:
        return None
    row = survey.first[0].shape[1:]
    if isinstance(caller.output, Site) or not keras_private.is_graph(model):
        return None
    if not _fits(keras_private.graph(model).inputs[0], row):
        return None
    calls = _calls(model)
    prefixes: list[Prefix] = []
    for layer, tensors in _chain(model):
        before = prefixes[-1].shapes[-1] if prefixes else row
        after = tuple(layer.compute_output_shape((1, *before))[1:])
        exact = {layer.compute_dtype, *(t.dtype for t in tensors)} == {signature.dtype}
        if not exact or calls.count(id(layer)) > 1 or None in after:
            break
        shorter = prefixes[-1] if prefixes else Prefix((), row, (), 0)
        work = shorter.multiply_adds + multiply_adds(layer, before, after)
        prefixes.append(Prefix((*shorter.layers, layer), row, (*shorter.shapes, after), work))

    def worth(prefix):
        return gain(prefix, backends.active().OPERATIONS_PER_ELEMENT)

    best = max(prefixes, key=worth, default=None)
    return best if best and worth(best) > 0 else None


def gain(prefix: Prefix, element: float) -> float:
    """Multiply-adds that are saved at every node; those that elements to interpolate and to sum are worth included.

    It pays where h has no more elements than the inputs, and where the prefix is worth those that it has more:
    docs/running.md has what was measured.

    Args:
        element: multiply-adds that one element is worth.
    """
    return prefix.multiply_adds + element * (math.prod(prefix.row) - math.prod(prefix.shapes[-1]))


def multiply_adds(layer: keras.Layer, before: tuple, after: tuple) -> int:
    """Multiply-adds of a row: the elements of a kernel, or of two, once for each position that it is held against.

    Args:
        before, after: shapes of one row of what the layer takes and returns.
    """
    kernels = [tuple(w.shape) for w in layer.weights if "kernel" in w.name]
    if not kernels:
        return 0
    last = kernels[-1]
    if isinstance(layer, TRANSPOSED):
        positions = math.prod(before) // last[-1]
    elif isinstance(layer, L.EinsumDense):
        factors, out = layer.equation.replace(" ", "").split("->")
        axes = zip(factors.split(",")[1], last, strict=True)
        positions = math.prod(after) // math.prod(size for axis, size in axes if axis in out)
    else:
        depthwise = isinstance(layer, (L.DepthwiseConv1D, L.DepthwiseConv2D))
        positions = math.prod(after) // math.prod(last[-2:] if depthwise else last[-1:])
    return positions * sum(map(math.prod, kernels))


def is_affine(layer: keras.Layer) -> bool:
    """Whether a layer is affine at inference, up to an activation of its own at the end."""
    known = type(layer) in AFFINE and "call" not in vars(layer) and keras_private.quantization_mode(layer) is None
    return known and (type(layer) is not L.Activation or _is_linear(layer))


def _is_linear(layer: keras.Layer) -> bool:
    return getattr(layer, "activation", None) in (None, keras.activations.linear)


def _chain(model: keras.Model) -> Iterator:
    """The affine layers that follow one another from the only input of a graph on, while nothing else reads between.

    Yields (layer, its input and output); returns whether this leads to an output.
    """
    graph = keras_private.graph(model)
    if len(graph.inputs) > 1:
        return False
    (x,) = graph.inputs
    nodes = keras_private.nodes(graph)
    while True:
        readers = [n for n in nodes if any(t is x for t in n.input_tensors)]
        if any(t is x for t in graph.outputs):
            return True
        if len(readers) != 1 or not _takes_only(readers[0], x):
            return False
        layer, (y,) = readers[0].operation, readers[0].output_tensors
        if keras_private.is_graph(layer):
            if not (yield from _chain(layer)):
                return False
        elif is_affine(layer):
            yield layer, (x, y)
            if not _is_linear(layer):
                return False
        else:
            return False
        x = y


def _calls(model: keras.Model) -> list[int]:
    """The layers that a graph calls, those of the graphs inside it too, once for each call, by identity."""
    calls = []
    for node in keras_private.nodes(keras_private.graph(model)):
        inside = keras_private.is_graph(node.operation)
        calls += _calls(node.operation) if inside else [id(node.operation)]
    return calls


def _takes_only(node: Any, x: Any) -> bool:
    """Whether a call takes x and nothing else, as at inference: training=True would be another function."""
    arguments = node.arguments
    still = all(value is None or value is False for value in arguments.kwargs.values())
    return still and len(arguments.args) == 1 and arguments.args[0] is x and len(node.output_tensors) == 1


def _fits(tensor: Any, row: tuple) -> bool:
    shape = tensor.shape[1:]
    return len(shape) == len(row) and all(a in (None, b) for a, b in zip(shape, row, strict=True))


def _blank(like: Any, row: tuple) -> Any:
    """Rows that hold nothing, as many as those of another tensor."""
    return ops.broadcast_to(ops.zeros((1,) * (1 + len(row)), like.dtype), (len_of(like), *row))
