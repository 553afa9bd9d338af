"""What `help` and `inspect.signature` tell of a method: every option by its name, with what it means.

Options that are the same for all methods are written down once, in `Execution` and `Options`, and passed on as
`**execution` or `**options`. The meaning of an argument that a method has from another one stands there.
"""

from __future__ import annotations

import inspect
import re
from typing import Any, TypedDict

from aumann.execution.options import ExecutionOptions

ENTRY = re.compile(r"    (\w[\w, ]*):(?= )")  # of the arguments in a docstring
SECTION = re.compile(r"(Args|Returns|Raises|Source|Attributes): ?")


class Execution(TypedDict, total=False):
    """Keywords of every method that say how the model is run: the fields of `ExecutionOptions`."""

    batch_size: int | str
    compile: bool | str
    precision: str
    devices: str | list | tuple | None


class Options(Execution, total=False):
    """Keywords of a method at its inputs that say what of the model is explained, and how the model is run."""

    output: Any
    layer: Any


PASSED_ON = {"Unpack[Execution]": Execution, "Unpack[Options]": Options}
COMMON = {
    **{name: inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None) for name in ("output", "layer")},
    **inspect.signature(ExecutionOptions).parameters,
}


def complete(cls: type) -> None:
    """Names every option in the signature of a method, and explains each in its docstring."""
    signature = inspect.signature(cls.__init__)
    *own, last = signature.parameters.values()
    if last.annotation in PASSED_ON:
        names = [name for name in COMMON if name in PASSED_ON[last.annotation].__annotations__]
        common = [COMMON[name].replace(kind=last.KEYWORD_ONLY) for name in names]
        cls.__init__.__signature__ = signature.replace(parameters=[*own, *common])
    if cls.__doc__:  # there is none under python -OO
        explained = {}
        for other in (ExecutionOptions, *reversed(cls.__mro__)):
            explained |= arguments(other.__doc__ or "")
        names = inspect.signature(cls).parameters
        cls.__doc__ = _with_arguments(
            inspect.cleandoc(cls.__doc__), [explained[name] for name in names if name in explained]
        )


def arguments(docstring: str) -> dict[str, str]:
    """What a docstring says of each argument: its lines, the name included."""
    entries, names = {}, []
    for line in _sections(inspect.cleandoc(docstring)).get("Args", [])[1:]:
        if found := ENTRY.match(line):
            names = found[1].split(", ")
            entries |= {name: f"    {name}:{line[found.end() :]}" for name in names}
        elif line:
            entries |= {name: f"{entries[name]}\n{line}" for name in names}
    return entries


def _with_arguments(docstring: str, entries: list[str]) -> str:
    sections = {"": [], "Args": [], **_sections(docstring)}
    sections["Args"] = ["Args:", *entries, ""]
    return "\n".join(line for lines in sections.values() for line in lines).rstrip()


def _sections(docstring: str) -> dict[str, list[str]]:
    """The lines of a docstring by the section that they belong to, headings included; "" for what comes first."""
    sections, name = {}, ""
    for line in docstring.splitlines():
        if found := SECTION.match(line):
            name = found[1]
        sections.setdefault(name, []).append(line)
    return sections
