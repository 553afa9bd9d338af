"""The answer: an `Explanation` shares F(x) - F(x') out among the features and keeps its accounts.

An explanation mirrors the structure of the model's inputs: one array, or a list, tuple or dict of them, nested at will.
`walk` visits such structures leaf by leaf and `rebuild` puts new leaves into the old shape. A *row* is one sample; the
*feature axes* of a leaf are those that follow the axis of rows and, for several targets, the axis of targets.

The file written by `Explanation.save` is described in docs/format.md.
"""

from __future__ import annotations

import dataclasses
import html
import itertools
import json
import math
import operator
import reprlib
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from aumann.features.axes import channel_axis, data_at, embedded, feature_axes, feature_labels, token_text
from aumann.features.groups import group_labels, group_sums
from aumann.features.nested import rebuild, walk
from aumann.storage import archive as storage

FORMAT, VERSION = "aumann.Explanation", 4
MIRRORS, RECORDS = ("values", "inputs", "baseline", "input_error", "standard_error"), ("names", "provenance")
ROWWISE = ("rows", "predicted")  # entries of the records that have one for each row
INCOMPLETE = "not complete: values need not add up to prediction − base value"


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Explanation:
    """Aumann-Shapley values of n rows, for one target or several.

    Arrays are read-only; writable ones are copied when the explanation is built. NumPy has no bfloat16 or float8, so
    inputs in these become float32, which is exact. Indexing, `len` and iteration go over rows.

    Attributes:
        values: φ; per leaf an array (n, *row), or (n, targets, *row) for several targets. Token ids (n, T) that are
            explained at their embedding have values (n[, targets], T, E).
        inputs: x; per leaf an array whose first axis has the n rows.
        prediction: F(x), shape (n,) or (n, targets).
        base_value: F(x'), same shape; the weighted mean for a set of baselines.
        residual: Σφ - (F(x) - F(x')), same shape, with Σ over all features of all inputs.
        evaluations: gradients spent on each row, shape (n,).
        baseline: x'; per leaf an array whose first axis is 1 (shared) or n (one for each row): (1|n, *row), or
            (1|n, m, *row) for a set of m baselines. None where there is none.
        error: estimated relative L1 error of each row's values, shaped like prediction, or None if it was not
            estimated. What it promises and what not: docs/exactness.md.
        converged: whether each row met the tolerance, shaped like prediction, or None.
        input_error: of several inputs, the error of each one's own values; per leaf shaped like prediction, or None.
        standard_error: of values that were sampled, the standard deviation that the sampling leaves in each of them;
            per leaf shaped like values, or None.
        names: JSON-able; "features" mirrors `inputs` with a list of str for the first feature axis of each leaf, or
            None; "targets" is a list of str, one per target. "rows" are the names of the rows, such as the index of a
            DataFrame; "predicted" is shaped like prediction: the class that target="predicted" stands for, None for
            other targets; "axes" mirrors `inputs` with the axis of the input's row that each feature axis of the
            values is, None where it is none of them (groups, units of a layer), absent where all are their own.
        provenance: JSON-able record of how the values came about: versions, backend, rule, seed, ...

    Raises:
        ValueError: if shapes or structures do not fit together.
        TypeError: if an array holds Python objects, or if `names` or `provenance` cannot be written as JSON.
    """

    values: Any
    inputs: Any
    prediction: np.ndarray
    base_value: np.ndarray
    residual: np.ndarray
    evaluations: np.ndarray
    baseline: Any = None
    error: np.ndarray | None = None
    converged: np.ndarray | None = None
    input_error: Any = None
    standard_error: Any = None
    names: Mapping = dataclasses.field(default_factory=dict)
    provenance: Mapping = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        for field in dataclasses.fields(self):
            content = getattr(self, field.name)
            if field.name in MIRRORS:
                content = rebuild(content, (_frozen(field.name, leaf) for _, leaf in walk(content)))
            else:
                content = (_jsonable if field.name in RECORDS else _frozen)(field.name, content)
            object.__setattr__(self, field.name, content)
        self._check()

    def _check(self):
        def expect(holds, expected, received):
            if not holds:
                raise ValueError(f"Expected {expected}; received {received}. Give arrays whose shapes agree.")

        shape, n = self.prediction.shape, len(self)
        for name in ROWWISE:
            given = self.names.get(name)
            expect(given is None or len(given) == n, f"names[{name!r}] for {n} rows", f"{len(given or ())}")
        expect(len(shape) in (1, 2), "prediction of shape (rows,) or (rows, targets)", f"shape {shape}")
        for name in ("base_value", "residual"):
            array = getattr(self, name)
            expect(array.shape == shape, f"{name} shaped like prediction, {shape}", f"shape {array.shape}")
        for name in ("evaluations", "error", "converged"):
            array = getattr(self, name)
            fits = array is None or array.shape == (n,) or (array.shape == shape and name != "evaluations")
            expect(fits, f"{name} for {n} rows", f"shape {np.shape(array)}")
        if self.names.get("targets") is not None:
            count, given = shape[1] if self.several else 1, self.names["targets"]
            expect(len(given) == count, f"{count} names of targets", f"{len(given)}: {given}")
        mirrors = self.inputs, self.baseline, self.standard_error, self.names.get("features")
        for path, value, data, baseline, deviation, features in self._walk(*mirrors):
            at = f" of input {path!r}" if path else ""
            row = self._row(value)
            expect(value.shape[: len(shape)] == shape, f"values{at} that start with axes {shape}", f"{value.shape}")
            expect(np.shape(data)[:1] == (n,), f"inputs{at} with {n} rows", f"shape {np.shape(data)}")
            expect(
                baseline is None or baseline.shape[:1] in ((1,), (n,)),
                f"a baseline{at} whose first axis is 1 or {n}",
                f"shape {np.shape(baseline)}",
            )
            expect(
                deviation is None or deviation.shape == value.shape,
                f"standard_error{at} shaped like values, {value.shape}",
                f"shape {np.shape(deviation)}",
            )
            expect(
                features is None or (len(features),) == row[:1],
                f"one name for each place on the first axis of features {row}{at}",
                f"{features}",
            )

    def __reduce__(self):
        # Through the constructor, because NumPy forgets in a pickle that an array was read-only.
        return _restore, ({field.name: getattr(self, field.name) for field in dataclasses.fields(self)},)

    def __len__(self) -> int:
        return len(self.prediction)

    @property
    def several(self) -> bool:
        """Whether values, prediction, base_value and residual have an axis of targets."""
        return self.prediction.ndim == 2

    @property
    def targets(self) -> list[str]:
        """The targets' names; numbers where several have none, an empty list where a single one has none."""
        return list(self.names.get("targets") or map(str, range(self.prediction.shape[1] if self.several else 0)))

    @property
    def complete(self) -> bool:
        """Whether the values are to add up to prediction − base value, as far as they are exact."""
        return bool(self.provenance.get("complete", True))

    @property
    def rows(self) -> list:
        """The rows' names, such as the index of a DataFrame; their numbers where they have none."""
        return list(self.names.get("rows") or range(len(self)))

    def target_at(self, place) -> str:
        """The name of the target at an index into `prediction`, with the class that was predicted; "" for none."""
        name = self.targets[place[1] if self.several else 0] if self.targets else ""
        predicted = self.names.get("predicted")
        for i in place if predicted else ():
            predicted = predicted[i]
        return name if predicted is None else f"{name}: {predicted}"

    def _walk(self, *others):
        return walk(self.values, *others)

    def _row(self, value):
        return value.shape[self.prediction.ndim :]

    def __getitem__(self, rows) -> Explanation:
        """Returns the explanation of some rows: an int (the axis of rows stays), a slice, int array or boolean mask."""
        index = np.atleast_1d(np.arange(len(self))[rows])
        if index.ndim > 1:
            raise TypeError(f"Expected rows along one axis; received {index.ndim} axes. Index the arrays themselves.")
        chosen = {}
        for field in dataclasses.fields(self):
            content = getattr(self, field.name)
            if field.name not in RECORDS:
                # A leaf of one row in an explanation of several is a baseline that all rows share.
                picked = (leaf if leaf is None or len(leaf) < len(self) else leaf[index] for _, leaf in walk(content))
                chosen[field.name] = rebuild(content, picked)
            elif kept := {name: [content[name][i] for i in index] for name in ROWWISE if content.get(name)}:
                chosen[field.name] = {**content, **kept}
        return dataclasses.replace(self, **chosen)

    def sum(self, axis: int | tuple[int, ...] | None = None, *, groups=None) -> Explanation:
        """Adds values up, over feature axes or within groups of features. The total of each row stays what it was.

        Args:
            axis: feature axes to sum over, counted as NumPy does but without the axes of rows and targets: 0 is the
                first feature axis, -1 the last (channels, or the embedding, so that each pixel or token keeps one
                number). Leaves that lack the axis stay as they are. None sums over all feature axes.
            groups: a mapping from a group's name to its members, which are names or positions along the first feature
                axis, or a boolean mask; or integer labels, as a segmentation gives them. Masks and labels have the
                shape of a row or of its first axes (pixels without channels), with 1 where they hold along an axis. An
                axis of rows, or axes of rows and targets, may stand before it, for groups of each row's own. Features
                in no group form the group "(rest)". For several inputs, a structure like theirs in which absent
                entries and None leave an input as it is.

        Returns:
            An explanation whose values have the feature axes that are left, or (n[, targets], groups). Sums are taken
            in float64 and returned in the type of the values. Inputs and baseline stay those of the model; standard
            errors are left out, since those of a sum do not follow from those of its terms.

        Raises:
            ValueError: if no leaf has the axis, if a feature is in two groups, or if a member does not exist.
        """
        if axis is not None and groups is not None:
            raise ValueError("Expected an axis or groups; received both. Call sum twice.")
        values, names, places, changed = [], [], [], False
        for _, value, features, place, group in self._walk(self.names.get("features"), self.names.get("axes"), groups):
            row = self._row(value)
            place = list(range(len(row))) if place is None else place
            if groups is not None and group is not None:
                labels, features = group_labels(group, self.prediction.shape, row, features)
                value, changed, place = group_sums(value, labels, len(row), len(features)), True, [None]
            elif groups is None and (axes := feature_axes(axis, len(row))) is not None:
                within = tuple(a + self.prediction.ndim for a in axes)
                value, changed = value.sum(within, dtype=np.float64).astype(value.dtype), True
                features = None if 0 in axes else features
                place = [p for a, p in enumerate(place) if a not in axes]
            values.append(value)
            names.append(features)
            places.append(place)
        if not changed:
            rows = [self._row(value) for _, value in self._walk()]
            raise ValueError(
                f"Expected {'groups' if groups is not None else 'a feature axis'} of at least one input; received "
                f"{groups if groups is not None else axis} for feature axes {rows}. Count without rows and targets."
            )
        names = {**self.names, "features": rebuild(self.values, names), "axes": rebuild(self.values, places)}
        return dataclasses.replace(self, values=rebuild(self.values, values), names=names, standard_error=None)

    def save(self, path) -> Path:
        """Writes one `.npz` file (see docs/format.md), entirely or not at all.

        Args:
            path: where to; ".npz" is added if missing. The folder must exist.

        Returns:
            The path of the file.
        """
        path, arrays = _npz(path), {}
        fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        header = {"format": FORMAT, "version": VERSION, "names": fields.pop("names")}
        header["provenance"] = fields.pop("provenance")
        header["fields"] = {name: _encode(content, name, arrays) for name, content in fields.items()}
        arrays["header"] = np.frombuffer(json.dumps(header).encode(), np.uint8)
        with storage.replacing(path) as file:
            np.savez(file, **arrays)
        return path

    def to_dataframe(self):
        """Returns a pandas DataFrame: a line per row, or per (row, target), and a column per feature.

        The columns prediction, base_value and residual close the line, and where a target is "predicted", the class
        that it stands for. Lines are indexed by the names of the rows, if they have some. With several inputs, columns
        are (input, feature). Features of higher rank are called by their place, such as "[3, 4, 0]". `attrs` says
        whether the values are complete.
        """
        import pandas as pd

        rows = [tuple(r) if isinstance(r, list) else r for r in self.rows]
        index = pd.RangeIndex(len(self), name="row") if self.names.get("rows") is None else pd.Index(rows)
        levels = index.nlevels
        index.names = ["row"] if levels == 1 else [f"row_{k}" for k in range(levels)]
        if self.several:
            k = len(self.targets)
            each = [index.get_level_values(level).repeat(k) for level in range(levels)]
            names = [*index.names, "target"]
            index = pd.MultiIndex.from_arrays([*each, pd.Index(self.targets * len(self), dtype=object)], names=names)
        columns, blocks = [], []
        for path, value, features in self._walk(self.names.get("features")):
            columns += [(path, label) for label in feature_labels(features, self._row(value))]
            blocks.append(value.reshape(len(index), math.prod(self._row(value))))
        for name in ("prediction", "base_value", "residual"):
            columns.append((name, ""))
            blocks.append(getattr(self, name).reshape(-1, 1))
        if isinstance(self.values, Mapping | list | tuple):
            columns = pd.MultiIndex.from_tuples(columns, names=["input", "feature"])
        else:
            columns = [label or name for name, label in columns]
        frames = [pd.DataFrame(block, index=index) for block in blocks]
        frame = pd.concat(frames, axis=1).set_axis(columns, axis=1)
        predicted = self.names.get("predicted")
        if predicted is not None:
            column = ("predicted", "") if frame.columns.nlevels > 1 else "predicted"
            flat = list(itertools.chain(*predicted)) if self.several else predicted
            frame[column] = pd.array(flat, dtype="Int64" if None in flat else "int64")
        frame.attrs["complete"] = self.complete
        return frame

    def to_shap(self, vocabulary=None):
        """Returns one `shap.Explanation` per input, in the structure of the inputs.

        Base values have shape (n,) or (n, targets) and several targets stand on the last axis. Images become
        channel-last. Integer ids explained at their embedding get one value each, the sum over the embedding. With
        several inputs each object holds the values of its own input only, so base plus values is not the prediction.
        Values that are not complete come without base values, so that no picture adds them up. `data` are None where
        values stand for no single place of the input: groups, sums over axes, units of a layer.

        Args:
            vocabulary: list or mapping from id to text; integer inputs are then given as text, each token followed by
                a space.
        """
        import shap

        made = []
        for _, value, data, features, axes in self._walk(
            self.inputs, self.names.get("features"), self.names.get("axes")
        ):
            row = self._row(value)
            if axes is None and embedded(row, data):
                value, row = value.sum(-1), row[:-1]
            data = data_at(row, data, axes)
            image = data is not None and len(row) == 2 and data.ndim == 4
            data = data if image or (data is not None and data.shape[1:] == row) else None
            if len(row) == 3 and channel_axis(row) == 0:
                value = np.moveaxis(value, -3, -1)
                data = None if data is None else np.moveaxis(data, 1, -1)
            if vocabulary is not None and data is not None and data.dtype.kind in "iu":
                texts = [token_text(i, vocabulary) + " " for i in data.ravel()]
                data = np.array(texts, dtype=object).reshape(data.shape)
            made.append(
                shap.Explanation(
                    values=np.moveaxis(value, 1, -1).copy() if self.several else value.copy(),
                    base_values=self.base_value.copy() if self.complete else None,
                    data=None if data is None else data.copy(),
                    instance_names=[str(r) for r in self.names["rows"]] if self.names.get("rows") else None,
                    feature_names=feature_labels(features, row) if len(row) == 1 else None,
                    output_names=self.targets if self.several else None,
                )
            )
        return rebuild(self.values, made)

    def to_xarray(self):
        """Returns an xarray Dataset over the dimensions row, target and feature_0, feature_1, ...

        With several inputs their names come first, as in "age.values" and "age.feature_0". The baseline, whose first
        axis may be shared by all rows, is left out. The names of the rows are their coordinate; "predicted" is the
        class of a target="predicted", -1 for other targets. The provenance is an attribute in JSON.
        """
        import xarray as xr

        lead = ("row", "target")[: self.prediction.ndim]
        variables, coordinates = {}, {"target": self.targets} if self.several else {}
        if (rows := self.names.get("rows")) is not None:
            plain = len({type(r) for r in rows}) == 1 and not isinstance(rows[0], list)
            coordinates["row"] = rows if plain else [str(r) for r in rows]
        if (predicted := self.names.get("predicted")) is not None:
            variables["predicted"] = lead, np.array([[-1 if k is None else k for k in np.ravel(r)] for r in predicted])
            if not self.several:
                variables["predicted"] = lead, variables["predicted"][1][:, 0]
        for name in ("prediction", "base_value", "residual", "evaluations", "error", "converged"):
            if (array := getattr(self, name)) is not None:
                variables[name] = (lead[: array.ndim], array)
        mirrors = self.inputs, self.standard_error, self.names.get("features"), self.names.get("axes")
        for path, value, data, deviation, features, own_axes in self._walk(*mirrors):
            own, row = path.replace("/", ".") + "." * bool(path), self._row(value)
            axes = [f"{own}feature_{k}" for k in range(len(row))]
            own_axes = list(range(len(row))) if own_axes is None else own_axes
            places = [
                axes[own_axes.index(k)] if k in own_axes and row[own_axes.index(k)] == size else f"{own}input_{k}"
                for k, size in enumerate(data.shape[1:])
            ]
            variables[f"{own}values"] = ([*lead, *axes], value)
            if deviation is not None:
                variables[f"{own}standard_error"] = ([*lead, *axes], deviation)
            variables[f"{own}inputs"] = (["row", *places], data)
            if features is not None:
                coordinates[axes[0]] = list(features)
        return xr.Dataset(variables, coordinates, attrs={"provenance": json.dumps(self.provenance)})

    def plot(self, path=None, **options):
        """Draws the explanation; see `aumann.plots.figure.plot`, which this calls."""
        from aumann.plots import figure as plots

        return plots.plot(self, path, **options)

    def _summary(self):
        leaves = [f"{path} {value.shape}".strip() for path, value in self._walk()]
        said = {"values": ", ".join(leaves), "targets": ", ".join(self.targets)}
        said |= {key: str(self.provenance.get(key) or "") for key in ("rule", "output", "layer", "backend")}
        said["note"] = "" if self.complete else INCOMPLETE
        return {key: textwrap.shorten(text, 90, placeholder=" …") for key, text in said.items() if text}

    def _table(self, limit=5):
        told, named = self.error is not None, self.several or self.names.get("predicted") is not None
        numbers = ["prediction", "base value", "sum", *["residual"] * self.complete, *["error"] * told, "evaluations"]
        yield ["row", *["target"] * named, *numbers]
        rows = self.rows
        for index in itertools.islice(np.ndindex(self.prediction.shape), limit):
            total = sum(value[index].sum(dtype=np.float64) for _, value in self._walk())
            numbers = [self.prediction[index], self.base_value[index], total]
            numbers += [self.residual[index]] if self.complete else []
            numbers += [np.broadcast_to(self.error.T, self.prediction.T.shape).T[index]] if told else []
            name = [self.target_at(index)] if named else []
            yield [
                textwrap.shorten(str(rows[index[0]]), 24, placeholder=" …"),
                *name,
                *(f"{x:.4g}" for x in numbers),
                str(self.evaluations[index[0]]),
            ]

    def __repr__(self):
        table = list(self._table())
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = [f"Explanation of {len(self)} row{'s' * (len(self) != 1)}"]
        lines += [f"  {key + ':':9} {text}" for key, text in self._summary().items()]
        lines += ["  " + "  ".join(cell.rjust(w) for cell, w in zip(line, widths, strict=True)) for line in table]
        hidden = self.prediction.size - len(table) + 1
        return "\n".join(lines + [f"  … and {hidden} more"] * (hidden > 0))

    def _repr_html_(self):
        table = list(self._table())
        if not isinstance(self.values, Mapping | list | tuple) and len(self._row(self.values)) == 1:
            labels = feature_labels(self.names.get("features"), self._row(self.values))
            table[0].append("largest values")
            for line, index in zip(table[1:], np.ndindex(self.prediction.shape), strict=False):
                value = self.values[index]
                line.append(", ".join(f"{labels[i]} {value[i]:+.3g}" for i in np.argsort(-abs(value))[:3]))
        title = " · ".join([f"Explanation of {len(self)} rows", *(f"{k} {v}" for k, v in self._summary().items())])
        lines = [
            "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in line) + "</tr>"
            for tag, line in zip(itertools.chain(["th"], itertools.repeat("td")), table, strict=False)
        ]
        return f"<table><caption>{html.escape(title)}</caption>{''.join(lines)}</table>"


def load(path) -> Explanation:
    """Reads what `Explanation.save` wrote. Nothing is ever unpickled.

    Args:
        path: the file; ".npz" is added if missing, as `save` does.

    Raises:
        ValueError: if the file holds something else, or a version this library does not know.
    """
    path = _npz(path)
    with open(path, "rb") as file:
        try:
            arrays = storage.read_npz(file)
            header = json.loads(arrays.pop("header").tobytes())
            if header["format"] != FORMAT:
                raise ValueError(f"its format is {header['format']!r}")
            version = header["version"]
            if version in range(1, VERSION + 1):
                fields = {name: _decode(node, arrays) for name, node in header["fields"].items()}
                _check_read(fields, header["names"])
                return Explanation(**fields, names=header["names"], provenance=header["provenance"])
        except Exception as problem:  # whatever a file that somebody else wrote can bring about
            raise ValueError(
                f"Expected a file written by Explanation.save; {path} is none ({storage.brief(problem)}). Use the tool "
                "that made it, or ask for another copy."
            ) from problem
    raise ValueError(
        f"Expected version {VERSION} of the format or an older one; {path} has version {reprlib.repr(version)}. "
        "Load it with the version of aumann that wrote it, or install a newer one."
    )


def _check_read(fields, names):
    """Raises ValueError where what is counted with is no number, where it has no place, or where a name is no text."""
    for name, content in fields.items():
        for _, leaf in walk(content):
            if name not in ("inputs", "baseline") and leaf is not None and leaf.dtype.kind not in "biuf":
                raise ValueError(f"its {name} have dtype {leaf.dtype}")
            if name == "input_error" and leaf is not None and leaf.shape != fields["prediction"].shape:
                raise ValueError(f"its input_error has shape {leaf.shape}")
    targets = names.get("targets")
    if targets is not None and not (isinstance(targets, list) and all(isinstance(name, str) for name in targets)):
        raise ValueError(f"its names of targets are {reprlib.repr(targets)}")
    if not _texts(names.get("features")):
        raise ValueError(f"its names of features are {reprlib.repr(names['features'])}")


def _texts(names):
    """Whether a structure holds lists of text, or nothing, for each input."""
    if isinstance(names, list) and any(isinstance(name, str) for name in names):
        return all(isinstance(name, str) for name in names)
    children = names.values() if isinstance(names, dict) else names if isinstance(names, list) else [None]
    return all(_texts(child) for child in children) if names else names in (None, [], {})


def _npz(path):
    path = Path(path)
    return path if path.suffix == ".npz" else path.with_name(path.name + ".npz")


def _restore(fields):
    return Explanation(**fields)


def _frozen(field, leaf):
    """Returns the leaf as an array that nobody else can write to, of a type that `numpy.save` knows."""
    if leaf is None:
        return None
    array = np.asarray(leaf)
    if array.dtype.kind == "V" and array.dtype.names is None:
        array = array.astype(np.float32)
    elif array.dtype.kind == "T" or (array.dtype.kind == "O" and all(isinstance(x, str) for x in array.flat)):
        array = array.astype(str)
    elif array.dtype.kind in "OV":
        raise TypeError(f"Expected numbers or text in {field}; received {array.dtype}. Convert it to numbers first.")
    array = array.view() if _lasting(array) else array.copy()
    array.flags.writeable = False
    return array


def _lasting(array):
    """Whether an array may be kept: its pages are a file's, or nobody can write to it and it keeps no more alive."""
    whole, writeable = array, array.flags.writeable
    while isinstance(whole.base, np.ndarray):
        whole = whole.base
        writeable |= whole.flags.writeable
    return isinstance(whole, np.memmap) or (whole.flags.owndata and not writeable and whole.nbytes == array.nbytes)


def _jsonable(field, content):
    """Returns the explanation's own copy of a mapping, as JSON will read it back: tuples and arrays become lists."""
    try:
        return json.loads(json.dumps(content, allow_nan=False, default=operator.methodcaller("tolist")))
    except (TypeError, ValueError, AttributeError) as problem:
        raise TypeError(
            f"Expected {field} that JSON can hold; received {reprlib.repr(content)} ({problem}). "
            "Use finite numbers, text, lists and dicts."
        ) from problem


def _encode(structure, name, arrays):
    """Files the leaves in `arrays` and returns the structure for JSON, with members' names for leaves."""
    if structure is None:
        return None
    if isinstance(structure, Mapping):
        return {"dict": [[key, _encode(structure[key], f"{name}.{i}", arrays)] for i, key in enumerate(structure)]}
    if isinstance(structure, list | tuple):
        kind = "tuple" if isinstance(structure, tuple) else "list"
        return {kind: [_encode(child, f"{name}.{i}", arrays) for i, child in enumerate(structure)]}
    arrays[name] = structure
    return name


def _decode(node, arrays):
    """The structure that `_encode` returned, with the arrays themselves; each member stands in one place."""
    if node is None or isinstance(node, str):
        return arrays.pop(node) if node else None
    ((kind, children),) = node.items()
    if kind == "dict":
        return {key: _decode(child, arrays) for key, child in children}
    return {"list": list, "tuple": tuple}[kind](_decode(child, arrays) for child in children)
