"""Limits of the machine, measured: copy bandwidth and matrix rates. A setup for `benchmarks.worker`."""

from collections.abc import Callable
from functools import partial
from time import perf_counter

import torch

from benchmarks.outcome import Outcome

LONG = 5.0
"""Seconds: a product that takes longer is not made."""


def limits(device: str, size: int, megabytes: int) -> Callable[[], Outcome]:
    """Measure products of `size`² matrices and copies of `megabytes`."""
    return lambda: Outcome(dict, measure(device, size, megabytes))


def measure(device: str, size: int, megabytes: int) -> dict[str, float]:
    """Bytes per second of a copy (read and written bytes), operations per second of matrix products."""
    source = torch.ones(megabytes * 2**20, dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    rates = {"copy": 2 * source.numel() / _fastest(lambda: target.copy_(source))}
    for name, dtype in {"fp32": torch.float32, "bf16": torch.bfloat16}.items():
        rough = _rate(device, size // 8, dtype)
        # without instructions for them, products in bfloat16 take minutes, and a small one's rate says as much
        rates[name] = rough if 2 * size**3 / rough > LONG else _rate(device, size, dtype)
    return rates


def _rate(device: str, size: int, dtype: torch.dtype) -> float:
    matrix = torch.randn(size, size, device=device).to(dtype)
    product = torch.empty_like(matrix)
    return 2 * size**3 / _fastest(partial(torch.mm, matrix, matrix, out=product))


def _fastest(work: Callable[[], object], tries: int = 7) -> float:
    """Seconds of the fastest call: a limit is what the machine reaches when nothing disturbs it."""
    return min(_seconds(work) for _ in range(tries + 1))


def _seconds(work: Callable[[], object]) -> float:
    _finish()
    start = perf_counter()
    work()
    _finish()
    return perf_counter() - start


def _finish() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()
