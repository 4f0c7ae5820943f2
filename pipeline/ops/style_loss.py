"""Style loss: the squared distance of Gram matrices, ‖G − Ĝ‖² = Σ (G_ij − Ĝ_ij)², of each image.

    ∂L/∂F = 2 (D + Dᵀ) F / d,  D = G − Ĝ        (4 D F / d where Ĝ is symmetric)        ∂L/∂Ĝ = −2 D

Gatys, Ecker, Bethge, Texture Synthesis Using Convolutional Neural Networks, 2015 (arXiv:1505.07376), equations 3 and 5,
without their factor 1 / (4 C² P²). Between the passes only D and the features are kept.
"""

from typing import Any

import torch
from torch import Tensor

from ..errors import UsageError
from .arguments import check_tensor, is_dense_float
from .gram import Normalize, check, result_type
from .gram import reference as gram_reference


def reference(features: Tensor, target: Tensor, center: bool, normalize: str) -> tuple[Tensor, Tensor]:
    """Return the loss (N,) and G − Ĝ (N, C, C), in plain torch."""
    difference = gram_reference(features, center, normalize) - target
    return difference.square().sum((1, 2)), difference


@torch.library.custom_op("afterimage::style_loss", mutates_args=())
def _forward(features: Tensor, target: Tensor, center: bool, normalize: str) -> tuple[Tensor, Tensor]:
    difference = torch.ops.afterimage.gram(features, center, normalize).sub_(target)
    flat = difference.flatten(1)
    return (flat * flat).sum(1), difference


@torch.library.custom_op("afterimage::style_loss_target_backward", mutates_args=())
def _target_backward(grad_output: Tensor, difference: Tensor, target: Tensor) -> Tensor:
    grad_target: Tensor = _target_gradient(grad_output, difference, target)
    return grad_target


@_target_backward.register_fake
def _target_gradient(grad_output: Tensor, difference: Tensor, target: Tensor) -> Tensor:
    """Return the target's gradient; the target itself stands for what it depends on, so that a second is refused."""
    grad_target = difference * (-2 * grad_output[:, None, None])
    return grad_target.sum(0) if target.ndim == 2 else grad_target


def _refuse(ctx: Any, grad: Tensor) -> None:
    raise UsageError("style_loss has a first derivative only, a second was asked for; use torch's own product for that")


_target_backward.register_autograd(_refuse)


@_forward.register_fake
def _forward_fake(features: Tensor, target: Tensor, center: bool, normalize: str) -> tuple[Tensor, Tensor]:
    difference = torch.ops.afterimage.gram(features, center, normalize)
    return difference.new_empty(features.shape[0]), difference


def _remember(ctx: Any, inputs: tuple[Tensor, Tensor, bool, str], output: tuple[Tensor, Tensor]) -> None:
    features, target, ctx.center, ctx.normalize = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(features, output[1], target if target.requires_grad else None)


def _differentiate(ctx: Any, grad_output: Tensor, _: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
    features, difference, target = ctx.saved_tensors
    grad_features = grad_target = None
    if ctx.needs_input_grad[0]:
        grad_gram = difference * (2 * grad_output[:, None, None])
        grad_features = torch.ops.afterimage.gram_backward(grad_gram, features, ctx.center, ctx.normalize)
    if ctx.needs_input_grad[1]:
        grad_target = _target_backward(grad_output, difference, target)
    return grad_features, grad_target, None, None


_forward.register_autograd(_differentiate, setup_context=_remember)


def style_loss(features: Tensor, target: Tensor, center: bool = False, normalize: Normalize = "none") -> Tensor:
    """Return ‖gram(features) − target‖² of each image.

    Args:
        features: (N, C, H, W), floating-point.
        target: (C, C), or (N, C, C) for one per image, of any floating-point type, on the features' device.
        center: as in `gram`.
        normalize: as in `gram`; the target has to be normalized alike.

    Returns:
        (N,), of the type that `gram` gives.

    Raises:
        UsageError: on any other tensor or normalization, and when a second derivative is asked for.
    """
    check(features, normalize)
    images, channels = features.shape[:2]
    check_tensor("style_loss", "target", target)
    expected = ((channels, channels), (images, channels, channels))
    if target.shape not in expected or not is_dense_float(target) or target.device != features.device:
        got = f"{target.dtype} of {tuple(target.shape)} on {target.device}"
        wanted = f"{expected[0]} or {expected[1]} on {features.device}"
        raise UsageError(f"target: expected a floating-point tensor {wanted}, got {got}")
    loss, _ = _forward(features, target.to(result_type(features)), center, normalize)
    return loss  # type: ignore[no-any-return]
