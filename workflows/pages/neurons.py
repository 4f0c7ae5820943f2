"""The page of a layer's neurons: patches in a row, guided backprop below each, and how strongly they excite."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from PIL import Image, ImageDraw

from afterimage.drawing import draw
from afterimage.models.receptive_field import ReceptiveField

from .cards import readable
from .pictures import address
from .templates import write_page

SIDE = 112
"""Pixels: the longer side of a patch on the page."""
GREY = 128
SHARE = 0.05
"""What a box leaves out at each side, of the strength of guided backprop."""


@dataclass(frozen=True)
class Patch:
    """A patch: its picture `(H, W, 3)` uint8 and guided gradient `(3, H, W)`, where they could be had, and its box."""

    key: str
    value: float
    box: tuple[int, ...]
    picture: np.ndarray | None
    gradient: np.ndarray | None

    @property
    def whole(self) -> bool:
        """Whether the neuron sees the whole picture, so that the part which excites it is framed."""
        if self.picture is None:
            return False
        height, width = self.picture.shape[:2]
        x0, y0, x1, y1 = self.box
        return x0 <= 0 and y0 <= 0 and x1 >= width and y1 >= height


@dataclass(frozen=True)
class Shown:
    """One channel and its patches, the strongest first."""

    channel: int
    patches: Sequence[Patch]


def write_neurons(
    path: Path,
    run: dict[str, Any],
    layer: str,
    field: ReceptiveField | None,
    rows: Sequence[Shown],
    table: pa.Table,
) -> Path:
    """Write the page of the neurons in `rows`, of all those in `table`."""
    values = {
        "layer": layer,
        "model": run["model"]["name"],
        "field": field,
        "rows": [(one.channel, [_figure(patch) for patch in one.patches]) for one in rows],
        "channels": pc.count_distinct(table["channel"]).as_py(),
        "pictures": pc.count_distinct(table["key"]).as_py(),
        "whole": any(patch.whole for one in rows for patch in one.patches),
    }
    write_page(path, "neurons.html", values)
    return path


def _figure(patch: Patch) -> dict[str, Any]:
    figure = {"name": readable(patch.key), "value": patch.value, "picture": None, "guided": None}
    if patch.picture is None or patch.gradient is None:
        return figure
    guided = draw(torch.from_numpy(cut(patch.gradient.transpose(1, 2, 0), patch.box, 0)).permute(2, 0, 1)[None])
    pictures = cut(patch.picture, patch.box, GREY), guided[0].permute(1, 2, 0).numpy()
    frame = region(patch.gradient) if patch.whole else None
    return figure | {"picture": _encoded(pictures[0], frame), "guided": _encoded(pictures[1], None)}


def cut(picture: np.ndarray, box: tuple[int, ...], fill: int) -> np.ndarray:
    """Return what a box holds of `(H, W, 3)`, filled up where it reaches beyond; never more than the whole."""
    height, width = picture.shape[:2]
    x0, y0, x1, y1 = box
    if x0 <= 0 and x1 >= width:
        x0, x1 = 0, width
    if y0 <= 0 and y1 >= height:
        y0, y1 = 0, height
    cut = np.full((y1 - y0, x1 - x0, 3), fill, picture.dtype)
    inside = picture[max(0, y0) : y1, max(0, x0) : x1]
    cut[max(0, -y0) : max(0, -y0) + inside.shape[0], max(0, -x0) : max(0, -x0) + inside.shape[1]] = inside
    return cut


def region(gradient: np.ndarray) -> tuple[int, int, int, int] | None:
    """Return the box, x0, y0, x1, y1, that leaves out a small share of the strength at each side."""
    strength = np.abs(gradient).max(0)
    if not strength.any():
        return None
    edges = []
    for axis in (0, 1):
        share = np.cumsum(strength.sum(axis)) / strength.sum()
        edges.append((int(np.searchsorted(share, SHARE)), int(np.searchsorted(share, 1 - SHARE)) + 1))
    (x0, x1), (y0, y1) = edges
    return x0, y0, min(x1, strength.shape[1]), min(y1, strength.shape[0])


def _encoded(picture: np.ndarray, frame: tuple[int, int, int, int] | None) -> str:
    """Return a picture at the page's size as a data: address, with a frame where there is one."""
    factor = SIDE / max(picture.shape[:2])
    size = max(1, round(picture.shape[1] * factor)), max(1, round(picture.shape[0] * factor))
    resampling = Image.Resampling.NEAREST if factor >= 2 else Image.Resampling.LANCZOS
    image = Image.fromarray(picture).resize(size, resampling)
    if frame is not None:
        x0, y0, x1, y1 = (round(edge * factor) for edge in frame)
        ImageDraw.Draw(image).rectangle((x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)), outline="#ffd400", width=2)
    file = io.BytesIO()
    image.save(file, "jpeg", quality=88)
    return address("jpeg", file.getvalue())
