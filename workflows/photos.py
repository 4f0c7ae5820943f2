"""Photo files: a picture made of a photograph goes out as that came in.

Formats follow the file's name, or `--format`. All are sRGB and say so; alpha is the photograph's where the format has
it, else the picture lies over white; of the EXIF only the date is kept, and the location where it is asked for.
Equal pictures give equal bytes.
"""

import io
import zlib
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from afterimage.errors import UsageError

from .codecs import CAMERA, DATE, LOCATION, Decoded, ImageError
from .color import Pixels, not_over_white

Format = Literal["jpeg", "png", "webp", "tiff"]
SUFFIXES: dict[Format, tuple[bytes, ...]] = {
    "jpeg": (b".jpg", b".jpeg", b".jpe", b".jfif"),
    "png": (b".png",),
    "webp": (b".webp",),
    "tiff": (b".tif", b".tiff"),
}
"""The endings of names by format, the usual one first."""
AS_JPEG = (b".avif", b".heic", b".heif", b".hif")
"""Endings of photographs that are read but not written; the other such formats lose nothing, and become PNG."""
LONGEST = {"jpeg": 65500, "webp": 16383}
"""Pixels: the longest side that a format holds, where it has one."""
SHARP = 90
"""The quality from which on a JPEG keeps the colors of every pixel, as painted edges need, and not those of four."""
DATES = (DATE,), (0x9003, 0x9004, 0x9010, 0x9011, 0x9012, 0x9290, 0x9291, 0x9292)
"""EXIF's tags of when a photograph was taken and changed, with offsets and fractions: at the top and the camera's."""
LONGEST_EXIF = 65000
"""Bytes: a JPEG holds hardly more."""
ORIENTATION = 0x0112


@dataclass(frozen=True)
class PhotoFiles:
    """How photographs are written: a format, or None for each one's own, quality 1–100, whether the location stays."""

    format: Format | None
    quality: int
    keep_location: bool

    def __post_init__(self) -> None:
        if not 1 <= self.quality <= 100:
            raise UsageError(f"quality: expected 1 to 100, got {self.quality}")

    def end(self, path: bytes) -> bytes:
        """Return the ending of what is made of the file at `path`: its own where that names the format."""
        own = _end(path)
        wanted = self.format or _format(own) or ("jpeg" if own.lower() in AS_JPEG else "png")
        return own if own.lower() in SUFFIXES[wanted] else SUFFIXES[wanted][0]

    def predicted(self, path: bytes, pixels: float) -> float:
        """Return about how many bytes a painted picture of so many pixels takes, as `end` names its format."""
        return pixels * _bytes_per_pixel(_format(self.end(path)) or "png", self.quality)

    def encoded(self, name: bytes, pixels: Pixels, photo: Decoded) -> bytes:
        """Return the file `name` with `pixels` (H, W, 3) made of a photograph; the name's ending says the format.

        Raises `ImageError` where the format cannot hold so large a picture.
        """
        kind = _format(_end(name)) or "png"
        limit = LONGEST.get(kind)
        if limit is not None and max(pixels.shape) > limit:
            size = f"{pixels.shape[1]}×{pixels.shape[0]}"
            raise ImageError("too_large", f"{kind} holds at most {limit} pixels a side, got {size}; use --format png")
        if photo.alpha is not None and kind != "jpeg":
            pixels = np.dstack([not_over_white(pixels, photo.alpha), photo.alpha])
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, kind, exif=kept(photo.exif, self.keep_location), **self._options(kind))
        return file.getvalue()

    def _options(self, kind: Format) -> dict[str, Any]:
        if kind == "png":
            marked = PngInfo()
            marked.add(b"sRGB", b"\0")
            # of what is painted, a search for repetitions finds nothing, and takes longer than the network
            return {"pnginfo": marked, "compress_level": 1, "compress_type": zlib.Z_RLE}
        options: dict[str, Any] = {"icc_profile": srgb_profile()}
        if kind == "tiff":
            return options  # uncompressed: libtiff, which compresses, takes no EXIF from Pillow
        sampling = {"subsampling": "4:4:4" if self.quality >= SHARP else "4:2:0"} if kind == "jpeg" else {}
        return options | {"quality": self.quality} | sampling


def kept(exif: bytes, location: bool) -> bytes:
    """Return of an EXIF block the dates, and the location where that is wanted, for an upright picture.

    What is broken is as good as none; then, and where there was none, it is empty.
    """
    found, own = Image.Exif(), Image.Exif()
    try:
        found.load(exif)
        camera = found.get_ifd(CAMERA)
        own.update({tag: found[tag] for tag in DATES[0] if tag in found})
        if dates := {tag: camera[tag] for tag in DATES[1] if tag in camera}:
            own[CAMERA] = dates
        if location and (place := found.get_ifd(LOCATION)):
            own[LOCATION] = dict(place)
        if own:
            own[ORIENTATION] = 1
        block = own.tobytes() if own else b""
        return block if len(block) < LONGEST_EXIF else b""
    except Exception:  # whatever Pillow raises on foreign bytes
        return b""


@cache
def srgb_profile() -> bytes:
    """Return a profile of sRGB, with the same date each time."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return profile[:24] + np.array([2000, 1, 1, 0, 0, 0], ">u2").tobytes() + profile[36:]


def _end(path: bytes) -> bytes:
    name = path.rpartition(b"/")[2]
    stem, dot, end = name.rpartition(b".")
    return dot + end if stem else b""


def _format(end: bytes) -> Format | None:
    return next((kind for kind, ends in SUFFIXES.items() if end.lower() in ends), None)


def _bytes_per_pixel(kind: Format, quality: int) -> float:
    """As measured on paintings with their grain, of qualities 60 to 95."""
    return {"png": 2.3, "tiff": 3.0, "jpeg": 6 / (102 - quality), "webp": 4 / (102 - quality)}[kind]
