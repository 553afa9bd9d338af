"""PyTensor graphs, explained like models: the same numbers as a Keras model with the same weights."""

import keras
import numpy as np
import pytest
from conftest import close, float64, formula, host, mlp

import aumann

pytensor = pytest.importorskip("pytensor")
pt = pytest.importorskip("pytensor.tensor")
graphs = pytest.importorskip("aumann.backends.pytensor")

RULE = aumann.gauss_legendre(8)


@pytest.fixture(scope="module", autouse=True)
def _quick_compilation():
    """No machine code for graphs that run for microseconds."""
    with pytensor.config.change_flags(mode="FAST_COMPILE"):
        yield


@pytest.fixture(scope="module")
def twins():
    """A Keras classifier, and its graph with the weights in shared variables."""
    model = mlp()
    w, b, v, c = (pytensor.shared(host(p.value), name=p.path) for p in model.weights)
    x = pt.matrix("x", dtype="float32")
    y = pt.special.softmax(pt.tanh(x @ w + b) @ v + c, axis=1)
    return model, graphs.Graph(x, y, name="classifier"), v


@pytest.fixture(scope="module")
def graph():
    """(u, v) -> u · v² summed, and their products: F with closed forms."""
    u, v = pt.matrix("u"), pt.matrix("v")
    return graphs.Graph([u, v], [(u * v**2).sum(1), u * v])


def test_a_graph_gives_what_its_keras_twin_gives(twins, x):
    model, graph, _ = twins
    for target, baseline in (
        (np.array([2, 0, 1, 1, 0]), x[::-1]),
        ([2, lambda y: y[:, 0] * y[:, 1], "predicted"], aumann.baselines.weighted(x[:3], [1, 2, 3])),
        ("all", 0.5),
    ):
        e = aumann.IntegratedGradients(graph, rule=RULE).explain(x, target, baseline)
        twin = aumann.IntegratedGradients(model, rule=RULE).explain(x, target, baseline)
        for field in ("values", "prediction", "base_value"):
            close(getattr(e, field), getattr(twin, field))
    assert e.provenance["model"]["name"] == "classifier" and e.provenance["backend"] == keras.config.backend()


def test_batches_change_nothing(twins, x):
    _, graph, _ = twins
    whole = aumann.IntegratedGradients(graph, rule=RULE).explain(x, 1)
    for batch_size in (1, 7):
        close(aumann.IntegratedGradients(graph, rule=RULE, batch_size=batch_size).explain(x, 1).values, whole.values)


def test_shared_variables_may_go_on_training(twins, x):
    model, graph, v = twins
    explainer = aumann.IntegratedGradients(graph, rule=RULE)
    before, weights = explainer.explain(x, 1), v.get_value()
    try:
        v.set_value(2 * weights)
        model.layers[-1].kernel.assign(2 * weights)
        after = explainer.explain(x, 1)
        close(after.values, formula(lambda p: model(p[0])[:, 1], [x], [0], RULE)[0][0])
        assert np.abs(after.values - before.values).max() > 1e-2
    finally:
        v.set_value(weights)
        model.layers[-1].kernel.assign(weights)


def test_several_inputs_and_outputs_in_closed_form(graph, rng):
    """∫ v² dt and ∫ 2 u v dt over the straight line from 0: u v² / 3 and 2 u v² / 3."""
    u, v = rng.normal(size=(2, 4, 3)).astype("float32")
    explainer = aumann.IntegratedGradients(graph, rule=RULE)
    e = explainer.explain([u, v], [(0,), (1, 2)])
    cube = u * v**2
    one = np.zeros((4, 3))
    one[:, 2] = (u * v)[:, 2] / 2
    close(e.values, [np.stack([cube / 3, one], 1), np.stack([2 * cube / 3, one], 1)])
    close(e.prediction, np.stack([cube.sum(1), (u * v)[:, 2]], 1))
    close(e.residual, np.zeros((4, 2)), scale=1)
    for output, target in ((0, None), (1, 2)):
        chosen = aumann.IntegratedGradients(graph, output=output, rule=RULE).explain([u, v], target)
        close(chosen.values, [leaf[:, output] for leaf in e.values])
    both = explainer.explain([u, v], lambda y: 3 * y[0] + y[1][:, 2])
    close(both.values, [3 * leaf[:, 0] + leaf[:, 1] for leaf in e.values])


def test_an_input_held_still_and_one_that_is_not_used(rng):
    u, v, unused = pt.matrix("u"), pt.matrix("v"), pt.matrix("unused")
    graph = graphs.Graph([u, v, unused], (u * v).sum(1))
    data = list(rng.normal(size=(3, 4, 2)).astype("float32"))
    e = aumann.IntegratedGradients(graph, rule=RULE).explain(data, baseline=[0.0, "fixed", 0.0])
    close(e.values[0], data[0] * data[1])
    assert not e.values[1].any() and not e.values[2].any()


def test_what_is_refused(twins, graph, x):
    explainer = aumann.IntegratedGradients(twins[1], rule=RULE)
    expected = explainer.explain(x, 1)
    for inputs, target, message in (
        (x[:, :2], 1, "Expected the model to accept"),
        (np.full_like(x, np.nan), 1, "finite inputs"),
        (x, 3, "between 0 and 2"),
        (x[0], 1, "Expected the model to accept"),
    ):
        with pytest.raises(ValueError, match=message):
            explainer.explain(inputs, target)
    with pytest.raises(ValueError, match="Expected the model to accept"):
        aumann.IntegratedGradients(graph, rule=RULE).explain([x])
    close(explainer.explain(x, 1).values, expected.values)


def test_double_precision_stays_double_where_the_backend_can(rng):
    with float64():
        z = pt.matrix("z", dtype="float64")
        graph = graphs.Graph(z, (z**8).sum(1))
        data = rng.normal(size=(3, 4))
        e = aumann.IntegratedGradients(graph, rule=aumann.gauss_legendre(8)).explain(data)
        close(e.values, data**8, "float64")
