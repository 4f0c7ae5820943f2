import numpy as np
import pytest
import torch
import torchvision.transforms.functional as F
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms._presets import ImageClassification

from afterimage.workflows.geometry import IMAGENET_MEAN, Geometry, fit
from tests.workflows.fixtures import photograph

SIZES = [
    (1, 1),
    (1, 40),
    (3, 7),
    (31, 1000),
    (100, 100),
    (223, 225),
    (224, 300),
    (255, 257),
    (256, 256),
    (375, 500),
    (500, 375),
    (480, 641),
    (901, 1200),
]
PHOTOS = {hw: photograph(*hw, seed=hw[1]) for hw in SIZES}


def torchvision_preset(pixels, size, resize, interpolation):
    """The picture that torchvision's own preset hands to the network, before normalization, as uint8."""
    preset = ImageClassification(
        crop_size=size,
        resize_size=resize,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        interpolation=InterpolationMode(interpolation),
    )
    return (preset(Image.fromarray(pixels)) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()


def crop_by_hand(resized, size, fill=0):
    """torchvision's center crop, one axis at a time: padded first, (length - crop) / 2 rounded half to even."""
    for axis in (0, 1):
        lack = max(0, size[axis] - resized.shape[axis])
        pads = [(0, 0)] * 3
        pads[axis] = (lack // 2, (lack + 1) // 2)
        resized = np.pad(resized, pads, constant_values=fill)
        start = round((resized.shape[axis] - size[axis]) / 2.0)
        resized = np.take(resized, range(start, start + size[axis]), axis=axis)
    return resized


@pytest.mark.parametrize("hw", SIZES, ids=str)
@pytest.mark.parametrize(("resize", "size"), [(256, 224), (232, 224), (342, 299), (64, 97)])
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_preset_is_torchvisions_bit_by_bit(hw, resize, size, interpolation):
    pixels = PHOTOS[hw]
    window, _ = fit(pixels, Geometry("preset", (size, size), resize, interpolation))
    assert window.dtype == np.uint8
    assert window.flags.c_contiguous
    np.testing.assert_array_equal(window, torchvision_preset(pixels, size, resize, interpolation))


@pytest.mark.parametrize("hw", [(5, 4), (300, 301), (224, 500), (100, 90), (225, 223)], ids=str)
def test_center_crop_without_resize_is_exact(hw):
    pixels = photograph(*hw)
    window, box = fit(pixels, Geometry("preset", (224, 224)))
    np.testing.assert_array_equal(window, crop_by_hand(pixels, (224, 224)))
    np.testing.assert_array_equal(window, np.asarray(F.center_crop(Image.fromarray(pixels), [224, 224])))
    assert box[2] - box[0] == box[3] - box[1] == 224


@pytest.mark.parametrize("fit_name", ["preset", "squash", "pad", "none"])
def test_picture_of_the_right_size_is_untouched(fit_name):
    pixels = photograph(64, 96)
    window, box = fit(pixels, Geometry(fit_name, (64, 96), 128))
    assert window is pixels
    assert box == (0.0, 0.0, 96.0, 64.0)


def test_none_takes_any_shape():
    pixels = photograph(30, 50)
    window, box = fit(pixels, Geometry("none", (224, 224), 256))
    assert window is pixels
    assert box == (0.0, 0.0, 50.0, 30.0)


@pytest.mark.parametrize(
    ("hw", "geometry", "box"),
    [
        ((512, 512), Geometry("preset", (224, 224), 256), (32, 32, 480, 480)),
        ((480, 640), Geometry("preset", (240, 240), 240), (80, 0, 560, 480)),
        ((300, 400), Geometry("preset", (200, 100)), (150, 50, 250, 250)),
        ((10, 20), Geometry("preset", (40, 40)), (-10, -15, 30, 25)),
        ((10, 20), Geometry("squash", (40, 40)), (0, 0, 20, 10)),
        ((100, 200), Geometry("pad", (50, 50)), (0, -48, 200, 152)),
        ((200, 100), Geometry("pad", (40, 80)), (-150, 0, 250, 200)),
        ((1, 65500), Geometry("preset", (224, 224), 256), (32749.5625, 0.0625, 32750.4375, 0.9375)),
    ],
)
def test_known_crop_boxes(hw, geometry, box):
    window, got = fit(np.zeros((*hw, 3), np.uint8), geometry)
    assert window.shape == (*geometry.size, 3)
    assert got == pytest.approx(box, abs=1e-9)


@pytest.mark.parametrize(
    "geometry",
    [
        Geometry("preset", (224, 224), 256),
        Geometry("preset", (97, 130), 64),
        Geometry("squash", (70, 90)),
        Geometry("pad", (224, 150)),
    ],
    ids=repr,
)
@pytest.mark.parametrize("hw", [(375, 500), (641, 480), (90, 31)], ids=str)
def test_crop_box_leads_back_to_the_place(hw, geometry):
    """Red grows with x and green with y: what a pixel of the window shows says where it came from."""
    y, x = np.mgrid[: hw[0], : hw[1]]
    ramp = (
        np.stack([255 * (x + 0.5) / hw[1], 255 * (y + 0.5) / hw[0], np.full(hw, 200)], axis=2).round().astype(np.uint8)
    )
    window, (x0, y0, x1, y1) = fit(ramp, geometry)
    height, width = geometry.size
    columns, rows = (
        x0 + (np.arange(width) + 0.5) * (x1 - x0) / width,
        y0 + (np.arange(height) + 0.5) * (y1 - y0) / height,
    )
    # away from the borders, where the filter is cut
    columns_in = (columns > hw[1] * 0.05) & (columns < hw[1] * 0.95)
    rows_in = (rows > hw[0] * 0.05) & (rows < hw[0] * 0.95)
    inside = window[np.ix_(rows_in, columns_in)].astype(float)
    assert inside.size
    # half a level from the ramp, half from each of the two passes
    np.testing.assert_allclose(
        inside[..., 0], np.broadcast_to(255 * columns[columns_in] / hw[1], inside.shape[:2]), atol=1.6
    )
    np.testing.assert_allclose(
        inside[..., 1].T, np.broadcast_to(255 * rows[rows_in] / hw[0], inside.shape[1::-1]), atol=1.6
    )
    assert (np.abs(inside[..., 2] - 200) <= 1).all()


def test_squash_is_a_plain_antialiased_resize():
    pixels = photograph(375, 500)
    window, _ = fit(pixels, Geometry("squash", (100, 224)))
    expected = np.asarray(Image.fromarray(pixels).resize((224, 100), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(window, expected)


@pytest.mark.parametrize(("hw", "rows"), [((100, 200), (56, 168)), ((101, 199), (55, 169)), ((1, 1000), (111, 112))])
def test_pad_fills_around_the_picture(hw, rows):
    pixels = np.full((*hw, 3), 255, np.uint8)
    window, _ = fit(pixels, Geometry("pad", (224, 224)))
    assert (window[rows[0] : rows[1]] == 255).all()
    assert (np.delete(window, range(*rows), axis=0) == IMAGENET_MEAN).all()


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("hw", [(1, 1500), (1200, 2), (3, 1000)], ids=str)
def test_narrow_pictures_are_cropped_before_they_are_resized(hw, interpolation, monkeypatch):
    import afterimage.workflows.geometry as geometry

    pixels = photograph(*hw, seed=1)
    monkeypatch.setattr(geometry, "_LARGE", 2**16)
    monkeypatch.setattr(geometry, "_resize", None)
    window, _ = fit(pixels, Geometry("preset", (56, 56), 64, interpolation))
    difference = np.abs(window.astype(int) - torchvision_preset(pixels, 56, 64, interpolation))
    # the interval that Pillow is given is rounded to float32
    assert difference.max() <= 1
    assert (difference > 0).mean() <= 1e-3


@pytest.mark.parametrize("hw", [(1, 65500), (65500, 1), (1, 2**24)], ids=str)
@pytest.mark.parametrize("name", ["preset", "squash", "pad"])
def test_extreme_shapes_stay_small(hw, name):
    pixels = np.zeros((*hw, 3), np.uint8)
    axis = int(hw[1] > 1)
    pixels[:, hw[1] // 2 :] = 255 if axis else 0
    pixels[hw[0] // 2 :] = pixels[hw[0] // 2 :] if axis else 255
    window, _ = fit(pixels, Geometry(name, (224, 224), 256))
    line = window[111, :, 0] if axis else window[:, 111, 0]
    assert line.shape == (224,)
    if name == "preset":  # the edge, a pixel wide, is enlarged 256 times
        np.testing.assert_allclose(line, np.arange(224) + 16, atol=1)
    else:
        assert (line[:110] == 0).all()
        assert (line[-110:] == 255).all()


def test_large_pictures_are_fitted():
    pixels = np.repeat(np.arange(2, dtype=np.uint8) * 255, 2048)[:, None, None].repeat(4096, 1).repeat(3, 2)
    window, box = fit(pixels, Geometry("preset", (224, 224), 256))
    assert (window[:111] == 0).all()
    assert (window[113:] == 255).all()
    assert box == (256.0, 256.0, 3840.0, 3840.0)


def test_read_only_pixels_are_fitted_silently(recwarn):
    pixels = photograph(100, 120)
    pixels.flags.writeable = False
    fit(pixels, Geometry("preset", (64, 64), 72))
    assert not recwarn.list
