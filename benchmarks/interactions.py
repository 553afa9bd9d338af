"""Integrated Hessians of a 32-feature MLP, all pairs: aumann against the loop of path_explain.

    KERAS_BACKEND=tensorflow python -m benchmarks.interactions [--quick] [--out folder]

path_explain (the authors' package, unmaintained, written for tf.keras of TensorFlow 2.0) is not installed: what it does
for `interactions(use_expectation=False, num_samples=100)` is written out below, one row at a time, a 10 × 10 grid of
(α, β) with both ends and equal weights in batches of 50, `batch_jacobian` of the gradients in eager mode; and once more
with that compiled, which the package does not do. Its time is that of a few rows, scaled to all. The truth is
aumann's own sum over 40 nodes, which the tests hold against double integrals by brute force. On JAX and torch, where
the package has no Keras at all, only aumann is timed.
"""

import keras
import numpy as np

import aumann
from benchmarks import record
from benchmarks.contest import quartiles, race, spread

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
    return float(np.median(np.abs(values - truth).sum((1, 2)) / np.abs(truth).sum((1, 2))))


def contest(quick):
    """One row of figures for each setting: seconds, error, and what the grid takes in parts of that."""
    rows, few, rounds = (20, 2, 1) if quick else (1000, 4, 3)
    model, x = network(), np.random.default_rng(0).normal(size=(rows, 32)).astype("float32")
    truth = aumann.IntegratedHessians(model, rule=aumann.log_gauss(40)).explain(x[:few]).values
    settings = {"12 nodes": {"rule": aumann.log_gauss(12)}, "tolerance 0.01": {}}
    explainers = {name: aumann.IntegratedHessians(model, **how) for name, how in settings.items()}
    contestants = {name: (lambda e=e: e.explain(x)) for name, e in explainers.items()}
    grids = {"grid": False, "grid, compiled": True} if keras.config.backend() == "tensorflow" else {}
    baseline = np.zeros((1, 32), "float32")
    contestants |= {name: (lambda c=c: grid_of_pairs(model, x[:few], baseline, c)) for name, c in grids.items()}
    seconds = race(contestants, rounds)
    found = []
    for name in settings:
        own = seconds[name]
        found.append({
            "backend": keras.config.backend(), "case": name, "rows": rows, "rounds": rounds,
            "seconds": float(np.median(own)), "error": error(contestants[name]().values[:few], truth),
            "ratios": {grid: quartiles(seconds[grid] * rows / few, own) for grid in grids},
            "grid error": error(contestants["grid"](), truth) if grids else None,
        })  # fmt: skip
    return found


def main():
    args = record.options(__doc__, ()).parse_args()
    rows = contest(args.quick)
    for row in rows:
        beside = "".join(f"; path_explain's {name} {spread(r)} × as long" for name, r in row["ratios"].items())
        off = f", off by {row['grid error']:.1e}" if beside else ""
        print(
            f"{row['backend']:10s} {row['case']:15s} {row['rows']} rows: {row['seconds']:.2f} s, median relative L1 "
            f"error {row['error']:.1e}{beside}{off}",
            flush=True,
        )
    record.save(rows, args.out, f"interactions-{keras.config.backend()}")


if __name__ == "__main__":
    main()
