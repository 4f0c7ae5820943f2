"""Total variation with its gradient: `Work` counts one reading of the images and one writing of the gradient."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor
from torch.nn.functional import pad

from benchmarks.agreement import Agreement, largest_difference
from benchmarks.ops import bench
from benchmarks.ops.bench import Call
from benchmarks.row import Device, Row, Work

FORMS = {"power": (2.5, False), "square": (2.0, False), "absolute": (1.0, True)}
"""beta, and whether the directions are taken apart."""
LABELS = {"power": "s^1.25", "square": "s", "absolute": "|dx| + |dy|"}

SIZES: dict[Device, tuple[list[int], ...]] = {
    "cpu": ([1, 3, 512, 512], [8, 3, 512, 512], [16, 3, 224, 224]),
    "cuda": ([8, 3, 512, 512], [8, 3, 1024, 1024], [16, 3, 1024, 1024], [8, 3, 2048, 2048]),
}
AGREEMENTS = {
    "float32": Agreement(largest_difference, 1e-5, "sums of a million terms in float32"),
    "bfloat16": Agreement(largest_difference, 3e-2, "torch rounds each step, and its sums, to bfloat16's 8 bits"),
}


def rows(device: Device, quick: bool) -> Iterator[Row]:
    """Forward and backward in each form; the power in bfloat16 too."""
    for form, precision in (*((form, "float32") for form in FORMS), ("power", "bfloat16")):
        for shape in ([1, 3, 24, 32], [2, 3, 17, 15]) if quick else SIZES[device]:
            yield _row(form, shape, precision, device)


def _row(form: str, shape: list[int], precision: str, device: Device) -> Row:
    params = {"form": form, "shape": shape, "precision": precision, "device": device}
    peers = [("eager", "eager"), ("compile", "compiled"), *([("kornia", "kornia")] if form == "absolute" else [])]
    elements = torch.Size(shape).numel()
    return bench.row(
        f"total_variation.{form}.{precision}.{bench.size(shape)}",
        {"op": f"total variation {LABELS[form]}, forward + backward", "size": bench.size(shape), "dtype": precision},
        (
            bench.configuration("kernel", "total_variation:kernel", "ours", params),
            bench.configuration("in one call", "total_variation:one_call", "ours", params),
            *(bench.configuration(name, f"total_variation:{setup}", "peer", params) for name, setup in peers),
            bench.configuration("float64", "total_variation:oracle", "oracle", params),
        ),
        AGREEMENTS[precision],
        Work(bytes=2 * elements * bench.BYTES[precision]),
        device,
        memory=60 * elements,
        group="total_variation",
    )


def powers(images: Tensor) -> Tensor:
    """Beta 2.5 in torch's obvious spelling."""
    return (_squares(images) ** 1.25).sum((1, 2, 3))


def squares(images: Tensor) -> Tensor:
    """Beta 2 likewise."""
    return _squares(images).sum((1, 2, 3))


def absolutes(images: Tensor) -> Tensor:
    """The anisotropic form with beta 1 likewise."""
    return images.diff(dim=-1).abs().sum((1, 2, 3)) + images.diff(dim=-2).abs().sum((1, 2, 3))


def _squares(images: Tensor) -> Tensor:
    return pad(images.diff(dim=-1), (0, 1)) ** 2 + pad(images.diff(dim=-2), (0, 0, 0, 1)) ** 2


SPELLINGS = {"power": powers, "square": squares, "absolute": absolutes}


def kernel(form: str, shape: list[int], precision: str, device: str) -> Call:
    """The public function and autograd."""
    from afterimage.ops import total_variation

    bench.require_kernels(device)
    beta, anisotropic = FORMS[form]
    images = _images(shape, precision, device)
    return _call(lambda images: total_variation(images, beta, anisotropic=anisotropic), images)


def one_call(form: str, shape: list[int], precision: str, device: str) -> Call:
    """Value and gradient without autograd."""
    from afterimage.ops import total_variation_with_gradient

    bench.require_kernels(device)
    beta, anisotropic = FORMS[form]
    images = _images(shape, precision, device).detach()
    return lambda: bench.sampled(*total_variation_with_gradient(images, beta, 0.0, anisotropic))


def eager(form: str, shape: list[int], precision: str, device: str) -> Call:
    """The obvious spelling."""
    return _call(SPELLINGS[form], _images(shape, precision, device))


def compiled(form: str, shape: list[int], precision: str, device: str) -> Call:
    """The obvious spelling compiled."""
    return _call(bench.compiled(SPELLINGS[form]), _images(shape, precision, device))


def kornia(form: str, shape: list[int], precision: str, device: str) -> Call:
    """Kornia's, which has the absolute form only, of each channel."""
    from kornia.losses import total_variation

    return _call(lambda images: total_variation(images).sum(1), _images(shape, precision, device))


def oracle(form: str, shape: list[int], precision: str, device: str) -> Call:
    """The obvious spelling in float64."""
    images = _images(shape, precision, device).detach().double().requires_grad_()
    return _call(SPELLINGS[form], images)


def _call(function: Callable[[Tensor], Tensor], images: Tensor) -> Call:
    def call() -> object:
        values = function(images)
        return bench.sampled(values, *torch.autograd.grad(values.sum(), images))

    return call


def _images(shape: list[int], precision: str, device: str) -> Tensor:
    return bench.noise(shape, precision, device).requires_grad_()
