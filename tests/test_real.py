"""Eleven trained models of others, each explained with its own input structure and no wrapper written.

`python -m benchmarks.real.fetch` brings the files; `make real` does both. A missing file fails, it does not skip.
"""

import os

import keras
import numpy as np
import pytest
from keras import tree

import aumann
from benchmarks.real import cases as zoo

pytestmark = [pytest.mark.real, pytest.mark.filterwarnings("ignore::aumann.CompletenessWarning")]

# Nodes: few, for the identities below hold at any number; torch and JAX pay 0.1 to 1 s a gradient of the largest ones.
NODES = 4

# How far a row alone may be from the same row in company: rounding. Where time steps tie in a max-pooling, rounding
# decides which of them gets the gradient, and a node's share of the values with it. So it does at the kinks of a deep
# ReLU6 network: one rounding of every pixel moves a node's gradient of EfficientNet by 1.5e-3, four nodes' sum by 1e-3.
COMPANY = {"tox_block": 2e-2, "efficientnet": 3e-3}


def relative(a, b):
    return np.abs(a - b).sum() / max(np.abs(b).sum(), 1e-30)


@pytest.mark.parametrize("name", list(zoo.CASES))
def test_real_model(name):
    (case,) = zoo.cases([name])
    inputs = tree.map_structure(lambda x: x[:2], case.inputs)
    target = case.target[:2] if isinstance(case.target, np.ndarray) else case.target
    before = [keras.ops.convert_to_numpy(v.value).copy() for v in case.model.weights]
    method = aumann.IntegratedGradients(case.model, rule=aumann.gauss_legendre(NODES))
    e = method.explain(inputs, target=target, baseline=case.baseline)

    tree.assert_same_structure(e.values, case.inputs)
    for value, x in zip(tree.flatten(e.values), tree.flatten(inputs), strict=True):
        assert value.shape[: x.ndim] == x.shape  # ids (n, T) have values (n, T, E)
        assert np.isfinite(value).all()
    assert relative(e.prediction, zoo.answer(case)[: len(e.prediction)]) < 1e-4
    total = sum(v.reshape(len(v), -1).sum(1, dtype="float64") for v in tree.flatten(e.values))
    assert np.allclose(total - (e.prediction - e.base_value), e.residual, atol=1e-5 * np.abs(total).max() + 1e-7)
    assert all(np.array_equal(a, v.value) for a, v in zip(before, map(_Host, case.model.weights), strict=True))

    # A row alone, in another packing, is what it was in company.
    alone = aumann.IntegratedGradients(case.model, rule=aumann.gauss_legendre(NODES), batch_size=3).explain(
        tree.map_structure(lambda x: x[:1], inputs),
        target=target[:1] if isinstance(target, np.ndarray) else target,
        baseline=case.baseline,
    )
    for a, b in zip(tree.flatten(alone.values), tree.flatten(e.values), strict=True):
        assert relative(a, b[:1]) < COMPANY.get(name, 2e-4) or np.abs(a - b[:1]).max() < 1e-6

    out = os.environ.get("REAL_VALUES")
    if out:
        e.save(f"{out}/{keras.config.backend()}-{case.name}.npz")


class _Host:
    def __init__(self, variable):
        self.value = keras.ops.convert_to_numpy(variable.value)
