"""Filters of convolutions as pictures, of one network or of several side by side.

OUT/filters/MODEL.LAYER.png    a grid: in color, or a row per filter and a column per input channel
OUT/filters/index.html         the pictures with what they are, one file that loads nothing
OUT/filters/filters.json       what they were made from: weights, layer, shape, digests, versions
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click
from PIL import Image
from torch import Tensor

from afterimage.errors import RefusedError, UsageError
from afterimage.images.lattice import captioned, enlarged, lattice, wrapped, written
from afterimage.models.filters import convolution, filters, is_colored
from afterimage.models.network import Network
from afterimage.models.zoo import digest, load_model
from afterimage.registry import check_options, option, options_of

from .files import digest_file, write_json, write_whole
from .inputs import PICTURED, check_out
from .job import versions
from .results import levels

FOLDER, RECORD = PICTURED
COLORED, GREY = 256, 32
"""Filters at most, and input channels of the grey ones, where nothing else is asked for."""
LARGE, SMALL = 56, 24
"""Pixels that a filter alone, and one in a row of many, is enlarged to, by a whole factor."""


@dataclass(frozen=True)
class Choice:
    """What can be chosen about filters."""

    model: str = option("resnet50", "torchvision name, demo, timm/NAME, package.module:function or FILE.pt2; or a,b")
    weights: str = option("DEFAULT", "DEFAULT for the published weights, a file, or none for untrained; or one a model")
    layer: str | None = option(None, "whose filters; default: the first convolution's")
    filters: int | None = option(None, f"how many at most; default: {COLORED} in color, else {GREY}")
    channels: int = option(GREY, "input channels of each filter at most, where they are not colors")

    def __post_init__(self) -> None:
        check_options(self)
        for name in ("filters", "channels"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise UsageError(f"{name}: expected a positive number, got {value}")

    @property
    def networks(self) -> list[tuple[str, str]]:
        """The networks' names, each with its weights. Raises UsageError."""
        models, weights = ([part.strip() for part in text.split(",")] for text in (self.model, self.weights))
        if len(weights) not in (1, len(models)):
            raise UsageError(
                f"weights: expected one for all, or one for each of {len(models)} networks, got {len(weights)}"
            )
        return list(zip(models, weights * (len(models) // len(weights)), strict=True))


def picture(out: str | Path, **given: Any) -> list[Path]:
    """Write the filters' pictures and their page below `out`; `given` are the fields of `Choice`.

    Returns the files, the page last. Pictures that are there stay on the page, unless they are made anew. Raises
    UsageError for what cannot be done, and RefusedError where OUT/filters is another job's.
    """
    chosen = Choice(**given)
    folder = check_out(Path(out)) / FOLDER
    known = _known(folder)
    networks = [load_model(model, weights=weights) for model, weights in chosen.networks]
    names = []
    for network, (_, weights) in zip(networks, chosen.networks, strict=True):
        name, _ = convolution(network, chosen.layer)
        names.append((name, _file_name(network, weights, name)))
    if len({file for _, file in names}) < len(names):
        raise UsageError(f"model: expected each network once, got {chosen.model}")
    made = {}
    for network, (_, weights), (layer, file) in zip(networks, chosen.networks, names, strict=True):
        made[file] = _write(folder / file, network, weights, layer, chosen)
    entries = {file: entry for file, entry in known.items() if file not in made and (folder / file).exists()} | made
    write_json(folder / RECORD, {"filters": entries, "versions": versions()})
    return [*(folder / file for file in made), _write_page(folder, entries)]


def _known(folder: Path) -> dict[str, Any]:
    """Return the pictures that are there, with what is recorded of them. Raises RefusedError."""
    if (folder / RECORD).exists():
        known: dict[str, Any] = json.loads((folder / RECORD).read_text(encoding="utf-8"))["filters"]
        return known
    if folder.exists() and any(folder.iterdir()):
        raise RefusedError(f"{folder} holds something else; take another OUT")
    return {}


def _file_name(network: Network, weights: str, layer: str) -> str:
    untrained = "-untrained" if weights.lower() == "none" else ""
    return re.sub(r"[^\w.-]", "_", f"{network.name}{untrained}.{layer}.png")


def _write(path: Path, network: Network, weights: str, layer: str, chosen: Choice) -> dict[str, Any]:
    """Write one picture, and return what is to be known of it."""
    _, found = convolution(network, layer)
    pictures = filters(network, layer)
    flat = is_colored(found) or pictures.shape[1] == 1
    shown = pictures[: chosen.filters or (COLORED if flat else GREY), : None if flat else chosen.channels]
    image = Image.fromarray(levels(alone(shown) if flat else rows(shown)))
    write_whole(path, partial(image.save, format="png"))
    return {
        "model": network.name,
        "weights": weights,
        "model_digest": digest(network),
        "layer": layer,
        "shape": [*found.weight.shape],
        "groups": found.groups,
        "colored": is_colored(found),
        "filters_shown": len(shown),
        "channels_shown": shown.shape[1],
        "sha256": digest_file(path),
    }


def alone(pictures: Tensor) -> Tensor:
    """Return filters `(F, 3 or 1, kh, kw)` in rows, each under its number, `(3, H, W)`."""
    tiles = enlarged(pictures.expand(-1, 3, -1, -1), LARGE)
    return lattice(wrapped([captioned(tile, str(number)) for number, tile in enumerate(tiles)]))


def rows(pictures: Tensor) -> Tensor:
    """Return filters `(F, C, kh, kw)`, a row for each and a column for each input channel, numbered, `(3, H, W)`."""
    tiles = enlarged(pictures[:, :, None].expand(-1, -1, 3, -1, -1), SMALL)
    heads = [written(text).to(tiles) for text in ("", *map(str, range(tiles.shape[1])))]
    return lattice([heads, *([written(str(number)).to(tiles), *row] for number, row in enumerate(tiles))])


def _write_page(folder: Path, entries: Mapping[str, Any]) -> Path:
    from .pages.pictures import unchanged
    from .pages.templates import write_page

    shown = [(unchanged(folder / file), file, entry, [*captions(entry)]) for file, entry in entries.items()]
    page = folder / "index.html"
    write_page(page, "filters.html", {"shown": shown})
    return page


def captions(entry: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is to be said of a picture: its shape, what a row and a column is, what was left out."""
    count, channels, height, width = entry["shape"]
    yield f"{count} × {channels} × {height} × {width}"
    if entry["colored"]:
        yield "the three input channels as red, green and blue"
    elif entry["groups"] > 1:
        yield _grouped(count, channels, entry["groups"])
    elif channels > 1:
        yield "a row per filter, a column per input channel"
    left = count - entry["filters_shown"], channels - entry["channels_shown"]
    if left[0]:
        yield f"{left[0]:,} more filters not shown"
    if left[1]:
        yield f"{left[1]:,} more channels of each not shown"
    if entry["weights"].lower() == "none":
        yield "untrained: random weights"


def _grouped(count: int, channels: int, groups: int) -> str:
    of = count // groups
    if channels == 1:
        reads = "n" if of == 1 else f"⌊n / {of}⌋"
        return f"depthwise: filter n reads input channel {reads} alone"
    return (
        f"{groups} groups: a row per filter, a column per channel of its own group; "
        f"column c of filter n is input channel {channels} · ⌊n / {of}⌋ + c"
    )


def command() -> click.Command:
    """Return the command `filters`."""
    from .cli import click_option

    def run(out: str, **given: Any) -> None:
        print(*picture(out, **given), sep="\n")

    return click.Command(
        "filters",
        callback=run,
        params=[click.Argument(["out"]), *(click_option(one) for one in options_of(Choice))],
        help="Draw the weights of a convolution: in color where its input has three channels, else in grey, a row per "
        "filter and a column per input channel.\n\n"
        "Zero is mid grey; each filter is scaled by its largest magnitude. Several networks, as --model a,b, stand on "
        "one page.",
        no_args_is_help=True,
    )
