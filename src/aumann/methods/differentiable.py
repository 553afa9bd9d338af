"""Priors: an attribution in tensors of the active framework, differentiable in the weights, to stand in a loss."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from keras import ops, random, tree
from keras.backend import is_float_dtype, standardize_dtype

from aumann import backends
from aumann.core.baselines import FIXED
from aumann.core.paths import straight
from aumann.core.quadrature import Rule, gauss_legendre
from aumann.model.signature import calling_convention


def attribution(
    model: Any,
    inputs: Any,
    target: Any = None,
    baseline: Any = 0.0,
    rule: Rule | None = None,
    seed: random.SeedGenerator | None = None,
) -> Any:
    """Integrated gradients as tensors that a training loss may hold, φ = Σₖ wₖ (x − x′) ∘ ∂F(x′ + tₖ (x − x′)).

    To be called where Keras computes a loss: in `Model.compute_loss` on every backend, in a `tf.GradientTape`, in a
    function under `jax.grad` within a `keras.StatelessScope`, or before `loss.backward()`:

        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
            loss = super().compute_loss(x, y, y_pred, sample_weight, training)
            return loss + ops.mean(ops.abs(aumann.attribution(self, x, rule=aumann.gauss_legendre(4))[:, 0]))

    The model is called with training=False: the function explained is the one that will predict, no dropout stands
    between the points of a path, and BatchNormalization neither ties the rows of a batch together nor counts the points
    of paths among its statistics. The cost is fixed, since a sum that is refined until it is exact cannot be traced:
    `len(rule)` gradients a row, all in one batch of rows × nodes, and about as many again for the loss's own gradient.
    In ReLU networks φ depends on the weights through the slopes, as it should, though not through where they change.

    Args:
        model: a Keras model or layer, or a function of tensors.
        inputs: float tensors (n, …), or a list, tuple or dict of those, as the model takes them.
        target: which scalar of the output is F: None where it has one unit; an int; integers (n,), as the labels; or a
            callable outputs -> (n,).
        baseline: where the path starts: a number, or what broadcasts to the inputs; for several inputs a structure like
            theirs, in which "fixed" holds an input still, whose φ is zero. A row of the training data for each row,
            drawn anew at each step, makes these expected gradients.
        rule: nodes and weights of the integral, `aumann.gauss_legendre(8)` unless seed is given.
        seed: a `keras.random.SeedGenerator`, in place of a rule: one gradient a row, at a t drawn uniformly for each
            row and call. Make it an attribute of the model, so that Keras carries its state along.

    Returns:
        φ: tensors like the inputs.

    Raises:
        ValueError, TypeError: rule, seed, inputs, target or baseline do not fit.

    Source: Erion, Janizek, Sturmfels, Lundberg, Lee (2021), Improving performance of deep learning models with
    axiomatic attribution priors and expected gradients.
    """
    rule = _rule(rule, seed)
    ends = [ops.convert_to_tensor(x) for x in tree.flatten(inputs)]
    starts = _starts(inputs, baseline, ends)
    times, weights = _nodes(rule, seed, ops.shape(ends[0])[0])
    points, velocities = _points(starts, ends, times)
    moving = list(velocities)
    values = _function(model, inputs, target, points, moving, len(weights))
    phi = [ops.zeros_like(end) for end in ends]
    slopes = backends.active().slopes(values, [points[i] for i in moving])
    for i, slope in zip(moving, slopes, strict=True):
        if slope is not None:
            slope = ops.reshape(slope, (-1, len(weights), *ends[i].shape[1:]))
            w = ops.convert_to_tensor(weights, slope.dtype)
            w = ops.reshape(w, (1, len(weights), *(1,) * (len(slope.shape) - 2)))
            phi[i] = velocities[i][:, 0] * ops.sum(w * slope, axis=1)
    return tree.pack_sequence_as(inputs, phi)


def _rule(rule: Rule | None, seed: random.SeedGenerator | None) -> Rule:
    """The rule that was given, or the usual one."""
    if rule is not None and seed is not None:
        raise ValueError(f"Expected a rule or a seed, received rule={rule!r} and a seed. Leave one of them out.")
    if seed is not None and not isinstance(seed, random.SeedGenerator):
        raise TypeError(f"Expected a keras.random.SeedGenerator, received {seed!r}. Make one in the model's __init__.")
    rule = gauss_legendre(8) if rule is None else rule
    if not isinstance(rule, Rule) or rule.cells:
        raise TypeError(
            f"Expected a rule of derivatives, received {rule!r}. Give one such as aumann.gauss_legendre(8)."
        )
    return rule


def _starts(inputs: Any, baseline: Any, ends: list) -> list:
    """A tensor for each input that moves, of its shape and dtype; None for those held still."""
    baselines = [baseline] * len(ends)
    if isinstance(inputs, (list, tuple, dict)) and isinstance(baseline, (list, tuple, dict)):
        tree.assert_same_structure(inputs, baseline)
        baselines = tree.flatten(baseline)
    starts: list[Any] = []
    for start, end in zip(baselines, ends, strict=True):
        if isinstance(start, str) and start == FIXED:
            starts.append(None)
            continue
        if not is_float_dtype(standardize_dtype(end.dtype)):
            raise TypeError(
                f"Expected float inputs, received {standardize_dtype(end.dtype)}, in which no path moves. Cast them, "
                'or hold this input still with "fixed" in its place in baseline=.'
            )
        starts.append(ops.broadcast_to(ops.convert_to_tensor(start, end.dtype), ops.shape(end)))
    if all(start is None for start in starts):
        raise ValueError('Expected an input that moves, received "fixed" for every one. Hold fewer of them still.')
    return starts


def _nodes(rule: Rule, seed: random.SeedGenerator | None, rows: Any) -> tuple[Any, np.ndarray]:
    """Nodes (1 or rows, nodes) and weights (nodes,): those of the rule, or one drawn for each row."""
    if seed is None:
        return ops.convert_to_tensor(rule.nodes[None], "float32"), rule.weights
    return random.uniform((rows, 1), dtype="float32", seed=seed), np.ones(1)


def _points(starts: list, ends: list, times: Any) -> tuple[list, dict[int, Any]]:
    """For each input the points of all paths (rows · nodes, …), and by input that moves the velocities."""
    width = times.shape[1]
    points, velocities = [], {}
    for i, (start, end) in enumerate(zip(starts, ends, strict=True)):
        if start is None:
            points.append(ops.repeat(end, width, axis=0))
            continue
        t = ops.cast(ops.reshape(times, (-1, width, *(1,) * (len(end.shape) - 1))), end.dtype)
        point, velocities[i] = straight(ops.expand_dims(start, 1), ops.expand_dims(end, 1), t)
        points.append(ops.reshape(point, (-1, *end.shape[1:])))
    return points, velocities


def _function(model: Any, inputs: Any, target: Any, points: list, moving: list[int], width: int) -> Callable:
    """F of the inputs that move, the others being what `points` has for them."""
    arguments = calling_convention(model, inputs)

    def values(moved: list) -> Any:
        tensors = list(points)
        for i, point in zip(moving, moved, strict=True):
            tensors[i] = point
        args, kwargs = arguments(tree.pack_sequence_as(inputs, tensors))
        return _scalar(model(*args, **kwargs), target, width)

    return values


def _scalar(outputs: Any, target: Any, width: int) -> Any:
    """F at the points of every row, (n · width,)."""
    if callable(target):
        return target(outputs)
    if not ops.is_tensor(outputs):
        raise ValueError(
            f"Expected one output tensor, received a {type(outputs).__name__} of them. Give target= as a function of "
            "the outputs, such as lambda outputs: outputs[0][:, 1]."
        )
    if target is None:
        if any(size != 1 for size in outputs.shape[1:]):
            raise ValueError(
                f"Expected a target, since the output has shape {tuple(outputs.shape)}; received none. Give an int, "
                "the labels (n,), or a function outputs -> (n,)."
            )
        return ops.reshape(outputs, (-1,))
    if len(outputs.shape) != 2:
        raise ValueError(
            f"Expected outputs of shape (n, classes) for an integer target, received {tuple(outputs.shape)}. Give a "
            "function outputs -> (n,)."
        )
    if isinstance(target, (int, np.integer)) and not isinstance(target, bool):
        if not -outputs.shape[1] <= target < outputs.shape[1]:
            raise ValueError(
                f"Expected a target between 0 and {outputs.shape[1] - 1}, received {target}. Count the output's units."
            )
        return outputs[:, int(target)]
    target = ops.convert_to_tensor(target)
    if is_float_dtype(standardize_dtype(target.dtype)) or len(target.shape) != 1:
        raise ValueError(
            f"Expected one integer for each row as target, received {standardize_dtype(target.dtype)} of shape "
            f"{tuple(target.shape)}. Cast labels and take their last axis off."
        )
    index = ops.expand_dims(ops.repeat(ops.cast(target, "int32"), width, axis=0), 1)
    return ops.take_along_axis(outputs, index, axis=1)[:, 0]
