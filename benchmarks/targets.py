"""Ten classes at once against ten calls for one class each: what the shared forward passes save.

    KERAS_BACKEND=torch python -m benchmarks.targets [mlp lenet transformer] [--quick] [--out folder]

Both ways have a method of their own, compiled before the race, and give the same values; at a fixed cost by 32 nodes,
and to a tolerance, where all classes of a row go as far as the one that needs most. Rows of other cases stay in the
file.
"""

import keras
import numpy as np

import aumann
from benchmarks import networks, record
from benchmarks.contest import quartiles, race, spread

CLASSES = 10
# Network and rows.
CASES = {
    "mlp": (lambda: networks.mlp(classes=CLASSES), 2000),
    "lenet": (networks.digits_cnn, 50),
    "transformer": (networks.transformer, 50),
}
SETTINGS = {"32 nodes": {"rule": aumann.gauss_legendre(32)}, "tolerance 0.01": {"tolerance": 0.01}}
ROUNDS = 5


def contest(name, how, quick):
    """The seconds of one call for ten classes in parts of those of ten calls."""
    make, n = CASES[name]
    model, n = make(), 2 if quick else n
    x = networks.rows(model, n)
    together, alone = (aumann.IntegratedGradients(model, **SETTINGS[how]) for _ in range(2))

    def at_once():
        return together.explain(x, target=list(range(CLASSES)))

    def one_by_one():
        return [alone.explain(x, target=k) for k in range(CLASSES)]

    e, parts = at_once(), one_by_one()
    single = np.stack([part.values for part in parts], axis=1)
    rounds = 1 if quick else ROUNDS
    seconds = race({"at once": at_once, "one by one": one_by_one}, rounds)
    return {
        "backend": keras.config.backend(), "case": name, "how": how, "rows": n, "rounds": rounds,
        "ratio": quartiles(seconds["at once"], seconds["one by one"]), "seconds": float(np.median(seconds["at once"])),
        "evaluations": [int(e.evaluations.sum()), int(sum(part.evaluations.sum() for part in parts))],
        "differs": float(np.abs(e.values - single).sum() / np.abs(single).sum()),
    }  # fmt: skip


def sentence(row):
    once, singly = row["evaluations"]
    return (
        f"{row['backend']:10s} {row['case']:12s} {row['how']:15s} {row['rows']:5d} rows: {CLASSES} classes at once "
        f"take {spread(row['ratio'])} of one by one ({once} points of a path against {singly}; values differ by "
        f"{row['differs']:.1e})"
    )


def main():
    def both(name, quick):
        return [contest(name, how, quick) for how in SETTINGS]

    record.cases(__doc__, CASES, both, sentence, f"targets-{keras.config.backend()}", "case", "how")


if __name__ == "__main__":
    main()
