"""Colors of images `(N, 3, H, W)`: their luminance, and one picture's in the colors of another.

Gatys, Bethge, Hertzmann, Shechtman, Preserving color in neural artistic style transfer, 2016 (arXiv:1606.05897).
"""

import torch
from torch import Tensor

GREEN, BLUE = 0.587, 0.114
"""Their shares in Y of YIQ; red has the rest."""


def luminance(images: Tensor) -> Tensor:
    """Return Y of YIQ, `(N, 1, H, W)`; a grey's is the very same number."""
    red, green, blue = images.split(1, 1)
    values: Tensor = red + GREEN * (green - red) + BLUE * (blue - red)
    return values


def with_luminance(images: Tensor, values: Tensor) -> Tensor:
    """Return images with the luminance `(N, 1, H, W)` and their own I and Q, which are clipped to [0, 1]."""
    return (images + (values - luminance(images))).clamp(0, 1)


def matched(images: Tensor, like: Tensor) -> Tensor:
    """Return images whose channels have the mean and covariance of those of `like`, of any size, clipped to [0, 1].

    x' = Σ_like^½ Σ^-½ (x − μ) + μ_like, the paper's section 3.1 with the square roots of Image Analogies; for one
    channel that is a matter of mean and standard deviation.
    """
    own, other = images.flatten(2).double(), like.flatten(2).double()
    centered = own - own.mean(2, keepdim=True)
    turned = _root(other, 0.5) @ _root(own, -0.5) @ centered + other.mean(2, keepdim=True)
    return turned.view_as(images).clamp(0, 1).to(images)


def _root(pixels: Tensor, power: float) -> Tensor:
    """Return a power of the covariance of colors `(N, C, P)`; directions without variance keep a little."""
    centered = pixels - pixels.mean(2, keepdim=True)
    values, vectors = torch.linalg.eigh(centered @ centered.mT / pixels.shape[2])
    root: Tensor = vectors @ torch.diag_embed(values.clamp_min(1e-8) ** power) @ vectors.mT
    return root
