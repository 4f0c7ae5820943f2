"""Training of style networks: `afterimage style-train --style starry.jpg --content photos/ net.safetensors`.

FILE.safetensors               the network, with its styles' names and how it was made (`StyleNet.about`)
FILE.training/config.json      what has to be equal for the training to go on
FILE.training/checkpoint.safetensors
FILE.training/samples/         held-out photographs painted after so many steps
FILE.training/index.html       the page: learning curves and samples
"""

import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import click
import torch
from PIL import Image

from afterimage.errors import RefusedError
from afterimage.images.style_measure import held_out_loss, worth
from afterimage.images.style_training import Course
from afterimage.models.style.net import StyleNet, save_style_net
from afterimage.registry import options_of

from .crops import Crops
from .files import locked, write_whole
from .job import versions
from .pages.training import write_training_page
from .results import levels
from .style_work import Say, Training, Work, set_up

SHOWN = 4
"""Held-out pictures that samples show."""


class Trained(NamedTuple):
    """What came of a training."""

    file: Path
    page: Path
    finished: bool
    """False where it was interrupted: there is a checkpoint, and no network yet."""
    about: dict[str, Any]


def train(file: str | Path, say: Say = lambda line: None, **given: Any) -> Trained:
    """Train a style network and save it; `given` are the fields of `Training`, `say` is told of progress.

    A training that was interrupted, by Ctrl-C or a kill, goes on from its last checkpoint. Raises UsageError for what
    cannot be done, and RefusedError where FILE.training holds a training with other settings.
    """
    work = set_up(Training(**given), Path(file).absolute(), say)
    with locked(work.folder / ".lock", wait=False) as alone:
        if not alone:
            raise RefusedError(f"{work.folder} is being trained by another process; wait, or name another FILE")
        return _train(work)


def _train(work: Work) -> Trained:
    work.resume()
    began, say = work.course.done, work.say
    crops = Crops(work.content, work.chosen.crop, work.chosen.batch_size, work.chosen.seed, say)
    watch = _Watch(work, crops)
    with _interruptible() as stopped, crops.ahead(began, work.chosen.steps) as take:
        watch.stopped = stopped
        work.course.run(lambda step: take(step).to(work.device), watch)
    watch.tell()
    work.save()
    page = _page(work)
    if work.course.done < work.chosen.steps:
        return Trained(work.file, page, False, {})
    return Trained(work.file, page, True, _finish(work))


def sample_steps(steps: int) -> list[int]:
    """Return after which steps samples are painted: early on and at the end."""
    return sorted({max(1, steps // part) for part in (64, 16, 4, 2, 1)})


class _Watch:
    """What happens between steps: lines, checkpoints, samples, the page."""

    EVERY = 60.0
    """Seconds between checkpoints."""
    LINES = 10.0
    """Seconds between lines."""

    def __init__(self, work: Work, crops: Crops) -> None:
        self.work, self.crops = work, crops
        self.first, self.begun = work.course.done, time.perf_counter()
        self.saved = self.told = self.begun
        self.stopped: list[int] = []

    def __call__(self, course: Course) -> bool:
        """Do what is due after a step; return whether to stop."""
        now = time.perf_counter()
        if course.done in sample_steps(course.recipe.steps):
            _sample(self.work)
            _page(self.work)
        if now - self.told >= self.LINES:
            self.tell()
        if now - self.saved >= self.EVERY:
            self.saved = now
            self.work.save()
            _page(self.work)
        return bool(self.stopped)

    def tell(self) -> None:
        """Tell the last steps' mean losses, the speed, and how long the loop has waited for pictures."""
        course, now = self.work.course, time.perf_counter()
        self.told = now
        if (taken := course.done - self.first) < 1:
            return
        content, style, tv, _ = course.losses[max(0, course.done - 50) : course.done].mean(0).tolist()
        spent = now - self.begun
        self.work.say(
            f"step {course.done}/{course.recipe.steps}  content {content:.3f}  style {style:.3f}  tv {tv:.3f}  "
            f"{spent / taken:.2f} s a step, {self.crops.waited / spent:.1%} of it waiting for pictures"
        )


def _page(work: Work) -> Path:
    return write_training_page(work.folder, work.config, work.course.losses[: work.course.done])


@contextmanager
def _interruptible() -> Iterator[list[int]]:
    """Give a list that an interrupt is put into; a second one interrupts at once."""
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return

    def catch(number: int, frame: Any) -> None:
        if caught:
            raise KeyboardInterrupt
        caught.append(number)

    before = {number: signal.signal(number, catch) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@torch.no_grad()
def _sample(work: Work) -> None:
    """Paint held-out photographs in each style: a row for each, the photograph first."""
    net, rows = work.course.net.eval(), []
    for photograph in list(work.held_out.values())[:SHOWN]:
        shown = photograph.to(work.device)
        shares = torch.eye(len(net.styles), device=work.device)
        rows.append(torch.cat([shown, *(net(shown, one[None]) for one in shares)], 3))
    net.train()
    picture = Image.fromarray(levels(torch.cat(rows, 2)[0].cpu()))
    path = work.folder / "samples" / f"{work.course.done:07}.png"
    write_whole(path, lambda temporary: picture.save(temporary, "png"))


def _finish(work: Work) -> dict[str, Any]:
    """Measure the network, and save it with what is known of it."""
    net = work.course.net.eval()
    photographs = torch.cat(list(work.held_out.values())).to(work.device)
    about: dict[str, Any] = {
        **work.config,
        "held_out_loss": held_out_loss(net, work.course.perception, photographs)._asdict(),
        "versions": versions(),
    }
    if work.chosen.compare:
        found = worth(net, work.course.perception, photographs, work.chosen.compare, work.say)
        about["worth"] = {name: one._asdict() for name, one in found.items()}
    painted = StyleNet(net.width, net.styles, about)
    painted.load_state_dict(net.state_dict())
    write_whole(work.file, lambda temporary: save_style_net(painted, temporary))
    return about


def command() -> click.Command:
    """Return the command `style-train`."""
    from .cli import click_option

    def run(file: str, **given: Any) -> None:
        found = train(file, lambda line: click.echo(line, err=True), **given)
        click.echo(f"page: {found.page}")
        if not found.finished:
            click.echo("interrupted: the same command goes on from here", err=True)
            raise KeyboardInterrupt
        losses = ", ".join(f"{name} {value:.3f}" for name, value in found.about["held_out_loss"].items())
        click.echo(f"{found.file}: held-out loss {losses}")
        for name, one in found.about.get("worth", {}).items():
            steps = f"above {one['limit']}" if one["steps"] is None else one["steps"]
            click.echo(f"worth {steps} steps of {name}")

    flags: Sequence[Any] = [click_option(one) for one in options_of(Training)]
    return click.Command(
        "style-train",
        callback=run,
        params=[click.Argument(["file"], metavar="FILE.safetensors"), *flags],
        help="Train a network that paints any photograph in a style, in one pass.\n\n"
        "Johnson, Alahi, Li, Perceptual losses for real-time style transfer, 2016 (arXiv:1603.08155). Several styles "
        "share one network. An interrupted training goes on where the same command is given again.",
        no_args_is_help=True,
    )
