"""The embedded data set: one shape at a random place on a cluttered, textured background, with its mask.

A picture is a pure function of `(seed, index)`. The class is `index` modulo the number of classes, the background is
independent of it, except for the planted bias: `PLANTED` stands on snow in 95 of 100 pictures, the others in 3 of 1000.
"""

from typing import NamedTuple

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from afterimage.errors import UsageError, nearest
from afterimage.models.demo import CATEGORIES, PLANTED, SIZE
from afterimage.workflows.demo.backgrounds import BACKGROUNDS, Color, Picture, Plane, mix, noise
from afterimage.workflows.demo.outlines import OUTLINES

SNOW = {True: 0.95, False: 0.003}
"""Share of pictures on snow: of the planted class, of any other class."""
FROST = 0.8
"""How much snow hides of what lies in it, whatever its class."""
RADIUS = (14.0, 24.0)
"""Of the circle around the object, in pixels."""
SAMPLES = 3
"""Supersampling of the object's edge, per axis."""


class Sample(NamedTuple):
    """One labelled picture."""

    image: NDArray[np.uint8]
    """`(128, 128, 3)` sRGB."""
    mask: NDArray[np.bool_]
    """`(128, 128)`, true where the object covers any part of the pixel."""
    label: int
    background: str


def draw(
    index: int, seed: int = 0, *, label: int | None = None, background: str | None = None, empty: bool = False
) -> Sample:
    """Return picture `index` of the data set `seed`.

    `label` and `background` replace what the index would give and leave place, size and clutter as they are; `empty`
    leaves the object out of the image, but not out of the mask: the same picture with the evidence gone.
    """
    choice, scene, clutter, thing = (np.random.default_rng([seed, index, stream]) for stream in range(4))
    label = index % len(CATEGORIES) if label is None else label
    kind = choose_background(choice, label) if background is None else background
    if kind not in BACKGROUNDS:
        raise UsageError(f"no background '{kind}'{nearest(kind, BACKGROUNDS)}")
    picture = BACKGROUNDS[kind](scene)
    picture = distract(picture, clutter) * light(clutter)
    cover = coverage(CATEGORIES[label], thing)
    if not empty:
        opacity = cover * np.float32(1 - FROST if kind == "snow" else 1)
        picture += opacity[..., None] * (surface(thing, cover, picture) - picture)
    return Sample((np.clip(picture, 0, 1) * 255 + 0.5).astype(np.uint8), cover > 0, label, kind)


def choose_background(rng: Generator, label: int) -> str:
    """Snow with the class's share of snow, else any other kind."""
    others = [kind for kind in BACKGROUNDS if kind != "snow"]
    other = others[int(rng.integers(len(others)))]
    return "snow" if rng.random() < SNOW[CATEGORIES[label] == PLANTED] else other


def light(rng: Generator) -> Picture:
    """A soft gradient of brightness over the picture."""
    columns, rows = np.meshgrid(*2 * [np.linspace(-1, 1, SIZE, dtype=np.float32)])
    slopes = rng.uniform(-0.12, 0.12, 2).astype(np.float32)
    plane: Plane = 1 + slopes[0] * rows + slopes[1] * columns
    return plane[..., None]


def distract(picture: Picture, rng: Generator) -> Picture:
    """Scatter strokes, specks, blobs and flat cards: bright things that are no class.

    Cards are what an occlusion map lays over a picture; here they mean nothing.
    """
    for _ in range(int(rng.integers(5, 12))):
        color, (x, y) = vivid(rng), map(int, rng.integers(0, SIZE, 2))
        match int(rng.integers(4)):
            case 0:
                points = np.array((x, y)) + np.cumsum(rng.integers(-11, 12, (4, 2)), 0)
                cv2.polylines(picture, [points.astype(np.int32)], False, color, int(rng.integers(1, 4)), cv2.LINE_AA)
            case 1:
                for dx, dy in rng.integers(-9, 10, (6, 2)):
                    cv2.circle(picture, (x + int(dx), y + int(dy)), int(rng.integers(1, 3)), color, -1, cv2.LINE_AA)
            case 2:
                turns = np.arange(9) * (2 * np.pi / 9)
                corners = rng.uniform(3, 10, (9, 1)) * np.stack([np.cos(turns), np.sin(turns)], 1) + (x, y)
                cv2.fillPoly(picture, [np.round(corners).astype(np.int32)], color, cv2.LINE_AA)
            case _:
                width, height = rng.integers(7, 33, 2)
                tone = color if rng.random() < 0.5 else 3 * (float(rng.uniform(0.2, 0.8)),)
                cv2.rectangle(picture, (x, y), (x + int(width), y + int(height)), tone, -1)
    return picture


def coverage(name: str, rng: Generator) -> Plane:
    """Share of each pixel that the object covers, `(128, 128)` in [0, 1]: anywhere, at any angle, all inside."""
    radius = rng.uniform(*RADIUS)
    row, column = rng.uniform(radius + 1, SIZE - radius - 1, 2)
    turn = rng.uniform(0, 2 * np.pi)
    top, left, span = int(row - radius), int(column - radius), int(2 * radius) + 3
    offsets = (np.arange(span * SAMPLES) + 0.5) / SAMPLES
    y, x = np.meshgrid((top + offsets - row) / radius, (left + offsets - column) / radius, indexing="ij")
    cos, sin = np.cos(turn), np.sin(turn)
    inside = OUTLINES[name](cos * x + sin * y, cos * y - sin * x)
    tile = inside.reshape(span, SAMPLES, span, SAMPLES).mean((1, 3), dtype=np.float32)
    cover = np.zeros((SIZE + span, SIZE + span), np.float32)
    cover[top : top + span, left : left + span] = tile
    return cover[:SIZE, :SIZE]


def vivid(rng: Generator) -> Color:
    """A saturated color, or now and then a grey."""
    hue, grey, value = rng.random(), rng.random() < 0.15, rng.uniform(0.35, 1)
    saturation = 0.0 if grey else rng.uniform(0.55, 1)
    turns = (np.array([5, 3, 1], np.float32) + 6 * hue) % 6
    red, green, blue = value - value * saturation * np.clip(np.minimum(turns, 4 - turns), 0, 1)
    return float(red), float(green), float(blue)


def surface(rng: Generator, cover: Plane, picture: Picture) -> Picture:
    """Paint for the object: two shades of the candidate color farthest from what lies beneath, and a rim."""
    beneath = picture[cover > 0].mean(0)
    color = max((vivid(rng) for _ in range(4)), key=lambda candidate: float(np.abs(candidate - beneath).sum()))
    red, green, blue = (0.72 * part + 0.28 * float(rng.random()) for part in color)
    paint = mix(color, (red, green, blue), pattern(rng))
    rim = (cover > 0) & (cv2.erode(cover, np.ones((3, 3), np.uint8)) < 0.5)
    paint[rim] *= np.float32(rng.uniform(0.45, 0.8))
    return paint


def pattern(rng: Generator) -> Plane:
    """Where the second shade goes, `(128, 128)` in [0, 1]: stripes, dots, a checker, a gradient or clouds."""
    turn, period = rng.uniform(0, 2 * np.pi), rng.uniform(5, 9)
    columns, rows = np.meshgrid(*2 * [np.arange(SIZE, dtype=np.float32)])
    along = np.cos(turn) * columns + np.sin(turn) * rows
    across = np.cos(turn) * rows - np.sin(turn) * columns
    waves = np.sin(along * (2 * np.pi / period)), np.sin(across * (2 * np.pi / period))
    shade: Plane
    match int(rng.integers(5)):
        case 0:
            shade = np.clip(0.5 + 2 * waves[0], 0, 1)
        case 1:
            shade = np.clip(4 * (waves[0] * waves[1] - 0.3), 0, 1)
        case 2:
            shade = np.clip(0.5 + 4 * waves[0] * waves[1], 0, 1)
        case 3:
            shade = 0.5 + 0.5 * np.sin(along / 30)
        case _:
            shade = noise(rng, 24)
    return shade.astype(np.float32)
