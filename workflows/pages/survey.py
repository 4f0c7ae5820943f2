"""Which inputs a page shows and in what order, found shard by shard in bounded memory.

All jobs of a folder share the manifest, so shard k holds the same keys in each of them: rows are joined within a shard.
An input stands in one section: wrong predictions, most confident first; then failures by status; then the rest by key.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..rows import STATUSES
from .jobs import Job

# A section's number: wrong predictions, then each failure's place among the statuses (ok is the first), then the rest.
WRONG, REST = 0, len(STATUSES)
ORDER = [("section", "ascending"), ("order", "ascending"), ("key", "ascending")]
COLUMNS = ("key", "status", "label", "prediction", "probability", "loss", "success")
SPAN = 2**10
"""More than the rows of a shard: places of subjects are counted by shard and row, in float32 up to 2²⁴ of them."""


@dataclass
class Tally:
    """One job's figures: rows by status, those whose label the model knows, and the probabilities' sum."""

    statuses: Counter[str] = field(default_factory=Counter)
    known: int = 0
    right: int = 0
    predicted: int = 0
    probability: float = 0.0
    losses: int = 0
    loss: float = 0.0
    tried: int = 0
    successes: int = 0

    @property
    def rows(self) -> int:
        """The number of rows."""
        return self.statuses.total()

    @property
    def failed(self) -> int:
        """The number of rows whose status is not ok."""
        return self.statuses.total() - self.statuses["ok"]

    @property
    def accuracy(self) -> float | None:
        """The share of right predictions among the rows with a known label."""
        return self.right / self.known if self.known else None

    @property
    def mean_probability(self) -> float | None:
        """The mean probability of the predicted class."""
        return self.probability / self.predicted if self.predicted else None

    @property
    def mean_loss(self) -> float | None:
        """The mean final loss of the rows that are ok."""
        return self.loss / self.losses if self.losses else None

    @property
    def success(self) -> float | None:
        """The share of the rows with a success to tell that have it."""
        return self.successes / self.tried if self.tried else None

    def add(self, rows: pa.Table) -> None:
        """Count the judged rows of a shard."""
        self.statuses.update(counts(rows["status"]))
        self.known += pc.sum(rows["known"]).as_py() or 0
        self.right += pc.sum(rows["right"]).as_py() or 0
        self.predicted += pc.count(rows["probability"]).as_py()
        self.probability += pc.sum(rows["probability"]).as_py() or 0.0
        own = rows.filter(pc.equal(rows["status"], "ok"))
        if "loss" in own.column_names:
            self.losses += pc.count(own["loss"]).as_py()
            self.loss += pc.sum(own["loss"]).as_py() or 0.0
        if "success" in own.column_names:
            self.tried += pc.count(own["success"]).as_py()
            self.successes += pc.sum(pc.equal(own["success"], 1)).as_py() or 0


@dataclass(frozen=True)
class Survey:
    """What is there and what is shown: a tally per job, inputs by section, and the shown `key, section, shard`."""

    tallies: list[Tally]
    sections: Counter[int]
    shown: pa.Table

    @property
    def inputs(self) -> int:
        """The number of inputs with a row in any job."""
        return self.sections.total()


def survey(jobs: Sequence[Job], limit: int, floor: int) -> Survey:
    """Read the rows' verdicts once and choose at most `limit` inputs; see `quotas` for `floor`."""
    tallies, sections = [Tally() for _ in jobs], Counter[int]()
    classes = [pa.array(job.categories, pa.string()) for job in jobs]
    kept, size = [_EMPTY], 0
    for shard in sorted({shard for job in jobs for shard in job.commits}):
        judgments = []
        for job, tally, categories in zip(jobs, tallies, classes, strict=True):
            if shard in job.commits:
                rows = judge(job.read(shard, COLUMNS), categories, shard * SPAN if job.generates else None)
                tally.add(rows)
                judgments.append(rows.select(["key", "section", "order"]))
        joined = join(judgments, shard)
        sections.update(counts(joined["section"]))
        kept, size = [*kept, joined], size + len(joined)
        if size > 4 * limit:
            kept = [first(kept, dict.fromkeys(sections, limit))]
            size = len(kept[0])
    return Survey(tallies, sections, first(kept, quotas(sections, limit, floor)))


def judge(rows: pa.Table, categories: pa.Array, place: int | None = None) -> pa.Table:
    """Add to a job's rows: is the label `known` to the model, the prediction `right`; the `section`, the `order` in it.

    A label that is no category of the model is neither right nor wrong. Subjects stand as they were asked for: `place`
    is the first one's.
    """
    ok = pc.equal(rows["status"], "ok")
    known = pc.and_(pc.and_(ok, pc.is_in(rows["label"], value_set=categories)), _predicted(rows))
    right = pc.and_(known, pc.fill_null(pc.equal(rows["label"], rows["prediction"]), False))
    wrong = pc.and_not(known, right)
    failure = pc.index_in(rows["status"], value_set=pa.array(STATUSES))
    section = pc.if_else(wrong, WRONG, pc.if_else(ok, REST, failure)).cast(pa.int32())
    order = pc.if_else(wrong, pc.negate(pc.fill_null(rows["probability"], 0.0)), 0.0).cast(pa.float32())
    if place is not None:
        order = pa.array(np.arange(place, place + len(rows)), pa.float32())
    for name, column in (("known", known), ("right", right), ("section", section), ("order", order)):
        rows = rows.append_column(name, column)
    return rows


def _predicted(rows: pa.Table) -> pa.ChunkedArray:
    """Return which rows have been predicted, where the method predicts at all: without, nothing is right or wrong."""
    return pc.is_valid(rows["prediction"])


def join(judgments: Iterable[pa.Table], shard: int) -> pa.Table:
    """Join the jobs' judgments of one shard by key: an input that any job got wrong counts as wrong."""
    groups = pa.concat_tables(judgments).group_by("key", use_threads=False)
    joined = groups.aggregate([("section", "min"), ("order", "min")])
    columns = [joined["key"], joined["section_min"], joined["order_min"], pa.array([shard] * len(joined), pa.int32())]
    return pa.table(columns, schema=_EMPTY.schema)


def first(tables: Iterable[pa.Table], quota: dict[int, int]) -> pa.Table:
    """Sort the joined rows and return the first ones of each section, as many as its quota."""
    rows = pa.concat_tables(tables).sort_by(ORDER).combine_chunks()
    section = rows["section"].to_numpy()
    place = np.arange(len(section)) - np.searchsorted(section, section)
    allowed = np.zeros(REST + 1, np.int64)
    allowed[list(quota)] = list(quota.values())
    return rows.filter(pa.array(place < allowed[section]))


def quotas(sections: Counter[int], limit: int, floor: int) -> dict[int, int]:
    """Share `limit` places: `floor` for every section, so that none is crowded out, the others in the page's order."""
    places = {section: min(sections[section], floor) for section in sorted(sections)}
    spare = limit - sum(places.values())
    for section in places:
        more = min(sections[section] - places[section], spare)
        places[section] += more
        spare -= more
    return places


def counts(column: pa.ChunkedArray) -> dict[Any, int]:
    """Return how often each value of a column occurs."""
    return {pair["values"]: pair["counts"] for pair in column.value_counts().to_pylist()}


_EMPTY = pa.table(
    {
        "key": pa.array([], pa.string()),
        "section": pa.array([], pa.int32()),
        "order": pa.array([], pa.float32()),
        "shard": pa.array([], pa.int32()),
    }
)
