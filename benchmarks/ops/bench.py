"""What the rows of all operations share: configurations, inputs, and what is kept of large outputs."""

from collections.abc import Callable, Mapping
from typing import Any

import psutil  # type: ignore[import-untyped]
import torch
from torch import Tensor

from afterimage.ops import kernels
from benchmarks import STORE
from benchmarks.agreement import Agreement
from benchmarks.outcome import Outcome
from benchmarks.row import Configuration, Device, Role, Row, Work

Call = Callable[[], object]

# By default glibc gives what is larger than 32 MiB back to the system at once, and the next to allocate as much pays a
# page fault per 4 KiB: three quarters of the time of torch's own passes over memory. A long optimization should keep
# its memory, and with these settings it does; so do all configurations here.
VARIABLES = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
    "MALLOC_TOP_PAD_": str(2**26),
    "TORCHINDUCTOR_CACHE_DIR": str(STORE / "inductor"),
    # Whatever the caller's environment says, ours are the kernels of this machine.
    "AFTERIMAGE_KERNELS": "",
    "AFTERIMAGE_ISA": "",
    "AFTERIMAGE_NUM_THREADS": "",
}
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
SAMPLES = 2**16


def row(
    name: str,
    labels: Mapping[str, str],
    configurations: tuple[Configuration, ...],
    agreement: Agreement,
    work: Work,
    device: Device,
    memory: float,
    group: str,
    **options: Any,
) -> Row:
    """A row of one operation; `memory` is what its largest configuration takes, in bytes."""
    where = "" if device == "cpu" else f"{device}."
    return Row(
        f"ops.{where}{name}",
        ", ".join(labels.values()),
        configurations,
        agreement,
        work=work,
        device=device,
        group=f"ops.{where}{group}",
        labels={"op": labels["op"], "device": device, "size": labels["size"], "dtype": labels["dtype"]},
        blocked=_blocked(device, memory),
        **{"repeat": 5, "min_seconds": 0.1, **options},
    )


def _blocked(device: Device, memory: float) -> str | None:
    if device == "cuda":
        if not torch.cuda.is_available():
            return "no NVIDIA GPU: torch.cuda.is_available() is False"
        total = torch.cuda.get_device_properties(0).total_memory
    else:
        total = psutil.virtual_memory().total
    return f"takes {memory / 2**30:.1f} GiB of memory, there are {total / 2**30:.1f}" if memory > 0.8 * total else None


def configuration(name: str, setup: str, role: Role, params: Mapping[str, Any], **variables: str) -> Configuration:
    """A configuration in the environment that all share; `setup` is a function of `benchmarks.ops`."""
    return Configuration(name, f"benchmarks.ops.{setup}", role, params, variables={**VARIABLES, **variables})


def lesser_isa(setup: str, params: Mapping[str, Any], device: Device) -> tuple[Configuration, ...]:
    """The same without matrix tiles, where this machine has them."""
    module = kernels.module("cpu")
    if device != "cpu" or module is None or module.isa() != "amx":
        return ()
    return (configuration("avx512", setup, "ours", params, AFTERIMAGE_ISA="avx512"),)


def require_kernels(device: str) -> None:
    """Raise unless the compiled kernels are in use: the reference's time is not ours."""
    if kernels.module(device) is None:
        raise RuntimeError(f"no compiled kernels for {device}: run 'pip install .', unset AFTERIMAGE_KERNELS")


def compiled(function: Callable[..., Any], dynamic: bool = False) -> Callable[..., Any]:
    """What torch.compile makes of a function, for these sizes alone or for any; a graph break is an error."""
    if not dynamic:
        torch._dynamo.reset()  # only so many sizes are compiled
    return torch.compile(function, fullgraph=True, dynamic=dynamic)  # type: ignore[no-any-return]


def noise(shape: list[int], precision: str, device: str, seed: int = 0) -> Tensor:
    """Normally distributed numbers, which repeat after a million: gigabytes of them are there in a second."""
    generator = torch.Generator().manual_seed(seed)
    pattern = torch.randn(1_000_003, generator=generator).to(device, getattr(torch, precision))
    elements = torch.Size(shape).numel()
    if device == "cpu":
        _grow(min(8 * elements * pattern.itemsize, 2**30))
    return pattern.repeat(-(-elements // len(pattern)))[:elements].reshape(shape)


def _grow(memory: int) -> None:
    """Give the heap this many bytes that have been written to, for results to be taken from.

    What is small settles in the gaps that results leave, so the next ones go elsewhere, and the heap grows for some ten
    calls, with page faults that cost several times the work of a call.
    """
    torch.ones(memory, dtype=torch.uint8)  # zeros would be left to the system, unwritten


def sampled(*outputs: Tensor) -> Outcome:
    """Outputs of a call, of which `some` are compared."""
    return Outcome(lambda: {str(number): some(output) for number, output in enumerate(outputs)})


def some(output: Tensor) -> Tensor:
    """At most some hundred thousand elements of each item, evenly spread: all, where there are fewer."""
    items = output.detach().reshape(len(output), -1)
    return items[:, :: items.shape[1] // SAMPLES | 1].to("cpu", torch.float64)


def size(shape: list[int]) -> str:
    """A shape as it stands in names of rows."""
    return "x".join(map(str, shape))
