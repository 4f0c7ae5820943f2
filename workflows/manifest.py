"""The inputs of a run, frozen: every image once, by key, in key order, divided into shards.

OUT/manifest.parquet        key, uri, size, label, shard, index; shared by all jobs of OUT
OUT/manifest.00001.parquet  what `--mode extend` added later; earlier parts never change
"""

import glob
import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote_from_bytes, unquote_to_bytes

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from afterimage.errors import UsageError

from .files import write_whole

SUFFIXES = (
    *b".jpg .jpeg .jpe .jfif .png .apng .gif .webp .bmp .dib .tif .tiff".split(),
    *b".avif .heic .heif .hif .ppm .pgm .pbm .pnm".split(),
)
LISTS = (b".txt", b".lst", b".list")
SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("uri", pa.string()),
        ("size", pa.int64()),
        ("label", pa.string()),
        ("shard", pa.int32()),
        ("index", pa.int32()),
    ]
)


class Item(NamedTuple):
    """One input: `key` names it in all tables, `uri` is where it lies, `size` its bytes (-1 where unknown)."""

    key: str
    uri: str
    size: int
    label: str | None


def path_of(uri: str) -> bytes:
    """Return the local path that a ``file://`` uri names; as bytes, since file names need not be UTF-8."""
    return unquote_to_bytes(uri.removeprefix("file://"))


def scan(inputs: Sequence[str | os.PathLike[str]], leave_out: Path | None = None) -> list[Item]:
    """List the images of folders (nested), globs, list files (one path per line) and single files, in key order.

    Keys are percent-encoded paths below each input's root, prefixed by the root's number when there are several.
    What lies below `leave_out` is not an input. Raises `UsageError` where an input names nothing.
    """
    items: dict[str, Item] = {}
    for number, source in enumerate(inputs):
        prefix = f"{number}/" if len(inputs) > 1 else ""
        root, paths = _expand(os.path.abspath(os.fsencode(source)), str(source), leave_out)
        before = len(items)
        try:
            for path in paths:
                item = _item(prefix, root, path)
                items.setdefault(item.key, item)
        except OSError as error:
            raise UsageError(f"cannot read {str(source)!r}: {error.strerror}") from error
        if len(items) == before:
            endings = " ".join(suffix.decode() for suffix in SUFFIXES)
            raise UsageError(f"no images in {str(source)!r}; expected files ending in {endings}")
    return [items[key] for key in sorted(items)]


def _item(prefix: str, root: bytes, path: bytes) -> Item:
    try:
        size = os.stat(path).st_size
    except OSError:
        size = -1
    key = prefix + quote_from_bytes(os.path.relpath(path, root))
    return Item(key, "file://" + quote_from_bytes(path), size, None)


def _expand(path: bytes, given: str, leave_out: Path | None) -> tuple[bytes, Iterator[bytes] | list[bytes]]:
    """Return one input's root and the paths below it."""
    skipped = os.fsencode(leave_out.resolve()) if leave_out else None
    if os.path.isdir(path):
        return path, _walk(path, skipped, frozenset())
    if os.path.lexists(path):
        if path.lower().endswith(LISTS):
            return _listed(path)
        return os.path.dirname(path), [path]
    if glob.has_magic(path):
        fixed = os.path.dirname(path[: min(path.index(sign) for sign in (b"*", b"?", b"[") if sign in path)])
        found = glob.glob(path, recursive=True)
        return fixed, [one for one in found if not os.path.isdir(one)]
    raise UsageError(f"no folder, file, list or glob {given!r}; expected a path that exists")


def _listed(path: bytes) -> tuple[bytes, list[bytes]]:
    with open(path, "rb") as file:
        names = [line.rstrip(b"\r\n") for line in file if line.strip()]
    paths = [os.path.abspath(os.path.join(os.path.dirname(path), name)) for name in names]
    return os.path.commonpath([os.path.dirname(one) for one in paths]) if paths else path, paths


def _walk(folder: bytes, skipped: bytes | None, above: frozenset[bytes]) -> Iterator[bytes]:
    """Yield the image files below a folder; links to folders are followed, but not round in circles."""
    real = os.path.realpath(folder)
    if real in above or real == skipped:
        return
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError:
        if not above:
            raise
        yield folder  # it gets a row that says so
        return
    for entry in entries:
        named = entry.name.lower().endswith(SUFFIXES)
        if not _is_folder(entry):
            if named:
                yield entry.path
            continue
        empty = True
        for path in _walk(entry.path, skipped, above | {real}):
            empty = False
            yield path
        # A folder named like a picture, with no picture in it, was meant to be one: it gets its row.
        if named and empty:
            yield entry.path


def _is_folder(entry: "os.DirEntry[bytes]") -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def divide(items: Sequence[Item], shard_size: int, first_shard: int = 0) -> pa.Table:
    """Number the items by shard and by place in the shard."""
    places = range(len(items))
    columns = [
        *([getattr(item, name) for item in items] for name in Item._fields),
        [first_shard + place // shard_size for place in places],
        [place % shard_size for place in places],
    ]
    return pa.table([pa.array(values, field.type) for values, field in zip(columns, SCHEMA, strict=True)], SCHEMA)


def default_shard_size(count: int, step: int = 16) -> int:
    """Return a size that gives small runs enough shards to share out and large ones not too many files.

    It is a multiple of `step` and at least that, up to 512.
    """
    return min(512, max(step, count // 128 // step * step))


def parts(out: Path) -> list[Path]:
    """Return the manifest's files, in the order in which they were written."""
    return [path for path in [out / "manifest.parquet"] if path.exists()] + sorted(out.glob("manifest.[0-9]*.parquet"))


def load_parts(out: Path) -> list[pa.Table]:
    """Read the parts of OUT's manifest."""
    return [pq.read_table(path, schema=SCHEMA, partitioning=None) for path in parts(out)]


def load(out: Path) -> pa.Table:
    """Read all parts of OUT's manifest as one table."""
    return pa.concat_tables(load_parts(out))


def write(out: Path, table: pa.Table, afresh: bool = False) -> None:
    """Write the next part of OUT's manifest, or, `afresh`, one that takes the place of all."""
    before = parts(out)
    number = 0 if afresh else len(before)
    path = out / (f"manifest.{number:05d}.parquet" if number else "manifest.parquet")
    write_whole(path, lambda temporary: pq.write_table(table, temporary, compression="zstd"))
    for stale in before[1:] if afresh else ():
        stale.unlink()


def with_labels(items: Sequence[Item], labels: Mapping[str, str]) -> list[Item]:
    """Give each item the label found under its key."""
    return [item._replace(label=labels.get(item.key)) for item in items]


def digest(table: pa.Table) -> str:
    """Return the sha256 of what a manifest says: keys, places, sizes, labels, shards."""
    sha = hashlib.sha256()
    for batch in table.to_batches(max_chunksize=65536):
        sha.update("\n".join(map(repr, zip(*(column.to_pylist() for column in batch.columns), strict=True))).encode())
        sha.update(b"\n")
    return sha.hexdigest()


def differences(frozen: pa.Table, items: Sequence[Item]) -> dict[str, list[str]]:
    """Return the keys that differ from the frozen manifest, by what differs."""
    known = dict(zip(frozen["key"].to_pylist(), _facts(frozen), strict=True))
    now = {item.key: (item.uri, item.size, item.label) for item in items}
    both = [key for key in now if key in known]
    return {
        "added": [key for key in now if key not in known],
        "removed": [key for key in known if key not in now],
        "moved": [key for key in both if now[key][0] != known[key][0]],
        "resized": [key for key in both if now[key][1] != known[key][1]],
        "labeled otherwise": [key for key in both if now[key][2] != known[key][2]],
    }


def _facts(table: pa.Table) -> Iterator[tuple[str, int, str | None]]:
    return zip(*(table[name].to_pylist() for name in ("uri", "size", "label")), strict=True)


def shards(table: pa.Table) -> dict[int, pa.Table]:
    """Return each shard's part of a manifest, without copying."""
    numbers = table["shard"].to_numpy()
    starts = np.flatnonzero(np.diff(numbers, prepend=-1))
    ends = [*starts[1:], len(numbers)]
    return {int(numbers[start]): table.slice(start, end - start) for start, end in zip(starts, ends, strict=True)}


def items_of(table: pa.Table) -> list[Item]:
    """Return a manifest's rows as items."""
    return [Item(*values) for values in zip(*(table[name].to_pylist() for name in Item._fields), strict=True)]
