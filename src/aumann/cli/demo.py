"""`aumann demo`: two small models, trained in seconds on scikit-learn's own data, and held-out rows of every class.

The digits follow the picture that the library has been known by since 2017: the input, then what spoke for and against
each of the ten classes.
"""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import numpy.typing as npt
from keras import layers
from sklearn.datasets import load_digits, load_iris
from sklearn.model_selection import train_test_split

import aumann
from aumann.storage.atomic import all_or_nothing


class Study(NamedTuple):
    """One model and the held-out rows that are explained, one for each class in order."""

    explanation: aumann.Explanation
    accuracy: float
    held_out: int

    @property
    def predicted(self) -> npt.NDArray:
        """The most probable class of each row."""
        return self.explanation.prediction.argmax(1)


def run(out: str | Path, say: Callable[[str], object], table: Callable) -> tuple[Study, Study]:
    """Trains, explains, and writes pictures, arrays and a text of what to look at; all of them or none.

    Args:
        out: the folder; it is created if it is missing.
        say: function of a line of text, such as `print`.
        table: function of an explanation and the places to show, giving text.

    Returns:
        (study of the digits, study of Iris)
    """
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f"Expected a folder to write to; {out} is a file. Give another -o.")
    began = time.perf_counter()
    studies = {}
    for name, what, study in (("digits", "a CNN on 8 x 8 digits", digits), ("iris", "a classifier on Iris", iris)):
        say(f"Training {what} on {keras.config.backend()} …")
        studies[name] = done = study()
        say(f"{done.accuracy:.1%} of {done.held_out} held-out rows are classified correctly. One of each class:\n")
        say(table(done.explanation, list(enumerate(done.predicted))) + "\n")
    text = WHAT_TO_LOOK_AT.format(
        backend=keras.config.backend(),
        digits=about_digits(studies["digits"]),
        iris=about_iris(studies["iris"]),
        seconds=time.perf_counter() - began,
    )
    out.mkdir(parents=True, exist_ok=True)
    with all_or_nothing(out) as folder:
        for name, done in studies.items():
            done.explanation.save(folder / f"{name}.npz")
            done.explanation.plot(folder / f"{name}.png", rows=slice(None))
        (folder / "what-to-look-at.md").write_text(text, encoding="utf-8")
    say(f"Wrote digits.png, digits.npz, iris.png, iris.npz and what-to-look-at.md to {out}. Begin with the last.")
    return studies["digits"], studies["iris"]


def digits() -> Study:
    """A convolution and a dense layer, as in the picture of 2017, with a smooth activation; black is the baseline."""
    data = load_digits()
    split = _split(data.images[..., None] / 16, data.target)
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(16, 3, activation="gelu", kernel_initializer=_initializer(1)),
            layers.Flatten(),
            layers.Dense(10, activation="softmax", kernel_initializer=_initializer(2)),
        ]
    )
    return _study(model, split, [str(c) for c in data.target_names], epochs=12, baseline=0.0)


def iris() -> Study:
    """A small network on the measurements in centimetres; the mean of the training flowers is the baseline."""
    data = load_iris(as_frame=True)
    split = _split(data.data, data.target.to_numpy())
    mean, variance = split[0].mean().to_numpy(), split[0].var().to_numpy()
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Normalization(mean=mean, variance=variance),
            layers.Dense(16, activation="tanh", kernel_initializer=_initializer(3)),
            layers.Dense(3, activation="softmax", kernel_initializer=_initializer(4)),
        ]
    )
    return _study(model, split, data.target_names.tolist(), epochs=40, baseline=mean)


def _initializer(seed: int) -> keras.initializers.Initializer:
    return keras.initializers.GlorotUniform(seed=seed)


def _split(rows: Any, classes: npt.NDArray) -> list:
    """(rows to train on, held-out rows, their classes likewise), shuffled."""
    return train_test_split(rows, classes, test_size=0.25, random_state=0, stratify=classes)


def _study(model: keras.Model, split: list, names: list[str], epochs: int, baseline: Any) -> Study:
    """Trains on three quarters of the rows; explains the first of each class in the last quarter, for every class."""
    train, test, train_class, test_class = split
    model.compile(keras.optimizers.Adam(0.01), "sparse_categorical_crossentropy")
    batch = max(16, len(train) // 12)
    # The split has shuffled already; shuffling here would draw from global random numbers.
    model.fit(np.asarray(train, "float32"), train_class, batch_size=batch, epochs=epochs, shuffle=False, verbose=0)
    guessed = model.predict(np.asarray(test, "float32"), verbose=0).argmax(1)
    first = [int(np.flatnonzero(test_class == c)[0]) for c in range(len(names))]
    chosen = test.iloc[first] if hasattr(test, "iloc") else test[first]
    explanation = aumann.IntegratedGradients(model).explain(chosen, target="all", baseline=baseline)
    explanation = dataclasses.replace(explanation, names={**explanation.names, "targets": names})
    return Study(explanation, float((guessed == test_class).mean()), len(test))


# ---- the text ------------------------------------------------------------------------------------------------------

WHAT_TO_LOOK_AT = """# What to look at

Two models were trained on {backend} and explained in {seconds:.0f} seconds. Red raises a prediction and blue lowers it.

## digits.png

{digits}

## iris.png

{iris}

## digits.npz, iris.npz

All numbers behind the pictures:

```python
import aumann

e = aumann.load("digits.npz")
e.values        # (row, class, 8, 8, 1): what each pixel adds to the probability of each class
e.prediction    # (row, class); e.base_value is that of the baseline, e.residual what is missing
e.sum().values  # the sum over pixels is prediction - base value
```
"""


def about_digits(study: Study) -> str:
    """What to look at in the picture of the digits: one line for each, then what holds for all."""
    e, rows = study.explanation, np.arange(10)
    in_favour = e.values[rows, study.predicted]
    black = np.abs(e.values[np.broadcast_to((e.inputs == 0)[:, None], e.values.shape)])
    against = e.values[rows, _rivals(study)]
    opposed = np.mean([np.corrcoef(a.ravel(), b.ravel())[0, 1] < 0 for a, b in zip(in_favour, against, strict=True)])
    lines = [
        "Each line is a digit that the model has not seen, and each panel after the first shows what its pixels add to "
        f"the probability of one class. {study.accuracy:.1%} of {study.held_out} such digits are classified correctly.",
        "",
        *(_digit(study, row) for row in range(10)),
        "",
        f"- Compare a digit's own panel with that of its rival: in {opposed:.0%} of the lines the two are opposed "
        "(negatively correlated), because probabilities sum to 1 and what speaks for one class speaks against another.",
        f"- Only ink is coloured. The baseline is a black image, so the {len(black)} values at black pixels are "
        f"{'exactly 0' if not black.any() else f'at most {black.max():.1e}'}: a missing stroke gets no share. Another "
        "baseline asks another question.",
        _completeness(e),
    ]
    return "\n".join(lines)


def _digit(study: Study, row: int) -> str:
    e, k, rival = study.explanation, study.predicted[row], _rivals(study)[row]
    value = e.values[row, k, ..., 0]
    most, least = (np.unravel_index(i, value.shape) for i in (value.argmax(), value.argmin()))
    judged = _with_article(row) if k == row else f"{_with_article(row)}, **taken for {_with_article(k)}**"
    return (
        f"- Row {row} is {judged}: probability {e.prediction[row, k]:.3f}, for black {e.base_value[row, k]:.3f}. "
        f"Most for it speaks pixel {_index(most)} with {value[most]:+.3f}, most against it {_index(least)} with "
        f"{value[least]:+.3f}. Its rival is {rival} with {e.prediction[row, rival]:.2g}."
    )


def _with_article(digit: int) -> str:
    return f"an {digit}" if digit == 8 else f"a {digit}"


def _rivals(study: Study) -> npt.NDArray:
    """The most probable class of each row besides the predicted one."""
    return np.argsort(study.explanation.prediction, 1)[:, -2]


def _index(index: tuple) -> str:
    return f"({', '.join(map(str, index))})"


def about_iris(study: Study) -> str:
    """What to look at in the picture of Iris: one line for each flower, then what holds for all."""
    e = study.explanation
    names, features = e.targets, e.names["features"]
    mean = ", ".join(f"{name} {x:.2f}" for name, x in zip(features, e.baseline[0], strict=True))
    lines = [
        f"One held-out flower of each species; {study.accuracy:.1%} of {study.held_out} are classified correctly. The "
        f"baseline is the mean flower of the training set ({mean}), so a bar says what it matters that this flower "
        "differs from the mean.",
        "",
    ]
    for row, k in enumerate(study.predicted):
        value = e.values[row, k]
        most = np.argsort(-np.abs(value))[:2]
        parts = " and ".join(f"{features[i]} = {e.inputs[row, i]:.1f} with {value[i]:+.3f}" for i in most)
        wrong = "" if names[k] == names[row] else f" (it is a {names[row]})"
        lines.append(
            f"- Row {row} is taken for {names[k]}{wrong} with probability {e.prediction[row, k]:.3f}, the mean flower "
            f"with {e.base_value[row, k]:.3f}. What counts most is {parts}."
        )
    mean_class = int(e.base_value[0].argmax())
    lines.append(
        f"- The mean flower is itself taken for {names[mean_class]}, with probability "
        f"{e.base_value[0, mean_class]:.3f}: little is left to explain in row {mean_class}. Mind the scales."
    )
    total = np.abs(e.values).sum((0, 1), dtype=np.float64)
    share = total / total.sum()
    order = np.argsort(-share)
    lines += [
        "- Over all nine panels the shares of the features are "
        + ", ".join(f"{features[i]} {share[i]:.0%}" for i in order)
        + ".",
        _completeness(e),
    ]
    return "\n".join(lines)


def _completeness(e: aumann.Explanation) -> str:
    return (
        f"- The values are complete: in each panel they sum to prediction - base value, and the largest residual is "
        f"{np.abs(e.residual).max():.0e}. After {e.evaluations.min()} to {e.evaluations.max()} gradients a row the "
        f"values are within {e.error.max():.1%} of the integral, by the estimate that docs/exactness.md explains."
    )
