"""From what was asked for to a plan: a pure value that says what there is to compute, checked before anything runs."""

import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pyarrow as pa
from torch import nn

from afterimage.errors import RefusedError, UsageError
from afterimage.models.network import Network, class_index, digest
from afterimage.models.zoo import load_model, pending_download
from afterimage.registry import Method

from . import manifest
from .geometry import Geometry
from .job import GIVEN, HANDED_OVER, Job, ModelSource, hand_over, resolved_device, resolved_precision
from .labels import labels_by_class, labels_for
from .rows import predicted_size
from .settings import Settings
from .shards import committed, read_shard
from .task import explain, pictures_of

DEFAULT_MODEL = "resnet50"
MANY = 16
"""A method that shows a network more pictures than this for each image is slow."""
SLOW_SHARD = 32
"""Images in a slow method's shard at most: what a killed worker loses, and what an interrupt waits for."""
Say = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """What a run will do: a job, its folder, the inputs, and the shards that are to be computed, by generation.

    `new_inputs` are those not yet in OUT's manifest, `parts` the number of files that it had when this was planned.
    """

    folder: Path
    job: Job
    table: pa.Table
    new_inputs: pa.Table | None
    parts: int
    generations: Mapping[int, int]
    done: Mapping[str, int]
    predicted_bytes: int
    pickled: bytes | None

    def calls(self) -> Iterator[tuple[Any, ...]]:
        """Yield one task's arguments per shard."""
        parts = manifest.shards(self.table)
        for shard, generation in self.generations.items():
            yield self.folder / "shards", self.job, shard, generation, manifest.items_of(parts[shard])


def plan_run(
    method: Method, settings: Settings, options: Mapping[str, Any], inputs: Sequence[str | Path], out: Path, say: Say
) -> Plan:
    """Plan a method's run over images; raise `UsageError` or `RefusedError` where it cannot be as asked."""
    folder = check_out(out) / (settings.name or method.verb)
    parts = len(manifest.parts(out))
    table, new_inputs = _inputs(settings, inputs, folder, say)
    options = {option.name: _plain(getattr(method.cls(**options), option.name)) for option in method.options}
    source, network, pickled = _model(settings, say)
    job = _job(method, settings, options, table, source, network)
    _check_labels(job, table, say)
    divides = new_inputs is table and settings.shard_size is None
    if _is_slow(job, network):
        # It fills its model calls from one image: no empty slots, and few images between two commits.
        job = replace(job, batch_size=settings.batch_size or 1)
        if divides:
            size = min(SLOW_SHARD, manifest.default_shard_size(len(table), step=4))
            table = new_inputs = manifest.divide(manifest.items_of(table), size)
    elif settings.batch_size is None:
        # Where a slow method divided the inputs, shards are small: no slot of a batch is to stay empty in all of them.
        job = replace(job, batch_size=min(job.batch_size, int(np.bincount(table["shard"].to_numpy()).max())))
    shards = {} if settings.mode == "overwrite" else committed(folder / "shards")
    generations = {number: 0 for number in manifest.shards(table) if number not in shards}
    if settings.retry_failed:
        generations |= {number: commit.generation + 1 for number, commit in shards.items() if commit.failed}
    done: Counter[str] = Counter()
    for number, commit in shards.items():
        if number not in generations:
            done.update(commit.statuses)
    count = sum(len(part) for number, part in manifest.shards(table).items() if number in generations)
    row = predicted_size(method.result, job.keep, job.geometry.size, job.heatmap_size, method.details)
    size = count * row
    _check_disk(out, size)
    return Plan(folder, job, table, new_inputs, parts, dict(sorted(generations.items())), done, size, pickled)


def check_out(out: Path) -> Path:
    """Return `out` if it is absent, empty or one of ours."""
    try:
        str(out).encode()
    except UnicodeEncodeError:
        raise UsageError(f"OUT: expected a path in UTF-8, got {str(out)!r}") from None
    if out.exists() and not out.is_dir():
        raise UsageError(f"OUT: {str(out)!r} is a file; expected a folder that is absent, empty or made by afterimage")
    files = (path for path in out.rglob("*") if not path.is_dir() and not path.name.startswith("."))
    if not manifest.parts(out) and any(files):
        raise UsageError(f"OUT: {str(out)!r} has files of its own; expected one that is absent, empty or ours")
    return out


def _inputs(
    settings: Settings, inputs: Sequence[str | Path], folder: Path, say: Say
) -> tuple[pa.Table, pa.Table | None]:
    """Return all inputs' table and the part of it that is not written yet."""
    out = folder.parent
    items = manifest.scan(inputs, leave_out=out)[: settings.limit]
    if settings.labels:
        items = manifest.with_labels(items, labels_for(items, settings.labels))
    alone = not any(path for path in out.glob("*/run.json") if path.parent != folder)
    if not manifest.parts(out) or (settings.mode == "overwrite" and alone):
        table = manifest.divide(items, settings.shard_size or manifest.default_shard_size(len(items)))
        return table, table
    frozen = manifest.load(out)
    differ = {what: keys for what, keys in manifest.differences(frozen, items).items() if keys}
    _refuse(differ, settings, folder)
    if "removed" in differ:
        say(f"{len(differ['removed'])} images of the run are gone; they keep their rows")
    if "added" not in differ:
        return frozen, None
    added = set(differ["added"])
    new = [item for item in items if item.key in added]
    known = set(frozen["uri"].to_pylist())
    if twice := [item.key for item in new if item.uri in known]:
        raise RefusedError(f"{out} has {len(twice)} of these files under other keys ({twice[0]}, …); name OUT anew")
    size = int(np.bincount(frozen["shard"].to_numpy()).max())
    first = int(frozen["shard"].to_numpy().max()) + 1
    part = manifest.divide(new, settings.shard_size or size, first)
    return pa.concat_tables([frozen, part]), part


def _refuse(differ: Mapping[str, list[str]], settings: Settings, folder: Path) -> None:
    """Refuse inputs that are not the frozen ones, but for what the mode or a retry allows."""
    allowed = {"added", "removed"} if settings.mode == "extend" else set()
    if settings.retry_failed and set(differ.get("resized", ())) <= _failed_keys(folder):
        allowed.add("resized")  # a file that was mended is what a retry is for
    wrong = {what: keys for what, keys in differ.items() if what not in allowed}
    if wrong:
        facts = "; ".join(f"{len(keys)} {what} ({', '.join(keys[:3])}, …)" for what, keys in wrong.items())
        hints = {"added": "--mode extend adds them", "labeled otherwise": "repeat --labels as it was"}
        hint = next((hints[what] for what in hints if what in wrong), "take another OUT")
        raise RefusedError(f"{folder.parent} was made from other inputs: {facts}; {hint}")


def _failed_keys(folder: Path) -> set[str]:
    shards = folder / "shards"
    failed = [commit for commit in committed(shards).values() if commit.failed]
    tables = [read_shard(shards, commit, ["key", "status"]) for commit in failed]
    rows = [row for table in tables for row in table.to_pylist()]
    return {row["key"] for row in rows if row["status"] != "ok"}


def _job(
    method: Method,
    settings: Settings,
    options: Mapping[str, Any],
    table: pa.Table,
    source: ModelSource,
    network: Network,
) -> Job:
    device = resolved_device(settings.device)
    preset, categories, labels = network.preset, network.categories or (), _labels(table)
    return Job(
        verb=method.verb,
        options=options,
        model=source,
        target=_target(settings, options, network),
        geometry=Geometry(settings.fit, preset.size, preset.resize, preset.interpolation),
        precision=resolved_precision(settings.precision, device),
        device=device,
        batch_size=settings.batch_size or (64 if device.startswith("cuda") else 4),
        threads=settings.threads,
        keep=settings.keep,
        heatmap_size=settings.heatmap_size,
        max_pixels=settings.max_pixels,
        categories=categories,
        classes=labels_by_class(labels, categories or _numbers(labels)),
    )


def _labels(table: pa.Table) -> list[str]:
    return [label for label in table["label"].unique().to_pylist() if label is not None]


def _numbers(labels: Sequence[str]) -> list[str]:
    return [str(number) for number in range(1 + max((int(label) for label in labels if label.isdecimal()), default=0))]


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _model(settings: Settings, say: Say) -> tuple[ModelSource, Network, bytes | None]:
    given = {name: getattr(settings, name) for name in GIVEN}
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
        return source, source.load().cpu(), pickled
    name = settings.model or DEFAULT_MODEL
    if download := pending_download(name, settings.weights):
        say(f"downloading the weights of {name}, {download[1] / 1e6:.0f} MB, from {download[0]}")
    source = ModelSource(name, **given)
    network = source.load()
    return replace(source, digest=digest(network)), network, None


def _target(settings: Settings, options: Mapping[str, Any], network: Network) -> str:
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


class _Enough(BaseException):
    """The method has shown the network many pictures: there is nothing more to learn from the grey one."""


def _is_slow(job: Job, network: Network) -> bool:
    """Run the method on grey, so that an option that does not fit the model is refused before the work.

    Returns whether it is one that shows the network many pictures at once for a single image; it is stopped there. One
    that calls the network over and over on what it was given gains from batches as any other.
    """
    seen = 0

    def count(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        nonlocal seen
        given = pictures_of(inputs, named)
        if len(given) > 1:
            seen += len(given)
        if seen > MANY:
            raise _Enough

    one = replace(job, batch_size=1, device="cpu", target="0" if job.target == "label" else job.target)
    hook = network.register_forward_pre_hook(count, with_kwargs=True)
    try:
        explain(one, network, None, [np.full((*job.geometry.size, 3), 128, np.uint8)])
    except _Enough:
        return True
    finally:
        hook.remove()
    return False


def _check_disk(out: Path, size: int) -> None:
    there = next(path for path in (out.resolve(), *out.resolve().parents) if path.exists())
    free = shutil.disk_usage(there).free
    if size > free:
        raise UsageError(
            f"OUT: the run takes about {size / 1e9:.1f} GB and {there} has {free / 1e9:.1f} GB free; "
            "use --keep heatmap or none, --heatmap-size N, or another OUT"
        )
