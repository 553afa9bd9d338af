"""The device pool: where a call runs, and how the rows of a sum are divided among several devices."""

import contextlib
import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager

import numpy as np
import numpy.typing as npt

from aumann import backends
from aumann.execution.options import ExecutionOptions


class _Stopped(Exception):
    """Raised in the thread of a device once another one has failed, and its sum is of no use."""


class DevicePool:
    """The devices of one call, each with copies of the model's variables, made once for the call.

    Args:
        execution: the options that name them.

    Attributes:
        used: how many of the devices have had rows.
    """

    def __init__(self, execution: ExecutionOptions) -> None:
        self.execution, self.backend, self.used = execution, backends.active(), 1
        self.copies: list[dict] = [{} for _ in execution.devices or ()]

    @property
    def names(self) -> list[str] | str | None:
        """Of the devices that were used; one name if it was one; None if none was named."""
        names = (self.execution.devices or ())[: self.used]
        return list(names) if len(names) > 1 else next(iter(names), None)

    def at(self, k: int = 0) -> AbstractContextManager[None]:
        """A context, for whichever thread enters it, of computing on device k to the precision that was asked for."""
        names, precision = self.execution.devices, self.execution.precision
        device = self.backend.on(names[k], self.copies[k]) if names else contextlib.nullcontext()

        @contextlib.contextmanager
        def computing():
            with self.backend.arithmetic(precision), device:
                yield

        return computing()

    def divide(
        self,
        run: Callable[[npt.NDArray, Callable[[int], None]], list[npt.NDArray]],
        rows: npt.NDArray,
        tally: Callable[[int], None],
    ) -> list[npt.NDArray]:
        """run(rows, tally), for several devices in as many contiguous parts, each in a thread of its own.

        Threads suffice: a framework releases the interpreter while it computes. Should one fail, or the wait be
        interrupted, the others stop at their next batch.

        Args:
            run: (rows, tally) -> list of arrays over these rows.
            rows: (n,) indices.
            tally: called with the number of gradients done, by one thread at a time.

        Returns:
            list of arrays over the rows, in their order.
        """
        count = min(len(self.copies), len(rows))
        if count < 2:
            return run(rows, tally)
        self.used = max(self.used, count)
        stop, one_at_a_time = threading.Event(), threading.Lock()

        def counted(done):
            with one_at_a_time:
                if stop.is_set():
                    raise _Stopped
                tally(done)

        def work(computing, rows):
            with computing:
                return run(rows, counted)

        first, ends = 0, [len(rows) * (k + 1) // count for k in range(count)]
        with ThreadPoolExecutor(count, "aumann") as pool:
            try:
                parts = []
                for k, end in enumerate(ends):
                    context = contextvars.copy_context()
                    parts.append(pool.submit(context.run, work, self.at(k), rows[first:end]))
                    first = end
                done, _ = wait(parts, return_when=FIRST_EXCEPTION)
                results = [part.result() for part in sorted(done, key=parts.index)]
            finally:
                stop.set()
        return [np.concatenate(arrays) for arrays in zip(*results, strict=True)]
