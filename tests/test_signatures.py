"""Every option of every method stands in its signature and is explained in its docstring."""

import dataclasses
import inspect

import pytest

import aumann
from aumann.execution.options import ExecutionOptions
from aumann.methods.base import Method
from aumann.methods.signatures import Execution, arguments

PUBLIC = {name: getattr(aumann, name) for name in aumann.__all__}
METHODS = {n: c for n, c in PUBLIC.items() if inspect.isclass(c) and issubclass(c, Method)}
EXECUTION = [f.name for f in dataclasses.fields(ExecutionOptions)]
WITH_EXPLAIN = {**METHODS, "Smooth": aumann.Smooth}


def explained(function):
    """Asserts that a function names every parameter and explains each."""
    names = [n for n in inspect.signature(function).parameters if n != "self"]
    kinds = {p.kind for p in inspect.signature(function).parameters.values()}
    assert not kinds & {inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL}
    told = arguments(function.__doc__)
    assert set(names) <= set(told), f"{function} does not explain {set(names) - set(told)}"
    return names


def test_the_methods_are_all_there():
    assert len(METHODS) == 14 and METHODS["IntegratedHessians"]


@pytest.mark.parametrize("name", METHODS)
def test_a_method_names_and_explains_every_option(name):
    names = explained(METHODS[name])
    assert names[0] == "model" and names[-4:] == EXECUTION


@pytest.mark.parametrize("name", WITH_EXPLAIN)
def test_explain_explains_every_argument(name):
    explained(WITH_EXPLAIN[name].explain)


@pytest.mark.parametrize("function", [aumann.Smooth, aumann.attribution])
def test_other_ways_to_explain_do_too(function):
    explained(function)


def test_the_keywords_have_one_list():
    assert list(Execution.__annotations__) == EXECUTION


def test_an_option_is_explained_once_in_the_words_of_the_class_itself():
    text = aumann.Conductance.__doc__
    assert text.count("\n    layer:") == 1 and "aumann.input_of(layer)" in arguments(text)["layer"]
    assert text.index("Args:") < text.index("    batch_size: nodes per model call") < text.index("Source:")


def test_a_class_of_the_user_is_left_as_it_is():
    class Mine(aumann.IntegratedGradients):
        def __init__(self, model, *, mine=1, **options):
            super().__init__(model, **options)

    assert list(inspect.signature(Mine).parameters) == ["model", "mine", "options"] and Mine(abs, batch_size=3)
