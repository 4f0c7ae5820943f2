"""The pointing game: does the strongest place of a heatmap lie on the object?

    accuracy = hits / (hits + misses),  a hit: the maximum lies in the object's mask or within `tolerance` pixels of it

Zhang, Lin, Brandt, Shen, Sclaroff, Top-down Neural Attention by Excitation Backprop, 2016 (arXiv:1608.00507),
section 4.1. The paper allows 15 pixels on pictures of about 500 × 375: 4 pixels on 128.
"""

import torch
from torch import Tensor
from torch.nn.functional import conv2d

TOLERANCE = 4
"""Pixels of a 128 × 128 picture: 15 · 128 / 500."""


def widened(masks: Tensor, tolerance: int) -> Tensor:
    """Return the masks `(N, H, W)` and all within `tolerance` pixels (Euclidean distance) of them, bool."""
    steps = torch.arange(-tolerance, tolerance + 1, device=masks.device)
    disc = (steps[:, None] ** 2 + steps**2 <= tolerance**2).float()
    return conv2d(masks.float()[:, None], disc[None, None], padding=tolerance)[:, 0] > 0.5


def pointing_game(heatmaps: Tensor, masks: Tensor, tolerance: int = TOLERANCE) -> Tensor:
    """Return the hits `(N,)`, bool, of heatmaps `(N, 1, H, W)` on masks `(N, H, W)`.

    The first of equal maxima counts; a map without a maximum (constant, or not finite) is a miss.
    """
    flat = heatmaps.flatten(1)
    hit = widened(masks, tolerance).flatten(1).gather(1, flat.argmax(1, keepdim=True))[:, 0]
    return hit & flat.isfinite().all(1) & (flat.amax(1) > flat.amin(1))


def centre_guess(masks: Tensor, tolerance: int = TOLERANCE) -> Tensor:
    """Return the hits `(N,)`, bool, of always pointing at the middle of the picture: the game's baseline."""
    height, width = masks.shape[1:]
    return widened(masks, tolerance)[:, height // 2, width // 2]
