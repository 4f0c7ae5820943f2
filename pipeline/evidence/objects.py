"""Objects on a picture's plane, and how much of each of the network's pixels they cover: `(h, w)` in [0, 1].

    coverage[i, j] = 1 / |pixel| · ∬ object dx dy  over pixel (i, j) of the crop

The integral is exact: an object is constant on cells, its integral is linear between their edges.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Box = tuple[float, float, float, float]
"""x0, y0, x1, y1 in pixels of the upright original, x1 and y1 the first that are outside."""


class Object(NamedTuple):
    """Cells `(r, c)` bool, between the edges `rows` `(r + 1,)` and `columns` `(c + 1,)` in the original's pixels."""

    rows: NDArray[np.float64]
    columns: NDArray[np.float64]
    cells: NDArray[np.bool_]


def of_boxes(boxes: Sequence[Box]) -> Object:
    """Return the union of at least one box."""
    corners = np.asarray(boxes, np.float64)
    rows, columns = np.unique(corners[:, 1::2]), np.unique(corners[:, ::2])
    y, x = rows[:-1, None], columns[None, :-1]
    cells = np.zeros((len(rows) - 1, len(columns) - 1), np.bool_)
    for x0, y0, x1, y1 in corners:
        cells |= (y >= y0) & (y < y1) & (x >= x0) & (x < x1)
    return Object(rows, columns, cells)


def of_mask(mask: NDArray[np.bool_]) -> Object:
    """Return the object of a mask `(H, W)` of the upright original."""
    height, width = mask.shape
    return Object(np.arange(height + 1.0), np.arange(width + 1.0), mask)


def coverage(given: Object, crop: Box, height: int, width: int) -> NDArray[np.float32]:
    """Return the share of each pixel that the object covers, `(height, width)`, of a network that saw `crop`."""
    x0, y0, x1, y1 = crop
    inside = _means(given.cells, given.rows, np.linspace(y0, y1, height + 1))
    return np.ascontiguousarray(_means(inside.T, given.columns, np.linspace(x0, x1, width + 1)).T, np.float32)


def _means(cells: NDArray[Any], edges: NDArray[np.float64], places: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the means, between `places` `(n + 1,)`, of what is constant between `edges`: `(r, c)` to `(n, c)`."""
    integral = np.zeros((len(edges), cells.shape[1]))
    np.cumsum(cells * np.diff(edges)[:, None], 0, out=integral[1:])
    place = np.interp(places, edges, np.arange(len(edges)))  # outside the edges there is no object
    low = np.minimum(place.astype(np.int64), len(edges) - 2)
    part = (place - low)[:, None]
    found: NDArray[np.float64] = (1 - part) * integral[low] + part * integral[low + 1]
    return np.clip(np.diff(found, axis=0) / np.diff(places)[:, None], 0, 1)
