"""Stepping between a layer and its caller, in one thread, for as long as a `with` block is open.

The model is not rebuilt and not changed: what is set on the instance is taken off again whatever happens, and a call
from another thread passes through untouched.
"""

import contextlib
import functools
import itertools
import threading
from dataclasses import dataclass
from typing import Any

_one_at_a_time = threading.RLock()


@contextlib.contextmanager
def intercepted(handlers):
    """Routes calls through handlers.

    Args:
        handlers: `{(object, attribute): handler}`; while the block is open, calling `object.attribute(*args)` in this
            thread calls `handler(original, *args)` instead.
    """
    if not handlers:
        yield
        return
    with _one_at_a_time:
        here = threading.get_ident()
        undo = []
        try:
            for (owner, attribute), handler in handlers.items():
                undo.append((owner, attribute, vars(owner).get(attribute, undo)))
                vars(owner)[attribute] = _route(getattr(owner, attribute), handler, here)
            yield
        finally:
            for owner, attribute, before in reversed(undo):
                if before is undo:
                    vars(owner).pop(attribute, None)
                else:
                    vars(owner)[attribute] = before


@dataclass(frozen=True, eq=False)
class Place:
    """The output or the input of a layer. Equal wherever they are the same place, however it was named.

    Attributes:
        layer: the layer.
        side: "output" or "input".
        name: what it is called in an explanation.
    """

    layer: Any
    side: str = "output"
    name: str = ""

    def __eq__(self, other):
        return isinstance(other, Place) and (id(self.layer), self.side) == (id(other.layer), other.side)

    def __hash__(self):
        return hash((id(self.layer), self.side))


def method(layer):
    """Name of the method that runs a layer: of a quantised one `quantized_call`, of a module of torch `forward`."""
    if getattr(layer, "quantization_mode", None) is not None and hasattr(layer, "quantized_call"):
        return "quantized_call"
    return "call" if hasattr(layer, "call") else "forward"


def visited(places, visit):
    """Handlers for `intercepted`: whatever passes one of the places is replaced by visit(place, call, make).

    `call` counts the calls of the layer from 0; `make()` gives what would have passed.
    """
    sides = {}
    for place in places:
        sides.setdefault((place.layer, method(place.layer)), {})[place.side] = place
    return {way: _visitor(own, visit) for way, own in sides.items()}


def _visitor(own, visit):
    calls = itertools.count()

    def handler(original, *args, **kwargs):
        k = next(calls)
        if "input" in own:
            name = None if args else next(iter(kwargs), None)
            x = visit(own["input"], k, lambda args=args, kwargs=kwargs: args[0] if args else kwargs.get(name))
            args = (x, *args[1:]) if args else ()
            kwargs = {**kwargs, name: x} if name else kwargs
        if "output" in own:
            return visit(own["output"], k, lambda: original(*args, **kwargs))
        return original(*args, **kwargs)

    return handler


def _route(original, handler, here):
    @functools.wraps(original, updated=())  # who looks from another thread still finds a softmax by its name
    def route(*args, **kwargs):
        if threading.get_ident() != here:
            return original(*args, **kwargs)
        return handler(original, *args, **kwargs)

    return route
