"""Nearest neighbors of a data set's pictures, by what a network makes of them and by their pixels.

OUT/neighbors/table.parquet    key, neighbors (ids: places in this table; distances), neighbor_keys; the same of pixels
OUT/neighbors/neighbors.png    a few pictures, each beside its neighbors in both spaces
"""

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import click
import numpy as np
import pyarrow as pa
import torch

from afterimage.errors import UsageError, nearest
from afterimage.registry import check_options, option, options_of
from afterimage.vectors.approximate import approximate
from afterimage.vectors.neighbors import Metric, Neighbors
from afterimage.vectors.neighbors import neighbors as exact

from .derived import Derived, free_for, parent_digest, write_derived
from .files import write_whole
from .neighbors_picture import draw
from .pixels import has_pictures, of_thumbnails
from .query import embedded
from .sound import Sound, sound, told

NAME = "neighbors"
EXACT_UP_TO = 200_000
"""Images up to which every pair is looked at; the time grows with the square."""


@dataclass(frozen=True)
class Search:
    """What can be chosen about neighbors."""

    count: int = option(10, "neighbors of each picture")
    metric: Metric = option("l2", "the distance: Euclid's, or 1 less the cosine")
    search: Literal["auto", "exact", "approximate"] = option(
        "auto", f"approximate needs faiss; auto: exact up to {EXACT_UP_TO:,} pictures"
    )
    recall: float = option(0.95, "the least share of true neighbors that an approximate search is to find")
    no_pixels: bool = option(False, "leave out the neighbors by pixels")
    embedding: str = option("embed", "name of the job with the vectors")
    name: str = option(NAME, "folder below OUT")

    def __post_init__(self) -> None:
        check_options(self)
        if self.count < 1:
            raise UsageError(f"count: expected a positive number, got {self.count}")
        if not 0 < self.recall <= 1:
            raise UsageError(f"recall: expected a share above 0 and up to 1, got {self.recall}")


class Found(NamedTuple):
    """The table, what was left out by reason, and the recall by space where the search was approximate."""

    derived: Derived
    left_out: dict[str, list[str]]
    recall: dict[str, float]


class Match(NamedTuple):
    """A neighbor of a picture that was asked for."""

    key: str
    distance: float


def neighbors(out: str | Path, **given: Any) -> Found:
    """Find the neighbors of all pictures that an embedding job of OUT has vectors of; `given` are `Search`'s fields.

    Raises UsageError for what cannot be done, RefusedError where another job has the name.
    """
    chosen, out = Search(**given), Path(out)
    free_for(out, chosen.name, "neighbors")
    source = _source(out, chosen)
    if not chosen.no_pixels:
        has_pictures(source.vectors)
    parents = {chosen.embedding: parent_digest(out / chosen.embedding)}
    keys, values = source.load()
    _enough(len(keys) - 1, chosen.count)
    spaces, recall = {"": values}, dict[str, float]()
    if not chosen.no_pixels:
        spaces["pixel_"] = of_thumbnails(source.vectors, keys)
    columns, found = {"key": pa.array(keys)}, {}
    for space, vectors in spaces.items():
        # Black pictures have no direction: those of pixels are compared by difference.
        metric: Metric = "l2" if space else chosen.metric
        found[space], share = _searched(torch.from_numpy(vectors), chosen, metric)
        if share is not None:
            recall[space + "neighbors"] = share
        columns |= _columns(space, keys, found[space])
    options = asdict(chosen) | {"recall_reached": recall}
    derived = write_derived(out, chosen.name, "neighbors", options, parents, pa.table(columns))
    if not chosen.no_pixels:
        picture = draw(source.vectors, keys, {name: one.ids.numpy() for name, one in found.items()})
        write_whole(derived.folder / "neighbors.png", partial(picture.save, format="png"))
    return Found(derived, source.left_out, recall)


def matches(out: str | Path, query: str | Path | None = None, of: str | None = None, **given: Any) -> list[Match]:
    """Return the pictures nearest to a new one, the file `query`, or to one of OUT's own, the key `of`.

    The new one is embedded as the job's were. Raises UsageError for what cannot be done.
    """
    chosen = Search(**given)
    source = _source(Path(out), chosen)
    keys, values = source.load()
    base = torch.from_numpy(values)
    if of is None:
        assert query is not None
        _enough(len(keys), chosen.count)
        vector, own = torch.from_numpy(embedded(source.vectors.run, Path(query))), -1
    else:
        _enough(len(keys) - 1, chosen.count)
        own = _place(keys, of, source.left_out)
        vector = base[own]
    if chosen.metric == "cosine" and not vector.any():
        raise UsageError(f"query: {query}: its vector is zero, which has no direction; use --metric l2")
    found = exact(base, chosen.count + (own >= 0), chosen.metric, vector[None])
    pairs = zip(found.ids[0].tolist(), found.distances[0].tolist(), strict=True)
    return [Match(keys[place], distance) for place, distance in pairs if place != own][: chosen.count]


def _source(out: Path, chosen: Search) -> Sound:
    return sound(out, chosen.embedding, directed=chosen.metric == "cosine")


def _enough(there: int, count: int) -> None:
    if count > there:
        raise UsageError(f"count: expected at most {there:,}, as many as there are other pictures, got {count:,}")


def _place(keys: list[str], key: str, left_out: dict[str, list[str]]) -> int:
    for reason, names in left_out.items():
        if key in names:
            raise UsageError(f"of: {key!r} has no vector: {reason}")
    if key not in keys:
        raise UsageError(f"of: expected the key of a picture, got {key!r}{nearest(key, keys)}")
    return keys.index(key)


def _searched(vectors: torch.Tensor, chosen: Search, metric: Metric) -> tuple[Neighbors, float | None]:
    if chosen.search == "exact" or (chosen.search == "auto" and len(vectors) <= EXACT_UP_TO):
        return exact(vectors, chosen.count, metric), None
    return approximate(vectors, chosen.count, metric, chosen.recall)


def _columns(space: str, keys: list[str], found: Neighbors) -> dict[str, pa.Array]:
    """Return columns as viewers of embeddings take them: places in the table with distances, and the keys."""
    count, ids = found.ids.shape[1], found.ids.numpy().ravel()
    offsets = pa.array(np.arange(len(found.ids) + 1, dtype=np.int32) * count)
    lists = [pa.ListArray.from_arrays(offsets, pa.array(flat)) for flat in (ids, found.distances.numpy().ravel())]
    named = pa.ListArray.from_arrays(offsets, pa.array(keys).take(pa.array(ids)))
    both = pa.StructArray.from_arrays(lists, names=["ids", "distances"])
    return {f"{space}neighbors": both, f"{space}neighbor_keys": named}


def command() -> click.Command:
    """Return the command `neighbors`."""
    from .cli import click_option

    def run(out: Path, query: str | None, of: str | None, as_json: bool, **given: Any) -> None:
        if query and of:
            raise UsageError("expected a new picture (--query) or one of OUT's (--of), got both; leave one out")
        if query or of:
            _print(matches(out, query, of, **given), as_json)
            return
        found = neighbors(out, **given)
        print(*filter(None, [told(found.left_out)]), sep="\n", end="\n" * bool(found.left_out), file=sys.stderr)
        for space, share in found.recall.items():
            print(f"{space}: approximate, recall {share:.3f}")
        print(*sorted(found.derived.folder.glob("[!.]*.p*")), sep="\n")

    return click.Command(
        "neighbors",
        callback=run,
        params=[
            click.Argument(["out"], type=click.Path(path_type=Path), metavar="OUT"),
            click.Option(["--query"], metavar="FILE", help="print the pictures nearest to a new one"),
            click.Option(["--of"], metavar="KEY", help="print the pictures nearest to one of OUT's"),
            *(click_option(option) for option in options_of(Search)),
            click.Option(["--json", "as_json"], is_flag=True, help="print what --query and --of find as JSON"),
        ],
        help="Find each picture's nearest neighbors among those embedded in OUT, by the network and by pixels.",
        no_args_is_help=True,
    )


def _print(found: Sequence[Match], as_json: bool) -> None:
    if as_json:
        print(json.dumps([one._asdict() for one in found]))
    else:
        print(*(f"{one.distance:<12.6g} {one.key}" for one in found), sep="\n")
