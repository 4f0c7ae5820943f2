"""The attacks of torchattacks, in the form of its documentation; in its own environment, for it pins requests 2.25."""

from collections.abc import Callable
from typing import Any

import torchattacks  # type: ignore[import-not-found]

from benchmarks.judges import attacked
from benchmarks.outcome import Outcome
from benchmarks.subjects import Normalized, attack_inputs


def attack(work: dict[str, Any]) -> Callable[[], Outcome]:
    """One step, or projected ones from the picture itself; all pictures in one batch."""
    network, images, target = attack_inputs(work)
    model = Normalized(network).to(images.device).eval()
    if work["steps"] == 1:
        method = torchattacks.FGSM(model, eps=work["eps"])
    else:
        method = torchattacks.PGD(model, eps=work["eps"], alpha=work["rate"], steps=work["steps"], random_start=False)
    if work["toward"]:
        method.set_mode_targeted_by_label(quiet=True)
    return lambda: attacked(network, images, method(images, target), target, work["toward"])
