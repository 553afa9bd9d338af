"""The oracle by its parts: programs are kept by what they are for; a graph that brings its own vjp is explained."""

import dataclasses

import keras
import numpy as np
import pytest
from conftest import close, scatter
from keras import layers as L
from keras import ops

import aumann
from aumann.core.credits import share, slope
from aumann.core.paths import straight
from aumann.execution.batching import BatchTuner
from aumann.model.layers import find
from aumann.model.oracle import Oracle
from aumann.model.programs import Program, ProgramKey
from aumann.model.signature import Leaf, is_foreign

X = np.random.default_rng(2).normal(size=(5, 4)).astype("float32")
GAUSS = aumann.gauss_legendre(4)


def oracle(model=None, *layers, **options):
    model = model or network()
    sites = [find(model, layer) for layer in layers]
    return Oracle(model, None, [Leaf("x", X, "moves")], target_sites=sites, **options)


def network():
    x = L.Input((4,), name="x")
    h = L.Dense(5, "tanh", name="hidden")(x)
    return scatter(keras.Model(x, L.Dense(3, name="y")(h)))


def test_a_program_is_kept_by_what_it_is_for():
    programs = oracle().programs

    def f(y):
        return y[:, 0]

    same = programs.step((f,), (straight,), share, 2, True, False)
    assert programs.step((f,), (straight,), share, 2, True, False) is same
    others = [
        programs.step((), (straight,), share, 2, True, False),
        programs.step((f,), (straight,), slope, 2, True, False),
        programs.step((f,), (straight,), share, 1, True, False),
        programs.step((f,), (straight,), share, 2, False, False),
        programs.step((f,), (straight,), share, 2, True, True),
        programs.slopes((f,)),
        programs.outputs((f,)),
        programs.outputs(()),
    ]
    assert len({id(p) for p in [same, *others]}) == len(programs.compiled) == 9
    assert all(isinstance(p, Program) and isinstance(p.tuner, BatchTuner) for p in programs.compiled.values())
    assert programs.compiled[ProgramKey("outputs")] is programs.outputs()
    with pytest.raises(dataclasses.FrozenInstanceError):
        next(iter(programs.compiled)).name = "other"
    with pytest.raises(TypeError):
        programs.compiled[ProgramKey("other")] = same


def test_outputs_are_those_of_the_model_and_then_the_target_functions():
    o = oracle()
    moving, held = o.load([X])
    expected = keras.ops.convert_to_numpy(o.model(X))
    close(o.backend.host(o.programs.outputs()(moving, held)), expected)
    flat = o.backend.host(o.programs.outputs((lambda y: y[:, 0] - y[:, 1],))(moving, held))
    close(flat, np.concatenate([expected, expected[:, :1] - expected[:, 1:2]], axis=1))


def test_outputs_with_layers_held_see_nothing_of_what_leads_there():
    o = oracle(None, "hidden")
    moving, held = o.load([X])
    layers = o.programs.layer_values()(moving, held)
    elsewhere, _ = o.load([X + 1])
    program = o.programs.outputs_with_layers_held()
    close(o.backend.host(program(elsewhere, held, layers)), keras.ops.convert_to_numpy(o.model(X)))
    close(
        o.backend.host(program(moving, held, [0 * y for y in layers])), np.tile(host(o.model.layers[-1].bias), (5, 1))
    )


def host(variable):
    return keras.ops.convert_to_numpy(variable)


def test_slopes_are_the_gradients_of_the_targets():
    o = oracle(keras.Sequential([L.Input((4,)), L.Dense(3)]))
    moving, held = o.load([X])
    index = ops.convert_to_tensor(np.tile([[2, 0]], (5, 1)).astype("int32"))
    _, ((first, second),) = o.programs.slopes()(moving, held, index)
    kernel = host(o.model.layers[-1].kernel)
    close([o.backend.host(first), o.backend.host(second)], [np.tile(kernel[:, k], (5, 1)) for k in (2, 0)])


def test_what_is_known_is_told():
    o = oracle(None, "hidden")
    assert (o.moving, o.held, o.leaves_of_moving, o.shapes) == ([0], [], [0], [(4,)])
    assert (o.results, o.labels, o.by_name, o.repeats) == ([(5,)], ["hidden"], True, False)
    assert [x.name for x in o.outputs] == ["output"] and o.output_dtypes == ["float32"] and not o.several_outputs
    assert o.has_kinks() is False and not o.opaque and not o.hidden


# ---- a graph of another framework ------------------------------------------------------------------------------------


class Squares:
    """Σ a x² in NumPy, with its vjp: all that a graph of another framework has to bring."""

    def __init__(self, a):
        self.a = a

    def __call__(self, x):
        return ops.convert_to_tensor(keras.ops.convert_to_numpy(x) ** 2 @ self.a)

    def pull(self, points, cotangents):
        (x,), (c,) = (list(map(keras.ops.convert_to_numpy, xs)) for xs in (points, cotangents))
        return [ops.convert_to_tensor(2 * x * (c @ self.a.T))]


def test_an_object_that_brings_its_vjp_is_explained():
    a = np.random.default_rng(0).normal(size=(4, 2)).astype("float32")
    model = Squares(a)
    assert is_foreign(model) and not is_foreign(network()) and not is_foreign(lambda x: x)
    e = aumann.IntegratedGradients(model, rule=GAUSS).explain(X, "all")
    close(e.values, np.einsum("ni,ik->nki", X**2, a))
    e = aumann.IntegratedGradients(model, rule=GAUSS).explain(X, lambda y: y[:, 0] * y[:, 1], baseline=X)
    close(e.values, 0 * X)
    with pytest.raises(TypeError, match="differentiates twice, received a graph of another framework"):
        aumann.IntegratedHessians(model)


def test_the_oracles_of_an_explainer_are_kept_by_the_kind_of_their_inputs():
    explainer = aumann.IntegratedGradients(network(), rule=GAUSS)
    explainer.explain(X, 1)
    explainer.explain(X[:2], 0)
    (kept,) = explainer.oracles.values()
    explainer.explain(X.astype("float64"), 1)
    assert len(explainer.oracles) == 2 and kept in explainer.oracles.values()
    assert {key.name for key in kept.programs.compiled} == {"outputs", "step"}
