"""ReLU rules without touching the model: a context in which each rectifier's backward follows the rule.

The rules act on the function call, not on the module, so that functional, in-place and re-used ReLUs are all caught:

    gradient   R_l = [0 < f_l < upper] · R_{l+1}
    deconvnet  R_l = [R_{l+1} > 0] · R_{l+1}
    guided     R_l = [0 < f_l < upper] · [R_{l+1} > 0] · R_{l+1}

ReLU has no upper bound; ReLU6, hardtanh(0, b) and clamp(0, b) have one. Gates (sigmoid, hard sigmoid, tanh, softmax)
multiply activations rather than rectify them and keep their derivative, as do clamps with one bound other than 0 or
with bounds in tensors. Other activations have no published rule.

What a call does not show (functions of TorchScript, of other threads, of the model's own) shows in the graph that it
records: `Reach.unreached` looks there too. Rectifiers written as arithmetic, `where(x > 0, x, 0)` and `x * (x > 0)`,
show in neither and keep their derivative.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..errors import UsageError
from ..ops import guided_relu
from ..ops.guided_relu import Rule
from .graph import activations_in


class Rectifier(NamedTuple):
    """A call that clips its input to [0, upper]."""

    input: Tensor
    upper: float = math.inf
    inplace: bool = False


def _relu(input: Tensor, inplace: bool = False) -> Rectifier:
    return Rectifier(input, math.inf, inplace)


def _relu6(input: Tensor, inplace: bool = False) -> Rectifier:
    return Rectifier(input, 6.0, inplace)


def _hardtanh(input: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Rectifier | None:
    return Rectifier(input, max_val, inplace) if min_val == 0 < max_val else None


def _clamp(input: Tensor, min: Any = None, max: Any = None, inplace: bool = False) -> Rectifier | None:
    if isinstance(min, Tensor) or isinstance(max, Tensor) or min is None or min != 0 or (max is not None and max <= 0):
        return None
    return Rectifier(input, math.inf if max is None else float(max), inplace)


def _clamp_min(input: Tensor, min: Any, inplace: bool = False) -> Rectifier | None:
    return _clamp(input, min, None, inplace)


def _threshold(input: Tensor, threshold: float, value: float, inplace: bool = False) -> Rectifier | None:
    if threshold != 0 or value != 0:
        return None
    # ReLU keeps the sign of -0, a threshold gives +0
    return Rectifier(input.add_(0.0) if inplace else input + 0.0, math.inf, inplace)


_PARSERS: dict[str, Callable[..., Rectifier | None]] = {
    "relu": _relu,
    "relu6": _relu6,
    "hardtanh": _hardtanh,
    "clamp": _clamp,
    "clip": _clamp,
    "clamp_min": _clamp_min,
    "threshold": _threshold,
}
_WITHOUT_RULE = {
    **{name: name for name in ("celu", "elu", "selu", "gelu", "glu", "silu", "mish", "softplus", "softsign")},
    **{name: name for name in ("hardshrink", "softshrink", "tanhshrink", "hardswish", "leaky_relu", "prelu", "rrelu")},
    **{"logsigmoid": "logsigmoid", "log_sigmoid": "logsigmoid", "_prelu_kernel": "prelu", "rrelu_with_noise": "rrelu"},
}
"""Activations of no published rule, by the functions' names."""


def _spellings(name: str) -> Iterable[Any]:
    """Every function that torch offers under a name: functional, method, the exported graph's overload."""
    owners = (F, torch, Tensor, torch._C._nn)
    yield from (getattr(owner, name) for owner in owners if hasattr(owner, name))
    packet = getattr(torch.ops.aten, name, None)
    if packet is not None:
        yield packet
        yield from (getattr(packet, overload) for overload in packet.overloads() if "out" not in overload)


_RECTIFIERS: dict[Any, Callable[..., Rectifier | None]] = {
    function: partial(parse, inplace=True) if form else parse
    for name, parse in _PARSERS.items()
    for form in ("", "_")
    for function in _spellings(name + form)
}
_UNREACHED = {
    function: kind for name, kind in _WITHOUT_RULE.items() for form in ("", "_") for function in _spellings(name + form)
}


class Reach(TorchFunctionMode):
    """Applies a rule to the rectifiers that one thread calls on the gradient's way; counts what it reached."""

    def __init__(self, rule: Rule) -> None:
        super().__init__()
        self.rule: Rule = rule
        self.reached = 0
        self._without_rule: Counter[str] = Counter()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Replace rectifiers by the rule's own; pass every other call on."""
        kwargs = kwargs or {}
        if func in _UNREACHED and _differentiated(args, kwargs):
            self._without_rule[_UNREACHED[func]] += 1
        elif func in _RECTIFIERS and _differentiated(args, kwargs):
            given = {"input" if name == "self" else name: value for name, value in kwargs.items() if name != "out"}
            call = _RECTIFIERS[func](*args, **given)
            if call is not None:
                self.reached += 1
                return guided_relu(call.input, self.rule, call.upper, call.inplace)
        return func(*args, **kwargs)

    def unreached(self, scores: Tensor) -> Counter[str]:
        """Return how often the forward pass to `scores` called each activation that the rule did not reach."""
        return self._without_rule | activations_in(scores)

    def check(self, scores: Tensor) -> None:
        """Raise `UsageError` if the forward pass to `scores` called activations that the rule did not reach."""
        unreached = self.unreached(scores)
        if self.rule != "gradient" and unreached:
            calls = ", ".join(f"{name} ({count} calls)" for name, count in unreached.items())
            raise UsageError(
                f"rule {self.rule!r} is defined for ReLU, ReLU6 and hardtanh(0, b), and the model also calls {calls}; "
                "partial lets those keep their plain derivative, rule 'gradient' needs no ReLU"
            )


def _differentiated(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Return whether a call is on a gradient's way; torch itself refuses one with out=."""
    input = args[0] if args else kwargs.get("input", kwargs.get("self"))
    if kwargs.get("out") is not None or not torch.is_grad_enabled():
        return False
    return isinstance(input, Tensor) and input.requires_grad


@contextmanager
def rectified(model: nn.Module, rule: Rule) -> Iterator[Reach]:
    """Let a model's forward pass record `rule` as the backward of its rectifiers, in this thread, in this block.

    The forward values are those of the plain pass, bit for bit. `Reach.check` says whether the rule reached all.
    """
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule) or type(module).__name__ == "OptimizedModule":
            what = "TorchScript" if isinstance(module, torch.jit.ScriptModule) else "torch.compile"
            raise UsageError(f"rule {rule!r} cannot see into {what} modules ({name or 'the model'}): pass the original")
    with Reach(rule) as reach:
        yield reach
