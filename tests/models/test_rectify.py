"""What a rule reaches, what it leaves alone and what it refuses, one spelling of an activation at a time."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from afterimage import GuidedBackprop, UsageError
from afterimage.models.rectify import rectified
from tests.ops.checks import special

aten = torch.ops.aten
Function = Callable[[Tensor], Tensor]


class Layer(nn.Module):
    """One convolution, a function, one linear layer; the same weights each time."""

    def __init__(self, function: Function) -> None:
        super().__init__()
        self.function = function
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.convolution, self.head = nn.Conv2d(3, 8, 3), nn.Linear(8, 5)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.function(self.convolution(images)).mean((2, 3)))  # type: ignore[no-any-return]


def explained(function: Function, rule: str = "guided") -> Tensor:
    images = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return GuidedBackprop(rule)(Layer(function), images, torch.tensor([1, 2]))


class Own(torch.autograd.Function):
    @staticmethod
    def forward(ctx, input):
        return input.clamp(min=0)

    @staticmethod
    def backward(ctx, grad_output):
        return grad_output


def elsewhere(images: Tensor) -> Tensor:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(torch.relu, images).result()


RELUS: dict[str, Function] = {
    "packet": aten.relu,
    "self=": lambda x: aten.relu.default(self=x),
    "input=": lambda x: F.relu(input=x),
    "threshold": nn.Threshold(0, 0),
    "threshold in place": nn.Threshold(0, 0, inplace=True),
    "clip in place": lambda x: x.clip_(0),
    "out=None": lambda x: torch.clamp(x, 0, out=None),
    "then clamps": lambda x: F.relu(x).clamp(max=50).clamp(min=-50),
    "empty range": lambda x: torch.relu(x) + x.clamp(0, 0) + x.clamp(0, -1).detach(),
    "integers": lambda x: torch.relu(x) * torch.arange(8).clamp(min=0).ge(0).view(1, 8, 1, 1),
    "integers in place": lambda x: torch.relu(x) * torch.arange(8).relu_().ge(0).view(1, 8, 1, 1),
    "beside the gradient": lambda x: torch.relu(x) + 0 * F.silu(x.detach()),
    "overwritten clamp": lambda x: x.clamp(0).add_(1),
    "overwritten threshold": lambda x: F.threshold(x, 0, 0).add_(1),
    "overwritten relu6": lambda x: F.relu6(x).add_(1),
    "recomputed": lambda x: checkpoint(torch.relu, x, use_reentrant=False),
    "recomputed relu6": lambda x: checkpoint(F.relu6, x, use_reentrant=False),
}


@pytest.mark.parametrize("rule", ["guided", "deconvnet", "gradient"])
@pytest.mark.parametrize("name", RELUS)
def test_follow_the_rule(name: str, rule: str) -> None:
    assert torch.equal(explained(RELUS[name], rule), explained(torch.relu, rule))


def test_bounds_above_the_smallest_are_no_rectifier() -> None:
    """The pooling of GeM clamps at 1e-6 after a ReLU; its derivative is its own."""
    found = explained(lambda x: F.relu(x).clamp(min=1e-6).pow(3))
    assert found.abs().max() > 0


REFUSED: dict[str, tuple[Function, str]] = {
    "hardtanh": (F.hardtanh, "hardtanh"),
    "clamp": (lambda x: x.clamp(-1, 1), "hardtanh"),
    "clamp in place": (lambda x: x.clamp_(min=-1, max=1), "hardtanh"),
    "threshold": (nn.Threshold(0.1, 0), "threshold"),
    "maximum": (lambda x: torch.maximum(x, torch.zeros(())), "maximum"),
    "maximum as max": (lambda x: torch.max(x, torch.zeros(())), "maximum"),
    "own backward": (Own.apply, "autograd function Own"),
    "other thread": (elsewhere, "relu out of sight"),
    "selu": (F.selu, "selu"),
    "part in place": (lambda x: (F.silu(x[:, :4], inplace=True), x)[1], "silu"),
    "softsign": (F.softsign, "softsign"),
    "exported logsigmoid": (aten.log_sigmoid.default, "logsigmoid"),
    "exported prelu": (lambda x: aten._prelu_kernel.default(x, torch.full((1, 8, 1, 1), 0.1)), "prelu"),
    "exported rrelu": (lambda x: aten.rrelu_with_noise.default(x, torch.empty_like(x)), "rrelu"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_is_refused_beside_a_relu(name: str) -> None:
    function, called = REFUSED[name]
    with pytest.raises(UsageError, match=rf"the model also calls (autograd function )?{called} \(1 calls\); partial"):
        explained(lambda x: function(1 * torch.relu(x)))
    images, target = torch.rand(1, 3, 8, 8), torch.tensor([1])
    assert GuidedBackprop(partial=True)(Layer(lambda x: function(1 * torch.relu(x))), images, target).isfinite().all()
    explained(lambda x: function(1 * torch.relu(x)), "gradient")


def test_relus_of_a_reentrant_checkpoint_are_refused() -> None:
    with pytest.raises(UsageError, match=r"autograd function CheckpointFunction \(1 calls\)"):
        explained(lambda x: checkpoint(torch.relu, torch.relu(x), use_reentrant=True))


@pytest.mark.filterwarnings("ignore:`torch.jit")
@pytest.mark.parametrize("body", [torch.relu, F.relu6, lambda x: x.clamp(min=0)])
def test_functions_of_torchscript_are_refused_also_once_they_are_optimized(body: Function) -> None:
    function = torch.jit.trace(body, torch.rand(2, 8, 6, 6))
    for _ in range(4):
        with pytest.raises(UsageError, match=r"relu out of sight|hardtanh|TorchScript function"):
            explained(lambda x: function(1 * torch.relu(x)))


def test_nothing_is_reached_where_no_gradient_passes() -> None:
    with rectified(nn.Identity(), "guided") as reach:
        torch.relu(torch.rand(3))
        with torch.no_grad():
            torch.relu(torch.rand(3, requires_grad=True))
    assert reach.reached == 0
    with pytest.raises(UsageError, match="found no ReLU"):
        explained(lambda x: x * torch.relu(torch.ones(1)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize(
    "function", [F.relu, F.relu6, lambda x: F.threshold(x, 0, 0), lambda x: x.clamp(0), lambda x: x.clamp(0, 6)]
)
def test_values_are_torchs_own_signed_zeros_included(function: Function, dtype: torch.dtype) -> None:
    images = special().to(dtype).requires_grad_()
    plain = function(images).detach()
    with rectified(nn.Identity(), "guided") as reach:
        ruled = function(images).detach()
    assert reach.reached == 1
    torch.testing.assert_close(ruled, plain, rtol=0, atol=0, equal_nan=True)
    known = ~plain.isnan()
    assert torch.equal(torch.signbit(ruled)[known], torch.signbit(plain)[known])
