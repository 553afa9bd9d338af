"""The answer: an `Explanation` shares F(x) - F(x') out among the features and says what its sums leave open.

An explanation mirrors the structure of the model's inputs: one array, or a list, tuple or dict of them, nested at will.
A *row* is one sample; the *feature axes* of a leaf are those that follow the axis of rows and, for several targets, the
axis of targets.

The file written by `Explanation.save` is described in docs/format.md.
"""

from __future__ import annotations

import dataclasses
import json
import operator
import os
import reprlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from aumann import bridges, plots
from aumann.features.axes import feature_axes
from aumann.features.groups import group_labels, group_sums
from aumann.features.nested import rebuild, total, walk
from aumann.report import table
from aumann.storage import npz

MIRRORS, RECORDS = ("values", "inputs", "baseline", "input_error", "standard_error"), ("names", "provenance")
ROWWISE = ("rows", "predicted")  # entries of the records that have one for each row


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
            estimated. docs/exactness.md says what it promises.
        converged: whether each row met the tolerance, shaped like prediction, or None.
        input_error: the error of the values of each of several inputs; per leaf shaped like prediction, or None.
        standard_error: of values that were sampled, the standard deviation that sampling leaves in each value; per
            leaf shaped like values, or None.
        names: JSON-able; "features" mirrors `inputs` with a list of str for the first feature axis of each leaf, or
            None; "targets" is a list of str, one per target. "rows" are the names of the rows, such as the index of a
            DataFrame; "predicted" is shaped like prediction: the class that target="predicted" stands for, None for
            other targets; "axes" mirrors `inputs` with, for each feature axis of the values, the axis of the input's
            row that it is, or None where it is none (groups, units of a layer); absent where all axes are the same.
        provenance: JSON-able record of how the values were computed: versions, backend, rule, seed, ...

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

    def __post_init__(self) -> None:
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
            entries = self.names.get(name)
            expect(entries is None or len(entries) == n, f"names[{name!r}] for {n} rows", f"{len(entries or ())}")
        expect(len(shape) in (1, 2), "prediction of shape (rows,) or (rows, targets)", f"shape {shape}")
        for name in ("base_value", "residual"):
            array = getattr(self, name)
            expect(array.shape == shape, f"{name} shaped like prediction, {shape}", f"shape {array.shape}")
        for name in ("evaluations", "error", "converged"):
            array = getattr(self, name)
            fits = array is None or array.shape == (n,) or (array.shape == shape and name != "evaluations")
            expect(fits, f"{name} for {n} rows", f"shape {np.shape(array)}")
        if self.names.get("targets") is not None:
            count, targets = shape[1] if self.several else 1, self.names["targets"]
            expect(len(targets) == count, f"{count} names of targets", f"{len(targets)}: {targets}")
        mirrors = self.inputs, self.baseline, self.standard_error, self.names.get("features")
        for path, value, row, data, baseline, deviation, features in self._leaves(*mirrors):
            at = f" of input {path!r}" if path else ""
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
                f"one name for each position on the first axis of features {row}{at}",
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
        """Whether values of this method add up to prediction − base value, up to their error."""
        return bool(self.provenance.get("complete", True))

    @property
    def rows(self) -> list:
        """The rows' names, such as the index of a DataFrame; their numbers where they have none."""
        return list(self.names.get("rows") or range(len(self)))

    def target_at(self, index: tuple[int, ...]) -> str:
        """The name of the target at an index into `prediction`, with the class that was predicted; "" for none."""
        name = self.targets[index[1] if self.several else 0] if self.targets else ""
        predicted: Any = self.names.get("predicted")
        for i in index if predicted else ():
            predicted = predicted[i]
        return name if predicted is None else f"{name}: {predicted}"

    def _leaves(self, *others: Any) -> Iterator[tuple]:
        """Yields (path, values, shape of a row of them, *what each of the others has there) for every input."""
        for path, value, *entries in walk(self.values, *others):
            yield path, value, value.shape[self.prediction.ndim :], *entries

    def __getitem__(self, rows: Any) -> Explanation:
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

    def sum(self, axis: int | tuple[int, ...] | None = None, *, groups: Any = None) -> Explanation:
        """Adds values up, over feature axes or within groups of features. The total of each row stays what it was.

        Args:
            axis: feature axes to sum over, counted as NumPy does but without the axes of rows and targets: 0 is the
                first feature axis, -1 the last (channels, or the embedding, so that each pixel or token keeps one
                number). Leaves that lack the axis stay as they are. None sums over all feature axes.
            groups: a mapping from a group's name to its members, which are names or positions along the first feature
                axis, or a boolean mask; or integer labels, as a segmentation gives them. Masks and labels have the
                shape of a row or of its first axes (pixels without channels), with 1 where they hold along an axis. An
                axis of rows, or axes of rows and targets, may stand before it, for groups that differ by row. Features
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
        values, all_features, all_axes, changed = [], [], [], False
        mirrors = self.names.get("features"), self.names.get("axes"), groups
        for _, value, row, features, axes, group in self._leaves(*mirrors):
            axes = list(range(len(row))) if axes is None else axes
            if groups is not None and group is not None:
                labels, features = group_labels(group, self.prediction.shape, row, features)
                value, changed, axes = group_sums(value, labels, len(row), len(features)), True, [None]
            elif groups is None and (summed := feature_axes(axis, len(row))) is not None:
                within = tuple(a + self.prediction.ndim for a in summed)
                value, changed = total(value, within).astype(value.dtype), True
                features = None if 0 in summed else features
                axes = [of_input for a, of_input in enumerate(axes) if a not in summed]
            values.append(value)
            all_features.append(features)
            all_axes.append(axes)
        if not changed:
            rows = [row for _, _, row in self._leaves()]
            raise ValueError(
                f"Expected {'groups' if groups is not None else 'a feature axis'} of at least one input; received "
                f"{groups if groups is not None else axis} for feature axes {rows}. Count without rows and targets."
            )
        mirrored = {"features": rebuild(self.values, all_features), "axes": rebuild(self.values, all_axes)}
        names = {**self.names, **mirrored}
        return dataclasses.replace(self, values=rebuild(self.values, values), names=names, standard_error=None)

    # Each of these functions takes the explanation as its first argument, and so is a method of it.
    save = npz.save
    plot = plots.plot
    to_dataframe = bridges.to_dataframe
    to_shap = bridges.to_shap
    to_xarray = bridges.to_xarray
    __repr__ = table.as_repr
    _repr_html_ = table.as_html


def load(path: str | os.PathLike) -> Explanation:
    """Reads what `Explanation.save` wrote. Nothing is ever unpickled.

    Args:
        path: the file; ".npz" is added if missing, as `save` does.

    Raises:
        ValueError: if the file holds something else, or a version this library does not know.
        OSError: if there is no such file, or it cannot be read.
    """
    return npz.load(path, Explanation)


def with_values(explanation: Explanation, values: Any, **fields: Any) -> Explanation:
    """Returns the explanation with other values, the residual that these leave, and other fields where they are given.

    Args:
        values: in the structure of the inputs; per leaf an array (n[, targets], ...).
    """
    lead = explanation.prediction.ndim
    sums = sum(total(value, tuple(range(lead, value.ndim))) for _, value in walk(values))
    residual = sums - (explanation.prediction - explanation.base_value)
    return dataclasses.replace(explanation, values=values, residual=residual, **fields)


def _restore(fields: dict[str, Any]) -> Explanation:
    return Explanation(**fields)


def _frozen(field, leaf):
    """Returns the leaf as a read-only array of a type that `numpy.save` knows, copied if others can write to it."""
    if leaf is None:
        return None
    array = np.asarray(leaf)
    if array.dtype.kind == "V" and array.dtype.names is None:
        array = array.astype(np.float32)
    elif array.dtype.kind == "T" or (array.dtype.kind == "O" and all(isinstance(x, str) for x in array.flat)):
        array = array.astype(str)
    elif array.dtype.kind in "OV":
        raise TypeError(f"Expected numbers or text in {field}; received {array.dtype}. Convert it to numbers first.")
    array = array.view() if _may_be_kept(array) else array.copy()
    array.flags.writeable = False
    return array


def _may_be_kept(array):
    """Whether an array needs no copy: it maps a file, or it is read-only and keeps no larger array in memory."""
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
