"""What a page shows of a method's details: pictures, framed and with their figures, maps of classes, curves.

Names tell what belongs together: `worst_box` is what to frame in the picture `worst`, `worst_probability` the target's
probability on that picture, and any other `worst_…` a figure of it. `seen_probability` is that of the class `seen_as`,
`difference_10` is ten times the picture `difference`; `loss` and `steps` are told by the curve `losses`, where it is.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from afterimage.registry import Detail

from ..details import BOX
from .pictures import Picture, Row, colored, picture
from .traces import Trace, trace

Color = tuple[int, int, int]
PREDICTED: Color = (168, 172, 178)
OTHERS: Color = (58, 60, 66)
# Told apart by color-blind readers too: Okabe, Ito, Color Universal Design, 2008.
COLORS: tuple[Color, ...] = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (204, 121, 167))


@dataclass(frozen=True)
class Figure:
    """A number of a method's own, or a class or a word; for a probability, also what it was before."""

    name: str
    value: float | None
    before: float | None = None
    share: bool = False
    text: str | None = None


@dataclass(frozen=True)
class Sight:
    """A picture of a method's own with what belongs to it; none where it was not stored."""

    name: str
    picture: Picture | None
    figures: list[Figure]


@dataclass(frozen=True)
class Entry:
    """A line of a legend: the color, what it stands for, and the share of places that have it."""

    color: str
    name: str
    share: float


@dataclass(frozen=True)
class ClassMap:
    """The most probable class by place."""

    name: str
    picture: Picture
    legend: list[Entry]


@dataclass(frozen=True)
class Details:
    """A method's details of one input."""

    sights: list[Sight]
    maps: list[ClassMap]
    figures: list[Figure]
    traces: list[Trace]


def details(row: Row, declared: Sequence[Detail], categories: Sequence[str]) -> Details:
    """Return what a row holds of the details that a job declares."""
    kinds = {detail.name: detail.kind.name for detail in declared}
    pictures = [name for name, kind in kinds.items() if kind == "images"]
    values = [name for name, kind in kinds.items() if kind == "values" and row.get(name) is not None]
    curves = [name for name, kind in kinds.items() if kind == "curve" and row.get(name) is not None]
    traces = [made for name in curves if (made := _trace(row, name))]
    classes = _classes(row, kinds)
    told = {*classes.values(), *(("loss", "steps") if traces and "losses" in curves else ())}
    values = [name for name in values if name not in told]
    owners = {name: next((stem for stem in pictures if name.startswith(f"{stem}_")), None) for name in values}
    sights = [
        Sight(
            re.sub(r" (\d+)$", r" × \1", readable(stem)) + (" window" if f"{stem}_box" in kinds else ""),
            picture(row, stem, _box(row, f"{stem}_box")),
            [_figure(row, name, name.removeprefix(f"{stem}_")) for name in values if owners[name] == stem],
        )
        for stem in pictures
    ]
    grids = [name for name, kind in kinds.items() if kind == "class_grid" and row.get(name) is not None]
    return Details(
        [one for one in sights if one.picture or one.figures],
        [_class_map(row, name, categories) for name in grids],
        [
            *(Figure(readable(name), row.get(own), share=True, text=row[name]) for name, own in classes.items()),
            *(_figure(row, name, name) for name in values if owners[name] is None),
        ],
        traces,
    )


def _classes(row: Row, kinds: dict[str, str]) -> dict[str, str]:
    """Return the columns that hold a class, each with that of the class's probability."""
    found = [name for name, kind in kinds.items() if kind == "class" and row.get(name) is not None]
    return {name: f"{name.removesuffix('_as')}_probability" for name in found}


def _box(row: Row, name: str) -> tuple[int, int, int, int] | None:
    x0, y0, x1, y1 = (row.get(f"{name}_{corner}") for corner in BOX)
    return None if x0 is None or y0 is None or x1 is None or y1 is None else (x0, y0, x1, y1)


def _trace(row: Row, name: str) -> Trace | None:
    """Return a curve; that of the losses ends in the loss of the picture as it is."""
    if name != "losses":
        return trace(readable(name), row[name])
    made = trace("loss", row[name])
    return made if made is None or row.get("loss") is None else replace(made, last=row["loss"])


def _figure(row: Row, column: str, name: str) -> Figure:
    if name == "steps":
        return Figure(name, None, text=f"{row[column]:,.0f}")
    if name == "success":
        return Figure(name, row[column], text="yes" if row[column] == 1 else "no")
    share = name == "probability" or name.endswith("_probability")
    before: Any = row.get("target_probability") if name == "probability" else None
    return Figure(readable(name), row[column], before, share)


def _class_map(row: Row, name: str, categories: Sequence[str]) -> ClassMap:
    """Color the prediction in grey, the classes that take its place most often, and all others alike."""
    grid = np.asarray(row[name]).reshape(row[f"{name}_rows"], row[f"{name}_columns"])
    counts = Counter(
        {int(index): int(count) for index, count in zip(*np.unique(grid, return_counts=True), strict=True)}
    )
    named = {index: categories[index] if categories else str(index) for index in counts}
    predicted = [index for index in counts if named[index] == row["prediction"]]
    rivals = [index for index, _ in counts.most_common() if index not in predicted]
    shown = [*zip(predicted, [PREDICTED], strict=False), *zip(rivals, COLORS, strict=False)]
    colors, places = [OTHERS], np.zeros(grid.shape, np.uint8)
    for number, (index, color) in enumerate(shown, 1):
        places[grid == index] = number
        colors.append(color)
    legend = [Entry(_css(color), named[index], counts[index] / grid.size) for index, color in shown]
    if others := counts.keys() - {index for index, _ in shown}:
        share = sum(counts[index] for index in others) / grid.size
        legend.append(Entry(_css(OTHERS), f"{len(others)} others" if len(others) > 1 else named[min(others)], share))
    return ClassMap(readable(name), colored(places, colors), legend)


def _css(color: Color) -> str:
    return "#" + "".join(f"{level:02x}" for level in color)


def readable(name: str) -> str:
    """Return a column's name as words."""
    return name.replace("_", " ")
