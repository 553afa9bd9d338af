"""Refinement: every row is integrated over more and more cells until its error is below a tolerance.

A sum over n cells, whether of secants or of derivatives by the trapezoidal rule, errs by C/n² + … once the cells
resolve what happens on the path; kinks obey the same law on average, as long as many flip. Two sums therefore give a
better value (Richardson),

    R = Sₙ + (Sₙ − Sₖ) k² / (n² − k²).

Two numbers tell how good that is: the correction c = |R − Sₙ|, which is what the sum alone was off by, and d = |R − R′|
to the value before. If R errs by C/nᵖ it is off by d q, q = kᵖ / (nᵖ − kᵖ), where p is 4 for what is smooth and 2 for
kinks; where no law holds yet, by about c. Their geometric mean √(c d q) times a safety bounds the error of nearly every
row of trained networks and is a few times that (docs/exactness.md). With kinks, corrections of few entries are small by
chance more often than those of many: the safety grows with 1/m, m being the number of like entries that would have the
same ratio of norms, |v|₁² / |v|₂². The cells to try next follow from the estimate.

What is smooth may yet bend within a cell, as √(h² + ε) does: then sums of derivatives err by C/nˢ with s < 2, and R by
as much. The order s is observed, from how much two differences of sums shrink, and so is that of R; no R is said to be
better than c (qₛ / q₂ − 1) or d q, q being of these orders, times a safety. From `LOOK` cells on such rows are summed
by other means: over nodes that are graded towards the ends of the path where these are to blame, else by secants.

The error is relative to the least that Σ|φ*| can be, φ* being the integral: Σ|φ| less what is left, or |F(x) − F(x′)|.
Where a slope is enormous Σ|φ| is no measure, for the wrong values are as large as their error.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from aumann.core.engine import rounded_up
from aumann.core.quadrature import Draws, between, graded, secant, trapezoid

LEAST_EVALUATIONS = 9  # gradients of the first two sums of secants, over 2 and 5 cells
BLOCK = 1 << 20  # numbers summed at a time
PART = 1 << 22  # numbers of the values that are refined at a time, where rows are many
SAFETY = 3.0  # on the estimate
FOR_BENDS = 5.0  # the same for secants of what is smooth but bends, which it does at few places
FEW = 10.0  # entries of a correction for which the safety doubles, where there are kinks
TRUST = 2.0  # in a law that is observed
FASTEST = 6  # order
ORDERS = np.linspace(0.25, FASTEST, 47)  # among which it is looked for
LOOK = 10  # cells, from which on sums may be left for others
SLOW = 1.5, 1.75  # order of sums below which they are, of derivatives and of secants, whose cells make 1 into 1.5
ENDS = 6  # gradients that tell whether it is for the ends of the path
ELSEWHERE = 24  # gradients of the first two sums of any other family
FAR = 0.3, 20.0  # times the tolerance that the error must then be, for derivatives and for secants
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
        order: p, of the error of an extrapolation: 2 where there are kinks, 4 where there are none, `FASTEST` for sums
            that converge faster than any power of n, and are not extrapolated.
        leave: (rows, cells, |Sₙ − Sₖ|₁ (len(rows), targets)) -> which of some rows whose sums do not follow their law
            are to be summed otherwise, at the price of `ENDS`; None where that is not asked.
        safety: on the estimate.
    """

    name: str
    of: Callable
    first: int
    second: int
    next: Callable
    price: Callable
    order: int
    leave: Callable | None = None
    safety: float = SAFETY


def secants(integrate, cells=secant, leave=None, safety=SAFETY):
    """Sums of secants over cells that end at (k/n)^1.5: for what has kinks, or no derivative at an end of the path.

    Args:
        integrate: (rows, rule) -> for each point an array (len(rows), targets, *row).
        cells: `secant`, or `graded_secant` where a slope is enormous at an end.
        leave, safety: as in `Sums`.
    """

    def of(rows, count, before, last):
        return integrate(rows, cells(count))

    name, first, second = ("secants", 2, 5) if cells is secant else ("graded secants", 7, 15)
    return Sums(
        name,
        of,
        first,
        second,
        lambda n, want: rounded_up(math.ceil(want) + 1) - 1,
        lambda n, k: n + 1,
        2,
        leave,
        safety,
    )


def trapezoids(integrate, order=4, leave=None):
    """Sums of derivatives at the ends of 2ᵏ equal cells, of which every one is used again: for what is smooth.

    Args:
        integrate, leave: as for `secants`.
        order: 2 where kinks are not excluded, as in a function whose operations cannot be seen.
    """

    def of(rows, cells, before, last):
        if not before.any():
            return integrate(rows, trapezoid(cells + 1))
        (k,) = map(int, set(before))  # all rows have the same, for all of them double it
        share = k / cells
        return [s * share + new * (1 - share) for s, new in zip(last, integrate(rows, between(k, cells)), strict=True)]

    return Sums("trapezoids", of, 2, 4, lambda n, want: 2 * n, lambda n, k: np.where(k, n - k, n + 1), order, leave)


def graded_trapezoids(integrate, order):
    """The same over nodes that are graded towards both ends of the path: for a slope that is enormous at one."""

    def of(rows, cells, before, last):
        k = int(max(before, default=0))
        rule, part = graded(cells, k)
        if not k:
            return integrate(rows, rule)
        share = graded(k)[1] * k / cells
        share /= share + part
        return [s * share + new * (1 - share) for s, new in zip(last, integrate(rows, rule), strict=True)]

    return Sums("graded trapezoids", of, 8, 16, lambda n, want: 2 * n, lambda n, k: np.where(k, n - k, n + 1), order)


def at_the_ends(t, baselines):
    """What a trapezoidal sum over cells that end at t moves by when the first and the last of them are halved.

    Six points of the path, of each of so many baselines.
    """
    first, last = t[1], 1 - t[-2]
    nodes = np.array([0, first / 2, first, 1 - last, 1 - last / 2, 1])
    weights = np.repeat([first / 4, last / 4], 3) * np.tile([1, -2, 1], 2)
    which = np.repeat(np.arange(baselines), 6)
    return Draws("at the ends", np.tile(nodes, baselines), np.tile(weights, baselines), which)


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


@dataclass
class Step:
    """What a new sum has changed, each (rows, targets): |R − Sₙ|₁, |R − R′|₁, |R|₁ and |R − Sₙ|₂²."""

    correction: np.ndarray
    shift: np.ndarray
    mass: np.ndarray
    squares: np.ndarray


def refine(sums, rows, change, tolerance, most, rounding):
    """Values of rows to a tolerance, as far as the gradients that may be spent allow.

    Args:
        sums: a family of sums.
        rows: (n,) the rows that it is asked for.
        change: F(x) − F(x′), (n, targets), and what else `missed` takes: what the values of a row miss is an error.
        tolerance: relative L1 error at which a row is done, for each of its targets.
        most: gradients that may be spent on a row.
        rounding: relative error that is there whatever is done.
    """
    n, targets = change[0].shape
    goal = max(tolerance, 2 * rounding)
    done = Refined([], np.full((n, targets), np.inf), [], np.zeros(n, int))
    last, cells, want = [], np.zeros(n, int), np.full(n, sums.first)
    trails, paces, looked = [], np.full(n, np.nan), np.zeros(n, bool)  # differences, growth of cells, left or not
    while want.any():
        for count in map(int, np.unique(want[want > 0])):
            here = np.flatnonzero(want == count)
            found = sums.of(rows[here], count, cells[here], [s[here] for s in last])
            if last:
                growth = count / cells[here]
                pace, steps = (paces[here], growth), _extrapolate(done, last, here, growth, found, sums.order)
                whole = Step(*map(sum, zip(*(vars(step).values() for step in steps), strict=True)))
                before = sum(trail[:, here] for trail in trails)
                for part, step, trail in zip(done.parts, steps, trails, strict=True):
                    left = _left(step, trail[:, here], *pace, sums)
                    part[here] = relative(left, step.mass, rounding)
                    trail[:, here] = _differences(step, *pace)
                left, certain = _left(whole, before, *pace, sums), missed(done.values, here, *change)
                left = np.maximum(left, np.hypot(certain, left / SAFETY))  # values that miss a part err elsewhere too
                done.error[here] = relative(left, whole.mass, rounding, known(here, *change))
                moved = _differences(whole, *pace)[0]
                slow = _observed(before[0], moved, *pace) < SLOW[sums.order == 2]
                slow &= done.error[here] > FAR[sums.order == 2] * goal
                paces[here] = growth
            else:  # every row
                done.values, done.parts = list(found), [done.error.copy() for _ in found]
                last = [np.array(s) for s in found]
                trails = [np.full((2, n, targets), np.nan) for _ in found]
            done.evaluations[here] += sums.price(count, cells[here])
            cells[here] = count
            left = here[:0]
            if sums.leave and count >= LOOK:
                room = done.evaluations[here] + ENDS + ELSEWHERE <= most
                asked = here[slow.any(1) & room & ~looked[here]]
                if len(asked):
                    left = asked[sums.leave(rows[asked], count, moved[np.isin(here, asked)])]
                looked[asked] = True
                done.evaluations[asked] += ENDS
            want[here] = _wanted(sums, count, done.error[here].max(1), done.evaluations[here], goal, most)
            want[left] = 0
    for error in (done.error, *done.parts):
        error[np.isnan(error)] = np.inf  # nothing is known of what is not finite
    return done


def _extrapolate(done, last, here, growth, found, order):
    """New values of some rows, from new sums and the last ones, of as many cells over `growth`; a `Step` each point."""
    factor, steps = 1 / (growth**2 - 1), []
    for s, old, value in zip(found, last, done.values, strict=True):
        correction = (s - old[here]) * factor.reshape(-1, *(1,) * (s.ndim - 1)).astype(s.dtype)
        if order == FASTEST:
            correction, better = s - old[here], s
        else:
            better = s + correction
        steps.append(Step(size(correction), size(better - value[here]), size(better), size(correction**2)))
        value[here], old[here] = better, s
    return steps


def _differences(step, before, growth):
    """|Sₙ − Sₖ|₁ and |R − R′|₁, of which the first R has none before it: (2, rows, targets)."""
    growth = growth[:, None]
    return np.stack([step.correction * (growth**2 - 1), np.where(np.isnan(before)[:, None], np.nan, step.shift)])


def _left(step, differences, before, growth, sums):
    """What is left in R, in L1: by the law of the family, or by the one that its sums follow where that is slower.

    Args:
        differences: those of the sums and values before, NaN where there were none.
        before, growth: (rows,) by what cells have multiplied from the last sums but one to the last, and since.
        sums: their family.
    """
    c, d, order = step.correction, step.shift, sums.order
    first = np.isnan(before)[:, None]  # no value before to compare with: the correction is all there is
    of_sums, of_values = map(_observed, differences, _differences(step, before, growth), 2 * [before], 2 * [growth])
    if order == FASTEST:
        return np.where(first, c, TRUST * c * remainder(np.fmin(of_sums, order), growth))
    if order == 2:  # chance moves the differences where there are kinks, and few of them tell no order
        few = FEW * np.divide(step.squares, c * c, out=np.zeros_like(c), where=c > 0)
        return sums.safety * (1 + few) * np.where(first, c, np.sqrt(c * d * remainder(order, growth)))
    left = sums.safety * np.where(first, c, np.sqrt(c * d * remainder(order, growth)))
    slow = c * np.maximum(remainder(np.minimum(of_sums, 2), growth) / remainder(2, growth) - 1, 0)
    slower = d * remainder(np.minimum(of_values, order), growth)
    return np.fmax(left, TRUST * np.fmax(slow, slower))


def remainder(order, growth):
    """q: sums that err by C/nᵖ and have come from n/g to n cells are still off by q times what they have moved."""
    return 1 / (growth.reshape(-1, 1) ** order - 1)


def _observed(earlier, later, before, growth):
    """The order p at which differences shrink, (rows, targets): 1 − g⁻ᵖ to bᵖ − 1 if cells grow by b, then by g.

    NaN where there were none.
    """
    shrunk = np.divide(later, earlier, out=np.full_like(later, np.nan), where=earlier > 0)
    found = np.full_like(shrunk, np.nan)
    for b, g in {pair for pair in zip(before.tolist(), growth.tolist(), strict=True) if pair[0] == pair[0]}:
        rows = (before == b) & (growth == g)
        law = (1 - g**-ORDERS) / (b**ORDERS - 1)
        found[rows] = np.interp(-shrunk[rows], -law, ORDERS)
    return found


def relative(left, mass, rounding, known=0.0):
    """What is left as a part of Σ|φ|, or of the least that Σ|φ*| of the integral can be where that is less.

    That is Σ|φ| − left, and what is `known` of |F(x) − F(x′)|. 0 / 0 is none, for nothing is attributed and nothing
    was on the way.
    """
    least = np.minimum(mass, np.maximum(mass - left, known))
    return np.divide(left, least, out=np.where(left > 0, np.inf, 0 * left), where=least > 0) + np.where(
        mass > 0, rounding, 0
    )


def missed(values, here, change, noise, silence=np.inf):
    """How much of F(x) − F(x′) values of some rows do not account for: (rows, targets).

    Args:
        here: the rows.
        change: F(x) − F(x′), of all rows (n, targets).
        noise: how well it is known that the values must add up to it; infinite where they need not.
        silence: how well it is known that it must come about by something: values of zero do not account for more.
    """
    own = [v[here] for v in values]
    off = np.maximum(np.abs(sum(map(total, own)) - change[here]) - noise[here], 0)
    if np.ndim(silence):
        silent = (sum(map(size, own)) == 0) & (np.abs(change[here]) > silence[here])
        off = np.where(silent, np.abs(change[here]), off)
    return off


def known(here, change, noise, silence=None):
    """What Σ|φ*| is at least, as far as |F(x) − F(x′)| is known: (rows, targets)."""
    return np.maximum(np.abs(change[here]) - noise[here], 0)


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
    with np.errstate(invalid="ignore", over="ignore"):  # infinities of both signs have no sum, which is told
        for first in range(0, len(a), block):
            part = of(a[first : first + block])
            sums[first : first + block] = part.sum(axis=tuple(range(2, a.ndim)), dtype=np.float64)
    return sums


def size(a):
    """L1 over the features: (rows, targets)."""
    return total(a, np.abs)
