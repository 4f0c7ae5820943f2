"""A picture of neighbors: some pictures, each before its nearest by the network and, below, by pixels."""

from collections.abc import Mapping, Sequence
from urllib.parse import unquote

import numpy as np
from PIL import Image, ImageDraw

from .pixels import thumbnails
from .sheets import APART, GAP, INK, LINE, MARGIN, PAPER, SOFT, TEXT, fitting, font
from .vectors import Vectors

QUERIES, ACROSS, NEAREST, SIDE = 16, 2, 8, 112
LABELS = {"": "by the network", "pixel_": "by pixels"}
BESIDE = 150


def draw(vectors: Vectors, keys: list[str], ids: Mapping[str, np.ndarray]) -> Image.Image:
    """Draw pictures evenly spread over the data set; `ids` are the places of neighbors (N, k) by space."""
    chosen = np.unique(np.linspace(0, len(keys) - 1, min(QUERIES, len(keys))).round().astype(int))
    near = {space: one[chosen, :NEAREST] for space, one in ids.items()}
    shown = np.unique(np.concatenate([chosen, *(one.ravel() for one in near.values())]))
    found = thumbnails(vectors, [keys[place] for place in shown])
    width = SIDE + APART + BESIDE + min(NEAREST, next(iter(ids.values())).shape[1]) * (SIDE + GAP) - GAP
    height = len(ids) * (SIDE + GAP) + LINE
    down = -(-len(chosen) // ACROSS)
    across = -(-len(chosen) // down)
    size = across * (width + 2 * APART) - 2 * APART + 2 * MARGIN, down * (height + APART // 2) + 2 * MARGIN
    image = Image.new("RGB", size, PAPER)
    for number, query in enumerate(chosen.tolist()):
        corner = MARGIN + number // down * (width + 2 * APART), MARGIN + number % down * (height + APART // 2)
        rows = {space: [found[keys[place]] for place in one[number]] for space, one in near.items()}
        _draw_query(image, corner, keys[query], found[keys[query]], rows)
    return image


def _draw_query(
    image: Image.Image,
    corner: tuple[int, int],
    key: str,
    picture: Image.Image,
    rows: Mapping[str, Sequence[Image.Image]],
) -> None:
    left, top = corner
    pen = ImageDraw.Draw(image)
    _paste(image, picture, left, top)
    pen.text((left, top + SIDE + 4), fitting(unquote(key), SIDE + APART + BESIDE - GAP), INK, font(TEXT))
    first = left + SIDE + APART + BESIDE
    for row, (space, pictures) in enumerate(rows.items()):
        above = top + row * (SIDE + GAP)
        pen.text((first - GAP, above + SIDE // 2), LABELS[space], SOFT, font(TEXT), anchor="rm")
        for column, one in enumerate(pictures):
            _paste(image, one, first + column * (SIDE + GAP), above)


def _paste(image: Image.Image, picture: Image.Image, left: int, top: int) -> None:
    small = picture.copy()
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    image.paste(small, (left + (SIDE - small.width) // 2, top + (SIDE - small.height) // 2))
