"""Metrics against closed forms of linear models, references written out here, and captum where it is right."""

import dataclasses
import itertools

import keras
import numpy as np
import pytest
from conftest import BACKEND, close, forward, host, mlp, scatter, unchanged

import aumann
from aumann import metrics
from aumann.metrics.information import information, interpolated

L = keras.layers
RULE = aumann.gauss_legendre(8)


def linear(weights, bias=0.0):
    """x -> Σ x · w + bias, one output unit."""
    w = np.asarray(weights, "float32")
    model = keras.Sequential([L.Input(w.shape), L.Flatten(), L.Dense(1)])
    model.layers[-1].set_weights([w.reshape(-1, 1), np.array([bias], "float32")])
    return model


def explained(values, inputs=None, baseline=None, prediction=None, **more):
    """An explanation of given values; what they explain does not matter."""
    values = np.asarray(values, float)
    n = len(values)
    zero = np.zeros(n) if prediction is None else np.asarray(prediction, float)
    inputs = np.ones_like(values) if inputs is None else inputs
    baseline = np.zeros((1, *inputs.shape[1:])) if baseline is None else baseline
    return aumann.Explanation(
        values=values, inputs=inputs, baseline=baseline, prediction=zero, base_value=np.zeros_like(zero),
        residual=more.pop("residual", np.zeros_like(zero)), evaluations=np.ones(n, int), **more,
    )  # fmt: skip


W = np.array([3.0, -2.0, 0.5, -0.25, 1.0])
X = np.array([[1.0, 1, 1, 1, 1], [2, -1, 1, 0, -3]], "float32")


@pytest.fixture(scope="module")
def line():
    """A linear model, its explainer and the explanation of X from zero: φ = w · x."""
    model = linear(W, bias=0.5)
    ig = aumann.IntegratedGradients(model, rule=aumann.gauss_legendre(1))
    return model, ig, ig.explain(X)


@pytest.fixture(scope="module")
def mixed():
    """A model of named inputs: token ids, numbers and lengths that stay still."""
    ids, age = keras.Input((4,), dtype="int32", name="ids"), keras.Input((3,), name="age")
    lengths = keras.Input((1,), dtype="int32", name="lengths")
    words = L.Flatten()(L.Embedding(9, 2, name="words")(ids))
    known = L.Rescaling(0.1)(keras.ops.cast(lengths, "float32"))
    hidden = L.Dense(6, activation="tanh")(L.Concatenate()([words, age, known]))
    model = scatter(keras.Model({"ids": ids, "age": age, "lengths": lengths}, L.Dense(3, activation="softmax")(hidden)))
    rng = np.random.default_rng(3)
    inputs = {
        "ids": rng.integers(1, 9, (3, 4)).astype("int32"),
        "age": rng.normal(size=(3, 3)).astype("float32"),
        "lengths": np.array([[4], [3], [2]], "int32"),
    }
    ig = aumann.IntegratedGradients(model, rule=RULE)
    return model, ig, inputs, ig.explain(inputs, target="predicted", baseline={"ids": 0, "lengths": "fixed"})


# ---- predict -------------------------------------------------------------------------------------------------------


def test_predict_is_the_prediction_of_explain(explainer, x):
    for target in ("predicted", 2, np.array([0, 1, 2, 0, 1]), [0, 2], "all", lambda y: y[:, 0] * y[:, 1]):
        found = explainer.predict(x, target)
        assert found.dtype == np.float64
        close(found, explainer.explain(x, target=target).prediction)
    with pytest.raises(ValueError, match=r"Expected a target between 0 and 2 .* received 3\. Valid"):
        explainer.predict(x, 3)


def test_predict_reads_held_inputs_and_logits(mixed):
    model, ig, inputs, e = mixed
    close(ig.predict(inputs, "predicted"), e.prediction)
    close(ig.predict(inputs, "predicted", fixed=e.provenance["fixed"]), e.prediction)
    logits = aumann.IntegratedGradients(model, output="logits").predict(inputs, "all", ["lengths"])
    close(np.exp(logits) / np.exp(logits).sum(1, keepdims=True), forward(model, inputs))


# ---- of the values alone -------------------------------------------------------------------------------------------


def test_completeness_is_the_residual_in_two_units():
    e = explained([[1, -2, 3], [0, 0, 0]], prediction=[4.0, 0.0], residual=np.array([-2.0, 0.0]))
    c = metrics.completeness(e)
    np.testing.assert_array_equal(c.residual, [-2, 0])
    np.testing.assert_array_equal(c.of_difference, [0.5, 0])
    np.testing.assert_array_equal(c.of_mass, [2 / 6, 0])


def test_completeness_of_a_rule_shrinks_with_its_nodes(classifier, x):
    def off(n):
        ig = aumann.IntegratedGradients(classifier, rule=aumann.midpoint(n))
        return metrics.completeness(ig.explain(3 * x, target=0)).of_mass.max()

    assert off(64) < off(8) / 30  # second order


def test_sparseness_is_the_gini_index(rng):
    assert metrics.sparseness(explained([[1, 1, -1, 1]]))[0] == pytest.approx(0)
    assert metrics.sparseness(explained([[0, 0, 0, 5.0]]))[0] == pytest.approx(1 - 1 / 4)
    assert metrics.sparseness(explained([[1, 2, 3, 4.0]]))[0] == pytest.approx(0.25)  # Σᵢⱼ|i − j| / (2 · 4 · 10)
    assert np.isnan(metrics.sparseness(explained([[0.0, 0, 0]]))[0])
    v = rng.normal(size=(5, 3, 2))
    pairs = np.abs(np.abs(v).reshape(5, 6, 1) - np.abs(v).reshape(5, 1, 6)).sum((1, 2))
    close(metrics.sparseness(explained(v)), pairs / (2 * 6 * np.abs(v).sum((1, 2))), "float64")
    sums = np.abs(v.sum(-1))
    pairs = np.abs(sums[:, :, None] - sums[:, None]).sum((1, 2))
    close(metrics.sparseness(explained(v), axis=-1), pairs / (2 * 3 * sums.sum(1)), "float64")


def test_held_inputs_do_not_count_as_features(mixed):
    _, _, _, e = mixed
    moving = explained(np.concatenate([e.values["ids"].reshape(3, -1), e.values["age"]], 1))
    close(metrics.sparseness(e), metrics.sparseness(moving), "float64")


def test_pointing_game_hits_where_the_largest_value_is():
    values = np.zeros((1, 4, 5, 2))
    values[0, 1, 1] = 2, 3  # the largest sum
    values[0, 3, 4] = -4, -4  # the largest size
    e, mask = explained(values), np.zeros((1, 4, 5), bool)
    mask[0, 1, 1] = True
    assert metrics.pointing_game(e, mask, by="signed", axis=-1) == [1]
    assert metrics.pointing_game(e, mask, by="absolute", axis=-1) == [0]
    away = np.hypot(2, 3)
    assert metrics.pointing_game(e, mask, by="absolute", axis=-1, tolerance=away + 1e-9) == [1]
    assert metrics.pointing_game(e, mask, by="absolute", axis=-1, tolerance=away - 1e-9) == [0]
    level = explained(np.ones((1, 2, 2)))
    assert metrics.pointing_game(level, np.array([[[True, False], [False, False]]]), by="signed") == [0.25]


def test_pointing_game_takes_masks_of_several_inputs(mixed):
    _, _, _, e = mixed
    mask = {"age": np.ones((3, 3), bool)}
    top = [max(v[i].max() for k, v in e.values.items() if k != "age") < e.values["age"][i].max() for i in range(3)]
    np.testing.assert_array_equal(metrics.pointing_game(e, mask, by="signed"), top)


# ---- removal -------------------------------------------------------------------------------------------------------


def test_removal_curves_of_a_linear_model(line):
    """F(x) less the largest contributions so far, and the other way round."""
    _, ig, e = line
    for by, key in (("signed", lambda v: -v), ("absolute", lambda v: -np.abs(v))):
        gone, back, moved, kept = [], [], [], []
        for row in X:
            v = W * row
            order = v[np.argsort(key(v), kind="stable")]
            gone.append(0.5 + v.sum() - np.cumsum([0, *order]))
            back.append(0.5 + np.cumsum([0, *order]))
            moved.append(np.cumsum([0, *np.abs(order[:3])]))
            kept.append(np.cumsum([0, *np.abs(v[np.argsort(-key(v), kind="stable")][:3])]))
        deleted = metrics.deletion(ig, e, by=by)
        np.testing.assert_allclose(deleted.fractions, np.arange(6) / 5)
        close(deleted.values, np.array(gone))
        close(metrics.insertion(ig, e, by=by).values, np.array(back))
        close(deleted.auc, np.array([np.mean((v[1:] + v[:-1]) / 2) for v in np.array(gone)]))
        close(metrics.cumulative_difference(ig, e, by=by, fraction=0.6).values, np.array(moved))
        close(metrics.cumulative_preservation(ig, e, by=by, fraction=0.6).values, np.array(kept))


def test_steps_fill_normalize_and_fraction(line):
    _, ig, e = line
    two = metrics.deletion(ig, e, by="signed", steps=2)
    every = metrics.deletion(ig, e, by="signed").values
    np.testing.assert_allclose(two.fractions, [0, 0.4, 1])
    np.testing.assert_array_equal(two.values, every[:, [0, 2, 5]])
    span = every[:, :1] - every[:, -1:]
    close(metrics.deletion(ig, e, by="signed", normalize=True).values, (every - every[:, -1:]) / span)
    assert (metrics.insertion(ig, e, by="signed", normalize=True).values[:, [0, -1]] == [0, 1]).all()
    assert np.isnan(metrics.deletion(ig, e, by="signed", normalize=True, fill=X).values).all()
    for fill in (2.0, np.full(5, 2.0), np.full((2, 5), 2.0), lambda x: np.full_like(x, 2)):
        close(metrics.deletion(ig, e, by="signed", fill=fill).last, np.full(2, 0.5 + 2 * W.sum()))
    one = metrics.cumulative_difference(ig, e, by="absolute", fraction=0.01)
    close(one.last, np.abs(W * X).max(1))
    coarse = metrics.cumulative_difference(ig, e, by="absolute", fraction=1, steps=1)
    close(coarse.last, np.abs(every[:, 0] - every[:, -1]))


def brute(model, x, values, fill, classes):
    """Deletion one feature at a time, a forward pass each."""
    curves = []
    for row, v, c in zip(x, values, classes, strict=True):
        now, curve = row.copy(), []
        for i in [None, *np.argsort(-v, kind="stable")]:
            if i is not None:
                now[i] = fill
            curve.append(forward(model, now[None])[0, c])
        curves.append(curve)
    return np.array(curves)


def test_deletion_keeps_the_class_that_was_predicted(classifier, explainer, x):
    classes = forward(classifier, x).argmax(1)
    e = explainer.explain(x, target="predicted")
    with unchanged(classifier):
        found = metrics.deletion(explainer, e, "predicted", by="signed", fill=-3.0)
    assert (forward(classifier, np.full((1, 4), -3.0)).argmax(1) != classes).any()  # or the test would show nothing
    close(found.values, brute(classifier, x, e.values, -3.0, classes))


def test_several_targets_are_ranked_each_by_itself(classifier, explainer, x):
    e = explainer.explain(x, target=[2, "predicted"])
    found = metrics.deletion(explainer, e, [2, "predicted"], by="signed")
    assert found.values.shape == (5, 2, 5) and found.auc.shape == (5, 2)
    for k, target in enumerate((2, "predicted")):
        alone = metrics.deletion(explainer, explainer.explain(x, target=target), target, by="signed")
        close(found.values[:, k], alone.values)
    one = explainer.explain(x, target=0)
    shared = metrics.deletion(explainer, one, "all", by="signed").values  # all classes by the ranking of one
    close(shared[:, 0], metrics.deletion(explainer, one, 0, by="signed").values)
    with pytest.raises(ValueError, match="Expected the target of the explanation"):
        metrics.deletion(explainer, e, 2, by="signed")


def test_batch_is_rows(explainer, x):
    e = explainer.explain(x, target="predicted")
    calls = [
        lambda e: metrics.insertion(explainer, e, "predicted", by="absolute").values,
        lambda e: metrics.cumulative_difference(explainer, e, "all", by="absolute").values,
        lambda e: metrics.infidelity(explainer, e, "predicted", perturb=0.1, samples=7, seed=4),
        lambda e: metrics.max_sensitivity(explainer, e, "predicted", perturb=0.1, samples=2, seed=4),
        metrics.sparseness,
    ]
    for call in calls:
        close(call(e), np.concatenate([call(e[i]) for i in range(5)]))


def test_chunks_change_nothing(explainer, x, monkeypatch):
    e = explainer.explain(x, target="predicted")

    def both():
        return (
            metrics.deletion(explainer, e, "predicted", by="signed").values,
            metrics.infidelity(explainer, e, "predicted", samples=7),
        )

    whole = both()
    monkeypatch.setattr(metrics.removal, "LIMIT", 20)
    monkeypatch.setattr(metrics.perturbation, "LIMIT", 20)
    close(both(), whole)


def test_pixels_are_removed_with_their_channels(rng):
    w = rng.normal(size=(3, 4, 2))
    x = rng.normal(size=(2, 3, 4, 2)).astype("float32")
    ig = aumann.IntegratedGradients(linear(w), rule=aumann.gauss_legendre(1))
    e = ig.explain(x)
    sums = -np.sort(-(w * x).sum(-1).reshape(2, -1))
    expected = sums.sum(1, keepdims=True) - np.cumsum(np.pad(sums, ((0, 0), (1, 0))), 1)
    found = metrics.deletion(ig, e, by="signed", axis=-1)
    close(found.values, expected)
    groups = np.broadcast_to(np.arange(12).reshape(3, 4, 1), (3, 4, 2))
    close(metrics.deletion(ig, e, by="signed", groups=groups).values, expected)
    rows = metrics.deletion(ig, e, by="signed", groups={"top": [0], "below": [1, 2]}).values
    parts = -np.sort(-np.stack([(w * x)[:, 0].sum((1, 2)), (w * x)[:, 1:].sum((1, 2, 3))], 1))
    close(rows, np.stack([parts.sum(1), parts[:, 1], 0 * parts[:, 0]], 1))


def test_all_inputs_that_move_are_ranked_together(mixed):
    """Tokens and numbers, by a loop of forward passes; lengths stay."""
    model, ig, inputs, e = mixed
    found = metrics.deletion(ig, e, "predicted", by="signed", fill={"ids": 0})
    classes = forward(model, inputs).argmax(1)
    curves = []
    for i, c in enumerate(classes):
        now = {k: v[i : i + 1].copy() for k, v in inputs.items()}
        places = [("age", j, e.values["age"][i, j]) for j in range(3)]
        places += [("ids", j, e.values["ids"][i, j].sum()) for j in range(4)]
        curve = [forward(model, now)[0, c]]
        for name, j, _ in sorted(places, key=lambda p: -p[2]):
            now[name][0, j] = 0
            curve.append(forward(model, now)[0, c])
        curves.append(curve)
    close(found.values, np.array(curves))
    close(found.last, e.base_value)
    groups = {"ids": {"all": range(4)}, "age": {"both": [0, 1]}}
    assert metrics.deletion(ig, e, "predicted", by="signed", fill={"ids": 0}, groups=groups).values.shape == (3, 4)


def test_integer_features_can_stand_between_integers():
    model = linear(W)
    e = (ig := aumann.IntegratedGradients(model, rule=RULE)).explain(X.astype("int64"))
    close(metrics.deletion(ig, e, by="signed", fill=0.5).last, np.full(2, 0.5 * W.sum()))


def test_aggregate_is_a_curve_of_all_rows():
    """The numbers of the test of `aggregate_individual_pic_results` in PAIR saliency."""
    nan = [np.nan] * 5
    curve = metrics.Curve(np.linspace(0, 1, 5), np.array([[0, 0.2, 0.4, 0.6, 1], [0, 0.4, 0.4, 0.4, 1], nan]))
    mean = curve.aggregate("mean")
    np.testing.assert_allclose(mean.values, [0, 0.3, 0.4, 0.5, 1])
    assert mean.auc == pytest.approx((0 + 0.3 + 0.3 + 0.4 + 0.4 + 0.5 + 0.5 + 1) / 8)
    np.testing.assert_allclose(curve.aggregate().values, np.median(curve.values[:2], 0))


# ---- information ---------------------------------------------------------------------------------------------------


def test_known_pixels_are_interpolated():
    """The numbers of the tests of `create_blurred_image` in PAIR saliency."""
    image = np.array([[0.0, 0, 0], [1, 8, 1], [0, 0, 0]])[..., None]
    mask = np.zeros((3, 3), bool)
    mask[1, 0] = True
    np.testing.assert_array_equal(interpolated(image, mask)[..., 0], [[0, 0, 0], [1, 0.5, 0], [0, 0, 0]])
    corners = np.array([[1.0, 0, 1], [0, 0, 0], [1, 0, 1]])[..., None]
    np.testing.assert_array_equal(interpolated(corners, ~np.ones((3, 3), bool)), np.ones((3, 3, 1)))
    np.testing.assert_array_equal(interpolated(image, np.ones((3, 3), bool)), image)


def test_information_grows_with_what_is_known(rng):
    image = rng.integers(0, 256, (48, 48, 3)).astype("uint8")
    sizes = [information(interpolated(image, rng.random((48, 48)) < p)) for p in (0, 0.02, 0.1, 0.4, 1)]
    assert sizes == sorted(sizes) and sizes[0] < sizes[-1] / 5


@pytest.fixture(scope="module")
def picture():
    """An image of noise in one quarter and a classifier that sees only how bright that quarter is."""
    rng = np.random.default_rng(5)
    x = np.full((2, 16, 16, 3), 20, "uint8")
    x[0, :8, :8], x[1, 8:, 8:] = rng.integers(0, 256, (2, 8, 8, 3))
    x[0, 3:6, 3:6] = x[1, 11:14, 11:14] = 255
    weights = np.where(x[:1] == 255, 0.002, 0) + np.where(x[1:] == 255, 0.002, 0)
    model = keras.Sequential([L.Input((16, 16, 3)), L.Flatten(), L.Dense(2, activation="softmax")])
    kernel = np.stack([weights.ravel(), np.zeros(768)], 1)
    model.layers[-1].set_weights([kernel.astype("float32"), np.array([-8, 0], "float32")])
    ig = aumann.IntegratedGradients(model, rule=aumann.gauss_legendre(32))
    return model, ig, ig.explain(x, target=0)


def pic(model, image, scores, mask, thresholds, c, accuracy=False):
    """The performance information curve as PAIR saliency computes it, one image at a time."""
    from scipy.interpolate import griddata, interp1d

    def blurred(known):
        known = known.copy()
        known[[0, 0, -1, -1], [0, -1, 0, -1]] = True
        made = image.astype(float)
        for channel in range(3):
            made[~known, channel] = griddata(np.argwhere(known), image[known][:, channel], np.argwhere(~known))
        return np.round(made.astype("float32")).astype("uint8")

    def performance(x):
        y = forward(model, x[None].astype("float32"))[0]
        return float(y.argmax() == c) if accuracy else y[c]

    def scaled(f, seen):
        low, high = f(dim), f(image)
        return [np.clip((f(x) - low) / (high - low), 0, 1) for x in seen]

    dim = blurred(mask)
    seen = [blurred(mask | (scores >= np.quantile(scores, 1 - t))) for t in thresholds]
    size, score = scaled(information, seen), scaled(performance, seen)
    score = [max(score[: k + 1]) for k in range(len(score))]
    line = interp1d([*size, 0, 1], [*score, 0, 1])
    grid = np.linspace(0, 1, 50, endpoint=False)
    return np.append(line(grid), 1)


@pytest.mark.parametrize("kind", ["softmax", "accuracy"])
def test_information_curve_as_published(picture, kind):
    model, ig, e = picture
    thresholds = (0.01, 0.03, 0.1, 0.3)
    own = {"by": "signed", "kind": kind, "thresholds": thresholds, "known": 0, "least": 0.5, "points": 50}
    with unchanged(model):
        found = metrics.information_curve(ig, e, 0, **own)
    none = np.zeros((16, 16), bool)
    for i in range(2):
        expected = pic(model, e.inputs[i], e.values[i].sum(-1), none, thresholds, 0, kind == "accuracy")
        close(found.values[i], expected)
    assert ((found.values >= 0) & (found.values <= 1)).all() and (np.diff(found.values) >= -1e-12).all()
    noise = dataclasses.replace(e, values=np.random.default_rng(2).normal(size=e.values.shape))  # F rises and falls
    fine = tuple(np.linspace(0.02, 0.9, 12))
    aimless = metrics.information_curve(ig, noise, 0, **{**own, "thresholds": fine}).values
    close(aimless[0], pic(model, e.inputs[0], noise.values[0].sum(-1), none, fine, 0, kind == "accuracy"))
    worst = dataclasses.replace(e, values=-e.values)
    assert (metrics.information_curve(ig, worst, 0, **own).auc < found.auc - 0.1).all()


def test_information_curve_reads_other_limits_layouts_and_seeds(picture):
    model, ig, e = picture
    own = {"by": "absolute", "thresholds": (0.05, 0.2), "points": 20, "known": 0.05}
    found = metrics.information_curve(ig, e, "predicted", **own)
    again = metrics.information_curve(ig, e[1], "predicted", **own)
    close(found.values[1:], again.values)
    other = metrics.information_curve(ig, e, "predicted", **own, seed=1)
    assert (other.values != found.values).any()
    assert np.isnan(metrics.information_curve(ig, e, 1, **own).values).all()
    unit = keras.Sequential([L.Input((3, 16, 16)), L.Permute((2, 3, 1)), L.Rescaling(255.0), *model.layers])
    first = aumann.IntegratedGradients(unit, rule=RULE)
    moved = np.moveaxis(e.inputs / np.float32(255), -1, 1)
    turned = first.explain(moved, target=0)
    close(metrics.information_curve(first, turned, 0, **own, limits=(0, 1), seed=0).values[:, -1], np.ones(2))


# ---- perturbation --------------------------------------------------------------------------------------------------


def test_a_linear_model_is_foretold(line):
    _, ig, e = line
    for perturb in (None, 0.3, lambda x, rng: x * rng.random(x.shape)):
        moved = X[:, [3]] != 0  # φ says nothing of a feature at its baseline, which noise moves
        found = metrics.infidelity(ig, e, perturb=perturb)
        assert (found[moved[:, 0] | (not isinstance(perturb, float))] < 1e-10).all()


def test_infidelity_is_the_mean_square(line):
    """Values that are wrong by known amounts, perturbations that are known."""
    _, ig, e = line
    wrong = dataclasses.replace(e, values=2 * e.values)
    halves = np.array(list(itertools.product([0.0, 1], repeat=5)))

    def perturb(x, rng):
        return x * halves[: len(x)]

    change = (1 - halves) @ (W * X).T
    close(metrics.infidelity(ig, wrong, perturb=perturb, samples=32), (change**2).mean(0))
    assert (metrics.infidelity(ig, wrong, perturb=perturb, samples=32, scaled=True) < 1e-10).all()
    shifted = dataclasses.replace(e, values=e.values + 1)
    a, b = change + (1 - halves).sum(1)[:, None], change
    beta = (a * b).sum(0) / (a * a).sum(0)
    moves = X != 0
    assert moves[0].all()
    found = metrics.infidelity(ig, shifted, perturb=perturb, samples=32, scaled=True)
    close(found[:1], ((beta * a - b) ** 2).mean(0)[:1])


def test_removed_tokens_count_as_removed(mixed):
    """Every feature at its baseline: F(x) − F(x′) is what the values add up to."""
    _, ig, inputs, e = mixed

    def nothing(x, rng):
        assert set(x) == set(inputs)
        return {"ids": np.zeros_like(x["ids"]), "age": 0 * x["age"], "lengths": x["lengths"]}

    close(metrics.infidelity(ig, e, "predicted", perturb=nothing, samples=2), e.residual**2, scale=1)
    with pytest.raises(ValueError, match="for token ids"):
        metrics.infidelity(ig, e, "predicted")
    with pytest.raises(ValueError, match="leave input 'lengths' alone"):
        metrics.infidelity(ig, e, "predicted", perturb=lambda x, rng: {k: v + 1 for k, v in x.items()})
    assert (metrics.infidelity(ig, e, "predicted", perturb=0.1, samples=3) > 0).all()
    assert (metrics.max_sensitivity(ig, e, "predicted", perturb=0.1, samples=2) > 0).all()


def test_sensitivity_of_a_linear_model(line):
    """‖w δ‖ / ‖w (x − x′)‖, the largest of those drawn, and below what the radius allows."""
    _, ig, e = line
    drawn = iter(np.linspace(-0.5, 1, 6))
    found = metrics.max_sensitivity(ig, e, perturb=lambda x, rng: x + next(drawn), samples=3)
    steps = np.linspace(-0.5, 1, 6).reshape(3, 2)
    size = np.linalg.norm(W * X, axis=1)
    close(found, np.abs(steps).max(0) * np.linalg.norm(W) / size)
    near = metrics.max_sensitivity(ig, e, perturb=0.1)
    bound = 0.1 * np.linalg.norm(W) / size
    assert (near < bound).all() and (near > bound / 4).all()


def test_seeds_and_samples(explainer, x):
    e = explainer.explain(x, target=0)
    for metric in (metrics.infidelity, metrics.max_sensitivity):
        one = metric(explainer, e, 0, perturb=0.1, samples=3, seed=1)
        np.testing.assert_array_equal(one, metric(explainer, e, 0, perturb=0.1, samples=3, seed=1))
        assert (one != metric(explainer, e, 0, perturb=0.1, samples=3, seed=2)).all()
        assert (one != metric(explainer, e, 0, perturb=0.1, samples=12, seed=1)).any()
    a, b = (metrics.infidelity(explainer, e, 0, perturb=r) for r in (0.1, 0.5))
    assert (a != b).all()


def test_sensitivity_to_a_set_of_baselines_wants_to_be_told_which(explainer, x):
    e = explainer.explain(x, target=0, baseline=aumann.baselines.weighted(x[:2]))
    with pytest.raises(ValueError, match=r"from one baseline.*a set.*Give baseline="):
        metrics.max_sensitivity(explainer, e, 0, perturb=0.1)
    given = aumann.baselines.weighted(x[:2])
    assert (metrics.max_sensitivity(explainer, e, 0, perturb=1e-7, samples=1, baseline=given) < 1e-4).all()


@pytest.mark.skipif(BACKEND != "torch", reason="captum explains torch modules")
@pytest.mark.parametrize("scaled", [False, True])
def test_captum_on_the_same_perturbations(scaled, classifier, explainer, x):
    import torch
    from captum.metrics import infidelity, infidelity_perturb_func_decorator, sensitivity_max

    noise = np.random.default_rng(1).normal(0, 0.2, (8, 4)).astype("float32")
    e = explainer.explain(x, target=1, baseline=0.5)

    def run(t):
        return classifier(t, training=False)

    @infidelity_perturb_func_decorator(True)
    def shaken(inputs, baselines):
        return inputs + torch.from_numpy(noise)

    ours = metrics.infidelity(explainer, e, 1, perturb=lambda x, rng: x + noise, samples=8, scaled=scaled)
    theirs = [
        infidelity(
            run, shaken, torch.from_numpy(x[[i]]), torch.from_numpy(e.values[[i]]),
            torch.full((1, 4), 0.5), target=1, n_perturb_samples=8, normalize=scaled,
        )
        for i in range(5)
    ]  # fmt: skip
    close(ours, torch.cat(theirs).detach().numpy().ravel(), scale=ours.max() * 10)

    def explain(inputs):
        x = inputs[0] if isinstance(inputs, tuple) else inputs
        return (torch.from_numpy(explainer.explain(x, target=1, baseline=0.5).values.copy()),)

    for i in range(5):
        steps = iter(noise)
        ours = metrics.max_sensitivity(explainer, e[i], 1, perturb=lambda x, rng, s=steps: x + next(s), samples=8)
        theirs = sensitivity_max(
            explain, torch.from_numpy(x[[i]]), lambda t: t + torch.from_numpy(noise), n_perturb_samples=8
        )
        close(ours, theirs.numpy())


# ---- randomization -------------------------------------------------------------------------------------------------


def network():
    model = keras.Sequential([
        L.Input((6, 6, 1)), L.Conv2D(3, 3, activation="tanh", name="conv"), L.BatchNormalization(name="norm"),
        L.Dropout(0.5), L.Flatten(), L.Dense(4, activation="tanh", name="hidden"), L.Dense(3, name="logits"),
    ])  # fmt: skip
    return scatter(model)


def test_randomization_by_hand(rng):
    """Cascading and independent, Spearman by its definition, on copies of the model with the same weights."""
    from scipy.stats import spearmanr

    model, x = network(), rng.normal(size=(2, 6, 6, 1)).astype("float32")
    ig = aumann.IntegratedGradients(model, rule=RULE)
    e = ig.explain(x, target="predicted")
    classes = forward(model, x).argmax(1)
    names = ["logits", "hidden", "norm", "conv"]
    for mode, by in (("cascading", "signed"), ("independent", "absolute")):
        with unchanged(model):
            found = metrics.randomization(ig, e, "predicted", by=by, mode=mode, draw=lambda w, rng: w[::-1] * 0.7)
        assert found.layers == names and found.similarity.shape == (4, 2)
        copy = keras.models.clone_model(model)
        fresh = aumann.IntegratedGradients(copy, rule=RULE)
        for k, name in enumerate(names):
            if mode == "independent" or k == 0:
                copy.set_weights(model.get_weights())
            layer = copy.get_layer(name)
            layer.set_weights([w[::-1] * 0.7 for w in layer.get_weights()])
            size = np.abs if by == "absolute" else np.asarray
            values = size(fresh.explain(x, target=classes).values).reshape(2, -1)
            expected = [spearmanr(a, b)[0] for a, b in zip(size(e.values).reshape(2, -1), values, strict=True)]
            close(found.similarity[k], np.array(expected), scale=100)  # ranks jump where values are alike


def test_shuffled_weights_keep_their_scale_and_follow_the_seed(rng):
    model, x = network(), rng.normal(size=(2, 6, 6, 1)).astype("float32")
    ig = aumann.IntegratedGradients(model, rule=RULE)
    e = ig.explain(x, target=0)
    runs = [metrics.randomization(ig, e, 0, by="signed", seed=s).similarity for s in (0, 0, 1)]
    np.testing.assert_array_equal(runs[0], runs[1])
    assert (runs[0] != runs[2]).all()
    assert (np.abs(runs[0]) <= 1).all()
    chosen = metrics.randomization(ig, e, 0, by="signed", layers=["hidden", model.get_layer("logits")])
    assert chosen.layers == ["hidden", "logits"]
    seen = []
    metrics.randomization(ig, e, 0, by="signed", layers="norm", draw=lambda w, rng: seen.append(w) or w)
    assert len(seen) == 4  # gamma, beta and both moving statistics
    same = metrics.randomization(ig, e, 0, by="signed", draw=lambda w, rng: w)
    close(same.similarity, np.ones((4, 2)), "float64")


def test_similarity_of_maps(rng):
    from skimage.metrics import structural_similarity

    model = keras.Sequential([L.Input((8, 8, 2)), L.Flatten(), L.Dense(1)])
    scatter(model)
    x = rng.normal(size=(2, 8, 8, 2)).astype("float32")
    ig = aumann.IntegratedGradients(model, rule=aumann.gauss_legendre(1))
    e = ig.explain(x)
    w = host(model.layers[-1].kernel)
    new = rng.normal(size=w.shape)
    for by, spread in (("signed", 2), ("absolute", 1)):
        found = metrics.randomization(
            ig, e, by=by, similarity="ssim", axis=-1, draw=lambda v, r: new if v.ndim == 2 else v
        )
        for i in range(2):
            a, b = ((k.reshape(8, 8, 2) * x[i]).sum(-1) for k in (w, new))
            a, b = (np.abs(v) if by == "absolute" else v for v in (a, b))
            expected = structural_similarity(a / np.abs(a).max(), b / np.abs(b).max(), data_range=spread)
            close(found.similarity[0, i], expected)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_weights_are_restored_whatever_happens(error, rng):
    model, x = network(), rng.normal(size=(1, 6, 6, 1)).astype("float32")
    ig = aumann.IntegratedGradients(model, rule=RULE)
    e = ig.explain(x, target=0)
    calls = []

    def breaks(w, rng):
        calls.append(w)
        if len(calls) > 4:
            raise error("in the middle")
        return w + 1

    with unchanged(model), pytest.raises(error, match="in the middle"):
        metrics.randomization(ig, e, 0, by="signed", draw=breaks)
    close(ig.explain(x, target=0).values, e.values, "float64")


# ---- bad input -----------------------------------------------------------------------------------------------------


def three_beats(error):
    text = str(error.value)
    return text.startswith("Expected") and "received" in text and text.rstrip().endswith(".")


BAD = [
    ("no by", ValueError, lambda ig, e: metrics.deletion(ig, e, by="size")),
    ("steps", ValueError, lambda ig, e: metrics.deletion(ig, e, by="signed", steps=0)),
    ("axis", ValueError, lambda ig, e: metrics.deletion(ig, e, by="signed", axis=3)),
    ("axis and groups", ValueError, lambda ig, e: metrics.deletion(ig, e, by="signed", axis=0, groups={"a": [0]})),
    ("fill", ValueError, lambda ig, e: metrics.deletion(ig, e, by="signed", fill=np.zeros(3))),
    ("set", ValueError, lambda ig, e: metrics.deletion(ig, e, by="signed", fill=aumann.baselines.weighted(X))),
    ("values", TypeError, lambda ig, e: metrics.deletion(ig, e.values, by="signed")),
    ("explainer", TypeError, lambda ig, e: metrics.deletion(ig.model, e, by="signed")),
    ("fraction", ValueError, lambda ig, e: metrics.cumulative_difference(ig, e, by="signed", fraction=0)),
    ("target", ValueError, lambda ig, e: metrics.infidelity(ig, e, [0, 0])),
    ("samples", ValueError, lambda ig, e: metrics.infidelity(ig, e, samples=1.5)),
    ("perturb", ValueError, lambda ig, e: metrics.infidelity(ig, e, perturb=-1.0)),
    ("shape", ValueError, lambda ig, e: metrics.infidelity(ig, e, perturb=lambda x, rng: x[:1])),
    ("structure", TypeError, lambda ig, e: metrics.infidelity(ig, e, perturb=lambda x, rng: {"x": x})),
    ("radius", TypeError, lambda ig, e: metrics.max_sensitivity(ig, e, perturb=None)),
    ("mask", ValueError, lambda ig, e: metrics.pointing_game(e, np.ones((2, 4), bool), by="signed")),
    ("empty", ValueError, lambda ig, e: metrics.pointing_game(e, np.zeros((2, 5), bool), by="signed")),
    ("pixels", ValueError, lambda ig, e: metrics.pointing_game(e, X > 0, by="signed", tolerance=-1)),
    ("image", ValueError, lambda ig, e: metrics.information_curve(ig, e, by="signed")),
    ("thresholds", ValueError, lambda ig, e: metrics.information_curve(ig, e, by="signed", thresholds=(0.5, 0.1))),
    ("kind", ValueError, lambda ig, e: metrics.information_curve(ig, e, by="signed", kind="recall")),
    ("mode", ValueError, lambda ig, e: metrics.randomization(ig, e, by="signed", mode="all")),
    ("similarity", ValueError, lambda ig, e: metrics.randomization(ig, e, by="signed", similarity="cosine")),
    ("maps", ValueError, lambda ig, e: metrics.randomization(ig, e, by="signed", similarity="ssim")),
    ("layers", ValueError, lambda ig, e: metrics.randomization(ig, e, by="signed", layers="dense_of_none")),
    ("draw", ValueError, lambda ig, e: metrics.randomization(ig, e, by="signed", draw=lambda w, rng: w[:1])),
    ("aggregate", ValueError, lambda ig, e: metrics.deletion(ig, e, by="signed").aggregate("sum")),
]  # fmt: skip


@pytest.mark.parametrize("kind, call", [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_bad_input(kind, call, line):
    model, ig, e = line
    with unchanged(model), pytest.raises(kind) as error:
        call(ig, e)
    assert three_beats(error), str(error.value)


def test_bad_models_and_images(picture):
    _, ig, e = picture
    plain = aumann.IntegratedGradients(lambda x: keras.ops.sum(x, 1, keepdims=True), rule=RULE)
    with pytest.raises(TypeError, match="Keras model"):
        metrics.randomization(plain, plain.explain(X), by="signed")
    with pytest.raises(ValueError, match="limits"):
        metrics.information_curve(ig, e, 0, by="signed", limits=(0, 1))
    logits = aumann.IntegratedGradients(ig.model, output="logits", rule=RULE)
    with pytest.raises(ValueError, match="Expected probabilities"):
        metrics.information_curve(logits, e, 0, by="signed")
    ids = keras.Sequential([L.Input((3,), dtype="int32"), L.Embedding(5, 2), L.Flatten(), L.Dense(1)])
    words = aumann.IntegratedGradients(ids, rule=RULE)
    told = words.explain(np.array([[1, 2, 3]]), baseline=0)
    with pytest.raises(ValueError, match="for token ids the id of nothing"):
        metrics.deletion(words, told, by="signed")
    with pytest.raises(TypeError, match="Expected integer token ids as the fill"):
        metrics.deletion(words, told, by="signed", fill=0.5)
    with pytest.raises(ValueError, match="token ids alone"):
        metrics.max_sensitivity(words, told, perturb=0.1)


def test_every_metric_has_a_docstring():
    for name in metrics.__all__:
        assert getattr(metrics, name).__doc__, name


def test_mlp_of_torch_module_or_function_needs_no_keras_layers(rng):
    """Metrics of F alone work for a plain function."""
    model = mlp()
    plain = aumann.IntegratedGradients(lambda x: model(x, training=False), rule=RULE)
    x = rng.normal(size=(2, 4)).astype("float32")
    e = plain.explain(x, target=1)
    whole = aumann.IntegratedGradients(model, rule=RULE)
    close(
        metrics.deletion(plain, e, 1, by="signed").values,
        metrics.deletion(whole, whole.explain(x, target=1), 1, by="signed").values,
    )
