"""Points on a grid, against the optimum by scipy and by trying all."""

from itertools import permutations

import numpy as np
import pytest

from afterimage.errors import UsageError
from afterimage.vectors.grid import EXACT, Grid, cost, grid, sides, spread


def clusters(count: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    middles = random.normal(size=(10, 2)) * 5
    return middles[random.integers(0, 10, count)] + random.normal(size=(count, 2))


def apart(found: Grid, count: int) -> bool:
    inside = (found.row >= 0) & (found.row < found.rows) & (found.column >= 0) & (found.column < found.columns)
    cells = set(zip(found.row.tolist(), found.column.tolist(), strict=True))
    return bool(inside.all()) and len(cells) == len(found.row) == count


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7, 25, 100, 500, EXACT + 1, 3001])
def test_no_two_points_share_a_cell(count: int) -> None:
    found = grid(clusters(count, count))
    assert apart(found, count)
    assert 0 <= found.rows * found.columns - count < max(found.rows, 2)


@pytest.mark.parametrize("points", [np.zeros((1500, 2)), np.arange(3000.0).reshape(-1, 2), np.eye(2)[[0] * 1300 + [1]]])
def test_points_that_coincide_or_lie_on_a_line_get_cells_of_their_own(points: np.ndarray) -> None:
    assert apart(grid(points), len(points))


def test_points_that_are_a_grid_stay_where_they_are() -> None:
    for side in (4, 40):
        row, column = np.divmod(np.random.default_rng(1).permutation(side**2), side)
        found = grid(np.stack([3 * column - 7, -2.0 * row], 1))
        assert found.row.tolist() == row.tolist()
        assert found.column.tolist() == column.tolist()


def test_few_points_lie_at_the_optimum() -> None:
    points = clusters(5)
    rows, columns = sides(5)
    places = spread(points, rows, columns)
    cells = np.stack(np.mgrid[:rows, :columns], -1).reshape(-1, 2)
    least = min(((places - cells[list(tried)]) ** 2).sum(1).mean() for tried in permutations(range(len(cells)), 5))
    assert cost(points, grid(points)) == pytest.approx(least, rel=1e-12)


@pytest.mark.parametrize("count", [500, 1500])
def test_what_is_solved_in_parts_is_within_a_hundredth_of_the_optimum(count: int) -> None:
    points = clusters(count)
    best, parts = grid(points, exact=count), grid(points, exact=0)
    assert cost(points, best) <= cost(points, parts) <= 1.01 * cost(points, best)


def test_the_order_of_points_hardly_matters() -> None:
    points, order = clusters(1500), np.random.default_rng(2).permutation(1500)
    found, other = grid(points), grid(points[order])
    assert cost(points[order], other) == pytest.approx(cost(points, found), rel=0.005)  # ties and heuristics may differ


def test_points_that_are_not_finite_are_refused() -> None:
    with pytest.raises(UsageError, match="finite"):
        grid(np.array([[0, 1], [np.nan, 2]]))
