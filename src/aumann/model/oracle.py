"""The oracle: F and its derivatives, for a Keras model or a plain function, at its inputs or at a layer.

It composes what the model takes (`signature`), how it is called (`caller`), what one look finds out (`survey`), F with
its derivatives (`function`), what is compiled of them (`programs`), and how many rows of it fit into memory.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import keras
import numpy as np

from aumann import backends
from aumann.execution.batching import BatchTuner, MemoryBudget
from aumann.execution.options import ExecutionOptions
from aumann.features.conversion import TEXT
from aumann.model import affine_prefix
from aumann.model.caller import Caller, labels
from aumann.model.function import Function, moving_shapes
from aumann.model.interception import Site
from aumann.model.programs import Programs, result_shapes
from aumann.model.signature import Leaf, signature_of
from aumann.model.survey import survey

T = TypeVar("T")


class TooLarge(MemoryError):
    """A batch that does not fit into memory, and cannot be made smaller."""


class Oracle:
    """F on one kind of input: structure, roles, row shapes and dtypes are settled.

    Args:
        model: a built Keras model or layer, a function of the active framework's tensors, a `torch.nn.Module`, or a
            graph that brings its own derivative (`signature.ForeignGraph`).
        structure: the user's inputs, for their packing.
        leaves: the inputs.
        output: None, the name or index of an output, "logits", or a `Site` whose tensors are the outputs.
        sites: that move along the path in place of the inputs which they depend on; None for every Embedding.
        target_sites: at which F is differentiated while the inputs move; none for at what moves.
        execution: how the model is run, None for the usual way.
        fill: rows that the model has to be called with, if it does not take any number.

    Attributes:
        names, roles, kinds, dtype, moving, held: see `signature.Signature`.
        embedding_inputs, target_layers, repeats, by_name, variables: see `survey.Survey`.
        outputs, output_dtypes, several_outputs, width: see `survey.Layout`.
        shapes: of one row of each moving input: inputs that move, then embedding inputs.
        results: shapes of one row of each array of values.
        labels: their names, where values are told apart by layers.
        function: F and its derivatives.
        programs: what is compiled of them.
        prefix: the affine prefix that straight paths are taken behind where it pays, or None.
        memory: `MemoryBudget` of the model's batches.
        independence: whether rows are independent, by target functions: see `explain/independence.py`.
    """

    def __init__(
        self,
        model: Any,
        structure: Any,
        leaves: Sequence[Leaf],
        output: Any = None,
        sites: Sequence[Site] | None = None,
        target_sites: Sequence[Site] = (),
        execution: ExecutionOptions | None = None,
        fill: int | None = None,
    ):
        self.backend, self.execution = backends.active(), execution or ExecutionOptions()
        compile_mode = backends.compile_mode(self.execution.compile)
        self.model, self.output, self.fill = model, output, fill
        self.caller = Caller(model, signature_of(model, structure, leaves), output, fill)
        self.survey = survey(self.caller, leaves, sites, target_sites)
        self.signature, layout = self.survey.signature, self.survey.layout
        self.names, self.roles, self.kinds = list(self.signature.names), self.signature.roles, self.signature.kinds
        self.dtype, self.moving, self.held = self.signature.dtype, self.signature.moving, self.signature.held
        self.embedding_inputs, self.target_layers = self.survey.embedding_inputs, self.survey.target_layers
        self.repeats, self.by_name, self.variables = self.survey.repeats, self.survey.by_name, self.survey.variables
        self.outputs, self.output_dtypes = layout.outputs, layout.dtypes
        self.several_outputs, self.width = layout.several, layout.width
        if isinstance(output, Site):
            self.caller.output_calls = len(self.outputs)
        self.shapes, self.results = moving_shapes(self.survey), result_shapes(self.survey)
        sites_of_values = [call.site for call in self.target_layers or self.embedding_inputs]
        self.labels = [*([] if self.target_layers else [self.names[i] for i in self.moving]), *labels(sites_of_values)]
        self.function = Function(self.caller, self.survey)
        self.prefix = affine_prefix.find(self.caller, self.survey)
        self.programs = Programs(self.function, compile_mode, self.prefix, self._tuner)
        # what a forward pass makes, and as much again on the way back
        self.memory = MemoryBudget(2 * self.width * np.dtype(self.dtype).itemsize, self._free)
        self.independence: dict[tuple, Any] = {}
        if not self.shapes:
            raise ValueError(
                f"Expected at least one input to move along the path, received only fixed ones, {self.names}. Hold "
                "still what is not to be explained, and no more."
            )

    # ---- what is known -----------------------------------------------------------------------------------------

    @property
    def opaque(self) -> bool:
        """Whether the model's operations cannot be seen."""
        return self.caller.opaque

    @property
    def hidden(self) -> bool:
        """Whether F stands before a final softmax or sigmoid."""
        return self.caller.hidden

    @property
    def leaves_of_moving(self) -> list[int]:
        """For each moving input the position of the input that it is, or of the first that it depends on."""
        return [*self.moving, *(call.leaves[0] for call in self.embedding_inputs)]

    def holds_ids(self, leaf: int) -> bool:
        """Whether an input holds ids, which do not move themselves."""
        read = any(call.site in self.survey.lookups for call in self.embedding_inputs if leaf in call.leaves)
        return read or self.kinds[leaf] in "iu" + TEXT

    def has_kinks(self, functions: Sequence[Callable] = ()) -> bool | None:
        """Whether F, or a target function, has kinks or steps, as a ReLU has; None where operations are hidden."""
        return self.function.has_kinks(functions)

    def no_embedding(self, leaf: int) -> str:
        """What to say of an integer input that no gradient reaches, and what to do about it."""
        return self.function.no_embedding(leaf)

    def uses_prefix(self, paths: Sequence, credit: Callable, baselines: int, nodes: int, targets: int = 1) -> bool:
        """Whether paths with so many nodes in a batch are taken behind the affine prefix: see `Prefix.pays`."""
        return self.prefix is not None and self.prefix.pays(paths, credit, baselines, nodes, targets)

    # ---- rows on the device ------------------------------------------------------------------------------------

    def load(self, arrays: Sequence[np.ndarray], as_written: bool = False) -> tuple[list[Any], list[Any]]:
        """Rows of the host arrays -> (moving, held) on the device; `as_written` for a few rows once."""
        inputs = [self.load_one(i, array) for i, array in enumerate(arrays)]
        ends = [inputs[i] for i in self.moving]
        if self.embedding_inputs:
            run = self.programs.embedding_values_as_written() if as_written else None
            ends += (run or self.programs.embedding_values())(inputs)
        return ends, [inputs[i] for i in self.held]

    def load_one(self, leaf: int, array: np.ndarray) -> Any:
        """Rows of one of the arrays on the device."""
        return self.backend.send(self.signature.feed(leaf, array))

    # ---- memory and batch size ---------------------------------------------------------------------------------

    @property
    def batch_size(self) -> int:
        """Rows per call: what was asked for, or to begin with what the backend likes for a model of this width."""
        if self.execution.batch_size != "auto":
            return int(min(int(self.execution.batch_size), self.fill or math.inf))
        if self.fill is not None:
            return self.fill
        operations = max(1, len(self.caller.operations))
        return max(1, min(self.memory(), self.backend.rows_in_flight(max(1, self.width), operations)))

    def within_memory(self, run: Callable[..., T], *args: Any) -> T:
        """run(*args), again with half as many rows per call where memory runs out, unless so many were asked for.

        Raises:
            TooLarge: not even one row fits, or not as many as were asked for.
        """
        while True:
            try:
                return run(*args)
            except Exception as error:
                if not self.backend.out_of_memory(error) or isinstance(error, TooLarge):
                    raise
                size = self.batch_size
                if self.execution.batch_size != "auto" or size == 1:
                    raise self._too_large(size) from error
                self.memory.halve(size)

    def refuse_too_large(self, rows: int) -> None:
        """Before the machine ends the process: a batch whose forward pass alone, half of it even, does not fit.

        Raises:
            TooLarge: batches of as many of these rows as were asked for do not.
        """
        if self.execution.batch_size == "auto":
            return
        size, free = min(rows, self.batch_size), self._free()
        if free is not None and size * self.memory.size > 4 * free:
            raise self._too_large(size)

    def _too_large(self, size: int) -> TooLarge:
        free = self.backend.free()
        known = f"; {free / 2**30:.2g} GB are free" if free is not None else ""
        if isinstance(self.model, keras.Layer):
            known = f", which takes about {size * self.memory.size / 2**30:.2g} GB{known}"
        advice = 'Give a smaller batch_size=, or "auto".' if size > 1 else "Explain a smaller input."
        return TooLarge(
            f"Expected a batch that fits into memory, received one of {size} rows of the model{known}. {advice}"
        )

    def _free(self) -> float | None:
        """Bytes for each of the devices that share them, as those of one CPU do; None where nobody knows."""
        free = self.backend.free()
        return free and free / max(1, sum(name.startswith("cpu") for name in self.execution.devices or ()))

    def _tuner(self, numbers: int, dynamic: bool, flattened: bool, whole: bool) -> BatchTuner:
        """A tuner of the batch size of one program.

        Args:
            numbers: that a row needs beside the forward pass.
            dynamic, flattened, whole: see `BatchTuner`.
        """
        tuned = self.execution.batch_size == "auto" and self.fill is None
        more = numbers * np.dtype(self.dtype).itemsize
        return BatchTuner(self.batch_size, self.memory, tuned, dynamic, flattened, whole, more)
