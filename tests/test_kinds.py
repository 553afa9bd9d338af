"""What may be handed over as inputs or baseline: kinds of arrays that are read right, and kinds that are refused."""

import re
import types

import keras
import numpy as np
import pandas as pd
import pytest
from conftest import BACKEND, close, mlp
from keras import layers as L
from keras import ops

import aumann

RULE = aumann.gauss_legendre(3)
X = np.random.default_rng(4).normal(size=(4, 4)).astype("float32")
FRAME = pd.DataFrame(X, columns=list("abcd"))
MODEL = mlp()
IG = aumann.IntegratedGradients(MODEL, rule=RULE)


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 1

    def __getitem__(self, index):
        return X, np.zeros(4)


def sparse_of_the_backend():
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return tf.sparse.from_dense(X), tf.sparse.to_dense
    if BACKEND == "jax":
        from jax.experimental import sparse

        return sparse.BCOO.fromdense(X), lambda x: x.todense()
    import torch

    return torch.tensor(X).to_sparse(), lambda x: x.to_dense()


def scipy_sparse():
    return pytest.importorskip("scipy.sparse").csr_array(X), lambda x: x.toarray()


def ragged():
    tf = pytest.importorskip("tensorflow")
    return tf.RaggedTensor.from_tensor(X), lambda x: x.to_tensor()


def nested():
    torch = pytest.importorskip("torch")
    return torch.nested.nested_tensor([torch.tensor(row) for row in X]), lambda x: torch.nested.to_padded_tensor(x, 0.0)


def tf_dataset():
    tf = pytest.importorskip("tensorflow")
    made = tf.data.Dataset.from_tensor_slices((X, np.zeros(4))).batch(2)
    return made, lambda dataset: np.concatenate([x for x, y in dataset])


def loader():
    torch = pytest.importorskip("torch")
    made = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.tensor(X), torch.zeros(4)), batch_size=2)
    return made, lambda loader: np.concatenate([x for x, y in loader])


def torch_dataset():
    torch = pytest.importorskip("torch")
    return torch.utils.data.TensorDataset(torch.tensor(X), torch.zeros(4)), lambda x: np.stack([a for a, y in x])


def xarray_dataset():
    xr = pytest.importorskip("xarray")
    return xr.Dataset({"x": (("n", "k"), X)}), lambda x: x["x"]


def lazy():
    polars = pytest.importorskip("polars")
    return polars.DataFrame(X, schema=list("abcd")).lazy(), lambda x: x.collect()


def masked():
    return np.ma.masked_array(X, mask=np.arange(16).reshape(4, 4) == 5), lambda x: x.filled(0)


def pydataset():
    return Batches(), lambda dataset: np.concatenate([x for x, y in (dataset[i] for i in range(dataset.num_batches))])


def as_is(x):
    return lambda: (x, None)


CITIES = pd.DataFrame({"age": [1.0, 2.0], "city": pd.Categorical(["a", "b"]), "when": pd.to_datetime(["2024", "2025"])})
REFUSED = {  # what, the message names, and what its advice makes of it
    "a KerasTensor": (as_is(MODEL.inputs[0]), "KerasTensor", "model.predict"),
    "a sparse tensor": (sparse_of_the_backend, "sparse", "to_dense|todense"),
    "a scipy matrix": (scipy_sparse, "sparse", "toarray"),
    "a RaggedTensor": (ragged, "RaggedTensor", "to_tensor"),
    "a nested tensor": (nested, "nested", "to_padded_tensor"),
    "a tf.data.Dataset": (tf_dataset, "Dataset", "concatenate"),
    "a DataLoader": (loader, "DataLoader", "concatenate"),
    "a Dataset of torch": (torch_dataset, "Dataset", "concatenate"),
    "a PyDataset": (pydataset, "PyDataset", "concatenate"),
    "an xarray Dataset": (xarray_dataset, "xarray Dataset", "data_vars"),
    "a lazy table": (lazy, "not computed", r"collect\(\)"),
    "a generator": (lambda: ((row for row in X), lambda x: np.stack(list(row for row in X))), "iterator", "numpy.stack"),
    "masked entries": (masked, r"1 of them in rows \[1\]", "filled"),
    "a set": (as_is({1.0, 2.0}), "set", "list"),
    "a mapping": (lambda: (types.MappingProxyType({"x": X}), None), "mapping", r"dict\(x\)"),
    "a function": (as_is(lambda: X), "function", "rows"),
    "objects that are numbers": (lambda: (X.astype(object), lambda x: x.astype(float)), "object", r"astype\(float\)"),
    "objects": (as_is(np.full((4, 4), None)), "object", "Encode"),
    "dates": (lambda: (X.astype("datetime64[D]"), lambda x: (x - x[0, 0]) / np.timedelta64(1, "D")), "datetime", "timedelta"),
    "complex numbers": (as_is(X.astype(complex)), "complex", "two features"),
    "text": (as_is(np.full((4, 4), "a")), "<U1", "Encode text"),
    "columns of categories and dates": (as_is(CITIES), r"'city' \(category\), 'when' \(datetime64", "Encode"),
    "no features": (as_is(X[:, :0]), r"\(4, 0\)", "feature|Reshape"),
    "a table without columns": (as_is(FRAME[[]]), r"\(4, 0\)", "feature|Reshape"),
    "rows of several lengths": (as_is([[1.0, 2.0], [1.0]]), "different shapes", "Pad"),
}  # fmt: skip


@pytest.mark.parametrize("place", ["inputs", "baseline"])
@pytest.mark.parametrize("why", REFUSED)
def test_what_holds_no_numbers_is_refused_with_advice_that_works(why, place):
    make, named, advice = REFUSED[why]
    if place == "baseline" and why in ("a set", "a mapping", "a function", "no features", "a table without columns"):
        return  # callables and structures mean something there, and shapes have their own words
    x, follow = make()
    with pytest.raises((TypeError, ValueError)) as caught:
        IG.explain(x, 1) if place == "inputs" else IG.explain(X, 1, baseline=x)
    message = str(caught.value)
    assert re.match(r"Expected .+received .+\. .+\.$", message, re.DOTALL), message
    after = message.split("received", 1)[1]
    assert re.search(named, after) and re.search(advice, after), message
    if follow is not None and why != "dates":
        IG.explain(follow(make()[0]), 1)
    if why == "dates":
        assert np.isfinite(IG.explain(follow(x), 1).values).all()


def test_a_function_without_declared_inputs_needs_a_feature():
    plain = aumann.IntegratedGradients(lambda x: ops.sum(x, axis=1), rule=RULE)
    with pytest.raises(ValueError, match=r"at least one feature in input 'input', received shape \(4, 0\)\. Check"):
        plain.explain(X[:, :0])


READ = {
    "a matrix": lambda: np.asmatrix(X),
    "masks that mask nothing": lambda: np.ma.masked_array(X),
    "a polars frame": lambda: pytest.importorskip("polars").DataFrame(X, schema=list("abcd")),
    "an arrow table": lambda: pytest.importorskip("pyarrow").Table.from_pandas(FRAME),
    "a structured array": lambda: FRAME.to_records(index=False),
    "an xarray": lambda: pytest.importorskip("xarray").DataArray(X, dims=("n", "k")),
    "a torch tensor that requires a gradient": lambda: pytest.importorskip("torch").tensor(X, requires_grad=True),
    "a tensorflow variable": lambda: pytest.importorskip("tensorflow").Variable(X),
    "a jax array": lambda: pytest.importorskip("jax").numpy.asarray(X),
    "a Keras variable": lambda: keras.Variable(X),
    "a frame of nullable floats": lambda: FRAME.convert_dtypes(),
    "a frame of arrow floats": lambda: FRAME.convert_dtypes(dtype_backend="pyarrow"),
    "a sparse frame": lambda: FRAME.astype(pd.SparseDtype("float32")),
    "a memory map": lambda: np.asarray(X).view(np.memmap),
    "every second of a wider one": lambda: np.repeat(X, 2, axis=1)[:, ::2],
    "the other byte order": lambda: X.astype(">f4"),
}


@pytest.mark.parametrize("why", READ)
def test_kinds_of_numbers(why):
    expected = IG.explain(X, 1)
    e = IG.explain(READ[why](), 1)
    close(e.values, expected.values)
    close(IG.explain(X, 1, baseline=READ[why]()).values, IG.explain(X, 1, baseline=X).values, scale=1)


@pytest.mark.parametrize("most", [2**63 - 1, 2**63, 2**64 - 1])
def test_large_unsigned_integers_do_not_wrap(most):
    x = np.array([[most, 1], [0, most]], np.uint64)
    e = aumann.IntegratedGradients(lambda x: x[:, 0] * 2 - x[:, 1], rule=RULE).explain(x)
    close(e.values, x.astype(float) * [2, -1])
    assert e.inputs.dtype == np.uint64 and (e.inputs == x).all()
    close(e.values, aumann.IntegratedGradients(lambda x: x[:, 0] * 2 - x[:, 1], rule=RULE).explain(
        np.zeros((2, 2)), baseline=x).values * -1)  # fmt: skip
    ids = keras.Sequential([L.Input((2,), dtype="int32"), L.Embedding(5, 2), L.Flatten(), L.Dense(1)])
    with pytest.raises((TypeError, ValueError), match="Expected .*received"):
        aumann.IntegratedGradients(ids, rule=RULE).explain(x)
    with pytest.raises((TypeError, ValueError), match="Expected .*received"):
        aumann.IntegratedGradients(ids, rule=RULE).explain(np.array([[1, 2]]), baseline=x[:1])
    with pytest.raises((TypeError, ValueError), match="Expected .*received"):
        IG.explain(X, np.array([most, 0, 0, 0], np.uint64))


def test_a_call_inside_of_a_function_that_is_traced():
    said = []

    def inside(x):
        for given in (x, X):
            with pytest.raises((TypeError, ValueError)) as caught:
                IG.explain(given, 1)
            said.append(str(caught.value))
        return ops.sum(x)

    if BACKEND == "tensorflow":
        import tensorflow as tf

        tf.function(inside)(tf.constant(X))
    elif BACKEND == "jax":
        import jax

        jax.jit(inside)(X)
    else:
        import torch

        with pytest.raises(TypeError, match=r"being traced.*Call explain\(\) outside"):
            IG.explain(torch.empty((4, 4), device="meta"), 1)
        return
    for message in said:
        assert re.match(r"Expected .+received .+\. .*outside.*aumann\.attribution.*\.$", message), message
    assert np.isfinite(IG.explain(X, 1).values).all()


def test_expected_gradients_take_a_number_for_several_inputs():
    eg = aumann.ExpectedGradients(lambda inputs: ops.sum(inputs[0], axis=1) * inputs[1][:, 0], samples=4)
    a, b = X, X[:, :1]
    for inputs in ([a, b], (a, b), [FRAME, b]):
        for baseline in (0.0, [0.0, 0.0], [np.zeros(4), np.zeros(1)]):
            e = eg.explain(inputs, baseline=baseline)
            np.testing.assert_allclose(e.prediction, a.sum(1) * b[:, 0], rtol=1e-4)
    one = aumann.ExpectedGradients(MODEL, samples=4)
    close(one.explain(X.tolist(), 1, baseline=X.tolist()).values, one.explain(X, 1, baseline=X).values)
