"""aumann against the floor: a bare compiled value-and-gradient loop over the same number of rows, same process.

    KERAS_BACKEND=torch python -m benchmarks.floor [mlp digits_cnn mobilenet] [--quick] [--out folder]

The bare loop differentiates one batch that already lies on the device, over and over, at its own best batch size; it
interpolates, weighs, sums, transfers and checks nothing.
"""

import keras
import numpy as np

import aumann
from benchmarks import networks, record
from benchmarks.contest import quartiles, race, spread

# Network, rows to explain, rounds, batch sizes that the bare loop tries.
CASES = {
    "mlp": (networks.mlp, 2000, 7, (1024, 2048, 4096, 8192, 16384, 32768)),
    "digits_cnn": (networks.digits_cnn, 200, 5, (16, 32, 64, 128, 256, 512, 1024)),
    "mobilenet": (networks.mobilenet, 2, 3, (1, 2, 4, 8, 16)),
}
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
    part = min(rows, 2 * max(sizes))
    seconds = race({b: loop(model, part - part % b, b) for b in sizes}, rounds=3)
    speed = {b: np.median(s) / (part - part % b) for b, s in seconds.items()}
    return min(speed, key=speed.get), speed


def contest(name, quick):
    """One row of the table: aumann's seconds over the bare loop's."""
    make, n, rounds, sizes = CASES[name]
    n = max(1, n // 50) if quick else n
    model = make()
    total = n * NODES
    size, speed = best(model, total, [s for s in sizes if s <= total])
    x = networks.rows(model, n)
    method = aumann.IntegratedGradients(model, rule=aumann.gauss_legendre(NODES))
    chosen = method.explain(x[:1], target=0).provenance["batch_size"]
    seconds = race({"ours": lambda: method.explain(x, target=0), "bare": loop(model, total, size)}, rounds)
    return {
        "backend": keras.config.backend(),
        "case": name,
        "rows": n,
        "gradients": total,
        "ratio": quartiles(seconds["ours"], seconds["bare"]),
        "rounds": rounds,
        "seconds": float(np.median(seconds["ours"])),
        "bare_ms": 1e3 * float(np.median(seconds["bare"])) / total,
        "bare_batch": size,
        "batch": chosen,
        "by_batch": {str(b): 1e3 * float(s) for b, s in speed.items()},
    }


def sentence(row):
    tried = ", ".join(f"{b}: {ms:.3g}" for b, ms in row["by_batch"].items())
    return (
        f"{row['backend']:10s} {row['case']:10s} {row['gradients']:6d} gradients: {spread(row['ratio'])} × the bare "
        f"loop ({row['bare_ms']:.3g} ms each at its best batch size {row['bare_batch']}; ours chose {row['batch']})\n"
        f"    bare ms by batch size: {tried}"
    )


def main():
    file = f"floor-{keras.config.backend()}"
    record.cases(__doc__, CASES, lambda *args: [contest(*args)], sentence, file, "case")


if __name__ == "__main__":
    main()
