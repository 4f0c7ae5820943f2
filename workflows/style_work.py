"""What a training of a style network is made of: its options, and the work that they set up, with its checkpoint."""

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from torch import Tensor

from afterimage.errors import UsageError
from afterimage.images.perceptual import Perception, Weights
from afterimage.images.style_training import Course, Recipe, untrained
from afterimage.models.style.net import LEAST, StyleNet, load_style_net
from afterimage.models.zoo import digest, load_model
from afterimage.registry import check_options, option

from . import manifest
from .crops import as_image, middle
from .decode import MAX_PIXELS, ImageError, decode, read
from .files import digest_file, write_json, write_whole
from .job import compute_with, refuse_other, resolved_device, sha256_of
from .manifest import Item, path_of

Say = Callable[[str], None]
MEASURED = 4
"""Content pictures that are kept aside where no held-out ones are given."""


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
    start: str | None = option(None, "style network whose weights the training begins with; default: random ones")
    width: int = option(32, "filters of the first convolution: 32 in the paper, 16 and 8 are smaller and faster")
    steps: int = option(2000, "how many in all")
    batch_size: int = option(4, "photographs that a step takes")
    crop: int = option(256, "side of the squares to train on, in pixels")
    style_size: int = option(256, "a style has as many pixels as a square of this side: larger for larger strokes")
    rate: float = option(1e-3, "Adam's highest; it rises over the first steps and falls to 0")
    content_weight: float = option(1.0, "α, as of style-transfer")
    # A picture that is optimized begins at its content; a network has to learn it, and loses it to style-transfer's β.
    style_weight: float = option(1.0, "β, as of style-transfer, whose 30 loses the content")
    tv: float = option(4.0, "γ, as of style-transfer")
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


FREE = ("style", "content", "held_out", "weights", "start", "compare", "threads", "device")
"""Options that may change while a training goes on: of pictures and weights the bytes count, not where they lie."""


@dataclass
class Work:
    """A training that is set up: its files, pictures and course."""

    chosen: Training
    file: Path
    content: list[Item]
    held_out: dict[str, Tensor]
    device: str
    config: dict[str, Any]
    course: Course
    say: Say

    @property
    def folder(self) -> Path:
        """Where all lies but the network."""
        return self.file.with_suffix(".training")

    @property
    def checkpoint(self) -> Path:
        """What the training goes on from."""
        return self.folder / "checkpoint.safetensors"

    def resume(self) -> None:
        """Go on from the checkpoint, if there is one of the same settings; begin else."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path = self.folder / "config.json"
        if path.exists():
            there = json.loads(path.read_text(encoding="utf-8"))
            advice = f"repeat those, name another FILE, or remove {self.folder}"
            refuse_other(self.folder, there, json.loads(json.dumps(self.config)), advice)
        write_json(path, self.config)
        if self.checkpoint.exists():
            try:
                self.course.restore(load_file(self.checkpoint))
            except (SafetensorError, KeyError, RuntimeError) as error:
                advice = f"remove {self.folder} to begin anew"
                raise UsageError(f"{self.checkpoint} cannot be read ({error}); {advice}") from error
            self.say(f"going on after step {self.course.done} of {self.chosen.steps}")

    def save(self) -> None:
        """Write the checkpoint."""
        from safetensors.torch import save_file

        state = self.course.state()
        write_whole(self.checkpoint, lambda temporary: save_file(state, temporary))


def set_up(chosen: Training, file: Path, say: Say) -> Work:
    """Return a training set up, everything checked."""
    if file.suffix != ".safetensors":
        raise UsageError(f"FILE: expected a name that ends in .safetensors, got {file.name!r}")
    styles = named_styles(chosen.style)
    pictures = [_picture(path) for path in styles.values()]
    content, held_out = _contents(chosen, say)
    device = resolved_device(chosen.device)
    compute_with(chosen.threads)
    net = _begun(chosen, list(styles)).to(device)
    model = load_model(chosen.loss_net, weights=chosen.weights)
    options = {name: value for name, value in asdict(chosen).items() if name not in FREE}
    config = {
        **options,
        "styles": {name: digest_file(path) for name, path in styles.items()},
        "loss_net_digest": digest(model),
        "contents": len(content),
        "contents_sha256": sha256_of([(item.key, item.size) for item in content]),
        "held_out": list(held_out),
        **({} if chosen.start is None else {"start_sha256": digest_file(Path(chosen.start))}),
    }
    shown = [one.to(device) for one in pictures]
    perception = Perception.of(model.to(device), shown, chosen.style_size, chosen.loss_weights)
    course = Course(net, perception, chosen.recipe)
    return Work(chosen, file, content, held_out, device, config, course, say)


def _begun(chosen: Training, styles: list[str]) -> StyleNet:
    """Return the network that the training begins with."""
    net = untrained(chosen.width, styles, chosen.seed)
    if chosen.start is not None:
        there = load_style_net(Path(chosen.start))
        if (there.width, len(there.styles)) != (chosen.width, len(styles)):
            came = f"one of width {there.width} with {len(there.styles)}"
            raise UsageError(f"start: expected a network of width {chosen.width} with {len(styles)} styles, got {came}")
        net.load_state_dict(there.state_dict())
    return net


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
        return as_image(decode(read(str(path)), MAX_PIXELS))
    except ImageError as error:
        raise UsageError(f"style: {path} cannot be used: {error.message}") from error


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
