"""A model as a constant: in eval mode, weights frozen, and back to what it was."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from threading import Lock

import torch
from torch import Tensor, nn


@dataclass
class _Hold:
    """A module's mode or a weight's flag: what it was before its first holder."""

    owner: nn.Module | Tensor
    value: bool
    holders: int = 0


# by the id of the owner, which the hold keeps alive
_holds: dict[int, _Hold] = {}
_lock = Lock()


@contextmanager
def frozen(model: nn.Module) -> Iterator[nn.Module]:
    """Put a model in eval mode with its weights frozen; restore each module's mode and each weight's flag.

    Where several threads hold the same module or weight, in whatever models, the first freezes it and the last
    restores it.
    """
    held: list[nn.Module | Tensor] = []
    try:
        with _lock:
            owners: list[nn.Module | Tensor] = [*model.modules(), *model.parameters()]
            for owner in owners:
                _hold(owner)
                held.append(owner)
        yield model
    finally:
        with _lock:
            for owner in held:
                _release(owner)


def _hold(owner: nn.Module | Tensor) -> None:
    hold = _holds.get(id(owner)) or _Hold(owner, owner.requires_grad if isinstance(owner, Tensor) else owner.training)
    if not hold.holders:
        _set(owner, False)
        _holds[id(owner)] = hold
    hold.holders += 1


def _release(owner: nn.Module | Tensor) -> None:
    hold = _holds[id(owner)]
    hold.holders -= 1
    if not hold.holders:
        del _holds[id(owner)]
        _set(owner, hold.value)


def _set(owner: nn.Module | Tensor, value: bool) -> None:
    if isinstance(owner, Tensor):
        # a tensor that was made in inference mode takes a flag only there
        with torch.inference_mode() if owner.is_inference() else nullcontext():
            owner.requires_grad_(value)
    elif owner.training != value:
        owner.training = value  # not eval(), which modules may override: exported ones raise
