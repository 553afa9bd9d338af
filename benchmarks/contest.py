"""How contestants are timed: interleaved in one process, compared as ratios, with their spread."""

import gc
import time

import numpy as np


def race(contestants, rounds=5, warm=1):
    """Seconds of each contestant in each round.

    Args:
        contestants: {name: function without arguments}; each returns once its result is on the host.
        rounds: timed rounds; in each every contestant runs once, so that drifts of the machine hit all alike.
        warm: untimed rounds before (compilation, caches).

    Returns:
        {name: (rounds,) seconds}
    """
    for _ in range(warm):
        for run in contestants.values():
            run()
    seconds = {name: [] for name in contestants}
    for i in range(rounds):
        names = list(contestants)
        for name in names if i % 2 else reversed(names):
            gc.collect()
            start = time.perf_counter()
            contestants[name]()
            seconds[name].append(time.perf_counter() - start)
    return {name: np.array(s) for name, s in seconds.items()}


def quartiles(seconds, other):
    """Lower quartile, median and upper quartile of the rounds' ratios."""
    return [float(q) for q in np.percentile(seconds / other, (25, 50, 75))]


def spread(three):
    """A median with its quartiles, as text."""
    low, middle, high = three
    return f"{middle:.3g} ({low:.3g}–{high:.3g})"
