"""One measurement in a fresh process: ``python -m benchmarks.worker SPEC REPLY``.

SPEC, a JSON file: `setup` (module:function), `params`, and either `outputs` (a path: run once, untimed, and save the
outputs there as .npz) or `warmup` and `min_seconds` (time it). REPLY, a JSON file, is written on success only; after a
failure the last line of the error stream says why. Needs numpy and psutil besides what `setup` imports.
"""

import json
import math
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from benchmarks.memory import own_peak, sampled_peak
from benchmarks.outcome import arrays, figures

Work = Callable[[], object]


def load(setup: str, params: dict[str, Any]) -> Work:
    """Call the named function with its parameters; it returns the work."""
    module, _, function = setup.partition(":")
    work: Work = getattr(import_module(module), function)(**params)
    return work


def run_once(work: Work, outputs: Path) -> dict[str, Any]:
    """Run once, save the outputs, and return figures and peak memory (bytes)."""
    with sampled_peak() as samples:
        result = work()
    reply = {"peak_memory": max(own_peak(), *samples), "figures": figures(result)}
    np.savez(outputs, allow_pickle=False, **arrays(result))
    return reply


def run_timed(work: Work, warmup: int, min_seconds: float) -> dict[str, Any]:
    """Seconds per call, of as many calls as last `min_seconds`."""
    for _ in range(warmup):
        work()
    calls = 1
    seconds, result = _time(work, calls)
    while seconds < min_seconds:
        calls = max(calls + 1, math.ceil(1.1 * calls * min_seconds / seconds))
        seconds, result = _time(work, calls)
    return {"seconds": seconds / calls, "calls": calls, "figures": figures(result)}


def _time(work: Work, calls: int) -> tuple[float, object]:
    _synchronize()
    start = perf_counter()
    for _ in range(calls):
        result = work()
    _synchronize()
    return perf_counter() - start, result


def _synchronize() -> None:
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.synchronize()


def main(spec_file: str, reply_file: str) -> None:
    """Read the spec, measure, write the reply."""
    spec = json.loads(Path(spec_file).read_text())
    work = load(spec["setup"], spec["params"])
    if "outputs" in spec:
        reply = run_once(work, Path(spec["outputs"]))
    else:
        reply = run_timed(work, spec["warmup"], spec["min_seconds"])
    Path(reply_file).write_text(json.dumps(reply))


if __name__ == "__main__":
    main(*sys.argv[1:])
