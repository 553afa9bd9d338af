"""Smoothing: moments over noise of what an explainer says, against closed forms of linear and quadratic models.

F = ½ xᵀ H x + gᵀ x has the gradient H x + g, so that with noise of deviations s the gradient has the mean H x + g, the
variances Σⱼ (H s)ᵢⱼ², and the sum of both squared as the mean of its squares.
"""

import keras
import numpy as np
import pytest
from conftest import BACKEND, close, mlp, unchanged
from keras import ops

import aumann
from aumann import ExpectedGradients, IntegratedGradients, Saliency, Smooth
from aumann.core.moments import RunningMoments

RNG = np.random.default_rng(3)
N, D = 3, 5
X, G, H = (RNG.normal(size=s).astype("float32") for s in ((N, D), D, (D, D)))
H = H + H.T
SIGMA = 0.2 * np.ptp(X, axis=1)


def linear(x):
    return ops.sum(ops.convert_to_tensor(G) * x, axis=1)


def quadratic(x):
    return ops.sum(x * (0.5 * ops.matmul(x, ops.convert_to_tensor(H)) + ops.convert_to_tensor(G)), axis=1)


QUADRATIC, TANH = Saliency(quadratic), Saliency(mlp(features=D))
RULE = aumann.gauss_legendre(4)


def within(e, expected, times=5):
    return (np.abs(e.values - expected) <= times * e.standard_error + 1e-6).all()


def test_a_linear_model_knows_no_noise():
    for explainer in (Saliency(linear), IntegratedGradients(linear, rule=RULE)):
        plain, e = explainer.explain(X), Smooth(explainer, samples=300).explain(X)
        if isinstance(explainer, IntegratedGradients):
            assert within(e, plain.values) and (e.standard_error > 0).any()  # its inputs have noise
            close(e.residual, np.zeros(N), scale=10)
        else:
            close(e.values, plain.values)
            close(e.standard_error, np.zeros((N, D)), scale=1)


@pytest.mark.parametrize("moment", ["mean", "square", "variance"])
def test_moments_of_the_gradient_of_a_quadratic(moment):
    mean, variance = X @ H + G, (SIGMA[:, None] ** 2) * (H**2).sum(0)
    expected = {"mean": mean, "square": mean**2 + variance, "variance": variance}[moment]
    found = [Smooth(QUADRATIC, 0.2, 64, moment=moment, seed=s).explain(X) for s in range(40)]
    values, told = (np.array([getattr(e, f) for e in found], "float64") for f in ("values", "standard_error"))
    off = values - expected
    assert (np.abs(off.mean(0)) <= 4.5 * off.std(0) / np.sqrt(40)).all()
    each = np.sqrt((told**2).mean((0, 1)) / (off**2).mean((0, 1)))
    assert 0.85 <= np.sqrt((told**2).sum() / (off**2).sum()) <= 1.2 and (np.abs(each - 1) <= 0.5).all()
    e = found[0]
    assert (e.inputs == X).all() and (e.evaluations == 64).all() and e.error is None
    assert e.provenance["method"] == "Smooth" and e.provenance["complete"] is False
    said = {"of": "Saliency", "samples": 64, "moment": moment, "seed": 0, "noise": 0.2}
    assert e.provenance["smooth"] == said


def test_integrated_gradients_of_the_smoothed_model():
    """E F(x + ε) = F(x) + ½ tr H σ²; φ = (x + ε − x′) ∘ (½ H (x + ε + x′) + g)."""
    start = RNG.normal(size=D).astype("float32")
    e = Smooth(IntegratedGradients(quadratic, rule=RULE), 0.2, 2000).explain(X, baseline=start)
    expected = (X - start) * (0.5 * (X + start) @ H + G) + 0.5 * SIGMA[:, None] ** 2 * np.diag(H)
    assert within(e, expected)
    close(e.residual, np.zeros(N), scale=10)
    close(e.values.sum(1), e.prediction - e.base_value, scale=10)
    smoothed = (X * (0.5 * X @ H + G)).sum(1) + 0.5 * SIGMA**2 * np.trace(H)
    assert (np.abs(e.prediction - smoothed) <= 0.2 * np.abs(smoothed).max()).all()
    close(e.baseline, start[None])
    assert (e.evaluations == 2000 * len(RULE)).all()


def test_noise_of_each_row_relative_to_its_range_or_as_given():
    wide = X * np.array([[1], [10], [0]], "float32")
    e = Smooth(QUADRATIC, 0.1, 400, moment="variance").explain(wide)
    expected = (0.1 * np.ptp(wide, axis=1))[:, None] ** 2 * (H**2).sum(0)
    assert within(e, expected) and not e.values[2].any()
    sigma = np.array([0, 0.5, 1, 0, 2])
    e = Smooth(QUADRATIC, sigma, 400, moment="variance").explain(X)
    assert within(e, (H**2 * sigma**2).sum(1))
    close(e.values, np.broadcast_to(e.values[0], X.shape))
    assert e.provenance["smooth"]["noise"] == "given"


def product(inputs):
    return ops.sum(inputs["u"] * inputs["v"], axis=1)


def test_several_inputs_have_noise_of_their_own():
    u, v = X, RNG.normal(size=(N, D)).astype("float32")
    e = Smooth(Saliency(product), 0.1, 400, moment="variance").explain({"v": v, "u": u})
    for name, other in (("u", v), ("v", u)):  # ∂F/∂u = v
        expected = np.broadcast_to((0.1 * np.ptp(other, axis=1))[:, None] ** 2, (N, D))
        assert (np.abs(e.values[name] - expected) <= 5 * e.standard_error[name]).all()
    held = Smooth(Saliency(product), 0.1, 16, moment="variance").explain({"v": v, "u": u}, baseline={"u": "fixed"})
    assert not held.values["u"].any() and not held.values["v"].any()  # v's gradient is u, which is held
    only = Smooth(Saliency(product), {"u": 0.1}, 16, moment="variance").explain({"v": v, "u": u})
    assert only.values["v"].any() and not only.values["u"].any()
    assert (only.inputs["u"] == u).all() and (only.inputs["v"] == v).all()


def test_ids_beside_floats_get_none():
    layers = keras.layers
    ids, age = layers.Input((4,), dtype="int32", name="ids"), layers.Input((3,), name="age")
    read = layers.Flatten()(layers.Embedding(7, 2)(ids))
    model = keras.Model({"ids": ids, "age": age}, layers.Dense(1)(layers.Concatenate()([read, age])))
    x = {"ids": RNG.integers(0, 7, (2, 4)), "age": RNG.normal(size=(2, 3))}
    plain = IntegratedGradients(model, rule=RULE).explain(x)
    e = Smooth(IntegratedGradients(model, rule=RULE), samples=8).explain(x)
    close(e.values["ids"], plain.values["ids"])
    assert not e.standard_error["ids"].any() and e.standard_error["age"].any()
    only = keras.Sequential(
        [layers.Input((4,), dtype="int32"), layers.Embedding(7, 2), layers.Flatten(), layers.Dense(1)]
    )
    with pytest.raises(ValueError, match=r"input that noise can be added to, received .* int64 .*token ids"):
        Smooth(Saliency(only)).explain(x["ids"])


# ---- promises ------------------------------------------------------------------------------------------------------


def test_the_same_numbers_whatever_the_batch_and_the_company():
    targets = [np.array([0, 2, 1]), "predicted"]
    starts = RNG.normal(size=(N, D)).astype("float32")
    ig = IntegratedGradients(TANH.model, rule=RULE)
    e = Smooth(ig).explain(X, targets, starts)
    for size in (1, 13):
        other = Smooth(IntegratedGradients(TANH.model, rule=RULE, batch_size=size)).explain(X, targets, starts)
        for field in ("values", "standard_error", "prediction", "base_value"):
            close(getattr(other, field), getattr(e, field))
    one = Smooth(ig).explain(X[1:2], [2, "predicted"], starts[1:2])
    close(one.values, e.values[1:2])
    close(one.baseline, e.baseline[1:2])


def test_seeds():
    with unchanged(TANH.model):
        e = Smooth(TANH).explain(X, 1)
    assert (Smooth(TANH).explain(X, 1).values == e.values).all()
    other = Smooth(TANH, seed=1).explain(X, 1)
    assert np.abs(other.values - e.values).max() > 1e-5
    assert (np.abs(other.values - e.values) <= 6 * np.hypot(e.standard_error, other.standard_error)).all()
    assert np.abs(Smooth(TANH, 0.3).explain(X, 1).values - e.values).max() > 1e-5
    assert np.abs(Smooth(TANH, samples=16).explain(X, 1).values - e.values).max() > 1e-5


def test_the_class_is_that_of_the_input_without_noise():
    e = Smooth(TANH, 2.0, 64).explain(X, "predicted")
    predicted = TANH.explain(X, "all").prediction.argmax(1)
    close(e.values, Smooth(TANH, 2.0, 64).explain(X, predicted).values)


def test_what_a_callable_says_of_the_baseline_is_asked_once():
    asked = []
    e = Smooth(IntegratedGradients(quadratic, rule=RULE), samples=8).explain(
        X, baseline=lambda x: asked.append(x) or x[:1]
    )
    assert len(asked) == 1 and asked[0] is X
    close(e.baseline, X[:1])


@pytest.mark.slow
def test_gradient_shap_draws_baselines_for_every_sample_of_the_noise():
    """As a table of values over seeds: what is left of the baselines falls with the samples of the noise too."""
    background = RNG.normal(size=(200, D)).astype("float32")
    eg = ExpectedGradients(quadratic, samples=4)
    found = [Smooth(eg, 0.1, 12, seed=s).explain(X, baseline=background) for s in range(30)]
    exact = IntegratedGradients(quadratic, rule=RULE).explain(X, baseline=aumann.baselines.weighted(background)).values
    exact = exact + 0.5 * (0.1 * np.ptp(X, axis=1))[:, None] ** 2 * np.diag(H)
    off, told = (np.array(a) for a in ([e.values - exact for e in found], [e.standard_error for e in found]))
    assert 0.85 <= np.sqrt((told**2).sum() / (off**2).sum()) <= 1.2
    assert (found[0].evaluations == 12 * 4).all()


@pytest.mark.slow
def test_gradient_shap_of_a_distribution_draws_anew():
    eg, drawn = ExpectedGradients(linear, samples=4), []

    def draw(rng, count):
        drawn.append(rng.normal(size=(count, D)))
        return drawn[-1]

    found = [Smooth(eg, 0.1, 8, seed=s).explain(X, baseline=draw) for s in range(20)]
    assert len({rows.tobytes() for rows in drawn}) >= 20 * 8
    off, told = (np.array(a) for a in ([e.values - G * X for e in found], [e.standard_error for e in found]))
    assert 0.8 <= np.sqrt((told**2).sum() / (off**2).sum()) <= 1.25


def test_rows_that_miss_the_tolerance_are_named_once():
    ig = IntegratedGradients(TANH.model, tolerance=1e-6, max_evaluations=9)
    with pytest.warns(aumann.ToleranceWarning, match=r"Rows \[0, 1, 2\] did not reach the tolerance 1e-06 at") as said:
        e = Smooth(ig, samples=4).explain(X, 1)
    assert len(said) == 1 and not e.converged.any()
    assert Smooth(IntegratedGradients(TANH.model), samples=4).explain(X, 1).converged.all()


def test_rough_rules_are_told():
    with pytest.warns(aumann.CompletenessWarning, match="mean of F") as said:
        Smooth(IntegratedGradients(TANH.model, rule=aumann.left(1)), samples=4).explain(3 * X, 1)
    assert len(said) == 1


def test_progress():
    seen = []
    explainer = IntegratedGradients(quadratic, rule=RULE, batch_size=16)
    Smooth(explainer, samples=8).explain(X, progress=lambda *a: seen.append(a))
    assert seen[-1] == (N * 8 * 4, N * 8 * 4) and [d for d, _ in seen] == sorted(d for d, _ in seen)


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        ({"explainer": quadratic}, TypeError, "Expected a method to smooth, received function"),
        ({"moment": "median"}, ValueError, "Expected moment=.* received 'median'"),
        ({"samples": 1}, ValueError, "Expected samples to be a whole number ≥ 2"),
        ({"seed": 0.5}, ValueError, "Expected seed"),
        ({"noise": -1}, ValueError, "Expected noise ≥ 0"),
        ({"noise": "much"}, ValueError, "Expected noise ≥ 0"),
        ({"noise": 0}, ValueError, "Expected an input that noise can be added to"),
        ({"noise": np.ones(3)}, ValueError, r"broadcasts to a row of shape \(5,\), received shape \(3,\)"),
        ({"noise": {"age": 1}}, ValueError, "Expected noise for some of the inputs"),
    ],
)
def test_bad_settings(arguments, error, message):
    with pytest.raises(error, match=message):
        Smooth(**({"explainer": QUADRATIC} | arguments)).explain(X)


@pytest.mark.parametrize("order", [2, 4])
def test_spread(order):
    draws = RNG.gamma(1.0, size=(50, 3))
    spread = RunningMoments(order)
    for row in draws:
        spread.add([row])
    off = draws - draws.mean(0)
    close(spread.mean[0], draws.mean(0), "float64")
    close(spread.variance()[0], draws.var(0, ddof=1), "float64")
    if order == 4:
        expected = ((off**4).mean(0) - draws.var(0, ddof=1) ** 2 * 47 / 49) / 50
        close(spread.variance_of_variance()[0], expected, "float64")


@pytest.mark.skipif(BACKEND != "torch", reason="captum explains torch modules")
@pytest.mark.parametrize("kind, moment", [("smoothgrad", "mean"), ("smoothgrad_sq", "square"), ("vargrad", "variance")])
def test_captum_tends_to_the_same_values(kind, moment):
    """NoiseTunnel around plain signed gradients; its deviations are absolute."""
    import torch
    from captum.attr import NoiseTunnel
    from captum.attr import Saliency as Gradients

    torch.manual_seed(0)
    method = NoiseTunnel(Gradients(lambda x: TANH.model(x, training=False)))
    theirs = method.attribute(
        torch.from_numpy(X), nt_type=kind, nt_samples=4000, nt_samples_batch_size=500, stdevs=0.5, target=1, abs=False
    )
    ours = Smooth(TANH, np.full(D, 0.5), 4000, moment=moment).explain(X, 1)
    assert (np.abs(theirs.numpy() - ours.values) <= 6 * np.sqrt(2) * ours.standard_error).all()
