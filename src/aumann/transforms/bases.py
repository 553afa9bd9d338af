"""Bases: attributions of frequencies, wavelets or principal components instead of samples, at no further gradients.

In z = T x a path moves by T(x − x′) and has the mean gradient T⁻ᵀm, where m = ∫∇F dt is that in x. So

    φ_z = T(x − x′) ∘ T⁻ᵀm,    Σφ_z = (x − x′)ᵀ Tᵀ T⁻ᵀ m = Σφ.

Every function takes an explanation whose values are m, as `aumann.MeanGradient` gives it, from one baseline (a set of
baselines has no single T(x − x′)), and returns one whose values are φ_z. Its inputs and baseline are z and z′, and
`names["basis"]` describes the basis. With several inputs the others get (x − x′) ∘ m. All is computed in float64.
"""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from aumann.arguments import is_whole
from aumann.explanation import Explanation, with_values
from aumann.features.nested import input_path, rebuild, walk


@dataclasses.dataclass(frozen=True)
class _Basis:
    """A basis as functions of arrays (..., *row).

    Attributes:
        forward: a -> T a.
        dual: a -> T⁻ᵀ a.
        description: the entry `names["basis"]`.
        features: the names along the first axis of T a, or None.
        share: (T(x − x′), T⁻ᵀm) -> φ_z.
        coordinates: x -> the real numbers that represent z; `forward` where it is None.
    """

    forward: Callable
    dual: Callable
    description: dict
    features: list | None = None
    share: Callable = operator.mul
    coordinates: Callable | None = None


def fourier(
    explanation: Explanation,
    axis: int | Sequence[int] = 0,
    *,
    rate: float | Sequence[float] = 1.0,
    input: str | None = None,
) -> Explanation:
    """Attributions of frequencies, by the discrete Fourier transform.

    A real signal has each frequency twice, as a conjugate pair; the pair's attribution is one real number. Over two
    axes the last one named is halved, as in `numpy.fft.rfft2`.

    Args:
        explanation: of the mean gradient; see the docstring of `aumann.bases`.
        axis: feature axis, or several, counted without those of rows and targets.
        rate: samples per unit along the axis, one number for all axes or one for each; frequencies are per that unit.
        input: the signal's name where there are several inputs.

    Returns:
        An explanation with values (n[, targets], *row), where an axis of N samples has N // 2 + 1 frequencies, or N for
        all but the last of several axes. Inputs and baseline are amplitudes |z|. `frequencies` gives the frequencies.

    Raises:
        ValueError: no such axis, or values that are not mean gradients from one baseline.
    """

    def basis(row, features):
        axes = _axes(axis, row)
        rates = np.broadcast_to(np.asarray(rate, np.float64), len(axes))
        if not (rates > 0).all():
            raise ValueError(f"Expected rates > 0, in samples per unit; received {rate!r}. Leave it out for 1.")
        frequencies = [np.fft.fftfreq(row[a], 1 / r) for a, r in zip(axes, rates, strict=True)]
        frequencies[-1] = np.fft.rfftfreq(row[axes[-1]], 1 / rates[-1])
        # One coefficient stands for a conjugate pair and counts twice, but not those that are their own conjugates:
        # frequency 0 and, for even N, the highest.
        multiplicity = np.full(len(frequencies[-1]), 2.0)
        multiplicity[[0] + [-1] * (row[axes[-1]] % 2 == 0)] = 1.0
        multiplicity = multiplicity.reshape(-1, *(1,) * (len(row) - 1 - axes[-1]))
        last_axes = tuple(a - len(row) for a in axes)

        def forward(a):
            return np.fft.rfftn(a, axes=last_axes, norm="ortho")

        def share(change, gradient):
            return multiplicity * (change.conj() * gradient).real

        description = {"kind": "fourier", "axes": axes, "frequencies": [f.tolist() for f in frequencies]}
        if 0 in axes:
            features = [f"{f:g}" for f in frequencies[axes.index(0)]]
        return _Basis(forward, forward, description, features, share, lambda x: np.abs(forward(x)))

    return _in_basis(explanation, input, basis)


def wavelet(
    explanation: Explanation,
    name: str = "haar",
    axis: int | Sequence[int] = 0,
    *,
    level: int | None = None,
    input: str | None = None,
) -> Explanation:
    """Attributions of wavelet coefficients, by the periodic discrete wavelet transform.

    Args:
        explanation: of the mean gradient; see the docstring of `aumann.bases`.
        name: an orthogonal wavelet of PyWavelets, such as "haar", "db4", "sym5", "coif2".
        axis: feature axis, or several, counted without those of rows and targets.
        level: how often the signal is halved; 2**level divides the length of each axis. None takes the largest level
            that the length and the wavelet's width allow.
        input: the signal's name where there are several inputs.

    Returns:
        An explanation of the same shape, coarsest coefficients first. `scales` gives the groups of coefficients.

    Raises:
        ValueError: no such axis, wavelet or level, or values that are not mean gradients from one baseline.
        ImportError: PyWavelets is not installed.
    """
    try:
        import pywt
    except ImportError as problem:
        raise ImportError("Wavelets need PyWavelets. Install aumann[wavelet].") from problem
    known = pywt.wavelist(kind="discrete")
    if name not in known or not pywt.Wavelet(name).orthogonal:
        raise ValueError(
            f"Expected an orthogonal wavelet of PyWavelets; received {name!r}. Choose among haar, db, sym and coif."
        )

    def basis(row, features):
        axes = _axes(axis, row)
        lengths = [row[a] for a in axes]
        depth = _level(level, lengths, pywt.dwt_max_level(min(lengths), name))
        last_axes = tuple(a - len(row) for a in axes)

        def split(a):
            parts = pywt.wavedecn(a, name, mode="periodization", level=depth, axes=last_axes)
            return pywt.coeffs_to_array(parts, axes=last_axes)

        boxes = _scale_boxes(split(np.empty(row))[1], depth)
        sides = {scale: [box[a].indices(row[a])[:2] for a in axes] for scale, box in boxes.items()}
        if axes == [0]:
            features = [scale for scale, ((start, stop),) in sides.items() for _ in range(start, stop)]
        elif 0 in axes:
            features = None
        description = {"kind": "wavelet", "wavelet": name, "level": depth, "axes": axes}
        description |= {"scales": sides, "lengths": lengths}
        return _Basis(lambda a: split(a)[0], lambda a: split(a)[0], description, features)

    return _in_basis(explanation, input, basis)


def _level(level, lengths, widest):
    """How often axes of these lengths are halved: `level`, or as often as possible and at most `widest` times."""
    halvings = min((length & -length).bit_length() - 1 for length in lengths)  # 2**halvings divides all of them
    chosen = min(halvings, widest) if level is None else level
    if not is_whole(chosen, 1, halvings):
        raise ValueError(
            f"Expected a level from 1 to {halvings} for axes of length {lengths}; received {chosen}. "
            "Give a level, or bring the length to a multiple of a power of two."
        )
    return int(chosen)


def _scale_boxes(slices, level):
    """{name of a scale: its slices in the array of coefficients}, from the slices of `pywt.coeffs_to_array`."""
    coarsest, *finer = slices
    boxes = {f"a{level}": coarsest}
    for k, details in enumerate(finer):
        boxes |= {f"{detail}{level - k}": box for detail, box in sorted(details.items())}
    return boxes


def pca(explanation: Explanation, components: Any, *, input: str | None = None) -> Explanation:
    """Attributions of principal components, or of any orthonormal directions.

    Args:
        explanation: of the mean gradient; see the docstring of `aumann.bases`.
        components: (k, p) with orthonormal rows for rows of p features, or an object with `components_` and `mean_`, as
            a fitted `sklearn.decomposition.PCA` is. Whitening changes no attribution.
        input: the input's name where there are several.

    Returns:
        An explanation with values (n[, targets], k), named pc0, pc1, …, and where k < p one more, "(rest)", for all
        directions that are left. Inputs and baseline are the scores; for the rest, its Euclidean length.

    Raises:
        ValueError: components that are not orthonormal or of another length, or values that are not mean gradients
            from one baseline.
    """
    mean = getattr(components, "mean_", 0.0)
    rows = np.asarray(getattr(components, "components_", components), np.float64)

    def basis(row, features):
        size = math.prod(row)
        if rows.ndim != 2 or rows.shape[1] != size:
            raise ValueError(f"Expected components (k, {size}); received shape {rows.shape}. Give a direction a row.")
        k = len(rows)
        if np.abs(rows @ rows.T - np.eye(k)).max() > 1e-4:
            raise ValueError(
                "Expected components of length 1 at right angles; received others. Use aumann.bases.linear for any "
                "invertible matrix."
            )

        def forward(a):
            flat = a.reshape(*a.shape[: a.ndim - len(row)], size)
            scores = flat @ rows.T
            return scores if k == size else np.concatenate([scores, flat - scores @ rows], axis=-1)

        def with_rest(a, reduce):
            return a if k == size else np.concatenate([a[..., :k], reduce(a[..., k:])], axis=-1)

        def share(change, gradient):
            return with_rest(change * gradient, lambda a: a.sum(-1, keepdims=True))

        def coordinates(x):
            return with_rest(forward(x - np.reshape(mean, row if np.ndim(mean) else ())), _length)

        names = [f"pc{j}" for j in range(k)] + ["(rest)"] * (k < size)
        return _Basis(forward, forward, {"kind": "pca", "components": k}, names, share, coordinates)

    return _in_basis(explanation, input, basis)


def linear(explanation: Explanation, matrix: npt.ArrayLike, *, input: str | None = None) -> Explanation:
    """Attributions of z = T x for any invertible matrix T.

    Args:
        explanation: of the mean gradient; see the docstring of `aumann.bases`.
        matrix: T, (p, p) for rows of p features, flattened where they have several axes.
        input: the input's name where there are several.

    Returns:
        An explanation with values (n[, targets], p).

    Raises:
        ValueError: a matrix of another shape or without inverse, or values that are not mean gradients from one
            baseline.
    """
    matrix = np.asarray(matrix, np.float64)

    def basis(row, features):
        size = math.prod(row)
        if matrix.shape != (size, size):
            raise ValueError(f"Expected a matrix ({size}, {size}); received shape {matrix.shape}. Cover a whole row.")
        if not np.isfinite(matrix).all() or np.linalg.cond(matrix) > 1e12:
            raise ValueError(
                "Expected an invertible matrix; received one that is singular to rounding. "
                "Use aumann.bases.pca for a few orthonormal directions."
            )

        def flat(a):
            return a.reshape(*a.shape[: a.ndim - len(row)], size)

        inverse = np.linalg.inv(matrix)
        return _Basis(lambda a: flat(a) @ matrix.T, lambda a: flat(a) @ inverse, {"kind": "linear"})

    return _in_basis(explanation, input, basis)


def frequencies(explanation: Explanation) -> np.ndarray:
    """The distance from zero frequency of every value of `fourier`, for groups: {"low": frequencies(e) < 4}.

    Args:
        explanation: from `fourier`, before or after sums over later axes.

    Returns:
        √Σf² over the transformed axes, of the shape of a row up to the last of them, with 1 for other axes.
    """
    description = _description(explanation, "fourier")
    squared = 0.0
    for a, along_axis in zip(description["axes"], description["frequencies"], strict=True):
        squared = squared + np.square(along_axis).reshape(-1, *(1,) * (max(description["axes"]) - a))
    return np.sqrt(squared)


def scales(explanation: Explanation) -> dict[str, np.ndarray]:
    """The scales of the values of `wavelet`, for `sum(groups=scales(e))`.

    Args:
        explanation: from `wavelet`, before or after sums over later axes.

    Returns:
        For each scale a mask, of the shape of a row up to the last transformed axis, with 1 for other axes: "a3" the
        coarsest averages; "d3", "d2", "d1" ever finer details; over two axes "ad3", "da3" and "dd3", where a letter
        for each axis says whether averages or details were taken along it.
    """
    description = _description(explanation, "wavelet")
    axes, lengths = description["axes"], description["lengths"]
    shape = [1] * (max(axes) + 1)
    for a, length in zip(axes, lengths, strict=True):
        shape[a] = length
    masks = {}
    for name, sides in description["scales"].items():
        masks[name] = np.zeros(shape, bool)
        box = [slice(None)] * len(shape)
        for a, side in zip(axes, sides, strict=True):
            box[a] = slice(*side)
        masks[name][tuple(box)] = True
    return masks


def _in_basis(explanation, input, basis):
    """The explanation in the `_Basis` that `basis` makes from (shape of a row, names of its features)."""
    method = explanation.provenance.get("method", "MeanGradient")
    if method != "MeanGradient":
        raise ValueError(
            f"Expected mean gradients as values; received those of {method}. Explain with aumann.MeanGradient(model)."
        )
    path = input_path(explanation, input, len, "what the basis is for")
    lead, names = explanation.prediction.ndim, explanation.names
    values, inputs, baselines, all_features, description = [], [], [], [], None
    mirrors = explanation.inputs, explanation.baseline, names.get("features"), names.get("axes")
    for at, gradient, x, baseline, features, axes in walk(explanation.values, *mirrors):
        row = gradient.shape[lead:]
        change = _change(at, x, baseline, row, axes)
        if explanation.several:
            change = change[:, None]
        if at == path:
            new = basis(row, features)
            coordinates = new.coordinates or new.forward
            value = new.share(new.forward(change), new.dual(gradient.astype(np.float64)))
            full = np.broadcast_to(baseline, (len(baseline), *row)).astype(np.float64)
            x, baseline = coordinates(x.astype(np.float64)), coordinates(full)
            features, description = new.features, new.description
        else:
            value = change * gradient
        values.append(value.astype(gradient.dtype))
        inputs.append(x)
        baselines.append(baseline)
        all_features.append(features)
    return with_values(
        explanation,
        rebuild(explanation.values, values),
        inputs=rebuild(explanation.values, inputs),
        baseline=rebuild(explanation.values, baselines),
        names={**names, "features": rebuild(explanation.values, all_features), "basis": description},
        provenance={k: v for k, v in explanation.provenance.items() if k != "complete"},  # now they add up
    )


def _change(path, x, baseline, row, axes=None):
    """x − x′ of a leaf in float64, (n, *row)."""
    of_input = f" of input {path!r}" if path else ""
    if x.shape[1:] != row or (axes is not None and axes != list(range(len(row)))):
        raise ValueError(
            f"Expected mean gradients at the inputs themselves; received values{of_input} {row} for inputs "
            f"{x.shape[1:]}. "
            'Attribute at the inputs, with baseline="fixed" for those that cannot move.'
        )
    if baseline is None or baseline.ndim > x.ndim:
        raise ValueError(
            f"Expected one baseline{of_input}; received "
            f"{'none' if baseline is None else f'a set of {baseline.shape[1]}'}. "
            "Explain from one baseline, or from each of them and average what the basis gives."
        )
    return x.astype(np.float64) - baseline.astype(np.float64)


def _axes(axis, row):
    """The feature axes, each counted from 0."""
    axes = [operator.index(a) for a in (axis if isinstance(axis, tuple | list) else (axis,))]
    if not axes or not all(-len(row) <= a < len(row) for a in axes) or len({a % len(row) for a in axes}) < len(axes):
        raise ValueError(
            f"Expected different axes of features {row}; received {axis!r}. Count without rows and targets."
        )
    return [a % len(row) for a in axes]


def _length(a):
    return np.linalg.norm(a, axis=-1, keepdims=True)


def _description(explanation, kind):
    """The entry `names["basis"]`, of a basis of this kind."""
    description = explanation.names.get("basis") or {}
    if description.get("kind") != kind:
        raise ValueError(
            f"Expected an explanation from aumann.bases.{kind}; received "
            f"{description.get('kind', 'one in no other basis')}. Call {kind} first."
        )
    return description
