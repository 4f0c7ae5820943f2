"""Patches: small pictures `(n, 3, h, w)`, or one for all, pasted on large ones `(n, 3, H, W)` at corners `(n, 2)`."""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import UsageError, nearest
from .seeds import uniform

_NAMES: tuple[Literal["center"], Literal["random"]] = ("center", "random")
_PLACES = "place: expected the upper left corner y:x in whole pixels, center or random"


@dataclass(frozen=True)
class Place:
    """Where a patch lies: its upper left corner, row and column, the `center`, or anywhere, by the image's seed."""

    value: tuple[int, int] | Literal["center", "random"]

    def __post_init__(self) -> None:
        """Check that a corner is two whole numbers from 0 on. Raises UsageError."""
        corner = () if isinstance(self.value, str) else self.value
        whole = len(corner) == 2 and all(isinstance(one, int) and one >= 0 for one in corner)
        if not whole and self.value not in _NAMES:
            raise UsageError(f"{_PLACES}, got {self.value!r}")

    @classmethod
    def parse(cls, text: str) -> "Place":
        """Read `y:x`, `center` or `random`. Raises UsageError."""
        for name in _NAMES:
            if text == name:
                return cls(name)
        numbers = text.split(":")
        if len(numbers) != 2 or not all(one.isascii() and one.isdecimal() for one in numbers):
            raise UsageError(f"{_PLACES}, got {text!r}{nearest(text, _NAMES, 1)}")
        return cls((int(numbers[0]), int(numbers[1])))

    @classmethod
    def of(cls, value: "Place | str | tuple[int, int]") -> "Place":
        """Return a place as it is, the one that a text names, or that of a corner. Raises UsageError."""
        if isinstance(value, str):
            return cls.parse(value)
        return value if isinstance(value, Place) else cls(value)

    def __str__(self) -> str:
        return self.value if isinstance(self.value, str) else f"{self.value[0]}:{self.value[1]}"

    def corners(self, size: tuple[int, int], patch: tuple[int, int], seeds: Tensor) -> Tensor:
        """Return the corner `(n, 2)` int64 of a patch of that size on each image; anywhere is drawn by its seed.

        Raises UsageError where the patch would not lie inside the images.
        """
        room = size[0] - patch[0], size[1] - patch[1]
        corner = self.value if isinstance(self.value, tuple) else (room[0] // 2, room[1] // 2)
        if min(room) < 0 or corner[0] > room[0] or corner[1] > room[1]:
            came = f"{patch[0]} × {patch[1]} pixels at {self} on {size[0]} × {size[1]}"
            raise UsageError(f"patch: expected one that lies inside the images, got {came}")
        if self.value == "random":
            return scattered(uniform(seeds, torch.zeros_like(seeds), 0, 2), room)
        return torch.tensor(corner).expand(len(seeds), 2)


def scattered(draws: Tensor, room: tuple[int, int]) -> Tensor:
    """Return corners `(n, 2)` int64 from 0 to `room` each way, from numbers `(n, 2)` in [0, 1)."""
    return (draws * (torch.tensor(room) + 1)).floor().to(torch.int64)


def pasted(images: Tensor, patches: Tensor, corners: Tensor) -> Tensor:
    """Return images with a patch each, or the one that is given; differentiable with respect to both."""
    laid = laid_out(patches, corners, (images.shape[2], images.shape[3]))
    return torch.where(covered(patches, corners, images), laid, images)


def covered(patches: Tensor, corners: Tensor, images: Tensor) -> Tensor:
    """Return a mask `(n, 1, H, W)` of the pixels that lie under patches."""
    ones = torch.ones_like(patches[:, :1])
    return laid_out(ones, corners, (images.shape[2], images.shape[3])) > 0


def laid_out(patches: Tensor, corners: Tensor, size: tuple[int, int]) -> Tensor:
    """Return patches on black `(n, C, *size)`."""
    height, width = patches.shape[2:]
    own = patches.expand(len(corners), -1, -1, -1)
    places = [(x, size[1] - width - x, y, size[0] - height - y) for y, x in corners.tolist()]
    laid = [F.pad(patch, place) for patch, place in zip(own, places, strict=True)]
    return torch.stack(laid) if laid else patches.new_zeros(0, patches.shape[1], *size)
