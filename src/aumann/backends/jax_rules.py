"""Which rule of secants each operation of JAX gets: tables of names, and the rules that know its parameters.

A rule is a function (vjp, ins, indices, y, cotangent, rows) -> the cotangents of those inputs that move, where

    ins         all inputs of the operation, with the rows of the batch as their first axis where they have any
    indices     which of them move
    y           its output, or the list of its outputs
    cotangent   dF/dy, or the mean of it over the cell that begins in each row
    rows        path points in the batch: the right end of row k's cell is row k + 1 (`core/secant.py`)
    vjp         (points, cotangent) -> cotangents of the points by the operation's own derivative
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
from jax import lax

from aumann.backends import jax_private as private
from aumann.backends.jax_rows import Axes
from aumann.core import secant

# Operations of one tensor, entry by entry, whose secant is worth taking.
SMOOTH = set(
    "exp exp2 log log1p expm1 tanh logistic erf erfc erf_inv sqrt rsqrt cbrt integer_pow square sin cos tan asin "
    "acos atan sinh cosh asinh acosh atanh pow".split()
)
# Operations that an elementwise function may be made of, besides.
ENTRYWISE = SMOOTH | set(
    "abs sign max min add sub mul div neg clamp select_n lt le gt ge eq ne and or not xor is_finite copy copysign "
    "convert_element_type broadcast_in_dim stop_gradient floor ceil round nextafter".split()
)
# Operations that are affine in whatever moves: differentiated as ever.
AFFINE = set(
    "add sub neg add_any reduce_sum reshape transpose broadcast_in_dim concatenate slice pad squeeze expand_dims "
    "rev convert_element_type copy copy_p real imag complex conj fft cumsum reduce_precision dynamic_slice split "
    "tile stack unstack dynamic_update_slice select_n scatter scatter-add reduce_window_sum optimization_barrier "
    "device_put".split()
)
# Operations that are affine as long as one operand moves.
PRODUCTS = {"mul", "dot_general", "conv_general_dilated", "ragged_dot_general"}
# Operations of several entries that are smooth wherever they are finite. What stands in no table may hide a kink.
JOINTLY = PRODUCTS | set(
    "div pow reduce_prod cumprod cumlogsumexp lgamma digamma igamma igammac bessel_i0e bessel_i1e erf_inv "
    "regularized_incomplete_beta polygamma zeta cholesky triangular_solve tridiagonal_solve lu "
    "custom_linear_solve gather complex conj".split()
)
KINKS = set("max min abs clamp sign floor ceil round rem top_k nextafter atan2".split())
STEPS = {"sign", "floor", "ceil", "round"}
SELECTIONS = {"reduce_max", "reduce_min", "reduce_window_max", "reduce_window_min", "cummax", "cummin", "sort"}
EXTREMES = {"scatter-max", "scatter-min", "scatter_max", "scatter_min"}


def is_float(v: Any) -> bool:
    return jax.numpy.issubdtype(v.aval.dtype, jax.numpy.inexact)


def moving_floats(eqn: Any, axes: Axes) -> list[int]:
    """Which inputs of an operation move and can be differentiated by."""
    return [i for i, k in enumerate(axes) if k is not None and is_float(eqn.invars[i])]


def is_affine(eqn: Any, axes: Axes) -> bool:
    """Whether an operation is affine in what moves; not where an index or a condition moves, which chooses."""
    moving = [i for i, k in enumerate(axes) if k is not None]
    return moving == moving_floats(eqn, axes) and is_affine_in(eqn, moving)


def is_affine_in(eqn: Any, indices: list[int]) -> bool:
    """Whether an operation is affine in these of its inputs together, all others being as they are."""
    name = eqn.primitive.name
    if name == "gather" or (name == "div" and len(indices) == 1):
        return indices == [0]
    return name in AFFINE or (len(indices) == 1 and name in PRODUCTS)


def rule_of(eqn: Any, indices: list[int], axes: Axes) -> Callable:
    """The rule of an operation of which these inputs move; the derivative at the middle for any other."""
    name = eqn.primitive.name
    if any(jax.numpy.issubdtype(eqn.invars[i].aval.dtype, jax.numpy.complexfloating) for i in indices):
        return modulus if name == "abs" else common(secant.average)
    if name in ("max", "min"):
        return maximum if name == "max" else minimum
    if name == "abs":
        return common(secant.hinge)
    if name == "clamp" and indices == [1]:
        return clamp
    if name == "div" and len(indices) == 2:
        return lambda vjp, ins, indices, y, cotangent, rows: secant.divided(*ins, cotangent, rows)
    if name == "reduce_window_max" and side_by_side(eqn.params) and not any(axes):
        sizes = eqn.params["window_dimensions"][1:]
        return lambda vjp, ins, indices, y, cotangent, rows: [secant.windows(ins[0], cotangent, rows, sizes)]
    if name == "top_k" or (name == "sort" and len(eqn.outvars) == 1):
        axis = len(eqn.invars[0].aval.shape) - 1 if name == "top_k" else eqn.params["dimension"]
        return ranked(eqn, axis + 1 if axis < axes[0] else axis)
    if name in SELECTIONS | EXTREMES and len(indices) == 1 and len(eqn.outvars) == 1:
        return selection
    if len(indices) > 1 or eqn.invars[indices[0]].aval.shape != eqn.outvars[0].aval.shape:
        return common(secant.average)
    return common(secant.smooth if name in SMOOTH or (name == "div" and indices == [1]) else secant.average)


def rule_of_call(jaxpr: Any, indices: list[int], axes: Axes) -> Callable | None:
    """The rule of an operation that only calls others: that of an elementwise function, or None.

    Not where it does nothing but choose, or where a condition moves: a secant would count the jumps.
    """
    names, moving = set(primitives(jaxpr)), [i for i, k in enumerate(axes) if k is not None]
    if moving != indices or len(indices) > 1 or not names & SMOOTH or not entrywise(jaxpr):
        return None
    return common(secant.piecewise if names & {"select_n", "max", "min", "abs", "clamp"} else secant.smooth)


def primitives(jaxpr: Any) -> Iterator[str]:
    """The names of all operations, those inside others too."""
    for e in jaxpr.eqns:
        inner = private.body(e)
        yield from [e.primitive.name] if inner is None else primitives(inner.jaxpr)


def entrywise(jaxpr: Any) -> bool:
    """Whether a jaxpr is a function of one tensor, entry by entry."""
    shapes = {v.aval.shape for v in [*jaxpr.invars, *jaxpr.outvars]} | {
        v.aval.shape for e in jaxpr.eqns for v in e.outvars
    }
    if len(shapes - {()}) != 1 or len(jaxpr.outvars) != 1:
        return False
    return all(
        e.primitive.name in ENTRYWISE or ((inner := private.body(e)) is not None and entrywise(inner.jaxpr))
        for e in jaxpr.eqns
    )


# ---- the rules: (vjp, inputs, which move, output, cotangent, rows) -> the cotangents of those that move ------------


def common(rule: Callable) -> Callable:
    """A rule of `core/secant.py`, which does not ask for the inputs that do not move."""
    return lambda vjp, ins, indices, y, cotangent, rows: rule(vjp, [ins[i] for i in indices], y, cotangent, rows)


def side_by_side(p: dict) -> bool:
    """Whether windows neither overlap nor reach beyond the array, nor over several rows."""
    plain = all(d == 1 for d in (*p["base_dilation"], *p["window_dilation"], p["window_dimensions"][0]))
    return plain and p["window_dimensions"] == p["window_strides"] and not any(map(any, p["padding"]))


def maximum(
    vjp: Callable, ins: Sequence, indices: list[int], y: Any, cotangent: Any, rows: int, sign: int = 1
) -> Sequence:
    """max(a, b): to each the part of the cell in which it wins."""
    lead = jax.numpy.clip(sign * (ins[0] - ins[1]), -1e30, 1e30)
    share = secant.open_fraction(lead, rows)
    return [secant.summed(cotangent * (1 - share if i else share), ins[i]) for i in indices]


def minimum(*args: Any) -> Sequence:
    return maximum(*args, sign=-1)


def clamp(vjp: Callable, ins: Sequence, indices: list[int], y: Any, cotangent: Any, rows: int) -> Sequence:
    low, x, high = ins
    return [cotangent * (secant.open_fraction(x - low, rows) - secant.open_fraction(x - high, rows))]


def selection(vjp: Callable, ins: Sequence, indices: list[int], y: Any, cotangent: Any, rows: int) -> Sequence:
    """The jvp that `secant.selection` needs is the transpose of the vjp, which is linear in its cotangent."""

    def jvp(x, v):
        return jax.linear_transpose(lambda c: vjp([x], c)[0], y)(v)[0]

    y = jax.numpy.clip(y, -1e30, 1e30)  # the maximum of no entries is −∞
    return [secant.selection(ins[indices[0]], y, cotangent, rows, lambda x, c: vjp([x], c)[0], jvp)]


def ranked(eqn: Any, axis: int) -> Callable:
    """The largest entries along an axis, or all of them in their order."""

    def rank(x):
        if eqn.primitive.name == "top_k":
            return lax.top_k(x, eqn.params["k"])
        order = jax.numpy.argsort(x, axis=-1)
        return jax.numpy.take_along_axis(x, order, axis=-1), order

    def rule(vjp, ins, indices, y, cotangent, rows):
        x = jax.numpy.moveaxis(ins[0], axis, -1)
        c = jax.numpy.moveaxis(cotangent[0] if isinstance(cotangent, list) else cotangent, axis, -1)

        def scatter(positions, c):
            return jax.vjp(lambda x: jax.numpy.take_along_axis(x, positions, axis=-1), x)[1](c)[0]

        return [jax.numpy.moveaxis(secant.ranked(x, c, rows, rank, scatter), -1, axis)]

    return rule


def modulus(vjp: Callable, ins: Sequence, indices: list[int], y: Any, cotangent: Any, rows: int) -> Sequence:
    """|z|, whose cotangent JAX has conjugate."""
    (z,) = ins
    real, imag = secant.modulus(z.real, z.imag, cotangent, rows)
    return [lax.complex(real, -imag)]
