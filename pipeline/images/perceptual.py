"""Perceptual loss: how far a picture is from a content and from a style, as objectives that are weighted and add up.

    L = α ‖F(x) − F(content)‖² / ‖F(content)‖² + β mean over l of ‖G_l(x) − Ĝ_l‖² / ‖Ĝ_l‖² + γ TV^b(x) / pixels
        + 10 (α + β) mean of (x − [x in 0 … 1])²

The last term keeps pixels in range where no bounds do. Style transfer minimizes L over pictures, style networks
over weights. Gatys et al. 2016 (doi:10.1109/CVPR.2016.265); Johnson et al. 2016 (arXiv:1603.08155).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import reduce
from operator import add
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ..errors import UsageError
from ..models.frozen import frozen
from ..models.gradients import check_images
from ..models.layers import activations
from ..models.stages import content_layer, style_layers
from .grams import check_maps, grams
from .objectives import Objective, Seen, beyond, distance, style, total_variation
from .scales import Size, resized

RANGE = 10.0
"""Weight of the mean square of how far pixels leave [0, 1], over α + β."""


@dataclass(frozen=True)
class Weights:
    """α, β, γ and the power b of the total variation; the defaults are those of style transfer."""

    content: float = 1.0
    style: float = 30.0
    tv: float = 10.0
    tv_beta: float = 2.0

    def __post_init__(self) -> None:
        """Refuse, with UsageError, negative and infinite numbers, and none above 0."""
        for field in fields(self):
            if not 0 <= (value := getattr(self, field.name)) < math.inf:
                raise UsageError(f"{field.name}: expected a finite number of 0 or above, got {value}")
        if self.tv_beta < 1 or not self.content + self.style + self.tv:
            raise UsageError(f"expected a weight above 0 and tv_beta of 1 or above, got {self}")


class Terms(NamedTuple):
    """The weighted terms of a loss, each an objective."""

    content: Objective
    style: Objective
    tv: Objective
    range: Objective

    @property
    def bounded(self) -> Objective:
        """What is minimized where bounds keep pixels in range: all but the last term."""
        return self.content + self.style + self.tv


def weighted(content: Objective, style: Objective, weights: Weights, size: Size) -> Terms:
    """Return the terms for pictures of a size (height, width)."""
    pixels = size[0] * size[1]
    excess = RANGE * (weights.content + weights.style) / (3 * pixels)
    variation = weights.tv / pixels * total_variation(weights.tv_beta)
    return Terms(weights.content * content, weights.style * style, variation, excess * beyond())


def alike(targets: Mapping[str, Tensor], mask: Tensor | None = None, relative: bool = True) -> list[Objective]:
    """Return the distance from Gram matrices of each layer, `(C, C)` or `(N, C, C)`; see `objectives.style`."""
    return [style(layer, gram, mask=mask, relative=relative) for layer, gram in targets.items()]


def mean(objectives: Sequence[Objective]) -> Objective:
    """Return the mean of objectives."""
    return reduce(add, objectives) * (1 / len(objectives))


def size_of(picture: Tensor, pixels: float) -> Size:
    """Return height and width of a picture `(1, 3, h, w)` brought to so many pixels, its proportions kept."""
    height, width = picture.shape[2:]
    factor = math.sqrt(pixels / (height * width))
    return max(1, round(height * factor)), max(1, round(width * factor))


@dataclass(frozen=True)
class Perception:
    """What pictures are compared by: a loss network, its layers, and the Gram matrices `(S, C, C)` of S styles."""

    model: nn.Module
    content_layer: str
    targets: Mapping[str, Tensor]
    weights: Weights

    @classmethod
    def of(cls, model: nn.Module, styles: Sequence[Tensor], side: int, weights: Weights) -> "Perception":
        """Take style pictures `(1, 3, h, w)` in [0, 1], each brought to side² pixels, and the network's usual layers.

        Raises UsageError for pictures that are none, and for a network that does not take them.
        """
        layers, near = style_layers(model), content_layer(model)
        found = []
        for one in styles:
            check_images(one)
            small = resized(one, size_of(one, side**2))
            check_maps(model, layers, {*layers, near}, small)
            found.append(grams(model, small, layers))
        return cls(model, near, {name: torch.stack([each[name] for each in found]) for name in layers}, weights)

    @property
    def layers(self) -> frozenset[str]:
        """What is read of the network."""
        return frozenset({*self.targets, self.content_layer})

    def terms(self, content: Tensor, chosen: Tensor) -> Terms:
        """Return the loss of pictures painted from contents `(N, 3, H, W)`, each in the style with the index `(N,)`."""
        with torch.no_grad(), frozen(self.model):
            kept = activations(self.model, content, [self.content_layer])[self.content_layer]
        own = {name: gram[chosen.to(gram.device)] for name, gram in self.targets.items()}
        near = distance(self.content_layer, kept)
        return weighted(near, mean(alike(own)), self.weights, (content.shape[2], content.shape[3]))

    def seen(self, images: Tensor) -> Seen:
        """Return what the loss network sees of images `(N, 3, H, W)`."""
        return Seen(images, activations(self.model, images, self.layers), torch.arange(len(images)))
