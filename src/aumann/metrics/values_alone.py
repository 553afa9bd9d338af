"""Metrics of the values alone: no model is called."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from aumann.arguments import number
from aumann.explanation import Explanation, walk
from aumann.metrics.common import checked, checked_by, input_values, ratio


@dataclass(frozen=True, eq=False)
class Completeness:
    """How much of F(x) − F(x′) the values of every row miss; arrays shaped like the prediction.

    Attributes:
        residual: Σφ − (F(x) − F(x′)), in units of F.
        of_difference: |residual| / |F(x) − F(x′)|; 0 where both vanish.
        of_mass: |residual| / Σ|φ|; 0 where both vanish.
    """

    residual: np.ndarray
    of_difference: np.ndarray
    of_mass: np.ndarray


def completeness(explanation: Explanation) -> Completeness:
    """The residual of every row as a part of F(x) − F(x′), and as a part of the values.

    Costs no forward passes. Exact values have a small residual, but a small residual does not make values exact;
    `Explanation.error` estimates their error.

    Args:
        explanation: an `aumann.Explanation`.

    Returns:
        `Completeness`.

    Source: Sundararajan, Taly, Yan (2017), Axiomatic Attribution for Deep Networks.
    """
    e = checked(explanation)
    mass = sum(np.abs(part.values).sum(part.axes, dtype=np.float64) for part in input_values(e))
    size = np.abs(e.residual)
    return Completeness(e.residual, ratio(size, np.abs(e.prediction - e.base_value)), ratio(size, mass))


def sparseness(explanation: Explanation, *, axis: int | tuple[int, ...] | None = None) -> np.ndarray:
    """The Gini index of |φ| over all features that move: 0 if all are equal, near 1 if one has all.

    G = 1 − 2 Σₖ |φ₍ₖ₎| / Σ|φ| · (N − k + ½) / N, the values in ascending order, k = 1 … N; at most 1 − 1/N. No forward
    passes.

    Args:
        explanation: an `aumann.Explanation`.
        axis: feature axes that are summed first, as in `Explanation.sum`: -1 makes one feature of a pixel's channels.

    Returns:
        (n,) or (n, targets); NaN where all values are 0.

    Source: Hurley, Rickard (2009), Comparing Measures of Sparsity; Chalasani et al. (2020), Concise Explanations of
    Neural Networks using Adversarial Training.
    """
    e = checked(explanation)
    e = e if axis is None else e.sum(axis=axis)
    shape = e.prediction.shape
    flat = [np.abs(part.values).reshape(*shape, -1) for part in input_values(e) if part.moves]
    sizes = np.sort(np.concatenate(flat, -1).astype(np.float64), -1)
    count = sizes.shape[-1]
    share = (count - np.arange(count) - 0.5) / count
    with np.errstate(invalid="ignore"):  # 0 / 0: values that are all zero have no sparseness, NaN
        return 1 - 2 * (sizes @ share) / sizes.sum(-1)


def pointing_game(
    explanation: Explanation,
    mask: Any,
    *,
    by: str,
    axis: int | tuple[int, ...] | None = None,
    tolerance: float = 0.0,
) -> np.ndarray:
    """Whether the largest value of a row lies in its mask. The mean over rows is the accuracy of the pointing game.

    No forward passes.

    Args:
        explanation: an `aumann.Explanation`.
        mask: (n, …) booleans of the shape of the values after `axis`, True where the object is; for several inputs a
            list or dict like them, in which absent inputs and None hold no part of the object.
        by: "signed" or "absolute": the largest of the values, or of their sizes after `axis`.
        axis: feature axes that are summed first, as in `Explanation.sum`: -1 makes one feature of a pixel's channels.
        tolerance: Euclidean distance from the mask, in pixels, that still counts; 15 in the paper.

    Returns:
        (n,) or (n, targets): 1 for a hit, 0 for a miss; where several features share the maximum, the part of them
        that hits.

    Raises:
        ValueError: the mask has another shape, or is empty for a row, which then has nothing to point at.

    Source: Zhang et al. (2018), Top-Down Neural Attention by Excitation Backprop.
    """
    e = checked(explanation)
    e = e if axis is None else e.sum(axis=axis)
    size = {"signed": np.asarray, "absolute": np.abs}[checked_by(by)]
    number(tolerance, "[0, inf]", "a tolerance", 15, "in pixels")
    lead = e.prediction.shape
    pairs = _sizes_and_masks(e, mask, size)
    hits = np.empty(lead)
    for index in np.ndindex(*lead):
        top = max(values[index].max() for values, _ in pairs)
        near = [
            _near(np.argwhere(values[index] == top), np.argwhere(inside[index[0]]), tolerance)
            for values, inside in pairs
        ]
        hits[index] = np.concatenate(near).mean()
    return hits


def _sizes_and_masks(
    e: Explanation, mask: Any, size: Callable[[np.ndarray], np.ndarray]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """For every input the sizes of its values, and its mask (n, *row); raises ValueError if the mask does not fit."""
    lead = e.prediction.ndim
    pairs, any_inside = [], np.zeros(len(e), bool)
    for path, values, inside in walk(e.values, mask):
        shape = (len(e), *values.shape[lead:])
        inside = np.zeros(shape, bool) if inside is None else np.asarray(inside)
        if inside.shape != shape or inside.dtype != bool:
            raise ValueError(
                f"Expected a mask of booleans of shape {shape}{f' for input {path!r}' if path else ''}, "
                f"received {inside.dtype} of shape {inside.shape}. Sum the channels with axis=, or compare the mask "
                "with 0."
            )
        any_inside |= inside.reshape(len(e), -1).any(1)
        pairs.append((size(values), inside))
    if not any_inside.all():
        raise ValueError(
            f"Expected a mask with at least one True for every row, received none for rows "
            f"{np.flatnonzero(~any_inside).tolist()[:10]}. Leave out rows without the object: explanation[rows]."
        )
    return pairs


def _near(points: np.ndarray, inside: np.ndarray, tolerance: float) -> np.ndarray:
    """Whether each of some points (k, axes) is at most so far from one of those inside a mask."""
    if not len(inside):
        return np.zeros(len(points), bool)
    return np.array([((inside - p) ** 2).sum(1).min() <= tolerance**2 for p in points], bool)
