"""What a forward pass recorded for its gradient: the activations in the graph of its result."""

from collections import Counter
from collections.abc import Iterator

from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import Node

from ..ops.guided_relu import is_guided

_KINDS = {
    "Relu": "relu out of sight",
    "Maximum": "maximum",
    "Fmax": "maximum",
    "Hardtanh": "hardtanh",
    "Threshold": "threshold",
    "LeakyRelu": "leaky_relu",
    "PreluKernel": "prelu",
    "RreluWithNoise": "rrelu",
    "LogSigmoid": "logsigmoid",
    "Elu": "elu",
    "Celu": "celu",
    "Gelu": "gelu",
    "Glu": "glu",
    "Mish": "mish",
    "Silu": "silu",
    "Softplus": "softplus",
    "Softshrink": "softshrink",
    "Hardshrink": "hardshrink",
    "Hardswish": "hardswish",
}


def activations_in(scores: Tensor) -> Counter[str]:
    """Count by kind the activations that `scores` were computed with, other than the ReLUs of a rule.

    A function with a backward of its own counts as one: nobody can say what it does. What an in-place call on a part
    of a tensor recorded cannot be seen.
    """
    return Counter(kind for node in _nodes(scores) if (kind := _kind(node)) and not is_guided(node))


def _nodes(scores: Tensor) -> Iterator[Node]:
    waiting = [scores.grad_fn]
    seen = set()
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            yield node
            waiting += [following for following, _ in node.next_functions]


def _kind(node: Node) -> str | None:
    name = node.name()
    if name.startswith("torch::jit::"):
        return "TorchScript function"
    stem = name.rpartition("Backward")[0]
    if isinstance(node, BackwardCFunction) or "CppNode" in name:
        return f"autograd function {stem or name}"
    if stem in ("Clamp", "ClampMin"):
        return _clamp(node)
    if stem == "Elu" and getattr(node, "_saved_scale", 1) != 1:
        return "selu"
    return _KINDS.get(stem)


def _clamp(node: Node) -> str | None:
    lower, upper = (getattr(node, name, None) for name in ("_saved_min", "_saved_max"))
    if isinstance(lower, Tensor) or isinstance(upper, Tensor) or lower is None or (upper is not None and upper <= 0):
        return None
    if lower == 0:
        return "relu out of sight"
    return "hardtanh" if lower < 0 and upper is not None else None
