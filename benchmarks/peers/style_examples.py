"""The style network of pytorch/examples (fast_neural_style/transformer_net.py) from torch's own modules.

`exported` is the ONNX file that its users make of it: torch.onnx.export as it comes, sizes and batch left open.
"""

from pathlib import Path

import torch
from torch import Tensor, nn


class Layer(nn.Module):
    """Doubling if asked for, reflection, convolution."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, double: bool = False) -> None:
        super().__init__()
        self.double = double
        self.reflection_pad = nn.ReflectionPad2d(kernel // 2)
        self.conv2d = nn.Conv2d(inputs, outputs, kernel, stride)

    def forward(self, maps: Tensor) -> Tensor:
        if self.double:
            maps = nn.functional.interpolate(maps, mode="nearest", scale_factor=2)
        convolved: Tensor = self.conv2d(self.reflection_pad(maps))
        return convolved


class Block(nn.Module):
    """Two convolutions and what goes past them."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1, self.in1 = Layer(channels, channels, 3), nn.InstanceNorm2d(channels, affine=True)
        self.conv2, self.in2 = Layer(channels, channels, 3), nn.InstanceNorm2d(channels, affine=True)

    def forward(self, maps: Tensor) -> Tensor:
        inner = torch.relu(self.in1(self.conv1(maps)))
        normed: Tensor = self.in2(self.conv2(inner))
        return normed + maps


class TransformerNet(nn.Module):
    """Levels `(N, 3, H, W)` up to 255 to levels; H and W are multiples of 4, `width` is 32 there."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        inner, outer = 2 * width, 4 * width
        self.conv1, self.in1 = Layer(3, width, 9), nn.InstanceNorm2d(width, affine=True)
        self.conv2, self.in2 = Layer(width, inner, 3, 2), nn.InstanceNorm2d(inner, affine=True)
        self.conv3, self.in3 = Layer(inner, outer, 3, 2), nn.InstanceNorm2d(outer, affine=True)
        self.res1, self.res2, self.res3, self.res4, self.res5 = (Block(outer) for _ in range(5))
        self.deconv1, self.in4 = Layer(outer, inner, 3, double=True), nn.InstanceNorm2d(inner, affine=True)
        self.deconv2, self.in5 = Layer(inner, width, 3, double=True), nn.InstanceNorm2d(width, affine=True)
        self.deconv3 = Layer(width, 3, 9)

    def forward(self, levels: Tensor) -> Tensor:
        maps = torch.relu(self.in1(self.conv1(levels)))
        maps = torch.relu(self.in2(self.conv2(maps)))
        maps = torch.relu(self.in3(self.conv3(maps)))
        for block in (self.res1, self.res2, self.res3, self.res4, self.res5):
            maps = block(maps)
        maps = torch.relu(self.in4(self.deconv1(maps)))
        maps = torch.relu(self.in5(self.deconv2(maps)))
        levels = self.deconv3(maps)
        return levels


def lively(width: int) -> TransformerNet:
    """Return a network with fixed random weights: norms that differ, and levels that mostly lie within 0 to 255."""
    torch.manual_seed(0)
    net = TransformerNet(width)
    with torch.no_grad():
        for name, value in net.named_parameters():
            if ".in" in f".{name}":
                value.normal_(1.0 if name.endswith("weight") else 0.0, 0.3)
        given = 255 * torch.rand(1, 3, 8, 8).repeat_interleave(16, 2).repeat_interleave(16, 3)
        spread = net(given).std((0, 2, 3))
        net.deconv3.conv2d.weight *= (50 / spread)[:, None, None, None]
        net.deconv3.conv2d.bias.zero_()
        net.deconv3.conv2d.bias.copy_(128 - net(given).mean((0, 2, 3)))
    return net.eval()


def exported(net: TransformerNet, file: Path) -> None:
    """Write a network as an ONNX file of levels in and out."""
    images = torch.export.Dim("images")
    rows, columns = (4 * torch.export.Dim(name, min=4, max=8192) for name in ("rows", "columns"))
    torch.onnx.export(
        net, (torch.zeros(2, 3, 64, 96),), str(file), input_names=["levels"], output_names=["painted"],
        dynamic_shapes={"levels": {0: images, 2: rows, 3: columns}}, external_data=False, verbose=False,
    )  # fmt: skip
