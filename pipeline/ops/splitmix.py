"""Random numbers by seed and place: the same for any order in which they are asked for.

    number i of a stream = mix(key + i · golden), key = mix(seed + (stream + 1) · golden)

Steele, Lea, Flood, Fast splittable pseudorandom number generators, OOPSLA 2014: SplitMix64.
"""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

_GOLDEN, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_Numbers = np.ndarray[Any, np.dtype[np.uint64]]


def random_bits(seeds: Tensor, stream: int, size: tuple[int, ...]) -> Tensor:
    """Return the upper 32 bits of numbers 1, 2, … of a stream, for each seed (N,): (N, *size), int64."""
    keys = _mixed(seeds.numpy().astype(np.uint64) + np.uint64((stream + 1) * _GOLDEN % 2**64))
    counters = np.arange(1, math.prod(size) + 1, dtype=np.uint64) * np.uint64(_GOLDEN)
    numbers = _mixed(keys[:, None] + counters) >> np.uint64(32)
    return torch.from_numpy(numbers.astype(np.int64)).reshape(len(seeds), *size)


def _mixed(numbers: _Numbers) -> _Numbers:
    numbers = (numbers ^ numbers >> np.uint64(30)) * np.uint64(_FIRST)
    numbers = (numbers ^ numbers >> np.uint64(27)) * np.uint64(_SECOND)
    return numbers ^ numbers >> np.uint64(31)
