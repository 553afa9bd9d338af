"""Feature axes: the axes of one row of a leaf, the labels of features, and the input entries that they stand for.

`row` is the shape of one row of an array, without the axis of rows and the axis of targets.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence

import numpy as np

Shape = tuple[int, ...]
Vocabulary = Sequence[str] | Mapping[int, str]  # from a token's id to its text


def feature_axes(axis: int | Sequence[int] | None, rank: int) -> set[int] | None:
    """Returns the feature axes as a set of non-negative ints; None if a leaf of this rank lacks one of them."""
    if axis is None:
        return set(range(rank))
    axes = [operator.index(a) for a in (axis if isinstance(axis, tuple | list) else (axis,))]
    return {a % rank for a in axes} if all(-rank <= a < rank for a in axes) else None


def feature_labels(features: Sequence[str] | None, row: Shape) -> list[str]:
    """Returns a str for every feature of a flattened row: its name, or its position, such as "[3, 4, 0]"."""
    if len(row) == 0:
        return ["value"]
    if len(row) == 1 and features is not None:
        return list(features)
    first = features or range(row[0])
    return [f"[{', '.join(map(str, (first[index[0]], *index[1:])))}]" for index in np.ndindex(*row)]


def embedded(row: Shape, data: np.ndarray) -> bool:
    """Whether values of feature shape `row` explain the integer ids `data` at their embedding."""
    return data.dtype.kind in "iu" and len(row) == data.ndim and row[:-1] == data.shape[1:]


def data_at(row: Shape, data: np.ndarray, axes: Sequence[int | None] | None) -> np.ndarray | None:
    """The entries of the input that values of feature shape `row` stand for.

    Args:
        data: (n, …), the input.
        axes: of the input's row, one for each feature axis; None for the same ones. The axis of an embedding is beyond
            those of its ids.

    Returns:
        (n, *row, …), where the axes that the values were summed over come last; None where values do not stand for
        entries of the input.
    """
    of_input = [a for a in (range(len(row)) if axes is None else axes) if a is not None]
    rank = data.ndim - 1
    if len(of_input) < len(row):
        return None
    if any(a < rank and data.shape[1 + a] != size for a, size in zip(of_input, row, strict=True)):
        return None
    first = [a for a in of_input if a < rank]
    return data.transpose(0, *(1 + a for a in first), *(1 + a for a in range(rank) if a not in first))


def channel_axis(row: Shape) -> int:
    """Returns the axis of the channels in an image of shape `row`: 0 if only that can be, else 2."""
    return 0 if row[0] in (1, 3, 4) and row[-1] not in (1, 3, 4) else 2


def token_text(token: int, vocabulary: Vocabulary) -> str:
    """Returns the text of an id by a list or mapping; the id itself where there is none."""
    try:
        return str(vocabulary[int(token)])
    except (KeyError, IndexError):
        return str(token)
