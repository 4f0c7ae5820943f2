"""Training of a style network: weights that descend the perceptual loss of what the network paints, step by step.

    W ← W − Adam(∂/∂W mean over the batch of L(net_W(content), content, style))

Johnson et al. 2016 (arXiv:1603.08155); each picture of a batch has one style at random (Dumoulin et al. 2017,
arXiv:1610.07629). What a step draws follows from the seed and the step's number, so that a training that goes on from
its state gives what an uninterrupted one gives.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UsageError
from ..models.frozen import frozen
from ..models.quickened import quickened
from ..models.style.net import LEAST, Norm, StyleNet, cropped, padded
from .perceptual import Perception
from .seeds import uniform

STYLES = 0
"""The stream of random numbers that styles are drawn from."""
LEVELS = 32.0
"""The last convolution gives levels up to 255: so much larger are its first weights and its rate."""
NORMS = 4.0
"""The scales and shifts of a style are of about 1, the weights of about 1/10: so much larger is their rate."""
WARM_UP = 0.02
"""Share of the steps over which the rate rises; then it falls along half a cosine."""
TERMS = ("content", "style", "tv", "range")


@dataclass(frozen=True)
class Recipe:
    """How many steps, Adam's highest rate, the arithmetic of both networks, and what is drawn by."""

    steps: int = 2000
    rate: float = 1e-3
    precision: Literal["fp32", "bf16"] = "fp32"
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse, with UsageError, numbers that are none of their options'."""
        if self.steps < 1 or not 0 < self.rate < math.inf:
            raise UsageError(f"expected steps of 1 or above and a finite rate above 0, got {self.steps}, {self.rate}")
        if self.precision not in ("fp32", "bf16"):
            raise UsageError(f"precision: expected fp32 or bf16, got {self.precision!r}")

    def rate_at(self, step: int) -> float:
        """Return the rate of a step, counted from 0."""
        rise = max(1, round(WARM_UP * self.steps))
        return self.rate * min(1.0, (step + 1) / rise) * (1 + math.cos(math.pi * step / self.steps)) / 2


class Losses(NamedTuple):
    """Weighted terms of a step, means over its batch."""

    content: float
    style: float
    tv: float
    range: float

    @property
    def total(self) -> float:
        """What is minimized."""
        return sum(self)


def untrained(width: int, styles: Sequence[str], seed: int) -> StyleNet:
    """Return a style network with random weights from a seed, whose pictures begin around grey."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = StyleNet(width, styles)
    with torch.no_grad():
        net.deconv3.conv2d.weight *= LEVELS
        nn.init.constant_(net.deconv3.conv2d.bias, 127.5)  # type: ignore[arg-type]
    return net


class Course:
    """A training on its way: `done` steps of it, and the terms of each in `losses` `(steps, 4)`."""

    def __init__(self, net: StyleNet, perception: Perception, recipe: Recipe) -> None:
        count = len(next(iter(perception.targets.values())))
        if len(net.styles) != count:
            raise UsageError(f"styles: expected {len(net.styles)}, one a style of the network, got {count}")
        self.net, self.perception, self.recipe = net.train(), perception, recipe
        self.done = 0
        self.losses = torch.full((recipe.steps, len(TERMS)), torch.nan)
        self.factors = {name: _factor(net, name) for name, _ in net.named_parameters()}
        groups = [{"params": [weight], "factor": self.factors[name]} for name, weight in net.named_parameters()]
        self.optimizer = torch.optim.Adam(groups, recipe.rate)

    def run(self, draw: Callable[[int], Tensor], watch: Callable[["Course"], bool] | None = None) -> None:
        """Take the steps that are left on what `draw` gives for their numbers, `(N, 3, H, W)` in [0, 1].

        `watch` is called after each step; the run ends early where it returns True. Raises UsageError, with the weights
        as before the step, where the loss or a gradient is not finite.
        """
        with frozen(self.perception.model), ExitStack() as held:
            if self.recipe.precision == "fp32":
                held.enter_context(quickened(self.perception.model))
            while self.done < self.recipe.steps:
                self.step(draw(self.done))
                if watch is not None and watch(self):
                    return

    def step(self, images: Tensor) -> Losses:
        """Take one step on contents `(N, 3, H, W)` and return its terms."""
        _check_contents(images)
        terms = self._terms(images, self.chosen(len(images)))
        torch.autograd.backward(sum(terms, torch.zeros(())))
        found = Losses(*(float(term.detach()) for term in terms))
        self._check(found)
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.rate_at(self.done) * group["factor"]
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.losses[self.done] = torch.tensor(found)
        self.done += 1
        return found

    def chosen(self, count: int) -> Tensor:
        """Return the styles `(count,)` that the next step's pictures are painted in."""
        draws = uniform(torch.tensor([self.recipe.seed]), torch.tensor([self.done]), STYLES, count)[0]
        return (draws * len(self.net.styles)).long()

    def _terms(self, images: Tensor, chosen: Tensor) -> list[Tensor]:
        shares = F.one_hot(chosen, len(self.net.styles)).to(images)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.recipe.precision == "bf16"):
            painted = cropped(self.net.painted(padded(images), shares), images)
            painted = painted.to(images.dtype)
            seen = self.perception.seen(painted)
            terms = self.perception.terms(images, chosen)
        return [term(seen).mean() for term in terms]

    def _check(self, found: Losses) -> None:
        """Raise UsageError where something is not finite, and forget the gradients."""
        gradients = [weight.grad for weight in self.net.parameters() if weight.grad is not None]
        finite = torch.stack([gradient.isfinite().all() for gradient in gradients]).all()
        if not math.isfinite(found.total) or not bool(finite):
            self.optimizer.zero_grad()
            what = "a gradient" if math.isfinite(found.total) else "the loss"
            raise UsageError(
                f"the training diverged: {what} of step {self.done + 1} is not finite; "
                f"take a rate below {self.recipe.rate:g}, or other weights"
            )

    def state(self) -> dict[str, Tensor]:
        """Return what it needs to go on, as tensors by name: weights, Adam's moments, the steps done, their terms."""
        found = {"done": torch.tensor(self.done), "losses": self.losses[: self.done].clone()}
        for name, weight in self.net.named_parameters():
            moments = self.optimizer.state.get(weight, {})
            found[f"net.{name}"] = weight.detach()
            for kind in ("exp_avg", "exp_avg_sq"):
                found[f"{kind}.{name}"] = moments.get(kind, torch.zeros_like(weight)).detach()
        return {name: value.cpu().clone().contiguous() for name, value in found.items()}

    @torch.no_grad()
    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a state of the same network and recipe."""
        self.done = int(state["done"])
        self.losses[: self.done] = state["losses"]
        for name, weight in self.net.named_parameters():
            weight.copy_(state[f"net.{name}"])
            moments = {kind: state[f"{kind}.{name}"].to(weight).clone() for kind in ("exp_avg", "exp_avg_sq")}
            self.optimizer.state[weight] = {"step": torch.tensor(float(self.done)), **moments}


def _factor(net: StyleNet, name: str) -> float:
    """Return how much larger than the recipe's a parameter's rate is."""
    owner = net.get_submodule(name.rpartition(".")[0])
    return LEVELS if owner is net.deconv3.conv2d else NORMS if isinstance(owner, Norm) else 1.0


def _check_contents(images: Tensor) -> None:
    if images.ndim != 4 or images.shape[1] != 3 or not len(images) or min(images.shape[2:]) < LEAST:
        expected = f"(N, 3, H, W) in [0, 1] with sides of {LEAST} pixels at least"
        raise UsageError(f"contents: expected {expected}, got {tuple(images.shape)}")
