"""The command line gives what the Python interface gives; it refuses in three beats and leaves nothing behind."""

import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import h5py
import keras
import numpy as np
import pandas as pd
import pytest
import tqdm.auto
from conftest import BACKEND, close, host, mlp, scatter
from keras import layers

import aumann
from aumann.backends import active
from aumann.cli import files, models, parse
from aumann.cli import main as cli
from aumann.report.table import as_text

DOCS = Path(__file__).parent.parent / "docs" / "cli.md"
NAMES = ["age", "income", "height", "weight"]
RULE = ["--rule", "gauss_legendre:3", "--no-plot"]


@pytest.fixture(scope="module")
def desk(tmp_path_factory, classifier):
    """A folder with one small model and its data in every format; `desk / "x"` is read back by the tests."""
    folder = tmp_path_factory.mktemp("desk")
    x = np.random.default_rng(3).normal(size=(5, 4)).astype("float32")
    classifier.save(folder / "model.keras")
    classifier.save(folder / "model.h5")
    with zipfile.ZipFile(folder / "model.keras") as archive:
        archive.extractall(folder / "unzipped")
    np.save(folder / "x.npy", x)
    np.savez(folder / "x.npz", x=x)
    frame = pd.DataFrame(x, columns=NAMES)
    frame.to_csv(folder / "x.csv", index=False)
    frame.to_parquet(folder / "x.parquet")
    frame.assign(species="a", bought=[True, False] * 2 + [True]).to_csv(folder / "labelled.csv", index=False)
    return folder


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


@pytest.fixture
def x(desk):
    return np.load(desk / "x.npy")


def run(*args):
    return cli.main([str(a) for a in args])


def explained(desk, out, *args, model="model.keras", data="x.npy"):
    """Runs `aumann explain` and reads what it wrote."""
    assert run("explain", desk / model, desk / data, "-o", out, *RULE, *args) == 0
    return aumann.load(out)


def api(model, *args, **settings):
    """What the Python interface gives."""
    return aumann.IntegratedGradients(model, **{"rule": aumann.gauss_legendre(3), **settings}).explain(*args)


def same(found, expected):
    close(found.values, expected.values)
    close([found.prediction, found.base_value], [expected.prediction, expected.base_value])
    assert found.names["targets"] == expected.names["targets"]
    # A loaded model has the weights of the saved one, but other names of its own.
    assert found.provenance["model"]["weights"] == expected.provenance["model"]["weights"]
    one, other = ({k: v for k, v in e.provenance.items() if k not in ("model", "layers")} for e in (found, expected))
    assert one == other


def refused(capsys, folder, *args):
    """The message of a run that fails with exit code 2 and leaves `folder` as it was."""
    before = sorted(folder.rglob("*"))
    assert run(*args) == 2
    said = capsys.readouterr()
    assert sorted(folder.rglob("*")) == before
    assert not said.out and "Traceback" not in said.err
    assert said.err.startswith("aumann: ") and "xpected" in said.err
    assert "eceived" in said.err or "does not exist" in said.err or " is " in said.err
    return said.err


# ---- what comes in -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", ["x.npy", "x.npz", "x.csv", "x.parquet"])
def test_data_formats(desk, out, x, classifier, data):
    found = explained(desk, out, data=data)
    same(found, api(classifier, x, "predicted"))
    assert found.names.get("features") == (NAMES if data in ("x.csv", "x.parquet") else None)


@pytest.mark.parametrize("model", ["model.h5", "unzipped"])
def test_model_formats(desk, out, x, classifier, model):
    same(explained(desk, out, model=model), api(classifier, x, "predicted"))


def test_columns_are_chosen(desk, out, x, classifier):
    found = explained(desk, out, "--drop", "species,bought", data="labelled.csv")
    close(found.values, api(classifier, x, "predicted").values)
    found = explained(desk, out, "--columns", "income,bought,age,weight", data="labelled.csv")
    assert found.names["features"] == ["income", "bought", "age", "weight"]
    close(found.inputs[:, 1], np.array([1.0, 0, 1, 0, 1]))


def test_tables_without_names(desk, tmp_path, out, x, capsys, classifier):
    np.savetxt(tmp_path / "bare.csv", x, delimiter=",")
    said = refused(capsys, tmp_path, "explain", desk / "model.keras", tmp_path / "bare.csv", "-o", out)
    assert said.endswith("Add the names, or give --no-header.\n") and "cannot be read" not in said
    expected = api(classifier, x, "predicted").values
    close(explained(desk, out, "--no-header", data=tmp_path / "bare.csv").values, expected)
    pd.DataFrame(x).to_csv(tmp_path / "counted.csv", index=False)
    close(explained(desk, out, data=tmp_path / "counted.csv").values, expected)


def test_numeric_columns_of_every_kind(tmp_path):
    frame = pd.DataFrame(
        {
            "count": pd.array([1, 2], "Int64"),
            "gap": pd.array([1, None], "Int64"),
            "flag": pd.array([True, False], "boolean"),
            "real": np.float32([0.5, 1.5]),
        }
    )
    frame.to_parquet(tmp_path / "kinds.parquet")
    read = files.read_data(tmp_path / "kinds.parquet")
    assert [str(t) for t in read.dtypes] == ["int64", "float64", "int64", "float64"]
    assert read.to_numpy().dtype == "float64"
    np.testing.assert_array_equal(read.to_numpy(), [[1, 1, 1, 0.5], [2, np.nan, 0, 1.5]])
    assert files.read_data(tmp_path / "kinds.parquet", ["count", "flag"]).to_numpy().dtype == "int64"


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A model of two inputs and two outputs, declared in an order that is not the alphabet's."""
    folder = tmp_path_factory.mktemp("two")
    side, age = keras.Input((2,), name="side"), keras.Input((1,), name="age")
    joined = layers.Dense(3, activation="tanh")(layers.Concatenate()([side, age]))
    outputs = {"risk": layers.Dense(1, name="risk")(joined), "steps": layers.Reshape((2, 2))(layers.Dense(4)(joined))}
    model = scatter(keras.Model([side, age], outputs))
    model.save(folder / "model.keras")
    draw = np.random.default_rng(5)
    data = {"age": draw.normal(size=(4, 1)), "side": draw.normal(size=(4, 2))}
    np.savez(folder / "x.npz", **data)
    np.savez(folder / "in-order.npz", data["side"], data["age"])
    np.savez(folder / "start.npz", age=data["age"][:1], side=data["side"][1])
    return folder, model, data


def test_several_inputs_and_outputs(two, out):
    folder, model, data = two
    found = explained(folder, out, "--target", "risk,steps:1:0", data="x.npz")
    same(found, api(model, data, ["risk", ("steps", 1, 0)]))
    assert found.names["targets"] == ["risk", "steps[1, 0]"]
    found = explained(folder, out, "--target", "steps:0:1", data="in-order.npz")
    same(found, api(model, [data["side"], data["age"]], ("steps", 0, 1)))
    for given, meant in (
        (["mean"], {k: v.mean(0) for k, v in data.items()}),
        ([folder / "start.npz"], {"age": data["age"][:1], "side": data["side"][1]}),
        (["age=0.5", "side=fixed"], {"age": 0.5, "side": "fixed"}),
        (["side=mean"], {"side": data["side"].mean(0)}),
    ):
        options = [word for value in given for word in ("--baseline", value)]
        found = explained(folder, out, "--target", "risk", *options, data="x.npz")
        same(found, api(model, data, "risk", meant))


def test_a_table_feeds_inputs_by_column(tmp_path, out):
    a, b = keras.Input((1,), name="b"), keras.Input((1,), name="a")
    model = scatter(keras.Model([a, b], layers.Dense(1)(layers.Concatenate()([a, b * b]))))
    model.save(tmp_path / "model.keras")
    frame = pd.DataFrame({"a": [0.5, 1.0], "b": [2.0, -1.0], "note": ["x", "y"]})
    frame.to_csv(tmp_path / "x.csv", index=False)
    found = explained(tmp_path, out, "--drop", "note", "--baseline", "a=mean", data="x.csv")
    expected = api(model, {k: frame[[k]] for k in "ba"}, None, {"a": 0.75})
    close(found.values, expected.values)


# ---- every option --------------------------------------------------------------------------------------------------

# Option -> the words of a run with it, and what must hold of (explanation, standard output, standard error).
OPTIONS = {
    "--target": (["--target", "2,0"], lambda e, *_: e.prediction.shape == (5, 2)),
    "--baseline": (["--baseline", "0.5"], lambda e, *_: (e.baseline == 0.5).all()),
    "--tolerance": (["--tolerance", "0.3"], lambda e, *_: e.provenance["tolerance"] == 0.3 and e.converged.all()),
    "--max-evaluations": (
        ["--tolerance", "1e-12", "--max-evaluations", "20"],
        lambda e, _, said: e.provenance["max_evaluations"] == 20 and max(e.evaluations) <= 20 and "within" in said,
    ),
    "--rule": (["--rule", "midpoint:4"], lambda e, *_: set(e.evaluations) == {4}),
    "--output": (["--output", "logits"], lambda e, *_: e.provenance["output"] == "logits"),
    "--layer": (["--layer", "LAYER"], lambda e, *_: e.provenance["layers"]),
    "--batch-size": (["--batch-size", "7"], lambda e, *_: e.provenance["batch_size"] == 7),
    "--compile": (
        ["--compile", active().COMPILE_MODES[0]],
        lambda e, *_: e.provenance["compile"] == active().COMPILE_MODES[0],
    ),
    "--precision": (["--precision", "tf32"], lambda e, *_: e.provenance["precision"] == "tf32"),
    "--devices": (["--devices", "all"], lambda e, *_: e.provenance["device"]),
    "--rows": (["--rows", "1:3"], lambda e, *_: len(e) == 2),
    "--columns": (
        ["--columns", "weight,age,height,income"],
        lambda e, *_: e.names["features"][:2] == ["weight", "age"],
    ),
    "--drop": (["--drop", "species,bought"], lambda e, *_: e.names["features"] == NAMES),
    "--no-header": (["--no-header"], lambda e, *_: e.names["features"] == list("0123")),
    "--no-plot": (["--no-plot"], lambda *_: True),
    "--backend": (["--backend", BACKEND], lambda e, *_: e.provenance["backend"] == BACKEND),
    "--quiet": (["--quiet"], lambda e, out, said: (out, said) == ("", "")),
    "--debug": (["--debug"], lambda e, out, said: "residual" in out),
    "--unsafe": (["--unsafe"], lambda e, *_: len(e) == 5),
    "--out": (["--out", "OUT"], lambda *_: True),
    "-o": (["-o", "OUT"], lambda *_: True),
}
WORDS = {"--help", "-h", "--version"}  # which end the run
DATA = {"--columns": "x.csv", "--drop": "labelled.csv", "--no-header": "bare.csv"}


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_runs(desk, out, capsys, classifier, option):
    words, holds = OPTIONS[option]
    places = {"LAYER": classifier.layers[0].name, "OUT": str(out)}
    words = [places.get(word, word) for word in words] + ["-o", str(out)] * (option not in ("-o", "--out"))
    np.savetxt(out.parent / "bare.csv", np.load(desk / "x.npy"), delimiter=",")
    data = DATA.get(option, "x.npy")
    data = (out.parent if data == "bare.csv" else desk) / data
    words += [] if option in ("--rule", "--tolerance", "--max-evaluations") else RULE[:2]
    words += [] if option == "--out" else RULE[2:]
    assert run("explain", desk / "model.keras", data, *words) == 0
    said = capsys.readouterr()
    assert holds(aumann.load(out), said.out, said.err), said
    assert out.with_suffix(".png").exists() == (option == "--out")


def test_options_are_those_of_the_page_and_of_the_tests():
    parser = parse.parser()
    commands = next(a for a in parser._actions if isinstance(getattr(a, "choices", None), dict)).choices
    options = {
        o for command in (parser, *commands.values()) for action in command._actions for o in action.option_strings
    }
    assert options == set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", DOCS.read_text())) - {"-"}
    assert options == {*OPTIONS, *WORDS}


@pytest.mark.parametrize(
    "given, meant",
    [("1", 1), ("-1", -1), ("predicted", "predicted"), ("all", "all"), ("2,0", [2, 0]), ("2, 0,-1", [2, 0, -1])],
)
def test_target(desk, out, x, classifier, given, meant):
    same(explained(desk, out, "--target", given), api(classifier, x, meant))


def test_baseline(desk, tmp_path, out, x, classifier):
    np.save(tmp_path / "row.npy", x[3])
    np.save(tmp_path / "rows.npy", x[::-1])
    pd.DataFrame(x[3:4], columns=NAMES)[NAMES[::-1]].to_csv(tmp_path / "row.csv", index=False)
    for given, meant in (
        ("0.5", 0.5),
        ("-1", -1),
        ("mean", x.astype("float64").mean(0)),
        (tmp_path / "row.npy", x[3]),
        (tmp_path / "rows.npy", x[::-1]),
    ):
        same(explained(desk, out, "--baseline", given), api(classifier, x, "predicted", meant))
    found = explained(desk, out, "--baseline", tmp_path / "row.csv", data="x.csv")  # matched by the names of columns
    close(found.baseline, x[3:4])
    found = explained(desk, out, "--baseline", tmp_path / "rows.npy", "--rows", "1:3")  # those of the rows explained
    same(found, api(classifier, x[1:3], "predicted", x[::-1][1:3]))
    found = explained(desk, out, "--baseline", "mean", "--rows", "1:3")  # the mean of all
    close(found.baseline[0], x.mean(0))


def test_baseline_rows_are_told_from_a_row(tmp_path):
    """An image as high as there are rows is still one baseline; a baseline for each row follows --rows."""
    images, table = np.zeros((3, 3, 4)), np.zeros((3, 2))
    np.save(tmp_path / "one.npy", np.ones((3, 4)))
    np.savez(tmp_path / "both.npz", a=np.ones((3, 3, 4)), b=np.ones(2))
    np.savez(tmp_path / "unnamed.npz", np.ones((3, 4)), np.ones((3, 2)))

    def shapes(name, data):
        found = parse.read_baseline([str(tmp_path / name)], data, slice(1, 2))
        return [x.shape for x in keras.tree.flatten(found)]

    assert shapes("one.npy", images) == [(3, 4)]
    assert shapes("both.npz", {"a": images, "b": table}) == [(1, 3, 4), (2,)]
    assert shapes("unnamed.npz", [images, table]) == [(3, 4), (1, 2)]


def test_the_other_options(desk, out, x, classifier):
    layer = classifier.layers[0].name
    options = ("--output", "logits", "--layer", layer, "--batch-size", "3", "--rule", "midpoint:4")
    expected = api(classifier, x, 1, output="logits", layer=layer, batch_size=3, rule=aumann.midpoint(4))
    same(explained(desk, out, *options, "--target", "1"), expected)
    assert run("explain", desk / "model.keras", desk / "x.npy", "-o", out, "--output", "0", "--no-plot") == 0
    same(aumann.load(out), api(classifier, x, "predicted", output=0, rule=None))


def test_how_the_model_is_run(desk, out, x, classifier):
    way, device = active().COMPILE_MODES[0], active().devices()[0]
    options = ("--compile", way, "--precision", "tf32", "--devices", f"{device},{device}")
    found = explained(desk, out, *options, "--target", "1")
    same(found, api(classifier, x, 1, compile=way, precision="tf32", devices=[device, device]))
    assert found.provenance["device"] == [device, device] and found.provenance["precision"] == "tf32"
    assert explained(desk, out, "--devices", "all").provenance["device"] == device
    if len(active().COMPILE_MODES) > 1:
        assert explained(desk, out, "--compile", "false").provenance["compile"] == way


@pytest.mark.parametrize("given, rows", [("1:3", [1, 2]), ("4", [4]), ("3,0", [3, 0]), ("-2:", [3, 4])])
def test_rows(desk, out, x, classifier, given, rows):
    found = explained(desk, out, f"--rows={given}")
    close(found.inputs, x[list(rows)])
    close(found.values, api(classifier, x[list(rows)], "predicted").values)


def test_ids_keep_their_embedding(tmp_path, out):
    """An integer is a token, a float is a constant of the embedding: the option must not turn one into the other."""
    ids, embedding = keras.Input((3,), dtype="int32"), layers.Embedding(5, 2)
    model = scatter(keras.Model(ids, layers.Dense(1)(layers.Flatten()(embedding(ids)))))
    model.save(tmp_path / "model.keras")
    ids = np.array([[1, 2, 3], [4, 0, 1]])
    np.save(tmp_path / "x.npy", ids)
    for given, meant in (("0", 0), ("0.0", 0.0)):
        same(explained(tmp_path, out, "--baseline", given), api(model, ids, "predicted", meant))


# ---- what goes out -------------------------------------------------------------------------------------------------


def test_writes_the_explanation_and_a_picture(desk, tmp_path, capsys):
    for name in ("out", "results.v1", "out2.npz", "out3.png"):
        assert run("explain", desk / "model.keras", desk / "x.csv", "-o", tmp_path / name, "--rows", "0:2") == 0
    written = sorted(p.name for p in tmp_path.iterdir())
    stems = ("out", "out2", "out3", "results.v1")
    assert written == sorted(f"{stem}.{kind}" for stem in stems for kind in ("npz", "png"))
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")
    said = capsys.readouterr().out
    e = aumann.load(tmp_path / "out")
    for row in range(2):
        numbers = (e.prediction[row], e.base_value[row], e.values[row].sum())
        line = f"  {row}  predicted" + "".join(f"  {x:>10.4g}" for x in numbers[:2])
        assert line in said and f"{numbers[2]:.4g}" in said and f"{e.residual[row]:.1e}" in said
    assert "2 of 5 rows" in said and str(tmp_path / "out.png") in said


def test_table_is_cut_and_quiet_is_quiet(desk, out, capsys):
    explained(desk, out, "--target", "all")
    assert "… and" not in capsys.readouterr().out
    big = api(mlp(units=30), np.ones((1, 4), "float32"), "all", rule=aumann.midpoint(9))
    assert as_text(big).endswith("… and 10 more")
    assert len(as_text(big, [(0, 29)]).splitlines()) == 2
    explained(desk, out, "--quiet")
    assert capsys.readouterr() == ("", "")


def test_progress_is_drawn_on_a_terminal(monkeypatch):
    with cli.progress_bar(quiet=True) as show:
        assert show is None
    bars = []

    class Recorded(tqdm.auto.tqdm):
        def __init__(self, **options):
            super().__init__(**options)
            bars.append(self)

    monkeypatch.setattr(tqdm.auto, "tqdm", Recorded)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with cli.progress_bar(quiet=False) as show:
        show(3, 10)
        show(10, 10)
        (bar,) = bars
        assert (bar.n, bar.total, bar.delay) == (10, 10, 1) and not bar.disable


# ---- models that want to run code ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def coded(tmp_path_factory):
    """A model with a Python lambda inside, one level down, as .keras and .h5."""
    folder = tmp_path_factory.mktemp("coded")
    inner = keras.Sequential([keras.Input((4,)), layers.Lambda(lambda x: 2 * x, output_shape=(4,), name="twice")])
    model = scatter(keras.Sequential([keras.Input((4,)), inner, layers.Dense(1)]))
    model.save(folder / "model.keras")
    model.save(folder / "model.h5")
    np.save(folder / "x.npy", np.ones((2, 4), "float32"))
    return folder, model


@pytest.mark.parametrize("name", ["model.keras", "model.h5"])
def test_code_is_refused_with_the_reason(coded, out, capsys, name):
    folder, model = coded
    command = ("explain", folder / name, folder / "x.npy", "-o", out)
    message = refused(capsys, out.parent, *command)
    assert "'twice'" in message and "Python code" in message and "--unsafe" in message
    assert run(*command, "--unsafe", "--no-plot") == 0
    close(aumann.load(out).prediction, host(model(np.ones((2, 4), "float32")))[:, 0].astype("float64"))


@pytest.mark.parametrize("name", ["model.keras", "model.h5"])
def test_keras_is_asked_for_safe_mode_too(coded, monkeypatch, capsys, out, name):
    folder, _ = coded
    monkeypatch.setattr(models, "code_in", lambda config: ())
    message = refused(capsys, out.parent, "explain", folder / name, folder / "x.npy", "-o", out)
    assert "Keras says" in message and "--unsafe" in message


def test_what_counts_as_code():
    lambda_2 = {"class_name": "Lambda", "config": {"name": "l", "function": ["4wEA", None, None]}}
    named = {"class_name": "Lambda", "config": {"name": "l", "function": "relu", "function_type": "function"}}
    program = {"class_name": "TFSMLayer", "config": {"name": "t", "filepath": "/elsewhere"}}
    bare = {"class_name": "Dense", "config": {"name": "d", "activation": {"class_name": "__lambda__", "config": {}}}}
    for layer, found in ((lambda_2, ["l"]), (named, []), (program, ["t"]), (bare, ["d"])):
        assert [name for name, _ in models.code_in({"config": {"layers": [layer]}})] == found


def test_saved_model_is_a_program(tmp_path, desk, out, capsys, x, classifier):
    folder = tmp_path / "saved"
    if BACKEND == "tensorflow":
        classifier.export(folder, verbose=False)
    else:
        folder.mkdir()
        (folder / "saved_model.pb").touch()
    command = ("explain", folder, desk / "x.npy", "-o", out, *RULE)
    message = refused(capsys, tmp_path, *command)
    assert "TensorFlow program" in message and "--unsafe" in message
    if BACKEND != "tensorflow":
        assert "--backend tensorflow" in refused(capsys, tmp_path, *command, "--unsafe")
        return
    assert run(*command, "--unsafe") == 0
    close(aumann.load(out).values, api(classifier, x, "predicted").values)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="Keras loads a SavedModel on TensorFlow alone")
def test_saved_model_of_several_inputs(two, tmp_path, out):
    import tensorflow as tf

    folder, model, data = two
    model.export(tmp_path / "serve", verbose=False)
    single = {"age": tf.TensorSpec((None, 1), name="age"), "side": tf.TensorSpec((None, 2), name="side")}
    module = tf.Module()
    module.model = model
    module.run = tf.function(lambda age, side: model([side, age], training=False))
    signature = module.run.get_concrete_function(**single)
    tf.saved_model.save(module, tmp_path / "serving_default", signatures=signature)
    expected = api(model, data, ("steps", 1, 0))
    for name, rows in (("serve", "in-order.npz"), ("serving_default", "x.npz")):
        found = explained(tmp_path, out, "--unsafe", "--target", "steps:1:0", model=name, data=folder / rows)
        close(found.prediction, expected.prediction)
        values = found.values if isinstance(found.values, dict) else {"side": found.values[0], "age": found.values[1]}
        close(values, {name: expected.values[name] for name in values})


def test_old_hard_sigmoid_is_named(tmp_path, out, capsys):
    model = scatter(keras.Sequential([keras.Input((4,)), layers.Dense(1, activation="hard_sigmoid")]))
    model.save(tmp_path / "model.h5")
    np.save(tmp_path / "x.npy", np.ones((2, 4), "float32"))
    explained(tmp_path, out, model="model.h5")
    assert "hard_sigmoid" not in capsys.readouterr().err
    with h5py.File(tmp_path / "model.h5", "a") as file:
        file.attrs["keras_version"] = "2.11.0"
    explained(tmp_path, out, model="model.h5")
    assert "aumann: warning" in (said := capsys.readouterr().err) and "Keras 2.11.0" in said and "hard_sigmoid" in said


# ---- bad input -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, says",
    [
        (["--target", "3"], "between 0 and 2"),
        (["--target", "risk"], "name of an output"),
        (["--target", "1:2"], "1 indices"),
        (["--target", "1,"], "--target"),
        (["--baseline", "nothing"], "--baseline"),
        (["--baseline", "nothing.npy"], "does not exist"),
        (["--baseline", "other.npy"], "broadcasts"),
        (["--baseline", "age=0"], "--baseline INPUT=VALUE"),
        (["--rule", "simpson:50"], "gauss_legendre"),
        (["--rule", "midpoint:many"], "NAME:NODES"),
        (["--rule", "midpoint:"], "NAME:NODES"),
        (["--rule", "midpoint:0"], "≥ 1"),
        (["--output", "risk"], "an output of the model"),
        (["--layer", "nowhere"], "layer"),
        (["--batch-size", "0"], "--batch-size"),
        (["--batch-size", "few"], "--batch-size"),
        (["--compile", "everything"], "--compile"),
        (["--precision", "double"], "--precision"),
        (["--devices", "gpu:77"], "gpu:77"),
        (["--rows", "9:"], "among 5 rows"),
        (["--rows", "5"], "among 5 rows"),
        (["--rows", "first"], "--rows"),
        (["--columns", "age"], "choose columns"),
        (["--backend", "torch" if BACKEND != "torch" else "jax"], BACKEND),
    ],
)
def test_bad_options(desk, out, capsys, monkeypatch, options, says):
    monkeypatch.chdir(desk)
    np.save(out.parent / "other.npy", np.ones(7))
    options = [str(out.parent / o) if o == "other.npy" else o for o in options]
    assert says in refused(capsys, out.parent, "explain", "model.keras", "x.npy", "-o", out, *options)


class Bomb:
    """What makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def broken(folder, kind):
    """Writes a file that cannot be used, and returns its name."""
    path = folder / kind
    x = np.ones((2, 4), "float32")
    if kind in ("pickle.npy", "pickle.npz"):
        bomb = np.array([Bomb(str(folder / "ran"))], object)
        np.save(path, bomb) if kind == "pickle.npy" else np.savez(path, x=bomb)
    elif kind == "text.npz":
        path.write_text("a,b\n1,2\n")
    elif kind == "cut.npy":
        np.save(path, x)
        path.write_bytes(path.read_bytes()[:-9])
    elif kind == "cut.npz":
        np.savez(path, x=x)
        path.write_bytes(path.read_bytes()[:-60])
    elif kind in ("empty.csv", "empty.npy", "empty.parquet"):
        path.touch()
    elif kind == "words.csv":
        path.write_text("a,b,c,d\n1,2,3,4\n1,2,none at all,4\n")
    elif kind == "gaps.csv":
        path.write_text("a,b,c,d\n1,2,3,4\n1,,3,4\n")
    elif kind == "twisted.csv":
        path.write_bytes(b"a,b\n\xff\xfe1,2\n1,2,3,4,5\n")
    elif kind == "narrow.npy":
        np.save(path, x[:, :3])
    elif kind == "number.npy":
        np.save(path, np.float32(1))
    elif kind == "names.npz":
        np.savez(path, a=x, b=x)
    elif kind == "data.txt":
        path.write_text("1 2 3 4")
    return path


@pytest.mark.parametrize(
    "kind, says",
    [
        ("pickle.npy", "cannot be read"),
        ("pickle.npz", "cannot be read"),
        ("text.npz", "cannot be read"),
        ("cut.npy", "cannot be read"),
        ("cut.npz", "cannot be read"),
        ("empty.npy", "cannot be read"),
        ("empty.csv", "cannot be read"),
        ("empty.parquet", "cannot be read"),
        ("twisted.csv", "cannot be read"),
        ("words.csv", "'none at all' in row 1 of column 'c'"),
        ("gaps.csv", "NaN"),
        ("narrow.npy", "(2, 3)"),
        ("number.npy", "among 0 rows"),
        ("names.npz", "['a', 'b']"),
        ("data.txt", ".npy, .npz, .csv, .parquet"),
        ("missing.npy", "does not exist"),
    ],
)
def test_bad_data(desk, tmp_path, out, capsys, kind, says):
    data = broken(tmp_path, kind)
    assert says in refused(capsys, tmp_path, "explain", desk / "model.keras", data, "-o", out)
    assert run("explain", desk / "model.keras", desk / "x.npy", "-o", out, *RULE) == 0  # and all works as before


def test_unknown_columns(desk, out, capsys):
    for option in ("--columns", "--drop"):
        said = refused(capsys, out.parent, "explain", desk / "model.keras", desk / "x.csv", "-o", out, option, "hight")
        assert "['hight']" in said and "'height'" in said


def test_bad_models(desk, classifier, tmp_path, out, capsys):
    classifier.save_weights(tmp_path / "some.weights.h5")
    (tmp_path / "text.keras").write_text("not a zip")
    (tmp_path / "text.h5").write_text("not hdf5")
    (tmp_path / "model.onnx").touch()
    (tmp_path / "folder").mkdir()
    with zipfile.ZipFile(tmp_path / "custom.keras", "w") as archive:
        config = {"module": "mine", "class_name": "Mine", "config": {"name": "m"}, "registered_name": "Mine"}
        archive.writestr("config.json", json.dumps(config))
        archive.writestr("metadata.json", "{}")
    for name, says in (
        ("some.weights.h5", "weights alone"),
        ("text.keras", "cannot be read"),
        ("text.h5", "cannot be read"),
        ("model.onnx", ".keras or .h5"),
        ("folder", "cannot be read"),
        ("absent.keras", "does not exist"),
        ("custom.keras", "custom layers"),
    ):
        assert says in refused(capsys, tmp_path, "explain", tmp_path / name, desk / "x.npy", "-o", out)


def test_results_need_a_place(desk, tmp_path, capsys):
    (tmp_path / "taken.png").mkdir()
    for where, says in (("nowhere/out", "Create it"), ("taken", "is a folder")):
        said = refused(capsys, tmp_path, "explain", desk / "model.keras", desk / "x.npy", "-o", tmp_path / where)
        assert says in said
    assert "is the data" in refused(capsys, desk, "explain", desk / "model.keras", desk / "x.npz", "-o", desk / "x")


@pytest.mark.parametrize("problem, code", [(OSError(28, "No space left on device"), 2), (KeyboardInterrupt(), 130)])
def test_nothing_half_written(desk, out, monkeypatch, capsys, problem, code):
    """A run that fails while the picture is drawn leaves the results of the run before it."""
    command = ("explain", desk / "model.keras", desk / "x.npy", "-o", out)
    assert run(*command, "--no-plot") == 0
    before = {p.name: p.read_bytes() for p in out.parent.iterdir()}

    def fail(explanation, path, **options):
        Path(path).write_bytes(b"\x89PNG")
        raise problem

    monkeypatch.setattr(aumann.Explanation, "plot", fail)
    assert run(*command, "--target", "1") == code
    assert {p.name: p.read_bytes() for p in out.parent.iterdir()} == before
    assert capsys.readouterr().err


def test_warnings_are_short_and_errors_can_be_traced(desk, out, capsys):
    explained(desk, out, "--rule", "left:1")
    said = capsys.readouterr().err
    assert said.startswith("aumann: warning: The values of rows") and ".py" not in said
    assert run("explain", desk / "model.keras", desk / "x.npy", "-o", out, "--target", "7", "--debug") == 2
    assert "Traceback" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stopped:
        run("explain", desk / "model.keras")
    assert stopped.value.code == 2


# ---- before Keras is imported --------------------------------------------------------------------------------------


def test_help_imports_no_framework():
    code = (
        "import sys\nfrom aumann.cli.main import main\ntry:\n    main(['--help'])\nexcept SystemExit as stopped:\n"
        "    assert stopped.code == 0\n"
        "print({'keras', 'tensorflow', 'jax', 'torch', 'pandas', 'matplotlib'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert "explain" in done.stdout and done.stdout.endswith("set()\n")


@pytest.mark.parametrize(
    "words, says", [(["--version"], "aumann "), (["-h"], "explain"), (["explain", "--help"], "--target")]
)
def test_words_that_end_a_run(capsys, words, says):
    with pytest.raises(SystemExit) as stopped:
        run(*words)
    assert stopped.value.code == 0 and says in capsys.readouterr().out


@pytest.mark.parametrize(
    "option, variable, configured, installed, chosen",
    [
        ("jax", "torch", "tensorflow", parse.BACKENDS, "jax"),
        (None, "torch", "jax", parse.BACKENDS, "torch"),
        (None, None, "jax", parse.BACKENDS, "jax"),
        (None, None, "tensorflow", ["torch"], "torch"),
        (None, None, None, ["jax", "torch"], "jax"),
        (None, None, None, [], None),
        ("tensorflow", None, None, ["jax"], None),
    ],
)
def test_choice_of_backend(monkeypatch, tmp_path, option, variable, configured, installed, chosen):
    if configured:
        (tmp_path / "keras.json").write_text(json.dumps({"backend": configured}))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setenv("KERAS_BACKEND", variable or "")
    if variable is None:
        monkeypatch.delenv("KERAS_BACKEND")
    monkeypatch.delitem(sys.modules, "keras")
    monkeypatch.setattr(cli.importlib.util, "find_spec", lambda name: True if name in installed else None)
    if chosen is None:
        with pytest.raises(ImportError, match=r"Expected tensorflow.*pip install"):
            cli.choose_backend(option)
        return
    cli.choose_backend(option)
    assert cli.os.environ["KERAS_BACKEND"] == chosen


@pytest.mark.parametrize("module, extra", [("pandas", "table"), ("matplotlib", "plot")])
def test_missing_extras_are_named(desk, out, capsys, monkeypatch, module, extra):
    monkeypatch.setitem(sys.modules, module, None)
    find_spec = cli.importlib.util.find_spec
    monkeypatch.setattr(cli.importlib.util, "find_spec", lambda name: None if name == module else find_spec(name))
    before = list(out.parent.iterdir())
    assert run("explain", desk / "model.keras", desk / "x.csv", "-o", out) == 2
    assert f"aumann[{extra}]" in capsys.readouterr().err and list(out.parent.iterdir()) == before


@pytest.mark.parametrize(
    "said, told",
    [
        ("Raise max_evaluations= or tolerance=, or", "Raise --max-evaluations or --tolerance, or"),
        ("within max_evaluations=9; is given batch_size=1.", "within --max-evaluations 9; is given --batch-size 1."),
        (
            "as layer='b', or hold it with baseline={'m': \"fixed\"}.",
            "as --layer 'b', or hold it with --baseline m=fixed.",
        ),
        ("Expected --baseline INPUT=VALUE; ops.sum(output=1)", "Expected --baseline INPUT=VALUE; ops.sum(output=1)"),
    ],
)
def test_advice_names_options(said, told):
    assert cli.as_options(said) == told
