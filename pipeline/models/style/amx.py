"""The style network on a processor's matrix tiles: each convolution measures what its norm needs, and each norm writes
the bfloat16 maps of the next one. With `split` factors are sums of two such numbers, and pictures those of float32;
see `ops.tile_convolution`.
"""

from typing import Any

import torch
from torch import Tensor

from ...ops.tile_convolution import Maps, Norm, Weights, convolved, filled, packed
from .graph import BLOCK
from .net import BLOCKS, EPS, Convolution, StyleNet, padded
from .net import Norm as StyleNorm
from .quick import block_weights, doubled_weights


class Tiled:
    """A network's weights as tiles, and memory that is kept from one picture to the next."""

    def __init__(self, net: StyleNet, split: bool) -> None:
        self.planes = 2 if split else 1
        self.weights: dict[str, Weights] = {}
        self.norms: dict[str, tuple[Tensor, Tensor]] = {}
        for name, module in net.named_modules():
            if isinstance(module, StyleNorm):
                self.norms[name] = (module.weight.detach(), module.bias.detach())
            elif isinstance(module, Convolution):
                self.weights[name] = _packed(name, module, split)
        self.bias = net.get_parameter("deconv3.conv2d.bias").detach().repeat_interleave(BLOCK[0] * BLOCK[1])
        self.room: dict[str, Tensor] = {}

    def painted(self, image: Tensor, shares: Tensor) -> Tensor:
        """Return an image `(3, H, W)` in [0, 1] painted by shares `(S,)`."""
        whole = padded(image[None])[0]
        size = whole.shape[1], whole.shape[2]
        levels = whole.permute(1, 2, 0).contiguous()
        maps = self._filled(levels, Norm(torch.full((3,), 255.0), torch.zeros(3)), 4, rectify=False)
        maps = self._grown(self._blocks(*self._shrunk(maps, size, shares), shares), size, shares)
        return self._last(maps, size)[:, : image.shape[1], : image.shape[2]]

    def _shrunk(self, maps: Maps, size: tuple[int, int], shares: Tensor) -> tuple[Maps, Tensor]:
        """Return the maps at a quarter of the resolution, and the same in float32."""
        for number, scale in ((1, 1), (2, 2)):
            maps = self._filled(*self._convolved(f"conv{number}", f"in{number}", maps, size, scale, shares), 1)
        sums, norm = self._convolved("conv3", "in3", maps, size, 4, shares)
        trunk = self._lent("trunk", torch.float32, *sums.shape)
        return self._filled(sums, norm, 1, kept=trunk), trunk

    def _blocks(self, maps: Maps, trunk: Tensor, shares: Tensor) -> Maps:
        size = trunk.shape[0], trunk.shape[1]
        for number in range(1, BLOCKS + 1):
            name = f"res{number}"
            maps = self._filled(*self._convolved(f"{name}.conv1", f"{name}.in1", maps, size, 1, shares), 1)
            found = self._convolved(f"{name}.conv2", f"{name}.in2", maps, size, 1, shares)
            edges = "repeat" if number == BLOCKS else "reflect"  # for the doubling that follows
            maps = self._filled(*found, 1, kept=trunk, add=True, rectify=False, edges=edges)
        return maps

    def _grown(self, maps: Maps, size: tuple[int, int], shares: Tensor) -> Maps:
        maps = self._filled(*self._convolved("deconv1", "in4", maps, size, 2, shares), 1, edges="repeat")
        return self._filled(*self._convolved("deconv2", "in5", maps, size, 1, shares), 4)

    def _last(self, maps: Maps, size: tuple[int, int]) -> Tensor:
        down, across = BLOCK
        weights = self.weights["deconv3"]
        sums = self._lent("sums", torch.float32, size[0] // down, size[1] // across, weights.outputs)
        convolved(maps, weights, sums, self.bias)
        levels = sums.div_(255).clamp_(0, 1).view(*sums.shape[:2], 3, down, across)
        return levels.permute(2, 0, 3, 1, 4).reshape(3, *size)

    def _convolved(
        self, name: str, norm: str, maps: Maps, size: tuple[int, int], scale: int, shares: Tensor
    ) -> tuple[Tensor, Norm]:
        """Return a layer's sums for a size over `scale`, and what their norm makes of them."""
        height, width = (side // scale for side in size)
        sums = self._lent("sums", torch.float32, height, width, self.weights[name].outputs)
        # a bias would be lost in the norm
        given = Norm(*(shares @ one for one in self.norms[norm]))
        return sums, convolved(maps, self.weights[name], sums, None, given, EPS)

    def _filled(self, sums: Tensor, norm: Norm, edge: int, **options: Any) -> Maps:
        height, width, channels = sums.shape
        numbers = Maps.numbers(height + 2 * edge, width + 2 * edge, channels)
        planes = self._lent("planes", torch.bfloat16, self.planes, numbers)
        return filled(planes, sums, norm, edge, **options)

    def _lent(self, name: str, dtype: torch.dtype, *shape: int) -> Tensor:
        """Return memory of that name, which the next call for it takes back."""
        size = torch.Size(shape).numel() * dtype.itemsize
        if name not in self.room or self.room[name].numel() < size:
            self.room[name] = torch.empty(size, dtype=torch.uint8)
        return self.room[name][:size].view(dtype).view(shape)


def _packed(name: str, module: Convolution, split: bool) -> Weights:
    weight = module.conv2d.weight.detach()
    if module.doubles:
        return packed(_phases(doubled_weights(weight)), split)
    if name == "deconv3":
        return packed(block_weights(weight), split, BLOCK)
    down, across = module.conv2d.stride
    return packed(weight, split, (down, across))


def _phases(weight: Tensor) -> Tensor:
    """Return weights (2, 2, O, C, 2, 2) for the pixels of 2 × 2, of a transposed convolution's (C, O, 4, 4)."""
    turned = weight.transpose(0, 1).flip(2, 3)  # phase p takes the taps 3 − p and 1 − p
    return torch.stack([torch.stack([turned[:, :, y::2, x::2] for x in (0, 1)]) for y in (0, 1)])
