"""Pictures that all items of a run share, named by the parameter that takes them: styles, a guide, a mask, a start."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from urllib.parse import quote_from_bytes

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from afterimage.errors import RefusedError, UsageError
from afterimage.registry import Method

from .decode import ImageError, decode, read
from .geometry import Geometry, fit
from .manifest import path_of

FOLDER = "named"
"""Of a job's folder, where small JPEGs of the pictures lie, for the page."""
SEVERAL = ("style", "style_mask")
"""Parameters that take a sequence; the others take one picture."""
WEIGHTED = ("style",)
"""Parameters whose pictures may have weights."""
MASKS = ("mask", "style_mask")
"""Parameters that take a picture's luma."""
FITTED = ("mask", "start")
"""Parameters whose pictures are fitted as the items' are; the others keep their own size."""


@dataclass(frozen=True)
class NamedPicture:
    """A picture by the parameter that takes it: where it lies, the digest of its bytes, its weight if it has one."""

    name: str
    uri: str
    sha256: str
    weight: float | None = None

    @property
    def title(self) -> str:
        """The file's name, for people."""
        return os.path.basename(path_of(self.uri)).decode(errors="replace")


Given = str | Path | Sequence[str | Path] | Mapping[str | Path, float]


def named_pictures(method: Method, given: Mapping[str, Given | None], max_pixels: int) -> tuple[NamedPicture, ...]:
    """Return the pictures that were named for a method, each read and decoded once.

    Raises `UsageError` where one cannot be had, or one that the method needs is not given.
    """
    found: list[NamedPicture] = []
    for name in method.named_pictures:
        value = given.get(name)
        if value is None and name in method.required:
            raise UsageError(
                f"{method.verb} needs a picture: --{name.replace('_', '-')} FILE{'[,FILE…]' if name in SEVERAL else ''}"
            )
        found += () if value is None else read_named(name, value, max_pixels)
    return tuple(found)


def read_named(name: str, value: Given, max_pixels: int) -> tuple[NamedPicture, ...]:
    """Return the pictures that were given for one parameter, each read and decoded once. Raises `UsageError`."""
    weighted = _weighted(name, value)
    if len(weighted) > 1 and name not in SEVERAL:
        raise UsageError(f"{name}: expected one picture, got {len(weighted)}")
    if name not in WEIGHTED and any(weight is not None for _, weight in weighted):
        raise UsageError(f"{name}: expected no weights, got {value!r}; give those of {', '.join(WEIGHTED)}")
    return tuple(_picture(name, path, weight, max_pixels) for path, weight in weighted)


def _weighted(name: str, value: Given) -> list[tuple[Path, float | None]]:
    """Return paths and weights from `a.jpg=0.3,b.jpg=0.7`, a path, several, or a mapping from path to weight."""
    pairs: list[tuple[Path, float | None]]
    if isinstance(value, Mapping):
        pairs = [(Path(path), _weight(name, weight)) for path, weight in value.items()]
    elif isinstance(value, Path) or (isinstance(value, str) and os.path.exists(value)):
        pairs = [(Path(value), None)]
    else:
        pairs = [_pair(name, part) for part in (value.split(",") if isinstance(value, str) else value)]
    weights = [weight for _, weight in pairs if weight is not None]
    if not pairs or 0 < len(weights) < len(pairs):
        raise UsageError(f"{name}: expected a weight for each picture or for none, got {value!r}")
    if weights and sum(weights) <= 0:
        raise UsageError(f"{name}: expected weights of which one at least is above 0, got {value!r}")
    return pairs


def _pair(name: str, part: str | Path) -> tuple[Path, float | None]:
    path, equals, weight = str(part).rpartition("=")
    try:
        number = float(weight) if equals and not os.path.exists(part) else None
    except ValueError:
        number = None
    return (Path(part), None) if number is None else (Path(path), _weight(name, number))


def _weight(name: str, weight: float) -> float:
    if not 0 <= weight < float("inf"):
        raise UsageError(f"{name}: expected weights of 0 or above, as FILE=0.3, got {weight!r}")
    return float(weight)


def _picture(name: str, path: Path, weight: float | None, max_pixels: int) -> NamedPicture:
    try:
        data = read(os.fsencode(path))
        decode(data, max_pixels)
    except ImageError as error:
        raise UsageError(f"{name}: cannot use {str(path)!r}: {error.message}") from error
    uri = "file://" + quote_from_bytes(os.path.abspath(os.fsencode(path)))
    return NamedPicture(name, uri, hashlib.sha256(data).hexdigest(), weight)


@lru_cache(maxsize=16)
def pixels_of(picture: NamedPicture, max_pixels: int) -> np.ndarray:
    """Return a named picture, `(H, W, 3)` uint8; read once in a process. Raises `RefusedError` if it has changed."""
    try:
        data = read(path_of(picture.uri))
    except ImageError as error:
        raise RefusedError(f"{picture.name}: {picture.title} cannot be read here: {error.message}") from error
    if hashlib.sha256(data).hexdigest() != picture.sha256:
        raise RefusedError(f"{picture.name}: {picture.title} is not the file that the run was planned with")
    return decode(data, max_pixels)


def arguments(
    named: Sequence[NamedPicture], geometry: Geometry, max_pixels: int, device: str
) -> dict[str, Tensor | tuple[Tensor, ...] | tuple[float, ...]]:
    """Return what a method's call takes of the named pictures, by parameter; `weights` are those of several."""
    found: dict[str, Tensor | tuple[Tensor, ...] | tuple[float, ...]] = {}
    for name in dict.fromkeys(one.name for one in named):
        own = [one for one in named if one.name == name]
        tensors = tuple(_tensor(one, geometry, max_pixels).to(device) for one in own)
        found[name] = tensors if name in SEVERAL else tensors[0]
        if weights := tuple(one.weight for one in own if one.weight is not None):
            found["weights"] = weights
    return found


def _tensor(picture: NamedPicture, geometry: Geometry, max_pixels: int) -> Tensor:
    """Return `(1, 3, h, w)` in [0, 1]; of a mask its luma, `(1, 1, h, w)`."""
    pixels = pixels_of(picture, max_pixels)
    if picture.name in FITTED:
        pixels = fit(pixels, geometry)[0]
    if picture.name in MASKS:
        pixels = np.asarray(Image.fromarray(pixels).convert("L"))[:, :, None]
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float().div_(255)
