"""An embedding job as a run leaves it, with vectors that the test chooses."""

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from PIL import Image

from afterimage.workflows.clock import Clock
from afterimage.workflows.shards import commit


def write_job(
    out: Path,
    vectors: np.ndarray,
    keys: Sequence[str] | None = None,
    failed: Mapping[int, str] | None = None,
    pictures: Sequence[np.ndarray] | None = None,
    first: int = 0,
    size: int = 7,
) -> list[str]:
    """Write shards, from number `first` on, of `size` rows; rows in `failed` have that status and no vector."""
    names = list(keys) if keys is not None else [f"{first}-{number:05d}.jpg" for number in range(len(vectors))]
    bad = failed or {}
    for shard, start in enumerate(range(0, len(vectors), size), first):
        rows = range(start, min(start + size, len(vectors)))
        kind = pa.list_(pa.from_numpy_dtype(vectors.dtype), vectors.shape[1])
        columns = {
            "key": pa.array([names[row] for row in rows]),
            "uri": pa.array([f"file:///{names[row]}" for row in rows]),
            "status": pa.array([bad.get(row, "ok") for row in rows]),
            "error": pa.array(["it failed" if row in bad else None for row in rows], pa.string()),
            "embedding": pa.array([None if row in bad else vectors[row] for row in rows], kind),
        }
        if pictures is not None:
            columns["thumbnail"] = pa.array(
                [None if row in bad else {"bytes": _png(pictures[row]), "path": names[row]} for row in rows]
            )
        commit(out / "embed" / "shards", shard, 0, pa.table(columns), {}, Clock())
    run = {"verb": "embed", "name": "embed", "result": "embedding", "config": {}, "config_sha256": "0", "model": {}}
    (out / "embed" / "run.json").write_text(json.dumps(run))
    return names


def _png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()
