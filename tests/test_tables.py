"""Tables meet the inputs by the names of their columns, wherever a number stands for each feature; rows keep theirs."""

import re

import keras
import numpy as np
import pandas as pd
import pytest
from conftest import close, host, mlp, scatter
from keras import layers as L
from keras import ops, tree

import aumann
from aumann.baselines import Weighted
from aumann.features import tables

library = aumann.baselines
RULE = aumann.gauss_legendre(3)
NAMES = ["age", "income", "debt"]
W = np.array([2.0, 3.0, -1.0], "float32")
X = pd.DataFrame({"age": [10.0, 20.0], "income": [7.0, 4.0], "debt": [1.0, 3.0]}, index=["p", "q"])
ROW = pd.Series({"age": 5.0, "income": 2.0, "debt": 0.5})
BACK = pd.DataFrame(np.arange(12.0).reshape(4, 3) ** 1.5, columns=NAMES)
SHUFFLED = ["debt", "age", "income"]


def linear(x):
    return ops.sum(x * ops.cast(W, x.dtype), axis=1)


LINEAR = aumann.IntegratedGradients(linear, rule=RULE)


def values(baseline, x=X):
    return LINEAR.explain(x, baseline=baseline).values


def polars(frame):
    return pytest.importorskip("polars").DataFrame({c: frame[c].to_numpy() for c in frame.columns})


def structured(frame):
    return frame.to_records(index=False)


def arrow(frame):
    return pytest.importorskip("pyarrow").Table.from_pandas(frame, preserve_index=False)


def dataset(frame):
    return pytest.importorskip("xarray").DataArray(frame.to_numpy(), {"feature": list(frame.columns)}, ("n", "feature"))


KINDS = {"pandas": lambda frame: frame, "polars": polars, "structured": structured, "arrow": arrow, "xarray": dataset}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("order", [NAMES, SHUFFLED], ids=["same order", "another order"])
def test_tables_of_every_kind_are_matched_by_name(kind, order):
    one, each = ROW.to_frame().T[order], X[order] / 2
    close(values(KINDS[kind](one.reset_index(drop=True))), (X - ROW).to_numpy() * W)
    close(values(KINDS[kind](each)), X.to_numpy() / 2 * W)
    e = LINEAR.explain(KINDS[kind](X[order]), baseline=KINDS[kind](one))
    assert e.names["features"] == order
    weights = pd.Series(W, NAMES)[order].to_numpy()
    np.testing.assert_allclose(e.base_value, (e.inputs * weights).sum(1) * 0 + (ROW[order] * W).sum(), rtol=1e-5)
    close(values(library.weighted(KINDS[kind](BACK[order]))), (X - BACK.mean()).to_numpy() * W)


FUNCTIONS = {  # of a row r, and of a background t, both with the names of the columns
    "a Series": lambda r, t: r,
    "a function that returns one": lambda r, t: lambda x: r,
    "constant": lambda r, t: library.constant(r),
    "mean": lambda r, t: library.mean(t),
    "median": lambda r, t: library.median(t),
    "arithmetic with a mean": lambda r, t: library.mean(t) * 2 + 1,
    "kmeans": lambda r, t: library.kmeans(t, 2),
    "weighted": lambda r, t: library.weighted(t, [1, 2, 3, 4]),
    "farthest": lambda r, t: library.farthest(t.min(), t.max()),
    "farthest from one named end": lambda r, t: library.farthest(-100.0, t.max()),
    "uniform": lambda r, t: library.uniform(t.min(), t.max(), 3),
    "gaussian": lambda r, t: library.gaussian(t.std(), 3, low=t.min(), high=t.max()),
    "nearest": lambda r, t: library.nearest(t, [0, 0, 1, 1], [0, 1], scale=t.std()),
    "combine": lambda r, t: library.combine(r, library.farthest(t.min(), t.max()), t.iloc[0]),
}


@pytest.mark.parametrize("function", FUNCTIONS)
def test_every_function_of_the_library_matches_by_name(function):
    """The same question asked in two orders of the columns, of tables in two orders, has one answer."""
    make = FUNCTIONS[function]
    expected = pd.DataFrame(values(make(ROW, BACK)), columns=NAMES)
    other = values(make(ROW[SHUFFLED], BACK[SHUFFLED]))
    close(other, expected.to_numpy())
    if function in ("constant", "mean", "median", "weighted", "kmeans"):
        close(values(make(ROW.to_numpy(), BACK.to_numpy())), expected.to_numpy())

    def reordered(x):
        return ops.sum(x * ops.cast(pd.Series(W, NAMES)[SHUFFLED].to_numpy(), x.dtype), axis=1)

    e = aumann.IntegratedGradients(reordered, rule=RULE).explain(X[SHUFFLED], baseline=make(ROW, BACK))
    if function not in ("uniform", "gaussian"):  # draws go by position, the names by what is drawn between
        close(e.values, expected[SHUFFLED].to_numpy())


def refused(call, *said):
    with pytest.raises((ValueError, TypeError)) as caught:
        call()
    message = str(caught.value)
    assert re.match(r"Expected .+received .+\. .+\.$", message, re.DOTALL), message
    for part in said:
        assert re.search(part, message), message


TWICE = pd.DataFrame(np.ones((1, 4)), columns=[*NAMES, "age"])
WRONG = {
    "missing": (ROW[["age", "debt"]], r"missing: \['income'\]"),
    "unknown": (pd.concat([ROW, pd.Series({"loan": 1.0})]), r"unknown: \['loan'\]"),
    "renamed": (ROW.rename({"debt": "Debt"}), r"missing: \['debt'\]; unknown: \['Debt'\]"),
    "twice": (TWICE, r"more than once: \['age'\]"),
    "twice in a row": (pd.concat([ROW, ROW[["age"]]]), r"more than once: \['age'\]"),
    "without names": (pd.DataFrame(np.ones((1, 3))), r"missing: .*unknown: \['0', '1', '2'\]"),
    "missing in a set": (library.weighted(BACK[["age", "debt"]]), r"missing: \['income'\]"),
    "a mean of others": (library.mean(BACK.rename(columns={"age": "Age"})), r"unknown: \['Age'\]"),
    "an end of others": (library.farthest(BACK.min().rename({"age": "Age"}), 99.0), r"Age"),
    "a scale of others": (library.nearest(BACK, [0, 0, 1, 1], [0, 1], BACK.std()[["age"]]), "missing"),
    "a background of others": (library.nearest(BACK[["age", "debt"]], [0, 0, 1, 1], [0, 1]), "shape|missing"),
    "rows in another order": (X.iloc[::-1], r"index \['p', 'q'\]; received the index \['q', 'p'\].*\.loc"),
    "in a combination": (library.combine(0.0, ROW[["age", "debt"]]), r"missing: \['income'\]"),
}  # fmt: skip


@pytest.mark.parametrize("why", WRONG)
def test_other_names_are_refused(why):
    baseline, said = WRONG[why]
    refused(lambda: values(baseline), said)


def test_arrays_and_tables_of_which_one_has_no_names_go_by_position():
    close(values(ROW.to_numpy()), (X - ROW).to_numpy() * W)
    close(values(ROW, X.to_numpy()), (X - ROW).to_numpy() * W)
    close(
        values(library.farthest(BACK.min(), BACK.max()), X.to_numpy()), values(library.farthest(BACK.min(), BACK.max()))
    )


def explainers(model):
    rule = {"rule": aumann.gauss_legendre(2)}
    return {
        "IntegratedGradients": aumann.IntegratedGradients(model, **rule),
        "to a tolerance": aumann.IntegratedGradients(model, tolerance=0.1),
        "ExpectedGradients": aumann.ExpectedGradients(model, samples=4),
        "Smooth": aumann.Smooth(aumann.InputXGradient(model), pd.Series([0.1, 0.2, 0.3], NAMES)[SHUFFLED], samples=2),
        "SequentialIntegratedGradients": aumann.SequentialIntegratedGradients(model, **rule),
        "GuidedIntegratedGradients": aumann.GuidedIntegratedGradients(model, steps=3),
        "ImportantDirectionGradients": aumann.ImportantDirectionGradients(model, **rule),
        "Conductance": aumann.Conductance(model, model.layers[0], **rule),
        "IntegratedHessians": aumann.IntegratedHessians(model, rule=aumann.log_gauss(2)),
        "InputXGradient": aumann.InputXGradient(model),
    }


MODEL = mlp(features=3)


@pytest.mark.parametrize("method", explainers(MODEL))
def test_every_method_matches_by_name(method):
    explainer = explainers(MODEL)[method]
    by_name, by_place = (explainer.explain(X / 10, 1, baseline=b) for b in (ROW[SHUFFLED], ROW.to_numpy()))
    close(np.asarray(by_name.values), np.asarray(by_place.values))
    refused(lambda: explainer.explain(X / 10, 1, baseline=ROW[["age"]]), "missing")
    if method == "ExpectedGradients":
        whole = [explainer.explain(X / 10, 1, baseline=t) for t in (BACK / 9, BACK[SHUFFLED] / 9)]
        close(whole[0].values, whole[1].values)
        drawn = [explainer.explain(X, 1, baseline=lambda rng, n, o=o: BACK[o].iloc[[0] * n]) for o in (NAMES, SHUFFLED)]
        close(drawn[0].values, drawn[1].values)


def test_metrics_match_by_name():
    ig = explainers(MODEL)["IntegratedGradients"]
    e = ig.explain(X / 10, 1, baseline=ROW)
    m = aumann.metrics
    for run in (
        lambda row: m.deletion(ig, e, 1, by="signed", fill=row).values,
        lambda row: m.insertion(ig, e, 1, by="absolute", fill=lambda x: row).values,
        lambda row: m.cumulative_difference(ig, e, 1, by="absolute", fraction=1.0, fill=row).values,
        lambda row: m.max_sensitivity(ig, e, 1, perturb=0.1, samples=2, baseline=row),
        lambda row: m.randomization(ig, e, 1, by="signed", baseline=row).similarity,
    ):
        close(np.nan_to_num(run(ROW[SHUFFLED])), np.nan_to_num(run(ROW.to_numpy())))
        refused(lambda run=run: run(ROW[["age"]]), "missing")
    two = e.sum(groups={"a": ["age"], "b": ["income"], "c": ["debt"]})
    refused(lambda: m.deletion(ig, two, 1, by="signed"), "summed or stand at a layer")


def test_groups_and_noise_match_by_name():
    e = LINEAR.explain(X)
    labels = pd.Series({"debt": 1, "age": 0, "income": 0})
    close(e.sum(groups=labels).values, np.stack([e.values[:, :2].sum(1), e.values[:, 2]], 1))
    close(e.sum(groups={"owed": labels == 1}).values[:, 0], e.values[:, 2])
    refused(lambda: e.sum(groups=labels[["debt", "age"]]), "missing|shape")
    refused(lambda: aumann.Smooth(LINEAR, pd.Series({"age": 1.0, "debt": 1.0})).explain(X), "missing")


def test_classes_of_rows_in_another_order_are_refused():
    ig, classes = aumann.IntegratedGradients(MODEL, rule=aumann.gauss_legendre(8)), pd.Series([1, 2], X.index)
    close(ig.explain(X / 10, classes).values, ig.explain(X / 10, np.array([1, 2])).values)
    refused(lambda: ig.explain(X / 10, classes[::-1]), r"index \['q', 'p'\]")
    labels = pd.Series([0, 0, 1, 1], BACK.index)
    refused(lambda: library.nearest(BACK, labels[::-1], [0, 1]), "labels in the order of the background")
    refused(lambda: values(library.nearest(BACK, labels, classes[::-1])), "classes in the order of the inputs")


def test_polars_keeps_its_names_through_a_mean_and_arithmetic():
    for function in library.mean, library.median:
        close(values(function(polars(BACK[SHUFFLED])) * 2), values(function(BACK) * 2))
    close(values(library.kmeans(polars(BACK[SHUFFLED]), 2)), values(library.kmeans(BACK, 2)))


def test_waypoints_are_no_table():
    refused(lambda: aumann.Polyline(X), "received a table", "to_numpy")


# ---- several inputs ------------------------------------------------------------------------------------------------


def product(pack, shape=(1,)):
    """(age − 1) · income · (debt + 2), of three inputs of one column each."""
    age, income, debt = (L.Input(shape, name=n) for n in NAMES)
    y = (age - 1) * income * (debt + 2)
    return keras.Model({"age": age, "income": income, "debt": debt} if pack == "dict" else [age, income, debt], y)


@pytest.mark.parametrize("shape", [(1,), ()], ids=str)
@pytest.mark.parametrize("pack", ["dict", "list"])
def test_a_table_feeds_a_model_of_several_inputs(pack, shape):
    ig = aumann.IntegratedGradients(product(pack, shape), rule=RULE)
    separate = {n: X[[n]].to_numpy() if shape else X[n].to_numpy() for n in NAMES}
    wide = X[SHUFFLED].assign(unread=["a", "b"])
    for frame, start in (
        (wide, ROW[SHUFFLED]),
        (wide, ROW.to_frame().T[SHUFFLED].assign(unread=1.0)),
        (polars(wide.drop(columns="unread")), polars(ROW.to_frame().T)),
        (X, library.constant(ROW[SHUFFLED])),
        (X, {n: ROW[[n]].iloc[0] for n in NAMES}),
        (separate, ROW[SHUFFLED]),
    ):
        e = ig.explain(frame, baseline=start)
        expected = ig.explain(separate, baseline={n: ROW[n] for n in NAMES})
        close({n: np.ravel(v) for n, v in e.values.items()}, {n: np.ravel(v) for n, v in expected.values.items()})
    each = {n: BACK[[n]].to_numpy() if shape else BACK[n].to_numpy() for n in NAMES}
    sets = [ig.explain(X, baseline=library.weighted(b)).values for b in (BACK[SHUFFLED], each)]
    close(*[{n: np.ravel(v) for n, v in s.items()} for s in (sets[0], sets[1])])
    drawn = aumann.ExpectedGradients(product(pack, shape), samples=8)
    close(drawn.explain(X, baseline=BACK[SHUFFLED]).values, drawn.explain(X, baseline=library.weighted(BACK)).values)
    refused(lambda: ig.explain(X[["age", "debt"]]), r"without \['income'\]", "Rename or add")
    refused(lambda: ig.explain(X, baseline=ROW[["age", "debt"]]), r"without \['income'\]")
    refused(lambda: ig.explain(X, baseline=pd.concat([ROW, pd.Series({"loan": 1.0})])), r"unknown \['loan'\]")
    refused(lambda: ig.explain(TWICE), r"more than one \['age'\]")
    refused(lambda: ig.explain([X["income"], X["age"], X["debt"]]), "in this order", "'income' in the place of 'age'")
    if pack == "list":  # of a dict that is not sorted Keras takes no list
        close(ig.explain([X[n] for n in NAMES]).prediction, ig.explain(X).prediction)


def test_wide_inputs_of_a_table_are_named_on_two_levels():
    a, b = L.Input((2,), name="a"), L.Input((1,), name="b")
    model = scatter(keras.Model([a, b], L.Dense(1)(L.Concatenate()([a, b]))))
    ig, flat = aumann.IntegratedGradients(model, rule=RULE), X.set_axis(["a", "b", "c"], axis=1)
    levels = X.set_axis(pd.MultiIndex.from_tuples([("b", "x"), ("a", "y"), ("a", "z")]), axis=1)
    e = ig.explain(levels)
    w = host(model.get_layer(index=-1).kernel)[:, 0]
    close(e.values, {"a": X[["income", "debt"]].to_numpy() * w[:2], "b": X[["age"]].to_numpy() * w[2:]})
    assert e.names["features"] == {"a": ["y", "z"], "b": ["x"]}
    refused(lambda: ig.explain(flat), r"\['a'\] take more than one column", r"table\[\[")
    close(ig.explain({"a": X[["income", "debt"]], "b": X[["age"]]}).values, e.values)


def test_a_single_input_by_name_takes_the_whole_table():
    model = scatter(keras.Model({"all": (x := L.Input((3,), name="all"))}, L.Dense(1)(x)))
    ig = aumann.IntegratedGradients(model, rule=RULE)
    e = ig.explain(X, baseline=ROW[SHUFFLED])
    close(e.values["all"], ig.explain({"all": X.to_numpy()}, baseline={"all": ROW.to_numpy()}).values["all"])
    dict_of_tables = ig.explain({"all": X}, baseline={"all": library.farthest(BACK.min()[SHUFFLED], BACK.max())})
    close(dict_of_tables.values["all"], ig.explain(X, baseline=library.farthest(BACK.min(), BACK.max())).values["all"])


def test_indicators_are_features():
    frame = pd.get_dummies(pd.DataFrame({"city": ["a", "b", "a"], "age": [1.0, 2.0, 3.0]}))
    assert len(set(map(str, frame.dtypes))) == 2
    model = mlp(features=3)
    ig = aumann.IntegratedGradients(model, rule=RULE)
    close(ig.explain(frame, 1).values, ig.explain(frame.to_numpy(float), 1).values)
    start = frame.iloc[0]  # of numbers and booleans: objects
    close(ig.explain(frame, 1, baseline=start).values, ig.explain(frame, 1, baseline=start.to_numpy(float)).values)
    only = pd.get_dummies(pd.Series(["a", "b", "c"]))
    close(ig.explain(only, 1).values, ig.explain(np.eye(3), 1).values)
    mixed = pd.DataFrame({"a": pd.array([1, 2], "Int64"), "b": pd.array([True, False], "boolean"), "c": [0.5, 1.5]})
    close(ig.explain(mixed, 1).values, ig.explain(np.array([[1, 1, 0.5], [2, 0, 1.5]]), 1).values)


# ---- rows ----------------------------------------------------------------------------------------------------------

INDEXES = {
    "text": (pd.Index(["p", "q"]), ["p", "q"]),
    "numbers": (pd.Index([7, 3]), [7, 3]),
    "a part of a range": (pd.RangeIndex(4, 6), [4, 5]),
    "dates": (pd.to_datetime(["2024-01-01", "2024-01-02"]), ["2024-01-01T00:00:00", "2024-01-02T00:00:00"]),
    "two levels": (pd.MultiIndex.from_tuples([("a", 1), ("b", 2)]), [["a", 1], ["b", 2]]),
    "twice the same": (pd.Index(["p", "p"]), ["p", "p"]),
    "not a number": (pd.Index([0.5, np.nan]), [0.5, "nan"]),
}


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("why", INDEXES)
def test_rows_keep_their_names_in_every_export(why, several, tmp_path):
    pytest.importorskip("xarray")
    pytest.importorskip("shap")
    index, names = INDEXES[why]
    e = LINEAR.explain(X.set_axis(index), target=[None] if several else None)
    assert e.names["rows"] == names == e.rows
    assert e[1].rows == names[1:] and e[[1, 0]].rows == names[::-1] and e[np.array([False, True])].rows == names[1:]
    assert e.sum(groups={"all": NAMES}).rows == names and aumann.load(e.save(tmp_path / "e")).rows == names
    for each in (e, e[::-1]):
        frame, rows = each.to_dataframe(), [tuple(r) if isinstance(r, list) else r for r in each.rows]
        found = frame.index.droplevel("target") if several else frame.index
        assert list(found) == rows
        assert len(each.to_xarray()["row"]) == 2 and "row" in each.to_xarray().coords
        assert each.to_shap().instance_names == [str(r) for r in each.rows]
        assert all(str(r) in repr(each) and str(r) in each._repr_html_().replace("&#x27;", "'") for r in each.rows)
    titles = [ax.get_title() for ax in e.plot().axes]
    assert [t.split(" · ")[0].split("\n")[0] for t in titles] == [f"row {r}" for r in names]


def test_rows_of_several_tables_must_agree():
    ig = aumann.IntegratedGradients(product("dict"), rule=RULE)
    tables_ = {n: X[[n]] for n in NAMES}
    assert ig.explain(tables_).rows == ["p", "q"]
    refused(lambda: ig.explain({**tables_, "debt": X[["debt"]].iloc[::-1]}), "index", r"\.loc")
    assert aumann.Smooth(LINEAR, samples=2).explain(X).rows == ["p", "q"]
    assert "rows" not in LINEAR.explain(X.to_numpy()).names


def test_names_of_a_named_array_are_its_own_alone():
    a = tables.named(np.ones((2, 3)), NAMES)
    assert tables.columns(a) == NAMES and tables.columns(a[:, :2]) is None and tables.columns(a + 1) is None
    assert isinstance(library.weighted(a), Weighted) and tree.flatten(a) is not None
