"""Metrics: what an explanation is worth, each an answer to one question (docs/metrics.md says which).

completeness · sparseness · pointing_game          values_alone.py   of the values alone, no model
deletion · insertion                               removal.py        F as ranked features are removed, or restored
cumulative_difference · cumulative_preservation    removal.py        how far F moves meanwhile
information_curve                                  information.py    F against the information in an image
infidelity · max_sensitivity                       perturbation.py   values near the input
randomization                                      randomization.py  values of a model of shuffled weights

A metric takes the explainer, for F, and the explanation, for the values and the inputs. `by="signed"` ranks or compares
values as they are, `by="absolute"` by their size. Results are float64, a number for each row, or for each row and
target where the explanation has several.
"""

from aumann.metrics.information import information_curve
from aumann.metrics.perturbation import infidelity, max_sensitivity
from aumann.metrics.randomization import Randomization, randomization
from aumann.metrics.removal import Curve, cumulative_difference, cumulative_preservation, deletion, insertion
from aumann.metrics.values_alone import Completeness, completeness, pointing_game, sparseness

__all__ = [
    "Completeness",
    "Curve",
    "Randomization",
    "completeness",
    "cumulative_difference",
    "cumulative_preservation",
    "deletion",
    "infidelity",
    "information_curve",
    "insertion",
    "max_sensitivity",
    "pointing_game",
    "randomization",
    "sparseness",
]
