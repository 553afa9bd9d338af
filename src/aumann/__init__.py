"""aumann: explains Keras 3 models by Aumann–Shapley values, and says how exact each answer is.

ig = aumann.IntegratedGradients(model)
explanation = ig.explain(inputs, target="predicted", baseline=0.0)
"""

import importlib

from aumann import baselines
from aumann.core.quadrature import (
    Rule,
    clenshaw_curtis,
    gauss_legendre,
    left,
    log_gauss,
    midpoint,
    right,
    secant,
    trapezoid,
)
from aumann.explanation import Explanation, load
from aumann.transforms import bases, regions, sequences

__all__ = [
    "Blur",
    "BlurIntegratedGradients",
    "CompletenessWarning",
    "Conductance",
    "ExpectedGradients",
    "Explanation",
    "GuidedIntegratedGradients",
    "HypotheticalContributions",
    "ImportantDirectionGradients",
    "IndependenceWarning",
    "InputXGradient",
    "IntegratedDecisionGradients",
    "IntegratedGradients",
    "IntegratedHessians",
    "Interactions",
    "InternalInfluence",
    "MeanGradient",
    "Polyline",
    "Rule",
    "Saliency",
    "SequentialIntegratedGradients",
    "Smooth",
    "ToleranceWarning",
    "attribution",
    "baselines",
    "bases",
    "clenshaw_curtis",
    "gauss_legendre",
    "input_of",
    "left",
    "load",
    "log_gauss",
    "metrics",
    "midpoint",
    "output_of",
    "regions",
    "right",
    "secant",
    "sequences",
    "trapezoid",
]

_LATER = {  # name: the room where it stands
    "Blur": "core.paths",
    "BlurIntegratedGradients": "methods.integrated",
    "CompletenessWarning": "explain.checks",
    "Conductance": "methods.layer",
    "ExpectedGradients": "methods.expected",
    "GuidedIntegratedGradients": "methods.guided",
    "HypotheticalContributions": "methods.integrated",
    "ImportantDirectionGradients": "methods.integrated",
    "IndependenceWarning": "explain.independence",
    "InputXGradient": "methods.gradients",
    "IntegratedDecisionGradients": "methods.integrated",
    "IntegratedGradients": "methods.integrated",
    "IntegratedHessians": "methods.interactions",
    "Interactions": "methods.interactions",
    "InternalInfluence": "methods.layer",
    "MeanGradient": "methods.integrated",
    "Polyline": "core.paths",
    "Saliency": "methods.gradients",
    "SequentialIntegratedGradients": "methods.sequential",
    "Smooth": "methods.smooth",
    "ToleranceWarning": "explain.checks",
    "attribution": "methods.differentiable",
    "input_of": "model.layers",
    "output_of": "model.layers",
}


def __getattr__(name):
    """The methods when they are first asked for: Keras reads which framework to run on when it is imported."""
    if name == "metrics":
        return importlib.import_module("aumann.metrics")
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = getattr(importlib.import_module(f"aumann.{_LATER[name]}"), name)
    return globals()[name]
