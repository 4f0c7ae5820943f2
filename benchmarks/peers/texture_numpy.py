"""Wei and Levoy's texture synthesis as a competent user writes it in numpy: one exhaustive search a pixel.

|w − k|² = |w|² − 2 k·w + |k|²: the rows k of a matrix hold the sample's neighborhoods, so that a search is a product of
matrix and vector and an argmin. Whole numbers below 2²⁴: float32 is exact.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.judges import synthesized
from benchmarks.outcome import Outcome
from benchmarks.subjects import sample

Picture = NDArray[np.float32]
"""(H, W, 3), whole numbers of 8 bits."""


def synthesize(work: dict[str, Any]) -> Callable[[], Outcome]:
    """Return the work: a texture of `size`² from a sample of `sample`², `window` wide, on `levels` levels."""
    given = sample(work["sample"])
    picture = given.permute(1, 2, 0).numpy().astype(np.float32)

    def call() -> Outcome:
        texture = _synthesized(picture, work["size"], work["window"], work["levels"])
        return synthesized(given, torch.from_numpy(texture).permute(2, 0, 1))

    return call


def _synthesized(picture: Picture, size: int, window: int, levels: int) -> Picture:
    random = np.random.default_rng(0)
    samples, sizes = [picture], [size]
    for _ in range(levels - 1):
        samples.append(_halved(samples[-1]))
        sizes.append((sizes[-1] + 1) // 2)
    coarser: Picture | None = None
    for level in reversed(range(levels)):
        flat = samples[level].reshape(-1, 3)
        canvas = flat[random.integers(len(flat), size=sizes[level] ** 2)].reshape(sizes[level], sizes[level], 3)
        _fill(canvas, coarser, samples[level], samples[level + 1] if level + 1 < levels else None, window)
        coarser = canvas
    assert coarser is not None
    return coarser


def _fill(canvas: Picture, coarser: Picture | None, picture: Picture, above: Picture | None, window: int) -> None:
    """Fill a canvas in scan-line order; neighborhoods wrap around on it, those of the sample lie within."""
    half, quarter = window // 2, window // 2 // 2
    dy, dx = (offsets.ravel()[: window * half + half] for offsets in np.mgrid[-half:1, -half : half + 1])
    cy, cx = (offsets.ravel() for offsets in np.mgrid[-quarter : quarter + 1, -quarter : quarter + 1])
    rows, columns = (place.ravel() for place in np.mgrid[half : picture.shape[0], half : picture.shape[1] - half])
    if above is not None:
        y, x = rows // 2, columns // 2
        inside = (y + quarter < above.shape[0]) & (x + quarter < above.shape[1]) & (y >= quarter) & (x >= quarter)
        rows, columns = rows[inside], columns[inside]
    known = picture[rows[:, None] + dy, columns[:, None] + dx].reshape(len(rows), -1)
    if above is not None:
        coarse = above[rows[:, None] // 2 + cy, columns[:, None] // 2 + cx].reshape(len(rows), -1)
        known = np.concatenate([known, coarse], 1)
    squares, candidates = np.square(known).sum(1), picture[rows, columns]
    twice = np.ascontiguousarray(2 * known)
    side = len(canvas)
    for y in range(side):
        for x in range(side):
            wanted = canvas[(y + dy) % side, (x + dx) % side].ravel()
            if coarser is not None:
                near = coarser[(y // 2 + cy) % len(coarser), (x // 2 + cx) % len(coarser)].ravel()
                wanted = np.concatenate([wanted, near])
            canvas[y, x] = candidates[np.argmin(squares - twice @ wanted)]


def _halved(picture: Picture) -> Picture:
    """Weigh by (1, 3, 3, 1) / 8 both ways and take every second pixel."""
    for axis in (0, 1):
        size = picture.shape[axis]
        middle = np.arange(0, size, 2)
        taps = [np.take(picture, np.clip(middle + offset, 0, size - 1), axis) for offset in (-1, 0, 1, 2)]
        picture = (taps[0] + 3 * taps[1] + 3 * taps[2] + taps[3]) / 8
    return np.floor(picture + 0.5)
