"""Tables: the largest values of a row as bars."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from aumann.features.axes import feature_labels, token_text
from aumann.plots import style

TOP = 20  # bars of a table, besides the rest
LABEL = 32  # characters of a feature's name


def draw(
    figure: Figure,
    axes: Sequence[Axes],
    values: np.ndarray,
    data: np.ndarray,
    features: Sequence[str] | None,
    vocabulary: Sequence[str] | Mapping[int, str] | None,
    meaning: str,
) -> None:
    """Draws the `TOP` largest values of one row by magnitude, and the sum of the rest.

    Args:
        axes: one for each target.
        values: (targets, *row).
        data: the input's row; its entries stand beside the labels where it has the shape of the values.
        features: names of the features, or None.
        vocabulary: from token id to text, or None.
        meaning: what a bar's length is.
    """
    row = values.shape[1:]
    labels = [style.short(label, LABEL) for label in feature_labels(features, row)]
    if data.shape == row:
        entries: Sequence = list(data.ravel())
        if vocabulary is not None and data.dtype.kind in "iu":
            entries = [token_text(token, vocabulary) for token in entries]
        labels = [f"{label} = {_entry(entry)}" for label, entry in zip(labels, entries, strict=True)]
    for ax, of_target in zip(axes, values.reshape(len(values), -1), strict=True):
        order = np.argsort(-np.abs(of_target), kind="stable")
        lengths, names = list(of_target[order[:TOP]]), [labels[i] for i in order[:TOP]]
        if len(order) > TOP:
            lengths.append(of_target[order[TOP:]].sum(dtype=np.float64))
            names.append(f"rest ({len(order) - TOP} features)")
        ax.barh(range(len(lengths)), lengths, color=style.colours(lengths))
        ax.set_yticks(range(len(names)), names, fontsize=7, parse_math=False)
        ax.set_ylim(len(names) - 0.4, -0.6)
        ax.axvline(0, color="black", linewidth=0.8)
        ax.set_xlabel(meaning, fontsize=8)
        style.set_ticks(ax.xaxis, 5)


def _entry(entry: Any) -> str:
    return f"{entry:.4g}" if np.issubdtype(np.asarray(entry).dtype, np.floating) else style.short(entry, 12)
