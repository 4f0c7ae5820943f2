"""Pictures as vectors of their pixels: the network's input, shrunk to 32 × 32, in sRGB of [0, 1]."""

import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from afterimage.errors import UsageError

from .vectors import Vectors

SIDE = 32
THUMBNAIL = "thumbnail"


def of_picture(picture: np.ndarray | Image.Image) -> np.ndarray:
    """Return a picture's vector (3072,), float32; its proportions do not matter."""
    image = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
    small = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX)
    return np.asarray(small, np.float32).ravel() / 255


def of_thumbnails(vectors: Vectors, keys: list[str]) -> np.ndarray:
    """Return the vectors (n, 3072) of the pictures that an embedding job kept; raise `UsageError` where it did not."""
    has_pictures(vectors)
    wanted, found = {key: place for place, key in enumerate(keys)}, np.empty((len(keys), 3 * SIDE**2), np.float32)
    with ThreadPoolExecutor() as pool:
        for commit in vectors.commits.values():
            rows = [row for row in vectors.rows(commit, ["key", THUMBNAIL]).to_pylist() if row["key"] in wanted]
            for row, vector in zip(rows, pool.map(_vector, [row[THUMBNAIL]["bytes"] for row in rows]), strict=True):
                found[wanted[row["key"]]] = vector
    return found


def has_pictures(vectors: Vectors) -> None:
    """Raise `UsageError` where an embedding job kept no pictures."""
    file = next(iter(vectors.commits.values())).file
    if THUMBNAIL not in pq.read_schema(vectors.folder / "shards" / file).names:
        raise UsageError(f"{vectors.folder} kept no pictures; use --no-pixels, or embed with --keep all")


def thumbnails(vectors: Vectors, keys: list[str]) -> dict[str, Image.Image]:
    """Return the pictures of some keys."""
    wanted = set(keys)
    return {
        row["key"]: _opened(row[THUMBNAIL]["bytes"])
        for commit in vectors.commits.values()
        for row in vectors.rows(commit, ["key", THUMBNAIL]).to_pylist()
        if row["key"] in wanted
    }


def _opened(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert("RGB")


def _vector(data: bytes) -> np.ndarray:
    return of_picture(_opened(data))
