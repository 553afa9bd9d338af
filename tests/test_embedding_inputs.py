"""Embedding inputs: which calls of an Embedding move along the path, how layers are run that move, and what ids may be.

References are functions of the embedded vectors, written with the same weights and no look-up.
"""

import re
import warnings

import keras
import numpy as np
import pytest
from conftest import BACKEND, close, formula, host, scatter, unchanged
from keras import layers as L
from keras import ops

import aumann

RULE = aumann.gauss_legendre(5)
IDS = np.array([[0, 1, 5, 2], [3, 5, 5, 1]])


def normal(*shape, seed=3):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def table(embedding):
    return host(embedding.embeddings)


def total(y):
    """Of each row one number, in which every unit counts by its own weight."""
    flat = ops.reshape(y, (ops.shape(y)[0], -1))
    weights = ops.convert_to_tensor(np.sin(1.0 + np.arange(flat.shape[1])).astype("float32"))
    return ops.sum(flat * weights, axis=1)


# ---- which calls -----------------------------------------------------------------------------------------------------
# Each returns a model, its inputs, what moves at x, and F of what moves.


def tied(**options):
    def build():
        t, d = L.ReversibleEmbedding(6, 3, **options), L.Dense(3, "tanh")
        i = L.Input((4,), dtype=options.get("ids", "int32"))
        model = scatter(keras.Model(i, t(d(t(i)), reverse=True)))

        def logits(e):
            kernel = ops.transpose(t.embeddings) if t.tie_weights else t.reverse_embeddings
            y = ops.matmul(d(e), kernel)
            return y if t.logit_soft_cap is None else ops.tanh(y / t.logit_soft_cap) * t.logit_soft_cap

        return model, IDS, [table(t)[IDS]], lambda p: total(logits(p[0]))

    return build


def tied_to_ids_that_are_floats():
    t, d = L.ReversibleEmbedding(6, 3), L.Dense(3, "tanh")
    i = L.Input((4,), dtype="float32")
    model = scatter(keras.Model(i, t(d(t(i)), reverse=True)))
    ids = IDS.astype("float32")
    return model, ids, [table(t)[IDS]], lambda p: total(ops.matmul(d(p[0]), ops.transpose(t.embeddings)))


class Twofold(L.Embedding):
    """An Embedding of a user's own, with a second use and another name for it."""

    def call(self, inputs, use="look up"):
        return super().call(inputs) if use == "look up" else ops.matmul(inputs, ops.transpose(self.embeddings))

    def compute_output_spec(self, inputs, use="look up"):
        last = (*inputs.shape, self.output_dim) if use == "look up" else (*inputs.shape[:-1], self.input_dim)
        return keras.KerasTensor(last, self.compute_dtype)


def a_subclass_with_a_second_use():
    t, d, i = Twofold(6, 3), L.Dense(3, "tanh"), L.Input((4,), dtype="int32")
    model = scatter(keras.Model(i, t(d(t(i)), use="compare")))
    return model, IDS, [table(t)[IDS]], lambda p: total(ops.matmul(d(p[0]), ops.transpose(t.embeddings)))


def weights_used_as_a_matrix():
    t, d = L.Embedding(6, 3), L.Dense(3, "tanh")

    class Head(keras.Model):
        def __init__(self):
            super().__init__()
            self.t, self.d = t, d

        def above(self, e):
            return ops.matmul(self.d(e), ops.transpose(self.t.embeddings))

        def call(self, ids):
            return self.above(self.t(ids))

    model = Head()
    model(IDS)
    scatter(model)
    return model, IDS, [table(t)[IDS]], lambda p: total(model.above(p[0]))


def two_inputs_and_back():
    t, d = L.ReversibleEmbedding(6, 3), L.Dense(3, "tanh")
    a, b = (L.Input((4,), dtype="int32", name=n) for n in "ab")
    model = scatter(keras.Model([a, b], t(d(ops.concatenate([t(a), t(b)], axis=1)), reverse=True)))
    ids = [IDS, IDS[:, ::-1].copy()]
    return (
        model,
        ids,
        [table(t)[x] for x in ids],
        lambda p: total(ops.matmul(d(ops.concatenate(p, axis=1)), ops.transpose(t.embeddings))),
    )


class Positions(keras.Model):
    """One table for tokens and for the numbers of their places."""

    def __init__(self):
        super().__init__()
        self.t, self.d = L.Embedding(6, 3), L.Dense(1, "tanh")

    def above(self, e):
        return self.d(ops.sin(e + self.t(ops.arange(4))))

    def call(self, ids):
        return self.above(self.t(ids))


def tokens_and_places_from_one_table():
    model = Positions()
    model(IDS)
    scatter(model)
    return model, IDS, [table(model.t)[IDS]], lambda p: total(model.above(p[0]))


class Chosen(keras.Model):
    """What a first Embedding leads to decides, by an argmax, what a second one looks up."""

    def __init__(self, again):
        super().__init__()
        self.first, self.d = L.Embedding(6, 3), L.Dense(6, "tanh")
        self.second = self.first if again else L.Embedding(6, 3)

    def above(self, e):
        h = self.d(e)
        return ops.sum(h, axis=-1) + 1e-4 * ops.sum(self.second(ops.argmax(h, axis=-1)), axis=-1)

    def call(self, ids):
        return self.above(self.first(ids))


def what_is_looked_up_by_an_argmax(again=False):
    model = Chosen(again)
    model(IDS)
    scatter(model)
    return model, IDS, [table(model.first)[IDS]], lambda p: total(model.above(p[0]))


def what_is_looked_up_again_in_the_same_table():
    return what_is_looked_up_by_an_argmax(again=True)


def numbers_that_are_compared_with_the_table():
    """A float input goes to the vocabulary by the weights of the Embedding that reads the other one."""
    t, d = L.ReversibleEmbedding(6, 3), L.Dense(6, "tanh")
    i, x = L.Input((4,), dtype="int32", name="ids"), L.Input((4, 3), name="x")
    model = scatter(keras.Model([i, x], t(x, reverse=True) * d(t(i))))
    values = normal(2, 4, 3)
    return (
        model,
        [IDS, values],
        [table(t)[IDS], values],
        lambda p: total(ops.matmul(p[1], ops.transpose(t.embeddings)) * d(p[0])),
    )


KINDS = {
    "tied": tied(),
    "tied, capped": tied(logit_soft_cap=0.7),
    "not tied": tied(tie_weights=False),
    "masked": tied(mask_zero=True),
    **{
        f.__name__: f
        for f in (
            tied_to_ids_that_are_floats,
            a_subclass_with_a_second_use,
            weights_used_as_a_matrix,
            two_inputs_and_back,
            tokens_and_places_from_one_table,
            what_is_looked_up_by_an_argmax,
            what_is_looked_up_again_in_the_same_table,
            numbers_that_are_compared_with_the_table,
        )
    },
}


@pytest.mark.parametrize("kind", KINDS)
def test_only_what_is_looked_up_for_ids_moves(kind):
    model, inputs, ends, above = KINDS[kind]()
    with unchanged(model):
        e = aumann.IntegratedGradients(model, rule=RULE).explain(inputs, total)
    values, prediction, base = formula(above, ends, [0.0] * len(ends), RULE)
    close(e.values, values if isinstance(inputs, list) else values[0])
    close([e.prediction, e.base_value], [prediction, base])
    assert all(np.abs(v).max() > 1e-3 for v in values)


def test_a_tied_embedding_that_is_named_moves_where_it_is_fed_ids():
    model, ids, ends, above = tied()()
    name = next(x.name for x in model.layers if isinstance(x, L.ReversibleEmbedding))
    e = aumann.IntegratedGradients(model, layer=name, rule=RULE).explain(ids, total, baseline=2)
    start = table(model.get_layer(name))[2]
    close(e.values, formula(above, ends, [start], RULE)[0][0])
    assert e.values.shape == (2, 4, 3)


def test_layers_of_one_name_are_told_apart():
    """Two inner models each with a layer `h`: both have values."""
    x = L.Input((3,))
    halves = [keras.Sequential([L.Input((3,)), L.Dense(2, "tanh", name="h")], name=n) for n in "pq"]
    model = scatter(keras.Model(x, L.Dense(1)(L.Concatenate()([half(x) for half in halves]))))
    e = aumann.Conductance(model, [half.layers[0] for half in halves], rule=RULE).explain(normal(2, 3))
    assert list(e.values) == ["h[0]", "h[1]"]
    close(sum(v.sum(1) for v in e.values.values()), e.prediction - e.base_value, scale=1)


# ---- how a layer is run ----------------------------------------------------------------------------------------------


def quantised(mode, lora=False):
    """x -> EinsumDense -> Dense h -> Dense out, all of one mode."""
    x = L.Input((6,), name="x")
    first, h, out = L.EinsumDense("ab,bc->ac", 8, activation="tanh"), L.Dense(8, "tanh", name="h"), L.Dense(2)
    model = scatter(keras.Model(x, out(h(first(x)))))
    if lora:
        first.enable_lora(2), h.enable_lora(2)
        scatter(model, seed=1)
    if mode:
        for layer in (first, h, out):
            layer.quantize(mode)
    return model, first, h, out


def near(actual, expected, share):
    """Each row within a share of its mass: one number that is rounded otherwise moves a derivative by a step."""
    axes = tuple(range(1, np.ndim(expected)))
    assert (np.abs(actual - expected).sum(axes) <= share * np.abs(expected).sum(axes)).all()


MODES = [
    ("int8", False, 0.01),
    ("int4", False, 0.01),
    ("float8", False, 0.15),
    (None, True, 1e-4),
    ("int8", True, 0.01),
]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::aumann.CompletenessWarning")  # of what is rounded
@pytest.mark.parametrize("mode, lora, share", MODES, ids=lambda x: str(x))
def test_quantised_layers_move_are_cut_and_are_outputs(mode, lora, share):
    model, first, h, out = quantised(mode, lora)
    x, rule = normal(3, 6), aumann.gauss_legendre(8)
    start, end = host(h(first(np.zeros((1, 6), "float32")))), host(h(first(x)))
    with unchanged(model):
        whole = aumann.MeanGradient(model, rule=rule).explain(x, 1)
        at = aumann.IntegratedGradients(model, layer="h", rule=rule).explain(x, 1)
        unit = aumann.IntegratedGradients(model, output=aumann.output_of("h"), rule=rule).explain(x, 2)
        through = aumann.Conductance(model, "h", tolerance=max(0.05, share)).explain(x, 1)
    near(whole.values * x, formula(lambda p: model(p[0])[:, 1], [x], [0], rule)[0][0], share)
    near(at.values, formula(lambda p: out(p[0])[:, 1], [end], [start], rule)[0][0], share)
    near(unit.values, formula(lambda p: h(first(p[0]))[:, 2], [x], [0], rule)[0][0], share)
    close(unit.prediction, end[:, 2])
    if mode == "float8" and BACKEND == "tensorflow":  # which has no derivative of a derivative that is cast to float8
        assert not through.converged.any() and (through.error > 0.5).all()
        return
    near(through.values, at.values, 0.2)  # out is linear up to its rounding, so that both are ∂F/∂y · Δy


@pytest.mark.filterwarnings("ignore::aumann.CompletenessWarning")  # five nodes, and what is rounded
@pytest.mark.parametrize("mode", ["int8", "int4"])
@pytest.mark.parametrize("kind", [L.Embedding, L.ReversibleEmbedding], ids=lambda k: k.__name__)
def test_quantised_embeddings(kind, mode):
    t, d, i = kind(6, 4), L.Dense(4, "tanh"), L.Input((4,), dtype="int32")
    reverse = kind is L.ReversibleEmbedding
    model = scatter(keras.Model(i, t(d(t(i)), reverse=True) if reverse else d(t(i))))
    t.quantize(mode)
    rows = host(t(IDS))
    with unchanged(model):
        e = aumann.IntegratedGradients(model, rule=RULE).explain(IDS, total)
        named = aumann.IntegratedGradients(model, layer=t, rule=RULE).explain(IDS, total)
    above = (lambda p: total(t(d(p[0]), reverse=True))) if reverse else (lambda p: total(d(p[0])))
    values, prediction, base = formula(above, [rows], [0], RULE)
    near(e.values, values[0], 0.01)
    near(named.values, values[0], 0.01)
    close([e.prediction, e.base_value], [prediction, base])
    assert e.values.shape == (2, 4, 4)


def test_an_embedding_with_lora():
    t, d = L.Embedding(6, 3), L.Dense(2, "tanh")
    model = scatter(keras.Sequential([L.Input((4,), dtype="int32"), t, d]))
    t.enable_lora(2)
    scatter(model, seed=2)
    e = aumann.IntegratedGradients(model, rule=RULE).explain(IDS, total)
    close(e.values, formula(lambda p: total(d(p[0])), [host(t(IDS))], [0], RULE)[0][0])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::aumann.CompletenessWarning")  # of what is rounded
@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_the_error_of_a_quantised_model_holds_its_rounding(activation):
    """Gradients go straight through what is rounded: their integral misses what the rounding does to F."""
    x, layers = normal(8, 6), [L.Dense(8, activation), L.Dense(8, activation), L.Dense(1)]
    model = scatter(keras.Sequential([L.Input((6,)), *layers]))
    for layer in layers:
        layer.quantize("int8")
    explainer = aumann.IntegratedGradients(model, tolerance=0.02, max_evaluations=200)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", aumann.ToleranceWarning)
        e = explainer.explain(x)
    true = formula(lambda p: model(p[0])[:, 0], [x], [0], aumann.midpoint(2000))[0][0]
    off = np.abs(e.values - true).sum(1) / np.abs(true).sum(1)
    missed = np.abs(e.residual) / np.abs(e.values).sum(1)
    assert (e.error >= missed * 0.99).all() and missed.max() > 1e-4
    assert (off <= e.error).mean() >= 0.85


# ---- what ids may be -------------------------------------------------------------------------------------------------


FRONTS = {
    "integers": (lambda: L.IntegerLookup(vocabulary=[10, 20, 30]), [[10, 20, 30, 10], [30, 99, 20, 20]]),
    "none of them known": (lambda: L.IntegerLookup(vocabulary=[10, 20, 30]), [[5, 6, 7, 8], [4, 4, 99, 98]]),
    "hashes": (lambda: L.Hashing(num_bins=5), [[10, 20, 30, 10], [30, 99, 20, 20]]),
    "a hash of two": (lambda: L.Hashing(num_bins=2), [[10, 20, 30, 10], [30, 99, 20, 20]]),
}


@pytest.mark.parametrize("front", FRONTS)
def test_a_lookup_in_front_of_an_embedding(front):
    make, ids = FRONTS[front]
    lookup, t, d, ids = make(), L.Embedding(6, 3), L.Dense(2, "tanh"), np.array(ids, "int32")
    model = scatter(keras.Sequential([L.Input((4,), dtype="int32"), lookup, t, d]))
    rows = table(t)[host(lookup(ids)).astype(int)]
    with unchanged(model):
        e = aumann.IntegratedGradients(model, tolerance=1e-4).explain(ids, total)
    true = formula(lambda p: total(d(p[0])), [rows], [0], aumann.gauss_legendre(40))[0][0]
    off = np.abs(e.values - true).sum((1, 2)) / np.abs(true).sum((1, 2))
    assert e.converged.all() and (off <= e.error).all()
    at = aumann.IntegratedGradients(model, rule=RULE).explain(ids, total, baseline=10)
    start = table(t)[host(lookup(np.full((1, 4), 10, "int32"))).astype(int)]
    close(at.values, formula(lambda p: total(d(p[0])), [rows], [start], RULE)[0][0])


@pytest.mark.skipif(BACKEND != "tensorflow", reason="text is a tensor on TensorFlow alone")
def test_text_in_front_of_an_embedding():
    words = L.TextVectorization(output_sequence_length=4, vocabulary=["good", "bad", "film", "a"])
    t, d = L.Embedding(8, 3), L.Dense(2, "tanh")
    model = scatter(keras.Sequential([L.Input((1,), dtype="string"), words, t, d]))
    text = np.array([["good film"], ["a bad bad film"], ["unheard of"]])
    rows = table(t)[host(words(text))]
    explainer = aumann.IntegratedGradients(model, rule=RULE)
    for given in (text, text.astype(object), text.tolist()):
        e = explainer.explain(given, total)
        close(e.values, formula(lambda p: total(d(p[0])), [rows], [0], RULE)[0][0])
    start = table(t)[host(words(np.array([["a much longer film than those"]])))]
    at = explainer.explain(text, total, baseline="a much longer film than those")
    close(at.values, formula(lambda p: total(d(p[0])), [rows], [start], RULE)[0][0])
    unknown = aumann.IntegratedGradients(model, rule=RULE).explain(np.array([["unheard"]]), total)
    close(unknown.values[0, 0], e.values[2, 0])


@pytest.mark.skipif(BACKEND != "torch", reason="modules of torch")
@pytest.mark.parametrize("wrap", ["module", "in a layer", "in a model"])
@pytest.mark.parametrize("bag", [False, True], ids=["Embedding", "EmbeddingBag"])
def test_embeddings_of_torch(wrap, bag):
    import torch

    class Module(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.look = (torch.nn.EmbeddingBag if bag else torch.nn.Embedding)(6, 3)
            self.top = torch.nn.Linear(3, 2)

        def above(self, e):
            return torch.tanh(self.top(e))

        def forward(self, ids):
            return self.above(self.look(ids))

    module = Module()
    weight = module.look.weight.detach()
    ends = weight[torch.from_numpy(IDS)]
    ends = host(ends.mean(1) if bag else ends)
    model, shape = module, (None, 2) if bag else (None, 4, 2)
    if wrap != "module":
        model = keras.Sequential([L.Input((4,), dtype="int64"), L.TorchModuleWrapper(module, output_shape=shape)])
    if wrap == "in a model":
        i = L.Input((4,), dtype="int64")
        model = keras.Model(i, model(i))
    with unchanged(model):
        e = aumann.IntegratedGradients(model, rule=RULE).explain(IDS, total)
        at = aumann.IntegratedGradients(model, rule=RULE).explain(IDS, total, baseline=2)
    close(e.values, formula(lambda p: total(module.above(p[0])), [ends], [0], RULE)[0][0])
    close(at.values, formula(lambda p: total(module.above(p[0])), [ends], [host(weight[2])], RULE)[0][0])
    assert all(name.endswith("look") for name in e.provenance["layers"].values())


# ---- layers that ids lead to -----------------------------------------------------------------------------------------


def joined():
    """F = out(h(E[a], E[b], x))."""
    a, b, x = L.Input((3,), dtype="int32", name="a"), L.Input((3,), dtype="int32", name="b"), L.Input((3, 2), name="x")
    t, h, out = L.Embedding(5, 2), L.Dense(4, "tanh", name="h"), L.Dense(1, "tanh")
    model = scatter(keras.Model([a, b, x], out(h(ops.concatenate([t(a), t(b), x], axis=-1)))))
    inputs = [np.array([[0, 1, 4], [3, 3, 2]]), np.array([[1, 1, 0], [4, 0, 2]]), normal(2, 3, 2)]

    def hidden(a, b, x):
        return host(h(np.concatenate([table(t)[a], table(t)[b], x], -1)))

    return model, inputs, hidden, lambda p: total(out(p[0]))


def test_a_layer_that_several_ids_lead_to_starts_at_its_zero_vector_or_at_ids():
    model, inputs, hidden, above = joined()
    explainer, ends = aumann.IntegratedGradients(model, layer="h", rule=RULE), hidden(*inputs)
    for baseline, start in ((0.0, 0.0), (0.25, 0.25), ({}, 0.0)):
        e = explainer.explain(inputs, total, **({"baseline": baseline} if baseline != {} else {}))
        close(e.values, formula(above, [ends], [start], RULE)[0][0])
    e = explainer.explain(inputs, total, baseline={"a": 2, "b": 1, "x": 0.5})
    start = hidden(np.full((1, 3), 2), np.full((1, 3), 1), np.full((1, 3, 2), 0.5, "float32"))
    close(e.values, formula(above, [ends], [start], RULE)[0][0])
    with pytest.raises(ValueError, match=r"layer 'h' for all.*\['a', 'b', 'x'\].*received 2 for 'a'.*baseline=0.0"):
        explainer.explain(inputs, total, baseline={"a": 2})
    held = explainer.explain(inputs, total, baseline={"a": "fixed", "b": 1, "x": 0.0})
    start = hidden(inputs[0], np.ones((1, 3), int).repeat(2, 0), 0 * inputs[2])
    close(held.values if not isinstance(held.values, dict) else held.values["h"],
          formula(above, [ends], [start], RULE)[0][0])  # fmt: skip


@pytest.mark.parametrize("first", ["rescaling", "cast"])
def test_pictures_of_bytes_are_explained_at_the_layer_that_the_message_names(first):
    x = L.Input((2, 2, 1), dtype="uint8", name="picture")
    floats = L.Rescaling(1 / 255)(x) if first == "rescaling" else ops.cast(x, "float32")
    d = L.Dense(1, "tanh")
    model = scatter(keras.Model(x, d(L.Flatten()(floats))))
    pictures = np.random.default_rng(0).integers(0, 5, (3, 2, 2, 1)).astype("uint8")
    with pytest.raises(TypeError, match=r"integer input 'picture'.*layer=") as told:
        aumann.IntegratedGradients(model, rule=RULE).explain(pictures)
    assert "fixed" not in str(told.value)  # of one input
    layer = re.search(r"layer='([^']+)'", str(told.value)).group(1)
    scale = 255 if first == "rescaling" else 1
    for baseline, start in ((0.0, 0.0), (3, 3 / scale)):
        e = aumann.IntegratedGradients(model, layer=layer, rule=RULE).explain(pictures, baseline=baseline)
        ends = (pictures / scale).astype("float32").reshape(3, 4)
        close(e.values.reshape(3, 4), formula(lambda p: d(p[0])[:, 0], [ends], [start], RULE)[0][0])
        assert e.values.shape == pictures.shape


def test_categories_that_are_made_floats_by_a_layer():
    encode = L.CategoryEncoding(4, output_mode="one_hot")
    model = scatter(keras.Sequential([L.Input((1,), dtype="int32", name="kind"), encode, L.Dense(1)]))
    ids = np.array([[2], [0]])
    with pytest.raises(TypeError, match=f"layer='{encode.name}'"):
        aumann.IntegratedGradients(model, rule=RULE).explain(ids)
    e = aumann.IntegratedGradients(model, layer=encode.name, rule=RULE).explain(ids)
    close(e.values, np.eye(4)[ids[:, 0]] * host(model.layers[-1].kernel)[:, 0])
