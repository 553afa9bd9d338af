"""The time to 1 % true error: aumann against every peer that runs here, each with as much work as that takes.

    KERAS_BACKEND=torch python -m benchmarks.accuracy [mlp_relu …] [--peers captum …] [--quick] [--out folder]

The true error of a row is the relative L1 distance of its values from a reference: very many cells of secants where the
network has kinks, four Gauss–Legendre nodes in each of very many cells where it has none. A peer gets the smallest
power of two of its steps or samples (of two large networks from 64 on) with which 99 % of the rows have a true error of
1 % or less: it is told the truth, which its user does not know. aumann runs twice, with tolerance=0.01, which has to
find out for itself, and with the cheapest fixed rule that is told the truth as well. Peers and aumann explain the same
rows at the same target from a baseline of zeros, in one process, and take turns. Where the largest number of steps that
is tried is not enough, a peer's time at it is a lower bound.

A peer's user who does not know the truth can double the steps until two results agree, to 1 % for 99 % of the rows.
What that takes is measured against aumann's tolerance as well, for peers that are not far behind anyway.

Rows go to the file as they come, in place of older ones of the same case and peer: a run may be cut into pieces.
"""

import contextlib
import io
import time
import warnings
from typing import Any, NamedTuple

import keras
import numpy as np

import aumann
from benchmarks import networks, peers, record
from benchmarks.contest import quartiles, race, spread
from benchmarks.exactness import enlarged, leaves
from benchmarks.real import cases as zoo
from benchmarks.tolerance import composite, train

GOAL = 0.01  # true error
SHARE = 0.99  # of the rows
PATIENCE = 30  # seconds: a run that takes longer is not tried with twice as much
SECONDS = 20  # of racing for a case


# ---- the questions -----------------------------------------------------------------------------------------------


class Kind(NamedTuple):
    """A case: its question, whether its network is smooth, cells of the reference, and the steps that are tried."""

    make: Any
    smooth: bool
    fine: int = 4096
    least: int = 2
    cap: int = 1024


def mlp(name, rows=2000):
    """Scikit-learn's synthetic classes in 32 features; rows and target of one class, for peers that know one target."""
    from sklearn.datasets import make_classification

    x, classes = make_classification(6000, 32, n_informative=16, n_classes=3, random_state=0)
    x = x.astype("float32")
    model = networks.mlp(name.split("_")[1])
    train(model, x[:3000], classes[:3000], 10)
    return zoo.Case(name, model, x[3000:][classes[3000:] == 0][:rows], 0)


def digits(name, rows=60):
    """Threes, of which a LeNet has seen some."""
    activation, pooling = {"digits_relu": ("relu", "max"), "digits_gelu_mean": ("gelu", "mean")}[name]
    x, classes = enlarged()
    model = networks.digits_cnn(activation, pooling=pooling)
    train(model, x[:1500], classes[:1500], 5)
    return zoo.Case(name, model, x[classes == 3][-rows:], 3)


def transformer(name, rows=30):
    """Threes again, line by line, and six blocks of attention."""
    from sklearn.datasets import load_digits

    data = load_digits()
    lines = (data.images / 16).astype("float32")
    model = networks.transformer(blocks=6)
    train(model, lines[:1500], data.target[:1500], 8)
    return zoo.Case(name, model, lines[data.target == 3][-rows:], 3)


def mobilenet(name, rows=2):
    """Threes, 96 × 96, and Keras's own MobileNetV2 that has seen some: with drawn weights alone it is far rougher."""
    x, classes = enlarged()
    x = np.kron(np.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0))), np.ones((1, 3, 3, 3), "float32"))
    model = networks.mobilenet(side=x.shape[1], classes=10)
    train(model, x[:1500], classes[:1500], 3)
    networks.settle(model, x[:256])  # whose averages move by a thousandth a step
    return zoo.Case(name, model, x[classes == 3][-rows:], 3)


def efficientnet(name, rows=1):
    case = zoo.CASES[name]()
    return case._replace(inputs=case.inputs[:rows], target=case.target[:rows])


CASES = {
    "mlp_relu": Kind(mlp, smooth=False),
    "mlp_tanh": Kind(mlp, smooth=True),
    "digits_relu": Kind(digits, smooth=False),
    "digits_gelu_mean": Kind(digits, smooth=True),
    "transformer": Kind(transformer, smooth=True, fine=1024),
    "mobilenet": Kind(mobilenet, smooth=False, fine=2048, least=64),
    "efficientnet": Kind(efficientnet, smooth=False, fine=2048, least=64),
}
BIG = ["mobilenet", "efficientnet"]  # half a second a gradient on JAX's CPU: there only if they are named
QUICK = ["mlp_relu", "mlp_tanh"]


# ---- the contest -------------------------------------------------------------------------------------------------


class Truth:
    """What the values of a case should be."""

    def __init__(self, values):
        self.values, self.mass = values, np.abs(values).sum(1)

    def error(self, found):
        """The true relative L1 error that no more than 1 % of the rows exceed."""
        found = side_by_side(found)
        moved = self.mass > 0
        each = np.abs(found - self.values).sum(1)[moved] / self.mass[moved]
        return float(np.quantile(each, SHARE, method="inverted_cdf"))


def side_by_side(values):
    """Values of all inputs of a row: (rows, features)."""
    return np.concatenate([v.reshape(len(v), -1) for v in keras.tree.flatten(values)], axis=1)


class Found(NamedTuple):
    """The smallest power of two that is enough, or the largest that was tried; and the error there."""

    setting: int
    error: float

    @property
    def reached(self):
        return self.error <= GOAL


def smallest(make, truth, least, cap):
    """Doubles the setting until `make(setting)() -> values` is within the goal, the cap is reached or patience lost."""
    setting = least
    while True:
        run = make(setting)
        start = time.perf_counter()
        found = Found(setting, truth.error(run()))
        if found.reached or 2 * setting > cap:
            return found
        if time.perf_counter() - start > PATIENCE:  # which may have been compiling
            start = time.perf_counter()
            run()
            if time.perf_counter() - start > PATIENCE:
                return found
        setting *= 2


def contest(case, kind, names, quick):
    """Rows of the table: one for each peer, with its ratios to aumann or the reason why there is none."""
    least, cap, fine, seconds = (2, 8, 64, 1) if quick else (kind.least, kind.cap, kind.fine, SECONDS)

    def explain(**settings):
        method = aumann.IntegratedGradients(case.model, **settings)
        return lambda: method.explain(case.inputs, target=case.target, baseline=case.baseline)

    truth = Truth(leaves(explain(rule=composite(fine // 4) if kind.smooth else aumann.secant(fine))()))
    ours, about, chosen = {}, {}, 1
    for label, settings in ours_of(explain, truth, least, cap).items():
        run = explain(**settings)
        e = run()
        chosen = e.provenance["batch_size"]
        ours[label] = peers.enter(lambda run=run: run().values, chosen)
        error = truth.error(e.values)
        about[label] = {
            "rule": e.provenance["rule"], "error": error, "reached": error <= GOAL,
            "evaluations": float(e.evaluations.mean()), "batch": chosen,
        }  # fmt: skip
    points = len(truth.mass)
    largest = peers.most(width(case))
    found, results, rows = {}, {}, []
    base = {
        "backend": keras.config.backend(), "case": case.name, "kind": "smooth" if kind.smooth else "piecewise linear",
        "rows": points,
    }  # fmt: skip
    for name in names:
        try:
            with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
                best = smallest(
                    maker(case, name, chosen, points, largest), truth, least, most_steps(name, cap, largest)
                )
                entered = peers.entries(case, name, best.setting, chosen, points * best.setting, largest)
        except Exception as error:
            rows.append({**base, "peer": name, "reason": peers.reason(error)})
            continue
        found |= entered
        results |= dict.fromkeys(entered, best)
    times, rounds = peers.turns(ours, found, seconds)
    searched = {
        name: search(
            ours["tolerance"].run, doubling(case, name, entry, least, most_steps(name, 4 * cap, largest)), truth
        )
        for name, entry in found.items()
        if rounds[name] > 1 and results[name].reached
    }
    for label, own in about.items():
        own["seconds"] = float(np.median(times[label]))
    fixed = min((k for k in about if k != "tolerance"), key=lambda k: (not about[k]["reached"], about[k]["seconds"]))
    for name, entry in found.items():
        rows.append({
            **base, "peer": name, "setting": results[name].setting, "reached": results[name].reached,
            "error": truth.error(entry.values), "batch": entry.size, "seconds": float(np.median(times[name])),
            "rounds": rounds[name], "ratio": quartiles(times[name], times["tolerance"]),
            "fixed_ratio": quartiles(times[name], times[fixed]), "ours": about["tolerance"], "fixed": about[fixed],
            "doubling": searched.get(name),
        })  # fmt: skip
    return rows


def doubling(case, name, entry, least, cap):
    """run() -> setting, values, and whether they agree with those before: a peer's steps doubled until they do.

    What a peer builds for a number of steps is built once, and not counted.
    """
    size, built = None if entry.size == "default" else entry.size, {}

    def run():
        setting, before = least, None
        while True:
            if setting not in built:
                built[setting] = peers.PEERS[name.split(" (")[0]].run(case, setting, size)
            values = side_by_side(built[setting]())
            agree = before is not None and Truth(values).error(before) <= GOAL
            if agree or 2 * setting > cap:
                return setting, values, agree
            setting, before = 2 * setting, values

    return run


def search(ours, theirs, truth):
    """What finding out the number of steps takes, in parts of aumann's time to a tolerance."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        setting, values, agree = theirs()
        start = time.perf_counter()
        theirs()
        rounds = 5 if time.perf_counter() - start < 2 else 1
        times = race({"ours": ours, "theirs": theirs}, rounds, warm=0)
    ratio = quartiles(times["theirs"], times["ours"])
    return {"setting": setting, "error": truth.error(values), "reached": agree, "ratio": ratio, "rounds": rounds}


def ours_of(explain, truth, least, cap):
    """aumann's contestants: its tolerance, and each family of rules at the smallest power of two that is enough."""
    settings = {"tolerance": {"tolerance": GOAL}}
    for family in (aumann.gauss_legendre, aumann.secant):
        best = smallest(lambda n, family=family: lambda: explain(rule=family(n))().values, truth, least, cap)
        settings[family.__name__] = {"rule": family(best.setting)}
    return settings


def maker(case, name, batch, rows, largest):
    """setting -> run() -> values, of a peer, at about aumann's batch size."""
    peer = peers.PEERS[name]

    def make(setting):
        size, *_ = peers.sizes(peer, batch, rows * setting, setting, largest)
        return peer.run(case, setting, size)

    return make


def most_steps(name, cap, largest):
    """unifiedig keeps all steps of a row in memory at once on TensorFlow."""
    whole = name == "unifiedig" and keras.config.backend() == "tensorflow"
    return min(cap, largest) if whole else cap


def width(case):
    """Numbers that the layers make of a row."""
    shapes = (layer.output.shape[1:] for layer in case.model.layers)
    return sum(int(np.prod(shape)) for shape in shapes)


# ---- what is printed ---------------------------------------------------------------------------------------------


def sentence(rows):
    ran = sorted((r for r in rows if "ratio" in r), key=lambda r: r["ratio"][1])
    parts = [f"{rows[0]['backend']:10s} {rows[0]['case']:16s} {rows[0]['kind']}, {rows[0]['rows']} rows"]
    if ran:
        ours, fixed = ran[0]["ours"], ran[0]["fixed"]
        parts += [
            f"tolerance: {ours['error']:.1e} after {ours['evaluations']:.0f} gradients a row, {ours['seconds']:.3g} s",
            f"{fixed['rule']}: {fixed['error']:.1e}, {fixed['seconds']:.3g} s",
        ]
    for r in ran:
        more = "" if r["reached"] else "not reached, at least "
        parts.append(
            f"{r['peer']}({r['setting']}) {r['error']:.1e}: {more}{spread(r['ratio'])} × the tolerance's, "
            f"{spread(r['fixed_ratio'])} × the rule's"
        )
        if own := r["doubling"]:
            parts.append(
                f"    doubling to {own['setting']} {own['error']:.1e}: {'' if own['reached'] else 'at least '}"
                f"{spread(own['ratio'])} × the tolerance's"
            )
    return "\n    ".join(parts + [f"not {r['peer']}: {r['reason']}" for r in rows if "reason" in r])


def main():
    parser = record.options(__doc__, CASES)
    backend = keras.config.backend()
    here = [name for name, peer in peers.PEERS.items() if backend in peer.backends]
    parser.add_argument("--peers", nargs="+", choices=here, help="only these, all in this process")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    default = QUICK if args.quick else [name for name in CASES if backend != "jax" or name not in BIG]
    for name in record.known(parser, args.names or default, CASES):
        kind = CASES[name]
        together = args.peers or [peer for peer in here if not peers.PEERS[peer].apart]
        case = kind.make(name, 4) if args.quick else kind.make(name)
        rows = contest(case, kind, together, args.quick)
        if not args.peers:
            for peer in here:
                rows += peers.apart("accuracy", name, peer, args.quick) if peers.PEERS[peer].apart else []
        print(sentence(rows), flush=True)
        record.merge(rows, args.out, f"accuracy-{backend}", "case", "peer")


if __name__ == "__main__":
    main()
