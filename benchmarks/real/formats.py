"""Readers of the files that the packages keep their weights in. They need numpy alone.

So neither onnx, joblib, lz4, nor the framework that wrote a file has to be installed, and nothing is unpickled without
a list of the classes it may name. Only what these pinned files use is read: anything else raises ValueError or
pickle.UnpicklingError, which says what was met.
"""

import io
import pickle
from collections import OrderedDict, defaultdict

import numpy as np

# --- protocol buffers: ONNX models and TensorFlow graphs -------------------------------------------------------------

VARINT, BITS_64, BYTES, BITS_32 = 0, 1, 2, 5  # wire types


def _varint(data, at):
    """The number that starts at `at`, seven bits a byte and the lowest first, and where it ends."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _message(data):
    """The fields of one message: {field number: [every value, in order]}; nested messages are left as bytes."""
    fields = defaultdict(list)
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == VARINT:
            value, at = _varint(data, at)
        elif wire in (BITS_64, BYTES, BITS_32):
            if wire == BYTES:
                size, at = _varint(data, at)
            else:
                size = 8 if wire == BITS_64 else 4
            value = data[at : at + size]
            at += size
        else:
            raise ValueError(f"expected a protocol buffer, received wire type {wire} at byte {at}")
        fields[number].append(value)
    return fields


def _text(value):
    return bytes(value).decode("utf-8")


def _integers(values):
    """A repeated integer field: each value apart, or several packed into bytes."""
    out = []
    for value in values:
        if isinstance(value, int):
            out.append(value)
            continue
        at = 0
        while at < len(value):
            number, at = _varint(value, at)
            out.append(number)
    return out


ONNX_DTYPES = {1: "<f4", 6: "<i4", 7: "<i8", 9: "?", 10: "<f2", 11: "<f8"}


def _onnx_tensor(data):
    """An ONNX TensorProto: dims 1, data_type 2, name 8, raw_data 9."""
    tensor = _message(data)
    dtype = tensor[2][0]
    if dtype not in ONNX_DTYPES or not tensor[9]:
        raise ValueError(f"expected a tensor with raw data of type {sorted(ONNX_DTYPES)}, received type {dtype}")
    shape = _integers(tensor[1])
    array = np.frombuffer(tensor[9][0], ONNX_DTYPES[dtype]).reshape(shape)
    return _text(tensor[8][0]) if tensor[8] else "", array


def onnx_constants(path):
    """Every initializer of an ONNX model, and the value of every Constant node under its output's name."""
    with open(path, "rb") as file:
        model = _message(memoryview(file.read()))
    graph = _message(model[7][0])
    constants = dict(_onnx_tensor(initializer) for initializer in graph[5])
    for raw in graph[1]:
        node = _message(raw)  # output 2, op_type 4, attribute 5
        if _text(node[4][0]) == "Constant":
            attribute = _message(node[5][0])
            constants[_text(node[2][0])] = _onnx_tensor(attribute[5][0])[1]
    return constants


TF_FLOAT = 1


def frozen_graph_floats(path):
    """Every float32 constant of a frozen TensorFlow graph, under its node's name."""
    with open(path, "rb") as file:
        graph = _message(memoryview(file.read()))
    constants = {}
    for raw in graph[1]:
        node = _message(raw)  # name 1, op 2, attr 5
        if _text(node[2][0]) != "Const":
            continue
        entries = (_message(entry) for entry in node[5])
        attributes = {_text(entry[1][0]): entry[2][0] for entry in entries}
        tensor = _message(_message(attributes["value"])[8][0])  # dtype 1, tensor_shape 2, tensor_content 4, float_val 5
        if tensor[1][0] != TF_FLOAT:
            continue
        shape = [dim for raw_dim in _message(tensor[2][0])[2] for dim in _message(raw_dim)[1]] if tensor[2] else []
        content = b"".join(tensor[4] or tensor[5])
        values = np.frombuffer(content, "<f4")
        # a constant whose values are all the same is stored as one
        constants[_text(node[1][0])] = np.full(shape, values[0]) if values.size == 1 else values.reshape(shape)
    return constants


# --- pickles, each with the list of what it may name -----------------------------------------------------------------


class _Unpickler(pickle.Unpickler):
    """Unpickles nothing but the classes in `allowed`: {(module, name): what stands for it here}."""

    def __init__(self, file, allowed):
        super().__init__(file)
        self.allowed = allowed

    def find_class(self, module, name):
        if (module, name) not in self.allowed:
            known = ", ".join(sorted(f"{m}.{n}" for m, n in self.allowed)) or "none"
            raise pickle.UnpicklingError(f"expected only these classes: {known}; received {module}.{name}")
        return self.allowed[module, name]


class _TorchUnpickler(_Unpickler):
    """Tensors stay (storage's key, dtype, offset, shape, stride): their numbers come after the pickle."""

    def __init__(self, file):
        super().__init__(
            file,
            {
                ("collections", "OrderedDict"): OrderedDict,
                ("torch._utils", "_rebuild_tensor_v2"): self.tensor,
                ("torch", "FloatStorage"): np.dtype("<f4"),
                ("torch", "LongStorage"): np.dtype("<i8"),
            },
        )

    @staticmethod
    def tensor(storage, offset, shape, stride, requires_grad, hooks):
        return *storage, offset, shape, stride

    def persistent_load(self, saved):
        kind, dtype, key, _location, _size, _view = saved
        if kind != "storage":
            raise pickle.UnpicklingError(f"expected a torch storage, received {kind!r}")
        return key, dtype


TORCH_MAGIC = 0x1950A86A20F9469CFC6C


def torch_checkpoint(path):
    """The arrays of a state dict that torch wrote in its older format: {name: array}."""
    with open(path, "rb") as file:
        stream = io.BytesIO(file.read())
    if _TorchUnpickler(stream).load() != TORCH_MAGIC:
        raise ValueError(f"expected a torch checkpoint in the format before torch 1.6, received {path}")
    _TorchUnpickler(stream).load()  # the protocol's version
    _TorchUnpickler(stream).load()  # the writer's byte order and sizes
    tensors = _TorchUnpickler(stream).load()
    keys = _TorchUnpickler(stream).load()
    dtypes = {key: dtype for key, dtype, *_ in tensors.values()}
    storages = {}
    for key in keys:
        size = int.from_bytes(stream.read(8), "little")
        storages[key] = np.frombuffer(stream.read(size * dtypes[key].itemsize), dtypes[key])
    arrays = {}
    for name, (key, dtype, offset, shape, stride) in tensors.items():
        strides = [step * dtype.itemsize for step in stride]
        arrays[name] = np.lib.stride_tricks.as_strided(storages[key][offset:], shape, strides).copy()
    return arrays


def _lz4_stored(path):
    """The content of an LZ4 frame whose blocks are all stored as they are: trained floats do not compress."""
    with open(path, "rb") as file:
        data = file.read()
    if data[:5] != b"\x04\x22\x4d\x18\x40":
        raise ValueError(f"expected an LZ4 frame without checksums or sizes, received {data[:5].hex()} in {path}")
    content, at = bytearray(), 7
    while size := int.from_bytes(data[at : at + 4], "little"):
        if not size & 0x80000000:
            raise ValueError(f"expected stored blocks only, received a compressed one at byte {at} of {path}")
        size &= 0x7FFFFFFF
        content += data[at + 4 : at + 4 + size]
        at += 4 + size
    return bytes(content)


def joblib_arrays(path):
    """The list of arrays that joblib dumped to an LZ4 file."""
    stream = io.BytesIO(_lz4_stored(path))

    class Wrapper:
        """Stands for joblib's NumpyArrayWrapper: the array's bytes follow its pickled state in the same stream."""

        def __setstate__(self, state):
            dtype, shape = state["dtype"], state["shape"]
            if dtype.hasobject:
                raise pickle.UnpicklingError(f"expected plain numbers, received an array of {dtype}")
            stream.read(stream.read(1)[0])  # the padding that aligns the array
            data = stream.read(int(np.prod(shape)) * dtype.itemsize)
            self.array = np.frombuffer(data, dtype).reshape(shape, order=state["order"])

    allowed = {
        ("joblib.numpy_pickle", "NumpyArrayWrapper"): Wrapper,
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
    }
    return [wrapper.array for wrapper in _Unpickler(stream, allowed).load()]


class _Attributes:
    """Stands for an object of which only the attributes are wanted."""

    def __setstate__(self, state):
        self.__dict__.update(state)


def tokenizer(path):
    """The keras_preprocessing Tokenizer in a pickle of tox-block: an object with word_index, num_words, filters."""
    allowed = {
        ("collections", "OrderedDict"): OrderedDict,
        ("collections", "defaultdict"): defaultdict,
        ("builtins", "int"): int,
        ("keras_preprocessing.text", "Tokenizer"): _Attributes,
        ("tox_block.data_processing.preprocessors", "TokenSequencer"): _Attributes,
    }
    with open(path, "rb") as file:
        return _Unpickler(file, allowed).load().tokenizer
