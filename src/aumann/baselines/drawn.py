"""Baselines that are drawn: uniform noise, and Gaussian noise around each row."""

from typing import Any

import numpy as np

from aumann.arguments import whole
from aumann.baselines.given import (
    BaselineFunction,
    finite_numbers,
    float_dtype,
    like_row,
    one_input,
    ordered_ends,
)
from aumann.core.baselines import weighted
from aumann.features import tables


def uniform(low: Any, high: Any, samples: int = 1, seed: int = 0) -> BaselineFunction:
    """Noise that is uniform in [low, high), the same draws for every row: a row is compared with chance.

    Costs `samples` times the gradients of one baseline.

    Args:
        low, high: numbers, or arrays that broadcast against a row.
        samples: draws to average over.
        seed: whole number ≥ 0. Give several inputs that are drawn together different ones.

    Returns:
        inputs (n, *row) -> a row, or for several samples a set (samples, *row).

    Raises:
        ValueError: the ends are not finite, not in order, or do not broadcast.

    Source: Sturmfels, Lundberg, Lee (2020), Visualizing the Impact of Feature Attribution Baselines.
    """
    low, high = ordered_ends(low, high)
    whole(samples, 1, "samples", 20)
    whole(seed, 0, "seed", 0)

    def make(inputs: Any) -> Any:
        x, columns = one_input(inputs)
        row = x.shape[1:]
        shares = np.random.default_rng(seed).random((samples, *row))
        a, b = like_row(low, row, "low", columns), like_row(high, row, "high", columns)
        noise = (a + (b - a) * shares).astype(float_dtype(x))
        return tables.named(noise[0], columns) if samples == 1 else weighted(tables.named(noise, columns))

    return make


def gaussian(sigma: Any, samples: int = 1, seed: int = 0, low: Any = None, high: Any = None) -> BaselineFunction:
    """The row itself under Gaussian noise: a row is compared with its neighbourhood.

    Costs `samples` times the gradients of one baseline, and the memory of `samples` copies of the inputs.

    Args:
        sigma: standard deviation: a number, or an array that broadcasts against a row.
        samples: draws to average over.
        seed: whole number ≥ 0. The noise of a row depends on it and on the row's position among the inputs, not on the
            other rows. Give several inputs that are drawn together different ones.
        low, high: numbers, or arrays that broadcast against a row, to which draws are clipped.

    Returns:
        inputs (n, *row) -> a row for each, or for several samples a set for each, (n, samples, *row).

    Raises:
        ValueError: sigma is negative, or something is not finite, not in order, or does not broadcast.

    Source: Sturmfels, Lundberg, Lee (2020), Visualizing the Impact of Feature Attribution Baselines.
    """
    width = finite_numbers(sigma, "sigma")
    if (width < 0).any():
        raise ValueError(f"Expected sigma ≥ 0, received {sigma!r}. Give the standard deviation of the noise.")
    least = finite_numbers(low, "low") if low is not None else None
    most = finite_numbers(high, "high") if high is not None else None
    if least is not None and most is not None:
        ordered_ends(low, high)
    whole(samples, 1, "samples", 20)
    whole(seed, 0, "seed", 0)

    def make(inputs: Any) -> Any:
        x, columns = one_input(inputs)
        row = x.shape[1:]
        noise = np.random.default_rng(seed).standard_normal((len(x), samples, *row), np.float32)
        noisy = x[:, None] + like_row(width, row, "sigma", columns).astype(float_dtype(x)) * noise
        if least is not None:
            noisy = np.maximum(noisy, like_row(least, row, "low", columns).astype(noisy.dtype))
        if most is not None:
            noisy = np.minimum(noisy, like_row(most, row, "high", columns).astype(noisy.dtype))
        return tables.named(noisy[:, 0], columns) if samples == 1 else weighted(tables.named(noisy, columns))

    return make
