"""Background: a random generator to a textured picture `(128, 128, 3)`, float32 sRGB about [0, 1]."""

from collections.abc import Callable

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from afterimage.models.demo import SIZE

Picture = NDArray[np.float32]
Plane = NDArray[np.float32]
Color = tuple[float, float, float]


def noise(rng: Generator, rows: int, columns: int | None = None) -> Plane:
    """Smooth noise in [0, 1] with `rows` × `columns` random cells, `(128, 128)`."""
    cells = rng.random((rows, columns or rows), np.float32)
    return np.clip(cv2.resize(cells, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC), 0, 1)


def mix(low: Color, high: Color, amount: Plane) -> Picture:
    """The color from `low` (amount 0) to `high` (amount 1), pixel by pixel."""
    start, end = np.array(low, np.float32), np.array(high, np.float32)
    return start + (end - start) * amount[..., None]


def grain(rng: Generator, strength: float) -> Picture:
    """Noise of single pixels, the same in the three channels."""
    return strength * (rng.random((SIZE, SIZE, 1), np.float32) - np.float32(0.5))


def grass(rng: Generator) -> Picture:
    """Blades of many greens."""
    picture = mix((0.08, 0.24, 0.06), (0.25, 0.45, 0.12), noise(rng, 10))
    blades, shades = rng.integers((0, 0, -5, 6), (SIZE, SIZE + 12, 6, 16), (260, 4)), rng.random(260)
    for (x, y, dx, dy), shade in zip(blades, shades, strict=True):
        color = (0.15 + 0.35 * shade, 0.35 + 0.4 * shade, 0.08 + 0.12 * shade)
        cv2.line(picture, (int(x), int(y)), (int(x + dx), int(y - dy)), color, 1, cv2.LINE_AA)
    return picture


def sand(rng: Generator) -> Picture:
    """Fine grains over wind ripples."""
    rows, columns = np.mgrid[:SIZE, :SIZE].astype(np.float32)
    ripples = 0.5 + 0.5 * np.sin(rows * rng.uniform(0.25, 0.5) + columns * rng.uniform(-0.15, 0.15) + 9 * noise(rng, 4))
    return mix((0.66, 0.52, 0.33), (0.87, 0.75, 0.53), 0.6 * ripples + 0.4 * noise(rng, 6)) + grain(rng, 0.22)


def water(rng: Generator) -> Picture:
    """Waves with glints."""
    rows = np.arange(SIZE, dtype=np.float32)[:, None]
    waves = 0.5 + 0.5 * np.sin(rows * rng.uniform(0.5, 0.8) + 11 * noise(rng, 7, 5))
    glints: Plane = np.clip(3 * waves * noise(rng, 40, 12) - 1.9, 0, 1)
    return mix((0.03, 0.22, 0.42), (0.16, 0.52, 0.68), waves * (0.5 + 0.5 * noise(rng, 5))) + glints[..., None]


def brick(rng: Generator) -> Picture:
    """Courses of bricks, each of its own red, with mortar between."""
    height, width = int(rng.integers(11, 16)), int(rng.integers(24, 34))
    rows, columns = np.mgrid[:SIZE, :SIZE] + rng.integers(0, width, (2, 1, 1))
    course = rows // height
    columns = columns + course % 2 * (width // 2)
    shade = rng.random((40, 40), np.float32)[course % 40, columns // width % 40]
    mortar = (rows % height < 2) | (columns % width < 2)
    picture = mix((0.45, 0.16, 0.1), (0.72, 0.36, 0.24), shade) + grain(rng, 0.1)
    picture[mortar] = np.array((0.68, 0.64, 0.58), np.float32) + grain(rng, 0.1)[mortar]
    return picture


def night(rng: Generator) -> Picture:
    """A dark sky with a band of haze and stars."""
    picture = mix((0.01, 0.01, 0.06), (0.2, 0.13, 0.34), noise(rng, 4) ** 2)
    count = int(rng.integers(90, 180))
    rows, columns = rng.integers(0, SIZE, (2, count))
    picture[rows, columns] += rng.random((count, 1), np.float32)
    for x, y in rng.integers(0, SIZE, (count // 10, 2)):
        cv2.circle(picture, (int(x), int(y)), 1, (0.95, 0.93, 0.8), -1, cv2.LINE_AA)
    return picture


def wood(rng: Generator) -> Picture:
    """Planks with grain along them."""
    width = int(rng.integers(20, 34))
    columns = np.mgrid[:SIZE, :SIZE][1] + int(rng.integers(0, width))
    lines = 0.5 + 0.5 * np.sin(columns * np.float32(0.9) + 14 * noise(rng, 3, 14))
    shade = rng.random(SIZE, np.float32)[columns // width]
    picture = mix((0.34, 0.2, 0.1), (0.68, 0.47, 0.27), 0.45 * lines + 0.4 * shade + 0.15 * noise(rng, 4, 30))
    picture[columns % width < 2] *= np.float32(0.45)
    return picture + grain(rng, 0.06)


def pebbles(rng: Generator) -> Picture:
    """Voronoi cells, darker towards their seams."""
    seeds = np.full((SIZE, SIZE), 255, np.uint8)
    x, y = rng.integers(0, SIZE, (2, 150))
    seeds[y, x] = 0
    distance, cells = cv2.distanceTransformWithLabels(seeds, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    shade = rng.random(int(cells.max()) + 1, np.float32)[cells]
    stone = mix((0.36, 0.35, 0.36), (0.74, 0.7, 0.64), shade) + grain(rng, 0.06)
    seams: Plane = np.clip(1.15 - distance / 9, 0.25, 1).astype(np.float32)
    return stone * seams[..., None]


def leaves(rng: Generator) -> Picture:
    """Fallen leaves over each other."""
    picture = mix((0.2, 0.1, 0.05), (0.36, 0.2, 0.08), noise(rng, 8))
    spots, shades = rng.integers((0, 0, 5, 0), (SIZE, SIZE, 10, 180), (150, 4)), rng.random((150, 2))
    for (x, y, length, angle), (red, tone) in zip(spots, shades, strict=True):
        color = (0.4 + 0.5 * tone, (0.12 + 0.5 * red) * (0.5 + tone), 0.04 + 0.1 * tone)
        axes = int(length), int(length) // 3 + 1
        cv2.ellipse(picture, (int(x), int(y)), axes, int(angle), 0, 360, color, -1, cv2.LINE_AA)
    return picture


def wall(rng: Generator) -> Picture:
    """Painted plaster of any color with scribbles all over."""
    low = rng.uniform(0.25, 0.6, 3)
    picture = mix(tuple(low), tuple(low + 0.2), noise(rng, 9)) + grain(rng, 0.05)
    for _ in range(int(rng.integers(10, 18))):
        points = np.cumsum(rng.integers(-14, 15, (7, 2)), 0) + rng.integers(0, SIZE, 2)
        color = tuple(map(float, rng.uniform(0.1, 0.9, 3)))
        cv2.polylines(picture, [points.astype(np.int32)], False, color, int(rng.integers(1, 3)), cv2.LINE_AA)
    return picture


def fabric(rng: Generator) -> Picture:
    """Woven threads of two colors, with stripes."""
    rows, columns = np.mgrid[:SIZE, :SIZE]
    weave = ((rows // 2 + columns // 2) % 2).astype(np.float32)
    period = int(rng.integers(14, 26))
    stripes = ((columns % period < period // 3) | (rows % period < period // 4)).astype(np.float32)
    low, high = rng.uniform(0.15, 0.5, 3), rng.uniform(0.35, 0.75, 3)
    return mix(tuple(low), tuple(high), 0.3 * weave + 0.5 * stripes + 0.2 * noise(rng, 7)) + grain(rng, 0.05)


def snow(rng: Generator) -> Picture:
    """Bluish drifts, sparkles, and flakes in the air."""
    drifts = 0.7 * noise(rng, 4, 3) + 0.3 * noise(rng, 12, 7)
    picture = mix((0.52, 0.64, 0.84), (0.86, 0.92, 1.0), drifts) + grain(rng, 0.07)
    for x, y, radius in rng.integers((0, 0, 1), (SIZE, SIZE, 4), (110, 3)):
        cv2.circle(picture, (int(x), int(y)), int(radius), (1.0, 1.0, 1.0), -1, cv2.LINE_AA)
    return picture


BACKGROUNDS: dict[str, Callable[[Generator], Picture]] = {
    kind.__name__: kind for kind in (brick, fabric, grass, leaves, night, pebbles, sand, snow, wall, water, wood)
}
