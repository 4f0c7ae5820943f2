"""Class visualization on linear models, where the answer is known, and on SqueezeNet, which has to see the classes."""

import copy

import pytest
import torch
from torch import Tensor, nn

import afterimage
from afterimage import ClassVisualization, UsageError
from afterimage.images import facets
from afterimage.images.rounding import levels
from afterimage.ops import total_variation
from afterimage.registry import method
from tests.networks import mixed, pictures

BARE = {"parameterization": "pixels", "contrast": 0.0, "tv": 0.0, "jitter": 0, "rotate": 0.0, "scale": 0.0}
TARGET = torch.tensor([0, 2])


class Linear(nn.Module):
    """Logits that are linear in the pixels of 4 × 4 images."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.weight = nn.Parameter(torch.randn(3, 48, generator=generator, dtype=torch.float64))

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1) @ self.weight.T

    @property
    def rows(self) -> Tensor:
        return self.weight.detach().view(3, 3, 4, 4)


class Brittle(nn.Module):
    """Logits that grow with brightness; that of class 1 is no number above a mean of 0.6."""

    def forward(self, images: Tensor) -> Tensor:
        mean = images.mean((1, 2, 3))
        return torch.stack([10 * mean, torch.where(mean > 0.6, torch.nan, 10 * mean), -mean], 1)


@pytest.mark.parametrize(("optimizer", "rate", "steps"), [("ascent", 1 / 160, 60), ("adam", 0.01, 400)])
def test_with_l2_a_linear_score_is_highest_on_its_weights(optimizer, rate, steps):
    model, decay = Linear(), 40.0  # so large that the optimum lies in [0, 1]
    found = ClassVisualization(**BARE, side=4, l2=decay, optimizer=optimizer, rate=rate, steps=steps)(model, TARGET)
    expected = 0.5 + model.rows[TARGET] / (2 * decay)
    # ascent halves what is missing at each step; Adam comes near by its rate, and slower
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9 if optimizer == "ascent" else 1e-5)


def test_within_a_radius_a_linear_score_is_highest_along_its_weights():
    model = Linear()
    found = ClassVisualization(**BARE, side=4, radius=0.5, optimizer="ascent", steps=20)(model, TARGET)
    direction = model.rows[TARGET] / model.rows[TARGET].flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    torch.testing.assert_close(found, 0.5 + 0.5 * direction, rtol=0, atol=1e-9)  # the start's noise fades away


@pytest.mark.parametrize("parameterization", ["pixels", "fourier"])
def test_the_score_grows_and_figures_are_those_of_the_8_bit_picture(parameterization):
    model = mixed()
    method = ClassVisualization(side=24, steps=30, jitter=2, parameterization=parameterization, tv=0, contrast=0)
    found = method.details(model, torch.tensor([1, 3]), torch.tensor([5, 6]))
    assert (found.loss > found.losses[:, 0]).all()
    with torch.no_grad():
        logits = model(levels(found.image))
    likely = logits.softmax(1)
    torch.testing.assert_close(found.score, logits[[0, 1], [1, 3]])
    torch.testing.assert_close(found.class_probability, likely[[0, 1], [1, 3]])
    assert torch.equal(found.seen_as, logits.argmax(1))
    torch.testing.assert_close(found.seen_probability, likely.amax(1))
    assert found.image.shape == (2, 3, 24, 24)
    assert (found.image.min() >= 0) & (found.image.max() <= 1)


class Rivals(nn.Module):
    """Logits of which that of class 1 rises faster wherever that of class 0 rises by red, and not where by green."""

    def forward(self, images: Tensor) -> Tensor:
        red, green, _ = images.mean((2, 3)).unbind(1)
        return torch.stack([10 * red + 8 * green, 40 * red - 10, -red], 1)


def test_the_logit_alone_may_lose_to_another_class_and_does_not_with_contrast_or_as_probability():
    plain = {**BARE, "side": 4, "steps": 60, "rate": 0.02}
    probability = {"contrast": None, "score": "probability"}
    # where the derivatives balance: 0 with the logit alone, 2/3 from 2 · 10 = p · 10 + (1 − p) · 40, and 1
    for chosen, probable in (({}, 0.0), ({"contrast": 1.0}, 2 / 3), (probability, 1.0)):
        found = ClassVisualization(**{**plain, **chosen}).details(Rivals(), torch.tensor([0]))
        assert abs(float(found.class_probability) - probable) < 0.1
        assert int(found.seen_as) == (0 if probable else 1)
    assert torch.equal(found.score, found.class_probability)


@pytest.mark.parametrize("options", [{}, {**BARE, "jitter": 2, "blur_every": 2, "clip_norm": 0.1, "radius": 3.0}])
def test_pictures_depend_on_their_seed_and_no_other(options):
    model, seeds = mixed().double(), torch.tensor([4, 9, 2])
    method = ClassVisualization(**{"side": 16, "steps": 5, "jitter": 3, **options})
    target = torch.tensor([0, 1, 1])
    together = method(model, target, seeds)
    assert torch.equal(together, method(model, target, seeds))
    for row in range(3):
        alone = method(model, target[row : row + 1], seeds[row : row + 1])
        torch.testing.assert_close(together[row : row + 1], alone, rtol=0, atol=1e-9)  # float64: sums in another order
    assert (together[1] - together[2]).abs().mean() > 1e-3
    assert method(model, target[:0]).shape == (0, 3, 16, 16)


def test_the_model_is_left_as_it_was():
    model = mixed().train()
    before = copy.deepcopy(model.state_dict())
    ClassVisualization(side=16, steps=2)(model, torch.tensor([1]))
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(weight.requires_grad and weight.grad is None for weight in model.parameters())


@pytest.mark.parametrize("of", ["convolutions.3:2", "convolutions.3:2:5:6", "convolutions.3"])
def test_neurons_channels_and_layers_have_a_picture_for_each_seed(of):
    model = mixed()
    method = ClassVisualization(of=of, side=16, steps=12, jitter=0, rotate=0, scale=0)
    found = method.details(model, seeds=torch.tensor([3, 7]))
    assert found.image.shape == (2, 3, 16, 16)
    assert (found.loss > found.losses[:, 0]).all()
    torch.testing.assert_close(found.score, method.of.score(model, levels(found.image)).detach())
    assert (found.class_probability, found.seen_as, found.seen_probability) == (None, None, None)
    assert method(model).shape == (1, 3, 16, 16)


def test_a_start_is_where_pictures_start():
    model, start = mixed(), pictures(2, 16)
    still = {**BARE, "optimizer": "ascent", "rate": 1e-9, "steps": 1}
    for given, expected in ((start, start), (start[:1], start[:1].expand(2, -1, -1, -1))):
        found = ClassVisualization(**still)(model, TARGET, start=given)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert ClassVisualization(**still, side=(12, 20))(model, TARGET, start=start).shape == (2, 3, 12, 20)
    assert ClassVisualization(steps=1)(model, TARGET, start=start).shape == (2, 3, 16, 16)


def test_the_networks_own_size_is_the_pictures():
    network = afterimage.load_model(mixed(), crop=(20, 28), mean=(0.5,) * 3, std=(0.2,) * 3)
    assert ClassVisualization(steps=1)(network, TARGET).shape == (2, 3, 20, 28)


def test_regularizers_do_what_they_say():
    model, target = mixed(), torch.tensor([1])
    plain = {**BARE, "side": 24, "steps": 20}
    rough = ClassVisualization(**plain)(model, target)
    for smoother in ({"blur_every": 2, "blur_sigma": 1.0}, {"tv": 0.05}, {"tv": 0.05, "tv_beta": 1.0}):
        assert total_variation(ClassVisualization(**{**plain, **smoother})(model, target)) < total_variation(rough) / 2
    for name in ("clip_norm", "clip_contribution"):
        found = ClassVisualization(**plain, **{name: 0.3})(model, target)
        grey = (found == 0.5).all(1).float().mean()
        assert grey + 1 / 24**2 >= 0.3
    assert (ClassVisualization(**plain, l2=10.0)(model, target) - 0.5).norm() < (rough - 0.5).norm() / 2


def test_one_that_diverges_ends_finite_and_lets_the_other_go_on():
    method = ClassVisualization(**BARE, side=4, steps=30)
    found = method.details(Brittle(), torch.tensor([1, 0]))
    assert found.diverged.tolist() == [True, False]
    assert 0.5 < found.image[0].mean() <= 0.6
    assert found.image[1].mean() > 0.9
    assert found.loss.isfinite().all()
    assert found.losses[0, -1].isnan()
    assert found.steps[0] < found.steps[1] == 30


@pytest.mark.parametrize(
    ("options", "given", "message"),
    [
        ({}, {}, "got neither"),
        ({}, {"target": torch.tensor([5])}, "expected classes 0 to 4, got 5 to 5"),
        ({}, {"target": torch.tensor([0.5])}, "expected 1 class indices"),
        ({"of": "convolutions.3:9"}, {}, "out of range"),
        ({"of": "convolution.3:1"}, {}, "nearest: convolutions.3"),
        ({"of": "convolutions.3:1"}, {"target": torch.tensor([1])}, "got both"),
        ({}, {"target": TARGET, "seeds": torch.tensor([1])}, "seeds: expected 2 whole numbers"),
        ({}, {"target": TARGET, "start": pictures(3, 16)}, "start: expected one picture, or 2, got 3"),
        ({"side": None}, {"target": TARGET}, "side: expected a size in pixels, since Mixed"),
        ({"side": 10**6}, {"target": TARGET}, "expected what fits into"),
        ({"side": 10**6, "of": "convolutions.3"}, {}, "expected what fits into"),
        ({"steps": 0}, {}, "steps: expected a number of at least 1"),
        ({"tv_beta": 0.5}, {}, "tv_beta: expected a number of at least 1"),
        ({"l2": -1.0}, {}, "l2: expected a number of at least 0"),
        ({"noise": float("nan")}, {}, "noise: expected a number of at least 0, got nan"),
        ({"contrast": -1.0}, {}, "contrast: expected a number of at least 0"),
        ({"contrast": 1.0, "score": "probability"}, {}, "contrast: expected with a class's logit alone"),
        ({"rate": 0.0}, {}, "rate: expected a finite number above 0"),
        ({"jitter": -1}, {}, "jitter: expected"),
        ({"scale": 1.0}, {}, "scale"),
        ({"side": 0}, {}, "whole numbers above 0"),
        ({"blur_every": 4}, {}, "blur_every: expected parameterization pixels with it, got fourier"),
        ({"clip_norm": 1.0, "parameterization": "pixels"}, {}, "share in"),
        ({"blur_every": 1, "blur_sigma": 0.0, "parameterization": "pixels"}, {}, "sigma above 0"),
        ({"radius": -1.0, "parameterization": "pixels"}, {}, "radius"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_work(options, given, message):
    with pytest.raises(UsageError, match=message) as caught:
        ClassVisualization(**{"side": 16, **options}).check(mixed(), **given)
    assert "\n" not in str(caught.value)


def sorts(counts: list[int]) -> tuple[Tensor, Tensor]:
    """Return images of several colors with noise, those of each color together, and which color each has."""
    colors = torch.tensor([[0.9, 0.1, 0.1], [0.1, 0.1, 0.9], [0.1, 0.9, 0.1]])
    owner = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    noise = torch.rand(len(owner), 3, 16, 16, generator=torch.Generator().manual_seed(2))
    return (colors[owner][:, :, None, None] + 0.1 * (noise - 0.5)).clamp(0, 1), owner


@pytest.mark.parametrize("layer", ["convolutions.0", None])
def test_facets_are_the_mean_images_of_the_sorts_there_are(layer):
    images, owner = sorts([5, 9, 7])
    shuffled = torch.randperm(21, generator=torch.Generator().manual_seed(1))
    found = facets(mixed(), images[shuffled], 3, layer, nearest=100)
    expected = torch.stack([images[owner == sort].mean(0) for sort in (1, 2, 0)])  # that of most images first
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert torch.equal(found, facets(mixed(), images[shuffled], 3, layer, nearest=100))
    of_few = facets(mixed(), images, 3, layer, nearest=1)
    assert all((images == one).flatten(1).all(1).any() for one in of_few)
    started = ClassVisualization(steps=1)(mixed(), torch.tensor([2, 2, 2]), start=found)
    assert (started - found).abs().mean() < 0.1


def test_facets_of_too_few_images_are_refused():
    images, _ = sorts([2, 1])
    for given, count in ((images, 4), (images[:1].expand(5, -1, -1, -1), 2), (images, 0)):
        with pytest.raises(UsageError, match="facets: expected"):
            facets(mixed(), given, count, "convolutions.0")


def test_its_verb_and_what_it_tells():
    found = method("class-visualization")
    assert found.generates
    assert [detail.name for detail in found.details][-4:] == [
        "score",
        "class_probability",
        "seen_as",
        "seen_probability",
    ]


@pytest.mark.slow
def test_squeezenet_sees_the_classes_in_their_pictures(shared):
    network = afterimage.load_model("squeezenet1_0", weights=str(shared("models") / "squeezenet1_0.safetensors"))
    network = network.to(memory_format=torch.channels_last)
    target = torch.tensor([1, 130, 207, 291, 340, 417, 574, 779, 950, 963])
    found = ClassVisualization().details(network, target)
    assert (found.class_probability >= 0.9).all(), found.class_probability
    assert torch.equal(found.seen_as, target)
    for shift in ((4, 0), (-4, 0), (0, 4), (0, -4), (4, 4)):
        with torch.no_grad():
            logits = network(levels(found.image).roll(shift, (2, 3)))
        ranks = (logits > logits.gather(1, target[:, None])).sum(1)
        assert (ranks < 5).all(), (shift, ranks)
