"""The library of baselines: each by its definition, and through `explain` where that is what it is for.

F = Σ x² has the attributions x² − b², exact at two Gauss nodes, so values tell which baseline was taken; a set of them
gives x² − mean b². References are loops and enumerations that share no code with the library.
"""

import itertools
import pathlib
import re
import sys
from collections import Counter

import keras
import numpy as np
import pytest
from conftest import close, mlp, random_states, scatter, unchanged
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as some
from keras import layers, ops

import aumann
from aumann import baselines

QUICK = settings(deadline=None, max_examples=40, database=None)
RULE = aumann.gauss_legendre(2)
RNG = np.random.default_rng(3)
IMAGES = RNG.normal(size=(3, 6, 5, 2)).astype("float32")
TABLE = RNG.normal(size=(20, 4))
GUIDE = pathlib.Path(__file__).parents[1] / "docs" / "baselines.md"


def squares(x):
    return ops.sum(ops.reshape(x * x, (ops.shape(x)[0], -1)), axis=1)


SQUARES = aumann.IntegratedGradients(squares, rule=RULE)


def explained(x, baseline, rows):
    """Explains Σ x² and checks values, base value and count against baselines (1 | n, m, *row) of equal weight."""
    e = SQUARES.explain(x, baseline=baseline)
    rows = np.broadcast_to(rows, (len(x), *np.shape(rows)[1:])).astype("float64")
    power = np.asarray(x, "float64")[:, None] ** 2 - rows**2
    scale = max(np.square(rows).max(), np.abs(np.asarray(x, "float64")).max() ** 2, 1)
    close(e.values, power.mean(1), scale=scale)
    close(e.base_value, np.square(rows).sum(tuple(range(2, rows.ndim))).mean(1), scale=scale * x[0].size)
    assert e.provenance["baselines"] == rows.shape[1]
    return e


floats = st.floats(-4, 4, width=32)
DTYPES = ["float16", "float32", "float64", "uint8", "int64"]


def images(dtype=None, shape=(2, 4, 3, 2)):
    dtypes = st.sampled_from(DTYPES) if dtype is None else st.just(dtype)
    return dtypes.map(lambda d: (10 * np.random.default_rng(1).random(shape)).astype(d))


def float_of(x):
    """float32, or float64 where float32 does not hold the numbers."""
    return "float64" if x.dtype in ("float64", "int64") else "float32"


# ---- the same for every row ----------------------------------------------------------------------------------------


def test_zeros_and_constants():
    x = IMAGES
    explained(x, baselines.zeros(), np.zeros((1, 1, *x.shape[1:])))
    explained(x, baselines.constant(2), np.full((1, 1, *x.shape[1:]), 2))
    colour = np.array([0.5, -1.0])
    explained(x, baselines.constant(colour), np.broadcast_to(colour, (1, 1, *x.shape[1:])))
    explained(x, baselines.constant(colour.tolist()), np.broadcast_to(colour, (1, 1, *x.shape[1:])))
    lines = np.arange(6.0)[:, None, None]
    explained(x, baselines.constant(lines), np.broadcast_to(lines, (1, 1, *x.shape[1:])))
    assert baselines.zeros()([x, x]) == 0.0  # for all inputs at once


@QUICK
@given(some.arrays(st.sampled_from(DTYPES), (5, 2, 3), elements=st.integers(0, 200)))
def test_mean_and_median_are_floats_of_their_definition(background):
    wide = background.astype("float64")
    close(baselines.mean(background), sum(wide) / 5, "float64")
    close(baselines.median(background), np.sort(wide, axis=0)[2], "float64")
    close(baselines.median(background[:4]), np.sort(wide[:4], axis=0)[1:3].sum(0) / 2, "float64")
    assert baselines.mean(background).dtype == baselines.median(background).dtype == np.float64


def test_backgrounds_are_arrays_tensors_or_tables():
    import pandas as pd

    for given_as in (TABLE.tolist(), pd.DataFrame(TABLE), ops.convert_to_tensor(TABLE.astype("float32"))):
        close(baselines.mean(given_as), TABLE.mean(0))
        close(baselines.median(given_as), np.median(TABLE, 0))
    x = TABLE[:3].astype("float32")
    explained(x, baselines.mean(TABLE), TABLE.mean(0)[None, None])


def test_kmeans_finds_clusters_and_weighs_them():
    centres = np.array([[10.0, 0], [0, 10], [-10, -10]]).reshape(3, 2, 1)
    sizes, shake = [7, 2, 4], 0.01 * np.random.default_rng(0).normal(size=(13, 2, 1))
    background = np.repeat(centres, sizes, axis=0) + shake
    found = baselines.kmeans(background, 3)
    order = [int(np.abs(found.rows - c).sum((1, 2)).argmin()) for c in centres]
    members = np.split(background, np.cumsum(sizes)[:-1])
    close(found.rows[order], np.stack([m.mean(0) for m in members]), "float64")
    close(found.weights[order], np.array(sizes) / 13, "float64")
    # The weighted mean of the centres is that of the data, for any number of them.
    for count in (1, 2, 5, 13):
        some_centres = baselines.kmeans(TABLE[:13], count, seed=4)
        assert some_centres.rows.shape == (count, 4)
        close(some_centres.weights @ some_centres.rows, TABLE[:13].mean(0), "float64")
    one = baselines.kmeans(TABLE, 4, seed=1)
    assert (one.rows == baselines.kmeans(TABLE, 4, seed=1).rows).all()
    x = TABLE[:2].astype("float32")
    e = SQUARES.explain(x, baseline=one)
    close(e.base_value, np.full(2, one.weights @ np.square(one.rows).sum(1)))


def test_kmeans_of_rows_that_repeat_makes_no_empty_clusters(recwarn):
    found = baselines.kmeans([[0.0], [0.0], [1.0]], 3)
    close(found.rows[np.argsort(found.weights)], np.array([[1.0], [0.0]]), "float64")
    close(np.sort(found.weights), np.array([1, 2]) / 3, "float64")
    assert not recwarn.list


# ---- of each row its own -------------------------------------------------------------------------------------------


@QUICK
@given(images())
def test_channel_mean_is_the_mean_over_all_other_axes(x):
    made = baselines.channel_mean()(x)
    for i, c in itertools.product(range(2), range(2)):
        close(made[i, :, :, c], np.full((4, 3), x[i, :, :, c].astype("float64").sum() / 12))
    assert made.dtype == float_of(x)
    first = baselines.channel_mean(axis=1)(x)
    close(first[1, 2], np.full((3, 2), x[1, 2].astype("float64").mean()))


def test_channel_mean_and_blur_through_explain():
    x = IMAGES
    explained(x, baselines.channel_mean(), np.broadcast_to(x.mean((1, 2), keepdims=True), x.shape)[:, None])
    explained(x, baselines.blur(1.5), baselines.blur(1.5)(x)[:, None])
    assert np.abs(baselines.blur(1.5)(x) - baselines.blur(3)(x)).max() > 0.01


def gaussian_blur(signal, sigma):
    """Along the first axis, as written: reflected at both edges, kernel exp(−d²/2σ²) up to 4σ."""
    reach = int(4 * sigma + 0.5)
    kernel = np.exp(-(np.arange(-reach, reach + 1) ** 2) / (2 * sigma**2))
    n = len(signal)
    out = np.zeros(signal.shape)
    for i, (d, k) in itertools.product(range(n), zip(range(-reach, reach + 1), kernel / kernel.sum(), strict=True)):
        j = (i + d) % (2 * n)
        out[i] += k * signal[j if j < n else 2 * n - 1 - j]
    return out


@QUICK
@given(images(), st.floats(0.3, 3))
def test_blur_is_a_convolution_with_a_gaussian(x, sigma):
    made = baselines.blur(sigma)(x)
    wide = x.astype("float64")
    for i in range(2):
        rows_blurred = gaussian_blur(wide[i], sigma)
        close(made[i], gaussian_blur(rows_blurred.swapaxes(0, 1), sigma).swapaxes(0, 1))
    assert made.dtype == float_of(x)
    # Totals stay, so does what is constant, and channels and rows do not mix.
    close(made.sum((1, 2)), wide.sum((1, 2)))


def test_blur_along_stated_axes():
    signals = RNG.normal(size=(3, 9))
    for axes in (1, -1, [1], (-1,)):
        made = baselines.blur(2, axes=axes)(signals)
        close(made, np.stack([gaussian_blur(s, 2) for s in signals]), "float64")
    x = RNG.normal(size=(2, 2, 7, 8))  # channels first
    made = baselines.blur((0, 1.5), axes=(2, 3))(x)
    close(made, gaussian_blur(x.transpose(3, 0, 1, 2), 1.5).transpose(1, 2, 3, 0), "float64")
    close(baselines.blur([1.0, 2.0], axes=(3, 2))(x), baselines.blur([2.0, 1.0], axes=(2, 3))(x), "float64")
    close(baselines.blur(0)(IMAGES), IMAGES)


@QUICK
@given(images(), floats, st.floats(0, 4, width=32), st.booleans())
def test_farthest_is_at_an_end_and_nothing_is_farther(x, low, width, per_channel):
    ends = np.array([low, low - 1]) if per_channel else low
    made = baselines.farthest(ends, ends + width)(x)
    a = np.broadcast_to(ends, x.shape)
    wide = x.astype("float64")
    expected = [u if abs(v - u) >= abs(v - (u + width)) else u + width for v, u in zip(wide.flat, a.flat, strict=True)]
    close(np.abs(made - wide), np.abs(np.reshape(expected, x.shape) - wide))
    close(np.minimum(np.abs(made - a), np.abs(made - a - width)), np.zeros(x.shape), scale=8)
    assert made.dtype == float_of(x)


def test_farthest_of_bytes_does_not_wrap():
    x = np.array([[10, 200, 128, 127]], "uint8")
    for low, high in ((0, 255), (np.uint8(0), np.uint8(255)), (np.zeros(4, "uint8"), np.full(4, 255, "uint8"))):
        assert (baselines.farthest(low, high)(x) == [[255, 0, 0, 255]]).all()
    explained(x, baselines.farthest(0, 255), np.array([[[255, 0, 0, 255]]]))


@QUICK
@given(st.integers(0, 999), st.sampled_from([0.0, 1e8]), st.booleans())
def test_nearest_of_another_class_by_looking_at_all(seed, offset, by_function):
    rng = np.random.default_rng(seed)
    background, x = rng.normal(size=(12, 3, 2)) + offset, rng.normal(size=(4, 3, 2)) + offset
    labels, own = np.array(["a", "b", "c"])[rng.integers(0, 3, 12)], np.array(["a", "b", "c"])[rng.integers(0, 3, 4)]
    labels[:3] = "a", "b", "c"
    scale = rng.uniform(0.1, 3, size=2)
    made = baselines.nearest(background, labels, (lambda inputs: own) if by_function else own, scale=scale)(x)
    for i in range(4):
        far = [
            np.inf if label == own[i] else np.square((x[i] - b) / scale).sum()
            for b, label in zip(background, labels, strict=True)
        ]
        assert (made[i] == background[int(np.argmin(far))]).all()


def test_nearest_through_explain_with_the_classes_of_a_model():
    model = mlp()
    table = 5 * TABLE
    x = table[:6].astype("float32")

    def classes(rows):
        return ops.convert_to_numpy(model(np.asarray(rows, "float32"), training=False)).argmax(1)

    assert len(set(classes(table))) > 1
    made = baselines.nearest(table.astype("float32"), classes(table), classes)
    with unchanged(model):
        e = aumann.IntegratedGradients(model, rule=aumann.gauss_legendre(8)).explain(x, "predicted", made)
    close(e.baseline, made(x))
    assert (classes(e.baseline) != classes(x)).all()
    other = baselines.nearest(table, classes(table), classes(x), scale=[1, 1, 1, 100])(x)
    assert np.abs(other - made(x)).max() > 0.01


IDS = np.array([[101, 7, 8, 102, 0], [101, 9, 102, 0, 0]])


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint8", "float32"])
def test_token_stands_everywhere_but_where_ids_are_kept(dtype):
    ids = IDS.astype(dtype)
    assert (baselines.token(3)(ids) == np.full((2, 5), 3)).all()
    made = baselines.token(3, keep=(101, 102, 0))(ids)
    assert (made == [[101, 3, 3, 102, 0], [101, 3, 102, 0, 0]]).all() and made.dtype == np.int64
    assert (baselines.token(np.int64(3), keep=102)(ids) == [[3, 3, 3, 102, 3], [3, 3, 102, 3, 3]]).all()


def embedded(dtype="int32", **kwargs):
    """Σ over tokens of the squares of their embedding, which is known."""
    ids = layers.Input((5,), dtype=dtype)
    layer = layers.Embedding(200, 2, **kwargs)
    model = keras.Model(ids, layers.Lambda(squares)(layer(ids)))
    layer.embeddings.assign(np.random.default_rng(0).normal(size=(200, 2)))
    return model, ops.convert_to_numpy(layer.embeddings)


@pytest.mark.parametrize("dtype", ["int32", "float32"])
def test_tokens_through_explain(dtype):
    model, table = embedded(dtype)
    explainer = aumann.IntegratedGradients(model, rule=RULE)
    ids = IDS.astype(dtype)
    e = explainer.explain(ids, baseline=baselines.token(3, keep=(101, 102)))
    close(e.values, table[IDS] ** 2 - table[np.where(np.isin(IDS, (101, 102)), IDS, 3)] ** 2)
    assert not e.values[IDS == 102].any()
    pair = baselines.combine(baselines.token(3), baselines.token(5), 7, weights=[2, 1, 1])
    e = explainer.explain(ids, baseline=pair)
    close(e.values, table[IDS] ** 2 - (2 * table[3] ** 2 + table[5] ** 2 + table[7] ** 2) / 4)
    zero = explainer.explain(ids, baseline=baselines.zeros())  # of the embedding, not token 0
    close(zero.values, table[IDS] ** 2)
    drawn = explainer.explain(ids, baseline=baselines.dinucleotide_shuffle(4))
    shuffled = baselines.dinucleotide_shuffle(4)(ids).rows
    close(drawn.values, table[IDS] ** 2 - (table[shuffled] ** 2).mean(1))


# ---- drawn ---------------------------------------------------------------------------------------------------------

RANDOM = {
    "uniform": lambda samples, seed: baselines.uniform(-1, 1, samples, seed),
    "gaussian": lambda samples, seed: baselines.gaussian(0.5, samples, seed),
    "dinucleotide_shuffle": lambda samples, seed: baselines.dinucleotide_shuffle(samples, seed),
}


def rows_of(made):
    return made.rows if isinstance(made, baselines.Weighted) else made


@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("name", RANDOM)
def test_a_seed_makes_the_same_draws_and_leaves_others_alone(name, samples):
    make = RANDOM[name]
    x = np.eye(4, dtype="float32")[RNG.integers(0, 4, (5, 30))]
    before = random_states()
    made = rows_of(make(samples, 3)(x))
    assert random_states() == before
    lead = {"uniform": (samples,)}.get(name, (5, samples))
    assert made.shape == (lead if samples > 1 else lead[:-1]) + (30, 4)
    assert (made == rows_of(make(samples, 3)(x))).all()
    assert (made != rows_of(make(samples, 4)(x))).any()
    if name != "uniform":  # a row's draws are its own, whoever else is there
        assert (rows_of(make(samples, 3)(x[:2])) == made[:2]).all()
        company = np.concatenate([x[:1], x[3:4], x[2:3]])
        assert (rows_of(make(samples, 3)(company))[2] == made[2]).all()
        same = rows_of(make(samples, 3)(np.repeat(x[:1], 2, 0)))
        assert (same[0] != same[1]).any()
    if samples > 1:
        several = made if name == "uniform" else made[0]
        assert len({d.tobytes() for d in several}) == samples


def test_uniform_is_uniform_and_the_same_for_every_row():
    made = baselines.uniform([-1.0, 2.0], [1.0, 2.5], samples=4000, seed=1)(IMAGES)
    assert made.rows.shape == (4000, 6, 5, 2) and made.rows.dtype == np.float32 and made.weights is None
    share = (made.rows - [-1, 2]) / [2, 0.5]
    assert 0 <= share.min() < 1e-4 and 1 - 1e-4 < share.max() <= 1
    cells = np.stack([np.histogram(share[..., c], 10, (0, 1))[0] for c in range(2)]) / 120000
    assert np.abs(cells - 0.1).max() < 5 * np.sqrt(0.09 / 120000)
    few = baselines.uniform(-1, 1, samples=3)
    explained(IMAGES, few, few(IMAGES).rows[None])
    close(SQUARES.explain(IMAGES, baseline=few)[1:2].values, SQUARES.explain(IMAGES[1:2], baseline=few).values)
    assert baselines.uniform(0, 1)(IMAGES).shape == (6, 5, 2)
    assert baselines.uniform(0, 1)(TABLE).dtype == np.float64


def test_gaussian_is_gaussian_around_the_row():
    sigma = np.array([0.5, 2.0])
    x = np.repeat(RNG.normal(size=(1, 1, 2)), 50, 1)
    made = baselines.gaussian(sigma, samples=2000, seed=2)(x)
    assert made.rows.shape == (1, 2000, 50, 2) and made.rows.dtype == np.float64
    z = (made.rows - x[:, None]) / sigma
    for moment, expected, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert np.abs((z**moment).mean((0, 1, 2)) - expected).max() < 5 * np.sqrt(variance / 1e5)
    clipped = baselines.gaussian(sigma, 2000, 2, low=[-0.1, -1], high=1)(x).rows
    close(clipped, np.clip(made.rows, [-0.1, -1], 1), "float64")
    close(baselines.gaussian(sigma, 20, 2, high=0.3)(x).rows, np.minimum(baselines.gaussian(sigma, 20, 2)(x).rows, 0.3))
    few = baselines.gaussian(0.3, samples=3)
    explained(IMAGES, few, few(IMAGES).rows)
    explained(IMAGES, baselines.gaussian(0.3), baselines.gaussian(0.3)(IMAGES)[:, None])
    assert (
        few(IMAGES).rows.dtype == baselines.gaussian(1, low=0, high=255)(np.zeros((2, 3), "uint8")).dtype == np.float32
    )


# ---- shuffles ------------------------------------------------------------------------------------------------------


def pairs(sequence):
    return Counter(itertools.pairwise(sequence))


def orders(start, left):
    """All sequences from a letter on that use up the pairs that are left."""
    if not left.total():
        yield (start,)
    for pair in [p for p in left if p[0] == start and left[p]]:
        yield from ((start, *rest) for rest in orders(pair[1], left - Counter([pair])))


@QUICK
@given(st.lists(st.integers(0, 6), min_size=1, max_size=60), st.integers(1, 5), st.integers(0, 2**40))
def test_shuffles_keep_every_pair_and_both_ends(sequence, samples, seed):
    ids = np.array([sequence])
    made = rows_of(baselines.dinucleotide_shuffle(samples, seed)(ids)).reshape(samples, -1)
    one_hot = np.eye(8, dtype="float32")[ids]
    same = rows_of(baselines.dinucleotide_shuffle(samples, seed)(one_hot)).reshape(samples, -1, 8)
    for shuffled, hot in zip(made.tolist(), same, strict=True):
        assert pairs(shuffled) == pairs(sequence)
        assert (shuffled[0], shuffled[-1]) == (sequence[0], sequence[-1])
        assert (hot.sum(1) == 1).all() and pairs(hot.argmax(1).tolist()) == pairs(sequence)


@pytest.mark.parametrize(
    "text", ["ACGTACCA", "AACAGATAA", "ABABACAC", "ACACGCGA", "AAAABBBB", "ABCDABDCA"], ids=lambda text: text
)
def test_every_shuffle_is_equally_likely(text):
    """Pearson's statistic against all orders there are: mean k − 1, variance 2 (k − 1)."""
    ids = np.array([[ord(c) for c in text]])
    expected = set(orders(ids[0, 0], pairs(ids[0].tolist())))
    samples = 400 * max(len(expected), 2)
    made = baselines.dinucleotide_shuffle(samples, seed=11)(ids).rows[0]
    found = Counter(map(tuple, made.tolist()))
    assert set(found) == expected
    freedom = len(expected) - 1
    each = samples / len(expected)
    statistic = sum((found[w] - each) ** 2 / each for w in expected)
    assert statistic <= freedom + 4 * np.sqrt(2 * freedom)


def test_one_hot_shuffles_through_explain():
    x = np.eye(4, dtype="float32")[RNG.integers(0, 4, (3, 12))]
    made = baselines.dinucleotide_shuffle(5, seed=2)
    shuffled = made(x).rows
    assert shuffled.shape == (3, 5, 12, 4) and shuffled.dtype == np.float32
    explained(x, made, shuffled)
    explained(x, baselines.dinucleotide_shuffle(), baselines.dinucleotide_shuffle()(x)[:, None])


def test_padding_stays_and_unknown_letters_move_as_letters():
    hot = np.eye(4)[RNG.integers(0, 4, 40)]
    hot[[5, 20, 33]] = 0.25  # N as a quarter each
    hot[[6, 11, 30]] = 0  # N as zeros
    padded = np.concatenate([np.zeros((3, 4)), hot, np.zeros((7, 4))])
    made = baselines.dinucleotide_shuffle(50)(np.stack([padded, np.zeros_like(padded)])).rows
    assert not made[0, :, :3].any() and not made[0, :, -7:].any() and not made[1].any()
    moved = [tuple(map(tuple, row)) for row in made[0, :, 3:-7].tolist()]
    assert all(pairs(m) == pairs(map(tuple, hot.tolist())) for m in moved)
    assert len(set(moved)) == 50 and len({m.index((0.25,) * 4) for m in moved}) > 5
    ids = np.array([[4, 4, *RNG.integers(0, 4, 20)], [*RNG.integers(0, 4, 20), 4, 4]])  # at one end alone
    made = baselines.dinucleotide_shuffle(30)(ids).rows
    assert (made[0, :, :2] == 4).all() and (made[1, :, -2:] == 4).all()
    assert (baselines.dinucleotide_shuffle(1)(np.array([[0, 1, 2, 3]])) == [[0, 1, 2, 3]]).all()  # there is no other


# ---- several -------------------------------------------------------------------------------------------------------


def test_combined_baselines_are_averaged_with_their_weights():
    x = TABLE[:3].astype("float32")
    per_row = baselines.weighted(RNG.normal(size=(3, 2, 4)), RNG.uniform(1, 2, (3, 2)))
    parts = [0.5, TABLE.mean(0), TABLE[3:6], baselines.weighted(TABLE[:4], [1, 2, 3, 4]), per_row]
    parts += [baselines.farthest(-1, 1), baselines.gaussian(0.3, 5), baselines.uniform(0, 1, 2)]
    for weights in (None, [1, 2, 3, 4, 5, 6, 7, 8]):
        e = SQUARES.explain(x, baseline=baselines.combine(*parts, weights=weights))
        each = [SQUARES.explain(x, baseline=part) for part in parts]
        for field in ("values", "base_value"):
            close(getattr(e, field), np.average([getattr(one, field) for one in each], axis=0, weights=weights))
        assert e.provenance["baselines"] == 1 + 1 + 1 + 4 + 2 + 1 + 5 + 2
    alone = SQUARES.explain(x, baseline=baselines.combine(parts[-2]))
    close(alone.values, each[-2].values)
    nested = baselines.combine(0.0, baselines.combine(1.0, 2.0), weights=[1, 2])
    close(SQUARES.explain(x, baseline=nested).base_value, np.full(3, (0 + 4 + 16) / 3))


def test_combined_baselines_take_tensors_and_tables():
    import pandas as pd

    x = TABLE[:3].astype("float32")
    expected = SQUARES.explain(x, baseline=baselines.weighted(TABLE[:2])).values
    for first in (pd.Series(TABLE[0]), ops.convert_to_tensor(TABLE[0]), TABLE[0].tolist(), lambda x: TABLE[:1]):
        made = baselines.combine(first, TABLE[1])
        close(SQUARES.explain(pd.DataFrame(x), baseline=made).values, expected)
        close(SQUARES.explain(ops.convert_to_tensor(x), baseline=made).values, expected)


def two(inputs):
    u, v = (inputs["u"], inputs["v"]) if isinstance(inputs, dict) else inputs
    return ops.sum(u * v, axis=1)


TWO = aumann.IntegratedGradients(two, rule=RULE)
U, V = (RNG.normal(size=(4, 3)).astype("float32") for _ in range(2))


def check_two(e, u, v, weights):
    """Of Σ u v, whose values tell baselines drawn together from those drawn apart; sets (1 | n, m, 3)."""
    u, v = (np.broadcast_to(s, (4, len(weights), 3)).astype("float64") for s in (u, v))
    found = e.values if isinstance(e.values, dict) else {"u": e.values[0], "v": e.values[1]}
    close(found["u"], np.tensordot(weights, (U[:, None] - u) * (V[:, None] + v) / 2, (0, 1)))
    close(found["v"], np.tensordot(weights, (V[:, None] - v) * (U[:, None] + u) / 2, (0, 1)))
    close(e.base_value, (u * v).sum(2) @ weights)


@pytest.mark.parametrize("pack", ["list", "dict"])
def test_several_inputs(pack):
    make = {"list": lambda u, v: [u, v], "dict": lambda u, v: {"v": v, "u": u}}[pack]
    inputs = make(U, V)
    far = baselines.farthest(-1, 1)
    e = TWO.explain(inputs, baseline=make(far, baselines.mean(TABLE[:, :3])))
    check_two(e, far(U)[:, None], TABLE[:, :3].mean(0), [1.0])
    drawn = baselines.uniform(-1, 1, 3), baselines.gaussian(0.5, 3, seed=1)
    e = TWO.explain(inputs, baseline=baselines.weighted(make(*drawn)))
    check_two(e, drawn[0](U).rows, drawn[1](V).rows, [1 / 3] * 3)
    e = TWO.explain(inputs, baseline=make(drawn[0], far))
    check_two(e, drawn[0](U).rows, far(V)[:, None], [1 / 3] * 3)
    whole = baselines.combine(0.5, make(far, 2.0), baselines.weighted(make(U[:2], V[:2]), [1, 3]), weights=[2, 1, 1])
    e = TWO.explain(inputs, baseline=whole)
    ones = np.ones((4, 1, 3))
    check_two(
        e,
        np.concatenate([ones / 2, far(U)[:, None], np.broadcast_to(U[:2], (4, 2, 3))], 1),
        np.concatenate([ones / 2, 2 * ones, np.broadcast_to(V[:2], (4, 2, 3))], 1),
        [0.5, 0.25, 1 / 16, 3 / 16],
    )
    inside = make(baselines.combine(0.5, far, weights=[3, 1]), 1.0)
    e = TWO.explain(inputs, baseline=inside)
    check_two(e, np.concatenate([ones / 2, far(U)[:, None]], 1), np.ones((1, 1, 3)), [0.75, 0.25])
    still = baselines.combine(make(0.0, "fixed"), make(far, "fixed"))
    e = TWO.explain(inputs, baseline=still)
    check_two(e, np.concatenate([0 * ones, far(U)[:, None]], 1), V[:, None], [0.5, 0.5])
    assert e.provenance["fixed"] == ["v" if pack == "dict" else "input_1"]


@pytest.mark.parametrize("wrap", [lambda x: {"x": x}, lambda x: [x], lambda x: (x,)], ids=["dict", "list", "tuple"])
def test_one_input_in_a_structure(wrap):
    def inside(inputs):
        return squares(inputs["x"] if isinstance(inputs, dict) else inputs[0])

    x = TABLE[:3].astype("float32")
    explainer = aumann.IntegratedGradients(inside, rule=RULE)
    for made in (
        baselines.farthest(-1, 1),
        baselines.combine(1.0, baselines.gaussian(0.2, 2)),
        baselines.uniform(0, 1, 2),
    ):
        e = explainer.explain(wrap(x), baseline=made)
        close(
            next(iter(e.values.values() if isinstance(e.values, dict) else e.values)),
            SQUARES.explain(x, baseline=made).values,
        )


# ---- what is refused -----------------------------------------------------------------------------------------------

HOT = np.eye(4)[[0, 1, 2, 3, 0]]
LABELLED = (TABLE[:4], [0, 0, 1, 1])
EARLY = {
    "constant: text": (lambda: baselines.constant("black"), ValueError, r"finite number.*'black'"),
    "constant: NaN": (lambda: baselines.constant(np.nan), ValueError, r"finite number.*nan"),
    "mean: nothing": (lambda: baselines.mean([]), ValueError, r"rows of a background.*\(0,\)"),
    "mean: a number": (lambda: baselines.mean(3.0), ValueError, r"rows of a background.*\(\)"),
    "mean: text": (lambda: baselines.mean([["a"]]), TypeError, r"numbers for the background.*<U1"),
    "median: NaN": (lambda: baselines.median([1.0, np.nan]), ValueError, r"finite background.*Impute"),
    "kmeans: too many": (lambda: baselines.kmeans(TABLE, 21), ValueError, r"rows, 20; received count=21"),
    "kmeans: none": (lambda: baselines.kmeans(TABLE, 0), ValueError, r"count .*≥ 1, received 0"),
    "kmeans: seed": (lambda: baselines.kmeans(TABLE, 2, seed=None), ValueError, r"seed .*≥ 0, received None"),
    "blur: negative": (lambda: baselines.blur(-1), ValueError, r"sigma ≥ 0.*-1"),
    "blur: a matrix": (lambda: baselines.blur([[1]]), ValueError, r"sigma ≥ 0"),
    "farthest: order": (lambda: baselines.farthest(1, 0), ValueError, r"low ≤ high.*low=1 and high=0"),
    "farthest: infinite": (lambda: baselines.farthest(0, np.inf), ValueError, r"high to be a finite.*inf"),
    "uniform: order": (lambda: baselines.uniform([0, 2], [1, 1]), ValueError, r"low ≤ high"),
    "uniform: samples": (lambda: baselines.uniform(0, 1, 0), ValueError, r"samples .*≥ 1, received 0"),
    "uniform: a share of samples": (lambda: baselines.uniform(0, 1, 2.5), ValueError, r"samples .*2\.5"),
    "uniform: seed": (lambda: baselines.uniform(0, 1, seed=-1), ValueError, r"seed .*≥ 0, received -1"),
    "gaussian: sigma": (lambda: baselines.gaussian(-0.1), ValueError, r"sigma ≥ 0, received -0\.1"),
    "gaussian: order": (lambda: baselines.gaussian(1, low=1, high=0), ValueError, r"low ≤ high"),
    "gaussian: samples": (lambda: baselines.gaussian(1, True), ValueError, r"samples .*True"),
    "nearest: labels": (lambda: baselines.nearest(TABLE, [0, 1], [0]), ValueError, r"shape \(20,\); received \(2,\)"),
    "nearest: scale": (lambda: baselines.nearest(*LABELLED, [0], scale=0), ValueError, r"scale > 0, received 0"),
    "token: a float": (lambda: baselines.token(1.0), ValueError, r"id of a token .*received 1\.0"),
    "token: negative": (lambda: baselines.token(-1), ValueError, r"≥ 0, received -1"),
    "token: keep": (lambda: baselines.token(1, keep=["[SEP]"]), ValueError, r"id to keep .*SEP"),
    "shuffle: samples": (lambda: baselines.dinucleotide_shuffle(0), ValueError, r"samples .*≥ 1"),
    "shuffle: seed": (lambda: baselines.dinucleotide_shuffle(seed=0.5), ValueError, r"seed .*0\.5"),
    "combine: nothing": (lambda: baselines.combine(), ValueError, r"received none.*two"),
    "combine: weights": (lambda: baselines.combine(0.0, 1.0, weights=[1]), ValueError, r"each of 2.*\(1,\)"),
    "combine: negative": (lambda: baselines.combine(0.0, 1.0, weights=[1, -1]), ValueError, r"not negative"),
}  # fmt: skip


@pytest.mark.parametrize("why", EARLY)
def test_refused_when_made(why):
    make, error, message = EARLY[why]
    with pytest.raises(error, match=f"Expected .*{message}"):
        make()


LATE = {
    "constant: shape": (baselines.constant([1, 2, 3]), IMAGES, ValueError, r"row of shape \(6, 5, 2\).*\(3,\)"),
    "farthest: shape": (baselines.farthest([0, 0, 0], 1), IMAGES, ValueError, r"low that broadcasts.*\(3,\)"),
    "uniform: shape": (baselines.uniform(0, [1, 1, 1]), IMAGES, ValueError, r"high that broadcasts.*\(3,\)"),
    "gaussian: shape": (baselines.gaussian([1, 1, 1]), IMAGES, ValueError, r"sigma that broadcasts.*\(3,\)"),
    "channel_mean: features": (baselines.channel_mean(), TABLE, ValueError, r"axes besides.*\(20, 4\).*mean\(\)"),
    "channel_mean: rows": (baselines.channel_mean(0), IMAGES, ValueError, r"4 axes.*\(0,\).*1 to 3"),
    "channel_mean: axis": (baselines.channel_mean(4), IMAGES, ValueError, r"4 axes.*\(4,\)"),
    "blur: features": (baselines.blur(1), TABLE, ValueError, r"axes to blur.*\(20, 4\).*axes=1"),
    "blur: sigmas": (baselines.blur([1, 2, 3]), IMAGES, ValueError, r"axes to blur.*\[1, 2, 3\]"),
    "blur: rows": (baselines.blur(1, axes=(0, 1)), IMAGES, ValueError, r"counts rows"),
    "nearest: inputs": (baselines.nearest(*LABELLED, [0]), IMAGES[:1], ValueError, r"\(n, 4\).*\(1, 6, 5, 2\)"),
    "nearest: classes": (baselines.nearest(*LABELLED, [0]), TABLE[:2], ValueError, r"inputs \(2, 4\).*classes \(1,\)"),
    "nearest: one class": (baselines.nearest(TABLE, [1] * 20, [1]), TABLE[:1], ValueError, r"another class than .*1"),
    "nearest: names": (baselines.nearest(*LABELLED, ["a"]), TABLE[:1], ValueError, r"among the labels.*alike"),
    "token: no ids": (baselines.token(1), np.array([[0.5]]), TypeError, r"token ids.*float64.*0\.5"),
    "token: too large": (baselines.token(300), np.array([[1]], "uint8"), ValueError, r"uint8 holds.*300"),
    "shuffle: letters first": (baselines.dinucleotide_shuffle(), HOT.T[None], ValueError, r"\(1, 4, 5\).*letters last"),
    "shuffle: negative": (baselines.dinucleotide_shuffle(), HOT[None] * 2 - 0.25, ValueError, r"letters last"),
    "shuffle: no ids": (baselines.dinucleotide_shuffle(), np.array([[0.5]]), TypeError, r"token ids"),
    "shuffle: images": (baselines.dinucleotide_shuffle(), IMAGES, ValueError, r"\(n, length\).*\(3, 6, 5, 2\)"),
    "combine: shape": (baselines.combine(0.0, np.zeros(3)), TABLE, ValueError, r"broadcasts.*received shape \(3,\)"),
    "combine: none": (baselines.combine(0.0, None), TABLE, TypeError, r"numeric baseline.*None"),
    "combine: text": (baselines.combine(0.0, "black"), TABLE, TypeError, r"numeric baseline.*black"),
    "combine: fixed": (
        baselines.combine({"u": 0.0, "v": "fixed"}, 0.0), {"u": U, "v": V}, ValueError, r'same inputs to be "fixed"'
    ),
    "several inputs": (baselines.uniform(0, 1), {"u": U, "v": V}, ValueError, r"one input.*\['u', 'v'\].*for each"),
    "a list of inputs": (baselines.gaussian(1), [U, V], ValueError, r"one input.*\['input_0', 'input_1'\]"),
}  # fmt: skip


@pytest.mark.parametrize("why", LATE)
def test_refused_when_given_inputs(why):
    made, inputs, error, message = LATE[why]
    with pytest.raises(error, match=f"Expected .*{message}"):
        made(inputs)


@pytest.mark.parametrize(
    "package, make",
    [
        ("sklearn.cluster", lambda: baselines.kmeans(TABLE, 2)),
        ("sklearn.metrics", lambda: baselines.nearest(*LABELLED, [0])(TABLE[:1])),
        ("scipy.ndimage", lambda: baselines.blur(1)(IMAGES)),
    ],
)
def test_a_missing_package_is_named(package, make, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=r"Expected (scikit-learn|scipy) for .*pip install \"aumann\[baselines\]\""):
        make()


# ---- what docs/baselines.md says -------------------------------------------------------------------------------------


def of_both(inputs):
    return squares(inputs["image"]) * squares(inputs["age"])


def test_the_examples_of_the_guide_run():
    rng = np.random.default_rng(0)
    names = {"baselines": baselines, "images": rng.random((3, 6, 6, 1))}
    own = {
        "Tables": {"x": TABLE[:3], "train": TABLE, "labels": np.arange(20) % 2, "predicted": np.array([0, 1, 1])},
        "Images": {},
        "Text": {"ids": IDS, "UNK": 3, "PAD": 0, "CLS": 101, "SEP": 102},
        "DNA": {"one_hot": np.eye(4)[rng.integers(0, 4, (2, 12))]},
        "Time series": {"series": rng.normal(size=(2, 12, 2))},
        "Several inputs": {"age": np.array([[30.0], [40.0], [50.0]]), "ages": np.array([[20.0], [60.0]])},
    }
    explainers = {
        "Text": aumann.IntegratedGradients(embedded()[0], rule=RULE),
        "Several inputs": aumann.IntegratedGradients(of_both, rule=aumann.gauss_legendre(4)),
    }
    text = GUIDE.read_text(encoding="utf-8")
    blocks = dict(re.findall(r"^## (.*?)$.*?^```python\n(.*?)^```", text, re.M | re.S))
    assert list(blocks) == list(own)
    for title, block in blocks.items():
        exec(block, names | own[title] | {"ig": explainers.get(title, SQUARES)})
    assert set(re.findall(r"`(\w+)\(", text)) <= {*baselines.__all__, "Embedding", "Masking", "explain"}
    assert all(f"{name}(" in text for name in baselines.__all__ if name != "Weighted")


def test_what_the_guide_says_of_black_pixels_and_masks():
    image = np.array([[0.0, 0.5, 1.0]], "float32")
    e = [SQUARES.explain(image, baseline=b) for b in (0.0, baselines.combine(0.0, 1.0), baselines.farthest(0, 1))]
    assert (e[0].values[0, 0], e[1].values[0, 2]) == (0, 0.5) and (e[1].values[0] != 0)[[0, 2]].all()
    assert (e[2].values != 0).all()
    model = keras.Sequential([layers.Input((3, 2)), layers.Masking(0.0), layers.SimpleRNN(2), layers.Dense(1)])
    scatter(model)
    x = RNG.normal(size=(2, 3, 2)).astype("float32")
    masked = aumann.IntegratedGradients(model, rule=aumann.gauss_legendre(24))
    near = masked.explain(x, baseline=1e-6)
    with pytest.warns(aumann.CompletenessWarning, match=r"rows \[0, 1\] miss"):
        jump = masked.explain(x, baseline=baselines.zeros())
    close(near.residual, np.zeros(2), scale=1)
    close(jump.residual, jump.base_value - near.base_value)
    assert np.abs(jump.residual).min() > 0.01
