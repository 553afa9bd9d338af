"""The engine: Σ over (row × baseline × node), packed into batches of constant size, accumulated on the device.

A row has m · n nodes on its paths: those of the rule on the path from each of m baselines. A batch holds S rows × M of
their nodes with S·M ≤ batch_size, which the model sees as S·M rows of its own:

    nodes fit, S = 3, M = 5                a row that does not fit, S = 1, in chunks of M = 5

    row 0   t₀ t₁ t₂ t₃ t₄   → sums[0]     row 0   t₀ t₁ t₂ t₃ t₄   → sums
    row 1   t₀ t₁ t₂ t₃ t₄   → sums[1]             t₅ t₆ t₇ t₈ t₉   → sums += …
    row 2   t₀ t₁ t₂ t₃ t₄   → sums[2]             t₁₀ t₁₁ 0  0  0  → sums += …, then to the host

The sums stay on the device between chunks, and what fills up the last chunk has weight zero. Memory therefore grows
with batch_size and the results, not with nodes, baselines or rows.

A secant belongs to a cell, from one node to the next, and takes the gradients at both. Chunks of cells overlap by one
node, so that every cell lies within one chunk; the last node of a chunk ends its last cell and begins none:

    nodes   t₀ t₁ t₂ t₃ t₄                 weights  w₀ w₁ w₂ w₃ 0
                        t₄ t₅ t₆ t₇ t₈              w₄ w₅ w₆ w₇ 0
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from keras import ops

from aumann.core.baselines import StartPoints
from aumann.core.credits import Moment, share
from aumann.core.quadrature import Draws, Quadrature


@dataclass(frozen=True)
class Packing:
    """How the nodes of the rows are cut into batches.

    Attributes:
        rows: S, rows per batch.
        nodes: M, nodes per row and batch.
        chunks: batches that one row takes.
    """

    rows: int
    nodes: int
    chunks: int


def pack(nodes: int, batch_size: int, overlap: int = 0) -> Packing:
    """The packing of rows with so many nodes each.

    Nodes that do not fit are cut into chunks of one width, that between half and all of batch_size which leaves the
    fewest idle places in the last chunk.

    Args:
        nodes: of a row, over all of its baselines.
        batch_size: S·M at most.
        overlap: 1 for cells, whose chunks begin with the node that ended the one before, and hold two nodes at least;
            else 0. Rules of cells come in many lengths, and every number of rows would be another shape to compile:
            their batches hold a power of two of rows.
    """
    batch_size = max(batch_size, 1 + overlap)
    if nodes <= batch_size:
        rows = batch_size // nodes
        return Packing(1 << rows.bit_length() - 1 if overlap else rows, nodes, 1)

    def chunks(width):
        return -(-(nodes - overlap) // (width - overlap))

    widths = range(batch_size, max(1 + overlap, batch_size // 2) - 1, -1)
    width = min(widths, key=lambda width: chunks(width) * width)
    return Packing(1, width, chunks(width))


def rounded_up(count: int) -> int:
    """The next number of the form 2ᵏ or 3 · 2ᵏ: a few shapes serve whatever is compiled for each of them."""
    power = 1 << max(count - 1, 0).bit_length()
    return power // 4 * 3 if power // 4 * 3 >= count else power


def make_step(gradients, paths, credit=share, compile=lambda fn: fn, inner=False):
    """One batch: interpolate, forward, gradient, credit, sum.

        ends, starts, t ──▶ γ(t), γ'(t) ──▶ ∂F(γ(t)) ──▶ credit(∂F, γ', w) ──▶ sums + Σ over the M points of each row
        (S, …)              (S·M, …)        (S·M, …)      (S, M, …) → (S, …)    (S, targets, …)

    S rows and M points lie one after another on the first axis: point m of row s is entry s·M + m.
    The sums stay on the device, so that a row whose points do not fit one batch is a chain of steps.

    Args:
        gradients: (points, side, index) -> F (rows, targets), and for each point a list over targets of ∂F/∂point or
            None where F does not depend on it; points are (rows, *row), index (rows, targets).
        paths: for each point (start, end, t) -> (point, velocity).
        credit: what a gradient is worth to the features; see `core/credits.py`.
        compile: of what comes before and after the gradients, where these are compiled by themselves: they see S·M
            points, whatever S and M are.
        inner: whether values are for layers inside F that the points lead to. Then gradients are (points, velocities,
            t, side, index) -> F, for each layer y the list of ∂F/∂y, and the velocities of the layers or None.

    Returns:
        step(sums, ends, starts, tw, side, index) -> sums, with for each point sums (S, targets, *row), ends (S, *row),
        starts (1 or S, 1 or M, *row) or what the path carries; tw is [t, w], each (S·M,); side and index are (S, …).
    """
    interpolate, add = compile(_interpolation(paths, inner)), compile(_addition(credit, inner))

    def step(sums, ends, starts, tw, side, index):
        points, velocities, side, index = interpolate(ends, starts, tw, side, index)
        if inner:
            values, slices, velocities = gradients(points, velocities, tw[0], side, index[0])
        else:
            values, slices = gradients(points, side, index[0])
        return add(sums, values, slices, velocities, ends, starts, tw)

    return step


def _interpolation(paths, inner):
    """(ends, starts, [t, w], side, [index]) -> points and velocities at all nodes, side and index for each node."""

    def along(path, start, end, t):
        fit = (-1, ops.shape(t)[0] // ops.shape(end)[0]) + (1,) * (len(end.shape) - 1)
        return path(start, ops.expand_dims(end, 1), ops.reshape(t, fit))

    def interpolate(ends, starts, tw, side, index):
        width = ops.shape(tw[0])[0] // ops.shape(ends[0])[0]
        on_paths = [along(p, start, end, tw[0]) for p, start, end in zip(paths, starts, ends, strict=True)]
        points = [ops.reshape(p, (-1, *end.shape[1:])) for (p, _), end in zip(on_paths, ends, strict=True)]
        velocities = [velocity for _, velocity in on_paths]
        if inner:  # one for each point, of which a velocity may be shared by several
            velocities = [
                ops.reshape(v + ops.zeros_like(p), (-1, *end.shape[1:]))
                for (p, v), end in zip(on_paths, ends, strict=True)
            ]
        side, index = [ops.repeat(s, width, axis=0) for s in side], [ops.repeat(index[0], width, axis=0)]
        return points, velocities, side, index

    return interpolate


def _addition(credit, inner):
    """(sums, F, gradients, velocities, ends, starts, [t, w]) -> sums, with the credits of the features added."""

    def split(a, like):  # (S·M, …) -> (S, M, …)
        return ops.reshape(a, (ops.shape(like)[0], -1, *like.shape[2:]))

    def add(sums, values, slices, velocities, ends, starts, tw):
        rows = ops.shape(ends[0])[0]
        if inner:
            velocities = [None] * len(sums) if velocities is None else list(map(split, velocities, sums))
        credits = []
        for k, slopes in enumerate(zip(*slices, strict=True)):
            slopes = [None if g is None else split(g, like) for g, like in zip(slopes, sums, strict=True)]
            column, weights = (ops.reshape(a, (rows, -1)) for a in (values[:, k], tw[1]))
            credits.append(credit(Moment(slopes, velocities, starts, column, weights)))
        return [
            s if all(c is None for c in columns) else s + _stack(columns, s)
            for s, columns in zip(sums, zip(*credits, strict=True), strict=True)
        ]

    return add


def _stack(columns, like):
    """One credit for each target, zero where F does not depend on the point: (S, targets, *row)."""
    return ops.stack([like[:, 0] * 0 if c is None else c for c in columns], axis=1)


@dataclass(frozen=True, eq=False)
class Work:
    """What is to be summed.

    Attributes:
        rows: n, rows to explain.
        load: row indices -> (ends, side), lists of device tensors for those rows.
        start_points: resolved baselines.
        index: (1 or n, targets) position of each target in the outputs.
        rule: nodes and weights.
        shapes: shape of one row of each moving input.
        dtype: of the path and of the sums.
    """

    rows: int
    load: Callable[[npt.NDArray], tuple[list, list]]
    start_points: StartPoints
    index: npt.NDArray
    rule: Quadrature | Draws
    shapes: list[tuple[int, ...]]
    dtype: str

    @property
    def nodes(self) -> int:
        """Nodes of a row over all of its baselines: gradients spent on it."""
        return len(self.rule.over(self.start_points.count)[0])

    def of(self, rows: npt.NDArray) -> "Work":
        """The same for some rows."""
        index = self.index if len(self.index) == 1 else self.index[rows]
        load = self.load
        start_points = self.start_points.of(rows)
        return replace(self, rows=len(rows), load=lambda some: load(rows[some]), start_points=start_points, index=index)


class Tuner(Protocol):
    """What the engine asks of a batch tuner: see `aumann.execution.batching.BatchTuner`."""

    tuned: bool
    budget: Any
    shapes: set

    def next(self, left: int) -> tuple[int, int]: ...
    def width(self, count: int, most: int, nodes: int = 1, probe: bool = False) -> int: ...
    def is_new(self, rows: int, nodes: int = 1) -> bool: ...
    def record(self, size: int, nodes: int, seconds: float, probe: bool) -> None: ...
    def record_compiling(self, seconds: float) -> None: ...


class Device(Protocol):
    """What the engine asks of a backend: copies between host and device, and whether an error says memory ran out."""

    def send(self, array: npt.NDArray) -> Any: ...
    def host(self, tensor: Any) -> npt.NDArray: ...
    def out_of_memory(self, error: Exception) -> bool: ...


def integrate(
    step: Callable, work: Work, tuner: Tuner, backend: Device, progress: Callable[[int], None] | None = None
) -> list[npt.NDArray]:
    """φ for every row.

    The work is done in sections of one batch size each, which the tuner chooses; where memory runs out, the rest of a
    section is done again with half of it.

    Args:
        step: as `make_step` gives.
        work: what is to be summed.
        tuner: of the batch size.
        backend: of the device.
        progress: called with the number of gradients that each batch has taken.

    Returns:
        for each moving input an array (n, targets, *row).
    """
    results = [np.empty((work.rows, work.index.shape[1], *shape), work.dtype) for shape in work.shapes]
    first = 0
    while first < work.rows:
        left = (work.rows - first) * work.nodes
        size, asked = tuner.next(left)
        packing = pack(work.nodes, size, int(work.rule.cells))
        batches = max(1, asked // work.nodes // packing.rows)
        probe = asked < left
        section = range(first, min(work.rows, first + batches * packing.rows) if probe else work.rows)
        start, shapes, computed = time.perf_counter(), len(tuner.shapes), 0
        try:
            for end, width in _section(step, work, packing, section, results, tuner, backend, progress, probe):
                first, computed = end, computed + width * packing.nodes * packing.chunks
        except Exception as error:
            if not (tuner.tuned and size > 1 and backend.out_of_memory(error)):
                raise
            tuner.budget.halve(size)
        else:
            if len(tuner.shapes) == shapes:  # nothing was compiled on the way
                tuner.record(size, computed, time.perf_counter() - start, probe)
    return results


def _section(
    step: Callable,
    work: Work,
    packing: Packing,
    section: range,
    results: list[npt.NDArray],
    tuner: Tuner,
    backend: Device,
    progress: Callable[[int], None] | None,
    probe: bool,
) -> Iterator[tuple[int, int]]:
    """Batches of one packing: after each, the row up to which the results are stored, and how many rows it had."""
    chunks = list(_chunks(work, packing, backend.send))
    targets = work.index.shape[1]
    width, first = 0, section.start
    launched: list[tuple[npt.NDArray, list]] = []  # rows and sums that are not stored yet
    while first < section.stop:
        left = section.stop - first
        rows = first + np.minimum(np.arange(tuner.width(left, packing.rows, packing.nodes, probe)), left - 1)
        count = min(len(rows), left)
        ends, side = work.load(rows)
        if len(rows) != width or len(work.index) > 1:  # most batches share these
            width = len(rows)
            index = [backend.send(_rows(work.index, rows, "int32"))]
            zeros = [ops.zeros((width, targets, *shape), work.dtype) for shape in work.shapes]
        sums = zeros
        new = tuner.is_new(width, packing.nodes)
        for chunk in chunks:
            start = time.perf_counter()
            sums = step(sums, ends, chunk.starts(rows), chunk.nodes(rows), side, index)
            if new:
                tuner.record_compiling(time.perf_counter() - start)
                new = False
            if progress:
                progress(count * chunk.count)
        launched.append((rows[:count], sums))
        if len(launched) > 1:  # the device computes this batch while the one before is fetched
            yield _store(results, *launched.pop(0), backend.host), width
        first += count
    yield _store(results, *launched.pop(), backend.host), width


def _store(results: list[npt.NDArray], rows: npt.NDArray, sums: list, host: Callable) -> int:
    """Writes the sums of some rows to the results; the row up to which they are stored."""
    for result, total in zip(results, sums, strict=True):
        result[rows] = host(total)[: len(rows)]
    return rows[-1] + 1


def _chunks(work: Work, packing: Packing, send: Callable) -> Iterator["_Chunk"]:
    """The nodes of a row, cut into chunks of one width; the last is filled up with nodes of weight zero."""
    overlap = int(work.rule.cells)
    t, w, which = work.rule.over(work.start_points.count)
    w, nodes = work.start_points.weights[:, which] * w, len(t)
    stride = packing.nodes - overlap
    fill = packing.chunks * stride + overlap - nodes
    t, w, which = np.pad(t, (0, fill), "edge"), np.pad(w, ((0, 0), (0, fill))), np.pad(which, (0, fill), "edge")
    for first in range(0, packing.chunks * stride, stride):
        cut = slice(first, first + packing.nodes)
        weights = w[:, cut]
        if overlap:  # the last node begins the next chunk, and the weight of its cell belongs there
            weights = np.concatenate([weights[:, :-1], np.zeros_like(weights[:, :1])], axis=1)
        counted = first + overlap if first else 0  # nodes of the chunks before
        yield _Chunk(work, send, t[cut], weights, which[cut], min(first + packing.nodes, nodes) - counted)


class _Chunk:
    """A run of nodes; what all rows share is sent to the device once.

    Args:
        work: what is summed.
        send: host array -> device tensor.
        t: (M,), the nodes.
        w: (1 or n, M), their weights.
        which: (M,), the baseline of each.
        count: nodes that no other chunk counts and that do not only fill up.
    """

    def __init__(
        self, work: Work, send: Callable, t: npt.NDArray, w: npt.NDArray, which: npt.NDArray, count: int
    ) -> None:
        self.work, self.send, self.t, self.w, self.which, self.count = work, send, t, w, which, count
        self.sent: dict[str, tuple[int, list]] = {}

    def nodes(self, rows: npt.NDArray) -> list:
        """[t, w] of some rows, each (S·M,)."""
        if len(self.w) > 1:
            return self._nodes(rows)
        return self._once("nodes", len(rows), lambda: self._nodes(rows))

    def _nodes(self, rows: npt.NDArray) -> list:
        t = np.broadcast_to(self.t, (len(rows), len(self.t)))
        w = np.broadcast_to(self.w if len(self.w) == 1 else self.w[rows], t.shape)
        return [self.send(np.array(a.ravel(), self.work.dtype)) for a in (t, w)]

    def starts(self, rows: npt.NDArray) -> list:
        """Start points of some rows, (1 or S, 1 or M, *row) for each moving input."""
        if self.work.start_points.shared:
            return self._once("starts", 0, lambda: self._starts(rows))
        return self._starts(rows)

    def _starts(self, rows: npt.NDArray) -> list:
        points = [p[rows] if len(p) > 1 else p for p in self.work.start_points.points]
        return [self.send(_rows(p[:, self.which] if p.shape[1] > 1 else p, None, self.work.dtype)) for p in points]

    def _once(self, what: str, size: int, make: Callable[[], list]) -> list:
        """What was sent last for as many rows, made and sent again for another number of them."""
        if self.sent.get(what, (None,))[0] != size:
            self.sent[what] = size, make()
        return self.sent[what][1]


def _rows(array: npt.NDArray, rows: npt.NDArray | None, dtype: str) -> npt.NDArray:
    """Rows of an array; an array of one row serves all."""
    if rows is not None:
        array = np.broadcast_to(array, (len(rows), *array.shape[1:])) if len(array) == 1 else array[rows]
    return np.ascontiguousarray(array, dtype)
