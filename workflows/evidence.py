"""Where the evidence of a job lies, image by image, read shard by shard from its stored heatmaps.

A finding per image whose heatmap is stored: `inside` and `expected` are empty where it has no known object, or none
that the network saw, and `hit` with them; `cluster` where its class was not clustered.
"""

import hashlib
import heapq
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import torch

from afterimage.errors import UsageError
from afterimage.evidence.objects import Box, Object, coverage
from afterimage.evidence.pointing import inside, pointing_game
from afterimage.evidence.spectral import Clusters, Profiles, apartness, clusters, profiles
from afterimage.registry import MAPS

from .annotations import Annotations
from .pages.jobs import Job
from .rows import dictionaries, heatmap_of, map_columns

CROP = ("crop_box_x0", "crop_box_y0", "crop_box_x1", "crop_box_y1")
FACTS = ("key", "width", "height", *CROP, "label", "target")
COMPARED = 10_000
"""Profiles of all classes together that are compared with one another, at most: the time grows with their square."""
SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("target", pa.string()),
        ("label", pa.string()),
        ("inside", pa.float32()),
        ("expected", pa.float32()),
        ("hit", pa.bool_()),
        ("reason", pa.string()),
        ("cluster", pa.int32()),
    ]
)
NO_OBJECT, UNSEEN, NO_EVIDENCE = "no object known", "object outside the crop", "no positive evidence"


def map_of(job: Job) -> str:
    """Return the name of a job's map; raise `UsageError` where none is stored."""
    name = next((name for name in MAPS if name in job.columns), None)
    if name is None and not job.commits:
        raise UsageError(f"{job.folder}: nothing is committed yet")
    if name is None:
        kept = job.run["config"].get("keep")
        why = "it was run with --keep none; run it with --keep heatmap" if kept == "none" else f"{job.verb} makes none"
        raise UsageError(f"{job.folder}: expected stored heatmaps, but {why}")
    return name


def crop_of(row: Mapping[str, Any]) -> Box:
    """Return what the network saw, in pixels of the upright original."""
    x0, y0, x1, y1 = (row[name] for name in CROP)
    return x0, y0, x1, y1


class Sample:
    """Profiles by class, at most `limit` of each: those of the lowest digests of keys, whatever order they come in."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.heaps: dict[str, list[tuple[int, str, Profiles]]] = {}

    def add(self, target: str, key: str, profile: Profiles) -> None:
        """Keep the profile, or not."""
        heap = self.heaps.setdefault(target, [])
        entry = -int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big"), key, profile
        if len(heap) < self.limit:
            heapq.heappush(heap, entry)
        else:
            heapq.heappushpop(heap, entry)

    def of(self, target: str, limit: int | None = None) -> tuple[list[str], Profiles]:
        """Return the keys and profiles `(n, d)` of a class, lowest digest first."""
        chosen = sorted(self.heaps[target], key=lambda entry: -entry[0])[:limit]
        return [key for _, key, _ in chosen], np.stack([profile for _, _, profile in chosen])


class Grouped(NamedTuple):
    """One class's clusters: keys by cluster, the largest first, and which are outlying; none if too few images."""

    members: list[list[str]]
    outlying: list[int]
    eigenvalues: list[float]


def findings(job: Job, annotations: Annotations | None, sample: Sample) -> Iterator[pa.Table]:
    """Yield the findings of each committed shard, without clusters, and hand the heatmaps' profiles to `sample`.

    Raises `UsageError` for a job without heatmaps and for annotations that do not fit their image.
    """
    name = map_of(job)
    for shard in job.commits:
        found = []
        for row in dictionaries(job.read(shard, (*FACTS, *map_columns(name))), name):
            values = heatmap_of(row, name)
            if values is not None:
                found.append(_finding(row, torch.from_numpy(values)[None], annotations, sample))
        yield pa.Table.from_pylist(found, SCHEMA)


def _finding(
    row: Mapping[str, Any], heatmap: torch.Tensor, annotations: Annotations | None, sample: Sample
) -> dict[str, Any]:
    profile = profiles(heatmap)[0].numpy()
    if np.isfinite(profile).all():
        sample.add(row["target"] or "", row["key"], profile)
    found = {name: row[name] for name in ("key", "target", "label")}
    if annotations is None:
        return found
    known = annotations.find(row["key"], row["height"], row["width"], row["target"])
    if known is None:
        return found | {"reason": NO_OBJECT}
    return found | judged(heatmap, known, crop_of(row))


def judged(heatmap: torch.Tensor, known: Object, crop: Box) -> dict[str, Any]:
    """Return the figures of one heatmap `(1, C, h, w)` on an object, or the reason why there are none."""
    covered = torch.from_numpy(coverage(known, crop, *heatmap.shape[2:]))[None]
    if not covered.any():
        return {"reason": UNSEEN}
    share = float(inside(heatmap, covered))
    if not np.isfinite(share):
        return {"reason": NO_EVIDENCE}
    hit = bool(pointing_game(heatmap, covered))
    return {"inside": share, "expected": float(covered.double().mean()), "hit": hit}


def grouped(sample: Sample, seed: int) -> dict[str, Grouped]:
    """Return the clusters of each class that has enough images."""
    made = {}
    for target in sorted(sample.heaps):
        keys, own = sample.of(target)
        found = clusters(own, seed)
        if found is not None:
            made[target] = _named(keys, found)
    return made


def _named(keys: list[str], found: Clusters) -> Grouped:
    members: list[list[str]] = [[] for _ in range(int(found.members.max()) + 1)]
    for key, cluster in zip(keys, found.members.tolist(), strict=True):
        members[cluster].append(key)
    return Grouped(members, found.outlying, found.eigenvalues.tolist())


def apart(sample: Sample) -> dict[str, float]:
    """Return for each class how much its heatmaps resemble one another rather than other classes', 1 by chance."""
    targets = sorted(sample.heaps)
    if len(targets) < 2:
        return {}
    limit = max(2, COMPARED // len(targets))
    own = [sample.of(target, limit)[1] for target in targets]
    classes = np.repeat(np.arange(len(targets)), [len(one) for one in own])
    found = apartness(np.concatenate(own), classes)
    return {target: value for target, value in zip(targets, found.tolist(), strict=True) if np.isfinite(value)}


def with_clusters(table: pa.Table, groups: Mapping[str, Grouped]) -> pa.Table:
    """Fill in the findings' clusters."""
    cluster = {key: number for own in groups.values() for number, keys in enumerate(own.members) for key in keys}
    column = pa.array([cluster.get(key) for key in table["key"].to_pylist()], pa.int32())
    return table.set_column(table.schema.get_field_index("cluster"), "cluster", column)
