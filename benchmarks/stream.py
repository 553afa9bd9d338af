"""A million rows of a table that lies in a file, through an MLP: rows a second, and whether memory stays flat.

    KERAS_BACKEND=torch python -m benchmarks.stream [speed memory] [--quick] [--out folder]

The rows are a float32 memmap of NumPy. The speed by ten Gauss–Legendre nodes is held against a bare compiled loop over
as many gradients (`benchmarks.floor`) at its own best batch size; that to a tolerance is told beside it. The peak of
memory is the median of three processes for each number of rows, without the inputs, whose pages the file backs, and
the arrays of the explanation; in fewer rows than the least, a call has not yet compiled all that it will. Linux only.
"""

import json
import tempfile
import warnings
from pathlib import Path

import keras
import numpy as np

import aumann
from benchmarks import networks, record
from benchmarks.contest import quartiles, race, spread
from benchmarks.floor import CASES as FLOOR
from benchmarks.floor import best, loop
from benchmarks.memory import status

CASES = ["speed", "memory"]
FEATURES, NODES = 32, 10
ROWS, QUICK = (1_000_000, 2_000_000, 4_000_000), (1000, 2000, 4000)  # the first for speed, all for memory
TOLERANCE = 0.01
BATCH = 16384  # of the peaks: what is found by measurement may be larger in a longer job
ROUNDS = 3
PROCESSES = 3  # for a peak, of which there is the median: allocators are moody


def write(folder, rows):
    """A file of that many rows, written a part at a time; its path."""
    file, draw = Path(folder, f"{rows}.npy"), np.random.default_rng(0)
    x = np.lib.format.open_memmap(file, "w+", "float32", (rows, FEATURES))
    for first in range(0, rows, 10_000):
        x[first : first + 10_000] = draw.normal(size=x[first : first + 10_000].shape)
    x.flush()
    return file


def explain(model, file, **settings):
    method, x = aumann.IntegratedGradients(model, **settings), np.load(file, mmap_mode="r")
    return lambda: method.explain(x, target=0)


def speed(file, rows, quick):
    """The bare loop's seconds in parts of aumann's: the ratio of rows a second."""
    model = networks.mlp()
    gradients = rows * NODES
    sizes = [s for s in FLOOR["mlp"][3] if s <= gradients]
    size, _ = best(model, gradients, sizes)
    rounds = 1 if quick else ROUNDS
    ours = explain(model, file, rule=aumann.gauss_legendre(NODES))
    seconds = race({"ours": ours, "bare": loop(model, gradients, size)}, rounds)
    refined = explain(model, file, tolerance=TOLERANCE)
    kept = []
    took = race({"refined": lambda: kept.append(refined())}, 1)["refined"]
    e = kept[-1]
    return {
        "rows": rows, "rounds": rounds, "ratio": quartiles(seconds["bare"], seconds["ours"]),
        "rows a second": rows / float(np.median(seconds["ours"])), "bare_batch": size,
        "refined": {
            "rows a second": rows / float(took[0]), "evaluations": float(e.evaluations.mean()),
            "converged": float(np.mean(e.converged)),
        },
    }  # fmt: skip


def peak(file, how):
    """MB above the process before its first explanation, and MB of them that are inputs and results."""
    settings = {"nodes": {"rule": aumann.gauss_legendre(NODES)}, "tolerance": {"tolerance": TOLERANCE}}[how]
    run = explain(networks.mlp(), file, batch_size=BATCH, **settings)
    idle = status("VmRSS")
    with open("/proc/self/clear_refs", "w", encoding="ascii") as f:
        f.write("5")  # forget the peak so far
    e = run()
    return status("VmHWM") - idle, sum(a.nbytes for a in vars(e).values() if isinstance(a, np.ndarray)) / 2**20


def memory(files, how):
    """Peaks and their own for each file; growth is that of what is left from the first to the last."""
    found = []
    for file in files.values():
        tries = []
        for _ in range(PROCESSES):
            done = record.python("benchmarks.stream", "--peak", file, how)
            if done.returncode:
                raise RuntimeError(f"Expected a peak, received: {record.last_line(done.stderr)}. Run it with --peak.")
            tries.append(json.loads(done.stdout.splitlines()[-1]))
        found.append(sorted(tries)[PROCESSES // 2])
    left = [peak - own for peak, own in found]
    return {
        "sizes": list(files), "peaks": [p for p, _ in found], "own": [o for _, o in found], "left": left,
        "growth": left[-1] / left[0],
    }  # fmt: skip


def sentence(row):
    about = f"{row['backend']:10s} {row['case']:7s}"
    if "ratio" in row:
        refined = row["refined"]
        return (
            f"{about} {row['rows']} rows: {spread(row['ratio'])} of the bare loop's rows a second "
            f"({row['rows a second']:.3g}); tolerance {TOLERANCE}: {refined['rows a second']:.3g} rows a second, "
            f"{refined['evaluations']:.1f} gradients a row, {refined['converged']:.2%} converged"
        )
    sizes = ", ".join(
        f"{n}: {peak:.0f} ({own:.0f})" for n, peak, own in zip(row["sizes"], row["peaks"], row["own"], strict=True)
    )
    return f"{about} {row['how']}: MB by rows (of them inputs and results) {sizes}; beyond these × {row['growth']:.2f}"


def main():
    parser = record.options(__doc__, CASES)
    parser.add_argument("--peak", nargs=2, metavar=("file", "how"), help="one peak, of this process")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    if args.peak:
        return print(json.dumps(peak(*args.peak)))
    sizes, backend = QUICK if args.quick else ROWS, keras.config.backend()
    with tempfile.TemporaryDirectory() as folder:
        for name in record.known(parser, args.names, CASES):
            if name == "speed":
                rows = [{"how": "nodes", **speed(write(folder, sizes[0]), sizes[0], args.quick)}]
            else:
                files = {n: str(write(folder, n)) for n in sizes}
                rows = [{"how": how, **memory(files, how)} for how in ("nodes", "tolerance")]
            rows = [{"backend": backend, "case": name, **row} for row in rows]
            print("\n".join(map(sentence, rows)), flush=True)
            record.merge(rows, args.out, f"stream-{backend}", "case", "how")


if __name__ == "__main__":
    main()
