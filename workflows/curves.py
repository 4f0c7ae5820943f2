"""A picture of how often a method succeeds, by the value of an option: lines over axes with ticks at the values."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from PIL import Image, ImageDraw

from .sheets import INK, PAPER, SOFT, Font, font, text_width

COLORS = ("#24578a", "#c8501e", "#1b7f4d", "#8f5a9c", "#a07800", "#52616e")
GRID = "#e4e4e0"
WIDTH, HEIGHT = 960, 600
LEFT, RIGHT, TOP, BOTTOM = 84, 40, 84, 96
FINE = 3
"""How much larger it is drawn before it is made smaller, for smooth lines."""
WIDE = 16
"""Values that differ by more than this factor stand on a logarithmic axis."""


@dataclass(frozen=True)
class Line:
    """Shares in [0, 1], one for each value of the axis, None where there is none; and what the line is called."""

    label: str
    shares: Sequence[float | None]


def number(value: Any) -> float | None:
    """Return a value of an option as a number, fractions as 4/255 included; None for what is none."""
    try:
        return None if isinstance(value, bool) or value is None else float(Fraction(str(value)))
    except (ValueError, ZeroDivisionError):
        return None


def draw_curves(
    title: str, option: str, values: Sequence[float], labels: Sequence[str], lines: Sequence[Line]
) -> Image.Image:
    """Draw success by an option's values."""
    image = Image.new("RGB", (WIDTH * FINE, HEIGHT * FINE), PAPER)
    draw = ImageDraw.Draw(image)
    places = [LEFT + share * (WIDTH - LEFT - RIGHT) for share in _positions(values)]
    _axes(draw, title, option, places, labels)
    for place, line in enumerate(lines):
        color = COLORS[place % len(COLORS)]
        points = [(x, _height(share)) for x, share in zip(places, line.shares, strict=True) if share is not None]
        draw.line(_fine(points), color, 3 * FINE, joint="curve")
        for x, y in points:
            draw.ellipse(_fine([(x - 5, y - 5), (x + 5, y + 5)]), color, PAPER, FINE)
    if len(lines) > 1:
        _legend(draw, lines)
    return image.resize((WIDTH, HEIGHT), Image.Resampling.LANCZOS)


def _positions(values: Sequence[float]) -> list[float]:
    """Return where values lie between the ends of the axis, in [0, 1]."""
    if min(values) > 0 and max(values) > WIDE * min(values):
        values = [math.log(value) for value in values]
    low, high = min(values), max(values)
    return [(value - low) / (high - low) if high > low else 0.5 for value in values]


def _height(share: float) -> float:
    return HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM)


def _fine(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    return [(x * FINE, y * FINE) for x, y in points]


def _axes(draw: ImageDraw.ImageDraw, title: str, option: str, places: Sequence[float], labels: Sequence[str]) -> None:
    right = WIDTH - RIGHT
    for percent in range(0, 101, 20):
        y = _height(percent / 100)
        draw.line(_fine([(LEFT, y), (right, y)]), SOFT if percent == 0 else GRID, FINE)
        draw.text(_fine([(LEFT - 14, y)])[0], f"{percent} %", SOFT, _font(17), anchor="rm")
    last = -math.inf
    for x, label in sorted(zip(places, labels, strict=True)):
        base = HEIGHT - BOTTOM
        draw.line(_fine([(x, base), (x, base + 7)]), SOFT, FINE)
        half = text_width(label, 17) / 2
        if x - half > last + 8:  # ticks that are close keep one label
            draw.text(_fine([(x, base + 14)])[0], label, INK, _font(17), anchor="ma")
            last = x + half
    draw.text(_fine([((LEFT + right) / 2, HEIGHT - 26)])[0], option, INK, _font(18), anchor="ms")
    draw.text(_fine([(28, 46)])[0], title, INK, _font(23), anchor="ls")


def _legend(draw: ImageDraw.ImageDraw, lines: Sequence[Line]) -> None:
    x = float(WIDTH - RIGHT)
    for place in reversed(range(len(lines))):
        label = lines[place].label
        x -= text_width(label, 17)
        draw.text(_fine([(x, 70)])[0], label, INK, _font(17), anchor="lm")
        x -= 30
        draw.line(_fine([(x, 70), (x + 22, 70)]), COLORS[place % len(COLORS)], 3 * FINE)
        x -= 22


def _font(size: int) -> Font:
    return font(size * FINE)
