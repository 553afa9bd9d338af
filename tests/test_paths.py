"""Paths: closed forms on curves, completeness over chords, and what is refused."""

import itertools

import keras
import numpy as np
import pytest
from conftest import close, float64, mlp, scatter, unchanged
from keras import ops

import aumann


def product(x):
    """F = x₀ x₁, whose values depend on the way: φ₀ = ∫ x₁ dx₀."""
    return x[:, 0] * x[:, 1]


def bowed(start, end, t):
    """x₀ goes as t, x₁ as t³."""
    power = ops.convert_to_tensor(np.array([1.0, 3.0], "float32"))
    return start + (end - start) * t**power


def relu_net(features=4, seed=0):
    layers = [keras.layers.Input((features,)), *(keras.layers.Dense(9, activation="relu") for _ in range(2))]
    return scatter(keras.Sequential([*layers, keras.layers.Dense(2)]), seed)


def arc(start, end, t):
    """A curve with bends of another size for each feature, from start to end."""
    size = ops.convert_to_tensor(np.array([1.0, -2.0, 0.5, 3.0], "float32"))
    return start + t * (end - start) + size * t * (1 - t)


def test_a_curve_gives_the_integral_along_it():
    """∫ x₁ dx₀ with x₁ = b t³, x₀ = a t is ab/4."""
    x = np.array([[2.0, 3.0], [-1.0, 4.0]], "float32")
    for options in ({"rule": aumann.gauss_legendre(4)}, {"tolerance": 1e-5}):
        e = aumann.IntegratedGradients(product, path=bowed, **options).explain(x)
        close(e.values, np.stack([x.prod(1) / 4, x.prod(1) * 3 / 4], axis=1))
        assert e.provenance["path"] == "bowed"


def test_velocity_given_or_derived():
    def both(start, end, t):
        power = ops.convert_to_tensor(np.array([1.0, 3.0], "float32"))
        return start + (end - start) * t**power, (end - start) * power * t ** (power - 1)

    x = np.array([[2.0, 3.0], [-1.0, 4.0]], "float32")
    rule = aumann.gauss_legendre(3)
    given, derived = (
        aumann.IntegratedGradients(product, path=p, rule=rule).explain(x, baseline=0.5) for p in (both, bowed)
    )
    close(given.values, derived.values)


@pytest.mark.parametrize("n", [1, 2, 7])
@pytest.mark.parametrize("batch_size", [3, 64])
def test_chords_telescope_on_any_curve(rng, n, batch_size):
    """A ReLU network is complete to rounding at any number of cells, whatever shares a batch or is cut."""
    model, x = relu_net(), rng.normal(size=(3, 4)).astype("float32")
    bases = aumann.baselines.weighted(rng.normal(size=(2, 4)), [1, 3])
    method = aumann.IntegratedGradients(model, path=arc, rule=aumann.secant(n), batch_size=batch_size)
    with unchanged(model):
        e = method.explain(x, target=1, baseline=bases)
    assert np.abs(e.residual).max() < 2e-5 * np.abs(e.values).sum(1).max()


def test_chords_are_of_second_order(rng):
    model, x = relu_net(), rng.normal(size=(4, 4)).astype("float32")

    def values(n):
        return aumann.IntegratedGradients(model, path=arc, rule=aumann.secant(n)).explain(x, target=0).values

    best = values(2048)
    errors = [np.abs(values(n) - best).sum() for n in (8, 64)]
    assert errors[1] < errors[0] / 20  # 64 by the law, 8 at first order


def test_tolerance_on_a_curve(rng):
    """Smooth networks and networks with kinks alike."""
    x = rng.normal(size=(6, 4)).astype("float32")
    for model, exact in ((mlp(), aumann.gauss_legendre(64)), (relu_net(), aumann.secant(1500))):
        e = aumann.IntegratedGradients(model, path=arc, tolerance=0.01).explain(x, target=0)
        truth = aumann.IntegratedGradients(model, path=arc, rule=exact).explain(x, target=0).values
        assert e.converged.all() and (np.abs(e.values - truth).sum(1) <= 0.01 * np.abs(truth).sum(1)).all()


def test_polyline_along_the_axes():
    """First x₀, then x₁: all of x₀ x₁ is due to x₁; the other way round to x₀; shared corners or each row its own."""
    x = np.array([[2.0, 3.0], [-1.0, 4.0]], "float32")
    first = np.stack([x[:, 0], 0 * x[:, 0]], axis=1)[:, None]
    second = np.stack([0 * x[:, 1], x[:, 1]], axis=1)[:, None]
    for corner, share in ((first, [0, 1]), (second, [1, 0])):
        e = aumann.IntegratedGradients(product, path=aumann.Polyline(corner), tolerance=1e-3).explain(x)
        assert np.abs(e.values - x.prod(1)[:, None] * np.array(share)).max() < 1e-2
        assert np.abs(e.residual).max() < 1e-5 and e.provenance["rule"].startswith("secants")
    e = aumann.IntegratedGradients(product, path=aumann.Polyline(np.array([[2.0, 0.0]])), tolerance=1e-3).explain(x[:1])
    assert np.abs(e.values - [0, 6]).max() < 1e-2


def test_a_polyline_is_the_sum_of_its_pieces(rng):
    """Σ over pieces of the integrated gradients from each waypoint to the next."""
    model = mlp()
    x, w = rng.normal(size=(3, 4)).astype("float32"), rng.normal(size=(3, 2, 4)).astype("float32")
    base = rng.normal(size=(4,)).astype("float32")
    piece = aumann.IntegratedGradients(model, rule=aumann.gauss_legendre(30))
    corners = [np.broadcast_to(base, x.shape), w[:, 0], w[:, 1], x]
    expected = sum(piece.explain(b, target=2, baseline=a).values for a, b in itertools.pairwise(corners))
    e = aumann.IntegratedGradients(model, path=aumann.Polyline(w), tolerance=1e-3).explain(x, target=2, baseline=base)
    assert np.abs(e.values - expected).max() < 1e-3 * np.abs(expected).sum(1).max()
    alone = aumann.IntegratedGradients(model, path=aumann.Polyline(w[1:2]), tolerance=1e-3)
    close(alone.explain(x[1:2], target=2, baseline=base).values, e.values[1:2])
    small = aumann.IntegratedGradients(model, path=aumann.Polyline(w), tolerance=1e-3, batch_size=7)
    close(small.explain(x, target=2, baseline=base).values, e.values)


def test_each_input_has_its_own_path(rng):
    inputs = {"a": keras.layers.Input((2,), name="a"), "b": keras.layers.Input((2,), name="b")}
    joined = keras.layers.Concatenate()([inputs["a"], inputs["b"]])
    model = scatter(keras.Model(inputs, keras.layers.Dense(1)(keras.layers.Dense(6, activation="tanh")(joined))))
    x = {k: rng.normal(size=(3, 2)).astype("float32") for k in "ab"}
    rule = aumann.gauss_legendre(20)
    named = aumann.IntegratedGradients(model, rule=rule, path={"b": bowed}).explain(x)
    listed = aumann.IntegratedGradients(model, rule=rule, path=[aumann.core.paths.straight, bowed]).explain(x)
    close(named.values, listed.values)
    plain = aumann.IntegratedGradients(model, rule=rule).explain(x)
    assert np.abs(named.values["a"] - plain.values["a"]).max() > 1e-3
    assert np.abs(named.residual).max() < 1e-5


def spots():
    """The image of the tests of PAIR's saliency: black but for two pixels near the centre."""
    image = np.zeros((1, 5, 5, 1), "float32")
    image[0, 1, 1, 0], image[0, 2, 2, 0] = 0.7, 1.0
    return image


def blurred(x, sigma, axes):
    """The same by scipy, cut off far out."""
    filters = pytest.importorskip("scipy.ndimage")
    return filters.gaussian_filter(x, [sigma if a in axes else 0 for a in range(x.ndim)], mode="constant", truncate=12)


def sines(x):
    return ops.sum(ops.sin(x), axis=tuple(range(1, len(x.shape))))


def test_blur_as_published():
    """F = Σ sin x has φ = sin x − sin(blurred x), pixel by pixel; 0.641 and 0.838 in PAIR's test."""
    e = aumann.BlurIntegratedGradients(sines, sigma=10, tolerance=1e-4).explain(spots())
    expected = np.sin(spots()) - np.sin(blurred(spots(), 10, (1, 2)))
    assert np.abs(e.values - expected).max() < 1e-4
    assert e.values[0, 1, 1, 0].round(2) == 0.64 and e.values[0, 2, 2, 0].round(2) == 0.84
    assert (e.values != 0).all() and abs(e.residual[0]) < 1e-4
    assert e.provenance["path"] == "Blur(sigma=10, axes=None)"


@pytest.mark.parametrize("shape, axes", [((9,), None), ((9, 2), None), ((3, 8, 6), (1, 2)), ((3, 4, 3, 1), None)])
def test_blur_of_any_rank(rng, shape, axes):
    """Signals, channels first, volumes: the values of Σ sin x tell where the path begins, pixel by pixel."""
    x = rng.normal(size=(3, *shape)).astype("float32")
    method = aumann.BlurIntegratedGradients(sines, sigma=2.5, axes=axes, rule=aumann.gauss_legendre(40))
    e = method.explain(x)
    along = tuple(a + 1 for a in axes or range(max(1, len(shape) - 1)))
    close(e.baseline, blurred(x.astype("float64"), 2.5, along))
    assert np.abs(e.values - np.sin(x) + np.sin(e.baseline)).max() < 1e-3
    close(method.explain(x[1:2]).values, e.values[1:2])


def test_blur_needs_no_batch_size():
    """A published one depends on it, for it takes the width of one step for a whole batch."""
    rule = aumann.gauss_legendre(30)
    one, all = (
        aumann.BlurIntegratedGradients(sines, sigma=3, rule=rule, batch_size=b).explain(spots()) for b in (1, 64)
    )
    close(one.values, all.values)


def test_blur_of_a_network_with_kinks(rng):
    """Complete to rounding, and different for another sigma."""
    model = scatter(
        keras.Sequential(
            [
                keras.layers.Input((6, 6, 2)),
                keras.layers.Conv2D(4, 3, activation="relu"),
                keras.layers.MaxPooling2D(),
                keras.layers.Flatten(),
                keras.layers.Dense(2),
            ]
        )
    )
    x = rng.normal(size=(4, 6, 6, 2)).astype("float32")
    with unchanged(model):
        e = aumann.BlurIntegratedGradients(model, sigma=4.0).explain(x, target="predicted")
    assert e.converged.all() and np.abs(e.residual).max() < 1e-4
    other = aumann.BlurIntegratedGradients(model, sigma=1.0).explain(x, target="predicted")
    assert np.abs(other.values - e.values).max() > 1e-3


def test_blur_beside_an_input_that_goes_straight(rng):
    inputs = {"image": keras.layers.Input((6, 2), name="image"), "age": keras.layers.Input((1,), name="age")}
    both = keras.layers.Concatenate()([keras.layers.Flatten()(inputs["image"]), inputs["age"]])
    model = scatter(keras.Model(inputs, keras.layers.Dense(1)(keras.layers.Dense(5, activation="tanh")(both))))
    x = {"image": rng.normal(size=(3, 6, 2)).astype("float32"), "age": rng.normal(size=(3, 1)).astype("float32")}
    method = aumann.IntegratedGradients(model, path={"image": aumann.Blur(3.0)}, tolerance=1e-3)
    e = method.explain(x, baseline={"age": np.ones(1, "float32")})
    close(e.baseline["age"], np.ones((1, 1)))
    close(e.baseline["image"], blurred(x["image"].astype("float64"), 3.0, (1,)))
    assert np.abs(e.residual).max() < 1e-3
    with pytest.raises(ValueError, match="Expected no baseline for input 'image'"):
        method.explain(x, baseline=1.0)


def test_blurs_that_are_refused():
    for sigma in (0, -1.0, "wide", np.inf):
        with pytest.raises(ValueError, match="Expected a sigma > 0"):
            aumann.BlurIntegratedGradients(sines, sigma=sigma)
    with pytest.raises(ValueError, match="Expected axes of a row"):
        aumann.Blur(2.0, axes=(1, 1))
    with pytest.raises(ValueError, match="Expected axes of rows that have 3"):
        aumann.BlurIntegratedGradients(sines, axes=(3,)).explain(spots())


def test_paths_that_are_refused(rng):
    x = rng.normal(size=(2, 2)).astype("float32")

    def explain(path, **options):
        return aumann.IntegratedGradients(product, path=path).explain(x, **options)

    with pytest.raises(ValueError, match=r"at t = 0 is .* away from the baseline"):
        explain(lambda start, end, t: end * (1 + t) / 2)
    with pytest.raises(ValueError, match=r"at t = 1 is .* away from the input"):
        explain(lambda start, end, t: start + t * (end - start) / 2)
    with pytest.raises(ValueError, match="points of shape"):
        explain(lambda start, end, t: end)
    with pytest.raises(TypeError, match="Expected a path"):
        explain(np.zeros((3, 2)))
    with pytest.raises(ValueError, match="Expected paths named as"):
        explain({"z": bowed})
    with pytest.raises(ValueError, match="Expected 1 paths"):
        explain([bowed, bowed])
    with pytest.raises(ValueError, match=r"Expected waypoints \(k, 2\)"):
        explain(aumann.Polyline(np.zeros((3, 5))))
    with pytest.raises(ValueError, match="finite numbers"):
        aumann.Polyline([[np.nan, 1.0]])


def test_a_double_precision_model_stays_so():
    with float64():
        x = np.array([[2.0, 3.0]])

        def cubic(start, end, t):
            return start + (end - start) * t * t * t

        e = aumann.IntegratedGradients(product, path=cubic, rule=aumann.gauss_legendre(6)).explain(x)
        close(e.values, np.array([[3.0, 3.0]]), "float64")
