"""Inductor: the operations of a function, gradients included, written down once for each shape and compiled.

Dynamo looks at Python, and of a Keras model it sees a new one at every call. Here the tensors tell what is done to them
(make_fx), whoever calls, so that function modes and autograd come out as plain operations. What inductor makes of them
it keeps on disk, where the next process finds it.
"""

from collections.abc import Callable

import torch

from aumann.backends import torch_private as private


def compile(fn: Callable) -> Callable:
    """fn of structures of tensors, compiled for each shape it is called with."""
    graphs = {}

    def run(*args):
        leaves, spec = private.flatten(args)
        key = str([(x.shape, x.stride(), x.dtype, x.device) for x in leaves]), spec
        if key not in graphs:
            graphs[key] = _graph(fn, leaves, spec)
        return graphs[key](leaves)

    return run


def _graph(fn, leaves, spec):
    """(leaves of the arguments) -> what fn returns, for arguments of these shapes."""
    inductor, make_fx = private.INDUCTOR.required, private.MAKE_FX.required
    outputs = []

    def flat(*leaves):
        leaves, structure = private.flatten(fn(*private.unflatten(leaves, spec)))
        outputs[:] = [torch.is_tensor(x) for x in leaves], structure
        return [x for x in leaves if torch.is_tensor(x)]

    try:
        with torch.no_grad():
            graph = make_fx(flat)(*leaves)
    except Exception as error:
        error.add_note('The function was being traced for compile="inductor": compile="eager" runs it as it is.')
        raise
    held = _lift(graph)
    try:
        with torch.no_grad():
            once = inductor(graph, [*leaves, *held])
    except Exception as error:
        raise RuntimeError(
            f"Expected operations, and a C++ compiler, that torch's inductor can work with; received "
            f'{type(error).__name__}: {error}. Install what it misses, or leave compile="inductor" out.'
        ) from error
    tensors, structure = outputs

    def run(leaves):
        with torch.no_grad():
            results = iter(once(*leaves, *held))
        return private.unflatten([next(results) if is_tensor else None for is_tensor in tensors], structure)

    return run


def _lift(graph):
    """What a graph closes over, as parameters of foreign modules, becomes its last arguments: it may change."""
    held = []
    last = [node for node in graph.graph.nodes if node.op == "placeholder"][-1]
    for node in [node for node in graph.graph.nodes if node.op == "get_attr"]:
        tensor = getattr(graph, node.target, None)
        if not torch.is_tensor(tensor):
            continue  # the body of a loop
        with graph.graph.inserting_after(last):
            last = graph.graph.placeholder(f"held_{len(held)}")
        node.replace_all_uses_with(last)
        graph.graph.erase_node(node)
        held.append(tensor.detach())
    graph.recompile()
    return held
