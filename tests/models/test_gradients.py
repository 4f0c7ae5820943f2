"""Gradients with respect to images, in every mode of torch and for every model that has one."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from afterimage import GuidedBackprop, Saliency, UsageError
from afterimage.models.network import Network, Preset
from tests.networks import mixed, pictures

TARGET = torch.tensor([3, 1])


class Written(nn.Module):
    """Applies a function to the images before a network sees them."""

    def __init__(self, change: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.change, self.network = change, mixed()

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(self.change(images))
        return logits


@pytest.mark.parametrize("method", [Saliency(), GuidedBackprop()])
def test_inference_mode_before_and_around(method: Saliency | GuidedBackprop) -> None:
    model, images = Network(mixed(), Preset((16, 16), None, (0.5,) * 3, (0.2,) * 3)), pictures(2, 16)
    expected = method(model, images, TARGET)
    with torch.inference_mode():
        model(images)
        made = images.clone()
        inside = method(model, made, TARGET.clone())
        assert torch.equal(method(model, made), method(model, images))
    assert torch.equal(inside, expected)
    assert torch.equal(method(model, made, TARGET), expected)
    model = Network(mixed(), model.preset)
    with torch.inference_mode():
        model(images)
    assert torch.equal(method(model, images, TARGET), expected)


@pytest.mark.parametrize("method", [Saliency(), GuidedBackprop()])
def test_a_model_that_writes_into_its_input(method: Saliency | GuidedBackprop) -> None:
    images = pictures(2, 16)
    before = images.clone()
    found = method(Written(lambda x: x.sub_(0.5)), images, TARGET)
    assert torch.equal(images, before)
    assert torch.equal(found, method(Written(lambda x: x - 0.5), images, TARGET))


@pytest.mark.parametrize("method", [Saliency(), GuidedBackprop()])
@pytest.mark.parametrize("change", [Tensor.detach, torch.ones_like], ids=["detach", "ones_like"])
def test_a_score_without_the_images(method: Saliency | GuidedBackprop, change: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(UsageError, match="the score does not depend on the images"):
        method(Written(change), pictures(2, 16), TARGET)


def test_a_model_made_under_inference_mode() -> None:
    with torch.inference_mode():
        model = mixed()
    with pytest.raises(UsageError, match=r"the model was made under torch\.inference_mode"):
        Saliency()(model, pictures(2, 16), TARGET)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (3, r"expected a tensor of class indices \(N,\), got int; use torch.tensor\(\[3\]\)"),
        ([1, 2], r"expected a tensor of class indices \(N,\), got list"),
        (np.array([1, 2]), "got ndarray"),
        (torch.tensor([True, False]), r"expected 2 class indices, got torch.bool"),
    ],
)
def test_targets_that_are_no_tensor_of_indices(target: object, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Saliency()(mixed(), pictures(2, 16), target)  # type: ignore[arg-type]


def test_images_that_are_no_tensor() -> None:
    with pytest.raises(UsageError, match=r"expected a floating-point tensor .*, got ndarray; torch.from_numpy"):
        Saliency()(mixed(), pictures(2, 16).numpy(), TARGET)  # type: ignore[arg-type]
