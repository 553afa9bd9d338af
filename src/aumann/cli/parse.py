"""What the user types: the parser of the options, and their values as `explain` takes them.

Options are described in docs/cli.md.
"""

import argparse
import contextlib
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aumann.cli import files
from aumann.core.quadrature import FAMILIES, Rule

BACKENDS = ("tensorflow", "jax", "torch")


def parser() -> argparse.ArgumentParser:
    """The parser of all commands; `command` is the name of the one that was given."""
    top = argparse.ArgumentParser(prog="aumann", description="Explain Keras 3 models by Aumann-Shapley values.")
    top.add_argument("--version", action="version", version=f"aumann {version('aumann')}")
    commands = top.add_subparsers(title="commands", dest="command", required=True, metavar="COMMAND")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--backend", choices=BACKENDS, help="framework that Keras runs on")
    common.add_argument("--quiet", action="store_true", help="no progress and no table; warnings and errors only")
    common.add_argument("--debug", action="store_true", help="show the traceback of an error")

    explain = commands.add_parser("explain", parents=[common], help="explain the rows of a file")
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
    demo.add_argument("-o", "--out", default="demo", help="folder for the pictures, arrays and text (default: demo)")
    return top


def parse_target(text: str) -> Any:
    """The value of --target: "predicted", "all", 3, ("box", 3) for "box:3", and a list of those for "3,1,7"."""
    items = [tuple(_number(part) for part in item.strip().split(":")) for item in text.split(",")]
    if any(part == "" for item in items for part in item):
        raise ValueError(
            f'Expected --target as 3, "predicted", "all", 3,1,7, box:3 or 39:2; received {text!r}. Name an output unit.'
        )
    items = [item[0] if len(item) == 1 else item for item in items]
    return items[0] if len(items) == 1 else items


def parse_rule(text: str) -> Rule:
    """The value of --rule: aumann.gauss_legendre(50) for "gauss_legendre:50"."""
    name, _, nodes = text.partition(":")
    if name not in FAMILIES or not (nodes.isdecimal() or text == name):
        raise ValueError(
            f"Expected --rule as NAME:NODES with NAME among {', '.join(FAMILIES)}; received {text!r}. Give for example "
            "gauss_legendre:50."
        )
    return FAMILIES[name](int(nodes)) if nodes else FAMILIES[name]()


def parse_number(name: str, text: str) -> float:
    """The value of --tolerance or --max-evaluations."""
    try:
        return int(text) if name == "max_evaluations" else float(text)
    except ValueError:
        wanted = "a whole number, such as 2000" if name == "max_evaluations" else "a number, such as 0.01"
        raise ValueError(f"Expected --{name.replace('_', '-')} as {wanted}; received {text!r}.") from None


def parse_rows(text: str, count: int) -> slice | list[int]:
    """The value of --rows, "0:10", "7" or "0,3,9", as a slice or list of rows among the `count` that exist."""
    rows: slice | list[int]
    try:
        if ":" in text:
            rows = slice(*(int(part) if part.strip() else None for part in text.split(":")))
        else:
            rows = [int(part) for part in text.split(",")]
        some = len(np.arange(count)[rows]) > 0
    except (ValueError, TypeError, IndexError):
        some = False
    if not some:
        raise ValueError(f"Expected --rows as 0:10, 7 or 0,3,9 among {count} rows; received {text!r}. Choose some.")
    return rows


def names(text: str) -> list[str]:
    """The parts of a text that are separated by commas, such as the names of columns."""
    return [name for name in text.split(",") if name]


def method_settings(args: argparse.Namespace) -> dict[str, Any]:
    """Keyword arguments of `aumann.IntegratedGradients`, those that were given."""
    settings = {
        "rule": parse_rule(args.rule) if args.rule else None,
        **{k: parse_number(k, v) for k in ("tolerance", "max_evaluations") if (v := getattr(args, k)) is not None},
        "output": None if args.output is None else _number(args.output),
        "layer": args.layer,
        "batch_size": args.batch_size if args.batch_size == "auto" else _number(args.batch_size),
        "compile": {"true": True, "false": False}.get(args.compile, args.compile),
        "precision": args.precision,
        "devices": args.devices if args.devices in (None, "all") else names(args.devices),
    }
    return {name: value for name, value in settings.items() if value is not None}


def _number(text: str, *kinds: type) -> Any:
    """The text as an int or as one of `kinds`; the text itself where it is none."""
    for kind in (int, *kinds):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


def read_baseline(texts: Sequence[str], data: Any, rows: slice | list[int], header: bool = True) -> Any:
    """The baseline, from the values of --baseline.

    Args:
        texts: each "VALUE" for all inputs or "INPUT=VALUE" for one. VALUE is a number, "mean" of the whole data,
            "fixed", or a file whose arrays are one row, or one for each row of the data.
        data: the whole data.
        rows: those that are explained.
        header: as for `read_data`.

    Returns:
        What `explain` takes as `baseline`: a number, "fixed", an array, or a dict or list of those.

    Raises:
        ValueError, OSError: a value that is none of these, or a file that does not fit the data.
    """
    named = [text.partition("=")[::2] for text in texts if "=" in text and not Path(text).exists()]
    if not named and len(texts) == 1:
        return _one_baseline(texts[0], data, rows, header)
    inputs = data if isinstance(data, dict) else {}
    wrong = [text for text in texts if text.partition("=")[0] not in inputs]
    if wrong or len(dict(named)) < len(texts):
        raise ValueError(
            f"Expected --baseline INPUT=VALUE once for each input among {list(inputs)}; received {', '.join(texts)}. "
            "Give one VALUE for all inputs, or name them as the arrays of an .npz are named."
        )
    return {name: _one_baseline(text, inputs[name], rows, header) for name, text in named}


def _one_baseline(text: str, data: Any, rows: slice | list[int], header: bool) -> Any:
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


def _columns_of(table: Any, data: dict[str, Any], path: str) -> dict[str, Any]:
    """The columns of a table that are named as the inputs, one for each."""
    if missing := [name for name in data if name not in table.columns]:
        raise ValueError(
            f"Expected columns named as the inputs, {list(data)}, in the baseline {path}; received none for {missing}. "
            "Add them, or give --baseline INPUT=VALUE."
        )
    return {name: table[[name]] for name in data}


def _same_rows(start: Any, data: Any, rows: slice | list[int]) -> npt.NDArray:
    """A baseline for each row of the data, cut to the rows that are explained; a single one as it is."""
    one_for_each = np.ndim(start) == np.ndim(data) and len(start) == len(data)
    return files.native(np.asarray(start)[rows] if one_for_each else np.asarray(start))
