"""Classes by where their evidence lies, the worst first, from the findings of all images."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .evidence import Grouped

BESIDE = 0.5
"""Evidence lies beside the objects where it is no denser on them than this share of what the median class has."""
APART = 3.0
"""Heatmaps lie apart from other classes' where their apartness is this multiple of the median class's."""
FEWEST = 5
"""Images: of fewer, nothing is said of a class."""


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
