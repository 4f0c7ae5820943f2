"""Tables of small pictures, `(3, h, w)` in [0, 1]: cells side by side on paper, labels among them."""

from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from torch import Tensor

GAP = 3
"""Pixels between cells."""
PAPER, INK = 0.87, 0.1
SIZE = 11
"""Of the typeface, in pixels."""


def lattice(cells: Sequence[Sequence[Tensor]]) -> Tensor:
    """Return the picture `(3, H, W)` of rows of cells `(3, h, w)`.

    A row is as high as its highest cell, a column as wide as its widest; cells lie in their place's upper left corner.
    """
    heights = [max(cell.shape[1] for cell in row) for row in cells]
    widths = [max(row[at].shape[2] for row in cells if at < len(row)) for at in range(max(map(len, cells)))]
    size = sum(heights) + GAP * (len(heights) + 1), sum(widths) + GAP * (len(widths) + 1)
    picture = cells[0][0].new_full((3, *size), PAPER)
    top = GAP
    for row, height in zip(cells, heights, strict=True):
        left = GAP
        for cell, width in zip(row, widths, strict=False):
            picture[:, top : top + cell.shape[1], left : left + cell.shape[2]] = cell
            left += width + GAP
        top += height + GAP
    return picture


def captioned(cell: Tensor, text: str, width: int = 0) -> Tensor:
    """Return a cell `(3, h, w)` under its label, at least `width` wide."""
    label = written(text).to(cell)
    width = max(width, cell.shape[2], label.shape[2])
    picture = cell.new_full((3, label.shape[1] + cell.shape[1], width), PAPER)
    picture[:, : label.shape[1], : label.shape[2]] = label
    picture[:, label.shape[1] :, : cell.shape[2]] = cell
    return picture


def wrapped(cells: Sequence[Tensor]) -> list[list[Tensor]]:
    """Return cells in rows, as many in a row as there are rows, or one more or two."""
    across = columns(len(cells))
    return [list(cells[at : at + across]) for at in range(0, len(cells), across)]


def columns(count: int) -> int:
    """Return how many of so many things stand in a row of a square."""
    return int(np.ceil(np.sqrt(count)))


def enlarged(pictures: Tensor, side: int) -> Tensor:
    """Return pictures `(…, h, w)` with every value a square, the longer side at most `side` where it is shorter."""
    times = max(1, side // max(pictures.shape[-2:]))
    return pictures.repeat_interleave(times, -2).repeat_interleave(times, -1)


@cache
def written(text: str) -> Tensor:
    """Return a line of text as a picture `(3, h, w)`, dark on paper; h is the same for all."""
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(SIZE)
    image = Image.new("L", (max(1, int(np.ceil(font.getlength(text)))), SIZE + 2), round(255 * PAPER))
    ImageDraw.Draw(image).text((0, SIZE), text, round(255 * INK), font, anchor="ls")
    return torch.from_numpy(np.asarray(image, np.float32) / 255).expand(3, -1, -1)
