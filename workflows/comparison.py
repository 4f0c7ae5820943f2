"""What a sweep found: a contact sheet per input, a table, and a curve of success, below OUT/<job>/sheets."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import Any
from urllib.parse import quote_from_bytes, unquote

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from . import manifest
from .curves import Line, draw_curves, number
from .decode import ImageError, decode, read
from .files import write_json, write_whole
from .geometry import fit
from .manifest import Item, path_of
from .named import NamedPicture, pixels_of
from .picture_names import picture_names
from .plan import Plan
from .results import bounded
from .shards import committed, read_shard
from .sheets import Cell, Head, Sheet, draw_sheet
from .staging import path_of_file
from .subjects import is_subject
from .sweeps import Axis, combinations
from .tables import text_table

FOLDER = "sheets"
INDEX = "sweep.json"
MOST = 100
"""Inputs that get a sheet; the tables and pictures hold all."""
COLUMNS = ("key", "status", "file", "loss", "success")

Rows = Mapping[str, Mapping[str, Any]]
"""A job's rows by key, with those of `COLUMNS` that it has."""


@dataclass(frozen=True)
class Found:
    """One job of a sweep: its values by option as they are called, rows by status, mean loss, share of successes."""

    job: str
    values: Mapping[str, str]
    statuses: Mapping[str, int]
    loss: float | None
    success: float | None


def compare(base: Path, plans: Sequence[Plan], axes: Sequence[Axis]) -> list[Found]:
    """Write the sheets of finished jobs, planned in the order of `combinations`, into `base`/sheets with an index."""
    folder = base / FOLDER
    rows = [_rows(plan) for plan in plans]
    found = [_found(plan, own, values) for plan, own, values in zip(plans, rows, _labels(axes), strict=True)]
    names = picture_names(part["key"].to_pylist() for part in plans[0].inputs.parts)
    sheets = []
    for item in islice(manifest.items_of(plans[0].table), MOST):
        path = path_of_file(folder, _encoded(names[item.key]))
        image = draw_sheet(_sheet(item, plans, axes, rows))
        _save(image, path)
        sheets.append({"key": item.key, "file": _encoded(names[item.key])})
    curve = _curve(plans[0].job.verb, axes, found)
    if curve is not None:
        _save(curve, folder / "success.png")
    index = {
        "verb": plans[0].job.verb,
        "axes": [{"option": axis.option, "values": list(axis.labels)} for axis in axes],
        "jobs": [{**vars(one), "values": dict(one.values)} for one in found],
        "sheets": sheets,
        "inputs": len(plans[0].table),
        "curve": None if curve is None else "success.png",
    }
    write_json(folder / INDEX, index)
    return found


def told(found: Sequence[Found]) -> str:
    """Return the table of a sweep."""
    options = list(found[0].values)
    figures = [name for name in ("loss", "success") if any(getattr(one, name) is not None for one in found)]
    titles = {"loss": "mean final loss", "success": "success"}
    header = [*options, "images", *(titles[name] for name in figures)]
    lines = [[*one.values.values(), _counted(one.statuses), *(_figure(name, one) for name in figures)] for one in found]
    return text_table(header, lines, right=[titles[name] for name in figures])


def _counted(statuses: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {status}" for status, count in statuses.items()) or "none"


def _figure(name: str, one: Found) -> str:
    value = getattr(one, name)
    return "" if value is None else f"{value:.1%}" if name == "success" else f"{value:.4g}"


def _labels(axes: Sequence[Axis]) -> list[dict[str, str]]:
    return combinations([Axis(axis.option, axis.labels, axis.labels) for axis in axes])


def _rows(plan: Plan) -> Rows:
    folder = plan.folder / "shards"
    found: dict[str, Mapping[str, Any]] = {}
    for commit in committed(folder).values():
        table = read_shard(folder, commit, _there(folder / commit.file))
        found |= {row["key"]: row for row in table.to_pylist()}
    return found


def _there(file: Path) -> list[str]:
    names = pq.read_schema(file).names
    return [name for name in COLUMNS if name in names]


def _found(plan: Plan, rows: Rows, values: Mapping[str, str]) -> Found:
    counts: dict[str, int] = {}
    for row in rows.values():
        counts[row["status"]] = counts.get(row["status"], 0) + 1
    ok = [row for row in rows.values() if row["status"] == "ok"]
    losses = [row["loss"] for row in ok if row.get("loss") is not None]
    wins = [row["success"] == 1 for row in ok if row.get("success") is not None]
    mean, share = (fmean(losses) if losses else None), (fmean(wins) if wins else None)
    return Found(plan.folder.name, values, counts, mean, share)


def _sheet(item: Item, plans: Sequence[Plan], axes: Sequence[Axis], rows: Sequence[Rows]) -> Sheet:
    made = [_cell(plan, own.get(item.key)) for plan, own in zip(plans, rows, strict=True)]
    *first, last = axes
    across = len(last.values)
    cells: list[list[Cell]] = [made[at : at + across] for at in range(0, len(made), across)]
    heads = [_heads(axis, plans[0]) for axis in first]
    title = f"{plans[0].job.verb} of {_readable(item)}"
    return Sheet(title, _given(item, plans[0], axes), heads[0] if heads else [], _heads(last, plans[0]), cells)


def _cell(plan: Plan, row: Mapping[str, Any] | None) -> Cell:
    if row is None:
        return Cell(None, "not done")
    note = "" if row["status"] == "ok" else row["status"]
    if row["file"] is None:
        return Cell(None, note)
    picture = np.asarray(Image.open(path_of_file(plan.folder, row["file"])).convert("RGB"))
    # photographs can be of any size, and a sheet holds all of them at once
    return Cell(bounded(picture) if plan.job.photos else picture, note)


def _heads(axis: Axis, plan: Plan) -> list[Head]:
    pictures = axis.pictures or ((),) * len(axis.values)
    words = "" if axis.pictures else f"{axis.option.replace('_', ' ')} "
    return [
        Head(f"{words}{label}", tuple(pixels_of(one, plan.job.max_pixels) for one in own))
        for label, own in zip(axis.labels, pictures, strict=True)
    ]


def _given(item: Item, plan: Plan, axes: Sequence[Axis]) -> list[tuple[str, np.ndarray]]:
    """Return the input as the network takes it, and the pictures that all jobs share, with what to call them."""
    given = []
    if not is_subject(item.uri):
        try:
            pixels = decode(read(path_of(item.uri)), plan.job.max_pixels)
            fitted = fit(pixels, plan.job.geometry)[0]
            given.append((_readable(item), bounded(fitted) if plan.job.photos else fitted))
        except ImageError:
            pass  # its cells say what is wrong with it
    swept = {axis.option for axis in axes}
    shared = [one for one in plan.job.named if one.name not in swept]
    return given + [(_called(one), pixels_of(one, plan.job.max_pixels)) for one in shared]


def _called(picture: NamedPicture) -> str:
    weight = "" if picture.weight is None else f" {picture.weight:g}"
    return f"{picture.name}: {picture.title}{weight}"


def _readable(item: Item) -> str:
    return unquote(item.key, errors="replace")


def _encoded(name: bytes) -> str:
    return quote_from_bytes(name)


def _save(image: Image.Image, path: Path) -> None:
    write_whole(path, lambda temporary: image.save(temporary, "png", compress_level=6))


def _curve(verb: str, axes: Sequence[Axis], found: Sequence[Found]) -> Image.Image | None:
    """Draw success by the values of the first axis that has numbers; a line for each value of the other."""
    numbers = {axis.option: [number(value) for value in axis.values] for axis in axes if not axis.pictures}
    axis = next((one for one in axes if one.option in numbers and None not in numbers[one.option]), None)
    if axis is None or all(one.success is None for one in found):
        return None
    other = next((one for one in axes if one is not axis), None)
    lines = []
    for label in other.labels if other else ("",):
        own = [one for one in found if other is None or one.values[other.option] == label]
        shares = {one.values[axis.option]: one.success for one in own}
        name = f"{other.option} {label}" if other else ""
        lines.append(Line(name, [shares[value] for value in axis.labels]))
    values = [value for value in numbers[axis.option] if value is not None]
    return draw_curves(f"{verb}: share of successes", axis.option, values, axis.labels, lines)
