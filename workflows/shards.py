"""The commit protocol: a shard is done when its marker exists, and what a marker names never changes.

OUT/<job>/images/…                      the pictures that the rows name, where the method makes some
OUT/<job>/shards/00000.g0.parquet       one row per input
OUT/<job>/shards/00000.g0.commit.json   written last: digest and size of the file, rows, statuses, seconds
"""

import json
import os
import re
import socket
import time
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from .clock import Clock
from .files import digest_file, locked, put, write_json, written_beside
from .staging import Staging

MARKER = re.compile(r"(\d{5,})\.g(\d+)\.commit\.json")


@dataclass(frozen=True)
class Commit:
    """What a marker says of a shard: the file with its digest, the rows by status, CPU seconds by stage."""

    shard: int
    generation: int
    file: str
    sha256: str
    size: int
    rows: int
    statuses: Mapping[str, int]
    cpu_seconds: Mapping[str, float]
    finished: float
    attempt: str

    @property
    def failed(self) -> int:
        """The number of rows whose status is not ok."""
        return self.rows - self.statuses.get("ok", 0)


def commit(
    folder: Path,
    shard: int,
    generation: int,
    table: pa.Table,
    parquet: Mapping[str, Any],
    clock: Clock,
    staging: Staging | None = None,
) -> Commit:
    """Put one shard's pictures into place, then its table, then its marker.

    Where another attempt was first, nothing changes, and what that one committed is returned.
    """
    stem = f"{shard:05d}.g{generation}"
    marker, file = folder / f"{stem}.commit.json", folder / f"{stem}.parquet"

    def write(path: Path) -> None:
        with clock.stage("write"):
            pq.write_table(table, path, **parquet)

    with written_beside(file, write) as temporary:
        with clock.stage("write"):
            sha256, size = digest_file(temporary), temporary.stat().st_size
            if pq.read_metadata(temporary).num_rows != len(table):
                raise OSError(f"{file}: read back {pq.read_metadata(temporary).num_rows} rows of {len(table)}")
        with locked(folder / ".lock"):
            if marker.exists():
                return read_marker(marker)
            if staging is not None:
                staging.put()
            put(temporary, file)
            counts = {count["values"]: count["counts"] for count in table["status"].value_counts().to_pylist()}
            seconds = dict(clock.seconds)
            rows = len(table)
            done = Commit(shard, generation, file.name, sha256, size, rows, counts, seconds, time.time(), _attempt())
            write_json(marker, asdict(done))
            return done


def _attempt() -> str:
    return f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"


def read_marker(marker: Path) -> Commit:
    """Read a commit marker."""
    return Commit(**json.loads(marker.read_text(encoding="utf-8")))


def committed(folder: Path) -> dict[int, Commit]:
    """Return the highest committed generation of every shard in a job's `shards` folder, in shard order."""
    newest: dict[int, tuple[int, Path]] = {}
    for path in folder.iterdir() if folder.is_dir() else ():
        if match := MARKER.fullmatch(path.name):
            shard, generation = int(match[1]), int(match[2])
            if generation >= newest.get(shard, (-1, path))[0]:
                newest[shard] = generation, path
    return {shard: read_marker(newest[shard][1]) for shard in sorted(newest)}


def read_shard(folder: Path, commit: Commit, columns: list[str] | None = None) -> pa.Table:
    """Read a committed shard's rows, or some of its columns."""
    return pq.read_table(folder / commit.file, columns=columns, partitioning=None)
