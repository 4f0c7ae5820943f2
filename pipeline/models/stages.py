"""Stages: the layers of a network by the resolution of their maps, and which of them the methods take by default.

A unit is a ReLU or a block of the network's own (a Fire, a BasicBlock, an Inception, …) that gives maps; what lies
inside a block is none. In VGG-19 the first unit of each stage is conv1_1, … conv5_1 of Gatys et al. 2016, behind its
ReLU, and the second of the last stage but one is their conv4_2.
"""

from collections.abc import Iterator
from itertools import groupby

from torch import nn

from ..errors import UsageError
from .layers import layers
from .network import Network

Stages = list[list[str]]
USUAL = (224, 224)
"""What networks whose preset is not known are taken to see."""


def stages(model: nn.Module, size: tuple[int, int] | None = None) -> Stages:
    """Return the units' names by resolution, finest first, for images of `size` (height, width), or the usual one."""
    network = model.network if isinstance(model, Network) else model
    size = size or (model.preset.size if isinstance(model, Network) else USUAL)
    units = set(_units(network, ""))
    found = [info for info in layers(model, size) if info.name in units and len(info.shape) == 3]
    groups = [[info.name for info in group] for _, group in groupby(found, key=lambda info: info.shape[1:])]
    if not groups:
        raise UsageError(f"{type(network).__name__} has no units that give maps (C, H, W); name the layers")
    return groups


def _units(module: nn.Module, path: str) -> Iterator[str]:
    for name, child in module.named_children():
        own = type(child).__module__.startswith("torch.nn.")
        if isinstance(child, nn.Sequential | nn.ModuleList | nn.ModuleDict) and own:
            yield from _units(child, f"{path}{name}.")
        elif isinstance(child, nn.ReLU | nn.ReLU6 | nn.SiLU | nn.GELU | nn.Hardswish) or not own:
            yield f"{path}{name}"


def style_layers(model: nn.Module, size: tuple[int, int] | None = None) -> list[str]:
    """Return the first unit of each stage, at most five."""
    return [stage[0] for stage in stages(model, size)][:5]


def content_layer(model: nn.Module, size: tuple[int, int] | None = None) -> str:
    """Return the second unit of the last stage but one, or the nearest there is to it."""
    found = stages(model, size)
    stage = found[-2] if len(found) > 1 else found[0]
    return stage[min(1, len(stage) - 1)]
