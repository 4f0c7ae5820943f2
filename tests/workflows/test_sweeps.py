"""Sweeps: a job for each combination, sheets that show them, tables, and the curve of success."""

import json
import re
from functools import partial

import numpy as np
import pytest
from PIL import Image

from afterimage import UsageError
from afterimage.workflows import cli, run, runs, serial, verify
from afterimage.workflows.curves import Line, draw_curves, number
from afterimage.workflows.sheets import Cell, Head, Sheet, draw_sheet
from tests.workflows.painters import painting
from tests.workflows.test_cli import MIXED
from tests.workflows.test_images import made, pictures_of
from tests.workflows.test_run import files_of, local, module, rows_of, write_photographs

__all__ = ["module", "painting"]
pytestmark = pytest.mark.usefixtures("painting")


@pytest.fixture
def inputs(tmp_path):
    return write_photographs(tmp_path / "inputs", 3, (32, 32))


def test_each_value_is_a_job_as_if_it_ran_alone(module, inputs, tmp_path):
    given = {"model": module, "seed": 4}
    summary = local("blend", inputs, tmp_path / "out", sweep=["amount=0.1,0.5,0.9"], **given)
    assert (summary.total, summary.statuses, summary.computed) == (9, {"ok": 9}, 9)
    for amount in ("0.1", "0.5", "0.9"):
        local("blend", inputs, tmp_path / "alone", name=amount, amount=float(amount), **given)
        swept, alone = (tmp_path / "out", f"blend.amount={amount}"), (tmp_path / "alone", amount)
        assert files_of(*swept) == files_of(*alone)
        assert pictures_of(*swept) == pictures_of(*alone)
    assert verify(tmp_path / "out") == []


def test_a_sheet_holds_the_pictures_of_all_values(module, inputs, tmp_path):
    local("blend", inputs, tmp_path / "out", model=module, sweep={"amount": [0.0, 1.0]}, seed=2)
    folder = tmp_path / "out" / "blend" / "sheets"
    index = json.loads((folder / "sweep.json").read_text())
    assert [one["key"] for one in index["sheets"]] == ["00.png", "01.png", "02.png"]
    assert [one["job"] for one in index["jobs"]] == ["blend.amount=0", "blend.amount=1"]
    sheet = np.asarray(Image.open(folder / "01.png"))
    for amount in (0, 1):
        row = rows_of(tmp_path / "out", f"blend.amount={amount}")[1]
        picture = made(tmp_path / "out", f"blend.amount={amount}", row)
        assert times(sheet, picture) == (2 if amount == 0 else 1), "the input itself is there too"


def times(sheet, picture):
    """Return how often a picture of few pixels stands in a sheet, enlarged to squares of eleven pixels."""
    large = np.kron(picture, np.ones((11, 11, 1), np.uint8))
    height, width = large.shape[:2]
    corners = np.argwhere((sheet[: 1 - height, : 1 - width] == large[0, 0]).all(2))
    return sum(np.array_equal(sheet[y : y + height, x : x + width], large) for y, x in corners[:5000])


def test_two_options_make_a_grid_and_a_curve(module, inputs, tmp_path, capsys):
    sweep = {"kind": ["even", "odd"], "amount": [0.05, 0.5, 1.0]}
    summary = local("blend", inputs, tmp_path / "out", model=module, sweep=sweep)
    assert [one.job for one in summary.sweep][:2] == ["blend.kind=even.amount=0.05", "blend.kind=even.amount=0.5"]
    means = [row["loss"] for row in rows_of(tmp_path / "out", "blend.kind=odd.amount=0.5")]
    wins = [row["success"] for row in rows_of(tmp_path / "out", "blend.kind=odd.amount=0.5")]
    found = summary.sweep[4]
    assert found.values == {"kind": "odd", "amount": "0.5"}
    assert found.loss == pytest.approx(np.mean(means))
    assert found.success == pytest.approx(np.mean(wins))
    assert [one.success for one in summary.sweep[:3]] == sorted(one.success for one in summary.sweep[:3])
    assert Image.open(tmp_path / "out" / "blend" / "sheets" / "success.png").size == (960, 600)


def test_a_sweep_goes_on_and_grows(module, inputs, tmp_path):
    given = {"model": module, "shard_size": 1}

    def four(task, calls, stop):
        for count, commit in enumerate(serial(task, calls, stop), 1):
            yield commit
            if count == 4:
                stop.set()

    first = run("blend", inputs, tmp_path / "out", sweep=["amount=0.1,0.5"], executor=four, **given)
    assert first.interrupted
    assert not (tmp_path / "out" / "blend" / "sheets").exists()
    assert local("blend", inputs, tmp_path / "out", sweep=["amount=0.1,0.5"], **given).computed == 2
    assert local("blend", inputs, tmp_path / "out", sweep=["amount=0.1,0.5,0.7"], **given).computed == 3
    assert len(json.loads((tmp_path / "out" / "blend" / "sheets" / "sweep.json").read_text())["jobs"]) == 3


def test_styles_and_mixes_of_them_can_be_swept(module, inputs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, color in (("red", (255, 0, 0)), ("blue", (0, 0, 255))):
        Image.new("RGB", (20, 10), color).save(f"{name}.png")
    sweep = ["style=red.png;red.png=1,blue.png=3", "strength=0.5,1"]
    local("tint", inputs, tmp_path / "out", model=module, sweep=sweep)
    names = sorted(path.name for path in (tmp_path / "out").iterdir() if (path / "run.json").exists())
    assert [re.sub("~.{6}", "~", name) for name in names] == [
        "tint.style=red.strength=0.5",
        "tint.style=red.strength=1",
        "tint.style=red_1_+_blue_3~.strength=0.5",
        "tint.style=red_1_+_blue_3~.strength=1",
    ]
    mixed = made(tmp_path / "out", names[3], rows_of(tmp_path / "out", names[3])[0])
    assert (mixed == [64, 0, 191]).all()
    sheet = np.asarray(Image.open(tmp_path / "out" / "tint" / "sheets" / "00.png"))
    assert (sheet == [255, 0, 0]).all(2).any(), "the style stands beside its row"


def test_what_failed_has_its_status_on_the_sheet(module, inputs, tmp_path):
    (inputs / "01.png").write_bytes(b"no picture")
    local("blend", inputs, tmp_path / "out", model=module, sweep=["amount=0.1,0.2"])
    assert (tmp_path / "out" / "blend" / "sheets" / "01.png").exists()


def test_classes_can_be_swept_over_an_option(module, tmp_path):
    local("invent", ["a", "convolutions.0:2"], tmp_path / "out", model=module, sweep=["side=8,16"])
    folder = tmp_path / "out" / "invent" / "sheets"
    assert {path.name for path in folder.iterdir()} == {"a.png", "convolutions.0:2.png", "sweep.json"}


@pytest.mark.parametrize(
    ("verb", "sweep", "message"),
    [
        ("blend", ["amount"], "expected OPTION=VALUE,VALUE"),
        ("blend", ["amount=0.1,"], "expected OPTION=VALUE,VALUE"),
        ("blend", ["amount=0.1"], "two values of amount at least"),
        ("blend", ["amount=0.1,0.10"], "all different, got 0.1, 0.1"),
        ("blend", ["amont=1,2"], "blend has no option 'amont'; nearest: amount"),
        ("blend", ["keep=all,none"], "blend has no option 'keep'"),
        ("blend", ["amount=1,2", "steps=1,2", "target=a,b"], "at most 2 options"),
        ("blend", ["amount=1,2", "amount=3,4"], "each once"),
        ("blend", ["amount=0.5,1.5"], "amount: expected at most 1, got 1.5"),
        ("blend", ["amount=0.5,much"], "option 'amount' takes a value of type float, not 'much'"),
        ("blend", ["target=a,f"], "no class 'f'"),
        ("tint", ["style=a.png,b.png"], "style: cannot use 'a.png': No such file"),
        ("saliency", ["score=logit,probability"], "saliency makes maps"),
    ],
)
def test_a_mistake_is_told_before_any_job(verb, sweep, message, module, inputs, tmp_path):
    with pytest.raises(UsageError, match=message):
        local(verb, inputs, tmp_path / "out", model=module, sweep=sweep)
    assert not (tmp_path / "out").exists()


def test_the_command_prints_the_table(inputs, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(runs, "run", partial(run, executor=serial))
    with pytest.raises(SystemExit):
        cli.main(["blend", str(inputs), str(tmp_path / "out"), *MIXED, "--sweep", "amount=0.1,0.9"])
    printed = capsys.readouterr().out
    assert re.search(r"^amount +images +mean final loss +success$", printed, re.MULTILINE)
    assert re.search(r"^0\.9 +3 ok +0\.\d+ +\d+\.0%$", printed, re.MULTILINE)
    assert "blend/sheets" in printed


def test_numbers_of_options():
    assert [number(value) for value in ("4/255", "0.5", 3, "1e-3", None, True, "noise", "1/0")] == [
        pytest.approx(4 / 255), 0.5, 3, 1e-3, None, None, None, None,
    ]  # fmt: skip


@pytest.mark.parametrize("count", [1, 2, 7, 13])
@pytest.mark.parametrize("grid", [False, True])
@pytest.mark.parametrize("size", [(20, 30), (600, 200), (1, 1)])
def test_sheets_of_all_sizes_are_drawn_whole(count, grid, size):
    picture = np.full((*size, 3), (10, 200, 30), np.uint8)
    heads = [Head(f"a rather long label with the number {place}") for place in range(count)]
    rows = [Head("row", (picture, picture)), Head("another row")] if grid else []
    cells = [[Cell(picture, "diverged")] * count] * max(1, len(rows))
    sheet = draw_sheet(Sheet("a title " * 40, [("input", picture), ("style", picture)], rows, heads, cells))
    pixels = np.asarray(sheet)
    assert sheet.width <= 2400 or count > 7
    for edge in (pixels[:16], pixels[-16:], pixels[:, :16], pixels[:, -16:]):
        assert (edge == 255).all(), "nothing reaches into the margin"


def test_curves_of_any_values_are_drawn():
    for values in ([0.0, 1.0], [1e-6, 1e-3, 1.0], [-5.0, 5.0]):
        labels = [str(value) for value in values]
        picture = draw_curves("title", "option", values, labels, [Line("", [0.5] * len(values))])
        assert len(np.unique(np.asarray(picture)[..., 0])) > 3
