"""Method: what every method of explaining has, a model, and what of it is explained."""

import contextlib
import inspect
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np

from aumann import backends
from aumann.core import baselines, credits, targets
from aumann.core.paths import straight
from aumann.execution.devices import DevicePool
from aumann.execution.options import settings
from aumann.explain.answer import fingerprint, predicted
from aumann.explain.endpoints import predict
from aumann.explain.explain import explain
from aumann.explain.integral import LEAST_EVALUATIONS
from aumann.explain.problem import resolve
from aumann.model import inputs as arrays
from aumann.model.interception import Site
from aumann.model.layers import addresses, at_addresses, find, find_all
from aumann.model.oracle import Oracle
from aumann.model.signature import is_foreign

TOLERANCE = 0.01
MAX_EVALUATIONS = 2000


class Method:
    """What every method has: a model, what of it is explained, and how many rows it is called with.

    Arguments are those of `IntegratedGradients` that have to do with the model: `output`, `layer`, and of its
    `execution`.
    """

    path = staticmethod(straight)
    credit = staticmethod(credits.share)
    MADE = ("oracles",)  # attributes that hold what is compiled
    complete = True  # whether the values add up to F(x) − F(x′), as far as they are exact
    spans = False  # whether, complete or not, they see the whole path: where all are zero, F cannot change

    def __init__(self, model, *, output=None, layer=None, **execution):
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
        self.places = None if layer is None else find_all(model, layer)
        self.inner = ()
        self.oracles, self._fill = {}, None

    def explain(self, inputs, target=None, baseline=0.0, progress=None):
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

    def problem(self, inputs, target=None, baseline=0.0):
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
        baseline = baselines.made(baseline, inputs)
        structure, leaves = arrays.read(self.model, inputs, lambda i, name: _is_fixed(baseline, i, name))
        baseline = arrays.each_of(baseline, structure, leaves, inputs)
        return self._resolved(structure, leaves, target, baseline)

    def _explained(self, problem, progress, sum=None):
        """(`Explanation`, `Result`) of a problem."""
        with self.at_work(problem.device_pool), ThreadPoolExecutor(1) as background:
            weights = background.submit(fingerprint, self.model)  # while the device is busy
            return problem.oracle.within_memory(explain, problem, weights, progress, sum)

    def _resolved(self, structure, leaves, target, baseline):
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

    def _resolve(self, structure, leaves, target, baseline):
        device_pool = DevicePool(self.execution)
        with device_pool.backend.arithmetic(self.execution.precision):
            oracle = self._oracle(structure, leaves)
        with self.at_work(device_pool):
            return resolve(self, oracle, structure, leaves, target, baseline, device_pool)

    @contextlib.contextmanager
    def at_work(self, device_pool):
        """A context in which the model is run as `execution` tells, on the first of its devices."""
        with device_pool.at(), device_pool.backend.inference(self.model):
            yield

    def predict(self, inputs, target=None, fixed=()):
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

    def classes(self, inputs, target="predicted", fixed=()):
        """The index (n,) that target="predicted", or a tuple that ends in it, stands for in each row; see `predict`."""
        problem, positions, _ = self._predicted(inputs, target, fixed)
        return np.array(predicted(problem, positions))

    def _predicted(self, inputs, target, fixed):
        """The problem of a path from zero, with the positions of its targets and F(x)."""
        structure, leaves = arrays.read(self.model, inputs, lambda i, name: name in fixed)
        problem = self._resolved(structure, leaves, target, 0.0)
        with self.at_work(problem.device_pool):
            return problem, *predict(problem)

    def sum(self, problem, integrate):
        """The values of every row of a problem, and what is known of their error.

        Args:
            problem: `aumann.explain.problem.Problem`.
            integrate: the `aumann.explain.integral.Integral` along its paths.

        Returns:
            `aumann.explain.result.Result`.
        """
        raise NotImplementedError

    def __getstate__(self):
        """What is compiled is left behind, and made anew; layers are kept by where they stand in the model."""
        state = {k: {} if k in self.MADE else v for k, v in vars(self).items()}
        for name in ("output", "places", "inner"):
            state[name] = addresses(self.model, state[name])
        return state

    def __setstate__(self, state):
        vars(self).update(state)
        for name in ("output", "places", "inner"):
            setattr(self, name, at_addresses(self.model, state[name]))

    def __copy__(self):
        """Shares what is compiled."""
        other = type(self).__new__(type(self))
        vars(other).update(vars(self))
        return other

    def _oracle(self, structure, leaves):
        kinds = tuple((x.name, x.role, x.array.dtype.str, x.array.shape[1:]) for x in leaves)
        key = str(structure), kinds, self._fill
        if key not in self.oracles:
            how = self.output, self.places, self.inner, self.execution, self._fill
            self.oracles[key] = Oracle(self.model, structure, leaves, *how)
        return self.oracles[key]


def _is_fixed(baseline, i, name):
    each = baseline = baseline.rows if isinstance(baseline, baselines.Weighted) else baseline
    if isinstance(baseline, dict):
        each = baseline.get(name)
    elif isinstance(baseline, (list, tuple)):
        each = baseline[i] if i < len(baseline) else None
    return isinstance(each, str) and each == baselines.FIXED


def tolerance_or(word, given, tolerance, max_evaluations, usual):
    """The tolerance, the usual one if none was named; None where what is given instead fixes the cost."""
    if given is not None:
        if tolerance is None and max_evaluations is None:
            return None
        raise ValueError(
            f"Expected {word} or a tolerance, received {word}={given!r} with "
            + (f"tolerance={tolerance!r}" if tolerance is not None else f"max_evaluations={max_evaluations!r}")
            + f". With {word} the cost is fixed, with a tolerance the error: leave one of them out."
        )
    tolerance = usual if tolerance is None else tolerance
    if isinstance(tolerance, bool) or not isinstance(tolerance, (int, float, np.number)) or not tolerance > 0:
        raise ValueError(
            f"Expected a tolerance > 0, the relative error that the values of a row may have; received {tolerance!r}. "
            "Give for example 0.01."
        )
    return float(tolerance)


def _max_evaluations(most):
    if isinstance(most, bool) or not isinstance(most, (int, np.integer)) or most < LEAST_EVALUATIONS:
        raise ValueError(
            f"Expected max_evaluations to be a whole number ≥ {LEAST_EVALUATIONS}, the gradients of the two sums whose "
            f"difference gives the first error; received {most!r}. Give for example {MAX_EVALUATIONS}."
        )
    return int(most)


def whole(number, least, name, example):
    """An argument that counts something."""
    if isinstance(number, bool) or not isinstance(number, (int, np.integer)) or number < least:
        raise ValueError(
            f"Expected {name} to be a whole number ≥ {least}, received {number!r}. Give for example {example}."
        )
    return int(number)
