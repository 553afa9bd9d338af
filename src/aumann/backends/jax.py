"""JAX: one jitted function; the model's variables travel as arguments, so later training is seen."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import jax
import keras
import numpy as np
from jax.dtypes import canonicalize_dtype

from aumann.backends import (
    Function,
    Gradients,
    Reads,
    copies,
    jax_secants,
    jax_survey,
    keras_private,
    main_memory,
    tracing,
)
from aumann.backends import jax_private as private
from aumann.backends.jax_secants import composite_op as composite_op

COMPILE_MODES: tuple[str, ...] = ("xla",)
AUTO_MODE = "xla"
OPERATIONS_PER_ELEMENT = 48


def dynamic(cells: bool, compile_mode: str = "xla") -> bool:
    """Every shape is compiled."""
    return False


def compile(fn: Callable, variables: Sequence, compile_mode: str = "xla") -> Callable:
    """`jax.jit` over (values of the variables, arguments)."""

    @jax.jit
    def run(state, args):
        with tracing, keras.StatelessScope(state_mapping=list(zip(variables, state, strict=True))):
            return fn(*args)

    def with_state(*args):
        return run(copies.of(variables), args)

    with_state.compile_modes = {compile_mode}
    return with_state


def trace(fn: Callable, *arrays: Sequence) -> list:
    """Evaluates shapes only."""
    reads = Reads()

    def run(args):
        with reads:
            fn(*args)
        return ()

    jax.eval_shape(run, [[jax.ShapeDtypeStruct(a.shape, a.dtype) for a in group] for group in arrays])
    return list(reads.variables.values())


def plain(fn: Callable, variables: Sequence) -> Callable | None:
    """None: each operation would be compiled for itself."""
    return None


def constants(fn: Callable, rows: int, *args: Any) -> list:
    def shaped(array):
        return jax.ShapeDtypeStruct((rows, *array.shape[1:]), array.dtype)

    with keras.StatelessScope():  # a new function each time, since traces are kept
        closed = jax.make_jaxpr(lambda *args: fn(*args))(*jax.tree.map(shaped, args))
    return [*closed.consts, *jax_secants.literals(closed.jaxpr)]


def gradients(fn: Function, points: Sequence) -> Gradients:
    values, vjp = jax.vjp(fn, points)
    eye = np.eye(values.shape[1])
    columns = [vjp(jax.numpy.broadcast_to(eye[k], values.shape).astype(values.dtype))[0] for k in range(len(eye))]
    return values, [list(row) for row in zip(*columns, strict=True)]


def curvatures(fn: Callable, point: Any, chosen: Any) -> Any:
    """Forward over reverse: the slopes are linearised once, and applied to one direction after another."""
    columns = jax.eval_shape(fn, point).shape[1]

    def rows(k):
        _, jvp = jax.linearize(jax.grad(lambda point: fn(point)[:, k].sum()), point)
        return jax.lax.map(lambda i: jvp(jax.numpy.zeros_like(point).at[:, i].set(1)), chosen)

    return jax.numpy.stack([jax.numpy.moveaxis(rows(k), 0, 1) for k in range(columns)], axis=1)


def slopes(fn: Function, points: Sequence) -> Sequence:
    return jax.grad(lambda points: fn(points).sum())(points)


def secants(fn: Function, points: Sequence) -> Gradients:
    return gradients(jax_secants.secants(fn, len(points[0])), points)


@contextlib.contextmanager
def _forgotten():
    """After the block the states that a model has noted are as before: those of a trace mean nothing outside of it."""
    scope = keras_private.stateless_scope()
    before = dict(scope.state_mapping) if scope else {}
    try:
        yield
    finally:
        if scope:
            scope.state_mapping.clear()
            scope.state_mapping.update(before)


def jvp(fn: Callable, points: Sequence, directions: Sequence) -> tuple[Sequence, Sequence]:
    """Forward mode; where a function has a backward of its own and no forward, the transpose of the vjp."""
    with _forgotten():
        return _jvp(fn, points, directions)


def _jvp(fn, points, directions):
    def forward(points, directions):
        return jax.jvp(fn, (points,), (directions,))

    closed, shape = jax.make_jaxpr(forward, return_shape=True)(points, directions)
    if not _calls(closed.jaxpr, private.CUSTOM_LIN):
        run = private.function_of(closed)
        if run is None:
            return forward(points, directions)
        leaves = run(*jax.tree.leaves((points, directions)))
        return jax.tree.unflatten(jax.tree.structure(shape), leaves)
    values, vjp = jax.vjp(fn, points)
    _, along = jax.vjp(lambda slopes: vjp(slopes)[0], [jax.numpy.zeros_like(y) for y in values])
    return values, along(directions)[0]


def _calls(jaxpr, name):
    """Whether an operation of that name is anywhere in a jaxpr."""
    inside = [v for e in jaxpr.eqns for p in e.params.values() for v in (p if isinstance(p, (list, tuple)) else [p])]
    bodies = [getattr(v, "jaxpr", v) for v in inside]
    return any(e.primitive.name == name for e in jaxpr.eqns) or any(
        _calls(body, name) for body in bodies if hasattr(body, "eqns")
    )


def has_kinks(fn: Function, points: Sequence, variables: Sequence) -> bool | None:
    with keras.StatelessScope():
        return jax_survey.has_kinks(fn, points)


@contextlib.contextmanager
def inference(model: Any) -> Iterator[None]:
    """Nothing to hold: JAX functions are pure."""
    yield


def arithmetic(precision: str) -> AbstractContextManager:
    """Of this thread, and of what is traced in it: `jax.jit` compiles for each precision."""
    return jax.default_matmul_precision({"full": "highest", "tf32": "tensorfloat32"}[precision])


def devices() -> list[str]:
    return list(_devices())


def _devices():
    """By name, those of the default platform first."""
    by_name: dict[str, Any] = {}
    for device in [*jax.local_devices(), *jax.local_devices(backend="cpu")]:
        if device not in by_name.values():
            by_name[f"{device.platform}:{sum(d.platform == device.platform for d in by_name.values())}"] = device
    return by_name


def on(device: str, kept: dict) -> AbstractContextManager:
    """In a thread of its own, with the floats of the one that asks: both are settings of a thread."""
    target, wide = _devices()[device], jax.config.jax_enable_x64

    @contextlib.contextmanager
    def on_target():
        put = copies.held(kept, lambda x: jax.device_put(x, target))
        with private.enable_x64(wide), jax.default_device(target), put:
            yield

    return on_target()


def lookups(layers: Iterable) -> list[tuple[str, Any]]:
    """Keras has its own."""
    return []


# Of Keras, they compute with TensorFlow on every backend, which no trace of JAX can follow.
OUTSIDE = keras.layers.IntegerLookup, keras.layers.Hashing, keras.layers.HashedCrossing


def outside(layers: Iterable) -> Mapping:
    return {(layer, "call"): _on_host for layer in layers if isinstance(layer, OUTSIDE)}


def _on_host(original, *args, **kwargs):
    """Looks ids up by a callback, through which no gradient passes."""
    flat, shape = jax.tree.flatten((args, kwargs))
    if not any(map(private.is_tracer, flat)):
        return original(*args, **kwargs)

    def look_up(*arrays):
        args, kwargs = jax.tree.unflatten(shape, map(np.asarray, arrays))
        with keras_private.tensorflow_scope():  # a callback must not call JAX
            return jax.tree.map(lambda y: np.asarray(y, canonicalize_dtype(y.dtype.name)), original(*args, **kwargs))

    blank = [np.zeros(np.shape(x), x.dtype if hasattr(x, "dtype") else None) for x in flat]
    specs = jax.tree.map(lambda y: jax.ShapeDtypeStruct(y.shape, y.dtype), look_up(*blank))
    return jax.pure_callback(look_up, specs, *flat)


def send(array: np.ndarray) -> Any:
    """On CPU what is compiled takes NumPy's arrays as they are; a small MLP then takes 0.85 of the time."""
    return array if jax.default_backend() == "cpu" else jax.numpy.asarray(array)


def host(array: Any) -> np.ndarray:
    return np.asarray(array)


def widest() -> str:
    return "float64" if jax.config.jax_enable_x64 else "float32"


def owns(x: Any) -> bool:
    return isinstance(x, jax.Array)


def symbolic(x: Any) -> bool:
    return private.is_tracer(x)


def staging() -> bool:
    return private.is_tracer(jax.numpy.zeros(()))


def out_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or (
        isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error)
    )


def free() -> int | None:
    device = jax.numpy.zeros(()).device
    if device.platform == "cpu":
        return main_memory()
    stats = device.memory_stats()
    return stats["bytes_limit"] - stats["bytes_in_use"] if stats else None


def rows_in_flight(width: int, operations: int) -> int:
    """XLA on CPU is fastest with 16 to 64 rows of a LeNet and one of MobileNetV2."""
    return min((1 << 20 if jax.numpy.zeros(()).device.platform == "cpu" else 1 << 28) // width, 4096)


def describe() -> tuple[dict[str, str], str]:
    device = jax.devices()[0]
    return {"jax": jax.__version__}, "cpu" if device.platform == "cpu" else device.device_kind
