"""Whether F of a row depends on that row alone and is the same function at every call: seen before anything is summed.

An attribution of a row is an integral of *one* function of *that* row, and rows share batches with other rows and with
the nodes of their paths. Two unlike rows x and y are therefore evaluated together and alone:

    F(x | x, y, y) = F(x | x, x)        F(y | x, y, y) = F(y | y, y)        equal rows of a batch have equal answers

up to rounding. x is the first row of the data; y lies in the box between another row, if there is one, and its
baseline. What differs is evaluated again, to name the cause:

    drawn     the same batch has another answer: random numbers in inference
    position  equal rows of a batch have different answers: noise for each row, or a function that holds a mask for each
    company   two rows have another answer beside each other than each beside itself: a mean over the batch,
              BatchNormalization with training=True
    number    none of these, so it is the number of rows

Rounding depends on the number of rows too, because kernels do. A difference is held against the one that a rounding of
the inputs makes; what is too large for rounding and too small to be certain is warned of, not refused.

`require` is called for each problem, and evaluates once for each oracle and tuple of target functions.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from aumann.backends import copies
from aumann.core.secant import ROUNDING
from aumann.explain.problem import Problem
from aumann.model.caller import PER_ROW_ADVICE
from aumann.user_warnings import warn

AMONG = 64  # rows among which the one most unlike the first is looked for
SMALL = 4  # roundings, relative to the largest answer, that are let pass without asking further
LARGE, MOST = 256, 0.1  # roundings, or part of the largest answer where these are more, above which F is refused
AMPLIFIED = 16  # differences that one rounding of the inputs makes, which all roundings inside may make together

CAUSES = {
    "drawn": (
        "the same answer at every call, received one that draws random numbers: the answer to a row changes by {part} "
        "from draw to draw. Draw where training is true and nowhere else, explain the mean in place of the sample, or "
        "draw beforehand and pass the draws as an input that is held still."
    ),
    "position": (
        "the same answer wherever a row stands in a batch, received one in which equal rows differ by {part}, as noise "
        f"drawn for each row or a mask held for each makes them. Draw nothing in inference; {PER_ROW_ADVICE}."
    ),
    "number": (
        "the same answer in batches of any size, received one that changes by {part} with the number of rows. Compute "
        "without that number, which ops.shape(x)[0] is."
    ),
    "company": (
        "an answer that depends on the row alone, received one that changes by {part} with the rows beside it, as a "
        "mean over the batch or BatchNormalization with training=True makes it. Call such layers with training=False; "
        "compute what rows share beforehand, and pass it as a constant or as an input that is held still."
    ),
}


class IndependenceWarning(UserWarning):
    """F of a row seems to depend on the rows beside it, by little."""


def require(problem: Problem) -> None:
    """Refuses targets that are no function of their row alone; warns where that is not certain.

    Args:
        problem: whose rows and targets are looked at.

    Raises:
        ValueError: the message names the cause.
    """
    oracle, functions = problem.oracle, problem.functions
    check = oracle.independence.get(functions)
    if check is None:
        check = IndependenceCheck(problem)
        try:
            check.evaluate()
        except Exception as error:
            if oracle.backend.out_of_memory(error):
                return  # such a model is called with one row at a time
            raise
        if check.unlike:  # else the rows of another problem may tell more
            oracle.independence[functions] = check
    check.judge(_positions(problem))


class IndependenceCheck:
    """Answers to two unlike rows, together and alone.

    Args:
        problem: see `require`.

    Attributes:
        unlike: whether the rows differ.
        off: (positions,) the largest difference between answers that should agree.
        size: (positions,) the largest answer of the output that a position belongs to.
    """

    def __init__(self, problem: Problem) -> None:
        self.oracle, self.functions = problem.oracle, problem.functions
        # Keras computes some float64 operations in float32
        self.rounding = max(problem.rounding, 16 * ROUNDING["float32"])
        self.arrays, self.start_points = problem.arrays, problem.start_points
        self.other, self.unlike = _most_unlike(problem.arrays), False
        self.seeds = [v for v in self.oracle.variables if v.path.endswith("seed_generator_state")]
        self.flat = self.oracle.programs.outputs_as_written(self.functions)
        self.free = self.flat is not None  # in its number of rows: nothing is compiled
        if self.free:
            tuned = self.oracle.programs.outputs(self.functions).tuner.tuned
            self.width = 3 if tuned else min(3, self.oracle.batch_size)
        else:
            self.flat, self.width = self.oracle.programs.outputs(self.functions), self._compiled_width(problem.rows)
        self.mixed = [int(i % 3 > 0) for i in range(self.width)]
        self.alike = min(2, self.width) if self.free else self.width
        self.fewer = max(1, self.alike - 1)

    def evaluate(self) -> None:
        """Has the rows evaluated, together and alone, and compares the answers."""
        start = time.perf_counter()
        self.together = self.answers(self.mixed)
        if not self.free:
            self.oracle.programs.outputs(self.functions).tuner.record_compiling(time.perf_counter() - start)
        self.alone = [self.answers([kind] * self.alike) for kind in (0, 1)]
        self.repeated, others = [], []
        if self.seeds:
            self.repeated.append(self.answers(self.mixed, seeds=1))
        self.drawing = self._writes_down_numbers()
        if self.drawing:
            traced_anew = self.oracle.programs.outputs_traced_again(self.functions)
            self.repeated.append(self.answers(self.mixed, flat=traced_anew))
            others.append(self.answers([0] * self.fewer, flat=traced_anew))
        first = np.stack([y[0] for y in self.alone])
        batches = [*((y, self.mixed) for y in (self.together, *self.repeated)), *((y, [0]) for y in others)]
        batches += [(y, [kind]) for kind, y in enumerate(self.alone)]
        self.off = np.max([_apart(y, first[kinds]) for y, kinds in batches], axis=0)
        self.size = self._by_output(np.max([np.nan_to_num(np.abs(y), posinf=0).max(0) for y, _ in batches], axis=0))

    def judge(self, positions: np.ndarray) -> None:
        """Refuses or warns of what differs at some positions."""
        part = self.off / np.where(self.size > 0, self.size, 1)
        suspect = part > SMALL * self.rounding
        if not suspect[positions].any():
            return
        suspect &= self.off > AMPLIFIED * self._noise(certain := min(LARGE * self.rounding, MOST))
        at = [p for p in positions if suspect[p]]
        if not at:
            return
        worst = max(part[at])
        last = self.oracle.outputs[-1]
        culprit = "target function" if min(at) >= last.start + last.size else "model"
        digits = 2 if worst < 1 else len(str(int(100 * worst))) if np.isfinite(worst) else 0
        amount = f"{100 * worst:.{digits}g} % of the largest answer" if digits else "more than all numbers"
        text = f"Expected a {culprit} that gives " + CAUSES[self._cause(at)].replace("{part}", amount)
        if worst > certain:
            raise ValueError(text)
        warn(f"{text} This may be rounding, and values are trusted to it.", IndependenceWarning)

    def answers(
        self, kinds: Sequence[int], nudge: float = 0, seeds: int = 0, flat: Callable | None = None
    ) -> np.ndarray:
        """F of a batch of rows x (0) and y (1), (rows, positions).

        Args:
            kinds: list of 0 and 1.
            nudge: part of the largest number by which every number that moves is moved.
            seeds: what is added to the states of seed generators.
            flat: in place of the function that the problem is summed with.
        """
        points, side = self._batch(kinds, nudge)
        kept = copies.kept
        if seeds:
            kept = {id(v): v.value for v in self.oracle.variables} | {id(v): v.value + seeds for v in self.seeds}
        with copies.held(kept, copies.put):
            outputs = (flat or self.flat)(points, side)
        return np.array(self.oracle.backend.host(outputs), np.float64)

    def _batch(self, kinds: Sequence[int], nudge: float = 0) -> tuple[list, list]:
        kinds = np.array(kinds)
        ends, side = self.oracle.load([a[np.where(kinds, self.other, 0)] for a in self.arrays], as_written=True)
        points = []
        for end, start in zip(ends, self.start_points.points, strict=True):
            point = np.array(self.oracle.backend.host(end))
            x, share = point[:1].copy(), _uneven(point.shape[1:])
            start = start[self.other if len(start) > 1 else 0, 0]
            point[kinds > 0] = (start + share * (point - start))[kinds > 0]
            self.unlike |= bool((point != x).any())
            if nudge:
                point = point + nudge * np.abs(point).max(initial=0) * np.sign(share - 0.5)
            points.append(self.oracle.backend.send(np.ascontiguousarray(point, self.oracle.dtype)))
        return points, side

    def _compiled_width(self, rows: int) -> int:
        """Rows of the batches in which F at the ends is taken, which is compiled for that number; two at least."""
        tuner = self.oracle.programs.outputs(self.functions).tuner
        if tuner.tuned:
            tuner.best = max(2, tuner.best)
        width = tuner.width(max(2, rows), tuner.size)
        tuner.is_new(width)
        return width

    def _writes_down_numbers(self) -> bool:
        """Whether two traces, for other numbers of rows, hold other numbers, as they do if drawn while tracing."""
        if self.free:
            return False
        points, side = self._batch([0])
        outputs = self.oracle.function.outputs
        traces = [
            self.oracle.backend.constants(lambda *args: outputs(*args, self.functions), n, points, side)
            for n in (self.alike, self.fewer)
        ]
        return not _same(*([c for c in constants if np.asarray(c).dtype.kind not in "biu"] for constants in traces))

    def _noise(self, certain: float) -> np.ndarray:
        """(positions,) the largest difference in each output that one rounding of the inputs makes.

        None is granted where not even the same batch has the same answer.
        """
        one = ROUNDING["float32"] if self.rounding <= 16 * ROUNDING["float32"] else self.rounding / 2
        noise = [
            _apart(self.answers([kind] * self.alike, nudge)[:1], self.alone[kind][:1])
            for kind in (0, 1)
            for nudge in (one, -one)
        ]
        drawn = _apart(self.answers(self.mixed), self.together) > certain * self.size
        return np.where(drawn, 0, self._by_output(np.max(noise, axis=0)))

    def _cause(self, at: np.ndarray) -> str:
        limit = self.off[at].max() / 10

        def differ(a: np.ndarray, b: np.ndarray) -> bool:
            return (_apart(a, b)[at] > limit).any()

        more = [self.oracle.programs.outputs_traced_again(self.functions) if self.drawing else None for _ in range(3)]
        if any(differ(y, self.together) for y in (*self.repeated, *(self.answers(self.mixed, flat=f) for f in more))):
            return "drawn"
        if any(differ(y, y[:1]) for y in self.alone):
            return "drawn" if self.seeds else "position"
        kinds = self.mixed[: self.alike]
        return "company" if differ(self.answers(kinds), np.stack([y[0] for y in self.alone])[kinds]) else "number"

    def _by_output(self, values: np.ndarray) -> np.ndarray:
        """The largest of the positions of each output, at all of them; target functions have their own."""
        values = values.copy()
        for output in self.oracle.outputs:
            values[output.start : output.start + output.size] = values[output.start : output.start + output.size].max()
        return values


def _positions(problem: Problem) -> np.ndarray:
    """Positions of all targets of a problem in the outputs' vector; those of "predicted" may be any of its output's."""
    size = problem.oracle.outputs[0].size
    return np.unique(np.concatenate([np.arange(size) if c.positions is None else c.positions for c in problem.columns]))


def _most_unlike(arrays: list[np.ndarray]) -> int:
    """The row, of the first few, most of whose numbers differ from those of the first row."""
    differ = [(a[:AMONG] != a[:1]).reshape(len(a[:AMONG]), -1) for a in arrays]
    return int(sum(d.mean(1) if d.size else np.zeros(len(d)) for d in differ).argmax())


def _uneven(shape: tuple) -> np.ndarray:
    """Numbers between 0 and 1 with no pattern that a model could know, so that a point of the box is no scaled row."""
    golden = (5**0.5 - 1) / 2
    return (0.3 + golden * np.arange(int(np.prod(shape)))).reshape(shape) % 1


def _apart(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """(positions,) the largest difference over rows; none between equal infinities, or two that are not numbers."""
    with np.errstate(invalid="ignore"):
        apart = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0, np.abs(a - b))
    return np.where(np.isnan(apart), np.inf, apart).max(0)


def _same(a: list, b: list) -> bool:
    """Whether two lists of constants agree, those of other shapes left out: they have an axis of rows."""
    return len(a) == len(b) and all(
        x is y or np.shape(x) != np.shape(y) or np.array_equal(x, y) for x, y in zip(a, b, strict=True)
    )
