"""Layer sites as a user names them: by a layer, its name, or a path through the models that hold it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import keras

from aumann.model.interception import Site
from aumann.model.signature import parts

Names = tuple[str, ...]


def output_of(layer: Any) -> Site:
    """The output of a layer: for `layer=`, where a layer alone means the same, or for `output=`, whose units are F.

    Args:
        layer: the layer, its name, or a path such as "encoder/block_1/dense": names of layers, or of the attributes
            that hold them, from any model inside the model on, or with "/" in front from the model itself on.
    """
    return Site(layer, "output")


def input_of(layer: Any) -> Site:
    """The input of a layer, its first argument: for `layer=` or `output=`. Arguments as for `output_of`."""
    return Site(layer, "input")


def find(model: Any, wanted: Any, option: str = "layer") -> Site:
    """The site that `wanted` names, with the layer itself in it.

    Args:
        model: a Keras model or layer, a module of torch, or a function.
        wanted: a layer, its name or path, or a `Site` of one of those.
        option: the argument that it was given as, for the message.

    Raises:
        ValueError: it names none, or several.
    """
    side, layer = (wanted.side, wanted.layer) if isinstance(wanted, Site) else ("output", wanted)
    inside = list(_walk(model))
    if isinstance(layer, str):
        matches = [(path, x) for path, other, x in inside if _ends(path, layer) or _ends(other, layer)]
        name = layer.strip("/")
    else:
        matches = [(path, x) for path, _, x in inside if x is layer]
        if not matches and not isinstance(model, keras.Layer) and callable(layer) and not inside:
            matches = [((getattr(layer, "name", type(layer).__name__),), layer)]  # a function shows no layers
        name = matches[0][0][-1] if matches else ""
    layers = {id(x): x for _, x in matches}
    if len(layers) != 1:
        raise ValueError(
            f"Expected {option}= to name one layer inside the model, received {layer!r} which names {len(layers)}. "
            f"The layers are {_names(inside, layers)[:40]}."
        )
    (layer,) = layers.values()
    return Site(layer, side, name if side == "output" else f"input of {name}")


def _names(inside: list[tuple[Names, Names, Any]], layers: dict[int, Any]) -> list[str]:
    """What may be chosen: all layers, or of several of one name what tells them apart."""
    if not layers:
        return list(dict.fromkeys("/".join(path) for path, *_ in inside))
    names = list(dict.fromkeys(f"/{'/'.join(path)}" for path, _, x in inside if id(x) in layers))
    if len(names) < len(layers):  # of the same name in the same model: told by their attributes
        names = list(dict.fromkeys(f"/{'/'.join(other)}" for _, other, x in inside if id(x) in layers))
    return names


def find_all(model: Any, wanted: Any) -> list[Site]:
    """The sites that a layer, or a list of them, names; each once."""
    items = wanted if isinstance(wanted, (list, tuple)) else [wanted]
    if not items:
        raise ValueError("Expected layer= to name at least one layer, received an empty list. Leave it out.")
    return list(dict.fromkeys(find(model, item) for item in items))


@dataclass(frozen=True)
class Address:
    """A site by the number of its layer in the walk through a model, which is the same in a copy of the model."""

    number: int
    side: str
    name: str


def addresses(model: Any, sites: Any) -> Any:
    """A site, or several, as addresses in a Keras model, whose layers a copy does not share; else as they are.

    A module of torch is copied together with its parts.
    """
    if isinstance(sites, (list, tuple)):
        return type(sites)(addresses(model, site) for site in sites)
    if not isinstance(sites, Site) or not isinstance(model, keras.Layer):
        return sites
    layers = [model, *(layer for *_, layer in _walk(model))]
    number = next((i for i, layer in enumerate(layers) if layer is sites.layer), None)
    return sites if number is None else Address(number, sites.side, sites.name)


def at_addresses(model: Any, sites: Any) -> Any:
    """The sites in another copy of the model."""
    if isinstance(sites, (list, tuple)):
        return type(sites)(at_addresses(model, site) for site in sites)
    if not isinstance(sites, Address):
        return sites
    layers = [model, *(layer for *_, layer in _walk(model))]
    return Site(layers[sites.number], sites.side, sites.name)


def _ends(path: Names, name: str) -> bool:
    steps = tuple(name.strip("/").split("/"))
    return path[-len(steps) :] == steps and (len(path) == len(steps) or not name.startswith("/"))


def _walk(model: Any, path: Names = (), other: Names = ()) -> Iterator[tuple[Names, Names, Any]]:
    """(path of names, path of attributes, layer) of everything inside, the model that holds it first."""
    if hasattr(model, "named_modules") and not isinstance(model, keras.Layer):
        for name, module in model.named_modules():
            if name:
                yield tuple(name.split(".")), tuple(name.split(".")), module
        return
    members = {**getattr(model, "__dict__", {}), **getattr(model, "_modules", {})}  # where torch keeps them
    attributes = {id(v): k for k, v in members.items() if not k.startswith("_")}
    for part in parts(model):
        name = getattr(part, "name", type(part).__name__)
        paths = (*path, name), (*other, attributes.get(id(part), name))
        yield *paths, part
        yield from _walk(part, *paths)
