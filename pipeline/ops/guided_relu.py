"""ReLU whose backward pass follows a rule.

    grad_input = grad_output · [0 < output < upper]                      gradient
    grad_input = grad_output                        · [grad_output > 0]   deconvnet
    grad_input = grad_output · [0 < output < upper] · [grad_output > 0]   guided

Zeiler, Fergus, Visualizing and Understanding Convolutional Networks, 2014 (arXiv:1311.2901), section 2.1: deconvnet.
Springenberg, Dosovitskiy, Brox, Riedmiller, Striving for Simplicity, 2015 (arXiv:1412.6806), section 3.4: guided.

NaN passes, as in torch's own backward of ReLU; what is blocked is +0. What is kept for the backward pass is one bit per
element, [0 < input < upper], eight to a byte, the lowest first, in the order in which the output lies in memory; by the
deconvnet rule nothing. So the output may be overwritten, which torch's own ReLU does not allow.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ..errors import UsageError, nearest
from . import kernels
from .arguments import check_tensor, is_dense_float

Rule = Literal["gradient", "deconvnet", "guided"]
_RULES: tuple[str, ...] = get_args(Rule)


def reference(input: Tensor, rule: str, upper: float) -> tuple[Tensor, Tensor]:
    """Return the output and the bits of a dense tensor, in plain torch."""
    return _clamped(input, upper), _reference_bits(input, rule, upper)


def reference_backward(grad_output: Tensor, bits: Tensor, rule: str) -> Tensor:
    """Return the gradient of the input; `grad_output` is dense, in the order of `bits`."""
    blocked = torch.zeros_like(grad_output, dtype=torch.bool)
    if rule != "deconvnet":
        blocked |= ~_unpacked(bits, grad_output)
    if rule != "gradient":
        blocked |= grad_output <= 0
    return grad_output.masked_fill(blocked, 0)


@torch.library.custom_op("afterimage::guided_relu", mutates_args=())
def _forward(input: Tensor, rule: str, upper: float) -> tuple[Tensor, Tensor]:
    output = torch.empty_like(input)
    input = kernels.laid_out(input, output)
    kernel = _forward_kernel(input, rule)
    return reference(input, rule, upper) if kernel is None else (output, _write(kernel, input, output, upper))


@torch.library.custom_op("afterimage::guided_relu_", mutates_args=("input",))
def _forward_in_place(input: Tensor, rule: str, upper: float) -> Tensor:
    dense = input if input.stride() == _dense_stride(input) else input.clone()
    kernel = _forward_kernel(input, rule)
    if kernel is None:
        bits = _reference_bits(dense, rule, upper)
        _clamped(input, upper, inplace=True)
        return bits
    bits = _write(kernel, dense, dense, upper)
    if dense is not input:
        input.copy_(dense)
    return bits


def _forward_kernel(input: Tensor, rule: str) -> Callable[..., None] | None:
    return None if rule == "deconvnet" else kernels.kernel("guided_relu", input)


def _write(kernel: Callable[..., None], input: Tensor, output: Tensor, upper: float) -> Tensor:
    """Write the output, which may be the input, and return the bits; both are dense and laid out alike."""
    bits = _empty_bits(input)
    kernel(input.data_ptr(), output.data_ptr(), bits.data_ptr(), input.numel(), upper)
    return bits


@torch.library.custom_op("afterimage::guided_relu_backward", mutates_args=())
def _backward(grad_output: Tensor, bits: Tensor, stride: Sequence[int], rule: str) -> Tensor:
    _check_bits(grad_output, bits, rule)
    grad_input = grad_output.new_empty_strided(grad_output.shape, stride)
    grad_output = kernels.laid_out(grad_output, grad_input)
    kernel = kernels.kernel("guided_relu_backward", grad_output)
    if kernel is None:
        return reference_backward(grad_output, bits, rule)
    addresses = (tensor.data_ptr() for tensor in (grad_output, bits, grad_input))
    kernel(*addresses, grad_output.numel(), rule != "deconvnet", rule != "gradient")
    return grad_input


@_forward.register_fake
def _forward_fake(input: Tensor, rule: str, upper: float) -> tuple[Tensor, Tensor]:
    return torch.empty_like(input), _empty_bits(input, rule)


@_forward_in_place.register_fake
def _forward_in_place_fake(input: Tensor, rule: str, upper: float) -> Tensor:
    return _empty_bits(input, rule)


@_backward.register_fake
def _backward_fake(grad_output: Tensor, bits: Tensor, stride: Sequence[int], rule: str) -> Tensor:
    return grad_output.new_empty_strided(grad_output.shape, stride)


def _keep(ctx: Any, output: Tensor, bits: Tensor, stride: Sequence[int], rule: str) -> None:
    ctx.bits, ctx.stride, ctx.rule = bits, stride, rule
    # A checkpoint recomputes where no rule is set, and compares with what was saved here: torch's rectifiers save one
    # tensor of this shape. This one takes the memory of a number, and is not read.
    ctx.save_for_backward(output.new_empty_strided(output.shape, (0,) * output.ndim))


def _remember(ctx: Any, inputs: tuple[Tensor, str, float], output: tuple[Tensor, Tensor]) -> None:
    _keep(ctx, *output, output[0].stride(), inputs[1])


def _differentiate(ctx: Any, grad_output: Tensor, grad_bits: None = None) -> tuple[Tensor, None, None]:
    _placeholder = ctx.saved_tensors  # raises where a graph is gone through again without being retained
    return _backward(grad_output, ctx.bits, ctx.stride, ctx.rule), None, None


def _refuse(ctx: Any, grad: Tensor) -> None:
    raise UsageError("guided_relu has a first derivative only, a second was asked for; use torch's own ReLU for that")


_forward.register_autograd(_differentiate, setup_context=_remember)
_backward.register_autograd(_refuse)


class _GuidedReluInPlace(torch.autograd.Function):
    """The same, writing the output over the input, which a custom op with autograd may not do."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, rule: str, upper: float) -> Tensor:
        bits = _forward_in_place(input, rule, upper)
        ctx.mark_dirty(input)
        _keep(ctx, input, bits, _dense_stride(input), rule)
        return input

    backward = staticmethod(_differentiate)


def guided_relu(input: Tensor, rule: Rule = "guided", upper: float = math.inf, inplace: bool = False) -> Tensor:
    """Return max(input, 0), at most `upper`, bit-equal to torch's; the backward pass follows `rule`.

    Of a bfloat16 NaN the bits are kept, which torch does in places only.

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
    if not isinstance(upper, int | float) or isinstance(upper, bool):
        raise TypeError(f"upper is {upper!r}, expected a number above 0")
    if not upper > 0:
        raise UsageError(f"upper is {upper}, expected a number above 0; infinity is ReLU, 6 is ReLU6")
    check_tensor("guided_relu", "input", input)
    if not is_dense_float(input):
        raise UsageError(f"input: expected a dense floating-point tensor, got {input.layout} of {input.dtype}")
    if not (input.requires_grad and torch.is_grad_enabled()):
        return _clamped(input, upper, inplace)
    output: Tensor = _GuidedReluInPlace.apply(input, rule, upper) if inplace else _forward(input, rule, upper)[0]
    return output


def is_guided(node: torch.autograd.graph.Node) -> bool:
    """Return whether a node of the autograd graph is a call of `guided_relu`."""
    name = node.name()
    return name.startswith((f"{_GuidedReluInPlace.__name__}Backward", "GeneratedBackwardFor_afterimage_guided_relu_"))


def _clamped(input: Tensor, upper: float, inplace: bool = False) -> Tensor:
    if upper == math.inf:
        return torch.relu_(input) if inplace else torch.relu(input)
    return torch.nn.functional.hardtanh(input, 0.0, upper, inplace)


def _dense_stride(tensor: Tensor) -> tuple[int, ...]:
    return torch.empty_like(tensor, device="meta").stride()


def _bytes(tensor: Tensor, rule: str) -> int:
    return 0 if rule == "deconvnet" else (tensor.numel() + 7) // 8


def _empty_bits(input: Tensor, rule: str = "guided") -> Tensor:
    return input.new_empty(_bytes(input, rule), dtype=torch.uint8)


def _places(bits: Tensor) -> Tensor:
    return torch.arange(8, dtype=torch.uint8, device=bits.device)


def _reference_bits(input: Tensor, rule: str, upper: float) -> Tensor:
    if rule == "deconvnet":
        return _empty_bits(input, rule)
    blocked = input <= 0
    if upper < math.inf:  # ReLU has no ceiling: torch lets the gradient of +inf pass
        blocked |= input >= upper
    return _packed(~blocked)


def _packed(mask: Tensor) -> Tensor:
    flat = mask.as_strided((mask.numel(),), (1,))
    flat = torch.nn.functional.pad(flat, (0, -len(flat) % 8)).view(-1, 8)
    return (flat << _places(mask)).sum(1, dtype=torch.uint8)


def _unpacked(bits: Tensor, like: Tensor) -> Tensor:
    mask = (bits[:, None] >> _places(bits) & 1).bool().flatten()[: like.numel()]
    return mask.as_strided(like.shape, like.stride())


def _check_bits(grad_output: Tensor, bits: Tensor, rule: str) -> None:
    got = (bits.dtype, tuple(bits.shape), bits.device)
    expected = (torch.uint8, (_bytes(grad_output, rule),), grad_output.device)
    if got != expected:
        raise UsageError(
            "bits is {} {} on {}, expected {} {} on {}: ".format(*got, *expected)
            + f"rule {rule!r} on a gradient of shape {tuple(grad_output.shape)}"
        )
