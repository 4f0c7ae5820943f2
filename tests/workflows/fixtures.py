"""Pictures and faulty files, all made by code: encoded bytes by name, and a folder of them with the status of each."""

import io
import os
import struct
import sys
import zlib
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Array = NDArray[Any]


def photograph(height: int, width: int, seed: int = 0) -> Array:
    """Return uint8 (H, W, 3) with a photograph's falling spectrum, an edge, and some noise of the sensor."""
    random = np.random.default_rng(seed)
    pixels = np.full((height, width, 3), random.uniform(80, 170, 3))
    for octave in range(1, 7):
        grid = random.normal(size=(2**octave + 1, 2**octave + 1, 3)).astype(np.float32)
        for channel in range(3):
            layer = Image.fromarray(grid[..., channel]).resize((width, height), Image.Resampling.BICUBIC)
            pixels[..., channel] += 45 / octave * np.asarray(layer)
    y, x = np.mgrid[:height, :width]
    disk = (y - height * random.uniform(0.3, 0.7)) ** 2 + (x - width * random.uniform(0.3, 0.7)) ** 2
    pixels[disk < (min(height, width) / 5) ** 2] = random.uniform(0, 255, 3)
    return (pixels + random.normal(scale=3, size=pixels.shape)).clip(0, 255).astype(np.uint8)


def encoded(pixels: Array | Image.Image, kind: str, **options: Any) -> bytes:
    """Return a file of Pillow's format `kind`."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


# JPEG


def jpeg(pixels: Array | Image.Image, **options: Any) -> bytes:
    """Return a JPEG file, quality 90 unless told."""
    return encoded(pixels, "JPEG", **{"quality": 90, **options})


def exif(orientation: int) -> bytes:
    """Return an EXIF block that states the orientation and nothing else."""
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags.tobytes()


def patched(data: bytes, marker: bytes, offset: int, value: bytes) -> bytes:
    """Return `data` with `value` written `offset` bytes after the first `marker`."""
    start = data.index(marker) + offset
    return data[:start] + value + data[start + len(value) :]


def ycck(pixels: Array) -> bytes:
    """Return a JPEG of four components whose Adobe segment says YCCK, complemented as Adobe does."""
    return patched(jpeg(Image.fromarray(pixels).convert("CMYK")), b"\xff\xee\0\x0eAdobe", 15, b"\2")


def odd_sampling() -> bytes:
    """Return a gray 16×16 JPEG with components sampled 2×2, 2×1 and 1×2: legal, and known to few decoders."""
    data = jpeg(np.full((16, 16, 3), 128, np.uint8), subsampling=0)
    frame, scan = data.index(b"\xff\xc0"), data.index(b"\xff\xda")
    head = bytearray(data[: scan + 14])
    head[frame + 11], head[frame + 14], head[frame + 17] = 0x22, 0x21, 0x12
    head[scan + 6] = head[scan + 8] = head[scan + 10] = 0  # every component by the luma tables
    blocks = int("001010" * 8, 2).to_bytes(6, "big")  # eight times: no change of level, end of block
    return bytes(head) + blocks + b"\xff\xd9"


def flipped(data: bytes) -> bytes:
    """Return the JPEG `data` with one bit in the middle of its body turned, where the decoder cannot see it."""
    import simplejpeg

    for position in range(len(data) // 2, len(data) - 2):
        damaged = data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]
        try:
            simplejpeg.decode_jpeg(damaged)
        except ValueError:
            continue
        return damaged
    raise AssertionError("every turned bit is seen")


# PNG


def chunk(kind: bytes, body: bytes = b"") -> bytes:
    """Return one PNG chunk with its checksum."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(samples: Array, depth: int, color: int, extra: bytes = b"", interlaced: bool = False) -> bytes:
    """Return a PNG of `samples` (H, W, channels): bits, color type, `extra` chunks before the data."""
    height, width = samples.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, interlaced)
    passes = [(0, 0, 1, 1)]
    if interlaced:  # Adam7: first row, first column, row step, column step
        passes = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    raw = b"".join(_rows(samples[y::dy, x::dx], depth) for y, x, dy, dx in passes)
    return PNG + chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(raw)) + chunk(b"IEND")


PNG = b"\x89PNG\r\n\x1a\n"


def _rows(samples: Array, depth: int) -> bytes:
    if not samples.size:
        return b""
    rows = samples.reshape(len(samples), -1)
    if depth < 8:
        bits = np.unpackbits(rows.astype(np.uint8)[..., None], axis=-1)[..., 8 - depth :]
        packed = np.packbits(bits.reshape(len(rows), -1), axis=1)
    else:
        packed = rows.astype(">u2" if depth == 16 else np.uint8)
    return b"".join(b"\0" + row.tobytes() for row in packed)


@cache
def huge_png(side: int = 30000) -> bytes:
    """Return a square one-bit PNG: about 110 kB on disk, 2.7 GB as RGB."""
    length = side * (1 + (side + 7) // 8)
    compress = zlib.compressobj(9, wbits=-15)
    block = compress.compress(bytes(length // 100)) + compress.flush(zlib.Z_FULL_FLUSH)  # a hundredth, repeatable
    checksum = length % 65521 << 16 | 1  # Adler-32 of zeros
    body = b"\x78\xda" + block * 100 + compress.flush() + checksum.to_bytes(4)
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    return PNG + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND")


def apng(frames: int, side: int = 8) -> bytes:
    """Return an animated PNG: the first frame white, the others black."""
    white, black = (zlib.compress((b"\0" + bytes([level]) * side) * side) for level in (255, 0))
    control = struct.pack(">IIIIHHBB", side, side, 0, 0, 1, 10, 0, 0)
    parts = [chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))]
    parts += [chunk(b"acTL", struct.pack(">II", frames, 0)), chunk(b"fcTL", struct.pack(">I", 0) + control)]
    parts += [chunk(b"IDAT", white)]
    for index in range(1, frames):
        parts.append(chunk(b"fcTL", struct.pack(">I", 2 * index - 1) + control))
        parts.append(chunk(b"fdAT", struct.pack(">I", 2 * index) + black))
    return PNG + b"".join(parts) + chunk(b"IEND")


def animated(kind: str, frames: int) -> bytes:
    """Return an animated GIF or WEBP: the first frame white, the others shades below 200."""
    images = [Image.new("L", (8, 8), 255)] + [Image.new("L", (8, 8), index % 200) for index in range(1, frames)]
    return encoded(images[0].convert("RGB"), kind, save_all=True, append_images=[i.convert("RGB") for i in images[1:]])


def long_gif(frames: int = 10_000) -> bytes:
    """Return a GIF of thousands of frames, the first one white and the others like it."""
    one = encoded(Image.new("P", (8, 8), 0), "GIF")
    one = patched(one, b"GIF8", 13, b"\xff\xff\xff")
    start = one.index(b"\x2c")
    return one[:start] + one[start:-1] * frames + b";"


# Profiles

COLORANTS = (b"rXYZ", b"gXYZ", b"bXYZ")


def profile(primaries: Iterable[tuple[float, float, float]], gamma: float, space: bytes = b"RGB ") -> bytes:
    """Return a minimal ICC profile, version 2: the colorants as D50 XYZ, one gamma for all channels.

    With `space` b"GRAY" the colorants are left out.
    """
    white = _fixed((0.9642, 1.0, 0.8249))
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)
    tags = [(b"desc", b"desc" + bytes(4) + struct.pack(">I", 5) + b"made\0" + bytes(79))]
    tags += [(b"wtpt", b"XYZ " + bytes(4) + white)]
    if space == b"GRAY":
        tags += [(b"kTRC", curve)]
    else:
        tags += [(name, b"XYZ " + bytes(4) + _fixed(xyz)) for name, xyz in zip(COLORANTS, primaries, strict=True)]
        tags += [(name, curve) for name in (b"rTRC", b"gTRC", b"bTRC")]
    table, bodies, offset = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for name, body in tags:
        body += bytes(-len(body) % 4)
        table += name + struct.pack(">II", offset + len(bodies), len(body))
        bodies += body
    head = struct.pack(">I4sI4s4s4s", offset + len(bodies), bytes(4), 0x02100000, b"mntr", space, b"XYZ ")
    head += struct.pack(">6H4s", 2026, 1, 1, 0, 0, 0, b"acsp") + bytes(28) + white
    return head.ljust(128, b"\0") + table + bodies


def _fixed(values: tuple[float, ...]) -> bytes:
    return struct.pack(f">{len(values)}i", *(round(value * 65536) for value in values))


# D50-adapted colorants; Adobe RGB (1998) with gamma 563/256, and sRGB's with its mean gamma
ADOBE = ((0.60974, 0.31111, 0.01947), (0.20528, 0.62567, 0.06087), (0.14919, 0.06322, 0.74457))
SRGB = ((0.43607, 0.22249, 0.01392), (0.38515, 0.71687, 0.09708), (0.14307, 0.06061, 0.71410))


def adobe_profile() -> bytes:
    """Return a profile with the colorants and the gamma of Adobe RGB (1998)."""
    return profile(ADOBE, 563 / 256)


# Files


def good_files() -> dict[str, bytes]:
    """Return by name the files that have to decode."""
    pixels = photograph(48, 64)
    image = Image.fromarray(pixels)
    gray = image.convert("L")
    deep = np.random.default_rng(1).integers(0, 2**16, (24, 32, 3))
    alpha = np.dstack([pixels, np.linspace(0, 255, pixels[..., 0].size).reshape(48, 64).astype(np.uint8)])
    text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(30_000_000)))
    files = {
        "plain.jpg": jpeg(pixels),
        "flipped.jpg": flipped(jpeg(pixels)),
        "long.jpg": jpeg(np.zeros((1, 65500, 3), np.uint8)),
        "progressive.jpg": jpeg(pixels, progressive=True),
        "gray.jpg": jpeg(gray),
        "cmyk.jpg": jpeg(image.convert("CMYK")),
        "ycck.jpg": ycck(pixels),
        "wide-gamut.jpg": jpeg(pixels, icc_profile=adobe_profile()),
        "broken-profile.jpg": jpeg(pixels, icc_profile=b"no profile"),
        "broken-exif.jpg": jpeg(pixels, exif=b"Exif\0\0MM\0*\xff\xff\xff\xff"),
        "odd-sampling.jpg": odd_sampling(),
        "sixteen.png": png(deep, 16, 2),
        "alpha.png": encoded(alpha, "PNG"),
        "palette.png": encoded(image.quantize(16), "PNG", transparency=3),
        "interlaced.png": png(pixels, 8, 2, interlaced=True),
        "text.png": png(pixels, 8, 2, text),
        "animated.png": apng(3),
        "animated.gif": animated("GIF", 3),
        "animated.webp": animated("WEBP", 3),
        "long.gif": long_gif(),
        "plain.webp": encoded(pixels, "WEBP", lossless=True),
        "plain.avif": encoded(pixels, "AVIF"),
        "plain.bmp": encoded(pixels, "BMP"),
        "plain.ppm": encoded(pixels, "PPM"),
        "pages.tiff": encoded(image, "TIFF", save_all=True, append_images=[image.rotate(180)]),
        "tiled.tiff": encoded(image, "TIFF", compression="tiff_adobe_deflate", tiffinfo={322: 16, 323: 16}),
        "float.tiff": encoded(np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8), "TIFF"),
        "one.png": encoded(pixels[:1, :1], "PNG"),
        "column.png": encoded(pixels[:, :1], "PNG"),
        "constant.png": encoded(np.full((40, 40, 3), 90, np.uint8), "PNG"),
        "wrong-ending.png": jpeg(pixels),
        **{f"exif-{index}.jpg": jpeg(pixels, exif=exif(index)) for index in range(1, 9)},
        **{f"bits-{depth}.png": png(np.arange(2**depth)[None, :, None], depth, 0) for depth in (1, 2, 4, 8)},
    }
    return files


def bad_files() -> dict[str, tuple[bytes, str]]:
    """Return by name the files that must not decode, each with its status."""
    photo, picture = jpeg(photograph(48, 64)), png(photograph(24, 32), 8, 2)
    nan = np.full((8, 8), np.nan, np.float32)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 32, 24, 8, 2, 0, 0, 0))
    page = b"<!DOCTYPE html>\n<html><body>404 Not Found</body></html>\n"
    stub = PNG + chunk(b"IHDR", struct.pack(">IIBBBBB", 40000, 40000, 8, 2, 0, 0, 0)) + chunk(b"IDAT") + chunk(b"IEND")
    bad: dict[str, dict[str, bytes]] = {
        "decode_failed": {
            "empty.jpg": b"",
            **{f"cut-{share}.jpg": photo[: len(photo) * share // 100] for share in (10, 50, 99)},
            "no-end.jpg": photo[:-2],
            "no-rows.jpg": patched(photo, b"\xff\xc0", 5, b"\0\0"),
            "odd-no-end.jpg": odd_sampling()[:-2],
            "no-pixels.png": png(np.zeros((0, 5, 1)), 8, 0),
            "checksum.png": patched(picture, b"IDAT", 20, bytes([picture[picture.index(b"IDAT") + 20] ^ 1])),
            "cut.png": picture[: len(picture) // 2],
            "no-end.png": picture[:-12],
            "few-rows.png": PNG + header + chunk(b"IDAT", zlib.compress(bytes(97 * 12))) + chunk(b"IEND"),
            "cut.gif": encoded(photograph(24, 32), "GIF")[:-200],
            "cut.webp": animated("WEBP", 2)[:-20],
            "cut.tiff": encoded(photograph(24, 32), "TIFF")[:-700],
            "cut.bmp": encoded(photograph(24, 32), "BMP")[:-700],
            "nan.tiff": encoded(nan, "TIFF"),
            "range.tiff": encoded(np.full((8, 8), 300, np.float32), "TIFF"),
        },
        "unsupported": {
            "one-byte.jpg": b"\xff",
            "random.jpg": np.random.default_rng(5).bytes(2000),
            "text.jpg": b"This is no picture.\n",
            "page.jpg": page,
            "drawing.png": b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>\n',
            "paper.jpg": b"%PDF-1.7\n",
            "layers.jpg": b"8BPS\0\1" + bytes(60),
            "figure.jpg": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
            "twelve-bit.jpg": patched(photo, b"\xff\xc0", 4, b"\x0c"),
        },
        "too_large": {"huge-1-bit.png": huge_png(), "huge-header.png": stub},
    }
    return {name: (data, status) for status, files in bad.items() for name, data in files.items()}


def nasty_names() -> list[bytes]:
    """Return file names (paths, some of them) that break what quotes, escapes or decodes carelessly."""
    names = [
        "new\nline.jpg",
        "quo\"te's`.jpg",
        "<script>alert(1)<",  # a folder: with the next component the path holds a whole element
        "&amp;%41%2F$HOME.jpg",
        "emoji 🦊.jpg",
        "right\u200f\u202etoleft.jpg",
        "n" * 246 + ".jpg",
        "-rf.jpg",
        "several.dots..in.it.jpg",
        " .jpg",
        "twin.jpg",
        "twin.png",
        "a/same.jpg",
        "b/same.jpg",
    ]
    encoded_names = [os.fsencode(name if not name.endswith("<") else name + "/script>.jpg") for name in names]
    return [*encoded_names, b"latin-\xe9\xff.jpg"] if sys.platform == "linux" else encoded_names


def write_faulty(folder: Path) -> dict[bytes, str]:
    """Fill `folder` with good and faulty files; return path below it (bytes) → the status of its row."""
    root, expected = os.fsencode(folder), {}
    os.makedirs(root, exist_ok=True)
    files = {os.fsencode(name): (data, "ok") for name, data in good_files().items()}
    files |= {os.fsencode(name): value for name, value in bad_files().items()}
    files |= {name: (jpeg(photograph(40, 56, index)), "ok") for index, name in enumerate(nasty_names())}
    for name, (data, status) in files.items():
        path = os.path.join(root, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(data)
        expected[name] = status
    return expected | _write_special(folder)


def _write_special(folder: Path) -> dict[bytes, str]:
    """Make what is no regular file; a forbidden file only where we are not root, who may read everything."""
    (folder / "folder.png").mkdir()
    (folder / "dangling.jpg").symlink_to("nowhere.jpg")
    (folder / "loop.jpg").symlink_to("loop.jpg")
    os.mkfifo(folder / "pipe.jpg")
    special = {b"folder.png": "unreadable", b"pipe.jpg": "unreadable"}
    special |= {b"dangling.jpg": "missing", b"loop.jpg": "missing"}
    if os.geteuid() != 0:
        (folder / "forbidden.jpg").write_bytes(jpeg(photograph(8, 8)))
        (folder / "forbidden.jpg").chmod(0)
        special[b"forbidden.jpg"] = "unreadable"
    return special
