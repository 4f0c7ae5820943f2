"""Saliency against Captum, against the closed form on a linear model, and for neurons against finite differences."""

import pytest
import torch
from captum.attr import Saliency as CaptumSaliency
from torch import Tensor, nn

import afterimage
from afterimage import Saliency, UsageError
from afterimage.models.frozen import frozen
from tests.networks import live, mixed, pictures

NETWORKS = ["resnet18", "googlenet", "inception_v3", "densenet121", "mobilenet_v2", "squeezenet"]


def network(name: str, squeezenet: object) -> nn.Module:
    if name == "squeezenet":
        return afterimage.load_model("squeezenet1_0", weights=str(squeezenet))
    return live(name)


@pytest.fixture(scope="module")
def squeezenet(shared):
    return shared("models") / "squeezenet1_0.safetensors"


def captum(model: nn.Module, images: Tensor, target: Tensor) -> Tensor:
    with frozen(model):
        return CaptumSaliency(model).attribute(images.clone().requires_grad_(), target).amax(1, keepdim=True)


@pytest.mark.parametrize("name", NETWORKS)
def test_equals_captum_in_float64(name, squeezenet):
    model = network(name, squeezenet)
    images = pictures(2, 128).double()
    target = torch.tensor([3, 7])
    model.double()
    try:
        ours, theirs = Saliency()(model, images, target), captum(model, images, target)
    finally:
        model.float()
    assert theirs.amax((1, 2, 3)).min() > 0
    # The same derivative by the same arithmetic: what remains is the order of float64 sums.
    assert ((ours - theirs).abs().amax((1, 2, 3)) <= 1e-9 * theirs.amax((1, 2, 3))).all()


@pytest.mark.parametrize("name", NETWORKS)
def test_equals_captum_in_float32(name, squeezenet):
    model = network(name, squeezenet)
    images = pictures(3, 128)
    target = torch.tensor([3, 7, 9])
    theirs = captum(model, images, target)
    assert relative(Saliency()(model, images, target), theirs).max() <= 1e-4
    # Another memory format flips a few ReLU and pooling decisions: gradients differ in places, not as a whole.
    ours = Saliency()(model, images.to(memory_format=torch.channels_last), target)
    assert relative(ours, theirs).max() <= 2e-2


def relative(ours: Tensor, theirs: Tensor) -> Tensor:
    return (ours - theirs).flatten(1).norm(dim=1) / theirs.flatten(1).norm(dim=1)


def test_of_a_linear_model_is_the_weight_row():
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 5, 6)).double()
    images = torch.rand(2, 3, 4, 5).double()
    target = torch.tensor([1, 4])
    rows = model[1].weight[target].detach().view(2, 3, 4, 5)
    assert torch.equal(Saliency()(model, images, target), rows.abs().amax(1, keepdim=True))


def test_of_a_probability_is_the_softmax_rule():
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4 * 4, 6)).double()
    images = torch.rand(2, 3, 4, 4).double()
    p = model(images).softmax(1).detach()
    weight = model[1].weight.detach()
    rows = (p[:, :1] * (weight[0] - p @ weight)).view(2, 3, 4, 4)
    found = Saliency(score="probability")(model, images, torch.tensor([0, 0]))
    torch.testing.assert_close(found, rows.abs().amax(1, keepdim=True), rtol=1e-12, atol=1e-15)


def test_of_a_neuron_equals_finite_differences():
    model, images = mixed().double(), pictures(1, 12).double()
    neuron = afterimage.models.layers.Neuron.parse("convolutions.2:3:5:6")
    found = Saliency(of="convolutions.2:3:5:6")(model, images)
    step = 1e-6
    for y, x in [(5, 6), (4, 7), (6, 5)]:
        slopes = []
        for channel in range(3):
            moved = images.clone()
            moved[0, channel, y, x] += step
            slopes.append(float((neuron.score(model, moved) - neuron.score(model, images)).detach().abs() / step))
        # Central error of a piecewise linear network away from its kinks: rounding over the step.
        assert abs(max(slopes) - float(found[0, 0, y, x])) < 1e-7
    assert found[0, 0, 0, 0] == 0, "a far pixel is outside the neuron's receptive field"


def test_without_target_explains_the_most_probable_class():
    model, images = mixed(), pictures(3, 16)
    target = model(images).argmax(1)
    assert torch.equal(Saliency()(model, images), Saliency()(model, images, target))


def test_refuses_what_it_cannot_explain():
    model, images = mixed(), pictures(2, 16)
    with pytest.raises(UsageError, match="classes 0 to 4, got 5 to 5"):
        Saliency()(model, images, torch.tensor([5, 5]))
    with pytest.raises(UsageError, match=r"expected 2 class indices, got torch.int64 \(3,\)"):
        Saliency()(model, images, torch.tensor([1, 1, 1]))
    with pytest.raises(UsageError, match="floating-point"):
        Saliency()(model, images.mul(255).byte())
    with pytest.raises(UsageError, match=r"a class .* or a neuron"):
        Saliency(of="head:1")(model, images, torch.tensor([1, 1]))
    with pytest.raises(UsageError, match=r"one of logit, probability, not 'logits'; nearest: logit"):
        Saliency(score="logits")
    with pytest.raises(UsageError, match="logits"):
        Saliency()(nn.Conv2d(3, 2, 3), images)
