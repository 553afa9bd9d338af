"""What a tolerance keeps, what it costs, and how honest the estimated error is.

    KERAS_BACKEND=tensorflow python -m benchmarks.tolerance [fer digits_relu …] [--quick] [--out folder]

The true error of a row is the relative L1 distance of its values from a reference: 4096 cells of secants where the
network has kinks, 4096 nodes of Gauss–Legendre (4 in each of 1024 cells) where it has none; the distance between the
two is given too (of the slow ones, between 4096 cells and 1024 nodes). The best fixed rule is chosen for each row with
knowledge of its true error: the cheapest of Gauss–Legendre, midpoint and Clenshaw–Curtis, with a power of two of nodes
(one more for Clenshaw–Curtis), that has the same true error. `spent` is the gradients of the tolerance divided by those
of that rule. If none of up to 512 nodes (128 for the slow ones) is enough, twice as many are counted.
"""

import keras
import numpy as np

import aumann
from aumann.core.quadrature import Rule
from benchmarks import exactness, networks, record
from benchmarks.exactness import leaves

TOLERANCES = (0.05, 0.01, 0.001)
FIXED = (aumann.gauss_legendre, aumann.midpoint, aumann.clenshaw_curtis)
# Rows taken of those whose reference takes long.
FEW = {"efficientnet": 1, "silero": 1, "cispliceai": 1, "magika": 1, "deepcut": 5, "tox_block": 2}
SLOW = ["silero", "magika", "efficientnet", "cispliceai"]
PIECEWISE_LINEAR = {"digits_relu", "digits_relu_logit", "mtcnn_onet", "fer", "efficientnet"}
SMOOTH = ["iris", "digits_gelu_mean", "transformer"]
CASES = [*SMOOTH, *(name for name in exactness.CASES if name not in SLOW), *SLOW]


def find(name):
    """(model, inputs, target, baseline, output)"""
    if name == "qlknn":  # of which many rows are clipped to zero heat flux, and have nothing to attribute
        model, inputs, target, baseline, output = exactness.find(name)
        return model, inputs[:40], target, baseline, output
    if name not in SMOOTH:
        return exactness.find(name)
    from sklearn.datasets import load_digits, load_iris

    if name == "iris":
        data = load_iris()
        model = networks.iris()
        train(model, data.data.astype("float32"), data.target, 60)
        return model, data.data[::10].astype("float32"), data.target[::10], data.data.mean(0), None
    if name == "transformer":
        data = load_digits()
        lines = (data.images / 16).astype("float32")
        model = networks.transformer()
        train(model, lines[:1500], data.target[:1500], 8)
        return model, lines[1500:1512], data.target[1500:1512], lines[:1500].mean(0), None
    x, classes = exactness.enlarged()
    model = networks.digits_cnn("gelu", pooling="mean")
    train(model, x[:1500], classes[:1500], 8)
    return model, x[1500:1512], classes[1500:1512], 0.0, None


def train(model, x, y, epochs):
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(x, y, epochs=epochs, verbose=0)


def composite(cells):
    """Gauss–Legendre with four nodes in each of equal cells."""
    own = aumann.gauss_legendre(4)
    nodes = (np.arange(cells)[:, None] + own.nodes).ravel() / cells
    return Rule(f"gauss_legendre(4) in {cells} cells", nodes, np.tile(own.weights, cells) / cells, 7)


def contest(name, quick):
    """One row of figures for each tolerance."""
    model, inputs, target, baseline, output = find(name)
    if name in FEW:
        inputs = keras.tree.map_structure(lambda x: x[: FEW[name]], inputs)
        target = target[: FEW[name]] if isinstance(target, np.ndarray) else target

    def explain(**settings):
        method = aumann.IntegratedGradients(model, output=output, **settings)
        return method.explain(inputs, target=target, baseline=baseline)

    cells, nodes, most = (64, 64, 16) if quick else (4096, 1024, 128) if name in SLOW else (4096, 4096, 512)
    secants, gauss = leaves(explain(rule=aumann.secant(cells))), leaves(explain(rule=composite(nodes // 4)))
    first = explain(tolerance=0.05)
    kinked = "secants" in first.provenance["rule"]
    reference = secants if kinked else gauss
    mass = np.abs(reference).sum(1)
    moved = mass > 0

    def error(values):
        return (np.abs(values - reference).sum(1) / np.where(moved, mass, 1))[moved]

    counts = 2 ** np.arange(1, int(np.log2(most)) + 1)
    fixed = [(n + (rule is aumann.clenshaw_curtis), rule) for n in counts for rule in FIXED]
    errors = {n: [] for n, _ in fixed}
    for n, rule in fixed:
        errors[n].append(error(leaves(explain(rule=rule(int(n))))))
    cheapest = [(n, np.min(errors[n], 0)) for n in sorted(errors)]

    def fewest_nodes(goal):
        need = np.full(moved.sum(), 2.0 * most)
        for n, e in reversed(cheapest):
            need[e <= goal] = n
        return need

    cellular = {
        n: error(leaves(explain(rule=aumann.secant(n - 1)))) for n in (5, 9, 13, 17, 25, 33, 49, 65, 97, 129, 193)
    }
    fifty = error(leaves(explain(rule=aumann.gauss_legendre(50)))).tolist()
    rows = []
    for tolerance in TOLERANCES:
        e = first if tolerance == 0.05 else explain(tolerance=tolerance)
        true, said, spent = error(leaves(e)), e.error[moved], e.evaluations[moved]
        fewest = np.full(moved.sum(), 1024.0)
        for n in reversed(cellular):
            fewest[cellular[n] <= tolerance] = n
        rows.append({
            "backend": keras.config.backend(), "case": name, "rule": e.provenance["rule"], "tolerance": tolerance,
            "cells": cells, "check": float(np.median(np.abs(secants - gauss).sum(1)[moved] / mass[moved])),
            "true": true.tolist(), "said": said.tolist(), "spent": spent.tolist(),
            "converged": e.converged[moved].tolist(),
            "same": fewest_nodes(true).tolist(), "enough": fewest_nodes(tolerance).tolist(), "secants": fewest.tolist(),
            "fifty": fifty,
        })  # fmt: skip
    return rows


def figures(row):
    """Arrays over the rows: what was kept, and its cost divided by that of the best fixed rule."""
    names = ("true", "said", "spent", "same", "enough", "secants", "fifty", "converged")
    true, said, spent, same, enough, secants, fifty, converged = (np.array(row[name]) for name in names)
    return {
        "converged": converged, "within": true <= row["tolerance"], "honest": true <= said,
        "vain": said / np.maximum(true, 1e-12), "same": spent / same, "enough": spent / enough,
        "secants": secants / enough, "fifty": fifty,
    }  # fmt: skip


def sentence(row):
    f = figures(row)
    converged = f["converged"]
    return (
        f"{row['case']:18s} {row['tolerance']:6.1%} {row['rule']:20s} rows {len(converged)} converged "
        f"{converged.sum()} within {f['within'][converged].sum()} honest {f['honest'].sum()} said/true "
        f"{np.median(f['vain']):.1f} spent {np.median(row['spent']):.0f} / same error {np.median(f['same']):.2f} / "
        f"tolerance {np.median(f['enough']):.2f} (check {row['check']:.0e})"
    )


def main():
    def usual(quick):
        return CASES[: 3 if quick else None]

    record.cases(__doc__, CASES, contest, sentence, "tolerance", "case", "tolerance", default=usual)


if __name__ == "__main__":
    main()
