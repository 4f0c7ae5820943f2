"""Class visualization by torch-lucent, in an environment of its own: it pins kornia below 0.4.2."""

from collections.abc import Callable
from typing import Any

import torch
from lucent.optvis import objectives, param, render  # type: ignore[import-not-found]
from torch import Tensor

from benchmarks.judges import visualized
from benchmarks.outcome import Outcome
from benchmarks.subjects import classifier


def render_classes(work: dict[str, Any]) -> Callable[[], Outcome]:
    """All classes in one batch, Fourier coefficients with decorrelated colors, Adam, no transforms."""
    network, classes = classifier(work["network"]).to(work["device"]), work["classes"]
    objective = objectives.Objective.sum(
        [objectives.channel(work["layer"], index, batch=number) for number, index in enumerate(classes)]
    )
    made: list[Tensor] = []

    def parameters() -> tuple[list[Tensor], Callable[[], Tensor]]:
        torch.manual_seed(0)
        coefficients, image = param.image(work["size"], batch=len(classes))
        made[:] = [image]
        return coefficients, image

    def call() -> Outcome:
        render.render_vis(
            network,
            objective,
            parameters,
            lambda coefficients: torch.optim.Adam(coefficients, lr=work["rate"]),
            transforms=[],
            thresholds=(work["steps"],),
            progress=False,
            show_image=False,
        )
        return visualized(network, made[0](), torch.tensor(classes))

    return call
