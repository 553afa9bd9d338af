"""Start points: where the paths begin, that is what `baseline=` says for each moving input."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from aumann.core import baselines
from aumann.features import tables
from aumann.features.conversion import TEXT
from aumann.model import inputs
from aumann.model.caller import LayerCall
from aumann.model.oracle import Oracle
from aumann.model.signature import Leaf, as_dtype


def resolve(
    oracle: Oracle, paths: Sequence[Callable], structure: Any, leaves: Sequence[Leaf], baseline: Any
) -> tuple[baselines.StartPoints, dict[int, np.ndarray]]:
    """The start points of all paths of a problem.

    Args:
        oracle: whose inputs move: inputs of the model, then what layers read.
        paths: one for each moving input, some of which begin where they say.
        structure: of the inputs.
        leaves: of the inputs, whose columns a table is matched with by name.
        baseline: as `explain` is given it.

    Returns:
        (the start points; by leaf, input-space baselines (1 or n, 1 or m, *row), which a layer reads as it reads x)

    Raises:
        ValueError, TypeError: the baseline does not fit the inputs.
    """
    arrays = [leaf.array for leaf in leaves]
    by_leaf, weights = _split(oracle, structure, leaves, baseline)
    rows, points, input_space = len(arrays[0]), [], {}
    for i in oracle.moving:
        value, is_set = by_leaf[i]
        points.append(baselines.broadcast(value, is_set, arrays[i].shape[1:], rows, oracle.names[i]))
    for k, layer_call in enumerate(oracle.embedding_inputs, len(oracle.moving)):
        start, as_inputs = _at_layer(oracle, k, layer_call, arrays, by_leaf)
        points.append(start)
        input_space |= as_inputs
    for start, leaf in zip(points, oracle.leaves_of_moving, strict=True):
        as_dtype(start, oracle.dtype, f"the baseline of input {oracle.names[leaf]!r}")  # refuses what that cannot hold
    starts = [
        _of_path(oracle, path, k, start, arrays) for k, (path, start) in enumerate(zip(paths, points, strict=True))
    ]
    return baselines.combined(starts, weights, rows), input_space


def _split(
    oracle: Oracle, structure: Any, leaves: Sequence[Leaf], baseline: Any
) -> tuple[list[tuple[Any, bool]], np.ndarray | None]:
    """A (value, is_set) for each leaf, and the weights of a set."""
    kind = inputs.packing(structure, len(leaves))
    if isinstance(structure, (list, tuple)) and kind == "leaf" and isinstance(baseline, (list, tuple)):
        kind = "list"
    arrays = [tables.named(leaf.array, leaf.features) for leaf in leaves]
    by_leaf, weights = baselines.split(baseline, oracle.names, kind, arrays)
    clean, named = [], _named(baseline, [leaf.name for leaf in leaves])
    for (value, is_set), role, leaf, is_named in zip(by_leaf, oracle.roles, leaves, named, strict=True):
        if is_named and role == baselines.FIXED:
            _refuse_still(value, leaf)
        if role != baselines.FIXED and not (np.isscalar(value) or value is None or callable(value)):
            what = f"the baseline of input {leaf.name!r}"
            value = inputs.by_name(value, what, leaf.features, leaf.rows, is_set)
            if role == "read" and value.dtype.kind in "iu":
                _refuse_wrapped(value, leaf)
        clean.append((value, is_set))
    return clean, weights


def _named(baseline: Any, names: list[str]) -> list[bool]:
    """For each input whether a dict or list has a value for it, which is not made by a function."""
    baseline = baseline.rows if isinstance(baseline, baselines.Weighted) else baseline
    values: Sequence[Any] = [None] * len(names)
    if isinstance(baseline, dict):
        values = [baseline.get(name) for name in names]
    elif isinstance(baseline, (list, tuple)) and len(baseline) == len(names):
        values = baseline
    return [not (b is None or callable(b) or isinstance(b, str)) for b in values]


def _refuse_still(value: Any, leaf: Leaf) -> None:
    """A baseline of an input that does not move, other than what the input is."""
    try:
        same = (np.asarray(value) == leaf.array).all()
    except Exception:  # whatever other libraries raise
        same = False
    if not same:
        raise ValueError(
            f"Expected no baseline of input {leaf.name!r}, which is held still: it holds {leaf.array.dtype} that no "
            f"Embedding reads, as masks and lengths are; received {value!r:.80}. Give a dict that leaves it out or has "
            f'{{{leaf.name!r}: "fixed"}}; to explain it, declare it as a float input of the model.'
        )


def _refuse_wrapped(ids: np.ndarray, leaf: Leaf) -> None:
    """Ids that another whole number would stand for, in the dtype that the model reads."""
    dtype = np.dtype(leaf.declared if leaf.declared and "int" in leaf.declared else leaf.array.dtype)
    if dtype.kind in "iu" and ids.size:
        least, most = int(ids.min()), int(ids.max())
        if least < np.iinfo(dtype).min or most > np.iinfo(dtype).max:
            raise ValueError(
                f"Expected ids that {dtype} holds as the baseline of input {leaf.name!r}, received ids from {least} to "
                f"{most}. Give ids of the model's vocabulary."
            )


def _at_layer(
    oracle: Oracle, k: int, layer_call: LayerCall, arrays: list[np.ndarray], by_leaf: list[tuple[Any, bool]]
) -> tuple[np.ndarray, dict[int, np.ndarray]]:
    """The baseline of moving input k, the values of a layer: given there, or by leaf as inputs that it reads.

    Where ids lead to the layer a float constant is one of the layer, as of an Embedding: 0.0 is its zero vector.
    Otherwise a constant is one of the input. Several inputs that lead to a layer have one constant of the layer
    together, or baselines of their own.

    Returns:
        (the baseline at the layer; by leaf those that were given as inputs and are no ids)
    """
    rows, as_inputs = len(arrays[0]), {}
    constants = {i: v for i in layer_call.leaves if (v := np.asarray(by_leaf[i][0])).shape == ()}
    of_layer = [i for i, v in constants.items() if oracle.holds_ids(i) and v.dtype.kind == "f"]
    if of_layer:
        i, v = of_layer[0], constants[of_layer[0]]
        if len(constants) < len(layer_call.leaves) or any(other != v for other in constants.values()):
            raise ValueError(_one_of_two(oracle, layer_call, by_leaf))
        return baselines.broadcast(*by_leaf[i], layer_call.shape, rows, layer_call.site.name), {}
    for i in layer_call.leaves:
        value, is_set = by_leaf[i]
        array = np.asarray(value)
        row = arrays[i].shape[1:]
        if len(layer_call.leaves) == 1 and i not in constants and array.shape[-len(row) :] != row:
            return baselines.broadcast(value, is_set, layer_call.shape, rows, oracle.names[i]), {}
        if oracle.holds_ids(i) and array.dtype.kind == "f":
            raise TypeError(
                f"Expected integer token ids as the baseline of input {oracle.names[i]!r}, received dtype "
                f"{array.dtype}. Give ids, or an array of the layer's own shape {layer_call.shape}."
            )
        texts, codes = np.unique(array, return_inverse=True) if oracle.kinds[i] in TEXT else (None, value)
        as_inputs[i] = baselines.broadcast(codes, is_set, row, rows, oracle.names[i])
        if texts is not None:
            as_inputs[i] = texts[as_inputs[i]]
    start = _layer_values(oracle, k, layer_call, arrays, as_inputs)
    return start, {i: start for i, start in as_inputs.items() if not oracle.holds_ids(i)}


def _layer_values(
    oracle: Oracle, k: int, layer_call: LayerCall, arrays: list[np.ndarray], as_inputs: dict[int, np.ndarray]
) -> np.ndarray:
    """What the layer of moving input k gives at baselines of inputs: (1 or n, 1 or m, *row)."""
    n, m = np.broadcast_shapes(*(start.shape[:2] for start in as_inputs.values()))
    n = len(arrays[0]) if layer_call.mixed else n
    values = np.empty((n * m, *layer_call.shape), oracle.dtype)
    for pairs, real in oracle.programs.embedding_values().tuner.groups(n * m):
        leaves = [x[pairs // m] for x in arrays]
        for i, start in as_inputs.items():
            full = np.broadcast_to(start, (n, m, *leaves[i].shape[1:]))
            leaves[i] = full[pairs // m, pairs % m]
            if oracle.kinds[i] not in TEXT:  # whose dtype is a length
                leaves[i] = leaves[i].astype(arrays[i].dtype)
        values[pairs[:real]] = oracle.backend.host(oracle.load(leaves)[0][k])[:real]
    return values.reshape(n, m, *layer_call.shape)


def _one_of_two(oracle: Oracle, layer_call: LayerCall, by_leaf: list[tuple[Any, bool]]) -> str:
    names = [oracle.names[i] for i in layer_call.leaves]
    told = ", ".join(f"{np.asarray(by_leaf[i][0]).tolist()!r:.40} for {oracle.names[i]!r}" for i in layer_call.leaves)
    return (
        f"Expected one float constant of layer {layer_call.site.name!r} for all inputs that lead to it, {names}, or a "
        f"baseline of each of them, ids for ids; received {told} (0.0 where none was given). Give baseline=0.0 for the "
        f"zero vector of the layer, or a baseline for every one of {names}."
    )


def _of_path(oracle: Oracle, path: Any, k: int, start: np.ndarray, arrays: list[np.ndarray]) -> np.ndarray:
    """The start point that was given, or the one that a path says."""
    if not hasattr(path, "start"):
        return start
    name = oracle.names[oracle.leaves_of_moving[k]]
    if start.any():
        raise ValueError(
            f"Expected no baseline for input {name!r}, whose path {path!r} has its own; received one. Leave it out."
        )
    if k >= len(oracle.moving):
        raise ValueError(
            f"Expected path {path!r} at an input, received it for {name!r}, which is read by a layer. Give the "
            "path to another input."
        )
    return path.start(arrays[oracle.moving[k]])[:, None]
