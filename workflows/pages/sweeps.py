"""The sweeps of an output folder as a page shows them: what was swept, a table, the sheets and the curve of success."""

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..comparison import FOLDER, INDEX
from ..staging import path_of_file
from .cards import readable
from .pictures import Picture, embedded

EMBEDDED = 12
"""Sheets that stand on the page; of the others there are links."""
WIDEST = 1600
"""Pixels: the longer side of an embedded sheet."""


@dataclass(frozen=True)
class Sheet:
    """The sheet of one input: the input's key for reading, where the file is, and the sheet itself if it is shown."""

    name: str
    link: str
    picture: Picture | None


@dataclass(frozen=True)
class Sweep:
    """A sweep: its name, its options' names, its jobs as they were found, its sheets and its curve."""

    name: str
    verb: str
    options: list[str]
    jobs: list[dict[str, Any]]
    inputs: int
    sheets: list[Sheet]
    curve: Picture | None

    @property
    def figures(self) -> list[str]:
        """Which of the jobs' figures are known: loss, success."""
        return [name for name in ("loss", "success") if any(job[name] is not None for job in self.jobs)]

    @property
    def called(self) -> dict[str, str]:
        """What to call each job: the values of its options."""
        values = {job["job"]: job["values"].items() for job in self.jobs}
        return {job: ", ".join(f"{readable_option(name)} {value}" for name, value in of) for job, of in values.items()}


def open_sweeps(out: Path, jobs: Collection[str]) -> list[Sweep]:
    """Return the sweeps of an output folder whose jobs are all there, by name."""
    found = [_open(file) for file in sorted(out.glob(f"*/{FOLDER}/{INDEX}"))]
    return [sweep for sweep in found if all(job["job"] in jobs for job in sweep.jobs)]


def _open(file: Path) -> Sweep:
    index = json.loads(file.read_text(encoding="utf-8"))
    base, folder = file.parent.parent.name, file.parent
    sheets = []
    for place, one in enumerate(index["sheets"]):
        path = path_of_file(folder, one["file"])
        picture = embedded(path, WIDEST) if place < EMBEDDED and path.exists() else None
        sheets.append(Sheet(readable(one["key"]), f"../{quote(base)}/{FOLDER}/{one['file']}", picture))
    curve = folder / index["curve"] if index["curve"] else None
    options = [readable_option(axis["option"]) for axis in index["axes"]]
    shown = embedded(curve, WIDEST) if curve and curve.exists() else None
    return Sweep(base, index["verb"], options, index["jobs"], index["inputs"], sheets, shown)


def readable_option(name: str) -> str:
    """Return an option's name as words."""
    return name.replace("_", " ")
