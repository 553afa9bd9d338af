"""Integrated Hessians of a 32-feature MLP, all pairs: aumann against the loop of path_explain.

    KERAS_BACKEND=tensorflow python -m benchmarks.interactions [--rows 1000] [--peer-rows 20]

path_explain (the authors' package, unmaintained, written for tf.keras of TensorFlow 2.0) is not installed: what it does
for `interactions(use_expectation=False, num_samples=100)` is written out below, one row at a time, a 10 × 10 grid of
(α, β) with both ends and equal weights in batches of 50, `batch_jacobian` of the gradients in eager mode; and once more
with that compiled, which the package does not do. Its time is that of --peer-rows rows, scaled to --rows. The truth is
aumann's own sum over 40 nodes, which the tests hold against double integrals by brute force. On JAX and torch, where
the package has no Keras at all, only aumann is timed.
"""

import argparse
import time

import keras
import numpy as np

import aumann

COMPILED = {}


def network():
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Dense(64, "gelu"), keras.layers.Dense(64, "gelu"), keras.layers.Dense(1)]
    return keras.Sequential([keras.layers.Input((32,)), *layers])


def grid_of_pairs(model, x, baseline, compiled, side=10, batch_size=50):
    import tensorflow as tf

    def pairs(inputs, a, b):
        middle = b * inputs + (1 - b) * baseline
        with tf.GradientTape() as outer:
            outer.watch(middle)
            point = a * middle + (1 - a) * baseline
            with tf.GradientTape() as inner:
                inner.watch(point)
                values = model(point)
            slopes = inner.gradient(values, point) * (middle - baseline)
        return outer.batch_jacobian(slopes, middle) * (inputs - baseline)[:, None]

    if compiled:
        pairs = COMPILED.setdefault(id(model), tf.function(pairs))
    ends = np.linspace(0, 1, side, dtype="float32")
    alpha, beta = (a.reshape(-1, 1) for a in np.meshgrid(ends, ends))
    found = []
    for row in x:
        parts = []
        for first in range(0, len(alpha), batch_size):
            a, b = alpha[first : first + batch_size], beta[first : first + batch_size]
            inputs = np.tile(row, (len(a), 1))
            parts.append(pairs(*map(tf.constant, (inputs, a, b))))
        found.append(np.concatenate(parts).mean(0))
    return np.stack(found)


def error(values, truth):
    return np.median(np.abs(values - truth).sum((1, 2)) / np.abs(truth).sum((1, 2)))


def timed(call, rounds):
    call()
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        found = call()
        times.append(time.perf_counter() - start)
    return found, np.median(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1000)
    parser.add_argument("--peer-rows", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    model, x = network(), np.random.default_rng(0).normal(size=(given.rows, 32)).astype("float32")
    few = x[: given.peer_rows]
    truth = aumann.IntegratedHessians(model, rule=aumann.log_gauss(40)).explain(few).values
    taken = {}
    for name, how in (("12 nodes", {"rule": aumann.log_gauss(12)}), ("tolerance 0.01", {})):
        explainer = aumann.IntegratedHessians(model, **how)
        found, taken[name] = timed(lambda explainer=explainer: explainer.explain(x), given.rounds)
        off = error(found.values[: given.peer_rows], truth)
        print(f"aumann, {name}: {taken[name]:.2f} s, median relative L1 error {off:.1e}", flush=True)
    if keras.config.backend() == "tensorflow":
        baseline = np.zeros((1, 32), "float32")
        for way, compiled in (("as it is", False), ("compiled, which it is not", True)):
            found, seconds = timed(lambda c=compiled: grid_of_pairs(model, few, baseline, c), given.rounds)
            whole = seconds * given.rows / given.peer_rows
            print(f"path_explain's grid, {way}: {whole:.1f} s, error {error(found, truth):.1e}")
            print("ratio: " + ", ".join(f"{name} {whole / t:.0f}×" for name, t in taken.items()), flush=True)


if __name__ == "__main__":
    main()
