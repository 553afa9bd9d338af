"""Methods at layers inside a model, while its inputs move along the path."""

from __future__ import annotations

from typing import Any, Unpack

from aumann.core import credits
from aumann.core.quadrature import Rule
from aumann.methods.integrated import IntegratedGradients
from aumann.methods.signatures import Execution
from aumann.model.layers import find_all


class Conductance(IntegratedGradients):
    """Conductance of the units of a layer: φ_y = ∫₀¹ ∂F/∂y · (∂y/∂x · γ'(t)) dt, what of F(x) − F(x′) flows through y.

    The inputs move along the path, and the layer with them. ∂y/∂x · γ' is a Jacobian-vector product at every node, so
    that a Gauss rule is spectral on smooth networks; over cells it is the layer's own difference, so that secants are
    complete at any number of cells. Of a set of baselines, the weighted mean. Integer ids move at their Embedding.

    `Explanation.values` are (n, *row of the layer), `inputs` the layer's own values at x, `baseline` None; of several
    layers, dicts by name. The values of a layer add up to F(x) − F(x′) if it cuts the graph, that is if nothing
    reaches F around it: where something does, a `CompletenessWarning` says so, and `residual` how much. Layers side by
    side share that sum; of layers one behind the other each has its own, `residual` is that of all values together,
    and the provenance says that they are not complete.

    Cost: each gradient is a forward pass with a Jacobian-vector product up to the layer, a forward pass and a backward
    pass down to it. Tolerance as for `IntegratedGradients`.

    Args:
        layer: a layer, its name, a path, `aumann.input_of(layer)`, or a list of those.

    Source: Dhamdhere, Sundararajan, Yan (2018), How Important Is a Neuron?
    """

    def __init__(
        self,
        model: Any,
        layer: Any,
        *,
        output: Any = None,
        tolerance: float | None = None,
        max_evaluations: int | None = None,
        rule: Rule | None = None,
        **execution: Unpack[Execution],
    ) -> None:
        budget = {"tolerance": tolerance, "max_evaluations": max_evaluations, "rule": rule}
        super().__init__(model, output=output, **budget, **execution)
        self.target_layers = find_all(model, layer)


class InternalInfluence(Conductance):
    """Internal influence of the units of a layer: ∫₀¹ ∂F/∂y dt along the path of the inputs, in F per unit of y.

    The mean gradient at the layer, before the factor by which the layer moves: values do not add up to anything.
    Values and tolerance as for `Conductance`. Cost: each gradient is a forward pass and a backward pass
    down to the layer.

    Source: Leino et al. (2018), Influence-Directed Explanations for Deep Convolutional Networks.
    """

    credit = staticmethod(credits.slope)
    complete = False
