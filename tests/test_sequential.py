"""Sequential integrated gradients: closed forms, one token at a time by hand, memory, bad input."""

import keras
import numpy as np
import pytest
from conftest import close, forward, scatter, unchanged
from keras import ops

import aumann
from aumann import SequentialIntegratedGradients as Sequential


def product(x):
    return ops.prod(x, axis=1)


@pytest.fixture(scope="module")
def text():
    layers = [
        keras.layers.Input((5,), dtype="int32"),
        keras.layers.Embedding(11, 3),
        keras.layers.Conv1D(4, 2, activation="tanh"),
        keras.layers.GlobalAveragePooling1D(),
        keras.layers.Dense(3, activation="softmax"),
    ]
    return scatter(keras.Sequential(layers))


def test_a_product(rng):
    """F = Π x from 0: each factor is worth all of F in the company of the others."""
    x = rng.uniform(1, 2, size=(3, 4)).astype("float32")
    whole = x.prod(1)
    for options in ({}, {"rule": aumann.gauss_legendre(2)}, {"rule": aumann.secant(2), "batch_size": 3}):
        e = Sequential(product, **options).explain(x)
        close(e.values, np.repeat(whole[:, None], 4, axis=1))
        close(e.residual, 3 * whole)
        assert e.provenance["complete"] is False and e.provenance["baselines"] == 1
    assert (e.evaluations == 4 * 3).all()


def test_a_token_is_worth_what_its_absence_costs(text, rng):
    """Its values add up to F(x) − F(x with the mask in its place)."""
    ids = rng.integers(1, 10, size=(4, 5))
    chosen = np.array([0, 2, 1, 1])
    with unchanged(text):
        e = Sequential(text, rule=aumann.gauss_legendre(12)).explain(ids, target=chosen, baseline=10)
    assert e.values.shape == (4, 5, 3)
    for i in range(5):
        masked = ids.copy()
        masked[:, i] = 10
        lost = forward(text, ids) - forward(text, masked)
        close(e.values[:, i].sum(-1), lost[np.arange(4), chosen], scale=1)


def test_one_token_after_the_other_by_hand(text, rng):
    """Integrated gradients from each masked text, of which the masked token's are kept."""
    ids, mask = rng.integers(1, 10, size=(3, 5)), rng.integers(0, 10, size=(3, 5))
    rule = aumann.gauss_legendre(6)
    plain = aumann.IntegratedGradients(text, rule=rule)
    e = Sequential(text, rule=rule).explain(ids, target=[0, 1], baseline=mask)
    for i in range(5):
        masked = ids.copy()
        masked[:, i] = mask[:, i]
        close(e.values[:, :, i], plain.explain(ids, target=[0, 1], baseline=masked).values[:, :, i], scale=1)


def test_rows_batches_and_sets(text, rng):
    ids, masks = rng.integers(1, 10, size=(4, 5)), np.array([[0] * 5, [10] * 5])
    method = Sequential(text, tolerance=1e-3)
    e = method.explain(ids, target="predicted", baseline=aumann.baselines.weighted(masks, [1, 3]))
    assert e.converged.all()
    alone = [method.explain(ids, target="predicted", baseline=m).values for m in (0, 10)]
    assert (
        np.abs(e.values - np.average(alone, axis=0, weights=[1, 3])).max() < 1e-3 * np.abs(e.values).sum((1, 2)).max()
    )
    small = Sequential(text, tolerance=1e-3, batch_size=1).explain(ids, target="predicted", baseline=10)
    close(small.values, alone[1], scale=1)
    close(small[2:3].values, method.explain(ids[2:3], target="predicted", baseline=10).values, scale=1)


def test_time_steps_beside_a_fixed_input(rng):
    inputs = {"series": keras.layers.Input((4, 2), name="series"), "age": keras.layers.Input((1,), name="age")}
    both = keras.layers.Concatenate()([keras.layers.Flatten()(inputs["series"]), inputs["age"]])
    model = scatter(keras.Model(inputs, keras.layers.Dense(1)(keras.layers.Dense(5, activation="relu")(both))))
    x = {"series": rng.normal(size=(3, 4, 2)).astype("float32"), "age": rng.normal(size=(3, 1)).astype("float32")}
    e = Sequential(model).explain(x, baseline={"age": "fixed"})
    assert e.converged.all() and not e.values["age"].any()
    for i in range(4):
        without = {**x, "series": x["series"].copy()}
        without["series"][:, i] = 0
        close(e.values["series"][:, i].sum(-1), (forward(model, x) - forward(model, without))[:, 0], scale=1)
    with pytest.raises(ValueError, match="one number of tokens"):
        Sequential(model).explain(x)


def test_a_set_of_baselines_that_a_layer_reads(rng):
    """Floats reach the layer that is explained, and in one of the models also F around it."""
    x, starts = rng.normal(size=(5, 4, 3)).astype("float32"), rng.normal(size=(3, 4, 3)).astype("float32")
    series = keras.layers.Input((4, 3))
    hidden = keras.layers.Dense(6, "tanh", name="hidden")(series)
    last = keras.layers.LSTM(5)(hidden)
    for read in (last, keras.layers.Concatenate()([last, keras.layers.Flatten()(series)])):
        model = scatter(keras.Model(series, keras.layers.Dense(1)(read)))
        method = Sequential(model, layer="hidden", rule=aumann.gauss_legendre(3), batch_size=7)
        e = method.explain(x, baseline=aumann.baselines.weighted(starts))
        alone = [method.explain(x, baseline=start).values for start in starts]
        close(e.values, np.mean(alone, axis=0), scale=1)
