"""Guided integrated gradients: the path of every row is chosen step by step, where slopes are small.

The paths of many rows are walked side by side: a step takes one gradient of each, in one batch, and what it decides is
decided for all rows at once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Unpack

import numpy as np
from keras import ops

from aumann import arguments
from aumann.explain.endpoints import Endpoints
from aumann.explain.integral import Integral
from aumann.explain.problem import Problem
from aumann.explain.result import Result
from aumann.methods.base import Method
from aumann.methods.signatures import Options
from aumann.model.oracle import Oracle

CACHE = 1 << 15  # numbers that arithmetic on the host is done with at a time: four times as fast as all of them
CLOSE = 1e-9  # of the whole distance: what is left to go may be rounding


class GuidedIntegratedGradients(Method):
    """Integrated gradients along a path that moves first what F is least sensitive to.

    In every step the features with the smallest |∂F| move, a `fraction` of all, until the L1 distance to the input has
    shrunk by 1/steps; no feature gets further than `distance` ahead of the straight line or behind it. Noise in the
    gradients, as from saturated regions far off the data, thus meets small steps. All that moves counts as one: the
    features of several inputs are compared and measured together, in the units of the inputs. Of a set of baselines,
    the weighted mean; of several targets, each has its own path.

    Each piece of the path is weighed by the mean of the slopes at its ends (of second order, where the source takes
    that at the beginning), so values are complete up to an error that `residual` tells; `error` is not estimated.
    Cost: steps + 1 gradients a row, baseline and target, each step after the one before it. Memory in proportion to
    `batch_size`, the number of rows that walk side by side.

    Args:
        steps: pieces of equal length, in the L1 distance, that the path is made of.
        fraction: share of the features, the least sensitive ones, that are moved at a time, in [0, 1]; with 1, and
            with distance 0, the path is straight.
        distance: how far a feature may be from its place on the straight line, as a share of its whole way, in [0, 1].

    Raises:
        ValueError: steps, fraction or distance out of range.

    Source: Kapishnikov et al. (2021), Guided Integrated Gradients: an Adaptive Path Method for Removing Noise.
    """

    def __init__(
        self,
        model: Any,
        *,
        steps: int = 200,
        fraction: float = 0.25,
        distance: float = 0.02,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(model, **options)
        self.steps = arguments.whole(steps, 1, "steps", 200)
        self.fraction = arguments.number(fraction, "[0, 1]", "fraction", 0.25)
        self.distance = arguments.number(distance, "[0, 1]", "distance", 0.02)

    def sum(self, problem: Problem, integrate: Integral) -> Result:
        walks = problem.start_points.count * len(problem.columns)
        integrate.tally.expect(problem.rows * walks * (self.steps + 1))
        walk = functools.partial(self._walk, problem, integrate.ends)
        values = integrate.divide(walk, np.arange(problem.rows))
        how = integrate.how({"steps": self.steps, "fraction": self.fraction, "distance": self.distance})
        spent = np.full(problem.rows, walks * (self.steps + 1))
        return Result([v.astype(problem.oracle.dtype) for v in values], spent, how)

    def _walk(self, problem: Problem, ends: Endpoints, chosen: np.ndarray, tally: Callable) -> list[np.ndarray]:
        """Values of some rows: for each moving input (rows, targets, *row)."""
        o, starts = problem.oracle, problem.start_points
        m, k = starts.count, len(problem.columns)
        slopes = o.programs.slopes(problem.functions)
        values = [np.zeros((len(chosen), k, *shape)) for shape in o.shapes]
        walks = len(chosen) * m * k
        for walk, real in slopes.tuner.groups(walks):
            which, baseline, target = walk // (m * k), walk // k % m, walk % k
            rows = chosen[which]
            inputs, side = problem.load(rows)
            index = ends.positions[rows % len(ends.positions), target][:, None]
            index = ops.convert_to_tensor(index.astype("int32"))

            def gradient(features: np.ndarray, side: list = side, index: Any = index, real: int = real) -> np.ndarray:
                points = [ops.convert_to_tensor(p) for p in _cut(features, o.shapes, o.dtype)]
                _, columns = slopes(points, side, index)
                tally(real)
                return _join([p * 0 if c[0] is None else c[0] for p, c in zip(points, columns, strict=True)], o)

            start, end = (_join(p, o).astype("float64") for p in (problem.load_starts(rows, baseline), inputs))
            shares = walked(gradient, start, end, self.steps, self.fraction, self.distance)
            weights = starts.weights[rows % len(starts.weights), baseline]
            for value, share in zip(values, _cut(shares * weights[:, None], o.shapes, "float64"), strict=True):
                np.add.at(value, (which[:real], target[:real]), share[:real])
        return values


def _join(points: list, oracle: Oracle) -> np.ndarray:
    """The features of all moving inputs side by side, on the host: (rows, features)."""
    return np.concatenate([oracle.backend.host(p).reshape(len(p), -1) for p in points], axis=1)


def _cut(features: np.ndarray, shapes: list[tuple], dtype: str) -> list[np.ndarray]:
    """The features of each moving input, in its shape: the inverse of `_join`."""
    ends = np.cumsum([int(np.prod(shape)) for shape in shapes])[:-1]
    return [
        np.ascontiguousarray(part.reshape(len(part), *shape), dtype)
        for part, shape in zip(np.split(features, ends, axis=1), shapes, strict=True)
    ]


def walked(
    gradient: Callable, start: np.ndarray, end: np.ndarray, steps: int, fraction: float, distance: float
) -> np.ndarray:
    """Attributions along the guided paths of rows: (rows, features).

    Args:
        gradient: (rows, features) -> the slopes there.
        start, end: (rows, features).
        steps, fraction, distance: as for `GuidedIntegratedGradients`.
    """
    whole_way = end - start
    length = np.abs(whole_way).sum(1)
    points, values, slopes = start, np.zeros_like(start), gradient(start)
    blocks = np.array_split(np.arange(len(end)), max(1, min(len(end), end.size // CACHE)))
    blocks = [slice(b[0], b[-1] + 1) for b in blocks]
    for step in range(1, steps + 1):
        before, points = points, np.empty_like(points)
        for rows in blocks:
            now = before[rows], np.abs(slopes[rows]), end[rows], whole_way[rows], length[rows]
            points[rows] = _advanced(*now, step / steps, fraction, distance)
        following = gradient(points)
        for rows in blocks:
            values[rows] += (points[rows] - before[rows]) * (slopes[rows] + following[rows]) / 2
        slopes = following
    return values


def _advanced(
    points: np.ndarray,
    steepness: np.ndarray,
    end: np.ndarray,
    whole_way: np.ndarray,
    length: np.ndarray,
    time: float,
    fraction: float,
    distance: float,
) -> np.ndarray:
    """Points that are nearer to the end, by the least steep features: 1 − time of the whole length is left."""
    ahead, behind = min(time + distance, 1), max(time - distance, 0)
    front = end - (1 - ahead) * whole_way  # exactly the end where `ahead` is 1
    back = end - (1 - behind) * whole_way
    points = np.where((points - back) * whole_way < 0, back, points)  # no feature stays behind `distance`
    order = int(fraction * (points.shape[1] - 1))
    todo = np.arange(len(points))
    while len(todo):
        x, goal = points[todo], front[todo]
        gap = np.abs(end[todo] - x).sum(1) - (1 - time) * length[todo]
        free = x != goal
        rank = np.where(free, steepness[todo], np.inf)
        threshold = np.partition(rank, order, axis=1)[:, order, None]
        stride = np.where(free & (rank <= threshold), goal - x, 0)
        reach = np.abs(stride).sum(1)
        going = (gap > CLOSE * length[todo]) & (reach > 0)
        part = np.divide(gap, reach, out=np.zeros_like(gap), where=going)[:, None]
        points[todo] = np.where((part >= 1) & (stride != 0), goal, x + part * stride)
        todo = todo[going & (part[:, 0] > 1)]
    return points
