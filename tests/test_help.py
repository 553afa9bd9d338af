"""What `dir`, `help`, an editor and a type checker show of the package."""

import ast
import inspect
import pathlib
import pydoc
import re
import tomllib

import numpy as np
import pytest

import aumann

PACKAGE = pathlib.Path(aumann.__file__).parent
METHODS = ("plot", "save", "sum", "to_dataframe", "to_shap", "to_xarray")


@pytest.fixture(scope="module")
def explanation():
    one = np.ones(1)
    arrays = {"values": np.ones((1, 3)), "inputs": np.ones((1, 3)), "residual": np.full(1, 2.0)}
    return aumann.Explanation(prediction=one, base_value=np.zeros(1), evaluations=one, **arrays)


def test_dir_shows_every_public_name():
    assert dir(aumann) == aumann.__all__


def test_editors_find_every_public_name_where_it_is_defined():
    """They read imports, not `__getattr__`."""
    listed = {}
    for node in ast.walk(ast.parse((PACKAGE / "__init__.py").read_text())):
        if isinstance(node, ast.ImportFrom):
            listed |= {alias.name: node.module for alias in node.names}
    assert set(listed) == set(aumann.__all__)
    for name, module in listed.items():
        defined = getattr(aumann, name)
        home = defined.__name__ if inspect.ismodule(defined) else f"{defined.__module__}.{name}"
        assert home == f"{module}.{name}"


@pytest.mark.parametrize("name", METHODS)
def test_help_lists_every_option_with_its_meaning(explanation, name):
    method = getattr(explanation, name)
    signature, text = inspect.signature(method, eval_str=False), pydoc.render_doc(method, renderer=pydoc.plaintext)
    assert signature.return_annotation is not inspect.Signature.empty
    for option in signature.parameters.values():
        assert option.kind not in (option.VAR_POSITIONAL, option.VAR_KEYWORD), option
        assert option.annotation is not option.empty, option
        assert re.search(rf"^ +{option.name}: ", text, re.M), f"{name} does not say what {option.name} is"


def test_type_checkers_read_the_types_of_the_package():
    assert (PACKAGE / "py.typed").is_file()
    pyproject = tomllib.loads((PACKAGE.parent.parent / "pyproject.toml").read_text())
    assert "py.typed" in pyproject["tool"]["setuptools"]["package-data"]["aumann"]
