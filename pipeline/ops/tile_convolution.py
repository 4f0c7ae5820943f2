"""Convolutions on a processor's matrix tiles (AMX), one image's maps at a time, channels last, and norms between them.

    sums = Σ w · maps + b        maps' = max(0, γ · (sums − mean) / √(var + ε) + β [+ kept])

Tiles multiply bfloat16 and add float32. Maps and weights are rounded to bfloat16, or are the sum of two of them,
high + low, of which low · low is left out: sums then differ from float32's by 3 · 2⁻¹⁶ of their terms at most. A
tile's rows are 16 neighboring pixels as they lie in memory, so that no window is ever copied.
"""

from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from . import kernels

Edges = Literal["reflect", "repeat", "zero"]
PIXELS, GROUP, STEP = 32, 16, 32
"""Of a block; outputs of a tile; numbers of a row of it."""
FARTHEST = 4
"""Pixels from one window to the next, at most."""
BAND = 2**24
"""Bytes of maps that are made at a time for one convolution: they are still in the cache when it reads them."""
LEAST_ROWS = 16
"""Of those: two more are made for each such band."""


def has_tiles() -> bool:
    """Return whether this processor has matrix tiles, and the kernels are built and wanted."""
    found = kernels.module("cpu")
    return found is not None and found.isa() == "amx"


@dataclass(frozen=True)
class Maps:
    """One image's maps: `planes` (1 or 2, numbers) hold (rows, columns, channels) with their edges, high and low."""

    planes: Tensor
    rows: int
    columns: int
    channels: int

    @staticmethod
    def numbers(rows: int, columns: int, channels: int) -> int:
        """Return the numbers of a plane, with those behind the last row that tiles reach."""
        return rows * columns * channels + FARTHEST * PIXELS * channels + STEP


@dataclass(frozen=True)
class Weights:
    """A convolution's weights as tiles: `windows` rows of `steps` tiles for each of `phases`² and group of outputs."""

    tiles: Tensor
    outputs: int
    windows: int
    steps: int
    phases: int
    stride: tuple[int, int]


class Program:
    """Calls of `convolved` and `filled`, recorded with their tensors, to be made one after the other.

    Between them is no Python, so that threads that wait do not fall asleep.
    """

    def __init__(self) -> None:
        self.kernels = module().Program()
        self.held: list[Any] = []

    def run(self) -> None:
        """Make the calls."""
        self.kernels.run()


@dataclass(frozen=True)
class Norm:
    """What a norm multiplies by and adds, `(C,)` each."""

    scale: Tensor
    shift: Tensor


def packed(weight: Tensor, split: bool, stride: tuple[int, int] = (1, 1)) -> Weights:
    """Return weights (O, C, kh, kw) or, for 2 × 2 pixels of each window, (2, 2, O, C, kh, kw) as tiles."""
    assert max(stride) <= FARTHEST, "more pixels would have to lie behind the maps"
    phases = 1 if weight.ndim == 4 else 2
    outputs, channels, rows, columns = weight.shape[-4:]
    run = weight.float().reshape(-1, outputs, channels, rows, columns).permute(0, 3, 4, 2, 1).flatten(2, 3)
    steps, groups = -(-columns * channels // STEP), -(-outputs // GROUP)
    run = F.pad(run, (0, GROUP * groups - outputs, 0, STEP * steps - columns * channels))
    tiled = run.view(-1, rows, steps, STEP // 2, 2, groups, GROUP).permute(0, 5, 1, 2, 3, 6, 4)
    high = tiled.bfloat16()
    parts = [high, (tiled - high.float()).bfloat16()] if split else [high]
    return Weights(torch.stack(parts).contiguous(), outputs, rows, steps, phases, stride)


def packed_bytes(weight: Tensor) -> int:
    """Return the bytes that weights (O, C, kh, kw) take as split tiles."""
    outputs, channels, rows, columns = weight.shape
    return 4 * rows * STEP * -(-columns * channels // STEP) * GROUP * -(-outputs // GROUP)


def convolved(
    maps: Maps,
    weights: Weights,
    sums: Tensor,
    bias: Tensor | None = None,
    norm: Norm | None = None,
    eps: float = 1e-5,
    program: Program | None = None,
) -> Norm:
    """Write the sums `(height, width, outputs)`, float32; return what their instance norm makes of them.

    `norm` has that norm's weight and bias; without it what is returned means nothing. With a `program` all that is
    done when it runs.
    """
    height, width, outputs = sums.shape
    assert outputs == weights.outputs
    assert _dense(sums, *(() if bias is None else (bias,)))
    found = Norm(torch.empty(0), torch.empty(0))
    if norm is not None:
        found = Norm(torch.empty(outputs), torch.empty(outputs))
    given = (None, None, None, None) if norm is None else (norm.scale, norm.shift, found.scale, found.shift)
    _called(program, maps, weights, bias, norm, found, sums).tile_convolution(
        *addresses(maps),
        weights.tiles.data_ptr(),
        _address(bias),
        sums.data_ptr(),
        *map(_address, given),
        eps,
        maps.channels,
        maps.columns * maps.channels,
        weights.windows,
        weights.steps,
        *weights.stride,
        weights.phases,
        height // weights.phases,
        width // weights.phases,
        outputs,
        kernels.threads(),
    )
    return found


def filled(
    planes: Tensor,
    sums: Tensor,
    norm: Norm,
    edge: int,
    *,
    edges: Edges = "reflect",
    rectify: bool = True,
    kept: Tensor | None = None,
    add: bool = False,
    above: int | None = None,
    below: int | None = None,
    program: Program | None = None,
) -> Maps:
    """Return maps in `planes`, of sums `(height, width, channels)` normed, with `edge` pixels more on all sides.

    `kept`, float32 of the shape of the sums, is added to them if `add`, and holds the result afterwards. `above` and
    `below` are rows that differ in number from `edge`.
    """
    height, width, channels = sums.shape
    above, below = (edge if one is None else one for one in (above, below))
    rows, columns = height + above + below, width + 2 * edge
    behind = Maps.numbers(rows, columns, channels) - rows * columns * channels
    assert edges != "reflect" or edge < min(height, width)
    assert planes.shape[1] >= rows * columns * channels + behind
    assert _dense(sums, norm.scale, norm.shift, *(() if kept is None else (kept,)))
    assert kept is not None or not add
    maps = Maps(planes, rows, columns, channels)
    _called(program, planes, sums, norm, kept).tile_maps(
        *(sums.data_ptr(), norm.scale.data_ptr(), norm.shift.data_ptr(), _address(kept), *addresses(maps)),
        *(height, width, channels, edge, above, below, behind, getattr(module().Edges, edges), rectify, add),
        kernels.threads(),
    )
    return maps


def convolve(maps: Tensor, weights: Weights, bias: Tensor | None = None) -> Tensor:
    """Return the convolution of maps (N, C, H, W), float32, by split weights of 3 × 3: (N, O, H, W) in channels last.

    There is a zero beyond each edge. Each image on its own: it does not depend on its batch. Infinite maps give NaN, in
    pixels beside those that their windows reach, too.
    """
    images, channels, height, width = maps.shape
    maps = maps.contiguous(memory_format=torch.channels_last)
    # no view: that could not be overwritten by what follows, such as a ReLU in place
    made = torch.empty((images, weights.outputs, height, width), memory_format=torch.channels_last)
    step = max(LEAST_ROWS, BAND // (4 * (width + 2) * channels))
    planes = torch.empty(2, Maps.numbers(min(step, height) + 2, width + 2, channels), dtype=torch.bfloat16)
    plain = Norm(torch.ones(channels), torch.zeros(channels))
    for image, result in zip(maps.movedim(1, 3), made.movedim(1, 3), strict=True):
        for low in range(0, height, step):
            high = min(low + step, height)
            above, below = int(low == 0), int(high == height)
            given = image[low - 1 + above : high + 1 - below]
            read = filled(planes, given, plain, 1, edges="zero", rectify=False, above=above, below=below)
            convolved(read, weights, result[low:high], bias)
    return made


def _called(program: Program | None, *held: object) -> Any:
    """Return what has the kernels: they run at once, or in a program, which holds what they work on."""
    if program is None:
        return module()
    program.held += held
    return program.kernels


def _dense(*tensors: Tensor) -> bool:
    return all(one.dtype == torch.float32 and one.is_contiguous() for one in tensors)


def _address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


def addresses(maps: Maps) -> tuple[int, int]:
    """Return where the high and the low plane lie; 0 where there is none."""
    return maps.planes[0].data_ptr(), maps.planes[1].data_ptr() if len(maps.planes) == 2 else 0


def module() -> ModuleType:
    """Return the module that has the kernels, where there are tiles."""
    found = kernels.module("cpu")
    assert found is not None, "asked for where there are no tiles: see has_tiles"
    return found
