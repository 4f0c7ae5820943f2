"""Nearest-neighbor texture beside an exhaustive search in numpy, a product of matrix and vector a pixel."""

from collections.abc import Callable, Iterator

import torch

from benchmarks.agreement import Agreement, excess
from benchmarks.judges import synthesized
from benchmarks.optimization import run
from benchmarks.optimization.run import Work
from benchmarks.outcome import Outcome
from benchmarks.row import Device, Row
from benchmarks.subjects import sample

AS_NEAR = Agreement(excess, 0.2, "distance from the sample's windows, on average: textures grow from other noise")


def rows(device: Device, quick: bool) -> Iterator[Row]:
    """On the CPU: the op has no other kernel."""
    if device != "cpu":
        return
    size, given = (24, 64) if quick else (128, 64)
    work = {"size": size, "sample": given, "window": 9, "levels": 3}
    yield run.row(
        f"nearest-texture.{size}",
        f"texture of {size}² from {given}², window 9, 3 levels, exhaustive search",
        device,
        (
            run.configuration("afterimage", "optimization.nearest:texture", "ours", work=work),
            run.configuration("numpy", "peers.texture_numpy:synthesize", "reference", work=work),
        ),
        AS_NEAR,
        repeat=5,
    )


def texture(work: Work) -> Callable[[], Outcome]:
    """The op."""
    from afterimage.ops import nearest_texture

    given = sample(work["sample"])
    size, seeds = (work["size"], work["size"]), torch.zeros(1, dtype=torch.int64)

    def call() -> Outcome:
        made = nearest_texture(given[None], size, seeds, window=work["window"], levels=work["levels"])
        return synthesized(given, made[0])

    return call
