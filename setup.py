"""Packages and compiled kernels; everything else about the distribution is in pyproject.toml."""

from pathlib import Path

from pybind11.setup_helpers import ParallelCompile, Pybind11Extension, build_ext
from setuptools import setup

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
)

with ParallelCompile(default=0):
    setup(
        packages=[name for root, folder in packages.items() for name in subpackages(root, folder)],
        package_dir=packages,
        ext_modules=[kernels],
        cmdclass={"build_ext": build_ext},
    )
