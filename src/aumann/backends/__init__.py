"""One thin file for each framework, and nothing framework-specific outside them.

Each offers the same handful of functions:

    COMPILE_MODES, AUTO_MODE          names of how it compiles, from the quickest to compile to the fastest to run
    OPERATIONS_PER_ELEMENT            multiply-adds that take as long as interpolating and summing a number
    dynamic(cells, way)               whether a compiled function takes a new number of rows without compiling again
    compile(fn, variables, way)       fn of lists of tensors, compiled; Keras variables are read, never written; its
                                      `compile_modes` are the names of how it has been run
    plain(fn, variables)              fn run as it is written, once or twice; None where compiling it is quicker
    constants(fn, rows, *arrays)      numbers that a trace of fn for so many rows writes down once and for all
    trace(fn, *arrays)                run fn, on shapes alone where the framework can -> the Keras variables it read
    gradients(fn, points)             fn(points) -> (rows, k) and, for each point and column, d Σ column / d point
    curvatures(fn, point, chosen)     rows of the Hessian of fn: (rows, n) -> (rows, k), as (rows, k, chosen, n)
    slopes(fn, points)                d Σ fn(points) / d point, itself differentiable in what fn closes over, or None
    secants(fn, points)               the same over the cell from each row to the next one, by finite differences
    push(fn, points, directions)      fn(points), a list, and its derivatives along the directions, zeros if it has none
    kinked(fn, points, variables)     whether anything on the way from points to fn(points) has a kink; None if hidden
    operate(call, xs, rule, rows)     call(*xs), as one operation to secants(), with a rule of core/secant.py
    inference(model)                  a context in which the model neither trains nor remembers
    arithmetic(precision)             a context in which float32 is float32 ("full"), or may be rounded to TF32 ("tf32")
    devices()                         names of the devices there are, such as "gpu:0", those the framework prefers first
    on(device, kept)                  a context of one thread: tensors land on a device, and what is compiled reads
                                      copies of the variables there, which `kept`, a dict, holds on to
    lookups(layers)                   (path, module) of the framework's own modules inside that look up vectors for ids
    outside(layers)                   handlers for `intercepted` of those that cannot be compiled with the rest
    send(array)                       rows of a NumPy array as what is compiled takes them
    host(array)                       a tensor of the framework as a NumPy array
    owns(x)                           whether x is a tensor of the framework
    symbolic(x)                       whether it is one of a function that is being traced, and has no numbers
    staging()                         whether a function is being traced, inside of which nothing has numbers
    widest()                          the widest float it computes in as it is configured
    out_of_memory(error)              whether that is what the error says
    free()                            bytes of the device's memory that are free, None where it does not tell
    rows_in_flight(width, operations) rows per call that suit a model whose forward makes `width` numbers of a row in so
                                      many operations
    describe()                        versions and device, for the provenance

`active()` is the one for the backend that Keras chose when it was imported.
"""

import contextlib
import functools
import importlib
import threading
from pathlib import Path

import keras

tracing = threading.RLock()  # held while a model is traced, which its layers expect of one thread at a time


class Reads(keras.StatelessScope):
    """A scope that changes no Keras variable and notes which are read, also those a function merely closes over."""

    def __init__(self):
        super().__init__()
        self.variables = {}

    def get_current_value(self, variable):
        self.variables[id(variable)] = variable
        return super().get_current_value(variable)


def main_memory():
    """Bytes of main memory that may still be used, by the machine and by the group of processes; None if not told."""
    found = []
    with contextlib.suppress(OSError, ValueError, IndexError):
        text = Path("/proc/meminfo").read_text()
        found.append(1024 * int(text.split("MemAvailable:")[1].split()[0]))
    with contextlib.suppress(OSError, ValueError):  # a container's
        group = Path("/sys/fs/cgroup")
        most, used = ((group / f"memory.{name}").read_text() for name in ("max", "current"))
        found.append(int(most) - int(used))
    return max(0, min(found)) if found else None


class Copies(threading.local):
    """The variables as the device of this thread has them: themselves, unless a device was named."""

    kept = put = None

    @contextlib.contextmanager
    def held(self, kept, put):
        """For the length of a block, copies made by `put` when they are first read, and held in `kept`."""
        before = self.kept, self.put
        self.kept, self.put = kept, put
        try:
            yield
        finally:
            self.kept, self.put = before

    def of(self, variables):
        if self.kept is None:
            return [v.value for v in variables]
        for v in variables:
            if id(v) not in self.kept:
                self.kept[id(v)] = self.put(v.value)
        return [self.kept[id(v)] for v in variables]


copies = Copies()


class Switch:
    """A precision of the whole process, set for as long as a thread asks for it, and put back by the last to leave.

    Where threads ask for different ones, the exact one holds: nobody gets less than was asked for.

    Args:
        turn: sets a precision -> a function that puts back what was there.
    """

    def __init__(self, turn):
        self.turn, self.asked, self.now, self.back = turn, [], None, None
        self.lock = threading.Lock()

    @contextlib.contextmanager
    def __call__(self, precision):
        with self.lock:
            self.asked.append(precision)
            self._settle()
        try:
            yield
        finally:
            with self.lock:
                self.asked.remove(precision)
                self._settle()

    def _settle(self):
        wanted = "full" if "full" in self.asked else "tf32" if self.asked else None
        if wanted == self.now:
            return
        if self.back:
            self.back()
        self.now, self.back = wanted, wanted and self.turn(wanted)


@functools.cache
def active():
    """The file of the framework that Keras runs on in this process."""
    name = keras.config.backend()
    if name not in ("tensorflow", "jax", "torch"):
        raise ValueError(
            f"Expected Keras on tensorflow, jax or torch, received KERAS_BACKEND={name!r}. "
            "Set KERAS_BACKEND to one of the three before keras is imported."
        )
    return importlib.import_module(f"aumann.backends.{name}")


def compile_mode(compile):
    """What `compile=` asks for: one of the backend's `COMPILE_MODES`, or what it takes for "auto"."""
    compile_modes = active().COMPILE_MODES
    if isinstance(compile, bool) and (compile or len(compile_modes) > 1):
        return compile_modes[-1 if compile else 0]
    if isinstance(compile, str) and compile in ("auto", *compile_modes):
        return active().AUTO_MODE if compile == "auto" else compile
    there = [repr(w) for w in ("auto", True, *([False] if len(compile_modes) > 1 else []), *compile_modes)]
    raise ValueError(
        f"Expected compile= one of {', '.join(there)}, which is what there is on {keras.config.backend()}; received "
        f"{compile!r}. Leave it out, or choose one of these."
    )
