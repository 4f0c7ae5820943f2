"""Neighbors are those of a search through all differences in float64, ties by place, near-duplicates included."""

import pytest
import torch
from torch import Tensor

from afterimage.ops import tile_product
from afterimage.ops.tile_convolution import has_tiles
from afterimage.vectors import neighbors as module
from afterimage.vectors.neighbors import neighbors


def brute_force(base: Tensor, count: int, metric: str, queries: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return ids and distances by the definition, a query at a time."""
    own, all_of = queries is None, base.double()
    ids, distances = [], []
    for place, query in enumerate((base if queries is None else queries).double()):
        if metric == "cosine":
            unit = all_of / all_of.norm(dim=1, keepdim=True)
            found = (unit - query / query.norm()).square().sum(1) / 2
        else:
            found = (all_of - query).square().sum(1).sqrt()
        if own:
            found[place] = torch.inf
        nearest, order = found.sort(stable=True)
        ids.append(order[:count])
        distances.append(nearest[:count])
    return torch.stack(ids), torch.stack(distances)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def near_duplicates() -> Tensor:
    """Groups of vectors that differ by a 100,000th of their length, far from the origin, and twins."""
    centers = normal(20, 48) * 10 + 300
    close = (centers[:, None] + 1e-3 * normal(20, 30, 48, seed=1)).flatten(0, 1)
    return torch.cat([close, close[:40], torch.full((30, 48), 300.0)])


SETS = {
    "normal": normal(900, 64),
    "half": normal(300, 33).half(),
    "near duplicates": near_duplicates(),
    "large": normal(120, 5) * 1e25,
    "small": normal(120, 5) * 1e-25,
    "an outlier": torch.cat([normal(200, 16), torch.full((1, 16), 1e6)]),
    "whole numbers": torch.randint(0, 3, (500, 6), generator=torch.Generator().manual_seed(0)).float(),
    "all alike": torch.ones(70, 4),
    "a narrow cluster": 1 + 1e-6 * normal(600, 64),
    "a narrow cluster, far away": 1000 + 1e-3 * normal(600, 64).double(),
}


@pytest.fixture(autouse=True, params=[False, True], ids=["products", "tiles"])
def small_blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param and not has_tiles():
        pytest.skip("this processor has no AMX, or AFTERIMAGE_ISA or AFTERIMAGE_KERNELS hides it")
    monkeypatch.setattr(module, "has_tiles", lambda: request.param)
    monkeypatch.setattr(module, "BLOCK", 64)
    monkeypatch.setattr(tile_product, "ACROSS", 24)


@pytest.mark.parametrize("metric", ["l2", "cosine"])
@pytest.mark.parametrize("name", SETS)
def test_neighbors_are_those_of_brute_force(name, metric):
    base, before = SETS[name], SETS[name].clone()
    for queries, count in ((None, 10), (base[:33] + 0 * base[:33], 7)):
        found = neighbors(base, count, metric, queries)
        ids, distances = brute_force(base, count, metric, queries)
        assert torch.equal(found.ids, ids)
        # of roots of sums of squares in float64, kept in float32
        torch.testing.assert_close(found.distances, distances.float(), rtol=1e-6, atol=1e-7 * float(distances.max()))
    assert torch.equal(base, before)


@pytest.mark.parametrize("metric", ["l2", "cosine"])
def test_packed_columns_need_not_be_kept(metric, monkeypatch):
    expected = neighbors(SETS["normal"], 10, metric)
    monkeypatch.setattr(module, "PACKED", 2**16)
    assert torch.equal(neighbors(SETS["normal"], 10, metric).ids, expected.ids)


def test_no_queries_have_no_neighbors():
    found = neighbors(normal(9, 3), 4, queries=normal(9, 3)[:0])
    assert (found.ids.shape, found.distances.shape) == ((0, 4), (0, 4))


def test_all_others_can_be_asked_for_and_no_more():
    base = normal(9, 3)
    assert neighbors(base, 8).ids.sort(1).values.tolist() == [[i for i in range(9) if i != j] for j in range(9)]
    assert neighbors(base, 9, queries=base).ids[:, 0].tolist() == list(range(9))
    with pytest.raises(ValueError, match="expected 1 to 8 neighbors, got 9"):
        neighbors(base, 9)


def test_bounds_are_lower_than_distances():
    base = near_duplicates()
    search = module._Search(base, None, "l2", 5)
    exact = torch.cdist(base.double(), base.double(), compute_mode="donot_use_mm_for_euclid_dist").square()
    rows = module._turned(search.rows[: module.BLOCK])
    left = tile_product.rows(rows) if search.tiles else rows
    starts = range(0, len(base), module.BLOCK)
    bounds = torch.cat([search._pairs(left, rows, first, False).block().clone() for first in starts], 1)
    exact = exact[: len(rows)]
    assert (-bounds.double() <= exact * 0.5 * search.scale**2).all()


def test_few_queries_of_common_data_are_searched_again(monkeypatch):
    again = []
    monkeypatch.setattr(module._Search, "_again", lambda self, query, reached: again.append(query))
    neighbors(normal(2000, 128), 10)
    assert not again
