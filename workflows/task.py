"""One shard from files to a commit: decode threads ahead, the model in the middle, drawing and encoding behind."""

import hashlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import simplejpeg
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from afterimage.drawing import draw
from afterimage.errors import UsageError
from afterimage.models.frozen import frozen
from afterimage.models.network import Network
from afterimage.registry import Detail

from . import rows as row_table
from .clock import Clock
from .decode import ImageError, decode, read
from .details import cells
from .geometry import fit
from .job import Job, compute_with, placed, prepared
from .manifest import Item, path_of
from .rows import Row, halved
from .shards import Commit, commit, read_marker, read_shard
from .underway import telling

PADDING = 128  # the grey of slots whose image failed or is not there, so that every batch has one shape
QUALITY = 90
STOP = ".stop"  # the file in a job's folder that asks its tasks to begin no further shard
# A user's workers may have several threads: they share the network, and the hook that reads its logits.
_model_lock = threading.Lock()


class Explained(NamedTuple):
    """What came of images: maps `(N, C, H, W)` and logits `(N, classes)`, float32 on the CPU, and the method's details.

    The network may have no logits, and any detail may be None. `alone` has the same of one image, without the N.
    """

    heatmap: Tensor
    logits: Tensor | None
    details: Mapping[str, Tensor | None]

    def alone(self, place: int) -> "Explained":
        """Return what came of one image."""
        details = {name: None if value is None else value[place] for name, value in self.details.items()}
        return Explained(self.heatmap[place], None if self.logits is None else self.logits[place], details)

    def finite(self) -> bool:
        """Whether all figures are finite."""
        found = [self.heatmap, self.logits, *self.details.values()]
        return all(one is None or bool(one.isfinite().all()) for one in found)


def run_shard(folder: Path, job: Job, shard: int, generation: int, items: Sequence[Item]) -> Commit | None:
    """Compute one shard's rows and commit them; in a later generation, only those that were not ok before.

    Returns None, and does nothing, once the run has been asked to stop.
    """
    if (folder.parent / STOP).exists():
        return None
    clock = Clock()
    stored = job.method.result, job.keep, job.method.details
    with telling(folder, shard) as tell:
        if generation:
            previous = read_marker(folder / f"{shard:05d}.g{generation - 1}.commit.json")
            table = _retried(read_shard(folder, previous), job, items, clock, tell)
        else:
            rows = _rows(job, items, clock, tell)
            with clock.stage("write"):
                table = row_table.table(rows, *stored)
        return commit(folder, shard, generation, table, row_table.parquet_options(*stored), clock)


def _retried(table: pa.Table, job: Job, items: Sequence[Item], clock: Clock, tell: Callable[[int], None]) -> pa.Table:
    failed = [place for place, status in enumerate(table["status"].to_pylist()) if status != "ok"]
    rows = _rows(job, [items[place] for place in failed], clock, tell)
    again = row_table.table(rows, job.method.result, job.keep, job.method.details)
    order = list(range(len(items)))
    for number, place in enumerate(failed):
        order[place] = len(items) + number
    return pa.concat_tables([table, again]).take(order)


def _rows(job: Job, items: Sequence[Item], clock: Clock, tell: Callable[[int], None]) -> list[Row]:
    rows = [Row(item.key, item.uri, item.label) for item in items]
    size = 1 if job.geometry.fit == "none" else job.batch_size
    batches = [rows[start : start + size] for start in range(0, len(rows), size)]
    with _model_lock:
        network = prepared(job.model, job.device, job.precision)
    compute_with(job.threads)
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        loading = [[reader.submit(_load, row, job, clock) for row in batch] for batch in batches[:2]]
        writing: list[Future[None]] = []
        for number, batch in enumerate(batches):
            pixels = [future.result() for future in loading[number]]
            if number + 2 < len(batches):
                loading.append([reader.submit(_load, row, job, clock) for row in batches[number + 2]])
            loading[number] = []
            explained = _explain_each(job, network, batch, pixels, clock)
            writing.append(writer.submit(_finish, job, batch, pixels, explained, clock))
            tell(len(batch))
            if number >= 2:
                writing[number - 2].result()
        for future in writing:
            future.result()
    return rows


def _load(row: Row, job: Job, clock: Clock) -> np.ndarray | None:
    """Return one image as the network takes it, `(H, W, 3)` uint8, or None after noting in the row what failed."""
    try:
        with clock.stage("read"):
            data = read(path_of(row.uri))
            row.sha256 = hashlib.sha256(data).hexdigest()
        with clock.stage("decode"):
            pixels = decode(data, job.max_pixels)
            row.height, row.width = pixels.shape[:2]
            fitted, row.crop_box = fit(pixels, job.geometry)
            return fitted
    except ImageError as error:
        row.fail(error.status, error.message)
        return None
    except MemoryError:
        row.fail("too_large", "there is not enough memory to decode it; see --max-pixels")
        return None


def _explain_each(
    job: Job, network: Network, batch: Sequence[Row], pixels: Sequence[np.ndarray | None], clock: Clock
) -> list[Explained | None]:
    """Explain a batch; where the model fails on it, each image alone, so that one failure costs one row."""
    present = [place for place, one in enumerate(pixels) if one is not None]
    if not present:
        return [None] * len(batch)
    try:
        with _model_lock, clock.stage("model"):
            explained = explain(job, network, _targets(job, batch), pixels)
        found: list[Explained | None] = [explained.alone(place) for place in present]
    except Exception as error:  # what a network raises on a picture is its own affair, and that picture's row
        if isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error):
            raise UsageError(f"out of memory with batches of {job.batch_size}; use a smaller --batch-size") from error
        if len(present) == 1:
            batch[present[0]].fail("model_failed", f"{type(error).__name__}: {error}")
            return [None] * len(batch)
        alone = [[one if place == only else None for place, one in enumerate(pixels)] for only in present]
        found = [_explain_each(job, network, batch, one, clock)[only] for only, one in zip(present, alone, strict=True)]
    by_place = dict(zip(present, found, strict=True))
    return [by_place.get(place) for place in range(len(batch))]


def explain(job: Job, network: Network, targets: Tensor | None, pixels: Sequence[np.ndarray | None]) -> Explained:
    """Run the job's method on a batch of `(H, W, 3)` uint8 pictures, None being an empty slot."""
    images = to_images(pixels, job)
    method = job.method.cls(**job.options)
    with _outputs_of(images, network) as seen:
        if job.method.details:
            heatmaps, *rest = method.details(network, images, targets)
        else:
            heatmaps, rest = method(network, images, targets), []
    if not seen:
        with frozen(network), torch.no_grad():
            seen.append(network(images))
    logits = seen[0] if isinstance(seen[0], Tensor) and seen[0].ndim == 2 else None
    names = [detail.name for detail in job.method.details]
    details = {name: None if one is None else one.cpu() for name, one in zip(names, rest, strict=True)}
    return Explained(heatmaps.float().cpu(), None if logits is None else logits.float().cpu(), details)


@contextmanager
def _outputs_of(images: Tensor, network: Network) -> Iterator[list[Any]]:
    """Collect what the network returns for `images`: a method may call it on others too, as many as it likes."""
    seen: list[Any] = []

    def keep(module: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any], output: Any) -> None:
        given = pictures_of(inputs, named)
        alike = (given.shape, given.dtype, given.device) == (images.shape, images.dtype, images.device)
        if not seen and alike and torch.equal(given, images):
            seen.append(output.detach().clone() if isinstance(output, Tensor) else output)

    hook = network.register_forward_hook(keep, with_kwargs=True)
    try:
        yield seen
    finally:
        hook.remove()


def pictures_of(inputs: Sequence[Any], named: Mapping[str, Any]) -> Tensor:
    """Return what a call of a network was given, by place or by name."""
    pictures: Tensor = inputs[0] if inputs else named["images"]
    return pictures


def to_images(pixels: Sequence[np.ndarray | None], job: Job) -> Tensor:
    """Stack pictures to `(N, 3, H, W)` in [0, 1], channels last, padded with grey to the job's batch."""
    shape = next(one.shape for one in pixels if one is not None)
    slots = 1 if job.geometry.fit == "none" else job.batch_size
    stack = np.full((slots, *shape), PADDING, np.uint8)
    for place, one in enumerate(pixels):
        if one is not None:
            stack[place] = one
    return torch.from_numpy(stack).to(placed(job.device)).permute(0, 3, 1, 2).float().div_(255)


def _targets(job: Job, batch: Sequence[Row]) -> Tensor | None:
    if job.target == "predicted" or job.options.get("of") is not None:
        return None
    if job.target == "label":
        classes = [job.classes[row.label] for row in batch if row.label is not None]
    else:
        classes = [int(job.target)] * len(batch)
    slots = 1 if job.geometry.fit == "none" else job.batch_size
    return torch.tensor(classes + [0] * (slots - len(classes)), device=placed(job.device))


def _finish(
    job: Job,
    batch: Sequence[Row],
    pixels: Sequence[np.ndarray | None],
    explained: Sequence[Explained | None],
    clock: Clock,
) -> None:
    """Fill the rows of a batch with what the model gave, drawn and encoded."""
    with clock.stage("write"):
        done = []
        for row, picture, one in zip(batch, pixels, explained, strict=True):
            if picture is None or one is None:
                continue
            if not one.finite():
                row.fail("nonfinite", "the network's output or gradient is not finite on this image")
                continue
            done.append((row, picture, one))
        if done:
            _predict(job, [row for row, _, _ in done], [one.logits for _, _, one in done])
            for row, _, one in done:
                for detail in job.method.details:
                    _detail(job, row, detail, one.details[detail.name])
            heatmaps = torch.stack([one.heatmap for _, _, one in done])
            _keep(job, [row for row, _, _ in done], [picture for _, picture, _ in done], heatmaps)
        for row in batch:
            row.label = _category_of_label(job, row.label)


def _category_of_label(job: Job, label: str | None) -> str | None:
    """Return the category that a label names, in the model's spelling, or else the label as it came."""
    index = None if label is None else job.classes.get(label)
    return label if index is None else _category(job, index)


def _category(job: Job, index: int) -> str:
    return job.categories[index] if job.categories else str(index)


def _predict(job: Job, rows: Sequence[Row], logits: Sequence[Tensor | None]) -> None:
    targets = _targets(job, rows)
    for place, (row, one) in enumerate(zip(rows, logits, strict=True)):
        if one is None:
            continue
        probabilities = one.softmax(0)
        predicted = int(one.argmax())
        row.prediction, row.probability = _category(job, predicted), float(probabilities[predicted])
        if job.options.get("of") is None:
            target = predicted if targets is None else int(targets[place])
            row.target, row.target_probability = _category(job, target), float(probabilities[target])


def _detail(job: Job, row: Row, detail: Detail, value: Tensor | None) -> None:
    """Put one of the method's details into a row, as far as it is kept."""
    if value is None:
        return
    if detail.kind.name != "images":
        row.details |= cells(detail, value)
    elif job.keep == "all":
        levels = value.float().clamp(0, 1).mul(255).round().to(torch.uint8)
        row.pictures[detail.name] = jpeg(levels.permute(1, 2, 0).contiguous().numpy())


def _keep(job: Job, rows: Sequence[Row], pixels: Sequence[np.ndarray], heatmaps: Tensor) -> None:
    if job.keep == "none":
        return
    for row, half in zip(rows, halved(shrunk(heatmaps, job.heatmap_size)), strict=True):
        row.heatmap = half
    if job.keep == "heatmap":
        return
    images = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2).float().div_(255)
    drawn = {"drawing": draw(heatmaps), "overlay": draw(heatmaps, images)}
    for place, (row, picture) in enumerate(zip(rows, pixels, strict=True)):
        row.pictures["thumbnail"] = jpeg(picture)
        for name, pictures in drawn.items():
            row.pictures[name] = jpeg(pictures[place].permute(1, 2, 0).contiguous().numpy())


def shrunk(heatmaps: Tensor, side: int | None) -> Tensor:
    """Return maps whose longer side is at most `side`: each value the mean of the pixels that it stands for."""
    height, width = heatmaps.shape[2:]
    if side is None or max(height, width) <= side:
        return heatmaps
    factor = side / max(height, width)
    shape = max(1, round(height * factor)), max(1, round(width * factor))
    return F.interpolate(heatmaps, shape, mode="area")


def jpeg(picture: np.ndarray) -> bytes:
    """Encode an `(H, W, 3)` uint8 picture."""
    encoded: bytes = simplejpeg.encode_jpeg(picture, QUALITY, colorspace="RGB", colorsubsampling="420")
    return encoded
