"""The batch tuner: how many nodes one call of the model takes, and how many rows it is padded to.

Three questions, each with an answer that is measured on the work itself:

- How many nodes are fastest? The time per node falls with their number while the device has idle lanes, and rises once
  they no longer fit its caches: over log₂ of the number it has one minimum. From the first guess b the tuner probes 2b
  and b/2 on a part of the work, moves to whichever is faster, and probes on from there; where both neighbours are
  slower, b stays. A probe computes results like any other call, so nothing is wasted but what a slower size loses.
- How many fit into memory? A budget: half of what is free, over what one node needs. Where memory runs out all the
  same, half of the size that was too much is the limit from then on.
- Which shapes are compiled? Where every number of rows is a shape of its own (JAX, XLA), a call may reuse a compiled
  shape and fill it up with rows that do not count, or call it twice. That is the ski-rental problem, to rent or to
  buy: reuse a compiled shape, with padding, until the padding has cost as much time as compiling takes, then compile.
  Whatever calls follow, that takes at most twice the time of the best choice in hindsight (Karlin, Manasse, Rudolph,
  Sleator 1988, Competitive snoopy caching).

Other sizes change values by rounding alone; give batch_size= for runs that are equal to the bit.
"""

import math
import time
from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

FASTER = 0.95  # of the time of the best size, below which another replaces it: less is noise
LEAST_WORK = 0.5  # seconds of work below which no size is probed
LEAST_PROBE = 0.03  # seconds that a probe takes at least, for the sake of the clock
PROBE_PARTS = 6, 20  # a probe is at most a 6th of what is left, and at least a 20th, so that noise evens out
FRESH = 0.1  # seconds for which the amount of free memory holds: asking takes 0.1 ms, and a call asks three times


class MemoryBudget:
    """How many nodes fit into memory.

    Args:
        size: bytes that a node needs.
        free: () -> bytes that are free, or None if that is unknown.
        most: nodes of a call at most, however much is free.
    """

    def __init__(self, size: float, free: Callable[[], float | None], most: int = 1 << 40) -> None:
        self.size, self.free, self.most = size, free, most
        self.asked_at = -math.inf
        self.free_bytes: float | None = None

    def __call__(self, extra_bytes: float = 0) -> int:
        """Nodes whose needs are half of what is free, `extra_bytes` each on top; at most half of what was too much."""
        now = time.monotonic()
        if now - self.asked_at > FRESH:
            self.free_bytes, self.asked_at = self.free(), now  # in this order: other threads may ask meanwhile
        fit = math.inf if self.free_bytes is None else self.free_bytes / 2 / (self.size + extra_bytes)
        return max(1, int(min(self.most, fit)))

    def halve(self, size: int) -> None:
        """Takes note that `size` nodes were too much."""
        self.most = max(1, min(self.most, size // 2))


class BatchTuner:
    """Nodes per call of one compiled function.

    Args:
        size: to begin with.
        budget: how many fit; shared by all functions of a model.
        tuned: whether other sizes are probed; a size that the user gave stays.
        dynamic: whether the compiled function takes any number of rows.
        exact_shapes: whether it is compiled for (rows, nodes of each); else, for the most part, for their product.
        padded: whether a compiled shape may serve fewer rows, with padding; not where a new shape compiles parts
            only, which costs less than padding.
        extra_bytes: that a node needs in this function, beyond what the budget counts for every function.

    Attributes:
        best: the fastest size so far.
        measured: size -> seconds per node, of the sizes that were probed.
        seconds_per_node: of the last call in which nothing was compiled; None before there was one.
        shapes: (rows, nodes of each) that the function was called for.
        compile_seconds: the longest that a shape took to compile.
        padding_cost: (rows, nodes of each) wanted -> seconds that other shapes have cost in its place.
    """

    def __init__(
        self,
        size: int,
        budget: MemoryBudget,
        tuned: bool = True,
        dynamic: bool = True,
        exact_shapes: bool = False,
        padded: bool = True,
        extra_bytes: float = 0,
    ) -> None:
        self.best, self.budget, self.tuned, self.dynamic = size, budget, tuned, dynamic
        self.exact_shapes, self.padded, self.extra_bytes = exact_shapes, padded, extra_bytes
        self.measured: dict[int, float] = {}
        self.seconds_per_node: float | None = None
        self.shapes: set[tuple[int, int]] = set()
        self.compile_seconds = 0.0
        self.padding_cost: dict[tuple[int, int], float] = {}

    @property
    def size(self) -> int:
        """Nodes per call, of which as many as memory has room for."""
        return max(1, min(self.best, self.budget(self.extra_bytes))) if self.tuned else self.best

    # ---- which size is fastest -----------------------------------------------------------------------------------

    def next(self, left: int) -> tuple[int, int]:
        """What to compute next, of `left` nodes.

        Returns:
            (nodes per call, nodes to compute with it before asking again): fewer than `left` for a probe, and for the
            first call, which tells how long a node takes.
        """
        if self.seconds_per_node is None:
            return self.size, min(left, self.size)
        if self.tuned and left * self.seconds_per_node > max(LEAST_WORK, 10 * self.compile_seconds):
            for size in self._unmeasured():
                probe = max(2 * size, int(LEAST_PROBE / self.seconds_per_node), left // PROBE_PARTS[1])
                if PROBE_PARTS[0] * probe <= left:
                    return size, probe
        return self.size, left

    def _unmeasured(self) -> list[int]:
        """Sizes to probe: the best one itself, then its neighbours."""
        best = self.size
        around = [best] if best not in self.measured else [2 * best, best // 2]
        return [size for size in around if size not in self.measured and 1 <= size <= self.budget(self.extra_bytes)]

    def record(self, size: int, nodes: int, seconds: float, probe: bool) -> None:
        """So many nodes took so long in calls of one size, and nothing was compiled.

        The first record is no measurement of a size: it tells how many nodes make a probe.
        """
        first, self.seconds_per_node = self.seconds_per_node is None, seconds / nodes
        if probe and not first:
            self.measured[size] = self.seconds_per_node
            if self.seconds_per_node < FASTER * self.measured.get(self.best, math.inf):
                self.best = size

    # ---- which shapes are compiled -------------------------------------------------------------------------------

    def width(self, count: int, most: int, nodes: int = 1, probe: bool = False) -> int:
        """Rows of the next call, those that fill it up included.

        Args:
            count: rows that are left.
            most: rows of a call.
            nodes: of each row.
            probe: whether the call is part of a probe, which is compiled for its own shape.
        """
        if self.dynamic:
            return min(count, most)
        wanted = min(most, 1 << (count - 1).bit_length())
        compiled = set() if probe or not self.padded else {rows for rows in self._widths(nodes) if rows <= most}
        if not compiled or wanted in compiled:
            return wanted
        width = min((rows for rows in compiled if rows > wanted), default=max(compiled))
        # Time lost by reuse: that of rows that only fill up, or half the time of a call that takes too few.
        idle = width - wanted if width > wanted else width / 2
        cost = self.padding_cost.get((wanted, nodes), 0.0) + idle * nodes * (self.seconds_per_node or 0)
        self.padding_cost[wanted, nodes] = cost
        return wanted if cost > self.compile_seconds else width

    def _widths(self, nodes: int) -> list[int]:
        """Rows of the shapes with so many nodes each, or else with as many nodes in all."""
        shapes = tuple(self.shapes)  # rows on another device may add to them meanwhile
        widths = [rows for rows, each in shapes if each == nodes]
        if widths or self.exact_shapes:
            return widths
        return [rows * each // nodes for rows, each in shapes if rows * each % nodes == 0]

    def is_new(self, rows: int, nodes: int = 1) -> bool:
        """Whether a call of this shape is the first one, and compiles; from now on it is not."""
        shape = (1, 1) if self.dynamic else (rows, nodes)
        new = shape not in self.shapes
        self.shapes.add(shape)
        return new

    def record_compiling(self, seconds: float) -> None:
        """A first call of a shape took so long."""
        self.compile_seconds = max(self.compile_seconds, 0.0 if self.dynamic else seconds)

    # ---- calls of one node a row ---------------------------------------------------------------------------------

    def groups(self, rows: int) -> Iterator[tuple[npt.NDArray, int]]:
        """Row indices of each call: arrays of its width, and how many of them count; the last is repeated."""
        first = 0
        while first < rows:
            width = self.width(rows - first, self.size)
            count = min(width, rows - first)
            new, start = self.is_new(width), time.perf_counter()
            yield np.minimum(np.arange(first, first + width), rows - 1), count
            seconds = time.perf_counter() - start
            if new:
                self.record_compiling(seconds)
            else:
                self.seconds_per_node = seconds / width
            first += count
