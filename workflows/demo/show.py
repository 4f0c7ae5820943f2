"""The main job on the embedded data set, and what its ground truth says of the heatmaps."""

from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from afterimage.drawing import strength
from afterimage.evidence.pointing import center_guess, pointing_game
from afterimage.models.demo import CATEGORIES, PLANTED
from afterimage.models.style.source import painter
from afterimage.models.zoo import load_model

from ..cluster import serial
from ..rows import dictionaries, heatmap_of, map_columns
from ..runs import run
from ..shards import committed, read_shard
from ..tables import text_table
from .write import write

NET = "paintings"
"""The embedded style network that paints a few of the pictures."""
COLUMNS = ["key", "label", "prediction"]
OCCLUSION = {"window": 24, "stride": 12}
"""A window of about half an object, at 100 places: 14 pictures take about as long as saliency of all."""


class Evidence(NamedTuple):
    """One image's ground truth and maps: strength of saliency `(H, W)`, of guided backprop, and the object's mask."""

    label: str
    right: bool
    mask: Tensor
    saliency: Tensor
    guided: Tensor


def show(out: Path, count: int = 240, occluded: int = len(CATEGORIES)) -> str:
    """Draw `count` images into `out`/data, explain them into `out`/results, and tell what came of it.

    The first `occluded` of them are explained by occlusion too, into `out`/occlusion, and a few painted by an embedded
    style network, into `out`/painted.
    """
    images = write(out / "data", count)
    results = out / "results"
    for verb in ("saliency", "guided-backprop"):
        summary = run(verb, images, results, model="demo", labels="folders", progress=True)
    few = _listed(images, "occluded.txt", occluded)
    given: dict[str, Any] = {"model": "demo", "labels": "folders", "target": "label", **OCCLUSION}
    shown = run("occlusion", few, out / "occlusion", progress=True, **given)
    told = f"{pointing_table(list(evidence(out)))}\n{occlusion_line(out)}"
    return f"{told}\n\npage: {summary.page}\nocclusion: {shown.page}\npainted: {paint(out, images)}"


def paint(out: Path, images: Path, count: int = 4) -> str:
    """Paint the first `count` images in each style of the embedded network, and return the page of `out`/painted."""
    few = _listed(images, "painted.txt", count)
    styles = painter(load_model(NET)).styles
    made = run("stylize", few, out / "painted", model=NET, sweep={"style": styles}, executor=serial)
    return str(made.page)


def _listed(images: Path, name: str, count: int) -> Path:
    """Write the list file of the images drawn first."""
    few = images / name
    few.write_text("".join(f"{path.relative_to(images)}\n" for path in first(images, count)))
    return few


def first(images: Path, count: int) -> list[Path]:
    """Return the images drawn first: the classes in turn."""
    return sorted(images.rglob("*.png"), key=lambda path: path.stem)[:count]


def evidence(out: Path) -> Iterator[Evidence]:
    """Read back what the two jobs stored, with the masks."""
    saliency = dict(_strengths(out / "results" / "saliency", "heatmap"))
    guided = dict(_strengths(out / "results" / "guided-backprop", "gradient"))
    for key, (label, right, shown) in saliency.items():
        yield Evidence(label, right, _mask(out, key), shown, guided[key][2])


def _mask(out: Path, key: str) -> Tensor:
    path = out / "data" / "masks" / key
    return torch.from_numpy(np.asarray(cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_GRAYSCALE))) > 0


def occlusion_hits(out: Path, folder: Path) -> dict[bool, list[bool]]:
    """Return for the images of an occlusion job whether the strongest evidence is on the object; by: planted class."""
    hits: dict[bool, list[bool]] = {True: [], False: []}
    for key, (label, _, shown) in _strengths(folder, "heatmap"):
        hit = pointing_game(shown[None, None], _mask(out, key)[None])
        hits[label == PLANTED].append(bool(hit[0]))
    return hits


def occlusion_line(out: Path) -> str:
    """Return how often the strongest evidence lies on the object, for the planted class and for the others."""
    hits = occlusion_hits(out, out / "occlusion" / "occlusion")
    groups = ((hits[False], "pictures of other classes"), (hits[True], "of the planted class"))
    shares = [f"in {sum(found)} of {len(found)} {name}" for found, name in groups if found]
    window, stride = OCCLUSION.values()
    return f"Occlusion by {window} pixels in steps of {stride} points at the object {' and '.join(shares)}."


def _strengths(folder: Path, name: str) -> Iterator[tuple[str, tuple[str, bool, Tensor]]]:
    for commit in committed(folder / "shards").values():
        columns = [*COLUMNS, *map_columns(name)]
        for row in dictionaries(read_shard(folder / "shards", commit, columns), name):
            values = heatmap_of(row, name)
            if values is not None:
                shown = strength(torch.from_numpy(values)[None])[0, 0]
                yield row["key"], (row["label"], row["label"] == row["prediction"], shown)


def pointing_table(found: list[Evidence]) -> str:
    """Return, per class, how often the maps' strongest place lies on the object, against a guess at the center."""
    by_class: dict[str, list[Evidence]] = defaultdict(list)
    for one in found:
        by_class[one.label].append(one)
    rows = [_row(label + (" (planted on snow)" if label == PLANTED else ""), by_class[label]) for label in CATEGORIES]
    rows.append(_row("all", found))
    header = ("class", "images", "recognized", "saliency", "guided backprop", "center guess")
    return "Share of images whose strongest place lies on the object:\n" + text_table(header, rows, right=header[1:])


def _row(name: str, found: list[Evidence]) -> tuple[str, ...]:
    if not found:
        return name, "0", *[""] * 4
    masks = torch.stack([one.mask for one in found])
    hits = (
        torch.tensor([one.right for one in found]),
        pointing_game(torch.stack([one.saliency for one in found])[:, None], masks),
        pointing_game(torch.stack([one.guided for one in found])[:, None], masks),
        center_guess(masks),
    )
    return name, str(len(found)), *(f"{hit.float().mean():.0%}" for hit in hits)
