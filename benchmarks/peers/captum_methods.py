"""Captum's methods, brought to our shapes."""

from collections.abc import Callable

from captum.attr import GuidedBackprop, Saliency  # type: ignore[import-untyped]
from torch import Tensor

from benchmarks.methods import load, predicted


def saliency(network: str, batch: int) -> Callable[[], Tensor]:
    """Largest |gradient| over the color channels, (N, 1, H, W)."""
    model, images = load(network, batch)
    target, method = predicted(model, images), Saliency(model)
    return lambda: method.attribute(images, target).amax(1, keepdim=True).detach()


def guided_backprop(network: str, batch: int) -> Callable[[], Tensor]:
    """Signed, (N, 3, H, W)."""
    model, images = load(network, batch)
    target, method = predicted(model, images), GuidedBackprop(model)
    return lambda: method.attribute(images, target).detach()
