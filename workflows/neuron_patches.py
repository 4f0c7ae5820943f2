"""A row per neuron: the patches that excite it most, how much they do, and guided backprop beside each.

OUT/neurons/table.parquet   all channels: channel, rank, key, uri, value, y, x, the patch's box in network-input pixels
OUT/neurons/index.html      those channels that were to be drawn
"""

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from afterimage.errors import UsageError
from afterimage.methods.guided_backprop import GuidedBackprop
from afterimage.models.layers import layers
from afterimage.models.network import Network
from afterimage.registry import Progress, check_options, method, option, options_of

from .decode import ImageError, decode, read
from .derived import Derived, parent_digest, write_derived
from .geometry import fit
from .manifest import path_of
from .pages.neurons import Patch, Shown, write_neurons
from .restored import geometry_of, network_of
from .strongest import by_channel, run_of, strongest, with_boxes

KEPT = 500
"""Pictures held in memory: a few excite many neurons."""
FIRST = 32
"""Channels that are drawn where none are named: the first that respond at all."""


@dataclass(frozen=True)
class Showing:
    """What can be chosen about the rows of neurons."""

    patches: str = option("patches", "the job of patches, by its name")
    channels: str | None = option(None, f"drawn: 0-15,40 or all; default: the first {FIRST} that respond")
    partial: bool = option(False, "guided backprop in networks with activations that have no rule, too")
    name: str | None = option(None, "name of the result below OUT; default: neurons, or JOB.neurons")

    def __post_init__(self) -> None:
        check_options(self)


class Neurons(NamedTuple):
    """What `neurons` made: the derived table, its page, and why pictures of patches are missing, by key."""

    derived: Derived
    page: Path
    missing: dict[str, str]


def neurons(
    out: str | Path, /, *, model: Network | None = None, progress: Progress | None = None, **given: Any
) -> Neurons:
    """Merge the peaks of all shards and draw the patches; `given` are the fields of `Showing`.

    `model` is needed where the job's was built in Python; `progress` is told of neurons drawn. Raises `UsageError` for
    what cannot be done.
    """
    chosen, out = Showing(**given), Path(out)
    run = run_of(out, chosen.patches)
    parent = {chosen.patches: parent_digest(out / chosen.patches)}
    network = network_of(run) if model is None else model
    described = method(run["verb"]).cls(**run["config"]["options"])
    geometry = geometry_of(run)
    layer = described.reads(network, next(network.parameters()).new_zeros(1, 3, *geometry.size, dtype=torch.float32))
    fields = {info.name: info.receptive_field for info in layers(network, geometry.size)}
    found = strongest(out / chosen.patches, described.top)
    if not len(found):
        raise UsageError(f"{out / chosen.patches}: expected patches, got none: no picture is ok")
    table = with_boxes(found, fields.get(layer), geometry.size)
    options = {**dataclasses.asdict(chosen), "layer": layer, "field_known": fields.get(layer) is not None}
    derived = write_derived(out, chosen.name or name_of(chosen.patches), "neurons", options, parent, table)
    drawing = _Drawing(network, layer, run, chosen.partial)
    rows = drawing.rows([*by_channel(_drawn(table, chosen.channels))], progress)
    page = write_neurons(derived.folder / "index.html", run, layer, fields.get(layer), rows, table)
    return Neurons(derived, page, drawing.missing)


def name_of(job: str) -> str:
    """Return the name of the rows of neurons that belong to a job of patches, where none is given."""
    return "neurons" if job == "patches" else f"{job}.neurons"


def _drawn(table: pa.Table, channels: str | None) -> pa.Table:
    """Return the rows of the channels that are to be drawn."""
    known = pc.unique(table["channel"]).to_pylist()
    if channels is None:
        first = table.filter(pc.and_(pc.equal(table["rank"], 0), pc.greater(table["value"], 0)))
        wanted = first["channel"].to_pylist()[:FIRST] or known[:FIRST]
    else:
        wanted = known if channels == "all" else _numbers(channels)
    if beyond := sorted(set(wanted) - set(known)):
        raise UsageError(f"channels: expected {known[0]} to {known[-1]}, got {beyond[0]}")
    return table.filter(pc.is_in(table["channel"], value_set=pa.array(wanted, pa.int32())))


def _numbers(text: str) -> list[int]:
    found: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise UsageError(f"channels: expected numbers and ranges, as 0-15,40, or all, got {text!r}")
        found += range(int(first), int(last or first) + 1)
    return found


class _Drawing:
    """Reads pictures again, and computes the guided gradients of their neurons."""

    def __init__(self, network: Network, layer: str, run: dict[str, Any], partial: bool) -> None:
        self.network, self.layer, self.geometry = network, layer, geometry_of(run)
        self.max_pixels = run["config"]["max_pixels"]
        self.guided = GuidedBackprop("guided", None, partial)
        self.missing: dict[str, str] = {}
        self._picture = lru_cache(KEPT)(self._read)

    def rows(self, channels: Sequence[tuple[int, Sequence[dict[str, Any]]]], progress: Progress | None) -> list[Shown]:
        """Return what a page shows of channels."""
        shown: list[Shown] = []
        for channel, rows in channels:
            pictures = [self._picture(row["key"], row["uri"]) for row in rows]
            gradients = self._gradients(rows, pictures)
            shown.append(Shown(channel, [_patch(*one) for one in zip(rows, pictures, gradients, strict=True)]))
            if progress is not None:
                progress(len(shown), len(channels))
        return shown

    def _read(self, key: str, uri: str) -> np.ndarray | None:
        try:
            return fit(decode(read(path_of(uri)), self.max_pixels), self.geometry)[0]
        except ImageError as error:
            self.missing[key] = error.message
            return None

    def _gradients(
        self, rows: Sequence[dict[str, Any]], pictures: Sequence[np.ndarray | None]
    ) -> list[np.ndarray | None]:
        """Return the guided gradient of each row's neuron, in one call; None where there is no picture."""
        found: list[np.ndarray | None] = [None] * len(rows)
        there = {place: picture for place, picture in enumerate(pictures) if picture is not None}
        if not there:
            return found
        images = torch.from_numpy(np.stack([*there.values()])).to(next(self.network.parameters()).device)
        units = torch.tensor([[rows[place][name] for name in ("channel", "y", "x")] for place in there])
        images = images.permute(0, 3, 1, 2).float().div(255)
        gradients = self.guided.of_units(self.network, images, self.layer, units).float().cpu().numpy()
        for place, gradient in zip(there, gradients, strict=True):
            found[place] = gradient
        return found


def _patch(row: dict[str, Any], picture: np.ndarray | None, gradient: np.ndarray | None) -> Patch:
    box = row["patch_x0"], row["patch_y0"], row["patch_x1"], row["patch_y1"]
    return Patch(row["key"], row["value"], box, picture, gradient)


def command() -> click.Command:
    """Return the command `neurons`."""
    from .cli import click_option

    def show(out: Path, **given: Any) -> None:
        with click.progressbar(length=1, label="neurons", file=sys.stderr) as bar:

            def tell(done: int, total: int) -> None:
                bar.length = total
                bar.update(done - bar.pos)

            found = neurons(out, progress=tell, **given)
        for key, message in list(found.missing.items())[:3]:
            click.echo(f"not drawn: {key}: {message}", err=True)
        print(found.page)

    return click.Command(
        "neurons",
        callback=show,
        params=[
            click.Argument(["out"], type=click.Path(path_type=Path)),
            *(click_option(one) for one in options_of(Showing)),
        ],
        help="Draw the patches that excite neurons most, with guided backprop: a row for each neuron.\n\n"
        "Works on what 'afterimage patches INPUT... OUT' found; that run ends with the first neurons itself.",
        no_args_is_help=True,
    )
