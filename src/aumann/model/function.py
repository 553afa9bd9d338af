"""F and its derivatives: what the framework differentiates, as functions of lists of tensors.

*Moving inputs* are the inputs that move and then the tensors at embedding inputs, each (rows, *row); *held* are all
other inputs. `index` (rows, targets) are the positions of the targets in the outputs of a row side by side, which
are followed by one number for each target function. `cells` are those of `core/secant.py`: a row of the batch is the
left end of a cell, and the next row its right end.
"""

from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops, tree

from aumann.core.credits import slope
from aumann.core.secant import WITH_KINKS, following
from aumann.model.caller import PER_ROW_ADVICE, Call, Caller, LayerCall, at
from aumann.model.composite_ops import handlers as composite_ops_of
from aumann.model.interception import Handlers
from aumann.model.signature import dtype_of, is_foreign, len_of
from aumann.model.survey import Survey, no_embedding

Functions = Sequence[Callable[[Any], Any]]  # target functions: outputs -> (rows,)


class Function:
    """F of one model, and its derivatives.

    Args:
        caller: calls the model.
        survey: of the model.
    """

    def __init__(self, caller: Caller, survey: Survey):
        self.caller, self.survey, self.backend = caller, survey, caller.backend
        self.signature, self.dtype = survey.signature, survey.signature.dtype
        self._has_kinks: dict[tuple, bool | None] = {}

    # ---- values ------------------------------------------------------------------------------------------------

    def outputs(
        self,
        moving: list[Any],
        held: list[Any],
        functions: Functions = (),
        composite_ops: Handlers | None = None,
        added: Sequence[Any] = (),
        layers: Sequence[Any] = (),
    ) -> Any:
        """All outputs of a row end to end, then one number for each target function: (rows, positions).

        Args:
            added: tensors that are added at the target layers.
            layers: tensors that stand at the target layers in place of their own.
        """
        inputs, replaced = self._join(moving, held)
        targets = self.survey.target_layers
        replaced |= self._at(targets[: len(layers)], layers)
        shifts = at(targets[: len(added)], added)
        outputs = self.caller.call(inputs, replaced=replaced, added=shifts, composite_ops=composite_ops)
        return self._vector(outputs, functions, inputs[0].shape[0])

    def values(
        self,
        moving: list[Any],
        held: list[Any],
        index: Any,
        functions: Functions = (),
        composite_ops: Handlers | None = None,
    ) -> Any:
        """F: (rows, targets)."""
        return ops.take_along_axis(self.outputs(moving, held, functions, composite_ops), index, axis=1)

    def embedding_values(self, inputs: list[Any]) -> list[Any]:
        """The tensors at the embedding inputs, from all inputs: each (rows, *row)."""
        calls = self.survey.embedding_inputs
        recorded: dict = {call.site: [] for call in calls}
        last = {site: 1 + max(call.call for call in calls if call.site == site) for site in recorded}
        self.caller.call(inputs, recorded=recorded, stop_after=last)
        return [ops.cast(recorded[call.site][call.call], self.dtype) for call in calls]

    def layer_values(self, moving: list[Any], held: list[Any]) -> list[Any]:
        """The tensors at the target layers: for each call (rows, *row)."""
        inputs, replaced = self._join(moving, held)
        calls = self.survey.target_layers
        recorded: dict = {call.site: [] for call in calls}
        count = {site: sum(call.site == site for call in calls) for site in recorded}
        self.caller.call(inputs, replaced=replaced, recorded=recorded, stop_after=count)
        return [ops.cast(recorded[call.site][call.call], self.dtype) for call in calls]

    # ---- derivatives -------------------------------------------------------------------------------------------

    def gradients(
        self,
        moving: list[Any],
        held: list[Any],
        index: Any,
        functions: Functions = (),
        cells: bool = False,
        outputs: Callable[..., Any] | None = None,
    ) -> tuple[Any, list[list[Any]]]:
        """F (rows, targets), and for each moving input a list over targets of ∂F/∂input, None where F is independent.

        With `cells`, the mean over the cell from each row to the next one, by secants (`core/secant.py`).

        Args:
            outputs: (moving, held, functions, composite_ops) -> (rows, positions), in place of `self.outputs`.
        """
        if is_foreign(self.caller.model):
            return self._vjp_gradients(moving, held, index, functions)
        outputs, composite_ops = outputs or self.outputs, self._composite_ops(moving, cells)

        def values(moving):
            return ops.take_along_axis(outputs(moving, held, functions, composite_ops), index, axis=1)

        f, columns = self._differentiate(cells)(values, moving)
        if all(g is None for column in columns for g in column):
            self._refuse_independence()
        return f, columns

    def layer_gradients(
        self,
        moving: list[Any],
        directions: list[Any],
        t: Any,
        held: list[Any],
        index: Any,
        functions: Functions = (),
        credit: Callable[..., Any] | None = None,
        cells: bool = False,
    ) -> tuple[Any, list[list[Any]], list[Any] | None]:
        """F, for each target layer ∂F/∂y, a list over targets, and the velocities of y: ∂y/∂input · γ'.

        What is added to y, namely 0, is what F is differentiated by: F then sees all that y leads to, also through
        other target layers. With `cells`, secants, and the slope of y over each cell.

        Args:
            directions: γ' of each moving input.
            t: (rows,) where on the path each row is.
            credit: one that asks for no velocity is given None.
        """
        velocities = None
        if cells:
            velocities = self._layer_slopes(moving, held, t)
        elif credit is not slope:  # which asks for no velocity
            _, velocities = self.backend.jvp(lambda moving: self.layer_values(moving, held), moving, directions)
        targets, composite_ops = self.survey.target_layers, self._composite_ops(moving, cells)
        zeros = [ops.zeros((len_of(moving[0]), *call.shape), self.dtype) for call in targets]

        def values(free):
            # over cells, the secant of a product of y and what goes around it needs both to move
            added, others = free[: len(targets)], free[len(targets) :] or moving
            return ops.take_along_axis(self.outputs(others, held, functions, composite_ops, added), index, axis=1)

        f, columns = self._differentiate(cells)(values, zeros + moving if cells else zeros)
        return f, columns[: len(targets)], velocities

    def _layer_slopes(self, moving: list[Any], held: list[Any], t: Any) -> list[Any]:
        """(yₖ₊₁ − yₖ) / (tₖ₊₁ − tₖ) of each target layer, 0 where a row of the batch has no cell."""
        widths = following(t, len_of(t)) - t
        rises = [following(y, len_of(t)) - y for y in self.layer_values(moving, held)]
        inverse = ops.where(widths > 0, 1 / ops.where(widths > 0, widths, ops.ones_like(t)), 0)
        return [rise * ops.reshape(inverse, (-1, *(1,) * (len(rise.shape) - 1))) for rise in rises]

    def _vjp_gradients(self, moving: list[Any], held: list[Any], index: Any, functions: Functions) -> Any:
        """The chain rule by hand, for a graph that brings its own vjp: ∂F/∂x = (∂F/∂output) · (∂output/∂x)."""
        inputs, _ = self._join(moving, held)
        structure = self.caller.call(inputs)
        outputs = [ops.convert_to_tensor(x) for x in tree.flatten(structure)]

        def values(outputs):
            packed = tree.pack_sequence_as(structure, outputs)
            return ops.take_along_axis(self._vector(packed, functions), index, axis=1)

        f, columns = self.backend.gradients(values, outputs)
        by_target = []
        for slopes in zip(*columns, strict=True):  # of one target, for each output
            cotangents = [ops.zeros_like(y) if g is None else g for g, y in zip(slopes, outputs, strict=True)]
            by_target.append(self.caller.model.pull(inputs, cotangents))
        return f, [[ops.cast(vjp[i], self.dtype) for vjp in by_target] for i in self.signature.moving]

    def _differentiate(self, cells: bool) -> Callable[..., Any]:
        return self.backend.secants if cells else self.backend.gradients

    def _composite_ops(self, moving: list[Any], cells: bool) -> Handlers:
        return composite_ops_of(self.caller.operations, len_of(moving[0]), self.backend.composite_op) if cells else {}

    def _refuse_independence(self) -> None:
        for i in self.signature.moving:
            if self.signature.kinds[i] in "iu":
                raise TypeError(self.no_embedding(i))
        raise ValueError(_not_differentiable("an output that depends on no input through differentiable operations"))

    def no_embedding(self, i: int) -> str:
        """What to say of an integer input that no gradient reaches."""
        return no_embedding(self.caller, i, self.survey.unsettled, self.survey.embedding_inputs)

    # ---- kinks -------------------------------------------------------------------------------------------------

    def has_kinks(self, functions: Functions = ()) -> bool | None:
        """Whether F, or a target function, has kinks or steps, as a ReLU has: seen from its operations.

        None where some of them are hidden.
        """
        key = tuple(functions)
        if key not in self._has_kinks:
            self._has_kinks[key] = self._looked_for_kinks(key)
        return self._has_kinks[key]

    def _looked_for_kinks(self, functions: tuple) -> bool | None:
        shapes = moving_shapes(self.survey)
        ends = [ops.zeros((1, *shape), self.dtype) for shape in shapes]
        side = [ops.convert_to_tensor(self.survey.first[i]) for i in self.signature.held]
        rules = set()

        def operate(call, xs, rule, rows):
            rules.add(rule)
            return self.backend.composite_op(call, xs, rule, rows)

        def run(ends):
            rows = ends[0].shape[0]
            composite_ops = composite_ops_of(self.caller.operations, rows, operate)
            return self.outputs(ends, [ops.repeat(s, rows, axis=0) for s in side], functions, composite_ops)

        seen = None if self.caller.opaque else self.backend.has_kinks(run, ends, self.survey.variables)
        return True if seen is False and rules & WITH_KINKS else seen

    # ---- between lists of moving inputs and the model ----------------------------------------------------------

    def _join(self, moving: list[Any], held: list[Any]) -> tuple[list[Any], dict[Call, Any]]:
        """The model's inputs, and the tensors at the embedding inputs."""
        inputs: list[Any] = [None] * len(self.signature.roles)
        for i, x in zip(self.signature.held, held, strict=True):
            inputs[i] = x
        positions = self.signature.moving
        for i, x in zip(positions, moving[: len(positions)], strict=True):
            inputs[i] = x
        return inputs, self._at(self.survey.embedding_inputs, moving[len(positions) :])

    def _at(self, calls: Sequence[LayerCall], tensors: Sequence[Any]) -> dict[Call, Any]:
        """Tensors at calls of layers, in the dtypes that these have in the model."""
        casts = [ops.cast(x, call.dtype) for call, x in zip(calls, tensors, strict=True)]
        return at(calls, casts)

    def _vector(self, outputs: Any, functions: Functions, rows: Any = None) -> Any:
        """Outputs and target functions of a row end to end; of so many rows, where that is known."""
        vectors = []
        for name, x in self.caller.selected(outputs):
            if _differ(x.shape[0], rows):
                raise ValueError(
                    f"Expected output {name!r} with one row for each row of the inputs, received {x.shape[0]} for "
                    f"{rows}. Keep the batch axis first and as long as it is; {PER_ROW_ADVICE}."
                )
            vectors.append(ops.reshape(ops.cast(x, self.dtype), (len_of(x), -1)))
        for function in functions:
            value = self._target(function, outputs, rows)
            _refuse_target(value, rows)
            vectors.append(ops.expand_dims(ops.cast(value, self.dtype), 1))
        return vectors[0] if len(vectors) == 1 else ops.concatenate(vectors, axis=1)

    def _target(self, function: Callable[[Any], Any], outputs: Any, rows: Any) -> Any:
        try:
            return function(outputs)
        except Exception as error:
            if isinstance(error, OSError) or self.backend.out_of_memory(error):
                raise
            raise ValueError(
                f"Expected the target function to take the outputs of any number of rows, here of {rows or 'some'}; "
                f"received {type(error).__name__} from inside it: {error}. Compute with the outputs alone; "
                f"{PER_ROW_ADVICE}."
            ) from error


def moving_shapes(survey: Survey) -> list[tuple]:
    """Shapes of one row of each moving input."""
    return [survey.first[i].shape[1:] for i in survey.signature.moving] + [c.shape for c in survey.embedding_inputs]


def _refuse_target(value: Any, rows: Any) -> None:
    """The result of a target function must be one float for each row."""
    if not ops.is_tensor(value):
        raise TypeError(
            f"Expected the target function to return a tensor, received {type(value).__name__}. Compute it "
            "from the outputs it is given."
        )
    if len(value.shape) != 1:
        raise ValueError(
            f"Expected the target function to return one number for each row, shape (n,); received shape "
            f"{tuple(value.shape)}. Index or sum the other axes."
        )
    if _differ(value.shape[0], rows):
        raise ValueError(
            f"Expected the target function to return one number for each row, received {value.shape[0]} for "
            f"{rows} rows. Keep the axis of rows as long as it is; {PER_ROW_ADVICE}."
        )
    if not keras.backend.is_float_dtype(dtype_of(value)):
        raise ValueError(_not_differentiable(f"{dtype_of(value)} from the target function"))


def _differ(rows: Any, others: Any) -> bool:
    """Whether two numbers of rows differ, as far as they are known: a graph may hold them open."""
    return isinstance(rows, int) and isinstance(others, int) and rows != others


def _not_differentiable(received: str) -> str:
    return (
        f"Expected a differentiable output, received {received} (as argmax, rounding or a comparison give). "
        "Explain the score before it: choose another output= or target=."
    )
