"""What a method returns: values, what is known of their error, and how they came about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np

from aumann.core import refinement
from aumann.core.refinement import Refined


@dataclass(frozen=True, eq=False)
class How:
    """How values came about: what the provenance, the warnings and the checks need to know of it.

    Attributes:
        stopping_rule: entries of the provenance, such as rule, tolerance, max_evaluations, samples and seed.
        nodes: t that are probed, should the gradient not be finite somewhere on a path.
        steep: rows whose slope is enormous at an end of the path, as far as that was seen.
        batch_size: path points per call of the model, as in the last sum.
        affine_prefix: name of the layer that straight paths were flattened up to, or None.
    """

    stopping_rule: Mapping[str, Any]
    batch_size: int
    affine_prefix: str | None = None
    nodes: np.ndarray = field(default_factory=lambda: np.linspace(0, 1, 65))
    steep: np.ndarray = field(default_factory=lambda: np.zeros(0, int))

    @property
    def tolerance(self) -> float | None:
        """What the error of a row is held against; None where the cost was fixed instead."""
        return self.stopping_rule.get("tolerance")


@dataclass(frozen=True, eq=False)
class Result:
    """The values of every row of a problem.

    Attributes:
        values: for each moving input, or target layer, (n, targets, *row).
        evaluations: (n,), gradients spent on each row.
        how: how they came about.
        error: (n, targets), estimated relative L1 error of all values of a row; None if not estimated.
        parts: for each moving input, or target layer, (n, targets), that of its values; None if not estimated.
        standard_error: of values that were sampled, shaped like them; else None.
    """

    values: list[np.ndarray]
    evaluations: np.ndarray
    how: How
    error: np.ndarray | None = None
    parts: list[np.ndarray] | None = None
    standard_error: list[np.ndarray] | None = None

    @classmethod
    def of(cls, refined: Refined, how: How) -> Result:
        """What a refinement has come to."""
        return cls(**vars(refined), how=how)


def stacked(results: Sequence[Result]) -> Result:
    """Results of consecutive rows, one after another, as one."""
    first, last = 0, results[-1]
    steep = []
    for result in results:
        steep.append(result.how.steep + first)
        first += len(result.evaluations)
    whole = refinement.stacked((Refined(**_numbers(r)) for r in results), first)
    return Result.of(whole, replace(last.how, steep=np.concatenate(steep)))


def _numbers(result: Result) -> dict[str, Any]:
    return {f.name: getattr(result, f.name) for f in fields(Refined)}
