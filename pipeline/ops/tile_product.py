"""Products of rows with rows of others on matrix tiles (AMX), float32 factors as the sum of two bfloat16 numbers.

a ≈ high + low,   |low| ≤ 2⁻⁸ |a|,  |a − high − low| ≤ 2⁻¹⁶ |a|,   a·b ≈ Σ high·high + high·low + low·high
"""

import torch
from torch import Tensor

from .tile_convolution import Maps, Norm, Weights, convolved, filled, packed

ACROSS = 256
"""Rows that one thread multiplies by each block of columns while that is in its cache."""
LEAST = 2.0**-110
"""Less than this may be lost of a sum of products: tiles take subnormal numbers for zero."""


def relative_error(terms: int) -> float:
    """Return the largest error of a product of vectors of so many numbers, relative to Σ |aᵢ bᵢ|."""
    # what two bfloat16 numbers lose of either factor, and low times low; then three sums in float32
    sums = 3 * terms * 2.0**-24
    return 3.02 * 2.0**-16 + sums / (1 - sums)


def columns(vectors: Tensor) -> Weights:
    """Return vectors (m, D) as the right factor."""
    return packed(vectors[:, :, None, None], split=True)


def rows(vectors: Tensor) -> Maps:
    """Return vectors (n, D) as the left factor; as long as it is used."""
    count, length = vectors.shape
    high = -(-count // ACROSS)
    given = vectors.new_zeros(high, ACROSS, length)
    given.view(-1, length)[:count] = vectors
    planes = torch.empty(2, Maps.numbers(high, ACROSS, length), dtype=torch.bfloat16)
    return filled(planes, given, Norm(torch.ones(length), torch.zeros(length)), 0, rectify=False)


def product(left: Maps, right: Weights, memory: Tensor) -> Tensor:
    """Return the products (n, m), n filled up to a multiple of `ACROSS`, in `memory`, which has room for them."""
    made = memory[: left.rows * ACROSS * right.outputs].view(left.rows, ACROSS, right.outputs)
    convolved(left, right, made)
    return made.view(-1, right.outputs)
