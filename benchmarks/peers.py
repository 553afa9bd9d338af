"""aumann against every peer that can do the case: same rows, target, baseline and number of nodes, in one process.

    KERAS_BACKEND=torch python -m benchmarks.peers [mlp digits_cnn mobilenet qlknn …] [--quick] [--out folder]

Each peer is used as its documentation shows and gets its best batch size out of the few that time allows; the
contestants then run in turn, round after round, and each round gives a ratio peer ÷ aumann. Where a peer's user
writes the gradient or the prediction, it is compiled (tf.function, jax.jit). aumann has its default batch size. A peer
that cannot take a case is named with the reason. shap has a process of its own, with aumann beside it.
"""

import contextlib
import io
import tempfile
import time
import warnings
from typing import Any, NamedTuple

import keras
import numpy as np

import aumann
from benchmarks import networks, record
from benchmarks.contest import quartiles, race, spread
from benchmarks.floor import bare
from benchmarks.real import cases as zoo

NODES = 50
SECONDS = 20  # of trying batch sizes for a peer, and of racing for a case, which sets the number of rounds between
ROUNDS = 3, 15
FAR = 5  # a peer this many times slower than the fastest runs in one round only
NETWORKS = {"mlp": (networks.mlp, 2000), "digits_cnn": (networks.digits_cnn, 200), "mobilenet": (networks.mobilenet, 2)}
CASES = [*NETWORKS, *zoo.CASES]
QUICK = ["mlp", "digits_cnn", "qlknn", "acdc_seq"]


class Refusal(Exception):
    """A peer does not take a case; the message says why."""


def find(name, quick):
    """The case: a network with random rows, or a real trained model with its question."""
    if name in NETWORKS:
        make, rows = NETWORKS[name]
        model = make()
        return zoo.Case(name, model, networks.rows(model, max(1, rows // 50) if quick else rows), 0)
    (case,) = zoo.cases([name])
    integers = any(x.dtype.kind in "iu" for x in keras.tree.flatten(case.inputs))
    return case._replace(baseline=0) if integers else case  # token 0: the baseline that captum can be given


# ---- what a peer's user writes -----------------------------------------------------------------------------------


def where(case, target):
    """Which of the outputs the target is in (None for the only one), and the index into its rows."""
    index = target if isinstance(target, tuple) else (target,)
    return (index[0], index[1:]) if len(case.model.outputs) > 1 else (None, index)


def unit(case, target):
    """The case's model with the target as its only output, (n, 1): for peers that know no target."""
    x = keras.Input(case.inputs.shape[1:])
    which, index = where(case, target)
    y = case.model(x) if which is None else case.model(x)[which]
    return keras.Model(x, keras.layers.Reshape((1,))(y[(slice(None), *index)]))


def one_by_one(case, make):
    """run() -> values of all rows, from one `make(rows, start, target)` for each different target."""
    if not isinstance(case.inputs, np.ndarray):
        raise Refusal("takes one input array")
    if case.inputs.dtype.kind != "f":
        raise Refusal("takes float inputs, not the integers of an Embedding")
    x, start = case.inputs, starting(case.inputs, case.baseline)
    parts = [(slice(None), case.target)]
    if isinstance(case.target, np.ndarray):
        parts = [(np.flatnonzero(case.target == t), int(t)) for t in np.unique(case.target)]
    runs = [(rows, make(x[rows], start, target)) for rows, target in parts]

    def run():
        values = np.empty_like(x)
        for rows, explain in runs:
            values[rows] = np.reshape(explain(), values[rows].shape)
        return values

    return run


def starting(x, baseline):
    """The baseline as one row, (1, *row)."""
    return np.broadcast_to(baseline, (1, *x.shape[1:])).astype(x.dtype)


def cut(x, size):
    """Runs of at most `size` rows."""
    return [x[first : first + size] for first in range(0, len(x), size)]


# ---- the peers: (case, nodes, batch size) -> run() -> values -------------------------------------------------------


def captum(case, nodes, size):
    """IntegratedGradients, Gauss–Legendre; a lambda names the output; LayerIntegratedGradients at embeddings."""
    from captum.attr import IntegratedGradients, LayerIntegratedGradients

    several = isinstance(case.inputs, list)
    arrays = case.inputs if several else [case.inputs]
    inputs = tuple(keras.ops.convert_to_tensor(x) for x in arrays)
    starts = tuple(keras.ops.convert_to_tensor(starting(x, case.baseline)) for x in arrays)
    which, index = where(case, case.target)
    target = keras.ops.convert_to_tensor(case.target) if isinstance(case.target, np.ndarray) else index

    def forward(*xs):
        outputs = case.model(list(xs) if several else xs[0], training=False)
        return outputs if which is None else outputs[which]

    if case.layer:
        names = [case.layer] if isinstance(case.layer, str) else case.layer
        method = LayerIntegratedGradients(forward, [case.model.get_layer(name) for name in names])
    else:
        method = IntegratedGradients(forward)
    settings = {"n_steps": nodes, "method": "gausslegendre", "internal_batch_size": size}
    return lambda: [
        v.detach().cpu().numpy()
        for v in keras.tree.flatten(method.attribute(inputs, starts, target=target, **settings))
    ]


def unifiedig(case, nodes, size):
    """Explainer, Gauss–Legendre as well; on torch and JAX a node at a time, on TensorFlow all nodes of some rows."""
    import unifiedig

    backend = keras.config.backend()
    rows = max(1, size // nodes) if backend == "tensorflow" else size

    def make(x, start, target):
        model = keras_model = unit(case, target)
        if backend == "tensorflow":
            import tensorflow as tf

            predict = tf.function(lambda x: keras_model(x, training=False), reduce_retracing=True)
            model = unifiedig.TensorFlowModel(predict, dtype="float32")
        elif backend == "jax":
            import jax

            state = [[v.value for v in vs] for vs in (model.trainable_variables, model.non_trainable_variables)]
            predict = jax.jit(lambda state, x: keras_model.stateless_call(*state, x, training=False)[0])
            model = unifiedig.JaxModel(predict, params=state, dtype="float32")
        explainer = unifiedig.Explainer(model, start, n_steps=nodes, output_kind="regression")
        return lambda: np.concatenate([explainer(part).values for part in cut(x, rows)])

    return one_by_one(case, make)


def saliency(case, nodes, size):
    """PAIR's IntegratedGradients: a row at a time, equal weights, the gradient function compiled by its user."""
    from saliency.core import IntegratedGradients
    from saliency.core.base import INPUT_OUTPUT_GRADIENTS

    def make(x, start, target):
        gradient = bare(unit(case, target), 0)

        def call(points, call_model_args=None, expected_keys=None):
            return {INPUT_OUTPUT_GRADIENTS: gradient(keras.ops.convert_to_tensor(points, "float32"))}

        method = IntegratedGradients()
        settings = {"x_baseline": start[0], "x_steps": nodes, "batch_size": size}
        return lambda: np.stack([method.GetMask(row, call, **settings) for row in x])

    return one_by_one(case, make)


def xplique(case, nodes, size):
    """IntegratedGradients, trapezoid; targets one-hot; one constant as the baseline."""
    from xplique.attributions import IntegratedGradients

    if np.ndim(case.baseline):
        raise Refusal("takes one constant as the baseline")

    def make(x, start, target):
        classes = isinstance(case.target, (int, np.ndarray)) and getattr(case.model, "output_shape", None)
        model, column = (case.model, target) if classes and len(classes) == 2 else (unit(case, target), 0)
        hot = np.zeros((len(x), model.output_shape[1]), "float32")
        hot[:, column] = 1
        method = IntegratedGradients(
            model, batch_size=size, reducer=None, steps=nodes, baseline_value=float(case.baseline)
        )
        return lambda: method.explain(x, hot).numpy()

    return one_by_one(case, make)


def shap(case, nodes, size):
    """GradientExplainer: as many random points as we have nodes, on a model with the one output that is asked for."""
    import shap

    tensor = keras.ops.convert_to_tensor if keras.config.backend() == "torch" else np.asarray

    def make(x, start, target):
        explainer = shap.GradientExplainer(unit(case, target), tensor(start), batch_size=size)
        return lambda: explainer.shap_values(tensor(x), nsamples=nodes, rseed=0)

    return one_by_one(case, make)


class Peer(NamedTuple):
    """How a peer enters the contest.

    `run` is one of the functions above; `by_row` says that it never has more than one row's nodes in a batch;
    `default` that it also competes at the batch size it has by default; `apart` that it has a process of its own.
    """

    run: Any
    backends: tuple
    by_row: bool = False
    default: bool = False
    apart: bool = False


PEERS = {
    "captum": Peer(captum, ("torch",), default=True),
    "xplique": Peer(xplique, ("tensorflow",)),
    "unifiedig": Peer(unifiedig, record.BACKENDS),
    "saliency": Peer(saliency, record.BACKENDS, by_row=True),
    "shap": Peer(shap, ("tensorflow", "torch"), by_row=True, apart=True),
}


# ---- the contest -------------------------------------------------------------------------------------------------


def sizes(peer, auto, points, nodes, most):
    """Batch sizes to try: the one that aumann chooses and those about it, as the job and the memory allow."""
    largest = min(nodes if peer.by_row else points, most)
    return list(dict.fromkeys(max(1, min(s, largest)) for s in (auto, 4 * auto, auto // 4, 16 * auto)))


def most(width):
    """Model rows whose activations, kept for the way back, take half of the free memory.

    A gradient may keep three times the `width` numbers that the layers make of a row.
    """
    with open("/proc/meminfo", encoding="ascii") as file:
        free = next(1024 * int(line.split()[1]) for line in file if line.startswith("MemAvailable"))
    return max(1, free // 2 // (3 * 4 * width))


class Entry(NamedTuple):
    """A peer at one batch size; `trial` is the seconds of a run that was not the first one."""

    run: Any
    size: Any
    values: list
    trial: float


def enter(run, size):
    """Runs a contestant for the first time, and again unless that took so long that compiling hardly counts."""
    for _ in range(2):
        start = time.perf_counter()
        values = run()
        seconds = time.perf_counter() - start
        if seconds > 10:
            break
    return Entry(run, size, keras.tree.flatten(values), seconds)


def entries(case, name, nodes, auto, points, most):
    """{contestant: its entry} of a peer, at its best batch size and, for some, at its default."""
    peer, tried, end = PEERS[name], [], time.perf_counter() + SECONDS
    for size in sizes(peer, auto, points, nodes, most):
        tried.append(enter(peer.run(case, nodes, size), size))
        if time.perf_counter() > end:
            break
    found = {name: min(tried, key=lambda entry: entry.trial)}
    if peer.default and points <= most:
        found[f"{name} (default)"] = enter(peer.run(case, nodes, None), "default")
    return found


def turns(ours, theirs, seconds):
    """Entries run in turn for about as many seconds; a peer that is far behind stands by its trial.

    Returns:
        {contestant: seconds of each round}, and {peer: rounds that it ran in}.
    """
    fastest = min(entry.trial for entry in [*ours.values(), *theirs.values()])
    near = {name: entry for name, entry in theirs.items() if entry.trial <= FAR * fastest}
    running = ours | near
    once = sum(entry.trial for entry in running.values())
    rounds = int(np.clip(seconds / once, *ROUNDS)) if near else 1
    times = race({name: entry.run for name, entry in running.items()}, rounds, warm=0)
    times |= {name: np.full(rounds, entry.trial) for name, entry in theirs.items() if name not in near}
    return times, {name: rounds if name in near else 1 for name in theirs}


def contest(case, names, nodes, seconds):
    """Rows of the table: one for each peer, with its ratio to aumann or the reason why there is none."""
    method = aumann.IntegratedGradients(case.model, rule=aumann.gauss_legendre(nodes))

    def explain():
        return method.explain(case.inputs, target=case.target, baseline=case.baseline)

    e = explain()
    mine = enter(lambda: explain().values, e.provenance["batch_size"])
    largest = most(next(iter(method.oracles.values())).width)
    found, rows = {}, []
    for name in names:
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                found |= entries(case, name, nodes, mine.size, len(e.prediction) * nodes, largest)
        except Exception as error:
            rows.append(row(case, nodes, e, name, ours=mine.trial, reason=reason(error)))
    times, rounds = turns({"ours": mine}, found, seconds)
    for name, entry in found.items():
        rows.append(
            row(
                case, nodes, e, name,
                size=entry.size,
                ours=float(np.median(times["ours"])),
                seconds=float(np.median(times[name])),
                ratio=quartiles(times[name], times["ours"]),
                rounds=rounds[name],
                difference=difference(entry.values, mine.values),
                residual=residual(entry.values, e),
                our_residual=residual(mine.values, e),
            )
        )  # fmt: skip
    return rows


def row(case, nodes, e, peer, **measured):
    """What every row says of the question, and what was measured."""
    about = {"backend": keras.config.backend(), "case": case.name, "rows": len(e.prediction), "nodes": nodes}
    return {**about, "peer": peer, **measured}


def difference(theirs, ours):
    """The largest relative L1 difference of a row's values."""
    apart = sum(np.abs(a - b).reshape(len(b), -1).sum(1) for a, b in zip(theirs, ours, strict=True))
    mass = sum(np.abs(b).reshape(len(b), -1).sum(1) for b in ours)
    return float((apart / np.maximum(mass, 1e-30)).max())


def residual(values, e):
    """|Σφ − (F(x) − F(x′))|, summed over the rows, in parts of Σ |F(x) − F(x′)|."""
    total = sum(v.reshape(len(v), -1).sum(1, dtype="float64") for v in values)
    change = e.prediction - e.base_value
    return float(np.abs(total - change).sum() / np.abs(change).sum())


def reason(error):
    """A line on why a peer does not take a case."""
    if isinstance(error, Refusal):
        return str(error)
    text = str(error).strip()
    line = record.last_line(text) if text.startswith("in user code") else text.splitlines()[0] if text else ""
    return f"{type(error).__name__}: {line[:160]}"


def apart(script, name, peer, quick):
    """The rows of a contest of a script with a peer, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        done = record.python(f"benchmarks.{script}", name, "--peers", peer, "--out", folder, *["--quick"] * quick)
        rows = record.load(folder, f"{script}-{keras.config.backend()}")
    missing = {"backend": keras.config.backend(), "case": name, "peer": peer}
    return rows or [{**missing, "reason": record.last_line(done.stderr)}]


# ---- what is printed ---------------------------------------------------------------------------------------------


def sentence(rows):
    """One line on a contest: our seconds, the fastest peer, the others, and those that could not."""
    first, ran = rows[0], sorted((r for r in rows if "ratio" in r), key=lambda r: r["ratio"][1])
    parts = [f"{first['backend']:10s} {first['case']:12s} {first['rows']:5d} rows, ours {first['ours']:.3g} s"]
    parts += [("fastest peer " if r is ran[0] else "") + against(r) for r in ran]
    return "; ".join(parts + [f"not {r['peer']}: {r['reason']}" for r in rows if "reason" in r])


def against(row):
    """A peer's ratio, batch size, difference from our values and residual."""
    ratio = spread(row["ratio"]) if row["rounds"] > 1 else f"{row['ratio'][1]:.3g} (one round)"
    about = f"batch {row['size']}, values differ by {row['difference']:.1e}, residual {row['residual']:.1e}"
    return f"{row['peer']} {ratio} × ours [{about}]"


def main():
    parser = record.options(__doc__, CASES)
    backend = keras.config.backend()
    here = [name for name, peer in PEERS.items() if backend in peer.backends]
    parser.add_argument("--peers", nargs="+", choices=here, help="only these, all in this process")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    for name in record.known(parser, args.names or (QUICK if args.quick else CASES), CASES):
        together = args.peers or [peer for peer in here if not PEERS[peer].apart]
        found = contest(find(name, args.quick), together, 8 if args.quick else NODES, 1 if args.quick else SECONDS)
        if not args.peers:
            for peer in here:
                found += apart("peers", name, peer, args.quick) if PEERS[peer].apart else []
        print(sentence(found), flush=True)
        record.merge(found, args.out, f"peers-{backend}", "case", "peer")


if __name__ == "__main__":
    main()
