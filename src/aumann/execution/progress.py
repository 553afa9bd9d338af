"""Progress: a bar where one is wanted, nothing otherwise."""

import contextlib


class Tally:
    """Gradients done and still to be done, passed on to whoever wants to hear.

    Args:
        hear: (done, expected) -> None.
    """

    def __init__(self, hear):
        self.hear, self.done, self.expected, self.announced = hear, 0, 0, 0

    def announce(self, count):
        """So many will be expected one by one."""
        self.expected += count
        self.announced += count

    def expect(self, count):
        """So many more will be needed."""
        known = min(count, self.announced)
        self.announced -= known
        self.expected += count - known

    def __call__(self, count):
        """So many more are done."""
        self.done += count
        self.hear(self.done, self.expected)


@contextlib.contextmanager
def reporter(progress):
    """A `Tally` for the length of a block.

    Args:
        progress: None or False for silence, True for a bar (tqdm), or a callable (done, expected).
    """
    if progress is None or progress is False:
        yield Tally(lambda done, expected: None)
    elif callable(progress):
        yield Tally(progress)
    else:
        with bar() as show:
            yield Tally(show)


@contextlib.contextmanager
def bar(**options):
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
