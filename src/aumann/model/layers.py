"""Places inside a model, as a user names them: by a layer, its name, or a path through the models that hold it."""

from dataclasses import dataclass

import keras

from aumann.model.interception import Place
from aumann.model.oracle import parts


def output_of(layer):
    """What a layer makes: for `layer=`, where a layer alone means the same, or for `output=`, where its units are F.

    Args:
        layer: the layer, its name, or a path such as "encoder/block_1/dense": names of layers, or of the attributes
            that hold them, from any model inside the model on, or with "/" in front from the model itself on.
    """
    return Place(layer, "output")


def input_of(layer):
    """What a layer takes, its first argument: for `layer=` or `output=`. Arguments as for `output_of`."""
    return Place(layer, "input")


def find(model, wanted, option="layer"):
    """The place that `wanted` names: a place whose layer is a layer.

    Raises:
        ValueError: it names none, or several.
    """
    side, layer = (wanted.side, wanted.layer) if isinstance(wanted, Place) else ("output", wanted)
    inside = list(_walk(model))
    if isinstance(layer, str):
        found = [(path, x) for path, other, x in inside if _ends(path, layer) or _ends(other, layer)]
        name = layer.strip("/")
    else:
        found = [(path, x) for path, _, x in inside if x is layer]
        if not found and not isinstance(model, keras.Layer) and callable(layer) and not inside:
            found = [((getattr(layer, "name", type(layer).__name__),), layer)]  # a function shows no layers
        name = found[0][0][-1] if found else None
    layers = {id(x): x for _, x in found}
    if len(layers) != 1:
        names = list(dict.fromkeys("/".join(path) for path, *_ in inside))
        if layers:
            names = list(dict.fromkeys(f"/{'/'.join(path)}" for path, _, x in inside if id(x) in layers))
        if len(names) < len(layers):  # of the same name in the same model: told by their attributes
            names = list(dict.fromkeys(f"/{'/'.join(other)}" for _, other, x in inside if id(x) in layers))
        raise ValueError(
            f"Expected {option}= to name one layer inside the model, received {layer!r} which names {len(layers)}. "
            f"The layers are {names[:40]}."
        )
    (layer,) = layers.values()
    return Place(layer, side, name if side == "output" else f"input of {name}")


def find_all(model, wanted):
    """The places that a layer, or a list of them, names; each once."""
    given = wanted if isinstance(wanted, (list, tuple)) else [wanted]
    if not given:
        raise ValueError("Expected layer= to name at least one layer, received an empty list. Leave it out.")
    return list(dict.fromkeys(find(model, each) for each in given))


@dataclass(frozen=True)
class Address:
    """Where a layer stands in the walk through a model, which is the same in a copy of the model."""

    number: int
    side: str
    name: str


def addresses(model, places):
    """A place, or several, by where they stand in a Keras model, whose layers a copy does not share; else as they are.

    A module of torch is copied together with its parts.
    """
    if isinstance(places, (list, tuple)):
        return type(places)(addresses(model, p) for p in places)
    if not isinstance(places, Place) or not isinstance(model, keras.Layer):
        return places
    layers = [model, *(layer for *_, layer in _walk(model))]
    number = next((i for i, layer in enumerate(layers) if layer is places.layer), None)
    return places if number is None else Address(number, places.side, places.name)


def at_addresses(model, places):
    """The places in another copy of the model."""
    if isinstance(places, (list, tuple)):
        return type(places)(at_addresses(model, p) for p in places)
    if not isinstance(places, Address):
        return places
    layers = [model, *(layer for *_, layer in _walk(model))]
    return Place(layers[places.number], places.side, places.name)


def _ends(path, name):
    steps = tuple(name.strip("/").split("/"))
    return path[-len(steps) :] == steps and (len(path) == len(steps) or not name.startswith("/"))


def _walk(model, path=(), other=()):
    """(path of names, path of attributes, layer) of everything inside, the model that holds it first."""
    if hasattr(model, "named_modules") and not isinstance(model, keras.Layer):
        for name, module in model.named_modules():
            if name:
                yield tuple(name.split(".")), tuple(name.split(".")), module
        return
    held = {**getattr(model, "__dict__", {}), **getattr(model, "_modules", {})}  # where torch keeps them
    attributes = {id(v): k for k, v in held.items() if not k.startswith("_")}
    for part in parts(model):
        name = getattr(part, "name", type(part).__name__)
        here = (*path, name), (*other, attributes.get(id(part), name))
        yield *here, part
        yield from _walk(part, *here)
