"""Progress: a bar where one is wanted, nothing otherwise."""

import contextlib


@contextlib.contextmanager
def reporter(progress, total):
    """A function (gradients just done) -> None, or None.

    Args:
        progress: None or False for silence, True for a bar (tqdm), or a callable (done, total).
        total: gradients in all.
    """
    if progress is None or progress is False:
        yield None
    elif callable(progress):
        done = 0

        def advance(count):
            nonlocal done
            done += count
            progress(done, total)

        yield advance
    else:
        try:
            from tqdm.auto import tqdm
        except ImportError as error:
            raise ImportError(
                'Expected tqdm for progress=True, which is not installed. pip install "aumann[progress]", or give a '
                "callable (done, total)."
            ) from error
        with tqdm(total=total, unit="grad", unit_scale=True) as bar:
            yield bar.update
