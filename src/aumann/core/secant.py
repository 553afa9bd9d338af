"""The secant: finite differences over a cell [tₖ, tₖ₊₁] of the path, carried backwards in place of derivatives.

The rows of a batch are consecutive nodes of paths, so the right end of a row's cell is the next row. An operation that
is affine carries its cotangent back as ever; any other by the mean of its derivative over the cell, as far as its
values at the two ends tell: an elementwise function by its secant, a maximum by the share of the cell in which each
candidate wins, a product by the average of the other factor, whatever else by its derivative at the average of the
ends. A network of the former kinds is complete, Σφ = F(x) − F(x′), at any number of cells. Where gates flip (ReLU and
its kin, max-pooling) the error falls like 1/n² where every rule on derivatives gives 1/n. One cell is the rescale rule
of DeepLIFT (Shrikumar, Greenside, Kundaje 2017).

These are the rules, in mathematics alone; a backend finds the operations of a model and applies them. `rows` is the
number of path points in the batch; a tensor may hold several of its own rows for each.
"""

import functools
import itertools
import math

import keras
import numpy as np
from keras import ops

# The distance from 1 to the next number; of TensorFloat-32, to which accelerators may round the factors of products.
ROUNDING = {"float64": 2.0**-52, "float32": 2.0**-23, "tf32": 2.0**-10, "float16": 2.0**-10, "bfloat16": 2.0**-7}


def following(x, rows):
    """The right ends of the cells: every row's next one, and the last row's own."""
    step = ops.shape(x)[0] // rows
    return ops.concatenate([x[step:], x[-step:]], axis=0)


def middle(x, rows):
    return 0.5 * (x + following(x, rows))


def open_fraction(x, rows):
    """The part of each cell in which x > 0, x being linear there: max(x, x′) / |x − x′|, cut to [0, 1]."""
    right = following(x, rows)
    return ops.clip(ops.maximum(x, right) / (ops.abs(x - right) + least(x)), 0, 1)


def least(x):
    """What keeps 0 / 0 from arising where x is zero at both ends: next to nothing, but something in x's own type."""
    return 2.0**-24 if keras.backend.standardize_dtype(x.dtype) == "float16" else 1e-30


def slope(x, y, rows, derivative, smooth=True):
    """Δy / Δx of an elementwise function, its derivative at the middle where Δx is too small to divide by.

    A secant loses ε|y| / Δx to rounding, a derivative Δx² / 24 · y‴, or all of it beside a kink; the step at which one
    takes over from the other is ε^⅓ for a smooth function and ε^½ for one with kinks.
    """
    tiny = ROUNDING[keras.backend.standardize_dtype(x.dtype)] ** (1 / 3 if smooth else 1 / 2)
    dx, dy = following(x, rows) - x, following(y, rows) - y
    near = ops.abs(dx) <= tiny * (1 + ops.abs(x))
    return ops.where(near, derivative(middle(x, rows)), dy / ops.where(near, ops.ones_like(dx), dx))


def left_share(lead, lag):
    """The part of a cell that passes before the left end's choice gives way to the right end's.

    Args:
        lead: how far the left choice is ahead of the right one at the left end: ≥ 0 for a maximum.
        lag: how far it is ahead at the right end: ≤ 0 for a maximum. Where a rank is chosen, the signs are the other
            way round if it is passed from below.
    """
    closing = ops.abs(lead) + ops.abs(lag)
    return ops.where(closing > 0, ops.abs(lead) / ops.where(closing > 0, closing, ops.ones_like(closing)), 0.5)


def selection(x, y, cotangent, rows, pull, push):
    """A maximum over some of the entries of x: the cotangent goes to the winners at both ends, by their shares.

    Args:
        pull: (x, c) -> Jᵀ(x) c, where J(x) picks the winners at x.
        push: (x, v) -> J(x) v.
    """
    right, y_right = following(x, rows), following(y, rows)
    share = left_share(y - push(right, x), push(x, right) - y_right)
    return pull(x, cotangent * share) + pull(right, cotangent * (1 - share))


def ranked(x, cotangent, rows, rank, scatter, parts=16):
    """Entries of the last axis of x, chosen by their rank, x being linear over the cell.

    Of a maximum the two ends tell nearly all; what has a rank may give way to several others within a cell, which is
    therefore cut into parts.

    Args:
        rank: x -> what is chosen and where it stands, as `ops.top_k` has them.
        scatter: (places, cotangent) -> the cotangent of x.
    """
    times = ops.reshape(ops.cast(np.linspace(0, 1, parts + 1), x.dtype), (1, -1, *(1,) * (len(x.shape) - 1)))
    x = ops.expand_dims(x, 1) + times * ops.expand_dims(following(x, rows) - x, 1)
    y, place = rank(x)
    before, after = place[:, :-1], place[:, 1:]
    lead = y[:, :-1] - ops.take_along_axis(x[:, :-1], after, axis=-1)
    share = left_share(lead, ops.take_along_axis(x[:, 1:], before, axis=-1) - y[:, 1:])
    due = ops.expand_dims(cotangent, 1) / parts
    several = [ops.concatenate([a, b], axis=-1) for a, b in ((before, after), (due * share, due * (1 - share)))]
    return scatter(*(ops.concatenate([a[:, k] for k in range(parts)], axis=-1) for a in several))


def contest(x, cotangent, rows, sizes, strides):
    """A maximum over windows: `selection` without its pulls and pushes, the candidates being slices.

    Args:
        x: (n, …), of which entries beyond the last whole window are in none.
        sizes, strides: of a window along each axis of x but the first.

    Returns:
        (i, before, j, after): which candidate of its window wins at the left end and what it is due, and the same
        for the right end.
    """
    counts = [(n - size) // stride + 1 for n, size, stride in zip(x.shape[1:], sizes, strides, strict=True)]

    def candidates(x):
        for places in itertools.product(*map(range, sizes)):
            ends = [a + (n - 1) * stride + 1 for a, n, stride in zip(places, counts, strides, strict=True)]
            yield x[(slice(None), *(slice(*cut) for cut in zip(places, ends, strides, strict=True)))]

    left, right = list(candidates(x)), list(candidates(following(x, rows)))

    def first(found, best):  # which candidate it is; ties go to the first, as every framework has it
        which = ops.full_like(best, len(found) - 1, dtype="int32")
        for k in reversed(range(len(found) - 1)):
            which = ops.where(found[k] == best, k, which)
        return which

    def pick(found, which):
        return functools.reduce(lambda y, k: ops.where(which == k, found[k], y), range(len(found) - 1), found[-1])

    y, z = functools.reduce(ops.maximum, left), functools.reduce(ops.maximum, right)
    i, j = first(left, y), first(right, z)
    before = cotangent * left_share(y - pick(left, j), pick(right, i) - z)
    return i, before, j, cotangent - before


def windows(x, cotangent, rows, sizes):
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
    over = [(0, length - own) for length, own in zip(x.shape[1:], carried.shape[1:], strict=True)]
    return ops.pad(carried, [(0, 0), *over]) if any(map(any, over)) else carried


def summed(x, like):
    """x summed to the shape that was broadcast to x's."""
    lead = len(x.shape) - len(like.shape)
    if lead:
        x = ops.sum(x, axis=tuple(range(lead)))
    axes = tuple(i for i, (a, b) in enumerate(zip(x.shape, like.shape, strict=True)) if b == 1 and a != 1)
    return ops.sum(x, axis=axes, keepdims=True) if axes else x


def divided(x, y, cotangent, rows, unbroadcast=summed):
    """The cotangents of x and y in x / y: those of a product, and of 1/y whose secant is −1 / (y y′)."""
    inverse = 1 / y
    right = following(inverse, rows)
    above, below = 0.5 * cotangent * (inverse + right), -cotangent * middle(x, rows) * inverse * right
    return unbroadcast(above, x), unbroadcast(below, y)


def modulus(x, y, cotangent, rows):
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
    found = (mx / middle, along * ex - turned * ey), (my / middle, along * ey + turned * ex)
    return [cotangent * ops.where(near, short, long) for short, long in found]


def choice(call, pull, xs, cotangent, rows):
    """An operation that is affine in xs once others, indices or conditions, have chosen: to each choice its share.

    Args:
        call: (points, right) -> the operation at the points with the choices of the left end of each cell, or of the
            right one.
        pull: (points, right, cotangent) -> the cotangents of the points.
    """
    ahead = [following(x, rows) for x in xs]
    lead, lag = (call(points, False) - call(points, True) for points in (xs, ahead))
    share = left_share(lead, lag)
    before, after = pull(xs, False, cotangent * share), pull(xs, True, cotangent * (1 - share))
    return [a if b is None else b if a is None else a + b for a, b in zip(before, after, strict=True)]


def ends(pull, cotangents, moves, rows):
    """The mean of the derivatives at the two ends of the cell, of whatever can be differentiated where it is only.

    Args:
        pull: cotangents -> the cotangents of the inputs, by the derivatives at the rows as they are.
        cotangents: of each output.
        moves: of each output, whether its first axis counts the rows.
    """

    def preceding(x):
        step = ops.shape(x)[0] // rows
        return ops.concatenate([x[:step], x[:-step]], axis=0)

    left = pull(cotangents)
    shifted = [preceding(c) if m and c is not None else c for c, m in zip(cotangents, moves, strict=True)]
    return [None if g is None else 0.5 * (g + following(r, rows)) for g, r in zip(left, pull(shifted), strict=True)]


# ---- rules for one operation: (pull, inputs that move, output, cotangent, rows) -> the cotangents of those inputs ----
# pull: (points, cotangent) -> the cotangents by the operation's own derivative at the points.


def average(pull, xs, y, cotangent, rows):
    """The derivative at the average of the ends: exact for products, second order for anything smooth."""
    return pull([middle(x, rows) for x in xs], cotangent)


def smooth(pull, xs, y, cotangent, rows):
    """An elementwise function."""
    return [cotangent * slope(xs[0], y, rows, lambda x: pull([x], ops.ones_like(x))[0])]


def kinked(pull, xs, y, cotangent, rows):
    """An elementwise function made of several smooth ones."""
    return [cotangent * slope(xs[0], y, rows, lambda x: pull([x], ops.ones_like(x))[0], smooth=False)]


def hinge(pull, xs, y, cotangent, rows):
    """A function that is linear on either side of 0."""
    one = ops.ones_like(xs[0])
    (below,), (above,) = pull([-one], one), pull([one], one)
    return [cotangent * (below + (above - below) * open_fraction(xs[0], rows))]


def relu(pull, xs, y, cotangent, rows):
    return [cotangent * open_fraction(xs[0], rows)]


def gates(pull, xs, y, cotangent, rows):
    """What has kinks and may jump: the derivative at the average of the ends, for a secant would count the jumps."""
    return average(pull, xs, y, cotangent, rows)


def softmax(pull, xs, y, cotangent, rows):
    """e / Σe over the last axis, of e = exp(x − m) with one m for both ends of a cell, which the quotient cancels."""
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


RULES = {rule.__name__: rule for rule in (average, smooth, kinked, hinge, relu, gates, softmax)}
KINKED = {rule.__name__ for rule in (kinked, hinge, relu, gates)}
