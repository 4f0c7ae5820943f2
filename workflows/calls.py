"""Calls of a method on items of a shard: what its parameters name goes in, and what came of each item comes out."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from afterimage.models.frozen import frozen
from afterimage.models.network import Network
from afterimage.registry import Progress

from .job import Job, placed
from .named import arguments as arguments_of
from .subjects import class_of, neuron_of

PADDING = 128  # the grey of slots whose image failed or is not there, so that every batch of maps has one shape

Pixels = np.ndarray | None


class Slot(NamedTuple):
    """One item of a call: key, uri, label, and its picture as the network takes it, `(H, W, 3)` uint8, or None."""

    key: str
    uri: str
    label: str | None
    pixels: Pixels


EMPTY = Slot("", "", None, None)


class Explained(NamedTuple):
    """What came of items: results `(N, C, H, W)` and logits `(N, classes)`, float32 on the CPU, and what else is known.

    There may be no logits, and any detail may be None. `alone` has the same of one item, without the N.
    """

    result: Tensor
    logits: Tensor | None
    details: Mapping[str, Tensor | None]

    def alone(self, place: int) -> "Explained":
        """Return what came of one item."""
        details = {name: None if value is None else value[place] for name, value in self.details.items()}
        return Explained(self.result[place], None if self.logits is None else self.logits[place], details)


def groups(job: Job, slots: Sequence[Slot]) -> list[list[int]]:
    """Return which places of a batch go into one call.

    Maps take the batch as it is, since its empty slots cost little. Of what makes pictures only the items that are
    there, by shape, classes together and each neuron alone.
    """
    if job.method.generates:
        classes = [place for place, slot in enumerate(slots) if neuron_of(slot.uri) is None]
        alone = [[place] for place, slot in enumerate(slots) if neuron_of(slot.uri) is not None]
        return [classes, *alone] if classes else alone
    present = {place: slot.pixels.shape for place, slot in enumerate(slots) if slot.pixels is not None}
    if not job.method.makes_images:
        return [list(present)] if present else []
    shapes = dict.fromkeys(present.values())
    return [[place for place, shape in present.items() if shape == one] for one in shapes]


def explain(
    job: Job, network: Network | None, slots: Sequence[Slot], places: Sequence[int], progress: Progress | None = None
) -> list[Explained]:
    """Run the job's method on the items at `places`, and return what came of each."""
    if job.method.makes_images:
        chosen = [slots[place] for place in places]
        explained = run_method(job, network, chosen, progress)
        return [explained.alone(place) for place in range(len(places))]
    # Each image keeps its place among grey ones, so that every batch has one shape: bytes may depend on both.
    size = 1 if job.geometry.varies else job.batch_size
    whole = [slot if place in places else slot._replace(pixels=None) for place, slot in enumerate(slots)]
    explained = run_method(job, network, [*whole, *[EMPTY] * (size - len(whole))], None)
    return [explained.alone(place) for place in places]


def run_method(job: Job, network: Network | None, slots: Sequence[Slot], progress: Progress | None) -> Explained:
    """Call the method, its `details` where it has them, and the network for its logits where they are wanted."""
    method = method_for(job, slots)
    images = None if job.method.generates else to_images([slot.pixels for slot in slots], job)
    given = arguments(job, images, slots, progress)
    seen: list[Any] = []
    with _outputs_of(images if predicts(job) else None, network, seen):
        returned = method.details(network, **given) if job.method.details else (method(network, **given),)
    if not seen and predicts(job) and network is not None and images is not None:
        with frozen(network), torch.no_grad():
            seen.append(network(images))
    logits = seen[0] if seen and isinstance(seen[0], Tensor) and seen[0].ndim == 2 else None
    names = [detail.name for detail in job.method.details]
    details = {name: None if one is None else one.cpu() for name, one in zip(names, returned[1:], strict=True)}
    return Explained(returned[0].float().cpu(), None if logits is None else logits.float().cpu(), details)


def predicts(job: Job) -> bool:
    """Whether the job tells each picture's class: maps do, and of what makes pictures the methods that take a class."""
    return not job.method.makes_images or (not job.method.generates and "target" in job.method.inputs)


def method_for(job: Job, slots: Sequence[Slot]) -> Any:
    """Return the method with the job's options; of a neuron where that is what the items are."""
    neuron = neuron_of(slots[0].uri) if slots else None
    return job.method.cls(**{**job.options, **({} if neuron is None else {"of": neuron})})


def to_images(pixels: Sequence[Pixels], job: Job) -> Tensor:
    """Stack pictures to `(N, 3, H, W)` in [0, 1], channels last; those that are not there are grey."""
    shape = next(one.shape for one in pixels if one is not None)
    stack = np.full((len(pixels), *shape), PADDING, np.uint8)
    for place, one in enumerate(pixels):
        if one is not None:
            stack[place] = one
    return torch.from_numpy(stack).to(placed(job.device)).permute(0, 3, 1, 2).float().div_(255)


def arguments(job: Job, images: Tensor | None, slots: Sequence[Slot], progress: Progress | None) -> dict[str, Any]:
    """Return the arguments of the method's call, by the names of its parameters."""
    known: dict[str, Any] = {
        "images": images,
        "content": images,
        "target": targets(job, slots),
        "seeds": torch.tensor([seed_of(job.seed, slot.key) for slot in slots], dtype=torch.int64),
        "progress": progress,
        **arguments_of(job.named, job.geometry, job.max_pixels, placed(job.device)),
    }
    return {name: known[name] for name in job.method.inputs if name in known}


def seed_of(run_seed: int, key: str) -> int:
    """Return the seed of one item, 63 bits that depend on the run's seed and the item's key alone."""
    return int.from_bytes(hashlib.sha256(f"{run_seed}\0{key}".encode()).digest()[:8], "big") >> 1


def targets(job: Job, slots: Sequence[Slot]) -> Tensor | None:
    """Return the class to explain of each item, padded where the batch is; None where the method chooses."""
    if job.method.generates:
        classes = [class_of(slot.uri, job.categories) for slot in slots]
        known = [one for one in classes if one is not None]
        return torch.tensor(known, device=placed(job.device)) if len(known) == len(slots) else None
    if job.target not in ("predicted", "none") and job.options.get("of") is None:
        chosen = [_target(job, slot.label) for slot in slots]
        return torch.tensor(chosen, device=placed(job.device))
    return None


def _target(job: Job, label: str | None) -> int:
    if job.target != "label":
        return int(job.target)
    return job.classes[label] if label is not None else 0


@contextmanager
def _outputs_of(images: Tensor | None, network: Network | None, seen: list[Any]) -> Iterator[None]:
    """Collect what the network returns for `images`: a method may call it on others too, as many as it likes."""
    if images is None or network is None:
        yield
        return

    def keep(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
        given = pictures_of(inputs, named)
        alike = (given.shape, given.dtype, given.device) == (images.shape, images.dtype, images.device)
        if not seen and alike and torch.equal(given, images):
            seen.append(output.detach().clone() if isinstance(output, Tensor) else output)

    hook = network.register_forward_hook(keep, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


def pictures_of(inputs: Sequence[Any], named: Mapping[str, Any]) -> Tensor:
    """Return what a call of a network was given, by place or by name."""
    pictures: Tensor = inputs[0] if inputs else named["images"]
    return pictures
