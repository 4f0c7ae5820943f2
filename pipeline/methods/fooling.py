"""Fooling images: changes that make the network see another class.

    projected  x ← P(x + rate · ∇J / ‖∇J‖),  P: onto ‖x − image‖ ≤ eps      (norm inf: the gradient's sign)
    fgsm       x = image + eps · sign ∇J(image)
    ascent     x ← x + rate · ∇J / ‖∇J‖  until the network is fooled
    patch      the same inside a square, which may look as it likes

J is the log-probability of the class to be seen, or minus that of the class not to be seen any more. The network is
always shown what an 8-bit file can hold; gradients are taken there and move unrounded pixels.

ascent: Szegedy et al., Intriguing properties of neural networks, 2014 (arXiv:1312.6199); fgsm: Goodfellow, Shlens,
Szegedy, Explaining and harnessing adversarial examples, 2015 (arXiv:1412.6572); projected: Madry et al., Towards deep
learning models resistant to adversarial attacks, 2018 (arXiv:1706.06083); patch: Brown et al., Adversarial patch, 2017
(arXiv:1712.09665).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from ..errors import UsageError
from ..images.amount import Amount
from ..images.memory import batch_for
from ..images.objectives import Objective, Seen, lead, probability
from ..images.optimize import maximize
from ..images.optimizers import Adam, Ascent, Optimizer
from ..images.patches import Place, covered, pasted
from ..images.projections import Projection, ball, clip, inside
from ..images.rounding import LEVELS, levels, nearest, no_farther
from ..images.seeds import in_ball, seeds_for
from ..models.frozen import frozen
from ..models.gradients import check_images, check_subject, checked_target, class_logits, probabilities
from ..models.layers import OUTPUT
from ..models.quickened import PAYS, quickens
from ..models.remembered import remembered
from ..models.windows import Extent
from ..painting import Painting, painted
from ..registry import Classes, Curve, Diverged, Image, Images, Progress, Values, option, register

STEPS = {"projected": 40, "fgsm": 1, "ascent": 200, "patch": 200}
TAKES = {
    "projected": ("norm", "eps", "steps", "rate", "margin"),
    "fgsm": ("norm", "eps"),
    "ascent": ("norm", "steps", "rate", "margin"),
    "patch": ("steps", "rate", "margin"),
}
"""Which of the options that are None by default an attack takes."""
EPS = {"inf": 4 / 255, "2": 1.0}
LEVEL = 1 / LEVELS
ASCENT_RATE = {"inf": LEVEL, "2": 0.25}
PATCH_RATE = 0.05
UNSEEN = -1
"""The class of an image that has not been looked at."""
SLACK = 1e-5
"""By how much of eps a Euclidean ball is smaller, so that float32 cannot leave it; of a level, what counts as whole."""


class Fooled(NamedTuple):
    """What there is to say of each fooling image; its figures are those of the picture in 8 bits."""

    image: Image
    loss: Values
    """The log-probability of the class to be seen, or minus that of the one not to be seen."""
    losses: Curve
    steps: Values
    diverged: Diverged
    success: Values
    """1 where the network is fooled, else 0."""
    seen_as: Classes
    """The most probable class of the fooling image."""
    seen_probability: Values
    distance_inf: Values
    """max |x − image| over pixels and colors, in units of the range [0, 1]."""
    distance_2: Values
    """‖x − image‖ in the same units."""
    difference: Images
    """Around grey: ½ + (x − image) / 2."""
    difference_10: Images
    """Ten times that difference, clipped."""


@register(verb="fool")
class Fooling:
    """How little has to change for the network to see something else."""

    attack: Literal["projected", "fgsm", "ascent", "patch"] = option(
        "projected", "steps within eps; one step of eps; steps until the network is fooled; only inside a patch"
    )
    goal: Literal["toward", "away"] | None = option(
        None, "toward the target class or away from it; default: toward a class that is named, away from the predicted"
    )
    norm: Literal["inf", "2"] | None = option(
        None, "how changes are measured, all pixels together or by the largest; default: inf, 2 for ascent"
    )
    eps: Amount | float | None = option(
        None, "how far pixels may go, as 4/255 or 0.016, kept in the 8-bit picture; default: 4/255, 1 for norm 2"
    )
    steps: int | None = option(None, "how many at most; default: 40, 200 for ascent and patch")
    rate: Amount | float | None = option(
        None, "length of a step in the norm, or Adam's rate for patch; default: 2.5 eps/steps, ascent 0.25, patch 0.05"
    )
    margin: float | None = option(
        None, "logits by which the goal has to be passed before an image is left alone; default: 1"
    )
    # The paper starts at random; from the image itself, the first picture that fools is nearer to it.
    random_start: bool = option(False, "start projected steps anywhere within eps, by the image's seed")
    patch_size: Extent | int | tuple[int, int] = option(50, "patch in pixels of the input: a side, or HEIGHTxWIDTH")
    place: Place | str | tuple[int, int] = option("center", "the patch's upper left corner y:x, center or random")

    def __post_init__(self) -> None:
        """Refuse, with UsageError, options that the attack does not take, and numbers that are none of theirs."""
        takes = TAKES[self.attack]
        for name in ("norm", "eps", "steps", "rate", "margin"):
            if getattr(self, name) is not None and name not in takes:
                raise UsageError(f"{name}: attack {self.attack} takes {', '.join(takes)}; leave it out")
        if self.random_start and self.attack != "projected":
            raise UsageError(f"random_start: expected attack projected, got {self.attack}; leave it out")
        if self.steps is not None and self.steps < 1:
            raise UsageError(f"steps: expected a whole number above 0, got {self.steps}")
        if self.rate is not None and not Amount.of(self.rate).value > 0:
            raise UsageError(f"rate: expected a number above 0, got {self.rate}")
        if self.margin is not None and not 0 <= self.margin < math.inf:
            raise UsageError(f"margin: expected logits of 0 or above, got {self.margin}")

    def __call__(
        self,
        model: nn.Module,
        images: Tensor,
        target: Tensor | None = None,
        patch: Tensor | None = None,
        seeds: Tensor | None = None,
        progress: Progress | None = None,
    ) -> Image:
        """Return fooling images `(N, 3, H, W)`, multiples of 1/255, of images `(N, 3, H, W)` in [0, 1].

        `target` holds class indices `(N,)`: those to be seen, unless the goal is away; without it the images are to be
        seen no more as what they are seen now. Images count as their nearest 8-bit picture. `patch` `(1, 3, h, w)` is
        pasted as it is, for attack patch. Raises UsageError for a patch that lies outside of the images.
        """
        return self.details(model, images, target, patch, seeds, progress).image

    def check(
        self,
        model: nn.Module,
        images: Tensor,
        target: Tensor | None = None,
        patch: Tensor | None = None,
        seeds: Tensor | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Refuse, with UsageError, what does not fit; takes what the call takes."""
        self._checked(model, images, target, patch, seeds)

    def details(
        self,
        model: nn.Module,
        images: Tensor,
        target: Tensor | None = None,
        patch: Tensor | None = None,
        seeds: Tensor | None = None,
        progress: Progress | None = None,
    ) -> Fooled:
        """Return fooling images with how far they are and what they are seen as; takes what the call takes."""
        most = self._checked(model, images, target, patch, seeds)
        images = levels(images.detach().to(torch.promote_types(images.dtype, torch.float32)))
        seeds = seeds_for(len(images), seeds)
        toward = self.goal == "toward" or (self.goal is None and target is not None)
        own = self._steps < PAYS or not _quickens(model, images)
        # The first look is at the images themselves.
        looks = own and target is None and patch is None and not self.random_start
        if looks:
            classes = torch.full((len(images),), UNSEEN, device=images.device)
        elif target is None:
            classes = _logits(model, images, most).argmax(1)
        else:
            classes = target.to(images.device, torch.int64)
        aim = Aim(classes, toward)
        if patch is None:
            notes = Notes(aim)
            made = self._attacked(model, images, notes, seeds, most, progress)
            known = notes.last if own and not bool(made.diverged.any()) else None
            return _told(made, images, aim, _logits(model, made.image, most) if known is None else known)
        picture = levels(pasted(images, patch.to(images), self._corners(images, patch.shape[2:], seeds)))
        logits = _logits(model, picture, most)
        loss = aim.objective(Seen(picture, {OUTPUT: logits}, torch.arange(len(images))))
        made = Painting(picture, loss, loss[:, None], torch.zeros_like(loss), ~loss.isfinite())
        return _told(made, images, aim, logits)

    def _checked(
        self, model: nn.Module, images: Tensor, target: Tensor | None, patch: Tensor | None, seeds: Tensor | None
    ) -> int:
        """Refuse what does not fit; return how many images fit into memory at a time."""
        check_images(images)
        check_subject(target, None, "logit")
        if self.goal == "toward" and target is None:
            raise UsageError("goal: toward needs the class that is to be seen; give a target, as --target NAME")
        if patch is not None and self.attack != "patch":
            raise UsageError(f"patch: expected attack patch, got {self.attack}; leave the picture out")
        if patch is not None and (patch.ndim != 4 or patch.shape[:2] != (1, 3) or not patch.is_floating_point()):
            raise UsageError(f"patch: expected a picture (1, 3, h, w), got {patch.dtype} {tuple(patch.shape)}")
        seeds = seeds_for(len(images), seeds)
        if self.attack == "patch":
            self._corners(images, self._patch_size if patch is None else patch.shape[2:], seeds)
        if len(images):
            image = images[:1].detach()
            classes = remembered(model, "classes", image, lambda: _logits(model, image, 1).shape[1])
            if target is not None:
                checked_target(target, len(images), classes)
        return batch_for(model, (OUTPUT,), images)

    def _attacked(
        self, model: nn.Module, images: Tensor, notes: "Notes", seeds: Tensor, most: int, progress: Progress | None
    ) -> Painting:
        euclidean = self._norm == "2"
        result = maximize(
            model,
            notes.objective,
            self._start(images, seeds),
            steps=self._steps,
            optimizer=self._optimizer(),
            projections=[*self._projections(images, seeds), clip()],
            rounding=no_farther(images) if self._bounded and euclidean else nearest(),
            until=None if self.attack == "fgsm" else notes.aim.lead - (1.0 if self.margin is None else self.margin),
            batch=most,
            progress=progress,
        )
        return painted(result)

    @property
    def _bounded(self) -> bool:
        """Whether changes are kept within eps."""
        return "eps" in TAKES[self.attack]

    @property
    def _norm(self) -> str:
        return self.norm or ("2" if self.attack == "ascent" else "inf")

    @property
    def _eps(self) -> float:
        """How far pixels may go: for the largest change, in whole levels."""
        eps = EPS[self._norm] if self.eps is None else Amount.of(self.eps).value
        return eps * (1 - SLACK) if self._norm == "2" else math.floor(eps * LEVELS + SLACK) * LEVEL

    @property
    def _steps(self) -> int:
        still = self._bounded and not self._eps
        return 1 if still else self.steps or STEPS[self.attack]

    def _optimizer(self) -> Optimizer:
        rate = None if self.rate is None else Amount.of(self.rate).value
        if self.attack == "patch":
            return Adam(rate or PATCH_RATE)
        if rate is None:
            # Shorter steps than a level would show the network the same picture again.
            share = {"fgsm": 1.0, "projected": 2.5 / self._steps}
            rate = max(LEVEL, share[self.attack] * self._eps) if self._bounded else ASCENT_RATE[self._norm]
        return Ascent(rate, "l2" if self._norm == "2" else "sign")

    def _projections(self, images: Tensor, seeds: Tensor) -> list[Projection]:
        if self.attack == "patch":
            corners = self._corners(images, self._patch_size, seeds)
            return [inside(covered(images.new_ones(1, 1, *self._patch_size), corners, images), images)]
        return [ball(images, self._eps, float(self._norm))] if self._bounded else []

    def _start(self, images: Tensor, seeds: Tensor) -> Tensor:
        if not self.random_start:
            return images
        return (images + self._eps * in_ball(seeds, images.shape[1:], self._norm).to(images)).clamp(0, 1)

    @property
    def _patch_size(self) -> tuple[int, int]:
        extent = Extent.of(self.patch_size)
        return extent.height, extent.width

    def _corners(self, images: Tensor, patch: Sequence[int], seeds: Tensor) -> Tensor:
        size = images.shape[2], images.shape[3]
        return Place.of(self.place).corners(size, (patch[0], patch[1]), seeds)


@dataclass(frozen=True)
class Aim:
    """Classes `(N,)` that the images are to be seen as, or to be seen as no more."""

    classes: Tensor
    toward: bool

    @property
    def objective(self) -> Objective:
        """J, which is to rise."""
        return probability(self.classes) if self.toward else -probability(self.classes)

    @property
    def lead(self) -> Objective:
        """By how much the goal is passed, in logits; the network is fooled where this is above 0."""
        return lead(self.classes) if self.toward else -lead(self.classes)


class Notes:
    """What the network said of each image when it was last looked at.

    Classes of the aim that are `UNSEEN` become those that are seen at the first look.
    """

    def __init__(self, aim: Aim) -> None:
        """Begin with no image looked at."""
        self.aim = aim
        self.last: Tensor | None = None

    @property
    def objective(self) -> Objective:
        """The aim's, taking notes."""
        plain = self.aim.objective

        def value(seen: Seen) -> Tensor:
            self._note(seen.logits.detach(), seen.rows)
            return plain(seen)

        return Objective(value, plain.layers, plain.name)

    def _note(self, logits: Tensor, rows: Tensor) -> None:
        classes, places = self.aim.classes, rows.to(logits.device)
        if bool((new := classes[places] == UNSEEN).any()):
            classes[places[new]] = logits.argmax(1)[new]
        if self.last is None:
            self.last = logits.new_empty(len(classes), logits.shape[1])
        self.last[places] = logits


def _told(made: Painting, images: Tensor, aim: Aim, logits: Tensor) -> Fooled:
    """Return what there is to say of what was made of images, from the network's logits for it."""
    seen = logits.argmax(1)
    success = ((seen == aim.classes) == aim.toward) & logits.isfinite().all(1)
    away = made.image - images
    moved = (away * LEVELS).round().double().flatten(1) / LEVELS
    return Fooled(
        *made,
        success=success.to(away),
        seen_as=seen,
        seen_probability=probabilities(logits).gather(1, seen[:, None]).squeeze(1),
        distance_inf=moved.abs().amax(1).to(away),
        distance_2=moved.norm(dim=1).to(away),
        difference=(0.5 + away / 2).clamp(0, 1),
        difference_10=(0.5 + 5 * away).clamp(0, 1),
    )


def _logits(model: nn.Module, images: Tensor, most: int) -> Tensor:
    """Return the logits of images, in float32 at least, computing `most` of them at a time."""
    with frozen(model), torch.no_grad():
        logits = torch.cat([class_logits(model, part) for part in images.split(most)])
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def _quickens(model: nn.Module, images: Tensor) -> bool:
    """Return whether optimizing shows images to other convolutions than the network's own, which differ in rounding."""
    if not len(images):
        return False
    with frozen(model):
        return remembered(model, "quickens", images[:1], lambda: quickens(model, images[:1]))
