"""Baselines that are the same for every row: a constant, or a summary of a background."""

from typing import Any

import numpy as np

from aumann.arguments import whole
from aumann.baselines.given import (
    BaselineFunction,
    background_rows,
    finite_numbers,
    like_row,
    needs,
    one_input,
)
from aumann.core.baselines import Weighted, weighted
from aumann.features import tables


def zeros() -> BaselineFunction:
    """Zero in every feature; of token ids, the zero vector of their embedding.

    Returns:
        inputs -> 0.0
    """
    return constant(0.0)


def constant(value: Any) -> BaselineFunction:
    """One value everywhere, or one for each channel, as a colour.

    Args:
        value: a number, or an array that broadcasts against a row: (channels,) for channels last. Of token ids, an
            integer is an id and a float a constant of the embedding.

    Returns:
        inputs -> the number, or a row.

    Raises:
        ValueError: it is not finite, or does not broadcast.
    """
    numbers = finite_numbers(value, "a constant")

    def make(inputs: Any) -> Any:
        if np.ndim(value) == 0:
            return value
        x, columns = one_input(inputs)
        entries = value if numbers.columns is None else numbers  # of what has no names the dtype stays
        return tables.named(like_row(entries, x.shape[1:], "a constant", columns), columns)

    return make


def mean(background: Any) -> Any:
    """The mean of every feature of a background, as a float.

    Args:
        background: array-like (rows, *row).

    Returns:
        (*row), of a DataFrame a Series

    Raises:
        ValueError, TypeError: the background is empty, not numeric or not finite.
    """
    return tables.like(background, background_rows(background).mean(0, dtype=np.float64))


def median(background: Any) -> Any:
    """The median of every feature of a background, as a float; see `mean`."""
    return tables.like(background, np.median(background_rows(background).astype(np.float64, copy=False), axis=0))


def kmeans(background: Any, count: int, seed: int = 0) -> Weighted:
    """A summary of a background: the centres of its k-means clusters, weighted by how many rows they stand for.

    Costs `count` times the gradients of one baseline.

    Args:
        background: array-like (rows, *row).
        count: clusters, at most as many as rows; no more are made than there are different rows.
        seed: whole number ≥ 0, of the initial centres.

    Returns:
        a set (count, *row), see `weighted`.

    Raises:
        ValueError, TypeError: the background is empty, not numeric, not finite or has fewer than `count` rows.
        ImportError: scikit-learn is not installed.

    Source: Lloyd (1982), Least Squares Quantization in PCM; as a summary of baselines Lundberg, Lee (2017), A Unified
    Approach to Interpreting Model Predictions.
    """
    rows = background_rows(background)
    if whole(count, 1, "count", 8) > len(rows):
        raise ValueError(
            f"Expected at most as many clusters as the background has rows, {len(rows)}; received count={count}. "
            "Lower it."
        )
    with needs("scikit-learn", "kmeans"):
        from sklearn.cluster import KMeans
    flat = rows.reshape(len(rows), -1)
    count = min(count, len(np.unique(flat, axis=0)))  # no cluster is empty
    clusters = KMeans(count, n_init=10, random_state=whole(seed, 0, "seed", 0))
    clusters.fit(flat.astype(np.float64, copy=False))
    centres = tables.like(background, clusters.cluster_centers_.reshape(count, *rows.shape[1:]))
    return weighted(centres, np.bincount(clusters.labels_, minlength=count))
