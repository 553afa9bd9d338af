"""The probe: F at changed inputs of the rows of an explanation, and their features as one list that can be ranked."""

from dataclasses import dataclass

import numpy as np
from keras import tree

from aumann.core import baselines, targets
from aumann.features import tables
from aumann.features.axes import feature_axes
from aumann.features.groups import group_labels
from aumann.features.nested import walk
from aumann.metrics.values_alone import checked, leaves
from aumann.model import inputs as arrays

LIMIT = 1 << 22  # numbers of changed inputs that are made at a time


class Probe:
    """F near the rows of an explanation, for targets that changed inputs do not change.

    Args:
        explainer: whose `predict` is F; the one that made the explanation, or one of another output of the model.
        explanation: an `aumann.Explanation` of inputs of that model.
        target: as in `explain`; "predicted" is the class predicted for the inputs as they are.

    Attributes:
        features, axes, labels: names of each input's columns, axes of its values and names of the rows, or None.
        names: of the inputs, in the order of `keras.tree.flatten`, as all lists here.
        inputs: host arrays (n, *row).
        values: (n, targets, *row).
        prediction: F(x), (n, targets).
        moving: positions of the inputs that move.
    """

    def __init__(self, explainer, explanation, target):
        if not (hasattr(explainer, "explain") and hasattr(explainer, "predict")):
            raise TypeError(
                f"Expected an explainer, received {type(explainer).__name__}. Give for example "
                "aumann.IntegratedGradients(model)."
            )
        self.explainer, self.explanation = explainer, checked(explanation)
        self.structure, found = arrays.read(explainer.model, explanation.inputs, lambda i, name: False)
        self.names, self.inputs = [x.name for x in found], [x.array for x in found]
        self.rows, self.leaves, self.labels = len(explanation), found, explanation.names.get("rows")
        mirrors = explanation.names.get("features"), explanation.names.get("axes")
        own = sorted(
            (i, *names) for _, _, i, *names in walk(explanation.inputs, self.pack([*range(len(found))]), *mirrors)
        )
        self.features, self.axes = zip(*((features, axes) for _, features, axes in own), strict=True)
        self.baseline = [None] * len(found)
        if explanation.baseline is not None:
            self.baseline = tree.flatten(explanation.baseline)
        self.values = [v if explanation.several else v[:, None] for v in tree.flatten(explanation.values)]
        numbers = list(range(len(found)))
        order = [number for _, _, number in walk(explanation.values, self.pack(numbers))]
        parts = dict(zip(order, leaves(explanation), strict=True))
        self.moving = [i for i in numbers if parts[i].moves]
        self.embedded = [parts[i].embedded for i in numbers]
        self.fixed = [name for i, name in enumerate(self.names) if i not in self.moving]
        if not self.moving:
            raise ValueError(
                f"Expected an explanation of at least one input that moves, received one of {self.names} in which "
                "every input is its own baseline. Explain from another baseline."
            )
        self.several = targets.is_several(target)
        self.target = self._pinned(target)
        self.prediction = self.predict(self.inputs, np.arange(self.rows))

    def pack(self, leaves):
        """Leaves in the structure of the inputs, and in the user's own order."""
        packed = tree.pack_sequence_as(self.structure, leaves)
        same = type(packed) is dict
        return {k: packed[k] for k in self.explanation.inputs} if same else packed

    def _named(self, leaves):
        """Inputs with the names of their columns, by which tables are matched."""
        return list(map(tables.named, leaves, self.features))

    def predict(self, leaves, rows):
        """F at inputs that were made of some rows of the explanation: (len(rows), targets)."""
        found = self.explainer.predict(self.pack(leaves), _of(self.target, rows, self.rows), self.fixed)
        return found if self.several else found[:, None]

    def explain(self, leaves, baseline):
        """The explanation of changed inputs, one for each row, from the same baseline unless one is given.

        Raises:
            ValueError: the baseline was a set, which the explanation does not hold with its weights.
        """
        baseline = self._own_baseline() if baseline is None else baseline
        return self.explainer.explain(self.pack(self._named(leaves)), self.target, baseline)

    def same_targets(self):
        """Raises unless F has the targets of the explanation."""
        own = self.explanation.prediction.shape
        if (self.several, self.prediction.shape[1]) != (len(own) == 2, own[1] if len(own) == 2 else 1):
            raise ValueError(
                f"Expected the target of the explanation, whose prediction has shape {own}; received one that gives "
                f"{self.prediction.shape if self.several else self.prediction.shape[:1]}. Give target= as to explain()."
            )

    def one(self, array):
        """Without the axis of targets, the second, where there is a single target."""
        return array if self.several else array[:, 0]

    def fill(self, fill):
        """What stands in the place of a removed feature: for every input (1 or n, *row), or None where none moves."""
        if callable(fill):
            fill = fill(self.pack(self._named(self.inputs)))
        kind = "dict" if isinstance(self.structure, dict) else "leaf" if len(self.names) == 1 else "list"
        if isinstance(fill, dict):
            fill = {**dict.fromkeys(self.names, "baseline"), **fill}
        fill = arrays.each_of(fill, self.structure, self.leaves, None)
        given, weights = baselines.split(fill, self.names, kind, self._named(self.inputs))
        if weights is not None or any(is_set for _, is_set in given):
            raise ValueError("Expected one fill for each row, received a set. Give one row of it, or its mean.")
        return [self._fill(i, value) if i in self.moving else None for i, (value, _) in enumerate(given)]

    def _fill(self, i, value):
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

    def at_inputs(self, i):
        """Values (n, targets, *row) of the places of input i: those at an embedding are summed over it."""
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

    def start(self, i):
        """The baseline of input i, as inputs: (1 or n, *row)."""
        start, read = (
            self.baseline[i],
            self.embedded[i] or self.names[i] in self.explanation.provenance.get("layers", ()),
        )
        if start is None or start.ndim != self.inputs[i].ndim or read:
            raise ValueError(
                f"Expected an explanation from one baseline of input {self.names[i]!r} for each row, received "
                + ("none" if start is None else "one at a layer" if read else f"a set of shape {start.shape}")
                + ". Say what stands in the place of a feature, for token ids the id of nothing: fill= of removal, "
                "perturb= of infidelity."
            )
        return start

    def changed(self, i, values):
        """Values in the dtype in which rows of input i are fed: integers that move become floats."""
        x = self.inputs[i]
        return values.astype(x.dtype if x.dtype.kind == "f" or self.embedded[i] else np.float64, copy=False)

    def _own_baseline(self):
        each = []
        for i, (value, own) in enumerate(zip(self.values, self.baseline, strict=True)):
            if i not in self.moving:
                each.append(baselines.FIXED)
            elif own is None or own.ndim != value.ndim - 1:
                raise ValueError(
                    f"Expected an explanation from one baseline for each row, received "
                    f"{'none' if own is None else f'a set of shape {own.shape}'} for input {self.names[i]!r}. Give "
                    "baseline= as to explain()."
                )
            else:
                each.append(own[0] if len(own) == 1 else own)
        if isinstance(self.structure, dict):
            return dict(zip(self.names, each, strict=True))
        return each[0] if len(each) == 1 else each

    def _pinned(self, target):
        if isinstance(target, list):
            return [self._pinned(t) for t in target]
        if isinstance(target, str) and target == "predicted":
            inputs = self.explanation.inputs
            self.explainer.predict(self.pack([x[:1] for x in self.inputs]), "predicted", self.fixed)  # or says why not
            return self.explainer.predict(inputs, "all", self.fixed).argmax(1)
        if isinstance(target, tuple) and target and isinstance(target[-1], str) and target[-1] == "predicted":
            return (*target[:-1], self.explainer.classes(self.explanation.inputs, target, self.fixed))
        return target


def _of(target, rows, count):
    """The target of some rows: entries of arrays with one for each of `count` rows."""
    if isinstance(target, (list, tuple)):
        return type(target)(_of(t, rows, count) for t in target)
    if hasattr(target, "__array__"):
        array = np.asarray(target)
        return array[rows] if array.ndim and len(array) == count else target
    return target


@dataclass(frozen=True, eq=False)
class Features:
    """What is ranked and removed as one.

    Attributes:
        probe: whose inputs they are parts of.
        labels: for every input an int array of the shape of a row, the feature of each entry; None if it is held.
        count: of features, over all inputs.
    """

    probe: Probe
    labels: list
    count: int

    def scores(self, rows, columns):
        """Sums of the values within each feature, of some (row, target): (k, count)."""
        total = np.zeros((len(rows), self.count))
        for i in self.probe.moving:
            values = self.probe.at_inputs(i)[rows, columns].reshape(len(rows), -1).astype(np.float64)
            labels = self.labels[i].ravel()
            for k, row in enumerate(values):
                total[k] += np.bincount(labels, row, self.count)
        return total

    def ranks(self, rows, columns, by, lowest=False):
        """Place of each feature from the highest score, 0, to the lowest, or the other way; equals in their order."""
        scores = self.scores(rows, columns)
        scores = np.abs(scores) if by == "absolute" else scores
        order = np.argsort(scores if lowest else -scores, axis=1, kind="stable")
        ranks = np.empty(order.shape, np.int32)
        np.put_along_axis(ranks, order, np.arange(self.count, dtype=np.int32)[None], 1)
        return ranks


def features(probe, axis=None, groups=None):
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
    structured = walk(probe.pack(list(range(len(probe.names)))), e.names.get("features"), groups)
    for _, i, names, group in sorted(structured, key=lambda found: found[1]):
        if i not in probe.moving:
            continue
        row = probe.at_inputs(i).shape[2:]
        axes = None if axis is None else feature_axes(axis, len(row))
        if group is not None:
            own, _ = group_labels(group, (1,), row, names)
            own = own.reshape(row)
        else:
            fits |= axes is not None
            kept = tuple(1 if a in (axes or ()) else size for a, size in enumerate(row))
            own = np.broadcast_to(np.arange(int(np.prod(kept))).reshape(kept), row)
        labels[i] = own + count
        count += int(own.max()) + 1
    if not fits:
        raise ValueError(
            f"Expected a feature axis of at least one input, received axis={axis!r} for inputs of shapes "
            f"{[x.shape[1:] for x in probe.inputs]}. Count without the axis of rows."
        )
    return Features(probe, labels, count)
