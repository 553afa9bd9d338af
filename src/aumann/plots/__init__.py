"""Pictures of an explanation: bars for tables, heat maps for images, coloured positions for text and series.

Red raises the prediction and blue lowers it. Where values do not add up to the prediction the title says so; red is
then positive, blue negative. Matplotlib is imported when something is drawn. Figures are built without pyplot, so they
need no display and leave no state behind; a notebook shows the returned figure by itself.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aumann.features.axes import Vocabulary
from aumann.features.protocol import ExplanationLike

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["plot"]


def plot(
    explanation: ExplanationLike,
    path: str | os.PathLike | None = None,
    *,
    rows: Any = None,
    max_rows: int = 8,
    max_targets: int = 10,
    kind: Any = None,
    vocabulary: Vocabulary | None = None,
) -> Figure:
    """Draws an explanation: one line of panels per row, and one column per target for each input.

    Rows with one feature axis become bars, the largest 20 by magnitude. Images stand beside their heat maps, summed
    over channels, with one scale for all targets of a row that ends at the 99.5th percentile of the magnitudes. Token
    ids and series become bars over positions or, where these are too many to read, the input over a coloured
    background. Of hypothetical contributions the row's own letters are drawn, which are what the position contributes.

    Args:
        path: where to save the figure, in the format of the suffix (PNG if there is none), entirely or not at all. A
            PNG carries the provenance in its Description.
        rows: the rows to draw: an int, slice, int array or boolean mask. None draws the first `max_rows`.
        max_rows: how many rows to draw when `rows` is None.
        max_targets: how many targets to draw, from the first.
        kind: "bars", "image" or "sequence", where the shape alone misleads; for several inputs a structure like theirs.
        vocabulary: list or mapping from token id to text; integer inputs are then drawn as a sequence of tokens.

    Returns:
        The figure.

    Raises:
        ValueError: if no row is selected, or if an input cannot be drawn as the `kind` asked for.
        OSError: the file cannot be written.
        ImportError: matplotlib is not installed.
    """
    from aumann.plots import figure

    drawn = figure.draw(explanation, rows, max_rows, max_targets, kind, vocabulary)
    if path is not None:
        figure.save(drawn, Path(path), explanation.provenance)
    return drawn
