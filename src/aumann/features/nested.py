"""Nested structures of arrays: one array, or a list, tuple or dict of them, nested at will, as a model's inputs are.

`walk` visits such structures leaf by leaf and `rebuild` puts new leaves into the old shape.
"""

import reprlib
from collections.abc import Iterator, Mapping


def walk(structure, *others, path: str = "") -> Iterator[tuple]:
    """Yields (path, leaf, *what stands there in each of the others) for every leaf; the path reads "a/0", or "".

    Others are looked up along `structure`, so what they hold at its leaves may itself be a list or a mapping. Where an
    other is None, or a mapping lacks a key, None is passed.

    Raises:
        ValueError: if another has keys or a length that `structure` has not.
    """
    if not isinstance(structure, Mapping | list | tuple):
        yield path, structure, *others
        return
    keyed = isinstance(structure, Mapping)
    for other in others:
        if keyed:
            fits = other is None or (isinstance(other, Mapping) and other.keys() <= structure.keys())
        else:
            fits = other is None or (isinstance(other, list | tuple) and len(other) == len(structure))
        if not fits:
            wanted = f"keys among {list(structure)}" if keyed else f"a list of {len(structure)}"
            raise ValueError(
                f"Expected {wanted}, like the inputs; received {reprlib.repr(other)}. Give one entry for each input."
            )
    for key in structure if keyed else range(len(structure)):
        below = (other.get(key) if isinstance(other, Mapping) else other and other[key] for other in others)
        yield from walk(structure[key], *below, path=f"{path}/{key}" if path else str(key))


def rebuild(structure, leaves):
    """Returns `structure` with its leaves replaced, in the order of `walk`."""
    leaves = iter(leaves)
    if isinstance(structure, Mapping):
        return {key: rebuild(child, leaves) for key, child in structure.items()}
    if isinstance(structure, list | tuple):
        children = [rebuild(child, leaves) for child in structure]
        return tuple(children) if isinstance(structure, tuple) else children
    return next(leaves)


def input_path(explanation, name, fits, what) -> str:
    """Returns the path of the input called `name`, or of the only one whose feature shape fits if that is None.

    Raises:
        ValueError: if no input has that name and fits, or if several could be meant; `what` says in words which fit.
    """
    rows = {path: value.shape[explanation.prediction.ndim :] for path, value in walk(explanation.values)}
    paths = [path for path, row in rows.items() if fits(row) and name in (None, path)]
    if len(paths) != 1:
        raise ValueError(
            f"Expected one input that is {what}; received inputs with feature axes {rows} and input={name!r}. "
            "Name one of them in input=."
        )
    return paths[0]
