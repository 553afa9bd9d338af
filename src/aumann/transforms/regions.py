"""Regions: the segments of an image in the order of their attribution per pixel (XRAI).

The values of any method are added up, at no further gradients. Pixels that lie in the same segments are one *atom*;
regions are unions of atoms, and all sums are taken over atoms.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from aumann.arguments import choice, number
from aumann.explanation import Explanation, with_values
from aumann.features.axes import channel_axis
from aumann.features.nested import input_path, leaf_at, with_entry

SCALES = (50, 100, 150, 250, 500, 1200)
CHANNELS: dict[str, Callable] = {"sum": np.sum, "max": np.max}


@dataclasses.dataclass(frozen=True, eq=False)
class Regions:
    """The regions of n images, for one target or several; see `xrai`.

    Attributes:
        explanation: the explanation with, for the image, values (n[, targets], H, W): each pixel has its region's mean
            attribution, so that a region's pixels add up to the region's attribution.
        ranks: int (n[, targets], H, W), the region of every pixel: 1 has the largest mean attribution; the pixels that
            no region took come last. As labels, `explanation.sum(groups=ranks)` gives the regions' totals.
    """

    explanation: Explanation
    ranks: np.ndarray

    def top(self, area: float) -> np.ndarray:
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


def xrai(
    explanation: Explanation,
    segments: Any = None,
    *,
    input: str | None = None,
    channels: str = "sum",
    fast: bool = False,
    least: float = 0.001,
) -> Regions:
    """Orders segments of images by the density of attribution that they add (XRAI).

    Segments may overlap. The one whose pixels hold the largest mean attribution becomes the first region. From then on
    only pixels count that are in no region yet, and so forth until no segment adds enough of them. The pixels that are
    left are one last region. The paper explains from a black and a white image: give
    `baseline=aumann.baselines.weighted([black, white])` to the method.

    Args:
        explanation: an `aumann.Explanation` by any method, whose values at the image are (n[, targets], H, W, C),
            (n[, targets], C, H, W) or, already added up over channels, (n[, targets], H, W).
        segments: None for `segments` of the images; integer labels (H, W), or (n, H, W), one map for each image;
            boolean masks (k, H, W), or (n, k, H, W), or a list of n arrays (kᵢ, H, W).
        input: the image's name where there are several inputs; the only one of image shape if None.
        channels: "sum" gives a pixel the sum of its channels, so that the map adds up to the image's attribution;
            "max" the largest of them, as the authors' package does; the residual then says how much that leaves out.
        fast: True puts the segments in order once, by all of their pixels, instead of anew for each region.
        least: fraction of the image that a segment must add; 0.001 is the authors' 50 pixels of 224 × 224.

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
    names, lead = explanation.names, explanation.prediction.ndim
    mirrors = explanation.inputs, names.get("features"), names.get("axes")
    values, images, features, axes = leaf_at(path, explanation.values, *mirrors)
    pixels, channel = _pixel_map(values, lead, channels)
    if channel is not None:
        axes, features = [a for a in range(3) if a != channel], None if channel == 0 else features
    density, ranks = _ranked(pixels, _masks(segments, images, pixels.shape[lead:]), least, fast)
    names = {
        **names,
        "features": with_entry(explanation.values, names.get("features"), path, features),
        "axes": with_entry(explanation.values, names.get("axes"), path, axes),
    }
    regions = {"method": "XRAI", "segments": "felzenszwalb" if segments is None else "given", "channels": channels}
    provenance = {**explanation.provenance, "regions": {**regions, "fast": bool(fast), "least": float(least)}}
    if channels != "sum":
        provenance["complete"] = False
    new_values = with_entry(explanation.values, explanation.values, path, density.astype(values.dtype))
    return Regions(with_values(explanation, new_values, names=names, provenance=provenance), ranks)


def segments(
    images: np.ndarray,
    *,
    scales: Sequence[float] = SCALES,
    sigma: float = 0.8,
    min_size: int = 150,
    size: int | None = 224,
    dilation: float = 5,
) -> list[np.ndarray]:
    """Segments of images by Felzenszwalb's graph cuts at several scales, each widened over its edges.

    The choices are those of XRAI's authors. An image is stretched to [−1, 1] before it is cut.

    Args:
        images: (n, H, W, C), (n, C, H, W) or (n, H, W).
        scales: one set of segments for each; larger scales give larger segments.
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
    masks_of_images = []
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
        masks_of_images.append(np.stack(masks))
    return masks_of_images


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


def _pixel_map(values, lead, channels):
    """The attribution of each pixel in float64, (n[, targets], H, W), and the feature axis of the channels, or None."""
    row, pixels = values.shape[lead:], values.astype(np.float64)
    if len(row) == 2:
        return pixels, None
    channel = channel_axis(row)
    return CHANNELS[channels](pixels, axis=lead + channel), channel


def _masks(chosen, images, shape):
    """The masks of each of n images, bool (k, H, W); one array for all images where they share them.

    Args:
        chosen: as `xrai` takes `segments`.
        images: the input, with its axis of rows.
        shape: (H, W) of the values.
    """
    n = len(images)
    if chosen is None:
        if images.shape[1:3] != shape and images.shape[2:] != shape:
            raise ValueError(
                f"Expected values over the pixels of the images; received {shape} for images {images.shape[1:]}. "
                "Give segments= of the shape of the values."
            )
        return segments(images)
    if isinstance(chosen, list | tuple) and chosen and np.ndim(chosen[0]) == 3:
        of_images = [np.asarray(masks) for masks in chosen]
    else:
        array = np.asarray(chosen)
        if array.dtype.kind in "iu":
            maps = [array] * n if array.shape == shape else list(array)
            of_images = [m == np.unique(m)[:, None, None] if m.shape == shape else m for m in maps]
        else:
            of_images = list(array) if array.ndim == 4 else [array] * n
    for masks in of_images:
        if masks.dtype != bool:
            raise TypeError(
                f"Expected segments as integer labels or boolean masks; received {masks.dtype}. Compare or round first."
            )
    if len(of_images) != n or not all(m.ndim == 3 and len(m) and m.shape[1:] == shape for m in of_images):
        raise ValueError(
            f"Expected segments for {n} images of shape {shape}: labels {shape} or {(n, *shape)}, or masks "
            f"{('k', *shape)}; received {[masks.shape for masks in of_images[:8]]}. Cover whole images."
        )
    return of_images


def _ranked(pixels, masks, least, fast):
    """Mean attribution and rank, read-only, of the region of every pixel, both (n[, targets], H, W)."""
    shape = pixels.shape[-2:]
    if not np.isfinite(pixels).all():
        rows = np.flatnonzero(~np.isfinite(pixels).all(tuple(range(1, pixels.ndim))))
        raise ValueError(f"Expected finite values; received NaN or infinity in rows {rows[:10]}. Leave these rows out.")
    density, ranks = np.empty(pixels.shape), np.empty(pixels.shape, int)
    previous = None
    for i, of_image in enumerate(masks):
        if of_image is not previous:
            atom, member = _atoms(of_image)
            area, previous = np.bincount(atom).astype(np.float64), of_image
        for target in np.ndindex(pixels.shape[1:-2]):  # () where there is one target without an axis
            mass = np.bincount(atom, pixels[i, *target].ravel())
            region = _regions(member, area, mass, max(1, round(least * len(atom))), fast)
            mean = np.bincount(region, mass) / np.bincount(region, area)
            density[i, *target] = mean[region][atom].reshape(shape)
            ranks[i, *target] = 1 + region[atom].reshape(shape)
    ranks.flags.writeable = False
    return density, ranks


def _atoms(masks):
    """The atom of every pixel, (pixels,), and which atoms each mask holds, bool (k, atoms)."""
    packed = np.ascontiguousarray(np.packbits(masks.reshape(len(masks), -1), axis=0).T)
    keys = packed.view(np.dtype((np.void, packed.shape[1]))).ravel()
    _, first, atom = np.unique(keys, return_index=True, return_inverse=True)
    return atom, masks.reshape(len(masks), -1)[:, first]


def _regions(member, area, mass, least, fast):
    """The region of every atom, numbered from 0 by falling density; atoms in no region come last.

    Args:
        member: bool (k, atoms), which atoms each segment holds.
        area, mass: (atoms,), pixels and attribution of each.
        least: pixels that a segment must add.
        fast: order the segments once.
    """
    holds = np.ascontiguousarray(member.T, np.float64)
    areas, sums = area @ holds, mass @ holds
    free, taken = np.ones(len(area), bool), np.full(len(area), -1)
    gains: list[float] = []  # the density of each region
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
    rank = np.empty(len(gains) + 1, int)
    rank[np.argsort(-np.array(gains), kind="stable")] = np.arange(len(gains))
    rank[-1] = len(gains)
    return rank[taken]
