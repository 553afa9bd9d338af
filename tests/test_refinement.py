"""Tolerance: values as exact as they are said to be, at the cost of what each row needs."""

import itertools

import keras
import numpy as np
import pytest
from conftest import BACKEND, float64, host, mlp, policy, scatter, unchanged
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers as L
from keras import ops

import aumann
from aumann import CompletenessWarning, ToleranceWarning
from aumann.core import refinement

RNG = np.random.default_rng(11)
FEW = 9  # the evaluations of two sums of secants, the fewest


def true_error(e, reference):
    """Relative L1 of each row."""
    a, b = (np.asarray(v, np.float64).reshape(len(v), -1) for v in (e.values, reference))
    return np.abs(a - b).sum(1) / np.maximum(np.abs(b).sum(1), 1e-300)


def network(activation, final="softmax"):
    return scatter(
        keras.Sequential([L.Input((6,)), L.Dense(12, activation), L.Dense(12, activation), L.Dense(3, final)])
    )


@pytest.fixture(scope="module")
def networks():
    return {a: network(a) for a in ("relu", "tanh")}


@pytest.fixture(scope="module")
def rows():
    return RNG.normal(size=(24, 6)).astype("float32")


# ---- the law ---------------------------------------------------------------------------------------------------------


def family(law, first=2, second=5):
    """Sums of three features of each row which are off by law(row, n)."""
    truth = 1 + np.arange(3.0)

    def of(rows, n, before, last):
        return [np.stack([truth + law(row, n) for row in rows])[:, None]]

    return refinement.Sums("sums", of, first, second, lambda n, want: int(np.ceil(want)), lambda n, k: n + 1, 2)


def unknown(rows):
    """A change of F of which nothing is known."""
    return np.zeros((rows, 1)), np.full((rows, 1), np.inf)


def refine(law, tolerance, most=2000, rows=3):
    return refinement.refine(family(law), np.arange(rows), unknown(rows), tolerance, most, 1e-12)


def test_the_law_is_used_up_by_one_extrapolation():
    """An error of exactly C/n² is gone after two sums; the third sees that, for the second could not know."""
    done = refine(lambda row, n: (row + 1) * np.array([1.0, -2, 3]) / n**2, 1e-3)
    assert np.allclose(done.values[0][:, 0], [1, 2, 3], atol=1e-12)
    assert (done.error < 1e-6).all()


@settings(max_examples=60, deadline=None)
@given(st.floats(1.0, 6.0), st.floats(0.01, 3.0), st.sampled_from([0.1, 0.01, 0.001]))
def test_errors_of_any_order_from_the_first_on_are_bounded(order, size, tolerance):
    done = refine(lambda row, n: size * np.array([1.0, -1, 1]) * n**-order, tolerance, most=10**6, rows=1)
    true = np.abs(done.values[0][0, 0] - [1, 2, 3]).sum() / 6
    assert true <= done.error[0, 0] <= tolerance


def test_each_row_goes_as_far_as_it_must():
    """Row k errs by 4ᵏ/n³, so that more cells are needed for each, and none for the last, which errs by nothing."""
    done = refine(lambda row, n: (4.0**row if row < 3 else 0) * np.array([1.0, -1, 1]) / n**3, 0.01, rows=4)
    assert done.evaluations[3] == FEW and (np.diff(done.evaluations[:3]) > 0).all()
    assert (done.error <= 0.01).all()


@settings(max_examples=40, deadline=None)
@given(st.integers(9, 500))
def test_no_row_spends_more_than_it_may(most):
    done = refine(lambda row, n: np.array([1.0, -1, 1]) * (-1) ** n / n**0.5, 1e-6, most=most)
    assert (done.evaluations <= most).all() and (done.error > 1e-6).all()


def test_what_may_be_spent_is_spent():
    """Rows that leap by four find no room for the next leap, and take the largest sum that there is room for."""
    sums = refinement.secants(lambda rows, rule: [np.ones((len(rows), 1, 3)) * (-1) ** (len(rule) % 3) / len(rule)])
    for most in (100, 500, 2000):
        done = refinement.refine(sums, np.arange(1), unknown(1), 1e-9, most, 0.0)
        assert most / 2 < done.evaluations[0] <= most


def test_nothing_attributed_is_no_error():
    done = refinement.refine(
        refinement.Sums("zero", lambda rows, *_: [np.zeros((len(rows), 1, 3))], 2, 5, None, lambda n, k: n + 1, 2),
        np.arange(2), unknown(2), 0.01, 100, 1e-6,
    )  # fmt: skip
    assert (done.error <= 1e-6).all() and (done.evaluations == FEW).all()


# ---- what users rely on ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("activation", ["relu", "tanh"])
@pytest.mark.parametrize("tolerance", [0.05, 0.01, 0.001])
def test_the_true_error_is_below_what_is_said_and_that_below_the_tolerance(networks, rows, activation, tolerance):
    model = networks[activation]
    exact = aumann.secant(2048) if activation == "relu" else aumann.gauss_legendre(64)
    target = np.arange(24) % 3
    reference = aumann.IntegratedGradients(model, rule=exact).explain(rows, target).values
    e = aumann.IntegratedGradients(model, tolerance=tolerance).explain(rows, target)
    true = true_error(e, reference)
    assert e.converged.all() and (e.error <= tolerance).all() and (true <= tolerance).all()
    assert np.mean(true <= e.error) >= 0.9
    assert e.provenance["rule"] == ("secants, refined" if activation == "relu" else "trapezoids, refined")
    assert e.provenance["tolerance"] == tolerance


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_a_row_is_what_it_is_alone_and_in_batches_of_any_size(networks, rows, activation):
    model, target = networks[activation], np.arange(24) % 3
    method = aumann.IntegratedGradients(model)
    together = method.explain(rows, target)
    assert len(set(together.evaluations)) > 1
    for k in (0, 7):
        alone = method.explain(rows[k : k + 1], target[k : k + 1])
        assert alone.evaluations[0] == together.evaluations[k]
        assert np.allclose(alone.values[0], together.values[k], atol=1e-5)
    for batch_size in (3, 50):
        again = aumann.IntegratedGradients(model, batch_size=batch_size).explain(rows, target)
        assert (again.evaluations == together.evaluations).all()
        assert np.allclose(again.values, together.values, atol=1e-5)


def test_rows_are_refined_a_part_at_a_time(networks, rows, monkeypatch):
    """What is as large as all values arises for some rows at a time; the results are those of all rows together."""
    whole, sizes, refine = aumann.IntegratedGradients(networks["relu"]).explain(rows, [0, 2]), [], refinement.refine
    monkeypatch.setattr(refinement, "PART", 4 * 2 * rows[0].size)
    monkeypatch.setattr(
        refinement, "refine", lambda sums, rows, *rest: sizes.append(len(rows)) or refine(sums, rows, *rest)
    )
    parts = aumann.IntegratedGradients(networks["relu"]).explain(rows, [0, 2])
    assert sum(sizes) == len(rows) and 1 < max(sizes) <= 4
    np.testing.assert_allclose(parts.values, whole.values, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(parts.error, whole.error, rtol=0.05, atol=1e-5)
    assert (parts.evaluations == whole.evaluations).mean() > 0.9


def test_linear_and_homogeneous_functions_stop_at_once():
    w = ops.convert_to_tensor(np.array([1.0, -2, 3], "float32"))
    x = RNG.normal(size=(4, 3)).astype("float32")
    linear = aumann.IntegratedGradients(lambda x: ops.sum(x * w, axis=1)).explain(x)
    assert (linear.evaluations == 5).all() and np.allclose(linear.values, x * [1, -2, 3], atol=1e-6)
    homogeneous = aumann.IntegratedGradients(lambda x: ops.sum(ops.relu(x * w), axis=1)).explain(x)
    assert (homogeneous.evaluations == FEW).all()
    assert np.allclose(homogeneous.values, np.maximum(x * [1, -2, 3], 0), atol=1e-6)


def test_a_double_precision_function_reaches_nine_digits():
    with float64():
        x = RNG.normal(size=(3, 4))
        e = aumann.IntegratedGradients(lambda x: ops.sum(ops.exp(x), axis=1), tolerance=1e-9).explain(x)
    assert e.converged.all() and np.allclose(e.values, np.exp(x) - 1, rtol=1e-9)


def test_every_target_is_within_the_tolerance(networks, rows):
    method = aumann.IntegratedGradients(networks["relu"], tolerance=0.01)
    e = method.explain(rows, target="all")
    assert e.error.shape == e.converged.shape == (24, 3) and e.converged.all()
    assert method.explain(rows, target=1).evaluations.mean() < e.evaluations.mean()
    reference = aumann.IntegratedGradients(networks["relu"], rule=aumann.secant(2048)).explain(rows, target="all")
    for k in range(3):
        off = np.abs(e.values[:, k] - reference.values[:, k]).sum(1) / np.abs(reference.values[:, k]).sum(1)
        assert (off <= 0.01).all()


def test_a_set_of_baselines_costs_a_path_each(networks, rows):
    starts = RNG.normal(size=(3, 6)).astype("float32")
    heard = []
    e = aumann.IntegratedGradients(networks["relu"]).explain(
        rows[:5], 0, aumann.baselines.weighted(starts), lambda *two: heard.append(two)
    )
    reference = aumann.IntegratedGradients(networks["relu"], rule=aumann.secant(1024)).explain(
        rows[:5], 0, aumann.baselines.weighted(starts)
    )
    assert heard[-1] == (e.evaluations.sum(),) * 2 and (e.evaluations >= 3 * FEW).all() and e.converged.all()
    assert (true_error(e, reference.values) <= 0.01).all()


def test_each_of_several_inputs_has_an_error_of_its_own():
    a, b = L.Input((3,)), L.Input((2,))
    joined = L.Dense(8, "relu")(L.Concatenate()([L.Dense(4, "tanh")(a), b]))
    model = scatter(keras.Model([a, b], L.Dense(2, "softmax")(joined)))
    x = [RNG.normal(size=(6, n)).astype("float32") for n in (3, 2)]
    e = aumann.IntegratedGradients(model).explain(x, 1)
    fine = aumann.IntegratedGradients(model, rule=aumann.secant(1024)).explain(x, 1)
    assert [i.shape for i in e.input_error] == [(6,), (6,)]
    for values, exact, said in zip(e.values, fine.values, e.input_error, strict=True):
        off = np.abs(values - exact).sum(1) / np.abs(exact).sum(1)
        assert np.mean(off <= said) >= 5 / 6


def test_rows_that_do_not_get_there_are_named_and_not_embellished(networks, rows):
    method = aumann.IntegratedGradients(networks["relu"], tolerance=1e-5, max_evaluations=40)
    with pytest.warns(ToleranceWarning, match=r"Rows .* did not reach the tolerance 1e-05 within max_evaluations=40"):
        e = method.explain(rows, 0)
    missed = ~e.converged
    assert missed.any() and (e.error[missed] > 1e-5).all() and (e.evaluations <= 40).all()
    more = aumann.IntegratedGradients(networks["relu"], tolerance=1e-5, max_evaluations=400)
    with pytest.warns(ToleranceWarning):
        assert more.explain(rows, 0).evaluations.max() > 40


def test_no_derivative_at_an_end_is_no_obstacle():
    """√x from 0: its derivative is infinite there and its secant is not."""
    x = RNG.uniform(0.1, 4, (4, 3)).astype("float32")
    e = aumann.IntegratedGradients(lambda x: ops.sum(ops.sqrt(x), axis=1)).explain(x)
    assert np.allclose(e.values, np.sqrt(x), rtol=1e-2) and e.converged.all()


@pytest.mark.parametrize("settings", [{}, {"rule": aumann.midpoint(1)}])
def test_what_is_not_finite_is_named_with_its_place(settings):
    """1 / (x − ½) from 0: row 1, which ends at 1, meets its pole half-way."""
    x = np.array([[0.01, 1.0], [1.0, 2.0]], "float32")
    method = aumann.IntegratedGradients(lambda x: ops.sum(x, axis=1) + 1 / (x[:, 0] - 0.5), **settings)
    with pytest.warns(CompletenessWarning, match=r"not finite at t = 0\.5 on the path of row 1, .* rows \[1\]"):
        e = method.explain(x)
    assert np.isfinite(e.values[0]).all() and not np.isfinite(e.values[1]).all()


def test_what_the_values_miss_of_the_difference_is_an_error():
    """Σ sin(8πx) + x from 0 to 1 has the slope 1 + 8π at every node of 2 and of 4 cells."""
    x = np.ones((1, 3), "float32")

    def f(x):
        return ops.sum(ops.sin(8 * np.pi * x) + x, axis=1)

    e = aumann.IntegratedGradients(f).explain(x)
    assert e.evaluations[0] > 5 and np.allclose(e.values, 1, atol=0.01)
    with pytest.warns(ToleranceWarning):
        e = aumann.IntegratedGradients(f, max_evaluations=9).explain(x)
    assert not e.converged[0] and e.error[0] > 0.5


def test_rows_without_a_derivative_at_an_end_keep_to_their_budget():
    x = np.array([[1.0, 2.0], [4.0, 3.0]], "float32")
    start = np.array([[0.5, 0.5], [0.0, 0.0]], "float32")
    e = aumann.IntegratedGradients(lambda x: ops.sum(ops.sqrt(x), axis=1), max_evaluations=60).explain(
        x, baseline=start
    )
    assert np.allclose(e.values, np.sqrt(x) - np.sqrt(start), rtol=1e-2)
    assert (e.evaluations <= 60).all() and e.provenance["rule"] == "trapezoids and secants, refined"


def test_a_model_that_counts_its_calls_is_left_as_it_was():
    class Counting(L.Layer):
        def build(self, shape):
            self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False)

        def call(self, x):
            self.calls.assign_add(1.0)
            return ops.tanh(x)

    model = scatter(keras.Sequential([L.Input((4,)), Counting(), L.Dense(1)]))
    x = RNG.normal(size=(3, 4)).astype("float32")
    with unchanged(model):
        aumann.IntegratedGradients(model).explain(x)


def test_a_function_may_ask_for_the_number_of_rows():
    x = RNG.normal(size=(3, 4)).astype("float32")
    e = aumann.IntegratedGradients(lambda x: ops.sum(ops.reshape(x, (x.shape[0], -1)) ** 2, axis=1)).explain(x)
    assert np.allclose(e.values, x**2, rtol=1e-3)


def test_half_precision_is_not_said_to_be_better_than_it_is():
    with policy("mixed_bfloat16"):
        model = network("relu")
    x = RNG.normal(size=(8, 6)).astype("float32")
    method = aumann.IntegratedGradients(model, tolerance=0.1)
    assert (method.explain(x, 0).error >= 2.0**-6).all()


def test_interrupting_leaves_the_explainer_usable(networks, rows):
    method = aumann.IntegratedGradients(networks["relu"])
    expected = method.explain(rows, 0)

    def interrupt(done, total):
        if done > 30 * len(rows) // 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        method.explain(rows, 0, progress=interrupt)
    again = method.explain(rows, 0)
    assert np.array_equal(again.evaluations, expected.evaluations)
    assert np.allclose(again.values, expected.values, atol=1e-6)


def test_progress_hears_of_every_gradient(networks, rows):
    heard = []
    e = aumann.IntegratedGradients(networks["relu"]).explain(rows, 0, progress=lambda *two: heard.append(two))
    assert heard[-1] == (e.evaluations.sum(),) * 2
    assert all(a[0] < b[0] and a[1] <= b[1] for a, b in itertools.pairwise(heard))


# ---- which family ----------------------------------------------------------------------------------------------------


def image(*inner):
    return keras.Sequential([L.Input((8, 8, 2)), *inner, L.Flatten(), L.Dense(2)])


def attention():
    x = L.Input((5, 4))
    normal = L.LayerNormalization()(x)
    return keras.Model(x, L.Dense(2, "softmax")(L.Flatten()(L.MultiHeadAttention(2, 4)(normal, normal))))


def _step(x):
    return ops.where(x > 0.3, x - 0.3, 0.0)


SMOOTH = {
    "tanh, softmax": lambda: mlp(),
    "gelu, silu, softplus": lambda: image(
        L.Conv2D(3, 3, activation="gelu"), L.Activation("silu"), L.Dense(3, "softplus")
    ),
    "mean pooling, batch norm": lambda: image(L.Conv2D(3, 3), L.BatchNormalization(), L.AveragePooling2D(2)),
    "attention, layer norm": attention,
    "lstm": lambda: keras.Sequential([L.Input((4, 3)), L.LSTM(5), L.Dense(2)]),
}
KINKED = {
    "relu": lambda: network("relu"),
    "leaky": lambda: network("leaky_relu"),
    "elu": lambda: network("elu"),
    "prelu": lambda: image(L.Conv2D(3, 3), L.PReLU()),
    "relu6": lambda: image(L.Conv2D(3, 3), L.ReLU(6.0)),
    "max-pooling": lambda: image(L.Conv2D(3, 3, activation="gelu"), L.MaxPooling2D()),
    "global max-pooling": lambda: keras.Sequential([L.Input((8, 8, 2)), L.Conv2D(3, 3), L.GlobalMaxPooling2D()]),
    "a comparison": lambda: keras.Sequential([L.Input((6,)), L.Dense(5), L.Lambda(_step), L.Dense(2)]),
    "in a loop": lambda: keras.Sequential([L.Input((4, 3)), L.SimpleRNN(5, activation="relu"), L.Dense(2)]),
    "hard sigmoid in a cell": lambda: keras.Sequential(
        [L.Input((4, 3)), L.GRU(5, recurrent_activation="hard_sigmoid"), L.Dense(2)]
    ),
}


@pytest.mark.parametrize("name", [*SMOOTH, *KINKED])
def test_kinks_are_seen_in_the_operations(name):
    keras.utils.set_random_seed(0)
    model = (SMOOTH | KINKED)[name]()
    x = RNG.normal(size=(1, *model.input_shape[1:])).astype("float32")
    e = aumann.IntegratedGradients(model, tolerance=0.3).explain(x, 0)
    assert ("trapezoids" in e.provenance["rule"]) == (name in SMOOTH), e.provenance["rule"]


def test_kinks_of_a_target_function_are_seen_too(networks):
    method, x = aumann.IntegratedGradients(networks["tanh"]), RNG.normal(size=(2, 6)).astype("float32")
    assert "secants" in method.explain(x, lambda y: ops.relu(y[:, 0] - 0.3)).provenance["rule"]
    assert "trapezoids" in method.explain(x, lambda y: y[:, 0] ** 2).provenance["rule"]


@pytest.mark.skipif(BACKEND != "tensorflow", reason="only a tf.function hides its operations")
def test_what_cannot_be_seen_gets_derivatives_and_a_wary_estimate(networks, rows):
    import tensorflow as tf

    model = networks["relu"]
    hidden = tf.function(lambda x: model(x, training=False))
    reference = aumann.IntegratedGradients(model, rule=aumann.secant(2048)).explain(rows, 0)
    for function in hidden, lambda x: hidden(x):
        e = aumann.IntegratedGradients(function, tolerance=0.05).explain(rows, 0)
        assert "trapezoids" in e.provenance["rule"]
        assert np.mean(true_error(e, reference.values) <= e.error) >= 0.95


class Pulled:
    """Σ x², differentiated by hand, as a graph of a framework that Keras does not run on."""

    def __call__(self, x):
        return ops.convert_to_tensor((host(x) ** 2).sum(1))

    def pull(self, leaves, cotangents):
        return [ops.convert_to_tensor(2 * host(leaves[0]) * host(cotangents[0])[:, None])]


def test_a_graph_that_brings_its_own_gradient_takes_a_tolerance():
    x = RNG.normal(size=(3, 4)).astype("float32")
    e = aumann.IntegratedGradients(Pulled()).explain(x)
    assert np.allclose(e.values, x**2, rtol=1e-3) and e.converged.all()
