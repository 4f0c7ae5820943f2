"""What the rows of all optimizations share: their form, and our network in the form in which runs use it."""

from typing import Any

import torch
from torch import Tensor, nn

from afterimage.models.network import Network, Preset
from benchmarks.agreement import Agreement
from benchmarks.machine import instruction_sets
from benchmarks.ops.bench import VARIABLES
from benchmarks.row import ONCE, Configuration, Device, Role, Row, Venv
from benchmarks.subjects import MEAN, STD

Work = dict[str, Any]


def row(
    name: str,
    title: str,
    device: Device,
    configurations: tuple[Configuration, ...],
    agreement: Agreement,
    items: int = 1,
    bf16: bool = False,
    **options: Any,
) -> Row:
    """A row whose configurations do one piece of work per round, once; their setups have warmed up."""
    where = "" if device == "cpu" else f"{device}."
    return Row(
        f"optimization.{where}{name}",
        title,
        configurations,
        agreement,
        items=items,
        item="image",
        device=device,
        blocked=blocked(device, bf16),
        **{**ONCE, **options},
    )


def blocked(device: Device, bf16: bool) -> str | None:
    """Return why rows cannot run here: no GPU, or no bfloat16 arithmetic where that is asked for."""
    if device == "cuda":
        return None if torch.cuda.is_available() else "no NVIDIA GPU: torch.cuda.is_available() is False"
    if bf16 and not {"avx512_bf16", "amx_bf16"} & set(instruction_sets()):
        return "no bfloat16 arithmetic in this processor: torch emulates it, tens of times slower than float32"
    return None


def configuration(name: str, setup: str, role: Role, venv: Venv | None = None, **params: Any) -> Configuration:
    """A configuration in the environment that all share; `setup` is a function of `benchmarks`."""
    return Configuration(name, f"benchmarks.{setup}", role, params, variables=VARIABLES, venv=venv)


def network(module: nn.Module, device: str, precision: str = "float32") -> Network:
    """Our network as runs use it: behind its normalization, in channels last."""
    model = Network(module.to(device, getattr(torch, precision)), Preset((224, 224), None, MEAN, STD))
    return model.eval().to(memory_format=torch.channels_last)


def last(images: Tensor) -> Tensor:
    """Images in channels last."""
    return images.contiguous(memory_format=torch.channels_last)
