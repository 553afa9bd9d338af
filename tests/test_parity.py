"""The same model and weights give the same values on the three backends: over nodes, over cells, to a tolerance."""

import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

BACKENDS = ("tensorflow", "jax", "torch")

PROGRAM = """
import sys
import keras, numpy as np
import aumann
if keras.config.backend() == "jax":  # compiling takes longer than what it saves
    import jax
    jax.config.update("jax_disable_most_optimizations", True)
L = keras.layers
draw = np.random.default_rng(11)

def settle(model):
    "Weights from NumPy, the same everywhere."
    for v in model.weights:
        v.assign(np.abs(draw.normal(size=v.shape)) + 0.5 if "variance" in v.path else 0.4 * draw.normal(size=v.shape))
    return model

def cases():
    x = L.Input((12, 12, 3))
    h = L.Conv2D(8, 3, activation="relu", padding="same")(x)
    h = L.MaxPooling2D()(L.BatchNormalization()(h))
    h = L.SeparableConv2D(8, 3, strides=2, padding="same", activation="gelu")(h)
    model = keras.Model(x, L.Dense(4, "softmax")(L.GlobalAveragePooling2D()(h)))
    yield "image", model, draw.normal(size=(3, 12, 12, 3)), "all"
    x = L.Input((9, 5))
    h = L.Bidirectional(L.LSTM(6, return_sequences=True))(L.Masking(-1.0)(x))
    h = L.MultiHeadAttention(2, 4)(h, h)
    yield "series", keras.Model(x, L.GRU(3)(L.LayerNormalization()(h))), draw.normal(size=(3, 9, 5)), [0, 2]
    ids, f = L.Input((7,), dtype="int32"), L.Input((4,))
    h = L.Concatenate()([L.GlobalMaxPooling1D()(L.Conv1D(6, 3, activation="swish")(L.Embedding(30, 5)(ids))), f])
    model = keras.Model([ids, f], L.Dense(1)(L.Dense(8, "elu")(h)))
    yield "mixed", model, [draw.integers(0, 30, (4, 7)), draw.normal(size=(4, 4))], None

out = {}
for name, model, x, target in cases():
    settle(model)
    for how in {"rule": aumann.gauss_legendre(12)}, {"rule": aumann.secant(5)}, {"tolerance": 0.02}:
        e = aumann.IntegratedGradients(model, **how).explain(x, target=target)
        for i, v in enumerate([*keras.tree.flatten(e.values), e.evaluations]):
            out[f"{name} {how} {i}"] = v
np.savez(sys.argv[1], **out)
"""


@pytest.mark.skipif(keras.config.backend() != "tensorflow", reason="one process asks all three")
def test_backends_agree(tmp_path):
    """Relative L1 ≤ 1e-5 in every array; each backend that is installed for the tests must run."""
    found = {}
    for backend in BACKENDS:
        path = pathlib.Path(tmp_path) / f"{backend}.npz"
        env = {**os.environ, "KERAS_BACKEND": backend}
        subprocess.run([sys.executable, "-W", "ignore", "-c", PROGRAM, str(path)], env=env, check=True)
        found[backend] = dict(np.load(path))
    reference = found["tensorflow"]
    assert len(reference) == 21
    for backend in BACKENDS[1:]:
        for name, value in reference.items():
            assert np.abs(value).sum() > 0
            off = np.abs(found[backend][name] - value).sum() / np.abs(value).sum()
            assert off <= 1e-5, f"{backend} differs on {name} by {off:.1e}"
