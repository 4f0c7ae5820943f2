"""Predictions of memory: remembered as long as the model is what it was."""

import copy
import gc
import weakref

import pytest
import torch
from torch import nn

from afterimage.images import memory
from afterimage.images.memory import batch_for, predicted
from afterimage.models.remembered import remembered
from tests.networks import live, pictures


def narrow() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))


def test_a_prediction_is_made_once_per_model_and_size(monkeypatch):
    counted = []
    monkeypatch.setattr(memory, "predicted", lambda *given, **options: counted.append(given) or 1000)
    model = live("resnet18")
    for images in (pictures(2, 64), pictures(3, 64), pictures(2, 96), pictures(2, 64)):
        batch_for(model, ["layer1"], images)
    assert len(counted) == 2
    batch_for(copy.deepcopy(model), ["layer1"], pictures(2, 64))
    batch_for(model, ["layer2"], pictures(2, 64))
    assert len(counted) == 4


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.append(nn.Conv2d(4, 64, 1)),
        lambda model: setattr(model[0], "stride", (2, 2)),
        lambda model: setattr(model[0], "weight", nn.Parameter(torch.zeros(4, 3, 5, 5))),
        lambda model: model.double(),
        lambda model: model.train(False),
        lambda model: model.requires_grad_(False),
        lambda model: model.__setitem__(1, nn.Tanh()),
    ],
    ids=["layer", "stride", "shape", "type", "mode", "frozen", "kind"],
)
def test_a_changed_model_is_looked_at_again(change):
    model, image, numbers = narrow(), pictures(1, 24), iter(range(10))
    found = [remembered(model, "number", image, lambda: next(numbers)) for _ in range(2)]
    change(model)
    found += [remembered(model, "number", image, lambda: next(numbers)) for _ in range(2)]
    assert found == [0, 0, 1, 1]


def test_what_is_remembered_is_what_is_predicted():
    model, image = narrow(), pictures(1, 64)
    batch_for(model, ["2"], image)
    known = remembered(model, ("step", "2"), image, lambda: 0)
    assert known == predicted(model, ["2"], image) > 0
    model[0].stride = (2, 2)
    batch_for(model, ["2"], image)
    assert remembered(model, ("step", "2"), image, lambda: 0) < known


def test_models_are_not_kept():
    model = narrow()
    gone = weakref.ref(model)
    remembered(model, "number", pictures(1, 24), lambda: 1)
    del model
    gc.collect()
    assert gone() is None
