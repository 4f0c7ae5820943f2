"""`OUT/explore`: the page, what it reads, the sheets and the mosaic, and the joint table.

index.html, page/…, data/…, sheets/…    the page; opens from the disk and over http
mosaic.jpg                              every image on the grid
table.parquet, derived.json             the joint table, and what it was made of
"""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from afterimage.errors import UsageError

from ...derived import TABLE, Derived, free_for, parent_digest, seal
from ...details import PICTURE
from ...files import locked
from ..cards import readable
from ..jobs import Job, open_jobs
from . import scripts, sheets
from .points import FACTS, Points, points

NAME = "explore"
VENDORED = ("twgl.js", "twgl.LICENSE", "twgl.txt")
ASSETS = (
    "style.css",
    "load.js",
    "camera.js",
    "scatter.js",
    "pictures.js",
    "overlay.js",
    "filters.js",
    "panel.js",
    "main.js",
    *VENDORED,
)
LISTED = 1000
"""Images without embedding that the page lists by name; it counts all."""
COLUMNS = [name for name in FACTS if name not in ("width", "height")]


@dataclass(frozen=True)
class Other:
    """Another job whose pictures are shown, with its rows of the shard at hand by key."""

    job: Job
    rows: Mapping[str, Mapping[str, Any]]


def write_explore(out: Path, embedding: str, projection: str, neighbors: str) -> Derived:
    """Write OUT/explore anew from what OUT holds; the old one stays until the new one is whole."""
    free_for(out, NAME, NAME)
    found = points(out, embedding, projection, neighbors)
    options = {"embedding": embedding, "projection": projection, "neighbors": neighbors}
    parents = {name: parent_digest(out / name) for name in (embedding, projection, neighbors)}
    building = out / f".{NAME}"
    with locked(out / f".{NAME}.lock"):
        shutil.rmtree(building, ignore_errors=True)
        spare = building / "spare"
        spare.mkdir(parents=True)
        _write(building, spare, found, _jobs(out, found))
        shutil.rmtree(spare)
        made = seal(building, NAME, NAME, options, parents, len(found.table))
        shutil.rmtree(out / NAME, ignore_errors=True)
        building.rename(out / NAME)
        return replace(made, folder=out / NAME)


def _jobs(out: Path, found: Points) -> list[Job]:
    jobs = [job for job in open_jobs(out) if job.name != found.vectors.name and not job.generates]
    return [job for job in jobs if "drawing" in job.columns]


def _write(folder: Path, spare: Path, found: Points, jobs: Sequence[Job]) -> None:
    for name in ("index.html", *ASSETS):
        to = folder / name if name == "index.html" else folder / "page" / name
        to.parent.mkdir(exist_ok=True)
        to.write_bytes(files(__package__).joinpath(name).read_bytes())
    side = sheets.side_of(len(found.table))
    pictures = sheets.cells(spare / "cells.npy", found.grid.rows, found.grid.columns, side)
    statuses = _stream(folder, found, jobs, pictures)
    levels = sheets.write_sheets(folder / "sheets", pictures, spare)
    size = sheets.write_mosaic(folder / "mosaic.jpg", pictures)
    scripts.write_script(
        folder / "data" / "names.js", "names", [readable(key) for key in found.table["key"].to_pylist()]
    )
    scripts.write_script(
        folder / "data" / "map.js", "map", _map(found, jobs, statuses) | {"levels": levels, "mosaic": size}
    )


def _stream(folder: Path, found: Points, jobs: Sequence[Job], pictures: np.ndarray) -> dict[str, list[str]]:
    """Go over the shards once: write the table and the images' rows, fill the grid; return the other jobs' statuses."""
    chunks = scripts.Chunks(folder / "data" / "rows")
    statuses: dict[str, list[str]] = {job.name: [] for job in jobs}
    kept = [name for name in found.table.column_names if name not in ("width", "height", "pixel_neighbors")]
    schema = pa.schema([*(found.table.schema.field(name) for name in kept), ("thumbnail", PICTURE)])
    with pq.ParquetWriter(folder / TABLE, schema, compression="zstd") as writer:
        for shard, rows, thumbnails in _shards(found):
            table = rows.select(kept).append_column("thumbnail", thumbnails.combine_chunks().cast(PICTURE))
            writer.write_table(table.cast(schema))
            others = [_other(job, shard) for job in jobs]
            for row, stored in zip(rows.to_pylist(), thumbnails.to_pylist(), strict=True):
                if stored is None:
                    raise UsageError(
                        f"{found.vectors.folder}: expected thumbnails, got none of {row['key']!r}; embed again"
                    )
                pictures[row["grid_row"], row["grid_column"]] = sheets.square(stored["bytes"], pictures.shape[2])
                for other in others:
                    statuses[other.job.name].append(other.rows.get(row["key"], {}).get("status") or "not yet done")
                chunks.add(_row(row, stored, others))
    chunks.flush()
    return statuses


def _shards(found: Points) -> Iterator[tuple[int, pa.Table, pa.ChunkedArray]]:
    """Yield shard by shard the rows of the joint table with their thumbnails."""
    stored = done = 0
    for shard, commit in found.vectors.commits.items():
        thumbnails = found.vectors.rows(commit, ["thumbnail"])["thumbnail"]
        placed = found.placed.slice(stored, len(thumbnails))
        stored, thumbnails = stored + len(thumbnails), thumbnails.filter(placed)
        yield shard, found.table.slice(done, len(thumbnails)), thumbnails
        done += len(thumbnails)


def _other(job: Job, shard: int) -> Other:
    if shard not in job.commits:
        return Other(job, {})
    rows = job.read(shard, ("key", "status", "error", "target", "drawing", "overlay")).to_pylist()
    return Other(job, {row["key"]: row for row in rows})


def _row(row: Mapping[str, Any], stored: Mapping[str, Any], others: Sequence[Other]) -> dict[str, Any]:
    """Return what the page shows of one image that is not on the map itself."""
    return {
        "key": row["key"],
        "uri": readable(row["uri"]),
        "size": [row["width"], row["height"]],
        "neighbors": row["neighbors"]["ids"],
        "distances": [float(f"{distance:.6g}") for distance in row["neighbors"]["distances"]],
        "pixels": row.get("pixel_neighbors"),
        "picture": scripts.jpeg(stored),
        "jobs": [_seen(other.job.name, other.rows[row["key"]]) for other in others if row["key"] in other.rows],
    }


def _seen(name: str, row: Mapping[str, Any]) -> dict[str, Any]:
    pictures = [made for kind in ("drawing", "overlay") if (made := scripts.jpeg(row.get(kind)))]
    return {"name": name, "pictures": pictures, **{one: row[one] for one in ("status", "error", "target")}}


def _map(found: Points, jobs: Sequence[Job], statuses: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Return what the page has to know before anything is shown."""
    table, run = found.table, found.vectors.run
    coordinates = {
        name: scripts.packed(table[name], "f4") for name in ("projection_x", "projection_y", "pca_x", "pca_y")
    }
    judged = scripts.verdicts(table["label"], table["prediction"], run["model"]["categories"] or [])
    facets = [
        scripts.facet(name, values)
        for name, values in (("label", table["label"]), ("prediction", table["prediction"]), ("verdict", judged))
        if values.null_count < len(table)
    ]
    facets += [scripts.facet(f"{name} status", pa.array(seen)) for name, seen in statuses.items() if {*seen} - {"ok"}]
    return {
        "count": len(table),
        "title": str(run["model"]["name"]),
        "rows": found.grid.rows,
        "columns": found.grid.columns,
        "row": scripts.packed(table["grid_row"], "u4"),
        "column": scripts.packed(table["grid_column"], "u4"),
        **coordinates,
        "probability": scripts.packed(table["probability"].to_numpy(), "f4"),
        "facets": facets,
        "chunk": scripts.CHUNK,
        "jobs": [job.name for job in jobs],
        "notes": found.notes,
        "metric": found.neighbors.options.get("metric"),
        "leftOut": found.left_out.num_rows,
        "listed": [one | {"key": readable(one["key"])} for one in found.left_out.slice(0, LISTED).to_pylist()],
        "statuses": {one["values"]: one["counts"] for one in found.left_out["status"].value_counts().to_pylist()},
    }
