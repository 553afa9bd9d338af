"""The `.npz` file of an explanation, described in docs/format.md: a header in JSON, and a member for each array."""

from __future__ import annotations

import dataclasses
import json
import os
import reprlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from aumann.features.nested import walk
from aumann.storage.archive import brief, read_npz
from aumann.storage.atomic import replacing

FORMAT, VERSION = "aumann.Explanation", 4
IN_HEADER = ("names", "provenance")  # the fields that are JSON; all others hold arrays
NUMBERS = "biuf"  # kinds of dtypes
ANY_DTYPE = ("inputs", "baseline")  # the fields whose arrays may hold text

Built = TypeVar("Built")


def save(explanation: Any, path: str | os.PathLike) -> Path:
    """Writes one `.npz` file (see docs/format.md), entirely or not at all.

    Args:
        path: where to; ".npz" is added if missing. The folder must exist. A file that is there is replaced.

    Returns:
        The path of the file.

    Raises:
        OSError: the folder does not exist, or the file cannot be written.
    """
    path = with_suffix(path)
    arrays: dict[str, Any] = {}
    fields = {field.name: getattr(explanation, field.name) for field in dataclasses.fields(explanation)}
    header = {"format": FORMAT, "version": VERSION, **{name: fields.pop(name) for name in IN_HEADER}}
    header["fields"] = {name: encode(content, name, arrays) for name, content in fields.items()}
    arrays["header"] = np.frombuffer(json.dumps(header).encode(), np.uint8)
    with replacing(path) as file:
        np.savez(file, **arrays)
    return path


def load(path: str | os.PathLike, build: Callable[..., Built]) -> Built:
    """Reads what `save` wrote and builds an explanation from its fields. Nothing is ever unpickled.

    Args:
        path: the file; ".npz" is added if missing.
        build: takes the fields as keywords, as `Explanation` does.

    Returns:
        What `build` returned.

    Raises:
        ValueError: the file holds something else, or a version that this library does not know.
        OSError: there is no such file, or it cannot be read.
    """
    path = with_suffix(path)
    with open(path, "rb") as file:
        try:
            arrays = read_npz(file)
            header = json.loads(arrays.pop("header").tobytes())
            if header["format"] != FORMAT:
                raise ValueError(f"its format is {header['format']!r}")
            version = header["version"]
            if version in range(1, VERSION + 1):
                fields = {name: decode(node, arrays) for name, node in header["fields"].items()}
                _check(fields, header["names"])
                return build(**fields, **{name: header[name] for name in IN_HEADER})
        except Exception as problem:  # a file that somebody else wrote can raise anything
            raise ValueError(
                f"Expected a file written by Explanation.save; {path} is none ({brief(problem)}). Use the tool "
                "that made it, or ask for another copy."
            ) from problem
    raise ValueError(
        f"Expected version {VERSION} of the format or an older one; {path} has version {reprlib.repr(version)}. "
        "Load it with the version of aumann that wrote it, or install a newer one."
    )


def with_suffix(path: str | os.PathLike) -> Path:
    """The path, with ".npz" added if that is missing."""
    path = Path(path)
    return path if path.suffix == ".npz" else path.with_name(path.name + ".npz")


def encode(structure: Any, name: str, arrays: dict[str, np.ndarray]) -> Any:
    """Puts the leaves into `arrays` and returns the structure for JSON, with the members' names for leaves."""
    if structure is None:
        return None
    if isinstance(structure, Mapping):
        return {"dict": [[key, encode(structure[key], f"{name}.{i}", arrays)] for i, key in enumerate(structure)]}
    if isinstance(structure, list | tuple):
        kind = "tuple" if isinstance(structure, tuple) else "list"
        return {kind: [encode(child, f"{name}.{i}", arrays) for i, child in enumerate(structure)]}
    arrays[name] = structure
    return name


def decode(node: Any, arrays: dict[str, np.ndarray]) -> Any:
    """The structure that `encode` returned, with the arrays themselves; each member is used once."""
    if node is None or isinstance(node, str):
        return arrays.pop(node) if node else None
    ((kind, children),) = node.items()
    if kind == "dict":
        return {key: decode(child, arrays) for key, child in children}
    return {"list": list, "tuple": tuple}[kind](decode(child, arrays) for child in children)


def _check(fields, names):
    """Raises ValueError where an array has another dtype or shape than its field, or where a name is no text."""
    for name, content in fields.items():
        for _, leaf in walk(content):
            if name not in ANY_DTYPE and leaf is not None and leaf.dtype.kind not in NUMBERS:
                raise ValueError(f"its {name} have dtype {leaf.dtype}")
            if name == "input_error" and leaf is not None and leaf.shape != fields["prediction"].shape:
                raise ValueError(f"its input_error has shape {leaf.shape}")
    targets = names.get("targets")
    if targets is not None and not (isinstance(targets, list) and all(isinstance(name, str) for name in targets)):
        raise ValueError(f"its names of targets are {reprlib.repr(targets)}")
    if not _texts(names.get("features")):
        raise ValueError(f"its names of features are {reprlib.repr(names['features'])}")


def _texts(names):
    """Whether a structure holds lists of text, or nothing, for each input."""
    if isinstance(names, list) and any(isinstance(name, str) for name in names):
        return all(isinstance(name, str) for name in names)
    children = names.values() if isinstance(names, dict) else names if isinstance(names, list) else [None]
    return all(_texts(child) for child in children) if names else names in (None, [], {})
