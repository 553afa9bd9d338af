"""Several baselines as one weighted set."""

from typing import Any

import numpy as np

from aumann.baselines.given import BaselineFunction, Inputs, all_inputs, baseline_array
from aumann.core.baselines import FIXED, Starts, broadcast, made, split, together, weighted
from aumann.features import tables


def combine(*baselines: Any, weights: Any = None) -> BaselineFunction:
    """Several baselines as one weighted set, so that one shows what another cannot.

    Costs as many times the gradients of one baseline as there are in all.

    Args:
        baselines: each whatever `explain` takes: a number, rows, a set, a function of the inputs, or for several
            inputs a list or dict of those. An input that is "fixed" is so in all of them.
        weights: one for each of them, normalised to sum to 1, equal when omitted; a set divides its weight by its own
            weights.

    Returns:
        inputs -> a set, see `weighted`.

    Raises:
        ValueError, TypeError: the weights do not fit, or a baseline does not fit the inputs.
    """
    if not baselines:
        raise ValueError("Expected baselines to combine, received none. Give two or more.")
    shares = weighted(baselines, np.ones(len(baselines)) if weights is None else weights).weights
    if shares.shape != (len(baselines),):
        raise ValueError(
            f"Expected one weight for each of {len(baselines)} baselines, received shape {shares.shape}. Give the "
            "weights within a set to weighted(rows, weights)."
        )

    def make(inputs: Any) -> Any:
        x = all_inputs(inputs)
        starts, fixed = zip(*(_resolved(baseline, inputs, x) for baseline in baselines), strict=True)
        if any(other != fixed[0] for other in fixed):
            raise ValueError(
                f'Expected the same inputs to be "fixed" in every baseline, received {list(fixed)} for the inputs '
                f"{x.names}. Hold an input still in all of them."
            )
        rows = [
            FIXED
            if fixed[0][i]
            else tables.named(_joined([(s.points[i], s.count) for s in starts], array.shape[1:]), x.columns[i])
            for i, array in enumerate(x.arrays)
        ]
        scaled = [s.weights * share for s, share in zip(starts, shares, strict=True)]
        return weighted(
            dict(zip(x.names, rows, strict=True)) if x.pack == "dict" else rows if len(rows) > 1 else rows[0],
            _joined([(w, w.shape[1]) for w in scaled], ()),
        )

    return make


def _resolved(baseline: Any, inputs: Any, x: Inputs) -> tuple[Starts, list[bool]]:
    """Where the paths of one baseline start, and of every input whether it is "fixed"."""
    parts, weights = split(made(baseline, inputs), x.names, x.pack, list(map(tables.named, x.arrays, x.columns)))
    fixed = [isinstance(value, str) and value == FIXED for value, _ in parts]
    points = []
    for i, (value, is_set) in enumerate(parts):
        if fixed[i]:
            points.append(np.zeros((1, 1)))
            continue
        rows = baseline_array(value, x.names[i], x.columns[i], x.rows[i], is_set)
        points.append(broadcast(rows, is_set, x.arrays[i].shape[1:], len(x.arrays[i]), x.names[i]))
    return together(points, weights, len(x.arrays[0])), fixed


def _joined(sets: list[tuple[np.ndarray, int]], row: tuple[int, ...]) -> np.ndarray:
    """Sets (1 or n, 1 or m, *row), each with its m, one after another."""
    n = max(len(a) for a, _ in sets)
    return np.concatenate([np.broadcast_to(a, (n, m, *row)) for a, m in sets], axis=1)
