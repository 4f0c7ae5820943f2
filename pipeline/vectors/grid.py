"""Points of a plane on a regular grid: every point gets a cell of its own, near its place.

The sum of squared distances between points and the middles of their cells is to be small. Up to `EXACT` points it is
the smallest there is, an assignment problem. Beyond, cells are halved again and again along their longer side, and so
are the points, by rank along it; then lattices of `WINDOW` × `WINDOW` cells are solved exactly, first those that span
the grid, whose cells lie far apart, at last windows of neighboring cells. No lattice's sum can rise, and every point
can come from anywhere to anywhere. Of 1,500 points in clusters, the sum is within 1 % of the optimum
(tests/vectors/test_grid.py).

Quadrianto et al., Kernelized Sorting, 2010, state the problem for pictures; the solver is Jonker and Volgenant's.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from afterimage.errors import UsageError

EXACT = 1024
"""Points up to which the assignment is the optimum."""
WINDOW = 8
PASSES = 2


class Grid(NamedTuple):
    """A grid of `rows` × `columns` cells, and the cell of every point: `row` and `column`, `(n,)` int32."""

    rows: int
    columns: int
    row: np.ndarray
    column: np.ndarray


def grid(points: np.ndarray, exact: int = EXACT, passes: int = PASSES) -> Grid:
    """Return a cell for each of the points `(n, 2)`, no cell twice; x grows with the column, y falls with the row.

    The grid is as square as it can be with less than a row of cells left empty. The same points give the same cells.
    Raises `UsageError` for points that are not finite.
    """
    if not np.isfinite(points).all():
        raise UsageError("expected finite points, got some that are not; make the projection anew")
    rows, columns = sides(len(points))
    places = spread(points, rows, columns)
    if len(points) <= exact:
        cells = _solve(places, _block(0, rows, 0, columns), columns)
    else:
        cells = _halved(places, rows, columns)
        for _ in range(passes):
            for stride, shift in _strides(rows, columns):
                _improve(places, cells, rows, columns, stride, shift)
    row, column = np.divmod(cells.astype(np.int32), max(columns, 1))
    return Grid(rows, columns, row, column)


def sides(count: int) -> tuple[int, int]:
    """Return rows and columns of the grid for so many points."""
    rows = max(1, round(count**0.5))
    return rows, max(1, -(-count // rows))


def spread(points: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Return points `(n, 2)` as row and column, so that they just fill the grid; cell (r, c) has its middle there."""
    places = np.stack([-points[:, 1], points[:, 0]], 1).astype(np.float64)
    if not len(places):
        return places
    low, high = places.min(0), places.max(0)
    extent = high - low
    middle = np.array([rows - 1, columns - 1]) / 2
    scale = np.divide(2 * middle, extent, out=np.zeros(2), where=extent > 0)
    made: np.ndarray = (places - (low + high) / 2) * scale + middle
    return made


def cost(points: np.ndarray, found: Grid) -> float:
    """Return the mean squared distance, in cells, between where the points would lie and where they are put."""
    places = spread(points, found.rows, found.columns)
    return float(((places - np.stack([found.row, found.column], 1)) ** 2).sum(1).mean())


def _block(top: int, bottom: int, left: int, right: int) -> np.ndarray:
    """Return rows and columns `(cells, 2)` of a rectangle of cells, row by row."""
    both = np.meshgrid(np.arange(top, bottom), np.arange(left, right), indexing="ij")
    return np.stack(both, -1).reshape(-1, 2)


def _solve(places: np.ndarray, cells: np.ndarray, columns: int) -> np.ndarray:
    """Return for each place `(n, 2)` the number of the one of `cells` `(m ≥ n, 2)` that is its own."""
    from scipy.optimize import linear_sum_assignment

    squared = ((places[:, None] - cells[None]) ** 2).sum(2)
    _, chosen = linear_sum_assignment(squared)
    own: np.ndarray = cells[chosen] @ np.array([columns, 1])
    return own


def _halved(places: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Return the numbers of cells found by halving cells and points down to single cells."""
    cells = np.empty(len(places), np.int64)
    waiting = [(np.arange(len(places)), 0, rows, 0, columns)]
    while waiting:
        chosen, top, bottom, left, right = waiting.pop()
        height, width = bottom - top, right - left
        if height * width == 1 or not len(chosen):
            cells[chosen] = top * columns + left
            continue
        axis = 0 if height >= width else 1
        half = max(height, width) // 2
        first, second = (
            (half * width, (height - half) * width) if axis == 0 else (half * height, (width - half) * height)
        )
        count = round(len(chosen) * first / (first + second))
        count = min(max(count, len(chosen) - second), first)
        ranked = chosen[np.argsort(places[chosen, axis], kind="stable")]
        middle = (top + half, left) if axis == 0 else (top, left + half)
        waiting.append((ranked[:count], top, middle[0] if axis == 0 else bottom, left, middle[1] if axis else right))
        waiting.append((ranked[count:], middle[0], bottom, middle[1], right))
    return cells


def _strides(rows: int, columns: int) -> Iterator[tuple[int, int]]:
    """Yield strides and shifts of the lattices to be solved, from those that span the grid down to windows."""
    stride = 1
    while stride * WINDOW < max(rows, columns):
        stride *= 2
    while stride:
        yield stride, 0
        yield stride, WINDOW // 2
        stride //= 2


def _improve(places: np.ndarray, cells: np.ndarray, rows: int, columns: int, stride: int, shift: int) -> None:
    """Solve each lattice of every `stride`-th cell, `WINDOW` × `WINDOW` of them, in place."""
    owner = np.full(rows * columns, -1, np.int64)
    owner[cells] = np.arange(len(cells))
    for window in _lattices(rows, columns, stride, shift):
        owners = owner[window @ np.array([columns, 1])]
        inside = owners[owners >= 0]
        if len(inside):
            cells[inside] = _solve(places[inside], window, columns)


def _lattices(rows: int, columns: int, stride: int, shift: int) -> Iterator[np.ndarray]:
    """Yield the lattices' cells `(m, 2)`; each cell is in one. Moved up and left by `shift` strides."""
    row, column = np.divmod(np.arange(rows * columns), columns)
    groups = np.zeros(rows * columns, np.int64)
    for along in (row, column):
        number, phase = np.divmod(along, stride)
        groups = (groups * stride + phase) * (len(along) // stride + 2) + (number + shift) // WINDOW
    order = np.argsort(groups, kind="stable")
    for part in np.split(order, np.flatnonzero(np.diff(groups[order])) + 1):
        yield np.stack([row[part], column[part]], 1)
