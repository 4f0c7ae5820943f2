"""One forward pass serves all that read layers of the same images, and what they get is what they would compute."""

import pytest
import torch
from torch import nn

from afterimage import UsageError
from afterimage.methods.embedding import Embedding
from afterimage.methods.guided_backprop import GuidedBackprop
from afterimage.methods.patches import Patches
from afterimage.methods.saliency import Saliency
from afterimage.models.head import before_head, last_maps
from afterimage.models.layers import INPUT, OUTPUT, activations
from afterimage.models.sharing import sharing
from tests.networks import live, mixed, pictures

LAYERS = ["convolutions.4", "convolutions.6", INPUT + "head"]


def counted(model):
    calls = []
    return calls, model.convolutions[0].register_forward_hook(lambda *_: calls.append(1))


@pytest.mark.parametrize("first", [Saliency(), GuidedBackprop(), None], ids=["saliency", "guided", "nobody"])
def test_readers_take_what_the_first_pass_left(first):
    model, images = mixed(), pictures(3, 16)
    embedding, patches = Embedding(), Patches(layer="convolutions.4")
    expected = embedding(model, images), patches(model, images), model(images)
    alone = None if first is None else first(model, images)
    calls, hook = counted(model)
    with sharing(model, images, [*LAYERS, OUTPUT]) as shared:
        if first is not None:
            assert torch.equal(first(model, images), alone)
        found = embedding(model, images), patches(model, images), shared.kept(OUTPUT)
    hook.remove()
    assert len(calls) == 1
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)


def test_what_is_kept_is_not_what_the_network_writes_to():
    """The convolution's output is overwritten by the ReLU in place that follows it."""
    model, images = mixed(), pictures(2, 16)
    expected = activations(model, images, ["convolutions.0"])["convolutions.0"]
    assert (expected < 0).any()
    with sharing(model, images, ["convolutions.0"]):
        model(images)
        assert torch.equal(activations(model, images, ["convolutions.0"])["convolutions.0"], expected)


def test_other_images_and_other_layers_are_computed():
    model, images, others = mixed(), pictures(2, 16), pictures(2, 16, seed=5)
    expected = activations(model, others, ["convolutions.4"])["convolutions.4"]
    with sharing(model, images, ["convolutions.4"]):
        model(images)
        assert torch.equal(activations(model, others, ["convolutions.4"])["convolutions.4"], expected)
        calls, hook = counted(model)
        activations(model, images, ["convolutions.2"])
        activations(model, images.clone(), ["convolutions.4"])
        hook.remove()
    assert len(calls) == 2


def test_a_pass_that_was_broken_off_is_made_anew():
    model, images = mixed(), pictures(2, 16)
    expected = activations(model, images, ["convolutions.5"])["convolutions.5"]
    with sharing(model, images, ["convolutions.5", OUTPUT]) as shared:
        activations(model, images.clone(), ["convolutions.2"])  # ends early
        assert torch.equal(activations(model, images, ["convolutions.5"])["convolutions.5"], expected)
        assert torch.equal(shared.kept(OUTPUT), model(images))


def test_hooks_are_gone_afterwards():
    model, images = mixed(), pictures(2, 16)
    with pytest.raises(UsageError, match=r"no layer 'convolutions\.99'"), sharing(model, images, ["convolutions.99"]):
        pass
    with pytest.raises(ArithmeticError), sharing(model, images, LAYERS):
        raise ArithmeticError
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_what_the_last_layer_takes_is_found_in_networks_of_every_kind():
    names = {"resnet18": "input:fc", "vgg11": "input:classifier.6", "googlenet": "input:fc"}
    names |= {"squeezenet1_0": "input:classifier.1", "densenet121": "input:classifier"}
    images = torch.rand(1, 3, 96, 96)
    for name, expected in names.items():
        assert before_head(live(name), images) == expected, name
    assert last_maps(live("resnet18"), images) == "layer4.1"


def test_a_layer_that_is_put_in_the_place_of_another_is_found():
    model, images = mixed(), pictures(1, 16)
    assert before_head(model, images) == "input:head"
    model.head = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))
    assert before_head(model, images) == "input:head.2"


def test_a_network_without_weights_has_no_head():
    with pytest.raises(UsageError, match="Flatten calls no linear layer and no convolution; name the layer"):
        before_head(nn.Flatten(), pictures(1, 4))
