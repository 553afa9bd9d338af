"""Every benchmark on every backend, each script in a process of its own, and a page of what they measured.

    python -m benchmarks.run [floor peers accuracy stream targets parts startup family interactions agree memory
                              exactness tolerance] [--backends torch …] [--quick] [--page-only]

`make bench` runs this. Rows go to benchmarks/rows as JSON, the printed lines to lines.txt there, and the page to
docs/benchmarks.md; all of a smoke run goes to out/bench. What was measured of tolerances ends docs/exactness.md. The
pages are written from the rows alone: --page-only writes them again from those that are there, of several runs or of
scripts that were run by themselves with --out benchmarks/rows.
"""

import contextlib
import os
import platform
import subprocess
import sys
import time
from collections import defaultdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from benchmarks import parts, record, targets, tolerance
from benchmarks.contest import spread

SCRIPTS = {
    "floor": True,
    "peers": True,
    "accuracy": True,
    "stream": True,
    "targets": True,
    "parts": True,
    "startup": True,
    "family": True,
    "interactions": True,
    "agree": False,
    "memory": False,
    "exactness": False,
    "tolerance": False,
}  # whether it runs once for each backend
FRAMEWORKS = ("tensorflow", "tensorflow-cpu", "jax", "torch")
MEASURED = "## Measured"
PEERS = ("captum", "xplique", "unifiedig", "saliency", "shap")


# ---- the run -----------------------------------------------------------------------------------------------------


def machine():
    """What the numbers depend on, as (name, value) pairs."""
    system = platform.system()
    with contextlib.suppress(OSError, AttributeError):
        system = platform.freedesktop_os_release()["PRETTY_NAME"]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "cores": os.cpu_count(),
        "memory": f"{memory:.0f} GB",
        "system": f"{system}, {platform.machine()}",
        "load before the first script": f"{os.getloadavg()[0]:.1f}",
        "Python": platform.python_version(),
        **{name: v for name in ("aumann", "keras", "numpy", *FRAMEWORKS, *PEERS) if (v := installed(name))},
    }


def installed(name):
    with contextlib.suppress(PackageNotFoundError):
        return version(name)


def run(script, backend, out, quick):
    """Runs one script, passes its lines on, and says how it ended: (lines, minutes, what went wrong)."""
    name = f"{script} on {backend}" if backend else script
    print(f"== {name}", flush=True)
    start, lines = time.perf_counter(), []
    environment = {"TF_CPP_MIN_LOG_LEVEL": "3", **os.environ, **({"KERAS_BACKEND": backend} if backend else {})}
    command = [sys.executable, "-W", "ignore", "-m", f"benchmarks.{script}", "--out", out, *["--quick"] * quick]
    with (
        open(Path(out, "errors.txt"), "a+", encoding="utf-8") as errors,
        subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=errors, text=True) as process,
    ):
        for line in process.stdout:
            print(line, end="", flush=True)
            lines.append(line)
    failed = f"ended with code {process.returncode}" if process.returncode else ""
    return {"script": name, "lines": lines, "minutes": (time.perf_counter() - start) / 60, "failed": failed}


def run_all(scripts, backends, out, quick):
    """Runs everything that was asked for; removes its old rows first, so that none of them can pass for new ones."""
    about, done = machine(), []
    for script in scripts:
        for backend in backends if SCRIPTS[script] else [None]:
            Path(out, f"{script}-{backend}.json" if backend else f"{script}.json").unlink(missing_ok=True)
            done.append(run(script, backend, out, quick))
    Path(out, "lines.txt").write_text(
        "".join(f"== {d['script']}\n{''.join(d['lines'])}" for d in done), encoding="utf-8"
    )
    took = [{key: d[key] for key in ("script", "minutes", "failed")} for d in done]
    before, again = last(out), {d["script"] for d in took}
    kept = [d for d in before["scripts"] if d["script"] not in again] if before["quick"] == quick else []
    record.write({"machine": about, "scripts": kept + took, "quick": quick}, out, "run")
    return not any(d["failed"] for d in done)


def last(out):
    """What the last run said of itself; of scripts that were run by themselves, only the machine is known."""
    return record.load(out, "run") or {"machine": machine(), "scripts": [], "quick": False}


# ---- the page ----------------------------------------------------------------------------------------------------


def table(header, rows):
    """A table of Markdown; nothing without rows."""
    if not rows:
        return ["Not measured.", ""]
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(str(cell).replace("|", "/") for cell in line) + " |" for line in lines] + [""]


def ratio(row):
    return spread(row["ratio"]) if row["rounds"] > 1 else f"{row['ratio'][1]:.3g} (one round)"


def page(out):
    """The whole page, from the rows in `out`."""
    about = last(out)
    backends_of = {script: record.BACKENDS if each else [None] for script, each in SCRIPTS.items()}
    files = {
        (script, backend): record.load(out, f"{script}-{backend}" if backend else script)
        for script, backends in backends_of.items()
        for backend in backends
    }
    rows = {script: [row for backend in own for row in files[script, backend]] for script, own in backends_of.items()}
    peers = rows["peers"]
    smoke = ["**A smoke run: tiny sizes, few cases. The numbers mean nothing.**", ""] if about["quick"] else []
    lines = [
        "# Benchmarks", "",
        "Written by `make bench` from the rows in `benchmarks/rows`. A *peer* is another library. In a race aumann and "
        "its peers run in one process and take turns. A ratio is the median over the rounds; its quartiles stand in "
        "brackets.", "",
        *smoke,
        *table(("", ""), list(about["machine"].items())),
        *ahead(peers), *summary(peers), *details(peers), *refused(peers),
        *accuracy(rows["accuracy"]), *floor(rows["floor"]), *stream(rows["stream"]), *at_once(rows["targets"]),
        *where(rows["parts"]), *startup(rows["startup"]), *family(rows["family"]),
        *interactions(rows["interactions"]),
        *agreement(rows["agree"]), *memory(rows["memory"]), *exactness(rows["exactness"]),
        *account(about, files),
    ]  # fmt: skip
    return "\n".join(lines).rstrip() + "\n"


def ahead(rows):
    """The contests that a peer wins."""
    won = sorted((r for r in rows if "ratio" in r and r["ratio"][1] < 1), key=lambda r: r["ratio"][1])
    found = [
        f"- {r['backend']}, {r['case']}: {r['peer']} takes {ratio(r)} of aumann's time; its values differ by "
        f"{r['difference']:.1e}, its residual is {r['residual']:.1e} and aumann's {r['our_residual']:.1e}."
        for r in won
    ]
    raced = sum("ratio" in r for r in rows)
    text = (
        f"There were {raced} races. aumann's time includes F at both ends of every path and a fingerprint of the "
        "weights. These parts count most when few rows are explained."
    )
    return ["## Where a peer is faster", "", text, "", *(found or ["None."]), ""]


def by_case(rows):
    found = defaultdict(list)
    for row in rows:
        found[row["case"]].append(row)
    return found


def summary(rows):
    """The fastest peer of every case on every backend."""
    body = []
    for case, own in by_case(rows).items():
        cells = []
        for backend in record.BACKENDS:
            here = [r for r in own if r["backend"] == backend]
            fastest = min((r for r in here if "ratio" in r), key=lambda r: r["ratio"][1], default=None)
            cells.append(f"{ratio(fastest)} {fastest['peer']}" if fastest else "no peer" if here else "")
        body.append((case, own[0]["rows"], *cells))
    nodes = ", ".join(str(n) for n in sorted({r["nodes"] for r in rows}))
    text = (
        f"The seconds of the fastest peer divided by aumann's, for {nodes} nodes. Above 1 aumann is faster. aumann "
        "uses its default batch size, a peer the best of several."
    )
    return ["## aumann and the fastest peer", "", text, "", *table(("case", "rows", *record.BACKENDS), body)]


def details(rows):
    """Every race, a table for each backend."""
    lines = [
        "## Every race", "",
        "*Differs*: the largest relative L1 difference between a row's values and aumann's. A peer with another rule, "
        "or with random points, differs by its own error. *Residual*: Σ|Σφ − (F(x) − F(x′))| ÷ Σ|F(x) − F(x′)|. "
        "*One round*: the peer ran only once, because it was much slower than the fastest.", "",
    ]  # fmt: skip
    for backend in record.BACKENDS:
        own = [r for r in rows if r["backend"] == backend and "ratio" in r]
        body = [
            (
                r["case"], r["rows"], f"{r['ours']:.3g}", r["peer"], r["size"], f"{r['seconds']:.3g}", ratio(r),
                f"{r['difference']:.1e}", f"{r['residual']:.1e}", f"{r['our_residual']:.1e}",
            )
            for r in own
        ]  # fmt: skip
        header = ("case", "rows", "ours, s", "peer", "batch", "peer, s", "peer ÷ ours", "differs", "residual", "ours")
        lines += [f"### {backend}", "", *table(header, body)]
    return lines


def refused(rows):
    """What a peer could not do, and why."""
    return ["## What a peer could not explain", "", *(refusals(rows) or table((), []))]


def refusals(rows):
    found = defaultdict(list)
    for r in rows:
        if "reason" in r:
            found[r["peer"], r["backend"], r["reason"]].append(r["case"])
    body = [(peer, backend, ", ".join(cases), reason) for (peer, backend, reason), cases in sorted(found.items())]
    return table(("peer", "backend", "cases", "reason"), body) if body else []


def floor(rows):
    body = [
        (
            r["backend"], r["case"], r["gradients"], f"{r['seconds']:.3g}", ratio(r),
            f"{r['bare_ms']:.3g}", r["bare_batch"], r["batch"],
        )
        for r in rows
    ]  # fmt: skip
    text = (
        "aumann's seconds divided by those of a bare compiled loop. The loop computes as many gradients of one batch "
        "that is already on the device, at its own best batch size, and does nothing else."
    )
    header = ("backend", "case", "gradients", "ours, s", "ours ÷ bare", "bare, ms each", "its batch", "our batch")
    return ["## The floor", "", text, "", *table(header, body)]


def bar(text, judged):
    """A requirement and which cases meet it: `judged` are (case, whether)."""
    missed = [case for case, met in judged if not met]
    if not judged:
        return ["", f"Required: {text}.", ""]
    answer = f"missed by {', '.join(missed)}" if missed else "met everywhere"
    return ["", f"Required: {text}; {answer} (met by {len(judged) - len(missed)} of {len(judged)}).", ""]


def accuracy(rows):
    """What 1 % of true error costs aumann and every peer."""
    ran = [r for r in rows if "ratio" in r]
    races = defaultdict(list)
    for r in ran:
        races[r["backend"], r["case"]].append(r)
    judged = [
        (f"{case} on {backend}", all(r["ratio"][1] >= 1 and r["ours"]["reached"] for r in own))
        for (backend, case), own in races.items()
    ]

    def side(way):
        return f"{way['error']:.1e}" if way["reached"] else f"**{way['error']:.1e}**"

    ours = [
        (
            backend, case, r["kind"], r["rows"], side(r["ours"]), f"{r['ours']['evaluations']:.0f}",
            f"{r['ours']['seconds']:.3g}", r["fixed"]["rule"], side(r["fixed"]), f"{r['fixed']['seconds']:.3g}",
        )
        for (backend, case), (*_, r) in races.items()  # the newest
    ]  # fmt: skip

    def least(r, key="ratio"):
        return ("" if r["reached"] else "≥ ") + ratio({**r, "ratio": r[key]})

    searched = [(r, r["doubling"]) for r in ran if r.get("doubling")]
    found_out = [
        (f"{r['peer']}, {r['case']} on {r['backend']}", own["ratio"][1] >= 2 and r["ours"]["reached"])
        for r, own in searched
    ]
    doubled = [
        (r["backend"], r["case"], r["peer"], own["setting"], f"{own['error']:.1e}", least(own)) for r, own in searched
    ]
    theirs = [
        (
            r["backend"], r["case"], r["peer"], r["setting"], side(r), r["batch"], f"{r['seconds']:.3g}",
            least(r), least(r, "fixed_ratio"),
        )
        for r in ran
    ]  # fmt: skip
    text = (
        "The seconds until 99 % of the rows are within 1 % of the reference (relative L1). A peer takes the smallest "
        "power of two of steps or samples that is enough, chosen with knowledge of the reference. aumann has "
        "tolerance=0.01, which does not know the reference; for comparison it also runs with the cheapest fixed rule, "
        "chosen with that knowledge. *Error*: the error that 99 % of the rows do not exceed. It is in bold if it "
        "exceeds 1 %: then the largest number of steps that was tried is not enough, and the time is a lower bound "
        "(≥). The last table lists what a peer could not explain."
    )
    mine = ("backend", "case", "kind", "rows", "error", "gradients a row", "s", "cheapest rule", "its error", "s")
    header = ("backend", "case", "peer", "steps", "error", "batch", "s", "÷ tolerance", "÷ cheapest rule")
    return [
        "## The time to 1 % true error", "", text,
        *bar("no peer is faster than aumann with its tolerance, and aumann reaches 1 %", judged),
        "aumann:", "", *table(mine, ours),
        "The peers; the last two columns are their seconds divided by aumann's:", "", *table(header, theirs),
        "The peers without the reference: a user doubles the steps until two results agree to 1 % for 99 % of the "
        "rows. For the peers above that ran in several rounds:",
        *bar("the peer takes at least twice the time of aumann with its tolerance", found_out),
        *table(("backend", "case", "peer", "steps at the end", "error", "÷ tolerance"), doubled),
        *refusals(rows),
    ]  # fmt: skip


def stream(rows):
    """Rows a second of a long file, and the memory that takes."""
    fast = [r for r in rows if r["case"] == "speed"]
    body = [
        (
            r["backend"], r["rows"], f"{r['rows a second']:.3g}", ratio(r), r["bare_batch"],
            f"{r['refined']['rows a second']:.3g}", f"{r['refined']['evaluations']:.1f}",
            f"{r['refined']['converged']:.2%}",
        )
        for r in fast
    ]  # fmt: skip
    held = [r for r in rows if r["case"] == "memory"]
    sizes = held[0]["sizes"] if held else []
    peaks = [
        (
            r["backend"], r["how"],
            *(f"{peak:.0f} ({own:.0f})" for peak, own in zip(r["peaks"], r["own"], strict=True)), f"{r['growth']:.2f}",
        )
        for r in held
    ]  # fmt: skip
    text = (
        "One call explains a memmap of rows with 32 features; the model is an MLP. The table shows the rows per second "
        "with ten Gauss–Legendre nodes, divided by those of the bare loop at its best batch size, and the rows per "
        "second with tolerance 0.01."
    )
    memory = (
        "The peak memory of a process in MB, minus its memory before the call, with batches of 16,384 points. The part "
        "of the inputs and the results stands in brackets. *Growth*: the last peak divided by the first, both without "
        "that part."
    )
    header = (
        "backend", "rows", "rows a second", "÷ bare loop's", "its batch", "with tolerance", "gradients a row",
        "converged",
    )  # fmt: skip
    return [
        "## A million rows", "", text,
        *bar("at least 0.70 of the bare loop's rows per second", [(r["backend"], r["ratio"][1] >= 0.7) for r in fast]),
        *table(header, body), memory,
        *bar("growth 1.25 at most", [(f"{r['how']} on {r['backend']}", r["growth"] <= 1.25) for r in held]),
        *table(("backend", "how", *sizes, "growth"), peaks),
    ]  # fmt: skip


def at_once(rows):
    """Several classes in one call."""
    body = [
        (
            r["backend"], r["case"], r["how"], r["rows"], f"{r['seconds']:.3g}", ratio(r),
            " against ".join(map(str, r["evaluations"])), f"{r['differs']:.1e}",
        )
        for r in rows
    ]  # fmt: skip
    text = (
        f"The seconds of one call for {targets.CLASSES} classes, divided by those of {targets.CLASSES} calls for one "
        "class each. *Points*: path points. Each takes one forward pass, and one backward pass for each class of the "
        "call."
    )
    judged = [(f"{r['case']} on {r['backend']}", r["ratio"][1] <= 0.75) for r in rows if "nodes" in r["how"]]
    header = ("backend", "case", "how", "rows", "s", "÷ one by one", "points", "values differ by")
    return [
        "## Ten classes at once",
        "",
        text,
        *bar("a ratio of 0.75 at most, with a fixed number of nodes", judged),
        *table(header, body),
    ]


def where(rows):
    """Where the time of a call goes."""
    body = [
        (
            r["backend"], r["case"], f"{r['rows']} × {r['nodes']}", f"{r['seconds']:.3g}",
            *(f"{r['parts'][part][1]:.2f}" for part in parts.PARTS), f"{r['python']:.2f}",
        )
        for r in rows
    ]  # fmt: skip
    text = (
        "Each part of a call is run alone; the table shows the medians of its time divided by that of the call. "
        + "; ".join(f"*{part}*: {what}" for part, what in parts.PARTS.items())
        + "; *Python*: the share of Python functions in a profiled call (more than without the profiler). Parts "
        "overlap, so they need not add up to 1."
    )
    judged = [(f"{r['case']} on {r['backend']}", r["parts"]["model"][1] >= 0.7) for r in rows]
    header = ("backend", "case", "rows × nodes", "s", *parts.PARTS, "Python")
    return [
        "## Where the time goes",
        "",
        text,
        *bar("the model takes at least 0.70 of the time", judged),
        *table(header, body),
    ]


def startup(rows):
    """From nothing to a first explanation."""
    steps = list(rows[0]["seconds"]) if rows else []
    body = [(r["backend"], *(spread(r["seconds"][step]) for step in steps)) for r in rows]
    text = (
        "Seconds in a new process: `import keras`, which imports the framework; then `import aumann`; making a small "
        "MLP and calling it once; its first explanation, with compiling; its second explanation. *Beyond the "
        "framework*: the import of aumann and the first explanation."
    )
    judged = [(r["backend"], r["seconds"]["beyond the framework"][1] <= 2) for r in rows]
    return [
        "## From nothing to an explanation", "", text, *bar("2 seconds at most beyond the framework", judged),
        *table(("backend", *steps), body),
    ]  # fmt: skip


def agreement(rows):
    pairs = list(dict.fromkeys(pair for r in rows for pair in r["difference"]))
    backends = [b for b in record.BACKENDS if any(b in r["residual"] for r in rows)]
    small = [
        (
            r["case"], *(f"{r['difference'][p]:.1e}" if p in r["difference"] else "" for p in pairs),
            *(f"{r['residual'][b]:.1e}" if b in r["residual"] else "no answer" for b in backends),
        )
        for r in rows
    ]  # fmt: skip
    times = [
        (
            r["case"],
            *("{:.3g} → {:.3g}".format(*r["seconds"][b]) if b in r["seconds"] else "no answer" for b in backends),
        )
        for r in rows
    ]
    nodes = ", ".join(str(n) for n in sorted({r["nodes"] for r in rows}))
    text = (
        f"Relative L1 differences between the values of the backends, and between aumann and captum on torch, with "
        f"{nodes} Gauss–Legendre nodes. Every model is explained with its own input structure. The last columns show "
        "the residual on each backend. In a chain of very many ReLUs (efficientnet) rounding decides on which side of "
        "some kinks a node lies. There every rule on derivatives differs by more than rounding."
    )
    header = ("case", *pairs, *(f"residual, {b}" for b in backends))
    return [
        "## Real models: backends, captum, residuals", "", text, "", *table(header, small),
        "Seconds of one explanation: the first call, with compiling → the second call.", "",
        *table(("case", *backends), times),
    ]  # fmt: skip


def memory(rows):
    lines = [
        "## Memory", "",
        "The peak memory of the process in MB, minus its idle memory, with a fixed batch size. The part of the inputs "
        "and the results stands in brackets. *Growth*: the last peak divided by the first, both without that part. The "
        "bare loop takes as many gradients and keeps nothing.", "",
    ]  # fmt: skip
    for what in dict.fromkeys(r["what"] for r in rows):
        own = [r for r in rows if r["what"] == what and "reason" not in r]
        sizes = own[0]["sizes"] if own else []
        header = ("backend", "allocator", "program", *(f"{n} × {k}" for n, k in sizes), "growth")
        body = [
            (
                r["backend"], r["setting"] or "default", r["who"],
                *(f"{peak:.0f} ({held:.1f})" for peak, held in zip(r["peaks"], r["own"], strict=True)),
                f"{r['growth']:.2f}",
            )
            for r in own
        ]  # fmt: skip
        batch = own[0]["batch"] if own else ""
        lines += [f"### More {what}: rows × nodes, batches of {batch}", "", *table(header, body)]
        lines += [f"- {r['backend']}, {r['who']}: {r['reason']}" for r in rows if r["what"] == what and "reason" in r]
    return lines if rows else lines + ["Not measured.", ""]


def family(rows):
    """What the methods cost, in the price of their gradients."""
    body = [
        (r["backend"], r["case"], r["gradients"], r["batch"], ratio(r), f"{r['seconds']:.2f}")
        for r in rows
    ]  # fmt: skip
    alone = [f"{spread(r['one by one'])} times as long on {r['backend']}" for r in rows if "one by one" in r]
    text = (
        "The seconds of a call of each method on a LeNet-sized network, divided by those of as many gradients in the "
        "bare loop, at the batch size that the method chose. Conductance takes one more forward-mode pass for each "
        "gradient."
        + (
            f" Guided paths of {rows[0]['rows']} pictures, explained one by one, take {', '.join(alone)}."
            if alone
            else ""
        )
    )
    header = ("backend", "method", "gradients", "batch", "× the bare loop", "seconds")
    return ["## The methods", "", text, "", *table(header, body)]


def interactions(rows):
    """Integrated Hessians against the grid of path_explain."""
    body = [
        (
            r["backend"], r["case"], r["rows"], f"{r['seconds']:.2f}", f"{r['error']:.1e}",
            *(spread(r["ratios"][g]) if g in r["ratios"] else "" for g in ("grid", "grid, compiled")),
            f"{r['grid error']:.1e}" if r["ratios"] else "",
        )
        for r in rows
    ]  # fmt: skip
    text = (
        "All pairs of 32 features of an MLP. The grid is the sum that path_explain computes with 100 samples: once in "
        "eager mode, as in that package, and once compiled. It is timed on a few rows and scaled up; the table shows "
        "its time divided by aumann's."
    )
    header = (
        "backend",
        "aumann",
        "rows",
        "seconds",
        "error",
        "grid ÷ aumann",
        "compiled ÷ aumann",
        "error of the grid",
    )
    return ["## Integrated Hessians", "", text, "", *table(header, body)]


def exactness(rows):
    """The errors of every rule, a table for each case, in one."""
    counts = list(rows[0]["errors"]["secant"]) if rows else []
    body = [
        (
            r["case"] if k == 0 else "", label, *(f"{errors[n]:.1e}" for n in counts),
            f"{spread(r['cost'])}" if label == "secant" else "", f"{r['check']:.1e}" if k == 0 else "",
        )
        for r in rows for k, (label, errors) in enumerate(r["errors"].items())
    ]  # fmt: skip
    text = (
        "The median relative L1 error of a row's values with n nodes or cells. The reference has 2048 cells; *check* "
        "is its distance from 2048 midpoints. *Cost*: the seconds of a call with n cells divided by those with n "
        "nodes. On piecewise-linear networks (ReLU, max-pooling) secants reach 1 % with a fraction of the gradients; "
        "on smooth networks Gauss–Legendre does. (A GELU network with max-pooling is not smooth.)"
    )
    header = ("case", "rule", *counts, "cost", "check")
    return ["## Exactness of fixed rules", "", text, "", *table(header, body)]


def tolerances(rows):
    """What a tolerance kept and cost: all rows together, then case by case, then the rows that were misjudged."""
    each = [(r, tolerance.figures(r)) for r in rows]
    goals = sorted({r["tolerance"] for r in rows}, reverse=True)
    whole = []
    for goal in goals:
        own = [(r, f) for r, f in each if r["tolerance"] == goal]

        def join(key, which=lambda r: True, own=own):
            return np.concatenate([f[key] for r, f in own if which(r)] or [[]])

        reached, missed = join("converged"), int((join("fifty") > 0.01).sum())
        within = join("within")[reached]
        vain, secants = (join(key, lambda r: r["case"] in tolerance.PIECEWISE_LINEAR) for key in ("vain", "secants"))
        whole.append((
            f"{goal:.1%}", len(reached), int(reached.sum()), f"{within.mean():.1%}", f"{join('honest').mean():.1%}",
            f"{np.median(vain):.1f}", f"{np.median(join('same')):.2f}, {join('same').mean():.2f}",
            f"{np.median(join('enough')):.2f}, {join('enough').mean():.2f}",
            f"{np.median(secants):.2f}", missed,
        ))  # fmt: skip
    body = [
        (
            r["case"], f"{r['tolerance']:.1%}", r["rule"].split(",")[0], len(f["within"]), int(f["converged"].sum()),
            int(f["within"][f["converged"]].sum()), int(f["honest"].sum()), f"{np.median(f['vain']):.1f}",
            f"{np.median(r['spent']):.0f}", f"{np.median(f['same']):.2f}", f"{np.median(f['enough']):.2f}",
            f"{r['check']:.0e}",
        )
        for r, f in each
    ]  # fmt: skip
    wrong = [
        f"- {r['case']} at {r['tolerance']:.1%}, row {i}: estimate {r['said'][i]:.2g}, true {r['true'][i]:.2g}."
        for r, f in each
        for i in np.flatnonzero(~f["honest"])
    ]
    text = (
        f"Written by `python -m benchmarks.run tolerance` (Keras on {rows[0]['backend']}). The reference for the true "
        "error has 4096 cells or nodes and is computed in two ways; *check* is the distance between the two. *Within*: "
        "of the rows that converged, those with a true error within the tolerance. *Honest*: rows with true error ≤ "
        "estimate. *Estimate ÷ true*: the median over networks of ReLUs, maxima and affine maps. *Spent*: aumann's "
        "gradients divided by those of the best fixed rule on derivatives (Gauss–Legendre, midpoint or "
        "Clenshaw–Curtis, with a power of two of nodes); median, mean. The best rule is chosen for each row with "
        "knowledge of the true error: the cheapest rule with the same true error, or the cheapest within the "
        "tolerance. *Secants*: the same for the smallest `aumann.secant` within the tolerance, chosen in the same way, "
        "in place of aumann's gradients; piecewise-linear networks only. *50 nodes*: rows that have an error above 1 % "
        "with fifty Gauss–Legendre nodes. For magika, efficientnet, silero and cispliceai, whose references take long, "
        "fixed rules were tried up to 128 nodes; where none of these is enough, 256 gradients are counted. There "
        "*spent* is too large."
    )
    header = (
        "tolerance", "rows", "converged", "within", "honest", "estimate ÷ true", "spent, same error",
        "spent, tolerance", "secants, tolerance", "50 nodes",
    )  # fmt: skip
    cases = (
        "case", "tolerance", "sums", "rows", "converged", "within", "honest", "estimate ÷ true", "spent",
        "÷ same error", "÷ tolerance", "check",
    )  # fmt: skip
    return [text, "", *table(header, whole), *table(cases, body), "Rows with a true error above the estimate:", "",
            *(wrong or ["None."]), ""]  # fmt: skip


def account(about, files):
    """Where every row is from, and what the last run of a script said."""
    ended = {s["script"]: s for s in about["scripts"]}
    body = []
    for (script, backend), own in files.items():
        name = f"{script} on {backend}" if backend else script
        when = "; ".join(sorted({row["measured"] for row in own}))
        run = ended.get(name)
        if own or run:
            body.append((name, len(own), when, f"{run['minutes']:.1f}" if run else "", run["failed"] if run else ""))
    return ["## What ran", "", *table(("script", "rows", "measured", "minutes", "failed"), body)]


def main():
    parser = record.options(__doc__, SCRIPTS)
    parser.add_argument("--backends", nargs="+", choices=record.BACKENDS, default=record.BACKENDS)
    parser.add_argument("--page", help="the page to write; docs/benchmarks.md without, in the --out folder if --quick")
    parser.add_argument("--page-only", action="store_true", help="measure nothing, write the page from the last rows")
    args = parser.parse_args()
    scripts = record.known(parser, args.names, SCRIPTS)
    args.out = args.out or ("out/bench" if args.quick else record.ROWS)
    Path(args.out).mkdir(parents=True, exist_ok=True)
    good = args.page_only or run_all(scripts, args.backends, args.out, args.quick)
    file = Path(args.page or (Path(args.out, "benchmarks.md") if args.quick else "docs/benchmarks.md"))
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(page(args.out), encoding="utf-8")
    print(f"wrote {file}")
    if rows := [] if args.quick else record.load(args.out, "tolerance"):
        file = Path("docs/exactness.md")
        prose = file.read_text(encoding="utf-8").split(MEASURED)[0]
        file.write_text(prose + "\n".join([MEASURED, "", *tolerances(rows)]).rstrip() + "\n", encoding="utf-8")
        print(f"wrote {file}")
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
