"""Products on matrix tiles and how far they may be off."""

import pytest
import torch

from afterimage.ops import tile_product
from afterimage.ops.exceeding import reference
from afterimage.ops.tile_convolution import has_tiles
from afterimage.ops.tile_product import columns, exceeding, least, product, relative_error, rows

pytestmark = pytest.mark.skipif(
    not has_tiles(), reason="this processor has no AMX, or AFTERIMAGE_ISA or AFTERIMAGE_KERNELS hides it"
)


@pytest.mark.parametrize("scale", [1.0, 1e-30])
@pytest.mark.parametrize("length", [1, 31, 33, 514, 3000])
@pytest.mark.parametrize("count", [1, 24, 50])
def test_products_are_no_farther_off_than_is_said(count, length, scale, monkeypatch):
    monkeypatch.setattr(tile_product, "ACROSS", 24)
    torch.manual_seed(0)  # factors of up to 1, as `least` has them
    left, right = scale * (torch.rand(count, length) - 0.3), torch.rand(19, length)
    came = product(rows(left), columns(right), torch.empty((count + 24) * 19))[:count]
    apart = (came - left.double() @ right.double().T).abs()
    assert (apart <= relative_error(length) * (left.double().abs() @ right.double().T) + least(length)).all()
    assert came.shape == (count, 19)


@pytest.mark.parametrize("columns_too", [False, True])
@pytest.mark.parametrize("diagonal", [False, True])
@pytest.mark.parametrize(("count", "width"), [(300, 77), (24, 16), (1, 1), (70, 48)])
def test_what_exceeds_is_what_the_product_has(count, width, diagonal, columns_too):
    torch.manual_seed(0)
    left, right = rows(torch.randn(count, 33)), columns(torch.randn(width, 33))
    block = product(left, right, torch.empty((count + tile_product.ACROSS) * width))[:count]
    if diagonal:
        block.fill_diagonal_(-float("inf"))
    above = torch.full((count,), 10.0), torch.full((width,), 9.0) if columns_too else None
    places, values = reference(block, *above)
    found = exceeding(left, right, *above, len(places), diagonal)
    assert found is not None
    assert torch.equal(found[0], places)
    assert torch.equal(found[1], values)
    if len(places):
        assert exceeding(left, right, *above, len(places) - 1, diagonal) is None
