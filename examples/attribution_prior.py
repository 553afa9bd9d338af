"""Train a network that leaves one feature alone, by a price on its attribution.

    KERAS_BACKEND=jax python examples/attribution_prior.py        (or tensorflow, or torch)

Two sensors tell the class equally well; the first is expensive, and the network shall do without. What is drawn anew
at each step is a baseline for each row, another row of the batch, and one point on the path: expected gradients.
"""

import keras
import numpy as np
from keras import ops

import aumann


class Prior(keras.Model):
    """Adds to the loss `price` times the mean |φ| of feature 0."""

    def __init__(self, *args, price=0.0, **kwargs):
        super().__init__(*args, **kwargs)
        self.price, self.draw = price, keras.random.SeedGenerator(0)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        loss = super().compute_loss(x, y, y_pred, sample_weight, training)
        phi = aumann.attribution(self, x, baseline=ops.roll(x, 1, axis=0), seed=self.draw)
        return loss + self.price * ops.mean(ops.abs(phi[:, 0]))


def main():
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 2048)
    x = rng.normal(scale=0.5, size=(2048, 3)).astype("float32")
    x[:, :2] += (2 * y - 1)[:, None]
    for price in (0.0, 1.0):
        keras.utils.set_random_seed(1)
        inputs = keras.Input((3,))
        model = Prior(inputs, keras.layers.Dense(1)(keras.layers.Dense(16, "relu")(inputs)), price=price)
        model.compile("adam", keras.losses.BinaryCrossentropy(from_logits=True))
        model.fit(x, y, epochs=10, verbose=0)
        right = (ops.convert_to_numpy(model(x))[:, 0] > 0) == y
        share = np.abs(aumann.IntegratedGradients(model).explain(x[:200]).values).mean(0)
        print(f"price {price}: accuracy {right.mean():.3f}, shares of the features {np.round(share / share.sum(), 3)}")


if __name__ == "__main__":
    main()
