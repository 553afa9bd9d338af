"""PyTorch: eager autograd, or what inductor makes of it; parameters are read detached, so no graph reaches them."""

import contextlib
import itertools
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import keras
import numpy as np
import torch
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from aumann.backends import (
    Function,
    Gradients,
    Reads,
    Switch,
    copies,
    keras_private,
    main_memory,
    torch_inductor,
    torch_survey,
)
from aumann.backends import torch_private as private
from aumann.backends.torch_secants import Secants, feed
from aumann.backends.torch_secants import composite_op as composite_op

COMPILE_MODES: tuple[str, ...] = "eager", "inductor"
AUTO_MODE = "eager"
OPERATIONS_PER_ELEMENT = 64

_forward_mode = threading.RLock()  # of the whole process, and not nested


def dynamic(cells: bool, compile_mode: str = "eager") -> bool:
    """Inductor compiles every shape."""
    return compile_mode == "eager"


def compile(fn: Callable, variables: Sequence, compile_mode: str = "eager") -> Callable:
    """Eager unless asked: inductor takes seconds to minutes for each shape, and pays in long jobs."""

    def stateless(state, args):
        with torch.no_grad(), keras.StatelessScope(state_mapping=list(zip(variables, state, strict=True))):
            return fn(*args)

    once = torch_inductor.compile(stateless) if compile_mode == "inductor" else stateless

    def run(*args):
        return once([value.detach() for value in copies.of(variables)], args)

    run.compile_modes = {compile_mode}
    return run


def plain(fn: Callable, variables: Sequence) -> Callable | None:
    return compile(fn, variables, "eager")


def constants(fn: Callable, rows: int, *args: Any) -> list:
    """What runs as it is written draws at every call what it draws at all."""
    return []


def _mapping(variables):
    return [(v, value.detach()) for v, value in zip(variables, copies.of(variables), strict=True)]


def trace(fn: Callable, *arrays: Sequence) -> list:
    """torch has no cheap abstract evaluation that every model survives: runs for real."""
    with torch.no_grad(), Reads() as reads:
        fn(*([keras.ops.convert_to_tensor(a) for a in group] for group in arrays))
    return list(reads.variables.values())


def gradients(fn: Function, points: Sequence) -> Gradients:
    return _gradients(fn, points, torch.autograd.grad)


def _gradients(fn, points, grad):
    with torch.enable_grad():
        points = [p.detach().requires_grad_() for p in points]
        values = fn(feed(points))
        k = values.shape[1]
        columns = []
        for c in range(k):
            if values.requires_grad:
                columns.append(grad(values[:, c].sum(), points, retain_graph=c + 1 < k, allow_unused=True))
            else:
                columns.append([None] * len(points))
    return values.detach(), [list(row) for row in zip(*columns, strict=True)]


def curvatures(fn: Callable, point: Any, chosen: Any) -> Any:
    """Reverse over reverse, one direction after another: every operation that can be differentiated twice will do."""
    with torch.enable_grad(), _twice():
        point = point.detach().requires_grad_()
        values = fn(point)
        columns = []
        for k in range(values.shape[1]):
            (slope,) = torch.autograd.grad(values[:, k].sum(), point, create_graph=True)
            entries = [slope.index_select(1, chosen[i : i + 1]).sum() for i in range(len(chosen))]
            rows = [torch.autograd.grad(entry, point, retain_graph=True)[0] for entry in entries]
            columns.append(torch.stack(rows, 1))
    return torch.stack(columns, 1)


def slopes(fn: Function, points: Sequence) -> Sequence:
    with torch.enable_grad(), _twice():
        points = [p if p.requires_grad else p.requires_grad_() for p in points]
        values = fn(points).sum()
        if not values.requires_grad:
            return [None] * len(points)
        return torch.autograd.grad(values, points, create_graph=True, allow_unused=True)


def secants(fn: Function, points: Sequence) -> Gradients:
    """The block lasts until the way back is done: what is computed anew on it carries secants too."""

    def grad(values, points, retain_graph, allow_unused):
        return private.run_backward(values, points, retain_graph, allow_unused)

    with Secants(len(points[0])):
        return _gradients(fn, points, grad)


def jvp(fn: Callable, points: Sequence, directions: Sequence) -> tuple[Sequence, Sequence]:
    """Forward mode; where an operation has none, the derivative of the vjp, which is linear in its cotangent."""
    try:
        with _forward_mode, _twice(), forward_ad.dual_level():
            pairs = [forward_ad.unpack_dual(y) for y in fn(list(map(forward_ad.make_dual, points, directions)))]
    except (NotImplementedError, ValueError) as error:  # the second where the model's error was told in other words
        if not any(isinstance(e, NotImplementedError) for e in (error, error.__cause__)):
            raise
        return _jvp_by_vjps(fn, points, directions)
    return [y for y, _ in pairs], [torch.zeros_like(y) if v is None else v for y, v in pairs]


def _twice() -> AbstractContextManager:
    """A block in which attention is made of operations that can be differentiated twice: the fused ones cannot."""
    return sdpa_kernel(SDPBackend.MATH)


def _jvp_by_vjps(fn, points, directions):
    with torch.enable_grad(), _twice():
        points = [p.detach().requires_grad_() for p in points]
        values = [y if y.requires_grad else y.detach().requires_grad_() for y in fn(points)]
        cotangents = [torch.zeros_like(y, requires_grad=True) for y in values]
        carried = torch.autograd.grad(values, points, cotangents, create_graph=True, allow_unused=True)
        total = sum((g * d).sum() for g, d in zip(carried, directions, strict=True) if g is not None)
        tangents = [None] * len(cotangents)
        if torch.is_tensor(total) and total.requires_grad:
            tangents = torch.autograd.grad(total, cotangents, allow_unused=True)
    values = [y.detach() for y in values]
    return values, [torch.zeros_like(y) if v is None else v for y, v in zip(values, tangents, strict=True)]


def has_kinks(fn: Function, points: Sequence, variables: Sequence) -> bool | None:
    with keras.StatelessScope(state_mapping=_mapping(variables)):
        return torch_survey.has_kinks(fn, points)


@contextlib.contextmanager
def inference(model: Any) -> Iterator[None]:
    """Training flags, the random state and the cudnn switch are put back as they were.

    A foreign module is put in evaluation mode (a Keras model is told by `training=False`). The backward pass of a
    cudnn RNN refuses a module in evaluation mode, so cudnn is off while a model that holds one is explained (by its
    switch alone: `torch.backends.cudnn.flags` reads TF32 by a name that torch ≥ 2.9 refuses where `arithmetic` spoke).
    """
    parts = keras_private.all_layers(model) if isinstance(model, keras.Layer) else [model]
    modules = [m for part in parts if isinstance(part, torch.nn.Module) for m in part.modules()]
    flags = [m.training for m in modules]
    rnn = torch.cuda.is_available() and any(isinstance(m, torch.nn.RNNBase) for m in modules)
    random, cudnn = torch.random.get_rng_state(), torch.backends.cudnn.enabled
    try:
        if modules and not isinstance(model, keras.Layer):
            model.eval()
        if rnn:
            torch.backends.cudnn.enabled = False
        yield
    finally:
        if rnn:
            torch.backends.cudnn.enabled = cudnn
        for m, flag in zip(modules, flags, strict=True):
            m.training = flag
        torch.random.set_rng_state(random)


# From all of torch to one kind of operation: the narrower word counts, "none" leaves it to the wider one.
SCOPES = [("generic", "all"), *itertools.product(("cuda", "mkldnn"), ("all", "matmul", "conv", "rnn"))]


def _turn(precision):
    """What says otherwise is changed and nothing more, so that all of it can be put back: torch ≥ 2.9.

    The older word for matrix products, `torch.set_float32_matmul_precision`, comes first, since it writes the newer
    ones. It cannot be read where the user has spoken in the newer ones alone, and then need not be.
    """
    older, newer = {"full": ("highest", "ieee"), "tf32": ("high", "tf32")}[precision]
    get, put, undo = private.GET_PRECISION.value, private.SET_PRECISION.value, contextlib.ExitStack()
    modern = get is not None and put is not None
    try:
        before = torch.get_float32_matmul_precision()
    except RuntimeError:
        before = older
    if before != older and not (modern and before == "highest"):  # which is its silence
        torch.set_float32_matmul_precision(older)
        undo.callback(torch.set_float32_matmul_precision, before)
    if not modern:
        undo.callback(setattr, torch.backends.cudnn, "allow_tf32", torch.backends.cudnn.allow_tf32)
        torch.backends.cudnn.allow_tf32 = precision == "tf32"
        return undo.close
    for scope in SCOPES:
        word = get(*scope)
        if word != newer:
            put(*scope, newer)
            undo.callback(put, *scope, word)
    return undo.close


_precision = Switch(_turn)


def arithmetic(precision: str) -> AbstractContextManager:
    return _precision(precision)


def devices() -> list[str]:
    gpus = [f"gpu:{i}" for i in range(torch.cuda.device_count())]
    return [*gpus, *(["mps"] if torch.backends.mps.is_available() else []), "cpu"]


@contextlib.contextmanager
def on(device: str, kept: dict) -> Iterator[None]:
    name = device.replace("gpu", "cuda")
    with keras.device(name), copies.held(kept, lambda x: x.detach().to(name)):
        yield


def lookups(layers: Iterable) -> list[tuple[str, Any]]:
    modules_by_id = {}
    for layer in layers:
        modules = layer.named_modules() if isinstance(layer, torch.nn.Module) else ()
        for path, m in modules:
            if isinstance(m, (torch.nn.Embedding, torch.nn.EmbeddingBag)):
                modules_by_id[id(m)] = path or type(m).__name__, m
    return list(modules_by_id.values())


def outside(layers: Iterable) -> Mapping:
    """Everything that Keras has runs where the rest does."""
    return {}


def send(array: np.ndarray) -> Any:
    return keras.ops.convert_to_tensor(array)


def host(array: Any) -> np.ndarray:
    array = array.detach().cpu()
    return (array.float() if array.dtype == torch.bfloat16 else array).numpy()


def widest() -> str:
    return "float64"


def owns(x: Any) -> bool:
    return isinstance(x, torch.Tensor)


def symbolic(x: Any) -> bool:
    return isinstance(x, torch.Tensor) and x.device.type == "meta"


def staging() -> bool:
    return torch.compiler.is_compiling()


def out_of_memory(error: Exception) -> bool:
    """The allocator of the CPU has no exception of its own."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    )


def free() -> int | None:
    device = keras.ops.zeros(()).device
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else main_memory()


def rows_in_flight(width: int, operations: int) -> int:
    """On CPU as many as make a million numbers or two in an operation: 16384 of a small MLP, 500 of a LeNet, 10 of
    MobileNetV2, 2000 and more of a small transformer. On a GPU, what it may hold.
    """
    if keras.ops.zeros(()).device.type == "cuda":
        return min((1 << 28) // width, 4096)
    return min((3 << 19) * operations // width, 16384)


def describe() -> tuple[dict[str, str], str]:
    device = keras.ops.zeros(()).device
    return {"torch": torch.__version__}, torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
