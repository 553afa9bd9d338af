"""Does memory grow with nodes or rows? The peak of the process at one batch size, above its idle size.

    python -m benchmarks.memory [nodes rows] [--quick] [--out folder]

Each series is measured in a process of its own: on each backend, for aumann and for the bare loop over as many
gradients. The inputs and the results themselves (once on the way, once in the explanation) are taken off. glibc lets
the heap of any eager loop creep, so torch is measured twice: as it comes, and with large blocks given back at once
(MALLOC_MMAP_THRESHOLD_=1000000). Linux only: the peak is read from /proc.
"""

import json
import sys

import keras
import numpy as np

import aumann
from benchmarks import record
from benchmarks.floor import bare

BATCH = 100
# What grows: (rows, nodes) of each measurement; every one fills the batch.
SERIES = {
    "nodes": [(2, 50), (2, 200), (2, 800), (2, 2000)],
    "rows": [(8, 20), (32, 20), (128, 20), (512, 20)],
}
QUICK = {"nodes": [(2, 50), (2, 100)], "rows": [(8, 20), (16, 20)]}
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": "1000000"}
SETTINGS = [("tensorflow", {}), ("jax", {}), ("torch", {}), ("torch", GIVE_BACK)]
L = keras.layers


def network():
    """A convolutional net whose hundred rows take about 100 MB on the way forward and back."""
    keras.utils.set_random_seed(0)
    return keras.Sequential([
        L.Input((32, 32, 3)), L.Conv2D(64, 3, activation="relu"), L.Conv2D(16, 3, activation="relu"),
        L.GlobalAveragePooling2D(), L.Dense(3),
    ])  # fmt: skip


def status(key):
    """A line of /proc/self/status in MB."""
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith(key))


def aumann_run(model):
    """(rows, nodes) -> MB of inputs and results, after explaining."""
    x = draw(max(rows for series in SERIES.values() for rows, _ in series))

    def run(rows, nodes):
        method = aumann.IntegratedGradients(model, rule=aumann.midpoint(nodes), batch_size=BATCH)
        e = method.explain(x[:rows], target=0)
        return (2 * e.values.nbytes + e.inputs.nbytes) / 2**20

    return run


def bare_run(model):
    """(rows, nodes) -> 0, after as many gradients as those take, a batch at a time."""
    gradient, x = bare(model, 0), keras.ops.convert_to_tensor(draw(BATCH))

    def run(rows, nodes):
        for _ in range(rows * nodes // BATCH):
            gradient(x)
        return 0.0

    return run


def draw(rows):
    return np.random.default_rng(0).normal(size=(rows, 32, 32, 3)).astype("float32")


def peaks(series, who):
    """MB above the idle process, and MB of them that are inputs and results, at each size; the first one twice."""
    run = {"aumann": aumann_run, "bare": bare_run}[who](network())
    idle, found = status("VmRSS"), []
    for rows, nodes in series[:1] + series:
        with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
            file.write("5")  # forget the peak so far
        own = run(rows, nodes)
        found.append((status("VmHWM") - idle, own))
    return [max(found[:2]), *found[2:]]


def measure(what, backend, environment, who, quick):
    """A row of the table, from a process of its own."""
    done = record.python(
        "benchmarks.memory", what, "--peaks", who, *["--quick"] * quick, backend=backend, **environment
    )
    about = {
        "what": what,
        "backend": backend,
        "who": who,
        "setting": " ".join(f"{k}={v}" for k, v in environment.items()),
    }
    if done.returncode:
        return {**about, "reason": record.last_line(done.stderr)}
    series, found = (QUICK if quick else SERIES)[what], json.loads(done.stdout.splitlines()[-1])
    held = [peak - own for peak, own in found]
    return {
        **about, "batch": BATCH, "sizes": series, "peaks": [p for p, _ in found], "own": [o for _, o in found],
        "growth": held[-1] / held[0],
    }  # fmt: skip


def sentence(row):
    about = f"{row['backend']:10s} {row['setting'] or 'as it comes':32s} {row['who']:6s}"
    if "reason" in row:
        return f"{about} no answer: {row['reason']}"
    grows = 0 if row["what"] == "rows" else 1
    sizes = " ".join(
        f"{size[grows]}: {peak:.0f} ({own:.1f})"
        for size, peak, own in zip(row["sizes"], row["peaks"], row["own"], strict=True)
    )
    return f"{about} MB by {row['what']} (of them inputs and results): {sizes}; beyond these × {row['growth']:.2f}"


def main():
    parser = record.options(__doc__, SERIES)
    parser.add_argument("--peaks", choices=["aumann", "bare"], help="only the peaks of one series, in this process")
    args = parser.parse_args()
    names = record.known(parser, args.names, SERIES)
    if args.peaks:
        return print(json.dumps(peaks((QUICK if args.quick else SERIES)[names[0]], args.peaks)))
    if not sys.platform.startswith("linux"):
        return print("not measured: the peak is read from /proc, which only Linux has")
    rows = []
    for what in names:
        for backend, environment in SETTINGS:
            for who in ("aumann", "bare"):
                rows.append(measure(what, backend, environment, who, args.quick))
                print(sentence(rows[-1]), flush=True)
    record.save(rows, args.out, "memory")


if __name__ == "__main__":
    main()
