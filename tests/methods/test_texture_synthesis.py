"""Texture synthesis: E_l by its formula, a sample's own picture, other sizes, seeds, refusals."""

import pytest
import torch
from torch import Tensor, nn

from afterimage import TextureSynthesis, UsageError
from afterimage.images import Seen, memory, style, total_variation
from afterimage.images.objectives import evaluated
from afterimage.ops import nearest_texture
from tests.networks import mixed, pictures

LAYERS = "convolutions.0,convolutions.2"


def texture(**options) -> TextureSynthesis:
    return TextureSynthesis(**{"layers": LAYERS, "steps": 3, **options})


def maps(model: nn.Module, name: str, image: Tensor) -> Tensor:
    """Return a layer's activations `(C, positions)`, by a hook of its own."""
    found = []
    hook = model.get_submodule(name).register_forward_hook(lambda *given: found.append(given[2].detach().clone()))
    with torch.no_grad():
        model(image)
    hook.remove()
    return found[0][0].flatten(1)


@pytest.mark.parametrize("gram", ["mean", "centered"])
@pytest.mark.parametrize("normalize", ["paper", "target"])
def test_the_loss_is_that_of_the_formula(gram, normalize):
    model, sample = mixed().double(), pictures(1, 16, 7).double()
    made = texture(gram=gram, normalize=normalize, optimizer="adam").details(model, sample)
    expected = 0.0
    for name in LAYERS.split(","):
        own, other = (maps(model, name, one) for one in (made.image, sample))
        if gram == "centered":
            own, other = (one - one.mean(1, keepdim=True) for one in (own, other))
        channels, positions = own.shape
        far, size = (own @ own.T - other @ other.T).square().sum(), (other @ other.T).square().sum()
        expected += float(far / (4 * channels**2 * positions**2) if normalize == "paper" else far / size) / 2
    assert float(made.loss) == pytest.approx(expected, rel=1e-9)  # float64


def test_gram_and_total_variation_losses_of_4_by_4_pixels_by_hand():
    picture = torch.stack([torch.ones(4, 4), torch.arange(16.0).view(4, 4), torch.zeros(4, 4)])[None]
    seen = Seen(picture, {"": picture}, torch.arange(1))
    # Σ 1·1 = 16, Σ 1·k = 120, Σ k² = 1240, over 16 positions: 1, 7.5, 77.5
    expected = (1 + 2 * 7.5**2 + 77.5**2) / (4 * 3**2)
    torch.testing.assert_close(style("", torch.zeros(3, 3))(seen), torch.tensor([expected]))
    # 12 neighbors to the right differ by 1, 12 below by 4
    torch.testing.assert_close(total_variation(2.0)(seen), torch.tensor([12.0 * 1 + 12.0 * 16]))


def test_a_samples_own_picture_has_no_loss():
    model, samples = mixed().double(), pictures(2, 16, 7).double()
    loss = texture()._loss(model, samples)
    assert evaluated(model, loss, samples).tolist() == pytest.approx([0, 0], abs=1e-20)
    assert (evaluated(model, loss, samples.flip(0)) > 1e-6).all()


def test_outputs_of_another_size_come_near_the_sample():
    model, samples = mixed(), pictures(2, 16, 7)
    made = texture(extent="24x40", steps=40).details(model, samples)
    assert made.image.shape == (2, 3, 24, 40)
    assert (made.loss < 0.2 * made.losses[:, 0]).all()
    assert (texture(extent=8).details(model, samples)).image.shape == (2, 3, 8, 8)


def test_noise_is_of_the_seed_and_no_texture_of_the_others():
    model, samples = mixed().double(), pictures(1, 16, 7).double().repeat(3, 1, 1, 1)
    made = texture()(model, samples, seeds=torch.tensor([4, 9, 4]))
    torch.testing.assert_close(made[0], made[2], rtol=1e-9, atol=1e-12)
    assert (made[0] - made[1]).abs().max() > 0.1
    alone = texture()(model, samples[:1], seeds=torch.tensor([9]))
    torch.testing.assert_close(alone[0], made[1], rtol=1e-9, atol=1e-12)  # float64


class Touchy(nn.Module):
    """A blur that gives NaN for pictures on their way from the noise, of mean 0.5, to a sample brighter than 0.8."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.convolution = nn.Conv2d(3, 4, 3, bias=False)
        nn.init.constant_(self.convolution.weight, 0.05)

    def forward(self, images: Tensor) -> Tensor:
        mean = images.mean((1, 2, 3), keepdim=True)
        return self.convolution(images + torch.where((mean > 0.6) & (mean < 0.8), torch.nan, 0.0))


def test_one_that_diverges_ends_alone_with_its_last_finite_picture():
    samples = torch.cat([pictures(1, 16, 7) * 0.3, torch.full((1, 3, 16, 16), 0.95)]).double()
    method, model = texture(layers="convolution", optimizer="adam", rate=0.02, steps=40), Touchy().double()
    made = method.details(model, samples, seeds=torch.tensor([3, 4]))
    assert made.diverged.tolist() == [False, True]
    assert made.steps[0] == 40
    assert 1 <= made.steps[1] < 40
    finite = made.losses[1].isfinite()
    assert finite.sum() == made.steps[1]  # nothing is told of what came after
    assert made.loss.isfinite().all()
    assert 0.55 < made.image[1].mean() <= 0.6  # a step of 0.02 before the fall at most, and clear of the start
    alone = method(model, samples[:1], seeds=torch.tensor([3]))
    torch.testing.assert_close(made.image[:1], alone, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("options", "given", "message"),
    [
        ({}, {"images": torch.rand(1, 4, 16, 16)}, "images: expected finite pictures"),
        ({}, {"seeds": torch.rand(1)}, "seeds: expected 1 whole numbers"),
        ({"layers": "convolutions.99"}, {}, r"no layer 'convolutions\.99'"),
        ({"layers": "head"}, {}, r"layers that give maps \(C, H, W\), 'head' gives \(5,\)"),
    ],
)
def test_refuses_what_does_not_fit(options, given, message):
    for call in (texture(**options).check, texture(**options)):
        with pytest.raises(UsageError, match=message):
            call(mixed(), **{"images": pictures(1, 16), **given})


def test_refuses_sizes_that_memory_does_not_hold(monkeypatch):
    monkeypatch.setattr(memory, "free_memory", lambda device: 4_000_000)
    with pytest.raises(UsageError, match=r"images: expected what fits .* for one picture of 256 × 256"):
        texture(extent=256).check(mixed(), pictures(1, 16))


@pytest.mark.parametrize("options", [{"steps": 0}, {"rate": 0.0}, {"tv": -1.0}, {"extent": 0}])
def test_refuses_numbers_that_are_none_of_its_options(options):
    with pytest.raises(UsageError):
        texture(**options)(mixed(), pictures(1, 16))


def test_nearest_copies_pixels_of_the_sample_and_uses_no_network():
    method = TextureSynthesis(algorithm="nearest", extent="20x28", window=5, levels=2)
    samples = pictures(2, 24, 7)
    made = method.details(None, samples, torch.tensor([1, 2]))
    assert not method.uses_network
    assert texture().uses_network
    assert made.image.shape == (2, 3, 20, 28)
    for image, sample in zip(made.image, samples, strict=True):
        known = {tuple(pixel) for pixel in sample.flatten(1).T.tolist()}
        assert {tuple(pixel) for pixel in image.flatten(1).T.tolist()} <= known
    expected = nearest_texture(samples, (20, 28), torch.tensor([1, 2]), 5, 2, None)
    assert torch.equal(made.image, expected)
    told = []
    picked = TextureSynthesis(algorithm="nearest", window=5, levels=2, eps=0.5)
    assert picked(None, samples, progress=lambda *now: told.append(now)).shape == samples.shape
    assert told[-1][0] == told[-1][1] > 0
    with pytest.raises(UsageError, match="window 9 does not fit"):
        TextureSynthesis(algorithm="nearest", levels=6).check(None, samples)
