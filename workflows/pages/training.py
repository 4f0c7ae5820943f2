"""The page of a style network's training: `FILE.training/index.html`, one file that loads nothing."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from afterimage.images.style_training import TERMS

from .pictures import embedded
from .templates import write_page
from .traces import trace

POINTS = 100
"""Means that a curve is made of at most: single steps' losses are those of other photographs each."""
WIDEST = 1600
"""Pixels of a sample."""
NAMES = {"content": "content", "style": "style", "tv": "total variation", "range": "out of range"}


def write_training_page(folder: Path, config: Mapping[str, Any], losses: Tensor) -> Path:
    """Write the page of a training whose steps had `losses` `(steps, 4)`; return where it is."""
    path = folder / "index.html"
    samples = sorted((folder / "samples").glob("*.png"))
    curves = {name: smoothed(losses[:, place]) for place, name in enumerate(TERMS)}
    curves = {"loss": smoothed(losses.sum(1)), **{NAMES[name]: values for name, values in curves.items()}}
    values = {
        "name": folder.stem,
        "config": config,
        "done": len(losses),
        "traces": [found for name, values in curves.items() if (found := trace(name, values)) is not None],
        "samples": [(int(file.stem), embedded(file, WIDEST)) for file in reversed(samples)],
    }
    write_page(path, "training.html", values)
    return path


def smoothed(values: Tensor) -> list[float]:
    """Return means over as many steps each, at most `POINTS`."""
    size = max(1, -(-len(values) // POINTS))
    return [float(part.mean()) for part in values.split(size)] if len(values) else []
