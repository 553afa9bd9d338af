"""PyTorch: eager autograd, or what inductor makes of it; parameters are read detached, so no graph reaches them."""

import contextlib
import itertools
import threading

import keras
import torch
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from aumann.backends import Reads, Switch, copies, main_memory, torch_inductor, torch_secants
from aumann.backends.torch_secants import Secants
from aumann.backends.torch_secants import operate as operate

COMPILE_MODES = "eager", "inductor"
AUTO_MODE = "eager"
OPERATIONS_PER_ELEMENT = 64

_one_level = threading.RLock()  # forward mode is of the whole process, and not nested


def dynamic(cells, compile_mode="eager"):
    """Inductor compiles every shape."""
    return compile_mode == "eager"


def compile(fn, variables, compile_mode="eager"):
    """Eager unless asked: inductor takes seconds to minutes for each shape, and pays in long jobs."""

    def stateless(state, args):
        with torch.no_grad(), keras.StatelessScope(state_mapping=list(zip(variables, state, strict=True))):
            return fn(*args)

    once = torch_inductor.compile(stateless) if compile_mode == "inductor" else stateless

    def run(*args):
        return once([value.detach() for value in copies.of(variables)], args)

    run.compile_modes = {compile_mode}
    return run


def plain(fn, variables):
    return compile(fn, variables, "eager")


def constants(fn, rows, *args):
    """What runs as it is written draws at every call what it draws at all."""
    return []


def _mapping(variables):
    return [(v, value.detach()) for v, value in zip(variables, copies.of(variables), strict=True)]


def trace(fn, *arrays):
    """torch has no cheap abstract evaluation that every model survives: runs for real."""
    with torch.no_grad(), Reads() as reads:
        fn(*([keras.ops.convert_to_tensor(a) for a in group] for group in arrays))
    return list(reads.variables.values())


def gradients(fn, points, grad=torch.autograd.grad):
    with torch.enable_grad():
        points = [p.detach().requires_grad_() for p in points]
        values = fn(torch_secants.feed(points))
        k = values.shape[1]
        columns = []
        for c in range(k):
            if values.requires_grad:
                columns.append(grad(values[:, c].sum(), points, retain_graph=c + 1 < k, allow_unused=True))
            else:
                columns.append([None] * len(points))
    return values.detach(), [list(row) for row in zip(*columns, strict=True)]


def curvatures(fn, point, chosen):
    """Reverse over reverse, one direction after another: every operation that can be differentiated twice will do."""
    with torch.enable_grad(), twice():
        point = point.detach().requires_grad_()
        values = fn(point)
        columns = []
        for k in range(values.shape[1]):
            (slope,) = torch.autograd.grad(values[:, k].sum(), point, create_graph=True)
            entries = [slope.index_select(1, chosen[i : i + 1]).sum() for i in range(len(chosen))]
            rows = [torch.autograd.grad(entry, point, retain_graph=True)[0] for entry in entries]
            columns.append(torch.stack(rows, 1))
    return torch.stack(columns, 1)


def slopes(fn, points):
    with torch.enable_grad(), twice():
        points = [p if p.requires_grad else p.requires_grad_() for p in points]
        values = fn(points).sum()
        if not values.requires_grad:
            return [None] * len(points)
        return torch.autograd.grad(values, points, create_graph=True, allow_unused=True)


def secants(fn, points):
    """The block lasts until the way back is done: what is computed anew on it carries secants too."""
    with Secants(len(points[0])):
        return gradients(fn, points, torch_secants.outermost)


def push(fn, points, directions):
    """Forward mode; where an operation has none, the derivative of the pull, which is linear in what it pulls."""
    try:
        with _one_level, twice(), forward_ad.dual_level():
            pairs = [forward_ad.unpack_dual(y) for y in fn(list(map(forward_ad.make_dual, points, directions)))]
    except (NotImplementedError, ValueError) as error:  # the second where the model's error was told in other words
        if not any(isinstance(e, NotImplementedError) for e in (error, error.__cause__)):
            raise
        return _push_by_pulls(fn, points, directions)
    return [y for y, _ in pairs], [torch.zeros_like(y) if v is None else v for y, v in pairs]


def twice():
    """A block in which attention is made of operations that can be differentiated twice: the fused ones cannot."""
    return sdpa_kernel(SDPBackend.MATH)


def _push_by_pulls(fn, points, directions):
    with torch.enable_grad(), twice():
        points = [p.detach().requires_grad_() for p in points]
        values = [y if y.requires_grad else y.detach().requires_grad_() for y in fn(points)]
        probes = [torch.zeros_like(y, requires_grad=True) for y in values]
        pulled = torch.autograd.grad(values, points, probes, create_graph=True, allow_unused=True)
        total = sum((g * d).sum() for g, d in zip(pulled, directions, strict=True) if g is not None)
        tangents = [None] * len(probes)
        if torch.is_tensor(total) and total.requires_grad:
            tangents = torch.autograd.grad(total, probes, allow_unused=True)
    values = [y.detach() for y in values]
    return values, [torch.zeros_like(y) if v is None else v for y, v in zip(values, tangents, strict=True)]


def kinked(fn, points, variables):
    with keras.StatelessScope(state_mapping=_mapping(variables)):
        return torch_secants.kinked(fn, points)


@contextlib.contextmanager
def inference(model):
    """Training flags, the random state and the cudnn switch are put back as they were.

    A foreign module is put in evaluation mode (a Keras model is told by `training=False`). The backward pass of a
    cudnn RNN refuses a module in evaluation mode, so cudnn is off while a model that holds one is explained (by its
    switch alone: `torch.backends.cudnn.flags` reads TF32 by a name that torch ≥ 2.9 refuses where `arithmetic` spoke).
    """
    parts = model._flatten_layers() if isinstance(model, keras.Layer) else [model]
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
    modern, undo = hasattr(torch._C, "_set_fp32_precision_setter"), contextlib.ExitStack()
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
        found = torch._C._get_fp32_precision_getter(*scope)
        if found != newer:
            torch._C._set_fp32_precision_setter(*scope, newer)
            undo.callback(torch._C._set_fp32_precision_setter, *scope, found)
    return undo.close


arithmetic = Switch(_turn)


def devices():
    found = [f"gpu:{i}" for i in range(torch.cuda.device_count())]
    return [*found, *(["mps"] if torch.backends.mps.is_available() else []), "cpu"]


@contextlib.contextmanager
def on(device, kept):
    where = device.replace("gpu", "cuda")
    with keras.device(where), copies.held(kept, lambda x: x.detach().to(where)):
        yield


def lookups(layers):
    found = {}
    for layer in layers:
        modules = layer.named_modules() if isinstance(layer, torch.nn.Module) else ()
        for path, m in modules:
            if isinstance(m, (torch.nn.Embedding, torch.nn.EmbeddingBag)):
                found[id(m)] = path or type(m).__name__, m
    return list(found.values())


def outside(layers):
    """Everything that Keras has runs where the rest does."""
    return {}


def send(array):
    return keras.ops.convert_to_tensor(array)


def host(array):
    array = array.detach().cpu()
    return (array.float() if array.dtype == torch.bfloat16 else array).numpy()


def widest():
    return "float64"


def owns(x):
    return isinstance(x, torch.Tensor)


def symbolic(x):
    return isinstance(x, torch.Tensor) and x.device.type == "meta"


def staging():
    return torch.compiler.is_compiling()


def out_of_memory(error):
    """The allocator of the CPU has no exception of its own."""
    return isinstance(error, (MemoryError, torch.OutOfMemoryError)) or (
        isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    )


def free():
    device = keras.ops.zeros(()).device
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else main_memory()


def rows_in_flight(width, operations):
    """On CPU as many as make a million numbers or two in an operation: 16384 of a small MLP, 500 of a LeNet, 10 of
    MobileNetV2, 2000 and more of a small transformer. On a GPU, what it may hold.
    """
    if keras.ops.zeros(()).device.type == "cuda":
        return min((1 << 28) // width, 4096)
    return min((3 << 19) * operations // width, 16384)


def describe():
    device = keras.ops.zeros(()).device
    return {"torch": torch.__version__}, torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
