"""One shard from files to a commit: decode threads ahead, the model in the middle, drawing and encoding behind."""

import hashlib
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import torch

from afterimage.errors import RefusedError, UsageError
from afterimage.models.network import Network

from . import rows as row_table
from .calls import Explained, Pixels, Slot, explain, groups
from .clock import Clock
from .decode import Decoded, ImageError, decode_photo, read
from .geometry import fit
from .job import Job, compute_with, prepared
from .manifest import Item, path_of
from .results import finish, keep, select_peaks
from .rows import Row
from .shards import Commit, commit, read_marker, read_shard
from .staging import Staging
from .subjects import is_subject
from .underway import Portion, Tell, telling

STOP = ".stop"  # the file in a job's folder that asks its tasks to begin no further shard
# A user's workers may have several threads: they share the network, and the hook that reads its logits.
_model_lock = threading.Lock()


class Part(NamedTuple):
    """One job's part in a task: the folder of its shards, the job, the generation that is to be committed."""

    folder: Path
    job: Job
    generation: int


@dataclass(frozen=True)
class _Shard:
    """What a shard is computed with: jobs that share a pass, the pictures' names and staging, clock and progress."""

    jobs: Sequence[Job]
    names: Mapping[str, bytes]
    stagings: Sequence[Staging]
    tell: Tell
    clock: Clock = field(default_factory=Clock)

    @property
    def job(self) -> Job:
        """The first job; geometry, batches, network, precision, device and threads are those of all."""
        return self.jobs[0]


def run_shard(parts: Sequence[Part], shard: int, items: Sequence[Item], names: Mapping[str, bytes]) -> list[Commit]:
    """Compute one shard's rows and commit them, for several jobs in one pass over the images.

    In a later generation, of which there is only one part, only those rows that were not ok before. `names` has the
    paths of the pictures by key, where the method makes some. Does nothing once the run has been asked to stop.
    """
    if any((part.folder.parent / STOP).exists() for part in parts):
        return []
    first = parts[0]
    with telling(first.folder, shard) as tell, ExitStack() as stack:
        stagings = [stack.enter_context(Staging(part.folder.parent)) for part in parts]
        work = _Shard([part.job for part in parts], names, stagings, tell)
        if first.generation:
            previous = read_marker(first.folder / f"{shard:05d}.g{first.generation - 1}.commit.json")
            tables = [_retried(read_shard(first.folder, previous), work, items, first.generation)]
        else:
            tables = [_table(rows, job, work.clock) for rows, job in zip(_rows(work, items), work.jobs, strict=True)]
        done = []
        for place, (part, table) in enumerate(zip(parts, tables, strict=True)):
            stored = row_table.parquet_options(part.job.result, part.job.keep, part.job.method.details)
            clock = Clock() if place else work.clock  # the seconds of what they share stand with the first
            done.append(commit(part.folder, shard, part.generation, table, stored, clock, stagings[place]))
        return done


def _table(rows: Sequence[Row], job: Job, clock: Clock) -> pa.Table:
    with clock.stage("write"):
        return row_table.table(rows, job.result, job.keep, job.method.details)


def _retried(table: pa.Table, work: _Shard, items: Sequence[Item], generation: int) -> pa.Table:
    failed = [place for place, status in enumerate(table["status"].to_pylist()) if status != "ok"]
    rows = _rows(work, [items[place] for place in failed])[0]
    if work.job.method.makes_images:
        for place, row in zip(failed, rows, strict=True):
            before = table["file"][place].as_py(), table["file_sha256"][place].as_py()
            if before[0] is not None and row.file is not None and row.file_sha256 is not None:
                row.file = work.stagings[0].spare(row.file, row.file_sha256, before, generation)
    again = _table(rows, work.job, work.clock)
    order = list(range(len(items)))
    for number, place in enumerate(failed):
        order[place] = len(items) + number
    return pa.concat_tables([table, again]).take(order)


def _rows(work: _Shard, items: Sequence[Item]) -> list[list[Row]]:
    """Return the rows of each job."""
    job = work.job
    rows = [Row(item.key, item.uri, item.label) for item in items]
    # Maps of pictures of any size are made one by one; what makes pictures groups those that have one shape.
    size = 1 if job.geometry.varies and not job.method.makes_images else job.batch_size
    batches = [rows[start : start + size] for start in range(0, len(rows), size)]
    with _model_lock:
        network = prepared(job.model, job.device, job.precision, job.engine, job.threads if job.engine else 1)
    compute_with(job.threads)
    finished: list[list[Row]] = [[] for _ in work.jobs]
    with ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        loading = [[reader.submit(_load, row, work) for row in batch] for batch in batches[:2]]
        writing: list[Future[None]] = []
        for number, batch in enumerate(batches):
            loaded = [future.result() for future in loading[number]]
            pixels = [None if one is None else one.pixels for one in loaded]
            if number + 2 < len(batches):
                loading.append([reader.submit(_load, row, work) for row in batches[number + 2]])
            loading[number] = []
            explained = _explain_batch(work, network, batch, pixels)
            for place, own in enumerate(finished):
                photos = loaded if job.photos else [None] * len(batch)
                both = zip(batch, photos, strict=True)
                mine = [replace(row, details={}, pictures={}, photo=photo) for row, photo in both]
                own += mine
                found = [None if one is None else one[place] for one in explained]
                writing.append(writer.submit(_finish, work, place, mine, pixels, found))
            for future in writing[: -2 * len(finished)]:
                future.result()
            del writing[: -2 * len(finished)]
        for future in writing:
            future.result()
    for own, one in zip(finished, work.jobs, strict=True):
        select_peaks(one, own)
    return finished


def _load(row: Row, work: _Shard) -> Decoded | None:
    """Return one image, fitted as the network takes it, or None after noting in the row what failed."""
    if is_subject(row.uri):
        return None
    job, clock = work.job, work.clock
    try:
        with clock.stage("read"):
            data = read(path_of(row.uri))
            row.sha256 = hashlib.sha256(data).hexdigest()
        with clock.stage("decode"):
            decoded = decode_photo(data, job.max_pixels)
            row.height, row.width = decoded.pixels.shape[:2]
            fitted, row.crop_box = fit(decoded.pixels, job.geometry)
            return decoded._replace(pixels=fitted)
    except ImageError as error:
        row.fail(error.status, error.message)
        return None
    except MemoryError:
        row.fail("too_large", "there is not enough memory to decode it; see --max-pixels")
        return None


def _explain_batch(
    work: _Shard, network: Network | None, batch: Sequence[Row], pixels: Sequence[Pixels]
) -> list[list[Explained] | None]:
    """Return what came of each row of a batch, by job; None where there was nothing to work on, or the model failed."""
    slots = [Slot(row.key, row.uri, row.label, one) for row, one in zip(batch, pixels, strict=True)]
    found: list[list[Explained] | None] = [None] * len(batch)
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
) -> Sequence[list[Explained] | None]:
    """Explain the rows at `places`; where the model fails on them, each alone, so that one failure costs one row."""
    try:
        with _model_lock, work.clock.stage("model"):
            return explain(work.jobs, network, slots, places, portion.steps(len(places)))
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
    work: _Shard, place: int, batch: Sequence[Row], pixels: Sequence[Pixels], explained: Sequence[Explained | None]
) -> None:
    """Fill the rows of one job's batch with what the model gave, drawn and encoded."""
    with work.clock.stage("write"):
        job = work.jobs[place]
        keep(job, finish(job, batch, pixels, explained), work.names, work.stagings[place])
        for row in batch:
            row.photo = None
