"""Gram matrices and the style loss, at the sizes of VGG-19's five style layers.

`Work` counts what a call cannot do without: one triangle of the symmetric product, and the features read once by each
pass. torch's product computes both triangles, so its TFLOP/s appear as half of what it does.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from benchmarks.agreement import Agreement, largest_difference
from benchmarks.ops import bench
from benchmarks.ops.bench import Call
from benchmarks.row import Configuration, Device, Row, Work

STYLE_LAYERS = ((64, 1), (128, 2), (256, 4), (512, 8), (512, 16))
"""Channels, and the image's side divided by the layer's: relu1_1, relu2_1, relu3_1, relu4_1, relu5_1."""

AGREEMENTS = {
    "float32": Agreement(largest_difference, 1e-5, "what float32 is to keep of float64, by matrix tiles too"),
    "bfloat16": Agreement(largest_difference, 8e-3, "torch's product comes out in bfloat16, rounded to 8 bits"),
}
LOSS = Agreement(largest_difference, 1e-4, "the Gram matrices' 1e-5, enlarged where the target is subtracted")
BACKWARD = {"gram_backward": "Gram, forward + backward", "style_loss": "style loss, forward + backward"}


def rows(device: Device, quick: bool) -> Iterator[Row]:
    """Forward in float32 and bfloat16, forward and backward, style loss."""
    for kind, precision in (("gram", "float32"), ("gram", "bfloat16"), *((kind, "float32") for kind in BACKWARD)):
        for shape in _shapes(quick, (512,) if kind == "gram_backward" else (512, 1024)):
            yield _row(kind, shape, precision, device)


def _shapes(quick: bool, sides: tuple[int, ...]) -> list[list[int]]:
    """Each shape once: relu5_1 of an image of 1024² has that of relu4_1 of one of 512²."""
    shapes = (
        (images, channels // 2 if quick else channels, image // stride, image // stride)
        for images in ((1, 2) if quick else (1, 8))
        for image in ((32,) if quick else sides)
        for channels, stride in STYLE_LAYERS
    )
    return [list(shape) for shape in dict.fromkeys(shapes)]


def _row(kind: str, shape: list[int], precision: str, device: Device) -> Row:
    passes, products = (3, 1) if kind in BACKWARD else (1, 0)  # read twice and a gradient written; a product more
    images, channels, height, width = shape
    elements, positions = torch.Size(shape).numel(), height * width
    params = {"kind": kind, "shape": shape, "precision": precision, "device": device}
    forward = images * channels * (channels + 1) * positions
    return bench.row(
        f"{kind}.{precision}.{bench.size(shape)}",
        {"op": BACKWARD.get(kind, "Gram"), "size": bench.size(shape), "dtype": precision},
        _configurations(params, device),
        LOSS if kind == "style_loss" else AGREEMENTS[precision],
        Work(
            bytes=passes * elements * bench.BYTES[precision] + 4 * images * channels**2,
            operations=forward + products * 2 * images * channels**2 * positions,
            precision="bf16" if precision == "bfloat16" else "fp32",
        ),
        device,
        memory=2 * (1 + passes) * elements * bench.BYTES[precision],
        group=f"{kind}.{precision}",
        repeat=3,
        min_seconds=0.05,
    )


def _configurations(params: dict[str, object], device: Device) -> tuple[Configuration, ...]:
    return (
        bench.configuration("kernel", "gram:kernel", "ours", params),
        *(() if params["kind"] in BACKWARD else bench.lesser_isa("gram:kernel", params, device)),
        bench.configuration("eager", "gram:eager", "peer", params),
        bench.configuration("compile", "gram:compiled", "peer", params),
        bench.configuration("float64", "gram:oracle", "oracle", params),
    )


def product(features: Tensor) -> Tensor:
    """Gram matrices in torch's obvious spelling."""
    maps = features.flatten(2)
    return maps @ maps.mT


def loss(features: Tensor, target: Tensor) -> Tensor:
    """Style loss in torch's obvious spelling, of each image."""
    return (product(features) - target).square().sum((1, 2))


def kernel(kind: str, shape: list[int], precision: str, device: str) -> Call:
    """The public functions."""
    from afterimage.ops import gram, style_loss

    bench.require_kernels(device)
    return _call(style_loss if kind == "style_loss" else gram, kind, shape, precision, device)


def eager(kind: str, shape: list[int], precision: str, device: str) -> Call:
    """The obvious spelling."""
    return _call(loss if kind == "style_loss" else product, kind, shape, precision, device)


def compiled(kind: str, shape: list[int], precision: str, device: str) -> Call:
    """The obvious spelling compiled, for any size: the products are torch's own either way."""
    function = bench.compiled(loss if kind == "style_loss" else product, dynamic=True)
    return _call(function, kind, shape, precision, device)


def oracle(kind: str, shape: list[int], precision: str, device: str) -> Call:
    """The obvious spelling in float64, an image at a time."""
    features, extra = _inputs(kind, shape, precision, device)
    function = loss if kind == "style_loss" else product

    def call() -> object:
        outputs = [map(bench.some, _run(kind, function, *one)) for one in _singles(features, extra)]
        return bench.sampled(*(torch.cat(parts) for parts in zip(*outputs, strict=True)))

    return call


def _singles(features: Tensor, extra: list[Tensor]) -> Iterator[tuple[Tensor, list[Tensor]]]:
    for number, image in enumerate(features):
        part = [tensor.double() if tensor.ndim == 2 else tensor[number : number + 1].double() for tensor in extra]
        yield image.detach()[None].double().requires_grad_(features.requires_grad), part


def _call(function: Callable[..., Tensor], kind: str, shape: list[int], precision: str, device: str) -> Call:
    features, extra = _inputs(kind, shape, precision, device)
    return lambda: bench.sampled(*_run(kind, function, features, extra))


def _run(kind: str, function: Callable[..., Tensor], features: Tensor, extra: list[Tensor]) -> tuple[Tensor, ...]:
    if kind == "gram":
        return (function(features),)
    if kind == "gram_backward":
        output = function(features)
        return output.detach(), *torch.autograd.grad(output, features, extra)
    output = function(features, *extra)
    return output.detach(), *torch.autograd.grad(output.sum(), features)


def _inputs(kind: str, shape: list[int], precision: str, device: str) -> tuple[Tensor, list[Tensor]]:
    """Rectified features, and the target (C, C) of the loss or the upstream gradient (N, C, C)."""
    features = bench.noise(shape, precision, device).relu_().requires_grad_(kind != "gram")
    images, channels, height, width = shape
    if kind == "style_loss":
        half = bench.noise([channels, channels], "float32", device, seed=1)
        return features, [height * width * (0.1 + 0.01 * (half + half.mT))]
    return features, [bench.noise([images, channels, channels], "float32", device, seed=1)]
