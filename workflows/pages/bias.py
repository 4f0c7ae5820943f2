"""The page of a bias report: `OUT/bias/index.html`, one file that loads nothing."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from markupsafe import Markup

from afterimage.drawing import draw
from afterimage.evidence.objects import Object, coverage

from ..annotations import Annotations
from ..evidence import CROP, crop_of, map_of
from ..results import jpeg
from ..rows import heatmap_of, map_columns
from ..suspects import Class
from .jobs import Job
from .pictures import Picture, picture
from .templates import write_page

if TYPE_CHECKING:
    from ..biases import Bias

SHOWN = 20
"""Classes with images on the page."""
EXAMPLES = 6
"""Images of a class, and of an outlying cluster."""


@dataclass(frozen=True)
class Example:
    """An image: its name and overlay, the outline of its object as an SVG path, its figures and their tone."""

    name: str
    label: str | None
    picture: Picture
    outline: str
    inside: float | None
    expected: float | None
    hit: bool | None

    @property
    def tone(self) -> str:
        """Right for a hit, wrong for a miss."""
        return "" if self.hit is None else "right" if self.hit else "wrong"


@dataclass(frozen=True)
class Strip:
    """Images under a heading: a class's own, or those of one of its outlying clusters of so many."""

    title: str
    size: int
    keys: Sequence[str]


def write_bias_page(made: "Bias", job: Job, table: pa.Table, annotations: Annotations | None) -> None:
    """Write the page of a report on `job`, whose findings are `table`."""
    shown = made.classes[:SHOWN]
    strips = {one.name: strips_of(one, table) for one in shown}
    wanted = {key for own in strips.values() for strip in own for key in strip.keys}
    examples = read_examples(job, table, wanted, annotations)
    known = [one for one in made.classes if one.known]
    values = {
        "made": made,
        "job": job,
        "images": len(table),
        "means": {name: mean(table, name) for name in ("inside", "expected", "hit")},
        "widest": max((one.inside or 0.0 for one in known), default=1.0) or 1.0,
        "farthest": max((one.apart or 0.0 for one in made.classes), default=1.0) or 1.0,
        "shown": shown,
        "strips": strips,
        "examples": examples,
    }
    write_page(made.page, "bias.html", values)


def mean(table: pa.Table, name: str) -> float | None:
    """Return the mean of a column over the rows that have it."""
    found = pc.mean(table[name].cast(pa.float64())).as_py()
    return None if found is None else float(found)


def strips_of(one: Class, table: pa.Table) -> list[Strip]:
    """Return what is shown of a class: the images with the thinnest evidence on the object, its outlying clusters."""
    own = table.filter(pc.equal(pc.fill_null(table["target"], ""), one.name))
    if one.known:
        own = own.filter(pc.is_valid(own["inside"]))
        order = np.argsort(own["inside"].to_numpy() / own["expected"].to_numpy(), kind="stable")[:EXAMPLES]
        strips = [Strip("thinnest evidence on the object", one.known, own["key"].take(pa.array(order)).to_pylist())]
    else:
        keys = one.clusters.members[0] if one.clusters else own["key"].to_pylist()
        title = "largest cluster" if one.clusters and len(one.clusters.members) > 1 else "images"
        strips = [Strip(title, len(keys), keys[:EXAMPLES])]
    for number in one.clusters.outlying if one.clusters else ():
        keys = one.clusters.members[number]  # type: ignore[union-attr]
        strips.append(Strip(f"outlying cluster {number}", len(keys), keys[:EXAMPLES]))
    return strips


def read_examples(
    job: Job, table: pa.Table, wanted: Iterable[str], annotations: Annotations | None
) -> dict[str, Example]:
    """Return the images `wanted` by key, read from the shards that have them."""
    chosen = pa.array(sorted(wanted), pa.string())
    own = table.filter(pc.is_in(table["key"], value_set=chosen))
    figures = {row["key"]: row for row in own.to_pylist()}
    name = map_of(job)
    examples = {}
    for shard in job.commits:
        keys = job.read(shard, ("key",))["key"]
        places = np.flatnonzero(pc.is_in(keys, value_set=chosen).to_numpy())
        if len(places):
            columns = ("key", "width", "height", *CROP, "label", "target", "overlay", *map_columns(name))
            for row in job.read(shard, columns).take(pa.array(places)).to_pylist():
                examples[row["key"]] = example(row, name, figures[row["key"]], annotations)
    return examples


def example(row: dict[str, Any], name: str, figures: Mapping[str, Any], annotations: Annotations | None) -> Example:
    """Return an image with the outline of its object; of a job without pictures, its heatmap alone."""
    shown = picture(row, "overlay")
    if shown is None:
        heatmap = torch.from_numpy(heatmap_of(row, name))[None]
        drawn = draw(heatmap)[0].permute(1, 2, 0).contiguous().numpy()
        shown = picture({"drawn": {"bytes": jpeg(drawn)}}, "drawn")
    assert shown is not None
    known = annotations and annotations.find(row["key"], row["height"], row["width"], row["target"])
    outline = outline_of(known, row, shown.height, shown.width) if known else ""
    label = row["label"] if row["label"] != row["target"] else None
    values = (figures[one] for one in ("inside", "expected", "hit"))
    return Example(unquote(row["key"]), label, shown, Markup(outline), *values)


def outline_of(known: Object, row: Mapping[str, Any], height: int, width: int) -> str:
    """Return the outline of what the network saw of an object, as an SVG path on a picture of that size."""
    seen = (coverage(known, crop_of(row), height, width) >= 0.5).astype(np.uint8)
    # With a rim, and each pixel as 2 × 2: contours run through the middles of pixels, which then lie near the edges.
    padded = np.pad(seen.repeat(2, 0).repeat(2, 1), 1)
    contours, _ = cv2.findContours(padded, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_TC89_L1)
    paths = []
    for contour in contours:
        points = (contour[:, 0].astype(float) - 0.5) / 2
        paths.append("M" + "L".join(f"{x:g} {y:g}" for x, y in points) + "Z")
    return "".join(paths)
