"""Style transfer and texture on VGG-19, beside the usual tutorial.

`style` and `texture`: Adam, as many steps as the tutorial takes. `time-to-loss`: L-BFGS, until the loss is no higher
than that of the tutorial's L-BFGS after so many evaluations, which is found once, before anything is timed.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

import torch
from torch import Tensor

from afterimage import ops
from afterimage.images import LBFGS, Glance, Objective, distance, minimize
from afterimage.images import style as style_distance
from afterimage.images.scales import resized
from afterimage.methods.style_transfer import StyleTransfer
from afterimage.methods.texture_synthesis import TextureSynthesis
from afterimage.models.layers import activations
from afterimage.models.network import Network
from benchmarks import STORE, judges, subjects
from benchmarks.agreement import Agreement, excess
from benchmarks.judges import painted
from benchmarks.optimization import run
from benchmarks.optimization.run import Work
from benchmarks.outcome import Outcome, figures
from benchmarks.peers import style_tutorial
from benchmarks.row import Device, Row
from benchmarks.subjects import CONTENT_LAYER, STYLE_LAYERS

AS_LOW = Agreement(excess, 0.02, "losses: optimizations in float32 part ways, and bfloat16 rounds gradients")
TUTORIAL, TRANSFER, TO_LOSS = (
    "peers.style_tutorial:tutorial",
    "optimization.style:transfer",
    "optimization.style:to_loss",
)
WEIGHT, RATE = 10.0, 0.02
BOUNDED = LBFGS(bounds=(0.0, 1.0))
SIZES: dict[Device, tuple[tuple[int, int], ...]] = {"cpu": ((256, 20), (512, 12)), "cuda": ((512, 50),)}
"""Sides of pictures, and how many evaluations of loss and gradient."""


def rows(device: Device, quick: bool) -> Iterator[Row]:
    """One picture on the CPU, eight on the GPU, in one batch."""
    for size, evaluations in ((64, 3),) if quick else SIZES[device]:
        for kind in ("style", "texture"):
            work = {"size": size, "contents": 1 if device == "cpu" else 8, "texture": kind == "texture"}
            work |= {"rate": RATE, "evaluations": evaluations, "style_weight": WEIGHT, "device": device}
            yield _steps(kind, device, {**work, "optimizer": "adam"})
            yield _half_precision(kind, device, {**work, "optimizer": "adam"})
            if device == "cpu":
                yield _to_loss(kind, {**work, "optimizer": "lbfgs"})


def _steps(kind: str, device: Device, work: Work) -> Row:
    return run.row(
        f"{kind}.{work['size']}",
        f"{_title(kind, work)}, float32",
        device,
        (
            run.configuration("afterimage", TRANSFER, "ours", work=work),
            run.configuration("tutorial", TUTORIAL, "reference", work=work),
            run.configuration("tutorial, channels last", TUTORIAL, "peer", work=work, channels_last=True),
        ),
        AS_LOW,
        items=work["contents"],
    )


def _half_precision(kind: str, device: Device, work: Work) -> Row:
    autocast = {"channels_last": True, "bf16": True}
    return run.row(
        f"{kind}.bf16.{work['size']}",
        f"{_title(kind, work)}, bfloat16 beside float32",
        device,
        (
            run.configuration("afterimage bf16", TRANSFER, "ours", work=work, precision="bfloat16"),
            run.configuration("tutorial", TUTORIAL, "reference", work=work),
            run.configuration("tutorial, channels last, autocast", TUTORIAL, "peer", work=work, **autocast),
        ),
        AS_LOW,
        items=work["contents"],
        bf16=True,
    )


def _title(kind: str, work: Work) -> str:
    return f"{kind}, {work['contents']} × {work['size']}², VGG-19, {work['evaluations']} steps of Adam"


def _to_loss(kind: str, work: Work) -> Row:
    goal = f"the loss of {work['evaluations']} evaluations of the tutorial's L-BFGS"
    return run.row(
        f"{kind}.time-to-loss.{work['size']}",
        f"{kind}, {work['size']}², VGG-19, until {goal}",
        "cpu",
        (
            run.configuration("afterimage", TO_LOSS, "ours", work=work),
            run.configuration("afterimage, coarse to fine", TO_LOSS, "ours", work=work, coarse=True),
            run.configuration("tutorial", TUTORIAL, "reference", work=work),
        ),
        AS_LOW,
    )


@dataclass(frozen=True)
class Task:
    """Pictures to be painted; `contents` is None for textures."""

    model: Network
    style: Tensor
    contents: Tensor | None
    starts: Tensor

    def objective(self) -> Objective:
        """The loss of `benchmarks.judges.style_losses`; computing the targets is part of the work."""
        with torch.no_grad():
            grams = {
                layer: ops.gram(maps, normalize="positions")[0]
                for layer, maps in activations(self.model, self.style, STYLE_LAYERS).items()
            }
            deep = {} if self.contents is None else activations(self.model, self.contents, [CONTENT_LAYER])
        parts = [
            WEIGHT / len(grams) * (4 * len(gram) ** 2) / float(gram.square().sum()) * style_distance(layer, gram)
            for layer, gram in grams.items()
        ]
        return sum(parts[1:] + [distance(layer, maps) for layer, maps in deep.items()], parts[0])

    def halved(self) -> "Task":
        """The same at half the size."""
        style, starts = _half(self.style), _half(self.starts)
        return replace(
            self, style=style, starts=starts, contents=None if self.contents is None else _half(self.contents)
        )


def _half(images: Tensor) -> Tensor:
    return run.last(resized(images, (images.shape[2] // 2, images.shape[3] // 2)).clamp(0, 1))


def _task(work: Work, precision: str = "float32") -> Task:
    network, *images = style_tutorial.inputs(work)
    style, contents, starts = map(run.last, images)
    model = run.network(network, work["device"], precision)
    return Task(model, style, None if work["texture"] else contents, starts)


def transfer(work: Work, precision: str = "float32") -> Callable[[], Outcome]:
    """The methods, as many steps as the tutorial takes, all pictures in one batch."""
    task = _task(work, precision)
    make = _texture if task.contents is None else _transfer
    # What the first call prepares is no part of the rate. Targets are: here those of another style are kept.
    make(replace(task, style=task.style.flip(3)), work, 1)
    return lambda: _painted(task, make(task, work, work["evaluations"]), work["evaluations"])


def _transfer(task: Task, work: Work, steps: int) -> Tensor:
    weights = {"style_weight": WEIGHT, "tv": 0.0, "layers": ",".join(STYLE_LAYERS), "content_layer": CONTENT_LAYER}
    method = StyleTransfer(**weights, optimizer="adam", rate=work["rate"], steps=steps, scales=1)
    return method(task.model, task.starts, [task.style])  # which starts at the content


def _texture(task: Task, work: Work, steps: int) -> Tensor:
    layers = ",".join(STYLE_LAYERS)
    method = TextureSynthesis(layers=layers, normalize="target", optimizer="adam", rate=work["rate"], steps=steps)
    return method(task.model, task.style.expand(len(task.starts), -1, -1, -1))  # which starts at noise of seeds 0, 1, …


def to_loss(work: Work, coarse: bool = False) -> Callable[[], Outcome]:
    """Until the loss is as low as the tutorial's; `coarse`: after half as many steps at half the size."""
    task, goal, most = _task(work), _goal(work), work["evaluations"]

    def call() -> Outcome:
        start, before = task.starts, 0.0
        if coarse:
            half = task.halved()
            small = minimize(half.model, half.objective(), half.starts, steps=max(1, most // 2), optimizer=BOUNDED)
            size = (start.shape[2], start.shape[3])
            start, before = run.last(resized(small.images, size).clamp(0, 1)), float(small.steps) / 4
        image, evaluations = _descend(task, start, goal, 4 * most)
        return _painted(task, image, evaluations + before)

    _descend(task, task.starts, float("inf"), 1)
    return call


class _Reached(Exception):
    """The loss is low enough."""


def _descend(task: Task, start: Tensor, goal: float, most: int) -> tuple[Tensor, int]:
    """Return the first picture whose loss is at most the goal, and after how many evaluations that was."""
    found: list[Tensor] = []
    evaluations = 0

    def watch(glance: Glance) -> None:
        nonlocal evaluations
        evaluations += 1
        if float(glance.losses) <= goal:
            found.append(glance.images())
            raise _Reached

    with suppress(_Reached):
        minimize(task.model, task.objective(), start, steps=most, optimizer=BOUNDED, watch=watch)
    if not found:
        raise RuntimeError(f"a loss of {goal:.4g} was not reached in {evaluations} evaluations")
    return found[0], evaluations


def _goal(work: Work) -> float:
    """Return the loss that the tutorial reaches; kept, as long as the tutorial is the same."""
    sources = [Path(module.__file__ or "").read_text() for module in (style_tutorial, judges, subjects)]
    key = sha256(json.dumps([work, torch.__version__, torch.get_num_threads(), *sources]).encode()).hexdigest()[:16]
    file = STORE / "goals" / f"{key}.json"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(figures(style_tutorial.tutorial(work)())["loss"]))
    return float(json.loads(file.read_text()))


def _painted(task: Task, images: Tensor, evaluations: float) -> Outcome:
    return painted(images, task.style, task.contents, WEIGHT, evaluations)
