"""Facets from a data set: the sorts of pictures that a class has, as start images for its visualization.

OUT/facet-1.png, facet-2.png, …    means of the pictures around the middle of each cluster, that of most pictures first
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from PIL import Image

from afterimage.errors import UsageError
from afterimage.images.facets import facets
from afterimage.models.zoo import load_model
from afterimage.registry import check_options, option, options_of

from . import manifest
from .decode import MAX_PIXELS, ImageError, decode, read
from .files import write_whole
from .geometry import Geometry, fit
from .job import resolved_device
from .manifest import path_of
from .results import levels


@dataclass(frozen=True)
class Clustering:
    """What can be chosen about facets."""

    count: int = option(4, "how many facets")
    nearest: int = option(15, "pictures that a facet is the mean of: those nearest to the middle of its cluster")
    model: str = option("resnet50", "torchvision name, demo, timm/NAME, package.module:function or FILE.pt2")
    weights: str = option("DEFAULT", "DEFAULT for the published weights, a file, or none for untrained")
    layer: str | None = option(None, "whose activations are clustered; default: the last one with maps")
    limit: int = option(1000, "only the first N pictures, all of which are held in memory")
    seed: int = option(0, "what the clustering starts from")
    device: str = option("auto", "auto, cpu, cuda or cuda:N")

    def __post_init__(self) -> None:
        check_options(self)
        if self.limit < 1:
            raise UsageError(f"limit: expected a positive number, got {self.limit}")


def find(inputs: Sequence[str | Path], out: str | Path, **given: Any) -> tuple[list[Path], dict[str, str]]:
    """Cluster the pictures of one class, in folders, globs, list files or files; `given` are `Clustering`'s fields.

    Returns the files written below `out`, and why pictures were left out that cannot be used, by key. Raises UsageError
    for what cannot be done.
    """
    chosen, folder = Clustering(**given), Path(out)
    items = manifest.scan(list(inputs))[: chosen.limit]
    device = resolved_device(chosen.device)
    network = load_model(chosen.model, weights=chosen.weights).to(device)
    preset = network.preset
    geometry = Geometry("preset", preset.size, preset.resize, preset.interpolation)
    pictures, unusable = [], {}
    for item in items:
        try:
            pictures.append(fit(decode(read(path_of(item.uri)), MAX_PIXELS), geometry)[0])
        except ImageError as error:
            unusable[item.key] = error.message
    if not pictures:
        raise UsageError(f"none of {len(items)} pictures can be used: {next(iter(unusable.values()))}")
    images = torch.from_numpy(np.stack(pictures)).to(device).permute(0, 3, 1, 2).float().div_(255)
    files = []
    found = facets(network, images, chosen.count, chosen.layer, chosen.nearest, chosen.seed)
    for number, facet in enumerate(found, 1):
        files.append(folder / f"facet-{number}.png")
        picture = Image.fromarray(levels(facet.cpu()))
        write_whole(files[-1], partial(picture.save, format="png"))
    return files, unusable


def command() -> click.Command:
    """Return the command `facets`."""
    from .cli import click_option

    def run(paths: tuple[str, ...], **given: Any) -> None:
        if len(paths) < 2:
            raise click.UsageError(f"expected INPUT… and then OUT, got {' '.join(paths) or 'nothing'}")
        files, unusable = find(paths[:-1], paths[-1], **given)
        for key, message in list(unusable.items())[:3]:
            print(f"not used: {key}: {message}", file=sys.stderr)
        print(*files, sep="\n")

    return click.Command(
        "facets",
        callback=run,
        params=[
            click.Argument(["paths"], nargs=-1, metavar="INPUT... OUT"),
            *(click_option(option) for option in options_of(Clustering)),
        ],
        help="Find the sorts of pictures that a class has, as starts of its visualization: the means of clusters.\n\n"
        "Then: afterimage class-visualization CLASS OUT --sweep start=facet-1.png,facet-2.png",
        no_args_is_help=True,
    )
