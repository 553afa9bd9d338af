"""Devices: where a call runs, and how the rows of a sum are divided among several."""

import contextlib
import contextvars
import threading
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait

import numpy as np

from aumann import backends


class _Stopped(Exception):
    """Raised in a thread whose sum nobody waits for any more."""


class DevicePool:
    """The devices of one call, each with its own copies of the model's variables, made once for the call.

    Args:
        execution: `aumann.execution.options.ExecutionOptions`.

    Attributes:
        used: how many of the devices have had rows.
    """

    def __init__(self, execution):
        self.execution, self.backend, self.used = execution, backends.active(), 1
        self.copies = [{} for _ in execution.devices or ()]

    @property
    def names(self):
        """Of the devices that were used; one name if it was one; None if none was named."""
        names = (self.execution.devices or ())[: self.used]
        return list(names) if len(names) > 1 else next(iter(names), None)

    def at(self, k=0):
        """A context, for whichever thread enters it, of computing on device k to the precision that was asked for."""
        names, precision = self.execution.devices, self.execution.precision
        place = self.backend.on(names[k], self.copies[k]) if names else contextlib.nullcontext()

        @contextlib.contextmanager
        def here():
            with self.backend.arithmetic(precision), place:
                yield

        return here()

    def divide(self, run, rows, tally):
        """run(rows, tally), for several devices in as many contiguous parts, each in a thread of its own.

        Should one fail, or the wait be interrupted, the others stop at their next batch.

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

        def work(place, rows):
            with place:
                return run(rows, counted)

        first, cuts = 0, [len(rows) * (k + 1) // count for k in range(count)]
        with ThreadPoolExecutor(count, "aumann") as pool:
            try:
                parts = []
                for k, end in enumerate(cuts):
                    context = contextvars.copy_context()
                    parts.append(pool.submit(context.run, work, self.at(k), rows[first:end]))
                    first = end
                done, _ = wait(parts, return_when=FIRST_EXCEPTION)
                found = [part.result() for part in sorted(done, key=parts.index)]
            finally:
                stop.set()
        return [np.concatenate(same) for same in zip(*found, strict=True)]
