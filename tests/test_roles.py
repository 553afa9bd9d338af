"""What becomes of each input: it moves, an Embedding reads it, or it is held still; and in which dtype and rows."""

import keras
import numpy as np
import pytest
from conftest import BACKEND, close, float64, host, mlp, scatter
from keras import layers as L
from keras import ops

import aumann

RNG = np.random.default_rng(11)
X = RNG.normal(size=(5, 4)).astype("float32")


# ---- inputs that are held still by themselves ----------------------------------------------------------------------


def encoder():
    """Ids, of which a mask and a length say how many count; only the ids can be explained."""
    ids, mask = L.Input((5,), dtype="int32", name="ids"), L.Input((5,), dtype="int32", name="mask")
    length = L.Input((1,), dtype="int64", name="length")
    h = L.Embedding(9, 4, name="table")(ids) * ops.cast(mask, "float32")[..., None]
    mean = ops.sum(h, axis=1) / ops.cast(length, "float32")
    return scatter(keras.Model({"ids": ids, "mask": mask, "length": length}, L.Dense(2, name="out")(mean)))


def texts():
    mask = (np.arange(5) < np.array([[3], [5], [2]])).astype("int32")
    return {"ids": RNG.integers(1, 9, (3, 5)), "mask": mask, "length": mask.sum(1, keepdims=True)}


@pytest.mark.parametrize("baseline", [0.0, {"ids": 0}, {"ids": 0, "mask": "fixed", "length": "fixed"}])
def test_masks_and_lengths_are_held_by_themselves(baseline):
    model, inputs = encoder(), texts()
    e = aumann.IntegratedGradients(model).explain(inputs, 1, baseline=baseline)
    assert e.provenance["fixed"] == ["length", "mask"] and not e.values["mask"].any() and not e.values["length"].any()
    table, kernel = host(model.get_layer("table").embeddings), host(model.get_layer("out").kernel)[:, 1]
    start = 0 if baseline == 0.0 else table[0]
    share = (inputs["mask"] / inputs["length"])[..., None]
    close(e.values["ids"], (table[inputs["ids"]] - start) * kernel * share)


def test_one_hot_of_a_declared_integer_is_held_beside_floats():
    kind, x = L.Input((1,), dtype="int32", name="kind"), L.Input((4,), name="x")
    model = scatter(keras.Model([x, kind], L.Dense(1)(ops.concatenate([x, ops.one_hot(kind[:, 0], 3)], axis=1))))
    e = aumann.IntegratedGradients(model).explain([X, np.array([[0], [1], [2], [1], [0]])])
    assert e.provenance["fixed"] == ["kind"]
    close(e.values[0], X * host(model.layers[-1].kernel)[:4, 0])


def test_with_nothing_else_to_explain_they_are_refused():
    mask = L.Input((5,), dtype="int32", name="mask")
    model = keras.Model(mask, L.Dense(1)(ops.cast(mask, "float32")))
    with pytest.raises(TypeError, match="Expected an Embedding to read the integer input 'mask'"):
        aumann.IntegratedGradients(model).explain(np.ones((2, 5), int))


def test_undeclared_integers_are_features():
    e = aumann.IntegratedGradients(lambda x: ops.sum(x * x, axis=1)).explain(np.array([[1, 2], [3, 4]]))
    close(e.values, np.array([[1, 4], [9, 16]]))


@pytest.mark.parametrize("kind", [str, bytes, object])
def test_text_is_passed_through_where_it_is_held(kind):
    """Which only TensorFlow has tensors for."""
    words = np.array([["a"], ["b"], ["c"]]).astype("S" if kind is bytes else "U").astype(kind)

    def lengths(x, word):
        return ops.sum(x * x, axis=1)

    model = lengths
    if BACKEND == "tensorflow":
        x, word = L.Input((4,), name="x"), L.Input((1,), dtype="string", name="word")
        hot = ops.reshape(L.StringLookup(vocabulary=["a", "b"], output_mode="one_hot")(word), (-1, 3))
        model = scatter(
            keras.Model(
                {"x": x, "word": word}, ops.sum(x * L.Dense(4, name="weights")(ops.cast(hot, "float32")), axis=1)
            )
        )
    explainer = aumann.IntegratedGradients(model)
    inputs = {"x": X[:3], "word": words}
    if BACKEND == "tensorflow":
        e = explainer.explain(inputs, baseline={"word": "fixed"})
        weights, bias = map(host, model.get_layer("weights").weights)
        close(e.values["x"], X[:3] * (weights[[1, 2, 0]] + bias))
        assert e.provenance["fixed"] == ["word"] and e.inputs["word"].tolist() == words.tolist()
    else:
        with pytest.raises(TypeError, match=r"received text, for which .* has no tensors"):
            explainer.explain(inputs, baseline={"word": "fixed"})
    if BACKEND == "tensorflow":  # declared to be text, and read by no Embedding: held by itself, as a mask is
        assert explainer.explain(inputs).provenance["fixed"] == ["word"]


# ---- the dtype of the path -----------------------------------------------------------------------------------------


class Double(L.Layer):
    """Computes in float64 what a layer of its own holds."""

    def __init__(self):
        super().__init__()
        self.inner = L.Dense(3, dtype="float64")

    def build(self, shape):
        self.inner.build(shape)

    def call(self, x):
        return self.inner(x)


DOUBLE = {
    "a layer": lambda: keras.Sequential([L.Input((4,)), L.Dense(3, "tanh", dtype="float64"), L.Dense(2)]),
    "an input": lambda: keras.Sequential([L.Input((4,), dtype="float64"), L.Dense(3, "tanh")]),
    "a layer without weights": lambda: keras.Sequential([L.Input((4,)), L.Dense(3), L.Softmax(dtype="float64")]),
    "deep inside": lambda: keras.Sequential([L.Input((4,)), keras.Sequential([L.Input((4,)), Double(), L.Dense(2)])]),
    "all of it": lambda: keras.Sequential([L.Input((4,), dtype="float64"), L.Dense(3, "tanh", dtype="float64")]),
}


@pytest.mark.parametrize("what", DOUBLE)
def test_a_model_that_computes_in_float64_anywhere_has_a_float64_path(what):
    with float64():
        e = aumann.IntegratedGradients(scatter(DOUBLE[what]())).explain(X.astype("float64"), 1)
        assert e.provenance["dtype"] == "float64" and e.values.dtype == "float64"
        same = aumann.IntegratedGradients(mlp(None)).explain(X.astype("float64"), 1)
        assert same.provenance["dtype"] == "float32"  # the dtype of the data is not that of the model


def test_in_float64_the_sum_is_as_exact_as_float64():
    with float64():
        model = scatter(DOUBLE["all of it"]())
        e = aumann.IntegratedGradients(model, rule=aumann.gauss_legendre(60)).explain(X.astype("float64"), 1)
        limit = 1e-12 if BACKEND == "tensorflow" else 1e-6  # where Keras multiplies matrices in float32
        assert np.abs(e.residual).max() < limit * np.abs(e.values).sum(1).max()


# ---- arrays of every kind ------------------------------------------------------------------------------------------


def kinds():
    """(what, array, whose values it has)"""
    wide = np.repeat(np.repeat(X, 2, 0), 2, 1)
    whole = RNG.integers(-3, 4, (5, 4))
    yield "float16", X.astype("float16"), X.astype("float16")
    yield "float64", X.astype("float64"), X
    yield "big endian", X.astype(">f4"), X
    yield "Fortran", np.asfortranarray(X), X
    yield "a view with strides", wide[::2, ::2], X
    yield "a view backwards", np.ascontiguousarray(X[::-1, ::-1])[::-1, ::-1], X
    yield "a transposed view", np.ascontiguousarray(X.T).T, X
    yield "broadcast", np.broadcast_to(X[:1], (5, 4)), np.repeat(X[:1], 5, 0)
    yield "read-only", np.frombuffer(X.tobytes(), "float32").reshape(5, 4), X
    yield "a field of records", np.rec.fromarrays([X], names="x").x, X
    yield "a matrix", np.asmatrix(X), X
    yield "a list", X.tolist(), X
    yield "a memory view", memoryview(X), X
    for name in ("int8", "int16", "int64", ">i4"):
        yield name, whole.astype(name), whole
    for name in ("uint8", "uint32"):
        yield name, np.abs(whole).astype(name), np.abs(whole)
    for name in ("float16", "bfloat16", "float32"):
        yield f"a tensor of {name}", ops.convert_to_tensor(X.astype("float16").astype("float32"), name), None


EXPLAINER = aumann.IntegratedGradients(mlp(None), rule=aumann.gauss_legendre(8))


@pytest.mark.parametrize("what, given, values", kinds(), ids=lambda v: v if isinstance(v, str) else "")
def test_arrays_of_every_kind(what, given, values):
    values = host(ops.cast(given, "float32")) if values is None else values
    close(EXPLAINER.explain(given, 1).values, EXPLAINER.explain(np.array(values, "float32"), 1).values)


# ---- models that take so many rows and no others -------------------------------------------------------------------


def recurrent(rows=None):
    given = {"batch_shape": (rows, 3, 2)} if rows else {"shape": (3, 2)}
    return keras.Sequential([L.Input(**given), L.SimpleRNN(4, stateful=rows is not None), L.Dense(2)])


def folded(activation):
    """Folds the rows, all of which it must know the number of."""

    def model(rows=None):
        x = L.Input(**({"batch_shape": (rows, 6)} if rows else {"shape": (6,)}))
        h = L.Dense(8, activation)(x)
        h = ops.reshape(h, (rows, 2, 4)) if rows else ops.reshape(h, (-1, 2, 4))
        return keras.Model(x, L.Dense(2)(ops.reshape(h, (rows or -1, 8))))

    return model


FIXED = {"recurrent": (recurrent, 4), "kinks": (folded("relu"), 4), "smooth": (folded("tanh"), 4)}
FIXED |= {"one row": (folded("tanh"), 1), "one row, kinks": (folded("relu"), 1)}


@pytest.mark.slow
@pytest.mark.parametrize("what", FIXED)
def test_the_declared_rows_are_filled_up(what):
    make, rows = FIXED[what]
    fixed, free = scatter(make(rows)), make()
    for layer, own in zip(fixed.layers, free.layers, strict=True):
        for v, w in zip(layer.trainable_weights, own.trainable_weights, strict=True):
            w.assign(v)
    for x in fixed.variables:
        if "state" in x.path and not x.trainable and keras.backend.is_float_dtype(x.dtype):
            x.assign(ops.zeros_like(x))
    x = RNG.normal(size=(5, *free.inputs[0].shape[1:])).astype("float32")
    for options in [{}, {"batch_size": 3}, {"batch_size": 100}] if what == "kinks" else [{"tolerance": 0.05}]:
        own, other = (aumann.IntegratedGradients(m, **options).explain(x, 1) for m in (fixed, free))
        mass = np.abs(other.values).reshape(5, -1).sum(1)
        off = np.abs(own.values - other.values).reshape(5, -1).sum(1) / mass
        assert (off <= own.error + other.error).all() and own.converged.all()
        close(own.prediction, other.prediction)
        assert own.provenance["batch_size"] <= rows
    own, other = (
        aumann.Conductance(m, m.layers[-2 if what == "recurrent" else 1], tolerance=0.05).explain(x, 1)
        for m in (fixed, free)
    )
    mass = np.abs(other.values).reshape(5, -1).sum(1)
    assert (np.abs(own.values - other.values).reshape(5, -1).sum(1) <= mass * (own.error + other.error)).all()


def test_declared_rows_that_are_not_needed_are_not_kept_to():
    model = keras.Sequential([L.Input(batch_shape=(2, 4)), L.Dense(3, "relu"), L.Dense(2)])
    explainer = aumann.IntegratedGradients(model)
    assert explainer.explain(X, 1).provenance["batch_size"] > 2
    with pytest.raises(ValueError, match="Expected a target between 0 and 1"):
        explainer.explain(X, 7)
