"""Randomization: whether values change when the weights of the model are shuffled."""

import contextlib
import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from aumann import backends
from aumann.arguments import choice
from aumann.backends import keras_private
from aumann.explanation import Explanation
from aumann.features.axes import feature_axes
from aumann.metrics.common import checked_by, optional
from aumann.metrics.probe import Explainer, Probe


@dataclass(frozen=True, eq=False)
class Randomization:
    """Similarity of every row's values to those of the trained model.

    Attributes:
        layers: names, in the order in which they were randomized.
        similarity: (layers, n) or (layers, n, targets), between −1 and 1; NaN where one of the two is constant.
    """

    layers: list[str]
    similarity: np.ndarray


def randomization(
    explainer: Explainer,
    explanation: Explanation,
    target: Any = None,
    *,
    by: str,
    layers: Any = None,
    mode: str = "cascading",
    similarity: str = "spearman",
    draw: Callable[[np.ndarray, np.random.Generator], np.ndarray] | None = None,
    axis: int | tuple[int, ...] | None = None,
    baseline: Any = None,
    seed: int = 0,
) -> Randomization:
    """Values explained again with the weights of one layer after another randomized, compared with the trained model's.

    An explanation that stays similar does not depend on what the model has learned. Every weight is put back bit for
    bit, also after an error; nothing else may use the model meanwhile. Costs an explanation of all rows for each layer.

    Args:
        explainer: which made the explanation, of a Keras model.
        explanation: an `aumann.Explanation`.
        target: that of the explanation; "predicted" is the class that the trained model predicts.
        by: "signed" compares the values, "absolute" their sizes.
        layers: names or objects in the order in which they are randomized; None for every layer that has weights of its
            own, from the output down.
        mode: "cascading" randomizes from the output down, and all above stay randomized; "independent" one layer at a
            time.
        similarity: "spearman", the correlation of ranks over all features that move (scipy); or "ssim", structural
            similarity of maps that are divided by their largest size (scikit-image), for one input that is an image.
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
    probe.require_same_targets()
    trained = _Maps(probe, similarity, axis, by)
    rng, similarities = np.random.default_rng(seed), []
    with _restored(v for _, variables in chosen for v in variables) as restore:
        for _, variables in chosen:
            for v in variables:
                v.assign(_drawn(draw, v, rng))
            similarities.append(trained.similarity(probe.explain(probe.inputs, baseline)))
            if mode == "independent":
                restore()
    return Randomization([name for name, _ in chosen], np.stack(similarities))


class _Maps:
    """The values of the trained model as they are compared with others.

    Raises:
        ValueError, ImportError: the values do not fit the similarity, or its package is missing.
    """

    def __init__(self, probe: Probe, similarity: str, axis: int | tuple[int, ...] | None, by: str):
        self.probe, self.axis, self.by = probe, axis, by
        self.compare = (
            _spearman if similarity == "spearman" else functools.partial(_ssim, width=1 if by == "absolute" else 2)
        )
        self.maps = self._maps(probe.values)
        self.similarity(probe.values)  # raises before any weight is changed

    def similarity(self, values: list[np.ndarray]) -> np.ndarray:
        """That of other values (n, targets, *row) of every input: (n,) or (n, targets)."""
        return self.probe.without_single_target(self.compare(self.maps, self._maps(values)))

    def _maps(self, values: list[np.ndarray]) -> list[np.ndarray]:
        """One array (n, targets, …) for each input that moves."""
        maps = []
        for i in self.probe.moving:
            v = values[i].astype(np.float64)
            axes = feature_axes(self.axis, v.ndim - 2) if self.axis is not None else ()
            v = v.sum(tuple(a + 2 for a in axes or ()))
            maps.append(np.abs(v) if self.by == "absolute" else v)
        return maps


@contextlib.contextmanager
def _restored(variables: Iterable[Any]) -> Iterator[Callable[[], None]]:
    """A function that gives variables their values back, and is called at the end.

    The values are kept as host copies, which no framework changes in place.
    """
    kept = [(v, np.array(_host(v))) for v in variables]

    def restore():
        for v, value in kept:
            v.assign(value)

    try:
        yield restore
    finally:
        restore()


def _host(v: Any) -> np.ndarray:
    return backends.active().host(v.value)


def _drawn(draw: Callable | None, v: Any, rng: np.random.Generator) -> np.ndarray:
    """A new value of a variable, shuffled or drawn by the user's function."""
    value = np.array(_host(v))
    new = rng.permutation(value.ravel()).reshape(value.shape) if draw is None else np.asarray(draw(value, rng))
    if new.shape != value.shape or new.dtype.kind not in "biuf":
        raise ValueError(
            f"Expected draw() to return numbers of shape {value.shape} for {v.path!r}, received {new.dtype} of shape "
            f"{new.shape}. Return a new value for the whole weight."
        )
    return new.astype(value.dtype)


def _layers(model: Any, wanted: Any) -> list[tuple[str, list[Any]]]:
    """(name, variables) of the layers to be randomized."""
    if not isinstance(model, keras.Layer):
        raise TypeError(
            f"Expected an explainer of a Keras model, whose layers are known; received one of {type(model).__name__}. "
            "Wrap what it computes in a keras.Model."
        )
    inside = list(_inside(model))
    if wanted is None:
        chosen = [(layer.name, weights) for layer in reversed(inside) if (weights := _weights_outside_sublayers(layer))]
    else:
        chosen = []
        for name in wanted if isinstance(wanted, (list, tuple)) else [wanted]:
            matches = [x for x in inside if x is name or (isinstance(name, str) and x.name == name)]
            if len(matches) != 1:
                raise ValueError(
                    f"Expected layers= to name layers of the model, received {name!r} which names {len(matches)}. "
                    f"The layers are {[x.name for x in inside][:40]}."
                )
            chosen.append((matches[0].name, _weights(matches[0])))
    if not chosen or not all(variables for _, variables in chosen):
        raise ValueError(
            f"Expected layers with weights, received {[name for name, v in chosen if not v] or 'a model without any'}. "
            "Name others with layers=."
        )
    return chosen


def _inside(layer: keras.Layer, seen: set[int] | None = None) -> Iterator[keras.Layer]:
    """The layer and all inside it, each once, inputs before outputs where the model knows the order."""
    seen = set() if seen is None else seen
    if id(layer) in seen:
        return
    seen.add(id(layer))
    yield layer
    for inner in keras_private.sublayers(layer):
        yield from _inside(inner, seen)


def _weights_outside_sublayers(layer: keras.Layer) -> list[Any]:
    """Weights of a layer that are not those of a layer inside it."""
    inner_weights = {id(v) for inner in keras_private.sublayers(layer) for v in inner.weights}
    return [v for v in _weights(layer) if id(v) not in inner_weights]


def _weights(layer: keras.Layer) -> list[Any]:
    """The weights of a layer that are floats."""
    return [v for v in layer.weights if keras.backend.is_float_dtype(v.dtype)]


def _spearman(before: list[np.ndarray], after: list[np.ndarray]) -> np.ndarray:
    """Pearson's correlation of ranks, equal values sharing theirs: (n, targets)."""
    rank = optional("scipy.stats", "scipy", 'similarity="spearman"').rankdata
    flat = [np.concatenate([v.reshape(*v.shape[:2], -1) for v in maps], -1) for maps in (before, after)]
    a, b = (rank(maps, axis=-1) for maps in flat)
    a, b = a - a.mean(-1, keepdims=True), b - b.mean(-1, keepdims=True)
    with np.errstate(invalid="ignore"):  # 0 / 0: maps of equal values have no ranks, NaN
        return (a * b).sum(-1) / np.sqrt((a**2).sum(-1) * (b**2).sum(-1))


def _ssim(before: list[np.ndarray], after: list[np.ndarray], width: float) -> np.ndarray:
    """Structural similarity (n, targets) of maps divided by their largest size, which lie in an interval of a width."""
    if len(before) != 1 or before[0].ndim != 4:
        raise ValueError(
            f'Expected one input of maps (height, width) for similarity="ssim", received values of shapes '
            f"{[v.shape for v in before]}. Sum the channels with axis=, or compare by Spearman."
        )
    metrics = optional("skimage.metrics", "scikit-image", 'similarity="ssim"')
    similarity = np.full(before[0].shape[:2], np.nan)
    for index in np.ndindex(*similarity.shape):
        a, b = before[0][index], after[0][index]
        if a.any() and b.any():
            a, b = a / np.abs(a).max(), b / np.abs(b).max()
            similarity[index] = metrics.structural_similarity(a, b, data_range=width)
    return similarity
