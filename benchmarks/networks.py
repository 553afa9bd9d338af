"""Networks of the benchmarks: what is timed, not what is learned."""

import keras
import numpy as np
from keras import layers as L


def mlp(activation="relu", classes=3):
    """Three layers on 32 tabular features."""
    keras.utils.set_random_seed(1)
    return keras.Sequential([
        L.Input((32,)), L.Dense(64, activation), L.Dense(64, activation), L.Dense(classes, "softmax"),
    ])  # fmt: skip


def iris():
    """Two layers on four features."""
    keras.utils.set_random_seed(0)
    return keras.Sequential([L.Input((4,)), L.Dense(16, "tanh"), L.Dense(16, "tanh"), L.Dense(3, "softmax")])


def transformer(blocks=3):
    """Blocks of attention over the eight lines of a digit."""
    keras.utils.set_random_seed(4)
    x = L.Input((8, 8))
    h = L.Dense(32)(x)
    for _ in range(blocks):
        normal = L.LayerNormalization()(h)
        h = h + L.MultiHeadAttention(4, 8)(normal, normal)
        h = h + L.Dense(32)(L.Dense(64, "gelu")(L.LayerNormalization()(h)))
    return keras.Model(x, L.Dense(10, "softmax")(L.GlobalAveragePooling1D()(L.LayerNormalization()(h))))


def digits_cnn(activation="relu", final="softmax", pooling="max"):
    """A LeNet-sized network on 28 × 28 digits."""
    keras.utils.set_random_seed(2)
    pool = {"max": L.MaxPooling2D, "mean": L.AveragePooling2D}[pooling]
    return keras.Sequential([
        L.Input((28, 28, 1)),
        L.Conv2D(16, 3, activation=activation), pool(2),
        L.Conv2D(32, 3, activation=activation), pool(2),
        L.Flatten(), L.Dense(64, activation=activation), L.Dense(10, final),
    ])  # fmt: skip


def mobilenet(side=224, classes=1000):
    """Keras's own MobileNetV2, without trained weights."""
    keras.utils.set_random_seed(3)
    return keras.applications.MobileNetV2((side, side, 3), weights=None, classes=classes)


def settle(model, x):
    """Gives the batch normalisations the means and variances of some rows, as training would.

    Without them, and with biases of zero, a network of ReLUs is linear on every path from zero.
    """
    norms = [layer for layer in model.layers if isinstance(layer, L.BatchNormalization)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    model(x, training=True)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    return model


def rows(model, n, seed=0):
    return np.random.default_rng(seed).normal(size=(n, *model.input_shape[1:])).astype("float32")
