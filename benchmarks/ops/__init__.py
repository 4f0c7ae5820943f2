"""Rows for the tensor operations, beside the same in torch, compiled by torch, and in other libraries.

One module per operation, with ``rows(device, quick)`` and the setups that its rows name.
"""

from collections.abc import Iterator

from benchmarks.ops import gram, guided_relu, occlude, total_variation
from benchmarks.row import Row

OPERATIONS = (gram, total_variation, occlude, guided_relu)


def rows(quick: bool) -> Iterator[Row]:
    """Rows of every operation on the CPU, then on the GPU."""
    for device in ("cpu", "cuda"):
        for operation in OPERATIONS:
            yield from operation.rows(device, quick)
