"""Rows divided among devices: values, order and errors are those of one device."""

import importlib
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import keras
import numpy as np
import pytest
from conftest import BACKEND, close, float64, scatter
from keras import layers

import aumann
from aumann.backends import active
from aumann.execution.devices import DevicePool
from aumann.execution.options import ExecutionOptions

framework = importlib.import_module(BACKEND)


def device_of(tensor):
    """The name that the library has for where a tensor lies."""
    if BACKEND == "jax":
        return f"{tensor.device.platform}:{tensor.device.id}"
    return tensor.device.rsplit("device:", 1)[1].lower()


@pytest.mark.skipif(BACKEND == "torch", reason="torch knows one CPU")
def test_three_devices_of_one_cpu():
    """In a process of its own, since a framework learns of its devices once."""
    here = pathlib.Path(__file__).parent
    paths = [str(pathlib.Path(aumann.__file__).parents[1]), str(here)]
    run = subprocess.run(
        [sys.executable, here / "several_devices.py"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-3000:]


# A device that is named twice takes two parts at a time: the threads of several devices, on any machine.
TWICE = ["cpu", "cpu"]
SAME_BITS = {"compile": False} if BACKEND == "tensorflow" else {}  # "auto" may change to XLA on the way


@pytest.fixture(scope="module")
def network():
    """ReLU, pooling and a GELU: secants, and functions that are intercepted where they are called."""
    inputs = layers.Input((6, 6, 1))
    y = layers.Conv2D(3, 3, activation="relu", name="conv")(inputs)
    y = layers.Flatten()(layers.MaxPooling2D()(y))
    return scatter(keras.Model(inputs, layers.Dense(3, activation="gelu")(y)))


@pytest.fixture
def images(rng):
    return rng.normal(size=(5, 6, 6, 1)).astype("float32")


RULE = aumann.gauss_legendre(4)
METHODS = {
    "to a tolerance": lambda m, **k: aumann.IntegratedGradients(m, tolerance=0.05, **k),
    "by a rule": lambda m, **k: aumann.IntegratedGradients(m, rule=aumann.midpoint(16), batch_size=3, **k),
    "at a layer": lambda m, **k: aumann.Conductance(m, "conv", rule=RULE, **k),
    "on a curve": lambda m, **k: aumann.BlurIntegratedGradients(m, sigma=2.0, rule=aumann.midpoint(16), **k),
    "guided": lambda m, **k: aumann.GuidedIntegratedGradients(m, steps=8, **k),
    "Hessians": lambda m, **k: aumann.IntegratedHessians(m, rule=aumann.log_gauss(2), **k),
    "drawn": lambda m, **k: aumann.ExpectedGradients(m, samples=8, **k),
}


@pytest.mark.filterwarnings("ignore::aumann.CompletenessWarning")
@pytest.mark.parametrize("name", METHODS)
def test_values_are_those_of_one_device_row_by_row(network, images, name):
    kwargs = {"baseline": np.stack([0 * images[0], images[0]])} if name == "drawn" else {}
    targets = np.arange(5) % 3
    one, two = (METHODS[name](network, **k).explain(images, targets, **kwargs) for k in ({}, {"devices": TWICE}))
    close(two.values, one.values)
    assert (two.evaluations == one.evaluations).all()
    assert one.provenance["device"] != two.provenance["device"] == [active().devices()[-1]] * 2


def heard(explainer, x):
    """Names of the threads in which the gradients of an explanation were counted."""
    names = set()
    explainer.explain(x, 0, progress=lambda *_: names.add(threading.current_thread().name))
    return names


def test_one_device_needs_no_thread_and_two_have_one_each(classifier, x):
    def names(devices, x):
        return heard(aumann.IntegratedGradients(classifier, rule=RULE, devices=devices), x)

    assert names(None, x) == names("cpu", x) == names(TWICE, x[:1]) == {"MainThread"}
    assert "MainThread" not in names(TWICE, x)
    together = threading.Barrier(2)  # which one thread with two parts, one after the other, would not pass

    def run(rows, tally):
        together.wait(60)
        return [rows]

    (rows,) = DevicePool(ExecutionOptions(devices=TWICE)).divide(run, np.arange(5), lambda done: None)
    assert rows.tolist() == [0, 1, 2, 3, 4]


def test_a_name_is_taken_as_it_is_commonly_written():
    (name,) = ExecutionOptions(devices="cpu").devices
    assert ExecutionOptions(devices="CPU:0").devices == ExecutionOptions(devices=[name]).devices == (name,)
    assert ExecutionOptions(devices="all").devices[0] == active().devices()[0]


@pytest.fixture
def interruptible():
    """SIGINT interrupts, also where the tests were started in the background, which would ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("how", ["an exception", "Ctrl-C"])
def test_what_ends_one_thread_ends_the_call_and_nothing_else(classifier, x, how, interruptible):
    many = {"rule": aumann.midpoint(64), "batch_size": 4}
    explainer = aumann.IntegratedGradients(classifier, devices=TWICE, **many, **SAME_BITS)
    expected, calls = explainer.explain(x, 0), []

    def progress(done, whole):
        calls.append(done)
        if len(calls) > 3:
            time.sleep(0.05)  # what is left takes four seconds, in which the main thread hears of it on any machine
        if len(calls) == 3:
            if how == "Ctrl-C":
                signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            else:
                raise ZeroDivisionError("in one of the threads")

    with pytest.raises(KeyboardInterrupt if how == "Ctrl-C" else ZeroDivisionError):
        explainer.explain(x, 0, progress=progress)
    for thread in [t for t in threading.enumerate() if t.name.startswith("aumann")]:
        thread.join(10)
        assert not thread.is_alive()
    assert calls[-1] < 64 * len(x)  # the other one did not run on
    assert (explainer.explain(x, 0).values == expected.values).all()


def test_threads_compute_in_the_floats_of_the_one_that_asks(rng):
    """JAX keeps them by the thread."""
    if BACKEND == "jax":
        enabled = (framework if hasattr(framework, "enable_x64") else framework.experimental).enable_x64(True)
    else:
        enabled = float64()
    with enabled:
        inputs = layers.Input((4,), dtype="float64")
        model = scatter(keras.Model(inputs, layers.Dense(1, activation="tanh", dtype="float64")(inputs)))
        x = rng.normal(size=(5, 4))
        one, two = (aumann.IntegratedGradients(model, rule=RULE, devices=d).explain(x) for d in (None, TWICE))
    close(two.values, one.values, "float64")


def test_the_users_threads_are_left_as_they_are(classifier, x):
    def counts():
        if BACKEND == "torch":
            return framework.get_num_threads(), framework.get_num_interop_threads()
        if BACKEND == "tensorflow":
            found = framework.config.threading
            return found.get_intra_op_parallelism_threads(), found.get_inter_op_parallelism_threads()
        return os.environ.get("XLA_FLAGS")

    before = counts()
    for devices in (None, TWICE):
        aumann.IntegratedGradients(classifier, devices=devices).explain(x, 0)
        assert counts() == before
