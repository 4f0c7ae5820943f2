"""Methods that make pictures in a few lines, for the tests of the runs that carry such methods."""

from collections.abc import Sequence
from functools import cache
from typing import Literal, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from afterimage import UsageError, registry
from afterimage.models.layers import Neuron, resolve
from afterimage.registry import Classes, Curve, Diverged, Image, Images, Progress, Values, option


class Painted(NamedTuple):
    image: Image
    loss: Values
    losses: Curve
    steps: Values
    diverged: Diverged
    success: Values
    seen_as: Classes
    difference: Images


def noise(seeds: Tensor, *shape: int) -> Tensor:
    """Return `(N, *shape)` in [0, 1], each item's from its own seed."""
    drawn = [torch.rand(shape, generator=torch.Generator().manual_seed(int(seed))) for seed in seeds]
    return torch.stack(drawn) if drawn else torch.rand(0, *shape)


class Blend:
    """How an image looks on its way to noise.

    A dark image ends early, a bright one diverges; one with a black corner is more than the network can take.
    """

    amount: float = option(0.25, "share of the noise")
    steps: int = option(4, "steps on the way")
    kind: Literal["even", "odd"] = option("even", "a choice")

    def __call__(
        self,
        model: nn.Module,
        images: Tensor,
        target: Tensor | None = None,
        seeds: Tensor | None = None,
        progress: Progress | None = None,
    ) -> Image:
        return self.details(model, images, target, seeds, progress).image

    def check(
        self,
        model: nn.Module,
        images: Tensor,
        target: Tensor | None = None,
        seeds: Tensor | None = None,
        progress: Progress | None = None,
    ) -> None:
        if self.amount > 1:
            raise UsageError(f"amount: expected at most 1, got {self.amount}")

    def details(
        self,
        model: nn.Module,
        images: Tensor,
        target: Tensor | None = None,
        seeds: Tensor | None = None,
        progress: Progress | None = None,
    ) -> Painted:
        assert seeds is not None
        self.check(model, images, target, seeds)
        if (images[:, :, 0, 0] == 0).all(1).any():
            raise ArithmeticError("a black corner")
        means = images.mean((1, 2, 3))
        with torch.no_grad():
            seen = model(images).argmax(1)
        losses = means[:, None] / torch.arange(1, self.steps + 1)
        losses[means < 0.3, self.steps // 2 :] = torch.nan
        losses[means > 0.9, self.steps // 2 :] = torch.inf
        for step in range(self.steps if progress else 0):
            progress(step + 1, self.steps)
        image = images.lerp(noise(seeds, *images.shape[1:]), self.amount)
        steps = (~losses.isnan()).sum(1)
        success = (self.amount > means).float()
        last = torch.where(means > 0.9, torch.nan, losses.nan_to_num(9.0, posinf=9.0).amin(1))
        return Painted(image, last, losses, steps.float(), means > 0.9, success, seen, (image - images).abs())


class Restyled(NamedTuple):
    image: Image
    loss: Values
    losses: Curve
    diverged: Diverged


class Tint:
    """How a content looks in the mean color of styles, where a mask allows it."""

    strength: float = option(0.5, "share of the styles' color")
    layer: str = option("convolutions.0", "a layer")

    def __call__(
        self,
        model: nn.Module,
        content: Tensor,
        style: Sequence[Tensor],
        weights: Sequence[float] | None = None,
        mask: Tensor | None = None,
        seeds: Tensor | None = None,
        style_mask: Sequence[Tensor] | None = None,
    ) -> Image:
        return self.details(model, content, style, weights, mask, seeds, style_mask).image

    def check(
        self,
        model: nn.Module,
        content: Tensor,
        style: Sequence[Tensor],
        weights: Sequence[float] | None = None,
        mask: Tensor | None = None,
        seeds: Tensor | None = None,
        style_mask: Sequence[Tensor] | None = None,
    ) -> None:
        resolve(model, self.layer)
        if mask is not None and mask.shape != (1, 1, *content.shape[2:]):
            raise UsageError(f"mask: expected {tuple(content.shape[2:])}, got {tuple(mask.shape)}")

    def details(
        self,
        model: nn.Module,
        content: Tensor,
        style: Sequence[Tensor],
        weights: Sequence[float] | None = None,
        mask: Tensor | None = None,
        seeds: Tensor | None = None,
        style_mask: Sequence[Tensor] | None = None,
    ) -> Restyled:
        self.check(model, content, style, weights, mask, seeds, style_mask)
        shares = torch.tensor(weights or [1.0] * len(style))
        parts = [torch.ones_like(one[:, :1]) for one in style] if style_mask is None else style_mask
        pairs = zip(style, parts, strict=True)
        colors = torch.stack([(one * part).sum((0, 2, 3)) / part.sum() for one, part in pairs])
        color = (colors * (shares / shares.sum())[:, None]).sum(0).view(1, 3, 1, 1)
        tinted = content.lerp(color.expand_as(content), self.strength)
        image = tinted if mask is None else content.lerp(tinted, mask)
        losses = torch.linspace(1, self.strength, 5).expand(len(content), 5)
        return Restyled(image, losses[:, -1], losses, torch.zeros(len(content), dtype=torch.bool))


class Invented(NamedTuple):
    image: Image
    loss: Values


class Invent:
    """What a class or a neuron could look like: noise, in a color of its own."""

    side: int = option(24, "side of the picture")
    of: Neuron | None = option(None, "a neuron instead of the class")

    def __call__(self, model: nn.Module, target: Tensor | None = None, seeds: Tensor | None = None) -> Image:
        return self.details(model, target, seeds).image

    def details(self, model: nn.Module, target: Tensor | None = None, seeds: Tensor | None = None) -> Invented:
        assert seeds is not None
        assert (target is None) == (self.of is not None)
        shade = target if target is not None else torch.tensor([self.of.channel or 0] * len(seeds))
        image = noise(seeds, 3, self.side, self.side).lerp((shade.float() / 5).view(-1, 1, 1, 1), 0.7).clamp(0, 1)
        return Invented(image, image.mean((1, 2, 3)))


class Darken:
    """How an image looks in the dark; no network is needed for that."""

    out: float = option(2.0, "how much larger")

    def __call__(self, model: nn.Module | None, images: Tensor) -> Image:
        assert model is None
        return F.interpolate(images, scale_factor=self.out) / 2

    @property
    def uses_network(self) -> bool:
        return False


@cache
def painters() -> dict[str, registry.Method]:
    """Return these methods by verb, as they are registered; the registry is left as it was."""
    registry.methods()
    before = dict(registry._registered)
    registry.register(Blend, verb="blend")
    registry.register(Tint, verb="tint", network="demo", network_flag="loss-net", fit="inside", size=48)
    registry.register(Invent, verb="invent")
    registry.register(Darken, verb="darken", fit="inside", size=32)
    made = {verb: found for verb, found in registry._registered.items() if verb not in before}
    registry._registered.clear()
    registry._registered.update(before)
    return made


@pytest.fixture
def painting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the painters be methods for one test."""
    made = painters()
    monkeypatch.setattr(registry, "_registered", {**registry._registered, **made})
