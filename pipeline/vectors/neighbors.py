"""Nearest neighbors of vectors, exactly: what is left out is proved to be farther away.

    ½‖a − b‖² = ½‖a‖² + ½‖b‖² − a·b ≥ (½ − γ)(‖a‖² + ‖b‖²) − a·b in float32,   γ = (D + 8) u / (1 − (D + 8) u)

Products of blocks in float32 give that lower bound for every pair (u = 2⁻²⁴; Higham, Accuracy and stability of
numerical algorithms, 2002, section 3.1; it holds for any order of summation), or those on matrix tiles, whose γ is that
of `ops.tile_product`. The pairs of the lowest bounds are measured by their differences in float64. A query whose last
neighbor does not lie below the bounds of all others is searched again, with every pair whose bound is as low as that.
So near-duplicates, of which the products know nothing, come out right.
"""

import math
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from ..ops import tile_product
from ..ops.exceeding import exceeding
from ..ops.tile_convolution import Maps, Weights, has_tiles

Metric = Literal["l2", "cosine"]
MARGIN = 8
"""Pairs measured beyond the neighbors asked for."""
BLOCK, STEP, MEASURED = 2048, 1024, 2**18
"""Rows, and columns, of a block of bounds; vectors that are made ready, and numbers that are in float64, at a time."""
PACKED = 2**30
"""Bytes of columns, as tiles, that are kept from one block of rows to the next."""


class Neighbors(NamedTuple):
    """Places (Q, k) of the nearest vectors, int64, and their distances (Q, k), float32; ties by place."""

    ids: Tensor
    distances: Tensor


def neighbors(base: Tensor, count: int, metric: Metric = "l2", queries: Tensor | None = None) -> Neighbors:
    """Return the nearest of vectors (N, D): of each query (Q, D), or of each of themselves but itself.

    All are finite, and for `cosine`, whose distance is 1 − cos, not zero. There have to be `count` others. No block of
    pairs is kept beyond its turn.
    """
    if queries is not None and not len(queries):
        return Neighbors(torch.empty(0, count, dtype=torch.int64), torch.empty(0, count))
    others = len(base) - (queries is None)
    if not 0 < count <= others:
        raise ValueError(f"expected 1 to {others} neighbors, got {count}")
    search = _Search(base, queries, metric, count)
    for start in range(0, len(search.rows), BLOCK):
        search.visit(start)
    return search.measured()


class _Best:
    """The highest values (Q, kept) so far, best first, and whose they are."""

    def __init__(self, queries: int, kept: int) -> None:
        self.values = torch.full((queries, kept), -math.inf)
        self.ids = torch.zeros((queries, kept), dtype=torch.int64)

    def offer(self, start: int, first: int, pairs: "_Products | _Tiles", both: bool) -> None:
        """Offer the queries from `start` the vectors from `first`, and, if `both`, these the queries."""
        height, width = pairs.shape
        rows = self.values[start : start + height, -1].clone()
        columns = self.values[first : first + width, -1].clone() if both else None
        found = pairs.exceeding(rows, columns, (height + width) * self.values.shape[1])
        if found is None:
            block = pairs.block()
            self._all(start, first, block)
            if both:
                self._all(first, start, block.T.contiguous())
            return
        places, values = found
        row, column = places // width, places % width
        self._few(row + start, column + first, values, values > rows[row])
        if columns is not None:
            order = column.argsort(stable=True)
            row, column, values = row[order], column[order], values[order]
            self._few(column + first, row + start, values, values > columns[column])

    def _all(self, start: int, first: int, block: Tensor) -> None:
        values, ids = block.topk(min(self.values.shape[1], block.shape[1]), dim=1)
        self._keep(torch.arange(start, start + len(block)), ids + first, values)

    def _few(self, queries: Tensor, ids: Tensor, values: Tensor, which: Tensor) -> None:
        """Keep the best of those of single values, which come by query."""
        queries, ids, values = queries[which], ids[which], values[which]
        if not len(queries):
            return
        found, group, counts = queries.unique_consecutive(return_inverse=True, return_counts=True)
        place = torch.arange(len(queries)) - (counts.cumsum(0) - counts)[group]
        width = int(counts.max())
        padded = torch.full((len(found), width), -math.inf)
        named = torch.zeros((len(found), width), dtype=torch.int64)
        padded[group, place], named[group, place] = values, ids
        self._keep(found, named, padded)

    def _keep(self, queries: Tensor, ids: Tensor, values: Tensor) -> None:
        together, named = torch.cat([self.values[queries], values], 1), torch.cat([self.ids[queries], ids], 1)
        self.values[queries], order = together.topk(self.values.shape[1], dim=1)
        self.ids[queries] = named.gather(1, order)


class _Products:
    """Bounds of a block of pairs, by products in float32; good until the next one, which lies in its place."""

    def __init__(self, rows: Tensor, columns: Tensor, memory: Tensor, diagonal: bool) -> None:
        self.shape = len(rows), len(columns)
        self.values = torch.mm(rows, columns.T, out=memory[: len(rows) * len(columns)].view(self.shape))
        if diagonal:
            self.values.fill_diagonal_(-math.inf)

    def exceeding(self, rows: Tensor, columns: Tensor | None, most: int) -> tuple[Tensor, Tensor] | None:
        return exceeding(self.values, rows, columns, most)

    def block(self) -> Tensor:
        return self.values


class _Tiles:
    """The same on matrix tiles, where a block is only written if most of it is wanted."""

    def __init__(self, left: Maps, right: Weights, height: int, memory: Tensor, diagonal: bool) -> None:
        self.shape = height, right.outputs
        self.left, self.right, self.memory, self.diagonal = left, right, memory, diagonal

    def exceeding(self, rows: Tensor, columns: Tensor | None, most: int) -> tuple[Tensor, Tensor] | None:
        return tile_product.exceeding(self.left, self.right, rows, columns, most, self.diagonal)

    def block(self) -> Tensor:
        values = tile_product.product(self.left, self.right, self.memory)[: self.shape[0]]
        return values.fill_diagonal_(-math.inf) if self.diagonal else values


class _Search:
    def __init__(self, base: Tensor, queries: Tensor | None, metric: Metric, count: int) -> None:
        self.base, self.count, self.metric, self.own = base, count, metric, queries is None
        self.queries = base if queries is None else queries
        mean = torch.stack([_double(part, metric).sum(0) for part in base.split(STEP)]).sum(0) / len(base)
        vectors = [_extended(one, metric, mean) for one in ([base] if self.own else [base, self.queries])]
        # Products of numbers as large or small as 1e30 have no place in float32.
        self.scale = 2.0 ** -math.frexp(max(_largest(one) for one in vectors))[1]
        self.tiles = has_tiles()
        self.packed: dict[int, Weights] = {}
        self.memory = torch.empty((BLOCK + tile_product.ACROSS) * BLOCK)
        units = (base.shape[1] + 8) * 2.0**-24
        error = tile_product.relative_error(base.shape[1] + 8) if self.tiles else units / (1 - units)
        for one in vectors:
            _square(one, self.scale, 0.5 - error, tile_product.least(base.shape[1] + 8) if self.tiles else 0.0)
        self.columns, self.rows = vectors[0], vectors[-1]
        self.best = _Best(len(self.rows), min(count + MARGIN, len(base) - self.own))

    def visit(self, start: int) -> None:
        """Offer a block of rows its bounds; of one's own vectors, a pair's bound serves both."""
        rows = _turned(self.rows[start : start + BLOCK])
        left = tile_product.rows(rows) if self.tiles else rows
        for first in range(start if self.own else 0, len(self.columns), BLOCK):
            diagonal = self.own and first == start
            self.best.offer(start, first, self._pairs(left, rows, first, diagonal), self.own and not diagonal)
        if self.own:
            self.packed.pop(start, None)

    def _pairs(self, left: Any, rows: Tensor, first: int, diagonal: bool) -> "_Products | _Tiles":
        columns = self.columns[first : first + BLOCK]
        if not self.tiles:
            return _Products(rows, columns, self.memory, diagonal)
        packed = self.packed.get(first)
        if packed is None:
            packed = tile_product.columns(columns)
            if len(self.packed) * packed.tiles.nbytes < PACKED:
                self.packed[first] = packed
        return _Tiles(left, packed, len(rows), self.memory, diagonal)

    def measured(self) -> Neighbors:
        """Measure the best pairs, and search again for the queries that this proves nothing of."""
        ids, squares = self._nearest()
        proved = squares[:, -1] * (0.5 * self.scale**2) < -self.best.values[:, -1].double()
        if self.best.values.shape[1] < len(self.base) - self.own:
            for query in (~proved).nonzero().flatten().tolist():
                ids[query], squares[query] = self._again(query, float(squares[query, -1]))
        return Neighbors(ids, (squares / 2 if self.metric == "cosine" else squares.sqrt()).float())

    def _nearest(self) -> tuple[Tensor, Tensor]:
        ids, _ = self.best.ids.sort(1)
        squares = _squares(self.queries, self.base, ids, self.metric)
        squares, order = squares.sort(dim=1, stable=True)
        return ids.gather(1, order)[:, : self.count], squares[:, : self.count]

    def _again(self, query: int, reached: float) -> tuple[Tensor, Tensor]:
        """Return the nearest of all whose bound is as low as a square that as many reach."""
        half = 0.5 * self.scale**2 * reached * (1 + 1e-12)
        row, found = _turned(self.rows[query : query + 1]), []
        for first in range(0, len(self.columns), STEP):
            values = (row @ self.columns[first : first + STEP].T)[0]
            found.append(first + (values.double() >= -half).nonzero().flatten())
        ids = torch.cat(found)
        ids = ids[ids != query] if self.own else ids
        one = self.queries[query : query + 1].expand(len(ids), -1)
        squares, order = _squares(one, self.base, ids[:, None], self.metric)[:, 0].sort(stable=True)
        return ids[order[: self.count]], squares[: self.count]


def _turned(rows: Tensor) -> Tensor:
    """Exchange the last two numbers, so that a row times a column is a·b less both squares."""
    return torch.cat([rows[:, :-2], rows[:, [-1, -2]]], 1)


def _double(vectors: Tensor, metric: Metric) -> Tensor:
    return _unit(vectors.double()) if metric == "cosine" else vectors.double()


def _unit(vectors: Tensor) -> Tensor:
    unit: Tensor = vectors / vectors.norm(dim=-1, keepdim=True)
    return unit


def _extended(vectors: Tensor, metric: Metric, mean: Tensor) -> Tensor:
    """Return vectors (N, D + 2), centered, with one behind them and room for their squares."""
    extended = torch.ones(len(vectors), vectors.shape[1] + 2)
    for part, given in zip(extended.split(STEP), vectors.split(STEP), strict=True):
        # rounded after the mean is gone: what is lost is small beside what is left
        part[:, :-2] = _double(given, metric) - mean
    return extended


def _largest(extended: Tensor) -> float:
    return max(float(part[:, :-2].abs().max()) for part in extended.split(STEP))


def _square(extended: Tensor, scale: float, share: float, least: float) -> None:
    """Scale vectors, and write what is left of their squares, negative and raised by `least`, behind them."""
    for part in extended.split(STEP):
        vectors = part[:, :-2].mul_(scale)
        part[:, -1] = least - share * vectors.double().square().sum(1)


def _squares(queries: Tensor, base: Tensor, ids: Tensor, metric: Metric) -> Tensor:
    """Return squared distances (Q, n) in float64 of queries (Q, D) to those of the base (N, D) that ids (Q, n) name."""
    # All in one memory: pieces that come and go between results that stay would tear up the heap.
    squares = torch.empty(ids.shape, dtype=torch.float64)
    step = max(1, MEASURED // (ids.shape[1] * base.shape[1]))
    memory = torch.empty((min(step, len(ids)), ids.shape[1], base.shape[1]), dtype=torch.float64)
    for out, part, given in zip(squares.split(step), ids.split(step), queries.split(step), strict=True):
        ours, theirs = given.double()[:, None], memory[: len(part)].copy_(base[part])
        if metric == "cosine":
            ours, theirs = _unit(ours), theirs.div_(theirs.norm(dim=-1, keepdim=True))
        torch.sum(theirs.sub_(ours).square_(), -1, out=out)
    return squares
