"""What the methods of the family cost: their gradients, and what they do beside them.

    KERAS_BACKEND=tensorflow python -m benchmarks.family [mean_gradient guided …] [--quick] [--out folder]

The price of a gradient is that of the bare loop of `benchmarks.floor`, in batches as large as the method's. A
method's own work is whatever it takes beyond its gradients: F at both ends, drawing, noise, the steps of a path.
"""

import keras
import numpy as np

import aumann
from benchmarks import floor, networks, record
from benchmarks.contest import quartiles, race, spread

RULE = aumann.gauss_legendre(32)
ROWS = 32


def background(model):
    return aumann.baselines.weighted(networks.rows(model, 128, seed=5))


# Name: (method of a model, baseline of a model). Each explains the rows of one network, at one target.
CASES = {
    "integrated_gradients": (lambda m: aumann.IntegratedGradients(m, rule=RULE), 0.0),
    "mean_gradient": (lambda m: aumann.MeanGradient(m, rule=RULE), 0.0),
    "saliency": (lambda m: aumann.Smooth(aumann.Saliency(m), samples=32), 0.0),
    "expected_gradients": (lambda m: aumann.ExpectedGradients(m, samples=256), background),
    "important_directions": (lambda m: aumann.ImportantDirectionGradients(m, rule=RULE), 0.0),
    "decisions": (lambda m: aumann.IntegratedDecisionGradients(m, rule=RULE), 0.0),
    "blur": (lambda m: aumann.BlurIntegratedGradients(m, rule=RULE, sigma=8.0), 0.0),
    "guided": (lambda m: aumann.GuidedIntegratedGradients(m, steps=31), 0.0),
    "conductance": (lambda m: aumann.Conductance(m, layer=m.layers[2].name, rule=RULE), 0.0),
    "internal_influence": (lambda m: aumann.InternalInfluence(m, layer=m.layers[2].name, rule=RULE), 0.0),
}

POINTS = {"guided": 1, "expected_gradients": 8}  # path points of a row that lie in one batch; RULE's of all others


def contest(name, quick):
    make, baseline = CASES[name]
    model = networks.digits_cnn()
    baseline = baseline(model) if callable(baseline) else baseline
    n = 2 if quick else ROWS
    x, method = networks.rows(model, n), make(model)

    def explain(rows=x):
        return method.explain(rows, target=0, baseline=baseline)

    first = explain()
    gradients = int(first.evaluations.sum())
    batch = min(first.provenance["batch_size"], n * POINTS.get(name, len(RULE)))
    contestants = {"ours": explain, "bare": floor.loop(model, gradients, batch)}
    if name == "guided":
        contestants["one by one"] = lambda: [explain(x[i : i + 1]) for i in range(n)]
    rounds = 1 if quick else 5
    seconds = race(contestants, rounds)
    row = {
        "backend": keras.config.backend(), "case": name, "rows": n, "gradients": gradients, "batch": batch,
        "ratio": quartiles(seconds["ours"], seconds["bare"]), "rounds": rounds,
        "seconds": float(np.median(seconds["ours"])),
    }  # fmt: skip
    if name == "guided":
        row["one by one"] = quartiles(seconds["one by one"], seconds["ours"])
    return row


def sentence(row):
    alone = f"; one by one {spread(row['one by one'])} × as long" if "one by one" in row else ""
    return (
        f"{row['backend']:10s} {row['case']:20s} {row['gradients']:6d} gradients: {spread(row['ratio'])} × the bare "
        f"loop at {row['batch']} rows{alone}"
    )


def main():
    file = f"family-{keras.config.backend()}"
    record.cases(__doc__, CASES, lambda *args: [contest(*args)], sentence, file, "case")


if __name__ == "__main__":
    main()
