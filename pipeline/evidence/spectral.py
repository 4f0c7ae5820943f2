"""Kinds of evidence: heatmaps as profiles `(N, d)`, clustered, and compared between classes.

    L = I − D^(−1/2) A D^(−1/2),  A: symmetric graph of nearest neighbors;  clusters = argmax_k (λ_{k+1} − λ_k)

Lapuschkin, Wäldchen, Binder, Montavon, Samek, Müller, Unmasking Clever Hans predictors and assessing what machines
really learn, 2019 (arXiv:1902.10178): spectral relevance analysis.
"""

import math
from typing import NamedTuple

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ..drawing import strength

Profiles = NDArray[np.float32]
SIDE = 16
"""Places by which a profile tells evidence apart, along each side."""
FEWEST = 8
"""Profiles: fewer are not clustered."""
MOST_CLUSTERS = 8
SMALL = 0.25
"""Size of an outlying cluster, at most, as a share of the largest one's."""
FAR = 2.0
"""Distance of an outlying cluster to the nearest other, as a multiple of the clusters' typical radius."""
NEIGHBORS = 10


class Clusters(NamedTuple):
    """The cluster of each profile `(N,)`, the largest one 0; the eigenvalues; which clusters are outlying."""

    members: NDArray[np.int64]
    eigenvalues: NDArray[np.float64]
    outlying: list[int]


def profiles(heatmaps: Tensor) -> Tensor:
    """Return heatmaps' shares of evidence by place, `(N, 256)`, summing to 1; NaN where there is no evidence."""
    small = F.adaptive_avg_pool2d(strength(heatmaps), SIDE).flatten(1)
    return small / small.sum(1, keepdim=True)


def clusters(given: Profiles, seed: int = 0) -> Clusters | None:
    """Cluster one class's profiles, their number by the eigengap, down to one; None where they are too few."""
    if len(given) < FEWEST:
        return None
    values, vectors = _spectrum(given)
    gaps = np.diff(values[: min(MOST_CLUSTERS, len(given) - 1) + 1])
    count = int(gaps.argmax()) + 1
    if count == 1:
        return Clusters(np.zeros(len(given), np.int64), values, [])
    from sklearn.cluster import KMeans

    points = vectors[:, :count]
    found = KMeans(count, n_init=10, random_state=seed).fit_predict(points)
    order = np.argsort(-np.bincount(found, minlength=count), kind="stable")
    members = np.argsort(order)[found]
    return Clusters(members, values, _outlying(points, members))


def _spectrum(given: Profiles) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the Laplacian's eigenvalues, ascending, and the spectral embedding, a row per profile."""
    from sklearn.neighbors import kneighbors_graph

    # About log n, as the paper's and von Luxburg's tutorial have it: more would tie small clusters to the others.
    degree = min(len(given) - 1, max(3, round(math.log(len(given)))))
    graph = kneighbors_graph(given, degree).toarray()
    affinity = np.maximum(graph, graph.T)
    root = np.sqrt(affinity.sum(1))
    values, vectors = np.linalg.eigh(np.eye(len(given)) - affinity / (root[:, None] * root))
    return values, vectors / root[:, None]


def _outlying(points: NDArray[np.float64], members: NDArray[np.int64]) -> list[int]:
    """Return the clusters that are small and far in the spectral embedding."""
    count = int(members.max()) + 1
    middles = np.stack([points[members == one].mean(0) for one in range(count)])
    radius = np.sqrt(np.mean(((points - middles[members]) ** 2).sum(1)))
    away = np.linalg.norm(middles[:, None] - middles, axis=2)
    np.fill_diagonal(away, np.inf)
    sizes = np.bincount(members, minlength=count)
    small = sizes <= SMALL * sizes.max()
    return [int(one) for one in np.flatnonzero(small & (away.min(1) >= FAR * radius))]


def apartness(given: Profiles, classes: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return for each class how many of its profiles' nearest neighbors are its own, as a multiple of chance, `(C,)`.

    About 1: its evidence lies as that of other classes does. NaN for classes without profiles.
    """
    from sklearn.neighbors import NearestNeighbors

    total, sizes = len(given), np.bincount(classes)
    if total < 2:
        return np.full(len(sizes), np.nan)
    reach = min(NEIGHBORS, total - 1)
    found = NearestNeighbors(n_neighbors=reach).fit(given).kneighbors(return_distance=False)
    own = (classes[found] == classes[:, None]).mean(1)
    chance = (sizes - 1) / (total - 1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(sizes > 1, np.bincount(classes, own) / sizes / chance, np.nan)
