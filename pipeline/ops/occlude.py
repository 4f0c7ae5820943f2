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
from .arguments import check_tensor, described, is_dense_float


def reference(image: Tensor, windows: Tensor, fill: Tensor) -> Tensor:
    """Return (B, C, H, W) for an image (C, H, W), windows (B, 4) and a fill of shape (), (C,) or (C, H, W)."""
    picture = (fill[:, None, None] if fill.ndim == 1 else fill).expand_as(image)
    output = torch.where(_covered(windows, image), picture, image)
    return output.contiguous(memory_format=_layout(image))


def reference_backward(grad_output: Tensor, windows: Tensor, inside: bool) -> Tensor:
    """Return the sum over b of `grad_output` (B, C, H, W) inside of window b, or outside; float32 for half types."""
    terms = grad_output.masked_fill(_covered(windows, grad_output) != inside, 0)
    return terms.sum(0, dtype=torch.promote_types(grad_output.dtype, torch.float32))


@torch.library.custom_op("afterimage::occlude", mutates_args=())
def _forward(image: Tensor, windows: Tensor, fill: Tensor) -> Tensor:
    _check_values(image, windows, fill)
    windows = _on(image, windows)
    kernel = kernels.kernel("occlude", image)
    if kernel is None:
        return reference(image, windows, fill)
    output = _output(image, windows)
    image = image.contiguous() if _layout(image) is torch.contiguous_format else image
    filler = _filler(fill, image)
    addresses = (tensor.data_ptr() for tensor in (image, windows, filler, output))
    kernel(*addresses, *output.shape, _layout(image) is torch.channels_last, fill.ndim == 3)
    return output


@torch.library.custom_op("afterimage::occlude_backward", mutates_args=())
def _backward(grad_output: Tensor, windows: Tensor, inside: bool) -> Tensor:
    windows = _on(grad_output, windows)
    grad = _grad(grad_output)
    kernel = kernels.kernel("occlude_backward", grad_output)
    if kernel is None:
        return grad.copy_(reference_backward(grad_output, windows, inside))
    last = _layout(grad_output) is torch.channels_last
    grad_output = grad_output if last else grad_output.contiguous()
    addresses = (tensor.data_ptr() for tensor in (grad_output, windows, grad))
    kernel(*addresses, *grad_output.shape, last, inside)
    return grad


@_forward.register_fake
def _forward_fake(image: Tensor, windows: Tensor, fill: Tensor) -> Tensor:
    return _output(image, windows)


@_backward.register_fake
def _backward_fake(grad_output: Tensor, windows: Tensor, inside: bool) -> Tensor:
    return _grad(grad_output)


def _remember(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
    _, windows, fill = inputs
    ctx.rank = fill.ndim
    ctx.save_for_backward(windows)


def _differentiate(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, None, Tensor | None]:
    (windows,) = ctx.saved_tensors
    image_needed, _, fill_needed = ctx.needs_input_grad
    grad_image = _backward(grad_output, windows, False).to(grad_output.dtype) if image_needed else None
    if not fill_needed:
        return grad_image, None, None
    grad_fill = _backward(grad_output, windows, True)
    for _ in range(3 - ctx.rank):  # one dimension at a time: torch's sum over all depends on the threads
        grad_fill = grad_fill.sum(-1)
    return grad_image, None, grad_fill.to(grad_output.dtype)


def _remember_backward(ctx: Any, inputs: tuple[Tensor, Tensor, bool], output: Tensor) -> None:
    grad_output, windows, ctx.inside = inputs
    ctx.dtype = grad_output.dtype
    ctx.save_for_backward(windows)


def _differentiate_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
    (windows,) = ctx.saved_tensors
    taken = _covered(_on(grad, windows), grad) == ctx.inside
    return torch.where(taken, grad, 0).to(ctx.dtype), None, None


_forward.register_autograd(_differentiate, setup_context=_remember)
_backward.register_autograd(_differentiate_backward, setup_context=_remember_backward)


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


def _covered(windows: Tensor, images: Tensor) -> Tensor:
    """Return where the windows are: (B, 1, H, W), bool."""
    top, left, bottom, right = (edge[:, None] for edge in windows.unbind(1))
    y, x = (torch.arange(length, device=windows.device) for length in images.shape[-2:])
    return ((y >= top) & (y < bottom))[:, None, :, None] & ((x >= left) & (x < right))[:, None, None, :]


def _output(image: Tensor, windows: Tensor) -> Tensor:
    shape = (len(windows), *image.shape)
    return torch.empty(shape, dtype=image.dtype, device=image.device, memory_format=_layout(image))


def _grad(grad_output: Tensor) -> Tensor:
    dtype = torch.promote_types(grad_output.dtype, torch.float32)
    shape = (1, *grad_output.shape[1:])
    return torch.empty(shape, dtype=dtype, device=grad_output.device, memory_format=_layout(grad_output))[0]


def _filler(fill: Tensor, image: Tensor) -> Tensor:
    """Return a picture in the layout of `image`, or the row (C, W) that every row takes, (W, C) in channels-last."""
    if fill.ndim == 3:
        return kernels.laid_out(fill, image)
    channels, _, width = image.shape
    row = fill.expand(width, channels)
    return row.contiguous() if _layout(image) is torch.channels_last else row.t().contiguous()


def _layout(images: Tensor) -> torch.memory_format:
    """Return the format in memory of (C, H, W) or (N, C, H, W); a strided tensor's is what it is copied to."""
    last = images.movedim(-3, -1).is_contiguous() and not images.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format


def _on(images: Tensor, windows: Tensor) -> Tensor:
    """Return the windows, dense, on the device of `images`; they go there from pinned memory, without waiting."""
    if windows.device != images.device:
        # A copy, where they are pinned already: the caller may change them before they have gone over.
        pinned = windows.clone() if windows.is_pinned() else windows
        windows = pinned.pin_memory().to(images.device, non_blocking=True)
    return windows.contiguous()


def _check_tensors(image: Tensor, windows: Tensor) -> None:
    for name, tensor in (("image", image), ("windows", windows)):
        check_tensor("occlude", name, tensor)
    if image.ndim != 3 or not is_dense_float(image):
        raise UsageError(f"image is {described(image)}, expected a dense floating-point tensor (C, H, W)")
    if windows.ndim != 2 or windows.shape[1] != 4 or windows.dtype != torch.int64:
        raise UsageError(f"windows is {described(windows)}, expected int64 (B, 4), rows y0, x0, y1, x1")
    if windows.device not in (image.device, torch.device("cpu")):
        raise UsageError(f"windows is on {windows.device}, expected the CPU or the image's device, {image.device}")


def _check_fill(fill: Tensor, image: Tensor) -> None:
    if fill.shape not in ((), image.shape[:1], image.shape):
        raise UsageError(f"fill is {described(fill)}, expected a number, {(len(image),)} or {tuple(image.shape)}")
    for what in ("dtype", "device"):
        got, expected = getattr(fill, what), getattr(image, what)
        if got != expected:
            raise UsageError(f"fill has {what} {got}, expected the image's, {expected}")


def _number(fill: object, dtype: torch.dtype) -> float:
    if isinstance(fill, bool) or not isinstance(fill, int | float):
        raise TypeError(f"fill is a {type(fill).__name__}, expected a number or a tensor")
    if not abs(fill) <= torch.finfo(dtype).max:  # NaN and infinity too
        raise UsageError(f"fill is {fill}, expected a number that is finite in {dtype}")
    return float(fill)


def _check_values(image: Tensor, windows: Tensor, fill: Tensor) -> None:
    """Check what stands in the CPU's memory."""
    if fill.device.type == "cpu" and fill.numel() and not all(map(math.isfinite, torch.aminmax(fill))):
        raise UsageError(f"fill: expected finite values, {int((~fill.isfinite()).sum())} are NaN or infinite")
    height, width = image.shape[1:]
    for row, (y0, x0, y1, x1) in enumerate(windows.tolist() if windows.device.type == "cpu" else ()):
        if not (0 <= y0 <= y1 <= height and 0 <= x0 <= x1 <= width):
            raise UsageError(
                f"windows[{row}] is {[y0, x0, y1, x1]}, expected y0, x0, y1, x1 with 0 <= y0 <= y1 <= {height} and "
                f"0 <= x0 <= x1 <= {width}"
            )
