"""What can be chosen about a run, each choice declared once: the command line and Python both read it from here."""

from dataclasses import dataclass, replace
from types import NoneType
from typing import Any, Literal

from torch import nn

from afterimage.errors import UsageError, nearest
from afterimage.models.style.engines import EngineName
from afterimage.registry import Fit, Method, Option, check_options, option, options_of

from .decode import MAX_PIXELS
from .named import SEVERAL, WEIGHTED
from .photos import Format
from .rows import Keep

Mode = Literal["incremental", "overwrite", "extend"]
TRUE, FALSE = ("true", "yes", "on"), ("false", "no", "off")


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
    size: int | None = option(
        None,
        "side that pictures are resized to: the shorter one before the crop, with --fit inside the longer one; "
        "default: the weights'",
    )
    crop: str | int | tuple[int, int] | None = option(None, "network's input: a side, or HEIGHTxWIDTH")
    mean: str | tuple[float, float, float] | None = option(None, "mean of red,green,blue in [0, 1]")
    std: str | tuple[float, float, float] | None = option(None, "standard deviation of red,green,blue in [0, 1]")
    fit: Fit | None = option(
        None,
        "how pictures become input: the weights' resize and crop, squashed, padded, resized inside a square with "
        "their own proportions, or as they are",
    )
    target: str | int = option("predicted", "class to explain: predicted, label, a class's name or its index")
    labels: str | None = option(None, "true labels: folders, FILE.csv:column or FILE.parquet:column")
    keep: Keep = option("all", "what is stored beside the figures: nothing, the maps, or the maps and pictures")
    engine: Literal["auto", EngineName] = option(
        "auto", "what computes the network; auto measures which is the fastest, and a run keeps to it"
    )
    format: Format | None = option(
        None, "format of the files; default: the input's, JPEG for HEIC and AVIF, PNG for others that are not written"
    )
    quality: int = option(92, "of JPEG and WebP files, 1 to 100")
    keep_location: bool = option(False, "keep in the files where the photographs were taken, beside when")
    heatmap_size: int | None = option(None, "longer side of the stored maps; default: the network's input")
    limit: int | None = option(None, "only the first N images")
    batch_size: int | None = option(None, "images per model call; default: 4 on a CPU, 64 on a GPU")
    shard_size: int | None = option(None, "images per task; default: by the number of images")
    device: str = option("auto", "auto, cpu, cuda or cuda:N")
    precision: Literal["fp32", "bf16", "auto"] = option(
        "fp32", "bf16 is faster and changes gradients visibly; auto takes it where the hardware multiplies it"
    )
    threads: int | None = option(None, "threads per model call; default: 1")
    seed: int = option(0, "what chance starts from: each item's follows from this number and its key")
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
        if self.name is not None and (
            "/" in self.name or self.name.startswith(".") or self.name in ("", "filters", "page")
        ):
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


def settings_of(method: Method) -> tuple[Option, ...]:
    """Return the settings that bear on a method's runs, with its defaults in their help; others are not offered."""
    defaults, inputs = method.defaults, method.inputs
    packaged = defaults.network == "demo" or defaults.family == "style"
    network = defaults.network if packaged else f"torchvision's {defaults.network}"
    changed: dict[str, dict[str, Any]] = {
        "model": {"help": f"{_models(method)}; without it {network}"},
        "fit": {"default": defaults.fit},
    }
    if not method.makes_maps:
        changed["keep"] = {
            "annotation": Literal["none", "all"],
            "help": "what is stored beside the results and the figures: nothing, or pictures for the page",
        }
    if method.makes_images:
        changed["threads"] = {"help": "threads per model call; default: the cores that no other task has"}
    if defaults.fit == "inside" and defaults.size is not None:
        changed["size"] = {"help": f"{_help('size').rpartition(';')[0]}; default: {defaults.size}"}
    idle = {
        "seed": "seeds" not in inputs,
        "heatmap_size": not method.makes_maps,
        "target": not method.makes_maps and ("target" not in inputs or method.generates),
        **dict.fromkeys(("labels", "size", "fit", "max_pixels"), method.generates),
        "engine": defaults.family != "style",
        **dict.fromkeys(("format", "quality", "keep_location"), not defaults.photos),
    }
    if defaults.photos:
        idle |= dict.fromkeys(("size", "fit"), True)  # they go out in their own size
    if defaults.family == "style":
        changed["precision"] = {"help": "bf16 is faster where the hardware multiplies it, and auto then takes it"}
        idle |= dict.fromkeys(("weights", "categories", "crop", "mean", "std", "labels"), True)
    offered = (one for one in options_of(Settings) if not idle.get(one.name, False))
    return tuple(replace(one, **changed.get(one.name, {})) for one in offered)


def _models(method: Method) -> str:
    if method.defaults.family == "style":
        return "style network: FILE.onnx, FILE.safetensors, the name of an embedded one or, from Python, a module"
    return _help("model").rpartition(";")[0]


def _help(name: str) -> str:
    return next(one.help for one in options_of(Settings) if one.name == name)


def named_options(method: Method) -> tuple[Option, ...]:
    """Return the options that name the pictures which a method's call takes for all items."""
    kind = str | None
    several = "files of the pictures, FILE[,FILE…]"
    helps = {name: several + ", each with a weight as FILE=0.3" * (name in WEIGHTED) for name in SEVERAL}
    helps["style_mask"] += ": one for each style, whose white part is taken"
    return tuple(
        Option(name, kind, None, helps.get(name, f"file of the picture that is the {name}"))
        for name in method.named_pictures
    )


@dataclass(frozen=True)
class Asked:
    """What was asked for: the run's settings, the method's options, and pictures by the parameter that takes them."""

    settings: Settings
    options: dict[str, Any]
    named: dict[str, Any]


def divided(method: Method, given: dict[str, Any]) -> Asked:
    """Divide keyword arguments into the run's settings, the method's options and named pictures; refuse the rest."""
    settings = {option.name: option for option in settings_of(method)}
    options, named = {option.name for option in own_options(method)}, set(method.named_pictures)
    for name in given:
        if name not in settings.keys() | options | named:
            near = nearest(name, settings.keys() | options | named)
            raise UsageError(f"{method.verb} has no option {name!r}{near}; see 'afterimage {method.verb} --help'")
    keep = settings["keep"]
    if given.get("keep", "all") not in keep.choices:
        raise UsageError(f"option 'keep' takes one of {', '.join(keep.choices)}, not {given['keep']!r}")
    chosen = Settings(**{name: value for name, value in given.items() if name in settings})
    return Asked(
        replace(chosen, fit=chosen.fit or method.defaults.fit),
        {name: value for name, value in given.items() if name in options},
        {name: value for name, value in given.items() if name in named},
    )


def own_options(method: Method) -> tuple[Option, ...]:
    """Return the options that a run takes for its method: a generator's neurons are subjects, and no option."""
    return tuple(one for one in method.options if not (method.generates and one.name == "of"))


def as_typed(option: Option, value: Any) -> Any:
    """Return a value from text as the command line would take it for this option."""
    if not isinstance(value, str):
        return value
    lowered, kinds = value.lower(), [kind for kind in option.kinds if kind is not NoneType]
    by_text = {str(choice): choice for choice in option.choices}
    if value in by_text:
        return by_text[value]
    if lowered == "none" and NoneType in option.kinds:
        return None
    if bool in kinds and lowered in (*TRUE, *FALSE):
        return lowered in TRUE
    for kind in (int, float):
        if kind in kinds:
            try:
                return kind(value)
            except ValueError:
                continue
    return value
