"""What pictures, tables, files and other libraries read of an `aumann.Explanation`, which they do not import."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

INCOMPLETE = "not complete: values need not add up to prediction − base value"


class ExplanationLike(Protocol):
    """The fields and properties of `aumann.Explanation`, which has their meaning and shapes."""

    @property
    def values(self) -> Any: ...

    @property
    def inputs(self) -> Any: ...

    @property
    def prediction(self) -> np.ndarray: ...

    @property
    def base_value(self) -> np.ndarray: ...

    @property
    def residual(self) -> np.ndarray: ...

    @property
    def evaluations(self) -> np.ndarray: ...

    @property
    def error(self) -> np.ndarray | None: ...

    @property
    def converged(self) -> np.ndarray | None: ...

    @property
    def standard_error(self) -> Any: ...

    @property
    def names(self) -> Mapping: ...

    @property
    def provenance(self) -> Mapping: ...

    @property
    def several(self) -> bool: ...

    @property
    def targets(self) -> list[str]: ...

    @property
    def complete(self) -> bool: ...

    @property
    def rows(self) -> list: ...

    def target_at(self, index: tuple[int, ...]) -> str: ...

    def __len__(self) -> int: ...
