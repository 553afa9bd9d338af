"""Attributions in a loss: their values, their gradients in the weights, and a training that they steer."""

import keras
import numpy as np
import pytest
from conftest import BACKEND, close, host, mlp, scatter
from keras import ops

import aumann

L = keras.layers


def gradient(loss, variables):
    """Of a function without arguments, by the framework, in the values of Keras variables: host arrays."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        @tf.function(autograph=False)
        def run():
            with tf.GradientTape() as tape:
                value = loss()
            return tape.gradient(value, [v.value for v in variables])

        return [host(g) for g in run()]
    if BACKEND == "jax":
        import jax

        def pure(values):
            with keras.StatelessScope(state_mapping=list(zip(variables, values, strict=True))):
                return loss()

        return [host(g) for g in jax.jit(jax.grad(pure))([v.value for v in variables])]
    import torch

    found = torch.autograd.grad(loss(), [v.value for v in variables], allow_unused=True)
    return [np.zeros(v.shape) if g is None else host(g) for g, v in zip(found, variables, strict=True)]


def square():
    """F = (w · x)², φᵢ = wᵢ xᵢ (w · x) from 0."""
    inputs = L.Input((3,))
    model = keras.Model(inputs, L.Dense(1, use_bias=False)(inputs) ** 2)
    model.set_weights([np.array([[0.5], [-1.0], [2.0]])])
    return model


def test_values_are_integrated_gradients(x):
    model = mlp()
    rule = aumann.gauss_legendre(6)
    labels = np.array([0, 2, 1, 1, 0])
    for target, baseline in ((1, 0.0), (labels, x[0]), (labels, x[::-1].copy()), (lambda y: y[:, 0] - y[:, 2], 0.5)):
        expected = aumann.IntegratedGradients(model, rule=rule).explain(x, target=target, baseline=baseline).values
        close(host(aumann.attribution(model, x, target, baseline, rule)), expected)


def test_the_gradient_in_the_weights_is_exact(rng):
    """Of Σ φ₀² with F = (w · x)²: ∂φ₀/∂wⱼ = x₀ (δ₀ⱼ w · x + w₀ xⱼ)."""
    model, x = square(), rng.normal(size=(6, 3)).astype("float32")
    w = np.array([0.5, -1.0, 2.0])
    (found,) = gradient(
        lambda: ops.sum(aumann.attribution(model, x, rule=aumann.gauss_legendre(1))[:, 0] ** 2),
        model.trainable_variables,
    )
    wx = x @ w
    slopes = x[:, :1] * (np.outer(wx, [1, 0, 0]) + w[0] * x)
    close(found[:, 0], 2 * (w[0] * x[:, 0] * wx) @ slopes)


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_the_gradient_in_the_weights_by_differences(activation, rng):
    """In a random direction of all weights, batch normalisation among them; a ReLU's slopes move too."""
    model = keras.Sequential([L.Input((4,)), L.Dense(6, activation), L.BatchNormalization(), L.Dense(3, "softmax")])
    scatter(model)
    x = rng.normal(size=(8, 4)).astype("float32")
    variables = model.trainable_variables
    before = [host(v.value) for v in variables]
    along = [rng.normal(size=v.shape).astype("float32") for v in variables]

    def loss():
        phi = aumann.attribution(model, x, 1, rule=aumann.gauss_legendre(4))
        return 10 * ops.mean(ops.sqrt(ops.sum(phi**2, axis=1)))

    def at(step):
        for v, value, d in zip(variables, before, along, strict=True):
            v.assign(value + step * d)
        return float(host(loss()))

    found = sum((g * d).sum() for g, d in zip(gradient(loss, variables), along, strict=True))
    step = 3e-3 if activation == "tanh" else 1e-4
    assert found == pytest.approx((at(step) - at(-step)) / (2 * step), rel=2e-2)
    assert abs(found) > 1e-2


def test_a_seed_draws_one_point_for_each_row():
    """F = x³ from 0 has (x) 3 (t x)² = 3 t² at x = 1, whose mean over t is 1: the attribution."""
    x = np.ones((4000, 1), "float32")
    draw = keras.random.SeedGenerator(3)
    first, second = (host(aumann.attribution(lambda x: x**3, x, seed=draw)) for _ in range(2))
    assert first.mean() == pytest.approx(1, abs=0.06) and (first != second).mean() > 0.9
    assert len(np.unique(first)) > 3000
    again = host(aumann.attribution(lambda x: x**3, x, seed=keras.random.SeedGenerator(3)))
    assert (again == first).all()


def test_several_inputs_one_of_them_held_still(rng):
    data = {"a": rng.normal(size=(3, 2)).astype("float32"), "ids": rng.integers(1, 5, (3, 1))}

    def f(inputs):
        return inputs["a"][:, 0] * inputs["a"][:, 1] * ops.cast(inputs["ids"][:, 0], "float32")

    found = aumann.attribution(f, data, baseline={"a": 0.0, "ids": "fixed"})
    half = data["a"][:, :1] * data["a"][:, 1:] * data["ids"] / 2
    close(host(found["a"]), np.repeat(half, 2, axis=1))
    assert (host(found["ids"]) == 0).all()
    with pytest.raises(TypeError, match="Expected float inputs, received int"):
        aumann.attribution(f, data)


class Steered(keras.Model):
    """Pays for what feature 0 is worth."""

    price = 0.0

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        loss = super().compute_loss(x, y, y_pred, sample_weight, training)
        phi = aumann.attribution(self, x, rule=aumann.gauss_legendre(2))
        return loss + self.price * ops.mean(ops.abs(phi[:, 0]))


def test_a_prior_steers_a_training():
    """Two features tell the class alike. A price on the first one's attribution moves its share to the second."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 256)
    x = (rng.normal(size=(256, 3)) * 0.5).astype("float32")
    x[:, :2] += (2 * y - 1)[:, None]
    shares = []
    for price in (0.0, 1.0):
        keras.utils.set_random_seed(1)
        inputs = L.Input((3,))
        hidden = L.BatchNormalization(center=False)(L.Dropout(0.1)(L.Dense(8, "relu")(inputs)))
        model = Steered(inputs, L.Dense(1)(hidden))
        model.price = price
        model.compile(keras.optimizers.Adam(0.05), keras.losses.BinaryCrossentropy(from_logits=True))
        model.fit(x, y, batch_size=64, epochs=6, verbose=0)
        mass = np.abs(aumann.IntegratedGradients(model, rule=aumann.secant(4)).explain(x[:32]).values).mean(0)
        right = (host(model(x, training=False))[:, 0] > 0) == y
        assert right.mean() > 0.95
        shares.append(mass[0] / mass.sum())
    assert shares[0] > 0.3 and shares[1] < 0.1


@pytest.mark.parametrize(
    "given, kind, says",
    [
        ({"rule": aumann.gauss_legendre(2), "seed": 3}, ValueError, "a rule or a seed"),
        ({"seed": 3}, TypeError, "SeedGenerator"),
        ({"rule": aumann.secant(4)}, TypeError, "rule of derivatives"),
        ({"target": None}, ValueError, "Expected a target"),
        ({"target": 3}, ValueError, "between 0 and 2"),
        ({"target": np.array([0.5] * 5)}, ValueError, "one integer for each row"),
        ({"baseline": "fixed"}, ValueError, "an input that moves"),
    ],
)
def test_bad_input(classifier, x, given, kind, says):
    with pytest.raises(kind, match=says):
        aumann.attribution(classifier, x, **{"target": 0, **given})
