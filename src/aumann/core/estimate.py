"""The error that is left in an extrapolated sum, estimated from how far it has moved.

A sum over n cells, whether of secants or of derivatives by the trapezoidal rule, errs by C/n² + … once the cells
resolve what happens on the path; kinks obey the same law on average, as long as many flip. Two sums, over k and n > k
cells, therefore give a better value (Richardson extrapolation),

    R = Sₙ + (Sₙ − Sₖ) k² / (n² − k²).

What is estimated is |R − φ*|₁, over all features of a row together: only norms are kept of earlier sums, and single
features change by chance. Two of these norms tell how good R is:

    c = |R − Sₙ|₁     the correction: what the sum alone was off by
    d = |R − R′|₁     the shift from the R′ before, whose sums had fewer cells

If R errs by C/nᵖ, it is off by d q with q = kᵖ / (nᵖ − kᵖ), where p is 4 for what is smooth and 2 for kinks; where no
law holds yet, by about c. Their geometric mean √(c d q) times a safety bounds the error of nearly every row of trained
networks and is a few times that (docs/exactness.md). With kinks, corrections of few entries are small by chance more
often than those of many: the safety grows with 1/m, m being the number of like entries that would have the same ratio
of norms, |v|₁² / |v|₂².

What is smooth may yet bend within a cell, as √(h² + ε) does: then sums of derivatives err by C/nˢ with s < 2, and R by
as much. The order s is observed, from how much two differences of sums shrink: if cells grow by b, then by g,

    |Sₙ − Sₖ| / |Sₖ − Sⱼ| = (1 − g⁻ˢ) / (bˢ − 1),    k = b j,  n = g k,

and so is the order of R, from its shifts. No R is said to be better than c (qₛ / q₂ − 1) or d q, q being of these
orders, times a safety.

The error is relative to the least that Σ|φ*| can be, φ* being the integral: Σ|φ| less the estimate, or |F(x) − F(x′)|.
Where a slope is enormous Σ|φ| is no measure, for the wrong values are as large as their error.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

FEW_ENTRIES = 10.0  # entries of a correction for which the safety doubles, where there are kinks
OBSERVED_SAFETY = 2.0  # on what follows from an observed order
FASTEST = 6  # order of sums that converge faster than any power of n, and are not extrapolated
ORDERS = np.linspace(0.25, FASTEST, 47)  # among which the observed one is looked for


@dataclass
class Step:
    """What a new sum has changed, each (rows, targets).

    Attributes:
        correction: c = |R − Sₙ|₁.
        shift: d = |R − R′|₁.
        mass: |R|₁.
        squares: |R − Sₙ|₂².
    """

    correction: npt.NDArray
    shift: npt.NDArray
    mass: npt.NDArray
    squares: npt.NDArray


def differences(step: Step, before: npt.NDArray, growth: npt.NDArray) -> npt.NDArray:
    """|Sₙ − Sₖ|₁ and |R − R′|₁, of which the first R has none before it: (2, rows, targets)."""
    growth = growth[:, None]
    return np.stack([step.correction * (growth**2 - 1), np.where(np.isnan(before)[:, None], np.nan, step.shift)])


def remaining_error(
    step: Step, earlier: npt.NDArray, before: npt.NDArray, growth: npt.NDArray, order: int, safety: float
) -> npt.NDArray:
    """Estimated |R − φ*|₁: by the law of the family of sums, or by the one that is observed where that is slower.

    Args:
        step: what the new sums have changed.
        earlier: the `differences` of the sums before, NaN where there were none.
        before, growth: (rows,) b and g: by what cells have multiplied to the last sums, and since.
        order: p, by the law of the family.
        safety: on what follows from that law.
    """
    c, d = step.correction, step.shift
    first = np.isnan(before)[:, None]  # no value before to compare with: the correction is all there is
    moved, shifted = differences(step, before, growth)
    of_sums = observed_order(earlier[0], moved, before, growth)
    if order == FASTEST:
        return np.where(first, c, OBSERVED_SAFETY * c * remainder(np.fmin(of_sums, order), growth))
    if order == 2:  # chance moves the differences where there are kinks, and few of them tell no order
        few = FEW_ENTRIES * np.divide(step.squares, c * c, out=np.zeros_like(c), where=c > 0)
        return safety * (1 + few) * np.where(first, c, np.sqrt(c * d * remainder(order, growth)))
    by_law = safety * np.where(first, c, np.sqrt(c * d * remainder(order, growth)))
    of_values = observed_order(earlier[1], shifted, before, growth)
    by_sums = c * np.maximum(remainder(np.minimum(of_sums, 2), growth) / remainder(2, growth) - 1, 0)
    by_values = d * remainder(np.minimum(of_values, order), growth)
    return np.fmax(by_law, OBSERVED_SAFETY * np.fmax(by_sums, by_values))


def remainder(order: float | npt.NDArray, growth: npt.NDArray) -> npt.NDArray:
    """q: sums that err by C/nᵖ and have come from n/g to n cells are still off by q times what they have moved."""
    return 1 / (growth.reshape(-1, 1) ** order - 1)


def observed_order(earlier: npt.NDArray, later: npt.NDArray, before: npt.NDArray, growth: npt.NDArray) -> npt.NDArray:
    """The order p at which differences shrink, (rows, targets): 1 − g⁻ᵖ to bᵖ − 1 if cells grow by b, then by g.

    NaN where there were none. Rows that grew alike share the table of the law, which falls with p.
    """
    shrunk = np.divide(later, earlier, out=np.full_like(later, np.nan), where=earlier > 0)
    observed = np.full_like(shrunk, np.nan)
    for b, g in {(b, g) for b, g in zip(before.tolist(), growth.tolist(), strict=True) if not math.isnan(b)}:
        rows = (before == b) & (growth == g)
        law = (1 - g**-ORDERS) / (b**ORDERS - 1)
        observed[rows] = np.interp(-shrunk[rows], -law, ORDERS)
    return observed


def relative(left: npt.NDArray, mass: npt.NDArray, rounding: float, least: npt.NDArray | float = 0.0) -> npt.NDArray:
    """The error that is left as a part of Σ|φ|, or of the least that Σ|φ*| of the integral can be where that is less.

    That is Σ|φ| − left, or `least`, what is known of |F(x) − F(x′)|. 0 / 0 is no error: nothing is attributed, and
    nothing was on the way.
    """
    least = np.minimum(mass, np.maximum(mass - left, least))
    return np.divide(left, least, out=np.where(left > 0, np.inf, 0 * left), where=least > 0) + np.where(
        mass > 0, rounding, 0
    )
