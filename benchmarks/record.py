"""The record of a run: what a session measured, with the figures that follow from it, as plain JSON values."""

from dataclasses import asdict
from statistics import median
from typing import Any

import numpy as np

from benchmarks.harness import Result, Session
from benchmarks.machine import Limits
from benchmarks.process import cores
from benchmarks.row import Row


def record(session: Session, limits: Limits) -> dict[str, Any]:
    """Return the row's record.

    Of a timed configuration: `seconds` per call in each round, their `median` and `spread` (interquartile range);
    `ratio`: the median over the rounds of its time divided by ours in the same round, above 1 where ours is faster;
    `units`: the same over the row's unit; `share` of the machine's `limit`; `peak_memory` in bytes, of the process
    tree in the untimed run, where it did this row alone; `bandwidth` in bytes and `rate` in operations per second, of
    what the row's `work` counts; `figures`: medians of what it reports about itself.
    """
    row = session.row
    agreement = {"with": row.oracle.name, "tolerance": row.agreement.tolerance, "reason": row.agreement.reason}
    return {
        "row": row.name,
        "title": row.title,
        "labels": dict(row.labels) or {"row": row.name},
        "device": row.device,
        "items": row.items,
        "item": row.item,
        "work": asdict(row.work) if row.work else None,
        "agreement": agreement,
        "order": session.order,
        "configurations": [_describe(session, result, limits) for result in session.results],
    }


def _describe(session: Session, result: Result, limits: Limits) -> dict[str, Any]:
    described = asdict(result.configuration)
    described["threads"] = result.configuration.threads or cores()
    outcome = {name: value for name, value in asdict(result).items() if name not in ("configuration", "figures")}
    derived = _derive(session, result, limits) if result.runs and result.seconds else {}
    return described | outcome | derived


def _derive(session: Session, result: Result, limits: Limits) -> dict[str, Any]:
    row, seconds = session.row, median(result.seconds)
    derived: dict[str, Any] = {
        "median": seconds,
        "spread": spread(result.seconds),
        "items_per_second": row.items / seconds,
        "figures": {name: median(call[name] for call in result.figures) for name in result.figures[0]},
    }
    ours = session.result(row.ours)
    if ours.status == result.status == "ok":
        ratios = _ratios(result, ours)
        derived |= {"ratio": median(ratios), "ratio_spread": spread(ratios)}
    for unit in session.results:
        if unit.configuration.role == "unit" and unit.status == "ok":
            derived["units"] = median(_ratios(result, unit))
    limit = limits.get("cuda" if row.device == "cuda" else str(result.configuration.threads or cores()))
    if row.work:
        derived |= {"bandwidth": row.work.bytes / seconds, "rate": row.work.operations / seconds}
    if row.work and limit:
        derived |= _share(row, seconds, limit)
    return derived


def _ratios(result: Result, other: Result) -> list[float]:
    return [mine / theirs for mine, theirs in zip(result.seconds, other.seconds, strict=True)]


def spread(values: list[float]) -> float:
    """Interquartile range."""
    low, high = np.percentile(values, [25, 75])
    return float(high - low)


def _share(row: Row, seconds: float, limit: dict[str, float]) -> dict[str, Any]:
    """The time that the machine's limit allows divided by the time taken, and which limit it is."""
    assert row.work
    # Where torch multiplies bfloat16 slower than float32, for want of instructions, the limit is that of float32.
    precision = max({row.work.precision, "fp32"}, key=lambda name: limit[name])
    bounds = {"copy": row.work.bytes / limit["copy"], precision: row.work.operations / limit[precision]}
    name = max(bounds, key=lambda key: bounds[key])
    return {"share": bounds[name] / seconds, "limit": name}
