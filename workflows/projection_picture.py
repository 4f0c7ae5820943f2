"""A picture of a projection: the images at their places, or dots where the job kept none."""

import numpy as np
import pyarrow as pa
from PIL import Image, ImageDraw

from afterimage.errors import UsageError

from .pixels import has_pictures, thumbnails
from .sheets import INK, PAPER
from .vectors import Vectors

SIDE, MARGIN = 2000, 60
SMALLEST, LARGEST = 20, 120
DOT = 4


def draw(vectors: Vectors, table: pa.Table) -> Image.Image:
    """Draw the rows at `projection_x` and `_y`, one scale for both; of images that would hide others, the first."""
    places = np.stack([table["projection_x"].to_numpy(), -table["projection_y"].to_numpy()], 1).astype(float)
    low, high = places.min(0), places.max(0)
    scale = (SIDE - 2 * MARGIN - LARGEST) / max(float((high - low).max()), 1e-12)
    middle = (places - (low + high) / 2) * scale + SIDE / 2
    image = Image.new("RGB", (SIDE, SIDE), PAPER)
    try:
        has_pictures(vectors)
    except UsageError:
        pen = ImageDraw.Draw(image)
        for x, y in middle.tolist():
            pen.ellipse((x - DOT, y - DOT, x + DOT, y + DOT), INK)
        return image
    side = int(np.clip(SIDE / (2.4 * len(table) ** 0.5), SMALLEST, LARGEST))
    # A cell half as wide as an image holds one: where they lie dense, most are seen.
    _, first = np.unique((middle // (side * 0.5)).astype(int), axis=0, return_index=True)
    keys = table["key"].to_pylist()
    found = thumbnails(vectors, [keys[place] for place in first])
    for place in sorted(first.tolist()):
        small = found[keys[place]]
        small.thumbnail((side, side), Image.Resampling.LANCZOS)
        x, y = middle[place]
        image.paste(small, (round(x - small.width / 2), round(y - small.height / 2)))
    return image
