"""The rows of a map over a data set: one per input, in one order of columns, as an Arrow table."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from afterimage.errors import UsageError
from afterimage.registry import MAPS, Detail, Kind

from . import details as own
from .codecs import Decoded
from .details import PICTURE

Keep = Literal["none", "heatmap", "all"]
STATUSES = (
    "ok",
    "missing",
    "unreadable",
    "unsupported",
    "decode_failed",
    "too_large",
    "nonfinite",
    "diverged",
    "model_failed",
    "killed",
)
ERROR_LENGTH = 500
DRAWN = 512
"""Pixels: the longer side, at most, of the JPEGs that show a made picture and its input in the table."""
COMMON = [
    ("key", pa.string()),
    ("uri", pa.string()),
    ("status", pa.string()),
    ("error", pa.string()),
    ("width", pa.int32()),
    ("height", pa.int32()),
    ("sha256", pa.string()),
    ("crop_box_x0", pa.float32()),
    ("crop_box_y0", pa.float32()),
    ("crop_box_x1", pa.float32()),
    ("crop_box_y1", pa.float32()),
    ("label", pa.string()),
    ("prediction", pa.string()),
    ("probability", pa.float32()),
    ("target", pa.string()),
    ("target_probability", pa.float32()),
]
PICTURES = ("drawing", "thumbnail", "overlay")
PEAK = pa.struct([("channel", pa.int32()), ("value", pa.float32()), ("y", pa.int32()), ("x", pa.int32())])
FILE = [
    ("file", pa.string()),
    ("file_sha256", pa.string()),
    ("file_width", pa.int32()),
    ("file_height", pa.int32()),
]


class Half(NamedTuple):
    """A map as it is stored: float16 of value / scale, scale its largest magnitude, so that small values survive."""

    values: np.ndarray
    scale: float
    shape: tuple[int, int, int]


@dataclass
class Row:
    """One input's row as it fills up; pictures are encoded bytes, `details` the method's own cells by column.

    `photo` is the input as it was decoded, until the file made of it is written.
    """

    key: str
    uri: str
    label: str | None = None
    status: str = "ok"
    error: str | None = None
    width: int | None = None
    height: int | None = None
    sha256: str | None = None
    crop_box: tuple[float, float, float, float] | None = None
    prediction: str | None = None
    probability: float | None = None
    target: str | None = None
    target_probability: float | None = None
    heatmap: Half | None = None
    vector: np.ndarray | None = None
    peaks: np.ndarray | None = None
    file: str | None = None
    file_sha256: str | None = None
    file_width: int | None = None
    file_height: int | None = None
    details: dict[str, Any] = field(default_factory=dict)
    pictures: dict[str, bytes] = field(default_factory=dict)
    photo: Decoded | None = None

    def fail(self, status: str, error: str) -> None:
        """Give the row a status other than ok and its reason, in one line."""
        self.status, self.error = status, " ".join(error.split())[:ERROR_LENGTH]


def pictures(kind: Kind) -> tuple[str, ...]:
    """Return the columns of pictures that results of `kind` have; of a picture there is no overlay."""
    if kind.name in MAPS:
        return PICTURES
    return PICTURES[:2] if kind.name == "image" else PICTURES[1:2]


def schema(kind: Kind, keep: Keep, details: Sequence[Detail] = ()) -> pa.Schema:
    """Return the columns of a method whose result is `kind`, with those of what else it knows of an item."""
    columns = list(COMMON)
    if kind.name == "image":
        columns += FILE
    elif kind.name == "embedding":
        columns.append((kind.name, pa.list_(getattr(pa, kind.dtype)(), kind.width)))
    elif kind.name == "peaks":
        columns.append((kind.name, pa.list_(PEAK)))
    elif keep != "none":
        name = kind.name
        columns += [(name, pa.list_(pa.float16())), (f"{name}_scale", pa.float32())]
        columns += [(f"{name}_{axis}", pa.int32()) for axis in ("channels", "height", "width")]
    columns += [column for detail in details for column in own.columns(detail, keep)]
    if keep == "all":
        columns += [(name, PICTURE) for name in pictures(kind)]
    names = Counter(name for name, _ in columns)
    if twice := [name for name, count in names.items() if count > 1]:
        raise TypeError(f"details: expected names that no other column has, got {', '.join(twice)}")
    return pa.schema(columns)


def table(rows: Sequence[Row], kind: Kind, keep: Keep, details: Sequence[Detail] = ()) -> pa.Table:
    """Make the table of `rows`, with the columns of `schema`."""
    wanted = schema(kind, keep, details)
    columns: dict[str, Any] = {
        name: [getattr(row, name) for row in rows] for name, _ in (*COMMON, *FILE) if not name.startswith("crop_box")
    }
    for position, corner in enumerate(("x0", "y0", "x1", "y1")):
        columns[f"crop_box_{corner}"] = [row.crop_box and row.crop_box[position] for row in rows]
    if kind.name == "embedding":
        columns[kind.name] = _vectors([row.vector for row in rows], wanted.field(kind.name).type)
    elif kind.name == "peaks":
        columns[kind.name] = [_listed(row.peaks) for row in rows]
    elif keep != "none" and kind.name in MAPS:
        columns |= _heatmap_columns([row.heatmap for row in rows], kind.name)
    for column in wanted:
        if column.type == PICTURE:
            columns[column.name] = [_picture(row, column.name) for row in rows]
        elif column.name not in columns:
            columns[column.name] = [row.details.get(column.name) for row in rows]
    return pa.table({column.name: pa.array(columns[column.name], column.type) for column in wanted}, schema=wanted)


def _vectors(vectors: Sequence[np.ndarray | None], kind: pa.FixedSizeListType) -> pa.Array:
    """Return vectors as one column; where there is none, it is empty."""
    stack = np.zeros((len(vectors), kind.list_size), kind.value_type.to_pandas_dtype())
    for place, vector in enumerate(vectors):
        if vector is not None:
            stack[place] = vector
    missing = pa.array([vector is None for vector in vectors])
    return pa.FixedSizeListArray.from_arrays(pa.array(stack.reshape(-1)), type=kind, mask=missing)


def _listed(peaks: np.ndarray | None) -> list[dict[str, Any]] | None:
    """Return peaks, `(n, 4)` of channel, value, row and column, as they are stored."""
    if peaks is None:
        return None
    return [{"channel": int(c), "value": value, "y": int(y), "x": int(x)} for c, value, y, x in peaks.tolist()]


def _picture(row: Row, name: str) -> dict[str, Any] | None:
    return {"bytes": row.pictures[name], "path": f"{row.key}.{name}.jpg"} if name in row.pictures else None


def _heatmap_columns(heatmaps: list[Half | None], name: str) -> dict[str, Any]:
    values = [np.zeros(0, np.float16) if heatmap is None else heatmap.values for heatmap in heatmaps]
    offsets = np.concatenate([[0], np.cumsum([len(value) for value in values])]).astype(np.int32)
    if sum(len(value) for value in values) >= 2**31:
        raise UsageError("the maps of one shard exceed 2³¹ values; use a smaller --shard-size, or --heatmap-size")
    missing = pa.array([heatmap is None for heatmap in heatmaps])
    flat = pa.array(np.concatenate(values) if values else np.zeros(0, np.float16), pa.float16())
    shapes = [(None, None, None) if heatmap is None else heatmap.shape for heatmap in heatmaps]
    return {
        name: pa.ListArray.from_arrays(pa.array(offsets), flat, mask=missing),
        f"{name}_scale": [None if heatmap is None else heatmap.scale for heatmap in heatmaps],
        **{f"{name}_{axis}": [shape[i] for shape in shapes] for i, axis in enumerate(("channels", "height", "width"))},
    }


def halved(heatmaps: Tensor) -> list[Half]:
    """Return maps `(N, C, h, w)` float32 as they are stored."""
    scales = heatmaps.abs().amax((1, 2, 3))
    halves = (heatmaps / torch.where(scales > 0, scales, 1).view(-1, 1, 1, 1)).half()
    channels, height, width = heatmaps.shape[1:]
    return [
        Half(half.flatten().numpy(), scale, (channels, height, width))
        for half, scale in zip(halves, scales.tolist(), strict=True)
    ]


def heatmap_of(row: dict[str, Any], name: str) -> np.ndarray | None:
    """Return a stored row's map as float32 `(C, h, w)`, or None if it has none."""
    if row[name] is None:
        return None
    shape = [row[f"{name}_{axis}"] for axis in ("channels", "height", "width")]
    return np.asarray(row[name], np.float32).reshape(shape) * np.float32(row[f"{name}_scale"])


def dictionaries(table: pa.Table, name: str) -> Iterator[dict[str, Any]]:
    """Yield a shard's rows for `heatmap_of`, the maps as arrays: lists of as many numbers take a hundred times as long.

    The table needs the column `name`, those of its scale and shape, and any others.
    """
    maps = table[name].combine_chunks()
    values, offsets = maps.values.to_numpy(zero_copy_only=False), maps.offsets.to_numpy()
    for place, row in enumerate(table.drop_columns([name]).to_pylist()):
        stored = values[offsets[place] : offsets[place + 1]] if maps[place].is_valid else None
        yield {**row, name: stored}


def map_columns(name: str) -> tuple[str, ...]:
    """Return the columns of a map: its values, their scale and its shape."""
    return (name, *(f"{name}_{fact}" for fact in ("scale", "channels", "height", "width")))


def parquet_options(kind: Kind, keep: Keep, details: Sequence[Detail] = ()) -> dict[str, Any]:
    """Return how Parquet stores a map's columns: zstd; words and classes by dictionary; half floats split by byte."""
    words = ["status", "label", "prediction", "target"]
    grids = [f"{detail.name}.list.element" for detail in details if detail.kind.name == "class_grid"]
    classes = [detail.name for detail in details if detail.kind.name == "class"]
    options: dict[str, Any] = {"compression": "zstd", "compression_level": 1}
    options |= {"use_dictionary": words + grids + classes, "write_statistics": ["key", *words]}
    if kind.name == "embedding" or (keep != "none" and kind.name in MAPS):
        options["column_encoding"] = {f"{kind.name}.list.element": "BYTE_STREAM_SPLIT"}
    return options


def drawn_size(pixels: float, keep: Keep) -> int:
    """Return about how many bytes the two JPEGs of bounded size take that show a made picture and its input."""
    return round(min(pixels, DRAWN**2) * 0.9) if keep == "all" else 0


def predicted_size(
    kind: Kind, keep: Keep, size: tuple[int, int], side: int | None, details: Sequence[Detail] = ()
) -> int:
    """Return about how many bytes one row takes on the disk, with pictures of `size` (height, width)."""
    pixels = size[0] * size[1]
    share = min(1.0, side / max(size)) if side else 1.0
    heatmap = 0 if keep == "none" else round(2 * kind.channels * pixels * share**2)
    if kind.name == "embedding":
        heatmap = kind.width * np.dtype(kind.dtype).itemsize
    # As measured on photographs: half a byte per pixel and JPEG at the quality used, noise-like drawings more.
    drawn = round(pixels * (1.2 if kind.name in MAPS else 0.4)) if keep == "all" else 0
    if kind.name == "image":  # a PNG of what an optimization painted hardly shrinks
        heatmap, drawn = round(pixels * 2.4), drawn_size(pixels, keep)
    kinds = Counter(detail.kind.name for detail in details)
    own = 20 * kinds["values"] + 60 * kinds["boxes"] + (kinds["class_grid"] and keep != "none") * 400
    own += 1000 * kinds["curve"] + 10 * kinds["class"]
    return 400 + heatmap + drawn + own + (round(pixels * 0.4) * kinds["images"] if keep == "all" else 0)
