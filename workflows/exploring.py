"""The page to explore a data set's embeddings, with the grid of its images, from what OUT holds."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from afterimage.registry import check_options, option, options_of

from .derived import Derived
from .pages.explore.write import write_explore


@dataclass(frozen=True)
class Exploring:
    """What can be chosen about the page."""

    embedding: str = option("embed", "name of the embedding job")
    projection: str = option("project", "name of the projection")
    neighbors: str = option("neighbors", "name of the table of neighbors")

    def __post_init__(self) -> None:
        check_options(self)


def explore(out: str | Path, **given: Any) -> Derived:
    """Write OUT/explore: the page, the grid's mosaic and the joint table; `given` are `Exploring`'s fields.

    Raises `UsageError` with the command that makes what is missing, `RefusedError` where OUT/explore is another job's.
    """
    chosen = Exploring(**given)
    return write_explore(Path(out), chosen.embedding, chosen.projection, chosen.neighbors)


def command() -> click.Command:
    """Return the command `explore`."""
    from .cli import click_option

    def run(out: Path, **given: Any) -> None:
        made = explore(out, **given)
        print(
            f"{made.record['rows']:,} images\npage: {made.folder / 'index.html'}\nmosaic: {made.folder / 'mosaic.jpg'}"
        )

    return click.Command(
        "explore",
        callback=run,
        params=[
            click.Argument(["out"], metavar="OUT", type=click.Path(path_type=Path)),
            *(click_option(option) for option in options_of(Exploring)),
        ],
        help="Write a page to explore OUT's embeddings: map, grid, neighbors, heatmaps.\n\n"
        "First: afterimage embed INPUT OUT, afterimage project OUT, afterimage neighbors OUT. The joint table "
        "OUT/explore/table.parquet opens in other tools, too.",
        no_args_is_help=True,
    )
