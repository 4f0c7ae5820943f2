"""Embeddings against what the network computes, by hand."""

import pytest
import torch
from torch import nn

from afterimage import UsageError
from afterimage.methods.embedding import Embedding
from tests.networks import live, mixed, pictures


def test_it_is_what_the_classifier_takes():
    model, images = live("resnet18"), torch.rand(2, 3, 96, 96)
    body = nn.Sequential(*list(model.children())[:-1])
    with torch.no_grad():
        torch.testing.assert_close(Embedding()(model, images), body(images).flatten(1))


def test_of_vgg_it_is_fc7_behind_its_relu():
    model, images = live("vgg11"), torch.rand(1, 3, 96, 96)
    found = Embedding()(model, images)
    assert found.shape == (1, 4096)
    assert found.min() == 0
    with torch.no_grad():
        torch.testing.assert_close(model.classifier[6](found), model(images))


def test_maps_are_pooled_or_flattened():
    model, images = mixed(), pictures(2, 16)
    maps = {}
    hook = model.convolutions[6].register_forward_hook(lambda _, inputs, output: maps.setdefault("6", output.clone()))
    model(images)
    hook.remove()
    for pool, expected in [("mean", maps["6"].mean((2, 3))), ("max", maps["6"].amax((2, 3)))]:
        torch.testing.assert_close(Embedding(layer="convolutions.6", pool=pool)(model, images), expected)
    flat = Embedding(layer="convolutions.6", pool="flatten")(model, images)
    assert torch.equal(flat, maps["6"].flatten(1))


def test_tokens_are_pooled_over_their_number():
    model = nn.Sequential(nn.Conv2d(3, 4, 8, 8), nn.Flatten(2), Transposed(), nn.Linear(4, 5))
    images = pictures(2, 16)
    with torch.no_grad():
        tokens = model(images)
    torch.testing.assert_close(Embedding(layer="3")(model, images), tokens.mean(1))


class Transposed(nn.Module):
    def forward(self, x):
        return x.transpose(1, 2)


def test_numbers_are_float32_unless_asked_otherwise():
    model, images = mixed().bfloat16(), pictures(2, 16).bfloat16()
    assert Embedding()(model, images).dtype == torch.float32
    assert Embedding(dtype="float16")(model, images).dtype == torch.float16


def test_a_layer_of_another_kind_is_refused():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Unflatten(1, (2, 2)))
    with pytest.raises(UsageError, match=r"expected maps \(C, H, W\), tokens or a vector, got \(2, 2, 6, 6\)"):
        Embedding(layer="1")(model, pictures(2, 8))
