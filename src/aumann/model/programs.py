"""Programs: what is compiled of a model, each once, with the tuner of its batch size.

Evaluating F is compiled in the quickest way; what differentiates, which takes the time, as `compile=` asks.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from keras import tree

from aumann.core import engine
from aumann.core.paths import chorded, with_velocity
from aumann.execution.batching import BatchTuner
from aumann.model.affine_prefix import Prefix
from aumann.model.function import Function, moving_shapes
from aumann.model.signature import is_foreign, len_of
from aumann.model.survey import Survey


@dataclass(frozen=True)
class ProgramKey:
    """What a program is compiled for.

    Attributes:
        name: of the method of `Programs` that gives it.
        functions: target functions.
        paths, credit, targets, cells, fixed_shapes: see `Programs.step`.
    """

    name: str
    functions: tuple = ()
    paths: tuple = ()
    credit: Callable[..., Any] | None = None
    targets: int = 1
    cells: bool = False
    fixed_shapes: bool = True


@dataclass(frozen=True, eq=False)
class Program:
    """A function of lists of tensors, compiled, and how many rows it is called with.

    Attributes:
        run: the function.
        tuner: of its batch size.
    """

    run: Callable[..., Any]
    tuner: BatchTuner

    def __call__(self, *args: Any) -> Any:
        return self.run(*args)


class Programs:
    """All that has been compiled of one oracle.

    Args:
        function: F and its derivatives.
        compile_mode: of what differentiates.
        prefix: an affine prefix of the model, or None.
        new_tuner: (numbers a row needs beside the forward pass, dynamic, flattened, whole) -> `BatchTuner`.
    """

    def __init__(
        self, function: Function, compile_mode: str, prefix: Prefix | None, new_tuner: Callable[..., BatchTuner]
    ):
        self.function, self.prefix, self.compile_mode, self.new_tuner = function, prefix, compile_mode, new_tuner
        self.backend, self.caller = function.backend, function.caller
        self._differentiating: list[Callable[..., Any]] = []
        self._compiled: dict[ProgramKey, Program] = {}

    @property
    def compiled(self) -> Mapping[ProgramKey, Program]:
        """The programs that have been asked for, by their keys."""
        return MappingProxyType(self._compiled)

    @property
    def compile_modes(self) -> list[str]:
        """The names of how what differentiates has been run."""
        return sorted(set().union(*(getattr(fn, "compile_modes", ()) for fn in self._differentiating)))

    # ---- the programs ------------------------------------------------------------------------------------------

    def outputs(self, functions: tuple = ()) -> Program:
        """(moving, held) -> outputs of a row end to end, and the target functions: (rows, positions)."""
        key = ProgramKey("outputs", tuple(functions))
        return self._once(key, lambda: self.quick(self._outputs(functions)))

    def outputs_with_layers_held(self, functions: tuple = ()) -> Program:
        """(moving, held, layers) -> the same with tensors that stand at the target layers."""
        function = self.function
        key = ProgramKey("outputs_with_layers_held", tuple(functions))
        return self._once(
            key, lambda: self.quick(lambda moving, held, ys: function.outputs(moving, held, functions, layers=ys))
        )

    def embedding_values(self) -> Program:
        """(inputs) -> tensors at the embedding inputs."""
        return self._once(ProgramKey("embedding_values"), lambda: self.quick(self.function.embedding_values))

    def layer_values(self) -> Program:
        """(moving, held) -> tensors at the target layers."""
        return self._once(ProgramKey("layer_values"), lambda: self.quick(self.function.layer_values))

    def slopes(self, functions: tuple = ()) -> Program:
        """F and its gradients: `Function.gradients`, or with target layers `Function.layer_gradients`."""
        key = ProgramKey("slopes", tuple(functions))
        return self._once(key, lambda: self.compile(self._gradients(functions)))

    def step(
        self,
        functions: tuple,
        paths: tuple,
        credit: Callable[..., Any],
        targets: int = 1,
        cells: bool = False,
        fixed_shapes: bool = True,
    ) -> Program:
        """A batch of the sum: `engine.make_step`.

        Args:
            functions: target functions.
            paths: one for each moving input.
            credit: what a gradient is worth to the features.
            targets: how many targets are summed.
            cells: whether slopes are secants over cells, not derivatives at nodes.
            fixed_shapes: whether all of it is compiled for the nodes of one rule; else only gradients are, for any
                number of rows × nodes, so that rules of many lengths share them.
        """
        key = ProgramKey("step", tuple(functions), paths, credit, targets, cells, fixed_shapes)
        return self._once(key, lambda: self._step(key))

    def _once(self, key: ProgramKey, make: Callable[[], Callable[..., Any]]) -> Program:
        if key not in self._compiled:
            self._compiled[key] = Program(make(), self._tuner(key))
        return self._compiled[key]

    # ---- what is not kept --------------------------------------------------------------------------------------

    def outputs_traced_again(self, functions: tuple) -> Callable[..., Any]:
        """What `outputs` runs, traced anew."""
        return self.quick(self._outputs(functions))

    def outputs_as_written(self, functions: tuple) -> Callable[..., Any] | None:
        """What `outputs` runs, without compiling it; None where running it so takes longer than compiling it."""
        return self._as_written(self._outputs(functions))

    def embedding_values_as_written(self) -> Callable[..., Any] | None:
        """What `embedding_values` runs, without compiling it; None where that takes longer than compiling it."""
        return self._as_written(self.function.embedding_values)

    def _as_written(self, fn: Callable[..., Any]) -> Callable[..., Any] | None:
        return fn if is_foreign(self.caller.model) else self.backend.plain(fn, self.function.survey.variables)

    # ---- how they are compiled ---------------------------------------------------------------------------------

    def compile(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        """fn of lists of tensors, compiled as asked for: what differentiates."""
        self._differentiating.append(self.quick(fn, self.compile_mode))
        return self._differentiating[-1]

    def quick(self, fn: Callable[..., Any], compile_mode: str | None = None) -> Callable[..., Any]:
        """The same compiled in the quickest way; what calls a foreign graph is run as it is."""
        if is_foreign(self.caller.model):
            return fn
        variables = self.function.survey.variables
        return self.backend.compile(fn, variables, compile_mode or self.backend.COMPILE_MODES[0])

    def dynamic(self, cells: bool) -> bool:
        """Whether what differentiates takes a new number of rows without compiling again."""
        return self.backend.dynamic(cells, self.compile_mode)

    def _tuner(self, key: ProgramKey) -> BatchTuner:
        differentiates = key.name in ("step", "slopes")
        dynamic = self.dynamic(key.cells) if differentiates else self.backend.dynamic(False)
        whole = not self.dynamic(False)
        # the gradients of all targets lie side by side
        more = differentiates * key.targets * sum(map(math.prod, result_shapes(self.function.survey)))
        return self.new_tuner(more, dynamic, key.fixed_shapes and whole, whole)

    def _outputs(self, functions: tuple) -> Callable[..., Any]:
        return lambda moving, held: self.function.outputs(moving, held, functions)

    def _gradients(self, functions: tuple, credit: Any = None, cells: bool = False) -> Callable[..., Any]:
        function = self.function

        def gradients(moving, held, index):
            return function.gradients(moving, held, index, functions, cells)

        def layer_gradients(moving, directions, t, held, index):
            return function.layer_gradients(moving, directions, t, held, index, functions, credit, cells)

        fn = layer_gradients if function.survey.target_layers else gradients
        # outside of what is differentiated, since cells are counted by rows
        return fn if self.caller.fill is None else self._filled_up(fn)

    def _filled_up(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        def run(moving, *others):
            rows = len_of(moving[0])
            results = fn(*tree.map_structure(self.caller.filled, (moving, *others)))
            return tree.map_structure(lambda y: None if y is None else y[:rows], results, none_is_leaf=True)

        return run

    def _step(self, key: ProgramKey) -> Callable[..., Any]:
        gradients = self._gradients(key.functions, key.credit, key.cells)
        paths = [chorded(p) if key.cells else with_velocity(p, self.backend.jvp) for p in key.paths]
        at_layers = bool(self.function.survey.target_layers)
        if key.fixed_shapes:
            plain = self.compile(engine.make_step(gradients, paths, key.credit, inner=at_layers))
        else:
            plain = engine.make_step(self.compile(gradients), paths, key.credit, self.quick, at_layers)
        if self.prefix is None or not self.prefix.serves(key.paths, key.credit):
            return plain
        return self._shorter(key, self.prefix, plain)

    def _shorter(self, key: ProgramKey, prefix: Prefix, plain: Callable[..., Any]) -> Callable[..., Any]:
        """The step behind an affine prefix in the batches where that pays, in others the plain one."""
        function, outputs = self.function, prefix.behind(self.function.outputs)

        def gradients(moving, held, index):
            return function.gradients(moving, held, index, key.functions, key.cells, outputs)

        if key.fixed_shapes:
            shorter = self.compile(prefix.make_step(gradients, key.credit))
        else:
            shorter = prefix.make_step(self.compile(gradients), key.credit, self.quick)

        def step(sums, ends, starts, tw, held, index):
            nodes = tw[0].shape[0] // ends[0].shape[0]
            pays = prefix.pays(key.paths, key.credit, starts[0].shape[1], nodes, sums[0].shape[1])
            return (shorter if pays else plain)(sums, ends, starts, tw, held, index)

        return step


def result_shapes(survey: Survey) -> list[tuple]:
    """Shapes of one row of each array of values."""
    return [call.shape for call in survey.target_layers] or moving_shapes(survey)
