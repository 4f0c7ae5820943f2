"""True labels, from the folders' names or a table: `folders`, `FILE.csv:column`, `FILE.parquet:column`."""

import csv
import os
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

import pyarrow as pa

from afterimage.errors import UsageError, nearest
from afterimage.models.network import folded

from .manifest import Item, path_of

KEY_COLUMNS = ("key", "path", "file", "filename", "file_name", "filepath", "image", "name")


def labels_for(items: Sequence[Item], source: str) -> dict[str, str]:
    """Return the label of each item's key, as `source` gives it.

    `folders` takes the name of the folder that holds the image. A table's images are found by the first column of
    `KEY_COLUMNS`, or else its first one, holding keys, paths below the input, or file names that occur once.
    """
    if source == "folders":
        folders = {item.key: os.path.basename(os.path.dirname(path_of(item.uri))) for item in items}
        return {key: name.decode("utf-8", "replace") for key, name in folders.items() if name}
    file, colon, column = source.rpartition(":")
    if not colon or Path(file).suffix.lower() not in (".csv", ".parquet"):
        raise UsageError(f"labels: expected folders, FILE.csv:column or FILE.parquet:column, got {source!r}")
    by_name = _read(Path(file), column)
    labels = {key: by_name[name] for key, name in named([item.key for item in items], by_name).items()}
    if not labels:
        example = next(iter(by_name), "nothing")
        raise UsageError(f"labels: {file} names none of the images; it has {example!r}, the images {items[0].key!r}")
    return labels


def named(keys: Iterable[str], names: Collection[str]) -> dict[str, str]:
    """Return which of `names` means each key: the key, the path below the input, or a file name that occurs once."""
    paths = {key: unquote(key) for key in keys}
    bases = Counter(PurePosixPath(path).name for path in paths.values())
    found = {}
    for key, path in paths.items():
        base = PurePosixPath(path).name
        candidates = (key, path, base) if bases[base] == 1 else (key, path)
        name = next((name for name in candidates if name in names), None)
        if name is not None:
            found[key] = name
    return found


def _read(file: Path, column: str) -> dict[str, str]:
    if not file.is_file():
        raise UsageError(f"labels: no file {str(file)!r}")
    try:
        columns = csv_columns(file, "labels") if file.suffix.lower() == ".csv" else _parquet(file)
    except (UnicodeDecodeError, csv.Error, pa.ArrowException) as error:
        raise UsageError(f"labels: cannot read {file} as UTF-8 CSV or Parquet: {error}") from error
    if column not in columns:
        raise UsageError(f"labels: {file} has no column {column!r}, but {', '.join(columns)}{nearest(column, columns)}")
    others = [name for name in columns if name != column]
    keys = next((name for name in KEY_COLUMNS if name in others), others[0] if others else None)
    if keys is None:
        raise UsageError(f"labels: {file} needs a column of file names beside {column!r}")
    pairs = zip(columns[keys], columns[column], strict=True)
    return {str(name).removeprefix("./"): str(label) for name, label in pairs if label not in (None, "")}


def csv_columns(file: Path, what: str) -> dict[str, list[Any]]:
    """Return a CSV file's columns by the names in its header; `what` begins the messages."""
    with file.open(newline="", encoding="utf-8-sig") as lines:
        rows = list(csv.reader(lines))
    header = rows[0] if rows else []
    short = next((number for number, row in enumerate(rows, 1) if row and len(row) != len(header)), None)
    if short:
        raise UsageError(f"{what}: {file} line {short} has {len(rows[short - 1])} columns, its header {len(header)}")
    return {name: [row[place] for row in rows[1:] if row] for place, name in enumerate(header)}


def _parquet(file: Path) -> dict[str, list[Any]]:
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(file, partitioning=None)
    return {name: table[name].to_pylist() for name in table.column_names}


def labels_by_class(labels: Iterable[str], categories: Sequence[str]) -> dict[str, int]:
    """Return the class of each label that has one: by name, forgiving case, underscores and hyphens, or by index."""
    by_name = {folded(name): index for index, name in reversed(list(enumerate(categories)))}
    numbered = {str(index): index for index in range(len(categories))}
    classes = {label: by_name.get(folded(label), numbered.get(label)) for label in set(labels)}
    return {label: index for label, index in sorted(classes.items()) if index is not None}
