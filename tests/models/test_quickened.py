"""Quickened convolutions, by Winograd's filtering and on matrix tiles, beside torch's in float64."""

from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from afterimage.models import quickened as module
from afterimage.models import winograd
from afterimage.models.quickened import quickened, quickens, workspace
from afterimage.ops import tile_convolution
from afterimage.ops.tile_convolution import has_tiles

CLOSE = 3e-5  # of the largest output: either way is off by about 1e-5


def convolution(inputs: int = 128, outputs: int = 136, bias: bool = True) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias).requires_grad_(False)


def differ(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.fixture(params=["winograd", "tiles"])
def means(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """What computes: Winograd's filtering is what processors without matrix tiles have."""
    if request.param == "winograd":
        monkeypatch.setattr(module, "has_tiles", lambda: False)
        return winograd
    if not has_tiles():
        pytest.skip("this processor has no AMX, or AFTERIMAGE_ISA or AFTERIMAGE_KERNELS hides it")
    monkeypatch.setattr(module, "POSITIONS", winograd.POSITIONS)
    return tile_convolution


@pytest.fixture
def calls(means: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count what is computed this way."""
    counted: list[int] = []
    convolve = means.convolve
    monkeypatch.setattr(means, "convolve", lambda *given: counted.append(1) or convolve(*given))
    return counted


@pytest.mark.parametrize("size", [(20, 20), (21, 26), (23, 40), (401, 1)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("block", [1, 2**22])
def test_outputs_and_gradients_are_those_of_the_convolution(size, layout, block, calls, monkeypatch) -> None:
    monkeypatch.setattr(winograd, "BLOCK", block)
    monkeypatch.setattr(tile_convolution, "BAND", block)
    conv = convolution(bias=layout == torch.channels_last)
    maps = torch.randn(2, 128, *size).contiguous(memory_format=layout).requires_grad_()
    with quickened(conv):
        found = conv(maps).relu_()  # in place, as networks have it
        weights = torch.randn_like(found)
        (gradient,) = torch.autograd.grad((found * weights).sum(), maps)
    wide = maps.detach().double().requires_grad_()
    bias = None if conv.bias is None else conv.bias.double()
    expected = torch.where(found > 0, F.conv2d(wide, conv.weight.double(), bias, padding=1), 0)  # the same side of 0
    (slope,) = torch.autograd.grad((expected * weights).sum(), wide)
    assert len(calls) == 2
    assert differ(found.detach(), expected.detach()) < CLOSE
    assert differ(gradient, slope) < CLOSE


def test_an_image_does_not_depend_on_its_batch(means) -> None:
    conv, maps = convolution(), torch.randn(3, 128, 24, 24)
    with quickened(conv):
        assert torch.equal(conv(maps)[1:2], conv(maps[1:2]))


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(128, 128, 3, padding=1, stride=2),
        nn.Conv2d(128, 128, 3, padding=2, dilation=2),
        nn.Conv2d(128, 128, 3, padding=1, groups=2),
        nn.Conv2d(128, 128, 3),
        nn.Conv2d(128, 128, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(128, 128, 1),
        nn.Conv2d(128, 60, 3, padding=1),
    ],
    ids=repr,
)
def test_other_convolutions_are_left_alone(conv: nn.Conv2d, calls: list[int]) -> None:
    conv.requires_grad_(False)
    with quickened(conv):
        conv(torch.rand(1, conv.in_channels, 24, 24))
    assert workspace(conv) == len(calls) == 0


def test_other_maps_and_weights_that_learn_are_left_alone(calls: list[int]) -> None:
    conv = convolution()
    maps = torch.rand(1, 128, 24, 24)
    with quickened(conv):
        assert torch.equal(conv(maps[..., :8, :8]), F.conv2d(maps[..., :8, :8], conv.weight, conv.bias, padding=1))
        with torch.autocast("cpu", torch.bfloat16):
            assert conv(maps).dtype == torch.bfloat16
    for other in (conv.double(), convolution().requires_grad_()):
        with quickened(other):
            other(maps.to(other.weight.dtype))
    assert not calls


def test_a_bias_is_taken_as_it_lies_and_one_that_learns_is_left_to_its_convolution(means, calls) -> None:
    conv, maps = convolution(), torch.rand(1, 128, 24, 24)
    conv.bias = nn.Parameter(torch.randn(272)[::2], requires_grad=False)
    expected = conv(maps)
    with quickened(conv):
        assert differ(conv(maps), expected) < CLOSE
    conv.bias.requires_grad_()
    with quickened(conv):
        conv(maps).sum().backward()
    assert len(calls) == 1
    assert conv.bias.grad is not None


def test_gradients_may_be_of_one_number_and_batches_empty(means) -> None:
    conv, maps = convolution(), torch.randn(2, 128, 24, 24, requires_grad=True)
    with quickened(conv):
        (gradient,) = torch.autograd.grad(conv(maps).sum(), maps)  # which is one number, everywhere
        assert conv(maps[:0]).shape == (0, 136, 24, 24)
    (expected,) = torch.autograd.grad(conv(maps).sum(), maps)
    assert differ(gradient, expected) < CLOSE


def test_the_model_comes_back_unchanged_also_after_an_exception(means) -> None:
    conv = convolution()
    model = nn.Sequential(conv, nn.ReLU())
    before = set(vars(conv))
    with pytest.raises(RuntimeError, match="channels"), quickened(model), quickened(model):
        model(torch.rand(1, 3, 24, 24))
    assert set(vars(conv)) == before
    # what a number becomes: four of Winograd's, or two halves, of as many outputs as tiles have
    tiled = 0 if means is winograd else 416 / 408 + 144 / 136
    assert workspace(model) == round((8 + tiled) * conv.weight.nbytes)


def test_it_works_in_inference_mode_and_under_no_grad(means) -> None:
    conv, maps = convolution(), torch.rand(1, 128, 24, 24)
    expected = conv(maps)
    with quickened(conv), torch.inference_mode():
        assert differ(conv(maps), expected) < CLOSE
    with quickened(conv), torch.no_grad():
        assert differ(conv(maps), expected) < CLOSE


@pytest.mark.parametrize(
    ("channels", "side", "tiles", "found"),
    [(64, 33, True, True), (64, 32, True, False), (60, 99, True, False), (128, 20, True, True), (64, 99, False, False)],
)
def test_what_gains_depends_on_channels_and_positions(channels, side, tiles, found, monkeypatch) -> None:
    monkeypatch.setattr(module, "has_tiles", lambda: tiles)
    assert quickens(convolution(channels, 128), torch.rand(1, channels, side, side)) == found
