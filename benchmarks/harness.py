"""Running rows: compare the outputs, then time all configurations in shuffled rounds."""

from collections.abc import Callable, Sequence
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


Part = tuple[Session, Result]


def run_row(row: Row, repeat: int, seed: int, peers: bool = True, log: Log = print) -> Session:
    """Compare and time one row; its rounds are shuffled by `seed` and the row's name."""
    return run_rows([row], repeat, seed, peers, log)[0]


def run_rows(rows: Sequence[Row], repeat: int, seed: int, peers: bool = True, log: Log = print) -> list[Session]:
    """Compare and time the rows of one group, or a single row; rounds are shuffled by `seed` and the name."""
    sessions = [Session(row, [Result(configuration) for configuration in row.configurations], []) for row in rows]
    for session in sessions:
        for result in session.results:
            if session.row.blocked:
                result.give_up("blocked", session.row.blocked)
            elif result.configuration.role == "peer" and not peers:
                result.give_up("skipped", "peers are left out on request")
    _compare(sessions, log)
    _time(sessions, repeat, Random(f"{seed}:{_name(rows[0])}"), log)
    return sessions


def _name(row: Row) -> str:
    return row.group or row.name


def _running(sessions: list[Session], timed: bool) -> list[list[Part]]:
    """What runs, those that share a process together."""
    shared: dict[tuple[Any, ...], list[Part]] = {}
    for session in sessions:
        for result in session.results:
            if result.runs and not (timed and result.configuration.role == "oracle"):
                shared.setdefault(result.configuration.process, []).append((session, result))
    return list(shared.values())


def _compare(sessions: list[Session], log: Log) -> None:
    """Run every configuration once, untimed, and compare its outputs with the oracle's."""
    STORE.mkdir(exist_ok=True)
    with TemporaryDirectory(dir=STORE, prefix="outputs-") as folder:

        def file(session: Session, configuration: Configuration) -> Path:
            return Path(folder, f"{sessions.index(session)}-{session.row.configurations.index(configuration)}.npz")

        for parts in _running(sessions, timed=False):
            log(f"{_name(parts[0][0].row)}: comparing {parts[0][1].configuration.name}")
            replies = _attempt(parts, [{"outputs": str(file(part[0], part[1].configuration))} for part in parts])
            if len(parts) == 1:  # of a process that does more, the peak is none of theirs
                parts[0][1].peak_memory = replies[0].get("peak_memory")
        for session in sessions:
            expected = file(session, session.row.oracle)
            for result in session.results:
                own = file(session, result.configuration)
                if result.runs and result.configuration.role != "unit" and own != expected:
                    _judge(session.row, result, own, expected)


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


def _time(sessions: list[Session], repeat: int, random: Random, log: Log) -> None:
    """In each round every configuration once, in a shuffled order."""
    for number in range(repeat):
        turn = _running(sessions, timed=True)
        random.shuffle(turn)
        for session in sessions:
            session.order.append(
                [result.configuration.name for parts in turn for own, result in parts if own is session]
            )
        for parts in turn:
            row, configuration = parts[0][0].row, parts[0][1].configuration
            log(f"{_name(row)}: round {number + 1} of {repeat}, {configuration.name}")
            tasks = [{"warmup": part[0].row.warmup, "min_seconds": part[0].row.min_seconds} for part in parts]
            for (_, result), reply in zip(parts, _attempt(parts, tasks), strict=True):
                if reply:
                    result.seconds.append(reply["seconds"])
                    result.figures.append(reply["figures"])


def _attempt(parts: list[Part], tasks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Do the tasks in one process; the reply of one that failed is empty."""
    configurations = [result.configuration for _, result in parts]
    tasks = [
        {"setup": configuration.setup, "params": configuration.params, **task}
        for configuration, task in zip(configurations, tasks, strict=True)
    ]
    try:
        replies = work(configurations[0], sum(session.row.timeout for session, _ in parts), tasks)
    except Unable as error:
        replies = [{"error": str(error)}] * len(parts)
    for (_, result), reply in zip(parts, replies, strict=True):
        if "error" in reply:
            result.give_up("failed", reply["error"])
    return [{} if "error" in reply else reply for reply in replies]
