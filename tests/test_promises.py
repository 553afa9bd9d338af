"""One table of methods × one table of promises: a new method is one more row, a new promise one more test."""

import os
import pathlib
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field

import keras
import numpy as np
import pytest
from conftest import close, scatter, unchanged
from keras import layers as L
from keras import tree

import aumann
from aumann.cli.main import table

GAUSS = aumann.gauss_legendre(12)


@dataclass(frozen=True)
class Row:
    """A method as the table has it.

    Attributes:
        make: (model, **settings) -> explainer.
        complete: whether Σφ = F(x) − F(x′); others say so in their provenance.
        exact: residual allowed, relative to the largest prediction, on the smooth model of the table.
        changes: for each argument of its own, two settings that must give different numbers.
        start: the baseline that stands for a constant, or for a set of them, with this method.
        inner: whether its values are those of a layer.
        no_mean: why the values from a set of baselines are not the mean over its members; empty where they are.
    """

    make: Callable
    settings: dict = field(default_factory=dict)
    complete: bool = True
    exact: float = 1e-5
    changes: dict = field(default_factory=dict)
    start: Callable = lambda baseline: baseline
    inner: bool = False
    no_mean: str = ""

    def on(self, model, **more):
        return self.make(model, **{**self.settings, **more})


def whole(baseline, name):
    return baseline[name] if isinstance(baseline, dict) else baseline


def sequence_alone(baseline):
    """Nothing but the sequence moves."""
    if isinstance(baseline, aumann.baselines.Weighted):
        return aumann.baselines.weighted({"sequence": baseline.rows["sequence"], "number": "fixed"}, baseline.weights)
    return {"sequence": whole(baseline, "sequence"), "number": "fixed"}


def number_alone(baseline):
    """The sequence has a path that starts by itself."""
    if isinstance(baseline, aumann.baselines.Weighted):
        return aumann.baselines.weighted({"sequence": 0.0, "number": baseline.rows["number"]}, baseline.weights)
    return {"number": whole(baseline, "number")}


def held_alone(baseline):
    """Every input has a path that starts by itself, unless it is held still."""
    return {k: v for k, v in baseline.items() if isinstance(v, str)} if isinstance(baseline, dict) else 0.0


def background(baseline):
    """A set, whatever was asked for."""
    if isinstance(baseline, aumann.baselines.Weighted):
        return baseline
    rows = np.random.default_rng(5).normal(size=(6, 1)) * [0.3]
    value = {k: whole(baseline, k) for k in ("sequence", "number")}
    shapes = {"sequence": (5, 4), "number": (3,)}
    if value["number"] == "fixed":
        return {"sequence": aumann.baselines.weighted(rows[:, :, None] + np.zeros((5, 4))), "number": "fixed"}
    return aumann.baselines.weighted({k: rows.reshape(6, *[1] * len(s)) + np.zeros(s) for k, s in shapes.items()})


def smooth(model, moment="mean", noise=0.15, samples=4, seed=0, **settings):
    return aumann.Smooth(aumann.InputXGradient(model, **settings), noise, samples, moment=moment, seed=seed)


def curve(start, end, t):
    return start + t * t * (end - start)


RULES = {"rule": [aumann.gauss_legendre(2), aumann.gauss_legendre(3)]}
TOLERANCES = {"tolerance": [0.2, 1e-5]}
SEEDS = {"seed": [0, 1]}
METHODS = {
    "IntegratedGradients": Row(aumann.IntegratedGradients, {"rule": GAUSS}, changes=RULES),
    "IntegratedGradients to a tolerance": Row(
        aumann.IntegratedGradients, {"tolerance": 1e-3}, exact=1e-3, changes=TOLERANCES
    ),
    "IntegratedGradients by secants": Row(aumann.IntegratedGradients, {"rule": aumann.secant(6)}),
    "IntegratedGradients on a curve": Row(aumann.IntegratedGradients, {"rule": GAUSS, "path": curve}, exact=1e-4),
    "BlurIntegratedGradients of every input": Row(
        aumann.BlurIntegratedGradients,
        {"tolerance": 1e-3, "sigma": 3.0},
        exact=1e-3,
        changes={"sigma": [1.0, 2.0], "axes": [0, -1]},
        start=held_alone,
        no_mean="takes no baseline: its path has one of its own",
    ),
    "BlurIntegratedGradients of one input": Row(
        aumann.IntegratedGradients,
        {"tolerance": 1e-3, "path": {"sequence": aumann.Blur(3.0)}},
        exact=1e-3,
        changes={"path": [{"sequence": aumann.Blur(1.0)}, {"sequence": aumann.Blur(2.0)}]},
        start=number_alone,
    ),
    "GuidedIntegratedGradients": Row(
        aumann.GuidedIntegratedGradients,
        {"steps": 40},
        exact=1e-2,
        changes={"steps": [4, 5], "fraction": [0.1, 0.9], "distance": [0.02, 0.5]},
    ),
    "SequentialIntegratedGradients": Row(
        aumann.SequentialIntegratedGradients, {"rule": GAUSS}, complete=False, changes=RULES, start=sequence_alone
    ),
    "ImportantDirectionGradients": Row(aumann.ImportantDirectionGradients, {"rule": GAUSS}, changes=RULES),
    "IntegratedDecisionGradients": Row(
        aumann.IntegratedDecisionGradients, {"rule": GAUSS}, complete=False, changes=RULES
    ),
    "ExpectedGradients": Row(
        aumann.ExpectedGradients,
        {"samples": 24},
        exact=0.5,
        changes={**SEEDS, "samples": [12, 24]},
        start=background,
        no_mean="draws from the set: tests/test_expected.py has how near to the mean it comes",
    ),
    "Smooth": Row(
        smooth,
        complete=False,
        changes={**SEEDS, "noise": [0.1, 0.2], "samples": [4, 5], "moment": ["mean", "variance"]},
    ),
    "Conductance": Row(aumann.Conductance, {"layer": "joint", "rule": GAUSS}, changes=RULES, inner=True),
    "InternalInfluence": Row(
        aumann.InternalInfluence, {"layer": "joint", "rule": GAUSS}, complete=False, changes=RULES, inner=True
    ),
    "MeanGradient": Row(aumann.MeanGradient, {"rule": GAUSS}, complete=False, changes=RULES),
    "HypotheticalContributions": Row(aumann.HypotheticalContributions, {"rule": GAUSS}, complete=False, changes=RULES),
    "InputXGradient": Row(aumann.InputXGradient, complete=False),
    "Saliency": Row(aumann.Saliency, complete=False),
    "IntegratedHessians": Row(
        aumann.IntegratedHessians,
        {"rule": aumann.log_gauss(12)},
        changes={"rule": [aumann.log_gauss(2), aumann.log_gauss(3)]},
    ),
    "IntegratedHessians to a tolerance": Row(
        aumann.IntegratedHessians,
        {"tolerance": 1e-3},
        exact=1e-3,
        changes=TOLERANCES,
    ),
}
each = pytest.mark.parametrize("row", METHODS.values(), ids=METHODS)


@pytest.fixture(scope="module")
def model():
    """Two named inputs, (n, 5, 4) and (n, 3), smooth; three classes."""
    sequence, number = L.Input((5, 4), name="sequence"), L.Input((3,), name="number")
    h = L.Conv1D(6, 2, activation="tanh")(sequence)
    h = L.Concatenate(name="joint")([L.Flatten()(h), L.Dense(4, activation="gelu", name="number_dense")(number)])
    return scatter(keras.Model({"sequence": sequence, "number": number}, L.Dense(3, "softmax")(h)))


@pytest.fixture(scope="module")
def x():
    draw = np.random.default_rng(3)
    return {"sequence": 0.5 * draw.normal(size=(4, 5, 4)).astype("float32"), "number": draw.normal(size=(4, 3))}


def some(x, rows):
    return {k: v[rows] for k, v in x.items()}


def explain(row, model, x, target, baseline=0.1, **more):
    return row.on(model, **more).explain(x, target=target, baseline=row.start(baseline))


def attributions(explained):
    """The `Explanation`: of interactions, which are a matrix for each row, that of their integrated gradients."""
    return explained.explanation if isinstance(explained, aumann.Interactions) else explained


def values(explained):
    """All arrays of values (n[, targets], …): those of the inputs and, of interactions, the matrices."""
    matrices = [explained.values] if isinstance(explained, aumann.Interactions) else []
    return matrices + tree.flatten(attributions(explained).values)


def methods():
    """The public names of methods: what has an `explain`."""
    return {name for name in aumann.__all__ if hasattr(getattr(aumann, name), "explain")}


def test_every_public_method_has_a_row(model):
    assert {type(row.on(model)).__name__ for row in METHODS.values()} == methods()


@each
def test_values_are_complete_or_say_that_they_are_not(row, model, x):
    e = attributions(explain(row, model, x, "all"))
    total = sum(v.reshape(*e.prediction.shape, -1).sum(-1, dtype=np.float64) for v in tree.flatten(e.values))
    np.testing.assert_allclose(e.residual, total - (e.prediction - e.base_value), atol=1e-6)
    assert e.provenance.get("complete", True) == row.complete
    largest = np.abs(e.residual).max() / np.abs(e.prediction).max()
    assert (largest <= row.exact) if row.complete else (largest > 10 * row.exact)


@pytest.mark.parametrize("name", [name for name in METHODS if "Hessians" in name])
def test_interactions_sum_to_the_attributions_and_to_the_change_of_f(name, model, x):
    pairs = explain(METHODS[name], model, x, "all")
    e, width = pairs.explanation, sum(v[0].size for v in x.values())
    assert pairs.values.shape == (4, 3, width, width)
    close(pairs.values, np.swapaxes(pairs.values, -1, -2))
    ig = np.concatenate([v.reshape(4, 3, -1) for v in tree.flatten(e.values)], axis=-1)
    np.testing.assert_allclose(pairs.residual, pairs.values.sum(-1, dtype=np.float64) - ig, atol=1e-6)
    missed = pairs.values.sum((-2, -1), dtype=np.float64) - (pairs.prediction - pairs.base_value)
    assert max(np.abs(pairs.residual).max(), np.abs(missed).max()) <= METHODS[name].exact * np.abs(e.prediction).max()


@each
def test_what_does_not_add_up_says_so_wherever_it_is_shown(row, model, x):
    e = attributions(explain(row, model, some(x, slice(2)), 1))
    titles = [ax.get_title() for ax in e.plot().axes if ax.get_title().count("\n")]
    labels = [text for ax in e.plot().axes for text in (ax.get_xlabel(), ax.get_ylabel())]
    assert titles and e.complete == row.complete
    for shown in (*titles, repr(e), e._repr_html_(), repr(e.sum(axis=-1)), table(e)):
        assert ("not complete" in shown) != row.complete
    for title in titles:
        assert ("residual" in title) == ("sum" in title) == row.complete
    assert ("residual" in repr(e)) == ("residual" in e._repr_html_()) == row.complete
    assert any("raises" in text for text in labels) == row.complete
    assert e.to_dataframe().attrs["complete"] == row.complete
    for made in tree.flatten(e.to_shap()):
        assert (made.base_values is not None) == row.complete


@each
def test_a_batch_gives_what_its_rows_give(row, model, x):
    together = explain(row, model, x, 1)
    for i in 0, 3:
        alone = explain(row, model, some(x, [i]), 1)
        for one, several in zip(values(alone), values(together), strict=True):
            close(one[0], several[i])


@each
def test_the_batch_size_changes_nothing(row, model, x):
    whole = explain(row, model, x, 1)
    for size in 3, 1000:
        close(values(explain(row, model, x, 1, batch_size=size)), values(whole))


@each
def test_one_run_is_like_another(row, model, x):
    first, again = (explain(row, model, x, 1) for _ in range(2))
    for a, b in zip(values(first), values(again), strict=True):
        assert np.array_equal(a, b)


@each
def test_several_targets_are_each_alone(row, model, x):
    e = explain(row, model, x, [2, 0])
    for k, target in enumerate([2, 0]):
        alone = explain(row, model, x, target)
        close([v[:, k] for v in values(e)], values(alone), scale=row.exact * 5e4)


@each
def test_what_must_not_move_gets_nothing(row, model, x):
    if row.inner:
        held = explain(row, model, x, 1, {"number": "fixed", "sequence": 0.1})
        moved = explain(row, model, x, 1)
        assert not row.complete or not held.values[:, -4:].any()  # the units that the number alone feeds
        assert not np.allclose(held.values, moved.values)
        return
    explained = explain(row, model, x, 1, {"number": "fixed", "sequence": 0.1})
    e = attributions(explained)
    assert not e.values["number"].any() and e.values["sequence"].any()
    if explained is not e:
        assert explained.values.shape == (4, 20, 20)  # there is no interaction with what is held still


@each
def test_the_model_is_left_as_it_was(row, model, x):
    with unchanged(model):
        explain(row, model, x, "predicted")


@each
def test_every_argument_matters(row, model, x):
    for name, (a, b) in row.changes.items():
        first, second = (values(explain(row, model, x, 1, **{name: s}))[-1] for s in (a, b))
        assert not np.array_equal(first, second), name
    inner, outer = (values(explain(row, model, x, 1, **s))[-1] for s in ({"output": "logits"}, {}))
    assert not np.allclose(inner, outer)


@each
def test_a_set_of_baselines_is_the_mean_of_its_members(row, model, x):
    if row.no_mean:
        pytest.skip(row.no_mean)
    sets = {"sequence": np.stack([np.zeros((5, 4)), np.full((5, 4), 0.5)]), "number": np.array([[0.0] * 3, [1.0] * 3])}
    e = explain(row, model, x, 1, aumann.baselines.weighted(sets, [1, 3]))
    parts = [explain(row, model, x, 1, {k: v[j] for k, v in sets.items()}) for j in range(2)]
    mean = [0.25 * a + 0.75 * b for a, b in zip(*map(values, parts), strict=True)]
    close(values(e), mean, scale=row.exact * 5e4)


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
    assert {key.rpartition(" ")[0] for key in found["tensorflow"]} == set(METHODS)
    for name, value in found["tensorflow"].items():
        for backend in ("jax", "torch"):
            off = np.abs(found[backend][name] - value).sum() / max(np.abs(value).sum(), 1e-30)
            assert off <= 1e-5, f"{backend} differs on {name} by {off:.1e}"


def write(path):
    """The values of every method, for the comparison of backends."""
    small, rows = model.__wrapped__(), x.__wrapped__()
    out = {}
    for name, row in METHODS.items():
        out |= {f"{name} {k}": v for k, v in enumerate(values(explain(row, small, rows, "all")))}
    np.savez(path, **out)


if __name__ == "__main__":
    write(sys.argv[1])
