"""The pace: how many points of a path one call of the model takes.

It begins with a guess. While there is much to do, twice as many and half as many are tried on the work itself, and the
fastest stays; when memory runs out, half as many are taken from then on. Where every shape is compiled, one that is
there already serves until it has lost as much time as compiling takes, as a pair of skis is hired.
"""

import math
import time

import numpy as np

BETTER = 0.95  # of the time of the best, below which another size replaces it
LONG = 0.5  # seconds of work below which nothing is tried
TRIAL = 0.03  # seconds that a trial takes at least, for the clock's sake
PARTS = 6, 20  # a trial is at most one part of six of what is left, and at least, so that noise evens out, one of 20
FRESH = 0.1  # seconds for which it holds how much memory is free: asking takes 0.1 ms, and a call asks three times


class MemoryBudget:
    """How many points fit into memory.

    Args:
        size: bytes that a point needs.
        free: () -> bytes that are free, or None where nobody knows.
        most: points that there is room for, however much is free.
    """

    def __init__(self, size, free, most=1 << 40):
        self.size, self.free, self.most = size, free, most
        self.asked, self.known = -math.inf, None

    def __call__(self, more=0):
        """Points whose needs are half of what is free, or half of what was too much; `more` bytes each where told."""
        now = time.monotonic()
        if now - self.asked > FRESH:
            self.known, self.asked = self.free(), now  # in this order: others may ask meanwhile
        return max(1, int(min(self.most, math.inf if self.known is None else self.known / 2 / (self.size + more))))

    def halve(self, size):
        self.most = max(1, min(self.most, size // 2))


class BatchTuner:
    """Points per call of one compiled function.

    Args:
        size: to begin with.
        room: how many fit; shared by all that the model is called for.
        tuned: whether others are tried; a size that was asked for stays.
        dynamic: whether what is compiled takes a new number of rows.
        laid: whether what is compiled takes (rows, points of each), or for the most part their product alone.
        whole: whether all of it is compiled for a shape; where parts are, compiling is cheaper than what it saves.
        more: bytes that a point needs here, beyond what it needs of the room everywhere.
    """

    def __init__(self, size, room, tuned=True, dynamic=True, laid=False, whole=True, more=0):
        self.best, self.room, self.tuned, self.dynamic, self.laid, self.whole = size, room, tuned, dynamic, laid, whole
        self.more = more
        self.tried, self.speed = {}, None  # seconds a point
        self.shapes, self.compiling, self.lost = set(), 0.0, {}

    @property
    def size(self):
        return max(1, min(self.best, self.room(self.more))) if self.tuned else self.best

    def next(self, left):
        """Points per call, and how many of the `left` points to compute with it before asking again."""
        if self.speed is None:
            return self.size, min(left, self.size)
        if self.tuned and left * self.speed > max(LONG, 10 * self.compiling):
            for size in self._untried():
                trial = max(2 * size, int(TRIAL / self.speed), left // PARTS[1])
                if PARTS[0] * trial <= left:
                    return size, trial
        return self.size, left

    def _untried(self):
        best = self.size
        around = [best] if best not in self.tried else [2 * best, best // 2]
        return [size for size in around if size not in self.tried and 1 <= size <= self.room(self.more)]

    def took(self, size, points, seconds, trial):
        """So many points took so long, with nothing compiled on the way; the first ones tell how many make a trial."""
        first, self.speed = self.speed is None, seconds / points
        if trial and not first:
            self.tried[size] = self.speed
            if self.speed < BETTER * self.tried.get(self.best, math.inf):
                self.best = size

    def width(self, count, most, points=1, trial=False):
        """Rows of the next call, of `points` each, when `count` are left and `most` go side by side."""
        if self.dynamic:
            return min(count, most)
        wanted = min(most, 1 << (count - 1).bit_length())
        there = set() if trial or not self.whole else {rows for rows in self._widths(points) if rows <= most}
        if not there or wanted in there:
            return wanted
        width = min((rows for rows in there if rows > wanted), default=max(there))
        # rows that only fill up, or half the time of a call that is too short
        lost = (width - wanted if width > wanted else width / 2) * points * (self.speed or 0)
        lost = self.lost[wanted, points] = self.lost.get((wanted, points), 0.0) + lost
        return wanted if lost > self.compiling else width

    def _widths(self, points):
        """Rows that have been called for with so many points each, or else with as many points in all."""
        shapes = tuple(self.shapes)  # rows on another device may add to them meanwhile
        own = [rows for rows, each in shapes if each == points]
        if own or self.laid:
            return own
        return [rows * each // points for rows, each in shapes if rows * each % points == 0]

    def is_new(self, rows, points=1):
        """Whether a shape was never seen, or nothing was; it is seen from now on."""
        shape = (1, 1) if self.dynamic else (rows, points)
        new = shape not in self.shapes
        self.shapes.add(shape)
        return new

    def compiled(self, seconds):
        self.compiling = max(self.compiling, 0.0 if self.dynamic else seconds)

    def groups(self, rows):
        """Row indices of each call: arrays of its width, and how many of them count; the last is repeated."""
        first = 0
        while first < rows:
            width = self.width(rows - first, self.size)
            count = min(width, rows - first)
            new, start = self.is_new(width), time.perf_counter()
            yield np.minimum(np.arange(first, first + width), rows - 1), count
            seconds = time.perf_counter() - start
            if new:
                self.compiled(seconds)
            else:
                self.speed = seconds / width
            first += count
