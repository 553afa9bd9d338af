"""F while ranked features are taken away, or given: deletion and insertion, cumulative differences."""

from dataclasses import dataclass

import numpy as np

from aumann.arguments import choice, number, whole
from aumann.metrics.probe import LIMIT, Probe, features
from aumann.metrics.values_alone import checked_by


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
    def auc(self):
        """Area under each curve by trapezoids, over the range of the fractions: (n,) or (n, targets)."""
        v = self.values
        return ((v[..., 1:] + v[..., :-1]) / 2 * np.diff(self.fractions)).sum(-1)

    @property
    def last(self):
        """The value at the last fraction: (n,) or (n, targets)."""
        return self.values[..., -1]

    def aggregate(self, how="median"):
        """One curve for all rows, point by point: "median" or "mean". Rows of NaN are left out."""
        choice(how, ("median", "mean"), "how")
        rows = self.values[~np.isnan(self.values).reshape(len(self.values), -1).any(1)]
        if not len(rows):
            raise ValueError("Expected at least one row without NaN, received none. See what the rows lack.")
        return Curve(self.fractions, getattr(np, how)(rows, axis=0))


def deletion(
    explainer,
    explanation,
    target=None,
    *,
    by,
    steps=20,
    fill="baseline",
    axis=None,
    groups=None,
    normalize=False,
):
    """F while the features with the highest values are removed first. A small area: the ranking finds what carries F.

    The features of all inputs that move are ranked together. Costs 1 + steps forward passes a row (and ranking), and
    two more for target="predicted"; changed inputs are made 4 million numbers at a time.

    Args:
        explainer: whose `predict` is F: the one that made the explanation, or one of another output of its model.
        explanation: an `aumann.Explanation`. Each of several targets is ranked by itself, at `targets` times the cost.
        target: as in `explain`; "predicted" is the class of the inputs as they are, whatever becomes of them. Several
            targets for an explanation of one: a curve for each by the same ranking.
        by: "signed" removes the highest values first, "absolute" the largest.
        steps: points of the curve after the first, equal parts of the features; one feature a step where there are
            fewer features.
        fill: what stands in the place of a removed feature: "baseline" for the explanation's own, or a constant, a row,
            one row per row, a callable inputs -> fill (a blurred copy, say); a list or dict for several inputs. Token
            ids need an id.
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
    probe, own = _ranked(explainer, explanation, target, by, axis, groups)
    counts = _counts(own.count, whole(steps, 1, "steps", 20))
    values = _values(probe, own, counts, by, fill)
    return Curve(counts / own.count, _normalized(values, 0, -1) if normalize else values)


def insertion(
    explainer,
    explanation,
    target=None,
    *,
    by,
    steps=20,
    fill="baseline",
    axis=None,
    groups=None,
    normalize=False,
):
    """F while the features with the highest values are restored first. A large area: the ranking finds what carries F.

    Begins where every feature that moves is replaced. Arguments, cost and errors are those of `deletion`.

    Returns:
        `Curve` over the fraction of the features that is back.

    Source: Petsiuk, Das, Saenko (2018), RISE: Randomized Input Sampling for Explanation of Black-box Models.
    """
    probe, own = _ranked(explainer, explanation, target, by, axis, groups)
    counts = _counts(own.count, whole(steps, 1, "steps", 20))
    values = _values(probe, own, counts, by, fill, restore=True)
    return Curve(counts / own.count, _normalized(values, -1, 0) if normalize else values)


def cumulative_difference(
    explainer,
    explanation,
    target=None,
    *,
    by,
    fraction=0.1,
    steps=None,
    fill="baseline",
    axis=None,
    groups=None,
):
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
    explainer,
    explanation,
    target=None,
    *,
    by,
    fraction=0.1,
    steps=None,
    fill="baseline",
    axis=None,
    groups=None,
):
    """How far F moves while the least important points of a series are removed: CPP, small is good.

    As `cumulative_difference` with the ranking turned round.

    Source: Jang, Kim, Yang (2025), TIMING: Temporality-Aware Integrated Gradients for Time Series Explanation.
    """
    return _cumulative(explainer, explanation, target, by, fraction, steps, fill, axis, groups, lowest=True)


def _cumulative(explainer, explanation, target, by, fraction, steps, fill, axis, groups, lowest):
    number(fraction, "(0, 1]", "a fraction of the features", 0.1)
    probe, own = _ranked(explainer, explanation, target, by, axis, groups)
    most = max(1, round(fraction * own.count))
    counts = _counts(most, most if steps is None else whole(steps, 1, "steps", 20))
    values = _values(probe, own, counts, by, fill, lowest)
    sums = np.cumsum(np.abs(np.diff(values)), -1)
    return Curve(counts / own.count, np.concatenate([np.zeros_like(sums[..., :1]), sums], -1))


def _ranked(explainer, explanation, target, by, axis, groups):
    checked_by(by)
    probe = Probe(explainer, explanation, target)
    if explanation.several:
        probe.same_targets()
    return probe, features(probe, axis, groups)


def _counts(most, steps):
    """How many features are gone at each point: from none to `most`, in equal steps of at least one."""
    return np.rint(np.linspace(0, most, min(steps, most) + 1)).astype(int)


def _values(probe, own, counts, by, fill, lowest=False, restore=False):
    """F with the first features of every ranking replaced, or with all others: (n[, targets], counts)."""
    fills, n, k = probe.fill(fill), probe.rows, len(counts)
    rankings = probe.prediction.shape[1] if probe.explanation.several else 1
    found = np.empty((n * rankings * k, probe.prediction.shape[1]))
    size = max(1, LIMIT // (own.count + sum(x[0].size for x in probe.inputs)))
    for first in range(0, len(found), size):
        items = np.arange(first, min(first + size, len(found)))
        pairs, step = items // k, items % k
        unique, inverse = np.unique(pairs, return_inverse=True)
        ranks = own.ranks(unique // rankings, unique % rankings, by, lowest)[inverse]
        replaced = (ranks < counts[step, None]) ^ restore
        rows, leaves = pairs // rankings, []
        for i, x in enumerate(probe.inputs):
            leaf = x[rows]
            if i in probe.moving:
                other = fills[i] if len(fills[i]) == 1 else fills[i][rows]
                leaf = probe.changed(i, np.where(replaced[:, own.labels[i]], other, leaf))
            leaves.append(leaf)
        found[items] = probe.predict(leaves, rows)
    found = np.moveaxis(found.reshape(n, rankings, k, -1), 3, 2)  # (n, rankings, targets, counts)
    if rankings > 1:
        return np.stack([found[:, j, j] for j in range(rankings)], 1)
    return probe.one(found[:, 0])


def _normalized(values, one, zero):
    """With the value at place `zero` mapped to 0 and that at `one` to 1."""
    low, high = values[..., zero, None], values[..., one, None]
    with np.errstate(divide="ignore", invalid="ignore"):  # ends that are equal give NaN
        return np.where(high == low, np.nan, (values - low) / (high - low))
