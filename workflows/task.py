"""One shard from files to a commit: decode threads ahead, the model in the middle, drawing and encoding behind."""

import hashlib
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import torch

from afterimage.errors import RefusedError, UsageError
from afterimage.models.network import Network

from . import rows as row_table
from .calls import Explained, Pixels, Slot, explain, groups
from .clock import Clock
from .decode import ImageError, decode, read
from .geometry import fit
from .job import Job, compute_with, prepared
from .manifest import Item, path_of
from .results import finish, keep_images, keep_maps
from .rows import Row
from .shards import Commit, commit, read_marker, read_shard
from .staging import Staging
from .subjects import is_subject
from .underway import Portion, Tell, telling

STOP = ".stop"  # the file in a job's folder that asks its tasks to begin no further shard
# A user's workers may have several threads: they share the network, and the hook that reads its logits.
_model_lock = threading.Lock()


@dataclass(frozen=True)
class _Shard:
    """What a shard is computed with: the job, the names of its pictures, where they are staged, clock and progress."""

    job: Job
    names: Mapping[str, bytes]
    staging: Staging
    tell: Tell
    clock: Clock = field(default_factory=Clock)


def run_shard(
    folder: Path, job: Job, shard: int, generation: int, items: Sequence[Item], names: Mapping[str, bytes]
) -> Commit | None:
    """Compute one shard's rows and commit them; in a later generation, only those that were not ok before.

    `names` has the paths of the pictures by key, where the method makes some. Returns None, and does nothing, once the
    run has been asked to stop.
    """
    if (folder.parent / STOP).exists():
        return None
    stored = job.method.result, job.keep, job.method.details
    with telling(folder, shard) as tell, Staging(folder.parent) as staging:
        work = _Shard(job, names, staging, tell)
        if generation:
            previous = read_marker(folder / f"{shard:05d}.g{generation - 1}.commit.json")
            table = _retried(read_shard(folder, previous), work, items, generation)
        else:
            rows = _rows(work, items)
            with work.clock.stage("write"):
                table = row_table.table(rows, *stored)
        return commit(folder, shard, generation, table, row_table.parquet_options(*stored), work.clock, staging)


def _retried(table: pa.Table, work: _Shard, items: Sequence[Item], generation: int) -> pa.Table:
    failed = [place for place, status in enumerate(table["status"].to_pylist()) if status != "ok"]
    rows = _rows(work, [items[place] for place in failed])
    if work.job.method.makes_images:
        for place, row in zip(failed, rows, strict=True):
            before = table["file"][place].as_py(), table["file_sha256"][place].as_py()
            if before[0] is not None and row.file is not None and row.file_sha256 is not None:
                row.file = work.staging.spare(row.file, row.file_sha256, before, generation)
    again = row_table.table(rows, work.job.method.result, work.job.keep, work.job.method.details)
    order = list(range(len(items)))
    for number, place in enumerate(failed):
        order[place] = len(items) + number
    return pa.concat_tables([table, again]).take(order)


def _rows(work: _Shard, items: Sequence[Item]) -> list[Row]:
    job = work.job
    rows = [Row(item.key, item.uri, item.label) for item in items]
    # Maps of pictures of any size are made one by one; what makes pictures groups those that have one shape.
    size = 1 if job.geometry.varies and not job.method.makes_images else job.batch_size
    batches = [rows[start : start + size] for start in range(0, len(rows), size)]
    with _model_lock:
        network = prepared(job.model, job.device, job.precision)
    compute_with(job.threads)
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        loading = [[reader.submit(_load, row, work) for row in batch] for batch in batches[:2]]
        writing: list[Future[None]] = []
        for number, batch in enumerate(batches):
            pixels = [future.result() for future in loading[number]]
            if number + 2 < len(batches):
                loading.append([reader.submit(_load, row, work) for row in batches[number + 2]])
            loading[number] = []
            explained = _explain_batch(work, network, batch, pixels)
            writing.append(writer.submit(_finish, work, batch, pixels, explained))
            if number >= 2:
                writing[number - 2].result()
        for future in writing:
            future.result()
    return rows


def _load(row: Row, work: _Shard) -> Pixels:
    """Return one image as the network takes it, `(H, W, 3)` uint8, or None after noting in the row what failed."""
    if is_subject(row.uri):
        return None
    job, clock = work.job, work.clock
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


def _explain_batch(
    work: _Shard, network: Network | None, batch: Sequence[Row], pixels: Sequence[Pixels]
) -> list[Explained | None]:
    """Return what came of each row of a batch; None where there was nothing to work on, or the model failed."""
    slots = [Slot(row.key, row.uri, row.label, one) for row, one in zip(batch, pixels, strict=True)]
    found: list[Explained | None] = [None] * len(batch)
    portion = Portion(work.tell, len(batch))
    for places in groups(work.job, slots):
        explained = _explain_each(work, network, batch, slots, places, portion)
        for place, one in zip(places, explained, strict=True):
            found[place] = one
    portion.end()
    return found


def _explain_each(
    work: _Shard,
    network: Network | None,
    batch: Sequence[Row],
    slots: Sequence[Slot],
    places: Sequence[int],
    portion: Portion,
) -> Sequence[Explained | None]:
    """Explain the rows at `places`; where the model fails on them, each alone, so that one failure costs one row."""
    try:
        with _model_lock, work.clock.stage("model"):
            return explain(work.job, network, slots, places, portion.steps(len(places)))
    except RefusedError:
        raise
    except Exception as error:  # what a network raises on a picture is its own affair, and that picture's row
        if isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error):
            size = len(places) if work.job.method.makes_images else work.job.batch_size
            smaller = "smaller pictures (--size)" if work.job.geometry.varies else "a smaller --batch-size"
            raise UsageError(f"out of memory with batches of {size}; use {smaller}") from error
        if len(places) == 1:
            batch[places[0]].fail("model_failed", f"{type(error).__name__}: {error}")
            return [None]
        return [_explain_each(work, network, batch, slots, [place], portion)[0] for place in places]


def _finish(
    work: _Shard, batch: Sequence[Row], pixels: Sequence[Pixels], explained: Sequence[Explained | None]
) -> None:
    """Fill the rows of a batch with what the model gave, drawn and encoded."""
    with work.clock.stage("write"):
        done = finish(work.job, batch, pixels, explained)
        if work.job.method.makes_images:
            keep_images(work.job, done, work.names, work.staging)
        else:
            keep_maps(work.job, done)
