"""One table of methods × one table of promises: a new method is one more row, a new promise one more test."""

import os
import pathlib
import subprocess
import sys
from dataclasses import dataclass, field

import keras
import numpy as np
import pytest
from conftest import close, random_states, scatter, unchanged
from keras import layers as L
from keras import tree

import aumann

GAUSS = aumann.gauss_legendre(12)


@dataclass(frozen=True)
class Row:
    """A method as the table has it.

    Attributes:
        make: model -> explainer, further settings as keywords.
        complete: whether Σφ = F(x) − F(x′); others say so in their provenance.
        exact: residual allowed, relative to the largest prediction, on the smooth model of the table.
        changes: for each argument of its own, two settings that must give different numbers.
    """

    make: type
    settings: dict = field(default_factory=dict)
    complete: bool = True
    exact: float = 1e-5
    changes: dict = field(default_factory=dict)

    def on(self, model, **more):
        return self.make(model, **{**self.settings, **more})


RULES = {"rule": [aumann.gauss_legendre(2), aumann.gauss_legendre(3)]}
METHODS = {
    "IntegratedGradients": Row(aumann.IntegratedGradients, {"rule": GAUSS}, changes=RULES),
    "IntegratedGradients to a tolerance": Row(
        aumann.IntegratedGradients, {"tolerance": 1e-3}, exact=1e-3, changes={"tolerance": [0.2, 1e-5]}
    ),
    "MeanGradient": Row(aumann.MeanGradient, {"rule": GAUSS}, complete=False, changes=RULES),
    "HypotheticalContributions": Row(aumann.HypotheticalContributions, {"rule": GAUSS}, complete=False, changes=RULES),
    "InputXGradient": Row(aumann.InputXGradient, complete=False),
    "Saliency": Row(aumann.Saliency, complete=False),
}
each = pytest.mark.parametrize("row", METHODS.values(), ids=METHODS)


@pytest.fixture(scope="module")
def model():
    """Two named inputs, (n, 5, 4) and (n, 3), smooth; three classes."""
    sequence, number = L.Input((5, 4), name="sequence"), L.Input((3,), name="number")
    h = L.Conv1D(6, 2, activation="tanh")(sequence)
    h = L.Concatenate()([L.Flatten()(h), L.Dense(4, activation="gelu")(number)])
    return scatter(keras.Model({"sequence": sequence, "number": number}, L.Dense(3, "softmax")(h)))


@pytest.fixture(scope="module")
def x():
    draw = np.random.default_rng(3)
    return {"sequence": 0.5 * draw.normal(size=(4, 5, 4)).astype("float32"), "number": draw.normal(size=(4, 3))}


def some(x, rows):
    return {k: v[rows] for k, v in x.items()}


@each
def test_values_are_complete_or_say_that_they_are_not(row, model, x):
    e = row.on(model).explain(x, target="all", baseline=0.1)
    total = sum(v.reshape(*e.prediction.shape, -1).sum(-1, dtype=np.float64) for v in e.values.values())
    np.testing.assert_allclose(e.residual, total - (e.prediction - e.base_value), atol=1e-12)
    assert e.provenance.get("complete", True) == row.complete
    largest = np.abs(e.residual).max() / np.abs(e.prediction).max()
    assert (largest <= row.exact) if row.complete else (largest > 10 * row.exact)


@each
def test_a_batch_gives_what_its_rows_give(row, model, x):
    explainer = row.on(model)
    together = explainer.explain(x, target=1)
    for i in range(4):
        alone = explainer.explain(some(x, [i]), target=1)
        close(
            tree.map_structure(lambda v: v[0], alone.values), tree.map_structure(lambda v, i=i: v[i], together.values)
        )


@each
def test_the_batch_size_changes_nothing(row, model, x):
    whole = row.on(model).explain(x, target=1)
    for size in 1, 3, 1000:
        close(row.on(model, batch_size=size).explain(x, target=1).values, whole.values)


@each
def test_one_run_is_like_another(row, model, x):
    first, again = (row.on(model).explain(x, target=1) for _ in range(2))
    for a, b in zip(tree.flatten(first.values), tree.flatten(again.values), strict=True):
        assert np.array_equal(a, b)


@each
def test_several_targets_are_each_alone(row, model, x):
    e = row.on(model).explain(x, target=[2, 0])
    for k, target in enumerate([2, 0]):
        alone = row.on(model).explain(x, target=target)
        close(tree.map_structure(lambda v, k=k: v[:, k], e.values), alone.values, scale=row.exact * 5e4)


@each
def test_what_must_not_move_gets_nothing(row, model, x):
    e = row.on(model).explain(x, target=1, baseline={"number": "fixed"})
    assert not e.values["number"].any() and e.values["sequence"].any()


@each
def test_the_model_is_left_as_it_was(row, model, x):
    with unchanged(model):
        row.on(model).explain(x, target="predicted")
    states = random_states()
    row.on(model).explain(x, target=0)
    assert random_states() == states


@each
def test_every_argument_matters(row, model, x):
    for name, (a, b) in row.changes.items():
        first, second = (row.on(model, **{name: s}).explain(x, target=1).values["sequence"] for s in (a, b))
        assert not np.array_equal(first, second), name
    inner = row.on(model, output="logits").explain(x, target=1).values["sequence"]
    assert not np.allclose(inner, row.on(model).explain(x, target=1).values["sequence"])


@each
def test_a_set_of_baselines_is_the_mean_of_its_members(row, model, x):
    sets = {"sequence": np.stack([np.zeros((5, 4)), np.full((5, 4), 0.5)]), "number": np.array([[0.0] * 3, [1.0] * 3])}
    e = row.on(model).explain(x, target=1, baseline=aumann.baselines.weighted(sets, [1, 3]))
    parts = [row.on(model).explain(x, target=1, baseline={k: v[j] for k, v in sets.items()}) for j in range(2)]
    mean = tree.map_structure(lambda a, b: 0.25 * a + 0.75 * b, parts[0].values, parts[1].values)
    close(e.values, mean, scale=row.exact * 5e4)


@pytest.mark.skipif(keras.config.backend() != "tensorflow", reason="one process asks all three")
def test_every_method_gives_the_same_on_every_backend(tmp_path):
    """Relative L1 ≤ 1e-5 for each method of the table."""
    found = {}
    here = pathlib.Path(__file__)
    for backend in ("tensorflow", "jax", "torch"):
        path = tmp_path / f"{backend}.npz"
        env = {
            **os.environ,
            "KERAS_BACKEND": backend,
            "PYTHONPATH": f"{here.parent}:{os.environ.get('PYTHONPATH', '')}",
        }
        subprocess.run([sys.executable, "-W", "ignore", str(here), str(path)], env=env, check=True)
        found[backend] = dict(np.load(path))
    assert len(found["tensorflow"]) == 2 * len(METHODS)
    for name, value in found["tensorflow"].items():
        assert np.abs(value).sum() > 0
        for backend in ("jax", "torch"):
            off = np.abs(found[backend][name] - value).sum() / np.abs(value).sum()
            assert off <= 1e-5, f"{backend} differs on {name} by {off:.1e}"


def write(path):
    """The values of every method, for the comparison of backends."""
    small, rows = model.__wrapped__(), x.__wrapped__()
    out = {}
    for name, row in METHODS.items():
        e = row.on(small).explain(rows, target="all", baseline=0.1)
        out |= {f"{name} {leaf}": v for leaf, v in e.values.items()}
    np.savez(path, **out)


if __name__ == "__main__":
    write(sys.argv[1])
