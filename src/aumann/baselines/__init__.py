"""Baselines: what a prediction is compared with. docs/baselines.md says which one answers which question.

`explain(x, baseline=…)` takes numbers, or a function of the inputs that makes them. So there are two kinds here:

- made of the inputs: `zeros`, `constant`, `channel_mean`, `blur`, `farthest`, `nearest`, `token`, `uniform`,
  `gaussian`, `dinucleotide_shuffle` and `combine` return a function inputs -> baseline, which `explain` calls;
- made of a background, data that stands for the usual: `mean`, `median` and `kmeans` return the baseline itself.

Of several inputs each gets its own, `{"image": blur(3), "age": mean(ages)}`; sets of several inputs, row j of every
input taken together, `weighted({"image": uniform(0, 1, 20), "age": gaussian(5, 20, seed=1)})`.

Tables are matched with the inputs by the names of their columns, in every argument that holds a number for each
feature; what is made of a background with names has them too.

Random ones draw from a local generator, and the same whenever the seed is the same. What a baseline costs is
the gradients of its path; a set costs as many times that as it has rows.
"""

from aumann.baselines.drawn import gaussian, uniform
from aumann.baselines.per_row import blur, channel_mean, farthest, nearest
from aumann.baselines.sets import combine
from aumann.baselines.simple import constant, kmeans, mean, median, zeros
from aumann.baselines.tokens import dinucleotide_shuffle, token
from aumann.core.baselines import Weighted, weighted

__all__ = [
    "Weighted",
    "blur",
    "channel_mean",
    "combine",
    "constant",
    "dinucleotide_shuffle",
    "farthest",
    "gaussian",
    "kmeans",
    "mean",
    "median",
    "nearest",
    "token",
    "uniform",
    "weighted",
    "zeros",
]
