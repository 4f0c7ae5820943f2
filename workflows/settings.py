"""What can be chosen about a run, each choice declared once: the command line and Python both read it from here."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from afterimage.errors import UsageError, nearest
from afterimage.registry import Method, check_options, option

from .decode import MAX_PIXELS
from .rows import Keep

Mode = Literal["incremental", "overwrite", "extend"]


@dataclass(frozen=True)
class Settings:
    """How a method is run over a data set."""

    model: str | nn.Module | None = option(
        None,
        "torchvision name, demo, timm/NAME, package.module:function, FILE.pt2 or, from Python, a module; "
        "without it torchvision's resnet50",
    )
    weights: str | None = option(
        "DEFAULT", "DEFAULT for the published weights, a safetensors or state-dict file, or none for untrained"
    )
    categories: str | None = option(None, "file with the names of the classes, one per line")
    size: int | None = option(None, "shorter side that pictures are resized to before the crop; default: the weights'")
    crop: str | int | tuple[int, int] | None = option(None, "network's input: a side, or HEIGHTxWIDTH")
    mean: str | tuple[float, float, float] | None = option(None, "mean of red,green,blue in [0, 1]")
    std: str | tuple[float, float, float] | None = option(None, "standard deviation of red,green,blue in [0, 1]")
    fit: Literal["preset", "squash", "pad", "none"] = option(
        "preset", "how pictures become input: the weights' resize and crop, squashed, padded, or as they are"
    )
    target: str | int = option("predicted", "class to explain: predicted, label, a class's name or its index")
    labels: str | None = option(None, "true labels: folders, FILE.csv:column or FILE.parquet:column")
    keep: Keep = option("all", "what is stored beside the figures: nothing, the maps, or the maps and pictures")
    heatmap_size: int | None = option(None, "longer side of the stored maps; default: the network's input")
    limit: int | None = option(None, "only the first N images")
    batch_size: int | None = option(None, "images per model call; default: 4 on a CPU, 64 on a GPU")
    shard_size: int | None = option(None, "images per task; default: by the number of images")
    device: str = option("auto", "auto, cpu, cuda or cuda:N")
    precision: Literal["fp32", "bf16", "auto"] = option(
        "fp32", "bf16 is faster and changes gradients visibly; auto takes it where the hardware multiplies it"
    )
    threads: int = option(1, "threads per model call")
    max_pixels: int = option(MAX_PIXELS, "images with more pixels are not decoded")
    workers: int | None = option(None, "worker processes; default: one per GPU, else by cores and memory")
    scheduler: str | None = option(None, "address of a running Dask scheduler, as tcp://host:8786")
    name: str | None = option(None, "name of the job below OUT; default: the method's verb")
    mode: Mode = option("incremental", "go on with a run, overwrite it, or extend it by new images")
    retry_failed: bool = option(False, "compute again the rows that are not ok")
    dry_run: bool = option(False, "say what would be done and how much disk it takes, and do nothing")

    def __post_init__(self) -> None:
        check_options(self)
        object.__setattr__(self, "crop", sides(self.crop))
        for name in ("mean", "std"):
            object.__setattr__(self, name, triple(name, getattr(self, name)))
        for name in ("size", "heatmap_size", "limit", "batch_size", "shard_size", "threads", "max_pixels", "workers"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name}: expected a positive number, got {value}")
        if self.workers is not None and self.scheduler is not None:
            raise UsageError("workers: the cluster at --scheduler has its own; leave out --workers")
        if self.name is not None and not self.name.isprintable():
            raise UsageError(f"name: expected printable characters, got {self.name!r}")
        if self.name is not None and ("/" in self.name or self.name.startswith(".") or self.name in ("", "page")):
            raise UsageError(f"name: expected the name of a folder below OUT, got {self.name!r}")


def sides(value: str | int | tuple[int, int] | None) -> tuple[int, int] | None:
    """Return height and width from a side, ``HEIGHTxWIDTH`` or a pair."""
    if value is None or isinstance(value, tuple):
        return value
    parts = str(value).lower().split("x")
    if len(parts) > 2 or not all(part.isdecimal() for part in parts):
        raise UsageError(f"crop: expected a side, as 224, or HEIGHTxWIDTH, as 224x320, got {value!r}")
    return int(parts[0]), int(parts[-1])


def triple(name: str, value: str | tuple[float, ...] | None) -> tuple[float, ...] | None:
    """Return three numbers from ``0.5,0.5,0.5`` or a sequence."""
    if value is None:
        return None
    try:
        numbers = tuple(float(part) for part in (value.split(",") if isinstance(value, str) else value))
    except ValueError:
        numbers = ()
    if len(numbers) != 3:
        raise UsageError(f"{name}: expected three numbers for red,green,blue, as 0.5,0.5,0.5, got {value!r}")
    return numbers


def divided(method: Method, given: dict[str, Any]) -> tuple[Settings, dict[str, Any]]:
    """Divide keyword arguments into the run's settings and the method's options; refuse the rest."""
    names = {field.name for field in dataclasses.fields(Settings)}
    options = {option.name for option in method.options}
    for name in given:
        if name not in names | options:
            near = nearest(name, names | options)
            raise UsageError(f"{method.verb} has no option {name!r}{near}; see 'afterimage {method.verb} --help'")
    settings = Settings(**{name: value for name, value in given.items() if name in names})
    return settings, {name: value for name, value in given.items() if name in options}
