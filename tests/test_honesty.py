"""What is said of the error where sums do not follow their law: bends and slopes within a cell, and steps."""

import warnings

import keras
import numpy as np
import pytest
from conftest import host
from keras import layers as L
from keras import ops

import aumann
from aumann import CompletenessWarning
from aumann.core import quadrature as rules
from aumann.core import refinement

ROWS, FEATURES = 16, 12
X = np.random.default_rng(1).normal(size=(ROWS, FEATURES)).astype("float32")
ELSEWHERE = np.random.default_rng(2).normal(size=(ROWS, FEATURES)).astype("float32")


# ---- references in float64 -------------------------------------------------------------------------------------------


def root(e):
    return lambda h: ops.sqrt(h * h + e), lambda h: (np.sqrt(h * h + e), h / np.sqrt(h * h + e))


def softplus(k):
    return lambda h: ops.softplus(k * h) / k, lambda h: (np.logaddexp(0, k * h) / k, (1 + np.tanh(k * h / 2)) / 2)


def tanh(k):
    return lambda h: ops.tanh(k * h), lambda h: (np.tanh(k * h), k * (1 - np.tanh(k * h) ** 2))


def rms(e):
    return L.RMSNormalization(epsilon=e), e


def network(first, act, dense=20, seed=0):
    keras.utils.set_random_seed(seed)
    inner = (
        [L.Dense(dense, use_bias=False), L.Lambda(first)] if callable(first) and not hasattr(first, "call") else [first]
    )
    return keras.Sequential([L.Input((FEATURES,)), *inner, L.Dense(10, act), L.Dense(1)])


def outer(weights, z, act):
    """Of Σ w₂ act(W₁ z + b₁) the slope in z."""
    w1, b1, w2, _ = weights
    y = z @ w1 + b1
    slope = 1 - np.tanh(y) ** 2 if act == "tanh" else y > 0
    return (slope * w2[:, 0]) @ w1.T


def brute(slopes, start, end, breaks):
    """Gauss–Legendre in cells that shrink towards every break, and towards the ends."""
    own, weights = np.polynomial.legendre.leggauss(6)
    near = 10.0 ** np.arange(-13, 0, 0.2)
    edges = np.concatenate([np.linspace(0, 1, 201), *(b + s * near for b in (0, 1, *breaks) for s in (-1, 1))])
    edges = np.unique(edges[(edges >= 0) & (edges <= 1)])
    width = np.diff(edges)
    t = (edges[:-1, None] + width[:, None] * (1 + own) / 2).ravel()
    w = (width[:, None] * weights / 2).ravel()
    return (end - start) * (w @ slopes(start + t[:, None] * (end - start)))


def reference(model, second, act, x, start):
    """Values of Dense → function → Dense → Dense, or of RMSNormalization → Dense → Dense, whose ε is `second`."""
    weights, found = [host(v.value).astype("float64") for v in model.weights], []
    for a, b in zip(start.astype("float64"), x.astype("float64"), strict=True):
        if callable(second):
            w0, *rest = weights

            def slopes(points, w0=w0, rest=rest):
                value, slope = second(points @ w0)
                return (outer(rest, value, act) * slope) @ w0.T

            breaks = -(a @ w0) / ((b - a) @ w0)
        else:
            gamma, *rest = weights

            def slopes(points, gamma=gamma, rest=rest):
                r = 1 / np.sqrt((points**2).mean(1, keepdims=True) + second)
                c = outer(rest, points * r * gamma, act) * gamma
                return c * r - points * (c * points).mean(1, keepdims=True) * r**3

            breaks = []
        found.append(brute(slopes, a, b, breaks))
    return np.array(found)


def off(values, exact):
    return np.abs(values - exact).sum(1) / np.abs(exact).sum(1)


# ---- smooth functions that bend, and slopes that are enormous, within a cell ----------------------------------------

BENDS = {
    "√(h² + 1e-3), zeros": (root(1e-3), 0),
    "√(h² + 1e-6), zeros": (root(1e-6), 0),
    "√(h² + 1e-12), zeros": (root(1e-12), 0),
    "√(h² + 1e-6), random": (root(1e-6), 1),
    "softplus(1000 h), random": (softplus(1000), 1),
    "tanh(1000 h), zeros": (tanh(1000), 0),
    "rms with 1e-3": (rms(1e-3), 0),
    "rms with 1e-6": (rms(1e-6), 0),
    "rms with 1e-12": (rms(1e-12), 0),
}


@pytest.mark.parametrize("name", BENDS)
def test_bends_within_a_cell_are_no_better_than_they_are_said_to_be(name):
    (first, second), far = BENDS[name]
    model, start = network(first, "tanh"), far * ELSEWHERE
    exact = reference(model, second, "tanh", X, start)
    e = aumann.IntegratedGradients(model).explain(X, baseline=start)
    assert e.converged.all() and np.mean(off(e.values, exact) <= e.error) > 0.9
    assert e.evaluations.mean() < 200


def test_an_enormous_slope_at_an_end_beside_kinks():
    model = network(L.RMSNormalization(epsilon=1e-6), "relu")
    exact = reference(model, 1e-6, "relu", X, 0 * X)
    e = aumann.IntegratedGradients(model).explain(X)
    assert e.converged.all() and (off(e.values, exact) <= e.error).all()
    assert "secants" in e.provenance["rule"]


def test_an_enormous_slope_that_cannot_be_resolved_is_said_to_be_enormous():
    """Sums over 2 and 4 cells from zeros are off by a factor of thousands, and so is what is said; the advice helps."""
    model = network(L.RMSNormalization(epsilon=1e-12), "tanh")
    exact = reference(model, 1e-12, "tanh", X, 0 * X)
    with pytest.warns(aumann.ToleranceWarning, match="largest estimated error is"):
        e = aumann.IntegratedGradients(model, max_evaluations=9).explain(X)
    assert (off(e.values, exact) > 100).all() and (off(e.values, exact) <= e.error).all()


@pytest.mark.parametrize("most", [9, 17, 30, 47, 64, 200])
def test_nothing_spends_more_than_it_may_however_it_is_summed(most):
    model = network(root(1e-6)[0], "tanh")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", aumann.ToleranceWarning)
        e = aumann.IntegratedGradients(model, tolerance=1e-4, max_evaluations=most).explain(X, baseline=ELSEWHERE)
    assert (e.evaluations <= most).all() and e.evaluations.max() > most / 3


# ---- the laws, without a network -------------------------------------------------------------------------------------


def refined(law, sums, tolerance=0.01, most=2000, change=0.0):
    """Sums that are off by law(n) from [1, 2, 3]."""
    truth = np.array([[[1.0, 2, 3]]])

    def of(rows, n, before, last):
        return [truth + law(n)]

    family = refinement.Sums("sums", of, sums.first, sums.second, sums.next, sums.price, sums.order)
    unknown = np.full((1, 1), change), np.full((1, 1), 0.0 if change else np.inf)
    done = refinement.refine(family, np.arange(1), unknown, tolerance, most, 1e-12)
    return np.abs(done.values[0] - truth).sum() / 6, done.error[0, 0]


@pytest.mark.parametrize("order", [1.0, 1.5, 2.0, 3.0, 4.0])
@pytest.mark.parametrize("size", [0.01, 1.0, 30.0])
@pytest.mark.parametrize("tolerance", [0.05, 0.01, 0.001])
def test_sums_are_judged_by_the_law_that_they_follow(order, size, tolerance):
    true, said = refined(lambda n: size * np.array([1.0, -1, 1]) * n**-order, refinement.trapezoids(None), tolerance)
    assert true <= said


@pytest.mark.parametrize("size", [1e2, 1e5, 1e9])
def test_what_is_said_grows_with_what_is_missed(size):
    """An end that dominates: Sₙ ≈ C/n, of which the first sums see nothing else. It is known that Σφ* = 6."""
    true, said = refined(lambda n: size * np.array([1.0, -2, 1]) / n, refinement.trapezoids(None), most=9, change=6.0)
    assert true <= said <= 100 * true and true > size / 100


def test_graded_nodes_nest_and_bear_what_is_singular_at_an_end():
    for f, exact in (
        (lambda t: 1 / np.sqrt(t), 2.0),
        (np.log, -1.0),
        (lambda t: 1 / (t + 1e-8), np.log1p(1e8)),
        (lambda t: t / np.sqrt(t * t + 1e-6), np.sqrt(1 + 1e-6) - 1e-3),
        (lambda t: 1 / np.sqrt(1 - t), 2.0),
    ):
        family = refinement.graded_trapezoids(
            lambda rows, rule, f=f: [rule.weights @ f(rule.nodes)], refinement.FASTEST
        )
        found = family.of([0], 8, np.zeros(1, int), [])
        for n in (16, 32, 64, 128):
            found = family.of([0], n, np.array([n // 2]), found)
            whole, _ = rules.graded(n)
            assert np.isclose(found[0], whole.weights @ f(whole.nodes), rtol=1e-12)
        assert np.isclose(found[0], exact, rtol=1e-3)


# ---- steps -----------------------------------------------------------------------------------------------------------


def step(x):
    """Of row [40, 3] all change is a step that no gradient shows, of row [0, 9] none."""
    return 2 * ops.cast(x[:, :1] > 30, x.dtype) + ops.relu(x[:, 1:] - 5)


STEPS = np.array([[40.0, 3.0], [0.0, 9.0]], "float32")
METHODS = {
    "integrated gradients": lambda f: aumann.IntegratedGradients(f),
    "a set of baselines": lambda f: aumann.IntegratedGradients(f),
    "expected": lambda f: aumann.ExpectedGradients(f, samples=32),
    "expected to a tolerance": lambda f: aumann.ExpectedGradients(f, max_evaluations=300),
    "sequential": lambda f: aumann.SequentialIntegratedGradients(f, max_evaluations=300),
    "mean gradient": lambda f: aumann.MeanGradient(f, max_evaluations=300),
    "directions": lambda f: aumann.ImportantDirectionGradients(f, max_evaluations=300),
    "decisions": lambda f: aumann.IntegratedDecisionGradients(f),
    "influence": lambda f: aumann.InternalInfluence(behind(f), "all"),
}


def behind(f):
    """The function after a layer that passes what it is fed."""
    return keras.Sequential([L.Input((2,)), L.Activation("linear", name="all"), L.Lambda(f)])


@pytest.mark.parametrize("name", METHODS)
def test_a_row_of_zeros_is_not_exact_where_f_changes(name):
    method = METHODS[name](step)
    start = aumann.baselines.weighted(np.array([[0.0, 0.0], [1.0, 1.0]])) if name == "a set of baselines" else 0.0
    with pytest.warns(CompletenessWarning, match=r"rows \[0\] do not account for .* miss up to 2 of it, in row 0"):
        both = method.explain(STEPS, 0, baseline=start)
    assert not both.values[0].any() and np.isinf(both.error[0]) and both.error[1] < 0.5
    with pytest.warns(CompletenessWarning, match=r"rows \[0\] do not account for"):
        alone = method.explain(STEPS[:1], 0, baseline=start)
    assert np.isinf(alone.error[0]) and alone.evaluations[0] == both.evaluations[0]
    other = method.explain(STEPS[1:], 0, baseline=start)
    np.testing.assert_allclose(other.values[0], both.values[1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", [aumann.IntegratedGradients, aumann.MeanGradient])
def test_a_row_of_zeros_by_a_rule_is_named(method):
    with pytest.warns(CompletenessWarning, match=r"rows \[0\] miss.*steps"):
        e = method(step, rule=aumann.midpoint(40)).explain(STEPS, 0)
    assert e.error is None and not e.values[0].any()


def test_a_guided_path_across_a_step_is_named_with_what_it_takes():
    with pytest.warns(CompletenessWarning, match=r"rows \[0\] miss.*Use more steps="):
        aumann.GuidedIntegratedGradients(step, steps=60).explain(STEPS, 0)


def test_smoothing_over_a_step_says_what_is_missed():
    method = aumann.IntegratedGradients(step, tolerance=0.1, max_evaluations=300)
    with pytest.warns(CompletenessWarning, match=r"rows \[0\] miss.*steps"):
        e = aumann.Smooth(method, noise=np.array([0.1, 0.1]), samples=3).explain(STEPS, 0)
    assert not e.converged[0] and e.converged[1]


def test_a_layer_and_its_conductance():
    x = L.Input((2,))
    model = keras.Model(x, L.Lambda(step)(L.Lambda(lambda x: 1.0 * x, name="inside")(x)))
    for method in (
        aumann.IntegratedGradients(model, layer="inside", max_evaluations=300),
        aumann.Conductance(model, "inside", max_evaluations=300),
    ):
        with pytest.warns(CompletenessWarning, match=r"rows \[0\] do not account for"):
            e = method.explain(STEPS, 0)
        assert np.isinf(e.error[0]) and e.error[1] < 0.1  # by derivatives where the factor that jumps hides a kink


def test_each_target_has_its_own_answer():
    def several(x):
        return ops.concatenate([step(x), ops.sin(x[:, 1:])], axis=1)

    with pytest.warns(CompletenessWarning, match=r"rows \[0\] do not account for"):
        e = aumann.IntegratedGradients(several).explain(STEPS, [0, 1])
    assert np.isinf(e.error[0, 0]) and (e.error.ravel()[1:] < 0.01).all()
    assert e.converged.tolist() == [[False, True], [True, True]]


def test_a_step_beside_what_is_smooth():
    """x₁ by its sine, and 2 for a step of x₀: the error is what is missed, and more gradients are no advice."""

    def f(x):
        return 2 * ops.cast(x[:, 0] > 30, x.dtype) + ops.sin(x[:, 1])

    with pytest.warns(CompletenessWarning, match=r"rows \[0\] do not account for .* in steps"):
        e = aumann.IntegratedGradients(f).explain(STEPS)
    assert np.isclose(e.error[0], 2 / np.sin(3), rtol=0.01) and e.error[1] < 0.01


def test_a_change_that_is_rounding_is_no_step():
    x = np.array([[40.0, 3.0]], "float32")
    e = aumann.IntegratedGradients(
        lambda x: 1e3 + 1e-4 * ops.cast(x[:, 0] > 30, x.dtype) + ops.relu(x[:, 1] - 5)
    ).explain(x)
    assert e.error[0] == 0 and e.converged[0]
