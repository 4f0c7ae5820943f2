"""Outcomes: what a configuration's callable may return, turned into named arrays.

Either the outputs themselves (a tensor or array, a tuple or NamedTuple of them, or a mapping from names to them),
or an `Outcome`, for work that reports figures of its own or whose outputs have to be collected from disk.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Outcome:
    """Figures of one call, or how to compute them, and how to collect its outputs; neither is ever timed."""

    collect: Callable[[], Mapping[str, Any]]
    figures: Mapping[str, float] | Callable[[], Mapping[str, float]] = field(default_factory=dict)


def figures(result: object) -> dict[str, float]:
    """Figures that came with a result."""
    if not isinstance(result, Outcome):
        return {}
    return dict(result.figures() if callable(result.figures) else result.figures)


def arrays(result: Any) -> dict[str, NDArray[np.generic]]:
    """Outputs of a result as named arrays."""
    if isinstance(result, Outcome):
        return arrays(result.collect())
    if isinstance(result, Mapping):
        return {name: array(value) for name, value in result.items()}
    if isinstance(result, tuple):
        names = getattr(result, "_fields", range(len(result)))
        return {str(name): array(value) for name, value in zip(names, result, strict=True)}
    return {"output": array(result)}


def array(value: Any) -> NDArray[np.generic]:
    """Tensor or array as an array; bfloat16, which numpy lacks, as float32."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
        value = value.float() if str(value.dtype) == "torch.bfloat16" else value
    return np.asarray(value)
