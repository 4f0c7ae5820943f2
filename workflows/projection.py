"""Projections of a data set's embeddings to the plane: principal components and t-SNE, to which new images are added.

OUT/project/table.parquet     key, projection_x and _y (t-SNE where made, else principal components), pca_x and _y
OUT/project/state.npz         what new images are placed by
OUT/project/projection.png    the images at their places
"""

import io
import sys
from dataclasses import asdict, dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, NamedTuple

import click
import numpy as np
import pyarrow as pa

from afterimage.errors import UsageError
from afterimage.registry import check_options, option, options_of
from afterimage.vectors.pca import Components, components, moments
from afterimage.vectors.tsne import fitting_perplexity, placed, required, tsne

from .derived import Derived, free_for, needed, parent_digest, write_derived
from .files import write_whole
from .projection_picture import draw
from .sound import Sound, sound, told

STATE, TABLE_COLUMNS = "state.npz", ("projection_x", "projection_y", "pca_x", "pca_y")


@dataclass(frozen=True)
class Projecting:
    """What can be chosen about a projection."""

    method: Literal["tsne", "pca"] = option("tsne", "tsne: beside the principal components; pca: these alone")
    components: int = option(50, "principal components that are computed, and that t-SNE is made from")
    perplexity: float | None = option(None, "t-SNE's; default: 30, or a third of the images where they are few")
    seed: int = option(0, "of t-SNE")
    add: bool = option(False, "place the images that are not yet there, and leave the others where they are")
    embedding: str = option("embed", "name of the job with the vectors")
    name: str = option("project", "folder below OUT")

    def __post_init__(self) -> None:
        check_options(self)
        if self.components < 1:
            raise UsageError(f"components: expected a positive number, got {self.components}")


class Projected(NamedTuple):
    """The table, how many images were placed now, what was left out by reason, and the plane's share of the variance.

    The share is that of the first two principal components.
    """

    derived: Derived
    placed: int
    left_out: dict[str, list[str]]
    share: float


class _State(NamedTuple):
    """What new images are placed by; `scores` and `layout` are empty where there is no t-SNE."""

    components: Components
    scores: np.ndarray
    layout: np.ndarray
    perplexity: float
    seed: int
    config: str


def project(out: str | Path, **given: Any) -> Projected:
    """Lay out all images that an embedding job of OUT has vectors of, or add new ones; `given`: `Projecting`'s fields.

    Raises UsageError for what cannot be done, RefusedError where another job has the name.
    """
    chosen, out = Projecting(**given), Path(out)
    folder = free_for(out, chosen.name, "project")
    source = sound(out, chosen.embedding)
    parents = {chosen.embedding: parent_digest(out / chosen.embedding)}
    if chosen.add:
        there = needed(out, chosen.name, "project")
        state, options = _state(there), dict(there.options)
        table, count = _added(there, state, source)
    else:
        state, table = _made(chosen, source)
        options = {name: value for name, value in asdict(chosen).items() if name != "add"}
        data, count = _packed(state), len(table)
        options |= {"perplexity": state.perplexity or None, "state_sha256": sha256(data).hexdigest()}
    derived = write_derived(out, chosen.name, "project", options, parents, table)
    if not chosen.add:
        write_whole(folder / STATE, lambda path: path.write_bytes(data))
    picture = draw(source.vectors, table)
    write_whole(folder / "projection.png", partial(picture.save, format="png"))
    total = state.components.total
    share = float(state.components.variances[:2].sum() / total) if total else 1.0
    return Projected(derived, count, source.left_out, share)


def _made(chosen: Projecting, source: Sound) -> tuple[_State, pa.Table]:
    if chosen.method == "tsne":
        required()
        fitting_perplexity(len(source.vectors), chosen.perplexity)
    found = components(moments(part.values for part in source.parts() if part.keys), chosen.components)
    keys, scores = _scores(source, found)
    layout, perplexity = np.zeros((0, 2)), 0.0
    if chosen.method == "tsne":
        perplexity = fitting_perplexity(len(keys), chosen.perplexity)
        layout = tsne(scores, perplexity, chosen.seed)
    state = _State(found, scores if len(layout) else scores[:0], layout, perplexity, chosen.seed, _config(source))
    return state, _table(keys, layout, scores)


def _added(there: Derived, state: _State, source: Sound) -> tuple[pa.Table, int]:
    """Return the table with the images that it has not yet, in the order of the embedding, and how many these are."""
    if state.config != _config(source):
        raise UsageError(
            f"{source.vectors.folder} is not the embedding that {there.folder} was made from; leave out --add"
        )
    before = there.table()
    placed_before = dict(zip(before["key"].to_pylist(), range(len(before)), strict=True))
    keys, scores = _scores(source, state.components, leave_out=placed_before)
    if not keys:
        return before, 0
    layout = state.layout
    if len(layout):
        layout = placed(state.scores, layout, scores, state.perplexity, state.seed)
    both = pa.concat_tables([before, _table(keys, layout, scores)])
    rows = placed_before | {key: len(before) + place for place, key in enumerate(keys)}
    order = [rows.pop(key) for part in source.parts() for key in part.keys if key in rows]
    return both.take(pa.array([*order, *rows.values()], pa.int64())), len(keys)


def _scores(source: Sound, found: Components, leave_out: Any = ()) -> tuple[list[str], np.ndarray]:
    keys: list[str] = []
    scores = [np.zeros((0, len(found.axes)))]
    for part in source.parts():
        chosen = [place for place, key in enumerate(part.keys) if key not in leave_out]
        keys += [part.keys[place] for place in chosen]
        if chosen:
            scores.append(found.scores(part.values[chosen]))
    return keys, np.concatenate(scores)


def _table(keys: list[str], layout: np.ndarray, scores: np.ndarray) -> pa.Table:
    plane = np.zeros((len(keys), 2))
    plane[:, : scores.shape[1]] = scores[:, :2]
    shown = layout if len(layout) else plane
    columns = [*shown.astype(np.float32).T, *plane.astype(np.float32).T]
    return pa.table({"key": keys, **dict(zip(TABLE_COLUMNS, columns, strict=True))})


def _config(source: Sound) -> str:
    return str(source.vectors.run["config_sha256"])


def _packed(state: _State) -> bytes:
    file = io.BytesIO()
    own = {name: value for name, value in state._asdict().items() if name != "components"}
    np.savez(file, **vars(state.components), **own)
    return file.getvalue()


def _state(there: Derived) -> _State:
    path = there.folder / STATE
    data = path.read_bytes() if path.exists() else b""
    if sha256(data).hexdigest() != there.options["state_sha256"]:
        raise UsageError(f"{path} is not what the table was made with; leave out --add to make both anew")
    with np.load(io.BytesIO(data), allow_pickle=False) as file:
        found = Components(file["mean"], file["axes"], file["variances"], float(file["total"]))
        numbers = float(file["perplexity"]), int(file["seed"]), str(file["config"])
        return _State(found, file["scores"], file["layout"], *numbers)


def command() -> click.Command:
    """Return the command `project`."""
    from .cli import click_option

    def run(out: Path, **given: Any) -> None:
        found = project(out, **given)
        if left_out := told(found.left_out):
            print(left_out, file=sys.stderr)
        print(
            f"{found.placed:,} images placed; the first two principal components hold {found.share:.1%} of the variance"
        )
        print(*sorted(found.derived.folder.glob("[!.]*.p*")), sep="\n")

    return click.Command(
        "project",
        callback=run,
        params=[
            click.Argument(["out"], type=click.Path(path_type=Path), metavar="OUT"),
            *(click_option(option) for option in options_of(Projecting)),
        ],
        help="Lay out the images embedded in OUT on the plane, by principal components and t-SNE.\n\n"
        "After 'afterimage embed … --mode extend', --add places the new ones among them.",
        no_args_is_help=True,
    )
