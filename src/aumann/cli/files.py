"""The files that come in by the command line: models and data.

Reading runs nothing that a file brings along unless it is told to, and allocates no more than the file can account for.
"""

import builtins
import contextlib
import csv
import io
import json
import math
import re
import zipfile
from pathlib import Path

import numpy as np

from aumann.storage import archive as storage
from aumann.user_warnings import warn

CONFIG = 2**24  # bytes of an architecture that are read: the largest of Keras's own applications has 2 ** 20
BRACKETS = 2**18  # lists and objects in an architecture: a network of 1,000 layers has 2 ** 15
DEPTH = 100  # of lists and objects in each other: a layer in a wrapper in a model in a model stands at 16
WEIGHTS = "model.weights.h5"

# What a network is made of, by the modules that Keras exports it from.
PARTS = {"layers", "models", "initializers", "regularizers", "constraints", "activations", "losses", "metrics"}
PARTS |= {"optimizers", "dtype_policies", "quantizers", "random", "ops"}
FUNCTIONS = {"initializers", "regularizers", "constraints", "activations", "losses", "metrics", "random", "ops"}
MAKERS = {"get", "deserialize", "serialize"}  # functions of these modules that make something of a config


# ---- models --------------------------------------------------------------------------------------------------------


def load_model(path, unsafe=False):
    """The model of `opened_model`, for which layers may then make weights of their own."""
    with opened_model(path, unsafe) as model:
        return model


@contextlib.contextmanager
def opened_model(path, unsafe=False):
    """A Keras model from a file or folder. For as long as the block is open it has the weights of the file alone.

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
        yield _saved_model(path, unsafe)
        return
    config, written_by, held = _read(path)
    if not unsafe:
        for layer, reason in _code(config):
            raise _refused(path, f"whose layer {layer!r} holds {reason}")
    if int(written_by.split(".")[0] or 0) < 3 and "hard_sigmoid" in json.dumps(config):
        warn(
            f"{path} was written by Keras {written_by or '1'} and uses hard_sigmoid, which has slope 1/6 in Keras 3 "
            "in place of 1/5: predictions differ from those the model was trained for.",
        )
    del config
    import keras

    with _weights(held) as complete:
        try:
            model = keras.saving.load_model(path, compile=False, safe_mode=not unsafe)
            if not isinstance(model, keras.Model):
                raise ValueError(f"it holds a {type(model).__name__} and no model")
        except Exception as problem:  # Keras and its framework raise errors of many types at a broken file
            if "safe_mode" in str(problem):
                raise _refused(path, f"of which Keras says: {storage.brief(problem)}") from problem
            raise ValueError(
                f"Expected a model that Keras {keras.__version__} can load; received {path} "
                f"({storage.brief(problem)}). Write it again with model.save(), or, as a model of custom layers needs "
                "their classes, load it in Python and use aumann.IntegratedGradients there."
            ) from problem
        complete()
        yield model


def _refused(path, holds):
    return PermissionError(
        f"Expected a model that only computes; received {path}, {holds}. Loading it can run anything its author "
        "wrote. If you trust the author, give --unsafe."
    )


def _read(path):
    """The architecture in a model's file as nested dicts, the version of Keras that wrote it, and numbers it holds."""
    if not path.is_dir() and path.suffix not in (".keras", ".h5", ".hdf5"):
        raise ValueError(
            f"Expected a .keras or .h5 file or a SavedModel folder; received {path}. Save the model with "
            'model.save("model.keras").'
        )
    with contextlib.ExitStack() as opened:
        files = [path / "config.json", path / WEIGHTS] if path.is_dir() else [path]
        files = [opened.enter_context(open(file, "rb")) for file in files if path.is_file() or file.is_file()]
        try:
            if path.is_dir():
                if len(files) < 2:
                    raise ValueError(f"it has no config.json or no {WEIGHTS}")
                return _architecture(files[0], storage.size_of(files[0])), "3", _numbers(files[1])
            return _read_keras(files[0]) if path.suffix == ".keras" else _read_h5(files[0])
        except Exception as problem:  # whatever a file that somebody else wrote can bring about
            raise ValueError(
                f"Expected a whole saved model; received {path}, which cannot be read ({storage.brief(problem)}). "
                'Write it again with model.save("model.keras").'
            ) from problem


def _read_keras(file):
    with zipfile.ZipFile(file) as archive:
        members = {member.filename: member for member in storage.checked_members(archive, storage.size_of(file))}
        with archive.open("config.json") as config:
            config = _architecture(config, members["config.json"].file_size)
        if WEIGHTS not in members:
            return config, "3", 0
        with archive.open(WEIGHTS) as weights:
            return config, "3", _numbers(io.BytesIO(weights.read(members[WEIGHTS].file_size)))


def _read_h5(file):
    import h5py

    with h5py.File(file, "r") as opened:
        config, written_by = (_text(opened.attrs.get(name, "")) for name in ("model_config", "keras_version"))
    if not config:
        raise ValueError("it holds weights alone")
    written_by = re.match(r"[\d.]{0,20}", written_by).group()
    return _architecture(io.StringIO(config), len(config)), written_by, _numbers(file)


def _architecture(config, size):
    if size > CONFIG:
        raise ValueError(f"its architecture takes {size:,} bytes, more than the {CONFIG:,} of any network")
    text = config.read(size)
    text = text.decode() if isinstance(text, bytes) else text
    if (brackets := text.count("[") + text.count("{")) > BRACKETS:
        raise ValueError(
            f"its architecture has {brackets:,} lists and objects, more than the {BRACKETS:,} of any network"
        )
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError(f"its architecture is a {type(found).__name__} and no object")
    level = [found]
    for _ in range(DEPTH):
        level = [x for node in level for x in (node.values() if isinstance(node, dict) else node)]
        level = [node for node in level if isinstance(node, dict | list)]
    if level:
        raise ValueError(f"its architecture is nested more than {DEPTH} times")
    return found


def _numbers(file):
    """How many numbers a file of HDF5 holds, once what its data sets declare has been held against what is stored."""
    import h5py

    found, swollen = 0, 0

    def look(name, item):
        nonlocal found, swollen
        if isinstance(item, h5py.Dataset):
            if item.external or item.is_virtual:
                raise ValueError(f"its weights {name!r} are in another file")
            size, stored = math.prod(item.shape or ()), item.id.get_storage_size()
            found += size
            if size * item.dtype.itemsize > storage.INFLATED * stored:
                swollen += size * item.dtype.itemsize

    with h5py.File(file, "r") as opened:
        opened.visititems(look)
    if swollen > storage.ALWAYS:
        raise ValueError(f"its weights declare {swollen:,} bytes that are not in the file")
    return found


@contextlib.contextmanager
def _weights(held):
    """Stops a model that is being built where it asks for more weights than its file, with `held` numbers, can fill.

    Yields:
        A function to call when the model is loaded: weights that a layer asks for later are in no file, but drawn.
    """
    import keras

    limit, made, add_weight = 4 * held + storage.ALWAYS // 4, 0, keras.Layer.add_weight

    def counted(layer, shape=None, *args, **kwargs):
        nonlocal made
        made += math.prod(shape if isinstance(shape, tuple | list) else (shape or 1,))
        if made > limit:
            raise ValueError(
                f"Expected a model whose weights are in its file; layer {layer.name!r} asks for some of shape {shape} "
                f"beyond the {held:,} numbers there. Save the model once it has been called."
            )
        return add_weight(layer, shape, *args, **kwargs)

    def complete():
        nonlocal limit
        limit = made

    keras.Layer.add_weight = counted
    try:
        yield complete
    finally:
        keras.Layer.add_weight = add_weight


def _text(attribute):
    return attribute.decode() if isinstance(attribute, bytes) else str(attribute)


def _code(config):
    """(layer, what it holds) for everything in a config that would run code, or reach for more than the file.

    Keras looks as well, but its older versions let a Lambda in an .h5 file pass, and any function that Keras exports.
    """
    nodes = [(config, "model")]
    while nodes:
        node, layer = nodes.pop()
        if isinstance(node, list):
            nodes += [(child, layer) for child in reversed(node)]
        if not isinstance(node, dict):
            continue
        inner = node.get("config")
        if isinstance(inner, dict):
            layer = storage.short(str(inner.get("name", layer)))[1:-1]
        if reason := _reason(node, inner if isinstance(inner, dict) else {}):
            yield layer, reason
        else:
            nodes += [(child, layer) for child in reversed(node.values())]


def _reason(node, inner):
    """Why an object of a config would run code or reach for more than the file; None where it would not."""
    kind = _class(node)
    if kind == "Lambda" and not (isinstance(inner.get("function"), str) or _class(inner.get("function")) == "function"):
        return "Python code (a Lambda)"
    if kind == "__lambda__":
        return "Python code (a lambda)"
    if kind == "TFSMLayer":
        return "a TensorFlow program (a SavedModel)"
    if kind == "TorchModuleWrapper":
        return "Python code (a pickled torch module)"
    if isinstance(inner.get("vocabulary"), str):
        return f"the path of another file ({storage.short(inner['vocabulary'])})"
    return _stranger(node)


def _stranger(node):
    """Words for what a config names and no network is made of, such as "keras.utils.get_file"; None for the rest.

    An activation, a layer in a wrapper, the function of a Lambda: each is an object with a module and a name, and Keras
    looks for any of them among all that it exports, whatever the place where it stands. What other modules define is
    never imported.
    """
    kind, module = _class(node), node.get("module")
    name = {"function": node.get("config"), "__typespec__": node.get("spec_name")}.get(kind, kind)
    if not isinstance(name, str) or not isinstance(module, str):
        return None
    if module == "builtins" and (hasattr(builtins, name) or "." in name):
        return f"the function {storage.short(name)} of Python"
    home, _, last = f"{module}.{name}".rpartition(".")
    package, part = (home.split(".") + ["keras"])[:2]
    if package != "keras" or part == "src":
        return None  # Keras takes layers and the like alone from there
    if last[:1].isupper():
        known = part in PARTS | {"keras"} or (part, last) == ("utils", "FeatureSpace")
    else:
        known = part in FUNCTIONS and last not in MAKERS
    return None if known else f"{storage.short(f'{home}.{last}')}, of which no network is made"


def _class(node):
    found = node.get("class_name") if isinstance(node, dict) else None
    return found if isinstance(found, str) else None


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
    except Exception as problem:
        raise ValueError(
            f'Expected a SavedModel with the endpoint "serve" or "serving_default"; received {path} '
            f"({storage.brief(problem)}). Write it with model.export(path)."
        ) from problem
    signature = layer.call_endpoint_fn  # takes several inputs by keyword only, where TFSMLayer hands over one argument
    layer.call_endpoint_fn = lambda inputs: signature(**inputs) if isinstance(inputs, dict) else signature(inputs)
    return layer


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
    if twice := {name for name in columns if list(columns).count(name) > 1}:
        raise ValueError(f"Expected each column of {path} once; received {sorted(twice)} twice. Name it once.")
    with open(path, "rb") as file:
        try:
            found = readers[path.suffix](path, file, header)
        except Exception as problem:  # whatever a broken file can bring about
            if str(problem).startswith("Expected"):
                raise
            raise ValueError(
                f"Expected a {path.suffix} file of numbers; received {path}, which cannot be read "
                f"({storage.brief(problem)}). Write it again."
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
    if "" in kept and len(names) > 1:
        raise ValueError(
            f"Expected a name for every column of {path}; received none for column {names.index('')}, as an index is "
            "written. Write the table without its index, to_csv(path, index=False), or choose with --columns."
        )
    return kept


def _npy(path, file, header):
    shape, fortran, dtype, start = storage.npy_header(file, storage.size_of(file))
    if not math.prod(shape):
        return np.empty(shape, dtype)
    return np.memmap(path, dtype, "r", start, shape, "F" if fortran else "C")


def _npz(path, file, header):
    return storage.read_npz(file)


def _csv(path, file, header):
    names = _lines(path, header)
    pandas = _pandas(path)
    old = tuple(map(int, pandas.__version__.split(".")[:2])) < (3, 1)  # which rounds in the last place by default
    exact = {"float_precision": "round_trip"} if old else {}
    found = pandas.read_csv(path, header=None, skiprows=int(header), index_col=False, low_memory=False, **exact)
    return found.set_axis(names or [str(name) for name in found.columns], axis=1)


def _lines(path, header):
    """The names of a `.csv`, or None without a header.

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


def _names(path, first):
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


def _once(path, names):
    if twice := {name for name in names if names.count(name) > 1}:
        raise ValueError(f"Expected different names of columns in {path}; received {sorted(twice)} twice. Rename them.")


def _is_number(text):
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _parquet(path, file, header):
    found = _pandas(path).read_parquet(path).rename(columns=str)
    _once(path, list(found.columns))
    return found


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


def _exact(whole, name, path):
    """Raises ValueError where a whole number is beyond those that float64 holds one by one."""
    if whole.dtype.kind == "f":
        return
    beyond = (whole > 2**53) | (whole < (0 if whole.dtype.kind == "u" else -(2**53)))
    if beyond.any():
        raise ValueError(
            f"Expected numbers that float64 holds in {path}; received {whole[beyond][0]} of column {name!r}, beyond "
            f"2**53. Such a number is a key: leave it out with --drop {name!r}, or encode it."
        )


def each(function, data):
    """`function` of every array or frame in `data`, in the same structure."""
    if isinstance(data, dict):
        return {name: function(x) for name, x in data.items()}
    return [function(x) for x in data] if isinstance(data, list) else function(data)


def count(data, path):
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


def native(array):
    """The array in the byte order of this machine, which frameworks ask for."""
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))
