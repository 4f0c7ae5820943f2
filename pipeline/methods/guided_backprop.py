"""Guided backpropagation, and the other two rules for going back through a ReLU.

    guided     R_l = [f_l > 0] · [R_{l+1} > 0] · R_{l+1}
    deconvnet  R_l = [R_{l+1} > 0] · R_{l+1}
    gradient   R_l = [f_l > 0] · R_{l+1}

Springenberg, Dosovitskiy, Brox, Riedmiller, Striving for Simplicity, 2015 (arXiv:1412.6806), section 3.4;
deconvnet: Zeiler, Fergus, Visualizing and Understanding Convolutional Networks, 2014 (arXiv:1311.2901).
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from ..errors import UsageError
from ..models.gradients import image_gradient, subject_score
from ..models.layers import Neuron, activations
from ..models.rectify import rectified
from ..registry import Gradient, option, register


@register
class GuidedBackprop:
    """What in the image excites a class or a neuron: its gradient, followed back along excitation only."""

    # The deconvnet of 2014 ran its own unpooling switches; the gradient of max pooling is the same routing.
    rule: Literal["guided", "deconvnet", "gradient"] = option("guided", "how the gradient passes a ReLU")
    of: Neuron | None = option(None, "a neuron instead of the class: layer[:channel[:y:x]]")
    partial: bool = option(False, "accept networks with activations that have no rule; those keep their derivative")

    def __call__(self, model: nn.Module, images: Tensor, target: Tensor | None = None) -> Gradient:
        """Return the signed gradients `(N, 3, H, W)` of images `(N, 3, H, W)` in [0, 1].

        `target` holds class indices `(N,)`; without it, each image's most probable class. Raises `UsageError` for
        networks whose activations the rule does not cover, unless `partial`.
        """

        def score(images: Tensor) -> Tensor:
            return subject_score(model, images, target, self.of)

        return self._gradient(model, images, score, whole=self.of is None)

    def of_units(self, model: nn.Module, images: Tensor, layer: str, units: Tensor) -> Tensor:
        """Return the gradients `(N, 3, H, W)` of another neuron of `layer` for each image.

        `units` `(N, 3)` int64 has channel, row and column; rows and columns of a dense layer are 0.
        """

        def score(images: Tensor) -> Tensor:
            found = activations(model, images, [layer])[layer]
            maps = found if found.ndim == 4 else found[:, :, None, None]
            channels, rows, columns = units.to(maps.device).unbind(1)
            return maps[torch.arange(len(maps), device=maps.device), channels, rows, columns]

        return self._gradient(model, images, score, whole=False)

    def _gradient(self, model: nn.Module, images: Tensor, read: Callable[[Tensor], Tensor], whole: bool) -> Tensor:
        """Return the gradient of what `read` gives, by the rule; `whole` where it is the network's own output."""

        def score(images: Tensor) -> Tensor:
            with rectified(model, self.rule) as reach:
                scores = read(images)
            if not self.partial:
                reach.check(scores)
            # Below a neuron of an early layer there may be no ReLU; a whole network without one is a mistake.
            expected = scores.requires_grad and whole and not (self.partial or self.rule == "gradient")
            if expected and not reach.reached:
                raise UsageError(f"rule {self.rule!r} found no ReLU that the model calls; use rule 'gradient'")
            return scores

        return image_gradient(model, images, score)
