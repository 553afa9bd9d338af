"""Stepping between a layer and its caller, in one thread, for as long as a `with` block is open.

The model is not rebuilt and not changed: what is set on the instance is taken off again whatever happens, and a call
from another thread passes through untouched.
"""

import contextlib
import functools
import itertools
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from aumann.backends import keras_private

_one_at_a_time = threading.RLock()

Handlers = dict[tuple[Any, str], Callable[..., Any]]  # {(object, attribute): handler}, as `intercepted` takes them


@contextlib.contextmanager
def intercepted(handlers: Mapping[tuple[Any, str], Callable[..., Any]]) -> Iterator[None]:
    """Routes calls through handlers.

    Args:
        handlers: `{(object, attribute): handler}`; while the block is open, calling `object.attribute(*args)` in this
            thread calls `handler(original, *args)` instead.
    """
    if not handlers:
        yield
        return
    with _one_at_a_time:
        thread = threading.get_ident()
        undo: list[tuple[Any, str, Any]] = []
        try:
            for (owner, attribute), handler in handlers.items():
                undo.append((owner, attribute, vars(owner).get(attribute, undo)))
                vars(owner)[attribute] = _route(getattr(owner, attribute), handler, thread)
            yield
        finally:
            for owner, attribute, before in reversed(undo):
                if before is undo:
                    vars(owner).pop(attribute, None)
                else:
                    vars(owner)[attribute] = before


@dataclass(frozen=True, eq=False)
class Site:
    """A layer site: the output or the input of a layer. Two are equal where they are one, whatever they are called.

    Attributes:
        layer: the layer.
        side: "output" or "input".
        name: what it is called in an explanation.
    """

    layer: Any
    side: str = "output"
    name: str = ""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Site) and (id(self.layer), self.side) == (id(other.layer), other.side)

    def __hash__(self) -> int:
        return hash((id(self.layer), self.side))

    @property
    def input(self) -> "Site":
        """The input of the same layer."""
        return Site(self.layer, "input")


def method(layer: Any) -> str:
    """Name of the method that runs a layer: of a quantised one `quantized_call`, of a module of torch `forward`."""
    if keras_private.runs_quantized_call(layer):
        return "quantized_call"
    return "call" if hasattr(layer, "call") else "forward"


def visited(sites: Iterable[Site], visit: Callable[[Site, int, Callable[[], Any]], Any]) -> Handlers:
    """Handlers for `intercepted`: the tensor at each of the sites is replaced by visit(site, call, compute).

    `call` counts the calls of the layer from 0; `compute()` gives the tensor that it would have been.
    """
    by_method: dict[tuple[Any, str], dict[str, Site]] = {}
    for site in sites:
        by_method.setdefault((site.layer, method(site.layer)), {})[site.side] = site
    return {run: _visitor(sides, visit) for run, sides in by_method.items()}


def _visitor(sides: dict[str, Site], visit: Callable) -> Callable[..., Any]:
    calls = itertools.count()

    def handler(original, *args, **kwargs):
        k = next(calls)
        if "input" in sides:
            name = None if args else next(iter(kwargs), None)
            x = visit(sides["input"], k, lambda args=args, kwargs=kwargs: args[0] if args else kwargs.get(name))
            args = (x, *args[1:]) if args else ()
            kwargs = {**kwargs, name: x} if name else kwargs
        if "output" in sides:
            return visit(sides["output"], k, lambda: original(*args, **kwargs))
        return original(*args, **kwargs)

    return handler


def _route(original: Callable, handler: Callable, thread: int) -> Callable[..., Any]:
    @functools.wraps(original, updated=())  # another thread that reads the attribute still finds a softmax by its name
    def route(*args, **kwargs):
        if threading.get_ident() != thread:
            return original(*args, **kwargs)
        return handler(original, *args, **kwargs)

    return route
