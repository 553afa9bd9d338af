"""TensorFlow: graphs always (eager tapes crash TF 2.21 on some strided 1×1 convolutions), XLA where it is faster."""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import tree

from aumann.backends import (
    Function,
    Gradients,
    Reads,
    Switch,
    copies,
    main_memory,
    tensorflow_secants,
    tensorflow_survey,
    tracing,
)
from aumann.backends.tensorflow_secants import composite_op as composite_op

COMPILE_MODES: tuple[str, ...] = "graph", "xla"
AUTO_MODE = "either"
OPERATIONS_PER_ELEMENT = 8
PATIENCE = 5  # times of tracing a graph that it runs on one shape before XLA is tried, which compiles for about one


def dynamic(cells: bool, compile_mode: str = "graph") -> bool:
    """Graphs take any number of rows; what XLA compiles, as it does some rules of secants, does not."""
    return compile_mode != "xla" and not cells


def compile(fn: Callable, variables: Sequence, compile_mode: str = "graph") -> Callable:
    """A `tf.function`; variables are captured by reference, so later training is seen without a new trace.

    On a device that was named they are arguments, and their copies there are passed. Where XLA fails, as it has no
    maximum over windows that tells its places, a graph stands in and `compile_modes` say so.
    """

    def stateless(state, *args):
        with keras.StatelessScope(state_mapping=list(zip(variables, state, strict=False))):
            return fn(*args)

    graphs, refused, compile_modes = {}, set(), {"graph"} if compile_mode == "either" else set()

    def traced(specs, state, fused=compile_mode == "xla"):
        signature = [[tf.TensorSpec(x.shape, x.dtype) for x in state], *specs]
        with tracing:
            traced = tf.function(stateless, autograph=False, input_signature=signature, jit_compile=fused or None)
            return traced.get_concrete_function()

    def made(specs, state):
        key = str(specs), len(state)
        with tracing:
            if key not in graphs:
                start = time.perf_counter()
                graph = graphs[key] = traced(specs, state)
                if compile_mode == "either":
                    long = PATIENCE * (time.perf_counter() - start)
                    graphs[key] = _Either(graph, lambda: traced(specs, state, True), compile_modes, long)
        return key, specs

    def run(*args):
        state = [] if copies.kept is None else copies.of(variables)
        try:
            key, specs = made(tree.map_structure(_spec, args), state)
        except (TypeError, ValueError):  # a function that asks for the number of rows gets its number
            key, specs = made(tree.map_structure(lambda x: tf.TensorSpec(x.shape, x.dtype), args), state)
        try:
            result = graphs[key](state, *args)
            if compile_mode != "either":
                compile_modes.add("graph" if key in refused else compile_mode)
            return result
        except (tf.errors.InvalidArgumentError, tf.errors.UnimplementedError) as error:
            if compile_mode == "xla" and key not in refused:
                refused.add(key)
                graphs[key] = traced(specs, state, fused=False)
                return run(*args)
            raise ValueError(
                f"Expected the model to accept its inputs, received an error while it ran: {error.message}. "
                "Check that model(inputs) works on these numbers, and ids against the size of their Embedding."
            ) from error

    run.compile_modes = compile_modes
    return run


def plain(fn: Callable, variables: Sequence) -> Callable | None:
    """Run operation by operation: a graph takes longer to trace than a few rows take."""

    def run(*args):
        state = [] if copies.kept is None else copies.of(variables)
        with keras.StatelessScope(state_mapping=list(zip(variables, state, strict=False))):
            return fn(*args)

    return run


class _Either:
    """A graph, until it has run for `long` on arguments of some shapes; then the faster of it and what XLA makes of it.

    On CPU, XLA takes 0.5 to 0.9 of the time of a graph for attention, LSTM and small dense networks, and 2.5 times as
    long for convolutions, which it is not tried on.
    """

    def __init__(self, graph, fuse, compile_modes, long):
        self.graph, self.fuse, self.compile_modes, self.long = graph, fuse, compile_modes, long
        self.calls, self.least, self.settled = {}, {}, {}  # by shapes: how often, seconds of a call, what was faster
        on_gpu = bool(tf.config.list_logical_devices("GPU"))
        self.only = not on_gpu and any("Conv" in op.type for op in graph.graph.get_operations())

    def __call__(self, *args):
        shapes = () if self.only else tuple(tuple(x.shape) for x in tree.flatten(args))
        if self.only or shapes in self.settled:
            return self.settled.get(shapes, self.graph)(*args)
        calls = self.calls[shapes] = self.calls.get(shapes, 0) + 1
        if calls & (calls - 1):  # timing waits for the device: at calls 1, 2, 4, … only
            return self.graph(*args)
        result, seconds = _timed(self.graph, args)
        seconds = self.least[shapes] = min(seconds, self.least.get(shapes, seconds))  # a machine may stall
        if calls * seconds > self.long:
            self.settled[shapes] = self._faster(args, seconds)
        return result

    def _faster(self, args, seconds):
        try:
            fused = self.fuse()
            fused(*args)
        except tf.errors.OpError:  # what XLA cannot compile, or holds no memory for
            return self.graph
        if _timed(fused, args)[1] > min(seconds, _timed(self.graph, args)[1]):
            return self.graph
        self.compile_modes.add("xla")
        return fused


def _timed(fn, args):
    tf.test.experimental.sync_devices()
    start = time.perf_counter()
    result = fn(*args)
    tf.test.experimental.sync_devices()
    return result, time.perf_counter() - start


def _spec(x):
    """Any number of rows, unless it is one, which may be one for all."""
    shape = list(x.shape)
    return tf.TensorSpec([None, *shape[1:]] if shape and shape[0] != 1 else shape, x.dtype)


def trace(fn: Callable, *arrays: Sequence) -> list:
    """Builds the graph of fn without running it."""
    specs = [[tf.TensorSpec(a.shape, a.dtype) for a in group] for group in arrays]
    reads = Reads()

    def stateless(*args):
        with reads:
            fn(*args)
        return ()

    tf.function(stateless, autograph=False).get_concrete_function(*specs)
    return list(reads.variables.values())


def constants(fn: Callable, rows: int, *args: Any) -> list:
    """What runs as it is written draws at every call what it draws at all."""
    return []


def gradients(fn: Function, points: Sequence) -> Gradients:
    with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
        tape.watch(points)
        values = fn(points)
        k = values.shape[1]
        columns = tf.unstack(values, num=k, axis=1)
    try:
        return values, [list(row) for row in zip(*(tape.gradient(c, points) for c in columns), strict=True)]
    except LookupError as error:
        raise ValueError(
            f"Expected operations that have a gradient in TensorFlow, received one that has none: {error}. Explain the "
            "score before it: choose another output= or target=."
        ) from error


def secants(fn: Function, points: Sequence) -> Gradients:
    return tensorflow_secants.secants(fn, points)


def slopes(fn: Function, points: Sequence) -> Sequence:
    """Under the caller's tape, if there is one, which records this one's gradient too."""
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(points)
        values = fn(points)
    return tape.gradient(values, points)


def curvatures(fn: Callable, point: Any, chosen: Any) -> Any:
    """Reverse over reverse, one direction after another: what `tf.vectorized_map` makes of some operations fails."""
    with tf.GradientTape(persistent=True, watch_accessed_variables=False) as tape:
        tape.watch(point)
        with tf.GradientTape(persistent=True, watch_accessed_variables=False) as inner:
            inner.watch(point)
            values = fn(point)
            columns = tf.unstack(values, num=values.shape[1], axis=1)
        slopes = [inner.gradient(column, point) for column in columns]

    def rows(slope):
        def row(i):
            along = tf.broadcast_to(tf.one_hot(i, tf.shape(point)[1], dtype=point.dtype), tf.shape(point))
            return tape.gradient(slope, point, along, unconnected_gradients="zero")

        return tf.map_fn(row, chosen, fn_output_signature=point.dtype, parallel_iterations=1)

    return tf.stack([tf.transpose(rows(slope), (1, 0, 2)) for slope in slopes], axis=1)


def jvp(fn: Callable, points: Sequence, directions: Sequence) -> tuple[Sequence, Sequence]:
    """Forward mode; where a function brings a gradient of its own, or an operation, as some loops, has no forward mode,
    the derivative of the vjp, which is linear in its cotangent.
    """
    before = len(tf.compat.v1.get_default_graph().get_operations())
    try:
        with tf.autodiff.ForwardAccumulator(points, directions) as forward:
            values = fn(points)
    except (TypeError, ValueError, LookupError):  # an error of the model itself is raised again
        return _jvp_by_vjps(fn, points, directions)
    if tensorflow_secants.has_custom_gradient(tf.compat.v1.get_default_graph().get_operations()[before:]):
        return _jvp_by_vjps(fn, points, directions)
    return values, [forward.jvp(y, tf.UnconnectedGradients.ZERO) for y in values]


def _jvp_by_vjps(fn, points, directions):
    with tf.GradientTape(watch_accessed_variables=False) as outer:
        with tf.GradientTape(watch_accessed_variables=False) as inner:
            inner.watch(points)
            values = fn(points)
        cotangents = [tf.zeros_like(y) for y in values]
        outer.watch(cotangents)
        carried = inner.gradient(values, points, cotangents, tf.UnconnectedGradients.ZERO)
        total = tf.add_n([tf.reduce_sum(g * d) for g, d in zip(carried, directions, strict=True)])
    return values, outer.gradient(total, cotangents, unconnected_gradients=tf.UnconnectedGradients.ZERO)


def has_kinks(fn: Function, points: Sequence, variables: Sequence) -> bool | None:
    with keras.StatelessScope():
        return tensorflow_survey.has_kinks(fn, points)


@contextlib.contextmanager
def inference(model: Any) -> Iterator[None]:
    """Nothing to hold: `training=False` is passed to the model and a graph keeps no global state."""
    yield


def _turn(precision):
    """Read whenever an operation runs; true unless somebody says otherwise."""
    config = tf.config.experimental
    before = config.tensor_float_32_execution_enabled()
    config.enable_tensor_float_32_execution(precision == "tf32")
    return lambda: config.enable_tensor_float_32_execution(before)


_precision = Switch(_turn)


def arithmetic(precision: str) -> AbstractContextManager:
    return _precision(precision)


def devices() -> list[str]:
    """Accelerators first, the CPU last."""
    names = [d.name.removeprefix("/device:").lower() for d in tf.config.list_logical_devices()]
    return sorted(names, key=lambda name: name.startswith("cpu"))


@contextlib.contextmanager
def on(device: str, kept: dict) -> Iterator[None]:
    with tf.device(device.upper()), copies.held(kept, tf.identity):
        yield


def lookups(layers: Iterable) -> list[tuple[str, Any]]:
    """Keras has its own."""
    return []


def outside(layers: Iterable) -> Mapping:
    """Everything that Keras has runs where the rest does."""
    return {}


def send(array: np.ndarray) -> Any:
    return tf.convert_to_tensor(array)


def host(array: Any) -> np.ndarray:
    return array.numpy() if hasattr(array, "numpy") else array


def widest() -> str:
    return "float64"


def owns(x: Any) -> bool:
    return isinstance(x, (tf.Tensor, tf.Variable))


def symbolic(x: Any) -> bool:
    return tf.is_symbolic_tensor(x) if isinstance(x, tf.Tensor) else False


def staging() -> bool:
    return not tf.executing_eagerly()


def out_of_memory(error: Exception) -> bool:
    return isinstance(error, (MemoryError, tf.errors.ResourceExhaustedError))


def free() -> int | None:
    """Nobody tells how much of a GPU is left."""
    return None if "GPU" in tf.zeros(()).device else main_memory()


def rows_in_flight(width: int, operations: int) -> int:
    """On CPU as many as make three million numbers in an operation: 16384 of a small MLP, 1000 of a LeNet, 20 of
    MobileNetV2, 4000 and more of a small transformer. On a GPU, what it may hold.
    """
    if "GPU" in tf.zeros(()).device:
        return min((1 << 28) // width, 16384)
    return min((3 << 20) * operations // width, 16384)


def describe() -> tuple[dict[str, str], str]:
    gpus = tf.config.list_logical_devices("GPU")
    return {"tensorflow": tf.__version__}, gpus[0].name if gpus else "cpu"
