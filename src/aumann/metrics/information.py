"""F against the information in an image: performance information curves."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from aumann.arguments import choice
from aumann.explanation import Explanation, channel_axis
from aumann.metrics.common import checked_by, optional
from aumann.metrics.perturbation import generator
from aumann.metrics.probe import Explainer, Probe
from aumann.metrics.removal import Curve

THRESHOLDS = (0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.07, 0.10, 0.13, 0.21, 0.34, 0.5, 0.75)


def information_curve(
    explainer: Explainer,
    explanation: Explanation,
    target: Any = None,
    *,
    by: str,
    kind: str = "softmax",
    limits: tuple[float, float] = (0.0, 255.0),
    thresholds: Sequence[float] = THRESHOLDS,
    known: float = 0.01,
    least: float = 0.8,
    points: int = 1000,
    seed: int = 0,
) -> Curve:
    """F as the most important pixels of a blurred image become sharp, against the information that they bring.

    An image is interpolated from a few random pixels and, at each threshold, the pixels with the highest values. Its
    information is its size as lossless WebP, its performance F; both are scaled so that the blurred image has 0 and
    the original 1, and the performance is made monotone. A large area: the pixels that matter are among the first.
    Costs 2 + len(thresholds) forward passes a row, and as many triangulations and compressions, which take longer.

    Args:
        explainer: whose `predict` is F, a probability for kind="softmax".
        explanation: an `aumann.Explanation` of one input of images, (H, W), (H, W, C) or (C, H, W), for one target.
        target: as in `explain`; "predicted" is the class of the images as they are.
        by: "signed" or "absolute": how pixels are ranked, their channels summed.
        kind: "softmax" for F itself (SIC); "accuracy" for 1 where the target is the predicted class, else 0 (AIC).
        limits: input values that stand for 0 and 255 of an 8-bit image; images are seen in these 256 steps.
        thresholds: ascending fractions of the pixels that are sharp.
        known: fraction of the pixels, drawn at random, from which the blurred image is made.
        least: rows whose performance on the original is lower are left out.
        points: of the curve; one more stands at the end.
        seed: of the random pixels; those of a row depend on the seed and the row, not on the other rows.

    Returns:
        `Curve` over the fraction of the information, (n, points + 1). Rows of NaN cannot be judged: F on the original
        is below `least`, or not above that of the blurred image, or the original has no more information than that.
        `Curve.aggregate()` is the median over the others.

    Raises:
        ValueError, TypeError: an argument does not fit, or inputs lie outside the limits.
        ImportError: scipy or Pillow is missing.

    Source: Kapishnikov et al. (2019), XRAI: Better Attributions Through Regions.
    """
    thresholds = _checked(by, kind, thresholds)
    images = _Images(Probe(explainer, explanation, target), limits, by)
    grid, curves = np.arange(points) / points, np.empty((images.probe.rows, points + 1))
    for row in range(images.probe.rows):
        series = images.from_blurred_to_sharp(row, known, thresholds, seed)
        performance = images.performance(series, row, kind)
        sizes = np.array([information(image) for image in series], np.float64)
        curves[row] = _curve(sizes, performance, least, grid)
    return Curve(np.append(grid, 1.0), curves)


def _checked(by: str, kind: str, thresholds: Sequence[float]) -> np.ndarray:
    """The thresholds as an array; raises ValueError where one of the arguments does not fit."""
    checked_by(by)
    choice(kind, ("softmax", "accuracy"), "kind")
    array = np.asarray(thresholds, np.float64)
    if array.ndim != 1 or not ((array > 0) & (array < 1)).all() or (np.diff(array) <= 0).any():
        raise ValueError(f"Expected ascending thresholds between 0 and 1, received {array}. Sort them.")
    return array


class _Images:
    """The explained images as bytes, with a score for each pixel.

    Attributes:
        probe: F at changed inputs.
        pixels: (n, H, W, C) bytes.
        scores: (n, H, W), by which pixels are ranked.
    """

    def __init__(self, probe: Probe, limits: tuple[float, float], by: str):
        explanation = probe.explanation
        if len(probe.inputs) != 1 or explanation.several or probe.several or probe.inputs[0].ndim not in (3, 4):
            raise ValueError(
                f"Expected one input of images and one target, received inputs of shapes "
                f"{[x.shape for x in probe.inputs]} and a prediction of shape {explanation.prediction.shape}. Explain "
                "one target at a time."
            )
        self.probe, self.limits = probe, limits
        self.pixels = _as_bytes(probe.inputs[0], limits)
        scores = _channels_last(probe.at_inputs(0)[:, 0]).astype(np.float64).sum(-1)
        self.scores = np.abs(scores) if by == "absolute" else scores

    def from_blurred_to_sharp(self, row: int, known: float, thresholds: np.ndarray, seed: int) -> np.ndarray:
        """An image (2 + thresholds, H, W, C): of its known pixels alone, at each threshold, and as it is."""
        image, scores = self.pixels[row], self.scores[row]
        start = np.zeros(scores.size, bool)
        start[generator(self.probe, row, seed).choice(scores.size, int(scores.size * known), replace=False)] = True
        start = start.reshape(scores.shape)
        masks = [start, *(start | (scores >= np.quantile(scores, 1 - t)) for t in thresholds)]
        return np.stack([*(interpolated(image, mask) for mask in masks), image])

    def performance(self, images: np.ndarray, row: int, kind: str) -> np.ndarray:
        """F at changed images (k, H, W, C) of a row, or whether its target is the class predicted there: (k,)."""
        x, (low, high) = self.probe.inputs[0], map(float, self.limits)
        pixels = images[..., 0] if x.ndim == 3 else np.moveaxis(images, -1, 1) if _channels_first(x) else images
        values = low + pixels / 255 * (high - low)
        return _performance(self.probe, values.astype(x.dtype) if x.dtype.kind == "f" else values, row, kind)


def interpolated(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """An image (H, W, C) of which only the pixels of a mask (H, W) and its corners are known: linear between them."""
    scipy = optional("scipy.interpolate", "scipy", "information curves")
    mask = mask.copy()
    mask[[0, 0, -1, -1], [0, -1, 0, -1]] = True
    if mask.all():
        return image
    values = image.astype(np.float64)
    values[~mask] = scipy.LinearNDInterpolator(np.argwhere(mask), values[mask])(np.argwhere(~mask))
    mean = image.mean((0, 1))
    values = np.where(np.isnan(values), mean, values)  # rounding may leave a pixel at the edge outside every triangle
    if image.dtype.kind in "iu":
        # Halves are common between known pixels; float32, as in the published code, takes float64's noise off them.
        values = np.rint(values.astype(np.float32))
    return values.astype(image.dtype)


def information(image: np.ndarray) -> int:
    """Bytes of an 8-bit image (H, W, C) as lossless WebP."""
    pillow = optional("PIL.Image", "pillow", "information curves")
    file = io.BytesIO()
    pillow.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(file, "webp", lossless=True, quality=100)
    return file.tell()


def _curve(sizes: np.ndarray, performance: np.ndarray, least: float, grid: np.ndarray) -> np.ndarray:
    """The curve of one image, over the grid and 1; NaN where it cannot be judged.

    Args:
        sizes, performance: of the blurred image, at each threshold, and of the original.
        least: performance on the original below which there is no curve.
        grid: fractions of the information, from 0.
    """
    if performance[-1] < least or performance[0] >= performance[-1] or sizes[0] >= sizes[-1]:
        return np.full(len(grid) + 1, np.nan)
    x, y = (np.clip((a[1:-1] - a[0]) / (a[-1] - a[0]), 0, 1) for a in (sizes, performance))
    x, y = np.concatenate([x, [0, 1]]), np.concatenate([np.maximum.accumulate(y), [0, 1]])
    order = np.argsort(x, kind="stable")
    return np.append(np.interp(grid, x[order], y[order]), 1.0)


def _as_bytes(x: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    """Images as bytes (n, H, W, C); raises ValueError where they are beyond the limits."""
    low, high = (float(v) for v in limits)
    if not low < high or x.min() < low or x.max() > high:
        raise ValueError(
            f"Expected limits=(low, high) that hold all inputs, received {limits} for inputs from {x.min():.4g} to "
            f"{x.max():.4g}. Give the input values that stand for black and white."
        )
    pixels = _channels_last(np.rint((x - low) / (high - low) * 255).astype(np.uint8))
    if pixels.shape[-1] not in (1, 3, 4):
        raise ValueError(f"Expected images of 1, 3 or 4 channels, received shape {x.shape}. Choose some channels.")
    return pixels


def _channels_first(x: np.ndarray) -> bool:
    return x.ndim == 4 and channel_axis(x.shape[1:]) == 0


def _channels_last(x: np.ndarray) -> np.ndarray:
    return x[..., None] if x.ndim == 3 else np.moveaxis(x, 1, -1) if _channels_first(x) else x


def _performance(probe: Probe, inputs: np.ndarray, row: int, kind: str) -> np.ndarray:
    rows = np.full(len(inputs), row)
    if kind == "softmax":
        outputs = probe.predict([inputs], rows)[:, 0]
        if not ((outputs >= 0) & (outputs <= 1)).all():
            raise ValueError(
                f'Expected probabilities for kind="softmax", received F from {outputs.min():.4g} to '
                f"{outputs.max():.4g}. Give an explainer whose output is a probability; the explanation may be of the "
                "logits."
            )
        return outputs
    classes = probe.explainer.predict(probe.pack([inputs]), "all", probe.fixed)
    if classes.shape[1] < 2 or not isinstance(probe.target, (int, np.integer, np.ndarray)):
        raise ValueError(
            f'Expected a class of several for kind="accuracy", received target {probe.target!r} of '
            f'{classes.shape[1]} output units. Give the class, one for each row, or "predicted".'
        )
    target = np.broadcast_to(probe.target, probe.rows)[row] % classes.shape[1]
    return (classes.argmax(1) == target).astype(np.float64)
