"""Bad input is refused in three beats (expected, received, what to do), and the explainer, the model and the framework
work on."""

import re
import warnings

import keras
import numpy as np
import pytest
from conftest import BACKEND, close, forward, mlp, scatter, unchanged
from keras import layers, ops

import aumann

RULE = aumann.gauss_legendre(4)
X = np.random.default_rng(2).normal(size=(5, 4)).astype("float32")


def ig(model, **options):
    return aumann.IntegratedGradients(model, **{"rule": RULE, **options})


def tolerant(model, **options):
    return aumann.IntegratedGradients(model, **options)


@pytest.fixture(scope="module")
def trained():
    """A model that goes on training: (fit one epoch) -> loss."""
    model = mlp()
    model.compile("sgd", "sparse_categorical_crossentropy")
    return lambda: model.fit(X, np.arange(5) % 3, verbose=0).history["loss"][-1]


@pytest.fixture(scope="module")
def expected(explainer):
    return explainer.explain(X, 1)


def refused(call, error, received, advice):
    """Fails unless the call is refused with a message of three beats that names what arrived and what to do."""
    with pytest.raises(error) as caught:
        call()
    message = str(caught.value)
    assert type(caught.value) in (ValueError, TypeError)
    assert re.match(r"Expected .+received .+\. .+\.$", message, re.DOTALL), message
    after = message.split("received", 1)[1]
    assert re.search(received, after, re.DOTALL), message
    assert re.search(advice, after, re.DOTALL), message


# ---- when an explainer is made -------------------------------------------------------------------------------------


class Twice(keras.Model):
    """Two layers of one name."""

    def __init__(self):
        super().__init__()
        self.a, self.b = layers.Dense(2, name="same"), layers.Dense(2, name="same")

    def call(self, x):
        return self.b(self.a(x))


def twice():
    model = Twice()
    model(np.zeros((1, 4), "float32"))
    return model


CONSTRUCTION = {
    "a path": (lambda m: ig("model.keras"), TypeError, "str", "load_model"),
    "a number": (lambda m: ig(3), TypeError, "int", "Load the model"),
    "an unbuilt model": (lambda m: ig(keras.Sequential([layers.Dense(2)])), ValueError, "sequential", "Call it.*build"),
    "a class": (lambda m: ig(keras.Sequential), TypeError, "class Sequential", "instance"),
    "no tolerance at all": (lambda m: tolerant(m, tolerance=0), ValueError, " 0", r"for example 0\.01"),
    "a negative tolerance": (lambda m: tolerant(m, tolerance=-0.1), ValueError, r"-0\.1", r"for example 0\.01"),
    "a tolerance that is none": (lambda m: tolerant(m, tolerance=np.nan), ValueError, "nan", r"for example 0\.01"),
    "a tolerance in words": (lambda m: tolerant(m, tolerance="low"), ValueError, "'low'", r"for example 0\.01"),
    "too few for two sums": (lambda m: tolerant(m, max_evaluations=8), ValueError, "8", "for example 2000"),
    "half a gradient": (lambda m: tolerant(m, max_evaluations=99.5), ValueError, r"99\.5", "for example 2000"),
    "a rule and a tolerance": (lambda m: ig(m, tolerance=0.01), ValueError, "gauss_legendre", "leave one of them out"),
    "a rule and a limit": (lambda m: ig(m, max_evaluations=100), ValueError, "max_evaluations=100", "leave one of"),
    "a rule by its number": (lambda m: ig(m, rule=50), TypeError, "50", r"gauss_legendre\(50\)"),
    "a rule by its name": (lambda m: ig(m, rule="left"), TypeError, "'left'", r"gauss_legendre"),
    "rules": (lambda m: ig(m, rule=aumann.left), TypeError, "function", "gauss_legendre"),
    "batch_size 0": (lambda m: ig(m, batch_size=0), ValueError, "0", "Leave it out"),
    "batch_size -1": (lambda m: ig(m, batch_size=-1), ValueError, "-1", "Leave it out"),
    "batch_size 2.5": (lambda m: ig(m, batch_size=2.5), ValueError, r"2\.5", "Leave it out"),
    "batch_size True": (lambda m: ig(m, batch_size=True), ValueError, "True", "Leave it out"),
    "batch_size None": (lambda m: ig(m, batch_size=None), ValueError, "None", "Leave it out"),
    "batch_size by name": (lambda m: ig(m, batch_size="big"), ValueError, "'big'", "Leave it out"),
    "half precision": (lambda m: ig(m, precision="bfloat16"), ValueError, "'bfloat16'", "mixed_bfloat16"),
    "a device that is not there": (lambda m: ig(m, devices="gpu:7"), ValueError, "'gpu:7'", "There are .*'cpu"),
    "a device by its number": (lambda m: ig(m, devices=0), ValueError, "0", "There are .*'cpu"),
    "one device of two": (lambda m: ig(m, devices=["cpu", "tpu:3"]), ValueError, "'tpu:3'", "There are .*'cpu"),
    "no device": (lambda m: ig(m, devices=[]), ValueError, r"\[\]", "Leave devices= out"),
    "no such layer": (lambda m: ig(m, layer="nothing"), ValueError, "'nothing' which names 0", r"layers are \['dense"),
    "a layer of another model": (lambda m: ig(m, layer=layers.Dense(1)), ValueError, "names 0", "layers are"),
    "a layer by its number": (lambda m: ig(m, layer=1), ValueError, "1 which names 0", "layers are"),
    "one of two": (lambda m: ig(twice(), layer="same"), ValueError, "'same' which names 2", "layers are"),
    "a layer of a function": (lambda m: ig(ops.sin, layer="dense"), ValueError, "'dense' which names 0", "layers are"),
}  # fmt: skip


@pytest.mark.parametrize("why", CONSTRUCTION)
def test_refused_when_made(why, classifier):
    call, *rest = CONSTRUCTION[why]
    refused(lambda: call(classifier), *rest)


# ---- inputs --------------------------------------------------------------------------------------------------------


def poisoned(value, rows):
    x = X.copy()
    x[rows, 1] = value
    return x


INPUTS = {
    "NaN": (poisoned(np.nan, [1, 3]), ValueError, r"NaN.*rows \[1, 3\]", "Impute or drop"),
    "infinity": (poisoned(np.inf, [0]), ValueError, r"infinity.*rows \[0\]", "Impute or drop"),
    "many NaN": (np.full((40, 4), np.nan), ValueError, r"… 40 in all", "Impute or drop"),
    "text": (np.full((5, 4), "a"), TypeError, "<U1", "Encode text"),
    "objects": (X.astype(object), TypeError, "object", "numeric type"),
    "complex numbers": (X.astype(complex), TypeError, "complex128", "numeric type"),
    "dates": (np.zeros((5, 4), "datetime64[D]"), TypeError, "datetime64", "Encode"),
    "ragged rows": ([[1.0, 2.0], [1.0]], ValueError, r"different shapes", r"Pad them"),
    "nothing": (None, (TypeError, ValueError), "NoneType|object|None|empty", "numeric|Give"),
    "one number": (np.float32(3), ValueError, "single number", "rows"),
    "a sample without its batch axis": (X[0], ValueError, r"\(4,\)", r"batch axis: inputs\[None\]"),
    "too many features": (np.zeros((5, 6)), ValueError, r"\(5, 6\)", "Reshape"),
    "too many axes": (np.zeros((5, 4, 1)), ValueError, r"\(5, 4, 1\)", "Reshape"),
    "an empty batch": (X[:0], ValueError, "empty batch", "rows were chosen"),
    "an empty list": ([], ValueError, "empty", "Give an array"),
    "an empty dict": ({}, ValueError, r"empty|\[\]", "Give|Name"),
    "two inputs": ([X, X], ValueError, "2", "list in that order"),
    "another name": ({"features": X}, ValueError, r"\['features'\]", "Name them"),
}  # fmt: skip


@pytest.mark.parametrize("why", INPUTS)
def test_inputs_refused(why, classifier, explainer, expected, trained):
    inputs, *rest = INPUTS[why]
    with unchanged(classifier):
        refused(lambda: explainer.explain(inputs, 1), *rest)
    assert np.isfinite(trained())
    close(explainer.explain(X, 1).values, expected.values)


def test_several_inputs_refused():
    a, b = layers.Input((4,), name="a"), layers.Input((2,), name="b")
    explainer = ig(keras.Model({"a": a, "b": b}, layers.Dense(1)(layers.Concatenate()([a, b]))))
    good = {"a": X, "b": X[:, :2]}
    pd = pytest.importorskip("pandas")
    refused(lambda: explainer.explain({"a": X}), ValueError, r"\['a'\]", "Name them")
    refused(lambda: explainer.explain({**good, "c": X}), ValueError, r"'c'", "Name them")
    refused(lambda: explainer.explain({"a": X, "b": X[:3, :2]}), ValueError, r"'a': 5, 'b': 3", "Align")
    refused(lambda: explainer.explain([X]), ValueError, "1", "list in that order")
    refused(lambda: explainer.explain({"a": X, "b": X}), ValueError, r"\(5, 4\)", "Reshape")
    refused(lambda: explainer.explain(pd.DataFrame({"a": X[:, 0]})), ValueError, r"without \['b'\]", "Rename or add")
    close(explainer.explain(good).prediction, forward(explainer.model, good)[:, 0])


# ---- integers with no way in ---------------------------------------------------------------------------------------


def one_hot(declared):
    """Class ids that only an integer operation reads, beside float features."""
    ids, x = layers.Input((1,), dtype=declared, name="ids"), layers.Input((4,), name="x")
    hot = ops.one_hot(ops.cast(ids[:, 0], "int32"), 3)
    return scatter(keras.Model([x, ids], layers.Dense(1, name="out")(ops.concatenate([hot, x], axis=1))))


@pytest.mark.parametrize("declared", ["int32", "float32"])
def test_integer_ids_that_no_embedding_reads(declared, trained):
    model = one_hot(declared)
    ids = np.array([[0], [1], [2], [1], [1]])
    explainer = ig(model)
    if declared == "float32":  # else held still by itself
        refused(lambda: explainer.explain([X, ids]), TypeError, "none does", "layer=.*'ids': \"fixed\"")
    alone = ig(lambda ids: ops.sum(ops.one_hot(ops.cast(ids, "int32"), 3)[..., 2], axis=1) * 1.5)
    if declared == "int32":
        refused(lambda: alone.explain(ids), TypeError, "none does", "one-hot code")
    held = explainer.explain([X, ids], baseline=[0.0, "fixed"])
    close(held.values[0], X * keras.ops.convert_to_numpy(model.get_layer("out").kernel)[3:, 0])
    assert np.isfinite(trained())


def test_fractions_where_whole_numbers_are_declared():
    explainer = ig(keras.Sequential([layers.Input((4,), dtype="int32"), layers.Embedding(5, 2), layers.Flatten()]))
    refused(lambda: explainer.explain(X, 0), TypeError, r"float32 with values such as -?\d", "whole numbers")
    whole = explainer.explain(np.array([[0.0, 1.0, 4.0, 2.0]]), 3)
    close(whole.values, explainer.explain(np.array([[0, 1, 4, 2]]), 3).values)
    assert whole.inputs.dtype == "int32"


def test_ids_beyond_the_embedding(trained):
    explainer = ig(keras.Sequential([layers.Input((4,), dtype="int32"), layers.Embedding(5, 2), layers.Flatten()]))
    good = np.array([[0, 1, 4, 2], [3, 3, 0, 1]])
    refused(lambda: explainer.explain(good * 3, 0), ValueError, "NaN|ran|IndexError", "[Cc]heck")
    refused(lambda: explainer.explain(good, 0, baseline=7), ValueError, "NaN|ran|IndexError", "[Cc]heck|Choose")
    close(explainer.explain(good, "all").residual, np.zeros((2, 8)), scale=1)
    assert np.isfinite(trained())


# ---- outputs with no gradient --------------------------------------------------------------------------------------

FLAT = {
    "argmax": lambda x: ops.argmax(x, axis=1),
    "argmax as float": lambda x: ops.cast(ops.argmax(x * x, axis=1), "float32"),
    "rounding": lambda x: ops.sum(ops.round(3 * x), axis=1),
    "comparison": lambda x: ops.cast(ops.sum(x * x, axis=1) > 0.5, "float32"),
    "booleans": lambda x: ops.sum(x, axis=1) > 0.5,
    "sign": lambda x: ops.sum(ops.sign(x) + 0.3, axis=1),
}


@pytest.mark.parametrize("make", [ig, tolerant])
@pytest.mark.parametrize("why", FLAT)
def test_outputs_without_a_gradient(why, make, trained):
    explainer = make(FLAT[why])
    refused(lambda: explainer.explain(X), ValueError, "", "Explain the score before it")
    refused(lambda: explainer.explain(X), ValueError, "", "Explain the score before it")  # nor later
    assert np.isfinite(trained())


def test_an_output_that_is_flat_at_the_nodes_is_no_output_of_steps():
    """A ramp between two nodes has a gradient, if one looks closely: a miss, not a mistake."""
    explainer = aumann.IntegratedGradients(lambda x: ops.sum(ops.relu(x - 2.5), axis=1), rule=aumann.left(5))
    with pytest.warns(aumann.CompletenessWarning, match=r"rows \[0, 2\] miss"):
        e = explainer.explain(np.array([[3.0], [1.0], [2.9]]))
    assert not e.values.any()
    close(e.residual, np.array([-0.5, 0.0, -0.4]))


def test_one_output_of_several_without_a_gradient():
    model = ig(lambda x: {"score": ops.sum(x * x, axis=1), "class": ops.argmax(x, axis=1)})
    refused(lambda: model.explain(X, "class"), ValueError, "int", "choose another output= or target=")
    close(model.explain(X, "score").values, X**2)


# ---- models that fail ----------------------------------------------------------------------------------------------


class Failure(Exception):
    """An error of the model's own."""


@pytest.mark.parametrize(
    "error",
    [Failure, ZeroDivisionError, RuntimeError, ValueError("Expected something")],
    ids=lambda e: getattr(e, "__name__", "ours in appearance"),
)
def test_a_model_that_fails_inside(error, trained):
    broken = []

    def model(x):
        if broken:
            raise error
        return ops.sum(ops.sin(x), axis=1)

    explainer = ig(model)
    close(explainer.explain(X).prediction, np.sin(X).sum(1))
    broken.append(True)
    for fresh in (explainer, ig(model)):
        name = error.__name__ if isinstance(error, type) else r"ValueError.*Expected something"
        refused(lambda e=fresh: e.explain(X, lambda y: 2 * y), ValueError, name, r"Check that model\(inputs\) works")
    broken.clear()
    close(explainer.explain(X).prediction, np.sin(X).sum(1))
    close(explainer.explain(X, lambda y: 3 * y).prediction, 3 * np.sin(X).sum(1))
    assert np.isfinite(trained())


MODELS = {
    "NaN": (lambda x: ops.sum(ops.log(x - 100), axis=1), ValueError, r"NaN.*rows \[0, 1, 2, 3, 4\]", "weights"),
    "a number for all rows": (lambda x: ops.sum(x), ValueError, r"shape \(\)", "batch axis first"),
    "rows in the second axis": (lambda x: ops.transpose(x), ValueError, r"\(4, 1\)|\(4, None\)", "batch axis first"),
    "nothing": (lambda x: None, TypeError, "NoneType", "returns those"),
    "a number": (lambda x: 1.0, TypeError, "float", "returns those"),
    "lists of lists": (lambda x: [[x, x]], TypeError, "list", "returns those"),
    "a constant": (lambda x: ops.zeros_like(x)[:, 0] + 2.0, ValueError, "no input|zero", "before it"),
    "other arguments": (lambda: 1, ValueError, "TypeError", r"model\(inputs\) works"),
    "an endless start": (lambda x: ops.sum(ops.log(ops.abs(x)), axis=1), ValueError, r"of rows \[0, 1", "baseline="),
}  # fmt: skip


@pytest.mark.parametrize("why", MODELS)
def test_models_refused(why):
    model, *rest = MODELS[why]
    if why == "a constant" and BACKEND == "jax":  # a gradient of zeros, and complete: 2 - 2 = 0
        assert not ig(model).explain(X).values.any()
        return
    refused(lambda: ig(model).explain(X), *rest)


def test_a_gradient_that_is_not_finite_is_said():
    """√x has an infinite slope at 0, where a closed rule looks."""
    explainer = aumann.IntegratedGradients(lambda x: ops.sum(ops.sqrt(x), axis=1), rule=aumann.trapezoid(5))
    with pytest.warns(aumann.CompletenessWarning, match=r"not finite.*rows \[0, 1\].*Move the baseline") as caught:
        explainer.explain(np.ones((2, 3), "float32"))
    assert caught[0].filename == __file__


def test_a_miss_is_said_with_its_rows_and_never_mended(x):
    """A step is invisible to any rule; what misses is reported, and the values are not rescaled."""
    explainer = aumann.IntegratedGradients(
        lambda x: ops.sum(x, axis=1) + ops.cast(x[:, 0] > 5, "float32") * 10, rule=aumann.midpoint(3)
    )
    x = np.array([[1.0, 2.0], [6.0, 1.0]], "float32")
    with pytest.warns(aumann.CompletenessWarning, match=r"rows \[1\] miss.*Use more nodes") as caught:
        e = explainer.explain(x)
    assert caught[0].filename == __file__
    close(e.values, x)
    close(e.residual, np.array([0.0, -10.0]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        explainer.explain(x[:1])


@pytest.mark.parametrize("which", ["a", "b"])
def test_a_baseline_beyond_the_dtype_of_the_path_is_refused_by_its_name(which):
    """Of every input, also where values are those of one layer."""
    inputs = [layers.Input((2,), name=name) for name in "ab"]
    joint = layers.Concatenate(name="joint")(inputs)
    model = scatter(keras.Model(dict(zip("ab", inputs, strict=True)), layers.Dense(1)(joint)))
    x = {name: X[:, :2] for name in "ab"}
    for method in (ig(model), aumann.Conductance(model, "joint", rule=RULE)):
        refused(lambda method=method: method.explain(x, baseline={which: 1e300}), ValueError, r"1e\+300", "Rescale")
        with pytest.raises(ValueError, match=f"the baseline of input '{which}'"):
            method.explain(x, baseline={which: 1e300})
