"""An explanation as a Dataset of xarray."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np

from aumann.features.nested import walk
from aumann.features.protocol import ExplanationLike

if TYPE_CHECKING:
    import xarray as xr

PER_ROW = ("prediction", "base_value", "residual", "evaluations", "error", "converged")


def to_xarray(explanation: ExplanationLike) -> xr.Dataset:
    """Returns an xarray Dataset over the dimensions row, target and feature_0, feature_1, ...

    With several inputs their names come first, as in "age.values" and "age.feature_0". The baseline, whose first
    axis may be shared by all rows, is left out. The names of the rows are their coordinate; "predicted" is the
    class of a target="predicted", -1 for other targets. The provenance is an attribute in JSON.

    Raises:
        ImportError: xarray is not installed.
    """
    import xarray as xr

    names = explanation.names
    lead = ("row", "target")[: explanation.prediction.ndim]
    variables: dict[str, tuple] = {}
    coordinates: dict[str, list] = {"target": explanation.targets} if explanation.several else {}
    if (rows := names.get("rows")) is not None:
        plain = len({type(name) for name in rows}) == 1 and not isinstance(rows[0], list)
        coordinates["row"] = rows if plain else [str(name) for name in rows]
    if (predicted := names.get("predicted")) is not None:
        classes = np.array([[-1 if k is None else k for k in np.ravel(of_row)] for of_row in predicted])
        variables["predicted"] = lead, classes if explanation.several else classes[:, 0]
    for name in PER_ROW:
        if (array := getattr(explanation, name)) is not None:
            variables[name] = (lead[: array.ndim], array)
    mirrors = explanation.inputs, explanation.standard_error, names.get("features"), names.get("axes")
    for path, value, data, deviation, features, axes in walk(explanation.values, *mirrors):
        prefix, row = path.replace("/", ".") + "." * bool(path), value.shape[len(lead) :]
        dimensions = [f"{prefix}feature_{k}" for k in range(len(row))]
        variables[f"{prefix}values"] = ([*lead, *dimensions], value)
        if deviation is not None:
            variables[f"{prefix}standard_error"] = ([*lead, *dimensions], deviation)
        variables[f"{prefix}inputs"] = (["row", *_of_inputs(prefix, data.shape[1:], row, axes)], data)
        if features is not None:
            coordinates[dimensions[0]] = list(features)
    return xr.Dataset(variables, coordinates, attrs={"provenance": json.dumps(explanation.provenance)})


def _of_inputs(prefix, data_row, row, axes):
    """The dimensions of the input's row: those of the values where they are the same axes, else others."""
    axes = list(range(len(row))) if axes is None else axes
    return [
        f"{prefix}feature_{axes.index(k)}" if k in axes and row[axes.index(k)] == size else f"{prefix}input_{k}"
        for k, size in enumerate(data_row)
    ]
