"""Progress on standard error: one live bar in a terminal, plain lines elsewhere; data stays on standard output."""

import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

SECONDS_BETWEEN_LINES = 10.0


class Report(Protocol):
    """What a run tells while it goes on."""

    def say(self, line: str) -> None:
        """Tell one fact."""

    def advance(self, statuses: Mapping[str, int]) -> None:
        """Count rows that were committed, by status."""


class Silent:
    """Tells nothing."""

    def say(self, line: str) -> None:
        """Tell nothing."""

    def advance(self, statuses: Mapping[str, int]) -> None:
        """Count nothing."""


class _Counting:
    def __init__(self, total: int, done: Mapping[str, int]) -> None:
        self.total, self.statuses = total, Counter(done)
        self.start, self.before = time.monotonic(), sum(done.values())

    def count(self, statuses: Mapping[str, int]) -> int:
        self.statuses.update(statuses)
        return sum(self.statuses.values())

    def rate(self) -> float:
        """Rows per second since this process began, those of an earlier one left out."""
        return (sum(self.statuses.values()) - self.before) / max(1e-9, time.monotonic() - self.start)

    def failures(self) -> str:
        """The most frequent failures, as in ``3 decode_failed, 1 missing``."""
        failed = [(status, count) for status, count in self.statuses.most_common() if status != "ok" and count]
        return ", ".join(f"{count} {status}" for status, count in failed[:3])


class Lines:
    """Plain lines, one every few seconds."""

    def __init__(self, total: int, done: Mapping[str, int]) -> None:
        self._counting, self._last = _Counting(total, done), time.monotonic()

    def say(self, line: str) -> None:
        """Write one line."""
        print(line, file=sys.stderr, flush=True)

    def advance(self, statuses: Mapping[str, int]) -> None:
        """Write how far the run is, if the last such line is some seconds old."""
        done = self._counting.count(statuses)
        now = time.monotonic()
        if now - self._last < SECONDS_BETWEEN_LINES and done < self._counting.total:
            return
        self._last = now
        rate = self._counting.rate()
        left = (self._counting.total - done) / max(rate, 1e-9)
        failures = self._counting.failures()
        self.say(
            f"{done:,} of {self._counting.total:,} images, {rate:.1f}/s, {left:.0f} s left"
            + (f", failed: {failures}" if failures else "")
        )


class Bar:
    """One live bar with rate, time left and the most frequent failures."""

    def __init__(self, progress: Progress, total: int, done: Mapping[str, int]) -> None:
        self._progress, self._counting = progress, _Counting(total, done)
        self._task = progress.add_task("images", total=total, completed=sum(done.values()), rate="", failures="")

    def say(self, line: str) -> None:
        """Write one line above the bar."""
        self._progress.console.print(line, markup=False, highlight=False)

    def advance(self, statuses: Mapping[str, int]) -> None:
        """Move the bar."""
        done, failures = self._counting.count(statuses), self._counting.failures()
        rate = f"{self._counting.rate():.1f}/s"
        self._progress.update(self._task, completed=done, rate=rate, failures=failures and f"failed: {failures}")


@contextmanager
def reporting(total: int, done: Mapping[str, int]) -> Iterator[Report]:
    """Report on standard error in the form that fits it."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield Lines(total, done)
        return
    left = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    right = (TextColumn("{task.fields[rate]}"), TimeRemainingColumn(), TextColumn("{task.fields[failures]}"))
    with Progress(*left, *right, console=console, transient=True) as progress:
        yield Bar(progress, total, done)
