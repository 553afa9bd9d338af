"""Names that a framework does not promise to keep: how they are looked up, and what is said where one is gone.

Each framework has one module of them, `tensorflow_private.py`, `jax_private.py` and `torch_private.py`; no other file
uses such a name. A name that is gone does not stop the import of the package: what needs it falls back, or raises an
error that says what else to do. `tests/test_private_names.py` asks for every name on the running backend.
"""

import functools
import importlib
from typing import Any

DERIVATIVES_INSTEAD = "Choose a rule of derivatives, such as rule=aumann.gauss_legendre(8), which needs none of this"


class PrivateName:
    """One name that a framework does not promise to keep, looked up when it is first needed.

    Args:
        path: dotted, beginning with the framework's module.
        checked: versions of the framework in which it was seen, such as "2.18 to 2.21".
        without: what happens where it is gone: a sentence that describes the fallback, or that tells the user what to
            do, for the error of `required`.
        since: the version of the framework that brought it, where earlier ones are supported without it.
    """

    def __init__(self, path: str, checked: str, without: str, since: str = "") -> None:
        self.path, self.checked, self.without, self.since = path, checked, without, since

    @functools.cached_property
    def value(self) -> Any:
        """The object of that name, None where it is gone."""
        return look_up(self.path)

    @property
    def required(self) -> Any:
        """The object of that name; RuntimeError where it is gone."""
        if self.value is None:
            framework = self.path.split(".")[0]
            version = importlib.import_module(framework).__version__
            raise RuntimeError(
                f"Expected `{self.path}`, which {framework} {self.checked} has; received {framework} {version}, which "
                f"has it no longer. {self.without}, or install {framework} {self.checked}."
            )
        return self.value


def look_up(path: str) -> Any:
    """The object of a dotted name: a module as far as the name is one, then attributes. None where there is none."""
    parts = path.split(".")
    for end in range(len(parts), 0, -1):
        try:
            value: Any = importlib.import_module(".".join(parts[:end]))
        except ImportError:
            continue
        for part in parts[end:]:
            value = getattr(value, part, None)
        return value
    return None


class PrivateAttribute:
    """An attribute that some objects of a framework have, and that it does not promise to keep.

    Args:
        path: dotted, of the class and the attribute.
        checked, without: as for `PrivateName`.
    """

    def __init__(self, path: str, checked: str, without: str) -> None:
        self.path, self.checked, self.without = path, checked, without
        self.attribute = path.rpartition(".")[2]

    def of(self, x: Any) -> Any:
        """The attribute of an object, None where it has none."""
        return getattr(x, self.attribute, None)
