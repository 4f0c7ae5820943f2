"""Products on matrix tiles and how far they may be off."""

import pytest
import torch

from afterimage.ops import tile_product
from afterimage.ops.tile_convolution import has_tiles
from afterimage.ops.tile_product import LEAST, columns, product, relative_error, rows

pytestmark = pytest.mark.skipif(
    not has_tiles(), reason="this processor has no AMX, or AFTERIMAGE_ISA or AFTERIMAGE_KERNELS hides it"
)


@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e15])
@pytest.mark.parametrize("length", [1, 31, 33, 514, 3000])
@pytest.mark.parametrize("count", [1, 24, 50])
def test_products_are_no_farther_off_than_is_said(count, length, scale, monkeypatch):
    monkeypatch.setattr(tile_product, "ACROSS", 24)
    torch.manual_seed(0)
    left, right = scale * (torch.rand(count, length) - 0.3), torch.rand(19, length)
    came = product(rows(left), columns(right), torch.empty((count + 24) * 19))[:count]
    apart = (came - left.double() @ right.double().T).abs()
    assert (apart <= relative_error(length) * (left.double().abs() @ right.double().T) + LEAST).all()
    assert came.shape == (count, 19)
