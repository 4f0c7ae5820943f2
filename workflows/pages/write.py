"""The page of a folder's jobs: `OUT/page/index.html`, `2.html`, …, each one file that loads nothing.

Pictures are embedded and there is no script, so a page can be moved, mailed and opened from disk.
"""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..files import locked
from ..manifest import parts
from ..rows import STATUSES
from .cards import Card, Source, card, side
from .jobs import Job, open_jobs
from .spool import spool, spooled
from .survey import REST, WRONG, Survey, survey
from .sweeps import Sweep, open_sweeps
from .templates import write_page

PAGE = 200
"""Inputs per page."""
LIMIT = 10_000
"""Inputs on all pages together, whatever the size of the data set."""
FLOOR = 400
"""Of those, what every kind of failure gets before the wrong predictions take what is left."""


@dataclass(frozen=True)
class Section:
    """A heading: its anchor and title, how many inputs fall under it, how many are shown, the page it begins on."""

    anchor: str
    title: str
    inputs: int
    shown: int
    page: int

    @property
    def tone(self) -> str:
        """The color: wrong, right, plain or failed."""
        tones = {"wrong": "wrong", "right": "right", "rest": "plain", "images": "plain"}
        return tones.get(self.anchor, "failed")


def write_pages(out: Path, page_size: int = PAGE, limit: int = LIMIT, floor: int = FLOOR) -> Path:
    """Write the pages of all jobs in `out` and return the first one; rows not yet committed are left out.

    Raises `UsageError` where `out` holds no job.
    """
    jobs = open_jobs(out)
    sweeps = open_sweeps(out, {job.name for job in jobs})
    order = {name: place for place, name in enumerate(name for sweep in sweeps for name in sweep.called)}
    jobs.sort(key=lambda job: (order.get(job.name, -1), job.name))
    folder = out / "page"
    with locked(folder / ".lock"):
        temporary = folder / ".rows"
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        try:
            return _write(out, folder, temporary, jobs, sweeps, survey(jobs, limit, floor), page_size)
        finally:
            shutil.rmtree(temporary)


def _write(
    out: Path, folder: Path, temporary: Path, jobs: list[Job], sweeps: list[Sweep], found: Survey, size: int
) -> Path:
    spool(jobs, found.shown, size, temporary)
    count = max(1, -(-len(found.shown) // size))
    swept = {name: called for sweep in sweeps for name, called in sweep.called.items()}
    tallies = list(zip(jobs, found.tallies, strict=True))
    common = {
        "jobs": [(job, tally) for job, tally in tallies if job.name not in swept],
        "sweeps": sweeps,
        "swept": {sweep.name: [one for one in tallies if one[0].name in sweep.called] for sweep in sweeps},
        "painted": any(job.makes_images for job in jobs),
        "subjects": all(job.generates for job in jobs),
        "maps": any(not job.makes_images for job in jobs),
        "found": found,
        "inputs": sum(pq.read_metadata(part).num_rows for part in parts(out)),
        "sections": sections(found, size, "Pictures" if all(job.generates for job in jobs) else "Images"),
        "file_name": file_name,
        "titles": [*(sweep.name for sweep in sweeps), *(job.name for job in jobs if job.name not in swept)],
        "count": count,
        "size": size,
    }
    for number in range(count, 0, -1):  # the first page last: its links then lead to what is there
        shown = found.shown.slice((number - 1) * size, size)
        cards = read_cards(jobs, shown, temporary, number - 1, swept)
        write_page(folder / file_name(number), "page.html", common | page_of(number, shown, cards))
    for stale in folder.glob("[0-9]*.html"):
        if stale.stem.isdigit() and int(stale.stem) > count:
            stale.unlink()
    return folder / file_name(1)


def sections(found: Survey, size: int, title: str) -> dict[int, Section]:
    """Return the page's sections by number, in order; `title` is that of inputs without known labels."""
    numbers = found.shown["section"].to_numpy()
    titles = {WRONG: ("wrong", "Wrong predictions"), REST: rest_title(found, title)}
    made = {}
    for number, inputs in sorted(found.sections.items()):
        status = STATUSES[number % REST]
        anchor, title = titles.get(number, (status, status.replace("_", " ").capitalize()))
        begin, end = np.searchsorted(numbers, [number, number + 1])
        made[number] = Section(anchor, title, inputs, int(end - begin), int(begin) // size + 1)
    return made


def rest_title(found: Survey, title: str) -> tuple[str, str]:
    """Return anchor and title of the inputs that are neither wrong nor failed, by whether their labels are known."""
    if not any(tally.known for tally in found.tallies):
        return "images", title
    unlabelled = any(tally.statuses["ok"] > tally.known for tally in found.tallies)
    return ("rest", "Right or unlabelled") if unlabelled else ("right", "Right predictions")


def read_cards(
    jobs: Sequence[Job], shown: pa.Table, folder: Path, page: int, swept: Mapping[str, str]
) -> Iterator[Card]:
    """Yield the cards of a page's inputs from the spooled rows; jobs of sweeps are called by their values."""
    rows = [spooled(folder, page, number) for number in range(len(jobs))]
    sources = [
        Source(
            swept.get(job.name, job.name),
            job.categories,
            job.details,
            frozenset(job.categories),
            f"../{quote(job.name)}" if job.makes_images else None,
        )
        for job in jobs
    ]
    for key in shown["key"].to_pylist():
        yield card((source, found[key]) for source, found in zip(sources, rows, strict=True) if key in found)


def page_of(number: int, shown: pa.Table, cards: Iterator[Card]) -> dict[str, Any]:
    """Return what differs from page to page: its number, its cards by section, the side of its pictures."""
    groups: dict[int, list[Card]] = {}
    for section, one in zip(shown["section"].to_pylist(), cards, strict=True):
        groups.setdefault(section, []).append(one)
    return {"number": number, "groups": groups, "side": side(one for group in groups.values() for one in group)}


def file_name(number: int) -> str:
    """Return the file name of a page, counted from 1."""
    return "index.html" if number == 1 else f"{number}.html"
