"""Rows for pictures by optimization, beside the tutorials and libraries that people use for them.

Networks have random but fixed weights, the same for all configurations. Times are those of a whole picture, targets
included; what every configuration reports of it is computed by one function after the timer (`benchmarks.judges`).
"""

from collections.abc import Iterator

from benchmarks.optimization import attacks, nearest, style, visualization
from benchmarks.row import Row


def rows(quick: bool) -> Iterator[Row]:
    """Rows of all kinds, those on the GPU last."""
    for device in ("cpu", "cuda"):
        for kind in (style, attacks, visualization, nearest):
            yield from kind.rows(device, quick)
