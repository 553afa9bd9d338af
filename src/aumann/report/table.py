"""Tables: a line per row of an explanation, or per (row, target), for `repr`, a notebook and a terminal."""

from __future__ import annotations

import html
import itertools
import textwrap
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import numpy as np

from aumann.features.axes import feature_labels
from aumann.features.nested import total, walk
from aumann.features.protocol import INCOMPLETE, ExplanationLike

BRIEF = 5  # lines of `repr` and of a notebook's table
TERMINAL = 20  # lines of a terminal's table
LARGEST = 3  # values that a notebook's table names

Index = tuple[int, ...]  # into `prediction`: (row,) or (row, target)
Columns = Mapping[str, Callable[[ExplanationLike, Index], str]]  # heading -> text of a cell


def as_repr(explanation: ExplanationLike) -> str:
    """What the values are of, their shapes, and the first lines of numbers."""
    lines = list(cells(explanation, _columns(explanation), np.ndindex(explanation.prediction.shape), BRIEF))
    text = [f"Explanation of {len(explanation)} row{'s' * (len(explanation) != 1)}"]
    text += [f"  {key + ':':9} {content}" for key, content in _summary(explanation).items()]
    text += [f"  {line}" for line in _aligned(lines)]
    return "\n".join(text + _hidden(explanation.prediction.size - BRIEF, "  "))


def as_html(explanation: ExplanationLike) -> str:
    """The same as an HTML table; where a row has one feature axis, with the values that are largest."""
    columns = _columns(explanation)
    lead = explanation.prediction.ndim
    if isinstance(explanation.values, np.ndarray) and explanation.values.ndim == lead + 1:
        labels = feature_labels(explanation.names.get("features"), explanation.values.shape[lead:])
        columns = {**columns, "largest values": lambda e, index: _largest(e.values[index], labels)}
    summary = (f"{key} {content}" for key, content in _summary(explanation).items())
    title = " · ".join([f"Explanation of {len(explanation)} rows", *summary])
    lines = cells(explanation, columns, np.ndindex(explanation.prediction.shape), BRIEF)
    tags = itertools.chain(["th"], itertools.repeat("td"))
    body = [
        "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in line) + "</tr>"
        for tag, line in zip(tags, lines, strict=False)
    ]
    return f"<table><caption>{html.escape(title)}</caption>{''.join(body)}</table>"


def as_text(explanation: ExplanationLike, indices: Sequence[Index] | None = None) -> str:
    """The table that the command line prints, of 20 lines at most.

    Args:
        explanation: an `aumann.Explanation`.
        indices: into `prediction`, each (row,) or (row, target); all of them when None.
    """
    indices = list(np.ndindex(explanation.prediction.shape)) if indices is None else indices
    text = _aligned(list(cells(explanation, IN_TERMINAL, indices, TERMINAL))) + _hidden(len(indices) - TERMINAL)
    return "\n".join(text + [INCOMPLETE] * (not explanation.complete))


def cells(explanation: ExplanationLike, columns: Columns, indices: Iterable[Index], limit: int) -> Iterator[list[str]]:
    """The headings, then the cells of a line for each of the first `limit` indices."""
    yield list(columns)
    for index in itertools.islice(indices, limit):
        yield [" ".join(cell(explanation, index).split()) for cell in columns.values()]  # a name may hold newlines


# ---- columns -------------------------------------------------------------------------------------------------------


def _row_name(explanation, index):
    names = explanation.names.get("rows")
    return textwrap.shorten(str(names[index[0]] if names else index[0]), 24, placeholder=" …")


def _target_name(explanation, index):
    """Without the class that was predicted; "" for a single target without a name."""
    return explanation.targets[index[1] if explanation.several else 0] if explanation.targets else ""


def _sum(explanation, index):
    return f"{sum(total(value[index]) for _, value in walk(explanation.values)):.4g}"


def _error(explanation, index):
    """One error for each row may stand for all of its targets."""
    error = explanation.error
    return f"{error[index[: error.ndim]]:.4g}"


IN_NOTEBOOK: Columns = {
    "row": _row_name,
    "target": lambda explanation, index: explanation.target_at(index),
    "prediction": lambda explanation, index: f"{explanation.prediction[index]:.4g}",
    "base value": lambda explanation, index: f"{explanation.base_value[index]:.4g}",
    "sum": _sum,
    "residual": lambda explanation, index: f"{explanation.residual[index]:.4g}",
    "error": _error,
    "evaluations": lambda explanation, index: str(explanation.evaluations[index[0]]),
}
IN_TERMINAL: Columns = {
    "row": lambda explanation, index: str(index[0]),
    "target": _target_name,
    **{name: IN_NOTEBOOK[name] for name in ("prediction", "base value", "sum")},
    "residual": lambda explanation, index: f"{explanation.residual[index]:.1e}",
}


def _columns(explanation):
    """The columns of `repr` and of a notebook, without those in which there is nothing to say."""
    has_content = {
        "target": explanation.several or explanation.names.get("predicted") is not None,
        "residual": explanation.complete,
        "error": explanation.error is not None,
    }
    return {name: cell for name, cell in IN_NOTEBOOK.items() if has_content.get(name, True)}


# ---- text ----------------------------------------------------------------------------------------------------------


def _summary(explanation):
    """What stands above the table: shapes, targets and how the values came about, each cut to 90 characters."""
    shapes = [f"{path} {value.shape}".strip() for path, value in walk(explanation.values)]
    summary = {"values": ", ".join(shapes), "targets": ", ".join(explanation.targets)}
    summary |= {key: str(explanation.provenance.get(key) or "") for key in ("rule", "output", "layer", "backend")}
    summary["note"] = "" if explanation.complete else INCOMPLETE
    return {key: textwrap.shorten(text, 90, placeholder=" …") for key, text in summary.items() if text}


def _largest(values, labels):
    return ", ".join(f"{labels[i]} {values[i]:+.3g}" for i in np.argsort(-abs(values))[:LARGEST])


def _aligned(lines):
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return ["  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines]


def _hidden(count, indent=""):
    return [f"{indent}… and {count} more"] * (count > 0)
