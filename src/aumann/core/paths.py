"""Paths: γ(t) and its velocity γ'(t), from the baseline at t = 0 to the input at t = 1.

A path is a function (start, end, t) -> (point, velocity) of arrays that broadcast against each other, written in
operators alone, so that it runs on every backend; if it returns the point alone, its velocity is differentiated. A new
path is one more such function. A path may have two methods besides: `start`, which makes the baseline of the rows, and
`carry`, which adds to the baselines what else the path needs to know of each row.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from keras import ops

from aumann.arguments import by_name, number

Path: TypeAlias = Callable[[Any, Any, Any], Any]


def straight(start: Any, end: Any, t: Any) -> tuple[Any, Any]:
    """γ(t) = x′ + t (x − x′): the path of integrated gradients, the only symmetric one (Sundararajan et al. 2017)."""
    velocity = end - start
    return start + t * velocity, velocity


def point(returned: Any) -> Any:
    """γ(t) of what a path returns, with or without its velocity."""
    return returned[0] if isinstance(returned, (tuple, list)) else returned


def with_velocity(path: Path, jvp: Callable) -> Path:
    """The path with the velocity that it returns, or else its derivative with respect to t.

    Args:
        path: (start, end, t) -> (point, velocity) or point.
        jvp: (fn, arguments, tangents) -> values and tangents of fn, which takes and returns lists.
    """

    def moving(start, end, t):
        returned = path(start, end, t)
        if isinstance(returned, (tuple, list)):
            return returned
        (value,), (velocity,) = jvp(lambda ts: [path(start, end, ts[0])], [t], [ops.ones_like(t)])
        return value, velocity

    return path if path is straight else moving


def chorded(path: Path) -> Path:
    """The path with its mean velocity over the cell from each node to the next: what a secant is multiplied with.

    Σ w · secant · velocity is then Σ secant · (γ(tₖ₊₁) − γ(tₖ)), which telescopes on any curve. The last node of a row
    has none after it; its width is zero, and so is its weight.
    """

    def following(a):
        return ops.concatenate([a[:, 1:], a[:, -1:]], axis=1)

    def moving(start, end, t):
        value, width = point(path(start, end, t)), following(t) - t
        return value, (following(value) - value) / ops.where(width > 0, width, ops.ones_like(width))

    return path if path is straight else moving


@dataclass(frozen=True, eq=False)
class Polyline:
    """A path of straight pieces: from the baseline through waypoints to the input, the same share of t for each.

    For `IntegratedGradients(model, path=Polyline(waypoints))`, or for one of several inputs
    `path={"image": Polyline(waypoints)}`. The values of consecutive pieces add up, and with them the differences of F.
    Memory: the waypoints of the rows of a batch.

    Args:
        waypoints: (k, *row), the same for all rows, or (n, k, *row), in the order in which they are passed.

    Raises:
        ValueError: waypoints that are not numbers; when they are used, that do not fit the rows.
    """

    waypoints: Any  # array-like; an array from then on

    def __post_init__(self) -> None:
        array = np.asarray(self.waypoints)
        if hasattr(self.waypoints, "columns") or hasattr(self.waypoints, "iloc"):
            raise ValueError(
                "Expected waypoints as an array (k, *row) in the order of the inputs' columns, received a table. Give "
                "waypoints[x.columns].to_numpy()."
            )
        if array.dtype.kind not in "biuf" or not array.ndim or not np.isfinite(np.asarray(array, float)).all():
            raise ValueError(
                f"Expected waypoints that are finite numbers, an array (k, *row) or (n, k, *row); received "
                f"{self.waypoints!r:.80}. Stack the points that the path passes between baseline and input."
            )
        object.__setattr__(self, "waypoints", array)

    def __repr__(self) -> str:
        return f"aumann.Polyline(waypoints of shape {self.waypoints.shape})"

    def carry(self, starts: npt.NDArray, row: Sequence[int], rows: int) -> npt.NDArray:
        """Baselines (1|n, 1|m, *row) and the waypoints after them: (1|n, 1|m, 1 + k, *row).

        Raises:
            ValueError: the waypoints do not fit the rows.
        """
        row, waypoints = tuple(row), self.waypoints
        if waypoints.shape[1:] == row:
            waypoints = waypoints[None]
        if waypoints.shape[2:] != row or waypoints.ndim != len(row) + 2 or len(waypoints) not in (1, rows):
            raise ValueError(
                f"Expected waypoints (k, {', '.join(map(str, row))}) or ({rows}, k, {', '.join(map(str, row))}), "
                f"received shape {self.waypoints.shape}. Give each the shape of a row."
            )
        lead = np.broadcast_shapes(starts.shape[:2], (len(waypoints), 1))
        parts = [starts[:, :, None], waypoints[:, None]]
        return np.concatenate([np.broadcast_to(p, (*lead, p.shape[2], *row)) for p in parts], axis=2)

    def __call__(self, start: Any, end: Any, t: Any) -> Any:
        """γ(t) = Σⱼ max(1 − |legs · t − j|, 0) cornerⱼ, a hat function for each corner; `start` is from `carry`."""
        legs = start.shape[2]
        corners = [*(start[:, :, j] for j in range(legs)), end]
        return sum(ops.maximum(1 - ops.abs(legs * t - j), 0) * corner for j, corner in enumerate(corners))


@dataclass(frozen=True)
class Blur:
    """The path through scale space: γ(t) is the input blurred by a Gaussian of width σ(1 − t)³, sharp at t = 1.

    Its baseline is the most blurred input; leave baseline= out. Outside of the row there is zero, as in the code of the
    source; the Gaussian is not cut off. How σ falls with t leaves the integral as it is: the cube puts more points
    where the blur is small and most of F changes, and errs 5 to 10 times less than steps of one size.

    Args:
        sigma: σ at t = 0, in steps along the axes.
        axes: which axes of a row are blurred; all but the last one (the channels) of rows with more than one unless
            given. (0, 1) for an image (height, width, channels), (1, 2) where channels come first.

    Raises:
        ValueError: a σ that is not positive, or axes that the rows do not have.

    Source: Xu, Venugopalan, Sundararajan (2020), Attribution in Scale and Space.
    """

    sigma: float = 50.0
    axes: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        sigma, axes = self.sigma, self.axes
        meaning = "the width of the blur in steps along the axes"
        number(sigma, "(0, inf)", "a sigma", "half the width of an image", meaning)
        if axes is not None:
            axes = tuple(axes) if isinstance(axes, (tuple, list)) else (axes,)
            if not axes or not all(isinstance(a, (int, np.integer)) for a in axes) or len(set(axes)) < len(axes):
                raise ValueError(
                    f"Expected axes of a row, received {self.axes!r}. Give for example (0, 1) for an image (height, "
                    "width, channels)."
                )
            object.__setattr__(self, "axes", axes)

    def __call__(self, start: Any, end: Any, t: Any) -> Any:
        """γ(t), by a product with a matrix of Gaussians along each axis; `start` is not needed."""
        flat = len(end.shape) == 3  # rows of one axis: matrices need two
        x, t = (ops.expand_dims(a, -1) if flat else a for a in (end, t))
        for axis in self._axes(len(end.shape) - 2):
            lines = ops.moveaxis(x, axis + 2, -1)
            x = ops.moveaxis(lines @ self._kernel(ops, lines.shape[-1], t), -1, axis + 2)
        return x[..., 0] if flat else x

    def start(self, rows: npt.ArrayLike) -> npt.NDArray:
        """The most blurred rows, (n, *row), of rows on the host."""
        x = np.asarray(rows, np.float64)
        for axis in self._axes(x.ndim - 1):
            kernel = self._kernel(np, x.shape[axis + 1], np.zeros((1, 1)))
            x = np.moveaxis(np.moveaxis(x, axis + 1, -1) @ kernel, -1, axis + 1)
        return x

    def _axes(self, rank: int) -> list[int]:
        axes = range(max(1, rank - 1)) if self.axes is None else self.axes
        if any(not -rank <= a < rank for a in axes):
            raise ValueError(
                f"Expected axes of rows that have {rank}, received axes={self.axes}. They count without the axis of "
                "rows: (0, 1) for images (n, height, width, channels)."
            )
        return [a % rank for a in axes]

    def _kernel(self, xp: Any, length: int, t: Any) -> Any:
        """(…, length, length): entry (i, j) is the share of position i that the blur moves to position j.

        Args:
            xp: numpy or keras.ops.
            length: of the axis.
            t: array of the shape (…, 1, 1).
        """
        width = self.sigma * (1 - t) ** 3
        twice = 2 * (width * width + 1e-6)  # at σ = 0 the identity, without a division by zero

        def bell(distance):
            return xp.exp(-xp.array(distance**2, dtype=t.dtype) / twice)

        positions, reach = np.arange(float(length)), np.ceil(9 * self.sigma) + 1
        total = xp.sum(bell(np.arange(-reach, reach + 1)), axis=-1, keepdims=True)
        return bell(np.subtract.outer(positions, positions)) / total


def resolve(path: Any, names: Sequence[str], pack: str) -> list[Path]:
    """One path for each leaf of the inputs.

    Args:
        path: a path for all, or a list or dict of them like the inputs; what a dict leaves out goes straight.
        names: name of each leaf of the inputs, in order.
        pack: "leaf" | "list" | "dict": how the inputs are packed.

    Raises:
        ValueError: the list or dict does not fit the inputs.
    """
    if isinstance(path, dict):
        advice = "Give one path for each input that does not go straight, or one for all."
        return by_name(path, names, pack != "leaf", straight, "paths", advice)
    if isinstance(path, (list, tuple)):
        if pack == "leaf" or len(path) != len(names):
            raise ValueError(
                f"Expected {len(names)} paths, one for each input, received {len(path)}. Give one path for each "
                "input, or one for all."
            )
        return list(path)
    return [path] * len(names)


def name(path: Path) -> str:
    """The name of a path in the provenance."""
    return getattr(path, "__name__", None) or repr(path)
