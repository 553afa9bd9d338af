"""Stepping inside a model: logits before a final activation, ids at their Embedding, any layer=; and out again.

Every answer is compared with that of a second model which needs no interception: the same weights without the final
activation, or the part of the model above the layer.
"""

import concurrent.futures
import sys
import threading

import keras
import numpy as np
import pytest
from conftest import close, formula, forward, host, mlp, policy, scatter, unchanged
from keras import layers, ops, tree

import aumann
from aumann.model.interception import intercepted

RULE = aumann.gauss_legendre(5)


def normal(*shape, seed=3):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


# ---- output="logits" -----------------------------------------------------------------------------------------------
# Each builder makes the model with its final activations, or without them.


def dense_softmax(final):
    return mlp("softmax" if final else None)


def dense_sigmoid(final):
    return mlp("sigmoid" if final else None, units=1)


def activation_layer(final):
    return keras.Sequential([layers.Input((4,)), *mlp(None).layers, *[layers.Activation("softmax")] * final])


def softmax_layer(final):
    return keras.Sequential([layers.Input((4,)), *mlp(None).layers, *[layers.Softmax()] * final])


def softmax_layer_as_argument(final):
    return mlp(layers.Softmax() if final else None)


def operation(final):
    x = layers.Input((4,))
    y = mlp(None)(x)
    return keras.Model(x, ops.softmax(y) if final else y)


def nested(final):
    x = layers.Input((4,))
    return keras.Sequential([layers.Input((4,)), layers.Dense(4), keras.Model(x, mlp("softmax" if final else None)(x))])


def convolution(final):
    return keras.Sequential(
        [layers.Input((4,)), layers.Reshape((2, 2, 1)), layers.Conv2D(3, 1, activation="sigmoid" if final else None)]
    )


def time_distributed_dense(final):
    return keras.Sequential([layers.Input((4,)), layers.Reshape((4, 1)), layers.Dense(2, "softmax" if final else None)])


def mixed_precision(final):
    with policy("mixed_bfloat16"):
        last = (
            [layers.Activation("softmax", dtype="float32")] if final else [layers.Activation("linear", dtype="float32")]
        )
        return keras.Sequential([layers.Input((4,)), layers.Dense(3), *last])


def list_of_outputs(final):
    x = layers.Input((4,))
    h = layers.Dense(3, activation="sigmoid")(x)  # a sigmoid that is not final
    outputs = [
        layers.Dense(3, "softmax" if final else None)(h),
        layers.Dense(1)(h),
        layers.Dense(1, "sigmoid" if final else None)(h),
    ]
    return keras.Model(x, outputs)


def dict_of_outputs(final):
    x = layers.Input((4,))
    h = layers.Dense(3, activation="tanh")(x)
    return keras.Model(x, {"z": layers.Dense(3, "softmax" if final else None)(h), "a": layers.Dense(2)(h)})


class Subclassed(keras.Model):
    def __init__(self, final):
        super().__init__()
        self.hidden, self.last = layers.Dense(4, activation="sigmoid"), layers.Dense(3, "softmax" if final else None)

    def call(self, x):
        return self.last(self.hidden(x))


def subclassed(final):
    model = Subclassed(final)
    model(np.zeros((1, 4), "float32"))
    return model


def one_softmax_within_and_at_the_end(final):
    """The same Softmax layer weighs the features and makes the output: only the second call is final."""
    x = layers.Input((4,))
    softmax = layers.Softmax()
    y = layers.Dense(4)(softmax(layers.Dense(4)(x)) * x)
    return keras.Model(x, softmax(y) if final else y)


def attention(final):
    x = layers.Input((4,))
    steps = layers.Reshape((2, 2))(x)
    y = layers.Flatten()(layers.MultiHeadAttention(1, 2)(steps, steps))
    return keras.Model(x, layers.Dense(3, "softmax" if final else None)(y))


def bare_layer(final):
    layer = layers.Dense(3, "softmax" if final else None)
    layer.build((None, 4))
    return layer


LOGITS = [
    dense_softmax, dense_sigmoid, activation_layer, softmax_layer, softmax_layer_as_argument, operation, nested,
    convolution, time_distributed_dense, mixed_precision, list_of_outputs, dict_of_outputs, subclassed,
    one_softmax_within_and_at_the_end, attention, bare_layer,
]  # fmt: skip


def mixture(outputs):
    """A scalar in which every unit of every output counts, each by its own weight."""
    total = 0
    for k, y in enumerate(tree.flatten(outputs)):
        size = int(np.prod(y.shape[1:]))
        weights = ops.convert_to_tensor(np.sin(1.0 + k + np.arange(size)).astype("float32"))
        total = total + ops.sum(ops.reshape(ops.cast(y, "float32"), (-1, size)) * weights, axis=1)
    return total


@pytest.mark.parametrize("build", LOGITS, ids=lambda f: f.__name__)
def test_logits_are_those_of_the_model_without_its_final_activation(build):
    model, twin = scatter(build(True)), scatter(build(False))
    for v, w in zip(model.weights, twin.weights, strict=True):
        w.assign(v)
    x = normal(4, 4)
    before = forward(model, x)
    with unchanged(model):
        e = aumann.IntegratedGradients(model, output="logits", rule=RULE).explain(x, mixture, baseline=0.1)
    values, prediction, base_value = formula(lambda p: mixture(twin(p[0], training=False)), [x], [0.1], RULE)
    close(e.values, values[0])
    close(e.prediction, prediction)
    close(e.base_value, base_value)
    assert "softmax or sigmoid" in e.provenance["explained"] and e.provenance["output"] == "logits"
    after = forward(model, x)
    assert all(np.array_equal(a, b) for a, b in zip(tree.flatten(after), tree.flatten(before), strict=True))
    assert np.abs(e.prediction - host(mixture(tree.map_structure(ops.convert_to_tensor, before)))).max() > 0.1


def test_logits_of_one_output_leave_what_is_computed_from_its_probabilities():
    """The entropy of the probabilities stays the entropy of the probabilities."""
    x = layers.Input((4,))
    p = layers.Dense(3, "softmax")(x)
    model = scatter(keras.Model(x, [p, -ops.sum(p * ops.log(p), axis=-1, keepdims=True)]))
    data = normal(3, 4)
    e = aumann.IntegratedGradients(model, output="logits", rule=RULE).explain(data, target=[(0, 1), (1, 0)])
    w, b = (host(v.value) for v in model.weights)
    close(e.prediction, np.stack([(data @ w + b)[:, 1], forward(model, data)[1][:, 0]], 1))
    close(e.values[:, 0], data * w[:, 1])
    close(e.values[:, 1], formula(lambda q: model(q[0], training=False)[1][:, 0], [data], [0], RULE)[0][0])


def lstm_with_a_sigmoid():
    return keras.Sequential([layers.Input((3, 2)), layers.LSTM(1, activation="sigmoid")])


def softmax_that_is_scaled():
    return keras.Sequential([layers.Input((3, 2)), layers.Flatten(), layers.Dense(2, "softmax"), layers.Rescaling(2.0)])


def linear():
    return keras.Sequential([layers.Input((3, 2)), layers.Flatten(), layers.Dense(2)])


@pytest.mark.parametrize("build", [lstm_with_a_sigmoid, softmax_that_is_scaled, linear], ids=lambda f: f.__name__)
def test_logits_are_refused_where_no_softmax_or_sigmoid_makes_an_output(build):
    model = build()
    with unchanged(model), pytest.raises(ValueError, match=r"none makes the output.*Leave output= out"):
        aumann.IntegratedGradients(model, output="logits", rule=RULE).explain(normal(2, 3, 2), target=0)


def test_logits_of_a_probability_near_one_do_not_saturate():
    """A logistic model is linear in its logit: φ = w x exactly, however flat the probability is."""
    model = keras.Sequential([layers.Input((2,)), layers.Dense(1, "sigmoid")])
    model.layers[0].set_weights([np.array([[30.0], [-5.0]]), np.array([20.0])])
    x = np.array([[3.0, 1.0]], "float32")
    e = aumann.IntegratedGradients(model, output="logits", rule=aumann.midpoint(1)).explain(x)
    close(e.values, np.array([[90.0, -5.0]]))
    close(e.prediction, np.array([105.0]))


# ---- integer ids at their Embedding --------------------------------------------------------------------------------


def above(top):
    """F as a function of embedded tokens."""
    return lambda points: top(points[0], training=False)[:, 0]


@pytest.mark.parametrize("dtype", ["int32", "int64", "uint8", "float64"])
@pytest.mark.parametrize("declared", ["int32", "float32"])
def test_ids_are_attributed_at_their_embedding(dtype, declared):
    embedding = layers.Embedding(7, 3)
    top = keras.Sequential(
        [layers.Input((4, 3)), layers.Conv1D(2, 2, activation="tanh"), layers.Flatten(), layers.Dense(2)]
    )
    model = keras.Sequential([layers.Input((4,), dtype=declared), embedding, top])
    scatter(model)
    ids = np.array([[0, 1, 6, 2], [3, 3, 3, 3], [5, 0, 1, 5]])
    table = host(embedding.embeddings.value)
    e = aumann.IntegratedGradients(model, rule=RULE).explain(ids.astype(dtype), target=0)
    values, prediction, base_value = formula(above(top), [table[ids]], [0], RULE)
    close(e.values, values[0])
    close(e.prediction, prediction)
    close(e.base_value, base_value)
    assert e.provenance["layers"] == {e_name: embedding.name for e_name in e.provenance["layers"]} != {}
    assert np.array_equal(e.inputs, ids) and (e.inputs.dtype == dtype or dtype == "float64")
    close(e.sum(-1).values, values[0].sum(-1))  # one number for each token


@pytest.mark.parametrize(
    "baseline",
    [2, [0, 0, 6, 0], [[1, 1, 1, 1], [2, 2, 2, 2]], 0.25, np.full((4, 3), 0.5), np.full((2, 4, 3), -0.5)],
    ids=["one id", "ids", "ids of each row", "constant", "embedded row", "embedded rows"],
)
def test_a_baseline_of_ids_or_of_embedded_vectors(baseline):
    embedding, top = (
        layers.Embedding(7, 3),
        keras.Sequential([layers.Input((4, 3)), layers.Flatten(), layers.Dense(1, "tanh")]),
    )
    model = scatter(keras.Sequential([layers.Input((4,), dtype="int32"), embedding, top]))
    table = host(embedding.embeddings.value)
    ids = np.array([[0, 1, 6, 2], [3, 5, 3, 3]])
    start = np.asarray(baseline)
    start = table[start] if start.dtype.kind == "i" else start
    e = aumann.IntegratedGradients(model, rule=RULE).explain(ids, baseline=baseline)
    values, _, base_value = formula(above(top), [table[ids]], [start], RULE)
    close(e.values, values[0])
    close(e.base_value, base_value)


def test_a_weighted_set_of_ids():
    embedding, top = (
        layers.Embedding(7, 3),
        keras.Sequential([layers.Input((4, 3)), layers.Flatten(), layers.Dense(1, "tanh")]),
    )
    model = scatter(keras.Sequential([layers.Input((4,), dtype="int32"), embedding, top]))
    ids, starts = np.array([[0, 1, 6, 2], [3, 5, 3, 3]]), np.array([[0, 0, 0, 0], [6, 5, 4, 3], [1, 2, 1, 2]])
    explainer = aumann.IntegratedGradients(model, rule=RULE)
    e = explainer.explain(ids, baseline=aumann.baselines.weighted(starts, [1, 2, 5]))
    singles = [explainer.explain(ids, baseline=s) for s in starts]
    close(e.values, np.average([s.values for s in singles], axis=0, weights=[1, 2, 5]))
    close(e.base_value, np.average([s.base_value for s in singles], axis=0, weights=[1, 2, 5]))


def test_ids_beside_float_inputs():
    """F = Σ tanh(E[ids]) · dense(x): both inputs move, together."""
    ids, x = layers.Input((3,), dtype="int32", name="ids"), layers.Input((2,), name="x")
    embedding, dense = layers.Embedding(5, 4), layers.Dense(4)
    y = ops.sum(ops.tanh(embedding(ids)) * ops.expand_dims(dense(x), 1), axis=(1, 2))
    model = scatter(keras.Model({"ids": ids, "x": x}, y))
    inputs = {"x": normal(3, 2), "ids": np.array([[0, 1, 2], [4, 4, 4], [3, 0, 1]])}
    e = aumann.IntegratedGradients(model, rule=RULE).explain(inputs, baseline={"ids": 0.5, "x": -1.0})
    table = host(embedding.embeddings.value)

    def f(points):
        return ops.sum(ops.tanh(points[0]) * ops.expand_dims(dense(points[1]), 1), axis=(1, 2))

    values, prediction, base_value = formula(f, [table[inputs["ids"]], inputs["x"]], [0.5, -1.0], RULE)
    close(e.values, {"x": values[1], "ids": values[0]})
    close(e.prediction, prediction)
    close(e.base_value, base_value)


class Readout(keras.layers.Layer):
    """Σ over tokens of w · e: linear, so that its attributions are w (E[id] - start), whatever the rule."""

    def __init__(self, w):
        super().__init__()
        self.w = self.add_weight(shape=w.shape, initializer=lambda shape, dtype=None: ops.convert_to_tensor(w, dtype))

    def call(self, e):
        return ops.sum(e * self.w, axis=(1, 2))


def test_one_embedding_called_on_two_inputs():
    a, b = layers.Input((3,), dtype="int32", name="a"), layers.Input((3,), dtype="int32", name="b")
    embedding, v, w = layers.Embedding(6, 2), normal(2, seed=1), normal(2, seed=2)
    model = keras.Model([a, b], Readout(v)(embedding(a)) - Readout(w)(embedding(b)))
    ids = [np.array([[0, 1, 5]]), np.array([[5, 5, 2]])]
    e = aumann.IntegratedGradients(model, rule=aumann.midpoint(1)).explain(ids)
    rows = host(embedding.embeddings.value)
    close(e.values, [rows[ids[0]] * v, -rows[ids[1]] * w])
    held = aumann.IntegratedGradients(model, rule=aumann.midpoint(1)).explain(ids, baseline=["fixed", 0.0])
    assert not held.values[0].any()
    close(held.values[1], e.values[1])


def test_one_embedding_called_twice_on_one_input():
    """x · u over the tokens and again x · v over them: a token's credit is the sum of both."""
    a = layers.Input((3,), dtype="int32")
    embedding, v, w = layers.Embedding(6, 2), normal(2, seed=1), normal(2, seed=2)
    model = keras.Model(a, Readout(v)(embedding(a)) + Readout(w)(embedding(a)))
    ids = np.array([[0, 1, 5], [2, 2, 3]])
    e = aumann.IntegratedGradients(model, rule=aumann.midpoint(1)).explain(ids)
    close(e.values.sum(-1), (host(embedding.embeddings.value)[ids] * (v + w)).sum(-1))
    close(e.residual, np.zeros(2), scale=1)


def test_two_embeddings_that_read_one_input():
    a = layers.Input((3,), dtype="int32")
    one, two, v, w = layers.Embedding(6, 2), layers.Embedding(6, 4), normal(2, seed=1), normal(4, seed=2)
    model = keras.Model(a, Readout(v)(one(a)) + Readout(w)(two(a)))
    ids = np.array([[0, 1, 5], [2, 2, 3]])
    e = aumann.IntegratedGradients(model, rule=aumann.midpoint(1)).explain(ids, baseline=4)
    parts = [(host(x.embeddings.value)[ids] - host(x.embeddings.value)[4]) * u for x, u in ((one, v), (two, w))]
    close(e.values, np.concatenate(parts, axis=-1))
    assert e.values.shape == (2, 3, 6)


def test_categories_side_by_side_in_one_integer_input():
    """Each column of one integer input has an Embedding of its own, as in tables of categories."""
    a = layers.Input((3,), dtype="int32")
    embeddings = [layers.Embedding(5, 2) for _ in range(3)]
    dense = layers.Dense(1)
    model = scatter(keras.Model(a, dense(layers.Concatenate()([f(a[:, i]) for i, f in enumerate(embeddings)]))))
    ids = np.array([[1, 2, 1], [4, 0, 3]])  # the first row reads the same backwards
    e = aumann.IntegratedGradients(model, rule=aumann.midpoint(1)).explain(ids)
    rows = np.concatenate([host(f.embeddings.value)[ids[:, i]] for i, f in enumerate(embeddings)], axis=-1)
    close(e.values, rows * host(dense.kernel.value)[:, 0])


class Encoder(keras.Model):
    """Token and position Embeddings in a subclassed model; the positions read no input."""

    def __init__(self):
        super().__init__()
        self.tokens, self.positions = layers.Embedding(6, 2, name="tokens"), layers.Embedding(4, 2, name="positions")
        self.dense = layers.Dense(1, activation="tanh")

    def above(self, e):
        return self.dense(ops.sum(ops.sin(e + self.positions(ops.arange(e.shape[1]))), axis=1))

    def call(self, ids):
        return self.above(self.tokens(ids))


@pytest.mark.parametrize("wrap", ["subclassed", "nested"])
def test_embeddings_in_subclassed_and_nested_models_and_positions(wrap):
    encoder = Encoder()
    encoder(np.zeros((1, 4), "int32"))
    scatter(encoder)
    model = encoder
    if wrap == "nested":
        ids = layers.Input((4,), dtype="int32")
        model = keras.Model(ids, keras.Sequential([encoder])(ids))
    x = np.array([[1, 2, 2, 1], [0, 5, 3, 4]])
    e = aumann.IntegratedGradients(model, rule=RULE).explain(x)
    ends = host(encoder.tokens.embeddings.value)[x]
    values, prediction, _ = formula(lambda p: encoder.above(p[0])[:, 0], [ends], [0], RULE)
    close(e.values, values[0])
    close(e.prediction, prediction)
    assert list(e.provenance["layers"].values()) == ["tokens"]


def test_what_stands_above_an_embedding_sees_the_dtype_it_computes_in():
    seen = set()

    class Look(keras.layers.Layer):
        def call(self, e):
            seen.add(keras.backend.standardize_dtype(e.dtype))
            return ops.sum(e, axis=(1, 2))

    with policy("mixed_bfloat16"):
        look = Look(autocast=False)
        model = keras.Sequential([layers.Input((3,), dtype="int32"), layers.Embedding(5, 2), look])
    e = aumann.IntegratedGradients(model, rule=RULE).explain(np.array([[0, 1, 2], [4, 4, 4]]))
    assert seen == {"bfloat16"} and e.values.dtype == "float32"


def test_masks_of_padding_are_those_of_the_ids():
    """Padding gets nothing, and a row padded further keeps its values: the mask does not move along the path."""
    embedding, lstm, dense = layers.Embedding(6, 2, mask_zero=True), layers.LSTM(2), layers.Dense(1)
    model = scatter(keras.Sequential([layers.Input((None,), dtype="int32"), embedding, lstm, dense]))
    ids = np.array([[1, 5, 2]])
    padded = np.array([[1, 5, 2, 0, 0]])
    explainer = aumann.IntegratedGradients(model, rule=RULE)
    short, long = explainer.explain(ids), explainer.explain(padded)
    assert not long.values[:, 3:].any()
    close(long.values[:, :3], short.values)
    close(
        short.values,
        formula(lambda p: dense(lstm(p[0]))[:, 0], [host(embedding.embeddings.value)[ids]], [0], RULE)[0][0],
    )


# ---- layer= --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["name", "object", "list"])
def test_a_chosen_layer_takes_the_place_of_the_input(by):
    hidden = layers.Dense(3, activation="gelu", name="hidden")
    top = keras.Sequential([layers.Input((3,)), layers.Dense(2, activation="softmax")])
    model = scatter(keras.Sequential([layers.Input((4,)), hidden, top]))
    x = normal(4, 4)
    layer = {"name": "hidden", "object": hidden, "list": ["hidden"]}[by]
    with unchanged(model):
        e = aumann.IntegratedGradients(model, layer=layer, rule=RULE).explain(x, target=1)
    start = host(hidden(np.zeros((1, 4), "float32")))
    values, prediction, base_value = formula(lambda p: top(p[0])[:, 1], [host(hidden(x))], [start], RULE)
    close(e.values, values[0])
    close(e.prediction, prediction)
    close(e.base_value, base_value)
    assert list(e.provenance["layers"].values()) == ["hidden"]


def test_a_baseline_of_the_layers_own_shape():
    hidden = layers.Dense(3, activation="gelu", name="hidden")
    top = keras.Sequential([layers.Input((3,)), layers.Dense(1, activation="tanh")])
    model = scatter(keras.Sequential([layers.Input((4,)), hidden, top]))
    x, start = normal(4, 4), normal(3, seed=9)
    e = aumann.IntegratedGradients(model, layer="hidden", rule=RULE).explain(x, baseline=start)
    values, _, base_value = formula(lambda p: top(p[0])[:, 0], [host(hidden(x))], [start], RULE)
    close(e.values, values[0])
    close(e.base_value, base_value)


def test_readings_that_do_not_fit_side_by_side_are_refused():
    ids = layers.Input((5,), dtype="int32", name="ids")
    embedding = layers.Embedding(6, 2)
    y = ops.sum(embedding(ids[:, :2]), axis=(1, 2)) + ops.sum(embedding(ids[:, 2:]), axis=(1, 2))
    with pytest.raises(ValueError, match=r"'ids' to differ.*received shapes .*\(2, 2\).*Split the input"):
        aumann.IntegratedGradients(keras.Model(ids, y), rule=RULE).explain(np.array([[0, 1, 2, 3, 4]]))


def test_ids_read_by_another_layer_than_an_embedding():
    """A one-hot encoding is a way in as good as an Embedding, if it is named."""
    encode = layers.CategoryEncoding(4, output_mode="one_hot", name="encode")
    dense = layers.Dense(1)
    model = scatter(keras.Sequential([layers.Input((1,), dtype="int32"), encode, dense]))
    ids = np.array([[2], [0]])
    e = aumann.IntegratedGradients(model, layer="encode", rule=RULE).explain(ids, baseline=0.0)
    close(e.values, np.eye(4)[ids[:, 0]] * host(dense.kernel.value)[:, 0])


# ---- stepping out again --------------------------------------------------------------------------------------------


class Thing:
    def double(self, x):
        return 2 * x


def test_an_attribute_is_taken_off_again_whatever_happens():
    thing = Thing()
    with pytest.raises(RuntimeError), intercepted({(thing, "double"): lambda original, x: original(x) + 1}):
        assert thing.double(3) == 7
        with intercepted({(thing, "double"): lambda original, x: -original(x)}):  # within: asked first
            assert thing.double(3) == -7
        assert thing.double(3) == 7
        raise RuntimeError
    assert thing.double(3) == 6 and vars(thing) == {}
    thing.double = lambda x: "own"
    own = thing.double
    with intercepted({(thing, "double"): lambda original, x: original(x) + "ed"}):
        assert thing.double(3) == "owned"
    assert vars(thing) == {"double": own}


def test_a_failure_while_stepping_in_leaves_nothing_behind():
    one, two = Thing(), Thing()
    handlers = {(one, "double"): lambda original, x: 0, (two, "missing"): lambda original, x: 0}
    with pytest.raises(AttributeError), intercepted(handlers):
        pass
    assert vars(one) == {} and vars(two) == {} and one.double(2) == 4


def test_another_thread_sees_the_true_model(x):
    """One thread stops in the middle of a model whose logits it explains; meanwhile another calls the model."""
    inside, called, explaining = threading.Event(), threading.Event(), []

    class Stop(keras.layers.Layer):
        def call(self, inputs):
            if threading.current_thread() in explaining:
                inside.set()
                assert called.wait(60)
            return inputs

    model = keras.Sequential([layers.Input((4,)), layers.Dense(3, name="hidden"), Stop(), layers.Dense(2, "softmax")])
    true = forward(scatter(model), x)
    found = []

    def explain():
        found.append(aumann.IntegratedGradients(model, output="logits", layer="hidden", rule=RULE).explain(x, target=1))

    softmax = model.layers[-1].activation
    explaining.append(threading.Thread(target=explain))
    explaining[0].start()
    assert inside.wait(60)
    assert model.layers[-1].activation is not softmax  # stepped in, just now
    meanwhile = forward(model, x)
    called.set()
    explaining[0].join()
    assert model.layers[-1].activation is softmax
    close(meanwhile, true)
    assert np.abs(found[0].prediction - true[:, 1]).max() > 0.1  # the explaining thread saw the logits


def test_threads_explain_one_model_at_once(x):
    model = mlp()

    def explain(k):
        return aumann.IntegratedGradients(model, output="logits", rule=RULE).explain(x, k).values

    expected = [explain(k) for k in range(3)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with unchanged(model), concurrent.futures.ThreadPoolExecutor(3) as pool:
            for _ in range(3):
                close(list(pool.map(explain, range(3))), expected)
    finally:
        sys.setswitchinterval(interval)
