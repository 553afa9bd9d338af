"""Baselines: where the path starts, as a constant, a row, a row for each row, a weighted set or a callable.

Every form is resolved to one: for each moving input an array that broadcasts against (rows, set, *row), and the weights
(1 or rows, set) of the set, summing to 1.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from aumann.arguments import by_name

FIXED = "fixed"


@dataclass(frozen=True, eq=False)
class Weighted:
    """A set of baselines whose attributions are averaged exactly; see `weighted`."""

    rows: Any
    weights: npt.NDArray[np.float64] | None


def weighted(rows: Any, weights: npt.ArrayLike | None = None) -> Weighted:
    """A weighted set of m baselines: the attribution is Σⱼ wⱼ φ(x, bⱼ), its base value Σⱼ wⱼ F(bⱼ).

    Costs m times the gradients of one baseline; no memory beyond the set itself.

    Args:
        rows: (m, *row), shared by all inputs, or (n, m, *row), a set for each; for several inputs a list or dict of
            those or of callables, row j of every input taken together.
        weights: (m,) or (n, m), not negative, normalised to sum to 1; equal when omitted.

    Raises:
        ValueError: weights that are negative, not finite or all zero.
    """
    if weights is None:
        return Weighted(rows, None)
    weights = np.asarray(weights, np.float64)
    total = weights.sum(-1, keepdims=True)
    if not (np.isfinite(weights).all() and (weights >= 0).all() and (total > 0).all()) or weights.ndim not in (1, 2):
        raise ValueError(
            f"Expected weights that are finite, not negative and not all zero, of shape (m,) or (n, m); received "
            f"{weights}. Leave them out for equal weights."
        )
    return Weighted(rows, weights / total)


@dataclass(frozen=True, eq=False)
class StartPoints:
    """Resolved baselines, where the paths of n rows start.

    Attributes:
        points: for each moving input (1 or n, 1 or m, *row).
        weights: (1 or n, m), of the m baselines of a row, summing to 1.
    """

    points: list[npt.NDArray]
    weights: npt.NDArray[np.float64]

    @property
    def count(self) -> int:
        """m, baselines of a row."""
        return self.weights.shape[1]

    @property
    def shared(self) -> bool:
        """Whether every row starts from the same baselines."""
        return all(len(p) == 1 for p in self.points)

    def of(self, rows: npt.NDArray) -> "StartPoints":
        """Those of some rows."""
        *points, weights = (a[rows] if len(a) > 1 else a for a in (*self.points, self.weights))
        return StartPoints(points, weights)


def resolved(baseline: Any, inputs: Any) -> Any:
    """The baseline that a callable returns for the inputs; anything else is a baseline already.

    Raises:
        ValueError: the callable fails.
    """
    if not callable(baseline) or isinstance(baseline, type):
        return baseline
    try:
        return baseline(inputs)
    except Exception as error:
        if isinstance(error, (OSError, MemoryError)) or str(error).startswith("Expected"):
            raise
        raise ValueError(
            f"Expected a baseline function that takes the inputs, received {type(error).__name__} from inside it: "
            f"{error}. Check that it works on the inputs that it is given."
        ) from error


def split(
    baseline: Any, names: Sequence[str], pack: str, arrays: Sequence[Any]
) -> tuple[list[tuple[Any, bool]], npt.NDArray | None]:
    """One baseline for each leaf of the inputs, and the weights of the set if there is one.

    Args:
        baseline: as the user wrote it: one for all inputs, or a list or dict like them.
        names: name of each leaf of the inputs, in order.
        pack: "leaf" | "list" | "dict": how the inputs are packed.
        arrays: array of each leaf, the argument of a callable inside the list or dict.

    Returns:
        (list of (leaf baseline, is it a set), weights or None)

    Raises:
        ValueError: the list or dict does not fit the inputs, or there are several weighted sets.
    """
    weights = None
    joint = isinstance(baseline, Weighted)
    if joint:
        baseline, weights = baseline.rows, baseline.weights
    if isinstance(baseline, dict):
        advice = "Give one baseline for each input, or one constant for all."
        each = by_name(baseline, names, pack != "leaf", 0.0, "baselines", advice)
    elif pack != "leaf" and isinstance(baseline, (list, tuple)):
        if len(baseline) != len(names):
            raise ValueError(
                f"Expected {len(names)} baselines, one for each input, received {len(baseline)}. "
                "Give one baseline for each input, or one constant for all."
            )
        each = list(baseline)
    elif axes(baseline) and pack != "leaf" and len(names) > 1:
        raise ValueError(
            f"Expected a list or dict of baselines for the inputs {names}, received one array of "
            f"shape {getattr(baseline, 'shape', 'unknown')}. Give one baseline for each input, or one constant for all."
        )
    else:
        each = [baseline] * len(names)
    unresolved = each
    each = [resolved(b, x) for b, x in zip(each, arrays, strict=True)]
    sets = [b for b in each if isinstance(b, Weighted)]
    # A callable that draws takes part in a joint set; one that returns weights cannot.
    separate = [b for b in sets if not joint or b.weights is not None or any(b is u for u in unresolved)]
    if len(separate) > (not joint):
        raise ValueError(
            "Expected one weighted set, received several. Draw the rows of all inputs together: "
            "weighted([rows_a, rows_b])."
        )
    if separate:
        weights = separate[0].weights
    return [
        (b.rows, True) if isinstance(b, Weighted) else (b, joint and b is u and axes(b) > 0 and not isinstance(b, str))
        for b, u in zip(each, unresolved, strict=True)
    ], weights


def axes(x: Any) -> int:
    """How many axes an array-like has; 1 for what NumPy cannot read: `broadcast` raises the error."""
    try:
        return np.ndim(x)
    except Exception:  # whatever other libraries raise
        return 1


def combined(points: list[npt.NDArray], weights: npt.NDArray | None, rows: int) -> StartPoints:
    """The start points of several moving inputs, whose baselines j belong together.

    Args:
        points: for each moving input (1 or rows, 1 or m, *row).
        weights: (m,) or (1 or rows, m); None if equal.
        rows: that are explained.

    Raises:
        ValueError: sets of several sizes, or weights that do not fit them.
    """
    counts = {p.shape[1] for p in points} - {1}
    m = max(counts, default=1)
    if len(counts) > 1 or (weights is not None and weights.shape[-1] != m):
        raise ValueError(
            f"Expected as many weights as baselines in every input, received {sorted(counts)} baselines"
            + (f" and weights of shape {weights.shape}" if weights is not None else "")
            + ". Row j of every input belongs together."
        )
    weights = np.full((1, m), 1 / m) if weights is None else np.atleast_2d(weights)
    if len(weights) not in (1, rows):
        raise ValueError(
            f"Expected weights of shape (m,) or ({rows}, m), received {weights.shape}. Give one set for each row."
        )
    return StartPoints(points, weights)


def broadcast(value: Any, is_set: bool, row: Sequence[int], rows: int, name: str) -> npt.NDArray:
    """One leaf's baseline as an array (1 or rows, 1 or m, *row).

    Args:
        value: a constant, a row, a row for each row, or a set of rows.
        is_set: whether it is a set.
        row: shape of a row.
        rows: that are explained.
        name: of the input, for messages.

    Raises:
        ValueError, TypeError: it is not numeric and finite, or does not broadcast.
    """
    array = np.asarray(value)
    if array.dtype.kind not in "biuf" and not array.dtype.name.startswith("bfloat"):
        raise TypeError(
            f"Expected a numeric baseline for input {name!r}, received {value!r:.80}. Give a constant, a row, one row "
            'for each input row, aumann.baselines.weighted(rows), a callable, or "fixed" to hold the input still.'
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError(f"Expected a finite baseline for input {name!r}, received NaN or infinity. Replace them.")
    row = tuple(row)
    shape = array.shape
    if is_set:
        if 0 in shape[:2] and array.ndim > len(row):
            raise ValueError(
                f"Expected at least one baseline in the set for input {name!r}, received shape {shape}. "
                "Check how its rows were chosen."
            )
        if shape[1:] == row and len(shape) == len(row) + 1:
            return array[None]
        if len(shape) == len(row) + 2 and shape[2:] == row and shape[0] in (1, rows):
            return array
        wanted = f"(m, {_dims(row)}) or ({rows}, m, {_dims(row)})"
    else:
        if shape == ():
            return array.reshape((1,) * (len(row) + 2))
        if shape == row:
            return array[None, None]
        if len(shape) == len(row) + 1 and shape[1:] == row and shape[0] in (1, rows):
            return array[:, None]
        if len(shape) == len(row) and all(s in (1, r) for s, r in zip(shape, row, strict=True)):
            return array[None, None]
        wanted = f"a constant, one row ({_dims(row)}) or one row for each row ({rows}, {_dims(row)})"
    raise ValueError(
        f"Expected a baseline for input {name!r} that broadcasts: {wanted}; received shape {shape}. "
        "For a set of baselines to average give aumann.baselines.weighted(rows)."
    )


def _dims(row: tuple[int, ...]) -> str:
    return ", ".join(map(str, row)) or "1"
