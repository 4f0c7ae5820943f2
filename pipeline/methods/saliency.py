"""Saliency by gradient.

    heatmap = max over color channels of | d score / d image |

Simonyan, Vedaldi, Zisserman, Deep Inside Convolutional Networks, 2014 (arXiv:1312.6034), section 3.
"""

from typing import Literal

from torch import Tensor, nn

from ..models.gradients import image_gradient, subject_score
from ..models.layers import Neuron
from ..registry import Heatmap, option, register


@register
class Saliency:
    """Which pixels move the class score most."""

    score: Literal["logit", "probability"] = option("logit", "what is differentiated; the paper takes the logit")
    of: Neuron | None = option(None, "another neuron instead of the class: layer[:channel[:y:x]]")

    def __call__(self, model: nn.Module, images: Tensor, target: Tensor | None = None) -> Heatmap:
        """Return the heatmaps `(N, 1, H, W)`, non-negative, of images `(N, 3, H, W)` in [0, 1].

        `target` holds class indices `(N,)`; without it, each image's most probable class.
        """

        def score(images: Tensor) -> Tensor:
            return subject_score(model, images, target, self.of, self.score)

        return image_gradient(model, images, score).abs().amax(1, keepdim=True)
