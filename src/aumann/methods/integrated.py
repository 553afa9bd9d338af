"""Methods: each a short sentence over path × credit × rule × oracle × target."""

import contextlib
import inspect
from concurrent.futures import ThreadPoolExecutor

import keras
import numpy as np

from aumann import backends
from aumann.core import baselines, credits, targets
from aumann.core.paths import Blur, straight
from aumann.core.quadrature import Rule, right
from aumann.execution.devices import DevicePool
from aumann.execution.options import settings
from aumann.explain.explain import LEAST_EVALUATIONS, Call, fingerprint
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
        call = self.call(inputs, target, baseline, progress)
        with self.at_work(call.device_pool), ThreadPoolExecutor(1) as aside:
            weights = aside.submit(fingerprint, self.model)  # while the device is busy
            return call.oracle.within_memory(call.explanation, weights)

    def call(self, inputs, target=None, baseline=0.0, progress=None):
        """What `explain` is given, resolved and checked: an `aumann.explain.explain.Call`."""
        if backends.active().staging():
            raise ValueError(
                "Expected a call of explain() with numbers, received one inside of a function that is being traced or "
                "compiled. Call it outside of that function; inside of a loss use aumann.attribution."
            )
        baseline = baselines.made(baseline, inputs)
        structure, leaves = arrays.read(self.model, inputs, lambda i, name: _is_fixed(baseline, i, name))
        baseline = arrays.each_of(baseline, structure, leaves, inputs)
        return self._call(structure, leaves, target, baseline, progress)

    def _call(self, structure, leaves, target, baseline, progress):
        """A model that declares how many rows it takes is called with any number, unless that fails."""
        rows = arrays.declared_rows(self.model)
        try:
            return self._called(structure, leaves, target, baseline, progress)
        except ValueError:
            if rows is None or self._fill is not None:
                raise
        self._fill = rows
        try:
            return self._called(structure, leaves, target, baseline, progress)
        except BaseException:
            self._fill = None
            raise

    def _called(self, structure, leaves, target, baseline, progress):
        device_pool = DevicePool(self.execution)
        with device_pool.backend.arithmetic(self.execution.precision):
            oracle = self._oracle(structure, leaves)
        with self.at_work(device_pool):
            return Call(self, oracle, structure, leaves, target, baseline, progress, device_pool)

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
        structure, leaves = arrays.read(self.model, inputs, lambda i, name: name in fixed)
        call = self._call(structure, leaves, target, 0.0, None)
        with self.at_work(call.device_pool):
            _, prediction = call._predict()
        return prediction if targets.is_several(target) else prediction[:, 0]

    def classes(self, inputs, target="predicted", fixed=()):
        """The index (n,) that target="predicted", or a tuple that ends in it, stands for in each row; see `predict`."""
        structure, leaves = arrays.read(self.model, inputs, lambda i, name: name in fixed)
        call = self._call(structure, leaves, target, 0.0, None)
        with self.at_work(call.device_pool):
            call.index, _ = call._predict()
        return np.array(call.predicted)

    def sum(self, call):
        """`refinement.Refined`: the values of every row of a call, and what is known of their error."""
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


class IntegratedGradients(Method):
    """Integrated gradients: φᵢ = (xᵢ − x′ᵢ) ∫₀¹ ∂ᵢF(x′ + t (x − x′)) dt, Aumann–Shapley values of the features.

    Every row is refined until its estimated relative L1 error is below the tolerance: on networks with kinks (ReLU and
    its kin, max-pooling) by secants over more and more cells, on smooth ones by derivatives, each of which is used
    again (`aumann.core.refinement`; docs/exactness.md says what the error promises). With a rule, the cost is fixed
    instead: `len(rule)` gradients a row and baseline, whatever error that leaves. Besides, two forward passes a row,
    and memory in proportion to `batch_size`. The model is never changed and never trains: inference mode throughout.

    Args:
        model: a built Keras 3 model or layer (Sequential, Functional, subclassed, nested), a function of tensors of the
            active framework, a `torch.nn.Module` on the torch backend, or `aumann.backends.pytensor.Graph`.
        output: which output tensor is explained: None for all, a name, an index, or "logits" for what stands before a
            final softmax or sigmoid.
        layer: name, object or list of those: attribute at that layer's output instead of at the input which it reads.
            Integer ids are attributed at their Embedding without asking.
        tolerance: relative L1 error of a row's values at which it is done, 0.01 unless a rule is given.
        max_evaluations: gradients spent on a row and baseline at most; rows that would need more are named in one
            warning, and `Explanation.converged` tells them.
        rule: nodes and weights of the integral, as `aumann.gauss_legendre(50)`, in place of a tolerance.
        path: how to get from the baseline to the input: straight on unless given. An `aumann.Polyline`, an
            `aumann.Blur`, or a function (start, end, t) -> point, or -> (point, velocity), in operators or keras.ops;
            start is (1|S, 1|M, *row), end (S, 1, *row), t (S, M, 1, …), point (S, M, *row). For several inputs a list
            or dict like them gives each its own; one left out of a dict goes straight.
        execution: how the model is run, as fields of `aumann.execution.options.ExecutionOptions`: `batch_size`,
            `compile`, `precision`, `devices`.

    Source: Sundararajan, Taly, Yan (2017), Axiomatic Attribution for Deep Networks.
    """

    bends = True  # whether it is defined on other paths than the straight one
    spans = True

    def __init__(
        self,
        model,
        *,
        output=None,
        layer=None,
        tolerance=None,
        max_evaluations=None,
        rule=None,
        path=straight,
        **execution,
    ):
        super().__init__(model, output=output, layer=layer, **execution)
        if rule is not None and not isinstance(rule, Rule):
            raise TypeError(f"Expected a rule, received {rule!r}. Give one such as aumann.gauss_legendre(50).")
        if path is not straight and not self.bends:
            raise ValueError(
                f"Expected {type(self).__name__} to go straight, as it is defined; received path={path!r}. Leave path= "
                "out, or take IntegratedGradients or MeanGradient."
            )
        self.rule, self.path = rule, _path(path)
        self.tolerance = tolerance_or("rule", rule, tolerance, max_evaluations, TOLERANCE)
        self.max_evaluations = _max_evaluations(MAX_EVALUATIONS if max_evaluations is None else max_evaluations)

    def sum(self, call):
        return call.refined(self.tolerance, self.max_evaluations) if self.rule is None else call.fixed(self.rule)


class BlurIntegratedGradients(IntegratedGradients):
    """Integrated gradients along the path of `Blur`, from the most blurred input to the input itself.

    For images (n, height, width, channels), signals (n, length, channels) or (n, length), and volumes. No baseline is
    given: F(x′) is F of the most blurred input. Of several inputs every one is blurred; to blur one of them, give
    `IntegratedGradients(model, path={"image": aumann.Blur(50)})`. Cost, arguments and tolerance as for
    `IntegratedGradients`.

    Args:
        sigma: width of the Gaussian at the start of the path, in pixels or samples.
        axes: which axes of a row are blurred, all but the channels unless given: see `Blur`.

    Source: Xu, Venugopalan, Sundararajan (2020), Attribution in Scale and Space.
    """

    def __init__(self, model, *, sigma=50.0, axes=None, **options):
        if "path" in options:
            raise TypeError(
                f"Expected no path, since this is the method of one, received path={options['path']!r}. Leave it out, "
                "or take IntegratedGradients(model, path=…)."
            )
        super().__init__(model, path=Blur(sigma, axes), **options)


class ImportantDirectionGradients(IntegratedGradients):
    """Important direction gradient integration (IDGI): φᵢ = ∫₀¹ (∂ᵢF)² / ‖∇F‖² dF, gains shared by squared slopes.

    Where the path runs across the gradient nothing is gained, and no feature gets anything for it: noise that
    integrated gradients leave to cancel does not arise. All features of all inputs count together in ‖∇F‖, so their
    units must be comparable. Complete like `IntegratedGradients`; nothing is shared out where ∇F = 0. A feature may
    have a value though it does not differ from its baseline. Of a set of baselines, the weighted mean. Cost,
    arguments and tolerance as for `IntegratedGradients`.

    The source sums (∂ᵢF)² / ‖∇F‖² · (F(tₖ₊₁) − F(tₖ)) over the points of a given attribution; this is the integral that
    such sums tend to, dF being γ' · ∂F, or over cells the secant's.

    Source: Yang, Wang, Bilgic (2023), IDGI: A Framework to Eliminate Explanation Noise from Integrated Gradients.
    """

    credit = staticmethod(credits.important)


class IntegratedDecisionGradients(IntegratedGradients):
    """φᵢ = ∫₀¹ (dF/dt) γᵢ' ∂ᵢF dt: integrated gradients that weigh each point by how fast F changes there.

    What happens where F is saturated counts little, what happens where the decision falls counts much. In units of F
    squared and not complete: Σφ = ∫ (dF/dt)² dt, and `residual` is the difference to F(x) − F(x′). Of a set of
    baselines, the weighted mean. Cost, arguments and tolerance as for `IntegratedGradients`, whose refinement puts
    points where they are needed, in place of the source's adaptive sampling.

    Source: Walker, Jha, Chen, Ewetz (2024), Integrated Decision Gradients: Compute Your Attributions Where the Model
    Makes Its Decision.
    """

    credit = staticmethod(credits.decisive)
    complete = False


class MeanGradient(IntegratedGradients):
    """The mean gradient on the path, ∫₀¹ ∇F(x′ + t (x − x′)) dt, in units of F per unit of the feature.

    Integrated gradients before the factor x − x′: what a change of basis (`aumann.bases`) or a sensitivity needs.
    Of a set of baselines, the weighted mean. Cost, arguments and tolerance as for `IntegratedGradients`; the
    values are not complete, and `residual` is their sum against F(x) − F(x′).
    """

    credit = staticmethod(credits.slope)
    complete = False


class HypotheticalContributions(IntegratedGradients):
    """What each letter would be worth at each place of a one-hot sequence, ∫₀¹ (∂_c F − Σₖ x′ₖ ∂ₖF) dt.

    Inputs (n, …, length, letters), letters on the last axis. At the row's own letter this is what integrated gradients
    give all letters of the position together; of a set of baselines the weighted mean. Cost, arguments and tolerance as
    for `IntegratedGradients`.

    Source: Shrikumar et al. (2020), TF-MoDISco, where DeepLIFT's multipliers stand for the mean gradient.
    """

    credit = staticmethod(credits.hypothetical)
    complete = False
    bends = False


class InputXGradient(Method):
    """(x − x′) ∘ ∇F(x): integrated gradients by the gradient at the input alone. One gradient a row and baseline.

    Complete only where F is linear; `residual` tells how far it is from that. Arguments: `output`, `layer`,
    `execution`, as for `IntegratedGradients`.

    Source: Shrikumar et al. (2016), Not Just a Black Box.
    """

    complete = False

    def sum(self, call):
        return call.fixed(right(1))


class Saliency(InputXGradient):
    """∇F(x), signed: a path of one point, the input. One gradient a row. Take np.abs of the values for the magnitude.

    Arguments: `output`, `layer`, `execution`, as for `IntegratedGradients`.

    Source: Simonyan, Vedaldi, Zisserman (2013), Deep Inside Convolutional Networks.
    """

    credit = staticmethod(credits.slope)


def _is_fixed(baseline, i, name):
    each = baseline = baseline.rows if isinstance(baseline, baselines.Weighted) else baseline
    if isinstance(baseline, dict):
        each = baseline.get(name)
    elif isinstance(baseline, (list, tuple)):
        each = baseline[i] if i < len(baseline) else None
    return isinstance(each, str) and each == baselines.FIXED


def _path(path):
    """A path, or a list or dict of them."""
    for each in path.values() if isinstance(path, dict) else path if isinstance(path, (list, tuple)) else [path]:
        if not callable(each) or inspect.isclass(each):
            raise TypeError(
                f"Expected a path, a function (start, end, t) -> point, received {each!r:.80}. For points to pass on "
                "the way give aumann.Polyline(points)."
            )
    return path


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
