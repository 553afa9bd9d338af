"""What a model takes and is made of: its inputs and their roles, how they become arguments, the dtype of the path.

Nothing here calls the model.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeGuard

import keras
import numpy as np
from keras import ops, tree

from aumann import backends
from aumann.backends import keras_private
from aumann.features.conversion import TEXT
from aumann.model.interception import Site

MOVES, INTEGER, READ = "moves", "integer", "read"  # roles of inputs; that of one held still is `core.baselines.FIXED`


@dataclass(frozen=True, eq=False)
class Leaf:
    """One input array as the user gave it.

    Attributes:
        name: its key, index or the declared name of the input.
        array: (n, *row) host array.
        role: "moves" along the path, is "fixed", or is "integer" until it is known whether an Embedding reads it.
        features: column names of a DataFrame, or None.
        declared: the dtype that the model declares for it, or None.
        rows: names of the rows of a table, or None.
    """

    name: str
    array: np.ndarray
    role: str
    features: list | None = None
    declared: str | None = None
    rows: list | None = None


class ForeignGraph(Protocol):
    """A graph of a framework that Keras does not run on: it is called like a model, and brings its own derivative.

    `aumann.backends.pytensor.Graph` is one; any object with these two methods will do.
    """

    def __call__(self, *inputs: Any) -> Any:
        """Tensors of Keras' backend, one or a list, each (rows, …), of as many inputs."""

    def pull(self, points: list[Any], cotangents: list[Any]) -> list[Any]:
        """The vector–Jacobian product (vjp): for each input Σ cotangent · ∂output/∂input, of the input's shape.

        Args:
            points: the inputs.
            cotangents: a tensor for each output, of its shape.
        """


def is_foreign(model: Any) -> TypeGuard[ForeignGraph]:
    """Whether a model brings its own derivative, as a `ForeignGraph` does."""
    return hasattr(model, "pull")


@dataclass(frozen=True, eq=False)
class Signature:
    """What a model is called with.

    Attributes:
        structure: the user's inputs, for their packing.
        names: of the inputs.
        roles: of each, "moves", "fixed", "integer" (not yet known), or "read" by a layer whose output or input moves.
        kinds: NumPy's letters for the kind of dtype that each was given in.
        dtype: of the path.
        arguments: packed inputs -> (args, kwargs) of the model.
    """

    structure: Any
    names: tuple[str, ...]
    roles: tuple[str, ...]
    kinds: tuple[str, ...]
    dtype: str
    arguments: Callable[[Any], tuple[tuple, dict]]

    @property
    def moving(self) -> list[int]:
        """Positions of the inputs that move."""
        return [i for i, role in enumerate(self.roles) if role == MOVES]

    @property
    def held(self) -> list[int]:
        """Positions of all others, which are held still or read by a layer."""
        return [i for i, role in enumerate(self.roles) if role != MOVES]

    def with_roles(self, roles: dict[int, str]) -> "Signature":
        """The same with other roles of some inputs, by position."""
        return replace(self, roles=tuple(roles.get(i, role) for i, role in enumerate(self.roles)))

    def feed(self, i: int, array: np.ndarray) -> np.ndarray:
        """Rows of input i as the model is fed them: what moves is a float of the path's dtype."""
        floats = self.roles[i] == MOVES or self.kinds[i] == "f"
        if floats or (array.dtype == np.uint64 and array.max(initial=0) >= 2**63):
            return as_dtype(array, self.dtype, f"input {self.names[i]!r}")
        return np.ascontiguousarray(array, np.int64 if array.dtype == np.uint64 else None)  # torch has no uint64

    def call_with(self, inputs: list[Any]) -> tuple[tuple, dict]:
        """(args, kwargs) of the model, from a flat list of inputs."""
        return self.arguments(tree.pack_sequence_as(self.structure, inputs))


def signature_of(model: Any, structure: Any, leaves: Sequence[Leaf]) -> Signature:
    """The signature of a model that is given some inputs.

    Raises:
        TypeError: inputs of text, for which the framework has no tensors.
    """
    dtype = path_dtype(model, leaves)
    _refuse_text(leaves)
    return Signature(
        structure,
        tuple(leaf.name for leaf in leaves),
        tuple(leaf.role for leaf in leaves),
        tuple(leaf.array.dtype.kind for leaf in leaves),
        dtype,
        calling_convention(model, structure),
    )


def path_dtype(model: Any, leaves: Sequence[Leaf]) -> str:
    """float64 if the model computes in it anywhere, else float32: half precision would merge neighbouring nodes.

    A model computes in the dtypes of its weights and layers, and of the inputs that it declares; a function in those
    of its data.
    """
    if isinstance(model, keras.Layer):
        layers = [x for x in (model, *operations(model)) if isinstance(x, keras.Layer)]
        dtypes = {v.dtype for v in model.weights} | {layer.compute_dtype for layer in layers}
        dtypes |= {leaf.declared for leaf in leaves}
    elif hasattr(model, "parameters"):
        dtypes = {str(p.dtype).removeprefix("torch.") for p in model.parameters()}
    else:
        dtypes = set()
    if not dtypes:
        dtypes = {leaf.array.dtype.name for leaf in leaves}
    return backends.active().widest() if "float64" in dtypes else "float32"


def calling_convention(model: Any, structure: Any) -> Callable[[Any], tuple[tuple, dict]]:
    """How the packed inputs become arguments: one, several positional ones, or keywords."""
    inference = {}
    if isinstance(model, keras.Layer):
        inference = {"training": False}
    if isinstance(model, (keras.Sequential, keras.Function)):
        return lambda packed: ((packed,), inference)
    target = getattr(model, "python_function", None) or getattr(model, "forward", None) or model
    if isinstance(model, keras.Layer):
        target = model.call
    try:
        parameters = list(inspect.signature(target).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    inputs = [p for p in parameters if p.kind <= p.KEYWORD_ONLY and p.kind != p.VAR_POSITIONAL]
    if not isinstance(model, keras.Layer) and any(p.name == "training" for p in inputs):
        inference = {"training": False}
    inputs = [p for p in inputs if p.name != "training"]
    names = [p.name for p in inputs]
    required = [p.name for p in inputs if p.default is p.empty]
    if isinstance(structure, dict) and set(required) <= set(structure) <= set(names):
        return lambda packed: ((), {**packed, **inference})
    if isinstance(structure, (list, tuple)) and len(required) > 1 and len(structure) >= len(required):
        return lambda packed: (tuple(packed), inference)
    return lambda packed: ((packed,), inference)


def as_dtype(array: np.ndarray, dtype: str, what: str) -> np.ndarray:
    """An array in the dtype of the path.

    Raises:
        ValueError: it has numbers that the dtype cannot hold.
    """
    try:
        with np.errstate(over="raise"):
            return np.ascontiguousarray(array, dtype)
    except FloatingPointError as error:
        raise ValueError(
            f"Expected numbers that {dtype} can hold in {what}, received {np.abs(array).max():.3g}. Rescale them, or "
            "explain a model of float64 weights."
        ) from error


def _refuse_text(leaves: Sequence[Leaf]) -> None:
    for leaf in leaves:
        if leaf.array.dtype.kind in TEXT:
            try:
                ops.convert_to_tensor(leaf.array[:1])
            except Exception as error:
                raise TypeError(
                    f"Expected numbers for input {leaf.name!r}, received text, for which {keras.config.backend()} has "
                    "no tensors. Look it up outside the model, and pass the numbers."
                ) from error


# ---- what a model is made of -----------------------------------------------------------------------------------------


def operations(model: Any) -> list[Any]:
    """Every layer and operation inside a Keras model, the model itself excepted."""
    inside, todo = {}, [model] if isinstance(model, keras.Layer) else []
    while todo:
        for part in parts(todo.pop()):
            if id(part) not in inside:
                inside[id(part)] = part
                todo.append(part)
    return list(inside.values())


def parts(node: Any) -> list[Any]:
    """The layers and operations that a layer holds itself, each once."""
    inner = keras_private.sublayers(node) if isinstance(node, keras.Layer) else []
    inner += list(getattr(node, "operations", []) or [])
    return list({id(op): op for op in inner if not isinstance(op, keras.layers.InputLayer)}.values())


def quantised(model: Any) -> bool:
    """Whether a model has layers that Keras has quantised so that they round what passes them."""
    modes = (str(keras_private.quantization_mode(layer)) for layer in [model, *operations(model)])
    return any(mode.startswith(("int8", "float8")) for mode in modes)


def lookups(model: Any) -> list[Site]:
    """The outputs of every layer that looks up vectors for ids: Embeddings of Keras, and the framework's own."""
    layers = operations(model)
    embeddings = [Site(x, name=x.name) for x in layers if isinstance(x, keras.layers.Embedding)]
    return embeddings + [Site(x, name=name) for name, x in backends.active().lookups([model, *layers])]


def activations(model: Any) -> list[tuple[Any, str]]:
    """(owner, attribute) of every softmax and sigmoid inside a Keras model, however it was written."""
    calls = []
    for layer in [model, *operations(model)]:
        if isinstance(layer, keras.layers.Softmax) or type(layer).__name__ in ("Softmax", "Sigmoid"):
            calls.append((layer, "call"))
        if getattr(vars(layer).get("activation"), "__name__", None) in ("softmax", "sigmoid"):
            calls.append((layer, "activation"))
    return calls


# ---- tensors of any framework ----------------------------------------------------------------------------------------


def len_of(x: Any) -> Any:
    """Rows of a tensor: a number, or of a function that is being traced a tensor."""
    return ops.shape(x)[0]


def dtype_of(x: Any) -> str:
    """The name of a tensor's dtype, such as "float32"."""
    return keras.backend.standardize_dtype(x.dtype)
