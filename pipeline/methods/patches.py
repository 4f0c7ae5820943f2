"""Maximally activating patches: the pieces of images that excite each channel of a layer most.

    for every channel c, of all images x the k largest of  max over positions (i, j) of f_c(x)_ij

Zeiler, Fergus, Visualizing and Understanding Convolutional Networks, 2014 (arXiv:1311.2901), section 4; whole layers:
Girshick, Donahue, Darrell, Malik, Rich feature hierarchies, 2014 (arXiv:1311.2524), section 3.1.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UsageError
from ..models.frozen import frozen
from ..models.gradients import check_images
from ..models.head import last_maps
from ..models.layers import activations
from ..registry import Peaks, option, register


@register
class Patches:
    """Which pieces of the images excite each neuron of a layer most?"""

    layer: str | None = option(None, "whose channels; default: the last one with maps")
    top: int = option(9, "patches per channel, each from another image")

    def __post_init__(self) -> None:
        if self.top < 1:
            raise UsageError(f"top: expected a positive number, got {self.top}")

    def __call__(self, model: nn.Module, images: Tensor) -> Peaks:
        """Return each channel's largest value with its row and column, `(N, C, 3)` float32.

        Of equal values the first, row by row. A unit of a dense layer has row and column 0. Raises UsageError for a
        layer that gives neither maps nor vectors.
        """
        check_images(images)
        name = self.reads(model, images)
        with frozen(model), torch.no_grad():
            found = activations(model, images, [name])[name]
        if found.ndim not in (2, 4):
            raise UsageError(f"layer {name!r}: expected maps (C, H, W) or a vector, got {tuple(found.shape[1:])}")
        return _peaks(found if found.ndim == 4 else found[:, :, None, None])

    def reads(self, model: nn.Module, images: Tensor) -> str:
        """Return the layer whose channels are meant."""
        return self.layer or last_maps(model, images)

    def select(self, values: np.ndarray, keys: list[str]) -> np.ndarray:
        """Return which of the values `(n, C)` are among the `top` of their channel, `(n, C)` bool; ties go by key.

        What is NaN is never chosen. The top of several parts is that of what was chosen in each.
        """
        order = np.argsort(np.asarray(keys, object), kind="stable")
        ranked = np.argsort(np.where(np.isnan(values), np.inf, -values)[order], axis=0, kind="stable")[: self.top]
        chosen = np.zeros(values.shape, bool)
        np.put_along_axis(chosen, order[ranked], True, axis=0)
        found: np.ndarray = chosen & ~np.isnan(values)
        return found


def _peaks(maps: Tensor) -> Tensor:
    """Return the largest values of maps `(N, C, H, W)` with their places, `(N, C, 3)` float32."""
    width = maps.shape[3]
    values, places = (found.flatten(1) for found in F.adaptive_max_pool2d(maps, 1, return_indices=True))
    return torch.stack([values.float(), (places // width).float(), (places % width).float()], 2)
