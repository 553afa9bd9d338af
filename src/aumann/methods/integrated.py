"""Integrated gradients on any path, and methods that differ from it in what a gradient is worth to the features."""

from __future__ import annotations

import inspect
from typing import Any, Unpack

from aumann import arguments
from aumann.core import credits
from aumann.core.paths import Blur, straight
from aumann.core.quadrature import Rule
from aumann.core.refinement import LEAST_EVALUATIONS
from aumann.explain.integral import Integral
from aumann.explain.problem import Problem
from aumann.explain.result import Result
from aumann.methods.base import MAX_EVALUATIONS, TOLERANCE, Method
from aumann.methods.signatures import Options


class IntegratedGradients(Method):
    """Integrated gradients: φᵢ = (xᵢ − x′ᵢ) ∫₀¹ ∂ᵢF(x′ + t (x − x′)) dt, Aumann–Shapley values of the features.

    Every row is refined until its estimated relative L1 error is below the tolerance: on networks with kinks (ReLU and
    its kin, max-pooling) by secants over more and more cells, on smooth ones by derivatives, each of which is used
    again (`aumann.core.refinement`; docs/exactness.md says what the error promises). With a rule, the cost is fixed
    instead: `len(rule)` gradients a row and baseline, whatever error that leaves. Besides, two forward passes a row,
    and memory in proportion to `batch_size`. The model is never changed and never trains: inference mode throughout.

    Args:
        tolerance: relative L1 error of a row's values at which it is done, 0.01 unless a rule is given.
        max_evaluations: gradients spent on a row and baseline at most; rows that would need more are named in one
            warning, and `Explanation.converged` tells them.
        rule: nodes and weights of the integral, as `aumann.gauss_legendre(50)`, in place of a tolerance.
        path: how to get from the baseline to the input: straight on unless given. An `aumann.Polyline`, an
            `aumann.Blur`, or a function (start, end, t) -> point, or -> (point, velocity), in operators or keras.ops;
            start is (1|S, 1|M, *row), end (S, 1, *row), t (S, M, 1, …), point (S, M, *row). For several inputs a list
            or dict like them gives each its own; one left out of a dict goes straight.

    Source: Sundararajan, Taly, Yan (2017), Axiomatic Attribution for Deep Networks.
    """

    takes_paths = True  # whether it is defined on other paths than the straight one
    spans = True

    def __init__(
        self,
        model: Any,
        *,
        tolerance: float | None = None,
        max_evaluations: int | None = None,
        rule: Rule | None = None,
        path: Any = straight,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(model, **options)
        if rule is not None and not isinstance(rule, Rule):
            raise TypeError(f"Expected a rule, received {rule!r}. Give one such as aumann.gauss_legendre(50).")
        if path is not straight and not self.takes_paths:
            raise ValueError(
                f"Expected {type(self).__name__} to go straight, as it is defined; received path={path!r}. Leave path= "
                "out, or take IntegratedGradients or MeanGradient."
            )
        self.rule, self.path = rule, _path(path)
        self.tolerance = arguments.tolerance_or("rule", rule, tolerance, max_evaluations, TOLERANCE)
        self.max_evaluations = arguments.max_evaluations(
            max_evaluations, MAX_EVALUATIONS, LEAST_EVALUATIONS, "gradients"
        )

    def sum(self, problem: Problem, integrate: Integral) -> Result:
        if self.rule is not None:
            return integrate.by_rule(self.rule)
        return integrate.to_tolerance(self.tolerance, self.max_evaluations)


class BlurIntegratedGradients(IntegratedGradients):
    """Integrated gradients along the path of `Blur`, from the most blurred input to the input itself.

    For images (n, height, width, channels), signals (n, length, channels) or (n, length), and volumes. No baseline is
    given: F(x′) is F of the most blurred input. Of several inputs every one is blurred; to blur one of them, give
    `IntegratedGradients(model, path={"image": aumann.Blur(50)})`. Cost and tolerance as for `IntegratedGradients`.

    Args:
        sigma: width of the Gaussian at the start of the path, in pixels or samples.
        axes: which axes of a row are blurred, all but the channels unless given: see `Blur`.

    Source: Xu, Venugopalan, Sundararajan (2020), Attribution in Scale and Space.
    """

    def __init__(
        self,
        model: Any,
        *,
        sigma: float = 50.0,
        axes: Any = None,
        tolerance: float | None = None,
        max_evaluations: int | None = None,
        rule: Rule | None = None,
        **options: Unpack[Options],
    ) -> None:
        if "path" in options:
            raise TypeError(
                "Expected no path, since this is the method of one, received path=. Leave it out, or take "
                "IntegratedGradients(model, path=…)."
            )
        budget = {"tolerance": tolerance, "max_evaluations": max_evaluations, "rule": rule}
        super().__init__(model, path=Blur(sigma, axes), **budget, **options)


class ImportantDirectionGradients(IntegratedGradients):
    """Important direction gradient integration (IDGI): φᵢ = ∫₀¹ (∂ᵢF)² / ‖∇F‖² dF, gains shared by squared slopes.

    Where the path runs across the gradient nothing is gained, and no feature gets anything for it: noise that
    integrated gradients leave to cancel does not arise. All features of all inputs count together in ‖∇F‖, so their
    units must be comparable. Complete like `IntegratedGradients`; nothing is shared out where ∇F = 0. A feature may
    have a value though it does not differ from its baseline. Of a set of baselines, the weighted mean. Cost and
    tolerance as for `IntegratedGradients`.

    The source sums (∂ᵢF)² / ‖∇F‖² · (F(tₖ₊₁) − F(tₖ)) over the points of a given attribution; this is the integral that
    such sums tend to, dF being γ' · ∂F, or over cells the secant's.

    Source: Yang, Wang, Bilgic (2023), IDGI: A Framework to Eliminate Explanation Noise from Integrated Gradients.
    """

    credit = staticmethod(credits.important)


class IntegratedDecisionGradients(IntegratedGradients):
    """φᵢ = ∫₀¹ (dF/dt) γᵢ' ∂ᵢF dt: integrated gradients that weigh each point by how fast F changes there.

    What happens where F is saturated counts little, what happens where the decision falls counts much. In units of F
    squared and not complete: Σφ = ∫ (dF/dt)² dt, and `residual` is the difference to F(x) − F(x′). Of a set of
    baselines, the weighted mean. Cost and tolerance as for `IntegratedGradients`, whose refinement puts nodes
    where they are needed, in place of the source's adaptive sampling.

    Source: Walker, Jha, Chen, Ewetz (2024), Integrated Decision Gradients: Compute Your Attributions Where the Model
    Makes Its Decision.
    """

    credit = staticmethod(credits.decisive)
    complete = False


class MeanGradient(IntegratedGradients):
    """The mean gradient on the path, ∫₀¹ ∇F(x′ + t (x − x′)) dt, in units of F per unit of the feature.

    Integrated gradients before the factor x − x′: what a change of basis (`aumann.bases`) or a sensitivity needs.
    Of a set of baselines, the weighted mean. Cost and tolerance as for `IntegratedGradients`; the values are
    not complete, and `residual` is their sum against F(x) − F(x′).
    """

    credit = staticmethod(credits.slope)
    complete = False


class HypotheticalContributions(IntegratedGradients):
    """What each letter would be worth at each place of a one-hot sequence, ∫₀¹ (∂_c F − Σₖ x′ₖ ∂ₖF) dt.

    Inputs (n, …, length, letters), letters on the last axis. At the row's own letter this is what integrated gradients
    give all letters of the position together; of a set of baselines the weighted mean. Cost and tolerance as for
    `IntegratedGradients`.

    Source: Shrikumar et al. (2020), TF-MoDISco, where DeepLIFT's multipliers stand for the mean gradient.
    """

    credit = staticmethod(credits.hypothetical)
    complete = False
    takes_paths = False


def _path(path: Any) -> Any:
    """A path, or a list or dict of them."""
    paths = path.values() if isinstance(path, dict) else path if isinstance(path, (list, tuple)) else [path]
    for path_of_input in paths:
        if not callable(path_of_input) or inspect.isclass(path_of_input):
            raise TypeError(
                f"Expected a path, a function (start, end, t) -> point, received {path_of_input!r:.80}. For points to "
                "pass on the way give aumann.Polyline(points)."
            )
    return path
