"""A network that takes pictures: its normalization is the first layer, so images are sRGB in [0, 1] everywhere."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..errors import UsageError, nearest


@dataclass(frozen=True)
class Preset:
    """How a picture becomes a network's input: resize, center crop, normalization."""

    size: tuple[int, int]
    """Height and width of the network's input, cropped from the center."""
    resize: int | None = None
    """What the shorter side is resized to before the crop."""
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"


class Network(nn.Module):
    """A network behind its normalization: images `(N, 3, H, W)` sRGB in [0, 1] to what the network returns.

    `network` is the user's module, unedited; wrapping it changes neither its mode nor its weights. `source` is the
    sha256 of the file that defines it, where the weights alone do not say what is computed.
    """

    def __init__(
        self,
        network: nn.Module,
        preset: Preset,
        categories: Sequence[str] | None = None,
        name: str = "",
        source: str | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.preset = preset
        self.categories = None if categories is None else unique(categories)
        self.name = name or type(network).__name__
        self.source = source
        self.training = network.training

    def normalize(self, images: Tensor) -> Tensor:
        """Subtract the mean and divide by the standard deviation per channel, in float32 (float64 stays float64)."""
        dtype = torch.promote_types(images.dtype, torch.float32)
        # made anew each time, in microseconds: kept ones would carry the inference mode of one call into the next
        pair = torch.tensor((self.preset.mean, self.preset.std), device=images.device, dtype=dtype)
        mean, std = pair.view(2, 3, 1, 1).unbind()
        return (images.to(dtype) - mean) / std

    def forward(self, images: Tensor) -> Any:
        """Return what the network returns, logits `(N, classes)` as a rule, for images `(N, 3, H, W)`."""
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
            came = f"{images.dtype} {tuple(images.shape)}"
            raise UsageError(f"images: expected floating-point (N, 3, H, W) in [0, 1], got {came}")
        normalized = self.normalize(images)
        weight = next((p for p in self.network.parameters() if p.is_floating_point()), normalized)
        return self.network(normalized.to(weight.dtype))


def input_size(model: nn.Module) -> tuple[int, int]:
    """Return height and width of the images that a network was made for; raise UsageError where it does not say."""
    if isinstance(model, Network):
        return model.preset.size
    raise UsageError(
        f"side: expected a size in pixels, since {type(model).__name__} does not say which images it takes"
    )


def input_like(model: nn.Module) -> Tensor:
    """Return an empty tensor of the type and on the device of the images that a model takes."""
    weight = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    return weight.new_empty(0, dtype=torch.promote_types(weight.dtype, torch.float32))


def unique(categories: Sequence[str]) -> tuple[str, ...]:
    """Return the names with each repeated one followed by its index, as "crane (517)": a name finds one class."""
    repeated = Counter(folded(name) for name in categories)
    seen: set[str] = set()
    names = []
    for index, name in enumerate(categories):
        key = folded(name)
        names.append(f"{name} ({index})" if repeated[key] > 1 and key in seen else name)
        seen.add(key)
    return tuple(names)


def class_index(model: nn.Module | Sequence[str] | None, name_or_index: str | int) -> int:
    """Return the index of a class given by name or index.

    A name is matched exactly, else regardless of case, underscores and hyphens. Raises UsageError with the nearest
    names, or with the range of indices; without category names, only indices above 0 can be asked for.
    """
    categories: Sequence[str] | None = getattr(model, "categories", None) if isinstance(model, nn.Module) else model
    if categories and name_or_index in categories:
        return list(categories).index(str(name_or_index))
    text = str(name_or_index).strip()
    if text.removeprefix("-").isdecimal():
        return _checked_index(int(text), categories)
    if not categories:
        raise UsageError(f"no class {text!r}: the network has no category names; give an index, or --categories FILE")
    by_name = {folded(name): index for index, name in reversed(list(enumerate(categories)))}
    if folded(text) not in by_name:
        raise UsageError(f"no class {text!r} among the network's {len(categories)}{nearest(text, categories)}")
    return by_name[folded(text)]


def _checked_index(index: int, categories: Sequence[str] | None) -> int:
    if index < 0 or (categories and index >= len(categories)):
        last = f"0 to {len(categories) - 1}" if categories else "0 or above"
        raise UsageError(f"class index: expected {last}, got {index}")
    return index


def folded(name: str) -> str:
    """Return a name without regard to case, underscores, hyphens and spacing."""
    return " ".join(name.casefold().replace("_", " ").replace("-", " ").split())


def digest(model: nn.Module) -> str:
    """Return the sha256 over what a model computes with, as 64 hexadecimal digits.

    It covers the qualified class name and settings (`extra_repr`: stride, padding, …) of every module, every parameter
    and buffer (name, dtype, shape, bytes), and for a Network its normalization and `source`. What a class's code does
    is covered by `source` only.
    """
    total = hashlib.sha256()
    network = model
    if isinstance(model, Network):
        network = model.network
        total.update(repr((model.preset.mean, model.preset.std, model.source)).encode())
    for name, module in network.named_modules(remove_duplicate=False):
        kind = f"{type(module).__module__}.{type(module).__qualname__}"
        total.update(f"{name}:{kind}({module.extra_repr()})\n".encode())
    tensors = [*network.named_parameters(remove_duplicate=False), *network.named_buffers(remove_duplicate=False)]
    for name, tensor in sorted(tensors, key=lambda item: item[0]):
        total.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}\n".encode())
        data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        total.update(data.numpy().data)
    return total.hexdigest()
