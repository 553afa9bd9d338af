"""Moments: mean and central moments of arrays that come one at a time, none of which is kept."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


class RunningMoments:
    """Moments of lists of arrays, each list one draw; in float64.

    With δ = aₙ − mean of the n − 1 before, the sums Mₚ = Σᵢ (aᵢ − mean)ᵖ are kept up to date as

        mean += δ/n
        M₂ += δ² (n − 1)/n
        M₃ += δ³ (n − 1)(n − 2)/n² − 3 δ M₂/n
        M₄ += δ⁴ (n − 1)(n² − 3n + 3)/n³ + 6 δ² M₂/n² − 4 δ M₃/n

    where the right-hand sides have the M₂ and M₃ of the n − 1 before, so that the higher sums are updated first.

    Args:
        order: 2 or 4, the highest p.

    Attributes:
        count: n, lists so far.
        mean: list of arrays.
        sums: for each array [M₂], or [M₂, M₃, M₄].

    Source: Welford (1962) for the second; Terriberry (2008), Computing higher-order moments online, for the others.
    """

    def __init__(self, order: int = 2) -> None:
        self.order, self.count = order, 0
        self.mean: list[npt.NDArray] = []
        self.sums: list[list[npt.NDArray]] = []

    def add(self, arrays: Sequence[npt.ArrayLike]) -> None:
        """Takes one more draw."""
        self.count += 1
        n = self.count
        if n == 1:
            self.mean = [np.array(a, np.float64) for a in arrays]
            self.sums = [[np.zeros_like(a) for _ in range(self.order - 1)] for a in self.mean]
            return
        for a, mean, sums in zip(arrays, self.mean, self.sums, strict=True):
            delta = a - mean
            part = delta / n
            second = delta * part * (n - 1)
            mean += part
            if self.order == 4:
                sums[2] += second * part**2 * (n * n - 3 * n + 3) + 6 * part**2 * sums[0] - 4 * part * sums[1]
                sums[1] += second * part * (n - 2) - 3 * part * sums[0]
            sums[0] += second

    def variance(self) -> list[npt.NDArray]:
        """σ² of one draw, unbiased; needs two draws."""
        return [sums[0] / (self.count - 1) for sums in self.sums]

    def variance_of_variance(self) -> list[npt.NDArray]:
        """Of `variance`, (μ₄ − σ⁴ (n − 3) / (n − 1)) / n, with the moments of the sample; needs order 4."""
        n = self.count
        fourth = [sums[2] / n for sums in self.sums]
        return [np.maximum(m - v**2 * (n - 3) / (n - 1), 0) / n for m, v in zip(fourth, self.variance(), strict=True)]
