"""Sequential integrated gradients: each token of a text on a path of its own, all others as they are."""

from dataclasses import replace

import numpy as np

from aumann.core.baselines import StartPoints
from aumann.explain.integral import Integral
from aumann.explain.problem import Problem
from aumann.explain.result import Result, stacked
from aumann.methods.integrated import IntegratedGradients


class SequentialIntegratedGradients(IntegratedGradients):
    """What each token does for F in the company of all others: token i moves from its baseline, the others stay.

    φᵢ = ∫₀¹ (xᵢ − x′ᵢ) · ∂ᵢF(x₁, …, x′ᵢ + t (xᵢ − x′ᵢ), …, x_T) dt, for each feature of a token.
    No point of a path is a text of padding. A token's values add up to F(x) − F(x with its baseline in its place); all
    together they do not add up to F(x) − F(x′), and `residual` is the difference. Tokens are the first axis of a row:
    ids (n, T) move at their Embedding, floats (n, T, …) are time steps; where several inputs move, they have as many
    and token i moves in all. Give a mask or padding id as baseline=.

    Cost: T times that of `IntegratedGradients`; memory in proportion to `batch_size`, T rows at least. The tolerance is
    that of the row's values together.

    Raises:
        ValueError: inputs that move and differ in their number of tokens.

    Source: Enguehard (2023), Sequential Integrated Gradients: a Simple but Effective Method for Explaining Language
    Models.
    """

    complete = False
    spans = False
    takes_paths = False

    def sum(self, problem: Problem, integrate: Integral) -> Result:
        shapes = problem.oracle.shapes
        if any(shape[:1] != shapes[0][:1] for shape in shapes) or not shapes[0]:
            raise ValueError(
                f"Expected inputs that have one number of tokens, the first axis of a row; received rows of shapes "
                f'{shapes}. Hold those that are no sequence still with baseline={{…: "fixed"}}.'
            )
        tokens, results = shapes[0][0], []
        at_a_time = max(1, problem.oracle.batch_size // tokens)
        for rows in np.array_split(np.arange(problem.rows), -(-problem.rows // at_a_time)):
            # from the mean of F with one token replaced to F(x)
            part = integrate.part(rows, _one_at_a_time(problem, rows, tokens), complete=not problem.oracle.repeats)
            result = super().sum(part.problem, part)
            # of a mean over baselines, the sum
            results.append(replace(result, values=[v * tokens for v in result.values]))
        return stacked(results)


def _one_at_a_time(problem: Problem, rows: np.ndarray, tokens: int) -> StartPoints:
    """The rows with one token replaced by its baseline, for each token and each baseline."""
    ends, _ = problem.load(rows)
    starts, points = problem.start_points.of(rows), []
    for end, start in zip(ends, starts.points, strict=True):
        end = problem.oracle.backend.host(end)[:, None, None]
        row = end.shape[3:]
        start = np.broadcast_to(start, (len(start), starts.count, *start.shape[2:]))[:, None]
        replaced = np.eye(tokens, dtype=bool).reshape(1, tokens, 1, tokens, *(1 for _ in row[1:]))
        points.append(np.where(replaced, start, end).reshape(len(rows), -1, *row))
    return StartPoints(points, np.tile(starts.weights, tokens) / tokens)
