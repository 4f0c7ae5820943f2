"""The rows of the tensor operations at their quick sizes: every configuration runs, and does the oracle's work."""

import importlib.util
import json
from functools import cache
from itertools import groupby
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks import __main__ as cli
from benchmarks.ops import OPERATIONS, bench, rows
from benchmarks.outcome import arrays
from benchmarks.row import Configuration, Row
from benchmarks.worker import load

ROWS = [row for operation in OPERATIONS for row in operation.rows("cpu", quick=True)]
GPU = [row for operation in OPERATIONS for row in operation.rows("cuda", quick=True)]


def pairs(chosen: list[Row]) -> list[object]:
    return [
        pytest.param(row, configuration, id=f"{row.name}-{configuration.name}", marks=marks(row, configuration))
        for row in chosen
        for configuration in row.configurations
        if configuration != row.oracle and "AFTERIMAGE_ISA" not in different(configuration)
    ]


def different(configuration: Configuration) -> set[str]:
    """Return the variables that a process has to start with; a configuration that has some is the same but for them."""
    return {name for name, value in configuration.variables.items() if bench.VARIABLES[name] != value}


def marks(row: Row, configuration: Configuration) -> list[pytest.MarkDecorator]:
    found = [pytest.mark.slow] if configuration.name == "compile" else []
    if configuration.name == "kornia":
        absent = importlib.util.find_spec("kornia") is None
        found.append(pytest.mark.skipif(absent, reason="kornia is not installed: 'pip install .[bench]'"))
    return [*found, pytest.mark.gpu] if row.device == "cuda" else found


@cache
def expected(name: str) -> dict[str, NDArray[np.generic]]:
    row = next(row for row in [*ROWS, *GPU] if row.name == name)
    return outputs(row.oracle)


def outputs(configuration: Configuration) -> dict[str, NDArray[np.generic]]:
    return arrays(load(configuration.setup, dict(configuration.params))())


@pytest.mark.parametrize(("row", "configuration"), pairs([*ROWS, *GPU]))
def test_does_the_same_work(row: Row, configuration: Configuration) -> None:
    distance = row.agreement.distance(outputs(configuration), expected(row.name))
    assert row.agreement.holds(distance), f"{distance} from {row.oracle.name}"


@pytest.mark.parametrize("quick", [False, True])
def test_rows_have_names_and_labels_of_their_own_and_groups_stand_together(quick: bool) -> None:
    listed = list(rows(quick))
    assert len({row.name for row in listed}) == len({tuple(row.labels.values()) for row in listed}) == len(listed)
    groups = [row.group for row in listed]
    assert len([*groupby(groups)]) == len(set(groups))
    assert all(row.name.startswith(f"{row.group}.") for row in listed)


def test_what_does_not_fit_into_memory_is_blocked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.psutil, "virtual_memory", lambda: type("Memory", (), {"total": 2**30}))
    blocked = {row.name: row.blocked for row in rows(quick=False) if row.device == "cpu" and row.blocked}
    assert blocked["ops.gram.float32.8x64x1024x1024"] == "takes 8.0 GiB of memory, there are 1.0"
    assert "ops.gram.float32.1x512x32x32" not in blocked


@pytest.mark.slow
def test_the_command_prints_one_table_of_all_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.json"
    assert cli.main(["ops", "--quick", "--repeat", "1", "--no-peers", "--out", str(out)]) == 0
    records = json.loads(out.read_text())
    table = capsys.readouterr().out.rpartition("in multiples of it\n")[2].splitlines()
    assert len(table) == 1 + len(records) == 1 + len(list(rows(quick=True)))
    assert table[0].split()[:5] == ["op", "device", "size", "dtype", "ours"]
