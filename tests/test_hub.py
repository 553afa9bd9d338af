"""Language models of KerasHub, small: tied and free heads, two inputs of ids, masks."""

import keras
import numpy as np
import pytest
from conftest import formula, host, unchanged
from keras import ops

import aumann

hub = pytest.importorskip("keras_hub", reason="the extra `hub`").models
IDS = np.array([[1, 5, 7, 2], [3, 3, 10, 4]])
SIZE = {"vocabulary_size": 11, "num_layers": 1, "hidden_dim": 8, "intermediate_dim": 12}
LLAMA = {"num_query_heads": 2, "num_key_value_heads": 1}
MODELS = {
    "GPT-2": lambda: hub.GPT2CausalLM(hub.GPT2Backbone(num_heads=2, max_sequence_length=6, **SIZE)),
    "Llama, tied": lambda: hub.LlamaCausalLM(hub.LlamaBackbone(tie_word_embeddings=True, **LLAMA, **SIZE)),
    "Llama": lambda: hub.LlamaCausalLM(hub.LlamaBackbone(**LLAMA, **SIZE)),
    "Gemma": lambda: hub.GemmaCausalLM(hub.GemmaBackbone(head_dim=4, **LLAMA, **SIZE)),
    "BART": lambda: hub.BartSeq2SeqLM(hub.BartBackbone(num_heads=2, max_sequence_length=6, **SIZE)),
    "T5": lambda: hub.T5Backbone(num_heads=2, key_value_dim=4, **SIZE),
    "GPT-2 backbone": lambda: hub.GPT2Backbone(num_heads=2, max_sequence_length=6, **SIZE),
}


def last(outputs):
    """Unit 3 of the last token that is decoded."""
    if isinstance(outputs, dict):
        outputs = outputs["decoder_sequence_output"]
    return outputs[:, -1, 3]


def above(model, inputs):
    """F of the embedded tokens: the table is asked for them in the order of the inputs of ids, `reverse` apart."""
    layer = (model.backbone if hasattr(model, "backbone") else model).token_embedding

    def fn(points):
        given, original = iter(points), layer.call

        def call(x, reverse=False):
            return original(x, reverse=True) if reverse else next(given)

        layer.call = call
        try:
            rows = ops.shape(points[0])[0]
            return last(model({k: np.repeat(v[:1], rows, 0) for k, v in inputs.items()}, training=False))
        finally:
            layer.call = original
            vars(layer).pop("call")

    return layer, fn


@pytest.mark.filterwarnings("ignore:Layer.*mask")  # KerasHub's own layers hand masks to some that take none
@pytest.mark.filterwarnings("ignore::aumann.CompletenessWarning")  # both sums have the same few nodes
@pytest.mark.parametrize("name", MODELS)
def test_a_language_model_is_explained_at_its_tokens(name):
    keras.utils.set_random_seed(0)
    model, rng = MODELS[name](), np.random.default_rng(0)
    for v in model.weights:
        if keras.backend.is_float_dtype(v.dtype):
            v.assign(v + 0.2 * rng.normal(size=v.shape))
    ids = {k: IDS if "decoder" not in k else IDS[:, ::-1].copy() for k in model.input if "ids" in k}
    inputs = {k: ids.get(k, np.ones_like(IDS)) for k in model.input}
    baseline = {k: 6 if k in ids else "fixed" for k in inputs}  # a token: RMSNormalization has no slope at zeros
    layer, fn = above(model, inputs)
    rule = aumann.gauss_legendre(12)
    model(inputs, training=False)  # on its first call Keras notes paths in its layers
    with unchanged(model):
        e = aumann.IntegratedGradients(model, rule=rule).explain(inputs, last, baseline=baseline)
    table = host(layer.embeddings)
    order = [k for k in ("encoder_token_ids", "decoder_token_ids", "token_ids") if k in ids]
    values, prediction, base = formula(fn, [table[ids[k]] for k in order], [table[6]] * len(order), rule)
    assert np.allclose(e.prediction, prediction, rtol=1e-3, atol=1e-4)
    assert np.allclose(e.base_value, base, rtol=1e-3, atol=1e-4)
    for k, v in zip(order, values, strict=True):
        assert e.values[k].shape == (2, 4, 8) and np.abs(v).max() > 1e-4
        assert np.abs(e.values[k] - v).max() <= 1e-3 * np.abs(v).max()
