"""L-BFGS with a strong-Wolfe line search, each image on its own: a coroutine per image asks for evaluations.

    x ← x + t d,   d = −H g,   H from the last pairs s = x' − x, y = g' − g with yᵀs > 0
    f(x + t d) ≤ f + c₁ t gᵀd   and   |g(x + t d)ᵀ d| ≤ c₂ |gᵀd|

Liu, Nocedal, On the limited memory BFGS method for large scale optimization, 1989 (doi:10.1007/BF01589116); Nocedal,
Wright, Numerical Optimization, 2006, algorithms 3.5, 3.6 and 7.4. Constants, bracketing and stopping rules are those of
torch.optim.LBFGS with line_search_fn="strong_wolfe", whose steps it follows.

    x ← P(x + t d),   d = −H g over the coordinates that are not held;   held: at a bound that −g points beyond

With bounds P clips to them, and so do all points that are evaluated. H comes from the pairs' parts that are not held,
f has to fall below f + c₁ gᵀ(x' − x): Bertsekas, Projected Newton methods for optimization problems with simple
constraints, 1982 (doi:10.1137/0320018). L-BFGS-B (doi:10.1137/0916069) looks for a Cauchy point first, left out here.
"""

import math
from collections import deque
from collections.abc import Generator, Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..errors import UsageError
from .optimizers import Project, Run

SUFFICIENT, CURVATURE = 1e-4, 0.9
"""c₁ and c₂."""
LEAST = 1e-10
"""yᵀs of the pairs that count, as in torch."""

Pair = tuple[Tensor, Tensor]
"""s and y."""
Search = Generator[Tensor, tuple[float, Tensor], None]
"""Yields where it wants loss and gradient of one image, flat `(D,)`, and is sent both."""


@dataclass(frozen=True)
class LBFGS:
    """Curvature from the last `history` steps; a line search of at most `trials` evaluations a step.

    `bounds` are the least and the largest value that a parameter may have.
    """

    rate: float = 1.0
    history: int = 20
    trials: int = 25
    bounds: tuple[float, float] = (-math.inf, math.inf)
    gradient_tolerance: float = 1e-7
    change_tolerance: float = 1e-9

    def __post_init__(self) -> None:
        if not 0 < self.rate < math.inf or self.history < 1 or self.trials < 1:
            raise UsageError(f"expected rate, history and trials above 0, got {self}")
        if not self.bounds[0] < self.bounds[1]:
            raise UsageError(f"bounds: expected the lower one first, got {self.bounds}")

    def begin(self, start: Tensor, project: Project | None = None) -> Run:
        """Start at parameters `(N, …)`. A projection would falsify the curvature: it is refused.

        Those out of bounds start at them.
        """
        if project is not None:
            raise UsageError("L-BFGS takes no projections, which would falsify its curvature; it has bounds")
        start = start.clamp(*self.bounds)
        return _Searches(start, [Descent(point.flatten(), self) for point in start])


@dataclass
class Trial:
    """A place on the line, clipped to the bounds: step length, loss, gradient, and slope along what was not clipped."""

    length: float
    point: Tensor
    loss: float
    gradient: Tensor
    slope: float


@dataclass
class Descent:
    """The descent of one image: its iterate, that one's loss, and how many iterates it has told of."""

    iterate: Tensor
    options: LBFGS
    loss: float = math.nan
    told: int = 0
    search: Search = field(init=False)
    wanted: Tensor | None = field(init=False)

    def __post_init__(self) -> None:
        self.search = self._descend()
        self.wanted = next(self.search)

    def tell(self, loss: float, gradient: Tensor) -> bool:
        """Take what was found where it was `wanted`; return whether there is a new iterate."""
        before = self.told
        try:
            self.wanted = self.search.send((loss, gradient))
        except StopIteration:
            self.wanted = None
        return self.told > before

    def _descend(self) -> Search:
        options = self.options
        loss, gradient = yield self.iterate
        self._reach(self.iterate, loss)
        pairs: deque[Pair] = deque(maxlen=options.history)
        first = True
        while True:
            free = _inward(self.iterate, -gradient, options.bounds)
            if float((gradient * free).abs().max()) <= options.gradient_tolerance:
                return
            direction = _direction(gradient, pairs, free)
            # What points beyond a bound here did not descend: without it the slope is no less steep.
            direction = direction * _inward(self.iterate, direction, options.bounds)
            slope = float(gradient.dot(direction))
            if slope > -options.change_tolerance:
                return
            length = min(1.0, 1.0 / float((gradient * free).abs().sum())) * options.rate if first else options.rate
            start = Trial(0.0, self.iterate, loss, gradient, slope)
            found = yield from _line_search(direction, start, length, options)
            step = found.point - self.iterate
            self._reach(found.point, found.loss)
            if float(step.abs().max()) <= options.change_tolerance or abs(found.loss - loss) < options.change_tolerance:
                return
            pairs.append((step, found.gradient - gradient))
            loss, gradient, first = found.loss, found.gradient, False

    def _reach(self, iterate: Tensor, loss: float) -> None:
        self.iterate, self.loss = iterate, loss
        self.told += 1


def _inward(point: Tensor, direction: Tensor, bounds: tuple[float, float]) -> Tensor:
    """Return a mask of the coordinates that a direction does not lead beyond a bound at once."""
    low, high = bounds
    return ~((point <= low) & (direction < 0) | (point >= high) & (direction > 0))


def _direction(gradient: Tensor, pairs: Iterable[Pair], free: Tensor) -> Tensor:
    """Return −H g over a mask of coordinates by the two loops over the pairs; 0 elsewhere."""
    direction = -gradient * free
    curved = [(step, change, (step * free).dot(change)) for step, change in pairs]
    curved = [each for each in curved if float(each[2]) > LEAST]
    if not curved:
        return direction
    weights = []
    for step, change, curvature in reversed(curved):
        weights.append(step.dot(direction) / curvature)
        direction = direction - weights[-1] * (change * free)
    _, change, curvature = curved[-1]
    direction = direction * (curvature / change.dot(change * free))
    for (step, change, curvature), weight in zip(curved, reversed(weights), strict=True):
        direction = direction + (weight - change.dot(direction) / curvature) * (step * free)
    return direction


def _line_search(
    direction: Tensor, start: Trial, length: float, options: LBFGS
) -> Generator[Tensor, tuple[float, Tensor], Trial]:
    """Return a place that satisfies the strong Wolfe conditions, or the best one of the last bracket."""
    trials = 0

    def at(length: float) -> Generator[Tensor, tuple[float, Tensor], Trial]:
        nonlocal trials
        trials += 1
        straight = start.point + length * direction
        point = straight.clamp(*options.bounds)
        loss, gradient = yield point
        return Trial(length, point, loss, gradient, float(gradient.dot(direction * (point == straight))))

    def falls_short(trial: Trial) -> bool:
        descent = float(start.gradient.dot(trial.point - start.point))
        return trial.loss > start.loss + SUFFICIENT * min(descent, 0.0)

    def is_flat(trial: Trial) -> bool:
        return abs(trial.slope) <= -CURVATURE * start.slope

    before, trial = start, (yield from at(length))
    while trials <= options.trials:
        if falls_short(trial) or (trials > 2 and trial.loss >= before.loss):
            break
        if is_flat(trial):
            return trial
        if trial.slope >= 0:
            break
        bounds = trial.length + 0.01 * (trial.length - before.length), 10 * trial.length
        length = _cubic(before, trial, bounds)
        before, trial = trial, (yield from at(length))
    else:
        before = start
    low, high = (before, trial) if before.loss <= trial.loss else (trial, before)
    reach, stuck = float(direction.abs().max()), False
    while trials <= options.trials and abs(high.length - low.length) * reach >= options.change_tolerance:
        left, right = sorted((low.length, high.length))
        length, stuck = _inside(_cubic(low, high, (left, right)), left, right, stuck)
        trial = yield from at(length)
        if falls_short(trial) or trial.loss >= low.loss:
            low, high = (low, trial) if low.loss <= trial.loss else (trial, low)
            continue
        if is_flat(trial):
            return trial
        low, high = trial, low if trial.slope * (high.length - low.length) >= 0 else high
    return low


def _inside(length: float, left: float, right: float, stuck: bool) -> tuple[float, bool]:
    """Keep the second of two trials in a row that come near an end of the bracket a tenth of its width away from it."""
    margin = 0.1 * (right - left)
    if min(right - length, length - left) >= margin:
        return length, False
    if not stuck and left < length < right:
        return length, True
    return (right - margin if abs(length - right) < abs(length - left) else left + margin), False


def _cubic(first: Trial, second: Trial, bounds: tuple[float, float]) -> float:
    """Return where the cubic through two losses and slopes has its minimum, within bounds."""
    if first.length > second.length:
        first, second = second, first
    if second.length == first.length:  # where steps are below the resolution of numbers
        return first.length
    d1 = first.slope + second.slope - 3 * (first.loss - second.loss) / (first.length - second.length)
    square = d1**2 - first.slope * second.slope
    if not square >= 0:
        return (bounds[0] + bounds[1]) / 2
    d2 = math.sqrt(square)
    below = second.slope - first.slope + 2 * d2
    if below == 0:
        return (bounds[0] + bounds[1]) / 2
    length = second.length - (second.length - first.length) * ((second.slope + d2 - d1) / below)
    return min(max(length, bounds[0]), bounds[1])


class _Searches:
    """The descents of a batch; all are asked, evaluated together and told."""

    def __init__(self, start: Tensor, descents: list[Descent]) -> None:
        self.rows = torch.arange(len(start))
        self._shape, self._like = start.shape[1:], start
        self._descents = descents

    @property
    def points(self) -> Tensor:
        """Where each descent wants its loss; one that is over has its iterate there until it is dropped."""
        wanted = [one.iterate if one.wanted is None else one.wanted for one in self._descents]
        return self._stacked(wanted)

    @property
    def iterates(self) -> Tensor:
        """Where each descent is."""
        return self._stacked([one.iterate for one in self._descents])

    @property
    def finite(self) -> Tensor:
        """Where each descent is: it goes only where the loss was told."""
        return self.iterates

    @property
    def told(self) -> Tensor:
        """Of how many iterates each descent's loss was told."""
        return torch.tensor([one.told for one in self._descents], dtype=torch.int64)

    @property
    def steps(self) -> Tensor:
        """How many line searches each has ended."""
        return (self.told - 1).clamp_min(0)

    @property
    def over(self) -> Tensor:
        """A mask of the descents that have converged."""
        return torch.tensor([one.wanted is None for one in self._descents], dtype=torch.bool)

    def tell(self, values: Tensor, gradients: Tensor) -> tuple[Tensor, Tensor]:
        """Hand each descent its own loss and gradient."""
        flat = gradients.flatten(1)
        told = zip(self._descents, values.tolist(), flat, strict=True)
        new = [one.tell(loss, gradient) for one, loss, gradient in told]
        losses = torch.tensor([one.loss for one in self._descents], dtype=values.dtype, device=values.device)
        return torch.tensor(new, dtype=torch.bool), losses

    def drop(self, ended: Tensor) -> None:
        """Forget the descents of a mask."""
        self._descents = [one for one, over in zip(self._descents, ended.tolist(), strict=True) if not over]
        self.rows = self.rows[~ended]

    def _stacked(self, flat: list[Tensor]) -> Tensor:
        if not flat:
            return self._like[:0]
        return torch.stack(flat).view(-1, *self._shape)
