"""Warnings point at the line that asked, and say what helps."""

import warnings

import keras
import numpy as np
import pytest
from conftest import scatter
from keras import layers as L
from keras import ops

import aumann

X = np.array([[3.0, 1.0, 0.5, 2.0], [-3.0, 5.0, 1.0, 1.0]], "float32")
FEW = {"tolerance": 1e-7, "max_evaluations": 9}


def stepped(x):
    return ops.tanh(x[:, :2]) + ops.cast(x[:, :1] > 1, "float32") * 2


def network():
    return scatter(keras.Sequential([L.Input((4,)), L.Dense(5, "tanh", name="h"), L.Dense(6, "relu"), L.Dense(2)]))


METHODS = {
    "to a tolerance": lambda: aumann.IntegratedGradients(stepped, **FEW),
    "by a rule": lambda: aumann.IntegratedGradients(stepped, rule=aumann.midpoint(2)),
    "on the way": lambda: aumann.GuidedIntegratedGradients(stepped, steps=3),
    "token by token": lambda: aumann.SequentialIntegratedGradients(stepped, **FEW),
    "over noise": lambda: aumann.Smooth(aumann.IntegratedGradients(stepped, **FEW), samples=2),
    "at a layer": lambda: aumann.Conductance(network(), "h", **FEW),
    "of kinks": lambda: aumann.IntegratedHessians(network()),
    "of rows": lambda: aumann.IntegratedGradients(lambda x: ops.tanh(x) + 1e-4 * x[:1], rule=aumann.midpoint(2)),
}


@pytest.mark.parametrize("method", METHODS, ids=str)
def test_warnings_point_at_the_line_that_asked(method):
    explainer = METHODS[method]()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        explainer.explain(X, target=0)
    own = [w for w in said if w.category.__module__.startswith("aumann")]
    assert own and {w.filename for w in own} == {__file__}


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["int8", "float8"])
def test_more_gradients_are_no_advice_for_what_is_rounded(mode):
    model = network()
    for layer in model.layers:
        layer.quantize(mode)
    with pytest.warns(UserWarning, match=r"Quantised layers round .*Raise tolerance=") as said:
        aumann.IntegratedGradients(model, tolerance=1e-5, max_evaluations=400).explain(X, target=0)
    assert not any("Raise max_evaluations" in str(w.message) for w in said)
