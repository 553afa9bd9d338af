"""Sequences: one-hot DNA and RNA, whose letters stand on an axis of four.

`aumann.HypotheticalContributions` has H[l, c], what letter c would be worth at position l were it there: the mean over
baselines b of m[l, c] − Σₖ b[l, k] m[l, k], with m the mean gradient on the path from b.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from aumann.arguments import is_whole
from aumann.explanation import input_path, walk
from aumann.storage.archive import replacing

LETTERS = 4


def contributions(hypothetical, one_hot) -> np.ndarray:
    """What the letters that are there contribute: H ∘ x, 0 for all others.

    Over the letters of a position it adds up to what integrated gradients give that position, Σ_c φ[l, c], from the
    same baselines; so over the sequence to F(x) − F(x′).

    Args:
        hypothetical: H, (n[, targets], L, 4).
        one_hot: x, (n, L, 4).

    Returns:
        (n[, targets], L, 4).

    Raises:
        ValueError: shapes that do not fit, or inputs that are not one-hot.
    """
    hypothetical, one_hot = np.asarray(hypothetical), np.asarray(one_hot)
    several = hypothetical.ndim == one_hot.ndim + 1
    if hypothetical.shape != (*one_hot.shape[:1], *hypothetical.shape[1 : 1 + several], *one_hot.shape[1:]):
        raise ValueError(
            f"Expected one-hot inputs (n, L, 4) and contributions (n, L, 4) or (n, targets, L, 4); received "
            f"{one_hot.shape} and {hypothetical.shape}. Give both for the same rows."
        )
    letters = _one_hot(one_hot, hypothetical.dtype)
    return hypothetical * (letters[:, None] if several else letters)


def simplex(values, axis=-1) -> np.ndarray:
    """Takes from gradients at one-hot inputs what points off the simplex: the mean over the letters of a position.

    The letters of a position sum to 1, so a model is never shown what changes when they do not; that part of its
    gradient is noise.

    Args:
        values: gradients or mean gradients, (…, L, 4).
        axis: the axis of the letters.

    Returns:
        The same shape; over the letters they sum to 0.

    Source: Majdandzic, Rajesh, Koo (2023), Correcting gradient-based interpretations of deep neural networks for
    genomics.
    """
    values = np.asarray(values)
    return values - values.mean(axis, keepdims=True, dtype=np.float64).astype(values.dtype)


def to_tfmodisco(explanation, folder, *, input=None, target=None, axis=-1) -> tuple[Path, Path]:
    """Writes what TF-MoDISco reads: `modisco motifs -s sequences.npz -a attributions.npz`.

    Both files hold one float32 array, `arr_0`, of shape (n, 4, L). The order of the letters stays that of the inputs;
    TF-MoDISco takes it for A, C, G, T.

    Args:
        explanation: by `aumann.HypotheticalContributions`, or of gradients that `simplex` corrected, at one-hot inputs:
            values (n[, targets], L, 4).
        folder: where to; it must exist. Files of these names are replaced, each entirely or not at all.
        input: the sequence's name where there are several inputs.
        target: name or position of the target, where there are several.
        axis: feature axis of the letters: -1 for (L, 4), 0 for (4, L).

    Returns:
        The paths of sequences.npz and attributions.npz.

    Raises:
        ValueError: inputs that are not one-hot over four letters, values that are not finite or that are 0 wherever the
            input is, or no such target.
        FileNotFoundError: no such folder.
    """
    if axis not in range(-2, 2):
        raise ValueError(f"Expected the axis of the letters as -1 or 0; received {axis!r}. Give -1 for (L, 4).")
    wanted = f"a sequence of {LETTERS} letters along axis {axis}"
    path = input_path(explanation, input, lambda row: len(row) == 2 and row[axis] == LETTERS, wanted)
    values, one_hot = next(leaves for name, *leaves in walk(explanation.values, explanation.inputs) if name == path)
    if explanation.several:
        values = values[:, _target(target, explanation.targets)]
    elif target is not None:
        raise ValueError(f"Expected no target=, as there is one; received {target!r}. Leave it out.")
    if one_hot.shape != values.shape:
        raise ValueError(
            f"Expected values like inputs {one_hot.shape}; received {values.shape}. Attribute at the inputs."
        )
    if not values[one_hot == 0].any():
        raise ValueError(
            "Expected hypothetical contributions; received values of 0 for every letter that is not there. "
            "Explain with aumann.HypotheticalContributions(model)."
        )
    if axis % 2:
        values, one_hot = values.swapaxes(1, 2), one_hot.swapaxes(1, 2)
    if not np.isfinite(values).all():
        raise ValueError("Expected finite values; received NaN or infinity. Leave these rows out.")
    arrays = {"sequences.npz": _one_hot(one_hot, np.float32, axis=1), "attributions.npz": values.astype(np.float32)}
    written = []
    for name, array in arrays.items():
        written.append(Path(folder) / name)
        with replacing(written[-1]) as file:
            np.savez_compressed(file, np.ascontiguousarray(array))
    return tuple(written)


def _one_hot(array, dtype, axis=-1):
    """The array in another dtype. Positions without a letter, as N is written, are all zero."""
    if not (np.isin(array, (0, 1)).all() and (array.sum(axis) <= 1).all()):
        raise ValueError(
            "Expected one-hot inputs, one 1 and else 0 among the letters of a position; received others. "
            "Explain the sequences themselves."
        )
    return array.astype(dtype)


def _target(target, known):
    if target in known:
        return known.index(target)
    if is_whole(target, 0, len(known) - 1):
        return int(target)
    raise ValueError(f"Expected target= among {known}, or its position; received {target!r}. Choose one.")
