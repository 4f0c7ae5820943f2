"""Pictures of heatmaps and gradients: `(N, 3, H, W)` uint8, in memory.

Saliency is drawn white on black and guided backprop around grey, as in the lectures; over an image, strength becomes
color and the image fades to grey where nothing is said.
"""

import io

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import UsageError

# A few extreme pixels would leave the rest black: values above this quantile of an image's own are drawn alike.
QUANTILE = 0.995
# The overlay shows regions, so pixel noise is smoothed away: standard deviation as a share of the shorter side.
SMOOTHING = 0.02
# Strength below which an overlay leaves the picture as it is.
FAINT = 0.15
# How far resampling may take an image out of [0, 1].
OVERSHOOT = 0.1


class Picture(Tensor):
    """Drawn images `(N, 3, H, W)` uint8 that show themselves, side by side, in a notebook; one alone too."""

    def _repr_png_(self) -> bytes | None:
        from PIL import Image

        if self.dtype != torch.uint8 or self.ndim not in (3, 4) or self.shape[-3] != 3 or not self.numel():
            return None  # what was computed from pictures shows itself as any tensor does
        pictures = self.as_subclass(Tensor).reshape(-1, *self.shape[-3:])
        strip = torch.cat(list(pictures), 2).permute(1, 2, 0).cpu().numpy()
        buffer = io.BytesIO()
        Image.fromarray(strip).save(buffer, "png")
        return buffer.getvalue()


def draw(heatmaps: Tensor, images: Tensor | None = None) -> Picture:
    """Draw heatmaps `(N, 1, H, W)` or signed gradients `(N, 3, H, W)`, each image on its own scale.

    Alone, a heatmap is drawn white on black (negative values black) and a gradient around grey; over `images`
    `(N, 3, H, W)` in [0, 1], the strength of either as color on the image in grey. Returns `(N, 3, H, W)` uint8.
    Raises UsageError for other shapes, for heatmaps with NaN or infinite values, and for images out of range.
    """
    for name, given in (("heatmaps", heatmaps), ("images", images)):
        if not isinstance(given, Tensor | None):
            raise UsageError(f"{name}: expected a tensor, got {type(given).__name__}")
    heatmaps = heatmaps.detach().float()
    _check(heatmaps, images)
    if images is not None:
        values = overlay(heatmaps, images.detach().float())
    elif heatmaps.shape[1] == 3:
        values = 0.5 + 0.5 * scaled(heatmaps)
    else:
        values = scaled(heatmaps.clamp_min(0)).expand(-1, 3, -1, -1)
    return values.clamp(0, 1).mul(255).round().to(torch.uint8).as_subclass(Picture)


def _check(heatmaps: Tensor, images: Tensor | None) -> None:
    if heatmaps.ndim != 4 or heatmaps.shape[1] not in (1, 3):
        raise UsageError(f"heatmaps: expected (N, 1, H, W) or (N, 3, H, W), got {tuple(heatmaps.shape)}")
    wrong = (~heatmaps.isfinite()).flatten(1).sum(1)
    if wrong.any():
        first = int(wrong.nonzero()[0])
        came = f"image {first} holds {int(wrong[first])} that are NaN or infinite"
        raise UsageError(f"heatmaps: expected finite values, {came}; leave it out, or set them with nan_to_num()")
    if images is None:
        return
    if images.shape[0] != heatmaps.shape[0] or images.shape[1:2] != (3,) or images.ndim != 4:
        expected = f"({heatmaps.shape[0]}, 3, H, W)"
        raise UsageError(f"images: expected {expected} to draw these heatmaps on, got {tuple(images.shape)}")
    expected = "images: expected floating-point values in [0, 1]"
    if not images.is_floating_point():
        raise UsageError(f"{expected}, got {images.dtype}; divide by 255")
    if images.numel() and not (images.min() >= -OVERSHOOT and images.max() <= 1 + OVERSHOOT):
        came = f"got values from {float(images.min()):g} to {float(images.max()):g}"
        raise UsageError(f"{expected}, {came}; divide by 255 what goes up to 255, undo a normalization")


def scaled(heatmaps: Tensor) -> Tensor:
    """Divide each image's values by the quantile of their magnitude and clip to [-1, 1]; all-zero maps stay zero."""
    if not heatmaps.numel():
        return heatmaps
    magnitude = heatmaps.abs().flatten(1)
    above = 1 + int((1 - QUANTILE) * magnitude.shape[1])
    largest = magnitude.topk(above, sorted=True).values
    # Sparse maps can have a quantile of zero and still hold something to show.
    scale = torch.where(largest[:, -1] > 0, largest[:, -1], largest[:, 0])
    return (heatmaps / scale.clamp_min(torch.finfo(scale.dtype).tiny).view(-1, 1, 1, 1)).clamp(-1, 1)


def overlay(heatmaps: Tensor, images: Tensor) -> Tensor:
    """Lay the smoothed strength of `heatmaps`, `(N, 1 or 3, H, W)`, over `images` `(N, 3, H, W)` in [0, 1]."""
    shown = F.interpolate(scaled(smoothed(strength(heatmaps))), images.shape[2:], mode="bilinear").clamp(0, 1)
    luma = (images * images.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True)
    opacity = 0.9 * ((shown - FAINT) / (0.6 - FAINT)).clamp(0, 1)
    return (1 - opacity) * (0.12 + 0.76 * luma) + opacity * heat(shown)


def strength(heatmaps: Tensor) -> Tensor:
    """Return the evidence per pixel `(N, 1, H, W)`: positive values of heatmaps, the largest magnitude of gradients."""
    return heatmaps.clamp_min(0) if heatmaps.shape[1] == 1 else heatmaps.abs().amax(1, keepdim=True)


def smoothed(heatmaps: Tensor) -> Tensor:
    """Blur with a Gaussian whose width is a share of the picture's, on a grid as fine as the result needs."""
    sigma = SMOOTHING * min(heatmaps.shape[2:])
    step = max(1, int(sigma))
    grid = F.interpolate(heatmaps, [-(-side // step) for side in heatmaps.shape[2:]], mode="area")
    radius = min(round(3 * sigma / step), min(grid.shape[2:]) - 1)
    if radius < 1:
        return grid
    weight = torch.exp(-0.5 * (step * torch.arange(-radius, radius + 1, device=grid.device) / sigma) ** 2)
    weight = (weight / weight.sum()).to(grid.dtype)
    padded = F.pad(grid, (radius,) * 4, mode="reflect")
    return F.conv2d(F.conv2d(padded, weight.view(1, 1, -1, 1)), weight.view(1, 1, 1, -1))


def heat(strength: Tensor) -> Tensor:
    """Color values in [0, 1], `(N, 1, H, W)`, from dark red over orange to pale yellow, `(N, 3, H, W)`."""
    red = (0.45 + 1.1 * strength).clamp(max=1)
    green = (1.6 * strength - 0.45).clamp(0, 1)
    blue = (3 * strength - 2.2).clamp(0, 0.85)
    return torch.cat([red, green, blue], 1)
