"""Names of PyTorch that it does not promise to keep, and what happens without each; checked on torch 2.13."""

import contextlib
from collections.abc import Sequence
from typing import Any

import torch

from aumann.backends.private import DERIVATIVES_INSTEAD, PrivateName

CHECKED = "2.13"
WARY = "Kinks are not looked for, and the error estimate is the wary one"


def _name(path: str, without: str, since: str = "") -> PrivateName:
    return PrivateName(path, CHECKED, without, since)


TREE_FLATTEN = _name("torch.utils._pytree.tree_flatten", DERIVATIVES_INSTEAD)
TREE_UNFLATTEN = _name("torch.utils._pytree.tree_unflatten", DERIVATIVES_INSTEAD)
NO_FUNCTION_MODES = _name("torch._C.DisableTorchFunction", DERIVATIVES_INSTEAD)
FUNCTORCH_LEVEL = _name("torch._C._functorch.maybe_current_level", DERIVATIVES_INSTEAD)
RUN_BACKWARD = _name("torch.autograd.Variable._execution_engine.run_backward", DERIVATIVES_INSTEAD)
DISPATCH_MODE = _name("torch.utils._python_dispatch.TorchDispatchMode", WARY)
NO_DISPATCH_MODES = _name("torch._C._DisableTorchDispatch", WARY)
IN_DISPATCH_MODE = _name(
    "torch.utils._python_dispatch.is_in_torch_dispatch_mode", "What inductor compiles is as right, and longer"
)
SAVED_TENSORS_HOOKS = _name(
    "torch._C._autograd._top_saved_tensors_default_hooks", "Checkpoints inside a model save no memory of secants"
)
FUNCTIONS_OF_NN = _name("torch._C._nn", "An operation in place that has its twin there alone runs as it is")
STORAGE_ID = _name("torch.UntypedStorage._cdata", "Memory is told apart by its address, and empty tensors are one")
MAKE_FX = _name("torch.fx.experimental.proxy_tensor.make_fx", 'Choose compile="eager"')
INDUCTOR = _name("torch._inductor.compile", 'Choose compile="eager"')  # takes seconds to import
OLDER_SWITCHES = "Precision is set by the switches of torch < 2.9"
GET_PRECISION = _name("torch._C._get_fp32_precision_getter", OLDER_SWITCHES, since="2.9")
SET_PRECISION = _name("torch._C._set_fp32_precision_setter", OLDER_SWITCHES, since="2.9")


def require_what_secants_need() -> None:
    """RuntimeError where a name is gone without which there are no secants: before a model runs, not inside it."""
    for name in (TREE_FLATTEN, TREE_UNFLATTEN, NO_FUNCTION_MODES, FUNCTORCH_LEVEL, RUN_BACKWARD):
        _ = name.required


def flatten(structure: Any) -> tuple[list, Any]:
    """(leaves, specification) of a structure, as PyTorch's own functions see structures."""
    return TREE_FLATTEN.required(structure)


def unflatten(leaves: Sequence, specification: Any) -> Any:
    return TREE_UNFLATTEN.required(leaves, specification)


def no_function_modes() -> contextlib.AbstractContextManager:
    """A block in which no function mode sees the operations."""
    return NO_FUNCTION_MODES.required()


def no_modes() -> contextlib.AbstractContextManager:
    """A block in which neither function modes nor dispatch modes see the operations."""
    guards = NO_FUNCTION_MODES.required, NO_DISPATCH_MODES.required
    stack = contextlib.ExitStack()
    for guard in guards:
        stack.enter_context(guard())
    return stack


def in_dispatch_mode() -> bool:
    """Whether somebody watches the operations of ATen, as whoever compiles them does."""
    return bool(IN_DISPATCH_MODE.value and IN_DISPATCH_MODE.value())


def in_functorch() -> bool:
    """Whether torch.vmap or torch.func is at work, whose tensors have other axes than they show."""
    return FUNCTORCH_LEVEL.required() is not None


def saved_tensors_hooked() -> bool:
    """Whether tensors saved for the way back are handed to hooks, as by a checkpoint; True if that cannot be told."""
    return SAVED_TENSORS_HOOKS.value is None or SAVED_TENSORS_HOOKS.value(True) is not None


def storage_id(storage: Any) -> int:
    """A number that tells the memory of a tensor from that of others, as long as both are there."""
    return storage.data_ptr() if STORAGE_ID.value is None else storage._cdata


def run_backward(values: Any, points: Sequence, retain_graph: bool, allow_unused: bool) -> Sequence:
    """`torch.autograd.grad` of Σ values. Function modes do not see it, and see what is computed on the way back."""
    ones = torch.ones_like(values)
    return RUN_BACKWARD.required(
        (values,), (ones,), retain_graph, False, tuple(points), allow_unused, accumulate_grad=False
    )
