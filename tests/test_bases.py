"""Attributions in another basis are those of G(z) = F(T⁻¹z): by the framework's own gradients and in closed form."""

import dataclasses
import sys

import numpy as np
import pytest
from conftest import close, formula, mlp, value_and_slope
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops
from sklearn.decomposition import PCA

import aumann
from aumann.explanation import Explanation, load
from aumann.features.nested import walk
from aumann.transforms import bases

QUICK = settings(deadline=None, max_examples=40)
RULE = aumann.gauss_legendre(12)


def mean_gradients(slopes, inputs, baseline, several=False, **others):
    """An explanation whose values are mean gradients; what they share out is F(x) − F(x′), or so it is told."""
    first = next(walk(slopes))[1]
    lead = first.shape[: 1 + several]
    total = np.zeros(lead)
    for _, m, x, b in walk(slopes, inputs, baseline):
        change = np.asarray(x, float) - np.asarray(b, float)
        total += ((change[:, None] if several else change) * m).sum(tuple(range(len(lead), m.ndim)))
    base = np.full(lead, 0.5)
    return Explanation(
        values=slopes,
        inputs=inputs,
        baseline=baseline,
        prediction=base + total,
        base_value=base,
        residual=np.zeros(lead),
        evaluations=np.ones(lead[0], int),
        **others,
    )


def random(rng, row, several=False, n=3, shared=True):
    lead = (n, 2) if several else (n,)
    return mean_gradients(
        rng.normal(size=(*lead, *row)), rng.normal(size=(n, *row)), rng.normal(size=(1 if shared else n, *row)), several
    )


def total(e):
    return sum(v.sum(tuple(range(e.prediction.ndim, v.ndim)), dtype=float) for _, v in walk(e.values))


def haar(size):
    """The Haar matrix, coarsest first, by its recursion."""
    if size == 1:
        return np.ones((1, 1))
    return np.concatenate([np.kron(haar(size // 2), [1, 1]), np.kron(np.eye(size // 2), [1, -1])]) / np.sqrt(2)


def waves(size):
    """Cosines and sines as an orthonormal matrix, and the frequency of each row."""
    rows, place = [], []
    t = np.arange(size)
    for k in range(size // 2 + 1):
        for wave in (np.cos(2 * np.pi * k * t / size), np.sin(2 * np.pi * k * t / size)):
            if (length := np.linalg.norm(wave)) > 1e-9:
                rows.append(wave / length)
                place.append(k)
    return np.array(rows), np.array(place)


# The theorem: the same numbers as a path in z itself


@pytest.mark.parametrize("make", ["linear", "pca", "wavelet", "fourier"])
def test_values_are_those_of_the_model_seen_in_the_basis(make):
    rng = np.random.default_rng(0)
    model = mlp(units=2, features=8)
    x, start = rng.normal(size=(3, 8)).astype("float32"), rng.normal(size=(1, 8)).astype("float32")

    def fn(points):
        return model(points[0], training=False)[:, 1]

    points = np.concatenate([start + t * (x - start) for t in RULE.nodes])
    slopes = np.asarray(value_and_slope(fn, [points])[1][0]).reshape(len(RULE), 3, 8)
    e = mean_gradients(np.tensordot(RULE.weights, slopes, 1).astype("float32"), x, start)
    place = np.arange(8)
    if make == "linear":
        matrix = rng.normal(size=(8, 8)) + 2 * np.eye(8)
        found = bases.linear(e, matrix)
    elif make == "pca":
        matrix = np.linalg.qr(rng.normal(size=(8, 8)))[0]
        found = bases.pca(e, matrix)
    elif make == "wavelet":
        matrix = haar(8)
        found = bases.wavelet(e)
    else:
        matrix, place = waves(8)
        found = bases.fourier(e)
    back = ops.convert_to_tensor(np.linalg.inv(matrix).T.astype("float32"))
    (expected,), _, _ = formula(lambda z: fn([ops.matmul(z[0], back)]), [(x @ matrix.T).astype("float32")],
                                [(start @ matrix.T).astype("float32")], RULE)  # fmt: skip
    expected = np.stack([expected[:, place == k].sum(1) for k in range(place.max() + 1)], 1)
    close(found.values, expected)
    assert found.values.dtype == np.float32
    close(found.residual, np.zeros(3), scale=1.0)


def test_a_mean_gradient_by_the_library_is_complete_in_every_basis():
    rng = np.random.default_rng(1)
    model = mlp(units=3, features=8)
    x, start = rng.normal(size=(4, 8)).astype("float32"), rng.normal(size=8).astype("float32")
    e = aumann.MeanGradient(model, rule=RULE).explain(x, target=[0, 2], baseline=start)
    phi = aumann.IntegratedGradients(model, rule=RULE).explain(x, target=[0, 2], baseline=start)
    for found in (bases.fourier(e), bases.wavelet(e), bases.pca(e, np.eye(8)[:2]), bases.linear(e, np.eye(8))):
        close(total(found), total(phi))
        close(found.residual, np.zeros((4, 2)), scale=1.0)
    close(found.values, phi.values)
    with pytest.raises(ValueError, match="received those of IntegratedGradients"):
        bases.fourier(phi)
    constant = aumann.MeanGradient(model, rule=RULE).explain(x, target=0, baseline=0.5)
    close(total(bases.fourier(constant)), constant.prediction - constant.base_value)
    both = aumann.MeanGradient(model, rule=RULE).explain(x, target=0, baseline=aumann.baselines.weighted(x[:2]))
    with pytest.raises(ValueError, match="one baseline; received a set of 2"):
        bases.fourier(both)


# Completeness


ROWS = st.sampled_from([(8,), (7,), (1,), (8, 3), (6, 4), (4, 8, 3)])


@QUICK
@given(ROWS, st.booleans(), st.booleans(), st.integers(0, 9999), st.data())
def test_every_basis_shares_out_the_same_total(row, several, shared, seed, data):
    rng = np.random.default_rng(seed)
    e, p = random(rng, row, several, shared=shared), int(np.prod(row))
    axes = data.draw(st.lists(st.sampled_from(range(len(row))), min_size=1, max_size=2, unique=True))
    found = [bases.fourier(e, axes), bases.linear(e, rng.normal(size=(p, p)) + 3 * np.eye(p))]
    found += [bases.pca(e, np.linalg.qr(rng.normal(size=(p, p)))[0][:k]) for k in {1, p}]
    if all(row[a] % 2 == 0 for a in axes):
        found.append(bases.wavelet(e, axis=axes))
        np.testing.assert_allclose(total(found[-1].sum(groups=bases.scales(found[-1]))), total(found[-1]), atol=1e-8)
    for other in found:
        np.testing.assert_allclose(total(other), e.prediction - e.base_value, atol=1e-8)
        np.testing.assert_allclose(other.residual, 0, atol=1e-8)
        np.testing.assert_array_equal(other.prediction, e.prediction)
        assert other[1:].values.shape == (2, *other.values.shape[1:])


def test_rows_and_targets_stand_alone():
    e = random(np.random.default_rng(1), (8, 3), several=True, shared=False)
    for basis in (bases.fourier, bases.wavelet):
        together = basis(e)
        for k in range(2):
            alone = mean_gradients(e.values[1:2, k], e.inputs[1:2], e.baseline[1:2])
            np.testing.assert_allclose(basis(alone).values[0], together.values[1, k], atol=1e-12)


# Fourier


@pytest.mark.parametrize("size", [8, 9])
def test_each_frequency_gets_what_depends_on_it(size):
    """F = Σ_f a_f |P_f x|² for projections P_f on frequencies has φ_f = a_f (|P_f x|² − |P_f x′|²)."""
    rng = np.random.default_rng(2)
    rows, place = waves(size)
    a = rng.normal(size=place.max() + 1)
    x, start = rng.normal(size=(4, size)), rng.normal(size=(1, size))
    slopes = ((x + start) @ rows.T * a[place]) @ rows  # the gradient is linear: its mean is that at the middle
    found = bases.fourier(mean_gradients(slopes, x, start), rate=100.0)
    power = [np.square(z @ rows.T) @ np.eye(len(a))[place] for z in (x, start)]
    np.testing.assert_allclose(found.values, a * (power[0] - power[1]), atol=1e-12)
    hertz = np.arange(len(a)) * 100 / size
    np.testing.assert_allclose(bases.frequencies(found), hertz)
    assert found.names["features"] == [f"{f:g}" for f in hertz]
    np.testing.assert_allclose(found.inputs, np.abs(np.fft.rfft(x, norm="ortho")))
    np.testing.assert_allclose(found.baseline, np.abs(np.fft.rfft(start, norm="ortho")))
    low = found.sum(groups={"low": bases.frequencies(found) < 20})
    np.testing.assert_allclose(low.values[:, 0], found.values[:, hertz < 20].sum(1))


def test_over_two_axes_each_wave_of_an_image_is_found():
    t, u = np.mgrid[:6, :8]
    rng = np.random.default_rng(3)
    for ky, kx in ((0, 0), (1, 0), (2, 3), (5, 1), (3, 4), (0, 4)):
        image = np.cos(2 * np.pi * (ky * t / 6 + kx * u / 8))[None, ..., None]
        slopes = rng.normal(size=(1, 6, 8, 1))
        found = bases.fourier(mean_gradients(slopes, image, np.zeros((1, 1, 1, 1))), (0, 1), rate=(6, 8))
        hit = np.abs(found.values[0, ..., 0]) > 1e-9
        radius = np.hypot(min(ky, 6 - ky), kx)
        np.testing.assert_allclose(bases.frequencies(found)[hit], radius, atol=1e-9)
        assert hit[ky, kx] and hit.sum() == (2 if kx in (0, 4) and ky in (1, 2, 4, 5) else 1)
        assert found.values.shape == (1, 6, 5, 1) and bases.frequencies(found).shape == (6, 5)
        assert bases.frequencies(found.sum(-1)).shape == (6, 5)
    turned = bases.fourier(mean_gradients(slopes, image, np.zeros((1, 1, 1, 1))), (1, 0))
    assert turned.values.shape == (1, 4, 8, 1)
    np.testing.assert_allclose(total(turned), total(found))


# Wavelets


@pytest.mark.parametrize("name, level, axis", [("haar", None, 0), ("db2", 2, 0), ("sym4", 1, 1), ("coif1", 2, (0, 1))])
def test_wavelets_are_those_of_an_explicit_orthonormal_matrix(name, level, axis):
    rng = np.random.default_rng(4)
    e = random(rng, (16, 8))
    found = bases.wavelet(e, name, axis, level=level)
    spikes = mean_gradients(np.zeros((128, 16, 8)), np.eye(128).reshape(128, 16, 8), np.zeros((1, 1, 1)))
    matrix = bases.wavelet(spikes, name, axis, level=level).inputs.reshape(128, 128).T  # its columns are T e_i
    np.testing.assert_allclose(matrix @ matrix.T, np.eye(128), atol=1e-9)
    change = (e.inputs - e.baseline).reshape(3, 128)
    expected = (change @ matrix.T) * (e.values.reshape(3, 128) @ matrix.T)
    np.testing.assert_allclose(found.values.reshape(3, 128), expected, atol=1e-9)


def test_haar_by_its_recursion_and_scales_by_name():
    e = random(np.random.default_rng(5), (8,))
    found = bases.wavelet(e)
    expected = ((e.inputs - e.baseline) @ haar(8).T) * (e.values @ haar(8).T)
    np.testing.assert_allclose(found.values, expected, atol=1e-12)
    np.testing.assert_allclose(found.inputs, e.inputs @ haar(8).T, atol=1e-12)
    names = ["a3", "d3", "d2", "d2", "d1", "d1", "d1", "d1"]
    assert found.names["features"] == names
    scales = bases.scales(found)
    assert {key: mask.tolist() for key, mask in scales.items()} == {
        key: [key == n for n in names] for key in dict.fromkeys(names)
    }
    by_name = found.sum(groups={key: [key] for key in scales})
    np.testing.assert_array_equal(by_name.values, found.sum(groups=scales).values)
    assert bases.wavelet(e, level=1).names["features"] == ["a1"] * 4 + ["d1"] * 4


def test_scales_of_images_say_along_which_axis_the_details_are():
    rng = np.random.default_rng(6)
    image = np.tile(rng.normal(size=(1, 1, 8, 1)), (1, 8, 1, 3))  # changes along the second axis alone
    found = bases.wavelet(mean_gradients(rng.normal(size=(1, 8, 8, 3)), image, np.zeros((1, 1, 1, 1))), axis=(0, 1))
    groups = bases.scales(found)
    assert list(groups) == ["a3", "ad3", "da3", "dd3", "ad2", "da2", "dd2", "ad1", "da1", "dd1"]
    assert sum(mask.astype(int) for mask in groups.values()).tolist() == np.ones((8, 8), int).tolist()
    for key, value in zip(groups, found.sum(groups=groups).values[0], strict=True):
        assert (abs(value) > 1e-9) == (key[0] == "a"), key


# Principal components


@pytest.mark.parametrize("whiten", [False, True])
def test_components_of_scikit_learn_and_what_they_leave(whiten):
    rng = np.random.default_rng(7)
    background = rng.normal(size=(50, 5)) @ rng.normal(size=(5, 5)) + 3
    e = random(rng, (5,))
    model = PCA(2, whiten=whiten).fit(background)
    found = bases.pca(e, model)
    change, c = e.inputs - e.baseline, model.components_
    expected = (change @ c.T) * (e.values @ c.T)
    np.testing.assert_allclose(found.values[:, :2], expected, atol=1e-12)
    np.testing.assert_allclose(found.values[:, 2], (change * e.values).sum(1) - expected.sum(1), atol=1e-12)
    assert found.names["features"] == ["pc0", "pc1", "(rest)"]
    np.testing.assert_allclose(found.inputs[:, :2], PCA(2).fit(background).transform(e.inputs), atol=1e-9)
    left = e.inputs - PCA(2).fit(background).inverse_transform(found.inputs[:, :2])
    np.testing.assert_allclose(found.inputs[:, 2], np.linalg.norm(left, axis=1), atol=1e-9)
    whole = bases.pca(e, PCA().fit(background))
    assert whole.names["features"] == [f"pc{j}" for j in range(5)]
    np.testing.assert_allclose(whole.values[:, :2], expected, atol=1e-9)
    np.testing.assert_array_equal(bases.pca(e, c).values, found.values)


def test_a_diagonal_matrix_changes_nothing_and_a_permutation_the_order():
    rng = np.random.default_rng(8)
    e = random(rng, (2, 3))
    phi = ((e.inputs - e.baseline) * e.values).reshape(3, 6)
    np.testing.assert_allclose(bases.linear(e, np.diag(rng.uniform(0.1, 9, 6))).values, phi, atol=1e-12)
    order = rng.permutation(6)
    moved = bases.linear(e, np.eye(6)[order])
    np.testing.assert_allclose(moved.values, phi[:, order], atol=1e-12)
    np.testing.assert_array_equal(moved.inputs, e.inputs.reshape(3, 6)[:, order])


# What an explanation is besides


def test_other_inputs_get_their_own_share_and_names_stay():
    rng = np.random.default_rng(9)
    two = random(rng, (8, 2)), random(rng, (3,))
    parts = {f: dict(zip(("signal", "age"), (getattr(e, f) for e in two), strict=True)) for f in ("values", "inputs")}
    starts = {"signal": two[0].baseline, "age": two[1].baseline}
    names = {"features": {"signal": [f"t{i}" for i in range(8)], "age": ["x", "y", "z"]}}
    e = mean_gradients(parts["values"], parts["inputs"], starts, names=names)
    for basis in (bases.fourier, bases.wavelet):
        found = basis(e, input="signal")
        np.testing.assert_array_equal(found.values["signal"], basis(two[0]).values)
        np.testing.assert_allclose(found.values["age"], (two[1].inputs - two[1].baseline) * two[1].values)
        np.testing.assert_array_equal(found.inputs["age"], two[1].inputs)
        np.testing.assert_allclose(found.residual, 0, atol=1e-9)
        assert found.names["features"]["age"] == ["x", "y", "z"]
        assert len(found.names["features"]["signal"]) == found.values["signal"].shape[1]
        kept = basis(e, axis=1, input="signal").names["features"]["signal"]
        assert kept == names["features"]["signal"]


def test_whole_numbers_do_not_wrap():
    x, start = np.array([[10, 3]], np.uint8), np.array([[200, 5]], np.uint8)
    e = mean_gradients(np.array([[1.0, 2.0]]), x, start)
    np.testing.assert_allclose(total(bases.fourier(e)), -190 - 4)


def test_it_is_saved_drawn_and_cut(tmp_path):
    e = random(np.random.default_rng(10), (8,))
    for basis, read in ((bases.fourier, bases.frequencies), (bases.wavelet, bases.scales)):
        found = basis(e)
        again = load(found.save(tmp_path / "basis"))[1:]
        np.testing.assert_array_equal(again.values, found.values[1:])
        assert str(read(again)) == str(read(found))
        assert found.plot(tmp_path / "basis.png")


def test_without_pywavelets_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pywt", None)
    with pytest.raises(ImportError, match=r"aumann\[wavelet\]"):
        bases.wavelet(random(np.random.default_rng(0), (8,)))


ONE = random(np.random.default_rng(0), (8, 2))
X, M = ONE.inputs, ONE.values
SET = dataclasses.replace(ONE, baseline=np.zeros((1, 5, 8, 2)))
IDS = dataclasses.replace(ONE, inputs=np.ones((3, 8), int))
REFUSED = {
    "a set of baselines": lambda: bases.fourier(SET),
    "no baseline": lambda: bases.fourier(dataclasses.replace(ONE, baseline=None)),
    "ids": lambda: bases.fourier(IDS),
    "another method": lambda: bases.fourier(
        mean_gradients(M, X, ONE.baseline, provenance={"method": "IntegratedGradients"})
    ),
    "no such axis": lambda: bases.fourier(ONE, 2),
    "one axis twice": lambda: bases.fourier(ONE, (0, -2)),
    "no axis": lambda: bases.fourier(ONE, ()),
    "a rate of 0": lambda: bases.fourier(ONE, rate=0),
    "unknown wavelet": lambda: bases.wavelet(ONE, "morlet"),
    "a wavelet that is not orthogonal": lambda: bases.wavelet(ONE, "bior2.2"),
    "odd length": lambda: bases.wavelet(random(np.random.default_rng(0), (7,))),
    "level too high": lambda: bases.wavelet(ONE, level=4),
    "level 0": lambda: bases.wavelet(ONE, level=0),
    "components of another length": lambda: bases.pca(ONE, np.eye(8)),
    "components askew": lambda: bases.pca(ONE, np.ones((2, 16))),
    "matrix of another shape": lambda: bases.linear(ONE, np.eye(8)),
    "singular matrix": lambda: bases.linear(ONE, np.ones((16, 16))),
    "unknown input": lambda: bases.fourier(ONE, input="signal"),
    "which of two inputs": lambda: bases.fourier(mean_gradients([M, M], [X, X], [ONE.baseline] * 2)),
    "frequencies of no spectrum": lambda: bases.frequencies(ONE),
    "scales of a spectrum": lambda: bases.scales(bases.fourier(ONE)),
}


@pytest.mark.parametrize("attempt", REFUSED.values(), ids=REFUSED)
def test_refusals_say_what_was_expected_what_came_and_what_to_do(attempt):
    with pytest.raises((ValueError, TypeError), match=r"(?s)^Expected .+(received|;) .+\. [A-Z].+\.$"):
        attempt()


def test_the_matrix_of_waves_is_orthonormal():
    for size in (8, 9):
        rows, _ = waves(size)
        np.testing.assert_allclose(rows @ rows.T, np.eye(size), atol=1e-12)
    np.testing.assert_allclose(haar(8) @ haar(8).T, np.eye(8), atol=1e-12)
