import pytest
import torch
from torch import Tensor

from afterimage.errors import UsageError
from afterimage.ops import occlude

from .checks import bit_equal, random


def sliced(image: Tensor, windows: Tensor, fill: Tensor) -> Tensor:
    """The definition by slices: (B, C, H, W)."""
    picture = (fill[:, None, None] if fill.ndim == 1 else fill).expand_as(image)
    output = image.repeat(len(windows), 1, 1, 1)
    for copy, (y0, x0, y1, x1) in zip(output, windows.tolist(), strict=True):
        copy[:, y0:y1, x0:x1] = picture[:, y0:y1, x0:x1]
    return output


def test_two_windows_by_hand() -> None:
    image = torch.arange(6.0).reshape(1, 2, 3)
    output = occlude(image, torch.tensor([[0, 1, 2, 2], [1, 0, 2, 3]]), 9)
    assert output.tolist() == [[[[0, 9, 2], [3, 9, 5]]], [[[0, 1, 2], [9, 9, 9]]]]


@pytest.mark.parametrize("fill", [random(), random(3), random(3, 6, 7)], ids=["number", "color", "picture"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_equals_slices(fill: Tensor, channels_last: bool) -> None:
    image = random(3, 6, 7, seed=1)
    windows = torch.tensor([[0, 0, 6, 7], [2, 3, 2, 7], [1, 2, 3, 7], [5, 6, 6, 7]])
    given = image.permute(1, 2, 0).contiguous().permute(2, 0, 1) if channels_last else image
    output = occlude(given, windows, fill)
    assert bit_equal(output, sliced(image, windows, fill))
    assert output.is_contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def test_a_window_outside_of_the_image_is_named() -> None:
    with pytest.raises(UsageError, match=r"windows\[1\] is \[0, 0, 3, 3\], expected y0, x0, y1, x1 with .* <= 2 and "):
        occlude(torch.ones(1, 2, 3), torch.tensor([[0, 0, 2, 3], [0, 0, 3, 3]]), 0)
