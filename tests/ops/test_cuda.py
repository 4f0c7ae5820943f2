"""The CUDA module: that it loads anywhere and, on a GPU, how its kernels share it with torch."""

import importlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import Tensor

from afterimage import ops
from afterimage.ops import kernels

from .checks import bit_equal, random

ROOT = Path(__file__).resolve().parents[2]


def guided(images: Tensor) -> Tensor:
    images = images.detach().requires_grad_()
    return torch.autograd.grad(ops.guided_relu(images), images, images.detach().roll(1))[0]


# Each makes one tensor of a batch of images on the GPU.
OPS: dict[str, Callable[[Tensor], Tensor]] = {
    "gram": lambda images: ops.gram(images),
    "gram_centered": lambda images: ops.gram(images, center=True),
    "guided_relu": guided,
    "occlude": lambda images: ops.occlude(images[0], windows().to(images.device), 0.5),
    "total_variation": lambda images: ops.total_variation(images, beta=2.5),
    "total_variation_gradient": lambda images: ops.total_variation_with_gradient(images, 2.0, 0.0, False)[1],
}


def windows() -> Tensor:
    return torch.tensor([[0, 0, 5, 5], [3, 7, 90, 20], [1, 1, 2, 64]])


@pytest.mark.skipif(
    find_spec("afterimage._cuda") is None, reason="afterimage._cuda is not built; 'make cuda' builds it"
)
def test_module_loads_without_a_driver_and_offers_what_the_cpus_does() -> None:
    modules = [importlib.import_module(f"afterimage.{name}") for name in ("_cpu", "_cuda")]
    cpu, cuda = ({name for name in vars(module) if re.search(r"_(float|bfloat)\d+$", name)} for module in modules)
    # on a GPU that is torch's product, and torch's comparison
    here = {name for name in cpu if not name.startswith(("gram_backward_", "exceeding_"))}
    assert here <= cuda
    assert {name.rpartition("_")[0] for name in cuda} == {name.rpartition("_")[0] for name in here}


@pytest.fixture
def images() -> Tensor:
    return random(3, 70, 96, 64).float().cuda()


@pytest.mark.gpu
def test_kernels_are_used() -> None:
    assert kernels.module("cuda") is not None


@pytest.mark.gpu
@pytest.mark.parametrize("name", OPS)
def test_work_goes_to_the_current_stream(images: Tensor, name: str) -> None:
    expected = OPS[name](images)
    late = torch.zeros_like(images)
    torch.cuda.synchronize()
    with torch.cuda.stream(torch.cuda.Stream()):
        torch.cuda._sleep(200_000_000)  # a tenth of a second, after which alone the images are there
        late.copy_(images)
        result = OPS[name](late)
        assert bit_equal(result, expected)


@pytest.mark.gpu
@pytest.mark.parametrize("name", OPS)
def test_nothing_waits_for_the_gpu(images: Tensor, name: str) -> None:
    OPS[name](images)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        torch.cuda._sleep(1_000_000_000)
        OPS[name](images)
        finished = torch.cuda.current_stream().query()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert not finished, "the call came back only after the half second that the stream was busy"


@pytest.mark.gpu
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("name", OPS)
def test_two_runs_give_identical_bits(images: Tensor, name: str, memory_format: torch.memory_format) -> None:
    images = images.repeat(1, 3, 4, 4).contiguous(memory_format=memory_format)
    first = OPS[name](images)
    assert all(bit_equal(OPS[name](images), first) for _ in range(10))


@pytest.mark.gpu
@pytest.mark.parametrize("shape", [(1, 64, 512, 512), (8, 128, 64, 64), (2, 512, 32, 32), (1, 300, 33, 35)])
def test_gram_of_style_layers(shape: tuple[int, ...]) -> None:
    features = random(*shape).relu().float().cuda()
    products = ops.gram(features)
    maps = features.double().flatten(2)
    expected = maps @ maps.mT
    assert ((products - expected).abs().max() <= 1e-5 * expected.abs().max()).item()


@pytest.mark.gpu
def test_the_current_device_stays(images: Tensor) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("one GPU only")
    for name, op in OPS.items():
        assert op(images.to("cuda:1")).device.index == 1, name
        assert torch.cuda.current_device() == 0


@pytest.mark.gpu
@pytest.mark.slow
@pytest.mark.parametrize("tool", ["memcheck", "racecheck", "synccheck"])
def test_sanitizer_finds_nothing(tool: str) -> None:
    sanitizer = shutil.which("compute-sanitizer")
    if sanitizer is None:
        pytest.skip("compute-sanitizer is not installed")
    program = (
        "import torch; from tests.ops.test_cuda import OPS; torch.manual_seed(0)\n"
        "for shape in ((1, 3, 37, 131), (2, 70, 12, 16)):\n"
        "    for layout in (torch.contiguous_format, torch.channels_last):\n"
        "        images = torch.randn(shape).cuda().contiguous(memory_format=layout)\n"
        "        for op in OPS.values(): op(images)\n"
        "torch.cuda.synchronize(); print('finished')"
    )
    # Torch's own kernels are none of ours.
    command = [sanitizer, "--tool", tool, "--error-exitcode", "99", "--kernel-name", "kns=afterimage", sys.executable]
    environment = os.environ | {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    result = subprocess.run(
        [*command, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    output = result.stdout + result.stderr
    if "finished" not in output and result.returncode != 99:
        pytest.skip(f"compute-sanitizer cannot run here: {output[-300:]}")
    assert result.returncode == 0, output[-3000:]
