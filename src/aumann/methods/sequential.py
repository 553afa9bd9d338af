"""Sequential integrated gradients: each token of a text on a path of its own, all others as they are."""

import numpy as np

from aumann.core.baselines import StartPoints
from aumann.core.refinement import stacked
from aumann.methods.integrated import IntegratedGradients


class SequentialIntegratedGradients(IntegratedGradients):
    """What each token does for F in the company of all others: token i moves from its baseline, the others stay.

    φᵢ = ∫₀¹ (xᵢ − x′ᵢ) · ∂ᵢF(x₁, …, x′ᵢ + t (xᵢ − x′ᵢ), …, x_T) dt, for each feature of a token.
    No point of a path is a text of padding. A token's values add up to F(x) − F(x with its baseline in its place); all
    together they do not add up to F(x) − F(x′), and `residual` is the difference. Tokens are the first axis of a row:
    ids (n, T) move at their Embedding, floats (n, T, …) are time steps; where several inputs move, they have as many
    and token i moves in all. Give a mask or padding id as baseline=.

    Cost: T times that of `IntegratedGradients`, whose arguments it has but for `path`; memory in proportion to
    `batch_size`, T rows at least. The tolerance is that of the row's values together.

    Raises:
        ValueError: inputs that move and differ in their number of tokens.

    Source: Enguehard (2023), Sequential Integrated Gradients: a Simple but Effective Method for Explaining Language
    Models.
    """

    complete = False
    spans = False
    bends = False

    def sum(self, call):
        shapes = call.oracle.shapes
        if any(shape[:1] != shapes[0][:1] for shape in shapes) or not shapes[0]:
            raise ValueError(
                f"Expected inputs that have one number of tokens, the first axis of a row; received rows of shapes "
                f'{shapes}. Hold those that are no sequence still with baseline={{…: "fixed"}}.'
            )
        tokens, found = shapes[0][0], []
        for rows in np.array_split(np.arange(call.rows), -(-call.rows // max(1, call.batch_size // tokens))):
            part = call.part(rows, _one_at_a_time(call, rows, tokens))
            part.at_ends = part.at_ends[0], part._base_value(part.index)  # the mean of F with one token replaced
            part.complete = part.cuts and not part.oracle.repeats
            found.append(super().sum(part))
            found[-1].values = [v * tokens for v in found[-1].values]  # of a mean over baselines, the sum
        call.exactness, call.places = part.exactness, part.places
        call.tolerance = getattr(part, "tolerance", None)
        return stacked(found, call.rows)


def _one_at_a_time(call, rows, tokens):
    """The rows with one token replaced by its baseline, for each token and each baseline."""
    ends, _ = call.load(rows)
    starts, points = call.starts.of(rows), []
    for end, start in zip(ends, starts.points, strict=True):
        end = call.oracle.backend.host(end)[:, None, None]
        row = end.shape[3:]
        start = np.broadcast_to(start, (len(start), starts.count, *start.shape[2:]))[:, None]
        replaced = np.eye(tokens, dtype=bool).reshape(1, tokens, 1, tokens, *(1 for _ in row[1:]))
        points.append(np.where(replaced, start, end).reshape(len(rows), -1, *row))
    return StartPoints(points, np.tile(starts.weights, tokens) / tokens)
