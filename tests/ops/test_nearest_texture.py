import os
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from afterimage.errors import UsageError
from afterimage.ops import kernels, nearest_texture
from afterimage.ops.splitmix import _mixed, random_bits

module = import_module("afterimage.ops.nearest_texture")  # the package offers the function by this name

# What is compared with the reference: window, levels and eps over samples and sizes of every kind.
CASES = {
    "one_level": ((3, 16, 19), (20, 18), 5, 1, None),
    "grey": ((1, 20, 24), (21, 19), 9, 2, None),
    "odd_sizes": ((3, 33, 35), (17, 23), 7, 3, None),
    "smallest_window": ((3, 21, 18), (15, 22), 3, 3, 0.0),
    "within_a_tenth": ((3, 33, 35), (19, 21), 5, 3, 0.1),
    "anything_goes": ((2, 19, 17), (12, 13), 5, 2, 1e9),
    "window_of_eleven": ((1, 27, 24), (14, 16), 11, 2, 0.05),
    "window_larger_than_texture": ((2, 24, 24), (3, 4), 9, 2, 0.3),
    "narrow": ((1, 24, 24), (40, 2), 9, 2, None),
    "flat": ((4, 24, 24), (2, 40), 9, 2, None),
    "one_pixel": ((4, 40, 30), (1, 1), 5, 3, 0.5),
    "one_candidate": ((3, 5, 9), (9, 8), 9, 1, 0.2),
    "two_chunks_of_rows": ((1, 9, 8), (70, 3), 3, 1, 0.1),
}

# Loads the module by its file, without torch, and fills the levels that were saved with what they have to become.
PROBE = """
import importlib.util, sys
import numpy as np
spec = importlib.util.spec_from_file_location("_cpu", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
levels = np.load(sys.argv[2], allow_pickle=True)["levels"]
for tensors, arguments, canvas, sources in levels:
    for threads in (1, 3):
        given = [None if tensor is None else tensor.copy() for tensor in tensors]
        addresses = (0 if tensor is None else tensor.ctypes.data for tensor in given)
        module.nearest_texture_uint8(*addresses, *arguments, threads)
        assert (given[3] == canvas).all() and (given[5] == sources).all(), arguments
print(module.isa(), len(levels))
"""


def samples(channels: int, height: int, width: int, number: int = 2) -> Tensor:
    """Random pixels of few values, so that distances are often equal."""
    generator = torch.Generator().manual_seed(0)
    return 64 * torch.randint(0, 4, (number, channels, height, width), dtype=torch.uint8, generator=generator)


def stripes(height: int, width: int, slope: int) -> Tensor:
    y, x = torch.arange(height)[:, None], torch.arange(width)
    return ((x + slope * y) % 6 * 40).to(torch.uint8)[None, None]


def board(height: int, width: int) -> Tensor:
    y, x = torch.arange(height)[:, None], torch.arange(width)
    return ((y // 3 + x // 3) % 2 * 255).to(torch.uint8)[None, None]


def with_reference(monkeypatch: pytest.MonkeyPatch, function: Callable[[], Tensor]) -> Tensor:
    with monkeypatch.context() as patch:
        patch.setattr(kernels, "module", lambda device: None)
        return function()


@pytest.mark.parametrize("case", CASES)
def test_equals_the_reference_to_the_byte(monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    shape, *arguments = CASES[case]
    size, *options = arguments

    def run() -> Tensor:
        return nearest_texture(samples(*shape), size, torch.tensor([3, -(2**63)]), *options)

    texture = run()
    assert (texture.shape, texture.dtype) == ((2, shape[0], *size), torch.uint8)
    assert texture.equal(with_reference(monkeypatch, run))


@pytest.mark.parametrize("eps", [None, 0.1])
def test_threads_and_batches_give_identical_bytes(monkeypatch: pytest.MonkeyPatch, eps: float | None) -> None:
    several, seeds = samples(3, 24, 26, number=3), torch.tensor([1, 2, 3])

    def run(given: Tensor, seeds: Tensor, threads: int) -> Tensor:
        monkeypatch.setenv("AFTERIMAGE_NUM_THREADS", str(threads))
        return nearest_texture(given, (50, 90), seeds, 7, 2, eps)

    alone = [run(several[n : n + 1], seeds[n : n + 1], 1) for n in range(3)]
    for threads in (1, 2, 3, 7):
        assert run(several, seeds, threads).equal(torch.cat(alone))
        assert run(several[:1], seeds[:1], threads).equal(alone[0])


def as_numpy(level: Any) -> list[np.ndarray | None]:
    return [None if tensor is None else tensor.numpy().copy() for tensor in level]


@pytest.fixture(scope="module")
def levels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of every level of every case: tensors, the kernel's other arguments, what it has to make of them."""
    found: list[tuple[Any, ...]] = []

    def fill(level: Any, window: int, eps: float | None, begin: int, end: int) -> None:
        before, shape = as_numpy(level), level.sample.shape
        bounds = module._bounds(*shape[2:], window, level.coarser_sample is not None)
        module.reference(level, window, eps, begin, end)
        arguments = (*shape, *bounds, *level.canvas.shape[2:], window, eps or 0.0, begin, end)
        canvas, sources = level.canvas.numpy().copy(), level.sources.numpy().copy()
        found.append((before, tuple(arguments), canvas, sources))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_fill", lambda: fill)
        for shape, *arguments in CASES.values():
            size, *options = arguments
            nearest_texture(samples(*shape), size, torch.tensor([3, 4]), *options)
    file = tmp_path_factory.mktemp("levels") / "levels.npz"
    rows = np.empty((len(found), 4), object)
    for row, values in enumerate(found):
        rows[row] = values
    np.savez(file, levels=rows)
    return file


@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512", "amx"])
def test_every_instruction_set_equals_the_reference_to_the_byte(levels: Path, isa: str) -> None:
    spec = find_spec("afterimage._cpu")
    assert spec is not None
    command = [sys.executable, "-c", PROBE, str(spec.origin), str(levels)]
    environment = {**os.environ, "AFTERIMAGE_ISA": isa}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if "this machine has baseline to" in result.stderr:
        pytest.skip(f"no {isa} on this machine")
    name, number = result.stdout.split() or ("", "0")
    assert (result.returncode, name) == (0, isa), result.stderr
    assert int(number) > len(CASES)


@pytest.mark.parametrize("sample", [stripes(40, 40, 0), stripes(40, 40, 1), board(40, 40)])
def test_a_periodic_sample_continues(sample: Tensor) -> None:
    texture = nearest_texture(
        sample, (48, 48), torch.tensor([2])
    )  # at the coarsest level a window holds several periods
    for shifted in (texture.roll(6, 2), texture.roll(6, 3)):
        assert shifted.equal(texture)


def test_every_pixel_is_a_sample_pixel_as_it_was_given() -> None:
    generator = torch.Generator().manual_seed(0)
    sample = torch.rand(1, 3, 20, 20, generator=generator)
    texture = nearest_texture(sample, (31, 17), torch.tensor([0]), 5, 2)
    known = {tuple(color) for color in sample[0].flatten(1).t().tolist()}
    assert {tuple(color) for color in texture[0].flatten(1).t().tolist()} <= known
    assert len({tuple(color) for color in texture[0].flatten(1).t().tolist()}) > 50


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_types_are_compared_in_8_bits(dtype: torch.dtype) -> None:
    bytes = samples(3, 20, 20)  # multiples of 64, which bfloat16 tells apart
    texture = nearest_texture((bytes / 255).to(dtype), (9, 30), torch.tensor([0, 1]), 5, 2, 0.1)
    assert texture.dtype == dtype
    assert texture.equal((nearest_texture(bytes, (9, 30), torch.tensor([0, 1]), 5, 2, 0.1) / 255).to(dtype))


def test_layouts_make_no_difference() -> None:
    given, seeds = samples(3, 20, 22), torch.tensor([5, 6])
    expected = nearest_texture(given, (12, 12), seeds, 5, 2)
    strided = given.repeat_interleave(2, 3)[..., ::2]
    for other in (given.contiguous(memory_format=torch.channels_last), strided):
        assert nearest_texture(other, (12, 12), torch.stack((seeds, seeds), 1)[:, 0], 5, 2).equal(expected)


def test_seeds_decide() -> None:
    sample = samples(3, 20, 20, number=1).expand(3, -1, -1, -1)
    first, second, third = nearest_texture(sample, (30, 30), torch.tensor([1, 2, 1]), 5, 2)
    assert first.equal(third)
    assert not first.equal(second)
    state = torch.get_rng_state()
    nearest_texture(sample, (5, 5), torch.tensor([1, 2, 1]), 5, 2, 0.1)
    assert torch.get_rng_state().equal(state)


def test_without_eps_the_first_of_equals_is_taken_and_with_it_any() -> None:
    sample, seeds = torch.full((1, 1, 9, 9), 7, dtype=torch.uint8), torch.tensor([0])
    assert (module._sources(sample, 20, 20, seeds, 3, 1, None) == 1 * 9 + 1).all()  # candidates begin at (1, 1)
    places = module._sources(sample, 60, 60, seeds, 3, 1, 0.0)
    counts = torch.bincount(places.flatten(), minlength=81).reshape(9, 9)
    assert counts[0].sum() + counts[:, 0].sum() + counts[:, 8].sum() == 0
    near = counts[1:, 1:8].double()
    expected = 3600 / 56
    assert ((near - expected) ** 2 / expected).sum() < 98  # chi-squared of 55 degrees of freedom: 99.9 % are below 93


def test_random_numbers_are_splitmix64() -> None:
    golden = np.array([0x9E3779B97F4A7C15, 0x3C6EF372FE94F82A], np.uint64)
    assert [hex(number) for number in _mixed(golden)] == ["0xe220a8397b1dcdaf", "0x6e789e6aa1b965f4"]  # of seed 0
    numbers = random_bits(torch.tensor([0, 1, 0]), 4, (2, 3))
    assert numbers.shape == (3, 2, 3)
    assert numbers[0].equal(numbers[2])
    assert numbers.unique().numel() == 12
    assert not numbers[0].equal(random_bits(torch.tensor([0]), 5, (2, 3))[0])


def test_levels_are_halved_by_binomial_weights() -> None:
    image = torch.tensor([[0, 64, 128, 192, 255]], dtype=torch.uint8)[None, None]
    taps = [(4 * 0 + 3 * 64 + 128) / 8, (64 + 3 * 128 + 3 * 192 + 255) / 8, (192 + 7 * 255) / 8]
    assert module._halved(image).flatten().tolist() == [round(value) for value in taps]
    assert module._halved(image.mT).flatten().tolist() == [round(value) for value in taps]


def test_gradient_goes_to_the_pixels_that_were_copied() -> None:
    sample = torch.rand(1, 2, 12, 12, generator=torch.Generator().manual_seed(0)).requires_grad_()
    texture = nearest_texture(sample, (20, 20), torch.tensor([0]), 5, 1)
    (grad,) = torch.autograd.grad(texture.sum(), sample)
    places = module._sources(sample.detach(), 20, 20, torch.tensor([0]), 5, 1, None)
    assert grad[0, 0].equal(grad[0, 1])
    assert grad[0, 0].flatten().equal(torch.bincount(places.flatten(), minlength=144).float())


def test_progress_counts_all_pixels_and_may_end_the_work() -> None:
    seen: list[tuple[int, int]] = []
    sample, seeds = samples(1, 20, 20), torch.tensor([0, 1])
    texture = nearest_texture(sample, (70, 5), seeds, 3, 2, None, lambda *at: seen.append(at))
    assert seen == [(2 * 35 * 3, 910), (2 * (35 * 3 + 64 * 5), 910), (910, 910)]
    assert texture.equal(nearest_texture(sample, (70, 5), seeds, 3, 2))

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        nearest_texture(sample, (70, 5), seeds, 3, 2, None, stop)


@pytest.mark.parametrize("number", [0, 2])
def test_operator_is_registered_as_it_should_be(number: int) -> None:
    arguments = (samples(3, 12, 12)[:number], 7, 9, torch.arange(number), 5, 1, 0.1)
    torch.library.opcheck(torch.ops.afterimage.nearest_texture.default, arguments)
    assert nearest_texture(arguments[0], (7, 9), arguments[3], 5, 1).shape == (number, 3, 7, 9)


def test_compiles_without_graph_breaks() -> None:
    def made(given: Tensor, seeds: Tensor) -> Tensor:
        return nearest_texture(given / 255, (9, 8), seeds, 5, 2) * 2

    arguments = (samples(3, 20, 20), torch.tensor([0, 1]))
    assert torch.compile(made, fullgraph=True, backend="aot_eager")(*arguments).equal(made(*arguments))


SAMPLES, SEEDS = torch.zeros(1, 3, 32, 32), torch.zeros(1, dtype=torch.int64)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((SAMPLES[0], (9, 9), SEEDS), r"samples are float32 \(3, 32, 32\), expected a dense tensor \(N, C, h, w\)"),
        ((SAMPLES[:, :0], (9, 9), SEEDS), r"samples are float32 \(1, 0, 32, 32\), expected"),
        ((SAMPLES.int(), (9, 9), SEEDS), r"samples are int32 \(1, 3, 32, 32\), expected .* uint8 or floating point"),
        ((SAMPLES.to_sparse(), (9, 9), SEEDS), r"samples are float32 \(1, 3, 32, 32\), torch.sparse_coo, expected"),
        ((SAMPLES, (9, 9), SEEDS[:0]), r"seeds are int64 \(0,\), expected int64 \(1,\), one for each sample"),
        ((SAMPLES, (9, 9), SEEDS.int()), r"seeds are int32 \(1,\), expected int64 \(1,\)"),
        ((SAMPLES, (0, 9), SEEDS), r"size is \(0, 9\), expected height and width, whole numbers of at least 1"),
        ((SAMPLES, (9, 9.5), SEEDS), r"size is \(9, 9.5\), expected"),
        ((SAMPLES, (9, 9, 9), SEEDS), r"size is \(9, 9, 9\), expected"),
        ((SAMPLES, (9, 9), SEEDS, 8), "window is 8, expected an odd whole number of at least 3"),
        ((SAMPLES, (9, 9), SEEDS, 1), "window is 1, expected"),
        ((SAMPLES, (9, 9), SEEDS, 9, 0), "levels is 0, expected a whole number of at least 1"),
        ((SAMPLES, (9, 9), SEEDS, 9, 3), "window 9 does not fit into the sample at level 3 of 3, 8 × 8 pixels there"),
        ((SAMPLES, (9, 9), SEEDS, 33, 1), "window 33 does not fit into the sample at level 1 of 1, 32 × 32 pixels"),
        ((SAMPLES, (9, 9), SEEDS, 9, 10**9), "window 9 does not fit into the sample at level 3 of 1000000000"),
        ((SAMPLES[..., :0], (9, 9), SEEDS), "window 9 does not fit into the sample at level 1 of 3, 32 × 0 pixels"),
        ((SAMPLES, (9, 9), SEEDS, 9, 2, -0.1), "eps is -0.1, expected a finite number of at least 0, or None"),
        ((SAMPLES, (9, 9), SEEDS, 9, 2, float("nan")), "eps is nan, expected a finite number"),
        ((SAMPLES.expand(-1, 3, -1, -1), (9, 9), SEEDS, 201), "window 201 compares 91203 values, expected at most"),
        ((SAMPLES.expand(1, 3, 32, 32) + 1.5, (9, 9), SEEDS, 9, 1), "samples: expected values from 0 to 1, 3072 are"),
        ((SAMPLES / 0, (9, 9), SEEDS, 9, 1), "samples: expected values from 0 to 1, 3072 are outside or NaN"),
    ],
)
def test_wrong_arguments_raise(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(UsageError, match=message) as raised:
        nearest_texture(*arguments)
    assert "\n" not in str(raised.value)


def test_wrong_kinds_raise() -> None:
    with pytest.raises(TypeError, match="samples is a ndarray, expected a tensor"):
        nearest_texture(SAMPLES.numpy(), (9, 9), SEEDS)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="seeds is a int, expected a tensor"):
        nearest_texture(SAMPLES, (9, 9), 0)  # type: ignore[arg-type]


def test_the_largest_distance_fits() -> None:
    sample = torch.zeros(1, 1, 130, 130, dtype=torch.uint8)
    sample[..., 64:] = 255
    texture = nearest_texture(sample, (2, 30), torch.tensor([0]), 129, 1)
    assert set(texture.flatten().tolist()) <= {0, 255}
