"""Class visualization: the picture on which the score of a class is highest.

    image = argmax over x of  S_c(x) + γ log p_c(x) − λ ‖x − grey‖² − μ TV^β(x),   S_c before the softmax

Simonyan, Vedaldi, Zisserman, Deep Inside Convolutional Networks, 2014 (arXiv:1312.6034), section 2; blur and clipping:
Yosinski et al., Understanding neural networks through deep visualization, 2015 (arXiv:1506.06579); Fourier and
transforms: Olah, Mordvintsev, Schubert, Feature visualization, 2017 (doi:10.23915/distill.00007); facets: Nguyen,
Yosinski, Clune, Multifaceted feature visualization, 2016 (arXiv:1602.03616); radius: Erhan et al., Visualizing
higher-layer features of a deep network, 2009.
"""

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from ..errors import UsageError
from ..images.memory import batch_for
from ..images.objectives import Objective, l2, logit, neuron, probability, total_variation
from ..images.optimize import maximize
from ..images.optimizers import Adam, Ascent, Optimizer
from ..images.parameterization import Fourier, Parameterization, Pixels
from ..images.projections import Projection, ball, blur, clip, clip_small
from ..images.rounding import levels
from ..images.scales import resized
from ..images.seeds import noise, seeds_for
from ..images.transforms import Jitter, Transform, Warp
from ..models.frozen import frozen
from ..models.gradients import check_images, check_subject, checked_target, class_logits, probabilities
from ..models.layers import OUTPUT, Neuron, activations
from ..models.network import input_like, input_size
from ..models.windows import Extent
from ..painting import painted
from ..registry import Classes, Curve, Diverged, Image, Progress, Values, option, register

GREY = 0.5
LEAST = {"steps": 1, "contrast": 0, "l2": 0, "tv": 0, "tv_beta": 1, "noise": 0, "blur_every": 0, "radius": 0}


class Visualized(NamedTuple):
    """What there is to say of each picture; the figures from `score` on are those of the picture in 8 bits."""

    image: Image
    loss: Values
    """What was maximized: the score with its contrast, less its penalties."""
    losses: Curve
    steps: Values
    diverged: Diverged
    score: Values
    """The class's logit, or what the neuron gives."""
    class_probability: Values | None
    """The class's; None of neurons."""
    seen_as: Classes | None
    """The most probable class; None where the network has none."""
    seen_probability: Values | None


@register
class ClassVisualization:
    """What a class, a channel or a neuron looks like to the network: a picture on which its score is highest."""

    steps: int = option(64, "how many")
    # The paper takes plain steps along the gradient, whose length has to be found for each class anew.
    optimizer: Literal["adam", "ascent"] = option("adam", "how steps follow the gradient")
    rate: float | None = option(None, "length of a step; default: 0.05, 1 for ascent")
    score: Literal["logit", "probability"] = option(
        "logit", "what grows: the class's score before the softmax, or after"
    )
    # The paper takes the logit alone, on which another class's may rise more: log p ends that, and then vanishes.
    contrast: float | None = option(None, "weight of the log-probability beside the logit; default: 1, the paper's: 0")
    of: Neuron | None = option(None, "a neuron instead of the class: layer[:channel[:y:x]]")
    side: Extent | int | tuple[int, int] | None = option(
        None, "size in pixels: a side, or HEIGHTxWIDTH; default: the network's own, or that of the start"
    )
    parameterization: Literal["pixels", "fourier"] = option("fourier", "what moves: pixels, or their frequencies")
    l2: float = option(0.0, "λ, weight of the squared distance from grey")
    tv: float = option(0.03, "μ, weight of the total variation")
    tv_beta: float = option(2.0, "its exponent β, 1 or more")
    noise: float = option(0.01, "standard deviation of the start about grey")
    jitter: int = option(16, "pixels by which the network sees the picture shifted, at most")
    rotate: float = option(10.0, "degrees by which it sees it turned, at most")
    scale: float = option(0.2, "share by which it sees it larger or smaller, at most")
    blur_every: int = option(0, "blur after every so many steps; pixels only, as all below")
    blur_sigma: float = option(0.5, "by a Gaussian of this standard deviation in pixels")
    clip_norm: float = option(0.0, "share of the pixels that are set to grey after each step: those nearest to it")
    clip_contribution: float = option(0.0, "share set to grey: those that the score depends on least")
    radius: float | None = option(None, "keep the picture within this Euclidean distance from grey")

    def __post_init__(self) -> None:
        """Refuse, with UsageError, numbers that are none of their options', and options that need pixels."""
        for name, least in LEAST.items():
            value = getattr(self, name)
            if value is not None and not least <= value < math.inf:
                raise UsageError(f"{name}: expected a number of at least {least}, got {value}")
        if self.contrast is not None and (self.of is not None or self.score != "logit"):
            raise UsageError("contrast: expected with a class's logit alone; leave it out")
        if self.side is not None:
            Extent.of(self.side)
        needing = [name for name in ("blur_every", "clip_norm", "clip_contribution", "radius") if getattr(self, name)]
        if needing and self.parameterization != "pixels":
            expected = f"{needing[0]}: expected parameterization pixels with it, got {self.parameterization}"
            raise UsageError(f"{expected}; leave one of them out")
        self._optimizer()
        self._transforms()
        self._projections(torch.empty(0, 3, 1, 1))

    def __call__(
        self,
        model: nn.Module,
        target: Tensor | None = None,
        seeds: Tensor | None = None,
        progress: Progress | None = None,
        start: Tensor | None = None,
    ) -> Image:
        """Return pictures `(N, 3, H, W)` in [0, 1] of classes `target` `(N,)`, or of the neuron `of` by N seeds.

        `start` `(N, 3, h, w)`, or `(1, 3, h, w)` for all, is where they start; without it at grey noise by seed.
        """
        return self.details(model, target, seeds, progress, start).image

    def details(
        self,
        model: nn.Module,
        target: Tensor | None = None,
        seeds: Tensor | None = None,
        progress: Progress | None = None,
        start: Tensor | None = None,
    ) -> Visualized:
        """Return the pictures and what the network sees in them; takes what the call takes."""
        self.check(model, target, seeds, progress, start)
        seeds = seeds_for(_count(target, seeds, start), seeds)
        begin = self._start(model, seeds, start)
        target = None if target is None else target.to("cpu", torch.int64, copy=True)
        result = maximize(
            model,
            self._objective(target),
            begin,
            steps=self.steps,
            optimizer=self._optimizer(),
            parameterization=self._parameterization(),
            transforms=self._transforms(),
            projections=self._projections(begin),
            seeds=seeds,
            progress=progress,
        )
        return Visualized(*painted(result), *self._seen(model, result.images, target))

    def check(
        self,
        model: nn.Module,
        target: Tensor | None = None,
        seeds: Tensor | None = None,
        progress: Progress | None = None,
        start: Tensor | None = None,
    ) -> None:
        """Refuse, with UsageError, classes, neurons, starts and sizes that do not fit; takes what the call takes."""
        check_subject(target, self.of, self.score)
        if target is None and self.of is None:
            raise UsageError("expected classes (target) or a neuron (of), got neither")
        count = _count(target, seeds, start)
        seeds_for(count, seeds)
        if start is not None:
            check_images(start)
            if len(start) not in (1, count):
                raise UsageError(f"start: expected one picture, or {count}, got {len(start)}")
        extent = self._extent(model, start)
        grey = input_like(model).new_full((1,), GREY).expand(1, 3, extent.height, extent.width)
        batch_for(model, [self.of.layer if self.of else OUTPUT], grey)
        with frozen(model), torch.no_grad():
            if self.of is not None:
                self.of.read(activations(model, grey, [self.of.layer])[self.of.layer])
            elif target is not None:
                checked_target(target, count, class_logits(model, grey).shape[1])

    def _extent(self, model: nn.Module, start: Tensor | None) -> Extent:
        if self.side is not None:
            return Extent.of(self.side)
        return Extent(*(input_size(model) if start is None else start.shape[2:]))

    def _start(self, model: nn.Module, seeds: Tensor, start: Tensor | None) -> Tensor:
        """Return where the images `(N, 3, H, W)` start."""
        extent = self._extent(model, start)
        size = extent.height, extent.width
        if start is None:
            # The paper's zero, and the center of its L2, is the data set's mean, which is added at the end: grey is
            # near it, and there for any network. Where all starts are alike, only transforms tell seeds apart.
            begin = noise(seeds, size, GREY, self.noise)
        else:
            begin = resized(start.detach(), size)
            begin = begin.expand(len(seeds), -1, -1, -1) if len(begin) == 1 else begin
        return begin.to(input_like(model)).clamp(0, 1)

    def _objective(self, target: Tensor | None) -> Objective:
        if self.of is not None:
            score = neuron(self.of)
        else:
            assert target is not None
            score = logit(target) if self.score == "logit" else probability(target)
            if self.score == "logit" and self.contrast != 0:
                score = score + (1.0 if self.contrast is None else self.contrast) * probability(target)
        if self.l2:
            score = score - self.l2 * l2(GREY)
        return score - self.tv * total_variation(self.tv_beta) if self.tv else score

    def _optimizer(self) -> Optimizer:
        if self.optimizer == "adam":
            return Adam(0.05 if self.rate is None else self.rate)
        return Ascent(1.0 if self.rate is None else self.rate)

    def _parameterization(self) -> Parameterization:
        return Pixels() if self.parameterization == "pixels" else Fourier()

    def _transforms(self) -> list[Transform]:
        transforms: list[Transform] = [Jitter(self.jitter)] if self.jitter else []
        return [*transforms, Warp(self.rotate, self.scale)] if self.rotate or self.scale else transforms

    def _projections(self, begin: Tensor) -> list[Projection]:
        """Return what keeps images where they may be; `[]` where the parameterization does."""
        if self.parameterization != "pixels":
            return []
        chosen: list[Projection] = []
        if self.blur_every:
            chosen.append(blur(self.blur_every, self.blur_sigma))
        for share, of in ((self.clip_norm, "norm"), (self.clip_contribution, "contribution")):
            if share:
                chosen.append(clip_small(share, of, GREY))
        if self.radius:
            chosen.append(ball(torch.full_like(begin, GREY), self.radius, 2))
        # The papers let pixels leave the range and scale the result; here it is what the network saw.
        return [*chosen, clip()]

    def _seen(
        self, model: nn.Module, images: Tensor, target: Tensor | None
    ) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
        """Return what the network makes of images in 8 bits: score, class's probability, what it sees, with which."""
        shown = levels(images)
        with frozen(model), torch.no_grad():
            parts = shown.split(batch_for(model, [self.of.layer if self.of else OUTPUT], shown))
            if self.of is not None:
                return torch.cat([self.of.score(model, part) for part in parts]).cpu(), None, None, None
            logits = torch.cat([class_logits(model, part) for part in parts]).cpu()
        assert target is not None
        likely = probabilities(logits)
        most = likely.max(1)
        scores = likely if self.score == "probability" else logits.to(likely)
        own = [one.gather(1, target[:, None]).squeeze(1) for one in (scores, likely)]
        return own[0], own[1], most.indices, most.values


def _count(target: Tensor | None, seeds: Tensor | None, start: Tensor | None) -> int:
    return next((len(given) for given in (target, seeds, start) if given is not None), 1)
