"""IDGI and integrated decision gradients: closed forms, the published sum in the limit, completeness or not."""

import keras
import numpy as np
import pytest
from conftest import close, mlp, scatter, unchanged, value_and_slope
from keras import ops

import aumann

SLOPES = np.array([1.0, -2.0, 0.5, 0.0], "float32")


def linear(x):
    return ops.sum(x * ops.convert_to_tensor(SLOPES), axis=1)


def test_a_linear_function(x):
    """IDGI shares Δ by a²; decision gradients are the values times Δ."""
    gain = (x * SLOPES).sum(1, keepdims=True)
    for options in ({}, {"rule": aumann.gauss_legendre(1)}, {"rule": aumann.secant(3)}):
        e = aumann.ImportantDirectionGradients(linear, **options).explain(x)
        close(e.values, gain * SLOPES**2 / (SLOPES**2).sum())
        assert np.abs(e.residual).max() < 1e-5
        e = aumann.IntegratedDecisionGradients(linear, **options).explain(x)
        close(e.values, gain * x * SLOPES)
        close(e.residual, (gain * (gain - 1))[:, 0])
        assert e.provenance["complete"] is False


def test_a_quadratic_function():
    """F = x²/2 + y²/2 from 0: ∇F = t x, so φ = (x², y²)/2 by IDGI, and x² |x|² ∫ t² dt by decision gradients."""
    x = np.array([[3.0, 4.0], [1.0, 0.0]], "float32")
    rule = aumann.gauss_legendre(3)

    def half(x):
        return ops.sum(x * x, axis=1) / 2

    close(aumann.ImportantDirectionGradients(half, rule=rule).explain(x).values, x**2 / 2)
    expected = x**2 * (x**2).sum(1, keepdims=True) / 3
    close(aumann.IntegratedDecisionGradients(half, rule=rule).explain(x).values, expected)


def test_the_published_sum_tends_to_it(classifier, x):
    """Σ g² / ‖g‖² (F(tₖ₊₁) − F(tₖ)) over 4000 steps, end values included."""
    n, target = 4000, 1
    expected = []
    for row in x:
        points = np.linspace(0, 1, n + 1)[:, None] * row
        values, (g,) = value_and_slope(lambda p: classifier(p[0])[:, target], [points.astype("float32")])
        g = np.asarray(g[:-1], float)
        expected.append((g**2 / (g**2).sum(1, keepdims=True) * np.diff(np.asarray(values, float))[:, None]).sum(0))
    with unchanged(classifier):
        e = aumann.ImportantDirectionGradients(classifier, tolerance=1e-4).explain(x, target=target)
    assert np.abs(e.values - expected).max() < 1e-3 * np.abs(expected).sum(1).max()
    assert np.abs(e.residual).max() < 1e-5


def test_complete_on_kinks_at_any_number_of_cells(rng):
    layers = [keras.layers.Dense(9, activation="relu"), keras.layers.Dense(9, activation="relu"), keras.layers.Dense(2)]
    model = scatter(keras.Sequential([keras.layers.Input((4,)), *layers]))
    x = rng.normal(size=(3, 4)).astype("float32")
    for n in (1, 5):
        e = aumann.ImportantDirectionGradients(model, rule=aumann.secant(n)).explain(x, target=0)
        assert np.abs(e.residual).max() < 1e-5 * np.abs(e.values).sum(1).max()


def test_slopes_smaller_than_a_float_may_be_squared(x):
    """Values scale with F, though the squares of its slopes underflow; nothing is shared where there is no slope."""
    rule = aumann.gauss_legendre(4)
    plain = aumann.ImportantDirectionGradients(linear, rule=rule).explain(x).values
    close(aumann.ImportantDirectionGradients(lambda x: linear(x) * 1e-25, rule=rule).explain(x).values * 1e25, plain)
    flat = aumann.ImportantDirectionGradients(lambda x: ops.relu(linear(x) - 100), rule=aumann.secant(4)).explain(x)
    assert not flat.values.any()


@pytest.mark.parametrize("kind", [aumann.ImportantDirectionGradients, aumann.IntegratedDecisionGradients])
def test_inputs_count_together(rng, kind):
    """Two inputs give what one input of their features side by side gives, for several targets and baselines."""
    a, b = keras.layers.Input((2,), name="a"), keras.layers.Input((2,), name="b")
    tail = mlp()
    two = keras.Model({"a": a, "b": b}, tail(keras.layers.Concatenate()([a, b])))
    x, bases = rng.normal(size=(3, 4)).astype("float32"), rng.normal(size=(2, 4)).astype("float32")
    rule = aumann.gauss_legendre(6)
    one = kind(tail, rule=rule).explain(x, target=[0, 2], baseline=aumann.baselines.weighted(bases, [1, 3]))
    split = aumann.baselines.weighted({"a": bases[:, :2], "b": bases[:, 2:]}, [1, 3])
    e = kind(two, rule=rule, batch_size=5).explain({"a": x[:, :2], "b": x[:, 2:]}, target=[0, 2], baseline=split)
    close(np.concatenate([e.values["a"], e.values["b"]], axis=2), one.values)
    alone = [kind(tail, rule=rule).explain(x[1:2], target=2, baseline=base).values[0] for base in bases]
    close(one.values[1, 1], np.average(alone, axis=0, weights=[1, 3]))


@pytest.mark.parametrize("kind", [aumann.HypotheticalContributions, aumann.SequentialIntegratedGradients])
def test_some_go_straight(classifier, kind):
    with pytest.raises(ValueError, match="to go straight"):
        kind(classifier, path=aumann.Blur(2.0))
