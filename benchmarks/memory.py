"""Does memory grow with nodes or rows? The peak of the process at one batch size, above its idle size.

    python -m benchmarks.memory [nodes rows] [--quick] [--out folder]

Each number comes from a process of its own: on each backend, for aumann and for the bare loop over as many gradients.
The inputs and the results themselves (once on the way, once in the explanation) are taken off. glibc lets the heap of
any loop that allocates creep, so each is measured twice: as it comes, and with large blocks given back at once
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
    "nodes": [(2, 50), (2, 400), (2, 2000)],
    "rows": [(8, 20), (64, 20), (512, 20)],
}
QUICK = {"nodes": [(2, 50), (2, 100)], "rows": [(8, 20), (16, 20)]}
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": "1000000"}
SETTINGS = [(backend, environment) for backend in record.BACKENDS for environment in ({}, GIVE_BACK)]
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


def aumann_run(model, rows, nodes):
    """run() -> MB of inputs and results, after explaining."""
    method, x = aumann.IntegratedGradients(model, rule=aumann.midpoint(nodes), batch_size=BATCH), draw(rows)

    def run():
        e = method.explain(x, target=0)
        return (2 * e.values.nbytes + e.inputs.nbytes) / 2**20

    return run


def bare_run(model, rows, nodes):
    """run() -> 0, after as many gradients as those take, a batch at a time."""
    gradient, x = bare(model, 0), keras.ops.convert_to_tensor(draw(BATCH))

    def run():
        for _ in range(rows * nodes // BATCH):
            gradient(x)
        return 0.0

    return run


RUNS = {"aumann": aumann_run, "bare": bare_run}


def draw(rows):
    return np.random.default_rng(0).normal(size=(rows, 32, 32, 3)).astype("float32")


def peak(who, rows, nodes):
    """MB above the idle process in the worse of two runs, and MB of them that are inputs and results."""
    run = RUNS[who](network(), rows, nodes)
    idle = status("VmRSS")
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")  # forget the peak so far
    own = max(run() for _ in range(2))
    return status("VmHWM") - idle, own


def measure(what, series, backend, environment, who):
    """A row of the table, each size in a process of its own."""
    setting = " ".join(f"{key}={value}" for key, value in environment.items())
    row = {"what": what, "backend": backend, "who": who, "setting": setting, "batch": BATCH, "sizes": series}
    found = []
    for rows, nodes in series:
        done = record.python("benchmarks.memory", "--peak", who, rows, nodes, backend=backend, **environment)
        if done.returncode:
            return {**row, "reason": record.last_line(done.stderr)}
        found.append(json.loads(done.stdout.splitlines()[-1]))
    held = [peak - own for peak, own in found]
    return {**row, "peaks": [p for p, _ in found], "own": [o for _, o in found], "growth": held[-1] / held[0]}


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
    parser.add_argument("--peak", nargs=3, metavar=("who", "rows", "nodes"), help="one peak, of this process")
    args = parser.parse_args()
    if args.peak:
        who, rows, nodes = args.peak
        return print(json.dumps(peak(who, int(rows), int(nodes))))
    if not sys.platform.startswith("linux"):
        return print("not measured: the peak is read from /proc, which only Linux has")
    found = []
    for what in record.known(parser, args.names, SERIES):
        for backend, environment in SETTINGS:
            for who in RUNS:
                found.append(measure(what, (QUICK if args.quick else SERIES)[what], backend, environment, who))
                print(sentence(found[-1]), flush=True)
    record.save(found, args.out, "memory")


if __name__ == "__main__":
    main()
