"""DeepDream: what a layer sees in an image, made stronger.

    x ← clip(x + rate · g / mean|g|),  g = ∂ ½ mean a² / ∂x: the gradient of the layer set equal to its activation a

Mordvintsev, Olah, Tyka, Inceptionism: going deeper into neural networks, 2015
(https://research.google/blog/inceptionism-going-deeper-into-neural-networks/; a formal account:
Olah, Mordvintsev, Schubert, Feature visualization, 2017, doi:10.23915/distill.00007).
"""

import torch
from torch import Tensor, nn

from ..errors import UsageError
from ..images import Ascent, Objective, Result, amplify, guided, maximize, neuron
from ..images.memory import batch_for
from ..images.projections import clip
from ..images.scales import octaves, pyramid
from ..images.seeds import seeds_for
from ..images.transforms import Jitter
from ..models.frozen import frozen
from ..models.gradients import check_images
from ..models.layers import Neuron, activations, resolve
from ..models.stages import stages
from ..painting import Painting, painted
from ..registry import Image, Progress, option, register


@register(fit="inside", size=512)
class DeepDream:
    """What a layer sees in an image, drawn into it."""

    of: Neuron | None = option(None, "layer[:channel[:y:x]] to amplify; default: the end of the last stage but one")
    octaves: int = option(4, "how many sizes, each painted on what the one before has drawn")
    factor: float = option(1.4, "from one size to the next")
    steps: int = option(10, "steps in each octave")
    rate: float = option(0.01, "length of a step: mean change of a pixel, in the range [0, 1]")
    jitter: int = option(16, "pixels by which the image is shifted at random before each step")

    def __post_init__(self) -> None:
        """Refuse, with UsageError, numbers that are none of theirs."""
        if self.octaves < 1 or not self.factor > 1 or self.steps < 1 or not self.rate > 0 or self.jitter < 0:
            expected = "expected octaves and steps of 1 or more, factor above 1, rate above 0, jitter of 0 or more"
            raise UsageError(f"{expected}, got {self}")

    def __call__(
        self,
        model: nn.Module,
        images: Tensor,
        guide: Tensor | None = None,
        seeds: Tensor | None = None,
        progress: Progress | None = None,
    ) -> Image:
        """Return the dreams `(N, 3, H, W)` of images `(N, 3, H, W)` in [0, 1].

        With `guide`, a picture `(1, 3, h, w)`, each place is drawn toward what of the guide fits it best.
        """
        return self.details(model, images, guide, seeds, progress).image

    def check(
        self,
        model: nn.Module,
        images: Tensor,
        guide: Tensor | None = None,
        seeds: Tensor | None = None,
        progress: Progress | None = None,
    ) -> None:
        """Refuse, with UsageError, what does not fit; takes what the call takes."""
        check_images(images)
        seeds_for(len(images), seeds)
        if self.of is not None:
            resolve(model, self.of.layer)
            if len(images):
                with frozen(model), torch.no_grad():
                    self.of.score(model, images[:1].detach())
        if guide is not None and (guide.ndim != 4 or guide.shape[:2] != (1, 3)):
            raise UsageError(f"guide: expected a picture (1, 3, h, w), got {tuple(guide.shape)}")
        if guide is not None and self.of is not None and self.of.channel is not None:
            raise UsageError(f"guide: expected a whole layer, got {self.of}; leave the channel out")
        batch_for(model, [self._layer(model, images)], images)

    def details(
        self,
        model: nn.Module,
        images: Tensor,
        guide: Tensor | None = None,
        seeds: Tensor | None = None,
        progress: Progress | None = None,
    ) -> Painting:
        """Return the dreams with what was amplified, at each step of each octave; takes what the call takes."""
        self.check(model, images, guide, seeds)
        images, objective = images.detach(), self._objective(model, images, guide)
        size = images.shape[2], images.shape[3]
        sizes = pyramid(size, self.octaves, self.factor, least=min(64, *size))
        told = 0

        def paint(start: Tensor, skip: Tensor | None) -> Result:
            nonlocal told
            octave, total = told, len(sizes) * self.steps * len(images)
            told += self.steps * len(images)
            return maximize(
                model,
                objective,
                start,
                steps=self.steps,
                optimizer=Ascent(self.rate, "l1"),
                transforms=[Jitter(self.jitter)],
                projections=[clip()],
                seeds=seeds,
                skip=skip,
                progress=None if progress is None else lambda done, _: progress(octave + done, total),
            )

        return painted(octaves(sizes, images, paint))

    def _objective(self, model: nn.Module, images: Tensor, guide: Tensor | None) -> Objective:
        layer = self._layer(model, images)
        if guide is not None:
            with frozen(model), torch.no_grad():
                return guided(layer, activations(model, guide.to(images), [layer])[layer])
        return amplify(layer) if self.of is None or self.of.channel is None else neuron(self.of)

    def _layer(self, model: nn.Module, images: Tensor) -> str:
        if self.of is not None:
            return self.of.layer
        found = stages(model, (images.shape[2], images.shape[3]))
        return found[-2 if len(found) > 1 else 0][-1]
