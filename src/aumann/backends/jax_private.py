"""Names of JAX that it does not promise to keep, and what happens without each; checked on 0.5 to 0.10.

`jax.extend` is where JAX shows what its functions are made of, without the promise that it makes for the rest. Names of
primitives and of their parameters are not promised either: those that tell how operations are nested stand below, those
of single operations in the tables of `jax_rules.py`.
"""

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from aumann.backends.private import PrivateName

CHECKED = "0.5 to 0.10"

JAXPR_AS_FUN = PrivateName(
    "jax.extend.core.jaxpr_as_fun",
    CHECKED,
    "Forward mode traces a function twice, and a map over rows is differentiated at the left end of each cell",
)
TRACER = PrivateName("jax.core.Tracer", CHECKED, "A tensor without numbers is told by the name of its class")
ENABLE_X64 = PrivateName("jax.enable_x64", CHECKED, "Threads compute in the floats of the process", since="0.8")

# Names of primitives. One that JAX renames is an operation like any other that stands in no table: it may hide a kink,
# and is differentiated at the middle of each cell.
JIT = "jit", "pjit"
CALLS = *JIT, "custom_jvp_call", "closed_call", "core_call", "remat2", "checkpoint"
CUSTOM_VJP = "custom_vjp"  # a part of it: the rest differs between versions
LOOP, BRANCH, STOP = "scan", "cond", "stop_gradient"
CUSTOM_LIN = "custom_lin"  # of a function with a backward of its own, in forward mode


class Closed(NamedTuple):
    """A jaxpr and its constants, with the names that JAX has for both."""

    jaxpr: Any
    consts: tuple = ()


def is_literal(variable: Any) -> bool:
    """Whether an input of an operation is a number, `val`, that stands in the jaxpr."""
    return hasattr(variable, "val")


def is_tracer(x: Any) -> bool:
    """Whether x is a tensor of a function that is being traced."""
    return type(x).__name__.endswith("Tracer") if TRACER.value is None else isinstance(x, TRACER.value)


def function_of(closed_jaxpr: Any) -> Callable | None:
    """The function (flat arguments) -> flat results that a closed jaxpr writes down; None where JAX makes none."""
    return JAXPR_AS_FUN.value and JAXPR_AS_FUN.value(closed_jaxpr)


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
    return jaxpr if jaxpr is None or hasattr(jaxpr, "consts") else Closed(jaxpr)


def bind(eqn: Any, inputs: list) -> list:
    """The outputs of an operation on other inputs."""
    params = eqn.primitive.get_bind_params(eqn.params)
    functions, parameters = ((), params) if isinstance(params, dict) else params  # JAX ≥ 0.10, and before
    outs = eqn.primitive.bind(*functions, *inputs, **parameters)
    return outs if eqn.primitive.multiple_results else [outs]


def enable_x64(wide: bool) -> contextlib.AbstractContextManager:
    """A block of this thread in which floats have 64 bits, or have not."""
    older = getattr(jax.experimental, "enable_x64", None)  # JAX < 0.8
    enable = older if ENABLE_X64.value is None else ENABLE_X64.value
    return contextlib.nullcontext() if enable is None else enable(wide)
