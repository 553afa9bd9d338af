"""Metrics of values near the input: whether they foretell F there, and whether they stay what they were."""

import hashlib

import numpy as np
from keras import tree

from aumann.arguments import number, whole
from aumann.metrics.probe import LIMIT, Probe
from aumann.metrics.values_alone import ratio


def infidelity(
    explainer,
    explanation,
    target=None,
    *,
    perturb=None,
    samples=100,
    scaled=False,
    seed=0,
):
    """How well values foretell the change of F: the mean over perturbed inputs x̃ of (Σᵢ φᵢ sᵢ − (F(x) − F(x̃)))².

    φ are contributions, in units of F, so the perturbation enters as the part of the way to the baseline,
    sᵢ = (xᵢ − x̃ᵢ) / (xᵢ − x′ᵢ), and 0 where xᵢ = x′ᵢ; a token counts 1 where its id has changed. For φ = (x − x′) · m
    this is the paper's Iᵀm with I = x − x̃. Costs 1 + samples forward passes a row.

    Args:
        explainer: whose `predict` is F.
        explanation: an `aumann.Explanation`, from one baseline for each row.
        target: that of the explanation; "predicted" is the class of the inputs as they are.
        perturb: None to set every feature to its baseline with probability ½; a radius r, in units of the inputs, for
            noise uniform in [−r, r] (token ids stay); or a callable (inputs, generator) -> perturbed inputs, which is
            given `samples` copies of one row in the structure of the inputs, and `numpy.random.Generator`.
        samples: perturbed inputs for each row.
        scaled: True multiplies φ by the factor that makes each row's infidelity least, as the paper does when it
            compares methods of different scale.
        seed: of the perturbations; those of a row depend on the seed and the row, not on its company.

    Returns:
        (n,) or (n, targets), in squared units of F; small is good.

    Raises:
        ValueError, TypeError: an argument does not fit, or the explanation is from a set of baselines.

    Source: Yeh et al. (2019), On the (In)fidelity and Sensitivity of Explanations.
    """
    probe = Probe(explainer, explanation, target)
    probe.same_targets()
    fills = probe.fill("baseline") if perturb is None else None
    samples, perturb = whole(samples, 1, "samples", 20), _perturbation(probe, perturb, fills)
    expected, found = (np.empty((probe.rows, samples, probe.prediction.shape[1])) for _ in range(2))
    size = max(1, LIMIT // (samples * sum(x[0].size for x in probe.inputs)))
    for first in range(0, probe.rows, size):
        rows = np.arange(first, min(first + size, probe.rows))
        made = [perturb([x[[row] * samples] for x in probe.inputs], generator(probe, row, seed), row) for row in rows]
        leaves = [np.concatenate(parts) for parts in zip(*made, strict=True)]
        other = probe.predict(leaves, rows.repeat(samples)).reshape(len(rows), samples, -1)
        found[rows] = probe.prediction[rows, None] - other
        expected[rows] = _expected(probe, rows, leaves, samples)
    if scaled:
        beta = ratio((expected * found).sum(1), (expected**2).sum(1))
        expected = expected * beta[:, None]
    return probe.one(((expected - found) ** 2).mean(1))


def max_sensitivity(
    explainer,
    explanation,
    target=None,
    *,
    perturb,
    samples=10,
    baseline=None,
    seed=0,
):
    """How far values move when the input hardly does: the largest ‖φ(x̃) − φ(x)‖ / ‖φ(x)‖ of some inputs near by.

    Norms are Euclidean, over all features of all inputs. A maximum over samples is a lower bound of that over the
    ball. Costs `samples` explanations of every row, and forward passes as many.

    Args:
        explainer: which made the explanation.
        explanation: an `aumann.Explanation`.
        target: that of the explanation; "predicted" is the class of the inputs as they are.
        perturb: a radius or a callable, as in `infidelity`; the callable is given one row at a time.
        samples: perturbed inputs for each row.
        baseline: as in `explain`; None for that of the explanation, if it was not a set.
        seed: of the perturbations; those of a row depend on the seed and the row, not on its company.

    Returns:
        (n,) or (n, targets); small is stable. 0 where nothing moves, infinity where only the first values are all 0.

    Raises:
        ValueError, TypeError: an argument does not fit.

    Source: Yeh et al. (2019), On the (In)fidelity and Sensitivity of Explanations.
    """
    probe = Probe(explainer, explanation, target)
    probe.same_targets()
    if perturb is None:
        raise TypeError("Expected perturb= to be a radius or a callable, received None. Give a radius such as 0.02.")
    samples, perturb = whole(samples, 1, "samples", 20), _perturbation(probe, perturb)
    generators = [generator(probe, row, seed) for row in range(probe.rows)]
    worst = np.zeros_like(probe.prediction)
    for _ in range(samples):
        made = [perturb([x[[row]] for x in probe.inputs], generators[row], row) for row in range(probe.rows)]
        near = probe.explain([np.concatenate(parts) for parts in zip(*made, strict=True)], baseline)
        values = [v if probe.several else v[:, None] for v in tree.flatten(near.values)]
        change = [a.astype(np.float64) - b for a, b in zip(values, probe.values, strict=True)]
        worst = np.maximum(worst, ratio(_norm(change), _norm(probe.values)))
    return probe.one(worst)


def generator(probe, row, seed):
    """Random numbers of one row of inputs: the same wherever in a batch it stands."""
    digest = hashlib.blake2b(digest_size=16)
    for x in probe.inputs:
        digest.update(np.ascontiguousarray(x[row]).tobytes())
    return np.random.default_rng([seed, *np.frombuffer(digest.digest(), np.uint32)])


def _perturbation(probe, perturb, fills=None):
    """(copies of a row, generator, row) -> perturbed copies."""
    if perturb is None:
        return lambda leaves, rng, row: [_halved(probe, i, x, fills[i], rng, row) for i, x in enumerate(leaves)]
    if callable(perturb):
        return lambda leaves, rng, row: _called(probe, perturb, leaves, rng)
    meaning = "or a callable (inputs, generator)"
    number(perturb, "(0, inf)", "perturb= to be a radius", "0.02, in units of the inputs", meaning)
    noisy = [i for i in probe.moving if not probe.embedded[i]]
    if not noisy:
        raise ValueError(
            f"Expected inputs of real numbers for perturb={perturb!r}, received token ids alone. Give a callable "
            "(inputs, generator) -> inputs with other ids."
        )

    def shake(leaves, rng, row):
        return [
            probe.changed(i, x + rng.uniform(-perturb, perturb, x.shape)) if i in noisy else x
            for i, x in enumerate(leaves)
        ]

    return shake


def _halved(probe, i, x, fill, rng, row):
    if i not in probe.moving:
        return x
    return probe.changed(i, np.where(rng.random(x.shape) < 0.5, fill[row if len(fill) > 1 else 0], x))


def _called(probe, perturb, leaves, rng):
    given = perturb(probe.pack([x.copy() for x in leaves]), rng)
    try:
        tree.assert_same_structure(given, probe.structure)
        made = [np.asarray(x) for x in tree.flatten(given)]
    except (ValueError, TypeError) as error:
        raise TypeError(
            f"Expected perturb() to return inputs in the structure that it was given, received {type(given).__name__} "
            f"({error}). Return changed copies."
        ) from error
    for name, a, x in zip(probe.names, made, leaves, strict=True):
        if a.shape != x.shape:
            raise ValueError(
                f"Expected perturb() to keep the shape {x.shape} of input {name!r}, received {a.shape}. Return a "
                "changed copy for each row that it is given."
            )
    for i, x in enumerate(leaves):
        if i not in probe.moving and (made[i] != x).any():
            raise ValueError(
                f"Expected perturb() to leave input {probe.names[i]!r} alone, which is held still and has no values; "
                "received it changed. Change the other inputs."
            )
    return [probe.changed(i, a) if i in probe.moving else a for i, a in enumerate(made)]


def _expected(probe, rows, leaves, samples):
    """Σᵢ φᵢ sᵢ of perturbed copies of some rows: (rows, samples, targets)."""
    total = 0
    for i in probe.moving:
        x, values = probe.inputs[i][rows, None], probe.at_inputs(i)[rows]
        other = leaves[i].reshape(len(rows), samples, *x.shape[2:])
        if probe.embedded[i]:
            part = (other != x).astype(np.float64)
        else:
            start = probe.start(i)
            start = (start if len(start) == 1 else start[rows])[:, None]
            whole = x.astype(np.float64) - start
            part = np.divide(x - other.astype(np.float64), whole, out=np.zeros(other.shape), where=whole != 0)
        flat = values.reshape(*values.shape[:2], -1).astype(np.float64)
        total = total + np.einsum("nsf,nkf->nsk", part.reshape(len(rows), samples, -1), flat)
    return total


def _norm(leaves):
    """Euclidean, over the features of all inputs: (n, targets)."""
    return np.sqrt(sum((v.astype(np.float64) ** 2).sum(tuple(range(2, v.ndim))) for v in leaves))
