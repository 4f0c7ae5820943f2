"""Patches: where they lie and what they cover; one patch for many images, with a known answer on a linear model."""

import pytest
import torch
from torch import Tensor, nn

from afterimage import UsageError
from afterimage.images import universal_patch
from afterimage.images.patches import Place, covered, pasted
from afterimage.images.transforms import Warp
from tests.networks import mixed, pictures

SEEDS = torch.arange(3)


def test_a_place_is_a_corner_the_center_or_anywhere():
    assert Place.parse("3:12").corners((20, 30), (4, 5), SEEDS).tolist() == [[3, 12]] * 3
    assert Place.of((3, 12)) == Place.parse("3:12") == Place.of("3:12")
    assert Place("center").corners((20, 30), (4, 5), SEEDS).tolist() == [[8, 12]] * 3
    assert [str(Place.parse(text)) for text in ("center", "random", "0:7")] == ["center", "random", "0:7"]
    corners = Place("random").corners((5, 4), (3, 4), torch.arange(60))
    assert corners.unique(dim=0).tolist() == [[0, 0], [1, 0], [2, 0]]
    assert torch.equal(Place("random").corners((5, 4), (3, 4), torch.tensor([7])), corners[7:8])


def test_places_are_refused():
    for text in ("3", "a:b", "-1:2", "1:2:3", "middle", ""):
        with pytest.raises(UsageError, match="place: expected the upper left corner y:x"):
            Place.parse(text)
    with pytest.raises(UsageError, match="place: expected"):
        Place.of((1, 2.5))
    for place in ("3:0", "0:3", "center", "random"):
        with pytest.raises(UsageError, match=r"lies inside the images, got .* pixels at .* on 10 × 10"):
            Place.parse(place).corners((10, 10), (8, 8) if ":" in place else (8, 11), SEEDS)


def test_a_patch_hides_what_lies_under_it():
    images, patches = torch.arange(72.0).view(2, 3, 3, 4), -1 - torch.arange(24.0).view(2, 3, 2, 2)
    corners = torch.tensor([[0, 0], [1, 2]])
    found = pasted(images, patches, corners)
    for image, patch, one, (y, x) in zip(images, patches, found, corners.tolist(), strict=True):
        expected = image.clone()
        expected[:, y : y + 2, x : x + 2] = patch
        assert torch.equal(one, expected)
    assert covered(patches, corners, images).flatten(1).nonzero().tolist() == [
        [0, 0], [0, 1], [0, 4], [0, 5], [1, 6], [1, 7], [1, 10], [1, 11],
    ]  # fmt: skip
    assert torch.equal(pasted(images, patches[:1], corners)[1, :, 1:, 2:], patches[0])
    assert pasted(images[:0], patches[:1], corners[:0]).shape == (0, 3, 3, 4)


def test_its_gradient_is_that_of_the_pixels_it_lies_on():
    patch = torch.rand(1, 3, 2, 2).double().requires_grad_()
    images, corners = torch.rand(2, 3, 5, 4).double(), torch.tensor([[0, 2], [3, 1]])
    assert torch.autograd.gradcheck(lambda patch: pasted(images, patch, corners).square(), patch)


class Average(nn.Module):
    """The mean color, linearly to classes."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3, 2, bias=False)
        self.head.weight.data = torch.tensor([[1.0, -2.0, 0.5], [-1.0, 2.0, 1.5]])

    def forward(self, images: Tensor) -> Tensor:
        return self.head(images.mean((2, 3)))


def test_the_best_patch_for_a_mean_color_is_that_color_all_over():
    found = universal_patch(Average(), torch.full((2, 3, 12, 12), 0.5), 1, (4, 6), steps=60, batch=3, rate=0.1)
    # the rows differ by (-2, 4, 1): no red, all the green and all the blue
    expected = torch.tensor([0.0, 1.0, 1.0]).view(1, 3, 1, 1).expand(1, 3, 4, 6)
    assert torch.equal(found.images, expected)
    assert found.losses.shape == (1, 60)
    assert found.losses[0, -1] == found.loss[0] == found.losses.max() > found.losses[0, 0]


def test_it_raises_the_class_on_images_that_it_has_not_seen():
    model, others = mixed(), pictures(8, 24, seed=9)
    found = universal_patch(model, pictures(6, 24), 3, 12, steps=40, batch=4)
    whole = (found.images * 255).round()
    assert torch.equal(whole / 255, found.images)
    corners = Place("random").corners((24, 24), (12, 12), torch.arange(8))
    before = model(others).softmax(1)[:, 3]
    after = model(pasted(others, found.images, corners)).softmax(1)[:, 3]
    assert bool((after > before).all())


def test_a_patch_depends_on_its_seed_alone():
    given = {"steps": 4, "batch": 2, "transforms": [Warp(10)]}
    found = universal_patch(mixed(), pictures(6, 16), 1, 8, seed=5, **given)
    torch.manual_seed(1)
    again = universal_patch(mixed(), pictures(6, 16), 1, 8, seed=5, **given)
    assert torch.equal(found.images, again.images)
    assert torch.equal(found.losses, again.losses)
    assert not torch.equal(found.images, universal_patch(mixed(), pictures(6, 16), 1, 8, seed=6, **given).images)


def test_batches_can_come_from_a_function_of_the_step():
    asked = []

    def draw(number: int) -> Tensor:
        asked.append(number)
        return pictures(3, 16, seed=number)

    told = []
    model = mixed().train()
    before = [weight.clone() for weight in model.state_dict().values()]
    universal_patch(model, draw, 1, 8, steps=3, progress=lambda done, total: told.append((done, total)))
    assert asked == [0, 0, 1, 2, 3]  # once to look at, one for each step, one to measure the patch on
    assert told[-1] == (3, 3)
    assert model.training
    assert all(torch.equal(one, was) for one, was in zip(model.state_dict().values(), before, strict=True))


def test_what_does_not_fit_is_refused(monkeypatch):
    model, images = mixed(), pictures(3, 16)
    with pytest.raises(UsageError, match="classes 0 to 4, got 5 to 5"):
        universal_patch(model, images, 5, 8)
    with pytest.raises(UsageError, match="lies inside the images, got 17 × 8 pixels"):
        universal_patch(model, images, 1, (17, 8))
    with pytest.raises(UsageError, match="expected one at least, and a batch above 0, got 0 and 8"):
        universal_patch(model, images[:0], 1, 8)
    monkeypatch.setattr("afterimage.images.universal.batch_for", lambda *_: 1)
    with pytest.raises(UsageError, match="batch: expected what fits into memory, 1 images, got 8"):
        universal_patch(model, images, 1, 8)
