"""Method: what every way of explaining a model has in common."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Unpack

import keras
import numpy as np

from aumann import backends
from aumann.core import baselines, credits, targets
from aumann.core.paths import straight
from aumann.execution.devices import DevicePool
from aumann.execution.options import settings
from aumann.explain import independence
from aumann.explain.answer import fingerprint, predicted
from aumann.explain.endpoints import predict
from aumann.explain.explain import explain
from aumann.explain.integral import Integral
from aumann.explain.problem import Problem, resolve
from aumann.explain.result import Result
from aumann.explanation import Explanation
from aumann.methods import signatures
from aumann.methods.signatures import Execution
from aumann.model import inputs as arrays
from aumann.model.interception import Site
from aumann.model.layers import addresses, at_addresses, find, find_all
from aumann.model.oracle import Oracle
from aumann.model.signature import Leaf, is_foreign

TOLERANCE = 0.01
MAX_EVALUATIONS = 2000


class Method:
    """What every method has: a model, what of it is explained, and how it is run.

    Args:
        model: a built Keras 3 model or layer (Sequential, Functional, subclassed, nested), a function of tensors of the
            active framework, a `torch.nn.Module` on the torch backend, or `aumann.backends.pytensor.Graph`.
        output: which output tensor is explained: None for all, a name, an index, "logits" for what stands before a
            final softmax or sigmoid, or a layer's output, `aumann.output_of(layer)`.
        layer: name, object or list of those: attribute at that layer's output instead of at the input which it reads.
            Integer ids are attributed at their Embedding without asking.

    Attributes:
        complete: whether the values add up to F(x) − F(x′), as far as they are exact.
        spans: whether, complete or not, they see the whole path: where all are zero, F cannot change.
        moving_sites: the outputs and inputs of layers that move in place of inputs; None for those of every Embedding.
        target_layers: those that values are for while inputs move; none for values of what moves.
    """

    path: Any = staticmethod(straight)
    credit: Callable = staticmethod(credits.share)
    complete, spans = True, False
    COMPILED: tuple[str, ...] = ("oracles",)  # attributes that hold what is compiled

    def __init__(self, model: Any, *, output: Any = None, layer: Any = None, **execution: Unpack[Execution]) -> None:
        if not callable(model):
            raise TypeError(
                f"Expected a Keras model or a function, received {type(model).__name__}. "
                "Load the model first, as with keras.saving.load_model(path)."
            )
        if isinstance(model, keras.Layer) and not model.built:
            raise ValueError(
                f"Expected a built model, received {model.name!r} whose weights do not exist yet. "
                "Call it once on a batch, or model.build(input_shape)."
            )
        if inspect.isclass(model):
            raise TypeError(f"Expected a model, received the class {model.__name__}. Make an instance of it.")
        if isinstance(output, Site):
            output = find(model, output, "output")
        self.model, self.output, self.execution = model, output, settings(type(self).__name__, execution)
        if is_foreign(model) and len(self.execution.devices or ()) > 1:
            raise ValueError(
                f"Expected one device for a graph of another framework, which runs where that puts it; received "
                f"devices={execution['devices']!r}. Leave devices= out."
            )
        self.moving_sites = None if layer is None else find_all(model, layer)
        self.target_layers = ()
        self.oracles, self._fill = {}, None

    def __init_subclass__(cls) -> None:
        signatures.complete(cls)

    def explain(self, inputs: Any, target: Any = None, baseline: Any = 0.0, progress: Any = None) -> Explanation:
        """Attributions of every input feature of every row.

        Args:
            inputs: array-like (n, …), or a list, tuple or dict of those, as the model takes them: NumPy, tensors,
                DataFrames. Integer features are cast to float before anything is subtracted.
            target: which scalar of the outputs is F. None where the model has one output unit; an int; an array with
                one int per row; "predicted"; a tuple index into outputs of more than one axis, or (output, *index),
                which may end in "predicted"; `Explanation.names["predicted"]` has the classes;
                a callable outputs -> (n,); a list of those, or "all", for several from the same forward passes.
            baseline: where the path starts: a constant, a row, one row per row, `aumann.baselines.weighted(rows)`, a
                callable inputs -> baseline such as those of `aumann.baselines`, or "fixed" for an input that must not
                move; a list or dict for several inputs, where a callable is given the array of its own input. For
                integer ids an integer is a token id, a float a constant of the embedding.
            progress: True for a bar, or a callable (gradients done, gradients known to be needed so far).

        Returns:
            `aumann.Explanation`, whose fields mirror the structure of `inputs`.

        Raises:
            ValueError, TypeError: inputs, target or baseline do not fit; nothing has been changed.
        """
        problem = self.problem(inputs, target, baseline)
        return self._explained(problem, progress)[0]

    def problem(self, inputs: Any, target: Any = None, baseline: Any = 0.0) -> Problem:
        """What `explain` is given, resolved and checked.

        Args:
            inputs, target, baseline: as for `explain`.

        Returns:
            `aumann.explain.problem.Problem`.

        Raises:
            ValueError, TypeError: they do not fit.
        """
        if backends.active().staging():
            raise ValueError(
                "Expected a call of explain() with numbers, received one inside of a function that is being traced or "
                "compiled. Call it outside of that function; inside of a loss use aumann.attribution."
            )
        baseline = baselines.resolved(baseline, inputs)
        structure, leaves = arrays.read(self.model, inputs, lambda i, name: _is_fixed(baseline, i, name))
        baseline = arrays.each_of(baseline, structure, leaves, inputs)
        return self._resolved(structure, leaves, target, baseline)

    def _explained(
        self, problem: Problem, progress: Any, sum: Callable[[Problem, Integral], Result] | None = None
    ) -> tuple[Explanation, Result]:
        """The answer to a problem, and what the sum has returned."""
        with self.at_work(problem.device_pool), ThreadPoolExecutor(1) as background:
            weights = background.submit(fingerprint, self.model)  # while the device is busy
            return problem.oracle.within_memory(explain, problem, weights, progress, sum)

    def _resolved(self, structure: Any, leaves: list[Leaf], target: Any, baseline: Any) -> Problem:
        """A model that declares how many rows it takes is called with any number, unless that fails."""
        rows = arrays.declared_rows(self.model)
        try:
            return self._resolve(structure, leaves, target, baseline)
        except ValueError:
            if rows is None or self._fill is not None:
                raise
        self._fill = rows
        try:
            return self._resolve(structure, leaves, target, baseline)
        except BaseException:
            self._fill = None
            raise

    def _resolve(self, structure: Any, leaves: list[Leaf], target: Any, baseline: Any) -> Problem:
        device_pool = DevicePool(self.execution)
        with device_pool.backend.arithmetic(self.execution.precision):
            oracle = self._oracle(structure, leaves)
        with self.at_work(device_pool):
            problem = resolve(self, oracle, structure, leaves, target, baseline, device_pool)
            independence.require(problem)
            return problem

    @contextlib.contextmanager
    def at_work(self, device_pool: DevicePool) -> Iterator[None]:
        """A context in which the model is run as `execution` tells, on the first of its devices."""
        with device_pool.at(), device_pool.backend.inference(self.model):
            yield

    def predict(self, inputs: Any, target: Any = None, fixed: Collection[str] = ()) -> np.ndarray:
        """F(x), by the function that `explain` evaluates at the ends of its path.

        Args:
            inputs: as in `explain`.
            target: as in `explain`.
            fixed: names of the inputs that `explain` is told to hold still, as `Explanation.provenance["fixed"]` lists
                them: integers among them stay integers.

        Returns:
            (n,) or, for several targets, (n, targets), in float64. Costs a forward pass a row.

        Raises:
            ValueError, TypeError: inputs or target do not fit, or F(x) is not finite.
        """
        _, _, prediction = self._predicted(inputs, target, fixed)
        return prediction if targets.is_several(target) else prediction[:, 0]

    def classes(self, inputs: Any, target: Any = "predicted", fixed: Collection[str] = ()) -> np.ndarray:
        """The index (n,) that target="predicted", or a tuple that ends in it, stands for in each row; see `predict`."""
        problem, positions, _ = self._predicted(inputs, target, fixed)
        return np.array(predicted(problem, positions))

    def _predicted(self, inputs: Any, target: Any, fixed: Collection[str]) -> tuple[Problem, np.ndarray, np.ndarray]:
        """The problem of a path from zero, with the positions of its targets and F(x)."""
        structure, leaves = arrays.read(self.model, inputs, lambda i, name: name in fixed)
        problem = self._resolved(structure, leaves, target, 0.0)
        with self.at_work(problem.device_pool):
            return problem, *predict(problem)

    def sum(self, problem: Problem, integrate: Integral) -> Result:
        """The values of every row of a problem, and what is known of their error.

        Args:
            problem: what was given, resolved; nothing is written to it.
            integrate: the integral along its paths.
        """
        raise NotImplementedError

    def __getstate__(self) -> dict[str, Any]:
        """What is compiled is left behind, and made anew; layers are kept by where they stand in the model."""
        state = {k: {} if k in self.COMPILED else v for k, v in vars(self).items()}
        for name in ("output", "moving_sites", "target_layers"):
            state[name] = addresses(self.model, state[name])
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        for name in ("output", "moving_sites", "target_layers"):
            setattr(self, name, at_addresses(self.model, state[name]))

    def __copy__(self) -> Method:
        """Shares what is compiled."""
        other = type(self).__new__(type(self))
        vars(other).update(vars(self))
        return other

    def _oracle(self, structure: Any, leaves: list[Leaf]) -> Oracle:
        kinds = tuple((x.name, x.role, x.array.dtype.str, x.array.shape[1:]) for x in leaves)
        key = str(structure), kinds, self._fill
        if key not in self.oracles:
            how = self.output, self.moving_sites, self.target_layers, self.execution, self._fill
            self.oracles[key] = Oracle(self.model, structure, leaves, *how)
        return self.oracles[key]


signatures.complete(Method)


def _is_fixed(baseline: Any, i: int, name: str) -> bool:
    """Whether a baseline holds input i still."""
    of_input = baseline = baseline.rows if isinstance(baseline, baselines.Weighted) else baseline
    if isinstance(baseline, dict):
        of_input = baseline.get(name)
    elif isinstance(baseline, (list, tuple)):
        of_input = baseline[i] if i < len(baseline) else None
    return isinstance(of_input, str) and of_input == baselines.FIXED
