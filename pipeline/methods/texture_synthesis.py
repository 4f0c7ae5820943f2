"""Texture synthesis: more of a sample, of any size, with the sample's statistics and none of its places.

    L = mean over l of E_l,   E_l = Σ (G − Ĝ)² / (4 N_l² M_l²),   G = F Fᵀ

F are a layer's N_l feature maps at M_l positions, Ĝ is the sample's Gram matrix. Sums over M_l positions divided by
M_l² are means over positions, which serve for outputs of any size; `centered` takes F − mean F.

Gatys, Ecker, Bethge, Texture Synthesis Using Convolutional Neural Networks, NeurIPS 2015 (arXiv:1505.07376).
"""

import math
from functools import reduce
from operator import add
from typing import Literal

import torch
from torch import Tensor, nn

from .. import images as algebra
from ..errors import UsageError
from ..images import LBFGS, Adam, Objective
from ..images.grams import check_maps, grams
from ..images.memory import batch_for, check_pass
from ..images.projections import clip
from ..images.seeds import noise, seeds_for
from ..models.frozen import frozen
from ..models.gradients import check_images
from ..models.layers import names_of, resolve
from ..models.stages import style_layers
from ..models.windows import Extent
from ..painting import Painting, painted
from ..registry import Image, Progress, option, register

RANGE = 10.0
"""Weight of the mean square of how far pixels leave [0, 1] under L-BFGS."""
RATE = 0.02
"""Adam's."""


@register(verb="texture", network="vgg19", network_flag="loss-net", fit="inside", size=256)
class TextureSynthesis:
    """More of a sample's texture, of any size, from noise."""

    out: Extent | int | tuple[int, int] | None = option(None, "size: a side, or HEIGHTxWIDTH; default: the sample's")
    layers: str | None = option(None, "layers, a,b,c; default: the first of each resolution, five at most")
    gram: Literal["mean", "centered"] = option(
        "mean", "products of feature maps averaged over positions, or covariance"
    )
    normalize: Literal["target", "paper"] = option(
        "target", "Σ (G − Ĝ)² over Σ Ĝ², so that each layer of any network counts alike, or over the paper's 4 N²"
    )
    tv: float = option(0.0, "weight of the total variation a pixel")
    optimizer: Literal["lbfgs", "adam"] = option("lbfgs", "L-BFGS as in the paper, or Adam")
    steps: int = option(300, "how many at most")
    rate: float | None = option(None, "length of a step; default: 1 for lbfgs, 0.02 for adam")

    def __post_init__(self) -> None:
        """Refuse, with UsageError, numbers that are none of their options'."""
        if self.steps < 1:
            raise UsageError(f"steps: expected a whole number above 0, got {self.steps}")
        if self.rate is not None and not 0 < self.rate < math.inf:
            raise UsageError(f"rate: expected a finite number above 0, got {self.rate}")
        if not 0 <= self.tv < math.inf:
            raise UsageError(f"tv: expected a finite number of 0 or above, got {self.tv}")

    def __call__(
        self, model: nn.Module, images: Tensor, seeds: Tensor | None = None, progress: Progress | None = None
    ) -> Image:
        """Return textures `(N, 3, *out)`, each of its own sample `(N, 3, h, w)` and from noise of its own seed."""
        return self.details(model, images, seeds, progress).image

    def check(
        self, model: nn.Module, images: Tensor, seeds: Tensor | None = None, progress: Progress | None = None
    ) -> None:
        """Refuse, with UsageError, what does not fit, memory included, without working; takes what the call takes."""
        check_images(images)
        if images.shape[1] != 3 or not all(images.shape[2:]) or not bool(images.isfinite().all()):
            raise UsageError(f"images: expected finite pictures (N, 3, H, W) in [0, 1], got {tuple(images.shape)}")
        seeds_for(len(images), seeds)
        layers = self._layers(model)
        for name in layers:
            resolve(model, name)
        sample, made = (images.new_empty(1, 3, *size) for size in (images.shape[2:], self._size(images)))
        with frozen(model):
            for one in (sample, made):
                check_maps(model, layers, layers, one)
            batch_for(model, layers, made)
            check_pass(model, layers, sample, "images")

    def details(
        self, model: nn.Module, images: Tensor, seeds: Tensor | None = None, progress: Progress | None = None
    ) -> Painting:
        """Return the textures with their losses; takes what the call takes."""
        self.check(model, images, seeds)
        with torch.inference_mode(False):
            start = noise(seeds_for(len(images), seeds), self._size(images)).to(images)
            result = algebra.minimize(
                model,
                self._loss(model, images.clone() if images.is_inference() else images.detach()),
                start.clamp(0, 1),
                steps=self.steps,
                optimizer=Adam(self.rate or RATE) if self.optimizer == "adam" else LBFGS(self.rate or 1.0),
                projections=(clip(),) if self.optimizer == "adam" else (),
                progress=progress,
            )
        return painted(result)

    def _loss(self, model: nn.Module, images: Tensor) -> Objective:
        height, width = self._size(images)
        center, relative = self.gram == "centered", self.normalize == "target"
        layers = self._layers(model)
        found = [grams(model, one, layers, center) for one in images.split(1)]  # without images, of one empty batch
        terms = []
        for name in layers:
            target = torch.stack([each[name] for each in found])[: len(images)]
            terms.append(algebra.style(name, target, center, relative=relative))
        loss = reduce(add, terms) * (1 / len(layers))
        if self.tv:  # not in the paper
            loss += self.tv / (height * width) * algebra.total_variation()
        if self.optimizer == "lbfgs":  # whose function has to be smooth; Adam's pixels are clipped at each step
            loss += RANGE / (3 * height * width) * algebra.beyond()
        return loss

    def _layers(self, model: nn.Module) -> list[str]:
        return style_layers(model) if self.layers is None else names_of(self.layers)

    def _size(self, images: Tensor) -> tuple[int, int]:
        if self.out is None:
            return images.shape[2], images.shape[3]
        extent = Extent.of(self.out)
        return extent.height, extent.width
