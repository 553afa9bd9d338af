"""The import of 2017, `from IntegratedGradients import *`, on the code of its own pages.

Every number is compared with the original's formula written out: Σ ∂F(x' + s/n (x - x')) (x - x') / n, s = 0 … n - 1.
"""

from types import SimpleNamespace

import keras
import numpy as np
import pytest
from conftest import close, formula, host, scatter
from keras import layers

import aumann
from IntegratedGradients import integrated_gradients

# The page's example. Only the import of Activation differs (keras.layers.core is gone in Keras 3), and the epochs.
PAGE = """
from IntegratedGradients import *
from keras.layers import Dense
from keras.layers import Activation

X = np.array([[float(j) for j in i.rstrip().split(",")[:-1]] for i in open("iris.data").readlines()][:-1])
Y = np.array([0 for i in range(100)] + [1 for i in range(50)])

model = Sequential([
    Dense(1, input_dim=4),
    Activation('sigmoid'),
])
model.compile(optimizer='sgd', loss='binary_crossentropy')
model.fit(X, Y, epochs=3, batch_size=10, validation_split=0.2, verbose=0)

ig = integrated_gradients(model)
answer = ig.explain(X[0])
"""


def left(n):
    return SimpleNamespace(nodes=np.arange(n) / n, weights=np.full(n, 1 / n))


def original(model, samples, pick, starts=None, n=50):
    """The original sum for one sample, its branches in a list."""
    ends = [np.asarray(s, "float32")[None] for s in samples]
    starts = [0.0] * len(ends) if starts is None else [np.asarray(s)[None] for s in starts]

    def f(points):
        return pick(model(points if len(points) > 1 else points[0], training=False))

    return [v[0] for v in formula(f, ends, starts, left(n))[0]]


def test_the_page_runs_and_gives_the_original_sum(tmp_path, monkeypatch, capsys):
    iris = pytest.importorskip("sklearn.datasets").load_iris()
    names = ["Iris-setosa", "Iris-versicolor", "Iris-virginica"]
    lines = [",".join([*map(str, x), names[y]]) for x, y in zip(iris.data, iris.target, strict=True)]
    (tmp_path / "iris.data").write_text("\n".join([*lines, "", ""]))
    monkeypatch.chdir(tmp_path)
    page = {}
    exec(PAGE, page)
    assert capsys.readouterr().out == "Evaluated output channels (0-based index): All\n"
    x, answer = iris.data[0], page["answer"]
    assert page["X"].shape == (150, 4) and answer.shape == (4,) and isinstance(answer, np.ndarray)
    w, b = (host(v.value).astype(float) for v in page["model"].weights)
    total = np.zeros(4)
    for s in range(50):
        p = 1 / (1 + np.exp(-(x * s / 50 @ w[:, 0] + b[0])))
        total += p * (1 - p) * w[:, 0]
    close(answer, x * total / 50)


def test_the_star_brings_what_it_brought():
    page = {}
    exec("from IntegratedGradients import *", page)
    assert {k for k in page if not k.startswith("__")} == {"np", "Sequential", "Model", "integrated_gradients"}
    assert page["np"] is np and page["Sequential"] is keras.Sequential and page["Model"] is keras.Model


@pytest.fixture(scope="module")
def digits():
    """A small CNN on 8 × 8 digits, trained for a moment, and five samples."""
    data = pytest.importorskip("sklearn.datasets").load_digits()
    x = (data.images[..., None] / 16).astype("float32")
    model = keras.Sequential(
        [
            layers.Input((8, 8, 1)),
            layers.Conv2D(4, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(10, activation="softmax"),
        ]
    )
    keras.utils.set_random_seed(0)
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(x[:640], data.target[:640], batch_size=64, epochs=1, verbose=0)
    return model, x[:5]


def test_a_convolutional_network_class_by_class(digits):
    model, x = digits
    ig = integrated_gradients(model, verbose=0)
    for sample, outc in ((x[0], 0), (x[0], 9), (x[3], 3)):
        values = ig.explain(sample, outc=outc)
        close(values, original(model, [sample], lambda y, c=outc: y[:, c])[0])
        assert values.shape == (8, 8, 1)
    close(ig.explain(x[0]), ig.explain(x[0], outc=0))


def test_steps_and_reference(digits):
    model, x = digits
    ig = integrated_gradients(model, verbose=0)
    for n in (1, 7, 20):
        close(ig.explain(x[0], 2, num_steps=n), original(model, [x[0]], lambda y: y[:, 2], n=n)[0])
    close(ig.explain(x[0], 2, x[1]), original(model, [x[0]], lambda y: y[:, 2], [x[1]])[0])
    close(ig.explain(x[0], 2, reference=False), ig.explain(x[0], 2))


def test_a_better_rule_is_more_complete():
    """First order against a rule for smooth integrands, on the same number of steps."""
    model = keras.Sequential(
        [layers.Input((4,)), layers.Dense(5, activation="tanh"), layers.Dense(1, activation="sigmoid")]
    )
    scatter(model)
    x = np.array([1.0, -2.0, 0.5, 1.5], "float32")
    difference = host(model(np.stack([x, 0 * x])))[:, 0] @ [1, -1]
    missed = {}
    for rule in (aumann.left, aumann.midpoint, aumann.gauss_legendre):
        values = integrated_gradients(model, verbose=0, rule=rule).explain(x, num_steps=12)
        missed[rule.__name__] = abs(values.sum() - difference) / np.abs(values).sum()
    assert missed["left"] > 3 * missed["midpoint"] > 30 * missed["gauss_legendre"]


def two_branches():
    a, b = layers.Input((3,), name="a"), layers.Input((2, 2), name="b")
    h = layers.Dense(4, activation="tanh")(a) * layers.Dense(4)(layers.Flatten()(b))
    return scatter(keras.Model([a, b], [layers.Dense(2, activation="softmax")(h), layers.Dense(1)(h)]))


def test_two_branches_list_in_and_list_out(rng):
    model = two_branches()
    ig = integrated_gradients(model, verbose=0)
    sample = [rng.normal(size=3), rng.normal(size=(2, 2))]
    start = [rng.normal(size=3), rng.normal(size=(2, 2))]
    units = [lambda y: y[0][:, 0], lambda y: y[0][:, 1], lambda y: y[1][:, 0]]
    for outc, pick in enumerate(units):  # units of all outputs, laid end to end
        values = ig.explain(sample, outc=outc)
        assert isinstance(values, list) and [v.shape for v in values] == [(3,), (2, 2)]
        close(values, original(model, sample, pick))
        close(ig.explain(sample, outc, start), original(model, sample, pick, start))


def test_output_channels_and_what_is_printed(digits, capsys):
    model, x = digits
    ig = integrated_gradients(model, outchannels=[0, 3])
    assert "0,3" in capsys.readouterr().out
    ig.explain(x[0], outc=3)
    assert capsys.readouterr().out == ""
    ig.explain(x[0], outc=3, verbose=1)
    assert "3" in capsys.readouterr().out
    with pytest.raises(ValueError, match=r"\[0, 3\], received 1"):
        ig.explain(x[0], outc=1)
    with pytest.raises(ValueError, match=r"between 0 and 9, received \[10, -1\]"):
        integrated_gradients(model, outchannels=[10, 3, -1])
    integrated_gradients(model, verbose=0)
    assert capsys.readouterr().out == ""


def test_later_training_is_seen_and_the_sum_stays_silent_about_its_order(digits, recwarn):
    model = keras.models.clone_model(digits[0])
    model.compile("sgd", "sparse_categorical_crossentropy")
    ig = integrated_gradients(model, verbose=0)
    before = ig.explain(digits[1][0], 1, num_steps=2)
    model.fit(digits[1], np.arange(5), verbose=0, epochs=3)
    after = ig.explain(digits[1][0], 1, num_steps=2)
    assert np.abs(after - before).max() > 0
    close(after, original(model, digits[1][:1], lambda y: y[:, 1], n=2)[0])
    assert not [w for w in recwarn if issubclass(w.category, aumann.CompletenessWarning)]


def test_what_is_refused(digits):
    ig = integrated_gradients(digits[0], verbose=0)
    sample = digits[1][0]
    with pytest.raises(ValueError, match=r"received \(1, 1, 8, 8, 1\)"):
        ig.explain(sample[None])
    with pytest.raises(ValueError, match="broadcasts"):
        ig.explain(sample, reference=np.zeros((8, 8)))
    with pytest.raises(ValueError, match="whole number ≥ 1, the nodes"):
        ig.explain(sample, num_steps=0)
    with pytest.raises(ValueError, match="built model"):
        integrated_gradients(keras.Sequential([layers.Dense(2)]))
    with pytest.raises(TypeError, match=r"Expected a Sequential or functional model.*received"):
        integrated_gradients(lambda x: x)
    assert ig.explain(sample, num_steps=2).shape == (8, 8, 1)
