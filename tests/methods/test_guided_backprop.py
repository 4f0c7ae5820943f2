"""Guided backprop against Captum where Captum is right, and against hook-free derivations where it is not."""

import pytest
import torch
import torch.nn.functional as F
from captum.attr import Deconvolution
from captum.attr import GuidedBackprop as CaptumGuidedBackprop
from torch import Tensor, nn

import afterimage
from afterimage import GuidedBackprop, UsageError
from afterimage.models.frozen import frozen
from afterimage.models.rectify import rectified
from tests.networks import live, mixed, pictures

RULES = ["guided", "deconvnet", "gradient"]
TARGET = torch.tensor([3, 7])


def close(ours: Tensor, theirs: Tensor) -> bool:
    """Equal to 1e-9 of the largest value: the order of float64 sums is all that may differ."""
    return bool(theirs.abs().max() > 0 and (ours - theirs).abs().max() <= 1e-9 * theirs.abs().max())


@pytest.mark.parametrize("name", ["alexnet", "vgg11", "resnet18", "squeezenet1_1", "shufflenet_v2_x1_0"])
@pytest.mark.filterwarnings("ignore:Setting backward hooks on ReLU")
def test_equals_captum_on_networks_of_relu_modules(name):
    model, images = live(name).double(), pictures(2, 80).double()
    for rule, method in [("guided", CaptumGuidedBackprop), ("deconvnet", Deconvolution)]:
        ours = GuidedBackprop(rule)(model, images, TARGET)
        with frozen(model):
            theirs = method(model).attribute(images.clone().requires_grad_(), TARGET)
        assert close(ours, theirs), rule
    model.float()


class Ruled(torch.autograd.Function):
    """A rectifier whose backward is written out from the papers."""

    @staticmethod
    def forward(ctx, input, upper, rule):
        output = input.clamp(0, upper)
        ctx.save_for_backward(output)
        ctx.upper, ctx.rule = upper, rule
        return output

    @staticmethod
    def backward(ctx, signal):
        (output,) = ctx.saved_tensors
        inside = (output > 0) & (output < ctx.upper) if ctx.rule != "deconvnet" else torch.ones_like(output).bool()
        positive = signal > 0 if ctx.rule != "gradient" else torch.ones_like(output).bool()
        return signal * inside * positive, None, None


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("name", ["densenet121", "googlenet", "mobilenet_v2"])
def test_reaches_functional_relus_that_hooks_miss(name, rule, monkeypatch):
    model, images = live(name).double(), pictures(2, 80).double()
    ours = GuidedBackprop(rule)(model, images, TARGET)
    monkeypatch.setattr(F, "relu", lambda input, inplace=False: Ruled.apply(input, torch.inf, rule))
    monkeypatch.setattr(F, "relu6", lambda input, inplace=False: Ruled.apply(input, 6.0, rule))
    monkeypatch.setattr(F, "hardtanh", lambda input, low, high, inplace=False: Ruled.apply(input, high, rule))
    images.requires_grad_()
    with frozen(model):
        (theirs,) = torch.autograd.grad(model(images).gather(1, TARGET[:, None]).sum(), images)
    model.float()
    assert close(ours, theirs)


@pytest.mark.parametrize("rule", RULES)
def test_every_spelling_of_relu_follows_the_matrix_formula(rule):
    """Back through `Mixed` by hand: transposed convolutions between rectifiers, no autograd, no hooks."""
    model, images = mixed().double(), pictures(2, 10).double()
    a, b, c, d, e, f, g = model.convolutions
    ones = [torch.inf] * 6 + [6.0]
    outputs: list[Tensor] = []
    x = images
    for number, convolution in enumerate([a, b, c, d, e, f, g]):
        z = convolution(x) + (x if number == 1 else 0)
        x = (8 * z if number == 6 else z).clamp(0, ones[number])
        outputs.append(x)
    signal = (model.head.weight[TARGET % 5] / 100)[:, :, None, None].expand(-1, -1, 10, 10)
    for number in range(6, -1, -1):
        output = outputs[number]
        if rule != "deconvnet":
            signal = signal * ((output > 0) & (output < ones[number]))
        if rule != "gradient":
            signal = signal * (signal > 0)
        back = F.conv_transpose2d(signal, model.convolutions[number].weight, padding=1) * (8 if number == 6 else 1)
        signal = back + (signal if number == 1 else 0)
    assert close(GuidedBackprop(rule)(model, images, TARGET % 5), signal)


def test_gradient_rule_is_the_plain_gradient():
    model, images = mixed().double(), pictures(2, 16).double().requires_grad_()
    (plain,) = torch.autograd.grad(model(images)[:, 2].sum(), images)
    assert close(GuidedBackprop("gradient")(model, images.detach(), torch.tensor([2, 2])), plain)


@pytest.mark.parametrize("name", ["resnet18", "googlenet", "densenet121", "mobilenet_v2", "squeezenet1_1"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_forward_pass_under_a_rule_is_bit_equal(name, dtype):
    import copy

    model, images = copy.deepcopy(live(name)).to(dtype), pictures(1, 64).to(dtype)
    plain = model(images)
    with rectified(model, "guided") as reach:
        ruled = model(images)
    assert reach.reached > 0
    assert torch.equal(plain, ruled)


def test_in_place_calls_stay_in_place():
    class InPlace(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = x * 1
            z = F.relu(y, inplace=True)
            assert z is y
            return y.sum((2, 3))

    images = torch.rand(2, 3, 4, 4) - 0.5
    found = GuidedBackprop()(InPlace(), images, torch.tensor([0, 1]))
    assert torch.equal(found[0, 0], (images[0, 0] > 0).float())


def test_explains_neurons_channels_and_layers():
    model, images = mixed().double(), pictures(2, 20).double()
    one = GuidedBackprop(of="convolutions.1:2:10:10")(model, images)
    support = one.abs().amax((0, 1)).nonzero()
    assert support.min() >= 8
    assert support.max() <= 12, "two 3×3 convolutions see 5×5 pixels"
    channel = GuidedBackprop(of="convolutions.1:2")(model, images)
    assert channel.abs().amax((0, 1)).count_nonzero() > 300
    assert not torch.equal(channel, GuidedBackprop(of="convolutions.1")(model, images))


def test_an_early_neuron_has_no_relu_below_and_gets_its_gradient():
    model, images = mixed().double(), pictures(2, 20).double()
    found = GuidedBackprop(of="convolutions.0:1:5:5")(model, images)
    torch.testing.assert_close(found[0, :, 4:7, 4:7], model.convolutions[0].weight[1].detach())


def test_activations_without_a_rule_are_named():
    images = pictures(1, 64)
    with pytest.raises(UsageError, match=r"also calls silu \(49 calls\)"):
        GuidedBackprop()(live("efficientnet_b0"), images)
    with pytest.raises(UsageError, match="hardswish"):
        GuidedBackprop()(live("mobilenet_v3_small"), images)
    assert GuidedBackprop(partial=True)(live("mobilenet_v3_small"), images).abs().max() > 0
    with pytest.raises(UsageError, match="found no ReLU"):
        GuidedBackprop()(nn.Sequential(nn.Flatten(), nn.Linear(3 * 64 * 64, 2)), images)


def test_compiled_and_scripted_modules_are_refused():
    images = pictures(1, 16)
    with pytest.raises(UsageError, match="TorchScript"):
        GuidedBackprop()(torch.jit.trace(mixed(), images), images)
    with pytest.raises(UsageError, match=r"torch\.compile"):
        GuidedBackprop()(torch.compile(mixed()), images)


def test_exported_programs_follow_the_rules(tmp_path):
    model, images = mixed(), pictures(2, 24)
    batch = torch.export.Dim("batch")
    torch.export.save(torch.export.export(model, (images,), dynamic_shapes=({0: batch},)), tmp_path / "mixed.pt2")
    loaded = afterimage.load_model(str(tmp_path / "mixed.pt2"), mean=(0, 0, 0), std=(1, 1, 1))
    for rule in RULES:
        ours, theirs = (GuidedBackprop(rule)(one, images, TARGET % 5) for one in (loaded, model))
        # float32 in another order of operations
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6 * float(theirs.abs().max()))


def test_rules_of_two_threads_do_not_meet():
    from concurrent.futures import ThreadPoolExecutor

    model, images = mixed(), pictures(2, 16)
    alone = {rule: GuidedBackprop(rule)(model, images, TARGET % 5) for rule in RULES}
    with ThreadPoolExecutor(3) as pool:
        jobs = [(rule, pool.submit(GuidedBackprop(rule), model, images, TARGET % 5)) for rule in RULES * 10]
        assert all(torch.equal(job.result(), alone[rule]) for rule, job in jobs)
