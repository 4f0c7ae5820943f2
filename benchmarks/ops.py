"""Rows for the tensor operations: the compiled kernel beside its reference in torch."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from benchmarks.agreement import Agreement, largest_difference
from benchmarks.row import Configuration, Row, Work

Call = Callable[[], Tensor]
EXACT = Agreement(largest_difference, 0.0, "the backward pass only selects values, it computes none")


def rows(quick: bool) -> Iterator[Row]:
    """Guided-ReLU backward, per precision, of a first convolution's activations."""
    # Above 32 MiB malloc returns every result to the system, and the time would be that of page faults.
    shape = (2, 16, 32, 32) if quick else (8, 64, 112, 112)
    for precision in ("float32", "bfloat16"):
        params = {"shape": shape, "precision": precision}
        elements = torch.Size(shape).numel()
        size = torch.empty(0, dtype=getattr(torch, precision)).element_size()
        yield Row(
            f"ops.guided_relu.{precision}",
            f"guided-ReLU backward of {' × '.join(map(str, shape))} in {precision}",
            (
                Configuration("kernel", "benchmarks.ops:guided_relu_kernel", "ours", params),
                Configuration("kernel, 1 thread", "benchmarks.ops:guided_relu_kernel", "ours", params, threads=1),
                Configuration("reference", "benchmarks.ops:guided_relu_reference", "reference", params),
                Configuration("torch, two passes", "benchmarks.ops:guided_relu_torch", "peer", params),
            ),
            EXACT,
            items=elements,
            item="element",
            work=Work(bytes=2 * elements * size + elements // 8),  # gradient and bits are read, the result is written
        )


def guided_relu_kernel(shape: list[int], precision: str) -> Call:
    """The compiled kernel, by way of the operator that autograd calls."""
    from afterimage.ops import kernels

    if kernels.module("cpu") is None:
        raise RuntimeError("the compiled kernels are not in use: run 'pip install .', unset AFTERIMAGE_KERNELS")
    gradient, output = _pair(shape, precision)
    _, bits = torch.ops.afterimage.guided_relu(output, "guided", torch.inf)
    stride = list(output.stride())
    return lambda: torch.ops.afterimage.guided_relu_backward(gradient, bits, stride, "guided")  # type: ignore[no-any-return]


def guided_relu_reference(shape: list[int], precision: str) -> Call:
    """The specification."""
    from afterimage.ops.guided_relu import reference, reference_backward

    gradient, output = _pair(shape, precision)
    _, bits = reference(output, "guided", torch.inf)
    return lambda: reference_backward(gradient, bits, "guided")


def guided_relu_torch(shape: list[int], precision: str) -> Call:
    """As hook-based libraries do it: torch's own backward of ReLU, and a ReLU of what comes out."""
    gradient, output = _pair(shape, precision)
    return lambda: torch.ops.aten.threshold_backward(gradient, output, 0).relu_()  # type: ignore[no-any-return]


def _pair(shape: list[int], precision: str) -> tuple[Tensor, Tensor]:
    """Gradient and output of a ReLU, half of either at or below zero."""
    generator = torch.Generator().manual_seed(0)
    gradient, output = (torch.randn(shape, generator=generator).to(getattr(torch, precision)) for _ in range(2))
    return gradient, output.relu_()
