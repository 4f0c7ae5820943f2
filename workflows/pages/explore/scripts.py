"""What the page reads: scripts that hand over a value each, since a page opened from the disk may load nothing else.

data/map.js          places, grid, facets, and what is to be said of the whole
data/names.js        the images' names
data/rows/00000.js   `CHUNK` images each: address, size, neighbors, its picture and what other jobs made of it
"""

import json
from base64 import b64encode
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

CHUNK = 16
NONE = "none"


def write_script(file: Path, name: str, value: Any) -> None:
    """Write a script that calls `afterimage(name, value)`; nothing in it can end the script or be markup."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f"afterimage({json.dumps(name)},{text})\n", encoding="ascii")


def packed(values: Any, kind: str) -> str:
    """Return numbers as base64 of a little-endian array; `kind` is f4, u2, u4."""
    return b64encode(np.asarray(values).astype(f"<{kind}").tobytes()).decode()


def facet(name: str, values: pa.ChunkedArray | pa.Array) -> dict[str, Any]:
    """Return a column of words as codes into its values, most frequent first; what is null is called none."""
    words = pc.fill_null(values, NONE)
    counts = sorted(((one["counts"], one["values"]) for one in words.value_counts().to_pylist()), key=_order)
    names = [value for _, value in counts]
    codes = pc.index_in(words, value_set=pa.array(names, pa.string()))
    return {"name": name, "values": names, "counts": [count for count, _ in counts], "codes": packed(codes, "u4")}


def _order(one: tuple[int, str]) -> tuple[bool, int, str]:
    return one[1] == NONE, -one[0], one[1]


def verdicts(labels: pa.ChunkedArray, predictions: pa.ChunkedArray, known: Sequence[str]) -> pa.Array:
    """Return right or wrong where the label is one of the model's classes, else null."""
    judged = pc.and_(pc.is_in(labels, value_set=pa.array(known, pa.string())), pc.is_valid(predictions))
    right = pc.if_else(pc.equal(labels, predictions), "right", "wrong")
    return pc.if_else(judged, right, None)


class Chunks:
    """Writes the images' rows in chunks as they come."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.number, self.waiting = folder, 0, list[Mapping[str, Any]]()

    def add(self, row: Mapping[str, Any]) -> None:
        """Take the next image's row."""
        self.waiting.append(row)
        if len(self.waiting) == CHUNK:
            self.flush()

    def flush(self) -> None:
        """Write what has come since."""
        if self.waiting:
            write_script(self.folder / f"{self.number:05d}.js", f"rows/{self.number}", self.waiting)
            self.number, self.waiting = self.number + 1, []


def jpeg(stored: Mapping[str, Any] | None) -> str | None:
    """Return a stored picture as a data: address."""
    return None if stored is None else f"data:image/jpeg;base64,{b64encode(stored['bytes']).decode()}"
