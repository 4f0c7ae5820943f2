"""Texture synthesis: more of a sample, of any size, with the sample's statistics and none of its places.

    neural   L = mean over l of E_l,   E_l = Σ (G − Ĝ)² / (4 N_l² M_l²),   G = F Fᵀ
    nearest  texture(p) = sample(argmin_q ‖neighborhood of p so far − neighborhood of q‖²),  pixel by pixel

F are a layer's N_l feature maps at M_l positions, Ĝ is the sample's Gram matrix. Sums over M_l positions divided by
M_l² are means over positions, which serve for outputs of any size; `centered` takes F − mean F.

neural: Gatys, Ecker, Bethge, Texture Synthesis Using Convolutional Neural Networks, NeurIPS 2015 (arXiv:1505.07376);
nearest: Wei, Levoy, Fast texture synthesis using tree-structured vector quantization, SIGGRAPH 2000
(doi:10.1145/344779.345009); its pick within 1 + eps: Efros, Leung, Texture synthesis by non-parametric sampling, ICCV
1999 (doi:10.1109/ICCV.1999.790383).
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
from ..ops.nearest_texture import check as check_nearest
from ..ops.nearest_texture import nearest_texture
from ..painting import Painting, painted
from ..registry import Image, Progress, option, register

RATE = 0.02
"""Adam's."""


@register(verb="texture", network="vgg19", network_flag="loss-net", fit="inside", size=256)
class TextureSynthesis:
    """More of a sample's texture, of any size."""

    # The paper of the neural kind pools by averages; here networks pool as they come.
    algorithm: Literal["neural", "nearest"] = option(
        "neural", "noise brought to the sample's Gram matrices, or copies of its pixels by their neighborhoods"
    )
    extent: Extent | int | tuple[int, int] | None = option(None, "size: a side, or HEIGHTxWIDTH; default: the sample's")
    layers: str | None = option(None, "layers, a,b,c; default: the first of each resolution but the last, four at most")
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
    window: int = option(9, "nearest: width of the neighborhood, odd; that of the largest structure to come out whole")
    levels: int = option(3, "nearest: resolutions, each half of the one before")
    eps: float | None = option(None, "nearest: pick at random among those within 1 + eps; default: the nearest one")

    def __post_init__(self) -> None:
        """Refuse, with UsageError, numbers that are none of their options'."""
        if self.steps < 1:
            raise UsageError(f"steps: expected a whole number above 0, got {self.steps}")
        if self.rate is not None and not 0 < self.rate < math.inf:
            raise UsageError(f"rate: expected a finite number above 0, got {self.rate}")
        if not 0 <= self.tv < math.inf:
            raise UsageError(f"tv: expected a finite number of 0 or above, got {self.tv}")

    @property
    def uses_network(self) -> bool:
        """Only the neural algorithm does."""
        return self.algorithm == "neural"

    def __call__(
        self, model: nn.Module, images: Tensor, seeds: Tensor | None = None, progress: Progress | None = None
    ) -> Image:
        """Return textures `(N, 3, *extent)`, each of its own sample `(N, 3, h, w)` and from noise of its own seed."""
        return self.details(model, images, seeds, progress).image

    def check(
        self, model: nn.Module, images: Tensor, seeds: Tensor | None = None, progress: Progress | None = None
    ) -> None:
        """Refuse, with UsageError, what does not fit, memory included, without working; takes what the call takes."""
        check_images(images)
        if images.shape[1] != 3 or not all(images.shape[2:]) or not bool(images.isfinite().all()):
            raise UsageError(f"images: expected finite pictures (N, 3, H, W) in [0, 1], got {tuple(images.shape)}")
        seeds = seeds_for(len(images), seeds)
        if self.algorithm == "nearest":
            check_nearest(images, self._size(images), seeds, self.window, self.levels, self.eps)
            return
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
        if self.algorithm == "nearest":
            return self._nearest(images.detach(), seeds_for(len(images), seeds), progress)
        adam = self.optimizer == "adam"
        with torch.inference_mode(False):
            start = noise(seeds_for(len(images), seeds), self._size(images)).to(images)
            result = algebra.minimize(
                model,
                self._loss(model, images.clone() if images.is_inference() else images.detach()),
                start.clamp(0, 1),
                steps=self.steps,
                optimizer=Adam(self.rate or RATE) if adam else LBFGS(self.rate or 1.0, bounds=(0.0, 1.0)),
                projections=(clip(),) if adam else (),
                progress=progress,
            )
        return painted(result)

    def _nearest(self, images: Tensor, seeds: Tensor, progress: Progress | None) -> Painting:
        """Return textures of copied pixels: nothing is minimized, so that there is no loss and no step."""
        numbers = (self.window, self.levels, self.eps)
        made = nearest_texture(images.clamp(0, 1), self._size(images), seeds, *numbers, progress)
        none = images.new_zeros(len(images))
        return Painting(made, none, none.new_empty(len(images), 0), none, none.bool())

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
        return loss

    def _layers(self, model: nn.Module) -> list[str]:
        if self.layers is not None:
            return names_of(self.layers)
        # The paper goes on to pool4 of VGG-19. Deeper maps have few positions, and hold the noise back for long.
        found = style_layers(model)
        return found[:-1] or found

    def _size(self, images: Tensor) -> tuple[int, int]:
        if self.extent is None:
            return images.shape[2], images.shape[3]
        size = Extent.of(self.extent)
        return size.height, size.width
