"""Measurements in a fresh process: ``python -m benchmarks.worker SPEC REPLY``.

SPEC, a JSON file: a list of tasks, each with `setup` (module:function), `params`, and either `outputs` (a path: run
once, untimed, and save the outputs there as .npz) or `warmup` and `min_seconds` (time it). REPLY, a JSON file, holds as
many replies; that to a task which raised is its `error`. Needs numpy and psutil besides what `setup` imports.
"""

import json
import math
import sys
import traceback
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
    """Read the spec, measure, write the replies."""
    replies = [attempt(task) for task in json.loads(Path(spec_file).read_text())]
    Path(reply_file).write_text(json.dumps(replies))


def attempt(task: dict[str, Any]) -> dict[str, Any]:
    """Do one task; what it raises must not cost the others their figures."""
    try:
        work = load(task["setup"], task["params"])
        if "outputs" in task:
            return run_once(work, Path(task["outputs"]))
        return run_timed(work, task["warmup"], task["min_seconds"])
    except Exception as error:
        traceback.print_exc()
        return {"error": traceback.format_exception_only(error)[-1].strip()}


if __name__ == "__main__":
    main(*sys.argv[1:])
