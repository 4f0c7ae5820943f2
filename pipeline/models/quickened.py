"""Frozen 3 × 3 convolutions by cheaper means than the network's own, float32 on a CPU, with gradients by the maps.

On matrix tiles (AMX), where factors are sums of two bfloat16 numbers (`ops.tile_convolution`), elsewhere by Winograd's
filtering (`winograd`). Errors are 1e-5 to 2e-5 of the largest output. The gradient by the maps is the same convolution
with the weights turned and transposed.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from ..ops import tile_convolution
from ..ops.tile_convolution import has_tiles, packed, packed_bytes
from . import winograd

CHANNELS, POSITIONS = 64, 1025
"""Of fewer channels, or over fewer positions, tiles gain nothing, or less than Winograd's filtering."""
PAYS = 4
"""Steps of an optimization for which it pays to make weights ready."""


@contextmanager
def quickened(model: nn.Module) -> Iterator[None]:
    """Compute a frozen model's convolutions by cheaper means where they gain by it; afterwards as before."""
    modules = [module for module in model.modules() if _gains(module)]
    changed = [one for one in modules if "forward" not in vars(one) and not _learns(one)]
    try:
        for module in changed:
            module.forward = _Quick(module)  # type: ignore[method-assign,assignment]
        yield
    finally:
        for module in changed:
            del module.forward


def workspace(model: nn.Module) -> int:
    """Return the bytes of weights as they are computed with, forth and back."""
    found = [module.weight for module in model.modules() if _gains(module)]
    filtered = [2 * 36 // 9 * one.nbytes if min(one.shape[:2]) >= winograd.CHANNELS else 0 for one in found]
    tiled = [packed_bytes(one) + packed_bytes(one.transpose(0, 1)) if has_tiles() else 0 for one in found]
    return sum(filtered) + sum(tiled)  # both, for pictures of several sizes


def quickens(model: nn.Module, image: Tensor) -> bool:
    """Return whether any convolution is computed otherwise for images like `(1, 3, H, W)`, without computing."""
    modules, seen = [module for module in model.modules() if _gains(module)], [False]
    if not modules or image.dtype != torch.float32:
        return bool(modules)
    handles = [
        one.register_forward_pre_hook(lambda module, given: seen.append(_means(module, given[0]) is not None))
        for one in modules
    ]
    try:
        with FakeTensorMode(allow_non_fake_inputs=True) as mode, torch.no_grad():
            model(mode.from_tensor(image.detach()))
    finally:
        for handle in handles:
            handle.remove()
    return any(seen)


def _gains(module: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Return whether a module is a plain 3 × 3 convolution in float32, of enough channels."""
    if type(module) is not nn.Conv2d:
        return False
    plain = (module.kernel_size, module.stride, module.dilation, module.groups, module.padding, module.padding_mode)
    if plain != ((3, 3), (1, 1), (1, 1), 1, (1, 1), "zeros"):
        return False
    many = min(module.in_channels, module.out_channels) >= (CHANNELS if has_tiles() else winograd.CHANNELS)
    plain_ones = all(type(one) is nn.Parameter and one.dtype == torch.float32 for one in module.parameters())
    return many and plain_ones and all(map(_on_cpu, module.parameters()))


def _learns(module: nn.Conv2d) -> bool:
    return any(one.requires_grad for one in module.parameters())


def _means(module: nn.Conv2d, maps: Tensor) -> ModuleType | None:
    """Return what convolves maps of that size the fastest; None for the module itself."""
    positions, channels = maps.shape[2:].numel(), min(module.in_channels, module.out_channels)
    if has_tiles() and positions >= POSITIONS and channels >= CHANNELS:
        return tile_convolution
    return winograd if positions >= winograd.POSITIONS and channels >= winograd.CHANNELS else None


def _on_cpu(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu" and tensor.layout == torch.strided


class _Quick:
    """The forward pass of one convolution; weights are made ready when they are needed first."""

    def __init__(self, module: nn.Conv2d) -> None:
        self.module = module
        self.weights: dict[tuple[ModuleType, bool], Any] = {}

    def __call__(self, maps: Tensor) -> Tensor:
        means = _means(self.module, maps) if self._fits(maps) and not torch.is_autocast_enabled("cpu") else None
        if means is None:
            return F.conv2d(maps, self.module.weight, self.module.bias, padding=1)
        return _Convolution.apply(maps, self, means)  # type: ignore[no-any-return]

    def _fits(self, maps: Tensor) -> bool:
        plain = type(maps) is Tensor and maps.dtype == torch.float32 and _on_cpu(maps) and maps.ndim == 4
        return plain and maps.shape[1] == self.module.in_channels

    def convolved(self, maps: Tensor, means: ModuleType, back: bool) -> Tensor:
        """Return the convolution of maps, or the gradient by them of that whose gradient is given."""
        if (means, back) not in self.weights:
            weight = self.module.weight.detach()
            weight = weight.flip(2, 3).transpose(0, 1) if back else weight
            made = packed(weight, split=True) if means is tile_convolution else winograd.transformed(weight)
            self.weights[means, back] = made
        bias = None if back or self.module.bias is None else self.module.bias.detach().contiguous()
        convolved: Tensor = means.convolve(maps, self.weights[means, back], bias)
        return convolved


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, maps: Tensor, quick: _Quick, means: ModuleType) -> Tensor:
        ctx.quick, ctx.means = quick, means
        return quick.convolved(maps, means, back=False)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        return ctx.quick.convolved(grad, ctx.means, back=True), None, None
