"""The peaks of channels against a search by hand, and their top under any division of the images."""

import numpy as np
import pytest
import torch
from torch import nn

from afterimage import UsageError
from afterimage.methods.guided_backprop import GuidedBackprop
from afterimage.methods.patches import Patches
from afterimage.models.layers import activations, layers
from tests.networks import live, mixed, pictures


def test_a_peak_is_the_first_of_the_largest_values():
    images = torch.zeros(2, 3, 4, 5)
    images[0, 1, 2, 3] = images[0, 1, 3, 0] = 1.0
    images[1, 2] = -1.0
    images[1, 2, 3, 4] = -0.5
    model = nn.Sequential(nn.Identity(), nn.Conv2d(3, 2, 1))
    peaks = Patches(layer="0")(model, images)
    assert peaks[0].tolist() == [[0, 0, 0], [1, 2, 3], [0, 0, 0]]
    assert peaks[1].tolist() == [[0, 0, 0], [0, 0, 0], [-0.5, 3, 4]]


@pytest.mark.parametrize("form", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_peaks_are_those_of_a_search_by_hand(form, dtype):
    generator = torch.Generator().manual_seed(0)
    maps = torch.randint(-3, 3, (2, 5, 6, 7), generator=generator).to(dtype)  # many ties
    maps[0, 0, 2, 3], maps[0, 1], maps[0, 2, 0] = torch.nan, -torch.inf, -torch.inf
    peaks = Patches(layer="0")(nn.Sequential(nn.Identity()), maps.contiguous(memory_format=form))
    for image, channel in np.ndindex(2, 5):
        found = maps[image, channel].double()
        places = [(y, x) for y in range(6) for x in range(7) if found[y, x] == found.max()]
        y, x = (2, 3) if found.isnan().any() else places[0]  # a NaN is where it is
        expected = torch.tensor([float(found[y, x]), y, x])
        torch.testing.assert_close(peaks[image, channel], expected, rtol=0, atol=0, equal_nan=True)


def test_dense_neurons_have_one_place():
    peaks = Patches(layer="head")(mixed(), pictures(2, 16))
    torch.testing.assert_close(peaks[:, :, 0], mixed()(pictures(2, 16)).detach())
    assert not peaks[:, :, 1:].any()


@pytest.mark.parametrize("seed", range(5))
def test_the_top_of_parts_is_that_of_the_whole(seed):
    generator = np.random.default_rng(seed)
    values = generator.integers(0, 6, (40, 7)).astype(np.float32)  # many ties
    values[generator.random(values.shape) < 0.1] = np.nan
    keys = [f"{number:02d}" for number in generator.permutation(40)]
    patches = Patches(top=4)
    chosen = patches.select(values, keys)
    parts = np.array_split(generator.permutation(40), 3)
    kept = np.zeros_like(chosen)
    for part in parts:
        kept[part] = patches.select(values[part], [keys[place] for place in part])
    merged = np.where(kept, values, np.nan)
    assert np.array_equal(patches.select(merged, keys), chosen)
    for channel in range(7):
        own = [(-values[row, channel], keys[row]) for row in range(40) if not np.isnan(values[row, channel])]
        expected = {key for _, key in sorted(own)[:4]}
        assert {keys[row] for row in np.flatnonzero(chosen[:, channel])} == expected


def test_guided_backprop_of_units_is_that_of_each_neuron_alone():
    model, images = mixed(), pictures(3, 16)
    units = torch.tensor([[0, 1, 2], [5, 8, 8], [3, 15, 0]])
    found = GuidedBackprop().of_units(model, images, "convolutions.5", units)
    for place, (channel, y, x) in enumerate(units.tolist()):
        alone = GuidedBackprop(of=f"convolutions.5:{channel}:{y}:{x}")(model, images[place : place + 1])
        torch.testing.assert_close(found[place : place + 1], alone)


def test_what_excites_a_neuron_lies_within_its_field():
    model, images = live("resnet18"), torch.rand(2, 3, 96, 96)
    field = next(info.receptive_field for info in layers(model, (96, 96)) if info.name == "layer2.1")
    peaks = Patches(layer="layer2.1")(model, images)
    units = torch.tensor([[7, *map(int, peaks[place, 7, 1:])] for place in range(2)])
    gradient = GuidedBackprop("gradient").of_units(model, images, "layer2.1", units).abs().amax(1)
    for place, (_, y, x) in enumerate(units.tolist()):
        top, left = field.top + y * field.stride_y, field.left + x * field.stride_x
        outside = gradient[place].clone()
        outside[max(0, top) : top + field.height, max(0, left) : left + field.width] = 0
        assert gradient[place].any()
        assert not outside.any()
    with torch.no_grad():
        maps = activations(model, images, ["layer2.1"])["layer2.1"]
    assert peaks[0, 7, 0] == maps[0, 7].max()


def test_options_that_make_no_sense_are_refused():
    with pytest.raises(UsageError, match="top: expected a positive number, got 0"):
        Patches(top=0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(2))
    with pytest.raises(UsageError, match=r"layer '1': expected maps \(C, H, W\) or a vector, got \(4, 36\)"):
        Patches(layer="1")(model, pictures(2, 8))
