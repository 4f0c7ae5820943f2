"""Progress on standard error: one live bar in a terminal, plain lines elsewhere; data stays on standard output."""

import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)

SECONDS_BETWEEN_LINES = 10.0
SECONDS_BETWEEN_LOOKS = 1.0
SECONDS_OF_SPEED = 300.0
"""The time left follows from the last minutes: a slow method's images come many seconds apart."""


Told = Callable[[int, int], None]
"""Told how much is done, and of how much."""


class Report(Protocol):
    """What a run tells while it goes on."""

    def say(self, line: str) -> None:
        """Tell one fact."""

    def advance(self, statuses: Mapping[str, int]) -> None:
        """Count rows that were committed, by status."""

    def part(self, what: str) -> Told:
        """Return what is told, of work that follows the images, how much of how much is done."""


class Silent:
    """Tells nothing."""

    def say(self, line: str) -> None:
        """Tell nothing."""

    def advance(self, statuses: Mapping[str, int]) -> None:
        """Count nothing."""

    def part(self, what: str) -> Told:
        """Return what tells nothing."""
        return lambda done, total: None


class _Counting:
    def __init__(self, total: int, done: Mapping[str, int]) -> None:
        self.total, self.statuses = total, Counter(done)
        self.start, self.before = time.monotonic(), sum(done.values())
        self.done: float = self.before

    def count(self, statuses: Mapping[str, int], under_way: float = 0) -> None:
        """Count rows that were committed, and images of shards that are not; what was shown is not taken back."""
        self.statuses.update(statuses)
        self.done = max(self.done, min(self.total, sum(self.statuses.values()) + under_way))

    def rate(self) -> float:
        """Rows per second since this process began, those of an earlier one left out."""
        return (self.done - self.before) / max(1e-9, time.monotonic() - self.start)

    def failures(self) -> str:
        """The most frequent failures, as in ``3 decode_failed, 1 missing``."""
        failed = [(status, count) for status, count in self.statuses.most_common() if status != "ok" and count]
        return ", ".join(f"{count} {status}" for status, count in failed[:3])


def speed(rate: float) -> str:
    """Return images per second, or below one a second the seconds that each takes."""
    return f"{rate:.1f}/s" if rate >= 1 or rate <= 0 else f"{1 / rate:.1f} s each"


def _number(images: float) -> str:
    """Return a number of images, of which the last may be half done."""
    return f"{images:,.0f}" if images == int(images) else f"{images:,.1f}"


class Lines:
    """Plain lines, one every few seconds."""

    def __init__(self, total: int, done: Mapping[str, int]) -> None:
        self._counting, self._last = _Counting(total, done), time.monotonic()

    def say(self, line: str) -> None:
        """Write one line."""
        print(line, file=sys.stderr, flush=True)

    def advance(self, statuses: Mapping[str, int]) -> None:
        """Write how far the run is, if the last such line is some seconds old or this is the end."""
        self._counting.count(statuses)
        self._write(sum(self._counting.statuses.values()) >= self._counting.total)

    def glance(self, under_way: float) -> None:
        """Write how far the run is, images of shards under way included, if the last such line is some seconds old."""
        self._counting.count({}, under_way)
        if self._counting.done > self._counting.before:
            self._write(False)

    def part(self, what: str) -> Told:
        """Return what writes how far the part is, every few seconds and at its end."""

        def tell(done: int, total: int) -> None:
            if self._due(done == total):
                self.say(f"{done:,} of {total:,} {what}")

        return tell

    def _due(self, last: bool) -> bool:
        now = time.monotonic()
        if now - self._last < SECONDS_BETWEEN_LINES and not last:
            return False
        self._last = now
        return True

    def _write(self, last: bool) -> None:
        if not self._due(last):
            return
        done, rate = self._counting.done, self._counting.rate()
        left, failures = (self._counting.total - done) / max(rate, 1e-9), self._counting.failures()
        self.say(
            f"{_number(done)} of {self._counting.total:,} images, {speed(rate)}, {left:.0f} s left"
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
        self._counting.count(statuses)
        self._move()

    def glance(self, under_way: float) -> None:
        """Move the bar by the images of shards under way."""
        self._counting.count({}, under_way)
        self._move()

    def part(self, what: str) -> Told:
        """Return what moves a bar of the part's own, below."""
        task = self._progress.add_task(what, total=None, rate="", failures="")

        def tell(done: int, total: int) -> None:
            self._progress.update(task, completed=done, total=total)

        return tell

    def _move(self) -> None:
        done, failures, rate = self._counting.done, self._counting.failures(), speed(self._counting.rate())
        self._progress.update(self._task, completed=done, rate=rate, failures=failures and f"failed: {failures}")


@contextmanager
def reporting(total: int, done: Mapping[str, int], under_way: Callable[[], float]) -> Iterator[Report]:
    """Report on standard error in the form that fits it; `under_way` counts the images of shards not yet committed."""
    console = Console(stderr=True)
    if not console.is_terminal:
        lines = Lines(total, done)
        with _looking(lines, under_way):
            yield lines
        return
    left = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), MofNCompleteColumn())
    right = (TextColumn("{task.fields[rate]}"), TimeRemainingColumn(), TextColumn("{task.fields[failures]}"))
    live = Progress(*left, *right, console=console, transient=True, speed_estimate_period=SECONDS_OF_SPEED)
    with live as progress:
        bar = Bar(progress, total, done)
        with _looking(bar, under_way):
            yield bar


@contextmanager
def _looking(report: Lines | Bar, under_way: Callable[[], float]) -> Iterator[None]:
    """Look every second how far the shards under way are."""
    over = threading.Event()

    def look() -> None:
        while not over.wait(SECONDS_BETWEEN_LOOKS):
            report.glance(under_way())

    thread = threading.Thread(target=look, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
