"""The affine prefix: a path laid behind it gives what the path of the inputs gives, and the cut separates."""

import keras
import numpy as np
import pytest
from conftest import close, policy, scatter, unchanged
from keras import layers as L

import aumann
from aumann import backends
from aumann.model import affine_prefix as prefix
from aumann.model.oracle import Oracle
from aumann.model.signature import Leaf

GAUSS = aumann.gauss_legendre(5)
LINE, PLANE, SPACE = (8, 3), (6, 6, 3), (4, 4, 4, 2)

# Every layer of the table, and the rows that it takes.
KINDS = {
    L.Activation: (LINE, lambda: L.Activation("linear")),
    L.Rescaling: (LINE, lambda: L.Rescaling(0.3, -0.2)),
    L.Normalization: (LINE, lambda: L.Normalization(mean=[1.0, 2, 3], variance=[0.5, 2, 3])),
    L.BatchNormalization: (LINE, lambda: L.BatchNormalization()),
    L.Dense: (LINE, lambda: L.Dense(5)),
    L.EinsumDense: (LINE, lambda: L.EinsumDense("abc,cd->abd", (8, 4), bias_axes="d")),
    L.Conv1D: (LINE, lambda: L.Conv1D(4, 3, strides=2)),
    L.Conv2D: (PLANE, lambda: L.Conv2D(4, 3, padding="same")),
    L.Conv3D: (SPACE, lambda: L.Conv3D(3, 2)),
    L.Conv1DTranspose: (LINE, lambda: L.Conv1DTranspose(4, 3)),
    L.Conv2DTranspose: (PLANE, lambda: L.Conv2DTranspose(4, 3)),
    L.Conv3DTranspose: (SPACE, lambda: L.Conv3DTranspose(3, 2)),
    L.DepthwiseConv1D: (LINE, lambda: L.DepthwiseConv1D(3, depth_multiplier=2)),
    L.DepthwiseConv2D: (PLANE, lambda: L.DepthwiseConv2D(3, padding="same")),
    L.SeparableConv1D: (LINE, lambda: L.SeparableConv1D(4, 3)),
    L.SeparableConv2D: (PLANE, lambda: L.SeparableConv2D(4, 3)),
    L.ZeroPadding1D: (LINE, lambda: L.ZeroPadding1D(2)),
    L.ZeroPadding2D: (PLANE, lambda: L.ZeroPadding2D(1)),
    L.ZeroPadding3D: (SPACE, lambda: L.ZeroPadding3D(1)),
    L.Cropping1D: (LINE, lambda: L.Cropping1D(1)),
    L.Cropping2D: (PLANE, lambda: L.Cropping2D(1)),
    L.Cropping3D: (SPACE, lambda: L.Cropping3D(1)),
    L.AveragePooling1D: (LINE, lambda: L.AveragePooling1D(3, 2, padding="same")),
    L.AveragePooling2D: (PLANE, lambda: L.AveragePooling2D(2)),
    L.AveragePooling3D: (SPACE, lambda: L.AveragePooling3D(2)),
    L.GlobalAveragePooling1D: (LINE, lambda: L.GlobalAveragePooling1D()),
    L.GlobalAveragePooling2D: (PLANE, lambda: L.GlobalAveragePooling2D()),
    L.GlobalAveragePooling3D: (SPACE, lambda: L.GlobalAveragePooling3D()),
    L.UpSampling1D: (LINE, lambda: L.UpSampling1D(2)),
    L.UpSampling2D: (PLANE, lambda: L.UpSampling2D(2, interpolation="bilinear")),
    L.UpSampling3D: (SPACE, lambda: L.UpSampling3D(2)),
    L.Flatten: (PLANE, lambda: L.Flatten()),
    L.Reshape: (PLANE, lambda: L.Reshape((9, -1))),
    L.Permute: (PLANE, lambda: L.Permute((3, 1, 2))),
    L.RepeatVector: ((4,), lambda: L.RepeatVector(3)),
    L.Identity: (LINE, lambda: L.Identity()),
    L.Dropout: (LINE, lambda: L.Dropout(0.5)),
    L.SpatialDropout1D: (LINE, lambda: L.SpatialDropout1D(0.5)),
    L.SpatialDropout2D: (PLANE, lambda: L.SpatialDropout2D(0.5)),
    L.SpatialDropout3D: (SPACE, lambda: L.SpatialDropout3D(0.5)),
    L.GaussianNoise: (LINE, lambda: L.GaussianNoise(0.5)),
    L.GaussianDropout: (LINE, lambda: L.GaussianDropout(0.5)),
    L.AlphaDropout: (LINE, lambda: L.AlphaDropout(0.5)),
}


def draw(*shape):
    return np.random.default_rng(3).normal(size=shape).astype("float32")


def image_model(final="softmax"):
    """(n, 6, 6, 3) -> (n, 4), affine up to the activation of the layer named "cut", a model inside it included."""
    stem = keras.Sequential([L.Input(PLANE), L.ZeroPadding2D(1), L.Conv2D(4, 3), L.BatchNormalization()], name="stem")
    x = L.Input(PLANE)
    h = L.Dropout(0.5)(stem(L.Normalization(mean=[0.1, 0.2, 0.3], variance=[0.5, 2, 3])(x)))
    h = L.Dense(6, "relu", name="cut")(L.Flatten()(L.AveragePooling2D(2)(h)))
    return scatter(keras.Model(x, L.Dense(4, final)(h + L.Dense(6, "tanh")(h))))


def letters_model():
    """One-hot sequences (n, 7, 4) -> (n, 2), the cut named "cut"."""
    layers = [L.Conv1D(3, 3, activation="gelu", name="cut"), L.GlobalMaxPooling1D(), L.Dense(2)]
    return scatter(keras.Sequential([L.Input((7, 4)), *layers]))


@pytest.fixture(scope="module")
def image():
    return image_model()


def both(monkeypatch, model, x, method=aumann.IntegratedGradients, target=0, baseline=0.0, **settings):
    """The explanation with paths of the inputs, and with paths laid as far behind as can be."""
    with monkeypatch.context() as patch:
        patch.setattr(prefix, "find", lambda caller, survey: None)
        plain = method(model, **settings).explain(x, target, baseline)
    with monkeypatch.context() as patch:
        patch.setattr(prefix, "gain", lambda found, element: len(found.layers))
        laid = method(model, **settings).explain(x, target, baseline)
    return plain, laid


def same(plain, laid, at="cut"):
    close(laid.values, plain.values)
    close(laid.residual, plain.residual, scale=np.abs(plain.values).sum() / len(plain.inputs))
    for field in ("prediction", "base_value", "inputs", "baseline", "evaluations"):
        assert np.array_equal(getattr(laid, field), getattr(plain, field)), field
    assert (laid.error is None) == (plain.error is None)
    if plain.error is not None:
        np.testing.assert_allclose(laid.error, plain.error, rtol=1e-2, atol=1e-4)
        assert np.array_equal(laid.converged, plain.converged)
    assert laid.names == plain.names
    assert laid.provenance == {**plain.provenance, **({"path laid at": at} if at else {})}


def found(model, row, dtype="float32", output=None):
    """The prefix that is chosen for a model whose one input has rows of a shape."""
    leaf = Leaf("x", np.zeros((1, *row), dtype), "moves")
    return Oracle(model, np.zeros((1, *row)), [leaf], output).prefix


def layers(found):
    return None if found is None else [layer.name for layer in found.layers]


@pytest.fixture
def as_far_as_can_be(monkeypatch):
    monkeypatch.setattr(prefix, "gain", lambda found, element: len(found.layers))


# ---- the table ---------------------------------------------------------------------------------------------------


def test_the_examples_are_the_table():
    assert set(KINDS) == prefix.AFFINE


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_layer_of_the_table_keeps_a_line_straight(kind):
    row, make = KINDS[kind]
    layer = make()
    scatter(keras.Sequential([L.Input(row), layer]))
    assert type(layer) is kind and prefix.is_affine(layer)
    start, end = draw(2, *row)

    def run(x):
        return keras.ops.convert_to_numpy(layer(x[None], training=False))[0]

    assert run(end).shape == tuple(layer.compute_output_shape((1, *row)))[1:]
    for t in 0.3, 2.0:
        close(run(start + np.float32(t) * (end - start)), run(start) + t * (run(end) - run(start)))


# ---- parity ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", [GAUSS, aumann.secant(4), None], ids=["nodes", "cells", "tolerance"])
@pytest.mark.parametrize("target", [1, "all", np.array([3, 0, 2])], ids=["one", "all", "each its own"])
def test_values_are_those_of_the_path_of_the_inputs(monkeypatch, image, rule, target):
    same(*both(monkeypatch, image, draw(3, *PLANE), target=target, rule=rule))


@pytest.mark.parametrize("rule", [GAUSS, aumann.secant(4)], ids=["nodes", "cells"])
def test_every_row_may_have_its_baseline(monkeypatch, image, rule):
    same(*both(monkeypatch, image, draw(3, *PLANE), baseline=0.3 * draw(3, *PLANE)[::-1], rule=rule))


@pytest.mark.parametrize("method", [aumann.MeanGradient, aumann.HypotheticalContributions])
def test_credits_that_are_linear_are_given_the_mean_slope(monkeypatch, method):
    x = np.eye(4, dtype="float32")[np.arange(14).reshape(2, 7) % 4]
    same(*both(monkeypatch, letters_model(), x, method, baseline=np.full((1, 4), 0.25), rule=aumann.secant(4)))


def test_before_a_final_activation(monkeypatch, image):
    plain, laid = both(monkeypatch, image, draw(2, *PLANE), output="logits", rule=GAUSS)
    same(plain, laid)
    assert plain.provenance["explained"] == "before the final softmax or sigmoid"


@pytest.mark.parametrize("output", [None, "logits"])
def test_the_cut_may_stand_before_the_activation_of_the_output(monkeypatch, output):
    model = scatter(keras.Sequential([L.Input((4,)), L.Dense(3, "softmax", name="only")]))
    plain, laid = both(monkeypatch, model, draw(3, 4), output=output, rule=GAUSS)
    same(plain, laid, "only")
    np.testing.assert_allclose(laid.residual, 0, atol=1e-5 if output else 1e-3)


@pytest.mark.parametrize("nodes, size", [(9, 2), (9, 4), (9, 1000), (4, 3)])
def test_the_batch_size_changes_nothing_and_what_was_done_is_told(monkeypatch, image, nodes, size):
    """Four nodes in batches of three are two and two, which are too few."""
    evaluated = []
    monkeypatch.setattr(
        prefix.Prefix, "__call__", lambda self, x, own=prefix.Prefix.__call__: evaluated.append(x) or own(self, x)
    )
    x = draw(3, *PLANE)
    plain, laid = both(monkeypatch, image, x, rule=aumann.gauss_legendre(nodes), batch_size=size)
    same(plain, laid, "cut" if evaluated else None)
    assert bool(evaluated) == (size > prefix.LEAST_NODES)


def test_an_affine_model_is_exact_by_any_rule(monkeypatch):
    weights = draw(4, 2)
    model = keras.Sequential([L.Input((4,)), L.Rescaling(2.0, 1.0), L.Dense(2)])
    model.layers[-1].set_weights([weights, np.ones(2)])
    x, start = draw(3, 4), draw(4)
    for rule in GAUSS, aumann.secant(2):
        _, laid = both(monkeypatch, model, x, target="all", baseline=start, rule=rule)
        close(laid.values, np.einsum("ni,ik->nki", 2 * (x - start), weights))
        assert laid.provenance["path laid at"] == model.layers[-1].name


def test_the_model_is_left_as_it_was(as_far_as_can_be, image):
    with unchanged(image):
        e = aumann.IntegratedGradients(image, rule=GAUSS).explain(draw(2, *PLANE), target=0)
    assert e.provenance["path laid at"] == "cut"


def test_later_training_is_seen(as_far_as_can_be):
    model = image_model()
    method, x = aumann.IntegratedGradients(model, rule=aumann.secant(4)), draw(2, *PLANE)
    method.explain(x, target=0)
    scatter(model, seed=1)
    anew = aumann.IntegratedGradients(model, rule=aumann.secant(4)).explain(x, target=0)
    close(method.explain(x, target=0).values, anew.values)


def test_nothing_before_the_cut_is_computed_at_a_point(as_far_as_can_be, image):
    cut = found(image, PLANE)
    h = draw(3, *cut.shapes[-1])
    with backends.Reads() as reads, cut.skipped(keras.ops.convert_to_tensor(h)):
        y = image(np.zeros((3, *PLANE)), training=False)
    own = {id(w) for layer in cut.layers for w in layer.weights}
    assert own and not own & reads.variables.keys()
    tail = image.layers[-3:]
    assert [layer.name for layer in cut.layers][-1] == tail[0].name == "cut"
    first = np.maximum(h, 0)
    host = keras.ops.convert_to_numpy
    close(host(y), host(tail[-1](first + host(tail[1](first)))))


# ---- where it is not done ----------------------------------------------------------------------------------------


def test_all_that_leads_from_the_inputs_passes_the_cut(as_far_as_can_be):
    x = L.Input((4,))
    first = L.Dense(4, name="first")
    a = first(x)
    b = L.Dense(4, "relu", name="second")(a)
    tail = L.Dense(2, "tanh")
    assert layers(found(keras.Model(x, tail(b)), (4,))) == ["first", "second"]
    assert layers(found(keras.Model(x, tail(a + b)), (4,))) == ["first"]  # a goes around the second
    assert layers(found(keras.Model(x, L.Concatenate()([L.Dense(4)(a), b])), (4,))) == ["first"]
    assert found(keras.Model(x, tail(x + b)), (4,)) is None
    assert found(keras.Model(x, [b, x]), (4,)) is None
    assert layers(found(keras.Model(x, [tail(b), a]), (4,))) == ["first"]
    inside = keras.Model(x, [a, b])
    again = L.Input((4,))
    left, right = inside(again)
    assert found(keras.Model(again, tail(left + right)), (4,)) is None


def test_what_is_called_twice_is_no_cut(as_far_as_can_be):
    x = L.Input((4,))
    once, twice = L.Dense(4, name="once"), L.Dense(4, name="twice")
    assert layers(found(keras.Model(x, L.Activation("tanh")(twice(L.ReLU()(twice(once(x)))))), (4,))) == ["once"]


def test_what_trains_is_not_affine(as_far_as_can_be):
    x = L.Input((4,))
    h = L.Dense(4, name="first")(x)
    assert layers(found(keras.Model(x, L.ReLU()(L.Dropout(0.5)(h, training=True))), (4,))) == ["first"]
    assert layers(found(keras.Model(x, L.ReLU()(L.Dropout(0.5, name="out")(h))), (4,))) == ["first", "out"]


class Twice(L.Dense):
    def call(self, inputs):
        return super().call(inputs) ** 2


class Root(keras.Model):
    def call(self, inputs):
        return keras.ops.sqrt(1 + super().call(inputs) ** 2) + inputs[:, :1]


def test_what_has_a_call_of_its_own_is_not_affine(as_far_as_can_be):
    assert found(keras.Sequential([L.Input((4,)), Twice(3), L.ReLU()]), (4,)) is None
    x = L.Input((4,))
    y = L.Dense(3)(x)
    assert found(keras.Model(x, y), (4,)) is not None
    assert found(Root(x, y), (4,)) is None
    layer = L.Dense(3)
    layer.build((None, 4))
    assert found(layer, (4,)) is None


def test_half_precision_is_rounded_where_the_model_rounds_it(as_far_as_can_be):
    for name in "mixed_float16", "mixed_bfloat16":
        with policy(name):
            model = scatter(keras.Sequential([L.Input((4,)), L.Dense(3, "relu"), L.Dense(1, dtype="float32")]))
        assert found(model, (4,)) is None


def test_an_output_inside_the_prefix_is_differentiated_there(monkeypatch, image):
    plain, laid = both(
        monkeypatch, image, draw(2, *PLANE), target=(0, 0, 1), output=aumann.output_of("stem"), rule=GAUSS
    )
    same(plain, laid, None)


@pytest.mark.parametrize(
    "method, baseline, settings",
    [
        (aumann.IntegratedGradients, aumann.baselines.weighted(draw(3, *PLANE)), {"rule": GAUSS}),
        (aumann.IntegratedGradients, 0.0, {"rule": GAUSS, "path": lambda a, b, t: a + t * t * (b - a)}),
        (aumann.IntegratedDecisionGradients, 0.0, {"rule": GAUSS}),
        (aumann.Saliency, 0.0, {}),
    ],
    ids=["a set of baselines", "a curved path", "a credit that is not linear", "a path of one point"],
)
def test_elsewhere_the_path_is_that_of_the_inputs(monkeypatch, image, method, baseline, settings):
    same(*both(monkeypatch, image, draw(2, *PLANE), method, baseline=baseline, **settings), None)


# ---- where it pays -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("worth", [1, 4, 5, 1000])
def test_numbers_at_the_cut_must_be_worth_their_while(monkeypatch, worth):
    """4 → 10 numbers: 40 multiply-adds for 6 numbers more, so that 6 each are too dear; fewer numbers always pay."""
    monkeypatch.setattr(backends.active(), "OPERATIONS_PER_ELEMENT", worth)
    up, down = (keras.Sequential([L.Input((4,)), L.Dense(n, "relu", name="cut")]) for n in (10, 3))
    assert layers(found(up, (4,))) == (["cut"] if 6 * worth < 40 else None)
    assert layers(found(down, (4,))) == ["cut"]


def test_more_targets_than_points_are_not_summed_at_a_larger_cut(monkeypatch, image):
    """Each has sums of its own, as large as the cut."""
    larger = scatter(keras.Sequential([L.Input((4,)), L.Dense(10, "tanh", name="cut"), L.Dense(9)]))
    for targets, at in ((8, "cut"), (9, None)):
        same(*both(monkeypatch, larger, draw(2, 4), target=list(range(targets)), rule=aumann.gauss_legendre(8)), at)
    same(*both(monkeypatch, image, draw(2, *PLANE), target="all", rule=aumann.gauss_legendre(3)))


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_work_is_a_product_for_each_number_in_that_a_number_out_depends_on(kind):
    """Without padding that hides some of them; two kernels, one after the other, are counted one by one."""
    row, _ = KINDS[kind]
    if "Separable" in kind.__name__:
        ranks = kind.__name__[-2:]
        first, second = (getattr(L, name + ranks) for name in ("DepthwiseConv", "Conv"))
        parts = [first(3, depth_multiplier=2), second(5, 1)]
        layer = kind(5, 3, depth_multiplier=2)
    else:
        kernels = {
            "Conv": lambda: kind(5, 3 if 4 not in row else 2, strides=2 if "Transpose" not in kind.__name__ else 1),
            "Depthwise": lambda: kind(3, depth_multiplier=2),
            "EinsumDense": lambda: kind("abc,cde->abde", (8, 4, 2), bias_axes="de"),
            "Dense": lambda: kind(5),
        }
        make = next((make for name, make in kernels.items() if kind.__name__.startswith(name)), None)
        layer = (make or KINDS[kind][1])()
        parts = [layer] if make else []
    shape, products = row, 0
    for part in parts:
        part.build((None, *shape))
        part.set_weights([np.ones(w.shape) for w in part.weights[:1]] + [np.zeros(w.shape) for w in part.weights[1:]])
        size = int(np.prod(shape))
        each = np.eye(size, dtype="float32").reshape(size, *shape)
        products += np.count_nonzero(keras.ops.convert_to_numpy(part(each)))
        shape = tuple(part.compute_output_shape((1, *shape)))[1:]
    if layer not in parts:
        layer.build((None, *row))
    assert prefix.multiply_adds(layer, row, tuple(layer.compute_output_shape((1, *row)))[1:]) == products


def test_the_cut_is_where_most_is_saved():
    def chosen(row, *of):
        return layers(found(keras.Sequential([L.Input(row), *of, L.ReLU()]), row))

    wide, narrow, up = L.Dense(64, name="wide"), L.Dense(8, name="narrow"), L.UpSampling1D(50, name="up")
    assert chosen((100,), narrow) == ["narrow"]
    assert chosen((8,), L.Dense(8, name="square")) == ["square"]
    assert chosen((4,), L.Dense(8)) is None
    assert chosen((4,), L.Dense(8, name="more"), L.Dense(3, name="fewer")) == ["more", "fewer"]
    assert chosen((100,), wide, L.Identity(name="same"), L.RepeatVector(3)) == ["wide"]
    assert chosen((8, 3), up) is None
    assert chosen((8, 3), L.Flatten(), L.Dropout(0.5)) is None
