"""Checks of what came out: completeness, what is not finite or not as exact as asked for, outputs without gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import ops

from aumann.core import refinement
from aumann.core.quadrature import Rule
from aumann.execution.progress import Tally
from aumann.explain.endpoints import Endpoints, outputs
from aumann.explain.integral import Integral
from aumann.explain.problem import Problem
from aumann.explain.result import Result
from aumann.model.inputs import brief
from aumann.model.signature import quantised
from aumann.user_warnings import warn

PROBED = 64  # nodes at which a gradient is looked for before a model is said to have none
CLOSELY = 256  # gradients that should have seen whatever a gradient shows
BLOCK = 1 << 14  # rows that are checked at a time
ROUNDED = "Quantised layers round their inputs"


class CompletenessWarning(UserWarning):
    """Rows whose values do not add up to F(x) − F(x′), or are not finite."""


class ToleranceWarning(UserWarning):
    """Rows whose estimated error is above the tolerance, all gradients that may be spent on them being spent."""


@dataclass(frozen=True, eq=False)
class Completeness:
    """The completeness check: Σφ against F(x) − F(x′).

    Attributes:
        residual: Σφ − (F(x) − F(x′)), (n, targets).
        finite: (n,), whether the values of a row are.
        loose: (n,), whether they miss F(x) − F(x′) by more than 5 % of their mass.
        silent: (n, targets), whether they are zero though F changes.
    """

    residual: np.ndarray
    finite: np.ndarray
    loose: np.ndarray
    silent: np.ndarray


def completeness(ends: Endpoints, values: list[np.ndarray]) -> Completeness:
    """The completeness check of all rows: some at a time, so that nothing arises for each row but the answers."""
    n, targets = ends.prediction.shape
    residual, silent = np.empty((n, targets)), np.empty((n, targets), bool)
    finite, loose = np.empty((2, n), bool)
    for first in range(0, n, BLOCK):
        rows = slice(first, first + BLOCK)
        some, (change, noise) = [v[rows] for v in values], ends.change(rows)
        mass = sum(map(refinement.size, some))
        residual[rows] = sum(map(refinement.total, some)) - change
        finite[rows] = np.isfinite(mass).all(1)
        loose[rows] = (np.abs(residual[rows]) > np.maximum(0.05 * mass, noise)).any(1)
        silent[rows] = (mass == 0) & (np.abs(change) > noise)
    return Completeness(residual, finite, loose, silent)


# ---- refusals ----------------------------------------------------------------------------------------------------


def refuse_steps(problem: Problem, ends: Endpoints, result: Result, check: Completeness) -> None:
    """Refuses outputs that change though they have no gradient.

    Raises:
        TypeError: integers change F while no gradient reaches them: they pass through an integer operation.
        ValueError: an output changes though it has no gradient anywhere, on the path or off it: it is made of steps.
    """
    _refuse_silent_integers(problem, ends, result.values)
    for column in np.flatnonzero(check.silent.any(0) & (ends.cuts_graph and not problem.oracle.target_layers)):
        slopes = _slopes(problem, ends, check.silent[:, column].argmax())
        if not any(gradients[:, column].any() for gradients in slopes):
            raise ValueError(
                "Expected a differentiable output, received one that changes between baseline and input while "
                "every gradient is exactly zero (as rounding or a comparison give). Explain the score before it."
            )


def _refuse_silent_integers(problem: Problem, ends: Endpoints, values: list[np.ndarray]) -> None:
    oracle = problem.oracle
    if oracle.target_layers:
        return
    noise = ends.noise(ends.prediction, ends.prediction)
    for k, i in enumerate(oracle.moving):
        if oracle.kinds[i] not in "iu" or values[k].any():
            continue

        def load(rows: np.ndarray, k: int = k) -> tuple[list, list]:
            points, side = problem.load(rows)
            points[k] = problem.load_starts(rows, np.zeros_like(rows))[k]
            return points, side

        for rows, flat in outputs(problem, problem.rows, load):
            change = np.abs(np.take_along_axis(flat, ends.positions_of(rows), 1) - ends.prediction[rows])
            changed = rows[(change > noise[rows]).any(1)]
            if len(changed) and not _slopes(problem, ends, changed[0])[k].any():
                raise TypeError(oracle.no_embedding(i))


def _slopes(problem: Problem, ends: Endpoints, row: int) -> list[np.ndarray]:
    """For each moving input the gradients (probes, targets, *row) between baseline and input, and far off.

    Between, each feature is somewhere else; far off, at all scales, but where integers must stay in their range.
    What is not finite is no zero.
    """
    o, rng = problem.oracle, np.random.default_rng(0)
    gradients_of, slopes = o.programs.slopes(problem.functions), []
    far = not any(o.kinds[i] in "iu" for i in [*o.moving, *o.held])
    for probes, real in gradients_of.tuner.groups(PROBED):
        rows = np.full(len(probes), row)
        loaded, side = problem.load(rows)
        points = []
        for start, end in zip(problem.load_starts(rows, 0 * rows), loaded, strict=True):
            start, end = (o.backend.host(p).astype("float64") for p in (start, end))
            between = start + rng.random(end.shape) * (end - start)
            off = rng.normal(size=end.shape) * 10 ** rng.uniform(-2, 3, (len(end), *(1,) * (end.ndim - 1)))
            points.append(np.where((probes % 2 == 1).reshape(-1, *(1,) * (end.ndim - 1)) & far, off, between))
        points = [ops.convert_to_tensor(p.astype(o.dtype)) for p in points]
        index = ends.positions[rows % len(ends.positions)].astype("int32")
        _, columns = gradients_of(points, side, ops.convert_to_tensor(index))
        slopes.append([
            np.stack([np.zeros(p.shape) if c is None else o.backend.host(c) for c in gradients], 1)[:real]
            for p, gradients in zip(points, columns, strict=True)
        ])  # fmt: skip
    return [np.concatenate(same) for same in zip(*slopes, strict=True)]


# ---- warnings ----------------------------------------------------------------------------------------------------


def warn_of(problem: Problem, ends: Endpoints, result: Result, check: Completeness) -> None:
    """Says what must be said about the numbers: not finite, not complete, or not as exact as was asked for."""
    infinite = np.flatnonzero(~check.finite)
    if len(infinite):
        warn(
            f"The gradient is not finite {_where_not_finite(problem, ends, result, infinite[0])} on the path of row "
            f"{infinite[0]}, and the values of rows {brief(infinite)} hold NaN or infinity. Move the baseline away "
            "from where the model is not differentiable.",
            CompletenessWarning,
        )
    if not ends.cuts_graph:
        names = [r.site.name for r in problem.oracle.target_layers or problem.oracle.embedding_inputs]
        row = np.abs(check.residual).max(1).argmax()
        warn(
            f"Layer {', '.join(dict.fromkeys(names))} does not cut the graph: inputs reach the output around it. "
            "What they carry is no part of the values, which miss F(x) − F(x′) by up to "
            f"{np.abs(check.residual[row]).max():.3g}, in row {row}; see Explanation.residual. Add the layers that "
            "carry the rest, or choose one that all of it passes.",
            CompletenessWarning,
        )
    if result.error is None:
        _warn_of_incomplete(ends, result, check)
    else:
        _warn_of_inexact(problem, ends, result, check)


def _warn_of_incomplete(ends: Endpoints, result: Result, check: Completeness) -> None:
    """Rows whose values miss F(x) − F(x′), where their error was not estimated."""
    rows = np.flatnonzero(check.loose if ends.complete else check.silent.any(1) & ends.spans)
    if len(rows):
        more = "steps=" if "steps" in result.how.stopping_rule else "nodes, or a tolerance in place of a rule"
        warn(
            f"The values of rows {brief(rows)} miss F(x) − F(x′) by more than 5 % of their mass; see "
            f"Explanation.residual. Use more {more}. If F changes in steps (rounding, a comparison), no gradient shows "
            "it: explain the score before the steps.",
            CompletenessWarning,
        )


def _warn_of_inexact(problem: Problem, ends: Endpoints, result: Result, check: Completeness) -> None:
    """Rows whose values do not account for F(x) − F(x′), and others above the tolerance: each row once."""
    tolerance, error = result.how.tolerance, np.where(check.finite[:, None], result.error, 0)
    silent = check.silent & np.isinf(error)
    above = silent if tolerance is None else error > tolerance
    unseen = silent
    if ends.complete and problem.method.spans and tolerance is not None:
        mass = sum(map(refinement.size, result.values))
        missing = np.abs(check.residual) - ends.change(slice(None))[1]
        most_of_it = missing > np.maximum(tolerance, np.where(mass > 0, error, 0) / 2) * mass
        enough = (result.evaluations >= CLOSELY * problem.start_points.count)[:, None]
        unseen = silent | above & most_of_it & enough
    rows = np.flatnonzero(unseen.any(1))
    if len(rows):
        missing = np.where(unseen[rows], np.abs(check.residual[rows]), 0).max(1)
        warn(
            f"The values of rows {brief(rows)} do not account for F(x) − F(x′): they miss up to "
            f"{missing.max():.3g} of it, in row {rows[missing.argmax()]}. {_why(problem)}; see Explanation.residual.",
            CompletenessWarning,
        )
    above &= ~unseen.any(1)[:, None]
    rows = np.flatnonzero(above.any(1))
    if len(rows):
        worst = np.where(above[rows], error[rows], 0).max(1)
        most, row = result.how.stopping_rule["max_evaluations"], rows[worst.argmax()]
        warn(
            f"Rows {brief(rows)} did not reach the tolerance {tolerance:g} within max_evaluations={most}; the largest "
            f"estimated error is {worst.max():.2g}, of row {row}. {_what_to_do(problem, result, rows)}; see "
            "Explanation.error.",
            ToleranceWarning,
        )


def _why(problem: Problem) -> str:
    if quantised(problem.oracle.model):
        return (
            f"{ROUNDED}. No gradient shows this, and more gradients do not help. Raise tolerance=, or explain the "
            "model as it was before it was quantised"
        )
    return (
        "There F changes in steps (rounding, a comparison), which no gradient shows, or it changes only between the "
        "nodes. Explain the score before the steps, or choose another baseline"
    )


def _what_to_do(problem: Problem, result: Result, rows: np.ndarray) -> str:
    steep, oracle = np.intersect1d(rows, result.how.steep), problem.oracle
    if quantised(oracle.model):
        return f"{ROUNDED}, and more gradients may not help. Raise tolerance=, or explain the model before quantisation"
    if not len(steep):
        return "Raise max_evaluations= or tolerance=, or choose a nearer baseline"
    ids = any(oracle.holds_ids(r.leaves[0]) for r in oracle.embedding_inputs)
    return (
        f"The slope is enormous at an end of the path of rows {brief(steep)}, as where a normalisation "
        "meets zeros. "
        + ("Give the id of a token" if ids else "Choose a baseline away from there, as the mean of data")
        + " as baseline=, or raise max_evaluations="
    )


def _where_not_finite(problem: Problem, ends: Endpoints, result: Result, row: Any) -> str:
    """The first node on the path of a row, of those probed, without a finite gradient."""
    integrate = Integral(problem, ends, Tally(lambda done, expected: None))
    for t in result.how.nodes:
        sums = integrate(np.array([row]), Rule(f"at {t:g}", [t], [1.0], 0))
        if not all(np.isfinite(s).all() for s in sums):
            return f"at t = {t:.3g}"
    return "somewhere"
