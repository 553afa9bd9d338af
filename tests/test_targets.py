"""Targets: every way to say which scalar is F.

The models are linear, y[n, …] = Σᵢ x[n, i] W[i, …], so that the attribution of output … is x ∘ W[:, …] under any rule,
and NumPy's own indexing says what each target means.
"""

import keras
import numpy as np
import pytest
from conftest import close, forward, host, scatter
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers, ops

import aumann

ROWS, FEATURES = 5, 4
RULE = aumann.midpoint(1)
RNG = np.random.default_rng(11)
X = RNG.normal(size=(ROWS, FEATURES)).astype("float32")
W = {
    "steps": RNG.normal(size=(FEATURES, 3, 2)).astype("float32"),
    "classes": RNG.normal(size=(FEATURES, 4)).astype("float32"),
    "unit": RNG.normal(size=(FEATURES, 1)).astype("float32"),
    "bare": RNG.normal(size=(FEATURES,)).astype("float32"),
}
SHAPES = {name: w.shape[1:] for name, w in W.items()}
QUICK = settings(deadline=None, max_examples=25, database=None)


def linear(name):
    return lambda x: ops.tensordot(x, ops.convert_to_tensor(W[name]), 1)


def everything(x):
    return {name: linear(name)(x) for name in W}


def truth(name, index):
    """Attributions of one output unit, or of each row's own: (rows, features)."""
    each = X.reshape(ROWS, FEATURES, *[1] * len(SHAPES[name])) * W[name]
    own = [np.broadcast_to(np.asarray(i), (ROWS,)) for i in index]
    return np.stack([each[(n, slice(None), *(i[n] for i in own))] for n in range(ROWS)])


EXPLAINERS = {name: aumann.IntegratedGradients(linear(name), rule=RULE) for name in W}
EVERYTHING = aumann.IntegratedGradients(everything, rule=RULE)


def check(e, name, index):
    close(e.values, truth(name, index))
    close(e.prediction, truth(name, index).sum(1))
    close(e.base_value, np.zeros(ROWS), scale=1)


def indices(name):
    return st.tuples(*(st.integers(-size, size - 1) for size in SHAPES[name]))


def own_indices(name):
    """An index for each row along some axes, one for all rows along the others."""
    rows = [st.lists(st.integers(-s, s - 1), min_size=ROWS, max_size=ROWS).map(np.array) for s in SHAPES[name]]
    return st.tuples(*(st.integers(-s, s - 1) | r for s, r in zip(SHAPES[name], rows, strict=True)))


# ---- one target ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["steps", "classes"])
def test_an_index_means_what_it_means_in_numpy(name):
    @QUICK
    @given(indices(name) | own_indices(name))
    def every(index):
        check(EXPLAINERS[name].explain(X, target=index), name, index)

    every()


def test_a_class_for_all_rows_or_one_for_each():
    pd = pytest.importorskip("pandas")
    explain = EXPLAINERS["classes"].explain
    own = np.array([3, 0, -1, 2, 2])
    for target in (2, np.int64(2), np.array(2), -2, ops.convert_to_tensor(2), (2,), (np.uint8(2),)):
        check(explain(X, target), "classes", (2,))
    for target in (own, own.astype("int8"), ops.convert_to_tensor(own), pd.Series(own, index=list("abcde")), (own,)):
        check(explain(X, target), "classes", (own,))


def test_a_row_of_indices_for_each_row():
    own = np.array([[0, 1], [2, 0], [-1, -1], [1, 1], [0, 0]])
    check(EXPLAINERS["steps"].explain(X, own), "steps", tuple(own.T))


@pytest.mark.parametrize("name", ["unit", "bare"])
def test_one_unit_needs_no_target(name):
    for target in (None, 0) if name == "unit" else (None, ()):
        check(EXPLAINERS[name].explain(X, target), name, (0,) * len(SHAPES[name]))


def test_predicted_is_the_largest_output_of_each_row():
    e = EXPLAINERS["classes"].explain(X, "predicted")
    own = (X @ W["classes"]).argmax(1)
    assert len(set(own)) > 1
    check(e, "classes", (own,))
    assert e.names["targets"] == ["predicted"]
    ties = aumann.IntegratedGradients(lambda x: ops.stack([x[:, 0], x[:, 1]], axis=1), rule=RULE)
    close(ties.explain(np.ones((1, 2), "float32"), "predicted").values, np.array([[1.0, 0.0]]))


@pytest.mark.parametrize("name", W)
def test_an_output_by_name_and_by_number(name):
    index = tuple(s - 1 for s in SHAPES[name])
    check(EVERYTHING.explain(X, (name, *index)), name, index)
    check(EVERYTHING.explain(X, (list(W).index(name), *index)), name, index)
    for output in (name, list(W).index(name), list(W).index(name) - len(W)):
        chosen = aumann.IntegratedGradients(everything, output=output, rule=RULE)
        check(chosen.explain(X, index), name, index)
        check(chosen.explain(X, (name, *index)), name, index)
    if name in ("unit", "bare"):
        check(EVERYTHING.explain(X, name), name, (0,) * len(index))


def test_rows_may_differ_within_a_named_output():
    own = np.array([3, 0, -1, 2, 2])
    check(EVERYTHING.explain(X, ("classes", own)), "classes", (own,))
    check(EVERYTHING.explain(X, (0, np.array([0, 1, 2, 0, 1]), 1)), "steps", (np.array([0, 1, 2, 0, 1]), 1))


def test_the_names_that_a_functional_model_gave_its_outputs():
    x = layers.Input((FEATURES,))
    model = scatter(keras.Model(x, [layers.Dense(2, name="left")(x), layers.Dense(3, name="right")(x)]))
    w = {v.path.split("/")[0]: host(v.value) for v in model.weights if "kernel" in v.path}
    e = aumann.IntegratedGradients(model, rule=RULE).explain(X, [("right", 2), (0, 1)])
    close(e.values, np.stack([X * w["right"][:, 2], X * w["left"][:, 1]], 1))
    assert e.names["targets"] == ["right[2]", "left[1]"]
    close(aumann.IntegratedGradients(model, output="left", rule=RULE).explain(X, 1).values, X * w["left"][:, 1])


def test_a_dict_of_outputs_keeps_the_order_of_the_model():
    x = layers.Input((FEATURES,))
    z, a = layers.Dense(2), layers.Dense(3)
    model = scatter(keras.Model(x, {"z": z(x), "a": a(x)}))
    e = aumann.IntegratedGradients(model, rule=RULE).explain(X, [(0, 1), (1, 2), ("z", 0)])
    close(e.values, np.stack([X * host(z.kernel)[:, 1], X * host(a.kernel)[:, 2], X * host(z.kernel)[:, 0]], 1))
    assert e.names["outputs"] == ["z", "a"] and e.names["targets"] == ["z[1]", "a[2]", "z[0]"]
    close(aumann.IntegratedGradients(model, output=1, rule=RULE).explain(X, 2).values, e.values[:, 1])


# ---- several targets -----------------------------------------------------------------------------------------------


def test_several_targets_are_the_single_ones_side_by_side():
    @QUICK
    @given(st.lists(own_indices("steps"), min_size=1, max_size=3))
    def every(targets):
        e = EXPLAINERS["steps"].explain(X, targets)
        close(e.values, np.stack([truth("steps", t) for t in targets], axis=1))
        close(e.prediction, np.stack([truth("steps", t).sum(1) for t in targets], axis=1))
        assert e.values.shape == (ROWS, len(targets), FEATURES) and e.base_value.shape == (ROWS, len(targets))
        assert len(e.names["targets"]) == len(targets)

    every()


def test_several_targets_of_a_network_are_its_single_runs(classifier, explainer, x):
    own = np.array([0, 2, 1, 1, 0])
    targets = [2, "predicted", own, lambda y: y[:, 0] * y[:, 1], 0]
    together = explainer.explain(x, targets)
    for k, target in enumerate(targets):
        one = explainer.explain(x, target)
        for field in ("values", "prediction", "base_value"):
            close(getattr(together, field)[:, k], getattr(one, field))
        close(together.residual[:, k], one.residual, scale=1)
    assert (together.evaluations == one.evaluations).all()  # from the same passes
    close(together.prediction[:, 1], forward(classifier, x).max(1))


def test_all_outputs_in_the_order_of_their_axes():
    e = EXPLAINERS["steps"].explain(X, "all")
    close(e.values, np.stack([truth("steps", i) for i in np.ndindex(3, 2)], axis=1))
    assert e.names["targets"] == ["0, 0", "0, 1", "1, 0", "1, 1", "2, 0", "2, 1"]
    e = EVERYTHING.explain(X, "all")
    places = [(name, i) for name in W for i in np.ndindex(*SHAPES[name])]
    close(e.values, np.stack([truth(*place) for place in places], axis=1))
    assert e.names["targets"][6:] == ["classes[0]", "classes[1]", "classes[2]", "classes[3]", "unit", "bare"]
    assert EXPLAINERS["unit"].explain(X, "all").values.shape == (ROWS, 1, FEATURES)


# ---- a function of the outputs -------------------------------------------------------------------------------------


def test_a_function_of_the_outputs():
    def margin(y):
        return y[:, 3] - y[:, 0]

    e = EXPLAINERS["classes"].explain(X, margin)
    close(e.values, truth("classes", (3,)) - truth("classes", (0,)))
    assert e.names["targets"] == ["margin"]
    e = EVERYTHING.explain(X, lambda y: 2 * y["bare"] + ops.sum(y["steps"], axis=(1, 2)))
    each = sum(truth("steps", i) for i in np.ndindex(3, 2))
    close(e.values, 2 * truth("bare", ()) + each)


def test_functions_beside_other_targets_keep_their_places():
    targets = [lambda y: y[:, 1], (0,), lambda y: y[:, 2] - y[:, 1], -1]
    e = EXPLAINERS["classes"].explain(X, targets)
    t = [truth("classes", (k,)) for k in range(4)]
    close(e.values, np.stack([t[1], t[0], t[2] - t[1], t[3]], axis=1))


def test_a_function_may_be_quadratic():
    """F = u², u = w·x: φ = u w ∘ x, exact at two Gauss nodes."""
    e = aumann.IntegratedGradients(linear("unit"), rule=aumann.gauss_legendre(2)).explain(X, lambda y: y[:, 0] ** 2)
    u = X @ W["unit"]
    close(e.values, u * X * W["unit"][:, 0])


# ---- what is refused -----------------------------------------------------------------------------------------------


def test_out_of_range_is_refused_with_the_range():
    @QUICK
    @given(st.data())
    def every(data):
        sizes = SHAPES["steps"]
        wrong = data.draw(st.sampled_from([0, 1]))
        off = data.draw(st.integers(sizes[wrong], 99) | st.integers(-99, -sizes[wrong] - 1))
        index = [data.draw(st.integers(0, s - 1)) for s in sizes]
        index[wrong] = off
        if data.draw(st.booleans()):  # in one row only
            index[wrong] = np.zeros(ROWS, int)
            index[wrong][data.draw(st.integers(0, ROWS - 1))] = off
        target = tuple(index)
        with pytest.raises(ValueError, match=rf"between 0 and {sizes[wrong] - 1}.*received {off}\..*\(0…2, 0…1\)"):
            EXPLAINERS["steps"].explain(X, [target] if data.draw(st.booleans()) else target)

    every()


REFUSED = {
    "none of many": ("classes", None, ValueError, r"more than one output unit.*0…3"),
    "too few indices": ("steps", 1, ValueError, r"Expected 2 indices.*\(n, 3, 2\).*received 1"),
    "too many indices": ("classes", (1, 1), ValueError, r"Expected 1 indices.*received \(1, 1\)"),
    "a float": ("classes", 1.0, TypeError, r"Expected a target, received 1\.0.*0…3"),
    "a boolean": ("classes", True, TypeError, r"received True"),
    "floats": ("classes", np.zeros(ROWS), TypeError, r"integer targets, received dtype float64"),
    "booleans": ("classes", np.zeros(ROWS, bool), TypeError, r"integer targets, received dtype bool"),
    "too few rows": ("classes", np.zeros(ROWS - 1, int), ValueError, rf"each of the {ROWS} rows.*\({ROWS - 1},\)"),
    "too few rows in a tuple": ("steps", (np.zeros(3, int), 1), ValueError, rf"each of the {ROWS} rows.*\(3,\)"),
    "two axes in a tuple": ("steps", (np.zeros((ROWS, 2), int), 1), ValueError, rf"each of the {ROWS} rows.*\(5, 2\)"),
    "too few rows in a list": ("classes", [[0, 1, 2]], ValueError, rf"each of the {ROWS} rows.*\(3,\)"),
    "an empty list": ("classes", [], ValueError, r"at least one target"),
    "a wrong name": ("classes", "classes", ValueError, r"name of an output, received 'classes'.*'output'"),
    "a float in a tuple": ("steps", (0, 1.0), TypeError, r"integer indices.*received 1\.0"),
    "predicted of steps": ("steps", "predicted", ValueError, r"one output of shape \(n, classes\).*\('n', 3, 2\)"),
    "two axes from a function": ("classes", lambda y: y, ValueError, r"one number for each row.*shape.*Index or sum"),
    "an integer from a function": ("classes", lambda y: ops.argmax(y, axis=1), ValueError, r"differentiable.*int"),
    "no tensor from a function": ("classes", lambda y: 1.0, TypeError, r"return a tensor, received float.*Compute"),
    "a dict": ("classes", {"classes": 1}, TypeError, r"integer indices.*received \{"),
}  # fmt: skip


@pytest.mark.parametrize("why", REFUSED)
def test_refused(why):
    name, target, error, message = REFUSED[why]
    with pytest.raises(error, match=message):
        EXPLAINERS[name].explain(X, target)
    check(EXPLAINERS[name].explain(X, tuple(0 for _ in SHAPES[name])), name, tuple(0 for _ in SHAPES[name]))


SEVERAL = {
    "no output named": (3, r"Expected 1 indices|Expected .*output 'bare'"),
    "predicted of several": ("predicted", r'one output.*target="predicted"'),
    "a number beyond the outputs": ((4, 0), r"output between 0 and 3, received 4"),
    "a number below them": ((-1, 0), r"output between 0 and 3, received -1"),
    "a wrong name": (("class", 0), r"name of an output, received 'class'.*'classes': 0…3"),
    "no index in a named output": ("classes", r"Expected 1 indices into output 'classes'"),
    "out of range in a named output": (("classes", 4), r"between 0 and 3 for output 'classes', received 4"),
    "rows without an output": (np.zeros(ROWS, int), r"begins with one of the 4 outputs"),
    "none": (None, r"more than one output unit"),
}


@pytest.mark.parametrize("why", SEVERAL)
def test_refused_by_several_outputs(why):
    target, message = SEVERAL[why]
    if why == "no output named":
        check(EVERYTHING.explain(X, 3), "bare", ())  # an output of one unit needs no index
        target = 1
    with pytest.raises(ValueError, match=message):
        EVERYTHING.explain(X, target)


@pytest.mark.parametrize("output", ["class", 4, -5, 1.0, ("classes",)])
def test_an_output_that_is_not_there(output):
    with pytest.raises(ValueError, match=r"Expected an output of the model, one of \['steps', .* or 0…3.*received"):
        aumann.IntegratedGradients(everything, output=output, rule=RULE).explain(X, 0)


# ---- which class was predicted -------------------------------------------------------------------------------------


def own(name):
    """The largest output of each row, along the last axis."""
    return np.tensordot(X, W[name], 1).argmax(-1)


PREDICTED = {  # the explainer, the target, the class of each row, and the index that gives the same
    "alone": ("classes", "predicted", own("classes"), lambda k: ("classes", k)),
    "of a named output": ("everything", ("classes", "predicted"), own("classes"), lambda k: ("classes", k)),
    "of an output by its number": ("everything", (1, "predicted"), own("classes"), lambda k: (1, k)),
    "of the only output, named": ("classes", ("output", "predicted"), own("classes"), lambda k: ("classes", k)),
    "at a position": ("steps", (1, "predicted"), own("steps")[:, 1], lambda k: (1, k)),
    "at a position of a named output": ("everything", ("steps", 2, "predicted"), own("steps")[:, 2], None),
    "at each row's own position": (
        "steps", (np.arange(ROWS) % 3, "predicted"), own("steps")[np.arange(ROWS), np.arange(ROWS) % 3],
        lambda k: (np.arange(ROWS) % 3, k),
    ),
}  # fmt: skip


@pytest.mark.parametrize("why", PREDICTED)
def test_the_class_that_was_predicted_is_told(why, tmp_path):
    kind, target, expected, index = PREDICTED[why]
    explainer = EVERYTHING if kind == "everything" else EXPLAINERS[kind]
    e = explainer.explain(X, target)
    classes = e.names["predicted"]
    assert e.provenance["predicted"] == classes and len(classes) == ROWS
    assert classes == expected.tolist() and len(set(classes)) > 1
    if index is not None:
        path = index(np.array(classes))
        same = explainer.explain(X, path if kind in ("everything", "steps") else path[1])
        close(e.values, same.values)
        close(e.prediction, same.prediction)
    assert e[[2, 0]].names["predicted"] == [classes[2], classes[0]] == e[[2, 0]].provenance["predicted"]
    assert e.sum().names["predicted"] == classes == aumann.load(e.save(tmp_path / "e")).names["predicted"]
    assert f"predicted: {classes[0]}" in repr(e).replace("]", "")
    assert "predicted" not in EXPLAINERS["unit"].explain(X).names
    assert e.to_dataframe()["predicted"].tolist() == classes
    assert e.to_xarray()["predicted"].values.tolist() == classes
    assert f"{classes[-1]}" in e.plot().axes[-1].get_title().split("\n")[0].split("predicted")[1]


def test_predicted_among_other_targets():
    e = EVERYTHING.explain(X, [("classes", "predicted"), ("classes", 0), ("steps", 1, "predicted")])
    assert e.names["targets"] == ["classes[predicted]", "classes[0]", "steps[1, predicted]"]
    expected = [[int(a), None, int(b)] for a, b in zip(own("classes"), own("steps")[:, 1], strict=True)]
    assert e.names["predicted"] == expected and e[1:3].names["predicted"] == expected[1:3]
    assert e.to_dataframe()["predicted"].isna().sum() == ROWS
    close(e.prediction[:, 0], (X @ W["classes"]).max(1))


def test_predicted_is_settled_by_the_inputs_without_noise_and_for_metrics():
    linear_ = EXPLAINERS["classes"]
    e = aumann.Smooth(linear_, 2.0, samples=3).explain(X, "predicted")
    assert e.names["predicted"] == own("classes").tolist() == e.provenance["predicted"]
    target = ("output", "predicted")
    e = linear_.explain(X, target)
    curves = [aumann.metrics.deletion(linear_, e, t, by="signed").values for t in (target, "predicted", own("classes"))]
    close(curves[0], curves[2])
    close(curves[1], curves[2])


@pytest.mark.parametrize(
    "target", [("steps", "predicted"), ("bare", "predicted"), ("classes", 1, "predicted"), ("none", "predicted")]
)
def test_predicted_where_there_are_no_classes(target):
    with pytest.raises(ValueError, match=r"Expected .*received .*Valid targets are"):
        EVERYTHING.explain(X, target)
