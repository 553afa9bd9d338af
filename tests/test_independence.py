"""What is looked for before anything is computed: F of a row depends on that row alone, and is one at every call."""

import keras
import numpy as np
import pytest
from conftest import BACKEND, close, host, mlp, policy, scatter
from keras import layers as L
from keras import ops

import aumann

RULE = aumann.midpoint(4)
X = np.random.default_rng(3).normal(size=(5, 4)).astype("float32")
CORE = mlp(None)


class Own(L.Layer):
    """A layer that computes what it is given to compute."""

    def __init__(self, fn):
        super().__init__()
        self.fn, self.seed, self.norm = fn, keras.random.SeedGenerator(5), L.BatchNormalization()

    def build(self, shape):
        self.norm.build(shape)

    def call(self, x):
        return self.fn(self, x)

    def compute_output_shape(self, shape):
        return shape


def within(fn, before=()):
    """A network in the middle of which a layer of its own computes fn(layer, x)."""
    return scatter(keras.Sequential([L.Input((4,)), *before, L.Dense(6, "tanh"), Own(fn), L.Dense(3)]))


def normal(layer, x, rows=None):
    return keras.random.normal((rows or ops.shape(x)[0], x.shape[1]), seed=layer.seed)


def rows_of(x):
    return ops.cast(ops.shape(x)[0], x.dtype)


COMPANY = r"depends on the row alone.*rows beside it.*training=False"
DRAWN = r"same answer at every call.*random numbers.*training is true"
PLACE = r"wherever a row stands.*equal rows differ.*mask.*held still"
NUMBER = r"batches of any size.*number of rows"
SHAPE = r"one row for each row of the inputs, received .*what belongs to a row.*\"fixed\""

REFUSED = {
    "less the mean of the batch": (within(lambda s, x: x - ops.mean(x, axis=0)), COMPANY),
    "over the largest of the batch": (within(lambda s, x: x / (1 + ops.max(ops.abs(x), axis=0))), COMPANY),
    "softmax over the rows": (within(lambda s, x: x * ops.softmax(x, axis=0)), COMPANY),
    "attention among the rows": (within(lambda s, x: x + ops.softmax(x @ ops.transpose(x)) @ x), COMPANY),
    "statistics of the batch": (within(lambda s, x: s.norm(x, training=True)), COMPANY),
    "a sample for each row": (within(lambda s, x: x + normal(s, x)), DRAWN),
    "one sample for all rows": (within(lambda s, x: x + normal(s, x, 1)), DRAWN),
    "dropout": (within(lambda s, x: keras.random.dropout(x, 0.5, seed=s.seed)), DRAWN),
    "NumPy's numbers": (lambda x: CORE(x) * np.random.uniform(0.5, 2), DRAWN),
    "NumPy's rows": (lambda x: CORE(x) + ops.convert_to_tensor(np.random.normal(size=(1, 3)).astype("float32")), DRAWN),
    "a number for each place": (lambda x: CORE(x) * ops.reshape(ops.arange(1.0, rows_of(x) + 1), (-1, 1)), PLACE),
    "the number of rows": (lambda x: CORE(x) / rows_of(x), NUMBER),
    "one row for all": (lambda x: ops.sum(CORE(x), axis=0, keepdims=True), SHAPE),
    "a mask for each row": (lambda x: CORE(x) * ops.ones((5, 1)), SHAPE),
}  # fmt: skip
if BACKEND == "jax":  # which compiles no range whose length it is not told
    REFUSED["a number for each place"] = (
        lambda x: CORE(x) * np.arange(1.0, len(x) + 1)[:, None].astype("float32"),
        PLACE,
    )

TARGETS = {
    "less the mean of the batch": (lambda y: y[:, 0] - ops.mean(y[:, 0]), "target function.*" + COMPANY),
    "over the number of rows": (lambda y: y[:, 0] / rows_of(y), "target function.*" + NUMBER),
    "NumPy's numbers": (lambda y: y[:, 0] * np.random.uniform(0.5, 2), "target function.*" + DRAWN),
    "one number for all rows": (lambda y: ops.sum(y, axis=0)[:1], "one number for each row, received 1 for.*\"fixed\""),
    "a mask for each row": (
        lambda y: y[:, 0] * ops.convert_to_tensor(np.arange(5, dtype="float32")), "target function.*\"fixed\""),
}  # fmt: skip


@pytest.mark.parametrize("rows", [5, 1])
@pytest.mark.parametrize("why", REFUSED)
def test_refused(why, rows):
    model, message = REFUSED[why]
    with pytest.raises(ValueError, match=message):
        aumann.IntegratedGradients(model, rule=RULE).explain(X[:rows], 0)


@pytest.mark.parametrize("why", TARGETS)
def test_a_target_function_is_looked_at_too(why):
    target, message = TARGETS[why]
    explainer = aumann.IntegratedGradients(CORE, rule=RULE)
    explainer.explain(X, 0)
    for _ in range(2):  # also when it comes again
        with pytest.raises(ValueError, match=message):
            explainer.explain(X, target)


def test_only_what_is_explained_counts():
    """The sample of a variational encoder is drawn, its mean is not."""
    x = L.Input((4,))
    mean = L.Dense(2, name="mean")(x)
    model = scatter(keras.Model(x, {"mean": mean, "sample": Own(lambda s, x: x + normal(s, x))(mean)}))
    explainer = aumann.IntegratedGradients(model, rule=RULE)
    close(explainer.explain(X, ("mean", 1)).values, X * host(model.get_layer("mean").kernel)[:, 1])
    with pytest.raises(ValueError, match=DRAWN):
        explainer.explain(X, ("sample", 1))
    with pytest.raises(ValueError, match=DRAWN):
        aumann.IntegratedGradients(model, rule=RULE, output="sample").explain(X, 1)
    close(aumann.IntegratedGradients(model, rule=RULE, output="mean").explain(X, 1).values, explainer.explain(
        X, ("mean", 1)).values)  # fmt: skip


def test_behind_a_layer_rows_may_be_coupled_before_it_and_not_after():
    model = within(lambda s, x: x - ops.mean(x, axis=0))
    with pytest.raises(ValueError, match=COMPANY):
        aumann.IntegratedGradients(model, layer=model.layers[0], rule=RULE).explain(X, 0)


def test_what_rows_share_through_inputs_held_still():
    def f(x, weights):
        return ops.sum(x * weights / ops.sum(weights, axis=0), axis=1)

    inputs = {"x": X, "weights": np.random.default_rng(1).uniform(1, 2, X.shape).astype("float32")}
    with pytest.raises(ValueError, match=COMPANY):
        aumann.IntegratedGradients(f, rule=RULE).explain(inputs, baseline={"weights": "fixed"})


def test_rows_that_are_equal_tell_nothing_and_the_next_are_looked_at():
    explainer = aumann.IntegratedGradients(REFUSED["less the mean of the batch"][0], rule=RULE)
    assert not explainer.explain(np.zeros((2, 4), "float32"), 0).values.any()
    with pytest.raises(ValueError, match=COMPANY):
        explainer.explain(X, 0)


def little(amount):
    return lambda x: CORE(x) * (1 + amount * ops.mean(x, axis=0, keepdims=True)[:, :1])


def test_between_rounding_and_certainty_a_warning():
    with pytest.warns(aumann.IndependenceWarning, match=COMPANY + ".*may be rounding") as found:
        aumann.IntegratedGradients(little(1e-4), rule=RULE).explain(X, 0)
    assert found[0].filename == __file__


def first_two(y):
    return y[:, 0] + y[:, 1]


def test_an_explainer_looks_once(monkeypatch):
    from aumann.explain import independence

    looks = []
    check = independence.IndependenceCheck
    monkeypatch.setattr(check, "evaluate", lambda self, was=check.evaluate: (
        looks.append(self.functions), was(self)))  # fmt: skip
    explainer = aumann.IntegratedGradients(CORE, rule=RULE)
    for target in (0, 1, first_two):
        explainer.explain(X, target)
        explainer.explain(X[:2], target)
    assert len(looks) == 2


# ---- models that are as they should be ------------------------------------------------------------------------------


def sequential(shape, *layers, dtype=None):
    return scatter(keras.Sequential([L.Input(shape, dtype=dtype), *layers]))


def transformer(depth=2):
    i = L.Input((6, 8))
    x = i
    for _ in range(depth):
        x = L.LayerNormalization()(x + L.MultiHeadAttention(2, 4)(x, x))
        x = L.LayerNormalization()(x + L.Dense(8)(L.Dense(16, "gelu")(x)))
    return keras.Model(i, L.Dense(3)(L.GlobalAveragePooling1D()(x)))


def deep():
    layers = [L.Conv2D(8, 3, padding="same", activation="relu") for _ in range(8)]
    return keras.Sequential([L.Input((8, 8, 3)), *layers, L.Flatten(), L.Dense(3)])


def ids():
    return sequential((5,), L.Embedding(9, 4, mask_zero=True), L.LSTM(4), L.Dense(3), dtype="int32")


def training():
    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense, self.drop, self.norm = L.Dense(3), L.Dropout(0.5), L.BatchNormalization()

        def call(self, x, training=True):
            return self.norm(self.drop(self.dense(x), training=training), training=training)

    model = Model()
    model(X)
    return scatter(model)


LEGITIMATE = {
    "layer normalization": lambda: sequential((4,), L.LayerNormalization(), L.Dense(3)),
    "group normalization": lambda: sequential((6, 4), L.GroupNormalization(2), L.Flatten(), L.Dense(3)),
    "unit normalization": lambda: sequential((4,), L.Dense(3), L.UnitNormalization()),
    "batch normalization": lambda: sequential((4,), L.Dense(6), L.BatchNormalization(), L.Dense(3)),
    "dropout": lambda: sequential((4,), L.Dropout(0.5), L.GaussianNoise(1.0), L.Dense(3)),
    "training by default": training,
    "recurrence": lambda: sequential((6, 2), L.Bidirectional(L.GRU(3)), L.Dense(3)),
    "ragged lengths": lambda: sequential((6, 2), L.Masking(), L.LSTM(3), L.Dense(3)),
    "padded ids": ids,
    "attention": transformer,
    "deep convolutions": deep,
    "a softmax that is saturated": lambda: sequential((4,), L.Dense(3), L.Rescaling(1e3), L.Softmax()),
    "differences of large numbers": lambda: lambda x: (CORE(x) + 1e4) - 1e4,
    "steps": lambda: lambda x: CORE(x) * ops.cast(x[:, :1] > 0, "float32") + ops.round(x[:, :3]) * 0.1,
    "seeded numbers for all rows": lambda: lambda x: CORE(x) * keras.random.uniform((1, 3), seed=3),
    "random augmentation": lambda: sequential((8, 8, 3), L.RandomFlip(), L.RandomRotation(0.1), L.Flatten()),
}  # fmt: skip


def data(model, n):
    rng = np.random.default_rng(n)
    declared = getattr(model, "inputs", None)
    shape = tuple(declared[0].shape[1:]) if declared else (4,)
    if declared and declared[0].dtype == "int32":
        return rng.integers(0, 9, (n, *shape)).astype("int32")
    x = rng.normal(size=(n, *shape)).astype("float32")
    if len(shape) == 2:
        x[0, shape[0] // 2 :] = 0
    return x


@pytest.mark.parametrize("what", LEGITIMATE)
def test_no_word_about_a_model_that_is_as_it_should_be(what):
    model = LEGITIMATE[what]()
    for n in (1, 3):
        assert aumann.InputXGradient(model).predict(data(model, n), 0).shape == (n,)


@pytest.mark.parametrize("name", ["float16", "mixed_float16", "bfloat16", "mixed_bfloat16"])
def test_no_word_about_coarse_numbers(name):
    with policy(name):
        models = [keras.Sequential([L.Input((32,)), *[L.Dense(64, "relu") for _ in range(8)], L.Dense(3)])]
        if BACKEND != "jax" or name.endswith("bfloat16"):  # in batches XLA multiplies no matrices of float16 on CPU
            models.append(transformer(1))
    for model in models:
        for n in (1, 3):
            assert aumann.InputXGradient(model).predict(data(model, n), 0).shape == (n,)


def test_several_inputs_masks_and_lengths():
    def f(x, mask, lengths):
        return ops.sum(x * mask, axis=1) / ops.cast(lengths, "float32")[:, 0]

    mask = (np.arange(4) < np.array([[4], [2], [3], [1], [4]])).astype("float32")
    inputs = {"x": X, "mask": mask, "lengths": mask.sum(1, keepdims=True).astype("int32")}
    e = aumann.IntegratedGradients(f, rule=RULE).explain(inputs, baseline={"mask": "fixed", "lengths": "fixed"})
    close(e.values["x"], X * mask / mask.sum(1, keepdims=True))


def test_a_function_of_a_single_row_is_told_what_helps():
    weights = ops.convert_to_tensor(X[:, :1])

    def single(x):
        return ops.tanh(ops.reshape(x, (1, 4))) @ weights[:4]

    with pytest.raises(ValueError, match="takes a single row and no more is given batch_size=1"):
        aumann.IntegratedGradients(single, rule=RULE).explain(X)
    e = aumann.IntegratedGradients(single, rule=RULE, batch_size=1).explain(X)
    many = aumann.IntegratedGradients(lambda x: ops.tanh(x) @ weights[:4], rule=RULE).explain(X)
    close(e.values, many.values)
