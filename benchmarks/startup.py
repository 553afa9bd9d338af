"""How long a first explanation takes from nothing, each time in a process of its own.

    KERAS_BACKEND=torch python -m benchmarks.startup [--quick] [--out folder]

In turn: `import keras`, which imports the framework; `import aumann` on top; a small model made and called once, which
is when a framework wakes up; the first explanation of five rows, compiling included; and the second. What aumann adds
to the framework is its import and the first explanation.
"""

import json
import os
import time
from itertools import pairwise

from benchmarks import record

STEPS = ("keras", "aumann", "model", "first", "second")
PROCESSES = 5


def once():
    """Seconds of each step, in this process."""
    times = [time.perf_counter()]

    def tick():
        times.append(time.perf_counter())

    import keras

    tick()
    import aumann

    tick()
    from benchmarks import networks

    model = networks.mlp()
    x = networks.rows(model, 5)
    keras.ops.convert_to_numpy(model(x))
    tick()
    method = aumann.IntegratedGradients(model)
    for _ in range(2):
        method.explain(x, target=0)
        tick()
    return {step: b - a for step, (a, b) in zip(STEPS, pairwise(times), strict=True)}


def measure(processes):
    """The row: quartiles of each step over processes, and of what aumann adds."""
    import numpy as np

    found = []
    for _ in range(processes):
        done = record.python("benchmarks.startup", "--once")
        if done.returncode:
            raise RuntimeError(f"Expected seconds, received: {record.last_line(done.stderr)}. Run it with --once.")
        found.append(json.loads(done.stdout.splitlines()[-1]))
    steps = {step: [row[step] for row in found] for step in STEPS}
    steps["beyond the framework"] = [row["aumann"] + row["first"] for row in found]
    return {
        "backend": os.environ.get("KERAS_BACKEND", "tensorflow"), "case": "mlp", "processes": processes,
        "seconds": {step: [float(q) for q in np.percentile(s, (25, 50, 75))] for step, s in steps.items()},
    }  # fmt: skip


def main():
    parser = record.options(__doc__, ["mlp"])
    parser.add_argument("--once", action="store_true", help="this process, as JSON")
    args = parser.parse_args()
    record.known(parser, args.names, ["mlp"])
    if args.once:
        return print(json.dumps(once()))
    row = measure(1 if args.quick else PROCESSES)
    parts = ", ".join(f"{step} {middle:.2f}" for step, (_, middle, _) in row["seconds"].items())
    print(f"{row['backend']:10s} seconds: {parts}", flush=True)
    record.merge([row], args.out, f"startup-{row['backend']}", "case")


if __name__ == "__main__":
    main()
