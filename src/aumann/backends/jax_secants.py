"""Secants on JAX: a function whose operations, control flow included, carry cotangents back over cells.

The function is traced, and its operations are put one after another again, each with a backward of its own. What XLA
finds unused (a forward at the middle of a cell, for an operation whose derivative does not look at it) it drops.
"""

import jax
from jax import lax
from jax.extend import core as extend

from aumann.core import secant

Literal = extend.Literal

# Operations of one tensor, entry by entry, whose secant is worth taking.
SMOOTH = set(
    "exp exp2 log log1p expm1 tanh logistic erf erfc erf_inv sqrt rsqrt cbrt integer_pow square sin cos tan asin acos "
    "atan sinh cosh asinh acosh atanh pow".split()
)
# Operations that an elementwise function may be made of, besides.
ENTRYWISE = SMOOTH | set(
    "abs sign max min add sub mul div neg clamp select_n lt le gt ge eq ne and or not xor is_finite copy copysign "
    "convert_element_type broadcast_in_dim stop_gradient floor ceil round nextafter".split()
)
# Operations that are affine in whatever moves: differentiated as ever.
AFFINE = set(
    "add sub neg add_any reduce_sum reshape transpose broadcast_in_dim concatenate slice pad squeeze expand_dims rev "
    "convert_element_type copy real imag cumsum reduce_precision dynamic_slice split".split()
)
# Operations that are affine as long as one operand moves.
PRODUCTS = {"mul", "dot_general", "conv_general_dilated"}
UNIT = "secant_"
KINKS = set("max min abs clamp sign floor ceil round rem lt le gt ge top_k cond while".split())
SELECTIONS = {"reduce_max", "reduce_min", "reduce_window_max", "reduce_window_min", "cummax", "cummin", "sort"}


def secants(fn, rows):
    """fn of a list of tensors, each with `rows` rows or a multiple of them, with secants for its derivatives."""

    def run(points):
        closed, shape = jax.make_jaxpr(fn, return_shape=True)(points)
        flat = jax.tree.leaves(points)
        outs = evaluate(closed.jaxpr, closed.consts, flat, [True] * len(flat), rows)
        return jax.tree.unflatten(jax.tree.structure(shape), outs)

    return run


def evaluate(jaxpr, consts, args, moving, rows):
    """The outputs of a jaxpr, the operations of which are replaced where one of their inputs moves."""
    flags = spread(jaxpr, moving)
    values = dict(zip(jaxpr.constvars, consts, strict=True)) | dict(zip(jaxpr.invars, args, strict=True))

    def read(v):
        return v.val if isinstance(v, Literal) else values[v]

    for eqn in jaxpr.eqns:
        ins = [read(v) for v in eqn.invars]
        moves = [not isinstance(v, Literal) and v in flags for v in eqn.invars]
        values.update(zip(eqn.outvars, apply(eqn, ins, moves, rows), strict=True))
    return [read(v) for v in jaxpr.outvars]


def spread(jaxpr, moving):
    """The variables that move when some of the inputs do: floats that an operation makes of one that moves."""
    flags = {v for v, moves in zip(jaxpr.invars, moving, strict=True) if moves}
    for eqn in jaxpr.eqns:
        if eqn.primitive.name != "stop_gradient" and any(v in flags for v in eqn.invars if not isinstance(v, Literal)):
            flags.update(v for v in eqn.outvars if jax.numpy.issubdtype(v.aval.dtype, jax.numpy.inexact))
    return flags


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


def apply(eqn, ins, moves, rows):
    """One operation, by its kind."""
    name = eqn.primitive.name
    count = sum(moves)
    if not count or name in AFFINE or (count == 1 and name in PRODUCTS) or (name == "gather" and not moves[1]):
        return bind(eqn, ins)
    if name == "scan":
        return scan(eqn, ins, moves, rows)
    inner, here = body(eqn), [i for i, m in enumerate(moves) if m]
    rule = unit(eqn) or (rule_of(name, here, eqn) if inner is None else composed(inner.jaxpr, here))
    if rule is None:
        return evaluate(inner.jaxpr, inner.consts, ins, moves, rows)
    if any(not ins[i].ndim or not len(ins[i]) or len(ins[i]) % rows for i in here):
        return bind(eqn, ins)  # rows are not its first axis: the derivative at the left end

    def call(*ins):
        return bind(eqn, ins)

    def carry(saved, cotangents):
        ins, outs = saved
        one = len(outs) == 1
        y, cotangent = (outs[0], cotangents[0]) if one else (outs, cotangents)
        found = rule(_pull(call, ins, here, one), ins, here, y, cotangent, rows)
        found = dict(zip(here, found, strict=True))
        return tuple(found.get(i) for i in range(len(ins)))

    operation = jax.custom_vjp(call)
    operation.defvjp(lambda *ins: (outs := call(*ins), (ins, outs)), carry)
    return operation(*ins)


def _pull(call, ins, here, one):
    """(points, cotangent) -> cotangents by the operation's own derivative, what does not move being as it is."""

    def pull(points, cotangent):
        def at(*points):
            given = dict(zip(here, points, strict=True))
            outs = call(*(given.get(i, x) for i, x in enumerate(ins)))
            return outs[0] if one else outs

        return jax.vjp(at, *points)[1](cotangent)

    return pull


def kinked(fn, points):
    """Whether something that moves passes a kink on its way through fn, which is only traced."""
    closed = jax.make_jaxpr(fn)(points)
    return kinks(closed.jaxpr, [True] * len(closed.jaxpr.invars))


def kinks(jaxpr, moving):
    flags = spread(jaxpr, moving)
    for eqn in jaxpr.eqns:
        moves = [not isinstance(v, Literal) and v in flags for v in eqn.invars]
        name = str(eqn.params.get("name", ""))
        if not any(moves):
            continue
        if name.startswith(UNIT):
            found = name.removeprefix(UNIT) in secant.KINKED
        elif eqn.primitive.name == "scan":
            consts = eqn.params["num_consts"]
            found = kinks(eqn.params["jaxpr"].jaxpr, moves[:consts] + [True] * (len(moves) - consts))
        elif (inner := body(eqn)) is not None:
            found = kinks(inner.jaxpr, moves)
        else:
            found = eqn.primitive.name in KINKS | SELECTIONS
        if found:
            return True
    return False


def operate(call, xs, rule, rows):
    """call(*xs) as one operation with a rule of `core.secant`: the rule travels in the name of a call."""

    def unit(*xs):
        return call(*xs)

    unit.__name__ = UNIT + rule
    return jax.jit(unit)(*xs)


def unit(eqn):
    """The rule that an operation was given by `operate`, or None."""
    name = str(eqn.params.get("name", "")) if eqn.primitive.name in ("jit", "pjit") else ""
    return common(secant.RULES[name.removeprefix(UNIT)]) if name.startswith(UNIT) else None


def composed(jaxpr, here):
    """The rule of an operation that only calls others: an elementwise function's if it is one of some substance."""
    names = set(primitives(jaxpr))
    if len(here) > 1 or not names & (SMOOTH | {"select_n"}) or not entrywise(jaxpr):
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


def scan(eqn, ins, moves, rows):
    """A loop, whose body is replaced likewise; what it carries moves if it does so after any number of turns."""
    p = eqn.params
    consts, carried = p["num_consts"], p["num_consts"] + p["num_carry"]
    inner, moves = p["jaxpr"], list(moves)
    while True:
        flags = spread(inner.jaxpr, moves)
        after = [not isinstance(v, Literal) and v in flags for v in inner.jaxpr.outvars[: p["num_carry"]]]
        grown = [a or b for a, b in zip(moves[consts:carried], after, strict=True)]
        if grown == moves[consts:carried]:
            break
        moves[consts:carried] = grown

    def turn(carry, xs):
        outs = evaluate(inner.jaxpr, inner.consts, [*ins[:consts], *carry, *xs], moves, rows)
        return outs[: p["num_carry"]], outs[p["num_carry"] :]

    carry, ys = lax.scan(turn, ins[consts:carried], ins[carried:], p["length"], p["reverse"], p["unroll"])
    return [*carry, *ys]


# ---- the rules: (pull, inputs, which move, output, cotangent, rows) -> the cotangents of those that move ------------


def common(rule):
    """A rule that does not ask for the inputs that stay as they are."""
    return lambda pull, ins, here, y, cotangent, rows: rule(pull, [ins[i] for i in here], y, cotangent, rows)


def rule_of(name, here, eqn):
    if name in ("max", "min"):
        return maximum if name == "max" else minimum
    if name == "abs":
        return common(secant.hinge)
    if name == "clamp" and here == [1]:
        return clamp
    if name == "div" and len(here) == 2:
        return lambda pull, ins, here, y, cotangent, rows: secant.divided(*ins, cotangent, rows)
    if name == "reduce_window_max" and side_by_side(eqn.params):
        sizes = eqn.params["window_dimensions"][1:]
        return lambda pull, ins, here, y, cotangent, rows: [secant.windows(ins[0], cotangent, rows, sizes)]
    if name in SELECTIONS and len(here) == 1 and len(eqn.outvars) == 1:
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

    return [secant.selection(ins[here[0]], y, cotangent, rows, lambda x, c: pull([x], c)[0], push)]
