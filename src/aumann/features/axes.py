"""Feature axes: the axes of one row of a leaf, the labels of features, and the input entries that they stand for.

`row` is the shape of one row of an array, without the axis of rows and the axis of targets.
"""

import operator

import numpy as np


def feature_axes(axis, rank):
    """Returns the feature axes as a set of non-negative ints; None if a leaf of this rank lacks one of them."""
    if axis is None:
        return set(range(rank))
    axes = [operator.index(a) for a in (axis if isinstance(axis, tuple | list) else (axis,))]
    return {a % rank for a in axes} if all(-rank <= a < rank for a in axes) else None


def feature_labels(features, row) -> list[str]:
    """Returns a str for every feature of a flattened row: its name, or its place, such as "[3, 4, 0]"."""
    if len(row) == 0:
        return ["value"]
    if len(row) == 1 and features is not None:
        return list(features)
    first = features or range(row[0])
    return [f"[{', '.join(map(str, (first[place[0]], *place[1:])))}]" for place in np.ndindex(*row)]


def embedded(row, data) -> bool:
    """Whether values of feature shape `row` explain the integer ids `data` at their embedding."""
    return data.dtype.kind in "iu" and len(row) == data.ndim and row[:-1] == data.shape[1:]


def data_at(row, data, axes):
    """The data at the places of values of feature shape `row`: (n, *row, …), what they were summed over standing last.

    Args:
        data: (n, …), the input.
        axes: of the input's row, one for each feature axis; None for the same ones. Those of an embedding lie beyond.

    Returns:
        None where values do not stand at places of the input.
    """
    axes, rank = list(range(len(row)) if axes is None else axes), data.ndim - 1
    if None in axes or any(a < rank and data.shape[1 + a] != size for a, size in zip(axes, row, strict=True)):
        return None
    axes = [a for a in axes if a < rank]
    return data.transpose(0, *(1 + a for a in axes), *(1 + a for a in range(rank) if a not in axes))


def channel_axis(row) -> int:
    """Returns the axis of the channels in an image of shape `row`: 0 if only that can be, else 2."""
    return 0 if row[0] in (1, 3, 4) and row[-1] not in (1, 3, 4) else 2


def token_text(token, vocabulary) -> str:
    """Returns the text of an id by a list or mapping; the id itself where there is none."""
    try:
        return str(vocabulary[int(token)])
    except (KeyError, IndexError):
        return str(token)
