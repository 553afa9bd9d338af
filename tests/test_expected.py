"""Expected gradients: means over baselines and places that were drawn, and what is said of their error.

The design is tried by itself, on an integrand in NumPy, as often as a law of standard errors takes; what surrounds it,
on models whose values are known: F = Σ a x² + b x and F = Σ u v, as in tests/test_baselines.py.
"""

from types import SimpleNamespace

import keras
import numpy as np
import pytest
from conftest import BACKEND, close, mlp, unchanged
from keras import ops

import aumann
from aumann.core.quadrature import Draws, stratified
from aumann.execution.progress import Tally
from aumann.methods.expected import ExpectedGradients, design

weighted = aumann.baselines.weighted
RNG = np.random.default_rng(5)
N, M, ROW, SEEDS = 3, 40, (4,), 150
X, A, B = (RNG.normal(size=s).astype("float32") for s in ((N, *ROW), ROW, ROW))
SET = RNG.normal(size=(M, *ROW)).astype("float32")


def linear(x):
    return ops.sum(ops.convert_to_tensor(B) * x, axis=1)


def quadratic(x):
    return ops.sum(ops.convert_to_tensor(A) * x * x + ops.convert_to_tensor(B) * x, axis=1)


def product(inputs):
    return ops.sum(inputs["u"] * inputs["v"], axis=1)


LINEAR, QUADRATIC = (ExpectedGradients(f, samples=4 * M) for f in (linear, quadratic))


def like(explainer, **changes):
    """An explainer with other settings that shares what is compiled."""
    other = ExpectedGradients(explainer.model, **changes)
    other.oracles = explainer.oracles
    return other


# ---- the design, by itself -----------------------------------------------------------------------------------------


class Integrand:
    """(x − b) ∘ g(b + t (x − b)) for a gradient g with interactions, in place of a problem and its integral."""

    rows = 1

    def __init__(self, m, kinks, weights=None, endless=False, features=6):
        rng = np.random.default_rng(m)
        self.b, self.x, self.h, self.g = (
            rng.normal(size=s) for s in ((m, features), features, (features,) * 2, features)
        )
        self.weights = np.full(m, 1 / m) if weights is None else weights
        self.kinks, self.m, self.drawn = kinks, m, endless
        self.start_points, self.oracle = SimpleNamespace(count=m), SimpleNamespace(dtype="float64")
        self.ends = SimpleNamespace(change=lambda rows: (np.zeros((1, 1)), np.full((1, 1), np.inf)))
        self.how = lambda stopping_rule: stopping_rule
        self.tally = Tally(lambda *_: None)
        nodes = (np.arange(400) + 0.5) / 400
        means = [self.at(np.full(400, j), nodes).mean(0) for j in range(m)]
        self.exact = self.weights @ means

    def at(self, which, t):
        z = (self.b[which] + t[:, None] * (self.x - self.b[which])) @ self.h
        slope = (z > 0) @ self.h.T if self.kinks else 0.5 * np.cos(z) @ self.h.T
        return (self.x - self.b[which]) * (slope + self.g)

    def __call__(self, rows, rule, fixed_shapes=False):
        t, w, which = rule.over(self.m)
        return [((w * self.weights[which]) @ self.at(which, t))[None, None]]

    def sample(self, samples, seed):
        explainer = ExpectedGradients(linear, samples=samples, seed=seed)
        result = explainer.sum(self, self)
        assert result.evaluations <= samples
        return result.values[0][0, 0], result.standard_error[0][0, 0], result.error[0, 0]


@pytest.mark.parametrize("kinks", [False, True])
@pytest.mark.parametrize("samples", [8, 24, 80, 120, 160, 320])  # of 80 baselines
def test_standard_errors_are_the_deviations_over_seeds(samples, kinks):
    integrand = Integrand(80, kinks)
    values, told, error = map(np.array, zip(*(integrand.sample(samples, s) for s in range(SEEDS)), strict=True))
    off = values - integrand.exact
    ratio = np.sqrt((told**2).sum() / (off**2).sum())
    assert 0.85 <= ratio <= 1.2
    assert (np.abs(off.mean(0)) <= 4.5 * off.std(0) / np.sqrt(SEEDS)).all()  # unbiased
    relative = np.abs(off).sum(1) / np.abs(integrand.exact).sum()
    assert (relative <= error).mean() >= 0.85  # `error` is a bound for most rows


def test_standard_errors_of_weighted_baselines():
    weights = np.random.default_rng(1).random(30) ** 2
    integrand = Integrand(30, False, weights / weights.sum())
    for samples in (20, 40, 60):
        values, told, _ = map(np.array, zip(*(integrand.sample(samples, s) for s in range(SEEDS)), strict=True))
        off = values - integrand.exact
        assert 0.85 <= np.sqrt((told**2).sum() / (off**2).sum()) <= 1.2
        assert (np.abs(off.mean(0)) <= 4.5 * off.std(0) / np.sqrt(SEEDS)).all()


@pytest.mark.parametrize("m, samples", [(1, 64), (2, 30), (5, 40), (31, 61), (31, 30), (3, 5)])
def test_sets_of_any_size(m, samples):
    """At least about right; where so few baselines are drawn once that nothing else is known, not too small."""
    integrand = Integrand(m, False)
    values, told, _ = map(np.array, zip(*(integrand.sample(samples, s) for s in range(SEEDS)), strict=True))
    ratio = np.sqrt((told**2).sum() / ((values - integrand.exact) ** 2).sum())
    assert 0.85 <= ratio <= (1.2 if samples > 8 else np.inf)


def test_a_distribution_has_no_part_that_is_used_up():
    """Each baseline once, and a standard error that is right for baselines drawn anew by every seed."""
    plan = design(100, 100, endless=True)
    assert set(plan.visits) == {1} and plan.baselines == 100
    many = Integrand(4000, False)
    off, told = [], []
    for s in range(SEEDS):
        few = Integrand(64, False, endless=True)
        few.x, few.h, few.g = many.x, many.h, many.g
        few.b = np.random.default_rng(s).normal(size=few.b.shape)
        value, deviation, _ = few.sample(64, s)
        off.append(value - many.exact)
        told.append(deviation)
    assert 0.85 <= np.sqrt(np.square(told).sum() / np.square(off).sum()) <= 1.2


@pytest.mark.parametrize("kinks", [False, True])
def test_less_error_than_drawing_baselines_and_places_at_random(kinks):
    """At twice as many gradients as baselines: 500 and 1,000 in small."""
    integrand = Integrand(100, kinks)
    ours = np.array([integrand.sample(200, s)[0] for s in range(100)]) - integrand.exact
    rng = np.random.default_rng(0)
    drawn = [integrand.at(rng.integers(0, 100, 200), rng.random(200)).mean(0) for _ in range(300)]
    gain = np.sqrt(np.square(drawn - integrand.exact).sum(1).mean() / np.square(ours).sum(1).mean())
    assert gain >= 1.5


@pytest.mark.parametrize("m", [1, 2, 3, 7, 8, 16, 17, 31, 100, 101])
def test_designs_spend_what_they_are_given_and_no_more(m):
    for samples in [*range(2, 70), 4 * m, 20 * m + 3]:
        plan = design(samples, m)
        sizes = [len(g) for g in np.array_split(np.arange(plan.baselines), len(plan.visits))]
        spent = plan.positions * sum(s * v for s, v in zip(sizes, plan.visits, strict=True))
        assert spent == plan.samples <= samples and plan.baselines <= m and min(sizes) >= 1
        assert plan.samples >= min(samples, m) * 0.75
        assert plan.baselines == m or samples < 2 * m
        assert max(plan.visits) > 1 or len(plan.visits) > 1  # something to compare with


def test_places_are_stratified():
    rule = stratified(np.random.default_rng(0), np.array([7, 2, 5]), 4, 0.5)
    assert sorted((rule.nodes * 12).astype(int)) == list(range(12))
    for j in (7, 2, 5):
        assert sorted((rule.nodes[rule.which == j] * 4).astype(int)) == [0, 1, 2, 3]
        close(rule.weights[rule.which == j].sum(), 0.5, "float64")
    orders = {tuple(stratified(np.random.default_rng(s), np.arange(3), 1, 1.0).nodes.argsort()) for s in range(60)}
    assert len(orders) == 6  # every pairing of baselines and strata


@pytest.mark.parametrize(
    "nodes, weights, which", [([0.5], [1.0, 2.0], [0]), ([1.5], [1.0], [0]), ([0.5], [np.nan], [0]), ([], [], [])]
)
def test_draws_that_are_none(nodes, weights, which):
    with pytest.raises(ValueError, match=r"draws: expected .*received .*\. [GM]"):
        Draws("draws", nodes, weights, which)


# ---- known values --------------------------------------------------------------------------------------------------


def mean_of(each, weights=None):
    """Weighted mean over the axis of baselines: 0 or, of rows' own sets, 1."""
    return np.average(each, axis=each.ndim - 2, weights=weights)


def test_a_linear_model_is_exact_as_soon_as_every_baseline_is_in():
    e = LINEAR.explain(X, baseline=weighted(SET))
    close(e.values, B * (X - SET.mean(0)))
    close(e.residual, np.zeros(N), scale=1)
    assert (e.standard_error <= 1e-6).all() and (e.error <= 1e-5).all()
    assert (e.evaluations == 4 * M).all() and e.converged is None
    assert e.provenance["samples"] == 4 * M and e.provenance["seed"] == 0


def test_a_quadratic_model_within_its_standard_errors():
    e = QUADRATIC.explain(X, baseline=weighted(SET))
    each = A * (X[:, None] ** 2 - SET**2) + B * (X[:, None] - SET)
    assert (np.abs(e.values - each.mean(1)) <= 5 * e.standard_error + 1e-6).all()
    assert (e.standard_error > 0).all()
    close(e.base_value, np.full(N, (A * SET**2 + B * SET).sum(1).mean()))
    close(e.residual, e.values.sum(1) - (e.prediction - e.base_value), scale=10)


def test_weights_and_sets_of_the_rows_own():
    own, weights = RNG.normal(size=(N, M, *ROW)).astype("float32"), RNG.random((N, M))
    e = LINEAR.explain(X, baseline=weighted(own, weights))
    mean = np.einsum("nm,nm...->n...", weights / weights.sum(1, keepdims=True), own)
    close(e.values, B * (X - mean))
    one = LINEAR.explain(X[1:2], baseline=weighted(own[1:2], weights[1:2]))
    close(one.values, e.values[1:2])
    close(one.standard_error, e.standard_error[1:2], scale=1)


def test_an_array_is_a_background_and_one_row_a_baseline():
    expected = QUADRATIC.explain(X, baseline=weighted(SET))
    close(QUADRATIC.explain(X, baseline=SET).values, expected.values)
    same = QUADRATIC.explain(X, baseline=SET[:N])  # as many as rows, and still a background of each
    assert same.provenance["baselines"] == N
    for one in (0.5, SET[0], lambda inputs: SET[0]):
        assert QUADRATIC.explain(X, baseline=one).provenance["baselines"] == 1


def test_rows_of_several_inputs_are_drawn_together():
    """F = Σ u v with v = −u in the background and at the input: drawn apart, the values would tend elsewhere."""
    u = RNG.normal(size=(200, 3)).astype("float32")
    x = RNG.normal(size=(N, 3)).astype("float32")
    background = {"u": u + 1, "v": -u}
    e = ExpectedGradients(product, samples=2000).explain({"u": x, "v": -x}, baseline=weighted(background))
    each = (x[:, None] - u - 1) * (-x[:, None] - u) / 2
    apart = (x - u.mean(0) - 1) * (-x - u.mean(0)) / 2
    off = np.abs(e.values["u"] - each.mean(1))
    assert (off <= 5 * e.standard_error["u"] + 1e-6).all()
    assert (np.abs(apart - each.mean(1)) > 10 * e.standard_error["u"]).all()
    assert set(e.standard_error) == set(e.input_error) == {"u", "v"}
    close(ExpectedGradients(product, samples=2000).explain({"u": x, "v": -x}, baseline=background).values, e.values)


def test_a_distribution():
    asked = []

    def draw(rng, count):
        asked.append(count)
        return 1 + rng.normal(size=(count, *ROW))

    e = like(LINEAR, samples=400).explain(X, baseline=draw)
    assert asked == [400] and e.provenance["baselines"] == 400
    assert (np.abs(e.values - B * (X - 1)) <= 5 * e.standard_error).all()
    assert (e.standard_error > 0.01 * np.abs(B)).all()  # of the draws themselves, in spite of a linear model
    other = like(LINEAR, samples=400, seed=1).explain(X, baseline=draw)
    assert np.abs(other.values - e.values).max() > 1e-3
    with pytest.raises(ValueError, match=r"Expected 400 rows from baseline\(rng, 400\), received 3\. Return"):
        like(LINEAR, samples=400).explain(X, baseline=lambda rng, count: SET[:3])


def test_token_ids_at_their_embedding():
    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = keras.Sequential(
        [layers.Input((5,), dtype="int32"), layers.Embedding(9, 3), layers.Flatten(), layers.Dense(1)]
    )
    ids, background = RNG.integers(0, 9, (2, 5)), RNG.integers(0, 9, (20, 5))
    e = ExpectedGradients(model, samples=40).explain(ids, baseline=weighted(background))
    table, kernel = (np.asarray(ops.convert_to_numpy(w)) for w in model.weights[:2])
    close(e.values, (table[ids] - table[background].mean(0)) * kernel.reshape(5, 3))


# ---- promises ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tanh():
    return ExpectedGradients(mlp(), samples=100)


def test_the_same_numbers_whatever_the_batch_and_the_company(tanh):
    e = tanh.explain(X, [1, "predicted"], SET)
    assert e.values.shape == e.standard_error.shape == (N, 2, *ROW)
    for size in (1, 7, 1000):
        other = ExpectedGradients(tanh.model, samples=100, batch_size=size).explain(X, [1, "predicted"], SET)
        close(other.values, e.values)
        close(other.standard_error, e.standard_error, scale=np.abs(e.values).max())
    close(tanh.explain(X[2:], [1, "predicted"], SET).values, e.values[2:])


def test_seeds(tanh):
    with unchanged(tanh.model):
        e = tanh.explain(X, 1, SET)
    again, other = tanh.explain(X, 1, SET), like(tanh, samples=100, seed=3).explain(X, 1, SET)
    assert (again.values == e.values).all()
    assert np.abs(other.values - e.values).max() > 1e-5
    assert (np.abs(other.values - e.values) <= 5 * np.hypot(e.standard_error, other.standard_error)).all()


def test_a_network_against_the_integrals_of_every_baseline(tanh):
    exact = aumann.IntegratedGradients(tanh.model, rule=aumann.gauss_legendre(16)).explain(X, 1, weighted(SET))
    for samples in (16, 50, 100, 400):
        e = like(tanh, samples=samples).explain(X, 1, SET)
        assert (np.abs(e.values - exact.values) <= 6 * e.standard_error).all()
        close(e.base_value, exact.base_value)


def test_tolerance_spends_on_each_row_what_it_needs(tanh):
    exact = aumann.IntegratedGradients(tanh.model, rule=aumann.gauss_legendre(16)).explain(X, 1, weighted(SET))
    spent = []
    for tolerance in (0.3, 0.05):
        e = like(tanh, tolerance=tolerance).explain(X, 1, SET)
        assert e.converged.all() and (e.error <= tolerance).all()
        off = np.abs(e.values - exact.values).sum(1) / np.abs(exact.values).sum(1)
        assert (off <= 1.5 * e.error).all()
        spent.append(e.evaluations)
    close(like(tanh, tolerance=tolerance).explain(X[1:2], 1, SET).values, e.values[1:2])
    assert (spent[0] < spent[1]).all() and len(set(spent[1])) > 1
    assert e.provenance["tolerance"] == 0.05 and e.provenance["max_evaluations"] == 2000


def test_gradients_run_out(tanh):
    with pytest.warns(aumann.ToleranceWarning, match=r"Rows \[0, 1, 2\] did not reach the tolerance 0\.001 within"):
        e = like(tanh, tolerance=0.001, max_evaluations=300).explain(X, 1, SET)
    assert not e.converged.any() and (e.evaluations <= 300).all() and (e.evaluations > 200).all()


def test_progress_is_told_what_is_to_come(tanh):
    seen = []
    e = tanh.explain(X, 1, SET, progress=lambda done, expected: seen.append((done, expected)))
    assert seen[-1][0] == e.evaluations.sum() and {expected for _, expected in seen} == {e.evaluations.sum()}


def test_standard_errors_are_kept(tanh, tmp_path):
    e = tanh.explain(X, 1, SET)
    again = aumann.load(e.save(tmp_path / "e"))
    assert (again.standard_error == e.standard_error).all()
    assert (e[1:].standard_error == e.standard_error[1:]).all()
    assert e.sum(0).standard_error is None
    import xarray

    assert isinstance(e.to_xarray(), xarray.Dataset) and (e.to_xarray()["standard_error"] == e.standard_error).all()


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"samples": 1}, "Expected samples to be a whole number ≥ 2, received 1"),
        ({"samples": 2.0}, "Expected samples"),
        ({"samples": 10, "tolerance": 0.1}, "Expected samples or a tolerance, received samples=10 with tolerance=0.1"),
        ({"samples": 10, "max_evaluations": 9}, "received samples=10 with max_evaluations=9"),
        ({"tolerance": 0}, "Expected a tolerance > 0"),
        ({"max_evaluations": 1}, "Expected max_evaluations to be a whole number ≥ 2"),
        ({"seed": -1}, "Expected seed to be a whole number ≥ 0"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        ExpectedGradients(linear, **settings)


# ---- captum --------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(BACKEND != "torch", reason="captum explains torch modules")
def test_captum_tends_to_the_same_values():
    """GradientShap without noise, whose draws of baselines and places are independent: the same expectation."""
    import torch
    from captum.attr import GradientShap

    model = mlp()
    method = GradientShap(lambda x: model(x, training=False))
    torch.manual_seed(0)
    theirs = method.attribute(torch.from_numpy(X), torch.from_numpy(SET), n_samples=20_000, stdevs=0.0, target=1)
    ours = ExpectedGradients(model, samples=40 * M).explain(X, 1, SET)
    assert np.abs(theirs.detach().numpy() - ours.values).sum() <= 0.03 * np.abs(ours.values).sum()
