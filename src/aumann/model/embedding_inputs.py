"""Embedding inputs: the calls of layers whose output moves along the path in place of the inputs that they read.

There is no path between two ids, but there is one between the vectors that an Embedding looks up for them. Of all calls
of an Embedding those are embedding inputs that are fed ids of the user's: not its projection back to the vocabulary by
the same weights, which is fed numbers, and nothing that is looked up for what other embedding inputs lead to, since
that moves with them.
"""

import itertools
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from keras import ops, tree
from keras.backend import is_float_dtype

from aumann.core.baselines import FIXED
from aumann.model.caller import Call, Caller, LayerCall
from aumann.model.interception import Site
from aumann.model.signature import Signature, dtype_of

DIRECTIONS, SCALES = 3, (1, -1, 10, -10)  # both ways and far, so that a threshold on the way is crossed


def find(
    caller: Caller,
    signature: Signature,
    first: list[np.ndarray],
    variants: list[list[np.ndarray]],
    lookups: Collection[Site],
    variables: list[Any],
    sites: Sequence[Site] | None = None,
) -> list[LayerCall]:
    """The calls of layers that move in place of inputs, by site and call.

    Costs about as many calls of the model with one row as there are variants, and two dozen where one lookup may feed
    another.

    Args:
        caller: calls the model.
        signature: whose roles tell which inputs are held still.
        first: one row of each input.
        variants: for each input, rows with other values.
        lookups: sites that look up vectors: of their calls only those count that are fed ids.
        variables: of Keras, that the model reads.
        sites: those that were named, of which calls that are fed numbers count too; the lookups unless given.
    """
    calls = _Calls(caller, lookups if sites is None else sites, first, variables)
    readers = {}
    for call, feeding in calls.feeding(variants).items():
        leaves = tuple(i for i in feeding if signature.roles[i] != FIXED)
        if leaves:
            readers[call] = leaves, len(feeding) > len(leaves)
    looked_up = [call for call in readers if call[0] in lookups]
    dropped = calls.behind(looked_up)
    if sites is None:  # of a layer that was named, other calls may be meant
        dropped |= calls.fed_numbers([call for call in looked_up if call not in dropped])
    return [LayerCall(*c, *row_of(c[0], calls.kind(c)), *readers[c]) for c in readers if c not in dropped]


class _Calls:
    """All calls of some layers while the model is called with one row."""

    def __init__(self, caller: Caller, sites: Collection[Site], first: list[np.ndarray], variables: list[Any]):
        self.caller, self.sites, self.first, self.variables = caller, sites, first, variables
        self.backend = caller.backend
        self._dtypes: dict[Call, str | None] = {}  # of the tensor at the site, None if there is none
        self._sizes: list[list[int]] = []  # of each call, how many tensors its first argument holds, and the site
        self._run = self.backend.compile(self._record, variables)
        with self.backend.inference(caller.model):
            self.base = self._evaluate(first)

    def _record(self, inputs: list[Any]) -> list[Any]:
        fed: dict[Site, list] = {site.input: [] for site in self.sites}
        recorded: dict[Site, list] = {site: [] for site in self.sites} | fed
        self.caller.call(inputs, recorded=recorded)
        self._dtypes, self._sizes, flat = {}, [], []
        for site in self.sites:
            for k, (x, y) in enumerate(zip(recorded[site.input], recorded[site], strict=True)):
                self._dtypes[site, k] = dtype_of(y) if ops.is_tensor(y) else None
                tensors = [_tensors(x), _tensors(y)]  # y too: a layer may have more than one argument
                self._sizes.append([len(xs) for xs in tensors])
                flat += [x for xs in tensors for x in xs]
        return flat

    def _evaluate(self, inputs: list[np.ndarray]) -> dict[Call, list[list[np.ndarray]]]:
        """{call: (arrays in its first argument, arrays at the site)}."""
        arrays = iter([self.backend.host(x) for x in self._run([ops.convert_to_tensor(x) for x in inputs])])
        parts = [[list(itertools.islice(arrays, n)) for n in sizes] for sizes in self._sizes]
        return dict(zip(self._dtypes, parts, strict=True))

    def kind(self, call: Call) -> tuple[tuple, str] | None:
        """Shape and dtype of the tensor at a call, or None if there is no single one."""
        dtype = self._dtypes[call]
        return dtype and (self.base[call][1][0].shape, dtype)

    def feeding(self, variants: list[list[np.ndarray]]) -> dict[Call, list[int]]:
        """{call: inputs that it depends on}, found by changing one input at a time.

        One change may leave a call as it was, as another id that is not in a vocabulary either does; others may not.
        """
        feeding: dict[Call, set[int]] = {call: set() for call in self.base}
        with self.backend.inference(self.caller.model):
            for k, rows in enumerate(itertools.zip_longest(*variants)):
                for i, row in enumerate(rows):
                    if row is None:
                        continue
                    try:
                        other = self._evaluate([*self.first[:i], row, *self.first[i + 1 :]])
                    except ValueError:
                        if k:  # a value out of some vocabulary may be none of a smaller table
                            continue
                        raise
                    for call, parts in other.items():
                        if not all(itertools.starmap(_equal, zip(parts, self.base[call], strict=True))):
                            feeding[call].add(i)
                if all(feeding.values()):
                    break
        return {call: sorted(leaves) for call, leaves in feeding.items()}

    def behind(self, calls: list[Call]) -> set[Call]:
        """Those of some calls whose first argument depends on what the other calls return."""
        if len(calls) < 2:
            return set()
        counts = {site.input: sum(call[0] == site for call in self.base) for site in {call[0] for call in calls}}
        sizes: list[int] = []

        def fed(shifts, inputs):
            recorded: dict[Site, list] = {site: [] for site in counts}
            shifted = dict(zip(calls, shifts, strict=True))
            self.caller.call(inputs, added=shifted, recorded=recorded, stop_after=counts)
            tensors = [_tensors(recorded[site.input][k]) for site, k in calls]
            sizes[:] = [len(xs) for xs in tensors]
            return [x for xs in tensors for x in xs]

        run = self.backend.compile(fed, self.variables)
        first = [ops.convert_to_tensor(x) for x in self.first]

        def arguments(shifts):
            shifts = [ops.convert_to_tensor(s.astype("float32")) for s in shifts]
            arrays = iter([self.backend.host(x) for x in run(shifts, first)])
            return [list(itertools.islice(arrays, n)) for n in sizes]

        rng = np.random.default_rng(0)
        results = [self.base[call][1][0] for call in calls]
        unmoved, behind = arguments([0 * np.asarray(y, "float32") for y in results]), set()
        for _ in range(DIRECTIONS):
            steps = [rng.normal(size=y.shape) * (1e-3 + np.abs(np.asarray(y, "float32")).max()) for y in results]
            for scale in SCALES:
                moved = arguments([scale * s for s in steps])
                behind |= {call for call, a, b in zip(calls, unmoved, moved, strict=True) if not _equal(a, b)}
        return behind

    def fed_numbers(self, calls: list[Call]) -> set[Call]:
        """Those of some calls that are fed numbers and not ids: a fraction more makes a difference to them."""
        calls = [call for call in calls if any(x.dtype.kind not in "iub" for x in self.base[call][0])]
        if not calls:
            return set()
        counts = {site: sum(call[0] == site for call in self.base) for site in {call[0] for call in calls}}

        def results(arguments, inputs):
            replaced = {(site.input, k): x for (site, k), x in zip(calls, arguments, strict=True)}
            recorded: dict[Site, list] = {site: [] for site in counts}
            self.caller.call(inputs, replaced=replaced, recorded=recorded, stop_after=counts)
            return [recorded[site][k] for site, k in calls]

        run = self.backend.compile(results, self.variables)
        first = [ops.convert_to_tensor(x) for x in self.first]
        more = [ops.convert_to_tensor(np.asarray(self.base[call][0][0]) + 0.25) for call in calls]
        with self.backend.inference(self.caller.model):
            moved = [self.backend.host(y) for y in run(more, first)]
        return {call for call, y in zip(calls, moved, strict=True) if not np.array_equal(y, self.base[call][1][0])}


def row_of(site: Site, kind: tuple[tuple, str] | None) -> tuple[tuple, str]:
    """Shape and dtype of one row of the tensor at a site.

    Args:
        site: a site.
        kind: (shape, dtype) of the tensor there, or None if there is no single one.

    Raises:
        ValueError: it is no tensor of floats with a row for each row.
    """
    shape, dtype = kind or (None, None)
    if kind is None or not len(shape) or shape[0] != 1 or not is_float_dtype(dtype):
        raise ValueError(
            f"Expected one tensor of floats with a row for each row at the {site.side} of layer {site.name!r}; "
            f"received shape {shape} of {dtype}. Choose a layer before or after it."
        )
    return tuple(shape[1:]), dtype


def _equal(one: list[np.ndarray], other: list[np.ndarray]) -> bool:
    return all(map(np.array_equal, one, other))


def _tensors(structure: Any) -> list[Any]:
    return [x for x in tree.flatten(structure) if ops.is_tensor(x)]
