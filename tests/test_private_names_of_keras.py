"""Every name private to Keras that is read: it is there, means what it is taken for, and what happens without it."""

import pathlib
import re
import sys

import keras
import numpy as np
import pytest
from conftest import close, scatter
from keras import layers as L

import aumann
from aumann.backends import keras_private

ROOT = pathlib.Path(aumann.__file__).parent
X = np.random.default_rng(0).normal(size=(3, 4)).astype("float32")
GAUSS = aumann.gauss_legendre(3)


def functional(**outputs):
    x = L.Input((4,), name="x")
    h = L.Dense(3, "tanh", name="hidden")(x)
    y = {name: L.Dense(units, name=name)(h) for name, units in outputs.items()}
    return scatter(keras.Model({"x": x}, y or L.Dense(2, name="y")(h)))


def sequential():
    return scatter(keras.Sequential([L.Input((4,)), L.Dense(3, "relu", name="first"), L.Dense(2, name="last")]))


# ---- they are there, and mean what they are taken for ----------------------------------------------------------------


def test_sublayers():
    inner = L.Dense(2)
    model = keras.Sequential([L.Input((4,)), keras.Sequential([L.Input((4,)), inner])])
    names = [type(layer).__name__ for layer in keras_private.sublayers(model)]
    assert "Sequential" in names and "Dense" not in names
    assert inner in keras_private.sublayers(model.layers[0]) and not keras_private.sublayers(inner)


def test_all_layers_are_those_at_any_depth():
    inner = L.Dense(2)
    model = keras.Sequential([L.Input((4,)), keras.Sequential([L.Input((4,)), inner])])
    layers = keras_private.all_layers(model)
    assert layers[0] is model and inner in layers and len({*map(id, layers)}) == len(layers)
    assert {*map(id, layers)} == {*map(id, model._flatten_layers())}


def test_scopes_are_those_of_keras():
    assert keras_private.stateless_scope() is None
    with keras.StatelessScope() as scope:
        assert keras_private.stateless_scope() is scope
    pytest.importorskip("tensorflow")
    from keras.src.utils.backend_utils import in_tf_graph

    with keras_private.tensorflow_scope():
        assert in_tf_graph()
    assert not in_tf_graph()


def test_structures_of_inputs_and_outputs():
    model = functional(b=1, a=2)
    assert list(keras_private.inputs_structure(model)) == ["x"]
    assert list(keras_private.outputs_structure(model)) == ["b", "a"]  # in the order in which they were given
    assert keras_private.inputs_structure(sequential()) is None
    assert keras_private.outputs_structure(lambda x: x) is None


def test_how_a_layer_is_quantised():
    model = sequential()
    assert keras_private.quantization_mode(model.layers[0]) is None
    assert not keras_private.runs_quantized_call(model.layers[0])
    model.layers[0].quantize("int8")
    assert keras_private.quantization_mode(model.layers[0]) == "int8"
    assert keras_private.runs_quantized_call(model.layers[0])


def test_the_calls_of_a_graph():
    model = functional()
    assert keras_private.is_graph(model) and keras_private.graph(model) is model
    nodes = keras_private.nodes(model)
    assert [node.operation.name for node in sorted(nodes, key=lambda n: n.operation.name)] == ["hidden", "y"]
    (hidden,) = (node for node in nodes if node.operation.name == "hidden")
    assert hidden.input_tensors[0] is model.inputs[0] is hidden.arguments.args[0]
    assert len(hidden.output_tensors) == 1
    assert keras_private.is_graph(sequential())
    assert {n.operation.name for n in keras_private.nodes(keras_private.graph(sequential()))} == {"first", "last"}

    class Squared(keras.Model):
        def call(self, x):
            return super().call(x) ** 2

    assert not keras_private.is_graph(Squared(model.inputs, model.outputs))
    assert not keras_private.is_graph(L.Dense(2)) and not keras_private.is_graph(lambda x: x)


@pytest.mark.parametrize("name", ["gelu", "silu", "elu", "softmax"])
def test_activations_pass_the_module(monkeypatch, name):
    """Those of layers, of `keras.activations` and of `keras.ops`."""
    nn, calls = keras_private.activations(), []
    original = getattr(nn, name)
    monkeypatch.setattr(nn, name, lambda *args, **kwargs: calls.append(1) or original(*args, **kwargs))
    for call in (L.Activation(name), getattr(keras.activations, name), getattr(keras.ops, name)):
        call(keras.ops.convert_to_tensor(X))
    assert len(calls) == 3


# ---- what happens without them ---------------------------------------------------------------------------------------


def test_without_the_module_of_activations_an_error_says_so(monkeypatch):
    monkeypatch.delattr(sys.modules["keras.src.backend"], "nn")
    monkeypatch.setitem(sys.modules, "keras.src.backend.nn", None)
    with pytest.raises(RuntimeError, match=r"Expected Keras to have keras\.src\.backend\.nn, .*; received Keras"):
        keras_private.activations()


def test_without_sublayers_an_error_says_so(monkeypatch):
    monkeypatch.delattr(L.Layer, "_flatten_layers")
    with pytest.raises(RuntimeError, match=r"Expected Keras to have Layer\._flatten_layers, .*; received Keras"):
        keras_private.sublayers(L.Dense(2))


def test_without_scopes_none_is_found_or_an_error_says_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "keras.src.backend.common.stateless_scope", None)
    with keras.StatelessScope():
        assert keras_private.stateless_scope() is None
    monkeypatch.setitem(sys.modules, "keras.src.utils.backend_utils", None)
    with pytest.raises(RuntimeError, match=r"Expected Keras to have .*TFGraphScope, .*; received Keras"):
        keras_private.tensorflow_scope()


def test_without_graphs_values_are_those_of_the_path_of_the_inputs(monkeypatch):
    model = scatter(keras.Sequential([L.Input((4,)), L.Dense(2, "tanh")]))
    with_prefix = aumann.IntegratedGradients(model, rule=GAUSS).explain(X, 1)
    assert "path laid at" in with_prefix.provenance
    monkeypatch.setattr(keras_private, "graph", lambda model: None)  # as where the names are gone
    assert not keras_private.is_graph(model)
    without = aumann.IntegratedGradients(model, rule=GAUSS).explain(X, 1)
    assert "path laid at" not in without.provenance
    close(without.values, with_prefix.values)


def test_without_a_mode_of_quantisation_nothing_is_quantised():
    class Bare:
        pass

    assert keras_private.quantization_mode(Bare()) is None and not keras_private.runs_quantized_call(Bare())


def test_without_structures_inputs_have_their_own_names_and_outputs_the_order_of_the_call(monkeypatch):
    model = functional(b=1, a=2)
    expected = aumann.IntegratedGradients(model, rule=GAUSS).explain({"x": X}, ("a", 1)).values
    monkeypatch.setattr(keras_private, "inputs_structure", lambda model: None)
    monkeypatch.setattr(keras_private, "outputs_structure", lambda model: None)
    close(aumann.IntegratedGradients(model, rule=GAUSS).explain({"x": X}, ("a", 1)).values, expected)


# ---- and stand nowhere else ------------------------------------------------------------------------------------------

PRIVATE = re.compile(
    r"\b_flatten_layers\b|\b_inputs_struct\b|\b_outputs_struct\b|\b_functional\b|\b_nodes_by_depth\b"
    r"|(?<!keras_private\.)\bquantization_mode\b|\bkeras\.src\b"
)


FILES = {str(path.relative_to(ROOT)): path for path in sorted(ROOT.rglob("*.py")) if path.name != "keras_private.py"}


@pytest.mark.parametrize("name", FILES)
def test_private_names_are_read_in_the_backends_alone(name):
    assert not PRIVATE.findall(FILES[name].read_text())
