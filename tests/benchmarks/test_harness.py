"""The harness's logic, on toy configurations; nothing here depends on how fast anything is."""

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from afterimage.errors import UsageError
from benchmarks import __main__ as cli
from benchmarks import harness, process
from benchmarks.agreement import Agreement, largest_difference, relative_l2
from benchmarks.harness import Result, Session, run_row, run_rows
from benchmarks.memory import tree_memory
from benchmarks.outcome import arrays
from benchmarks.record import record, spread
from benchmarks.report import duration, summary, table
from benchmarks.row import Configuration, Role, Row, Venv, Work
from benchmarks.worker import run_timed

TOY = """
import os, sys
import numpy as np
from benchmarks.outcome import Outcome

def add(amount, log=None):
    def call():
        if log:
            with open(log, "a") as file:
                file.write(f"{amount} {os.getpid()}\\n")
        return {"sum": np.arange(4.0) + amount}
    return call

def reporting():
    return lambda: Outcome(lambda: {"sum": np.arange(4.0)}, {"answer": 42.0})

def threads():
    return lambda: np.array(int(os.environ["OMP_NUM_THREADS"]))

def missing():
    import a_package_that_nobody_has

def dying():
    print("the last words", file=sys.stderr)
    os._exit(3)

def failing_when_timed(marker):
    def call():
        if os.path.exists(marker):
            raise RuntimeError("second thoughts")
        open(marker, "w").close()
        return {"sum": np.arange(4.0)}
    return call
"""
CLOSE = Agreement(largest_difference, 1e-6, "float32")


class Pair(NamedTuple):
    """Two results of a method."""

    image: Any
    heatmap: Any


def quiet(line: str) -> None:
    """Take the place of the progress lines."""


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """Return a maker of configurations whose setups are the functions above."""
    (tmp_path / "toy.py").write_text(TOY)

    def configuration(name: str, setup: str, role: Role = "peer", **params) -> Configuration:
        return Configuration(name, f"toy:{setup}", role, params, variables={"PYTHONPATH": str(tmp_path)})

    return configuration


def row(*configurations: Configuration, **options) -> Row:
    return Row("toy.row", "adding", configurations, CLOSE, **{"min_seconds": 0.0, "warmup": 0, **options})


def test_outputs_are_compared_before_anything_is_timed(toy, tmp_path):
    log = tmp_path / "log"
    ours, peer = toy("ours", "add", "ours", amount=1, log=str(log)), toy("peer", "add", amount=1.0, log=str(log))
    session = run_row(row(ours, peer), repeat=2, seed=0, log=quiet)
    assert [result.status for result in session.results] == ["ok", "ok"]
    assert session.results[1].distance == 0.0
    calls = [line.split() for line in log.read_text().splitlines()]
    assert [amount for amount, _ in calls[:2]] == ["1", "1.0"]
    assert len(calls) == 2 + 2 * 2
    assert len({pid for _, pid in calls}) == len(calls), "every measurement has a process of its own"


def test_a_mismatch_is_timed_but_not_compared_with_ours(toy):
    session = run_row(row(toy("ours", "add", "ours", amount=1), toy("peer", "add", amount=2)), 1, 0, log=quiet)
    ours, peer = record(session, {})["configurations"]
    assert ours["ratio"] == 1.0
    assert peer["status"] == "mismatch"
    assert peer["distance"] == pytest.approx(1 / 4)
    assert peer["median"] > 0
    assert "ratio" not in peer
    assert "0.25 from ours, at most 1e-06 is allowed" in table(record(session, {}))


def test_ours_is_compared_with_the_reference_and_wins_nothing_when_wrong(toy):
    configurations = toy("ours", "add", "ours", amount=2), toy("peer", "add", amount=1)
    session = run_row(row(*configurations, toy("reference", "add", "reference", amount=1)), 1, 0, log=quiet)
    assert [result.status for result in session.results] == ["mismatch", "ok", "ok"]
    assert not any("ratio" in entry for entry in record(session, {})["configurations"])


def test_other_shapes_and_nan_are_mismatches(toy):
    session = run_row(row(toy("ours", "add", "ours", amount=1), toy("peer", "threads")), 1, 0, log=quiet)
    assert session.results[1].status == "mismatch"
    assert "expected outputs" in session.results[1].error
    session = run_row(
        row(toy("ours", "add", "ours", amount=1), toy("nan", "add", amount=float("nan"))), 1, 0, log=quiet
    )
    assert session.results[1].status == "mismatch"


@pytest.mark.parametrize(
    ("setup", "error"),
    [
        ("missing", "ModuleNotFoundError: No module named 'a_package_that_nobody_has'"),
        ("dying", "the last words (exit 3)"),
        ("absent", "AttributeError: module 'toy' has no attribute 'absent'"),
    ],
)
def test_a_peer_that_cannot_run_is_reported_with_its_last_line(toy, setup, error):
    session = run_row(row(toy("ours", "add", "ours", amount=1), toy("peer", setup)), 1, 0, log=quiet)
    written = record(session, {})
    assert written["configurations"][0]["ratio"] == 1.0
    assert written["configurations"][1]["status"] == "failed"
    assert written["configurations"][1]["error"] == error
    assert error in table(written)


def test_a_peer_that_fails_in_a_later_round_has_no_figures(toy, tmp_path):
    peer = toy("peer", "failing_when_timed", marker=str(tmp_path / "marker"))
    session = run_row(row(toy("ours", "add", "ours", amount=0), peer), 2, 0, log=quiet)
    entry = record(session, {})["configurations"][1]
    assert (entry["status"], entry["error"]) == ("failed", "RuntimeError: second thoughts")
    assert "median" not in entry
    assert [sorted(names) for names in session.order] == [["ours", "peer"], ["ours"]]


def test_rows_of_a_group_share_processes_and_one_that_fails_costs_the_others_nothing(toy, tmp_path):
    logs = [tmp_path / "first", tmp_path / "second"]
    rows = [
        Row(
            f"toy.{log.name}",
            "adding",
            (toy("ours", "add", "ours", amount=1, log=str(log)), toy("peer", peer, **params)),
            CLOSE,
            group="toy",
            min_seconds=0.0,
            warmup=0,
        )
        for log, peer, params in zip(logs, ("missing", "add"), ({}, {"amount": 1.0}), strict=True)
    ]
    sessions = run_rows(rows, repeat=2, seed=0, log=quiet)
    assert [[result.status for result in session.results] for session in sessions] == [["ok", "failed"], ["ok", "ok"]]
    assert [sorted(names) for names in sessions[1].order] == [["ours", "peer"]] * 2
    first, second = ([line.split()[1] for line in log.read_text().splitlines()] for log in logs)
    assert first == second
    assert len(set(first)) == len(first) == 3, "one process to compare, and one in each round"
    assert sessions[1].results[0].peak_memory is None, "the peak of a process that did more"


def test_an_oracle_is_compared_with_and_never_timed(toy):
    oracle = toy("float64", "add", "oracle", amount=1)
    session = run_row(row(toy("ours", "add", "ours", amount=1), toy("peer", "add", amount=2), oracle), 1, 0, log=quiet)
    assert [result.status for result in session.results] == ["ok", "mismatch", "ok"]
    assert session.results[2].seconds == []
    assert "float64 " not in table(record(session, {}))


def test_the_summary_has_a_line_per_row(toy):
    work = Work(bytes=2e9, operations=4e12)
    results = [timed("ours", [1.0, 1.0]), timed("peer", [3.0, 3.0])]
    configurations = tuple(result.configuration for result in results)
    first = Row("toy.first", "", configurations, CLOSE, work=work, labels={"op": "add", "size": "4"})
    second = Row("toy.second", "", configurations[:1], CLOSE, labels={"op": "add", "size": "8"}, blocked="no GPU")
    blocked = Result(configurations[0], status="blocked", error="no GPU")
    records = [record(Session(first, results, []), {"1": {"copy": 4e9, "fp32": 8e12, "bf16": 1.0}})]
    records.append(record(Session(second, [blocked], []), {}))
    header, *lines = (
        [cell.strip() for cell in line.split("  ") if cell.strip()] for line in summary(records).splitlines()
    )
    assert header == ["op", "size", "ours", "GB/s", "TFLOP/s", "share", "peer"]
    assert lines == [["add", "4", "1 s", "2", "4", "50 % copy", "3.00 ×"], ["add", "8", "blocked"]]


def test_a_worker_that_hangs_is_ended():
    with pytest.raises(process.Unable, match=r"not finished after 0\.2 s"):
        process.run([sys.executable, "-c", "import time; time.sleep(60)"], timeout=0.2)


def test_order_is_shuffled_by_the_seed(monkeypatch):
    def work(configuration, timeout, tasks):
        (task,) = tasks
        if "outputs" in task:
            np.savez(task["outputs"], output=np.zeros(1))
        return [{"seconds": 1.0, "figures": {}, "peak_memory": 1}]

    monkeypatch.setattr(harness, "work", work)
    names = ["ours", "peer 1", "peer 2", "peer 3"]
    configurations = [Configuration(name, "", "ours" if name == "ours" else "peer") for name in names]
    orders = [run_row(row(*configurations), 5, seed, log=quiet).order for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]
    assert all(sorted(turn) == names for turn in orders[0])
    assert len({tuple(turn) for turn in orders[0]}) > 1


def test_peers_can_be_left_out_and_rows_can_be_blocked(toy):
    configurations = toy("ours", "add", "ours", amount=0), toy("peer", "missing")
    session = run_row(row(*configurations), 1, 0, peers=False, log=quiet)
    assert [result.status for result in session.results] == ["ok", "skipped"]
    blocked = run_row(row(*configurations, blocked="no weights here"), 1, 0, log=quiet)
    assert [result.status for result in blocked.results] == ["blocked", "blocked"]
    assert "no weights here" in table(record(blocked, {}))


def test_threads_and_figures_reach_the_record(toy):
    single = Configuration(**{**vars(toy("ours", "threads", "ours")), "threads": 1})
    assert run_row(row(single), 1, 0, log=quiet).results[0].status == "ok"
    assert process.environment(single)["OMP_NUM_THREADS"] == "1"
    session = run_row(row(toy("ours", "reporting", "ours")), 1, 0, log=quiet)
    entry = record(session, {})["configurations"][0]
    assert entry["figures"] == {"answer": 42.0}
    assert entry["peak_memory"] > 2**20
    json.dumps(record(session, {}))


def timed(role: Role, seconds: list[float], threads: int = 1) -> Result:
    return Result(Configuration(role, "toy:add", role, threads=threads), seconds=seconds, figures=[{}] * len(seconds))


def test_ratios_are_paired_by_round_and_shares_are_of_the_binding_limit():
    results = [timed("ours", [1.0, 2.0, 4.0]), timed("peer", [3.0, 4.0, 20.0]), timed("unit", [0.5, 1.0, 2.0])]
    configurations = tuple(result.configuration for result in results)
    work = Work(bytes=100.0, operations=30.0)
    session = Session(Row("toy", "toy", configurations, CLOSE, items=10, work=work), results, [])
    ours, peer, unit = record(session, {"1": {"copy": 100.0, "fp32": 10.0, "bf16": 1.0}})["configurations"]
    assert (ours["median"], ours["items_per_second"], ours["units"]) == (2.0, 5.0, 2.0)
    assert (ours["share"], ours["limit"]) == (1.5, "fp32")
    assert (peer["ratio"], peer["ratio_spread"]) == (3.0, pytest.approx(1.5))
    assert unit["ratio"] == 0.5


def test_spread_is_the_interquartile_range():
    assert spread([1.0, 2.0, 3.0, 4.0, 100.0]) == 2.0


def test_distances():
    a, b = {"x": np.array([[3.0, 4.0], [1.0, 0.0]])}, {"x": np.array([[3.0, 4.0], [2.0, 0.0]])}
    assert largest_difference(a, b) == 1 / 4
    assert relative_l2(a, b) == 1 / 4  # the median of 0 and 1/2
    zero = {"x": np.zeros((1, 2))}
    assert largest_difference(zero, zero) == relative_l2(zero, zero) == 0.0
    assert relative_l2({"x": np.ones((1, 2))}, zero) == float("inf")
    with pytest.raises(ValueError, match="expected outputs"):
        largest_difference(a, zero)


def test_outputs_of_every_kind_become_named_arrays():
    torch = pytest.importorskip("torch")
    half = torch.ones(2, dtype=torch.bfloat16, requires_grad=True)
    assert arrays(half)["output"].dtype == np.float32
    assert list(arrays((half, np.zeros(1)))) == ["0", "1"]
    assert list(arrays(Pair(half, half))) == ["image", "heatmap"]


def test_short_work_is_repeated_until_it_lasts():
    calls = []
    reply = run_timed(lambda: calls.append(1), warmup=3, min_seconds=1e-4)
    assert reply["seconds"] * reply["calls"] >= 1e-4
    assert len(calls) >= 3 + reply["calls"]
    calls.clear()
    assert run_timed(lambda: calls.append(1), warmup=0, min_seconds=0.0)["calls"] == len(calls) == 1


def test_an_environment_is_made_once_and_a_bad_requirement_is_reported(tmp_path, monkeypatch):
    commands = []

    def run(command, timeout, variables=None):
        commands.append([str(word) for word in command])
        if "venv" in commands[-1]:
            Path(command[-1]).mkdir(parents=True, exist_ok=True)
        elif "impossible" in Path(command[-1]).read_text():
            raise process.Unable("ERROR: No matching distribution found for impossible")

    monkeypatch.setattr(process, "run", run)
    monkeypatch.setattr(process, "STORE", tmp_path)
    venv = Venv("peer", ("peer==1",))
    python = process.interpreter(venv)
    assert python == process.interpreter(venv) == tmp_path / "envs" / "peer" / "bin" / "python"
    assert len(commands) == 2
    process.interpreter(Venv("peer", ("peer==2",)))
    assert len(commands) == 4
    bad = Configuration("bad", "toy:add", "peer", venv=Venv("bad", ("impossible",)))
    for _ in range(2):  # what failed is not taken for made
        with pytest.raises(process.Unable, match="No matching distribution found for impossible"):
            process.work(bad, timeout=1, tasks=[])


def test_rows_are_selected_by_name_or_its_beginning():
    ours = timed("ours", []).configuration
    rows = [Row(name, "", (ours,), CLOSE) for name in ("ops.gram.float32", "ops.gram.bfloat16", "opsin")]
    assert cli.select(rows, ["ops"]) == rows[:2]
    assert cli.select(rows, []) == rows
    with pytest.raises(UsageError, match=r"'ops\.grams'; nearest: ops\.gram"):
        cli.select(rows, ["ops.grams"])


def test_two_configurations_of_one_name_are_refused():
    ours = timed("ours", []).configuration
    with pytest.raises(ValueError, match="distinct"):
        Row("toy", "", (ours, ours), CLOSE)


def test_the_command_writes_a_record_with_the_machine(toy, tmp_path, monkeypatch, capsys):
    rows = [row(toy("ours", "add", "ours", amount=0), toy("peer", "add", amount=0))]
    monkeypatch.setattr(cli, "all_rows", lambda quick: iter(rows))
    monkeypatch.setattr(cli, "measure_limits", lambda cuda: {"1": {"copy": 1e9, "fp32": 1e9, "bf16": 1e9}})
    out = tmp_path / "out.json"
    assert cli.main(["--repeat", "1", "--seed", "5", "--out", str(out)]) == 0
    (written,) = json.loads(out.read_text())
    assert (written["seed"], written["limits"]["1"]["copy"]) == (5, 1e9)
    assert {"processor", "cores", "instruction_sets", "memory", "versions", "load_average", "commit"} <= set(
        written["machine"]
    )
    assert "toy.row: adding" in capsys.readouterr().out
    assert cli.main(["toy.wor"]) == 2
    assert "nearest: toy.row" in capsys.readouterr().err
    rows[:] = [row(toy("ours", "missing", "ours"))]
    assert cli.main(["--repeat", "1", "--out", str(out)]) == 1


def test_small_times_and_memory_are_readable():
    assert [duration(seconds) for seconds in (12.34, 0.01234, 1.5e-6, 2e-9)] == ["12.3 s", "12.3 ms", "1.5 µs", "2 ns"]
    assert 2**20 < tree_memory() < 2**38
