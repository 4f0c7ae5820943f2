"""Filters: the weights of a convolution as pictures."""

import torch
from torch import Tensor, nn

from ..errors import UsageError
from .layers import named, resolve, title


def filters(model: nn.Module, layer: str | None = None) -> Tensor:
    """Return a convolution's filters as pictures in [0, 1], without `layer` those of the first convolution.

    `(F, 3, kh, kw)`, red, green and blue, where its input has three channels; else `(F, C, kh, kw)`, a grey picture
    per filter and input channel. Where the convolution has groups, C counts the channels of a filter's own group: one
    in a depthwise convolution. Each filter is divided by its largest magnitude: zero is 0.5, and its channels can be
    compared with one another, filters cannot. Raises UsageError for a layer that is no two-dimensional convolution.
    """
    weight = convolution(model, layer)[1].weight.detach()
    weight = weight.to(torch.promote_types(weight.dtype, torch.float32))
    largest = weight.abs().amax((1, 2, 3), keepdim=True).clamp_min(torch.finfo(weight.dtype).tiny)
    return 0.5 + 0.5 * weight / largest


def convolution(model: nn.Module, layer: str | None = None) -> tuple[str, nn.Conv2d]:
    """Return name and module of a convolution, without `layer` of the first one. Raises UsageError."""
    known = {name: module for name, module in named(model).items() if isinstance(module, nn.Conv2d)}
    if not known:
        raise UsageError(f"{title(model)} has no two-dimensional convolution (torch.nn.Conv2d), so no filters to show")
    name = next(iter(known)) if layer is None else layer
    found = resolve(model, name)
    if not isinstance(found, nn.Conv2d):
        kind, example = type(found).__name__, next(iter(known))
        raise UsageError(f"layer {name!r} of {title(model)} is a {kind}, expected a convolution, as {example!r}")
    return name, found


def is_colored(found: nn.Conv2d) -> bool:
    """Return whether the filters of a convolution are drawn in color: its input has three channels, in one group."""
    return found.in_channels == 3 and found.groups == 1
