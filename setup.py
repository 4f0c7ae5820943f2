"""Packages and compiled kernels; everything else about the distribution is in pyproject.toml."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from importlib.metadata import distributions
from pathlib import Path

from pybind11.setup_helpers import ParallelCompile, Pybind11Extension, build_ext
from setuptools import setup
from setuptools.command.egg_info import egg_info
from setuptools.modified import newer_group

packages = {"afterimage": "pipeline", "afterimage.workflows": "workflows"}


def subpackages(name: str, folder: str) -> list[str]:
    found = (path.parent.relative_to(folder) for path in sorted(Path(folder).rglob("__init__.py")))
    return [".".join((name, *path.parts)) for path in found]


def sources(pattern: str) -> list[str]:
    return sorted(map(str, Path("csrc").glob(pattern)))


def kernels(device: str, compiled: list[str], **options: list[str]) -> Pybind11Extension:
    """The module of one device's kernels; names of options as in setuptools' Extension."""
    return Pybind11Extension(
        f"afterimage._{device}",
        compiled,
        include_dirs=["csrc"],
        depends=sources("**/*.h") + sources(f"{device}/*.cu"),
        cxx_std=17,
        # No fused multiply-add that is not asked for: same bits on every instruction set. Square roots set no errno
        # and comparisons no flags, else the compiler makes no vectors of them.
        extra_compile_args=["-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-pthread"],
        extra_link_args=["-pthread"],
        **options,
    )


cpu = kernels("cpu", ["csrc/bindings.cpp", *sources("cpu/*.cpp")])
cuda = kernels("cuda", ["csrc/bindings_cuda.cpp"], libraries=["dl", "rt"])


class BuildKernels(build_ext):
    """Builds the CUDA module too where there is an nvcc that fits, with or without a GPU.

    AFTERIMAGE_CUDA=0 never does; AFTERIMAGE_CUDA=1 makes it an error that it cannot be built.
    """

    def build_extensions(self) -> None:
        asked = os.environ.get("AFTERIMAGE_CUDA", "")
        if asked not in ("", "0", "1"):
            raise SystemExit(f"AFTERIMAGE_CUDA is {asked!r}, expected 0 or 1; unset it to build where nvcc is found")
        reason = "AFTERIMAGE_CUDA is 0" if asked == "0" else self.without_cuda(asked == "1")
        if reason is not None:
            if asked == "1":
                raise SystemExit(f"afterimage: AFTERIMAGE_CUDA is 1, but {reason}")
            if asked != "0" and nvccs():
                print(f"afterimage: built for the CPU alone: {reason}", file=sys.stderr)
            self.extensions.remove(cuda)
            # One that an earlier build left here takes other arguments than today's callers give.
            Path(self.get_ext_fullpath(cuda.name)).unlink(missing_ok=True)
        super().build_extensions()

    def without_cuda(self, forced: bool) -> str | None:
        """Compile csrc/cuda for the linker, or return why that is not possible."""
        wanted = torchs_cuda()
        if wanted == "None" and not forced:
            return "the torch that is installed is one without CUDA"
        found = {nvcc: release(nvcc) for nvcc in nvccs()}
        fitting = [nvcc for nvcc, version in found.items() if version and major(wanted) in (None, major(version))]
        if not fitting:
            listed = ", ".join(f"{nvcc} of CUDA {version}" for nvcc, version in found.items()) or "no nvcc was found"
            return f"torch is built with CUDA {wanted}: {listed}" if found else listed
        runtime = static_runtime(fitting[0])
        if runtime is None:
            return f"{fitting[0]} has no libcudart_static.a beside it"
        return self.compile_cuda(fitting[0], runtime)

    def compile_cuda(self, nvcc: str, runtime: Path) -> str | None:
        folder = Path(self.build_temp, "cuda")
        folder.mkdir(parents=True, exist_ok=True)
        inputs = sources("cuda/*.cu")
        cuda.extra_objects = [*(str(folder / f"{Path(name).stem}.o") for name in inputs), str(runtime)]
        module = self.get_ext_fullpath(cuda.name)
        if not (self.force or newer_group([*cuda.depends, __file__], module, "newer")):
            return None
        command = [nvcc, *NVCC_OPTIONS, f"--threads={os.cpu_count()}", "-Icsrc", f"-odir={folder}", "-c", *inputs]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        if result.returncode == 0:
            return None
        lines = (result.stderr + result.stdout).strip().splitlines() or ["no message"]
        error = next((line for line in lines if "error" in line), lines[-1])
        return f"{nvcc} failed: {error.strip()}"


# Machine code for Turing, Ampere and Hopper, and PTX for what is newer; 7.5 is the oldest that CUDA 13 knows.
NVCC_OPTIONS = [
    *("-O3", "-std=c++17", "--compiler-options=-fPIC,-fvisibility=hidden"),
    *("-gencode=arch=compute_75,code=sm_75", "-gencode=arch=compute_80,code=sm_80"),
    "-gencode=arch=compute_90,code=[sm_90,compute_90]",
]


def nvccs() -> list[str]:
    """Every nvcc at hand: named by the environment, on the path, or a wheel's in the environment installed into."""
    home = os.environ.get("CUDA_HOME")
    named = [os.environ.get("CUDACXX"), shutil.which("nvcc", path=f"{home}/bin") if home else None]
    wheels = sorted(Path(sysconfig.get_path("purelib")).glob("nvidia/cu*/bin/nvcc"), reverse=True)
    found = [shutil.which(name) for name in (*named, "nvcc", *map(str, wheels)) if name]
    return list(dict.fromkeys(filter(None, found)))


def release(nvcc: str) -> str | None:
    """The CUDA version of an nvcc, None where it does not run."""
    try:
        result = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=False)
    except OSError:
        return None
    match = re.search(r"release (\d+\.\d+)", result.stdout)
    return match and match[1]


def static_runtime(nvcc: str) -> Path | None:
    """The runtime library to be linked in, so that the module loads where there is no driver."""
    listing = subprocess.run(
        [nvcc, "--dryrun", "-c", "-x", "cu", os.devnull], capture_output=True, text=True, check=False
    )
    match = re.search(r"TOP=(.+)", listing.stderr)
    folders = ("lib64", "lib", "targets/x86_64-linux/lib", "targets/sbsa-linux/lib")
    found = [Path(match[1].strip(), folder, "libcudart_static.a") for folder in folders] if match else []
    return next((path for path in found if path.is_file()), None)


def torchs_cuda() -> str | None:
    """The CUDA version of the torch in the environment installed into: "None" without CUDA, None without torch."""
    for folder in (sysconfig.get_path("purelib"), sysconfig.get_path("platlib")):
        version = Path(folder, "torch", "version.py")
        if version.is_file() and (match := re.search(r"^cuda\b.*= *'?([\w.]+)", version.read_text(), re.MULTILINE)):
            return match[1]
    return None


def major(version: str | None) -> str | None:
    return None if version in (None, "None") else version.split(".")[0]


class KeepTorch(egg_info):
    """Where a torch is installed, asks for the torchvision that belongs to it: pip would replace torch otherwise."""

    def run(self) -> None:
        if wanted := torchvision_for(installed("torch")):
            required = self.distribution.metadata.install_requires
            required[:] = [wanted if name.startswith("torchvision") else name for name in required]
        super().run()


def installed(name: str) -> str | None:
    """The version in the environment installed into, which an isolated build sees only by its folders."""
    folders = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    return next((found.version for found in distributions(name=name, path=folders)), None)


def torchvision_for(torch: str | None) -> str | None:
    """Up to torch 2.13, torchvision 0.(N + 15) fits torch 2.N alone; from then on it takes newer ones too."""
    major, minor = map(int, torch.split(".")[:2]) if torch else (0, 0)
    return f"torchvision=={major - 2}.{minor + 15}.*" if major == 2 and minor <= 13 else None


with ParallelCompile(default=0):
    setup(
        packages=[name for root, folder in packages.items() for name in subpackages(root, folder)],
        package_dir=packages,
        ext_modules=[cpu, cuda],
        cmdclass={"build_ext": BuildKernels, "egg_info": KeepTorch},
    )
