"""Tables: the largest values of a row as bars."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from aumann.features.axes import feature_labels, token_text
from aumann.plots import style
from aumann.plots.style import Row

TOP = 20  # bars of a table, besides the rest
LABEL = 32  # characters of a feature's name


def draw(figure: Figure, axes: Sequence[Axes], row: Row) -> None:
    """Draws the `TOP` largest values of a row by magnitude, and the sum of the rest.

    The entries of the input stand beside the labels where it has the shape of the values.

    Args:
        axes: one for each target.
    """
    labels = [style.short(label, LABEL) for label in feature_labels(row.features, row.values.shape[1:])]
    if row.data.shape == row.values.shape[1:]:
        entries: Sequence = list(row.data.ravel())
        if row.vocabulary is not None and row.data.dtype.kind in "iu":
            entries = [token_text(token, row.vocabulary) for token in entries]
        labels = [f"{label} = {_entry(entry)}" for label, entry in zip(labels, entries, strict=True)]
    for ax, of_target in zip(axes, row.values.reshape(len(row.values), -1), strict=True):
        order = np.argsort(-np.abs(of_target), kind="stable")
        lengths, names = list(of_target[order[:TOP]]), [labels[i] for i in order[:TOP]]
        if len(order) > TOP:
            lengths.append(of_target[order[TOP:]].sum(dtype=np.float64))
            names.append(f"rest ({len(order) - TOP} features)")
        ax.barh(range(len(lengths)), lengths, color=style.colours(lengths))
        ax.set_yticks(range(len(names)), names, fontsize=7, parse_math=False)
        ax.set_ylim(len(names) - 0.4, -0.6)
        ax.axvline(0, color="black", linewidth=0.8)
        ax.set_xlabel(row.meaning, fontsize=8)
        style.set_ticks(ax.xaxis, 5)


def _entry(entry: Any) -> str:
    return f"{entry:.4g}" if np.issubdtype(np.asarray(entry).dtype, np.floating) else style.short(entry, 12)
