"""Integrated Hessians against closed forms, double integrals by brute force, and what pairs must add up to."""

import warnings

import keras
import numpy as np
import pytest
from conftest import close, float64, host, mlp, scatter, unchanged
from keras import ops

import aumann
from aumann.core.quadrature import LogRule

L = keras.layers


def double_integral(gradient, hessian, x, b, n=40):
    """∫∫ αβ dᵢdⱼ ∂ᵢⱼF + δᵢⱼ dᵢ ∂ᵢF at b + αβ d for one row, on an n × n Gauss–Legendre grid."""
    t, w = np.polynomial.legendre.leggauss(n)
    t, w = (t + 1) / 2, w / 2
    d = x - b
    total = np.zeros((len(x), len(x)))
    for alpha, u in zip(t, w, strict=True):
        for beta, v in zip(t, w, strict=True):
            z = b + alpha * beta * d
            total += u * v * (alpha * beta * np.outer(d, d) * hessian(z) + np.diag(d * gradient(z)))
    return total


class Tanh:
    """F = Σₖ cₖ tanh(aₖ · x + bₖ) with its derivatives by hand, and as a Keras model."""

    def __init__(self, features, units=6, seed=3):
        rng = np.random.default_rng(seed)
        self.a, self.b, self.c = (0.6 * rng.normal(size=s) for s in ((features, units), units, (units, 1)))
        self.model = keras.Sequential([L.Input((features,)), L.Dense(units, "tanh"), L.Dense(1, use_bias=False)])
        self.model.set_weights([self.a, self.b, self.c])

    def gradient(self, z):
        return self.a @ (self.c[:, 0] / np.cosh(z @ self.a + self.b) ** 2)

    def hessian(self, z):
        h = z @ self.a + self.b
        return self.a * (self.c[:, 0] * -2 * np.tanh(h) / np.cosh(h) ** 2) @ self.a.T


@pytest.fixture(scope="module")
def smooth():
    return Tanh(4)


@pytest.fixture(scope="module")
def hessians(smooth):
    """Shared, so that it compiles once."""
    return aumann.IntegratedHessians(smooth.model, rule=aumann.log_gauss(16))


# ---- the rule --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [1, 2, 3, 8, 12, 24, 40])
def test_the_rule_integrates_powers_against_the_logarithm(n):
    """∫₀¹ −ln t tᵏ dt = 1/(k + 1)², and not one power more."""
    rule = aumann.log_gauss(n)
    k = np.arange(2 * n)
    assert np.abs(rule.weights @ rule.nodes[:, None] ** k * (k + 1) ** 2 - 1).max() < 1e-12
    assert (rule.weights > 0).all() and (rule.nodes > 0).all() and len(rule) == n
    if n < 4:
        assert abs(rule.weights @ rule.nodes ** (2 * n) - 1 / (2 * n + 1) ** 2) > 1e-9


def test_the_rule_of_two_nodes_is_known():
    """Stroud, Secrest (1966): nodes 0.112008806166976, 0.602276908118738."""
    rule = aumann.log_gauss(2)
    assert np.abs(rule.nodes - [0.112008806166976, 0.602276908118738]).max() < 1e-15
    assert np.abs(rule.weights - [0.718539319030384, 0.281460680969615]).max() < 1e-14


def test_a_rule_for_another_density_is_refused():
    with pytest.raises(ValueError, match="exactness"):
        LogRule("mine", [0.5], [1.0], 1)
    with pytest.raises(ValueError, match="whole number"):
        aumann.log_gauss(0)
    with pytest.raises(TypeError, match="Expected a rule"):
        aumann.IntegratedGradients(mlp(), rule=aumann.log_gauss(5))
    with pytest.raises(TypeError, match="density"):
        aumann.IntegratedHessians(mlp(), rule=aumann.gauss_legendre(5))


# ---- known interactions ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("powers", [(1, 1, 0), (2, 1, 0), (1, 1, 1), (3, 0, 2), (1, 0, 0)])
def test_monomials(powers):
    """F = Π xᵢ^aᵢ from 0: Γᵢⱼ = aᵢ aⱼ F / (Σ a)², by n nodes if Σ a ≤ 2n."""
    x = np.random.default_rng(1).uniform(0.5, 2, (4, 3)).astype("float32")
    f = np.prod(x.astype("float64") ** powers, axis=1)

    def monomial(x):
        y = ops.ones_like(x[:, 0])
        for i, a in enumerate(powers):
            for _ in range(a):
                y = y * x[:, i]
        return y

    found = aumann.IntegratedHessians(monomial, rule=aumann.log_gauss(3)).explain(x)
    a = np.array(powers) / sum(powers)
    close(found.values, f[:, None, None] * np.outer(a, a))
    close(found.main, f[:, None] * a**2)
    close(found.attributions, f[:, None] * a)


def test_double_integrals_by_brute_force(smooth, rng):
    """From a baseline that is not zero; 12 Hessians give 1e-6 of a smooth network."""
    x, b = rng.normal(size=(3, 4)), rng.normal(size=4)
    truth = np.stack([double_integral(smooth.gradient, smooth.hessian, row, b) for row in x])
    found = aumann.IntegratedHessians(smooth.model, rule=aumann.log_gauss(12)).explain(x, baseline=b)
    assert np.abs(found.values - truth).sum() / np.abs(truth).sum() < 2e-6


def test_float64_is_spectral(rng):
    """Twice the nodes, digits more, down to the rounding of float64. Keras rounds matrix products; none is here."""
    with float64():

        def f(x):
            return ops.exp(0.3 * x[:, 0] * x[:, 1] - 0.2 * x[:, 2] ** 2 + 0.5 * x[:, 1])

        x = rng.normal(size=(3, 3)).astype("float64")
        values = [
            aumann.IntegratedHessians(f, rule=aumann.log_gauss(n)).explain(x, baseline=np.full(3, 0.3)).values
            for n in (4, 8, 40)
        ]
        sums = values[-1].sum((1, 2))
        change = host(f(ops.convert_to_tensor(x))) - host(f(ops.full((1, 3), 0.3, dtype="float64")))
    assert np.abs(sums - change).max() < 1e-13
    first, second = (np.abs(v - values[-1]).sum() for v in values[:2])
    assert second < 1e-2 * first


def test_what_pairs_add_up_to(hessians, smooth, x):
    """Symmetry; rows are integrated gradients; all together F(x) − F(x′)."""
    found = hessians.explain(x, baseline=0.2)
    ig = aumann.IntegratedGradients(smooth.model, rule=aumann.gauss_legendre(16)).explain(x, baseline=0.2)
    close(found.values, found.values.swapaxes(1, 2))
    close(found.attributions, ig.values)
    close(found.values.sum((1, 2)), found.prediction - found.base_value)
    close(found.explanation.values, ig.values)
    close(found.residual, found.attributions - ig.values, scale=np.abs(ig.values).max())
    assert found.error is None and found.converged is None
    assert (found.evaluations == 16 * (4 + 2)).all() and found.provenance["rule"] == "log_gauss(16)"


def test_additive_functions_have_no_interactions(x):
    found = aumann.IntegratedHessians(lambda x: ops.sum(ops.exp(x), axis=1)).explain(x)
    assert (found.values[:, ~np.eye(4, dtype=bool)] == 0).all()
    close(found.main, np.exp(x.astype("float64")) - 1)


# ---- what may be chosen ----------------------------------------------------------------------------------------------


def test_chosen_features_are_rows_of_the_matrix(hessians, x):
    whole = hessians.explain(x)
    assert whole.features == ("[0]", "[1]", "[2]", "[3]")
    for features, rows in ((2, [2]), ([3, 1], [3, 1]), (-1, [3]), ((1,), [1]), (["[0]", (2,)], [0, 2])):
        some = hessians.explain(x, features=features)
        assert some.chosen.tolist() == rows
        close(some.values, whole.values[:, rows])
        close(some.main, whole.main[:, rows])
        close(some.residual, whole.residual[:, rows], scale=np.abs(whole.values).max())
    close(some.explanation.values, whole.explanation.values)


def test_groups_are_blocks_of_the_matrix(hessians, x):
    whole = hessians.explain(x, baseline=0.3).values
    labels = np.array([5, 2, 5, 9])
    blocks = np.stack(
        [[whole[:, labels == a][:, :, labels == b].sum((1, 2)) for b in (2, 5, 9)] for a in (2, 5, 9)]
    ).transpose(2, 0, 1)
    found = hessians.explain(x, baseline=0.3, groups=labels)
    assert found.features == ("2", "5", "9")
    close(found.values, blocks)
    close(found.residual, found.residual * 0, scale=np.abs(blocks).max())
    one = hessians.explain(x, baseline=0.3, groups={"a": [0, 2], "b": [1]}, features=["b", "(rest)"])
    close(one.values, blocks[:, [0, 2]][:, :, [1, 0, 2]])


def test_several_inputs_and_one_held_still(rng):
    """F = a₀ a₁ b₀ c₀ with c fixed: Γ is that of three factors, in the order of the user's dict."""
    data = {k: rng.uniform(0.5, 2, (3, n)).astype("float32") for k, n in (("b", 1), ("a", 2), ("c", 1))}

    def f(inputs):
        return inputs["a"][:, 0] * inputs["a"][:, 1] * inputs["b"][:, 0] * inputs["c"][:, 0]

    explainer = aumann.IntegratedHessians(f, rule=aumann.log_gauss(2))
    baseline = {"a": 0.0, "b": 0.0, "c": "fixed"}
    found = explainer.explain(data, baseline=baseline)
    truth = np.prod([data["a"][:, 0], data["a"][:, 1], data["b"][:, 0], data["c"][:, 0]], axis=0)
    assert sorted(found.features) == ["a [0]", "a [1]", "b [0]"]
    close(found.values, np.broadcast_to(truth[:, None, None] / 9, (3, 3, 3)))
    assert explainer.explain(data, baseline=baseline, features=("b", 0)).chosen == found.features.index("b [0]")
    pairs = explainer.explain(data, baseline=baseline, groups={"a": [0, 0]})
    both = pairs.features.index("a 0")
    close(pairs.main[:, both], truth * 4 / 9)
    close(pairs.main[:, 1 - both], truth / 9)


def test_tokens_of_an_embedding(rng):
    """Groups of the embedding's numbers: one product for a token, and blocks of the whole matrix."""
    model = keras.Sequential(
        [L.Input((3,), dtype="int32"), L.Embedding(9, 2), L.Flatten(), L.Dense(4, "tanh"), L.Dense(1)]
    )
    scatter(model)
    ids = rng.integers(0, 9, (2, 3))
    explainer = aumann.IntegratedHessians(model, rule=aumann.log_gauss(8))
    whole = explainer.explain(ids, baseline=0)
    assert whole.values.shape == (2, 6, 6)
    tokens = explainer.explain(ids, baseline=0, groups=np.arange(3)[:, None])
    close(tokens.values, whole.values.reshape(2, 3, 2, 3, 2).sum((2, 4)))
    assert tokens.evaluations.tolist() == [8 * 5] * 2


def test_a_set_of_baselines_is_averaged(hessians, rng, x):
    rows, weights = rng.normal(size=(3, 4)).astype("float32"), [0.5, 0.3, 0.2]
    mean = sum(w * hessians.explain(x, baseline=b).values for w, b in zip(weights, rows, strict=True))
    found = hessians.explain(x, baseline=aumann.baselines.weighted(rows, weights))
    close(found.values, mean)
    assert (found.evaluations == 3 * 16 * 6).all()


def test_targets(x):
    model = mlp()
    explainer = aumann.IntegratedHessians(model, rule=aumann.log_gauss(8))
    every = explainer.explain(x, target="all")
    assert every.values.shape == (5, 3, 4, 4) and every.residual.shape == (5, 3, 4)
    for k in range(3):
        close(explainer.explain(x, target=k).values, every.values[:, k])
    own = every.prediction.argmax(1)
    close(explainer.explain(x, target="predicted").values, every.values[np.arange(5), own])
    close(
        explainer.explain(x, target=lambda y: y[:, 0] - y[:, 2]).values,
        every.values[:, 0] - every.values[:, 2],
        scale=np.abs(every.values).max(),
    )


def test_a_batch_is_its_rows_whatever_its_size(smooth, hessians, x):
    whole = hessians.explain(x)
    for size in (1, 5, 24):
        part = aumann.IntegratedHessians(smooth.model, rule=aumann.log_gauss(16), batch_size=size).explain(x)
        close(part.values, whole.values)
    close(hessians.explain(x[2:3]).values, whole[2].values)
    assert len(whole[1:3]) == 2 and whole[1:3].prediction.tolist() == whole.prediction[1:3].tolist()


# ---- to a tolerance --------------------------------------------------------------------------------------------------


def test_tolerance_is_met_and_its_error_is_honest(smooth, x):
    truth = np.stack([double_integral(smooth.gradient, smooth.hessian, row, 0 * row) for row in 2 * x.astype(float)])
    spent = []
    for tolerance in (0.05, 1e-4):
        found = aumann.IntegratedHessians(smooth.model, tolerance=tolerance).explain(2 * x)
        off = np.abs(found.values - truth).sum((1, 2)) / np.abs(truth).sum((1, 2))
        assert found.converged.all() and (off <= found.error).all() and (found.error <= tolerance).all()
        spent.append(found.evaluations.sum())
    assert spent[0] < spent[1]


def test_rows_that_miss_the_tolerance_are_named(smooth, x):
    explainer = aumann.IntegratedHessians(smooth.model, tolerance=1e-9, max_evaluations=12)
    with pytest.warns(aumann.ToleranceWarning, match="max_evaluations=12"):
        found = explainer.explain(x)
    assert not found.converged.any() and (found.evaluations == 12 * 6).all()


# ---- what is said ----------------------------------------------------------------------------------------------------


def test_kinks_are_named(x):
    model = scatter(keras.Sequential([L.Input((4,)), L.Dense(6, "relu"), L.Dense(1)]))
    with pytest.warns(aumann.CompletenessWarning, match="softplus or GELU"):
        found = aumann.IntegratedHessians(model, max_evaluations=12, tolerance=10).explain(x)
    assert (found.values[:, ~np.eye(4, dtype=bool)] == 0).all()


@pytest.mark.parametrize("activation", ["gelu", "softplus", "swish", "softmax"])
def test_smooth_models_are_not_blamed(activation, x):
    model = keras.Sequential([L.Input((4,)), L.Dense(5, activation), L.LayerNormalization(), L.Dense(2, "softmax")])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = aumann.IntegratedHessians(scatter(model), rule=aumann.log_gauss(12)).explain(x, target=1)
    assert np.abs(found.residual).sum() < 0.05 * np.abs(found.values).sum()


def test_the_model_is_left_alone(x):
    model = mlp()
    with unchanged(model):
        aumann.IntegratedHessians(model, tolerance=0.1).explain(x, target="predicted", features=[0])


@pytest.mark.parametrize(
    "given, says",
    [
        ({"features": 4}, "between 0 and 3"),
        ({"features": "age"}, "one of the names"),
        ({"features": (0, 1)}, "tuple index"),
        ({"features": True}, "received True"),
        ({"features": []}, "at least one feature"),
        ({"groups": [0, 1]}, r"shape \(4,\)"),
        ({"groups": {"a": [9]}}, "members of 'a'"),
        ({"groups": {"a": [0], "b": [0]}}, "without overlap"),
    ],
)
def test_bad_choices(hessians, x, given, says):
    with pytest.raises(ValueError, match=says):
        hessians.explain(x, **given)


def test_bad_settings(classifier):
    with pytest.raises(ValueError, match="rule or a tolerance"):
        aumann.IntegratedHessians(classifier, rule=aumann.log_gauss(4), tolerance=0.1)
    with pytest.raises(ValueError, match="max_evaluations"):
        aumann.IntegratedHessians(classifier, max_evaluations=5)
    with pytest.raises(ValueError, match="tolerance > 0"):
        aumann.IntegratedHessians(classifier, tolerance=0)


def test_too_many_features_for_a_matrix():
    explainer = aumann.IntegratedHessians(lambda x: ops.sum(x**2, axis=1), rule=aumann.log_gauss(1))
    x = np.ones((1, 3000), "float32")
    with pytest.raises(ValueError, match="2048 features"):
        explainer.explain(x)
    found = explainer.explain(x, features=[7])
    assert found.values[0, 0, 7] == pytest.approx(1) and np.count_nonzero(found.values) == 1
