"""Packages and compiled kernels; everything else about the distribution is in pyproject.toml."""

import tempfile
from pathlib import Path

from pybind11.setup_helpers import ParallelCompile, Pybind11Extension, build_ext
from setuptools import setup
from setuptools.errors import CompileError, LinkError

packages = {"afterimage": "pipeline", "afterimage.workflows": "workflows"}


def subpackages(name: str, folder: str) -> list[str]:
    found = (path.parent.relative_to(folder) for path in sorted(Path(folder).rglob("__init__.py")))
    return [".".join((name, *path.parts)) for path in found]


kernels = Pybind11Extension(
    "afterimage._cpu",
    sorted(map(str, Path("csrc").glob("*.cpp"))) + sorted(map(str, Path("csrc/cpu").glob("*.cpp"))),
    include_dirs=["csrc"],
    depends=sorted(map(str, Path("csrc").rglob("*.h"))),
    cxx_std=17,
    extra_compile_args=["-O3", "-ffp-contract=off"],  # no fused multiply-add behind our back: same bits on every ISA
)


class BuildKernels(build_ext):
    """Adds OpenMP where the compiler can both compile and link it."""

    def build_extensions(self) -> None:
        if self.has_openmp():
            kernels.extra_compile_args.append("-fopenmp")
            kernels.extra_link_args.append("-fopenmp")
        super().build_extensions()

    def has_openmp(self) -> bool:
        with tempfile.TemporaryDirectory() as folder:
            source = Path(folder, "probe.cpp")
            source.write_text("#include <omp.h>\nint main() { return omp_get_max_threads() < 1; }\n")
            try:
                objects = self.compiler.compile([str(source)], output_dir=folder, extra_postargs=["-fopenmp"])
                self.compiler.link_executable(objects, str(Path(folder, "probe")), extra_postargs=["-fopenmp"])
            except (CompileError, LinkError):
                return False
            return True


with ParallelCompile(default=0):
    setup(
        packages=[name for root, folder in packages.items() for name in subpackages(root, folder)],
        package_dir=packages,
        ext_modules=[kernels],
        cmdclass={"build_ext": BuildKernels},
    )
