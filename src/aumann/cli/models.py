"""Models that come in by the command line: a file brings nothing but numbers and names of what Keras has.

Loading runs nothing that the file holds unless it is told to, and allocates no more than the file can account for.
"""

import builtins
import contextlib
import io
import json
import math
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, BinaryIO

from aumann.storage import archive as storage
from aumann.user_warnings import warn

MOST_BYTES = 2**24  # of an architecture that is read: the largest of Keras's own applications has 2 ** 20
MOST_OBJECTS = 2**18  # lists and objects in an architecture: a network of 1,000 layers has 2 ** 15
MOST_DEPTH = 100  # of lists and objects in each other: a layer in a wrapper in a model in a model stands at 16
WEIGHTS = "model.weights.h5"

# What a network is made of, by the modules that Keras exports it from.
PARTS = {"layers", "models", "initializers", "regularizers", "constraints", "activations", "losses", "metrics"}
PARTS |= {"optimizers", "dtype_policies", "quantizers", "random", "ops"}
FUNCTIONS = {"initializers", "regularizers", "constraints", "activations", "losses", "metrics", "random", "ops"}
MAKERS = {"get", "deserialize", "serialize"}  # functions of these modules that make something of a config


def load_model(path: str | Path, unsafe: bool = False) -> Any:
    """The model of `opened_model`, for which layers may then make weights of their own."""
    with opened_model(path, unsafe) as model:
        return model


@contextlib.contextmanager
def opened_model(path: str | Path, unsafe: bool = False) -> Iterator[Any]:
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
    config, written_by, stored = read_config(path)
    if not unsafe:
        for layer, reason in code_in(config):
            raise _refused(path, f"whose layer {layer!r} holds {reason}")
    if int(written_by.split(".")[0] or 0) < 3 and "hard_sigmoid" in json.dumps(config):
        warn(
            f"{path} was written by Keras {written_by or '1'} and uses hard_sigmoid, which has slope 1/6 in Keras 3 "
            "in place of 1/5: predictions differ from those the model was trained for.",
        )
    del config
    import keras

    with _no_more_weights_than(stored) as complete:
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


def _refused(path: Path, holds: str) -> PermissionError:
    return PermissionError(
        f"Expected a model that only computes; received {path}, {holds}. Loading it can run anything its author "
        "wrote. If you trust the author, give --unsafe."
    )


def read_config(path: Path) -> tuple[dict, str, int]:
    """What a file says of its model before Keras loads it.

    Returns:
        (the architecture as nested dicts, the version of Keras that wrote it, how many numbers it stores as weights)

    Raises:
        ValueError, OSError: it is no whole file of a model, or declares more than it holds.
    """
    if not path.is_dir() and path.suffix not in (".keras", ".h5", ".hdf5"):
        raise ValueError(
            f"Expected a .keras or .h5 file or a SavedModel folder; received {path}. Save the model with "
            'model.save("model.keras").'
        )
    with contextlib.ExitStack() as opened:
        paths = [path / "config.json", path / WEIGHTS] if path.is_dir() else [path]
        files = [opened.enter_context(open(file, "rb")) for file in paths if path.is_file() or file.is_file()]
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


def _read_keras(file: BinaryIO) -> tuple[dict, str, int]:
    with zipfile.ZipFile(file) as archive:
        members = {member.filename: member for member in storage.checked_members(archive, storage.size_of(file))}
        with archive.open("config.json") as member:
            config = _architecture(member, members["config.json"].file_size)
        if WEIGHTS not in members:
            return config, "3", 0
        with archive.open(WEIGHTS) as weights:
            return config, "3", _numbers(io.BytesIO(weights.read(members[WEIGHTS].file_size)))


def _read_h5(file: BinaryIO) -> tuple[dict, str, int]:
    import h5py

    with h5py.File(file, "r") as opened:
        config, written_by = (_text(opened.attrs.get(name, "")) for name in ("model_config", "keras_version"))
    if not config:
        raise ValueError("it holds weights alone")
    (written_by,) = re.findall(r"^[\d.]{0,20}", written_by)
    return _architecture(io.StringIO(config), len(config)), written_by, _numbers(file)


def _architecture(config: IO, size: int) -> dict:
    """The architecture in a file of JSON of `size` bytes, once its size and depth are known to be sane."""
    if size > MOST_BYTES:
        raise ValueError(f"its architecture takes {size:,} bytes, more than the {MOST_BYTES:,} of any network")
    text = config.read(size)
    text = text.decode() if isinstance(text, bytes) else text
    if (brackets := text.count("[") + text.count("{")) > MOST_OBJECTS:
        raise ValueError(
            f"its architecture has {brackets:,} lists and objects, more than the {MOST_OBJECTS:,} of any network"
        )
    architecture = json.loads(text)
    if not isinstance(architecture, dict):
        raise ValueError(f"its architecture is a {type(architecture).__name__} and no object")
    level = [architecture]
    for _ in range(MOST_DEPTH):
        level = [x for node in level for x in (node.values() if isinstance(node, dict) else node)]
        level = [node for node in level if isinstance(node, dict | list)]
    if level:
        raise ValueError(f"its architecture is nested more than {MOST_DEPTH} times")
    return architecture


def _numbers(file: BinaryIO) -> int:
    """How many numbers a file of HDF5 stores.

    Raises:
        ValueError: its data sets refer to other files, or declare far more than is stored.
    """
    import h5py

    declared, swollen = 0, 0

    def visit(name, item):
        nonlocal declared, swollen
        if isinstance(item, h5py.Dataset):
            if item.external or item.is_virtual:
                raise ValueError(f"its weights {name!r} are in another file")
            size, stored = math.prod(item.shape or ()), item.id.get_storage_size()
            declared += size
            if size * item.dtype.itemsize > storage.INFLATED * stored:
                swollen += size * item.dtype.itemsize

    with h5py.File(file, "r") as opened:
        opened.visititems(visit)
    if swollen > storage.ALWAYS:
        raise ValueError(f"its weights declare {swollen:,} bytes that are not in the file")
    return declared


@contextlib.contextmanager
def _no_more_weights_than(stored: int) -> Iterator[Callable[[], None]]:
    """Stops a model that is being built where it asks for more weights than its file, with so many numbers, can fill.

    Yields:
        A function to call when the model is loaded: weights that a layer asks for later are in no file, but drawn.
    """
    import keras

    limit, asked, add_weight = 4 * stored + storage.ALWAYS // 4, 0, keras.Layer.add_weight

    def counted(layer, shape=None, *args, **kwargs):
        nonlocal asked
        asked += math.prod(shape if isinstance(shape, tuple | list) else (shape or 1,))
        if asked > limit:
            raise ValueError(
                f"Expected a model whose weights are in its file; layer {layer.name!r} asks for some of shape {shape} "
                f"beyond the {stored:,} numbers there. Save the model once it has been called."
            )
        return add_weight(layer, shape, *args, **kwargs)

    def complete():
        nonlocal limit
        limit = asked

    keras.Layer.add_weight = counted
    try:
        yield complete
    finally:
        keras.Layer.add_weight = add_weight


def _text(attribute: Any) -> str:
    return attribute.decode() if isinstance(attribute, bytes) else str(attribute)


def code_in(config: dict) -> Iterator[tuple[str, str]]:
    """(layer, what it holds) for everything in an architecture that would run code, or reach for more than the file.

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


def _reason(node: dict, inner: dict) -> str | None:
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
    return _foreign(node)


def _foreign(node: dict) -> str | None:
    """Words for what a config names and no network is made of, such as "keras.utils.get_file"; None for the rest.

    An activation, a layer in a wrapper, the function of a Lambda: each is an object with a module and a name, and Keras
    looks for any of them among all that it exports, whatever the place where it stands. What other modules define is
    never imported.
    """
    kind, module = _class(node), node.get("module")
    names: dict[Any, Any] = {"function": node.get("config"), "__typespec__": node.get("spec_name")}
    name = names.get(kind, kind)
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


def _class(node: Any) -> str | None:
    name = node.get("class_name") if isinstance(node, dict) else None
    return name if isinstance(name, str) else None


def _saved_model(path: Path, unsafe: bool) -> Any:
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
