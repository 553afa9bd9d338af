"""aumann: explains Keras 3 models by Aumann–Shapley values, and says how exact each answer is.

ig = aumann.IntegratedGradients(model)
explanation = ig.explain(inputs, target="predicted", baseline=0.0)
"""

from aumann.core import baselines
from aumann.core.rules import Rule, clenshaw_curtis, gauss_legendre, left, midpoint, right, secant, trapezoid
from aumann.explanation import Explanation, load

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
    "secant",
    "trapezoid",
]


def __getattr__(name):
    """The methods when they are first asked for: Keras reads which framework to run on when it is imported."""
    if name not in ("CompletenessWarning", "IntegratedGradients"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from aumann.methods import CompletenessWarning, IntegratedGradients

    globals().update(CompletenessWarning=CompletenessWarning, IntegratedGradients=IntegratedGradients)
    return globals()[name]
