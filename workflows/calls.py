"""Calls of a method on items of a shard: what its parameters name goes in, and what came of each item comes out."""

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from afterimage.models.layers import OUTPUT
from afterimage.models.network import Network
from afterimage.models.sharing import Shared, sharing
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
    jobs: Sequence[Job],
    network: Network | None,
    slots: Sequence[Slot],
    places: Sequence[int],
    progress: Progress | None = None,
) -> list[list[Explained]]:
    """Run the methods of jobs that share a pass on the items at `places`; return, for each, what came of it by job."""
    job = jobs[0]
    if job.method.makes_images:
        chosen = [slots[place] for place in places]
        explained = run_methods(jobs, network, chosen, progress)
        return [[one.alone(place) for one in explained] for place in range(len(places))]
    # Each image keeps its place among grey ones, so that every batch has one shape: bytes may depend on both.
    size = 1 if job.geometry.varies else job.batch_size
    whole = [slot if place in places else slot._replace(pixels=None) for place, slot in enumerate(slots)]
    explained = run_methods(jobs, network, [*whole, *[EMPTY] * (size - len(whole))], None)
    return [[one.alone(place) for one in explained] for place in places]


def run_methods(
    jobs: Sequence[Job], network: Network | None, slots: Sequence[Slot], progress: Progress | None
) -> list[Explained]:
    """Call the methods, and the network for its logits where they are wanted, in one forward pass if that can be."""
    images = None if jobs[0].method.generates else to_images([slot.pixels for slot in slots], jobs[0])
    methods = [method_for(job, slots) for job in jobs]
    returned: dict[int, tuple[Any, ...]] = {}
    with _one_pass(jobs, methods, network, images) as shared:
        # Those that need a pass of their own come first: the others then read what it left.
        for place in sorted(range(len(jobs)), key=lambda place: hasattr(methods[place], "reads")):
            given = arguments(jobs[place], images, slots, progress)
            detailed = bool(jobs[place].method.details)
            called = methods[place].details if detailed else methods[place]
            returned[place] = called(network, **given) if detailed else (called(network, **given),)
        output = shared.kept(OUTPUT) if shared and any(map(predicts, jobs)) else None
    logits = output.float().cpu() if isinstance(output, Tensor) and output.ndim == 2 else None
    return [_explained(job, returned[place], logits) for place, job in enumerate(jobs)]


def _one_pass(
    jobs: Sequence[Job], methods: Sequence[Any], network: Network | None, images: Tensor | None
) -> AbstractContextManager[Shared | None]:
    if network is None or images is None:
        return nullcontext()
    names = [method.reads(network, images) for method in methods if hasattr(method, "reads")]
    if any(map(predicts, jobs)):
        names.append(OUTPUT)
    return sharing(network, images, names) if names else nullcontext()


def _explained(job: Job, returned: Sequence[Any], logits: Tensor | None) -> Explained:
    names = [detail.name for detail in job.method.details]
    details = {name: None if one is None else one.cpu() for name, one in zip(names, returned[1:], strict=True)}
    return Explained(returned[0].float().cpu(), logits if predicts(job) else None, details)


def predicts(job: Job) -> bool:
    """Whether the job tells each picture's class: of what makes pictures, the methods that take a class do."""
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


def pictures_of(inputs: Sequence[Any], named: Mapping[str, Any]) -> Tensor:
    """Return what a call of a network was given, by place or by name."""
    pictures: Tensor = inputs[0] if inputs else named["images"]
    return pictures
