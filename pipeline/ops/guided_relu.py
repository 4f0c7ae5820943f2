"""ReLU whose backward pass follows a rule.

    grad_input = grad_output · [0 < output < upper]                      gradient
    grad_input = grad_output                        · [grad_output > 0]   deconvnet
    grad_input = grad_output · [0 < output < upper] · [grad_output > 0]   guided

Zeiler, Fergus, Visualizing and Understanding Convolutional Networks, 2014 (arXiv:1311.2901), section 2.1: deconvnet.
Springenberg, Dosovitskiy, Brox, Riedmiller, Striving for Simplicity, 2015 (arXiv:1412.6806), section 3.4: guided.

NaN passes, as in torch's own backward of ReLU; what is blocked is +0. What is kept for the backward pass is what
torch keeps: the output of ReLU and of calls in place, the input of a bounded rectifier, which gives the same mask.
"""

import math
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ..errors import UsageError, nearest
from . import kernels

Rule = Literal["gradient", "deconvnet", "guided"]
_RULES: tuple[str, ...] = get_args(Rule)


def reference(grad_output: Tensor, output: Tensor, rule: str, upper: float) -> Tensor:
    """Return the gradient of the input, in plain torch; all tensors have the shape and type of `output`."""
    blocked = torch.zeros_like(output, dtype=torch.bool)
    if rule != "deconvnet":
        blocked |= output <= 0
    if rule != "deconvnet" and upper < math.inf:  # ReLU has no ceiling: torch lets the gradient of +inf pass
        blocked |= output >= upper
    if rule != "gradient":
        blocked |= grad_output <= 0
    return grad_output.masked_fill(blocked, 0)


@torch.library.custom_op("afterimage::guided_relu", mutates_args=())
def _forward(input: Tensor, rule: str, upper: float) -> Tensor:
    return _clamped(input, upper)


@torch.library.custom_op("afterimage::guided_relu_backward", mutates_args=())
def _backward(grad_output: Tensor, output: Tensor, rule: str, upper: float) -> Tensor:
    _check_pair(grad_output, output)
    grad_input = torch.empty_like(output)
    grad_output, output = kernels.laid_out(grad_output, grad_input), kernels.laid_out(output, grad_input)
    kernel = kernels.kernel("guided_relu_backward", output)
    if kernel is None:
        return reference(grad_output, output, rule, upper)
    addresses = (tensor.data_ptr() for tensor in (grad_output, output, grad_input))
    kernel(*addresses, output.numel(), rule != "deconvnet", rule != "gradient", upper)
    return grad_input


@_forward.register_fake
def _forward_fake(input: Tensor, rule: str, upper: float) -> Tensor:
    return _clamped(input, upper)


@_backward.register_fake
def _backward_fake(grad_output: Tensor, output: Tensor, rule: str, upper: float) -> Tensor:
    return torch.empty_like(output)


def _remember(ctx: Any, inputs: tuple[Tensor, str, float], output: Tensor) -> None:
    input, ctx.rule, ctx.upper = inputs
    ctx.save_for_backward(output if ctx.upper == math.inf else input)


def _differentiate(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None, None]:
    (saved,) = ctx.saved_tensors
    return _backward(grad_output, saved, ctx.rule, ctx.upper), None, None


def _refuse(ctx: Any, grad: Tensor) -> None:
    raise UsageError("guided_relu has a first derivative only, a second was asked for; use torch's own ReLU for that")


_forward.register_autograd(_differentiate, setup_context=_remember)
_backward.register_autograd(_refuse)


class _GuidedReluInPlace(torch.autograd.Function):
    """The same, writing the output over the input, which a custom op with autograd may not do."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, rule: str, upper: float) -> Tensor:
        ctx.rule, ctx.upper = rule, upper
        output = _clamped(input, upper, inplace=True)
        ctx.mark_dirty(output)
        ctx.save_for_backward(output)
        return output

    backward = staticmethod(_differentiate)


def guided_relu(input: Tensor, rule: Rule = "guided", upper: float = math.inf, inplace: bool = False) -> Tensor:
    """Return max(input, 0), at most `upper`, bit-equal to torch's; the backward pass follows `rule`.

    Args:
        input: floating-point tensor of any shape, layout in memory and device.
        rule: what the backward pass lets through; see the module's equations.
        upper: infinity is ReLU, 6 is ReLU6; above 0.
        inplace: overwrite and return `input`.

    Raises:
        UsageError: on any other rule, bound or tensor, and when a second derivative is asked for.
    """
    if rule not in _RULES:
        raise UsageError(f"rule is {rule!r}, expected one of {', '.join(_RULES)}{nearest(rule, _RULES)}")
    if not upper > 0:
        raise UsageError(f"upper is {upper}, expected a number above 0; infinity is ReLU, 6 is ReLU6")
    if not input.is_floating_point() or input.layout is not torch.strided:
        raise UsageError(f"guided_relu takes a dense floating-point tensor, got {input.layout} of {input.dtype}")
    output: Tensor = _GuidedReluInPlace.apply(input, rule, upper) if inplace else _forward(input, rule, upper)
    return output


def is_guided(node: torch.autograd.graph.Node) -> bool:
    """Return whether a node of the autograd graph is a call of `guided_relu`."""
    name = node.name()
    return name.startswith((f"{_GuidedReluInPlace.__name__}Backward", "GeneratedBackwardFor_afterimage_guided_relu_"))


def _clamped(input: Tensor, upper: float, inplace: bool = False) -> Tensor:
    if upper == math.inf:
        return torch.relu_(input) if inplace else torch.relu(input)
    return torch.nn.functional.hardtanh(input, 0.0, upper, inplace)


def _check_pair(grad_output: Tensor, output: Tensor) -> None:
    for what in ("shape", "dtype", "device"):
        got, expected = getattr(grad_output, what), getattr(output, what)
        if got != expected:
            raise UsageError(f"grad_output has {what} {got}, expected output's, {expected}")
