"""Sequences: bars over positions, or a long series over a coloured background."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from aumann.features.axes import token_text
from aumann.plots import style
from aumann.plots.style import Row


def draw(figure: Figure, axes: Sequence[Axes], row: Row) -> None:
    """Draws the values of each position of a row, summed over all other feature axes.

    The positions stand on the first axis where features have names or where the values have more axes than the data,
    as embedded tokens do; else on the longest.

    Args:
        axes: one for each target.
    """
    values, data = row.values, row.data
    shape = values.shape[1:]
    axis = 0 if row.features is not None or data.ndim < len(shape) else int(np.argmax(shape))
    heat = np.moveaxis(values, 1 + axis, 1).reshape(len(values), shape[axis], -1).sum(-1)
    length = shape[axis]
    labels: Iterable = range(length) if row.features is None else row.features
    if row.features is None and data.dtype.kind in "iu" and data.shape == (length,):
        labels = data if row.vocabulary is None else [token_text(token, row.vocabulary) for token in data]
    series = data.dtype.kind == "f" and data.shape[axis : axis + 1] == (length,) and length > style.READABLE
    for ax, of_target in zip(axes, heat, strict=True):
        if series:
            lines = np.moveaxis(data, axis, 0).reshape(length, -1)
            lines = lines if lines.shape[1] <= 8 else lines.mean(1)
            background = _coloured_lines(ax, of_target, lines, style.scale(heat))
        else:
            ax.bar(range(length), of_target, color=style.colours(of_target))
            ax.axhline(0, color="black", linewidth=0.8)
            ax.set_ylabel(row.meaning, fontsize=7)
        style.set_ticks(ax.yaxis, 5)
        ax.set_xlim(-0.5, length - 0.5)
        if length <= style.READABLE:
            names = [style.short(label, 14) for label in labels]
            ax.set_xticks(range(length), names, fontsize=7, rotation=90, parse_math=False)
        else:
            style.set_ticks(ax.xaxis, 8)
            ax.set_xlabel("position", fontsize=8)
    if series:
        style.colour_bar(figure, background, axes[-1], row.meaning)


def _coloured_lines(ax, values, lines, limit):
    """Draws the input's lines over a background with the values' colours, which it returns for the colour bar."""
    across = {"aspect": "auto", "extent": (-0.5, len(values) - 0.5, 0, 1), "transform": ax.get_xaxis_transform()}
    background = ax.imshow(values[None], cmap=style.MAP, vmin=-limit, vmax=limit, **across)
    ax.plot(lines, color="black", linewidth=0.9, path_effects=[withStroke(linewidth=2.5, foreground="white")])
    ax.set_ylabel("input", fontsize=8)
    return background
