"""One image under many windows.

    output[b, c, y, x] = fill[c, y, x] where y0_b <= y < y1_b and x0_b <= x < x1_b, image[c, y, x] elsewhere

    grad_image = Σ_b grad_output[b] outside of window b
    grad_fill  = Σ_b grad_output[b] inside of window b, summed over what a color or a number stands for

The pictures of Zeiler, Fergus, Visualizing and Understanding Convolutional Networks, 2014 (arXiv:1311.2901), section
4.2. Sums are in float32 at least and in the order of the windows.

Windows on the CPU are checked, also where the image is on a GPU, to which they are copied without waiting. Windows on
a GPU are not read on the host, for that would be a synchronization: what lies outside of the image is cut off, and a
window that ends before it begins is empty. Neither are the values of a fill in the memory of a GPU.
"""

import math
from typing import Any

import torch
from torch import Tensor

from ..errors import UsageError
from . import kernels


def reference(image: Tensor, windows: Tensor, fill: Tensor) -> Tensor:
    """Return (B, C, H, W) for an image (C, H, W), windows (B, 4) and a fill of shape (), (C,) or (C, H, W)."""
    covered = _covered(windows, *image.shape[1:])
    output = torch.where(covered, _as_picture(fill, image), image)
    return output.contiguous(memory_format=_layout(image, channels=0))


def reference_backward(grad_output: Tensor, windows: Tensor, inside: bool) -> Tensor:
    """Return the sum over b, (C, H, W), of `grad_output` (B, C, H, W) inside of window b, or outside."""
    covered = _covered(windows, *grad_output.shape[2:])
    wide = grad_output.to(torch.promote_types(grad_output.dtype, torch.float32))
    return wide.masked_fill(~covered if inside else covered, 0).sum(0).to(grad_output.dtype)


@torch.library.custom_op("afterimage::occlude", mutates_args=())
def _forward(image: Tensor, windows: Tensor, fill: Tensor) -> Tensor:
    _check_values(image, windows, fill)
    return reference(image, _on(windows, image), fill)


@torch.library.custom_op("afterimage::occlude_backward", mutates_args=())
def _backward(grad_output: Tensor, windows: Tensor, inside: bool) -> Tensor:
    return reference_backward(grad_output, _on(windows, grad_output), inside)


@_forward.register_fake
def _forward_fake(image: Tensor, windows: Tensor, fill: Tensor) -> Tensor:
    return image.new_empty(len(windows), *image.shape).contiguous(memory_format=_layout(image, channels=0))


@_backward.register_fake
def _backward_fake(grad_output: Tensor, windows: Tensor, inside: bool) -> Tensor:
    return grad_output.new_empty(grad_output.shape[1:])


def _remember(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    _, windows, fill = inputs
    ctx.fill = fill.shape
    ctx.save_for_backward(windows)


def _differentiate(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, None, Tensor | None]:
    (windows,) = ctx.saved_tensors
    image_needed, _, fill_needed = ctx.needs_input_grad
    grad_image = _backward(grad_output, windows, False) if image_needed else None
    grad_fill = _backward(grad_output, windows, True) if fill_needed else None
    if grad_fill is not None and len(ctx.fill) < 3:
        grad_fill = grad_fill.sum((1, 2) if ctx.fill else (0, 1, 2))
    return grad_image, None, grad_fill


_forward.register_autograd(_differentiate, setup_context=_remember)


def occlude(image: Tensor, windows: Tensor, fill: float | Tensor) -> Tensor:
    """Return one copy of `image` (C, H, W) per window with the window filled: (B, C, H, W), in the image's layout.

    Args:
        image: floating-point tensor; channels-last, as in ``images.contiguous(memory_format=torch.channels_last)[0]``,
            gives a channels-last result.
        windows: (B, 4) int64, rows y0, x0, y1, x1, half open: 0 ≤ y0 ≤ y1 ≤ H, 0 ≤ x0 ≤ x1 ≤ W; an empty one changes
            nothing. On the CPU, or on the image's device, where they are cut at the border instead of checked.
        fill: a finite number, a color (C,) or a picture (C, H, W); tensors of the image's type on its device.

    Gradients reach `image` and a `fill` that is a tensor.

    Raises:
        UsageError: on any other shape, type, device, window or number.
        TypeError: an argument is no tensor, or `fill` no number either.
    """
    _check_tensors(image, windows)
    if not isinstance(fill, Tensor):
        fill = image.new_full((), _number(fill, image.dtype))
    _check_fill(fill, image)
    output: Tensor = _forward(image, windows, fill)
    return output


def _covered(windows: Tensor, height: int, width: int) -> Tensor:
    """Return where the windows are: (B, 1, H, W), bool."""
    top, left, bottom, right = (edge[:, None] for edge in windows.unbind(1))
    y, x = (torch.arange(length, device=windows.device) for length in (height, width))
    return ((y >= top) & (y < bottom))[:, None, :, None] & ((x >= left) & (x < right))[:, None, None, :]


def _as_picture(fill: Tensor, image: Tensor) -> Tensor:
    return (fill[:, None, None] if fill.ndim == 1 else fill).expand_as(image)


def _layout(tensor: Tensor, channels: int) -> torch.memory_format:
    """Return the format in memory; `channels` is the dimension of a picture's channels in `tensor`."""
    last = tensor.movedim(channels, -1).is_contiguous() and not tensor.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format


def _on(windows: Tensor, image: Tensor) -> Tensor:
    """Return the windows on the image's device; copied there from pinned memory, without waiting."""
    if windows.device == image.device:
        return windows
    return windows.pin_memory().to(image.device, non_blocking=True)


def _check_tensors(image: Tensor, windows: Tensor) -> None:
    for name, tensor in (("image", image), ("windows", windows)):
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name} is a {type(tensor).__name__}, expected a tensor")
    if image.ndim != 3 or not image.is_floating_point() or image.layout is not torch.strided:
        raise UsageError(f"image is {_described(image)}, expected a dense floating-point tensor (C, H, W)")
    if windows.ndim != 2 or windows.shape[1] != 4 or windows.dtype != torch.int64:
        raise UsageError(f"windows is {_described(windows)}, expected int64 (B, 4), rows y0, x0, y1, x1")
    if windows.device not in (image.device, torch.device("cpu")):
        raise UsageError(f"windows is on {windows.device}, expected the CPU or the image's device, {image.device}")


def _check_fill(fill: Tensor, image: Tensor) -> None:
    if fill.shape not in ((), image.shape[:1], image.shape):
        raise UsageError(f"fill is {_described(fill)}, expected a number, {(len(image),)} or {tuple(image.shape)}")
    for what in ("dtype", "device"):
        got, expected = getattr(fill, what), getattr(image, what)
        if got != expected:
            raise UsageError(f"fill has {what} {got}, expected the image's, {expected}")


def _number(fill: object, dtype: torch.dtype) -> float:
    if isinstance(fill, bool) or not isinstance(fill, int | float):
        raise TypeError(f"fill is a {type(fill).__name__}, expected a number or a tensor")
    if not math.isfinite(fill) or abs(fill) > torch.finfo(dtype).max:
        raise UsageError(f"fill is {fill}, expected a number that is finite in {dtype}")
    return float(fill)


def _check_values(image: Tensor, windows: Tensor, fill: Tensor) -> None:
    """Check what stands in the CPU's memory."""
    if fill.device.type == "cpu" and not fill.isfinite().all():
        raise UsageError("fill holds NaN or infinity, expected finite values")
    if windows.device.type != "cpu":
        return
    first, last = windows[:, :2], windows[:, 2:]
    size = torch.tensor(image.shape[1:])
    wrong = ((first < 0) | (first > last) | (last > size)).any(1)
    if wrong.any():
        row = int(wrong.int().argmax())
        height, width = size.tolist()
        raise UsageError(
            f"windows[{row}] is {windows[row].tolist()}, expected y0, x0, y1, x1 with 0 <= y0 <= y1 <= {height} and "
            f"0 <= x0 <= x1 <= {width}"
        )


def _described(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)} ({tensor.layout})"
