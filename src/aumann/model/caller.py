"""How a model is called: with the tensors at layer sites replaced, added to or recorded, and its outputs selected."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
from keras import ops, tree

from aumann import backends
from aumann.backends import keras_private
from aumann.model.interception import Handlers, Site, intercepted, visited
from aumann.model.signature import Signature, activations, dtype_of, is_foreign, len_of, operations

Call = tuple[Site, int]  # a site, and which call of its layer

PER_ROW_ADVICE = (
    "what belongs to a row, as a mask does, is passed as an input that is held still: a function of x and mask, "
    'explained at {"x": x, "mask": mask} with baseline={"mask": "fixed"}'
)


class _Stop(BaseException):
    """Raised inside a model when nothing more is wanted of it: no `except Exception` on the way stops it."""


@dataclass(frozen=True)
class LayerCall:
    """One call of a layer, at whose output or input a tensor moves (embedding input) or F is differentiated (target).

    Attributes:
        site: the layer's output or input.
        call: which of its calls.
        shape, dtype: of one row of the tensor there.
        leaves: the inputs that it depends on and that would move along the path if it did not.
        mixed: whether it depends on inputs that are held still, too.
    """

    site: Site
    call: int
    shape: tuple
    dtype: str
    leaves: tuple = ()
    mixed: bool = False


class Caller:
    """Calls one model, for one packing of its inputs.

    Args:
        model: a Keras model or layer, a function of tensors, a module of torch, or a `ForeignGraph`.
        signature: of the model.
        output: None, the name or index of an output, "logits", or a `Site` whose tensors are the outputs.
        fill: rows that the model has to be called with, if it does not take any number: the last one is repeated.

    Attributes:
        operations: the layers and operations inside the model: looked for once, since eager backends ask at each batch.
        hidden: whether the last call gave what stands before a final softmax or sigmoid.
        output_calls: how often the layer of a `Site` as output is called, once that is known.
    """

    def __init__(self, model: Any, signature: Signature, output: Any = None, fill: int | None = None):
        self.backend = backends.active()
        self.model, self.signature, self.output, self.fill = model, signature, output, fill
        self.operations = operations(model)
        self.activations = activations(model) if output == "logits" and isinstance(model, keras.Layer) else []
        self.outside = self.backend.outside(self.operations)
        self.hidden, self.output_calls = False, None

    @property
    def opaque(self) -> bool:
        """Whether the model's operations cannot be seen, since they are compiled, or take no two rows, as a cell does.

        Those of a foreign graph are none of the framework's.
        """
        scripts = {"ScriptModule", "ScriptFunction"} & {kind.__name__ for kind in type(self.model).__mro__}
        return bool(scripts) or self.fill == 1 or is_foreign(self.model) or hasattr(self.model, "python_function")

    def call(
        self,
        inputs: list[Any],
        *,
        replaced: Mapping[Call, Any] | None = None,
        added: Mapping[Call, Any] | None = None,
        recorded: Mapping[Site, list] | None = None,
        stop_after: Mapping[Site, int] | None = None,
        composite_ops: Handlers | None = None,
    ) -> Any:
        """The model's outputs, or for "logits" what stands before the activation that made them.

        Args:
            inputs: flat.
            replaced: tensors that stand for those at the calls of some sites.
            added: tensors that are added there.
            recorded: by site a list, to which the tensors at the site are appended, call by call.
            stop_after: by site a number of calls, after which the model is left: its outputs are then None.
            composite_ops: handlers of functions that are to be one operation each.
        """
        rows, short = len_of(inputs[0]), self.fill is not None and inputs[0].shape[0] != self.fill
        replaced, added, recorded = replaced or {}, added or {}, dict(recorded or {})
        if short:
            inputs = [self.filled(x) for x in inputs]
            replaced, added = ({at: self.filled(x) for at, x in tensors.items()} for tensors in (replaced, added))
        args, kwargs = self.signature.call_with(inputs)
        if isinstance(self.output, Site):
            at_output = recorded.setdefault(self.output, [])
            if len(recorded) == 1 and self.output_calls is not None:
                stop_after = {self.output: self.output_calls}
        sites = {*recorded, *(site for site, _ in (*replaced, *added))}
        visit = _visit(replaced, added, recorded, stop_after, rows if short else None)
        results: dict[int, tuple[Any, Any]] = {}
        handlers = [self.outside, composite_ops or {}, visited(sites, visit), self._noting(results)]
        outputs = self._run(args, kwargs, handlers, inputs)
        if isinstance(self.output, Site):
            return at_output[0] if len(at_output) == 1 else list(at_output)
        if outputs is None:
            return None
        return self._before_activations(outputs, results, rows if short else None)

    def filled(self, x: Any) -> Any:
        """As many rows as the model has to be called with, the last of fewer being repeated."""
        return ops.take(x, ops.minimum(ops.arange(self.fill), len_of(x) - 1), axis=0)

    def _run(self, args: tuple, kwargs: dict, handlers: list[Handlers], inputs: list[Any]) -> Any:
        outside, composite_ops, visitors, noting = handlers
        try:
            with intercepted(outside), intercepted(composite_ops), intercepted(visitors), intercepted(noting):
                return self.model(*args, **kwargs)
        except _Stop:
            return None
        except Exception as error:
            if self.backend.out_of_memory(error):
                raise
            raise self._failed(inputs, error) from error

    def _noting(self, results: dict[int, tuple[Any, Any]]) -> Handlers:
        """Handlers that note the argument of each final activation by the identity of its result."""

        def note(original, *args, **kwargs):
            y = original(*args, **kwargs)
            results[id(y)] = args[0] if args else next(iter(kwargs.values()), None), y  # y is kept: ids are used again
            return y

        return dict.fromkeys(self.activations, note)

    def _before_activations(self, outputs: Any, results: dict[int, tuple[Any, Any]], rows: Any) -> Any:
        """Outputs with the results of activations replaced by their arguments; of `rows` rows, if not None."""

        def cut(y):
            return y if rows is None else y[:rows]

        arguments = {i: cut(x) for i, (x, _) in results.items() if rows is None or ops.is_tensor(x)}
        if not arguments:
            return outputs if rows is None else tree.map_structure(cut, outputs)
        self.hidden = any(id(y) in arguments for y in tree.flatten(outputs))
        return tree.map_structure(lambda y: arguments[id(y)] if id(y) in arguments else cut(y), outputs)

    def _failed(self, inputs: list[Any], error: Exception) -> ValueError:
        named = zip(self.signature.names, inputs, strict=True)
        fed = ", ".join(f"{name} {tuple(x.shape)} {dtype_of(x)}" for name, x in named)
        one_row = "" if inputs[0].shape[0] == 1 else " One that takes a single row and no more is given batch_size=1."
        return ValueError(
            f"Expected the model to accept what it was fed: {fed}; received {type(error).__name__} from inside it: "
            f"{error}. Check that model(inputs) works on these shapes and dtypes"
            f"{', compiled too, as it is here' if self.backend.staging() else ''}.{one_row}"
        )

    # ---- outputs -----------------------------------------------------------------------------------------------

    def selected(self, outputs: Any) -> list[tuple[str, Any]]:
        """(name, tensor) of the outputs that `output=` selects.

        Raises:
            ValueError: it names none.
        """
        if isinstance(self.output, Site):
            calls = outputs if isinstance(outputs, list) else [outputs]
            return list(zip(labels([self.output] * len(calls)), calls, strict=True))
        flat = self._named(outputs)
        if self.output in (None, "logits"):
            return flat
        names = [name for name, _ in flat]
        if isinstance(self.output, str) and self.output in names:
            return [flat[names.index(self.output)]]
        if isinstance(self.output, int) and -len(flat) <= self.output < len(flat):
            return [flat[self.output]]
        raise ValueError(
            f'Expected an output of the model, one of {names} or 0…{len(flat) - 1}, or "logits"; received '
            f"{self.output!r}. Leave output= out for all of them."
        )

    def _named(self, outputs: Any) -> list[tuple[str, Any]]:
        if ops.is_tensor(outputs) or not isinstance(outputs, (list, tuple, dict)):
            return [("output", outputs)]
        if isinstance(outputs, dict):
            declared = keras_private.outputs_structure(self.model)  # its order: Keras sorts the names on torch
            keys = declared if isinstance(declared, dict) and declared.keys() == outputs.keys() else outputs
            return [(str(k), outputs[k]) for k in keys]
        declared = getattr(self.model, "output_names", None) or []
        names = declared if len(declared) == len(outputs) else [f"output_{i}" for i in range(len(outputs))]
        return list(zip(names, outputs, strict=True))


def _visit(
    replaced: Mapping[Call, Any],
    added: Mapping[Call, Any],
    recorded: Mapping[Site, list],
    stop_after: Mapping[Site, int] | None,
    rows: Any,
) -> Callable[[Site, int, Callable[[], Any]], Any]:
    """What `visited` calls at each site; of what is recorded `rows` rows are kept, if not None."""

    def visit(site, k, compute):
        y = replaced[site, k] if (site, k) in replaced else compute()
        if (site, k) in added:
            y = y + ops.cast(added[site, k], dtype_of(y))
        if site in recorded:
            recorded[site].append(y[:rows] if rows is not None and ops.is_tensor(y) else y)
            if stop_after and all(len(recorded[s]) >= count for s, count in stop_after.items()):
                raise _Stop
        return y

    return visit


def labels(sites: Sequence[Site]) -> list[str]:
    """A name for each site of a list, in which a site stands once for each call; sites may share a name."""
    count, calls, names = Counter(site.name for site in sites), Counter[str](), []
    for site in sites:
        names.append(f"{site.name}[{calls[site.name]}]" if count[site.name] > 1 else site.name)
        calls[site.name] += 1
    return names


def at(calls: Iterable[LayerCall], tensors: Iterable[Any]) -> dict[Call, Any]:
    """Tensors by the calls of sites that they stand at."""
    return {(c.site, c.call): x for c, x in zip(calls, tensors, strict=True)}
