"""Expected gradients: attributions averaged over baselines and nodes of the path, both drawn at random.

The mean over m baselines of integrals over t is a sum over groups of s baselines. A *visit* of a group estimates its
part: every baseline of it at one node (or more) of the path, the nodes stratified over the group. Groups tell how
much baselines differ, and two visits of one group how much nodes do; a design is how many there are of each:

- few samples, up to a quarter of the baselines: as many distinct baselines, each once. The variance between groups is
  that of the mean, or a little more, for a finite set is drawn without replacement;
- up to twice as many as baselines: two visits of as many groups as that pays for, a half at least, and one of the
  others. With all baselines in, only what nodes differ by is left;
- more: every baseline at as many nodes, in two visits or more, in each of which the nodes of a baseline are strata
  of their own, so that the error falls faster than 1/√samples.
"""

from __future__ import annotations

import inspect
import math
from dataclasses import dataclass, replace
from typing import Any, Unpack

import numpy as np

from aumann import arguments
from aumann.core import baselines
from aumann.core.engine import rounded_up
from aumann.core.moments import RunningMoments
from aumann.core.quadrature import stratified
from aumann.core.refinement import Refined, missed, size
from aumann.explain.integral import Integral
from aumann.explain.problem import Problem
from aumann.explain.result import Result
from aumann.explanation import Explanation
from aumann.features import tables
from aumann.methods.base import Method
from aumann.methods.signatures import Options

TOLERANCE = 0.2
MAX_EVALUATIONS = 2000
GROUPS = 16  # at most, and half as many at least where samples allow: degrees of freedom of a standard error
PILOT = 64  # samples of the first design on the way to a tolerance
BOUND = 2.0  # standard errors: the error of nearly every row is below that
AIM = 0.85  # of the tolerance, so that most rows that go where the law says are there


class ExpectedGradients(Method):
    """Expected gradients: φ = E (x − x′) ∘ ∇F(x′ + t (x − x′)) over baselines x′ of a set and t uniform on [0, 1].

    The same as `IntegratedGradients` averaged over all the baselines of the set, at the cost of `samples` gradients a
    row instead of m · len(rule). Baselines are drawn without replacement, rows of several inputs together, each at
    nodes of its own on the path. `Explanation.standard_error` has the standard error of every value: the standard
    deviation over seeds, unbiased in the square except up to m / 4 samples, where it is up to 15 % too large.
    `error` is 2 · Σ standard errors / Σ |values| of a row, or what the values miss of F(x) − F(x′) if that is more.

    Besides the gradients, one forward pass a row and one a baseline (a baseline and row where baselines are a row's
    own, or inputs are held still), and memory in proportion to `batch_size` and the values. Draws are the same for all
    rows of a call, and do not depend on their number or on the batch size.

    Args:
        samples: gradients a row, at most. Whole groups of baselines are visited, which may leave a few unused.
        tolerance: error of a row at which it is done, instead of a number of samples; 0.2 where neither is given. A
            row whose samples do not suffice is sampled anew with as many as should.
        max_evaluations: with a tolerance, gradients spent on a row at most, 2000 unless given.
        seed: whole number ≥ 0, of a random generator that is made for the call.

    Source: Erion, Janizek, Sturmfels, Lundberg, Lee (2021), Improving performance of deep learning models with
    axiomatic attribution priors and expected gradients.
    """

    def __init__(
        self,
        model: Any,
        *,
        samples: int | None = None,
        tolerance: float | None = None,
        max_evaluations: int | None = None,
        seed: int = 0,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(model, **options)
        self.samples = None if samples is None else arguments.whole(samples, 2, "samples", 200)
        self.tolerance = arguments.tolerance_or("samples", samples, tolerance, max_evaluations, TOLERANCE)
        self.max_evaluations = arguments.max_evaluations(max_evaluations, MAX_EVALUATIONS, 2)
        self.seed = arguments.whole(seed, 0, "seed", 0)

    def explain(self, inputs: Any, target: Any = None, baseline: Any = 0.0, progress: Any = None) -> Explanation:
        """Attributions of every input feature of every row, and the standard error of each.

        Args:
            inputs, target, progress: as for `IntegratedGradients.explain`.
            baseline: the background: `aumann.baselines.weighted(rows)`; or for a single input an array of m rows
                (m, *row); or a distribution, a function (rng, count) -> count rows, structured like the inputs, from
                which as many are drawn as there are samples (`max_evaluations` with a tolerance). Anything else
                that `IntegratedGradients.explain` takes is a baseline of one.

        Returns:
            `aumann.Explanation`; `base_value` is the weighted mean of F over all the baselines, drawn or not.

        Raises:
            ValueError, TypeError: inputs, target or baseline do not fit; nothing has been changed.
        """
        return super().explain(inputs, target, baseline, progress)

    def problem(self, inputs: Any, target: Any = None, baseline: Any = 0.0) -> Problem:
        drawn, count = _is_distribution(baseline), self.samples or self.max_evaluations
        if drawn:
            baseline = baselines.weighted(baseline(np.random.default_rng(self.seed), count))
        elif _is_background(baseline, inputs):
            baseline = baselines.weighted(baseline)
        problem = super().problem(inputs, target, baseline)
        if drawn and problem.start_points.count != count:
            raise ValueError(
                f"Expected {count} rows from baseline(rng, {count}), received {problem.start_points.count}. Return as "
                "many rows as are asked for, on the first axis."
            )
        return replace(problem, drawn=drawn)

    def sum(self, problem: Problem, integrate: Integral) -> Result:
        stopping_rule = {"rule": "stratified draws", "seed": self.seed}
        if self.samples is not None:
            stopping_rule |= {"samples": self.samples}
            done = self._sample(problem, integrate, np.arange(problem.rows), self.samples)
        else:
            stopping_rule |= {"tolerance": self.tolerance, "max_evaluations": self.max_evaluations}
            done = self._refine(problem, integrate)
        return Result.of(done, integrate.how(stopping_rule))

    def _sample(self, problem: Problem, integrate: Integral, rows: np.ndarray, samples: int) -> Refined:
        """`Refined` of some rows by one design."""
        m = problem.start_points.count
        plan = design(samples, m, problem.drawn)
        rng = np.random.default_rng((self.seed, samples))
        groups = np.array_split(rng.permutation(m)[: plan.baselines], len(plan.visits))
        of_groups, of_visits = RunningMoments(), RunningMoments()  # the groups' parts; two visits of one group
        integrate.tally.announce(plan.samples * len(rows))
        for which, visits in zip(groups, plan.visits, strict=True):
            group = RunningMoments()
            for _ in range(visits):
                rule = stratified(rng, which, plan.positions, m / plan.baselines)
                group.add(integrate(rows, rule, fixed_shapes=self.samples is not None))
            of_groups.add(group.mean)
            if visits > 1:
                of_visits.add(group.variance())
        r = len(groups)
        variance = _variance(plan, m, of_groups, of_visits)
        dtype = problem.oracle.dtype
        values = [(r * v).astype(dtype) for v in of_groups.mean]
        deviations = [np.sqrt(v).astype(dtype) for v in variance]
        return _judged(values, deviations, integrate.ends.change(rows), np.full(len(rows), plan.samples))

    def _refine(self, problem: Problem, integrate: Integral) -> Refined:
        """`Refined` of every row by the first design that is good enough, or by the last that could be paid for."""
        most, m, done = self.max_evaluations, problem.start_points.count, None
        want = np.full(problem.rows, min(PILOT, most, m if problem.drawn else most))
        while want.any():
            for count in map(int, np.unique(want[want > 0])):
                rows = np.flatnonzero(want == count)
                sampled = self._sample(problem, integrate, rows, count)
                if done is None:  # every row
                    done = sampled
                else:
                    done.put(rows, sampled)
                left = most - done.evaluations[rows]
                want[rows] = _next(count, m, done.error[rows].max(1) / self.tolerance, left)
        return done


def _variance(plan: Design, m: int, of_groups: RunningMoments, of_visits: RunningMoments) -> list[np.ndarray]:
    """Of the sum of the groups' parts: what nodes leave, and beside it what baselines do that were not drawn."""
    r = len(plan.visits)
    if not of_visits.count:
        return [r * b for b in of_groups.variance()]
    left = sum(1 / v for v in plan.visits)
    part = 1 - plan.baselines / m
    variance = [left * p for p in of_visits.mean]
    if part:
        variance = [v + part * np.maximum(r * b - v, 0) for v, b in zip(variance, of_groups.variance(), strict=True)]
    return variance


@dataclass(frozen=True)
class Design:
    """How samples are spent: `visits` of each group, `baselines` in all groups, `positions` of each at a visit."""

    baselines: int
    positions: int
    visits: tuple[int, ...]
    samples: int


def design(samples: int, m: int, endless: bool = False) -> Design:
    """What to do with so many samples and m baselines; with an endless supply of them, none is visited twice."""
    if samples >= 2 * m and not endless:
        r = _groups(m)
        share = samples // m
        positions = max(1, share // max(2, 1 + math.ceil(GROUPS / 2 / r)))
        visits = share // positions
        return Design(m, positions, (visits,) * r, m * positions * visits)
    if endless or samples < max(m / 4, GROUPS):
        count = min(samples, m)
        r = _groups(count)
        return Design(count // r * r, 1, (1,) * r, count // r * r)
    plans = []
    for r in _counts(m):
        s = max(1, min(samples // (r + r // 2), m // r))
        twice = min(samples // s - r, r)
        plans.append(Design(r * s, 1, (2,) * twice + (1,) * (r - twice), (r + twice) * s))
    return max(plans, key=lambda plan: (plan.samples, plan.baselines))


def _counts(count: int) -> range:
    """Numbers of groups that so many baselines may come in."""
    return range(min(GROUPS, count), min(GROUPS // 2, count) - 1, -1)


def _groups(count: int) -> int:
    """As many as leave the fewest baselines over."""
    return max(_counts(count), key=lambda r: count // r * r)


def _next(count: int, m: int, ratio: np.ndarray, left: np.ndarray) -> np.ndarray:
    """Samples of the next design of each row, 0 where it is done or where what is left does not pay for one.

    The error falls as 1/√samples until every baseline is in, and at least as 1/samples from there, where it drops.
    """
    few, ratio = count < 2 * m, np.where(np.isnan(ratio), 0, ratio)
    want = count * np.clip((ratio / AIM) ** 2 if few else ratio / AIM, 1.5, 16)
    if few:
        want = np.minimum(want, max(4 * m, 1.5 * count))
    step = m if count >= m else 1
    want = np.array([rounded_up(math.ceil(w / step)) * step for w in want])
    want = np.minimum(want, left)
    return np.where((ratio > 1) & (want >= 1.25 * count), want, 0)


def _judged(
    values: list[np.ndarray],
    deviations: list[np.ndarray],
    change: tuple[np.ndarray, np.ndarray],
    evaluations: np.ndarray,
) -> Refined:
    """With the errors of rows: those of the sampling, or what the values are known to miss of F(x) − F(x′)."""
    sizes, spreads = ([size(a) for a in arrays] for arrays in (values, deviations))

    def relative(left: np.ndarray, mass: np.ndarray) -> np.ndarray:
        return np.divide(left, mass, out=np.where(left > 0, np.inf, 0 * left), where=mass > 0)

    off = missed(values, slice(None), *change)
    error = relative(np.maximum(BOUND * sum(spreads), off), sum(sizes))
    parts = [relative(BOUND * spread, mass) for spread, mass in zip(spreads, sizes, strict=True)]
    return Refined(values, error, parts, evaluations, deviations)


def _is_distribution(baseline: Any) -> bool:
    """Whether a function wants (rng, count), and not (inputs)."""
    if not callable(baseline) or isinstance(baseline, type):
        return False
    try:
        parameters = inspect.signature(baseline).parameters.values()
    except (TypeError, ValueError):
        return False
    return sum(p.kind <= p.POSITIONAL_OR_KEYWORD and p.default is p.empty for p in parameters) == 2


def _is_background(baseline: Any, inputs: Any) -> bool:
    """Whether arrays have an axis of baselines where the inputs have that of rows."""
    if isinstance(inputs, dict) and isinstance(baseline, dict):
        pairs = [(baseline[k], x) for k, x in inputs.items() if k in baseline]
    elif isinstance(inputs, (list, tuple)) and isinstance(baseline, (list, tuple)) and len(inputs) == len(baseline):
        pairs = list(zip(baseline, inputs, strict=True))
    else:
        pairs = [(baseline, inputs)]
    if any(isinstance(b, (baselines.Weighted, dict)) for b, _ in pairs):
        return False
    return any(tables.columns(b) is not None or 0 < _axes(b) == _axes(x) for b, x in pairs)


def _axes(x: Any) -> int:
    """Axes of an array-like; 0 for a list of several inputs, which are no array."""
    several = isinstance(x, (list, tuple)) and not all(isinstance(y, (int, float, list, tuple)) for y in x)
    return 0 if several or isinstance(x, dict) else baselines.axes(x)
