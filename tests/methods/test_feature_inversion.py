"""Feature inversion: known answers, depth, what is refused."""

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

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


@pytest.mark.parametrize(("layer", "stride"), [("0", 1), ("1", 3), ("3", 6), ("4", 6), ("5", 6)])
def test_total_variation_grows_with_the_square_of_the_layers_stride(layer, stride):
    """Also a vector's, as that of the coarsest maps."""
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.MaxPool2d(3), nn.ReLU(), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten()
    ).double()
    images = pictures(1, 24).double()
    found = FeatureInversion(layer=layer, tv=0.5, alpha=0.0, steps=1, jitter=0).details(model, images)
    rows, columns = (found.image.diff(dim=axis).square().sum() for axis in (2, 3))
    expected = found.distance.double() + stride**2 * 0.5 * (rows + columns) / images.numel()
    # the distance is computed anew, in float32
    torch.testing.assert_close(found.loss, expected, rtol=1e-6, atol=0)


def test_coarse_layers_see_the_picture_shifted():
    model, images = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.MaxPool2d(16)), pictures(1, 64)
    fine, coarse = (
        {jitter: FeatureInversion(layer=layer, steps=2, jitter=jitter)(model, images) for jitter in (None, 0, 2)}
        for layer in "01"
    )
    assert torch.equal(fine[None], fine[0])
    assert torch.equal(coarse[None], coarse[2])
    assert not torch.equal(coarse[None], coarse[0])


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
        ({"jitter": -1}, "jitter: expected 0 or above, with adam alone, got -1 with adam"),
        ({"jitter": 2, "optimizer": "lbfgs"}, "with adam alone, got 2 with lbfgs"),
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
    made = [
        FeatureInversion(layer=layer, steps=120).details(model, images)
        for layer in ("features.1", "features.5", "features.10", "features.12")
    ]
    psnr = [float(one.psnr) for one in made]
    assert psnr[0] >= 22
    assert psnr[0] > psnr[1] + 3 > psnr[2] + 3 > psnr[3]
    for one in made:  # 0.05 at the last with the finest layer's weight of total variation
        assert torch.corrcoef(torch.stack([outlines(images), outlines(one.image)]))[0, 1] > 0.5


def outlines(images: Tensor) -> Tensor:
    """Return how strong edges of four pixels and more are, in squares of twenty."""
    small = avg_pool2d(images, 4)
    edges = small.diff(dim=3)[..., :-1, :].abs() + small.diff(dim=2)[..., :-1].abs()
    return avg_pool2d(edges.mean(1, keepdim=True), 5, 2).flatten()
