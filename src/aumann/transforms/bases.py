"""Bases: attributions of frequencies, wavelets or principal components instead of samples, at no further gradients.

In z = T x a path moves by T(x − x′) and has the mean gradient T⁻ᵀm, where m = ∫∇F dt is that in x. So

    φ_z = T(x − x′) ∘ T⁻ᵀm,    Σφ_z = (x − x′)ᵀ Tᵀ T⁻ᵀ m = Σφ.

Every function here takes an explanation whose values are m, as `aumann.MeanGradient` gives it, from one baseline (a set
of them has no one T(x − x′)), and returns one whose values are φ_z. Inputs and baseline become z and z′ there, and
`names["basis"]` says what stands where. With several inputs the others get their (x − x′) ∘ m. All in float64.
"""

from __future__ import annotations

import dataclasses
import math
import operator
from collections.abc import Callable

import numpy as np

from aumann.arguments import is_whole
from aumann.explanation import Explanation, input_path, rebuild, walk


@dataclasses.dataclass(frozen=True)
class _Basis:
    """A basis as functions of arrays (..., *row).

    Attributes:
        forward: a -> T a.
        dual: a -> T⁻ᵀ a.
        note: what `names["basis"]` says.
        features: the names along the first axis of T a, or None.
        share: (T(x − x′), T⁻ᵀm) -> φ_z.
        shown: x -> what stands for z.
    """

    forward: Callable
    dual: Callable
    note: dict
    features: list | None = None
    share: Callable = operator.mul
    shown: Callable | None = None


def fourier(explanation, axis=0, *, rate=1.0, input=None) -> Explanation:
    """Attributions of frequencies, by the discrete Fourier transform.

    A real signal has each frequency twice, as a conjugate pair; the pair's attribution is one real number. Over two
    axes the last one named is halved, as in `numpy.fft.rfft2`.

    Args:
        explanation: of the mean gradient; see the head of `aumann.bases`.
        axis: feature axis, or several, counted without those of rows and targets.
        rate: samples per unit along the axis, one number for all axes or one for each; frequencies are per that unit.
        input: the signal's name where there are several inputs.

    Returns:
        An explanation with values (n[, targets], *row), where an axis of N samples has N // 2 + 1 frequencies, or N for
        all but the last of several axes. Inputs and baseline are amplitudes |z|. `frequencies` gives the frequencies.

    Raises:
        ValueError: no such axis, or values that are not mean gradients from one baseline.
    """

    def basis(row, named):
        axes = _axes(axis, row)
        rates = np.broadcast_to(np.asarray(rate, np.float64), len(axes))
        if not (rates > 0).all():
            raise ValueError(f"Expected rates > 0, in samples per unit; received {rate!r}. Leave it out for 1.")
        known = [np.fft.fftfreq(row[a], 1 / r) for a, r in zip(axes, rates, strict=True)]
        known[-1] = np.fft.rfftfreq(row[axes[-1]], 1 / rates[-1])
        # A pair stands once; what is its own conjugate, 0 and for even N the highest, is no pair.
        times = np.full(len(known[-1]), 2.0)
        times[[0] + [-1] * (row[axes[-1]] % 2 == 0)] = 1.0
        times = times.reshape(-1, *(1,) * (len(row) - 1 - axes[-1]))
        where = tuple(a - len(row) for a in axes)

        def forward(a):
            return np.fft.rfftn(a, axes=where, norm="ortho")

        note = {"kind": "fourier", "axes": axes, "frequencies": [k.tolist() for k in known]}
        labels = [f"{f:g}" for f in known[axes.index(0)]] if 0 in axes else named

        def share(change, slope):
            return times * (change.conj() * slope).real

        return _Basis(forward, forward, note, labels, share, lambda x: np.abs(forward(x)))

    return _expressed(explanation, input, basis)


def wavelet(explanation, name="haar", axis=0, *, level=None, input=None) -> Explanation:
    """Attributions of wavelet coefficients, by the periodic discrete wavelet transform.

    Args:
        explanation: of the mean gradient; see the head of `aumann.bases`.
        name: an orthogonal wavelet of PyWavelets, such as "haar", "db4", "sym5", "coif2".
        axis: feature axis, or several, counted without those of rows and targets.
        level: how often the signal is halved; 2**level divides the length of each axis. None takes the most that the
            length and the wavelet's width allow.
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

    def basis(row, named):
        axes = _axes(axis, row)
        halvings = min((row[a] & -row[a]).bit_length() - 1 for a in axes)
        depth = min(halvings, pywt.dwt_max_level(min(row[a] for a in axes), name)) if level is None else level
        if not is_whole(depth, 1, halvings):
            raise ValueError(
                f"Expected a level from 1 to {halvings} for axes of length {[row[a] for a in axes]}; received {depth}. "
                "Give a level, or bring the length to a multiple of a power of two."
            )
        where = tuple(a - len(row) for a in axes)

        def split(a):
            parts = pywt.wavedecn(a, name, mode="periodization", level=int(depth), axes=where)
            return pywt.coeffs_to_array(parts, axes=where)

        _, (coarse, *finer) = split(np.empty(row))
        boxes = {f"a{depth}": coarse}
        for k, kinds in enumerate(finer):
            boxes |= {f"{kind}{depth - k}": box for kind, box in sorted(kinds.items())}
        sides = {key: [box[a].indices(row[a])[:2] for a in axes] for key, box in boxes.items()}
        if axes == [0]:
            named = [key for key, ((start, stop),) in sides.items() for _ in range(start, stop)]
        elif 0 in axes:
            named = None
        note = {"kind": "wavelet", "wavelet": name, "level": int(depth), "axes": axes, "scales": sides}
        note["lengths"] = [row[a] for a in axes]

        def forward(a):
            return split(a)[0]

        return _Basis(forward, forward, note, named)

    return _expressed(explanation, input, basis)


def pca(explanation, components, *, input=None) -> Explanation:
    """Attributions of principal components, or of any orthonormal directions.

    Args:
        explanation: of the mean gradient; see the head of `aumann.bases`.
        components: (k, p) with orthonormal rows for rows of p features, or an object with `components_` and `mean_`, as
            a fitted `sklearn.decomposition.PCA` is. Whitening changes no attribution.
        input: the input's name where there are several.

    Returns:
        An explanation with values (n[, targets], k), named pc0, pc1, …, and where k < p one more, "(rest)", for all
        directions that are left. Inputs and baseline are the scores; for the rest, its length.

    Raises:
        ValueError: components that are not orthonormal or of another length, or values that are not mean gradients
            from one baseline.
    """
    mean = getattr(components, "mean_", 0.0)
    rows = np.asarray(getattr(components, "components_", components), np.float64)

    def basis(row, named):
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

        def rest(a, last):
            return a if k == size else np.concatenate([a[..., :k], last(a[..., k:])], axis=-1)

        def share(change, slope):
            return rest(change * slope, lambda a: a.sum(-1, keepdims=True))

        def shown(x):
            return rest(forward(x - np.reshape(mean, row if np.ndim(mean) else ())), _length)

        names = [f"pc{j}" for j in range(k)] + ["(rest)"] * (k < size)
        return _Basis(forward, forward, {"kind": "pca", "components": k}, names, share, shown)

    return _expressed(explanation, input, basis)


def linear(explanation, matrix, *, input=None) -> Explanation:
    """Attributions of z = T x for any invertible matrix T.

    Args:
        explanation: of the mean gradient; see the head of `aumann.bases`.
        matrix: T, (p, p) for rows of p features, laid end to end where they have several axes.
        input: the input's name where there are several.

    Returns:
        An explanation with values (n[, targets], p).

    Raises:
        ValueError: a matrix of another shape or without inverse, or values that are not mean gradients from one
            baseline.
    """
    matrix = np.asarray(matrix, np.float64)

    def basis(row, named):
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
        note = {"kind": "linear"}
        return _Basis(lambda a: flat(a) @ matrix.T, lambda a: flat(a) @ inverse, note)

    return _expressed(explanation, input, basis)


def frequencies(explanation) -> np.ndarray:
    """The distance from zero frequency of what `fourier` gave, for groups: {"low": frequencies(e) < 4}.

    Args:
        explanation: what `fourier` returned, before or after sums over later axes.

    Returns:
        √Σf² over the transformed axes, of the shape of a row up to the last of them, with 1 for other axes.
    """
    note = _note(explanation, "fourier")
    total = 0.0
    for a, known in zip(note["axes"], note["frequencies"], strict=True):
        total = total + np.square(known).reshape(-1, *(1,) * (max(note["axes"]) - a))
    return np.sqrt(total)


def scales(explanation) -> dict[str, np.ndarray]:
    """The scales of what `wavelet` gave, for `sum(groups=scales(e))`.

    Args:
        explanation: what `wavelet` returned, before or after sums over later axes.

    Returns:
        For each scale a mask, of the shape of a row up to the last transformed axis, with 1 for other axes: "a3" the
        coarsest averages; "d3", "d2", "d1" ever finer details; over two axes "ad3", "da3" and "dd3", where a letter
        for each axis says whether averages or details were taken along it.
    """
    note = _note(explanation, "wavelet")
    axes, lengths = note["axes"], note["lengths"]
    shape = [1] * (max(axes) + 1)
    for a, length in zip(axes, lengths, strict=True):
        shape[a] = length
    masks = {}
    for name, sides in note["scales"].items():
        masks[name] = np.zeros(shape, bool)
        box = [slice(None)] * len(shape)
        for a, side in zip(axes, sides, strict=True):
            box[a] = slice(*side)
        masks[name][tuple(box)] = True
    return masks


def _expressed(explanation, input, basis):
    """The explanation in the basis that `basis` makes for rows of a shape."""
    method = explanation.provenance.get("method", "MeanGradient")
    if method != "MeanGradient":
        raise ValueError(
            f"Expected mean gradients as values; received those of {method}. Explain with aumann.MeanGradient(model)."
        )
    path = input_path(explanation, input, len, "what the basis is for")
    lead, names = explanation.prediction.ndim, explanation.names.get("features")
    values, inputs, starts, features, note = [], [], [], [], None
    mirrors = explanation.inputs, explanation.baseline, names, explanation.names.get("axes")
    for where, slope, x, start, named, axes in walk(explanation.values, *mirrors):
        row = slope.shape[lead:]
        change = _change(where, x, start, row, axes)
        if explanation.several:
            change = change[:, None]
        if where == path:
            made = basis(row, named)
            forward, shown = made.forward, made.shown or made.forward
            value = made.share(forward(change), made.dual(slope.astype(np.float64)))
            full = np.broadcast_to(start, (len(start), *row)).astype(np.float64)
            x, start, named, note = shown(x.astype(np.float64)), shown(full), made.features, made.note
        else:
            value = change * slope
        values.append(value.astype(slope.dtype))
        inputs.append(x)
        starts.append(start)
        features.append(named)
    total = sum(v.sum(tuple(range(lead, v.ndim)), dtype=np.float64) for v in values)
    return dataclasses.replace(
        explanation,
        values=rebuild(explanation.values, values),
        inputs=rebuild(explanation.values, inputs),
        baseline=rebuild(explanation.values, starts),
        residual=total - (explanation.prediction - explanation.base_value),
        names={**explanation.names, "features": rebuild(explanation.values, features), "basis": note},
        provenance={k: v for k, v in explanation.provenance.items() if k != "complete"},  # now they add up
    )


def _change(where, x, start, row, axes=None):
    """x − x′ of a leaf in float64, (n, *row)."""
    at = f" of input {where!r}" if where else ""
    if x.shape[1:] != row or (axes is not None and axes != list(range(len(row)))):
        raise ValueError(
            f"Expected mean gradients at the inputs themselves; received values{at} {row} for inputs {x.shape[1:]}. "
            'Attribute at the inputs, with baseline="fixed" for those that cannot move.'
        )
    if start is None or start.ndim > x.ndim:
        raise ValueError(
            f"Expected one baseline{at}; received {'none' if start is None else f'a set of {start.shape[1]}'}. "
            "Explain from one baseline, or from each of them and average what the basis gives."
        )
    return x.astype(np.float64) - start.astype(np.float64)


def _axes(axis, row):
    """The feature axes named, each from 0."""
    axes = [operator.index(a) for a in (axis if isinstance(axis, tuple | list) else (axis,))]
    if not axes or not all(-len(row) <= a < len(row) for a in axes) or len({a % len(row) for a in axes}) < len(axes):
        raise ValueError(
            f"Expected different axes of features {row}; received {axis!r}. Count without rows and targets."
        )
    return [a % len(row) for a in axes]


def _length(a):
    return np.linalg.norm(a, axis=-1, keepdims=True)


def _note(explanation, kind):
    note = explanation.names.get("basis") or {}
    if note.get("kind") != kind:
        raise ValueError(
            f"Expected an explanation from aumann.bases.{kind}; received {note.get('kind', 'one in no other basis')}. "
            f"Call {kind} first."
        )
    return note
