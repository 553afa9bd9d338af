"""What the one checker of arguments takes, and what it says of everything else: expected, received, what to do."""

import numpy as np
import pytest

from aumann import arguments


@pytest.mark.parametrize("given", [3, np.int64(3), np.uint8(3)])
def test_whole_numbers_come_back_as_ints(given):
    assert type(arguments.whole(given, 3, "steps", 20)) is int


@pytest.mark.parametrize("given", [2, 3.0, True, None, "3", np.array(3), [3]])
def test_other_numbers_are_no_whole_numbers(given):
    with pytest.raises(ValueError) as told:
        arguments.whole(given, 3, "steps", 20)
    assert str(told.value) == f"Expected steps to be a whole number ≥ 3, received {given!r}. Give for example 20."
    assert not arguments.is_whole(given, 3)


def test_whole_numbers_have_bounds():
    assert arguments.is_whole(-7) and arguments.is_whole(2, most=2) and not arguments.is_whole(3, 0, 2)


INTERVALS = {  # interval: what lies in it, what does not, how the error tells the bounds
    "(0, inf)": ((1e-300, 2, np.float32(0.5)), (0, -1, np.inf), "> 0"),
    "(0, inf]": ((0.01, np.inf), (0, -0.1), "> 0"),
    "[0, inf]": ((0, np.inf), (-1e-9,), "≥ 0"),
    "(0, 1]": ((0.1, 1), (0, 1.1), r"in \(0, 1\]"),
    "[0, 1)": ((0, 0.9), (-0.1, 1), r"in \[0, 1\)"),
}


@pytest.mark.parametrize("interval", INTERVALS)
def test_numbers_lie_in_their_interval(interval):
    inside, outside, bounds = INTERVALS[interval]
    for given in inside:
        assert arguments.number(given, interval, "a share", 0.1) == given
    for given in (*outside, np.nan, True, "0.5", None, 0.5j, np.complex64(0.5), np.array([0.5])):
        with pytest.raises(ValueError, match=rf"^Expected a share {bounds}, received .*\. Give for example 0\.1\.$"):
            arguments.number(given, interval, "a share", 0.1)


def test_what_a_number_means_stands_before_what_arrived():
    with pytest.raises(ValueError, match=r"^Expected a tolerance ≥ 0, in pixels; received -1\. Give for example 15\.$"):
        arguments.number(-1, "[0, inf]", "a tolerance", 15, "in pixels")


def test_choices_are_words():
    words = {"one": 1, "two": 2, "three": 3}
    assert [arguments.choice(word, words, "which") for word in words] == list(words)
    for given in ("four", None, 1, ["one"], np.array(["one", "two"])):
        with pytest.raises(ValueError, match=r'^Expected which="one", "two" or "three", received .*\. Choose'):
            arguments.choice(given, words, "which")


def test_a_tolerance_or_what_fixes_the_cost():
    assert arguments.tolerance_or("samples", None, None, None, 0.1) == 0.1
    assert arguments.tolerance_or("samples", None, 0.2, 50, 0.1) == 0.2
    assert arguments.tolerance_or("samples", 8, None, None, 0.1) is None
    for tolerance, most, told in [(0.2, None, "tolerance=0.2"), (None, 50, "max_evaluations=50")]:
        with pytest.raises(ValueError, match=f"samples or a tolerance, received samples=8 with {told}.*leave one of"):
            arguments.tolerance_or("samples", 8, tolerance, most, 0.1)
    with pytest.raises(ValueError, match=r"Expected a tolerance > 0, the relative error .*; received 0\. .*0\.01"):
        arguments.tolerance_or("samples", None, 0, None, 0.1)


def test_evaluations_have_a_least_number():
    assert arguments.max_evaluations(None, 2000, 9, "gradients") == 2000
    assert arguments.max_evaluations(9, 2000, 9, "gradients") == 9
    with pytest.raises(ValueError, match=r"≥ 9, the gradients of the two sums .*; received 8\. Give for example 2000"):
        arguments.max_evaluations(8, 2000, 9, "gradients")
    with pytest.raises(ValueError, match="≥ 2, received 1"):
        arguments.max_evaluations(1, 2000, 2)
