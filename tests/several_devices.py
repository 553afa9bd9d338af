"""Run by test_devices.py in a process of its own, which has three devices of one CPU: a framework is told so once."""

import importlib
import os
import sys

import numpy as np
from conftest import BACKEND, mlp
from keras import ops
from test_devices import device_of

import aumann
from aumann import backends

# Importing a framework starts none of its devices.
framework = importlib.import_module(BACKEND)
if BACKEND == "jax":
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=3"
    framework.config.update("jax_disable_most_optimizations", True)
else:
    one = framework.config.LogicalDeviceConfiguration()
    framework.config.set_logical_device_configuration(framework.config.list_physical_devices("CPU")[0], [one] * 3)

NAMES = ["cpu:0", "cpu:1", "cpu:2"]
active = backends.active()
assert active.devices() == NAMES

# What is compiled runs on the device that was named, by copies that lie there, of which one serves all its calls.
model, kept = mlp(), {}
run = active.compile(lambda xs: [model(xs[0], training=False)], model.variables)
x = np.random.default_rng(0).normal(size=(7, 4)).astype("float32")
with active.on("cpu:2", kept):
    (there,) = run([ops.convert_to_tensor(x)])
    copies = list(kept.values())
    run([ops.convert_to_tensor(x)])
assert device_of(there) == "cpu:2" and {device_of(c) for c in copies} == {"cpu:2"}
assert [id(c) for c in kept.values()] == [id(c) for c in copies] and len(copies) == len(model.variables)
(here,) = run([ops.convert_to_tensor(x)])
assert device_of(here) == "cpu:0"
np.testing.assert_allclose(active.host(there), active.host(here), rtol=1e-6)

# Three devices give what one gives, and see what the model has learned since.
rule = aumann.gauss_legendre(8)
one = aumann.IntegratedGradients(model, rule=rule)
three = aumann.IntegratedGradients(model, rule=rule, devices="all")
for _ in range(2):
    expected, found = one.explain(x, "predicted"), three.explain(x, "predicted")
    np.testing.assert_allclose(found.values, expected.values, rtol=1e-5, atol=1e-6)
    assert found.provenance["device"] == NAMES
    model.layers[-1].kernel.assign(model.layers[-1].kernel * -1.5)
assert three.explain(x[:2], 0).provenance["device"] == NAMES[:2]
assert aumann.IntegratedGradients(model, rule=rule, devices="cpu:1").explain(x, 0).provenance["device"] == "cpu:1"
sys.exit(0)
