"""Whether inputs and options fit the network, found out before the work, on grey pictures."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from afterimage.errors import UsageError
from afterimage.models.network import Network
from afterimage.registry import NAMED_PICTURES, PICTURES, Method

from .calls import PADDING, Slot, arguments, explain, method_for, pictures_of, to_images
from .decode import size_of
from .geometry import Geometry
from .job import Job
from .manifest import Item, path_of
from .named import pixels_of
from .subjects import neuron_of

MANY = 16
"""A method that shows a network more pictures than this for each image is slow."""
LOOKED_AT = 1000
"""How many pictures' headers are read to learn the size of the largest."""
HEADERS = 100
"""About how many are read to learn their mean size."""
KNOWN = {*PICTURES, *NAMED_PICTURES, "target", "seeds", "progress", "weights"}


class _Enough(BaseException):
    """The method has shown the network many pictures: there is nothing more to learn from the grey one."""


class Tried(NamedTuple):
    """What became of a try: whether the method is slow, and how many numbers its result has along the second axis."""

    slow: bool
    width: int


def tried(job: Job, network: Network) -> Tried:
    """Run a method on grey, so that an option that does not fit the model is refused before the work.

    Slow is what shows the network many pictures at once for a single image; it is stopped there. What calls the network
    over and over on what it was given gains from batches as any other.
    """
    seen = 0

    def count(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        nonlocal seen
        given = pictures_of(inputs, named)
        if len(given) > 1:
            seen += len(given)
        if seen > MANY:
            raise _Enough

    hook = network.register_forward_pre_hook(count, with_kwargs=True)
    try:
        explained = explain([_here(job)], network, [_grey(job.geometry.size)], [0])[0][0]
    except _Enough:
        return Tried(True, 0)
    finally:
        hook.remove()
    return Tried(False, len(explained.result))


def with_layer(
    method: Method, options: Mapping[str, Any], network: Network | None, geometry: Geometry
) -> Mapping[str, Any]:
    """Return a method's options with the layer that it reads where none is named, so that records and pages say it."""
    if network is None or not hasattr(method.cls, "reads") or options.get("layer") is not None:
        return options
    like = next(network.parameters(), torch.empty(0))
    black = like.new_zeros(1, 3, *_any_size(geometry), dtype=torch.float32)
    return {**options, "layer": method.cls(**options).reads(network, black)}


def check_inputs(job: Job, network: Network | None, items: Sequence[Item]) -> None:
    """Let a method that makes pictures refuse what does not fit, without working. Raises `UsageError`."""
    method = job.method
    if unknown := [name for name in method.required if name not in KNOWN]:
        raise UsageError(f"{method.verb} needs {unknown[0]!r}, which a run over data sets does not know; use Python")
    if not method.makes_images:
        return
    sizes = {} if method.generates else _sizes(job, items)
    _check_mask(job, sizes)
    if hasattr(method.cls, "check"):
        for slot in _subjects(items) if method.generates else [_grey(_largest(job.geometry, sizes))]:
            images = None if slot.pixels is None else to_images([slot.pixels], _here(job))
            method_for(job, [slot]).check(network, **arguments(_here(job), images, [slot], None))


def _here(job: Job) -> Job:
    """Return the job for one picture in this process."""
    return replace(job, batch_size=1, device="cpu", target="0" if job.target == "label" else job.target)


def _grey(size: tuple[int, int]) -> Slot:
    return Slot("", "", None, np.full((*size, 3), PADDING, np.uint8))


def _subjects(items: Sequence[Item]) -> list[Slot]:
    """Return a class and a neuron of each layer, as far as they are among the subjects."""
    one = {(neuron_of(item.uri) or "").partition(":")[0]: Slot(item.key, item.uri, None, None) for item in items}
    return list(one.values())


def _sizes(job: Job, items: Sequence[Item]) -> Mapping[str, tuple[int, int]]:
    """Return height and width of the upright pictures by key, of as many as there is a need to look at."""
    masked = any(one.name == "mask" for one in job.named)
    looked_at = items if masked else items[:LOOKED_AT] if job.geometry.varies else []
    found = {item.key: size_of(path_of(item.uri)) for item in looked_at}
    return {key: size for key, size in found.items() if size is not None}


def pixels_in(items: Sequence[Item]) -> float:
    """Return how many pixels a picture has on average, as the headers of some say; a megapixel where none does."""
    found = [size_of(path_of(item.uri)) for item in items[:: max(1, len(items) // HEADERS)]]
    counts = [height * width for height, width in filter(None, found)]
    return sum(counts) / len(counts) if counts else 2.0**20


def _largest(geometry: Geometry, sizes: Mapping[str, tuple[int, int]]) -> tuple[int, int]:
    """Return height and width of the largest picture as the network takes it."""
    fitted = [geometry.fitted(*size) for size in sizes.values()]
    return max(fitted, key=lambda size: size[0] * size[1], default=_any_size(geometry))


def _any_size(geometry: Geometry) -> tuple[int, int]:
    """Return height and width of a picture that may come."""
    return geometry.size if max(geometry.size) else (64, 64)


def _check_mask(job: Job, sizes: Mapping[str, tuple[int, int]]) -> None:
    """Refuse a mask that does not lie on each of the pictures as it lies on itself."""
    geometry = job.geometry
    for mask in (one for one in job.named if one.name == "mask"):
        height, width = pixels_of(mask, job.max_pixels).shape[:2]
        for key, size in sizes.items():
            alike = geometry.fitted(height, width) == geometry.fitted(*size) if geometry.varies else False
            if not alike and (height, width) not in (size, geometry.fitted(*size)):
                expected = f"expected the size of {key}, {size[1]}×{size[0]} pixels"
                raise UsageError(f"mask: {expected}, got {mask.title} of {width}×{height}; resize the mask")
