"""Which features interactions are asked for: by name, position or group, as positions among all features."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import tree

from aumann.explain.problem import Problem
from aumann.features.axes import feature_labels
from aumann.features.groups import group_labels
from aumann.features.nested import walk
from aumann.model.oracle import Oracle

WIDEST = 2048  # features of a full matrix


@dataclass(frozen=True, eq=False)
class Chosen:
    """The features whose interactions are asked for.

    Attributes:
        names: of all features, those of all moving inputs, flattened, or of their groups.
        positions: (chosen,), among them.
        groups: (features,), the group of each feature, or None.
    """

    names: tuple[str, ...]
    positions: np.ndarray
    groups: np.ndarray | None


def choose(problem: Problem, features: Any, groups: Any) -> Chosen:
    """`Chosen` by what `IntegratedHessians.explain` is given."""
    names, labels = _features(problem, groups)
    return Chosen(names, _positions(features, names, problem.oracle, groups is not None), labels)


def _features(problem: Problem, groups: Any) -> tuple[tuple[str, ...], np.ndarray | None]:
    """Names of the features of all moving inputs, flattened, or of their groups, and the group of each feature."""
    o = problem.oracle
    leaves = o.leaves_of_moving
    numbers = tree.pack_sequence_as(problem.structure, list(range(len(problem.leaves))))
    by_leaf = {leaf: group for _, leaf, group in walk(numbers, groups)}
    if groups is not None and (o.by_name or len(leaves) != len(set(leaves))):
        raise ValueError(
            "Expected groups of inputs that one layer each reads, received an input that several read, or a layer that "
            "reads several. Choose one with layer=."
        )
    names, labels = [], []
    points = o.labels if o.by_name else [o.names[leaf] for leaf in leaves]
    for leaf, shape, point in zip(leaves, o.shapes, points, strict=True):
        features, group = problem.leaves[leaf].features, by_leaf[leaf]
        features = features if shape and len(features or ()) == shape[0] else None
        if group is None:
            of_point, which = feature_labels(features, shape), np.arange(math.prod(shape))
        else:
            which, of_point = group_labels(group, (1,), shape, features)
            which = which.ravel()
        labels.append(which + len(names))
        names += of_point if len(leaves) == 1 else [f"{point} {name}" for name in of_point]
    return tuple(names), None if groups is None else np.concatenate(labels)


def _positions(features: Any, names: tuple[str, ...], oracle: Oracle, grouped: bool) -> np.ndarray:
    """Positions of the chosen features, or groups, among all."""
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
    return np.array([_position(item, names, oracle, grouped) for item in items])


def _position(item: Any, names: tuple[str, ...], oracle: Oracle, grouped: bool) -> int:
    if isinstance(item, str) and names.count(item) == 1:
        return names.index(item)
    if isinstance(item, tuple) and not grouped:
        item = _flattened(item, oracle)
    if isinstance(item, (int, np.integer)) and not isinstance(item, bool) and -len(names) <= item < len(names):
        return int(item) % len(names)
    raise ValueError(
        f"Expected a feature, or a list of them: a position between 0 and {len(names) - 1}, one of the names "
        f"{list(names[:8])}{'…' if len(names) > 8 else ''}, or a tuple index into a row; received {item!r}. "
        "Interactions.features has the names."
    )


def _flattened(index: tuple, oracle: Oracle) -> Any:
    """The position of a tuple index into a row, or of one that begins with the name or number of an input."""
    leaves = oracle.leaves_of_moving
    point, within = (0, index) if len(leaves) == 1 else (None, index[1:])
    if len(leaves) > 1 and index:
        leaf = oracle.names.index(index[0]) if index[0] in oracle.names else index[0]
        point = leaves.index(leaf) if leaves.count(leaf) == 1 else None
    if point is None or len(within) != len(oracle.shapes[point]):
        return index
    try:
        position = np.ravel_multi_index(
            tuple(i % n if -n <= i < n else n for i, n in zip(within, oracle.shapes[point], strict=True)),
            oracle.shapes[point],
        )
    except (TypeError, ValueError):
        return index
    return int(position) + sum(math.prod(shape) for shape in oracle.shapes[:point])
