"""An explanation keeps its totals, its rows and its bytes: identities over random structures, and its refusals."""

import copy
import dataclasses
import itertools
import json
import math
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

import aumann
from aumann import explanation as module
from aumann.explanation import Explanation, load
from aumann.features.axes import feature_labels
from aumann.features.groups import REST
from aumann.features.nested import rebuild, walk
from aumann.report.table import as_text
from aumann.storage import npz

QUICK = settings(deadline=None, max_examples=50)

SCALARS = st.none() | st.booleans() | st.integers(-9, 9) | st.floats(-9, 9) | st.text(max_size=5)
JSON = st.recursive(
    SCALARS, lambda x: st.lists(x, max_size=3) | st.dictionaries(st.text(max_size=3), x, max_size=3), max_leaves=5
)
KINDS = st.sampled_from(["f4", "f8", "u1", "i8", "U"])
TREES = st.recursive(
    st.lists(st.integers(1, 3), max_size=3).map(lambda row: np.empty(row)),
    lambda tree: (
        st.lists(tree, min_size=1, max_size=2)
        | st.lists(tree, min_size=1, max_size=2).map(tuple)
        | st.dictionaries(st.text(max_size=3), tree, min_size=1, max_size=2)
    ),
    max_leaves=3,
)


def build(values, several=False, inputs=None, **others):
    """An explanation around given values, complete to rounding; base values are not zero."""
    first = next(walk(values))[1]
    shape = first.shape[: 1 + several]
    total = sum(v.sum(tuple(range(len(shape), v.ndim)), dtype=float) for _, v in walk(values))
    base = np.linspace(0.1, 0.9, math.prod(shape)).reshape(shape)
    return Explanation(
        values=values,
        inputs=rebuild(values, (v[:, 0] if several else v for _, v in walk(values))) if inputs is None else inputs,
        prediction=base + total,
        base_value=base,
        residual=np.zeros(shape),
        evaluations=np.full(shape[:1], 16),
        **others,
    )


def feature_shapes(e):
    """The shape of a row of values, for each input."""
    return [value.shape[e.prediction.ndim :] for _, value in walk(e.values)]


@st.composite
def explanations(draw):
    tree, n, several = draw(TREES), draw(st.integers(1, 4)), draw(st.booleans())
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    lead = (n, draw(st.integers(1, 3))) if several else (n,)
    rows = [leaf.shape for _, leaf in walk(tree)]
    kind = draw(KINDS)
    start = (draw(st.sampled_from([1, n])), *draw(st.sampled_from([(), (2,)])))
    words = st.lists(st.text(max_size=4), min_size=3, max_size=3)
    return build(
        rebuild(tree, [rng.normal(size=lead + row).astype(draw(st.sampled_from(["f4", "f8"]))) for row in rows]),
        several,
        inputs=rebuild(tree, [rng.integers(0, 99, (n, *row)).astype(kind) for row in rows]),
        baseline=draw(st.sampled_from([None, rebuild(tree, [rng.normal(size=start + row) for row in rows])])),
        error=draw(st.sampled_from([None, rng.random(n)])),
        converged=draw(st.sampled_from([None, rng.random(n) < 0.5])),
        names={
            "features": rebuild(
                tree, [draw(st.none() | words.map(lambda w, row=row: w[: row[0]])) if row else None for row in rows]
            ),
            "targets": draw(
                st.lists(st.text(max_size=4), min_size=lead[-1] if several else 1, max_size=lead[-1] if several else 1)
            ),
        },
        provenance=draw(st.dictionaries(st.text(max_size=4), JSON, max_size=3)),
    )


def totals(e):
    lead = e.prediction.ndim
    return sum(v.sum(tuple(range(lead, v.ndim)), dtype=float) for _, v in walk(e.values))


def skeleton(structure):
    """The structure with the order of its keys, which dicts ignore when they are compared."""
    return repr(rebuild(structure, itertools.repeat(0)))


def assert_same(a, b, rounding=0.0):
    """Asserts that two explanations agree: values up to a rounding, all else to the bit."""
    for field in dataclasses.fields(Explanation):
        x, y = getattr(a, field.name), getattr(b, field.name)
        if field.name in module.RECORDS:
            assert x == y
            continue
        assert skeleton(x) == skeleton(y), field.name
        for (path, left), (_, right) in zip(walk(x), walk(y), strict=True):
            if field.name == "values" and rounding:
                np.testing.assert_allclose(left, right, rtol=0, atol=rounding, err_msg=path, strict=True)
            else:
                np.testing.assert_array_equal(left, right, err_msg=f"{field.name} {path}", strict=True)


# Sums


@QUICK
@given(explanations(), st.data())
def test_a_sum_over_any_axes_keeps_the_total_of_every_row(e, data):
    ranks = [v.ndim - e.prediction.ndim for _, v in walk(e.values)]
    top = max(ranks)
    axes = st.sets(st.integers(-top, top - 1), max_size=3).map(tuple) if top else st.just(())
    axis = data.draw(st.none() | axes)
    has = [axis is None or all(-rank <= a < rank for a in axis) for rank in ranks]
    if not any(has):
        with pytest.raises(ValueError, match=r"Expected .* received"):
            e.sum(axis)
        return
    summed = e.sum(axis)
    np.testing.assert_allclose(totals(summed), totals(e), rtol=0, atol=1e-5)
    for rank, has_it, (_, before), (_, after) in zip(ranks, has, walk(e.values), walk(summed.values), strict=True):
        gone = {a % rank for a in (range(rank) if axis is None else axis)} if has_it and rank else set()
        assert after.ndim == before.ndim - len(gone) and after.dtype == before.dtype
    for name in ("prediction", "base_value", "residual"):
        np.testing.assert_array_equal(getattr(summed, name), getattr(e, name))


def test_axes_are_those_of_a_row():
    v = np.arange(2 * 3 * 4 * 5.0).reshape(2, 3, 4, 5)
    np.testing.assert_array_equal(build(v).sum(0).values, v.sum(1))
    np.testing.assert_array_equal(build(v, several=True).sum(0).values, v.sum(2))
    np.testing.assert_array_equal(build(v, several=True).sum((0, -1)).values, v.sum((2, 3)))
    mixed = build({"table": v[:, 0, 0], "image": v}).sum((1, 2))
    np.testing.assert_array_equal(mixed.values["image"], v.sum((2, 3)))
    np.testing.assert_array_equal(mixed.values["table"], v[:, 0, 0])


def test_features_keep_their_names_until_their_axis_is_gone():
    e = build(np.ones((2, 3, 4)), names={"features": ["good", "bad", "ugly"]})
    assert e.sum(1).names["features"] == ["good", "bad", "ugly"]
    assert e.sum(0).names["features"] is None


@QUICK
@given(explanations(), st.integers(0, 99))
def test_groups_keep_the_total_however_features_are_dealt_out(e, seed):
    rng = np.random.default_rng(seed)
    rows = [v.shape[e.prediction.ndim :] for _, v in walk(e.values)]
    labels = [rng.integers(0, 3, row) for row in rows]
    masks = [{"a": label == 0, "b": label == 1} for label in labels]  # label 2 is left for the rest
    for groups in (labels, masks):
        summed = e.sum(groups=rebuild(e.values, groups))
        np.testing.assert_allclose(totals(summed), totals(e), rtol=0, atol=1e-5)
    for label, (_, before, after, names) in zip(
        labels, walk(e.values, summed.values, summed.names["features"]), strict=True
    ):
        assert names == ["a", "b"] + [REST] * bool((label == 2).any())
        for g, name in enumerate(names):
            part = np.where(label == g, before, 0).sum(tuple(range(e.prediction.ndim, before.ndim)))
            np.testing.assert_allclose(after[..., g], part, atol=1e-5, err_msg=name)


def test_members_are_names_positions_or_masks_along_the_first_axis():
    v = np.arange(24.0).reshape(2, 4, 3)
    e = build(v, names={"features": ["a", "b", "c", "d"]})
    by_name = e.sum(groups={"left": ["a", "c"], "none": [], REST: ["b"]})
    by_place = e.sum(groups={"left": [0, 2], "none": (), REST: np.array([1])})
    mask = np.zeros((4, 3), bool)
    mask[[0, 2]] = True
    by_mask = e.sum(groups={"left": mask, "none": ~mask & mask})
    expected = np.stack([v[:, [0, 2]].sum((1, 2)), 0 * v[:, 0, 0], v[:, [1, 3]].sum((1, 2))], 1)
    for summed in (by_name, by_place, by_mask):
        np.testing.assert_array_equal(summed.values, expected)
        assert summed.names["features"] == ["left", "none", REST]
    by_label = e.sum(groups=np.full((4, 3), 7))
    assert by_label.names["features"] == ["7"] and by_label.values.shape == (2, 1)


def test_maps_and_masks_hold_along_axes_that_they_lack():
    v = np.arange(48.0).reshape(2, 4, 3, 2)
    e = build(v)
    pixels = np.random.default_rng(0).integers(0, 3, (4, 3))
    expected = np.stack([(v * (pixels == k)[..., None]).sum((1, 2, 3)) for k in range(3)], 1)
    masks = {str(k): pixels == k for k in range(3)}
    for groups in (pixels, pixels[..., None], np.repeat(pixels[..., None], 2, 2), masks):
        summed = e.sum(groups=groups)
        np.testing.assert_array_equal(summed.values, expected)
        assert summed.names["features"] == ["0", "1", "2"]
    lines, columns, colours = np.array([0, 0, 1, 1]), np.array([[0, 1, 1]]), np.array([[[4, 7]]])
    np.testing.assert_array_equal(e.sum(groups=lines).values, v.reshape(2, 2, -1).sum(-1))
    one, two = v.sum((1, 3))[:, 0], v.sum((1, 3))[:, 1:].sum(1)
    np.testing.assert_array_equal(e.sum(groups=columns).values, np.stack([one, two], 1))
    np.testing.assert_array_equal(e.sum(groups=colours).values, v.sum((1, 2)))


@QUICK
@given(st.integers(0, 9999), st.booleans())
def test_each_row_and_target_may_have_groups_of_its_own(seed, several):
    rng = np.random.default_rng(seed)
    v = rng.normal(size=(3, 2, 4, 3, 2) if several else (3, 4, 3, 2))
    e = build(v, several=several)
    for depth in range(1 + several, 0, -1):
        labels = rng.integers(0, 4, (*v.shape[:depth], 4, 3))
        unique = np.unique(labels)
        masks = {str(k): labels == k for k in unique}
        full = np.broadcast_to(labels.reshape(3, *(1,) * (several and depth < 2), *labels.shape[1:], 1), v.shape)
        for groups in (labels, masks):
            summed = e.sum(groups=groups)
            assert summed.names["features"] == [str(k) for k in unique]
            for g, k in enumerate(unique):
                part = np.where(full == k, v, 0).sum((-3, -2, -1))
                np.testing.assert_allclose(summed.values[..., g], part, atol=1e-12)
        np.testing.assert_allclose(totals(e.sum(groups=labels)), totals(e), atol=1e-12)
    shared = e.sum(groups={"a": [0], "b": np.zeros((3, 4), bool)})
    assert shared.names["features"] == ["a", "b", REST]


def test_features_of_one_name_go_to_the_same_group():
    e = build(np.arange(6.0).reshape(2, 3), names={"features": ["x", "y", "x"]})
    np.testing.assert_array_equal(e.sum(groups={"both": ["x"]}).values, [[2, 1], [8, 4]])


def test_inputs_without_groups_stay_as_they_are():
    v = np.arange(6.0).reshape(2, 3)
    for values, groups in (({"a": v, "b": v}, {"b": {"g": [0]}}), ([v, v], [None, {"g": [0]}])):
        a, b = (leaf for _, leaf in walk(build(values).sum(groups=groups).values))
        np.testing.assert_array_equal(a, v)
        np.testing.assert_array_equal(b, [[0, 3], [3, 9]])


# Rows


@QUICK
@given(explanations(), st.data())
def test_choosing_rows_and_summing_commute(e, data):
    n = len(e)
    rows = data.draw(
        st.integers(-n, n - 1)
        | st.lists(st.integers(-n, n - 1), max_size=5)
        | st.lists(st.booleans(), min_size=n, max_size=n).map(np.array)
        | st.slices(n)
    )
    groups = rebuild(e.values, [np.arange(math.prod(row)).reshape(row) % 2 for row in feature_shapes(e)])
    assert_same(e[rows].sum(), e.sum()[rows], rounding=1e-5)
    assert_same(e[rows].sum(groups=groups), e.sum(groups=groups)[rows], rounding=1e-5)


@QUICK
@given(explanations())
def test_each_row_keeps_its_own_start(e):
    if e.baseline is None:
        return
    order = np.arange(len(e))[::-1]
    for _, whole, part in walk(e.baseline, e[order].baseline):
        np.testing.assert_array_equal(
            np.broadcast_to(whole, (len(e), *whole.shape[1:]))[order], np.broadcast_to(part, (len(e), *part.shape[1:]))
        )
        assert len(part) == len(whole)


@QUICK
@given(explanations())
def test_iterating_yields_every_row_once(e):
    rows = list(e)
    assert len(rows) == len(e)
    for name in ("prediction", "evaluations"):
        np.testing.assert_array_equal(np.concatenate([getattr(row, name) for row in rows]), getattr(e, name))


# Structures


@QUICK
@given(TREES.map(lambda tree: rebuild(tree, itertools.count())))
def test_rebuilding_from_the_leaves_changes_nothing(tree):
    assert repr(rebuild(tree, (leaf for _, leaf in walk(tree)))) == repr(tree)
    for path, leaf, same, nothing in walk(tree, tree, None):
        assert leaf == same and nothing is None, path


def test_rebuilding_keeps_the_kinds_of_containers_and_their_order():
    assert repr(rebuild({"b": (0, [0]), "a": [0]}, [1, 2, 3])) == repr({"b": (1, [2]), "a": [3]})


def test_walking_goes_along_the_first_structure():
    walked = walk({"b": [1, 2], "a": (3,)}, {"a": (["x", "y"],), "b": None})
    assert list(walked) == [("b/0", 1, None), ("b/1", 2, None), ("a/0", 3, ["x", "y"])]


# Immutability


def test_nothing_written_elsewhere_reaches_the_explanation():
    values, names = np.ones((2, 3)), {"features": ["a", "b", "c"]}
    window = values[:]
    window.flags.writeable = False  # read-only, but the memory belongs to a writable array
    for given_values in (values, window):
        e = build(given_values, names=names)
        values[:], names["features"][0] = 7, "z"
        assert (e.values == 1).all() and e.names["features"][0] == "a"
        values[:], names["features"][0] = 1, "a"


@QUICK
@given(explanations())
def test_no_array_can_be_written_to_even_in_copies(e):
    for one in (e, e[:1], e.sum(), copy.deepcopy(e), pickle.loads(pickle.dumps(e))):
        for field in dataclasses.fields(Explanation):
            if field.name not in module.RECORDS:
                for _, array in walk(getattr(one, field.name)):
                    assert array is None or not array.flags.writeable
    with pytest.raises(dataclasses.FrozenInstanceError):
        e.values = None


def test_large_arrays_are_not_copied(tmp_path):
    mapped = np.memmap(tmp_path / "values", np.float32, "w+", shape=(2, 3))
    mapped[:] = 1
    kept = np.ones((2, 3))
    kept.flags.writeable = False
    assert np.shares_memory(build(mapped).values, mapped) and not build(mapped).values.flags.writeable
    assert np.shares_memory(build(kept).values, kept)
    e = aumann.IntegratedGradients(lambda x: ops.sum(x**2, axis=1), rule=aumann.midpoint(2)).explain(mapped)
    assert np.shares_memory(e.inputs, mapped)
    view = kept.reshape(2, 1, 3)[:, 0]  # as the values of one target are made
    assert np.shares_memory(build(view).values, kept)
    assert not np.shares_memory(build(kept[:1]).values, kept)  # which would keep all of it alive


# Files


@QUICK
@given(explanations())
def test_a_file_gives_back_every_bit(e):
    with TemporaryDirectory() as folder:
        path = e.save(Path(folder) / "run.0.5")
        assert path.name == "run.0.5.npz" and [path] == list(Path(folder).iterdir())
        assert_same(load(path), e)
        assert_same(load(path.with_suffix("")), e)


def test_types_that_numpy_lacks_are_kept_exactly(tmp_path):
    ml_dtypes = pytest.importorskip("ml_dtypes")
    x = np.array([[1.5, -3.140625], [0.0, 1e30]]).astype(ml_dtypes.bfloat16)
    words = np.array([["naïve ", ""], ["日本", "x"]], dtype=object)
    e = build({"x": np.ones((2, 2)), "text": np.ones((2, 2))}, inputs={"x": x, "text": words})
    again = load(e.save(tmp_path / "e"))
    assert again.inputs["x"].dtype == np.float32 and (again.inputs["x"].astype(x.dtype) == x).all()
    assert again.inputs["text"].tolist() == words.tolist()


def test_the_file_reads_as_its_documentation_says(tmp_path):
    e = build({"b": np.ones((2, 3)), "a": np.zeros((2, 1))}, names={"targets": ["é"]}, provenance={"seed": 7})
    with zipfile.ZipFile(e.save(tmp_path / "e")) as archive:
        members = {name.removesuffix(".npy") for name in archive.namelist()}
        with archive.open("header.npy") as file:
            header = json.loads(np.lib.format.read_array(file, allow_pickle=False).tobytes().decode("utf-8"))
    page = (Path(__file__).parents[1] / "docs" / "format.md").read_text(encoding="utf-8")
    assert header["format"] == "aumann.Explanation" and header["version"] == 4
    assert header["fields"]["values"] == {"dict": [["b", "values.0"], ["a", "values.1"]]}
    assert header["fields"]["baseline"] is None and header["fields"]["prediction"] == "prediction"
    assert header["names"] == e.names and header["provenance"] == {"seed": 7}
    assert {"values.0", "values.1", "prediction", "header"} <= members
    assert all(f"`{word}`" in page for word in [*header, *header["fields"]])


def write_pickle(path):
    np.savez(path, header=np.array([{"format": npz.FORMAT}], dtype=object))


def write_header(header):
    return lambda path: np.savez(path, header=np.frombuffer(json.dumps(header).encode(), np.uint8))


FOREIGN = {
    "a pickle": write_pickle,
    "a pickle alone": lambda path: path.write_bytes(pickle.dumps({"format": npz.FORMAT})),
    "another npz": lambda path: np.savez(path, values=np.ones(3)),
    "another header": write_header({"format": "other", "version": 1}),
    "no format": write_header({}),
    "a list": write_header([1]),
    "a plain array": lambda path: np.save(path.open("wb"), np.ones(3)),
    "text": lambda path: path.write_text("values"),
    "nothing": lambda path: path.write_bytes(b""),
    "half a file": lambda path: path.write_bytes(build(np.ones((2, 3))).save(path).read_bytes()[:-300]),
}


@pytest.mark.parametrize("write", FOREIGN.values(), ids=FOREIGN)
def test_foreign_files_are_refused(write, tmp_path):
    write(tmp_path / "e.npz")
    with pytest.raises(ValueError, match=r"Expected a file written by Explanation.save; .*e\.npz is none \(.*\)\. Use"):
        load(tmp_path / "e")


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pickle_never_runs(tmp_path):
    e = build(np.ones((2, 3)))
    with np.load(e.save(tmp_path / "e")) as archive:
        arrays = dict(archive)
    arrays["prediction"] = np.array([Bomb(tmp_path / "ran")] * 2, dtype=object)
    np.savez(tmp_path / "e.npz", **arrays)
    with pytest.raises(ValueError, match="Expected a file"):
        load(tmp_path / "e.npz")
    assert not (tmp_path / "ran").exists()


def test_newer_versions_are_refused_by_name(tmp_path, monkeypatch):
    monkeypatch.setattr(npz, "VERSION", 5)
    path = build(np.ones((2, 3))).save(tmp_path / "e")
    monkeypatch.undo()
    with pytest.raises(ValueError, match=r"Expected version 4 .* has version 5\. Load it with"):
        load(path)
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "absent")


@pytest.mark.parametrize("fails", ["numpy.savez", "os.fsync", "os.replace"])
def test_a_failed_save_leaves_the_old_file_and_nothing_else(fails, tmp_path, monkeypatch):
    old, new = build(np.ones((2, 3))), build(np.zeros((2, 3)))
    path = old.save(tmp_path / "e")

    def fail(file, *_, **__):
        if hasattr(file, "write"):
            file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(fails, fail)
    with pytest.raises(OSError, match="disk full"):
        new.save(path)
    assert list(tmp_path.iterdir()) == [path]
    assert_same(load(path), old)


def test_a_save_into_no_folder_creates_none(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"Expected a folder .* is none\. Create it"):
        build(np.ones((2, 3))).save(tmp_path / "absent" / "e")
    assert not list(tmp_path.iterdir())


# Refusals

ONE = build(np.ones((2, 3)), names={"features": ["a", "b", "c"]})
TWO = build({"x": np.ones((2, 3)), "y": np.ones((2, 2, 2))})
REFUSED = {
    "prediction of rank 3": lambda: dataclasses.replace(ONE, prediction=np.ones((2, 1, 1))),
    "base value of another shape": lambda: dataclasses.replace(ONE, base_value=np.ones(3)),
    "evaluations of other rows": lambda: dataclasses.replace(ONE, evaluations=np.ones(3)),
    "values of other rows": lambda: dataclasses.replace(ONE, values=np.ones((3, 3))),
    "inputs of other rows": lambda: dataclasses.replace(ONE, inputs=np.ones((3, 3))),
    "baseline of other rows": lambda: dataclasses.replace(ONE, baseline=np.ones((3, 3))),
    "inputs of another structure": lambda: dataclasses.replace(TWO, inputs=[np.ones((2, 3)), np.ones((2, 3))]),
    "too few feature names": lambda: dataclasses.replace(ONE, names={"features": ["a", "b"]}),
    "names of unknown inputs": lambda: dataclasses.replace(TWO, names={"features": {"z": ["a"]}}),
    "too many target names": lambda: dataclasses.replace(ONE, names={"targets": ["a", "b"]}),
    "provenance that is not JSON": lambda: dataclasses.replace(ONE, provenance={"model": object()}),
    "provenance with infinity": lambda: dataclasses.replace(ONE, provenance={"tolerance": np.inf}),
    "objects": lambda: dataclasses.replace(ONE, inputs=np.array([[1, None, "a"]] * 2, dtype=object)),
    "no such axis": lambda: ONE.sum(1),
    "axis and groups": lambda: ONE.sum(0, groups={"g": ["a"]}),
    "overlapping groups": lambda: ONE.sum(groups={"g": ["a", "b"], "h": [1]}),
    "unknown member": lambda: ONE.sum(groups={"g": ["d"]}),
    "position beyond the end": lambda: ONE.sum(groups={"g": [3]}),
    "mask of another shape": lambda: ONE.sum(groups={"g": [True, False]}),
    "labels of another shape": lambda: ONE.sum(groups=np.array([0, 1])),
    "labels of the rows alone": lambda: build(np.ones((2, 3, 4))).sum(groups=np.array([0, 1])),
    "labels with axes to spare": lambda: ONE.sum(groups=np.zeros((2, 1, 3), int)),
    "masks that overlap in a row": lambda: ONE.sum(groups={"g": ["a"], "h": np.eye(2, 3, dtype=bool)}),
    "labels that are not integers": lambda: ONE.sum(groups=np.array([0.0, 1.0, 2.0])),
    "groups of unknown inputs": lambda: TWO.sum(groups={"z": {"g": [0]}}),
    "groups of no input": lambda: TWO.sum(groups={"x": None}),
    "rows along two axes": lambda: ONE[[[0, 1], [1, 0]]],
}


@pytest.mark.parametrize("attempt", REFUSED.values(), ids=REFUSED)
def test_refusals_say_what_was_expected_what_came_and_what_to_do(attempt):
    with pytest.raises((ValueError, TypeError), match=r"(?s)^Expected .+(received|;) .+\. [A-Z].+\.$"):
        attempt()


# Words


def test_html_escapes_every_name():
    evil = "<script>alert('&')</script>"
    e = build(
        {evil: np.ones((2, 2, 3))},
        several=True,
        names={"targets": [evil, "<b>"]},
        provenance={"rule": evil, "layer": "<i>"},
    )
    table = build(np.ones((2, 3)), names={"features": [evil, "<b>", "<i>"]})
    for text in (e._repr_html_(), table._repr_html_()):
        assert "&lt;script&gt;" in text and "alert(&#x27;&amp;&#x27;)" in text
        assert not any(tag in text for tag in ("<script", "<b>", "<i>"))


@QUICK
@given(explanations())
def test_descriptions_stay_short_for_any_explanation(e):
    assert len(repr(e).split("\n")) <= 12
    assert f"{len(e)} row" in repr(e) and f"{e.prediction.flat[0]:.4g}" in repr(e)
    assert e._repr_html_().count("<tr>") == 1 + min(5, e.prediction.size)
    assert len(repr(e[:0])) > 0


def test_long_explanations_say_how_much_is_hidden():
    e = build(np.ones((100, 7, 3)), several=True, names={"targets": ["a very long name indeed" * 9] * 7})
    assert "and 695 more" in repr(e) and len(repr(e).split("\n")) <= 12


def test_names_with_newlines_keep_a_table_in_its_lines():
    e = build(np.ones((3, 2, 3)), several=True, names={"targets": ["first\nname", "\n"], "rows": ["a\nb", "\r", ""]})
    lines = repr(e).split("\n")
    assert len(lines) == len(repr(build(np.ones((3, 2, 3)), several=True, names={"targets": ["a", "b"]})).split("\n"))
    assert sum("first name" in line for line in lines) >= 3


SHOWN = {
    "repr": repr,
    "HTML": lambda e: e._repr_html_(),
    "sum over an axis": lambda e: e.sum(axis=0),
    "sum of groups": lambda e: e.sum(groups=np.arange(3) // 2),
    "a row": lambda e: repr(e[0]),
    "DataFrame": lambda e: e.to_dataframe(),
}


@pytest.mark.parametrize("what", SHOWN)
def test_infinities_of_both_signs_raise_no_warning_of_numpy(what):
    values = np.ones((2, 3))
    values[0, 0], values[0, 1] = np.inf, -np.inf
    with np.errstate(invalid="ignore"):
        e = build(values, several=False)
    with np.errstate(invalid="raise"):
        SHOWN[what](e)


def test_labels_name_every_feature_of_a_row():
    assert feature_labels(["a", "b"], (2,)) == ["a", "b"]
    assert feature_labels(None, (2,)) == ["[0]", "[1]"]
    assert feature_labels(["a", "b"], (2, 1, 2)) == ["[a, 0, 0]", "[a, 0, 1]", "[b, 0, 0]", "[b, 0, 1]"]
    assert len(set(feature_labels(None, (3, 4, 2)))) == 24


def test_tables_are_made_for_explanations_without_names():
    text = as_text(build(np.ones((30, 2))))
    assert text.splitlines()[0].split() == ["row", "target", "prediction", "base", "value", "sum", "residual"]
    assert len(text.splitlines()) == 22 and text.endswith("… and 10 more")


# Other libraries


@QUICK
@given(explanations())
def test_a_dataframe_holds_every_value_and_adds_up(e):
    pd = pytest.importorskip("pandas")
    table = e.to_dataframe()
    features = table.iloc[:, :-3].to_numpy(float).sum(1)
    accounts = (table[name].to_numpy().ravel() for name in ("prediction", "base_value", "residual"))
    if isinstance(table.columns, pd.MultiIndex) or list(table.columns).count("prediction") == 1:
        prediction, base_value, residual = accounts
        np.testing.assert_allclose(features, prediction - base_value + residual, atol=1e-5)
    assert table.shape == (e.prediction.size, 3 + sum(map(math.prod, feature_shapes(e))))


def test_dataframes_are_indexed_by_names():
    pytest.importorskip("pandas")
    v = np.arange(12.0).reshape(2, 2, 3)
    several = build(v, True, names={"features": ["a", "b", "c"], "targets": ["cat", "dog"]}).to_dataframe()
    assert several.loc[(1, "cat"), "b"] == v[1, 0, 1] and several.index.names == ["row", "target"]
    both = build({"table": v[:, 0], "map": v}, names={"features": {"table": ["a", "b", "c"]}}).to_dataframe()
    assert both.loc[1, ("table", "c")] == v[1, 0, 2] and both.loc[0, ("map", "[1, 2]")] == v[0, 1, 2]


def test_shap_draws_base_plus_values_equal_to_the_prediction():
    shap = pytest.importorskip("shap")
    v = np.random.default_rng(0).normal(size=(3, 2, 5))
    e = build(v, True, names={"features": list("abcde"), "targets": ["cat", "dog"]})
    s = e.to_shap()
    assert isinstance(s, shap.Explanation) and s.values.shape == (3, 5, 2) and s.output_names == ["cat", "dog"]
    np.testing.assert_allclose(s.base_values + s.values.sum(1), e.prediction)
    one = s[:, :, "dog"]
    np.testing.assert_allclose(one.base_values + one.values.sum(1), e.prediction[:, 1])
    assert build(v[:, 0]).to_shap().base_values.shape == (3,)
    assert one.feature_names == list("abcde")


def test_shap_gets_images_channel_last_and_text_as_words():
    pytest.importorskip("shap")
    rng = np.random.default_rng(0)
    image = rng.normal(size=(2, 3, 8, 9))
    text, ids = rng.normal(size=(2, 4, 6)), np.array([[1, 0, 2, 2], [2, 1, 0, 5]])
    made = build({"image": image, "text": text}, inputs={"image": image, "text": ids}).to_shap(["no", "yes", "maybe"])
    assert made["image"].values.shape == made["image"].data.shape == (2, 8, 9, 3)
    np.testing.assert_allclose(made["text"].values, text.sum(-1))
    assert made["text"].data[1].tolist() == ["maybe ", "yes ", "no ", "5 "]


@QUICK
@given(explanations())
def test_a_dataset_keeps_values_and_names(e):
    pytest.importorskip("xarray")
    e = dataclasses.replace(e, names={})
    data = e.to_xarray()
    for path, value, inputs in walk(e.values, e.inputs):
        name = path.replace("/", ".") + "." * bool(path)
        np.testing.assert_array_equal(data[f"{name}values"], value)
        np.testing.assert_array_equal(data[f"{name}inputs"], inputs)
    assert json.loads(data.attrs["provenance"]) == e.provenance


def test_datasets_are_selected_by_name():
    pytest.importorskip("xarray")
    v = np.arange(12.0).reshape(2, 2, 3)
    data = build(v, True, names={"features": ["a", "b", "c"], "targets": ["cat", "dog"]}).to_xarray()
    assert data["values"].sel(target="dog", feature_0="b")[1] == v[1, 1, 1]
    assert data["inputs"].dims == ("row", "feature_0")


def test_an_explanation_loads_no_framework_and_no_tables():
    code = (
        "import sys, types; package = types.ModuleType('aumann'); package.__path__ = [sys.argv[1]];"
        "sys.modules['aumann'] = package; import aumann.explanation;"
        "print({'keras', 'tensorflow', 'jax', 'torch', 'pandas', 'matplotlib', 'shap', 'xarray'} & set(sys.modules))"
    )
    folder = str(Path(module.__file__).parent)
    found = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"


# ---- data stand only where they belong -----------------------------------------------------------------------------


def image(shape=(4, 4, 3)):
    """Every entry of the input is its own place, so that what is shown beside a value can be told."""
    data = np.arange(2 * math.prod(shape), dtype=float).reshape(2, *shape)
    return build(np.sin(data), inputs=data)


SUMS = {  # how values are summed, the input's shape, and what the data beside them are, or None
    "not at all": (lambda e: e, (3,), lambda x: x),
    "groups as many as features": (lambda e: e.sum(groups={"a": [2], "b": [0], "c": [1]}), (3,), None),
    "groups": (lambda e: e.sum(groups={"a": [2]}), (3,), None),
    "a sum over everything": (lambda e: e.sum(), (3,), None),
    "channels": (lambda e: e.sum(axis=-1), (4, 4, 3), lambda x: x),
    "channels that come first": (lambda e: e.sum(axis=0), (3, 4, 4), lambda x: np.moveaxis(x, 1, -1)),
    "columns of a square": (lambda e: e.sum(axis=0), (4, 4), None),
    "lines of a square": (lambda e: e.sum(axis=1), (4, 4), None),
    "groups as many as pixels": (lambda e: e.sum(axis=(1, 2)).sum(groups=np.array([3, 2, 1, 0])), (4, 4, 3), None),
}


@pytest.mark.parametrize("why", SUMS)
def test_data_stand_only_beside_their_own_values(why):
    pytest.importorskip("shap")
    summed, shape, beside = SUMS[why]
    whole = image(shape)
    e = summed(whole)
    made = e.to_shap()
    assert made.values.shape[0] == 2
    if beside is None:
        assert made.data is None
    else:
        np.testing.assert_array_equal(made.data, beside(whole.inputs))
    if len(shape) == 1:
        words = [t.get_text() for ax in e.plot().axes for t in ax.get_yticklabels()]
        assert any(" = " in word for word in words) == (beside is not None)
    pytest.importorskip("xarray")
    dataset = e.to_xarray()
    for place in np.ndindex(*shape):  # a coordinate that inputs and values share names the same place in both
        at = {d: i for d, i in zip(dataset["inputs"].dims[1:], place, strict=True)}
        shared = {d: i for d, i in at.items() if d in dataset["values"].dims}
        others = tuple(k for k, d in enumerate(dataset["inputs"].dims[1:], 1) if d not in shared)
        if shared:
            alone = dict(zip(dataset["inputs"].dims[1:], place, strict=True))
            index = tuple(slice(None) if k in others else alone[d] for k, d in enumerate(dataset["inputs"].dims[1:], 1))
            expected = np.sin(whole.inputs[(slice(None), *index)]).reshape(2, -1).sum(1)
            np.testing.assert_allclose(dataset["values"].isel(shared).values.reshape(2, -1).sum(1), expected)


def test_shap_draws_what_has_no_data():
    shap = pytest.importorskip("shap")
    import matplotlib.pyplot as plt

    e = build(np.array([[1.0, 2.0, -4.0], [0.5, 1.0, 2.0]]), names={"features": ["a", "b", "c"]})
    made = e.sum(groups={"x": ["c"], "y": ["a", "b"]}).to_shap()
    shap.plots.waterfall(made[0], show=False)
    shap.plots.bar(made, show=False)
    plt.close("all")
    assert made.feature_names == ["x", "y"]


def test_values_at_a_layer_have_no_data_of_the_input():
    from conftest import mlp

    model, x = mlp(features=5), np.random.default_rng(0).normal(size=(2, 5)).astype("float32")
    frame = pytest.importorskip("pandas").DataFrame(x, columns=list("abcde"))
    e = aumann.IntegratedGradients(model, layer=model.layers[0], rule=aumann.gauss_legendre(3)).explain(frame, 0)
    assert e.values.shape == x.shape and "features" not in e.names and e.names["axes"] == [None]
    assert not any(" = " in t.get_text() for ax in e.plot().axes for t in ax.get_yticklabels())
    with pytest.raises(ValueError, match="Explain the inputs rather than a layer"):
        aumann.metrics.deletion(aumann.IntegratedGradients(model), e, 0, by="signed")
