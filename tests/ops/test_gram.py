import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from afterimage.errors import UsageError
from afterimage.ops import gram, kernels
from afterimage.ops.gram import reference, reference_backward

from . import checks
from .checks import bit_equal, random

NORMALIZATIONS = ("none", "positions", "elements")
FORWARD = torch.ops.afterimage.gram.default
BACKWARD = torch.ops.afterimage.gram_backward.default
ISAS = ("baseline", "avx2", "avx512", "amx")

# Products and gradients with tails of channels and positions, in all layouts; prints the largest error against float64,
# relative to the largest element, for layers as networks have them and for sums of few terms, and whether products are
# symmetric and all is equal for any number of threads.
PROBE = """
import torch
from afterimage.ops import gram, kernels
torch.manual_seed(0)
worst, same = {True: 0.0, False: 0.0}, True
large = [(2, 64, 64, 64), (1, 100, 24, 24), (1, 96, 26, 27), (1, 200, 28, 28)]
small = [(1, 3, 50, 51), (2, 33, 9, 13), (1, 17, 65, 67), (1, 40, 1, 2)]
for shape in large + small + [(1, 1, 1, 1)]:
    for make in (torch.randn, lambda *s: torch.randn(*s).relu(), lambda *s: torch.randn(*s) + 3):
        for layout in (torch.contiguous_format, torch.channels_last):
            for center in (False, True):
                for dtype in (torch.float32, torch.bfloat16):
                    maps = make(*shape).to(dtype).contiguous(memory_format=layout).requires_grad_()
                    exact = maps.detach().double().requires_grad_()
                    results = []
                    for threads in (1, 3):
                        torch.set_num_threads(threads)
                        ours = gram(maps, center)
                        grad_output = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1))
                        results.append((ours, *torch.autograd.grad(ours, maps, grad_output)))
                    theirs = gram(exact, center)
                    expected = (theirs, *torch.autograd.grad(theirs, exact, grad_output.double()))
                    same &= all(first.equal(second) for first, second in zip(*results))
                    same &= bool(results[0][0].equal(results[0][0].mT))
                    for actual, wanted in zip(results[0], expected):
                        if actual.dtype is torch.float32 and wanted.abs().max() > 1e-3:
                            error = float((actual - wanted).abs().max() / wanted.abs().max())
                            worst[shape in large] = max(worst[shape in large], error)
print(kernels.module("cpu").isa(), worst[True], worst[False], same)
"""


def derived(features: Tensor, center: bool, normalize: str) -> Tensor:
    """The definition, one product at a time."""
    images, channels, height, width = features.shape
    divisor = {"none": 1, "positions": height * width, "elements": channels * height * width}[normalize]
    result = torch.empty(images, channels, channels, dtype=features.dtype)
    for image in range(images):
        maps = [features[image, channel] for channel in range(channels)]
        if center:
            maps = [channel - channel.sum() / (height * width) for channel in maps]
        for i, first in enumerate(maps):
            for j, second in enumerate(maps):
                result[image, i, j] = (first * second).sum() / divisor
    return result


def derived_gradient(features: Tensor, grad_output: Tensor, center: bool, normalize: str) -> Tensor:
    """The derivative as autograd finds it in the definition."""
    leaf = features.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(reference(leaf, center, normalize), leaf, grad_output)
    return gradient


def case(center: bool, normalize: str) -> checks.Case:
    def backward_arguments(features: Tensor) -> tuple[Any, ...]:
        return random(len(features), features.shape[1], features.shape[1]).to(features), features, center, normalize

    return checks.Case(
        name=f"{normalize}{'_centered' if center else ''}",
        function=lambda features: gram(features, center, normalize),
        forward=lambda features: reference(features, center, normalize),
        gradient=lambda features, grad_output: derived_gradient(features, grad_output, center, normalize),
        derivative=True,
        operators=((FORWARD, lambda features: (features, center, normalize)), (BACKWARD, backward_arguments)),
        rank=4,
        sums=True,
    )


@checks.parametrize([case(center, normalize) for center in (False, True) for normalize in NORMALIZATIONS])
def test_the_six_checks(check: Callable[[], None]) -> None:
    check()


def test_known_answer() -> None:
    features = torch.tensor([[[[1.0, 2.0]], [[3.0, -1.0]]]])
    assert gram(features).tolist() == [[[5.0, 1.0], [1.0, 10.0]]]
    assert gram(features, normalize="positions").tolist() == [[[2.5, 0.5], [0.5, 5.0]]]
    assert gram(features, normalize="elements").tolist() == [[[1.25, 0.25], [0.25, 2.5]]]
    assert gram(features, center=True).tolist() == [[[0.5, -2.0], [-2.0, 8.0]]]


def test_known_gradient() -> None:
    features = torch.tensor([[[[1.0, 2.0]], [[3.0, -1.0]]]], requires_grad=True)
    upstream = torch.tensor([[[1.0, 2.0], [0.0, 0.0]]])  # ∂L/∂F = [[2, 2], [2, 0]] F
    (gradient,) = torch.autograd.grad(gram(features), features, upstream)
    assert gradient.tolist() == [[[[8.0, 2.0]], [[2.0, 4.0]]]]


@pytest.mark.parametrize("center", [False, True])
@pytest.mark.parametrize("normalize", NORMALIZATIONS)
def test_reference_is_the_definition(center: bool, normalize: str) -> None:
    features = random(2, 3, 4, 5)
    torch.testing.assert_close(gram(features, center, normalize), derived(features, center, normalize))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_equal_channels_give_equal_products(dtype: torch.dtype, layout: torch.memory_format) -> None:
    features = torch.full((2, 70, 9, 11), 0.5, dtype=dtype).contiguous(memory_format=layout)
    assert gram(features).equal(torch.full((2, 70, 70), 99 / 4))
    assert gram(features, center=True).equal(torch.zeros(2, 70, 70))


def test_centering_survives_large_means() -> None:
    features = random(1, 40, 61, 67) + 1000  # float32 products of 1e6 would leave 1e-1 of what is left
    exact = gram(features, center=True)
    error = (gram(features.float(), center=True) - gram(features.float().double(), center=True)).abs().max()
    assert error < 1e-5 * exact.abs().max()


def test_centering_survives_a_misleading_sample() -> None:
    features = random(1, 40, 64, 64) + 100
    features[..., ::2] = 0  # half of the positions are far from the mean of any few
    exact = gram(features, center=True)
    assert (gram(features.float(), center=True) - exact).abs().max() < 1e-5 * exact.abs().max()


def test_centering_survives_a_border_unlike_the_rest() -> None:
    for size in (64, 96, 128):  # where samples at even distances would all lie in one column
        features = 30 + random(1, 32, size, size)
        features[..., 0] = 0
        exact = gram(features, center=True)
        error = (gram(features.float(), center=True) - exact).abs().max() / exact.abs().max()
        assert error < 1e-5


@pytest.mark.parametrize("channels", [96, 160, 200, 288, 384, 480])
def test_backward_in_a_fresh_thread_stays_in_its_workspace(channels: int) -> None:
    features, grad_output = random(1, channels, 28, 29).float(), random(1, channels, channels, seed=1).float()
    with ThreadPoolExecutor(1) as pool:  # one whose workspace no forward pass has made large
        ours = pool.submit(torch.ops.afterimage.gram_backward, grad_output, features, False, "none").result()
    expected = reference_backward(grad_output.double(), features.double(), False, "none")
    assert (ours - expected).abs().max() < 1e-5 * expected.abs().max()


def test_autocast_changes_nothing() -> None:
    features = random(1, 8, 6, 5).float().requires_grad_()
    for maps in (features, features.half(), features.double()):
        with torch.autocast("cpu", torch.bfloat16):
            inside = gram(maps)
        assert bit_equal(inside, gram(maps))


def test_gradient_keeps_layout_and_type() -> None:
    for layout in (torch.contiguous_format, torch.channels_last):
        for dtype in (torch.float32, torch.bfloat16, torch.float64):
            features = random(2, 40, 6, 7).to(dtype).contiguous(memory_format=layout).requires_grad_()
            (gradient,) = torch.autograd.grad(gram(features).sum(), features)
            assert (gradient.stride(), gradient.dtype) == (features.stride(), dtype)


def test_images_do_not_depend_on_their_batch() -> None:
    features = random(3, 40, 40, 45).float()
    batch = gram(features)
    for image in range(3):
        assert bit_equal(batch[image : image + 1], gram(features[image : image + 1]))


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 0, 4, 4), (2, 3, 0, 4)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_nothing_gives_zeros(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    features = torch.empty(shape, dtype=dtype, requires_grad=True)
    for center in (False, True):
        products = gram(features, center, "elements")
        assert products.equal(torch.zeros(shape[0], shape[1], shape[1], dtype=products.dtype))
        (gradient,) = torch.autograd.grad(products.sum(), features)
        assert gradient.shape == shape


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_shows(value: float) -> None:
    features = random(1, 40, 9, 9).float()
    features[0, 3, 4, 5] = value
    products = gram(features)
    assert not products[0, 3].isfinite().any()
    kept = [channel for channel in range(40) if channel != 3]
    assert products[0, kept][:, kept].isfinite().all()


def test_nan_of_every_payload_shows() -> None:
    features = random(1, 2, 8, 8).float()
    for bits in (0x7FFFFFFF, -1, 0x7F800001, 0x7FC00000):
        features.view(torch.int32)[0, 0, 3, 3] = bits
        assert gram(features)[0, 0, 0].isnan()


@pytest.mark.parametrize("isa", ISAS)
def test_instruction_sets_agree_with_float64(isa: str) -> None:
    module = kernels.module("cpu")
    if module is None or ISAS.index(isa) > ISAS.index(module.isa()):
        pytest.skip(f"this machine has no {isa}")
    environment = {**os.environ, "AFTERIMAGE_ISA": isa, "PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run([sys.executable, "-c", PROBE], env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    used, large, small, same = result.stdout.split()
    assert (used, same) == (isa, "True")
    # Two bfloat16 numbers hold a float32 factor to 2^-17.5: 1.7e-5 for one product with its low·low, less for sums.
    assert float(large) < (1e-5 if isa == "amx" else 3e-6)
    assert float(small) < (2e-5 if isa == "amx" else 3e-6)


@pytest.mark.parametrize("threads", [2, 5])
@pytest.mark.parametrize("center", [False, True])
def test_thread_counts_give_identical_bits(threads: int, center: bool) -> None:
    features = random(2, 40, 99, 101).float()  # 9,999 positions: three parts an image
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = gram(features, center)
        torch.set_num_threads(threads)
        assert bit_equal(gram(features, center), alone)
    finally:
        torch.set_num_threads(before)


def test_calls_from_several_python_threads() -> None:
    features = [random(1, 40, 50, 50, seed=seed).float() for seed in range(8)]
    expected = [gram(maps) for maps in features]
    with ThreadPoolExecutor(4) as pool:
        assert all(bit_equal(first, second) for first, second in zip(pool.map(gram, features), expected, strict=True))


@pytest.mark.parametrize("backend", ["aot_eager", pytest.param("inductor", marks=pytest.mark.slow)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_compiles_without_graph_breaks(backend: str, dtype: torch.dtype) -> None:
    def network(features: Tensor) -> Tensor:
        return gram(torch.relu(features) * 2, center=True, normalize="positions") * 3

    features = random(2, 5, 6, 7).to(dtype).requires_grad_()
    grad_output = random(2, 5, 5, seed=1).to(dtype)
    compiled = torch.compile(network, fullgraph=True, backend=backend)
    torch.testing.assert_close(compiled(features), network(features))
    eager, traced = (torch.autograd.grad(f(features), features, grad_output)[0] for f in (network, compiled))
    torch.testing.assert_close(traced, eager)


def test_second_derivatives_are_refused() -> None:
    features = random(1, 3, 4, 4).requires_grad_()
    (gradient,) = torch.autograd.grad(gram(features).square().sum(), features, create_graph=True)
    with pytest.raises(UsageError, match="first derivative only"):
        torch.autograd.backward(gradient.sum())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((torch.ones(2, 3, 4),), r"features: expected .* \(N, C, H, W\), got .*float32 with shape \(2, 3, 4\)"),
        ((torch.ones(2, 3, 4, 4, dtype=torch.int64),), "got torch.strided of torch.int64"),
        ((torch.ones(1, 1, 2, 2).to_sparse(),), "got torch.sparse_coo of torch.float32"),
        (
            (torch.ones(1, 1, 2, 2), False, "position"),
            "normalize is 'position', expected one of none, positions, elements; nearest: positions",
        ),
    ],
)
def test_wrong_arguments_raise(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        gram(*arguments)


class Recorder:
    """Stands for the module of kernels and keeps the arguments of each call."""

    def __init__(self) -> None:
        self.calls: dict[str, tuple[Any, ...]] = {}

    def isa(self) -> str:
        return "amx"

    def __getattr__(self, name: str) -> Callable[..., None]:
        return partial(self._record, name)

    def _record(self, name: str, *arguments: Any) -> None:
        self.calls[name] = arguments


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_kernels_take_dense_tensors_without_copies(
    monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, layout: torch.memory_format
) -> None:
    recorder = Recorder()
    monkeypatch.setattr(kernels, "module", lambda device: recorder)
    features = torch.ones(2, 3, 5, 7, dtype=dtype).contiguous(memory_format=layout)
    products = FORWARD(features, True, "positions")
    gradient = BACKWARD(products, features, False, "none")
    name = str(dtype).removeprefix("torch.")
    sizes = (2, 3, 35, layout is torch.channels_last)
    assert recorder.calls[f"gram_{name}"][:8] == (features.data_ptr(), products.data_ptr(), *sizes, True, 1 / 35)
    addresses = (products.data_ptr(), features.data_ptr(), 0, gradient.data_ptr())
    assert recorder.calls[f"gram_backward_{name}"][:9] == (*addresses, *sizes, 1.0)
