"""Networks from the package timm (`timm/NAME`), an extra."""

from math import floor
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from ..errors import UsageError, nearest
from .checkpoint import load_state, read_state
from .network import Preset
from .sources import Loaded, Weights, torchvision_weights


def from_timm(name: str, weights: Weights) -> Loaded:
    """Build timm's network `name` with its pretrained weights, a local file's, or none."""
    config = timm_config(name)
    categories = _categories(config)
    if isinstance(weights, Path):
        module, classes = _from_file(name, weights)
        categories = categories if classes == config["num_classes"] else None
    else:
        module, classes = _create(name, weights), config["num_classes"]
    return Loaded(module, f"timm/{name}", _preset(name, config), categories, classes)


def timm_config(name: str) -> dict[str, Any]:
    """Return timm's pretrained configuration of a network: where its weights are and how pictures are prepared."""
    timm = _timm()
    if not timm.is_model(name):
        raise UsageError(f"no network {name!r} in timm{nearest(name, timm.list_models())}")
    try:
        config = timm.get_pretrained_cfg(name)
    except RuntimeError as exc:
        known = ", ".join(timm.list_pretrained(name.split(".")[0] + ".*")[:5])
        raise UsageError(f"no weights {name!r} in timm; it has {known}") from exc
    if config is None:
        raise UsageError(f"timm says nothing about the pictures of {name!r}; choose a network with pretrained weights")
    return dict(config.to_dict())


def timm_pending(name: str) -> tuple[str, int] | None:
    """Return address and bytes of the weights that timm would download, None where they are in its cache."""
    from huggingface_hub import try_to_load_from_cache

    config = timm_config(name)
    repository = config.get("hf_hub_id")
    files = ("model.safetensors", "pytorch_model.bin")
    if not repository or any(isinstance(try_to_load_from_cache(repository, file), str) for file in files):
        return None
    with torch.device("meta"):
        module = _timm().create_model(name, pretrained=False)
    size = sum(tensor.nbytes for tensor in module.state_dict().values())
    return f"https://huggingface.co/{repository}", size


def _timm() -> ModuleType:
    try:
        import timm
    except ModuleNotFoundError as exc:
        raise UsageError("networks named timm/… need the package timm: pip install 'afterimage[timm]'") from exc
    return timm


def _create(name: str, weights: Weights) -> nn.Module:
    timm = _timm()
    try:
        module: nn.Module = timm.create_model(name, pretrained=weights == "DEFAULT")
    except Exception as exc:  # the hub's client raises its transport's errors
        reason = (str(exc) or type(exc).__name__).splitlines()[0][:200]
        raise UsageError(
            f"cannot load timm/{name} ({reason}): "
            "give a local file with --weights FILE, or the packaged network with --model demo"
        ) from exc
    return module


def _from_file(name: str, file: Path) -> tuple[nn.Module, int]:
    state = read_state(file)
    timm = _timm()
    with torch.device("meta"):
        skeleton = timm.create_model(name, pretrained=False)
    head = next((key for key, module in skeleton.named_modules() if module is skeleton.get_classifier()), "")
    weight = state.get(f"{head}.weight")
    classes = int(skeleton.num_classes) if weight is None else len(weight)
    with torch.random.fork_rng(devices=[]):  # the random initialization that the file replaces
        module = timm.create_model(name, pretrained=False, num_classes=classes)
    load_state(module, state, file, f"timm/{name}")
    return module, classes


def _preset(name: str, config: dict[str, Any]) -> Preset | None:
    height, width = config["input_size"][1:]
    if config.get("crop_mode", "center") != "center" or config["interpolation"] not in ("bilinear", "bicubic"):
        return None  # squashed or padded: a center crop would show the network other pictures than it learned
    resize = floor(min(height, width) / config["crop_pct"])
    return Preset((height, width), resize, tuple(config["mean"]), tuple(config["std"]), config["interpolation"])


def _categories(config: dict[str, Any]) -> list[str] | None:
    from timm.data.imagenet_info import ImageNetInfo, infer_imagenet_subset

    subset = infer_imagenet_subset(config)
    if subset is None:
        return None
    if subset == "imagenet-1k":
        return list(torchvision_weights("resnet50").meta["categories"])
    return [str(name) for name in ImageNetInfo(subset).label_descriptions()]
