"""PyTensor, the maintained successor of Theano: a graph as an oracle beside the frameworks that Keras runs on.

The graph is compiled by PyTensor and called on host arrays; what selects the target stays on the active backend, and
the chain rule joins the two.
"""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import pytensor
import pytensor.tensor as pt


class Graph:
    """A PyTensor graph that `aumann.IntegratedGradients` explains like a model.

    Costs one forward and one backward evaluation a gradient; the forward is shared by several targets only within the
    graph. Rows must be independent.

    Args:
        inputs: symbolic tensor, or list of those, with the batch axis first.
        outputs: symbolic tensor, or list of those, with the batch axis first; shared variables inside keep their
            present values.
        name: how the provenance calls it.
    """

    def __init__(self, inputs: Any, outputs: Any, name: str = "pytensor graph") -> None:
        self.name = name
        self.several_inputs, self.several_outputs = (
            isinstance(inputs, (list, tuple)),
            isinstance(outputs, (list, tuple)),
        )
        self.inputs = list(inputs) if self.several_inputs else [inputs]
        self.symbols = list(outputs) if self.several_outputs else [outputs]
        self._forward = pytensor.function(self.inputs, self.symbols, on_unused_input="ignore")
        weights = [y.type(f"cotangent_{i}") for i, y in enumerate(self.symbols)]
        score = sum(pt.sum(w * y) for w, y in zip(weights, self.symbols, strict=True))
        slopes = pytensor.grad(score, self.inputs, disconnected_inputs="ignore")
        self._backward = pytensor.function([*self.inputs, *weights], slopes, on_unused_input="ignore")

    def __call__(self, *inputs: Any) -> Any:
        """Outputs at the inputs, one array or tensor for each symbolic input (or one list of them)."""
        outputs = [keras.ops.convert_to_tensor(y) for y in self._forward(*self._host(inputs))]
        return outputs if self.several_outputs else outputs[0]

    def pull(self, points: Sequence, cotangents: Sequence) -> list:
        """Σ cotangent · ∂output/∂point for each point: the vector–Jacobian product."""
        host = [
            np.asarray(keras.ops.convert_to_numpy(c), y.dtype) for c, y in zip(cotangents, self.symbols, strict=True)
        ]
        return [keras.ops.convert_to_tensor(g) for g in self._backward(*self._host(points), *host)]

    def _host(self, inputs):
        if len(inputs) == 1 and isinstance(inputs[0], (list, tuple)):
            inputs = inputs[0]
        return [np.asarray(keras.ops.convert_to_numpy(x), s.dtype) for x, s in zip(inputs, self.inputs, strict=True)]
