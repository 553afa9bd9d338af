"""Copies: an explainer that has been used is pickled and deep-copied, without what was compiled, and goes on alike."""

import copy
import pickle

import keras
import numpy as np
import pytest
from conftest import BACKEND, close, scatter
from keras import layers as L
from keras import tree

import aumann

X = np.random.default_rng(6).normal(size=(3, 4)).astype("float32")
GAUSS = {"rule": aumann.gauss_legendre(3)}


def model():
    x = L.Input((4,), name="x")
    h = L.Dense(5, "tanh", name="hidden")(x)
    return scatter(keras.Model(x, L.Dense(3, "softmax", name="classes")(h)))


EXPLAINERS = {
    "IntegratedGradients": lambda m: aumann.IntegratedGradients(m, tolerance=0.5),
    "at the logits": lambda m: aumann.IntegratedGradients(m, output="logits", **GAUSS),
    "at a layer": lambda m: aumann.IntegratedGradients(m, layer="hidden", **GAUSS),
    "at what a layer takes": lambda m: aumann.IntegratedGradients(m, layer=aumann.input_of("classes"), **GAUSS),
    "of units": lambda m: aumann.IntegratedGradients(m, output=aumann.output_of(m.layers[1]), **GAUSS),
    "on a path": lambda m: aumann.IntegratedGradients(
        m, path=aumann.Polyline(np.ones((1, 4))), rule=aumann.midpoint(64)
    ),
    "Conductance": lambda m: aumann.Conductance(m, m.layers[1], **GAUSS),
    "ExpectedGradients": lambda m: aumann.ExpectedGradients(m, samples=8),
    "GuidedIntegratedGradients": lambda m: aumann.GuidedIntegratedGradients(m, steps=20),
    "SequentialIntegratedGradients": lambda m: aumann.SequentialIntegratedGradients(m, **GAUSS),
    "IntegratedHessians": lambda m: aumann.IntegratedHessians(m, rule=aumann.log_gauss(8)),
    "Smooth": lambda m: aumann.Smooth(aumann.IntegratedGradients(m, layer="hidden", **GAUSS), samples=2),
    "smoothed draws": lambda m: aumann.Smooth(aumann.ExpectedGradients(m, samples=4), samples=2),
}


@pytest.mark.parametrize("why", EXPLAINERS)
def test_a_used_explainer_is_copied(why):
    explainer = EXPLAINERS[why](model())
    expected = explainer.explain(X, 1).values
    for copied in (pickle.loads(pickle.dumps(explainer)), copy.deepcopy(explainer), copy.copy(explainer)):
        close(copied.explain(X, 1).values, expected)
    close(explainer.explain(X, 1).values, expected)


@pytest.mark.parametrize("layer", [None, "hidden"])
def test_a_copy_is_of_a_model_of_its_own(layer):
    explainer = aumann.IntegratedGradients(model(), layer=layer, **GAUSS)
    before = explainer.explain(X, 1)
    other = copy.deepcopy(explainer)
    assert other.model is not explainer.model and not other.oracles and explainer.oracles
    for v in other.model.weights:
        v.assign(np.zeros(v.shape))
    assert not np.asarray(other.explain(X, 1).values).any()
    close(explainer.explain(X, 1).values, before.values)


def test_a_shallow_copy_shares_what_is_compiled():
    explainer = aumann.IntegratedGradients(model(), **GAUSS)
    assert copy.copy(explainer).oracles is explainer.oracles


def test_a_function_by_name_and_an_embedding():
    square = aumann.IntegratedGradients(keras.ops.square, **GAUSS)
    expected = square.explain(X[:, :1]).values
    close(pickle.loads(pickle.dumps(square)).explain(X[:, :1]).values, expected)
    ids = keras.Sequential([L.Input((3,), dtype="int32"), L.Embedding(5, 2), L.Flatten(), L.Dense(1)])
    tokens = aumann.IntegratedGradients(scatter(ids), **GAUSS)
    expected = tokens.explain(np.array([[1, 2, 3]])).values
    close(pickle.loads(pickle.dumps(tokens)).explain(np.array([[1, 2, 3]])).values, expected)


@pytest.mark.skipif(BACKEND != "torch", reason="a module of torch")
def test_a_module_of_torch_keeps_its_layers():
    import torch

    net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Tanh(), torch.nn.Linear(3, 2))
    explainer = aumann.IntegratedGradients(net, layer="1", **GAUSS)
    expected = explainer.explain(X, 1).values
    for copied in (pickle.loads(pickle.dumps(explainer)), copy.deepcopy(explainer)):
        assert copied.moving_sites[0].layer is copied.model[1] and copied.model is not net
        close(tree.flatten(copied.explain(X, 1).values), tree.flatten(expected))
