"""aumann against the floor: a bare compiled value-and-gradient loop over the same number of rows, same process.

    KERAS_BACKEND=torch python -m benchmarks.floor [mlp digits_cnn mobilenet]

The bare loop differentiates one batch that already lies on the device, over and over, at its own best batch size; it
interpolates, weighs, sums, transfers and checks nothing.
"""

import sys

import keras
import numpy as np

import aumann
from benchmarks import networks
from benchmarks.contest import race, ratio

CASES = {"mlp": (networks.mlp, 2000, 5), "digits_cnn": (networks.digits_cnn, 200, 5), "mobilenet": (networks.mobilenet, 4, 3)}
NODES = 50


def bare(model, target):
    """x -> (values, gradients), compiled as the backend likes it best."""
    backend = keras.config.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        @tf.function
        def both(x):
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = model(x, training=False)[:, target]
            return y, tape.gradient(y, x)

        return lambda x: both(x)[1].numpy()
    if backend == "jax":
        import jax

        state = [v.value for v in model.trainable_variables], [v.value for v in model.non_trainable_variables]

        @jax.jit
        def both(state, x):
            def total(x):
                y = model.stateless_call(*state, x, training=False)[0][:, target]
                return y.sum(), y

            return jax.value_and_grad(total, has_aux=True)(x)

        return lambda x: np.asarray(both(state, x)[1])
    import torch

    parameters = list(model.parameters())

    def both(x):
        for p in parameters:
            p.requires_grad_(False)
        x = x.detach().requires_grad_()
        y = model(x, training=False)[:, target]
        return torch.autograd.grad(y.sum(), x)[0].cpu().numpy()

    return both


def loop(model, rows, batch_size):
    both = bare(model, 0)
    x = keras.ops.convert_to_tensor(networks.rows(model, batch_size))

    def run():
        for _ in range(rows // batch_size):
            both(x)
        rest = rows % batch_size
        if rest:
            both(x[:rest])

    return run


def best(model, rows, sizes):
    """The bare loop's best batch size, from a short race over a part of the rows."""
    part = min(rows, max(2 * max(sizes), 64))
    seconds = race({b: loop(model, part - part % b, b) for b in sizes}, rounds=3)
    speed = {b: np.median(s) / (part - part % b) for b, s in seconds.items()}
    return min(speed, key=speed.get), speed


def main(names):
    for name in names or CASES:
        make, n, rounds = CASES[name]
        model = make()
        total = n * NODES
        sizes = [b for b in (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096) if b <= (64 if name == "mobilenet" else 4096)]
        size, speed = best(model, total, sizes)
        x = networks.rows(model, n)
        method = aumann.IntegratedGradients(model, rule=aumann.gauss_legendre(NODES))
        chosen = method.explain(x[:1], target=0).provenance["batch_size"]
        seconds = race({"ours": lambda: method.explain(x, target=0), "bare": loop(model, total, size)}, rounds)
        _, text = ratio(seconds["ours"], seconds["bare"])
        per = 1e3 * np.median(seconds["bare"]) / total
        print(f"{keras.config.backend():10s} {name:10s} {total:6d} rows: {text} × the bare loop "
              f"({per:.3g} ms a row at its best batch size {size}; ours chose {chosen})", flush=True)
        print("    bare ms a row by batch size: " + ", ".join(f"{b}: {1e3 * s:.3g}" for b, s in speed.items()), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
