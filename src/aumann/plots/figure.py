"""The figure: which rows, targets and panels there are, what stands over each panel, and the file."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.figure import Figure

from aumann.features.axes import Vocabulary, data_at, embedded
from aumann.features.nested import total, walk
from aumann.features.protocol import INCOMPLETE, ExplanationLike
from aumann.plots import image, sequence, style, tabular
from aumann.storage.atomic import replacing


class Picture(Figure):
    """A figure that notebooks show as a PNG."""

    def _repr_png_(self):
        buffer = io.BytesIO()
        self.savefig(buffer, format="png")
        return buffer.getvalue()


class Panel(NamedTuple):
    """One input of an explanation and how it is drawn.

    Attributes:
        name: the input's path, "" for a single one.
        values: (n[, targets], *row), as they are drawn.
        data: (n, ...), what is shown beside the values; (n, 0) for nothing.
        features: names along the first feature axis, or None.
        draw: draws one row of one input, as `tabular.draw` does.
        width, height: inches of one axes.
        shows_input: whether the input has an axes before those of the targets.
    """

    name: str
    values: np.ndarray
    data: np.ndarray
    features: Sequence[str] | None
    draw: Callable
    width: float
    height: float
    shows_input: bool = False


def draw(
    explanation: ExplanationLike,
    rows: Any,
    max_rows: int,
    max_targets: int,
    kind: Any,
    vocabulary: Vocabulary | None,
) -> Picture:
    """Draws an explanation; see `aumann.plots.plot`."""
    chosen = np.atleast_1d(np.arange(len(explanation))[slice(max_rows) if rows is None else rows])
    if not chosen.size:
        raise ValueError(f"Expected at least one of {len(explanation)} rows; received {rows!r}. Select a row.")
    several = explanation.several
    meaning = style.MEANING if explanation.complete else style.SIGN
    targets = min(max_targets, explanation.prediction.shape[1]) if several else 1
    panels = _panels(explanation, kind, vocabulary)

    widths = [panel.width for panel in panels for _ in range(targets + panel.shows_input)]
    height = max(panel.height for panel in panels)
    figure = Picture(figsize=(sum(widths) + 0.4, height * len(chosen) + 0.3), layout="constrained")
    grid = figure.subplots(len(chosen), len(widths), squeeze=False, width_ratios=widths)
    for i, line in zip(chosen, map(iter, grid), strict=True):
        for panel in panels:
            axes = [next(line) for _ in range(targets + panel.shows_input)]
            values = panel.values[i, :targets] if several else panel.values[i][None]
            panel.draw(figure, axes, style.Row(values, panel.data[i], panel.features, vocabulary, meaning))
            if panel.shows_input:
                style.set_title(axes[0], [_joined(f"row {explanation.rows[i]}", panel.name)])
            for k, ax in enumerate(axes[panel.shows_input :]):
                share = total(values[k]) if len(panels) > 1 else None
                style.set_title(ax, _title(explanation, (i, k) if several else (i,), panel.name, share))
    left_out = [f"{len(chosen)} of {len(explanation)} rows"] * (len(chosen) < len(explanation))
    left_out += [f"{targets} of {len(explanation.targets)} targets"] * (several and targets < len(explanation.targets))
    if left_out:
        figure.suptitle(", ".join(left_out), fontsize=9)
    return figure


def save(figure: Figure, path: Path, provenance: Mapping) -> None:
    """Writes the figure, entirely or not at all, in the format of the suffix; PNG where there is none."""
    path = path if path.suffix else path.with_name(path.name + ".png")
    kind = path.suffix[1:].lower()
    metadata = {"Description": json.dumps(provenance)} if kind == "png" else None
    with replacing(path) as file:
        figure.savefig(file, format=kind, metadata=metadata)


# ---- titles --------------------------------------------------------------------------------------------------------


def _title(explanation, index, name, share):
    """The lines over a panel: what is explained, and how the sum of the values compares to it."""
    target = f"target {explanation.target_at(index)}" if explanation.targets else ""
    values_sum = sum(total(value[index]) for _, value in walk(explanation.values))
    missed = explanation.converged is not None and not np.all(explanation.converged[index[0]])
    lines = [
        _joined(f"row {explanation.rows[index[0]]}", name, target),
        f"prediction {explanation.prediction[index]:.4g}, base value {explanation.base_value[index]:.4g}",
    ]
    if not explanation.complete:
        note = "the row's own letters of hypothetical contributions" if _is_hypothetical(explanation) else None
        return lines + [*INCOMPLETE.split(": ")] + [note] * bool(note) + ["not converged"] * missed
    lines.append(f"sum {values_sum:.4g}, residual {explanation.residual[index]:.1e}")
    if share is not None:
        lines.append(f"of which {name} {share:.4g}")
    return lines + ["not converged"] * missed


def _joined(*parts):
    return " · ".join(filter(None, parts))


# ---- panels --------------------------------------------------------------------------------------------------------


def _panels(explanation, kinds, vocabulary):
    """A `Panel` for each input."""
    names, lead, panels = explanation.names, explanation.prediction.ndim, []
    mirrors = explanation.inputs, names.get("features"), names.get("axes"), kinds
    for name, values, data, features, axes, kind in walk(explanation.values, *mirrors):
        row = values.shape[lead:]
        if axes is None and _is_hypothetical(explanation) and row == data.shape[1:]:
            values = values * (data[:, None] if explanation.several else data)
        data = data_at(row, data, axes)
        data = np.zeros((len(explanation), 0)) if data is None else data
        panels.append(Panel(name, values, data, features, *_drawing(kind, row, data, features, vocabulary)))
    return panels


def _drawing(kind, row, data, features, vocabulary):
    """(draw, width, height, shows_input) of a `Panel`, for values of feature shape `row` beside `data` (n, ...)."""
    if kind is None:
        kind = _kind(row, data, vocabulary)
    fits = {"bars": True, "image": len(row) in (2, 3), "sequence": len(row) >= 1}
    if not fits.get(kind):
        options = [option for option, possible in fits.items() if possible]
        raise ValueError(f"Expected a kind among {options} for feature axes {row}; received {kind!r}. Choose one.")
    if kind == "image":
        return image.draw, 2.7, 3.2, True
    if kind == "sequence":
        return sequence.draw, max(4, 0.2 * max(row)) if max(row) <= style.READABLE else 8, 3, False
    label = min(tabular.LABEL, max(map(len, features or [""])))
    return tabular.draw, 4 + 0.06 * label, 1.3 + 0.2 * min(math.prod(row), tabular.TOP + 1), False


def _kind(row, data, vocabulary):
    """The kind of picture for the shape; a matrix much longer than wide is taken for a series."""
    shape = data.shape[1:]
    if embedded(row, data) or (vocabulary is not None and data.dtype.kind in "iu" and row == shape):
        return "sequence"
    if len(row) == 3 or (len(row) == 2 and len(shape) == 3):
        return "image"
    if len(row) == 2:
        return "sequence" if min(row) <= 4 or max(row) >= 4 * min(row) else "image"
    return "sequence" if len(row) == 1 and len(shape) == 2 and row == shape[:1] else "bars"


def _is_hypothetical(explanation):
    """Whether values are what each letter would contribute, whether it is in the sequence or not."""
    provenance = explanation.provenance
    methods = provenance.get("method"), (provenance.get("smooth") or {}).get("of")
    return "HypotheticalContributions" in methods
