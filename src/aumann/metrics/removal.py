"""F while ranked features are removed or restored: deletion, insertion and cumulative differences."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from aumann.arguments import choice, number, whole
from aumann.explanation import Explanation
from aumann.metrics.common import checked_by
from aumann.metrics.probe import LIMIT, Explainer, Features, Probe, features


@dataclass(frozen=True, eq=False)
class Curve:
    """One curve for every row.

    Attributes:
        fractions: (points,), of the features that were removed or restored, or of the information of an image.
        values: (n, points) or (n, targets, points).
    """

    fractions: np.ndarray
    values: np.ndarray

    @property
    def auc(self) -> np.ndarray:
        """Area under each curve by trapezoids, over the range of the fractions: (n,) or (n, targets)."""
        v = self.values
        return ((v[..., 1:] + v[..., :-1]) / 2 * np.diff(self.fractions)).sum(-1)

    @property
    def last(self) -> np.ndarray:
        """The value at the last fraction: (n,) or (n, targets)."""
        return self.values[..., -1]

    def aggregate(self, how: str = "median") -> "Curve":
        """One curve for all rows, point by point: "median" or "mean". Rows of NaN are left out."""
        choice(how, ("median", "mean"), "how")
        rows = self.values[~np.isnan(self.values).reshape(len(self.values), -1).any(1)]
        if not len(rows):
            raise ValueError("Expected at least one row without NaN, received none. See what the rows lack.")
        return Curve(self.fractions, getattr(np, how)(rows, axis=0))


def deletion(
    explainer: Explainer,
    explanation: Explanation,
    target: Any = None,
    *,
    by: str,
    steps: int = 20,
    fill: Any = "baseline",
    axis: int | tuple[int, ...] | None = None,
    groups: Any = None,
    normalize: bool = False,
) -> Curve:
    """F while the features with the highest values are removed first. A small area: the ranking finds what carries F.

    The features of all inputs that move are ranked together. Costs 1 + steps forward passes a row (and ranking), and
    two more for target="predicted", and the memory of changed inputs of 4 million numbers.

    Args:
        explainer: whose `predict` is F: the one that made the explanation, or one of another output of its model.
        explanation: an `aumann.Explanation`. Each of several targets is ranked by itself, at `targets` times the cost.
        target: as in `explain`; "predicted" is the class of the unchanged inputs. Several targets for an explanation
            of one: a curve for each by the same ranking.
        by: "signed" removes the highest values first, "absolute" the largest.
        steps: points of the curve after the first, equal parts of the features; one feature a step where there are
            fewer features.
        fill: what stands in the place of a removed feature: "baseline" for the explanation's own, or a constant, a row,
            one row per row, a callable inputs -> fill such as `aumann.baselines.blur(3)`; a list or dict for several
            inputs. Token ids need an id.
        axis: feature axes that are removed together, and ranked by their sum, as in `Explanation.sum`: -1 for the
            channels of a pixel.
        groups: features that are removed together, as in `Explanation.sum`: segments, words.
        normalize: True maps F(fill) to 0 and F(x) to 1; NaN where they are equal.

    Returns:
        `Curve` over the fraction of the features that is gone.

    Raises:
        ValueError, TypeError: an argument does not fit; or F is not finite at a changed input.

    Source: Petsiuk, Das, Saenko (2018), RISE: Randomized Input Sampling for Explanation of Black-box Models.
    """
    ranked = _ranked(explainer, explanation, target, by, axis, groups)
    counts = _counts(ranked.count, whole(steps, 1, "steps", 20))
    values = _values(ranked, counts, by, fill)
    return Curve(counts / ranked.count, _normalized(values, 0, -1) if normalize else values)


def insertion(
    explainer: Explainer,
    explanation: Explanation,
    target: Any = None,
    *,
    by: str,
    steps: int = 20,
    fill: Any = "baseline",
    axis: int | tuple[int, ...] | None = None,
    groups: Any = None,
    normalize: bool = False,
) -> Curve:
    """F while the features with the highest values are restored first. A large area: the ranking finds what carries F.

    Begins where every feature that moves is replaced. Arguments, cost and errors are those of `deletion`.

    Returns:
        `Curve` over the fraction of the features that is back.

    Source: Petsiuk, Das, Saenko (2018), RISE: Randomized Input Sampling for Explanation of Black-box Models.
    """
    ranked = _ranked(explainer, explanation, target, by, axis, groups)
    counts = _counts(ranked.count, whole(steps, 1, "steps", 20))
    values = _values(ranked, counts, by, fill, restore=True)
    return Curve(counts / ranked.count, _normalized(values, -1, 0) if normalize else values)


def cumulative_difference(
    explainer: Explainer,
    explanation: Explanation,
    target: Any = None,
    *,
    by: str,
    fraction: float = 0.1,
    steps: int | None = None,
    fill: Any = "baseline",
    axis: int | tuple[int, ...] | None = None,
    groups: Any = None,
) -> Curve:
    """How far F moves while the most important points of a series are removed: CPD = Σₖ |F(xₖ) − F(xₖ₊₁)|.

    Large is good. Differences are summed, so that points which raise F and points which lower it do not cancel, as
    they do in F(x) − F(x without all of them). Arguments not named here, cost and errors are those of `deletion`.

    Args:
        by: "absolute" in the paper.
        fraction: of the features that is removed in all, at least one; they may be points of time × channel, or points
            of time with `axis`.
        steps: in which they are removed; None for one feature a step, as in the paper. Costs 1 + steps forward passes
            a row.
        target: the paper's norm over all classes is target="all" and `.values.sum(1)`.

    Returns:
        `Curve` of the sum so far over the fraction that is gone; CPD is its `last`.

    Source: Jang, Kim, Yang (2025), TIMING: Temporality-Aware Integrated Gradients for Time Series Explanation.
    """
    return _cumulative(explainer, explanation, target, by, fraction, steps, fill, axis, groups, lowest=False)


def cumulative_preservation(
    explainer: Explainer,
    explanation: Explanation,
    target: Any = None,
    *,
    by: str,
    fraction: float = 0.1,
    steps: int | None = None,
    fill: Any = "baseline",
    axis: int | tuple[int, ...] | None = None,
    groups: Any = None,
) -> Curve:
    """How far F moves while the least important points of a series are removed: CPP, small is good.

    As `cumulative_difference` with the ranking reversed; arguments, cost and errors are the same.

    Source: Jang, Kim, Yang (2025), TIMING: Temporality-Aware Integrated Gradients for Time Series Explanation.
    """
    return _cumulative(explainer, explanation, target, by, fraction, steps, fill, axis, groups, lowest=True)


def _cumulative(explainer, explanation, target, by, fraction, steps, fill, axis, groups, lowest) -> Curve:
    """The sum of |F(xₖ) − F(xₖ₊₁)| so far, as the features with the highest values are removed, or the lowest."""
    number(fraction, "(0, 1]", "a fraction of the features", 0.1)
    ranked = _ranked(explainer, explanation, target, by, axis, groups)
    most = max(1, round(fraction * ranked.count))
    counts = _counts(most, most if steps is None else whole(steps, 1, "steps", 20))
    values = _values(ranked, counts, by, fill, lowest)
    sums = np.cumsum(np.abs(np.diff(values)), -1)
    return Curve(counts / ranked.count, np.concatenate([np.zeros_like(sums[..., :1]), sums], -1))


def _ranked(explainer, explanation, target, by, axis, groups) -> Features:
    """The features that are ranked, of a probe with the targets of the explanation where it has several."""
    checked_by(by)
    probe = Probe(explainer, explanation, target)
    if explanation.several:
        probe.require_same_targets()
    return features(probe, axis, groups)


def _counts(most: int, steps: int) -> np.ndarray:
    """How many features are gone at each point: from none to `most`, in equal steps of at least one."""
    return np.rint(np.linspace(0, most, min(steps, most) + 1)).astype(int)


def _values(
    ranked: Features, counts: np.ndarray, by: str, fill: Any, lowest: bool = False, restore: bool = False
) -> np.ndarray:
    """F with the first features of every ranking replaced, or with all others: (n[, targets], counts).

    There is one ranking for each row, and for each target where the explanation has several. All changed inputs, one
    for each ranking and count, are numbered in one list and evaluated in parts of at most `LIMIT` numbers.
    """
    probe = ranked.probe
    fills, n, k = probe.fill(fill), probe.rows, len(counts)
    rankings = probe.prediction.shape[1] if probe.explanation.several else 1
    outputs = np.empty((n * rankings * k, probe.prediction.shape[1]))
    size = max(1, LIMIT // (ranked.count + sum(x[0].size for x in probe.inputs)))
    for first in range(0, len(outputs), size):
        items = np.arange(first, min(first + size, len(outputs)))
        pairs, step = items // k, items % k
        unique, inverse = np.unique(pairs, return_inverse=True)
        ranks = ranked.ranks(unique // rankings, unique % rankings, by, lowest)[inverse]
        replaced = (ranks < counts[step, None]) ^ restore
        rows = pairs // rankings
        outputs[items] = probe.predict(_with_fills(ranked, fills, rows, replaced), rows)
    outputs = np.moveaxis(outputs.reshape(n, rankings, k, -1), 3, 2)  # (n, rankings, targets, counts)
    if rankings > 1:
        return np.stack([outputs[:, j, j] for j in range(rankings)], 1)
    return probe.without_single_target(outputs[:, 0])


def _with_fills(ranked: Features, fills: list, rows: np.ndarray, replaced: np.ndarray) -> list[np.ndarray]:
    """Inputs (k, *row) of k rows of the explanation, with fills in the place of the features replaced (k, features)."""
    probe, changed = ranked.probe, []
    for i, inputs in enumerate(probe.inputs):
        x = inputs[rows]
        if i in probe.moving:
            fill = fills[i] if len(fills[i]) == 1 else fills[i][rows]
            x = probe.changed(i, np.where(replaced[:, ranked.labels[i]], fill, x))
        changed.append(x)
    return changed


def _normalized(values: np.ndarray, one: int, zero: int) -> np.ndarray:
    """With the value at index `zero` mapped to 0 and that at `one` to 1."""
    low, high = values[..., zero, None], values[..., one, None]
    with np.errstate(divide="ignore", invalid="ignore"):  # ends that are equal give NaN
        return np.where(high == low, np.nan, (values - low) / (high - low))
