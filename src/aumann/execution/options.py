"""Execution options: what changes the time and the memory of an explanation, and its values by rounding alone."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from aumann import backends
from aumann.arguments import choice, whole

PRECISIONS = "full", "tf32"
HALF_PRECISION = (
    "For half precision give the model itself a dtype policy, such as "
    'keras.config.set_dtype_policy("mixed_bfloat16") before it is built.'
)


@dataclass(frozen=True)
class ExecutionOptions:
    """How the model is run, the same options for every method.

    Args:
        batch_size: nodes per model call, each of which is a row of the model's batch; "auto" begins with what suits
            the size of the model's activations, and changes to what is measured to be faster.
        compile: how the model and what is done around it are compiled. "auto" takes "graph" on TensorFlow, and XLA
            where a long job is measured to run faster with it, "xla" on JAX, "eager" on torch. True takes longest
            to compile and runs fastest in long jobs ("xla", "xla", "inductor"), False starts at once ("graph", none,
            "eager"); or one of these names. Inductor needs a C++ compiler, takes seconds for a small network and
            minutes for a large one, and keeps its result on disk.
        precision: "full", float32 arithmetic is float32 on every device, whatever the framework is set to; "tf32", an
            accelerator may round the factors of products to TensorFloat-32, of 10 bits, and the error allows for it.
            In either case the framework's own settings are put back after the call.
        devices: None for the one that the framework prefers; a name such as "gpu:0" or "cpu"; a list of names, among
            which the rows are divided, each with its copy of the weights; "all" for every device of the kind that the
            framework prefers, its accelerators if there are any. The error for an unknown name lists the devices.

    Raises:
        ValueError: an option that is none of these, or a device that is not there.
    """

    batch_size: int | str = "auto"
    compile: bool | str = "auto"
    precision: str = "full"
    devices: str | list | tuple | None = None

    def __post_init__(self) -> None:
        backends.compile_mode(self.compile)
        if self.batch_size != "auto":
            advice = "Leave it out, or lower it where memory runs short."
            whole(self.batch_size, 1, "batch_size=", 32, 'or "auto"', advice)
        choice(self.precision, PRECISIONS, "precision=", HALF_PRECISION)
        if self.devices is not None:
            object.__setattr__(self, "devices", _named(self.devices))


def _named(devices: str | list | tuple) -> tuple[str, ...]:
    """The names of devices as the backend writes them."""
    available = backends.active().devices()
    if devices == "all":
        return tuple(name for name in available if _kind(name) == _kind(available[0]))
    names = []
    for item in [devices] if isinstance(devices, str) else devices if isinstance(devices, (list, tuple)) else [None]:
        name = str(item).lower().replace("cuda", "gpu").removesuffix(":0")
        match = [d for d in available if d.removesuffix(":0") == name] if isinstance(item, str) else []
        if not match:
            raise ValueError(
                f'Expected a device, or a list of them, or "all", received {devices!r}. There are '
                f"{', '.join(map(repr, available))}."
            )
        names += match
    if not names:
        raise ValueError(f"Expected at least one device, received {devices!r}. Leave devices= out for the usual one.")
    return tuple(names)


def _kind(name: str) -> str:
    return name.split(":")[0]


def settings(method: str, options: Mapping[str, Any]) -> ExecutionOptions:
    """The execution options among the keyword arguments of a method, once it has taken its own.

    Args:
        method: its name, for the message.
        options: the keyword arguments that are left.

    Raises:
        TypeError: one of them is no execution option.
        ValueError: as for `ExecutionOptions`.
    """
    known = [f.name for f in fields(ExecutionOptions)]
    if unknown := [name for name in options if name not in known]:
        raise TypeError(
            f"{method}() got an unexpected keyword argument {unknown[0]!r}. Besides its own it takes "
            f"{', '.join(known)}."
        )
    return ExecutionOptions(**options)
