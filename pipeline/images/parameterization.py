"""Parameterizations: what is optimized in place of pixels, one tensor `(N, …)` per batch, and its images."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import torch
from torch import Tensor

from .colors import luminance

COLORS = ((0.26, 0.09, 0.02), (0.27, 0.00, -0.05), (0.27, -0.09, 0.03))
"""A square root of the colors' covariance in ImageNet, as lucid has it; columns become red, green, blue."""
EDGE = 1e-3
"""How near to black and white a picture may be and still have finite parameters."""


class Parameterization(Protocol):
    """Which tensor stands for images, and back; each image for itself."""

    def parameters(self, images: Tensor) -> Tensor:
        """Return what stands for images `(N, 3, H, W)`."""

    def images(self, parameters: Tensor, size: tuple[int, int]) -> Tensor:
        """Return the images `(N, 3, *size)`, differentiable."""


@dataclass(frozen=True)
class Pixels:
    """The pixels themselves; they may leave [0, 1] unless a projection keeps them there."""

    def parameters(self, images: Tensor) -> Tensor:
        """Return the images."""
        return images

    def images(self, parameters: Tensor, size: tuple[int, int]) -> Tensor:
        """Return the parameters."""
        return parameters


@dataclass(frozen=True)
class Luminance:
    """One grey for each pixel, the luminance of its color."""

    def parameters(self, images: Tensor) -> Tensor:
        """Return the luminance `(N, 1, H, W)` of images."""
        return luminance(images)

    def images(self, parameters: Tensor, size: tuple[int, int]) -> Tensor:
        """Return grey images."""
        return parameters.expand(-1, 3, -1, -1)


@dataclass(frozen=True)
class Fourier:
    """Spectrum coefficients, scaled by frequency to those of natural images, colors decorrelated; always in (0, 1).

    image = sigmoid(C · irfft2(coefficients · scale))

    Olah, Mordvintsev, Schubert, Feature visualization, 2017 (doi:10.23915/distill.00007), "preconditioning".
    """

    decay: float = 1.0
    decorrelate: bool = True

    def parameters(self, images: Tensor) -> Tensor:
        """Return the coefficients `(N, 3, H, W // 2 + 1, 2)` of images, which are clipped to a little within [0, 1]."""
        if not len(images):
            return images.new_empty(0, 3, images.shape[2], images.shape[3] // 2 + 1, 2)
        values = images.clamp(EDGE, 1 - EDGE).logit()
        if self.decorrelate:
            values = _mixed_colors(values, torch.linalg.inv(_colors(values)))
        spectrum = torch.fft.rfft2(values, norm="ortho")
        return torch.view_as_real(spectrum / self._scale((images.shape[2], images.shape[3]), images)).contiguous()

    def images(self, parameters: Tensor, size: tuple[int, int]) -> Tensor:
        """Return the images of coefficients."""
        if not len(parameters):  # MKL fails on an empty batch
            return parameters.new_empty(0, 3, *size)
        spectrum = torch.view_as_complex(parameters.contiguous()) * self._scale(size, parameters)
        values = torch.fft.irfft2(spectrum, s=size, norm="ortho")
        return (_mixed_colors(values, _colors(values)) if self.decorrelate else values).sigmoid()

    def _scale(self, size: tuple[int, int], like: Tensor) -> Tensor:
        return _frequency_scale(*size, self.decay).to(like.device, like.dtype)


@lru_cache(maxsize=8)
def _frequency_scale(height: int, width: int, decay: float) -> Tensor:
    """Return 1 / (4 frequency^decay) `(H, W // 2 + 1)`, that of the lowest one for the mean; the 4 is lucid's."""
    rows, columns = torch.fft.fftfreq(height, dtype=torch.float64), torch.fft.rfftfreq(width, dtype=torch.float64)
    frequencies = (rows[:, None].square() + columns.square()).sqrt()
    scale: Tensor = 0.25 / frequencies.clamp_min(1 / max(height, width)) ** decay
    return scale


def _colors(like: Tensor) -> Tensor:
    colors = like.new_tensor(COLORS)
    return colors.div(colors.norm(dim=0).max())


def _mixed_colors(images: Tensor, colors: Tensor) -> Tensor:
    return torch.einsum("rc,nchw->nrhw", colors, images)
