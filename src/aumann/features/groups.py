"""Groups of features: names, masks or labels, resolved to the number of a group for every feature."""

from __future__ import annotations

import reprlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from aumann.features import tables
from aumann.features.axes import Shape

REST = "(rest)"


def group_labels(groups: Any, lead: Shape, row: Shape, features: Sequence[str] | None) -> tuple[np.ndarray, list[str]]:
    """Returns the number of the group of every feature, and the groups' names.

    Args:
        groups: as `Explanation.sum` takes them, for one input.
        lead: the axes before those of the features, (n,) or (n, targets).
        row: the feature axes.
        features: the names along the first of them, or None.

    Returns:
        Integers (*lead, *row), with 1 for the axes of lead along which the groups are the same; a name for each number.

    Raises:
        ValueError: labels or masks of another shape, a feature in two groups, or a member that does not exist.
    """
    if not isinstance(groups, Mapping):
        labels = _along(groups, features)
        fitted = _fitted(labels, lead, row) if labels.dtype.kind in "iu" else None
        if fitted is None:
            raise ValueError(
                f"Expected a mapping, or integer labels of shape {row}; received {labels.dtype} of shape "
                f"{labels.shape}. Give every feature of a row its label."
            )
        unique, labels = np.unique(fitted, return_inverse=True)
        return labels.reshape(fitted.shape), [str(label) for label in unique]
    names = [str(name) for name in groups]
    masks = [_members(name, members, lead, row, features) for name, members in groups.items()]
    labels = np.full(np.broadcast_shapes((1,) * len(lead) + row, *(mask.shape for mask in masks)), -1)
    for number, (name, mask) in enumerate(zip(names, masks, strict=True)):
        taken = labels[np.broadcast_to(mask, labels.shape)]
        if (taken >= 0).any():
            other = names[taken.max()]
            raise ValueError(f"Expected groups without overlap; {name!r} meets {other!r}. Name each feature once.")
        np.copyto(labels, number, where=mask)
    if (labels < 0).any():
        names += [REST] * (REST not in names)
        labels[labels < 0] = names.index(REST)
    return labels, names


def group_sums(values: np.ndarray, labels: np.ndarray, rank: int, count: int) -> np.ndarray:
    """Returns the sums of a leaf's values within `count` groups, (n[, targets], count), taken in float64.

    Args:
        values: (n[, targets], *row), with `rank` feature axes.
        labels: as `group_labels` gives them.
    """
    lead = values.shape[: values.ndim - rank]
    labels = np.broadcast_to(labels, values.shape)
    sums = np.empty((*lead, count), values.dtype)
    for index in np.ndindex(lead):
        sums[index] = np.bincount(labels[index].ravel(), values[index].ravel(), count)
    return sums


def _along(groups, features):
    """Labels or a mask as an array; a Series or a table is matched with the features by name."""
    names, array = tables.heads(groups), np.asarray(groups)
    if names is None or features is None or array.shape[-1] != len(names):
        return array
    return array[..., tables.order(names, features, "groups", "the features")]


def _fitted(array, lead, row):
    """Returns labels or a mask as (*lead, *row), with 1 for axes of lead that it lacks; None if it does not fit."""
    for depth in range(len(lead) + 1):
        array_lead, array_row = array.shape[:depth], array.shape[depth:]
        missing = len(row) - len(array_row)
        fits = array_lead == lead[:depth] and (array_row or not row) and missing >= 0
        if fits and all(have in (1, size) for have, size in zip(array_row, row, strict=False)):
            array_lead += (1,) * (len(lead) - depth)
            return np.broadcast_to(array.reshape(array_lead + array_row + (1,) * missing), array_lead + row)
    return None


def _members(group, members, lead, row, features):
    """Returns the mask, of shape (*lead, *row) or 1 in lead, of one group's members."""
    mask = np.asarray(members)
    if mask.dtype == bool:
        mask = _along(members, features)
        fitted = _fitted(mask, lead, row)
        if fitted is None:
            raise ValueError(f"Expected a mask of shape {row} for {group!r}; received {mask.shape}. Cover a whole row.")
        return fitted
    positions = {position: [position] for position in range(row[0] if row else 0)}
    for position, name in enumerate(features or ()):
        positions.setdefault(name, []).append(position)
    mask = np.zeros(row, bool)
    for member in np.asarray(members, object).ravel().tolist():
        if member not in positions:
            known = reprlib.repr(list(positions))
            raise ValueError(f"Expected members of {group!r} among {known}; received {member!r}. Check the spelling.")
        mask[positions[member]] = True
    return mask.reshape((1,) * len(lead) + row)
