"""One call of `explain`, as the steps that it takes."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import numpy as np

from aumann.execution.progress import reporter
from aumann.explain import answer, checks, endpoints
from aumann.explain.integral import Integral
from aumann.explain.problem import Problem
from aumann.explain.result import Result
from aumann.explanation import Explanation


def explain(
    problem: Problem,
    fingerprint: Future,
    progress: Any = None,
    sum: Callable[[Problem, Integral], Result] | None = None,
) -> tuple[Explanation, Result]:
    """The answer to a problem: F at the ends, the integral between them, what is to be said of it.

    Args:
        problem: what was given, resolved.
        fingerprint: of the model, taken in the background.
        progress: as `explain` is given it.
        sum: what gives the values, the method's own unless given.

    Raises:
        ValueError, TypeError: F is not finite at an end, or has no gradient.
    """
    # What is beyond the dtype becomes infinite, infinities of both signs add up to NaN, and a warning names the rows.
    with np.errstate(over="ignore", invalid="ignore"):
        ends = endpoints.evaluate(problem)
        with reporter(progress) as tally:
            result = (sum or problem.method.sum)(problem, Integral(problem, ends, tally))
        check = checks.completeness(ends, result.values)
        checks.refuse_steps(problem, ends, result, check)
        checks.warn_of(problem, ends, result, check)
        return answer.explanation(problem, ends, result, check.residual, fingerprint.result()), result
