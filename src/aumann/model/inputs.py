"""Inputs: whatever array-like the user hands over, as named host arrays checked against what the model declares."""

from dataclasses import replace

import keras
import numpy as np
from keras import tree

from aumann.core.baselines import FIXED, Weighted
from aumann.features import tables
from aumann.features.conversion import TEXT, to_array
from aumann.features.conversion import by_name as by_name
from aumann.model.signature import Leaf


def packing(structure, count):
    """How `count` leaves are packed: a "leaf" alone, a "list" or a "dict"."""
    return "dict" if isinstance(structure, dict) else "leaf" if count == 1 else "list"


def read(model, inputs, fixed):
    """The user's inputs as a structure and a list of leaves.

    Args:
        model: for its declared names, shapes and dtypes, where it has them.
        inputs: array, list, tuple, dict or DataFrame.
        fixed: function of a leaf's position and name -> whether the user holds it still.

    Returns:
        (structure whose leaves are placeholders, list of Leaf in the order of `keras.tree.flatten`)
    """
    declared = declared_inputs(model)
    if tables.columns(inputs) is not None:
        inputs = _cut(inputs, declared, model)
    if isinstance(inputs, (list, tuple)) and any(np.isscalar(x) for x in tree.flatten(inputs)):
        inputs, _ = to_array(inputs, "the inputs", any(map(_is_text, declared.values())))
    flat = tree.flatten_with_path(inputs)
    if not flat:
        raise ValueError("Expected inputs, received an empty structure. Give an array, or a list or dict of arrays.")
    specs = _match(declared, inputs, [path for path, _ in flat])
    _refuse_other_order(flat, specs)
    leaves, names = [], _row_names([x for _, x in flat])
    for i, ((path, x), spec) in enumerate(zip(flat, specs, strict=True)):
        name = "/".join(map(str, path)) if path and not isinstance(path[-1], int) else None
        name = name or (spec.name if spec is not None else "input" + "".join(f"_{p}" for p in path))
        still = fixed(i, name)
        array, features = to_array(x, f"input {name!r}", still or _is_text(spec))
        if array.dtype.kind == "b" and (features is not None or tables.is_row(x)) and _as_features(spec, len(flat)):
            array = array.astype("float32")  # indicators, as pandas.get_dummies makes them
        array = _check(array, spec, name)
        kind = array.dtype.kind
        role = FIXED if kind == "b" or still else "moves" if kind == "f" else "integer"
        if role != FIXED and 0 in array.shape[1:]:
            raise ValueError(
                f"Expected at least one feature in input {name!r}, received shape {array.shape}. Check how its columns "
                "were chosen."
            )
        leaves.append(Leaf(name, array, role, features, spec.dtype if spec is not None else None, names))
    rows = {leaf.name: len(leaf.array) for leaf in leaves}
    if len(set(rows.values())) > 1:
        raise ValueError(f"Expected the same number of rows in every input, received {rows}. Align them.")
    if not len(leaves[0].array):
        raise ValueError(
            "Expected at least one row to explain, received an empty batch. Check how the rows were chosen."
        )
    return tree.map_structure(lambda _: None, inputs), leaves


def declared_inputs(model):
    """{name: KerasTensor} of a functional or sequential model, in order; empty where nothing is declared."""
    if not isinstance(model, keras.Model) or not getattr(model, "inputs", None):
        return {}
    structure = getattr(model, "_inputs_struct", None)
    if isinstance(structure, dict):
        return dict(structure)
    return {t.name: t for t in model.inputs}


def declared_rows(model):
    """The number of rows that a model declares, the same for all of its inputs, or None."""
    rows = {t.shape[0] for t in declared_inputs(model).values()}
    return rows.pop() if len(rows) == 1 else None


def _cut(table, declared, model):
    """A table for a model of several inputs as the column, or the columns under the name, of each of them."""
    levels = getattr(getattr(table, "columns", None), "nlevels", 1)
    if len(declared) < 2:
        (only,) = declared or (None,)
        named = isinstance(getattr(model, "_inputs_struct", None), dict)
        if not named:
            return table
        known = tables.heads(table)
        return tables.by_input(table, [only], known) if only in known else {only: table}
    each = tables.by_input(table, list(declared), tables.heads(table))
    wide = [name for name, spec in declared.items() if levels == 1 and spec.shape[1:] not in ((), (1,), (None,))]
    if wide:
        raise ValueError(
            f"Expected a dict with an entry for each of the inputs {list(declared)}, since {wide} take more than one "
            f"column each; received one table. Give {{{wide[0]!r}: table[[…]], …}}."
        )
    return {name: x if declared[name].shape[1:] else tables.series(x)[0] for name, x in each.items()}


def _as_features(spec, count):
    """Whether booleans of a table are numbers to the model: declared as such, or all that it is given."""
    return count == 1 if spec is None else keras.backend.is_float_dtype(spec.dtype)


def each_of(baseline, structure, leaves, inputs):
    """A table that is the baseline of several inputs, or a set of them, as a dict with an entry for each.

    Args:
        baseline: as it is given; what is no table stays as it is.
        inputs: as they are given: columns of theirs that no input reads may be in the baseline too.
    """
    if isinstance(baseline, Weighted):
        return replace(baseline, rows=each_of(baseline.rows, structure, leaves, inputs))
    if packing(structure, len(leaves)) == "leaf" or not (tables.is_row(baseline) or tables.columns(baseline)):
        return baseline
    names = [leaf.name for leaf in leaves]
    if len(names) == 1:
        return {names[0]: baseline}
    others = tables.columns(inputs)
    each = tables.by_input(baseline, names, tables.heads(inputs) if others is not None else ())
    flat = [leaf.name for leaf in leaves if leaf.array.ndim == 1]
    return {n: tables.series(x)[0] if n in flat and not tables.is_row(x) else x for n, x in each.items()}


def _refuse_other_order(flat, specs):
    """Columns in a list that are called like inputs stand where those are."""
    names = [spec.name if spec is not None else None for spec in specs]
    for (path, x), name in zip(flat, names, strict=True):
        own = getattr(x, "name", None) if tables.is_row(x) else None
        in_list = not path or isinstance(path[-1], int)
        if in_list and isinstance(own, str) and own != name and own in names:
            raise ValueError(
                f"Expected the inputs {names} in this order, received the column {own!r} in the place of {name!r}. "
                "Give a dict of the columns by the names of the inputs, or a list in their order."
            )


def _row_names(arrays):
    """The names of the rows: of the first table that has any."""
    found = None
    for x in arrays:
        labels = tables.labels(x) if tables.columns(x) is not None or tables.is_row(x) else None
        tables.same_rows(labels, found, "every input")
        found = labels if found is None else found
    return found


def _is_text(spec):
    return spec is not None and spec.dtype == "string"


def _match(declared, inputs, paths):
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


def _check(array, spec, name):
    """Shape and whole numbers as declared, and finite values."""
    if array.ndim == 0:
        raise ValueError(f"Expected input {name!r} with a batch axis, received a single number. Give rows.")
    if spec is not None:
        shape = spec.shape[1:]
        if array.ndim == 1 and tuple(shape) == (1,):
            array = array[:, None]
        fits = array.ndim == len(shape) + 1 and all(w in (None, s) for w, s in zip(shape, array.shape[1:], strict=True))
        if not fits:
            one = array.shape == tuple(shape)
            raise ValueError(
                f"Expected input {name!r} of shape (n, {', '.join(str(s) if s else 'any' for s in shape)}), received "
                f"{array.shape}. " + ("Add the batch axis: inputs[None]." if one else "Reshape it.")
            )
    if array.dtype.kind == "f":
        step = max(1, (1 << 24) // max(1, array[:1].size))
        bad = np.concatenate(
            [
                i + np.flatnonzero(~np.isfinite(array[i : i + step]).all(axis=tuple(range(1, array.ndim))))
                for i in range(0, len(array), step)
            ]
            or [np.array([], int)]
        )
        if len(bad):
            raise ValueError(
                f"Expected finite inputs, received NaN or infinity in input {name!r}, rows {brief(bad)}. "
                "Impute or drop them."
            )
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


def brief(rows, most=10):
    """Row numbers for a message, the first few of many."""
    rows = [int(r) for r in rows]
    return str(rows[:most])[:-1] + (f", … {len(rows)} in all]" if len(rows) > most else "]")
