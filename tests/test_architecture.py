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

# Room -> the rooms that it imports from, no more and no fewer. A room is a folder, or a file beside the folders.
ARROWS = {
    "__init__": set("baselines core explain explanation methods metrics model plots transforms".split()),
    "__main__": {"cli"},
    "arguments": set(),
    "backends": {"core"},
    "baselines": set("arguments core features".split()),
    "bridges": {"features"},
    "cli": set("__init__ core execution report storage user_warnings".split()),
    "core": {"arguments"},
    "execution": {"arguments", "backends"},
    "explain": set("backends core execution explanation features model user_warnings".split()),
    "explanation": set("bridges features plots report storage".split()),
    "features": {"backends"},
    "methods": set("arguments backends core execution explain explanation features model user_warnings".split()),
    "metrics": set("arguments backends core explanation features model".split()),
    "model": set("backends core execution features".split()),
    "plots": {"features", "storage"},
    "report": {"features"},
    "storage": {"features"},
    "transforms": set("arguments explanation features storage".split()),
    "user_warnings": set(),
}


def files():
    """(dotted name, path) of every file of the package; a folder stands for its `__init__`."""
    for path in sorted(ROOT.rglob("*.py")):
        name = ".".join(("aumann", *path.relative_to(ROOT).with_suffix("").parts))
        yield name.removesuffix(".__init__"), path


def imported(path):
    """Absolute names of the modules that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


KNOWN = dict(files())


def file_of(name):
    """The file of the package that a dotted name lies in, or None."""
    while name and name not in KNOWN:
        name = name.rpartition(".")[0]
    return name or None


IMPORTS = {name: {file_of(n) for n in imported(path)} - {None, name} for name, path in KNOWN.items()}


def room(name):
    parts = name.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def test_imports_run_along_the_arrows():
    found = {}
    for name, others in IMPORTS.items():
        found.setdefault(room(name), set()).update({room(other) for other in others} - {room(name)})
    assert found == ARROWS


def test_no_file_imports_what_imports_it():
    done, way = set(), []

    def visit(name):
        assert name not in way, " → ".join([*way[way.index(name) :], name])
        if name not in done:
            way.append(name)
            for other in sorted(IMPORTS[name]):
                visit(other)
            done.add(way.pop())

    for name in IMPORTS:
        visit(name)


@pytest.mark.parametrize("name, path", list(KNOWN.items()), ids=list(KNOWN))
def test_frameworks_are_named_only_in_backends(name, path):
    named = {other.split(".")[0] for other in imported(path)} & FRAMEWORKS
    if room(name) == "backends":
        assert named <= {name.removeprefix("aumann.backends.").split("_")[0]}
    else:
        assert not named


PLAIN = ("collections.abc", "dataclasses", "functools", "itertools", "math", "time", "typing")


@pytest.mark.parametrize("name, path", list(KNOWN.items()), ids=list(KNOWN))
def test_warnings_point_at_the_line_of_the_user_in_one_way(name, path):
    text = path.read_text()
    assert name == "aumann.user_warnings" or not ("warnings.warn(" in text or "stacklevel" in text)


def test_the_core_computes_with_numpy_and_keras_ops_alone():
    for name, path in KNOWN.items():
        if room(name) == "core":
            outside = {n for n in imported(path) if not n.startswith(("numpy", "keras.ops", "aumann", "keras", *PLAIN))}
            assert not outside, name
            assert "keras.Model" not in path.read_text()


def public_arguments(path):
    """(where, argument, whether it has a type) of every public function and method of a file; `self` does not count."""

    def walk(node, where, inside_class):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ClassDef) and not child.name.startswith("_"):
                yield from walk(child, f"{where}{child.name}.", True)
            elif isinstance(child, ast.FunctionDef) and (
                not child.name.startswith("_") or child.name in ("__init__", "__call__", "__getitem__")
            ):
                static = any(isinstance(d, ast.Name) and d.id == "staticmethod" for d in child.decorator_list)
                listed = [*child.args.posonlyargs, *child.args.args][inside_class and not static :]
                starred = [a for a in (child.args.vararg, child.args.kwarg) if a is not None]
                for argument in (*listed, *child.args.kwonlyargs, *starred):
                    yield f"{where}{child.name}", argument.arg, argument.annotation is not None

    yield from walk(ast.parse(path.read_text()), "", False)


TYPES = 0.95  # share of the public arguments of a room that have types, at least


def test_public_arguments_have_types():
    rooms = {}
    for name, path in KNOWN.items():
        rooms.setdefault(room(name), []).extend((f"{name}: {where}", *rest) for where, *rest in public_arguments(path))
    for name, arguments in rooms.items():
        bare = [(where, argument) for where, argument, typed in arguments if not typed]
        assert len(bare) <= (1 - TYPES) * len(arguments), (name, bare)
    assert sum(map(len, rooms.values())) > 1000


def lines(node):
    return node.end_lineno - node.lineno + 1


@pytest.mark.parametrize("name, path", list(KNOWN.items()), ids=list(KNOWN))
def test_files_classes_and_functions_are_short(name, path):
    """So that each can be read at once."""
    text = path.read_text()
    assert len(text.splitlines()) <= 450
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
            assert lines(node) <= (300 if isinstance(node, ast.ClassDef) else 60), node.name


def test_public_names_are_the_list():
    assert aumann.__all__ == sorted(aumann.__all__)
    for name in aumann.__all__:
        assert getattr(aumann, name).__doc__, f"{name} has no docstring"
    named = {n for n in vars(aumann) if not n.startswith("_") and not isinstance(getattr(aumann, n), type(sys))}
    assert named | {"bases", "baselines", "metrics", "plots", "regions", "sequences"} == set(aumann.__all__)
    library = aumann.baselines
    assert library.__all__ == sorted(library.__all__)
    own = {
        n
        for n, x in vars(library).items()
        if not n.startswith("_") and getattr(x, "__module__", "").startswith(f"{library.__name__}.")
    }
    assert own | {"Weighted", "weighted"} == set(library.__all__)
    assert all(getattr(library, name).__doc__ for name in library.__all__)


@pytest.mark.slow
def test_import_takes_no_second_framework_no_plots_no_tables():
    """Beyond what `import keras` itself loads."""
    code = (
        "import sys, keras; before = {m.split('.')[0] for m in sys.modules}; import aumann; "
        "print(*({m.split('.')[0] for m in sys.modules} - before))"
    )
    out = subprocess.run([sys.executable, "-c", code], env=os.environ, capture_output=True, text=True, check=True)
    heavy = {"matplotlib", "pandas", "pywt", "ray", "scipy", "skimage", "sklearn", "tqdm", "xarray", "shap"}
    assert not set(out.stdout.split()) & (FRAMEWORKS | heavy)
