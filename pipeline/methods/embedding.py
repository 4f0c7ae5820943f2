"""Embedding: a network's description of an image, as one vector.

    vector = what the classifier takes (4096 numbers of fc7 in AlexNet and VGG), or the pooled maps of a layer

Krizhevsky, Sutskever, Hinton, ImageNet classification with deep convolutional neural networks, 2012
(doi:10.1145/3065386), section 6.1.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from ..errors import UsageError
from ..models.frozen import frozen
from ..models.gradients import check_images
from ..models.head import before_head
from ..models.layers import activations
from ..registry import Vector, option, register


@register(verb="embed")
class Embedding:
    """What does the network make of an image, as one vector?"""

    layer: str | None = option(None, "whose output; default: what the last layer with weights takes")
    pool: Literal["mean", "max", "flatten"] = option("mean", "what becomes of a layer's maps")
    dtype: Literal["float32", "float16"] = option("float32", "how the numbers are stored")

    def __call__(self, model: nn.Module, images: Tensor) -> Vector:
        """Return the vectors `(N, D)`, in `dtype`, of images `(N, 3, H, W)` in [0, 1].

        Tokens `(N, T, D)` are pooled as maps are. Raises UsageError for a layer that gives neither maps, tokens nor
        vectors.
        """
        check_images(images)
        name = self.reads(model, images)
        with frozen(model), torch.no_grad():
            found = activations(model, images, [name])[name]
        return self._pooled(found, name).to(getattr(torch, self.dtype))

    def reads(self, model: nn.Module, images: Tensor) -> str:
        """Return the layer whose output is described, by the name that `activations` takes."""
        return self.layer or before_head(model, images)

    def _pooled(self, found: Tensor, name: str) -> Tensor:
        if found.ndim not in (2, 3, 4):
            shape = tuple(found.shape[1:])
            raise UsageError(f"layer {name!r}: expected maps (C, H, W), tokens or a vector, got {shape}")
        wide = torch.promote_types(found.dtype, torch.float32)
        if self.pool == "flatten" or found.ndim == 2:
            return found.flatten(1).to(wide)
        places = (2, 3) if found.ndim == 4 else (1,)
        return found.amax(places).to(wide) if self.pool == "max" else found.mean(places, dtype=wide)
