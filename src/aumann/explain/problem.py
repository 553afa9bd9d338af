"""The problem of one call of `explain`: what was given, resolved and checked. It is frozen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import keras
import numpy as np
from keras import ops, tree

from aumann.core import baselines, paths, targets
from aumann.core.secant import ROUNDING
from aumann.execution.devices import DevicePool
from aumann.execution.options import ExecutionOptions
from aumann.explain import start_points
from aumann.explain.result import Result
from aumann.features import tables
from aumann.model import inputs
from aumann.model.oracle import Oracle
from aumann.model.signature import Leaf


class Summing(Protocol):
    """What a problem needs of its method, which is an `aumann.methods.base.Method`."""

    path: Any
    credit: Callable
    complete: bool
    spans: bool
    output: Any
    execution: ExecutionOptions

    def sum(self, problem: Any, integrate: Any) -> Result: ...


@dataclass(frozen=True, eq=False, kw_only=True)
class Problem:
    """What is explained: rows of inputs, targets, and the paths that lead to the rows.

    A *moving input* is what moves along a path: an input of the model, or in place of inputs that a layer reads, such
    as token ids, the values of that layer.

    Attributes:
        method: whose path and credit are taken.
        oracle: F and its derivatives.
        device_pool: the devices that it runs on.
        structure: of the inputs, for their packing.
        leaves: the inputs, as named arrays (n, *row).
        target: as it was given.
        columns: the targets, resolved.
        paths: one for each moving input.
        start_points: where the paths begin.
        input_space_baselines: by leaf, baselines that were given as inputs of a layer that reads them.
        drawn: whether the baselines are draws from a distribution.
        base_value: F(x′) (n, targets), where it is known beforehand.
        carried: the start points with what else the paths need to know of the rows.
    """

    method: Summing
    oracle: Oracle
    device_pool: DevicePool
    structure: Any
    leaves: Sequence[Leaf]
    target: Any
    columns: Sequence[targets.Column]
    paths: tuple[Callable, ...]
    start_points: baselines.StartPoints
    input_space_baselines: dict[int, np.ndarray]
    drawn: bool = False
    base_value: np.ndarray | None = None
    carried: baselines.StartPoints = field(init=False)

    def __post_init__(self) -> None:
        points = [
            path.carry(start, shape, self.rows) if hasattr(path, "carry") else start
            for path, start, shape in zip(self.paths, self.start_points.points, self.oracle.shapes, strict=True)
        ]
        object.__setattr__(self, "carried", baselines.StartPoints(points, self.start_points.weights))

    @property
    def rows(self) -> int:
        """n, of the inputs."""
        return len(self.leaves[0].array)

    @property
    def arrays(self) -> list[np.ndarray]:
        """For each leaf (n, *row)."""
        return [leaf.array for leaf in self.leaves]

    @property
    def row_names(self) -> list | None:
        """Those of a table."""
        return self.leaves[0].rows

    @property
    def functions(self) -> tuple[Callable, ...]:
        """The functions among the targets."""
        return tuple(targets.callables(self.target))

    @property
    def rounding(self) -> float:
        """Relative error of values that is there whatever is done: of the sums, or of coarser numbers inside F."""
        inside = [getattr(self.oracle.model, "compute_dtype", None)]
        if self.oracle.dtype == "float32":
            inside.append(self.method.execution.precision)
        return max(16 * ROUNDING[self.oracle.dtype], *(2 * ROUNDING.get(name, 0) for name in inside))

    def with_inputs(self, arrays: Sequence[np.ndarray], rows: np.ndarray) -> Problem:
        """The same problem for other values of some rows, whose targets and baselines stay what they are.

        Args:
            arrays: of each leaf (len(rows), *row).
            rows: those whose values they are; a row may come several times.
        """
        names = None if self.row_names is None else [self.row_names[i] for i in rows]
        leaves = [replace(leaf, array=a, rows=names) for leaf, a in zip(self.leaves, arrays, strict=True)]
        return replace(
            self,
            leaves=leaves,
            columns=[_column_of(c, rows) for c in self.columns],
            start_points=self.start_points.of(rows),
            base_value=None if self.base_value is None else self.base_value[rows],
        )

    def part(self, rows: np.ndarray, start_points: baselines.StartPoints) -> Problem:
        """The same problem for some rows, from other start points, which were not given as inputs of a layer."""
        part = self.with_inputs([a[rows] for a in self.arrays], rows)
        return replace(part, start_points=start_points, input_space_baselines={}, base_value=None)

    def load(self, rows: np.ndarray) -> tuple[list, list]:
        """Inputs of some rows on the device: (what moves, what is held still)."""
        return self.oracle.load([a[rows] for a in self.arrays])

    def load_starts(self, i: np.ndarray, j: np.ndarray) -> list:
        """Baselines j of rows i as full rows on the device."""
        points = []
        for start, shape in zip(self.start_points.points, self.oracle.shapes, strict=True):
            rows = start[i if len(start) > 1 else np.zeros_like(i), j if start.shape[1] > 1 else np.zeros_like(j)]
            full = np.broadcast_to(rows, (len(i), *shape))
            points.append(ops.convert_to_tensor(np.ascontiguousarray(full, self.oracle.dtype)))
        return points

    def pack(self, leaves: Sequence) -> Any:
        """What there is for each leaf, structured like the inputs."""
        packed = tree.pack_sequence_as(self.structure, leaves)
        return {k: packed[k] for k in self.structure} if type(packed) is dict else packed  # the user's own order

    def path_has_kinks(self, k: int) -> bool | None:
        """Whether the path of moving input k has corners; None where its operations do not tell."""
        path = self.paths[k]
        if path is paths.straight:
            return False
        start, end = self._first_ends(k)

        def run(ts: list) -> Any:
            return paths.point(path(start, end, ts[0]))

        return self.oracle.backend.has_kinks(run, [self._times(k, [0.0, 1.0])], ())

    def _first_ends(self, k: int) -> tuple[Any, Any]:
        """Start and end of the path of moving input k, of the first row, as a path is given them."""
        start = ops.convert_to_tensor(np.ascontiguousarray(self.carried.points[k][:1, :1], self.oracle.dtype))
        return start, ops.convert_to_tensor(self.load(np.zeros(1, int))[0][k])[:, None]

    def _times(self, k: int, nodes: Sequence[float]) -> Any:
        return ops.convert_to_tensor(np.reshape(nodes, (1, -1, *[1] * len(self.oracle.shapes[k]))), self.oracle.dtype)

    def refuse_loose_ends(self) -> None:
        """A path that does not lead from the baseline to the input explains another difference than F(x) − F(x′)."""
        o = self.oracle
        for k, path in enumerate(self.paths):
            if path is paths.straight:
                continue
            start, end = self._first_ends(k)
            ends = paths.point(path(start, end, self._times(k, [0.0, 1.0])))
            shape = (1, 2, *o.shapes[k])
            if not ops.is_tensor(ends) or tuple(ends.shape) != shape:
                raise ValueError(
                    f"Expected a path (start, end, t) -> points of shape {shape} for start {tuple(start.shape)}, end "
                    f"{tuple(end.shape)} and t {tuple(self._times(k, [0.0, 1.0]).shape)}; received "
                    f"{tuple(ends.shape) if ops.is_tensor(ends) else type(ends).__name__}. Write it with keras.ops "
                    "and let the arguments broadcast."
                )
            ends, last = o.backend.host(ends)[0], o.backend.host(end)[0]
            first = np.broadcast_to(self.start_points.points[k][0, :1], last.shape)
            size = max(np.abs(first).max(initial=0), np.abs(last).max(initial=0), 1e-30)
            for t, is_there, should in ((0, ends[:1], first), (1, ends[1:], last)):
                off = np.abs(is_there - should).max(initial=0)
                if not off <= 1e-4 * size:
                    raise ValueError(
                        f"Expected a path from the baseline to the input, received one that at t = {t} is {off:.2g} "
                        f"away from the {'input' if t else 'baseline'} of row 0. Write it so that t = 0 gives start "
                        "and t = 1 gives end, or give the baseline= that it starts from."
                    )


def resolve(
    method: Summing,
    oracle: Oracle,
    structure: Any,
    leaves: Sequence[Leaf],
    target: Any,
    baseline: Any,
    device_pool: DevicePool,
) -> Problem:
    """The problem that a call of `explain` poses.

    Args:
        method, oracle, device_pool: as a `Problem` has them.
        structure, leaves: the inputs, as `aumann.model.inputs.read` gives them.
        target, baseline: as `explain` is given them.

    Raises:
        ValueError, TypeError: they do not fit together.
    """
    for item in target if isinstance(target, list) else [target]:
        if tables.is_row(item):
            tables.same_rows(tables.labels(item), leaves[0].rows, "target")
    columns = targets.resolve(target, oracle.outputs, oracle.several_outputs, len(leaves[0].array))
    _refuse_integer_outputs(columns, oracle)
    by_leaf = paths.resolve(method.path, oracle.names, inputs.packing(structure, len(leaves)))
    of_moving_inputs = tuple(by_leaf[i] for i in oracle.leaves_of_moving)
    starts, input_space_baselines = start_points.resolve(oracle, of_moving_inputs, structure, leaves, baseline)
    problem = Problem(
        method=method,
        oracle=oracle,
        device_pool=device_pool,
        structure=structure,
        leaves=leaves,
        target=target,
        columns=columns,
        paths=of_moving_inputs,
        start_points=starts,
        input_space_baselines=input_space_baselines,
    )
    problem.refuse_loose_ends()
    return problem


def _column_of(column: targets.Column, rows: np.ndarray) -> targets.Column:
    """A target of some rows."""
    positions = column.positions
    return column.of(rows, positions if positions is None or len(positions) == 1 else positions[rows])


def _refuse_integer_outputs(columns: Sequence[targets.Column], oracle: Oracle) -> None:
    for column in columns:
        for output, dtype in zip(oracle.outputs, oracle.output_dtypes, strict=True):
            positions = column.choices if column.positions is None else column.positions
            inside = output.start <= positions.flat[0] < output.start + output.size
            if inside and not keras.backend.is_float_dtype(dtype):
                raise ValueError(
                    f"Expected a differentiable output, received {dtype} from output {output.name!r} (as argmax or a "
                    "comparison give). Explain the score before it: choose another output= or target=."
                )
