"""Roundings: what an 8-bit file keeps of images `(n, 3, H, W)` at `rows` `(n,)` of a run, in multiples of 1/255."""

from collections.abc import Callable

import torch
from torch import Tensor

LEVELS = 255
Rounding = Callable[[Tensor, Tensor], Tensor]


def levels(images: Tensor) -> Tensor:
    """Return images as an 8-bit file holds them: the nearest multiples of 1/255 in [0, 1]."""
    return images.clamp(0, 1).mul(LEVELS).round().div(LEVELS)


def nearest() -> Rounding:
    """Round each value to the nearest; what was within whole levels of an 8-bit picture stays so."""
    return lambda images, rows: levels(images)


def no_farther(center: Tensor) -> Rounding:
    """Round so that the Euclidean distance to each image's own 8-bit center `(N, 3, H, W)` grows by nothing.

    It is left as large as it can be: of all values, cut off toward the center, those go on to their next level that
    are nearest to it, until there is no room for another.
    """

    def round_(images: Tensor, rows: Tensor) -> Tensor:
        middle = center[rows.to(center.device)].to(images).mul(LEVELS).round()
        away = images.clamp(0, 1).mul(LEVELS) - middle
        length = away.abs().flatten(1)
        whole = length.floor()
        rest, order = (length - whole).sort(dim=1, descending=True, stable=True)
        room = length.double().square().sum(1) - whole.double().square().sum(1)
        cost = (2 * whole.double() + 1).gather(1, order).cumsum(1)  # of (w + 1)² over w²
        lifted = torch.zeros_like(whole).scatter(1, order, ((cost <= room[:, None]) & (rest > 0)).to(whole))
        return middle.add((whole + lifted).view_as(away) * away.sign()).div(LEVELS)

    return round_
