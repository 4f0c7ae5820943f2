"""Where the evidence lies: on the objects or beside them, class by class, from a finished job's heatmaps.

OUT/bias/table.parquet    a row per image: key, target, label, inside, expected, hit, reason, cluster
OUT/bias/index.html       the page: the classes, the worst first, with images
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pyarrow as pa

from afterimage.errors import UsageError, nearest
from afterimage.registry import check_options, option, options_of

from . import manifest
from .annotations import Annotations, Boxes, read_boxes, read_masks
from .derived import Derived, free_for, parent_digest, write_derived
from .evidence import Sample, apart, findings, grouped, map_of, with_clusters
from .files import digest_file
from .pages.jobs import Job, open_job, open_jobs
from .suspects import Class, doubtful, left_out, ranked
from .tables import text_table

VERB = "bias"


@dataclass(frozen=True)
class Report:
    """What can be chosen about a report."""

    job: str = option("saliency", "whose heatmaps are read")
    boxes: str | None = option(None, "where the objects lie: FILE.csv of key,x0,y0,x1,y1[,label], or a COCO FILE.json")
    masks: str | None = option(None, "where the objects lie: a folder of PNGs named as the inputs, nonzero = object")
    match_labels: bool = option(False, "count only the boxes that are labelled as the class explained")
    limit: int = option(200, "images of a class that are clustered, at most")
    seed: int = option(0, "what the clustering starts from")
    name: str = option(VERB, "what to call the report")

    def __post_init__(self) -> None:
        check_options(self)
        if self.boxes and self.masks:
            raise UsageError("expected --boxes or --masks, got both")
        if self.match_labels and not self.boxes:
            raise UsageError("match_labels: expected --boxes FILE, whose labels are to match")
        if self.limit < 2:
            raise UsageError(f"limit: expected at least 2 images of a class, got {self.limit}")


@dataclass(frozen=True)
class Bias:
    """A report: the classes, the worst first, those in doubt, why images were left out, the derived table, the page."""

    classes: list[Class]
    doubtful: list[str]
    left_out: Mapping[str, list[str]]
    unknown: list[str]
    derived: Derived
    page: Path

    @property
    def annotated(self) -> bool:
        """Whether objects were known."""
        return any(one.known for one in self.classes)


def bias(out: str | Path, **given: Any) -> Bias:
    """Tell where the evidence of a job in `out` lies; `given` are `Report`'s fields.

    With boxes or masks: the share of the evidence on the objects, against the share of the area, and the pointing game.
    Always: clusters of each class's heatmaps, and how far they lie apart from other classes'. Raises UsageError for
    what cannot be done.
    """
    chosen, folder = Report(**given), Path(out)
    job = chosen_job(folder, chosen.job)
    map_of(job)
    free_for(folder, chosen.name, VERB)
    annotations = _annotations(folder, chosen)
    parents = {job.name: parent_digest(job.folder)}
    sample = Sample(chosen.limit)
    table = pa.concat_tables(list(findings(job, annotations, sample)))
    groups = grouped(sample, chosen.seed)
    table = with_clusters(table, groups)
    classes = ranked(table, groups, apart(sample))
    derived = write_derived(folder, chosen.name, VERB, _options(chosen), parents, table)
    from .pages.bias import write_bias_page

    unknown = list(annotations.unknown) if isinstance(annotations, Boxes) else []
    made = Bias(classes, doubtful(classes), left_out(table), unknown, derived, derived.folder / "index.html")
    write_bias_page(made, job, table, annotations)
    return made


def chosen_job(out: Path, name: str) -> Job:
    """Return the job of that name; raise `UsageError` that names those there are."""
    if (out / name / "run.json").is_file():
        return open_job(out / name)
    names = [job.name for job in open_jobs(out)]
    raise UsageError(f"{out}: no job {name!r}, but {', '.join(names)}{nearest(name, names)}; use --job NAME")


def _annotations(out: Path, chosen: Report) -> Annotations | None:
    if chosen.masks:
        return read_masks(Path(chosen.masks))
    if chosen.boxes:
        return read_boxes(Path(chosen.boxes), manifest.load(out)["key"].to_pylist(), chosen.match_labels)
    return None


def _options(chosen: Report) -> dict[str, Any]:
    options = {one.name: getattr(chosen, one.name) for one in options_of(Report) if one.name != "name"}
    return options | ({"boxes_sha256": digest_file(Path(chosen.boxes))} if chosen.boxes else {})


def told(made: Bias) -> str:
    """Return the report as text."""
    figures = ("inside", "area", "× chance", "hits") if made.annotated else ()
    header = ("class", "images", *figures, "apart", "clusters", "outlying")
    rows = [_told(one, made.annotated, one.name in made.doubtful) for one in made.classes]
    return text_table(header, rows, right=header[1:])


def _told(one: Class, annotated: bool, doubted: bool) -> tuple[str, ...]:
    shares = [one.inside, one.expected, one.density, one.hits]
    forms = ("{:.1%}", "{:.1%}", "{:.2f}", "{:.0%}")
    figures = ["–" if share is None else form.format(share) for share, form in zip(shares, forms, strict=True)]
    apart = "–" if one.apart is None else f"{one.apart:.2f}"
    groups = one.clusters
    counts = ("–", "–") if groups is None else (str(len(groups.members)), str(len(groups.outlying)))
    name = (one.name or "all (no class explained)") + (" *" if doubted else "")
    return name, f"{one.images:,}", *(figures if annotated else ()), apart, *counts


def command() -> click.Command:
    """Return the command `bias`."""
    from .cli import click_option

    def run(out: Path, **given: Any) -> None:
        made = bias(out, **given)
        for reason, keys in made.left_out.items():
            print(f"left out, {reason}: {_some(keys)}", file=sys.stderr)
        if made.unknown:
            print(f"annotated, but no input of {out}: {_some(made.unknown)}", file=sys.stderr)
        print(told(made))
        if made.doubtful:
            where = "evidence lies beside the objects" if made.annotated else "heatmaps unlike those of other classes"
            print(f"\n* {where}: {', '.join(made.doubtful)}")
        print(f"\npage: {made.page}")

    return click.Command(
        "bias",
        callback=run,
        params=[
            click.Argument(["out"], type=click.Path(path_type=Path)),
            *(click_option(option) for option in options_of(Report)),
        ],
        help="Tell where the evidence of a finished job lies: on the objects, or on the background.\n\n"
        "Without boxes or masks, the heatmaps of each class are clustered and the odd ones shown: Lapuschkin et al., "
        "Unmasking Clever Hans predictors, 2019 (arXiv:1902.10178).",
        short_help="Tell where the evidence of a finished job lies, class by class.",
        no_args_is_help=True,
    )


def _some(keys: list[str]) -> str:
    more = f" and {len(keys) - 3:,} more" if len(keys) > 3 else ""
    return f"{len(keys):,} ({', '.join(keys[:3])}{more})"
