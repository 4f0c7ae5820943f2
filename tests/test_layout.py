"""The order of the parts: each may import what stands to its left, and some libraries only where they are used."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ORDER = [
    "errors",
    "ops",
    "models",
    "incremental",
    "images",
    "vectors",
    "drawing",
    "registry",
    "painting",
    "evidence",
    "methods",
    "workflows",
]
LAZY = {
    "torchvision",
    "faiss",
    "scipy",
    "openTSNE",
    "onnx",
    "onnxruntime",
    "openvino",
    "dask",
    "distributed",
    "sklearn",
    "timm",
}


def modules() -> dict[str, Path]:
    found = {}
    for root, package in ((ROOT / "pipeline", "afterimage"), (ROOT / "workflows", "afterimage.workflows")):
        for path in root.rglob("*.py"):
            parts = path.relative_to(root).with_suffix("").parts
            found[".".join((package, *(part for part in parts if part != "__init__")))] = path
    return found


def imported(name: str, path: Path, top_level_only: bool) -> list[str]:
    tree = ast.parse(path.read_text())
    nodes = tree.body if top_level_only else list(ast.walk(tree))
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found = []
    for node in nodes:
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            found += [f"{module}.{alias.name}" for alias in node.names]
    return found


def part(name: str) -> str | None:
    pieces = name.split(".")
    return pieces[1] if pieces[0] == "afterimage" and len(pieces) > 1 else None


@pytest.mark.parametrize("name", sorted(modules()))
def test_imports_point_left(name):
    own = part(name)
    for other in imported(name, modules()[name], top_level_only=False):
        theirs = part(other)
        if own in (None, "__main__") or theirs is None or theirs not in ORDER:
            continue  # the package itself offers what lies in its parts
        assert own in ORDER, f"{name} is in no part of the order"
        assert ORDER.index(theirs) <= ORDER.index(own), f"{name} imports {other}, which stands to its right"


@pytest.mark.parametrize("name", sorted(modules()))
def test_only_workflows_know_dask_and_files_of_images(name):
    if part(name) != "workflows":
        found = {other.partition(".")[0] for other in imported(name, modules()[name], top_level_only=False)}
        assert not found & {"dask", "distributed", "simplejpeg", "pyarrow"}


@pytest.mark.parametrize("name", sorted(modules()))
def test_large_libraries_are_imported_where_they_are_used(name):
    if name == "afterimage.workflows.preload":
        return  # it is there to import them early
    found = {other.partition(".")[0] for other in imported(name, modules()[name], top_level_only=True)}
    assert not found & LAZY


def test_what_workflows_offers_is_hidden_by_no_module():
    """A module that is imported becomes an attribute of its package, in the place of what is offered by that name."""
    import afterimage.workflows

    assert not {f"afterimage.workflows.{name}" for name in afterimage.workflows.__all__} & modules().keys()


def test_starting_up_imports_no_large_library():
    program = "import sys, afterimage.workflows.cli; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert not {name.partition(".")[0] for name in loaded} & LAZY


def test_the_command_starts_before_torch_is_there():
    program = "import sys, afterimage.workflows.command; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "numpy", "dask"} & set(loaded)
