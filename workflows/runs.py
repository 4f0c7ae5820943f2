"""A method over a data set: plan, compute the missing shards, write the page."""

import dataclasses
import shutil
import signal
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

from afterimage.errors import RefusedError, UsageError
from afterimage.registry import Method, method

from . import manifest
from .beside import Also, beside
from .cluster import Call, Task, connected, distributed_network, serial, through
from .comparison import Found, compare
from .derived import open_derived
from .files import locked, write_whole
from .forks import warm_up
from .inputs import Say
from .job import record
from .named import FOLDER as NAMED
from .named import pixels_of
from .neuron_patches import name_of, neurons
from .pages.write import write_pages
from .plan import Plan, check_disk, plan_beside, plan_run
from .progress import Report, Silent, reporting
from .results import bounded, jpeg
from .settings import Settings, divided
from .shards import Commit, committed
from .staging import FOLDER as PICTURES
from .staging import forget_staged
from .sweeps import Axis, Sweep, axes_of, combinations, job_names
from .task import STOP, run_shard
from .underway import forget, images_under_way

Executor = Callable[[Task, Iterable[Call], threading.Event], Iterator[Commit]]
"""Runs the calls of a task until it is asked to stop, and yields what they commit."""


@dataclass(frozen=True)
class Summary:
    """What came of a run: rows by status, seconds, CPU seconds by stage, where the page is.

    Of a sweep, that of all its jobs together, and of each what `compare` found.
    """

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
    sweep: tuple[Found, ...] = ()

    @property
    def failed(self) -> int:
        """The number of rows whose status is not ok."""
        return sum(count for status, count in self.statuses.items() if status != "ok")


def run(
    verb: str,
    inputs: str | int | Path | Sequence[str | int | Path],
    out: str | Path,
    /,  # a method may have an option of these names
    *,
    sweep: Sweep | None = None,
    also: Also | None = None,
    progress: bool = False,
    executor: Executor | None = None,
    **given: Any,
) -> Summary:
    """Run a method over images and write tables, pictures and a page below `out`.

    `inputs` are folders, globs, list files or files; for a method that makes pictures of classes and neurons they are
    these. `given` are the fields of `Settings`, the method's options and the pictures that its call takes by name.
    `sweep` has several values for one option or two: a job for each combination, and a sheet of them for each input.
    `also` names methods that share the decoding and, where that is possible, the forward passes, as
    ``"saliency,patches:layer=layer3"`` or as options by verb: each is a job of its own, named by its verb.
    With `progress` the run reports on standard error. `executor=serial` computes in this process instead of on a Dask
    cluster. Raises `UsageError` for what cannot be done and `RefusedError` where `out` holds another run. Scripts
    that call it need ``if __name__ == "__main__":``, as all programs that start processes.
    """
    start = time.monotonic()
    found = method(verb)
    settings = divided(found, given).settings
    if executor is None and settings.scheduler is None and not settings.dry_run:
        warm_up()
    axes = axes_of(found, sweep, settings.max_pixels)
    sources = [inputs] if isinstance(inputs, str | int | Path) else inputs
    base = Path(out).absolute() / (settings.name or found.verb)
    say = _say if progress else _hush
    plans = _plans(found, given, [*map(_text, sources)], base, axes, say)
    if also and axes:
        raise UsageError("with: a sweep shares no passes with other methods; run one after the other")
    plans += [plan_beside(plans[0], other, asked.settings, asked.options) for other, asked in beside(also, given)]
    check_disk(base.parent, sum(plan.predicted_bytes for plan in plans))
    if len({plan.folder for plan in plans}) < len(plans):
        raise UsageError("with: expected each method once; --name gives the first one another name")
    if settings.dry_run:
        return _summary(base, plans, {}, 0, start, 0.0, None, False)
    with ExitStack() as stack:
        for plan in plans:
            if not stack.enter_context(locked(plan.folder / ".lock", wait=False)):
                raise RefusedError(f"another process is writing {plan.folder}; wait for it, or use --name NAME")
        return _carry_out(base, plans, axes, settings, start, progress, executor)


def _text(source: str | int | Path) -> str | Path:
    return str(source) if isinstance(source, int) else source


def _plans(
    found: Method, given: dict[str, Any], sources: Sequence[str | Path], base: Path, axes: Sequence[Axis], say: Say
) -> list[Plan]:
    """Plan the job, or each of a sweep's, which share the network and the inputs."""
    if not axes:
        asked = divided(found, given)
        return [plan_run(found, asked.settings, asked.options, sources, base.parent, say, asked.named)]
    plans: list[Plan] = []
    jobs = list(zip(job_names(base.name, axes), combinations(axes), strict=True))
    for name, values in jobs:
        asked = divided(found, {**given, **values, "name": name})
        loaded = plans[0].loaded if plans else None
        given_to = found, asked.settings, asked.options, sources, base.parent, _hush if plans else say
        plans.append(plan_run(*given_to, asked.named, loaded, len(jobs)))
    return plans


def _carry_out(
    base: Path,
    plans: Sequence[Plan],
    axes: Sequence[Axis],
    settings: Settings,
    start: float,
    progress: bool,
    executor: Executor | None,
) -> Summary:
    clock: defaultdict[str, float] = defaultdict(float)
    first, computed = 0.0, 0
    with (
        _reporting(plans) if progress else nullcontext(Silent()) as report,
        _draining([plan.folder / STOP for plan in plans], report) as stop,
        _executing(plans, settings, report, executor) as execute,
    ):
        _begin(plans, settings)
        for commit in execute(run_shard, _calls(plans, axes), stop):
            first = first or time.monotonic() - start
            computed += commit.rows
            for stage, seconds in commit.cpu_seconds.items():
                clock[stage] += seconds
            report.advance(commit.statuses)
        compared = tuple(compare(base, plans, axes)) if axes and not stop.is_set() else ()
        page = write_pages(base.parent)
        if not stop.is_set():
            _show_neurons(plans, report)
        return _summary(base, plans, clock, computed, start, first, page, stop.is_set(), compared)


def _show_neurons(plans: Sequence[Plan], report: Report) -> None:
    """Draw what jobs of patches found, unless that was done."""
    for plan in (plan for plan in plans if plan.job.result.name == "peaks"):
        out, job = plan.folder.parent, plan.folder.name
        there = open_derived(out, name_of(job))
        anything = any(commit.statuses.get("ok") for commit in committed(plan.folder / "shards").values())
        if anything and (there is None or there.outdated):
            drawn = neurons(out, model=plan.loaded.network, progress=report.part("neurons"), patches=job)
            report.say(f"neurons: {drawn.page}")


def _calls(plans: Sequence[Plan], axes: Sequence[Axis]) -> Iterator[Call]:
    """Yield the tasks: of a sweep, those of each job; else all jobs share their passes over the images."""
    if axes:
        return chain.from_iterable(plan.calls() for plan in plans)
    return plans[0].calls(plans[1:])


def _reporting(plans: Sequence[Plan]) -> AbstractContextManager[Report]:
    done: Counter[str] = Counter()
    for plan in plans:
        done.update(plan.done)
    total = sum(len(plan.table) for plan in plans)
    return reporting(total, done, lambda: sum(images_under_way(plan.folder / "shards") for plan in plans))


def _begin(plans: Sequence[Plan], settings: Settings) -> None:
    """Write down what the run is, after all that could have gone wrong before it."""
    out, inputs = plans[0].folder.parent, plans[0].inputs
    for plan in plans:
        if settings.mode == "overwrite":
            (plan.folder / "run.json").unlink(missing_ok=True)
            for folder in (plan.folder / "shards", plan.folder / PICTURES):
                if folder.exists():
                    shutil.rmtree(folder)
        forget(plan.folder / "shards")
        forget_staged(plan.folder)
    with locked(out / ".lock"):
        if len(manifest.parts(out)) != inputs.written:
            raise RefusedError(f"another run has begun in {out} meanwhile; run the command again")
        if inputs.new is not None:
            manifest.write(out, inputs.new, afresh=settings.mode == "overwrite")
    for plan in plans:
        record(plan.folder, plan.job, manifest.digest(plan.table), settings.mode == "extend")
        for number, one in enumerate(plan.job.named):
            small = jpeg(bounded(pixels_of(one, plan.job.max_pixels)))
            write_whole(plan.folder / NAMED / f"{number}.jpg", partial(_write, small))


def _write(data: bytes, path: Path) -> None:
    path.write_bytes(data)


@contextmanager
def _executing(
    plans: Sequence[Plan], settings: Settings, report: Report, executor: Executor | None
) -> Iterator[Executor]:
    """Yield what runs the shards: the executor given, or a Dask cluster, if there is anything to run."""
    shards = sum(len(plan.generations) for plan in plans)
    if executor is not None or not shards:
        yield executor or serial
        return
    job, pickled = plans[0].job, plans[0].loaded.pickled
    where = settings.scheduler, settings.workers, job.threads, job.device
    with (
        connected(*where, shards, report.say, 1 if job.method.makes_images else 2) as client,
        nullcontext() if pickled is None else distributed_network(client, pickled, job.model.digest),
    ):
        yield partial(through, client)


def _summary(
    base: Path,
    plans: Sequence[Plan],
    clock: Mapping[str, float],
    computed: int,
    start: float,
    first: float,
    page: Path | None,
    interrupted: bool,
    compared: tuple[Found, ...] = (),
) -> Summary:
    statuses: Counter[str] = Counter()
    for commit in (commit for plan in plans for commit in committed(plan.folder / "shards").values()):
        statuses.update(commit.statuses)
    return Summary(
        job=base.name,
        folder=str(base),
        page=None if page is None else str(page),
        total=sum(len(plan.table) for plan in plans),
        statuses=dict(statuses.most_common()),
        computed=computed,
        shards=sum(len(plan.generations) for plan in plans),
        predicted_bytes=sum(plan.predicted_bytes for plan in plans),
        seconds=round(time.monotonic() - start, 3),
        startup_seconds=round(first, 3),
        cpu_seconds={stage: round(seconds, 3) for stage, seconds in clock.items()},
        interrupted=interrupted,
        sweep=compared,
    )


@contextmanager
def _draining(files: Sequence[Path], report: Report) -> Iterator[threading.Event]:
    """Let the first interrupt end the run cleanly, after the shards under way; the second ends it at once.

    `files` ask the tasks that wait on the workers not to begin.
    """
    stop = threading.Event()
    for file in files:
        file.unlink(missing_ok=True)
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def drain(number: int, frame: Any) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()
        for file in files:
            file.touch()
        report.say("interrupted: finishing the shards under way; once more to stop at once")

    before = {number: signal.signal(number, drain) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for file in files:
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
