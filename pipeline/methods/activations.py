"""Activations: the feature maps of a layer, side by side.

    tile of channel c = a_c / max|a_c|: black where the map is zero, toward white above, toward blue below

Zeiler, Fergus, Visualizing and Understanding Convolutional Networks, 2014 (arXiv:1311.2901); live, for any layer:
Yosinski et al., Understanding neural networks through deep visualization, 2015 (arXiv:1506.06579), section 2.
"""

from typing import Literal

import torch
from torch import Tensor, nn

from ..errors import UsageError
from ..images.lattice import PAPER, captioned, columns, enlarged, lattice, wrapped, written
from ..models.frozen import frozen
from ..models.gradients import check_images
from ..models.head import first_maps
from ..models.layers import activations
from ..registry import Image, option, register

ABOVE, BELOW = (1.0, 1.0, 1.0), (0.25, 0.55, 1.0)
WIDE = 448
"""Pixels that the square of a dense layer's units is wide, or less."""


@register
class Activations:
    """What each channel of a layer makes of an image: its feature maps, side by side."""

    layer: str | None = option(None, "whose maps; default: the first unit that has any")
    maps: int = option(64, "how many channels at most; of a dense layer, all units are drawn")
    order: Literal["index", "strongest"] = option("index", "of the channels; strongest: by the mean of the map")
    scale: Literal["map", "layer"] = option("map", "brightness by each map's own largest value, or by the layer's")
    side: int = option(48, "pixels: smaller maps are enlarged to this, by a whole factor; each value is a square")

    def __post_init__(self) -> None:
        if self.maps < 1 or self.side < 1:
            raise UsageError(f"expected maps and side of 1 or more, got {self}")

    def __call__(self, model: nn.Module, images: Tensor) -> Image:
        """Return a grid of maps for each of the images `(N, 3, H, W)` in [0, 1], `(N, 3, h, w)` in [0, 1].

        Every map stands under its channel's number, in whatever order. Units of a dense layer are the squares of one
        square, row by row, all on the layer's scale. Raises UsageError for a layer that gives neither maps nor a
        vector, and for an order of a dense layer's units other than the index.
        """
        check_images(images)
        found = self._found(model, images)
        return _squares(found, self.side) if found.ndim == 2 else self._grids(found)

    def check(self, model: nn.Module, images: Tensor) -> None:
        """Refuse, with UsageError, what does not fit; takes what the call takes."""
        check_images(images)
        self._found(model, images[:1])

    def reads(self, model: nn.Module, images: Tensor) -> str:
        """Return the layer whose maps are drawn, by the name that `activations` takes."""
        return self.layer or first_maps(model, images)

    def _found(self, model: nn.Module, images: Tensor) -> Tensor:
        name = self.reads(model, images)
        with frozen(model), torch.no_grad():
            found = activations(model, images.detach(), [name])[name]
        if found.ndim not in (2, 4):
            raise UsageError(f"layer {name!r}: expected maps (C, H, W) or a vector, got {tuple(found.shape[1:])}")
        if found.ndim == 2 and self.order != "index":
            raise UsageError(f"order: the units of {name!r} bear no numbers; leave it out, or name a layer with maps")
        return found.to(torch.promote_types(found.dtype, torch.float32))

    def _grids(self, maps: Tensor) -> Tensor:
        """Draw maps `(N, C, h, w)`."""
        count = maps.shape[1]
        shown = min(self.maps, count)
        order = torch.arange(count).expand(len(maps), count)
        if self.order == "strongest":
            order = maps.mean((2, 3)).sort(dim=1, descending=True, stable=True).indices
        width = written(str(count - 1)).shape[2]  # grids of a layer are of one size, whatever numbers are in them
        grids = []
        for found, channels in zip(maps, order[:, :shown].tolist(), strict=True):
            tiles = enlarged(_toned(found[channels], found if self.scale == "layer" else None), self.side)
            cells = [captioned(tile, str(channel), width) for tile, channel in zip(tiles, channels, strict=True)]
            grids.append(lattice(wrapped(cells)))
        return torch.stack(grids) if grids else maps.new_empty(0, 3, 1, 1)


def _squares(units: Tensor, side: int) -> Tensor:
    """Draw the units of a dense layer, `(N, D)`."""
    count, across = units.shape[1], columns(units.shape[1])
    picture = units.new_full((len(units), 3, -(-count // across) * across), PAPER)
    for place, found in enumerate(units):
        picture[place, :, :count] = _toned(found.view(-1, 1, 1), found).view(-1, 3).T
    return enlarged(picture.unflatten(2, (-1, across)), across * min(side, max(1, WIDE // across)))


def _toned(maps: Tensor, scale: Tensor | None) -> Tensor:
    """Color maps `(C, h, w)` as `(C, 3, h, w)`: full brightness is the largest magnitude in `scale`, or in each map."""
    largest = maps.abs().amax((1, 2), keepdim=True) if scale is None else scale.abs().amax()
    values = (maps / largest.clamp_min(torch.finfo(maps.dtype).tiny))[:, None]
    above, below = (maps.new_tensor(color).view(3, 1, 1) for color in (ABOVE, BELOW))
    return above * values.clamp_min(0) - below * values.clamp_max(0)
