"""Interactions: what pairs of features are worth together, by integrated Hessians.

Attribute to feature j, by integrated gradients, the attribution of feature i:

    Γᵢⱼ = ∫₀¹∫₀¹ [αβ dᵢdⱼ ∂ᵢⱼF + δᵢⱼ dᵢ ∂ᵢF](x′ + αβ d) dα dβ,   d = x − x′.

The product t = αβ of two uniform numbers has the density −ln t, so that one integral does. And since dᵢdⱼ t² ∂ᵢⱼF +
δᵢⱼ dᵢ t ∂ᵢF is the second derivative of F(x′ + t d ∘ exp v) in vᵢ and vⱼ at v = 0, the whole of Γ is one Hessian,

    Γ = ∂²Φ/∂v²,   Φ(v) = ∫₀¹ −ln t / t · F(x′ + t d ∘ exp v) dt,

of a function of as many numbers as are asked for: features that share a v are a group.
"""

import copy
import dataclasses
import math

import numpy as np
from keras import ops, tree

from aumann.core import engine, refinement
from aumann.core.quadrature import LogRule, gauss_legendre, log_gauss
from aumann.core.secant import ROUNDING
from aumann.execution.batching import BatchTuner, MemoryBudget
from aumann.explain.explain import CompletenessWarning
from aumann.explanation import Explanation, feature_labels, group_labels, walk
from aumann.methods.integrated import TOLERANCE, Method, tolerance_or
from aumann.model.signature import is_foreign
from aumann.user_warnings import warn

FIRST = 4  # nodes of the first sum
MAX_EVALUATIONS = 124  # 4 + 8 + 16 + 32 + 64 nodes
WIDEST = 2048  # features of a full matrix
FLIGHT = 1 << 24  # numbers of Γ that one batch makes


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Interactions:
    """Γ of n rows, for one target or several. Indexing and `len` go over rows.

    Attributes:
        values: (n[, targets], chosen, features); Γᵢⱼ is half of what i and j are worth together for i ≠ j, Γⱼᵢ being
            the other, and what i is worth by itself for i = j. All features: a symmetric matrix that sums to
            F(x) − F(x′). Features are those of all inputs that move, laid end to end, or their groups.
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

    def __post_init__(self):
        for name in ("values", "chosen", "residual"):
            getattr(self, name).flags.writeable = False

    def __len__(self):
        return len(self.values)

    def __getitem__(self, rows):
        """The interactions of some rows: an int (the axis of rows stays), a slice, int array or boolean mask."""
        index = np.atleast_1d(np.arange(len(self))[rows])
        return dataclasses.replace(
            self, values=self.values[index], residual=self.residual[index], explanation=self.explanation[index]
        )

    def __repr__(self):
        e = self.explanation
        return (
            f"Interactions of {len(self)} rows: {len(self.chosen)} × {len(self.features)} features, rule "
            f"{e.provenance['rule']}, worst residual {np.abs(self.residual).max():.2g}"
        )

    @property
    def main(self):
        """Γᵢᵢ (n[, targets], chosen): what each feature is worth by itself."""
        return self.values[..., np.arange(len(self.chosen)), self.chosen]

    @property
    def attributions(self):
        """Σⱼ Γᵢⱼ (n[, targets], chosen): integrated gradients of the features or groups."""
        return self.values.sum(-1, dtype=np.float64)

    @property
    def prediction(self):
        """F(x), shape (n[, targets])."""
        return self.explanation.prediction

    @property
    def base_value(self):
        """F(x′), shape (n[, targets])."""
        return self.explanation.base_value

    @property
    def error(self):
        """Estimated relative L1 error of a row's values, (n[, targets]); None for a rule."""
        return self.explanation.error

    @property
    def converged(self):
        """Whether each row met the tolerance, (n[, targets]); None for a rule."""
        return self.explanation.converged

    @property
    def evaluations(self):
        """Hessian-vector products and gradients spent on each row, (n,)."""
        return self.explanation.evaluations

    @property
    def provenance(self):
        """How the values came about."""
        return self.explanation.provenance


class IntegratedHessians(Method):
    """Integrated Hessians: how F(x) − F(x′) is shared out among pairs of features.

    Of a set of baselines the exact mean ("expected Hessians"). A row is summed over 4, 8, 16, … nodes of `log_gauss`
    until two sums agree to the tolerance; their difference is the error of the last. With a rule, over its nodes alone.

    Cost, at each node and baseline: a gradient of F, one product with its Hessian for each feature that is chosen (two
    to three gradients' time), and one more gradient for φ. Memory in proportion to `batch_size` and the values.

    Second derivatives see no kink: on a ReLU network they are zero wherever they exist, and features that interact
    would seem not to. A warning says so; explain such a model with softplus or GELU in place of ReLU.

    Args:
        model, output, layer, execution: as for `aumann.IntegratedGradients`.
        tolerance: relative L1 error of a row's values at which it is done, 0.01 unless a rule is given.
        max_evaluations: nodes spent on a row and baseline at most.
        rule: as `aumann.log_gauss(12)`, in place of a tolerance.

    Source: Janizek, Sturmfels, Lee (2021), Explaining Explanations: Axiomatic Feature Interactions for Deep Networks.
    """

    MADE = ("oracles", "_steps", "_paces")

    def __init__(
        self,
        model,
        *,
        output=None,
        layer=None,
        tolerance=None,
        max_evaluations=None,
        rule=None,
        **execution,
    ):
        super().__init__(model, output=output, layer=layer, **execution)
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
        self.tolerance = tolerance_or("rule", rule, tolerance, max_evaluations, TOLERANCE)
        self.max_evaluations = _max_evaluations(MAX_EVALUATIONS if max_evaluations is None else max_evaluations)
        self._steps, self._paces = {}, {}

    def explain(self, inputs, target=None, baseline=0.0, features=None, groups=None, progress=None):
        """Interactions of the features of every row.

        Args:
            inputs, target, baseline: as for `aumann.IntegratedGradients.explain`.
            features: whose interactions with all features are computed; None for everyone's, up to 2048 of them. A
                position among the features of all moving inputs laid end to end, a name of `Interactions.features`, a
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
        asked = copy.copy(self)  # what one call asks and finds is its own
        asked.features, asked.groups = features, groups
        explanation = Method.explain(asked, inputs, target, baseline, progress)
        values, residual = (a if explanation.several else a[:, 0] for a in asked.found)
        return Interactions(
            values=values, features=asked.names, chosen=asked.chosen, residual=residual, explanation=explanation
        )

    def sum(self, call):
        self.names, self.labels = _laid(call, self.groups)
        self.chosen = _positions(self.features, self.names, call)
        rows, nodes, spent = np.arange(call.rows), len(self.rule) if self.rule else FIRST, 0
        done = refinement.Refined([], None, None, np.zeros(call.rows, int))
        error = np.full((call.rows, len(call.columns)), np.inf)
        while len(rows) and (self.rule is None or not spent):
            found = self._sums(call, rows, self.rule or log_gauss(nodes))
            done.evaluations[rows] += call.starts.count * nodes * (2 + len(self.chosen))
            if spent:
                error[rows] = _change(done.values, found, rows) + 16 * ROUNDING[call.oracle.dtype]
                for mine, theirs in zip(done.values, found, strict=True):
                    mine[rows] = theirs
                if call.complete:  # what φ misses is an error for certain
                    change, mass = call.change(rows), sum(map(refinement.size, found[1:]))
                    off = refinement.missed(found[1:], slice(None), *change)
                    least = refinement.known(slice(None), *change)
                    error[rows] = np.maximum(error[rows], refinement.relative(off, mass, 0, least))
            else:
                done.values = found
            spent, nodes = spent + nodes, 2 * nodes
            enough = spent + nodes > self.max_evaluations
            rows = rows[:0] if enough else rows[error[rows].max(1) > self.tolerance] if self.rule is None else rows
        matrix, *done.values = done.values
        parts = [v.reshape(*v.shape[:2], -1) for v in done.values]
        self.found = matrix, matrix.sum(-1, dtype=np.float64) - self._grouped(np.concatenate(parts, axis=2))
        if call.oracle.has_kinks(call.functions):
            _name_the_kinks(self.found[1], np.abs(matrix).sum((2, 3), dtype=np.float64))
        call.exactness = {"rule": self.rule.name if self.rule else "log_gauss, refined"}
        if self.rule is None:
            done.error, done.parts = error, [error] * len(done.values)
            call.tolerance = self.tolerance
            call.exactness |= {"tolerance": self.tolerance, "max_evaluations": self.max_evaluations}
        call.places = np.linspace(0, 1, 65)
        return done

    def _sums(self, call, rows, rule):
        """[Γ (rows, targets, chosen, features), *φ for each point] by rules of as many nodes."""
        o, targets = call.oracle, len(call.columns)
        shape = len(self.chosen), len(self.names)
        key = o, tuple(call.functions)
        if key not in self._steps:
            self._steps[key] = o.programs.compile(_make_step(o, call.functions))
        asked = [self.chosen] if self.labels is None else [self.chosen, self.labels]

        def load(rows):
            return o.load([a[rows] for a in call.arrays])

        work = engine.Work(call.rows, load, call.starts, call.index, rule, [shape], o.dtype)
        fit = max(1, FLIGHT // (targets * math.prod(shape))) * work.points
        call.tally.expect(len(rows) * work.points)
        if (*key, fit) not in self._paces:
            room, tuned = MemoryBudget(o.memory.size, o.memory.free, fit), o.execution.batch_size == "auto"
            self._paces[*key, fit] = BatchTuner(
                min(o.batch_size, fit), room, tuned, o.programs.dynamic(False), laid=True
            )
        pace = self._paces[*key, fit]

        def part(rows, tally):
            numbers = [ops.convert_to_tensor(a, "int32") for a in asked]

            def step(*args):
                return self._steps[key](*args, numbers)

            return engine.integrate(step, work.of(rows), pace, o.backend, tally)

        matrix = call.device_pool.divide(part, rows, call.tally)
        return matrix + call.integrate(rows, gauss_legendre(len(rule)))

    def _grouped(self, values):
        """φ of the chosen features or groups, from that of every feature."""
        if self.labels is None:
            return values[..., self.chosen]
        sums = [values[..., self.labels == g].sum(-1, dtype=np.float64) for g in self.chosen]
        return np.stack(sums, axis=-1)


def _make_step(oracle, functions):
    """One batch: Γ += ∂²/∂v² Σₖ wₖ/tₖ F(x′ + tₖ d ∘ exp v) of each row; see `engine.make_step` for the arguments."""

    def step(sums, ends, starts, tw, side, index, asked):
        rows, chosen, labels = ops.shape(ends[0])[0], asked[0], asked[1:]
        width = ops.shape(tw[0])[0] // rows
        t, w = (ops.reshape(a, (rows, width)) for a in tw)
        side, (index,) = ([ops.repeat(a, width, axis=0) for a in held] for held in (side, index))

        def along(v):
            scale = ops.exp(v)
            scale = ops.take(scale, labels[0], axis=1) if labels else scale
            points, first = [], 0
            for start, end in zip(starts, ends, strict=True):
                row, size = end.shape[1:], math.prod(end.shape[1:])
                own = ops.reshape(scale[:, first : first + size], (-1, 1, *row))
                velocity = (ops.expand_dims(end, 1) - start) * own
                point = start + ops.reshape(t, (-1, width, *(1,) * len(row))) * velocity
                points.append(ops.reshape(point, (-1, *row)))
                first += size
            values = oracle.function.values(points, side, index, functions)
            values = ops.reshape(values, (-1, width, index.shape[1]))
            return ops.sum(ops.expand_dims(w / t, 2) * values, axis=1)

        origin = ops.zeros((rows, sums[0].shape[-1]), sums[0].dtype)
        return [sums[0] + oracle.backend.curvatures(along, origin, chosen)]

    return step


def _change(values, found, rows):
    """Relative L1 change of Γ or of φ, whichever is larger: (rows, targets)."""

    def relative(old, new):
        off = sum(refinement.size(b - a[rows]) for a, b in zip(old, new, strict=True))
        mass = sum(map(refinement.size, new))
        return np.divide(off, mass, out=np.where(off > 0, np.inf, 0 * off), where=mass > 0)

    return np.maximum(relative(values[:1], found[:1]), relative(values[1:], found[1:]))


def _name_the_kinks(residual, mass):
    worst = np.abs(residual).sum(-1).max() / max(mass.max(), np.finfo(mass.dtype).tiny)
    warn(
        "The model has kinks (ReLU and its kin, absolute values, maxima), which second derivatives do not see: a ReLU "
        f"network would seem to have next to no interactions. Here Σⱼ Γᵢⱼ misses φᵢ by up to {worst:.1%}. Put softplus "
        "or GELU in place of ReLU and keep the weights, as with keras.models.clone_model(model, clone_function=…).",
        CompletenessWarning,
    )


# ---- which features --------------------------------------------------------------------------------------------------


def _laid(call, groups):
    """Names of the features of all points laid end to end, or of their groups, and the group of each feature."""
    o = call.oracle
    leaves = o.leaves_of_moving
    numbers = tree.pack_sequence_as(call.structure, list(range(len(call.leaves))))
    given = {leaf: group for _, leaf, group in walk(numbers, groups)}
    if groups is not None and (o.by_name or len(leaves) != len(set(leaves))):
        raise ValueError(
            "Expected groups of inputs that one layer each reads, received an input that several read, or a layer that "
            "reads several. Choose one with layer=."
        )
    names, labels = [], []
    points = o.labels if o.by_name else [o.names[leaf] for leaf in leaves]
    for leaf, shape, point in zip(leaves, o.shapes, points, strict=True):
        features, group = call.leaves[leaf].features, given[leaf]
        features = features if shape and len(features or ()) == shape[0] else None
        if group is None:
            own, where = feature_labels(features, shape), np.arange(math.prod(shape))
        else:
            where, own = group_labels(group, (1,), shape, features)
            where = where.ravel()
        labels.append(where + len(names))
        names += own if len(leaves) == 1 else [f"{point} {name}" for name in own]
    return tuple(names), None if groups is None else np.concatenate(labels)


def _positions(features, names, call):
    """Places of the chosen features, or groups, among all."""
    if features is None:
        if len(names) > WIDEST:
            raise ValueError(
                f"Expected at most {WIDEST} features for the interactions of all pairs, received {len(names)}. Choose "
                "some with features=, or take several together with groups=."
            )
        return np.arange(len(names))
    items = features if isinstance(features, (list, np.ndarray, range)) else [features]
    if not len(items):
        raise ValueError("Expected at least one feature, received none. Leave features= out for all of them.")
    return np.array([_position(item, names, call) for item in items])


def _position(item, names, call):
    if isinstance(item, str) and names.count(item) == 1:
        return names.index(item)
    if isinstance(item, tuple) and call.method.groups is None:
        item = _place(item, call.oracle)
    if isinstance(item, (int, np.integer)) and not isinstance(item, bool) and -len(names) <= item < len(names):
        return int(item) % len(names)
    raise ValueError(
        f"Expected a feature, or a list of them: a position between 0 and {len(names) - 1}, one of the names "
        f"{list(names[:8])}{'…' if len(names) > 8 else ''}, or a tuple index into a row; received {item!r}. "
        "Interactions.features has the names."
    )


def _place(index, oracle):
    """The position of a tuple index into a row, or of one that begins with the name or number of an input."""
    leaves = oracle.leaves_of_moving
    point, place = (0, index) if len(leaves) == 1 else (None, index[1:])
    if len(leaves) > 1 and index:
        leaf = oracle.names.index(index[0]) if index[0] in oracle.names else index[0]
        point = leaves.index(leaf) if leaves.count(leaf) == 1 else None
    if point is None or len(place) != len(oracle.shapes[point]):
        return index
    try:
        inside = np.ravel_multi_index(
            tuple(i % n if -n <= i < n else n for i, n in zip(place, oracle.shapes[point], strict=True)),
            oracle.shapes[point],
        )
    except (TypeError, ValueError):
        return index
    return int(inside) + sum(math.prod(shape) for shape in oracle.shapes[:point])


def _max_evaluations(most):
    if isinstance(most, bool) or not isinstance(most, (int, np.integer)) or most < 3 * FIRST:
        raise ValueError(
            f"Expected max_evaluations to be a whole number ≥ {3 * FIRST}, the nodes of the two sums whose difference "
            f"gives the first error; received {most!r}. Give for example {MAX_EVALUATIONS}."
        )
    return int(most)
