"""Regions: the segments of an image in the order of how much attribution they hold per pixel (XRAI).

What is added up is whatever method's values an explanation holds, so that no gradient is spent here. Pixels that lie in
the same segments are one *atom*; regions are unions of atoms, and all sums are taken over atoms.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from aumann.arguments import choice, number
from aumann.explanation import Explanation, channel_axis, input_path, rebuild, walk

SCALES = (50, 100, 150, 250, 500, 1200)
CHANNELS = {"sum": np.sum, "max": np.max}


@dataclasses.dataclass(frozen=True, eq=False)
class Regions:
    """The regions of n images, for one target or several; see `xrai`.

    Attributes:
        explanation: the explanation with, for the image, values (n[, targets], H, W): each pixel has its region's mean
            attribution, so that a region's pixels add up to what the region is worth.
        ranks: int (n[, targets], H, W), the region of every pixel: 1 has the largest mean attribution; the pixels that
            no region took come last. As labels, `explanation.sum(groups=ranks)` gives the regions' totals.
    """

    explanation: Explanation
    ranks: np.ndarray

    def top(self, area) -> np.ndarray:
        """Returns a mask (n[, targets], H, W): the first regions that cover at least this fraction of the image.

        Args:
            area: fraction of the pixels, in (0, 1].

        Raises:
            ValueError: a fraction outside of that.
        """
        area = number(area, "(0, 1]", "a fraction of the pixels", 0.2)
        flat = self.ranks.reshape(*self.ranks.shape[:-2], -1)
        needed = math.ceil(round(area * flat.shape[-1], 9))
        last = np.sort(flat, axis=-1)[..., needed - 1]
        return self.ranks <= last[..., None, None]


def xrai(explanation, segments=None, *, input=None, channels="sum", fast=False, least=0.001) -> Regions:
    """Orders segments of images by the density of attribution that they add (XRAI).

    Segments may overlap. The one whose pixels hold the largest mean attribution becomes the first region; of the
    others, only pixels that no region has count from then on, and so forth until no segment adds enough of them. What
    is left over is one last region. The paper explains from a black and a white image: give
    `baseline=aumann.baselines.weighted([black, white])` to the method.

    Args:
        explanation: an `aumann.Explanation` by any method, whose values at the image are (n[, targets], H, W, C),
            (n[, targets], C, H, W) or, already added up over channels, (n[, targets], H, W).
        segments: None for `segments` of the images; integer labels (H, W), or (n, H, W) for each image its own; boolean
            masks (k, H, W), or (n, k, H, W), or a list of n arrays (kᵢ, H, W).
        input: the image's name where there are several inputs; the only one of image shape if None.
        channels: "sum" gives a pixel the sum of its channels, so that the map adds up to what the image is worth;
            "max" their largest, as the authors' package does, and the residual of the map tells what that leaves.
        fast: True puts the segments in order once, by all of their pixels, instead of anew for each region.
        least: fraction of the image that a segment must add; 0.001 are the 50 pixels of 224 × 224 of the authors.

    Returns:
        `Regions`. Cost: no gradients; k·A operations for k segments that cut an image into A atoms.

    Raises:
        ValueError: values that are not finite or no image, segments of another shape, or an unknown choice.
        TypeError: segments that are neither integers nor booleans.

    Source: Kapishnikov, Bolukbasi, Viégas, Terry (2019), XRAI: Better Attributions Through Regions.
    """
    choice(channels, CHANNELS, "channels")
    least = number(least, "[0, 1)", "least as a fraction of the image", 0.001)
    path = input_path(explanation, input, lambda row: len(row) in (2, 3), "an image")
    lead, names = explanation.prediction.shape, explanation.names.get("features")
    values, features, axes = [], [], []
    mirrors = explanation.inputs, names, explanation.names.get("axes")
    for where, value, data, named, own in walk(explanation.values, *mirrors):
        if where == path:
            row = value.shape[len(lead) :]
            first = len(row) == 3 and channel_axis(row) == 0
            pixels = value.astype(np.float64)
            if len(row) == 3:
                pixels = CHANNELS[channels](pixels, axis=len(lead) + (0 if first else 2))
                own = [1, 2] if first else [0, 1]
            masks = _masks(segments, data, pixels.shape[len(lead) :])
            density, ranks = _ranked(pixels, masks, least, fast)
            value, named = density.astype(value.dtype), None if first else named
        values.append(value)
        features.append(named)
        axes.append(own)
    told = {"segments": "felzenszwalb" if segments is None else "given", "channels": channels, "fast": bool(fast)}
    ordered = dataclasses.replace(
        explanation,
        values=rebuild(explanation.values, values),
        residual=sum(v.sum(tuple(range(len(lead), v.ndim)), dtype=np.float64) for v in values)
        - (explanation.prediction - explanation.base_value),
        names={
            **explanation.names,
            "features": rebuild(explanation.values, features),
            "axes": rebuild(explanation.values, axes),
        },
        provenance={
            **explanation.provenance,
            "regions": {"method": "XRAI", **told, "least": float(least)},
            **({} if channels == "sum" else {"complete": False}),
        },
    )
    ranks.flags.writeable = False
    return Regions(ordered, ranks)


def segments(images, *, scales=SCALES, sigma=0.8, min_size=150, size=224, dilation=5) -> list[np.ndarray]:
    """Segments of images by Felzenszwalb's graph cuts at several scales, each widened over its edges.

    The choices are those of XRAI's authors. An image is stretched to [−1, 1] before it is cut.

    Args:
        images: (n, H, W, C), (n, C, H, W) or (n, H, W).
        scales: one set of segments for each; the larger, the larger the segments.
        sigma: width in pixels of the Gaussian that smoothes an image first.
        min_size: pixels of the smallest segment.
        size: side in pixels to which an image is resized to be cut, so that `scales` mean the same for all images;
            None cuts it as it is.
        dilation: radius in pixels of the image by which segments are widened.

    Returns:
        For each image its masks, bool (k, H, W). They overlap, and together cover the image once for each scale.

    Raises:
        ValueError: no images. ImportError: scikit-image is not installed.
    """
    images = np.asarray(images, np.float64)
    if images.ndim not in (3, 4):
        raise ValueError(
            f"Expected images (n, H, W, C) or (n, H, W); received shape {images.shape}. Add the axis of rows."
        )
    if images.ndim == 3:
        images = images[..., None]
    elif channel_axis(images.shape[1:]) == 0:
        images = np.moveaxis(images, 1, -1)
    try:
        from skimage.segmentation import felzenszwalb
        from skimage.transform import resize
    except ImportError as problem:
        raise ImportError(
            "Segments need scikit-image. Install aumann[regions], or give segments= of your own."
        ) from problem
    found = []
    for image in images:
        low, high = image.min(), image.max()
        stretched = 2 * (image - low) / ((high - low) or 1) - 1
        if size is not None:
            stretched = resize(stretched, (size, size), order=3, mode="constant", anti_aliasing=True)
        masks = []
        for scale in scales:
            labels = felzenszwalb(stretched, scale=scale, sigma=sigma, min_size=min_size)
            if size is not None:
                labels = resize(labels, image.shape[:2], order=0, preserve_range=True, anti_aliasing=False).astype(int)
            masks += _widened(labels, dilation)
        found.append(np.stack(masks))
    return found


def _widened(labels, radius):
    """Masks of the segments of one map, each with all pixels within the radius."""
    from scipy.ndimage import find_objects
    from skimage.morphology import isotropic_dilation

    around, masks = math.ceil(radius), []
    for label, box in enumerate(find_objects(labels + 1)):
        if box is None:  # lost in resizing
            continue
        box = tuple(slice(max(side.start - around, 0), side.stop + around) for side in box)
        mask = np.zeros(labels.shape, bool)
        mask[box] = isotropic_dilation(labels[box] == label, radius)
        masks.append(mask)
    return masks


def _masks(given, images, shape):
    """For each of n images its masks, bool (k, H, W); the same array for all where they share them."""
    n = len(images)
    if given is None:
        if images.shape[1:3] != shape and images.shape[2:] != shape:
            raise ValueError(
                f"Expected values over the pixels of the images; received {shape} for images {images.shape[1:]}. "
                "Give segments= of the shape of the values."
            )
        return segments(images)
    if isinstance(given, list | tuple) and given and np.ndim(given[0]) == 3:
        each = [np.asarray(masks) for masks in given]
    else:
        array = np.asarray(given)
        if array.dtype.kind in "iu":
            each = [array] * n if array.shape == shape else list(array)
            each = [labels == np.unique(labels)[:, None, None] if labels.shape == shape else labels for labels in each]
        else:
            each = list(array) if array.ndim == 4 else [array] * n
    for masks in each:
        if masks.dtype != bool:
            raise TypeError(
                f"Expected segments as integer labels or boolean masks; received {masks.dtype}. Compare or round first."
            )
    if len(each) != n or not all(masks.ndim == 3 and len(masks) and masks.shape[1:] == shape for masks in each):
        raise ValueError(
            f"Expected segments for {n} images of shape {shape}: labels {shape} or {(n, *shape)}, or masks "
            f"{('k', *shape)}; received {[masks.shape for masks in each[:8]]}. Cover whole images."
        )
    return each


def _ranked(pixels, masks, least, fast):
    """Mean attribution and rank of the region of every pixel, both (n[, targets], H, W)."""
    shape = pixels.shape[-2:]
    if not np.isfinite(pixels).all():
        rows = np.flatnonzero(~np.isfinite(pixels).all(tuple(range(1, pixels.ndim))))
        raise ValueError(f"Expected finite values; received NaN or infinity in rows {rows[:10]}. Leave these rows out.")
    density, ranks = np.empty(pixels.shape), np.empty(pixels.shape, int)
    known = None
    for i, own in enumerate(masks):
        if own is not known:
            atom, member = _atoms(own)
            area, known = np.bincount(atom).astype(np.float64), own
        for at in np.ndindex(pixels.shape[1:-2]):
            mass = np.bincount(atom, pixels[i, *at].ravel())
            region = _regions(member, area, mass, max(1, round(least * len(atom))), fast)
            mean = np.bincount(region, mass) / np.bincount(region, area)
            density[i, *at] = mean[region][atom].reshape(shape)
            ranks[i, *at] = 1 + region[atom].reshape(shape)
    return density, ranks


def _atoms(masks):
    """The atom of every pixel, (pixels,), and which atoms each mask holds, bool (k, atoms)."""
    packed = np.ascontiguousarray(np.packbits(masks.reshape(len(masks), -1), axis=0).T)
    keys = packed.view(np.dtype((np.void, packed.shape[1]))).ravel()
    _, first, atom = np.unique(keys, return_index=True, return_inverse=True)
    return atom, masks.reshape(len(masks), -1)[:, first]


def _regions(member, area, mass, least, fast):
    """The region of every atom, numbered from 0 by falling density; the atoms that none took come last.

    Args:
        member: bool (k, atoms), which atoms each segment holds.
        area, mass: (atoms,), pixels and attribution of each.
        least: pixels that a segment must add.
        fast: order the segments once.
    """
    holds = np.ascontiguousarray(member.T, np.float64)
    areas, sums = area @ holds, mass @ holds
    free, taken, gains = np.ones(len(area), bool), np.full(len(area), -1), []
    order = iter(np.argsort(-sums / np.maximum(areas, 1), kind="stable"))
    while True:
        open_ = areas >= least
        if not open_.any():
            break
        if fast:
            best = next(segment for segment in order if open_[segment])
        else:
            best = np.argmax(np.where(open_, sums / np.maximum(areas, 1), -np.inf))
        new = member[best] & free
        taken[new] = len(gains)
        gains.append(mass[new].sum() / area[new].sum())
        free &= ~new
        areas -= area[new] @ holds[new]
        sums -= mass[new] @ holds[new]
    place = np.empty(len(gains) + 1, int)
    place[np.argsort(-np.array(gains), kind="stable")] = np.arange(len(gains))
    place[-1] = len(gains)
    return place[taken]
