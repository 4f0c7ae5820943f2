"""The one loop: images that minimize or maximize an objective, each with its own course, seed and end.

Nothing that one image does reaches another: optimizer state, transforms, line searches and stops are per image, images
that have ended leave the batch, and a batch that would not fit into memory is divided.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..errors import UsageError
from ..models.frozen import frozen
from ..models.gradients import check_images
from ..models.layers import activations
from ..models.quickened import PAYS, quickened
from .lbfgs import LBFGS
from .memory import batch_for
from .objectives import Objective, Seen
from .optimizers import Adam, Optimizer, Project, Run
from .parameterization import Luminance, Parameterization, Pixels
from .projections import Projection, Step, chained
from .rounding import Rounding
from .seeds import seeds_for
from .transforms import Transform


class Result(NamedTuple):
    """What came of N images."""

    images: Tensor
    """`(N, 3, H, W)` in [0, 1]; of a diverged one the last whose objective was finite."""
    loss: Tensor
    """`(N,)`: the objective at `images`, without transforms; of a diverged one the last that was finite."""
    losses: Tensor
    """`(N, steps)`: the objective at each step, NaN after an image's end."""
    steps: Tensor
    """`(N,)` int64: how many steps each image took."""
    diverged: Tensor
    """`(N,)` bool: the objective or its gradient was not finite; the image ended there."""
    snapshots: tuple[Tensor, ...] = ()
    """`(N, 3, H, W)` each: the images after every so many steps; of those that had ended, their last."""


class Glance(NamedTuple):
    """What a watcher sees after a step: its number, the images' rows, their objective, and what makes them."""

    step: int
    rows: Tensor
    losses: Tensor
    images: Callable[[], Tensor]


@dataclass(frozen=True)
class _Task:
    """What is to be optimized, and how."""

    model: nn.Module
    objective: Objective
    steps: int
    optimizer: Optimizer
    parameterization: Parameterization
    transforms: Sequence[Transform]
    projections: Sequence[Projection]
    rounding: Rounding | None
    mask: Tensor | None
    until: Objective | None
    tolerance: float
    patience: int
    snapshot_every: int

    @property
    def layers(self) -> frozenset[str]:
        """What is read of the network."""
        return self.objective.layers | (self.until.layers if self.until else frozenset())


def minimize(
    model: nn.Module,
    objective: Objective,
    start: Tensor,
    *,
    steps: int,
    optimizer: Optimizer | None = None,
    parameterization: Parameterization | None = None,
    transforms: Sequence[Transform] = (),
    projections: Sequence[Projection] = (),
    rounding: Rounding | None = None,
    mask: Tensor | None = None,
    seeds: Tensor | None = None,
    until: Objective | None = None,
    tolerance: float = 0.0,
    patience: int = 10,
    skip: Tensor | None = None,
    batch: int | None = None,
    snapshot_every: int = 0,
    progress: Callable[[int, int], None] | None = None,
    watch: Callable[[Glance], None] | None = None,
) -> Result:
    """Let images `(N, 3, H, W)` in [0, 1] descend an objective for `steps` steps, each on its own.

    Args:
        model: stays as it is; only as much of it is computed as the objective reads.
        objective: what falls; targets that it holds for each image are for all N.
        start: where the images start; float32, or float64 with a float64 network.
        steps: how many at most.
        optimizer: `Adam()` unless given, `Ascent` or `LBFGS`.
        parameterization: `Pixels()` unless given, `Luminance()` or `Fourier()`.
        transforms: applied in order to what the network sees, drawn anew each step.
        projections: applied in order to the pixels after each step.
        rounding: what a file keeps of the images. All that is seen and returned is rounded; gradients pass by that.
        mask: `(N or 1, 1, H, W)`; where it is 0, pixels stay as they start, whatever the optimizer.
        seeds: `(N,)` whole numbers that the transforms draw from; 0, 1, 2 … unless given.
        until: ends an image, as it is, once this is above 0.
        tolerance: ends an image whose best objective has not improved by this share in the last `patience` steps.
        patience: see `tolerance`.
        skip: `(N,)` bool, images to be left as they start.
        batch: images at a time; unless given, as many as memory is predicted to hold.
        snapshot_every: keeps the images after every so many steps.
        progress: called with the image steps done and those in all.
        watch: called after each step of a batch.

    Raises UsageError where arguments do not fit each other or memory, before any work.
    """
    task = _Task(
        model, objective, steps, optimizer or Adam(), parameterization or Pixels(), transforms, projections,
        rounding, mask, until, tolerance, patience, snapshot_every,
    )  # fmt: skip
    return _optimize(task, start, seeds, skip, batch, progress, watch)


def maximize(
    model: nn.Module,
    objective: Objective,
    start: Tensor,
    *,
    watch: Callable[[Glance], None] | None = None,
    **given: Any,
) -> Result:
    """Let images climb an objective; arguments as for `minimize`, `loss` and `losses` are the objective's values."""

    def seen(glance: Glance) -> None:
        assert watch is not None
        watch(glance._replace(losses=-glance.losses))

    result = minimize(model, -objective, start, watch=seen if watch else None, **given)
    return result._replace(loss=-result.loss, losses=-result.losses)


def _optimize(
    task: _Task,
    start: Tensor,
    seeds: Tensor | None,
    skip: Tensor | None,
    batch: int | None,
    progress: Callable[[int, int], None] | None,
    watch: Callable[[Glance], None] | None,
) -> Result:
    _check(task, start, batch)
    seeds = seeds_for(len(start), seeds)
    alive = torch.arange(len(start)) if skip is None else torch.arange(len(start))[~skip.cpu()]
    start = start.detach()
    with frozen(task.model), torch.inference_mode(False):
        start = start.clone() if start.is_inference() else start
        most = batch or batch_for(task.model, task.objective.layers, start)
        result = _left(task, start)
        with quickened(task.model) if task.steps >= PAYS else nullcontext():
            for begin in range(0, len(alive), most):
                course = _Course(task, start, seeds, alive[begin : begin + most], result)
                for number in course.run():
                    if progress is not None:
                        progress(begin * task.steps + course.done, len(alive) * task.steps)
                    if watch is not None and len(course.rows):
                        watch(Glance(number, course.rows, course.losses[course.state.rows], course.images))
    return result


def _check(task: _Task, start: Tensor, batch: int | None) -> None:
    check_images(start)
    numbers = {"steps": task.steps, "patience": task.patience, "batch": 1 if batch is None else batch}
    for name, number in numbers.items():
        if not isinstance(number, int) or number < 1:
            raise UsageError(f"{name}: expected a whole number above 0, got {number!r}")
    if start.numel() and not bool(start.isfinite().all()):
        raise UsageError("start: expected finite images, got NaN or infinite values")
    if isinstance(task.optimizer, LBFGS) and (task.transforms or task.projections or task.rounding or task.until):
        expected = "the same smooth function at every step: no transforms, projections, rounding, until"
        raise UsageError(f"L-BFGS wants {expected}; use Adam()")
    bounded = isinstance(task.optimizer, LBFGS) and task.optimizer.bounds != LBFGS().bounds
    given = "projections act" if task.projections else "bounds act" if bounded else "a mask acts"
    on_pixels = bool(task.projections) or bounded or task.mask is not None
    if on_pixels and not isinstance(task.parameterization, Pixels | Luminance):
        raise UsageError(f"{given} on pixels, which {task.parameterization} does not keep; leave one out")
    if task.mask is not None and task.mask.shape not in ((number, 1, *start.shape[2:]) for number in (1, len(start))):
        raise UsageError(f"mask: expected (N or 1, 1, H, W) of the images, got {tuple(task.mask.shape)}")


def _left(task: _Task, start: Tensor) -> Result:
    """Return the result of images that stay as they start; courses write theirs into it."""
    count, kept = len(start), task.steps // task.snapshot_every if task.snapshot_every else 0
    wide = torch.promote_types(start.dtype, torch.float32)
    losses = torch.full((count, task.steps), torch.nan, dtype=wide)
    ends = torch.full((count,), torch.nan, dtype=wide), torch.zeros(count, dtype=torch.int64)
    images = start.clamp(0, 1)
    snapshots = tuple(images.clone() for _ in range(kept))
    return Result(images.clone(), ends[0], losses, ends[1], torch.zeros(count, dtype=torch.bool), snapshots)


class _Course:
    """The course of the images `members` of a run, whose results are written where they belong."""

    def __init__(self, task: _Task, start: Tensor, seeds: Tensor, members: Tensor, result: Result) -> None:
        self.task, self.seeds, self.members, self.result = task, seeds, members, result
        self.size = start.shape[2], start.shape[3]
        parameters = task.parameterization.parameters(start[members.to(start.device)])
        self.state: Run = task.optimizer.begin(parameters, self._projecting())
        self.losses = result.losses[members, 0]
        # of images that end by themselves, whose last step was not evaluated yet: where they were before it
        self.before = result.images[members.to(start.device)]
        self.best = torch.full_like(self.losses, torch.inf)
        self.improved = torch.zeros(len(members), dtype=torch.int64)

    @property
    def rows(self) -> Tensor:
        """The places in the run of the images that have not ended."""
        return self.members[self.state.rows]

    @property
    def done(self) -> int:
        """The image steps that are done, those saved by early ends included."""
        return (len(self.members) - len(self.state.rows)) * self.task.steps + int(self.state.steps.sum())

    def run(self) -> Iterator[int]:
        """Yield after each evaluation how many steps the furthest image has taken."""
        while len(self.state.rows):
            self._evaluate()
            yield int(self.state.steps.max()) if len(self.state.rows) else self.task.steps
        self._measure()

    def images(self) -> Tensor:
        """Return the images that have not ended, as they are."""
        return self._painted(self.state.iterates, self.rows)

    def _evaluate(self) -> None:
        values, gradients, met = self._found()
        finite = (values.isfinite() & gradients.flatten(1).isfinite().all(1)).cpu()
        self.result.diverged[self.rows[~finite]] = True
        self._end(~finite, self.state.finite)
        values, gradients, met = (one[finite.to(one.device)] for one in (values, gradients, met))
        self._record(met, values)
        self._end(met, self.state.iterates)
        open_ = ~met.to(values.device)
        if len(self.state.rows):
            self._tell(values[open_], gradients[open_])

    def _tell(self, values: Tensor, gradients: Tensor) -> None:
        new, losses = self.state.tell(values, gradients)
        self._record(new, losses, told=1)
        every = self.task.snapshot_every
        if every and bool((kept := new & (self.state.steps % every == 0) & (self.state.steps > 0)).any()):
            pictures = self._painted(self.state.iterates[kept.to(values.device)], self.rows[kept])
            for row, step, picture in zip(self.rows[kept], self.state.steps[kept].tolist(), pictures, strict=True):
                self.result.snapshots[step // every - 1][row] = picture
        ended = self.state.over | (self.state.steps >= self.task.steps) | self._stalled()
        before = self.state.rows[ended].to(self.before.device)
        self.before[before] = self._painted(self.state.finite[ended.to(values.device)], self.rows[ended])
        self._end(ended, self.state.iterates)

    def _found(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return values `(n,)` and gradients `(n, …)` at the points, and a mask on the CPU of where `until` is met."""
        task, rows = self.task, self.rows
        with torch.enable_grad():
            leaf = self.state.points.detach().requires_grad_()
            images = shown = self._images(leaf, rows)
            for stream, transform in enumerate(task.transforms):
                shown = transform(shown, self.seeds[rows], self.state.told, stream)
            seen = Seen(images, activations(task.model, shown, task.layers) if task.layers else {}, rows)
            values = task.objective(seen)
            depends = values.requires_grad
            gradients = torch.autograd.grad(values.sum(), leaf, allow_unused=True)[0] if depends else None
        if gradients is None:
            raise UsageError(f"objective: expected one that depends on the images, got {task.objective.name!r}")
        if task.mask is not None:
            own = task.mask if len(task.mask) == 1 else task.mask[rows.to(task.mask.device)]
            gradients = gradients * (own > 0).to(gradients)
        with torch.no_grad():
            met = task.until(seen) > 0 if task.until else torch.zeros(len(rows), dtype=torch.bool)
        return values.detach(), gradients, met.cpu()

    def _record(self, new: Tensor, losses: Tensor, told: int = 0) -> None:
        """Write down the losses of a mask of images; `told` where the state has counted them already."""
        losses = losses.detach().cpu()
        rows, column, values = self.state.rows[new], self.state.told[new] - told, losses[new].to(self.losses.dtype)
        self.losses[rows] = values
        fits = column < self.task.steps
        self.result.losses[self.members[rows[fits]], column[fits]] = values[fits]
        better = values < self.best[rows] - self.task.tolerance * self.best[rows].abs().nan_to_num(0, 0, 0)
        self.best[rows[better]], self.improved[rows[better]] = values[better], column[better]

    def _stalled(self) -> Tensor:
        """Return a mask of the images that have not improved for a while."""
        if not self.task.tolerance:
            return torch.zeros(len(self.state.rows), dtype=torch.bool)
        return self.state.told - 1 - self.improved[self.state.rows] >= self.task.patience

    def _end(self, ended: Tensor, places: Tensor) -> None:
        """End a mask of images where they are."""
        if not bool(ended.any()):
            return
        rows, steps = self.rows[ended], self.state.steps[ended]
        pictures = self._painted(places[ended.to(places.device)], rows)
        self.result.images[rows.to(pictures.device)] = pictures
        self.result.steps[rows] = steps
        for number, snapshot in enumerate(self.result.snapshots, 1):
            late = steps < number * self.task.snapshot_every
            snapshot[rows[late].to(snapshot.device)] = pictures[late.to(pictures.device)]
        self.state.drop(ended)

    @torch.no_grad()
    def _measure(self) -> None:
        """Evaluate the finished images; one that left the finite numbers with its last step goes back before it."""
        there = self.members.to(self.result.images.device)
        images = self.result.images[there]
        layers = self.task.objective.layers
        found = activations(self.task.model, images, layers) if layers else {}
        values = self.task.objective(Seen(images, found, self.members)).cpu()
        infinite = ~values.isfinite()
        lost = infinite & ~self.result.diverged[self.members]
        self.result.images[there[lost.to(there.device)]] = self.before[lost.to(there.device)]
        self.result.diverged[self.members[lost]] = True
        self.result.loss[self.members] = torch.where(infinite, self.losses, values.to(self.losses.dtype))

    @torch.no_grad()
    def _painted(self, parameters: Tensor, rows: Tensor) -> Tensor:
        return self._images(parameters, rows).clamp(0, 1)

    def _images(self, parameters: Tensor, rows: Tensor) -> Tensor:
        """Return the images at `rows`, rounded; the gradient is that of the images before."""
        images = self.task.parameterization.images(parameters, self.size)
        if self.task.rounding is None:
            return images
        plain = images.detach()
        return self.task.rounding(plain, rows) + (images - plain)

    def _projecting(self) -> Project | None:
        if not self.task.projections:
            return None
        projection = chained(self.task.projections)

        def project(points: Tensor, gradients: Tensor, rows: Tensor, iteration: int) -> Tensor:
            return projection(Step(points, gradients, self.members[rows], iteration))

        return project
