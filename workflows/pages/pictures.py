"""Pictures as a page embeds them: each a data: address with its size in pixels, and a frame where one is drawn."""

import io
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg
from markupsafe import Markup
from PIL import Image

SIDE = 160
"""Pixels: pictures up to this side are shown at a whole multiple of their own, larger ones as wide as the cards."""
LARGEST = 448
"""Pixels: pictures beyond this side, as ``--fit none`` stores them, are embedded smaller."""
EDGE = 0.008
"""How near a frame comes to the picture's border, as a share of its longer side."""

Row = Mapping[str, Any]
Frame = tuple[float, float, float, float]


@dataclass(frozen=True)
class Picture:
    """An embedded picture: its data: address, its size in pixels and, in those, a frame (x, y, width, height)."""

    uri: Markup
    width: int
    height: int
    frame: Frame | None = None

    @property
    def small(self) -> bool:
        """Whether its pixels are enlarged, and shown as squares."""
        return max(self.width, self.height) <= SIDE


def picture(row: Row, name: str, box: tuple[int, int, int, int] | None = None) -> Picture | None:
    """Return a stored picture, or None where the row has none; made smaller where a page would swell.

    `box` is what to frame, x0, y0, x1, y1 in the stored picture's pixels.
    """
    stored = row.get(name)
    if stored is None:
        return None
    data = stored["bytes"]
    height, width, _, _ = simplejpeg.decode_jpeg_header(data)
    share = 1.0
    if max(height, width) > LARGEST:
        share = LARGEST / max(height, width)
        data, height, width = reduced(data)
    made = Picture(address("jpeg", data), width, height)
    if box is None:
        return made
    edge = EDGE * max(width, height)  # so that the frame of a window at the border is seen on all sides
    x0, x1 = (min(max(share * place, edge), width - edge) for place in box[::2])
    y0, y1 = (min(max(share * place, edge), height - edge) for place in box[1::2])
    return replace(made, frame=(x0, y0, x1 - x0, y1 - y0))


def reduced(data: bytes) -> tuple[bytes, int, int]:
    """Return a JPEG whose longer side is `LARGEST`, its height and its width."""
    with Image.open(io.BytesIO(data)) as image:
        image.thumbnail((LARGEST, LARGEST))
        smaller = io.BytesIO()
        image.save(smaller, "jpeg", quality=90)
        return smaller.getvalue(), image.height, image.width


def embedded(file: Path, longest: int) -> Picture:
    """Return the picture in a file of ours, made smaller where its longer side is beyond `longest`."""
    with Image.open(file) as image:
        shown = image.convert("RGB")
    if max(shown.size) > longest:
        shown.thumbnail((longest, longest), Image.Resampling.LANCZOS, reducing_gap=None)
    encoded = simplejpeg.encode_jpeg(np.ascontiguousarray(shown), 88, colorspace="RGB", colorsubsampling="444")
    return Picture(address("jpeg", encoded), shown.width, shown.height)


def unchanged(file: Path) -> Picture:
    """Return the picture in a PNG file, byte by byte."""
    with Image.open(file) as image:
        return Picture(address("png", file.read_bytes()), *image.size)


def colored(places: np.ndarray, colors: list[tuple[int, int, int]]) -> Picture:
    """Return a picture of `places` (rows, columns), each an index into `colors`."""
    image = Image.fromarray(places.astype(np.uint8), "P")
    image.putpalette([level for color in colors for level in color])
    file = io.BytesIO()
    image.save(file, "png", optimize=True)
    return Picture(address("png", file.getvalue()), image.width, image.height)


def address(kind: str, data: bytes) -> Markup:
    """Return data as an address."""
    return Markup(f"data:image/{kind};base64,{b64encode(data).decode()}")
