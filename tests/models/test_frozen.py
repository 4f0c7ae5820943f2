import pytest
import torch
from torch import nn

from afterimage.models.frozen import frozen


def state(model: nn.Module) -> list[bool]:
    return [module.training for module in model.modules()] + [weight.requires_grad for weight in model.parameters()]


def network() -> nn.Sequential:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    model[0].bias.requires_grad_(False)
    return model.train()


def test_two_wrappers_of_one_module_that_overlap() -> None:
    inner = network()
    first, second = nn.Sequential(inner), nn.Sequential(inner)
    before = state(first) + state(second)
    one, other = frozen(first), frozen(second)
    one.__enter__()
    other.__enter__()
    one.__exit__(None, None, None)
    assert not any(state(second)), "still held by the second"
    other.__exit__(None, None, None)
    assert state(first) + state(second) == before


def test_modules_that_forbid_eval() -> None:
    model = nn.Sequential(network(), torch.export.export(network().eval(), (torch.rand(1, 3, 8, 8),)).module())
    model.training = True
    before = state(model)
    with frozen(model):
        assert not any(state(model))
    assert state(model) == before


def test_a_freeze_that_fails_leaves_nothing_changed() -> None:
    model = network()
    part = nn.Module()
    part.register_parameter("weight", nn.Parameter(torch.ones(2)))
    part._parameters["weight"] = part.weight * 2  # not a leaf: its flag cannot be changed
    model.append(part)
    before = state(model)
    with pytest.raises(RuntimeError, match="leaf"), frozen(model):
        pass
    assert state(model) == before
    with frozen(model[0]):
        assert not any(state(model[0]))
    assert state(model) == before
