"""Secants: complete at any number of cells, second order where derivatives are first, the same on every backend."""

import itertools

import keras
import numpy as np
import pytest
from conftest import BACKEND, close, host, scatter
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers as L
from keras import ops

import aumann
from aumann.core import secant
from aumann.core.quadrature import Cells

RNG = np.random.default_rng(5)


def explain(model, x, n, target=None, baseline=0.0, **settings):
    return aumann.IntegratedGradients(model, rule=aumann.secant(n), **settings).explain(x, target, baseline)


def error(values, reference):
    """Relative L1, the median over the rows."""
    off, size = (np.abs(a).reshape(len(a), -1).sum(1) for a in (values - reference, reference))
    return float(np.median(off / size))


def rows(model, n=4):
    return RNG.normal(size=(n, *model.input_shape[1:])).astype("float32")


# ---- the rule --------------------------------------------------------------------------------------------------------


def test_cells_fill_the_path():
    rule = aumann.secant(4)
    assert np.allclose(rule.nodes, [0, 1 / 8, 0.5**1.5, 0.75**1.5, 1]) and len(rule) == 5
    assert np.allclose(rule.weights, [*np.diff(rule.nodes), 0]) and rule.cells and not aumann.midpoint(4).cells
    middles = Cells("even", [0, 0.5, 1], [0.5, 0.5, 0], 0).middles()
    assert np.allclose(middles.nodes, [0.25, 0.75]) and np.allclose(middles.weights, 0.5) and not middles.cells
    for nodes, weights in ([0, 0.5, 0.9], [0.5, 0.5, 0]), ([0, 0.4, 1], [0.5, 0.5, 0]), ([0, 1], [0.5, 0.5]):
        with pytest.raises(ValueError, match="widths as weights"):
            Cells("broken", nodes, weights, 0)


@settings(deadline=None)
@given(st.integers(1, 6), st.integers(1, 3))
def test_the_right_end_is_the_next_row(rows, step):
    """Also where a tensor holds several of its own rows for each path point."""
    x = RNG.normal(size=(rows * step, 2))
    right = host(secant.following(ops.convert_to_tensor(x), rows))
    assert np.array_equal(right[: (rows - 1) * step], x[step:].astype(right.dtype))


@settings(deadline=None)
@given(st.lists(st.floats(-3, 3).map(lambda v: round(v, 3)), min_size=2, max_size=8))
def test_the_open_fraction_is_the_part_of_the_cell_above_zero(x):
    x = np.array(x, "float32")
    t = (np.arange(20000) + 0.5) / 20000
    exact = [np.mean(a + (b - a) * t > 0) for a, b in itertools.pairwise(x)]
    assert np.allclose(host(secant.open_fraction(ops.convert_to_tensor(x), len(x)))[:-1], exact, atol=1e-3)


def test_one_cell_is_the_rescale_rule():
    """φ = Δx · W (v · Δrelu / Δz), DeepLIFT's multipliers for one hidden layer."""
    model = scatter(keras.Sequential([L.Input((6,)), L.Dense(9, "relu"), L.Dense(1)]))
    (w, b), (v, _) = (layer.get_weights() for layer in model.layers)
    x, start = RNG.normal(size=(2, 5, 6)).astype("float32")
    z, z0 = x @ w + b, start @ w + b
    multiplier = ((np.maximum(z, 0) - np.maximum(z0, 0)) / (z - z0) * v[:, 0]) @ w.T
    assert np.allclose(explain(model, x, 1, baseline=start).values, (x - start) * multiplier, atol=1e-5)


@settings(max_examples=4, deadline=None)
@given(st.integers(1, 9), st.integers(0, 1000))
def test_a_layer_of_hinges_and_maxima_is_exact_with_any_cells(n, seed):
    """Each flips once at most, and linearly: its mean derivative over a cell is known exactly."""
    draw = np.random.default_rng(seed)
    a, b, x = (draw.normal(size=shape).astype("float32") for shape in ((3, 4), (4,), (5, 3)))

    def f(x):
        z = ops.matmul(x, ops.convert_to_tensor(a)) + ops.convert_to_tensor(b)
        return ops.sum(ops.relu(z), 1) + ops.max(z[:, :2], 1) + ops.sum(ops.abs(z) + ops.clip(z, -0.5, 0.25), 1)

    t = (np.arange(100000) + 0.5) / 100000
    z = np.einsum("nf,fk,t->ntk", x, a, t) + b
    wins = (z == z[..., :2].max(-1, keepdims=True)) & (np.arange(4) < 2)
    slope = 1.0 * (z > 0) + wins + np.sign(z) + ((z > -0.5) & (z < 0.25))
    assert np.allclose(explain(f, x, n).values, x * (slope.mean(1) @ a.T), atol=5e-4)


# ---- completeness at any number of cells -----------------------------------------------------------------------------


def branches(join, activation="relu"):
    x = L.Input((6,))
    return keras.Model(x, L.Dense(2)(join([L.Dense(5, activation)(x), L.Dense(5, "sigmoid")(x)])))


def image(*inner, shape=(9, 9, 2)):
    return keras.Sequential([L.Input(shape), *inner, L.Flatten(), L.Dense(2)])


def quotient():
    x = L.Input((6,))
    return keras.Model(x, L.Dense(6, "relu")(x) / (1.5 + ops.square(L.Dense(6)(x))))


COMPLETE = {
    "relu and max-pooling": lambda: image(L.Conv2D(4, 3, activation="relu"), L.MaxPooling2D()),
    "padded, strided pooling": lambda: image(L.Conv2D(4, 3), L.PReLU(), L.MaxPooling2D(3, 2, padding="same")),
    "pooling in one dimension": lambda: image(L.Conv1D(4, 3, activation="relu"), L.MaxPooling1D(2), shape=(9, 3)),
    "pooling in three": lambda: image(L.Conv3D(2, 2, activation="relu"), L.MaxPooling3D(2), shape=(5, 5, 5, 1)),
    "global pooling": lambda: image(L.Conv2D(4, 3, activation="leaky_relu"), L.GlobalMaxPooling2D()),
    "mean pooling, batch norm": lambda: image(
        L.Conv2D(4, 3), L.BatchNormalization(), L.ReLU(6.0), L.AveragePooling2D(2)
    ),
    "softmax": lambda: keras.Sequential([L.Input((6,)), L.Dense(8, "relu"), L.Dense(3, "softmax")]),
    "smooth activations": lambda: keras.Sequential(
        [L.Input((6,)), L.Dense(8, "gelu"), L.Dense(8, "silu"), L.Dense(8, "softplus"), L.Dense(2, "tanh")]
    ),
    "activations with kinks": lambda: keras.Sequential(
        [L.Input((6,)), L.Dense(8, "elu"), L.Dense(8, "selu"), L.Dense(8, "hard_sigmoid"), L.Dense(2, "relu6")]
    ),
    "products": lambda: branches(L.Multiply()),
    "maxima": lambda: branches(L.Maximum()),
    "minima": lambda: branches(L.Minimum(), "tanh"),
    "scalar products": lambda: branches(L.Dot(1)),
    "quotients": quotient,
    "LSTM": lambda: keras.Sequential([L.Input((4, 3)), L.LSTM(4), L.Dense(2)]),
    "GRU with a mask": lambda: keras.Sequential([L.Input((4, 3)), L.Masking(9.0), L.GRU(3), L.Dense(2)]),
}


@pytest.mark.parametrize("name", COMPLETE)
def test_values_add_up_with_any_number_of_cells(name):
    model = scatter(COMPLETE[name]())
    x = rows(model)
    for n in (1, 4) if len(model.input_shape) != 3 else (3,):  # loops take seconds to compile
        e = explain(model, x, n, target=1, baseline=0.1)
        mass = np.abs(e.values).reshape(len(x), -1).sum(1)
        assert (np.abs(e.residual) <= 3e-6 * mass + 2e-6 * np.abs(e.prediction)).all(), (n, e.residual, mass)
        assert np.abs(e.prediction - e.base_value).max() > 1e-3


@pytest.mark.parametrize("activation", ["relu", "relu6"])
def test_large_rows_in_batches_of_any_size(activation):
    """Where a backend compiles a rule for large tensors, or takes them in parts: the same, however cells are cut."""
    inner = L.Conv2D(16, 3, activation=activation), L.MaxPooling2D(), L.GlobalMaxPooling2D()
    model = scatter(image(*inner, shape=(66, 66, 2)))
    x = rows(model, 3)
    whole = explain(model, x, 7, 1)
    assert np.abs(whole.residual).max() <= 1e-5 * np.abs(whole.values).sum((1, 2, 3)).max()
    for batch_size in (5, 16):
        close(explain(model, x, 7, 1, batch_size=batch_size).values, whole.values)


# ---- order -----------------------------------------------------------------------------------------------------------


def relu_net():
    convolved = L.Conv1D(6, 3, activation="relu"), L.MaxPooling1D(2), L.Conv1D(6, 3, activation="relu")
    return scatter(image(*convolved, L.Flatten(), L.Dense(12, "relu"), shape=(12, 2)))


def test_second_order_where_derivatives_are_first():
    model = relu_net()
    x = rows(model, 12)
    exact = aumann.IntegratedGradients(model, rule=aumann.midpoint(20000)).explain(x, 0).values
    coarse, fine = (error(explain(model, x, n, 0).values, exact) for n in (4, 32))
    theirs = [
        error(aumann.IntegratedGradients(model, rule=rule(33)).explain(x, 0).values, exact)
        for rule in (aumann.midpoint, aumann.gauss_legendre)
    ]
    assert fine <= coarse / 20, (coarse, fine)  # 1/64 in theory, 1/8 at first order
    assert fine <= min(theirs) / 5, (fine, theirs)


def attention():
    x = L.Input((5, 4))
    return keras.Model(x, L.Dense(2)(L.Flatten()(L.LayerNormalization()(L.MultiHeadAttention(2, 3)(x, x)))))


def groups():
    return image(L.Conv2D(4, 3), L.GroupNormalization(2), L.Activation("mish"))


@pytest.mark.parametrize("make", [attention, groups])
def test_what_has_no_rule_of_its_own_is_second_order(make):
    model = scatter(make())
    x = rows(model)
    exact = aumann.IntegratedGradients(model, rule=aumann.gauss_legendre(64)).explain(x, 1, baseline=1.0).values
    coarse, fine = (error(explain(model, x, n, 1, baseline=1.0).values, exact) for n in (16, 64))
    assert fine <= coarse / 10 and fine < 1e-3, (coarse, fine)


# ---- everything else that a rule serves ------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 3, 7, 64])
def test_the_batch_size_changes_nothing(batch_size):
    """A row cut into chunks shares a node between them; a batch of one still holds the two ends of a cell."""
    model = relu_net()
    x = rows(model, 3)
    whole = explain(model, x, 10, [0, 1], batch_size=512)
    e = explain(model, x, 10, [0, 1], batch_size=batch_size)
    assert np.allclose(e.values, whole.values, atol=1e-6) and (e.evaluations == 11).all()


def test_a_set_of_baselines_and_progress():
    model, heard = relu_net(), []
    x, starts = rows(model, 2), rows(model, 3)
    mean = np.mean([explain(model, x, 6, 1, baseline=s).values for s in starts], axis=0)
    method = aumann.IntegratedGradients(model, rule=aumann.secant(6), batch_size=5)
    e = method.explain(x, 1, aumann.baselines.weighted(starts), progress=lambda *now: heard.append(now))
    assert np.allclose(e.values, mean, atol=1e-6) and heard[-1] == (42, 42)


def test_embeddings_and_several_inputs():
    ids, x = L.Input((4,), dtype="int32"), L.Input((3,))
    h = L.Concatenate()([L.GlobalMaxPooling1D()(L.Conv1D(5, 2, activation="relu")(L.Embedding(7, 3)(ids))), x])
    model = scatter(keras.Model({"ids": ids, "x": x}, L.Dense(1)(L.Dense(6, "relu")(h))))
    e = explain(model, {"ids": RNG.integers(0, 7, (3, 4)), "x": RNG.normal(size=(3, 3))}, 3)
    assert np.abs(e.residual).max() < 1e-5 and np.abs(e.values["ids"]).sum() > 0 and np.abs(e.values["x"]).sum() > 0


def test_logits_and_half_precision():
    model = scatter(keras.Sequential([L.Input((6,)), L.Dense(8, "relu"), L.Dense(3, "softmax")]))
    e = aumann.IntegratedGradients(model, rule=aumann.secant(2), output="logits").explain(rows(model), 1)
    assert np.abs(e.residual).max() < 1e-5
    model = keras.Sequential([L.Input((6,)), L.Dense(16, "relu", dtype="mixed_bfloat16"), L.Dense(1, dtype="float32")])
    x = rows(scatter(model))
    exact = aumann.IntegratedGradients(model, rule=aumann.midpoint(256)).explain(x).values
    assert error(explain(model, x, 16).values, exact) < 0.05


def test_a_gradient_that_was_stopped_stays_stopped():
    """F = Σ x · stop(x): only the first factor is credited, x²/2 of it by the trapezoid of the ends."""
    x = RNG.normal(size=(3, 4)).astype("float32")
    with pytest.warns(aumann.CompletenessWarning):
        e = explain(lambda x: ops.sum(x * ops.stop_gradient(x), 1), x, 64)
    assert np.abs(e.values - x**2 / 2).max() <= 0.02 * (x**2).max()


class Squares(L.Layer):
    """Python operators, which Keras does not see."""

    def call(self, x):
        return ops.sum(x**2 * ops.exp(-abs(x)) + x / (1 + x * x), axis=1, keepdims=True)


def test_operators_in_a_layer_of_ones_own():
    x = RNG.normal(size=(3, 4)).astype("float32")
    model = keras.Sequential([L.Input((4,)), Squares()])
    f = x**2 * np.exp(-np.abs(x)) + x / (1 + x * x)  # additive: φᵢ is fᵢ
    assert np.abs(explain(model, x, 64).values - f).max() < 2e-4
    assert np.abs(explain(model, x, 3).residual).max() < 1e-5


def test_a_model_compiled_by_others_gets_derivatives_at_the_middles():
    if BACKEND != "tensorflow":
        pytest.skip("only a tf.function hides its operations")
    import tensorflow as tf

    net = relu_net()
    e = explain(tf.function(lambda x: net(x, training=False)), rows(net), 8, 1)
    assert e.provenance["rule"] == "secant(8) by the derivatives at the middles"
    assert explain(net, rows(net), 8, 1).provenance["rule"] == "secant(8)"


def test_what_is_intercepted_is_put_back():
    from keras.src.backend import nn

    before = {name: f for name, f in vars(nn).items() if callable(f)}

    class Failing(L.Layer):
        armed = False

        def call(self, x):
            if self.armed and len(x) != 1:
                raise RuntimeError("inside")
            return ops.gelu(x)

    layer = Failing()
    model = keras.Sequential([L.Input((4,)), layer, L.LayerNormalization(), L.Dense(1)])
    explain(model, rows(model), 16, baseline=np.array([0.5, -1, 2, 0]))
    layer.armed = True
    with pytest.raises(ValueError, match="inside"):
        explain(model, rows(model), 16, baseline=np.array([0.5, -1, 2, 0]))
    assert all(getattr(nn, name) is f for name, f in before.items())
    assert "call" not in vars(model.layers[1])
