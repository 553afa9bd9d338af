"""Credits: what the gradients on the path of a row are worth to its features, summed over the nodes of the path.

A credit is a function of a `Moment` that returns for each moving input (S, *row), or None where F does not depend on
it. The credit of Aumann and Shapley is `share`; with any other the values need not add up to F(x) − F(x′).
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from keras import ops


@dataclass(frozen=True)
class Moment:
    """What is known at M nodes of each of S rows, for one target; lists have an entry for each moving input.

    Attributes:
        slopes: list of (S, M, *row) or None, ∂F/∂input; over cells, the secant from each node to the next.
        velocities: list of arrays that broadcast against those, γ'(t).
        starts: list of arrays that broadcast against those, x′.
        values: (S, M), F.
        weights: (S, M), those of the rule and of the baselines.
    """

    slopes: list[Any]
    velocities: list[Any]
    starts: list[Any]
    values: Any
    weights: Any


def share(moment: Moment) -> list[Any]:
    """Σ w γ' ∘ ∂F: the values of Aumann and Shapley, complete on every path."""
    return [
        None if g is None else total(moment, g) * v[:, 0] if v.shape[1] == 1 else total(moment, v * g)
        for g, v in zip(moment.slopes, moment.velocities, strict=True)
    ]


def slope(moment: Moment) -> list[Any]:
    """Σ w ∂F: the mean gradient on the path."""
    return [None if g is None else total(moment, g) for g in moment.slopes]


def hypothetical(moment: Moment) -> list[Any]:
    """Σ w (∂F − ⟨x′, ∂F⟩), letters on the last axis: what each letter would be worth were it in the sequence.

    At a letter c instead of the row's own, x − x′ is e_c − x′, and Σₖ (e_c − x′)ₖ ∂ₖF = ∂_c F − ⟨x′, ∂F⟩.
    """
    return [
        None if g is None else total(moment, g - ops.sum(b * g, axis=-1, keepdims=True))
        for g, b in zip(moment.slopes, moment.starts, strict=True)
    ]


def important(moment: Moment) -> list[Any]:
    """Σ w (γ' · ∂F) (∂F)² / ‖∂F‖²: what F gains along the path, divided in proportion to the squares of the slopes.

    Squares of slopes are taken relative to the largest, for those of a saturated F are smaller than any float.
    """
    gain, slopes = climb(moment), [g for g in moment.slopes if g is not None]
    most = functools.reduce(ops.maximum, (_over(ops.max, ops.abs(g)) for g in slopes))
    most = ops.where(most > 0, most, ops.ones_like(most))
    squares = sum(_over(ops.sum, (g / _fit(most, g)) ** 2) for g in slopes)
    unit = gain / ops.where(squares > 0, squares, ops.ones_like(squares))
    return [None if g is None else total(moment, _fit(unit, g) * (g / _fit(most, g)) ** 2) for g in moment.slopes]


def decisive(moment: Moment) -> list[Any]:
    """Σ w (γ' · ∂F) γ' ∘ ∂F: shares in proportion to how fast F changes where they are earned."""
    gain = climb(moment)
    return [
        None if g is None else total(moment, _fit(gain, g) * v * g)
        for g, v in zip(moment.slopes, moment.velocities, strict=True)
    ]


def climb(moment: Moment) -> Any:
    """dF/dt = γ' · ∂F, over all features of all moving inputs: (S, M)."""
    pairs = zip(moment.slopes, moment.velocities, strict=True)
    return sum(_over(ops.sum, v * g) for g, v in pairs if g is not None)


def _over(reduce: Callable, a: Any) -> Any:
    """Reduces over the features of a node: (S, M)."""
    return reduce(a, axis=tuple(range(2, len(a.shape)))) if len(a.shape) > 2 else a


def _fit(a: Any, like: Any) -> Any:
    """(S, M) with as many axes of size 1 as `like` has axes of features."""
    return ops.reshape(a, (*ops.shape(a), *(1,) * (len(like.shape) - 2)))


def total(moment: Moment, a: Any) -> Any:
    """Σ w a over the nodes of a row: (S, *row)."""
    return ops.sum(_fit(moment.weights, a) * a, axis=1)
