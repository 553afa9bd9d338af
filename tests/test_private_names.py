"""Names that the running framework does not promise to keep: each is there, and what is said of its absence is so.

After an upgrade these tests tell which name is gone; everything else then fails or falls back as its module says.
"""

import ast
import importlib
from pathlib import Path

import keras
import numpy as np
import pytest
from conftest import BACKEND, close
from keras import layers, ops

import aumann
from aumann import backends
from aumann.backends import private

names = importlib.import_module(f"aumann.backends.{BACKEND}_private")
NAMES = {x.path: x for x in vars(names).values() if isinstance(x, private.PrivateName)}
ATTRIBUTES = {x.path: x for x in vars(names).values() if isinstance(x, private.PrivateAttribute)}

x = np.random.default_rng(0).normal(size=(2, 4)).astype("float32")


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(0)
    return keras.Sequential([layers.Input((4,)), layers.Dense(6, "relu"), layers.Dense(3, "tanh"), layers.Dense(2)])


def explained(model, rule, **options):
    return aumann.IntegratedGradients(model, rule=rule, batch_size=8, **options).explain(x, target=0).values


def missing(monkeypatch, path):
    """Every place that asks for the name is told that it is gone."""
    if path in ATTRIBUTES:
        monkeypatch.setattr(ATTRIBUTES[path], "attribute", "gone")
    else:
        monkeypatch.setattr(NAMES[path], "value", None)


def before(version, since):
    return [int(n) for n in version.split("+")[0].split(".")[:2]] < [int(n) for n in since.split(".")]


@pytest.mark.parametrize("path", NAMES)
def test_the_name_is_there(path):
    name, version = NAMES[path], importlib.import_module(path.split(".")[0]).__version__
    if name.since and before(version, name.since):
        pytest.skip(f"came with {name.since}")
    assert name.value is not None, f"{path} is gone in {version}. {name.without}."


def test_a_name_that_is_gone_is_none_wherever_its_path_ends():
    assert private.look_up("keras.ops.gone") is None
    assert private.look_up("keras.gone.matmul") is None
    assert private.look_up("no_such_framework.matmul") is None
    assert private.look_up("keras.ops.matmul") is ops.matmul


def test_the_error_has_three_beats():
    name = private.PrivateName("keras.ops.gone", "1.0", "Choose another function")
    with pytest.raises(RuntimeError) as raised:
        _ = name.required
    expected = "Expected `keras.ops.gone`, which keras 1.0 has; received keras ", "Choose another function, or install"
    assert all(part in str(raised.value) for part in expected)


FILES = sorted(Path(aumann.__file__).parent.rglob("*.py"))
SHORT = {"tf": "tensorflow", "F": "torch.nn.functional", "lax": "jax.lax"}


def unpromised(path):
    """Dotted names of a file that begin with a framework and pass through what it keeps to itself."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            dotted = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            dotted = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Attribute):
            dotted = [ast.unparse(node)]
        else:
            continue
        for name in dotted:
            first, *others = name.split(".")
            first, *inner = SHORT.get(first, first).split(".")
            inner += [*others]
            private_part = any(part.startswith("_") and not part.startswith("__") for part in inner)
            if first in ("jax", "tensorflow", "torch") and (
                private_part or inner[:1] in (["extend"], ["python"]) or inner[:2] == ["core", "framework"]
            ):
                yield name


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_no_other_file_uses_such_a_name(path):
    assert path.stem.endswith("_private") or not list(unpromised(path))


# ---- what happens without each name: (monkeypatched backend, model) -> asserts ---------------------------------------


def derivatives_only(path, monkeypatch, model):
    """Secants are refused with advice, and the advice works."""
    expected = explained(model, aumann.gauss_legendre(4))
    missing(monkeypatch, path)
    with pytest.raises(RuntimeError, match="gauss_legendre") as raised:
        explained(model, aumann.secant(4))
    assert path in str(raised.value)
    close(explained(model, aumann.gauss_legendre(4)), expected)


def same_values(path, monkeypatch, model):
    expected = explained(model, aumann.secant(4))
    missing(monkeypatch, path)
    close(explained(model, aumann.secant(4)), expected)


def kinks(f):
    return backends.active().has_kinks(lambda points: f(points[0]), [ops.zeros((1, 4))], ())


def kinks_are_not_looked_for(path, monkeypatch, model):
    assert kinks(ops.relu) is True
    missing(monkeypatch, path)
    assert kinks(ops.relu) is None


def inductor_is_refused(path, monkeypatch, model):
    missing(monkeypatch, path)
    with pytest.raises(RuntimeError, match='Choose compile="eager"') as raised:
        explained(model, aumann.gauss_legendre(4), compile="inductor")
    assert path in str(raised.value)


def older_switches(path, monkeypatch, model):
    import torch

    missing(monkeypatch, path)
    switch, asked = torch.backends.cudnn.allow_tf32, []
    for precision in ("tf32", "full"):
        with backends.active().arithmetic(precision):
            asked.append((torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32))
    assert asked == [("high", True), ("highest", False)]
    assert torch.backends.cudnn.allow_tf32 == switch


def branches_are_hidden(path, monkeypatch, model):
    import tensorflow as tf

    def f(x):
        return tf.cond(tf.reduce_sum(tf.ones_like(x)) > 0, lambda: tf.nn.relu(x), lambda: x)

    assert kinks(f) is True
    missing(monkeypatch, path)
    assert kinks(f) is None


def calls_are_hidden(path, monkeypatch, model):
    import tensorflow as tf

    f = tf.function(tf.nn.tanh, autograph=False)
    assert kinks(f) is False
    missing(monkeypatch, path)
    assert kinks(f) is None


def loop(x):
    import tensorflow as tf

    return tf.while_loop(lambda i, y: i < 2, lambda i, y: (i + 1, tf.nn.relu(y - 0.1)), [0, x], maximum_iterations=2)[1]


def loops_at_the_left_end(path, monkeypatch, model):
    """The relu of the second node is open, that of the first is not: a secant is half open."""

    def slope():
        import tensorflow as tf

        points = tf.reshape(tf.constant([-1.0, 1.4, 1.4]), (3, 1))
        run = tf.function(lambda p: backends.active().secants(lambda points: loop(points[0]), [p]), autograph=False)
        return run(points)[1][0][0].numpy()[0, 0]

    assert 0 < slope() < 1
    missing(monkeypatch, path)
    assert slope() == 0


def loops_are_seen(path, monkeypatch, model):
    assert kinks(loop) is True
    missing(monkeypatch, path)
    assert kinks(loop) is True


def traced_twice(path, monkeypatch, model):
    def velocity():
        ones = ops.ones((2, 4))
        return backends.active().jvp(lambda points: [ops.tanh(points[0])], [ops.convert_to_tensor(x)], [ones])[1]

    expected = velocity()
    missing(monkeypatch, path)
    close([np.asarray(v) for v in velocity()], [np.asarray(v) for v in expected])


def told_by_the_class(path, monkeypatch, model):
    import jax

    missing(monkeypatch, path)
    seen = []
    jax.jit(lambda x: seen.append(backends.active().symbolic(x)) or x)(x)
    jax.grad(lambda x: seen.append(backends.active().symbolic(x)) or x.sum())(x)
    assert seen == [True, True] and not backends.active().symbolic(jax.numpy.ones(2))


def floats_of_a_thread(path, monkeypatch, model):
    import jax

    def dtypes():
        for wide in (True, False):
            with names.enable_x64(wide):
                yield str(jax.numpy.ones(2).dtype)

    assert list(dtypes()) == ["float64", "float32"]
    missing(monkeypatch, path)
    monkeypatch.setattr(jax.experimental, "enable_x64", None, raising=False)
    assert list(dtypes()) == [str(jax.numpy.ones(2).dtype)] * 2


WITHOUT = {
    "torch.utils._pytree.tree_flatten": derivatives_only,
    "torch.utils._pytree.tree_unflatten": derivatives_only,
    "torch._C.DisableTorchFunction": derivatives_only,
    "torch._C._functorch.maybe_current_level": derivatives_only,
    "torch.autograd.Variable._execution_engine.run_backward": derivatives_only,
    "torch.utils._python_dispatch.TorchDispatchMode": kinks_are_not_looked_for,
    "torch._C._DisableTorchDispatch": kinks_are_not_looked_for,
    "torch.utils._python_dispatch.is_in_torch_dispatch_mode": same_values,
    "torch._C._autograd._top_saved_tensors_default_hooks": same_values,
    "torch._C._nn": same_values,
    "torch.UntypedStorage._cdata": same_values,
    "torch.fx.experimental.proxy_tensor.make_fx": inductor_is_refused,
    "torch._inductor.compile": inductor_is_refused,
    "torch._C._get_fp32_precision_getter": older_switches,
    "torch._C._set_fp32_precision_setter": older_switches,
    "tensorflow.Operation._set_attr": derivatives_only,
    "tensorflow.python.framework.ops._gradient_registry": derivatives_only,
    "tensorflow.python.ops.cond_v2.get_func_graphs": branches_are_hidden,
    "tensorflow.python.ops.control_flow_util_v2.get_func_graph": calls_are_hidden,
    "tensorflow.Operation._body_graph": loops_at_the_left_end,
    "tensorflow.Operation._cond_graph": loops_are_seen,
    "jax.extend.core.jaxpr_as_fun": traced_twice,
    "jax.core.Tracer": told_by_the_class,
    "jax.enable_x64": floats_of_a_thread,
}


def test_what_happens_without_a_name_is_tested_for_each():
    assert {path for path in WITHOUT if path.startswith(BACKEND)} == {*NAMES, *ATTRIBUTES}


@pytest.mark.parametrize("path", [*NAMES, *ATTRIBUTES])
def test_without_it(path, monkeypatch, model):
    WITHOUT[path](path, monkeypatch, model)


# ---- names of JAX's primitives ---------------------------------------------------------------------------------------


def primitives_of(f):
    import jax

    def visit(jaxpr):
        for eqn in jaxpr.eqns:
            yield eqn
            for inner in jax.tree.leaves(list(eqn.params.values()), is_leaf=lambda v: hasattr(v, "eqns")):
                if hasattr(inner, "eqns"):
                    yield from visit(getattr(inner, "jaxpr", inner))

    return list(visit(jax.make_jaxpr(f)(x).jaxpr))


@pytest.mark.skipif(BACKEND != "jax", reason="names of primitives are JAX's")
def test_primitives_that_nest_have_the_names_that_are_known():
    import jax
    from jax import lax, numpy

    @jax.custom_vjp
    def backward_only(x):
        return numpy.tanh(x)

    backward_only.defvjp(lambda x: (numpy.tanh(x), x), lambda x, c: (c,))

    def named(name, f):
        return [e for e in primitives_of(f) if name in e.primitive.name]

    for f in jax.jit(numpy.tanh), jax.nn.relu, jax.checkpoint(numpy.tanh):
        bodies = [names.body(e) for e in primitives_of(f) if names.body(e) is not None]
        assert bodies and all(hasattr(b, "jaxpr") and hasattr(b, "consts") for b in bodies)
    assert [e for e in primitives_of(backward_only) if names.opaque_body(e) is not None]
    (loop,) = named(names.LOOP, lambda x: lax.scan(lambda c, row: (c + row, c), x[0], x))
    assert {"jaxpr", "num_consts", "num_carry", "length", "reverse", "unroll"} <= set(loop.params)
    (branch,) = named(names.BRANCH, lambda x: lax.cond(x.sum() > 0, numpy.tanh, numpy.sin, x))
    assert "branches" in branch.params
    assert named(names.CUSTOM_LIN, lambda x: jax.jvp(backward_only, (x,), (x,))[1])
    assert named(names.STOP, lambda x: lax.stop_gradient(x) * x)


@pytest.mark.skipif(BACKEND != "jax", reason="names of primitives are JAX's")
def test_operations_in_the_tables_are_primitives_that_there_are():
    from jax.extend.core import primitives

    from aumann.backends import jax_rules

    known = {getattr(p, "name", None) for p in vars(primitives).values()}
    assert known >= jax_rules.SMOOTH | jax_rules.SELECTIONS | jax_rules.STEPS
    assert len(jax_rules.AFFINE - known) < 8  # those that came or went between versions
