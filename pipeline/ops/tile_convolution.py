"""Convolutions with instance norms on a processor's matrix tiles (AMX), one image's maps at a time, channels last.

    sums = Σ w · maps        maps' = max(0, γ · (sums − mean) / √(var + ε) + β [+ kept])

Tiles multiply bfloat16 and add float32. Maps and weights are rounded to bfloat16, or are the sum of two of them,
high + low, of which low · low is left out: sums then differ from float32's by 2⁻¹⁶ of their terms. A tile's rows are
16 neighboring pixels as they lie in memory, so that no window is ever copied.
"""

from dataclasses import dataclass
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor

from . import kernels

PIXELS, GROUP, STEP = 32, 16, 32
"""Of a block; outputs of a tile; numbers of a row of it."""
FARTHEST = 4
"""Pixels from one window to the next, at most."""


def has_tiles() -> bool:
    """Return whether this processor has matrix tiles, and the kernels are built and wanted."""
    module = kernels.module("cpu")
    return module is not None and module.isa() == "amx"


@dataclass(frozen=True)
class Maps:
    """One image's maps: `planes` (1 or 2, numbers) hold `(height + 2 edge, width + 2 edge, channels)`, high and low."""

    planes: Tensor
    height: int
    width: int
    channels: int
    edge: int

    @staticmethod
    def numbers(height: int, width: int, channels: int, edge: int) -> int:
        """Return the numbers of a plane, with those behind the last row that tiles reach."""
        return (height + 2 * edge) * (width + 2 * edge) * channels + FARTHEST * PIXELS * channels + STEP


@dataclass(frozen=True)
class Weights:
    """A convolution's weights as tiles: `windows` rows of `steps` tiles for each of `phases`² and group of outputs."""

    tiles: Tensor
    outputs: int
    windows: int
    steps: int
    phases: int
    stride: tuple[int, int]


@dataclass(frozen=True)
class Norm:
    """What an instance norm multiplies by and adds, `(C,)` each, after the sums that it is of are known."""

    scale: Tensor
    shift: Tensor


def packed(weight: Tensor, split: bool, stride: tuple[int, int] = (1, 1)) -> Weights:
    """Return weights (O, C, kh, kw) or, for 2 × 2 pixels of each window, (2, 2, O, C, kh, kw) as tiles."""
    phases = 1 if weight.ndim == 4 else 2
    outputs, channels, rows, columns = weight.shape[-4:]
    run = weight.float().reshape(-1, outputs, channels, rows, columns).permute(0, 3, 4, 2, 1).flatten(2, 3)
    steps, groups = -(-columns * channels // STEP), -(-outputs // GROUP)
    run = F.pad(run, (0, GROUP * groups - outputs, 0, STEP * steps - columns * channels))
    tiled = run.view(-1, rows, steps, STEP // 2, 2, groups, GROUP).permute(0, 5, 1, 2, 3, 6, 4)
    high = tiled.bfloat16()
    parts = [high, (tiled - high.float()).bfloat16()] if split else [high]
    return Weights(torch.stack(parts).contiguous(), outputs, rows, steps, phases, stride)


def convolved(
    maps: Maps,
    weights: Weights,
    sums: Tensor,
    norm_weight: Tensor | None = None,
    norm_bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Norm:
    """Write the sums `(height, width, outputs)`, float32, without a bias; return what their norm makes of them.

    `norm_weight` and `norm_bias` `(outputs,)` are that instance norm's; without them it is empty.
    """
    height, width, outputs = sums.shape
    norm = Norm(torch.empty(0), torch.empty(0))
    if norm_weight is not None:
        norm = Norm(torch.empty(outputs), torch.empty(outputs))
    addresses = (*_planes(maps.planes), weights.tiles.data_ptr(), sums.data_ptr())
    given = (norm_weight, norm_bias, norm.scale, norm.shift)
    _module().tile_convolution(
        *addresses,
        *(0 if one is None else one.data_ptr() for one in given),
        eps,
        maps.channels,
        (maps.width + 2 * maps.edge) * maps.channels,
        weights.windows,
        weights.steps,
        *weights.stride,
        weights.phases,
        height // weights.phases,
        width // weights.phases,
        outputs,
        kernels.threads(),
    )
    return norm


def filled(
    planes: Tensor,
    sums: Tensor,
    norm: Norm,
    edge: int,
    *,
    rectify: bool = True,
    repeat: bool = False,
    kept: Tensor | None = None,
    add: bool = False,
) -> Maps:
    """Return maps in `planes`, of sums `(height, width, channels)` normed: reflected at the edges, or repeated.

    `kept`, float32 of the shape of the sums, is added to them if `add`, and holds the result afterwards.
    """
    height, width, channels = sums.shape
    maps = Maps(planes, height, width, channels, edge)
    end = (height + 2 * edge) * (width + 2 * edge) * channels
    planes[:, end : Maps.numbers(height, width, channels, edge)] = 0
    _module().tile_maps(
        sums.data_ptr(),
        norm.scale.data_ptr(),
        norm.shift.data_ptr(),
        0 if kept is None else kept.data_ptr(),
        *_planes(planes),
        height,
        width,
        channels,
        edge,
        repeat,
        rectify,
        add,
        kernels.threads(),
    )
    return maps


def _planes(planes: Tensor) -> tuple[int, int]:
    return planes[0].data_ptr(), planes[1].data_ptr() if len(planes) == 2 else 0


def _module() -> ModuleType:
    module = kernels.module("cpu")
    assert module is not None, "asked for where there are no tiles: see has_tiles"
    return module
