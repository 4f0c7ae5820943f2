"""Approximate nearest neighbors by faiss: an inverted file, of which more lists are searched until enough are found.

Jégou, Douze, Schmid, Product quantization for nearest neighbor search, 2011 (the inverted file, without quantization).
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import UsageError
from .neighbors import Metric, Neighbors, neighbors

SAMPLE = 500
"""Queries whose neighbors are searched exactly as well, to know the recall."""


class Approximate(NamedTuple):
    """Neighbors, and the share of the true ones among them, measured on a sample of the queries."""

    found: Neighbors
    recall: float


def approximate(base: Tensor, count: int, metric: Metric = "l2", recall: float = 0.95) -> Approximate:
    """Return neighbors of each of the vectors (N, D), so many that at least a share `recall` of the true ones is there.

    Raises `UsageError` where faiss is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise UsageError("approximate search needs faiss: pip install 'afterimage[ann]', or --search exact") from error
    vectors = base.float()
    if metric == "cosine":
        vectors = vectors / vectors.norm(dim=1, keepdim=True)
    lists = max(1, min(int(4 * len(base) ** 0.5), len(base) // 40))
    quantizer = faiss.IndexFlatL2(base.shape[1])
    index = faiss.IndexIVFFlat(quantizer, base.shape[1], lists)
    index.train(vectors[:: max(1, len(vectors) // (lists * 64))].numpy())
    index.add(vectors.numpy())
    sample = torch.arange(0, len(base), max(1, len(base) // SAMPLE))
    # A query is its own nearest neighbor, which is left out of both; twins of it may be left out instead.
    true = neighbors(base, count + 1, metric, base[sample]).ids
    probed = 1
    while True:
        index.nprobe = min(probed, lists)
        reached = _recall(_without(sample, *_searched(index, vectors[sample], count), count)[0], true, sample)
        if reached >= recall or index.nprobe == lists:
            break
        probed *= 2
    ids, squares = _searched(index, vectors, count)
    short = (ids < 0).any(1)
    if short.any():  # the lists that were probed hold too few
        index.nprobe = lists
        ids[short], squares[short] = _searched(index, vectors[short], count)
    ids, squares = _without(torch.arange(len(base)), ids, squares, count)
    distances = squares / 2 if metric == "cosine" else squares.clamp(min=0).sqrt()
    return Approximate(Neighbors(ids, distances), reached)


def _searched(index: Any, queries: Tensor, count: int) -> tuple[Tensor, Tensor]:
    squares, ids = index.search(queries.numpy(), count + 1)
    return torch.from_numpy(ids), torch.from_numpy(squares)


def _without(own: Tensor, ids: Tensor, squares: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Leave out of each row its own id, or else the last."""
    order = (ids == own[:, None]).int().argsort(dim=1, stable=True)[:, :count]
    return ids.gather(1, order), squares.gather(1, order)


def _recall(ids: Tensor, true: Tensor, own: Tensor) -> float:
    wanted = (true != own[:, None])[:, :, None]
    hit = ((true[:, :, None] == ids[:, None]) & wanted).any(2)
    return float(hit.sum()) / (len(ids) * ids.shape[1])
