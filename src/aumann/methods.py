"""Methods: each a short sentence over path × rule × oracle × target."""

import hashlib
import inspect
import warnings
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version

import keras
import numpy as np
from keras import ops, tree

from aumann import backends
from aumann import inputs as arrays
from aumann.core import baselines, engine, refinement, targets
from aumann.core.paths import straight
from aumann.core.rules import Rule, gauss_legendre, trapezoid
from aumann.core.secant import ROUNDING
from aumann.explanation import Explanation
from aumann.oracle import Oracle, embeddings, no_embedding, operations
from aumann.progress import Tally, reporter

TOLERANCE = 0.01
MAX_EVALUATIONS = 2000
LEAST_EVALUATIONS = 9  # of the first two sums of secants


class CompletenessWarning(UserWarning):
    """Rows whose values do not add up to F(x) − F(x′), or are not finite."""


class ToleranceWarning(UserWarning):
    """Rows whose estimated error is above the tolerance, all gradients that may be spent on them being spent."""


class IntegratedGradients:
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
        batch_size: rows per model call, counted in path points; "auto" sizes it by the model's activations.

    Source: Sundararajan, Taly, Yan (2017), Axiomatic Attribution for Deep Networks.
    """

    path = staticmethod(straight)

    def __init__(
        self,
        model,
        *,
        output=None,
        layer=None,
        tolerance=None,
        max_evaluations=None,
        rule=None,
        batch_size="auto",
    ):
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
        if rule is not None and not isinstance(rule, Rule):
            raise TypeError(f"Expected a rule, received {rule!r}. Give one such as aumann.gauss_legendre(50).")
        if rule is not None and (tolerance is not None or max_evaluations is not None):
            raise ValueError(
                f"Expected a rule or a tolerance, received rule={rule.name} with "
                + (f"tolerance={tolerance!r}" if tolerance is not None else f"max_evaluations={max_evaluations!r}")
                + ". A rule fixes the cost and a tolerance the error: leave one of them out."
            )
        if batch_size != "auto" and (
            isinstance(batch_size, bool) or not isinstance(batch_size, (int, np.integer)) or batch_size < 1
        ):
            raise ValueError(
                f'Expected batch_size="auto" or a whole number ≥ 1, received {batch_size!r}. '
                "Leave it out, or lower it where memory runs short."
            )
        self.model, self.output, self.rule, self.batch_size = model, output, rule, batch_size
        self.tolerance = None if rule is not None else _tolerance(TOLERANCE if tolerance is None else tolerance)
        self.max_evaluations = _max_evaluations(MAX_EVALUATIONS if max_evaluations is None else max_evaluations)
        self.layers = _find_layers(model, layer)
        self._oracles = {}

    def explain(self, inputs, target=None, baseline=0.0, progress=None):
        """Attributions of every input feature of every row.

        Args:
            inputs: array-like (n, …), or a list, tuple or dict of those, as the model takes them: NumPy, tensors,
                DataFrames. Integer features are cast to float before anything is subtracted.
            target: which scalar of the outputs is F. None where the model has one output unit; an int; an array with
                one int per row; "predicted"; a tuple index into outputs of more than one axis, or (output, *index);
                a callable outputs -> (n,); a list of those, or "all", for several from the same forward passes.
            baseline: where the path starts: a constant, a row, one row per row, `aumann.baselines.weighted(rows)`, a
                callable inputs -> baseline, or "fixed" for an input that must not move; a list or dict for several
                inputs. For integer ids an integer is a token id, a float a constant of the embedding.
            progress: True for a bar, or a callable (gradients done, gradients known to be needed so far).

        Returns:
            `aumann.Explanation`, whose fields mirror the structure of `inputs`.

        Raises:
            ValueError, TypeError: inputs, target or baseline do not fit; nothing has been changed.
        """
        if callable(baseline) and not isinstance(baseline, type):
            baseline = baseline(inputs)
        structure, leaves = arrays.read(self.model, inputs, lambda i, name: _is_fixed(baseline, i, name))
        oracle = self._oracle(structure, leaves)
        rows = len(leaves[0].array)
        with oracle.backend.inference(self.model), ThreadPoolExecutor(1) as aside:
            weights = aside.submit(fingerprint, self.model)  # while the device is busy
            return _Run(self, oracle, structure, leaves, rows, target, baseline, progress).explanation(weights)

    def _oracle(self, structure, leaves):
        key = str(structure), tuple((x.name, x.role, x.array.dtype.str, x.array.shape[1:]) for x in leaves)
        if key not in self._oracles:
            layers = embeddings(self.model) if self.layers is None else self.layers
            self._oracles[key] = Oracle(self.model, structure, leaves, self.output, layers)
        return self._oracles[key]


class _Run:
    """One call of `explain`: resolve, evaluate the ends, integrate, account."""

    def __init__(self, method, oracle, structure, leaves, rows, target, baseline, progress):
        self.method, self.oracle, self.structure, self.leaves, self.rows = method, oracle, structure, leaves, rows
        self.target, self.progress = target, progress
        self.rule = method.rule
        if self.rule is not None and self.rule.cells and oracle.opaque:
            self.rule = self.rule.middles()
        self.arrays = [leaf.array for leaf in leaves]
        self.batch_size = _batch_size(method.batch_size, oracle)
        self.functions = targets.callables(target)
        self.columns = targets.resolve(target, oracle.outputs, oracle.several_outputs, rows)
        _refuse_integer_outputs(self.columns, oracle)
        self.starts = self._starts(baseline)

    def explanation(self, weights):
        o = self.oracle
        index, prediction = self._predict()
        base_value = self._base_value(index)
        if not np.isfinite(base_value).all():
            bad = np.flatnonzero(~np.isfinite(base_value).all(1))
            raise ValueError(
                "Expected finite predictions at the baseline, received NaN or infinity from the model for the "
                f"baselines of rows {arrays.brief(bad)}. Choose a baseline= where the model is defined."
            )
        self.work = engine.Work(self.rows, self._load, self.starts, index, self.rule, o.shapes, o.dtype)
        change = prediction - base_value, self._noise(prediction, base_value)
        with reporter(self.progress) as self.tally:
            done = self._refined(change) if self.rule is None else self._fixed()
        self.tally = Tally(lambda done, expected: None)  # for what is looked up from here on
        found = done.values
        total = sum(v.sum(axis=tuple(range(2, v.ndim)), dtype=np.float64) for v in found)
        mass = sum(np.abs(v).sum(axis=tuple(range(2, v.ndim)), dtype=np.float64) for v in found)
        residual = total - (prediction - base_value)
        self._refuse_silent_integers(found, index, prediction)
        self._refuse_steps(found, np.abs(prediction - base_value).max(1))
        self._judge(done, residual, mass, prediction, base_value)
        one = (lambda a: a) if targets.is_several(self.target) else (lambda a: a[:, 0])
        return Explanation(
            values=self._pack([one(v) for v in self._values(found)]),
            inputs=self._pack(self.arrays),
            baseline=self._pack(self._baselines()),
            prediction=one(prediction),
            base_value=one(base_value),
            residual=one(residual),
            **self._errors(done, one),
            evaluations=done.evaluations,
            names=self._names(),
            provenance=self._provenance(weights.result()),
        )

    # ---- the integral ------------------------------------------------------------------------------------------

    def _integrate(self, rows, rule):
        """Sums of some rows by a rule: for each point (rows, targets, *row)."""
        o, work = self.oracle, self.work.of(rows, rule)
        dynamic = o.backend.dynamic(rule.cells)
        once = self.rule is not None or o.backend.dynamic(False)
        step = o.compiled("step", self.functions, self.method.path, len(self.columns), rule.cells, once)
        self.tally.expect(work.rows * work.points)
        return engine.integrate(step, work, self.batch_size, dynamic, o.backend.host, self.tally)

    def _fixed(self):
        values = self._integrate(np.arange(self.rows), self.rule)
        return refinement.Refined(values, None, None, np.full(self.rows, self.work.points))

    def _refined(self, change):
        """To the tolerance: by secants where there are kinks or where no derivative exists at an end of the path."""
        method, rounding, self.sums = self.method, self._rounding(), []

        def refine(sums, rows, spent=0):
            self.sums.append(sums.name)
            own = [c[rows] for c in change]
            with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is told below
                return refinement.refine(sums, rows, own, method.tolerance, method.max_evaluations - spent, rounding)

        rows, kinked = np.arange(self.rows), self.oracle.kinked(self.functions)
        secants = refinement.secants(self._integrate)
        if kinked:
            done = refine(secants, rows)
        else:
            done = refine(refinement.trapezoids(self._integrate, order=2 if kinked is None else 4), rows)
            lost = rows[~np.isfinite(done.error).all(1)]
            if kinked is False and len(lost):
                singular = self._singular(lost)
                done.evaluations[lost] += 2
                spent = int(done.evaluations[lost].max())
                if len(singular) and spent + LEAST_EVALUATIONS <= method.max_evaluations:
                    done.put(singular, refine(secants, singular, spent))
        done.evaluations *= self.starts.count
        return done

    def _rounding(self):
        """Relative error of values that is there whatever is done: of the sums, or of half precision inside."""
        inside = getattr(self.oracle.model, "compute_dtype", None)
        return max(16 * ROUNDING[self.oracle.dtype], 2 * ROUNDING.get(inside, 0))

    def _noise(self, prediction, base_value):
        """How well F(x) − F(x′) is known: both ends are rounded."""
        return 2 * self._rounding() * np.maximum(np.abs(prediction), np.abs(base_value))

    def _singular(self, rows):
        """Those of some rows that have no finite derivative at an end of the path."""
        sizes = [refinement.size(v) for v in self._integrate(rows, trapezoid(2))]
        return rows[~np.isfinite(sum(sizes)).all(1)]

    def _errors(self, done, one):
        """What is known of the error: nothing, for a rule."""
        if done.error is None:
            return {}
        found = {"error": one(done.error), "converged": one(done.error <= self.method.tolerance)}
        if len(self.leaves) > 1:
            found["input_error"] = self._pack([one(e) for e in self._part_errors(done)])
        return found

    def _part_errors(self, done):
        """For every leaf (n, targets): the error of its own values, which may be those of several points."""
        points = [*self.oracle.moving, *(r.leaf for r in self.oracle.readings)]
        sizes = [refinement.size(v) for v in done.values]
        off, mass = (np.zeros((len(self.leaves), self.rows, len(self.columns))) for _ in range(2))
        for i, part, size in zip(points, done.parts, sizes, strict=True):
            off[i] += part * size
            mass[i] += size
        return np.divide(off, mass, out=np.zeros_like(off), where=mass > 0)

    def _judge(self, done, residual, mass, prediction, base_value):
        """What must be said about the numbers: not finite, not as exact as was asked for, or not complete."""
        bad = np.flatnonzero(~np.isfinite(mass).all(1))
        if len(bad):
            warnings.warn(
                f"The gradient is not finite {self._where_not_finite(bad[0])} on the path of row {bad[0]}, and the "
                f"values of rows {arrays.brief(bad)} hold NaN or infinity. Move the baseline away from where the model "
                "is not differentiable.",
                CompletenessWarning,
                stacklevel=4,
            )
        if done.error is not None:
            self._name_the_inexact(done)
            return
        noise = self._noise(prediction, base_value)
        loose = np.flatnonzero((np.abs(residual) > np.maximum(0.05 * mass, noise)).any(1))
        if len(loose):
            warnings.warn(
                f"The values of rows {arrays.brief(loose)} miss F(x) − F(x′) by more than 5 % of their mass; see "
                "Explanation.residual. Use more nodes, or a tolerance in place of a rule.",
                CompletenessWarning,
                stacklevel=4,
            )

    def _name_the_inexact(self, done):
        worst = np.where(np.isfinite(done.error), done.error, -1).max(1)
        rows = np.flatnonzero(worst > self.method.tolerance)
        if len(rows):
            row = worst.argmax()
            warnings.warn(
                f"Rows {arrays.brief(rows)} did not reach the tolerance {self.method.tolerance:g} within "
                f"max_evaluations={self.method.max_evaluations}; the largest estimated error is {worst[row]:.2g}, of "
                f"row {row}. Raise max_evaluations= or tolerance=, or choose a nearer baseline; see Explanation.error.",
                ToleranceWarning,
                stacklevel=5,
            )

    def _where_not_finite(self, row):
        """The first place on the path of a row, of those looked at, without a finite gradient."""
        for t in np.linspace(0, 1, 65) if self.rule is None else self.rule.nodes:
            found = self._integrate(np.array([row]), Rule(f"at {t:g}", [t], [1.0], 0))
            if not all(np.isfinite(v).all() for v in found):
                return f"at t = {t:.3g}"
        return "somewhere"

    # ---- the ends ----------------------------------------------------------------------------------------------

    def _load(self, rows):
        return self.oracle.load([a[rows] for a in self.arrays])

    def _predict(self):
        """Positions of the targets (1 or n, targets) and F(x) (n, targets)."""
        n, k = self.rows, len(self.columns)
        wide = any(c.positions is None or len(c.positions) > 1 for c in self.columns)
        index = np.zeros((n if wide else 1, k), np.int64)
        for j, column in enumerate(self.columns):
            if column.positions is not None:
                index[:, j] = column.positions
        prediction = np.empty((n, k))
        for rows, flat in self._outputs(n, self._load):
            for j, column in enumerate(self.columns):
                if column.positions is None:
                    index[rows, j] = flat[:, : self.oracle.outputs[0].size].argmax(1)
            prediction[rows] = np.take_along_axis(flat, index[rows] if wide else index, 1)
        if not np.isfinite(prediction).all():
            bad = np.flatnonzero(~np.isfinite(prediction).all(1))
            raise ValueError(
                f"Expected finite predictions, received NaN or infinity from the model for rows {arrays.brief(bad)}. "
                "Check these inputs and the model's weights."
            )
        return index, prediction

    def _base_value(self, index):
        """Σⱼ wⱼ F(x′ⱼ): (n, targets)."""
        n, m = self.rows, self.starts.count
        if self.starts.shared and not self.oracle.held:
            unique, inverse = np.unique(index, return_inverse=True)
            values = np.empty((m, len(unique)))
            for rows, flat in self._outputs(m, lambda j: (self._start_points(np.zeros_like(j), j), [])):
                values[rows] = flat[:, unique]
            mean = np.broadcast_to(self.starts.weights @ values, (n, len(unique)))
            own = np.broadcast_to(inverse.reshape(index.shape), (n, index.shape[1]))
            return np.take_along_axis(mean, own, 1)
        values = np.empty((n * m, index.shape[1]))

        def load(pairs):
            i, j = pairs // m, pairs % m
            _, side = self._load(i)
            return self._start_points(i, j), side

        for pairs, flat in self._outputs(n * m, load):
            own = index if len(index) == 1 else index[pairs // m]
            values[pairs] = np.take_along_axis(flat, own, 1)
        return np.einsum("nmk,nm->nk", values.reshape(n, m, -1), np.broadcast_to(self.starts.weights, (n, m)))

    def _start_points(self, i, j):
        """Baselines j of rows i as full rows on the device."""
        points = []
        for start, shape in zip(self.starts.points, self.oracle.shapes, strict=True):
            rows = start[i if len(start) > 1 else np.zeros_like(i), j if start.shape[1] > 1 else np.zeros_like(j)]
            full = np.broadcast_to(rows, (len(i), *shape))
            points.append(ops.convert_to_tensor(np.ascontiguousarray(full, self.oracle.dtype)))
        return points

    def _outputs(self, count, load):
        """(rows, outputs as a host array (rows, positions)) over batches."""
        flat = self.oracle.compiled("flat", self.functions)
        for rows, real in engine.groups(count, min(self.batch_size, max(count, 1)), self.oracle.backend.dynamic(False)):
            out = self.oracle.backend.host(flat(*load(rows)))
            yield rows[:real], np.asarray(out, np.float64)[:real]

    def _refuse_silent_integers(self, found, index, prediction):
        """Integers that change F while no gradient reaches them pass through an integer operation."""
        for k, i in enumerate(self.oracle.moving):
            if self.oracle.kinds[i] not in "iu" or found[k].any():
                continue

            def load(rows, k=k):
                ends, side = self._load(rows)
                ends[k] = self._start_points(rows, np.zeros_like(rows))[k]
                return ends, side

            for rows, flat in self._outputs(self.rows, load):
                own = index if len(index) == 1 else index[rows]
                if (np.take_along_axis(flat, own, 1) != prediction[rows]).any():
                    raise TypeError(no_embedding(self.oracle.names[i]))

    def _refuse_steps(self, found, change):
        """An output that changes on a path where no gradient is found, however closely one looks, is made of steps."""
        if any(v.any() for v in found) or not change.any():
            return
        if not any(v.any() for v in self._integrate(change.argmax()[None], gauss_legendre(256))):
            raise ValueError(
                "Expected a differentiable output, received one that changes between baseline and input while every "
                "gradient on the path is exactly zero (as rounding or a comparison give). Explain the score before it."
            )

    # ---- baselines ---------------------------------------------------------------------------------------------

    def _starts(self, baseline):
        o, rows = self.oracle, self.rows
        given, weights = self._split(baseline)
        points = []
        for i in o.moving:
            value, is_set = given[i]
            points.append(baselines.broadcast(value, is_set, self.arrays[i].shape[1:], rows, o.names[i]))
        for reading in o.readings:
            points.append(self._read_start(reading, *given[reading.leaf]))
        counts = {p.shape[1] for p in points} - {1}
        m = max(counts, default=1)
        if len(counts) > 1 or (weights is not None and weights.shape[-1] != m):
            raise ValueError(
                f"Expected as many weights as baselines in every input, received {sorted(counts)} baselines"
                + (f" and weights of shape {weights.shape}" if weights is not None else "")
                + ". Row j of every input belongs together."
            )
        weights = np.full((1, m), 1 / m) if weights is None else np.atleast_2d(weights)
        if len(weights) not in (1, rows):
            raise ValueError(
                f"Expected weights of shape (m,) or ({rows}, m), received {weights.shape}. Give one set for each row."
            )
        return baselines.Starts(points, weights)

    def _split(self, baseline):
        kind = "dict" if isinstance(self.structure, dict) else "leaf" if len(self.leaves) == 1 else "list"
        if hasattr(baseline, "columns") and hasattr(baseline, "to_numpy"):
            baseline = baseline.to_numpy()
        if isinstance(self.structure, (list, tuple)) and kind == "leaf" and isinstance(baseline, (list, tuple)):
            kind = "list"
        given, weights = baselines.split(baseline, self.oracle.names, kind)
        clean = []
        for (value, is_set), role, name in zip(given, self.oracle.roles, self.oracle.names, strict=True):
            if role != baselines.FIXED and not (np.isscalar(value) or value is None or callable(value)):
                value, _ = arrays.to_array(value, f"the baseline of input {name!r}")
            clean.append((value, is_set))
        return clean, weights

    def _read_start(self, reading, value, is_set):
        """A read input's baseline as points of the layer: given there, or as inputs that the layer reads.

        For integer ids a float constant is one of the embedding; for floats a constant is one of the input.
        """
        o, i = self.oracle, reading.leaf
        array = np.asarray(value)
        row = self.arrays[i].shape[1:]
        constant = array.shape == ()
        ids = self.arrays[i].dtype.kind in "iu" or isinstance(reading.layer, keras.layers.Embedding)
        above = constant and ids and array.dtype.kind == "f"
        if above or (not constant and array.shape[-len(row) :] != row):
            return baselines.broadcast(value, is_set, reading.shape, self.rows, o.names[i])
        if ids and array.dtype.kind == "f":
            raise TypeError(
                f"Expected integer token ids as the baseline of input {o.names[i]!r}, received dtype {array.dtype}. "
                f"Give ids, or an array of the layer's own shape {reading.shape}."
            )
        below = baselines.broadcast(value, is_set, row, self.rows, o.names[i])
        below = np.broadcast_to(below, (*below.shape[:2], *row)).astype(self.arrays[i].dtype)
        a, m = below.shape[:2]
        k = len(o.moving) + o.readings.index(reading)
        out = np.empty((a * m, *reading.shape), o.dtype)
        for pairs, real in engine.groups(a * m, self.batch_size, o.backend.dynamic(False)):
            fed = [x[pairs // m] for x in self.arrays]
            fed[i] = below[pairs // m, pairs % m]
            out[pairs[:real]] = o.backend.host(o.load(fed)[0][k])[:real]
        return out.reshape(a, m, *reading.shape)

    # ---- the account -------------------------------------------------------------------------------------------

    def _values(self, found):
        """Values of every leaf: exact zeros where nothing moved, layers side by side where several read one leaf."""
        o = self.oracle
        k = len(self.columns)
        by_leaf = {i: [found[j]] for j, i in enumerate(o.moving)}
        for j, reading in enumerate(o.readings):
            by_leaf.setdefault(reading.leaf, []).append(found[len(o.moving) + j])
        values = []
        for i, array in enumerate(self.arrays):
            parts = by_leaf.get(i)
            if parts is None:
                parts = [np.zeros((self.rows, k, *array.shape[1:]), o.dtype)]
            values.append(parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1))
        return values

    def _baselines(self):
        o = self.oracle
        by_leaf = {i: [self.starts.points[j]] for j, i in enumerate(o.moving)}
        for j, reading in enumerate(o.readings):
            by_leaf.setdefault(reading.leaf, []).append(self.starts.points[len(o.moving) + j])
        out = []
        for i, array in enumerate(self.arrays):
            parts = by_leaf.get(i, [np.zeros((1, 1), o.dtype)] if o.roles[i] != baselines.FIXED else [array[:, None]])
            if len(parts) > 1:  # layers side by side, as their values
                lead = np.broadcast_shapes(*(p.shape[:2] for p in parts))
                shapes = [r.shape for r in o.readings if r.leaf == i]
                parts = [np.broadcast_to(p, (*lead, *s)) for p, s in zip(parts, shapes, strict=True)]
            start = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)
            out.append(start[:, 0] if self.starts.count == 1 else start)
        return out

    def _pack(self, leaves):
        packed = tree.pack_sequence_as(self.structure, leaves)
        return {k: packed[k] for k in self.structure} if type(packed) is dict else packed  # the user's own order

    def _names(self):
        names = {"targets": [c.name for c in self.columns], "outputs": [x.name for x in self.oracle.outputs]}
        if any(leaf.features for leaf in self.leaves):
            names["features"] = self._pack([leaf.features for leaf in self.leaves])
        return names

    def _provenance(self, weights):
        o = self.oracle
        versions, device = o.backend.describe()
        read = {o.names[r.leaf]: r.layer.name for r in o.readings}
        return {
            "method": type(self.method).__name__,
            **self._exactness(),
            "output": self.method.output if self.method.output is None else str(self.method.output),
            **({"explained": "before the final softmax or sigmoid"} if o.hidden else {}),
            **({"layers": read} if read else {}),
            **({"fixed": f} if (f := [n for n, r in zip(o.names, o.roles, strict=True) if r == "fixed"]) else {}),
            "baselines": self.starts.count,
            "batch_size": self.batch_size,
            "dtype": o.dtype,
            "backend": keras.config.backend(),
            "device": device,
            "versions": {"aumann": version("aumann"), "keras": keras.__version__, "numpy": np.__version__, **versions},
            "model": weights,
        }

    def _exactness(self):
        if self.rule is not None:
            return {"rule": self.rule.name}
        limits = {"tolerance": self.method.tolerance, "max_evaluations": self.method.max_evaluations}
        return {"rule": f"{' and '.join(self.sums)}, refined", **limits}


def fingerprint(model):
    """Name and, for a Keras model, a hash of the weights: the same numbers came from the same model."""
    name = getattr(model, "name", None) or getattr(model, "__name__", type(model).__name__)
    if not isinstance(model, keras.Layer):
        return {"name": str(name)}
    digest = hashlib.blake2b(digest_size=8)
    for v in model.weights:
        digest.update(np.ascontiguousarray(backends.active().host(v.value)).tobytes())
    return {"name": str(name), "weights": digest.hexdigest()}


def _is_fixed(baseline, i, name):
    each = baseline = baseline.rows if isinstance(baseline, baselines.Weighted) else baseline
    if isinstance(baseline, dict):
        each = baseline.get(name)
    elif isinstance(baseline, (list, tuple)):
        each = baseline[i] if i < len(baseline) else None
    return isinstance(each, str) and each == baselines.FIXED


def _find_layers(model, layer):
    """None for "every Embedding", or the layers named."""
    if layer is None:
        return None
    inside = operations(model)
    found = []
    for wanted in layer if isinstance(layer, (list, tuple)) else [layer]:
        same = [x for x in inside if x is wanted or (isinstance(wanted, str) and x.name == wanted)]
        if len(same) != 1:
            raise ValueError(
                f"Expected layer= to name one layer inside the model, received {wanted!r} which names {len(same)}. "
                f"The layers are {[x.name for x in inside][:40]}."
            )
        found += same
    return found


def _batch_size(batch_size, oracle):
    """Rows per call: "auto" is what the backend likes for as many activations."""
    if batch_size != "auto":
        return int(batch_size)
    return max(1, oracle.backend.rows_in_flight(max(1, oracle.width)))


def _refuse_integer_outputs(columns, oracle):
    for column in columns:
        for output, dtype in zip(oracle.outputs, oracle.output_dtypes, strict=True):
            inside = column.positions is None or output.start <= column.positions.flat[0] < output.start + output.size
            if inside and not keras.backend.is_float_dtype(dtype):
                raise ValueError(
                    f"Expected a differentiable output, received {dtype} from output {output.name!r} (as argmax or a "
                    "comparison give). Explain the score before it: choose another output= or target=."
                )


def _tolerance(tolerance):
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
