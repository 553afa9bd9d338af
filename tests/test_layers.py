"""Layers: conductance, internal influence, integrated gradients at a layer or of its units, and what a layer cuts."""

import keras
import numpy as np
import pytest
from conftest import BACKEND, close, formula, host, mlp, scatter, unchanged
from keras import layers as L
from keras import ops

import aumann
from aumann import backends
from aumann.model.layers import find

GAUSS = aumann.gauss_legendre(8)


def normal(*shape, seed=3):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def deep(activation="tanh", last=None):
    return scatter(
        keras.Sequential([
            L.Input((4,)), L.Dense(6, activation=activation, name="a"), L.Dense(5, activation=activation, name="b"),
            L.Dense(3, activation=last, name="c"),
        ])
    )  # fmt: skip


# ---- push ----------------------------------------------------------------------------------------------------------


def test_push_is_the_jacobian_times_a_direction():
    a, b, da, db = normal(5, 3), normal(5, 3, seed=4), normal(5, 3, seed=5), normal(5, 3, seed=6)
    back = backends.active()

    def fn(points):
        return [ops.sum(ops.exp(points[0]) * points[1], axis=1), points[1] * 2, ops.zeros_like(points[0]) + 7]

    def run(points, directions):
        values, tangents = back.jvp(fn, points, directions)
        return [*values, *tangents]

    tensors = [[ops.convert_to_tensor(x) for x in xs] for xs in ((a, b), (da, db))]
    found = [back.host(x) for x in back.compile(run, [])(*tensors)]
    close(found[:3], [(np.exp(a) * b).sum(1), 2 * b, np.full((5, 3), 7.0)])
    close(found[3:], [(np.exp(a) * (b * da + db)).sum(1), 2 * db, np.zeros((5, 3))])


@pytest.mark.skipif(BACKEND != "torch", reason="an operation of torch's own")
def test_push_through_an_operation_without_a_forward_derivative():
    import torch

    class Cube(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x**3

        @staticmethod
        def backward(ctx, g):
            return 3 * ctx.saved_tensors[0] ** 2 * g

    x, d = torch.from_numpy(normal(4, 2)), torch.from_numpy(normal(4, 2, seed=5))
    (y, _), (v, zero) = backends.active().jvp(lambda p: [Cube.apply(p[0]), torch.ones(2)], [x], [d])
    close([host(y), host(v)], [host(x**3), host(3 * x**2 * d)])
    assert not zero.any() and not y.requires_grad


# ---- conductance ---------------------------------------------------------------------------------------------------


def squares():
    """F = Σ v h², h = W x + c."""
    x = L.Input((4,))
    h = L.Dense(3, name="h")(x)
    return scatter(keras.Model(x, L.Dense(1, use_bias=False)(h * h)))


@pytest.mark.parametrize("options", [{"rule": aumann.midpoint(1)}, {"tolerance": 1e-5}], ids=["rule", "tolerance"])
def test_conductance_of_squares(options):
    """∫ 2 v h(t) (h₁ − h₀) dt = v (h₁² − h₀²): linear in t, so the middle alone is exact."""
    model, x, b = squares(), normal(5, 4), normal(4, seed=9)
    w, c, v = (host(a.value) for a in model.weights)
    with unchanged(model):
        e = aumann.Conductance(model, "h", **options).explain(x, baseline=b)
    h, start = x @ w + c, b @ w + c
    close(e.values, v[:, 0] * (h**2 - start**2))
    close(e.inputs, h)
    assert e.baseline is None and e.provenance["layers"] == {"h": "output"} and "cuts" not in e.provenance
    close(e.residual, np.zeros(5), scale=1)


def reference(model, x, b, layer, target, n=200):
    """Conductance and influence of a tanh network by NumPy in float64, nodes by NumPy's own Gauss–Legendre."""
    (w1, b1), (w2, b2), (w3, _) = ([host(v.value).astype("float64") for v in m.weights] for m in model.layers)
    nodes, weights = np.polynomial.legendre.leggauss(n)
    share, influence = 0, 0
    for t, w in zip((nodes + 1) / 2, weights / 2, strict=True):
        h1 = np.tanh((b + t * (x - b)) @ w1 + b1)
        h2 = np.tanh(h1 @ w2 + b2)
        move1 = ((x - b) @ w1) * (1 - h1**2)
        move2 = (move1 @ w2) * (1 - h2**2)
        slope2 = np.broadcast_to(w3[:, target], h2.shape)
        slope1 = (slope2 * (1 - h2**2)) @ w2.T
        slope, move = {"a": (slope1, move1), "b": (slope2, move2)}[layer]
        share, influence = share + w * slope * move, influence + w * slope
    return share, influence


@pytest.mark.parametrize("layer", ["a", "b"])
def test_eight_nodes_reach_1e_6_on_a_smooth_network(layer):
    model, x, b = deep(), normal(6, 4) / 2, normal(4, seed=9) / 2
    share, influence = reference(model, x.astype("float64"), b, layer, 1)
    e = aumann.Conductance(model, layer, rule=GAUSS).explain(x, 1, b)
    assert np.abs(e.values - share).sum() <= 1e-6 * np.abs(share).sum()
    i = aumann.InternalInfluence(model, layer, rule=GAUSS).explain(x, 1, b)
    assert np.abs(i.values - influence).sum() <= 1e-6 * np.abs(influence).sum()
    assert i.provenance["complete"] is False and i.evaluations[0] == 8


def test_an_estimated_error_is_above_the_true_one():
    model, x, layer = deep(), normal(6, 4), "a"
    for method, k in ((aumann.Conductance, 0), (aumann.InternalInfluence, 1)):
        e = method(model, layer, tolerance=1e-3).explain(x, 1)
        true = reference(model, x.astype("float64"), 0 * x, layer, 1)[k]
        off = np.abs(e.values - true).sum(1) / np.abs(true).sum(1)
        assert e.converged.all() and (off <= e.error).all()


@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_every_layer_that_cuts_carries_the_whole(activation):
    model, x = deep(activation, "softmax"), normal(6, 4)
    e = aumann.Conductance(model, ["a", "b", "c", aumann.input_of("c")]).explain(x, [0, 2], 0.2)
    change = e.prediction - e.base_value
    assert np.abs(change).max() > 0.01 and list(e.values) == ["a", "b", "c", "input of c"]
    for values in e.values.values():
        assert (np.abs(values.sum(-1) - change) <= 0.01 * np.abs(values).sum(-1)).all()


def test_secants_are_complete_at_any_number_of_cells():
    model, x = deep("relu"), normal(6, 4)
    rule = aumann.secant(3)
    for layer, size in (("a", 3), ("b", 7)):
        e = aumann.Conductance(model, layer, rule=rule).explain(x, "all", 0.3)
        close(e.residual, np.zeros((6, 3)), scale=1)
        small = aumann.Conductance(model, layer, rule=rule, batch_size=size).explain(x, "all", 0.3)
        close(small.values, e.values)


def test_the_conductance_of_the_first_layers_input_is_integrated_gradients():
    model, x = deep(last="softmax"), normal(5, 4)
    ig = aumann.IntegratedGradients(model, rule=GAUSS).explain(x, 1, 0.5)
    e = aumann.Conductance(model, aumann.input_of("a"), rule=GAUSS).explain(x, 1, 0.5)
    close(e.values, ig.values)
    close(e.inputs, x)


def test_a_set_of_baselines_is_averaged():
    model, x, sets = deep(), normal(4, 4), normal(3, 4, seed=8)
    method = aumann.Conductance(model, "a", rule=GAUSS)
    weights = np.array([0.5, 0.2, 0.3])
    e = method.explain(x, 0, aumann.baselines.weighted(sets, weights))
    close(e.values, sum(w * method.explain(x, 0, b).values for w, b in zip(weights, sets, strict=True)))


def test_a_batch_is_its_rows():
    model, x = deep("relu"), normal(5, 4)
    method = aumann.Conductance(model, ["b", "a"])
    whole = method.explain(x, 1, 0.2)
    for i in (0, 4):
        close(method.explain(x[i : i + 1], 1, 0.2).values, {k: v[i : i + 1] for k, v in whole.values.items()})


# captum's tests of the same toy: a 3×3 identity, ReLU(x₀ + x₁ + x₂ + (−10, 1, 1, 1)), their sum minus and plus one.


def toy():
    model = keras.Sequential([
        L.Input((3,)), L.Dense(3, use_bias=False, name="linear0"), L.Dense(4, name="linear1"), L.ReLU(name="relu"),
        L.Dense(2, name="linear2"),
    ])  # fmt: skip
    model.set_weights([np.eye(3), np.ones((3, 4)), np.array([-10, 1, 1, 1]), np.ones((4, 2)), np.array([-1, 1])])
    return model


CONDUCTANCE = {"linear0": [0, 390, 0], "linear1": [90, 100, 100, 100], "relu": [90, 100, 100, 100], "linear2": [390, 0]}
INFLUENCE = {"linear0": [3.9, 3.9, 3.9], "linear1": [0.9, 1, 1, 1], "relu": [1, 1, 1, 1], "linear2": [1, 0]}


def test_captums_numbers_of_its_toy_with_several_layers():
    x = np.array([[0.0, 100.0, 0.0]], "float32")
    for rule in (None, aumann.secant(2)):
        for method, expected in ((aumann.Conductance, CONDUCTANCE), (aumann.InternalInfluence, INFLUENCE)):
            found = method(toy(), list(expected), rule=rule).explain(x, 0).values
            close(found, {k: np.array([v]) for k, v in expected.items()}, scale=max(map(max, expected.values())))


@pytest.mark.parametrize("unit, expected", [(0, [0, 90, 0]), (1, [0, 100, 0])])
def test_captums_numbers_of_a_neuron_of_its_toy(unit, expected):
    x = np.array([[0.0, 100.0, 0.0]], "float32")
    e = aumann.IntegratedGradients(toy(), output=aumann.output_of("relu")).explain(x, unit)
    close(e.values, np.array([expected]), scale=100)


# ---- neurons -------------------------------------------------------------------------------------------------------


def test_units_of_a_layer_are_targets():
    model, x = deep(last="softmax"), normal(4, 4)
    a, b = model.layers[:2]
    with unchanged(model):
        e = aumann.IntegratedGradients(model, output=aumann.output_of("b"), rule=GAUSS).explain(x, [2, 4], 0.1)
    for k, unit in enumerate((2, 4)):
        values, prediction, base = formula(lambda p, unit=unit: b(a(p[0]))[:, unit], [x], [0.1], GAUSS)
        close([e.values[:, k], e.prediction[:, k], e.base_value[:, k]], [values[0], prediction, base])
    assert e.provenance["output"] == "b" and e.names["outputs"] == ["b"]
    before = aumann.Saliency(model, output=aumann.input_of("b")).explain(x, 0).values
    after = aumann.Saliency(model, output=aumann.output_of(a)).explain(x, 0).values
    close(before, after)
    through = aumann.Conductance(model, "a", output=aumann.output_of("b"), rule=GAUSS).explain(x, 2, 0.1)
    close(through.values.sum(1), e.prediction[:, 0] - e.base_value[:, 0])


def test_a_unit_of_a_convolution_is_a_place_and_a_channel():
    model = scatter(
        keras.Sequential([
            L.Input((6, 6, 1)), L.Conv2D(3, 3, activation="tanh", name="conv"), L.Flatten(), L.Dense(2),
        ])
    )  # fmt: skip
    x = normal(2, 6, 6, 1) / 2
    e = aumann.IntegratedGradients(model, output=aumann.output_of("conv"), rule=GAUSS).explain(x, (1, 2, 0))
    seen = np.zeros((6, 6), bool)
    seen[1:4, 2:5] = True
    assert e.values[:, seen].all() and not e.values[:, ~seen].any()
    close(e.residual, np.zeros(2), scale=1)
    c = aumann.Conductance(model, "conv", rule=GAUSS).explain(x, 1)
    assert c.values.shape == (2, 4, 4, 3)
    close(c.residual, np.zeros(2), scale=1)


# ---- names ---------------------------------------------------------------------------------------------------------


class Block(keras.Model):
    """Layers whose names say nothing: they are called by their attributes."""

    def __init__(self, units, **options):
        super().__init__(**options)
        self.first, self.second = L.Dense(units, activation="tanh"), L.Dense(units, activation="tanh")

    def call(self, x):
        return self.second(self.first(x))


def blocks():
    x = L.Input((4,))
    inner = keras.Sequential(
        [L.Input((4,)), L.Dense(3, activation="tanh", name="dense"), Block(3, name="deep")], name="enc"
    )
    y = Block(2, name="top")(inner(x))
    return scatter(keras.Model(x, L.Dense(1, name="dense")(y)))


def test_paths_lead_through_nested_and_subclassed_models():
    model, x = blocks(), normal(3, 4)
    enc, top = model.layers[1], model.layers[2]
    for path, layer in {
        "enc/dense": enc.layers[0], "deep/first": enc.layers[1].first, "enc/deep/second": enc.layers[1].second,
        "top/first": top.first, "top": top, "enc": enc, "/enc/dense": enc.layers[0], "/dense": model.layers[3],
        f"top/{top.first.name}": top.first,
    }.items():  # fmt: skip
        assert find(model, path) == find(model, layer) == find(model, aumann.output_of(path))
        assert find(model, aumann.input_of(path)) == find(model, aumann.input_of(layer)) != find(model, path)
    with unchanged(model):
        e = aumann.Conductance(model, "deep/first", rule=GAUSS).explain(x, baseline=0.2)
        at = aumann.IntegratedGradients(model, layer="deep/first", rule=GAUSS).explain(x, baseline=0.2)
    assert e.values.shape == at.values.shape == (3, 3)
    close([e.residual, at.residual], [np.zeros(3), np.zeros(3)], scale=1)


def test_a_name_of_several_layers_or_of_none_says_which_there_are():
    model = blocks()
    with pytest.raises(ValueError, match=r"'dense' which names 2.*\['/enc/dense', '/dense'\]"):
        aumann.Conductance(model, "dense")
    with pytest.raises(ValueError, match=r"'first' which names 2.*'/enc/deep/dense.*'/top/dense"):
        aumann.IntegratedGradients(model, layer=aumann.input_of("first"))
    with pytest.raises(ValueError, match=r"output= to name.*'nowhere' which names 0.*enc/dense"):
        aumann.IntegratedGradients(model, output=aumann.output_of("nowhere"))
    with pytest.raises(ValueError, match="received an empty list"):
        aumann.Conductance(model, [])
    with pytest.raises(ValueError, match="names 0"):
        aumann.Conductance(model, L.Dense(2))
    with pytest.raises(ValueError, match="None which names 0"):
        aumann.Conductance(model, None)


def test_a_layer_that_no_input_leads_to_is_refused():
    class Aside(keras.Model):
        def __init__(self):
            super().__init__()
            self.used, self.idle = L.Dense(1, name="used"), L.Dense(1, name="idle")
            self.constant = L.Dense(1, name="constant")
            self.idle.build((None, 4))

        def call(self, x):
            return self.used(x) + self.constant(ops.ones((1, 4)))

    model = Aside()
    model(np.zeros((1, 4), "float32"))
    for layer in ("idle", "constant"):
        with pytest.raises(ValueError, match=f"'{layer}'.*comes of an input that moves"):
            aumann.IntegratedGradients(model, layer=layer).explain(normal(2, 4))
    with pytest.raises(ValueError, match="'idle'"):
        aumann.Conductance(model, "idle").explain(normal(2, 4))
    with pytest.raises(ValueError, match="'idle' which it does not"):
        aumann.IntegratedGradients(model, output=aumann.output_of("idle")).explain(normal(2, 4))


def test_a_layer_inside_a_function_is_named_by_itself():
    model, x = deep(), normal(3, 4)

    def program(x):
        return ops.sum(model(2 * x, training=False) ** 2, axis=1, keepdims=True)

    e = aumann.Conductance(program, model.layers[1], rule=aumann.gauss_legendre(30)).explain(x)
    assert e.values.shape == (3, 5)
    close(e.residual, np.zeros(3), scale=1)


@pytest.mark.skipif(BACKEND != "torch", reason="a module of torch")
def test_layers_of_a_torch_module():
    import torch

    torch.manual_seed(0)
    inner = torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.Tanh())
    module, x = torch.nn.Sequential(inner, torch.nn.Linear(4, 2)), normal(3, 6)
    with unchanged(module):
        by_path = aumann.Conductance(module, "0/1", rule=GAUSS).explain(x, 1)
    close(by_path.values, aumann.Conductance(module, inner, rule=GAUSS).explain(x, 1).values)
    close(by_path.residual, np.zeros(3), scale=1)
    at = aumann.IntegratedGradients(module, layer=aumann.input_of("/1"), rule=GAUSS).explain(x, 1)
    close(at.values, host(inner(torch.from_numpy(x)) - inner(torch.zeros(1, 6))) * host(module[1].weight)[1])


# ---- at a layer: several inputs, several layers, inputs besides ------------------------------------------------------


def two(skip=False, names=("p", "q")):
    """F = top(tanh(mix(p, q)), r), with q beside it if there is a skip."""
    p, q, r = L.Input((3,), name="p"), L.Input((2,), name="q"), L.Input((2,), name="r")
    h = L.Dense(4, activation="tanh", name="mix")(L.Concatenate(name="joined")([p, q]))
    k = L.Dense(3, activation="tanh", name="second")(L.Concatenate()([h, r]))
    if skip:
        k = L.Concatenate()([k, q * q])
    return scatter(keras.Model({"p": p, "q": q, "r": r}, L.Dense(1, activation="tanh", name="out")(k)))


def three(n=4):
    return {"p": normal(n, 3), "q": normal(n, 2, seed=5), "r": normal(n, 2, seed=6)}


def test_a_layer_of_several_inputs_moves_beside_those_that_do_not_feed_it():
    model, x = two(), three()
    with unchanged(model):
        e = aumann.IntegratedGradients(model, layer="mix", rule=GAUSS).explain(x, baseline={"p": 0.5, "r": -0.5})
    mix, second, out = (model.get_layer(n) for n in ("mix", "second", "out"))
    h = host(mix(np.concatenate([x["p"], x["q"]], 1)))
    start = host(mix(np.array([[0.5, 0.5, 0.5, 0, 0]], "float32")))
    values, prediction, base = formula(
        lambda p: out(second(ops.concatenate(p[::-1], 1)))[:, 0], [x["r"], h], [-0.5, start], GAUSS
    )
    assert list(e.values) == ["r", "mix"]
    close(e.values, {"r": values[0], "mix": values[1]})
    close([e.prediction, e.base_value], [prediction, base])
    close(e.inputs, {"r": x["r"], "mix": h})
    close(e.baseline["mix"], start)
    assert e.provenance["layers"] == {"mix": "output"}


def test_a_layer_alone_has_one_array_of_values():
    model, x = two(), three()
    e = aumann.IntegratedGradients(model, layer="second", rule=GAUSS).explain(x)
    assert e.values.shape == (4, 3) and e.baseline.shape == (1, 3)
    close(e.values.sum(1), e.prediction - e.base_value)
    close(e.residual, np.zeros(4), scale=1)
    joined = aumann.IntegratedGradients(model, layer=[aumann.input_of("mix"), aumann.input_of("second")], rule=GAUSS)
    both = joined.explain(x)
    assert list(both.values) == ["input of mix", "input of second"]
    assert not both.values["input of mix"].any()  # the second one stands in its way
    close(both.residual, np.zeros(4), scale=1)


def test_conductance_of_layers_side_by_side_and_one_behind_the_other():
    p = L.Input((4,))
    a, b = (L.Dense(3, activation="tanh", name=n)(p) for n in "ab")
    model = scatter(keras.Model(p, L.Dense(1, name="out")(L.Multiply(name="c")([a, b]))))
    x = normal(4, 4)
    e = aumann.Conductance(model, ["a", "b"], rule=GAUSS).explain(x)
    close(e.residual, np.zeros(4), scale=1)
    assert "complete" not in e.provenance
    both = aumann.Conductance(model, ["a", "c", "b"], rule=GAUSS).explain(x)
    close([both.values["a"], both.values["b"]], [e.values["a"], e.values["b"]])
    close(both.values["c"].sum(1), e.prediction - e.base_value)
    close(both.residual, e.prediction - e.base_value)
    assert both.provenance["complete"] is False and "cuts" not in both.provenance


def test_a_layer_called_twice():
    shared = L.Dense(4, activation="tanh", name="shared")
    model = scatter(keras.Sequential([L.Input((4,)), shared, L.Activation("tanh"), shared, L.Dense(1)]))
    x = normal(3, 4)
    e = aumann.Conductance(model, "shared", rule=aumann.gauss_legendre(20)).explain(x)
    change = e.prediction - e.base_value
    assert list(e.values) == ["shared[0]", "shared[1]"]
    close([v.sum(1) for v in e.values.values()], [change, change])
    units = aumann.IntegratedGradients(model, output=aumann.output_of(shared), rule=GAUSS)
    first, second = (units.explain(x, (k, 1)).prediction for k in range(2))
    close([first, second], [host(shared(x))[:, 1], host(shared(ops.tanh(shared(x))))[:, 1]])


def test_twins_read_two_inputs_by_one_layer():
    p, q = L.Input((3,), name="p"), L.Input((3,), name="q")
    twin = L.Dense(2, activation="tanh", name="twin")
    model = scatter(keras.Model([p, q], L.Dense(1)(L.Concatenate()([twin(p), twin(q)]))))
    x = [normal(3, 3), normal(3, 3, seed=5)]
    e = aumann.IntegratedGradients(model, layer="twin", rule=aumann.midpoint(1)).explain(x)
    kernel = host(model.layers[-1].kernel.value)[:, 0]
    start = host(twin(np.zeros((1, 3), "float32")))
    close(e.values, [(host(twin(x[0])) - start) * kernel[:2], (host(twin(x[1])) - start) * kernel[2:]])


# ---- what does not cut ---------------------------------------------------------------------------------------------


def test_a_skip_connection_is_named_with_what_it_carries():
    """F = 3 y + x²: of F(x) − F(x′) the layer has 3 (y − y′), and the residual is −(x² − x′²)."""
    p = L.Input((1,))
    y = L.Dense(1, name="y")(p)
    model = keras.Model(p, L.Dense(1, use_bias=False)(y) + p * p)
    model.set_weights([np.array([[2.0]]), np.array([1.0]), np.array([[3.0]])])
    x = np.array([[1.0], [2.0], [-3.0]], "float32")
    for method in (
        aumann.Conductance(model, "y", rule=GAUSS),
        aumann.Conductance(model, "y"),
        aumann.IntegratedGradients(model, layer="y", rule=GAUSS),
        aumann.IntegratedGradients(model, layer="y"),
    ):
        with (
            pytest.warns(aumann.CompletenessWarning, match="Layer y does not cut.*up to 8.75, in row 2"),
            unchanged(model),
        ):
            e = method.explain(x, baseline=0.5)
        close(e.values, 6 * (x - 0.5))
        close(e.residual, -(x[:, 0] ** 2 - 0.25))
        close(e.base_value, np.full(3, 6.25))
        assert e.provenance["cuts"] is False and e.provenance["complete"] is False
        assert e.converged is None or e.converged.all()


def test_a_skip_of_one_input_of_several():
    model, x = two(skip=True), three()
    for method in (
        aumann.Conductance(model, ["second"], rule=GAUSS),
        aumann.IntegratedGradients(model, layer="mix", rule=GAUSS),
    ):
        with pytest.warns(aumann.CompletenessWarning, match="does not cut"):
            e = method.explain(x)
        true = host(model({k: 0 * v for k, v in x.items()}))[0, 0]
        close(e.base_value, np.full(4, true))
    # what comes of r alone is cut by nothing, but r moves itself, and q, which goes around, is held still
    held = {"p": 0.0, "q": "fixed", "r": 0.0}
    e = aumann.IntegratedGradients(model, layer="mix", rule=GAUSS).explain(x, baseline=held)
    close(e.residual, np.zeros(4), scale=1)
    assert "cuts" not in e.provenance


def test_a_layer_fed_by_an_input_that_is_held_starts_where_that_input_is():
    """y = tanh(mix(p, q)) of a row's own q: its baseline is another one for each row."""
    model, x = two(), three()
    e = aumann.IntegratedGradients(model, layer="mix", rule=GAUSS).explain(x, baseline={"q": "fixed"})
    mix = model.get_layer("mix")
    start = host(mix(np.concatenate([0 * x["p"], x["q"]], 1)))
    close(e.baseline["mix"] if isinstance(e.baseline, dict) and "mix" in e.baseline else e.baseline["p"], start)
    close(e.residual, np.zeros(4), scale=1)


def test_a_product_with_what_goes_around_is_second_order_by_secants():
    """F = Σ relu(y) x: ∫ x dy by the average of x over a cell is right where x is linear, at any number of cells."""
    p = L.Input((3,))
    y = L.Dense(3, use_bias=False, name="y")(p)
    model = keras.Model(p, ops.sum(y * p, axis=1, keepdims=True))
    model.set_weights([np.diag([1.0, 2.0, 3.0])])
    x = normal(4, 3)
    with pytest.warns(aumann.CompletenessWarning, match="does not cut"):
        e = aumann.Conductance(model, "y", rule=aumann.secant(2)).explain(x)
    close(e.values, x**2 * [0.5, 1, 1.5])


# ---- embeddings ----------------------------------------------------------------------------------------------------


def test_conductance_above_and_at_an_embedding():
    embedding = L.Embedding(7, 3, name="tokens")
    conv = L.Conv1D(4, 2, activation="tanh", name="conv")
    model = scatter(keras.Sequential([L.Input((5,), dtype="int32"), embedding, conv, L.Flatten(), L.Dense(2)]))
    ids = np.array([[1, 2, 3, 4, 5], [6, 6, 0, 1, 2]])
    e = aumann.Conductance(model, ["conv"], rule=GAUSS).explain(ids, 1, baseline=0)
    assert e.values.shape == (2, 4, 4)
    close(e.residual, np.zeros(2), scale=1)
    close(e.inputs, host(conv(embedding(ids))))
    at = aumann.Conductance(model, embedding, rule=GAUSS).explain(ids, 1, baseline=0)
    close(at.values, aumann.IntegratedGradients(model, rule=GAUSS).explain(ids, 1, baseline=0).values)
    layer = aumann.IntegratedGradients(model, layer="conv", rule=GAUSS).explain(ids, 1, baseline=0)
    assert layer.values.shape == (2, 4, 4)
    close(layer.residual, np.zeros(2), scale=1)


# ---- what an explanation at layers can do ---------------------------------------------------------------------------


def test_an_explanation_by_name_is_saved_shown_and_drawn(tmp_path):
    model, x = two(), three()
    e = aumann.IntegratedGradients(model, layer="mix").explain(x)
    assert set(e.input_error) == {"mix", "r"}
    again = aumann.load(e.save(tmp_path / "e"))
    close(again.values, dict(e.values))
    assert "mix" in repr(e)
    assert e[1].values["mix"].shape == (1, 4)
    e.plot(tmp_path / "e.png")
    assert e.to_dataframe()["mix"].shape == (4, 4) and "mix.values" in e.to_xarray()
    c = aumann.Conductance(model, ["mix", "second"]).explain(x)
    close(aumann.load(c.save(tmp_path / "c")).values, dict(c.values))
    c.plot(tmp_path / "c.png")


def test_every_argument_matters():
    model, x = mlp(), normal(3, 4)
    layer = model.layers[0]
    base = aumann.Conductance(model, layer, rule=GAUSS).explain(x, 1)
    others = {
        "layer": aumann.Conductance(model, aumann.input_of(layer), rule=GAUSS),
        "output": aumann.Conductance(model, layer, output="logits", rule=GAUSS),
        "rule": aumann.Conductance(model, layer, rule=aumann.midpoint(4)),
        "method": aumann.InternalInfluence(model, layer, rule=GAUSS),
    }
    for name, other in others.items():
        found = other.explain(x, 1).values
        assert found.shape != base.values.shape or np.abs(found - base.values).max() > 1e-6, name
    with pytest.raises(ValueError, match="rule or a tolerance"):
        aumann.Conductance(model, layer, rule=GAUSS, tolerance=0.1)
    loose, tight = (aumann.Conductance(model, layer, tolerance=t).explain(x, 1) for t in (0.3, 1e-5))
    assert tight.evaluations.min() > loose.evaluations.max()
