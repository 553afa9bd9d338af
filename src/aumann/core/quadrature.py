"""Rules: the nodes tₖ and weights wₖ of ∫₀¹ g(t) dt ≈ Σₖ wₖ g(tₖ), as frozen data that proves itself when built.

A new rule is a function that returns a `Rule`: nodes, weights and the degree up to which it claims to be exact.
"""

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

from aumann.arguments import whole


@dataclass(frozen=True, eq=False)
class Quadrature:
    """Nodes and weights of a sum over [0, 1], for the density whose `moments` a subclass gives; fields as of `Rule`."""

    name: str
    nodes: np.ndarray
    weights: np.ndarray
    degree: int

    def __post_init__(self):
        for field in ("nodes", "weights"):
            array = np.array(getattr(self, field), np.float64)
            array.flags.writeable = False
            object.__setattr__(self, field, array)
        t, w = self.nodes, self.weights
        if t.ndim != 1 or t.shape != w.shape or not len(t):
            raise ValueError(
                f"{self.name}: expected nodes and weights of one shape (n,), received {t.shape} and {w.shape}. "
                "Give one weight for each node."
            )
        if not (np.isfinite(w).all() and (t >= 0).all() and (t <= 1).all() and (np.diff(t) > 0).all()):
            raise ValueError(
                f"{self.name}: expected increasing nodes within [0, 1] and finite weights, received nodes {t}. "
                "Sort the nodes and map them to [0, 1]."
            )
        worst = np.abs(_legendre_moments(t, w, self.degree) - self.moments(np.arange(self.degree + 1))).max()
        if not worst < 1e-12:
            raise ValueError(
                f"{self.name}: expected exactness to degree {self.degree}, received an error of {worst:.1e} on a "
                "Legendre polynomial. Lower the degree or correct the weights."
            )

    cells = False  # whether a weight is for the derivative at its node, or over the cell that begins there

    def __len__(self):
        return len(self.nodes)

    def __repr__(self):
        return f"aumann.{self.name}"

    def over(self, m):
        """Path points for m baselines: (nodes, weights, which baseline), each (points,). Here every node for each."""
        return np.tile(self.nodes, m), np.tile(self.weights, m), np.repeat(np.arange(m), len(self))


class Rule(Quadrature):
    """A quadrature rule on [0, 1].

    Attributes:
        name: how the rule is called and written in the provenance, as `"gauss_legendre(50)"`.
        nodes: (n,) float64, increasing, within [0, 1].
        weights: (n,) float64, summing to 1.
        degree: every polynomial up to this degree is integrated exactly; checked when the rule is built.

    Raises:
        ValueError: the nodes and weights do not have the exactness they claim.
    """

    @staticmethod
    def moments(k):
        """∫₀¹ Pₖ(2t − 1) dt."""
        return np.where(k == 0, 1.0, 0.0)


class LogRule(Quadrature):
    """A quadrature rule on [0, 1] for the density −ln t, which is that of a product of two uniform numbers."""

    @staticmethod
    def moments(k):
        """∫₀¹ −ln t Pₖ(2t − 1) dt."""
        return np.where(k == 0, 1.0, (-1.0) ** k / np.maximum(k * (k + 1.0), 1))


class Cells(Rule):
    """Cells that fill [0, 1], each of the width that stands at its left end: what secants are summed over.

    Raises:
        ValueError: the cells leave a gap, or overlap.
    """

    cells = True

    def __post_init__(self):
        super().__post_init__()
        t, w = self.nodes, self.weights
        if t[0] != 0 or t[-1] != 1 or w[-1] != 0 or np.abs(np.diff(t) - w[:-1]).max() > 1e-15:
            raise ValueError(
                f"{self.name}: expected cells from 0 to 1 with their widths as weights and a last weight of 0, "
                f"received nodes {t} and weights {w}. Give the ends of the cells and np.diff of them."
            )

    def middles(self):
        """The derivatives at the middles of the same cells: for what secants do not see into."""
        t = self.nodes
        return Rule(f"{self.name} by the derivatives at the middles", (t[1:] + t[:-1]) / 2, np.diff(t), 1)


@dataclass(frozen=True, eq=False)
class Draws:
    """Random path points, each of one baseline of a set: a sum that is right on average over what might be drawn.

    Attributes:
        name: as the provenance has it.
        nodes: (n,) float64, within [0, 1].
        weights: (n,) float64, of the nodes; the baselines' own weights come on top.
        which: (n,) the baseline of each node.

    Raises:
        ValueError: the three do not fit together, or a node lies outside [0, 1].
    """

    name: str
    nodes: np.ndarray
    weights: np.ndarray
    which: np.ndarray

    cells = False

    def __post_init__(self):
        for field, dtype in (("nodes", np.float64), ("weights", np.float64), ("which", np.int64)):
            array = np.array(getattr(self, field), dtype)
            array.flags.writeable = False
            object.__setattr__(self, field, array)
        t = self.nodes
        if t.ndim != 1 or not t.shape == self.weights.shape == self.which.shape or not len(t):
            raise ValueError(
                f"{self.name}: expected nodes, weights and which of one shape (n,), received {t.shape}, "
                f"{self.weights.shape} and {self.which.shape}. Give each node its weight and its baseline."
            )
        if not ((t >= 0).all() and (t <= 1).all() and np.isfinite(self.weights).all() and (self.which >= 0).all()):
            raise ValueError(
                f"{self.name}: expected nodes within [0, 1], finite weights and baselines from 0, received nodes {t}. "
                "Map the nodes to [0, 1]."
            )

    def __len__(self):
        return len(self.nodes)

    def over(self, m):
        return self.nodes, self.weights, self.which


def stratified(rng, which, positions, weight):
    """Each of some baselines at `positions` places of the path, s · positions equal strata having one place each.

    A baseline has one place in each of `positions` wide strata; which of the s narrow strata within it is left to
    chance. Every place is uniform on [0, 1] on average, so that no baseline's integral is biased.

    Args:
        rng: `numpy.random.Generator`.
        which: (s,) the baselines.
        positions: places of each.
        weight: of each baseline, shared by its places.
    """
    s = len(which)
    narrow = np.stack([rng.permutation(s) for _ in range(positions)]) + rng.random((positions, s))
    t = (np.arange(positions)[:, None] + narrow / s) / positions
    return Draws(
        f"stratified({s}, {positions})", t.ravel(), np.full(t.size, weight / positions), np.tile(which, positions)
    )


def _legendre_moments(t, w, degree):
    """Σ w Pₖ(2t − 1) for k = 0…degree: monomials are too ill-conditioned."""
    x = 2 * t - 1
    before, now = np.ones_like(x), x
    moments = [w.sum()]
    for k in range(1, degree + 1):
        moments.append(w @ now)
        before, now = now, ((2 * k + 1) * x * now - k * before) / (k + 1)
    return np.array(moments)


def _count(n: Any, least: int, rule: str) -> int:
    return whole(n, least, "n", 50, f"the nodes of {rule}")


@functools.lru_cache(maxsize=64)
def gauss_legendre(n=50):
    """n Gauss–Legendre nodes: exact to degree 2n − 1, spectral on smooth networks. The default.

    Newton's iteration on Pₙ from Tricomi's guess, O(n²): 2000 nodes take 0.1 s where an eigenvalue solver takes 6 s.
    """
    n = _count(n, 1, "gauss_legendre")
    x = np.cos(np.pi * (np.arange(n, 0, -1) - 0.25) / (n + 0.5))
    for _ in range(8):
        p, slope = _legendre(n, x)
        x = x - p / slope
    x = (x - x[::-1]) / 2  # exactly symmetric, as the true nodes are
    _, slope = _legendre(n, x)
    w = 1 / ((1 - x * x) * slope**2)
    return Rule(f"gauss_legendre({n})", (1 + x) / 2, w / w.sum(), 2 * n - 1)


def _legendre(n, x):
    """Pₙ(x) and Pₙ'(x) by the three-term recurrence."""
    before, now = np.ones_like(x), x
    for k in range(2, n + 1):
        before, now = now, ((2 * k - 1) * x * now - (k - 1) * before) / k
    return now, n * (x * now - before) / (x * x - 1)


@functools.lru_cache(maxsize=64)
def clenshaw_curtis(n=33):
    """n Chebyshev points with both ends: exact to degree n − 1, nested as n = 2ᵏ + 1.

    Source: Waldvogel (2006), Fast construction of the Fejér and Clenshaw–Curtis quadrature rules.
    """
    n = _count(n, 2, "clenshaw_curtis")
    m = n - 1
    k = np.arange(n)
    j = np.arange(1, m // 2 + 1)
    b = np.where(2 * j == m, 1.0, 2.0)
    w = 1 - (b / (4 * j**2 - 1) * np.cos(2 * np.pi * np.outer(k, j) / m)).sum(1)
    w *= np.where((k == 0) | (k == m), 1.0, 2.0) / (2 * m)
    return Rule(f"clenshaw_curtis({n})", np.sin(np.pi * k / (2 * m)) ** 2, w, m)


def midpoint(n=50):
    """The middles of n equal cells: exact to degree 1, second order."""
    n = _count(n, 1, "midpoint")
    return Rule(f"midpoint({n})", (np.arange(n) + 0.5) / n, np.full(n, 1 / n), 1)


def trapezoid(n=51):
    """n equally spaced points with both ends, the ends weighing half: exact to degree 1, second order."""
    n = _count(n, 2, "trapezoid")
    w = np.full(n, 1 / (n - 1))
    w[[0, -1]] /= 2
    return Rule(f"trapezoid({n})", np.linspace(0, 1, n), w, 1)


def between(k, n):
    """The ends of n equal cells that are none of k equal ones, n being a multiple of k: what a trapezoid lacks."""
    t = np.delete(np.arange(n + 1), np.arange(0, n + 1, n // k)) / n
    return Rule(f"between({k}, {n})", t, np.full(len(t), 1 / len(t)), 1)


def left(n=50):
    """The left ends of n equal cells: exact for constants only, first order. The historical sum."""
    n = _count(n, 1, "left")
    return Rule(f"left({n})", np.arange(n) / n, np.full(n, 1 / n), 0)


def right(n=50):
    """The right ends of n equal cells: exact for constants only, first order."""
    n = _count(n, 1, "right")
    return Rule(f"right({n})", np.arange(1, n + 1) / n, np.full(n, 1 / n), 0)


@functools.lru_cache(maxsize=256)
def secant(n=32):
    """n cells, over each of which finite differences are carried backwards: see `aumann.core.secant`.

    Second order on piecewise-linear networks (ReLU and its kin, max-pooling), where rules on derivatives are first, and
    complete at any n where a network is made of affine maps, elementwise functions, maxima and products. On smooth
    networks `gauss_legendre` is better by far. Costs n + 1 forwards and backwards a row and baseline.

    The cells end at (k/n)^1.5: gates flip fastest near a baseline of zeros, and on trained networks these cells err by
    a third to a half less than equal ones (docs/benchmarks.md).
    """
    n = _count(n, 1, "secant")
    t = (np.arange(n + 1) / n) ** 1.5
    return Cells(f"secant({n})", t, np.append(np.diff(t), 0), 0)


NEAREST = 1e-12, 1e-7  # how near to 0 and to 1 graded nodes come: float32 tells no t between 1 − 6e-8 and 1


def _graded(n):
    """t at n + 1 equal steps of v, and dt/dv for the whole range of v as 1: t = 1 / (1 + exp(−π sinh v)).

    Nodes lie by the ratio of their distances to an end, so that what happens within 1e-10 of it is resolved, and what
    is singular there does no harm (double exponential quadrature).

    Source: Takahasi, Mori (1974), Double exponential formulas for numerical integration.
    """
    first, last = (float(np.arcsinh(np.log(1 / near - 1) / np.pi)) for near in NEAREST)
    v = np.linspace(-first, last, n + 1)
    t = 1 / (1 + np.exp(-np.pi * np.sinh(v)))
    return t, t * (1 - t) * np.pi * np.cosh(v) * (first + last)


@functools.lru_cache(maxsize=64)
def graded(n=64, known=0):
    """The n + 1 nodes of a trapezoidal rule that are graded towards both ends, without those that `known` cells have.

    Returns:
        The rule, whose weights sum to 1, and what they sum to before.
    """
    t, w = _graded(n)
    w[[0, -1]] /= 2
    if known:
        t, w = (np.delete(a, np.arange(0, n + 1, n // known)) for a in (t, w))
    return Rule(f"graded({n})", t, w / w.sum(), 0), w.sum() / n


@functools.lru_cache(maxsize=64)
def graded_secant(n=32):
    """n cells whose ends are graded towards both ends of the path: `secant` for a slope that is enormous there."""
    t, _ = _graded(n)
    t[[0, -1]] = 0, 1
    return Cells(f"graded_secant({n})", t, np.append(np.diff(t), 0), 0)


@functools.lru_cache(maxsize=64)
def log_gauss(n=12):
    """n Gauss nodes for ∫₀¹ −ln t g(t) dt: exact to degree 2n − 1, spectral if g is smooth.

    For `IntegratedHessians`. The recurrence of the orthogonal polynomials comes from the moments of Legendre
    polynomials, which is well-conditioned; nodes and weights are the eigenvalues and vectors of its matrix.

    Source: Gautschi (1982), On generating orthogonal polynomials; Golub, Welsch (1969).
    """
    n = _count(n, 1, "log_gauss")
    k = np.arange(2 * n)
    b = k**2 / (4 * (4 * k**2 - 1.0))  # of the monic Legendre polynomials on [0, 1], whose a is 1/2 throughout
    above = LogRule.moments(k) * np.append(1, np.cumprod((k[:-1] + 1) / (4 * k[:-1] + 2)))  # monic: over C(2k, k)
    before, alpha, beta = np.zeros(2 * n), [0.5 + above[1] / above[0]], [1.0]
    for j in range(1, n):
        now = np.zeros(2 * n)
        inner = slice(j, 2 * n - j)
        now[inner] = above[j + 1 : 2 * n - j + 1] - (alpha[-1] - 0.5) * above[inner]
        now[inner] += b[inner] * above[j - 1 : 2 * n - j - 1] - (beta[-1] * before[inner] if j > 1 else 0)
        alpha.append(0.5 + now[j + 1] / now[j] - above[j] / above[j - 1])
        beta.append(now[j] / above[j - 1])
        before, above = above, now
    aside = np.sqrt(beta[1:])
    nodes, vectors = np.linalg.eigh(np.diag(alpha) + np.diag(aside, 1) + np.diag(aside, -1))
    return LogRule(f"log_gauss({n})", nodes, vectors[0] ** 2, 2 * n - 1)


FAMILIES = {f.__name__: f for f in (gauss_legendre, clenshaw_curtis, midpoint, trapezoid, left, right, secant)}
