"""How a model is run changes time and memory, and values by rounding alone; what a backend lacks is refused."""

import keras
import numpy as np
import pytest
from conftest import BACKEND, close, scatter, unchanged

import aumann
from aumann import backends

COMPILE_MODES = {"tensorflow": ("graph", "xla"), "jax": ("xla",), "torch": ("eager", "inductor")}[BACKEND]
QUICK = {"tensorflow": "graph", "jax": "xla", "torch": "eager"}[BACKEND]


def dense(activation):
    return scatter(
        keras.Sequential(
            [keras.layers.Input((4,)), keras.layers.Dense(5, activation), keras.layers.Dense(3, "softmax")]
        )
    )


@pytest.fixture
def model():
    return dense("tanh")


def test_each_backend_names_what_it_has():
    assert backends.active().COMPILE_MODES == COMPILE_MODES
    assert backends.compile_mode(True) == COMPILE_MODES[-1]


@pytest.mark.parametrize(
    "compile",
    [
        "auto",
        *COMPILE_MODES[:1],
        *(pytest.param(way, marks=pytest.mark.slow) for way in (True, *COMPILE_MODES[1:])),
        *([False] if len(COMPILE_MODES) > 1 else []),
    ],
)
def test_every_way_gives_the_values_of_the_quickest_and_is_told(model, x, compile):
    rule = aumann.gauss_legendre(6)
    expected = aumann.IntegratedGradients(model, rule=rule, compile=QUICK).explain(x, target=[0, 2])
    explainer = aumann.IntegratedGradients(model, rule=rule, compile=compile)
    with unchanged(model):
        found = explainer.explain(x, target=[0, 2])
    close(found.values, expected.values)
    name = {"auto": QUICK, True: COMPILE_MODES[-1], False: QUICK}.get(compile, compile)
    assert found.provenance["compile"] == name

    for w in model.weights:  # later training is seen
        w.assign(w * 0.5)
    trained = aumann.IntegratedGradients(model, rule=rule, compile=QUICK).explain(x, target=[0, 2])
    assert np.abs(trained.values - expected.values).max() > 1e-3
    close(explainer.explain(x, target=[0, 2]).values, trained.values)


@pytest.mark.slow
def test_the_fastest_way_carries_secants(x):
    model, given = dense("relu"), {"target": 1, "baseline": -1.0}
    least = {"tolerance": 0.5, "max_evaluations": 9}  # few lengths of paths, each of which is compiled
    expected = aumann.IntegratedGradients(model, **least, compile=QUICK).explain(x, **given)
    found = aumann.IntegratedGradients(model, **least, compile=True).explain(x, **given)
    assert "secants" in found.provenance["rule"]
    assert (found.evaluations == expected.evaluations).all()
    close(found.values, expected.values)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="XLA there has no maximum over windows that tells its places")
def test_what_xla_cannot_compile_runs_as_a_graph_and_is_told(rng):
    model = scatter(keras.Sequential([keras.layers.Input((4, 4, 1)), keras.layers.MaxPooling2D(3, 1)]))
    x, given = rng.normal(size=(3, 4, 4, 1)).astype("float32"), {"target": (0, 1, 0)}
    found = aumann.IntegratedGradients(model, compile="xla").explain(x, **given)
    assert found.provenance["compile"] == "graph"
    close(found.values, aumann.IntegratedGradients(model, compile="graph").explain(x, **given).values)


@pytest.mark.slow
def test_the_fastest_way_takes_other_numbers_of_rows(model, x):
    explainer = aumann.IntegratedGradients(model, rule=aumann.gauss_legendre(6), compile=True)
    close(explainer.explain(x[:3], target=1).values, explainer.explain(x, target=1).values[:3])


@pytest.mark.parametrize(
    "compile", ["jit", 1, None, np.array(["auto"]), *({"graph", "xla", "eager", "inductor"} - {*COMPILE_MODES})]
)
def test_what_the_backend_lacks_is_refused_by_name(model, compile):
    with pytest.raises(
        ValueError, match=f"Expected compile= one of 'auto', True.*'{COMPILE_MODES[0]}'.*on {BACKEND}; received"
    ):
        aumann.IntegratedGradients(model, compile=compile)


@pytest.mark.skipif(len(COMPILE_MODES) > 1, reason="this backend has a way that compiles nothing for long")
def test_without_compiling_there_is_no_way(model):
    with pytest.raises(ValueError, match="received False"):
        aumann.IntegratedGradients(model, compile=False)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="where one way is faster on some models and the other on others")
@pytest.mark.parametrize("seconds, way", [((99, 1, 99), "graph and xla"), ((99, 99, 1), "graph"), ((1e-3,), "graph")])
def test_a_long_job_goes_on_with_what_is_measured_to_be_faster(model, x, monkeypatch, seconds, way):
    """Timed are the graph, and after a long time in it, what XLA makes of it and the graph once more."""
    times = iter(seconds)
    monkeypatch.setattr(backends.active(), "_timed", lambda fn, args: (fn(*args), next(times)))
    explainer = aumann.IntegratedGradients(model, rule=aumann.gauss_legendre(6))
    expected = aumann.IntegratedGradients(model, rule=aumann.gauss_legendre(6), compile="graph").explain(x, target=1)
    for _ in range(1 + (way != "graph" or seconds[0] > 1)):  # the second call is what was settled
        found = explainer.explain(x, target=1)
        close(found.values, expected.values)
    assert found.provenance["compile"] == way
    assert next(times, None) is None


@pytest.mark.skipif(BACKEND != "tensorflow", reason="the others do not change their way")
def test_a_stall_is_not_taken_for_a_long_job(model, x, monkeypatch):
    """Timed is every call whose number is a power of two; the 64th takes as long as 64 others would to be long."""
    seconds, calls = [1e-6] * 6 + [99] + [1e-6], []

    def timed(fn, args):
        calls.append(fn)
        return fn(*args), seconds[len(calls) - 1]

    monkeypatch.setattr(backends.active(), "_timed", timed)
    explainer = aumann.IntegratedGradients(model, rule=aumann.gauss_legendre(128), batch_size=len(x))
    found = explainer.explain(x, target=1)
    assert len(calls) == len(seconds) and found.provenance["compile"] == "graph"


@pytest.mark.slow
@pytest.mark.skipif(BACKEND != "torch", reason="inductor alone writes down what a function closes over")
def test_parameters_that_no_keras_variable_holds_are_seen_as_they_are(x):
    import torch

    module = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Tanh())
    rule = aumann.gauss_legendre(6)
    explainer = aumann.IntegratedGradients(module, rule=rule, compile="inductor")
    for _ in range(2):
        expected = aumann.IntegratedGradients(module, rule=rule).explain(x, target=1)
        close(explainer.explain(x, target=1).values, expected.values)
        with torch.no_grad():
            module[0].weight.mul_(-2)
