"""The pool of threads: alone in a C++ program, also under ThreadSanitizer, and through a kernel."""

import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import Tensor

from afterimage.errors import UsageError
from afterimage.ops import kernels
from afterimage.ops.guided_relu import reference

from .checks import bit_equal, random

ROOT = Path(__file__).resolve().parents[2]
SCENARIOS = ("callers", "pauses", "exceptions", "nested", "forks", "rounding", "signals", "refused", "exits")
UNTRACEABLE = ("forks",)  # ThreadSanitizer starts no threads in the child of a process that had several

# Loads the module by its file, without torch, and forks while other threads call a kernel.
FORKING = """
import importlib.util, os, sys, threading
import numpy as np
spec = importlib.util.spec_from_file_location("_cpu", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
values = np.random.default_rng(0).standard_normal(200_000).astype(np.float32)
expected = np.where(values > 0, values, 0)

def call():
    result, bits = np.full_like(values, 5), np.zeros(len(values) // 8, np.uint8)
    addresses = (array.ctypes.data for array in (values, result, bits))
    module.guided_relu_float32(*addresses, len(values), float("inf"), 4)
    assert (result == expected).all() and (np.unpackbits(bits, bitorder="little") == (values > 0)).all()

def keep_calling():
    while not done:
        call()

done = False
threads = [threading.Thread(target=keep_calling) for _ in range(3)]
for thread in threads:
    thread.start()
for _ in range(20):
    child = os.fork()
    if child == 0:
        call()
        os._exit(42)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 42
done = True
"""


def compiler() -> str:
    found = os.environ.get("CXX") or next((name for name in ("g++", "clang++", "c++") if shutil.which(name)), None)
    return found or pytest.skip("no C++ compiler: g++, clang++, c++ or $CXX")


def compiled(sources: list[Path], program: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    """Compile a program with the pool's headers."""
    command = [*compiler().split(), "-std=c++17", "-O1", "-g", "-pthread", f"-I{ROOT / 'csrc'}", *flags]
    return subprocess.run([*command, *map(str, sources), "-o", str(program)], capture_output=True, text=True)


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "TSAN_OPTIONS": "atexit_sleep_ms=0"}
    return subprocess.run(list(map(str, command)), env=environment, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> list[str | Path]:
    """The command of the program as it is."""
    return [stress(tmp_path_factory.mktemp("plain"))]


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory) -> list[str | Path]:
    """The command of the program under ThreadSanitizer."""
    folder = tmp_path_factory.mktemp("traced")
    (folder / "nothing.cpp").write_text("int main() {}")
    if result := compiled([folder / "nothing.cpp"], folder / "nothing", "-fsanitize=thread").stderr:
        pytest.skip(f"the compiler has no ThreadSanitizer: {result.splitlines()[-1]}")
    # Its shadow memory wants addresses that a system may deal out at random.
    prefixes: list[list[str | Path]] = [[], ["setarch", "-R"]] if shutil.which("setarch") else [[]]
    for prefix in prefixes:
        if run(*prefix, folder / "nothing").returncode == 0:
            return [*prefix, stress(folder, "-fsanitize=thread")]
    pytest.skip(f"ThreadSanitizer does not run here: {run(folder / 'nothing').stderr.strip()}")


def stress(folder: Path, *flags: str) -> Path:
    sources = [ROOT / "tests/ops/parallel_stress.cpp", ROOT / "csrc/cpu/parallel.cpp"]
    result = compiled(sources, folder / "stress", *flags)
    assert result.returncode == 0, result.stderr
    return folder / "stress"


def endure(command: list[str | Path], scenario: str) -> None:
    result = run(*command, scenario)
    if result.returncode == 77:
        pytest.skip("the system does not let this happen")
    assert (result.returncode, result.stdout) == (0, "done\n"), result.stderr


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_endures(plain: list[str | Path], scenario: str) -> None:
    endure(plain, scenario)


@pytest.mark.parametrize("scenario", [name for name in SCENARIOS if name not in UNTRACEABLE])
def test_has_no_races(traced: list[str | Path], scenario: str) -> None:
    endure(traced, scenario)


def test_children_forked_amid_calls_can_call_kernels() -> None:
    spec = find_spec("afterimage._cpu")
    assert spec is not None, "afterimage._cpu is not built; 'pip install -e .' builds it"
    result = run(sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORKING, str(spec.origin))
    assert result.returncode == 0, result.stderr


def forward(images: Tensor) -> tuple[Tensor, Tensor]:
    output, bits = torch.ops.afterimage.guided_relu(images, "guided", torch.inf)
    return output, bits


def test_many_small_calls_from_many_python_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AFTERIMAGE_NUM_THREADS", "3")
    images = random(70_000).float()  # two parts
    expected = reference(images, "guided", torch.inf)

    def call(_: int) -> bool:
        return all(map(bit_equal, forward(images), expected))

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(call, range(600)))


def test_any_number_of_threads_gives_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    images = random(500_001).float()
    results = []
    for threads in (1, 2, 3, 7, 64):
        monkeypatch.setenv("AFTERIMAGE_NUM_THREADS", str(threads))
        results.append(forward(images))
    assert all(all(map(bit_equal, result, results[0])) for result in results)


@pytest.mark.parametrize("asked", ["0", "-1", "abc", "1.5", " ", "4097", "99999999999"])
def test_wrong_numbers_of_threads_are_refused(monkeypatch: pytest.MonkeyPatch, asked: str) -> None:
    monkeypatch.setenv("AFTERIMAGE_NUM_THREADS", asked)
    with pytest.raises(UsageError, match=f"AFTERIMAGE_NUM_THREADS is {asked!r}, expected 1 to 4096"):
        kernels.threads()


def test_threads_are_as_many_as_asked_for_or_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    for asked, expected in (("3", 3), ("4096", 4096), ("", torch.get_num_threads())):
        monkeypatch.setenv("AFTERIMAGE_NUM_THREADS", asked)
        assert kernels.threads() == expected
    monkeypatch.delenv("AFTERIMAGE_NUM_THREADS")
    assert kernels.threads() == torch.get_num_threads()
