"""The style network: pictures in, painted pictures out, in one pass.

    conv 9×9 → conv 3×3 ↓2 → conv 3×3 ↓2 → 5 residual blocks → [×2, conv 3×3] → [×2, conv 3×3] → conv 9×9
    norm(x) = γ · (x − mean(x)) / √(var(x) + ε) + β    over the positions of each image and channel

Johnson, Alahi, Li, Perceptual Losses for Real-Time Style Transfer, ECCV 2016 (arXiv:1603.08155), with instance
normalization (Ulyanov et al. 2016, arXiv:1607.08022), resize-convolution (Odena, Dumoulin, Olah, Deconvolution and
Checkerboard Artifacts, 2016) and, for several styles, a γ and β for each, mixed by shares (Dumoulin et al. 2017,
arXiv:1610.07629).
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...errors import UsageError
from ..checkpoint import load_state, read_state

LEAST = 16
"""Pixels of a picture's shorter side, at least: the reflection at 1/4 of it needs more than one position."""
EPS = 1e-5
BLOCKS = 5


class Convolution(nn.Module):
    """Convolution with reflected edges; the size is the input's over `stride`, after doubling it where `double`."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, double: bool = False) -> None:
        super().__init__()
        self.doubles = double
        self.reach = kernel // 2
        self.conv2d = nn.Conv2d(inputs, outputs, kernel, stride)

    def forward(self, maps: Tensor) -> Tensor:
        """Return maps `(N, outputs, h, w)` of maps `(N, inputs, H, W)`."""
        if self.doubles:
            maps = F.interpolate(maps, scale_factor=2.0, mode="nearest")
        convolved: Tensor = self.conv2d(F.pad(maps, (self.reach,) * 4, mode="reflect"))
        return convolved


class Norm(nn.Module):
    """Conditional instance normalization: a scale and a shift per style and channel, `(S, C)`, mixed by shares."""

    def __init__(self, channels: int, styles: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(styles, channels))
        self.bias = nn.Parameter(torch.zeros(styles, channels))

    def forward(self, maps: Tensor, shares: Tensor) -> Tensor:
        """Return maps `(N, C, h, w)` normalized, for shares `(N or 1, S)`."""
        scale, shift = (torch.matmul(shares, one)[:, :, None, None] for one in (self.weight, self.bias))
        return F.instance_norm(maps, eps=EPS) * scale + shift


class Block(nn.Module):
    """Residual block of two convolutions of 3 × 3."""

    def __init__(self, channels: int, styles: int) -> None:
        super().__init__()
        self.conv1, self.in1 = Convolution(channels, channels, 3), Norm(channels, styles)
        self.conv2, self.in2 = Convolution(channels, channels, 3), Norm(channels, styles)

    def forward(self, maps: Tensor, shares: Tensor) -> Tensor:
        """Return maps of the same shape."""
        inner = F.relu(self.in1(self.conv1(maps), shares))
        normed: Tensor = self.in2(self.conv2(inner), shares)
        return normed + maps


class StyleNet(nn.Module):
    """Images `(N, 3, H, W)` sRGB in [0, 1], H and W ≥ 16, to images of the same shape, painted in one of its styles.

    `width` is the number of filters of the first convolution, 32 in the paper; `styles` names what it can paint.
    `about` is what its file says besides: recipe, figures. Modules are named as in the checkpoints of pytorch/examples.
    """

    def __init__(self, width: int = 32, styles: Sequence[str] = ("style",), about: Mapping[str, Any] = {}) -> None:
        super().__init__()
        if width < 1 or not styles or len(set(styles)) < len(styles):
            raise UsageError(f"expected a width of 1 or above and different names of styles, got {width} and {styles}")
        self.width, self.styles, self.about = width, tuple(styles), dict(about)
        inner, outer, count = 2 * width, 4 * width, len(styles)
        self.conv1, self.in1 = Convolution(3, width, 9), Norm(width, count)
        self.conv2, self.in2 = Convolution(width, inner, 3, stride=2), Norm(inner, count)
        self.conv3, self.in3 = Convolution(inner, outer, 3, stride=2), Norm(outer, count)
        for number in range(1, BLOCKS + 1):
            self.add_module(f"res{number}", Block(outer, count))
        self.deconv1, self.in4 = Convolution(outer, inner, 3, double=True), Norm(inner, count)
        self.deconv2, self.in5 = Convolution(inner, width, 3, double=True), Norm(width, count)
        self.deconv3 = Convolution(width, 3, 9)

    @property
    def blocks(self) -> list[Block]:
        """The residual blocks, in order."""
        return [getattr(self, f"res{number}") for number in range(1, BLOCKS + 1)]

    def forward(self, images: Tensor, shares: Tensor | None = None, strength: Tensor | None = None) -> Tensor:
        """Return images painted; `shares` `(N or 1, S)` of the styles add up to 1, `strength` `(N or 1,)` is in [0, 1].

        By default the styles have equal shares, and the strength is 1; at 0 the image stays as it is.
        """
        if shares is None:
            shares = images.new_full((1, len(self.styles)), 1 / len(self.styles))
        painted = cropped(self.painted(padded(images), shares), images).clamp(0, 1)
        if strength is None:
            return painted
        return torch.lerp(images, painted, strength[:, None, None, None])

    def painted(self, images: Tensor, shares: Tensor) -> Tensor:
        """Return what the network gives for images whose sides are multiples of 4; values may lie beyond [0, 1]."""
        maps = F.relu(self.in1(self.conv1(images * 255), shares))  # the published weights are for levels up to 255
        maps = F.relu(self.in2(self.conv2(maps), shares))
        maps = F.relu(self.in3(self.conv3(maps), shares))
        for block in self.blocks:
            maps = block(maps, shares)
        maps = F.relu(self.in4(self.deconv1(maps), shares))
        maps = F.relu(self.in5(self.deconv2(maps), shares))
        levels: Tensor = self.deconv3(maps)
        return levels / 255


def padded(images: Tensor) -> Tensor:
    """Reflect images `(N, C, H, W)` at their right and lower edges to sides that are multiples of 4."""
    down, right = (-side % 4 for side in images.shape[2:])
    return F.pad(images, (0, right, 0, down), mode="reflect") if down or right else images


def cropped(images: Tensor, like: Tensor) -> Tensor:
    """Undo `padded` of images `like`."""
    return images[:, :, : like.shape[2], : like.shape[3]]


def save_style_net(net: StyleNet, path: Path) -> None:
    """Write a network with its styles' names and `about` to a safetensors file."""
    from safetensors.torch import save_file

    about = {"styles": list(net.styles), "about": net.about}
    state = {name: value.detach().cpu().contiguous() for name, value in net.state_dict().items()}
    save_file(state, path, metadata={"afterimage.style_net": json.dumps(about)})


def load_style_net(path: Path) -> StyleNet:
    """Return the network in a safetensors or torch file, ours or a checkpoint of pytorch/examples, in eval mode.

    A file that does not name its styles has "style", or "1", "2", … Raises UsageError for what is no style network.
    """
    state = {
        name: value[None] if _normalizes(name) and value.ndim == 1 else value
        for name, value in read_state(path).items()
        if not name.endswith(("running_mean", "running_var", "num_batches_tracked"))  # of torch 0.3, never used
    }
    first, norm = state.get("conv1.conv2d.weight"), state.get("in1.weight")
    if first is None or norm is None or first.ndim != 4 or norm.ndim != 2 or not len(norm):
        raise UsageError(f"{path} is no style network: expected 'conv1.conv2d.weight' and 'in1.weight' among its names")
    named = _about(path)
    styles = named.get("styles") or (["style"] if len(norm) == 1 else [str(one + 1) for one in range(len(norm))])
    net = StyleNet(len(first), styles, named.get("about", {}))
    load_state(net, state, path, f"a style network of width {net.width}")
    return net.eval()


def _normalizes(name: str) -> bool:
    return name.rsplit(".", 2)[-2].startswith("in") if name.count(".") else False


def _about(path: Path) -> dict[str, Any]:
    """Return what our files say of themselves; nothing for others."""
    if path.suffix != ".safetensors":
        return {}
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        told = (file.metadata() or {}).get("afterimage.style_net")
    return {} if told is None else dict(json.loads(told))
