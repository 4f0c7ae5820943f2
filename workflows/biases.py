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
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from afterimage.errors import UsageError, nearest
from afterimage.registry import check_options, option, options_of

from . import manifest
from .annotations import Annotations, Boxes, read_boxes, read_masks
from .derived import Derived, free_for, parent_digest, write_derived
from .evidence import Grouped, Sample, apart, findings, grouped, map_of, with_clusters
from .files import digest_file
from .pages.jobs import Job, open_job, open_jobs
from .tables import text_table

VERB = "bias"
BESIDE = 0.5
"""Evidence lies beside the objects where it is no denser on them than this share of what the median class has."""
APART = 3.0
"""Heatmaps lie apart from other classes' where their apartness is this multiple of the median class's."""
FEWEST = 5
"""Images: of fewer, nothing is said of a class."""


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
class Class:
    """One class's figures: images, those with a known object, mean shares, hits; how far apart; its clusters."""

    name: str
    images: int
    known: int
    inside: float | None
    expected: float | None
    hits: float | None
    apart: float | None
    clusters: Grouped | None

    @property
    def density(self) -> float | None:
        """How dense the evidence is on the objects, as a multiple of chance."""
        return self.inside / self.expected if self.inside is not None and self.expected else None


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


def ranked(table: pa.Table, groups: Mapping[str, Grouped], aparts: Mapping[str, float]) -> list[Class]:
    """Return the classes explained: thinnest evidence on the objects first, or the farthest apart where none is known.

    Heatmaps of neurons, which explain no class, stand together under an empty name.
    """
    targets = pc.fill_null(table["target"], "").combine_chunks().dictionary_encode()
    codes = targets.indices.to_numpy()
    columns = {name: table[name].cast(pa.float64()).to_numpy() for name in ("inside", "expected", "hit")}
    classes = []
    for code, name in enumerate(targets.dictionary.to_pylist()):
        own = codes == code
        judged = own & np.isfinite(columns["inside"])
        inside, expected, hits = (float(one[judged].mean()) if judged.any() else None for one in columns.values())
        counts = int(own.sum()), int(judged.sum())
        classes.append(Class(name, *counts, inside, expected, hits, aparts.get(name), groups.get(name)))
    return sorted(classes, key=_order)


def _order(one: Class) -> tuple[float, float, str]:
    density = np.inf if one.density is None else one.density
    return density, -(one.apart or 0.0), one.name


def doubtful(classes: list[Class]) -> list[str]:
    """Return the classes whose evidence seems to lie beside the objects, or apart from all other classes'."""
    counted = [one for one in classes if one.known >= FEWEST]
    if counted:
        median = float(np.median([one.density for one in counted if one.density is not None]))
        return [one.name for one in counted if (one.density or 0.0) <= max(1.0, BESIDE * median)]
    counted = [one for one in classes if one.images >= FEWEST and one.apart is not None]
    if any(one.known for one in classes) or not counted:
        return []
    median = float(np.median([one.apart or 0.0 for one in counted]))
    return [one.name for one in counted if (one.apart or 0.0) >= APART * median]


def left_out(table: pa.Table) -> dict[str, list[str]]:
    """Return the keys without figures, by reason."""
    found: dict[str, list[str]] = {}
    rows = table.filter(pc.is_valid(table["reason"]))
    for key, reason in zip(rows["key"].to_pylist(), rows["reason"].to_pylist(), strict=True):
        found.setdefault(reason, []).append(key)
    return found


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
