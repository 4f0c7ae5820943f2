"""Rows end to end: a folder of JPEGs to stored heatmaps, by the command line, start-up included."""

import json
import resource
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import ROOT, STORE
from benchmarks.agreement import Agreement, relative_l2
from benchmarks.outcome import Outcome
from benchmarks.photographs import photographs
from benchmarks.process import cores, run
from benchmarks.row import ONCE, Configuration, Row

MODEL = "squeezenet1_0"
WEIGHTS = ROOT.parent / "shared" / "models" / f"{MODEL}.safetensors"
CLOSE = Agreement(
    relative_l2,
    2e-2,
    "median per image; the pictures are equal bit by bit, and float32 gradients differ between memory formats and "
    "batch sizes, because ReLU and max-pool decisions flip",
)
FEW = 16
STAGES = ("decode", "model", "write")
LOOPS = {
    "captum loop, batch 8": {"batch_size": 8, "channels_last": False},
    "captum loop, batch 8, channels last": {"batch_size": 8, "channels_last": True},
    "captum loop, batch 32, channels last": {"batch_size": 32, "channels_last": True},
}


def rows(quick: bool) -> Iterator[Row]:
    """Saliency with SqueezeNet, keeping heatmaps and pictures, or heatmaps alone."""
    count = 64 if quick else 2000
    for keep, kept in (("all", "heatmaps and three pictures"), ("heatmap", "heatmaps")):
        loops = {name: {"count": count, "pictures": keep == "all", **loop} for name, loop in LOOPS.items()}
        ours = {"count": count, "keep": keep}
        yield Row(
            f"datasets.saliency.{keep}",
            f"saliency of {count} JPEGs with {MODEL}, float32, end to end, {kept} stored",
            (
                Configuration("afterimage", "benchmarks.datasets:saliency", "ours", ours),
                *(Configuration(name, "benchmarks.datasets:captum", "peer", loop) for name, loop in loops.items()),
            ),
            CLOSE,
            items=count,
            item="image",
            **ONCE,
            blocked=missing(),
        )


def missing() -> str | None:
    """Return why rows with the real network cannot run, where that is so."""
    return None if WEIGHTS.exists() else f"expected weights at ../{WEIGHTS.relative_to(ROOT.parent)}, nothing there"


def saliency(count: int, keep: str) -> Callable[[], Outcome]:
    """``afterimage saliency``, as a user calls it."""
    options = ["--model", MODEL, "--weights", WEIGHTS, "--precision", "fp32", "--keep", keep, "--json"]
    program = [Path(sys.executable).with_name("afterimage"), "saliency", photographs(count)]
    few = ["--shard-size", FEW // 2]  # one shard per worker, so that as many workers start
    return end_to_end(count, lambda out: [*program, out, *options], few, stored)


def captum(count: int, pictures: bool, batch_size: int, channels_last: bool) -> Callable[[], Outcome]:
    """The loop in `benchmarks.peers.captum_loop`, in a process of its own, as ours is."""
    options = ["--model", MODEL, "--weights", WEIGHTS, "--batch-size", batch_size]
    options += ["--channels-last"] * channels_last + ["--pictures"] * pictures
    program = [sys.executable, "-m", "benchmarks.peers.captum_loop", photographs(count)]
    return end_to_end(count, lambda out: [*program, out, *options], [], looped)


def end_to_end(
    count: int, command: Callable[[Path], list[Any]], few: list[Any], collect: Callable[[Path], NDArray[Any]]
) -> Callable[[], Outcome]:
    """Work that runs a command over all images into a new folder; here it runs over a few, for the fixed cost.

    `command` takes the folder for the output, `few` are the options of the short run besides ``--limit``.
    """
    STORE.mkdir(exist_ok=True)
    folder = TemporaryDirectory(dir=STORE, prefix="run-")
    fixed, _, _ = timed([*command(Path(folder.name, "few")), "--limit", FEW, *few])

    def call() -> Outcome:
        out = Path(folder.name, "all")
        seconds, cpu_seconds, summary = timed(command(out))
        return Outcome(
            lambda: {"heatmaps": collect(out)}, figures(count, fixed, seconds, cpu_seconds, summary.get("cpu_seconds"))
        )

    return call


def timed(command: list[Any]) -> tuple[float, float, dict[str, Any]]:
    """Run a command; return its seconds, its CPU seconds with those of its children, and its summary."""
    before, start = _cpu_seconds(), perf_counter()
    output = run(command, timeout=None, new_session=False)
    return perf_counter() - start, _cpu_seconds() - before, json.loads(output.strip().splitlines()[-1])


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def figures(
    count: int, fixed: float, seconds: float, cpu_seconds: float, stages: dict[str, float] | None
) -> dict[str, float]:
    """What follows from a run of `seconds`, of which a run over a few images takes `fixed`.

    `share`: the rate divided by what cores ÷ summed core-seconds per image of decode, model and write allow; then the
    same for the images beyond the few, without the fixed cost. `busy`: CPU time of all processes ÷ (cores × seconds).
    """
    found = {
        "fixed_seconds": fixed,
        "marginal_images_per_second": (count - FEW) / (seconds - fixed),
        "busy": cpu_seconds / (cores() * seconds),
    }
    if stages:
        needed = sum(stages[name] for name in STAGES) / count
        found["share"] = needed * count / (cores() * seconds)
        found["marginal_share"] = needed * found["marginal_images_per_second"] / cores()
        found |= {f"core_ms_per_image_{name}": 1e3 * value / count for name, value in stages.items()}
    return found


def stored(out: Path) -> NDArray[np.float32]:
    """Return the heatmaps (N, H, W) of a finished run in the order of their keys."""
    import pyarrow.parquet as parquet  # type: ignore[import-untyped]

    found = {}
    for file in sorted((out / "saliency" / "shards").glob("*.parquet")):
        for row in parquet.read_table(file).to_pylist():
            shape = row["heatmap_height"], row["heatmap_width"]
            found[row["key"]] = np.asarray(row["heatmap"], np.float32).reshape(shape) * row["heatmap_scale"]
    return np.stack([found[key] for key in sorted(found)])


def looped(out: Path) -> NDArray[np.float16]:
    """Return the heatmaps (N, H, W) that the loop saved, a file per batch."""
    return np.concatenate([np.load(file) for file in sorted(out.glob("heatmaps-*.npy"))])
