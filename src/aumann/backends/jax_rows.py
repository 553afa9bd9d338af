"""Which axis of a tensor counts the rows of the batch, on JAX: followed from operation to operation.

An axis counts the rows if its index is row · m + j for some m ≥ 1: a batch of sequences that is reshaped to a batch
of words still does. Where no axis does, or where it is not known which, the axis is LOST.
"""

import math

LOST = -1


def follow(eqn, axes, rows):
    """The axis of the rows in each output of an operation without a body of its own.

    Args:
        axes: for each input the axis, LOST, or None for one that does not move.
        rows: how many there are.
    """
    return [joined(_one(eqn, i, k, v.aval.shape, rows) for i, k in _moving(axes)) for v in eqn.outvars]


def joined(axes):
    """The axis that several agree on; None of several that do not move."""
    found = {k for k in axes if k is not None}
    return found.pop() if len(found) == 1 else LOST if found else None


def _moving(axes):
    return [(i, k) for i, k in enumerate(axes) if k is not None]


def _one(eqn, i, k, out, rows):
    if k == LOST:
        return LOST
    shape = eqn.invars[i].aval.shape
    found = RULES.get(eqn.primitive.name, _alike)(eqn.params, i, k, shape, out, rows)
    return found if 0 <= found < len(out) and out[found] and out[found] % rows == 0 else LOST


def _alike(p, i, k, shape, out, rows):
    """Operations that keep the order of the axes: k is where it was, unless something is done along it."""
    along = [p.get("axis"), p.get("dimension"), *(p.get("dimensions", ()))]
    if k in along:
        return LOST
    if len(out) == len(shape) and out[k] == shape[k]:
        return k
    return 0 if k == 0 and out and out[0] == shape[0] else LOST


def _reshape(p, i, k, shape, out, rows):
    """Axis k stays the first of a group of axes if as many entries stand before it as before."""
    before = math.prod(shape[:k])
    fits = [j for j, n in enumerate(out) if math.prod(out[:j]) == before and n and n % rows == 0]
    return next((j for j in fits if out[j] == shape[k]), fits[0] if fits else LOST)


def _reduced(p, i, k, shape, out, rows):
    return LOST if k in p["axes"] else k - sum(a < k for a in p["axes"])


def _last(p, i, k, shape, out, rows):
    return LOST if k == len(shape) - 1 else k


def _dot(p, i, k, shape, out, rows):
    (left, right), (batch_left, batch_right) = p["dimension_numbers"]
    contracted, batch = (right, batch_right) if i else (left, batch_left)
    if k in batch:
        return tuple(batch).index(k)
    if k in contracted:
        return LOST
    free = [a for a in range(len(shape)) if a not in contracted and a not in batch]
    return (len(out) - len(free) if i else len(batch)) + free.index(k)


def _convolution(p, i, k, shape, out, rows):
    numbers = p["dimension_numbers"]
    return numbers.out_spec[0] if i == 0 and k == numbers.lhs_spec[0] and p["batch_group_count"] == 1 else LOST


def _gather(p, i, k, shape, out, rows):
    numbers = p["dimension_numbers"]
    taken = *numbers.collapsed_slice_dims, *numbers.operand_batching_dims
    if i == 0 and k not in taken and p["slice_sizes"][k] == shape[k]:
        return numbers.offset_dims[[a for a in range(len(shape)) if a not in taken].index(k)]
    if i == 0 and k in numbers.operand_batching_dims:
        at = numbers.start_indices_batching_dims[numbers.operand_batching_dims.index(k)]
        return [a for a in range(len(out)) if a not in numbers.offset_dims][at]
    return _alike({}, i, k, shape, out, rows)


def _scatter(p, i, k, shape, out, rows):
    numbers = p["dimension_numbers"]
    if i == 2 and k in numbers.update_window_dims:
        added = *numbers.inserted_window_dims, *numbers.operand_batching_dims
        kept = [a for a in range(len(out)) if a not in added][numbers.update_window_dims.index(k)]
        return kept if out[kept] == shape[k] else LOST
    return _alike({}, i, k, shape, out, rows)


RULES = {
    "transpose": lambda p, i, k, shape, out, rows: tuple(p["permutation"]).index(k),
    "broadcast_in_dim": lambda p, i, k, shape, out, rows: p["broadcast_dimensions"][k],
    "squeeze": lambda p, i, k, shape, out, rows: k - sum(a < k for a in p["dimensions"]),
    "reshape": _reshape,
    "dot_general": _dot,
    "conv_general_dilated": _convolution,
    "gather": _gather,
    **dict.fromkeys(("scatter", "scatter-add", "scatter_add", "scatter-max", "scatter-min", "scatter-mul"), _scatter),
    **dict.fromkeys(("top_k",), _last),
    **dict.fromkeys(
        ("reduce_sum", "reduce_max", "reduce_min", "reduce_prod", "argmax", "argmin", "reduce_and", "reduce_or"),
        _reduced,
    ),
}
