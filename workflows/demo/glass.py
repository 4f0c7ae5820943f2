"""A stained-glass window as a style of our own: `python -m afterimage.workflows.demo.glass FILE.png`.

Panes are Voronoi cells of spread-out seeds with dark leads between them. Colors follow a slow field over a palette, so
that neighbors go together; each pane is lit from within and streaked.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from afterimage.workflows.demo.write import keep

PALETTE = (
    (18, 44, 110), (24, 92, 168), (38, 148, 186), (20, 122, 96), (232, 178, 48), (226, 112, 38), (190, 34, 46),
    (120, 24, 78), (244, 226, 170), (64, 34, 110),
)  # fmt: skip
"""sRGB levels: blues, greens, ambers, reds, cream, violet; in the order of the field that chooses among them."""
LEAD = (16, 14, 20)
PANE = 30.0
"""Mean distance of the panes' seeds, in pixels."""

Plane = NDArray[np.float32]


def draw_glass(height: int = 640, width: int = 640, seed: int = 0) -> NDArray[np.uint8]:
    """Return a window `(height, width, 3)` sRGB; its bytes follow from the arguments."""
    rng = np.random.default_rng(seed)
    seeds = spread(rng, height, width)
    nearest, gap = cells(seeds, height, width)
    colors = paints(rng, seeds, height, width)
    glow = 0.80 + 0.34 * np.clip(gap / 14, 0, 1)
    light = glow * (0.90 + 0.2 * smooth(rng, height, width, 9)) * (0.93 + 0.14 * streaks(rng, nearest, height, width))
    lead = np.clip((gap - 1.6) / 1.6, 0, 1)[..., None]
    picture: Plane = lead * colors[nearest] * light[..., None] + (1 - lead) * np.array(LEAD, np.float32)
    levels: NDArray[np.uint8] = np.clip(picture + 0.5, 0, 255).astype(np.uint8)
    return levels


def spread(rng: Generator, height: int, width: int) -> Plane:
    """Return seeds `(n, 2)`, row and column: one near the middle of each square of a shifted grid."""
    rows, columns = np.meshgrid(np.arange(-1, height // PANE + 2), np.arange(-1, width // PANE + 2), indexing="ij")
    columns = columns + 0.5 * (rows % 2)
    grid = np.stack([rows.ravel(), columns.ravel()], 1)
    return ((grid + rng.uniform(-0.42, 0.42, grid.shape)) * PANE).astype(np.float32)


def cells(seeds: Plane, height: int, width: int) -> tuple[NDArray[np.int64], Plane]:
    """Return for each pixel the index of its nearest seed, and how far it is from the edge to the next cell."""
    from scipy.spatial import cKDTree

    pixels = np.mgrid[:height, :width].reshape(2, -1).T
    distances, indices = cKDTree(seeds).query(pixels, 2)
    apart = np.linalg.norm(seeds[indices[:, 0]] - seeds[indices[:, 1]], axis=1)
    gap = (distances[:, 1] ** 2 - distances[:, 0] ** 2) / (2 * apart)
    return indices[:, 0].reshape(height, width), gap.reshape(height, width).astype(np.float32)


def paints(rng: Generator, seeds: Plane, height: int, width: int) -> Plane:
    """Return the color of each pane, `(n, 3)`: where a slow field lies on the palette, with exceptions."""
    field = smooth(rng, height, width, 4)
    rows, columns = (np.clip(seeds[:, axis], 0, side - 1).astype(int) for axis, side in enumerate((height, width)))
    places = field[rows, columns] * len(PALETTE) + rng.normal(0, 1.1, len(seeds))
    strange = rng.random(len(seeds)) < 0.14
    places[strange] = rng.uniform(0, len(PALETTE), strange.sum())
    colors = np.array(PALETTE, np.float32)[np.clip(places, 0, len(PALETTE) - 1).astype(int)]
    shade: Plane = colors * rng.uniform(0.82, 1.12, (len(seeds), 1)).astype(np.float32)
    return shade


def smooth(rng: Generator, height: int, width: int, waves: int) -> Plane:
    """Return noise with so many random values a side, evenly distributed in [0, 1]."""
    field = cv2.resize(rng.random((waves, waves), np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    ranks = np.empty(field.size, np.float32)
    ranks[np.argsort(field, None, "stable")] = np.linspace(0, 1, field.size, dtype=np.float32)
    return ranks.reshape(height, width)


def streaks(rng: Generator, panes: NDArray[np.int64], height: int, width: int) -> Plane:
    """Return soft stripes in [0, 1] that run in a direction of its own through each pane."""
    turns = rng.uniform(0, np.pi, int(panes.max()) + 1)[panes]
    rows, columns = np.mgrid[:height, :width]
    waves: Plane = (0.5 + 0.5 * np.sin((rows * np.cos(turns) + columns * np.sin(turns)) * 0.55)).astype(np.float32)
    return waves


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--height", type=int, default=640)
    parser.add_argument("--width", type=int, default=640)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args(arguments)
    keep(chosen.file, draw_glass(chosen.height, chosen.width, chosen.seed)[..., ::-1])


if __name__ == "__main__":
    main()
