"""The historical import, `from IntegratedGradients import *`, in terms of `aumann`.

    from IntegratedGradients import *
    ig = integrated_gradients(model)
    ig.explain(sample, outc=0)

One sample without a batch axis in, one array (or a list of arrays for several inputs) out. The sum is the original's:
the left ends of `num_steps` equal cells, for the same numbers. For a better one give a rule,
`integrated_gradients(model, rule=aumann.gauss_legendre)`, or use `aumann.IntegratedGradients`, which also takes
batches and reports how exact the answer is.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from keras import Model, Sequential, tree

import aumann
from aumann.features import conversion, tables

__all__ = ["Model", "Sequential", "integrated_gradients", "np"]


class integrated_gradients:
    """Integrated gradients of single samples, as in the original library.

    Args:
        model: a built Sequential or functional model.
        outchannels: output units that may be explained; all of them when empty.
        verbose: print what is prepared.
        rule: function of the number of steps to an `aumann.Rule`; the original's left sum by default.

    Raises:
        ValueError, TypeError: the model is not built, or an output channel is out of range.
    """

    def __init__(
        self,
        model: Model,
        outchannels: Sequence[int] = [],  # the original's signature
        verbose: bool | int = 1,
        rule: Callable[[int], aumann.Rule] = aumann.left,
    ):
        self.model = model
        self.rule = rule
        self._method = aumann.IntegratedGradients(model)
        if not getattr(model, "outputs", None):
            raise TypeError(
                f"Expected a Sequential or functional model, received {type(model).__name__}. "
                "For other models and functions use aumann.IntegratedGradients."
            )
        width = sum(int(np.prod(t.shape[1:])) for t in tree.flatten(model.outputs))
        self.outchannels = list(outchannels) if len(outchannels) else list(range(width))
        wrong = [c for c in self.outchannels if not 0 <= c < width]
        if wrong:
            raise ValueError(f"Expected output channels between 0 and {width - 1}, received {wrong}. Leave those out.")
        if verbose:
            channels = "All" if not len(outchannels) else ",".join(map(str, self.outchannels))
            print(f"Evaluated output channels (0-based index): {channels}")

    def explain(
        self, sample: Any, outc: int = 0, reference: Any = False, num_steps: int = 50, verbose: bool | int = 0
    ) -> np.ndarray | list[np.ndarray]:
        """Attributions of one sample.

        Args:
            sample: array without a batch axis, or a list of those for a model with several inputs.
            outc: output unit, one of `outchannels`.
            reference: where the path starts, shaped like sample; zeros when False.
            num_steps: gradients spent.
            verbose: print which output is explained.

        Returns:
            an array shaped like sample, or a list of those.

        Raises:
            ValueError: outc is not among the channels, or the shapes do not fit.
        """
        if outc not in self.outchannels:
            raise ValueError(f"Expected outc among the channels {self.outchannels}, received {outc}. Choose one.")
        if verbose:
            print(f"Explaining output channel {outc}.")
        several = isinstance(sample, (list, tuple))
        inputs = [np.asarray(s)[None] for s in sample] if several else np.asarray(sample)[None]
        baseline = 0.0
        if reference is not False and reference is not None:
            if tables.is_row(sample) and tables.is_row(reference):
                reference = conversion.by_name(reference, "reference", [str(c) for c in tables.labels(sample)])
            baseline = [np.asarray(r)[None] for r in reference] if several else np.asarray(reference)[None]
        self._method.rule = self.rule(num_steps)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", aumann.CompletenessWarning)  # a first-order sum has a large residual
            values = self._method.explain(inputs, target=self._target(outc), baseline=baseline).values
        return [v[0] for v in values] if several else values[0]

    def _target(self, outc: int) -> tuple[int, ...]:
        """Channel c of the outputs laid end to end, as `aumann` names it."""
        shapes = [tuple(t.shape[1:]) for t in tree.flatten(self.model.outputs)]
        ends = np.cumsum([np.prod(shape, dtype=int) for shape in shapes])
        i = int(np.searchsorted(ends, outc, side="right"))
        inside = outc - (int(ends[i - 1]) if i else 0)
        index = tuple(int(k) for k in np.unravel_index(inside, shapes[i]))
        return index if len(shapes) == 1 else (i, *index)
