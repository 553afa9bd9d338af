"""Refinement: every row is integrated over more and more cells until its error is below a tolerance.

A sum over n cells, whether of secants or of derivatives by the trapezoidal rule, errs by C/n² + … once the cells
resolve what happens on the path; kinks obey the same law on average, as long as many flip. Two sums therefore give a
better value (Richardson),

    R = Sₙ + (Sₙ − Sₖ) r,    r = k² / (n² − k²).

Two numbers tell how good it is: the correction c = |R − Sₙ|, which is what the sum alone was off by, and d = |R − R′|
to the value before. Without kinks R errs by C/n⁴, which leaves d k⁴ / (n⁴ − k⁴). With them the law may leave as
much as d r, or c where it does not hold at all; their geometric mean √(c d r) times 3 bounded the error of nearly every
row of trained networks, and was about 2.5 times it in the middle (docs/exactness.md). The cells to try next follow.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from aumann.core.rules import between, secant, trapezoid

SAFETY = 3.0  # on the estimate
LEAP = 4.0  # the most by which cells multiply from one sum to the next: a law seen from afar misleads
STEP = 1.4  # and the least that is worth a sum
AIM = 0.7  # of the tolerance, so that most rows that went as far as the law told are there


@dataclass(frozen=True)
class Sums:
    """A family of sums over more and more cells.

    Attributes:
        name: as the provenance has it.
        of: (rows, cells, cells of their last sums (len(rows),), those sums) -> for each point an array
            (len(rows), targets, *row).
        first, second: cells of the first two sums.
        next: (cells so far, cells that would do) -> cells to take.
        price: (cells, cells of the last sum or 0) -> gradients that a sum costs.
        estimate: (c, d, r) -> what is left of the error, but for the safety.
    """

    name: str
    of: Callable
    first: int
    second: int
    next: Callable
    price: Callable
    estimate: Callable


@dataclass(eq=False)
class Refined:
    """What came of every row.

    Attributes:
        values: for each point (n, targets, *row).
        error: (n, targets), estimated relative L1 error of the values of all points together.
        parts: for each point (n, targets), that of its own values.
        evaluations: (n,), gradients spent on the row.
    """

    values: list
    error: np.ndarray
    parts: list
    evaluations: np.ndarray

    def put(self, rows, others):
        """Takes other results for some rows, what was spent on them before included."""
        mine, theirs = ([*each.values, each.error, *each.parts] for each in (self, others))
        for own, other in zip(mine, theirs, strict=True):
            own[rows] = other
        self.evaluations[rows] += others.evaluations


def refine(sums, rows, targets, tolerance, most, rounding):
    """Values of rows to a tolerance, as far as the gradients that may be spent allow.

    Args:
        sums: a family of sums.
        rows: (n,) the rows that it is asked for.
        tolerance: relative L1 error at which a row is done, for each of its targets.
        most: gradients that may be spent on a row.
        rounding: relative error that is there whatever is done.
    """
    n = len(rows)
    done = Refined([], np.full((n, targets), np.inf), [], np.zeros(n, int))
    last, cells, want = [], np.zeros(n, int), np.full(n, sums.first)
    while want.any():
        for count in map(int, np.unique(want[want > 0])):
            here = np.flatnonzero(want == count)
            found = sums.of(rows[here], count, cells[here], [a[here] for a in last])
            if not last:
                last = [np.empty((n, *s.shape[1:]), s.dtype) for s in found]
                done.values = [np.empty_like(a) for a in last]
                done.parts = [np.full((n, targets), np.inf) for _ in last]
            _extrapolate(done, last, cells[here], here, found, count, sums.estimate, rounding)
            done.evaluations[here] += [sums.price(count, int(k)) for k in cells[here]]
            cells[here] = count
            want[here] = _wanted(sums, count, done.error[here].max(1), done.evaluations[here], tolerance, most)
    return done


def _extrapolate(done, last, before, here, found, count, estimate, rounding):
    """New values of some rows and what they are worth, from new sums and those before them."""
    r = before**2 / (count**2 - before**2.0)
    better = [s + _fit(r, s) * (s - a[here]) if before.all() else s for s, a in zip(found, last, strict=True)]
    mass = [size(b) for b in better]
    if before.all():
        off = [size(b - s) for b, s in zip(better, found, strict=True)]
        first = ~np.isfinite(done.error[here]).all(1)
        moved = [size(b - v[here]) for b, v in zip(better, done.values, strict=True)]

        def error(c, d, mass):  # the first extrapolation has none to be compared with but its own correction
            left = np.where(first[:, None], c, estimate(c, d, r[:, None]))
            # 0 / 0 is no error: nothing is attributed, and nothing was on the way.
            return np.divide(SAFETY * left, mass, out=np.where(left > 0, np.inf, 0.0), where=mass > 0) + rounding

        for part, c, d, m in zip(done.parts, off, moved, mass, strict=True):
            part[here] = error(c, d, m)
        done.error[here] = error(sum(off), sum(moved), sum(mass))
    for v, a, b, s in zip(done.values, last, better, found, strict=True):
        v[here], a[here] = b, s


def _wanted(sums, count, error, spent, tolerance, most):
    """Cells of the next sum of each row; 0 where it is done, or where what may be spent does not pay for it."""
    if count == sums.first:
        want = np.full(len(error), sums.second)
    else:
        grown = np.clip(np.sqrt(error / (AIM * tolerance)), STEP, LEAP)
        want = np.array(
            [0 if not e > tolerance else sums.next(count, count * g) for e, g in zip(error, grown, strict=True)]
        )
    for i in np.flatnonzero(want):
        while want[i] and spent[i] + sums.price(int(want[i]), count) > most:
            less = sums.next(count, want[i] * 0.7)
            want[i] = less if STEP * count <= less < want[i] else 0
    return want.astype(int)


def _fit(r, like):
    return r.reshape(-1, *(1,) * (like.ndim - 1)).astype(like.dtype)


def size(a):
    """L1 over the features: (rows, targets)."""
    return np.abs(a).sum(axis=tuple(range(2, a.ndim)), dtype=np.float64)


def _with_kinks(c, d, r):
    return np.sqrt(c * d * r)


def _without_kinks(c, d, r):
    return d * r * r / (1 + 2 * r)  # k⁴ / (n⁴ − k⁴), as r is k² / (n² − k²)


def secants(integrate, fit):
    """Sums of secants over cells that end at (k/n)^1.5: for what has kinks, or no derivative at an end of the path.

    Args:
        integrate: (rows, rule) -> for each point an array (len(rows), targets, *row).
        fit: cells -> the next larger number that fills the batches.
    """

    def of(rows, cells, before, last):
        return integrate(rows, secant(cells))

    return Sums("secants", of, 2, 5, lambda n, want: fit(math.ceil(want)), lambda n, before: n + 1, _with_kinks)


def trapezoids(integrate, smooth=True):
    """Sums of derivatives at the ends of 2ᵏ equal cells, of which every one is used again: for what is smooth.

    Args:
        integrate: as for `secants`.
        smooth: False where that is not known, as of a function whose operations cannot be seen.
    """

    def of(rows, cells, before, last):
        found = None
        for k in np.unique(before):
            here = before == k
            new = integrate(rows[here], trapezoid(cells + 1) if not k else between(int(k), cells))
            if found is None:
                found = [np.empty((len(rows), *a.shape[1:]), a.dtype) for a in new]
            for f, a, b in zip(found, new, last or new, strict=True):
                f[here] = a if not k else a * (1 - k / cells) + b[here] * (k / cells)
        return found

    estimate = _without_kinks if smooth else _with_kinks
    return Sums("trapezoids", of, 2, 4, lambda n, want: 2 * n, lambda n, k: n - k if k else n + 1, estimate)
