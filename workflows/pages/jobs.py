"""The jobs of an output folder as a page sees them: what was asked for, and the shards committed so far."""

import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from afterimage.errors import UsageError
from afterimage.registry import Detail, Kind

from ..details import columns
from ..job import NO_NETWORK
from ..manifest import path_of
from ..named import FOLDER as NAMED
from ..shards import Commit, committed, read_shard
from .pictures import Picture, embedded

SMALL = 240
"""Pixels: the longer side of a named picture on the page."""


@dataclass(frozen=True)
class Job:
    """One job: its folder, its run.json, and a snapshot of its commits and of the columns that they have."""

    folder: Path
    run: dict[str, Any]
    commits: dict[int, Commit]
    columns: frozenset[str]

    @property
    def name(self) -> str:
        """The job's name: its verb, or what ``--name`` gave."""
        return str(self.run["name"])

    @property
    def verb(self) -> str:
        """The method's verb."""
        return str(self.run["verb"])

    @property
    def model(self) -> str:
        """The model's name."""
        name = str(self.run["model"]["name"])
        return "no network" if name == NO_NETWORK else name

    @property
    def makes_images(self) -> bool:
        """Whether the method makes pictures; runs of 0.1.0 do not say, and made maps."""
        return bool(self.run.get("result") == "image")

    @property
    def generates(self) -> bool:
        """Whether its items are classes and neurons."""
        return bool(self.run.get("generates", False))

    @property
    def named(self) -> list[tuple[str, Picture]]:
        """The pictures that all its items share, with what to call them."""
        found = []
        for number, one in enumerate(self.run.get("named", [])):
            file = self.folder / NAMED / f"{number}.jpg"
            title = os.path.basename(path_of(one["uri"])).decode(errors="replace")
            weight = "" if one["weight"] is None else f" · {one['weight']:g}"
            if file.exists():
                found.append((f"{one['name']}: {title}{weight}", embedded(file, SMALL)))
        return found

    @property
    def categories(self) -> list[str]:
        """The model's classes; empty where they are unknown."""
        return list(self.run["model"]["categories"] or [])

    @property
    def details(self) -> list[Detail]:
        """What the method knows beside its map; runs of 0.1.0 do not say, and had none."""
        return [Detail(one["name"], Kind(one["kind"])) for one in self.run.get("details", [])]

    @property
    def own_columns(self) -> tuple[str, ...]:
        """The columns of the method's details, where everything is kept."""
        return tuple(name for detail in self.details for name, _ in columns(detail, "all"))

    @property
    def finished(self) -> datetime | None:
        """When the newest shard was committed."""
        newest = max((commit.finished for commit in self.commits.values()), default=None)
        return None if newest is None else datetime.fromtimestamp(newest, UTC)

    @property
    def summary(self) -> list[str]:
        """What was asked for, in words: the target, the method's options, engine, precision and device."""
        config, classes = self.run["config"], self.categories
        target = str(config["target"])
        target = classes[int(target)] if classes and target.isdigit() else target
        given = {name: value for name, value in config["options"].items() if value not in (None, False)}
        options = [name if text == "True" else f"{name} {text}" for name, text in flat(given)]
        aims = [f"target {target}"] if target != "none" else []
        seed = [f"seed {config['seed']}"] if "seed" in config else []
        engine = [str(config["engine"])] if "engine" in config else []
        return [*aims, *options, *seed, *engine, str(config["precision"]), str(config["device"])]

    @property
    def settings(self) -> list[tuple[str, str]]:
        """Everything that was asked for and the digests, as dotted names and text."""
        digests = {name: self.run[name] for name in ("config_sha256", "manifest_sha256")}
        return flat({**self.run["config"], "model digest": self.run["model"]["digest"], **digests, **self.versions})

    @property
    def versions(self) -> dict[str, Any]:
        """The versions of what the job ran on, by library."""
        return {f"{name} version": version for name, version in self.run["versions"].items()}

    def read(self, shard: int, columns: tuple[str, ...]) -> pa.Table:
        """Return those of `columns` that the job has, of one committed shard."""
        wanted = [name for name in columns if name in self.columns]
        return read_shard(self.folder / "shards", self.commits[shard], wanted)


def open_jobs(out: Path) -> list[Job]:
    """Return the jobs of an output folder by name; raise `UsageError` where there are none."""
    jobs = [open_job(file.parent) for file in sorted(out.glob("*/run.json"))]
    if not jobs:
        raise UsageError(f"{out}: expected a run's output folder, found no job in it; run a method on it first")
    return jobs


def open_job(folder: Path) -> Job:
    """Read a job's run.json, its markers and the columns of its first shard."""
    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    commits = committed(folder / "shards")
    first = next(iter(commits.values()), None)
    columns = pq.read_schema(folder / "shards" / first.file).names if first else []
    return Job(folder, run, commits, frozenset(columns))


def flat(values: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Flatten nested settings to dotted names and text; lists are joined by commas, None is an en dash."""
    pairs: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, dict):
            pairs += flat(value, f"{prefix}{name}.")
        elif isinstance(value, list | tuple):
            pairs.append((prefix + name, ", ".join(map(str, value))))
        else:
            pairs.append((prefix + name, "–" if value is None else str(value)))
    return pairs
