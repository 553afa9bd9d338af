"""What all pictures share: colours and their scale, lengths of texts, ticks, titles and colour bars."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from aumann.features.axes import Vocabulary

MAP = colormaps["RdBu_r"]
RED, BLUE = MAP(0.85), MAP(0.15)
MEANING = "value (red raises, blue lowers)"
SIGN = "value (red positive, blue negative)"  # of a method that is not complete
READABLE = 60  # positions that still have room for a label


class Row(NamedTuple):
    """One row of one input, as a panel draws it.

    Attributes:
        values: (targets, *row).
        data: the input's row.
        features: names along the first feature axis, or None.
        vocabulary: text of token ids, or None.
        meaning: what lengths and colours are.
    """

    values: np.ndarray
    data: np.ndarray
    features: Sequence[str] | None
    vocabulary: Vocabulary | None
    meaning: str


def scale(values: np.ndarray) -> float:
    """The magnitude at which colours saturate: the 99.5th percentile, or the largest if that is zero."""
    finite = np.abs(values[np.isfinite(values)])
    return (np.percentile(finite, 99.5) or finite.max() or 1.0) if finite.size else 1.0


def colours(values: Iterable[float]) -> list:
    """The colour of a bar for each value."""
    return [RED if value > 0 else BLUE for value in values]


def short(text: Any, limit: int) -> str:
    """The text in one line; of a long one the first and the last characters, `limit` in all."""
    text = str(text).replace("\n", "\\n")
    return text if len(text) <= limit else text[: limit // 2] + "…" + text[len(text) + 1 - (limit + 1) // 2 :]


def set_title(ax: Axes, lines: Sequence[str]) -> None:
    ax.set_title("\n".join(short(line, 52) for line in lines), fontsize=8, parse_math=False)


def set_ticks(axis: Axis, count: int) -> None:
    axis.set_major_locator(MaxNLocator(count))
    axis.set_tick_params(labelsize=7)


def colour_bar(figure: Figure, image: Any, ax: Axes, meaning: str) -> None:
    bar = figure.colorbar(image, ax=ax, extend="both", fraction=0.05)
    bar.set_label(meaning, fontsize=7)
    set_ticks(bar.ax.yaxis, 5)
