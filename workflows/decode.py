"""Image files: bytes in, pixels out, or an `ImageError` that names the status of the row.

Pixels are upright (EXIF), 8-bit sRGB, the first frame, alpha over white: uint8 (H, W, 3).
What a file is, its first bytes decide, never its name.
"""

import errno
import os
import stat
import struct
from typing import NoReturn

from PIL import Image

from .codecs import MAX_PIXELS, READERS, Decoded, ImageError, heif_plugin
from .color import Pixels

__all__ = ["MAX_BYTES", "MAX_PIXELS", "Decoded", "ImageError", "decode", "decode_photo", "read", "size_of"]

MAX_BYTES = 2**30
FORMATS = [*(name for name in READERS if name not in ("PNM", "HEIC")), "PPM"]
"""The readers' names as Pillow has them, of its own plugins."""


def read(path: bytes | str) -> bytes:
    """Return the bytes of a regular local file.

    Raises:
        ImageError: `missing`, `unreadable` (no regular file, no permission, input/output error) or `too_large`.
    """
    try:
        # without O_NONBLOCK the opening of a FIFO waits for its writer
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb", buffering=0) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise ImageError("unreadable", f"expected a regular file, came a {_file_type(status.st_mode)}")
            if status.st_size > MAX_BYTES:
                raise ImageError("too_large", f"{status.st_size} bytes; at most {MAX_BYTES} are read")
            return file.readall()
    except (OSError, ValueError) as error:
        _refuse(error)


def size_of(path: bytes) -> tuple[int, int] | None:
    """Return height and width of the upright picture in a file, as its header says; None where that cannot be had."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return None
            head = file.read(64)
            file.seek(0)
            with heif_plugin()(file) if _is_heic(head) else Image.open(file, formats=FORMATS) as image:
                turned = image.getexif().get(0x0112, 1) in (5, 6, 7, 8)
                return image.size if turned else image.size[::-1]
    except Exception:  # whatever is wrong with the file, its row will tell
        return None


def _refuse(error: OSError | ValueError) -> NoReturn:
    if isinstance(error, IsADirectoryError):
        raise ImageError("unreadable", "expected a regular file, came a directory") from error
    if isinstance(error, OSError):
        gone = error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)
        raise ImageError("missing" if gone else "unreadable", error.strerror or str(error)) from error
    raise ImageError("unreadable", f"no possible path: {error}") from error


def _file_type(mode: int) -> str:
    kinds = {stat.S_IFDIR: "directory", stat.S_IFIFO: "FIFO", stat.S_IFSOCK: "socket"}
    return kinds.get(stat.S_IFMT(mode), "device")


def decode(data: bytes, max_pixels: int = MAX_PIXELS) -> Pixels:
    """Return the picture in `data`: uint8 (H, W, 3), contiguous, sRGB, upright, first frame, alpha over white.

    Samples of 16 bits are rounded to 8; floating-point samples have to lie in [0, 1]. The size is taken from the
    header, before anything is decoded.

    Raises:
        ImageError: `unsupported` (no allowed format), `too_large` (more than `max_pixels`), `decode_failed`.
    """
    return decode_photo(data, max_pixels).pixels


def decode_photo(data: bytes, max_pixels: int = MAX_PIXELS) -> Decoded:
    """Return the picture in `data` as `decode` does, with its alpha and its EXIF."""
    if not data:
        raise ImageError("decode_failed", "the file is empty")
    name = _format(data)
    try:
        return READERS[name](data, max_pixels)
    except ImageError:
        raise
    except Exception as error:  # whatever a decoder raises on foreign bytes is the fault of this one image
        raise ImageError("decode_failed", f"{name}: {error or type(error).__name__}") from error


_SIGNATURES = (
    ("JPEG", b"\xff\xd8\xff"),
    ("PNG", b"\x89PNG\r\n\x1a\n"),
    ("GIF", b"GIF87a"),
    ("GIF", b"GIF89a"),
    ("TIFF", b"II*\0"),
    ("TIFF", b"MM\0*"),
    ("TIFF", b"II+\0"),
    ("TIFF", b"MM\0+"),
)
_FOREIGN = (
    ("a PDF", b"%PDF"),
    ("a Photoshop file", b"8BPS"),
    ("an EPS file", b"%!PS"),
    ("an EPS file", b"\xc5\xd0\xd3\xc6"),
    ("an SVG drawing", b"<svg"),
    ("an HTML page", b"<!doctype html"),
    ("an HTML page", b"<html"),
    ("an XML document", b"<?xml"),
    ("JPEG 2000", b"\0\0\0\x0cjP"),
    ("JPEG XL", b"\xff\x0a"),
    ("JPEG XL", b"\0\0\0\x0cJXL"),
    ("a zip archive", b"PK\x03\x04"),
    ("gzip", b"\x1f\x8b"),
)


def _format(data: bytes) -> str:
    """Return which of the allowed formats the first bytes announce."""
    head = data[:64]
    for name, signature in _SIGNATURES:
        if head.startswith(signature):
            return name
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[:2] == b"BM" and head[14:18] in [struct.pack("<I", size) for size in (12, 16, 40, 52, 56, 64, 108, 124)]:
        return "BMP"
    if head[4:8] == b"ftyp" and (b"avif" in head[8:] or b"avis" in head[8:]):
        return "AVIF"
    if _is_heic(head):
        return "HEIC"
    if head[:1] == b"P" and head[1:2] in b"123456" and head[2:3] in (b" ", b"\t", b"\r", b"\n", b"#"):
        return "PNM"
    raise ImageError("unsupported", f"{_guess(data)}; expected one of {', '.join(READERS)}")


def _is_heic(head: bytes) -> bool:
    """Tell whether a container names one of HEIC's brands, and none of AVIF's."""
    brands = head[8 : int.from_bytes(head[:4])] if head[4:8] == b"ftyp" else b""
    named = {brands[place : place + 4] for place in range(0, len(brands), 4)}
    return bool(named & {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx"}) and not named & {b"avif", b"avis"}


def _guess(data: bytes) -> str:
    text = data[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for name, signature in _FOREIGN:
        if text.startswith(signature.lower()):
            return f"seems to be {'an SVG drawing' if b'<svg' in text else name}"
    if data[4:8] == b"ftyp":
        return f"seems to be a {data[8:12]!r} container"
    return f"starts with {data[:16]!r}"
