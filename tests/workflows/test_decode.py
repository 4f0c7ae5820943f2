import errno
import io
import os
import pickle
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageCms, ImageFile, ImageOps

from afterimage.workflows.decode import MAX_BYTES, MAX_PIXELS, ImageError, decode, read
from tests.workflows import fixtures
from tests.workflows.fixtures import chunk, encoded, exif, jpeg, photograph, png

PHOTO = photograph(48, 64, seed=3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("faulty")
    return root, fixtures.write_faulty(root)


def status_of(data, **options):
    with pytest.raises(ImageError) as caught:
        decode(data, **options)
    assert len(caught.value.message) <= 500
    assert caught.value.message.isprintable()
    return caught.value.status


def pillow(data):
    return np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB"))


# Every fault


def outcome(make):
    """Return "ok" and the pixels, or the status and nothing."""
    try:
        pixels = make()
    except ImageError as error:
        return error.status, None
    return "ok", pixels


def test_every_file_of_the_faulty_folder_gets_its_status(folder):
    root, expected = folder
    got = {name: outcome(lambda name=name: decode(read(os.path.join(os.fsencode(root), name)))) for name in expected}
    assert {name: status for name, (status, _) in got.items()} == expected
    assert set(expected.values()) == {"ok", "missing", "unreadable", "unsupported", "decode_failed", "too_large"}
    for _, pixels in got.values():
        if pixels is not None:
            assert pixels.dtype == np.uint8
            assert pixels.ndim == 3
            assert pixels.shape[2] == 3
            assert pixels.flags.c_contiguous
            assert pixels.flags.writeable


def test_random_damage_of_heic_gives_pixels_or_a_status():
    pillow_heif = pytest.importorskip("pillow_heif")
    file = io.BytesIO()
    pillow_heif.from_pillow(Image.fromarray(PHOTO)).save(file)
    random = np.random.default_rng(4)
    for _ in range(40):
        data = bytearray(file.getvalue()[: random.integers(1, len(file.getvalue()) + 1)])
        for position in random.integers(0, len(data), random.integers(0, 4)):
            data[position] = random.integers(256)
        assert outcome(lambda data=data: decode(bytes(data)))[0] in ("ok", "unsupported", "decode_failed", "too_large")


def test_damage_that_no_decoder_sees_changes_pixels_and_is_ok():
    data = jpeg(PHOTO)
    assert not np.array_equal(decode(fixtures.flipped(data)), decode(data))


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"%PDF-1.4", "PDF"),
        (b"8BPS\0\1", "Photoshop"),
        (b"\n <!DOCTYPE HTML>", "HTML"),
        (b"<?xml version='1.0'?><svg>", "SVG"),
        (b"\0\0\0\x18ftypqt  \0\0\0\0", "qt"),
        (b"BMW is a car maker", "BMW is"),
        (b"hello", "b'hello'"),
        (b"\x89", "b'\\x89'"),
    ],
)
def test_unsupported_content_is_named(data, said):
    with pytest.raises(ImageError, match="expected one of JPEG, PNG") as caught:
        decode(data)
    assert caught.value.status == "unsupported"
    assert said in caught.value.message


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF", "PPM"])
def test_random_damage_gives_pixels_or_a_status(kind):
    random = np.random.default_rng(len(kind))
    whole = encoded(PHOTO, kind)
    for _ in range(40):
        data = bytearray(whole[: random.integers(1, len(whole) + 1)] if random.random() < 0.5 else whole)
        for position in random.integers(0, len(data), random.integers(0, 4)):
            data[position] = random.integers(256)
        assert outcome(lambda data=data: decode(bytes(data)))[0] in ("ok", "unsupported", "decode_failed", "too_large")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF", "PPM"])
def test_size_is_checked_before_decoding_and_pillows_limit_does_not_matter(kind, monkeypatch):
    data = encoded(PHOTO, kind)
    assert decode(data, max_pixels=48 * 64).shape == (48, 64, 3)
    with pytest.raises(ImageError, match=r"64×48 = 3072 pixels; --max-pixels is 3071"):
        decode(data, max_pixels=48 * 64 - 1)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert decode(data).shape == (48, 64, 3)
    assert Image.MAX_IMAGE_PIXELS == 100


def test_a_large_webp_is_refused_by_our_limit():
    data = encoded(np.zeros((20, 30, 3), np.uint8), "WEBP")
    lossless = encoded(np.zeros((20, 30, 4), np.uint8), "WEBP", lossless=True)
    wide = fixtures.patched(lossless, b"VP8L", 9, b"\xff\xff\xff\x1f")
    assert status_of(wide) == "too_large"  # 16384×16384: beyond the point where Pillow itself refuses
    assert status_of(data, max_pixels=10) == "too_large"


def test_pillow_is_left_as_it_was():
    assert Image.MAX_IMAGE_PIXELS == 89_478_485
    assert not ImageFile.LOAD_TRUNCATED_IMAGES
    assert MAX_PIXELS == 2**27


# JPEG


@pytest.mark.parametrize(
    "options", [{}, {"progressive": True}, {"subsampling": 0}, {"quality": 30}, {"keep_rgb": True}]
)
def test_jpeg_is_what_pillow_decodes(options):
    data = jpeg(PHOTO, **options)
    np.testing.assert_array_equal(decode(data), pillow(data))


def test_gray_and_four_component_jpegs_are_what_pillow_decodes():
    image = Image.fromarray(PHOTO)
    for data in (jpeg(image.convert("L")), jpeg(image.convert("CMYK")), fixtures.ycck(PHOTO)):
        np.testing.assert_array_equal(decode(data), pillow(data))
    assert np.abs(decode(jpeg(image.convert("CMYK"), quality=98)).astype(int) - PHOTO).mean() < 3


def test_ink_without_adobes_segment_is_not_complemented():
    data = jpeg(Image.fromarray(PHOTO).convert("CMYK"))
    start = data.index(b"\xff\xee")
    plain = data[:start] + data[start + 16 :]
    ink = np.asarray(Image.open(io.BytesIO(data)))
    expected = Image.frombytes("CMYK", (64, 48), (255 - ink).tobytes()).convert("RGB")
    np.testing.assert_array_equal(decode(plain), np.asarray(expected))


def test_odd_chroma_sampling_is_decoded():
    assert (decode(fixtures.odd_sampling()) == 128).all()


def test_trailing_bytes_after_the_end_do_not_matter():
    np.testing.assert_array_equal(decode(jpeg(PHOTO) + b"more"), decode(jpeg(PHOTO)))


# Orientation


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("kind", "options"), [("JPEG", {}), ("PNG", {}), ("WEBP", {"lossless": True}), ("AVIF", {})])
def test_exif_orientation_is_applied_exactly(kind, options, orientation):
    data = encoded(PHOTO, kind, exif=exif(orientation), **options)
    upright = decode(encoded(PHOTO, kind, **options))
    np.testing.assert_array_equal(decode(data), pillow(data))
    turned = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, -1),
        7: np.rot90(upright, 2).transpose(1, 0, 2),
        8: np.rot90(upright, 1),
    }
    np.testing.assert_array_equal(decode(data), turned[orientation])


@pytest.mark.parametrize("compression", [None, "tiff_lzw"])
def test_tiff_is_turned_once(compression):
    data = encoded(PHOTO, "TIFF", compression=compression, tiffinfo={274: 6})
    np.testing.assert_array_equal(decode(data), np.rot90(PHOTO, -1))


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_impossible_orientation_is_ignored(orientation):
    data = fixtures.patched(jpeg(PHOTO, exif=exif(6)), b"\x01\x12\0\x03\0\0\0\x01", 8, orientation.to_bytes(2))
    np.testing.assert_array_equal(decode(data), decode(jpeg(PHOTO)))


# Color


def adobe_to_srgb(rgb):
    """Adobe RGB (1998) in [0, 1] to sRGB in [0, 1] by the definitions of both, over XYZ under D65."""
    to_xyz = [[0.57667, 0.18556, 0.18823], [0.29734, 0.62736, 0.07529], [0.02703, 0.07069, 0.99134]]
    to_linear = [[3.24063, -1.53721, -0.49863], [-0.96893, 1.87576, 0.04152], [0.05571, -0.20402, 1.05700]]
    linear = (np.array(to_linear) @ np.array(to_xyz) @ np.power(rgb, 563 / 256)).clip(0, 1)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * np.power(linear, 1 / 2.4) - 0.055)


@pytest.mark.parametrize("color", [(128, 128, 128), (90, 160, 120), (200, 60, 40), (0, 255, 0), (30, 40, 200)])
def test_wide_gamut_is_converted(color):
    pixels = np.full((16, 16, 3), color, np.uint8)
    got = decode(encoded(pixels, "PNG", icc_profile=fixtures.adobe_profile()))
    # two levels: the profile's numbers are rounded to 1/65536, the transform's tables to 8 bits
    np.testing.assert_allclose(got[3, 3], 255 * adobe_to_srgb(np.array(color) / 255), atol=2)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_conversion_is_littlecms_own(kind):
    data = encoded(PHOTO, kind, icc_profile=fixtures.adobe_profile())
    image = Image.open(io.BytesIO(data))
    source = ImageCms.ImageCmsProfile(io.BytesIO(fixtures.adobe_profile()))
    intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
    expected = ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), intent, outputMode="RGB")
    np.testing.assert_array_equal(decode(data), np.asarray(expected))
    assert np.abs(decode(data).astype(int) - np.asarray(image)).max() > 10


def test_gray_profile_is_applied_to_gray():
    profile = fixtures.profile((), 1.8, b"GRAY")
    levels = np.arange(32, 256)
    linear = (levels / 255) ** 1.8
    srgb = 255 * (1.055 * np.power(linear, 1 / 2.4) - 0.055)
    got = decode(encoded(Image.fromarray(levels[None].astype(np.uint8)), "PNG", icc_profile=profile))
    assert (got == got[..., :1]).all()
    np.testing.assert_allclose(got[0, :, 0], srgb, atol=1)  # littleCMS samples the curve at a few points
    flat = jpeg(Image.new("L", (16, 16), 100), icc_profile=profile)
    np.testing.assert_allclose(decode(flat), srgb[100 - 32], atol=1)
    assert srgb[100 - 32] > 110


def test_srgb_broken_and_unfit_profiles_change_nothing():
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for profile in (srgb, b"broken", fixtures.adobe_profile()[:200], fixtures.profile((), 1.0, b"GRAY")):
        for kind in ("JPEG", "PNG"):
            np.testing.assert_array_equal(
                decode(encoded(PHOTO, kind, icc_profile=profile)), decode(encoded(PHOTO, kind))
            )


# PNG


def over_white(color, alpha):
    return (2 * (color * alpha + (255 - alpha) * 255) + 255) // 510


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(("color", "channels"), [(0, 1), (4, 2), (2, 3), (6, 4)])
def test_sixteen_bits_are_rounded_to_eight(color, channels, interlaced):
    samples = np.random.default_rng(color).integers(0, 2**16, (21, 13, channels))
    samples.flat[:8] = [0, 128, 129, 256, 257, 65406, 65407, 65535]
    eight = np.rint(samples * 255 / 65535).astype(int)
    has_alpha = channels in (2, 4)
    values, alpha = (eight[..., :-1], eight[..., -1:]) if has_alpha else (eight, 255)
    expected = np.broadcast_to(over_white(values, alpha), (21, 13, 3))
    np.testing.assert_array_equal(decode(png(samples, 16, color, interlaced=interlaced)), expected)


def test_known_answers_of_sixteen_bits():
    row = np.array([0, 128, 129, 257, 385, 386, 65535])[None, :, None]
    assert decode(png(row, 16, 0))[0, :, 0].tolist() == [0, 0, 1, 1, 1, 2, 255]


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_gray_of_few_bits_and_its_transparent_value(depth, interlaced):
    samples = np.random.default_rng(depth).integers(0, 2**depth, (19, 23, 1))
    data = png(samples, depth, 0, interlaced=interlaced)
    expected = np.repeat(samples * 255 // (2**depth - 1), 3, axis=2)
    np.testing.assert_array_equal(decode(data), expected)
    keyed = png(samples, depth, 0, chunk(b"tRNS", b"\0\0"), interlaced)
    np.testing.assert_array_equal(decode(keyed), np.where(samples == 0, 255, expected))


def test_transparent_value_of_sixteen_bits():
    gray = np.arange(1000, 1012).reshape(3, 4, 1)
    color = np.concatenate([gray, gray + 1, gray + 2], axis=2)
    for samples, kind, key in ((gray, 0, [1005]), (color, 2, [1005, 1006, 1007])):
        data = png(samples, 16, kind, chunk(b"tRNS", b"".join(value.to_bytes(2) for value in key)))
        white = (decode(data) == 255).all(axis=2)
        np.testing.assert_array_equal(white, gray[..., 0] == 1005)


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_palette_with_transparency(depth):
    random = np.random.default_rng(depth)
    palette, alpha = random.integers(0, 256, (2**depth, 3)), random.integers(0, 256, 2**depth)
    indices = random.integers(0, 2**depth, (9, 14, 1))
    extra = chunk(b"PLTE", palette.astype(np.uint8).tobytes()) + chunk(b"tRNS", alpha.astype(np.uint8).tobytes())
    expected = over_white(palette, alpha[:, None])[indices[..., 0]]
    np.testing.assert_array_equal(decode(png(indices, depth, 3, extra)), expected)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_alpha_is_laid_over_white_with_rounding(kind):
    pixels = np.random.default_rng(2).integers(0, 256, (32, 32, 4)).astype(np.uint8)
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    expected = over_white(pixels[..., :3].astype(int), pixels[..., 3:].astype(int))
    np.testing.assert_array_equal(decode(encoded(pixels, kind, **options)), expected)


def test_png_text_is_skipped_and_checksums_count():
    text = chunk(b"tEXt", b"a\0" + bytes(3_000_000))
    np.testing.assert_array_equal(decode(png(PHOTO, 8, 2, text)), PHOTO)
    broken = bytearray(png(PHOTO, 8, 2))
    broken[-20] ^= 1
    assert status_of(bytes(broken)) == "decode_failed"
    assert status_of(png(PHOTO, 8, 2)[:-12]) == "decode_failed"


# Frames, pages, floating point


@pytest.mark.parametrize("data", [fixtures.apng(5), fixtures.animated("GIF", 5), fixtures.animated("WEBP", 5)])
def test_only_the_first_frame_counts(data):
    assert (decode(data) >= 250).all()


def test_later_frames_are_not_even_read():
    data = fixtures.long_gif(100)
    np.testing.assert_array_equal(decode(data[: len(data) // 2]), decode(data))


def test_first_page_and_tiles_of_tiff():
    image = Image.fromarray(PHOTO)
    np.testing.assert_array_equal(
        decode(encoded(image, "TIFF", save_all=True, append_images=[image.rotate(90)])), PHOTO
    )
    tiled = encoded(image, "TIFF", compression="tiff_adobe_deflate", tiffinfo={322: 16, 323: 16})
    np.testing.assert_array_equal(decode(tiled), PHOTO)


def test_floating_point_and_sixteen_bit_gray_of_tiff():
    values = np.array([[0, 0.25, 0.5, 0.999, 1]], np.float32)
    assert decode(encoded(values, "TIFF"))[0, :, 1].tolist() == [0, 64, 128, 255, 255]
    for wrong, said in ((np.nan, "1 not finite"), (1.5, "0 to 1.5"), (-1.0, "-1 to 1")):
        with pytest.raises(ImageError, match=said) as caught:
            decode(encoded(np.append(values, np.float32(wrong))[None], "TIFF"))
        assert caught.value.status == "decode_failed"
    deep = np.array([[0, 128, 129, 65535]], np.uint16)
    assert decode(encoded(deep, "TIFF"))[0, :, 0].tolist() == [0, 0, 1, 255]
    assert decode(b"P5 2 1 65535\n" + deep[:, 2:].astype(">u2").tobytes())[0, :, 0].tolist() == [1, 255]


# Reading


def test_reading_by_text_and_bytes(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"abc")
    assert read(str(path)) == read(os.fsencode(path)) == b"abc"


@pytest.mark.parametrize(
    ("name", "status"),
    [
        ("nothing.jpg", "missing"),
        ("file/below.jpg", "missing"),
        ("n" * 300, "unreadable"),
        ("nul\0byte", "unreadable"),
        ("folder", "unreadable"),
        ("pipe", "unreadable"),
        ("socket", "unreadable"),
        ("large", "too_large"),
    ],
)
def test_what_cannot_be_read(tmp_path, monkeypatch, name, status):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    with open(tmp_path / "large", "wb") as file:
        file.truncate(MAX_BYTES + 1)
    monkeypatch.chdir(tmp_path)  # a socket's path has to be short
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket")
        got = []
        reader = threading.Thread(target=lambda: got.append(status_of_reading(name)), daemon=True)
        reader.start()
        reader.join(20)
    assert got == [status]


def status_of_reading(path):
    with pytest.raises(ImageError) as caught:
        read(path)
    return caught.value.status


def test_devices_are_not_read():
    assert status_of_reading("/dev/zero") == "unreadable"


@pytest.mark.parametrize(("number", "status"), [(errno.EIO, "unreadable"), (errno.EACCES, "unreadable")])
def test_errors_of_the_system(monkeypatch, tmp_path, number, status):
    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "open", refuse)
    assert status_of_reading(str(tmp_path)) == status


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_forbidden_file(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"abc")
    path.chmod(0)
    assert status_of_reading(str(path)) == "unreadable"


# The error, the threads


def test_error_is_one_short_line_and_survives_pickling():
    error = ImageError("decode_failed", "a\nb\x1b[31m\u2028" + "x" * 1000)
    assert error.message.startswith("a b [31m ")
    assert len(error.message) == 500
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.status, copy.message, str(copy)) == ("decode_failed", error.message, error.message)


def test_threads_do_not_disturb_each_other():
    files = [data for name, data in fixtures.good_files().items() if not name.startswith("long")]
    alone = [decode(data) for data in files]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            for expected, got in zip(alone, pool.map(decode, files), strict=True):
                np.testing.assert_array_equal(got, expected)


def test_module_knows_no_file_ending(tmp_path: Path):
    path = tmp_path / "picture.txt"
    path.write_bytes(png(PHOTO, 8, 2))
    np.testing.assert_array_equal(decode(read(str(path))), PHOTO)
