"""Rows of what is done with embeddings: exact neighbors, and principal components of many vectors.

The vectors are those of photographs in kind: activations that are not negative, of a spectrum that falls, in float32.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.agreement import Agreement, Arrays, largest_difference
from benchmarks.outcome import Outcome
from benchmarks.row import ONCE, Configuration, Role, Row

Vectors = NDArray[np.float32]
Call = Callable[[], object]
COUNT, KEPT, PART = 10, 50, 512
"""Neighbors; components; vectors in a shard."""


def strangers(outputs: Arrays, expected: Arrays) -> float:
    """Share of neighbors that are not those expected, whatever their order."""
    pairs = zip(outputs["ids"].tolist(), expected["ids"].tolist(), strict=True)
    return float(np.mean([len(set(theirs) - set(ours)) / len(theirs) for ours, theirs in pairs]))


SAME = Agreement(strangers, 1e-4, "share of other neighbors: peers compare by products in float32, ours by differences")
CLOSE = Agreement(
    largest_difference, 1e-6, "variances, and the data's squares along each axis: what float64 keeps of float32 data"
)
APPROXIMATE = Agreement(
    largest_difference, 0.05, "components are merged after each batch, of which only so many are kept"
)


def rows(quick: bool) -> Iterator[Row]:
    """Neighbors beside scikit-learn and faiss, components beside scikit-learn's solvers."""
    yield _row(
        "neighbors",
        {"count": 2000, "size": 64} if quick else {"count": 50_000, "size": 512},
        f"exact {COUNT} nearest of each",
        [
            ("afterimage", "neighbors", "ours"),
            ("scikit-learn", "sklearn_neighbors", "peer"),
            ("faiss flat", "faiss_neighbors", "peer"),
        ],
        SAME,
    )
    work = {"count": 3000, "size": 128} if quick else {"count": 100_000, "size": 2048}
    solvers = [("afterimage", "pca", "ours"), ("covariance_eigh, float64", "sklearn_pca", "peer")]
    yield _row("pca", work, f"first {KEPT} principal components", solvers, CLOSE)
    loose = [("afterimage", "pca", "ours"), ("IncrementalPCA", "sklearn_incremental", "peer")]
    loose.append(("covariance_eigh, float32", "sklearn_pca_single", "peer"))
    yield _row("pca.loose", work, f"first {KEPT} principal components, loosely", loose, APPROXIMATE)


def _row(
    name: str, work: dict[str, int], title: str, configurations: list[tuple[str, str, Role]], agreement: Agreement
) -> Row:
    found = (Configuration(one, f"benchmarks.vectors:{setup}", role, work) for one, setup, role in configurations)
    of = f"{work['count']:,} × {work['size']}, float32"
    return Row(f"vectors.{name}", f"{title}, {of}", tuple(found), agreement, items=work["count"], item="vector", **ONCE)


def vectors(count: int, size: int) -> Vectors:
    """Return rectified vectors whose spectrum falls, and whose mean is not zero."""
    random = np.random.default_rng(0)
    mixed = (
        random.standard_normal((size, size), np.float32) * (np.arange(1, size + 1, dtype=np.float32) ** -0.5)[:, None]
    )
    made = np.empty((count, size), np.float32)
    for start in range(0, count, 4096):
        part = random.standard_normal((min(4096, count - start), size), np.float32)
        np.maximum(part @ mixed + 0.5, 0, out=made[start : start + 4096])
    return made


def neighbors(count: int, size: int) -> Call:
    """Ours."""
    import torch

    from afterimage.vectors.neighbors import neighbors as search

    return _warmed(lambda given: {"ids": search(torch.from_numpy(given), COUNT).ids}, count, size)


def sklearn_neighbors(count: int, size: int) -> Call:
    """scikit-learn's search without a tree."""
    from sklearn.neighbors import NearestNeighbors

    method = NearestNeighbors(n_neighbors=COUNT, algorithm="brute")
    return _warmed(lambda given: {"ids": method.fit(given).kneighbors(return_distance=False)}, count, size)


def faiss_neighbors(count: int, size: int) -> Call:
    """faiss without an index: each vector finds itself as well, which is left out."""
    import faiss

    def search(given: Vectors) -> dict[str, Any]:
        index = faiss.IndexFlatL2(size)
        index.add(given)
        ids = index.search(given, COUNT + 1)[1]
        order = np.argsort(ids == np.arange(len(given))[:, None], axis=1, kind="stable")
        return {"ids": np.take_along_axis(ids, order, 1)[:, :COUNT]}

    return _warmed(search, count, size)


def pca(count: int, size: int) -> Call:
    """Ours, of vectors that come in shards."""
    from afterimage.vectors.pca import components, moments

    def solve(given: Vectors) -> Outcome:
        parts = (given[start : start + PART] for start in range(0, len(given), PART))
        found = components(moments(parts), KEPT)
        return _described(given, found.axes, found.variances)

    return _warmed(solve, count, size)


def sklearn_pca(count: int, size: int) -> Call:
    """scikit-learn's eigendecomposition of the covariance, in float64, all vectors in memory."""
    return _solved("covariance_eigh", count, size, np.float64)


def sklearn_pca_single(count: int, size: int) -> Call:
    """The same in the vectors' own precision."""
    return _solved("covariance_eigh", count, size, np.float32)


def sklearn_incremental(count: int, size: int) -> Call:
    """scikit-learn's merging of singular vectors, batches of its own size."""
    return _solved(None, count, size, np.float32)


def _solved(solver: str | None, count: int, size: int, precision: type) -> Call:
    from sklearn.decomposition import PCA, IncrementalPCA

    def solve(given: Vectors) -> Outcome:
        method = PCA(KEPT, svd_solver=solver) if solver else IncrementalPCA(KEPT)
        found = method.fit(given.astype(precision, copy=False))
        return _described(given, found.components_, found.explained_variance_)

    return _warmed(solve, count, size)


def _warmed(work: Callable[[Vectors], object], count: int, size: int) -> Call:
    """Do the work on a few vectors, which imports what it needs, and return it for all."""
    given = vectors(count, size)
    work(given[:200])
    return lambda: work(given)


def _described(given: Vectors, axes: NDArray[Any], variances: NDArray[Any]) -> Outcome:
    """What components are compared by, whatever their signs: variances, and those of some vectors along the axes."""

    def collect() -> dict[str, Any]:
        some = given[:: max(1, len(given) // 1000)].astype(np.float64)
        along = (some - some.mean(0)) @ axes.T.astype(np.float64)
        return {"variances": variances, "along": np.square(along).mean(0)}

    return Outcome(collect)
