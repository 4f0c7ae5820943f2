"""An OUT with embeddings, a projection and neighbors, made from synthetic points and small pictures."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import simplejpeg

from afterimage.workflows import manifest, shards
from afterimage.workflows.clock import Clock
from afterimage.workflows.derived import parent_digest, write_derived
from afterimage.workflows.details import PICTURE

CLASSES = ["cat", "dog", "fox", "owl", "<b>bee</b>"]
NEAR = 5


def places(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return points `(count, 2)` in clusters, and the cluster of each."""
    random = np.random.default_rng(seed)
    middles = random.normal(size=(len(CLASSES), 2)) * 6
    owner = random.integers(0, len(CLASSES), count)
    return middles[owner] + random.normal(size=(count, 2)), owner


def tone(number: int, owner: int) -> np.ndarray:
    """Return a picture `(32, 32, 3)` whose color tells its class and whose stripes its number."""
    picture = np.full((32, 32, 3), 60, np.uint8)
    picture[..., owner % 3] = 120 + 40 * (owner // 3) + number % 40
    picture[:: 2 + number % 7] += 30
    return picture


def jpeg(picture: np.ndarray) -> bytes:
    encoded: bytes = simplejpeg.encode_jpeg(np.ascontiguousarray(picture), 95, colorspace="RGB")
    return encoded


def write_embedded(
    out: Path, keys: Sequence[str], failed: Sequence[str] = (), shard: int = 64, near: int = NEAR
) -> tuple[np.ndarray, np.ndarray]:
    """Fill OUT; every third label is another than the prediction, `failed` keys have no embedding. Return `places`."""
    points, owner = places(len(keys))
    items = [manifest.Item(key, f"file:///{key}", 1, None) for key in [*keys, *failed]]
    manifest.write(out, manifest.divide(items, shard))
    for start in range(0, len(items), shard):
        rows = [_row(item.key, n, points, owner) for n, item in enumerate(items[start : start + shard], start)]
        table = pa.Table.from_pylist(rows, schema=SCHEMA)
        shards.commit(out / "embed" / "shards", start // shard, 0, table, {}, Clock())
    write_run(out / "embed", "embed", "embedding")
    write_derived(out, "project", "project", {}, {"embed": parent_digest(out / "embed")}, projected(keys, points))
    write_derived(
        out,
        "neighbors",
        "neighbors",
        {"metric": "euclidean"},
        {"embed": parent_digest(out / "embed")},
        nearest(keys, points, near),
    )
    return points, owner


SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("key", "uri", "status", "error")),
        *((name, pa.int32()) for name in ("width", "height")),
        *((name, pa.string()) for name in ("label", "prediction")),
        ("probability", pa.float32()),
        ("thumbnail", PICTURE),
        ("embedding", pa.list_(pa.float32(), 2)),
    ]
)


def _row(key: str, number: int, points: np.ndarray, owner: np.ndarray) -> dict[str, Any]:
    row: dict[str, Any] = {"key": key, "uri": f"file:///{key}", "status": "ok"}
    if number >= len(points):
        return row | {"status": "decode_failed", "error": "cut short", "label": "cat"}
    predicted = CLASSES[owner[number]]
    row |= {"width": 640, "height": 480, "prediction": predicted, "probability": 0.5 + owner[number] / 10}
    row |= {"label": CLASSES[0] if number % 3 == 0 else predicted, "embedding": points[number].astype(np.float32)}
    return row | {"thumbnail": {"bytes": jpeg(tone(number, int(owner[number]))), "path": f"{key}.thumbnail.jpg"}}


def projected(keys: Sequence[str], points: np.ndarray) -> pa.Table:
    """Return the projection's table."""
    columns = {
        "projection_x": points[:, 0],
        "projection_y": points[:, 1],
        "pca_x": points[:, 1],
        "pca_y": -points[:, 0],
    }
    return pa.table({"key": list(keys)} | columns)


def nearest(keys: Sequence[str], points: np.ndarray, near: int) -> pa.Table:
    """Return the table of neighbors, by a tree."""
    from scipy.spatial import cKDTree

    near = min(near, len(keys) - 1)
    distances, ids = (found[:, 1:] for found in cKDTree(points).query(points, near + 1))
    offsets = pa.array(np.arange(len(keys) + 1) * near, pa.int32())
    lists = [pa.array(ids.ravel()), pa.array(distances.ravel(), pa.float32())]
    near_by = [pa.ListArray.from_arrays(offsets, values) for values in lists]
    names = pa.ListArray.from_arrays(offsets, pa.array(keys).take(lists[0]))
    neighbors = pa.StructArray.from_arrays(near_by, ["ids", "distances"])
    return pa.table({"key": list(keys), "neighbors": neighbors, "neighbor_keys": names})


def write_maps(
    out: Path, keys: Sequence[str], name: str = "saliency", shard: int = 64, failed: Sequence[str] = ()
) -> None:
    """Add a job with a drawing and an overlay for every key but the `failed`."""
    rows = []
    for number, key in enumerate(keys):
        status = {"status": "nonfinite", "error": "no number"} if key in failed else {"status": "ok", "error": None}
        made = {
            kind: {"bytes": jpeg(tone(number, place)), "path": f"{key}.{kind}.jpg"}
            for place, kind in enumerate(("drawing", "overlay"))
        }
        rows.append({"key": key, "target": "fox", **status} | ({} if key in failed else made))
    schema = pa.schema(
        [
            *((one, pa.string()) for one in ("key", "status", "error", "target")),
            ("drawing", PICTURE),
            ("overlay", PICTURE),
        ]
    )
    for start in range(0, len(rows), shard):
        table = pa.Table.from_pylist(rows[start : start + shard], schema=schema)
        shards.commit(out / name / "shards", start // shard, 0, table, {}, Clock())
    write_run(out / name, name, "heatmap")


def write_run(folder: Path, verb: str, result: str) -> None:
    """Write a job's run.json."""
    run = {"verb": verb, "name": folder.name, "result": result, "config": {"options": {}, "target": "none"}}
    run["model"] = {"name": "tiny", "digest": "d0", "categories": CLASSES}
    (folder / "run.json").write_text(json.dumps(run | {"config_sha256": "c0", "manifest_sha256": "a0", "versions": {}}))
