"""Paths: γ(t) and its velocity γ'(t), from the baseline at t = 0 to the input at t = 1.

A path is a function (start, end, t) -> (point, velocity) of arrays that broadcast against each other, written in
operators alone, so that it runs on every backend; one that gives the point alone has its velocity by differentiation.
A new path is one more such function. Two things a path may have besides: `start`, where it starts from by itself, and
`carry`, what it needs to know of every row beyond its baseline, laid out as starts are.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from keras import ops


def straight(start, end, t):
    """γ(t) = x′ + t (x − x′): the path of integrated gradients, the only symmetric one (Sundararajan et al. 2017)."""
    velocity = end - start
    return start + t * velocity, velocity


def point(found):
    """The point, of what a path gives."""
    return found[0] if isinstance(found, (tuple, list)) else found


def moving(path, jvp):
    """The path with the velocity that it gives, or its derivative with respect to t.

    Args:
        path: (start, end, t) -> (point, velocity) or point.
        jvp: (fn, points, directions) -> values and tangents of fn, which takes and returns lists.
    """

    def both(start, end, t):
        found = path(start, end, t)
        if isinstance(found, (tuple, list)):
            return found
        (here,), (velocity,) = jvp(lambda ts: [path(start, end, ts[0])], [t], [ops.ones_like(t)])
        return here, velocity

    return path if path is straight else both


def chorded(path):
    """The path with its mean velocity over the cell from each point to the next: what a secant is multiplied with.

    Σ w · secant · velocity is then Σ secant · (γ(tₖ₊₁) − γ(tₖ)), which telescopes on any curve. After the last point of
    a row comes none, and its weight is zero.
    """

    def following(a):
        return ops.concatenate([a[:, 1:], a[:, -1:]], axis=1)

    def both(start, end, t):
        here, width = point(path(start, end, t)), following(t) - t
        return here, (following(here) - here) / ops.where(width > 0, width, ops.ones_like(width))

    return path if path is straight else both


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

    waypoints: Any

    def __post_init__(self):
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

    def __repr__(self):
        return f"aumann.Polyline(waypoints of shape {self.waypoints.shape})"

    def carry(self, starts, row, rows):
        """Baselines (1|n, 1|m, *row) and the waypoints after them: (1|n, 1|m, 1 + k, *row)."""
        row, given = tuple(row), self.waypoints
        if given.shape[1:] == row:
            given = given[None]
        if given.shape[2:] != row or given.ndim != len(row) + 2 or len(given) not in (1, rows):
            raise ValueError(
                f"Expected waypoints (k, {', '.join(map(str, row))}) or ({rows}, k, {', '.join(map(str, row))}), "
                f"received shape {self.waypoints.shape}. Give each the shape of a row."
            )
        lead = np.broadcast_shapes(starts.shape[:2], (len(given), 1))
        parts = [starts[:, :, None], given[:, None]]
        return np.concatenate([np.broadcast_to(p, (*lead, p.shape[2], *row)) for p in parts], axis=2)

    def __call__(self, start, end, t):
        legs = start.shape[2]
        corners = [*(start[:, :, j] for j in range(legs)), end]
        return sum(ops.maximum(1 - ops.abs(legs * t - j), 0) * corner for j, corner in enumerate(corners))


@dataclass(frozen=True)
class Blur:
    """The path through scale space: γ(t) is the input blurred by a Gaussian of width σ(1 − t)³, sharp at t = 1.

    Its baseline is the most blurred input, and none is given. Outside of the row there is zero, as in the source's own
    code; the Gaussian is not cut off. How σ falls with t leaves the integral as it is: the cube puts more points
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
    axes: tuple | None = None

    def __post_init__(self):
        sigma, axes = self.sigma, self.axes
        if isinstance(sigma, bool) or not isinstance(sigma, (int, float, np.number)) or not 0 < sigma < np.inf:
            raise ValueError(
                f"Expected a sigma > 0, the width of the blur in steps along the axes; received {sigma!r}. Give for "
                "example half the width of an image."
            )
        if axes is not None:
            axes = tuple(axes) if isinstance(axes, (tuple, list)) else (axes,)
            if not axes or not all(isinstance(a, (int, np.integer)) for a in axes) or len(set(axes)) < len(axes):
                raise ValueError(
                    f"Expected axes of a row, received {self.axes!r}. Give for example (0, 1) for an image (height, "
                    "width, channels)."
                )
            object.__setattr__(self, "axes", axes)

    def __call__(self, start, end, t):
        flat = len(end.shape) == 3  # rows of one axis: matrices need two
        x, t = (ops.expand_dims(a, -1) if flat else a for a in (end, t))
        for axis in self._axes(len(end.shape) - 2):
            lines = ops.moveaxis(x, axis + 2, -1)
            x = ops.moveaxis(lines @ self._kernel(ops, lines.shape[-1], t), -1, axis + 2)
        return x[..., 0] if flat else x

    def start(self, rows):
        """The most blurred rows, (n, *row), of rows on the host."""
        x = np.asarray(rows, np.float64)
        for axis in self._axes(x.ndim - 1):
            kernel = self._kernel(np, x.shape[axis + 1], np.zeros((1, 1)))
            x = np.moveaxis(np.moveaxis(x, axis + 1, -1) @ kernel, -1, axis + 1)
        return x

    def _axes(self, rank):
        axes = range(max(1, rank - 1)) if self.axes is None else self.axes
        if any(not -rank <= a < rank for a in axes):
            raise ValueError(
                f"Expected axes of rows that have {rank}, received axes={self.axes}. They count without the axis of "
                "rows: (0, 1) for images (n, height, width, channels)."
            )
        return [a % rank for a in axes]

    def _kernel(self, xp, length, t):
        """(…, length, length): what each place gives to each other one."""
        width = self.sigma * (1 - t) ** 3
        twice = 2 * (width * width + 1e-6)  # at σ = 0 the identity, without a division by zero

        def bell(distance):
            return xp.exp(-xp.array(distance**2, dtype=t.dtype) / twice)

        places, reach = np.arange(float(length)), np.ceil(9 * self.sigma) + 1
        total = xp.sum(bell(np.arange(-reach, reach + 1)), axis=-1, keepdims=True)
        return bell(np.subtract.outer(places, places)) / total


def each(given, names, pack):
    """One path for each leaf of the inputs.

    Args:
        given: a path for all, or a list or dict of them like the inputs; what a dict leaves out goes straight.
        names: name of each leaf of the inputs, in order.
        pack: "leaf" | "list" | "dict": how the inputs are packed.
    """
    if isinstance(given, dict):
        unknown = set(given) - set(names)
        if pack == "leaf" or unknown:
            raise ValueError(
                f"Expected paths named as the inputs {names}, received {sorted(map(str, given))}. Give one path for "
                "each input that does not go straight, or one for all."
            )
        return [given.get(name, straight) for name in names]
    if isinstance(given, (list, tuple)):
        if pack == "leaf" or len(given) != len(names):
            raise ValueError(
                f"Expected {len(names)} paths, one for each input, received {len(given)}. Give one path for each "
                "input, or one for all."
            )
        return list(given)
    return [given] * len(names)


def name(path):
    """How the provenance calls a path."""
    return getattr(path, "__name__", None) or repr(path)
