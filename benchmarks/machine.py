"""The machine as it stands in a record: processor, memory, versions, load, commit and measured limits."""

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil  # type: ignore[import-untyped]

from benchmarks import ROOT
from benchmarks.process import Unable, cores, work
from benchmarks.row import Configuration

FLAGS = ("avx2", "fma", "avx512f", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16", "amx_int8", "asimd", "sve")
PACKAGES = (
    *("afterimage", "torch", "torchvision", "numpy", "captum", "pillow", "opencv-python-headless", "simplejpeg"),
    *("kornia", "foolbox", "dask", "pyarrow", "onnxruntime", "onnxruntime-gpu"),
)

Limits = dict[str, dict[str, float]]


def describe() -> dict[str, Any]:
    """What the figures depend on, except the limits."""
    return {
        "processor": processor(),
        "cores": cores(),
        "instruction_sets": instruction_sets(),
        "memory": psutil.virtual_memory().total,
        "system": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: version for name in PACKAGES if (version := _version(name))},
        "load_average": os.getloadavg(),
        "commit": commit(),
    }


def instruction_sets() -> list[str]:
    """Those of `FLAGS` that the processor has."""
    return [flag for flag in FLAGS if flag in _cpuinfo("flags", "Features").split()]


def measure_limits(cuda: bool = False) -> Limits:
    """Copy bandwidth (bytes/s) and matrix rates (operations/s), by number of threads: one, and all; by "cuda" if asked.

    Both sides of the copy together exceed the caches.
    """
    limits = {str(threads): _limits(threads, "cpu", size=2048, megabytes=256) for threads in sorted({1, cores()})}
    return limits | ({"cuda": _limits(1, "cuda", size=8192, megabytes=2048)} if cuda else {})


def _limits(threads: int, device: str, size: int, megabytes: int) -> dict[str, float]:
    measured = Configuration("limits", "benchmarks.limits:limits", "unit", threads=threads)
    params = {"device": device, "size": size, "megabytes": megabytes}
    with TemporaryDirectory() as folder:
        task = {"setup": measured.setup, "params": params, "outputs": str(Path(folder, "none.npz"))}
        (reply,) = work(measured, timeout=600, tasks=[task])
    if "error" in reply:
        raise Unable(f"the limits of the machine: {reply['error']}")
    figures: dict[str, float] = reply["figures"]
    return figures


def commit() -> str:
    """Commit of the working tree, marked where files differ from it."""
    try:
        revision = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--dirty"], cwd=ROOT, capture_output=True, text=True
        )
    except FileNotFoundError:
        return "unknown: no git here"
    return revision.stdout.strip() or "unknown: not a git repository"


def processor() -> str:
    """Name of the processor."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def _cpuinfo(*keys: str) -> str:
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    fields = (line.partition(":") for line in lines)
    return next((value.strip() for key, _, value in fields if key.strip() in keys), "")


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
