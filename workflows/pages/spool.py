"""The shown rows on their way from shards to pages: each shard is read once, each page then reads its own files."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .cards import COLUMNS
from .jobs import Job


def spool(jobs: Sequence[Job], shown: pa.Table, size: int, folder: Path) -> None:
    """Write each job's rows of the inputs `shown` to one Arrow file per page of `size`, holding one shard at a time."""
    shown = shown.append_column("page", pa.array(np.arange(len(shown)) // size))
    for number, job in enumerate(jobs):
        with ExitStack() as stack:
            writers: dict[int, pa.ipc.RecordBatchStreamWriter] = {}
            for shard in pc.unique(shown["shard"]).to_pylist():
                if shard not in job.commits:
                    continue
                wanted = shown.filter(pc.equal(shown["shard"], shard))
                rows = job.read(shard, (*COLUMNS, *job.own_columns))
                place = pc.index_in(rows["key"], value_set=wanted["key"].combine_chunks())
                rows, page = rows.filter(pc.is_valid(place)), wanted["page"].take(place.drop_null())
                for index in pc.unique(page).to_pylist():
                    if index not in writers:
                        file = folder / f"{index}.{number}.arrow"
                        writers[index] = stack.enter_context(pa.ipc.new_stream(str(file), rows.schema))
                    writers[index].write_table(rows.filter(pc.equal(page, index)))


def spooled(folder: Path, page: int, number: int) -> dict[str, dict[str, Any]]:
    """Return the rows that job `number` has for a page, counted from 0, by key."""
    file = folder / f"{page}.{number}.arrow"
    if not file.exists():
        return {}
    with pa.ipc.open_stream(str(file)) as reader:
        return {row["key"]: row for row in reader.read_all().to_pylist()}
