import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import Tensor

from afterimage.errors import UsageError
from afterimage.ops import kernels, occlude
from afterimage.ops.occlude import reference

from . import checks
from .checks import bit_equal, random

FORWARD = torch.ops.afterimage.occlude.default
BACKWARD = torch.ops.afterimage.occlude_backward.default
FILLS = {"number": (), "color": (3,), "picture": (3, 67, 71)}
DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]

# Loads the module by its file, without torch, and compares with slices in NumPy, bit by bit.
PROBE = """
import importlib.util, itertools, sys
import numpy as np
spec = importlib.util.spec_from_file_location("_cpu", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
print(module.isa())
generator = np.random.default_rng(0)
random = lambda shape, kind: generator.integers(0, 256, (*shape, np.dtype(kind).itemsize), np.uint8).view(kind)[..., 0]
kinds = {"float64": np.uint64, "float32": np.uint32, "float16": np.uint16, "bfloat16": np.uint16}
sizes = [(1, 1, 1), (3, 5, 7), (1, 9, 130), (2, 67, 71), (5, 3, 17), (3, 40, 2200)]
for (channels, height, width), last in itertools.product(sizes, (False, True)):
    corners = generator.integers(0, [height + 1, width + 1], (2, 6, 2))
    edges = [[0, 0, height, width], [0, width // 2, height, width // 2]]
    windows = np.concatenate([np.concatenate([corners.min(0), corners.max(0)], 1), edges])
    shape = (height, width, channels) if last else (channels, height, width)
    sizes = (len(windows), channels, height, width, last)
    pick = lambda y0, x0, y1, x1: np.s_[y0:y1, x0:x1] if last else np.s_[:, y0:y1, x0:x1]
    for name, kind in kinds.items():
        image, picture, output = random(shape, kind), random(shape, kind), random((len(windows) + 1, *shape), kind)
        row = np.ascontiguousarray(picture[0] if last else picture[:, 0])
        for fill, whole in ((row, row[None] if last else row[:, None]), (picture, picture)):
            expected = np.concatenate([np.repeat(image[None], len(windows), 0), output[-1:]])
            for copy, window in zip(expected, windows):
                copy[pick(*window)] = np.broadcast_to(whole, shape)[pick(*window)]
            addresses = [array.ctypes.data for array in (image, windows, fill, output)]
            getattr(module, "occlude_" + name)(*addresses, *sizes, fill is picture, 3)
            assert (output == expected).all(), (name, shape)
    for name, kind in (("float32", np.uint32), ("bfloat16", np.uint16)):
        values = generator.standard_normal((len(windows), *shape), np.float32).view(np.uint32)
        given = values if name == "float32" else (values >> 16).astype(kind)
        terms = given.view(np.float32) if name == "float32" else (given.astype(np.uint32) << 16).view(np.float32)
        for inside in (False, True):
            expected, grad = np.zeros(shape, np.float32), np.full(shape, 7, np.float32)
            for term, window in zip(terms, windows):
                taken = np.full(shape, not inside)
                taken[pick(*window)] = inside
                expected += np.where(taken, term, 0)
            addresses = [array.ctypes.data for array in (given, windows, grad)]
            getattr(module, "occlude_backward_" + name)(*addresses, *sizes, inside, 3)
            assert (grad == expected).all(), (name, shape, inside)
"""


def sliced(image: Tensor, windows: Tensor, fill: Tensor) -> Tensor:
    """The definition by slices: (B, C, H, W)."""
    picture = (fill[:, None, None] if fill.ndim == 1 else fill).expand_as(image)
    output = image.repeat(len(windows), 1, 1, 1)
    for copy, (y0, x0, y1, x1) in zip(output, windows.tolist(), strict=True):
        copy[:, y0:y1, x0:x1] = picture[:, y0:y1, x0:x1]
    return output


def summed(grad_output: Tensor, windows: Tensor, inside: bool) -> Tensor:
    """The gradients by slices: (C, H, W)."""
    total = torch.zeros_like(grad_output[0]) if len(windows) else grad_output.new_zeros(grad_output.shape[1:])
    for term, (y0, x0, y1, x1) in zip(grad_output, windows.tolist(), strict=True):
        part = torch.zeros_like(term) if inside else term.clone()
        part[:, y0:y1, x0:x1] = term[:, y0:y1, x0:x1] if inside else 0
        total += part
    return total


def last(image: Tensor) -> Tensor:
    """The same image, channels-last."""
    return image.permute(1, 2, 0).contiguous().permute(2, 0, 1)


def cover(image: Tensor, count: int = 5) -> Tensor:
    """Windows of every kind: nothing, all, a corner, a row, no width."""
    height, width = image.shape[-2:]
    corner = [height // 2, width // 3, height, width]
    row = [height // 3, 0, min(height, height // 3 + 1), width]
    windows = [corner, row, [0, 0, 0, 0], [0, 0, height, width], [0, width // 2, height, width // 2]]
    return torch.tensor(windows[:count])


def case(name: str, layout: Callable[[Tensor], Tensor], count: int, **options: Any) -> checks.Case:
    """Of a batch, the images' channels are those of one image."""

    def merged(images: Tensor) -> Tensor:
        return images.reshape(-1, *images.shape[-2:])

    def gradient(images: Tensor, grad_output: Tensor) -> Tensor:
        return summed(grad_output, cover(images, count), inside=False).reshape(images.shape)

    fill = torch.tensor(0.5, dtype=torch.float64)
    operators = (
        (FORWARD, lambda images: (layout(merged(images)).requires_grad_(), cover(images), fill.to(images))),
        (BACKWARD, lambda images: (as_batch(images, layout).requires_grad_(), cover(images)[: len(images)], True)),
    )
    return checks.Case(
        name=name,
        function=lambda images: occlude(layout(merged(images)), cover(images, count), 0.5),
        forward=lambda images: sliced(merged(images), cover(images, count), fill),
        gradient=gradient,
        derivative=name != "special",
        operators=() if name == "special" else operators,
        **options,
    )


def as_batch(images: Tensor, layout: Callable[[Tensor], Tensor]) -> Tensor:
    return images.contiguous(memory_format=torch.channels_last) if layout is last else images


CASES = [
    case("planes", lambda image: image, 5, rank=4),
    case("channels_last", last, 5, rank=4),
    case("special", lambda image: image, 1, rank=3, exact=True),
]


@checks.parametrize(CASES)
def test_the_six_checks(check: Callable[[], None]) -> None:
    check()


def test_two_windows_by_hand() -> None:
    image = torch.arange(6.0).reshape(1, 2, 3).requires_grad_()
    fill = torch.tensor(9.0, requires_grad=True)
    output = occlude(image, torch.tensor([[0, 1, 2, 2], [1, 0, 2, 3]]), fill)
    assert output.tolist() == [[[[0, 9, 2], [3, 9, 5]]], [[[0, 1, 2], [9, 9, 9]]]]
    grad_output = torch.tensor([[[[1.0, 2, 3], [4, 5, 6]]], [[[10, 20, 30], [40, 50, 60]]]])
    grad_image, grad_fill = torch.autograd.grad(output, (image, fill), grad_output)
    assert grad_image.tolist() == [[[11, 20, 33], [4, 0, 6]]]
    assert grad_fill.item() == 2 + 5 + 40 + 50 + 60


@pytest.mark.parametrize("kind", FILLS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", [Tensor.contiguous, last])
def test_every_fill_and_type_equals_slices_to_the_bit(
    kind: str, dtype: torch.dtype, layout: Callable[[Tensor], Tensor]
) -> None:
    image, fill = random(3, 67, 71, seed=1).to(dtype), random(*FILLS[kind]).to(dtype)
    output = occlude(layout(image), cover(image), fill)
    assert bit_equal(output, sliced(image, cover(image), fill))
    assert bit_equal(output, reference(layout(image), cover(image), fill))
    assert output.is_contiguous(memory_format=torch.channels_last if layout is last else torch.contiguous_format)


@pytest.mark.parametrize("kind", FILLS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", [Tensor.contiguous, last])
def test_gradient_of_every_fill(kind: str, dtype: torch.dtype, layout: Callable[[Tensor], Tensor]) -> None:
    image, fill = layout(random(3, 67, 71).to(dtype)), random(*FILLS[kind], seed=1).to(dtype).requires_grad_()
    output = occlude(image, cover(image), fill)
    grad_output = torch.empty_like(output).copy_(random(*output.shape, seed=2))
    (grad_fill,) = torch.autograd.grad(output, fill, grad_output)
    expected = summed(grad_output.double(), cover(image), inside=True)
    expected = expected if kind == "picture" else expected.sum((1, 2)) if kind == "color" else expected.sum()
    assert (grad_fill.dtype, grad_fill.shape) == (dtype, fill.shape)
    checks.assert_near(grad_fill, expected, checks.TOLERANCES[dtype])


def test_first_and_second_derivatives_to_image_and_fill() -> None:
    image = random(3, 4, 5).requires_grad_()
    for shape in ((), (3,), (3, 4, 5)):
        fill = random(*shape, seed=1).requires_grad_()
        assert torch.autograd.gradcheck(lambda image, fill: occlude(image, cover(image), fill), (image, fill))
        assert torch.autograd.gradgradcheck(lambda image, fill: occlude(image, cover(image), fill), (image, fill))


def test_sums_of_half_types_are_in_float32() -> None:
    image = torch.zeros(1, 1, 1, dtype=torch.bfloat16, requires_grad=True)
    fill = torch.zeros((), dtype=torch.bfloat16, requires_grad=True)
    windows = torch.tensor([[0, 0, 0, 0], [0, 0, 1, 1]]).repeat(512, 1)
    gradients = torch.autograd.grad(occlude(image, windows, fill).sum(), (image, fill))
    assert [gradient.item() for gradient in gradients] == [512, 512]  # 256 + 1 is 256 in bfloat16


@pytest.mark.parametrize("shape", [(0, 5, 6), (3, 0, 6), (3, 5, 0), (3, 5, 6)])
def test_no_windows_and_no_pixels(shape: tuple[int, ...]) -> None:
    image = torch.ones(shape, requires_grad=True)
    fill = torch.ones(shape, requires_grad=True)
    output = occlude(image, torch.zeros(0, 4, dtype=torch.int64), fill)
    assert output.shape == (0, *shape)
    gradients = torch.autograd.grad(output.sum(), (image, fill))
    assert all(gradient.equal(torch.zeros(shape)) for gradient in gradients)
    assert occlude(image[:, :, :0], torch.zeros(2, 4, dtype=torch.int64), 1).shape == (2, *shape[:2], 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", [Tensor.contiguous, last])
def test_thread_counts_give_identical_bits(dtype: torch.dtype, layout: Callable[[Tensor], Tensor]) -> None:
    image, fill = layout(random(3, 211, 213).to(dtype)), torch.tensor(0.5, dtype=dtype).requires_grad_()
    grad_output = torch.empty_like(occlude(image, cover(image), 0)).copy_(random(5, 3, 211, 213))

    def run(threads: int) -> list[Tensor]:
        torch.set_num_threads(threads)
        leaf = image.clone(memory_format=torch.preserve_format).requires_grad_()
        output = occlude(leaf, cover(image), fill)
        return [output, *torch.autograd.grad(output, (leaf, fill), grad_output)]

    before = torch.get_num_threads()
    try:
        alone = run(1)
        assert all(bit_equal(*pair) for threads in (2, 3, 16) for pair in zip(run(threads), alone, strict=True))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512", "amx"])
def test_every_instruction_set_equals_slices_to_the_bit(isa: str) -> None:
    spec = find_spec("afterimage._cpu")
    assert spec is not None
    command = [sys.executable, "-c", PROBE, str(spec.origin)]
    environment = {**os.environ, "AFTERIMAGE_ISA": isa}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if "this machine has baseline to" in result.stderr:
        pytest.skip(f"no {isa} on this machine")
    assert result.stdout.split() == [isa], result.stderr
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
def test_compiles_without_graph_breaks(backend: str) -> None:
    def network(image: Tensor, windows: Tensor, color: Tensor) -> Tensor:
        return occlude(occlude(image * 2, windows, color).mean(0), windows, 0.25) * 4

    image, color = random(3, 9, 11).requires_grad_(), random(3, seed=1).requires_grad_()
    compiled = torch.compile(network, fullgraph=True, backend=backend)
    eager, traced = network(image, cover(image), color), compiled(image, cover(image), color)
    torch.testing.assert_close(traced, eager)
    grad_output = random(*eager.shape, seed=2)
    pairs = zip(*(torch.autograd.grad(f, (image, color), grad_output) for f in (traced, eager)), strict=True)
    for ours, expected in pairs:
        torch.testing.assert_close(ours, expected)
    with pytest.raises(UsageError, match=r"windows\[2\] is \[0, 0, 0, 12\]"):
        compiled(image, torch.tensor([[0, 0, 0, 0], [0, 0, 9, 11], [0, 0, 0, 12]]), color)


def test_windows_stay_as_they_were_given() -> None:
    image, windows = random(3, 6, 7), cover(random(3, 6, 7))
    strided = windows.repeat_interleave(2, 0).repeat_interleave(2, 1)[::2, ::2]
    assert bit_equal(occlude(image, strided, 0), occlude(image, windows, 0))
    assert windows.equal(cover(image))


def test_gradient_goes_only_where_it_is_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[bool] = []

    class Recorder:
        def occlude_backward_float32(self, *arguments: Any) -> None:
            calls.append(arguments[-2])

    image, fill = torch.ones(3, 6, 7, requires_grad=True), torch.ones(3, requires_grad=True)
    outputs = [occlude(*given) for given in ((image, cover(image), 0.5), (image.detach(), cover(image), fill))]
    monkeypatch.setattr(kernels, "module", lambda device: Recorder())
    for output in outputs:
        output.sum().backward()
    assert calls == [False, True]


class Recorder:
    """Stands for the module of kernels and keeps the arguments of each call."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def occlude_float32(self, *arguments: Any) -> None:
        self.calls.append(arguments)

    def occlude_backward_float32(self, *arguments: Any) -> None:
        self.calls.append(arguments)


@pytest.mark.parametrize("layout", [Tensor.contiguous, last])
def test_kernels_take_dense_tensors_without_copies(
    monkeypatch: pytest.MonkeyPatch, layout: Callable[[Tensor], Tensor]
) -> None:
    recorder = Recorder()
    monkeypatch.setattr(kernels, "module", lambda device: recorder)
    image, picture = layout(torch.ones(3, 5, 7)), layout(torch.zeros(3, 5, 7))
    windows = cover(image)
    output = FORWARD(image, windows, picture)
    grad = BACKWARD(output, windows, False)
    forward, backward = recorder.calls
    sizes = (5, 3, 5, 7, layout is last)
    addresses = [tensor.data_ptr() for tensor in (image, windows, picture, output)]
    assert forward == (*addresses, *sizes, True, kernels.threads())
    assert backward == (output.data_ptr(), windows.data_ptr(), grad.data_ptr(), *sizes, False, kernels.threads())
    assert grad.stride() == image.stride()


IMAGE, WINDOWS = torch.ones(3, 5, 6), torch.tensor([[0, 0, 5, 6]])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((IMAGE[0], WINDOWS, 0), r"image is float32 \(5, 6\), expected a dense floating-point tensor \(C, H, W\)"),
        ((IMAGE.int(), WINDOWS, 0), r"image is int32 \(3, 5, 6\), expected"),
        ((IMAGE.to_sparse(), WINDOWS, 0), r"image is float32 \(3, 5, 6\), torch.sparse_coo, expected a dense"),
        ((IMAGE, WINDOWS[0], 0), r"windows is int64 \(4,\), expected int64 \(B, 4\), rows y0, x0, y1, x1"),
        ((IMAGE, WINDOWS[:, :3], 0), r"windows is int64 \(1, 3\), expected"),
        ((IMAGE, WINDOWS.float(), 0), r"windows is float32 \(1, 4\), expected"),
        ((IMAGE, WINDOWS.to("meta"), 0), "windows is on meta, expected the CPU or the image's device, cpu"),
        ((IMAGE, WINDOWS, float("nan")), "fill is nan, expected a number that is finite in torch.float32"),
        ((IMAGE.half(), WINDOWS, 1e5), "fill is 100000.0, expected a number that is finite in torch.float16"),
        ((IMAGE, WINDOWS, torch.tensor([0.0, float("inf"), 0])), "fill: expected finite values, 1 are NaN or infinite"),
        ((IMAGE, WINDOWS, torch.tensor(float("nan"))), "fill: expected finite values, 1 are NaN or infinite"),
        ((IMAGE, WINDOWS, torch.ones(2)), r"fill is float32 \(2,\), expected a number, \(3,\) or \(3, 5, 6\)"),
        ((IMAGE, WINDOWS, torch.ones(5, 6)), r"fill is float32 \(5, 6\), expected a number, \(3,\) or \(3, 5, 6\)"),
        ((IMAGE, WINDOWS, torch.ones(3).double()), "fill has dtype torch.float64, expected the image's, torch.float32"),
        ((IMAGE, WINDOWS, torch.ones(3, device="meta")), "fill has device meta, expected the image's, cpu"),
        ((IMAGE, torch.tensor([[0, 0, 6, 6]]), 0), r"windows\[0\] is \[0, 0, 6, 6\], expected .* <= 5 and .* <= 6$"),
        ((IMAGE, torch.tensor([[0, 0, 5, 7]]), 0), r"windows\[0\] is \[0, 0, 5, 7\]"),
        ((IMAGE, torch.tensor([[-1, 0, 5, 6]]), 0), r"windows\[0\] is \[-1, 0, 5, 6\]"),
        ((IMAGE, torch.tensor([[0, -1, 5, 6]]), 0), r"windows\[0\] is \[0, -1, 5, 6\]"),
        ((IMAGE, torch.tensor([[0, 0, 5, 6], [3, 0, 2, 6]]), 0), r"windows\[1\] is \[3, 0, 2, 6\], expected y0, x0, "),
        ((IMAGE, torch.tensor([[0, 3, 5, 2]]), 0), r"windows\[0\] is \[0, 3, 5, 2\]"),
    ],
)
def test_wrong_arguments_raise(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message) as raised:
        occlude(*arguments)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((IMAGE.numpy(), WINDOWS, 0), "image is a ndarray, expected a tensor"),
        ((IMAGE, [[0, 0, 5, 6]], 0), "windows is a list, expected a tensor"),
        ((IMAGE, WINDOWS, "grey"), "fill is a str, expected a number or a tensor"),
    ],
)
def test_wrong_kinds_raise(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        occlude(*arguments)
