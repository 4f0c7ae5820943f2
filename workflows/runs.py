"""A method over a data set: plan, compute the missing shards, write the page."""

import dataclasses
import shutil
import signal
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from afterimage.errors import RefusedError
from afterimage.registry import method

from . import manifest
from .cluster import Call, Task, connected, distributed_network, serial, through
from .files import locked
from .forks import warm_up
from .job import record
from .pages.write import write_pages
from .plan import Plan, plan_run
from .progress import Report, Silent, reporting
from .settings import Settings, divided
from .shards import Commit, committed
from .staging import FOLDER, forget_staged
from .task import STOP, run_shard
from .underway import forget, images_under_way

Executor = Callable[[Task, Iterable[Call], threading.Event], Iterator[Commit]]


@dataclass(frozen=True)
class Summary:
    """What came of a run: rows by status, seconds, CPU seconds by stage, where the page is."""

    job: str
    folder: str
    page: str | None
    total: int
    statuses: Mapping[str, int]
    computed: int
    shards: int
    predicted_bytes: int
    seconds: float
    startup_seconds: float
    cpu_seconds: Mapping[str, float]
    interrupted: bool

    @property
    def failed(self) -> int:
        """The number of rows whose status is not ok."""
        return sum(count for status, count in self.statuses.items() if status != "ok")


def run(
    verb: str,
    inputs: str | int | Path | Sequence[str | int | Path],
    out: str | Path,
    *,
    progress: bool = False,
    executor: Executor | None = None,
    **given: Any,
) -> Summary:
    """Run a method over images and write tables, pictures and a page below `out`.

    `inputs` are folders, globs, list files or files; for a method that makes pictures of classes and neurons they are
    these. `given` are the fields of `Settings`, the method's options and the pictures that its call takes by name.
    With `progress` the run reports on standard error. `executor=serial` computes in this process instead of on a Dask
    cluster. Raises `UsageError` for what cannot be done and `RefusedError` where `out` holds another run. Scripts
    that call it need ``if __name__ == "__main__":``, as all programs that start processes.
    """
    start = time.monotonic()
    found = method(verb)
    asked = divided(found, given)
    settings = asked.settings
    if executor is None and settings.scheduler is None and not settings.dry_run:
        warm_up()
    given_inputs = [inputs] if isinstance(inputs, str | int | Path) else inputs
    sources = [str(one) if isinstance(one, int) else one for one in given_inputs]
    say = _say if progress else _hush
    plan = plan_run(found, settings, asked.options, sources, Path(out).absolute(), say, asked.named)
    if settings.dry_run:
        return _summary(plan, {}, 0, start, 0.0, None, False)
    with locked(plan.folder / ".lock", wait=False) as free:
        if not free:
            raise RefusedError(f"another process is writing {plan.folder}; wait for it, or use --name NAME")
        return _carry_out(plan, settings, start, progress, executor)


def _carry_out(plan: Plan, settings: Settings, start: float, progress: bool, executor: Executor | None) -> Summary:
    clock: defaultdict[str, float] = defaultdict(float)
    first, computed = 0.0, 0
    under_way = partial(images_under_way, plan.folder / "shards")
    reports = reporting(len(plan.table), plan.done, under_way) if progress else nullcontext(Silent())
    with (
        reports as report,
        _draining(plan.folder / STOP, report) as stop,
        _executing(plan, settings, report, executor) as execute,
    ):
        _begin(plan, settings)
        for commit in execute(run_shard, plan.calls(), stop):
            first = first or time.monotonic() - start
            computed += commit.rows
            for stage, seconds in commit.cpu_seconds.items():
                clock[stage] += seconds
            report.advance(commit.statuses)
        page = write_pages(plan.folder.parent)
        return _summary(plan, clock, computed, start, first, page, stop.is_set())


def _begin(plan: Plan, settings: Settings) -> None:
    """Write down what the run is, after all that could have gone wrong before it."""
    out, shards = plan.folder.parent, plan.folder / "shards"
    if settings.mode == "overwrite":
        (plan.folder / "run.json").unlink(missing_ok=True)
        for folder in (shards, plan.folder / FOLDER):
            if folder.exists():
                shutil.rmtree(folder)
    forget(shards)
    forget_staged(plan.folder)
    with locked(out / ".lock"):
        if len(manifest.parts(out)) != plan.inputs.written:
            raise RefusedError(f"another run has begun in {out} meanwhile; run the command again")
        if plan.inputs.new is not None:
            manifest.write(out, plan.inputs.new, afresh=settings.mode == "overwrite")
    record(plan.folder, plan.job, manifest.digest(plan.table), settings.mode == "extend")


@contextmanager
def _executing(plan: Plan, settings: Settings, report: Report, executor: Executor | None) -> Iterator[Executor]:
    """Yield what runs the shards: the executor given, or a Dask cluster, if there is anything to run."""
    if executor is not None or not plan.generations:
        yield executor or serial
        return
    where = settings.scheduler, settings.workers, plan.job.threads, plan.job.device
    with connected(*where, len(plan.generations), report.say) as client:
        pickled, sha256 = plan.pickled, plan.job.model.digest
        with nullcontext() if pickled is None else distributed_network(client, pickled, sha256):
            yield partial(through, client)


def _summary(
    plan: Plan,
    clock: Mapping[str, float],
    computed: int,
    start: float,
    first: float,
    page: Path | None,
    interrupted: bool,
) -> Summary:
    statuses: Counter[str] = Counter()
    for commit in committed(plan.folder / "shards").values():
        statuses.update(commit.statuses)
    return Summary(
        job=plan.folder.name,
        folder=str(plan.folder),
        page=None if page is None else str(page),
        total=len(plan.table),
        statuses=dict(statuses.most_common()),
        computed=computed,
        shards=len(plan.generations),
        predicted_bytes=plan.predicted_bytes,
        seconds=round(time.monotonic() - start, 3),
        startup_seconds=round(first, 3),
        cpu_seconds={stage: round(seconds, 3) for stage, seconds in clock.items()},
        interrupted=interrupted,
    )


@contextmanager
def _draining(file: Path, report: Report) -> Iterator[threading.Event]:
    """Let the first interrupt end the run cleanly, after the shards under way; the second ends it at once.

    `file` asks the tasks that wait on the workers not to begin.
    """
    stop = threading.Event()
    file.unlink(missing_ok=True)
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def drain(number: int, frame: Any) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        file.touch()
        report.say("interrupted: finishing the shards under way; once more to stop at once")

    before = {number: signal.signal(number, drain) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        file.unlink(missing_ok=True)
        for number, handler in before.items():
            signal.signal(number, handler)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _hush(line: str) -> None:
    return None


def as_json(summary: Summary) -> dict[str, Any]:
    """Return a summary as JSON values."""
    return dataclasses.asdict(summary) | {"failed": summary.failed}
