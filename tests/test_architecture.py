"""The arrows of docs/architecture.md, the list of public names, and what an import may cost."""

import ast
import os
import pathlib
import subprocess
import sys

import pytest

import aumann

ROOT = pathlib.Path(aumann.__file__).parent
FRAMEWORKS = {"tensorflow", "jax", "torch", "pytensor"}

# Room -> the rooms it may import from, at any depth of its code. Imports run one way.
ARROWS = {
    "core": set(),
    "core.rules": set(),
    "core.paths": set(),
    "core.targets": set(),
    "core.baselines": set(),
    "core.credits": set(),
    "core.engine": {"core.credits"},
    "core.secant": set(),
    "core.refinement": {"core.engine", "core.rules"},
    "intercept": set(),
    "progress": set(),
    "warned": set(),
    "storage": set(),
    "explanation": {"plots", "storage", "tables"},
    "plots": {"explanation", "storage"},
    "regions": {"explanation"},
    "bases": {"explanation"},
    "sequences": {"explanation", "storage"},
    "backends": {"core"},
    "units": set(),
    "embedding_inputs": {"core", "intercept"},
    "oracle": {"backends", "conversion", "core", "embedding_inputs", "intercept", "running", "units"},
    "tables": set(),
    "conversion": {"backends", "tables"},
    "inputs": {"conversion", "core", "oracle", "tables"},
    "call": set("backends core explanation independence inputs oracle progress starts tables warned".split()),
    "independence": {"backends", "core", "oracle", "warned"},
    "starts": {"conversion", "core", "inputs", "oracle", "tables"},
    "interactions": {"call", "core", "explanation", "methods", "warned"},
    "methods": {"backends", "call", "core", "devices", "inputs", "intercept", "places", "prefix", "running"},
    "running": {"backends"},
    "devices": {"backends"},
    "core.pace": set(),
    "prefix": {"core", "intercept", "oracle"},
    "priors": {"backends", "core", "oracle"},
    "metrics": {"metrics"},
    "metrics.maps": {"explanation"},
    "metrics.probe": {"core", "explanation", "inputs", "metrics.maps", "tables"},
    "metrics.removal": {"metrics.maps", "metrics.probe"},
    "metrics.perturbation": {"metrics.maps", "metrics.probe", "metrics.removal"},
    "metrics.information": set("explanation metrics.maps metrics.perturbation metrics.probe metrics.removal ".split()),
    "metrics.randomization": {"backends", "explanation", "metrics.maps", "metrics.probe"},
    "files": {"storage", "warned"},
    "demo": {"__init__", "storage"},
    "cli": {"__init__", "core", "demo", "explanation", "files", "inputs", "storage"},
    "baselines": {"conversion", "core", "tables"},
    "__init__": set(
        "baselines bases call core expected explanation independence interactions "
        "methods metrics places priors regions sequences smooth".split()
    ),
    "__main__": {"cli"},
    "places": {"intercept", "oracle"},
    "layers": {"core", "methods", "places"},
    "core.spread": set(),
    "expected": {"core", "methods", "tables"},
    "smooth": {"call", "core", "explanation", "inputs", "methods", "progress", "tables", "warned"},
    "guided": {"core", "methods"},
    "sequential": {"core", "methods"},
}


def rooms():
    """(name of the room, path) of every file of the package."""
    for path in sorted(ROOT.rglob("*.py")):
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        yield (name.removesuffix(".__init__") if name != "__init__" else name), path


def imported(path):
    """Absolute names of the modules that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def inner(name, known):
    """The room that an import of `aumann…` enters, or None."""
    if name != "aumann" and not name.startswith("aumann."):
        return None
    parts = name.split(".")[1:]
    for depth in (2, 1):
        room = ".".join(parts[:depth])
        if room in known:
            return room
    return "__init__"


@pytest.mark.parametrize("room, path", list(rooms()), ids=lambda x: x if isinstance(x, str) else "")
def test_imports_run_one_way(room, path):
    family = room.split(".")[0]
    entry = family if family == "backends" else room
    assert entry in ARROWS, f"a new room: add {room} and its arrows here and in docs/architecture.md"
    known = {name for name, _ in rooms()}
    names = set(imported(path))
    # `from aumann import backends` enters backends, and only a name of the package itself enters __init__.
    targets = {inner(n, known) for n in names if n != "aumann" or not any(m.startswith("aumann.") for m in names)}
    for target in targets - {None, room, "core"}:
        allowed = {target, target.split(".")[0]} & (ARROWS[entry] | ({"backends"} if family == "backends" else set()))
        assert allowed, f"{room} may not import {target}"


@pytest.mark.parametrize("room, path", list(rooms()), ids=lambda x: x if isinstance(x, str) else "")
def test_frameworks_are_named_only_in_backends(room, path):
    named = {name.split(".")[0] for name in imported(path)} & FRAMEWORKS
    if room.startswith("backends."):
        assert named <= {room.removeprefix("backends.").split("_")[0]}
    else:
        assert not named


PLAIN = set(
    "dataclasses functools itertools math time typing typing.Any collections.abc collections.abc.Callable".split()
)


def test_the_core_computes_with_numpy_and_keras_ops_alone():
    for room, path in rooms():
        if room.startswith("core."):
            outside = {n for n in imported(path) if not n.startswith(("numpy", "keras.ops", "aumann", "keras"))}
            assert outside <= {f"dataclasses.{n}" for n in ("dataclass", "replace")} | PLAIN, room
            assert "keras.Model" not in path.read_text()


def test_public_names_are_the_list():
    assert aumann.__all__ == sorted(aumann.__all__)
    for name in aumann.__all__:
        assert getattr(aumann, name).__doc__, f"{name} has no docstring"
    named = {n for n in vars(aumann) if not n.startswith("_") and not isinstance(getattr(aumann, n), type(sys))}
    assert named | {"bases", "baselines", "metrics", "regions", "sequences"} == set(aumann.__all__)
    library = aumann.baselines
    assert library.__all__ == sorted(library.__all__)
    own = {
        n
        for n, x in vars(library).items()
        if not n.startswith("_") and getattr(x, "__module__", "") == library.__name__
    }
    assert own | {"Weighted", "weighted"} == set(library.__all__)
    assert all(getattr(library, name).__doc__ for name in library.__all__)


def test_import_takes_no_second_framework_no_plots_no_tables():
    """Beyond what `import keras` itself loads."""
    code = (
        "import sys, keras; before = {m.split('.')[0] for m in sys.modules}; import aumann; "
        "print(*({m.split('.')[0] for m in sys.modules} - before))"
    )
    out = subprocess.run([sys.executable, "-c", code], env=os.environ, capture_output=True, text=True, check=True)
    heavy = {"matplotlib", "pandas", "pywt", "ray", "scipy", "skimage", "sklearn", "tqdm", "xarray", "shap"}
    assert not set(out.stdout.split()) & (FRAMEWORKS | heavy)
