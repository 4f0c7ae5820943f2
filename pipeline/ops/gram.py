"""Gram matrices of feature maps, F of size C × P for each image, over P = H·W positions.

    G = F Fᵀ / d,  or with `center`  (F − m 1ᵀ)(F − m 1ᵀ)ᵀ / d,  m = F 1 / P        d = 1, P or C·P
    ∂L/∂F = (∂L/∂G + ∂L/∂Gᵀ) F / d,  centered likewise

Gatys, Ecker, Bethge, Texture Synthesis Using Convolutional Neural Networks, 2015 (arXiv:1505.07376), equation 2.

The kernels compute one triangle and mirror it. With matrix tiles (AMX), a float32 factor is the sum of two bfloat16
numbers, high + low, of which the product low·low is left out off the diagonal: the error stays below 1e-5 of the
largest element, 2e-5 for fewer than some ten positions. Infinite features give NaN there, and low parts under 1e-38 are
lost, which shows for features below 1e-15.
"""

from typing import Any, Literal, get_args

import torch
from torch import Tensor

from ..errors import UsageError, nearest
from . import kernels
from .arguments import check_tensor, is_dense_float

Normalize = Literal["none", "positions", "elements"]
_NORMALIZATIONS: tuple[str, ...] = get_args(Normalize)


def reference(features: Tensor, center: bool, normalize: str) -> Tensor:
    """Return the Gram matrices (N, C, C), in plain torch; float32 at least."""
    maps = _maps(features, center)
    with torch.autocast(features.device.type, enabled=False):
        return maps @ maps.mT / divisor(features, normalize)


def reference_backward(grad_output: Tensor, features: Tensor, center: bool, normalize: str) -> Tensor:
    """Return the gradient of the features (N, C, H, W), given that of the Gram matrices (N, C, C)."""
    symmetric = (grad_output + grad_output.mT) / divisor(features, normalize)
    with torch.autocast(features.device.type, enabled=False):
        return (symmetric @ _maps(features, center)).reshape(features.shape).to(features.dtype)


def _maps(features: Tensor, center: bool) -> Tensor:
    maps = features.to(result_type(features)).flatten(2)
    return maps - maps.mean(2, keepdim=True) if center else maps


@torch.library.custom_op("afterimage::gram", mutates_args=())
def _forward(features: Tensor, center: bool, normalize: str) -> Tensor:
    kernel = kernels.kernel("gram", features)
    if kernel is None:
        return reference(features, center, normalize)
    features = _dense(features)
    output: Tensor = _forward_fake(features, center, normalize)
    kernel(features.data_ptr(), output.data_ptr(), *_sizes(features), center, 1 / divisor(features, normalize))
    return output


@torch.library.custom_op("afterimage::gram_backward", mutates_args=())
def _backward(grad_output: Tensor, features: Tensor, center: bool, normalize: str) -> Tensor:
    kernel = kernels.kernel("gram_backward", features) if _has_tiles(features) else None
    features = _dense(features)
    grad_features = torch.empty_like(features)
    if kernel is None:
        return grad_features.copy_(reference_backward(grad_output, features, center, normalize))
    means = features.mean((2, 3), dtype=result_type(features)) if center else None
    addresses = (grad_output.contiguous(), features, means, grad_features)
    sizes = (*_sizes(features), 1 / divisor(features, normalize))
    kernel(*(0 if tensor is None else tensor.data_ptr() for tensor in addresses), *sizes)
    return grad_features


@_forward.register_fake
def _forward_fake(features: Tensor, center: bool, normalize: str) -> Tensor:
    images, channels = features.shape[:2]
    return features.new_empty(images, channels, channels, dtype=result_type(features))


@_backward.register_fake
def _backward_fake(grad_output: Tensor, features: Tensor, center: bool, normalize: str) -> Tensor:
    return torch.empty_like(_dense(features))


def _remember(ctx: Any, inputs: tuple[Tensor, bool, str], output: Tensor) -> None:
    features, ctx.center, ctx.normalize = inputs
    ctx.save_for_backward(features)


def _differentiate(ctx: Any, grad_output: Tensor) -> tuple[Tensor, None, None]:
    (features,) = ctx.saved_tensors
    return _backward(grad_output, features, ctx.center, ctx.normalize), None, None


def _refuse(ctx: Any, grad: Tensor) -> None:
    raise UsageError("gram has a first derivative only, a second was asked for; use torch's own product for that")


_forward.register_autograd(_differentiate, setup_context=_remember)
_backward.register_autograd(_refuse)


def gram(features: Tensor, center: bool = False, normalize: Normalize = "none") -> Tensor:
    """Return the products of all pairs of channels, summed over positions: exactly symmetric.

    Args:
        features: (N, C, H, W), floating-point; contiguous and channels-last ones are not copied.
        center: subtract each channel's mean over positions first (P times the covariance).
        normalize: divide by 1, by the positions H·W, or by the elements C·H·W.

    Returns:
        (N, C, C), float32 for float32 and half types, float64 for float64.

    Raises:
        UsageError: on any other tensor or normalization, and when a second derivative is asked for.
    """
    check(features, normalize)
    output: Tensor = _forward(features, center, normalize)
    return output


def check(features: Tensor, normalize: str) -> None:
    """Raise UsageError unless these are arguments of `gram`."""
    check_tensor("gram", "features", features)
    if features.ndim != 4 or not is_dense_float(features):
        got = f"{features.layout} of {features.dtype} with shape {tuple(features.shape)}"
        raise UsageError(f"features: expected a dense floating-point tensor (N, C, H, W), got {got}")
    if normalize not in _NORMALIZATIONS:
        expected = f"expected one of {', '.join(_NORMALIZATIONS)}{nearest(str(normalize), _NORMALIZATIONS)}"
        raise UsageError(f"normalize is {normalize!r}, {expected}")


def divisor(features: Tensor, normalize: str) -> int:
    """Return what `normalize` divides by; 1 where there is nothing to divide."""
    _, channels, height, width = features.shape
    return max(1, {"none": 1, "positions": height * width, "elements": channels * height * width}[normalize])


def result_type(features: Tensor) -> torch.dtype:
    """Return the type of sums over positions."""
    return torch.promote_types(features.dtype, torch.float32)


def _has_tiles(features: Tensor) -> bool:
    """Return whether the CPU has matrix tiles: without them, and on a GPU, torch's product is the backward pass."""
    module = kernels.module("cpu") if features.device.type == "cpu" else None
    return module is not None and module.isa() == "amx"


def _channels_last(features: Tensor) -> bool:
    return not features.is_contiguous() and features.is_contiguous(memory_format=torch.channels_last)


def _dense(features: Tensor) -> Tensor:
    return features if _channels_last(features) else features.contiguous()


def _sizes(features: Tensor) -> tuple[int, int, int, bool]:
    images, channels, height, width = features.shape
    return images, channels, height * width, _channels_last(features)
