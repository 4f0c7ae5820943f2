"""Where a description of an image stands in a network: before its last layer with weights; its first and last maps."""

from typing import Any

import torch
from torch import Tensor, nn

from ..errors import UsageError
from .frozen import frozen
from .layers import INPUT, hooked, named, title
from .remembered import remembered
from .stages import stages

WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Bilinear)


def before_head(model: nn.Module, images: Tensor) -> str:
    """Return the name of what the last layer with weights takes: fc7 of VGG, pooled maps of a ResNet.

    Found by one forward pass per model of a black image as large as `images`. Raises UsageError where no such layer
    is called.
    """
    return INPUT + remembered(
        model, "head", images[:1], lambda: _last_called(model, images.new_zeros(1, *images.shape[1:]))
    )


def first_maps(model: nn.Module, images: Tensor) -> str:
    """Return the name of the first unit that gives maps, found by one forward pass per model and size of image."""
    size = (images.shape[2], images.shape[3])
    return remembered(model, "first maps", images[:1], lambda: stages(model, size)[0][0])


def last_maps(model: nn.Module, images: Tensor) -> str:
    """Return the name of the last unit that gives maps, found by one forward pass per model and size of image."""
    size = (images.shape[2], images.shape[3])
    return remembered(model, "last maps", images[:1], lambda: stages(model, size)[-1][-1])


def _last_called(model: nn.Module, image: Tensor) -> str:
    layers = {name: module for name, module in named(model).items() if isinstance(module, WEIGHTED)}
    called: list[str] = []

    def note(name: str, inputs: tuple[Any, ...], output: Any) -> None:
        called.append(name)

    with frozen(model), torch.no_grad(), hooked(layers, note):
        model(image)
    if not called:
        raise UsageError(f"{title(model)} calls no linear layer and no convolution; name the layer that describes")
    return called[-1]
