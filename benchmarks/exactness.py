"""How far fixed rules are from the integral, and what a row costs over cells against over nodes.

    KERAS_BACKEND=tensorflow python -m benchmarks.exactness [fer mtcnn_onet digits_relu …] [--quick] [--out folder]

The error of a row is the relative L1 distance of its values from those by 2048 cells; how far 2048 midpoints are from
these is given beside it, as a check that owes nothing to secants. The median over the rows is shown. The digits
networks are trained here, on scikit-learn's, for half a minute.
"""

import keras
import numpy as np

import aumann
from benchmarks import networks, record
from benchmarks.contest import quartiles, race, spread
from benchmarks.real import cases as zoo

FINE = 2048
COUNTS = (8, 16, 32, 64, 128)
RULES = {"Gauss–Legendre": aumann.gauss_legendre, "midpoint": aumann.midpoint, "secant": aumann.secant}
DIGITS = {
    f"digits_{a}{suffix}": (a, output)
    for a in ("relu", "gelu")
    for suffix, output in (("", None), ("_logit", "logits"))
}
# Without efficientnet, silero and cispliceai, whose 2048 cells take minutes each, unless they are named.
CASES = [*DIGITS, "qlknn", "acdc_seq", "fer", "mtcnn_onet", "tox_block", "sleepecg", "deepcut", "magika"]
MORE = ["efficientnet", "silero", "cispliceai"]


def enlarged():
    """Digits of 8 × 8, three times enlarged and framed, and their classes."""
    from sklearn.datasets import load_digits

    data = load_digits()
    x = np.kron(data.images[..., None] / 16, np.ones((1, 3, 3, 1))).astype("float32")
    return np.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0))), data.target


def digits(activation):
    """A trained LeNet and twelve held-out rows."""
    x, classes = enlarged()
    model = networks.digits_cnn(activation)
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(x[:1500], classes[:1500], epochs=5, verbose=0)
    return model, x[1500:1512], classes[1500:1512]


def find(name):
    """(model, inputs, target, baseline, output)"""
    if name in DIGITS:
        activation, output = DIGITS[name]
        return *digits(activation), 0.0, output
    (case,) = zoo.cases([name])
    return case.model, case.inputs, case.target, case.baseline, None


def leaves(e):
    return np.concatenate([v.reshape(len(v), -1) for v in keras.tree.flatten(e.values)], axis=1)


def contest(name, quick):
    """The errors of every rule at every count, and the ratio of the times of a row."""
    model, inputs, target, baseline, output = find(name)

    def explain(rule):
        method = aumann.IntegratedGradients(model, output=output, rule=rule)
        return lambda: leaves(method.explain(inputs, target=target, baseline=baseline))

    fine, counts = (64, COUNTS[:2]) if quick else (FINE, COUNTS)
    reference = explain(aumann.secant(fine))()
    mass = np.abs(reference).sum(1)
    moved = mass > 0

    def error(rule):
        return float(np.median((np.abs(explain(rule)() - reference).sum(1)[moved]) / mass[moved]))

    errors = {label: {str(n): error(rule(n)) for n in counts} for label, rule in RULES.items()}
    n = counts[-1]
    seconds = race({"cells": explain(aumann.secant(n - 1)), "nodes": explain(aumann.midpoint(n))}, 2 if quick else 5)
    return {
        "backend": keras.config.backend(),
        "case": name,
        "rows": len(reference),
        "fine": fine,
        "check": error(aumann.midpoint(fine)),
        "errors": errors,
        "cost": quartiles(seconds["cells"], seconds["nodes"]),
    }


def sentence(row):
    lines = [
        f"{row['backend']:10s} {row['case']:14s} a row over cells costs {spread(row['cost'])} of one over nodes; "
        f"{row['fine']} midpoints are {row['check']:.1e} from {row['fine']} cells"
    ]
    for label, errors in row["errors"].items():
        lines.append(f"    {label:15s} " + "  ".join(f"{n}: {e:.1e}" for n, e in errors.items()))
    return "\n".join(lines)


def main():
    def usual(quick):
        return CASES[: 3 if quick else None]

    names = [*CASES, *MORE]
    record.cases(__doc__, names, lambda *args: [contest(*args)], sentence, "exactness", "case", default=usual)


if __name__ == "__main__":
    main()
