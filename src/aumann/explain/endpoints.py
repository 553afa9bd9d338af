"""F at the ends of the paths: F(x), F(x′), their difference and how well that is known."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from keras import ops

from aumann.explain.problem import Problem
from aumann.model.inputs import brief
from aumann.model.programs import Program
from aumann.model.survey import elsewhere


@dataclass(frozen=True, eq=False)
class Endpoints:
    """F at both ends of the paths of a problem.

    Attributes:
        positions: (1 or n, targets), of each target in the outputs of a row.
        prediction: F(x), (n, targets).
        base_value: F(x′), (n, targets); the weighted mean of a set.
        rounding: relative error of F that is there whatever is done.
        cuts_graph: whether all that leads from the inputs to F passes the layers that were named.
        complete: whether values have to add up to F(x) − F(x′).
        spans: whether values of zero say that F does not change on the path.
    """

    positions: np.ndarray
    prediction: np.ndarray
    base_value: np.ndarray
    rounding: float
    cuts_graph: bool
    complete: bool
    spans: bool

    def change(self, rows: Any) -> tuple[np.ndarray, np.ndarray]:
        """F(x) − F(x′) of some rows (len(rows), targets), and how well it is known."""
        x, start = self.prediction[rows], self.base_value[rows]
        return x - start, self.noise(x, start)

    def noise(self, x: np.ndarray, start: np.ndarray) -> np.ndarray:
        """How well the difference of two outputs is known: both are rounded."""
        return 2 * self.rounding * np.maximum(np.abs(x), np.abs(start))

    def positions_of(self, rows: np.ndarray) -> np.ndarray:
        """(1 or len(rows), targets)."""
        return self.positions if len(self.positions) == 1 else self.positions[rows]


def evaluate(problem: Problem) -> Endpoints:
    """F at the ends of the paths of a problem.

    Raises:
        ValueError: it is not finite.
    """
    positions, prediction = predict(problem)
    base_value = start_value(problem, positions) if problem.base_value is None else problem.base_value
    if not np.isfinite(base_value).all():
        bad = np.flatnonzero(~np.isfinite(base_value).all(1))
        raise ValueError(
            "Expected finite predictions at the baseline, received NaN or infinity from the model for the "
            f"baselines of rows {brief(bad)}. Choose a baseline= where the model is defined."
        )
    method = problem.method
    ends = Endpoints(positions, prediction, base_value, problem.rounding, True, False, False)
    cuts_graph = not method.complete or _cuts_graph(problem, ends)
    once = cuts_graph and not problem.oracle.repeats
    complete = method.complete and once
    return replace(ends, cuts_graph=cuts_graph, complete=complete, spans=complete or (method.spans and once))


def settled(problem: Problem) -> Problem:
    """The same problem, its targets decided and F(x′) known: for other inputs in place of its own."""
    positions, _ = predict(problem)
    rows = np.arange(problem.rows)
    columns = [c.of(rows, positions[:, j]) for j, c in enumerate(problem.columns)]
    return replace(problem, columns=columns, base_value=start_value(problem, positions))


def predict(problem: Problem) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the targets (1 or n, targets) and F(x) (n, targets).

    Raises:
        ValueError: F(x) is not finite.
    """
    n, columns = problem.rows, problem.columns
    wide = any(c.positions is None or len(c.positions) > 1 for c in columns)
    index = np.zeros((n if wide else 1, len(columns)), np.int64)
    for j, column in enumerate(columns):
        if column.positions is not None:
            index[:, j] = column.positions
    prediction = np.empty((n, len(columns)))
    for rows, flat in outputs(problem, n, problem.load):
        for j, column in enumerate(columns):
            if column.positions is None:
                choices = column.choices if len(column.choices) == 1 else column.choices[rows]
                index[rows, j] = choices[:, 0] + np.take_along_axis(flat, choices, 1).argmax(1)
        prediction[rows] = np.take_along_axis(flat, index[rows] if wide else index, 1)
    if not np.isfinite(prediction).all():
        bad = np.flatnonzero(~np.isfinite(prediction).all(1))
        raise ValueError(
            f"Expected finite predictions, received NaN or infinity from the model for rows {brief(bad)}. "
            "Check these inputs and the model's weights."
        )
    return index, prediction


def start_value(problem: Problem, positions: np.ndarray) -> np.ndarray:
    """Σⱼ wⱼ F(x′ⱼ): (n, targets)."""
    n, starts, held = problem.rows, problem.start_points, problem.oracle.held
    m = starts.count
    if starts.shared and not held:
        unique, inverse = np.unique(positions, return_inverse=True)
        values = np.empty((m, len(unique)))
        for rows, flat in outputs(problem, m, lambda j: (problem.load_starts(np.zeros_like(j), j), [])):
            values[rows] = flat[:, unique]
        mean = np.broadcast_to(starts.weights @ values, (n, len(unique)))
        which = np.broadcast_to(inverse.reshape(positions.shape), (n, positions.shape[1]))
        return np.take_along_axis(mean, which, 1)
    values = np.empty((n * m, positions.shape[1]))

    def load(pairs: np.ndarray) -> tuple[list, list]:
        i, j = pairs // m, pairs % m
        _, side = problem.load(i)
        for leaf, start in problem.input_space_baselines.items():
            array = problem.arrays[leaf]
            row = start[i if len(start) > 1 else 0 * i, j if start.shape[1] > 1 else 0 * j]
            row = np.broadcast_to(row, (len(i), *array.shape[1:])).astype(array.dtype)
            side[held.index(leaf)] = problem.oracle.load_one(leaf, row)
        return problem.load_starts(i, j), side

    for pairs, flat in outputs(problem, n * m, load):
        index = positions if len(positions) == 1 else positions[pairs // m]
        values[pairs] = np.take_along_axis(flat, index, 1)
    return np.einsum("nmk,nm->nk", values.reshape(n, m, -1), np.broadcast_to(starts.weights, (n, m)))


def outputs(
    problem: Problem, count: int, load: Callable, program: Program | None = None
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """(rows, outputs of F as a host array (rows, positions)) over batches.

    Args:
        count: rows in all.
        load: row indices -> arguments of the program.
        program: that gives the outputs: `Programs.outputs` unless given.
    """
    oracle = problem.oracle
    program = program or oracle.programs.outputs(problem.functions)
    for rows, real in program.tuner.groups(count):
        out = oracle.backend.host(program(*load(rows)))
        yield rows[:real], np.asarray(out, np.float64)[:real]


def _cuts_graph(problem: Problem, ends: Endpoints) -> bool:
    """Whether the layers cut the graph: F does not change with what goes around them.

    Ids that an Embedding reads do not count, for they do not move.
    """
    o = problem.oracle
    around = [h for h in o.held if o.roles[h] == "read" and not o.holds_ids(h)]
    if not o.target_layers and not around:
        return True

    def load(rows: np.ndarray) -> tuple:
        leaves = [a[rows] for a in problem.arrays]
        points, side = o.load(leaves)
        if not o.target_layers:
            return points, o.load(elsewhere(leaves, around))[1]
        layer_values = o.programs.layer_values()(points, side)
        return [ops.where(x > 0, x - 1, x + 1) for x in points], side, layer_values

    noise = ends.noise(ends.prediction, ends.prediction)
    program = o.programs.outputs_with_layers_held(problem.functions) if o.target_layers else None
    for rows, flat in outputs(problem, problem.rows, load, program):
        change = np.abs(np.take_along_axis(flat, ends.positions_of(rows), 1) - ends.prediction[rows])
        if not (change <= noise[rows]).all():
            return False
    return True
