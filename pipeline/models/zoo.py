"""Networks by name, file, function or module: `load_model` returns a `Network`.

| model                     | what it is                                                    |
|---------------------------|---------------------------------------------------------------|
| resnet50, vgg16, …        | torchvision's classification networks                         |
| demo                      | the packaged network of the embedded data set                 |
| package.module:function   | what the function returns                                     |
| FILE.pt2                  | a program saved with torch.export.save                        |
| timm/NAME                 | a network of the package timm, `pip install afterimage[timm]` |
| paintings, mosaic         | embedded style networks: pictures in, painted pictures out    |
| FILE.onnx, .safetensors   | a style network's file                                        |
| a torch.nn.Module         | that module, as it is                                         |
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from torch import nn

from ..errors import UsageError, nearest
from . import sources
from .network import Network, Preset, class_index, digest
from .sources import Loaded, Weights
from .style.source import embedded, style_file

__all__ = ["Network", "Preset", "class_index", "digest", "load_model", "pending_download"]

Side = int | tuple[int, int]


def load_model(
    model: str | nn.Module,
    *,
    weights: str | Path | None = "DEFAULT",
    categories: str | Path | Sequence[str] | None = None,
    size: int | None = None,
    crop: Side | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Network:
    """Return a network behind its normalization: images `(N, 3, H, W)` sRGB in [0, 1].

    It is in eval mode, except that a module from Python is taken as is: neither its mode nor its weights change.
    `weights` is "DEFAULT", a local file (safetensors, torch state dict) or None (untrained). `categories` names the
    classes in order, or is a file with one per line. `size` is what the shorter side of a picture is resized to,
    `crop` the network's input (a side, or height and width), `mean` and `std` the normalization of sRGB in [0, 1];
    what is not given comes from the weights. `crop` alone scales the weights' `size` along. Raises UsageError.
    """
    loaded = _load(model, _parse_weights(weights))
    if not isinstance(model, nn.Module):
        loaded.module.eval()
    preset = _preset(loaded, size, crop, mean, std)
    names = loaded.categories if categories is None else _read_categories(categories)
    if names is not None and loaded.classes not in (None, len(names)):
        raise UsageError(f"categories: expected {loaded.classes} names, as {loaded.name} has classes, got {len(names)}")
    return Network(loaded.module, preset, names, loaded.name, loaded.source)


def pending_download(model: str | nn.Module, weights: str | Path | None = "DEFAULT") -> tuple[str, int] | None:
    """Return address and size in bytes of what `load_model` would download, or None."""
    if not isinstance(model, str) or _parse_weights(weights) != "DEFAULT":
        return None
    if name := _timm_name(model):
        from .hub import timm_pending

        return timm_pending(name)
    if style_file(model) or model not in sources.torchvision_names():
        return None
    entry = sources.torchvision_weights(model)
    # torchvision counts in units of 1024² bytes
    return None if sources.cached_file(entry.url).exists() else (entry.url, int(entry.meta["_file_size"] * 2**20))


def _parse_weights(weights: str | Path | None) -> Weights:
    if weights is None or (isinstance(weights, str) and weights.lower() == "none"):
        return None
    return "DEFAULT" if isinstance(weights, str) and weights.upper() == "DEFAULT" else Path(weights)


def _timm_name(model: str) -> str:
    return model[5:] if model.startswith(("timm/", "timm:")) else ""


def _load(model: str | nn.Module, weights: Weights) -> Loaded:
    style = None if isinstance(model, nn.Module) else style_file(model)
    if isinstance(model, nn.Module) or style or model.endswith(".pt2"):
        if weights != "DEFAULT":
            name = "a module from Python" if isinstance(model, nn.Module) else model
            raise UsageError(f"{name} brings its own weights: leave weights out, got {str(weights)!r}")
        if isinstance(model, nn.Module):
            return sources.from_module(model)
        return sources.from_style(model, style) if style else _from_exported(model)
    if name := _timm_name(model):
        from .hub import from_timm

        return from_timm(name, weights)
    if model == "demo":
        return sources.from_demo(weights)
    if model in sources.torchvision_names():
        return sources.from_torchvision(model, weights)
    if ":" in model:
        return sources.from_function(model, weights)
    raise UsageError(_unknown(model))


def _from_exported(model: str) -> Loaded:
    from .exported import from_exported

    return from_exported(Path(model))


def _unknown(model: str) -> str:
    if Path(model).suffix in (".safetensors", ".pt", ".pth", ".bin", ".ckpt"):
        return f"{model!r} is a file of weights: name its network too, as --model resnet50 --weights {model}"
    near = nearest(model, [*sources.torchvision_names(), "demo", *embedded()])
    known = "a torchvision name, demo, timm/NAME, package.module:function, .pt2"
    styles = ", ".join(embedded()) or "none is here"
    return f"no network {model!r}{near}; expected {known}, or a style network: FILE.onnx, FILE.safetensors, {styles}"


def _preset(
    loaded: Loaded, size: int | None, crop: Side | None, mean: Sequence[float] | None, std: Sequence[float] | None
) -> Preset:
    known = loaded.preset
    if known is None:
        crop = crop or loaded.input_size
        missing = [f"--{name}" for name, value in (("crop", crop), ("mean", mean), ("std", std)) if value is None]
        if crop is None or mean is None or std is None:
            raise UsageError(
                f"{loaded.name} does not say how its pictures are prepared: give {' '.join(missing)} "
                "(ImageNet's usual: --size 256 --crop 224 --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225)"
            )
        known = Preset(_pair(crop))
    preset = replace(known, mean=_triple("mean", known.mean if mean is None else mean))
    preset = replace(preset, std=_triple("std", known.std if std is None else std))
    if crop is not None:
        height, width = _pair(crop)
        ratio = 1 if known.resize is None else known.resize / min(known.size)
        preset = replace(preset, size=(height, width), resize=round(min(height, width) * ratio))
    preset = preset if size is None else replace(preset, resize=size)
    if not isinstance(preset.resize, int | None):
        raise UsageError(f"size: expected a number of pixels, got {size!r}")
    if preset.resize is not None and preset.resize < min(preset.size):
        raise UsageError(f"size: expected at least the crop's shorter side {min(preset.size)}, got {preset.resize}")
    if min(preset.std) <= 0:
        raise UsageError(f"std: expected values above 0, got {preset.std}")
    return preset


def _pair(crop: Side) -> tuple[int, int]:
    sides = (crop, crop) if isinstance(crop, int) else crop
    if not isinstance(sides, Sequence) or [type(side) for side in sides] != [int, int] or min(sides) < 1:
        raise UsageError(f"crop: expected a positive side, or height and width, got {crop!r}")
    return sides[0], sides[1]


def _triple(name: str, values: Sequence[float]) -> tuple[float, float, float]:
    try:
        red, green, blue = map(float, values)
    except (TypeError, ValueError):
        red = math.nan
    if not math.isfinite(red) or not (math.isfinite(green) and math.isfinite(blue)):
        raise UsageError(f"{name}: expected 3 finite numbers, red, green and blue, got {values!r}")
    return red, green, blue


def _read_categories(categories: str | Path | Sequence[str]) -> list[str]:
    if not isinstance(categories, str | Path):
        return list(categories)
    try:
        lines = Path(categories).read_text("utf-8").rstrip().splitlines()
    except (OSError, UnicodeDecodeError) as exc:
        raise UsageError(f"categories: cannot read {categories}: expected a UTF-8 file, a name per line") from exc
    names = [line.strip() for line in lines] or [""]
    if "" in names:
        raise UsageError(f"categories: expected a name per line, line {names.index('') + 1} of {categories} is empty")
    return names
