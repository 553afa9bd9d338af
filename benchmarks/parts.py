"""Where the time of a call goes: the call, and what its parts take when they are run alone.

    KERAS_BACKEND=torch python -m benchmarks.parts [mlp digits_cnn mobilenet] [--quick] [--out folder]

Everything but the model is measured on a model that is next to nothing, half the sum of the squares of its inputs,
whose gradient is the point itself: the same rows, nodes and batches are interpolated, weighed, summed and carried to
and fro. Of that, what one node leaves is there once a row, the rest once a node. Parts are measured in turn with the
whole; as some of them overlap in a call, and the caches serve them better alone, they need not add up to it.
"""

import cProfile
import pstats

import keras
import numpy as np
from keras import ops

import aumann
from aumann.explain.answer import fingerprint
from benchmarks import networks, record
from benchmarks.contest import quartiles, race, spread
from benchmarks.floor import CASES, loop

NODES = 50
# Part: what it is.
PARTS = {
    "model": "the bare compiled loop with as many gradients, in batches of the same size",
    "nodes": "interpolation, weights and sums, and the work of Python for each batch of nodes",
    "rows": "reading and checking the inputs, copying the rows, one node of each row, and making the explanation",
    "ends": "F at the rows and at the baseline",
    "transfers": "copying the rows to the device and as many values back, nothing else",
    "fingerprint": "the hash of the weights, in a thread of its own",
}


def squares(shape):
    """The model that is next to nothing."""

    def model(x):
        return ops.sum(ops.square(ops.reshape(x, (-1, int(np.prod(shape))))), axis=1, keepdims=True) / 2

    return model


def contest(name, quick):
    """A row of the table: the seconds of the call, and of each part in parts of it."""
    make, n, rounds, _ = CASES[name]
    n, rounds, nodes = (2, 1, 4) if quick else (n, rounds, NODES)
    model = make()
    x = networks.rows(model, n)

    def explain(model, nodes, **running):
        method = aumann.IntegratedGradients(model, rule=aumann.gauss_legendre(nodes), **running)
        return lambda: method.explain(x, target=0)

    whole = explain(model, nodes)
    batch = whole().provenance["batch_size"]
    batch = max(1, batch // nodes) * nodes if batch >= nodes else batch  # rows have all of their nodes in a batch
    batch = min(batch, n * nodes)
    bare_squares = squares(x.shape[1:])
    predictor = aumann.IntegratedGradients(model)

    def ends():
        predictor.predict(x, target=0)
        predictor.predict(np.zeros_like(x[:1]), target=0)

    def transfers():
        size = max(1, batch // nodes)
        for first in range(0, n, size):
            ops.convert_to_numpy(ops.convert_to_tensor(x[first : first + size]))

    seconds = race(
        {
            "whole": whole,
            "model": loop(model, n * nodes, batch),
            "all but the model": explain(bare_squares, nodes, batch_size=batch),
            "rows": explain(bare_squares, 1, batch_size=batch),
            "ends": ends,
            "transfers": transfers,
            "fingerprint": lambda: fingerprint(model),
        },
        rounds,
    )
    seconds["nodes"] = seconds.pop("all but the model") - seconds["rows"]
    return {
        "backend": keras.config.backend(), "case": name, "rows": n, "nodes": nodes, "rounds": rounds, "batch": batch,
        "seconds": float(np.median(seconds["whole"])), "python": python_share(whole),
        "parts": {part: quartiles(seconds[part], seconds["whole"]) for part in PARTS},
    }  # fmt: skip


def python_share(run):
    """Seconds inside Python's own functions, what they call in C taken off, in parts of a profiled call.

    Being watched makes Python slower and leaves C alone: an upper bound. What the device does meanwhile goes on.
    """
    profile = cProfile.Profile()
    profile.runcall(run)
    stats = pstats.Stats(profile)
    own = sum(tottime for (file, _, _), (_, _, tottime, _, _) in stats.stats.items() if file != "~")
    return own / stats.total_tt


def sentence(row):
    parts = ", ".join(f"{part} {spread(three)}" for part, three in row["parts"].items())
    return (
        f"{row['backend']:10s} {row['case']:12s} {row['rows']} rows × {row['nodes']} nodes, {row['seconds']:.3g} s; in "
        f"parts of it: {parts}; Python's own functions {row['python']:.2f} of a profiled call"
    )


def main():
    file = f"parts-{keras.config.backend()}"
    record.cases(__doc__, CASES, lambda *args: [contest(*args)], sentence, file, "case")


if __name__ == "__main__":
    main()
