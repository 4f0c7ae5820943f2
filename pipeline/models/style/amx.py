"""The style network on a processor's matrix tiles: each convolution measures what its norm needs, and each norm writes
the bfloat16 maps of the next one. With `split` factors are sums of two such numbers, and pictures those of float32;
see `ops.tile_convolution`.
"""

from typing import Any

import torch
from torch import Tensor

from ...ops.kernels import threads
from ...ops.tile_convolution import Maps, Norm, Program, Weights, convolved, filled, packed
from .graph import BLOCK
from .net import BLOCKS, EPS, Convolution, StyleNet, padded
from .net import Norm as StyleNorm
from .quick import block_weights, doubled_weights

Size = tuple[int, int]


class Tiled:
    """A network's weights as tiles, and memory that is kept from one picture to the next."""

    def __init__(self, net: StyleNet, split: bool) -> None:
        self.split = split
        self.weights: dict[str, Weights] = {}
        norms: dict[str, Tensor] = {}
        for name, module in net.named_modules():
            if isinstance(module, StyleNorm):
                norms[name] = torch.cat([module.weight.detach(), module.bias.detach()], 1)
            elif isinstance(module, Convolution):
                self.weights[name] = _packed(name, module, split)
        self.table = torch.cat(list(norms.values()), 1)
        self.given = torch.empty(self.table.shape[1])
        parts = self.given.split([one.shape[1] for one in norms.values()])
        self.norms = {name: Norm(*part.chunk(2)) for name, part in zip(norms, parts, strict=True)}
        self.bias = net.get_parameter("deconv3.conv2d.bias").detach().repeat_interleave(BLOCK[0] * BLOCK[1])
        self.room: dict[str, Tensor] = {}
        self.course: _Course | None = None

    def painted(self, image: Tensor, shares: Tensor) -> Tensor:
        """Return an image `(3, H, W)` in [0, 1] painted by shares `(S,)`."""
        whole = padded(image[None])[0]
        size = whole.shape[1], whole.shape[2]
        if self.course is None or (self.course.size, self.course.threads) != (size, threads()):
            self.course = None  # with it goes what it holds
            self.course = _Course(self, size)
        torch.mv(self.table.T, shares, out=self.given)
        self.course.levels.copy_(whole.permute(1, 2, 0))
        self.course.program.run()
        down, across = BLOCK
        sums = self.course.sums.div_(255).clamp_(0, 1).view(size[0] // down, size[1] // across, 3, down, across)
        return sums.permute(2, 0, 3, 1, 4).reshape(3, *size)[:, : image.shape[1], : image.shape[2]]

    def lent(self, name: str, dtype: torch.dtype, *shape: int) -> Tensor:
        """Return memory of that name, which the next call for it takes back."""
        size = torch.Size(shape).numel() * dtype.itemsize
        if name not in self.room or self.room[name].numel() < size:
            self.room.pop(name, None)  # before there is another
            self.room[name] = torch.empty(size, dtype=torch.uint8)
        return self.room[name][:size].view(dtype).view(shape)


class _Course:
    """The way through the network for pictures of one size, whose sides are multiples of 4: `levels` to `sums`."""

    def __init__(self, tiled: Tiled, size: Size) -> None:
        self.tiled, self.size, self.threads, self.program = tiled, size, threads(), Program()
        height, width = size
        self.levels = torch.empty(height, width, 3)
        # the largest first: what takes its place later is held as well
        filters = tiled.weights["conv1"].outputs
        tiled.lent("sums", torch.float32, height, width, filters)
        tiled.lent("planes", torch.bfloat16, 2 if tiled.split else 1, Maps.numbers(height + 8, width + 8, filters))
        scale = Norm(torch.full((3,), 255.0), torch.zeros(3))
        maps = self._blocks(*self._shrunk(self._filled(self.levels, scale, 4, rectify=False)))
        maps = self._filled(*self._convolved("deconv1", "in4", maps, 2), 1, edges="repeat")
        maps = self._filled(*self._convolved("deconv2", "in5", maps, 1), 4)
        weights = tiled.weights["deconv3"]
        self.sums = tiled.lent("sums", torch.float32, height // BLOCK[0], width // BLOCK[1], weights.outputs)
        convolved(maps, weights, self.sums, tiled.bias, program=self.program)

    def _shrunk(self, maps: Maps) -> tuple[Maps, Tensor]:
        """Return the maps at a quarter of the resolution, and the same in float32."""
        for number, scale in ((1, 1), (2, 2)):
            maps = self._filled(*self._convolved(f"conv{number}", f"in{number}", maps, scale), 1)
        sums, norm = self._convolved("conv3", "in3", maps, 4)
        trunk = self.tiled.lent("trunk", torch.float32, *sums.shape)
        return self._filled(sums, norm, 1, kept=trunk), trunk

    def _blocks(self, maps: Maps, trunk: Tensor) -> Maps:
        for number in range(1, BLOCKS + 1):
            name = f"res{number}"
            maps = self._filled(*self._convolved(f"{name}.conv1", f"{name}.in1", maps, 4), 1)
            edges = "repeat" if number == BLOCKS else "reflect"  # for the doubling that follows
            found = self._convolved(f"{name}.conv2", f"{name}.in2", maps, 4)
            maps = self._filled(*found, 1, kept=trunk, add=True, rectify=False, edges=edges)
        return maps

    def _convolved(self, name: str, norm: str, maps: Maps, scale: int) -> tuple[Tensor, Norm]:
        """Return a layer's sums for the picture's size over `scale`, and what their norm makes of them."""
        weights = self.tiled.weights[name]
        height, width = (side // scale for side in self.size)
        sums = self.tiled.lent("sums", torch.float32, height, width, weights.outputs)
        # a bias would be lost in the norm
        return sums, convolved(maps, weights, sums, None, self.tiled.norms[norm], EPS, self.program)

    def _filled(self, sums: Tensor, norm: Norm, edge: int, **options: Any) -> Maps:
        height, width, channels = sums.shape
        numbers = Maps.numbers(height + 2 * edge, width + 2 * edge, channels)
        planes = self.tiled.lent("planes", torch.bfloat16, 2 if self.tiled.split else 1, numbers)
        return filled(planes, sums, norm, edge, program=self.program, **options)


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
