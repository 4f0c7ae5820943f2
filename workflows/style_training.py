"""Training of style networks: `afterimage style-train --style starry.jpg --content photos/ net.safetensors`.

FILE.safetensors               the network, with its styles' names and how it was made (`StyleNet.about`)
FILE.training/config.json      what has to be equal for the training to go on
FILE.training/checkpoint.safetensors
FILE.training/samples/         held-out photographs painted after so many steps
FILE.training/index.html       the page: learning curves and samples
"""

import json
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import click
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from afterimage.errors import RefusedError, UsageError
from afterimage.images.perceptual import Perception, Weights
from afterimage.images.style_measure import held_out_loss, worth
from afterimage.images.style_training import Course, Recipe, untrained
from afterimage.models.network import Network
from afterimage.models.style.net import LEAST, StyleNet, save_style_net
from afterimage.models.zoo import digest, load_model
from afterimage.registry import check_options, option, options_of

from . import manifest
from .crops import Crops, middle
from .decode import MAX_PIXELS, ImageError, decode, read
from .files import digest_file, locked, write_json, write_whole
from .job import compute_with, refuse_other, resolved_device, sha256_of, versions
from .manifest import Item, path_of
from .pages.training import write_training_page
from .results import levels

Say = Callable[[str], None]
MEASURED = 4
"""Content pictures that are kept aside where no held-out ones are given."""
SHOWN = 4
"""Held-out pictures that samples show."""


@dataclass(frozen=True)
class Training:
    """What can be chosen about a training."""

    style: str = option("", "pictures whose style is learned, a.jpg,b.jpg or NAME=FILE; names default to the files'")
    content: str = option("", "photographs to train on: folder, glob, list file; several with commas")
    held_out: str | None = option(
        None, "photographs to measure on; default: four of the contents, which are not trained on"
    )
    loss_net: str = option("vgg19", "network that compares pictures: torchvision name, demo, timm/NAME, FILE.pt2")
    weights: str = option("DEFAULT", "its weights: DEFAULT for the published ones, or a file")
    width: int = option(32, "filters of the first convolution: 32 in the paper, 16 and 8 are smaller and faster")
    steps: int = option(2000, "how many in all")
    batch_size: int = option(4, "photographs that a step takes")
    crop: int = option(256, "side of the squares to train on, in pixels")
    style_size: int = option(256, "a style has as many pixels as a square of this side: larger for larger strokes")
    rate: float = option(1e-3, "Adam's highest; it rises over the first steps and falls to 0")
    content_weight: float = option(1.0, "α, as of style-transfer")
    style_weight: float = option(30.0, "β, as of style-transfer")
    tv: float = option(10.0, "γ, as of style-transfer")
    precision: Literal["fp32", "bf16"] = option("fp32", "arithmetic of both networks; bf16 where hardware has it")
    seed: int = option(0, "what weights, squares, order and styles are drawn by")
    compare: int = option(100, "steps of optimization that the network is compared with, at most; 0 leaves that out")
    threads: int = option(1, "threads that compute")
    device: str = option("auto", "auto, cpu, cuda or cuda:N")

    def __post_init__(self) -> None:
        check_options(self)
        for name, example in (("style", "starry.jpg"), ("content", "photos/")):
            if not getattr(self, name):
                raise UsageError(f"{name}: expected pictures, as --{name} {example}")
        least = {"crop": LEAST, "style_size": LEAST, "compare": 0}
        for name in ("crop", "style_size", "width", "steps", "batch_size", "compare", "threads"):
            if (value := getattr(self, name)) < least.get(name, 1):
                raise UsageError(f"{name}: expected {least.get(name, 1)} or above, got {value}")
        _ = self.recipe, self.loss_weights  # which check what is theirs

    @property
    def recipe(self) -> Recipe:
        """What the course of the training follows."""
        return Recipe(self.steps, self.rate, self.precision, self.seed)

    @property
    def loss_weights(self) -> Weights:
        """α, β, γ."""
        return Weights(self.content_weight, self.style_weight, self.tv)


FREE = ("style", "content", "held_out", "weights", "compare", "threads", "device")
"""Options that may change while a training goes on: of pictures and weights the bytes count, not where they lie."""


class Trained(NamedTuple):
    """What came of a training."""

    file: Path
    page: Path
    finished: bool
    """False where it was interrupted: there is a checkpoint, and no network yet."""
    about: dict[str, Any]


@dataclass
class _Work:
    """A training that is set up: its files, pictures and course."""

    chosen: Training
    file: Path
    styles: dict[str, Path]
    content: list[Item]
    held_out: dict[str, Tensor]
    model: Network
    device: str
    config: dict[str, Any]
    course: Course
    say: Say
    samples: list[int] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        return self.file.with_suffix(".training")

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint.safetensors"


def train(file: str | Path, say: Say = lambda line: None, **given: Any) -> Trained:
    """Train a style network and save it; `given` are the fields of `Training`, `say` is told of progress.

    A training that was interrupted, by Ctrl-C or a kill, goes on from its last checkpoint. Raises UsageError for what
    cannot be done, and RefusedError where FILE.training holds a training with other settings.
    """
    work = _work(Training(**given), Path(file).absolute(), say)
    with locked(work.folder / ".lock", wait=False) as alone:
        if not alone:
            raise RefusedError(f"{work.folder} is being trained by another process; wait, or name another FILE")
        return _train(work)


def _train(work: _Work) -> Trained:
    _resume(work)
    began, say = work.course.done, work.say
    crops = Crops(work.content, work.chosen.crop, work.chosen.batch_size, work.chosen.seed, say)
    watch = _Watch(work, crops)
    with _interruptible() as stopped, crops.ahead(began, work.chosen.steps) as take:
        watch.stopped = stopped
        work.course.run(lambda step: take(step).to(work.device), watch)
    watch.tell()
    _save(work)
    page = write_training_page(work.folder, work.config, work.course.losses[: work.course.done], work.samples)
    if work.course.done < work.chosen.steps:
        return Trained(work.file, page, False, {})
    return Trained(work.file, page, True, _finish(work))


def _work(chosen: Training, file: Path, say: Say) -> _Work:
    """Return a training set up, everything checked."""
    if file.suffix != ".safetensors":
        raise UsageError(f"FILE: expected a name that ends in .safetensors, got {file.name!r}")
    styles = named_styles(chosen.style)
    pictures = [_picture(path) for path in styles.values()]
    content, held_out = _contents(chosen, say)
    device = resolved_device(chosen.device)
    compute_with(chosen.threads)
    model = load_model(chosen.loss_net, weights=chosen.weights)
    options = {name: value for name, value in asdict(chosen).items() if name not in FREE}
    config = {
        **options,
        "styles": {name: digest_file(path) for name, path in styles.items()},
        "loss_net_digest": digest(model),
        "contents": len(content),
        "contents_sha256": sha256_of([(item.key, item.size) for item in content]),
        "held_out": list(held_out),
    }
    pictures = [one.to(device) for one in pictures]
    perception = Perception.of(model.to(device), pictures, chosen.style_size, chosen.loss_weights)
    net = untrained(chosen.width, list(styles), chosen.seed).to(device)
    return _Work(
        chosen, file, styles, content, held_out, model, device, config, Course(net, perception, chosen.recipe), say
    )


def named_styles(text: str) -> dict[str, Path]:
    """Read `a.jpg,NAME=b.jpg` as files by name. Raises UsageError for names that repeat."""
    found: dict[str, Path] = {}
    for part in text.split(","):
        name, _, path = part.strip().rpartition("=")
        file = Path(path)
        name = name or file.stem
        if name in found:
            raise UsageError(f"style: expected different names, got {name!r} twice; write NAME={file}")
        found[name] = file
    return found


def _picture(path: Path) -> Tensor:
    """Return a style's picture `(1, 3, h, w)` in [0, 1]."""
    try:
        pixels = decode(read(str(path)), MAX_PIXELS)
    except ImageError as error:
        raise UsageError(f"style: {path} cannot be used: {error.message}") from error
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float().div(255)


def _contents(chosen: Training, say: Say) -> tuple[list[Item], dict[str, Tensor]]:
    """Return the pictures to train on, and the middles of those to measure on, by key."""
    items = manifest.scan(chosen.content.split(","))
    if chosen.held_out is not None:
        aside = manifest.scan(chosen.held_out.split(","))
    else:
        order = np.random.default_rng([chosen.seed]).permutation(len(items))[: min(MEASURED, len(items) // 2)]
        aside = [items[place] for place in sorted(order)]
        kept = {item.key for item in aside}
        items = [item for item in items if item.key not in kept]
    found = {}
    for item in aside:
        try:
            found[item.key] = middle(decode(read(path_of(item.uri)), MAX_PIXELS), chosen.crop)
        except ImageError as error:
            say(f"not used: {item.key}: {error.message}")
    if not found:
        raise UsageError("held_out: expected a photograph to measure on that can be used, got none; give --held-out")
    return items, found


def _resume(work: _Work) -> None:
    """Go on from a checkpoint, if there is one of the same settings; begin else."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = work.folder / "config.json"
    if path.exists():
        there = json.loads(path.read_text(encoding="utf-8"))
        advice = f"repeat those, name another FILE, or remove {work.folder}"
        refuse_other(work.folder, there, json.loads(json.dumps(work.config)), advice)
    write_json(path, work.config)
    if work.checkpoint.exists():
        try:
            work.course.restore(load_file(work.checkpoint))
        except (SafetensorError, KeyError, RuntimeError) as error:
            advice = f"remove {work.folder} to begin anew"
            raise UsageError(f"{work.checkpoint} cannot be read ({error}); {advice}") from error
        work.say(f"going on after step {work.course.done} of {work.chosen.steps}")
    work.samples = sorted(int(one.stem) for one in (work.folder / "samples").glob("*.png"))


def _save(work: _Work) -> None:
    from safetensors.torch import save_file

    state = work.course.state()
    write_whole(work.checkpoint, lambda temporary: save_file(state, temporary))


def sample_steps(steps: int) -> list[int]:
    """Return after which steps samples are painted: eight times as many each time, and at the end."""
    return sorted({max(1, steps // part) for part in (64, 16, 4, 2, 1)})


class _Watch:
    """What happens between steps: lines, checkpoints, samples, the page."""

    EVERY = 60.0
    """Seconds between checkpoints."""
    LINES = 10.0
    """Seconds between lines."""

    def __init__(self, work: _Work, crops: Crops) -> None:
        self.work, self.crops = work, crops
        self.first, self.begun = work.course.done, time.perf_counter()
        self.saved = self.told = self.begun
        self.stopped: list[int] = []

    def __call__(self, course: Course) -> bool:
        """Do what is due after a step; return whether to stop."""
        now = time.perf_counter()
        if course.done in sample_steps(course.recipe.steps):
            _sample(self.work)
            self._page()
        if now - self.told >= self.LINES:
            self.tell()
        if now - self.saved >= self.EVERY:
            self.saved = now
            _save(self.work)
            self._page()
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

    def _page(self) -> None:
        work = self.work
        write_training_page(work.folder, work.config, work.course.losses[: work.course.done], work.samples)


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
def _sample(work: _Work) -> None:
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
    work.samples = sorted({*work.samples, work.course.done})


def _finish(work: _Work) -> dict[str, Any]:
    """Measure the network, and save it with what is known of it."""
    net = work.course.net.eval()
    photographs = torch.cat(list(work.held_out.values())).to(work.device)
    about: dict[str, Any] = {
        **work.config,
        "loss_net": work.chosen.loss_net,
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
