"""The engine: Σ over (row × baseline × node), packed into batches of constant size, accumulated on the device.

A batch holds S rows × M path points with S·M ≤ batch_size. A row whose points do not fit is cut into equal chunks and
the sums stay on the device between them. Memory therefore grows with batch_size and the results, not with nodes,
baselines or rows.
"""

import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from keras import ops

from aumann.core.credits import Moment, share


@dataclass(frozen=True)
class Packing:
    """How the points of the rows are cut into batches.

    Attributes:
        rows: S, rows per batch.
        points: M, path points per row and batch.
        chunks: batches that one row takes.
    """

    rows: int
    points: int
    chunks: int


def pack(points, batch_size, overlap=0):
    """The packing of rows with `points` path points each.

    Points that do not fit are cut into chunks of one width, that between half and all of batch_size which leaves the
    fewest idle places in the last chunk. A chunk of cells begins with the point that the last one ended with, an
    `overlap` of one; it holds two points at least. Rules of cells come in many lengths, and their batches in powers of
    two of rows, for the sake of what is compiled for each size.
    """
    batch_size = max(batch_size, 1 + overlap)
    if points <= batch_size:
        rows = batch_size // points
        return Packing(1 << rows.bit_length() - 1 if overlap else rows, points, 1)

    def chunks(width):
        return -(-(points - overlap) // (width - overlap))

    widths = range(batch_size, max(1 + overlap, batch_size // 2) - 1, -1)
    width = min(widths, key=lambda width: chunks(width) * width)
    return Packing(1, width, chunks(width))


def above(count):
    """The next round number, 2ᵏ or 3 · 2ᵏ: a few shapes serve whatever is compiled for each of them."""
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
        starts: resolved baselines.
        index: (1 or n, targets) position of each target in the outputs.
        rule: nodes and weights.
        shapes: shape of one row of each point.
        dtype: of the path and of the sums.
    """

    rows: int
    load: Any
    starts: Any
    index: np.ndarray
    rule: Any
    shapes: list
    dtype: str

    @property
    def points(self):
        """Path points of a row: gradients spent on it."""
        return len(self.rule.over(self.starts.count)[0])

    def of(self, rows):
        """The same for some rows."""
        index = self.index if len(self.index) == 1 else self.index[rows]
        load = self.load
        return replace(self, rows=len(rows), load=lambda own: load(rows[own]), starts=self.starts.of(rows), index=index)


def integrate(step, work, pace, backend, progress=None):
    """φ for every row.

    Returns:
        for each point an array (n, targets, *row).
    """
    results = [np.empty((work.rows, work.index.shape[1], *shape), work.dtype) for shape in work.shapes]
    first = 0
    while first < work.rows:
        left = (work.rows - first) * work.points
        size, points = pace.next(left)
        packing = pack(work.points, size, int(work.rule.cells))
        calls = max(1, points // work.points // packing.rows)
        trial = points < left
        section = range(first, min(work.rows, first + calls * packing.rows) if trial else work.rows)
        start, known, ran = time.perf_counter(), len(pace.shapes), 0
        try:
            for stored, width in _section(step, work, packing, section, results, pace, backend, progress, trial):
                first, ran = stored, ran + width * packing.points * packing.chunks
        except Exception as error:
            if not (pace.tuned and size > 1 and backend.out_of_memory(error)):
                raise
            pace.room.halve(size)
        else:
            if len(pace.shapes) == known:
                pace.took(size, ran, time.perf_counter() - start, trial)
    return results


def _section(step, work, packing, section, results, pace, backend, progress, trial):
    """Batches of one packing: after each, the row up to which the results are there, and how many rows it had."""
    chunks = list(_chunks(work, packing, backend.send))
    targets = work.index.shape[1]
    waiting, width, first = None, None, section.start
    while first < section.stop:
        left = section.stop - first
        rows = first + np.minimum(np.arange(pace.width(left, packing.rows, packing.points, trial)), left - 1)
        count = min(len(rows), left)
        ends, side = work.load(rows)
        if len(rows) != width or len(work.index) > 1:  # most batches share these
            width = len(rows)
            index = [backend.send(_rows(work.index, rows, "int32"))]
            blank = [ops.zeros((width, targets, *shape), work.dtype) for shape in work.shapes]
        sums = blank
        new = pace.is_new(width, packing.points)
        for chunk in chunks:
            start = time.perf_counter()
            sums = step(sums, ends, chunk.starts(rows), chunk.nodes(rows), side, index)
            if new:
                pace.compiled(time.perf_counter() - start)
                new = False
            if progress:
                progress(count * chunk.points)
        if waiting:  # the next batch is under way while the last one is fetched
            yield _store(results, *waiting, backend.host), width
        waiting = rows[:count], sums
        first += count
    yield _store(results, *waiting, backend.host), width


def _store(results, rows, sums, host):
    for result, total in zip(results, sums, strict=True):
        result[rows] = host(total)[: len(rows)]
    return rows[-1] + 1


def _chunks(work, packing, send):
    """The path points of a row, cut into chunks of one width; the last is filled up with points of weight zero."""
    overlap = int(work.rule.cells)
    t, w, which = work.rule.over(work.starts.count)
    w, points = work.starts.weights[:, which] * w, len(t)
    step = packing.points - overlap
    fill = packing.chunks * step + overlap - points
    t, w, which = np.pad(t, (0, fill), "edge"), np.pad(w, ((0, 0), (0, fill))), np.pad(which, (0, fill), "edge")
    for first in range(0, packing.chunks * step, step):
        cut = slice(first, first + packing.points)
        weights = w[:, cut]
        if overlap:  # the last point is where the next chunk begins, and its cell with it
            weights = np.concatenate([weights[:, :-1], np.zeros_like(weights[:, :1])], axis=1)
        seen = first + overlap if first else 0
        yield _Chunk(work, send, t[cut], weights, which[cut], min(first + packing.points, points) - seen)


class _Chunk:
    """A run of path points; what all rows share is sent to the device once."""

    def __init__(self, work, send, t, w, which, points):
        self.work, self.send, self.t, self.w, self.which, self.points = work, send, t, w, which, points
        self.kept = {}

    def nodes(self, rows):
        if len(self.w) > 1:
            return self._nodes(rows)
        return self._once("nodes", len(rows), lambda: self._nodes(rows))

    def _nodes(self, rows):
        t = np.broadcast_to(self.t, (len(rows), len(self.t)))
        w = np.broadcast_to(self.w if len(self.w) == 1 else self.w[rows], t.shape)
        return [self.send(np.array(a.ravel(), self.work.dtype)) for a in (t, w)]

    def starts(self, rows):
        if self.work.starts.shared:
            return self._once("starts", 0, lambda: self._starts(rows))
        return self._starts(rows)

    def _starts(self, rows):
        points = [p[rows] if len(p) > 1 else p for p in self.work.starts.points]
        return [self.send(_rows(p[:, self.which] if p.shape[1] > 1 else p, None, self.work.dtype)) for p in points]

    def _once(self, what, size, make):
        if self.kept.get(what, (None,))[0] != size:
            self.kept[what] = size, make()
        return self.kept[what][1]


def _rows(array, rows, dtype):
    """Rows of an array; an array of one row serves all."""
    if rows is not None:
        array = np.broadcast_to(array, (len(rows), *array.shape[1:])) if len(array) == 1 else array[rows]
    return np.ascontiguousarray(array, dtype)
