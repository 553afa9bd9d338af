"""Progress: a bar where one is wanted, nothing otherwise."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any


class Tally:
    """Counts gradients done and still to be done.

    Args:
        report: (done, expected) -> None, called whenever some are done.
    """

    def __init__(self, report: Callable[[int, int], object]) -> None:
        self.report, self.done, self.expected, self.announced = report, 0, 0, 0

    def announce(self, count: int) -> None:
        """So many gradients will be needed, which `expect` will repeat part by part."""
        self.expected += count
        self.announced += count

    def expect(self, count: int) -> None:
        """So many gradients more are needed, beyond those that were announced."""
        known = min(count, self.announced)
        self.announced -= known
        self.expected += count - known

    def __call__(self, count: int) -> None:
        """So many more are done."""
        self.done += count
        self.report(self.done, self.expected)


@contextlib.contextmanager
def reporter(progress: bool | Callable[[int, int], object] | None) -> Iterator[Tally]:
    """A `Tally` for the length of a block.

    Args:
        progress: None or False for silence, True for a bar, or a callable (done, expected).

    Raises:
        ImportError: a bar is wanted and tqdm is not installed.
    """
    if progress is None or progress is False:
        yield Tally(lambda done, expected: None)
    elif callable(progress):
        yield Tally(progress)
    else:
        with bar() as show:
            yield Tally(show)


@contextlib.contextmanager
def bar(**options: Any) -> Iterator[Callable[[int, int], None]]:
    """A callable (done, expected) that draws a bar for the length of a block.

    Args:
        options: of tqdm, such as `delay`.

    Raises:
        ImportError: tqdm is not installed.
    """
    try:
        from tqdm.auto import tqdm
    except ImportError as error:
        raise ImportError(
            'Expected tqdm for progress=True, which is not installed. pip install "aumann[progress]", or give a '
            "callable (done, total)."
        ) from error
    with tqdm(unit="grad", unit_scale=True, **options) as drawn:

        def show(done, expected):
            drawn.total = expected
            drawn.update(done - drawn.n)

        yield show
