"""Where the objects of a data set lie: boxes from a CSV or COCO file, or a folder of masks.

CSV: key,x0,y0,x1,y1[,label], a line per box; COCO: images by file_name, bbox as x, y, width, height
Masks: PNGs named as the inputs, `a/b.png` or `a/b.jpg.png` for `a/b.jpg`; what is not zero is the object
Both in pixels of the upright original.
"""

import csv
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from urllib.parse import unquote

import numpy as np
from PIL import Image

from afterimage.errors import UsageError
from afterimage.evidence.objects import Box, Object, of_boxes, of_mask
from afterimage.models.network import folded

from .labels import csv_columns, named

SLACK = 1.0
"""Pixels that a box may reach beyond its image: rounded coordinates are common."""
CORNERS = ("x0", "y0", "x1", "y1")


class Annotated(NamedTuple):
    """A box and its label, if it has one."""

    box: Box
    label: str | None


class Annotations(Protocol):
    """What knows where the object of an image lies."""

    def find(self, key: str, height: int, width: int, target: str | None) -> Object | None:
        """Return the object of an upright original of that size, or None where none is known."""
        ...


@dataclass(frozen=True)
class Boxes:
    """Boxes by key; `unknown` are the names of the file that are no image's; with `match`, only the target's count."""

    file: Path
    by_key: Mapping[str, Sequence[Annotated]]
    unknown: Sequence[str]
    match: bool = False

    def find(self, key: str, height: int, width: int, target: str | None) -> Object | None:
        """Return the union of the image's boxes, or None where it has none; raise `UsageError` where one is outside."""
        own = self.by_key.get(key, ())
        for one in own:
            x0, y0, x1, y1 = one.box
            if min(x0, y0) < -SLACK or x1 > width + SLACK or y1 > height + SLACK:
                came = ", ".join(f"{value:g}" for value in one.box)
                expected = f"a box inside the upright original of {width} × {height} pixels"
                raise UsageError(f"{self.file}: {key}: expected {expected}, got x0, y0, x1, y1 = {came}")
        if self.match:
            own = [one for one in own if one.label and target and folded(one.label) == folded(target)]
        return of_boxes([one.box for one in own]) if own else None


@dataclass(frozen=True)
class Masks:
    """A folder of masks."""

    folder: Path

    def find(self, key: str, height: int, width: int, target: str | None) -> Object | None:
        """Return the image's mask, or None where there is none; raise `UsageError` where it has another size."""
        path = self.folder / unquote(key)
        file = next((one for one in (path.with_suffix(".png"), Path(f"{path}.png")) if one.is_file()), None)
        if file is None:
            return None
        try:
            with Image.open(file) as image:
                values = np.asarray(image)
        except OSError as error:
            raise UsageError(f"{file}: expected a PNG mask, {error}") from error
        if values.shape[:2] != (height, width):
            came = f"{values.shape[1]} × {values.shape[0]}"
            raise UsageError(
                f"{file}: expected a mask as large as the upright original, {width} × {height}, got {came}"
            )
        if values.ndim == 3:  # without the alpha channel, if there is one
            values = values[:, :, : 3 if values.shape[2] > 2 else 1].max(2)
        mask = values != 0
        return of_mask(mask) if mask.any() else None


def read_masks(folder: Path) -> Masks:
    """Return a folder's masks; raise `UsageError` where it holds none."""
    if not folder.is_dir():
        raise UsageError(f"masks: expected a folder of PNGs named as the inputs, no folder {str(folder)!r}")
    if next(folder.rglob("*.png"), None) is None:
        raise UsageError(f"masks: expected PNGs named as the inputs, found none in {str(folder)!r}")
    return Masks(folder)


def read_boxes(file: Path, keys: Sequence[str], match: bool = False) -> Boxes:
    """Return the boxes of a CSV or COCO file for the images `keys`; with `match` only those of the class explained.

    Raises `UsageError` for a file that cannot be read, a box without area, and where no image has a box.
    """
    if not file.is_file():
        raise UsageError(f"boxes: no file {str(file)!r}")
    readers = {".csv": _csv, ".json": _coco}
    if file.suffix.lower() not in readers:
        raise UsageError(f"boxes: expected FILE.csv or a COCO FILE.json, got {str(file)!r}")
    by_name = readers[file.suffix.lower()](file)
    names = named(keys, by_name)
    used = set(names.values())
    unknown = [name for name in by_name if name not in used]
    if not names:
        example = next(iter(by_name), "nothing")
        raise UsageError(f"boxes: {file} names none of the images; it has {example!r}, the images {keys[0]!r}")
    if match and not any(one.label for name in used for one in by_name[name]):
        raise UsageError(f"boxes: {file} has no labels, which --match-labels needs")
    return Boxes(file, {key: by_name[name] for key, name in names.items()}, unknown, match)


def _csv(file: Path) -> dict[str, list[Annotated]]:
    try:
        columns = csv_columns(file, "boxes")
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"boxes: cannot read {file} as UTF-8 CSV: {error}") from error
    if missing := [name for name in ("key", *CORNERS) if name not in columns]:
        came = ", ".join(columns)
        raise UsageError(f"boxes: {file}: expected columns key,x0,y0,x1,y1[,label], no {missing[0]!r} in {came}")
    labels = columns.get("label", [""] * len(columns["key"]))
    corners = zip(*(columns[name] for name in CORNERS), strict=True)
    found = defaultdict(list)
    for key, box, label in zip(columns["key"], corners, labels, strict=True):
        found[key.removeprefix("./")].append(Annotated(_box(file, key, box), label or None))
    return found


def _coco(file: Path) -> dict[str, list[Annotated]]:
    try:
        given = json.loads(file.read_text(encoding="utf-8"))
        images = {one["id"]: str(one["file_name"]) for one in given["images"]}
        categories = {one["id"]: str(one["name"]) for one in given.get("categories", [])}
        found = defaultdict(list)
        for one in given["annotations"]:
            name, (x, y, width, height) = images[one["image_id"]], one["bbox"]
            box = _box(file, name, (x, y, x + width, y + height))
            found[name].append(Annotated(box, categories.get(one.get("category_id"))))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, UsageError):
            raise
        expected = "COCO's images (id, file_name) and annotations (image_id, bbox)"
        raise UsageError(f"boxes: {file}: expected {expected}: {type(error).__name__}: {error}") from error
    return found


def _box(file: Path, name: str, given: Sequence[Any]) -> Box:
    try:
        x0, y0, x1, y1 = map(float, given)
    except (TypeError, ValueError) as error:
        raise UsageError(f"boxes: {file}: {name}: expected four numbers, got {', '.join(map(str, given))}") from error
    if not (x0 < x1 and y0 < y1 and np.isfinite((x0, y0, x1, y1)).all()):
        came = f"{x0:g}, {y0:g}, {x1:g}, {y1:g}"
        raise UsageError(f"boxes: {file}: {name}: expected x0 < x1 and y0 < y1, got {came}")
    return x0, y0, x1, y1
