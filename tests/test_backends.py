"""The three backends offer one table of functions with one signature: `aumann.backends.Backend`, read from the source.

The source is parsed, so that the test needs no framework but the running one; mypy compares the types.
"""

import ast
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from aumann import backends

if TYPE_CHECKING:
    from aumann.backends import Backend, jax, tensorflow, torch

    jax_offers: Backend = jax
    tensorflow_offers: Backend = tensorflow
    torch_offers: Backend = torch

FOLDER = Path(backends.__file__).parent
NAMES = "jax", "tensorflow", "torch"


def parsed(module):
    return ast.parse((FOLDER / f"{module}.py").read_text()).body


def functions(module):
    """{name: definition} of the public functions of a module, those included that it imports as themselves."""
    found = {}
    for node in parsed(module):
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
            found[node.name] = node
        elif isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if alias.asname == alias.name:
                    found[alias.name] = functions(node.module.rpartition(".")[2])[alias.name]
    return found


def constants(module):
    """Names of the constants of a module, with or without a type."""
    single = [n.target for n in parsed(module) if isinstance(n, ast.AnnAssign)]
    several = [target for n in parsed(module) if isinstance(n, ast.Assign) for target in n.targets]
    return {n.id for target in single + several for n in ast.walk(target) if isinstance(n, ast.Name)}


(TABLE,) = (n for n in parsed("__init__") if isinstance(n, ast.ClassDef) and n.name == "Backend")
METHODS = {n.name: n for n in TABLE.body if isinstance(n, ast.FunctionDef)}


def signature(node):
    """Names and types of the arguments, which of them have defaults, and the type of the result."""
    a = node.args
    names = [(x.arg, x.annotation and ast.unparse(x.annotation)) for x in (*a.posonlyargs, *a.args, *a.kwonlyargs)]
    several = a.vararg and (a.vararg.arg, ast.unparse(a.vararg.annotation)), a.kwarg and a.kwarg.arg
    result = node.returns and ast.unparse(node.returns)
    if [ast.unparse(d) for d in node.decorator_list] == ["contextlib.contextmanager"]:
        assert result == "Iterator[None]"
        result = "AbstractContextManager"
    return [x for x in names if x[0] != "self"], several, len(a.defaults), result


@pytest.mark.parametrize("name", NAMES)
def test_functions_are_those_of_the_table(name):
    offered = functions(name)
    assert set(offered) == set(METHODS)
    for function, node in METHODS.items():
        assert signature(offered[function]) == signature(node), function


@pytest.mark.parametrize("name", NAMES)
def test_constants_are_those_of_the_table(name):
    assert {n.target.id for n in TABLE.body if isinstance(n, ast.AnnAssign)} <= constants(name)


def test_every_function_of_the_table_says_what_it_does():
    assert all(ast.get_docstring(node) for node in METHODS.values())


def test_each_backend_is_divided_alike():
    """Who knows the files of one backend finds his way in the others; torch traces nothing, and follows no axes."""
    for name in NAMES:
        parts = {path.stem.removeprefix(f"{name}_") for path in FOLDER.glob(f"{name}_*.py")}
        assert {"private", "rules", "secants", "survey"} <= parts
        assert parts - {"private", "rules", "secants", "survey"} <= {"rows", "inductor"}


def test_the_running_backend_has_the_table():
    active = backends.active()
    assert all(callable(getattr(active, function)) for function in METHODS)
