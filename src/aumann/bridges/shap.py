"""An explanation as `shap.Explanation`, whose plots and tools then take it."""

from __future__ import annotations

from typing import Any

import numpy as np

from aumann.features.axes import Vocabulary, channel_axis, data_at, embedded, feature_labels, token_text
from aumann.features.nested import rebuild, walk
from aumann.features.protocol import ExplanationLike


def to_shap(explanation: ExplanationLike, vocabulary: Vocabulary | None = None) -> Any:
    """Returns one `shap.Explanation` per input, in the structure of the inputs.

    Base values have shape (n,) or (n, targets) and several targets stand on the last axis. Images become
    channel-last. Integer ids explained at their embedding get one value each, the sum over the embedding. With
    several inputs each object holds the values of its own input only, so base plus values is not the prediction.
    Values that are not complete come without base values, so that no picture adds them up. `data` are None where
    values stand for no single entry of the input: groups, sums over axes, units of a layer.

    Args:
        vocabulary: list or mapping from id to text; integer inputs are then given as text, each token followed by
            a space.

    Raises:
        ImportError: shap is not installed.
    """
    import shap

    names, lead, converted = explanation.names, explanation.prediction.ndim, []
    mirrors = explanation.inputs, names.get("features"), names.get("axes")
    for _, value, data, features, axes in walk(explanation.values, *mirrors):
        row = value.shape[lead:]
        if axes is None and embedded(row, data):
            value, row = value.sum(-1), row[:-1]
        data = data_at(row, data, axes)
        image = data is not None and len(row) == 2 and data.ndim == 4
        data = data if image or (data is not None and data.shape[1:] == row) else None
        if len(row) == 3 and channel_axis(row) == 0:
            value = np.moveaxis(value, -3, -1)
            data = None if data is None else np.moveaxis(data, 1, -1)
        if vocabulary is not None and data is not None and data.dtype.kind in "iu":
            texts = [token_text(token, vocabulary) + " " for token in data.ravel()]
            data = np.array(texts, dtype=object).reshape(data.shape)
        converted.append(
            shap.Explanation(
                values=np.moveaxis(value, 1, -1).copy() if explanation.several else value.copy(),
                base_values=explanation.base_value.copy() if explanation.complete else None,
                data=None if data is None else data.copy(),
                instance_names=[str(name) for name in names["rows"]] if names.get("rows") else None,
                feature_names=feature_labels(features, row) if len(row) == 1 else None,
                output_names=explanation.targets if explanation.several else None,
            )
        )
    return rebuild(explanation.values, converted)
