"""Packing and accumulation: nothing is lost, repeated or left growing, whatever the sizes."""

import itertools
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

import aumann
from aumann.core import engine


@given(st.integers(1, 5000), st.integers(1, 700))
def test_packing_holds_every_point_within_the_batch(points, batch_size):
    p = engine.pack(points, batch_size)
    assert p.rows * p.nodes <= batch_size
    assert p.nodes * p.chunks >= points > p.nodes * (p.chunks - 1)
    greedy = -(-points // min(points, batch_size)) * min(points, batch_size)
    assert p.nodes * p.chunks <= greedy  # never more idle places than full chunks would leave
    assert p.nodes >= min(points, batch_size) // 2
    assert p.chunks == 1 or p.rows == 1


@settings(max_examples=12, deadline=None)
@given(
    rows=st.integers(1, 7),
    nodes=st.integers(1, 9),
    baselines=st.integers(1, 3),
    targets=st.integers(1, 3),
    batch_size=st.integers(1, 40),
)
def test_a_quadratic_is_exact_for_any_sizes(rows, nodes, baselines, targets, batch_size):
    """F = Σ a x² has φ = a (x² − mean b²) under every rule of degree 1, whatever is packed with what."""
    draw = np.random.default_rng(0)
    x, b = draw.normal(size=(rows, 3)), draw.normal(size=(baselines, 3))
    a = draw.normal(size=(targets, 3)).astype("float32")
    method = aumann.IntegratedGradients(
        lambda x: ops.matmul(x**2, ops.convert_to_tensor(np.ascontiguousarray(a.T))),
        rule=aumann.gauss_legendre(nodes),
        batch_size=batch_size,
    )
    e = method.explain(x.astype("float32"), target="all", baseline=aumann.baselines.weighted(b))
    assert np.allclose(e.values, a * (x**2 - (b**2).mean(0))[:, None], atol=2e-5)
    assert (e.evaluations == nodes * baselines).all()


def test_evaluations_are_the_gradients_spent():
    """The progress function hears of each gradient once."""
    heard = []

    def f(x):
        return ops.sum(x, axis=1)

    method = aumann.IntegratedGradients(f, rule=aumann.midpoint(7), batch_size=5)
    e = method.explain(np.ones((3, 2), "float32"), progress=lambda done, total: heard.append((done, total)))
    assert e.evaluations.tolist() == [7, 7, 7]
    assert heard[-1] == (21, 21) and all(a[0] < b[0] for a, b in itertools.pairwise(heard))


MEMORY = """
import sys
import keras, numpy as np, aumann
keras.utils.set_random_seed(0)
L = keras.layers
model = keras.Sequential([L.Input((24, 24, 3)), L.Conv2D(64, 3, activation="relu"), L.Conv2D(16, 3, activation="relu"),
                          L.GlobalAveragePooling2D(), L.Dense(3)])
status = lambda key: int(open("/proc/self/status").read().split(key + ":")[1].split()[0]) / 1024
x = np.random.default_rng(0).normal(size=(512, 24, 24, 3)).astype("float32")
idle = status("VmRSS")
def peak(method, rows):
    open("/proc/self/clear_refs", "w").write("5")  # forget the peak so far
    e = method.explain(x[:rows], target=0)
    return status("VmHWM") - idle, (2 * e.values.nbytes + e.inputs.nbytes) / 2**20
make = lambda nodes: aumann.IntegratedGradients(model, rule=aumann.midpoint(nodes), batch_size=64)
few = make(64), 8
many = (make(2000), 1) if sys.argv[1] == "nodes" else (make(4), 512)
peak(*few), peak(*many)  # what compiling leaves behind stands under both
print(*max(peak(*few), peak(*few)), *peak(*many))
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak is read from /proc")
@pytest.mark.parametrize("what", ["nodes", "rows"])
def test_memory_does_not_grow_with(what):
    """64 → 2000 nodes and 8 → 512 rows: a batch of 64 takes about 100 MB however many there are.

    What counts beyond it are the results, once on the way and once in the explanation, and the copy of the inputs.
    glibc is told to give large blocks back at once: left to its own it lets the heap of any eager loop on torch creep,
    the bare loop's as ours, and what is asked here is what we hold.
    """
    out = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", MEMORY, what],
        env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "1000000"},
        capture_output=True,
        text=True,
        check=True,
    )
    small, own_small, large, own_large = map(float, out.stdout.split()[-4:])
    print(f"{keras.config.backend()} {what}: {small:.0f} → {large:.0f} MB, of them results {own_large:.0f} MB")
    assert large - own_large <= 1.1 * (small - own_small)
