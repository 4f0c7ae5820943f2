"""Tables of pictures: where the cells lie, enlargement, labels."""

import pytest
import torch

from afterimage.images.lattice import GAP, PAPER, captioned, enlarged, lattice, wrapped, written


def test_rows_are_as_high_and_columns_as_wide_as_their_largest_cell():
    cells = [[torch.zeros(3, 2, 5), torch.ones(3, 4, 1)], [torch.full((3, 1, 1), 0.25)]]
    picture = lattice(cells)
    expected = torch.full((3, 3 * GAP + 5, 3 * GAP + 6), PAPER)
    expected[:, GAP : GAP + 2, GAP : GAP + 5] = 0
    expected[:, GAP : GAP + 4, 2 * GAP + 5 : 2 * GAP + 6] = 1
    expected[:, 2 * GAP + 4, GAP] = 0.25
    assert torch.equal(picture, expected)


@pytest.mark.parametrize(("count", "across", "rows"), [(1, 1, 1), (2, 2, 1), (5, 3, 2), (9, 3, 3), (64, 8, 8)])
def test_cells_are_wrapped_to_a_square_in_their_order(count, across, rows):
    cells = [torch.full((3, 1, 1), float(number)) for number in range(count)]
    found = wrapped(cells)
    assert (len(found), len(found[0])) == (rows, across)
    assert [float(cell[0, 0, 0]) for row in found for cell in row] == list(range(count))


@pytest.mark.parametrize(
    ("size", "side", "times"), [((3, 3), 24, 8), ((3, 5), 24, 4), ((30, 7), 24, 1), ((1, 1), 1, 1)]
)
def test_every_value_becomes_a_square(size, side, times):
    values = torch.rand(2, *size)
    found = enlarged(values, side)
    assert found.shape == (2, size[0] * times, size[1] * times)
    for y in range(times):
        assert torch.equal(found[:, y::times, y::times], values)


def test_labels_differ_and_are_as_wide_as_their_text():
    assert written("").shape[2] <= written("7").shape[2] < written("77").shape[2]
    assert len({written(str(number)).sum().item() for number in range(10)} | {written("").sum().item()}) > 6
    cell = captioned(torch.zeros(3, 4, 2), "123", 40)
    assert cell.shape == (3, written("123").shape[1] + 4, 40)
    assert (cell[:, -4:, :2] == 0).all()
    assert (cell[:, -4:, 2:] == PAPER).all()
    assert torch.equal(cell[:, :-4, : written("123").shape[2]], written("123"))
