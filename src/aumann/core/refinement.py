"""Refinement: every row is integrated over more and more cells until its estimated error is below a tolerance.

    sums over 2 and 5 cells → R, and its error (`aumann.core.estimate`) → as many cells as the law says it takes → …

Each row is refined by itself: its cells depend on the row, not on the others or on the batch size. A row is done
when its error is below the tolerance, or when the next sum would cost more than may be spent.

The sums are of one family, of secants or of derivatives, and a law says how their errors fall. Rows whose sums fall
more slowly, from `MANY_CELLS` cells on, leave to be summed by other means: over nodes that are graded towards the ends
of the path where these are to blame (t near 0 and 1, as where a normalisation meets zeros), else by secants.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from aumann.core.engine import rounded_up
from aumann.core.estimate import FASTEST, Step, differences, observed_order, relative, remaining_error
from aumann.core.quadrature import Draws, Quadrature, between, graded, secant, trapezoid

LEAST_EVALUATIONS = 9  # gradients of the first two sums of secants, over 2 and 5 cells
BLOCK = 1 << 20  # numbers summed at a time
PART = 1 << 22  # numbers of the values that are refined at a time, where rows are many
SAFETY = 3.0  # on the estimate
FOR_BENDS = 5.0  # the same for secants of what is smooth but bends, which it does at few places
MANY_CELLS = 10  # from which on rows may be summed by other means
SLOW = 1.5, 1.75  # order of sums below which they are, of derivatives and of secants, whose cells make 1 into 1.5
ENDS = 6  # gradients that tell whether the ends of the path are to blame
OTHER_SUMS = 24  # gradients of the first two sums of any other family
FAR = 0.3, 20.0  # times the tolerance that the error must then be, for derivatives and for secants
MOST_GROWTH = 4.0  # by which cells multiply from one sum to the next: a law seen from afar misleads
LEAST_GROWTH = 1.3  # that is worth a sum
AIM = 0.7  # of the tolerance, so that most rows that take the cells of the law are done with them

Integrate = Callable[[npt.NDArray, Quadrature | Draws], list[npt.NDArray]]


@dataclass(frozen=True)
class Sums:
    """A family of sums over more and more cells.

    Attributes:
        name: as the provenance has it.
        of: (rows, cells, cells of their last sums (len(rows),), those sums) -> for each moving input an array
            (len(rows), targets, *row).
        first, second: cells of the first two sums, j and k in the formulas above.
        next: (cells so far, cells that would do) -> cells to take.
        price: (cells, cells of the last sum or 0), either of which may be an array -> gradients that a sum costs.
        order: p, of the error of an extrapolation: 2 where there are kinks, 4 where there are none, `FASTEST` for sums
            that converge faster than any power of n, and are not extrapolated.
        leave: (rows, cells, |Sₙ − Sₖ|₁ (len(rows), targets)) -> which of some rows whose sums do not follow their law
            are to be summed by other means, at the price of `ENDS`; None if all rows stay.
        safety: on the estimate.
    """

    name: str
    of: Callable[[npt.NDArray, int, npt.NDArray, list[npt.NDArray]], list[npt.NDArray]]
    first: int
    second: int
    next: Callable[[int, float], int]
    price: Callable
    order: int
    leave: Callable[[npt.NDArray, int, npt.NDArray], npt.NDArray] | None = None
    safety: float = SAFETY


def secants(
    integrate: Integrate,
    cells: Callable[[int], Quadrature] = secant,
    leave: Callable | None = None,
    safety: float = SAFETY,
) -> Sums:
    """Sums of secants over cells that end at (k/n)^1.5: for what has kinks, or no derivative at an end of the path.

    Args:
        integrate: (rows, rule) -> for each moving input an array (len(rows), targets, *row).
        cells: `secant`, or `graded_secant` where a slope is enormous at an end.
        leave, safety: as in `Sums`.
    """

    def of(rows, count, before, last):
        return integrate(rows, cells(count))

    def following(count, want):  # n + 1 nodes of few different numbers, for the sake of what is compiled for each
        return rounded_up(math.ceil(want) + 1) - 1

    name, first, second = ("secants", 2, 5) if cells is secant else ("graded secants", 7, 15)
    return Sums(name, of, first, second, following, lambda n, k: n + 1, 2, leave, safety)


def trapezoids(integrate: Integrate, order: int = 4, leave: Callable | None = None) -> Sums:
    """Sums of derivatives at the ends of 2ᵏ equal cells, of which every one is used again: for what is smooth.

    Sₙ = (k/n) Sₖ + (1 − k/n) M with M the mean of the derivatives at the ends that are new, n being a multiple of k.

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


def graded_trapezoids(integrate: Integrate, order: int) -> Sums:
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


def at_the_ends(t: npt.NDArray, baselines: int) -> Draws:
    """What a trapezoidal sum over cells that end at t moves by when the first and the last of them are halved.

    A cell of width h counts h/2 (g₀ + g₁), its halves h/4 (g₀ + 2 g½ + g₁): the difference is −h/4 (g₀ − 2 g½ + g₁).
    Six nodes of the path, from each of so many baselines; the sign does not matter.
    """
    first, last = t[1], 1 - t[-2]
    nodes = np.array([0, first / 2, first, 1 - last, 1 - last / 2, 1])
    weights = np.repeat([first / 4, last / 4], 3) * np.tile([1, -2, 1], 2)
    which = np.repeat(np.arange(baselines), 6)
    return Draws("at the ends", np.tile(nodes, baselines), np.tile(weights, baselines), which)


@dataclass(eq=False)
class Refined:
    """The values of every row, and what is known of their error.

    Attributes:
        values: for each moving input (n, targets, *row).
        error: (n, targets), estimated relative L1 error of the values of all moving inputs together; None if unknown.
        parts: for each moving input (n, targets), the error of its own values; None if unknown.
        evaluations: (n,), gradients spent on the row.
        standard_error: of values that were sampled, shaped like them; else None.
    """

    values: list[npt.NDArray]
    error: npt.NDArray | None
    parts: list[npt.NDArray] | None
    evaluations: npt.NDArray
    standard_error: list[npt.NDArray] | None = None

    def put(self, rows: npt.NDArray, others: "Refined") -> None:
        """Takes other results for some rows; what was spent on them before still counts."""
        old, new = ([*r.values, r.error, *r.parts, *(r.standard_error or [])] for r in (self, others))
        for array, other in zip(old, new, strict=True):
            array[rows] = other
        self.evaluations[rows] += others.evaluations


def stacked(parts: Iterable[Refined], rows: int) -> Refined | None:
    """Results of consecutive rows, one after another, as one of all `rows`."""
    whole, first = None, 0
    for part in parts:
        count = len(part.evaluations)
        if count == rows:
            return part
        if whole is None:
            whole = _of_arrays(lambda a: np.empty((rows, *a.shape[1:]), a.dtype), part)
        section = slice(first, first + count)
        _of_arrays(lambda into, array, section=section: into.__setitem__(section, array), whole, part)
        first += count
    return whole


def _of_arrays(fn: Callable, *results: Refined) -> Refined:
    """fn of every array of one `Refined`, or of the same arrays of several, as another."""
    fields: dict[str, Any] = {}
    for name in vars(results[0]):
        one, *others = (getattr(result, name) for result in results)
        if isinstance(one, list):
            fields[name] = [fn(*arrays) for arrays in zip(one, *others, strict=True)]
        else:
            fields[name] = None if one is None else fn(one, *others)
    return Refined(**fields)


def refine(sums: Sums, rows: npt.NDArray, change: tuple, tolerance: float, most: int, rounding: float) -> Refined:
    """Values of rows to a tolerance, as far as the gradients that may be spent allow.

    Args:
        sums: a family of sums.
        rows: (n,) indices, the first argument of `sums.of`.
        change: F(x) − F(x′), (n, targets), and what else `missed` takes: what the values of a row miss is an error.
        tolerance: relative L1 error at which a row is done, for each of its targets.
        most: gradients that may be spent on a row.
        rounding: relative error that no sum is without.
    """
    work = _Refinement(sums, rows, change, max(tolerance, 2 * rounding), most, rounding)
    while work.wanted.any():
        for count in map(int, np.unique(work.wanted[work.wanted > 0])):
            work.advance(np.flatnonzero(work.wanted == count), count)
    for error in (work.error, *work.parts):
        error[np.isnan(error)] = np.inf  # nothing is known of what is not finite
    return Refined(work.values, work.error, work.parts, work.evaluations)


class _Refinement:
    """Rows on their way to a tolerance. Arguments are those of `refine`.

    Attributes:
        values, error, parts, evaluations: as of `Refined`; the values are the extrapolated R.
        last: for each moving input (n, targets, *row), the last sums Sₙ.
        cells: (n,), of the last sums.
        wanted: (n,), cells of the next sums; 0 for rows that are done.
        growth: (n,), by what cells have multiplied to the last sums; NaN where there was but one.
        moves: for each moving input (2, n, targets), |Sₙ − Sₖ|₁ and |R − R′|₁ of the last sums; NaN likewise.
        asked: (n,), whether `Sums.leave` was asked.
    """

    def __init__(
        self, sums: Sums, rows: npt.NDArray, change: tuple, tolerance: float, most: int, rounding: float
    ) -> None:
        self.sums, self.rows, self.change = sums, rows, change
        self.tolerance, self.most, self.rounding = tolerance, most, rounding
        n, targets = change[0].shape
        self.values: list[npt.NDArray] = []
        self.error, self.evaluations = np.full((n, targets), np.inf), np.zeros(n, int)
        self.parts: list[npt.NDArray] = []
        self.last: list[npt.NDArray] = []
        self.moves: list[npt.NDArray] = []
        self.cells, self.wanted = np.zeros(n, int), np.full(n, sums.first)
        self.growth, self.asked = np.full(n, np.nan), np.zeros(n, bool)

    def advance(self, some: npt.NDArray, count: int) -> None:
        """Takes sums of some rows over `count` cells, and settles what they need next."""
        sums = self.sums
        new = sums.of(self.rows[some], count, self.cells[some], [s[some] for s in self.last])
        before, moved, slow = self.cells[some], None, None
        if self.last:
            moved, slow = self._compare(some, count / before, new)
        else:  # the first sums, of every row
            self.values, self.parts = list(new), [self.error.copy() for _ in new]
            self.last = [np.array(s) for s in new]
            self.moves = [np.full((2, *self.error.shape), np.nan) for _ in new]
        self.evaluations[some] += sums.price(count, before)
        self.cells[some] = count
        leaving = some[:0]
        if sums.leave and count >= MANY_CELLS:
            leaving = self._leaving(sums.leave, some, count, moved, slow)
        errors, spent = self.error[some].max(1), self.evaluations[some]
        self.wanted[some] = _wanted(sums, count, errors, spent, self.tolerance, self.most)
        self.wanted[leaving] = 0

    def _compare(
        self, some: npt.NDArray, growth: npt.NDArray, new: list[npt.NDArray]
    ) -> tuple[npt.NDArray, npt.NDArray]:
        """Extrapolates from the last sums of some rows to new ones, of as many cells times `growth`.

        Returns:
            |Sₙ − Sₖ|₁ (len(some), targets), and which of these do not shrink as the family's law says, far from done.
        """
        sums, before = self.sums, self.growth[some]
        steps = _extrapolate(self.values, self.last, some, growth, new, sums.order)
        whole = Step(*map(sum, zip(*(vars(step).values() for step in steps), strict=True)))
        earlier = sum(moves[:, some] for moves in self.moves)
        for part, step, moves in zip(self.parts, steps, self.moves, strict=True):
            left = remaining_error(step, moves[:, some], before, growth, sums.order, sums.safety)
            part[some] = relative(left, step.mass, self.rounding)
            moves[:, some] = differences(step, before, growth)
        left = remaining_error(whole, earlier, before, growth, sums.order, sums.safety)
        certain = missed(self.values, some, *self.change)
        left = np.maximum(left, np.hypot(certain, left / SAFETY))  # values that miss a part err elsewhere too
        self.error[some] = relative(left, whole.mass, self.rounding, least_mass(some, *self.change))
        moved = differences(whole, before, growth)[0]
        slow = observed_order(earlier[0], moved, before, growth) < SLOW[sums.order == 2]
        slow &= self.error[some] > FAR[sums.order == 2] * self.tolerance
        self.growth[some] = growth
        return moved, slow

    def _leaving(self, leave: Callable, some: npt.NDArray, count: int, moved: Any, slow: Any) -> npt.NDArray:
        """Which rows are to be summed by other means, of those that are slow and can still pay for it."""
        affordable = self.evaluations[some] + ENDS + OTHER_SUMS <= self.most
        asked = some[slow.any(1) & affordable & ~self.asked[some]]
        leaving = asked[leave(self.rows[asked], count, moved[np.isin(some, asked)])] if len(asked) else asked
        self.asked[asked] = True
        self.evaluations[asked] += ENDS
        return leaving


def _extrapolate(
    values: list[npt.NDArray],
    last: list[npt.NDArray],
    some: npt.NDArray,
    growth: npt.NDArray,
    new: list[npt.NDArray],
    order: int,
) -> list[Step]:
    """R and Sₙ of some rows, written to `values` and `last` in place of R′ and Sₖ; a `Step` for each moving input.

    With n = g k the factor k² / (n² − k²) is 1 / (g² − 1).
    """
    factor, steps = 1 / (growth**2 - 1), []
    for s, old, value in zip(new, last, values, strict=True):
        correction = (s - old[some]) * factor.reshape(-1, *(1,) * (s.ndim - 1)).astype(s.dtype)
        if order == FASTEST:
            correction, better = s - old[some], s
        else:
            better = s + correction
        steps.append(Step(size(correction), size(better - value[some]), size(better), size(correction**2)))
        value[some], old[some] = better, s
    return steps


def missed(
    values: list[npt.NDArray],
    rows: npt.NDArray | slice,
    change: npt.NDArray,
    noise: npt.NDArray,
    silence: npt.NDArray | float = np.inf,
) -> npt.NDArray:
    """How much of F(x) − F(x′) values of some rows do not account for: (rows, targets).

    Args:
        values: for each moving input (n, targets, *row).
        rows: which of them.
        change: F(x) − F(x′), of all rows (n, targets).
        noise: how well it is known that the values must add up to it; infinite where they need not.
        silence: how well it is known that it must come about by something: values of zero do not account for more.
    """
    values = [v[rows] for v in values]
    off = np.maximum(np.abs(sum(map(total, values)) - change[rows]) - noise[rows], 0)
    if np.ndim(silence):
        silent = (sum(map(size, values)) == 0) & (np.abs(change[rows]) > silence[rows])
        off = np.where(silent, np.abs(change[rows]), off)
    return off


def least_mass(
    rows: npt.NDArray | slice, change: npt.NDArray, noise: npt.NDArray, silence: npt.NDArray | None = None
) -> npt.NDArray:
    """What Σ|φ*| is at least, as far as |F(x) − F(x′)| is known: (rows, targets). Arguments are those of `missed`."""
    return np.maximum(np.abs(change[rows]) - noise[rows], 0)


def _wanted(
    sums: Sums, count: int, errors: npt.NDArray, spent: npt.NDArray, tolerance: float, most: int
) -> npt.NDArray:
    """Cells of the next sum of each row; 0 where it is done, or where what may be spent does not pay for it.

    An error that falls with n² is a tolerance's share `AIM` after n √(error / (AIM tolerance)) cells.
    """
    if count == sums.first:
        want = np.full(len(errors), sums.second)
    else:
        want, above = np.zeros(len(errors), int), errors > tolerance
        growth = np.clip(np.sqrt(errors[above] / (AIM * tolerance)), LEAST_GROWTH, MOST_GROWTH)
        some, which = np.unique(np.ceil(count * growth).astype(int), return_inverse=True)  # few, for a million rows
        want[above] = np.array([sums.next(count, int(n)) for n in some], int)[which]
    for i in np.flatnonzero(want * (spent + sums.price(want, count) > most)):
        while want[i] and spent[i] + sums.price(want[i], count) > most:
            less = sums.next(count, want[i] / 2)  # the next smaller one
            want[i] = less if LEAST_GROWTH * count <= less < want[i] else 0
    return want


def total(a: npt.NDArray, of: Callable[[npt.NDArray], npt.NDArray] = lambda a: a) -> npt.NDArray:
    """Σ over the features: (rows, targets), some rows at a time, so that nothing as large as the values arises."""
    sums, block = np.empty(a.shape[:2]), max(1, BLOCK // max(1, a[:1].size))
    with np.errstate(invalid="ignore", over="ignore"):  # infinities of both signs sum to NaN, which is reported
        for first in range(0, len(a), block):
            part = of(a[first : first + block])
            sums[first : first + block] = part.sum(axis=tuple(range(2, a.ndim)), dtype=np.float64)
    return sums


def size(a: npt.NDArray) -> npt.NDArray:
    """L1 over the features: (rows, targets)."""
    return total(a, np.abs)
