"""The command line: `aumann explain MODEL DATA -o OUT`, and `aumann demo`.

The heavy imports wait until a command runs: `aumann --help` is instant, and Keras reads which framework to run on when
it is imported. Options are described in docs/cli.md.
"""

import argparse
import contextlib
import importlib.util
import json
import logging
import os
import re
import sys
import traceback
import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np

from aumann.cli import files
from aumann.core.quadrature import FAMILIES
from aumann.report.table import as_text
from aumann.storage import archive as storage
from aumann.storage.atomic import all_or_nothing

BACKENDS = ("tensorflow", "jax", "torch")
USER_ERRORS = (ValueError, TypeError, OSError, ImportError, NotImplementedError, MemoryError)
NAMES = "baseline tolerance max_evaluations rule output layer batch_size compile precision devices target".split()
ARGUMENTS = re.compile(rf"(?<![\w.(-])({'|'.join(NAMES)})=([\w\"'…]?)")


def main(argv=None):
    """Runs a command.

    Returns:
        The exit code: 0, 2 for an error in what was asked or given, 130 after Ctrl-C.
    """
    args = _parser().parse_args(argv)
    with warnings.catch_warnings():
        warnings.simplefilter("default", UserWarning)
        warnings.showwarning = lambda text, *_: print(f"aumann: warning: {as_options(text)}", file=sys.stderr)
        try:
            args.run(args)
        except KeyboardInterrupt:
            print("aumann: interrupted; nothing was written.", file=sys.stderr)
            return 130
        except Exception as error:
            if args.debug:
                traceback.print_exc()
            said = (
                error
                if isinstance(error, USER_ERRORS) and str(error)
                else (
                    "Expected a model that can be explained at these rows; received an error of the framework "
                    f"({storage.brief(error)}). Try model.predict on them; --debug shows where it came about."
                )
            )
            print(f"aumann: {as_options(said)}", file=sys.stderr)
            return 2
    return 0


def as_options(message):
    """What is said to callers of `explain`, in the options that stand for its arguments."""
    text = re.sub(r"""\bbaseline=\{["']([^"'{}]+)["']: "fixed"\}""", r"--baseline \1=fixed", str(message))
    return re.sub(ARGUMENTS, lambda found: f"--{found[1].replace('_', '-')}{' ' * bool(found[2])}{found[2]}", text)


def _parser():
    parser = argparse.ArgumentParser(prog="aumann", description="Explain Keras 3 models by Aumann-Shapley values.")
    parser.add_argument("--version", action="version", version=f"aumann {version('aumann')}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--backend", choices=BACKENDS, help="framework that Keras runs on")
    common.add_argument("--quiet", action="store_true", help="no progress and no table; warnings and errors only")
    common.add_argument("--debug", action="store_true", help="show the traceback of an error")

    explain = commands.add_parser("explain", parents=[common], help="explain the rows of a file")
    explain.set_defaults(run=_explain)
    add = explain.add_argument
    add("model", metavar="MODEL", help=".keras, .h5 or a SavedModel folder")
    add("data", metavar="DATA", help=".npy, .npz (arrays by input name), .csv or .parquet")
    add("-o", "--out", required=True, help="writes OUT.npz and OUT.png")
    add("--target", default="predicted", help='3, "predicted", "all", several as 3,1,7, an index as box:3 or 39:2')
    start = 'a number, "mean" of the data, a file, or "fixed"; once for each INPUT, or for all (default: 0.0)'
    add("--baseline", action="append", metavar="[INPUT=]VALUE", help=start)
    add("--tolerance", help="relative error at which a row is done (default: 0.01)")
    add("--max-evaluations", help="gradients spent on a row and baseline at most (default: 2000)")
    add("--rule", help=f"a fixed cost instead: NAME:NODES with NAME among {', '.join(FAMILIES)}")
    add("--output", help='name or index of an output, or "logits"')
    add("--layer", action="append", help="attribute at this layer; may be repeated")
    add("--batch-size", default="auto", help="path points per model call")
    add("--compile", help='true for long jobs, false for what is there at once, or "graph", "xla", "eager", "inductor"')
    add("--precision", help='"full" (default) or "tf32", which an accelerator may round products to')
    add("--devices", help='"all", or names separated by commas, as gpu:0,gpu:1')
    add("--rows", default=":", help="rows to explain, as 0:10, 7 or 0,3,9")
    add("--columns", default="", help="keep only these columns (or arrays of an .npz), separated by commas")
    add("--drop", default="", help="leave these columns out, as a column of labels")
    add("--no-header", action="store_true", help="the .csv begins with data")
    add("--no-plot", action="store_true", help="write no picture")
    add("--unsafe", action="store_true", help="load a model even if it can run code; only from authors you trust")

    demo = commands.add_parser("demo", parents=[common], help="train and explain two small models")
    demo.set_defaults(run=_demo)
    demo.add_argument("-o", "--out", default="demo", help="folder for the pictures, arrays and text (default: demo)")
    return parser


# ---- commands ------------------------------------------------------------------------------------------------------


def _explain(args):
    target = parse_target(args.target)
    exactness = {"rule": parse_rule(args.rule)} if args.rule else {}
    exactness |= {
        k: parse_number(k, v) for k in ("tolerance", "max_evaluations") if (v := getattr(args, k)) is not None
    }
    settings = {"output": _name_or_index(args.output), "layer": args.layer, **_running(args)}
    npz, png = _outputs(args)
    data = files.read_data(args.data, _names(args.columns), _names(args.drop), not args.no_header)
    count = files.count(data, args.data)
    rows = parse_rows(args.rows, count)
    choose_backend(args.backend)
    with files.opened_model(args.model, args.unsafe) as model:
        data = _by_input(data, model)
        chosen = files.each(lambda x: x.iloc[rows] if hasattr(x, "iloc") else files.native(x[rows]), data)
        baseline = read_baseline(args.baseline or ["0.0"], data, rows, not args.no_header)

        import aumann

        method = aumann.IntegratedGradients(model, **exactness, **settings)
        with _progress(args.quiet) as progress:
            explanation = method.explain(chosen, target, baseline, progress)
    with all_or_nothing(npz.parent) as folder:
        explanation.save(folder / npz.name)
        if png:
            explanation.plot(folder / png.name)
    if not args.quiet:
        print(as_text(explanation))
        print(f"{len(explanation)} of {count} rows of {args.data}; wrote", npz, *[png] * bool(png))


def _by_input(data, model):
    """A table whose columns are the inputs of a model of several, as a dict of them."""
    names = [tensor.name for tensor in getattr(model, "inputs", None) or ()]
    if hasattr(data, "columns") and len(names) > 1 and set(names) <= set(data.columns):
        return {name: data[[name]] for name in names}
    return data


def _demo(args):
    _require("sklearn", "scikit-learn", "demo")
    _require("matplotlib", "matplotlib", "plot")
    _require("pandas", "pandas", "table")
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # models so small spend their time on threads waiting for each other
    choose_backend(args.backend)
    from aumann.cli import demo

    say = (lambda text: None) if args.quiet else print
    demo.run(args.out, say, as_text)


@contextlib.contextmanager
def _progress(quiet):
    """A callable (done, total) that draws a bar where someone watches and the work takes more than a second."""
    if quiet or importlib.util.find_spec("tqdm") is None:
        yield None
        return
    from tqdm import tqdm

    with tqdm(unit="grad", unit_scale=True, delay=1, disable=None) as bar:

        def show(done, total):
            bar.total = total
            bar.update(done - bar.n)

        yield show


# ---- what the user typed -------------------------------------------------------------------------------------------


def choose_backend(wanted):
    """Settles which framework Keras runs on, before Keras is imported.

    Raises:
        ValueError, ImportError: Keras runs on another one already, or the framework is not installed.
    """
    if "keras" in sys.modules:
        import keras

        if wanted not in (None, keras.config.backend()):
            raise ValueError(
                f"Expected --backend {keras.config.backend()}, which Keras runs on in this process; received {wanted}. "
                "Start a new process."
            )
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # it warns of every new shape that a function is traced for
    installed = [name for name in BACKENDS if importlib.util.find_spec(name)]
    wanted = wanted or os.environ.get("KERAS_BACKEND")
    if wanted is None:
        # Keras writes keras.json by itself, so what that names decides only if it is there.
        wanted = next((name for name in (_configured(), *installed) if name in installed), "tensorflow")
    if wanted in BACKENDS and wanted not in installed:
        raise ImportError(
            f"Expected {wanted}, which is not installed; received an environment with "
            f'{", ".join(installed) or "none of " + ", ".join(BACKENDS)}. pip install "aumann[{wanted}]", or choose '
            "another with --backend."
        )
    os.environ["KERAS_BACKEND"] = wanted


def _configured():
    """The backend in Keras's own configuration file, or None."""
    home = os.environ.get("KERAS_HOME") or Path.home() / ".keras"
    try:
        return json.loads((Path(home) / "keras.json").read_text()).get("backend")
    except (OSError, ValueError, AttributeError):
        return None


def parse_target(text):
    """ "predicted", "all", 3, "box:3" -> ("box", 3), and "3,1,7" -> a list of those."""
    items = [tuple(_number(part) for part in item.strip().split(":")) for item in text.split(",")]
    if any(part == "" for item in items for part in item):
        raise ValueError(
            f'Expected --target as 3, "predicted", "all", 3,1,7, box:3 or 39:2; received {text!r}. Name an output unit.'
        )
    items = [item[0] if len(item) == 1 else item for item in items]
    return items[0] if len(items) == 1 else items


def parse_rule(text):
    """ "gauss_legendre:50" -> aumann.gauss_legendre(50)."""
    name, _, nodes = text.partition(":")
    if name not in FAMILIES or not (nodes.isdecimal() or text == name):
        raise ValueError(
            f"Expected --rule as NAME:NODES with NAME among {', '.join(FAMILIES)}; received {text!r}. Give for example "
            "gauss_legendre:50."
        )
    return FAMILIES[name](int(nodes)) if nodes else FAMILIES[name]()


def parse_number(name, text):
    """The value of --tolerance or --max-evaluations."""
    try:
        return int(text) if name == "max_evaluations" else float(text)
    except ValueError:
        wanted = "a whole number, such as 2000" if name == "max_evaluations" else "a number, such as 0.01"
        raise ValueError(f"Expected --{name.replace('_', '-')} as {wanted}; received {text!r}.") from None


def parse_rows(text, count):
    """ "0:10", "7" or "0,3,9" -> a slice or list of rows that exist."""
    try:
        if ":" in text:
            rows = slice(*(int(part) if part.strip() else None for part in text.split(":")))
        else:
            rows = [int(part) for part in text.split(",")]
        chosen = np.arange(count)[rows]
    except (ValueError, TypeError, IndexError):
        chosen = ()
    if not len(chosen):
        raise ValueError(f"Expected --rows as 0:10, 7 or 0,3,9 among {count} rows; received {text!r}. Choose some.")
    return rows


def read_baseline(texts, data, rows, header=True):
    """Where the path starts, from the values of --baseline.

    Args:
        texts: each "VALUE" for all inputs or "INPUT=VALUE" for one. VALUE is a number, "mean" of the whole data,
            "fixed", or a file whose arrays are one row, or one for each row of the data.
        data: the whole data.
        rows: those that are explained.
        header: as for `read_data`.

    Returns:
        What `explain` takes as baseline.
    """
    named = [text.partition("=")[::2] for text in texts if "=" in text and not Path(text).exists()]
    if not named and len(texts) == 1:
        return _start(texts[0], data, rows, header)
    inputs = data if isinstance(data, dict) else {}
    wrong = [text for text in texts if text.partition("=")[0] not in inputs]
    if wrong or len(dict(named)) < len(texts):
        raise ValueError(
            f"Expected --baseline INPUT=VALUE once for each input among {list(inputs)}; received {', '.join(texts)}. "
            "Give one VALUE for all inputs, or name them as the arrays of an .npz are named."
        )
    return {name: _start(text, inputs[name], rows, header) for name, text in named}


def _start(text, data, rows, header):
    if text == "fixed":
        return text
    if text == "mean":
        return files.each(lambda x: np.asarray(x, np.float64).mean(0), data)
    number = _number(text, float)
    if not isinstance(number, str):
        return number
    if not Path(text).suffix:
        raise ValueError(
            f'Expected --baseline as a number, "mean", "fixed" or a file; received {text!r}. Give for example 0.0.'
        )
    table = Path(text).suffix in (".csv", ".parquet")
    columns = list(data.columns) if table and hasattr(data, "columns") else ()
    start = files.read_data(text, columns, header=header)
    if table and isinstance(data, dict):
        start = _columns_of(start, data, text)
    if isinstance(start, dict) and isinstance(data, dict):
        return {name: _same_rows(x, data.get(name), rows) for name, x in start.items()}
    if isinstance(start, list) and isinstance(data, list):
        if len(start) != len(data):
            raise ValueError(
                f"Expected {len(data)} arrays in the baseline {text}, as in the data; received {len(start)}. Give one "
                "for each input, or name them."
            )
        return [_same_rows(x, of, rows) for x, of in zip(start, data, strict=True)]
    return start if isinstance(start, dict | list) else _same_rows(start, data, rows)


def _columns_of(table, data, path):
    """The columns of a table that are named as the inputs."""
    if missing := [name for name in data if name not in table.columns]:
        raise ValueError(
            f"Expected columns named as the inputs, {list(data)}, in the baseline {path}; received none for {missing}. "
            "Add them, or give --baseline INPUT=VALUE."
        )
    return {name: table[[name]] for name in data}


def _same_rows(start, data, rows):
    """A baseline for each row of the data, cut to the rows that are explained; a single one as it is."""
    each = np.ndim(start) == np.ndim(data) and len(start) == len(data)
    return files.native(np.asarray(start)[rows] if each else np.asarray(start))


def _number(text, *kinds):
    """The text as an int or as one of `kinds`; the text itself where it is none."""
    for kind in (int, *kinds):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


def _name_or_index(text):
    return None if text is None else _number(text)


def _running(args):
    """Keywords that say how the model is run, those that were given."""
    found = {
        "batch_size": args.batch_size if args.batch_size == "auto" else _number(args.batch_size),
        "compile": {"true": True, "false": False}.get(args.compile, args.compile),
        "precision": args.precision,
        "devices": args.devices if args.devices in (None, "all") else _names(args.devices),
    }
    return {name: value for name, value in found.items() if value is not None}


def _names(text):
    return [name for name in text.split(",") if name]


def _outputs(args):
    """Paths of the results; the picture's is None without one.

    Raises:
        OSError, ImportError: they could not be written.
    """
    npz = Path(args.out)
    if npz.name in ("", ".."):
        raise IsADirectoryError(f"Expected the name of a file to write; received {args.out!r}. Give another -o.")
    if npz.suffix not in (".npz", ".png"):
        npz = npz.with_name(npz.name + ".npz")
    npz, png = npz.with_suffix(".npz"), None if args.no_plot else npz.with_suffix(".png")
    if not npz.parent.is_dir():
        raise FileNotFoundError(f"Expected a folder to write to; {npz.parent} is none. Create it, or name another.")
    if not os.access(npz.parent, os.W_OK | os.X_OK):
        raise PermissionError(f"Expected a folder to write to; {npz.parent} may not be. Name another.")
    for path in filter(None, (npz, png)):
        _check_output(path, args)
    if png and png.exists() and npz.exists() and png.samefile(npz):
        raise FileExistsError(f"Expected two files to write; {png} and {npz} are one. Give another -o.")
    if png:
        _require("matplotlib", "matplotlib", "plot", " Or give --no-plot.")
    return npz, png


def _check_output(path, args):
    """Raises OSError where a result cannot be written, or would take the place of what the command reads."""
    try:
        there = path.exists()
    except OSError as problem:
        raise OSError(
            f"Expected a file to write; received {path.name} ({problem.strerror}). Give another -o."
        ) from None
    if there and not path.is_file():
        raise IsADirectoryError(f"Expected a file to write; {path} is a folder. Give another -o.")
    read = {"the data": [args.data], "the model": [args.model]}
    read["a baseline"] = [name for text in args.baseline or () for name in (text, text.partition("=")[2]) if name]
    for what, names in read.items():
        for file in filter(Path.exists, map(Path, names)):
            inside = file.is_dir() and Path(os.path.realpath(file)) in Path(os.path.realpath(path)).parents
            if inside or (there and path.samefile(file)):
                raise FileExistsError(f"Expected a file to write; {path} is {what} that is read. Give another -o.")


def _require(module, package, extra, otherwise=""):
    if importlib.util.find_spec(module) is None:
        raise ImportError(f'Expected {package}, which is not installed. pip install "aumann[{extra}]".{otherwise}')


if __name__ == "__main__":
    sys.exit(main())
