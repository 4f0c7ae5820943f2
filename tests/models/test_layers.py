from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from afterimage import UsageError
from afterimage.models.layers import Neuron, activations, layers, named, resolve
from afterimage.models.network import Network, Preset
from tests.networks import live, pictures


class Traps(nn.Module):
    """In-place operations after a convolution, on the input of an identity, and a module that is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.identity = nn.Identity()
        self.twice = nn.Conv2d(4, 4, 1)
        self.pair = nn.LSTM(4, 4, batch_first=True)
        self.unused = nn.Linear(2, 2)
        self.head = nn.Linear(4, 5)
        self.calls: list[str] = []

    def forward(self, images: Tensor) -> Tensor:
        features = self.relu(self.first(images))
        same = self.identity(features)
        features.mul_(3)
        features = self.twice(same).add_(features)
        features = self.twice(features)
        self.calls.append("twice")
        tokens, _ = self.pair(features.flatten(2).transpose(1, 2))
        return self.head(tokens.mean(1))


@pytest.fixture
def traps() -> Traps:
    torch.manual_seed(0)
    return Traps().eval()


def test_activations_hold_what_each_layer_returned(traps: Traps) -> None:
    images = torch.rand(2, 3, 6, 6)
    found = activations(traps, images, ["relu", "first", "identity", "twice"])
    assert list(found) == ["relu", "first", "identity", "twice"]
    first = traps.first(images)
    assert torch.equal(found["first"], first)
    assert float(first.detach().min()) < 0
    assert torch.equal(found["relu"], first.relu())
    assert torch.equal(found["identity"], first.relu())
    assert torch.equal(found["twice"], traps.twice(3 * first.relu()))
    with torch.inference_mode():
        assert torch.equal(activations(traps, images, ["identity", "twice"])["identity"], first.relu())
    assert traps.calls == []  # the first call was the last thing asked for


def test_the_forward_pass_is_that_without_hooks(traps: Traps) -> None:
    images = torch.rand(2, 3, 6, 6)
    logits = traps(images)
    found = activations(traps, images, ["first", "relu", "identity", "twice", "head"])
    assert torch.equal(found["head"], logits)
    assert not any(module._forward_hooks for module in traps.modules())


def test_activations_are_differentiable_with_respect_to_one_another() -> None:
    network = live("squeezenet1_1", 64).double()
    images = pictures(2, 64).double().requires_grad_()
    found = activations(network, images, ["features.0", "features.3", "features.7"])
    direct = network.features[:8](images)
    assert torch.equal(found["features.7"], direct)
    gradients = torch.autograd.grad(found["features.7"].sum(), [images, found["features.0"]], allow_unused=False)
    expected = torch.autograd.grad(direct.sum(), images)[0]
    assert float(expected.abs().max()) > 0
    assert torch.equal(gradients[0], expected)
    inner = functional.conv_transpose2d(gradients[1], network.features[0].weight, stride=2)
    torch.testing.assert_close(inner, expected[..., :63, :63], rtol=1e-12, atol=1e-12)
    network.float()


def test_hooks_are_removed_after_an_exception(traps: Traps) -> None:
    with pytest.raises(RuntimeError):
        activations(traps, torch.rand(1, 5, 6, 6), ["first", "twice"])
    assert not any(module._forward_hooks for module in traps.modules())


def test_threads_do_not_see_one_anothers_forward_pass(traps: Traps) -> None:
    both = torch.rand(2, 1, 3, 6, 6)
    expected = [traps.first(images) for images in both]
    inside, done = Event(), Event()

    def wait(*_: object) -> None:
        inside.set()
        assert done.wait(10)

    with ThreadPoolExecutor(1) as pool:
        # the pool's thread stops within its forward pass, hooks in place, while this one runs its own
        hook = traps.first.register_forward_pre_hook(wait)
        other = pool.submit(activations, traps, both[0], ["first", "relu", "identity"])
        assert inside.wait(10)
        hook.remove()
        traps(both[1])
        mine = activations(traps, both[1], ["first", "relu"])
        done.set()
    assert torch.equal(mine["first"], expected[1])
    assert torch.equal(other.result()["first"], expected[0])


def test_a_network_that_catches_exceptions_does_not_hold_up_the_stop(traps: Traps) -> None:
    class Catches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = traps

        def forward(self, images: Tensor) -> Tensor:
            try:
                return self.inner(images)
            except Exception:
                return torch.zeros(len(images), 5)

    images = torch.rand(1, 3, 6, 6)
    assert torch.equal(activations(Catches(), images, ["inner.first"])["inner.first"], traps.first(images))
    assert traps.calls == []


def test_errors(traps: Traps) -> None:
    images = torch.rand(1, 3, 6, 6)
    with pytest.raises(UsageError, match=r"layer 'pair' of Traps returns tuple, expected one tensor"):
        activations(traps, images, ["pair"])
    with pytest.raises(UsageError, match=r"layer 'unused' is not called in a forward pass of Traps"):
        activations(traps, images, ["first", "unused"])
    model = Network(live("squeezenet1_1", 64), Preset((64, 64)), name="squeezenet1_1")
    message = r"^no layer 'features\.33' in squeezenet1_1; nearest: features\.3, .*; see 'afterimage layers squeeze"
    with pytest.raises(UsageError, match=message):
        resolve(model, "features.33")
    assert activations(traps, images, []) == {}


def test_the_mode_is_the_callers(traps: Traps) -> None:
    traps.train()
    activations(traps, torch.rand(1, 3, 6, 6), ["first"])
    assert all(module.training for module in traps.modules())


def test_layers_of_a_network_are_those_of_the_users_module() -> None:
    network = live("squeezenet1_1", 64)
    model = Network(network, Preset((64, 64), mean=(0.4, 0.4, 0.4)), name="squeezenet1_1")
    assert list(named(model)) == [name for name, _ in network.named_modules() if name]
    assert resolve(model, "features.3.squeeze") is network.features[3].squeeze
    images = pictures(1, 64)
    assert torch.equal(
        activations(model, images, ["features.0"])["features.0"], network.features[0](model.normalize(images))
    )


@pytest.mark.parametrize("position", [(None, 1, 2), (0, 1, None), (0, None, 2)])
def test_a_neurons_position_is_whole(position: tuple[int | None, ...]) -> None:
    with pytest.raises(UsageError, match="expected y and x together and with a channel"):
        Neuron("a", *position)


@pytest.mark.parametrize("text", ["features.3", "features.3:7", "layer-1.a_b:0:12:3"])
def test_neuron_round_trip(text: str) -> None:
    assert str(Neuron.parse(text)) == text


@pytest.mark.parametrize("text", ["", ":3", "a:b", "a:1:2", "a:-1", "a:1:2:3:4", "a:1.5", "a:²"])
def test_neuron_that_cannot_be_read(text: str) -> None:
    with pytest.raises(UsageError, match=r"expected layer, layer:channel or layer:channel:y:x"):
        Neuron.parse(text)


def test_neuron_scores() -> None:
    network = live("squeezenet1_1", 64)
    images = pictures(3, 64)
    maps = network.features[:6](images)
    assert torch.equal(Neuron.parse("features.5:4:2:3").score(network, images), maps[:, 4, 2, 3])
    assert torch.equal(Neuron.parse("features.5:4").score(network, images), maps[:, 4].mean((1, 2)))
    strongest = torch.stack([max(channel.mean() for channel in item) for item in maps])
    torch.testing.assert_close(Neuron.parse("features.5").score(network, images), strongest)


def test_neuron_of_a_dense_layer(traps: Traps) -> None:
    images = torch.rand(2, 3, 6, 6)
    logits = traps(images)
    assert torch.equal(Neuron("head", 3).score(traps, images), logits[:, 3])
    assert torch.equal(Neuron("head").score(traps, images), logits.max(1).values)


@pytest.mark.parametrize(
    ("text", "shape", "message"),
    [
        ("a:4", (2, 4, 5, 6), r"a:4: out of range, a has shape \(4, 5, 6\)"),
        ("a:0:5:0", (2, 4, 5, 6), r"out of range, a has shape \(4, 5, 6\)"),
        ("a:0:0:6", (2, 4, 5, 6), r"out of range"),
        ("a:9", (2, 4), r"out of range, a has shape \(4,\)"),
        ("a:0:0:0", (2, 4), r"a has no positions, its shape is \(4,\); write a:unit"),
        ("a:0", (2, 7, 4), r"expected a layer of shape \(C, H, W\) or \(C,\), a has \(7, 4\)"),
    ],
)
def test_neuron_that_does_not_exist(text: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Neuron.parse(text).read(torch.zeros(shape))


def test_table_of_layers(traps: Traps) -> None:
    traps.train()
    torch.manual_seed(0)
    table = {info.name: info for info in layers(Network(traps, Preset((6, 8))), (6, 8))}
    assert list(table) == ["first", "relu", "identity", "twice", "head"]  # not the pair, not the unused
    assert (table["first"].type, table["first"].shape, table["first"].parameters) == ("Conv2d", (4, 6, 8), 3 * 36 + 4)
    assert (table["head"].shape, table["head"].parameters) == ((5,), 25)
    assert all(module.training for module in traps.modules())
    assert all(parameter.requires_grad for parameter in traps.parameters())
