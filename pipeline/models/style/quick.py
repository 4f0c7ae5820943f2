"""The style network's convolutions in torch by cheaper means, as `graph.py` has them for ONNX.

Doubling and convolving is one transposed convolution; the last convolution gives 2 × 4 pixels of 3 colors at once,
since few outputs leave most of a processor's lanes empty; blocks of many channels take Winograd's filtering. Results
differ from the network's by roundings.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..winograd import CHANNELS, POSITIONS, convolve, transformed
from .graph import BLOCK, DOUBLED
from .net import Convolution, Norm, StyleNet


class Quick:
    """A network's weights as they are computed with, in channels last, on one device.

    Every call takes maps `(1, C, h, w)` with their edges already added, and adds none.
    """

    def __init__(self, net: StyleNet, device: str | torch.device = "cpu") -> None:
        self.net = net
        self.weights: dict[str, Tensor] = {}
        self.biases: dict[str, Tensor] = {}
        self.strides: dict[str, int] = {}
        self.norms: dict[str, tuple[Tensor, Tensor]] = {}
        for name, module in net.named_modules():
            if isinstance(module, Norm):
                self.norms[name] = (module.weight.detach().to(device), module.bias.detach().to(device))
            elif isinstance(module, Convolution):
                weight, bias = (module.conv2d.get_parameter(one).detach().to(device) for one in ("weight", "bias"))
                if module.doubles:
                    weight = doubled_weights(weight)
                elif name == "deconv3":
                    weight, bias = block_weights(weight), bias.repeat_interleave(BLOCK[0] * BLOCK[1])
                self.weights[name] = weight.contiguous(memory_format=torch.channels_last)
                self.biases[name], self.strides[name] = bias, module.conv2d.stride[0]
        self.like = self.biases["conv1"]
        fits = self.like.device.type == "cpu" and self.like.dtype == torch.float32 and 4 * net.width >= CHANNELS
        of_blocks = [name for name in self.weights if name.startswith("res") and fits]
        self.transformed = {name: transformed(self.weights[name]) for name in of_blocks}

    def convolved(self, name: str, maps: Tensor) -> Tensor:
        """Return a layer's convolution of maps."""
        if name in self.transformed and maps.shape[2:].numel() >= POSITIONS and not torch.is_autocast_enabled("cpu"):
            return convolve(maps, self.transformed[name], self.biases[name], edge=0)
        return F.conv2d(maps, self.weights[name], self.biases[name], self.strides[name]).to(self.like.dtype)

    def doubled(self, name: str, maps: Tensor) -> Tensor:
        """Return a layer's convolution of maps with an edge of 1, doubled without it: `(1, O, 2h − 4, 2w − 4)`."""
        return F.conv_transpose2d(maps, self.weights[name], self.biases[name], 2, 3).to(self.like.dtype)

    def last(self, maps: Tensor) -> Tensor:
        """Return the colors `(1, 3, h − 8, w − 8)`, of sides that are multiples of 2 and 4."""
        blocks = F.conv2d(maps, self.weights["deconv3"], self.biases["deconv3"], BLOCK).to(self.like.dtype)
        height, width = blocks.shape[2:]
        laid = blocks.reshape(3, *BLOCK, height, width).permute(0, 3, 1, 4, 2)
        return laid.reshape(1, 3, BLOCK[0] * height, BLOCK[1] * width)

    def norm(self, name: str, shares: Tensor) -> tuple[Tensor, Tensor]:
        """Return scale and shift `(C,)` of a norm for shares `(S,)`."""
        scale, shift = self.norms[name]
        # no product of matrices, which autocast would round
        return (shares[:, None] * scale).sum(0), (shares[:, None] * shift).sum(0)


def doubled_weights(weight: Tensor) -> Tensor:
    """Return weights (C, O, 4, 4) of the transposed convolution for those (O, C, 3, 3) after doubling."""
    fold = torch.as_tensor(DOUBLED).to(weight)
    return torch.einsum("ik,ockl,jl->coij", fold, weight, fold)


def block_weights(weight: Tensor) -> Tensor:
    """Return weights (O · 8, C, 10, 12) that give the pixels of a block of 2 × 4 from its top left corner."""
    rows, columns = BLOCK
    places = [F.pad(weight, (x, columns - 1 - x, y, rows - 1 - y)) for y in range(rows) for x in range(columns)]
    return torch.stack(places, 1).flatten(0, 1)
