"""Composite operations: what Keras computes as one function, and each framework out of other parts.

Secants see the operations of a framework. For these functions they are told the function instead, so that every
backend sums the same numbers: an activation is one elementwise function, normalisation and attention are one
operation each. The calls are intercepted in this thread, for the length of a block; the model is not changed.
"""

from collections.abc import Callable, Iterable
from typing import Any

import keras
from keras import ops, tree

from aumann.backends import keras_private
from aumann.model.interception import Handlers
from aumann.model.signature import dtype_of

Operate = Callable[[Callable, list, str, Any], Any]  # (call, xs, rule, rows) -> call(*xs), as one operation

ACTIVATIONS = {
    **dict.fromkeys(("gelu", "silu", "softplus", "log_sigmoid", "squareplus", "tanh_shrink"), "smooth"),
    # softsign among them: a second derivative that jumps bends the law that smooth sums follow
    **dict.fromkeys(("elu", "selu", "celu", "hard_silu", "soft_shrink", "softsign"), "piecewise"),
    **dict.fromkeys(("sparse_plus", "sparse_sigmoid"), "piecewise"),
    **dict.fromkeys(("hard_shrink", "threshold", "sparsemax"), "gates"),
    **dict.fromkeys(("log_softmax", "glu"), "average"),
    "leaky_relu": "hinge",
    "softmax": "softmax",
}
LAYERS = ("LayerNormalization", "RMSNormalization", "GroupNormalization", "UnitNormalization", "MultiHeadAttention",
          "GroupedQueryAttention", "Attention", "AdditiveAttention")  # fmt: skip


def handlers(operations: Iterable[Any], rows: Any, operate: Operate) -> Handlers:
    """Handlers for `intercepted`, that run each composite operation inside a model by `operate`.

    Args:
        operations: the layers and operations of the model.
        rows: rows × nodes in the batch.
        operate: (call, xs, rule, rows) -> call(*xs), as one operation with the rule of that name.
    """
    nn = keras_private.activations()
    by_call: Handlers = {
        (nn, name): _activation(rule, rows, operate) for name, rule in ACTIVATIONS.items() if hasattr(nn, name)
    }
    whole = _whole(rows, operate)
    for layer in operations:
        if type(layer).__name__ in LAYERS and isinstance(layer, keras.Layer):
            by_call[layer, "call"] = whole
    return by_call


def _activation(rule: str, rows: Any, operate: Operate) -> Callable[..., Any]:
    def handler(original, x, *args, **kwargs):
        if not _is_float(x):
            return original(x, *args, **kwargs)
        other_axis = args or kwargs.get("axis", -1) not in (-1, len(x.shape) - 1)
        applied = "average" if rule == "softmax" and other_axis else rule
        return operate(lambda x: original(x, *args, **kwargs), [x], applied, rows)

    return handler


def _whole(rows: Any, operate: Operate) -> Callable[..., Any]:
    """A call of a layer as one operation on all tensors of floats among its arguments."""

    def handler(original, *args, **kwargs):
        leaves = tree.flatten((args, kwargs))
        positions = [i for i, x in enumerate(leaves) if _is_float(x)]

        def call(*xs):
            floats = dict(zip(positions, xs, strict=True))
            args_, kwargs_ = tree.pack_sequence_as((args, kwargs), [floats.get(i, x) for i, x in enumerate(leaves)])
            return original(*args_, **kwargs_)

        return operate(call, [leaves[i] for i in positions], "average", rows)

    return handler


def _is_float(x: Any) -> bool:
    return ops.is_tensor(x) and keras.backend.is_float_dtype(dtype_of(x))
