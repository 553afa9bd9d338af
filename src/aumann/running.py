"""How a model is run: what changes the time and the memory of an explanation, and its values by rounding alone."""

from dataclasses import dataclass, fields

import numpy as np

from aumann import backends


@dataclass(frozen=True)
class Running:
    """What every method is told of the machine.

    Args:
        batch_size: rows per model call, counted in path points; "auto" starts with what suits the model's activations,
            and tries what is faster while it works.
        compile: how the model and what is done around it are compiled. "auto" takes "graph" on TensorFlow, and XLA
            where a long job is measured to run faster with it, "xla" on JAX, "eager" on torch. True is what takes
            longest to compile and runs fastest in long jobs ("xla", "xla", "inductor"), False what is there at once
            ("graph", none, "eager"); or one of these names. Inductor needs a C++ compiler, takes seconds for a small
            network and minutes for a large one, and keeps on disk what it made.
    """

    batch_size: int | str = "auto"
    compile: bool | str = "auto"

    def __post_init__(self):
        backends.way(self.compile)
        size = self.batch_size
        if size != "auto" and (isinstance(size, bool) or not isinstance(size, (int, np.integer)) or size < 1):
            raise ValueError(
                f'Expected batch_size="auto" or a whole number ≥ 1, received {size!r}. '
                "Leave it out, or lower it where memory runs short."
            )


def settings(method, given):
    """`Running` from the keywords that are left of a method's own."""
    known = [f.name for f in fields(Running)]
    if unknown := [name for name in given if name not in known]:
        raise TypeError(
            f"{method}() got an unexpected keyword argument {unknown[0]!r}. Besides its own it takes "
            f"{', '.join(known)}."
        )
    return Running(**given)
