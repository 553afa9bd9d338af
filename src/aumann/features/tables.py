"""Tables: names of columns and of rows, as pandas, polars, pyarrow, xarray and NumPy's structured arrays have them.

Two tables are matched by the names of their columns, whatever their order. The names of rows, a pandas index, go into
the explanation, and are compared only where both tables have the same ones: then their order must agree.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np


class NamedArray(np.ndarray):
    """An array whose last axis has names. Results of operations on it have none: their `columns` is None."""

    columns: list[str] | None = None


def named(array: Any, columns: Sequence[str] | None) -> Any:
    """The array with names on its last axis, or as it is where there are none."""
    if columns is None or not np.ndim(array) or np.shape(array)[-1] != len(columns):
        return array
    view = np.asarray(array).view(NamedArray)
    view.columns = list(columns)
    return view


def columns(x: Any) -> list[str] | None:
    """The names of the columns of a table as str; None for what is no table."""
    if isinstance(x, np.ndarray):
        names = x.columns if isinstance(x, NamedArray) else x.dtype.names
    elif _is_xarray(x):
        names = _coordinate(x, -1) if x.ndim == 2 else None
    elif hasattr(x, "to_numpy") and hasattr(x, "columns"):
        names = x.columns
    else:
        names = x.column_names if hasattr(x, "column_names") and hasattr(x, "itercolumns") else None
    return None if names is None else [str(name) for name in names]


def labels(x: Any) -> list | None:
    """The names of a table's rows, or of the entries of a one-dimensional one, as JSON has them; None for none."""
    names = _coordinate(x, 0) if _is_xarray(x) else x.index if hasattr(x, "iloc") else None
    if names is None:
        return None
    return names.tolist() if getattr(getattr(names, "dtype", None), "kind", "O") in "iu" else list(map(_label, names))


def is_row(x: Any) -> bool:
    """Whether it is one-dimensional and names its entries, as a pandas Series does."""
    return not isinstance(x, np.ndarray) and getattr(x, "ndim", None) == 1 and labels(x) is not None


def series(x: Any) -> list:
    """The columns of a table, each one-dimensional, in order."""
    if isinstance(x, NamedArray):
        return list(np.moveaxis(np.asarray(x), -1, 0))
    if isinstance(x, np.ndarray):
        return [x[name] for name in x.dtype.names]
    if hasattr(x, "iloc"):
        return [x.iloc[:, j] for j in range(x.shape[1])]
    return list(x.itercolumns() if hasattr(x, "itercolumns") else x.iter_columns())


def like(table: Any, array: np.ndarray) -> Any:
    """Numbers for the columns of a table, (columns,) or (rows, columns), with their names; as they are for no table."""
    if columns(table) is None:
        return array
    if hasattr(table, "iloc"):
        import pandas as pd

        return pd.Series(array, table.columns) if array.ndim == 1 else pd.DataFrame(array, columns=table.columns)
    if hasattr(table, "iter_columns"):  # polars has no type for one row: a table of one
        return type(table)(np.atleast_2d(array), schema=columns(table), orient="row")
    return named(array, columns(table))


def order(names: Sequence[str], wanted: Sequence[str], what: str, to: str = "the inputs") -> np.ndarray:
    """Positions that bring columns with these names into the order of `wanted`.

    Args:
        what: the name of the table in a message.
        to: the name of that which has the wanted columns.

    Raises:
        ValueError: not the same names, or one of them twice.
    """
    if list(names) == list(wanted) and len(set(names)) == len(names):
        return np.arange(len(names))
    missing, unknown = [c for c in wanted if c not in names], [c for c in names if c not in wanted]
    twice = sorted({c for several in (names, wanted) for c in several if list(several).count(c) > 1})
    if missing or unknown or twice:
        faults = {"missing": missing, "unknown": unknown, "more than once": twice}
        listed = "; ".join(f"{fault}: {_brief(columns)}" for fault, columns in faults.items() if columns)
        raise ValueError(
            f"Expected {what} with the columns of {to}, {_brief(wanted)}, in any order; received {_brief(names)} "
            f"({listed}). Name the same columns in both, each once, or give {what} as an array, in the order of {to}."
        )
    position = {c: j for j, c in enumerate(names)}
    return np.array([position[c] for c in wanted])


def same_rows(names: Sequence | None, wanted: Sequence | None, what: str, to: str = "the inputs") -> None:
    """Refuses rows that have the names of others in another order, where row i is taken with row i.

    Raises:
        ValueError: the same names in another order.
    """
    if names is None or wanted is None or names == wanted or len(names) != len(wanted):
        return
    if sorted(map(str, names)) == sorted(map(str, wanted)):
        raise ValueError(
            f"Expected rows of {what} in the order of {to}, with the index {_brief(wanted)}; received the index "
            f"{_brief(names)}. Put them in that order with .loc[index], or give .to_numpy() if row i belongs to row i."
        )


def heads(table: Any) -> list[str] | None:
    """The names that may be those of inputs: of the columns, or their first of several levels; None for no table."""
    if getattr(getattr(table, "columns", None), "nlevels", 1) > 1:
        return [str(c[0]) for c in table.columns]
    return [str(name) for name in labels(table) or ()] if is_row(table) else columns(table)


def by_input(table: Any, names: Sequence[str], known: Collection[str] = ()) -> dict[str, Any]:
    """The columns of a table, or of a row, for each of several inputs: {name: the input's columns}.

    A flat table has a column called like each input, one of two levels has the inputs on the first.

    Args:
        names: of the inputs.
        known: columns that may be there besides.

    Raises:
        ValueError: an input has no column, or more than one; a column belongs to no input.
    """
    in_table = [str(name) for name in (labels(table) if is_row(table) else columns(table)) or ()]
    levels = getattr(getattr(table, "columns", None), "nlevels", 1)
    firsts = heads(table) or []
    missing, unknown = [n for n in names if n not in firsts], [h for h in firsts if h not in (*names, *known)]
    twice = [n for n in names if levels == 1 and firsts.count(n) > 1]
    if missing or unknown or twice:
        faults = {"without": missing, "with unknown": unknown, "with more than one": twice}
        raise ValueError(
            f"Expected a column for each of the inputs {list(names)}, with its name; received a table "
            + ", ".join(f"{fault} {inputs}" for fault, inputs in faults.items() if inputs)
            + ". Rename or add them, or give a dict with an entry for each input, which may be several columns: "
            + f"{{{names[0]!r}: table[[…]], …}}."
        )
    if levels > 1:
        return {n: table[n] for n in names}
    if isinstance(table, NamedArray):
        return {n: named(np.asarray(table)[..., [in_table.index(n)]], [n]) for n in names}
    if isinstance(table, np.ndarray):
        return {n: table[[n]] for n in names}
    if is_row(table):
        position = {n: [in_table.index(n)] for n in names}
        return {n: table.iloc[position[n]] if hasattr(table, "iloc") else table[position[n]] for n in names}
    if hasattr(table, "iloc"):
        return {n: table.iloc[:, [in_table.index(n)]] for n in names}
    return {n: table.select([n]) for n in names}


def _is_xarray(x):
    return hasattr(x, "dims") and hasattr(x, "coords") and hasattr(x, "ndim")


def _coordinate(x, axis):
    name = x.dims[axis]
    return x.coords[name].values.tolist() if name in x.coords else None


def _label(v):
    """A name as JSON has it: numbers and text as they are, tuples as lists, dates and others as text."""
    if isinstance(v, tuple):
        return [_label(x) for x in v]
    v = v.item() if isinstance(v, np.generic) else v
    if isinstance(v, (str, bool, int)) or (isinstance(v, float) and np.isfinite(v)):
        return v
    return v.isoformat() if hasattr(v, "isoformat") else str(v)


def _brief(names, most=12):
    names = list(names)
    return f"[{', '.join(map(repr, names[:most]))}{f', … {len(names)} in all' if len(names) > most else ''}]"
