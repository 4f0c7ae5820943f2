"""``python -m benchmarks [ROW ...]``: run rows, print tables, write records."""

import argparse
import json
import signal
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from importlib import import_module
from itertools import groupby
from pathlib import Path
from secrets import randbelow
from typing import Any

from afterimage.errors import UsageError, nearest
from benchmarks import ROOT
from benchmarks.harness import run_rows
from benchmarks.machine import describe, measure_limits
from benchmarks.record import record
from benchmarks.report import machine, summary, table
from benchmarks.row import Row

SOURCES = ("ops", "methods", "optimization", "vectors", "embeddings", "explore", "stylize", "datasets")
"""Modules of this package with a function ``rows(quick: bool) -> Iterable[Row]``."""


def all_rows(quick: bool) -> Iterator[Row]:
    """Every row of every source."""
    for source in SOURCES:
        yield from import_module(f"benchmarks.{source}").rows(quick)


def select(rows: Sequence[Row], names: Sequence[str]) -> list[Row]:
    """Rows with one of the names, or below it: ``ops`` selects ``ops.guided_relu.float32``."""
    unknown = [name for name in names if not any(_below(row, name) for row in rows)]
    if unknown:
        near = nearest(unknown[0], [row.name for row in rows])
        raise UsageError(f"no benchmark row {unknown[0]!r}{near}; see 'python -m benchmarks --list'")
    return [row for row in rows if not names or any(_below(row, name) for name in names)]


def _below(row: Row, name: str) -> bool:
    return row.name == name or row.name.startswith(f"{name}.")


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="benchmarks", description="Ours beside reference and peers.")
    parser.add_argument("names", nargs="*", metavar="ROW", help="rows to run, by name or its beginning; default: all")
    parser.add_argument("--list", action="store_true", help="list the rows and stop")
    parser.add_argument("--quick", action="store_true", help="small inputs, two rounds: does it run?")
    parser.add_argument("--repeat", type=int, help="rounds; default: each row's own number")
    parser.add_argument("--seed", type=int, help="of the order of the configurations; default: drawn, and recorded")
    parser.add_argument("--no-peers", action="store_true", help="leave the peers out")
    parser.add_argument("--out", type=Path, help="one file for all records; default: out/bench/ROW.json each")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the rows; 1 if a configuration of ours failed or its outputs are wrong, 2 for an unknown row."""
    options = parse(arguments)
    try:
        rows = select(list(all_rows(options.quick)), options.names)
    except UsageError as error:
        print(error, file=sys.stderr)
        return 2
    if options.list:
        print(*(f"{row.name}: {row.title}" for row in rows), sep="\n")
        return 0
    seed = randbelow(2**31) if options.seed is None else options.seed
    limits = measure_limits(cuda=any(row.device == "cuda" and not row.blocked for row in rows))
    header: dict[str, Any] = {"machine": describe(), "limits": limits, "seed": seed, "quick": options.quick}
    print(machine(header["machine"], limits), flush=True)
    records = []
    for _, group in groupby(rows, key=lambda row: row.group or row.name):
        together = list(group)
        started = datetime.now(UTC).isoformat(timespec="seconds")
        repeat = options.repeat or (2 if options.quick else together[0].repeat)
        for session in run_rows(together, repeat, seed, peers=not options.no_peers, log=_log):
            records.append({**record(session, limits), "started": started, **header})
            print(f"\n{table(records[-1])}", flush=True)
            if options.out is None:
                write(ROOT / "out" / "bench" / f"{session.row.name}.json", records[-1])
    if options.out is not None:
        write(options.out, records)
    print(f"\nours, and the others in multiples of it\n{summary(records)}", flush=True)
    return int(any(_wrong(entry) for record in records for entry in record["configurations"]))


def write(file: Path, content: Any) -> None:
    """Write JSON, making the folder."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, indent=1, default=str) + "\n")


def _wrong(entry: dict[str, Any]) -> bool:
    return entry["role"] == "ours" and entry["status"] in ("mismatch", "failed")


def _log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # workers have sessions of their own: end them on the way
    sys.exit(main())
