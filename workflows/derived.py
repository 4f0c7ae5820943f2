"""Tables made from what other jobs of OUT have found, as maps and neighbors are made from embeddings.

OUT/<name>/table.parquet    the rows
OUT/<name>/derived.json     written last: verb, options, the parents' digests, the table's sha256, versions
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from afterimage.errors import RefusedError, UsageError

from .files import digest_file, locked, write_json, write_whole
from .job import sha256_of, versions
from .shards import committed

TABLE, RECORD = "table.parquet", "derived.json"


@dataclass(frozen=True)
class Derived:
    """A derived table's folder and its record."""

    folder: Path
    record: Mapping[str, Any]

    @property
    def options(self) -> Mapping[str, Any]:
        """What it was made with."""
        options: Mapping[str, Any] = self.record["options"]
        return options

    @property
    def outdated(self) -> list[str]:
        """The parents that have changed since, as by `--mode extend`."""
        out = self.folder.parent
        return [name for name, digest in self.record["parents"].items() if digest != parent_digest(out / name)]

    def table(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Return the rows, or some of their columns."""
        return pq.read_table(self.folder / TABLE, columns=columns and [*columns], partitioning=None)


def parent_digest(folder: Path) -> str:
    """Return the digest of all that a job has committed, or that of a derived table."""
    record = folder / RECORD
    if record.exists():
        return str(json.loads(record.read_text(encoding="utf-8"))["table_sha256"])
    return sha256_of([(one.shard, one.generation, one.sha256) for one in committed(folder / "shards").values()])


def write_derived(
    out: Path, name: str, verb: str, options: Mapping[str, Any], parents: Mapping[str, str], table: pa.Table
) -> Derived:
    """Put a derived table in the place of the one of that name; `parents` are digests by job, taken before the work."""
    folder = free_for(out, name, verb)
    with locked(folder / ".lock"):
        write_whole(folder / TABLE, partial(_write, table))
        return seal(folder, name, verb, options, parents, len(table))


def seal(
    folder: Path, name: str, verb: str, options: Mapping[str, Any], parents: Mapping[str, str], rows: int
) -> Derived:
    """Write the record of the table that lies in a folder."""
    record = {
        "verb": verb,
        "name": name,
        "options": dict(options),
        "parents": dict(parents),
        "table_sha256": digest_file(folder / TABLE),
        "rows": rows,
        "versions": versions(),
    }
    write_json(folder / RECORD, record)
    return Derived(folder, record)


def free_for(out: Path, name: str, verb: str) -> Path:
    """Return the folder of a derived table; raise `RefusedError` where that name is another job's."""
    folder = out / name
    there = open_derived(out, name)
    if (there and there.record["verb"] != verb) or (folder.exists() and not there and any(folder.glob("*"))):
        raise RefusedError(f"{folder} holds another job; use --name NAME")
    return folder


def _write(table: pa.Table, path: Path) -> None:
    pq.write_table(table, path, compression="zstd")


def open_derived(out: Path, name: str) -> Derived | None:
    """Return the derived table of that name, or None where there is none."""
    file = out / name / RECORD
    return Derived(file.parent, json.loads(file.read_text(encoding="utf-8"))) if file.exists() else None


def needed(out: Path, name: str, verb: str) -> Derived:
    """Return the derived table of that name; raise `UsageError` with the command that makes it."""
    found = open_derived(out, name)
    if found is None:
        raise UsageError(f"{out}: no {name!r} there; make it with 'afterimage {verb} {out}'")
    return found
