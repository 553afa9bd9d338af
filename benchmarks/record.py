"""What the benchmark scripts share: their options, their rows as JSON, and a Python process of its own.

The rows that docs/benchmarks.md shows are kept beside the scripts, in benchmarks/rows: what one script measures again
replaces its own rows and leaves the others. Each row tells the day and the processor it is from.
"""

import argparse
import contextlib
import datetime
import json
import os
import platform
import subprocess
import sys
import warnings
from pathlib import Path

BACKENDS = ("tensorflow", "jax", "torch")
ROWS = "benchmarks/rows"


def options(description, names):
    """The options of every script: which cases, a smoke run, and where the rows go."""
    parser = argparse.ArgumentParser(description=description.strip().splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="case", help=f"some of {', '.join(names)}; all without")
    parser.add_argument("--quick", action="store_true", help="a smoke run: tiny sizes, few cases, numbers of no worth")
    parser.add_argument("--out", help=f"folder to write the rows to, as JSON; those that are kept are in {ROWS}")
    return parser


def known(parser, given, names):
    """The names given, or all; an unknown one ends the script."""
    unknown = [name for name in given if name not in names]
    if unknown:
        parser.error(f"expected cases among {', '.join(names)}; received {', '.join(unknown)}")
    return list(given or names)


def cases(description, names, contest, sentence, file, *keys, default=lambda quick: []):
    """A script that takes case after case, and prints and keeps the rows of each as they come.

    Args:
        description: the script's.
        names: of the cases.
        contest: (case, quick) -> rows.
        sentence: row -> what is printed.
        file: of the rows, in which they replace those that have the same `keys`.
        default: quick -> cases if none are named; empty for all.
    """
    parser = options(description, names)
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    for name in known(parser, args.names or default(args.quick), names):
        rows = contest(name, args.quick)
        print("\n".join(map(sentence, rows)), flush=True)
        merge(rows, args.out, file, *keys)


def save(rows, out, name):
    """Writes the rows to `out`/`name`.json, if there is an `out`; new ones are of today and of this processor."""
    if out:
        now = f"{datetime.date.today()}, {processor()}"
        write([{**row, "measured": row.get("measured", now)} for row in rows], out, name)


def write(found, out, name):
    Path(out).mkdir(parents=True, exist_ok=True)
    Path(out, f"{name}.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def processor():
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def merge(rows, out, name, *keys):
    """Writes the rows to `out`/`name`.json, if there is an `out`, in place of those there that have the same keys."""
    if out:
        new = {tuple(row[key] for key in keys) for row in rows}
        kept = [row for row in load(out, name) if tuple(row[key] for key in keys) not in new]
        save(kept + rows, out, name)


def load(out, name):
    """The rows of `out`/`name`.json; none if there is no such file."""
    file = Path(out, f"{name}.json")
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else []


def python(module, *arguments, backend=None, capture=True, **environment):
    """`python -m module arguments` in a process of its own, on the backend named."""
    chosen = {"KERAS_BACKEND": backend} if backend else {}
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-m", module, *map(str, arguments)],
        env={"TF_CPP_MIN_LOG_LEVEL": "3", **os.environ, **chosen, **environment},
        capture_output=capture,
        text=True,
    )


def last_line(text):
    """The last line with something in it: where a traceback says what went wrong."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "nothing was said")
