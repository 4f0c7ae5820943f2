"""What is missing on a machine is named, with the command that brings it."""

import importlib.util
import sys
from collections import namedtuple
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def preflight(monkeypatch):
    spec = importlib.util.spec_from_file_location("preflight", ROOT / "preflight.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "argv", ["preflight.py"])
    return module


def test_this_machine_has_everything(preflight, capsys):
    assert preflight.main() == 0
    assert capsys.readouterr().err == ""


def test_every_lack_is_named_with_its_remedy(preflight, monkeypatch, capsys, tmp_path):
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setattr(preflight.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(preflight.sysconfig, "get_path", lambda name: str(tmp_path))
    monkeypatch.setattr(preflight.os.path, "exists", lambda path: False)
    monkeypatch.setattr(preflight.shutil, "disk_usage", lambda path: namedtuple("Usage", "free")(2e9))
    assert preflight.main() == 1
    told = capsys.readouterr().err
    for what, command in [
        ("venv module", "apt-get install python3-venv"),
        ("headers", "apt-get install python3-dev"),
        ("C++17 compiler", "apt-get install g++"),
        ("C++17 compiler", "xcode-select --install"),
        ("there are 2.0", "free some space"),
    ]:
        assert what in told
        assert command in told


def test_an_old_python_is_told_first(preflight, monkeypatch, capsys):
    monkeypatch.setattr(preflight.sys, "version_info", (3, 9, 2))
    assert preflight.main() == 1
    told = capsys.readouterr().err
    assert "Python 3.11 or newer" in told
    assert "brew install python@3.12" in told


def test_an_installed_torch_is_not_pinned_away(preflight, monkeypatch):
    pinned = [line.partition("==")[0] for line in preflight.constraints()]
    assert "torch" not in pinned
    assert "numpy" in pinned
    monkeypatch.setattr(preflight.importlib.util, "find_spec", lambda name: None)
    assert {"torch", "torchvision"} <= {line.partition("==")[0] for line in preflight.constraints()}


def test_pins_lie_within_the_ranges():
    import tomllib

    from packaging.requirements import Requirement

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    ranges = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = {Requirement(line).name: Requirement(line) for line in lines if not line.startswith("#")}
    for text in ranges:
        wanted = Requirement(text)
        (pin,) = pins[wanted.name].specifier
        assert wanted.specifier.contains(pin.version), text


def test_requirements_are_those_of_the_extras(preflight, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["preflight.py", "--requirements", "browser", "lint"])
    assert preflight.main() == 0
    assert [line.partition(">")[0] for line in capsys.readouterr().out.split()] == ["playwright", "ruff", "mypy"]
