import importlib.util
import math
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from afterimage import _cpu
from afterimage.errors import UsageError
from afterimage.ops import kernels, total_variation, total_variation_with_gradient
from afterimage.ops.total_variation import reference

from . import checks
from .checks import bit_equal, random

VALUES = torch.ops.afterimage.total_variation.default
BOTH = torch.ops.afterimage.total_variation_with_gradient.default
BETAS = (1.0, 1.2, 1.5, 2.0, 2.2, 2.5, 3.0, 4.0, 7.0)  # those with a formula of their own, and others between them


def plain(images: Tensor, beta: float, eps: float, anisotropic: bool) -> Tensor:
    """The formula with torch's own derivatives, which are NaN where a term is 0."""
    across = torch.nn.functional.pad(images.diff(dim=-1), (0, 1))
    down = torch.nn.functional.pad(images.diff(dim=-2), (0, 0, 0, 1))
    if anisotropic:
        terms = (across.square() + eps) ** (beta / 2) + (down.square() + eps) ** (beta / 2)
    else:
        terms = (across.square() + down.square() + eps) ** (beta / 2)
    return terms.sum((1, 2, 3))


def derived(images: Tensor, grad_output: Tensor, beta: float, eps: float, anisotropic: bool) -> Tensor:
    """Pixel by pixel: each pixel has a part in its own term and in those of its left and upper neighbors."""
    number, channels, height, width = images.shape
    gradient = torch.zeros_like(images)

    def slope(square: float) -> float:
        return beta * (square + eps) ** (beta / 2 - 1) if square + eps != 0 else 0.0

    for n, c, i, j in np.ndindex(number, channels, height, width):
        x = images[n, c]
        across = float(x[i, j + 1] - x[i, j]) if j + 1 < width else 0.0
        down = float(x[i + 1, j] - x[i, j]) if i + 1 < height else 0.0
        both = across * across + down * down
        along = grad_output[n] * slope(across * across if anisotropic else both) * across
        below = grad_output[n] * slope(down * down if anisotropic else both) * down
        gradient[n, c, i, j] -= along + below
        if j + 1 < width:
            gradient[n, c, i, j + 1] += along
        if i + 1 < height:
            gradient[n, c, i + 1, j] += below
    return gradient


def gradient_of(images: Tensor, grad_output: Tensor, *options: Any) -> Tensor:
    if images.numel() < 5000:
        return derived(images, grad_output, *options)
    images = images.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(plain(images, *options), images, grad_output)
    return gradient


def case(beta: float, eps: float, anisotropic: bool, operators: bool = False) -> checks.Case:
    options = (beta, eps, anisotropic)
    return checks.Case(
        name=f"{beta:g}{f'+{eps:g}' if eps else ''}{'_anisotropic' if anisotropic else ''}",
        function=lambda images: total_variation(images, *options),
        forward=lambda images: plain(images, *options),
        gradient=lambda images, grad_output: gradient_of(images, grad_output, *options),
        derivative=eps > 0 or beta >= 2,
        operators=tuple((op, lambda images: (images, *options)) for op in (VALUES, BOTH) if operators),
        rank=4,
        sums=True,
    )


CASES = [case(2.0, 0.0, False, operators=True), case(1.0, 0.01, False), case(1.5, 0.5, True)]
CASES += [case(2.5, 0.0, False), case(2.2, 0.1, False), case(7.0, 0.0, True), case(3.0, 0.0, True)]


@checks.parametrize(CASES)
def test_the_six_checks(check: Callable[[], None]) -> None:
    check()


def square() -> Tensor:
    image = torch.zeros(1, 1, 4, 4)
    image[..., 1:3, 1:3] = 1
    return image


@pytest.mark.parametrize(
    ("beta", "eps", "anisotropic", "expected"),
    [
        (2, 0, False, 8),
        (1, 0, False, 6 + math.sqrt(2)),  # at the square's lower right corner both differences are -1
        (1, 0, True, 8),
        (4, 0, False, 10),
        (1, 3, False, 7 * 2 - 1 * 2 + math.sqrt(5) + 9 * math.sqrt(3) + 0),
        (2, 1, True, 8 + 32),
    ],
)
def test_a_square_by_hand(beta: float, eps: float, anisotropic: bool, expected: float) -> None:
    for options in ({}, {"memory_format": torch.channels_last}):
        values = total_variation(square().expand(1, 3, 4, 4).contiguous(**options), beta, eps, anisotropic)
        torch.testing.assert_close(values, torch.tensor([3.0 * expected]))


def test_the_squares_gradient_by_hand() -> None:
    values, gradient = total_variation_with_gradient(square())
    assert values.tolist() == [8]
    assert gradient[0, 0].tolist() == [[0, -2, -2, 0], [-2, 4, 4, -2], [-2, 4, 4, -2], [0, -2, -2, 0]]
    _, gradient = total_variation_with_gradient(square(), beta=1, anisotropic=True)
    assert gradient[0, 0].tolist() == [[0, -1, -1, 0], [-1, 2, 2, -1], [-1, 2, 2, -1], [0, -1, -1, 0]]


@pytest.mark.parametrize("beta", BETAS)
def test_a_ramp_has_a_closed_form(beta: float) -> None:
    height, width, a, b = 70, 130, 0.5, 0.25
    ramp = a * torch.arange(height)[:, None] + b * torch.arange(width)
    inside, right, bottom = (height - 1) * (width - 1), height - 1, width - 1
    isotropic = inside * (a * a + b * b) ** (beta / 2) + right * a**beta + bottom * b**beta
    anisotropic = (inside + right) * a**beta + (inside + bottom) * b**beta
    images = ramp.expand(2, 3, height, width)
    for values, expected in (
        (total_variation(images, beta), isotropic),
        (total_variation(images, beta, anisotropic=True), anisotropic),
    ):
        torch.testing.assert_close(values, torch.full((2,), 3 * expected), rtol=3e-6, atol=0)
    _, gradient = total_variation_with_gradient(images.float(), beta)
    assert gradient[..., 1:-1, 1:-1].abs().max() <= 4e-6 * beta  # what enters leaves; slopes below 1


@pytest.mark.parametrize("shape", [(2, 1, 1, 1), (1, 2, 1, 37), (1, 2, 37, 1), (1, 1, 1, 5000), (1, 17, 1, 3)])
@pytest.mark.parametrize("beta", [1.0, 2.5])
def test_single_rows_and_columns(shape: tuple[int, ...], beta: float) -> None:
    images = random(*shape).float()
    line = images.flatten(2)
    expected = line.double().diff().abs().pow(beta).sum((1, 2))
    values, gradient = total_variation_with_gradient(images, beta)
    torch.testing.assert_close(values, expected.float())
    assert gradient.shape == shape
    if line.shape[-1] > 1:
        ends = line.double().diff()[..., 0]
        torch.testing.assert_close(
            gradient.flatten(2)[..., 0], (-beta * ends.sign() * ends.abs() ** (beta - 1)).float()
        )
    else:
        assert not gradient.any()


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("anisotropic", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_constant_images_have_none_and_no_gradient(beta: float, anisotropic: bool, dtype: torch.dtype) -> None:
    values, gradient = total_variation_with_gradient(torch.full((2, 3, 40, 50), 0.3, dtype=dtype), beta, 0, anisotropic)
    assert values.tolist() == [0, 0]
    assert gradient.count_nonzero() == 0
    values, _ = total_variation_with_gradient(torch.ones(1, 3, 4, 5, dtype=dtype), beta, 4.0, anisotropic)
    torch.testing.assert_close(values.item(), (1 + anisotropic) * 60 * 2.0**beta)  # eps counts at the edges too


def specials() -> Tensor:
    """Every pair of these as neighbors across and, elsewhere, down; 0 and its like in between."""
    values = [0.0, math.nan, math.inf, -math.inf, 1e-40, 3e-21, -1e-20, 1e-19, 1e30, -1e30, 1e18, 1.0, -2.0]
    pairs = torch.tensor([[a, b] for a in values for b in values])
    across = torch.cat([pairs, torch.zeros(len(pairs), 2)], 1).reshape(1, 1, -1, 4)
    return torch.cat([across, across.mT.contiguous().reshape(1, 1, -1, 4)], 2)


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("anisotropic", [False, True])
def test_special_values_are_the_references(beta: float, anisotropic: bool) -> None:
    for image in specials().split(1, 2):  # alone, else one infinite term hides all others
        for images in (image, image.mT.contiguous(), image.expand(1, 16, 1, 4).contiguous()):
            values, gradient = total_variation_with_gradient(images, beta, 0.0, anisotropic)
            expected_values, expected = reference(images, beta, 0.0, anisotropic)
            torch.testing.assert_close(values, expected_values, equal_nan=True, rtol=1e-5, atol=1e-30)
            # Where terms cancel, the largest is the measure; 1e-30: the reference drops what belongs to a square of 0.
            largest = float(expected.nan_to_num(0, 0, 0).abs().max())
            torch.testing.assert_close(gradient, expected, equal_nan=True, rtol=1e-5, atol=1e-5 * largest + 1e-30)


@pytest.mark.parametrize("beta", [1.0, 1.5, 2.0, 2.5, 3.0, 4.0])
def test_exponents_with_a_formula_of_their_own_agree_with_their_neighbors(beta: float) -> None:
    images = random(1, 2, 33, 40).float()
    values, gradient = total_variation_with_gradient(images, beta)
    for near in (math.nextafter(beta, 9), max(1.0, math.nextafter(beta, 0))):
        other_values, other = total_variation_with_gradient(images, near)
        torch.testing.assert_close(other_values, values, rtol=1e-6, atol=0)
        torch.testing.assert_close(other, gradient, rtol=0, atol=2e-6 * float(gradient.abs().max()))


@pytest.mark.parametrize("beta", [1.1, 2.7, 30.0, 1e6, 1e300])
def test_powers_over_the_whole_range(beta: float) -> None:
    steps = torch.logspace(-18, 18, 4001, dtype=torch.float64).float()
    pairs = torch.stack([torch.zeros_like(steps), steps], -1)[:, None, None]
    values, gradient = total_variation_with_gradient(pairs, beta)
    squares = steps.square().double()  # the kernel's own rounding of the square is no matter of the power
    expected = squares.pow(beta / 2)
    tolerance = 2e-6 if beta < 10 else 2e-7 * min(beta, 1e4)  # a relative error of 6e-8 in log2(t) times the exponent
    reachable = (expected > 1e-36) & (expected < 1e37)
    torch.testing.assert_close(values.double()[reachable], expected[reachable], rtol=tolerance, atol=0)
    assert values[expected > 1e39].isinf().all()
    assert not values[expected < 1e-46].any()
    slopes = beta * squares.pow(beta / 2 - 1) * steps.double()
    reachable = (slopes > 1e-36) & (slopes < 1e37)
    torch.testing.assert_close(gradient[:, 0, 0, 1].double()[reachable], slopes[reachable], rtol=tolerance, atol=0)


@pytest.mark.parametrize("channels", [1, 2, 3, 5, 16, 17, 100])
@pytest.mark.parametrize("width", [1, 15, 16, 17, 33, 1100])
def test_both_layouts_agree_at_every_width(channels: int, width: int) -> None:
    images = random(2, channels, 3, width).float()
    expected, slopes = reference(images.double(), 2.5, 0.0, False)
    for dtype, tolerance in ((torch.float32, 1e-6), (torch.bfloat16, 4e-3)):  # one rounding of the gradient
        for layout in (torch.contiguous_format, torch.channels_last):
            exact = images.bfloat16().float() if dtype is torch.bfloat16 else images
            expected, slopes = reference(exact.double(), 2.5, 0.0, False)
            values, gradient = total_variation_with_gradient(images.to(dtype).contiguous(memory_format=layout), 2.5)
            torch.testing.assert_close(values, expected.float(), rtol=1e-6, atol=1e-6)
            largest = float(slopes.abs().max())
            torch.testing.assert_close(gradient.double(), slopes, rtol=tolerance, atol=1e-6 * largest)


# Loads the module by its file, without torch, and saves what it computes.
PROBE = """
import importlib.util, sys
import numpy as np
spec = importlib.util.spec_from_file_location("_cpu", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
images, results = np.load(sys.argv[2] + "images.npy"), {"isa": module.isa()}
for beta in np.load(sys.argv[2] + "betas.npy"):
    for anisotropic in (False, True):
        for last in (False, True):
            values, gradient = np.full(len(images) + 1, 7, np.float32), np.full(images.size + 1, 7, np.float32)
            arguments = (*images.shape, last, beta, 0.0, anisotropic, 1)
            addresses = [array.ctypes.data for array in (images, values, gradient)]
            module.total_variation_with_gradient_float32(*addresses, *arguments)
            alone = np.full(len(images) + 1, 7, np.float32)
            module.total_variation_float32(images.ctypes.data, alone.ctypes.data, *arguments)
            assert values[-1] == gradient[-1] == alone[-1] == 7, "wrote past the end"
            name = f"{beta}-{anisotropic}-{last}"
            results |= {name: values[:-1], name + "-alone": alone[:-1], name + "-gradient": gradient[:-1]}
np.savez(sys.argv[2] + module.isa(), **results)
"""


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512", "amx"])
def test_every_instruction_set_agrees_with_float64(isa: str, tmp_path: Path) -> None:
    images = random(2, 3, 41, 75).float()
    np.save(tmp_path / "images.npy", images.numpy())
    np.save(tmp_path / "betas.npy", np.array(BETAS))
    spec = importlib.util.find_spec("afterimage._cpu")
    assert spec is not None
    command = [sys.executable, "-c", PROBE, str(spec.origin), f"{tmp_path}/"]
    result = subprocess.run(
        command, env={**os.environ, "AFTERIMAGE_ISA": isa}, capture_output=True, text=True, check=False
    )
    if "this machine has" in result.stderr:
        pytest.skip(f"this machine has no {isa}")
    assert result.returncode == 0, result.stderr
    results = np.load(tmp_path / f"{isa}.npz")
    for beta in BETAS:
        for anisotropic in (False, True):
            for last in (False, True):
                # The same numbers, taken for (N, H, W, C) where the channels come last.
                seen = images.reshape(2, 41, 75, 3).permute(0, 3, 1, 2) if last else images
                _compare(results, f"{beta}-{anisotropic}-{last}", seen, beta, anisotropic, last)


def _compare(results: Any, name: str, images: Tensor, beta: float, anisotropic: bool, last: bool) -> None:
    expected, slopes = reference(images.double(), beta, 0.0, anisotropic)
    slopes = slopes.permute(0, 2, 3, 1) if last else slopes
    np.testing.assert_allclose(results[name], expected, rtol=1e-6)
    np.testing.assert_allclose(results[f"{name}-alone"], expected, rtol=1e-6)
    largest = float(slopes.abs().max())
    np.testing.assert_allclose(results[f"{name}-gradient"], slopes.flatten(), rtol=0, atol=2e-6 * largest)


@pytest.mark.parametrize("threads", [2, 3, 16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_thread_counts_give_identical_bits(threads: int, layout: torch.memory_format) -> None:
    images = random(3, 5, 167, 171).float().contiguous(memory_format=layout)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = [*total_variation_with_gradient(images, 2.5), total_variation(images, 2.5)]
        torch.set_num_threads(threads)
        together = [*total_variation_with_gradient(images, 2.5), total_variation(images, 2.5)]
    finally:
        torch.set_num_threads(before)
    assert all(map(bit_equal, alone, together))


def test_calls_from_several_python_threads() -> None:
    images = random(2, 3, 200, 210).float()
    expected = total_variation_with_gradient(images, 1.5)
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: total_variation_with_gradient(images, 1.5), range(12)))
    assert all(bit_equal(mine, other) for result in results for mine, other in zip(result, expected, strict=True))


@pytest.mark.parametrize("beta", BETAS)
@pytest.mark.parametrize("anisotropic", [False, True])
def test_the_reference_is_the_derivative(beta: float, anisotropic: bool) -> None:
    images = random(2, 3, 5, 7).requires_grad_()
    values, gradient = reference(images.detach(), beta, 0.1, anisotropic)
    expected = plain(images, beta, 0.1, anisotropic)
    torch.testing.assert_close(values, expected.detach())
    torch.testing.assert_close(gradient, torch.autograd.grad(expected.sum(), images)[0])


def test_upstream_gradients_scale_each_image() -> None:
    images = random(3, 2, 9, 8).float().requires_grad_()
    _, gradient = total_variation_with_gradient(images, 1.5)
    assert not gradient.requires_grad
    factors = torch.tensor([1.0, -2.0, 0.0])
    (scaled,) = torch.autograd.grad(total_variation(images, 1.5), images, factors)
    assert scaled.equal(gradient * factors[:, None, None, None])
    (unit,) = torch.autograd.grad(total_variation(images, 1.5).sum(), images)
    assert unit.equal(gradient)


@pytest.mark.parametrize("weight", [1.0, 0.5])
def test_the_gradient_is_not_copied(monkeypatch: pytest.MonkeyPatch, weight: float) -> None:
    recorder = Recorder()
    monkeypatch.setattr(kernels, "module", lambda device: recorder)
    images = random(2, 3, 9, 8).float().requires_grad_()
    values = total_variation(images)
    (gradient,) = torch.autograd.grad(values, images, torch.full((2,), weight))
    ((_, _, address, *_),) = recorder.calls
    assert address == gradient.data_ptr()


@pytest.mark.parametrize("weight", [1.0, 0.5])
def test_a_retained_graph_gives_the_gradient_again(weight: float) -> None:
    images = random(1, 3, 9, 8).float().requires_grad_()
    _, expected = total_variation_with_gradient(images)
    values = total_variation(images)
    for count in (1, 2, 3):
        values.backward(torch.tensor([weight]), retain_graph=True)
        assert images.grad is not None
        torch.testing.assert_close(images.grad, count * weight * expected)
    (gradient,) = torch.autograd.grad(values, images)
    assert gradient.equal(expected)
    with pytest.raises(RuntimeError, match="backward through the graph a second time"):
        values.backward()


def test_a_changed_image_is_noticed_as_in_torch() -> None:
    images = random(1, 3, 9, 8).float()
    _, expected = total_variation_with_gradient(images)
    leaf = images.clone().requires_grad_()
    values = total_variation(leaf)
    with torch.no_grad():
        leaf.mul_(2)
    (gradient,) = torch.autograd.grad(values, leaf, retain_graph=True)
    assert gradient.equal(expected)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(values, leaf)


def test_nothing_is_kept_where_no_gradient_is_wanted() -> None:
    images = random(1, 3, 9, 8).float()
    assert total_variation(images).grad_fn is None
    with torch.no_grad():
        assert total_variation(images.requires_grad_()).grad_fn is None


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_compiles_without_graph_breaks(backend: str, dtype: torch.dtype) -> None:
    def loss(images: Tensor) -> Tensor:
        return total_variation(images * 2, 2.5).sum() + (total_variation(images, 1.0, 1e-3, True) * 0.1).sum()

    images = random(2, 3, 6, 5).to(dtype).requires_grad_()
    compiled = torch.compile(loss, fullgraph=True, backend=backend)
    torch.testing.assert_close(compiled(images), loss(images))
    eager, traced = (torch.autograd.grad(f(images), images)[0] for f in (loss, compiled))
    torch.testing.assert_close(traced, eager)
    assert torch.compile(total_variation, fullgraph=True, backend=backend)(images.detach()).equal(
        total_variation(images.detach())
    )


def test_operators_with_a_gradient() -> None:
    # But for its last test: that also asks for the gradient's gradient, which is refused.
    tests = ("test_schema", "test_autograd_registration", "test_faketensor")
    images = random(2, 3, 5, 4).float().requires_grad_()
    torch.library.opcheck(BOTH, (images, 2.5, 0.0, False), test_utils=tests)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_second_derivatives_are_refused(dtype: torch.dtype) -> None:
    images = random(2, 3, 5, 4).to(dtype).requires_grad_()
    for weight in (1.0, 0.5):
        (gradient,) = torch.autograd.grad((weight * total_variation(images)).sum(), images, create_graph=True)
        with pytest.raises(UsageError, match="first derivative only"):
            torch.autograd.backward(gradient.sum())


def test_equals_kornias() -> None:
    losses = pytest.importorskip("kornia.losses", reason="kornia is not installed: nothing to compare with")
    images = random(2, 3, 17, 19).float()
    theirs = losses.total_variation(images).reshape(2, -1).sum(1)  # per image, in newer versions per channel
    torch.testing.assert_close(total_variation(images, beta=1, anisotropic=True), theirs)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.ones(3, 4, 4),), r"images have shape \(3, 4, 4\), expected \(N, C, H, W\)"),
        ((torch.ones(1, 1, 2, 2, dtype=torch.int64),), "torch.strided of torch.int64, expected a dense floating-point"),
        ((torch.ones(1, 1, 2, 2), 0.5), "beta is 0.5, expected a finite number of at least 1"),
        ((torch.ones(1, 1, 2, 2), math.nan), "beta is nan"),
        ((torch.ones(1, 1, 2, 2), math.inf), "beta is inf"),
        ((torch.ones(1, 1, 2, 2), 2.0, -1e-3), "eps is -0.001, expected a finite number of at least 0"),
        ((torch.ones(1, 1, 2, 2), 2.0, math.nan), "eps is nan"),
    ],
)
def test_wrong_arguments_raise(arguments: tuple[Any, ...], message: str) -> None:
    for function in (total_variation, total_variation_with_gradient):
        with pytest.raises(UsageError, match=message):
            function(*arguments)


def test_numbers_have_to_be_numbers() -> None:
    with pytest.raises(TypeError, match="beta is '2', expected a number"):
        total_variation(torch.ones(1, 1, 2, 2), "2")  # type: ignore[arg-type]


class Recorder:
    """Stands for the module of kernels: keeps the arguments of each call, then makes it."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def total_variation_with_gradient_float32(self, *arguments: Any) -> None:
        self.calls.append(arguments)
        _cpu.total_variation_with_gradient_float32(*arguments)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_kernel_takes_dense_images_without_copies(monkeypatch: pytest.MonkeyPatch, layout: torch.memory_format) -> None:
    recorder = Recorder()
    monkeypatch.setattr(kernels, "module", lambda device: recorder)
    images = random(2, 3, 5, 7).float().contiguous(memory_format=layout)
    values, gradient = total_variation_with_gradient(images)
    ((*addresses, number, channels, height, width, last, beta, eps, anisotropic, _),) = recorder.calls
    assert addresses == [images.data_ptr(), values.data_ptr(), gradient.data_ptr()]
    assert (number, channels, height, width, last) == (2, 3, 5, 7, layout is torch.channels_last)
    assert (beta, eps, anisotropic) == (2.0, 0.0, False)
    assert gradient.stride() == images.stride()
