"""Targets: which scalar of the model's outputs is F, for each row and for several targets at once.

The outputs of a row are laid end to end as one long vector; a target is a position in it. What a user says (a class,
"predicted", a tuple index, a named output, a callable, a list of those, "all") is resolved to such positions once the
layout of the outputs is known, and checked against it.
"""

from dataclasses import dataclass, replace

import numpy as np

from aumann.arguments import is_whole


@dataclass(frozen=True)
class Output:
    """One output tensor of the model: its name, its shape without the batch axis, its first position in the vector."""

    name: str
    shape: tuple
    start: int

    @property
    def size(self):
        return int(np.prod(self.shape))


@dataclass(frozen=True)
class Column:
    """One target: (rows or 1,) positions in the outputs' vector; None where F(x) itself decides ("predicted").

    Then it decides among the `choices` (rows or 1, classes), positions too.
    """

    name: str
    positions: np.ndarray | None
    choices: np.ndarray | None = None

    def of(self, rows, positions):
        """The same target of some rows, in which it is decided."""
        own = self.choices is not None and len(self.choices) > 1
        return replace(self, positions=positions, choices=self.choices[rows] if own else self.choices)


def is_several(target):
    """Whether the target asks for an axis of targets: a list (even of one) or "all"."""
    return isinstance(target, list) or (isinstance(target, str) and target == "all")


def callables(target):
    """The functions among the targets, in order; each adds one position to the end of the outputs' vector."""
    items = target if isinstance(target, list) else [target]
    return [t for t in items if callable(t)]


def resolve(target, outputs, several_outputs, rows):
    """Positions of every target.

    Args:
        target: what the user gave.
        outputs: list of `Output`.
        several_outputs: whether the model returns a list or dict, so that a tuple may begin with the output.
        rows: number of rows that are explained.

    Returns:
        list of `Column`.

    Raises:
        ValueError, TypeError: the target does not name a scalar of the outputs; the message states what does.
    """
    if isinstance(target, str) and target == "all":
        items = [
            (o.name, *index) if several_outputs else tuple(index) for o in outputs for index in np.ndindex(*o.shape)
        ]
    else:
        items = target if isinstance(target, list) else [target]
    if not items:
        raise ValueError(f"Expected at least one target, received an empty list. {_valid(outputs)}")
    end = outputs[-1].start + outputs[-1].size
    columns = []
    for item in items:
        if callable(item):
            columns.append(Column(getattr(item, "__name__", "callable"), np.array([end])))
            end += 1
        else:
            columns.append(_one(item, outputs, several_outputs, rows))
    return columns


def _one(item, outputs, several_outputs, rows):
    if isinstance(item, (bool, float)) or item is Ellipsis:
        raise TypeError(f"Expected a target, received {item!r}. {_valid(outputs)}")
    if item is None:
        if sum(o.size for o in outputs) != 1:
            raise ValueError(
                f"Expected a target, since the model has more than one output unit; received none. {_valid(outputs)}"
            )
        return Column(outputs[0].name, np.array([outputs[0].start]))
    if isinstance(item, str) and item == "predicted" and item not in [o.name for o in outputs]:
        return _predicted(outputs)
    if isinstance(item, tuple) and len(item) > 1 and isinstance(item[-1], str) and item[-1] == "predicted":
        return _predicted_within(item, outputs, several_outputs, rows)
    if isinstance(item, np.ndarray) or hasattr(item, "__array__"):
        item = _per_row(np.asarray(item), rows, outputs)
    path = item if isinstance(item, tuple) else (item,)
    output, index = _choose_output(path, outputs, several_outputs)
    if not index and output.size == 1:
        index = (0,) * len(output.shape)
    if len(index) != len(output.shape):
        raise ValueError(
            f"Expected {len(output.shape)} indices into output {output.name!r} of shape (n, "
            f"{', '.join(map(str, output.shape))}), received {item!r}. {_valid(outputs)}"
        )
    checked = [_in_range(i, size, rows, output, outputs) for i, size in zip(index, output.shape, strict=True)]
    positions = (
        np.zeros(1, np.int64) if not checked else np.ravel_multi_index(np.broadcast_arrays(*checked), output.shape)
    )
    return Column(_name(output, index, several_outputs), output.start + np.atleast_1d(positions))


def _predicted(outputs):
    if len(outputs) != 1 or len(outputs[0].shape) > 1:
        raise ValueError(
            'Expected one output of shape (n, classes) for target="predicted", received '
            + ", ".join(f"{o.name!r} {('n', *o.shape)}" for o in outputs)
            + f'. Say where: ({outputs[0].name!r}, "predicted"), or (2, "predicted") at position 2. {_valid(outputs)}'
        )
    return Column("predicted", None, np.arange(outputs[0].start, outputs[0].start + outputs[0].size)[None])


def _predicted_within(item, outputs, several_outputs, rows):
    """("stage", "predicted"), or (2, "predicted"): the largest entry along the last axis there."""
    path = item[:-1]
    named = isinstance(path[0], str) and not several_outputs and path[0] == outputs[0].name
    output, index = (outputs[0], path[1:]) if named else _choose_output(path, outputs, several_outputs)
    if not output.shape or len(index) != len(output.shape) - 1:
        raise ValueError(
            f'Expected {max(0, len(output.shape) - 1)} indices before "predicted" into output {output.name!r} of shape '
            f"(n, {', '.join(map(str, output.shape))}), received {item!r}. {_valid(outputs)}"
        )
    checked = [_in_range(i, size, rows, output, outputs) for i, size in zip(index, output.shape, strict=False)]
    first = np.ravel_multi_index(np.broadcast_arrays(*checked), output.shape[:-1]) if checked else np.zeros(1, np.int64)
    choices = output.start + np.atleast_1d(first)[:, None] * output.shape[-1] + np.arange(output.shape[-1])
    return Column(_name(output, (*index, "predicted"), several_outputs), None, choices)


def _per_row(array, rows, outputs):
    if array.dtype.kind not in "iu":
        raise TypeError(f"Expected integer targets, received dtype {array.dtype}. {_valid(outputs)}")
    if array.ndim == 0:
        return int(array)
    return tuple(array.T) if array.ndim == 2 and len(array) == rows else (array,)


def _choose_output(path, outputs, several_outputs):
    """Splits a target such as ("box", 3) or (2, 1) into the output and the index within it."""
    first, rest = path[0] if path else None, path[1:]
    names = [o.name for o in outputs]
    if isinstance(first, str):
        if first not in names:
            raise ValueError(f"Expected the name of an output, received {first!r}. {_valid(outputs)}")
        return outputs[names.index(first)], rest
    if not several_outputs:
        return outputs[0], path
    if len(outputs) == 1:
        return outputs[0], path
    if is_whole(first):
        if not 0 <= first < len(outputs):
            raise ValueError(
                f"Expected an output between 0 and {len(outputs) - 1}, received {first}. {_valid(outputs)}"
            )
        return outputs[first], rest
    raise ValueError(
        f"Expected a target that begins with one of the {len(outputs)} outputs, received {path!r}. {_valid(outputs)}"
    )


def _in_range(index, size, rows, output, outputs):
    array = np.asarray(index)
    if array.dtype.kind not in "iu":
        raise TypeError(f"Expected integer indices into output {output.name!r}, received {index!r}. {_valid(outputs)}")
    if array.shape not in ((), (rows,)):
        raise ValueError(
            f"Expected one target (or one tuple index) for each of the {rows} rows, received an array of shape "
            f"{array.shape}. For several targets at once give a list."
        )
    if array.min() < -size or array.max() >= size:
        wrong = array[(array < -size) | (array >= size)].ravel()[0]
        raise ValueError(
            f"Expected a target between 0 and {size - 1} for output {output.name!r}, received {wrong}. "
            f"{_valid(outputs)}"
        )
    return np.where(array < 0, array + size, array)


def _name(output, index, several_outputs):
    label = ", ".join("row's own" if np.ndim(i) else str(i) for i in index)
    if not several_outputs:
        return label or output.name
    return output.name if output.size == 1 else f"{output.name}[{label}]"


def _valid(outputs):
    """What the user can say instead."""
    parts = []
    for o in outputs:
        ranges = ", ".join(f"0…{s - 1}" for s in o.shape)
        parts.append(f"output {o.name!r}: " + (f"({ranges})" if len(o.shape) > 1 else ranges or "no index"))
    return "Valid targets are " + "; ".join(parts) + '; "predicted", "all", a callable or a list of those.'
