"""The pictures of a grid: sheets of many small pictures at several scales, and one picture of all, the mosaic.

sheets/64/0-1.jpg    rows 0 to 15 and columns 16 to 31 of the grid, each cell 64 pixels wide; of few images, 128
sheets/16/0-0.jpg    the same at a quarter of the scale, and so on until one sheet holds all
mosaic.jpg           all cells, as large as they can be in `LONGEST` pixels
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import simplejpeg
from PIL import Image

SIDE, LARGER = 64, 128
"""Pixels of a cell at the largest scale, and of up to `FEW` images."""
FEW = 4096
SHEET = 1024
"""Pixels of a sheet, at most."""
LONGEST = 10_240
"""Pixels of the mosaic's longer side, at most."""
SCALE = 4
QUALITY = 85

Pixels = np.ndarray


def cells(file: Path, rows: int, columns: int, side: int) -> Pixels:
    """Return a new array on the disk for pictures by cell, `(rows, columns, side, side, 3)` uint8, grey."""
    made = np.lib.format.open_memmap(file, "w+", np.uint8, (rows, columns, side, side, 3))
    made[:] = 128
    return made


def side_of(count: int) -> int:
    """Return the pixels of a cell where there are so many images."""
    return LARGER if count <= FEW else SIDE


def square(data: bytes, side: int) -> Pixels:
    """Return a JPEG's middle as `(side, side, 3)`; pictures that are enlarged keep their pixels."""
    pixels = simplejpeg.decode_jpeg(data, "RGB", min_height=side, min_width=side)
    height, width = pixels.shape[:2]
    edge = min(height, width)
    top, left = (height - edge) // 2, (width - edge) // 2
    image = Image.fromarray(pixels[top : top + edge, left : left + edge])
    return np.asarray(image.resize((side, side), _filter(edge, side)))


def _filter(before: int, after: int) -> Image.Resampling:
    return Image.Resampling.BOX if after > before else Image.Resampling.LANCZOS


def write_sheets(folder: Path, pictures: Pixels, spare: Path) -> list[dict[str, int]]:
    """Write the sheets of all scales; return the side of a cell and the cells along a sheet, largest scale first.

    `spare` is a folder for what is needed meanwhile.
    """
    levels = []
    while True:
        rows, columns, side = pictures.shape[:3]
        along = SHEET // side
        levels.append({"side": side, "cells": along})
        for name, block in _blocks(pictures, along):
            _save(folder / str(side) / f"{name}.jpg", _laid_out(block))
        if along >= max(rows, columns) or side < 2 * SCALE:
            return levels
        pictures = _reduced(pictures, spare / f"{side // SCALE}.npy")


def _blocks(pictures: Pixels, along: int) -> Iterator[tuple[str, Pixels]]:
    rows, columns = pictures.shape[:2]
    for row in range(0, rows, along):
        for column in range(0, columns, along):
            yield f"{row // along}-{column // along}", pictures[row : row + along, column : column + along]


def _laid_out(block: Pixels) -> Pixels:
    """Return cells `(rows, columns, side, side, 3)` as one picture."""
    rows, columns, side = block.shape[:3]
    return np.ascontiguousarray(block.transpose(0, 2, 1, 3, 4)).reshape(rows * side, columns * side, 3)


def _reduced(pictures: Pixels, file: Path) -> Pixels:
    rows, columns, side = pictures.shape[:3]
    smaller = cells(file, rows, columns, side // SCALE)
    for row in range(rows):
        strip = np.asarray(Image.fromarray(_laid_out(pictures[row : row + 1])).reduce(SCALE))
        smaller[row] = strip.reshape(side // SCALE, columns, side // SCALE, 3).swapaxes(0, 1)
    return smaller


def write_mosaic(file: Path, pictures: Pixels) -> tuple[int, int]:
    """Write all cells as one picture; return its height and width."""
    rows, columns, side = pictures.shape[:3]
    small = max(1, min(side, LONGEST // max(rows, columns)))
    mosaic = np.empty((rows * small, columns * small, 3), np.uint8)
    for row in range(rows):
        strip = Image.fromarray(_laid_out(pictures[row : row + 1]))
        shrunk = strip if small == side else strip.resize((columns * small, small), Image.Resampling.BOX)
        mosaic[row * small : (row + 1) * small] = np.asarray(shrunk)
    _save(file, mosaic)
    return mosaic.shape[0], mosaic.shape[1]


def _save(file: Path, picture: Pixels) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(simplejpeg.encode_jpeg(picture, QUALITY, colorspace="RGB", colorsubsampling="420"))
