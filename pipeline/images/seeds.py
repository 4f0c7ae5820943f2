"""Random numbers that belong to an image: from its seed and a place in its own sequence, whatever batch it is in."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..errors import UsageError


def seeds_for(count: int, seeds: Tensor | None) -> Tensor:
    """Return `(count,)` int64 on the CPU: the seeds given, or 0, 1, 2 … Raises UsageError for other shapes or types."""
    if seeds is None:
        return torch.arange(count)
    if seeds.shape != (count,) or seeds.is_floating_point() or seeds.is_complex() or seeds.dtype == torch.bool:
        raise UsageError(f"seeds: expected {count} whole numbers, one an image, got {seeds.dtype} {tuple(seeds.shape)}")
    return seeds.to("cpu", torch.int64)


def uniform(seeds: Tensor, iterations: Tensor, stream: int, count: int) -> Tensor:
    """Return `(n, count)` float64 in [0, 1): of each image's seed, its iteration and the number of a stream."""
    state = _mixed(seeds.numpy().astype(np.uint64) + np.uint64(stream))
    state = _mixed(state ^ _mixed(iterations.numpy().astype(np.uint64)))
    numbers = _mixed(state[:, None] + np.arange(1, count + 1, dtype=np.uint64))
    return torch.from_numpy((numbers >> np.uint64(11)).astype(np.float64) * 2.0**-53)


def _mixed(state: np.ndarray) -> np.ndarray:
    """Scramble 64-bit numbers: splitmix64 (Steele, Lea, Flood 2014, doi:10.1145/2660193.2660195)."""
    with np.errstate(over="ignore"):
        state = state + np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return np.asarray(state ^ (state >> np.uint64(31)))


def noise(seeds: Tensor, size: tuple[int, int], mean: float = 0.5, std: float = 0.1) -> Tensor:
    """Return start images `(N, 3, *size)` float32 of normal noise, each from its own seed; not clipped to [0, 1]."""
    made = [torch.randn(3, *size, generator=torch.Generator().manual_seed(int(seed))) for seed in seeds]
    return torch.stack(made).mul_(std).add_(mean) if made else torch.empty(0, 3, *size)


def in_ball(seeds: Tensor, shape: Sequence[int], norm: str) -> Tensor:
    """Return `(N, *shape)` float32, drawn evenly from the unit ball of norm `inf` or `2`, each from its own seed."""
    made = [_in_ball(torch.Generator().manual_seed(int(seed)), shape, norm) for seed in seeds]
    return torch.stack(made) if made else torch.empty(0, *shape)


def _in_ball(generator: torch.Generator, shape: Sequence[int], norm: str) -> Tensor:
    if norm == "inf":
        return torch.empty(*shape).uniform_(-1, 1, generator=generator)
    direction = torch.empty(*shape).normal_(generator=generator)
    radius = torch.empty(1).uniform_(generator=generator).pow(1 / direction.numel())
    return direction.mul(radius / direction.norm())
