"""Winograd's convolutions beside torch's in float64."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from afterimage.models import winograd as module
from afterimage.models.winograd import winograd, workspace

CLOSE = 3e-5  # of the largest output: F(4 × 4, 3 × 3) in float32 is off by about 1e-5


def convolution(inputs: int = 128, outputs: int = 136, bias: bool = True) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=bias).requires_grad_(False)


def differ(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count what is computed this way."""
    counted: list[int] = []
    convolve = module.convolve
    monkeypatch.setattr(module, "convolve", lambda *given: counted.append(1) or convolve(*given))
    return counted


@pytest.mark.parametrize("size", [(20, 20), (21, 26), (23, 40), (401, 1)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("block", [1, 2**22])
def test_outputs_and_gradients_are_those_of_the_convolution(size, layout, block, calls, monkeypatch) -> None:
    monkeypatch.setattr(module, "BLOCK", block)
    conv = convolution(bias=layout == torch.channels_last)
    maps = torch.randn(2, 128, *size).contiguous(memory_format=layout).requires_grad_()
    with winograd(conv):
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


def test_an_image_does_not_depend_on_its_batch() -> None:
    conv, maps = convolution(), torch.randn(3, 128, 24, 24)
    with winograd(conv):
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
        nn.Conv2d(128, 64, 3, padding=1),
    ],
    ids=repr,
)
def test_other_convolutions_are_left_alone(conv: nn.Conv2d, calls: list[int]) -> None:
    conv.requires_grad_(False)
    with winograd(conv):
        conv(torch.rand(1, 128, 24, 24))
    assert workspace(conv) == len(calls) == 0


def test_other_maps_and_weights_that_learn_are_left_alone(calls: list[int]) -> None:
    conv = convolution()
    maps = torch.rand(1, 128, 24, 24)
    with winograd(conv):
        assert torch.equal(conv(maps[..., :8, :8]), F.conv2d(maps[..., :8, :8], conv.weight, conv.bias, padding=1))
        with torch.autocast("cpu", torch.bfloat16):
            assert conv(maps).dtype == torch.bfloat16
    for other in (conv.double(), convolution().requires_grad_()):
        with winograd(other):
            other(maps.to(other.weight.dtype))
    assert not calls


def test_the_model_comes_back_unchanged_also_after_an_exception() -> None:
    conv = convolution()
    model = nn.Sequential(conv, nn.ReLU())
    before = set(vars(conv))
    with pytest.raises(RuntimeError, match="channels"), winograd(model), winograd(model):
        model(torch.rand(1, 3, 24, 24))
    assert set(vars(conv)) == before
    assert workspace(model) == 8 * conv.weight.nbytes


def test_it_works_in_inference_mode_and_under_no_grad() -> None:
    conv, maps = convolution(), torch.rand(1, 128, 24, 24)
    expected = conv(maps)
    with winograd(conv), torch.inference_mode():
        assert differ(conv(maps), expected) < CLOSE
    with winograd(conv), torch.no_grad():
        assert differ(conv(maps), expected) < CLOSE
