"""Principal components of any number of vectors, from moments that are merged.

    C = Σ (x − m)(x − m)ᵀ,   C_ab = C_a + C_b + n_a n_b / (n_a + n_b) · d dᵀ,   d = m_b − m_a

Pearson, On lines and planes of closest fit to systems of points in space, 1901; the merging: Chan, Golub, LeVeque,
Updating formulae and a pairwise algorithm for computing sample variances, 1979.

All in float64, whatever the vectors are stored in: components whose variances lie close together turn by the products'
rounding error over their distance, which float32 would not keep to 1e-6.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Stored = NDArray[np.float16] | NDArray[np.float32] | NDArray[np.float64]
ROWS = 2048
"""Vectors that are in float64 at a time."""


@dataclass(frozen=True)
class Moments:
    """What principal components need to know of `count` vectors: their mean (D,) and centered Gram matrix (D, D).

    Of the Gram matrix the lower triangle counts.
    """

    count: int
    mean: Array
    gram: Array

    def __add__(self, other: "Moments") -> "Moments":
        """Return the moments of both sets of vectors together."""
        gram = self.gram + other.gram
        return Moments(self.count + other.count, _merged(self, other.count, other.mean, gram), gram)


def moments(parts: Iterable[Stored]) -> Moments:
    """Return the moments of vectors that come in parts (n, D), in one pass; one part is in memory at a time."""
    found: Moments | None = None
    for block in _blocks(parts):
        found = _with(found or Moments(0, np.zeros(block.shape[1]), np.zeros((block.shape[1],) * 2)), block)
    if found is None:
        raise ValueError("expected vectors, got none")
    return found


def _with(before: Moments, block: Array) -> Moments:
    """Add a block of vectors, which is centered on its own mean, to moments; both change in place."""
    from scipy.linalg.blas import dsyrk

    mean = block.mean(0)
    block -= mean
    # What lies row by row is transposed to Fortran: its upper triangle is our lower one.
    dsyrk(1.0, block.T, beta=1.0, c=before.gram.T, overwrite_c=1)
    return Moments(before.count + len(block), _merged(before, len(block), mean, before.gram), before.gram)


def _merged(before: Moments, count: int, mean: Array, gram: Array) -> Array:
    """Return the mean with that of `count` more vectors, and add to the Gram matrix how far the two are apart."""
    from scipy.linalg.blas import dsyr

    both, apart = before.count + count, mean - before.mean
    dsyr(before.count * count / both, apart, a=gram.T, overwrite_a=1)
    return before.mean + apart * (count / both)


def _blocks(parts: Iterable[Stored]) -> Iterator[Array]:
    """Yield blocks of a fixed number of vectors, that products are worth their while, whatever the parts' sizes."""
    waiting: list[Stored] = []
    for part in parts:
        while sum(map(len, waiting)) + len(part) >= ROWS:
            needed = ROWS - sum(map(len, waiting))
            yield np.concatenate([*waiting, part[:needed]], dtype=np.float64)
            waiting, part = [], part[needed:]
        waiting.append(part)
    if sum(map(len, waiting)):
        yield np.concatenate(waiting, dtype=np.float64)


@dataclass(frozen=True)
class Components:
    """Principal components: axes (k, D) of unit length by falling variance, the mean (D,), variances (k,) and total.

    An axis's largest coordinate is positive, which settles its sign.
    """

    mean: Array
    axes: Array
    variances: Array
    total: float

    def scores(self, values: Stored) -> Array:
        """Return coordinates (n, k) of vectors (n, D) on the axes."""
        return np.concatenate([(block - self.mean) @ self.axes.T for block in _blocks([values])])


def components(found: Moments, count: int) -> Components:
    """Return the first `count` principal components, or as many as vectors of that number and dimension have."""
    from scipy.linalg import eigh

    size = len(found.mean)
    kept = max(1, min(count, size, found.count - 1))
    values, axes = eigh(found.gram / max(1, found.count - 1), subset_by_index=(size - kept, size - 1), overwrite_a=True)
    axes = axes.T[::-1]
    largest = np.take_along_axis(axes, np.abs(axes).argmax(1)[:, None], 1)
    total = float(np.trace(found.gram)) / max(1, found.count - 1)
    return Components(found.mean, axes * np.where(largest < 0, -1.0, 1.0), values[::-1].clip(0), total)
