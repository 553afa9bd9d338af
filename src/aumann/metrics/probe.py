"""F at changed inputs of the rows of an explanation, and their features as one list that can be ranked."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from keras import tree

from aumann.core import baselines, targets
from aumann.explanation import Explanation, feature_axes, group_labels, walk
from aumann.features import tables
from aumann.metrics.common import checked, input_values
from aumann.model import inputs as arrays

LIMIT = 1 << 22  # numbers of changed inputs in memory at a time


class Explainer(Protocol):
    """What a metric asks of an explainer, as every method of `aumann` has it."""

    model: Any

    def explain(self, inputs: Any, target: Any = None, baseline: Any = 0.0) -> Explanation: ...

    def predict(self, inputs: Any, target: Any = None, fixed: Sequence[str] = ()) -> np.ndarray: ...

    def classes(self, inputs: Any, target: Any = "predicted", fixed: Sequence[str] = ()) -> np.ndarray: ...


class Probe:
    """F at changed inputs, for the targets of the unchanged ones. Lists are in the order of `keras.tree.flatten`.

    Args:
        explainer: whose `predict` is F; the one that made the explanation, or one of another output of the model.
        explanation: an `aumann.Explanation` of inputs of that model.
        target: as in `explain`; "predicted" is the class predicted for the inputs as they are.

    Attributes:
        structure: of the inputs, as `keras.tree` has it.
        names: of the inputs.
        inputs: host arrays (n, *row).
        rows: how many rows there are, n.
        leaves: the inputs as `aumann.model.inputs.read` returns them.
        labels: names of the rows, or None.
        features, axes: names of each input's columns and axes of its values, or None.
        baseline: of each input, or None.
        values: (n, targets, *row).
        moving: positions of the inputs that move.
        embedded: for each input whether its values stand at the embedding of its ids.
        fixed: names of the inputs that do not move.
        several: whether F has an axis of targets.
        target: with the classes of the unchanged inputs for "predicted".
        prediction: F(x), (n, targets).
    """

    def __init__(self, explainer: Explainer, explanation: Explanation, target: Any):
        if not (hasattr(explainer, "explain") and hasattr(explainer, "predict")):
            raise TypeError(
                f"Expected an explainer, received {type(explainer).__name__}. Give for example "
                "aumann.IntegratedGradients(model)."
            )
        self.explainer, self.explanation = explainer, checked(explanation)
        self.structure, self.leaves = arrays.read(explainer.model, explanation.inputs, lambda i, name: False)
        self.names, self.inputs = [x.name for x in self.leaves], [x.array for x in self.leaves]
        self.rows, self.labels = len(explanation), explanation.names.get("rows")
        positions = list(range(len(self.leaves)))
        mirrors = explanation.names.get("features"), explanation.names.get("axes")
        by_position = sorted(
            (i, *names) for _, _, i, *names in walk(explanation.inputs, self.pack(positions), *mirrors)
        )
        self.features, self.axes = zip(*((features, axes) for _, features, axes in by_position), strict=True)
        self.baseline = [None] * len(self.leaves)
        if explanation.baseline is not None:
            self.baseline = tree.flatten(explanation.baseline)
        self.values = _with_targets(explanation.values, explanation.several)
        order = [position for _, _, position in walk(explanation.values, self.pack(positions))]
        parts = dict(zip(order, input_values(explanation), strict=True))
        self.moving = [i for i in positions if parts[i].moves]
        self.embedded = [parts[i].embedded for i in positions]
        self.fixed = [name for i, name in enumerate(self.names) if i not in self.moving]
        if not self.moving:
            raise ValueError(
                f"Expected an explanation of at least one input that moves, received one of {self.names} in which "
                "every input is its own baseline. Explain from another baseline."
            )
        self.several = targets.is_several(target)
        self.target = self._pinned(target)
        self.prediction = self.predict(self.inputs, np.arange(self.rows))

    def pack(self, leaves: list) -> Any:
        """Leaves in the structure of the inputs, a dict in the order of the keys that the user gave."""
        packed = tree.pack_sequence_as(self.structure, leaves)
        return {k: packed[k] for k in self.explanation.inputs} if type(packed) is dict else packed

    def _named(self, leaves: list) -> list:
        """Inputs with the names of their columns, by which tables are matched."""
        return list(map(tables.named, leaves, self.features))

    def predict(self, leaves: list, rows: np.ndarray) -> np.ndarray:
        """F at changed inputs of some rows of the explanation: (len(rows), targets)."""
        outputs = self.explainer.predict(self.pack(leaves), _target_of(self.target, rows, self.rows), self.fixed)
        return outputs if self.several else outputs[:, None]

    def explain(self, leaves: list, baseline: Any) -> list[np.ndarray]:
        """Values (n, targets, *row) of changed inputs, one for each row, from the same baseline unless one is given.

        Raises:
            ValueError: the baseline was a set, which the explanation does not hold with its weights.
        """
        baseline = self._explained_baseline() if baseline is None else baseline
        explanation = self.explainer.explain(self.pack(self._named(leaves)), self.target, baseline)
        return _with_targets(explanation.values, self.several)

    def require_same_targets(self) -> None:
        """Raises ValueError unless F has the targets of the explanation."""
        shape = self.explanation.prediction.shape
        if (self.several, self.prediction.shape[1]) != (len(shape) == 2, shape[1] if len(shape) == 2 else 1):
            raise ValueError(
                f"Expected the target of the explanation, whose prediction has shape {shape}; received one that gives "
                f"{self.prediction.shape if self.several else self.prediction.shape[:1]}. Give target= as to explain()."
            )

    def without_single_target(self, array: np.ndarray) -> np.ndarray:
        """The array (n, targets, …), without the axis of targets where F has none."""
        return array if self.several else array[:, 0]

    def fill(self, fill: Any) -> list[np.ndarray | None]:
        """What stands in the place of a removed feature: for every input (1 or n, *row), or None where none moves.

        Raises:
            ValueError, TypeError: it does not fit the inputs, or is a set.
        """
        if callable(fill):
            fill = fill(self.pack(self._named(self.inputs)))
        kind = "dict" if isinstance(self.structure, dict) else "leaf" if len(self.names) == 1 else "list"
        if isinstance(fill, dict):
            fill = {**dict.fromkeys(self.names, "baseline"), **fill}
        fill = arrays.each_of(fill, self.structure, self.leaves, None)
        fills, weights = baselines.split(fill, self.names, kind, self._named(self.inputs))
        if weights is not None or any(is_set for _, is_set in fills):
            raise ValueError("Expected one fill for each row, received a set. Give one row of it, or its mean.")
        return [self._fill(i, value) if i in self.moving else None for i, (value, _) in enumerate(fills)]

    def _fill(self, i: int, value: Any) -> np.ndarray:
        x, name = self.inputs[i], self.names[i]
        if isinstance(value, str) and value == "baseline":
            return self.start(i)
        if not (np.isscalar(value) or value is None):
            value = arrays.by_name(value, f"the fill of input {name!r}", self.features[i], self.labels)
        fill = baselines.broadcast(value, False, x.shape[1:], self.rows, name)[:, 0]
        if self.embedded[i] and (fill != fill.astype(x.dtype)).any():
            raise TypeError(
                f"Expected integer token ids as the fill of input {name!r}, received {fill.dtype} such as "
                f"{fill.ravel()[0]}. Give the id that stands for nothing, as that of the padding."
            )
        return fill.astype(x.dtype) if self.embedded[i] else fill

    def at_inputs(self, i: int) -> np.ndarray:
        """Values (n, targets, *row) of the entries of input i: those at an embedding are summed over it."""
        values, x = self.values[i], self.inputs[i]
        values = values.sum(-1, dtype=np.float64) if self.embedded[i] else values
        axes = self.axes[i]
        if values.shape[2:] != x.shape[1:] or (axes is not None and axes != list(range(x.ndim - 1))):
            raise ValueError(
                f"Expected values at input {self.names[i]!r} of row shape {x.shape[1:]}, received values of row shape "
                f"{values.shape[2:]}{'' if axes is None else ' that were summed or stand at a layer'}. Explain the "
                "inputs rather than a layer: leave layer= out, and give groups= and axis= to the metric."
            )
        return values

    def start(self, i: int) -> np.ndarray:
        """The baseline of input i, as inputs: (1 or n, *row)."""
        start = self.baseline[i]
        at_layer = self.embedded[i] or self.names[i] in self.explanation.provenance.get("layers", ())
        if start is None or start.ndim != self.inputs[i].ndim or at_layer:
            raise ValueError(
                f"Expected an explanation from one baseline of input {self.names[i]!r} for each row, received "
                + ("none" if start is None else "one at a layer" if at_layer else f"a set of shape {start.shape}")
                + ". Say what stands in the place of a feature, for token ids the id of nothing: fill= of removal, "
                "perturb= of infidelity."
            )
        return start

    def changed(self, i: int, values: np.ndarray) -> np.ndarray:
        """Values in the dtype in which rows of input i are fed: integers that move become floats."""
        x = self.inputs[i]
        return values.astype(x.dtype if x.dtype.kind == "f" or self.embedded[i] else np.float64, copy=False)

    def _explained_baseline(self) -> Any:
        """The baseline of the explanation, as `explain` takes it; raises ValueError where it was a set."""
        parts = []
        for i, (value, start) in enumerate(zip(self.values, self.baseline, strict=True)):
            if i not in self.moving:
                parts.append(baselines.FIXED)
            elif start is None or start.ndim != value.ndim - 1:
                raise ValueError(
                    f"Expected an explanation from one baseline for each row, received "
                    f"{'none' if start is None else f'a set of shape {start.shape}'} for input {self.names[i]!r}. Give "
                    "baseline= as to explain()."
                )
            else:
                parts.append(start[0] if len(start) == 1 else start)
        if isinstance(self.structure, dict):
            return dict(zip(self.names, parts, strict=True))
        return parts[0] if len(parts) == 1 else parts

    def _pinned(self, target: Any) -> Any:
        """The target with the classes of the unchanged inputs for "predicted"."""
        if isinstance(target, list):
            return [self._pinned(t) for t in target]
        if isinstance(target, str) and target == "predicted":
            inputs = self.explanation.inputs
            self.explainer.predict(
                self.pack([x[:1] for x in self.inputs]), "predicted", self.fixed
            )  # raises if there is no class
            return self.explainer.predict(inputs, "all", self.fixed).argmax(1)
        if isinstance(target, tuple) and target and isinstance(target[-1], str) and target[-1] == "predicted":
            return (*target[:-1], self.explainer.classes(self.explanation.inputs, target, self.fixed))
        return target


def _with_targets(values: Any, several: bool) -> list[np.ndarray]:
    """The values of every input with an axis of targets, the second."""
    return [v if several else v[:, None] for v in tree.flatten(values)]


def _target_of(target: Any, rows: np.ndarray, count: int) -> Any:
    """The target of some rows: entries of arrays with one for each of `count` rows."""
    if isinstance(target, (list, tuple)):
        return type(target)(_target_of(t, rows, count) for t in target)
    if hasattr(target, "__array__"):
        array = np.asarray(target)
        return array[rows] if array.ndim and len(array) == count else target
    return target


@dataclass(frozen=True, eq=False)
class Features:
    """The features of the inputs that move, as one list: what is ranked, and removed together.

    Attributes:
        probe: whose inputs they are parts of.
        labels: for every input an int array of the shape of a row, the feature of each entry; None if it is held.
        count: of features, over all inputs.
    """

    probe: Probe
    labels: list[np.ndarray | None]
    count: int

    def scores(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Sums of the values within each feature, of k pairs (row, target): (k, count)."""
        total = np.zeros((len(rows), self.count))
        for i in self.probe.moving:
            values = self.probe.at_inputs(i)[rows, columns].reshape(len(rows), -1).astype(np.float64)
            labels = self.labels[i].ravel()
            for k, row in enumerate(values):
                total[k] += np.bincount(labels, row, self.count)
        return total

    def ranks(self, rows: np.ndarray, columns: np.ndarray, by: str, lowest: bool = False) -> np.ndarray:
        """Rank of each feature from the highest score, 0, to the lowest, or the other way; equals in their order."""
        scores = self.scores(rows, columns)
        scores = np.abs(scores) if by == "absolute" else scores
        order = np.argsort(scores if lowest else -scores, axis=1, kind="stable")
        ranks = np.empty(order.shape, np.int32)
        np.put_along_axis(ranks, order, np.arange(self.count, dtype=np.int32)[None], 1)
        return ranks


def features(probe: Probe, axis: int | tuple[int, ...] | None = None, groups: Any = None) -> Features:
    """The features of the inputs that move: single entries, entries along axes together, or groups.

    Args:
        probe: of the explanation.
        axis: feature axes whose entries belong together, counted as in `Explanation.sum`, in the shape of an input's
            row: -1 makes one feature of a pixel's channels. Inputs that lack the axis stay as they are.
        groups: as in `Explanation.sum`.

    Raises:
        ValueError: both are given, no input has the axis, or values do not stand at the inputs.
    """
    if axis is not None and groups is not None:
        raise ValueError("Expected an axis or groups; received both. Give groups= alone: they may cover the axis.")
    e, count, labels, fits = probe.explanation, 0, [None] * len(probe.names), axis is None
    mirrored = walk(probe.pack(list(range(len(probe.names)))), e.names.get("features"), groups)
    for _, i, names, group in sorted(mirrored, key=lambda item: item[1]):
        if i not in probe.moving:
            continue
        row = probe.at_inputs(i).shape[2:]
        axes = None if axis is None else feature_axes(axis, len(row))
        if group is not None:
            numbers, _ = group_labels(group, (1,), row, names)
            numbers = numbers.reshape(row)
        else:
            fits |= axes is not None
            kept = tuple(1 if a in (axes or ()) else size for a, size in enumerate(row))
            numbers = np.broadcast_to(np.arange(int(np.prod(kept))).reshape(kept), row)
        labels[i] = numbers + count
        count += int(numbers.max()) + 1
    if not fits:
        raise ValueError(
            f"Expected a feature axis of at least one input, received axis={axis!r} for inputs of shapes "
            f"{[x.shape[1:] for x in probe.inputs]}. Count without the axis of rows."
        )
    return Features(probe, labels, count)
