"""The historical import, `from IntegratedGradients import *`, as a thin leaf over `aumann`.

    from IntegratedGradients import *
    ig = integrated_gradients(model)
    ig.explain(sample, outc=0)

One sample without a batch axis in, one array (or a list of arrays for several inputs) out. The sum is the original's:
the left ends of `num_steps` equal cells, for the same numbers. For a better one give a rule,
`integrated_gradients(model, rule=aumann.gauss_legendre)`, or use `aumann.IntegratedGradients`, which also takes
batches and reports how exact the answer is.
"""

import warnings

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

    def __init__(self, model, outchannels=[], verbose=1, rule=aumann.left):  # noqa: B006 (the original's signature)
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
            named = "All" if not len(outchannels) else ",".join(map(str, self.outchannels))
            print(f"Evaluated output channels (0-based index): {named}")

    def explain(self, sample, outc=0, reference=False, num_steps=50, verbose=0):
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
            raise ValueError(f"Expected outc among the channels {self.outchannels}, received {outc}.")
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
            warnings.simplefilter("ignore", aumann.CompletenessWarning)  # a first-order sum misses by design
            values = self._method.explain(inputs, target=self._target(outc), baseline=baseline).values
        return [v[0] for v in values] if several else values[0]

    def _target(self, outc):
        """Channel c of the outputs laid end to end, as `aumann` names it."""
        first = 0
        for i, t in enumerate(tree.flatten(self.model.outputs)):
            shape = tuple(t.shape[1:])
            size = int(np.prod(shape))
            if outc < first + size:
                index = tuple(int(k) for k in np.unravel_index(outc - first, shape))
                return index if len(self.model.outputs) == 1 else (i, *index)
            first += size
