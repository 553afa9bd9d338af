"""The answer: values, as an `Explanation` that mirrors the inputs, with names and provenance."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from importlib.metadata import version
from typing import Any

import keras
import numpy as np

from aumann import backends
from aumann.core import baselines, paths, refinement, targets
from aumann.explain.endpoints import Endpoints
from aumann.explain.problem import Problem
from aumann.explain.result import Result
from aumann.explanation import Explanation


def explanation(
    problem: Problem, ends: Endpoints, result: Result, residual: np.ndarray, fingerprint: dict
) -> Explanation:
    """The answer to a problem.

    Args:
        ends, result: what was computed of it.
        residual: Σφ − (F(x) − F(x′)), (n, targets).
        fingerprint: of the model.
    """
    for a in (*result.values, ends.prediction, ends.base_value, residual, result.evaluations, result.error):
        if a is not None:
            a.flags.writeable = False  # an explanation would copy what others can write to
    one = _without_targets(problem)
    return Explanation(
        **_mirrors(problem, [one(v) for v in result.values]),
        prediction=one(ends.prediction),
        base_value=one(ends.base_value),
        residual=one(residual),
        **_errors(problem, result),
        evaluations=result.evaluations,
        names=_names(problem, ends),
        provenance=_provenance(problem, ends, result, fingerprint),
    )


def predicted(problem: Problem, positions: np.ndarray) -> list | None:
    """The class that "predicted" stands for in each row and target, None for other targets; None for none.

    Args:
        positions: (1 or n, targets), of each target in the outputs of a row.
    """
    if all(c.choices is None for c in problem.columns):
        return None
    classes = []
    for j, c in enumerate(problem.columns):
        index = np.broadcast_to(positions[:, j], problem.rows)
        first = None if c.choices is None else np.broadcast_to(c.choices[:, 0], problem.rows)
        classes.append([None] * problem.rows if first is None else (index - first).tolist())
    several = targets.is_several(problem.target)
    return [list(row) for row in zip(*classes, strict=True)] if several else classes[0]


def fingerprint(model: Any) -> dict[str, str]:
    """Name and, for a Keras model, a hash of the weights: the same numbers came from the same model."""
    name = getattr(model, "name", None) or getattr(model, "__name__", type(model).__name__)
    if not isinstance(model, keras.Layer):
        return {"name": str(name)}
    digest = hashlib.blake2b(digest_size=8)
    for v in model.weights:
        digest.update(np.ascontiguousarray(backends.active().host(v.value)).tobytes())
    return {"name": str(name), "weights": digest.hexdigest()}


def _without_targets(problem: Problem) -> Callable[[np.ndarray], np.ndarray]:
    """Takes the axis of targets away where one was asked for."""
    return (lambda a: a) if targets.is_several(problem.target) else (lambda a: a[:, 0])


# ---- errors ------------------------------------------------------------------------------------------------------


def _errors(problem: Problem, result: Result) -> dict[str, Any]:
    """What is known of the error: nothing, for a rule on given nodes."""
    if result.error is None:
        return {}
    one, tolerance = _without_targets(problem), result.how.tolerance
    errors = {"error": one(result.error)}
    if tolerance is not None:
        errors["converged"] = one(result.error <= tolerance)
    if result.standard_error is not None:
        errors["standard_error"] = _like_values(problem, [one(e) for e in result.standard_error])
    if problem.oracle.by_name:
        if len(result.parts) > 1:
            errors["input_error"] = _by_name(problem, map(one, result.parts))
    elif len(problem.leaves) > 1:
        errors["input_error"] = problem.pack([one(e) for e in _leaf_errors(problem, result)])
    return errors


def _leaf_errors(problem: Problem, result: Result) -> np.ndarray:
    """For every leaf (n, targets): the error of its own values, which may be those of several layers."""
    leaves = problem.oracle.leaves_of_moving
    sizes = [refinement.size(v) for v in result.values]
    off, mass = (np.zeros((len(problem.leaves), *result.error.shape)) for _ in range(2))
    for i, part, size in zip(leaves, result.parts, sizes, strict=True):
        known = np.isfinite(part)
        off[i] += np.where(known, np.where(known, part, 0) * size, np.inf)
        mass[i] += size
    return np.divide(off, mass, out=np.where(off > 0, np.inf, 0), where=mass > 0)


# ---- mirrors -----------------------------------------------------------------------------------------------------


def _mirrors(problem: Problem, values: Sequence[np.ndarray]) -> dict[str, Any]:
    """Values, inputs and baseline: like the inputs, a layer standing for the one that it reads, or by name."""
    o, starts = problem.oracle, problem.start_points
    like_values = _like_values(problem, values)
    if not o.by_name:
        inputs, baseline = problem.pack(problem.arrays), problem.pack(_baselines(problem))
        return {"values": like_values, "inputs": inputs, "baseline": baseline}
    if o.target_layers:
        return {"values": like_values, "inputs": _by_name(problem, _layer_values(problem)), "baseline": None}
    inputs = [*(problem.arrays[i] for i in o.moving), *_layer_values(problem)]
    points = [p[:, 0] if starts.count == 1 else p for p in starts.points]
    return {"values": like_values, "inputs": _by_name(problem, inputs), "baseline": _by_name(problem, points)}


def _like_values(problem: Problem, arrays: Sequence[np.ndarray]) -> Any:
    return _by_name(problem, arrays) if problem.oracle.by_name else problem.pack(_by_leaf(problem, arrays))


def _by_name(problem: Problem, arrays: Iterable) -> Any:
    """One array alone, or each under the name of its layer, or of its input."""
    arrays = list(arrays)
    return arrays[0] if len(arrays) == 1 else dict(zip(problem.oracle.labels, arrays, strict=True))


def _layer_values(problem: Problem) -> list[np.ndarray]:
    """Values of the named layers at x: for each call (n, *row)."""
    o = problem.oracle
    layers = [np.empty((problem.rows, *r.shape), o.dtype) for r in o.target_layers or o.embedding_inputs]
    program = o.programs.layer_values() if o.target_layers else o.programs.embedding_values()
    for rows, real in program.tuner.groups(problem.rows):
        points, side = problem.load(rows)
        batch = program(points, side) if o.target_layers else points[len(o.moving) :]
        for array, y in zip(layers, batch, strict=True):
            array[rows[:real]] = o.backend.host(y)[:real]
    return layers


def _by_leaf(problem: Problem, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Values of every leaf: exact zeros where nothing moved, layers side by side where several read one leaf."""
    o = problem.oracle
    lead = arrays[0].shape[: 1 + targets.is_several(problem.target)]
    parts = {i: [arrays[j]] for j, i in enumerate(o.moving)}
    for layer_call, array in zip(o.embedding_inputs, arrays[len(o.moving) :], strict=True):
        parts.setdefault(layer_call.leaves[0], []).append(array)
    leaves = []
    for i, leaf in enumerate(problem.arrays):
        of_leaf = parts.get(i)
        if of_leaf is None:
            of_leaf = [np.zeros((*lead, *leaf.shape[1:]), o.dtype)]
        leaves.append(of_leaf[0] if len(of_leaf) == 1 else np.concatenate(of_leaf, axis=-1))
    return leaves


def _baselines(problem: Problem) -> list[np.ndarray]:
    """Baselines of every leaf."""
    o, starts = problem.oracle, problem.start_points
    parts = {i: [starts.points[j]] for j, i in enumerate(o.moving)}
    for j, layer_call in enumerate(o.embedding_inputs):
        parts.setdefault(layer_call.leaves[0], []).append(starts.points[len(o.moving) + j])
    leaves = []
    for i, array in enumerate(problem.arrays):
        still = [np.zeros((1, 1), o.dtype)] if o.roles[i] != baselines.FIXED else [array[:, None]]
        of_leaf = parts.get(i, still)
        if len(of_leaf) > 1:  # layers side by side, as their values
            lead = np.broadcast_shapes(*(p.shape[:2] for p in of_leaf))
            shapes = [r.shape for r in o.embedding_inputs if r.leaves == (i,)]
            of_leaf = [np.broadcast_to(p, (*lead, *s)) for p, s in zip(of_leaf, shapes, strict=True)]
        start = of_leaf[0] if len(of_leaf) == 1 else np.concatenate(of_leaf, axis=-1)
        leaves.append(start[:, 0] if starts.count == 1 else start)
    return leaves


# ---- records -----------------------------------------------------------------------------------------------------


def _names(problem: Problem, ends: Endpoints) -> dict[str, Any]:
    o, leaves = problem.oracle, problem.leaves
    names = {"targets": [c.name for c in problem.columns], "outputs": [x.name for x in o.outputs]}
    if problem.row_names is not None:
        names["rows"] = problem.row_names
    if (classes := predicted(problem, ends.positions)) is not None:
        names["predicted"] = classes
    if o.by_name:
        features = [] if o.target_layers else [leaves[i].features for i in o.moving]
        if any(features):
            names["features"] = _by_name(problem, [*features, *(None for _ in o.embedding_inputs)])
    else:
        away = _at_layers(problem)
        features = [None if i in away else leaf.features for i, leaf in enumerate(leaves)]
        if any(features):
            names["features"] = problem.pack(features)
        if away:
            names["axes"] = problem.pack([away.get(i) for i in range(len(leaves))])
    return names


def _at_layers(problem: Problem) -> dict[int, list[None]]:
    """By leaf, the axes of values at a layer that are none of the input's: of all layers but Embeddings of ids."""
    o, away = problem.oracle, {}
    for layer_call in o.embedding_inputs:
        leaf = layer_call.leaves[0]
        row = problem.arrays[leaf].shape[1:]
        if not (o.holds_ids(leaf) and layer_call.shape[:-1] == row):
            away[leaf] = [None] * len(layer_call.shape)
    return away


def _provenance(problem: Problem, ends: Endpoints, result: Result, fingerprint: dict) -> dict[str, Any]:
    o, method, how = problem.oracle, problem.method, result.how
    output, precision = method.output, method.execution.precision
    versions, device = o.backend.describe()
    classes = predicted(problem, ends.positions)
    if o.by_name:
        layers = {r.site.name: r.site.side for r in o.target_layers or o.embedding_inputs}
    else:
        layers = {o.names[r.leaves[0]]: r.site.name for r in o.embedding_inputs}
    names = list(dict.fromkeys(map(paths.name, problem.paths)))
    return {
        "method": type(method).__name__,
        **how.stopping_rule,
        **({"path": names if len(names) > 1 else names[0]} if names != ["straight"] else {}),
        **({"path laid at": how.affine_prefix} if how.affine_prefix else {}),
        **({} if ends.complete else {"complete": False}),
        **({} if ends.cuts_graph else {"cuts": False}),
        "output": output if output is None else str(getattr(output, "name", output)),
        **({"predicted": classes} if classes is not None else {}),
        **({"explained": "before the final softmax or sigmoid"} if o.hidden else {}),
        **({"layers": layers} if layers else {}),
        **({"fixed": f} if (f := [n for n, r in zip(o.names, o.roles, strict=True) if r == "fixed"]) else {}),
        "baselines": problem.start_points.count,
        "batch_size": how.batch_size,
        **({"compile": " and ".join(modes)} if (modes := o.programs.compile_modes) else {}),
        "dtype": o.dtype,
        **({} if precision == "full" else {"precision": precision}),
        "backend": keras.config.backend(),
        "device": problem.device_pool.names or device,
        "versions": {"aumann": version("aumann"), "keras": keras.__version__, "numpy": np.__version__, **versions},
        "model": fingerprint,
    }
