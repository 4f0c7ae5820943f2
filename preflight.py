"""Says what this machine lacks before anything is installed, each with the command that brings it.

Runs on any Python 3, so that an old one can be told apart from none.
"""

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile

NEWEST_TOO_OLD = (3, 10)
GIGABYTES = 9 if platform.system() == "Linux" else 3  # torch brings CUDA's libraries on Linux
HINTS = {
    "python": (
        "sudo apt-get install python3 python3-venv python3-dev   (Debian 12, Ubuntu 24.04 or newer)",
        "brew install python@3.12",
    ),
    "venv": ("sudo apt-get install python3-venv", "brew install python@3.12"),
    "headers": ("sudo apt-get install python3-dev", "brew install python@3.12"),
    "compiler": ("sudo apt-get install g++", "xcode-select --install"),
    "disk": ("free some space, or clone onto a larger disk", "free some space, or clone onto a larger disk"),
}


def compiles():
    """Whether the C++ compiler turns a C++17 program into an object file."""
    compiler = os.environ.get("CXX") or next((name for name in ("c++", "g++", "clang++") if shutil.which(name)), None)
    if compiler is None:
        return False
    with tempfile.TemporaryDirectory() as folder:
        source = os.path.join(folder, "probe.cpp")
        with open(source, "w") as file:
            file.write("#include <optional>\nstd::optional<int> answer() { return 42; }\n")
        command = [*compiler.split(), "-std=c++17", "-c", source, "-o", os.path.join(folder, "probe.o")]
        try:
            return subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0
        except OSError:
            return False


def missing():
    """Return what is missing: pairs of the hint's name and what is wrong."""
    found = []
    version = platform.python_version()
    if sys.version_info[:2] <= NEWEST_TOO_OLD:
        found.append(("python", f"Python 3.11 or newer; {sys.executable} is {version}"))
    else:
        if importlib.util.find_spec("ensurepip") is None or importlib.util.find_spec("venv") is None:
            found.append(("venv", f"Python's venv module (ensurepip) for {sys.executable}"))
        include = sysconfig.get_path("include")
        if not os.path.exists(os.path.join(include, "Python.h")):
            found.append(("headers", f"Python's headers: no Python.h in {include}"))
    if not compiles():
        found.append(("compiler", "a C++17 compiler (c++, g++, clang++ or $CXX)"))
    free = shutil.disk_usage(".").free / 1e9
    if free < GIGABYTES and not os.path.exists(".venv/ready"):
        found.append(("disk", f"{GIGABYTES} GB of free disk for the libraries; there are {free:.1f}"))
    return found


def constraints():
    """Return the pins, without those of torch and its CUDA where one is installed already: that one is kept."""
    with open("constraints.txt") as file:
        lines = file.read().splitlines()
    if importlib.util.find_spec("torch") is not None:
        lines = [line for line in lines if not line.startswith(("torch==", "torchvision==", "cuda-toolkit=="))]
    return lines


def requirements(extras):
    """Return what the named extras of pyproject.toml ask for."""
    import tomllib

    with open("pyproject.toml", "rb") as file:
        named = tomllib.load(file)["project"]["optional-dependencies"]
    return [line for extra in extras for line in named[extra]]


def main():
    """Print the pins that apply, or what extras ask for, or what is missing; exit with 1 if anything is."""
    if "--requirements" in sys.argv[1:]:
        print("\n".join(requirements(sys.argv[2:])))
        return 0
    if "--constraints" in sys.argv[1:]:
        print("\n".join(constraints()))
        return 0
    found = missing()
    for name, what in found:
        debian, macos = HINTS[name]
        print(f"missing: {what}\n  Debian/Ubuntu: {debian}\n  macOS:         {macos}", file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
