"""Baselines: every way to say where the path starts, and what it means.

F = Σ a x² + b x has the attributions a (x² - x'²) + b (x - x') and F = Σ u v has (u - u') (v + v') / 2 for u, both
exact at two Gauss nodes and averaged over x' for a set. The second tells rows drawn together from rows drawn apart.
"""

import keras
import numpy as np
import pytest
from conftest import close, forward
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers, ops

import aumann

weighted = aumann.baselines.weighted
N, M, ROW = 4, 3, (2, 3)
RULE = aumann.gauss_legendre(2)
RNG = np.random.default_rng(5)
X, A, B = (RNG.normal(size=s).astype("float32") for s in ((N, *ROW), ROW, ROW))
QUICK = settings(deadline=None, max_examples=60, database=None)


def quadratic(x):
    a, b = (ops.convert_to_tensor(c) for c in (A, B))
    return ops.sum(a * x * x + b * x, axis=(1, 2))


def product(inputs):
    u, v = (inputs["u"], inputs["v"]) if isinstance(inputs, dict) else inputs
    return ops.sum(u * v, axis=1)


def check(e, starts, weights):
    """Against the closed form: starts broadcast to (N, m, *ROW), weights to (N, m)."""
    starts = np.broadcast_to(starts, (N, *starts.shape[1:])).astype("float64")
    weights = np.broadcast_to(weights, starts.shape[:2])
    x = X[:, None].astype("float64")
    each = A * (x**2 - starts**2) + B * (x - starts)
    close(e.values, np.einsum("nm,nm...->n...", weights, each), scale=np.abs(each).max())
    at = (A * starts**2 + B * starts).sum((2, 3))
    close(e.base_value, (weights * at).sum(1), scale=max(1, np.abs(at).max()))
    close(e.prediction, (A * X**2 + B * X).sum((1, 2)))
    m = starts.shape[1]
    assert (e.evaluations == m * len(RULE)).all() and e.provenance["baselines"] == m
    assert e.baseline.ndim == len(ROW) + 1 + (m > 1) and len(e.baseline) in (1, N)
    kept = e.baseline if m > 1 else e.baseline[:, None]
    close(np.broadcast_to(kept, starts.shape), starts)


def arrays(shape):
    """Numbers of every numeric kind in a given shape."""

    def make(seed, dtype):
        return (3 * np.random.default_rng(seed).random(shape)).astype(dtype)

    return st.builds(make, st.integers(0, 99), st.sampled_from(["float32", "float64", "float16", "int64", "uint8"]))


def singles():
    """(what the user says, what it means as (1 or N, 1, *ROW))."""

    def meaning(given, lead):
        return given, np.broadcast_to(given, (*lead, *ROW))[:, None] if lead else np.broadcast_to(given, (1, 1, *ROW))

    scalars = st.integers(-3, 3) | st.floats(-3, 3, width=32) | arrays(())
    plain = scalars | arrays(ROW) | arrays((1, *ROW)) | arrays((1, ROW[1])) | arrays((ROW[0], 1))
    return (
        plain.map(lambda g: meaning(g, ()) if np.ndim(g) < 3 else meaning(g, (1,)))
        | arrays((N, *ROW)).map(lambda g: meaning(g, (N,)))
        | arrays(ROW).map(lambda g: meaning(g.tolist(), ()))
    )


@pytest.mark.parametrize("batch_size", ["auto", 3])
def test_a_constant_a_row_or_a_row_for_each_row(batch_size):
    explainer = aumann.IntegratedGradients(quadratic, rule=RULE, batch_size=batch_size)

    @QUICK
    @given(singles(), st.booleans())
    def every(said_and_meant, through_a_function):
        said, meant = said_and_meant
        seen = []
        baseline = (lambda inputs: seen.append(inputs) or said) if through_a_function else said
        check(explainer.explain(X, baseline=baseline), meant, np.ones(1))
        assert all(given is X for given in seen) and len(seen) == through_a_function

    every()


@pytest.mark.parametrize("batch_size", ["auto", 3])
def test_a_set_is_averaged_with_its_weights(batch_size):
    explainer = aumann.IntegratedGradients(quadratic, rule=RULE, batch_size=batch_size)

    @QUICK
    @given(
        arrays((M, *ROW)) | arrays((N, M, *ROW)) | arrays((1, M, *ROW)),
        st.none() | arrays((M,)) | arrays((N, M)) | arrays((1, M)),
        st.booleans(),
    )
    def every(rows, weights, through_a_function):
        if weights is not None:
            weights = weights + np.eye(1, M)[0]  # not all zero
        said = weighted(rows, weights)
        e = explainer.explain(X, baseline=(lambda inputs: said) if through_a_function else said)
        weights = np.ones((1, M)) if weights is None else np.atleast_2d(weights).astype("float64")
        check(e, rows if rows.ndim == len(ROW) + 2 else rows[None], weights / weights.sum(1, keepdims=True))

    every()


@pytest.mark.parametrize("per_row", [False, True])
def test_a_set_of_a_network_is_the_weighted_mean_of_its_single_runs(per_row, classifier, explainer, x, rng):
    starts, weights = rng.normal(size=((5, 3, 4) if per_row else (3, 4))), np.array([1.0, 2.0, 0.5])
    e = explainer.explain(x, "predicted", weighted(starts, weights))
    each = [explainer.explain(x, "predicted", starts[..., j, :]) for j in range(3)]
    for field in ("values", "base_value"):
        close(getattr(e, field), np.average([getattr(one, field) for one in each], axis=0, weights=weights))
    close(e.residual, np.average([one.residual for one in each], axis=0, weights=weights), scale=1)
    own = forward(classifier, x).argmax(1)
    for j in range(3):  # the class is that of x, not of the baseline
        start = np.broadcast_to(starts[..., j, :], x.shape).astype("float32")
        close(each[j].base_value, forward(classifier, start)[np.arange(5), own])


def test_a_set_of_one_is_that_baseline(explainer, x, rng):
    start = rng.normal(size=4)
    close(explainer.explain(x, 1, weighted(start[None])).values, explainer.explain(x, 1, start).values)


def test_framework_tensors_and_data_frames_are_baselines(explainer, x):
    pd = pytest.importorskip("pandas")
    expected = explainer.explain(x, 1, x[:1]).values
    for start in (ops.convert_to_tensor(x[0]), pd.DataFrame(x[:1]), x[0].tolist(), ops.cast(x[:1], "float32")):
        close(explainer.explain(x, 1, start).values, expected)
    close(explainer.explain(x, 1, weighted(ops.convert_to_tensor(x[:1]))).values, expected)


# ---- several inputs ------------------------------------------------------------------------------------------------

U, V = (RNG.normal(size=(N, 2)).astype("float32") for _ in range(2))
PRODUCT = aumann.IntegratedGradients(product, rule=RULE)


def check_product(e, u, v, weights=(1.0,)):
    """u and v are (1 or N, m, 2)."""
    u, v = (np.broadcast_to(s, (N, len(weights), 2)).astype("float64") for s in (u, v))
    values = e.values if isinstance(e.values, dict) else dict(zip("uv", e.values, strict=True))
    close(values["u"], np.tensordot(weights, (U[:, None] - u) * (V[:, None] + v) / 2, (0, 1)))
    close(values["v"], np.tensordot(weights, (V[:, None] - v) * (U[:, None] + u) / 2, (0, 1)))
    close(e.base_value, (u * v).sum(2) @ weights)


@pytest.mark.parametrize("pack", ["list", "tuple", "dict"])
def test_one_baseline_for_each_input(pack):
    make = {"list": lambda u, v: [u, v], "tuple": lambda u, v: (u, v), "dict": lambda u, v: {"v": v, "u": u}}[pack]
    inputs, each = make(U, V), RNG.normal(size=(N, 2))
    check_product(PRODUCT.explain(inputs, baseline=make(0.5, each)), np.full((1, 1, 2), 0.5), each[:, None])
    check_product(PRODUCT.explain(inputs, baseline=2), np.full((1, 1, 2), 2), np.full((1, 1, 2), 2))
    check_product(PRODUCT.explain(inputs, baseline=lambda given: make(each, 1.0)), each[:, None], np.ones((1, 1, 2)))
    if pack == "dict":
        check_product(PRODUCT.explain(inputs, baseline={"u": each}), each[:, None], np.zeros((1, 1, 2)))
    e = PRODUCT.explain(inputs, baseline=make(0.5, each))
    assert type(e.values) is type(inputs) and type(e.baseline) is type(inputs)


@pytest.mark.parametrize("pack", ["list", "dict"])
def test_the_rows_of_a_set_are_drawn_together(pack):
    make = {"list": lambda u, v: [u, v], "dict": lambda u, v: {"v": v, "u": u}}[pack]
    u, v, weights = RNG.normal(size=(M, 2)), RNG.normal(size=(M, 2)), np.array([0.5, 0.3, 0.2])
    inputs = make(U, V)
    check_product(PRODUCT.explain(inputs, baseline=weighted(make(u, v), weights)), u[None], v[None], weights)
    check_product(
        PRODUCT.explain(inputs, baseline=weighted(make(u, 0.5), weights)), u[None], np.full((1, 1, 2), 0.5), weights
    )
    own = RNG.normal(size=(N, M, 2))
    check_product(PRODUCT.explain(inputs, baseline=weighted(make(own, v), weights)), own, v[None], weights)
    check_product(
        PRODUCT.explain(inputs, baseline=make(weighted(u, weights), 0.5)), u[None], np.full((1, 1, 2), 0.5), weights
    )
    apart = PRODUCT.explain(inputs, baseline=weighted(make(u, v[::-1]), weights))
    together = PRODUCT.explain(inputs, baseline=weighted(make(u, v), weights))
    assert np.abs(apart.base_value - together.base_value).max() > 0.01


@pytest.mark.parametrize("pack", ["list", "tuple", "dict"])
def test_a_callable_inside_is_given_the_array_of_its_own_input(pack):
    make = {"list": lambda u, v: [u, v], "tuple": lambda u, v: (u, v), "dict": lambda u, v: {"v": v, "u": u}}[pack]
    inputs, seen = make(U, V), []

    def half(u):
        seen.append(u)
        return u / 2

    half_u = (U / 2)[:, None]
    check_product(PRODUCT.explain(inputs, baseline=make(half, 1.0)), half_u, np.ones((1, 1, 2)))
    assert len(seen) == 1 and type(seen[0]) is np.ndarray and (seen[0] == U).all()
    check_product(PRODUCT.explain(inputs, baseline=make(0.5, lambda v: v[0])), np.full((1, 1, 2), 0.5), V[:1, None])
    # A row for each, not a set, even where the others are one.
    u, weights = RNG.normal(size=(N, 2)), np.arange(1, N + 1) / 10
    e = PRODUCT.explain(inputs, baseline=weighted(make(u, lambda v: v / 2), weights))
    check_product(e, u[None], (V / 2)[:, None], weights)


def test_callables_that_draw_are_drawn_together_or_alone():
    def draw(a):
        return weighted(np.stack([a, 2 * a, -a], 1))

    def uneven(a):
        return weighted(np.stack([a, 2 * a, -a], 1), [1, 2, 1])

    u, v = (a[:, None] * np.array([1, 2, -1])[:, None] for a in (U, V))
    e = PRODUCT.explain({"u": U, "v": V}, baseline=weighted({"u": draw, "v": draw}, [0.5, 0.3, 0.2]))
    check_product(e, u, v, [0.5, 0.3, 0.2])
    check_product(PRODUCT.explain([U, V], baseline=[0.5, uneven]), np.full((1, 1, 2), 0.5), v, [0.25, 0.5, 0.25])
    e = PRODUCT.explain([U, V], baseline=lambda both: [0.5, uneven])  # made by a function of all
    check_product(e, np.full((1, 1, 2), 0.5), v, [0.25, 0.5, 0.25])


def test_a_fixed_input_keeps_its_value_and_gets_nothing():
    e = PRODUCT.explain([U, V], baseline=[0.5, "fixed"])
    close(e.values, [(U - 0.5) * V, np.zeros_like(V)])
    close(e.base_value, (0.5 * V).sum(1))
    close(e.baseline[1], V)
    assert not e.values[1].any() and e.provenance["fixed"] == ["input_1"]


# ---- what is refused -----------------------------------------------------------------------------------------------

REFUSED = {
    "a shape that does not broadcast": (np.zeros((2, 2)), ValueError, r"broadcasts.*\(2, 3\).*\(4, 2, 3\).*\(2, 2\)"),
    "too few rows": (np.zeros((3, *ROW)), ValueError, r"received shape \(3, 2, 3\).*weighted"),
    "an unweighted set": (np.zeros((N, M, *ROW)), ValueError, r"shape \(4, 3, 2, 3\).*\.baselines\.weighted"),
    "a set of the wrong rows": (weighted(np.zeros((M, 3, 2))), ValueError, r"\(m, 2, 3\) or \(4, m, 2, 3\).*3, 3, 2"),
    "a set for other rows": (weighted(np.zeros((3, M, *ROW))), ValueError, r"received shape \(3, 3, 2, 3\)"),
    "an empty set": (weighted(np.zeros((0, *ROW))), ValueError, r"at least one baseline.*\(0, 2, 3\)"),
    "too many weights": (weighted(np.zeros((M, *ROW)), [1, 1, 1, 1]), ValueError, r"as many weights.*\[3\].*\(4,\)"),
    "weights of other rows": (weighted(X[:M], np.ones((3, M))), ValueError, r"\(m,\) or \(4, m\).*\(3, 3\)"),
    "NaN": (np.full(ROW, np.nan), ValueError, r"finite baseline.*NaN.*Replace"),
    "infinity": (-np.inf, ValueError, r"finite baseline.*infinity"),
    "NaN in a set": (weighted(np.full((M, *ROW), np.nan)), ValueError, r"finite baseline.*NaN"),
    "text": ("zero", TypeError, r"numeric baseline.*received 'zero'.*\"fixed\""),
    "texts": (np.full(ROW, "zero"), TypeError, r"[Ee]xpected numbers for the baseline.*<U4"),
    "objects": (np.full(ROW, None), TypeError, r"[Ee]xpected numbers for the baseline.*object"),
    "none": (None, TypeError, r"numeric baseline.*received None.*Give a constant"),
    "a name": ({"x": 0.0}, ValueError, r"named as the inputs.*received \['x'\]"),
    "a class": (float, TypeError, r"numeric baseline.*float"),
    "everything fixed": ("fixed", ValueError, r"at least one input.*move.*received.*fixed"),
    "a complex number": (1j, TypeError, r"numeric baseline.*1j"),
}  # fmt: skip


@pytest.mark.parametrize("why", REFUSED)
def test_refused(why):
    baseline, error, message = REFUSED[why]
    explainer = aumann.IntegratedGradients(quadratic, rule=RULE)
    with pytest.raises(error, match=message):
        explainer.explain(X, baseline=baseline)
    check(explainer.explain(X, baseline=1), np.ones((1, 1, *ROW)), np.ones(1))


SEVERAL = {
    "one array for all": (np.zeros(2), ValueError, r"list or dict of baselines.*\['u', 'v'\].*shape \(2,\)"),
    "too few": ([0.0], ValueError, r"Expected 2 baselines.*received 1"),
    "a wrong name": ({"u": 0.0, "w": 0.0}, ValueError, r"\['u', 'v'\].*received \['u', 'w'\]"),
    "two sets": ({"u": weighted(U[:3]), "v": weighted(V[:3])}, ValueError, r"one weighted set.*together"),
    "sets of two sizes": (weighted({"u": U[:3], "v": V[:2]}), ValueError, r"\[2, 3\] baselines.*belongs together"),
    "a set within a set": (weighted({"u": weighted(np.zeros((M, 2))), "v": 0.0}), ValueError, r"one weighted set"),
    "a made set with weights in a set": (
        weighted({"u": lambda u: weighted(u[:2], [1, 2]), "v": V[:2]}), ValueError, r"one weighted set.*together"
    ),
    "two made sets": ({"u": lambda u: weighted(u[:3]), "v": lambda v: weighted(v[:3])}, ValueError, r"one w.*set"),
    "a class for one input": ({"u": float, "v": 0.0}, TypeError, r"numeric baseline for input 'u'.*class 'float'"),
    "both fixed": ({"u": "fixed", "v": "fixed"}, ValueError, r"at least one input.*move"),
}  # fmt: skip


@pytest.mark.parametrize("why", SEVERAL)
def test_refused_for_several_inputs(why):
    baseline, error, message = SEVERAL[why]
    with pytest.raises(error, match=message):
        PRODUCT.explain({"u": U, "v": V}, baseline=baseline)


@pytest.mark.parametrize("weights", [[1, -1, 1], [0, 0, 0], [1, np.nan, 1], [1, np.inf, 1], np.ones((1, 1, 3)), 1.0])
def test_weights_that_are_none(weights):
    with pytest.raises(ValueError, match=r"Expected weights that are finite, not negative.*received.*Leave them out"):
        weighted(np.zeros((M, 2)), weights)


def test_ids_as_floats_are_refused_and_embedded_vectors_taken():
    model = keras.Sequential(
        [layers.Input((3,), dtype="int32"), layers.Embedding(5, 2), layers.Flatten(), layers.Dense(1)]
    )
    explainer = aumann.IntegratedGradients(model, rule=RULE)
    with pytest.raises(TypeError, match=r"integer token ids.*received dtype float64.*\(3, 2\)"):
        explainer.explain(np.array([[1, 2, 3]]), baseline=np.zeros(3))
    assert explainer.explain(np.array([[1, 2, 3]]), baseline=np.zeros((3, 2))).values.shape == (1, 3, 2)


def masked():
    x, m = layers.Input((3,), name="x"), layers.Input((3,), dtype="int32", name="m")
    inputs = {"x": np.ones((2, 3), "float32"), "m": np.array([[1, 1, 0], [1, 0, 1]])}
    return keras.Model({"x": x, "m": m}, ops.sum(x * ops.cast(m, "float32"), axis=1, keepdims=True)), inputs


@pytest.mark.parametrize(
    "still", [None, "fixed", "itself", aumann.baselines.zeros()], ids=["none", "word", "itself", "function"]
)
def test_a_mask_is_held_still_by_itself(still):
    model, inputs = masked()
    given = {"x": 0.0} if still is None else {"x": 0.0, "m": inputs["m"] if still == "itself" else still}
    e = aumann.IntegratedGradients(model, rule=RULE).explain(inputs, baseline=given)
    close(e.values["x"], inputs["m"])
    assert e.provenance["fixed"] == ["m"]


@pytest.mark.parametrize(
    "given",
    [{"m": 0}, {"m": np.zeros((2, 3), int)}, weighted({"x": np.zeros((2, 3)), "m": np.zeros((2, 3), int)}), [0.0, 0]],
    ids=["constant", "rows", "set", "list"],
)
def test_a_baseline_of_what_is_held_still_by_itself_is_refused(given):
    model, inputs = masked()
    inputs = list(inputs.values()) if isinstance(given, list) else inputs
    model = keras.Model(model.inputs, model.outputs[0]) if isinstance(given, list) else model
    with pytest.raises(ValueError, match=r"(?s)no baseline of input 'm', which is held still.*fixed"):
        aumann.IntegratedGradients(model, rule=RULE).explain(inputs, baseline=given)
