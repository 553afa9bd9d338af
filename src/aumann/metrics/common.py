"""What several metrics share: the inputs of an explanation, checks of arguments, ratios, optional packages."""

import importlib
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from aumann.arguments import choice
from aumann.explanation import Explanation, embedded, walk


@dataclass(frozen=True, eq=False)
class InputValues:
    """The values of one input of an explanation.

    Attributes:
        values: (n[, targets], *row).
        axes: axes of a row in `values`.
        moves: whether it is among the features: an input that is held still, whose baseline equals it, is not.
        embedded: whether the values of token ids stand at their embedding.
    """

    values: np.ndarray
    axes: tuple[int, ...]
    moves: bool
    embedded: bool


def input_values(explanation: Explanation) -> list[InputValues]:
    """The values of every input of an explanation, in the order of `walk`."""
    lead = explanation.prediction.ndim
    parts = []
    for _, values, inputs, baseline in walk(explanation.values, explanation.inputs, explanation.baseline):
        held = baseline is not None and baseline.shape == inputs.shape and np.array_equal(baseline, inputs)
        axes = tuple(range(lead, values.ndim))
        parts.append(InputValues(values, axes, not held, embedded(values.shape[lead:], inputs)))
    return parts


def checked(explanation: Any) -> Explanation:
    """The explanation; raises TypeError if it is none."""
    if not isinstance(explanation, Explanation):
        raise TypeError(
            f"Expected an aumann.Explanation, received {type(explanation).__name__}. Give what explain() returned."
        )
    return explanation


def checked_by(by: Any) -> str:
    """Whether values count as they are, "signed", or by their size, "absolute"; raises ValueError if it is neither."""
    return choice(by, ("signed", "absolute"), "by", "Say whether values count as they are or by size.")


def ratio(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole; 0 where both vanish, infinity where only the whole does."""
    with np.errstate(divide="ignore", invalid="ignore"):  # both kinds of zero are answered
        return np.where(part == 0, 0.0, part / whole)


def optional(module: str, package: str, purpose: str) -> ModuleType:
    """A module that only some metrics need; raises ImportError with how to install its package."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"Expected {package} for {purpose}, which is not installed. pip install {package}."
        ) from error
