"""Inputs: whatever array-like the user hands over, as named host arrays checked against what the model declares."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import keras
import numpy as np
from keras import tree

from aumann.backends import keras_private
from aumann.core.baselines import FIXED, Weighted
from aumann.features import tables
from aumann.features.conversion import TEXT, to_array
from aumann.features.conversion import by_name as by_name
from aumann.model.signature import INTEGER, MOVES, Leaf

BLOCK = 1 << 24  # numbers that are looked through at a time


def packing(structure: Any, count: int) -> str:
    """How `count` leaves are packed: a "leaf" alone, a "list" or a "dict"."""
    return "dict" if isinstance(structure, dict) else "leaf" if count == 1 else "list"


def read(model: Any, inputs: Any, fixed: Callable[[int, str], bool]) -> tuple[Any, list[Leaf]]:
    """The user's inputs as a structure and a list of leaves.

    Args:
        model: for its declared names, shapes and dtypes, where it has them.
        inputs: array, list, tuple, dict or DataFrame.
        fixed: function of a leaf's position and name -> whether the user holds it still.

    Returns:
        (structure whose leaves are placeholders, leaves in the order of `keras.tree.flatten`)

    Raises:
        ValueError, TypeError: the inputs do not fit what the model declares, or one another.
    """
    declared = declared_inputs(model)
    if tables.columns(inputs) is not None:
        inputs = _split_table(inputs, declared, model)
    if isinstance(inputs, (list, tuple)) and any(np.isscalar(x) for x in tree.flatten(inputs)):
        inputs, _ = to_array(inputs, "the inputs", any(map(_is_text, declared.values())))
    flat = tree.flatten_with_path(inputs)
    if not flat:
        raise ValueError("Expected inputs, received an empty structure. Give an array, or a list or dict of arrays.")
    specs = _match(declared, inputs, [path for path, _ in flat])
    _refuse_other_order(flat, specs)
    row_names = _row_names([x for _, x in flat])
    leaves = []
    for i, ((path, x), spec) in enumerate(zip(flat, specs, strict=True)):
        name = _name(path, spec)
        leaves.append(_leaf(name, x, spec, fixed(i, name), row_names, alone=len(flat) == 1))
    rows = {leaf.name: len(leaf.array) for leaf in leaves}
    if len(set(rows.values())) > 1:
        raise ValueError(f"Expected the same number of rows in every input, received {rows}. Align them.")
    if not len(leaves[0].array):
        raise ValueError(
            "Expected at least one row to explain, received an empty batch. Check how the rows were chosen."
        )
    return tree.map_structure(lambda _: None, inputs), leaves


def _name(path: tuple, spec: Any) -> str:
    """What an input is called: as in a dict of the user's, or as the model declares it, or by its number."""
    key = "/".join(map(str, path)) if path and not isinstance(path[-1], int) else ""
    return key or (spec.name if spec is not None else "input" + "".join(f"_{p}" for p in path))


def _leaf(name: str, x: Any, spec: Any, still: bool, row_names: list | None, alone: bool) -> Leaf:
    array, features = to_array(x, f"input {name!r}", still or _is_text(spec))
    if array.dtype.kind == "b" and (features is not None or tables.is_row(x)) and _as_features(spec, alone):
        array = array.astype("float32")  # indicators, as pandas.get_dummies makes them
    array = _check(array, spec, name)
    kind = array.dtype.kind
    role = FIXED if kind == "b" or still else MOVES if kind == "f" else INTEGER
    if role != FIXED and 0 in array.shape[1:]:
        raise ValueError(
            f"Expected at least one feature in input {name!r}, received shape {array.shape}. Check how its columns "
            "were chosen."
        )
    return Leaf(name, array, role, features, spec.dtype if spec is not None else None, row_names)


# ---- what the model declares -----------------------------------------------------------------------------------------


def declared_inputs(model: Any) -> dict[str, Any]:
    """{name: KerasTensor} of a functional or sequential model, in order; empty where nothing is declared."""
    if not isinstance(model, keras.Model) or not getattr(model, "inputs", None):
        return {}
    structure = keras_private.inputs_structure(model)
    if isinstance(structure, dict):
        return dict(structure)
    return {t.name: t for t in model.inputs}


def declared_rows(model: Any) -> int | None:
    """The number of rows that a model declares, the same for all of its inputs, or None."""
    rows = {t.shape[0] for t in declared_inputs(model).values()}
    return rows.pop() if len(rows) == 1 else None


def _match(declared: dict[str, Any], inputs: Any, paths: list[tuple]) -> list[Any]:
    """The declared tensor behind each leaf, or None."""
    if not declared:
        return [None] * len(paths)
    if isinstance(inputs, dict):
        missing, unknown = set(declared) - set(inputs), set(inputs) - set(declared)
        if missing or unknown:
            raise ValueError(
                f"Expected the inputs {list(declared)}, received {list(inputs)}. Name them as the model does."
            )
        return [declared[path[0]] for path in paths]
    specs = list(declared.values())
    if len(specs) != len(paths):
        raise ValueError(
            f"Expected {len(specs)} inputs, {list(declared)}; received {len(paths)}. Give a list in that order, "
            "or a dict with those names."
        )
    return specs


def _is_text(spec: Any) -> bool:
    return spec is not None and spec.dtype == "string"


def _as_features(spec: Any, alone: bool) -> bool:
    """Whether booleans of a table are numbers to the model: declared as such, or all that it is given."""
    return alone if spec is None else keras.backend.is_float_dtype(spec.dtype)


# ---- tables ----------------------------------------------------------------------------------------------------------


def _split_table(table: Any, declared: dict[str, Any], model: Any) -> Any:
    """A table for a model of several inputs as the column, or the columns under the name, of each of them."""
    levels = getattr(getattr(table, "columns", None), "nlevels", 1)
    if len(declared) < 2:
        (only,) = declared or (None,)
        if not isinstance(keras_private.inputs_structure(model), dict):
            return table
        known = tables.heads(table)
        return tables.by_input(table, [only], known) if only in known else {only: table}
    parts = tables.by_input(table, list(declared), tables.heads(table))
    wide = [name for name, spec in declared.items() if levels == 1 and spec.shape[1:] not in ((), (1,), (None,))]
    if wide:
        raise ValueError(
            f"Expected a dict with an entry for each of the inputs {list(declared)}, since {wide} take more than one "
            f"column each; received one table. Give {{{wide[0]!r}: table[[…]], …}}."
        )
    return {name: x if declared[name].shape[1:] else tables.series(x)[0] for name, x in parts.items()}


def each_of(baseline: Any, structure: Any, leaves: Sequence[Leaf], inputs: Any) -> Any:
    """A table that is the baseline of several inputs, or a set of them, as a dict with an entry for each.

    Args:
        baseline: as it is given; what is no table stays as it is.
        structure, leaves: of the inputs, as `read` gives them.
        inputs: as they are given: columns of theirs that no input reads may be in the baseline too.
    """
    if isinstance(baseline, Weighted):
        return replace(baseline, rows=each_of(baseline.rows, structure, leaves, inputs))
    if packing(structure, len(leaves)) == "leaf" or not (tables.is_row(baseline) or tables.columns(baseline)):
        return baseline
    names = [leaf.name for leaf in leaves]
    if len(names) == 1:
        return {names[0]: baseline}
    known = tables.heads(inputs) if tables.columns(inputs) is not None else ()
    parts = tables.by_input(baseline, names, known)
    flat = [leaf.name for leaf in leaves if leaf.array.ndim == 1]
    return {n: tables.series(x)[0] if n in flat and not tables.is_row(x) else x for n, x in parts.items()}


def _refuse_other_order(flat: list[tuple[tuple, Any]], specs: list[Any]) -> None:
    """Columns in a list that are called like inputs stand where those are."""
    names = [spec.name if spec is not None else None for spec in specs]
    for (path, x), name in zip(flat, names, strict=True):
        column = getattr(x, "name", None) if tables.is_row(x) else None
        in_list = not path or isinstance(path[-1], int)
        if in_list and isinstance(column, str) and column != name and column in names:
            raise ValueError(
                f"Expected the inputs {names} in this order, received the column {column!r} in the place of {name!r}. "
                "Give a dict of the columns by the names of the inputs, or a list in their order."
            )


def _row_names(arrays: list[Any]) -> list | None:
    """The names of the rows: of the first table that has any."""
    names = None
    for x in arrays:
        labels = tables.labels(x) if tables.columns(x) is not None or tables.is_row(x) else None
        tables.same_rows(labels, names, "every input")
        names = labels if names is None else names
    return names


# ---- checks ----------------------------------------------------------------------------------------------------------


def _check(array: np.ndarray, spec: Any, name: str) -> np.ndarray:
    """The array, with its shape and whole numbers as declared, and finite values."""
    if array.ndim == 0:
        raise ValueError(f"Expected input {name!r} with a batch axis, received a single number. Give rows.")
    if spec is not None:
        array = _fitted(array, tuple(spec.shape[1:]), name)
    if array.dtype.kind == "f":
        _refuse_not_finite(array, name)
    if spec is not None and array.dtype.kind not in TEXT and not keras.backend.is_float_dtype(spec.dtype):
        with np.errstate(invalid="ignore"):  # what no whole number stands for differs
            cast = array.astype(spec.dtype)
        if (cast != array).any():
            raise TypeError(
                f"Expected input {name!r} to hold {spec.dtype}, as the model declares, received {array.dtype} with "
                f"values such as {array[cast != array][0]}. Encode them as whole numbers."
            )
        return cast if array.dtype.kind in "bf" or spec.dtype == "bool" else array
    return array


def _fitted(array: np.ndarray, shape: tuple, name: str) -> np.ndarray:
    """The array with rows of the declared shape, whose unknown axes are None."""
    if array.ndim == 1 and shape == (1,):
        array = array[:, None]
    fits = array.ndim == len(shape) + 1 and all(w in (None, s) for w, s in zip(shape, array.shape[1:], strict=True))
    if not fits:
        one_row = array.shape == shape
        raise ValueError(
            f"Expected input {name!r} of shape (n, {', '.join(str(s) if s else 'any' for s in shape)}), received "
            f"{array.shape}. " + ("Add the batch axis: inputs[None]." if one_row else "Reshape it.")
        )
    return array


def _refuse_not_finite(array: np.ndarray, name: str) -> None:
    step = max(1, BLOCK // max(1, array[:1].size))
    axes = tuple(range(1, array.ndim))
    bad = [
        first + np.flatnonzero(~np.isfinite(array[first : first + step]).all(axis=axes))
        for first in range(0, len(array), step)
    ]
    rows = np.concatenate(bad or [np.array([], int)])
    if len(rows):
        raise ValueError(
            f"Expected finite inputs, received NaN or infinity in input {name!r}, rows {brief(rows)}. "
            "Impute or drop them."
        )


def brief(rows: Iterable[int], most: int = 10) -> str:
    """Row numbers for a message, the first few of many."""
    rows = [int(r) for r in rows]
    return str(rows[:most])[:-1] + (f", … {len(rows)} in all]" if len(rows) > most else "]")
