"""Every benchmark on every backend, each script in a process of its own, and a page of what they measured.

    python -m benchmarks.run [floor peers family interactions agree memory exactness tolerance]
                             [--backends torch …] [--quick] [--page-only]

`make bench` runs this. Rows go to out/bench as JSON, the printed lines to lines.txt there, and the page to
docs/benchmarks.md, or for a smoke run to out/bench as well; what was measured of tolerances ends docs/exactness.md. The
pages are written from the rows alone; --page-only writes them again from those of the last run.
"""

import contextlib
import datetime
import json
import os
import platform
import subprocess
import sys
import time
from collections import defaultdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from benchmarks import record, tolerance
from benchmarks.contest import spread

SCRIPTS = {
    "floor": True,
    "peers": True,
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
        "date": datetime.date.today().isoformat(),
        "CPU": cpu(),
        "cores": os.cpu_count(),
        "memory": f"{memory:.0f} GB",
        "system": f"{system}, {platform.machine()}",
        "load before the first script": f"{os.getloadavg()[0]:.1f}",
        "Python": platform.python_version(),
        **{name: v for name in ("aumann", "keras", "numpy", *FRAMEWORKS, *PEERS) if (v := installed(name))},
    }


def cpu():
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


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
    record.save({"machine": about, "scripts": took, "quick": quick}, out, "run")
    return not any(d["failed"] for d in done)


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
    about = json.loads(Path(out, "run.json").read_text(encoding="utf-8"))
    peers = [row for backend in record.BACKENDS for row in record.load(out, f"peers-{backend}")]
    floors = [row for backend in record.BACKENDS for row in record.load(out, f"floor-{backend}")]
    families, pairs = (
        [row for backend in record.BACKENDS for row in record.load(out, f"{script}-{backend}")]
        for script in ("family", "interactions")
    )
    smoke = ["**A smoke run: tiny sizes, few cases. The numbers say nothing.**", ""] if about["quick"] else []
    lines = [
        "# Benchmarks", "",
        "Written by `make bench` from what it measured on one machine. The contestants of a race share a process and "
        "take turns; a ratio is the median over the rounds, with its quartiles in brackets.", "",
        *smoke,
        *table(("", ""), list(about["machine"].items())),
        *ahead(peers), *summary(peers), *details(peers), *refused(peers),
        *floor(floors), *family(families), *interactions(pairs),
        *agreement(record.load(out, "agree")), *memory(record.load(out, "memory")),
        *exactness(record.load(out, "exactness")), *account(about),
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
        f"Of {raced} races. aumann's time includes F at both ends of every path and a fingerprint of the weights, "
        "which weigh most where few rows are explained."
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
        f"Seconds of the fastest peer in parts of aumann's, {nodes} nodes: above 1 aumann is faster. aumann runs at "
        "its default batch size, a peer at the best of a few."
    )
    return ["## aumann and the fastest peer", "", text, "", *table(("case", "rows", *record.BACKENDS), body)]


def details(rows):
    """Every race, a table for each backend."""
    lines = [
        "## Every race", "",
        "*Differs*: the largest relative L1 difference of a row's values from aumann's; a peer with another rule, or "
        "with random points, differs by its error. *Residual*: Σ|Σφ − (F(x) − F(x′))| in parts of Σ|F(x) − F(x′)|. "
        "*One round*: so much slower than the fastest that it ran once.", "",
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
    found = defaultdict(list)
    for r in rows:
        if "reason" in r:
            found[r["peer"], r["backend"], r["reason"]].append(r["case"])
    body = [(peer, backend, ", ".join(cases), reason) for (peer, backend, reason), cases in sorted(found.items())]
    return ["## What a peer could not take", "", *table(("peer", "backend", "cases", "reason"), body)]


def floor(rows):
    body = [
        (
            r["backend"], r["case"], r["gradients"], f"{r['seconds']:.3g}", ratio(r),
            f"{r['bare_ms']:.3g}", r["bare_batch"], r["batch"],
        )
        for r in rows
    ]  # fmt: skip
    text = (
        "aumann's seconds in parts of a bare compiled loop's, which differentiates one batch that lies on the device "
        "as often, at its own best batch size, and does nothing else."
    )
    header = ("backend", "case", "gradients", "ours, s", "ours ÷ bare", "bare, ms each", "its batch", "our batch")
    return ["## The floor", "", text, "", *table(header, body)]


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
        f"Relative L1 differences of the values between backends, and of aumann's from captum's on torch, {nodes} "
        "Gauss–Legendre nodes; every model is explained with its own input structure. Then the residual on each "
        "backend. Where very many ReLUs stand one behind the other (efficientnet), rounding decides on which side of "
        "some kinks a node falls, and every rule on derivatives differs by more than rounding."
    )
    header = ("case", *pairs, *(f"residual, {b}" for b in backends))
    return [
        "## Real models: backends, captum, residuals", "", text, "", *table(header, small),
        "Seconds of one explanation: the first call, compiling included → the second.", "",
        *table(("case", *backends), times),
    ]  # fmt: skip


def memory(rows):
    lines = [
        "## Memory", "",
        "The peak of the process above its idle size in MB, at a fixed batch size; in brackets how much of it is the "
        "inputs and the results. *Growth*: the last over the first, beyond these. The bare loop takes as many "
        "gradients and keeps nothing.", "",
    ]  # fmt: skip
    for what in dict.fromkeys(r["what"] for r in rows):
        own = [r for r in rows if r["what"] == what and "reason" not in r]
        sizes = own[0]["sizes"] if own else []
        header = ("backend", "allocator", "who", *(f"{n} × {k}" for n, k in sizes), "growth")
        body = [
            (
                r["backend"], r["setting"] or "as it comes", r["who"],
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
    alone = [
        f"one by one they take {spread(r['one by one'])} times as long on {r['backend']}"
        for r in rows
        if "one by one" in r
    ]
    text = (
        "The seconds of a call of each method on a LeNet-sized network, in parts of what as many gradients take in the "
        "bare loop at the batch size that the method chose. Conductance takes one forward-mode pass more for each."
        + (f" Guided paths of {rows[0]['rows']} pictures: {', '.join(alone)}." if alone else "")
    )
    header = ("backend", "method", "gradients", "batch", "× the bare loop", "seconds")
    return ["## The family", "", text, "", *table(header, body)]


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
        "All pairs of 32 features of an MLP. The grid is what path_explain does with 100 samples, in eager mode as the "
        "package has it, and compiled as it has not; timed on a few rows and scaled, in parts of aumann's time."
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
        "The median relative L1 error of a row's values by n nodes or cells, measured from those by 2048 cells (the "
        "last column: how far 2048 midpoints are from these). *Cost*: the seconds of a call over cells in parts of one "
        "over as many nodes. On piecewise-linear networks (ReLU, max-pooling) secants reach 1 % with a fraction of the "
        "gradients; on smooth ones Gauss–Legendre does. (A GELU network with max-pooling is not smooth.)"
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
        f"- {r['case']} at {r['tolerance']:.1%}, row {i}: said {r['said'][i]:.2g}, true {r['true'][i]:.2g}."
        for r, f in each
        for i in np.flatnonzero(~f["honest"])
    ]
    text = (
        f"Written by `python -m benchmarks.run tolerance` (Keras on {rows[0]['backend']}). The true error is measured "
        "from 4096 cells or nodes, two ways; *check* is the distance of the two. *Within*: rows whose true error is "
        "within the tolerance, of those that converged. *Honest*: true error ≤ said. *Said ÷ true*: the median over "
        "networks made of ReLUs, maxima and affine maps. *Spent*: gradients against those of the cheapest fixed rule "
        "on derivatives (Gauss–Legendre, midpoint, Clenshaw–Curtis, a power of two of nodes) that a clairvoyant would "
        "pick for the row, for the same true error and for the tolerance: median, mean. *Secants*: the same for the "
        "fewest cells of `aumann.secant`, which a clairvoyant picks too, on piecewise-linear networks. *50 nodes*: "
        "rows that fifty Gauss–Legendre nodes leave more than 1 % off."
    )
    header = (
        "tolerance", "rows", "converged", "within", "honest", "said ÷ true", "spent, same error", "spent, tolerance",
        "secants, tolerance", "50 nodes",
    )  # fmt: skip
    cases = (
        "case", "tolerance", "sums", "rows", "converged", "within", "honest", "said ÷ true", "spent", "÷ same error",
        "÷ tolerance", "check",
    )  # fmt: skip
    return [text, "", *table(header, whole), *table(cases, body), "Rows that were said to be better than they are:", "",
            *(wrong or ["None."]), ""]  # fmt: skip


def account(about):
    body = [(s["script"], f"{s['minutes']:.1f}", s["failed"]) for s in about["scripts"]]
    return ["## What ran", "", *table(("script", "minutes", "ended badly"), body)]


def main():
    parser = record.options(__doc__, SCRIPTS)
    parser.set_defaults(out="out/bench")
    parser.add_argument("--backends", nargs="+", choices=record.BACKENDS, default=record.BACKENDS)
    parser.add_argument("--page", help="the page to write; docs/benchmarks.md without, in the --out folder if --quick")
    parser.add_argument("--page-only", action="store_true", help="measure nothing, write the page from the last rows")
    args = parser.parse_args()
    scripts = record.known(parser, args.names, SCRIPTS)
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
