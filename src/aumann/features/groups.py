"""Groups of features: names, masks or labels, resolved to the number of a group for every feature."""

import reprlib
from collections.abc import Mapping

import numpy as np

from aumann.features import tables

REST = "(rest)"


def group_labels(groups, lead, row, features):
    """Returns the group of every feature as numbers, of shape (*lead, *row) or 1 in lead, and the groups' names."""
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
        before = labels[np.broadcast_to(mask, labels.shape)]
        if (before >= 0).any():
            other = names[before.max()]
            raise ValueError(f"Expected groups without overlap; {name!r} meets {other!r}. Name each feature once.")
        np.copyto(labels, number, where=mask)
    if (labels < 0).any():
        names += [REST] * (REST not in names)
        labels[labels < 0] = names.index(REST)
    return labels, names


def group_sums(value, labels, rank, count):
    """Returns the sums of a leaf's values, with `rank` feature axes, within `count` groups: (n[, targets], count)."""
    lead = value.shape[: value.ndim - rank]
    labels = np.broadcast_to(labels, value.shape)
    sums = np.empty((*lead, count), value.dtype)
    for at in np.ndindex(lead):
        sums[at] = np.bincount(labels[at].ravel(), value[at].ravel(), count)
    return sums


def _along(groups, features):
    """Labels or a mask as an array; a Series or a table is matched with the features by name."""
    own, array = tables.heads(groups), np.asarray(groups)
    if None in (own, features) or array.shape[-1] != len(own):
        return array
    return array[..., tables.order(own, features, "groups", "the features")]


def _fitted(array, lead, row):
    """Returns labels or a mask as (*lead, *row), with 1 for axes of lead that it has not; None if it does not fit."""
    for depth in range(len(lead) + 1):
        own, places = array.shape[:depth], array.shape[depth:]
        short = len(row) - len(places)
        fits = own == lead[:depth] and (places or not row) and short >= 0
        if fits and all(place in (1, size) for place, size in zip(places, row, strict=False)):
            own += (1,) * (len(lead) - depth)
            return np.broadcast_to(array.reshape(own + places + (1,) * short), own + row)
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
    places = {place: [place] for place in range(row[0] if row else 0)}
    for place, name in enumerate(features or ()):
        places.setdefault(name, []).append(place)
    mask = np.zeros(row, bool)
    for member in np.asarray(members, object).ravel().tolist():
        if member not in places:
            known = reprlib.repr(list(places))
            raise ValueError(f"Expected members of {group!r} among {known}; received {member!r}. Check the spelling.")
        mask[places[member]] = True
    return mask.reshape((1,) * len(lead) + row)
