"""One call of `explain`: resolve what was given, evaluate F at the ends, have a method sum, and account for it."""

import copy
import functools
import hashlib
import math
from importlib.metadata import version

import keras
import numpy as np
from keras import ops, tree

from aumann import backends
from aumann.core import baselines, engine, paths, refinement, targets
from aumann.core.quadrature import Rule, graded_secant, secant, trapezoid
from aumann.core.secant import ROUNDING
from aumann.execution.progress import Tally, reporter
from aumann.explain import independence
from aumann.explain import start_points as starts
from aumann.explanation import Explanation
from aumann.features import tables
from aumann.model import inputs as arrays
from aumann.model.oracle import elsewhere, quantised
from aumann.user_warnings import warn

LEAST_EVALUATIONS = 9  # of the first two sums of secants
PLACES = 64  # at which a gradient is looked for before a model is said to have none
CLOSELY = 256  # gradients that should have seen whatever a gradient shows
BLOCK = 1 << 14  # rows whose accounts are drawn up at a time
ROUNDED = "Quantised layers round what passes them"


class CompletenessWarning(UserWarning):
    """Rows whose values do not add up to F(x) − F(x′), or are not finite."""


class ToleranceWarning(UserWarning):
    """Rows whose estimated error is above the tolerance, all gradients that may be spent on them being spent."""


class Call:
    """One call of `explain`.

    Attributes:
        rows: n, of the inputs.
        row_names: of a table, or None.
        paths: one for each point of the model's input.
        starts: resolved baselines.
        below: by leaf, those that were given as inputs of a layer that reads them.
        at_ends: F(x) and F(x′), each (n, targets).
        exactness: how the values came about, for the provenance: written by whichever sum was taken.
        spans: whether values of zero say that F does not change on the path.
        drawn: whether the baselines are draws from a distribution.
        base_value: F(x′) (n, targets), where it is known beforehand.
        laid: whether paths were laid behind the model's affine prefix; written with the values.
        tolerance: that the error of a row is held against, or None; written with it.
        crew: the devices that it runs on.
        places: t at which the path is searched, should the gradient not be finite somewhere.
        steep: rows whose slope is enormous at an end of the path, as far as that was seen.
    """

    drawn, index, base_value, tolerance, laid, steep = False, None, None, None, False, ()
    places = np.linspace(0, 1, 65)

    def __init__(self, method, oracle, structure, leaves, target, baseline, progress, device_pool):
        self.method, self.oracle, self.structure, self.leaves = method, oracle, structure, leaves
        self.target, self.progress, self.device_pool = target, progress, device_pool
        self.rows = rows = len(leaves[0].array)
        self.arrays = [leaf.array for leaf in leaves]
        self.batch_size = oracle.batch_size
        self.row_names = leaves[0].rows
        self.functions = targets.callables(target)
        for item in target if isinstance(target, list) else [target]:
            if tables.is_row(item):
                tables.same_rows(tables.labels(item), self.row_names, "target")
        self.columns = targets.resolve(target, oracle.outputs, oracle.several_outputs, rows)
        _refuse_integer_outputs(self.columns, oracle)
        self.paths = self._paths()
        self.starts, self.below = starts.resolve(oracle, self.paths, structure, leaves, baseline)
        self._refuse_loose_ends()
        independence.require(self, self._rounding())

    def again(self, arrays, rows):
        """The same call for other values of some rows, whose targets and baselines stay what they are.

        Args:
            arrays: of each leaf (len(rows), *row).
            rows: those whose values they are; a row may come several times.
        """
        if self.base_value is None:
            self.index, _ = self._predict()
            self.base_value = self._base_value(self.index)
        other = self._other(arrays, self.starts.of(rows))
        other.index = None
        other.base_value = self.base_value[rows]
        index = self.index[rows] if len(self.index) > 1 else self.index
        other.columns = [c.of(rows, index[:, j]) for j, c in enumerate(self.columns)]
        other.row_names = None if self.row_names is None else [self.row_names[i] for i in rows]
        return other

    def explanation(self, weights):
        index, prediction = self._predict()
        base_value = self._base_value(index) if self.base_value is None else self.base_value
        if not np.isfinite(base_value).all():
            bad = np.flatnonzero(~np.isfinite(base_value).all(1))
            raise ValueError(
                "Expected finite predictions at the baseline, received NaN or infinity from the model for the "
                f"baselines of rows {arrays.brief(bad)}. Choose a baseline= where the model is defined."
            )
        self.index = index
        self.at_ends = prediction, base_value
        self.cuts = not self.method.complete or self._cuts(prediction)
        whole = self.cuts and not self.oracle.repeats
        self.complete = self.method.complete and whole
        self.spans = self.complete or (self.method.spans and whole)
        with reporter(self.progress) as self.tally:
            done = self.method.sum(self)
        self.tally = Tally(lambda done, expected: None)  # for what is looked up from here on
        found = done.values
        residual, finite, loose, silent = self._account(found)
        for a in (*found, prediction, base_value, residual, done.evaluations, done.error):
            if a is not None:
                a.flags.writeable = False  # an explanation would copy what others can write to
        self._refuse_silent_integers(found, index, prediction)
        self._refuse_steps(silent)
        self._judge(done, residual, finite, loose, silent)
        one = (lambda a: a) if targets.is_several(self.target) else (lambda a: a[:, 0])
        return Explanation(
            **self._mirrors([one(v) for v in found]),
            prediction=one(prediction),
            base_value=one(base_value),
            residual=one(residual),
            **self._errors(done, one),
            evaluations=done.evaluations,
            names=self._names(),
            provenance=self._provenance(weights.result()),
        )

    # ---- the integral ------------------------------------------------------------------------------------------

    def integrate(self, rows, rule, once=False):
        """Sums of some rows by a rule: for each point (rows, targets, *row).

        With `once`, by this rule and no other; else what is compiled serves rules of other lengths.
        """
        o = self.oracle
        work = engine.Work(self.rows, self.load, self._carried, self.index, rule, o.results, o.dtype)
        once = once or o.dynamic(False)
        key = "step", self.functions, self.paths, self.method.credit, len(self.columns), rule.cells, once
        step, pace = o.compiled(*key), o.pace(*key)
        o.refuse_too_large(len(rows) * work.points)
        self.tally.expect(len(rows) * work.points)

        def part(rows, tally):
            return engine.integrate(step, work.of(rows), pace, o.backend, tally)

        found = self.device_pool.divide(part, rows, self.tally)
        self.batch_size = pace.size
        points = engine.pack(work.points, pace.size, int(rule.cells)).points
        self.laid |= o.lays(self.paths, self.method.credit, self.starts.count, points, len(self.columns))
        return found

    def fixed(self, rule):
        """By one rule, whatever error that leaves."""
        if rule.cells and self.oracle.opaque:
            rule = rule.middles()
        self.exactness, self.places = {"rule": rule.name}, rule.nodes
        values = self.integrate(np.arange(self.rows), rule, once=True)
        return refinement.Refined(values, None, None, np.full(self.rows, self.starts.count * len(rule)))

    def refined(self, tolerance, most):
        """To a tolerance: by secants where there are kinks or where no derivative exists at an end of the path.

        Rows whose slope is enormous at an end are summed over nodes or cells that are graded towards it.
        """
        rounding, names, steep, bent = self._rounding(), [], [], []

        def refine(sums, rows, spent=0):
            names.append(sums.name)

            def some(rows):
                change, noise = self.change(rows)
                unknown = np.full_like(noise, np.inf)
                noise = noise if self.complete else unknown, noise if self.spans else unknown
                with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is told below
                    return refinement.refine(sums, rows, (change, *noise), tolerance, most - spent, rounding)

            return refinement.stacked(map(some, self._in_parts(rows)), len(rows))

        def again(sums, rows):
            """By another family, what was spent on each row being no part of what others may spend."""
            spent = done.evaluations[rows]
            for own in np.unique(spent):
                here = rows[spent == own]
                done.put(here, refine(sums, here, int(own)))

        def leave(rows, ends, moved):
            found = self.integrate(rows, refinement.at_the_ends(ends, self.starts.count))
            # of first order, half of it is to come
            blamed = (~(sum(map(refinement.size, found)) < 0.35 * moved)).any(1)
            steep.append(rows[blamed])
            bent.append(rows[~blamed])
            return blamed | (kinked is False)

        def otherwise(graded):
            """Rows that have left, by what their bends call for."""
            self.steep = np.concatenate([self.steep, *steep])
            for sums, left in ((graded, steep), (bends, bent if kinked is False else [])):
                if left:
                    again(sums, np.concatenate(left))
                left.clear()

        rows, kinked = np.arange(self.rows), self.oracle.kinked(self.functions)
        if kinked is False:
            smooth = all(self._kinked(path, k) is False for k, path in enumerate(self.paths))
            kinked = not smooth  # chords of a path whose corners may be hidden need no more than its points
        chords = refinement.secants(self.integrate, leave=lambda r, n, m: leave(r, secant(n).nodes, m))
        graded_chords = refinement.secants(self.integrate, graded_secant)
        bends = refinement.secants(self.integrate, safety=refinement.FOR_BENDS)
        if kinked:
            first, graded = chords, graded_chords
        else:
            order = 2 if kinked is None else 4
            first = refinement.trapezoids(self.integrate, order, lambda r, n, m: leave(r, trapezoid(n + 1).nodes, m))
            graded = refinement.graded_trapezoids(self.integrate, 2 if kinked is None else refinement.FASTEST)
        done, self.steep = refine(first, rows), rows[:0]
        otherwise(graded)
        lost = rows[~self._finite(done.values)]
        if kinked is False and len(lost):
            singular = self._singular(lost)
            done.evaluations[lost] += 2
            again(chords, singular[done.evaluations[singular] + LEAST_EVALUATIONS <= most])
            otherwise(graded_chords)
        done.evaluations *= self.starts.count
        self.tolerance = tolerance
        how = f"{' and '.join(dict.fromkeys(names))}, refined"
        self.exactness = {"rule": how, "tolerance": tolerance, "max_evaluations": most}
        return done

    @staticmethod
    def _finite(values):
        """Which rows have finite values for every target."""
        with np.errstate(invalid="ignore", over="ignore"):
            return np.isfinite(sum(map(refinement.size, values))).all(1)

    def _in_parts(self, rows):
        """So many that memory stays flat: a refinement holds ten arrays or so as large as their values."""
        numbers = len(self.columns) * sum(map(math.prod, self.oracle.results))
        return np.array_split(rows, -(-len(rows) // max(1, refinement.PART // max(1, numbers))))

    def _rounding(self):
        """Relative error of values that is there whatever is done: of the sums, or of coarser numbers inside."""
        inside = [getattr(self.oracle.model, "compute_dtype", None)]
        if self.oracle.dtype == "float32":
            inside.append(self.method.execution.precision)
        return max(16 * ROUNDING[self.oracle.dtype], *(2 * ROUNDING.get(name, 0) for name in inside))

    def change(self, rows):
        """F(x) − F(x′) of some rows (len(rows), targets), and how well it is known."""
        x, start = (a[rows] for a in self.at_ends)
        return x - start, self._noise(x, start)

    def _noise(self, x, start):
        """How well the difference of two outputs is known: both are rounded."""
        return 2 * self._rounding() * np.maximum(np.abs(x), np.abs(start))

    def _singular(self, rows):
        """Those of some rows that have no finite derivative at an end of the path."""
        return rows[~self._finite(self.integrate(rows, trapezoid(2)))]

    def _errors(self, done, one):
        """What is known of the error: nothing, for a rule on given nodes."""
        if done.error is None:
            return {}
        found = {"error": one(done.error)}
        if self.tolerance is not None:
            found["converged"] = one(done.error <= self.tolerance)
        if done.standard_error is not None:
            found["standard_error"] = self._like_values([one(e) for e in done.standard_error])
        if self.oracle.by_name:
            if len(done.parts) > 1:
                found["input_error"] = self._by_name(map(one, done.parts))
        elif len(self.leaves) > 1:
            found["input_error"] = self.pack([one(e) for e in self._part_errors(done)])
        return found

    def _part_errors(self, done):
        """For every leaf (n, targets): the error of its own values, which may be those of several points."""
        points = [*self.oracle.moving, *(r.leaves[0] for r in self.oracle.readings)]
        sizes = [refinement.size(v) for v in done.values]
        off, mass = (np.zeros((len(self.leaves), self.rows, len(self.columns))) for _ in range(2))
        for i, part, size in zip(points, done.parts, sizes, strict=True):
            known = np.isfinite(part)
            off[i] += np.where(known, np.where(known, part, 0) * size, np.inf)
            mass[i] += size
        return np.divide(off, mass, out=np.where(off > 0, np.inf, 0), where=mass > 0)

    def _account(self, found):
        """Σφ − (F(x) − F(x′)) (n, targets); by row, whether its values are finite, and whether that is too much.

        And (n, targets) whether values are zero though F changes. Some rows at a time, so that nothing arises for each
        row but the answers.
        """
        residual, silent = np.empty((self.rows, len(self.columns))), np.empty((self.rows, len(self.columns)), bool)
        finite, loose = np.empty((2, self.rows), bool)
        for first in range(0, self.rows, BLOCK):
            rows = slice(first, first + BLOCK)
            own, (change, noise) = [v[rows] for v in found], self.change(rows)
            mass = sum(map(refinement.size, own))
            residual[rows] = sum(map(refinement.total, own)) - change
            finite[rows] = np.isfinite(mass).all(1)
            loose[rows] = (np.abs(residual[rows]) > np.maximum(0.05 * mass, noise)).any(1)
            silent[rows] = (mass == 0) & (np.abs(change) > noise)
        return residual, finite, loose, silent

    def _judge(self, done, residual, finite, loose, silent):
        """What must be said about the numbers: not finite, not as exact as was asked for, or not complete."""
        bad = np.flatnonzero(~finite)
        if len(bad):
            warn(
                f"The gradient is not finite {self._where_not_finite(bad[0])} on the path of row {bad[0]}, and the "
                f"values of rows {arrays.brief(bad)} hold NaN or infinity. Move the baseline away from where the model "
                "is not differentiable.",
                CompletenessWarning,
            )
        if not self.cuts:
            names = [r.place.name for r in self.oracle.inner or self.oracle.readings]
            row = np.abs(residual).max(1).argmax()
            warn(
                f"Layer {', '.join(dict.fromkeys(names))} does not cut the network: inputs reach the output around it. "
                "What they carry is no part of the values, which miss F(x) − F(x′) by up to "
                f"{np.abs(residual[row]).max():.3g}, in row {row}; see Explanation.residual. Add the layers that carry "
                "the rest, or choose one that all of it passes.",
                CompletenessWarning,
            )
        if done.error is not None:
            self._name_the_inexact(done, residual, finite, silent)
            return
        loose = np.flatnonzero(loose if self.complete else silent.any(1) & self.spans)
        if len(loose):
            more = "steps=" if "steps" in self.exactness else "nodes, or a tolerance in place of a rule"
            warn(
                f"The values of rows {arrays.brief(loose)} miss F(x) − F(x′) by more than 5 % of their mass; see "
                f"Explanation.residual. Use more {more}; where F changes in steps, as rounding or a comparison give, "
                "no gradient shows it: explain the score before them.",
                CompletenessWarning,
            )

    def _name_the_inexact(self, done, residual, finite, silent):
        """Rows whose values do not account for F(x) − F(x′), and others above the tolerance: each row once."""
        error = np.where(finite[:, None], done.error, 0)
        silent = silent & np.isinf(error)
        above = silent if self.tolerance is None else error > self.tolerance
        unseen = silent
        if self.complete and self.method.spans and self.tolerance is not None:
            mass = sum(map(refinement.size, done.values))
            missing = np.abs(residual) - self.change(slice(None))[1]
            most_of_it = missing > np.maximum(self.tolerance, np.where(mass > 0, error, 0) / 2) * mass
            unseen = silent | above & most_of_it & (done.evaluations >= CLOSELY * self.starts.count)[:, None]
        rows = np.flatnonzero(unseen.any(1))
        if len(rows):
            missing = np.where(unseen[rows], np.abs(residual[rows]), 0).max(1)
            warn(
                f"The values of rows {arrays.brief(rows)} do not account for F(x) − F(x′): they miss up to "
                f"{missing.max():.3g} of it, in row {rows[missing.argmax()]}. {self._why()}; see "
                "Explanation.residual.",
                CompletenessWarning,
            )
        above &= ~unseen.any(1)[:, None]
        rows = np.flatnonzero(above.any(1))
        if len(rows):
            worst = np.where(above[rows], error[rows], 0).max(1)
            most, row = self.exactness["max_evaluations"], rows[worst.argmax()]
            warn(
                f"Rows {arrays.brief(rows)} did not reach the tolerance {self.tolerance:g} within "
                f"max_evaluations={most}; the largest estimated error is {worst.max():.2g}, of row {row}. "
                f"{self._what_to_do(rows)}; see Explanation.error.",
                ToleranceWarning,
            )

    def _why(self):
        if quantised(self.oracle.model):
            return (
                f"{ROUNDED}, which no gradient shows and no number of gradients makes less. Raise tolerance=, or "
                "explain the model as it was before it was quantised"
            )
        return (
            "There F changes in steps, as rounding or a comparison give, which no gradient shows, or between all "
            "places of the path that were looked at. Explain the score before the steps, or choose another baseline"
        )

    def _what_to_do(self, rows):
        steep = np.intersect1d(rows, self.steep)
        if quantised(self.oracle.model):
            return (
                f"{ROUNDED}, and more gradients may not help. Raise tolerance=, or explain the model as it was before"
            )
        if not len(steep):
            return "Raise max_evaluations= or tolerance=, or choose a nearer baseline"
        ids = any(self.oracle.holds_ids(r.leaves[0]) for r in self.oracle.readings)
        return (
            f"The slope is enormous at an end of the path of rows {arrays.brief(steep)}, as where a normalisation "
            "meets zeros. "
            + ("Give the id of a token" if ids else "Choose a baseline away from there, as the mean of data")
            + " as baseline=, or raise max_evaluations="
        )

    def _where_not_finite(self, row):
        """The first place on the path of a row, of those looked at, without a finite gradient."""
        for t in self.places:
            found = self.integrate(np.array([row]), Rule(f"at {t:g}", [t], [1.0], 0))
            if not all(np.isfinite(v).all() for v in found):
                return f"at t = {t:.3g}"
        return "somewhere"

    def part(self, rows, starts):
        """The same call for some rows, from other baselines."""
        part = self._other([a[rows] for a in self.arrays], starts)
        part.index = self.index if len(self.index) == 1 else self.index[rows]
        part.at_ends = tuple(a[rows] for a in self.at_ends)
        return part

    def _other(self, arrays, starts):
        other = copy.copy(self)
        vars(other).pop("_carried", None)  # made of its own starts
        other.rows, other.arrays, other.starts = len(arrays[0]), arrays, starts
        return other

    # ---- the ends ----------------------------------------------------------------------------------------------

    def load(self, rows):
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
        for rows, flat in self._outputs(n, self.load):
            for j, column in enumerate(self.columns):
                if column.positions is None:
                    choices = column.choices if len(column.choices) == 1 else column.choices[rows]
                    index[rows, j] = choices[:, 0] + np.take_along_axis(flat, choices, 1).argmax(1)
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
        held, below = self.oracle.held, self.below
        if self.starts.shared and not held:
            unique, inverse = np.unique(index, return_inverse=True)
            values = np.empty((m, len(unique)))
            for rows, flat in self._outputs(m, lambda j: (self.start_points(np.zeros_like(j), j), [])):
                values[rows] = flat[:, unique]
            mean = np.broadcast_to(self.starts.weights @ values, (n, len(unique)))
            own = np.broadcast_to(inverse.reshape(index.shape), (n, index.shape[1]))
            return np.take_along_axis(mean, own, 1)
        values = np.empty((n * m, index.shape[1]))

        def load(pairs):
            i, j = pairs // m, pairs % m
            _, side = self.load(i)
            for leaf, start in below.items():
                row = start[i if len(start) > 1 else 0 * i, j if start.shape[1] > 1 else 0 * j]
                row = np.broadcast_to(row, (len(i), *self.arrays[leaf].shape[1:])).astype(self.arrays[leaf].dtype)
                side[held.index(leaf)] = self.oracle.load_one(leaf, row)
            return self.start_points(i, j), side

        for pairs, flat in self._outputs(n * m, load):
            own = index if len(index) == 1 else index[pairs // m]
            values[pairs] = np.take_along_axis(flat, own, 1)
        return np.einsum("nmk,nm->nk", values.reshape(n, m, -1), np.broadcast_to(self.starts.weights, (n, m)))

    def start_points(self, i, j):
        """Baselines j of rows i as full rows on the device."""
        points = []
        for start, shape in zip(self.starts.points, self.oracle.shapes, strict=True):
            rows = start[i if len(start) > 1 else np.zeros_like(i), j if start.shape[1] > 1 else np.zeros_like(j)]
            full = np.broadcast_to(rows, (len(i), *shape))
            points.append(ops.convert_to_tensor(np.ascontiguousarray(full, self.oracle.dtype)))
        return points

    def _outputs(self, count, load, kind="flat"):
        """(rows, outputs as a host array (rows, positions)) over batches."""
        flat = self.oracle.compiled(kind, self.functions)
        for rows, real in self.oracle.pace(kind, self.functions).groups(count):
            out = self.oracle.backend.host(flat(*load(rows)))
            yield rows[:real], np.asarray(out, np.float64)[:real]

    def _refuse_silent_integers(self, found, index, prediction):
        """Integers that change F while no gradient reaches them pass through an integer operation."""
        if self.oracle.inner:
            return
        noise = self._noise(prediction, prediction)
        for k, i in enumerate(self.oracle.moving):
            if self.oracle.kinds[i] not in "iu" or found[k].any():
                continue

            def load(rows, k=k):
                ends, side = self.load(rows)
                ends[k] = self.start_points(rows, np.zeros_like(rows))[k]
                return ends, side

            for rows, flat in self._outputs(self.rows, load):
                own = index if len(index) == 1 else index[rows]
                change = np.abs(np.take_along_axis(flat, own, 1) - prediction[rows])
                changed = rows[(change > noise[rows]).any(1)]
                if len(changed) and not self._slopes(changed[0])[k].any():
                    raise TypeError(self.oracle.no_embedding(i))

    def _refuse_steps(self, silent):
        """An output that changes though it has no gradient anywhere, on the path or off it, is made of steps."""
        for column in np.flatnonzero(silent.any(0) & (self.cuts and not self.oracle.inner)):
            slopes = self._slopes(silent[:, column].argmax())
            if not any(own[:, column].any() for own in slopes):
                raise ValueError(
                    "Expected a differentiable output, received one that changes between baseline and input while "
                    "every gradient is exactly zero (as rounding or a comparison give). Explain the score before it."
                )

    def _slopes(self, row):
        """For each point the gradients (places, targets, *row) at places between baseline and input, and far off.

        Between, each feature is somewhere else; far off, at all scales, but where integers must stay in their range.
        What is not finite is no zero.
        """
        o, rng = self.oracle, np.random.default_rng(0)
        slopes, found = o.compiled("gradients", self.functions), []
        far = not any(o.kinds[i] in "iu" for i in [*o.moving, *o.held])
        for places, real in o.pace("gradients", self.functions).groups(PLACES):
            rows = np.full(len(places), row)
            ends, side = self.load(rows)
            points = []
            for start, end in zip(self.start_points(rows, 0 * rows), ends, strict=True):
                start, end = (o.backend.host(p).astype("float64") for p in (start, end))
                own = start + rng.random(end.shape) * (end - start)
                off = rng.normal(size=end.shape) * 10 ** rng.uniform(-2, 3, (len(end), *(1,) * (end.ndim - 1)))
                points.append(np.where((places % 2 == 1).reshape(-1, *(1,) * (end.ndim - 1)) & far, off, own))
            points = [ops.convert_to_tensor(p.astype(o.dtype)) for p in points]
            index = self.index[rows % len(self.index)].astype("int32")
            _, columns = slopes(points, side, ops.convert_to_tensor(index))
            found.append([
                np.stack([np.zeros(p.shape) if c is None else o.backend.host(c) for c in own], 1)[:real]
                for p, own in zip(points, columns, strict=True)
            ])  # fmt: skip
        return [np.concatenate(same) for same in zip(*found, strict=True)]

    # ---- paths -------------------------------------------------------------------------------------------------

    def _paths(self):
        o = self.oracle
        given = paths.each(self.method.path, o.names, arrays.packing(self.structure, len(self.leaves)))
        return tuple(given[i] for i in [*o.moving, *(r.leaves[0] for r in o.readings)])

    @functools.cached_property
    def _carried(self):
        """Where the paths start, with what else they need to know of the rows."""
        points = [
            path.carry(start, shape, self.rows) if hasattr(path, "carry") else start
            for path, start, shape in zip(self.paths, self.starts.points, self.oracle.shapes, strict=True)
        ]
        return baselines.Starts(points, self.starts.weights)

    def _first(self, k):
        """Start and end of the path of point k, of the first row, as a path is given them."""
        start = ops.convert_to_tensor(np.ascontiguousarray(self._carried.points[k][:1, :1], self.oracle.dtype))
        return start, ops.convert_to_tensor(self.load(np.zeros(1, int))[0][k])[:, None]

    def _times(self, k, nodes):
        return ops.convert_to_tensor(np.reshape(nodes, (1, -1, *[1] * len(self.oracle.shapes[k]))), self.oracle.dtype)

    def _kinked(self, path, k):
        """Whether a path has corners, as far as its operations tell."""
        if path is paths.straight:
            return False
        start, end = self._first(k)

        def run(ts):
            return paths.point(path(start, end, ts[0]))

        return self.oracle.backend.has_kinks(run, [self._times(k, [0.0, 1.0])], ())

    def _refuse_loose_ends(self):
        """A path that does not lead from the baseline to the input explains another difference than F(x) − F(x′)."""
        o = self.oracle
        for k, path in enumerate(self.paths):
            if path is paths.straight:
                continue
            start, end = self._first(k)
            found = paths.point(path(start, end, self._times(k, [0.0, 1.0])))
            shape = (1, 2, *o.shapes[k])
            if not ops.is_tensor(found) or tuple(found.shape) != shape:
                raise ValueError(
                    f"Expected a path (start, end, t) -> points of shape {shape} for start {tuple(start.shape)}, end "
                    f"{tuple(end.shape)} and t {tuple(self._times(k, [0.0, 1.0]).shape)}; received "
                    f"{tuple(found.shape) if ops.is_tensor(found) else type(found).__name__}. Write it with keras.ops "
                    "and let the arguments broadcast."
                )
            found, last = o.backend.host(found)[0], o.backend.host(end)[0]
            first = np.broadcast_to(self.starts.points[k][0, :1], last.shape)
            size = max(np.abs(first).max(initial=0), np.abs(last).max(initial=0), 1e-30)
            for t, is_there, should in ((0, found[:1], first), (1, found[1:], last)):
                off = np.abs(is_there - should).max(initial=0)
                if not off <= 1e-4 * size:
                    raise ValueError(
                        f"Expected a path from the baseline to the input, received one that at t = {t} is {off:.2g} "
                        f"away from the {'input' if t else 'baseline'} of row 0. Write it so that t = 0 gives start "
                        "and t = 1 gives end, or give the baseline= that it starts from."
                    )

    def _cuts(self, prediction):
        """Whether all that leads from the inputs to F passes the layers that were named: F does not change otherwise.

        Ids that an Embedding reads do not count, for they do not move.
        """
        o = self.oracle
        around = [h for h in o.held if o.roles[h] == "read" and not o.holds_ids(h)]
        if not o.inner and not around:
            return True
        kind, run = ("held", "look") if o.inner else ("flat", None)

        def load(rows):
            fed = [a[rows] for a in self.arrays]
            ends, side = o.load(fed)
            if not o.inner:
                return ends, o.load(elsewhere(fed, around))[1]
            ys = o.compiled(run, ())(ends, side)
            return [ops.where(x > 0, x - 1, x + 1) for x in ends], side, ys

        noise = self._noise(prediction, prediction)
        for rows, flat in self._outputs(self.rows, load, kind):
            own = self.index if len(self.index) == 1 else self.index[rows]
            change = np.abs(np.take_along_axis(flat, own, 1) - prediction[rows])
            if not (change <= noise[rows]).all():
                return False
        return True

    # ---- the account -------------------------------------------------------------------------------------------

    def _mirrors(self, found):
        """Values, inputs and baseline: like the inputs, a layer standing for the one that it reads, or by name."""
        o = self.oracle
        values = self._like_values(found)
        if not o.by_name:
            return {"values": values, "inputs": self.pack(self.arrays), "baseline": self.pack(self._baselines())}
        if o.inner:
            return {"values": values, "inputs": self._by_name(self._passing("look")), "baseline": None}
        inputs = [*(self.arrays[i] for i in o.moving), *self._passing("read")]
        starts = [p[:, 0] if self.starts.count == 1 else p for p in self.starts.points]
        return {"values": values, "inputs": self._by_name(inputs), "baseline": self._by_name(starts)}

    def _like_values(self, found):
        return self._by_name(found) if self.oracle.by_name else self.pack(self._values(found))

    def _by_name(self, arrays):
        """One array alone, or each under the name of its layer, or of its input."""
        arrays = list(arrays)
        return arrays[0] if len(arrays) == 1 else dict(zip(self.oracle.labels, arrays, strict=True))

    def _passing(self, what):
        """What passes the named layers at x: for each call (n, *row)."""
        o = self.oracle
        found = [np.empty((self.rows, *r.shape), o.dtype) for r in o.inner or o.readings]
        for rows, real in o.pace(what).groups(self.rows):
            ends, side = self.load(rows)
            seen = o.compiled("look", ())(ends, side) if what == "look" else ends[len(o.moving) :]
            for own, y in zip(found, seen, strict=True):
                own[rows[:real]] = o.backend.host(y)[:real]
        return found

    def _values(self, found):
        """Values of every leaf: exact zeros where nothing moved, layers side by side where several read one leaf."""
        o = self.oracle
        lead = found[0].shape[: 1 + targets.is_several(self.target)]
        by_leaf = {i: [found[j]] for j, i in enumerate(o.moving)}
        for j, reading in enumerate(o.readings):
            by_leaf.setdefault(reading.leaves[0], []).append(found[len(o.moving) + j])
        values = []
        for i, array in enumerate(self.arrays):
            parts = by_leaf.get(i)
            if parts is None:
                parts = [np.zeros((*lead, *array.shape[1:]), o.dtype)]
            values.append(parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1))
        return values

    def _baselines(self):
        o = self.oracle
        by_leaf = {i: [self.starts.points[j]] for j, i in enumerate(o.moving)}
        for j, reading in enumerate(o.readings):
            by_leaf.setdefault(reading.leaves[0], []).append(self.starts.points[len(o.moving) + j])
        out = []
        for i, array in enumerate(self.arrays):
            parts = by_leaf.get(i, [np.zeros((1, 1), o.dtype)] if o.roles[i] != baselines.FIXED else [array[:, None]])
            if len(parts) > 1:  # layers side by side, as their values
                lead = np.broadcast_shapes(*(p.shape[:2] for p in parts))
                shapes = [r.shape for r in o.readings if r.leaves == (i,)]
                parts = [np.broadcast_to(p, (*lead, *s)) for p, s in zip(parts, shapes, strict=True)]
            start = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=-1)
            out.append(start[:, 0] if self.starts.count == 1 else start)
        return out

    def pack(self, leaves):
        """What there is for each leaf, structured like the inputs."""
        packed = tree.pack_sequence_as(self.structure, leaves)
        return {k: packed[k] for k in self.structure} if type(packed) is dict else packed  # the user's own order

    def _names(self):
        names = {"targets": [c.name for c in self.columns], "outputs": [x.name for x in self.oracle.outputs]}
        o = self.oracle
        if self.row_names is not None:
            names["rows"] = self.row_names
        if self.predicted is not None:
            names["predicted"] = self.predicted
        if o.by_name:
            own = [] if o.inner else [self.leaves[i].features for i in o.moving]
            if any(own):
                names["features"] = self._by_name([*own, *(None for _ in o.readings)])
        else:
            away = self._at_layers()
            features = [None if i in away else leaf.features for i, leaf in enumerate(self.leaves)]
            if any(features):
                names["features"] = self.pack(features)
            if away:
                names["axes"] = self.pack([away.get(i) for i in range(len(self.leaves))])
        return names

    def _at_layers(self):
        """By leaf, the axes of values at a layer that are none of the input's: of all layers but Embeddings of ids."""
        o, away = self.oracle, {}
        for reading in o.readings:
            leaf = reading.leaves[0]
            row = self.arrays[leaf].shape[1:]
            if not (o.holds_ids(leaf) and reading.shape[:-1] == row):
                away[leaf] = [None] * len(reading.shape)
        return away

    @property
    def predicted(self):
        """The class that "predicted" stands for in each row and target, None for other targets, or None for none."""
        if all(c.choices is None for c in self.columns):
            return None
        found = []
        for j, c in enumerate(self.columns):
            index = np.broadcast_to(self.index[:, j], self.rows)
            first = None if c.choices is None else np.broadcast_to(c.choices[:, 0], self.rows)
            found.append([None] * self.rows if first is None else (index - first).tolist())
        return [list(row) for row in zip(*found, strict=True)] if targets.is_several(self.target) else found[0]

    def _provenance(self, weights):
        o, output = self.oracle, self.method.output
        versions, device = o.backend.describe()
        precision = self.method.execution.precision
        if o.by_name:
            layers = {r.place.name: r.place.side for r in o.inner or o.readings}
        else:
            layers = {o.names[r.leaves[0]]: r.place.name for r in o.readings}
        names = list(dict.fromkeys(map(paths.name, self.paths)))
        return {
            "method": type(self.method).__name__,
            **self.exactness,
            **({"path": names if len(names) > 1 else names[0]} if names != ["straight"] else {}),
            **({"path laid at": o.prefix.name} if self.laid else {}),
            **({} if self.complete else {"complete": False}),
            **({} if self.cuts else {"cuts": False}),
            "output": output if output is None else str(getattr(output, "name", output)),
            **({"predicted": self.predicted} if self.predicted is not None else {}),
            **({"explained": "before the final softmax or sigmoid"} if o.hidden else {}),
            **({"layers": layers} if layers else {}),
            **({"fixed": f} if (f := [n for n, r in zip(o.names, o.roles, strict=True) if r == "fixed"]) else {}),
            "baselines": self.starts.count,
            "batch_size": self.batch_size,
            **({"compile": " and ".join(o.compile_modes)} if o.compile_modes else {}),
            "dtype": o.dtype,
            **({} if precision == "full" else {"precision": precision}),
            "backend": keras.config.backend(),
            "device": self.device_pool.names or device,
            "versions": {"aumann": version("aumann"), "keras": keras.__version__, "numpy": np.__version__, **versions},
            "model": weights,
        }


def fingerprint(model):
    """Name and, for a Keras model, a hash of the weights: the same numbers came from the same model."""
    name = getattr(model, "name", None) or getattr(model, "__name__", type(model).__name__)
    if not isinstance(model, keras.Layer):
        return {"name": str(name)}
    digest = hashlib.blake2b(digest_size=8)
    for v in model.weights:
        digest.update(np.ascontiguousarray(backends.active().host(v.value)).tobytes())
    return {"name": str(name), "weights": digest.hexdigest()}


def _refuse_integer_outputs(columns, oracle):
    for column in columns:
        for output, dtype in zip(oracle.outputs, oracle.output_dtypes, strict=True):
            positions = column.choices if column.positions is None else column.positions
            inside = output.start <= positions.flat[0] < output.start + output.size
            if inside and not keras.backend.is_float_dtype(dtype):
                raise ValueError(
                    f"Expected a differentiable output, received {dtype} from output {output.name!r} (as argmax or a "
                    "comparison give). Explain the score before it: choose another output= or target=."
                )
