"""Windows: how they are written, where they lie, what covers them."""

import pytest
import torch
from scipy.ndimage import gaussian_filter1d

from afterimage import UsageError
from afterimage.models.windows import Extent, Fill, Grid, blurred
from tests.networks import pictures


@pytest.mark.parametrize(("text", "sides"), [("32", (32, 32)), ("32x16", (32, 16)), ("1x7", (1, 7))])
def test_an_extent_is_written_as_it_is_read(text, sides):
    found = Extent.parse(text)
    assert (found.height, found.width) == sides
    assert str(found) == text
    assert found == Extent.of(sides) == Extent.of(found)


@pytest.mark.parametrize("text", ["", "x", "3x", "3x4x5", "-3", "3.5", "0", "4x0", "²", " 3"])
def test_what_is_no_extent_is_refused_as_text(text):
    with pytest.raises(UsageError, match="size in pixels: expected a side"):
        Extent.parse(text)


@pytest.mark.parametrize("value", [0, -1, (3,), (1, 2, 3), (3, 0), (3.0, 4), (True, 1)])
def test_what_is_no_extent_is_refused_as_a_value(value):
    with pytest.raises(UsageError, match="size in pixels: expected a side or height and width, whole"):
        Extent.of(value)


@pytest.mark.parametrize(
    ("text", "value"),
    [("0.5", 0.5), ("1.0", 1.0), ("0.1,0.25,1.0", (0.1, 0.25, 1.0)), ("mean", "mean"), ("blur", "blur")],
)
def test_a_fill_is_written_as_it_is_read(text, value):
    found = Fill.parse(text)
    assert found.value == value
    assert str(found) == text
    assert found == Fill.of(value) == Fill.of(found)


@pytest.mark.parametrize("text", ["", "blue", "nan", "inf", "-0.1", "1.5", "0.1,0.2", "0,0,2", "1,,1", "0,0,0,0"])
def test_what_is_no_fill_is_refused(text):
    with pytest.raises(UsageError, match=r"fill: expected a grey or red,green,blue in \[0, 1\], mean or blur, got"):
        Fill.parse(text)


@pytest.mark.parametrize("value", [2, -0.1, (0.5,), (0.1, 0.2), (0, 0, 1.5), ("0", "0", "0"), "grey"])
def test_what_is_no_fill_is_refused_as_a_value(value):
    with pytest.raises(UsageError, match="fill: expected"):
        Fill(value)


def test_whole_numbers_are_written_as_they_are_read():
    for value in (1, (0, 1, 0)):
        assert Fill.parse(str(Fill(value))) == Fill(value)
        assert str(Fill.parse(str(Fill(value)))) == str(Fill(value))


def test_a_misspelled_fill_names_the_nearest():
    with pytest.raises(UsageError, match="nearest: blur"):
        Fill.parse("blurr")


def grid(size, window, stride):
    return Grid(Extent.of(size), Extent.of(window), Extent.of(stride))


def test_windows_begin_at_multiples_of_the_stride_and_the_last_is_clipped():
    found = grid((5, 7), (4, 3), (2, 3))
    assert (list(found.rows), list(found.columns)) == ([0, 2], [0, 3, 6])
    assert found.boxes().tolist() == [
        [0, 0, 4, 3],
        [0, 3, 4, 6],
        [0, 6, 4, 7],
        [2, 0, 5, 3],
        [2, 3, 5, 6],
        [2, 6, 5, 7],
    ]


@pytest.mark.parametrize("size", [(1, 1), (4, 9), (17, 16), (33, 20)])
@pytest.mark.parametrize("window", [1, 2, 5, (4, 9)])
def test_windows_cover_all_and_are_no_more_than_needed(size, window):
    window = Extent.of(window)
    if window.height > size[0] or window.width > size[1]:
        with pytest.raises(UsageError, match=rf"at most the images' size, {Extent.of(size)}, got {window}"):
            grid(size, window, 1)
        return
    for stride in {(1, 1), (max(1, window.height // 2), window.width)}:
        boxes = grid(size, window, stride).boxes()
        covered = torch.zeros(size, dtype=torch.int64)
        for y0, x0, y1, x1 in boxes.tolist():
            assert 0 <= y0 < y1 <= size[0]
            assert 0 <= x0 < x1 <= size[1]
            covered[y0:y1, x0:x1] += 1
        assert covered.min() >= 1
        before = boxes[boxes[:, 0] < boxes[:, 0].max()]
        assert (before[:, 2] < size[0]).all(), "a row of windows after the one that reached the border"


def test_spread_is_the_mean_over_the_windows_of_a_pixel():
    found = grid((9, 12), (4, 5), (3, 2))
    values = torch.randn(2, len(found.rows), len(found.columns))
    sums, counts = torch.zeros(2, 9, 12), torch.zeros(9, 12)
    for value, (y0, x0, y1, x1) in zip(values.flatten(1).T, found.boxes().tolist(), strict=True):
        sums[:, y0:y1, x0:x1] += value[:, None, None]
        counts[y0:y1, x0:x1] += 1
    # up to six float32 values, added in another order
    torch.testing.assert_close(found.spread(values), (sums / counts)[:, None], rtol=1e-6, atol=1e-6)


def test_blur_is_scipys_inside_and_keeps_a_constant_to_the_border():
    images = pictures(2, 48).double()
    ours = blurred(images, 3.0, 1.5)
    theirs = gaussian_filter1d(gaussian_filter1d(images.numpy(), 3.0, 2, truncate=12), 1.5, 3, truncate=12)
    # 18 pixels from the border are 6 and 12 standard deviations: what is cut off there weighs 1e-9
    torch.testing.assert_close(
        ours[..., 18:-18, 18:-18], torch.from_numpy(theirs)[..., 18:-18, 18:-18], rtol=0, atol=1e-8
    )
    flat = torch.full((1, 3, 9, 1), 0.3)
    torch.testing.assert_close(blurred(flat, 2.0, 8.0), flat)


def test_fills_are_one_per_image():
    images = pictures(2, 16)
    window = Extent(8, 4)
    assert Fill(0.25).over(images, window) == [0.25, 0.25]
    assert [one.tolist() for one in Fill((0.0, 0.5, 1.0)).over(images, window)] == [[0.0, 0.5, 1.0]] * 2
    assert torch.equal(torch.stack(list(Fill("mean").over(images, window))), images.mean((2, 3)))
    assert torch.equal(torch.stack(list(Fill("blur").over(images, window))), blurred(images, 2.0, 1.0))
    for fill in ("mean", "blur"):
        assert len(Fill(fill).over(images[:0], window)) == 0
