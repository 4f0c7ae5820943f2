"""Guided ReLU: a forward pass that remembers, and the backward pass alone.

`Work` counts two passes over the activations in either, and one bit per element that has to be remembered.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from benchmarks.agreement import Agreement, largest_difference
from benchmarks.ops import bench
from benchmarks.ops.bench import Call
from benchmarks.row import Device, Row, Work

SHAPES: dict[Device, list[int]] = {"cpu": [8, 64, 112, 112], "cuda": [64, 64, 112, 112]}
"""Activations of a first convolution."""
EXACT = Agreement(largest_difference, 0.0, "the rule only selects values, it computes none")


def rows(device: Device, quick: bool) -> Iterator[Row]:
    """Forward and backward, per precision."""
    for pass_ in ("forward", "backward"):
        for precision in ("float32", "bfloat16"):
            yield _row(pass_, [2, 16, 32, 32] if quick else SHAPES[device], precision, device)


def _row(pass_: str, shape: list[int], precision: str, device: Device) -> Row:
    params = {"pass_": pass_, "shape": shape, "precision": precision, "device": device}
    elements = torch.Size(shape).numel()
    return bench.row(
        f"guided_relu.{pass_}.{precision}.{bench.size(shape)}",
        {"op": f"guided ReLU, {pass_}", "size": bench.size(shape), "dtype": precision},
        (
            bench.configuration("kernel", "guided_relu:kernel", "ours", params),
            bench.configuration("eager", "guided_relu:eager", "reference", params),
            bench.configuration("compile", "guided_relu:compiled", "peer", params),
        ),
        EXACT,
        Work(bytes=(2 * bench.BYTES[precision] + 1 / 8) * elements),
        device,
        memory=8 * elements * bench.BYTES[precision],
        group="guided_relu",
    )


def kernel(pass_: str, shape: list[int], precision: str, device: str) -> Call:
    """The public function and autograd."""
    from afterimage.ops import guided_relu

    bench.require_kernels(device)
    return _call(guided_relu, lambda gradient: gradient, pass_, shape, precision, device)


def eager(pass_: str, shape: list[int], precision: str, device: str) -> Call:
    """As hook-based libraries do it: torch's ReLU, and a ReLU of the gradient that comes out."""
    return _call(torch.relu, torch.relu_, pass_, shape, precision, device)


def compiled(pass_: str, shape: list[int], precision: str, device: str) -> Call:
    """The two passes as one that torch.compile makes; the forward pass is a ReLU."""
    images, gradient = _inputs(shape, precision, device)
    if pass_ == "forward":
        function = bench.compiled(torch.relu)
        return lambda: bench.sampled(function(images))
    output = torch.relu(images).detach()
    select = bench.compiled(lambda gradient, output: torch.where((output > 0) & (gradient > 0), gradient, 0))
    return lambda: bench.sampled(select(gradient, output))


def _call(
    forward: Callable[[Tensor], Tensor],
    rectify: Callable[[Tensor], Tensor],
    pass_: str,
    shape: list[int],
    precision: str,
    device: str,
) -> Call:
    images, gradient = _inputs(shape, precision, device)
    if pass_ == "forward":
        return lambda: bench.sampled(forward(images))
    output = forward(images)

    def backward() -> object:
        (result,) = torch.autograd.grad(output, images, gradient, retain_graph=True)
        return bench.sampled(rectify(result))

    return backward


def _inputs(shape: list[int], precision: str, device: str) -> tuple[Tensor, Tensor]:
    """Input and upstream gradient, half of either below zero."""
    images, gradient = (bench.noise(shape, precision, device, seed) for seed in (0, 1))
    return images.requires_grad_(), gradient
