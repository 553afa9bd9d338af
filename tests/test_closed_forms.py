"""Functions whose attributions are known: Σ of polynomials, sin, exp, relu; products; exponentials of sums."""

import contextlib
import warnings

import keras
import numpy as np
import pytest
from conftest import float64
from keras import ops

import aumann

RELATIVE_L1 = {"float32": 1e-6, "float64": 1e-12}


def sin(x):
    """keras.ops.sin rounds float64 to float32 on JAX."""
    if keras.config.backend() == "jax":
        import jax

        return jax.numpy.sin(x)
    return ops.sin(x)


PARTS = [
    (lambda x: 3 * x**3 - x**2 + 0.5 * x, lambda x: 3 * x**3 - x**2 + 0.5 * x),
    (sin, np.sin),
    (ops.exp, np.exp),
    (ops.relu, lambda x: np.maximum(x, 0)),
]


@pytest.fixture(params=["float32", "float64"])
def dtype(request):
    with float64() if request.param == "float64" else contextlib.nullcontext():
        yield request.param


def relative(a, b):
    return np.abs(a - b).sum() / np.abs(b).sum()


def rows(dtype, n=6, features=4):
    return np.random.default_rng(5).uniform(-2, 2, (n, features)).astype(dtype)


def test_separable(dtype):
    """F = Σ fᵢ(xᵢ) has φᵢ = fᵢ(xᵢ) − fᵢ(0) on any path; the kink of the relu lies at the baseline."""
    x = rows(dtype)
    e = aumann.IntegratedGradients(
        lambda x: sum(f(x[:, i]) for i, (f, _) in enumerate(PARTS)), rule=aumann.gauss_legendre(50)
    ).explain(x)
    truth = np.stack([g(x[:, i].astype("float64")) - g(0.0) for i, (_, g) in enumerate(PARTS)], axis=1)
    assert e.provenance["dtype"] == dtype and e.values.dtype == dtype
    assert relative(e.values, truth) <= RELATIVE_L1[dtype]
    assert np.allclose(e.residual, 0, atol=10 * RELATIVE_L1[dtype])


def test_product_is_shared_by_halves(dtype):
    x = rows(dtype)
    e = aumann.IntegratedGradients(lambda x: x[:, 0] * x[:, 1], rule=aumann.gauss_legendre(1)).explain(x)
    half = x[:, 0].astype("float64") * x[:, 1] / 2
    assert relative(e.values[:, :2], np.stack([half, half], axis=1)) <= RELATIVE_L1[dtype]
    assert (e.values[:, 2:] == 0).all()


def test_exponential_of_a_sum(dtype):
    """F = exp(w·x), from b: φᵢ = wᵢ (xᵢ − bᵢ) (F(x) − F(b)) / (w·(x − b))."""
    x, w, b = rows(dtype), np.array([0.3, -0.2, 0.5, 0.1], dtype), np.array([0.1, 0.2, -0.3, 0.4], dtype)
    e = aumann.IntegratedGradients(
        lambda x: ops.exp(ops.sum(x * ops.convert_to_tensor(w), axis=1)), rule=aumann.gauss_legendre(50)
    ).explain(x, baseline=b)
    d, f = x.astype("float64") - b, lambda z: np.exp((z.astype("float64") * w).sum(-1))
    truth = w * d * ((f(x) - f(b)) / (w * d).sum(1))[:, None]
    assert relative(e.values, truth) <= RELATIVE_L1[dtype]
    assert relative(e.base_value, np.full(len(x), f(b))) <= RELATIVE_L1[dtype]


@pytest.mark.parametrize("family, order", [(aumann.left, 1), (aumann.midpoint, 2), (aumann.trapezoid, 2)])
def test_values_converge_at_the_order_of_the_rule(family, order):
    """In float32 the coarse rules are far above rounding."""
    x = rows("float32")

    def error(n):
        e = aumann.IntegratedGradients(lambda x: ops.sum(ops.exp(x), axis=1), rule=family(n)).explain(x)
        return np.abs(e.values - (np.exp(x.astype("float64")) - 1)).sum()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", aumann.CompletenessWarning)
        errors = [error(n) for n in (5, 9, 17)]
    assert np.allclose(np.log2(np.divide(errors[:-1], errors[1:])), order, atol=0.35)


def test_float64_keras_model_keeps_its_digits():
    """A model of float64 layers is complete to 1e-12, where float32 weights of the rule would stall at 1e-8.

    Keras 3 multiplies float64 matrices in float32 on JAX and torch, and says so; there its own rounding is the limit.
    """
    policy = keras.config.dtype_policy()
    with float64():
        keras.config.set_dtype_policy("float64")
        try:
            model = keras.Sequential(
                [keras.layers.Input((4,), dtype="float64"), keras.layers.Dense(8, "tanh"), keras.layers.Dense(1)]
            )
        finally:
            keras.config.set_dtype_policy(policy)
        e = aumann.IntegratedGradients(model, rule=aumann.gauss_legendre(50)).explain(rows("float64"))
        assert e.provenance["dtype"] == "float64"
        limit = 1e-12 if keras.backend.result_type("float64", "float64") == "float64" else 1e-6
        assert np.abs(e.residual).max() <= limit * np.abs(e.values).sum(1).max()


def test_gradients_at_the_input_alone():
    """F = Σ x³: ∇F = 3x², whatever the baseline, and (x − x′) times that."""
    x = np.array([[1.0, -2.0, 0.5], [0.0, 3.0, -1.0]], "float32")

    def cubes(x):
        return ops.sum(x**3, axis=-1, keepdims=True)

    for start in 0.0, 0.5:
        np.testing.assert_allclose(aumann.Saliency(cubes).explain(x, baseline=start).values, 3 * x**2, rtol=1e-6)
        e = aumann.InputXGradient(cubes).explain(x, baseline=start)
        np.testing.assert_allclose(e.values, (x - start) * 3 * x**2, rtol=1e-6)
        assert (e.evaluations == 1).all()
