"""Vectors that can be compared: the finite ones of an embedding, and by name what is left out."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from afterimage.errors import UsageError

from .vectors import Part, Vectors, open_vectors

NONFINITE, ZERO = "nonfinite vector", "zero vector"


@dataclass
class Sound:
    """An embedding's vectors without those that nothing can be compared with; `left_out` has the others by reason."""

    vectors: Vectors
    directed: bool = False
    left_out: dict[str, list[str]] = field(default_factory=dict)

    def parts(self) -> Iterator[Part]:
        """Yield the shards' sound vectors, in the order of `Vectors.parts`; what is unsound is noted."""
        self.left_out = {}
        for row in self.vectors.failed().to_pylist():
            self.left_out.setdefault(row["status"], []).append(row["key"])
        for part in self.vectors.parts():
            finite = np.isfinite(part.values).all(1)
            zero = finite & ~part.values.any(1) if self.directed else np.zeros_like(finite)
            for reason, places in ((NONFINITE, ~finite), (ZERO, zero)):
                if places.any():
                    self.left_out.setdefault(reason, []).extend(_at(part.keys, places))
            kept = finite & ~zero
            yield Part(_at(part.keys, kept), part.values[kept])

    def load(self) -> Part:
        """Return all sound vectors at once; raise `UsageError` where there is none."""
        parts = list(self.parts())
        whole = Part([key for part in parts for key in part.keys], np.concatenate([part.values for part in parts]))
        if not whole.keys:
            raise UsageError(f"{self.vectors.folder}: expected finite vectors, got none; {told(self.left_out)}")
        return whole


def sound(out: str | Path, name: str, directed: bool = False) -> Sound:
    """Open an embedding job for comparisons; those by direction need vectors that are not zero."""
    return Sound(open_vectors(Path(out), name), directed)


def told(left_out: Mapping[str, list[str]]) -> str:
    """Return in one line how many were left out and why, with the first names; nothing where none was."""
    reasons = [
        f"{len(keys):,} {reason} ({', '.join(keys[:3])}{', …' if len(keys) > 3 else ''})"
        for reason, keys in left_out.items()
    ]
    return f"left out: {'; '.join(reasons)}" if reasons else ""


def _at(keys: list[str], places: np.ndarray) -> list[str]:
    return [keys[place] for place in places.nonzero()[0]]
