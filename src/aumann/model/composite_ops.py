"""Units: what Keras computes as one function, and each framework out of other parts.

Secants see the operations of a framework. For these functions they are told the function instead, so that every
backend sums the same numbers: an activation is one elementwise function, normalisation and attention are one
operation each. The calls are intercepted in this thread, for the length of a block; the model is not changed.
"""

import keras
from keras import ops, tree
from keras.src.backend import nn  # where every use of an activation passes: layers, operations, users' own functions

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


def handlers(operations, rows, operate):
    """For `intercepted`: {(object, attribute): handler}.

    Args:
        operations: the layers and operations of a model.
        rows: path points in the batch.
        operate: (call, xs, rule, rows) -> call(*xs), as one operation with the rule of that name.
    """
    found = {(nn, name): _activation(rule, rows, operate) for name, rule in ACTIVATIONS.items() if hasattr(nn, name)}
    whole = _whole(rows, operate)
    for layer in operations:
        if type(layer).__name__ in LAYERS and isinstance(layer, keras.Layer):
            found[layer, "call"] = whole
    return found


def _activation(rule, rows, operate):
    def handler(original, x, *args, **kwargs):
        if not _is_float(x):
            return original(x, *args, **kwargs)
        own = rule
        if rule == "softmax" and (args or (kwargs.get("axis", -1) not in (-1, len(x.shape) - 1))):
            own = "average"
        return operate(lambda x: original(x, *args, **kwargs), [x], own, rows)

    return handler


def _whole(rows, operate):
    def handler(original, *args, **kwargs):
        leaves = tree.flatten((args, kwargs))
        here = [i for i, x in enumerate(leaves) if _is_float(x)]

        def call(*xs):
            given = dict(zip(here, xs, strict=True))
            full = [given.get(i, x) for i, x in enumerate(leaves)]
            args_, kwargs_ = tree.pack_sequence_as((args, kwargs), full)
            return original(*args_, **kwargs_)

        return operate(call, [leaves[i] for i in here], "average", rows)

    return handler


def _is_float(x):
    return ops.is_tensor(x) and keras.backend.is_float_dtype(keras.backend.standardize_dtype(x.dtype))
