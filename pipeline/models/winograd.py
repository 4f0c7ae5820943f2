"""Convolutions of frozen 3 × 3 weights by Winograd's minimal filtering, F(4 × 4, 3 × 3): a quarter of the products.

    y = Aᵀ [ Σ_c (G w Gᵀ) ⊙ (Bᵀ x B) ] A        for each 4 × 4 tile of y and the 6 × 6 of x below it

The sum over channels is 36 products of matrices. The gradient by x is the same with the weights turned and transposed.
Errors are some ten roundings of float32 instead of three: 1e-5 of the largest output.

Lavin, Gray, Fast algorithms for convolutional neural networks, CVPR 2016 (arXiv:1509.09308), section 4.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeGuard

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

CHANNELS, POSITIONS = 128, 400
"""Of fewer channels, or over fewer positions, transforming takes longer than the products save."""
BLOCK = 2**22
"""How many transformed numbers are worked on at a time: they stay in the cache."""

_INPUT = ((4, 0, -5, 0, 1, 0), (0, -4, -4, 1, 1, 0), (0, 4, -4, -1, 1, 0), (0, -2, -1, 2, 1, 0), (0, 2, -1, -2, 1, 0),
          (0, 4, 0, -5, 0, 1))  # fmt: skip
_WEIGHT = ((6, 0, 0), (-4, -4, -4), (-4, 4, -4), (1, 2, 4), (1, -2, 4), (0, 0, 24))
"""24 G."""
_OUTPUT = ((1, 1, 1, 1, 1, 0), (0, 1, -1, 2, -2, 0), (0, 1, 1, 4, 4, 0), (0, 1, -1, 8, -8, 1))


@contextmanager
def winograd(model: nn.Module) -> Iterator[None]:
    """Compute a frozen model's convolutions this way where they gain by it, float32 on a CPU; afterwards as before."""
    modules = [module for module in model.modules() if _gains(module)]
    changed = [one for one in modules if "forward" not in vars(one) and not one.weight.requires_grad]
    try:
        for module in changed:
            module.forward = _Quick(module)  # type: ignore[method-assign,assignment]
        yield
    finally:
        for module in changed:
            del module.forward


def workspace(model: nn.Module) -> int:
    """Return the bytes of transformed weights, forth and back."""
    return sum(2 * 36 // 9 * module.weight.nbytes for module in model.modules() if _gains(module))


def quickens(model: nn.Module, image: Tensor) -> bool:
    """Return whether any convolution is computed this way for images like `image` `(1, 3, H, W)`, without computing."""
    modules, positions = [module for module in model.modules() if _gains(module)], [0]
    if not modules or image.dtype != torch.float32:
        return bool(modules)
    handles = [
        one.register_forward_pre_hook(lambda _, given: positions.append(given[0].shape[2:].numel())) for one in modules
    ]
    try:
        with FakeTensorMode(allow_non_fake_inputs=True) as mode, torch.no_grad():
            model(mode.from_tensor(image.detach()))
    finally:
        for handle in handles:
            handle.remove()
    return max(positions) >= POSITIONS


def _gains(module: nn.Module) -> TypeGuard[nn.Conv2d]:
    """Return whether a module is a plain 3 × 3 convolution of many channels, in float32."""
    if type(module) is not nn.Conv2d:
        return False
    plain = (module.kernel_size, module.stride, module.dilation, module.groups, module.padding, module.padding_mode)
    if plain != ((3, 3), (1, 1), (1, 1), 1, (1, 1), "zeros"):
        return False
    many = min(module.in_channels, module.out_channels) >= CHANNELS
    return (
        many and type(module.weight) is nn.Parameter and module.weight.dtype == torch.float32 and _on_cpu(module.weight)
    )


def _on_cpu(tensor: Tensor) -> bool:
    return tensor.device.type == "cpu" and tensor.layout == torch.strided


class _Quick:
    """The forward pass of one convolution; weights are transformed when they are needed first."""

    def __init__(self, module: nn.Conv2d) -> None:
        self.module = module
        self.weights: dict[bool, Tensor] = {}

    def __call__(self, maps: Tensor) -> Tensor:
        if not self._fits(maps) or torch.is_autocast_enabled("cpu"):
            return F.conv2d(maps, self.module.weight, self.module.bias, padding=1)
        return _Convolution.apply(maps, self)  # type: ignore[no-any-return]

    def _fits(self, maps: Tensor) -> bool:
        plain = type(maps) is Tensor and maps.dtype == torch.float32 and _on_cpu(maps) and maps.ndim == 4
        return plain and maps.shape[1] == self.module.in_channels and maps.shape[2:].numel() >= POSITIONS

    def convolved(self, maps: Tensor, back: bool) -> Tensor:
        """Return the convolution of maps, or the gradient by them of that whose gradient is given."""
        if back not in self.weights:
            weight = self.module.weight.detach()
            self.weights[back] = transformed(weight.flip(2, 3).transpose(0, 1) if back else weight)
        return convolve(maps, self.weights[back], None if back else self.module.bias)


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, maps: Tensor, quick: _Quick) -> Tensor:
        ctx.quick = quick
        return quick.convolved(maps, back=False)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.quick.convolved(grad, back=True), None


def transformed(weight: Tensor) -> Tensor:
    """Return G w Gᵀ of weights (O, C, 3, 3): (36, C, O)."""
    flat = weight.permute(2, 3, 1, 0).reshape(9, -1)
    return (_both_ways(_WEIGHT) / 24**2 @ flat).view(36, weight.shape[1], weight.shape[0])


def _both_ways(matrix: tuple[tuple[int, ...], ...]) -> Tensor:
    """Return the matrix that transforms flattened tiles by rows and by columns."""
    one = torch.tensor(matrix, dtype=torch.float32)
    return torch.kron(one, one)


def convolve(maps: Tensor, weights: Tensor, bias: Tensor | None = None, edge: int = 1) -> Tensor:
    """Return the convolution of maps (N, C, H, W) by transformed weights (36, C, O), in channels last.

    `edge` is how many zeros are put around the maps: 1, or 0 for maps that have their edges and get smaller by them.
    Each image on its own: it does not depend on its batch.
    """
    images, channels, height, width = maps.shape
    height, width = height + 2 * edge - 2, width + 2 * edge - 2
    down, across, outputs = -(-height // 4), -(-width // 4), weights.shape[2]
    edges = (0, 0, edge, 4 * across - width + edge, edge, 4 * down - height + edge)
    padded = F.pad(maps.movedim(1, 3), edges).contiguous()
    into, out_of = _both_ways(_INPUT), _both_ways(_OUTPUT)
    made = torch.empty((images, outputs, 4 * down, 4 * across), memory_format=torch.channels_last)
    parts = made.movedim(1, 3).view(images, down, 4, across, 4, outputs)
    step = max(1, BLOCK // (36 * across * max(channels, outputs)))
    for image, result in zip(padded, parts, strict=True):
        for top in range(0, down, step):
            count = min(step, down - top)
            tiles = (into @ _tiles(image[4 * top :], count, across)).view(36, count * across, channels)
            values = (out_of @ torch.bmm(tiles, weights).view(36, -1)).view(4, 4, count, across, outputs)
            result[top : top + count] = values.permute(2, 0, 3, 1, 4)
    if bias is not None:
        parts += bias
    # a view could not be overwritten by what follows, such as a ReLU in place
    return made if made.shape[2:] == (height, width) else made[:, :, :height, :width].clone()


def _tiles(rows: Tensor, down: int, across: int) -> Tensor:
    """Return the overlapping 6 × 6 tiles of rows (H, W, C): (36, down · across · C)."""
    y, x, c = rows.stride()
    view = rows.as_strided((6, 6, down, across, rows.shape[2]), (y, x, 4 * y, 4 * x, c))
    return view.reshape(36, -1)
