import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from afterimage.errors import UsageError
from afterimage.ops import guided_relu, kernels

ISAS = ("baseline", "avx2", "avx512", "amx")

# Loads the module by its file, without torch, and prints the instruction set and every result's bytes.
PROBE = """
import hashlib, importlib.util, math, sys
import numpy as np
spec = importlib.util.spec_from_file_location("_cpu", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
digest = hashlib.sha256()
for name, width in (("float32", np.uint32), ("bfloat16", np.uint16)):
    grad_output, images = np.load(sys.argv[2] + name + ".npy")
    forward, backward = (getattr(module, f"guided_relu_{part}{name}") for part in ("", "backward_"))
    for offset, size in [(0, len(images)), *((offset, size) for offset in range(3) for size in range(0, 140, 9))]:
        for upper in (math.inf, 6.0, 0.7):
            given, gradient = images[offset:].copy(), grad_output[offset:].ctypes.data
            output, grad_input = np.full(size + 1, 12345, width), np.full(size + 1, 12345, width)
            bits = np.full((size + 7) // 8 + 1, 123, np.uint8)
            forward(images[offset:].ctypes.data, output.ctypes.data, bits.ctypes.data, size, upper, 1)
            assert output[size] == 12345 and bits[-1] == 123, "wrote past the end"
            digest.update(output[:size].tobytes() + bits[:-1].tobytes())
            forward(given.ctypes.data, given.ctypes.data, bits.ctypes.data, size, upper, 1)
            assert (given[:size] == output[:size]).all() and (given[size:] == images[offset:][size:]).all(), "in place"
            for rule in ((True, True), (True, False), (False, True)):
                backward(gradient, bits.ctypes.data, grad_input.ctypes.data, size, *rule, 1)
                assert grad_input[size] == 12345, "wrote past the end"
                digest.update(grad_input[:size].tobytes())
print(module.isa(), digest.hexdigest())
"""


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the module of kernels be looked for again, now and after the test."""
    monkeypatch.delenv("AFTERIMAGE_KERNELS", raising=False)
    kernels._module.cache_clear()
    yield
    kernels._module.cache_clear()


@pytest.fixture(scope="module")
def module_file() -> str:
    spec = find_spec("afterimage._cpu")
    assert spec is not None, "afterimage._cpu is not built; 'pip install -e .' builds it"
    return str(spec.origin)


def backward_of_three() -> list[float]:
    images = torch.tensor([-1.0, 2.0, 3.0], requires_grad=True)
    (grad_input,) = torch.autograd.grad(guided_relu(images), images, torch.tensor([1.0, -1.0, 1.0]))
    return list(grad_input.tolist())


def probe(module_file: str, folder: Path, isa: str | None) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "AFTERIMAGE_ISA"}
    if isa is not None:
        environment["AFTERIMAGE_ISA"] = isa
    command = [sys.executable, "-c", PROBE, module_file, f"{folder}/"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def bit_patterns(folder: Path) -> dict[str, np.ndarray]:
    """Save gradients and outputs of every kind of bits: all bfloat16, and float32 with these as upper halves."""
    generator = np.random.default_rng(0)
    halves = np.stack([generator.permutation(65536), generator.permutation(65536)]).astype(np.uint16)
    lower = generator.integers(0, 65536, halves.shape, np.uint32) * generator.integers(0, 2, halves.shape, np.uint32)
    patterns = {"bfloat16": halves, "float32": halves.astype(np.uint32) << 16 | lower}
    for name, values in patterns.items():
        np.save(folder / f"{name}.npy", values)
    return patterns


def expected_digest(patterns: dict[str, np.ndarray]) -> str:
    """The same results from NumPy."""
    digest = hashlib.sha256()
    for name in ("float32", "bfloat16"):
        bits = patterns[name]
        shift = 0 if name == "float32" else 16
        gradient, images = (bits.astype(np.uint32) << shift).view(np.float32)
        shortest = np.float32(0.7) if name == "float32" else np.float32(0.69921875)  # bfloat16's nearest to 0.7
        sizes = [(0, len(images)), *((offset, size) for offset in range(3) for size in range(0, 140, 9))]
        for offset, size in sizes:
            part = slice(offset, offset + size)
            values, positive = images[part], ~(gradient[part] <= 0)
            for upper in (np.float32(np.nan), np.float32(6), shortest):
                top = (upper.view(np.uint32) >> shift).astype(bits.dtype)
                output = np.where(values > upper, top, np.where(values < 0, 0, bits[1, part])).astype(bits.dtype)
                passes = ~(values <= 0) & ~(values >= upper)
                digest.update(output.tobytes() + np.packbits(passes, bitorder="little").tobytes())
                for keep in (passes & positive, passes, positive):
                    digest.update(np.where(keep, bits[0, part], 0).astype(bits.dtype).tobytes())
    return digest.hexdigest()


@pytest.fixture(scope="module")
def best(module_file: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, str]:
    """The machine's own choice of instruction set, the folder of bit patterns, and what has to come out."""
    folder = tmp_path_factory.mktemp("bits")
    digest = expected_digest(bit_patterns(folder))
    result = probe(module_file, folder, None)
    assert result.returncode == 0, result.stderr
    isa, actual = result.stdout.split()
    assert actual == digest
    return isa, folder, digest


@pytest.mark.parametrize("isa", ISAS)
def test_instruction_sets_give_identical_bits(module_file: str, best: tuple[str, Path, str], isa: str) -> None:
    machine, folder, digest = best
    result = probe(module_file, folder, isa)
    if ISAS.index(isa) <= ISAS.index(machine):
        assert result.stdout.split() == [isa, digest], result.stderr
    else:
        assert f"AFTERIMAGE_ISA is '{isa}', this machine has baseline to {machine}" in result.stderr


def test_unknown_instruction_set_raises(module_file: str, best: tuple[str, Path, str]) -> None:
    result = probe(module_file, best[1], "sse9")
    assert result.returncode == 1
    assert "ValueError: AFTERIMAGE_ISA is 'sse9'" in result.stderr


@pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="x86-64 registers only")
@pytest.mark.skipif(not shutil.which("objdump"), reason="objdump (binutils) is not installed")
def test_baseline_code_uses_no_newer_instructions(module_file: str) -> None:
    listing = subprocess.run(
        ["objdump", "-d", "-C", "--no-show-raw-insn", module_file], capture_output=True, text=True, check=True
    ).stdout
    newer: dict[str, bool] = {}
    for line in listing.splitlines():
        if header := re.match(r"[0-9a-f]+ <(.*)>:$", line):
            function = header[1]
            newer.setdefault(function, False)
        elif re.search(r"%[yz]mm|%k[0-7]|\tv\w+ .*%xmm", line):  # wide and mask registers, VEX and EVEX encodings
            newer[function] = True

    def of(tag: str) -> list[bool]:
        return [found for function, found in newer.items() if re.search(rf"::{tag}<", function)]

    assert len(of("baseline")) >= 2, "no baseline kernel in the symbol table"
    assert all(of("avx2") + of("avx512"))
    assert len(of("avx2")) == len(of("avx512")) == len(of("baseline"))
    leaks = [
        function for function, found in newer.items() if found and not re.search("::((avx2|avx512)<|amx[<(])", function)
    ]
    assert leaks == []


@pytest.mark.usefixtures("fresh")
def test_kernels_are_used_where_built() -> None:
    module = kernels.module("cpu")
    assert module is not None
    assert module.isa() in ISAS


@pytest.mark.usefixtures("fresh")
def test_missing_module_is_announced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = backward_of_three()
    kernels._module.cache_clear()
    monkeypatch.setitem(kernels._MODULES, "cpu", "afterimage._not_built")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert backward_of_three() == backward_of_three() == expected == [0.0, 0.0, 1.0]
    assert [str(warning.message)[:36] for warning in caught] == ["afterimage._not_built is not built: "]


@pytest.mark.usefixtures("fresh")
def test_broken_module_raises_with_the_cause(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / f"broken_kernels{EXTENSION_SUFFIXES[0]}").write_bytes(b"no shared object")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(kernels._MODULES, "cpu", "broken_kernels")
    with pytest.raises(ImportError, match=r"broken_kernels is built but does not load: .*broken_kernels") as raised:
        backward_of_three()
    assert isinstance(raised.value.__cause__, ImportError)


@pytest.mark.usefixtures("fresh")
def test_reference_can_be_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AFTERIMAGE_KERNELS", "reference")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert kernels.module("cpu") is None
        assert backward_of_three() == [0.0, 0.0, 1.0]


@pytest.mark.usefixtures("fresh")
def test_unknown_choice_of_kernels_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AFTERIMAGE_KERNELS", "refrence")
    with pytest.raises(UsageError, match="AFTERIMAGE_KERNELS is 'refrence', expected 'reference'"):
        kernels.module("cpu")


@pytest.mark.usefixtures("fresh")
def test_refused_instruction_set_is_a_usage_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "refusing_kernels.py").write_text("def isa(): raise ValueError('AFTERIMAGE_ISA is sse9')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(kernels._MODULES, "cpu", "refusing_kernels")
    with pytest.raises(UsageError, match="AFTERIMAGE_ISA is sse9"):
        kernels.module("cpu")
