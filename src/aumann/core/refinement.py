"""Refinement: every row is integrated over more and more cells until its error is below a tolerance.

A sum over n cells, whether of secants or of derivatives by the trapezoidal rule, errs by C/n² + … once the cells
resolve what happens on the path; kinks obey the same law on average, as long as many flip. Two sums therefore give a
better value (Richardson),

    R = Sₙ + (Sₙ − Sₖ) k² / (n² − k²).

Two numbers tell how good it is: the correction c = |R − Sₙ|, which is what the sum alone was off by, and d = |R − R′|
to the value before. If R errs by C/nᵖ it is off by d q, q = kᵖ / (nᵖ − kᵖ), where p is 4 for what is smooth and 2 for
kinks; where no law holds yet, by about c. Their geometric mean √(c d q) times a safety bounds the error of nearly every
row of trained networks and is a few times that (docs/exactness.md). With kinks, corrections of few entries are small by
chance more often than those of many: the safety grows with 1/m, m being the number of like entries that would have the
same ratio of norms, |v|₁² / |v|₂². The cells to try next follow from the estimate.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from aumann.core.engine import above
from aumann.core.rules import between, secant, trapezoid

BLOCK = 1 << 20  # numbers summed at a time
PART = 1 << 22  # numbers of the values that are refined at a time, where rows are many
SAFETY = 3.0  # on the estimate
FEW = 10.0  # entries of a correction for which the safety doubles, where there are kinks
LEAP = 4.0  # the most by which cells multiply from one sum to the next: a law seen from afar misleads
STEP = 1.3  # and the least that is worth a sum
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
        price: (cells, cells of the last sum or 0), either of which may be an array -> gradients that a sum costs.
        order: p, of the error of an extrapolation: 2 where there are kinks, 4 where there are none.
    """

    name: str
    of: Callable
    first: int
    second: int
    next: Callable
    price: Callable
    order: int


def secants(integrate):
    """Sums of secants over cells that end at (k/n)^1.5: for what has kinks, or no derivative at an end of the path.

    Args:
        integrate: (rows, rule) -> for each point an array (len(rows), targets, *row).
    """

    def of(rows, cells, before, last):
        return integrate(rows, secant(cells))

    return Sums("secants", of, 2, 5, lambda n, want: above(math.ceil(want) + 1) - 1, lambda n, k: n + 1, 2)


def trapezoids(integrate, order=4):
    """Sums of derivatives at the ends of 2ᵏ equal cells, of which every one is used again: for what is smooth.

    Args:
        integrate: as for `secants`.
        order: 2 where kinks are not excluded, as in a function whose operations cannot be seen.
    """

    def of(rows, cells, before, last):
        if not before.any():
            return integrate(rows, trapezoid(cells + 1))
        (k,) = map(int, set(before))  # all rows have the same, for all of them double it
        share = k / cells
        return [s * share + new * (1 - share) for s, new in zip(last, integrate(rows, between(k, cells)), strict=True)]

    return Sums("trapezoids", of, 2, 4, lambda n, want: 2 * n, lambda n, k: np.where(k, n - k, n + 1), order)


@dataclass(eq=False)
class Refined:
    """What came of every row.

    Attributes:
        values: for each point (n, targets, *row).
        error: (n, targets), estimated relative L1 error of the values of all points together.
        parts: for each point (n, targets), that of its own values.
        evaluations: (n,), gradients spent on the row.
        standard_error: of values that were sampled, shaped like them; else None.
    """

    values: list
    error: np.ndarray
    parts: list
    evaluations: np.ndarray
    standard_error: list | None = None

    def put(self, rows, others):
        """Takes other results for some rows, what was spent on them before included."""
        mine, theirs = ([*e.values, e.error, *e.parts, *(e.standard_error or [])] for e in (self, others))
        for own, other in zip(mine, theirs, strict=True):
            own[rows] = other
        self.evaluations[rows] += others.evaluations


def stacked(found, rows):
    """Results of consecutive rows, one after another, as one of all `rows`."""
    whole, first = None, 0
    for part in found:
        count = len(part.evaluations)
        if count == rows:
            return part
        if whole is None:
            whole = _each(lambda a: np.empty((rows, *a.shape[1:]), a.dtype), part)
        here = slice(first, first + count)
        _each(lambda mine, theirs, here=here: mine.__setitem__(here, theirs), whole, part)
        first += count
    return whole


def _each(fn, *results):
    """fn of every array of one `Refined`, or of the same arrays of several, as another."""
    found = {}
    for name in vars(results[0]):
        one, *others = (getattr(each, name) for each in results)
        if isinstance(one, list):
            found[name] = [fn(*same) for same in zip(one, *others, strict=True)]
        else:
            found[name] = None if one is None else fn(one, *others)
    return Refined(**found)


def refine(sums, rows, change, tolerance, most, rounding):
    """Values of rows to a tolerance, as far as the gradients that may be spent allow.

    Args:
        sums: a family of sums.
        rows: (n,) the rows that it is asked for.
        change: F(x) − F(x′), (n, targets), and how well it is known: what the values of a row miss of it is an error.
        tolerance: relative L1 error at which a row is done, for each of its targets.
        most: gradients that may be spent on a row.
        rounding: relative error that is there whatever is done.
    """
    n, targets = change[0].shape
    goal = max(tolerance, 2 * rounding)
    done = Refined([], np.full((n, targets), np.inf), [], np.zeros(n, int))
    last, cells, want = [], np.zeros(n, int), np.full(n, sums.first)
    while want.any():
        for count in map(int, np.unique(want[want > 0])):
            here = np.flatnonzero(want == count)
            found = sums.of(rows[here], count, cells[here], [s[here] for s in last])
            if last:
                _extrapolate(done, last, here, cells[here] / count, found, sums.order, rounding)
                done.error[here] = np.maximum(done.error[here], missed(done.values, here, *change))
            else:  # every row
                done.values, done.parts = list(found), [done.error.copy() for _ in found]
                last = [np.array(s) for s in found]
            done.evaluations[here] += sums.price(count, cells[here])
            cells[here] = count
            want[here] = _wanted(sums, count, done.error[here].max(1), done.evaluations[here], goal, most)
    return done


def _extrapolate(done, last, here, ratio, found, order, rounding):
    """New values of some rows, and their errors, from new sums and the last ones, which had `ratio` as many cells."""
    step = ratio**2 / (1 - ratio**2)
    law = (ratio**order / (1 - ratio**order))[:, None]
    first = ~np.isfinite(done.error[here])  # no value before to compare with: the correction is all there is
    sizes = []
    for s, old, value, part in zip(found, last, done.values, done.parts, strict=True):
        correction = (s - old[here]) * step.reshape(-1, *(1,) * (s.ndim - 1)).astype(s.dtype)
        better = s + correction
        sizes.append([size(correction), size(better - value[here]), size(better), size(correction**2)])
        part[here] = _error(*sizes[-1], law, first, order, rounding)
        value[here], old[here] = better, s
    done.error[here] = _error(*map(sum, zip(*sizes, strict=True)), law, first, order, rounding)


def _error(c, d, mass, squares, law, first, order, rounding):
    """Relative; 0 / 0 is none, for nothing is attributed and nothing was on the way."""
    few = FEW * np.divide(squares, c * c, out=np.zeros_like(c), where=c > 0) if order == 2 else 0
    left = SAFETY * (1 + few) * np.where(first, c, np.sqrt(c * d * law))
    return np.divide(left, mass, out=np.where(left > 0, np.inf, 0 * left), where=mass > 0) + np.where(
        mass > 0, rounding, 0
    )


def missed(values, here, change, noise):
    """How much of F(x) − F(x′) values of some rows do not account for, relative to their mass."""
    own = [v[here] for v in values]
    mass = sum(map(size, own))
    off = np.maximum(np.abs(sum(map(total, own)) - change[here]) - noise[here], 0)
    return np.divide(off, mass, out=np.zeros_like(off), where=mass > 0)


def _wanted(sums, count, error, spent, tolerance, most):
    """Cells of the next sum of each row; 0 where it is done, or where what may be spent does not pay for it."""
    if count == sums.first:
        want = np.full(len(error), sums.second)
    else:
        want, left = np.zeros(len(error), int), error > tolerance
        grown = np.clip(np.sqrt(error[left] / (AIM * tolerance)), STEP, LEAP)
        some, which = np.unique(np.ceil(count * grown).astype(int), return_inverse=True)  # few, for a million rows
        want[left] = np.array([sums.next(count, int(n)) for n in some], int)[which]
    for i in np.flatnonzero(want * (spent + sums.price(want, count) > most)):
        while want[i] and spent[i] + sums.price(want[i], count) > most:
            less = sums.next(count, want[i] / 2)  # the next smaller one
            want[i] = less if STEP * count <= less < want[i] else 0
    return want


def total(a, of=lambda a: a):
    """Σ over the features: (rows, targets), some rows at a time, so that nothing as large as the values arises."""
    sums, block = np.empty(a.shape[:2]), max(1, BLOCK // max(1, a[:1].size))
    for first in range(0, len(a), block):
        part = of(a[first : first + block])
        sums[first : first + block] = part.sum(axis=tuple(range(2, a.ndim)), dtype=np.float64)
    return sums


def size(a):
    """L1 over the features: (rows, targets)."""
    return total(a, np.abs)
