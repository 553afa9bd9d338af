"""What letters contribute, by the definition of integrated gradients, and the files as TF-MoDISco reads them."""

import dataclasses

import keras
import numpy as np
import pytest
from conftest import close, scatter, value_and_slope

import aumann
from aumann.explanation import Explanation
from aumann.transforms.sequences import contributions, simplex, to_tfmodisco

RULE = aumann.gauss_legendre(16)


def one_hot(rng, *shape):
    return np.eye(4, dtype="float32")[rng.integers(0, 4, shape)]


def explanation(values, inputs, several=False, **others):
    lead = np.shape(values)[: 1 + several]
    zero = np.zeros(lead)
    return Explanation(values=values, inputs=inputs, prediction=zero, base_value=zero, residual=zero,
                       evaluations=np.ones(lead[0], int), **others)  # fmt: skip


@pytest.fixture(scope="module")
def motifs():
    """(n, 12, 4) -> (n, 2), smooth."""
    layers = [
        keras.layers.Input((12, 4)),
        keras.layers.Conv1D(5, 4, activation="tanh"),
        keras.layers.GlobalAveragePooling1D(),
        keras.layers.Dense(2),
    ]
    return scatter(keras.Sequential(layers))


def hypothetical(model, x, starts, weights, target):
    """H[l, c] = Σ_b w_b (m_b[l, c] − Σₖ b[l, k] m_b[l, k]) as it is written."""
    h = np.zeros(x.shape)
    for b, w in zip(starts, weights, strict=True):
        points = np.concatenate([b + t * (x - b) for t in RULE.nodes]).astype("float32")
        _, (slopes,) = value_and_slope(lambda z: model(z[0], training=False)[:, target], [points])
        m = np.tensordot(RULE.weights, np.asarray(slopes).reshape(len(RULE), *x.shape), 1)
        h += w * (m - (b * m).sum(-1, keepdims=True))
    return h


def test_at_each_position_contributions_are_integrated_gradients(motifs):
    rng = np.random.default_rng(0)
    x, starts, weights = one_hot(rng, 3, 12), one_hot(rng, 5, 12), np.array([0.3, 0.1, 0.2, 0.15, 0.25])
    e = aumann.IntegratedGradients(motifs, rule=RULE).explain(
        x, target=[0, 1], baseline=aumann.baselines.weighted(starts, weights)
    )
    found = contributions(np.stack([hypothetical(motifs, x, starts, weights, k) for k in (0, 1)], 1), x)
    close(found.sum(-1), e.values.sum(-1))
    close(found.sum((-2, -1)), e.prediction - e.base_value)
    assert (found[(x == 0)[:, None].repeat(2, 1)] == 0).all()
    assert np.abs(found - e.values).max() > 1e-2  # letter by letter they differ: the baseline's letters have a share
    (one,) = [contributions(hypothetical(motifs, x, starts, weights, 1), x)]
    np.testing.assert_allclose(one, found[:, 1])


def test_the_library_s_own_hypothetical_contributions_give_the_same(motifs, tmp_path):
    rng = np.random.default_rng(7)
    x, starts = one_hot(rng, 3, 12), one_hot(rng, 3, 4, 12)  # a set for each row
    given = {"target": 1, "baseline": aumann.baselines.weighted(starts)}
    h = aumann.HypotheticalContributions(motifs, rule=RULE).explain(x, **given)
    for i in range(3):
        close(h.values[i : i + 1].astype(float), hypothetical(motifs, x[i : i + 1], starts[i], [0.25] * 4, 1))
    phi = aumann.IntegratedGradients(motifs, rule=RULE).explain(x, **given)
    close(contributions(h.values, h.inputs).sum(-1), phi.values.sum(-1))
    np.testing.assert_array_equal(read(to_tfmodisco(h, tmp_path))[1], h.values.swapaxes(1, 2))


def test_from_zeros_they_are_integrated_gradients_letter_by_letter(motifs):
    x = one_hot(np.random.default_rng(1), 2, 12)
    e = aumann.IntegratedGradients(motifs, rule=RULE).explain(x, target=0)
    close(contributions(hypothetical(motifs, x, np.zeros((1, 12, 4)), [1.0], 0), x), e.values.astype(float))


def test_a_hypothetical_contribution_is_what_the_letter_would_be_worth_in_a_linear_model():
    rng = np.random.default_rng(2)
    weights = rng.normal(size=(6, 4))
    x, b = one_hot(rng, 1, 6), one_hot(rng, 1, 6)
    h = (weights - (b[0] * weights).sum(-1, keepdims=True))[None]
    before = contributions(h, x).sum()
    for position in range(6):
        for letter in range(4):
            other = x.copy()
            other[0, position] = np.eye(4)[letter]
            np.testing.assert_allclose(contributions(h, other).sum() - before, ((other - x) * weights).sum(), atol=1e-6)


def test_the_simplex_correction_forgets_what_never_sums_to_one():
    rng = np.random.default_rng(3)
    g, off = rng.normal(size=(2, 3, 7, 4)), rng.normal(size=(2, 3, 7, 1))
    found = simplex(g)
    np.testing.assert_allclose(found.sum(-1), 0, atol=1e-12)
    np.testing.assert_allclose(simplex(g + off), found, atol=1e-12)
    np.testing.assert_allclose(simplex(found), found, atol=1e-12)
    steps = np.eye(4)[[0, 1, 2]] - np.eye(4)[[1, 2, 3]]  # one letter for another: what the simplex has
    np.testing.assert_allclose(found @ steps.T, g @ steps.T, atol=1e-12)
    np.testing.assert_allclose(simplex(g.swapaxes(-1, -2), axis=-2), found.swapaxes(-1, -2), atol=1e-12)
    assert simplex(g.astype("float32")).dtype == np.float32


def read(paths):
    assert [path.name for path in paths] == ["sequences.npz", "attributions.npz"]
    arrays = []
    for path in paths:
        with np.load(path, allow_pickle=False) as archive:
            assert archive.files == ["arr_0"]
            arrays.append(archive["arr_0"])
    assert all(a.dtype == np.float32 for a in arrays)
    return arrays


def test_files_have_letters_second_and_length_last(tmp_path):
    rng = np.random.default_rng(4)
    x, h = one_hot(rng, 3, 9), rng.normal(size=(3, 9, 4))
    x[0, 2] = 0  # N
    sequences, scores = read(to_tfmodisco(explanation(h, x), tmp_path))
    assert sequences.shape == scores.shape == (3, 4, 9)
    for row, place, letter in np.ndindex(x.shape):
        assert sequences[row, letter, place] == x[row, place, letter]
        assert scores[row, letter, place] == np.float32(h[row, place, letter])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["attributions.npz", "sequences.npz"]
    turned = explanation(h.swapaxes(1, 2), x.swapaxes(1, 2))
    for e, axis in ((turned, 0), (turned, -2), (explanation(h, x), 1)):
        for same, array in zip(read(to_tfmodisco(e, tmp_path, axis=axis)), (sequences, scores), strict=True):
            np.testing.assert_array_equal(same, array)


def test_files_hold_one_input_and_one_target(tmp_path):
    rng = np.random.default_rng(5)
    x, h = one_hot(rng, 2, 6), rng.normal(size=(2, 3, 6, 4)).astype("float32")
    e = explanation(h, x, several=True, names={"targets": ["liver", "heart", "brain"]})
    for target, k in (("heart", 1), (2, 2), (np.int64(0), 0)):
        np.testing.assert_array_equal(read(to_tfmodisco(e, tmp_path, target=target))[1], h[:, k].swapaxes(1, 2))
    zero = np.zeros(2)
    two = Explanation(values={"dna": h[:, 0], "age": zero[:, None]}, inputs={"dna": x, "age": zero[:, None]},
                      prediction=zero, base_value=zero, residual=zero, evaluations=np.ones(2, int))  # fmt: skip
    np.testing.assert_array_equal(read(to_tfmodisco(two, str(tmp_path)))[0], x.swapaxes(1, 2))
    both = dataclasses.replace(two, values={"dna": h[:, 0], "age": h[:, 1]}, inputs={"dna": x, "age": x[::-1]})
    np.testing.assert_array_equal(read(to_tfmodisco(both, tmp_path, input="age"))[0], x[::-1].swapaxes(1, 2))


RNG = np.random.default_rng(6)
X, H = one_hot(RNG, 2, 6), RNG.normal(size=(2, 6, 4))
REFUSED = {
    "not one-hot": lambda folder: contributions(H, X + 0.5),
    "two letters at a place": lambda folder: contributions(H, np.ones_like(X)),
    "other rows": lambda folder: contributions(H[:1], X),
    "other letters": lambda folder: contributions(H[..., :3], X),
    "files of what is not one-hot": lambda folder: to_tfmodisco(explanation(H, H), folder),
    "files of ids": lambda folder: to_tfmodisco(explanation(H, X.argmax(-1)), folder),
    "files of NaN": lambda folder: to_tfmodisco(explanation(H * np.nan, X), folder),
    "files of contributions": lambda folder: to_tfmodisco(explanation(contributions(H, X), X), folder),
    "twenty letters": lambda folder: to_tfmodisco(explanation(np.ones((2, 6, 20)), np.ones((2, 6, 20))), folder),
    "letters on the other axis": lambda folder: to_tfmodisco(explanation(H, X), folder, axis=0),
    "no such axis": lambda folder: to_tfmodisco(explanation(H, X), folder, axis=2),
    "a target of one": lambda folder: to_tfmodisco(explanation(H, X), folder, target=0),
    "which target": lambda folder: to_tfmodisco(explanation(H[:, None], X, several=True), folder),
    "no such target": lambda folder: to_tfmodisco(explanation(H[:, None], X, several=True), folder, target=1),
}


@pytest.mark.parametrize("attempt", REFUSED.values(), ids=REFUSED)
def test_refusals_say_what_was_expected_what_came_and_what_to_do(attempt, tmp_path):
    with pytest.raises((ValueError, TypeError), match=r"(?s)^Expected .+(received|;) .+\. [A-Z].+\.$"):
        attempt(tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_folder_must_exist(tmp_path):
    with pytest.raises(FileNotFoundError, match="Create it"):
        to_tfmodisco(explanation(H, X), tmp_path / "none")
