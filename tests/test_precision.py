"""What float32 means during a call, on every framework, and that the framework's own settings come back."""

import importlib
import threading

import keras
import numpy as np
import pytest
from conftest import BACKEND, policy

import aumann
from aumann.backends import Switch, active
from aumann.core.quadrature import gauss_legendre, midpoint
from aumann.core.secant import ROUNDING

framework = importlib.import_module(BACKEND)


def read():
    """The framework's present settings, all of them."""
    if BACKEND == "jax":
        return framework.config.jax_default_matmul_precision
    if BACKEND == "tensorflow":
        return framework.config.experimental.tensor_float_32_execution_enabled()
    return tuple(framework._C._get_fp32_precision_getter(*scope) for scope in active().SCOPES)


AS_ASKED = {
    "jax": {"full": "highest", "tf32": "tensorfloat32"},
    "tensorflow": {"full": False, "tf32": True},
    "torch": {"full": ("ieee",) * 9, "tf32": ("tf32",) * 9},
}[BACKEND]


def _jax(precision):
    framework.config.update("jax_default_matmul_precision", precision)


def _torch(older, newer):
    framework.set_float32_matmul_precision(older)
    framework.backends.mkldnn.matmul.fp32_precision = newer
    framework.backends.fp32_precision = newer


OTHERWISE = {  # what a user may have set
    "jax": [lambda: _jax(None), lambda: _jax("bfloat16"), lambda: _jax("highest")],
    "tensorflow": [
        lambda: framework.config.experimental.enable_tensor_float_32_execution(True),
        lambda: framework.config.experimental.enable_tensor_float_32_execution(False),
    ],
    "torch": [lambda: _torch("high", "tf32"), lambda: _torch("medium", "bf16"), lambda: _torch("highest", "none")],
}[BACKEND]


@pytest.mark.parametrize("precision", ["full", "tf32"])
@pytest.mark.parametrize("user", range(len(OTHERWISE)))
def test_float32_is_what_was_asked_for_where_it_is_traced_and_where_it_runs(classifier, x, precision, user):
    OTHERWISE[user]()
    before, seen = read(), []

    def target(outputs):
        seen.append(read())
        return outputs[:, 0]

    def progress(done, expected):
        seen.append(read())
        if stop:
            raise KeyError("from the middle of a call")

    try:
        explainer = aumann.IntegratedGradients(classifier, rule=gauss_legendre(8), precision=precision)
        for stop in (False, True):
            if stop:
                with pytest.raises(KeyError):
                    explainer.explain(x, target, progress=progress)
            else:
                explainer.explain(x, target, progress=progress)
            assert read() == before
        explainer.predict(x, target)
        assert len(seen) > 3 and set(seen) == {AS_ASKED[precision]}
        assert read() == before
    finally:
        OTHERWISE[-1]()


def test_tf32_is_allowed_for_in_the_error_and_told(classifier, x):
    full, coarse = (
        aumann.IntegratedGradients(classifier, precision=p, tolerance=1e-3).explain(x, 0) for p in ("full", "tf32")
    )
    assert (full.error < 2**-9).all() and (coarse.error > 2**-9).all()
    assert "precision" not in full.provenance and coarse.provenance["precision"] == "tf32"


def test_the_exact_one_holds_while_anybody_asks_and_the_last_to_leave_puts_back():
    level = ["the user's"]

    def turn(precision):
        before, level[0] = level[0], precision
        return lambda: level.__setitem__(0, before)

    switch, inside, leave = Switch(turn), threading.Event(), threading.Event()

    def exact():
        with switch("full"):
            inside.set()
            leave.wait(10)

    thread = threading.Thread(target=exact)
    with switch("tf32"):
        assert level == ["tf32"]
        thread.start()
        assert inside.wait(10) and level == ["full"]
    assert level == ["full"]
    leave.set()
    thread.join()
    assert level == ["the user's"]


@pytest.mark.parametrize("name", ["mixed_float16", "mixed_bfloat16", "float16", "bfloat16"])
def test_thousands_of_half_precision_gradients_are_summed_in_float32(name):
    """w x is off by one rounding of w; a half-precision sum of 4096 shares would have stopped growing half-way."""
    with policy(name):
        model = keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(1)])
    model.layers[0].set_weights([np.array([[0.3], [-1.7], [0.9]]), np.zeros(1)])
    x = np.array([[1.0, 2.0, -3.0]], "float32")
    e = aumann.IntegratedGradients(model, rule=midpoint(4096), batch_size=64).explain(x)
    weights = keras.ops.cast(keras.ops.cast(model.weights[0], name.removeprefix("mixed_")), "float32")
    np.testing.assert_allclose(e.values, x * keras.ops.convert_to_numpy(weights)[:, 0], rtol=1e-5)
    assert e.values.dtype == "float32"


@pytest.mark.parametrize("activation", ["relu", "relu6"])
@pytest.mark.parametrize("name", ["mixed_float16", "mixed_bfloat16"])
def test_units_that_stay_exactly_zero_in_half_precision(name, activation):
    """A black corner on a black baseline, without a bias: 0 / 0 in a type in which 1e-30 is nothing."""
    with policy(name):
        convolved = keras.layers.Conv2D(4, 3, activation=activation)
        model = keras.Sequential([keras.layers.Input((8, 8, 1)), convolved, keras.layers.MaxPooling2D()])
    model = keras.Sequential([model, keras.layers.Flatten(), keras.layers.Dense(1)])
    x = np.zeros((2, 8, 8, 1), "float32")
    x[0, :4] = np.linspace(-1, 1, 32).reshape(4, 8, 1)
    e = aumann.IntegratedGradients(model, rule=aumann.secant(5)).explain(x)
    assert e.values[0].any() and not e.values[1].any()
    off = 8 * ROUNDING[name.removeprefix("mixed_")] * np.abs(e.values).sum((1, 2, 3))
    assert (np.abs(e.residual) <= off).all(), (e.residual, off)
