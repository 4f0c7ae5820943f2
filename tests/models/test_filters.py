"""Filters: what excites a linear neuron most, the scale, groups, what is refused."""

import pytest
import torch
from torch import nn

import afterimage
from afterimage import UsageError
from afterimage.models.filters import filters
from tests.networks import live


def test_a_filter_is_the_direction_that_excites_its_neuron_most():
    network = nn.Sequential(nn.Conv2d(3, 4, 5, bias=False)).double()
    weight = network[0].weight.detach()
    drawn = afterimage.filters(network) - 0.5
    best = drawn / drawn.flatten(1).norm(dim=1).view(-1, 1, 1, 1)  # its picture, as a unit input
    reached = network(best)[:, :, 0, 0].diagonal()
    torch.testing.assert_close(best, weight / weight.flatten(1).norm(dim=1).view(-1, 1, 1, 1))
    torch.testing.assert_close(reached, weight.flatten(1).norm(dim=1))
    random = torch.randn(2000, 3, 5, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    random /= random.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    assert (network(random)[:, :, 0, 0].amax(0) < reached).all()
    for neuron in range(4):
        x = random[:1].clone()
        for _ in range(60):  # what lies across the filter is divided by |x + 2 w/‖w‖| > 1, near 3 in the end
            leaf = x.requires_grad_()
            (gradient,) = torch.autograd.grad(network(leaf)[0, neuron, 0, 0], leaf)
            x = leaf.detach() + 2 * gradient / gradient.norm()
            x /= x.norm()
        torch.testing.assert_close(x, best[neuron : neuron + 1], rtol=0, atol=1e-9)


def test_each_filter_is_on_its_own_scale_around_mid_grey():
    network = nn.Sequential(nn.Conv2d(5, 3, 1, bias=False))
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([[4.0, -2, 0, 1, 0], [0.1, 0, 0, 0, -0.2], [0] * 5])[:, :, None, None])
    found = filters(network)
    expected = torch.tensor([[1, 0.25, 0.5, 0.625, 0.5], [0.75, 0.5, 0.5, 0.5, 0], [0.5] * 5])
    torch.testing.assert_close(found[:, :, 0, 0], expected)
    assert found.shape == (3, 5, 1, 1)
    assert not found.requires_grad


@pytest.mark.parametrize(
    ("name", "layer", "shape"),
    [
        ("squeezenet1_1", None, (64, 3, 3, 3)),
        ("mobilenet_v2", "features.1.conv.0.0", (32, 1, 3, 3)),  # depthwise
        ("resnext50_32x4d", "layer1.0.conv2", (128, 4, 3, 3)),  # 32 groups
    ],
)
def test_shapes_of_networks_filters(name, layer, shape):
    found = filters(live(name), layer)
    assert found.shape == shape
    assert 0 <= found.min() < 0.5 < found.max() <= 1


def test_a_layer_without_filters_is_refused_with_what_to_name():
    network = nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(8, 2))
    with pytest.raises(UsageError, match=r"layer '2' of Sequential is a Linear, expected a convolution, as '0'"):
        filters(network, "2")
    with pytest.raises(UsageError, match=r"no layer 'features\.12\.sqeeze' in SqueezeNet; nearest: features\.12\.sque"):
        filters(live("squeezenet1_1"), "features.12.sqeeze")
    with pytest.raises(UsageError, match="Sequential has no two-dimensional convolution"):
        filters(nn.Sequential(nn.Linear(3, 2)))
