"""Agreements: when two configurations count as having done the same work."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Arrays = Mapping[str, NDArray[np.generic]]


@dataclass(frozen=True)
class Agreement:
    """A distance between outputs, how large it may be, and why that large."""

    distance: Callable[[Arrays, Arrays], float]
    tolerance: float
    reason: str

    def holds(self, distance: float) -> bool:
        """Whether the distance is within the tolerance; NaN is not."""
        return distance <= self.tolerance


def largest_difference(outputs: Arrays, expected: Arrays) -> float:
    """Largest |difference| over all arrays, as a share of each array's largest |expected value|."""
    return max(_differ(ours, theirs) for ours, theirs in _pairs(outputs, expected))


def relative_l2(outputs: Arrays, expected: Arrays) -> float:
    """Median over the items (first axis) of ‖difference‖ / ‖expected‖, the largest over all arrays."""
    return max(float(np.median(relative_l2_per_item(*pair))) for pair in _pairs(outputs, expected))


def excess(outputs: Arrays, expected: Arrays) -> float:
    """By which share losses lie above those expected, the largest of all items; below 0 where all lie below."""
    pairs = ((_float(ours), _float(theirs)) for ours, theirs in _pairs(outputs, expected))
    return max(float(((ours - theirs) / np.abs(theirs)).max()) for ours, theirs in pairs)


def missed(outputs: Arrays, expected: Arrays) -> float:
    """By how much the share of images that are `fooled` lies below that expected; inf where any goes farther away."""
    _pairs(outputs, expected)
    if float(outputs["distance"].max()) > float(expected["distance"].max()) + 1e-6:
        return float("inf")
    return max(0.0, float(expected["fooled"].mean()) - float(outputs["fooled"].mean()))


def relative_l2_per_item(output: NDArray[np.generic], expected: NDArray[np.generic]) -> NDArray[np.float64]:
    """‖difference‖ / ‖expected‖ of each item (N,); an item that is zero on both sides differs by 0."""
    pairs = zip(output, expected, strict=True)
    return np.array([_ratio(_norm(_float(ours) - _float(theirs)), _norm(_float(theirs))) for ours, theirs in pairs])


def _pairs(outputs: Arrays, expected: Arrays) -> list[tuple[NDArray[np.generic], NDArray[np.generic]]]:
    described = [{name: array.shape for name, array in arrays.items()} for arrays in (outputs, expected)]
    if described[0] != described[1]:
        raise ValueError(f"expected outputs {described[1]}, got {described[0]}")
    return [(outputs[name], expected[name]) for name in expected]


def _differ(output: NDArray[np.generic], expected: NDArray[np.generic]) -> float:
    difference = np.abs(_float(output) - _float(expected)).max(initial=0.0)
    return _ratio(float(difference), float(np.abs(_float(expected)).max(initial=0.0)))


def _float(array: NDArray[np.generic]) -> NDArray[np.float64]:
    return np.asarray(array, dtype=np.float64)


def _norm(array: NDArray[np.float64]) -> float:
    return float(np.linalg.norm(array))


def _ratio(difference: float, size: float) -> float:
    if difference == 0.0:
        return 0.0
    return difference / size if size else float("inf")
