"""What one look at a model finds out, from one row: which inputs move, what layers read, and what the outputs are.

The model is called with one row, or traced on its shapes alone where the framework can; where layers look up vectors
for ids, one input at a time is changed, to see which calls of the layers depend on it.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from aumann.core.baselines import FIXED
from aumann.core.targets import Output
from aumann.features.conversion import TEXT
from aumann.model import embedding_inputs
from aumann.model.caller import PER_ROW_ADVICE, Caller, LayerCall, at
from aumann.model.interception import Site
from aumann.model.signature import INTEGER, MOVES, READ, Leaf, Signature, dtype_of, is_foreign, lookups


@dataclass(frozen=True)
class Layout:
    """How the outputs of a row stand in one vector.

    Attributes:
        outputs: name, shape and first position of each.
        dtypes: of each.
        several: whether the model returns a structure of more than one.
        width: numbers that a row's forward pass makes, its inputs included.
        variables: of Keras, that the model reads; None where that cannot be seen.
    """

    outputs: list[Output]
    dtypes: list[str]
    several: bool
    width: int
    variables: list[Any] | None


@dataclass(frozen=True, eq=False)
class Survey:
    """What is known of a model that is given some inputs.

    Attributes:
        signature: with the roles of all inputs settled.
        lookups: sites inside the model that look up vectors for ids.
        embedding_inputs: calls of layers that move in place of the inputs which they read.
        target_layers: calls of layers at which F is differentiated while the inputs move; none for at what moves.
        repeats: whether one target layer leads to another, so that their values count one change twice.
        by_name: whether values have the names of layers, not of the inputs that these stand for.
        unsettled: one row of each input, as fed before its role was settled.
        first: the same as fed from then on.
        layout: of the outputs.
        variables: of Keras, that the model reads.
    """

    signature: Signature
    lookups: list[Site]
    embedding_inputs: list[LayerCall]
    target_layers: list[LayerCall]
    repeats: bool
    by_name: bool
    unsettled: list[np.ndarray]
    first: list[np.ndarray]
    layout: Layout
    variables: list[Any]


def survey(
    caller: Caller,
    leaves: Sequence[Leaf],
    sites: Sequence[Site] | None = None,
    target_sites: Sequence[Site] = (),
) -> Survey:
    """Finds out about a model from the first row of its inputs.

    Args:
        caller: calls the model.
        leaves: the inputs.
        sites: that move along the path in place of the inputs which they depend on; None for every Embedding.
        target_sites: at which F is differentiated while the inputs move.

    Raises:
        ValueError, TypeError: the model, its outputs, the sites and the inputs do not fit together.
    """
    model, signature = caller.model, caller.signature
    variables = list(model.variables) if isinstance(model, keras.Layer) else []
    unsettled = _first_rows(signature, leaves)
    known_lookups = lookups(model)
    embedded: list[LayerCall] = []
    if known_lookups if sites is None else sites:
        variants = _variants(caller, signature, leaves)
        embedded = embedding_inputs.find(caller, signature, unsettled, variants, known_lookups, variables, sites)
        signature = signature.with_roles({i: READ for call in embedded for i in call.leaves})
    if sites is not None:
        _refuse_uncalled(sites, embedded)
    named = {call.site for call in embedded} if sites is not None else ()
    by_name = bool(target_sites) or len(named) > 1 or any(len(call.leaves) > 1 for call in embedded)
    if not by_name:
        _refuse_misfits(signature, embedded)
    signature = _settled(caller, signature, leaves, unsettled, embedded)
    first = _first_rows(signature, leaves)
    targets = _calls_of(caller, target_sites, first) if target_sites else []
    repeats = len(targets) > 1 and _one_feeds_another(caller, targets, first, variables)
    layout = _layout(caller, first)
    variables = variables if layout.variables is None else layout.variables
    return Survey(signature, known_lookups, embedded, targets, repeats, by_name, unsettled, first, layout, variables)


def _first_rows(signature: Signature, leaves: Sequence[Leaf]) -> list[np.ndarray]:
    return [signature.feed(i, leaf.array[:1]) for i, leaf in enumerate(leaves)]


# ---- layers that read inputs, and layers where F is differentiated ---------------------------------------------------


def _calls_of(caller: Caller, sites: Sequence[Site], first: list[np.ndarray]) -> list[LayerCall]:
    """All calls of some layers, by site and call."""
    recorded: dict[Site, list] = {site: [] for site in sites}
    calls: list[LayerCall] = []

    def look(inputs):
        caller.call(inputs, recorded=recorded)
        for site in sites:
            for k, y in enumerate(recorded[site]):
                kind = (y.shape, dtype_of(y)) if ops.is_tensor(y) else None
                calls.append(LayerCall(site, k, *embedding_inputs.row_of(site, kind)))
        return []

    with caller.backend.inference(caller.model):
        caller.backend.trace(look, first)
    _refuse_uncalled(sites, calls)
    return calls


def _one_feeds_another(caller: Caller, calls: list[LayerCall], first: list[np.ndarray], variables: list[Any]) -> bool:
    """Whether the tensor at one call depends on that at another: their values then count the same change twice."""
    dtype, backend = caller.signature.dtype, caller.backend
    inputs = [ops.convert_to_tensor(x) for x in first]

    def look(shifts, inputs):
        recorded: dict[Site, list] = {call.site: [] for call in calls}
        caller.call(inputs, added=at(calls, shifts), recorded=recorded)
        return [ops.cast(recorded[call.site][call.call], dtype) for call in calls]

    run = backend.compile(look, variables)

    def others(k, step):
        """Tensors at the other calls, with a step added at call k."""
        shifts = [np.full((1, *call.shape), step * (i == k), dtype) for i, call in enumerate(calls)]
        arrays = [backend.host(y) for y in run([ops.convert_to_tensor(s) for s in shifts], inputs)]
        return arrays[:k] + arrays[k + 1 :]

    with backend.inference(caller.model):
        return any(
            not all(map(np.array_equal, others(k, 0), others(k, step))) for k in range(len(calls)) for step in (1, -1)
        )


def _refuse_uncalled(sites: Sequence[Site], calls: list[LayerCall]) -> None:
    for site in sites:
        if not any(call.site == site for call in calls):
            raise ValueError(
                f"Expected layer {site.name!r} to be called with what comes of an input that moves, received one "
                'that is not. Choose another layer, or let its inputs move (baseline="fixed" holds them still).'
            )


def _refuse_misfits(signature: Signature, embedded: list[LayerCall]) -> None:
    for leaf, name in enumerate(signature.names):
        shapes = {call.shape[:-1]: call.shape for call in embedded if call.leaves == (leaf,)}
        if len(shapes) > 1:
            raise ValueError(
                f"Expected the layers that read input {name!r} to differ in their last axis only, so that their "
                f"values stand side by side; received shapes {list(shapes.values())}. Split the input in two, or "
                "choose one layer with layer=."
            )


# ---- integers --------------------------------------------------------------------------------------------------------


def _settled(
    caller: Caller,
    signature: Signature,
    leaves: Sequence[Leaf],
    first: list[np.ndarray],
    embedded: list[LayerCall],
) -> Signature:
    """Integers that no layer reads are features like any other, unless the model declares them to be integers.

    Those are masks, lengths or segments, and held still beside what can be explained.
    """
    unread = [i for i, role in enumerate(signature.roles) if role == INTEGER]
    declared = {i: leaves[i].declared for i in unread}
    whole = [i for i in unread if (dtype := declared[i]) and not keras.backend.is_float_dtype(dtype)]
    signature = signature.with_roles({i: FIXED if i in whole else MOVES for i in unread})
    if whole and all(role == FIXED for role in signature.roles):
        raise TypeError(no_embedding(caller, whole[0], first, embedded))
    return signature


def no_embedding(caller: Caller, i: int, first: list[np.ndarray], embedded: Collection[LayerCall]) -> str:
    """What to say of an integer input that no gradient reaches, and what to do about it.

    Args:
        caller: calls the model.
        i: position of the input.
        first: one row of each input, before its role was settled.
        embedded: the embedding inputs of the model.
    """
    name, kind = caller.signature.names[i], "text" if caller.signature.kinds[i] == "U" else "integer"
    layers = _layers_that_make_floats(caller, first, embedded)
    advice = ["explain a function of the floats that the model makes of it, as a one-hot code"]
    if layers:
        advice = [f"name the layer that makes floats of it, as layer={min(layers)[2]!r}"]
    if len(caller.signature.names) > 1:
        advice.append(f'hold it still with baseline={{{name!r}: "fixed"}}')
    text = ", or ".join(advice)
    return (
        f"Expected an Embedding to read the {kind} input {name!r}, received a model in which none does, so no path "
        f"leads to it. {text[0].upper()}{text[1:]}."
    )


def _layers_that_make_floats(
    caller: Caller, first: list[np.ndarray], embedded: Collection[LayerCall]
) -> list[tuple[bool, int, str]]:
    """(whether its arguments are floats, number, name) of each layer that only returns floats."""
    sites = [Site(x, name=x.name) for x in caller.operations]
    layers: list[tuple[bool, int, str]] = []

    def is_float(y):
        return ops.is_tensor(y) and keras.backend.is_float_dtype(dtype_of(y))

    def is_whole(x):
        return ops.is_tensor(x) and not is_float(x)

    def look(inputs):
        recorded: dict[Site, list] = {each: [] for site in sites for each in (site, site.input)}
        caller.call(inputs, recorded=recorded)
        for site in sites:
            results = recorded[site]
            if results and all(map(is_float, results)) and not any(site == call.site for call in embedded):
                layers.append((not all(map(is_whole, recorded[site.input])), len(layers), site.name))

    with caller.backend.inference(caller.model):
        caller.backend.trace(look, first)
    return layers


# ---- the outputs -----------------------------------------------------------------------------------------------------


def _layout(caller: Caller, first: list[np.ndarray]) -> Layout:
    """Layout of the outputs and the numbers that a row's forward pass makes, from one row's shapes."""
    elements, selected, several = 0, [], False

    def look(inputs):
        nonlocal elements, selected, several
        recorded: dict[Site, list] = {Site(layer): [] for layer in caller.operations}
        outputs = caller.call(inputs, recorded=recorded)
        tensors = [y for y in tree.flatten(list(recorded.values())) if ops.is_tensor(y)]
        elements = sum(int(np.prod([s or 1 for s in y.shape])) for y in tensors)
        selected = caller.selected(outputs)
        if not selected:
            raise ValueError(
                f"Expected output= to name a layer that the model calls, received {caller.output.name!r} which it "
                "does not. Choose another layer."
            )
        several = not ops.is_tensor(outputs)
        return [x for _, x in selected]

    variables = None
    with caller.backend.inference(caller.model):
        if is_foreign(caller.model):
            look(first)
        else:
            variables = caller.backend.trace(look, first)
    if caller.output == "logits" and not caller.hidden:
        raise ValueError(
            'Expected a final softmax or sigmoid for output="logits" (an activation argument, an Activation or a '
            f"Softmax layer), received a model in which none makes the output {[name for name, _ in selected]}. "
            "Leave output= out, since the output may already be logits."
        )
    outputs: list[Output] = []
    for name, x in selected:
        _refuse_output(name, x)
        start = outputs[-1].start + outputs[-1].size if outputs else 0
        outputs.append(Output(name, tuple(int(s) for s in x.shape[1:]), start))
    width = elements + sum(int(np.prod(x.shape)) for x in first)
    dtypes = [dtype_of(x) for _, x in selected]
    return Layout(outputs, dtypes, several and len(outputs) > 1, width, variables)


def _refuse_output(name: str, x: Any) -> None:
    if not ops.is_tensor(x):
        raise TypeError(
            "Expected the model to return a tensor, or a list or dict of tensors; received "
            f"{type(x).__name__} as {name!r}. Wrap it in a function that returns those to be explained."
        )
    if not len(x.shape) or x.shape[0] not in (1, None):
        raise ValueError(
            f"Expected output {name!r} with one row for each row of the inputs, received shape "
            f"{tuple(x.shape)} for one row. Keep the batch axis first; {PER_ROW_ADVICE}."
        )


# ---- rows with other values ------------------------------------------------------------------------------------------


def elsewhere(arrays: Sequence[np.ndarray], positions: Collection[int]) -> list[np.ndarray]:
    """The arrays with other, equally valid, values in every entry of some of them: the neighbouring ones."""
    return [_neighbour(x) if i in positions else x for i, x in enumerate(arrays)]


def _variants(caller: Caller, signature: Signature, leaves: Sequence[Leaf]) -> list[list[np.ndarray]]:
    """For each input rows of other, equally valid, values, beginning with what is likeliest to be read differently."""
    known = [words[-9:] for x in caller.operations if hasattr(x, "get_vocabulary") and (words := x.get_vocabulary())]
    return [[signature.feed(i, x) for x in _other_rows(leaf.array, known)] for i, leaf in enumerate(leaves)]


def _other_rows(array: np.ndarray, vocabularies: list[list]) -> list[np.ndarray]:
    row, others = array[:1], [array[k : k + 1] for k in range(1, min(4, len(array)))]
    if array.dtype.kind == "U":
        words = ["", *(w for v in vocabularies for w in (*map(str, v[-3:]), " ".join(map(str, v))))]
        return [np.full_like(row, w, dtype=f"U{max(1, len(w))}") for w in words] + others
    if array.dtype.kind in "iu":
        whole = [w for v in vocabularies for w in v[-3:] if isinstance(w, (int, np.integer)) and w >= 0]
        others += [row // 2, 0 * row, *(np.full_like(row, w) for w in whole)]
    return [_neighbour(row), *others]


def _neighbour(x: np.ndarray) -> np.ndarray:
    if x.dtype.kind in TEXT:
        return np.char.add(x, x.dtype.type("_" if x.dtype.kind == "U" else b"_"))
    return ~x if x.dtype.kind == "b" else np.where(x > 0, x - 1, x + 1).astype(x.dtype)
