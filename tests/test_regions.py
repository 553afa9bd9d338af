"""XRAI against the algorithm as it is published, pixel by pixel and mask by mask, and what regions must add up to."""

import sys

import keras
import numpy as np
import pytest
from conftest import close
from hypothesis import given, settings
from hypothesis import strategies as st

import aumann
from aumann.explanation import Explanation
from aumann.features.nested import rebuild, walk
from aumann.transforms.regions import segments, xrai

QUICK = settings(deadline=None, max_examples=40)


def build(values, inputs=None, several=False, names=None):
    """An explanation that is complete."""
    first = next(walk(values))[1]
    lead = first.shape[: 1 + several]
    total = sum(v.sum(tuple(range(len(lead), v.ndim)), dtype=float) for _, v in walk(values))
    if inputs is None:
        inputs = rebuild(values, (v[:, 0] if several else v for _, v in walk(values)))
    zero = np.zeros(lead)
    return Explanation(
        values=values,
        inputs=inputs,
        prediction=total,
        base_value=zero,
        residual=zero,
        evaluations=np.ones(len(first), int),
        names=names or {},
    )


def published(attribution, masks, least, fast):
    """Densities and ranks as the paper and its authors' code define them, one pixel at a time."""
    h, w = attribution.shape
    pixels = [(i, j) for i in range(h) for j in range(w)]
    left = [{p for p in pixels if mask[p]} for mask in masks]
    covered, found = set(), []

    def density(region):
        return np.mean([attribution[p] for p in sorted(region)]) if region else -np.inf

    if fast:
        for segment in sorted(left, key=lambda s: -density(s)):
            if len(segment - covered) >= least:
                found.append(segment - covered)
                covered |= segment
    else:
        while True:
            left = [s for s in left if len(s - covered) >= least]
            if not left:
                break
            best = max(left, key=lambda s: density(s - covered))
            found.append(best - covered)
            covered |= best
    found.sort(key=lambda s: -density(s))
    if set(pixels) - covered:
        found.append(set(pixels) - covered)
    densities, ranks = np.empty((h, w)), np.empty((h, w), int)
    for rank, region in enumerate(found):
        for p in region:
            densities[p], ranks[p] = density(region), rank + 1
    return densities, ranks


@QUICK
@given(st.integers(0, 10_000), st.integers(1, 12), st.integers(1, 5), st.booleans())
def test_regions_are_those_of_the_published_algorithm(seed, count, least, fast):
    rng = np.random.default_rng(seed)
    phi = rng.normal(size=(2, 5, 6))
    masks = rng.random((count, 5, 6)) < rng.random((count, 1, 1))
    found = xrai(build(phi), masks, fast=fast, least=least / 30)
    for i in range(2):
        densities, ranks = published(phi[i], masks, least, fast)
        np.testing.assert_allclose(found.explanation.values[i], densities, atol=1e-12)
        np.testing.assert_array_equal(found.ranks[i], ranks)


def test_ordering_once_and_anew_differ_where_segments_overlap():
    phi = np.array([[[9.0, 9, 1, 0], [0, 0, 5, 0]]])
    columns = np.zeros((3, 2, 4), bool)
    columns[0, 0, :2] = True  # mean 9
    columns[1, 0, :3] = True  # mean 19/3, but 1 once the first is taken
    columns[2, 1, 2] = True  # mean 5
    each, once = (xrai(build(phi), columns, fast=fast, least=0) for fast in (False, True))
    expected = [[[9, 9, 1, 0], [0, 0, 5, 0]]]
    np.testing.assert_array_equal(each.explanation.values, expected)
    np.testing.assert_array_equal(once.explanation.values, expected)
    np.testing.assert_array_equal(each.ranks, [[[1, 1, 3, 4], [4, 4, 2, 4]]])
    pair = columns[:2] | columns[2]  # overlapping: all of both, 23/3 and 24/4
    np.testing.assert_array_equal(xrai(build(phi), pair, least=0).ranks, [[[1, 1, 2, 3], [3, 3, 1, 3]]])
    # Two segments whose order turns over once a third is taken.
    phi = np.array([[[8.0, 0, 7, 3, 3]]])
    masks = np.array([[[1, 0, 0, 0, 0]], [[1, 1, 0, 0, 0]], [[0, 0, 0, 1, 1]]], bool)
    np.testing.assert_array_equal(xrai(build(phi), masks, least=0).explanation.values, [[[8, 0, 7, 3, 3]]])
    masks = np.array([[[1, 0, 0, 0, 0]], [[1, 1, 1, 0, 0]], [[0, 0, 1, 1, 1]]], bool)
    each, once = (xrai(build(phi), masks, fast=fast, least=0) for fast in (False, True))
    third = 13 / 3
    np.testing.assert_allclose(each.explanation.values, [[[8, 0, third, third, third]]])
    np.testing.assert_allclose(once.explanation.values, [[[8, 3.5, 3.5, 3, 3]]])


def rectangles():
    """A grey picture with a bright and a dark rectangle, and their masks."""
    image = np.full((1, 48, 60, 1), 0.5, np.float32)
    bright, dark = np.zeros((2, 48, 60), bool)
    bright[8:24, 6:26], dark[20:42, 36:54] = True, True
    image[0, bright], image[0, dark] = 1.0, 0.0
    return image, bright, dark


def test_the_rectangle_that_a_model_looks_at_comes_first():
    image, bright, dark = rectangles()
    model = keras.Sequential([keras.layers.Input((48, 60, 1)), keras.layers.Flatten(), keras.layers.Dense(1)])
    black, white = np.zeros_like(image[0]), np.ones_like(image[0])
    ends = aumann.baselines.weighted(np.stack([black, white]))
    explainer = aumann.IntegratedGradients(model, rule=aumann.midpoint(1))
    for seen, sign in ((bright, 1.0), (dark, -1.0)):
        model.set_weights([sign * seen.reshape(-1, 1).astype("float32"), np.zeros(1, "float32")])
        e = explainer.explain(image, baseline=ends)
        found = xrai(e)
        first = found.ranks[0] == 1
        assert (first & seen).sum() > 0.95 * seen.sum()
        assert first.sum() < 2.5 * seen.sum()  # widened by five pixels
        other = dark if seen is bright else bright
        assert not (first & other).any()
        np.testing.assert_array_equal(found.top(first.mean())[0], first)
        # Without widening, and by the user's own segments, the rectangle to the pixel.
        own = xrai(e, segments(image, dilation=0, size=None))
        np.testing.assert_array_equal(own.ranks[0] == 1, seen)
        np.testing.assert_array_equal(xrai(e, bright + 2 * dark).ranks[0] == 1, seen)
        np.testing.assert_allclose(own.explanation.values[0][seen].sum(), e.values.sum(), rtol=1e-5)


@QUICK
@given(st.integers(0, 10_000), st.booleans(), st.booleans())
def test_the_map_adds_up_and_ranks_are_groups(seed, fast, several):
    rng = np.random.default_rng(seed)
    phi = rng.normal(size=(2, 3, 6, 5, 2) if several else (2, 6, 5, 2))
    e = build(phi, several=several)
    found = xrai(e, rng.integers(0, 4, (6, 5)), fast=fast, least=0.1)
    np.testing.assert_allclose(found.explanation.values.sum((-2, -1)), e.prediction, atol=1e-9)
    np.testing.assert_allclose(found.explanation.residual, 0, atol=1e-9)
    totals = e.sum(groups=found.ranks)
    assert totals.names["features"] == [str(k + 1) for k in range(found.ranks.max())]
    for k in range(found.ranks.max()):
        inside = found.ranks == k + 1
        np.testing.assert_allclose((phi.sum(-1) * inside).sum((-2, -1)), totals.values[..., k], atol=1e-9)
        means = np.broadcast_to(totals.values[..., k, None, None], phi.shape[:-1])[inside]
        sizes = np.broadcast_to(inside.sum((-2, -1), keepdims=True), inside.shape)[inside]
        np.testing.assert_allclose(found.explanation.values[inside], means / sizes, atol=1e-9)


@QUICK
@given(st.integers(0, 10_000), st.booleans())
def test_where_segments_cover_the_image_a_better_rank_is_denser(seed, fast):
    rng = np.random.default_rng(seed)
    masks = rng.random((7, 6, 5)) < 0.4
    masks[0] |= ~masks.any(0)
    found = xrai(build(rng.normal(size=(1, 6, 5))), masks, fast=fast, least=0)
    by_rank = found.explanation.values.ravel()[found.ranks.ravel().argsort(kind="stable")]
    assert (np.diff(by_rank) <= 1e-12).all()


def test_rows_and_targets_are_ordered_one_by_one():
    rng = np.random.default_rng(1)
    phi, labels = rng.normal(size=(3, 2, 8, 7)), rng.integers(0, 5, (3, 8, 7))
    together = xrai(build(phi, several=True), labels)
    for i in range(3):
        for k in range(2):
            alone = xrai(build(phi[i : i + 1, k]), labels[i])
            np.testing.assert_array_equal(together.ranks[i, k], alone.ranks[0])
            np.testing.assert_array_equal(together.explanation.values[i, k], alone.explanation.values[0])


def test_labels_masks_and_lists_say_the_same():
    rng = np.random.default_rng(2)
    phi, labels = rng.normal(size=(2, 6, 7)), rng.integers(-1, 3, (2, 6, 7))
    masks = np.stack([labels == k for k in range(-1, 3)], 1)
    e = build(phi)
    expected = xrai(e, labels).ranks
    for same in (masks, list(masks), [masks[0], masks[1][::-1]]):
        np.testing.assert_array_equal(xrai(e, same).ranks, expected)
    shared = xrai(e, labels[0]).ranks
    for same in (masks[0], list(masks[0]), masks[0][None].repeat(2, 0)):
        np.testing.assert_array_equal(xrai(e, same).ranks, shared)
    assert (shared[1] != expected[1]).any()


def test_channels_stand_where_they_stand_and_are_added_or_the_largest_is_taken():
    rng = np.random.default_rng(3)
    phi, labels = rng.normal(size=(2, 6, 7, 3)), rng.integers(0, 4, (6, 7))
    e = build(phi, names={"features": [str(i) for i in range(6)]})
    last, first = xrai(e, labels), xrai(build(np.moveaxis(phi, -1, 1)), labels)
    np.testing.assert_array_equal(first.explanation.values, last.explanation.values)
    assert last.explanation.names["features"] == e.names["features"]
    np.testing.assert_array_equal(xrai(e.sum(axis=-1), labels).ranks, last.ranks)
    largest = xrai(e, labels, channels="max").explanation
    np.testing.assert_allclose(largest.values.sum((1, 2)), phi.max(-1).sum((1, 2)))
    np.testing.assert_allclose(largest.residual, phi.max(-1).sum((1, 2)) - e.prediction)


def test_of_several_inputs_the_image_alone_is_cut():
    rng = np.random.default_rng(4)
    values = {"age": rng.normal(size=(2, 3)), "image": rng.normal(size=(2, 6, 7, 3)).astype("float32")}
    e = build(values)
    found = xrai(e, rng.integers(0, 4, (6, 7)))
    assert found.explanation.values["age"].tobytes() == e.values["age"].tobytes()
    assert found.explanation.values["image"].dtype == np.float32
    close(found.explanation.residual, np.zeros(2), scale=1.0)
    two = build({"left": values["image"], "right": 2 * values["image"][..., ::-1, :]})
    labels = rng.integers(0, 4, (6, 7))
    right = xrai(two, labels, input="right")
    np.testing.assert_array_equal(right.ranks, xrai(build(two.values["right"]), labels).ranks)
    assert right.explanation.provenance["regions"]["method"] == "XRAI"


def test_least_leaves_out_segments_that_add_little():
    phi = np.zeros((1, 4, 5))
    phi[0, 0, 0], phi[0, 1:, :] = 9, 1
    labels = np.zeros((4, 5), int)
    labels[0, 0] = 1
    assert xrai(build(phi), labels, least=0).ranks.max() == 2
    small = xrai(build(phi), labels, least=0.1)
    np.testing.assert_array_equal(small.ranks == 2, labels[None] == 1)  # left over, so last however dense


def test_top_takes_whole_regions_until_the_area_is_covered():
    labels = np.repeat([[0, 1, 2, 3]], 4, 0)
    found = xrai(build(np.array([[[4.0, 3, 2, 1]] * 4])), labels)
    for area, columns in ((0.01, 1), (0.25, 1), (0.26, 2), (0.75, 3), (1, 4)):
        np.testing.assert_array_equal(found.top(area)[0], labels < columns)


def test_segments_cover_the_image_and_are_widened_by_the_radius():
    rng = np.random.default_rng(5)
    image = np.kron(rng.random((1, 4, 5, 3)), np.ones((1, 9, 8, 1)))
    options = {"scales": (1, 30), "min_size": 20, "size": None}
    (bare,), (wide,) = (segments(image, dilation=d, **options) for d in (0, 3))
    assert (bare.sum(0) == 2).all()  # once for each scale
    y, x = np.mgrid[:36, :40]
    for narrow, mask in zip(bare, wide, strict=True):
        near = min_distance(narrow, y, x) <= 3
        np.testing.assert_array_equal(mask, near)
    moved = segments(np.moveaxis(image, -1, 1), dilation=0, **options)[0]
    np.testing.assert_array_equal(moved, bare)
    assert segments(image[..., 0], **options)[0].shape[1:] == (36, 40)
    (flat,) = segments(np.ones((1, 9, 9)))  # nothing to cut, at six scales
    assert flat.shape == (6, 9, 9) and flat.all()


def test_every_choice_of_how_to_cut_changes_the_segments():
    rng = np.random.default_rng(5)
    blocks = np.kron(np.arange(20).reshape(4, 5), np.ones((9, 8), int))
    image = rng.random((20, 3))[blocks][None]
    sharp = {"scales": (1,), "sigma": 0.01, "min_size": 5, "size": None, "dilation": 0}
    (found,) = segments(image, **sharp)
    np.testing.assert_array_equal(found, blocks == np.arange(20)[:, None, None])  # the blocks, in order
    others = [{"scales": (30_000,)}, {"sigma": 4}, {"min_size": 100}, {"size": 80}, {"dilation": 2}]
    for other in others:
        (changed,) = segments(image, **{**sharp, **other})
        assert changed.shape != found.shape or (changed != found).any(), other
        assert changed.shape[1:] == (36, 40) and changed.any(0).all()
    np.testing.assert_array_equal(segments(5 - 2 * image, **sharp)[0], found)  # stretched to [-1, 1] first


def min_distance(mask, y, x):
    """Distance of every pixel to the nearest of a mask."""
    places = np.argwhere(mask)
    return np.sqrt(((np.stack([y, x], -1)[:, :, None] - places) ** 2).sum(-1)).min(-1)


def test_without_scikit_image_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage.segmentation", None)
    with pytest.raises(ImportError, match=r"aumann\[regions\]"):
        xrai(build(np.ones((1, 6, 7))))
    assert xrai(build(np.ones((1, 6, 7))), np.ones((6, 7), int)).ranks.max() == 1


IMAGE = build(np.ones((2, 6, 7, 3)))
LABELS = np.zeros((6, 7), int)
REFUSED = {
    "unknown channels": lambda: xrai(IMAGE, LABELS, channels="mean"),
    "least above 1": lambda: xrai(IMAGE, LABELS, least=50),
    "no image": lambda: xrai(build(np.ones((2, 3)))),
    "no such input": lambda: xrai(IMAGE, LABELS, input="image"),
    "two images": lambda: xrai(build([np.ones((2, 6, 7)), np.ones((2, 6, 7))]), LABELS),
    "labels of another shape": lambda: xrai(IMAGE, LABELS.T),
    "labels of other rows": lambda: xrai(IMAGE, np.zeros((3, 6, 7), int)),
    "labels that are floats": lambda: xrai(IMAGE, LABELS / 2),
    "masks of other rows": lambda: xrai(IMAGE, [np.ones((1, 6, 7), bool)]),
    "no masks": lambda: xrai(IMAGE, np.ones((0, 6, 7), bool)),
    "NaN": lambda: xrai(build(np.full((2, 6, 7), np.nan)), LABELS),
    "layer values": lambda: xrai(build(np.ones((2, 3, 3, 8)), inputs=np.ones((2, 6, 6, 3)))),
    "no area": lambda: xrai(IMAGE, LABELS).top(0),
    "more than all": lambda: xrai(IMAGE, LABELS).top(20),
    "one image without rows": lambda: segments(np.ones((6, 7))),
}


@pytest.mark.parametrize("attempt", REFUSED.values(), ids=REFUSED)
def test_refusals_say_what_was_expected_what_came_and_what_to_do(attempt):
    with pytest.raises((ValueError, TypeError), match=r"(?s)^Expected .+(received|;) .+\. [A-Z].+\.$"):
        attempt()
