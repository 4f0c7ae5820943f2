"""Foolbox's attacks, in the form of its documentation; also with weights frozen, which saves it their gradients."""

import warnings
from collections.abc import Callable
from typing import Any

import foolbox  # type: ignore[import-not-found]
from foolbox.criteria import Misclassification, TargetedMisclassification  # type: ignore[import-not-found]

from benchmarks.judges import attacked
from benchmarks.outcome import Outcome
from benchmarks.subjects import MEAN, STD, attack_inputs


def attack(work: dict[str, Any], frozen: bool = False) -> Callable[[], Outcome]:
    """One step, or projected ones from the picture itself; all pictures in one batch."""
    network, images, target = attack_inputs(work)
    network.requires_grad_(not frozen)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a network that is in eval mode, but has no dropout
        model = foolbox.PyTorchModel(
            network, bounds=(0, 1), device=images.device, preprocessing={"mean": MEAN, "std": STD, "axis": -3}
        )
    if work["steps"] == 1:
        method = foolbox.attacks.LinfFastGradientAttack(random_start=False)
    else:
        method = foolbox.attacks.LinfPGD(abs_stepsize=work["rate"], steps=work["steps"], random_start=False)
    criterion = (TargetedMisclassification if work["toward"] else Misclassification)(target)

    def call() -> Outcome:
        _, adversarials, _ = method(model, images, criterion, epsilons=work["eps"])
        return attacked(network, images, adversarials, target, work["toward"])

    return call
