"""What is on the disk: how far each job is, and whether every promise about its files holds."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from afterimage.errors import UsageError

from . import manifest
from .files import digest_file
from .job import sha256_of
from .shards import Commit, committed
from .staging import path_of_file


def jobs_of(out: Path) -> list[Path]:
    """Return the folders of OUT's jobs; raise `UsageError` if OUT is none of ours."""
    if not manifest.parts(out):
        raise UsageError(f"no run in {str(out)!r}: expected a folder that afterimage made, with manifest.parquet")
    return sorted(path.parent for path in out.glob("*/run.json"))


def status(out: Path) -> list[dict[str, Any]]:
    """Return, for each job of OUT, its shards done and planned, its rows by status and when it last committed."""
    jobs = jobs_of(out)
    table = manifest.load(out)
    planned = len(manifest.shards(table))
    found = []
    for folder in jobs:
        commits = committed(folder / "shards").values()
        statuses: Counter[str] = Counter()
        for commit in commits:
            statuses.update(commit.statuses)
        run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        found.append(
            {
                "job": folder.name,
                "verb": run["verb"],
                "model": run["model"]["name"],
                "shards": len(commits),
                "shards_planned": planned,
                "rows": sum(statuses.values()),
                "rows_planned": len(table),
                "statuses": dict(statuses.most_common()),
                "last_commit": max((commit.finished for commit in commits), default=None),
            }
        )
    return found


def verify(out: Path) -> list[str]:
    """Return what does not hold in OUT: files that differ from their markers, keys without exactly one row."""
    jobs = jobs_of(out)
    table = manifest.load(out)
    parts = manifest.shards(table)
    faults: list[str] = []
    for folder in jobs:
        run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
        if sha256_of(run["config"]) != run["config_sha256"]:
            faults.append(f"{folder.name}/run.json: the settings differ from their digest")
        if manifest.digest(table) != run["manifest_sha256"]:
            faults.append(f"{folder.name}/run.json: the manifest is not the one that the job was made from")
        try:
            commits = committed(folder / "shards")
        except (ValueError, TypeError) as error:
            faults.append(f"{folder.name}: a commit marker cannot be read: {error}")
            continue
        faults += [f"{folder.name}: shard {shard} is in no manifest" for shard in commits if shard not in parts]
        faults += [f"{folder.name}: shard {shard} is missing" for shard in parts if shard not in commits]
        for shard in sorted(set(commits) & set(parts)):
            keys = parts[shard]["key"].to_pylist()
            faults += [f"{folder.name}/{fault}" for fault in _shard_faults(folder / "shards", commits[shard], keys)]
    return faults


def _shard_faults(folder: Path, commit: Commit, keys: list[str]) -> Iterator[str]:
    file = folder / commit.file
    if not file.exists():
        yield f"{commit.file}: missing, though its marker exists"
    elif (file.stat().st_size, digest_file(file)) != (commit.size, commit.sha256):
        yield f"{commit.file}: changed since it was committed (sha256 differs)"
    else:
        pictures = ["file", "file_sha256"] if "file_sha256" in pq.read_schema(file).names else []
        rows = pq.read_table(file, columns=["key", "status", *pictures], partitioning=None)
        if rows["key"].to_pylist() != keys:
            yield f"{commit.file}: its keys are not those of the manifest, each once"
        if Counter(rows["status"].to_pylist()) != Counter(commit.statuses):
            yield f"{commit.file}: its statuses differ from its marker's"
        if pictures:
            yield from _picture_faults(folder.parent, rows)


def _picture_faults(job: Path, rows: pa.Table) -> Iterator[str]:
    for row in rows.to_pylist():
        if row["file"] is None:
            continue
        path = path_of_file(job, row["file"])
        if not path.is_file():
            yield f"{row['file']}: missing, though the row of {row['key']} names it"
        elif digest_file(path) != row["file_sha256"]:
            yield f"{row['file']}: changed since it was committed (sha256 differs)"
