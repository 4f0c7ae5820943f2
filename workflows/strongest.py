"""The strongest peaks of each channel over all shards that a job of patches has committed.

The rows of a shard hold what is among its own top; the top of several shards is that of what they hold, whatever the
order, so that shards can be added later. Of equal values the smaller key comes first.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from afterimage.errors import UsageError
from afterimage.models.receptive_field import ReceptiveField

from .shards import Commit, committed, read_shard

BOX = ("x0", "y0", "x1", "y1")


def run_of(out: Path, job: str) -> dict[str, Any]:
    """Return the run.json of a job of patches. Raises `UsageError` where there is none of that name."""
    file = out / job / "run.json"
    run: dict[str, Any] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    if run.get("result") != "peaks":
        raise UsageError(f"{out}: no patches in {job!r}; find them with 'afterimage patches INPUT {out}'")
    return run


def strongest(folder: Path, top: int) -> pa.Table:
    """Return a row per channel and rank: channel, rank, key, uri, value, y, x; `folder` is the job's."""
    best = _EMPTY
    for commit in committed(folder / "shards").values():
        best = _top(pa.concat_tables([best, _peaks(folder, commit)]), top)
    return best


def _peaks(folder: Path, commit: Commit) -> pa.Table:
    """Return the peaks that a shard holds, a row each."""
    rows = read_shard(folder / "shards", commit, ["key", "uri", "peaks"])
    rows = rows.filter(pc.is_valid(rows["peaks"])).combine_chunks()
    if not len(rows):
        return _EMPTY
    lists = rows["peaks"].chunk(0)
    parent, flat = pc.list_parent_indices(lists), pc.list_flatten(lists)
    columns = [flat.field("channel"), pa.nulls(len(flat), pa.int32()), rows["key"].take(parent)]
    columns += [rows["uri"].take(parent), flat.field("value"), flat.field("y"), flat.field("x")]
    return pa.table(columns, schema=_EMPTY.schema)


def _top(rows: pa.Table, top: int) -> pa.Table:
    """Return the first `top` of each channel, in order, with their rank."""
    order = [("channel", "ascending"), ("value", "descending"), ("key", "ascending")]
    rows = rows.sort_by(order).combine_chunks()
    channels = rows["channel"].to_numpy()
    rank = np.arange(len(rows)) - np.searchsorted(channels, channels)
    rows = rows.set_column(1, "rank", pa.array(rank, pa.int32()))
    return rows.filter(pa.array(rank < top))


def with_boxes(rows: pa.Table, field: ReceptiveField | None, size: tuple[int, int]) -> pa.Table:
    """Add `patch_x0, patch_y0, patch_x1, patch_y1`: what the neuron sees, in network-input pixels, half open.

    Padding counts as pixels: a box may reach beyond the picture. A field that is unknown is the whole picture.
    """
    if field is None:
        field = ReceptiveField(*size, 0, 0, 0, 0)
    y0 = field.top + field.stride_y * rows["y"].to_numpy()
    x0 = field.left + field.stride_x * rows["x"].to_numpy()
    for name, values in zip(BOX, (x0, y0, x0 + field.width, y0 + field.height), strict=True):
        rows = rows.append_column(f"patch_{name}", pa.array(values, pa.int32()))
    return rows


def by_channel(rows: pa.Table) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """Yield each channel with its rows, the strongest first."""
    for channel in pc.unique(rows["channel"]).to_pylist():
        yield channel, rows.filter(pc.equal(rows["channel"], channel)).to_pylist()


_EMPTY = pa.table(
    {
        "channel": pa.array([], pa.int32()),
        "rank": pa.array([], pa.int32()),
        "key": pa.array([], pa.string()),
        "uri": pa.array([], pa.string()),
        "value": pa.array([], pa.float32()),
        "y": pa.array([], pa.int32()),
        "x": pa.array([], pa.int32()),
    }
)
