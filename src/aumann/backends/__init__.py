"""One framework in each module, the same functions in all three: `Backend` is their table, `active()` picks one.

Nothing specific to a framework stands outside of this folder. `NAME.py` offers the table, and beside it stand

    NAME_private.py     names that the framework does not promise to keep, and what happens without each
    NAME_rows.py        which axis of a tensor counts the rows of the batch (TensorFlow and JAX, which trace)
    NAME_rules.py       which rule of `core/secant.py` each operation gets
    NAME_secants.py     how the operations of a model are found, and run with a rule for their way back
    NAME_survey.py      whether a function has kinks, told from its operations
"""

import contextlib
import functools
import importlib
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol, cast

import keras
import numpy as np

Function = Callable[[list], Any]
"""A function of a list of tensors, each (rows, *shape of a row), to one tensor (rows, columns)."""
Gradients = tuple[Any, Sequence]
"""F as (rows, columns), and for each point a sequence over columns: d Σ column / d point, or None."""


class Backend(Protocol):
    """What the rest of the package asks of a framework. Tensors are the framework's own, and typed Any.

    *points* are the tensors that are differentiated by, each (rows, *shape of a row); *variables* are Keras variables,
    which are read and never written.
    """

    COMPILE_MODES: tuple[str, ...]
    """Names of how it compiles, from the quickest to compile to the fastest to run."""
    AUTO_MODE: str
    """The mode that stands for compile="auto"."""
    OPERATIONS_PER_ELEMENT: int
    """Multiply-adds that take as long as interpolating and summing one number."""

    def dynamic(self, cells: bool, compile_mode: str = ...) -> bool:
        """Whether a compiled function takes a new number of rows without compiling again; `cells`: it holds secants."""

    def compile(self, fn: Callable, variables: Sequence, compile_mode: str = ...) -> Callable:
        """fn of lists of tensors, compiled. `compile_modes` of the result are the names of how it has been run."""

    def plain(self, fn: Callable, variables: Sequence) -> Callable | None:
        """fn to be run as it is written, once or twice; None where compiling it is quicker."""

    def constants(self, fn: Callable, rows: int, *args: Any) -> list:
        """Numbers that a trace of fn for so many rows writes down once and for all."""

    def trace(self, fn: Callable, *arrays: Sequence) -> list:
        """The Keras variables that fn reads: it is run on shapes alone where the framework can do that."""

    def gradients(self, fn: Function, points: Sequence) -> Gradients:
        """fn(points), and its derivatives by each point."""

    def secants(self, fn: Function, points: Sequence) -> Gradients:
        """The same over the cell from each row to the next one, by finite differences (`core/secant.py`)."""

    def curvatures(self, fn: Callable, point: Any, chosen: Any) -> Any:
        """Rows of the Hessian of fn: (rows, n) -> (rows, k), those of the `chosen` entries: (rows, k, chosen, n)."""

    def slopes(self, fn: Function, points: Sequence) -> Sequence:
        """d Σ fn(points) / d point or None for each, itself differentiable in what fn closes over."""

    def jvp(self, fn: Callable, points: Sequence, directions: Sequence) -> tuple[Sequence, Sequence]:
        """fn(points), a list, and its derivatives along the directions, zeros where it has none."""

    def has_kinks(self, fn: Function, points: Sequence, variables: Sequence) -> bool | None:
        """Whether an operation between the points and fn(points) has a kink or a step; None if some are hidden."""

    def composite_op(self, call: Callable, xs: Sequence, rule: str, rows: Any) -> Any:
        """call(*xs), as one operation to `secants`, with the rule of `core/secant.py` that has this name."""

    def inference(self, model: Any) -> AbstractContextManager:
        """A context in which the model neither trains nor remembers."""

    def arithmetic(self, precision: str) -> AbstractContextManager:
        """A context in which float32 is float32 ("full"), or may be rounded to TF32 ("tf32")."""

    def devices(self) -> list[str]:
        """Names of the devices, such as "gpu:0", those that the framework prefers first."""

    def on(self, device: str, kept: dict) -> AbstractContextManager:
        """A context of one thread: tensors land on the device, and compiled functions read copies of the variables
        there, which `kept` holds on to.
        """

    def lookups(self, layers: Iterable) -> list[tuple[str, Any]]:
        """(path, module) of the framework's own modules inside the layers that look up vectors for ids."""

    def outside(self, layers: Iterable) -> Mapping:
        """Handlers for `intercepted` of those layers that cannot be compiled with the others."""

    def send(self, array: np.ndarray) -> Any:
        """A host array in the form in which compiled functions take it."""

    def host(self, array: Any) -> np.ndarray:
        """A tensor as a host array."""

    def owns(self, x: Any) -> bool:
        """Whether x is a tensor of the framework."""

    def symbolic(self, x: Any) -> bool:
        """Whether x is a tensor of a function that is being traced, and has no numbers."""

    def staging(self) -> bool:
        """Whether a function is being traced by this thread, inside of which no tensor has numbers."""

    def widest(self) -> str:
        """The widest float that it computes in as it is configured."""

    def out_of_memory(self, error: Exception) -> bool:
        """Whether an error says that memory ran out."""

    def free(self) -> int | None:
        """Bytes of the device's memory that are free; None where it does not tell."""

    def rows_in_flight(self, width: int, operations: int) -> int:
        """Rows per call that suit a model whose forward makes `width` numbers of a row in so many operations."""

    def describe(self) -> tuple[dict[str, str], str]:
        """Versions and device, for the provenance."""


tracing = threading.RLock()  # held while a model is traced, which its layers expect of one thread at a time


class Reads(keras.StatelessScope):
    """A scope that changes no Keras variable and notes which are read, also those a function merely closes over."""

    def __init__(self) -> None:
        super().__init__()
        self.variables: dict[int, Any] = {}

    def get_current_value(self, variable: Any) -> Any:
        self.variables[id(variable)] = variable
        return super().get_current_value(variable)


def main_memory() -> int | None:
    """Bytes of main memory that may still be used, by the machine and by the group of processes; None if not told."""
    limits = []
    with contextlib.suppress(OSError, ValueError, IndexError):
        text = Path("/proc/meminfo").read_text()
        limits.append(1024 * int(text.split("MemAvailable:")[1].split()[0]))
    with contextlib.suppress(OSError, ValueError):  # a container's
        group = Path("/sys/fs/cgroup")
        limit, used = ((group / f"memory.{name}").read_text() for name in ("max", "current"))
        limits.append(int(limit) - int(used))
    return max(0, min(limits)) if limits else None


class Copies(threading.local):
    """The variables as the device of this thread has them: themselves, unless a device was named."""

    kept: dict | None = None
    put: Callable | None = None

    @contextlib.contextmanager
    def held(self, kept: dict | None, put: Callable | None) -> Iterator[None]:
        """For the length of a block, copies made by `put` when they are first read, and held in `kept`."""
        before = self.kept, self.put
        self.kept, self.put = kept, put
        try:
            yield
        finally:
            self.kept, self.put = before

    def of(self, variables: Sequence) -> list:
        if self.kept is None:
            return [v.value for v in variables]
        for v in variables:
            if id(v) not in self.kept and self.put is not None:
                self.kept[id(v)] = self.put(v.value)
        return [self.kept[id(v)] for v in variables]


copies = Copies()


class Switch:
    """A precision of the whole process, set for as long as a thread asks for it, and put back by the last to leave.

    Where threads ask for different ones, the exact one holds: nobody gets less than was asked for.

    Args:
        turn: sets a precision -> a function that puts back what was there.
    """

    def __init__(self, turn: Callable[[str], Callable]) -> None:
        self.turn, self.asked, self.now, self.back = turn, [], None, None
        self.lock = threading.Lock()

    @contextlib.contextmanager
    def __call__(self, precision: str) -> Iterator[None]:
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
def active() -> Backend:
    """The module of the framework that Keras runs on in this process."""
    name = keras.config.backend()
    if name not in ("tensorflow", "jax", "torch"):
        raise ValueError(
            f"Expected Keras on tensorflow, jax or torch, received KERAS_BACKEND={name!r}. "
            "Set KERAS_BACKEND to one of the three before keras is imported."
        )
    return cast(Backend, importlib.import_module(f"aumann.backends.{name}"))


def compile_mode(compile: bool | str) -> str:
    """What `compile=` asks for: one of the backend's `COMPILE_MODES`, or what it takes for "auto"."""
    compile_modes = active().COMPILE_MODES
    if isinstance(compile, bool) and (compile or len(compile_modes) > 1):
        return compile_modes[-1 if compile else 0]
    if isinstance(compile, str) and compile in ("auto", *compile_modes):
        return active().AUTO_MODE if compile == "auto" else compile
    choices = [repr(c) for c in ("auto", True, *([False] if len(compile_modes) > 1 else []), *compile_modes)]
    raise ValueError(
        f"Expected compile= one of {', '.join(choices)}, which is what there is on {keras.config.backend()}; received "
        f"{compile!r}. Leave it out, or choose one of these."
    )
