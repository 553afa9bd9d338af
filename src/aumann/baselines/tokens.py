"""Baselines of sequences of tokens: one id everywhere, and shuffles that keep the pairs of letters."""

from typing import Any

import numpy as np

from aumann.arguments import whole
from aumann.baselines.given import BaselineFunction, one_input, require_ids
from aumann.core.baselines import weighted
from aumann.features import tables


def token(id: int, keep: Any = ()) -> BaselineFunction:
    """One token id at every position: padding, a mask token or the unknown token, as `id` is chosen.

    Args:
        id: the token id.
        keep: ids that stay where the row has them, such as those of the start, separator and padding tokens.

    Returns:
        inputs (n, tokens) of ids -> a row of ids for each.

    Raises:
        ValueError, TypeError: the id is not a whole number that the inputs' dtype can hold, or inputs are not ids.
    """
    whole(id, 0, "the id of a token", 0)
    kept = [whole(k, 0, "an id to keep", 0) for k in np.ravel(keep)]

    def make(inputs: Any) -> Any:
        x, columns = one_input(inputs)
        require_ids(x)
        if x.dtype.kind in "iu" and id > np.iinfo(x.dtype).max:
            raise ValueError(
                f"Expected an id that {x.dtype} holds, as the inputs are; received {id}. Widen the inputs."
            )
        return tables.named(np.where(np.isin(x, kept), x, id).astype(np.int64), columns)

    return make


def dinucleotide_shuffle(samples: int = 1, seed: int = 0) -> BaselineFunction:
    """The row's own letters in another order that keeps every count of two neighbours: composition without motifs.

    Each of the orders that keep all counts of pairs (and with them the first and the last letter) is equally likely; a
    sequence that has one such order comes back as it is. Costs `samples` times the gradients of one baseline, and the
    memory of `samples` copies of the inputs.

    Of one-hot sequences, what stands at a position moves as a whole, so that an unknown letter (zeros, or a quarter
    each) is a letter like others, and zeros at either end are padding and stay. Of ids, every id is a letter.

    Args:
        samples: shuffles of each row to average over; 20 are usual.
        seed: whole number ≥ 0. The shuffles of a row depend on it, on the row and on its position among the inputs, not
            on the other rows.

    Returns:
        inputs (n, length, letters) or ids (n, length) -> a row for each, or for several samples a set for each,
        (n, samples, …).

    Raises:
        ValueError, TypeError: inputs are neither ids nor positions whose shares of letters sum to 1 or 0.

    Source: Altschul, Erickson (1985), Significance of Nucleotide Sequence Alignments: a Method for Random Sequence
    Permutation That Preserves Dinucleotide and Codon Usage; trees by Wilson (1996), Generating Random Spanning Trees
    More Quickly than the Cover Time; as baselines Shrikumar, Greenside, Kundaje (2017), Learning Important Features
    Through Propagating Activation Differences.
    """
    whole(samples, 1, "samples", 20)
    whole(seed, 0, "seed", 0)

    def make(inputs: Any) -> Any:
        x, columns = one_input(inputs)
        _require_sequences(x)
        shuffles = np.repeat(x[:, None], samples, axis=1)
        for i, row in enumerate(x):
            filled = np.flatnonzero(row.any(-1)) if x.ndim == 3 else np.arange(len(row))
            if len(filled):
                inside = slice(filled[0], filled[-1] + 1)
                letters, codes = np.unique(row[inside], axis=0, return_inverse=True)
                shuffles[i, :, inside] = letters[_walks(codes.ravel(), samples, np.random.default_rng([seed, i]))]
        shuffles = shuffles.astype(np.int64) if x.ndim == 2 else shuffles
        return tables.named(shuffles[:, 0], columns) if samples == 1 else weighted(tables.named(shuffles, columns))

    return make


def _require_sequences(x: np.ndarray) -> None:
    """Raises unless the array holds sequences, as ids (n, length) or one-hot (n, length, letters)."""
    if x.ndim == 2:
        require_ids(x)
    elif x.ndim == 3:
        shares = x.sum(-1, dtype=np.float64)
        if (x < 0).any() or not (np.isclose(shares, 1, atol=1e-3) | (shares == 0)).all():
            raise ValueError(
                f"Expected sequences (n, length, letters) whose positions are one-hot, shares of letters that sum "
                f"to 1, or zeros; received shape {x.shape} with others. Put the letters last."
            )
    else:
        raise ValueError(
            f"Expected sequences, ids (n, length) or one-hot (n, length, letters); received shape {x.shape}. "
            "Reshape them."
        )


def _walks(codes: np.ndarray, samples: int, rng: np.random.Generator) -> np.ndarray:
    """Shuffles (samples, length) of a sequence of codes 0, 1, …, all that keep the counts of pairs equally likely.

    The pairs are the edges of a graph whose vertices are the codes, and a shuffle is an Eulerian walk on it. The edges
    by which a walk leaves each vertex for the last time are a tree towards its end; any such tree, with the other edges
    in any order, is a walk.
    """
    order = np.argsort(codes[:-1], kind="stable")
    source, target = codes[:-1][order], codes[1:][order]
    first = np.searchsorted(source, np.arange(codes.max() + 1))
    edges = [range(a, b) for a, b in zip(first, [*first[1:], len(source)], strict=True)]
    ends, root = target.tolist(), int(codes[-1])
    keys = rng.random((samples, len(source)))  # the edges of a vertex are used in the order of their keys
    for key in keys:
        key[_tree(edges, ends, root, rng)] = 1  # above all others: used last
    target = target[np.argsort(2 * source + keys, axis=1)]
    walks, sample = np.empty((samples, len(codes)), codes.dtype), np.arange(samples)
    walks[:, 0] = codes[0]
    following = np.tile(first, (samples, 1))  # the edge by which each vertex is left next
    for t in range(1, len(codes)):
        vertex = walks[:, t - 1]
        walks[:, t] = target[sample, following[sample, vertex]]
        following[sample, vertex] += 1
    return walks


def _tree(edges: list[range], ends: list[int], root: int, rng: np.random.Generator) -> list[int]:
    """Edges of a tree in which every vertex leads to the root, all such trees equally likely: Wilson's algorithm.

    Args:
        edges: of every vertex, the numbers of the edges that leave it.
        ends: of every edge, the vertex that it leads to.
        root: the vertex that all others lead to.
        rng: where the random steps come from.
    """
    leave, inside = {}, {root}
    for vertex in range(len(edges)):
        v = vertex
        while v not in inside:  # a random walk until it meets the tree; the last exits taken have no loops
            leave[v] = edges[v][rng.integers(len(edges[v]))]
            v = ends[leave[v]]
        v = vertex
        while v not in inside:
            inside.add(v)
            v = ends[leave[v]]
    return list(leave.values())
