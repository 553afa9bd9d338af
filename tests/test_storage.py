"""What is written is whole or not there, and what strangers wrote is an explanation or one clear error."""

import os
import resource
import signal
import stat
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import mutations
import numpy as np
import pytest

import aumann
from aumann.storage import atomic


def small(number=1.0):
    return aumann.Explanation(
        values=np.full((1, 2), number), inputs=np.ones((1, 2)), prediction=[2 * number], base_value=[0.0],
        residual=[0.0], evaluations=[1],
    )  # fmt: skip


# ---- writing -------------------------------------------------------------------------------------------------------


def test_a_save_follows_a_link_and_keeps_the_mode(tmp_path):
    (tmp_path / "far").mkdir()
    real, link = small().save(tmp_path / "far" / "real.npz"), tmp_path / "link.npz"
    real.chmod(0o640)
    link.symlink_to(Path("far") / "real.npz")
    small(2.0).save(link)
    assert link.is_symlink() and stat.S_IMODE(real.stat().st_mode) == 0o640
    assert aumann.load(real).values[0, 0] == 2
    (tmp_path / "early.npz").symlink_to(tmp_path / "far" / "later.npz")  # a link to what is not there yet
    small(3.0).save(tmp_path / "early")
    assert aumann.load(tmp_path / "far" / "later").values[0, 0] == 3 and (tmp_path / "early.npz").is_symlink()
    assert {p.name for p in (tmp_path / "far").iterdir()} == {"real.npz", "later.npz"}


def test_a_new_file_has_the_mode_of_any_other(tmp_path):
    (tmp_path / "other").touch()
    assert small().save(tmp_path / "e").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_names_of_255_bytes(tmp_path):
    path = small().save(tmp_path / ("ä" * 125 + "b"))
    assert len(os.fsencode(path.name)) == 255 and list(tmp_path.iterdir()) == [path]


def test_what_is_no_file_is_not_replaced(tmp_path):
    (tmp_path / "e.npz").mkdir()
    with pytest.raises(IsADirectoryError, match=r"Expected a file to write; .* Give another"):
        small().save(tmp_path / "e")
    (tmp_path / "f.npz").symlink_to(tmp_path / "nowhere" / "f.npz")
    with pytest.raises(FileNotFoundError, match=r"Expected a link into a folder; .* Remove"):
        small().save(tmp_path / "f")


KILLED = """
import importlib.util, sys, time
spec = importlib.util.spec_from_file_location("storage", sys.argv[1])
storage = importlib.util.module_from_spec(spec)
spec.loader.exec_module(storage)
if sys.argv[3] == "file":
    with storage.replacing(sys.argv[2] + "/e.npz") as file:
        file.write(b"half")
        file.flush()
        print("there", flush=True)
        time.sleep(60)
with storage.all_or_nothing(sys.argv[2]) as folder:
    (folder / "e.npz").write_bytes(b"half")
    print("there", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("what", ["file", "folder"])
def test_what_a_killed_process_left_goes_with_the_next_save(tmp_path, what):
    command = [sys.executable, "-c", KILLED, atomic.__file__, str(tmp_path), what]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "there\n"
        (left,) = tmp_path.iterdir()
        small().save(tmp_path / "other")  # while it runs, what it writes is its own
        assert {left.name, "other.npz"} == {p.name for p in tmp_path.iterdir()}
        process.send_signal(signal.SIGKILL)
    assert left.exists()
    small().save(tmp_path / "e")
    assert {p.name for p in tmp_path.iterdir()} == {"e.npz", "other.npz"}


def test_hidden_files_of_others_stay(tmp_path):
    others = {".aumann-rc", ".aumann-cache", ".e.npz.0a1b2c3d", "aumann-0a1b2c3d.part"}
    for name in others:
        (tmp_path / name).touch()
    small().save(tmp_path / "e")
    assert {path.name for path in tmp_path.iterdir()} == others | {"e.npz"}


def test_results_come_together_or_not_at_all(tmp_path):
    (tmp_path / "b").write_text("old")
    (tmp_path / "real").write_text("old")
    (tmp_path / "a").symlink_to("real")
    for fails in (True, False):
        with pytest.raises(OSError) if fails else atomic.all_or_nothing(tmp_path) as folder:
            if fails:
                with atomic.all_or_nothing(tmp_path) as folder:
                    (folder / "a").write_text("new")
                    raise OSError
            (folder / "a").write_text("new")
            (folder / "b").write_text("new")
        assert (tmp_path / "real").read_text() == (tmp_path / "b").read_text() == ("old" if fails else "new")
        assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b", "real"] and (tmp_path / "a").is_symlink()


# ---- reading -------------------------------------------------------------------------------------------------------


def outcome(path):
    """ "loaded", or "refused" in three beats; anything else fails."""
    try:
        e = aumann.load(path)
    except ValueError as problem:
        assert str(problem).startswith("Expected ") and str(path) in str(problem) and str(problem).endswith(".")
        return "refused"
    repr(e)
    return "loaded"


def test_a_file_that_is_packed_or_of_an_older_version_still_loads(tmp_path):
    path = tmp_path / "e.npz"
    found = mutations.members(mutations.explanation(tmp_path))
    whole = aumann.load(tmp_path / "whole")
    for version in (1, 2, 3):
        text = mutations.text_of(found).replace('"version": 3', f'"version": {version}')
        if version < 3:
            text = text.replace(', "standard_error": null', "")
        if version < 2:
            text = text.replace(', "input_error": null', "")
        older = {**found, "header.npy": mutations.as_header(text)}
        for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            path.write_bytes(mutations.archive_of(older, method))
            e = aumann.load(path)
            assert (e.values["a"] == whole.values["a"]).all() and e.names == whole.names
            assert e.inputs["b"][0].tolist() == [["x"], ["yy"], [""]]


@pytest.mark.parametrize(
    "made, says",
    [
        (mutations.npy("'|S0'", "(2147483648,)"), "declares"),
        (mutations.npy("'<f8'", "(1073741824,)", bytes(64)), "declares"),
        (mutations.npy("'<f8'", "(0, 3)", bytes(64)), "declares"),
        (mutations.npy("'|O'", "(3,)", bytes(64)), "dtype 'object'"),
        (mutations.npy("[('a', '<f8')]", "(3,)", bytes(24)), "dtype"),
        (mutations.npy("'<U1'", "(3,)", b"\xff" * 12), "no character"),
        (mutations.npy("'|b1'", "(3,)", b"\x01\x07\x00"), "neither true nor false"),
        (mutations.npy("'<f8'", "(2,)", bytes(16), version=(3, 0)), "version"),
    ],
)
def test_a_member_that_declares_what_it_does_not_hold(tmp_path, made, says):
    found = mutations.members(mutations.explanation(tmp_path))
    (tmp_path / "e.npz").write_bytes(mutations.archive_of({**found, "inputs.0.npy": made}))
    with pytest.raises(ValueError, match=rf"Expected a file written by .*inputs\.0.*{says}"):
        aumann.load(tmp_path / "e")


def test_mutated_files_are_refused_or_right(tmp_path):
    found = [outcome(path) for _, path in mutations.explanations(tmp_path, 100)]
    assert found.count("refused") > 80


@pytest.mark.fuzz
def test_a_thousand_mutated_files(tmp_path):
    """Each in less than two seconds of the processor and 500 MB more than there were."""
    slowest, before = (0, ""), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for what, path in mutations.explanations(tmp_path, 1000, seed=1):
        start = time.process_time()
        outcome(path)
        slowest = max(slowest, (time.process_time() - start, what))
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(f"slowest {slowest[0]:.2f} s ({slowest[1]}); {grown:.0f} MB more at most")
    assert slowest[0] < 2 and grown < 500
