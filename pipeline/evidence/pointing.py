"""Evidence on the object: heatmaps `(N, 1 or 3, H, W)` and how much objects cover `(N, H, W)` to figures `(N,)`.

    inside = Σ coverage · strength / Σ strength,  expected = mean of coverage, which is what a uniform heatmap has
    hit: the strongest place lies on the object or within `tolerance` pixels of it

The pointing game is that of Zhang, Lin, Brandt, Shen, Sclaroff, Top-down Neural Attention by Excitation Backprop, 2016
(arXiv:1608.00507), section 4.1; its accuracy is hits / (hits + misses).
"""

import torch
from torch import Tensor

from ..drawing import strength

TOLERANCE = 0.03
"""Of the longer side: the paper allows 15 pixels on pictures of about 500 × 375."""


def inside(heatmaps: Tensor, coverage: Tensor) -> Tensor:
    """Return the share of the evidence that lies on the objects, in [0, 1]; NaN where there is no evidence at all."""
    positive = strength(heatmaps)[:, 0].double()
    return ((positive * coverage).sum((1, 2)) / positive.sum((1, 2))).float()


def pointing_game(heatmaps: Tensor, coverage: Tensor, tolerance: float | None = None) -> Tensor:
    """Return the hits, bool; `tolerance` is in pixels, 3 % of the longer side (rounded) unless it is given.

    A pixel lies on the object if any of it does. The first of equal maxima counts; a map without a maximum (constant,
    or not finite) is a miss.
    """
    flat = strength(heatmaps).flatten(1)
    hit = near(coverage, flat.argmax(1), tolerance)
    return hit & flat.isfinite().all(1) & (flat.amax(1) > flat.amin(1))


def center_guess(coverage: Tensor, tolerance: float | None = None) -> Tensor:
    """Return the hits, bool, of always pointing at the middle of the picture: the game's baseline."""
    count, height, width = coverage.shape
    middle = height // 2 * width + width // 2
    return near(coverage, torch.full((count,), middle, device=coverage.device), tolerance)


def near(coverage: Tensor, places: Tensor, tolerance: float | None = None) -> Tensor:
    """Return whether objects come within `tolerance` pixels (Euclidean) of `places`, flat indices `(N,)`."""
    height, width = coverage.shape[1:]
    reach = round(TOLERANCE * max(height, width)) if tolerance is None else tolerance
    rows = torch.arange(height, device=coverage.device) - (places // width)[:, None]
    columns = torch.arange(width, device=coverage.device) - (places % width)[:, None]
    close = rows[:, :, None] ** 2 + columns[:, None, :] ** 2 <= reach**2
    return ((coverage > 0) & close).flatten(1).any(1)
