"""Files that come in: data is read right or refused, and a model brings nothing but numbers and names of Keras."""

import contextlib
import decimal
import io
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import keras
import mutations
import numpy as np
import pandas as pd
import pytest
from conftest import scatter
from keras import layers as L

from aumann.cli import files, models
from aumann.cli import main as cli

BIG = 2**63 + 5


def read(tmp_path, content, name="x.csv", **options):
    path = tmp_path / name
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif isinstance(content, str):
        path.write_text(content, encoding="utf-8", newline="")
    elif name.endswith(".parquet"):
        content.to_parquet(path)
    elif name.endswith(".npz"):
        np.savez(path, **content)
    else:
        np.save(path, content)
    return files.read_data(path, **options)


# ---- tables --------------------------------------------------------------------------------------------------------

PRECISE = [0.1 + 0.2, 5e-324, 1.7976931348623157e308, 123456789.123456789, -1 / 3]

# Text of a .csv -> its columns.
RIGHT = {
    "plain": ("a,b\n1,2.5\n3,4\n", {"a": [1, 3], "b": [2.5, 4.0]}),
    "windows": ("a,b\r\n1,2\r\n3,4\r\n", {"a": [1, 3], "b": [2, 4]}),
    "no last newline": ("a,b\n1,2\n3,4", {"a": [1, 3], "b": [2, 4]}),
    "byte order mark": (b"\xef\xbb\xbfa,b\n1,2\n", {"a": [1], "b": [2]}),
    "quoted": ('"a","b, c"\n"1","2.5"\n', {"a": [1], "b, c": [2.5]}),
    "a name on two lines": ('"a\nb",c\n1,2\n3,4\n', {"a\nb": [1, 3], "c": [2, 4]}),
    "spaces": ("a,b\n 1 , 2\n", {"a": [1], "b": [2]}),
    "empty lines": ("a,b\n\n1,2\n\n3,4\n\n", {"a": [1, 3], "b": [2, 4]}),
    "booleans": ("a,b\nTrue,false\nFalse,TRUE\n", {"a": [1, 0], "b": [0, 1]}),
    "exponents": ("a\n1e3\n-2.5E-2\n+7\n", {"a": [1000.0, -0.025, 7.0]}),
    "last places": ("a\n" + "\n".join(map(repr, PRECISE)) + "\n", {"a": PRECISE}),
    "NaN by any name": ("a\nNA\nnan\nNULL\n-1\nN/A\n", {"a": [np.nan, np.nan, np.nan, -1, np.nan]}),
    "large": (f"a\n{2**63 - 1}\n-5\n", {"a": [2**63 - 1, -5]}),
    "larger": (f"a\n{BIG}\n5\n", {"a": np.uint64([BIG, 5])}),
    "leading zeros": ("a\n007\n", {"a": [7]}),
}


@pytest.mark.parametrize("text, columns", RIGHT.values(), ids=RIGHT)
def test_tables_that_are_read(tmp_path, text, columns):
    found = read(tmp_path, text)
    assert list(found) == list(columns)
    for name, column in columns.items():
        expected = np.asarray(column)
        assert found[name].dtype == expected.dtype
        np.testing.assert_array_equal(found[name].to_numpy(), expected)


# Text of a .csv -> words of the message.
REFUSED = {
    "longer lines": ("a,b\n1,2,3\n4,5,6\n", "2 fields in every line.*received 3 in line 2"),
    "one longer line": ("a,b\n1,2\n4,5,6\n", "received 3 in line 3"),
    "one shorter line": ("a,b,c\n1,2,3\n4,5\n", "received 2 in line 3"),
    "commas at the end": ("a,b\n1,2,\n3,4,\n", "received 3 in line 2"),
    "a number in two": ("a,b\n1,234,5\n", "received 3"),
    "thousands": ('a,b\n"1,234",5\n', "'1,234' in row 0 of column 'a'"),
    "semicolons": ("a;b\n1;2\n", "commas between.*';'"),
    "decimal commas": ("a;b\n1,5;2,5\n", "commas between.*decimal="),
    "tabs": ("a\tb\n1\t2\n", r"commas between.*'\\t'"),
    "same names": ("a,b,a\n1,2,3\n", r"different names.*\['a'\]"),
    "no name": (",a\n0,1\n", "none for column 0.*index=False"),
    "no name at the end": ("a,\n0,1\n", "none for column 1"),
    "all numbers": ("1.5,2.5\n1,2\n", "first line of column names"),
    "some numbers": ("5.1,3.5,setosa\n4.9,3.0,setosa\n", r"first line of column names.*\['5.1', '3.5'\]"),
    "numbers like counts": ("0.0,1.0\n1,2\n", "first line of column names"),
    "nothing": ("", "first line is empty"),
    "an empty line": ("\n1,2\n", "first line is empty"),
    "names alone": ("a,b\n", "no rows"),
    "a gap in one column": ("a\n1\n\n3\n", "nothing in line 3"),
    "text": ("a,b\n1,x\n", "'x' in row 0 of column 'b'"),
    "yes and no": ("a\nyes\nno\n", "'yes' in row 0"),
    "hexadecimal": ("a\n0x10\n", "'0x10'"),
    "dates": ("a\n2020-01-01\n", "'2020-01-01'"),
    "a dash": ("a\n1\n-\n", "'-' in row 1"),
    "keys beside reals": (f"a,b\n{2**53 + 1},0.5\n", rf"{2**53 + 1} of column 'a'.*2\*\*53"),
    "keys beside counts": (f"a,b\n{BIG},-5\n", rf"{BIG} of column 'a'"),
    "beyond 64 bits": (f"a\n{2**64 + 1}\n-3\n", "of column 'a'"),
    "utf-16": ("a,b\n1,2\n".encode("utf-16"), "cannot be read"),
    "an open quote": ('a,b\n"1,2\n', "cannot be read"),
}


@pytest.mark.parametrize("text, says", REFUSED.values(), ids=REFUSED)
def test_tables_that_are_refused(tmp_path, text, says):
    with pytest.raises(ValueError, match=rf"(?s)Expected .*received .*{says}|Expected .*{says}"):
        read(tmp_path, text)


def test_a_first_line_that_may_be_data_is_named(tmp_path):
    """pandas writes 0, 1, … for names that a frame lacks, and a year can be a name."""
    for text in ("0,1\n1.5,2\n", "2019,2020,b\n1,2,3\n"):
        with pytest.warns(UserWarning, match="taken for the names of columns"):
            assert len(read(tmp_path, text)) == 1
    assert len(read(tmp_path, "0,1\n1.5,2\n", header=False)) == 2
    with pytest.raises(ValueError, match="received 1 in line 2"):
        read(tmp_path, "0,1\n1.5\n", header=False)


def test_columns_are_named_once(tmp_path):
    with pytest.raises(ValueError, match=r"Expected each column of .* once; received \['a'\] twice"):
        read(tmp_path, "a,b\n1,2\n", columns=["a", "b", "a"])
    assert list(read(tmp_path, ",a\n0,1\n", drop=[""])) == ["a"]
    assert list(read(tmp_path, ",a\n0,1\n", columns=["a"])) == ["a"]


PARQUET = {
    "unsigned": (np.uint64([BIG, 1]), np.uint64([BIG, 1])),
    "unsigned and small": (np.uint8([5, 1]), np.int64([5, 1])),
    "nullable": (pd.array([BIG, 1], "UInt64"), np.uint64([BIG, 1])),
    "nullable key": (pd.array([2**53 + 1, None], "Int64"), "beyond"),
    "half": (np.float16([0.1, 2]), np.float64(np.float16([0.1, 2]))),
    "decimals": ([decimal.Decimal("1.5"), decimal.Decimal("2")], "Decimal.* in row 0"),
    "categories of numbers": (pd.Categorical([3, 5]), np.int64([3, 5])),
    "categories": (pd.Categorical(["u", "v"]), "dtype category"),
    "text": (["1", "2"], "'1' in row 0"),
    "dates": (pd.to_datetime(["2020-01-01", "2020-01-02"]), "datetime64"),
    "durations": (pd.to_timedelta([1, 2], "s"), "timedelta"),
    "flags": (pd.array([True, None], "boolean"), np.array([1, np.nan])),
    "lists": ([[1, 2], [3, 4]], "in row 0"),
}


@pytest.mark.parametrize("column, expected", PARQUET.values(), ids=PARQUET)
def test_columns_of_parquet(tmp_path, column, expected):
    frame = pd.DataFrame({"a": column}, index=pd.Index(["p", "q"], name="key"))
    if isinstance(expected, str):
        with pytest.raises(ValueError, match=rf"Expected .*received .*{expected}"):
            read(tmp_path, frame, "x.parquet")
        return
    found = read(tmp_path, frame, "x.parquet")
    assert list(found) == ["a"] and list(found.index) == ["p", "q"] and found["a"].dtype == expected.dtype
    np.testing.assert_array_equal(found["a"], expected)


def test_names_of_parquet(tmp_path):
    with pytest.raises(ValueError, match=r"different names|Multiple matches"):
        read(tmp_path, pd.DataFrame({1: [1.0]}).assign(**{"1": 2.0}).rename(columns={"x": "1"}), "x.parquet")


# ---- arrays --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [">f4", "<f8", "f2", "u8", "i1", ">i8", "?"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_of_every_kind(tmp_path, dtype, order):
    x = np.asarray(np.arange(6).reshape(2, 3), dtype, order=order)
    for found in (read(tmp_path, x, "x.npy"), read(tmp_path, {"x": x}, "x.npz")):
        np.testing.assert_array_equal(found, x)
        assert files.native(found).dtype == x.dtype.newbyteorder("=") and files.native(found).dtype.isnative


def test_arrays_that_are_refused(tmp_path):
    for x in (np.zeros(2, [("a", "f8"), ("b", "f8")]), np.array(["a", None], object)):
        with pytest.raises(ValueError, match=r"Expected a \.npy file of numbers.*dtype"):
            read(tmp_path, x, "x.npy") if x.dtype.names else read(
                tmp_path, mutations.npy("'|O'", "(2,)", bytes(16)), "x.npy"
            )
    file = io.BytesIO()
    np.save(file, np.ones(3))
    np.save(file, np.zeros(3))
    with pytest.raises(ValueError, match=r"declares float64 of shape \(3,\) and holds"):
        read(tmp_path, file.getvalue(), "x.npy")
    with pytest.raises(ValueError, match="same name"):
        read(tmp_path, mutations.archive_of({"x.npy": file.getvalue()[:152]}, twice=["x.npy"]), "x.npz")
    with pytest.raises(ValueError, match="declares"):
        read(tmp_path, mutations.npy("'|S0'", "(2147483648,)"), "x.npy")


def test_arrays_of_different_length(tmp_path):
    data = read(tmp_path, {"a": np.ones((5, 2)), "b": np.ones((3, 2))}, "x.npz")
    with pytest.raises(ValueError, match=r"same number of rows in every array of x\.npz; received \{'a': 5, 'b': 3\}"):
        files.count(data, "x.npz")
    assert files.count({"a": data["a"]}, "x.npz") == 5 and files.count(np.float32(1), "x.npy") == 0


def test_a_packed_archive_of_data_is_read(tmp_path):
    letters = np.eye(4, dtype=np.float32)[np.random.default_rng(0).integers(4, size=(200, 1000))]
    np.savez_compressed(tmp_path / "x.npz", letters)
    np.testing.assert_array_equal(files.read_data(tmp_path / "x.npz"), letters)


# ---- what a command may write --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    folder = tmp_path_factory.mktemp("desk")
    scatter(mutations.model()).save(folder / "model.keras")
    np.save(folder / "x.npy", np.ones((2, 6), "float32"))
    np.savez(folder / "x.npz", np.ones((2, 6), "float32"))
    np.savez(folder / "start.npz", np.zeros((1, 6), "float32"))
    (folder / "link.npz").symlink_to("start.npz")
    os.link(folder / "start.npz", folder / "hard.npz")
    (folder / "picture.png").symlink_to("start.npz")
    (folder / "model.npz").symlink_to("model.keras")
    (folder / "one.npz").symlink_to("both")
    (folder / "one.png").symlink_to("both")
    (folder / "both").touch()
    (folder / "unzipped").mkdir()
    return folder


def explain(model, data, out, *options):
    """(exit code, what was said on standard error)"""
    said = io.StringIO()
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        code = cli.main(["explain", *map(str, (model, data, "-o", out, "--rule", "midpoint:2", *options))])
    return code, said.getvalue()


@pytest.mark.parametrize(
    "data, out, options, says",
    [
        ("x.npy", "start", ["--baseline", "start.npz"], "a baseline"),
        ("x.npy", "./unzipped/../start", ["--baseline", "start.npz"], "a baseline"),
        ("x.npy", "start", ["--baseline", "link.npz"], "a baseline"),
        ("x.npy", "link", ["--baseline", "start.npz"], "a baseline"),
        ("x.npy", "hard.npz", ["--baseline", "start.npz"], "a baseline"),
        ("x.npy", "start", ["--baseline", "0.0", "--baseline", "x=start.npz"], "a baseline"),
        ("x.npy", "picture", ["--baseline", "start.npz"], "a baseline"),
        ("x.npz", "x", [], "the data"),
        ("x.npy", "model", [], "the model"),
        ("x.npy", "one", [], "two files"),
    ],
)
def test_nothing_that_is_read_is_written_over(desk, monkeypatch, data, out, options, says):
    monkeypatch.chdir(desk)
    before = {path: path.read_bytes() for path in desk.iterdir() if path.is_file()}
    code, said = explain("model.keras", data, out, *options)
    assert code == 2 and said.startswith("aumann: Expected ") and says in said and said.endswith("Give another -o.\n")
    assert before == {path: path.read_bytes() for path in desk.iterdir() if path.is_file()}


def test_results_elsewhere(desk, tmp_path, monkeypatch):
    monkeypatch.chdir(desk)
    for out, says in (("", "name of a file"), ("unzipped/..", "name of a file"), ("x" * 300, "name too long")):
        code, said = explain("model.keras", "x.npy", out, "--no-plot")
        assert code == 2 and says in said
    assert explain("unzipped", "x.npy", "unzipped/out", "--no-plot")[0] == 2
    assert explain("model.keras", "x.npy", tmp_path / "out", "--no-plot", "--baseline", "start.npz", "--quiet") == (
        0,
        "",
    )
    assert [path.name for path in tmp_path.iterdir()] == ["out.npz"]


# ---- models --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", mutations.CODE.values(), ids=mutations.CODE)
def test_code_is_seen_wherever_it_stands(part):
    config = json.loads(mutations.model().to_json())
    for place in mutations.PLACES:
        spoiled = json.loads(json.dumps(config))
        place(spoiled, part)
        assert list(models.code_in(spoiled)), place.__name__


def legitimate():
    x = keras.Input((6, 4), name="x")
    h = L.Lambda(keras.ops.relu, name="named")(x)
    h = L.TimeDistributed(
        L.Dense(4, activation=keras.activations.gelu, kernel_regularizer=keras.regularizers.L2(1e-3))
    )(h)
    h = L.Dense(4, activation=L.LeakyReLU(negative_slope=0.2), kernel_constraint=keras.constraints.MaxNorm(2))(h)
    h = L.MultiHeadAttention(2, 2)(h, h) + keras.ops.sum(h, axis=1, keepdims=True)
    h = L.Bidirectional(L.LSTM(3, kernel_initializer=keras.initializers.Orthogonal(seed=1)))(h)
    h = L.Dense(3, dtype=keras.DTypePolicy("mixed_bfloat16"), activation="softplus")(L.Dropout(0.1, seed=2)(h))
    inner = keras.Sequential([keras.Input((3,)), L.Normalization(mean=1.0, variance=2.0), L.Dense(2)])
    model = keras.Model(x, inner(h))
    model.compile("adam", "mse", ["mae"])
    return model


def test_parts_of_networks_are_no_code(tmp_path):
    model = legitimate()
    for suffix in (".keras", ".h5"):
        model.save(tmp_path / f"m{suffix}")
        config, _, _ = models.read_config(tmp_path / f"m{suffix}")
        assert not list(models.code_in(config))
    with models.opened_model(tmp_path / "m.keras") as loaded:
        assert loaded.count_params() == model.count_params()
    words = L.StringLookup(vocabulary=["a", "b"], name="words").get_config()
    assert not list(models.code_in(mutations.made_of("StringLookup", **words)))
    assert not list(models.code_in(keras.saving.serialize_keras_object(keras.losses.mean_squared_error)))


def test_weights_that_are_in_no_file(tmp_path):
    """A layer that stands for an activation is built when it is called, and would have weights that were drawn."""
    data = mutations.saved(tmp_path)[".keras"]
    config = json.loads(mutations.members(data)["config.json"])
    mutations.at_activation(config, mutations.made_of("Dense", units=5))
    (tmp_path / "m.keras").write_bytes(mutations.with_config(data, config))
    np.save(tmp_path / "x.npy", np.ones((2, 6), "float32"))
    code, said = explain(tmp_path / "m.keras", tmp_path / "x.npy", tmp_path / "out", "--no-plot")
    assert code == 2 and "whose weights are in its file" in said
    layer = L.Dense(2)
    layer.build((None, 3))
    assert layer.count_params() == 8  # and Keras is as it was


def tried(folder, count, seed):
    """Runs `aumann explain` on hostile models; yields (what was done, exit code, seconds, MB added)."""
    np.save(folder / "x.npy", np.ones((2, 6), "float32"))
    for what, path in mutations.models(folder, count, seed):
        start, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        code, said = explain(path, folder / "x.npy", folder / "out", "--no-plot", "--quiet")
        took = time.process_time() - start
        grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
        assert code in (0, 2) and "Traceback" not in said, what
        if code == 2:
            assert said.count("aumann: Expected ") == 1 and not (folder / "out.npz").exists(), (what, said)
        (folder / "out.npz").unlink(missing_ok=True)
        assert code == 2 or not what.startswith(("code", "senseless", "config_", "weight_", "outside")), what
        yield what, code, took, grown


@pytest.mark.filterwarnings("default")
def test_hostile_models_are_refused(tmp_path):
    found = [code for _, code, _, _ in tried(tmp_path, 40, seed=0)]
    assert found.count(2) > 30


@pytest.mark.fuzz
@pytest.mark.filterwarnings("default")
def test_two_hundred_hostile_models(tmp_path):
    """Each refused in less than two seconds of the processor and 500 MB more than there were."""
    found = [(took, what, grown) for what, code, took, grown in tried(tmp_path, 200, seed=4) if code == 2]
    took, what, _ = max(found)
    grown = max(grown for _, _, grown in found)
    print(f"{len(found)} refused; slowest {took:.2f} s ({what}); {grown:.0f} MB more at most")
    assert took < 2 and grown < 500


@pytest.mark.fuzz
@pytest.mark.parametrize("number", range(4))
def test_hostile_models_in_a_process_of_their_own(tmp_path, number):
    """Start and all: 2.6 GB of architecture, a download, code, weights of 32 GB."""
    data = mutations.saved(tmp_path)[".keras"]
    draw = np.random.default_rng(number)
    if number == 0:
        found, size = mutations.members(data), 26 * 10**8 // 2**20 * 2**20
        deflated, crc = mutations.zeros(size, b'{"a": "')
        spoiled = mutations.with_deflated({**found, "config.json": b""}, "config.json", deflated, crc, size + 7)
    elif number == 3:
        spoiled = mutations.weight_bomb(draw, data)
    else:
        spoiled = mutations.planted(draw, data, mutations.CODE[["download", "Lambda"][number - 1]])
    (tmp_path / "m.keras").write_bytes(spoiled)
    np.save(tmp_path / "x.npy", np.ones((2, 6), "float32"))
    code = (
        "import resource, sys, aumann.cli.main\ncode = aumann.cli.main.main()\n"
        "used = resource.getrusage(resource.RUSAGE_SELF)\n"
        "peak = next(line for line in open('/proc/self/status') if line.startswith('VmHWM'))\n"
        "print(code, used.ru_utime + used.ru_stime, int(peak.split()[1]) / 1024)"
    )
    command = [sys.executable, "-c", code, "explain", "m.keras", "x.npy", "-o", "out"]
    environment = {**os.environ, "PYTHONPATH": str(Path(files.__file__).parents[1])}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, env=environment)
    code, took, peak = map(float, done.stdout.split())
    print(f"{took:.2f} s, {peak:.0f} MB: {done.stderr}")
    assert code == 2 and done.stderr.startswith("aumann: Expected ")
    assert took < 2 and peak < 500
