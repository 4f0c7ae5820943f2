"""The class score and its gradient with respect to the images, leaving the model as it was."""

from collections.abc import Callable
from itertools import chain
from typing import Literal

import torch
from torch import Tensor, nn

from ..errors import UsageError
from .frozen import frozen
from .layers import Neuron

Score = Literal["logit", "probability"]


def image_gradient(model: nn.Module, images: Tensor, score: Callable[[Tensor], Tensor]) -> Tensor:
    """Return d score / d image, `(N, 3, H, W)`, signed.

    `score` maps images `(N, 3, H, W)` to one value each, `(N,)`; images do not influence one another. It gets a copy,
    which it may overwrite. Works under `no_grad` and `inference_mode` too. Raises UsageError for other images, and
    where the score does not depend on them.
    """
    check_images(images)
    if any(tensor.is_inference() for tensor in chain(model.parameters(), model.buffers())):
        raise UsageError("the model was made under torch.inference_mode, which allows no gradient: make it outside")
    with frozen(model), torch.inference_mode(False), torch.enable_grad():
        leaf = images.clone().detach() if images.is_inference() else images.detach()
        scores = score(leaf.requires_grad_().clone())
        gradient = torch.autograd.grad(scores.sum(), leaf, allow_unused=True)[0] if scores.requires_grad else None
    if gradient is not None:
        return gradient
    raise UsageError("the score does not depend on the images: does the model detach them, or compute under no_grad?")


def check_images(images: Tensor) -> None:
    """Refuse, with UsageError, what is no floating-point tensor `(N, C, H, W)`."""
    expected = "images: expected a floating-point tensor (N, 3, H, W) in [0, 1]"
    if not isinstance(images, Tensor):
        raise UsageError(f"{expected}, got {type(images).__name__}; torch.from_numpy makes one of an array")
    if images.ndim != 4 or not images.is_floating_point():
        raise UsageError(f"{expected}, got {images.dtype} {tuple(images.shape)}")


def subject_score(
    model: nn.Module, images: Tensor, target: Tensor | None, of: Neuron | None, score: Score = "logit"
) -> Tensor:
    """Return the scalar explained for each image, `(N,)`: the neuron `of`, or else the target class's score."""
    check_subject(target, of, score)
    return class_score(model, images, target, score) if of is None else of.score(model, images)


def check_subject(target: Tensor | None, of: Neuron | None, score: Score) -> None:
    """Refuse, with UsageError, a target that is no tensor, and a class together with a neuron."""
    if of is not None and (target is not None or score != "logit"):
        raise UsageError(f"expected a class (target, score) or a neuron (of), got both; leave one out: of={of}")
    if not isinstance(target, Tensor | None):
        example = f"; use torch.tensor([{target}])" if isinstance(target, int) else ""
        raise UsageError(f"target: expected a tensor of class indices (N,), got {type(target).__name__}{example}")


def class_score(model: nn.Module, images: Tensor, target: Tensor | None, score: Score = "logit") -> Tensor:
    """Return each image's score of its target class, `(N,)`; of its most probable class where `target` is None.

    `target` holds class indices, `(N,)`. The probability is the softmax of the logits.
    """
    check_subject(target, None, score)
    logits = class_logits(model, images)
    values = probabilities(logits) if score == "probability" else logits
    return values.gather(1, target_classes(logits, target).unsqueeze(1)).squeeze(1)


def class_logits(model: nn.Module, images: Tensor) -> Tensor:
    """Return the model's logits `(N, classes)`; raise UsageError if it returns anything else."""
    logits = model(images)
    if isinstance(logits, Tensor) and logits.ndim == 2:
        return logits
    came = f"a tensor of shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
    raise UsageError(f"the model has to return logits (N, classes), got {came}; explain a layer with of=")


def probabilities(logits: Tensor) -> Tensor:
    """Return the softmax of logits `(N, classes)`, in float32 at least."""
    return logits.softmax(1, torch.promote_types(logits.dtype, torch.float32))


def target_classes(logits: Tensor, target: Tensor | None) -> Tensor:
    """Return each image's class, `(N,)` int64 where the logits are: `target`, or the most probable one."""
    if target is None:
        return logits.detach().argmax(1)
    return checked_target(target, *logits.shape).to(logits.device)


def checked_target(target: Tensor, count: int, classes: int) -> Tensor:
    """Return `target` copied as int64 `(N,)` if it names one of the model's classes for each image."""
    integer = not (target.is_floating_point() or target.is_complex() or target.dtype == torch.bool)
    if target.shape != (count,) or not integer:
        raise UsageError(f"target: expected {count} class indices, got {target.dtype} {tuple(target.shape)}")
    if count and (int(target.min()) < 0 or int(target.max()) >= classes):
        raise UsageError(f"target: expected classes 0 to {classes - 1}, got {int(target.min())} to {int(target.max())}")
    return target.to(torch.int64, copy=True)  # one made under inference_mode could not be saved for the gradient
