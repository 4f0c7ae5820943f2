"""Fixtures for all tests."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

SHARED = Path(__file__).resolve().parents[1].parent / "shared"


@pytest.fixture(scope="session")
def shared() -> Callable[[str], Path]:
    """Return a function from the name of a folder of shared test inputs to its path; skips where it is absent."""

    def folder(name: str) -> Path:
        if not (SHARED / name).is_dir():
            pytest.skip(f"shared test inputs are absent: no ../shared/{name} folder beside the repository")
        return SHARED / name

    return folder


@pytest.fixture(autouse=True)
def subnormal() -> None:
    """Let numbers be subnormal, which tasks that ran in this thread have switched off."""
    torch.set_flush_denormal(False)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a GPU where there is none."""
    if not torch.cuda.is_available():
        skip = pytest.mark.skip(reason="no NVIDIA GPU: torch.cuda.is_available() is False")
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(skip)
