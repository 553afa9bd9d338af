"""Images: the input beside a heat map for each target."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from aumann.features.axes import channel_axis
from aumann.plots import style
from aumann.plots.style import Row


def draw(figure: Figure, axes: Sequence[Axes], row: Row) -> None:
    """Draws the image of a row, and its values summed over channels.

    Args:
        axes: one for the input and one for each target.
        row: with values (targets, H, W), (targets, H, W, C) or (targets, C, H, W). An input of other shape than (H, W),
            (H, W, C) or (C, H, W) is not shown.
    """
    heat = row.values
    if heat.ndim == 4:
        heat = heat.sum(1 + channel_axis(heat.shape[1:]))
    limit = style.scale(heat)
    if row.data.ndim in (2, 3):
        axes[0].imshow(_pixels(row.data), cmap="gray")
    for ax, of_target in zip(axes[1:], heat, strict=True):
        shown = ax.imshow(of_target, cmap=style.MAP, vmin=-limit, vmax=limit)
    for ax in axes:
        ax.set_xticks([])
        ax.set_yticks([])
    style.colour_bar(figure, shown, axes[-1], row.meaning)


def _pixels(data):
    """An image as matplotlib shows it: grey (H, W) or (H, W, 3) within [0, 1]."""
    if data.ndim == 3:
        data = np.moveaxis(data, channel_axis(data.shape), -1)
        data = data[..., :3] if data.shape[-1] in (3, 4) else data.mean(-1)
    data = data.astype(np.float64)
    low, high = data.min(), data.max()
    if low >= 0 and (high <= 1 or 16 < high <= 255):
        return data / (255 if high > 1 else 1)
    return (data - low) / (high - low or 1)
