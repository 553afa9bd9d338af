"""What can be told of a function on JAX before it is explained: kinks, and what does not carry secants.

The function is traced, and the operations between its moving inputs and its outputs are classified by their names. A
name that stands in no table may hide a kink: the tables name what is smooth, and nothing passes for smooth because it
was forgotten.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from aumann.backends import jax_private as private
from aumann.backends import jax_rows as rows_of
from aumann.backends import jax_rules as rules
from aumann.backends.jax_private import is_literal
from aumann.backends.jax_rows import Axes, one_of
from aumann.backends.jax_rules import is_float
from aumann.core import secant


def has_kinks(fn: Callable, points: Sequence) -> bool | None:
    """Whether something that moves passes a kink on its way through fn, which is only traced; None if hidden."""
    rows = 3  # a number that tells them from axes of length one
    try:
        closed = jax.make_jaxpr(fn)([jax.ShapeDtypeStruct((rows, *p.shape[1:]), p.dtype) for p in points])
    except Exception:  # a function that has the number of rows in it
        rows, closed = len(points[0]), jax.make_jaxpr(fn)(points)
    words = kinks(closed.jaxpr, [0] * len(closed.jaxpr.invars), rows)
    if not words & {"kink", "hidden"}:
        return False
    return None if "blind" in words or "kink" not in words else True


def kinks(jaxpr: Any, axes: Axes, rows: int, wanted: Sequence[bool] | None = None) -> set[str]:
    """What stands between the inputs that move and the outputs that are wanted, in three words.

    "kink": a kink or a step; "hidden": an operation that may have one; "blind": one that is not affine and whose rows
    are on an unknown axis, so that secants do not see it.
    """
    row_axes, words, positive = rows_of.spread(jaxpr, axes, rows, through=True), set(), not_negative(jaxpr)
    shifts = rows_of.maxima(jaxpr)
    wanted = [True] * len(jaxpr.outvars) if wanted is None else wanted
    needed = {v for v, is_wanted in zip(jaxpr.outvars, wanted, strict=True) if is_wanted and not is_literal(v)}
    for eqn in reversed(jaxpr.eqns):
        ins, outs = rows_of.axes_of(row_axes, eqn.invars), [v in needed for v in eqn.outvars]
        stops = eqn.primitive.name == private.STOP
        if any(outs) and not (stops and one_of(eqn.invars[0], shifts)):
            needed.update(v for v in eqn.invars if not is_literal(v))
            bare = eqn.primitive.name == "abs" and one_of(eqn.invars[0], positive)  # as the logarithm of a sum has it
            if any(k is not None for k in ins) and not bare:
                words |= _kinks(eqn, ins, rows_of.axes_of(row_axes, eqn.outvars), outs, rows)
    return words


def not_negative(jaxpr: Any) -> set:
    """Variables that are nowhere below 0, as far as the operations tell."""
    variables: set = set()
    for eqn in jaxpr.eqns:
        name = eqn.primitive.name
        made = name in ("exp", "exp2", "logistic", "square", "abs")
        kept = name in ("reduce_sum", "add", "mul", "broadcast_in_dim", "reshape", "transpose", "squeeze")
        if made or (kept and all(one_of(v, variables) for v in eqn.invars)):
            variables.update(eqn.outvars)
    return variables


def _kinks(eqn, axes, out_axes, wanted, rows):
    """The words for one operation."""
    name, p = eqn.primitive.name, eqn.params
    unseen = {"blind"} if rows_of.is_blind(axes, out_axes) else set()
    if name == private.STOP:  # its result moves, and secants take it as it is at the left end
        return {"blind"}
    if name == private.LOOP:
        mapped = rows_of.mapped(eqn, axes)
        if mapped:
            return kinks(mapped.jaxpr, axes, rows, wanted)
        return kinks(p["jaxpr"].jaxpr, rows_of.looped(eqn, axes, rows, True)[0], rows)
    if name == private.BRANCH:
        return set().union(*(kinks(b.jaxpr, axes[1:], rows, wanted) for b in p["branches"]))
    rule = rows_of.composite_rule(eqn)
    if rule and rule != "average":
        return unseen | ({"kink"} if rule in secant.WITH_KINKS else set())
    if inner := private.body(eqn):
        words = kinks(inner.jaxpr, axes, rows, wanted)
        return words - {"blind"} | unseen if rule else words
    if inner := private.opaque_body(eqn):
        return kinks(inner.jaxpr, axes, rows, wanted) | {"hidden"} | unseen
    indices = rules.moving_floats(eqn, axes)
    if not any(map(is_float, eqn.outvars)):
        return _step(eqn) if indices else set()
    if not indices:  # a step that becomes a number is a factor that secants do not see
        return {"blind"}
    if rules.is_affine(eqn, axes):
        return set()
    if rules.is_affine_in(
        eqn, indices
    ):  # an operand chooses: of two, at a single point, or of many, in an unseen order
        return unseen if name == "select_n" else {"blind"}
    if name in rules.KINKS | rules.SELECTIONS | rules.EXTREMES:
        return unseen | ({"kink", "blind"} if name in rules.STEPS else {"kink"})
    return unseen | (set() if name in rules.SMOOTH | rules.JOINTLY else {"hidden"})


def _step(eqn):
    """A number that moves becomes an integer or a truth. Whether it is finite stays as it is; what equals it, it may
    meet in a single point, such as the value that is masked.
    """
    name = eqn.primitive.name
    if name in ("eq", "ne"):
        a, b = eqn.invars
        beyond = any(is_literal(v) and not np.isfinite(v.val).all() for v in (a, b))
        return set() if a is b or beyond else {"hidden"}
    return set() if name == "is_finite" else {"kink"}
