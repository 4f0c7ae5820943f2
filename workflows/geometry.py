"""From an upright picture to the network's input, and the way back.

`preset` is what torchvision's classification presets do to a Pillow image, bit by bit: the shorter side to `resize`,
with antialiasing, then the center crop, black where the picture is smaller.
"""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from PIL import Image

from afterimage.registry import Fit

from .color import Pixels

CropBox = tuple[float, float, float, float]
Interpolation = Literal["bilinear", "bicubic"]

IMAGENET_MEAN = (124, 116, 104)
# A resized picture of more pixels than this is never made: only its crop is
_LARGE = 2**24


@dataclass(frozen=True)
class Geometry:
    """How a picture becomes the network's input of `size` (height, width).

    - `preset`: shorter side to `resize` (None: no resize), then the center crop
    - `squash`: both sides to `size`, whatever the proportions
    - `pad`: fitted inside `size`, centered on ImageNet's mean color
    - `inside`: fitted inside `size`, and no larger than that: the picture's own proportions
    - `none`: as it is; `size` does not matter
    """

    fit: Fit
    size: tuple[int, int]
    resize: int | None = None
    interpolation: Interpolation = "bilinear"

    @property
    def varies(self) -> bool:
        """Whether pictures of other proportions become inputs of another size."""
        return self.fit in ("inside", "none")

    def fitted(self, height: int, width: int) -> tuple[int, int]:
        """Return height and width of what a picture of so many pixels becomes."""
        if self.fit == "inside":
            return _inside(height, width, self.size)
        return (height, width) if self.fit == "none" else self.size


def fit(pixels: Pixels, geometry: Geometry) -> tuple[Pixels, CropBox]:
    """Return the network's input, uint8 (h, w, 3), and its crop box, for upright `pixels` (H, W, 3).

    A picture that has the network's input size already is left untouched.
    """
    height, width = pixels.shape[:2]
    if geometry.varies:
        return _resize(pixels, geometry.fitted(height, width), geometry.interpolation), _whole(height, width)
    if (height, width) == geometry.size:
        return pixels, _whole(height, width)
    if geometry.fit == "preset":
        resized = _shorter_side(height, width, geometry.resize)
        offset = _center(resized[0], geometry.size[0]), _center(resized[1], geometry.size[1])
        fill = (0, 0, 0)
    else:
        resized = geometry.size if geometry.fit == "squash" else _inside(height, width, geometry.size)
        offset = -((geometry.size[0] - resized[0]) // 2), -((geometry.size[1] - resized[1]) // 2)
        fill = IMAGENET_MEAN
    window = _window(pixels, resized, offset, geometry.size, geometry.interpolation, fill)
    return window, _crop_box((height, width), resized, offset, geometry.size)


def _whole(height: int, width: int) -> CropBox:
    return 0.0, 0.0, float(width), float(height)


def _shorter_side(height: int, width: int, resize: int | None) -> tuple[int, int]:
    if resize is None:
        return height, width
    if width <= height:
        return int(resize * height / width), resize
    return resize, int(resize * width / height)


def _inside(height: int, width: int, size: tuple[int, int]) -> tuple[int, int]:
    scale = min(size[0] / height, size[1] / width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def _center(length: int, crop: int) -> int:
    """Return where the crop starts; negative where it is padded. The rounding is torchvision's."""
    return round((length - crop) / 2.0) if length >= crop else -((crop - length) // 2)


def _crop_box(
    original: tuple[int, int], resized: tuple[int, int], offset: tuple[int, int], size: tuple[int, int]
) -> CropBox:
    y, x = original[0] / resized[0], original[1] / resized[1]
    return offset[1] * x, offset[0] * y, (offset[1] + size[1]) * x, (offset[0] + size[0]) * y


def _window(
    pixels: Pixels,
    resized: tuple[int, int],
    offset: tuple[int, int],
    size: tuple[int, int],
    interpolation: Interpolation,
    fill: tuple[int, int, int],
) -> Pixels:
    """Return the window of `size` at `offset` (y, x) of the picture resized to `resized`, with `fill` around it."""
    top, left = max(offset[0], 0), max(offset[1], 0)
    bottom, right = min(offset[0] + size[0], resized[0]), min(offset[1] + size[1], resized[1])
    if math.prod(resized) > max(_LARGE, 4 * math.prod(pixels.shape[:2])):
        inside = _resize_part(pixels, resized, (top, left, bottom, right), interpolation)
    else:
        inside = _resize(pixels, resized, interpolation)[top:bottom, left:right]
    if inside.shape[:2] == size:
        return np.ascontiguousarray(inside)
    window = np.empty((*size, 3), np.uint8)
    window[:] = fill
    window[top - offset[0] : bottom - offset[0], left - offset[1] : right - offset[1]] = inside
    return window


def _resize(pixels: Pixels, size: tuple[int, int], interpolation: Interpolation) -> Pixels:
    if pixels.shape[:2] == size:
        return pixels
    return np.asarray(Image.fromarray(pixels).resize(size[::-1], _method(interpolation)))


def _method(interpolation: Interpolation) -> Image.Resampling:
    return Image.Resampling.BILINEAR if interpolation == "bilinear" else Image.Resampling.BICUBIC


def _resize_part(
    pixels: Pixels, resized: tuple[int, int], part: tuple[int, int, int, int], interpolation: Interpolation
) -> Pixels:
    """Return the rows and columns `part` (top, left, bottom, right) of the resized picture, and compute no others."""
    rows, y0, y1 = _source(pixels.shape[0], resized[0], part[0], part[2], interpolation)
    columns, x0, x1 = _source(pixels.shape[1], resized[1], part[1], part[3], interpolation)
    source = Image.fromarray(np.ascontiguousarray(pixels[rows, columns]))
    size = part[3] - part[1], part[2] - part[0]
    return np.asarray(source.resize(size, _method(interpolation), box=(x0, y0, x1, y1)))


def _source(
    length: int, resized: int, start: int, stop: int, interpolation: Interpolation
) -> tuple[slice, float, float]:
    """Return the original pixels that the resized ones from start to stop are made of, and the interval within them."""
    scale = length / resized
    reach = math.ceil((1 if interpolation == "bilinear" else 2) * max(scale, 1.0)) + 1
    first, last = max(0, math.floor(start * scale) - reach), min(length, math.ceil(stop * scale) + reach)
    return slice(first, last), start * scale - first, min(stop * scale, length) - first
