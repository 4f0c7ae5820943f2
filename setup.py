"""Packages and compiled kernels; everything else about the distribution is in pyproject.toml."""

import sysconfig
from importlib.metadata import distributions
from pathlib import Path

from pybind11.setup_helpers import ParallelCompile, Pybind11Extension, build_ext
from setuptools import setup
from setuptools.command.egg_info import egg_info

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
    # No fused multiply-add that is not asked for: same bits on every instruction set. Square roots set no errno and
    # comparisons no flags, else the compiler makes no vectors of them.
    extra_compile_args=["-O3", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math", "-pthread"],
    extra_link_args=["-pthread"],
)


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
        ext_modules=[kernels],
        cmdclass={"build_ext": build_ext, "egg_info": KeepTorch},
    )
