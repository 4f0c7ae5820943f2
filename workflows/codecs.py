"""Readers by format: `(data, max_pixels) -> Decoded`, each checks the size in the header before it decodes.

JPEG is decoded strictly by libjpeg-turbo: a warning of the decoder is an error here. PNG is taken apart chunk by chunk
(checksums, and only the chunks that make up the first picture) and decoded by libpng; everything else is read by
Pillow's plugin for its format, HEIC by that of pillow-heif.
"""

import io
import struct
import threading
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import simplejpeg  # type: ignore[import-untyped]
from numpy.typing import NDArray
from PIL import (
    AvifImagePlugin,
    BmpImagePlugin,
    GifImagePlugin,
    Image,
    ImageFile,
    JpegImagePlugin,
    PpmImagePlugin,
    TiffImagePlugin,
    WebPImagePlugin,
)

from .color import Pixels, eight_bits, is_srgb, orientation, over_white, srgb, upright

MAX_PIXELS = 2**27


class Decoded(NamedTuple):
    """An upright picture over white, uint8 (H, W, 3), its alpha (H, W) where it has one, and its EXIF as it came."""

    pixels: Pixels
    alpha: Pixels | None = None
    exif: bytes = b""


Status = Literal["missing", "unreadable", "unsupported", "decode_failed", "too_large"]


class ImageError(Exception):
    """One image cannot be had: `status` for the row's column, `message` in one line of at most 500 characters."""

    def __init__(self, status: Status, message: str) -> None:
        line = "".join(letter if letter.isprintable() else " " for letter in message)
        self.status: Status = status
        self.message = " ".join(line.split())[:500]
        super().__init__(status, self.message)

    def __str__(self) -> str:
        return self.message


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width < 1 or height < 1:
        raise ImageError("decode_failed", f"the header says {width}×{height} pixels")
    if width * height > max_pixels:
        raise ImageError("too_large", f"{width}×{height} = {width * height} pixels; --max-pixels is {max_pixels}")


# JPEG


@dataclass
class _JpegHeader:
    precision: int
    height: int
    width: int
    components: int
    adobe: bool
    exif: bytes
    profile: bytes


def _jpeg_header(data: bytes) -> _JpegHeader:
    position, frame, adobe, exif, profile = 2, (0, 0, 0, 0), False, b"", {}
    while True:
        marker, length = _jpeg_marker(data, position)
        body = data[position + 4 : position + 2 + length]
        if marker == 0xDA:
            break
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            frame = struct.unpack(">BHHB", body[:6])
        elif marker == 0xE1 and body.startswith(b"Exif\0\0"):
            exif = exif or body
        elif marker == 0xE2 and body.startswith(b"ICC_PROFILE\0") and len(body) > 14:
            profile[body[12]] = body[14:]
        elif marker == 0xEE and body.startswith(b"Adobe"):
            adobe = True
        position += 2 + length
    return _JpegHeader(*frame, adobe, exif, b"".join(profile[index] for index in sorted(profile)))


def _jpeg_marker(data: bytes, position: int) -> tuple[int, int]:
    """Return code and length of the segment at `position`."""
    while data[position : position + 2] == b"\xff\xff":  # fill bytes are allowed before a marker
        position += 1
    if position + 4 > len(data):
        raise ImageError("decode_failed", "JPEG: the file ends within the header")
    if data[position] != 0xFF:
        raise ImageError("decode_failed", f"JPEG: expected a marker at byte {position}")
    marker, length = struct.unpack_from(">xBH", data, position)
    return marker, length


def _jpeg(data: bytes, max_pixels: int) -> Decoded:
    header = _jpeg_header(data)
    if header.precision not in (0, 8):
        raise ImageError("unsupported", f"JPEG of {header.precision} bits per sample; expected 8")
    _check_size(header.width, header.height, max_pixels)
    return Decoded(upright(_jpeg_pixels(data, header), orientation(header.exif)), None, header.exif)


def _jpeg_pixels(data: bytes, header: _JpegHeader) -> Pixels:
    mode = {1: "L" if header.profile else "RGB", 3: "RGB", 4: "CMYK"}.get(header.components)
    if mode is None:
        raise ImageError("unsupported", f"JPEG of {header.components} components; expected 1, 3 or 4")
    samples = _jpeg_samples(data, mode)
    if mode == "RGB" and is_srgb(header.profile):
        return samples
    if mode == "CMYK" and header.adobe:  # Adobe stores the complement of the ink
        samples = 255 - samples
    return srgb(Image.fromarray(samples, mode), header.profile)


def _jpeg_samples(data: bytes, mode: str) -> Pixels:
    """Return the samples as they are stored: (H, W) for "L", else (H, W, 3 or 4)."""
    try:
        samples: Pixels = simplejpeg.decode_jpeg(data, "GRAY" if mode == "L" else mode)
    except ValueError as error:
        if "subsampling" not in str(error):
            raise
    else:
        return samples[..., 0] if mode == "L" else samples
    # TurboJPEG has no name for the ratio of chroma to luma samples, libjpeg behind Pillow needs none
    if b"\xff\xd9" not in data[data.rindex(b"\xff\xda") :]:
        raise ImageError("decode_failed", "JPEG: the end marker is missing")
    samples = np.array(JpegImagePlugin.JpegImageFile(io.BytesIO(data)).convert(mode))
    return 255 - samples if mode == "CMYK" else samples


# PNG

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def _png(data: bytes, max_pixels: int) -> Decoded:
    chunks = _png_chunks(data, max_pixels)
    samples = _png_samples(chunks)
    image = Image.fromarray(samples[..., 0] if samples.shape[2] == 1 else samples)
    return _decoded(image, _png_profile(chunks.get(b"iCCP", b"")), chunks.get(b"eXIf", b""))


def _decoded(image: Image.Image, profile: bytes, exif: bytes) -> Decoded:
    pixels, alpha = over_white(image, profile)
    turned = orientation(exif)
    return Decoded(upright(pixels, turned), None if alpha is None else upright(alpha, turned), exif)


def _png_samples(chunks: dict[bytes, bytes]) -> Pixels:
    """Return (H, W, 1 to 4): gray, gray and alpha, RGB, RGB and alpha."""
    import cv2

    parts = [_png_chunk(kind, body) for kind, body in chunks.items() if kind not in (b"iCCP", b"eXIf")]
    encoded = np.frombuffer(b"".join((_PNG_SIGNATURE, *parts)), np.uint8)
    # libpng reports what Pillow passes over: rows that are missing behind a valid checksum
    decoded = cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED)
    if decoded is None:
        raise ImageError("decode_failed", "PNG: the compressed data are broken or incomplete")
    samples = cast(NDArray[np.integer], decoded)
    depth, color = chunks[b"IHDR"][8:10]
    if color == 0:
        samples = samples[..., np.newaxis]
        return eight_bits(_with_key(samples, chunks[b"tRNS"], depth) if b"tRNS" in chunks else samples)
    if color == 4:
        return eight_bits(samples[..., [0, 3]])
    order = cv2.COLOR_BGRA2RGBA if samples.shape[2] == 4 else cv2.COLOR_BGR2RGB
    return eight_bits(cast(NDArray[np.integer], cv2.cvtColor(samples, order)))


def _png_chunks(data: bytes, max_pixels: int) -> dict[bytes, bytes]:
    """Return the chunks that make up the first picture, IDAT in one piece; text and animation are left out."""
    kept: dict[bytes, list[memoryview]] = {}
    position, view, kind = len(_PNG_SIGNATURE), memoryview(data), b""
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", data, position) if position + 12 <= len(data) else (0, b"")
        end = position + 12 + length
        if not kind or end > len(data):
            raise ImageError("decode_failed", f"PNG: the file ends within the chunk at byte {position}")
        if kind in (b"IHDR", b"PLTE", b"tRNS", b"iCCP", b"eXIf", b"IDAT", b"IEND"):
            if zlib.crc32(view[position + 4 : end - 4]) != int.from_bytes(view[end - 4 : end]):
                raise ImageError("decode_failed", f"PNG: wrong checksum of chunk {kind.decode()} at byte {position}")
            kept.setdefault(kind, []).append(view[position + 8 : end - 4])
        if b"IHDR" not in kept or len(kept[b"IHDR"][0]) != 13:
            raise ImageError("decode_failed", f"PNG: expected the header first, came chunk {kind!r} of {length} bytes")
        if kind == b"IHDR":
            width, height = struct.unpack(">II", kept[kind][0][:8])
            _check_size(width, height, max_pixels)
        position = end
    return {kind: b"".join(bodies if kind == b"IDAT" else bodies[:1]) for kind, bodies in kept.items()}


def _png_chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(body, zlib.crc32(kind)))


def _png_profile(body: bytes) -> bytes:
    """Return the embedded profile, nothing where it is broken or longer than a megabyte."""
    try:
        inflate = zlib.decompressobj()
        profile = inflate.decompress(body[body.index(b"\0") + 2 :], 2**20)
        return profile if inflate.eof else b""
    except (ValueError, zlib.error):
        return b""


def _with_key(samples: NDArray[np.integer], key: bytes, depth: int) -> NDArray[np.integer]:
    """Return gray and alpha: the one value `key` is transparent (libpng leaves this to the caller)."""
    top = np.iinfo(samples.dtype).max
    transparent = samples == int.from_bytes(key[:2]) * top // (2**depth - 1)
    return np.concatenate([samples, np.where(transparent, 0, top).astype(samples.dtype)], axis=2)


# Every other format, by Pillow

_Plugin = Callable[[io.BytesIO], ImageFile.ImageFile]
_LIMIT_LOCK = threading.Lock()


def _pillow(data: bytes, max_pixels: int, plugin: _Plugin) -> Decoded:
    try:
        return _load(data, max_pixels, plugin)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        with _LIMIT_LOCK:  # Pillow knows one limit for the whole process: lend it ours, then give its own back
            limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, max_pixels
            try:
                return _load(data, max_pixels, plugin)
            except Image.DecompressionBombError as error:
                raise ImageError("too_large", f"{error}; --max-pixels is {max_pixels}") from error
            finally:
                Image.MAX_IMAGE_PIXELS = limit


def _load(data: bytes, max_pixels: int, plugin: _Plugin) -> Decoded:
    # the plugin itself instead of Image.open: no other format is tried, and no limit but ours is applied to the size
    image: Image.Image = plugin(io.BytesIO(data))
    _check_size(image.width, image.height, max_pixels)
    image.load()
    profile, exif = image.info.get("icc_profile") or b"", image.info.get("exif") or b""
    if plugin is TiffImagePlugin.TiffImageFile:
        exif = _tiff_exif(image)
    if image.mode.startswith(("I", "F")):
        image = Image.fromarray(_scaled(np.asarray(image)))
    return _decoded(image, profile, exif)


def _tiff_exif(image: Image.Image) -> bytes:
    """Return what a TIFF file, which is its own EXIF, says of the photograph, but for the picture's description.

    It says nothing of the orientation: Pillow has turned the picture itself while it loaded.
    """
    own = Image.Exif()
    try:
        found = image.getexif()
        for tag in (DATE, CAMERA, LOCATION):
            if tag in found:
                own[tag] = found[tag] if tag == DATE else found.get_ifd(tag)
        return own.tobytes()
    except Exception:  # whatever Pillow raises on a broken one: it is as good as none
        return b""


DATE, CAMERA, LOCATION = 0x0132, 0x8769, 0x8825
"""EXIF's date and time; its folders of the camera's settings and of the location."""


def _heif(data: bytes, max_pixels: int) -> Decoded:
    # Its plugin has turned the picture already, as the container asks, and says so in the EXIF.
    return _pillow(data, max_pixels, heif_plugin())


def heif_plugin() -> Any:
    """Return Pillow's plugin for HEIC; raise `ImageError` with what to install where it is absent."""
    try:
        from pillow_heif import HeifImageFile
    except ImportError as error:
        hint = "HEIC needs the package pillow-heif; install it with pip install 'afterimage[heif]'"
        raise ImageError("unsupported", hint) from error
    return HeifImageFile


def _scaled(samples: NDArray[np.generic]) -> Pixels:
    """Return gray samples (H, W) of more than 8 bits as uint8; the range is [0, 1] or [0, 65535]."""
    values = samples.astype(np.float64)
    top = 1 if np.issubdtype(samples.dtype, np.floating) else 65535
    finite = values[np.isfinite(values)]
    if finite.size < values.size or finite.min() < 0 or finite.max() > top:
        span = f"{finite.min():g} to {finite.max():g}" if finite.size else "no finite value"
        odd = values.size - finite.size
        raise ImageError("decode_failed", f"expected samples of 0 to {top}, came {span}, {odd} not finite")
    return np.rint(values * (255 / top)).astype(np.uint8)


READERS: dict[str, Callable[[bytes, int], Decoded]] = {
    "JPEG": _jpeg,
    "PNG": _png,
    "GIF": partial(_pillow, plugin=GifImagePlugin.GifImageFile),
    "WEBP": partial(_pillow, plugin=WebPImagePlugin.WebPImageFile),
    "BMP": partial(_pillow, plugin=BmpImagePlugin.BmpImageFile),
    "TIFF": partial(_pillow, plugin=TiffImagePlugin.TiffImageFile),
    "AVIF": partial(_pillow, plugin=AvifImagePlugin.AvifImageFile),
    "HEIC": _heif,
    "PNM": partial(_pillow, plugin=PpmImagePlugin.PpmImageFile),
}
