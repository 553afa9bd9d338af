"""Baselines of each row's own numbers, and the nearest row of another class."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from aumann.baselines.given import (
    BaselineFunction,
    background_rows,
    finite_numbers,
    float_dtype,
    input_axes,
    like_row,
    needs,
    one_input,
    ordered_ends,
)
from aumann.core.baselines import made
from aumann.features import tables


def channel_mean(axis: int = -1) -> BaselineFunction:
    """The mean of each channel of the row itself: its colour, level or composition without its shape.

    Args:
        axis: the channels' axis of inputs (n, …).

    Returns:
        inputs (n, …) -> a row for each.

    Raises:
        ValueError: there is no axis besides rows and channels.
    """

    def make(inputs: Any) -> Any:
        x, columns = one_input(inputs)
        axes = set(range(1, x.ndim)) - set(input_axes((axis,), x.ndim))
        if not axes:
            raise ValueError(
                f"Expected inputs with axes besides rows and channels, received shape {x.shape}. Add the axis of "
                "channels, or take mean() of a background."
            )
        level = x.mean(tuple(axes), keepdims=True, dtype=np.float64)
        return tables.named(np.broadcast_to(level.astype(float_dtype(x)), x.shape), columns)

    return make


def blur(sigma: Any, axes: int | Sequence[int] | None = None) -> BaselineFunction:
    """The row itself under a Gaussian blur, which takes its detail away. Reflected at the edges.

    Args:
        sigma: standard deviation in steps of the axis, such as pixels; one number, or one for each of `axes`.
        axes: which axes of inputs (n, …) are blurred; when omitted all but the first and the last, rows and channels.

    Returns:
        inputs (n, …) -> a row for each.

    Raises:
        ValueError: sigma is negative or not finite, or there is no such axis.
        ImportError: scipy is not installed.

    Source: Fong, Vedaldi (2017), Interpretable Explanations of Black Boxes by Meaningful Perturbation; Sturmfels,
    Lundberg, Lee (2020), Visualizing the Impact of Feature Attribution Baselines.
    """
    widths = finite_numbers(sigma, "sigma")
    if (widths < 0).any() or widths.ndim > 1:
        raise ValueError(
            f"Expected sigma ≥ 0, one number or one for each axis; received {sigma!r}. Give for example 3."
        )

    def make(inputs: Any) -> Any:
        x, columns = one_input(inputs)
        blurred = input_axes(range(1, x.ndim - 1) if axes is None else np.atleast_1d(axes), x.ndim)
        if not blurred or widths.size not in (1, len(blurred)):
            raise ValueError(
                f"Expected axes to blur and one sigma for all or each of them, received inputs of shape {x.shape}, "
                f"axes={axes!r} and sigma={sigma!r}. Of signals without channels, (n, time), give axes=1."
            )
        with needs("scipy", "blur"):
            from scipy.ndimage import gaussian_filter
        width = np.zeros(x.ndim)
        width[list(blurred)] = widths
        return tables.named(gaussian_filter(x.astype(float_dtype(x), copy=False), width), columns)

    return make


def farthest(low: Any, high: Any) -> BaselineFunction:
    """In every feature the end of [low, high] that is farthest from the row: nothing equals its baseline.

    Args:
        low, high: the ends of what the features may be: numbers, or arrays that broadcast against a row. In the middle,
            low is taken.

    Returns:
        inputs (n, …) -> a row for each.

    Raises:
        ValueError: the ends are not finite, not in order, or do not broadcast.

    Source: Sturmfels, Lundberg, Lee (2020), Visualizing the Impact of Feature Attribution Baselines.
    """
    low, high = ordered_ends(low, high)  # floats: no unsigned integer wraps

    def make(inputs: Any) -> Any:
        x, columns = one_input(inputs)
        a, b = (like_row(v, x.shape[1:], name, columns) for v, name in ((low, "low"), (high, "high")))
        return tables.named(np.where(x - a >= b - x, a, b).astype(float_dtype(x)), columns)

    return make


def nearest(
    background: Any, labels: Any, classes: np.ndarray | Callable[[Any], Any], scale: Any = 1.0
) -> BaselineFunction:
    """The nearest row of a background that is of another class: a small change that made it something else.

    Args:
        background: array-like (rows, *row).
        labels: (rows,) classes of the background.
        classes: (n,) classes of the rows to be explained, or a function inputs -> classes, such as the model's own.
        scale: what features are divided by before Euclidean distances are taken: a number, or an array that broadcasts
            against a row, such as the standard deviations of features of different units.

    Returns:
        inputs (n, *row) -> a row of the background for each; of equally near ones the first.

    Raises:
        ValueError, TypeError: the background is not numeric, not finite or does not fit the labels or the inputs; the
            classes do not fit the inputs, or all of the background is of one of them.
        ImportError: scikit-learn is not installed.

    Source: the nearest unlike neighbour, Dasarathy (1995), Nearest Unlike Neighbor (NUN): An Aid to Decision Confidence
    Estimation.
    """
    tables.same_rows(tables.labels(labels), tables.labels(background), "labels", "the background")
    rows, names, labels = background_rows(background), tables.columns(background), np.asarray(labels)
    if labels.shape != (len(rows),):
        raise ValueError(
            f"Expected one label for each row of the background, shape ({len(rows)},); received {labels.shape}. "
            "Give class numbers or names, not one-hot rows."
        )
    widths = finite_numbers(scale, "scale")
    if (widths <= 0).any():
        raise ValueError(f"Expected scale > 0, received {scale!r}. Leave out features that never vary, or divide by 1.")

    def make(inputs: Any) -> Any:
        x, columns = one_input(inputs)
        x_classes = _classes(made(classes, inputs), inputs, x, rows, labels)
        known = rows
        if names is not None and columns is not None:
            known = rows[:, tables.order(names, columns, "the background")]
        units = like_row(widths, x.shape[1:], "scale", columns or names)
        middle = known.mean(0, dtype=np.float64)  # distances are computed from products: better of small numbers
        flat, known_flat = (((a - middle) / units).reshape(len(a), -1) for a in (x, known))
        return tables.named(known[_nearest_unlike(flat, x_classes, known_flat, labels)], columns)

    return make


def _classes(classes: Any, inputs: Any, x: np.ndarray, rows: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The classes (n,) of the inputs; raises ValueError unless they and the inputs fit the background."""
    tables.same_rows(tables.labels(classes), tables.labels(inputs), "classes")
    array = np.asarray(classes)
    if x.shape[1:] != rows.shape[1:] or array.shape != (len(x),):
        raise ValueError(
            f"Expected inputs of shape (n, {', '.join(map(str, rows.shape[1:]))}), as the background has, and "
            f"one class for each, shape (n,); received inputs {x.shape} and classes {array.shape}. Give the classes "
            "of the rows to be explained, or a function of the inputs."
        )
    different = np.unique(array)
    if not any(np.any(labels == c) for c in different):
        raise ValueError(
            f"Expected classes of the rows among the labels of the background, received {different[:10]} and labels "
            f"{np.unique(labels)[:10]}. Name the classes alike."
        )
    return array


def _nearest_unlike(x: np.ndarray, classes: np.ndarray, known: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """For each row of x, the position of the nearest known row whose label is not its class."""
    with needs("scikit-learn", "nearest"):
        from sklearn.metrics import pairwise_distances_argmin
    nearest_rows = np.empty(len(x), int)
    for c in np.unique(classes):
        others = np.flatnonzero(labels != c)
        if not len(others):
            raise ValueError(f"Expected rows of another class than {c!r} in the background, received none. Add some.")
        nearest_rows[classes == c] = others[pairwise_distances_argmin(x[classes == c], known[others])]
    return nearest_rows
