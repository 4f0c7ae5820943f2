"""The joint table of a data set's embeddings: where each image lies, what it is said to be, its neighbors."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from afterimage.errors import UsageError
from afterimage.vectors.grid import Grid, grid

from ...derived import Derived, needed
from ...vectors import Vectors, open_vectors

FACTS = ["key", "uri", "width", "height", "label", "prediction", "probability"]
PLACES = ["projection_x", "projection_y", "pca_x", "pca_y"]


@dataclass(frozen=True)
class Points:
    """What is shown: a row per image that has an embedding and a place on the map, in the embeddings' order.

    `table` has `FACTS`, `PLACES`, `grid_row`, `grid_column`, `neighbors` (its ids are row numbers of this table) and,
    where the neighbors have it, `pixel_neighbors`. `left_out` has key, status and error of images without embedding,
    `placed` tells which of those with one have a place.
    """

    vectors: Vectors
    projection: Derived
    neighbors: Derived
    table: pa.Table
    grid: Grid
    left_out: pa.Table
    placed: pa.ChunkedArray

    @property
    def notes(self) -> list[str]:
        """What is out of date or missing, and the commands that mend it."""
        out = self.vectors.folder.parent
        notes = [
            f"The {what} is older than {', '.join(found.outdated)}: run afterimage {found.record['verb']} {out} again."
            for what, found in (("map", self.projection), ("table of neighbors", self.neighbors))
            if found.outdated
        ]
        if unplaced := len(self.placed) - len(self.table):
            notes.append(f"{unplaced:,} images have no place on the map and are not shown.")
        return notes


def points(out: Path, embedding: str, projection: str, neighbors: str) -> Points:
    """Join what OUT holds; raise `UsageError` with the command that makes what is missing."""
    if not out.is_dir():
        raise UsageError(f"{out}: no such folder; expected one that 'afterimage embed INPUT OUT' has made")
    vectors = open_vectors(out, embedding)
    mapped, near = needed(out, projection, "project"), needed(out, neighbors, "neighbors")
    facts, places = vectors.table(FACTS), mapped.table(["key", *PLACES])
    row = pc.index_in(facts["key"], value_set=places["key"].combine_chunks())
    placed = pc.fill_null(pc.is_finite(places["projection_x"].take(row)), False)
    facts, row = facts.filter(placed), row.filter(placed)
    if not len(facts):
        raise UsageError(
            f"{out / projection}: no image of {embedding!r} has a place there; run 'afterimage project {out}'"
        )
    for name in PLACES:
        facts = facts.append_column(name, places[name].take(row).cast(pa.float32()))
    found = grid(np.stack([facts["projection_x"].to_numpy(), facts["projection_y"].to_numpy()], 1))
    facts = facts.append_column("grid_row", pa.array(found.row)).append_column("grid_column", pa.array(found.column))
    facts = _with_neighbors(facts, near.table())
    return Points(vectors, mapped, near, facts, found, vectors.failed(), placed)


def _with_neighbors(facts: pa.Table, near: pa.Table) -> pa.Table:
    """Append the neighbors by row number; those that are not in `facts` are left out."""
    keys = facts["key"].combine_chunks()
    near = near.take(pc.index_in(keys, value_set=near["key"].combine_chunks()))
    ids, kept = _numbered(near["neighbor_keys"], keys)
    distances = pc.struct_field(near["neighbors"].combine_chunks(), "distances")
    flat = distances.flatten().cast(pa.float32()).filter(kept)
    both = [ids, pa.ListArray.from_arrays(ids.offsets, flat)]
    facts = facts.append_column("neighbors", pa.StructArray.from_arrays(both, ["ids", "distances"]))
    if "pixel_neighbor_keys" in near.column_names:
        facts = facts.append_column("pixel_neighbors", _numbered(near["pixel_neighbor_keys"], keys)[0])
    return facts


def _numbered(lists: pa.ChunkedArray, keys: pa.Array) -> tuple[pa.ListArray, pa.Array]:
    """Return lists of keys as lists of their numbers in `keys`, and which of all were found; no list is null."""
    array = lists.combine_chunks()
    lengths = pc.fill_null(pc.list_value_length(array), 0).to_numpy()
    found = pc.index_in(array.flatten(), value_set=keys)
    owner = np.repeat(np.arange(len(array)), lengths)
    kept = pc.is_valid(found)
    counts = np.bincount(owner[kept.to_numpy(zero_copy_only=False)], minlength=len(array))
    offsets = np.concatenate([[0], counts.cumsum()]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), found.drop_null()), kept
