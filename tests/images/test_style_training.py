"""Training of style networks: the loss against its derivation, gradients, resumption, styles, what is refused."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from afterimage import UsageError
from afterimage.images.perceptual import Perception, Weights, size_of
from afterimage.images.style_measure import held_out_loss, losses_of, optimized, worth
from afterimage.images.style_training import Course, Recipe, untrained
from afterimage.methods.style_transfer import StyleTransfer
from afterimage.models.layers import activations
from afterimage.models.style.net import Norm
from afterimage.models.zoo import load_model
from tests.networks import pictures

SIDE = 32


@pytest.fixture(scope="module")
def model():
    return load_model("demo")


@pytest.fixture(scope="module")
def styles():
    return [pictures(1, 40, 5), pictures(1, 48, 6).flip(1) ** 2]


@pytest.fixture
def perception(model, styles):
    return Perception.of(model, styles, SIDE, Weights())


def course(perception, steps=6, width=2, seed=3, **given):
    count = len(next(iter(perception.targets.values())))
    net = untrained(width, [str(number) for number in range(count)], seed)
    return Course(net, perception, Recipe(steps, seed=seed, **given))


def draw(step):
    return pictures(2, SIDE, step % 3)


def test_the_loss_is_the_formula(perception, styles, model):
    content, painted, chosen = pictures(3, SIDE, 1), pictures(3, SIDE, 2) * 1.3 - 0.1, torch.tensor([1, 0, 1])
    terms = perception.terms(content, chosen)
    seen = perception.seen(painted)
    near, distances = perception.content_layer, []

    def gram(images, layer):
        maps = activations(model, images, [layer])[layer]
        return torch.einsum("nchw,ndhw->ncd", maps, maps) / (maps.shape[2] * maps.shape[3])

    sized = [F.interpolate(one, size_of(one, SIDE**2), mode="bicubic", antialias=True) for one in styles]
    with torch.no_grad():
        for layer in perception.targets:
            target = torch.cat([gram(one, layer) for one in sized])[chosen]
            distances.append((gram(painted, layer) - target).square().sum((1, 2)) / target.square().sum((1, 2)))
        own, kept = (activations(model, one, [near])[near] for one in (painted, content))
    across, down = painted.diff(dim=3), painted.diff(dim=2)
    excess = (painted - painted.clamp(0, 1)).square().mean((1, 2, 3))
    expected = [
        (own - kept).square().sum((1, 2, 3)) / kept.square().sum((1, 2, 3)),
        30 * torch.stack(distances).mean(0),
        10 * (across.square().sum((1, 2, 3)) + down.square().sum((1, 2, 3))) / SIDE**2,
        10 * 31 * excess,
    ]
    assert len(distances) >= 2
    assert bool((excess > 0).all())
    for term, value in zip(terms, expected, strict=True):
        torch.testing.assert_close(term(seen), value, rtol=2e-4, atol=1e-6)  # sums over positions in another order


def test_the_loss_is_style_transfers(perception, model, styles):
    """Optimized as the measurement does it, losses are those that style transfer reports."""
    photograph = pictures(1, SIDE, 4)
    for name in ("adam", "lbfgs"):
        method = StyleTransfer(optimizer=name, steps=4, scales=1)
        found = method.details(model, photograph, styles[1:])
        own = optimized(perception, photograph, 1, name, 4)
        assert len(own) == 5
        # both networks' arithmetic is the same; under L-BFGS style transfer's curve has the term of the range
        if name == "adam":
            torch.testing.assert_close(torch.tensor(own[:4]), found.losses[0], rtol=1e-5, atol=0)
        assert own[-1] < 0.9 * own[0]
        last = perception.terms(photograph, torch.tensor([1])).bounded(perception.seen(found.image))
        torch.testing.assert_close(torch.tensor(own[-1:]), last.detach(), rtol=1e-4, atol=0)


def test_the_gradient_is_that_of_finite_differences(model, styles):
    """In float64, along a direction of two parameters: one of a convolution, one of a norm."""
    perception = Perception.of(load_model("demo").double(), [one.double() for one in styles], SIDE, Weights())
    found = course(perception)
    net = found.net.double()
    contents, chosen = draw(0).double(), torch.tensor([0, 1])
    weights = [net.deconv2.conv2d.weight, net.in4.bias]
    directions = [torch.zeros_like(one) for one in weights]
    directions[0][0, 1, 1, 1], directions[1][1, 0] = 1.0, -0.7

    def value():
        return sum(found._terms(contents, chosen)).item()

    gradients = torch.autograd.grad(sum(found._terms(contents, chosen)), weights)
    slope = sum((one * way).sum().item() for one, way in zip(gradients, directions, strict=True))
    values = []
    for length in (1e-5, -1e-5):
        with torch.no_grad():
            for one, way in zip(weights, directions, strict=True):
                one += length * way
        values.append(value())
        with torch.no_grad():
            for one, way in zip(weights, directions, strict=True):
                one -= length * way
    assert abs(slope) > 1e-3
    assert (values[0] - values[1]) / 2e-5 == pytest.approx(slope, rel=1e-5)  # differences of second order, ReLUs aside


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_loss_falls(perception, precision):
    found = course(perception, steps=40, width=4, rate=3e-3, precision=precision)
    found.run(lambda step: draw(0))
    losses = found.losses.sum(1)
    assert found.done == 40
    assert bool(losses.isfinite().all())
    assert losses[-5:].mean() < 0.6 * losses[:5].mean()


def test_a_training_that_goes_on_equals_an_uninterrupted_one(perception):
    whole, first = course(perception), course(perception)
    whole.run(draw)
    first.run(draw, lambda one: one.done == 3)
    assert first.done == 3
    second = course(perception, seed=3)
    second.restore(first.state())
    second.run(draw)
    for name, value in whole.state().items():
        assert torch.equal(value, second.state()[name]), name
    other = course(perception, seed=4)
    assert not torch.equal(other.chosen(64), whole.chosen(64))


def test_each_style_has_norms_of_its_own(perception):
    found = course(perception, steps=30, width=4, rate=3e-3)
    drawn = []
    found.run(draw, lambda one: drawn.extend(one.chosen(2).tolist()) is not None)
    assert 10 < sum(drawn) < 50  # of 60 fair draws: six standard deviations
    net = found.net.eval()
    for module in net.modules():
        if isinstance(module, Norm):
            assert not torch.equal(module.weight[0], module.weight[1])
    with torch.no_grad():
        one, other = (net(draw(0), row[None]) for row in torch.eye(2))
    assert (one - other).abs().mean() > 0.01
    photographs = pictures(2, SIDE, 9)
    terms = losses_of(net, perception, photographs)
    with torch.no_grad():
        content = perception.terms(photographs[1:], torch.tensor([0]))
        alone = content.style(perception.seen(net(photographs[1:], torch.tensor([[1.0, 0.0]]))))
    torch.testing.assert_close(terms[1, 0, 1], alone[0])
    torch.testing.assert_close(torch.tensor(held_out_loss(net, perception, photographs)[:3]), terms.mean((0, 1)))


def test_what_a_network_is_worth_is_the_first_step_that_is_as_low(perception):
    net = untrained(2, ["a", "b"], 0).eval()
    photographs = pictures(2, SIDE, 9)
    bars = losses_of(net, perception, photographs).sum(2)
    found = worth(net, perception, photographs, 9)
    firsts = []
    for photograph, row in zip(photographs.split(1), bars.tolist(), strict=True):
        for style, bar in enumerate(row):
            course = optimized(perception, photograph, style, "adam", 9)
            firsts.append(next((step for step, loss in enumerate(course) if loss <= bar), 99))
    assert found["adam"].reached == sum(first < 99 for first in firsts)
    assert found["adam"].pictures == 4
    assert found["adam"].steps == (sorted(firsts)[2] if sorted(firsts)[2] < 99 else None)


def test_a_step_that_is_not_finite_is_refused_and_changes_nothing(perception):
    found = course(perception)
    found.step(draw(0))
    before = found.state()
    with torch.no_grad():
        found.net.res1.conv1.conv2d.weight[0, 0, 0, 0] = torch.inf
    with pytest.raises(UsageError, match="the training diverged: the loss of step 2 is not finite; take a rate below"):
        found.run(draw)
    after = found.state()
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert changed == ["net.res1.conv1.conv2d.weight"]
    assert all(weight.grad is None for weight in found.net.parameters())


def test_weights_are_not_changed_by_the_loss_network(perception, model):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    course(perception, steps=2).run(draw)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(weight.requires_grad for weight in model.parameters())


def test_rates_rise_and_fall():
    rates = [Recipe(1000, 0.5).rate_at(step) for step in range(1000)]
    assert rates[0] == pytest.approx(0.5 / 20, rel=1e-3)
    assert rates[-1] < 1e-4
    assert max(rates) == pytest.approx(0.5, rel=5e-3)
    assert rates.index(max(rates)) == 19
    assert rates[500] == pytest.approx(0.25)


def test_bad_inputs_are_refused(perception, model, styles):
    for bad in ({"steps": 0}, {"rate": 0.0}, {"rate": float("nan")}, {"precision": "fp16"}):
        with pytest.raises(UsageError, match="expected"):
            Recipe(**bad)
    for bad in ({"content": -1.0}, {"tv": float("inf")}, {"tv_beta": 0.5}, {"content": 0.0, "style": 0.0, "tv": 0.0}):
        with pytest.raises(UsageError, match="expected"):
            Weights(**bad)
    with pytest.raises(UsageError, match="styles: expected 1, one a style of the network, got 2"):
        Course(untrained(2, ["one"], 0), perception, Recipe())
    for images in (draw(0)[:0], draw(0)[:, :1], pictures(1, 12)):
        with pytest.raises(UsageError, match="contents: expected"):
            course(perception).step(images)
    with pytest.raises(UsageError):
        Perception.of(model, [styles[0][0]], SIDE, Weights())


@pytest.mark.parametrize(("name", "styles"), [("paintings", 3), ("mosaic", 1)])
def test_the_embedded_networks_paint_and_say_how_they_were_made(name, styles):
    import afterimage.models.style.net as net

    found = net.load_style_net(Path(net.__file__).parent / "nets" / f"{name}.safetensors")
    photograph = pictures(1, 96, 7)
    with torch.no_grad():
        painted = torch.cat([found(photograph, row[None]) for row in torch.eye(styles)])
    assert (found.width, len(found.styles)) == (8, styles)
    assert bool(((painted - photograph).abs().mean((1, 2, 3)) > 0.03).all())  # it is painted, and no blank
    assert bool((painted.std((1, 2, 3)) > 0.05).all())
    assert {"held_out_loss", "worth", "styles", "loss_net_digest", "versions", "start_sha256"} <= set(found.about)
