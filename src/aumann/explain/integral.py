"""The integral along the paths of a problem: by a rule, or refined to a tolerance."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from aumann.core import engine, refinement
from aumann.core.baselines import StartPoints
from aumann.core.quadrature import Cells, Draws, Rule, graded_secant, secant, trapezoid
from aumann.core.refinement import Refined, Sums
from aumann.execution.progress import Tally
from aumann.explain.endpoints import Endpoints, start_value
from aumann.explain.problem import Problem
from aumann.explain.result import How, Result


class Integral:
    """The integral along the paths of a problem: what a method is given to sum with.

    Args:
        problem: whose paths they are.
        ends: F at the ends of the paths.
        tally: hears of the gradients that are needed and done.

    Attributes:
        batch_size: path points per call of the model, as in the last sum.
        affine_prefix: name of the layer that straight paths were flattened up to in a sum, or None.
    """

    def __init__(self, problem: Problem, ends: Endpoints, tally: Tally) -> None:
        self.problem, self.ends, self.tally = problem, ends, tally
        self.batch_size, self.affine_prefix = problem.oracle.batch_size, None

    def __call__(self, rows: np.ndarray, rule: Rule | Draws, fixed_shapes: bool = False) -> list[np.ndarray]:
        """Sums of some rows by a rule.

        Args:
            rows: (r,) indices.
            rule: nodes and weights.
            fixed_shapes: whether rows are summed by this rule and no other; else what is compiled serves rules of other
                lengths too.

        Returns:
            for each moving input, or target layer, (r, targets, *row).
        """
        p, o = self.problem, self.problem.oracle
        work = engine.Work(p.rows, p.load, p.carried, self.ends.positions, rule, o.results, o.dtype)
        fixed_shapes = fixed_shapes or o.programs.dynamic(False)
        step = o.programs.step(p.functions, p.paths, p.method.credit, len(p.columns), rule.cells, fixed_shapes)
        o.refuse_too_large(len(rows) * work.nodes)
        self.tally.expect(len(rows) * work.nodes)

        def part(rows: np.ndarray, tally: Tally) -> list[np.ndarray]:
            return engine.integrate(step.run, work.of(rows), step.tuner, o.backend, tally)

        sums = self.divide(part, rows)
        self.batch_size = step.tuner.size
        points = engine.pack(work.nodes, step.tuner.size, int(rule.cells)).nodes
        if o.uses_prefix(p.paths, p.method.credit, p.start_points.count, points, len(p.columns)):
            self.affine_prefix = o.prefix.name
        return sums

    def divide(self, run: Callable, rows: np.ndarray) -> list[np.ndarray]:
        """run(rows, tally) on every device of the problem, each with its part of the rows; see `DevicePool.divide`."""
        return self.problem.device_pool.divide(run, rows, self.tally)

    def by_rule(self, rule: Rule) -> Result:
        """Every row by one rule, whatever error that leaves."""
        if isinstance(rule, Cells) and self.problem.oracle.opaque:
            rule = rule.middles()
        rows = self.problem.rows
        values = self(np.arange(rows), rule, fixed_shapes=True)
        evaluations = np.full(rows, self.problem.start_points.count * len(rule))
        return Result(values, evaluations, self.how({"rule": rule.name}, nodes=rule.nodes))

    def to_tolerance(self, tolerance: float, max_evaluations: int) -> Result:
        """Every row to a tolerance, as far as the gradients that may be spent on a row and baseline allow."""
        return _Refinement(self, tolerance, max_evaluations).result()

    def how(self, stopping_rule: dict[str, Any], **more: Any) -> How:
        """How values came about that were summed so far."""
        return How(stopping_rule, self.batch_size, self.affine_prefix, **more)

    def part(self, rows: np.ndarray, start_points: StartPoints, complete: bool) -> Integral:
        """That of some rows from other start points, between which values have to be complete or not."""
        problem, positions = self.problem.part(rows, start_points), self.ends.positions_of(rows)
        ends = replace(
            self.ends,
            positions=positions,
            prediction=self.ends.prediction[rows],
            base_value=start_value(problem, positions),
            complete=complete,
        )
        return Integral(problem, ends, self.tally)


class _Refinement:
    """Sums to a tolerance: by secants where there are kinks or where no derivative exists at an end of the path.

    Rows whose slope is enormous at an end are summed over nodes or cells that are graded towards it.

    Args:
        integrate: along the paths of the problem.
        tolerance: relative L1 error of a row at which it is done.
        most: gradients that may be spent on a row and baseline.

    Attributes:
        families: names of the families of sums that were taken.
        kinks: whether F or a path has kinks; None where that cannot be seen.
        steep: rows whose slope is enormous at an end of the path, once they have been summed otherwise.
        left_steep, left_bent: rows that have left a family of sums and wait for another, by why they have.
    """

    def __init__(self, integrate: Integral, tolerance: float, most: int) -> None:
        self.integrate, self.problem, self.ends = integrate, integrate.problem, integrate.ends
        self.tolerance, self.most, self.families = tolerance, most, []
        self.kinks = self.problem.oracle.has_kinks(self.problem.functions)
        if self.kinks is False:
            smooth = all(self.problem.path_has_kinks(k) is False for k in range(len(self.problem.paths)))
            self.kinks = not smooth  # chords of a path whose corners may be hidden need no more than its points
        self.steep, self.left_steep, self.left_bent = np.zeros(0, int), [], []

    def result(self) -> Result:
        integrate, rows = self.integrate, np.arange(self.problem.rows)
        chords = refinement.secants(integrate, leave=self._leave_secants)
        graded_chords = refinement.secants(integrate, graded_secant)
        if self.kinks:
            first, graded = chords, graded_chords
        else:
            order = 2 if self.kinks is None else 4
            first = refinement.trapezoids(integrate, order, self._leave_trapezoids)
            graded = refinement.graded_trapezoids(integrate, 2 if self.kinks is None else refinement.FASTEST)
        done = self._refine(first, rows)
        self._sum_otherwise(done, graded)
        lost = rows[~_finite(done.values)]
        if self.kinks is False and len(lost):
            singular = self._singular(lost)
            done.evaluations[lost] += 2
            self._sum_again(
                done, chords, singular[done.evaluations[singular] + refinement.LEAST_EVALUATIONS <= self.most]
            )
            self._sum_otherwise(done, graded_chords)
        done.evaluations *= self.problem.start_points.count
        name = f"{' and '.join(dict.fromkeys(self.families))}, refined"
        stopping_rule = {"rule": name, "tolerance": self.tolerance, "max_evaluations": self.most}
        return Result.of(done, integrate.how(stopping_rule, steep=self.steep))

    def _refine(self, sums: Sums, rows: np.ndarray, spent: int = 0) -> Refined:
        """Rows by a family of sums, so many gradients having been spent on each."""
        self.families.append(sums.name)

        def some(rows: np.ndarray) -> Refined:
            change, noise = self.ends.change(rows)
            unknown = np.full_like(noise, np.inf)
            noises = noise if self.ends.complete else unknown, noise if self.ends.spans else unknown
            left = self.most - spent
            return refinement.refine(sums, rows, (change, *noises), self.tolerance, left, self.ends.rounding)

        return refinement.stacked(map(some, self._in_parts(rows)), len(rows))

    def _in_parts(self, rows: np.ndarray) -> list[np.ndarray]:
        """So many that memory stays flat: a refinement holds ten arrays or so as large as their values."""
        numbers = len(self.problem.columns) * sum(map(math.prod, self.problem.oracle.results))
        return np.array_split(rows, -(-len(rows) // max(1, refinement.PART // max(1, numbers))))

    def _sum_again(self, done: Refined, sums: Sums, rows: np.ndarray) -> None:
        """Rows by another family, what was spent on each being no part of what others may spend."""
        spent = done.evaluations[rows]
        for count in np.unique(spent):
            some = rows[spent == count]
            done.put(some, self._refine(sums, some, int(count)))

    def _sum_otherwise(self, done: Refined, graded: Sums) -> None:
        """Rows that have left, by what their bends call for."""
        self.steep = np.concatenate([self.steep, *self.left_steep])
        bends = refinement.secants(self.integrate, safety=refinement.FOR_BENDS)
        for sums, left in ((graded, self.left_steep), (bends, self.left_bent if self.kinks is False else [])):
            if left:
                self._sum_again(done, sums, np.concatenate(left))
            left.clear()

    def _leave_secants(self, rows: np.ndarray, cells: int, moved: np.ndarray) -> np.ndarray:
        return self._leave(rows, secant(cells).nodes, moved)

    def _leave_trapezoids(self, rows: np.ndarray, cells: int, moved: np.ndarray) -> np.ndarray:
        return self._leave(rows, trapezoid(cells + 1).nodes, moved)

    def _leave(self, rows: np.ndarray, nodes: np.ndarray, moved: np.ndarray) -> np.ndarray:
        """Which of some rows, whose sums do not follow their law, leave their family: see `Sums.leave`."""
        at_ends = self.integrate(rows, refinement.at_the_ends(nodes, self.problem.start_points.count))
        # of first order, half of it is to come
        blamed = (~(sum(map(refinement.size, at_ends)) < 0.35 * moved)).any(1)
        self.left_steep.append(rows[blamed])
        self.left_bent.append(rows[~blamed])
        return blamed | (self.kinks is False)

    def _singular(self, rows: np.ndarray) -> np.ndarray:
        """Those of some rows that have no finite derivative at an end of the path."""
        return rows[~_finite(self.integrate(rows, trapezoid(2)))]


def _finite(values: Sequence[np.ndarray]) -> np.ndarray:
    """Which rows have finite values for every target."""
    return np.isfinite(sum(map(refinement.size, values))).all(1)
