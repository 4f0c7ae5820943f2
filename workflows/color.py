"""Color and orientation of a decoded picture: to upright 8-bit sRGB, its alpha apart.

An embedded profile is applied relative to the white point; a broken one, or one for other channels than the picture's,
is as good as none: the picture counts as sRGB.
"""

import io
import struct
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms

Pixels = NDArray[np.uint8]

# 65535 = 255 · 257, an odd factor: round(v / 257) has no ties
_SIXTEEN_TO_EIGHT = ((np.arange(65536) + 128) // 257).astype(np.uint8)


def eight_bits(samples: NDArray[np.integer]) -> Pixels:
    """Return samples of 8 or 16 bits as uint8, rounded."""
    eight: Pixels = _SIXTEEN_TO_EIGHT[samples] if samples.dtype == np.uint16 else samples.astype(np.uint8, copy=False)
    return np.ascontiguousarray(eight)


def over_white(image: Image.Image, profile: bytes) -> tuple[Pixels, Pixels | None]:
    """Return sRGB (H, W, 3), transparent parts white: round((a c + (255 - a) 255) / 255), and the alpha (H, W)."""
    alpha = None
    if image.has_transparency_data:
        image = image.convert("LA" if image.mode in ("1", "L", "LA") else "RGBA")
        alpha = image.getchannel("A")
        image = image.convert("L" if image.mode == "LA" else "RGB")
    elif image.mode not in ("L", "RGB", "CMYK"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    pixels = srgb(image, profile)
    if alpha is None:
        return pixels, None
    canvas = Image.new("RGB", image.size, "white")
    canvas.paste(Image.fromarray(pixels), mask=alpha)
    return np.array(canvas), np.array(alpha)


def not_over_white(pixels: Pixels, alpha: Pixels) -> Pixels:
    """Return the colors that give `pixels` (H, W, 3) over white, as near as they can: `over_white` undone."""
    opacity = np.maximum(alpha, 1).astype(np.int32)[..., None]
    colors = 255 - ((255 - pixels.astype(np.int32)) * 255 + opacity // 2) // opacity
    return np.where(alpha[..., None] == 255, pixels, colors.clip(0, 255)).astype(np.uint8)


def srgb(image: Image.Image, profile: bytes) -> Pixels:
    """Return a picture of mode L, RGB or CMYK as sRGB (H, W, 3)."""
    conversion = _transform(profile, image.mode)
    if conversion is None:
        return np.array(image.convert("RGB"))
    mode, transform = conversion
    return np.array(transform.apply(image.convert(mode)))


def is_srgb(profile: bytes) -> bool:
    """Tell whether RGB under this profile needs no conversion (also where the profile is none or broken)."""
    return _transform(profile, "RGB") is None


@lru_cache(maxsize=32)
def _transform(profile: bytes, mode: str) -> tuple[str, ImageCms.ImageCmsTransform] | None:
    """Return the mode to convert to and the transform to sRGB; None where the profile is sRGB, unfit or broken."""
    if not profile:
        return None
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        channels = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}.get(source.profile.xcolor_space.strip(), "")
        if channels != mode and (channels, mode) != ("RGB", "L"):
            return None
        target = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
        intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
        transform = ImageCms.ImageCmsTransform(source, target, channels, "RGB", intent)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None
    return None if channels == "RGB" and _is_identity(transform) else (channels, transform)


def _is_identity(transform: ImageCms.ImageCmsTransform) -> bool:
    """Tell whether a lattice of 17³ colors moves by two levels at most: so far apart are the sRGB profiles around."""
    steps = np.linspace(0, 255, 17).round().astype(np.uint8)
    lattice = np.stack(np.meshgrid(steps, steps, steps), axis=-1).reshape(17, -1, 3)
    moved = np.asarray(transform.apply(Image.fromarray(lattice))).astype(int)
    return bool(np.abs(moved - lattice).max() <= 2)


def orientation(exif: bytes) -> int:
    """Return the orientation 1–8 that EXIF states; 1 where it states none or is broken."""
    tiff = exif.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(tiff[:4])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(f"{order}I", tiff, 4)
        (count,) = struct.unpack_from(f"{order}H", tiff, start)
        for entry in range(count):
            tag, _, _, value = struct.unpack_from(f"{order}HHIH", tiff, start + 2 + 12 * entry)
            if tag == 0x0112:
                return value if 1 <= value <= 8 else 1
    except struct.error:  # it ends before it should
        return 1
    return 1


def upright(pixels: Pixels, orientation: int) -> Pixels:
    """Return (H, W, …) turned and mirrored as EXIF's `orientation` 1–8 asks for."""
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return np.ascontiguousarray(pixels)
