"""Guided integrated gradients: PAIR's published numbers, a reference for one row at a time, batches, bad input."""

import keras
import numpy as np
import pytest
from conftest import close, host, mlp, scatter, unchanged
from keras import ops

import aumann
from aumann import GuidedIntegratedGradients as Guided


def linear(x):
    return 2 * x[:, 0] + x[:, 1]


def independent(x):
    return 2 * x[:, 0] ** 2 + x[:, 1] ** 2


def dependent(x):
    return (2 * x[:, 0] + x[:, 1]) ** 2


THREES = np.array([[3.0, 3.0]], "float32")

# F, x, x′, steps, fraction, distance, values: the numbers of the tests of PAIR's saliency 0.2.1.
PUBLISHED = {
    "linear": (linear, [[10.0, 5.0]], [-1.0, -3.0], 10, 0.1, 0.5, [22, 8]),
    "linear, from zero": (linear, [[10.0, 5.0]], 0.0, 10, 0.1, 0.5, [20, 5]),
    "independent": (independent, THREES, 0.0, 1000, 0.1, 0.4, [18, 9]),
    "independent, downwards": (independent, 0 * THREES, 3.0, 1000, 0.1, 0.4, [-18, -9]),
    "no distance": (dependent, THREES, 0.0, 1000, 0.1, 0.0, [54, 27]),
    "all features": (dependent, THREES, 0.0, 1000, 1.0, 0.5, [54, 27]),
    "unbounded": (dependent, THREES, 0.0, 1000, 0.1, 1.0, [72, 9]),
}


@pytest.mark.parametrize("case", PUBLISHED)
def test_published_numbers(case):
    fn, x, base, steps, fraction, distance, expected = PUBLISHED[case]
    method = Guided(fn, steps=steps, fraction=fraction, distance=distance)
    e = method.explain(np.array(x, "float32"), baseline=base)
    assert np.allclose(e.values, expected, rtol=0.01)
    assert e.evaluations == steps + 1 and abs(e.residual[0]) < 1e-3


def test_published_bounds():
    """Between the straight path and the unbounded one, and complete."""
    e = Guided(dependent, steps=1000, fraction=0.1, distance=0.2).explain(THREES)
    assert 55 < e.values[0, 0] < 71 and 10 < e.values[0, 1] < 26
    assert abs(e.values.sum() - 81) < 0.1


def reference(slope, x, base, steps, fraction, distance):
    """One row, as the paper has it, written feature by feature; mean of the slopes at the ends of each step."""
    x, base = [np.asarray(a, float).ravel() for a in (x, base)]
    at, total = base.copy(), np.abs(x - base).sum()
    values, g = np.zeros_like(x), slope(at)
    for k in range(steps):
        old, share = at.copy(), (k + 1) / steps
        low, high = max(share - distance, 0), min(share + distance, 1)
        top = [b + high * (a - b) if high < 1 else a for a, b in zip(x, base, strict=True)]
        for i in range(len(x)):
            if x[i] != base[i] and (at[i] - base[i]) / (x[i] - base[i]) < low:
                at[i] = base[i] + low * (x[i] - base[i])
        while True:
            need = np.abs(x - at).sum() - total * (1 - share)
            open_ = [i for i in range(len(x)) if abs(at[i] - top[i]) > 1e-12]
            if need < 1e-9 * total or not open_:
                break
            keys = sorted([abs(g[i]) for i in open_] + [np.inf] * (len(x) - len(open_)))
            chosen = [i for i in open_ if abs(g[i]) <= keys[int(np.floor(fraction * (len(x) - 1)))]]
            can = sum(abs(top[i] - at[i]) for i in chosen)
            part = min(need / can, 1)
            for i in chosen:
                at[i] = top[i] if part == 1 else at[i] + part * (top[i] - at[i])
        new = slope(at)
        values += (at - old) * (g + new) / 2
        g = new
    return values


@pytest.mark.parametrize("options", [(20, 0.25, 0.1), (7, 0.5, 1.0), (30, 0.0, 0.02)])
def test_against_one_row_at_a_time(rng, options):
    model = mlp(features=6)
    x, base = rng.normal(size=(5, 6)).astype("float32"), rng.normal(size=(5, 6)).astype("float32")
    x[:, 2] = base[:, 2]  # nowhere to go
    steps, fraction, distance = options
    with unchanged(model):
        method = Guided(model, steps=steps, fraction=fraction, distance=distance)
        e = method.explain(x, target=[0, 2], baseline=base)
    (w, b), (v, c) = (map(host, layer.weights) for layer in model.layers)
    for k, target in enumerate((0, 2)):

        def slope(at, target=target):
            h = np.tanh(at.astype("float32") @ w + b)
            p = np.exp(h @ v + c) / np.exp(h @ v + c).sum()
            return w @ ((1 - h**2) * (v @ (p[target] * (np.eye(3)[target] - p))))

        for row in range(5):
            close(e.values[row, k], reference(slope, x[row], base[row], *options), scale=np.abs(e.values[row, k]).sum())
    assert (e.values[:, :, 2] == 0).all() and (e.evaluations == 2 * (steps + 1)).all()


def test_rows_batches_and_sets(rng, classifier, x):
    bases = rng.normal(size=(3, 4)).astype("float32")
    chosen = np.array([0, 2, 1, 1, 0])
    method = Guided(classifier, steps=12)
    together = method.explain(x, target=chosen, baseline=aumann.baselines.weighted(bases, [1, 2, 5]))
    alone = [method.explain(x, target=chosen, baseline=b).values for b in bases]
    close(together.values, np.average(alone, axis=0, weights=[1, 2, 5]))
    small = Guided(classifier, steps=12, batch_size=2)
    close(small.explain(x, target=chosen, baseline=bases[0]).values, alone[0])
    close(small.explain(x[3:4], target=1, baseline=bases[0]).values, alone[0][3:4])
    for other in (
        Guided(classifier, steps=13),
        Guided(classifier, steps=12, fraction=0.9),
        Guided(classifier, steps=12, distance=0.3),
    ):
        assert np.abs(other.explain(x, target=chosen, baseline=bases[0]).values - alone[0]).max() > 1e-5


def test_inputs_walk_together(rng):
    """Two inputs give what one input of their features side by side gives; ids move at their embedding."""
    a, b = keras.layers.Input((2,), name="a"), keras.layers.Input((3,), name="b")
    tail = keras.Sequential([keras.layers.Input((5,)), keras.layers.Dense(6, activation="tanh"), keras.layers.Dense(1)])
    scatter(tail)
    two = keras.Model({"a": a, "b": b}, tail(keras.layers.Concatenate()([a, b])))
    x = rng.normal(size=(4, 5)).astype("float32")
    one = Guided(tail, steps=15, distance=0.3).explain(x).values
    e = Guided(two, steps=15, distance=0.3).explain({"a": x[:, :2], "b": x[:, 2:]})
    close(np.concatenate([e.values["a"], e.values["b"]], axis=1), one)
    ids = keras.Sequential(
        [keras.layers.Input((3,), dtype="int32"), keras.layers.Embedding(9, 2), keras.layers.Flatten()]
    )
    ids.add(keras.layers.Dense(1, activation="tanh"))
    e = Guided(scatter(ids), steps=40).explain(np.array([[1, 5, 8]]), baseline=0)
    assert e.values.shape == (1, 3, 2) and abs(e.residual[0]) < 0.02 * np.abs(e.values).sum()


def test_an_input_without_influence(rng):
    a, b = keras.layers.Input((2,), name="a"), keras.layers.Input((3,), name="b")
    model = scatter(keras.Model({"a": a, "b": b}, keras.layers.Dense(1, activation="tanh")(a)))
    x = {"a": rng.normal(size=(2, 2)).astype("float32"), "b": rng.normal(size=(2, 3)).astype("float32")}
    e = Guided(model, steps=50).explain(x)
    assert not e.values["b"].any() and np.abs(e.residual).max() < 0.01


def test_large_numbers_arrive():
    """Where rounding is larger than any fixed distance: pixels to 255, of which there are many."""
    x = np.random.default_rng(0).uniform(0, 255, (2, 4000)).astype("float32")
    e = Guided(lambda x: ops.sum(x, axis=1), steps=9).explain(x)
    close(e.values, x)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"steps": 0}, "steps to be a whole number"),
        ({"steps": 2.5}, "steps to be a whole number"),
        ({"fraction": 1.5}, "fraction in "),
        ({"distance": -0.1}, "distance in "),
        ({"distance": "far"}, "distance in "),
    ],
)
def test_what_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Guided(linear, **options)
