"""The files of the command line: models and data that come in, results that go out.

Reading runs nothing that a file brings along unless it is told to, and writing leaves all of the results or none.
"""

import contextlib
import json
import os
import re
import tempfile
import warnings
import zipfile
from pathlib import Path

import numpy as np

BROKEN = (ValueError, TypeError, OSError, EOFError, KeyError, AttributeError, RuntimeError, zipfile.BadZipFile)


# ---- models --------------------------------------------------------------------------------------------------------


def load_model(path, unsafe=False):
    """A Keras model from a file or folder.

    Args:
        path: `.keras`, `.h5` or `.hdf5`; or a folder that holds a SavedModel or an unzipped `.keras`.
        unsafe: allow a file to bring code: Python in a Lambda layer, or a TensorFlow program.

    Raises:
        PermissionError: the file wants to run code and `unsafe` is not given.
        ValueError, OSError: it is no model that Keras can load here.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"Expected a model; {path} does not exist. Check the path.")
    if (path / "saved_model.pb").is_file():
        return _saved_model(path, unsafe)
    config, written_by = _read_config(path)
    if not unsafe:
        for layer, reason in _code(config):
            raise _refused(path, f"whose layer {layer!r} holds {reason}")
    if int(written_by.split(".")[0] or 0) < 3 and "hard_sigmoid" in json.dumps(config):
        warnings.warn(
            f"{path} was written by Keras {written_by or '1'} and uses hard_sigmoid, which has slope 1/6 in Keras 3 "
            "in place of 1/5: predictions differ from those the model was trained for.",
            stacklevel=2,
        )
    import keras

    try:
        return keras.saving.load_model(path, compile=False, safe_mode=not unsafe)
    except BROKEN as problem:
        if "safe_mode" in str(problem):
            raise _refused(path, f"of which Keras says: {_brief(problem)}") from problem
        raise ValueError(
            f"Expected a model that Keras {keras.__version__} can load; received {path} ({_brief(problem)}). A model "
            "of custom layers needs their classes: load it in Python and use aumann.IntegratedGradients there."
        ) from problem


def _refused(path, holds):
    return PermissionError(
        f"Expected a model that only computes; received {path}, {holds}. Loading it can run anything its author "
        "wrote. If you trust the author, give --unsafe."
    )


def _read_config(path):
    """The architecture in a model's file as nested dicts, and the version of Keras that wrote it."""
    try:
        if path.is_dir():
            return json.loads((path / "config.json").read_text()), "3"
        if path.suffix == ".keras":
            with zipfile.ZipFile(path) as archive:
                return json.loads(archive.read("config.json")), "3"
        if path.suffix in (".h5", ".hdf5"):
            import h5py

            with h5py.File(path, "r") as file:
                config, written_by = (_text(file.attrs.get(name, "")) for name in ("model_config", "keras_version"))
            if not config:
                raise ValueError("it holds weights alone")
            return json.loads(config), written_by
    except BROKEN as problem:
        raise ValueError(
            f"Expected a whole saved model; received {path}, which cannot be read ({_brief(problem)}). Write it again "
            'with model.save("model.keras").'
        ) from problem
    raise ValueError(
        f"Expected a .keras or .h5 file or a SavedModel folder; received {path}. Save the model with "
        'model.save("model.keras").'
    )


def _text(attribute):
    return attribute.decode() if isinstance(attribute, bytes) else str(attribute)


def _code(node, layer="model"):
    """(layer, what it holds) for everything in a config that would run code.

    Keras looks as well, but its older versions let a Lambda in an .h5 file pass.
    """
    children = node if isinstance(node, list) else []
    if isinstance(node, dict):
        inner = node.get("config")
        if isinstance(inner, dict):
            layer = inner.get("name", layer)
            named = isinstance(inner.get("function"), str) or _class(inner.get("function")) == "function"
            if _class(node) == "Lambda" and not named:
                yield layer, "Python code (a Lambda)"
                return
        if _class(node) == "__lambda__":
            yield layer, "Python code (a lambda)"
        if _class(node) == "TFSMLayer":
            yield layer, "a TensorFlow program (a SavedModel)"
        children = node.values()
    for child in children:
        yield from _code(child, layer)


def _class(node):
    return node.get("class_name") if isinstance(node, dict) else None


def _saved_model(path, unsafe):
    if not unsafe:
        raise _refused(path, "a SavedModel: a TensorFlow program, which can read and write files")
    import keras

    if keras.config.backend() != "tensorflow":
        raise ValueError(
            f"Expected the tensorflow backend for the SavedModel {path}; received {keras.config.backend()}. Give "
            "--backend tensorflow, or save the model as .keras."
        )
    try:
        try:
            return keras.layers.TFSMLayer(path, call_endpoint="serve")  # what model.export() writes
        except ValueError:
            layer = keras.layers.TFSMLayer(path, call_endpoint="serving_default")
    except BROKEN as problem:
        raise ValueError(
            f'Expected a SavedModel with the endpoint "serve" or "serving_default"; received {path} '
            f"({_brief(problem)}). Write it with model.export(path)."
        ) from problem
    signature = layer.call_endpoint_fn  # takes several inputs by keyword only, where TFSMLayer hands over one argument
    layer.call_endpoint_fn = lambda inputs: signature(**inputs) if isinstance(inputs, dict) else signature(inputs)
    return layer


def _brief(problem):
    """The first sentence or so of an error."""
    text = " ".join(re.sub(r"\x1b\[\d*m", "", str(problem)).split())
    return f"{type(problem).__name__}: {text[:200]}{'…' if len(text) > 200 else ''}"


# ---- data ----------------------------------------------------------------------------------------------------------


def read_data(path, columns=(), drop=(), header=True):
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
    try:
        found = readers[path.suffix](path, header)
    except BROKEN as problem:
        if str(problem).startswith("Expected"):
            raise
        raise ValueError(
            f"Expected a {path.suffix} file of numbers; received {path}, which cannot be read ({_brief(problem)}). "
            "Write it again."
        ) from problem
    if isinstance(found, np.ndarray):
        if columns or drop:
            raise ValueError(f"Expected a table or .npz to choose columns from; received {path}. Slice the array.")
        return found
    kept = _choose(list(found), columns, drop, path)
    if not isinstance(found, dict):
        return _numeric(found[kept], path)
    if len(kept) == 1:
        return found[kept[0]]
    unnamed = kept == [f"arr_{i}" for i in range(len(kept))]  # as numpy.savez(file, a, b) calls them
    return [found[name] for name in kept] if unnamed else {name: found[name] for name in kept}


def _choose(names, columns, drop, path):
    unknown = [name for name in (*columns, *drop) if name not in names]
    kept = [name for name in columns or names if name not in drop]
    if unknown or not kept:
        raise ValueError(
            f"Expected columns among {names} of {path}; received {unknown or 'none to keep'}. Check the spelling."
        )
    return kept


def _npy(path, header):
    return np.load(path, mmap_mode="r", allow_pickle=False)


def _npz(path, header):
    with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
        return dict(archive)


def _csv(path, header):
    pandas = _pandas(path)
    if not header:
        return pandas.read_csv(path, header=None).rename(columns=str)
    first = pandas.read_csv(path, header=None, nrows=1).iloc[0]
    numbers = pandas.to_numeric(first, errors="coerce")
    # A frame without names is written with the names 0, 1, 2, …
    if numbers.notna().all() and list(numbers) != list(range(len(numbers))):
        raise ValueError(
            f"Expected a first line of column names in {path}; received the numbers {list(first)[:4]}. Add the names, "
            "or give --no-header."
        )
    return pandas.read_csv(path)


def _parquet(path, header):
    return _pandas(path).read_parquet(path).rename(columns=str)


def _pandas(path):
    try:
        import pandas
    except ImportError as problem:
        raise ImportError(
            f'Expected pandas to read {path}, which is not installed. pip install "aumann[table]".'
        ) from problem
    return pandas


def _numeric(frame, path):
    """The frame with plain NumPy columns; a missing entry is NaN, which is refused where the rows are named."""
    import pandas

    plain = {}
    for name, column in frame.items():
        kind = pandas.api.types
        if not (kind.is_bool_dtype(column) or (kind.is_numeric_dtype(column) and not kind.is_complex_dtype(column))):
            wrong = column[pandas.to_numeric(column.astype(str), errors="coerce").isna() & column.notna()]
            example = f"{wrong.iloc[0]!r} in row {frame.index.get_loc(wrong.index[0])}" if len(wrong) else column.dtype
            raise ValueError(
                f"Expected numbers in every column of {path}; received {example} of column {name!r}. Encode it as "
                f"numbers, or leave it out with --drop {name!r}."
            )
        whole = (kind.is_integer_dtype(column) or kind.is_bool_dtype(column)) and column.notna().all()
        plain[name] = column.to_numpy(np.int64 if whole else np.float64, na_value=0 if whole else np.nan)
    return pandas.DataFrame(plain)


def each(function, data):
    """`function` of every array or frame in `data`, in the same structure."""
    if isinstance(data, dict):
        return {name: function(x) for name, x in data.items()}
    return [function(x) for x in data] if isinstance(data, list) else function(data)


def count(data):
    """Rows in the data; the first input's where several disagree, which `explain` refuses."""
    first = next(iter(data.values())) if isinstance(data, dict) else data[0] if isinstance(data, list) else data
    return len(first) if np.ndim(first) else 0


# ---- results -------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def together(folder):
    """A folder whose files move into `folder` when the block ends well, and vanish with it when the block fails."""
    with tempfile.TemporaryDirectory(prefix=".aumann-", dir=folder) as temporary:
        yield Path(temporary)
        for file in sorted(Path(temporary).iterdir()):
            os.replace(file, Path(folder) / file.name)
