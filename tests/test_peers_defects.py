"""Defects that released attribution libraries have, each as a test that they would fail.

The name of each test says whose defect it is; the closed form says what is right.
"""

import gc
import weakref

import keras
import numpy as np
import pytest
from conftest import BACKEND, close, float64, forward, host, mlp, random_states, scatter, unchanged
from keras import layers, ops

import aumann

W = np.array([0.5, -2.0, 3.0], "float32")
X = np.random.default_rng(4).normal(size=(4, 3)).astype("float32")


def linear(x):
    return ops.sum(x * ops.convert_to_tensor(W), axis=1)


def cubes(x):
    return ops.sum(x**3, axis=1)


def logistic(slope, bias=0.0):
    """p = 1 / (1 + exp(-(slope x + bias))) of one feature."""
    model = keras.Sequential([layers.Input((1,)), layers.Dense(1, activation="sigmoid")])
    model.set_weights([np.array([[slope]]), np.array([bias])])
    return model


@pytest.mark.parametrize("family", [aumann.trapezoid, aumann.clenshaw_curtis, aumann.midpoint, aumann.gauss_legendre])
@pytest.mark.parametrize("n", [2, 3, 50])
def test_captum_and_alibi_trapezoid_weights_sum_to_less_than_one(family, n):
    """Theirs: (n - 1) / n, so a linear model is 2 % off at 50 steps."""
    e = aumann.IntegratedGradients(linear, rule=family(n)).explain(X, baseline=0.5)
    close(e.values, (X - 0.5) * W)
    close(e.residual, np.zeros(4), scale=1)


def test_pair_closed_grid_with_equal_weights_is_one_percent_off_on_a_cube():
    """The trapezoid errs by (g'(1) - g'(0)) / 12 (n - 1)², here x³ / 2 (n - 1)²; two Gauss–Legendre nodes are exact."""
    x = np.array([[1.0, -2.0]], "float32")
    trapezoid = aumann.IntegratedGradients(cubes, rule=aumann.trapezoid(50)).explain(x)
    close(trapezoid.values, x**3 * (1 + 1 / (2 * 49**2)))
    assert np.abs(trapezoid.values - x**3).max() > 1e-4
    close(aumann.IntegratedGradients(cubes, rule=aumann.gauss_legendre(2)).explain(x).values, x**3)


def test_captum_layer_attributions_discard_the_weights_of_the_rule_and_shap_gets_half_of_them_right():
    """F = Σ h³ of a layer's output h: its attributions h³ - h'³ at three Gauss nodes, complete."""
    h = layers.Dense(5, name="h")
    model = keras.Sequential([layers.Input((3,)), h, layers.Lambda(lambda h: ops.sum(h**3, axis=1))])
    scatter(model)
    e = aumann.IntegratedGradients(model, layer="h", rule=aumann.gauss_legendre(2)).explain(X, baseline=0.5)
    close(e.values, host(h(X)) ** 3 - host(h(np.full((1, 3), 0.5, "float32"))) ** 3)
    close(e.residual, np.zeros(4), scale=np.abs(e.values).max())


def test_captum_baseline_rows_of_several_inputs_are_drawn_apart():
    """F = u v over joint rows (1, 1) and (-1, -1): E[u' v'] = 1, drawn apart it would be 0."""
    e = aumann.IntegratedGradients(lambda u, v: (u * v)[:, 0], rule=aumann.gauss_legendre(2)).explain(
        [np.array([[3.0]]), np.array([[2.0]])],
        baseline=aumann.baselines.weighted([np.array([[1.0], [-1.0]])] * 2),
    )
    close(e.base_value, np.array([1.0]))
    close(e.values, [np.array([[2.5]]), np.array([[2.5]])])  # the mean of (u - u')(v + v') / 2


def test_captum_uses_2_distinct_baselines_for_20():
    """Every one of 20 baselines counts, for every row."""
    starts = np.random.default_rng(1).normal(size=(20, 3))
    e = aumann.IntegratedGradients(cubes, rule=aumann.gauss_legendre(2)).explain(
        X, baseline=aumann.baselines.weighted(starts)
    )
    close(e.values, X**3 - (starts**3).mean(0))
    close(e.base_value, np.full(4, (starts**3).sum(1).mean()))


def test_captum_float64_stalls_at_1e_8():
    """∫ of a polynomial of degree 7 over 8 nodes: rounding of float64 is all that is left."""
    with float64():
        x = np.random.default_rng(0).normal(size=(3, 4))
        e = aumann.IntegratedGradients(lambda x: ops.sum(x**8, axis=1), rule=aumann.gauss_legendre(8)).explain(x)
        assert e.values.dtype == np.float64 and e.provenance["dtype"] == "float64"
        close(e.values, x**8, "float64")
        assert (np.abs(e.residual) <= 1e-13 * (x**8).sum(1)).all()


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32"])
def test_captum_unsigned_integers_wrap(dtype):
    """Theirs: 10 - 200 = 66."""
    x, start = np.array([[10, 250, 7]], dtype), np.array([200, 10, 7], dtype)
    e = aumann.IntegratedGradients(linear, rule=aumann.midpoint(1)).explain(x, baseline=start)
    close(e.values, np.array([[-190.0, 240.0, 0.0]]) * W)


def test_captum_updates_the_statistics_of_batch_normalisation():
    """The moving statistics stay bit for bit, and the answer is that of inference."""
    model = keras.Sequential([layers.Input((3,)), layers.BatchNormalization(), layers.Dropout(0.9), layers.Dense(1)])
    scatter(model).compile("sgd", "mse")
    model.fit(X, X[:, 0], epochs=2, verbose=0)
    with unchanged(model):
        e = aumann.IntegratedGradients(model, rule=aumann.midpoint(2)).explain(X)
    gamma, _, _, variance, kernel, _ = (host(v.value) for v in (*model.layers[0].weights, *model.layers[2].weights))
    close(e.values, X * kernel[:, 0] * gamma / np.sqrt(variance + 1e-3))


def test_xplique_ignores_that_logits_were_asked_for():
    model = logistic(3.0, bias=-1.0)
    x = np.array([[2.0]], "float32")
    rule = aumann.gauss_legendre(16)
    close(aumann.IntegratedGradients(model, output="logits", rule=rule).explain(x).values, np.array([[6.0]]))
    p = 1 / (1 + np.exp(-np.array([5.0, -1.0])))
    close(aumann.IntegratedGradients(model, rule=rule).explain(x).values, np.array([[p[0] - p[1]]]))


def test_xplique_keeps_models_alive_for_ever():
    def explain_and_forget(model):
        explainer = aumann.IntegratedGradients(model, output="logits", rule=aumann.gauss_legendre(8))
        explainer.explain(X, "predicted", aumann.baselines.weighted(X[:2]))
        explainer.explain(X, lambda y: y[:, 0])
        return weakref.ref(explainer), weakref.ref(model)

    model = mlp(features=3)
    references = explain_and_forget(model)
    del model
    for _ in range(3):
        gc.collect()
    assert [r() for r in references] == [None, None]


def test_alibi_residual_of_a_sigmoid_unit_has_the_wrong_sign_with_a_target():
    """The left sum of a convex slope misses in a known direction: Σφ - (F(x) - F(x')) = -(g(1) - g(0)) / 2n + … < 0."""
    x = np.array([[1.0]], "float32")

    def p(z):
        return 1 / (1 + np.exp(-z))

    slopes = [p(k / 4 - 3) * (1 - p(k / 4 - 3)) for k in range(4)]
    expected = np.mean(slopes) - (p(-2.0) - p(-3.0))
    assert expected < 0
    for target in (None, 0, [0]):
        with pytest.warns(aumann.CompletenessWarning):
            e = aumann.IntegratedGradients(logistic(1.0, bias=-3.0), rule=aumann.left(4)).explain(x, target)
        close(e.residual.ravel(), np.array([expected]))


def test_alibi_accepts_a_target_out_of_range():
    explainer = aumann.IntegratedGradients(logistic(1.0), rule=aumann.midpoint(4))
    for target in (1, -2, [0, 1], np.array([0, 1])):
        with pytest.raises(ValueError, match="between 0 and 0"):
            explainer.explain(np.ones((2, 1)), target)


def test_shap_a_failed_call_corrupts_the_framework_so_that_the_next_fit_dies():
    model = mlp(features=3)
    model.compile("adam", "sparse_categorical_crossentropy")

    def fail(done, total):
        raise RuntimeError("in the middle")

    with pytest.raises(RuntimeError, match="in the middle"):
        aumann.IntegratedGradients(model, batch_size=2, rule=aumann.midpoint(3)).explain(X, 0, progress=fail)
    with pytest.raises(ValueError):
        aumann.IntegratedGradients(model, rule=aumann.midpoint(3)).explain(X, lambda y: ops.argmax(y, axis=1))
    before = model.get_weights()
    assert np.isfinite(model.fit(X, np.arange(4) % 3, verbose=0).history["loss"]).all()
    assert all(np.abs(a - b).max() > 0 for a, b in zip(before, model.get_weights(), strict=True))


def framework_draw():
    """A number from the framework's own global generator, where it has one."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return float(tf.random.normal(()))
    if BACKEND == "torch":
        import torch

        return float(torch.randn(()))
    return None


def test_shap_resets_the_global_random_state():
    model = keras.Sequential([layers.Input((3,)), layers.Dropout(0.5), layers.Dense(2)])
    drawn = []
    for explain in (True, False):
        keras.utils.set_random_seed(3)
        before = random_states()
        if explain:
            aumann.IntegratedGradients(model, rule=aumann.midpoint(2)).explain(X, 0)
        assert random_states() == before
        drawn.append([np.random.random(), *host(keras.random.normal((2,))).tolist(), framework_draw()])
    assert drawn[0] == drawn[1]


def test_tf_explain_leaves_out_the_difference_from_the_baseline():
    e = aumann.IntegratedGradients(linear, rule=aumann.midpoint(1)).explain(X, baseline=X)
    assert not e.values.any()
    close(aumann.IntegratedGradients(linear, rule=aumann.midpoint(1)).explain(10 * X).values, 10 * X * W)


def test_inseq_and_pair_mix_the_examples_of_a_batch():
    """Rows of very different sizes: any leak between them would show. Batches of 1, 2 and 4 agree."""
    x = X * np.array([[1e-3], [1.0], [1e3], [0.0]], "float32")
    for batch_size in (1, 2, 4, "auto"):
        e = aumann.IntegratedGradients(cubes, rule=aumann.gauss_legendre(2), batch_size=batch_size).explain(x)
        for row, values in zip(x, e.values, strict=True):
            close(values, row**3, scale=np.abs(row**3).max() or 1)


def test_a_tutorial_multiplies_the_gradient_at_preprocessed_pixels_by_the_raw_difference():
    """Theirs: 127.5 times too large. Raw pixels go in, and the model rescales."""
    model = keras.Sequential([layers.Input((3,)), layers.Rescaling(1 / 127.5, offset=-1), layers.Dense(1)])
    scatter(model)
    pixels = np.array([[0, 128, 255]], "uint8")
    e = aumann.IntegratedGradients(model, rule=aumann.midpoint(1)).explain(pixels, baseline=255)
    close(e.values, (pixels.astype(float) - 255) / 127.5 * host(model.layers[-1].kernel)[:, 0])
    close(e.values.sum(1), forward(model, pixels.astype("float32"))[:, 0] - e.base_value)


ARGUMENTS = {
    "output": ({"output": "logits"}, {}),
    "layer": ({"layer": "hidden"}, {}),
    "rule": ({"rule": aumann.left(2)}, {}),
    "target": ({}, {"target": 1}),
    "baseline": ({}, {"baseline": 0.5}),
}


@pytest.mark.parametrize("argument", ARGUMENTS)
def test_innvestigate_has_an_argument_without_effect(argument):
    options, call = ARGUMENTS[argument]
    model = keras.Sequential(
        [layers.Input((3,)), layers.Dense(3, activation="tanh", name="hidden"), layers.Dense(2, activation="softmax")]
    )
    scatter(model)
    usual = aumann.IntegratedGradients(model, rule=aumann.gauss_legendre(8)).explain(X, target=0)
    with np.errstate(all="raise"):
        explainer = aumann.IntegratedGradients(model, **{"rule": aumann.gauss_legendre(8), **options})
        if argument == "rule":
            with pytest.warns(aumann.CompletenessWarning):
                other = explainer.explain(X, **{"target": 0, **call})
        else:
            other = explainer.explain(X, **{"target": 0, **call})
    assert np.abs(other.values - usual.values).max() > 1e-2


def test_innvestigate_progress_and_batch_size_have_their_effects():
    calls = []
    explainer = aumann.IntegratedGradients(linear, rule=aumann.midpoint(5), batch_size=4)
    e = explainer.explain(X, progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (20, 20) and [c[0] for c in calls] == sorted({c[0] for c in calls}) and len(calls) >= 5
    assert e.provenance["batch_size"] == 4 and (e.evaluations == 5).all()
    assert aumann.IntegratedGradients(linear).explain(X).provenance["batch_size"] != 4
