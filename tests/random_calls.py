"""Random calls of `explain`, good and spoiled: models × methods × forms of inputs, baselines and targets, by seed.

A call ends in an `Explanation` that holds what it promises, or in a ValueError or TypeError of three beats. Whatever
else comes out, an exception of a framework or a warning of NumPy, is a fault. Values are held against a brute sum on
a sample. `make fuzz` runs ten thousand calls on each backend; tests/test_random_calls.py runs the first of them.

    KERAS_BACKEND=torch python tests/random_calls.py 10000 [first seed]
"""

import collections
import itertools
import pathlib
import re
import sys
import tempfile
import traceback
import warnings
from dataclasses import dataclass, field

import keras
import numpy as np
from conftest import formula, scatter
from keras import layers as L
from keras import ops, tree

import aumann

REFERENCE = 2  # to a tolerance, one call of so many is held against a brute sum
NODES = 512  # of the brute sum
COARSE = 307, 211  # of sums that tell how well it is known: where a kink falls among nodes is chance
ROUNDING = 2e-4  # relative, of sums in float32


# ---- models: (make, draw n rows, targets that fit) -----------------------------------------------------------------


def _dense(units, activation=None, **more):
    return L.Dense(units, activation, **more)


def _mlp(activation, out="softmax", units=3):
    return lambda: keras.Sequential([L.Input((4,)), _dense(6, activation), _dense(5, activation), _dense(units, out)])


def _two_inputs():
    a, b = L.Input((3,), name="a"), L.Input((5, 2), name="b")
    h = L.Concatenate(name="joint")([_dense(4, "relu")(a), L.Flatten()(L.Conv1D(3, 2, activation="tanh")(b))])
    return keras.Model({"a": a, "b": b}, {"risk": _dense(1, name="risk")(h), "stage": _dense(3, "softmax")(h)})


def _two_in_a_list():
    a, b = L.Input((3,)), L.Input((2,))
    return keras.Model([a, b], _dense(2)(L.Concatenate()([_dense(4, "elu")(a), b])))


def _tokens():
    ids = L.Input((6,), dtype="int32", name="ids")
    return keras.Model(ids, _dense(2, "softmax")(L.GRU(4)(L.Embedding(9, 3)(ids))))


def _tokens_and_numbers():
    ids, age = L.Input((4,), dtype="int32", name="ids"), L.Input((1,), name="age")
    h = L.Concatenate()([L.Flatten()(L.Embedding(7, 2)(ids)), age])
    return keras.Model({"ids": ids, "age": age}, _dense(1, "sigmoid")(_dense(4, "relu")(h)))


def _signal():
    layers = [L.Input((8, 2)), L.Conv1D(4, 3, activation="relu"), L.MaxPooling1D(2), L.Flatten(), _dense(2)]
    return keras.Sequential(layers)


def _image():
    layers = [L.Input((6, 6, 1)), L.Conv2D(3, 3, activation="gelu"), L.GlobalAveragePooling2D(), _dense(3, "softmax")]
    return keras.Sequential(layers)


def _attention():
    x = L.Input((5, 4))
    h = L.LayerNormalization()(x + L.MultiHeadAttention(2, 2)(x, x))
    return keras.Model(x, _dense(2)(h))  # (n, 5, 2)


def _numbers(*shape):
    return lambda rng, n: rng.normal(size=(n, *shape)).astype("float32")


def _ids(most, length):
    return lambda rng, n: rng.integers(0, most, (n, length)).astype("int32")


def _of(**draws):
    return lambda rng, n: {name: draw(rng, n) for name, draw in draws.items()}


def _in_a_list(*draws):
    return lambda rng, n: [draw(rng, n) for draw in draws]


def _classes(k):
    def draw(rng, n):
        options = [0, k - 1, -1, "predicted", [0, 1], "all", rng.integers(0, k, n), [1, "predicted"]]
        return options[rng.integers(len(options))]

    return draw


def _single(rng, n):
    return [None, 0, [0], "all"][rng.integers(4)]


def _named(rng, n):
    options = ["risk", ("risk", 0), ("stage", 2), ["risk", ("stage", 1)], "all", ("stage", rng.integers(0, 3, n))]
    return options[rng.integers(len(options))]


def _places(rng, n):
    return [(0, 1), (4, 0), [(1, 1), (2, 0)], (rng.integers(0, 5, n), 1), "all"][rng.integers(5)]


MODELS = {
    "relu": (_mlp("relu"), _numbers(4), _classes(3)),
    "tanh": (_mlp("tanh", None, 2), _numbers(4), _classes(2)),
    "one unit": (_mlp("silu", "sigmoid", 1), _numbers(4), _single),
    "two inputs": (_two_inputs, _of(a=_numbers(3), b=_numbers(5, 2)), _named),
    "a list": (_two_in_a_list, _in_a_list(_numbers(3), _numbers(2)), _classes(2)),
    "tokens": (_tokens, _ids(9, 6), _classes(2)),
    "tokens and numbers": (_tokens_and_numbers, _of(ids=_ids(7, 4), age=_numbers(1)), _single),
    "signal": (_signal, _numbers(8, 2), _classes(2)),
    "image": (_image, _numbers(6, 6, 1), _classes(3)),
    "attention": (_attention, _numbers(5, 4), _places),
    "function": (lambda: lambda x: ops.sum(ops.sin(x) * x, axis=-1), _numbers(4), _single),
}
LAYERS = {"relu": "dense_1", "signal": "max_pooling", "two inputs": "joint", "image": "conv"}


# ---- methods and their options -------------------------------------------------------------------------------------

RULES = aumann.gauss_legendre(6), aumann.secant(5), aumann.midpoint(4), aumann.trapezoid(5), aumann.left(3)
METHODS = {
    "IntegratedGradients": [{}, {"tolerance": 0.05, "max_evaluations": 60}, *({"rule": r} for r in RULES)],
    "MeanGradient": [{"rule": RULES[0]}],
    "ImportantDirectionGradients": [{"rule": RULES[0]}, {"max_evaluations": 30}],
    "IntegratedDecisionGradients": [{"rule": RULES[0]}],
    "HypotheticalContributions": [{"rule": RULES[0]}],
    "InputXGradient": [{}],
    "Saliency": [{}, {"output": "logits"}],
    "GuidedIntegratedGradients": [{"steps": 4}],
    "SequentialIntegratedGradients": [{"rule": RULES[0]}],
    "ExpectedGradients": [{"samples": 6}, {"tolerance": 0.5, "max_evaluations": 64}],
    "BlurIntegratedGradients": [{"sigma": 2.0, "rule": RULES[0]}],
    "Conductance": [{"rule": RULES[0]}],
    "InternalInfluence": [{"rule": RULES[0]}],
}
SPOILED_OPTIONS = [
    {"rule": 5}, {"tolerance": "low"}, {"tolerance": -1}, {"batch_size": 0}, {"layer": "nothing"}, {"output": 99},
    {"output": "nothing"}, {"path": 3}, {"devices": "gpu:77"}, {"precision": "half"}, {"compile": "fast"},
    {"max_evaluations": 2}, {"seed": -1}, {"samples": 0}, {"nonsense": 1}, {"steps": 1.5},
]  # fmt: skip


# ---- forms that the same numbers may come in -----------------------------------------------------------------------


def _frozen(x):
    x = x.copy()
    x.flags.writeable = False
    return x


def _frame(x):
    import pandas as pd

    return pd.DataFrame(x, columns=[f"c{i}" for i in range(x.shape[1])]) if x.ndim == 2 else x


FORMS = [
    lambda x: x,
    lambda x: x.astype("float64") if x.dtype.kind == "f" else x.astype("int64"),
    lambda x: x.tolist(),
    _frozen,
    np.asfortranarray,
    lambda x: x[::-1][::-1],
    lambda x: np.repeat(x, 2, axis=0)[::2],
    lambda x: x.astype(x.dtype.newbyteorder(">")),
    lambda x: x.view(np.ndarray),
    ops.convert_to_tensor,
    _frame,
]


# ---- what spoils a call ----------------------------------------------------------------------------------------------


def _set_one(value):
    def spoil(x, rng):
        x = np.array(x, "float64")
        x.flat[rng.integers(max(1, x.size)) if x.size else slice(0)] = value
        return x

    return spoil


def _masked(x, rng):
    return np.ma.masked_array(x, np.arange(np.size(x)).reshape(np.shape(x)) == 0)


def _structured(x, rng):
    return np.zeros(len(x), [("a", "f4"), ("b", "f4")])


SPOILED_ARRAYS = [
    lambda x, rng: None,
    lambda x, rng: 3.5,
    lambda x, rng: "text",
    lambda x, rng: b"bytes",
    lambda x, rng: np.asarray(x).astype(object),
    lambda x, rng: np.asarray(x).astype(str),
    lambda x, rng: np.asarray(x).astype(complex),
    lambda x, rng: np.asarray(x) > 0,
    lambda x, rng: np.abs(np.asarray(x)).astype("uint8"),
    lambda x, rng: np.asarray(x).astype("int64"),
    lambda x, rng: np.full(np.shape(x), 2**63 + 5, "uint64"),
    lambda x, rng: np.zeros(np.shape(x), "datetime64[D]"),
    lambda x, rng: np.asarray(x)[:0],
    lambda x, rng: np.asarray(x)[..., :0],
    lambda x, rng: np.asarray(x)[0],
    lambda x, rng: np.asarray(x)[None],
    lambda x, rng: np.asarray(x)[..., None],
    lambda x, rng: np.asarray(x)[..., :-1],
    lambda x, rng: np.asarray(x).T,
    lambda x, rng: np.float32(2),
    lambda x, rng: [list(range(i + 1)) for i in range(len(x))],
    lambda x, rng: iter(np.asarray(x)),
    lambda x, rng: {1.0, 2.0},
    lambda x, rng: keras.KerasTensor(np.shape(x)),
    lambda x, rng: np.asarray(x) * 0,
    lambda x, rng: -np.asarray(x),
    lambda x, rng: np.zeros(0),
    lambda x, rng: np.sum,
    lambda x, rng: np.ndarray,
    _set_one(np.nan),
    _set_one(np.inf),
    _set_one(1e38),
    _set_one(1e-42),
    _set_one(1e300),
    _masked,
    _structured,
]


def _spoil_leaf(value, rng):
    """One leaf of a structure, or the structure itself."""
    spoil = SPOILED_ARRAYS[rng.integers(len(SPOILED_ARRAYS))]
    if isinstance(value, dict):
        kind = rng.integers(6)
        key = list(value)[rng.integers(len(value))]
        if kind == 0:
            return {k: v for k, v in value.items() if k != key}
        if kind == 1:
            return {**value, "another": value[key]}
        if kind == 2:
            return {("other" if k == key else k): v for k, v in value.items()}
        if kind == 3:
            return list(value.values())
        return {**value, key: spoil(value[key], rng)}
    if isinstance(value, list) and value and hasattr(value[0], "shape"):
        kind = rng.integers(4)
        if kind == 0:
            return value[:-1]
        if kind == 1:
            return [value]
        i = rng.integers(len(value))
        return [spoil(v, rng) if i == j else v for j, v in enumerate(value)]
    return spoil(np.asarray(keras.ops.convert_to_numpy(value) if keras.ops.is_tensor(value) else value), rng)


SPOILED_BASELINES = [
    None, "mean", "fixed", "", np.nan, np.inf, [], {}, {"nothing": 0.0}, True, 1e38, 1e300, 2**70, 1j,
    np.ones((3, 3, 3)), np.zeros(0), lambda x: None, lambda x: np.zeros(77), lambda x: "text", lambda: 0, np.zeros,
    [0.0], [None],
    [[0.0], [1.0, 2.0]], {"a": "fixed"}, {"a": "fixed", "b": "fixed"}, {"ids": 1.5}, {"ids": -1}, {"ids": 10**6},
    np.array(["a"]), object(), Ellipsis, slice(None), -1, 3, 0.5, np.float16(0.25), np.zeros((1, 1)),
]  # fmt: skip
SPOILED_TARGETS = [
    None, -99, 99, 1.5, True, "nothing", "", [], [[]], (), ("risk",), ("nothing", 0), ("stage", 7), (0, 0, 0, 0),
    np.zeros(77, int), np.array([0.5]), np.array([10**12]), np.zeros((2, 2), int), Ellipsis, slice(2), {}, {1},
    object(), lambda o: None, lambda o: 1.0, lambda o: o, lambda o: ops.sum(o), lambda o: ops.argmax(o, axis=-1),
    [0, [1]],
    lambda: 0, np.nan, 2**70, b"x", [None], ["predicted", "predicted"], np.int8(0), np.uint64(0), np.array(0), [-1, 0],
]  # fmt: skip


# ---- one call --------------------------------------------------------------------------------------------------------


@dataclass
class Call:
    """One random call.

    Attributes:
        seed: it is drawn from that alone.
        model, method, options: names of the tables above, and keywords.
        inputs, baseline, target: as `explain` gets them.
        plain: the inputs before they were given a form.
        rows: of the inputs, before they were spoiled.
        spoiled: what was spoiled.
    """

    seed: int
    model: str
    method: str
    options: dict
    inputs: object
    baseline: object
    target: object
    plain: object
    rows: int
    spoiled: list = field(default_factory=list)


def _baseline(rng, plain):
    def one(x):
        if x.dtype.kind == "i":
            return [0, 1, 0.0, x[0], x[::-1].copy()][rng.integers(5)]
        options = [0.0, 0.25, x.mean(0), x[::-1].copy(), 1, np.zeros(x.shape[1:])]
        return options[rng.integers(len(options))]

    if isinstance(plain, dict):
        chosen = {k: one(v) for k, v in plain.items()}
        return [chosen, {next(iter(chosen)): chosen[next(iter(chosen))]}, 0.0][rng.integers(3)]
    if isinstance(plain, list):
        return [[one(v) for v in plain], 0.0][rng.integers(2)]
    sets = [aumann.baselines.weighted(plain), aumann.baselines.weighted(plain, np.arange(1.0, len(plain) + 1))]
    return [one(plain), one(plain), one(plain), sets[rng.integers(2)]][rng.integers(4)]


def draw(seed):
    """The call of a seed."""
    rng = np.random.default_rng(seed)
    model = list(MODELS)[rng.integers(len(MODELS))]
    _, inputs, targets = MODELS[model]
    method = list(METHODS)[rng.integers(len(METHODS))] if rng.random() < 0.6 else "IntegratedGradients"
    choice = rng.integers(len(METHODS[method])) if rng.random() < 0.6 else 0
    options = dict(METHODS[method][choice])
    if method in ("Conductance", "InternalInfluence"):
        options["layer"] = LAYERS.get(model, "dense")
    n = int(rng.choice([1, 2, 3, 5]))
    plain = inputs(rng, n)
    form = FORMS[rng.integers(len(FORMS))]
    call = Call(
        seed, model, method, options, tree.map_structure(form, plain), _baseline(rng, plain), targets(rng, n), plain, n
    )
    for what in rng.choice(["inputs", "baseline", "target", "options"], p=[0.4, 0.3, 0.25, 0.05], size=rng.integers(3)):
        if rng.random() < 0.4:
            continue
        if what == "inputs":
            call.inputs = _spoil_leaf(plain, rng)
        elif what == "baseline":
            kinds = SPOILED_BASELINES + [_spoil_leaf(plain, rng), aumann.baselines.weighted]
            call.baseline = kinds[rng.integers(len(kinds))]
        elif what == "target":
            call.target = SPOILED_TARGETS[rng.integers(len(SPOILED_TARGETS))]
        else:
            call.options = {**options, **SPOILED_OPTIONS[rng.integers(len(SPOILED_OPTIONS))]}
        call.spoiled.append(str(what))
    return call


class Session:
    """Models and explainers, made once."""

    def __init__(self):
        self.models, self.explainers = {}, {}

    def model(self, name):
        if name not in self.models:
            keras.utils.set_random_seed(1)
            made = MODELS[name][0]()
            self.models[name] = scatter(made, 3) if isinstance(made, keras.Layer) else made
        return self.models[name]

    def explainer(self, call):
        key = call.model, call.method, str(call.options)
        if key not in self.explainers:
            self.explainers[key] = getattr(aumann, call.method)(self.model(call.model), **call.options)
        return self.explainers[key]


@dataclass
class Outcome:
    """What came of a call.

    Attributes:
        kind: "answer", "refused" or "fault".
        about: of a fault, what it is.
        rows, wrong: held against a brute sum: how many, and how many of them worse than they were said to be.
    """

    kind: str
    about: str = ""
    rows: int = 0
    wrong: int = 0


def run(call, session):
    """Makes the call and judges what comes of it."""
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        try:
            e = session.explainer(call).explain(call.inputs, target=call.target, baseline=call.baseline)
            outcome = _judge(call, e, session, seen)
        except (ValueError, TypeError) as error:
            outcome = _refusal(error)
        except Exception as error:
            outcome = Outcome("fault", f"{type(error).__name__}: {error}"[:300] + _where(error))
    own = (aumann.CompletenessWarning, aumann.ToleranceWarning)
    for w in seen:
        if issubclass(w.category, own):
            continue
        if issubclass(w.category, RuntimeWarning) or "aumann" in w.filename or "numpy" in w.filename:
            return Outcome("fault", f"{w.category.__name__}: {w.message} at {w.filename}:{w.lineno}"[:300])
    return outcome


def _where(error):
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "/aumann/" in f.filename]
    return f" at {pathlib.Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""


def _refusal(error):
    """Three beats, unless Python itself tells of an unknown keyword."""
    text = str(error)
    if re.match(r"Expected .+received .+\. .+\.", text, re.DOTALL) or "unexpected keyword argument" in text:
        return Outcome("refused", text[:120])
    return Outcome("fault", f"{type(error).__name__} of another form: {text}"[:300] + _where(error))


def _judge(call, e, session, seen):
    """Whether an explanation holds what every explanation promises."""
    said = any(issubclass(w.category, (aumann.CompletenessWarning, aumann.ToleranceWarning)) for w in seen)
    values = tree.flatten(e.values)
    if not all(np.isfinite(v).all() for v in values) and not said:
        return Outcome("fault", "values are not finite, and nothing is said")
    if not (np.isfinite(e.prediction).all() and np.isfinite(e.base_value).all()):
        return Outcome("fault", "prediction or base value is not finite")
    if any(v.shape[: e.prediction.ndim] != e.prediction.shape for v in values):
        return Outcome("fault", f"shapes {[v.shape for v in values]} of values for predictions {e.prediction.shape}")
    with np.errstate(invalid="ignore"):  # infinities of both signs, of which a warning has told
        total = sum(v.reshape(*e.prediction.shape, -1).sum(-1, dtype=np.float64) for v in values)
        off = np.abs(e.residual - (total - (e.prediction - e.base_value)))
    mass = sum(np.abs(v.astype(np.float64)).reshape(*e.prediction.shape, -1).sum(-1) for v in values)
    if not (off <= 1e-5 * (1 + mass + np.abs(e.prediction) + np.abs(e.base_value)))[np.isfinite(mass)].all():
        return Outcome("fault", f"residual is off by {off.max():.2g}")
    if e.error is not None and not (e.error >= 0).all():
        return Outcome("fault", f"error {e.error}")
    if e.converged is not None and not e.converged.all() and not said:
        return Outcome("fault", "a row did not converge, and nothing is said")
    about = _afterwards(call, e)
    if about:
        return Outcome("fault", about)
    return _against_a_brute_sum(call, e, session)


def _afterwards(call, e):
    """What can be done with an explanation."""
    rng = np.random.default_rng(call.seed + 1)
    n = len(e.prediction)
    which = rng.integers(8)
    if which == 0:
        repr(e), e._repr_html_()
    elif which == 1:
        one = e[[int(rng.integers(n))]]
        if len(one.prediction) != 1:
            return "one row of an explanation has another number of rows"
    elif which == 2:
        with tempfile.TemporaryDirectory() as folder:
            again = aumann.load(e.save(f"{folder}/e") or f"{folder}/e")
        pairs = zip(tree.flatten(again.values), tree.flatten(e.values), strict=True)
        if not all(np.array_equal(a, b, equal_nan=True) for a, b in pairs):
            return "what was saved is not what is loaded"
    elif which == 3:
        e.sum()
    elif which == 4:
        e.to_dataframe()
    return None


def _against_a_brute_sum(call, e, session):
    """The rows held against a sum of its own: the rule's own nodes for a rule, many for a tolerance.

    A rule must give its sum to rounding; a tolerance must err by no more than `error` says.
    """
    rule = call.options.get("rule")
    if call.model.startswith("tokens") or call.model == "two inputs" or call.method != "IntegratedGradients":
        return Outcome("answer")
    if call.spoiled or (rule and rule.cells) or not (rule or call.seed % REFERENCE == 0):
        return Outcome("answer")
    model, xs = session.model(call.model), tree.flatten(call.plain)
    call_model = (lambda x: model(x, training=False)) if isinstance(model, keras.Layer) else model
    flat = np.asarray(
        ops.convert_to_numpy(call_model([ops.convert_to_tensor(x) for x in xs] if len(xs) > 1 else xs[0]))
    )
    index = _positions(call.target, flat.reshape(call.rows, *flat.shape[1:] or (1,)))
    starts = call.baseline if isinstance(call.baseline, list) else [call.baseline] * len(xs)
    weighted = isinstance(call.baseline, aumann.baselines.Weighted)
    sets = [[row] for row in call.baseline.rows] if weighted else [starts]
    weights = (
        np.full(len(sets), 1 / len(sets)) if not weighted or call.baseline.weights is None else call.baseline.weights
    )
    several = e.prediction.ndim > 1
    rows = wrong = 0
    for k in range(index.shape[1]):

        def value(points, k=k):
            y = call_model(points[0] if len(points) == 1 else points)
            y = ops.reshape(y, (y.shape[0], -1))
            own = np.tile(index[:, k : k + 1], (y.shape[0] // call.rows, 1)).astype("int32")
            return ops.take_along_axis(y, ops.convert_to_tensor(own), axis=1)[:, 0]

        def brute(rule, value=value):
            parts = [formula(value, xs, start, rule) for start in sets]
            mean = [
                sum(w * np.float64(v) for w, v in zip(weights, of, strict=True))
                for of in zip(*(p[0] for p in parts), strict=True)
            ]
            return mean, parts[0][1], sum(w * p[2] for w, p in zip(weights, parts, strict=True))

        truth, x_value, start_value = brute(rule or aumann.midpoint(NODES))
        others = [truth] if rule else [brute(aumann.midpoint(n))[0] for n in COARSE]
        own = (lambda a, k=k: a[:, k]) if several else (lambda a: a)
        for what, found, right in (("x", own(e.prediction), x_value), ("x'", own(e.base_value), start_value)):
            if np.abs(found - right).max() > 1e-4 * (1 + np.abs(right).max()):
                return Outcome("fault", f"F({what}) is {found}, should be {right}")
        mass = sum(np.abs(t).reshape(len(t), -1).sum(1) for t in truth)
        off = _distance([own(v) for v in tree.flatten(e.values)], truth)
        unsure = sum(_distance(other, truth) for other in others)
        error = 0 if rule else own(e.error)
        off = np.maximum(off - unsure - ROUNDING * (mass + np.abs(x_value) + np.abs(start_value)), 0)
        if rule and off.any():
            return Outcome("fault", f"values are off by {(off / mass).round(4)}, of a rule's own sum")
        rows, wrong = rows + len(mass), wrong + int((off > error * mass).sum())
    return Outcome("answer", rows=rows, wrong=wrong)


def _distance(some, others):
    """L1, by row."""
    return sum(np.abs(np.float64(a) - b).reshape(len(b), -1).sum(1) for a, b in zip(some, others, strict=True))


def _positions(target, outputs):
    """Where the targets are in the outputs of a row laid end to end: (rows, targets)."""
    n, *shape = outputs.shape
    flat = outputs.reshape(n, -1)

    def one(t):
        if t is None or (isinstance(t, str) and t == "predicted"):
            return np.zeros(n, int) if t is None else flat.argmax(1)
        index = t if isinstance(t, tuple) else (t,)
        index = [np.where(np.broadcast_to(i, n) < 0, np.add(i, s), i) for i, s in zip(index, shape, strict=True)]
        return np.ravel_multi_index(index, shape)

    if isinstance(target, str) and target == "all":
        return np.tile(np.arange(flat.shape[1]), (n, 1))
    return np.stack([one(t) for t in target] if isinstance(target, list) else [one(target)], axis=1)


def summary(seeds, every=None):
    """Runs calls. Returns (counts of the kinds, faults as (call, outcome), rows held against a sum, those wrong)."""
    session, kinds, faults, rows, wrong = Session(), collections.Counter(), [], 0, 0
    for k, seed in enumerate(seeds):
        call = draw(seed)
        outcome = run(call, session)
        kinds[outcome.kind] += 1
        rows, wrong = rows + outcome.rows, wrong + outcome.wrong
        if outcome.kind == "fault":
            faults.append((call, outcome))
            if every:
                print(_line(call, outcome), flush=True)
        if every and (k + 1) % every == 0:
            print(f"{k + 1} calls: {dict(kinds)}; {wrong} of {rows} rows worse than said", flush=True)
    return kinds, faults, rows, wrong


def _line(call, outcome):
    def short(x):
        leaves = [f"{type(v).__name__}{getattr(v, 'shape', '')}" for v in tree.flatten(x)]
        return f"{type(x).__name__}[{', '.join(leaves[:4])}]" if isinstance(x, (list, dict)) else f"{x!r:.60}"

    inputs, baseline = short(call.inputs), short(call.baseline)
    return (
        f"seed {call.seed}: {call.method}({call.model!r}, {call.options}) inputs {inputs}, baseline {baseline}, target "
        f"{call.target!r:.60}, spoiled {call.spoiled}: {outcome.about}"
    ).replace("\n", " ")


if __name__ == "__main__":
    count, first = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0
    kinds, faults, rows, wrong = summary(itertools.islice(itertools.count(first), count), every=500)
    sys.exit(bool(faults) or wrong > 0.02 * rows)
