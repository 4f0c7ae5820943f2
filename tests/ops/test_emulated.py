"""The CUDA kernels on the host: the sources of csrc/cuda, compiled for the CPU against tests/ops/emulated.

What this finds are wrong indices, reads before a barrier and wrong layouts of the tensor cores' tiles; what the
device's own compiler and memory do is left to the tests marked gpu.
"""

import importlib.util
import os
import shutil
import subprocess
import sysconfig
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pybind11
import pytest
import torch
from torch import Tensor

from .checks import bit_equal, random, special

ROOT = Path(__file__).resolve().parents[2]
TYPES = (torch.float32, torch.bfloat16, torch.float16)
GUARD = 64

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not shutil.which("g++"), reason="g++ compiles the emulation; it is not installed"),
]


@pytest.fixture(scope="module")
def cuda(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    target = tmp_path_factory.mktemp("emulated") / "_cuda.so"
    sources = ["csrc/bindings_cuda.cpp", "-x", "c++", *sorted(map(str, ROOT.glob("csrc/cuda/*.cu")))]
    folders = ["tests/ops/emulated", "csrc", pybind11.get_include(), sysconfig.get_path("include")]
    options = ["-O1", "-std=c++17", "-fPIC", "-shared", "-fvisibility=hidden", "-Wno-unknown-pragmas"]
    command = ["g++", *options, *(f"-I{folder}" for folder in folders), *sources, "-o", str(target)]
    subprocess.run(command, cwd=ROOT, check=True)
    spec = importlib.util.spec_from_file_location("_cuda", target)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def guarded(shape: tuple[int, ...], dtype: torch.dtype, offset: int = 0) -> tuple[Tensor, Callable[[], None]]:
    """Return marks, `offset` elements past an aligned address, and a check that nothing around them was written."""
    size = torch.Size(shape).numel()
    mark = float("nan") if dtype.is_floating_point else 77
    whole = torch.full((size + 2 * GUARD + offset,), mark, dtype=dtype)
    around = (slice(0, GUARD + offset), slice(GUARD + offset + size, None))

    def check() -> None:
        assert all(bit_equal(whole[part], torch.full_like(whole[part], mark)) for part in around)

    return whole[GUARD + offset :][:size].view(shape), check


def placed(tensor: Tensor, dtype: torch.dtype, offset: int) -> Tensor:
    """Copy `tensor` to an address that is `offset` elements past an aligned one, with NaN around it."""
    return guarded(tuple(tensor.shape), dtype, offset)[0].copy_(tensor)


def name_of(op: str, dtype: torch.dtype) -> str:
    return f"{op}_{str(dtype).removeprefix('torch.')}"


def run(
    cuda: ModuleType,
    op: str,
    dtype: torch.dtype,
    outputs: list[tuple[tuple[int, ...], torch.dtype]],
    inputs: list[Tensor],
    *options: object,
    offset: int = 0,
) -> list[Tensor]:
    """Run a kernel twice, its threads in both orders, and return what it wrote."""
    name = name_of(op, dtype)
    results = []
    for first in ("first", "last"):
        os.environ["AFTERIMAGE_EMULATED_ORDER"] = first
        written = [guarded(*output, offset) for output in outputs]
        tensors = [*inputs, *(tensor for tensor, _ in written)]
        arguments = [*(tensor.data_ptr() for tensor in tensors), *options]
        if hasattr(cuda, f"{name}_workspace"):
            size = getattr(cuda, f"{name}_workspace")(*arguments, 0)
            workspace, check = guarded((size // 4,), torch.float32)
            getattr(cuda, name)(*arguments, workspace.data_ptr(), 0, 0)
            check()
        else:
            getattr(cuda, name)(*arguments, 0, 0)
        for _, check in written:
            check()
        results.append([tensor for tensor, _ in written])
    assert all(bit_equal(first, second) for first, second in zip(*results, strict=True))
    return results[0]


GRAMS = [(1, 1, 1), (2, 3, 7), (1, 20, 300), (1, 68, 36), (1, 130, 20), (1, 5, 0), (0, 4, 4)]


@pytest.mark.parametrize("capability", [75, 90])
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", TYPES)
def test_gram(
    monkeypatch: pytest.MonkeyPatch, cuda: ModuleType, dtype: torch.dtype, channels_last: bool, capability: int
) -> None:
    monkeypatch.setenv("AFTERIMAGE_EMULATED_CAPABILITY", str(capability))
    for images, channels, positions in GRAMS:
        for center, offset in ((False, 0), (True, 0), (False, 1)):
            features = (random(images, channels, positions) + 2).to(dtype)
            stored = placed(features.mT if channels_last else features, dtype, offset)
            sizes = (images, channels, positions, channels_last, center, 0.5)
            (products,) = run(cuda, "gram", dtype, [((images, channels, channels), torch.float32)], [stored], *sizes)
            wide = features.double()
            wide = wide - wide.mean(2, keepdim=True) if center else wide
            expected = wide @ wide.mT / 2
            assert products.equal(products.mT)
            # float32 as two bfloat16: 2^-18 of each factor, and the product of the two lower halves, is lost
            largest = float(expected.abs().max()) if expected.numel() else 0.0
            assert ((products - expected).abs() <= (2**-17 + 2**-18) * largest + 1e-6).all()


def total_variation(images: Tensor, beta: float, eps: float, anisotropic: bool) -> Tensor:
    across, down = torch.zeros_like(images), torch.zeros_like(images)
    across[..., :-1] = images[..., 1:] - images[..., :-1]
    down[..., :-1, :] = images[..., 1:, :] - images[..., :-1, :]
    squares = (across**2, down**2) if anisotropic else (across**2 + down**2,)
    return torch.stack([(square + eps) ** (beta / 2) for square in squares]).sum((0, 2, 3, 4))


IMAGES = [(1, 1, 1, 1), (2, 3, 5, 7), (1, 3, 9, 44), (1, 1, 37, 130), (2, 3, 3, 256), (1, 5, 10, 12), (0, 3, 4, 4)]


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("beta", "anisotropic"), [(1.0, True), (2.0, False), (2.5, False), (2.5, True)])
def test_total_variation(
    cuda: ModuleType, dtype: torch.dtype, channels_last: bool, beta: float, anisotropic: bool
) -> None:
    for shape in IMAGES:
        for offset in (0, 1):
            images = random(*shape).to(dtype)
            wide = images.double().requires_grad_()
            expected = total_variation(wide, beta, 0.1, anisotropic)
            (slope,) = torch.autograd.grad(expected.sum(), wide)
            laid_out = (lambda x: x.permute(0, 2, 3, 1)) if channels_last else (lambda x: x)
            stored = placed(laid_out(images), dtype, offset)
            options = (*shape, channels_last, beta, 0.1, anisotropic)
            (alone,) = run(cuda, "total_variation", dtype, [(shape[:1], torch.float32)], [stored], *options)
            values, gradient = run(
                cuda,
                "total_variation_with_gradient",
                dtype,
                [(shape[:1], torch.float32), (tuple(stored.shape), dtype)],
                [stored],
                *options,
                offset=offset,
            )
            torch.testing.assert_close(values.double(), expected.detach(), rtol=1e-5, atol=0)
            assert values.equal(alone)
            rounding = {torch.float32: 1e-5, torch.bfloat16: 2**-8, torch.float16: 2**-11}[dtype]
            torch.testing.assert_close(gradient.double(), laid_out(slope), rtol=rounding, atol=1e-5)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [*TYPES, torch.float64])
def test_occlude(cuda: ModuleType, dtype: torch.dtype, channels_last: bool) -> None:
    rows = [[0, 0, 2, 3], [1, 2, 4, 7], [0, 0, 9, 8], [3, 3, 3, 5], [-2, -5, 1, 99]] * 4
    windows = torch.tensor(rows)
    for channels, height, width in ((3, 5, 7), (2, 9, 8), (1, 1, 1), (3, 40, 64)):
        laid_out = (lambda x: x.movedim(-3, -1).contiguous()) if channels_last else (lambda x: x)
        image = random(channels, height, width).to(dtype)
        y, x = torch.arange(height)[:, None], torch.arange(width)
        inside = torch.stack([(y >= a) & (y < c) & (x >= b) & (x < d) for a, b, c, d in rows])[:, None]
        sizes = (len(rows), channels, height, width, channels_last)
        for picture in (False, True):
            fill = random(channels, height if picture else 1, width, seed=1).to(dtype)
            expected = laid_out(torch.where(inside, fill, image))
            stored = [placed(laid_out(image), dtype, 0), windows, placed(laid_out(fill), dtype, 0)]
            (output,) = run(cuda, "occlude", dtype, [(tuple(expected.shape), dtype)], stored, *sizes, picture)
            assert output.equal(expected)
            if dtype == torch.float64:
                continue
            grad_output = random(*inside.shape[:1], channels, height, width).to(dtype)
            chosen = inside if picture else ~inside
            wanted = laid_out(sum(grad_output[b].float() * chosen[b] for b in range(len(rows))))
            stored = [placed(laid_out(grad_output), dtype, 0), windows]
            (grad,) = run(
                cuda, "occlude_backward", dtype, [(tuple(wanted.shape), torch.float32)], stored, *sizes, picture
            )
            assert grad.equal(wanted)


@pytest.mark.parametrize("upper", [float("inf"), 0.7])
@pytest.mark.parametrize("dtype", TYPES)
def test_guided_relu(cuda: ModuleType, dtype: torch.dtype, upper: float) -> None:
    ceiling = torch.tensor(upper, dtype=dtype)
    for size in (0, 1, 7, 8, 3003):
        for offset in (0, 1):
            values = torch.cat([special().flatten(), ceiling[None].double(), random(3000)])
            images = placed(values.roll(1)[:size], dtype, offset)
            gradient = placed(values.roll(5)[:size], dtype, offset)
            passes = ~(images <= 0) & ~((images >= ceiling) & (ceiling < float("inf")))
            byte_count = (size + 7) // 8
            output, bits = run(
                cuda,
                "guided_relu",
                dtype,
                [((size,), dtype), ((byte_count,), torch.uint8)],
                [images],
                size,
                upper,
                offset=offset,
            )
            assert bit_equal(output, images.relu() if upper == float("inf") else images.clamp(0, upper))
            flags = torch.nn.functional.pad(passes, (0, 8 * byte_count - size)).view(-1, 8)
            assert bits.equal((flags * 2 ** torch.arange(8)).sum(1).byte())
            for forward, backward in ((True, True), (True, False), (False, True)):
                options = (size, forward, backward)
                arguments = [gradient, bits]
                (grad_input,) = run(
                    cuda, "guided_relu_backward", dtype, [((size,), dtype)], arguments, *options, offset=offset
                )
                kept = (passes | (not forward)) & (~(gradient <= 0) | (not backward))
                assert bit_equal(grad_input, gradient.masked_fill(~kept, 0))
