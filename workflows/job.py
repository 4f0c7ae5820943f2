"""What a job is: everything its results depend on, as a value that travels, is written down and is compared."""

import hashlib
import json
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import cloudpickle
import torch

from afterimage.errors import RefusedError, UsageError
from afterimage.models.network import Network
from afterimage.models.style.engines import Device, EngineName
from afterimage.models.style.runtime import StyleRuntime
from afterimage.models.style.source import painter
from afterimage.models.zoo import digest, load_model
from afterimage.registry import Kind, Method, method

from .files import write_json
from .geometry import Geometry
from .named import NamedPicture
from .photos import PhotoFiles
from .rows import Keep

Precision = Literal["fp32", "bf16"]
PACKAGES = ("torch", "torchvision", "numpy", "pillow", "simplejpeg", "opencv-python-headless", "pyarrow")


@dataclass(frozen=True)
class ModelSource:
    """Where a network comes from: the arguments of `load_model`, and the digest that it has to have."""

    model: str
    weights: str | None = "DEFAULT"
    categories: str | None = None
    size: int | None = None
    crop: tuple[int, int] | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    digest: str = ""

    def load(self) -> Network:
        """Load the network; raise `RefusedError` if it is not the one that the digest names."""
        if self.model == HANDED_OVER:
            network: Network = cloudpickle.loads(_handed_over[self.digest])
        else:
            network = load_model(self.model, **{name: getattr(self, name) for name in GIVEN})
        if self.digest and digest(network) != self.digest:
            raise RefusedError(f"model {self.model!r} here is not the one the run was planned with: digests differ")
        return network


NO_NETWORK = "none"
"""What stands for the network of a method that uses none."""
GIVEN = ("weights", "categories", "size", "crop", "mean", "std")
HANDED_OVER = "(module from Python)"
_handed_over: dict[str, bytes] = {}


def hand_over(pickled: bytes, sha256: str) -> None:
    """Keep a network that was built in Python, pickled, where this process's tasks find it by its digest."""
    _handed_over[sha256] = pickled


@dataclass(frozen=True)
class Job:
    """One method over one manifest: what has to be equal for two runs to give the same results."""

    verb: str
    options: Mapping[str, Any]
    model: ModelSource
    target: str
    geometry: Geometry
    precision: Precision
    device: str
    batch_size: int
    threads: int
    keep: Keep
    heatmap_size: int | None
    max_pixels: int
    categories: tuple[str, ...] = ()
    classes: Mapping[str, int] = field(default_factory=dict)
    seed: int = 0
    named: tuple[NamedPicture, ...] = ()
    width: int = 0
    photos: PhotoFiles | None = None
    engine: EngineName | None = None

    @property
    def result(self) -> Kind:
        """What the job's results are, vectors with their length and type."""
        dtype = self.options.get("dtype", "float32") if self.method.result.name == "embedding" else "float32"
        return replace(self.method.result, width=self.width, dtype=dtype)

    @property
    def method(self) -> Method:
        """The registered method that the job runs."""
        return method(self.verb)

    def config(self) -> dict[str, Any]:
        """Return what the results depend on, as JSON values; `classes` follow from model and manifest.

        Of named pictures their bytes and weights count, wherever they lie; what the method does not take is left out.
        """
        config: dict[str, Any] = json.loads(json.dumps(asdict(self), default=str))
        # The digest says which weights, wherever they lie; vectors are as long as model and options make them.
        del config["classes"], config["model"]["weights"], config["width"]
        config["model"]["categories"] = sha256_of(config.pop("categories"))
        named = [{"name": one.name, "sha256": one.sha256, "weight": one.weight} for one in self.named]
        del config["named"], config["seed"]
        if self.photos is None:
            del config["photos"]
        if self.engine is None:
            del config["engine"]
        seed = {"seed": self.seed} if "seeds" in self.method.inputs else {}
        return config | seed | ({"named": named} if named else {})


def sha256_of(value: Any) -> str:
    """Return the digest of a value's canonical JSON."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def versions() -> dict[str, str]:
    """Return the versions that a result was made with."""
    found = {package: version(package) for package in ("afterimage", *PACKAGES)}
    return {"python": platform.python_version(), "machine": platform.machine(), **found}


def record(folder: Path, job: Job, manifest_sha256: str, extending: bool) -> None:
    """Write a job's `run.json`, or check that the one there says the same; raise `RefusedError` with the difference."""
    path = folder / "run.json"
    config = job.config()
    run = {
        "verb": job.verb,
        "name": folder.name,
        "config": config,
        "config_sha256": sha256_of(config),
        "manifest_sha256": manifest_sha256,
        "result": job.method.result.name,
        "generates": job.method.generates,
        "details": [{"name": detail.name, "kind": detail.kind.name} for detail in job.method.details],
        "named": [{"name": one.name, "uri": one.uri, "sha256": one.sha256, "weight": one.weight} for one in job.named],
        "model": {
            "name": job.model.model,
            "weights": job.model.weights,
            "digest": job.model.digest,
            "categories": list(job.categories) or None,
        },
        "versions": versions(),
    }
    if path.exists():
        there = json.loads(path.read_text(encoding="utf-8"))
        advice = "repeat those, or use --name NAME for a second run, or --mode overwrite"
        refuse_other(folder, there["config"], config, advice)
        if there["manifest_sha256"] == manifest_sha256:
            return
        if not extending:
            raise RefusedError(f"{folder} was made from other inputs; add '--mode extend', or choose another OUT")
    write_json(path, run)


def refuse_other(folder: Path, there: dict[str, Any], now: dict[str, Any], advice: str) -> None:
    """Raise `RefusedError` with the difference where what is in a folder was made with other settings."""
    before, after = _flat(there), _flat(now)
    names = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    if names:
        changes = "; ".join(f"{name} was {before.get(name)!r}, now {after.get(name)!r}" for name in names)
        raise RefusedError(f"{folder} holds a run with other settings: {changes}; {advice}")


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in config.items():
        nested = _flat(value, f"{prefix}{name}.") if isinstance(value, dict) and value else {prefix + name: value}
        flat |= nested
    return flat


@lru_cache(maxsize=1)
def prepared(
    source: ModelSource, device: str, precision: Precision, engine: EngineName | None = None, threads: int = 1
) -> Network | None:
    """Return the network ready to run in this process, loaded once and kept; None where the method uses none.

    A style network is computed by `engine` with so many threads.
    """
    if source.model == NO_NETWORK:
        return None
    network = source.load()
    if engine is not None:
        network.network = runtime(network, engine, placed(device), precision, threads)
        return network
    network = network.to(placed(device))
    if precision == "bf16":
        network.network.to(torch.bfloat16)
    return network.to(memory_format=torch.channels_last)


def runtime(
    network: Network, engine: EngineName | Literal["auto"], device: str, precision: Precision, threads: int
) -> StyleRuntime:
    """Return the runtime of a style network; raise `UsageError` where there is none as asked."""
    kind, _, number = device.partition(":")
    if number not in ("", "0"):
        if engine == "onnxruntime":
            raise UsageError(f"engine: onnxruntime paints on the first GPU, not on {device}; use --engine torch")
        torch.cuda.set_device(int(number))
    own = painter(network)
    net = own.net if isinstance(own, StyleRuntime) else own
    place: Device = "cuda" if kind == "cuda" else "cpu"
    return StyleRuntime(net, engine=engine, device=place, precision=precision, threads=threads)


def compute_with(threads: int) -> None:
    """Let this thread compute with so many threads, and without subnormal numbers, which slow some networks down."""
    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)


_gpu = 0


def take_gpu(number: int) -> None:
    """Let this process use one of the machine's GPUs, counted from 0 and over again."""
    global _gpu
    _gpu = number % max(1, torch.cuda.device_count())


def placed(device: str) -> str:
    """Return the device in this process: of several GPUs, the one that is this worker's."""
    return f"cuda:{_gpu}" if device == "cuda" else device


def resolved_device(device: str) -> str:
    """Return the device asked for; `auto` is CUDA where there is a GPU. Raises `UsageError` if it is not there."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    kind = device.partition(":")[0]
    if kind not in ("cpu", "cuda"):
        raise UsageError(f"device: expected auto, cpu, cuda or cuda:N, got {device!r}")
    if kind == "cuda" and not torch.cuda.is_available():
        raise UsageError("device: cuda was asked for and torch finds no GPU; use --device cpu")
    return device


def resolved_precision(precision: str, device: str) -> Precision:
    """Return the precision asked for; `auto` is bf16 where the processor multiplies bf16 matrices in hardware."""
    if precision not in ("fp32", "bf16", "auto"):
        raise UsageError(f"precision: expected fp32, bf16 or auto, got {precision!r}")
    if precision != "auto":
        return precision  # type: ignore[return-value]
    fast = torch.cuda.is_bf16_supported() if device.startswith("cuda") else torch.cpu._is_amx_tile_supported()
    return "bf16" if fast else "fp32"
