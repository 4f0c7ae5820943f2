"""Weights from local files: safetensors, or torch files read with `weights_only`. No code runs from either."""

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import UsageError

State = dict[str, Tensor]


def read_state(path: Path) -> State:
    """Return the state dict in a local file, on the CPU, without the prefix "module." of data-parallel training.

    A torch file holds a state dict, or a mapping with one under "state_dict". Raises UsageError for anything else.
    """
    if not path.is_file():
        raise UsageError(f"no weights file {str(path)!r}; expected a safetensors file or a torch state dict")
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        came = _described(content)
        raise UsageError(f"{path}: expected a state dict of tensors, got {came}; save model.state_dict()")
    prefixed = all(str(name).startswith("module.") for name in content)
    return {str(name).removeprefix("module.") if prefixed else str(name): value for name, value in content.items()}


def names_in(path: Path) -> set[str]:
    """Return the names in a file as `read_state` reads it; of safetensors only the header is looked at."""
    if path.suffix != ".safetensors":
        return set(read_state(path))
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            return {name.removeprefix("module.") for name in file.keys()}  # noqa: SIM118, it is no mapping
    except (SafetensorError, OSError, ValueError) as exc:
        raise UsageError(f"{path} is not a valid safetensors file: {_line(exc)}") from exc


def _described(content: object) -> str:
    if not isinstance(content, Mapping):
        return type(content).__name__
    if not content:
        return "an empty one"
    entries = [f"{key!r} ({type(value).__name__})" for key, value in content.items() if not isinstance(value, Tensor)]
    return f"a mapping with {_few(entries)}"


def _read_safetensors(path: Path) -> object:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as exc:
        raise UsageError(f"{path} is not a valid safetensors file: {_line(exc)}") from exc


def _read_torch(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as exc:
        raise UsageError(
            f"{path} holds more than weights, or is damaged, and was not unpickled: "
            "save model.state_dict(), best with safetensors.torch.save_file"
        ) from exc
    # torch reports damage in several ways, depending on where in the file it lies
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, IndexError, AttributeError, TypeError) as exc:
        raise UsageError(f"{path} is not a readable torch file: {_line(exc)}") from exc


def _line(exc: BaseException) -> str:
    return (str(exc).strip() or type(exc).__name__).splitlines()[0][:200]


def load_state(network: nn.Module, state: State, path: Path, name: str) -> None:
    """Copy a state dict into a freshly built network; names and shapes have to match, and values to be finite."""
    check_state(network, state, path, name)
    network.load_state_dict(state, strict=False)


def check_state(network: nn.Module, state: State, path: Path, name: str) -> None:
    """Raise UsageError where names or shapes of a state dict are not a network's, or values not finite."""
    check_finite(state, path)
    own = network.state_dict()
    problems = {
        "missing": [key for key in own if key not in state and not key.endswith("num_batches_tracked")],
        "unexpected": [key for key in state if key not in own],
        "of another shape": [
            f"{key} {tuple(state[key].shape)} for {tuple(own[key].shape)}"
            for key in own
            if key in state and state[key].shape != own[key].shape
        ],
    }
    found = [f"{len(keys)} {what}: {_few(keys)}" for what, keys in problems.items() if keys]
    if found:
        raise UsageError(f"{path} does not fit {name}: {'; '.join(found)}")


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


def check_finite(state: State, path: Path) -> None:
    """Raise UsageError where a state dict holds values that are not finite."""
    for name, value in state.items():
        if value.is_floating_point() and not bool(torch.isfinite(value).all()):
            raise UsageError(f"{path}: tensor {name!r} holds NaN or infinite values; the weights are damaged")
