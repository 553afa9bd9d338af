"""Do the backends agree, and captum with them? Relative L1 differences of the values on the real trained models.

    python -m benchmarks.agree [qlknn fer …] [--quick] [--out folder]

Every case is explained by the same rule on every backend, each backend in a process of its own, with the case's own
input structure and nothing else: integers are attributed at their Embedding without being told. On torch captum
answers the same question by the same rule, with a lambda that names the output, and the layers at embeddings.
"""

import itertools
import tempfile
import time
import warnings
from pathlib import Path

import keras
import numpy as np

import aumann
from benchmarks import peers, record
from benchmarks.real import cases as zoo

NODES = 16
QUICK = ["qlknn", "acdc_seq", "magika"]


def answer(case, nodes):
    """Our values on this backend, leaf by leaf, with the residual and the seconds of a first and a second call."""
    method = aumann.IntegratedGradients(case.model, rule=aumann.gauss_legendre(nodes))
    seconds = []
    for _ in range(2):
        start = time.perf_counter()
        e = method.explain(case.inputs, target=case.target, baseline=case.baseline)
        seconds.append(time.perf_counter() - start)
    leaves = keras.tree.flatten(e.values)
    return e, {"residual": peers.residual(leaves, e), "seconds": seconds, **numbered("ours", leaves)}


def numbered(name, leaves):
    return {f"{name}{i}": leaf for i, leaf in enumerate(leaves)}


def leaves(saved, name):
    """The arrays that `numbered` named, none if it did not."""
    keys = itertools.takewhile(lambda key: key in saved, (f"{name}{i}" for i in itertools.count()))
    return [saved[key] for key in keys]


def answers(names, folder, quick):
    """Writes this backend's answers to `folder`, and captum's beside them on torch."""
    for name in names:
        case, nodes = peers.find(name, quick), 4 if quick else NODES
        e, saved = answer(case, nodes)
        if keras.config.backend() == "torch":
            saved |= numbered("captum", peers.captum(case, nodes, e.provenance["batch_size"])())
        np.savez(Path(folder, f"{name}-{keras.config.backend()}"), **saved)


def relative(a, b):
    """Σ|a − b| / Σ|b| over all leaves."""
    return float(sum(np.abs(x - y).sum() for x, y in zip(a, b, strict=True)) / sum(np.abs(y).sum() for y in b))


def compare(name, folder):
    """A row of the table: every pair of backends, and captum against aumann on torch."""
    saved = {}
    for backend in record.BACKENDS:
        file = Path(folder, f"{name}-{backend}.npz")
        if file.exists():
            saved[backend] = dict(np.load(file))
    row = {"case": name, "missing": [b for b in record.BACKENDS if b not in saved]}
    row["residual"] = {b: float(s["residual"]) for b, s in saved.items()}
    row["seconds"] = {b: s["seconds"].tolist() for b, s in saved.items()}
    row["difference"] = {
        f"{a}–{b}": relative(leaves(saved[b], "ours"), leaves(saved[a], "ours"))
        for a, b in itertools.combinations(saved, 2)
    }
    theirs = leaves(saved.get("torch", {}), "captum")
    if theirs:
        row["difference"]["captum–aumann"] = relative(leaves(saved["torch"], "ours"), theirs)
    return row


def sentence(row):
    apart = ", ".join(f"{pair} {value:.1e}" for pair, value in row["difference"].items())
    left = ", ".join(f"{b} {value:.1e}" for b, value in row["residual"].items())
    took = ", ".join(f"{b} {first:.3g} then {again:.3g} s" for b, (first, again) in row["seconds"].items())
    missing = f"; no answer on {', '.join(row['missing'])}" if row["missing"] else ""
    return f"{row['case']:12s} relative L1 {apart}; residual {left}; {took}{missing}"


def main():
    parser = record.options(__doc__, zoo.CASES)
    parser.add_argument("--answers", metavar="folder", help="only this backend's answers, written to the folder")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    names = record.known(parser, args.names or (QUICK if args.quick else []), zoo.CASES)
    if args.answers:
        return answers(names, args.answers, args.quick)
    with tempfile.TemporaryDirectory() as folder:
        for backend in record.BACKENDS:
            done = record.python(
                "benchmarks.agree", *names, "--answers", folder, *["--quick"] * args.quick, backend=backend
            )
            if done.returncode:
                print(f"{backend} stopped: {record.last_line(done.stderr)}", flush=True)
        rows = [compare(name, folder) for name in names]
    for row in rows:
        print(sentence(row), flush=True)
    record.save([{"nodes": 4 if args.quick else NODES, **row} for row in rows], args.out, "agree")


if __name__ == "__main__":
    main()
