"""Draw docs/picture.png, the picture of the README, from the results of the demo.

make demo && .venv/bin/python examples/picture.py out/demo docs/picture.png
"""

import sys
from pathlib import Path

import numpy as np
from matplotlib import colormaps, pyplot

import aumann

ROW, CLASSES = 8, ("8", "1")  # the digit that the network finds hardest, and the two classes that compete for it
FLOWER, SPECIES = 2, "virginica"


def main(folder, path):
    figure, axes = pyplot.subplots(1, 4, figsize=(10, 2.5), dpi=100, width_ratios=[1, 1, 1, 1.3], layout="constrained")
    digits(aumann.load(Path(folder, "digits.npz")), axes[:3])
    iris(aumann.load(Path(folder, "iris.npz")), axes[3])
    figure.savefig(path)
    print(f"wrote {path}")


def digits(e, axes):
    axes[0].imshow(e.inputs[ROW, ..., 0], cmap="gray")
    axes[0].set_title("input")
    values = [e.values[ROW, e.targets.index(name), ..., 0] for name in CLASSES]
    largest = max(np.abs(v).max() for v in values)
    for axis, name, value in zip(axes[1:], CLASSES, values, strict=True):
        axis.imshow(value, cmap="RdBu_r", vmin=-largest, vmax=largest)
        axis.set_title(f"P({name}): {change(e, ROW, name)}")
    for axis in axes:
        axis.set(xticks=[], yticks=[])


def iris(e, axis):
    value = e.values[FLOWER, e.targets.index(SPECIES)]
    names = [name.removesuffix(" (cm)") for name in e.names["features"]]
    bars = axis.barh(names, value, color=[colormaps["RdBu_r"](0.9 if v > 0 else 0.1) for v in value])
    axis.bar_label(bars, [f"{v:+.2f}" for v in value], padding=3)
    axis.invert_yaxis()
    axis.margins(x=0.35)
    axis.tick_params(length=0)
    axis.axvline(0, color="gray", linewidth=0.8)
    axis.set(xticks=[], title=f"P({SPECIES}): {change(e, FLOWER, SPECIES)}")
    axis.spines[:].set_visible(False)


def change(e, row, name):
    k = e.targets.index(name)
    return f"{e.base_value[row, k]:.2f} → {e.prediction[row, k]:.2f}"


if __name__ == "__main__":
    main(*sys.argv[1:])
