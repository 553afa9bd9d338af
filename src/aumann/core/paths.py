"""Paths: γ(t) and its velocity γ'(t), from the baseline at t = 0 to the input at t = 1.

A path is a function (start, end, t) -> (point, velocity) of arrays that broadcast against each other, written in
operators alone, so that it runs on every backend. A new path is one more such function.
"""


def straight(start, end, t):
    """γ(t) = x′ + t (x − x′): the path of integrated gradients, the only symmetric one (Sundararajan et al. 2017)."""
    velocity = end - start
    return start + t * velocity, velocity
