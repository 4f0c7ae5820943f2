"""Activations: grids of maps that are known, their order and scale, dense layers, what is refused."""

import pytest
import torch
from torch import nn

from afterimage import Activations, UsageError
from afterimage.images.lattice import GAP, PAPER, written
from afterimage.methods.activations import BELOW
from tests.networks import live, mixed, pictures

HEAD = written("0").shape[1]


class Known(nn.Module):
    """Five maps of multiples of the red channel, the last one zero; then units: their means."""

    def __init__(self) -> None:
        super().__init__()
        self.maps = nn.Conv2d(3, 5, 1, bias=False)
        self.relu = nn.ReLU()
        self.flat = nn.Flatten()
        self.units = nn.Linear(5, 5, bias=False)
        with torch.no_grad():
            self.maps.weight.zero_()
            self.maps.weight[:, 0, 0, 0] = torch.tensor([1.0, -2.0, 0.5, 4.0, 0.0])
            self.units.weight.copy_(torch.eye(5))

    def forward(self, images):
        found = self.maps(images)
        self.relu(found)
        return self.units(self.flat(found.mean((2, 3))))


def tile(grid, place, size, factor, across, width=None):
    """Return the map at a place of a grid `(3, H, W)`, a value per square."""
    height, width = size[0] * factor, max(size[1] * factor, width or 0)
    top = GAP + (place // across) * (HEAD + height + GAP) + HEAD
    left = GAP + (place % across) * (width + GAP)
    found = grid[:, top : top + height, left : left + size[1] * factor]
    values = found[:, ::factor, ::factor]
    assert torch.equal(values.repeat_interleave(factor, 1).repeat_interleave(factor, 2), found)
    return values


@pytest.fixture
def images():
    return torch.rand(2, 3, 6, 4, generator=torch.Generator().manual_seed(0)) * 0.5 + 0.25


@pytest.mark.parametrize("scale", ["map", "layer"])
def test_maps_stand_in_order_each_value_a_square(images, scale):
    found = Activations(layer="maps", side=30, scale=scale)(Known(), images)
    assert found.shape == (2, 3, 2 * (HEAD + 30) + 3 * GAP, 3 * 20 + 4 * GAP)
    for picture, grid in zip(images, found, strict=True):
        red = picture[0]
        for place, factor in enumerate([1.0, -2.0, 0.5, 4.0, 0.0]):
            largest = red.max() * (4 if scale == "layer" else max(abs(factor), 1e-9))
            color = torch.tensor([1.0] * 3 if factor > 0 else BELOW).view(3, 1, 1)
            expected = color * (abs(factor) * red / largest)
            torch.testing.assert_close(tile(grid, place, (6, 4), 5, 3), expected)
        assert (grid[:, -30:, -20:] == PAPER).all()  # no sixth map


def test_the_strongest_first_under_their_own_numbers(images):
    found = Activations(layer="maps", side=6, order="strongest", maps=4)(Known(), images)
    width = max(4, written("4").shape[2])
    for picture, grid in zip(images, found, strict=True):
        for place, channel in enumerate([3, 0, 2, 4]):  # means 4, 1, ½, 0 times red's; −2 is the weakest
            expected = picture[0] / picture[0].max() if channel != 4 else torch.zeros(6, 4)
            torch.testing.assert_close(tile(grid, place, (6, 4), 1, 2, width), expected.expand(3, -1, -1))
            top, left = GAP + (place // 2) * (HEAD + 6 + GAP), GAP + (place % 2) * (width + GAP)
            number = written(str(channel))
            assert torch.equal(grid[:, top : top + HEAD, left : left + number.shape[2]], number)


def test_units_of_a_dense_layer_are_one_square(images):
    found = Activations(layer="units", side=10)(Known(), images)
    assert found.shape == (2, 3, 20, 30)
    for picture, grid in zip(images, found, strict=True):
        squares = tile(torch.nn.functional.pad(grid, (GAP, 0, GAP + HEAD, 0)), 0, (2, 3), 10, 1)
        expected = torch.stack([torch.tensor(shade) for shade in (
            [0.25] * 3, [0.5 * level for level in BELOW], [0.125] * 3, [1.0] * 3, [0.0] * 3, [PAPER] * 3
        )], 1).view(3, 2, 3)  # fmt: skip
        torch.testing.assert_close(squares, expected, msg=str(picture.shape))


def test_the_default_layer_is_the_first_unit_with_maps():
    network, images = live("alexnet"), pictures(1, 96)
    assert torch.equal(Activations()(network, images), Activations(layer="features.1")(network, images))


def test_grids_of_a_layer_have_one_size_whatever_is_in_them():
    network, images = live("squeezenet1_1"), pictures(3, 96)
    method = Activations(layer="features.12", side=1, maps=7, order="strongest")
    sizes = {tuple(method(network, images[place : place + 1]).shape) for place in range(3)}
    assert sizes == {(1, *method(network, images).shape[1:])}


def test_what_is_not_finite_stays_so():
    found = Activations(layer="maps")(Known(), torch.full((1, 3, 6, 4), torch.nan))
    assert found.isnan().any()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"maps": 0}, "expected maps and side of 1 or more"),
        ({"side": 0}, "expected maps and side of 1 or more"),
        ({"layer": "mops"}, "no layer 'mops' in Known; nearest: maps"),
        ({"layer": "units", "order": "strongest"}, "order: the units of 'units' bear no numbers"),
    ],
)
def test_what_does_not_fit_is_refused(images, given, message):
    with pytest.raises(UsageError, match=message):
        Activations(**given).check(Known(), images)


def test_tokens_are_refused():
    with pytest.raises(UsageError, match=r"expected maps \(C, H, W\) or a vector, got \(6, 256\)"):
        Activations(layer="1")(nn.Sequential(nn.Conv2d(3, 6, 1), nn.Flatten(2)), pictures(1, 16))
    assert Activations(layer="convolutions.0")(mixed(), pictures(1, 16)).shape[:2] == (1, 3)
