"""Feature inversion: an image that a layer cannot tell from the one given.

    x* = argmin ‖Φ(T x) − Φ₀‖² / ‖Φ₀‖² + λ_α ‖x − ½‖_α^α / P + s² λ_β TV^β(x) / P        P pixels; α = 6

T shifts by some pixels, drawn anew at each step; s is the layer's stride, the side of the square of pixels for each of
its positions.

Mahendran, Vedaldi, Understanding deep image representations by inverting them, 2015 (arXiv:1412.0035), section 2; T:
Visualizing deep convolutional neural networks using natural pre-images, 2016 (arXiv:1512.02017).
"""

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from ..errors import UsageError
from ..images import LBFGS, Adam, alpha_norm, distance, minimize, total_variation
from ..images.memory import batch_for, shapes
from ..images.projections import clip
from ..images.seeds import noise, seeds_for
from ..images.transforms import Jitter
from ..models.frozen import frozen
from ..models.gradients import check_images
from ..models.layers import activations, resolve
from ..models.stages import content_layer, stages
from ..painting import painted
from ..registry import Curve, Diverged, Image, Progress, Values, option, register


class Inverted(NamedTuple):
    """What there is to say of each inversion."""

    image: Image
    loss: Values
    losses: Curve
    steps: Values
    diverged: Diverged
    distance: Values
    """‖Φ(x*) − Φ₀‖² / ‖Φ₀‖²."""
    psnr: Values
    """Peak signal-to-noise ratio to the image whose features they are, in decibels."""


@register(verb="invert")
class FeatureInversion:
    """What a layer still knows of an image: another one with the same features."""

    layer: str | None = option(None, "whose features are kept; default: the second unit of the last stage but one")
    # The paper picks one of three weights for each layer, a hundredfold apart. λ_β TV² against a distance that is 1 at
    # most cuts off what is finer than √λ_β pixels: with s² it is, for any layer, what the layer's grid cannot hold.
    tv: float = option(0.3, "λ_β, weight of total variation per pixel, times the square of the layer's stride")
    tv_beta: float = option(2.0, "β of total variation")
    alpha: float = option(0.1, "λ_α, weight of the 6-norm about grey, per pixel")
    # More would cost the finer layers more than it gains.
    jitter: int | None = option(
        None, "pixels by which the picture shifts; default: an eighth of the stride, 0 for lbfgs"
    )
    steps: int = option(200, "how many at most")
    optimizer: Literal["adam", "lbfgs"] = option("adam", "the paper takes gradient descent with momentum")
    rate: float = option(0.02, "Adam's step")

    def __post_init__(self) -> None:
        """Refuse, with UsageError, weights and steps that are none."""
        if min(self.tv, self.alpha) < 0 or self.tv_beta < 1 or self.steps < 1 or not self.rate > 0:
            expected = "expected tv and alpha of 0 or above, tv_beta of 1 or above, steps and rate above 0"
            raise UsageError(f"{expected}, got {self}")
        if self.jitter and (self.optimizer == "lbfgs" or self.jitter < 0):
            raise UsageError(f"jitter: expected 0 or above, with adam alone, got {self.jitter} with {self.optimizer}")

    def __call__(
        self, model: nn.Module, images: Tensor, seeds: Tensor | None = None, progress: Progress | None = None
    ) -> Image:
        """Return the inversions `(N, 3, H, W)` of images `(N, 3, H, W)` in [0, 1], each from noise by its own seed."""
        return self.details(model, images, seeds, progress).image

    def check(
        self, model: nn.Module, images: Tensor, seeds: Tensor | None = None, progress: Progress | None = None
    ) -> None:
        """Refuse, with UsageError, what does not fit; takes what the call takes."""
        check_images(images)
        seeds_for(len(images), seeds)
        if self.layer is not None:
            resolve(model, self.layer)
        batch_for(model, [self._layer(model, images)], images)

    def details(
        self, model: nn.Module, images: Tensor, seeds: Tensor | None = None, progress: Progress | None = None
    ) -> Inverted:
        """Return the inversions with their distances to the images; takes what the call takes."""
        self.check(model, images, seeds)
        images, layer = images.detach(), self._layer(model, images)
        pixels, stride = max(1, math.prod(images.shape[1:])), _stride(model, layer, images)
        with frozen(model), torch.no_grad():
            features = activations(model, images, [layer])[layer]
            apart = distance(layer, features)
            regular = (self.alpha / pixels) * alpha_norm(6)
            regular += (self.tv * stride**2 / pixels) * total_variation(self.tv_beta)
        adam = self.optimizer == "adam"
        jitter = self.jitter if self.jitter is not None else int(stride / 8) if adam else 0
        start = noise(seeds_for(len(images), seeds), (images.shape[2], images.shape[3]))
        result = minimize(
            model,
            apart + regular,
            start.clamp(0, 1).to(images),
            steps=self.steps,
            optimizer=Adam(self.rate) if adam else LBFGS(bounds=(0.0, 1.0)),
            transforms=[Jitter(jitter)] if jitter else (),
            projections=[clip()] if adam else (),
            seeds=seeds,
            progress=progress,
        )
        with frozen(model), torch.no_grad():
            found = activations(model, result.images, [layer])[layer]
        away, size = (features - found).flatten(1).float(), features.flatten(1).float()
        error = (result.images - images).flatten(1).square().mean(1)
        return Inverted(
            *painted(result),
            distance=away.square().sum(1) / size.square().sum(1).clamp_min(torch.finfo(size.dtype).tiny),
            psnr=-10 * error.clamp_min(1e-10).log10(),
        )

    def _layer(self, model: nn.Module, images: Tensor) -> str:
        return self.layer or content_layer(model, (images.shape[2], images.shape[3]))


def _stride(model: nn.Module, layer: str, images: Tensor) -> float:
    """Return the side of the square of pixels for each position of a layer; of a vector, that of the coarsest maps."""
    image = images.new_empty(1, *images.shape[1:])
    shape = shapes(model, [layer], image)[layer]
    if len(shape) != 4:
        try:
            coarsest = stages(model, (images.shape[2], images.shape[3]))[-1][-1]
        except UsageError:  # no maps at all: the pixels themselves are the grid
            return 1.0
        shape = shapes(model, [coarsest], image)[coarsest]
    return math.sqrt(images.shape[2] * images.shape[3] / max(1, shape[2:].numel()))
