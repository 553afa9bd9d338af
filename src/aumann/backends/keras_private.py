"""What is private to Keras and read all the same: every such name stands here, and nowhere else in the package.

Checked on Keras 3.15.1. `tests/test_private_names_of_keras.py` asks for each name, so that an upgrade tells which one
is gone; each function says what happens without it.
"""

from contextlib import AbstractContextManager
from types import ModuleType
from typing import Any

import keras

CHECKED_ON = "3.15.1"


def _gone(name: str) -> RuntimeError:
    return RuntimeError(
        f"Expected Keras to have {name}, as Keras {CHECKED_ON} has; received Keras {keras.__version__} without it. "
        f"Install keras=={CHECKED_ON}, and report this."
    )


def sublayers(layer: keras.Layer) -> list[keras.Layer]:
    """The layers that a layer holds itself, not those inside them: `Layer._flatten_layers`.

    Raises:
        RuntimeError: Keras no longer has it. Layers that are not found would be left out of what is explained.
    """
    if not hasattr(layer, "_flatten_layers"):
        raise _gone("Layer._flatten_layers")
    return list(layer._flatten_layers(include_self=False, recursive=False))


def all_layers(layer: keras.Layer) -> list[keras.Layer]:
    """A layer and every layer inside it, at any depth; raises as `sublayers`."""
    layers, todo = {}, [layer]
    while todo:
        layer = todo.pop()
        if id(layer) not in layers:
            layers[id(layer)] = layer
            todo += sublayers(layer)
    return list(layers.values())


def stateless_scope() -> Any:
    """The `keras.StatelessScope` that the thread is in, or None: `keras.src.backend.common.stateless_scope`.

    Without the name: None, so that what a model notes while it is traced on JAX is found by JAX, which refuses it.
    """
    try:
        from keras.src.backend.common.stateless_scope import get_stateless_scope
    except ImportError:
        return None
    return get_stateless_scope()


def tensorflow_scope() -> AbstractContextManager:
    """Inside, preprocessing layers leave what they make tensors of TensorFlow: `TFGraphScope`.

    Raises:
        RuntimeError: Keras no longer has it. A lookup inside a compiled function would call JAX from a callback.
    """
    try:
        from keras.src.utils.backend_utils import TFGraphScope
    except ImportError as error:
        raise _gone("keras.src.utils.backend_utils.TFGraphScope") from error
    return TFGraphScope()


def inputs_structure(model: Any) -> Any:
    """The inputs of a Functional model as it was given them, for example a dict: `Function._inputs_struct`.

    None for other models. Without the name: None too, so that inputs have the names of `model.inputs`.
    """
    return getattr(model, "_inputs_struct", None)


def outputs_structure(model: Any) -> Any:
    """The outputs of a Functional model as it was given them: `Function._outputs_struct`.

    None for other models. Without the name: None too, so that a dict of outputs has the order of the call's result.
    """
    return getattr(model, "_outputs_struct", None)


def quantization_mode(layer: Any) -> str | None:
    """How a layer is quantised, such as "int8": `Layer.quantization_mode`, which is not in the documentation.

    None for a layer that is not. Without the name: None, so that hints about rounding are left out of messages.
    """
    mode = getattr(layer, "quantization_mode", None)
    return None if mode is None else str(mode)


def runs_quantized_call(layer: Any) -> bool:
    """Whether Keras runs a layer by its `quantized_call` in place of its `call`. Without that name: False."""
    return quantization_mode(layer) is not None and hasattr(layer, "quantized_call")


def graph(model: Any) -> Any:
    """The Functional model that a Sequential one runs, or the model itself: `Sequential._functional`.

    Without the name, and for a Sequential model that is not built: None.
    """
    return getattr(model, "_functional", None) if isinstance(model, keras.Sequential) else model


def nodes(function: Any) -> list[Any]:
    """The calls of layers in a graph, in no order that counts, its inputs left out: `Function._nodes_by_depth`.

    Each has `operation`, `arguments`, `input_tensors` and `output_tensors`.
    """
    return [node for level in function._nodes_by_depth.values() for node in level if not node.is_input]


def is_graph(model: Any) -> bool:
    """Whether a model does what its graph says: a Sequential or Functional one whose `call` is that of Keras.

    Without `keras.src.models`, `Sequential._functional` or `Function._nodes_by_depth`: False, so that no affine prefix
    is looked for; values are the same, and take longer.
    """
    of_keras = isinstance(model, keras.Model) and getattr(type(model).call, "__module__", "").startswith(
        "keras.src.models."
    )
    return of_keras and hasattr(graph(model), "_nodes_by_depth")


def activations() -> ModuleType:
    """The module through which every use of an activation passes: `keras.src.backend.nn`.

    Layers, operations and functions of the user's own call it. `keras.ops` calls it in turn, and layers do not call
    `keras.ops`.

    Raises:
        RuntimeError: Keras no longer has it. Second-order values would differ from framework to framework.
    """
    try:
        from keras.src.backend import nn
    except ImportError as error:
        raise _gone("keras.src.backend.nn") from error
    return nn
