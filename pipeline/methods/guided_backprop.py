"""Guided backpropagation, and the other two rules for going back through a ReLU.

    guided     R_l = [f_l > 0] · [R_{l+1} > 0] · R_{l+1}
    deconvnet  R_l = [R_{l+1} > 0] · R_{l+1}
    gradient   R_l = [f_l > 0] · R_{l+1}

Springenberg, Dosovitskiy, Brox, Riedmiller, Striving for Simplicity, 2015 (arXiv:1412.6806), section 3.4;
deconvnet: Zeiler, Fergus, Visualizing and Understanding Convolutional Networks, 2014 (arXiv:1311.2901).
"""

from typing import Literal

from torch import Tensor, nn

from ..errors import UsageError
from ..models.gradients import image_gradient, subject_score
from ..models.layers import Neuron
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
            with rectified(model, self.rule) as reach:
                scores = subject_score(model, images, target, self.of)
            if not self.partial:
                reach.check(scores)
            # Below a neuron of an early layer there may be no ReLU; a whole network without one is a mistake.
            expected = scores.requires_grad and not (self.of or self.partial or self.rule == "gradient")
            if expected and not reach.reached:
                raise UsageError(f"rule {self.rule!r} found no ReLU that the model calls; use rule 'gradient'")
            return scores

        return image_gradient(model, images, score)
