"""Interactions: what pairs of features are worth together, by integrated Hessians.

Attribute to feature j, by integrated gradients, the attribution of feature i:

    Γᵢⱼ = ∫₀¹∫₀¹ [αβ dᵢdⱼ ∂ᵢⱼF + δᵢⱼ dᵢ ∂ᵢF](x′ + αβ d) dα dβ,   d = x − x′.

The product t = αβ of two uniform numbers has the density −ln t, so that one integral does. And since dᵢdⱼ t² ∂ᵢⱼF +
δᵢⱼ dᵢ t ∂ᵢF is the second derivative of F(x′ + t d ∘ exp v) in vᵢ and vⱼ at v = 0, the whole of Γ is one Hessian,

    Γ = ∂²Φ/∂v²,   Φ(v) = ∫₀¹ −ln t / t · F(x′ + t d ∘ exp v) dt,

of a function of as many numbers as are asked for: features that share a v are a group.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any, Unpack

import numpy as np
from keras import ops

from aumann import arguments
from aumann.core import engine, refinement
from aumann.core.quadrature import LogRule, gauss_legendre, log_gauss
from aumann.core.secant import ROUNDING
from aumann.execution.batching import BatchTuner, MemoryBudget
from aumann.execution.progress import Tally
from aumann.explain.checks import CompletenessWarning
from aumann.explain.endpoints import Endpoints
from aumann.explain.integral import Integral
from aumann.explain.problem import Problem
from aumann.explain.result import Result
from aumann.explanation import Explanation
from aumann.methods.base import TOLERANCE, Method
from aumann.methods.chosen import Chosen, choose
from aumann.methods.signatures import Options
from aumann.model.oracle import Oracle
from aumann.model.signature import is_foreign
from aumann.user_warnings import warn

FIRST = 4  # nodes of the first sum
MAX_EVALUATIONS = 124  # 4 + 8 + 16 + 32 + 64 nodes
FLIGHT = 1 << 24  # numbers of Γ that one batch makes


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Interactions:
    """Γ of n rows, for one target or several. Indexing and `len` go over rows.

    Attributes:
        values: (n[, targets], chosen, features); Γᵢⱼ is half of what i and j are worth together for i ≠ j, Γⱼᵢ being
            the other, and what i is worth by itself for i = j. All features: a symmetric matrix that sums to
            F(x) − F(x′). Features are those of all inputs that move, flattened, or their groups.
        features: the name of each feature or group.
        chosen: (chosen,) positions among the features.
        residual: (n[, targets], chosen), Σⱼ Γᵢⱼ − φᵢ.
        explanation: `aumann.Explanation` by integrated gradients φ at as many nodes; its `error` and `converged` speak
            of the worse of φ and Γ, and its `evaluations` are Hessian-vector products and gradients together.
    """

    values: np.ndarray
    features: tuple
    chosen: np.ndarray
    residual: np.ndarray
    explanation: Explanation

    def __post_init__(self) -> None:
        for name in ("values", "chosen", "residual"):
            getattr(self, name).flags.writeable = False

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, rows: Any) -> Interactions:
        """The interactions of some rows: an int (the axis of rows stays), a slice, int array or boolean mask."""
        index = np.atleast_1d(np.arange(len(self))[rows])
        return dataclasses.replace(
            self, values=self.values[index], residual=self.residual[index], explanation=self.explanation[index]
        )

    def __repr__(self) -> str:
        e = self.explanation
        return (
            f"Interactions of {len(self)} rows: {len(self.chosen)} × {len(self.features)} features, rule "
            f"{e.provenance['rule']}, worst residual {np.abs(self.residual).max():.2g}"
        )

    @property
    def main(self) -> np.ndarray:
        """Γᵢᵢ (n[, targets], chosen): what each feature is worth by itself."""
        return self.values[..., np.arange(len(self.chosen)), self.chosen]

    @property
    def attributions(self) -> np.ndarray:
        """Σⱼ Γᵢⱼ (n[, targets], chosen): integrated gradients of the features or groups."""
        return self.values.sum(-1, dtype=np.float64)

    @property
    def prediction(self) -> np.ndarray:
        """F(x), shape (n[, targets])."""
        return self.explanation.prediction

    @property
    def base_value(self) -> np.ndarray:
        """F(x′), shape (n[, targets])."""
        return self.explanation.base_value

    @property
    def error(self) -> np.ndarray | None:
        """Estimated relative L1 error of a row's values, (n[, targets]); None for a rule."""
        return self.explanation.error

    @property
    def converged(self) -> np.ndarray | None:
        """Whether each row met the tolerance, (n[, targets]); None for a rule."""
        return self.explanation.converged

    @property
    def evaluations(self) -> np.ndarray:
        """Hessian-vector products and gradients spent on each row, (n,)."""
        return self.explanation.evaluations

    @property
    def provenance(self) -> Mapping[str, Any]:
        """How the values came about."""
        return self.explanation.provenance


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class InteractionResult(Result):
    """The values of every row, and with them Γ.

    Attributes:
        interactions: Γ, (n, targets, chosen, features).
        residual: (n, targets, chosen), Σⱼ Γᵢⱼ − φᵢ.
    """

    interactions: np.ndarray
    residual: np.ndarray


class IntegratedHessians(Method):
    """Integrated Hessians: how F(x) − F(x′) is shared out among pairs of features.

    Of a set of baselines the exact mean ("expected Hessians"). A row is summed over 4, 8, 16, … nodes of `log_gauss`
    until two sums agree to the tolerance; their difference is the error of the last. With a rule, over its nodes alone.

    Cost, at each node and baseline: a gradient of F, one product with its Hessian for each feature that is chosen (two
    to three gradients' time), and one more gradient for φ. Memory in proportion to `batch_size` and the values.

    Second derivatives see no kink: on a ReLU network they are zero wherever they exist, and features that interact
    would seem not to. A warning says so; explain such a model with softplus or GELU in place of ReLU.

    Args:
        tolerance: relative L1 error of a row's values at which it is done, 0.01 unless a rule is given.
        max_evaluations: nodes spent on a row and baseline at most.
        rule: as `aumann.log_gauss(12)`, in place of a tolerance.

    Source: Janizek, Sturmfels, Lee (2021), Explaining Explanations: Axiomatic Feature Interactions for Deep Networks.
    """

    COMPILED = ("oracles", "_steps", "_tuners")

    def __init__(
        self,
        model: Any,
        *,
        rule: LogRule | None = None,
        tolerance: float | None = None,
        max_evaluations: int | None = None,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(model, **options)
        if rule is not None and not isinstance(rule, LogRule):
            raise TypeError(
                f"Expected a rule for the density −ln t, received {rule!r}. Give one such as aumann.log_gauss(12)."
            )
        if is_foreign(model):
            raise TypeError(
                "Expected a model that Keras' own backend differentiates twice, received a graph of another framework. "
                "Rebuild it with keras.ops."
            )
        self.rule = rule
        self.tolerance = arguments.tolerance_or("rule", rule, tolerance, max_evaluations, TOLERANCE)
        self.max_evaluations = arguments.max_evaluations(max_evaluations, MAX_EVALUATIONS, 3 * FIRST, "nodes")
        self._steps, self._tuners = {}, {}

    def explain(
        self,
        inputs: Any,
        target: Any = None,
        baseline: Any = 0.0,
        features: Any = None,
        groups: Any = None,
        progress: Any = None,
    ) -> Interactions:
        """Interactions of the features of every row.

        Args:
            inputs, target, baseline: as for `aumann.IntegratedGradients.explain`.
            features: whose interactions with all features are computed; None for everyone's, up to 2048 of them. A
                position among the features of all moving inputs, flattened, a name of `Interactions.features`, a
                tuple index into a row (of several inputs: their name or number, then the index), or a list of those.
            groups: features taken together, each group as one feature at the price of one: integer labels that
                broadcast to the shape of a row, or a mapping from names to members, as for `Explanation.sum`; for
                several inputs a structure like theirs, None where features stand singly. Tokens of an embedding are
                `np.arange(length)[:, None]`.
            progress: True for a bar, or a callable (nodes done, nodes known to be needed so far).

        Returns:
            `Interactions`.

        Raises:
            ValueError, TypeError: inputs, target, baseline, features or groups do not fit; nothing has been changed.
        """
        problem = self.problem(inputs, target, baseline)
        chosen = choose(problem, features, groups)
        sum = functools.partial(self._interactions, chosen)
        explanation, result = self._explained(problem, progress, sum)
        values, residual = (a if explanation.several else a[:, 0] for a in (result.interactions, result.residual))
        return Interactions(
            values=values,
            features=chosen.names,
            chosen=chosen.positions,
            residual=residual,
            explanation=explanation,
        )

    def sum(self, problem: Problem, integrate: Integral) -> InteractionResult:
        return self._interactions(choose(problem, None, None), problem, integrate)

    def _interactions(self, chosen: Chosen, problem: Problem, integrate: Integral) -> InteractionResult:
        """Γ of the chosen features, and φ."""
        rows, nodes, spent = np.arange(problem.rows), len(self.rule) if self.rule else FIRST, 0
        values, evaluations = [], np.zeros(problem.rows, int)
        error = np.full((problem.rows, len(problem.columns)), np.inf)
        while len(rows) and (self.rule is None or not spent):
            sums = self._sums(chosen, problem, integrate, rows, self.rule or log_gauss(nodes))
            evaluations[rows] += problem.start_points.count * nodes * (2 + len(chosen.positions))
            if spent:
                error[rows] = _error(values, sums, rows, problem, integrate.ends)
                for whole, some in zip(values, sums, strict=True):
                    whole[rows] = some
            else:
                values = sums
            spent, nodes = spent + nodes, 2 * nodes
            enough = spent + nodes > self.max_evaluations
            rows = rows[:0] if enough else rows[error[rows].max(1) > self.tolerance] if self.rule is None else rows
        matrix, *values = values
        residual = matrix.sum(-1, dtype=np.float64) - _of_chosen(chosen, values)
        if problem.oracle.has_kinks(problem.functions):
            _warn_of_kinks(residual, np.abs(matrix).sum((2, 3), dtype=np.float64))
        known = {}
        if self.rule is None:
            stopping_rule = {"rule": "log_gauss, refined", "tolerance": self.tolerance}
            stopping_rule["max_evaluations"] = self.max_evaluations
            known = {"error": error, "parts": [error] * len(values)}
        else:
            stopping_rule = {"rule": self.rule.name}
        how = integrate.how(stopping_rule)
        return InteractionResult(values, evaluations, how, **known, interactions=matrix, residual=residual)

    def _sums(
        self, chosen: Chosen, problem: Problem, integrate: Integral, rows: np.ndarray, rule: LogRule
    ) -> list[np.ndarray]:
        """[Γ (rows, targets, chosen, features), *φ for each moving input] by rules of as many nodes."""
        o, targets = problem.oracle, len(problem.columns)
        shape = len(chosen.positions), len(chosen.names)
        key = o, problem.functions
        if key not in self._steps:
            self._steps[key] = o.programs.compile(_make_step(o, problem.functions))
        numbers = [chosen.positions] if chosen.groups is None else [chosen.positions, chosen.groups]
        starts, positions = problem.start_points, integrate.ends.positions
        work = engine.Work(problem.rows, problem.load, starts, positions, rule, [shape], o.dtype)
        fit = max(1, FLIGHT // (targets * math.prod(shape))) * work.nodes
        integrate.tally.expect(len(rows) * work.nodes)
        if (*key, fit) not in self._tuners:
            room, tuned = MemoryBudget(o.memory.size, o.memory.free, fit), o.execution.batch_size == "auto"
            dynamic = o.programs.dynamic(False)
            self._tuners[*key, fit] = BatchTuner(min(o.batch_size, fit), room, tuned, dynamic, exact_shapes=True)
        tuner = self._tuners[*key, fit]

        def part(rows: np.ndarray, tally: Tally) -> list[np.ndarray]:
            asked = [ops.convert_to_tensor(a, "int32") for a in numbers]

            def step(*args: Any) -> list:
                return self._steps[key](*args, asked)

            return engine.integrate(step, work.of(rows), tuner, o.backend, tally)

        return integrate.divide(part, rows) + integrate(rows, gauss_legendre(len(rule)))


def _make_step(oracle: Oracle, functions: tuple[Callable, ...]) -> Callable:
    """One batch: Γ += ∂²/∂v² Σₖ wₖ/tₖ F(x′ + tₖ d ∘ exp v) of each row; see `engine.make_step` for the arguments."""

    def step(sums: list, ends: list, starts: list, tw: list, side: list, index: list, asked: list) -> list:
        rows, chosen, labels = ops.shape(ends[0])[0], asked[0], asked[1:]
        width = ops.shape(tw[0])[0] // rows
        t, w = (ops.reshape(a, (rows, width)) for a in tw)
        side, (index,) = ([ops.repeat(a, width, axis=0) for a in held] for held in (side, index))

        def along(v: Any) -> Any:
            scale = ops.exp(v)
            scale = ops.take(scale, labels[0], axis=1) if labels else scale
            points, first = [], 0
            for start, end in zip(starts, ends, strict=True):
                row, size = end.shape[1:], math.prod(end.shape[1:])
                factor = ops.reshape(scale[:, first : first + size], (-1, 1, *row))
                velocity = (ops.expand_dims(end, 1) - start) * factor
                point = start + ops.reshape(t, (-1, width, *(1,) * len(row))) * velocity
                points.append(ops.reshape(point, (-1, *row)))
                first += size
            values = oracle.function.values(points, side, index, functions)
            values = ops.reshape(values, (-1, width, index.shape[1]))
            return ops.sum(ops.expand_dims(w / t, 2) * values, axis=1)

        origin = ops.zeros((rows, sums[0].shape[-1]), sums[0].dtype)
        return [sums[0] + oracle.backend.curvatures(along, origin, chosen)]

    return step


def _error(
    values: list[np.ndarray], sums: list[np.ndarray], rows: np.ndarray, problem: Problem, ends: Endpoints
) -> np.ndarray:
    """Relative L1 error of rows, (rows, targets): the change of Γ or of φ, whichever is larger, or what φ misses.

    Args:
        values: [Γ, *φ] so far, of all rows.
        sums: the next ones, of these rows.
    """

    def relative(old: list[np.ndarray], new: list[np.ndarray]) -> np.ndarray:
        off = sum(refinement.size(b - a[rows]) for a, b in zip(old, new, strict=True))
        mass = sum(map(refinement.size, new))
        return np.divide(off, mass, out=np.where(off > 0, np.inf, 0 * off), where=mass > 0)

    error = np.maximum(relative(values[:1], sums[:1]), relative(values[1:], sums[1:]))
    error += 16 * ROUNDING[problem.oracle.dtype]
    if not ends.complete:
        return error
    change, mass = ends.change(rows), sum(map(refinement.size, sums[1:]))
    off = refinement.missed(sums[1:], slice(None), *change)
    return np.maximum(error, refinement.relative(off, mass, 0, refinement.least_mass(slice(None), *change)))


def _of_chosen(chosen: Chosen, values: list[np.ndarray]) -> np.ndarray:
    """φ of the chosen features or groups (n, targets, chosen), from that of every feature."""
    values = np.concatenate([v.reshape(*v.shape[:2], -1) for v in values], axis=2)
    if chosen.groups is None:
        return values[..., chosen.positions]
    sums = [values[..., chosen.groups == g].sum(-1, dtype=np.float64) for g in chosen.positions]
    return np.stack(sums, axis=-1)


def _warn_of_kinks(residual: np.ndarray, mass: np.ndarray) -> None:
    worst = np.abs(residual).sum(-1).max() / max(mass.max(), np.finfo(mass.dtype).tiny)
    warn(
        "The model has kinks (ReLU and its kin, absolute values, maxima), which second derivatives do not see: a ReLU "
        f"network would seem to have next to no interactions. Here Σⱼ Γᵢⱼ misses φᵢ by up to {worst:.1%}. Put softplus "
        "or GELU in place of ReLU and keep the weights, as with keras.models.clone_model(model, clone_function=…).",
        CompletenessWarning,
    )
