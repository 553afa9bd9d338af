"""captum on the torch backend, with Gauss–Legendre nodes: the one rule of it that is right."""

import keras
import numpy as np
import pytest

import aumann

if keras.config.backend() != "torch":
    pytest.skip("captum explains torch modules", allow_module_level=True)

import torch
from captum.attr import IntegratedGradients, InternalInfluence, LayerIntegratedGradients, NeuronIntegratedGradients

L = keras.layers


def captum(forward, x, baseline, target, n=16):
    method = IntegratedGradients(forward)
    found = method.attribute(
        torch.from_numpy(x),
        torch.from_numpy(np.broadcast_to(baseline, x.shape).astype(x.dtype)),
        target=target,
        n_steps=n,
        method="gausslegendre",
        internal_batch_size=64,
    )
    return found.detach().numpy()


def relative(a, b):
    return np.abs(a - b).sum() / np.abs(b).sum()


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_same_values_on_a_convolutional_net(activation, rng):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([
        L.Input((12, 12, 2)), L.Conv2D(6, 3, activation=activation), L.MaxPooling2D(), L.BatchNormalization(),
        L.Conv2D(8, 3, activation=activation), L.Flatten(), L.Dense(3, "softmax"),
    ])  # fmt: skip
    x, b = rng.normal(size=(3, 12, 12, 2)).astype("float32"), rng.normal(size=(12, 12, 2)).astype("float32")
    theirs = captum(lambda t: model(t, training=False), x, b, 1)
    ours = aumann.IntegratedGradients(model, rule=aumann.gauss_legendre(16)).explain(x, target=1, baseline=b).values
    assert relative(ours, theirs) <= 1e-5


def test_same_values_on_a_torch_module(rng):
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.Tanh(), torch.nn.Dropout(0.5), torch.nn.Linear(16, 3))
    x = rng.normal(size=(4, 6)).astype("float32")
    ours = aumann.IntegratedGradients(module, rule=aumann.gauss_legendre(16)).explain(x, target=2).values
    assert module.training
    assert relative(ours, captum(module.eval(), x, 0.0, 2)) <= 1e-5


def test_same_values_at_an_embedding(rng):
    """captum's LayerIntegratedGradients at the Embedding, token 0 as the baseline."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [L.Input((6,), dtype="int32"), L.Embedding(20, 4), L.Conv1D(5, 3), L.Flatten(), L.Dense(2)]
    )
    ids = rng.integers(1, 20, (3, 6)).astype("int32")
    method = LayerIntegratedGradients(lambda t: model(t, training=False), model.layers[0])
    theirs = method.attribute(
        torch.from_numpy(ids), torch.zeros_like(torch.from_numpy(ids)), target=1, n_steps=8, method="gausslegendre"
    )
    ours = aumann.IntegratedGradients(model, rule=aumann.gauss_legendre(8)).explain(ids, target=1, baseline=0)
    assert relative(ours.values, theirs.detach().numpy()) <= 1e-5


def inner():
    keras.utils.set_random_seed(0)
    return keras.Sequential([
        L.Input((6,)), L.Dense(5, activation="relu", name="a"), L.Dense(4, activation="tanh", name="b"), L.Dense(3),
    ])  # fmt: skip


@pytest.mark.parametrize("side", ["input", "output"])
def test_same_values_at_a_layer_inside(side, rng):
    model, x, b = inner(), *(rng.normal(size=(n, 6)).astype("float32") for n in (4, 1))
    method = LayerIntegratedGradients(lambda t: model(t, training=False), model.layers[1])
    theirs = method.attribute(
        torch.from_numpy(x),
        torch.from_numpy(b),
        target=1,
        n_steps=8,
        method="gausslegendre",
        attribute_to_layer_input=side == "input",
    )
    layer = aumann.input_of("b") if side == "input" else "b"
    ours = aumann.IntegratedGradients(model, layer=layer, rule=aumann.gauss_legendre(8)).explain(x, 1, b[0])
    assert relative(ours.values, theirs.detach().numpy()) <= 1e-5


def test_same_values_for_a_neuron(rng):
    model, x = inner(), rng.normal(size=(4, 6)).astype("float32")
    method = NeuronIntegratedGradients(lambda t: model(t, training=False), model.layers[1])
    theirs = method.attribute(torch.from_numpy(x), 2, n_steps=8, method="gausslegendre")
    rule = aumann.gauss_legendre(8)
    ours = aumann.IntegratedGradients(model, output=aumann.output_of("b"), rule=rule).explain(x, 2)
    assert relative(ours.values, theirs.detach().numpy()) <= 1e-5


@pytest.mark.parametrize("layer", [0, 1])
def test_same_internal_influence(layer, rng):
    model, x = inner(), rng.normal(size=(4, 6)).astype("float32")
    method = InternalInfluence(lambda t: model(t, training=False), model.layers[layer])
    theirs = method.attribute(torch.from_numpy(x), target=1, n_steps=8, method="gausslegendre")
    ours = aumann.InternalInfluence(model, model.layers[layer], rule=aumann.gauss_legendre(8)).explain(x, 1)
    assert relative(ours.values, theirs.detach().numpy()) <= 1e-5
