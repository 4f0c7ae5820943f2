"""Total variation: how much neighboring pixels differ.

    dx[i, j] = x[i, j + 1] - x[i, j],   dy[i, j] = x[i + 1, j] - x[i, j],   0 where there is no such neighbor
    value    = Σ (dx² + dy² + eps)^(β/2)                        isotropic
    value    = Σ (dx² + eps)^(β/2) + (dy² + eps)^(β/2)          anisotropic; β = 1, eps = 0: Σ |dx| + |dy|

Rudin, Osher, Fatemi, Nonlinear total variation based noise removal algorithms, Physica D 60, 1992: β = 1.
Mahendran, Vedaldi, Understanding deep image representations by inverting them, 2015 (arXiv:1412.0035), section 2.2:
any β, on images.

The gradient of a term t^(β/2), t = dx² + dy² + eps, with respect to dx is β t^(β/2 - 1) dx. At t = 0 it is 0 by
definition, also for β = 1 where there is no derivative: 0 is the subgradient of the smallest norm. t is computed in
float32 (for float64 images in float64): differences below 1e-23 count as 0, those above 1e19 overflow.
"""

import math
from typing import Any

import torch
from torch import Tensor

from ..errors import UsageError
from . import kernels
from .arguments import check_tensor, is_dense_float


def reference(images: Tensor, beta: float, eps: float, anisotropic: bool) -> tuple[Tensor, Tensor]:
    """Return values (N,) and gradient (N, C, H, W) of images (N, C, H, W), in plain torch."""
    pixels = images.to(_arithmetic(images))
    across, down = torch.zeros_like(pixels), torch.zeros_like(pixels)
    across[..., :-1] = pixels[..., 1:] - pixels[..., :-1]
    down[..., :-1, :] = pixels[..., 1:, :] - pixels[..., :-1, :]
    squares = (across.square(), down.square()) if anisotropic else (across.square() + down.square(),)
    terms = [square + eps for square in squares]
    slopes = [(beta * term.pow(beta / 2 - 1)).masked_fill(term == 0, 0) for term in terms]
    across, down = slopes[0] * across, slopes[-1] * down
    gradient = -(across + down)
    gradient[..., 1:] += across[..., :-1]
    gradient[..., 1:, :] += down[..., :-1, :]
    values = torch.stack([term.pow(beta / 2).sum((1, 2, 3)) for term in terms]).sum(0)
    return values, gradient.to(images.dtype)


@torch.library.custom_op("afterimage::total_variation", mutates_args=())
def _values(images: Tensor, beta: float, eps: float, anisotropic: bool) -> Tensor:
    kernel = kernels.kernel("total_variation", images)
    if kernel is None:
        return reference(images, beta, eps, anisotropic)[0]
    values, layout = _empty_values(images), _layout(images)
    dense = images.contiguous(memory_format=layout)
    last = layout is torch.channels_last
    kernel(dense.data_ptr(), values.data_ptr(), *images.shape, last, beta, eps, anisotropic)
    return values


@torch.library.custom_op("afterimage::total_variation_with_gradient", mutates_args=())
def _values_and_gradient(images: Tensor, beta: float, eps: float, anisotropic: bool) -> tuple[Tensor, Tensor]:
    values, layout = _empty_values(images), _layout(images)
    gradient = torch.empty_like(images, memory_format=layout)
    dense = images.contiguous(memory_format=layout)
    kernel = kernels.kernel("total_variation_with_gradient", images)
    if kernel is None:
        values, computed = reference(images, beta, eps, anisotropic)
        return values, gradient.copy_(computed)
    addresses = (tensor.data_ptr() for tensor in (dense, values, gradient))
    kernel(*addresses, *images.shape, layout is torch.channels_last, beta, eps, anisotropic)
    return values, gradient


@_values.register_fake
def _values_fake(images: Tensor, beta: float, eps: float, anisotropic: bool) -> Tensor:
    return _empty_values(images)


@_values_and_gradient.register_fake
def _values_and_gradient_fake(images: Tensor, beta: float, eps: float, anisotropic: bool) -> tuple[Tensor, Tensor]:
    return _empty_values(images), torch.empty_like(images, memory_format=_layout(images))


def _remember(ctx: Any, inputs: tuple[Tensor, float, float, bool], output: tuple[Tensor, Tensor]) -> None:
    images, *ctx.options = inputs
    ctx.gradient = output[1].detach()
    ctx.save_for_backward(images)
    ctx.set_materialize_grads(False)


def _differentiate(
    ctx: Any, grad_values: Tensor | None, grad_gradient: Tensor | None
) -> tuple[Tensor | None, None, None, None]:
    if grad_gradient is not None:
        raise UsageError(
            "total_variation has a first derivative only, a second was asked for; its formula in torch has"
        )
    if grad_values is None:
        return None, None, None, None
    # The first pass takes the gradient away, to change it or to hand it on; a retained graph's next computes it anew.
    gradient, ctx.gradient = ctx.gradient, None
    if gradient is None or torch.is_grad_enabled():
        _, gradient = _values_and_gradient(*ctx.saved_tensors, *ctx.options)
    return _scaled(gradient, grad_values), None, None, None


_values_and_gradient.register_autograd(_differentiate, setup_context=_remember)


def total_variation(images: Tensor, beta: float = 2.0, eps: float = 0.0, anisotropic: bool = False) -> Tensor:
    """Return the total variation of each image, summed over channels and positions; see the module's equations.

    Where a gradient will be wanted, it is computed in the same pass and kept until then.

    Args:
        images: (N, C, H, W), floating point, contiguous or channels last; others are copied.
        beta: exponent, at least 1: 2 is quadratic, 1 keeps edges.
        eps: added to the squares, at least 0: makes β < 2 smooth at 0.
        anisotropic: take the two directions' powers apart.

    Returns:
        (N,), in float32 for half types; at least 0, and NaN or infinity where the image holds them.

    Raises:
        UsageError: on other images, exponents or eps, and when a second derivative is asked for.
        TypeError: beta or eps is no number.
    """
    _check(images, beta, eps)
    values: Tensor
    if torch.is_grad_enabled() and images.requires_grad:
        values, _ = _values_and_gradient(images, float(beta), float(eps), anisotropic)
    else:
        values = _values(images, float(beta), float(eps), anisotropic)
    return values


def total_variation_with_gradient(
    images: Tensor, beta: float = 2.0, eps: float = 0.0, anisotropic: bool = False
) -> tuple[Tensor, Tensor]:
    """Return what `total_variation` returns and each value's gradient (N, C, H, W), in one pass, outside autograd.

    The gradient has the type of the images; it is channels last where they are, else contiguous.
    """
    _check(images, beta, eps)
    both: tuple[Tensor, Tensor] = _values_and_gradient(images.detach(), float(beta), float(eps), anisotropic)
    return both


def _check(images: Tensor, beta: float, eps: float) -> None:
    check_tensor("total_variation", "images", images)
    if images.ndim != 4:
        raise UsageError(f"images have shape {tuple(images.shape)}, expected (N, C, H, W)")
    if not is_dense_float(images):
        raise UsageError(f"images are {images.layout} of {images.dtype}, expected a dense floating-point tensor")
    for name, number, least in (("beta", beta, 1), ("eps", eps, 0)):
        if not isinstance(number, int | float) or isinstance(number, bool):
            raise TypeError(f"{name} is {number!r}, expected a number")
        if not least <= number < math.inf:
            raise UsageError(f"{name} is {number}, expected a finite number of at least {least}")


def _scaled(gradient: Tensor, factors: Tensor) -> Tensor:
    """Return the gradient, which may be overwritten, times one factor per image; without a pass where all are 1."""
    if torch.is_grad_enabled() or torch.compiler.is_compiling() or type(factors) is not Tensor:
        return (gradient * factors[:, None, None, None]).to(gradient.dtype)
    if factors.device.type == "cpu" and all(factor == 1 for factor in factors.tolist()):  # on a GPU, to look is to wait
        return gradient
    return gradient.mul_(factors[:, None, None, None])


def _arithmetic(images: Tensor) -> torch.dtype:
    return torch.promote_types(images.dtype, torch.float32)


def _empty_values(images: Tensor) -> Tensor:
    return images.new_empty(images.shape[:1], dtype=_arithmetic(images))


def _layout(images: Tensor) -> torch.memory_format:
    last = images.is_contiguous(memory_format=torch.channels_last) and not images.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format
