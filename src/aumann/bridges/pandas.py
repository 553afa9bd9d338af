"""An explanation as a table of pandas."""

from __future__ import annotations

import itertools
import math
from typing import TYPE_CHECKING

import numpy as np

from aumann.features.axes import feature_labels
from aumann.features.nested import walk
from aumann.features.protocol import ExplanationLike

if TYPE_CHECKING:
    import pandas as pd


def to_dataframe(explanation: ExplanationLike) -> pd.DataFrame:
    """Returns a pandas DataFrame: a line per row, or per (row, target), and a column per feature.

    The columns prediction, base_value and residual close the line, and where a target is "predicted", the class that
    it stands for. Lines are indexed by the names of the rows, if they have some. With several inputs, columns are
    (input, feature). Features of higher rank are called by their position, such as "[3, 4, 0]". `attrs` says whether
    the values are complete.

    Raises:
        ImportError: pandas is not installed.
    """
    import pandas as pd

    index, lead = _index(explanation), explanation.prediction.ndim
    columns, blocks = [], []
    for path, value, features in walk(explanation.values, explanation.names.get("features")):
        columns += [(path, label) for label in feature_labels(features, value.shape[lead:])]
        blocks.append(value.reshape(len(index), math.prod(value.shape[lead:])))
    for name in ("prediction", "base_value", "residual"):
        columns.append((name, ""))
        blocks.append(getattr(explanation, name).reshape(-1, 1))
    one_input = isinstance(explanation.values, np.ndarray)
    frames = [pd.DataFrame(block, index=index) for block in blocks]
    frame = pd.concat(frames, axis=1)
    if one_input:
        frame = frame.set_axis([label or name for name, label in columns], axis=1)
    else:
        frame = frame.set_axis(pd.MultiIndex.from_tuples(columns, names=["input", "feature"]), axis=1)
    predicted = explanation.names.get("predicted")
    if predicted is not None:
        classes = list(itertools.chain(*predicted)) if explanation.several else predicted
        dtype = "Int64" if None in classes else "int64"
        frame["predicted" if one_input else ("predicted", "")] = pd.array(classes, dtype=dtype)
    frame.attrs["complete"] = explanation.complete
    return frame


def _index(explanation):
    """The index of the lines: the names or numbers of the rows, and with several targets the targets' names."""
    import pandas as pd

    if explanation.names.get("rows") is None:
        index = pd.RangeIndex(len(explanation), name="row")
    else:
        index = pd.Index([tuple(name) if isinstance(name, list) else name for name in explanation.rows])
    levels = index.nlevels
    index.names = ["row"] if levels == 1 else [f"row_{k}" for k in range(levels)]
    if not explanation.several:
        return index
    targets = explanation.targets
    repeated = [index.get_level_values(level).repeat(len(targets)) for level in range(levels)]
    target_level = pd.Index(targets * len(explanation), dtype=object)
    return pd.MultiIndex.from_arrays([*repeated, target_level], names=[*index.names, "target"])
