"""Random calls, good and spoiled, end in a right answer or a clear refusal; `make fuzz` runs ten thousand of them."""

import subprocess
import sys
from pathlib import Path

import pytest
from random_calls import draw, summary

SOME = 120  # of the calls, in every run
PIECE = 500  # calls of one process
HONEST = 0.98  # of the rows held against a brute sum: small networks of few kinks are the hardest to judge


def fails(faults):
    return "\n".join(f"seed {call.seed}, {call.method} of {call.model!r}: {out.about}" for call, out in faults)


def held(seeds, answers, rows):
    kinds, faults, compared, wrong = summary(seeds)
    assert not faults, fails(faults)
    assert kinds["answer"] >= answers * len(seeds) and kinds["refused"] >= 0.2 * len(seeds), kinds
    assert compared >= rows * len(seeds) and wrong <= (1 - HONEST) * compared, (compared, wrong)


def test_some_random_calls():
    held(range(SOME), 0.3, 0.1)


@pytest.mark.fuzz
@pytest.mark.parametrize("first", range(SOME, 10_000 + SOME, PIECE))
def test_ten_thousand_random_calls(first):
    """In processes of their own: XLA's compiler ends one that has compiled for some thousands of models."""
    script = str(Path(__file__).with_name("random_calls.py"))
    ran = subprocess.run([sys.executable, script, str(PIECE), str(first)], capture_output=True, text=True)
    print(ran.stdout)
    assert ran.returncode == 0, ran.stdout + ran.stderr[-2000:]


# A guided path to 1e300 and one to 1e38, infinities of both signs, a path for a method that has one.
@pytest.mark.parametrize("seed", [21999, 4043, 5082, 714, 6673])
def test_calls_that_were_faults_are_none(seed):
    _, faults, _, _ = summary([seed])
    assert not faults, fails(faults)


def test_a_call_is_drawn_from_its_seed_alone():
    first, again = draw(5), draw(5)
    assert (first.model, first.method, str(first.inputs)) == (again.model, again.method, str(again.inputs))
