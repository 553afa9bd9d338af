"""Smoothing: what an explainer says of an input, averaged over noise that is added to it."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np

from aumann import arguments
from aumann.core.baselines import FIXED
from aumann.core.moments import RunningMoments
from aumann.execution.progress import Tally, reporter
from aumann.explain.answer import fingerprint
from aumann.explain.checks import CompletenessWarning, ToleranceWarning
from aumann.explain.endpoints import settled
from aumann.explain.explain import explain
from aumann.explain.problem import Problem
from aumann.explanation import Explanation
from aumann.features import tables
from aumann.features.nested import rebuild, walk
from aumann.methods.base import Method
from aumann.model.inputs import brief
from aumann.user_warnings import warn

MOMENTS = ("mean", "square", "variance")


class Smooth:
    """SmoothGrad, SmoothGrad² and VarGrad of any method: moments of φ(x + ε) over Gaussian noise ε on the inputs.

    `Smooth(Saliency(model))` is SmoothGrad, `Smooth(IntegratedGradients(model))` its integrated kin and
    `Smooth(ExpectedGradients(model, samples=8))` GradientSHAP; there every sample of noise has draws of its own. Costs
    `samples` times the gradients of the explainer, whose F(x′) are taken once; memory as the explainer's and a few
    times the values. The same noise is added to all rows of a call, each to its own scale, so that a row's values do
    not depend on its company or on the batch size.

    The mean explains the smoothed model E F(x + ε): `prediction` is the mean of F(x + ε), `residual` is taken against
    it, and is that of the explainer on average. Squares and variances are unsigned and not complete.
    `Explanation.standard_error` is the standard deviation over seeds that is left in every value, whatever the moment;
    `error` is not estimated, and `converged` tells whether the explainer converged at every sample.

    Args:
        explainer: a method of this library, as `aumann.IntegratedGradients(model)`.
        noise: its standard deviation: a number, relative to the range (max − min) of each row of each input; an
            array that broadcasts to a row, in the units of the input (for tables, whose columns have their own; a
            Series is matched by name);
            for several inputs also a list or dict of those, in which 0, or no entry, leaves an input as it is.
            Integers and inputs that are held still get none.
        samples: draws of the noise, at least 2.
        moment: "mean" (SmoothGrad), "square" (mean of the squares, SmoothGrad²) or "variance" (unbiased, VarGrad).
        seed: whole number ≥ 0, of a random generator that is made for the call.

    Source: Smilkov et al. (2017), SmoothGrad; Hooker et al. (2019), A Benchmark for Interpretability Methods, for the
    squares; Adebayo et al. (2018), Local Explanation Methods for Deep Neural Networks, for the variance.
    """

    def __init__(
        self, explainer: Method, noise: Any = 0.15, samples: int = 32, *, moment: str = "mean", seed: int = 0
    ) -> None:
        if not isinstance(explainer, Method):
            raise TypeError(
                f"Expected a method to smooth, received {type(explainer).__name__}. Give for example "
                "aumann.Saliency(model)."
            )
        self.explainer, self.noise = explainer, noise
        self.moment = arguments.choice(moment, MOMENTS, "moment")
        self.samples = arguments.whole(samples, 2, "samples", 32)
        self.seed = arguments.whole(seed, 0, "seed", 0)

    def explain(self, inputs: Any, target: Any = None, baseline: Any = 0.0, progress: Any = None) -> Explanation:
        """Moments of the attributions of every input feature of every row.

        Args:
            inputs, target, baseline, progress: as for the explainer. What depends on the inputs ("predicted", a
                callable baseline) is settled by those without noise.

        Returns:
            `aumann.Explanation` of the inputs without noise.

        Raises:
            ValueError, TypeError: as the explainer; or no input can have noise.
        """
        method = self.explainer
        problem = method.problem(inputs, target, baseline)
        scales = self._scales(problem)
        seeded = hasattr(method, "seed")
        at_a_time = 1 if seeded else max(1, problem.oracle.batch_size // problem.rows)
        moments = RunningMoments(4 if self.moment == "variance" else 2)
        ends, spent, converged = RunningMoments(), 0, True
        with (
            method.at_work(problem.device_pool),
            ThreadPoolExecutor(1) as background,
            reporter(progress) as tally,
            warnings.catch_warnings(),
        ):
            for category in (CompletenessWarning, ToleranceWarning):  # of samples; said once, of rows, at the end
                warnings.simplefilter("ignore", category)
            weights = background.submit(fingerprint, method.model)
            if not problem.drawn:
                problem = settled(problem)
            for first in range(0, self.samples, at_a_time):
                draws = range(first, min(first + at_a_time, self.samples))
                if seeded:
                    problem = self._reseeded(problem, inputs, target, baseline, first)
                noisy = self._noisy(problem, scales, draws)
                heard = _passed_on(tally, int(np.sum(spent)), (self.samples - first) / len(draws))
                e, _ = problem.oracle.within_memory(explain, noisy, weights, heard)
                for k in range(len(draws)):
                    rows = slice(k * problem.rows, (k + 1) * problem.rows)
                    values = [np.asarray(v[rows], np.float64) for _, v in walk(e.values)]
                    moments.add([v**2 for v in values] if self.moment == "square" else values)
                    ends.add([e.prediction[rows], e.base_value[rows]])
                    spent = spent + e.evaluations[rows]
                    converged = None if e.converged is None else converged & e.converged[rows]
        with np.errstate(over="ignore", invalid="ignore"):  # as in `explain.explain`
            return self._explanation(problem, e, moments, ends, spent, converged)

    def _scales(self, problem: Problem) -> list[np.ndarray | None]:
        """For each leaf the standard deviations of its noise, (n or 1, *1 or row), or None."""
        names = problem.oracle.names
        noise, several = self.noise, len(names) > 1
        if several and tables.heads(noise) is not None:
            noise = tables.by_input(noise, names)
        if isinstance(noise, dict):
            if unknown := set(noise) - set(names):
                raise ValueError(
                    f"Expected noise for some of the inputs {names}, received {sorted(map(str, unknown))}. Name them "
                    "as the inputs."
                )
            by_leaf = [noise.get(name, 0) for name in names]
        elif several and isinstance(noise, (list, tuple)):
            if len(noise) != len(names):
                raise ValueError(
                    f"Expected noise for each of the inputs {names}, received {len(noise)}. Give 0 to an input that is "
                    "to have none."
                )
            by_leaf = list(noise)
        else:
            by_leaf = [noise] * len(names)
        floats = [a.dtype.kind == "f" and r != FIXED for a, r in zip(problem.arrays, problem.oracle.roles, strict=True)]
        scales = [
            _scale(sigma, a, leaf.name, leaf.features) if moves else None
            for sigma, a, leaf, moves in zip(by_leaf, problem.arrays, problem.leaves, floats, strict=True)
        ]
        if not any(s is not None and s.any() for s in scales):
            held = ", ".join(f"{n!r} {a.dtype} {a.shape}" for n, a in zip(names, problem.arrays, strict=True))
            raise ValueError(
                f"Expected an input that noise can be added to, received {held} and noise={noise!r:.80}. "
                "Integers, token ids among them, and inputs held still take none; an input of one number, or of equal "
                "ones, has no range to be relative to: give its standard deviation as an array."
            )
        return scales

    def _noisy(self, problem: Problem, scales: list, draws: range) -> Problem:
        """The problem with each row once with the noise of each draw."""
        rows = np.tile(np.arange(problem.rows), len(draws))
        noisy = [a if s is None else [] for a, s in zip(problem.arrays, scales, strict=True)]
        for k in draws:
            rng = np.random.default_rng((self.seed, k))
            for a, s, of_leaf in zip(problem.arrays, scales, noisy, strict=True):
                if s is not None:
                    of_leaf.append((a + s * rng.normal(size=a.shape[1:])).astype(a.dtype))
        arrays = [a[rows] if s is None else np.concatenate(a) for a, s in zip(noisy, scales, strict=True)]
        return problem.with_inputs(arrays, rows)

    def _reseeded(self, problem: Problem, inputs: Any, target: Any, baseline: Any, k: int) -> Problem:
        """The problem with other draws, for each sample: baselines that samples shared would not average out."""
        method = copy.copy(self.explainer)
        method.seed = int(np.random.SeedSequence((method.seed, self.seed, k)).generate_state(1)[0])
        return settled(method.problem(inputs, target, baseline)) if problem.drawn else replace(problem, method=method)

    def _explanation(
        self,
        problem: Problem,
        e: Explanation,
        moments: RunningMoments,
        ends: RunningMoments,
        spent: np.ndarray,
        converged: Any,
    ) -> Explanation:
        values, variance = moments.mean, [v / self.samples for v in moments.variance()]
        if self.moment == "variance":
            values, variance = moments.variance(), moments.variance_of_variance()
        prediction, base_value = ends.mean
        residual = sum(v.reshape(*prediction.shape, -1).sum(-1) for v in values) - (prediction - base_value)
        self._warn_of(e, values, residual, converged)
        dtypes = [v.dtype for _, v in walk(e.values)]
        smooth = {"of": e.provenance["method"], "samples": self.samples, "moment": self.moment, "seed": self.seed}
        smooth["noise"] = float(self.noise) if np.isscalar(self.noise) else "given"
        provenance = {**e[: problem.rows].provenance, "method": "Smooth", "smooth": smooth}
        if self.moment != "mean":
            provenance["complete"] = False
        return replace(
            e[: problem.rows],
            values=rebuild(e.values, map(np.ndarray.astype, values, dtypes)),
            standard_error=rebuild(e.values, map(np.ndarray.astype, map(np.sqrt, variance), dtypes)),
            inputs=problem.pack(problem.arrays),
            prediction=prediction,
            base_value=base_value,
            residual=residual,
            error=None,
            input_error=None,
            converged=converged,
            evaluations=spent,
            provenance=provenance,
        )

    def _warn_of(self, e: Explanation, values: list[np.ndarray], residual: np.ndarray, converged: Any) -> None:
        """What must be said of rows: not finite, not as exact as was asked for, or not complete."""
        mass = sum(np.abs(v).reshape(*residual.shape, -1).sum(-1) for v in values)

        def rows(bad: np.ndarray) -> np.ndarray:
            return np.flatnonzero(bad.reshape(len(bad), -1).any(1))

        if len(bad := rows(~np.isfinite(mass))):
            warn(
                f"The values of rows {brief(bad)} hold NaN or infinity, the gradient not being finite on the path from "
                "one of the noisy inputs. Move the baseline away from where the model is not differentiable, or lower "
                "noise=.",
                CompletenessWarning,
            )
            return
        bad, missing = rows(~converged) if converged is not None else [], rows(np.abs(residual) > 0.05 * mass)
        if (
            len(bad)
            and self.moment == "mean"
            and self.explainer.complete
            and len(unseen := np.intersect1d(bad, missing))
        ):
            warn(
                f"The values of rows {brief(unseen)} miss the mean of F(x + ε) − F(x′) by more than 5 % of their mass, "
                "and the explainer did not converge. F may change in steps, as rounding or a comparison give, which no "
                "gradient shows: explain the score before them, or raise max_evaluations= of the explainer.",
                CompletenessWarning,
            )
            bad = np.setdiff1d(bad, unseen)
        if len(bad):
            warn(
                f"Rows {brief(bad)} did not reach the tolerance {e.provenance['tolerance']:g} at each of the noisy "
                "inputs. Raise max_evaluations= or tolerance= of the explainer; see Explanation.converged.",
                ToleranceWarning,
            )
        ruled = converged is None and e.error is None
        if ruled and self.moment == "mean" and self.explainer.complete and len(missing):
            warn(
                f"The values of rows {brief(missing)} miss the mean of F(x + ε) − F(x′) by more than 5 % of their "
                "mass; see Explanation.residual. Use more nodes, or a tolerance in place of a rule.",
                CompletenessWarning,
            )


def _scale(noise: Any, array: np.ndarray, name: str, columns: list | None = None) -> np.ndarray:
    """Standard deviations of the noise on an array, that broadcast to it, along its columns where both have names."""
    names, sigma = tables.heads(noise), np.asarray(noise)
    if None not in (names, columns):
        sigma = sigma[..., tables.order(names, columns, f"noise for input {name!r}")]
    if sigma.dtype.kind not in "iuf" or not (np.isfinite(sigma) & (sigma >= 0)).all():
        raise ValueError(
            f"Expected noise ≥ 0 for input {name!r}, received {noise!r:.80}. Give a number, relative to the range of "
            "each row, or an array of standard deviations."
        )
    axes = tuple(range(1, array.ndim))
    if sigma.ndim == 0:
        return sigma * np.ptp(array, axis=axes, keepdims=True).astype(np.float64) if axes else 0.0 * array
    try:
        return np.broadcast_to(sigma, array.shape[1:])[None]
    except ValueError:
        raise ValueError(
            f"Expected noise for input {name!r} that broadcasts to a row of shape {array.shape[1:]}, received shape "
            f"{sigma.shape}. Give one standard deviation for each feature, or one number."
        ) from None


def _passed_on(tally: Tally, spent: int, factor: float) -> Callable[[int, int], None]:
    """Progress of some samples as that of all."""
    return lambda done, expected: tally.report(spent + done, spent + round(expected * factor))
