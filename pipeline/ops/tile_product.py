"""Products of rows with rows of others on matrix tiles (AMX), float32 factors as the sum of two bfloat16 numbers.

a ≈ high + low,   |low| ≤ 2⁻⁸ |a|,  |a − high − low| ≤ 2⁻¹⁶ |a|,   a·b ≈ Σ high·high + high·low + low·high
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from . import kernels
from .tile_convolution import STEP, Maps, Norm, Weights, addresses, convolved, filled, module, packed

ACROSS = 256
"""Rows that one thread multiplies by each block of columns while that is in its cache."""


def relative_error(terms: int) -> float:
    """Return the largest error of a product of vectors of so many numbers, relative to Σ |aᵢ bᵢ|."""
    # What two bfloat16 numbers lose of either factor, and low times low. Then three sums in float32, whose terms are by
    # up to 1/64 larger than those of the product.
    sums = 3.05 * terms * 2.0**-24
    return 3.02 * 2.0**-16 + sums / (1 - sums)


def least(terms: int) -> float:
    """Return what may be lost besides of factors of up to 1: tiles take subnormal numbers for zero."""
    return terms * 2.0**-123


def columns(vectors: Tensor) -> Weights:
    """Return vectors (m, D) as the right factor."""
    return packed(F.pad(vectors, (0, -vectors.shape[1] % STEP))[:, :, None, None], split=True)


def rows(vectors: Tensor) -> Maps:
    """Return vectors (n, D) as the left factor; as long as it is used."""
    count, length = vectors.shape[0], -(-vectors.shape[1] // STEP) * STEP  # so that rows begin where lines of caches do
    high = -(-count // ACROSS)
    given = vectors.new_zeros(high, ACROSS, length)
    given.view(-1, length)[:count, : vectors.shape[1]] = vectors
    planes = torch.empty(2, Maps.numbers(high, ACROSS, length), dtype=torch.bfloat16)
    return filled(planes, given, Norm(torch.ones(length), torch.zeros(length)), 0, rectify=False)


def product(left: Maps, right: Weights, memory: Tensor) -> Tensor:
    """Return the products (n, m), n filled up to a multiple of `ACROSS`, in `memory`, which has room for them."""
    made = memory[: left.rows * ACROSS * right.outputs].view(left.rows, ACROSS, right.outputs)
    convolved(left, right, made)
    return made.view(-1, right.outputs)


def exceeding(
    left: Maps, right: Weights, row_limits: Tensor, column_limits: Tensor | None, most: int, diagonal: bool
) -> tuple[Tensor, Tensor] | None:
    """Return places and values of products that exceed a limit, as `ops.exceeding` does of those of a block.

    There are as many rows as limits. With `diagonal` that of a row with the column of its own number is left out.
    """
    places, values = torch.empty(most, dtype=torch.int64), torch.empty(most)
    below = 0 if column_limits is None else column_limits.data_ptr()
    count = module().tile_exceeding(
        *(*addresses(left), right.tiles.data_ptr(), row_limits.data_ptr(), below, places.data_ptr(), values.data_ptr()),
        *(len(row_limits), right.outputs, left.channels, right.steps, diagonal, most, kernels.threads()),
    )
    return (places[:count], values[:count]) if count <= most else None
