"""Embedding inputs: the calls of layers whose output moves along the path in place of the inputs that they read.

There is no path between two ids, but there is one between the vectors that an Embedding looks up for them. Of all calls
of an Embedding those are embedding inputs that are fed ids of the user's: not its projection back to the vocabulary by
the same weights, which is fed numbers, and nothing that is looked up for what other embedding inputs lead to, since
that moves with them.
"""

import itertools
from dataclasses import dataclass

import numpy as np
from keras import ops, tree
from keras.backend import is_float_dtype, standardize_dtype

from aumann.core.baselines import FIXED
from aumann.model.interception import Place

DIRECTIONS, SCALES = 3, (1, -1, 10, -10)  # both ways and far, so that a threshold on the way is crossed


@dataclass(frozen=True)
class Reading:
    """One call of a layer, at whose output or input F is differentiated.

    Attributes:
        place: the layer's output or input.
        call: which of its calls.
        shape, dtype: of one row of what passes there.
        leaves: the inputs it is made of that would move along the path if it did not.
        mixed: whether it is made of inputs that are held still, besides.
    """

    place: Place
    call: int
    shape: tuple
    dtype: str
    leaves: tuple = ()
    mixed: bool = False


def find(oracle, places, first, variants, lookups):
    """The calls of layers that move in place of inputs.

    Args:
        oracle: that calls the model.
        places: whose calls are looked at.
        first: one row of each leaf.
        variants: for each leaf, a list of rows with other values.
        lookups: those of the places that look up vectors: of their calls only those count that are fed ids.

    Returns:
        list of `Reading`, by place and call.
    """
    calls = _Calls(oracle, places, first)
    found = {}
    for c, feeding in calls.feeding(variants).items():
        readers = tuple(i for i in feeding if oracle.roles[i] != FIXED)
        if readers:
            found[c] = readers, len(feeding) > len(readers)
    looked_up = [c for c in found if c[0] in lookups]
    dropped = calls.behind(looked_up)
    if oracle.places is None:  # of a layer that was named, other calls may be meant
        dropped |= calls.fed_numbers([c for c in looked_up if c not in dropped])
    return [Reading(*c, *row_of(c[0], calls.kind(c)), *found[c]) for c in found if c not in dropped]


class _Calls:
    """All calls of some layers while the model is called with one row."""

    def __init__(self, oracle, places, first):
        self.oracle, self.places, self.first = oracle, places, first
        self._dtypes = {}  # (place, call) -> of what passes there, None if that is no tensor
        self._sizes = []  # of each call, how many tensors its first argument holds, and what passes the place
        self._passing = oracle.backend.compile(self._record, oracle.variables)
        with oracle.backend.inference(oracle.model):
            self.base = self._ask(first)

    def _record(self, leaves):
        inputs = {Place(p.layer, "input"): [] for p in self.places}
        seen = {p: [] for p in self.places} | inputs
        self.oracle._call(leaves, seen=seen)
        self._dtypes, self._sizes, flat = {}, [], []
        for p in self.places:
            for k, (fed, y) in enumerate(zip(seen[Place(p.layer, "input")], seen[p], strict=True)):
                self._dtypes[p, k] = standardize_dtype(y.dtype) if ops.is_tensor(y) else None
                parts = [_tensors(fed), _tensors(y)]  # y too: a layer may have more than one argument
                self._sizes.append([len(xs) for xs in parts])
                flat += [x for xs in parts for x in xs]
        return flat

    def _ask(self, leaves):
        """{call: (arrays in its first argument, arrays that pass the place)}."""
        found = iter([self._host(x) for x in self._passing([ops.convert_to_tensor(x) for x in leaves])])
        parts = [[list(itertools.islice(found, n)) for n in sizes] for sizes in self._sizes]
        return dict(zip(self._dtypes, parts, strict=True))

    def kind(self, call):
        """Shape and dtype of what passes the place of a call, or None if that is no tensor."""
        return self._dtypes[call] and (self.base[call][1][0].shape, self._dtypes[call])

    def _host(self, x):
        return self.oracle.backend.host(x)

    def feeding(self, variants):
        """{call: leaves that it depends on}, found by changing one leaf at a time.

        What one change leaves as it was, as another id that is not in a vocabulary either, others may not.
        """
        found = {c: set() for c in self.base}
        with self.oracle.backend.inference(self.oracle.model):
            for k, rows in enumerate(itertools.zip_longest(*variants)):
                for i, row in enumerate(rows):
                    if row is None:
                        continue
                    try:
                        other = self._ask([*self.first[:i], row, *self.first[i + 1 :]])
                    except ValueError:
                        if k:  # a value out of some vocabulary may be none of a smaller table
                            continue
                        raise
                    for c, parts in other.items():
                        if not all(all(map(np.array_equal, a, b)) for a, b in zip(parts, self.base[c], strict=True)):
                            found[c].add(i)
                if all(found.values()):
                    break
        return {c: sorted(leaves) for c, leaves in found.items()}

    def behind(self, calls):
        """Those of some calls that are fed something that the others lead to."""
        if len(calls) < 2:
            return set()
        counts = {Place(p.layer, "input"): sum(c[0] == p for c in self.base) for p in {c[0] for c in calls}}

        def fed(shifts, leaves):
            seen = {p: [] for p in counts}
            self.oracle._call(leaves, added=dict(zip(calls, shifts, strict=True)), seen=seen, counts=counts)
            flat = [_tensors(seen[Place(p.layer, "input")][k]) for p, k in calls]
            sizes[:] = [len(xs) for xs in flat]
            return [x for xs in flat for x in xs]

        sizes = []
        run = self.oracle.backend.compile(fed, self.oracle.variables)
        leaves = [ops.convert_to_tensor(x) for x in self.first]

        def ask(shifts):
            shifts = [ops.convert_to_tensor(s.astype("float32")) for s in shifts]
            found = iter([self._host(x) for x in run(shifts, leaves)])
            return [list(itertools.islice(found, n)) for n in sizes]

        rng = np.random.default_rng(0)
        made = [self.base[c][1][0] for c in calls]
        still, found = ask([0 * np.asarray(y, "float32") for y in made]), set()
        for _ in range(DIRECTIONS):
            steps = [rng.normal(size=y.shape) * (1e-3 + np.abs(np.asarray(y, "float32")).max()) for y in made]
            for scale in SCALES:
                moved = ask([scale * s for s in steps])
                found |= {c for c, a, b in zip(calls, still, moved, strict=True) if not all(map(np.array_equal, a, b))}
        return found

    def fed_numbers(self, calls):
        """Those of some calls that are fed numbers and not ids: a fraction more makes a difference to them."""
        calls = [c for c in calls if any(x.dtype.kind not in "iub" for x in self.base[c][0])]
        if not calls:
            return set()
        counts = {p: sum(c[0] == p for c in self.base) for p in {c[0] for c in calls}}

        def made(fed, leaves):
            given = {(Place(p.layer, "input"), k): x for (p, k), x in zip(calls, fed, strict=True)}
            seen = {p: [] for p in counts}
            self.oracle._call(leaves, given, seen=seen, counts=counts)
            return [seen[p][k] for p, k in calls]

        run = self.oracle.backend.compile(made, self.oracle.variables)
        leaves = [ops.convert_to_tensor(x) for x in self.first]
        fed = [ops.convert_to_tensor(np.asarray(self.base[c][0][0]) + 0.25) for c in calls]
        with self.oracle.backend.inference(self.oracle.model):
            found = [self._host(y) for y in run(fed, leaves)]
        return {c for c, y in zip(calls, found, strict=True) if not np.array_equal(y, self.base[c][1][0])}


def row_of(place, kind):
    """Shape and dtype of one row of what passes a place.

    Args:
        place: a place.
        kind: (shape, dtype) of what passes there, or None if that is no tensor.

    Raises:
        ValueError: it is no tensor of floats with a row for each row.
    """
    shape, dtype = kind or (None, None)
    if kind is None or not len(shape) or shape[0] != 1 or not is_float_dtype(dtype):
        raise ValueError(
            f"Expected one tensor of floats with a row for each row at the {place.side} of layer {place.name!r}; "
            f"received shape {shape} of {dtype}. Choose a layer before or after it."
        )
    return tuple(shape[1:]), dtype


def _tensors(structure):
    return [x for x in tree.flatten(structure) if ops.is_tensor(x)]
