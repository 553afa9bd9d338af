"""The secant: finite differences over a cell [tₖ, tₖ₊₁] of the path, carried backwards in place of derivatives.

    node     tₖ                     tₖ₊₁             the rows of a batch are consecutive nodes of paths, so that
    input    x ─────────────────────▶ x′             the right end of row k's cell is row k + 1 (`following`)
               ↓ f              f ↓                  and row k stands for its cell
    output   y = f(x)          y′ = f(x′)
    secant   A with  A (x′ − x) = y′ − y             backwards: cotangent of x = Aᵀ cotangent of y

A derivative J(x) satisfies Δy = J Δx to first order; a secant A satisfies it as it stands. Of a composition,
Δz = B Δy = B A Δx, so that the product of the secants, which is what the way back computes, is a secant of the whole
network: along a cell Σᵢ φᵢ = aᵀ Δx = F(x′) − F(x), and over all cells of a path these differences telescope,

    Σₖ aₖᵀ (γ(tₖ₊₁) − γ(tₖ)) = F(γ(1)) − F(γ(0)),        complete at any number of cells.

Many A satisfy A Δx = Δy. The one taken is the mean of J over the cell, as far as the two ends tell it:

    affine                        J itself
    elementwise y = f(x)          diag(Δy / Δx); J at the middle where Δx is too small to divide by      `slope`
    piecewise linear              slope times the part of the cell in which that piece holds             `open_fraction`
    maximum over entries          Σ over the winners of the part of the cell in which each wins          `selection`
    product x·w                   the average of the other factor: x̄ Δw + w̄ Δx = Δ(xw)                   `average`
    quotient x / w                product of x and 1/w, and Δ(1/w) = −Δw / (w w′)                        `divided`
    anything else                 J at the average of the ends, which is not a secant: Δy = J Δx + O(Δx³)

Where gates flip (ReLU and its kin, max-pooling) the error falls like 1/n² where every rule on derivatives gives 1/n.
One cell is the rescale rule of DeepLIFT (Shrikumar, Greenside, Kundaje 2017).

These are the rules, in mathematics alone; a backend finds the operations of a model and applies them. `rows` is the
number of path points in the batch; a tensor may hold m consecutive rows of its own for each, and then the right end of
one is m rows further on. The last node of a path begins no cell: its weight is 0, whichever row comes after it.
"""

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

# The distance from 1 to the next number; of TensorFloat-32, to which accelerators may round the factors of products.
ROUNDING = {"float64": 2.0**-52, "float32": 2.0**-23, "tf32": 2.0**-10, "float16": 2.0**-10, "bfloat16": 2.0**-7}


def following(x: Any, rows: int) -> Any:
    """The right ends of the cells: every row's next one, and the last row itself."""
    step = ops.shape(x)[0] // rows
    return ops.concatenate([x[step:], x[-step:]], axis=0)


def middle(x: Any, rows: int) -> Any:
    """The average of the ends of each cell."""
    return 0.5 * (x + following(x, rows))


def open_fraction(x: Any, rows: int) -> Any:
    """The part of each cell in which x > 0, x being linear there: max(x, x′) / |x − x′|, cut to [0, 1].

           / x′ > 0         x < 0 < x′: x is above 0 from t = −x / (x′ − x) on, for x′ / (x′ − x) of the cell;
    ──────/───────── 0      both above 0: the quotient is at least 1; both below: it is negative
       x /
    """
    right = following(x, rows)
    return ops.clip(ops.maximum(x, right) / (ops.abs(x - right) + least(x)), 0, 1)


def least(x: Any) -> float:
    """Next to nothing, and positive in the dtype of x: it keeps 0 / 0 from arising where x is zero at both ends."""
    return 2.0**-24 if keras.backend.standardize_dtype(x.dtype) == "float16" else 1e-30


def slope(x: Any, y: Any, rows: int, derivative: Callable, smooth: bool = True) -> Any:
    """Δy / Δx of an elementwise function, its derivative at the middle where Δx is too small to divide by.

    A secant loses ε|y| / Δx to rounding, a derivative at the middle Δx² / 24 · y‴, or all of it beside a kink. The two
    are equal at a step of about ε^⅓ for a smooth function, which is where one takes over from the other; for a function
    with kinks it is ε^½.

    Args:
        derivative: x -> dy/dx.
    """
    tiny = ROUNDING[keras.backend.standardize_dtype(x.dtype)] ** (1 / 3 if smooth else 1 / 2)
    dx, dy = following(x, rows) - x, following(y, rows) - y
    near = ops.abs(dx) <= tiny * (1 + ops.abs(x))
    return ops.where(near, derivative(middle(x, rows)), dy / ops.where(near, ops.ones_like(dx), dx))


def left_share(lead: Any, lag: Any) -> Any:
    r"""The part of a cell that passes before the left end's choice gives way to the right end's.

    Of two candidates that move linearly, the difference goes from `lead` to `lag`, and passes 0 after the part
    lead / (lead − lag) of the cell:

        lead \
        ──────\────── 0
               \ lag

    Args:
        lead: how far the left choice is ahead of the right one at the left end: ≥ 0 for a maximum.
        lag: how far it is ahead at the right end: ≤ 0 for a maximum. Where a rank is chosen, the signs are the other
            way round if it is passed from below.
    """
    closing = ops.abs(lead) + ops.abs(lag)
    return ops.where(closing > 0, ops.abs(lead) / ops.where(closing > 0, closing, ops.ones_like(closing)), 0.5)


def selection(x: Any, y: Any, cotangent: Any, rows: int, vjp: Callable, jvp: Callable) -> Any:
    """A maximum over some of the entries of x: the cotangent goes to the winners at both ends, by their shares.

    With i the winner at the left end and j at the right one, Δy = x′ⱼ − xᵢ. With s the share of the cell after which
    their lines cross, s Δxᵢ + (1 − s) Δxⱼ is the same number, so that this too is a secant.

    Args:
        vjp: (x, c) -> Jᵀ(x) c, where J(x) picks the winners at x.
        jvp: (x, v) -> J(x) v.
    """
    right, y_right = following(x, rows), following(y, rows)
    share = left_share(y - jvp(right, x), jvp(x, right) - y_right)
    return vjp(x, cotangent * share) + vjp(right, cotangent * (1 - share))


def ranked(x: Any, cotangent: Any, rows: int, rank: Callable, scatter: Callable, parts: int = 16) -> Any:
    """Entries of the last axis of x, chosen by their rank, x being linear over the cell.

    Of a maximum the two ends tell nearly all. An entry that is chosen by its rank may be overtaken by several others
    within a cell, which is therefore cut into parts.

    Args:
        rank: x -> (the entries chosen, their indices), as `ops.top_k` returns them.
        scatter: (indices, cotangent) -> the cotangent of x.
    """
    times = ops.reshape(ops.cast(np.linspace(0, 1, parts + 1), x.dtype), (1, -1, *(1,) * (len(x.shape) - 1)))
    x = ops.expand_dims(x, 1) + times * ops.expand_dims(following(x, rows) - x, 1)
    y, indices = rank(x)
    before, after = indices[:, :-1], indices[:, 1:]
    lead = y[:, :-1] - ops.take_along_axis(x[:, :-1], after, axis=-1)
    share = left_share(lead, ops.take_along_axis(x[:, 1:], before, axis=-1) - y[:, 1:])
    due = ops.expand_dims(cotangent, 1) / parts
    pairs = [ops.concatenate([a, b], axis=-1) for a, b in ((before, after), (due * share, due * (1 - share)))]
    return scatter(*(ops.concatenate([a[:, k] for k in range(parts)], axis=-1) for a in pairs))


def contest(x: Any, cotangent: Any, rows: int, sizes: Sequence[int], strides: Sequence[int]) -> tuple:
    """A maximum over windows: `selection` without vjp and jvp, the candidates being slices.

    Args:
        x: (n, …), of which entries beyond the last whole window are in none.
        sizes, strides: of a window along each axis of x but the first.

    Returns:
        (i, before, j, after): which candidate of its window wins at the left end and its cotangent, and the same for
        the right end.
    """
    counts = [(n - size) // stride + 1 for n, size, stride in zip(x.shape[1:], sizes, strides, strict=True)]

    def candidates(x):
        for offsets in itertools.product(*map(range, sizes)):
            ends = [a + (n - 1) * stride + 1 for a, n, stride in zip(offsets, counts, strides, strict=True)]
            yield x[(slice(None), *(slice(*cut) for cut in zip(offsets, ends, strides, strict=True)))]

    left, right = list(candidates(x)), list(candidates(following(x, rows)))

    def winner(entries, best):  # ties go to the first candidate, as in every framework
        which = ops.full_like(best, len(entries) - 1, dtype="int32")
        for k in reversed(range(len(entries) - 1)):
            which = ops.where(entries[k] == best, k, which)
        return which

    def pick(entries, which):
        last = len(entries) - 1
        return functools.reduce(lambda y, k: ops.where(which == k, entries[k], y), range(last), entries[last])

    y, y_right = functools.reduce(ops.maximum, left), functools.reduce(ops.maximum, right)
    i, j = winner(left, y), winner(right, y_right)
    before = cotangent * left_share(y - pick(left, j), pick(right, i) - y_right)
    return i, before, j, cotangent - before


def windows(x: Any, cotangent: Any, rows: int, sizes: Sequence[int]) -> Any:
    """The cotangent of x where y is its maximum over windows that lie side by side.

    Args:
        x, sizes: as for `contest`.
    """
    counts = [length // size for length, size in zip(x.shape[1:], sizes, strict=True)]
    i, before, j, after = contest(x, cotangent, rows, sizes, sizes)
    parts = [ops.where(i == k, before, 0) + ops.where(j == k, after, 0) for k in range(math.prod(sizes))]
    # (n, *sizes, *counts) -> (n, count, size, count, size, …) -> x's shape, with zeros beyond the last window
    rank = len(sizes)
    split = ops.reshape(ops.stack(parts, axis=1), (-1, *sizes, *counts))
    split = ops.transpose(split, (0, *(a for k in range(rank) for a in (1 + rank + k, 1 + k))))
    carried = ops.reshape(split, (-1, *(count * size for count, size in zip(counts, sizes, strict=True))))
    over = [(0, length - covered) for length, covered in zip(x.shape[1:], carried.shape[1:], strict=True)]
    return ops.pad(carried, [(0, 0), *over]) if any(map(any, over)) else carried


def summed(x: Any, like: Any) -> Any:
    """x summed over the axes along which `like` was broadcast to the shape of x."""
    lead = len(x.shape) - len(like.shape)
    if lead:
        x = ops.sum(x, axis=tuple(range(lead)))
    axes = tuple(i for i, (a, b) in enumerate(zip(x.shape, like.shape, strict=True)) if b == 1 and a != 1)
    return ops.sum(x, axis=axes, keepdims=True) if axes else x


def divided(x: Any, y: Any, cotangent: Any, rows: int, unbroadcast: Callable = summed) -> tuple:
    """The cotangents of x and y in x / y: those of a product, and of 1/y whose secant is −1 / (y y′)."""
    inverse = 1 / y
    right = following(inverse, rows)
    above, below = 0.5 * cotangent * (inverse + right), -cotangent * middle(x, rows) * inverse * right
    return unbroadcast(above, x), unbroadcast(below, y)


def modulus(x: Any, y: Any, cotangent: Any, rows: int) -> list:
    """The cotangents of x and y in √(x² + y²), x and y being linear over the cell.

    With the step d = (Δx, Δy), the unit vector e along it, n across it, and the distance h of the line from 0, the mean
    of (x, y) / √(x² + y²) is e Δ√ / |d| + n h Δ asinh(u / h) / |d|, where u = (x, y) · e.
    """
    x_right, y_right = following(x, rows), following(y, rows)
    dx, dy = x_right - x, y_right - y

    def length(x, y):
        most = ops.maximum(ops.maximum(ops.abs(x), ops.abs(y)), least(x))
        return most * ops.sqrt((x / most) ** 2 + (y / most) ** 2)

    step, left, right = length(dx, dy), length(x, y), length(x_right, y_right)
    near = step <= ROUNDING[keras.backend.standardize_dtype(x.dtype)] ** (1 / 3) * ops.maximum(left, right)
    step = ops.where(near, ops.ones_like(step), step)
    ex, ey = dx / step, dy / step
    across = y * ex - x * ey
    h = ops.maximum(ops.abs(across), 1e-12 * (left + right) + least(x))
    along = (right - left) / step
    turned = (ops.arcsinh((x_right * ex + y_right * ey) / h) - ops.arcsinh((x * ex + y * ey) / h)) * across / step
    mx, my = 0.5 * (x + x_right), 0.5 * (y + y_right)
    middle = length(mx, my) + least(x)
    means = (mx / middle, along * ex - turned * ey), (my / middle, along * ey + turned * ex)
    return [cotangent * ops.where(near, short, long) for short, long in means]


def choice(call: Callable, vjp: Callable, xs: Sequence, cotangent: Any, rows: int) -> list:
    """An operation that is affine in xs once others, indices or conditions, have chosen: to each choice its share.

    Args:
        call: (points, right) -> the operation at the points with the choices of the left end of each cell, or of the
            right one.
        vjp: (points, right, cotangent) -> the cotangents of the points.
    """
    ahead = [following(x, rows) for x in xs]
    lead, lag = (call(points, False) - call(points, True) for points in (xs, ahead))
    share = left_share(lead, lag)
    before, after = vjp(xs, False, cotangent * share), vjp(xs, True, cotangent * (1 - share))
    return [a if b is None else b if a is None else a + b for a, b in zip(before, after, strict=True)]


def ends(vjp: Callable, cotangents: Sequence, moves: Sequence[bool], rows: int) -> list:
    """The mean of the derivatives at the two ends of the cell, of an operation that cannot be run at other points.

    Row k's cotangent is carried back by the derivative at row k, for the left end, and by the one at row k + 1, for the
    right end: all cotangents are handed to the next row, and what comes back is taken from there.

    Args:
        vjp: cotangents -> the cotangents of the inputs, by the derivatives at the rows as they are.
        cotangents: of each output.
        moves: of each output, whether its first axis counts the rows.
    """

    def preceding(x):
        step = ops.shape(x)[0] // rows
        return ops.concatenate([x[:step], x[:-step]], axis=0)

    left = vjp(cotangents)
    shifted = [preceding(c) if m and c is not None else c for c, m in zip(cotangents, moves, strict=True)]
    return [None if g is None else 0.5 * (g + following(r, rows)) for g, r in zip(left, vjp(shifted), strict=True)]


# ---- rules for one operation: (vjp, inputs that move, output, cotangent, rows) -> the cotangents of those inputs -----
# vjp: (points, cotangent) -> the cotangents by the operation's own derivative at the points.


def average(vjp: Callable, xs: Sequence, y: Any, cotangent: Any, rows: int) -> list:
    """The derivative at the average of the ends: exact for products, second order for anything smooth."""
    return vjp([middle(x, rows) for x in xs], cotangent)


def smooth(vjp: Callable, xs: Sequence, y: Any, cotangent: Any, rows: int) -> list:
    """An elementwise function."""
    return [cotangent * slope(xs[0], y, rows, lambda x: vjp([x], ops.ones_like(x))[0])]


def piecewise(vjp: Callable, xs: Sequence, y: Any, cotangent: Any, rows: int) -> list:
    """An elementwise function made of several smooth ones."""
    return [cotangent * slope(xs[0], y, rows, lambda x: vjp([x], ops.ones_like(x))[0], smooth=False)]


def hinge(vjp: Callable, xs: Sequence, y: Any, cotangent: Any, rows: int) -> list:
    """A function that is linear on either side of 0."""
    one = ops.ones_like(xs[0])
    (below,), (above,) = vjp([-one], one), vjp([one], one)
    return [cotangent * (below + (above - below) * open_fraction(xs[0], rows))]


def relu(vjp: Callable, xs: Sequence, y: Any, cotangent: Any, rows: int) -> list:
    return [cotangent * open_fraction(xs[0], rows)]


def gates(vjp: Callable, xs: Sequence, y: Any, cotangent: Any, rows: int) -> list:
    """A function that has kinks and may jump: the derivative at the middle, for a secant would count the jumps."""
    return average(vjp, xs, y, cotangent, rows)


def softmax(vjp: Callable, xs: Sequence, y: Any, cotangent: Any, rows: int) -> list:
    """e / Σe over the last axis, of e = exp(x − m) with one m for both ends of a cell, which the quotient cancels.

    With p = 1 / Σe at the left end and q = 1 / Σe′ at the right one, y = p e is a product and p a reciprocal:
    Δy = p̄ Δe + ē Δp and Δp = −p q Σ Δe, and Δe = rise · Δx entry by entry.
    """
    (x,) = xs
    right = following(x, rows)
    most = ops.max(ops.maximum(x, right), axis=-1, keepdims=True)
    e, f = ops.exp(x - most), ops.exp(right - most)
    p, q = 1 / ops.sum(e, axis=-1, keepdims=True), 1 / ops.sum(f, axis=-1, keepdims=True)
    inward = 0.5 * cotangent * (p + q) - 0.5 * p * q * ops.sum(cotangent * (e + f), axis=-1, keepdims=True)
    step = right - x
    near = ops.abs(step) < 0.1
    rise = ops.where(
        near,
        ops.exp(0.5 * (x + right) - most) * (1 + step * step / 24),  # sinh(h/2) / (h/2), but for h⁴ / 1920
        (f - e) / ops.where(near, ops.ones_like(step), step),
    )
    return [inward * rise]


RULES = {rule.__name__: rule for rule in (average, smooth, piecewise, hinge, relu, gates, softmax)}
WITH_KINKS = {rule.__name__ for rule in (piecewise, hinge, relu, gates)}
