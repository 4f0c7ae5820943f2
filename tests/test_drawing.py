"""Drawing: known pictures, each image on its own scale, and what shows itself in a notebook."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from afterimage import UsageError, draw


def test_a_heatmap_is_white_on_black_on_its_own_scale():
    heatmaps = torch.zeros(2, 1, 8, 8)
    heatmaps[0, 0, 2, 3] = 1e-6
    heatmaps[1, 0, 5, 5], heatmaps[1, 0, 6, 6] = 40, 20
    drawn = draw(heatmaps)
    assert drawn[0, :, 2, 3].tolist() == [255] * 3
    assert drawn[0].sum() == 3 * 255
    assert drawn[1, 0, 5, 5] == 255
    assert drawn[1, 0, 6, 6] == 128


def test_a_gradient_is_drawn_around_grey():
    gradient = torch.zeros(1, 3, 10, 10)
    gradient[0, 0, 1, 1], gradient[0, 2, 4, 4] = 2.0, -2.0
    drawn = draw(gradient)
    assert drawn[0, :, 1, 1].tolist() == [255, 128, 128]
    assert drawn[0, :, 4, 4].tolist() == [128, 128, 0]
    assert (drawn[0, :, 8, 8] == 128).all()


def test_a_constant_zero_map_is_black_and_leaves_the_image_grey():
    assert draw(torch.zeros(1, 1, 16, 16)).sum() == 0
    red = torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1).expand(1, 3, 16, 16)
    drawn = draw(torch.zeros(1, 1, 16, 16), red)
    assert drawn.amax((2, 3)).tolist() == drawn.amin((2, 3)).tolist()
    assert len(set(drawn[0, :, 0, 0].tolist())) == 1


def test_an_overlay_is_hot_where_the_map_is_strong_and_grey_elsewhere():
    heatmap = torch.zeros(1, 1, 64, 64)
    heatmap[0, 0, 16, 16] = 1
    drawn = draw(heatmap, torch.full((1, 3, 64, 64), 0.5))[0].int()
    red, green, blue = drawn[:, 16, 16]
    assert red > 240
    assert red >= green > blue
    assert drawn[:, 48, 48].unique().numel() == 1


def test_a_small_map_is_enlarged_to_its_image():
    assert draw(torch.rand(2, 1, 8, 8), torch.rand(2, 3, 32, 24)).shape == (2, 3, 32, 24)


def test_a_picture_shows_itself():
    drawn = draw(torch.rand(3, 1, 5, 7))
    picture = Image.open(io.BytesIO(drawn._repr_png_()))
    assert picture.size == (21, 5)
    assert np.array_equal(np.asarray(picture)[:, 7:14], drawn[1].permute(1, 2, 0).numpy())


def test_only_pictures_show_themselves():
    drawn = draw(torch.rand(3, 1, 5, 7))
    assert Image.open(io.BytesIO(drawn[1]._repr_png_())).size == (7, 5)
    for other in (drawn / 255, drawn.sum(), drawn[:0], drawn[0, 0], drawn.permute(0, 2, 3, 1)):
        assert other._repr_png_() is None


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_refuses_values_that_cannot_be_scaled(value):
    heatmaps = torch.rand(3, 1, 4, 4)
    heatmaps[1, 0, :2, 0] = value
    with pytest.raises(UsageError, match="expected finite values, image 1 holds 2 that are NaN or infinite"):
        draw(heatmaps)


def test_refuses_images_out_of_range():
    heatmaps, images = torch.rand(1, 1, 4, 4), torch.rand(1, 3, 4, 4)
    for wrong in (images.mul(255).byte(), images * 255, images - 0.5, images * torch.nan):
        with pytest.raises(UsageError, match=r"expected floating-point values in \[0, 1\], got .*divide by 255"):
            draw(heatmaps, wrong)
    with pytest.raises(UsageError, match="expected a tensor, got ndarray"):
        draw(heatmaps.numpy())


def test_refuses_other_shapes():
    with pytest.raises(UsageError, match=r"expected \(N, 1, H, W\) or \(N, 3, H, W\), got \(2, 2, 4, 4\)"):
        draw(torch.rand(2, 2, 4, 4))
    with pytest.raises(UsageError, match=r"expected \(2, 3, H, W\) to draw these heatmaps on, got \(1, 3, 4, 4\)"):
        draw(torch.rand(2, 1, 4, 4), torch.rand(1, 3, 4, 4))
