"""Optimizers: where each image of a batch goes next, from its own values and gradients alone.

A `Run` holds the state of the images that have not ended. `tell` takes what was found at `points`; it returns for which
images that is the loss of an iterate. `drop` ends images; what their last iterate was is in `iterates`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor

from ..errors import UsageError

Project = Callable[[Tensor, Tensor, Tensor, int], Tensor]
"""New points from points, their gradients, the images' rows and the number of their iteration."""
Normalization = Literal["none", "l1", "l2", "sign"]


class Run(Protocol):
    """The optimization of a batch on its way; all tensors are of the n images that have not ended."""

    rows: Tensor
    """`(n,)` int64 on the CPU: their places in the batch."""

    @property
    def points(self) -> Tensor:
        """`(n, …)`: where values and gradients are wanted."""

    @property
    def iterates(self) -> Tensor:
        """`(n, …)`: where each image is."""

    @property
    def finite(self) -> Tensor:
        """`(n, …)`: where each image's loss was told last, so that it was finite; before that, its start."""

    @property
    def told(self) -> Tensor:
        """`(n,)` int64 on the CPU: of how many iterates each image's loss was told."""

    @property
    def steps(self) -> Tensor:
        """`(n,)` int64 on the CPU: how many steps each image has taken."""

    @property
    def over(self) -> Tensor:
        """A mask `(n,)` on the CPU of images that have converged; they are to be dropped."""

    def tell(self, values: Tensor, gradients: Tensor) -> tuple[Tensor, Tensor]:
        """Move on, given values `(n,)` and gradients at `points`; return a mask of the iterates told, and losses.

        The mask lies on the CPU; losses `(n,)` count where it is set.
        """

    def drop(self, ended: Tensor) -> None:
        """End the images of a mask `(n,)` on the CPU."""


class Optimizer(Protocol):
    """How points move; an immutable value."""

    def begin(self, start: Tensor, project: Project | None) -> Run:
        """Start at parameters `(N, …)`; `project` is applied to every new point."""


Update = Callable[[Tensor, dict[str, Tensor], int], Tensor]
"""The step `(n, …)` to add, from the gradients, the state by name (each `(n, …)`) and the iteration's number from 1."""


@dataclass
class Steps:
    """A run of an optimizer that moves at every evaluation."""

    iterates: Tensor
    update: Update
    project: Project | None
    rows: Tensor = field(init=False)
    state: dict[str, Tensor] = field(default_factory=dict)
    previous: Tensor | None = None
    number: int = 0

    def __post_init__(self) -> None:
        self.rows = torch.arange(len(self.iterates))

    @property
    def points(self) -> Tensor:
        """The iterates."""
        return self.iterates

    @property
    def finite(self) -> Tensor:
        """The points before the last step."""
        return self.iterates if self.previous is None else self.previous

    @property
    def steps(self) -> Tensor:
        """All images have taken as many steps."""
        return torch.full_like(self.rows, self.number)

    told = steps

    @property
    def over(self) -> Tensor:
        """None converges by itself."""
        return torch.zeros(len(self.rows), dtype=torch.bool)

    def tell(self, values: Tensor, gradients: Tensor) -> tuple[Tensor, Tensor]:
        """Take one step with all images."""
        self.number += 1
        self.previous = self.iterates
        points = self.iterates + self.update(gradients, self.state, self.number)
        if self.project is not None:
            points = self.project(points, gradients, self.rows, self.number)
        self.iterates = points
        return torch.ones(len(self.rows), dtype=torch.bool), values

    def drop(self, ended: Tensor) -> None:
        """Forget the images of a mask."""
        kept = ~ended
        self.rows = self.rows[kept]
        there = kept.to(self.iterates.device)
        self.iterates = self.iterates[there]
        self.previous = None if self.previous is None else self.previous[there]
        self.state = {name: value[there] for name, value in self.state.items()}


@dataclass(frozen=True)
class Adam:
    """Kingma, Ba, Adam: a method for stochastic optimization, 2015 (arXiv:1412.6980), algorithm 1."""

    rate: float = 0.05
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8

    def __post_init__(self) -> None:
        _check_rate(self.rate)

    def begin(self, start: Tensor, project: Project | None = None) -> Run:
        """Start at parameters `(N, …)`."""
        return Steps(start, self._update, project)

    def _update(self, gradients: Tensor, state: dict[str, Tensor], number: int) -> Tensor:
        first, second = self.betas
        for name, beta, value in (("mean", first, gradients), ("square", second, gradients.square())):
            before = state.get(name)
            state[name] = value * (1 - beta) if before is None else before.lerp_(value, 1 - beta)
        scale = (state["square"] / (1 - second**number)).sqrt_().add_(self.eps)
        return state["mean"].div(scale).mul_(-self.rate / (1 - first**number))


@dataclass(frozen=True)
class Ascent:
    """Plain steps along the gradient: the steepest one has length `rate` in the norm that is dual to the one named.

    `l1` divides by the mean of |gradient| (DeepDream), `l2` by ‖gradient‖, `sign` takes its sign (FGSM), `none` the
    gradient itself. Up or down is the objective's affair: points move against the gradient of the loss.
    """

    rate: float = 1.0
    normalization: Normalization = "none"

    def __post_init__(self) -> None:
        _check_rate(self.rate)

    def begin(self, start: Tensor, project: Project | None = None) -> Run:
        """Start at parameters `(N, …)`."""
        return Steps(start, self._update, project)

    def _update(self, gradients: Tensor, state: dict[str, Tensor], number: int) -> Tensor:
        return normalized(gradients, self.normalization).mul_(-self.rate)


def normalized(gradients: Tensor, normalization: Normalization) -> Tensor:
    """Return each image's gradient in units of its own size; 0 stays 0. The result is a new tensor."""
    if normalization == "sign":
        return gradients.sign()
    if normalization == "none":
        return gradients.clone()
    flat = gradients.flatten(1)
    size = flat.abs().mean(1) if normalization == "l1" else flat.norm(dim=1)
    return gradients / torch.where(size > 0, size, 1).view(-1, *[1] * (gradients.ndim - 1))


def _check_rate(rate: float) -> None:
    if not 0 < rate < float("inf"):
        raise UsageError(f"rate: expected a finite number above 0, got {rate}")
