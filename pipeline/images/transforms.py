"""Transforms: what is done to images before the network sees them, drawn for each image from its own seed.

A transform is called with images `(n, 3, H, W)`, seeds `(n,)`, iterations `(n,)` and the number of its stream.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UsageError
from .seeds import uniform

Transform = Callable[[Tensor, Tensor, Tensor, int], Tensor]


@dataclass(frozen=True)
class Jitter:
    """Shifts by up to so many pixels each way; what leaves on one side comes in on the other."""

    pixels: int

    def __post_init__(self) -> None:
        if self.pixels < 0:
            raise UsageError(f"jitter: expected pixels of at least 0, got {self.pixels}")

    def __call__(self, images: Tensor, seeds: Tensor, iterations: Tensor, stream: int) -> Tensor:
        """Shift each image by whole pixels of its own."""
        if not self.pixels:
            return images
        draws = uniform(seeds, iterations, stream, 2)
        shifts = (draws * (2 * self.pixels + 1)).floor().to(torch.int64) - self.pixels
        moved = [image.roll((y, x), (1, 2)) for image, (y, x) in zip(images, shifts.tolist(), strict=True)]
        return torch.stack(moved) if moved else images


@dataclass(frozen=True)
class Warp:
    """Rotates by up to so many degrees and scales by up to a share, both ways, about the center; borders mirror."""

    degrees: float = 0.0
    scale: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.degrees <= 180 or not 0 <= self.scale < 1:
            raise UsageError(f"warp: expected degrees from 0 to 180 and scale from 0 to below 1, got {self}")

    def __call__(self, images: Tensor, seeds: Tensor, iterations: Tensor, stream: int) -> Tensor:
        """Warp each image by an angle and a factor of its own."""
        turn, grow = (2 * uniform(seeds, iterations, stream, 2) - 1).unbind(1)
        angle, factor = turn * math.radians(self.degrees), 1 / (1 + self.scale * grow)
        height, width = images.shape[2:]
        cos, sin, aspect = angle.cos() * factor, angle.sin() * factor, width / height
        rows = (torch.stack([cos, -sin / aspect, 0 * cos], 1), torch.stack([sin * aspect, cos, 0 * cos], 1))
        grid = F.affine_grid(torch.stack(rows, 1).to(images), list(images.shape), align_corners=False)
        return F.grid_sample(images, grid, "bilinear", "reflection", align_corners=False)
