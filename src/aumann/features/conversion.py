"""Conversion: anything that holds numbers, as one host array; the rest is refused, and the message says what to do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np

from aumann import backends
from aumann.features import tables

NUMBERS, TEXT = "biuf", "SU"  # kinds of dtypes
WIDEST = {"b": bool, "i": np.int64, "u": np.uint64, "f": np.float64}
ENCODE = "Encode text and categories as numbers first, and give every column one numeric type."


def to_array(x: Any, what: str, text: bool = False) -> tuple[np.ndarray, list[str] | None]:
    """One array-like as a host array, and the names of its columns where it is a table.

    Args:
        what: its name in a message.
        text: whether it may hold text.

    Raises:
        ValueError, TypeError: it is ragged, not numeric, or holds no numbers in memory.
    """
    _refuse(x, what)
    names = tables.columns(x)
    if names is not None and not isinstance(x, tables.NamedArray) and not hasattr(x, "dims"):
        return _table(x, names, what, text), names
    backend, kind = backends.active(), type(x).__name__
    try:
        if hasattr(x, "iloc"):
            x = _column(x)
        elif backend.owns(x):
            x = backend.host(x)
        elif hasattr(x, "detach"):
            x = x.detach().cpu()
            x = (x.float() if str(x.dtype) == "torch.bfloat16" else x).numpy()
        array = np.asarray(x)
    except (ValueError, TypeError, RuntimeError, NotImplementedError, AttributeError) as error:
        if isinstance(x, (list, tuple)) and isinstance(error, ValueError):
            raise ValueError(
                f"Expected {what} to be one array, received rows of different shapes ({error}). Pad them to one shape."
            ) from error
        raise TypeError(
            f"Expected {what} to be an array whose numbers NumPy can read, received {kind} ({error}). Convert it to a "
            "NumPy array first."
        ) from error
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))  # frameworks read no other byte order
    if array.dtype.name.startswith(("bfloat16", "float8_", "float6_", "float4_")):
        array = array.astype("float32")
    array = _as_text(array) if text else array
    if array.dtype.kind not in NUMBERS + (TEXT if text else ""):
        raise TypeError(f"Expected numbers for {what}, received dtype {array.dtype}. {_encoding(array)}")
    return array, names


def by_name(
    x: Any,
    what: str,
    columns: Sequence[str] | None = None,
    labels: Sequence | None = None,
    is_set: bool = False,
) -> np.ndarray:
    """An array-like that belongs to the inputs, such as a baseline, in the order of their columns.

    Args:
        what: its name in a message.
        columns: of the inputs, or None where they have no names: then it is taken by position.
        labels: of the inputs' rows, or None.
        is_set: whether its rows are those of a set of baselines, and do not correspond to the inputs' rows.

    Returns:
        (…, columns) where it is a table or a row; anything else as a plain array.

    Raises:
        ValueError, TypeError: its names are not those of the inputs; see also `to_array`.
    """
    array, names = to_array(x, what)
    if columns is None:
        return np.asarray(array)
    if tables.is_row(x):
        entries = tables.labels(x) or []
        single = len(columns) == 1 and str(getattr(x, "name", None)) in (columns[0], "None")
        if single and (is_set or len(array) > 1) and [*map(str, entries)] != list(columns):
            if not is_set:
                tables.same_rows(entries, labels, what)
            return array[:, None]  # a value of the only column for each row
        return array[tables.order([*map(str, entries)], columns, what)]
    if names is None:
        return array
    if not is_set:
        tables.same_rows(tables.labels(x), labels, what)
    return np.asarray(array)[..., tables.order(names, columns, what)]


# ---- tables --------------------------------------------------------------------------------------------------------


def _as_text(array):
    """An array of strings that are kept as objects, as one of strings; others as they are."""
    if array.dtype.kind != "O" or not all(isinstance(v, (str, bytes)) for v in array.flat):
        return array
    return np.array(array.tolist()).reshape(array.shape)


def _table(x, names, what, text=False):
    """The numbers of a table, (rows, columns), of one dtype that holds those of all its columns."""
    types = list(x.dtypes) if hasattr(x, "iloc") else [None]
    if types and all(isinstance(t, np.dtype) and t.kind in NUMBERS for t in types):
        return x.to_numpy(dtype=np.result_type(*types))
    parts, kinds = [_column(s) for s in tables.series(x)], NUMBERS
    if text and parts and all(_as_text(part).dtype.kind in TEXT for part in parts):
        parts, kinds = list(map(_as_text, parts)), TEXT
    wrong = {n: p for n, p in zip(names, parts, strict=True) if p.dtype.kind not in kinds or p.ndim != 1}
    if wrong:
        listed = ", ".join(f"{name!r} ({_kind(x, name, part)})" for name, part in list(wrong.items())[:8])
        more = f" and {len(wrong) - 8} more" if len(wrong) > 8 else ""
        raise TypeError(
            f"Expected numbers in every column of {what}, received {listed}{more}. "
            f"{_encoding(next(iter(wrong.values())))}"
        )
    if not parts:
        return np.empty((len(x), 0))
    return np.stack(parts, 1, dtype=np.result_type(*(p.dtype for p in parts)))


def _column(s):
    """One column, or a row, as an array; missing entries are NaN. Numbers that are kept as objects are numbers."""
    kind = getattr(getattr(s, "dtype", None), "kind", None)
    if hasattr(s, "iloc") and not isinstance(s.dtype, np.dtype) and kind is not None and kind in NUMBERS:
        return s.to_numpy(dtype=np.float64, na_value=np.nan) if s.isna().any() else s.to_numpy(dtype=WIDEST[kind])
    array = s if isinstance(s, np.ndarray) else np.asarray(s.to_numpy() if hasattr(s, "to_numpy") else s)
    if hasattr(s, "iloc") and array.dtype.kind == "O" and all(map(_is_number, array)):  # a row of unlike columns
        return np.array(array.tolist())
    return array


def _is_number(v):
    return isinstance(v, (bool, int, float, np.bool_, np.integer, np.floating))


def _kind(x, name, part):
    """The dtype of a column as its table calls it."""
    if hasattr(x, "iloc"):
        return str(list(x.dtypes)[[str(c) for c in x.columns].index(name)])
    of_polars = isinstance(getattr(x, "dtypes", None), list)
    return str(getattr(x, "schema", {}).get(name, part.dtype) if of_polars else part.dtype)


def _encoding(array):
    """How to make numbers of an array that has none."""
    kind = array.dtype.kind
    if kind in "Mm":
        return "Encode dates and times as numbers first, as in (x - first) / numpy.timedelta64(1, 'D')."
    if kind == "c":
        return "Give real and imaginary parts as two features, so that every column has one numeric type."
    if kind == "O" and array.size and all(map(_is_number, array.ravel()[:1000])):
        return "They are numbers kept as Python objects: give x.astype(float), so that all have one numeric type."
    return ENCODE


# ---- refused types -------------------------------------------------------------------------------------------------


def _refuse(x, what):
    for recognised, kind, advice in () if hasattr(x, "iloc") else UNREADABLE:  # pandas finds columns as attributes
        if recognised(x):
            raise TypeError(f"Expected {what} to be an array of numbers in memory, received {kind}. {advice}")
    if isinstance(x, np.ma.MaskedArray) and np.ma.is_masked(x):
        rows = np.flatnonzero(np.ma.getmaskarray(x).reshape(len(x), -1).any(1)).tolist() if x.ndim else []
        raise ValueError(
            f"Expected {what} without masked entries, received {int(np.ma.count_masked(x))} of them in rows "
            f"{rows[:10]}. Fill them, x.filled(value), or leave these rows out."
        )


def _has(*names):
    return lambda x: not isinstance(x, type) and all(hasattr(x, name) for name in names)


def _layout(x):
    return str(getattr(x, "layout", "torch.strided"))


def _of_class(*names):
    return lambda x: any(c.__name__ in names for c in type(x).__mro__)


FIRST_BATCH = "Collect the rows to explain first, as in numpy.concatenate([x for x, y in {}])."
UNREADABLE = (
    (
        lambda x: isinstance(x, keras.KerasTensor),
        "a KerasTensor, a place in a model that is being built",
        "Give the rows that you would give to model.predict.",
    ),
    (
        lambda x: backends.active().symbolic(x),
        "a tensor that is being traced and has no numbers yet",
        "Call explain() outside of the compiled function; inside of a loss use aumann.attribution.",
    ),
    (lambda x: getattr(x, "is_nested", False) is True, "a nested tensor",
     "Pad its rows to one shape: torch.nested.to_padded_tensor(x, 0.0)."),
    (lambda x: hasattr(x, "layout") and hasattr(x, "to_dense") and _layout(x) != "torch.strided",
     "a sparse tensor", "Give x.to_dense(), of the rows to explain."),
    (_has("tocsr", "toarray"), "a sparse matrix", "Give x.toarray(), of the rows to explain."),
    (_has("dense_shape", "indices"), "a sparse tensor", "Give tf.sparse.to_dense(x), of the rows to explain."),
    (_has("todense", "nse"), "a sparse array", "Give x.todense(), of the rows to explain."),
    (_has("todense", "nnz"), "a sparse array", "Give x.todense(), of the rows to explain."),
    (_has("row_splits", "to_tensor"), "a RaggedTensor, rows of different lengths",
     "Pad them to one shape: x.to_tensor()."),
    (_has("data_vars", "to_dataarray"), "an xarray Dataset, several arrays by name",
     "Give a dict of them, {name: x[name] for name in x.data_vars}, or one of them."),
    (_has("element_spec", "as_numpy_iterator"), "a tf.data.Dataset", FIRST_BATCH.format("dataset")),
    (lambda x: isinstance(x, keras.utils.PyDataset), "a PyDataset",
     FIRST_BATCH.format("(dataset[i] for i in range(dataset.num_batches))")),
    (_has("dataset", "batch_size", "sampler"), "a DataLoader", FIRST_BATCH.format("loader")),
    (_of_class("Dataset", "IterableDataset"), "a Dataset", FIRST_BATCH.format("dataset")),
    (_has("collect", "collect_schema"), "a table that is not computed yet", "Give x.collect()."),
    (_has("__next__"), "an iterator", "Collect the rows to explain first: numpy.stack(list(x))."),
    (lambda x: isinstance(x, (set, frozenset)), "a set, which has no order", "Give a list of rows."),
    (lambda x: isinstance(x, Mapping), "a mapping that is no dict", "Give dict(x), by the names of the inputs."),
    (lambda x: callable(x) and not hasattr(x, "__array__"), "a function or a class", "Give the rows that it makes."),
)  # fmt: skip
