"""The vectors that an embedding job has committed, shard by shard or all at once."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from afterimage.errors import UsageError

from .shards import Commit, committed, read_shard

COLUMN = "embedding"


class Part(NamedTuple):
    """The usable rows of one shard: keys, and their vectors `(n, D)` as they are stored, float16 or float32."""

    keys: list[str]
    values: np.ndarray


@dataclass(frozen=True)
class Vectors:
    """An embedding job's vectors: a snapshot of its commits. Rows that are not ok have none."""

    folder: Path
    run: Mapping[str, Any]
    commits: Mapping[int, Commit]

    @property
    def name(self) -> str:
        """The job's name."""
        return self.folder.name

    @property
    def left_out(self) -> dict[str, int]:
        """How many rows have no vector, by status."""
        statuses = Counter[str]()
        for commit in self.commits.values():
            statuses.update(commit.statuses)
        del statuses["ok"]
        return dict(statuses.most_common())

    def __len__(self) -> int:
        return sum(commit.statuses.get("ok", 0) for commit in self.commits.values())

    def parts(self) -> Iterator[Part]:
        """Yield the shards' vectors in shard order, rows in theirs."""
        for commit in self.commits.values():
            rows = self.rows(commit, ["key", COLUMN])
            yield Part(rows["key"].to_pylist(), matrix(rows[COLUMN]))

    def failed(self) -> pa.Table:
        """Return key, status and error of the rows that have no vector."""
        names = ["key", "status", "error"]
        schema = pa.schema([(name, pa.string()) for name in names])
        tables = [read_shard(self.folder / "shards", one, names) for one in self.commits.values() if one.failed]
        rows = pa.concat_tables([schema.empty_table(), *(table.select(names) for table in tables)])
        return rows.filter(pc.not_equal(rows["status"], "ok"))

    def rows(self, commit: Commit, columns: list[str]) -> pa.Table:
        """Return columns of one shard's rows that have a vector."""
        rows = read_shard(self.folder / "shards", commit, [*columns, "status"])
        return rows.filter(pc.equal(rows["status"], "ok")).select(columns)

    def table(self, columns: list[str]) -> pa.Table:
        """Return columns of all rows that have a vector, in the order of `parts`."""
        return pa.concat_tables(self.rows(commit, columns) for commit in self.commits.values())

    def load(self) -> Part:
        """Return all vectors at once."""
        parts = list(self.parts())
        return Part([key for part in parts for key in part.keys], np.concatenate([part.values for part in parts]))


def matrix(column: pa.ChunkedArray) -> np.ndarray:
    """Return a column of fixed-size lists as an array `(n, D)`."""
    width = column.type.list_size
    flat = [chunk.flatten().to_numpy() for chunk in column.chunks]
    return (np.concatenate(flat) if flat else np.zeros(0, column.type.value_type.to_pandas_dtype())).reshape(-1, width)


def open_vectors(out: Path, name: str = "embed") -> Vectors:
    """Open the embedding job of that name; raise `UsageError` where there is none, or nothing in it."""
    file = out / name / "run.json"
    if not file.exists():
        others = [path.parent.name for path in out.glob("*/run.json") if _result(path) == COLUMN]
        hint = f"; there is {', '.join(others)} (--embedding NAME)" if others else ""
        raise UsageError(f"{out}: no embeddings in {name!r}; make them with 'afterimage embed INPUT {out}'{hint}")
    if _result(file) != COLUMN:
        raise UsageError(f"{out / name}: expected embeddings, got a run of {_run(file)['verb']}")
    vectors = Vectors(file.parent, _run(file), committed(file.parent / "shards"))
    if not len(vectors):
        raise UsageError(f"{file.parent}: expected embeddings, got none that is ok ({vectors.left_out or 'no rows'})")
    return vectors


def _run(file: Path) -> dict[str, Any]:
    run: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return run


def _result(file: Path) -> Any:
    return _run(file).get("result")
