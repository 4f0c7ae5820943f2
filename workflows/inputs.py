"""What a run is over: the inputs asked for against those that OUT's manifest froze."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from afterimage.errors import RefusedError, UsageError

from . import manifest
from .labels import labels_for
from .manifest import Item
from .settings import Settings
from .shards import committed, read_shard
from .subjects import is_subject

Say = Callable[[str], None]
"""Tells the user one line."""
PICTURED = "filters", "filters.json"
"""The folder below OUT that pictures of filters are in, which belong to no run, and the file that marks it as ours."""


@dataclass(frozen=True)
class Inputs:
    """All inputs of a run, by manifest part; `new` is the part that is not written yet, if there is one.

    `written` is the number of parts that OUT had.
    """

    parts: list[pa.Table]
    new: pa.Table | None
    written: int

    @property
    def table(self) -> pa.Table:
        """All parts as one."""
        return pa.concat_tables(self.parts)

    @property
    def first(self) -> bool:
        """Whether nothing is written yet, so that the shards can still be divided otherwise."""
        return len(self.parts) == 1 and self.new is self.parts[0]

    def divided(self, shard_size: int) -> "Inputs":
        """Return the same inputs in shards of another size."""
        table = manifest.divide(manifest.items_of(self.table), shard_size)
        return Inputs([table], table, self.written)


def check_out(out: Path) -> Path:
    """Return `out` if it is absent, empty or one of ours."""
    try:
        str(out).encode()
    except UnicodeEncodeError:
        raise UsageError(f"OUT: expected a path in UTF-8, got {str(out)!r}") from None
    if out.exists() and not out.is_dir():
        raise UsageError(f"OUT: {str(out)!r} is a file; expected a folder that is absent, empty or made by afterimage")
    ours = out / PICTURED[0] if (out / PICTURED[0] / PICTURED[1]).exists() else None
    files = (
        path
        for path in out.rglob("*")
        if not path.is_dir() and not path.name.startswith(".") and ours not in path.parents
    )
    if not manifest.parts(out) and any(files):
        raise UsageError(f"OUT: {str(out)!r} has files of its own; expected one that is absent, empty or ours")
    return out


def scanned(settings: Settings, sources: Sequence[str | Path], out: Path) -> list[Item]:
    """Return the pictures that were asked for, with their labels."""
    items = manifest.scan(sources, leave_out=out)[: settings.limit]
    return manifest.with_labels(items, labels_for(items, settings.labels)) if settings.labels else items


def inputs_of(settings: Settings, items: Sequence[Item], folder: Path, say: Say) -> Inputs:
    """Return all inputs of a job in `folder`: those of the manifest, and those of `items` that the mode adds to them.

    Raises `RefusedError` where the items are not those that the manifest froze.
    """
    out = folder.parent
    written = len(manifest.parts(out))
    alone = not any(path for path in out.glob("*/run.json") if path.parent != folder)
    if not written or (settings.mode == "overwrite" and alone):
        table = manifest.divide(items, settings.shard_size or manifest.default_shard_size(len(items)))
        return Inputs([table], table, written)
    parts = manifest.load_parts(out)
    frozen = pa.concat_tables(parts)
    _refuse_another_kind(frozen, items, out)
    differ = {what: keys for what, keys in manifest.differences(frozen, items).items() if keys}
    _refuse(differ, settings, folder)
    if "removed" in differ:
        say(f"{len(differ['removed'])} images of the run are gone; they keep their rows")
    if "added" not in differ:
        return Inputs(parts, None, written)
    added = set(differ["added"])
    new = [item for item in items if item.key in added]
    known = set(frozen["uri"].to_pylist())
    if twice := [item.key for item in new if item.uri in known]:
        raise RefusedError(f"{out} has {len(twice)} of these files under other keys ({twice[0]}, …); name OUT anew")
    size = int(np.bincount(frozen["shard"].to_numpy()).max())
    first = int(frozen["shard"].to_numpy().max()) + 1
    part = manifest.divide(new, settings.shard_size or size, first)
    return Inputs([*parts, part], part, written)


def _refuse_another_kind(frozen: pa.Table, items: Sequence[Item], out: Path) -> None:
    """Refuse pictures in a folder of subjects, and subjects in a folder of pictures."""
    there, now = is_subject(frozen["uri"][0].as_py()), is_subject(items[0].uri)
    if there != now:
        kinds = {True: "classes or neurons", False: "pictures"}
        raise RefusedError(f"{out} was made from {kinds[there]}, now it would be {kinds[now]}; take another OUT")


def _refuse(differ: Mapping[str, list[str]], settings: Settings, folder: Path) -> None:
    """Refuse inputs that are not the frozen ones, but for what the mode or a retry allows."""
    allowed = {"added", "removed"} if settings.mode == "extend" else set()
    if settings.retry_failed and set(differ.get("resized", ())) <= _failed_keys(folder):
        allowed.add("resized")  # a file that was mended is what a retry is for
    wrong = {what: keys for what, keys in differ.items() if what not in allowed}
    if wrong:
        facts = "; ".join(f"{len(keys)} {what} ({', '.join(keys[:3])}, …)" for what, keys in wrong.items())
        hints = {"added": "--mode extend adds them", "labeled otherwise": "repeat --labels as it was"}
        hint = next((hints[what] for what in hints if what in wrong), "take another OUT")
        raise RefusedError(f"{folder.parent} was made from other inputs: {facts}; {hint}")


def _failed_keys(folder: Path) -> set[str]:
    shards = folder / "shards"
    failed = [commit for commit in committed(shards).values() if commit.failed]
    tables = [read_shard(shards, commit, ["key", "status"]) for commit in failed]
    rows = [row for table in tables for row in table.to_pylist()]
    return {row["key"] for row in rows if row["status"] != "ok"}
