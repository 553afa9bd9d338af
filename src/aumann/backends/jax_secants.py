"""Secants on JAX: a function whose operations, control flow included, carry cotangents back over cells.

The function is traced, and its operations are put one after another again, each with a backward of its own. What XLA
finds unused (a forward at the middle of a cell, for an operation whose derivative does not look at it) it drops.
"""

import jax
import numpy as np
from jax import lax
from jax.extend import core as extend

from aumann.backends import jax_rows as rows_of
from aumann.backends.jax_rows import LOST
from aumann.core import secant

Literal = extend.Literal

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
UNIT = "secant_"
KINKS = set("max min abs clamp sign floor ceil round rem top_k nextafter atan2".split())
STEPS = {"sign", "floor", "ceil", "round"}
SELECTIONS = {"reduce_max", "reduce_min", "reduce_window_max", "reduce_window_min", "cummax", "cummin", "sort"}
EXTREMES = {"scatter-max", "scatter-min", "scatter_max", "scatter_min"}


def secants(fn, rows):
    """fn of a list of tensors, each with `rows` rows or a multiple of them, with secants for its derivatives."""

    def run(points):
        closed, shape = jax.make_jaxpr(fn, return_shape=True)(points)
        flat = jax.tree.leaves(points)
        outs = evaluate(closed.jaxpr, closed.consts, flat, [0] * len(flat), rows)
        return jax.tree.unflatten(jax.tree.structure(shape), outs)

    return run


def evaluate(jaxpr, consts, args, axes, rows):
    """The outputs of a jaxpr, the operations of which are replaced where one of their inputs moves.

    Args:
        axes: for each input the axis that counts the rows, or None for one that does not move (`jax_rows`).
    """
    places = spread(jaxpr, axes, rows)
    values = dict(zip(jaxpr.constvars, consts, strict=True)) | dict(zip(jaxpr.invars, args, strict=True))

    def read(v):
        return v.val if isinstance(v, Literal) else values[v]

    for eqn in jaxpr.eqns:
        outs = apply(eqn, [read(v) for v in eqn.invars], _at(places, eqn.invars), _at(places, eqn.outvars), rows)
        values.update(zip(eqn.outvars, outs, strict=True))
    return [read(v) for v in jaxpr.outvars]


def spread(jaxpr, axes, rows, through=False):
    """{variable: axis of the rows} of all that moves when some inputs do, whole numbers and truths included.

    With `through`, also of what moves while its gradient is stopped.
    """
    shifts = maxima(jaxpr) if through else ()
    places = {v: k for v, k in zip(jaxpr.invars, axes, strict=True) if k is not None}
    for eqn in jaxpr.eqns:
        ins = _at(places, eqn.invars)
        stopped = eqn.primitive.name == "stop_gradient" and (not through or one_of(eqn.invars[0], shifts))
        if not stopped and any(k is not None for k in ins):
            outs = _followed(eqn, ins, rows, through)
            places.update((v, k) for v, k in zip(eqn.outvars, outs, strict=True) if k is not None)
    return places


def _at(places, variables):
    return [None if isinstance(v, Literal) else places.get(v) for v in variables]


def one_of(v, variables):
    """A number that stands in the jaxpr is none, and has no hash."""
    return not isinstance(v, Literal) and v in variables


def is_float(v):
    return jax.numpy.issubdtype(v.aval.dtype, jax.numpy.inexact)


def _followed(eqn, axes, rows, through):
    """The axis of the rows in each output of an operation."""
    name = eqn.primitive.name
    if name == "scan":
        return [0] * len(eqn.outvars) if _mapped(eqn, axes) else _looped(eqn, axes, rows, through)[1]
    if name == "cond":
        branches = [_inside(b.jaxpr, axes[1:], rows, through) for b in eqn.params["branches"]]
        return [rows_of.joined(each) for each in zip(*branches, strict=True)]
    inner = body(eqn) or opaque_body(eqn)
    if inner is None:
        return rows_of.follow(eqn, axes, rows)
    found = _inside(inner.jaxpr, axes, rows, through)
    if str(eqn.params.get("name", "")).startswith(UNIT):  # a layer of Keras, or an activation
        found = [k if k != LOST else other for k, other in zip(found, rows_of.follow(eqn, axes, rows), strict=True)]
    return found


def _inside(jaxpr, axes, rows, through):
    return _at(spread(jaxpr, axes, rows, through), jaxpr.outvars)


# What keeps a maximum a maximum.
KEEPING = set(
    "max is_finite select_n broadcast_in_dim reshape transpose squeeze expand_dims convert_element_type copy "
    "stop_gradient".split()
)


def maxima(jaxpr):
    """Variables that hold a maximum, or 0 where that is not finite: with its gradient stopped it is what is taken from
    the exponents of a softmax, and changes nothing.
    """
    found = set()
    for eqn in jaxpr.eqns:
        name, given = eqn.primitive.name, [v for v in eqn.invars if not isinstance(v, Literal)]
        kept = name in KEEPING
        constant = name == "broadcast_in_dim" and not given
        if name == "reduce_max" or constant or (kept and given and all(v in found for v in given)):
            found.update(eqn.outvars)
    return found


def literals(jaxpr):
    """Numbers that stand in a jaxpr and in what it calls."""
    found = []
    for eqn in jaxpr.eqns:
        found += [v.val for v in eqn.invars if isinstance(v, Literal)]
        for inner in jax.tree.leaves(list(eqn.params.values()), is_leaf=lambda x: hasattr(x, "eqns")):
            found += getattr(inner, "consts", [])
            if hasattr(inner, "eqns"):
                found += literals(inner)
    return found


def bind(eqn, ins):
    found = eqn.primitive.get_bind_params(eqn.params)
    functions, parameters = ((), found) if isinstance(found, dict) else found  # JAX ≥ 0.10, and before
    outs = eqn.primitive.bind(*functions, *ins, **parameters)
    return outs if eqn.primitive.multiple_results else [outs]


def floats(eqn, axes):
    """Which of its inputs move and can be differentiated by."""
    return [i for i, k in enumerate(axes) if k is not None and is_float(eqn.invars[i])]


def linear(eqn, axes):
    """Whether an operation is affine in what moves. What chooses, an index or a condition, may not."""
    here = [i for i, k in enumerate(axes) if k is not None]
    return here == floats(eqn, axes) and affine(eqn, here)


def affine(eqn, here):
    """Whether an operation is affine in these of its inputs together, all others being as they are."""
    name = eqn.primitive.name
    if name == "gather" or (name == "div" and len(here) == 1):
        return here == [0]
    return name in AFFINE or (len(here) == 1 and name in PRODUCTS)


def apply(eqn, ins, axes, out_axes, rows):
    """One operation, by its kind."""
    name = eqn.primitive.name
    here = floats(eqn, axes)
    if not here or linear(eqn, axes) or not any(map(is_float, eqn.outvars)):
        return bind(eqn, ins)
    if name == "scan":
        return scan(eqn, ins, axes, rows)
    if name == "cond" and axes[0] is None:
        return branch(eqn, ins, axes, rows)
    inner = body(eqn)
    rule = unit(eqn) or (rule_of(name, here, eqn, axes) if inner is None else composed(inner.jaxpr, here, axes))
    if rule is None:
        return evaluate(inner.jaxpr, inner.consts, ins, axes, rows)
    if blind(axes, out_axes):
        return bind(eqn, ins)  # nobody knows where its rows are: the derivative at the left end

    choosing = inner is None and affine(eqn, here) and len(eqn.outvars) == 1

    def call(*ins):
        return bind(eqn, ins)

    def carry(saved, cotangents):
        ins, outs = saved
        own, one = ins, len(outs) == 1
        pull = _pull(call, ins, here, axes, out_axes)
        rank = outs[0].ndim  # of an operation on entries, also that of the inputs that stay as they are
        ins = [
            _first(x, out_axes[0] if k is None else k) if k is not None or jax.numpy.ndim(x) == rank else x
            for x, k in zip(ins, axes, strict=True)
        ]
        outs, cotangents = (
            [_first(a, k) for a, k in zip(given, out_axes, strict=True)] for given in (outs, cotangents)
        )
        y, cotangent = (outs[0], cotangents[0]) if one else (outs, cotangents)
        if choosing:
            found = chosen(call, own, here, axes, out_axes, cotangent, rows)
        else:
            found = rule(pull, ins, here, y, cotangent, rows)
        found = dict(zip(here, found, strict=True))
        return tuple(_back(found[i], k) if i in found else None for i, k in enumerate(axes))

    operation = jax.custom_vjp(call)
    operation.defvjp(lambda *ins: (outs := call(*ins), (ins, outs)), carry)
    return operation(*ins)


def chosen(call, ins, here, axes, out_axes, cotangent, rows):
    """What is affine once indices and conditions that move have chosen: `secant.choice`."""
    choosers = [i for i, k in enumerate(axes) if k is not None and i not in here]
    right = {i: _back(secant.following(_first(ins[i], axes[i]), rows), axes[i]) for i in choosers}

    def at(points, is_right):
        moved = {i: _back(x, axes[i]) for i, x in zip(here, points, strict=True)} | (right if is_right else {})
        return _first(call(*(moved.get(i, x) for i, x in enumerate(ins)))[0], out_axes[0])

    def pull(points, is_right, cotangent):
        return jax.vjp(lambda *points: at(points, is_right), *points)[1](cotangent)

    return secant.choice(at, pull, [_first(ins[i], axes[i]) for i in here], cotangent, rows)


def blind(axes, out_axes):
    """Whether the rows cannot be told apart in what an operation takes or makes."""
    return LOST in axes or LOST in out_axes or all(k is None for k in out_axes)


def _first(x, k):
    return jax.numpy.moveaxis(x, k, 0) if k else x


def _back(x, k):
    return jax.numpy.moveaxis(x, 0, k) if k else x


def _pull(call, ins, here, axes, out_axes):
    """(points, cotangent) -> cotangents by the operation's own derivative, what does not move being as it is.

    Rows are the first axis of all that is taken and given.
    """

    def pull(points, cotangent):
        def at(*points):
            given = {i: _back(x, axes[i]) for i, x in zip(here, points, strict=True)}
            outs = call(*(given.get(i, x) for i, x in enumerate(ins)))
            outs = [_first(y, k) for y, k in zip(outs, out_axes, strict=True)]
            return outs[0] if len(outs) == 1 else outs

        return jax.vjp(at, *points)[1](cotangent)

    return pull


def kinked(fn, points):
    """Whether something that moves passes a kink on its way through fn, which is only traced; None if hidden."""
    rows = 3  # a number that tells them from axes of length one
    try:
        closed = jax.make_jaxpr(fn)([jax.ShapeDtypeStruct((rows, *p.shape[1:]), p.dtype) for p in points])
    except Exception:  # a function that has the number of rows in it
        rows, closed = len(points[0]), jax.make_jaxpr(fn)(points)
    found = kinks(closed.jaxpr, [0] * len(closed.jaxpr.invars), rows)
    if not found & {"kink", "hidden"}:
        return False
    return None if "blind" in found or "kink" not in found else True


def kinks(jaxpr, axes, rows, wanted=None):
    """What stands between the inputs that move and the outputs that are wanted, in three words.

    "kink": a kink or a step; "hidden": an operation that may have one; "blind": one that is not affine and of which
    nobody knows where its rows are, so that secants do not see it.
    """
    places, found, positive = spread(jaxpr, axes, rows, through=True), set(), not_negative(jaxpr)
    shifts = maxima(jaxpr)
    wanted = [True] * len(jaxpr.outvars) if wanted is None else wanted
    needed = {v for v, is_wanted in zip(jaxpr.outvars, wanted, strict=True) if is_wanted and not isinstance(v, Literal)}
    for eqn in reversed(jaxpr.eqns):
        ins, outs = _at(places, eqn.invars), [v in needed for v in eqn.outvars]
        stops = eqn.primitive.name == "stop_gradient"
        if any(outs) and not (stops and one_of(eqn.invars[0], shifts)):
            needed.update(v for v in eqn.invars if not isinstance(v, Literal))
            bare = eqn.primitive.name == "abs" and one_of(eqn.invars[0], positive)  # as the logarithm of a sum has it
            if any(k is not None for k in ins) and not bare:
                found |= _kinks(eqn, ins, _at(places, eqn.outvars), outs, rows)
    return found


def not_negative(jaxpr):
    """Variables that are nowhere below 0, as far as the operations tell."""
    found = set()
    for eqn in jaxpr.eqns:
        name = eqn.primitive.name
        made = name in ("exp", "exp2", "logistic", "square", "abs")
        kept = name in ("reduce_sum", "add", "mul", "broadcast_in_dim", "reshape", "transpose", "squeeze")
        if made or (kept and all(not isinstance(v, Literal) and v in found for v in eqn.invars)):
            found.update(eqn.outvars)
    return found


def _kinks(eqn, axes, out_axes, wanted, rows):
    """The words for one operation."""
    name, p = eqn.primitive.name, eqn.params
    unseen = {"blind"} if blind(axes, out_axes) else set()
    if name == "stop_gradient":  # what it makes moves, and secants take it as it is at the left end
        return {"blind"}
    if name == "scan":
        mapped = _mapped(eqn, axes)
        if mapped:
            return kinks(mapped.jaxpr, axes, rows, wanted)
        return kinks(p["jaxpr"].jaxpr, _looped(eqn, axes, rows, True)[0], rows)
    if name == "cond":
        return set().union(*(kinks(b.jaxpr, axes[1:], rows, wanted) for b in p["branches"]))
    own = _unit_name(eqn)
    if own and own != "average":
        return unseen | ({"kink"} if own in secant.KINKED else set())
    if inner := body(eqn):
        words = kinks(inner.jaxpr, axes, rows, wanted)
        return words - {"blind"} | unseen if own else words
    if inner := opaque_body(eqn):
        return kinks(inner.jaxpr, axes, rows, wanted) | {"hidden"} | unseen
    here = floats(eqn, axes)
    if not any(map(is_float, eqn.outvars)):
        return _step(eqn) if here else set()
    if not here:  # a step that becomes a number is a factor that secants do not see
        return {"blind"}
    if linear(eqn, axes):
        return set()
    if affine(eqn, here):  # something chooses: of two, at a single point, or of many, in an order that is not seen
        return unseen if name == "select_n" else {"blind"}
    if name in KINKS | SELECTIONS | EXTREMES:
        return unseen | ({"kink", "blind"} if name in STEPS else {"kink"})
    return unseen | (set() if name in SMOOTH | JOINTLY else {"hidden"})


def _step(eqn):
    """A number that moves becomes an integer or a truth. Whether it is finite stays as it is; what equals it, it may
    meet in a single point, such as the value that is masked.
    """
    name = eqn.primitive.name
    if name in ("eq", "ne"):
        a, b = eqn.invars
        beyond = any(isinstance(v, Literal) and not np.isfinite(v.val).all() for v in (a, b))
        return set() if a is b or beyond else {"hidden"}
    return set() if name == "is_finite" else {"kink"}


def operate(call, xs, rule, rows):
    """call(*xs) as one operation with a rule of `core.secant`: the rule travels in the name of a call."""

    def unit(*xs):
        return call(*xs)

    unit.__name__ = UNIT + rule
    return jax.jit(unit)(*xs)


def unit(eqn):
    """The rule that an operation was given by `operate`, or None."""
    name = _unit_name(eqn)
    return common(secant.RULES[name]) if name else None


def _unit_name(eqn):
    name = str(eqn.params.get("name", "")) if eqn.primitive.name in ("jit", "pjit") else ""
    return name.removeprefix(UNIT) if name.startswith(UNIT) else None


def composed(jaxpr, here, axes):
    """The rule of an operation that only calls others: an elementwise function's if it is one of some substance.

    Not where all that it does is choose, by itself or by a condition that it is given: a secant would count the jumps.
    """
    names, moving = set(primitives(jaxpr)), [i for i, k in enumerate(axes) if k is not None]
    if moving != here or len(here) > 1 or not names & SMOOTH or not entrywise(jaxpr):
        return None
    return common(secant.kinked if names & {"select_n", "max", "min", "abs", "clamp"} else secant.smooth)


def primitives(jaxpr):
    """The names of all operations, those inside others too."""
    for e in jaxpr.eqns:
        inner = body(e)
        yield from [e.primitive.name] if inner is None else primitives(inner.jaxpr)


def body(eqn):
    """The jaxpr of an operation that only calls it, else None; a function with a backward of its own keeps that."""
    if eqn.primitive.name in ("jit", "pjit", "custom_jvp_call", "closed_call", "core_call", "remat2", "checkpoint"):
        inner = eqn.params.get("jaxpr") or eqn.params.get("call_jaxpr")
        return inner if hasattr(inner, "consts") else extend.ClosedJaxpr(inner, ())
    return None


def opaque_body(eqn):
    """The jaxpr of a function with a backward of its own, else None."""
    inner = eqn.params.get("call_jaxpr") or eqn.params.get("fun_jaxpr") if "custom_vjp" in eqn.primitive.name else None
    return inner if inner is None or hasattr(inner, "consts") else extend.ClosedJaxpr(inner, ())


def entrywise(jaxpr):
    """Whether a jaxpr is a function of one tensor, entry by entry."""
    shapes = {v.aval.shape for v in [*jaxpr.invars, *jaxpr.outvars]} | {
        v.aval.shape for e in jaxpr.eqns for v in e.outvars
    }
    if len(shapes - {()}) != 1 or len(jaxpr.outvars) != 1:
        return False
    return all(
        e.primitive.name in ENTRYWISE or ((inner := body(e)) is not None and entrywise(inner.jaxpr)) for e in jaxpr.eqns
    )


def branch(eqn, ins, axes, rows):
    """One of several functions, chosen by what does not move."""
    branches = [lambda *ins, b=b: evaluate(b.jaxpr, b.consts, ins, axes[1:], rows) for b in eqn.params["branches"]]
    return lax.switch(ins[0], branches, *ins[1:])


def _looped(eqn, axes, rows, through=False):
    """The axes of what a turn of a loop takes, after any number of turns, and of what the loop gives."""
    p = eqn.params
    consts, carried = p["num_consts"], p["num_consts"] + p["num_carry"]
    # what is scanned loses its first axis, which is not that of a row's
    axes = [*axes[:carried], *(k if k is None else LOST if k < 1 else k - 1 for k in axes[carried:])]
    while True:
        after = _inside(p["jaxpr"].jaxpr, axes, rows, through)
        grown = [rows_of.joined(two) for two in zip(axes[consts:carried], after[: p["num_carry"]], strict=True)]
        if grown == axes[consts:carried]:
            made = [k if k is None or k == LOST else k + 1 for k in after[p["num_carry"] :]]
            return axes, [*after[: p["num_carry"]], *made]
        axes[consts:carried] = grown


def _mapped(eqn, axes):
    """A loop over the rows that carries nothing from one to the next, as a jaxpr of all rows at once; else None."""
    p = eqn.params
    consts = p["num_consts"]
    if p["num_carry"] or any(k is not None for k in axes[:consts]) or any(axes[consts:]) or 0 not in axes[consts:]:
        return None
    one = extend.jaxpr_as_fun(p["jaxpr"])
    shapes = [jax.ShapeDtypeStruct(v.aval.shape, v.aval.dtype) for v in eqn.invars]
    every = jax.vmap(one, in_axes=(*(None,) * consts, *(0,) * (len(shapes) - consts)))
    return jax.make_jaxpr(every)(*shapes)


def scan(eqn, ins, axes, rows):
    """A loop, whose body is replaced likewise."""
    p = eqn.params
    consts, carried = p["num_consts"], p["num_consts"] + p["num_carry"]
    if mapped := _mapped(eqn, axes):
        return evaluate(mapped.jaxpr, mapped.consts, ins, axes, rows)
    inner, (axes, _) = p["jaxpr"], _looped(eqn, axes, rows)

    def turn(carry, xs):
        outs = evaluate(inner.jaxpr, inner.consts, [*ins[:consts], *carry, *xs], axes, rows)
        return outs[: p["num_carry"]], outs[p["num_carry"] :]

    carry, ys = lax.scan(turn, ins[consts:carried], ins[carried:], p["length"], p["reverse"], p["unroll"])
    return [*carry, *ys]


# ---- the rules: (pull, inputs, which move, output, cotangent, rows) -> the cotangents of those that move ------------


def common(rule):
    """A rule that does not ask for the inputs that stay as they are."""
    return lambda pull, ins, here, y, cotangent, rows: rule(pull, [ins[i] for i in here], y, cotangent, rows)


def rule_of(name, here, eqn, axes):
    if any(jax.numpy.issubdtype(eqn.invars[i].aval.dtype, jax.numpy.complexfloating) for i in here):
        return modulus if name == "abs" else common(secant.average)
    if name in ("max", "min"):
        return maximum if name == "max" else minimum
    if name == "abs":
        return common(secant.hinge)
    if name == "clamp" and here == [1]:
        return clamp
    if name == "div" and len(here) == 2:
        return lambda pull, ins, here, y, cotangent, rows: secant.divided(*ins, cotangent, rows)
    if name == "reduce_window_max" and side_by_side(eqn.params) and not any(axes):
        sizes = eqn.params["window_dimensions"][1:]
        return lambda pull, ins, here, y, cotangent, rows: [secant.windows(ins[0], cotangent, rows, sizes)]
    if name == "top_k" or (name == "sort" and len(eqn.outvars) == 1):
        axis = len(eqn.invars[0].aval.shape) - 1 if name == "top_k" else eqn.params["dimension"]
        return ranked(eqn, axis + 1 if axis < axes[0] else axis)
    if name in SELECTIONS | EXTREMES and len(here) == 1 and len(eqn.outvars) == 1:
        return selection
    if len(here) > 1 or eqn.invars[here[0]].aval.shape != eqn.outvars[0].aval.shape:
        return common(secant.average)
    return common(secant.smooth if name in SMOOTH or (name == "div" and here == [1]) else secant.average)


def side_by_side(p):
    """Whether windows neither overlap nor reach beyond the array, nor over several rows."""
    plain = all(d == 1 for d in (*p["base_dilation"], *p["window_dilation"], p["window_dimensions"][0]))
    return plain and p["window_dimensions"] == p["window_strides"] and not any(map(any, p["padding"]))


def maximum(pull, ins, here, y, cotangent, rows, sign=1):
    """max(a, b): to each the part of the cell in which it wins."""
    lead = jax.numpy.clip(sign * (ins[0] - ins[1]), -1e30, 1e30)
    share = secant.open_fraction(lead, rows)
    return [secant.summed(cotangent * (1 - share if i else share), ins[i]) for i in here]


def minimum(*args):
    return maximum(*args, sign=-1)


def clamp(pull, ins, here, y, cotangent, rows):
    low, x, high = ins
    return [cotangent * (secant.open_fraction(x - low, rows) - secant.open_fraction(x - high, rows))]


def selection(pull, ins, here, y, cotangent, rows):
    def push(x, v):
        return jax.linear_transpose(lambda c: pull([x], c)[0], y)(v)[0]

    y = jax.numpy.clip(y, -1e30, 1e30)  # of nothing there is no maximum
    return [secant.selection(ins[here[0]], y, cotangent, rows, lambda x, c: pull([x], c)[0], push)]


def ranked(eqn, axis):
    """The largest entries along an axis, or all of them in their order."""

    def rank(x):
        if eqn.primitive.name == "top_k":
            return lax.top_k(x, eqn.params["k"])
        place = jax.numpy.argsort(x, axis=-1)
        return jax.numpy.take_along_axis(x, place, axis=-1), place

    def rule(pull, ins, here, y, cotangent, rows):
        x = jax.numpy.moveaxis(ins[0], axis, -1)
        c = jax.numpy.moveaxis(cotangent[0] if isinstance(cotangent, list) else cotangent, axis, -1)

        def scatter(place, c):
            return jax.vjp(lambda x: jax.numpy.take_along_axis(x, place, axis=-1), x)[1](c)[0]

        return [jax.numpy.moveaxis(secant.ranked(x, c, rows, rank, scatter), -1, axis)]

    return rule


def modulus(pull, ins, here, y, cotangent, rows):
    """|z|, whose cotangent is conjugate here."""
    (z,) = ins
    real, imag = secant.modulus(z.real, z.imag, cotangent, rows)
    return [lax.complex(real, -imag)]
