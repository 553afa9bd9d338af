"""aumann: explains Keras 3 models by Aumann–Shapley values, and says how exact each answer is.

ig = aumann.IntegratedGradients(model)
explanation = ig.explain(inputs, target="predicted", baseline=0.0)
"""

import importlib
import typing

from aumann import baselines, plots
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

if typing.TYPE_CHECKING:  # for editors and type checkers, which do not see what `__getattr__` imports
    from aumann import metrics
    from aumann.core.paths import Blur, Polyline
    from aumann.explain.checks import CompletenessWarning, ToleranceWarning
    from aumann.explain.independence import IndependenceWarning
    from aumann.methods.differentiable import attribution
    from aumann.methods.expected import ExpectedGradients
    from aumann.methods.gradients import InputXGradient, Saliency
    from aumann.methods.guided import GuidedIntegratedGradients
    from aumann.methods.integrated import (
        BlurIntegratedGradients,
        HypotheticalContributions,
        ImportantDirectionGradients,
        IntegratedDecisionGradients,
        IntegratedGradients,
        MeanGradient,
    )
    from aumann.methods.interactions import IntegratedHessians, Interactions
    from aumann.methods.layer import Conductance, InternalInfluence
    from aumann.methods.sequential import SequentialIntegratedGradients
    from aumann.methods.smooth import Smooth
    from aumann.model.layers import input_of, output_of

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
    "plots",
    "regions",
    "right",
    "secant",
    "sequences",
    "trapezoid",
]

_LATER = {  # name: the module that defines it, imported when the name is first asked for
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


def __getattr__(name: str) -> typing.Any:
    """Imports a method when it is first asked for: Keras chooses its framework when it is imported."""
    if name == "metrics":
        return importlib.import_module("aumann.metrics")
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = getattr(importlib.import_module(f"aumann.{_LATER[name]}"), name)
    return globals()[name]


def __dir__() -> list[str]:
    """The public names, also those that are not imported yet."""
    return __all__
