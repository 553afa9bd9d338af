"""A problem is frozen: nothing is written to it once it is made, whatever a method does."""

import ast
import dataclasses
import pathlib

import numpy as np
import pytest
import test_promises
from keras import tree

import aumann
from aumann.explain.problem import Problem
from aumann.explain.result import Result

model, x = test_promises.model, test_promises.x
SOURCES = sorted(pathlib.Path(aumann.__file__).parent.rglob("*.py"))


def arrays(problem):
    """Every array of a problem."""
    starts = [*problem.start_points.points, problem.start_points.weights, *problem.carried.points]
    columns = [a for c in problem.columns for a in (c.positions, c.choices) if a is not None]
    known = [] if problem.base_value is None else [problem.base_value]
    return [*problem.arrays, *starts, *columns, *known, *problem.input_space_baselines.values()]


@pytest.fixture
def made(monkeypatch):
    """Every problem that is made, with its attributes and copies of its arrays."""
    problems = []

    def remember(self, was=Problem.__post_init__):
        was(self)
        problems.append((self, dict(vars(self)), [np.array(a) for a in arrays(self)]))

    monkeypatch.setattr(Problem, "__post_init__", remember)
    return problems


def unchanged(made):
    assert made
    for problem, attributes, copies in made:
        assert vars(problem).keys() == attributes.keys()
        assert all(vars(problem)[name] is value for name, value in attributes.items())
        assert all(map(np.array_equal, arrays(problem), copies))


@pytest.mark.parametrize("row", test_promises.METHODS.values(), ids=test_promises.METHODS)
def test_no_method_writes_to_a_problem(row, model, x, made):
    row.on(model).explain(x, target="predicted", baseline=row.start(0.1))
    unchanged(made)


OTHERS = {
    "interactions": lambda m, x: aumann.IntegratedHessians(m).explain(x, target=[1, "predicted"], features=[0, 3]),
    "blur": lambda m, x: aumann.BlurIntegratedGradients(m).explain(x, target=1),
    "a path with waypoints": lambda m, x: aumann.IntegratedGradients(
        m, path={"number": aumann.Polyline(np.ones((2, 3)))}
    ).explain(x, target=1),
    "a tolerance": lambda m, x: aumann.SequentialIntegratedGradients(m).explain(
        x, target=1, baseline={"number": "fixed"}
    ),
    "draws": lambda m, x: aumann.Smooth(aumann.ExpectedGradients(m, samples=4), samples=2).explain(
        x, target=1, baseline=aumann.baselines.weighted(tree.map_structure(lambda a: a[:3], x))
    ),
    "a distribution": lambda m, x: aumann.Smooth(aumann.ExpectedGradients(m, samples=4), samples=2).explain(
        x, target=1, baseline=lambda rng, count: tree.map_structure(lambda a: rng.normal(size=(count, *a.shape[1:])), x)
    ),
    "predictions": lambda m, x: aumann.Saliency(m).predict(x, "predicted"),
    "classes": lambda m, x: aumann.Saliency(m).classes(x),
}


@pytest.mark.parametrize("why", OTHERS)
def test_nothing_else_writes_to_a_problem(why, model, x, made):
    OTHERS[why](model, x)
    unchanged(made)


@pytest.mark.parametrize("kind", [Problem, Result])
def test_they_are_frozen(kind):
    blank = object.__new__(kind)
    for name in (dataclasses.fields(kind)[0].name, "another"):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(blank, name, None)


def is_problem(node):
    return isinstance(node, ast.Name | ast.Attribute) and getattr(node, "id", getattr(node, "attr", "")) == "problem"


def written(tree):
    """Attributes that a module writes or deletes, and what it hands to functions that write or copy attributes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store | ast.Del):
            yield node.value
        if isinstance(node, ast.Call) and node.args and ast.unparse(node.func).split(".")[-1] in (
            "setattr", "delattr", "__setattr__", "vars", "copy", "deepcopy",
        ):  # fmt: skip
            yield node.args[0]


@pytest.mark.parametrize("path", SOURCES, ids=[str(p.relative_to(SOURCES[0].parent)) for p in SOURCES])
def test_no_code_writes_to_a_problem(path):
    module = ast.parse(path.read_text())
    assert not [ast.unparse(node) for node in written(module) if is_problem(node)]
    for node in ast.walk(module):  # by which the above knows one
        if isinstance(node, ast.arg) and node.annotation and ast.unparse(node.annotation) == "Problem":
            assert node.arg == "problem"
