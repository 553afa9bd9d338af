"""Data that comes in by the command line, as arrays or a table. Nothing is unpickled.

Reading allocates no more than the file can account for.
"""

import csv
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from aumann.storage import archive as storage
from aumann.user_warnings import warn


def read_data(path: str | Path, columns: Sequence[str] = (), drop: Sequence[str] = (), header: bool = True) -> Any:
    """Rows from a file, as `aumann.IntegratedGradients.explain` takes them. Nothing is unpickled.

    Args:
        path: `.npy`; `.npz`, whose arrays feed the inputs of their names; `.csv` or `.parquet`, a column per feature.
        columns: keep only these columns of a table or arrays of an `.npz`, in this order.
        drop: leave these out.
        header: whether a `.csv` begins with a line of names.

    Returns:
        An array, a dict or list of arrays, or a DataFrame.

    Raises:
        ValueError, OSError: the file cannot be read, a name is not in it, or a column is not numeric.
    """
    path = Path(path)
    readers = {".npy": _npy, ".npz": _npz, ".csv": _csv, ".parquet": _parquet}
    if path.suffix not in readers:
        raise ValueError(f"Expected data in {', '.join(readers)}; received {path}. Write it as one of these.")
    if not path.is_file():
        raise FileNotFoundError(f"Expected a file of data; {path} does not exist. Check the path.")
    if twice := {name for name in columns if list(columns).count(name) > 1}:
        raise ValueError(f"Expected each column of {path} once; received {sorted(twice)} twice. Name it once.")
    with open(path, "rb") as file:
        try:
            data = readers[path.suffix](path, file, header)
        except Exception as problem:  # whatever a broken file can bring about
            if str(problem).startswith("Expected"):
                raise
            raise ValueError(
                f"Expected a {path.suffix} file of numbers; received {path}, which cannot be read "
                f"({storage.brief(problem)}). Write it again."
            ) from problem
    if isinstance(data, np.ndarray):
        if columns or drop:
            raise ValueError(f"Expected a table or .npz to choose columns from; received {path}. Slice the array.")
        return data
    kept = _choose(list(data), columns, drop, path)
    if not isinstance(data, dict):
        return _numeric(data[kept], path)
    if len(kept) == 1:
        return data[kept[0]]
    unnamed = kept == [f"arr_{i}" for i in range(len(kept))]  # as numpy.savez(file, a, b) calls them
    return [data[name] for name in kept] if unnamed else {name: data[name] for name in kept}


def _choose(names: list[str], columns: Sequence[str], drop: Sequence[str], path: Path) -> list[str]:
    """The names that are kept, in order."""
    unknown = [name for name in (*columns, *drop) if name not in names]
    kept = [name for name in columns or names if name not in drop]
    if unknown or not kept:
        raise ValueError(
            f"Expected columns among {names} of {path}; received {unknown or 'none to keep'}. Check the spelling."
        )
    if "" in kept and len(names) > 1:
        raise ValueError(
            f"Expected a name for every column of {path}; received none for column {names.index('')}, as an index is "
            "written. Write the table without its index, to_csv(path, index=False), or choose with --columns."
        )
    return kept


def _npy(path: Path, file: BinaryIO, header: bool) -> npt.NDArray:
    shape, fortran, dtype, start = storage.npy_header(file, storage.size_of(file))
    if not math.prod(shape):
        return np.empty(shape, dtype)
    return np.memmap(path, dtype, "r", start, shape, "F" if fortran else "C")


def _npz(path: Path, file: BinaryIO, header: bool) -> dict[str, npt.NDArray]:
    return storage.read_npz(file)


def _csv(path: Path, file: BinaryIO, header: bool) -> Any:
    names = _checked_lines(path, header)
    pandas = _pandas(path)
    old = tuple(map(int, pandas.__version__.split(".")[:2])) < (3, 1)  # which rounds in the last place by default
    exact = {"float_precision": "round_trip"} if old else {}
    table = pandas.read_csv(path, header=None, skiprows=int(header), index_col=False, low_memory=False, **exact)
    return table.set_axis(names or [str(name) for name in table.columns], axis=1)


def _checked_lines(path: Path, header: bool) -> list[str] | None:
    """The names of the columns of a `.csv`, None without a header, once all its lines have been seen.

    Raises:
        ValueError: lines differ in length, names are missing or not unique, or the first line holds numbers.
    """
    with open(path, newline="", encoding="utf-8-sig") as file:
        lines = csv.reader(file, strict=True)
        first, blank, rows = next(lines, []), None, int(not header)
        if not first:
            raise ValueError("its first line is empty")
        if len(first) == 1 and (other := next((mark for mark in ";\t|" if mark in first[0]), None)):
            raise ValueError(
                f"Expected commas between the fields of {path}; received a first line with {other!r}. Write it again: "
                f"pandas.read_csv(path, sep={other!r}).to_csv(path, index=False), with decimal=',' for decimal commas."
            )
        for line in lines:
            rows += bool(line)
            if line and len(line) != len(first):
                raise ValueError(
                    f"Expected {len(first)} fields in every line of {path}, as the first has; received {len(line)} in "
                    f"line {lines.line_num}. Write it again, with numbers such as 1234.5 and commas between them."
                )
            if line and blank and len(first) == 1:
                raise ValueError(
                    f"Expected a number in every line of {path}; received nothing in line {blank}. Fill or remove it."
                )
            blank = blank if line else blank or lines.line_num
    if not rows:
        raise ValueError("it has no rows")
    if not header:
        return None
    return _names(path, first)


def _names(path: Path, first: list[str]) -> list[str]:
    """The first line as names of columns."""
    numbers = [name for name in first if _is_number(name)]
    counted = first == [str(i) for i in range(len(first))]  # a frame without names is written with 0, 1, 2, …
    if (len(numbers) == len(first) and not counted) or not all(name.strip().isdecimal() for name in numbers):
        raise ValueError(
            f"Expected a first line of column names in {path}; received the numbers {numbers[:4]}. Add the names, "
            "or give --no-header."
        )
    if numbers:
        warn(
            f"The first line of {path} is taken for the names of columns, {', '.join(first[:4])}. If it holds data, "
            "give --no-header.",
        )
    _once(path, first)
    return first


def _once(path: Path, names: list[str]) -> None:
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"Expected different names of columns in {path}; received {sorted(twice)} twice. Rename them.")


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _parquet(path: Path, file: BinaryIO, header: bool) -> Any:
    table = _pandas(path).read_parquet(path).rename(columns=str)
    _once(path, list(table.columns))
    return table


def _pandas(path: Path) -> Any:
    try:
        import pandas
    except ImportError as problem:
        raise ImportError(
            f'Expected pandas to read {path}, which is not installed. pip install "aumann[table]".'
        ) from problem
    return pandas


def _numeric(frame: Any, path: Path) -> Any:
    """The frame with plain NumPy columns; a missing entry is NaN, which is refused where the rows are named."""
    import pandas

    kind = pandas.api.types
    plain = {}
    for name, column in frame.items():
        if not (kind.is_bool_dtype(column) or (kind.is_numeric_dtype(column) and not kind.is_complex_dtype(column))):
            values = column.reset_index(drop=True)
            wrong = values[pandas.to_numeric(values.astype(str), errors="coerce").isna() & values.notna()]
            wrong = wrong if len(wrong) else values[values.notna()]
            example = f"{wrong.iloc[0]!r} in row {wrong.index[0]}" if len(wrong) else "nothing"
            raise ValueError(
                f"Expected numbers in every column of {path}; received {example} of column {name!r}, which has dtype "
                f"{column.dtype}. Encode it as numbers, or leave it out with --drop {name!r}."
            )
        if kind.is_integer_dtype(column) or kind.is_bool_dtype(column):
            there = column.notna()
            whole = column[there].to_numpy(np.uint64 if kind.is_unsigned_integer_dtype(column) else np.int64)
            if whole.max(initial=0) < 2**63:
                whole = whole.astype(np.int64)
            if there.all():
                plain[name] = whole
                continue
            _exact(whole, name, path)
        plain[name] = column.to_numpy(np.float64, na_value=np.nan)
    if len({column.dtype for column in plain.values()}) > 1:  # the frame becomes one array of float64
        for name, column in plain.items():
            _exact(column, name, path)
    return pandas.DataFrame(plain, index=frame.index)


def _exact(whole: npt.NDArray, name: str, path: Path) -> None:
    """Raises ValueError where a whole number is beyond those that float64 holds one by one."""
    if whole.dtype.kind == "f":
        return
    beyond = (whole > 2**53) | (whole < (0 if whole.dtype.kind == "u" else -(2**53)))
    if beyond.any():
        raise ValueError(
            f"Expected numbers that float64 holds in {path}; received {whole[beyond][0]} of column {name!r}, beyond "
            f"2**53. Such a number is a key: leave it out with --drop {name!r}, or encode it."
        )


def each(function: Callable, data: Any) -> Any:
    """`function` of every array or frame in `data`, in the same structure."""
    if isinstance(data, dict):
        return {name: function(x) for name, x in data.items()}
    return [function(x) for x in data] if isinstance(data, list) else function(data)


def count(data: Any, path: str | Path) -> int:
    """Rows in the data.

    Raises:
        ValueError: arrays of the file `path` differ in their rows.
    """
    arrays = data if isinstance(data, dict) else dict(enumerate(data)) if isinstance(data, list) else {"": data}
    rows = {name: len(x) if np.ndim(x) else 0 for name, x in arrays.items()}
    if len(set(rows.values())) > 1:
        raise ValueError(
            f"Expected the same number of rows in every array of {path}; received {rows}. Align them, or leave out "
            "with --drop what feeds no input."
        )
    return next(iter(rows.values()))


def native(array: npt.NDArray) -> npt.NDArray:
    """The array in the byte order of this machine, which frameworks ask for."""
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))
