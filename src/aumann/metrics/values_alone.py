"""Metrics of the values alone: no model is called."""

import importlib
from dataclasses import dataclass

import numpy as np

from aumann.arguments import choice, number
from aumann.explanation import Explanation, embedded, walk


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


def completeness(explanation):
    """The residual of every row as a part of what was to be shared out, and of what was shared out.

    No forward passes. A necessary check and no estimate of the error: `Explanation.error` is one.

    Args:
        explanation: an `aumann.Explanation`.

    Returns:
        `Completeness`.

    Source: Sundararajan, Taly, Yan (2017), Axiomatic Attribution for Deep Networks.
    """
    e = checked(explanation)
    mass = sum(np.abs(leaf.values).sum(leaf.axes, dtype=np.float64) for leaf in leaves(e))
    off = np.abs(e.residual)
    return Completeness(e.residual, ratio(off, np.abs(e.prediction - e.base_value)), ratio(off, mass))


def sparseness(explanation, *, axis=None):
    """The Gini index of |φ| over all features that move: 0 where all are alike, near 1 where one has everything.

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
    flat = [np.abs(leaf.values).reshape(*shape, -1) for leaf in leaves(e) if leaf.moves]
    sizes = np.sort(np.concatenate(flat, -1).astype(np.float64), -1)
    count = sizes.shape[-1]
    share = (count - np.arange(count) - 0.5) / count
    with np.errstate(invalid="ignore"):  # 0 / 0: values that are all zero have no sparseness, NaN
        return 1 - 2 * (sizes @ share) / sizes.sum(-1)


def pointing_game(explanation, mask, *, by, axis=None, tolerance=0.0):
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
    shape = e.prediction.shape
    masks, inside = [], np.zeros(len(e), bool)
    for path, values, own in walk(e.values, mask):
        row = values.shape[len(shape) :]
        own = np.zeros((len(e), *row), bool) if own is None else np.asarray(own)
        if own.shape != (len(e), *row) or own.dtype != bool:
            raise ValueError(
                f"Expected a mask of booleans of shape {(len(e), *row)}{f' for input {path!r}' if path else ''}, "
                f"received {own.dtype} of shape {own.shape}. Sum the channels with axis=, or compare the mask with 0."
            )
        inside |= own.reshape(len(e), -1).any(1)
        masks.append((size(values), own))
    if not inside.all():
        raise ValueError(
            f"Expected a mask with at least one True for every row, received none for rows "
            f"{np.flatnonzero(~inside).tolist()[:10]}. Leave out rows without the object: explanation[rows]."
        )
    hits = np.empty(shape)
    for index in np.ndindex(*shape):
        top = max(values[index].max() for values, _ in masks)
        near = [
            _near(np.argwhere(values[index] == top), np.argwhere(own[index[0]]), tolerance) for values, own in masks
        ]
        hits[index] = np.concatenate(near).mean()
    return hits


def _near(points, places, tolerance):
    """Whether each of some points is at most so far from one of the places."""
    if not len(places):
        return np.zeros(len(points), bool)
    return np.array([((places - p) ** 2).sum(1).min() <= tolerance**2 for p in points], bool)


# ---- shared by all metrics -----------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Leaf:
    """One input of an explanation.

    Attributes:
        values: (n[, targets], *row).
        axes: axes of a row in `values`.
        moves: whether it is among the features: held inputs, whose baseline they are themselves, are not.
        embedded: whether the values of token ids stand at their embedding.
    """

    values: np.ndarray
    axes: tuple
    moves: bool
    embedded: bool


def leaves(explanation):
    """The inputs of an explanation, in the order of `walk`."""
    lead = explanation.prediction.ndim
    found = []
    for _, values, inputs, baseline in walk(explanation.values, explanation.inputs, explanation.baseline):
        held = baseline is not None and baseline.shape == inputs.shape and np.array_equal(baseline, inputs)
        axes = tuple(range(lead, values.ndim))
        found.append(Leaf(values, axes, not held, embedded(values.shape[lead:], inputs)))
    return found


def checked(explanation):
    if not isinstance(explanation, Explanation):
        raise TypeError(
            f"Expected an aumann.Explanation, received {type(explanation).__name__}. Give what explain() returned."
        )
    return explanation


def checked_by(by):
    return choice(by, ("signed", "absolute"), "by", "Say whether values count as they are or by size.")


def ratio(part, whole):
    """part / whole; 0 where both vanish, infinity where only the whole does."""
    with np.errstate(divide="ignore", invalid="ignore"):  # both kinds of zero are answered
        return np.where(part == 0, 0.0, part / whole)


def optional(module, package, what):
    """A module that only some metrics need."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(f"Expected {package} for {what}, which is not installed. pip install {package}.") from error
