"""Names of JAX that it does not promise to keep, and what happens without each; checked on 0.5 to 0.10.

`jax.extend` is where JAX shows what its functions are made of, without the promise that it makes for the rest. The
names of primitives and of their parameters are not promised either: those that say how operations are nested stand
below, those of single operations in the tables of `jax_rules.py`.
"""

import contextlib
from collections.abc import Callable
from typing import Any

import jax

from aumann.backends.private import DERIVATIVES_INSTEAD, PrivateName

CHECKED = "0.5 to 0.10"

LITERAL = PrivateName("jax.extend.core.Literal", CHECKED, DERIVATIVES_INSTEAD)
CLOSED_JAXPR = PrivateName("jax.extend.core.ClosedJaxpr", CHECKED, DERIVATIVES_INSTEAD)
JAXPR_AS_FUN = PrivateName("jax.extend.core.jaxpr_as_fun", CHECKED, DERIVATIVES_INSTEAD)
TRACER = PrivateName("jax.core.Tracer", CHECKED, "A tensor without numbers is told by the name of its class")
ENABLE_X64 = PrivateName(
    "jax.enable_x64", CHECKED, "Its older name in jax.experimental sets the floats of a thread", since="0.8"
)

# Names of primitives. One that JAX renames is an operation like any other that stands in no table: it may hide a kink,
# and is differentiated at the middle of each cell.
JIT = "jit", "pjit"
CALLS = *JIT, "custom_jvp_call", "closed_call", "core_call", "remat2", "checkpoint"
CUSTOM_VJP = "custom_vjp"  # a part of it: the rest differs between versions
LOOP, BRANCH, STOP = "scan", "cond", "stop_gradient"
CUSTOM_LIN = "custom_lin"  # of a function with a backward of its own, in forward mode


def is_literal(variable: Any) -> bool:
    """Whether an input of an operation is a number that stands in the jaxpr."""
    return isinstance(variable, LITERAL.required)


def is_tracer(x: Any) -> bool:
    """Whether x is a tensor of a function that is being traced."""
    return type(x).__name__.endswith("Tracer") if TRACER.value is None else isinstance(x, TRACER.value)


def function_of(closed_jaxpr: Any) -> Callable:
    """The function (flat arguments) -> flat results that a closed jaxpr writes down."""
    return JAXPR_AS_FUN.required(closed_jaxpr)


def body(eqn: Any) -> Any:
    """The jaxpr of an operation that only calls it, else None; a function with a backward of its own keeps that."""
    if eqn.primitive.name not in CALLS:
        return None
    return _closed(eqn.params.get("jaxpr") or eqn.params.get("call_jaxpr"))


def opaque_body(eqn: Any) -> Any:
    """The jaxpr of a function with a backward of its own, else None."""
    if CUSTOM_VJP not in eqn.primitive.name:
        return None
    return _closed(eqn.params.get("call_jaxpr") or eqn.params.get("fun_jaxpr"))


def _closed(jaxpr: Any) -> Any:
    return jaxpr if jaxpr is None or hasattr(jaxpr, "consts") else CLOSED_JAXPR.required(jaxpr, ())


def bind(eqn: Any, inputs: list) -> list:
    """The outputs of an operation on other inputs."""
    params = eqn.primitive.get_bind_params(eqn.params)
    functions, parameters = ((), params) if isinstance(params, dict) else params  # JAX ≥ 0.10, and before
    outs = eqn.primitive.bind(*functions, *inputs, **parameters)
    return outs if eqn.primitive.multiple_results else [outs]


def enable_x64(wide: bool) -> contextlib.AbstractContextManager:
    """A block of this thread in which floats have 64 bits, or have not."""
    return (ENABLE_X64.value or jax.experimental.enable_x64)(wide)
