"""Tables: names of columns and of rows, as pandas, polars, pyarrow, xarray and NumPy's structured arrays have them.

Two tables meet by the names of their columns, whatever their order. The names of rows, a pandas index, go into the
explanation, and are compared only where both tables have the same ones: then their order must agree.
"""

import numpy as np


class NamedArray(np.ndarray):
    """An array whose last axis has names. Only this very array has them: what is computed from it is a plain array."""

    columns = None


def named(array, columns):
    """The array with names on its last axis, or as it is where there are none."""
    if columns is None or not np.ndim(array) or np.shape(array)[-1] != len(columns):
        return array
    view = np.asarray(array).view(NamedArray)
    view.columns = list(columns)
    return view


def columns(x):
    """The names of the columns of a table as str; None for what is no table."""
    if isinstance(x, np.ndarray):
        found = x.columns if isinstance(x, NamedArray) else x.dtype.names
    elif _is_xarray(x):
        found = _coordinate(x, -1) if x.ndim == 2 else None
    elif hasattr(x, "to_numpy") and hasattr(x, "columns"):
        found = x.columns
    else:
        found = x.column_names if hasattr(x, "column_names") and hasattr(x, "itercolumns") else None
    return None if found is None else [str(c) for c in found]


def labels(x):
    """The names of a table's rows, or of the entries of a one-dimensional one, as JSON has them; None for none."""
    found = _coordinate(x, 0) if _is_xarray(x) else x.index if hasattr(x, "iloc") else None
    if getattr(getattr(found, "dtype", None), "kind", "O") in "iu":
        return found.tolist()
    return None if found is None else [_label(v) for v in found]


def is_row(x):
    """Whether it is one-dimensional and names its entries, as a pandas Series does."""
    return not isinstance(x, np.ndarray) and getattr(x, "ndim", None) == 1 and labels(x) is not None


def series(x):
    """The columns of a table, each one-dimensional, in order."""
    if isinstance(x, NamedArray):
        return list(np.moveaxis(np.asarray(x), -1, 0))
    if isinstance(x, np.ndarray):
        return [x[name] for name in x.dtype.names]
    if hasattr(x, "iloc"):
        return [x.iloc[:, j] for j in range(x.shape[1])]
    return list(x.itercolumns() if hasattr(x, "itercolumns") else x.iter_columns())


def like(table, array):
    """Numbers for the columns of a table, (columns,) or (rows, columns), with their names; as they are for no table."""
    if columns(table) is None:
        return array
    if hasattr(table, "iloc"):
        import pandas as pd

        return pd.Series(array, table.columns) if array.ndim == 1 else pd.DataFrame(array, columns=table.columns)
    if hasattr(table, "iter_columns"):  # polars has no rows by themselves: a table of one
        return type(table)(np.atleast_2d(array), schema=columns(table), orient="row")
    return named(array, columns(table))


def order(own, wanted, what, to="the inputs"):
    """Positions that bring columns called `own` into the order of `wanted`.

    Raises:
        ValueError: not the same names, or one of them twice.
    """
    if list(own) == list(wanted) and len(set(own)) == len(own):
        return np.arange(len(own))
    missing, unknown = [c for c in wanted if c not in own], [c for c in own if c not in wanted]
    twice = sorted({c for names in (own, wanted) for c in names if list(names).count(c) > 1})
    if missing or unknown or twice:
        faults = {"missing": missing, "unknown": unknown, "more than once": twice}
        told = "; ".join(f"{fault}: {_brief(names)}" for fault, names in faults.items() if names)
        raise ValueError(
            f"Expected {what} with the columns of {to}, {_brief(wanted)}, in any order; received {_brief(own)} "
            f"({told}). Name the same columns in both, each once, or give {what} as an array, in the order of {to}."
        )
    place = {c: j for j, c in enumerate(own)}
    return np.array([place[c] for c in wanted])


def same_rows(own, wanted, what, to="the inputs"):
    """Refuses rows that have the names of others in another order, where row i is taken with row i."""
    if own is None or wanted is None or own == wanted or len(own) != len(wanted):
        return
    if sorted(map(str, own)) == sorted(map(str, wanted)):
        raise ValueError(
            f"Expected rows of {what} in the order of {to}, with the index {_brief(wanted)}; received the index "
            f"{_brief(own)}. Put them in that order with .loc[index], or give .to_numpy() if row i belongs to row i."
        )


def heads(table):
    """What may be the names of inputs: those of the columns, or the first of several levels."""
    if getattr(getattr(table, "columns", None), "nlevels", 1) > 1:
        return [str(c[0]) for c in table.columns]
    return [str(c) for c in labels(table)] if is_row(table) else columns(table)  # None for what is no table


def by_input(table, names, known=()):
    """A table, or a row, cut up among several inputs: {name: the input's columns}.

    A flat table has a column called like each input, one of two levels has the inputs on the first.

    Args:
        names: of the inputs.
        known: columns that may be there besides.

    Raises:
        ValueError: an input has no column, or more than one; a column belongs to no input.
    """
    own = labels(table) if is_row(table) else columns(table)
    own, levels = [str(c) for c in own], getattr(getattr(table, "columns", None), "nlevels", 1)
    firsts = heads(table)
    missing, unknown = [n for n in names if n not in firsts], [h for h in firsts if h not in (*names, *known)]
    twice = [n for n in names if levels == 1 and firsts.count(n) > 1]
    if missing or unknown or twice:
        faults = {"without": missing, "with unknown": unknown, "with more than one": twice}
        raise ValueError(
            f"Expected a column for each of the inputs {list(names)}, with its name; received a table "
            + ", ".join(f"{fault} {found}" for fault, found in faults.items() if found)
            + ". Rename or add them, or give a dict with an entry for each input, which may be several columns: "
            + f"{{{names[0]!r}: table[[…]], …}}."
        )
    if levels > 1:
        return {n: table[n] for n in names}
    if isinstance(table, NamedArray):
        return {n: named(np.asarray(table)[..., [own.index(n)]], [n]) for n in names}
    if isinstance(table, np.ndarray):
        return {n: table[[n]] for n in names}
    if is_row(table):
        return {n: table[[j]] if not hasattr(table, "iloc") else table.iloc[[j]] for n in names for j in [own.index(n)]}
    if hasattr(table, "iloc"):
        return {n: table.iloc[:, [own.index(n)]] for n in names}
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
