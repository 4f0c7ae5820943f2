"""Running a row: compare the outputs, then time all configurations in shuffled rounds."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np

from benchmarks import STORE
from benchmarks.process import Unable, work
from benchmarks.row import Configuration, Row

Log = Callable[[str], None]


@dataclass
class Result:
    """What became of a configuration; a failed one has fewer `seconds` than there were rounds.

    `ok`; `mismatch`: its outputs differ from the oracle's, its times are no comparison; `failed`: it cannot be
    installed, imported or run; `skipped`: on request; `blocked`: the row cannot run on this machine.
    """

    configuration: Configuration
    status: Literal["ok", "mismatch", "failed", "skipped", "blocked"] = "ok"
    error: str | None = None
    distance: float | None = None
    peak_memory: int | None = None
    seconds: list[float] = field(default_factory=list)
    figures: list[dict[str, float]] = field(default_factory=list)

    @property
    def runs(self) -> bool:
        """Whether it can be run further."""
        return self.status in ("ok", "mismatch")

    def give_up(self, status: Literal["mismatch", "failed", "skipped", "blocked"], error: str) -> None:
        """Note why its times do not count."""
        self.status, self.error = status, error


@dataclass
class Session:
    """One run of one row: results in the row's order, and the order of each round."""

    row: Row
    results: list[Result]
    order: list[list[str]]

    def result(self, configuration: Configuration) -> Result:
        """The result of one of the row's configurations."""
        return self.results[self.row.configurations.index(configuration)]


def run_row(row: Row, repeat: int, seed: int, peers: bool = True, log: Log = print) -> Session:
    """Compare and time one row; its rounds are shuffled by `seed` and the row's name."""
    session = Session(row, [Result(configuration) for configuration in row.configurations], [])
    for result in session.results:
        if row.blocked:
            result.give_up("blocked", row.blocked)
        elif result.configuration.role == "peer" and not peers:
            result.give_up("skipped", "peers are left out on request")
    _compare(session, log)
    _time(session, repeat, Random(f"{seed}:{row.name}"), log)
    return session


def _compare(session: Session, log: Log) -> None:
    """Run every configuration once, untimed, and compare its outputs with the oracle's."""
    STORE.mkdir(exist_ok=True)
    with TemporaryDirectory(dir=STORE, prefix="outputs-") as folder:
        files = [Path(folder, f"{number}.npz") for number in range(len(session.results))]
        for result, file in zip(session.results, files, strict=True):
            if result.runs:
                log(f"{session.row.name}: comparing {result.configuration.name}")
                reply = _attempt(session.row, result, outputs=str(file))
                result.peak_memory = reply.get("peak_memory")
        expected = files[session.row.configurations.index(session.row.oracle)]
        for result, file in zip(session.results, files, strict=True):
            if result.runs and result.configuration.role != "unit" and file != expected:
                _judge(session.row, result, file, expected)


def _judge(row: Row, result: Result, outputs: Path, expected: Path) -> None:
    if not expected.exists():
        return result.give_up("mismatch", f"nothing to compare with: {row.oracle.name} did not run")
    try:
        with np.load(outputs) as ours, np.load(expected) as theirs:
            result.distance = row.agreement.distance(ours, theirs)
    except ValueError as error:
        return result.give_up("mismatch", str(error))
    if not row.agreement.holds(result.distance):
        allowed = f"at most {row.agreement.tolerance:g} is allowed"
        result.give_up("mismatch", f"{result.distance:.3g} from {row.oracle.name}, {allowed}")


def _time(session: Session, repeat: int, random: Random, log: Log) -> None:
    """In each round every configuration once, in a shuffled order."""
    row = session.row
    for number in range(repeat):
        turn = [result for result in session.results if result.runs]
        random.shuffle(turn)
        session.order.append([result.configuration.name for result in turn])
        for result in turn:
            log(f"{row.name}: round {number + 1} of {repeat}, {result.configuration.name}")
            reply = _attempt(row, result, warmup=row.warmup, min_seconds=row.min_seconds)
            if reply:
                result.seconds.append(reply["seconds"])
                result.figures.append(reply["figures"])


def _attempt(row: Row, result: Result, **spec: Any) -> dict[str, Any]:
    try:
        return work(result.configuration, row.timeout, **spec)
    except Unable as error:
        result.give_up("failed", str(error))
        return {}
