"""Outline: coordinates `(x, y)` in the unit disc, y downwards, to a boolean array: inside the shape or not.

Each class is one formula, so a mask needs no drawing library and is the same on every machine.
"""

from collections.abc import Callable
from math import pi, tau

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Inside = NDArray[np.bool_]
Outline = Callable[[Floats, Floats], Inside]


def polygon(*corners: tuple[float, float]) -> Outline:
    """The outline with these corners, by the even-odd rule."""

    def inside(x: Floats, y: Floats) -> Inside:
        odd = np.zeros(x.shape, bool)
        for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1], strict=True):
            if y0 != y1:
                odd ^= ((y0 > y) != (y1 > y)) & (x < (x1 - x0) * (y - y0) / (y1 - y0) + x0)
        return odd

    return inside


def regular(count: int) -> Outline:
    """The regular polygon with `count` corners on the unit circle, one of them at the top."""
    turns = -pi / 2 + tau * np.arange(count) / count
    return polygon(*((float(np.cos(turn)), float(np.sin(turn))) for turn in turns))


def starred(count: int, inner: float) -> Outline:
    """The star with `count` points on the unit circle and its notches at radius `inner`."""
    turns = -pi / 2 + pi * np.arange(2 * count) / count
    radii = np.where(np.arange(2 * count) % 2, inner, 1.0)
    return polygon(*((float(r * np.cos(t)), float(r * np.sin(t))) for r, t in zip(radii, turns, strict=True)))


def disc(x: Floats, y: Floats, radius: float = 1.0) -> Inside:
    """The disc around the origin."""
    return x * x + y * y < radius * radius


def crescent(x: Floats, y: Floats) -> Inside:
    """A disc without a shifted disc."""
    return disc(x, y) & ~disc(x - 0.48, y, 0.82)


def cross(x: Floats, y: Floats) -> Inside:
    """Two bars of equal length."""
    shorter, longer = np.minimum(abs(x), abs(y)), np.maximum(abs(x), abs(y))
    inside: Inside = (shorter < 0.3) & (longer < 0.95)
    return inside


def flower(x: Floats, y: Floats) -> Inside:
    """Five round petals around an open center."""
    radius = np.hypot(x, y)
    inside: Inside = (radius < 0.7 + 0.3 * np.cos(5 * np.arctan2(y, x))) & (radius > 0.2)
    return inside


def heart(x: Floats, y: Floats) -> Inside:
    """The sextic (x² + y² - 1)³ = x² y³, scaled into the disc."""
    u, v = 1.22 * x, -1.22 * y + 0.12
    bulge = u * u + v * v - 1
    inside: Inside = bulge * bulge * bulge < u * u * v * v * v
    return inside


def ring(x: Floats, y: Floats) -> Inside:
    """An annulus."""
    return disc(x, y) & ~disc(x, y, 0.5)


def spiral(x: Floats, y: Floats) -> Inside:
    """Two turns and a bit of an Archimedean spiral."""
    radius, turn = np.hypot(x, y), np.arctan2(y, x) / tau
    winding = radius / 0.44 - turn
    return (abs(winding - np.round(winding)) < 0.27) & (radius < 1.0) & (np.round(winding) >= 0)


OUTLINES: dict[str, Outline] = {
    "arrow": polygon((0, -1), (0.8, -0.15), (0.3, -0.15), (0.3, 0.95), (-0.3, 0.95), (-0.3, -0.15), (-0.8, -0.15)),
    "bolt": polygon((0.45, -0.95), (-0.75, 0.2), (-0.1, 0.2), (-0.45, 0.95), (0.75, -0.3), (0.1, -0.3)),
    "circle": disc,
    "crescent": crescent,
    "cross": cross,
    "flower": flower,
    "heart": heart,
    "hexagon": regular(6),
    "hourglass": polygon((-0.7, -0.75), (0.7, -0.75), (0.12, 0), (0.7, 0.75), (-0.7, 0.75), (-0.12, 0)),
    "ring": ring,
    "spiral": spiral,
    "star": starred(5, 0.42),
    "tee": polygon(
        (-0.8, -0.8), (0.8, -0.8), (0.8, -0.25), (0.28, -0.25), (0.28, 0.9), (-0.28, 0.9), (-0.28, -0.25), (-0.8, -0.25)
    ),
    "triangle": regular(3),
}
