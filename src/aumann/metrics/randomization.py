"""Randomization: whether an explanation notices that the weights of the model were shuffled."""

import contextlib
import functools
from dataclasses import dataclass

import keras
import numpy as np
from keras import tree

from aumann import backends
from aumann.arguments import choice
from aumann.backends import keras_private
from aumann.explanation import feature_axes
from aumann.metrics.probe import Probe
from aumann.metrics.values_alone import checked_by, optional


@dataclass(frozen=True, eq=False)
class Randomization:
    """Similarity of every row's values to those of the trained model.

    Attributes:
        layers: names, in the order in which they were randomized.
        similarity: (layers, n) or (layers, n, targets), between −1 and 1; NaN where one of the two is constant.
    """

    layers: list
    similarity: np.ndarray


def randomization(
    explainer,
    explanation,
    target=None,
    *,
    by,
    mode="cascading",
    similarity="spearman",
    layers=None,
    draw=None,
    axis=None,
    baseline=None,
    seed=0,
):
    """Values explained again with the weights of one layer after another randomized, compared with the trained model's.

    An explanation that stays similar does not depend on what the model has learned. Every weight is put back bit for
    bit, whatever happens; the model must not be used by others meanwhile. Costs an explanation of all rows for each
    layer.

    Args:
        explainer: which made the explanation, of a Keras model.
        explanation: an `aumann.Explanation`.
        target: that of the explanation; "predicted" is the class that the trained model predicts.
        by: "signed" compares the values, "absolute" their sizes.
        mode: "cascading" randomizes from the output down, and all above stay randomized; "independent" one layer at a
            time.
        similarity: "spearman", the correlation of ranks over all features that move (scipy); or "ssim", structural
            similarity of maps that are divided by their largest size (scikit-image), for one input that is an image.
        layers: names or objects in the order in which they are randomized; None for every layer that has weights of its
            own, from the output down.
        draw: (weight, generator) -> new weight, on the host; None shuffles the entries of each weight, which keeps
            their scale and leaves those alone whose entries are all alike.
        axis: feature axes that are summed first, as in `Explanation.sum`: -1 makes one feature of a pixel's channels.
        baseline: as in `explain`; None for that of the explanation, if it was not a set.
        seed: of the new weights.

    Returns:
        `Randomization`.

    Raises:
        ValueError, TypeError: an argument does not fit; nothing has been changed.

    Source: Adebayo et al. (2018), Sanity Checks for Saliency Maps.
    """
    checked_by(by)
    choice(mode, ("cascading", "independent"), "mode")
    choice(similarity, ("spearman", "ssim"), "similarity")
    chosen = _layers(getattr(explainer, "model", None), layers)
    probe = Probe(explainer, explanation, target)
    probe.same_targets()
    compare = _spearman if similarity == "spearman" else functools.partial(_ssim, spread=1 if by == "absolute" else 2)
    before = _maps(probe, probe.values, axis, by)
    compare(before, before)  # what it needs is there, before anything is changed
    rng, found = np.random.default_rng(seed), []
    with _restored(v for _, variables in chosen for v in variables) as restore:
        for _, variables in chosen:
            for v in variables:
                v.assign(_drawn(draw, v, rng))
            now = probe.explain(probe.inputs, baseline)
            values = [v if probe.several else v[:, None] for v in tree.flatten(now.values)]
            found.append(probe.one(compare(before, _maps(probe, values, axis, by))))
            if mode == "independent":
                restore()
    return Randomization([name for name, _ in chosen], np.stack(found))


@contextlib.contextmanager
def _restored(variables):
    """Puts values back at the end, or when told: host copies, which no framework changes in place."""
    kept = [(v, np.array(_host(v))) for v in variables]

    def restore():
        for v, value in kept:
            v.assign(value)

    try:
        yield restore
    finally:
        restore()


def _host(v):
    return backends.active().host(v.value)


def _drawn(draw, v, rng):
    value = np.array(_host(v))
    new = rng.permutation(value.ravel()).reshape(value.shape) if draw is None else np.asarray(draw(value, rng))
    if new.shape != value.shape or new.dtype.kind not in "biuf":
        raise ValueError(
            f"Expected draw() to return numbers of shape {value.shape} for {v.path!r}, received {new.dtype} of shape "
            f"{new.shape}. Return a new value for the whole weight."
        )
    return new.astype(value.dtype)


def _layers(model, wanted):
    """(name, variables) of the layers to be randomized."""
    if not isinstance(model, keras.Layer):
        raise TypeError(
            f"Expected an explainer of a Keras model, whose layers are known; received one of {type(model).__name__}. "
            "Wrap what it computes in a keras.Model."
        )
    inside = list(_inside(model))
    if wanted is None:
        chosen = [(layer.name, own) for layer in reversed(inside) if (own := _own(layer))]
    else:
        chosen = []
        for one in wanted if isinstance(wanted, (list, tuple)) else [wanted]:
            same = [x for x in inside if x is one or (isinstance(one, str) and x.name == one)]
            if len(same) != 1:
                raise ValueError(
                    f"Expected layers= to name layers of the model, received {one!r} which names {len(same)}. "
                    f"The layers are {[x.name for x in inside][:40]}."
                )
            chosen.append((same[0].name, _weights(same[0])))
    if not chosen or not all(variables for _, variables in chosen):
        raise ValueError(
            f"Expected layers with weights, received {[name for name, v in chosen if not v] or 'a model without any'}. "
            "Name others with layers=."
        )
    return chosen


def _inside(layer, seen=None):
    """The layer and all inside it, each once, inputs before outputs where the model knows the order."""
    seen = set() if seen is None else seen
    if id(layer) in seen:
        return
    seen.add(id(layer))
    yield layer
    for inner in _below(layer):
        yield from _inside(inner, seen)


def _below(layer):
    return keras_private.sublayers(layer)


def _own(layer):
    """Weights of a layer that are not those of a layer inside it."""
    below = {id(v) for inner in _below(layer) for v in inner.weights}
    return [v for v in _weights(layer) if id(v) not in below]


def _weights(layer):
    return [v for v in layer.weights if keras.backend.is_float_dtype(v.dtype)]


def _maps(probe, values, axis, by):
    """One array (n, targets, …) for each input that moves: the values to compare."""
    summed = []
    for i in probe.moving:
        v = values[i].astype(np.float64)
        axes = feature_axes(axis, v.ndim - 2) if axis is not None else ()
        v = v.sum(tuple(a + 2 for a in axes or ()))
        summed.append(np.abs(v) if by == "absolute" else v)
    return summed


def _spearman(before, now):
    """Pearson's correlation of ranks, equals sharing theirs: (n, targets)."""
    rank = optional("scipy.stats", "scipy", 'similarity="spearman"').rankdata
    flat = [np.concatenate([v.reshape(*v.shape[:2], -1) for v in maps], -1) for maps in (before, now)]
    a, b = (rank(maps, axis=-1) for maps in flat)
    a, b = a - a.mean(-1, keepdims=True), b - b.mean(-1, keepdims=True)
    with np.errstate(invalid="ignore"):  # 0 / 0: maps without ranks are not alike, NaN
        return (a * b).sum(-1) / np.sqrt((a**2).sum(-1) * (b**2).sum(-1))


def _ssim(before, now, spread):
    if len(before) != 1 or before[0].ndim != 4:
        raise ValueError(
            f'Expected one input of maps (height, width) for similarity="ssim", received values of shapes '
            f"{[v.shape for v in before]}. Sum the channels with axis=, or compare by Spearman."
        )
    metrics = optional("skimage.metrics", "scikit-image", 'similarity="ssim"')
    found = np.full(before[0].shape[:2], np.nan)
    for index in np.ndindex(*found.shape):
        a, b = before[0][index], now[0][index]
        if a.any() and b.any():
            a, b = a / np.abs(a).max(), b / np.abs(b).max()
            found[index] = metrics.structural_similarity(a, b, data_range=spread)
    return found
