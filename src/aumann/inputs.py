"""Inputs: whatever array-like the user hands over, as named host arrays checked against what the model declares."""

import keras
import numpy as np
from keras import tree

from aumann import backends
from aumann.core.baselines import FIXED
from aumann.oracle import TEXT, Leaf


def to_array(x, what, still=False):
    """One array-like as a host array and its column names; `what` it is called in a message.

    Text is let pass where it stays `still`.

    Raises:
        ValueError, TypeError: it is ragged or not numeric.
    """
    features = None
    if hasattr(x, "columns") and hasattr(x, "to_numpy"):
        features, types = [str(c) for c in x.columns], list(x.dtypes)
        nullable = all(getattr(t, "kind", "O") in "biuf" for t in types) and not all(
            isinstance(t, np.dtype) for t in types
        )
        x = x.to_numpy(**({"dtype": np.float64, "na_value": np.nan} if nullable else {}))
    elif backends.active().owns(x):
        x = backends.active().host(x)
    elif hasattr(x, "detach"):
        x = x.detach().cpu()
        x = (x.float() if str(x.dtype) == "torch.bfloat16" else x).numpy()
    try:
        array = np.asarray(x)
    except ValueError as error:
        raise ValueError(
            f"Expected {what} to be one array, received rows of different shapes ({error}). Pad them to one shape."
        ) from error
    if array.dtype.name == "bfloat16":
        array = array.astype("float32")
    if still and array.dtype.kind == "O" and all(isinstance(v, (str, bytes)) for v in array.flat):
        array = np.array(array.tolist()).reshape(array.shape)
    if array.dtype.kind not in ("biuf" + TEXT if still else "biuf"):
        raise TypeError(
            f"Expected numbers for {what}, received dtype {array.dtype}. Encode text and categories as numbers "
            "first, and give every column one numeric type."
        )
    return array, features


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
    if hasattr(inputs, "columns") and isinstance(getattr(model, "_inputs_struct", None), dict):
        missing = [k for k in model._inputs_struct if k not in inputs.columns]
        if missing:
            raise ValueError(
                f"Expected columns named as the model's inputs, {list(model._inputs_struct)}; received a DataFrame "
                f"without {missing}. Rename or add them."
            )
        inputs = {k: inputs[[k]] for k in model._inputs_struct}
    if isinstance(inputs, (list, tuple)) and any(np.isscalar(x) for x in tree.flatten(inputs)):
        inputs, _ = to_array(inputs, "the inputs")
    flat = tree.flatten_with_path(inputs)
    if not flat:
        raise ValueError("Expected inputs, received an empty structure. Give an array, or a list or dict of arrays.")
    specs = _match(declared, inputs, [path for path, _ in flat])
    leaves = []
    for i, ((path, x), spec) in enumerate(zip(flat, specs, strict=True)):
        name = "/".join(map(str, path)) if path and not isinstance(path[-1], int) else None
        name = name or (spec.name if spec is not None else "input" + "".join(f"_{p}" for p in path))
        still = fixed(i, name)
        array, features = to_array(x, f"input {name!r}", still)
        array = _check(array, spec, name)
        kind = array.dtype.kind
        role = FIXED if kind == "b" or still else "moves" if kind == "f" else "integer"
        leaves.append(Leaf(name, array, role, features, spec.dtype if spec is not None else None))
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
