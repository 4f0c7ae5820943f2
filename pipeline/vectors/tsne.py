"""t-SNE: a map on which neighbors stay neighbors, by openTSNE on the exact neighbors of `neighbors`.

van der Maaten, Hinton, Visualizing data using t-SNE, JMLR 9, 2008; new points: Poličar, Stražar, Zupan, Embedding to
reference t-SNE space addresses batch effects in single-cell classification, Machine Learning 112, 2023. The start is
the first two principal components, scaled down: Kobak, Berens, The art of using t-SNE, Nature Communications 10, 2019.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from afterimage.errors import UsageError

from .neighbors import neighbors

Array = NDArray[np.float64]
FEWEST = 7
"""Points below which there is no map: a perplexity of 2 needs six neighbors."""
PLACING = 5.0
"""Perplexity by which new points find their places, openTSNE's own."""


def fitting_perplexity(count: int, wanted: float | None) -> float:
    """Return the perplexity for so many points: the one wanted, or 30 and less where there are fewer than 91.

    Raises `UsageError` for points too few, or too few for the perplexity wanted.
    """
    if count < FEWEST:
        raise UsageError(f"t-SNE: expected at least {FEWEST} images, got {count}; use --method pca")
    most = (count - 1) / 3
    if wanted is not None and not 1 <= wanted <= most:
        raise UsageError(f"perplexity: expected 1 to {most:.4g}, a third of the other images, got {wanted:g}")
    return min(30.0, most) if wanted is None else wanted


def required() -> None:
    """Raise `UsageError` where openTSNE is not installed."""
    try:
        import openTSNE  # noqa: F401
    except ImportError as error:
        raise UsageError("t-SNE needs openTSNE: pip install 'afterimage[tsne]', or --method pca") from error


def tsne(scores: Array, perplexity: float, seed: int = 0) -> Array:
    """Return the map (N, 2) of points (N, k), of which the first two columns are principal components."""
    from openTSNE import TSNE
    from openTSNE.initialization import rescale

    start = np.zeros((len(scores), 2))
    start[:, : scores.shape[1]] = scores[:, :2]
    if not start[:, 0].std():
        raise UsageError("t-SNE: all vectors are alike; there is nothing to lay out")
    method = TSNE(random_state=seed, n_jobs=torch.get_num_threads())
    return np.asarray(method.fit(affinities=_affinities(scores, perplexity, seed), initialization=rescale(start)))


def placed(scores: Array, layout: Array, new: Array, perplexity: float, seed: int = 0) -> Array:
    """Return places (M, 2) of new points (M, k) on the map `layout` (N, 2) of points (N, k), which stays as it is.

    Each new point is placed for itself, whatever others come with it.
    """
    from openTSNE import TSNEEmbedding

    affinities = _affinities(scores, perplexity, seed)
    there = TSNEEmbedding(layout, affinities, random_state=seed, n_jobs=torch.get_num_threads())
    few = min(PLACING, len(scores) / 3)
    middle = (layout.max(0) + layout.min(0)) / 2  # which openTSNE moves to the origin
    found: Array = np.asarray(there.transform(new, perplexity=few, k=min(25, len(scores)))) + middle
    return found


def _affinities(scores: Array, perplexity: float, seed: int) -> Any:
    from openTSNE.affinity import PerplexityBasedNN
    from openTSNE.nearest_neighbors import KNNIndex

    class Exact(KNNIndex):  # type: ignore[misc]
        """openTSNE's index of neighbors, searched by ours."""

        VALID_METRICS = ("euclidean",)

        def build(self) -> tuple[NDArray[np.int64], Array]:
            return _arrays(torch.from_numpy(self.data), self.k, None)

        def query(self, query: Array, k: int) -> tuple[NDArray[np.int64], Array]:
            return _arrays(torch.from_numpy(self.data), k, torch.from_numpy(query))

    count = max(1, min(len(scores) - 1, int(3 * perplexity)))
    index = Exact(scores, count, random_state=seed)
    return PerplexityBasedNN(perplexity=perplexity, knn_index=index, n_jobs=torch.get_num_threads(), random_state=seed)


def _arrays(base: torch.Tensor, count: int, queries: torch.Tensor | None) -> tuple[NDArray[np.int64], Array]:
    found = neighbors(base, count, queries=queries)
    return found.ids.numpy(), found.distances.double().numpy()
