"""A universal patch from a data set: trained on pictures that are drawn from folders, saved as PNG with its record.

FILE.png    the patch, 8-bit
FILE.json   what it was made with and from, and what came of it
"""

import dataclasses
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from afterimage.errors import UsageError
from afterimage.images import universal_patch
from afterimage.images.seeds import uniform
from afterimage.models.network import class_index
from afterimage.models.windows import Extent
from afterimage.models.zoo import digest, load_model
from afterimage.registry import check_options, option, options_of

from . import manifest
from .decode import MAX_PIXELS, ImageError, decode, read
from .files import digest_file, write_json, write_whole
from .geometry import Geometry, fit
from .job import resolved_device, sha256_of, versions
from .manifest import Item, path_of
from .results import levels

TRIES = 20
"""Draws in a row that may give no picture before the data set is given up."""


@dataclass(frozen=True)
class Training:
    """What can be chosen about a patch's training."""

    target: str = option("", "class that is to be seen, its name or index")
    model: str = option("resnet50", "torchvision name, demo, timm/NAME, package.module:function or FILE.pt2")
    weights: str = option("DEFAULT", "DEFAULT for the published weights, a file, or none for untrained")
    patch_size: Extent | int | tuple[int, int] = option(50, "in pixels of the network's input: a side, or HEIGHTxWIDTH")
    steps: int = option(200, "how many")
    batch_size: int = option(8, "pictures that a step takes")
    rate: float = option(0.05, "Adam's")
    seed: int = option(0, "what pictures, places and the start are drawn by")
    device: str = option("auto", "auto, cpu, cuda or cuda:N")

    def __post_init__(self) -> None:
        check_options(self)
        if not self.target:
            raise UsageError("target: expected a class that is to be seen, as --target toaster")
        for name in ("steps", "batch_size"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name}: expected a positive number, got {getattr(self, name)}")


class Trained(NamedTuple):
    """A patch `(h, w, 3)` uint8, the mean log-probability of its class on the last pictures, what was unusable."""

    patch: np.ndarray
    log_probability: float
    unusable: dict[str, str]
    """Message by key, of the pictures that were drawn."""


def train(
    inputs: Sequence[str | Path],
    file: str | Path,
    progress: Callable[[int, int], None] | None = None,
    **given: Any,
) -> Trained:
    """Train a patch on folders, globs, list files or files, and save it; `given` are the fields of `Training`.

    Pictures that cannot be used are drawn anew, and listed in the record. `afterimage fool INPUT… OUT --attack patch
    --patch FILE` tells on which pictures it succeeds. Raises `UsageError` for what cannot be done.
    """
    chosen, file = Training(**given), Path(file).absolute()
    if file.suffix.lower() != ".png":
        raise UsageError(f"FILE: expected the name of a picture that ends in .png, got {file.name!r}")
    items = manifest.scan(list(inputs))
    device = resolved_device(chosen.device)
    network = load_model(chosen.model, weights=chosen.weights).to(device)
    target, preset = class_index(network, chosen.target), network.preset
    pictures = _Pictures(items, Geometry("preset", preset.size, preset.resize, preset.interpolation), chosen, device)
    found = universal_patch(
        network, pictures.draw, target, chosen.patch_size, steps=chosen.steps, rate=chosen.rate, seed=chosen.seed,
        progress=progress,
    )  # fmt: skip
    trained = Trained(levels(found.images[0].cpu()), float(found.loss), pictures.unusable)
    write_whole(file, lambda temporary: Image.fromarray(trained.patch).save(temporary, "png"))
    config = {**dataclasses.asdict(chosen), "patch_size": str(Extent.of(chosen.patch_size)), "device": device}
    write_json(file.with_suffix(".json"), {
        "config": config,
        "class": target,
        "model_digest": digest(network.cpu()),
        "inputs_sha256": sha256_of([(item.key, item.size) for item in items]),
        "inputs": len(items),
        "unusable": trained.unusable,
        "log_probability": trained.log_probability,
        "losses": found.losses[0].tolist(),
        "diverged": bool(found.diverged),
        "sha256": digest_file(file),
        "versions": versions(),
    })  # fmt: skip
    return trained


class _Pictures:
    """Pictures of a data set as the network takes them, drawn by the number of a step."""

    def __init__(self, items: Sequence[Item], geometry: Geometry, chosen: Training, device: str) -> None:
        self.items, self.geometry, self.chosen, self.device = items, geometry, chosen, device
        self.unusable: dict[str, str] = {}

    def draw(self, number: int) -> Tensor:
        """Return the pictures of a step, `(B, 3, H, W)`."""
        stack = np.stack([self._one(number, place) for place in range(self.chosen.batch_size)])
        return torch.from_numpy(stack).to(self.device).permute(0, 3, 1, 2).float().div_(255)

    def _one(self, number: int, place: int) -> np.ndarray:
        """Return the picture at a place of a step; where one cannot be used, another is drawn."""
        step = torch.tensor([number * self.chosen.batch_size + place])
        for share in uniform(torch.tensor([self.chosen.seed]), step, 2, TRIES)[0].tolist():
            item = self.items[int(share * len(self.items))]
            try:
                return fit(decode(read(path_of(item.uri)), MAX_PIXELS), self.geometry)[0]
            except ImageError as error:
                self.unusable[item.key] = error.message
        key, message = next(iter(self.unusable.items()))
        raise UsageError(f"inputs: expected pictures, got {len(self.unusable)} that cannot be used ({key}: {message})")


def command() -> click.Command:
    """Return the command `universal-patch`."""
    from .cli import click_option

    def run(paths: tuple[str, ...], **given: Any) -> None:
        if len(paths) < 2:
            raise click.UsageError(f"expected INPUT… and then FILE.png, got {' '.join(paths) or 'nothing'}")
        with click.progressbar(length=given["steps"], label="steps", file=sys.stderr) as bar:
            found = train(paths[:-1], paths[-1], lambda done, total: bar.update(done - bar.pos), **given)
        for key, message in list(found.unusable.items())[:3]:
            click.echo(f"not used: {key}: {message}", err=True)
        click.echo(f"{paths[-1]}: mean log-probability of {given['target']} {found.log_probability:.3f}")

    return click.Command(
        "universal-patch",
        callback=run,
        params=[
            click.Argument(["paths"], nargs=-1, metavar="INPUT... FILE.png"),
            *(click_option(one) for one in options_of(Training)),
        ],
        help="Train one small picture that makes a network see a class wherever it lies on whichever image.\n\n"
        "Brown et al., Adversarial patch, 2017 (arXiv:1712.09665). 'afterimage fool INPUT... OUT --attack patch "
        "--patch FILE.png' tells on which images it succeeds.",
        no_args_is_help=True,
    )
