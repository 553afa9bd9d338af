"""What a baseline is made of, as arrays: inputs, backgrounds, numbers for the features of a row, axes."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from aumann.features import tables

BaselineFunction = Callable[[Any], Any]  # inputs, as `explain` takes them -> a baseline, as `explain` takes it


class Inputs(NamedTuple):
    """The inputs of a model as host arrays; every list has an entry for each input.

    Attributes:
        names: of the inputs.
        arrays: (n, *row).
        columns: names of the columns, None for what is no table.
        rows: names of the rows, None for what is no table.
        pack: "leaf" | "list" | "dict": how the inputs were given.
    """

    names: list[str]
    arrays: list[np.ndarray]
    columns: tuple[list[str] | None, ...]
    rows: list[list[Any] | None]
    pack: str


def all_inputs(inputs: Any) -> Inputs:
    """The inputs, one or several, as they were handed to `explain`."""
    from aumann.features.conversion import to_array

    if isinstance(inputs, dict):
        by_name, pack = dict(inputs), "dict"
    elif isinstance(inputs, (list, tuple)) and any(hasattr(x, "shape") for x in inputs):
        by_name, pack = {f"input_{i}": x for i, x in enumerate(inputs)}, "list"
    else:
        by_name, pack = {"input": inputs}, "leaf"
    arrays, columns = zip(*(to_array(x, f"input {name!r}") for name, x in by_name.items()), strict=True)
    rows = [tables.labels(x) if c is not None else None for x, c in zip(by_name.values(), columns, strict=True)]
    return Inputs(list(by_name), list(map(np.asarray, arrays)), columns, rows, pack)


def one_input(inputs: Any) -> tuple[np.ndarray, list[str] | None]:
    """The array (n, *row) of the only input, and the names of its columns."""
    names, arrays, columns, *_ = all_inputs(inputs)
    if len(arrays) > 1:
        raise ValueError(
            f"Expected one input to make a baseline of, received {names}. Give a list or dict with a baseline for each."
        )
    return arrays[0], columns[0]


def baseline_array(baseline: Any, name: str, columns: list[str] | None, rows: list[Any] | None, is_set: bool) -> Any:
    """A number as it is, anything else as a host array along the columns of the input."""
    if np.ndim(baseline) == 0 and not hasattr(baseline, "shape"):
        return baseline
    from aumann.features.conversion import by_name

    return by_name(baseline, f"the baseline of input {name!r}", columns, rows, is_set)


def float_dtype(x: np.ndarray) -> np.dtype:
    """The dtype of a float that is computed from an array, float32 at least."""
    return np.result_type(x.dtype, np.float32)


def require_ids(x: np.ndarray) -> None:
    """Raises TypeError unless the array holds token ids, whole numbers of any dtype."""
    if x.dtype.kind not in "iu" and (x != np.floor(x)).any():
        raise TypeError(
            f"Expected token ids, whole numbers; received dtype {x.dtype} with values such as "
            f"{x[x != np.floor(x)][0]}. Of embedded tokens give zeros() or rows of the embedding."
        )


def background_rows(background: Any) -> np.ndarray:
    """The rows of a background as one finite array (rows, *row)."""
    from aumann.features.conversion import to_array

    array = np.asarray(to_array(background, "the background")[0])
    if not array.ndim or not len(array):
        raise ValueError(f"Expected rows of a background, received shape {array.shape}. Give (rows, *row).")
    if not np.isfinite(array).all():
        raise ValueError("Expected a finite background, received NaN or infinity. Impute or drop those rows.")
    return array


def finite_numbers(value: Any, name: str) -> tables.NamedArray:
    """A number or array of numbers as float64, with the names of a table's columns or of a row's entries."""
    columns = tables.heads(value)
    array = np.asarray(value)
    if columns is not None:
        from aumann.features.conversion import to_array

        array = to_array(value, name)[0]
    if array.dtype.kind not in "biuf" or not np.isfinite(array).all():
        raise ValueError(
            f"Expected {name} to be a finite number or array of those, received {value!r:.80}. Replace it."
        )
    numbers = array.astype(np.float64).view(tables.NamedArray)
    numbers.columns = columns
    return numbers


def ordered_ends(low: Any, high: Any) -> tuple[tables.NamedArray, tables.NamedArray]:
    """Both ends of an interval as float64; raises ValueError where low is above high."""
    a, b = finite_numbers(low, "low"), finite_numbers(high, "high")
    upper = np.asarray(b)
    if a.columns is not None and b.columns is not None:
        upper = upper[..., tables.order(b.columns, a.columns, "high", "low")]
    if (np.asarray(a) > upper).any():
        raise ValueError(f"Expected low ≤ high, received low={low!r} and high={high!r}. Exchange them.")
    return a, b


def like_row(numbers: Any, row: tuple[int, ...], name: str, columns: Sequence[str] | None = None) -> np.ndarray:
    """A number or array as one of the shape of a row, along its columns where both have names."""
    names = getattr(numbers, "columns", None)
    array = np.asarray(numbers)
    if names is not None and columns is not None:
        array = array[..., tables.order(names, columns, name)]
    try:
        return np.broadcast_to(array, row)
    except ValueError:
        raise ValueError(
            f"Expected {name} that broadcasts against a row of shape {row}, received shape {np.shape(array)}. Give one "
            "number, one for each channel or a whole row."
        ) from None


def input_axes(axes: Iterable[int], ndim: int) -> tuple[int, ...]:
    """Axes of inputs counted from the front; the first is that of rows, and not allowed."""
    axes = tuple(axes)
    if any(not -ndim < a < ndim or a == 0 for a in axes):
        raise ValueError(
            f"Expected axes of inputs with {ndim} axes, of which the first counts rows; received {axes}. "
            f"Give some of 1 to {ndim - 1}."
        )
    return tuple(int(a) % ndim for a in axes)


@contextlib.contextmanager
def needs(package: str, name: str) -> Iterator[None]:
    """Tells how to install a package that a baseline imports."""
    try:
        yield
    except ImportError as error:
        raise ImportError(
            f'Expected {package} for {name}, which is not installed. pip install "aumann[baselines]".'
        ) from error
