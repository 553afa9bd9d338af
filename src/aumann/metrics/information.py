"""F against the information in an image: performance information curves."""

import io

import numpy as np

from aumann.arguments import choice
from aumann.explanation import channel_axis
from aumann.metrics.perturbation import generator
from aumann.metrics.probe import Probe
from aumann.metrics.removal import Curve
from aumann.metrics.values_alone import checked_by, optional

THRESHOLDS = (0.005, 0.01, 0.02, 0.03, 0.04, 0.05, 0.07, 0.10, 0.13, 0.21, 0.34, 0.5, 0.75)


def information_curve(
    explainer,
    explanation,
    target=None,
    *,
    by,
    kind="softmax",
    limits=(0.0, 255.0),
    thresholds=THRESHOLDS,
    known=0.01,
    least=0.8,
    points=1000,
    seed=0,
):
    """F as the most important pixels of a blurred image become sharp, against the information that they bring.

    An image is interpolated from a few random pixels and, at each threshold, the pixels with the highest values. Its
    information is the size of the image as lossless WebP, its performance F; both are scaled so that the blurred
    image has 0 and the original 1, and the performance is made monotone. A large area: the pixels that matter are
    among the first. Needs scipy and Pillow. Costs 2 + len(thresholds) forward passes a row, and as many triangulations
    and compressions on the host, which take longer.

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
        seed: of the random pixels; those of a row depend on the seed and the row, not on its company.

    Returns:
        `Curve` over the fraction of the information, (n, points + 1). Rows of NaN cannot be judged: F on the original
        is below `least`, or not above that of the blurred image, or the original has no more information than that.
        `Curve.aggregate()` is the median over the others.

    Raises:
        ValueError, TypeError: an argument does not fit, or inputs lie outside the limits.
        ImportError: scipy or Pillow is missing.

    Source: Kapishnikov et al. (2019), XRAI: Better Attributions Through Regions.
    """
    checked_by(by)
    choice(kind, ("softmax", "accuracy"), "kind")
    thresholds = np.asarray(thresholds, np.float64)
    if thresholds.ndim != 1 or not ((thresholds > 0) & (thresholds < 1)).all() or (np.diff(thresholds) <= 0).any():
        raise ValueError(f"Expected ascending thresholds between 0 and 1, received {thresholds}. Sort them.")
    probe = Probe(explainer, explanation, target)
    if len(probe.inputs) != 1 or explanation.several or probe.several or probe.inputs[0].ndim not in (3, 4):
        raise ValueError(
            f"Expected one input of images and one target, received inputs of shapes {[x.shape for x in probe.inputs]} "
            f"and a prediction of shape {explanation.prediction.shape}. Explain one target at a time."
        )
    images, back = _pixels(probe.inputs[0], limits)
    scores = _channels_last(probe.at_inputs(0)[:, 0]).astype(np.float64).sum(-1)
    scores = np.abs(scores) if by == "absolute" else scores
    grid, curves = np.arange(points) / points, np.full((probe.rows, points + 1), np.nan)
    for row, image in enumerate(images):
        count = scores[row].size
        start = np.zeros(count, bool)
        start[generator(probe, row, seed).choice(count, int(count * known), replace=False)] = True
        start = start.reshape(scores[row].shape)
        masks = [start, *(start | (scores[row] >= np.quantile(scores[row], 1 - t)) for t in thresholds)]
        seen = np.stack([*(interpolated(image, mask) for mask in masks), image])
        found = _performance(probe, back(seen), row, kind)
        curve = _curve(np.array([information(x) for x in seen], np.float64), found, least, grid)
        if curve is not None:
            curves[row] = curve
    return Curve(np.append(grid, 1.0), curves)


def interpolated(image, mask):
    """An image (H, W, C) of which only the pixels of a mask (H, W) and its corners are known: linear between them."""
    scipy = optional("scipy.interpolate", "scipy", "information curves")
    mask = mask.copy()
    mask[[0, 0, -1, -1], [0, -1, 0, -1]] = True
    made = image.astype(np.float64)
    if mask.all():
        return image
    made[~mask] = scipy.LinearNDInterpolator(np.argwhere(mask), made[mask])(np.argwhere(~mask))
    mean = image.mean((0, 1))
    made = np.where(np.isnan(made), mean, made)  # rounding may leave a pixel at the edge outside every triangle
    whole = image.dtype.kind in "iu"
    # Halves are common between known pixels; float32, as in the published code, takes float64's noise off them.
    return (np.rint(made.astype(np.float32)) if whole else made).astype(image.dtype)


def information(image):
    """Bytes of an 8-bit image (H, W, C) as lossless WebP."""
    pillow = optional("PIL.Image", "pillow", "information curves")
    file = io.BytesIO()
    pillow.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(file, "webp", lossless=True, quality=100)
    return file.tell()


def _curve(size, found, least, grid):
    """The curve of one image from sizes and performances: of the blurred image, at the thresholds, of the original."""
    if found[-1] < least or found[0] >= found[-1] or size[0] >= size[-1]:
        return None
    x, y = (np.clip((a[1:-1] - a[0]) / (a[-1] - a[0]), 0, 1) for a in (size, found))
    x, y = np.concatenate([x, [0, 1]]), np.concatenate([np.maximum.accumulate(y), [0, 1]])
    order = np.argsort(x, kind="stable")
    return np.append(np.interp(grid, x[order], y[order]), 1.0)


def _pixels(x, limits):
    """Images as bytes (n, H, W, C), and the function that makes inputs of bytes."""
    low, high = (float(v) for v in limits)
    if not low < high or x.min() < low or x.max() > high:
        raise ValueError(
            f"Expected limits=(low, high) that hold all inputs, received {limits} for inputs from {x.min():.4g} to "
            f"{x.max():.4g}. Give the input values that stand for black and white."
        )
    pixels = _channels_last(np.rint((x - low) / (high - low) * 255).astype(np.uint8))
    if pixels.shape[-1] not in (1, 3, 4):
        raise ValueError(f"Expected images of 1, 3 or 4 channels, received shape {x.shape}. Choose some channels.")

    def back(seen):
        seen = seen[..., 0] if x.ndim == 3 else np.moveaxis(seen, -1, 1) if _first(x) else seen
        values = low + seen / 255 * (high - low)
        return values.astype(x.dtype) if x.dtype.kind == "f" else values

    return pixels, back


def _first(x):
    return x.ndim == 4 and channel_axis(x.shape[1:]) == 0


def _channels_last(x):
    return x[..., None] if x.ndim == 3 else np.moveaxis(x, 1, -1) if _first(x) else x


def _performance(probe, inputs, row, kind):
    rows = np.full(len(inputs), row)
    if kind == "softmax":
        found = probe.predict([inputs], rows)[:, 0]
        if not ((found >= 0) & (found <= 1)).all():
            raise ValueError(
                f'Expected probabilities for kind="softmax", received F from {found.min():.4g} to {found.max():.4g}. '
                "Give an explainer whose output is a probability; the explanation may be of the logits."
            )
        return found
    classes = probe.explainer.predict(probe.pack([inputs]), "all", probe.fixed)
    if classes.shape[1] < 2 or not isinstance(probe.target, (int, np.integer, np.ndarray)):
        raise ValueError(
            f'Expected a class of several for kind="accuracy", received target {probe.target!r} of '
            f'{classes.shape[1]} output units. Give the class, one for each row, or "predicted".'
        )
    wanted = np.broadcast_to(probe.target, probe.rows)[row] % classes.shape[1]
    return (classes.argmax(1) == wanted).astype(np.float64)
