"""Baselines of one constant, of a row's own numbers, drawn, of tokens, and sets of them."""

import contextlib

import numpy as np

from aumann.arguments import whole
from aumann.core.baselines import FIXED, broadcast, made, split, together, weighted
from aumann.features import tables

# ---- the same for every row ------------------------------------------------------------------------------------------


def zeros():
    """Zero in every feature; of token ids, the zero vector of their embedding.

    Returns:
        inputs -> 0.0
    """
    return constant(0.0)


def constant(value):
    """One value everywhere, or one for each channel, as a colour.

    Args:
        value: a number, or an array that broadcasts against a row: (channels,) for channels last. Of token ids, an
            integer is an id and a float a constant of the embedding.

    Returns:
        inputs -> the number, or a row.

    Raises:
        ValueError: it is not finite, or does not broadcast.
    """
    numbers = _numbers(value, "a constant")

    def make(inputs):
        if np.ndim(value) == 0:
            return value
        x, columns = _array(inputs)
        given = value if numbers.columns is None else numbers
        return tables.named(_for_row(given, x.shape[1:], "a constant", columns), columns)

    return make


def mean(background):
    """The mean of every feature of a background, as a float.

    Args:
        background: array-like (rows, *row).

    Returns:
        (*row), of a DataFrame a Series

    Raises:
        ValueError, TypeError: the background is empty, not numeric or not finite.
    """
    return tables.like(background, _background(background).mean(0, dtype=np.float64))


def median(background):
    """The median of every feature of a background, as a float; see `mean`."""
    return tables.like(background, np.median(_background(background).astype(np.float64, copy=False), axis=0))


def kmeans(background, count, seed=0):
    """A summary of a background: the centres of its k-means clusters, weighted by how many rows they stand for.

    Costs `count` times the gradients of one baseline.

    Args:
        background: array-like (rows, *row).
        count: clusters, at most as many as rows; no more are made than there are different rows.
        seed: of the initial centres.

    Returns:
        a set (count, *row), see `weighted`.

    Raises:
        ValueError, TypeError: the background is empty, not numeric, not finite or has fewer than `count` rows.
        ImportError: scikit-learn is not installed.

    Source: Lloyd (1982), Least Squares Quantization in PCM; as a summary of baselines Lundberg, Lee (2017), A Unified
    Approach to Interpreting Model Predictions.
    """
    rows = _background(background)
    if whole(count, 1, "count", 8) > len(rows):
        raise ValueError(
            f"Expected at most as many clusters as the background has rows, {len(rows)}; received count={count}. "
            "Lower it."
        )
    with _needed("scikit-learn", "kmeans"):
        from sklearn.cluster import KMeans
    flat = rows.reshape(len(rows), -1)
    count = min(count, len(np.unique(flat, axis=0)))  # no cluster is empty
    found = KMeans(count, n_init=10, random_state=whole(seed, 0, "seed", 0)).fit(flat.astype(np.float64, copy=False))
    centres = tables.like(background, found.cluster_centers_.reshape(count, *rows.shape[1:]))
    return weighted(centres, np.bincount(found.labels_, minlength=count))


# ---- of each row its own ---------------------------------------------------------------------------------------------


def channel_mean(axis=-1):
    """The mean of each channel of the row itself: the same colour, level or composition, nothing of the shape.

    Args:
        axis: the channels' axis of inputs (n, …).

    Returns:
        inputs (n, …) -> a row for each.

    Raises:
        ValueError: there is no axis besides rows and channels.
    """

    def make(inputs):
        x, columns = _array(inputs)
        axes = set(range(1, x.ndim)) - set(_axes((axis,), x.ndim))
        if not axes:
            raise ValueError(
                f"Expected inputs with axes besides rows and channels, received shape {x.shape}. Add the axis of "
                "channels, or take mean() of a background."
            )
        level = x.mean(tuple(axes), keepdims=True, dtype=np.float64)
        return tables.named(np.broadcast_to(level.astype(_float(x)), x.shape), columns)

    return make


def blur(sigma, axes=None):
    """The row itself under a Gaussian blur: what is left once detail is gone. Reflected at the edges.

    Args:
        sigma: standard deviation in steps of the axis, pixels as it were; one number, or one for each of `axes`.
        axes: which axes of inputs (n, …) are blurred; when omitted all but the first and the last, rows and channels.

    Returns:
        inputs (n, …) -> a row for each.

    Raises:
        ValueError: sigma is negative or not finite, or there is no such axis.
        ImportError: scipy is not installed.

    Source: Fong, Vedaldi (2017), Interpretable Explanations of Black Boxes by Meaningful Perturbation; Sturmfels,
    Lundberg, Lee (2020), Visualizing the Impact of Feature Attribution Baselines.
    """
    widths = _numbers(sigma, "sigma")
    if (widths < 0).any() or widths.ndim > 1:
        raise ValueError(
            f"Expected sigma ≥ 0, one number or one for each axis; received {sigma!r}. Give for example 3."
        )

    def make(inputs):
        x, columns = _array(inputs)
        blurred = _axes(range(1, x.ndim - 1) if axes is None else np.atleast_1d(axes), x.ndim)
        if not blurred or widths.size not in (1, len(blurred)):
            raise ValueError(
                f"Expected axes to blur and one sigma for all or each of them, received inputs of shape {x.shape}, "
                f"axes={axes!r} and sigma={sigma!r}. Of signals without channels, (n, time), give axes=1."
            )
        with _needed("scikit-learn", "blur", "scipy"):
            from scipy.ndimage import gaussian_filter
        width = np.zeros(x.ndim)
        width[list(blurred)] = widths
        return tables.named(gaussian_filter(x.astype(_float(x), copy=False), width), columns)

    return make


def farthest(low, high):
    """In every feature the end of [low, high] that is farthest from the row: nothing equals its baseline.

    Args:
        low, high: the ends of what the features may be: numbers, or arrays that broadcast against a row. In the middle,
            low is taken.

    Returns:
        inputs (n, …) -> a row for each.

    Raises:
        ValueError: the ends are not finite, not in order, or do not broadcast.

    Source: Sturmfels, Lundberg, Lee (2020), Visualizing the Impact of Feature Attribution Baselines.
    """
    low, high = _interval(low, high)  # floats: no unsigned integer wraps

    def make(inputs):
        x, columns = _array(inputs)
        a, b = (_for_row(v, x.shape[1:], name, columns) for v, name in ((low, "low"), (high, "high")))
        return tables.named(np.where(x - a >= b - x, a, b).astype(_float(x)), columns)

    return make


def nearest(background, labels, classes, scale=1.0):
    """The nearest row of a background that is of another class: what little would have made it something else.

    Args:
        background: array-like (rows, *row).
        labels: (rows,) classes of the background.
        classes: (n,) classes of the rows to be explained, or a function inputs -> classes, such as the model's own.
        scale: what features are divided by before Euclidean distances are taken: a number, or an array that broadcasts
            against a row, such as the standard deviations of features of different units.

    Returns:
        inputs (n, *row) -> a row of the background for each; of equally near ones the first.

    Raises:
        ValueError, TypeError: the background is not numeric, not finite or does not fit the labels or the inputs; the
            classes do not fit the inputs, or all of the background is of one of them.
        ImportError: scikit-learn is not installed.

    Source: the nearest unlike neighbour, Dasarathy (1995), Nearest Unlike Neighbor (NUN): An Aid to Decision Confidence
    Estimation.
    """
    tables.same_rows(tables.labels(labels), tables.labels(background), "labels", "the background")
    rows, names, labels = _background(background), tables.columns(background), np.asarray(labels)
    if labels.shape != (len(rows),):
        raise ValueError(
            f"Expected one label for each row of the background, shape ({len(rows)},); received {labels.shape}. "
            "Give class numbers or names, not one-hot rows."
        )
    width = _numbers(scale, "scale")
    if (width <= 0).any():
        raise ValueError(f"Expected scale > 0, received {scale!r}. Leave out features that never vary, or divide by 1.")

    def make(inputs):
        x, columns = _array(inputs)
        given = made(classes, inputs)
        tables.same_rows(tables.labels(given), tables.labels(inputs), "classes")
        own = np.asarray(given)
        if x.shape[1:] != rows.shape[1:] or own.shape != (len(x),):
            raise ValueError(
                f"Expected inputs of shape (n, {', '.join(map(str, rows.shape[1:]))}), as the background has, and "
                f"one class for each, shape (n,); received inputs {x.shape} and classes {own.shape}. Give the classes "
                "of the rows to be explained, or a function of the inputs."
            )
        of_each = np.unique(own)
        if not any(np.any(labels == c) for c in of_each):
            raise ValueError(
                f"Expected classes of the rows among the labels of the background, received {of_each[:10]} and labels "
                f"{np.unique(labels)[:10]}. Name the classes alike."
            )
        with _needed("scikit-learn", "nearest"):
            from sklearn.metrics import pairwise_distances_argmin
        theirs = rows
        if None not in (names, columns):
            theirs = rows[:, tables.order(names, columns, "the background")]
        units = _for_row(width, x.shape[1:], "scale", columns or names)
        middle = theirs.mean(0, dtype=np.float64)  # distances are computed from products: better of small numbers
        near, far = (((a - middle) / units).reshape(len(a), -1) for a in (x, theirs))
        chosen = np.empty(len(x), int)
        for c in of_each:
            others = np.flatnonzero(labels != c)
            if not len(others):
                raise ValueError(
                    f"Expected rows of another class than {c!r} in the background, received none. Add some."
                )
            chosen[own == c] = others[pairwise_distances_argmin(near[own == c], far[others])]
        return tables.named(theirs[chosen], columns)

    return make


def token(id, keep=()):
    """One token id at every position: padding, a mask token or the unknown token, as `id` is chosen.

    Args:
        id: the token id.
        keep: ids that stay where the row has them, such as those of the start, separator and padding tokens.

    Returns:
        inputs (n, tokens) of ids -> a row of ids for each.

    Raises:
        ValueError, TypeError: the id is not a whole number that the inputs' dtype can hold, or inputs are not ids.
    """
    whole(id, 0, "the id of a token", 0)
    kept = [whole(k, 0, "an id to keep", 0) for k in np.ravel(keep)]

    def make(inputs):
        x, columns = _array(inputs)
        _ids(x)
        if x.dtype.kind in "iu" and id > np.iinfo(x.dtype).max:
            raise ValueError(
                f"Expected an id that {x.dtype} holds, as the inputs are; received {id}. Widen the inputs."
            )
        return tables.named(np.where(np.isin(x, kept), x, id).astype(np.int64), columns)

    return make


# ---- drawn -----------------------------------------------------------------------------------------------------------


def uniform(low, high, samples=1, seed=0):
    """Noise that is uniform in [low, high), the same draws for every row: what a row is apart from chance.

    Costs `samples` times the gradients of one baseline.

    Args:
        low, high: numbers, or arrays that broadcast against a row.
        samples: draws to average over.
        seed: of the draws; inputs that are drawn together want different ones.

    Returns:
        inputs (n, *row) -> a row, or for several samples a set (samples, *row).

    Raises:
        ValueError: the ends are not finite, not in order, or do not broadcast.

    Source: Sturmfels, Lundberg, Lee (2020), Visualizing the Impact of Feature Attribution Baselines.
    """
    low, high = _interval(low, high)
    whole(samples, 1, "samples", 20)
    whole(seed, 0, "seed", 0)

    def make(inputs):
        x, columns = _array(inputs)
        row = x.shape[1:]
        drawn = np.random.default_rng(seed).random((samples, *row))
        a, b = _for_row(low, row, "low", columns), _for_row(high, row, "high", columns)
        drawn = tables.named((a + (b - a) * drawn).astype(_float(x)), columns)
        return tables.named(drawn[0], columns) if samples == 1 else weighted(drawn)

    return make


def gaussian(sigma, samples=1, seed=0, low=None, high=None):
    """The row itself under Gaussian noise: what it is apart from its neighbourhood.

    Costs `samples` times the gradients of one baseline, and the memory of `samples` copies of the inputs.

    Args:
        sigma: standard deviation: a number, or an array that broadcasts against a row.
        samples: draws to average over.
        seed: of the draws. The noise of a row depends on it, and on the row's position among the inputs, not on the
            other rows. Inputs that are drawn together want different ones.
        low, high: numbers, or arrays that broadcast against a row, to which draws are clipped.

    Returns:
        inputs (n, *row) -> a row for each, or for several samples a set for each, (n, samples, *row).

    Raises:
        ValueError: sigma is negative, or something is not finite, not in order, or does not broadcast.

    Source: Sturmfels, Lundberg, Lee (2020), Visualizing the Impact of Feature Attribution Baselines.
    """
    width = _numbers(sigma, "sigma")
    if (width < 0).any():
        raise ValueError(f"Expected sigma ≥ 0, received {sigma!r}. Give the standard deviation of the noise.")
    least = _numbers(low, "low") if low is not None else None
    most = _numbers(high, "high") if high is not None else None
    if least is not None and most is not None:
        _interval(low, high)
    whole(samples, 1, "samples", 20)
    whole(seed, 0, "seed", 0)

    def make(inputs):
        x, columns = _array(inputs)
        row = x.shape[1:]
        drawn = np.random.default_rng(seed).standard_normal((len(x), samples, *row), np.float32)
        drawn = x[:, None] + _for_row(width, row, "sigma", columns).astype(_float(x)) * drawn
        if least is not None:
            drawn = np.maximum(drawn, _for_row(least, row, "low", columns).astype(drawn.dtype))
        if most is not None:
            drawn = np.minimum(drawn, _for_row(most, row, "high", columns).astype(drawn.dtype))
        return tables.named(drawn[:, 0], columns) if samples == 1 else weighted(tables.named(drawn, columns))

    return make


def dinucleotide_shuffle(samples=1, seed=0):
    """The row's own letters in another order that keeps every count of two neighbours: composition without motifs.

    Each of the orders that keep all counts of pairs (and with them the first and the last letter) is equally likely; a
    sequence that has one such order comes back as it is. Costs `samples` times the gradients of one baseline, and the
    memory of `samples` copies of the inputs.

    Of one-hot sequences, what stands at a position moves as a whole, so that an unknown letter (zeros, or a quarter
    each) is a letter like others, and zeros at either end are padding and stay. Of ids, every id is a letter.

    Args:
        samples: shuffles of each row to average over; 20 are usual.
        seed: of the shuffles. Those of a row depend on it, on the row and on its position among the inputs, not on
            the other rows.

    Returns:
        inputs (n, length, letters) or ids (n, length) -> a row for each, or for several samples a set for each,
        (n, samples, …).

    Raises:
        ValueError, TypeError: inputs are neither ids nor positions whose shares of letters sum to 1 or 0.

    Source: Altschul, Erickson (1985), Significance of Nucleotide Sequence Alignments: a Method for Random Sequence
    Permutation That Preserves Dinucleotide and Codon Usage; trees by Wilson (1996), Generating Random Spanning Trees
    More Quickly than the Cover Time; as baselines Shrikumar, Greenside, Kundaje (2017), Learning Important Features
    Through Propagating Activation Differences.
    """
    whole(samples, 1, "samples", 20)
    whole(seed, 0, "seed", 0)

    def make(inputs):
        x, columns = _array(inputs)
        if x.ndim == 3:
            shares = x.sum(-1, dtype=np.float64)
            if (x < 0).any() or not (np.isclose(shares, 1, atol=1e-3) | (shares == 0)).all():
                raise ValueError(
                    f"Expected sequences (n, length, letters) whose positions are one-hot, shares of letters that sum "
                    f"to 1, or zeros; received shape {x.shape} with others. Put the letters last."
                )
        elif x.ndim == 2:
            _ids(x)
        else:
            raise ValueError(
                f"Expected sequences, ids (n, length) or one-hot (n, length, letters); received shape {x.shape}. "
                "Reshape them."
            )
        out = np.repeat(x[:, None], samples, axis=1)
        for i, row in enumerate(x):
            inside = np.flatnonzero(row.any(-1)) if x.ndim == 3 else np.arange(len(row))
            if len(inside):
                inside = slice(inside[0], inside[-1] + 1)
                letters, codes = np.unique(row[inside], axis=0, return_inverse=True)
                out[i, :, inside] = letters[_walks(codes.ravel(), samples, np.random.default_rng([seed, i]))]
        out = out.astype(np.int64) if x.ndim == 2 else out
        return tables.named(out[:, 0], columns) if samples == 1 else weighted(tables.named(out, columns))

    return make


def _walks(codes, samples, rng):
    """Shuffles (samples, length) of a sequence of codes 0, 1, …, all that keep the counts of pairs equally likely.

    Such a shuffle is an Eulerian walk on the graph whose edges are the pairs. The edges by which a walk leaves each
    vertex for the last time are a tree towards its end; any such tree, with the other edges in any order, is a walk.
    """
    order = np.argsort(codes[:-1], kind="stable")
    source, target = codes[:-1][order], codes[1:][order]
    first = np.searchsorted(source, np.arange(codes.max() + 1))
    edges = [range(a, b) for a, b in zip(first, [*first[1:], len(source)], strict=True)]
    ends, root = target.tolist(), int(codes[-1])
    key = rng.random((samples, len(source)))
    for own in key:
        own[_tree(edges, ends, root, rng)] = 1  # above all others: left by at last
    target = target[np.argsort(2 * source + key, axis=1)]
    walks, each = np.empty((samples, len(codes)), codes.dtype), np.arange(samples)
    walks[:, 0] = codes[0]
    left = np.tile(first, (samples, 1))  # the edge by which each vertex is left next
    for t in range(1, len(codes)):
        now = walks[:, t - 1]
        walks[:, t] = target[each, left[each, now]]
        left[each, now] += 1
    return walks


def _tree(edges, ends, root, rng):
    """Edges of a tree in which every vertex leads to the root, all such trees equally likely: Wilson's algorithm.

    Args:
        edges: of every vertex, the numbers of the edges that leave it.
        ends: of every edge, the vertex that it leads to.
    """
    leave, inside = {}, {root}
    for vertex in range(len(edges)):
        v = vertex
        while v not in inside:  # a random walk until it meets the tree; the last exits taken have no loops
            leave[v] = edges[v][rng.integers(len(edges[v]))]
            v = ends[leave[v]]
        v = vertex
        while v not in inside:
            inside.add(v)
            v = ends[leave[v]]
    return list(leave.values())


# ---- several ---------------------------------------------------------------------------------------------------------


def combine(*baselines, weights=None):
    """Several baselines as one weighted set, so that what one is blind to the others see.

    Costs as many times the gradients of one baseline as there are in all.

    Args:
        baselines: each whatever `explain` takes: a number, rows, a set, a function of the inputs, or for several
            inputs a list or dict of those. An input that is "fixed" is so in all of them.
        weights: one for each of them, normalised to sum to 1, equal when omitted; a set shares its own out by its own
            weights.

    Returns:
        inputs -> a set, see `weighted`.

    Raises:
        ValueError, TypeError: the weights do not fit, or a baseline does not fit the inputs.
    """
    if not baselines:
        raise ValueError("Expected baselines to combine, received none. Give two or more.")
    shares = weighted(baselines, np.ones(len(baselines)) if weights is None else weights).weights
    if shares.shape != (len(baselines),):
        raise ValueError(
            f"Expected one weight for each of {len(baselines)} baselines, received shape {shares.shape}. Give the "
            "weights within a set to weighted(rows, weights)."
        )

    def make(inputs):
        names, arrays, columns, rows_of, pack = _leaves(inputs)
        starts, still = [], []
        for baseline in baselines:
            given, weights = split(made(baseline, inputs), names, pack, list(map(tables.named, arrays, columns)))
            still.append([isinstance(v, str) and v == FIXED for v, _ in given])
            points = [
                np.zeros((1, 1))
                if fixed
                else broadcast(_host(v, name, *own, is_set), is_set, x.shape[1:], len(x), name)
                for (v, is_set), x, name, fixed, *own in zip(
                    given, arrays, names, still[-1], columns, rows_of, strict=True
                )
            ]
            starts.append(together(points, weights, len(arrays[0])))
        if any(s != still[0] for s in still):
            raise ValueError(
                f'Expected the same inputs to be "fixed" in every baseline, received {still} for the inputs {names}. '
                "Hold an input still in all of them."
            )
        rows = [
            FIXED
            if still[0][i]
            else tables.named(_join([(s.points[i], s.count) for s in starts], x.shape[1:]), columns[i])
            for i, x in enumerate(arrays)
        ]
        each = [s.weights * share for s, share in zip(starts, shares, strict=True)]
        return weighted(
            dict(zip(names, rows, strict=True)) if pack == "dict" else rows if len(rows) > 1 else rows[0],
            _join([(w, w.shape[1]) for w in each], ()),
        )

    return make


def _join(sets, row):
    """Sets (1 or n, 1 or m, *row), each with its m, one after another."""
    n = max(len(a) for a, _ in sets)
    return np.concatenate([np.broadcast_to(a, (n, m, *row)) for a, m in sets], axis=1)


# ---- what is given ---------------------------------------------------------------------------------------------------


def _host(x, name, columns, labels, is_set):
    """A number as it is, anything else as a host array along the columns of the input."""
    if np.ndim(x) == 0 and not hasattr(x, "shape"):
        return x
    from aumann.features.conversion import by_name

    return by_name(x, f"the baseline of input {name!r}", columns, labels, is_set)


def _leaves(inputs):
    """(names, host arrays, names of columns, names of rows, "leaf" | "list" | "dict") of inputs as they were given."""
    from aumann.features.conversion import to_array

    if isinstance(inputs, dict):
        named, pack = dict(inputs), "dict"
    elif isinstance(inputs, (list, tuple)) and any(hasattr(x, "shape") for x in inputs):
        named, pack = {f"input_{i}": x for i, x in enumerate(inputs)}, "list"
    else:
        named, pack = {"input": inputs}, "leaf"
    arrays, columns = zip(*(to_array(x, f"input {name!r}") for name, x in named.items()), strict=True)
    rows = [tables.labels(x) if c is not None else None for x, c in zip(named.values(), columns, strict=True)]
    return list(named), list(map(np.asarray, arrays)), columns, rows, pack


def _array(inputs):
    """The one array that a baseline is made of, and the names of its columns."""
    names, arrays, columns, *_ = _leaves(inputs)
    if len(arrays) > 1:
        raise ValueError(
            f"Expected one input to make a baseline of, received {names}. Give a list or dict with a baseline for each."
        )
    return arrays[0], columns[0]


def _float(x):
    """The dtype of a float made of an array, float32 at least."""
    return np.result_type(x.dtype, np.float32)


def _ids(x):
    """Token ids, whole numbers of any dtype."""
    if x.dtype.kind not in "iu" and (x != np.floor(x)).any():
        raise TypeError(
            f"Expected token ids, whole numbers; received dtype {x.dtype} with values such as "
            f"{x[x != np.floor(x)][0]}. Of embedded tokens give zeros() or rows of the embedding."
        )
    return x


def _background(rows):
    """Rows of a background as one finite array."""
    from aumann.features.conversion import to_array

    array = np.asarray(to_array(rows, "the background")[0])
    if not array.ndim or not len(array):
        raise ValueError(f"Expected rows of a background, received shape {array.shape}. Give (rows, *row).")
    if not np.isfinite(array).all():
        raise ValueError("Expected a finite background, received NaN or infinity. Impute or drop those rows.")
    return array


def _numbers(value, name):
    """A number or array of finite numbers, as float64, with the names of a table's columns or of a row's entries."""
    columns = tables.heads(value)
    array = np.asarray(value)
    if columns is not None:
        from aumann.features.conversion import to_array

        array = to_array(value, name)[0]
    if array.dtype.kind not in "biuf" or not np.isfinite(array).all():
        raise ValueError(
            f"Expected {name} to be a finite number or array of those, received {value!r:.80}. Replace it."
        )
    numbers = array.astype(np.float64).view(tables.NamedArray)
    numbers.columns = columns
    return numbers


def _interval(low, high):
    """Both ends as float64."""
    a, b = _numbers(low, "low"), _numbers(high, "high")
    there = np.asarray(b)
    if None not in (a.columns, b.columns):
        there = there[..., tables.order(b.columns, a.columns, "high", "low")]
    if (np.asarray(a) > there).any():
        raise ValueError(f"Expected low ≤ high, received low={low!r} and high={high!r}. Exchange them.")
    return a, b


def _for_row(value, row, name, columns=None):
    """A number or array as one of the shape of a row, along its columns where both have names."""
    own = getattr(value, "columns", None)
    value = np.asarray(value)
    if None not in (own, columns):
        value = value[..., tables.order(own, columns, name)]
    try:
        return np.broadcast_to(value, row)
    except ValueError:
        raise ValueError(
            f"Expected {name} that broadcasts against a row of shape {row}, received shape {np.shape(value)}. Give one "
            "number, one for each channel or a whole row."
        ) from None


def _axes(axes, ndim):
    """Axes of inputs counted from the front; the first is that of rows."""
    if any(not -ndim < a < ndim or a == 0 for a in axes):
        raise ValueError(
            f"Expected axes of inputs with {ndim} axes, of which the first counts rows; received {tuple(axes)}. "
            f"Give some of 1 to {ndim - 1}."
        )
    return tuple(int(a) % ndim for a in axes)


@contextlib.contextmanager
def _needed(package, name, part=None):
    try:
        yield
    except ImportError as error:
        raise ImportError(
            f'Expected {part or package} for {name}, which is not installed. pip install "aumann[baselines]".'
        ) from error
