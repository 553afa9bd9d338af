"""One backend for each test process, one table of tolerances, and references that share no code with the library.

The backend is the one in KERAS_BACKEND; one that was asked for must load, or the run fails. Warnings that `aumann`
raises are errors: a test that expects one says so with `pytest.warns`.
"""

import contextlib
import gc
import importlib
import os
import random

import keras
import numpy as np
import pytest
from keras import tree

import aumann

BACKEND = keras.config.backend()

# Largest error allowed, relative to the largest number compared, by the dtype that the model computes in: a few dozen
# roundings of a sum. Half precision rounds every activation, so only a part of the mantissa survives a network.
TOLERANCE = {"float64": 1e-12, "float32": 2e-5, "float16": 1e-2, "bfloat16": 6e-2}


def pytest_configure(config):
    asked = os.environ.get("KERAS_BACKEND", BACKEND)
    if asked != BACKEND:
        raise pytest.UsageError(f"KERAS_BACKEND asks for {asked}, and Keras runs on {BACKEND}.")
    framework = importlib.import_module(BACKEND)
    if BACKEND == "jax":  # a test compiles each model for microseconds of work: unoptimised takes half the time
        framework.config.update("jax_disable_most_optimizations", True)
        framework.config.update("jax_default_matmul_precision", "highest")
    elif BACKEND == "torch":  # exactness is tested, so no TF32 on a GPU
        framework.backends.cudnn.allow_tf32 = False
    else:
        framework.config.experimental.enable_tensor_float_32_execution(False)
    config.addinivalue_line("filterwarnings", "error::aumann.CompletenessWarning")
    config.addinivalue_line("filterwarnings", r"error:::aumann(\..*)?")


def pytest_report_header():
    return f"keras {keras.__version__} on {BACKEND}"


def close(actual, expected, dtype="float32", scale=None):
    """Fails unless two structures of arrays agree to the tolerance of a dtype, relative to the largest number."""
    tree.assert_same_structure(actual, expected)
    for a, b in zip(tree.flatten(actual), tree.flatten(expected), strict=True):
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        assert a.shape == b.shape
        assert np.isfinite(a).all() and np.isfinite(b).all()
        size = scale or max(np.abs(b).max(initial=0), 1e-3)
        worst = np.abs(a - b).max(initial=0) / size
        assert worst <= TOLERANCE[dtype], f"off by {worst:.1e} of the largest, {size:.3g}; allowed {TOLERANCE[dtype]}"


NOTES = ("_called", "_dropout_mask", "_recurrent_dropout_mask")


def host(x):
    return keras.ops.convert_to_numpy(x)


def forward(model, inputs):
    """The model's outputs in inference mode, as host arrays."""
    inputs = tree.map_structure(lambda x: keras.ops.convert_to_tensor(x), inputs)
    return tree.map_structure(host, model(inputs, training=False))


def value_and_slope(fn, points):
    """fn(points), shape (n,), and its gradient by the framework itself: host arrays in and out."""
    points = [np.ascontiguousarray(p) for p in points]
    if BACKEND == "tensorflow":
        import tensorflow as tf

        @tf.function(autograph=False)
        def run(points):
            with tf.GradientTape() as tape:
                tape.watch(points)
                values = fn(points)
            return values, tape.gradient(values, points, unconnected_gradients="zero")

        values, slopes = run([tf.constant(p) for p in points])
        return values.numpy(), [g.numpy() for g in slopes]
    if BACKEND == "jax":
        import jax

        def total(points):
            values = fn(points)
            return values.sum(), values

        slopes, values = jax.jit(jax.grad(total, has_aux=True))(points)
        return np.asarray(values), [np.asarray(g) for g in slopes]
    import torch

    points = [keras.ops.convert_to_tensor(p.copy()).requires_grad_() for p in points]
    values = fn(points)
    found = torch.autograd.grad(values.sum(), points, allow_unused=True)
    return host(values), [np.zeros(p.shape) if g is None else host(g) for p, g in zip(points, found, strict=True)]


def formula(fn, ends, starts, rule):
    """Σₖ wₖ (x - x') ∂fn(x' + tₖ (x - x')) as it is written, all nodes in one batch, fn(x) and fn(x')."""
    ends = [np.asarray(e) for e in ends]
    starts = [np.broadcast_to(np.asarray(s, e.dtype), e.shape) for s, e in zip(starts, ends, strict=True)]
    times, weights = np.concatenate([rule.nodes, [1, 0]]), np.concatenate([rule.weights, [0, 0]])
    points = [
        np.concatenate([s + t * (e - s) for t in times]).astype(e.dtype) for s, e in zip(starts, ends, strict=True)
    ]
    values, slopes = value_and_slope(fn, points)
    values = np.asarray(values, np.float64).reshape(len(times), -1)
    found = [
        (e - s) * np.tensordot(weights, np.asarray(g, np.float64).reshape(len(times), *e.shape), 1)
        for g, s, e in zip(slopes, starts, ends, strict=True)
    ]
    return found, values[-2], values[-1]


def snapshot(model):
    """What must be left as it was: every variable bit for bit, every attribute of every instance, flags and hooks.

    Keras itself notes in `_called` that a layer was called at all, and a recurrent cell its dropout masks.
    """
    parts = [model]
    if isinstance(model, keras.Layer):
        parts += model._flatten_layers(include_self=False)
        parts += [op for layer in list(parts) for op in getattr(layer, "operations", [])]
    elif hasattr(model, "modules"):
        parts = list(model.modules())
    kept = []
    for part in parts:
        state = {k: id(v) for k, v in vars(part).items() if k not in NOTES}
        if hasattr(part, "_forward_hooks"):
            hooks = (part._forward_hooks, part._forward_pre_hooks, part._backward_hooks)
            state["hooks, training"] = str([list(h) for h in hooks]), part.training
        kept.append((type(part).__name__, state))
    if isinstance(model, keras.Layer):
        values = [(v.path, host(v.value).tobytes(), str(v.dtype), v.trainable) for v in model.variables]
    elif hasattr(model, "state_dict"):
        values = [(k, host(v).tobytes()) for k, v in model.state_dict().items()]
        values += [(k, p.requires_grad, p.grad is None) for k, p in model.named_parameters()]
    else:
        values = []
    return kept, values


def random_states():
    """States of the random generators that belong to the user."""
    _, keys, place, *_ = np.random.get_state()
    states = {"numpy": (keys.tobytes(), place), "python": random.getstate()}
    seeds = keras.src.backend.common.global_state.get_global_attribute("global_seed_generator")
    if seeds is not None:
        states["seed generator"] = host(seeds.state.value).tobytes()
    if BACKEND == "torch":
        import torch

        states["torch"] = torch.random.get_rng_state().numpy().tobytes()
        states["grad"] = torch.is_grad_enabled(), torch.backends.cudnn.enabled
    return states


@contextlib.contextmanager
def unchanged(model):
    """Fails unless the block leaves the model and the random generators as they were."""
    before, states = snapshot(model), random_states()
    yield
    after = snapshot(model)
    for (name, was), (_, now) in zip(before[0], after[0], strict=True):
        changed = {k for k in was.keys() | now.keys() if was.get(k) != now.get(k)}
        assert not changed, f"attributes of {name} changed: {changed}"
    assert after[1] == before[1]
    assert random_states() == states


@contextlib.contextmanager
def float64():
    """Double precision, which JAX keeps behind a switch."""
    if BACKEND != "jax":
        yield
        return
    import jax

    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    try:
        yield
    finally:
        jax.config.update("jax_enable_x64", before)


@contextlib.contextmanager
def policy(name):
    """Models built inside compute in this precision, from their inputs on."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(name)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


@pytest.fixture
def rng():
    return np.random.default_rng(7)


@pytest.fixture(scope="module", autouse=True)
def _tidy():
    """Compiled functions of one file do not weigh on the next."""
    yield
    gc.collect()


def scatter(model, seed=0):
    """Weights that no initialiser gives: no zero biases, moving statistics that matter."""
    rng = np.random.default_rng(seed)
    for v in model.weights:
        if not keras.backend.is_float_dtype(v.dtype):
            continue
        noise = rng.normal(size=v.shape)
        positive = v.path.endswith(("moving_variance", "gamma"))
        v.assign((1 + 0.3 * np.abs(noise)) if positive else 0.5 * noise)
    return model


def mlp(activation="softmax", units=3, features=4):
    """A small smooth classifier with scattered weights."""
    model = keras.Sequential(
        [
            keras.layers.Input((features,)),
            keras.layers.Dense(5, activation="tanh"),
            keras.layers.Dense(units, activation=activation),
        ]
    )
    return scatter(model)


@pytest.fixture(scope="session")
def classifier():
    """(n, 4) -> (n, 3) probabilities. Shared: no test may change it."""
    return mlp()


@pytest.fixture(scope="session")
def explainer(classifier):
    """Shared, so that it compiles once."""
    return aumann.IntegratedGradients(classifier, rule=aumann.gauss_legendre(8))


@pytest.fixture
def x(rng):
    return rng.normal(size=(5, 4)).astype("float32")
