"""Files as strangers write them: explanations and models, damaged and hostile, drawn from a seed.

`explanations(folder, count, seed)` and `models(folder, count, seed)` write one file after another and yield
(what was done to it, path). Each name in `SPOILERS`, `MEMBERS` and `HOSTILE` is one way to go wrong.
"""

import base64
import io
import itertools
import json
import struct
import warnings
import zipfile
import zlib

import h5py
import keras
import numpy as np

import aumann

ODD = [None, True, -1, 2**70, 1e308, "", "x" * 5000, "prediction", [], {}, [[]], {"dict": 3}, {"list": [["a"]]}]
ODD += [{"tuple": ["values"], "list": []}, {"no": []}, {"dict": [["a"]]}, {"dict": [[[], "values"]]}, "no such member"]
DEEP = 100_000


def explanation(folder):
    """A file with everything in it: a structure, text, several targets, errors."""
    draw = np.random.default_rng(1)
    e = aumann.Explanation(
        values={"a": draw.normal(size=(3, 2, 4)), "b": [draw.normal(size=(3, 2, 1))]},
        inputs={"a": draw.normal(size=(3, 4)).astype(np.float32), "b": [np.array([["x"], ["yy"], [""]])]},
        baseline={"a": np.zeros((1, 4)), "b": [None]},
        prediction=draw.normal(size=(3, 2)),
        base_value=np.zeros((3, 2)),
        residual=np.zeros((3, 2)),
        error=np.full((3, 2), 1e-3),
        converged=np.ones((3, 2), bool),
        evaluations=np.full(3, 9),
        names={"features": {"a": list("pqrs"), "b": [None]}, "targets": ["u", "v"]},
        provenance={"seed": 7, "rule": {"name": "midpoint", "nodes": 3}},
    )
    return e.save(folder / "whole.npz").read_bytes()


# ---- bytes ---------------------------------------------------------------------------------------------------------


def flip(draw, data):
    spoiled = bytearray(data)
    for place in draw.integers(len(data), size=draw.integers(1, 20)):
        spoiled[place] ^= 1 << draw.integers(8)
    return bytes(spoiled)


def cut(draw, data):
    return data[: draw.integers(len(data))]


def remove(draw, data):
    start = draw.integers(len(data))
    return data[:start] + data[start + draw.integers(1, 200) :]


def insert(draw, data):
    start = draw.integers(len(data))
    return data[:start] + draw.bytes(draw.integers(1, 200)) + data[start:]


def repeat(draw, data):
    start, length = draw.integers(len(data)), draw.integers(1, 2000)
    return data[:start] + data[start : start + length] * int(draw.integers(2, 5)) + data[start:]


def noise(draw, data):
    return draw.bytes(draw.integers(0, 3000))


def directory(draw, data):
    """One field of the central directory: sizes, method, flags, offset or length of a name."""
    spoiled, start = bytearray(data), data.index(b"PK\x01\x02")
    entries = [i for i in range(start, len(data) - 4) if data[i : i + 4] == b"PK\x01\x02"]
    field, size = [(8, 2), (10, 2), (16, 4), (20, 4), (24, 4), (28, 2), (42, 4)][draw.integers(7)]
    place = entries[draw.integers(len(entries))] + field
    value = int(draw.choice([0, 1, 8, 12, 14, 99, 2**16 - 1, 2**31, 2**32 - 1, draw.integers(2**16)]))
    spoiled[place : place + size] = (value % 256**size).to_bytes(size, "little")
    return bytes(spoiled)


SPOILERS = {f.__name__: f for f in (flip, cut, remove, insert, repeat, noise, directory)}


# ---- members: what follows is a sound archive ----------------------------------------------------------------------


def members(data):
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def archive_of(found, method=zipfile.ZIP_STORED, twice=()):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in found.items():
            archive.writestr(name, content)
        for name in twice:
            with warnings.catch_warnings(action="ignore"):  # zipfile warns of the second
                archive.writestr(name, found[name])
    return file.getvalue()


def npy(descr, shape, data=b"", fortran=False, version=(1, 0)):
    """An .npy whose header says whatever it is given."""
    text = f"{{'descr': {descr}, 'fortran_order': {fortran}, 'shape': {shape}, }}"
    return raw_npy(text, data, version)


def raw_npy(text, data=b"", version=(1, 0)):
    text = text.encode("latin1") + b"\n"
    return b"\x93NUMPY" + bytes(version) + struct.pack("<H" if version == (1, 0) else "<I", len(text)) + text + data


DTYPES = ["'|S0'", "'<U0'", "'|O'", "'|V8'", "'>f4'", "'<f2'", "'<c16'", "'<M8[s]'", "'|S2147483647'", "'|b1'", "'<i8'"]
DTYPES += [
    "[('a', '<f8')]",
    "[('a', '<f8', (2, 2))]",
    "'nonsense'",
    "3",
    "None",
    "'<f8, <i4'",
    "('<f8', (2,))",
    "'<U9'",
]
SHAPES = ["(2147483648,)", "(3, 2)", "(-1,)", "(0, 4611686018427387904)", "(9223372036854775808,)", "(True, 2)"]
SHAPES += [
    "()",
    "7",
    "[3]",
    f"({'1, ' * 70})",
    "(1e9,)",
    "(0,)",
    "(1099511627776, 0)",
    "(3, 2, 4)",
    "'abc'",
    "(2147483647,)",
]


def other_header(draw, found):
    """Another dtype, shape, order or version before the same bytes."""
    data = draw.bytes(draw.integers(0, 200))
    version = [(1, 0), (2, 0), (3, 0), (9, 9)][draw.choice(4, p=[0.7, 0.1, 0.1, 0.1])]
    made = npy(draw.choice(DTYPES), draw.choice(SHAPES), data, draw.choice(["True", "False", "3"]), version)
    return {**found, some(draw, found): made}


def broken_header(draw, found):
    texts = ["(" * 3000, "[" * 9000 + "]" * 9000, "{}", "{'descr': 1}", "9" * 8000, "", "{'descr': '<f8'", "x" * 70000]
    texts += ["{'descr': '<f8', 'fortran_order': False, 'shape': (" + "-" * 3000 + "1,)}", "__import__('os').getpid()"]
    return {**found, some(draw, found): raw_npy(texts[draw.integers(len(texts))][:65000])}


def exact_lie(draw, found):
    """A dtype and a shape that agree with the bytes, and not with the explanation."""
    dtype = np.dtype(draw.choice(["f8", "f4", "i2", "u8", "b1", "S3", "U2", "c8", "M8[s]", "U1"]))
    shape = tuple(draw.integers(0, 4, size=draw.integers(0, 4)))
    data = draw.bytes(int(np.prod(shape)) * dtype.itemsize)
    return {**found, some(draw, found): npy(repr(dtype.str), str(tuple(map(int, shape))), data)}


def swap(draw, found):
    one, other = some(draw, found), some(draw, found)
    return {**found, one: found[other], other: found[one]}


def lose(draw, found):
    gone = some(draw, found)
    return {name: content for name, content in found.items() if name != gone}


def foreign(draw, found):
    return {**found, str(draw.choice(["notes.txt", "../up.npy", "a/b", "x" * 300, ".npy"])): b"text"}


def header(draw, found):
    """The header with one node replaced or removed."""
    return {**found, "header.npy": as_header(json.dumps(with_odd_node(draw, json.loads(text_of(found)))))}


def with_odd_node(draw, content):
    places = [(content, key) for key in content]
    for parent, key in places:
        child = parent[key]
        keys = child if isinstance(child, dict) else range(len(child)) if isinstance(child, list) else ()
        places += [(child, k) for k in keys]
    parent, key = places[draw.integers(len(places))]
    if draw.random() < 0.2 and isinstance(parent, dict):
        del parent[key]
    else:
        parent[key] = ODD[draw.integers(len(ODD))]
    return content


def header_text(draw, found):
    text = text_of(found)
    deep = ["[" * DEEP, '{"a":' * DEEP, text.replace("null", "[" * DEEP + "]" * DEEP, 1)]
    deep += [text.replace('"values.0"', '{"list": [' * DEEP + "null" + "]}" * DEEP), "NaN", "9" * 50000, text[:-1], ""]
    deep += [text.replace("7", "1e999"), text.replace("7", "9" * 5000), "[1]", "null", '"text"', "\ufeff" + text]
    wide = '["prediction"' + ', "prediction"' * 50000 + "]"
    deep += [text.replace('"values.0"', f'{{"list": {wide}}}'), text.replace("null", wide, 1)]
    return {**found, "header.npy": as_header(deep[draw.integers(len(deep))])}


def text_of(found):
    return np.lib.format.read_array(io.BytesIO(found["header.npy"])).tobytes().decode()


def as_header(text):
    content = text.encode()
    return npy("'|u1'", f"({len(content)},)", content)


def some(draw, found):
    return str(draw.choice(sorted(found)))


MEMBERS = (other_header, broken_header, exact_lie, swap, lose, foreign, header, header_text)
MEMBERS = {f.__name__: f for f in MEMBERS}


def bomb(draw, data):
    """Zeros that inflate to far more than the file: told truly, or with sizes in the directory that are too small."""
    found = {**members(data), "values.0.npy": b""}
    size = 2 ** int(draw.integers(20, 29))
    deflated, crc = zeros(size, npy("'<f8'", f"({size // 8},)"))
    return with_deflated(found, "values.0.npy", deflated, crc, size if draw.random() < 0.5 else 4096)


def zeros(size, first=b""):
    """(deflated bytes, checksum) of `first` and then `size` zeros, without taking the time to deflate them."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    begin = packer.compress(first) + packer.flush(zlib.Z_FULL_FLUSH)
    block = bytes(min(size, 2**20))
    middle = packer.compress(block) + packer.flush(zlib.Z_FULL_FLUSH)
    crc = zlib.crc32(first)
    for _ in range(size // len(block)):
        crc = zlib.crc32(block, crc)
    return begin + middle * (size // len(block)) + packer.flush(), crc


def with_deflated(found, name, deflated, crc, size):
    """An archive, one member of which is deflated already and says to have `size` bytes."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for other, content in found.items():
            archive.writestr(other, deflated if other == name else content)
        member = archive.getinfo(name)
        member.compress_type, member.CRC, member.file_size = zipfile.ZIP_DEFLATED, crc, size
        place = member.header_offset
    data = bytearray(file.getvalue())
    data[place + 8 : place + 10] = struct.pack("<H", zipfile.ZIP_DEFLATED)
    data[place + 14 : place + 26] = struct.pack("<III", crc, len(deflated), size)
    return bytes(data)


def packed(draw, data):
    method = int(draw.choice([zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]))
    return archive_of(members(data), method)


def doubled(draw, data):
    found = members(data)
    return archive_of(found, twice=[some(draw, found)])


def overlapping(draw, data):
    """A thousand names for the same bytes."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members(data).items():
            archive.writestr(name, content)
        archive.writestr("big.npy", npy("'|u1'", f"({2**16},)", bytes(2**16)))
        big = archive.getinfo("big.npy")
        for k in range(1000):
            more = zipfile.ZipInfo(f"more{k}.npy")
            more.CRC, more.file_size, more.compress_size = big.CRC, big.file_size, big.compress_size
            more.header_offset = big.header_offset
            archive.filelist.append(more)
            archive.NameToInfo[more.filename] = more
    return file.getvalue()


WHOLE = {f.__name__: f for f in (bomb, packed, doubled, overlapping)}


def explanations(folder, count, seed=0):
    """Yields (what was done, path) of `count` files, one at a time under the same name."""
    data, path = explanation(folder), folder / "spoiled.npz"
    ways = [*SPOILERS, *MEMBERS, *WHOLE]
    for number in range(count):
        draw = np.random.default_rng([seed, number])
        way = ways[number % len(ways)]
        if way in MEMBERS:
            found = members(data)
            for _ in range(draw.integers(1, 3)):
                found = MEMBERS[way](draw, found)
            spoiled = archive_of(found)
        else:
            spoiled = (SPOILERS | WHOLE)[way](draw, data)
        path.write_bytes(spoiled)
        yield f"{way} {number}", path


# ---- models --------------------------------------------------------------------------------------------------------


def model():
    """A small network with a layer in a wrapper, an activation by name, and shared parts."""
    x = keras.Input((6,), name="x")
    h = keras.layers.Dense(5, activation="tanh", name="first")(x)
    h = keras.layers.Reshape((5, 1))(h)
    h = keras.layers.TimeDistributed(keras.layers.Dense(2, activation="gelu"), name="wrapped")(h)
    h = keras.layers.Flatten()(h)
    return keras.Model(x, keras.layers.Dense(2, activation="softmax", name="last")(h))


def saved(folder):
    """The bytes of the model as .keras and as .h5."""
    made = model()
    for suffix in (".keras", ".h5"):
        made.save(folder / f"whole{suffix}")
    return {suffix: (folder / f"whole{suffix}").read_bytes() for suffix in (".keras", ".h5")}


def named(name, module="keras.utils"):
    return {"module": module, "class_name": "function", "config": name, "registered_name": name}


def made_of(kind, module="keras.layers", **config):
    return {"module": module, "class_name": kind, "config": config, "registered_name": None}


LAMBDA = {"class_name": "__lambda__", "config": {"code": "4wEAAAAA", "defaults": None, "closure": None}}
PICKLE = base64.b64encode(b"cos\nsystem\n(S'true'\ntR.").decode()
RELU = named("relu", "keras.activations")
OLD = {
    "class_name": "Lambda",
    "name": "l",
    "inbound_nodes": [],
    "config": {"name": "l", "function": ["4wEA", None, None]},
}
SPEC = {"class_name": "__typespec__", "module": "keras.utils", "spec_name": "get_file", "registered_name": None}


def code(function, **more):
    return made_of("Lambda", name="code", function=function, **more)


# What a config may bring in as an activation or as a layer in a wrapper, and must be refused as code.
CODE = {
    "lambda": LAMBDA,
    "download": named("get_file"),
    "unlock": named("enable_unsafe_deserialization", "keras.config"),
    "load": named("load_model", "keras.saving"),
    "load by another name": named("load_model", "keras.models"),
    "dotted": named("utils.get_file", "keras"),
    "a class in name": made_of("get_file", "keras.utils"),
    "eval": named("eval", "builtins"),
    "exec as a class": made_of("exec", "builtins"),
    "deserialize": named("deserialize", "keras.layers"),
    "get": named("get", "keras.activations"),
    "image": named("load_img", "keras.utils"),
    "array": named("img_to_array", "keras.utils"),
    "backend": named("set_image_data_format", "keras.config"),
    "typespec": {**SPEC, "config": []},
    "program": made_of("TFSMLayer", filepath="/elsewhere"),
    "program elsewhere": made_of("TFSMLayer", "keras.export", filepath="/elsewhere"),
    "Lambda": code(LAMBDA),
    "Lambda of old": code(["4wEA", None, None], function_type="lambda"),
    "Lambda that downloads": code(named("get_file"), arguments={"origin": "file:///etc/passwd"}),
    "Lambda with a shape": code(RELU, output_shape=LAMBDA),
    "Lambda with a mask": code(RELU, mask=named("get_file")),
    "pickle": made_of("TorchModuleWrapper", name="code", module=PICKLE),
    "vocabulary": made_of("StringLookup", name="words", vocabulary="/etc/passwd"),
    "text": made_of("TextVectorization", name="words", vocabulary="/etc/passwd"),
}

# What no file can hold, or nothing can be made of.
SENSELESS = {
    "huge": made_of("Dense", units=10**12),
    "large": made_of("Dense", units=10**8),
    "negative": made_of("Dense", units=-3),
    "text for a number": made_of("Dense", units="many"),
    "unknown": made_of("Nothing"),
    "elsewhere": made_of("Popen", "subprocess", args=["true"]),
    "function elsewhere": named("system", "os"),
    "custom": {"module": "mine", "class_name": "Mine", "config": {}, "registered_name": "mine>Mine"},
    "optimizer": made_of("Adam", "keras.optimizers"),
    "huge embedding": made_of("Embedding", input_dim=10**10, output_dim=64),
    "huge recurrent": made_of("LSTM", units=10**6),
    "huge kernel": made_of("Conv1D", filters=10**6, kernel_size=10**4),
}


def at_activation(config, part):
    config["config"]["layers"][1]["config"]["activation"] = part


def at_last(config, part):
    config["config"]["layers"][-1]["config"]["activation"] = part


def in_wrapper(config, part):
    config["config"]["layers"][3]["config"]["layer"] = part


def in_wrapped(config, part):
    config["config"]["layers"][3]["config"]["layer"]["config"]["activation"] = part


def at_initializer(config, part):
    config["config"]["layers"][1]["config"]["kernel_initializer"] = part


def at_layer(config, part):
    config["config"]["layers"][1] = {**config["config"]["layers"][1], **part}


PLACES = (at_activation, at_last, in_wrapper, in_wrapped, at_initializer, at_layer)


def with_config(data, config):
    found = members(data)
    return archive_of({**found, "config.json": config if isinstance(config, bytes | str) else json.dumps(config)})


def planted(draw, data, part):
    config = json.loads(members(data)["config.json"])
    PLACES[draw.integers(len(PLACES))](config, json.loads(json.dumps(part)))
    return with_config(data, config)


def odd_config(draw, data):
    """One node of the architecture replaced or removed."""
    return with_config(data, with_odd_node(draw, json.loads(members(data)["config.json"])))


def config_text(draw, data):
    text = members(data)["config.json"].decode()
    texts = ["[" * DEEP, '{"a":' * DEEP, "", "null", "[1, 2]", '"text"', text[:-5], "\x00" + text]
    texts += [text.replace("1", "1e999")]
    nested = '{"module": "keras", "class_name": "Sequential", "config": {"name": "s", "layers": ['
    texts += [nested * 80 + "]}}" * 80, nested * 2000 + "]}}" * 2000, "[" + "[]," * 10**6 + "[]]", "9" * 10**6]
    return with_config(data, texts[draw.integers(len(texts))])


def config_bomb(draw, data):
    found, size = members(data), 2 ** int(draw.integers(25, 31))
    deflated, crc = zeros(size, b'{"a": "')
    return with_deflated({**found, "config.json": b""}, "config.json", deflated, crc, size + 7)


def weight_bomb(draw, data):
    """Weights whose shapes are far larger than what is stored of them."""
    shape = (2 ** int(draw.integers(13, 20)), 2**13)
    packing = "gzip" if draw.random() < 0.5 else None
    spoiled = with_weights(
        draw,
        data,
        lambda file, place, _: file.create_dataset(place, shape, "f4", chunks=(1, 2**13), compression=packing),
    )
    return archive_of(members(spoiled), zipfile.ZIP_DEFLATED) if draw.random() < 0.3 else spoiled


def outside(draw, data):
    """Weights that stand in another file."""

    def make(file, place, shape):
        if draw.random() < 0.5:
            file.create_dataset(place, shape, "f4", external=[("/etc/passwd", 0, 4 * int(np.prod(shape)))])
        else:
            file[place] = h5py.ExternalLink("/etc/passwd", "/x")

    return with_weights(draw, data, make)


def with_weights(draw, data, make):
    """The model with one of its weights made anew, by `make(file, name, shape)`."""
    file = io.BytesIO()
    with h5py.File(io.BytesIO(members(data)["model.weights.h5"]), "r") as old, h5py.File(file, "w") as new:
        for name in old:
            old.copy(name, new)
        names = []
        new.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
        place = names[draw.integers(len(names))]
        shape = new[place].shape
        del new[place]
        make(new, place, shape)
    return archive_of({**members(data), "model.weights.h5": file.getvalue()})


def lost_member(draw, data):
    return archive_of(lose(draw, members(data)))


def spoiled_member(draw, data):
    """Broken bytes in a sound archive."""
    found = members(data)
    name = some(draw, found)
    way = SPOILERS[str(draw.choice(["flip", "cut", "remove", "insert", "noise"]))]
    return archive_of({**found, name: way(draw, found[name])})


def h5_config(draw, data):
    """An .h5 with another architecture."""
    file = io.BytesIO(data)
    with h5py.File(file, "r+") as opened:
        config = json.loads(opened.attrs["model_config"])
        layers = config["config"]["layers"]
        kind = draw.integers(4)
        if kind == 0:
            layers[1]["config"]["activation"] = list(CODE.values())[draw.integers(len(CODE))]
        elif kind == 1:
            layers[1]["config"]["units"] = 10**9
        elif kind == 2:
            layers[1] = OLD
        text = ["[" * 30000, "nothing", "[1]"][draw.integers(3)] if kind == 3 else json.dumps(config)
        opened.attrs["model_config"] = text
        if draw.random() < 0.2:
            opened.attrs["keras_version"] = "a.b"
    return file.getvalue()


HOSTILE = (odd_config, config_text, config_bomb, weight_bomb, outside, lost_member, spoiled_member)
HOSTILE = {f.__name__: f for f in HOSTILE}


def models(folder, count, seed=0):
    """Yields (what was done, path) of `count` models, one at a time."""
    data = saved(folder)
    parts = [("code", name, part) for name, part in CODE.items()]
    parts = itertools.cycle(parts + [("senseless", name, part) for name, part in SENSELESS.items()])
    ways = [*HOSTILE, *SPOILERS, "h5_config", "h5_config", "planted", "planted", "planted", "planted"]
    for number in range(count):
        draw = np.random.default_rng([seed, number])
        way, suffix = ways[number % len(ways)], ".keras"
        if way == "planted":
            kind, name, part = next(parts)
            spoiled, way = planted(draw, data[suffix], part), f"{kind}: {name}"
        elif way == "h5_config":
            suffix = ".h5"
            spoiled = h5_config(draw, data[suffix])
        else:
            spoiled = (SPOILERS | HOSTILE)[way](draw, data[suffix])
        path = folder / f"spoiled{suffix}"
        path.write_bytes(spoiled)
        yield f"{way} {number}", path
