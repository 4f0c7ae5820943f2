"""Curves as a page draws them: how the loss of one picture went, a line in a box of 100 × 100."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

POINTS = 120
"""Points of a line at most: a few hundred steps look the same."""
WIDE = 100
"""Positive values that span more than this factor are drawn by their logarithm."""


@dataclass(frozen=True)
class Trace:
    """A curve: its name, the line's points as SVG has them, its first and last value, and its number of values."""

    name: str
    points: str
    first: float
    last: float
    count: int
    logarithmic: bool


def trace(name: str, values: Sequence[float]) -> Trace | None:
    """Return the curve of values, step by step; None where there are fewer than two."""
    if len(values) < 2:
        return None
    low, high = min(values), max(values)
    logarithmic = low > 0 and high > WIDE * low
    last = len(values) - 1
    many = min(last, POINTS - 1)
    places = [round(place * last / many) for place in range(many + 1)]
    heights = [_height(values[place], low, high, logarithmic) for place in places]
    line = " ".join(f"{100 * place / last:.1f},{height:.1f}" for place, height in zip(places, heights, strict=True))
    return Trace(name, line, values[0], values[-1], len(values), logarithmic)


def _height(value: float, low: float, high: float, logarithmic: bool) -> float:
    """Return how far below the top a value lies."""
    if high == low:
        return 50.0
    if logarithmic:
        value, low, high = math.log(value), math.log(low), math.log(high)
    return 100 * (high - value) / (high - low)
