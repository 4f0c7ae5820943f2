"""Scales: the same picture painted at one size after another, each started from what the one before it made."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .optimize import Result

Size = tuple[int, int]
Paint = Callable[[Tensor, Tensor | None], Result]
"""From start images `(N, 3, *size)` and a mask of those to be left alone, what an optimization at that size makes."""


def pyramid(size: Size, count: int, factor: float, least: int = 32) -> list[Size]:
    """Return up to `count` sizes, each `factor` times the one before, the last `size`; no side below `least`."""
    sizes = [tuple(max(1, round(side / factor**step)) for side in size) for step in reversed(range(count))]
    return [(height, width) for height, width in sizes if min(height, width) >= min(least, *size)]


def coarse_to_fine(sizes: Sequence[Size], start: Tensor, paint: Paint) -> Result:
    """Paint at each size, from the picture of the size before; `start` is brought to the first one."""
    return _through(sizes, lambda size, before: resized(start if before is None else before.images, size), paint)


def octaves(sizes: Sequence[Size], images: Tensor, paint: Paint) -> Result:
    """Paint on images `(N, 3, H, W)` at each size, adding what the sizes before have drawn into them."""

    def begin(size: Size, before: Result | None) -> Tensor:
        plain = resized(images, size)
        if before is None:
            return plain
        drawn = before.images - resized(images, _size(before.images))
        return (plain + resized(drawn, size)).clamp(0, 1)

    return _through(sizes, begin, paint)


def _through(sizes: Sequence[Size], begin: Callable[[Size, Result | None], Tensor], paint: Paint) -> Result:
    found: Result | None = None
    for size in sizes:
        made = paint(begin(size, found), None if found is None else found.diverged)
        found = made if found is None else _joined(found, made)
    assert found is not None
    return found


def _joined(before: Result, after: Result) -> Result:
    """Return the later result with the losses of both; images that diverged before were left alone."""
    left = before.diverged
    return after._replace(
        loss=torch.where(left, before.loss, after.loss),
        losses=torch.cat([before.losses, after.losses], 1),
        steps=before.steps + after.steps,
        diverged=left | after.diverged,
        snapshots=before.snapshots + after.snapshots,
    )


def resized(images: Tensor, size: Size) -> Tensor:
    """Return images `(N, 3, *size)`: bicubic, antialiased where they shrink."""
    if _size(images) == size:
        return images
    return F.interpolate(images, size, mode="bicubic", antialias=True)


def _size(images: Tensor) -> Size:
    return images.shape[2], images.shape[3]
