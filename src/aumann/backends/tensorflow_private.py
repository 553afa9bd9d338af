"""Names of TensorFlow that it does not promise to keep, and what happens without each; checked on 2.18 to 2.21."""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from aumann.backends.private import DERIVATIVES_INSTEAD, PrivateAttribute, PrivateName

CHECKED = "2.18 to 2.21"
HIDDEN = "Kinks inside branches and loops count as hidden, and the error estimate is the wary one"

SET_ATTRIBUTE = PrivateName("tensorflow.Operation._set_attr", CHECKED, DERIVATIVES_INSTEAD)
GRADIENTS = PrivateName("tensorflow.python.framework.ops._gradient_registry", CHECKED, DERIVATIVES_INSTEAD)
BRANCH_GRAPHS = PrivateName("tensorflow.python.ops.cond_v2.get_func_graphs", CHECKED, HIDDEN)
FUNCTION_GRAPH = PrivateName("tensorflow.python.ops.control_flow_util_v2.get_func_graph", CHECKED, HIDDEN)
LOOP_BODY = PrivateAttribute(
    "tensorflow.Operation._body_graph", CHECKED, "A loop is differentiated at the left end of each cell"
)
LOOP_CONDITION = PrivateAttribute("tensorflow.Operation._cond_graph", CHECKED, "A copy of the condition is looked at")


def require_what_secants_need() -> None:
    """RuntimeError where a name is gone without which there are no secants: before a model is traced, not inside it."""
    for name in (SET_ATTRIBUTE, GRADIENTS):
        _ = name.required


def set_attribute(op: Any, name: str, **value: Any) -> None:
    """Writes an attribute into an operation of a graph: `s=` bytes, `b=` a truth, `list=` of numbers."""
    SET_ATTRIBUTE.required(op, name, tf.compat.v1.AttrValue(**value))


def gradient(name: str) -> Any:
    """The function (op, *cotangents) -> cotangents of the inputs that is registered under a name."""
    return GRADIENTS.required.lookup(name)


def branch_graphs(op: Any) -> list:
    """The graphs between which an operation chooses; none where they cannot be had."""
    return _or_none(lambda: list(BRANCH_GRAPHS.required(op)))


def loop_graphs(op: Any) -> list:
    """The body of a loop, and its condition; none where they cannot be had."""
    kept = LOOP_BODY.of(op), LOOP_CONDITION.of(op)
    return _or_none(lambda: _function_graphs(op, [op.get_attr(which).name for which in ("body", "cond")], kept))


def called_graphs(op: Any) -> list:
    """The graph that a call runs; none where it cannot be had."""
    return _or_none(lambda: _function_graphs(op, [op.get_attr("f").name], [None]))


def _function_graphs(op: Any, names: Sequence[str], kept: Sequence) -> list:
    shapes = [x.shape for x in op.inputs]
    return [graph or FUNCTION_GRAPH.required(op, shapes, name) for graph, name in zip(kept, names, strict=True)]


def _or_none(graphs: Any) -> list:
    try:
        return graphs()
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError):
        return []
