"""The checks of arguments: whole numbers, numbers in an interval, choices, and the tolerance or what stands for it.

Every error says what was expected, what arrived and what to do.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np


def is_whole(value: Any, least: float = -math.inf, most: float = math.inf) -> bool:
    """Whether the value is an integer, of Python or NumPy and no bool, between two others."""
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and bool(least <= value <= most)


def whole(number: Any, least: int, name: str, example: Any, meaning: str = "", advice: str = "") -> int:
    """The whole number that was given, as an int.

    Args:
        number: what was given.
        least: the smallest number that is allowed.
        name: of the argument.
        example: a number that works.
        meaning: what the error says of the number beyond its name.
        advice: what the error says instead of the example.

    Raises:
        ValueError: it is no integer, a bool or too small.
    """
    if not is_whole(number, least):
        raise _refusal(f"{name} to be a whole number ≥ {least}", meaning, number, example, advice)
    return int(number)


def number(value: Any, interval: str, name: str, example: Any, meaning: str = "") -> float:
    """The number that was given, as a float.

    Args:
        value: what was given.
        interval: in which it lies, with round brackets where an end is not part of it: "(0, 1]", "[0, inf)".
        name: what the number is, after "Expected".
        example, meaning: as in `whole`.

    Raises:
        ValueError: it is no real number, a bool, NaN or outside of the interval.
    """
    low, high = map(float, interval[1:-1].split(","))
    real = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    if not (
        real
        and (low < value if interval[0] == "(" else low <= value)
        and (value < high if interval[-1] == ")" else value <= high)
    ):
        bounds = f"in {interval}" if math.isfinite(high) else f"{'>' if interval[0] == '(' else '≥'} {low:g}"
        raise _refusal(f"{name} {bounds}", meaning, value, example)
    return float(value)


def choice(value: Any, choices: Iterable[str], name: str, advice: str = "Choose one of them.") -> str:
    """The one of several words that was given.

    Raises:
        ValueError: it is none of them.
    """
    choices = list(choices)
    if not isinstance(value, str) or value not in choices:
        *others, last = (f'"{word}"' for word in choices)
        raise ValueError(f"Expected {name}={', '.join(others)} or {last}, received {value!r}. {advice}")
    return value


def tolerance_or(name: str, value: Any, tolerance: Any, max_evaluations: Any, usual: float) -> float | None:
    """The tolerance, the usual one if none was given; None where another argument fixes the cost instead.

    Args:
        name, value: of the argument that fixes the cost; the value is None where it was left out.
        tolerance, max_evaluations: as they were given, None where they were left out.
        usual: the tolerance where none of them was given.

    Raises:
        ValueError: the cost is fixed and the error too, or the tolerance is not above 0.
    """
    if value is not None:
        if tolerance is None and max_evaluations is None:
            return None
        raise ValueError(
            f"Expected {name} or a tolerance, received {name}={value!r} with "
            + (f"tolerance={tolerance!r}" if tolerance is not None else f"max_evaluations={max_evaluations!r}")
            + f". With {name} the cost is fixed, with a tolerance the error: leave one of them out."
        )
    meaning = "the relative error that the values of a row may have"
    return number(usual if tolerance is None else tolerance, "(0, inf]", "a tolerance", 0.01, meaning)


def max_evaluations(most: Any, usual: int, least: int, sums_of: str = "") -> int:
    """The most evaluations that a row may take, the usual number if none was given.

    Args:
        most: what was given, or None.
        usual: the number where nothing was given.
        least: what the first two sums take, without which there is no error.
        sums_of: what they are sums of.

    Raises:
        ValueError: it is no integer or too small.
    """
    meaning = f"the {sums_of} of the two sums whose difference gives the first error" if sums_of else ""
    return whole(usual if most is None else most, least, "max_evaluations", usual, meaning)


def by_name(entries: Mapping, names: Sequence[str], named: bool, usual: Any, what: str, advice: str) -> list:
    """The entry of a dict for each input, the usual one where it has none.

    Args:
        entries: {name of an input: its entry}.
        names: of the inputs, in order.
        named: whether the inputs have names, as those of a dict and a list have, and a single array has not.
        usual: the entry of an input that the dict leaves out.
        what: the entries are, for the message.
        advice: for the message.

    Raises:
        ValueError: the inputs have no names, or others.
    """
    if not named or set(entries) - set(names):
        received = sorted(map(str, entries))
        raise ValueError(f"Expected {what} named as the inputs {names}, received {received}. {advice}")
    return [entries.get(name, usual) for name in names]


def _refusal(wanted: str, meaning: str, value: Any, example: Any, advice: str = "") -> ValueError:
    known = f"{wanted}, {meaning};" if meaning else f"{wanted},"
    return ValueError(f"Expected {known} received {value!r}. {advice or f'Give for example {example}.'}")
