"""From what was asked for to a plan: a pure value that says what there is to compute, checked before anything runs."""

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import cloudpickle
import numpy as np
import pyarrow as pa
from torch import nn

from afterimage.errors import UsageError
from afterimage.models.network import Network, Preset, class_index, digest
from afterimage.models.style.engines import EngineName
from afterimage.models.style.source import no_style_net, paints, style_file
from afterimage.models.zoo import load_model, pending_download
from afterimage.registry import Method, uses_network

from . import manifest
from .geometry import Geometry
from .inputs import Inputs, Say, check_out, inputs_of, scanned
from .job import (
    GIVEN,
    HANDED_OVER,
    NO_NETWORK,
    Job,
    ModelSource,
    hand_over,
    resolved_device,
    resolved_precision,
    runtime,
)
from .labels import labels_by_class
from .named import NamedPicture, named_pictures
from .photos import PhotoFiles
from .picture_names import picture_names
from .probe import check_inputs, pixels_in, tried, with_layer
from .rows import drawn_size, predicted_size
from .settings import Settings
from .shards import committed
from .subjects import subjects
from .task import Part

SLOW_SHARD = 32
"""Images in a slow method's shard at most: what a killed worker loses, and what an interrupt waits for."""


class Loaded(NamedTuple):
    """A network and where it comes from; pickled, if it was built in Python. No network where the method uses none."""

    source: ModelSource
    network: Network | None
    pickled: bytes | None = None


@dataclass(frozen=True)
class Plan:
    """What a run will do: a job, its folder, the inputs, and the shards that are to be computed, by generation."""

    folder: Path
    job: Job
    inputs: Inputs
    generations: Mapping[int, int]
    done: Mapping[str, int]
    predicted_bytes: int
    loaded: Loaded

    @property
    def table(self) -> pa.Table:
        """All inputs."""
        return self.inputs.table

    def calls(self, beside: "Sequence[Plan]" = ()) -> Iterator[tuple[Any, ...]]:
        """Yield one task's arguments per shard; jobs `beside` it take part where neither has the shard yet."""
        parts = manifest.shards(self.table)
        names: Mapping[str, bytes] = {}
        if self.job.method.makes_images and self.generations:
            keys = (part["key"].to_pylist() for part in self.inputs.parts)
            names = picture_names(keys) if self.job.photos is None else picture_names(keys, self.job.photos.end)
        plans = [self, *beside]
        for shard in sorted({shard for plan in plans for shard in plan.generations}):
            items = manifest.items_of(parts[shard])
            own = {item.key: names[item.key] for item in items} if names else {}
            todo = [(plan, plan.generations[shard]) for plan in plans if shard in plan.generations]
            new = [Part(plan.folder / "shards", plan.job, 0) for plan, generation in todo if not generation]
            again = [Part(plan.folder / "shards", plan.job, generation) for plan, generation in todo if generation]
            for together in ([new] if new else []) + [[one] for one in again]:
                yield together, shard, items, own


def plan_run(
    method: Method,
    settings: Settings,
    options: Mapping[str, Any],
    inputs: Sequence[str | Path],
    out: Path,
    say: Say,
    named: Mapping[str, Any] | None = None,
    loaded: Loaded | None = None,
    jobs: int = 1,
) -> Plan:
    """Plan a method's run over images or subjects; raise `UsageError` or `RefusedError` where it cannot be as asked.

    `named` has pictures by the parameter that takes them. Where `jobs` are planned one after the other, to run
    together, the network `loaded` for the first serves them all.
    """
    folder = check_out(out) / (settings.name or method.verb)
    chosen = method.cls(**options)
    options = {option.name: _plain(getattr(chosen, option.name)) for option in method.options}
    pictures = named_pictures(method, named or {}, settings.max_pixels)
    items = None if method.generates else scanned(settings, inputs, out)
    if loaded is None or (loaded.network is not None) != uses_network(chosen):
        loaded = load(method, chosen, settings, say)
    if items is None:
        items = subjects(map(str, inputs), _needed(method, loaded))[: settings.limit]
    found = inputs_of(settings, items, folder, say)
    job = _job(method, settings, options, found.table, loaded, pictures)
    _check_labels(job, found.table, say)
    job, found = _divided(job, loaded.network, settings, found)
    job = replace(job, threads=settings.threads or _threads(job, folder, len(manifest.shards(found.table)) * jobs))
    plan = _plan(job, settings, folder, found, loaded)
    return replace(plan, job=replace(job, engine=_engine(plan, settings, say)))


def _needed(method: Method, loaded: Loaded) -> Network:
    if loaded.network is None:
        raise UsageError(f"{method.verb}: its subjects are classes and neurons of a network, and it uses none")
    return loaded.network


def _divided(job: Job, network: Network | None, settings: Settings, found: Inputs) -> tuple[Job, Inputs]:
    """Check that inputs and options fit, and choose the size of batches and shards."""
    check_inputs(job, network, manifest.items_of(found.table))
    divides = found.first and settings.shard_size is None
    if job.method.makes_images:
        if divides:
            # photographs take a moment each: enough of them to decode ahead of the network and encode behind it
            step = max(4, job.batch_size) if job.photos else job.batch_size
            size = manifest.default_shard_size(len(found.table), step)
            found = found.divided(min(max(SLOW_SHARD, job.batch_size), size))
    elif network is not None:
        found_out = tried(job, network)
        if found_out.slow:
            # It fills its model calls from one image: no empty slots, and few images between two commits.
            if divides:
                found = found.divided(min(SLOW_SHARD, manifest.default_shard_size(len(found.table), step=4)))
            return replace(job, batch_size=settings.batch_size or 1), found
        job = with_width(job, found_out.width)
    if settings.batch_size is None:
        # Where a slow method divided the inputs, shards are small: no slot of a batch is to stay empty in all of them.
        job = replace(job, batch_size=min(job.batch_size, int(np.bincount(found.table["shard"].to_numpy()).max())))
    return job, found


def with_width(job: Job, width: int) -> Job:
    """Return the job with the length of its vectors, where that is what it makes.

    Raises `UsageError` for vectors of no length, and for what needs pictures of one size where they have several.
    """
    if job.method.result.name == "peaks" and job.geometry.varies:
        raise UsageError(f"fit: {job.verb} cuts by one receptive field, which needs pictures of one size; take preset")
    if job.method.result.name != "embedding":
        return job
    if width < 1:
        raise UsageError(f"{job.verb}: expected vectors of one number at least, got none; name another --layer")
    if job.geometry.varies and job.options.get("pool") == "flatten":
        raise UsageError("pool: flattened maps of pictures of several sizes differ in length; use mean or max")
    return replace(job, width=width)


def plan_beside(plan: Plan, method: Method, settings: Settings, options: Mapping[str, Any]) -> Plan:
    """Plan a job that shares the passes of another; raise `UsageError` where it cannot."""
    chosen = method.cls(**options)
    if method.makes_images or plan.job.method.makes_images or not uses_network(chosen):
        raise UsageError(
            f"with: {plan.job.verb} and {method.verb} cannot share a forward pass; run one after the other"
        )
    options = {option.name: _plain(getattr(chosen, option.name)) for option in method.options}
    job = _job(method, settings, options, plan.table, plan.loaded, named_pictures(method, {}, settings.max_pixels))
    job = replace(job, batch_size=plan.job.batch_size, threads=plan.job.threads)
    if job.geometry != plan.job.geometry:
        raise UsageError(
            f"with: {method.verb} takes pictures fitted otherwise than {plan.job.verb}; name a --fit for both"
        )
    network = _needed(method, plan.loaded)
    check_inputs(job, network, ())
    job = with_width(job, tried(job, network).width)
    return _plan(job, settings, plan.folder.parent / method.verb, plan.inputs, plan.loaded)


def _plan(job: Job, settings: Settings, folder: Path, found: Inputs, loaded: Loaded) -> Plan:
    """Say which shards are to be computed, and what disk they take."""
    parts = manifest.shards(found.table)
    shards = {} if settings.mode == "overwrite" else committed(folder / "shards")
    generations = {number: 0 for number in parts if number not in shards}
    if settings.retry_failed:
        generations |= {number: commit.generation + 1 for number, commit in shards.items() if commit.failed}
    done: Counter[str] = Counter()
    for number, commit in shards.items():
        if number not in generations:
            done.update(commit.statuses)
    size = _size(job, [part for number, part in parts.items() if number in generations])
    check_disk(folder.parent, size)
    return Plan(folder, job, found, dict(sorted(generations.items())), done, size, loaded)


def _size(job: Job, parts: Sequence[pa.Table]) -> int:
    """Return about how many bytes the rows and pictures of these shards take."""
    table, geometry = job.method.details, job.geometry
    if job.photos is None:
        return sum(map(len, parts)) * predicted_size(job.result, job.keep, geometry.size, job.heatmap_size, table)
    items = manifest.items_of(pa.concat_tables(parts)) if parts else []
    pixels = pixels_in(items)
    files = sum(job.photos.predicted(item.key.encode(), pixels) for item in items)
    return round(files) + len(items) * drawn_size(pixels, job.keep)


def _job(
    method: Method,
    settings: Settings,
    options: Mapping[str, Any],
    table: pa.Table,
    loaded: Loaded,
    pictures: tuple[NamedPicture, ...],
) -> Job:
    device = resolved_device(settings.device)
    network = loaded.network
    categories, labels = (network.categories or () if network else ()), _labels(table)
    geometry = _geometry(method, settings, network.preset if network else None)
    return Job(
        verb=method.verb,
        options=with_layer(method, options, network, geometry),
        model=loaded.source,
        target=_target(method, settings, options, network),
        geometry=geometry,
        precision=resolved_precision(settings.precision, device),
        device=device,
        batch_size=settings.batch_size or _batch_size(method, geometry, device),
        threads=1,
        keep=settings.keep,
        heatmap_size=settings.heatmap_size,
        max_pixels=settings.max_pixels,
        categories=categories,
        classes=labels_by_class(labels, categories or _numbers(labels)),
        seed=settings.seed,
        named=pictures,
        photos=_photos(method, settings),
    )


def _photos(method: Method, settings: Settings) -> PhotoFiles | None:
    return PhotoFiles(settings.format, settings.quality, settings.keep_location) if method.defaults.photos else None


def _geometry(method: Method, settings: Settings, preset: Preset | None) -> Geometry:
    fit = settings.fit or method.defaults.fit
    if fit == "inside":
        side = settings.size or method.defaults.size or (max(preset.size) if preset else None)
        if side is None:
            raise UsageError("size: --fit inside needs the side of a square, as --size 512")
        return Geometry(fit, (side, side), None, "bicubic")
    if preset is None:
        if fit != "none":
            raise UsageError(f"fit: {fit} is to a network's input, and {method.verb} uses no network; take inside")
        return Geometry("none", (0, 0))
    return Geometry(fit, preset.size, preset.resize, preset.interpolation)


def _batch_size(method: Method, geometry: Geometry, device: str) -> int:
    """Return how many images go into a model call; what is optimized keeps many more activations in memory."""
    cuda = device.startswith("cuda")
    if method.makes_images and geometry.varies:
        return 8 if cuda else 1
    return (16 if method.makes_images else 64) if cuda else 4


def _threads(job: Job, folder: Path, shards: int) -> int:
    """Return threads per model call: one, or for pictures that take long the cores that no other shard has.

    What a job has begun with, it keeps: the number changes the last bits.
    """
    if not job.method.makes_images or job.device.startswith("cuda"):
        return 1
    if (folder / "run.json").exists():
        return int(json.loads((folder / "run.json").read_text(encoding="utf-8"))["config"]["threads"])
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // max(1, shards))


def _engine(plan: Plan, settings: Settings, say: Say) -> EngineName | None:
    """Return what computes a style network: what was asked for, or what the job has begun with, or the fastest here."""
    job, network, file = plan.job, plan.loaded.network, plan.folder / "run.json"
    if job.method.defaults.family != "style" or network is None:
        return None
    engine = settings.engine
    if engine == "auto" and file.exists() and settings.mode != "overwrite":
        engine = json.loads(file.read_text(encoding="utf-8"))["config"].get("engine", engine)
    if engine != "auto" and not plan.generations:
        return engine
    chosen = runtime(network, engine, job.device, job.precision, job.threads)
    if engine == "auto":
        say(f"engine: {chosen.probe}")
    return chosen.engine


def _labels(table: pa.Table) -> list[str]:
    return [label for label in table["label"].unique().to_pylist() if label is not None]


def _numbers(labels: Sequence[str]) -> list[str]:
    return [str(number) for number in range(1 + max((int(label) for label in labels if label.isdecimal()), default=0))]


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def load(method: Method, chosen: Any, settings: Settings, say: Say) -> Loaded:
    """Load the network of a run, unless the method as it was `chosen` uses none."""
    if not uses_network(chosen):
        return Loaded(ModelSource(NO_NETWORK, None), None)
    try:
        found = _loaded(method, settings, say)
        if found.network is not None and method.defaults.family == "classifier" and paints(found.network):
            expected = f"{method.verb} looks into networks that tell classes, as --model resnet50"
            raise UsageError(f"{found.network.name} is a style network, which only paints; {expected}")
        return found
    except UsageError as error:
        flag = method.defaults.network_flag
        raise (UsageError(str(error).replace("--model", f"--{flag}")) if flag else error) from error


def _loaded(method: Method, settings: Settings, say: Say) -> Loaded:
    given = {name: getattr(settings, name) for name in GIVEN}
    if (settings.fit or method.defaults.fit) == "inside":
        given["size"] = None  # there it is the pictures' size, and none of the network's
    for name in ("weights", "categories"):
        if given[name] is not None and Path(given[name]).exists():
            given[name] = str(Path(given[name]).absolute())  # workers may have another working directory
    if isinstance(settings.model, nn.Module):
        said = [name for name, value in given.items() if value not in (None, "DEFAULT")]
        if isinstance(settings.model, Network) and said:
            raise UsageError(f"{', '.join(said)}: the model has its own already, from load_model; give them there")
        network = settings.model if isinstance(settings.model, Network) else load_model(settings.model, **given)
        sha256, pickled = digest(network), cloudpickle.dumps(network)
        hand_over(pickled, sha256)
        source = ModelSource(HANDED_OVER, digest=sha256)
        return Loaded(source, source.load().cpu(), pickled)
    name = settings.model or method.defaults.network
    if method.defaults.family == "style" and not style_file(name) and ":" not in name:
        raise UsageError(no_style_net(name))  # before the weights of a classifier are fetched
    if download := pending_download(name, settings.weights):
        say(f"downloading the weights of {name}, {download[1] / 1e6:.0f} MB, from {download[0]}")
    source = ModelSource(name, **given)
    network = source.load()
    return Loaded(replace(source, digest=digest(network)), network)


def _target(method: Method, settings: Settings, options: Mapping[str, Any], network: Network | None) -> str:
    if not method.makes_maps and (method.generates or "target" not in method.inputs or network is None):
        return "none"
    if options.get("of") is not None and settings.target != "predicted":
        raise UsageError("expected a class (--target) or a neuron (--of), got both; leave one out")
    if settings.target == "label" and not settings.labels:
        raise UsageError("target: label needs the true labels; add --labels folders or --labels FILE.csv:column")
    if settings.target in ("predicted", "label"):
        return str(settings.target)
    return str(class_index(network, settings.target))


def _check_labels(job: Job, table: pa.Table, say: Say) -> None:
    labels = _labels(table)
    unknown = sorted(set(labels) - set(job.classes))
    if job.target == "label" and (unknown or table["label"].null_count):
        unlabeled = table["label"].null_count
        raise UsageError(
            f"target: label needs a class of the model for every image; {unlabeled} images have no label, and "
            f"{len(unknown)} labels name none of its classes ({', '.join(unknown[:3])}); use --target predicted"
        )
    if unknown:
        few = ", ".join(unknown[:3]) + (", …" if len(unknown) > 3 else "")
        say(f"{len(unknown)} of {len(labels)} labels name no class of the model: {few}; neither right nor wrong there")


def check_disk(out: Path, size: int) -> None:
    """Refuse, with `UsageError`, what would not fit on the disk."""
    there = next(path for path in (out.resolve(), *out.resolve().parents) if path.exists())
    free = shutil.disk_usage(there).free
    if size > free:
        raise UsageError(
            f"OUT: the run takes about {size / 1e9:.1f} GB and {there} has {free / 1e9:.1f} GB free; "
            "use --keep heatmap or none, --heatmap-size N, or another OUT"
        )
