"""Which axis of a tensor counts the rows of the batch, on JAX: followed from operation to operation.

An axis counts the rows if its index is row · m + j for some m ≥ 1: a batch of sequences that is reshaped to a batch
of words still does. Where no axis does, or where it is not known which, the axis is LOST.

A tensor moves if a moving input leads to it; of one that does not move there is no axis, which is written None.
"""

import math
from collections.abc import Iterable
from typing import Any

import jax

from aumann.backends import jax_private as private
from aumann.backends.jax_private import is_literal

Axes = list[int | None]

LOST = -1
COMPOSITE = "secant_"  # begins the name of a function that is one operation to secants; its rule follows


def spread(jaxpr: Any, axes: Axes, rows: int, through: bool = False) -> dict:
    """{variable: axis of the rows} of all that moves when some inputs do, integers and truths included.

    With `through`, also what moves while its gradient is stopped.
    """
    shifts = maxima(jaxpr) if through else ()
    row_axes = {v: k for v, k in zip(jaxpr.invars, axes, strict=True) if k is not None}
    for eqn in jaxpr.eqns:
        ins = axes_of(row_axes, eqn.invars)
        stopped = eqn.primitive.name == private.STOP and (not through or one_of(eqn.invars[0], shifts))
        if not stopped and any(k is not None for k in ins):
            outs = _followed(eqn, ins, rows, through)
            row_axes.update((v, k) for v, k in zip(eqn.outvars, outs, strict=True) if k is not None)
    return row_axes


def axes_of(row_axes: dict, variables: Iterable) -> Axes:
    return [None if is_literal(v) else row_axes.get(v) for v in variables]


def one_of(v: Any, variables: Any) -> bool:
    """Whether v is one of some variables. A number that stands in the jaxpr is none, and has no hash."""
    return not is_literal(v) and v in variables


def _followed(eqn, axes, rows, through):
    """The axis of the rows in each output of an operation."""
    name = eqn.primitive.name
    if name == private.LOOP:
        return [0] * len(eqn.outvars) if mapped(eqn, axes) else looped(eqn, axes, rows, through)[1]
    if name == private.BRANCH:
        branches = [_inside(b.jaxpr, axes[1:], rows, through) for b in eqn.params["branches"]]
        return [joined(each) for each in zip(*branches, strict=True)]
    inner = private.body(eqn) or private.opaque_body(eqn)
    if inner is None:
        return follow(eqn, axes, rows)
    out_axes = _inside(inner.jaxpr, axes, rows, through)
    if str(eqn.params.get("name", "")).startswith(COMPOSITE):  # a layer of Keras, or an activation
        out_axes = [k if k != LOST else other for k, other in zip(out_axes, follow(eqn, axes, rows), strict=True)]
    return out_axes


def _inside(jaxpr, axes, rows, through):
    return axes_of(spread(jaxpr, axes, rows, through), jaxpr.outvars)


def looped(eqn: Any, axes: Axes, rows: int, through: bool = False) -> tuple[Axes, Axes]:
    """The axes of the inputs of a loop's body, after any number of turns, and of the outputs of the loop."""
    p = eqn.params
    consts, carried = p["num_consts"], p["num_consts"] + p["num_carry"]
    # what is scanned loses its first axis, which must not be that of the rows
    axes = [*axes[:carried], *(k if k is None else LOST if k < 1 else k - 1 for k in axes[carried:])]
    while True:
        after = _inside(p["jaxpr"].jaxpr, axes, rows, through)
        grown = [joined(two) for two in zip(axes[consts:carried], after[: p["num_carry"]], strict=True)]
        if grown == axes[consts:carried]:
            stacked = [k if k is None or k == LOST else k + 1 for k in after[p["num_carry"] :]]
            return axes, [*after[: p["num_carry"]], *stacked]
        axes[consts:carried] = grown


def mapped(eqn: Any, axes: Axes) -> Any:
    """A loop over the rows that carries nothing from one to the next, as a jaxpr of all rows at once; else None."""
    p = eqn.params
    consts = p["num_consts"]
    if p["num_carry"] or any(k is not None for k in axes[:consts]) or any(axes[consts:]) or 0 not in axes[consts:]:
        return None
    one = private.function_of(p["jaxpr"])
    if one is None:
        return None
    shapes = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in eqn.invars]
    every = jax.vmap(one, in_axes=(*(None,) * consts, *(0,) * (len(shapes) - consts)))
    return jax.make_jaxpr(every)(*shapes)


def composite_rule(eqn: Any) -> str | None:
    """The name of the rule that an operation was given by `composite_op`, or None."""
    name = str(eqn.params.get("name", "")) if eqn.primitive.name in private.JIT else ""
    return name.removeprefix(COMPOSITE) if name.startswith(COMPOSITE) else None


# Operations that keep a maximum a maximum.
KEEPING = set(
    "max is_finite select_n broadcast_in_dim reshape transpose squeeze expand_dims convert_element_type copy "
    "stop_gradient".split()
)


def maxima(jaxpr: Any) -> set:
    """Variables that hold a maximum, or 0 where that is not finite. With its gradient stopped it is what a softmax
    subtracts from its exponents, and changes nothing.
    """
    variables: set = set()
    for eqn in jaxpr.eqns:
        name, inputs = eqn.primitive.name, [v for v in eqn.invars if not is_literal(v)]
        kept = name in KEEPING
        constant = name == "broadcast_in_dim" and not inputs
        if name == "reduce_max" or constant or (kept and inputs and all(v in variables for v in inputs)):
            variables.update(eqn.outvars)
    return variables


def is_blind(axes: Axes, out_axes: Axes) -> bool:
    """Whether the rows cannot be told apart in the inputs or in the outputs of an operation."""
    return LOST in axes or LOST in out_axes or all(k is None for k in out_axes)


def rows_first(x: Any, k: int | None) -> Any:
    """x with axis k moved to the front."""
    return jax.numpy.moveaxis(x, k, 0) if k else x


def rows_back(x: Any, k: int | None) -> Any:
    """x with its first axis moved back to k."""
    return jax.numpy.moveaxis(x, 0, k) if k else x


def follow(eqn: Any, axes: Axes, rows: int) -> Axes:
    """The axis of the rows in each output of an operation without a body of its own.

    Args:
        axes: for each input the axis, LOST, or None for one that does not move.
        rows: how many there are.
    """
    return [joined(_one(eqn, i, k, v.aval.shape, rows) for i, k in _moving(axes)) for v in eqn.outvars]


def joined(axes: Iterable[int | None]) -> int | None:
    """The axis that several agree on; None of several that do not move."""
    distinct = {k for k in axes if k is not None}
    return distinct.pop() if len(distinct) == 1 else LOST if distinct else None


def _moving(axes):
    return [(i, k) for i, k in enumerate(axes) if k is not None]


def _one(eqn, i, k, out, rows):
    if k == LOST:
        return LOST
    shape = eqn.invars[i].aval.shape
    axis = RULES.get(eqn.primitive.name, _alike)(eqn.params, i, k, shape, out, rows)
    return axis if 0 <= axis < len(out) and out[axis] and out[axis] % rows == 0 else LOST


def _alike(p, i, k, shape, out, rows):
    """Operations that keep the order of the axes: k is where it was, unless something is done along it."""
    along = [p.get("axis"), p.get("dimension"), *(p.get("dimensions", ()))]
    if k in along:
        return LOST
    if len(out) == len(shape) and out[k] == shape[k]:
        return k
    return 0 if k == 0 and out and out[0] == shape[0] else LOST


def _reshape(p, i, k, shape, out, rows):
    """Axis k stays the first of a group of axes if as many entries stand before it as before."""
    before = math.prod(shape[:k])
    fits = [j for j, n in enumerate(out) if math.prod(out[:j]) == before and n and n % rows == 0]
    return next((j for j in fits if out[j] == shape[k]), fits[0] if fits else LOST)


def _reduced(p, i, k, shape, out, rows):
    return LOST if k in p["axes"] else k - sum(a < k for a in p["axes"])


def _last(p, i, k, shape, out, rows):
    return LOST if k == len(shape) - 1 else k


def _dot(p, i, k, shape, out, rows):
    (left, right), (batch_left, batch_right) = p["dimension_numbers"]
    contracted, batch = (right, batch_right) if i else (left, batch_left)
    if k in batch:
        return tuple(batch).index(k)
    if k in contracted:
        return LOST
    free = [a for a in range(len(shape)) if a not in contracted and a not in batch]
    return (len(out) - len(free) if i else len(batch)) + free.index(k)


def _convolution(p, i, k, shape, out, rows):
    numbers = p["dimension_numbers"]
    return numbers.out_spec[0] if i == 0 and k == numbers.lhs_spec[0] and p["batch_group_count"] == 1 else LOST


def _gather(p, i, k, shape, out, rows):
    numbers = p["dimension_numbers"]
    taken = *numbers.collapsed_slice_dims, *numbers.operand_batching_dims
    if i == 0 and k not in taken and p["slice_sizes"][k] == shape[k]:
        return numbers.offset_dims[[a for a in range(len(shape)) if a not in taken].index(k)]
    if i == 0 and k in numbers.operand_batching_dims:
        at = numbers.start_indices_batching_dims[numbers.operand_batching_dims.index(k)]
        return [a for a in range(len(out)) if a not in numbers.offset_dims][at]
    return _alike({}, i, k, shape, out, rows)


def _scatter(p, i, k, shape, out, rows):
    numbers = p["dimension_numbers"]
    if i == 2 and k in numbers.update_window_dims:
        added = *numbers.inserted_window_dims, *numbers.operand_batching_dims
        kept = [a for a in range(len(out)) if a not in added][numbers.update_window_dims.index(k)]
        return kept if out[kept] == shape[k] else LOST
    return _alike({}, i, k, shape, out, rows)


RULES = {
    "transpose": lambda p, i, k, shape, out, rows: tuple(p["permutation"]).index(k),
    "broadcast_in_dim": lambda p, i, k, shape, out, rows: p["broadcast_dimensions"][k],
    "squeeze": lambda p, i, k, shape, out, rows: k - sum(a < k for a in p["dimensions"]),
    "reshape": _reshape,
    "dot_general": _dot,
    "conv_general_dilated": _convolution,
    "gather": _gather,
    **dict.fromkeys(("scatter", "scatter-add", "scatter_add", "scatter-max", "scatter-min", "scatter-mul"), _scatter),
    **dict.fromkeys(("top_k",), _last),
    **dict.fromkeys(
        ("reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "argmax", "argmin", "reduce_and", "reduce_or"),
        _reduced,
    ),
}
