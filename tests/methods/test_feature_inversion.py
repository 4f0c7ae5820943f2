"""Feature inversion: known answers, depth, what is refused."""

import pytest
import torch
from torch import Tensor, nn

from afterimage import FeatureInversion, UsageError, load_model
from tests.networks import mixed, pictures


class Half(nn.Module):
    """A layer that keeps the left half of the picture, and one that is a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.nothing = nn.Identity(), nn.Identity()

    def forward(self, images: Tensor) -> Tensor:
        self.nothing(0 * images)
        return self.left(images[..., : images.shape[3] // 2]).flatten(1)


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_what_a_layer_keeps_comes_back_and_what_it_drops_is_flat(optimizer):
    images = pictures(2, 16).double() * 0.8 + 0.1
    method = FeatureInversion(layer="left", tv=1e-3, tv_beta=2.0, alpha=0.0, steps=400, optimizer=optimizer)
    found = method.details(Half(), images)
    # the regularizer is a thousandth of the distance: it moves what is kept by little
    assert (found.image - images)[..., :7].abs().max() < 0.03
    assert found.distance.max() < 1e-3
    # nothing but total variation speaks for the right half: of the noise at its start (0.11 a pixel) little is left
    assert found.image[..., 9:].diff(dim=3).abs().mean() < 0.02


def test_figures_are_those_of_the_pictures():
    images = pictures(2, 16)
    found = FeatureInversion(layer="convolutions.2", steps=3).details(mixed(), images)
    error = (found.image - images).square().mean((1, 2, 3))
    torch.testing.assert_close(found.psnr, 10 * (1 / error).log10())
    assert (found.losses.shape, found.steps.tolist()) == ((2, 3), [3, 3])
    assert found.image.min() >= 0
    assert found.image.max() <= 1


def test_the_default_layer_is_found_for_any_network():
    found = FeatureInversion(steps=2)(load_model("demo"), pictures(1, 128))
    assert found.shape == (1, 3, 128, 128)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"layer": "convolution.2"}, "no layer 'convolution.2' in Mixed; nearest: convolutions.2"),
        ({"tv": -1.0}, "expected tv and alpha of 0 or above"),
        ({"tv_beta": 0.5}, "tv_beta of 1 or above"),
        ({"steps": 0}, "steps and rate above 0"),
    ],
)
def test_what_does_not_fit_is_refused_before_work(given, message):
    with pytest.raises(UsageError, match=message):
        FeatureInversion(**given).check(mixed(), pictures(1, 16))


@pytest.mark.slow
def test_a_real_network_forgets_with_depth(shared):
    from PIL import Image
    from torchvision.transforms.functional import pil_to_tensor

    weights = str(shared("models") / "squeezenet1_0.safetensors")
    model = load_model("squeezenet1_0", weights=weights)
    photograph = Image.open(shared("images") / "tubingen.jpg").convert("RGB").resize((224, 224))
    images = pil_to_tensor(photograph)[None].float() / 255
    psnr = [
        float(FeatureInversion(layer=layer, steps=120).details(model, images).psnr)
        for layer in ("features.1", "features.5", "features.10")
    ]
    assert psnr[0] >= 22
    assert psnr[0] > psnr[1] + 3 > psnr[2] + 3
