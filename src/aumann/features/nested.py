"""Nested structures of arrays: one array, or a list, tuple or dict of them, nested at will, as a model's inputs are.

`walk` visits such structures leaf by leaf, `rebuild` puts new leaves into the old structure, `leaf_at` and `with_entry`
read and replace one leaf.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from aumann.features.protocol import ExplanationLike


def walk(structure: Any, *others: Any, path: str = "") -> Iterator[tuple]:
    """Yields (path, leaf, *the entry of each other structure) for every leaf; the path reads "a/0", or "".

    The others are looked up along `structure`, so their entries at its leaves may themselves be lists or mappings. The
    entry is None where another structure is None, or where its mapping lacks the key.

    Raises:
        ValueError: if another has keys or a length that `structure` has not.
    """
    if not isinstance(structure, Mapping | list | tuple):
        yield path, structure, *others
        return
    keyed = isinstance(structure, Mapping)
    for other in others:
        if not _fits(other, structure):
            wanted = f"keys among {list(structure)}" if keyed else f"a list of {len(structure)}"
            raise ValueError(
                f"Expected {wanted}, like the inputs; received {reprlib.repr(other)}. Give one entry for each input."
            )
    for key in structure if keyed else range(len(structure)):
        children = (other.get(key) if isinstance(other, Mapping) else other and other[key] for other in others)
        yield from walk(structure[key], *children, path=f"{path}/{key}" if path else str(key))


def _fits(other, structure):
    """Whether another structure is None, a mapping among whose keys are no others, or a list of the same length."""
    if other is None:
        return True
    if isinstance(structure, Mapping):
        return isinstance(other, Mapping) and other.keys() <= structure.keys()
    return isinstance(other, list | tuple) and len(other) == len(structure)


def rebuild(structure: Any, leaves: Iterable) -> Any:
    """Returns `structure` with its leaves replaced, in the order of `walk`."""
    leaves = iter(leaves)
    if isinstance(structure, Mapping):
        return {key: rebuild(child, leaves) for key, child in structure.items()}
    if isinstance(structure, list | tuple):
        children = [rebuild(child, leaves) for child in structure]
        return tuple(children) if isinstance(structure, tuple) else children
    return next(leaves)


def leaf_at(path: str, structure: Any, *others: Any) -> list:
    """Returns [leaf, *the entry of each other structure] at a path that `walk` gives."""
    return next(entries for at, *entries in walk(structure, *others) if at == path)


def with_entry(structure: Any, mirror: Any, path: str, entry: Any) -> Any:
    """Returns `mirror`, whose entries belong to the leaves of `structure`, with another entry at one path."""
    return rebuild(structure, (entry if at == path else old for at, _, old in walk(structure, mirror)))


def total(values: np.ndarray, axes: int | tuple[int, ...] | None = None) -> Any:
    """Returns the sum of values in float64, over all axes unless some are given; NaN of infinities of both signs."""
    with np.errstate(invalid="ignore"):  # a warning has told of what is not finite
        return values.sum(axes, dtype=np.float64)


def input_path(
    explanation: ExplanationLike, name: str | None, fits: Callable[[tuple[int, ...]], Any], wanted: str
) -> str:
    """Returns the path of the input called `name`; of the only input whose feature shape fits if `name` is None.

    Args:
        name: as `walk` gives it, or None.
        fits: whether the shape of a row is one that is asked for.
        wanted: the same in words, for the message.

    Raises:
        ValueError: if no input has that name and fits, or if several could be meant.
    """
    rows = {path: value.shape[explanation.prediction.ndim :] for path, value in walk(explanation.values)}
    paths = [path for path, row in rows.items() if fits(row) and name in (None, path)]
    if len(paths) != 1:
        raise ValueError(
            f"Expected one input that is {wanted}; received inputs with feature axes {rows} and input={name!r}. "
            "Name one of them in input=."
        )
    return paths[0]
