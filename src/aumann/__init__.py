"""aumann: explains Keras 3 models by Aumann–Shapley values, and says how exact each answer is.

    ig = aumann.IntegratedGradients(model)
    explanation = ig.explain(inputs, target="predicted", baseline=0.0)
"""

from aumann.core import baselines
from aumann.core.rules import Rule, clenshaw_curtis, gauss_legendre, left, midpoint, right, trapezoid
from aumann.explanation import Explanation, load
from aumann.methods import CompletenessWarning, IntegratedGradients

__all__ = [
    "CompletenessWarning",
    "Explanation",
    "IntegratedGradients",
    "Rule",
    "baselines",
    "clenshaw_curtis",
    "gauss_legendre",
    "left",
    "load",
    "midpoint",
    "right",
    "trapezoid",
]
