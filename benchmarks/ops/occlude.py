"""Occlusion windows: `Work` counts one reading of the image and one writing of each copy."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from benchmarks.agreement import Agreement, largest_difference
from benchmarks.ops import bench
from benchmarks.ops.bench import Call
from benchmarks.row import Device, Row, Work

WINDOW, FILL = 32, 0.5
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
SIZES: dict[Device, tuple[tuple[int, list[int]], ...]] = {
    "cpu": ((32, [3, 224, 224]), (8, [3, 512, 512])),
    "cuda": ((256, [3, 224, 224]), (64, [3, 512, 512])),
}
EXACT = Agreement(largest_difference, 0.0, "pixels are copied or filled, none is computed")


def rows(device: Device, quick: bool) -> Iterator[Row]:
    """Both memory formats; float32, and bfloat16 in the default one."""
    for layout, precision in (("contiguous", "float32"), ("channels_last", "float32"), ("contiguous", "bfloat16")):
        for windows, shape in ((3, [3, 48, 40]), (5, [3, 64, 64])) if quick else SIZES[device]:
            yield _row(layout, windows, shape, precision, device)


def _row(layout: str, windows: int, shape: list[int], precision: str, device: Device) -> Row:
    params = {"layout": layout, "windows": windows, "shape": shape, "precision": precision, "device": device}
    elements, result = torch.Size(shape).numel(), bench.size([windows, *shape])
    return bench.row(
        f"occlude.{layout}.{precision}.{result}",
        {"op": f"occlude, {layout.replace('_', ' ')}", "size": result, "dtype": precision},
        (
            bench.configuration("kernel", "occlude:kernel", "ours", params),
            bench.configuration("eager", "occlude:eager", "reference", params),
            bench.configuration("compile", "occlude:compiled", "peer", params),
        ),
        EXACT,
        Work(bytes=(windows + 1) * elements * bench.BYTES[precision]),
        device,
        memory=16 * windows * elements,
        group="occlude",
    )


def kernel(layout: str, windows: int, shape: list[int], precision: str, device: str) -> Call:
    """The public function."""
    from afterimage.ops import occlude

    bench.require_kernels(device)
    return _call(lambda image, windows: occlude(image, windows, FILL), layout, windows, shape, precision, device)


def eager(layout: str, windows: int, shape: list[int], precision: str, device: str) -> Call:
    """Copies, and an assignment per window."""

    def assign(image: Tensor, windows: Tensor) -> Tensor:
        images = image.repeat(len(windows), 1, 1, 1) if layout == "contiguous" else _repeated(image, len(windows))
        for copy, (top, left, bottom, right) in zip(images, windows.tolist(), strict=True):
            copy[:, top:bottom, left:right] = FILL
        return images

    return _call(assign, layout, windows, shape, precision, device)


def compiled(layout: str, windows: int, shape: list[int], precision: str, device: str) -> Call:
    """A choice by masks, which compiles to one pass, compiled."""

    def choose(image: Tensor, windows: Tensor) -> Tensor:
        top, left, bottom, right = (edge[:, None, None, None] for edge in windows.unbind(1))
        y = torch.arange(image.shape[1], device=image.device)[:, None]
        x = torch.arange(image.shape[2], device=image.device)
        return torch.where((y >= top) & (y < bottom) & (x >= left) & (x < right), FILL, image)

    return _call(bench.compiled(choose), layout, windows, shape, precision, device)


def _repeated(image: Tensor, times: int) -> Tensor:
    """Copies that keep the memory format, as a user who wants it writes them."""
    copies = torch.empty(
        (times, *image.shape), dtype=image.dtype, device=image.device, memory_format=torch.channels_last
    )
    return copies.copy_(image)


def _call(
    function: Callable[[Tensor, Tensor], Tensor],
    layout: str,
    windows: int,
    shape: list[int],
    precision: str,
    device: str,
) -> Call:
    image = bench.noise([1, *shape], precision, device).contiguous(memory_format=LAYOUTS[layout])[0]
    generator = torch.Generator().manual_seed(0)
    rooms = torch.tensor([length - WINDOW + 1 for length in shape[1:]])
    corners = (torch.rand(windows, 2, generator=generator) * rooms).long()
    placed = torch.cat([corners, corners + WINDOW], 1).to(device)
    return lambda: bench.sampled(function(image, placed))
