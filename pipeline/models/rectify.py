"""ReLU rules without touching the model: a context in which each rectifier's backward follows the rule.

The rules act on the function call, not on the module, so that functional, in-place and re-used ReLUs are all caught:

    gradient   R_l = [0 < f_l < upper] · R_{l+1}
    deconvnet  R_l = [R_{l+1} > 0] · R_{l+1}
    guided     R_l = [0 < f_l < upper] · [R_{l+1} > 0] · R_{l+1}

ReLU has no upper bound; ReLU6, hardtanh(0, b) and clamp(0, b) have one. Gates (sigmoid, hard sigmoid, tanh, softmax)
multiply activations rather than rectify them and keep their derivative. Other activations have no published rule.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..errors import UsageError
from ..ops import guided_relu
from ..ops.guided_relu import Rule


class Rectifier(NamedTuple):
    """A call that clips its input to [0, upper]."""

    input: Tensor
    upper: float = math.inf
    inplace: bool = False


def _relu(input: Tensor, inplace: bool = False) -> Rectifier:
    return Rectifier(input, math.inf, inplace)


def _relu6(input: Tensor, inplace: bool = False) -> Rectifier:
    return Rectifier(input, 6.0, inplace)


def _hardtanh(
    input: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False
) -> Rectifier | None:
    return Rectifier(input, max_val, inplace) if min_val == 0 else None


def _clamp(input: Tensor, min: Any = None, max: Any = None) -> Rectifier | None:
    if isinstance(min, Tensor) or isinstance(max, Tensor) or min is None or min != 0:
        return None
    return Rectifier(input, math.inf if max is None else float(max))


def _clamp_min(input: Tensor, min: Any) -> Rectifier | None:
    return _clamp(input, min)


def _threshold(input: Tensor, threshold: float, value: float, inplace: bool = False) -> Rectifier | None:
    return Rectifier(input, math.inf, inplace) if threshold == 0 and value == 0 else None


_PARSERS: dict[str, Callable[..., Rectifier | None]] = {
    "relu": _relu,
    "relu6": _relu6,
    "hardtanh": _hardtanh,
    "clamp": _clamp,
    "clip": _clamp,
    "clamp_min": _clamp_min,
    "threshold": _threshold,
}
_WITHOUT_RULE = (
    "celu elu gelu glu hardshrink hardswish leaky_relu logsigmoid mish prelu rrelu selu silu softplus softshrink "
    "softsign tanhshrink"
).split()


def _spellings(name: str) -> Iterable[Any]:
    """Every function that torch offers under a name: functional, method, the exported graph's overload."""
    owners = (F, torch, Tensor, torch._C._nn)
    yield from (getattr(owner, name) for owner in owners if hasattr(owner, name))
    packet = getattr(torch.ops.aten, name, None)
    if packet is not None:
        yield from (getattr(packet, overload) for overload in packet.overloads() if "out" not in overload)


_RECTIFIERS = {function: (parse, False) for name, parse in _PARSERS.items() for function in _spellings(name)}
_RECTIFIERS |= {function: (parse, True) for name, parse in _PARSERS.items() for function in _spellings(name + "_")}
_UNREACHED = {function: name for name in _WITHOUT_RULE for form in ("", "_") for function in _spellings(name + form)}


class Reach(TorchFunctionMode):
    """Applies a rule to the calls of one thread; counts what it reached and the activations without a rule."""

    def __init__(self, rule: Rule) -> None:
        super().__init__()
        self.rule: Rule = rule
        self.reached = 0
        self.unreached: Counter[str] = Counter()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Replace rectifiers by the rule's own; pass every other call on."""
        kwargs = kwargs or {}
        if func in _RECTIFIERS:
            parse, inplace = _RECTIFIERS[func]
            call = parse(*args, **kwargs)
            if call is not None:
                self.reached += 1
                return guided_relu(call.input, self.rule, call.upper, inplace or call.inplace)
            self.unreached["hardtanh"] += parse is _hardtanh
        elif func in _UNREACHED:
            self.unreached[_UNREACHED[func]] += 1
        return func(*args, **kwargs)


@contextmanager
def rectified(model: nn.Module, rule: Rule, partial: bool = False) -> Iterator[Reach]:
    """Let a model's forward pass record `rule` as the backward of its rectifiers, in this thread, in this block.

    The forward values are those of the plain pass, bit for bit. Raises `UsageError` on leaving if the model called
    an activation without a rule, unless `partial`: those then keep their own derivative.
    """
    for name, module in model.named_modules():
        if isinstance(module, torch.jit.ScriptModule) or type(module).__name__ == "OptimizedModule":
            what = "TorchScript" if isinstance(module, torch.jit.ScriptModule) else "torch.compile"
            raise UsageError(f"rule {rule!r} cannot see into {what} modules ({name or 'the model'}): pass the original")
    reach = Reach(rule)
    with reach:
        yield reach
    if rule != "gradient" and reach.unreached and not partial:
        calls = ", ".join(f"{name} ({count} calls)" for name, count in reach.unreached.items())
        raise UsageError(
            f"rule {rule!r} is defined for ReLU, ReLU6 and hardtanh(0, b), and the model also calls {calls}; "
            "partial lets those keep their plain derivative, rule 'gradient' needs no ReLU"
        )
