"""Pictures of an explanation: bars for tables, heat maps for images, coloured positions for text and series.

Red raises the prediction and blue lowers it; values that do not add up to it are drawn with a title that says so, and
red is positive, blue negative. Figures are built without pyplot, so they need no
display and leave no state behind; a notebook shows the returned figure by itself.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator

from aumann.explanation import INCOMPLETE
from aumann.features.axes import channel_axis, data_at, embedded, feature_labels, token_text
from aumann.features.nested import walk
from aumann.storage.archive import replacing

MAP = colormaps["RdBu_r"]
RED, BLUE = MAP(0.85), MAP(0.15)
MEANING = "value (red raises, blue lowers)"
SIGN = "value (red positive, blue negative)"  # of a method that is not complete
TOP = 20  # bars of a table, besides the rest
LABEL = 32  # characters of a feature's name
READABLE = 60  # positions that still have room for a label


class Picture(Figure):
    """A figure that notebooks show as a PNG."""

    def _repr_png_(self):
        buffer = io.BytesIO()
        self.savefig(buffer, format="png")
        return buffer.getvalue()


class Panel(NamedTuple):
    """How one kind of picture is drawn, and its size in inches per axes."""

    draw: Callable
    width: float
    height: float
    shows_input: bool = False


def plot(explanation, path=None, *, rows=None, max_rows=8, max_targets=10, kind=None, vocabulary=None) -> Figure:
    """Draws an explanation: one line of panels per row, and one column per target for each input.

    Rows with one feature axis become bars, the largest 20 by magnitude. Images stand beside their heat maps, summed
    over channels, with one scale for all targets of a row that ends at the 99.5th percentile of the magnitudes. Token
    ids and series become bars over positions or, where these are too many to read, the input over a coloured
    background. Of hypothetical contributions the row's own letters are drawn, which are what the position contributes.

    Args:
        explanation: an `aumann.Explanation`.
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
    """
    shown = np.atleast_1d(np.arange(len(explanation))[slice(max_rows) if rows is None else rows])
    if not shown.size:
        raise ValueError(f"Expected at least one of {len(explanation)} rows; received {rows!r}. Select a row.")
    names, several = explanation.names.get("features"), explanation.several
    meaning = MEANING if explanation.complete else SIGN
    targets = min(max_targets, explanation.prediction.shape[1]) if several else 1
    leaves = []
    mirrors = explanation.inputs, names, explanation.names.get("axes"), kind
    for name, value, data, features, axes, wanted in walk(explanation.values, *mirrors):
        row = value.shape[explanation.prediction.ndim :]
        if axes is None and hypothetical(explanation) and value.shape[explanation.prediction.ndim :] == data.shape[1:]:
            value = value * (data[:, None] if several else data)
        data = data_at(row, data, axes)
        data = np.zeros((len(explanation), 0)) if data is None else data  # nothing to be shown beside the values
        leaves.append((name, value, data, features, _panel(wanted, row, data, features, vocabulary)))

    widths = [panel.width for *_, panel in leaves for _ in range(targets + panel.shows_input)]
    height = max(panel.height for *_, panel in leaves)
    figure = Picture(figsize=(sum(widths) + 0.4, height * len(shown) + 0.3), layout="constrained")
    grid = figure.subplots(len(shown), len(widths), squeeze=False, width_ratios=widths)
    for i, line in zip(shown, map(iter, grid), strict=True):
        for name, value, data, features, panel in leaves:
            axes = [next(line) for _ in range(targets + panel.shows_input)]
            values = value[i, :targets] if several else value[i][None]
            panel.draw(figure, axes, values, data[i], features, vocabulary, meaning)
            if panel.shows_input:
                _title(axes[0], [" · ".join(filter(None, (f"row {explanation.rows[i]}", name)))])
            for k, ax in enumerate(axes[panel.shows_input :]):
                share = values[k].sum(dtype=np.float64) if len(leaves) > 1 else None
                _title(ax, _accounts(explanation, (i, k) if several else (i,), name, share))
    cut = [f"{len(shown)} of {len(explanation)} rows"] * (len(shown) < len(explanation))
    cut += [f"{targets} of {len(explanation.targets)} targets"] * (several and targets < len(explanation.targets))
    if cut:
        figure.suptitle(", ".join(cut), fontsize=9)
    if path is not None:
        _save(figure, Path(path), explanation.provenance)
    return figure


def _accounts(explanation, place, name, share):
    """Returns the lines over a panel: what is explained, and how the sum of the values compares to it."""
    target = f"target {explanation.target_at(place)}" if explanation.targets else ""
    total = sum(value[place].sum(dtype=np.float64) for _, value in walk(explanation.values))
    missed = explanation.converged is not None and not np.all(explanation.converged[place[0]])
    lines = [
        " · ".join(filter(None, (f"row {explanation.rows[place[0]]}", name, target))),
        f"prediction {explanation.prediction[place]:.4g}, base value {explanation.base_value[place]:.4g}",
    ]
    if not explanation.complete:
        note = "the row's own letters of hypothetical contributions" if hypothetical(explanation) else None
        return lines + [*INCOMPLETE.split(": ")] + [note] * bool(note) + ["not converged"] * missed
    lines.append(f"sum {total:.4g}, residual {explanation.residual[place]:.1e}")
    if share is not None:
        lines.append(f"of which {name} {share:.4g}")
    return lines + ["not converged"] * missed


def hypothetical(explanation):
    """Whether values are what each letter would be worth, there or not."""
    told = explanation.provenance
    return "HypotheticalContributions" in (told.get("method"), (told.get("smooth") or {}).get("of"))


def _title(ax, lines):
    ax.set_title("\n".join(_short(line, 52) for line in lines), fontsize=8, parse_math=False)


def _short(text, limit):
    text = str(text).replace("\n", "\\n")
    return text if len(text) <= limit else text[: limit // 2] + "…" + text[len(text) + 1 - (limit + 1) // 2 :]


def _panel(kind, row, data, features, vocabulary):
    """Returns the `Panel` for values of feature shape `row` that explain `data` (n, ...)."""
    if kind is None:
        kind = _kind(row, data, vocabulary)
    fits = {"bars": True, "image": len(row) in (2, 3), "sequence": len(row) >= 1}
    if not fits.get(kind):
        options = [option for option, possible in fits.items() if possible]
        raise ValueError(f"Expected a kind among {options} for feature axes {row}; received {kind!r}. Choose one.")
    if kind == "image":
        return Panel(_image, 2.7, 3.2, shows_input=True)
    if kind == "sequence":
        return Panel(_sequence, max(4, 0.2 * max(row)) if max(row) <= READABLE else 8, 3)
    label = min(LABEL, max(map(len, features or [""])))
    return Panel(_bars, 4 + 0.06 * label, 1.3 + 0.2 * min(math.prod(row), TOP + 1))


def _kind(row, data, vocabulary):
    """Returns the kind of picture for the shape; a matrix much longer than wide is taken for a series."""
    shape = data.shape[1:]
    if embedded(row, data) or (vocabulary is not None and data.dtype.kind in "iu" and row == shape):
        return "sequence"
    if len(row) == 3 or (len(row) == 2 and len(shape) == 3):
        return "image"
    if len(row) == 2:
        return "sequence" if min(row) <= 4 or max(row) >= 4 * min(row) else "image"
    return "sequence" if len(row) == 1 and len(shape) == 2 and row == shape[:1] else "bars"


def _scale(values):
    """Returns the magnitude at which colours saturate: the 99.5th percentile, or the largest if that is zero."""
    finite = np.abs(values[np.isfinite(values)])
    return (np.percentile(finite, 99.5) or finite.max() or 1.0) if finite.size else 1.0


def _bars(figure, axes, values, data, features, vocabulary, meaning):
    row = values.shape[1:]
    labels = [_short(label, LABEL) for label in feature_labels(features, row)]
    if data.shape == row:
        entries = data.ravel()
        if vocabulary is not None and data.dtype.kind in "iu":
            entries = [token_text(i, vocabulary) for i in entries]
        labels = [f"{label} = {_entry(x)}" for label, x in zip(labels, entries, strict=True)]
    for ax, value in zip(axes, values.reshape(len(values), -1), strict=True):
        order = np.argsort(-np.abs(value), kind="stable")
        lengths, names = list(value[order[:TOP]]), [labels[i] for i in order[:TOP]]
        if len(order) > TOP:
            lengths.append(value[order[TOP:]].sum(dtype=np.float64))
            names.append(f"rest ({len(order) - TOP} features)")
        ax.barh(range(len(lengths)), lengths, color=[RED if x > 0 else BLUE for x in lengths])
        ax.set_yticks(range(len(names)), names, fontsize=7, parse_math=False)
        ax.set_ylim(len(names) - 0.4, -0.6)
        ax.axvline(0, color="black", linewidth=0.8)
        ax.set_xlabel(meaning, fontsize=8)
        _ticks(ax.xaxis, 5)


def _entry(x):
    return f"{x:.4g}" if np.issubdtype(np.asarray(x).dtype, np.floating) else _short(x, 12)


def _image(figure, axes, values, data, features, vocabulary, meaning):
    heat = values.sum(1 + channel_axis(values.shape[1:])) if values.ndim == 4 else values
    limit = _scale(heat)
    if data.ndim in (2, 3):
        axes[0].imshow(_pixels(data), cmap="gray")
    for ax, one in zip(axes[1:], heat, strict=True):
        drawn = ax.imshow(one, cmap=MAP, vmin=-limit, vmax=limit)
    for ax in axes:
        ax.set_xticks([])
        ax.set_yticks([])
    _colour_bar(figure, drawn, axes[-1], meaning)


def _pixels(data):
    """Returns an image as matplotlib shows it: grey (H, W) or (H, W, 3) within [0, 1]."""
    if data.ndim == 3:
        data = np.moveaxis(data, channel_axis(data.shape), -1)
        data = data[..., :3] if data.shape[-1] in (3, 4) else data.mean(-1)
    data = data.astype(np.float64)
    low, high = data.min(), data.max()
    if low >= 0 and (high <= 1 or 16 < high <= 255):
        return data / (255 if high > 1 else 1)
    return (data - low) / (high - low or 1)


def _sequence(figure, axes, values, data, features, vocabulary, meaning):
    row, ids = values.shape[1:], data.dtype.kind in "iu"
    axis = 0 if features is not None or data.ndim < len(row) else int(np.argmax(row))
    heat = np.moveaxis(values, 1 + axis, 1).reshape(len(values), row[axis], -1).sum(-1)
    length = row[axis]
    labels = range(length) if features is None else features
    if features is None and ids and data.shape == (length,):
        labels = data if vocabulary is None else [token_text(i, vocabulary) for i in data]
    series = data.dtype.kind == "f" and data.shape[axis : axis + 1] == (length,) and length > READABLE
    for ax, one in zip(axes, heat, strict=True):
        if series:
            lines = np.moveaxis(data, axis, 0).reshape(length, -1)
            drawn = _coloured_lines(ax, one, lines if lines.shape[1] <= 8 else lines.mean(1), _scale(heat))
        else:
            ax.bar(range(length), one, color=[RED if x > 0 else BLUE for x in one])
            ax.axhline(0, color="black", linewidth=0.8)
            ax.set_ylabel(meaning, fontsize=7)
        _ticks(ax.yaxis, 5)
        ax.set_xlim(-0.5, length - 0.5)
        if length <= READABLE:
            ax.set_xticks(range(length), [_short(x, 14) for x in labels], fontsize=7, rotation=90, parse_math=False)
        else:
            _ticks(ax.xaxis, 8)
            ax.set_xlabel("position", fontsize=8)
    if series:
        _colour_bar(figure, drawn, axes[-1], meaning)


def _coloured_lines(ax, values, lines, limit):
    """Draws the input's lines over a background with the values' colours, which it returns for the colour bar."""
    across = {"aspect": "auto", "extent": (-0.5, len(values) - 0.5, 0, 1), "transform": ax.get_xaxis_transform()}
    drawn = ax.imshow(values[None], cmap=MAP, vmin=-limit, vmax=limit, **across)
    ax.plot(lines, color="black", linewidth=0.9, path_effects=[withStroke(linewidth=2.5, foreground="white")])
    ax.set_ylabel("input", fontsize=8)
    return drawn


def _ticks(axis, count):
    axis.set_major_locator(MaxNLocator(count))
    axis.set_tick_params(labelsize=7)


def _colour_bar(figure, drawn, ax, meaning):
    bar = figure.colorbar(drawn, ax=ax, extend="both", fraction=0.05)
    bar.set_label(meaning, fontsize=7)
    _ticks(bar.ax.yaxis, 5)


def _save(figure, path, provenance):
    path = path if path.suffix else path.with_name(path.name + ".png")
    kind = path.suffix[1:].lower()
    metadata = {"Description": json.dumps(provenance)} if kind == "png" else None
    with replacing(path) as file:
        figure.savefig(file, format=kind, metadata=metadata)
