"""Which engine is the fastest here: measured once in a process for what decides it."""

import statistics
import time
from functools import cache

import torch

from ...errors import UsageError
from .engines import ENGINES, Device, Engine, EngineName, Precision
from .net import StyleNet

SIDE = 256
ROUNDS, SECONDS = 5, 1.0
"""How often each engine paints, unless the time is over before."""


def fastest(net: StyleNet, device: Device, precision: Precision, threads: int) -> tuple[EngineName, str]:
    """Return the engine that paints a small picture in the least time, and one line with the times of all.

    The answer is remembered by width, number of styles and settings. Raises UsageError where no engine can be had.
    """
    return _measured(net.width, len(net.styles), device, precision, threads)


@cache
def _measured(width: int, styles: int, device: Device, precision: Precision, threads: int) -> tuple[EngineName, str]:
    engines, reasons = dict[EngineName, Engine](), []
    net = StyleNet(width, list(map(str, range(styles)))).eval()
    for name, make in ENGINES.items():
        try:
            engines[name] = make(net, device, precision, threads)
        except UsageError as reason:  # what is not installed, or not to be had on this machine
            reasons.append(str(reason))
    if not engines:
        raise UsageError(reasons[-1])
    times = {name: statistics.median(taken) for name, taken in _times(engines, styles, device).items()}
    best = min(times, key=times.__getitem__)
    told = ", ".join(f"{name} {1000 * taken:.1f} ms" for name, taken in sorted(times.items(), key=lambda one: one[1]))
    return best, f"{best}, the fastest for {SIDE} × {SIDE} pixels with {threads} threads: {told}"


def _times(engines: dict[EngineName, Engine], styles: int, device: Device) -> dict[EngineName, list[float]]:
    """Return each engine's seconds, taken in turns, after a first run that prepares it."""
    inputs = (torch.rand(1, 3, SIDE, SIDE), torch.ones(1), torch.full((1, styles), 1 / styles))
    given = [one.to(device) for one in inputs]
    for engine in engines.values():
        engine(*given)
    taken: dict[EngineName, list[float]] = {name: [] for name in engines}
    end = time.perf_counter() + SECONDS
    for _ in range(ROUNDS):
        for name, engine in engines.items():
            start = time.perf_counter()
            engine(*given).cpu()  # a GPU has not painted before that
            taken[name].append(time.perf_counter() - start)
        if time.perf_counter() > end:
            break
    return taken
