"""Models of every kind, against the formula written out: φ = (x - x') Σ wₖ ∂F(x' + tₖ (x - x'))."""

import functools
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import pytest
from conftest import BACKEND, close, float64, formula, forward, host, mlp, policy, scatter, unchanged
from keras import layers, ops, tree

import aumann

RULE = aumann.gauss_legendre(6)


@dataclass
class Case:
    """A model, its inputs, and which scalar of its outputs is explained, said once for us and once for the reference.

    `model` is built; `feed` turns the flat list of inputs into what the model is called with; `score` picks F from the
    model's outputs; `loose` is the largest error of six Gauss nodes, relative to the values.
    """

    model: Any
    inputs: Any
    target: Any = None
    score: Any = lambda y: y[:, 0]
    baseline: Any = 0.0
    call: Any = None
    dtype: str = "float32"
    loose: float = 1e-3

    def f(self, points):
        packed = tree.pack_sequence_as(self.inputs, points)
        return self.score(self.call(packed) if self.call else self.model(packed, training=False))

    def starts(self):
        leaves = tree.flatten(self.inputs)
        given = tree.flatten(self.baseline)
        return given if len(given) == len(leaves) else given * len(leaves)


def normal(*shape, dtype="float32", seed=3):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


class Chain(keras.Model):
    """A subclassed model with a list of layers, and in training mode, which is its default, another model."""

    def __init__(self, activation="softmax", **options):
        super().__init__(**options)
        self.steps = [layers.Dense(5, activation="tanh"), layers.Dense(3, activation=activation)]

    def call(self, inputs, training=True):
        for step in self.steps:
            inputs = step(inputs)
        return inputs * (100.0 if training else 1.0)


class Keywords(keras.Model):
    """Inputs by keyword, one of them optional."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = layers.Dense(3, activation="tanh"), layers.Dense(3), layers.Dense(2)

    def call(self, left, right, extra=None, mask=None):
        y = self.a(left) * self.b(right)
        if extra is not None:
            y = y + extra
        if mask is not None:
            y = y * ops.cast(mask, y.dtype)
        return self.c(y)


def built(model, *args, **kwargs):
    model(*args, **kwargs)
    return scatter(model)


def two_branches(pack):
    a, b = layers.Input((4,), name="a"), layers.Input((3, 2), name="b")
    y = layers.Dense(4, activation="tanh")(a) * layers.Dense(4)(layers.Flatten()(b))
    y = layers.Dense(2, activation="softmax")(y)
    return scatter(keras.Model(pack(a, b), y))


def sequential():
    return Case(mlp(), normal(5, 4), 1, lambda y: y[:, 1])


def compiled():
    model = mlp()
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return Case(model, normal(5, 4), 2, lambda y: y[:, 2])


def functional():
    x = layers.Input((4,))
    h = layers.Dense(4, activation="gelu")(x)
    y = layers.Dense(2)(layers.Concatenate()([ops.sin(h) + x, h * x]))
    return Case(scatter(keras.Model(x, y)), normal(5, 4), 0)


def subclassed():
    return Case(built(Chain(), np.zeros((1, 4), "float32")), normal(5, 4), 1, lambda y: y[:, 1])


def nested():
    inner = mlp("tanh", units=4)
    x = layers.Input((4,))
    twice = inner(inner(x))
    model = keras.Sequential([keras.Model(x, twice), layers.Dense(1, activation="sigmoid")])
    model.build((None, 4))
    return Case(scatter(model), normal(5, 4), loose=1e-2)


def bare_layer():
    layer = layers.Dense(3, activation="tanh")
    layer.build((None, 4))
    return Case(scatter(layer), normal(5, 4), 1, lambda y: y[:, 1], call=layer)


def list_in():
    return Case(two_branches(lambda a, b: [a, b]), [normal(5, 4), normal(5, 3, 2)], 0, baseline=[0.0, 0.5])


def tuple_in():
    return Case(two_branches(lambda a, b: (a, b)), (normal(5, 4), normal(5, 3, 2)), 0)


def dict_in():
    inputs = {"b": normal(5, 3, 2), "a": normal(5, 4)}  # not in the order of the alphabet, nor in the model's
    return Case(two_branches(lambda a, b: {"a": a, "b": b}), inputs, 1, lambda y: y[:, 1], {"b": 0.25, "a": -0.5})


def keyword_arguments():
    inputs = {"left": normal(5, 4), "right": normal(5, 3)}
    model = built(Keywords(), inputs["left"], inputs["right"])
    return Case(model, inputs, 1, lambda y: y[:, 1], call=lambda p: model(**p))


def optional_keyword():
    inputs = {"left": normal(5, 4), "right": normal(5, 3), "extra": normal(5, 3, seed=4)}
    model = built(Keywords(), inputs["left"], inputs["right"])
    return Case(model, inputs, 1, lambda y: y[:, 1], call=lambda p: model(**p))


def positional_arguments():
    inputs = [normal(5, 4), normal(5, 3)]
    model = built(Keywords(), *inputs)
    return Case(model, inputs, 0, call=lambda p: model(*p))


def list_out():
    x = layers.Input((4,))
    h = layers.Dense(4, activation="tanh")(x)
    model = scatter(keras.Model(x, [layers.Dense(2, name="one")(h), layers.Dense(3, activation="gelu", name="two")(h)]))
    return Case(model, normal(5, 4), (1, 2), lambda y: y[1][:, 2])


def dict_out():
    x = layers.Input((6, 2))
    h = layers.Dense(4, activation="tanh")(x)
    outputs = {"steps": layers.Dense(2)(h), "whole": layers.Dense(1)(layers.Flatten()(h))}
    return Case(scatter(keras.Model(x, outputs)), normal(5, 6, 2), ("steps", 4, 1), lambda y: y["steps"][:, 4, 1])


def conv2d():
    model = keras.Sequential(
        [
            layers.Input((6, 6, 2)),
            layers.Conv2D(3, 3, activation="gelu", padding="same"),
            layers.AveragePooling2D(2),
            layers.SeparableConv2D(3, 2, activation="tanh"),
            layers.Flatten(),
            layers.Dense(2, activation="softmax"),
        ]
    )
    return Case(scatter(model), normal(3, 6, 6, 2), 0)


def conv1d_unknown_length():
    model = keras.Sequential(
        [
            layers.Input((None, 2)),
            layers.Conv1D(3, 3, activation="tanh"),
            layers.GlobalAveragePooling1D(),
            layers.Dense(2),
        ]
    )
    return Case(scatter(model), normal(4, 7, 2), 1, lambda y: y[:, 1])


def bidirectional_lstm():
    model = keras.Sequential(
        [
            layers.Input((4, 2)),
            layers.Bidirectional(layers.LSTM(3)),
            layers.Dense(1),
        ]
    )
    return Case(scatter(model), normal(3, 4, 2))


def masked_gru():
    """Padded steps stay padded along the path, so that no mask flips on it."""
    model = keras.Sequential([layers.Input((4, 2)), layers.Masking(), layers.GRU(3, unroll=True), layers.Dense(2)])
    x = normal(5, 4, 2)
    x[1, 2:] = x[3, 1] = 0
    return Case(scatter(model), x, 1, lambda y: y[:, 1], baseline=np.where(x == 0, 0, np.float32(0.1)))


def attention():
    x = layers.Input((4, 3))
    y = layers.MultiHeadAttention(2, 2)(x, x, use_causal_mask=True)
    y = layers.LayerNormalization(epsilon=0.5)(x + y)
    y = layers.Dense(2)(layers.GlobalAveragePooling1D()(y))
    return Case(scatter(keras.Model(x, y)), normal(4, 4, 3), 1, lambda y: y[:, 1], 0.3)


def dropout_and_batchnorm():
    model = keras.Sequential(
        [
            layers.Input((4,)),
            layers.GaussianNoise(1.0),
            layers.Dense(6, activation="tanh"),
            layers.Dropout(0.5),
            layers.BatchNormalization(),
            layers.Dense(2),
        ]
    )
    return Case(scatter(model), normal(5, 4), 0)


class Products(keras.layers.Layer):
    """A dense layer as products and sums: Keras rounds `ops.matmul` to float32 on JAX and torch, whatever the dtype."""

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 3))

    def call(self, x):
        return ops.sum(ops.expand_dims(ops.sin(x), -1) * self.kernel, axis=1)


def double():
    with policy("float64"):
        model = scatter(keras.Sequential([layers.Input((4,), dtype="float64"), Products()]))
    return Case(model, normal(5, 4, dtype="float64"), 1, lambda y: y[:, 1], dtype="float64")


def half(name, dtype):
    with policy(name):
        model = mlp()
    return Case(model, normal(5, 4), 1, lambda y: ops.cast(y[:, 1], "float32"), dtype=dtype, loose=0.1)


def channels_first():
    # As many filters as columns would make Keras on TensorFlow add the bias along the columns in eager mode.
    model = keras.Sequential(
        [
            layers.Input((2, 6, 6)),
            layers.Conv2D(3, 3, activation="tanh", data_format="channels_first"),
            layers.BatchNormalization(axis=1),
            layers.GlobalAveragePooling2D(data_format="channels_first"),
            layers.Dense(2),
        ]
    )
    return Case(scatter(model), normal(3, 2, 6, 6), 0)


def keras_function():
    def function(x):
        return ops.sum(ops.sin(x) * x, axis=-1)

    return Case(function, normal(5, 4), score=lambda y: y, call=function)


CASES = {
    f.__name__: f
    for f in (
        sequential, compiled, functional, subclassed, nested, bare_layer, list_in, tuple_in, dict_in, keyword_arguments,
        optional_keyword, positional_arguments, list_out, dict_out, conv2d, conv1d_unknown_length, bidirectional_lstm,
        masked_gru, attention, dropout_and_batchnorm, double, channels_first, keras_function,
    )
}  # fmt: skip
CASES["mixed_float16"] = functools.partial(half, "mixed_float16", "float16")
CASES["mixed_bfloat16"] = functools.partial(half, "mixed_bfloat16", "bfloat16")


@pytest.mark.parametrize("name", CASES)
def test_values_prediction_and_base_value_are_the_formulas(name):
    with float64():
        case = CASES[name]()
        leaves = tree.flatten(case.inputs)
        if name == "channels_first" and BACKEND == "tensorflow":
            try:
                case.model.predict(case.inputs, verbose=0)
            except Exception as error:
                pytest.skip(f"TensorFlow has no CPU kernel for this model either: {type(error).__name__}")
        explainer = aumann.IntegratedGradients(case.model, rule=RULE)
        values, prediction, base_value = formula(case.f, leaves, case.starts(), RULE)
        with unchanged(case.model):
            e = explainer.explain(case.inputs, target=case.target, baseline=case.baseline)
        tree.assert_same_structure(e.values, case.inputs)
        assert all(v.dtype == ("float64" if case.dtype == "float64" else "float32") for v in tree.flatten(e.values))
        close(tree.flatten(e.values), values, case.dtype)
        close(e.prediction, prediction, case.dtype)
        close(e.base_value, base_value, case.dtype)
        total = sum(v.reshape(len(v), -1).sum(1, dtype="float64") for v in tree.flatten(e.values))
        close(e.residual, total - (e.prediction - e.base_value), "float64", scale=1)
        mass = sum(np.abs(v).reshape(len(v), -1).sum(1) for v in tree.flatten(e.values))
        assert (np.abs(e.residual) <= case.loose * mass).all()


# ---- functions of the active framework ----------------------------------------------------------------------------


def tensorflow_functions():
    import tensorflow as tf

    w = tf.Variable(normal(4, 3, seed=8))

    def plain(x):
        return tf.tanh(x @ w) ** 2

    return {"plain": plain, "tf.function": tf.function(plain)}


def jax_functions():
    import jax

    w = jax.numpy.asarray(normal(4, 3, seed=8))

    def plain(x):
        return jax.numpy.tanh(x @ w) ** 2

    return {"plain": plain, "jit": jax.jit(plain), "vmap": jax.vmap(plain)}


def torch_functions():
    import torch

    w = torch.nn.Parameter(ops.convert_to_tensor(normal(4, 3, seed=8)))

    def plain(x):
        return torch.tanh(x @ w) ** 2

    return {
        "plain": plain,
        "sequential": torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.GELU(), torch.nn.Linear(5, 3)).to(w.device),
    }


def test_functions_of_the_framework(x):
    functions = {"tensorflow": tensorflow_functions, "jax": jax_functions, "torch": torch_functions}[BACKEND]()
    assert len(functions) >= 2
    for function in functions.values():
        e = aumann.IntegratedGradients(function, rule=RULE).explain(x, target=2, baseline=0.5)
        values, prediction, base_value = formula(lambda p, f=function: f(p[0])[:, 2], [x], [0.5], RULE)
        close(e.values, values[0])
        close(e.prediction, prediction)
        close(e.base_value, base_value)


def test_a_functions_arguments_by_position_and_by_keyword(rng):
    a, b, c = (rng.normal(size=(4, 3)).astype("float32") for _ in range(3))

    def f(a, mask, c=None, training=True):
        y = ops.sum(ops.sin(a) * mask, axis=-1)
        y = y if c is None else y + ops.sum(c * a, axis=-1)
        return y * (100.0 if training else 1.0)

    def reference(p):
        return f(*p, training=False)

    two, _, _ = formula(reference, [a, b], [0, 0], RULE)
    three, _, _ = formula(reference, [a, b, c], [0, 0, 0], RULE)
    explain = aumann.IntegratedGradients(f, rule=RULE).explain
    close(explain([a, b]).values, two)
    close(explain((a, b, c)).values, tuple(three))
    close(explain({"mask": b, "a": a}).values, {"mask": two[1], "a": two[0]})
    close(explain({"c": c, "mask": b, "a": a}).values, {"c": three[2], "mask": three[1], "a": three[0]})


@pytest.mark.skipif(BACKEND != "torch", reason="a module of torch")
def test_a_torch_module_in_training_mode_is_explained_in_evaluation_mode_and_left_as_it_was():
    import copy

    import torch

    class Module(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = torch.nn.LSTM(2, 3, batch_first=True, dropout=0.4, num_layers=2)
            self.drop, self.norm, self.out = torch.nn.Dropout(0.5), torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 2)
            self.to(ops.zeros(()).device, torch.float64)

        def forward(self, x):
            return self.out(self.norm(self.drop(self.lstm(x)[0][:, -1])))

    torch.manual_seed(1)
    module = Module()
    module(ops.convert_to_tensor(normal(16, 5, 2, dtype="float64")) * 2 + 1)  # moving statistics that matter
    module.norm.eval()  # one flag that differs from the rest
    still = copy.deepcopy(module).eval()
    x = normal(3, 5, 2, dtype="float64")
    with unchanged(module):
        e = aumann.IntegratedGradients(module, rule=RULE).explain(x, target=1)
    values, prediction, base_value = formula(lambda p: still(p[0])[:, 1], [x], [0], RULE)
    close(e.values, values[0], "float64")
    close(e.prediction, prediction, "float64")
    close(e.base_value, base_value, "float64")


@pytest.mark.skipif(BACKEND != "torch", reason="a layer around a module of torch")
def test_a_torch_module_within_a_keras_model_is_left_in_training_mode():
    import torch

    module = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3), torch.nn.Dropout(0.5), torch.nn.Tanh())
    wrapped = keras.layers.TorchModuleWrapper(module)
    model = keras.Sequential([layers.Input((4,)), wrapped, layers.Dense(2)])
    module.train()
    module(ops.convert_to_tensor(normal(16, 4)) + 2)
    x = normal(3, 4)
    with unchanged(module):
        e = aumann.IntegratedGradients(model, rule=RULE).explain(x, target=1)
    module.eval()
    values, _, _ = formula(lambda p: model.layers[-1](module(p[0]))[:, 1], [x], [0], RULE)
    close(e.values, values[0])


# ---- the model may go on -------------------------------------------------------------------------------------------


def test_further_training_of_an_embedding_is_seen_at_the_logits():
    embedding, dense = layers.Embedding(5, 2), layers.Dense(3, activation="softmax")
    model = scatter(keras.Sequential([layers.Input((3,), dtype="int32"), embedding, layers.Flatten(), dense]))
    model.compile(keras.optimizers.SGD(0.5), "sparse_categorical_crossentropy")
    explainer, ids = aumann.IntegratedGradients(model, output="logits", rule=RULE), np.array([[0, 1, 4], [2, 2, 3]])
    before = explainer.explain(ids, 1)
    model.fit(ids, np.array([2, 0]), epochs=2, verbose=0)
    after = explainer.explain(ids, 1)
    close(after.values, host(embedding.embeddings)[ids] * host(dense.kernel)[:, 1].reshape(3, 2))
    assert np.abs(after.values - before.values).max() > 1e-3


@pytest.mark.parametrize("wrap", ["model", "function around a model"])
def test_further_training_is_seen(wrap, x):
    model = mlp()
    model.compile(keras.optimizers.SGD(0.5), "sparse_categorical_crossentropy")
    explained = model if wrap == "model" else (lambda inputs: model(inputs, training=False))
    explainer = aumann.IntegratedGradients(explained, rule=RULE)
    before = explainer.explain(x, target=0)
    model.fit(x, np.arange(5) % 3, epochs=2, verbose=0)
    after = explainer.explain(x, target=0)
    values, prediction, _ = formula(lambda p: model(p[0], training=False)[:, 0], [x], [0], RULE)
    close(after.values, values[0])
    close(after.prediction, prediction)
    assert np.abs(after.values - before.values).max() > 1e-3


def test_the_model_leaves_as_it_came_when_the_call_fails_midway(x):
    class Brittle(keras.layers.Layer):
        sound = True

        def call(self, x):
            if not Brittle.sound:
                raise ZeroDivisionError("inside the model")
            return x

    model = keras.Sequential(
        [layers.Input((4,)), layers.Dense(3), layers.Dropout(0.5), Brittle(), layers.Dense(2, activation="softmax")]
    )
    scatter(model).compile("sgd", "sparse_categorical_crossentropy")
    forward(model, x)
    explainer = aumann.IntegratedGradients(model, output="logits", rule=RULE)

    def interrupt(done, total):
        raise KeyboardInterrupt

    def stumble(y):
        raise OSError("inside the target")

    with unchanged(model):
        for sound, arguments, error in (
            (True, {"target": 0, "progress": interrupt}, KeyboardInterrupt),
            (True, {"target": stumble}, OSError),
            (True, {"target": 5}, ValueError),
            (False, {"target": lambda y: y[:, 0] ** 2}, ValueError),
        ):
            Brittle.sound = sound
            with pytest.raises(error):
                explainer.explain(x, **arguments)
            Brittle.sound = True
        with pytest.raises(ValueError):
            Brittle.sound = False
            aumann.IntegratedGradients(model, output="logits", rule=RULE).explain(x, target=0)
        Brittle.sound = True
        again = explainer.explain(x, target=0)
    twin = keras.Model(model.inputs, model.layers[-2].output)
    w, b = model.layers[-1].weights
    values, _, _ = formula(lambda p: (twin(p[0], training=False) @ w + b)[:, 0], [x], [0], RULE)
    close(again.values, values[0])
    assert np.isfinite(model.fit(x, np.arange(5) % 2, verbose=0).history["loss"]).all()


# ---- inputs --------------------------------------------------------------------------------------------------------


def test_every_container_of_numbers_gives_the_same_values(classifier, explainer, x):
    pd = pytest.importorskip("pandas")
    expected = explainer.explain(x, target=1)
    frame = pd.DataFrame(x, columns=["length", "width", "height", "depth"])
    for container in (
        frame.convert_dtypes(),
        ops.convert_to_tensor(x),
        x.astype("float64"),
        x.tolist(),
        frame,
        np.asfortranarray(x),
        x[::-1][::-1],
    ):
        e = explainer.explain(container, target=1)
        close(e.values, expected.values)
        close(e.inputs, x)
    assert explainer.explain(frame, target=1).names["features"] == list(frame.columns)
    frame = frame.convert_dtypes()
    frame.iloc[1, 2] = pd.NA
    with pytest.raises(ValueError, match=r"NaN.*rows \[1\]"):
        explainer.explain(frame, target=1)
    assert "features" not in expected.names


def test_half_precision_tensors_are_inputs_too(explainer, x):
    e = explainer.explain(ops.cast(x, "bfloat16"), target=1)
    rounded = host(ops.cast(ops.cast(x, "bfloat16"), "float32"))
    close(e.values, explainer.explain(rounded, target=1).values)
    assert np.abs(rounded - x).max() > 1e-3


def test_a_data_frame_feeds_a_model_with_one_input_for_each_column(rng):
    pd = pytest.importorskip("pandas")
    age, colour = layers.Input((1,), name="age"), layers.Input((1,), name="colour", dtype="int32")
    y = layers.Concatenate()([layers.Flatten()(layers.Embedding(4, 2)(colour)), age])
    model = scatter(keras.Model({"age": age, "colour": colour}, layers.Dense(1)(y)))
    frame = pd.DataFrame({"colour": [3, 0, 1], "unread": ["a", "b", "c"], "age": rng.normal(size=3)})
    e = aumann.IntegratedGradients(model, rule=RULE).explain(frame)
    table, w = (host(v.value) for v in model.weights[:2])
    close(e.values["age"], frame[["age"]].to_numpy() * w[2])
    close(e.values["colour"], (table[frame["colour"]] * w[:2, 0])[:, None])
    assert e.names["features"] == {"age": ["age"], "colour": ["colour"]}


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int64", "uint16"])
def test_integer_features_do_not_wrap(dtype):
    x, start = np.array([[10, 3, 0, 7]], dtype), np.array([100, 3, 127, 0], dtype)
    slopes = np.array([0.5, -1.0, 2.0, 0.25], "float32")

    def linear(x):
        return ops.sum(x * ops.convert_to_tensor(slopes), axis=-1)

    e = aumann.IntegratedGradients(linear, rule=RULE).explain(x, baseline=start)
    close(e.values, (x.astype(float) - start.astype(float)) * slopes)
    assert e.inputs.dtype == dtype


def test_images_of_bytes_through_a_model_with_its_own_rescaling():
    model = keras.Sequential(
        [
            layers.Input((4, 4, 1)),
            layers.Rescaling(1 / 127.5, -1),
            layers.Conv2D(2, 3, activation="tanh"),
            layers.Flatten(),
        ]
    )
    x = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 1)).astype("uint8")
    e = aumann.IntegratedGradients(scatter(model), rule=RULE).explain(x, target=3, baseline=200)
    values, _, _ = formula(lambda p: model(p[0], training=False)[:, 3], [x.astype("float32")], [200.0], RULE)
    close(e.values, values[0])


def sides():
    """Features, a boolean mask, and lengths which scale the answer."""
    a = layers.Input((3, 2), name="a")
    mask = layers.Input((3,), name="mask", dtype="bool")
    length = layers.Input((1,), name="length", dtype="int32")
    y = ops.tanh(layers.Dense(2)(a)) * ops.expand_dims(ops.cast(mask, "float32"), -1)
    y = ops.sum(y, axis=1) / ops.cast(length, "float32")
    return scatter(keras.Model({"a": a, "mask": mask, "length": length}, y))


@pytest.mark.parametrize("count", [1, 2])
def test_side_inputs_are_held_still(count, rng):
    model = sides()
    inputs = {
        "length": np.array([[1], [3], [2]]),
        "mask": np.array([[1, 0, 0], [1, 1, 1], [1, 1, 0]], bool),
        "a": rng.normal(size=(3, 3, 2)).astype("float32"),
    }
    starts = rng.normal(size=(count, 3, 2)).astype("float32")
    baseline = {"a": starts[0], "length": "fixed"}
    if count > 1:
        baseline = aumann.baselines.weighted({"a": starts, "length": "fixed"})
    explainer = aumann.IntegratedGradients(model, rule=RULE)
    e = explainer.explain(inputs, target=0, baseline=baseline)

    def f(points):
        held = {k: ops.concatenate([inputs[k]] * (points[0].shape[0] // 3)) for k in ("mask", "length")}
        return model({"a": points[0], **held}, training=False)[:, 0]

    singles = [formula(f, [inputs["a"]], [s], RULE) for s in starts]
    close(e.values["a"], np.mean([v[0] for v, _, _ in singles], axis=0))
    close(e.base_value, np.mean([b for _, _, b in singles], axis=0))
    assert not e.values["mask"].any() and not e.values["length"].any()
    assert e.values["mask"].shape == (3, 3) and e.values["length"].shape == (3, 1)
    assert list(e.values) == list(inputs)
    assert sorted(e.provenance["fixed"]) == ["length", "mask"]


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_an_unused_input_gets_exact_zeros(dtype, rng):
    a, b = layers.Input((3,), name="a"), layers.Input((2,), name="b")
    model = scatter(keras.Model([a, b], layers.Dense(1)(ops.tanh(a))))
    inputs = [rng.normal(size=(4, 3)).astype("float32"), rng.integers(1, 9, (4, 2)).astype(dtype)]
    e = aumann.IntegratedGradients(model, rule=RULE).explain(inputs)
    values, _, _ = formula(
        lambda p: model(p, training=False)[:, 0], [inputs[0], inputs[1].astype("float32")], [0, 0], RULE
    )
    close(e.values[0], values[0])
    assert e.values[1].shape == (4, 2) and not e.values[1].any()


# ---- a batch gives what its rows give ------------------------------------------------------------------------------


def tokens():
    model = keras.Sequential(
        [
            layers.Input((4,), dtype="int32"),
            layers.Embedding(9, 3, mask_zero=True),
            layers.GlobalAveragePooling1D(),
            layers.Dense(1, activation="tanh"),
        ]
    )
    return Case(scatter(model), np.random.default_rng(1).integers(0, 9, (5, 4)))


def several_baselines():
    weights = np.random.default_rng(2).random((5, 3))
    return Case(mlp(), normal(5, 4), [0, 2], baseline=aumann.baselines.weighted(normal(5, 3, 4, seed=6), weights))


@pytest.mark.parametrize("make", [conv2d, masked_gru, tokens, several_baselines], ids=lambda f: f.__name__)
def test_batch_size_and_company_change_time_and_never_values(make):
    case = make()
    rule = aumann.gauss_legendre(3)
    several = isinstance(case.baseline, aumann.baselines.Weighted)
    whole = aumann.IntegratedGradients(case.model, rule=rule).explain(case.inputs, case.target, case.baseline)
    for batch_size in (1, 3, 7, 64):
        explainer = aumann.IntegratedGradients(case.model, rule=rule, batch_size=batch_size)
        e = explainer.explain(case.inputs, case.target, case.baseline)
        for field in ("values", "prediction", "base_value"):
            close(getattr(e, field), getattr(whole, field))
        assert (e.evaluations == (9 if several else 3)).all()
        assert e.provenance["batch_size"] == batch_size
    for i in range(len(case.inputs)):
        baseline = case.baseline
        if several:
            baseline = aumann.baselines.weighted(baseline.rows[i], baseline.weights[i])
        elif np.ndim(baseline):
            baseline = baseline[i]
        one = explainer.explain(case.inputs[i : i + 1], case.target, baseline)
        close(one.values[0], whole.values[i])
        close(one.prediction[0], whole.prediction[i])
        close(one.base_value[0], whole.base_value[i])


def test_memory_and_results_do_not_depend_on_how_rows_were_chosen(explainer, x):
    """Rows in another order, or twice, carry their values along."""
    order = np.array([3, 1, 1, 0, 4])
    close(explainer.explain(x[order], target=1).values, explainer.explain(x, target=1).values[order])


# ---- the helpers of these tests can fail ---------------------------------------------------------------------------


def test_close_tells_apart_what_differs():
    close([np.ones(3)], [np.ones(3) + 1e-7])
    for wrong in ([np.ones(3) + 1e-3], [np.ones(4)], [np.full(3, np.nan)], [np.ones(3)] * 2):
        with pytest.raises((AssertionError, ValueError)):
            close(wrong, [np.ones(3)])
    with pytest.raises(AssertionError):
        close([np.ones(3) + 1e-10], [np.ones(3)], "float64")


def test_the_formula_knows_a_cube():
    """∫ 3 γ² dt (x - x') = x³ - x'³, exact at two nodes."""
    x = normal(3, 2)
    values, prediction, base_value = formula(lambda p: ops.sum(p[0] ** 3, axis=1), [x], [0.5], aumann.gauss_legendre(2))
    close(values[0], x**3 - 0.125)
    close(prediction, (x**3).sum(1))
    close(base_value, np.full(3, 0.25))


def test_unchanged_notices_what_changes(x):
    model = mlp()
    forward(model, x)

    def weight():
        model.layers[0].bias.assign(model.layers[0].bias + 1e-3)

    def attribute():
        vars(model.layers[-1])["call"] = model.layers[-1].call

    def activation():
        model.layers[-1].activation = keras.activations.linear

    def draw():
        np.random.random()

    def trainable():
        model.layers[0].kernel.trainable = False

    for change in (weight, attribute, activation, draw, trainable):
        with pytest.raises(AssertionError), unchanged(model):
            change()
    with unchanged(model):
        forward(model, x)
