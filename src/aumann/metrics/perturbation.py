"""Metrics of inputs near the explained ones: whether values predict F there, and whether they change themselves."""

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
from keras import tree

from aumann.arguments import number, whole
from aumann.explanation import Explanation
from aumann.metrics.common import ratio
from aumann.metrics.probe import LIMIT, Explainer, Probe


def infidelity(
    explainer: Explainer,
    explanation: Explanation,
    target: Any = None,
    *,
    perturb: float | Callable | None = None,
    samples: int = 100,
    scaled: bool = False,
    seed: int = 0,
) -> np.ndarray:
    """How well values predict the change of F: the mean over perturbed inputs x̃ of (Σᵢ φᵢ sᵢ − (F(x) − F(x̃)))².

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
        seed: of the perturbations; those of a row depend on the seed and the row, not on the other rows.

    Returns:
        (n,) or (n, targets), in squared units of F; small is good.

    Raises:
        ValueError, TypeError: an argument does not fit, or the explanation is from a set of baselines.

    Source: Yeh et al. (2019), On the (In)fidelity and Sensitivity of Explanations.
    """
    probe = Probe(explainer, explanation, target)
    probe.require_same_targets()
    fills = probe.fill("baseline") if perturb is None else None
    samples, perturb = whole(samples, 1, "samples", 20), _perturbation(probe, perturb, fills)
    expected, actual = (np.empty((probe.rows, samples, probe.prediction.shape[1])) for _ in range(2))
    size = max(1, LIMIT // (samples * sum(x[0].size for x in probe.inputs)))
    for first in range(0, probe.rows, size):
        rows = np.arange(first, min(first + size, probe.rows))
        copies = [perturb([x[[row] * samples] for x in probe.inputs], generator(probe, row, seed), row) for row in rows]
        leaves = [np.concatenate(parts) for parts in zip(*copies, strict=True)]
        outputs = probe.predict(leaves, rows.repeat(samples)).reshape(len(rows), samples, -1)
        actual[rows] = probe.prediction[rows, None] - outputs
        expected[rows] = _expected(probe, rows, leaves, samples)
    if scaled:
        factor = ratio((expected * actual).sum(1), (expected**2).sum(1))
        expected = expected * factor[:, None]
    return probe.without_single_target(((expected - actual) ** 2).mean(1))


def max_sensitivity(
    explainer: Explainer,
    explanation: Explanation,
    target: Any = None,
    *,
    perturb: float | Callable,
    samples: int = 10,
    baseline: Any = None,
    seed: int = 0,
) -> np.ndarray:
    """How far values move when the input moves little: the largest ‖φ(x̃) − φ(x)‖ / ‖φ(x)‖ of some inputs x̃ near x.

    Norms are Euclidean, over all features of all inputs. A maximum over samples is a lower bound of that over the
    ball. Costs `samples` explanations of every row, and forward passes as many.

    Args:
        explainer: which made the explanation.
        explanation: an `aumann.Explanation`.
        target: that of the explanation; "predicted" is the class of the inputs as they are.
        perturb: a radius or a callable, as in `infidelity`; the callable is given one row at a time.
        samples: perturbed inputs for each row.
        baseline: as in `explain`; None for that of the explanation, if it was not a set.
        seed: of the perturbations; those of a row depend on the seed and the row, not on the other rows.

    Returns:
        (n,) or (n, targets); small is stable. 0 where nothing moves, infinity where only the first values are all 0.

    Raises:
        ValueError, TypeError: an argument does not fit.

    Source: Yeh et al. (2019), On the (In)fidelity and Sensitivity of Explanations.
    """
    probe = Probe(explainer, explanation, target)
    probe.require_same_targets()
    if perturb is None:
        raise TypeError("Expected perturb= to be a radius or a callable, received None. Give a radius such as 0.02.")
    samples, perturb = whole(samples, 1, "samples", 20), _perturbation(probe, perturb)
    generators = [generator(probe, row, seed) for row in range(probe.rows)]
    worst = np.zeros_like(probe.prediction)
    for _ in range(samples):
        copies = [perturb([x[[row]] for x in probe.inputs], generators[row], row) for row in range(probe.rows)]
        values = probe.explain([np.concatenate(parts) for parts in zip(*copies, strict=True)], baseline)
        change = [a.astype(np.float64) - b for a, b in zip(values, probe.values, strict=True)]
        worst = np.maximum(worst, ratio(_norm(change), _norm(probe.values)))
    return probe.without_single_target(worst)


def generator(probe: Probe, row: int, seed: int) -> np.random.Generator:
    """Random numbers that depend on the seed and on one row of inputs, not on its position among the others."""
    digest = hashlib.blake2b(digest_size=16)
    for x in probe.inputs:
        digest.update(np.ascontiguousarray(x[row]).tobytes())
    return np.random.default_rng([seed, *np.frombuffer(digest.digest(), np.uint32)])


def _perturbation(probe: Probe, perturb: float | Callable | None, fills: list | None = None) -> Callable:
    """(copies of a row, generator, row) -> perturbed copies."""
    if perturb is None:
        return lambda leaves, rng, row: [_half_filled(probe, i, x, fills[i], rng, row) for i, x in enumerate(leaves)]
    if callable(perturb):
        return lambda leaves, rng, row: _by_function(probe, perturb, leaves, rng)
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


def _half_filled(probe: Probe, i: int, x: np.ndarray, fill: Any, rng: np.random.Generator, row: int) -> np.ndarray:
    """Copies of input i of a row, every feature with probability ½ at its fill."""
    if i not in probe.moving:
        return x
    return probe.changed(i, np.where(rng.random(x.shape) < 0.5, fill[row if len(fill) > 1 else 0], x))


def _by_function(probe: Probe, perturb: Callable, leaves: list, rng: np.random.Generator) -> list[np.ndarray]:
    """Copies of a row as the user's function changes them; raises where they do not fit the inputs."""
    returned = perturb(probe.pack([x.copy() for x in leaves]), rng)
    try:
        tree.assert_same_structure(returned, probe.structure)
        copies = [np.asarray(x) for x in tree.flatten(returned)]
    except (ValueError, TypeError) as error:
        raise TypeError(
            "Expected perturb() to return inputs in the structure that it was given, received "
            f"{type(returned).__name__} ({error}). Return changed copies."
        ) from error
    for name, a, x in zip(probe.names, copies, leaves, strict=True):
        if a.shape != x.shape:
            raise ValueError(
                f"Expected perturb() to keep the shape {x.shape} of input {name!r}, received {a.shape}. Return a "
                "changed copy for each row that it is given."
            )
    for i, x in enumerate(leaves):
        if i not in probe.moving and (copies[i] != x).any():
            raise ValueError(
                f"Expected perturb() to leave input {probe.names[i]!r} alone, which is held still and has no values; "
                "received it changed. Change the other inputs."
            )
    return [probe.changed(i, a) if i in probe.moving else a for i, a in enumerate(copies)]


def _expected(probe: Probe, rows: np.ndarray, leaves: list, samples: int) -> np.ndarray:
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


def _norm(leaves: list[np.ndarray]) -> np.ndarray:
    """Euclidean, over the features of all inputs: (n, targets)."""
    return np.sqrt(sum((v.astype(np.float64) ** 2).sum(tuple(range(2, v.ndim))) for v in leaves))
