"""The command line: `aumann explain MODEL DATA -o OUT`, and `aumann demo`.

The heavy imports wait until a command runs: `aumann --help` is instant, and Keras reads which framework to run on when
it is imported. Options are described in docs/cli.md.
"""

import contextlib
import importlib.util
import json
import logging
import os
import re
import sys
import traceback
import warnings
from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from aumann.cli import files
from aumann.cli.models import opened_model
from aumann.cli.parse import BACKENDS, method_settings, names, parse_rows, parse_target, parser, read_baseline
from aumann.execution import progress
from aumann.report.table import as_text
from aumann.storage import archive as storage
from aumann.storage.atomic import all_or_nothing

USER_ERRORS = (ValueError, TypeError, OSError, ImportError, NotImplementedError, MemoryError)
NAMES = "baseline tolerance max_evaluations rule output layer batch_size compile precision devices target".split()
ARGUMENTS = re.compile(rf"(?<![\w.(-])({'|'.join(NAMES)})=([\w\"'…]?)")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        argv: the words after `aumann`; those of the process when None.

    Returns:
        The exit code: 0, 2 for an error in what was asked or given, 130 after Ctrl-C.
    """
    args = parser().parse_args(argv)
    with warnings.catch_warnings():
        warnings.simplefilter("default", UserWarning)
        warnings.showwarning = lambda text, *_: print(f"aumann: warning: {as_options(text)}", file=sys.stderr)
        try:
            COMMANDS[args.command](args)
        except KeyboardInterrupt:
            print("aumann: interrupted; nothing was written.", file=sys.stderr)
            return 130
        except Exception as error:
            if args.debug:
                traceback.print_exc()
            print(f"aumann: {as_options(_message(error))}", file=sys.stderr)
            return 2
    return 0


def _message(error: Exception) -> str:
    """What to print of an error: its own words if the library wrote them, else where to look."""
    if isinstance(error, USER_ERRORS) and str(error):
        return str(error)
    return (
        "Expected a model that can be explained at these rows; received an error of the framework "
        f"({storage.brief(error)}). Try model.predict on them; --debug shows where it came about."
    )


def as_options(message: str | Warning) -> str:
    """A message of `explain`, with the options of the command in place of the arguments: `--rule` for `rule=`."""
    text = re.sub(r"""\bbaseline=\{["']([^"'{}]+)["']: "fixed"\}""", r"--baseline \1=fixed", str(message))
    return re.sub(ARGUMENTS, lambda match: f"--{match[1].replace('_', '-')}{' ' * bool(match[2])}{match[2]}", text)


# ---- commands ------------------------------------------------------------------------------------------------------


def _explain(args: Namespace) -> None:
    target = parse_target(args.target)
    settings = method_settings(args)
    npz, png = _outputs(args)
    columns, drop, header = names(args.columns), names(args.drop), not args.no_header
    data = files.read_data(args.data, columns, drop, header)
    count = files.count(data, args.data)
    rows = parse_rows(args.rows, count)
    choose_backend(args.backend)
    with opened_model(args.model, args.unsafe) as model:
        data = _by_input(data, model)
        explained = files.each(lambda x: x.iloc[rows] if hasattr(x, "iloc") else files.native(x[rows]), data)
        baseline = read_baseline(args.baseline or ["0.0"], data, rows, header)

        import aumann

        method = aumann.IntegratedGradients(model, **settings)
        with progress_bar(args.quiet) as bar:
            explanation = method.explain(explained, target, baseline, bar)
    with all_or_nothing(npz.parent) as folder:
        explanation.save(folder / npz.name)
        if png:
            explanation.plot(folder / png.name)
    if not args.quiet:
        print(as_text(explanation))
        print(f"{len(explanation)} of {count} rows of {args.data}; wrote", npz, *[png] * bool(png))


def _by_input(data: Any, model: Any) -> Any:
    """A table whose columns are the inputs of a model of several, as a dict of them."""
    inputs = [tensor.name for tensor in getattr(model, "inputs", None) or ()]
    if hasattr(data, "columns") and len(inputs) > 1 and set(inputs) <= set(data.columns):
        return {name: data[[name]] for name in inputs}
    return data


def _demo(args: Namespace) -> None:
    _require("sklearn", "scikit-learn", "demo")
    _require("matplotlib", "matplotlib", "plot")
    _require("pandas", "pandas", "table")
    os.environ.setdefault("OMP_NUM_THREADS", "1")  # models so small spend their time on threads waiting for each other
    choose_backend(args.backend)
    from aumann.cli import demo

    say = (lambda text: None) if args.quiet else print
    demo.run(args.out, say, as_text)


@contextlib.contextmanager
def progress_bar(quiet: bool) -> Iterator[Callable[[int, int], None] | None]:
    """A bar on a terminal, for work that takes more than a second; None if it is unwanted or tqdm is not installed."""
    if quiet or importlib.util.find_spec("tqdm") is None:
        yield None
        return
    with progress.bar(delay=1, disable=None) as show:  # tqdm disables itself where standard error is no terminal
        yield show


COMMANDS = {"explain": _explain, "demo": _demo}


# ---- what a command needs ------------------------------------------------------------------------------------------


def choose_backend(wanted: str | None) -> None:
    """Sets the framework that Keras runs on, before Keras is imported.

    That is the one wanted, else KERAS_BACKEND, else what Keras is configured for, else the first that is installed.

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


def _configured() -> str | None:
    """The backend in Keras's own configuration file, or None."""
    home = os.environ.get("KERAS_HOME") or Path.home() / ".keras"
    try:
        return json.loads((Path(home) / "keras.json").read_text()).get("backend")
    except (OSError, ValueError, AttributeError):
        return None


def _outputs(args: Namespace) -> tuple[Path, Path | None]:
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


def _check_output(path: Path, args: Namespace) -> None:
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
    for what, paths in read.items():
        for file in filter(Path.exists, map(Path, paths)):
            inside = file.is_dir() and Path(os.path.realpath(file)) in Path(os.path.realpath(path)).parents
            if inside or (there and path.samefile(file)):
                raise FileExistsError(f"Expected a file to write; {path} is {what} that is read. Give another -o.")


def _require(module: str, package: str, extra: str, otherwise: str = "") -> None:
    if importlib.util.find_spec(module) is None:
        raise ImportError(f'Expected {package}, which is not installed. pip install "aumann[{extra}]".{otherwise}')


if __name__ == "__main__":
    sys.exit(main())
