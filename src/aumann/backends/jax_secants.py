"""Secants on JAX: a function whose operations, control flow included, carry cotangents back over cells.

The function is traced, and its operations are put one after another again. One that moves and is not affine is put
there as a `jax.custom_vjp`:

    forward     outs = operation(ins), as ever; ins and outs are saved
    backward    rows of ins, outs and cotangents to the front ──▶ rule ──▶ cotangents of ins, rows back on their axis

where row k of all tensors stands for the cell from row k to row k + 1, whose right end the rule reads from the same
tensors shifted by one row. Cotangents are added up, and carried through affine operations, by `jax.vjp` as ever. What
XLA finds unused, such as the result at the middle of a cell where the derivative does not look at it, it drops. What
each operation gets is in `jax_rules.py`.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax import lax

from aumann.backends import jax_private as private
from aumann.backends import jax_rows as rows_of
from aumann.backends import jax_rules as rules
from aumann.backends.jax_private import is_literal
from aumann.backends.jax_rows import COMPOSITE, Axes, rows_back, rows_first
from aumann.backends.jax_rules import is_float
from aumann.core import secant


def secants(fn: Callable, rows: int) -> Callable:
    """fn of a list of tensors, each with `rows` rows or a multiple of them, with secants for its derivatives."""

    def run(points):
        closed, shape = jax.make_jaxpr(fn, return_shape=True)(points)
        flat = jax.tree.leaves(points)
        outs = evaluate(closed.jaxpr, closed.consts, flat, [0] * len(flat), rows)
        return jax.tree.unflatten(jax.tree.structure(shape), outs)

    return run


def evaluate(jaxpr: Any, consts: Sequence, args: Sequence, axes: Axes, rows: int) -> list:
    """The outputs of a jaxpr, the operations of which are replaced where one of their inputs moves.

    Args:
        axes: for each input the axis that counts the rows, or None for one that does not move (`jax_rows`).
    """
    row_axes = rows_of.spread(jaxpr, axes, rows)
    values = dict(zip(jaxpr.constvars, consts, strict=True)) | dict(zip(jaxpr.invars, args, strict=True))

    def read(v):
        return v.val if is_literal(v) else values[v]

    for eqn in jaxpr.eqns:
        in_axes, out_axes = (rows_of.axes_of(row_axes, variables) for variables in (eqn.invars, eqn.outvars))
        outs = apply(eqn, [read(v) for v in eqn.invars], in_axes, out_axes, rows)
        values.update(zip(eqn.outvars, outs, strict=True))
    return [read(v) for v in jaxpr.outvars]


def apply(eqn: Any, ins: list, axes: Axes, out_axes: Axes, rows: int) -> Any:
    """One operation, by its kind."""
    name = eqn.primitive.name
    indices = rules.moving_floats(eqn, axes)
    if not indices or rules.is_affine(eqn, axes) or not any(map(is_float, eqn.outvars)):
        return private.bind(eqn, ins)
    if name == private.LOOP:
        return loop(eqn, ins, axes, rows)
    if name == private.BRANCH and axes[0] is None:
        return branch(eqn, ins, axes, rows)
    inner, composite = private.body(eqn), rows_of.composite_rule(eqn)
    if composite:
        rule = rules.common(secant.RULES[composite])
    elif inner is None:
        rule = rules.rule_of(eqn, indices, axes)
    else:
        rule = rules.rule_of_call(inner.jaxpr, indices, axes)
    if rule is None:
        return evaluate(inner.jaxpr, inner.consts, ins, axes, rows)
    if rows_of.is_blind(axes, out_axes):
        return private.bind(eqn, ins)  # its rows are on an unknown axis: the derivative at the left end
    chooses = inner is None and rules.is_affine_in(eqn, indices) and len(eqn.outvars) == 1
    return _carried(eqn, None if chooses else rule, indices, axes, out_axes, rows)(*ins)


def _carried(eqn, rule, indices, axes, out_axes, rows):
    """An operation whose way back is a rule, or `secant.choice` for None."""

    def call(*ins):
        return private.bind(eqn, ins)

    def carry(saved, cotangents):
        ins, outs = saved
        outs, cotangents = (
            [rows_first(a, k) for a, k in zip(tensors, out_axes, strict=True)] for tensors in (outs, cotangents)
        )
        y, cotangent = (outs[0], cotangents[0]) if len(outs) == 1 else (outs, cotangents)
        if rule is None:
            carried = _chosen(call, ins, indices, axes, out_axes, cotangent, rows)
        else:
            rank = outs[0].ndim  # of an operation entry by entry, also that of the inputs that do not move
            moved = [
                rows_first(x, out_axes[0] if k is None else k) if k is not None or jax.numpy.ndim(x) == rank else x
                for x, k in zip(ins, axes, strict=True)
            ]
            carried = rule(_vjp(call, ins, indices, axes, out_axes), moved, indices, y, cotangent, rows)
        by_input = dict(zip(indices, carried, strict=True))
        return tuple(rows_back(by_input[i], k) if i in by_input else None for i, k in enumerate(axes))

    operation = jax.custom_vjp(call)
    operation.defvjp(lambda *ins: (outs := call(*ins), (ins, outs)), carry)
    return operation


def _chosen(call, ins, indices, axes, out_axes, cotangent, rows):
    """An operation that is affine once indices and conditions that move have chosen: `secant.choice`."""
    choosers = [i for i, k in enumerate(axes) if k is not None and i not in indices]
    right = {i: rows_back(secant.following(rows_first(ins[i], axes[i]), rows), axes[i]) for i in choosers}

    def at(points, is_right):
        moved = {i: rows_back(x, axes[i]) for i, x in zip(indices, points, strict=True)} | (right if is_right else {})
        return rows_first(call(*(moved.get(i, x) for i, x in enumerate(ins)))[0], out_axes[0])

    def vjp(points, is_right, cotangent):
        return jax.vjp(lambda *points: at(points, is_right), *points)[1](cotangent)

    return secant.choice(at, vjp, [rows_first(ins[i], axes[i]) for i in indices], cotangent, rows)


def _vjp(call, ins, indices, axes, out_axes):
    """(points, cotangent) -> cotangents by the operation's own derivative; inputs that do not move are as they are.

    Rows are the first axis of points, cotangents and results.
    """

    def vjp(points, cotangent):
        def at(*points):
            moved = {i: rows_back(x, axes[i]) for i, x in zip(indices, points, strict=True)}
            outs = call(*(moved.get(i, x) for i, x in enumerate(ins)))
            outs = [rows_first(y, k) for y, k in zip(outs, out_axes, strict=True)]
            return outs[0] if len(outs) == 1 else outs

        return jax.vjp(at, *points)[1](cotangent)

    return vjp


def branch(eqn: Any, ins: list, axes: Axes, rows: int) -> Any:
    """One of several functions, chosen by an index that does not move."""
    branches = [lambda *ins, b=b: evaluate(b.jaxpr, b.consts, ins, axes[1:], rows) for b in eqn.params["branches"]]
    return lax.switch(ins[0], branches, *ins[1:])


def loop(eqn: Any, ins: list, axes: Axes, rows: int) -> Any:
    """A loop, the operations of whose body are replaced likewise."""
    p = eqn.params
    consts, carried = p["num_consts"], p["num_consts"] + p["num_carry"]
    if mapped := rows_of.mapped(eqn, axes):
        return evaluate(mapped.jaxpr, mapped.consts, ins, axes, rows)
    inner, (axes, _) = p["jaxpr"], rows_of.looped(eqn, axes, rows)

    def turn(carry, xs):
        outs = evaluate(inner.jaxpr, inner.consts, [*ins[:consts], *carry, *xs], axes, rows)
        return outs[: p["num_carry"]], outs[p["num_carry"] :]

    carry, ys = lax.scan(turn, ins[consts:carried], ins[carried:], p["length"], p["reverse"], p["unroll"])
    return [*carry, *ys]


def composite_op(call: Callable, xs: Sequence, rule: str, rows: Any) -> Any:
    """call(*xs) as one operation with a rule of `core.secant`: the rule travels in the name of a call."""

    def composite(*xs):
        return call(*xs)

    composite.__name__ = COMPOSITE + rule
    return jax.jit(composite)(*xs)


def literals(jaxpr: Any) -> list:
    """Numbers that stand in a jaxpr and in those that it calls."""
    numbers = []
    for eqn in jaxpr.eqns:
        numbers += [v.val for v in eqn.invars if is_literal(v)]
        for inner in jax.tree.leaves(list(eqn.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            numbers += getattr(inner, "consts", [])
            if hasattr(inner, "eqns"):
                numbers += literals(inner)
    return numbers
