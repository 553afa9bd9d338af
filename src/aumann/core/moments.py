"""Spread: mean and central moments of arrays that come one at a time, none of which is kept."""

import numpy as np


class Spread:
    """Of lists of arrays, each list one draw; in float64.

    Attributes:
        count: n, lists so far.
        mean: list of arrays.
        sums: for each array the sums of the 2nd, 3rd and 4th powers of what lists differ from their mean, as far as
            `order` says.

    Source: Welford (1962) for the second; Terriberry (2008), Computing higher-order moments online, for the others.
    """

    def __init__(self, order=2):
        self.order, self.count, self.mean, self.sums = order, 0, [], []

    def add(self, arrays):
        self.count += 1
        n = self.count
        if n == 1:
            self.mean = [np.array(a, np.float64) for a in arrays]
            self.sums = [[np.zeros_like(a) for _ in range(self.order - 1)] for a in self.mean]
            return
        for a, mean, sums in zip(arrays, self.mean, self.sums, strict=True):
            off = a - mean
            part = off / n
            second = off * part * (n - 1)
            mean += part
            if self.order == 4:
                sums[2] += second * part**2 * (n * n - 3 * n + 3) + 6 * part**2 * sums[0] - 4 * part * sums[1]
                sums[1] += second * part * (n - 2) - 3 * part * sums[0]
            sums[0] += second

    def variance(self):
        """Of one list, unbiased."""
        return [sums[0] / (self.count - 1) for sums in self.sums]

    def variance_of_variance(self):
        """(μ₄ − σ⁴ (n − 3) / (n − 1)) / n, by the sample's own moments; needs order 4."""
        n = self.count
        fourth = [sums[2] / n for sums in self.sums]
        return [np.maximum(m - v**2 * (n - 3) / (n - 1), 0) / n for m, v in zip(fourth, self.variance(), strict=True)]
