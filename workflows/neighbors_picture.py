"""A picture of neighbors: some pictures, each before its nearest by the network and, below, by pixels."""

from collections.abc import Mapping
from urllib.parse import unquote

import numpy as np
from PIL import Image, ImageDraw

from .pixels import thumbnails
from .sheets import APART, GAP, INK, LINE, MARGIN, PAPER, SOFT, TEXT, fitting, font
from .vectors import Vectors

QUERIES, NEAREST, SIDE = 16, 8, 112
LABELS = {"": "by the network", "pixel_": "by pixels"}
BESIDE = 150


def draw(vectors: Vectors, keys: list[str], ids: Mapping[str, np.ndarray]) -> Image.Image:
    """Draw pictures evenly spread over the data set; `ids` are the places of neighbors (N, k) by space."""
    chosen = np.unique(np.linspace(0, len(keys) - 1, min(QUERIES, len(keys))).round().astype(int))
    count = min(NEAREST, *(one.shape[1] for one in ids.values()))
    shown = np.unique(np.concatenate([chosen, *(one[chosen, :count].ravel() for one in ids.values())]))
    found = thumbnails(vectors, [keys[place] for place in shown])
    height = len(ids) * (SIDE + GAP) + LINE
    left = MARGIN + SIDE + APART + BESIDE
    size = (left + count * (SIDE + GAP) - GAP + MARGIN, MARGIN + len(chosen) * (height + APART // 2) + MARGIN)
    image = Image.new("RGB", size, PAPER)
    pen, top = ImageDraw.Draw(image), MARGIN
    for query in chosen.tolist():
        _paste(image, found[keys[query]], MARGIN, top)
        pen.text((MARGIN, top + SIDE + 4), fitting(unquote(keys[query]), SIDE + APART + BESIDE), INK, font(TEXT))
        for row, (space, places) in enumerate(ids.items()):
            above = top + row * (SIDE + GAP)
            pen.text((left - GAP, above + SIDE // 2), LABELS[space], SOFT, font(TEXT), anchor="rm")
            for column, place in enumerate(places[query, :count].tolist()):
                _paste(image, found[keys[place]], left + column * (SIDE + GAP), above)
        top += height + APART // 2
    return image


def _paste(image: Image.Image, picture: Image.Image, left: int, top: int) -> None:
    small = picture.copy()
    small.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    image.paste(small, (left + (SIDE - small.width) // 2, top + (SIDE - small.height) // 2))
