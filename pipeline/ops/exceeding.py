"""The few values of a block that exceed the limit of their row, or of their column."""

import torch
from torch import Tensor

from . import kernels


def reference(block: Tensor, row_limits: Tensor, column_limits: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return places and values, in plain torch."""
    seen = block > row_limits[:, None]
    if column_limits is not None:
        seen |= block > column_limits
    places = seen.flatten().nonzero().flatten()
    return places, block.flatten()[places]


def exceeding(
    block: Tensor, row_limits: Tensor, column_limits: Tensor | None, most: int
) -> tuple[Tensor, Tensor] | None:
    """Return the places (row · columns + column, rising, int64) and values of what exceeds a limit, `most` at most.

    `block` (rows, columns) is contiguous, and limits (rows,) and (columns,) as well, float32 on the CPU. None where
    there is more.
    """
    kernel = kernels.kernel("exceeding", block)
    if kernel is None:
        found = reference(block, row_limits, column_limits)
        return found if len(found[0]) <= most else None
    places, values = torch.empty(most, dtype=torch.int64), torch.empty(most)
    below = 0 if column_limits is None else column_limits.data_ptr()
    addresses = (block.data_ptr(), row_limits.data_ptr(), below, places.data_ptr(), values.data_ptr())
    count = kernel(*addresses, *block.shape, most)
    return (places[:count], values[:count]) if count <= most else None
