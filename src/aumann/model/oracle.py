"""The oracle: F and its gradient, for a Keras model or a plain function, at its inputs or at a layer.

`Oracle` finds out once, from one row, how the model wants its inputs, which of them move along the path, which are
read at an Embedding, and what the outputs look like; after that it only evaluates and differentiates.
"""

import functools
import inspect
import math
from collections import Counter
from dataclasses import dataclass

import keras
import numpy as np
from keras import ops, tree

from aumann import backends
from aumann.core import engine
from aumann.core.baselines import FIXED
from aumann.core.credits import slope
from aumann.core.paths import chorded, moving
from aumann.core.secant import WITH_KINKS, following
from aumann.core.targets import Output
from aumann.execution.batching import BatchTuner, MemoryBudget
from aumann.execution.options import ExecutionOptions
from aumann.features.conversion import TEXT
from aumann.model import embedding_inputs
from aumann.model.composite_ops import handlers as composite_ops_of
from aumann.model.embedding_inputs import Reading, row_of
from aumann.model.interception import Place, intercepted, visited


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


BESIDE = (
    "what belongs to a row, as a mask does, is passed as an input that is held still: a function of x and mask, "
    'explained at {"x": x, "mask": mask} with baseline={"mask": "fixed"}'
)


class TooLarge(MemoryError):
    """A batch that does not fit into memory, and cannot be made smaller."""


class _Enough(BaseException):
    """Raised inside a model when all that is wanted of it has been seen: no `except Exception` on the way stops it."""


class Oracle:
    """F on one kind of input: structure, roles, row shapes and dtypes are settled.

    Args:
        model: a built Keras model or layer, a function of the active framework's tensors, a `torch.nn.Module`, or
            a graph that brings its own `pull`.
        structure: the user's inputs, for their packing.
        leaves: list of `Leaf`.
        output: None, the name or index of an output, "logits", or a `Place` whose contents are the outputs.
        places: places which move along the path instead of the inputs that they are made of; None for every Embedding.
        inner: places at which F is differentiated while the inputs move; none for at what moves.
        execution: how the model is run, None for the usual way.
        fill: rows that the model has to be called with, if it does not take any number: the last one is repeated.
    """

    def __init__(self, model, structure, leaves, output, places=None, inner=(), execution=None, fill=None):
        self.backend = backends.active()
        self.execution = execution or ExecutionOptions()
        self.compile_mode, self._made = backends.compile_mode(self.execution.compile), []
        self.model, self.structure, self.output, self.fill = model, structure, output, fill
        self.names = [leaf.name for leaf in leaves]
        self.roles = [leaf.role for leaf in leaves]
        self.kinds = [leaf.array.dtype.kind for leaf in leaves]
        self.dtype = path_dtype(model, leaves)
        _refuse_text(leaves)
        self.variables = list(model.variables) if isinstance(model, keras.Layer) else []
        self.arguments = calling_convention(model, structure)
        self.activations = activations(model) if output == "logits" and isinstance(model, keras.Layer) else []
        self.outside = self.backend.outside(operations(model))
        self.readings, self.inner, self.repeats = [], [], False
        self.hidden, self.neurons, self._dtypes = False, None, {}
        first = [self._feed(i, leaf.array[:1]) for i, leaf in enumerate(leaves)]
        self.lookups, self.places, self._given = lookups(model), places, first
        found = self.lookups if places is None else places
        if found:
            self._find_readings(found, first, leaves)
        if places is not None:
            _refuse_unread(places, self.readings)
        named = {r.place for r in self.readings} if places is not None else ()
        self.by_name = bool(inner) or len(named) > 1 or any(len(r.leaves) > 1 for r in self.readings)
        if not self.by_name:
            self._refuse_misfits()
        self._settle_integers(leaves)
        first = [self._feed(i, leaf.array[:1]) for i, leaf in enumerate(leaves)]
        if inner:
            self._find_inner(inner, first)
        survey = self._survey(first)
        self.outputs, self.several_outputs, self.output_dtypes, self.width = survey
        self.moving = [i for i, role in enumerate(self.roles) if role == "moves"]
        self.held = [i for i, role in enumerate(self.roles) if role != "moves"]
        self.shapes = [leaves[i].array.shape[1:] for i in self.moving] + [r.shape for r in self.readings]
        self._compiled, self._paces, self._kinked, self._first = {}, {}, {}, first
        self.looks = {}  # whether rows are independent, by target functions: see `explain/independence.py`
        # what a forward pass makes, and as much again on the way back
        self.room = MemoryBudget(2 * self.width * np.dtype(self.dtype).itemsize, self._free)
        self.results = [r.shape for r in self.inner] or self.shapes
        moved = [] if self.inner else [self.names[i] for i in self.moving]
        self.labels = moved + labels([r.place for r in self.inner or self.readings])
        if not self.shapes:
            raise ValueError(
                f"Expected at least one input to move along the path, received only fixed ones, {self.names}. Hold "
                "still what is not to be explained, and no more."
            )

    # ---- calling the model -------------------------------------------------------------------------------------

    def _feed(self, i, array):
        """Rows of leaf i as the model is fed them: what moves is a float of the path's dtype."""
        floats = self.roles[i] == "moves" or self.kinds[i] == "f"
        if floats or (array.dtype == np.uint64 and array.max(initial=0) >= 2**63):
            return as_dtype(array, self.dtype, f"input {self.names[i]!r}")
        return np.ascontiguousarray(array, np.int64 if array.dtype == np.uint64 else None)  # torch has no uint64

    def _call(self, leaves, given=None, added=None, seen=None, counts=None, composite_ops=None):
        """The model's outputs, or for "logits" what stands before the activation that made them.

        Args:
            leaves: the inputs, flat.
            given: {(place, call): what passes there instead}.
            added: {(place, call): what is added there}.
            seen: {place: list}, to which what passes there is appended, call by call.
            counts: {place: calls}, after which nothing more is wanted and the model is left: its outputs are None.
            units: handlers of functions that are to be one operation.
        """
        made, given, added, seen = {}, given or {}, added or {}, dict(seen or {})
        rows, short = len_of(leaves[0]), self.fill is not None and leaves[0].shape[0] != self.fill
        if short:
            leaves = [self._filled(x) for x in leaves]
            given, added = ({at: self._filled(x) for at, x in passing.items()} for passing in (given, added))
        args, kwargs = self.arguments(tree.pack_sequence_as(self.structure, leaves))
        if isinstance(self.output, Place):
            own = seen.setdefault(self.output, [])
            if len(seen) == 1 and self.neurons is not None:
                counts = {self.output: self.neurons}

        def visit(place, k, make):
            y = given[place, k] if (place, k) in given else make()
            y = ops.cast(y, self._dtypes[place, k]) if (place, k) in given and (place, k) in self._dtypes else y
            if (place, k) in added:
                y = y + ops.cast(added[place, k], _dtype(y))
            if place in seen:
                seen[place].append(y[:rows] if short and ops.is_tensor(y) else y)
                if counts and all(len(seen[p]) >= n for p, n in counts.items()):
                    raise _Enough
            return y

        def remember(original, *args, **kwargs):
            y = original(*args, **kwargs)
            made[id(y)] = _first(args, kwargs), y  # y is kept, or its id could become another's
            return y

        try:
            with (
                intercepted(self.outside),
                intercepted(composite_ops or {}),
                intercepted(visited({*seen, *(p for p, _ in (*given, *added))}, visit)),
                intercepted(dict.fromkeys(self.activations, remember)),
            ):
                outputs = self.model(*args, **kwargs)
        except _Enough:
            outputs = None
        except Exception as error:
            if self.backend.out_of_memory(error):
                raise
            raise self._failed(leaves, error) from error
        if isinstance(self.output, Place):
            return own[0] if len(own) == 1 else list(own)
        if short and not isinstance(self.output, Place):
            made = {i: (x[:rows], y) for i, (x, y) in made.items() if ops.is_tensor(x)}
        if outputs is None:
            return None
        if not made:
            return tree.map_structure(lambda y: y[:rows], outputs) if short else outputs
        self.hidden = any(id(y) in made for y in tree.flatten(outputs))
        return tree.map_structure(lambda y: made[id(y)][0] if id(y) in made else y[:rows] if short else y, outputs)

    def _filled(self, x):
        """As many rows as the model has to be called with, the last of fewer being repeated."""
        return ops.take(x, ops.minimum(ops.arange(self.fill), len_of(x) - 1), axis=0)

    def _failed(self, leaves, error):
        fed = ", ".join(f"{n} {tuple(x.shape)} {_dtype(x)}" for n, x in zip(self.names, leaves, strict=True))
        alone = "" if leaves[0].shape[0] == 1 else " One that takes a single row and no more is given batch_size=1."
        return ValueError(
            f"Expected the model to accept what it was fed: {fed}; received {type(error).__name__} from inside it: "
            f"{error}. Check that model(inputs) works on these shapes and dtypes"
            f"{', compiled too, as it is here' if self.backend.staging() else ''}.{alone}"
        )

    def _join(self, points, side):
        """The model's inputs, and what passes the places that move."""
        leaves = [None] * len(self.roles)
        for i, x in zip(self.held, side, strict=True):
            leaves[i] = x
        for i, x in zip(self.moving, points[: len(self.moving)], strict=True):
            leaves[i] = x
        return leaves, _at(self.readings, points[len(self.moving) :])

    def flat(self, points, side, functions=(), composite_ops=None, added=(), held=()):
        """All outputs of a row end to end, then one position for each function: (rows, positions).

        `added` to what passes the inner places, or `held` there.
        """
        leaves, given = self._join(points, side)
        given |= _at(self.inner[: len(held)], held)
        structure = self._call(leaves, given, _at(self.inner[: len(added)], added), composite_ops=composite_ops)
        return self._vector(structure, functions, leaves[0].shape[0])

    def _vector(self, structure, functions, rows=None):
        """Outputs and target functions of a row end to end; of so many rows, where that is known."""
        vectors = []
        for name, x in self._chosen(structure):
            if _differ(x.shape[0], rows):
                raise ValueError(
                    f"Expected output {name!r} with one row for each row of the inputs, received {x.shape[0]} for "
                    f"{rows}. Keep the batch axis first and as long as it is; {BESIDE}."
                )
            vectors.append(ops.reshape(ops.cast(x, self.dtype), (len_of(x), -1)))
        for function in functions:
            value = self._target(function, structure, rows)
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
                    f"{rows} rows. Keep the axis of rows as long as it is; {BESIDE}."
                )
            if not keras.backend.is_float_dtype(_dtype(value)):
                raise ValueError(_not_differentiable(f"{_dtype(value)} from the target function"))
            vectors.append(ops.expand_dims(ops.cast(value, self.dtype), 1))
        return vectors[0] if len(vectors) == 1 else ops.concatenate(vectors, axis=1)

    def _target(self, function, structure, rows):
        try:
            return function(structure)
        except Exception as error:
            if isinstance(error, OSError) or self.backend.out_of_memory(error):
                raise
            raise ValueError(
                f"Expected the target function to take the outputs of any number of rows, here of {rows or 'some'}; "
                f"received {type(error).__name__} from inside it: {error}. Compute with the outputs alone; {BESIDE}."
            ) from error

    def values(self, points, side, index, functions=(), composite_ops=None):
        """F at points: (rows, targets)."""
        return ops.take_along_axis(self.flat(points, side, functions, composite_ops), index, axis=1)

    def gradients(self, points, side, index, functions=(), cells=False):
        """F (rows, targets), and for each point a list over targets of ∂F/∂point or None where F is independent of it.

        With `cells`, the mean over the cell from each row to the next one, by secants (`core/secant.py`).
        """
        if hasattr(self.model, "pull"):
            return self._pull(points, side, index, functions)

        composite_ops = composite_ops_of(self.inside, len_of(points[0]), self.backend.composite_op) if cells else {}

        def values(points):
            return self.values(points, side, index, functions, composite_ops)

        found, columns = (self.backend.secants if cells else self.backend.gradients)(values, points)
        if all(g is None for column in columns for g in column):
            for i in self.moving:
                if self.kinds[i] in "iu":
                    raise TypeError(self.no_embedding(i))
            raise ValueError(
                _not_differentiable("an output that depends on no input through differentiable operations")
            )
        return found, columns

    def inner_gradients(self, points, directions, t, side, index, functions=(), credit=None, cells=False):
        """F, and for each inner place ∂F/∂y, a list over targets, and what y does along the path: ∂y/∂point · γ'.

        What is added to y, namely 0, is what F is differentiated by: F then sees all that y leads to, also through
        other inner places. With `cells`, secants, and the slope of y over each cell.
        """

        def look(points):
            return self.look(points, side)

        moves = None
        if cells:
            widths = following(t, len_of(t)) - t  # 0 where a row of the batch has no cell
            rises = [following(y, len_of(t)) - y for y in look(points)]
            inverse = ops.where(widths > 0, 1 / ops.where(widths > 0, widths, ops.ones_like(t)), 0)
            moves = [d * ops.reshape(inverse, (-1, *(1,) * (len(d.shape) - 1))) for d in rises]
        elif credit is not slope:  # which asks for no velocity
            _, moves = self.backend.jvp(look, points, directions)
        count = len(self.inner)
        zeros = [ops.zeros((len_of(points[0]), *r.shape), self.dtype) for r in self.inner]
        composite_ops = composite_ops_of(self.inside, len_of(points[0]), self.backend.composite_op) if cells else {}

        def values(free):
            # over cells, the secant of a product of y and what goes around it needs both to move
            flat = self.flat(free[count:] or points, side, functions, composite_ops, free[:count])
            return ops.take_along_axis(flat, index, axis=1)

        differentiate = self.backend.secants if cells else self.backend.gradients
        found, columns = differentiate(values, zeros + points if cells else zeros)
        return found, columns[:count], moves

    def look(self, points, side):
        """What passes the inner places: for each call (rows, *row)."""
        leaves, given = self._join(points, side)
        seen = {r.place: [] for r in self.inner}
        self._call(leaves, given, seen=seen, counts={p: sum(r.place == p for r in self.inner) for p in seen})
        return [ops.cast(seen[r.place][r.call], self.dtype) for r in self.inner]

    def _pull(self, points, side, index, functions):
        """The chain rule by hand, for a graph of a framework that Keras does not run on."""
        leaves, _ = self._join(points, side)
        structure = self._call(leaves)
        outputs = [ops.convert_to_tensor(x) for x in tree.flatten(structure)]

        def values(outputs):
            return ops.take_along_axis(
                self._vector(tree.pack_sequence_as(structure, outputs), functions), index, axis=1
            )

        found, columns = self.backend.gradients(values, outputs)
        pulled = []
        for slopes in zip(*columns, strict=True):  # of one target, for each output
            slopes = [ops.zeros_like(y) if g is None else g for g, y in zip(slopes, outputs, strict=True)]
            pulled.append(self.model.pull(leaves, slopes))
        return found, [[ops.cast(target[i], self.dtype) for target in pulled] for i in self.moving]

    # ---- what is compiled --------------------------------------------------------------------------------------

    def compiled(self, what, functions, paths=None, credit=None, targets=1, cells=False, once=True):
        """ "flat", "read", "gradients" or "step" (for a number of targets, over nodes or cells), compiled once.

        With `once`, for the steps of one rule; else gradients are compiled apart, for the number of points alone.
        """
        key = what, tuple(functions), paths, credit, targets, cells, once
        if key not in self._compiled:
            self._compiled[key] = self._compile(what, functions, paths, credit, cells, once)
        return self._compiled[key]

    def pace(self, what, functions=(), paths=None, credit=None, targets=1, cells=False, once=True):
        """`BatchTuner` of what `compiled` gives for the same arguments."""
        key = what, tuple(functions), paths, credit, targets, cells, once
        if key not in self._paces:
            sums = what in ("step", "gradients")
            dynamic = self.dynamic(cells) if sums else self.backend.dynamic(False)
            whole = not self.dynamic(False)
            tuned = self.execution.batch_size == "auto" and self.fill is None
            # the gradients of all targets lie side by side
            more = sums * targets * sum(map(math.prod, self.results)) * np.dtype(self.dtype).itemsize
            self._paces[key] = BatchTuner(self.batch_size, self.room, tuned, dynamic, once and whole, whole, more)
        return self._paces[key]

    def _free(self):
        """Bytes for each of the devices that share them, as those of one CPU do; None where nobody knows."""
        free = self.backend.free()
        return free and free / max(1, sum(name.startswith("cpu") for name in self.execution.devices or ()))

    @property
    def batch_size(self):
        """Rows per call: what was asked for, or to begin with what the backend likes for as many activations."""
        if self.execution.batch_size != "auto":
            return min(int(self.execution.batch_size), self.fill or math.inf)
        if self.fill is not None:
            return self.fill
        return max(1, min(self.room(), self.backend.rows_in_flight(max(1, self.width), max(1, len(self.inside)))))

    def within_memory(self, run, *args):
        """run(*args), again with half as many rows per call where memory runs out, unless so many were asked for."""
        while True:
            try:
                return run(*args)
            except Exception as error:
                if not self.backend.out_of_memory(error) or isinstance(error, TooLarge):
                    raise
                size = self.batch_size
                if self.execution.batch_size != "auto" or size == 1:
                    raise self._too_large(size) from error
                self.room.halve(size)

    def refuse_too_large(self, points):
        """Before the machine ends the process: a batch whose forward pass alone, half of it even, does not fit."""
        if self.execution.batch_size == "auto":
            return
        size, free = min(points, self.batch_size), self._free()
        if free is not None and size * self.room.size > 4 * free:
            raise self._too_large(size)

    def _too_large(self, size):
        free = self.backend.free()
        known = f"; {free / 2**30:.2g} GB are free" if free is not None else ""
        if isinstance(self.model, keras.Layer):
            known = f", which takes about {size * self.room.size / 2**30:.2g} GB{known}"
        advice = 'Give a smaller batch_size=, or "auto".' if size > 1 else "Explain a smaller input."
        return TooLarge(
            f"Expected a batch that fits into memory, received one of {size} rows of the model{known}. {advice}"
        )

    def _compile(self, what, functions, paths, credit, cells, once):
        def flat(points, side):
            return self.flat(points, side, functions)

        def held(points, side, ys):
            return self.flat(points, side, functions, held=ys)

        def gradients(points, side, index):
            return self.gradients(points, side, index, functions, cells)

        def inner_gradients(points, directions, t, side, index):
            return self.inner_gradients(points, directions, t, side, index, functions, credit, cells)

        if self.inner:
            gradients = inner_gradients
        if self.fill is not None:
            gradients = self._fill_up(gradients)  # outside of what is differentiated, since cells are counted by rows

        if what == "step":
            paths = [chorded(p) if cells else moving(p, self.backend.jvp) for p in paths]
            inner = bool(self.inner)
            if not once:
                return engine.make_step(self.compile(gradients), paths, credit, self.quick, inner)
            return self.compile(engine.make_step(gradients, paths, credit, inner=inner))
        plain = {"flat": flat, "read": self._read, "look": self.look, "held": held, "gradients": gradients}
        return (self.compile if what == "gradients" else self.quick)(plain[what])

    def _fill_up(self, fn):
        def run(points, *others):
            rows = len_of(points[0])
            found = fn(*tree.map_structure(self._filled, (points, *others)))
            return tree.map_structure(lambda y: None if y is None else y[:rows], found, none_is_leaf=True)

        return run

    def compile(self, fn):
        """fn of lists of tensors, compiled as asked for: what differentiates, which takes the time."""
        self._made.append(self.quick(fn, self.compile_mode))
        return self._made[-1]

    def quick(self, fn, compile_mode=None):
        """The same as is quickest to compile; a graph that brings its own `pull` is run as it is."""
        if hasattr(self.model, "pull"):
            return fn
        return self.backend.compile(fn, self.variables, compile_mode or self.backend.COMPILE_MODES[0])

    def dynamic(self, cells):
        """Whether what differentiates takes a new number of rows without compiling again."""
        return self.backend.dynamic(cells, self.compile_mode)

    @property
    def compile_modes(self):
        """The names of how what differentiates has been run."""
        return sorted(set().union(*(getattr(fn, "compile_modes", ()) for fn in self._made)))

    def _read(self, leaves):
        """What passes the places that move, in order."""
        seen = {r.place: [] for r in self.readings}
        self._call(leaves, seen=seen, counts={p: 1 + max(r.call for r in self.readings if r.place == p) for p in seen})
        return [ops.cast(seen[r.place][r.call], self.dtype) for r in self.readings]

    def plain(self, what, functions=()):
        """What `compiled` gives, run as it is written; None where running it so takes longer than compiling it."""
        fn = {"flat": lambda points, side: self.flat(points, side, functions), "read": self._read}[what]
        return fn if hasattr(self.model, "pull") else self.backend.plain(fn, self.variables)

    def compile_again(self, functions):
        """F at the ends, traced anew."""
        return self._compile("flat", functions, None, None, False, True)

    def load(self, arrays, plain=False):
        """Rows of the host arrays -> (ends, side) on the device; `plain` for a few rows once."""
        fed = [self.backend.send(self._feed(i, a)) for i, a in enumerate(arrays)]
        ends = [fed[i] for i in self.moving]
        if self.readings:
            read = (self.plain("read") if plain else None) or self.compiled("read", ())
            ends += read(fed)
        return ends, [fed[i] for i in self.held]

    def holds_ids(self, leaf):
        """Whether an input holds ids, which do not move themselves."""
        read = any(r.place in self.lookups for r in self.readings if leaf in r.leaves)
        return read or self.kinds[leaf] in "iu" + TEXT

    def load_one(self, leaf, array):
        """Rows of one of the arrays on the device."""
        return self.backend.send(self._feed(leaf, array))

    @functools.cached_property
    def inside(self):
        """The layers and operations of the model: looked for once, since eager backends ask at every batch."""
        return operations(self.model)

    def kinked(self, functions=()):
        """Whether F, or a target function, has kinks or steps, as a ReLU has: seen from its operations.

        None where some of them are hidden.
        """
        functions = tuple(functions)
        if functions not in self._kinked:
            ends = [ops.zeros((1, *shape), self.dtype) for shape in self.shapes]
            side = [ops.convert_to_tensor(self._first[i]) for i in self.held]
            told = set()

            def operate(call, xs, rule, rows):
                told.add(rule)
                return self.backend.composite_op(call, xs, rule, rows)

            def run(ends):
                rows = ends[0].shape[0]
                composite_ops = composite_ops_of(self.inside, rows, operate)
                return self.flat(ends, [ops.repeat(s, rows, axis=0) for s in side], functions, composite_ops)

            seen = None if self.opaque else self.backend.has_kinks(run, ends, self.variables)
            self._kinked[functions] = True if seen is False and told & WITH_KINKS else seen
        return self._kinked[functions]

    @property
    def opaque(self):
        """Whether its operations cannot be seen, others having compiled it, or take no two rows, as a cell does."""
        scripts = {"ScriptModule", "ScriptFunction"} & {kind.__name__ for kind in type(self.model).__mro__}
        return bool(scripts) or self.fill == 1 or hasattr(self.model, "pull") or hasattr(self.model, "python_function")

    # ---- looking at the model once -----------------------------------------------------------------------------

    def _find_readings(self, places, first, leaves):
        """Which calls of some layers move in place of the inputs that they read; these do not move themselves."""
        layers = operations(self.model)
        variants = [[self._feed(i, x) for x in _variants(leaf.array, layers)] for i, leaf in enumerate(leaves)]
        self.readings = embedding_inputs.find(self, places, first, variants, self.lookups)
        self._dtypes = {(r.place, r.call): r.dtype for r in self.readings}
        for i in {i for r in self.readings for i in r.leaves}:
            self.roles[i] = "read"

    def _find_inner(self, places, first):
        seen = {p: [] for p in places}

        def look(leaves):
            self._call(leaves, seen=seen)
            for p in places:
                for k, y in enumerate(seen[p]):
                    self.inner.append(Reading(p, k, *row_of(p, (y.shape, _dtype(y)) if ops.is_tensor(y) else None)))
            return []

        with self.backend.inference(self.model):
            self.backend.trace(look, first)
        _refuse_unread(places, self.inner)
        self._dtypes = self._dtypes | {(r.place, r.call): r.dtype for r in self.inner}
        self.repeats = self._one_feeds_another(first)

    def _one_feeds_another(self, first):
        """Whether what passes one inner place goes on to another: their values then count the same flow twice."""
        leaves = [ops.convert_to_tensor(x) for x in first]

        def look(shifts, leaves):
            seen = {r.place: [] for r in self.inner}
            self._call(leaves, added=_at(self.inner, shifts), seen=seen)
            return [ops.cast(seen[r.place][r.call], self.dtype) for r in self.inner]

        run = self.backend.compile(look, self.variables)

        def passing(k, step):
            shifts = [np.full((1, *r.shape), step * (i == k), self.dtype) for i, r in enumerate(self.inner)]
            found = [self.backend.host(y) for y in run([ops.convert_to_tensor(s) for s in shifts], leaves)]
            return found[:k] + found[k + 1 :]

        with self.backend.inference(self.model):
            return len(self.inner) > 1 and any(
                not all(map(np.array_equal, passing(k, 0), passing(k, step)))
                for k in range(len(self.inner))
                for step in (1, -1)
            )

    def _refuse_misfits(self):
        for leaf, name in enumerate(self.names):
            shapes = {r.shape[:-1]: r.shape for r in self.readings if r.leaves == (leaf,)}
            if len(shapes) > 1:
                raise ValueError(
                    f"Expected the layers that read input {name!r} to differ in their last axis only, so that their "
                    f"values stand side by side; received shapes {list(shapes.values())}. Split the input in two, or "
                    "choose one layer with layer=."
                )

    def no_embedding(self, i):
        """What to say of an integer input that no gradient reaches, and what to do about it."""
        name, found = self.names[i], []
        layers = [Place(x, name=x.name) for x in operations(self.model)]

        def look(leaves):
            seen = {Place(p.layer, side): [] for p in layers for side in ("input", "output")}
            self._call(leaves, seen=seen)
            for p in layers:
                fed, made = (seen[Place(p.layer, side)] for side in ("input", "output"))
                floats = [ops.is_tensor(y) and keras.backend.is_float_dtype(_dtype(y)) for y in made]
                if floats and all(floats) and not any(p == r.place for r in self.readings):
                    whole = all(ops.is_tensor(x) and not keras.backend.is_float_dtype(_dtype(x)) for x in fed)
                    found.append((not whole, len(found), p.name))

        with self.backend.inference(self.model):
            self.backend.trace(look, self._given)
        advice = ["explain a function of the floats that the model makes of it, as a one-hot code"]
        if found:
            advice = [f"name the layer that makes floats of it, as layer={min(found)[2]!r}"]
        if len(self.names) > 1:
            advice.append(f'hold it still with baseline={{{name!r}: "fixed"}}')
        advice, kind = ", or ".join(advice), "text" if self.kinds[i] == "U" else "integer"
        return (
            f"Expected an Embedding to read the {kind} input {name!r}, received a model in which none does, so no path "
            f"leads to it. {advice[0].upper()}{advice[1:]}."
        )

    def _settle_integers(self, leaves):
        """Integers that no layer reads are features like any other, unless the model declares them to be integers.

        Those are masks, lengths or segments, and held still beside what can be explained.
        """
        unread = [i for i, role in enumerate(self.roles) if role == "integer"]
        whole = [i for i in unread if (d := leaves[i].declared) and not keras.backend.is_float_dtype(d)]
        for i in unread:
            self.roles[i] = FIXED if i in whole else "moves"
        if whole and all(role == FIXED for role in self.roles):
            raise TypeError(self.no_embedding(whole[0]))

    def _survey(self, first):
        """Layout of the outputs and elements that a row's forward pass produces, from one row's shapes."""
        layers = operations(self.model)
        found = {}

        def look(leaves):
            seen = {Place(layer): [] for layer in layers}
            structure = self._call(leaves, seen=seen)
            found["elements"] = sum(
                int(np.prod([s or 1 for s in y.shape])) for y in tree.flatten(list(seen.values())) if ops.is_tensor(y)
            )
            found["outputs"] = self._chosen(structure)
            if not found["outputs"]:
                raise ValueError(
                    f"Expected output= to name a layer that the model calls, received {self.output.name!r} which it "
                    "does not. Choose another layer."
                )
            found["several"] = not ops.is_tensor(structure)
            return [x for _, x in found["outputs"]]

        with self.backend.inference(self.model):
            if hasattr(self.model, "pull"):
                look(first)
            else:
                self.variables = self.backend.trace(look, first)
        if self.output == "logits" and not self.hidden:
            raise ValueError(
                'Expected a final softmax or sigmoid for output="logits" (an activation argument, an Activation or a '
                f"Softmax layer), received a model in which none makes the output {[n for n, _ in found['outputs']]}. "
                "Leave output= out, since the output may already be logits."
            )
        outputs, dtypes, start = [], [], 0
        for name, x in found["outputs"]:
            if not ops.is_tensor(x):
                raise TypeError(
                    "Expected the model to return a tensor, or a list or dict of tensors; received "
                    f"{type(x).__name__} as {name!r}. Wrap it in a function that returns those to be explained."
                )
            if not len(x.shape) or x.shape[0] not in (1, None):
                raise ValueError(
                    f"Expected output {name!r} with one row for each row of the inputs, received shape "
                    f"{tuple(x.shape)} for one row. Keep the batch axis first; {BESIDE}."
                )
            outputs.append(Output(name, tuple(int(s) for s in x.shape[1:]), start))
            dtypes.append(_dtype(x))
            start += outputs[-1].size
        if isinstance(self.output, Place):
            self.neurons = len(outputs)
        several = found["several"] and len(outputs) > 1
        inputs = sum(int(np.prod(x.shape)) for x in first)
        return outputs, several, dtypes, found["elements"] + inputs

    def _chosen(self, structure):
        """(name, tensor) of the outputs that `output=` leaves."""
        if isinstance(self.output, Place):
            calls = structure if isinstance(structure, list) else [structure]
            return list(zip(labels([self.output] * len(calls)), calls, strict=True))
        if ops.is_tensor(structure) or not isinstance(structure, (list, tuple, dict)):
            flat = [("output", structure)]
        elif isinstance(structure, dict):
            declared = getattr(self.model, "_outputs_struct", None)  # its order: Keras sorts the names on torch
            keys = declared if isinstance(declared, dict) and declared.keys() == structure.keys() else structure
            flat = [(str(k), structure[k]) for k in keys]
        else:
            declared = getattr(self.model, "output_names", None) or []
            names = declared if len(declared) == len(structure) else [f"output_{i}" for i in range(len(structure))]
            flat = list(zip(names, structure, strict=True))
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


def operations(model):
    """Every layer and operation inside a Keras model, the model itself excepted."""
    found, todo = {}, [model] if isinstance(model, keras.Layer) else []
    while todo:
        for op in parts(todo.pop()):
            if id(op) not in found:
                found[id(op)] = op
                todo.append(op)
    return list(found.values())


def quantised(model):
    """Whether a model has layers that Keras has quantised so that they round what passes them."""
    modes = (str(getattr(layer, "quantization_mode", None)) for layer in [model, *operations(model)])
    return any(mode.startswith(("int8", "float8")) for mode in modes)


def parts(node):
    """The layers and operations that a layer holds itself, each once."""
    inner = list(node._flatten_layers(include_self=False, recursive=False)) if isinstance(node, keras.Layer) else []
    inner += list(getattr(node, "operations", []) or [])
    return list({id(op): op for op in inner if not isinstance(op, keras.layers.InputLayer)}.values())


def lookups(model):
    """The outputs of every layer that looks up vectors for ids: Embeddings of Keras, and the framework's own."""
    own = [Place(x, name=x.name) for x in operations(model) if isinstance(x, keras.layers.Embedding)]
    return own + [Place(x, name=name) for name, x in backends.active().lookups([model, *operations(model)])]


def activations(model):
    """(owner, attribute) of every softmax and sigmoid inside a Keras model, however it was written."""
    found = []
    for layer in [model, *operations(model)]:
        if isinstance(layer, keras.layers.Softmax) or type(layer).__name__ in ("Softmax", "Sigmoid"):
            found.append((layer, "call"))
        if getattr(vars(layer).get("activation"), "__name__", None) in ("softmax", "sigmoid"):
            found.append((layer, "activation"))
    return found


def path_dtype(model, leaves):
    """float64 if the model computes in it anywhere, else float32: half precision would merge neighbouring path points.

    A model computes in the dtypes of its weights and layers, and of the inputs that it declares; a function in those
    of its data.
    """
    if isinstance(model, keras.Layer):
        layers = [x for x in (model, *operations(model)) if isinstance(x, keras.Layer)]
        kinds = {v.dtype for v in model.weights} | {layer.compute_dtype for layer in layers}
        kinds |= {leaf.declared for leaf in leaves}
    elif hasattr(model, "parameters"):
        kinds = {str(p.dtype).removeprefix("torch.") for p in model.parameters()}
    else:
        kinds = set()
    if not kinds:
        kinds = {leaf.array.dtype.name for leaf in leaves}
    return backends.active().widest() if "float64" in kinds else "float32"


def calling_convention(model, structure):
    """How the packed inputs become arguments: one, several positional ones, or keywords."""
    inference = {}
    if isinstance(model, keras.Layer):
        inference = {"training": False}
    if isinstance(model, keras.Sequential) or hasattr(model, "_inputs_struct"):
        return lambda packed: ((packed,), inference)
    target = getattr(model, "python_function", None) or getattr(model, "forward", None) or model
    if isinstance(model, keras.Layer):
        target = model.call
    try:
        parameters = inspect.signature(target).parameters.values()
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


def labels(places):
    """A name for each place of a list, in which a place stands once for each call; places may share a name."""
    names, calls, found = Counter(p.name for p in places), Counter(), []
    for p in places:
        found.append(f"{p.name}[{calls[p.name]}]" if names[p.name] > 1 else p.name)
        calls[p.name] += 1
    return found


def _at(readings, tensors):
    return {(r.place, r.call): x for r, x in zip(readings, tensors, strict=True)}


def _refuse_unread(places, readings):
    for place in places:
        if not any(r.place == place for r in readings):
            raise ValueError(
                f"Expected layer {place.name!r} to be called with what comes of an input that moves, received one "
                'that is not. Choose another layer, or let its inputs move (baseline="fixed" holds them still).'
            )


def _differ(found, rows):
    """Whether two numbers of rows differ, as far as they are known: a graph may hold them open."""
    return isinstance(found, int) and isinstance(rows, int) and found != rows


def _refuse_text(leaves):
    for leaf in leaves:
        if leaf.array.dtype.kind in TEXT:
            try:
                ops.convert_to_tensor(leaf.array[:1])
            except Exception as error:
                raise TypeError(
                    f"Expected numbers for input {leaf.name!r}, received text, for which {keras.config.backend()} has "
                    "no tensors. Look it up outside the model, and pass the numbers."
                ) from error


def as_dtype(array, dtype, what):
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


def len_of(x):
    return ops.shape(x)[0]


def _first(args, kwargs):
    return args[0] if args else next(iter(kwargs.values()), None)


def _dtype(x):
    return keras.backend.standardize_dtype(x.dtype)


def elsewhere(leaves, which):
    """The leaves with other, equally valid, values in every entry of some of them: the neighbouring ones."""
    return [_neighbour(x) if i in which else x for i, x in enumerate(leaves)]


def _variants(array, layers):
    """Rows of other, equally valid, values, beginning with what is likeliest to be read differently."""
    row, others = array[:1], [array[k : k + 1] for k in range(1, min(4, len(array)))]
    known = [words[-9:] for x in layers if hasattr(x, "get_vocabulary") and (words := x.get_vocabulary())]
    if array.dtype.kind == "U":
        words = ["", *(w for some in known for w in (*map(str, some[-3:]), " ".join(map(str, some))))]
        return [np.full_like(row, w, dtype=f"U{max(1, len(w))}") for w in words] + others
    if array.dtype.kind in "iu":
        whole = [w for some in known for w in some[-3:] if isinstance(w, (int, np.integer)) and w >= 0]
        others += [row // 2, 0 * row, *(np.full_like(row, w) for w in whole)]
    return [_neighbour(row), *others]


def _neighbour(x):
    if x.dtype.kind in TEXT:
        return np.char.add(x, x.dtype.type("_" if x.dtype.kind == "U" else b"_"))
    return ~x if x.dtype.kind == "b" else np.where(x > 0, x - 1, x + 1).astype(x.dtype)


def _not_differentiable(received):
    return (
        f"Expected a differentiable output, received {received} (as argmax, rounding or a comparison give). "
        "Explain the score before it: choose another output= or target=."
    )
