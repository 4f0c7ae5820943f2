"""A model as a constant: in eval mode, weights frozen, and back to what it was."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Lock

from torch import Tensor, nn


@dataclass
class _State:
    modes: list[tuple[nn.Module, bool]]
    flags: list[tuple[Tensor, bool]]
    holders: int = 0


_states: dict[nn.Module, _State] = {}
_lock = Lock()


@contextmanager
def frozen(model: nn.Module) -> Iterator[nn.Module]:
    """Put a model in eval mode with its weights frozen; restore each module's mode and each weight's flag.

    Where several threads hold the same model, the first freezes it and the last restores it.
    """
    _hold(model)
    try:
        yield model
    finally:
        _release(model)


def _hold(model: nn.Module) -> None:
    with _lock:
        if model not in _states:
            modes = [(module, module.training) for module in model.modules()]
            flags: list[tuple[Tensor, bool]] = [(weight, weight.requires_grad) for weight in model.parameters()]
            model.eval()
            for weight, _ in flags:
                weight.requires_grad_(False)
            _states[model] = _State(modes, flags)
        _states[model].holders += 1


def _release(model: nn.Module) -> None:
    with _lock:
        state = _states[model]
        state.holders -= 1
        if state.holders:
            return
        del _states[model]
        for module, mode in state.modes:
            module.training = mode
        for weight, flag in state.flags:
            weight.requires_grad_(flag)
