from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from afterimage.errors import UsageError
from afterimage.ops import gram, style_loss
from afterimage.ops.style_loss import reference

from . import checks
from .checks import random

FORWARD = torch.ops.afterimage.style_loss.default


def target_of(features: Tensor, shared: bool) -> Tensor:
    """Not symmetric, so that a gradient which relied on that shows."""
    images, channels = features.shape[:2]
    shape = (channels, channels) if shared else (images, channels, channels)
    return 9 * random(*shape, seed=2).to(features.device, torch.promote_types(features.dtype, torch.float32))


def gradient(features: Tensor, grad_output: Tensor, target: Tensor, center: bool, normalize: str) -> Tensor:
    leaf = features.clone().requires_grad_()
    loss, _ = reference(leaf, target, center, normalize)
    (result,) = torch.autograd.grad(loss, leaf, grad_output)
    return result


def case(center: bool, normalize: str, shared: bool) -> checks.Case:
    return checks.Case(
        name=f"{normalize}{'_centered' if center else ''}{'_shared' if shared else ''}",
        function=lambda features: style_loss(features, target_of(features, shared), center, normalize),  # type: ignore[arg-type]
        forward=lambda features: reference(features, target_of(features, shared), center, normalize)[0],
        gradient=lambda features, grad_output: gradient(
            features, grad_output, target_of(features, shared), center, normalize
        ),
        derivative=True,
        operators=((FORWARD, lambda features: (features, target_of(features, shared), center, normalize)),),
        rank=4,
        sums=True,
    )


@checks.parametrize([case(False, "none", True), case(False, "positions", False), case(True, "elements", False)])
def test_the_six_checks(check: Callable[[], None]) -> None:
    check()


def test_known_answer() -> None:
    features = torch.tensor([[[[1.0, 2.0]], [[3.0, -1.0]]]], requires_grad=True)  # G = [[5, 1], [1, 10]]
    target = torch.tensor([[4.0, 1.0], [1.0, 8.0]], requires_grad=True)
    loss = style_loss(features, target)
    assert loss.tolist() == [5.0]
    grad_features, grad_target = torch.autograd.grad(loss, (features, target))
    assert grad_features.tolist() == [[[[4.0, 8.0]], [[24.0, -8.0]]]]  # 4 · diag(1, 2) · F
    assert grad_target.tolist() == [[-2.0, 0.0], [0.0, -4.0]]


def test_is_zero_at_its_target() -> None:
    features = random(2, 40, 9, 9).float().requires_grad_()
    loss = style_loss(features, gram(features.detach(), True, "elements"), True, "elements")
    assert loss.tolist() == [0.0, 0.0]
    assert not torch.autograd.grad(loss.sum(), features)[0].any()


@pytest.mark.parametrize("shared", [True, False])
def test_target_has_a_gradient(shared: bool) -> None:
    features = random(2, 3, 4, 5).requires_grad_()
    target = target_of(features, shared).requires_grad_()
    assert torch.autograd.gradcheck(style_loss, (features, target))


def test_keeps_features_and_one_matrix() -> None:
    features = random(2, 5, 8, 8).float().requires_grad_()
    saved: list[tuple[int, ...]] = []

    def keep(tensor: Tensor) -> Tensor:
        saved.append(tuple(tensor.shape))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        style_loss(features, target_of(features, False))
    assert saved == [(2, 5, 8, 8), (2, 5, 5)]


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiles_without_graph_breaks(backend: str) -> None:
    features = random(2, 5, 6, 7).float().requires_grad_()
    target = target_of(features, True)

    def network(features: Tensor) -> Tensor:
        return style_loss(torch.relu(features), target, normalize="positions").sum()

    compiled = torch.compile(network, fullgraph=True, backend=backend)
    torch.testing.assert_close(compiled(features), network(features))
    eager, traced = (torch.autograd.grad(f(features), features)[0] for f in (network, compiled))
    torch.testing.assert_close(traced, eager)


@pytest.mark.parametrize("target", [torch.ones(3, 4), torch.ones(1, 3, 3), torch.ones(3, 3, dtype=torch.int64)])
def test_wrong_targets_raise(target: Tensor) -> None:
    with pytest.raises(UsageError, match=r"target: expected .* \(3, 3\) or \(2, 3, 3\) on cpu, got"):
        style_loss(torch.ones(2, 3, 4, 4), target)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.ones(2, 3, 4), torch.ones(3, 3)), "features: expected"),
        ((torch.ones(1, 2, 2, 2), torch.ones(2, 2), False, "all"), "normalize is 'all'"),
    ],
)
def test_wrong_arguments_raise(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        style_loss(*arguments)


def test_a_second_derivative_by_the_target_is_refused_too() -> None:
    features, target = random(1, 3, 4, 5).requires_grad_(), random(3, 3).requires_grad_()
    (grad_target,) = torch.autograd.grad(style_loss(features, target).sum(), target, create_graph=True)
    with pytest.raises(UsageError, match="first derivative only"):
        torch.autograd.backward(grad_target.sum())


def test_autocast_changes_nothing() -> None:
    features, target = random(1, 8, 6, 5).float(), random(8, 8).float()
    with torch.autocast("cpu", torch.bfloat16):
        inside = style_loss(features, target)
    assert inside.equal(style_loss(features, target))


def test_second_derivatives_are_refused() -> None:
    features = random(1, 3, 4, 4).requires_grad_()
    loss = style_loss(features, target_of(features, True))
    (grad_features,) = torch.autograd.grad(loss.sum(), features, create_graph=True)
    with pytest.raises(UsageError, match="first derivative only"):
        torch.autograd.backward(grad_features.sum())
