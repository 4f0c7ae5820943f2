"""Fooling against closed forms and a loop of its own; what holds of the 8-bit picture, after it was a file too."""

import io
import math
from functools import cache

import numpy as np
import pytest
import skimage.data
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn

import afterimage
from afterimage import Fooling, UsageError
from afterimage.images.patches import pasted
from afterimage.images.rounding import levels, no_farther
from afterimage.methods import fooling
from afterimage.workflows.geometry import Geometry, fit
from tests.networks import mixed, pictures

BOUNDED = [("fgsm", "inf"), ("fgsm", "2"), ("projected", "inf"), ("projected", "2")]


def eight_bits(count: int, side: int = 12, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return pictures as a file holds them."""
    return levels(pictures(count, side, seed).to(dtype))


def whole(images: Tensor) -> Tensor:
    """Return levels as whole numbers, after making sure that images are what 8 bits hold, bit by bit."""
    found = (images * 255).round().to(torch.uint8)
    assert torch.equal(found.to(images.dtype) / 255, images)
    return found.to(torch.int64)


def through_a_file(images: Tensor) -> Tensor:
    """Return images after each was written as PNG and read again."""
    read = []
    for image in images:
        file = io.BytesIO()
        Image.fromarray((image * 255).round().byte().permute(1, 2, 0).numpy()).save(file, "png")
        read.append(torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1))
    return torch.stack(read).float() / 255


def linear(classes: int = 4) -> nn.Module:
    """Return a network whose logits are linear in the pixels of 12 × 12 images."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return nn.Sequential(nn.Flatten(), nn.Linear(3 * 12 * 12, classes)).double()


@cache
def _lively() -> dict[str, Tensor]:
    model = mixed()
    with torch.no_grad():
        logits = model(pictures(64, 12, seed=77))
        model.head.weight.div_(logits.std(0)[:, None])
        model.head.bias.sub_(logits.mean(0)).div_(logits.std(0))
    return model.state_dict()


def lively() -> nn.Module:
    """Return a network whose classes are about as frequent as one another."""
    model = mixed()
    model.load_state_dict(_lively())
    return model


def slope(model: nn.Module, images: Tensor, classes: Tensor, sign: int) -> Tensor:
    """Return d/dx of ± log P(class): ± (its weights − the mean of all rows by probability)."""
    weight = model[1].weight.detach()
    probabilities = model(images).softmax(1).detach()
    return sign * (weight[classes] - probabilities @ weight).view_as(images)


@pytest.mark.parametrize("target", [None, torch.tensor([3, 0, 1])])
def test_fgsm_on_a_linear_model_is_a_step_of_the_sign(target):
    model, images = linear(), eight_bits(3, dtype=torch.float64)
    images[0, :, 0, :6] = torch.tensor([0, 1, 2, 253, 254, 255]).double() / 255
    classes, sign = (model(images).argmax(1), -1) if target is None else (target, 1)
    steps = 3 * slope(model, images, classes, sign).sign()
    found = Fooling("fgsm", eps=3 / 255)(model, images, target)
    assert torch.equal(whole(found), (whole(images) + steps.long()).clamp(0, 255))


def test_fgsm_in_the_euclidean_norm_is_a_step_of_the_gradient():
    model, images, target = linear(), eight_bits(3, dtype=torch.float64) * 0.5 + 0.25, torch.tensor([3, 0, 1])
    images = levels(images)
    ascent = slope(model, images, target, 1)
    step = 0.2 * (1 - fooling.SLACK) * ascent / ascent.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    expected = no_farther(images)(images + step, torch.arange(3))
    found = Fooling("fgsm", norm="2", eps=0.2).details(model, images, target)
    assert torch.equal(found.image, expected)
    # of the 51 levels, what is left is less than one more value would take
    assert (found.distance_2 * 255 > 50.8).all()
    assert (found.distance_2 <= 0.2).all()


def step_by_step(model: nn.Module, image: Tensor, target: int, rate: float, eps: float, steps: int) -> Tensor:
    """Ascend with one image in a loop of its own, its pixels unrounded beside the picture that is shown."""
    free = image.clone()
    for _ in range(steps):
        shown = ((free * 255).round() / 255).requires_grad_()
        (gradient,) = torch.autograd.grad(model(shown[None]).log_softmax(1)[0, target], shown)
        free = torch.maximum(torch.minimum(free + rate * gradient.sign(), image + eps), image - eps).clamp(0, 1)
    return (free * 255).round() / 255


@pytest.mark.parametrize("rate", ["1/255", "0.4/255"])
def test_projected_steps_equal_a_loop(rate):
    model, images, target = lively().double(), eight_bits(3, dtype=torch.float64), torch.tensor([3, 0, 1])
    rate = str(float(rate.split("/")[0]) / 255)
    found = Fooling(eps="3/255", rate=rate, steps=9, margin=1e6).details(model, images, target)
    for place in range(3):
        expected = step_by_step(model, images[place], int(target[place]), float(rate), 3 / 255, 9)
        assert torch.equal(found.image[place], expected)
    assert found.steps.tolist() == [9, 9, 9]
    assert (found.losses[:, -1] > found.losses[:, 0]).all()


@settings(max_examples=25, deadline=None)
@given(
    st.sampled_from(BOUNDED), st.fractions(0, 1, max_denominator=255), st.booleans(), st.booleans(), st.integers(0, 99)
)
def test_the_8_bit_picture_lies_in_the_ball(how, eps, toward, random_start, seed):
    attack, norm = how
    images, target = eight_bits(3, 8, seed), torch.tensor([3, 0, 1]) if toward else None
    random_start = random_start and attack == "projected"
    steps = {"steps": 3, "margin": 1e6} if attack == "projected" else {}
    method = Fooling(attack, norm=norm, eps=str(eps), random_start=random_start, **steps)
    found = method.details(lively(), images, target, seeds=torch.arange(3) + seed)
    away = (whole(found.image) - whole(images)).flatten(1)
    if norm == "inf":
        assert int(away.abs().max()) <= math.floor(eps * 255)
    else:
        assert bool((away.square().sum(1) <= float(eps * 255) ** 2).all())
    assert torch.equal(found.distance_inf, away.abs().amax(1).float() / 255)
    torch.testing.assert_close(found.distance_2, away.square().sum(1).double().sqrt().div(255).float())


ATTACKS = [{"attack": name, "norm": norm} for name, norm in BOUNDED] + [{"attack": "ascent"}, {"attack": "patch"}]


@pytest.mark.parametrize("options", ATTACKS, ids=lambda options: "-".join(options.values()))
@pytest.mark.parametrize("toward", [False, True], ids=["away", "toward"])
def test_what_is_told_is_true_of_the_file(options, toward):
    model, images = lively(), eight_bits(3)
    target = model(images).topk(2).indices[:, 1] if toward else None  # the class that is nearest
    wide = {"eps": "24/255"} if options.get("norm") == "inf" else {}
    found = Fooling(**options, **wide, patch_size=8).details(model, images, target)
    logits = model(through_a_file(found.image)).detach()
    assert torch.equal(found.seen_as, logits.argmax(1))
    torch.testing.assert_close(found.seen_probability, logits.softmax(1).amax(1))
    before = model(images).argmax(1)
    fooled = found.seen_as != before if target is None else found.seen_as == target
    assert torch.equal(found.success, fooled.float())
    assert found.success.any(), "there is something to tell"
    classes, sign = (before, -1) if target is None else (target, 1)
    of_class = logits.log_softmax(1).gather(1, classes[:, None]).squeeze(1)
    torch.testing.assert_close(found.loss, sign * of_class)
    difference = found.image - images
    torch.testing.assert_close(found.difference, 0.5 + difference / 2)
    torch.testing.assert_close(found.difference_10, (0.5 + 5 * difference).clamp(0, 1))


def test_an_image_is_left_alone_once_the_goal_is_passed_by_the_margin():
    model, images = lively().double(), eight_bits(6, seed=4, dtype=torch.float64)
    target = torch.arange(6) % 5
    found = Fooling("ascent", rate="0.1", margin=0.2, steps=60).details(model, images, target)
    lead = model(found.image).detach()
    rivals = lead.scatter(1, target[:, None], -math.inf).amax(1)
    lead = lead.gather(1, target[:, None]).squeeze(1) - rivals
    assert (lead[found.steps < 60] > 0.2).all()
    assert len(found.steps.unique()) > 2
    before = Fooling("ascent", rate="0.1", margin=0.2, steps=int(found.steps.max()) - 1).details(model, images, target)
    assert bool((before.steps < found.steps).any()), "a step less would not do"


def test_the_goal_is_away_from_a_class_that_is_given():
    model, images = lively(), eight_bits(3)
    predicted = model(images).argmax(1)
    found = Fooling(goal="away", eps="6/255").details(model, images, predicted)
    assert torch.equal(found.image, Fooling(eps="6/255")(model, images))
    assert torch.equal(found.success, (found.seen_as != predicted).float())
    # an image that is taken for another class already is where it should be
    other = (predicted + 1) % 5
    found = Fooling(goal="away", margin=0).details(model, images, other)
    assert torch.equal(found.image, images)
    assert found.success.tolist() == [1, 1, 1]


def test_away_lowers_the_predicted_class():
    model, images = lively(), eight_bits(4, seed=2)
    predicted = model(images).argmax(1, keepdim=True)
    for options in ATTACKS:
        made = Fooling(**options, patch_size=8)(model, images)
        after = model(made).softmax(1).gather(1, predicted)
        assert (after < model(images).softmax(1).gather(1, predicted)).all()


@pytest.mark.parametrize("eps", [0, 0.0, "0/255", "0.9/255", 0.0035])
def test_less_than_a_level_gives_the_original_back(eps):
    for attack in ("fgsm", "projected"):
        images = eight_bits(2)
        found = Fooling(attack, eps=eps if eps != "0.9/255" else 0.9 / 255).details(lively(), images)
        assert torch.equal(found.image, images)
        assert found.distance_2.tolist() == found.success.tolist() == [0, 0]
    assert torch.equal(Fooling(norm="2", eps=0)(lively(), images), images)


def test_images_count_as_their_8_bit_pictures():
    images = pictures(2, 12)
    assert not torch.equal(images, levels(images))
    assert torch.equal(Fooling()(lively(), images), Fooling()(lively(), levels(images)))
    assert torch.equal(Fooling(eps=0)(lively(), images), levels(images))


@pytest.mark.parametrize("place", ["1:4", "center", "random"])
def test_only_the_pixels_of_the_patch_change(place):
    model, images = lively(), eight_bits(4)
    found = Fooling("patch", patch_size=(5, 3), place=place, steps=5, margin=50).details(model, images)
    corners = Fooling("patch", place=place)._corners(images, (5, 3), torch.arange(4))
    for image, made, (y, x) in zip(images, found.image, corners.tolist(), strict=True):
        apart = (made != image).any(0)
        assert apart[y : y + 5, x : x + 3].all()
        assert apart.sum() == 15
    assert len({tuple(corner) for corner in corners.tolist()}) > 1 or place != "random"


def test_a_patch_that_is_given_is_pasted_as_it_is():
    model, images, patch = lively(), eight_bits(5), eight_bits(1, 6, seed=8)
    method = Fooling("patch", place="random")
    target, seeds = torch.arange(5), torch.arange(5) + 40
    found = method.details(model, images, target, patch, seeds)
    assert torch.equal(found.image, pasted(images, patch, method._corners(images, (6, 6), seeds)))
    assert torch.equal(found.success, (model(found.image).argmax(1) == target).float())
    torch.testing.assert_close(found.loss, model(found.image).log_softmax(1).gather(1, target[:, None])[:, 0].detach())
    assert found.losses.shape == (5, 1)
    assert found.steps.tolist() == [0] * 5
    assert not found.diverged.any()
    again = method.details(model, images[3:4], target[3:4], patch, seeds[3:4])
    assert torch.equal(again.image, found.image[3:4])


DRAWN = [{"random_start": True}, {"norm": "2", "random_start": True}, {"attack": "patch", "place": "random"}]


@pytest.mark.parametrize("options", [*ATTACKS, *DRAWN], ids=lambda options: "-".join(map(str, options.values())))
def test_a_batch_equals_its_singles_and_the_seeds_decide(options):
    model, images, seeds = lively().double(), eight_bits(4, dtype=torch.float64), torch.arange(4) + 7
    target = torch.arange(4)
    steps = {} if options.get("attack") == "fgsm" else {"steps": 5}
    method = Fooling(**options, patch_size=6, **steps)
    together = method.details(model, images, target, seeds=seeds)
    assert torch.equal(method(model, images, target, seeds=seeds), together.image)
    for place in range(4):
        own = slice(place, place + 1)
        alone = method.details(model, images[own], target[own], seeds=seeds[own])
        assert torch.equal(alone.image, together.image[own])
        torch.testing.assert_close(alone.loss, together.loss[own], rtol=1e-9, atol=1e-15)
    drawn = {"random_start", "place"} & options.keys()
    assert torch.equal(method(model, images, target, seeds=seeds + 100), together.image) == (not drawn)


def test_random_starts_fill_the_ball():
    images = torch.full((200, 3, 2, 2), 128 / 255)
    for norm in ("inf", "2"):
        away = Fooling(norm=norm, eps=0.25, random_start=True)._start(images, torch.arange(200)) - images
        length = away.flatten(1).norm(dim=1) if norm == "2" else away.flatten(1).abs().amax(1)
        assert float(length.max()) <= 0.25
        # of 200 draws in 12 dimensions the radius follows r¹²: half of them lie beyond 0.944 of it
        assert 0.4 < float((length > 0.25 * 0.5 ** (1 / 12)).float().mean()) < 0.6
        assert float(away.mean().abs()) < 0.02


class Broken(nn.Module):
    """A network that is not finite, from a call on, for images whose first pixel is about white."""

    def __init__(self) -> None:
        super().__init__()
        self.network, self.white_from, self.calls = lively(), 0, 0

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        white = (images[:, 0, 0, 0] > 0.95) & (self.calls > self.white_from)
        return self.network(images) * torch.where(white, torch.nan, 1)[:, None]


@pytest.mark.parametrize("options", ATTACKS, ids=lambda options: "-".join(options.values()))
def test_an_image_that_diverges_ends_with_its_last_finite_picture(options):
    steps = {} if options["attack"] == "fgsm" else {"steps": 3}
    method, target = Fooling(**options, **steps, patch_size=4), torch.tensor([0, 1, 2])
    images = levels(eight_bits(3, seed=5, dtype=torch.float64).clamp(max=0.7))
    expected = method.details(lively().double(), images, target)
    images[1, 0, 0, 0] = 1
    found = method.details(Broken().double(), images, target)
    assert found.diverged.tolist() == [False, True, False]
    assert found.success[1] == 0
    assert torch.equal(found.image[1], images[1])
    assert torch.equal(found.image[::2], expected.image[::2])


def test_an_image_that_diverges_later_keeps_what_it_had():
    model, images = Broken(), levels(eight_bits(2, seed=5).clamp(max=0.7))
    images[1, 0, 0, 0] = 1
    model.white_from = 4  # looked at for its classes, and two steps
    found = Fooling(margin=1e6, steps=9).details(model, images, torch.tensor([0, 1]))
    assert found.diverged.tolist() == [False, True]
    assert found.steps.tolist()[0] == 9
    assert 0 < found.steps[1] < 9
    assert not torch.equal(found.image[1], images[1])


def test_an_empty_batch_and_the_users_things_are_left_alone():
    model, images = lively().train(), eight_bits(2)
    before = images.clone()
    assert Fooling()(model, images[:0]).shape == (0, 3, 12, 12)
    assert Fooling("patch", patch_size=4)(model, images[:0], patch=images[:1, :, :4, :4]).shape == (0, 3, 12, 12)
    told: list[tuple[int, int]] = []
    Fooling(steps=3, margin=99)(model, images, progress=lambda done, total: told.append((done, total)))
    assert told == [(2, 6), (4, 6), (6, 6)]
    assert torch.equal(images, before)
    assert model.training


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eps": -0.1}, r"option 'eps': expected an amount of 0 or above, as 4/255 or 0.016, got '-0.1'"),
        ({"eps": "-4/255"}, r"got '-4/255'"),
        ({"eps": "four"}, r"got 'four'"),
        ({"eps": math.nan}, r"got 'nan'"),
        ({"norm": "1"}, r"option 'norm' takes one of inf, 2, not '1'"),
        ({"attack": "fgms"}, r"nearest: fgsm"),
        ({"attack": "fgsm", "steps": 3}, r"steps: attack fgsm takes norm, eps; leave it out"),
        ({"attack": "ascent", "eps": 0.1}, r"eps: attack ascent takes norm, steps, rate, margin"),
        ({"attack": "patch", "norm": "2"}, r"norm: attack patch takes steps, rate, margin"),
        ({"attack": "patch", "random_start": True}, r"random_start: expected attack projected, got patch"),
        ({"steps": 0}, r"steps: expected a whole number above 0, got 0"),
        ({"rate": 0}, r"rate: expected a number above 0, got 0"),
        ({"margin": -1.0}, r"margin: expected logits of 0 or above, got -1"),
        ({"place": "5"}, r"option 'place': place: expected the upper left corner y:x"),
        ({"patch_size": 0}, r"size in pixels"),
    ],
)
def test_options_that_cannot_be_are_refused(options, message):
    with pytest.raises(UsageError, match=message):
        Fooling(**options)


@pytest.mark.parametrize(
    ("options", "given", "message"),
    [
        ({}, {"target": torch.tensor([5, 1])}, r"target: expected classes 0 to 4, got 1 to 5"),
        ({}, {"target": torch.tensor([1])}, r"target: expected 2 class indices"),
        ({"goal": "toward"}, {}, r"goal: toward needs the class that is to be seen"),
        ({}, {"patch": torch.rand(1, 3, 4, 4)}, r"patch: expected attack patch, got projected"),
        ({"attack": "patch"}, {"patch": torch.rand(3, 4, 4)}, r"patch: expected a picture \(1, 3, h, w\), got"),
        ({"attack": "patch"}, {}, r"patch: expected one that lies inside the images, got 50 × 50 pixels at center"),
        ({"attack": "patch", "patch_size": 4, "place": "9:0"}, {}, r"got 4 × 4 pixels at 9:0 on 12 × 12"),
        ({}, {"seeds": torch.rand(2)}, r"seeds: expected 2 whole numbers"),
    ],
)
def test_what_does_not_fit_is_refused_before_any_work(options, given, message):
    model, images = lively(), eight_bits(2)
    calls = []
    model.register_forward_hook(lambda *_: calls.append(1))
    for call in (Fooling(**options).check, Fooling(**options)):
        with pytest.raises(UsageError, match=message):
            call(model, images, **given)
    assert len(calls) <= 2, "a look at how many classes there are"


@pytest.fixture(scope="module")
def squeezenet(shared):
    return afterimage.load_model("squeezenet1_0", weights=str(shared("models") / "squeezenet1_0.safetensors"))


def photograph(name: str) -> Tensor:
    pixels, _ = fit(getattr(skimage.data, name)(), Geometry("preset", (224, 224), 256, "bilinear"))
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 255


def test_a_real_network_takes_the_cat_for_five_other_things(squeezenet):
    image = photograph("chelsea")
    assert squeezenet.categories[int(squeezenet(image).argmax())] == "Egyptian cat"
    names = ["goldfish", "African elephant", "coffee mug", "jeep", "tennis ball"]
    target = torch.tensor([squeezenet.categories.index(name) for name in names])
    found = Fooling(eps="4/255").details(squeezenet, image.expand(5, -1, -1, -1), target)
    read = through_a_file(found.image)
    assert int((whole(read) - whole(image)).abs().max()) <= 4
    assert torch.equal(squeezenet(read).argmax(1), target)
    assert found.success.tolist() == [1.0] * 5


@pytest.mark.slow
def test_a_real_network_is_fooled_by_every_attack_but_a_single_step(squeezenet):
    image = photograph("chelsea")
    target = torch.tensor([squeezenet.categories.index("goldfish")])
    for options in ATTACKS:
        found = Fooling(**options).details(squeezenet, image, target)
        seen = squeezenet(through_a_file(found.image)).argmax(1)
        assert found.success.item() == float(seen == target)
        # one step is enough to leave a class, hardly to reach a chosen one
        assert found.success.item() == (options["attack"] != "fgsm")
    away = Fooling("fgsm", eps="1/255").details(squeezenet, image)
    assert away.success.item() == 1


@pytest.mark.parametrize(("attack", "steps", "passes"), [("fgsm", None, 2), ("projected", 3, 4)])
def test_the_network_is_not_asked_what_it_has_said(attack, steps, passes):
    """One pass per step and one for the result: what is seen at first and at last is known from them."""
    model, images, calls = lively(), eight_bits(3), []
    method = Fooling(attack=attack, steps=steps, margin=None if attack == "fgsm" else 1e9)
    method(model, images)  # learns how many classes there are
    handle = model.register_forward_hook(lambda *_: calls.append(1))
    found = method.details(model, images)
    handle.remove()
    assert len(calls) == passes
    with torch.no_grad():
        first, last = model(images), model(found.image)
    assert torch.equal(found.seen_as, last.argmax(1))
    assert torch.equal(found.success, (last.argmax(1) != first.argmax(1)).float())
    assert torch.equal(found.seen_probability, last.softmax(1).amax(1))


def test_figures_are_of_the_network_with_its_own_convolutions():
    """Where steps are computed by Winograd's filtering, whose errors are larger, first and last looks are not."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Conv2d(3, 128, 1), nn.Conv2d(128, 128, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        ).eval()
    images = eight_bits(2, 24)
    found = Fooling(attack="fgsm").details(model, images)
    with torch.no_grad():
        assert torch.equal(found.seen_probability, model(found.image).softmax(1).amax(1))
