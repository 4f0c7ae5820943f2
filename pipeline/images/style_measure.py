"""What a style network is worth: its loss on held-out photographs, and how long optimization takes to get as low.

The photographs are optimized as style transfer does, from themselves and at one size, under the loss that the network
was trained for; a photograph's figure is the first step whose picture, clipped to [0, 1], has a loss as low as the
network's.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..models.frozen import frozen
from ..models.style.net import StyleNet
from .lbfgs import LBFGS
from .optimize import minimize
from .optimizers import Adam
from .perceptual import Perception, Terms
from .projections import clip
from .style_training import Losses

RATE = 0.02
"""Adam's over pictures, that of style transfer."""


class Worth(NamedTuple):
    """How many steps of an optimizer a network is worth."""

    steps: int | None
    """The upper median over photographs and styles; None where most did not get as low within the limit."""
    reached: int
    """How many got as low."""
    pictures: int
    limit: int


@torch.no_grad()
def losses_of(net: StyleNet, perception: Perception, photographs: Tensor) -> Tensor:
    """Return the weighted terms `(N, S, 3)` of photographs `(N, 3, H, W)` painted in each of S styles."""
    with frozen(net), frozen(perception.model):
        rows = [
            torch.stack([_terms(net, perception, one, style) for style in range(len(net.styles))])
            for one in photographs.split(1)
        ]
    return torch.stack(rows)


def held_out_loss(net: StyleNet, perception: Perception, photographs: Tensor) -> Losses:
    """Return the mean terms; what is painted lies in [0, 1]."""
    content, style, tv = losses_of(net, perception, photographs).mean((0, 1)).tolist()
    return Losses(content, style, tv, 0.0)


def worth(
    net: StyleNet,
    perception: Perception,
    photographs: Tensor,
    limit: int,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Worth]:
    """Compare with at most `limit` steps of Adam and L-BFGS, for each photograph `(N, 3, H, W)` and style."""
    bars = losses_of(net, perception, photographs).sum(2).tolist()
    found = {}
    for name in ("adam", "lbfgs"):
        firsts = [
            first_as_low(perception, photograph, style, name, bar, limit)
            for photograph, row in zip(photographs.split(1), bars, strict=True)
            for style, bar in enumerate(row)
        ]
        reached = sorted(first for first in firsts if first is not None)
        half = len(firsts) // 2
        found[name] = Worth(reached[half] if len(reached) > half else None, len(reached), len(firsts), limit)
        say(f"{name}: as low after {found[name].steps} steps, {len(reached)} of {len(firsts)} pictures within {limit}")
    return found


def first_as_low(
    perception: Perception, photograph: Tensor, style: int, optimizer: str, bar: float, limit: int
) -> int | None:
    """Return after how many steps an optimized photograph `(1, 3, H, W)` has a loss as low; None if after none."""
    steps = min(8, limit)
    while True:  # again from the start, as an optimization cannot be told when to end
        course = optimized(perception, photograph, style, optimizer, steps)
        first = next((step for step, loss in enumerate(course) if loss <= bar), None)
        if first is not None or steps == limit:
            return first
        steps = min(2 * steps, limit)


def optimized(perception: Perception, photograph: Tensor, style: int, optimizer: str, limit: int) -> list[float]:
    """Return the loss of a photograph `(1, 3, H, W)` before the first and after each of `limit` steps, clipped."""
    terms = perception.terms(photograph, torch.tensor([style]))
    result = minimize(
        perception.model,
        terms.bounded,
        photograph,
        steps=limit,
        optimizer=LBFGS(bounds=(0.0, 1.0)) if optimizer == "lbfgs" else Adam(RATE),
        projections=() if optimizer == "lbfgs" else (clip(),),
        snapshot_every=1,
    )
    with frozen(perception.model):
        return [_value(perception, terms, images) for images in (photograph, *result.snapshots)]


@torch.no_grad()
def _value(perception: Perception, terms: Terms, images: Tensor) -> float:
    return float(terms.bounded(perception.seen(images)))


def _terms(net: StyleNet, perception: Perception, photograph: Tensor, style: int) -> Tensor:
    """Return the terms `(3,)` of a photograph painted in a style."""
    chosen = torch.tensor([style])
    shares = torch.eye(len(net.styles)).to(photograph)[chosen]
    terms = perception.terms(photograph, chosen)
    seen = perception.seen(net(photograph, shares))
    return torch.cat([term(seen) for term in terms[:3]])
