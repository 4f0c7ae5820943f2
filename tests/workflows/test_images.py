"""Runs of methods that make pictures: files and rows, seeds, named pictures, subjects, divergence, refusals."""

import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from afterimage import RefusedError, UsageError, registry
from afterimage.registry import methods
from afterimage.workflows import cli, run, serial, underway, verify
from afterimage.workflows.calls import seed_of
from afterimage.workflows.shards import committed
from tests.workflows.fixtures import photograph
from tests.workflows.painters import noise, painting
from tests.workflows.test_run import as_image, files_of, local, module, photographs, rows_of, write_photographs

__all__ = ["module", "painting", "photographs"]
pytestmark = pytest.mark.usefixtures("painting")


@pytest.fixture
def inputs(tmp_path):
    return write_photographs(tmp_path / "inputs", 5, (32, 32))  # the network's input size: left untouched


def made(out, job, row):
    return np.asarray(Image.open(out / job / row["file"]))


def pictures_of(out, job):
    folder = out / job / "images"
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_row_names_its_picture_and_tells_its_figures(module, inputs, tmp_path):
    summary = local("blend", inputs, tmp_path / "out", model=module, target="c", seed=7)
    assert summary.statuses == {"ok": 5}
    for row in rows_of(tmp_path / "out", "blend"):
        image = as_image(inputs / row["key"])
        expected = image.lerp(noise(torch.tensor([seed_of(7, row["key"])]), 3, 32, 32), 0.25)
        pixels = made(tmp_path / "out", "blend", row)
        np.testing.assert_array_equal(pixels, (expected[0] * 255).round().byte().permute(1, 2, 0))
        assert row["file"] == f"images/{row['key']}"
        assert (row["file_height"], row["file_width"]) == pixels.shape[:2]
        probabilities = module(image)[0].detach().softmax(0)
        assert row["prediction"] == row["seen_as"] == "abcde"[int(probabilities.argmax())]
        assert row["target"] == "c"
        assert row["target_probability"] == pytest.approx(float(probabilities[2]), abs=1e-5)
        mean = float(image.mean())
        length = 4 if mean >= 0.3 else 2
        np.testing.assert_allclose(row["losses"], [mean / step for step in range(1, length + 1)], rtol=1e-5)
        assert row["steps"] == length
        assert set(row) >= {"drawing", "thumbnail", "difference"}
        assert not set(row) & {"overlay", "diverged", "image"}
    assert verify(tmp_path / "out") == []


def test_bytes_depend_on_the_seed_and_not_on_the_executor(photographs, module, tmp_path):
    from distributed import LocalCluster

    given = {"model": module, "batch_size": 2, "shard_size": 3}
    local("blend", photographs, tmp_path / "plain", **given)
    address = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0", "protocol": "tcp"}
    with LocalCluster(n_workers=2, threads_per_worker=2, processes=False, **address) as cluster:
        run("blend", photographs, tmp_path / "dask", scheduler=cluster.scheduler_address, **given)
    assert files_of(tmp_path / "plain", "blend") == files_of(tmp_path / "dask", "blend")
    assert pictures_of(tmp_path / "plain", "blend") == pictures_of(tmp_path / "dask", "blend")
    assert len(pictures_of(tmp_path / "plain", "blend")) == 11
    local("blend", photographs, tmp_path / "other", seed=1, **given)
    one, other = (set(pictures_of(tmp_path / name, "blend").values()) for name in ("plain", "other"))
    assert not one & other
    with pytest.raises(RefusedError, match="seed was 0, now 1"):
        local("blend", photographs, tmp_path / "plain", seed=1, **given)


def test_an_items_seed_is_stable():
    assert seed_of(0, "a.png") == 5644683223535919170
    seeds = {seed_of(run, key) for run in range(3) for key in ("a.png", "b.png", "1.png")}
    assert len(seeds) == 9
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_what_diverges_keeps_its_last_picture(module, inputs, tmp_path):
    Image.new("RGB", (32, 32), "white").save(inputs / "01.png")
    Image.new("RGB", (32, 32), "black").save(inputs / "03.png")
    summary = local("blend", inputs, tmp_path / "out", model=module, batch_size=5)
    assert summary.statuses == {"ok": 3, "diverged": 1, "model_failed": 1}
    assert summary.failed == 2
    rows = rows_of(tmp_path / "out", "blend")
    assert [row["status"] for row in rows] == ["ok", "diverged", "ok", "model_failed", "ok"]
    assert made(tmp_path / "out", "blend", rows[1]).mean() > 200
    assert rows[1]["losses"] == [1, 0.5]
    assert (rows[1]["loss"], rows[1]["steps"]) == (None, 4)
    assert rows[1]["drawing"] is not None
    assert (rows[3]["file"], rows[3]["drawing"], rows[3]["losses"]) == (None, None, None)
    assert "a black corner" in rows[3]["error"]
    assert set(pictures_of(tmp_path / "out", "blend")) == {"00.png", "01.png", "02.png", "04.png"}
    assert verify(tmp_path / "out") == []


def test_a_retry_changes_no_committed_picture(module, inputs, tmp_path):
    good = (inputs / "03.png").read_bytes()
    (inputs / "03.png").write_bytes(good[: len(good) // 2])
    Image.new("RGB", (32, 32), "white").save(inputs / "01.png", format="bmp")
    given = {"model": module, "shard_size": 5, "retry_failed": True}
    failed = {"ok": 3, "diverged": 1, "decode_failed": 1}
    assert local("blend", inputs, tmp_path / "out", **given).statuses == failed
    first = pictures_of(tmp_path / "out", "blend")
    assert local("blend", inputs, tmp_path / "out", **given).statuses == failed
    assert pictures_of(tmp_path / "out", "blend") == first, "the same picture again is not written"
    (inputs / "03.png").write_bytes(good)
    Image.new("RGB", (32, 32), (0, 200, 90)).save(inputs / "01.png", format="bmp")
    assert local("blend", inputs, tmp_path / "out", **given).statuses == {"ok": 5}
    last = pictures_of(tmp_path / "out", "blend")
    assert last == first | {name: last[name] for name in ("03.png", "01~g2.png")}
    assert rows_of(tmp_path / "out", "blend")[1]["file"] == "images/01~g2.png"
    assert verify(tmp_path / "out") == []


def test_a_resumed_run_gives_the_pictures_of_an_uninterrupted_one(photographs, module, tmp_path):
    given = {"model": module, "shard_size": 3}
    local("blend", photographs, tmp_path / "out", **given)
    tables, pictures = files_of(tmp_path / "out", "blend"), pictures_of(tmp_path / "out", "blend")
    job = tmp_path / "out" / "blend"
    (job / "shards" / "00001.g0.commit.json").unlink()
    (job / "images" / "03.png").unlink()
    (job / "images" / "04.png").write_bytes(b"half a picture of a process that was killed")
    (job / "images" / ".staged-0123").mkdir()
    (job / "images" / ".staged-0123" / "0").write_bytes(b"and one that was not put into place")
    assert local("blend", photographs, tmp_path / "out", **given).computed == 3
    assert files_of(tmp_path / "out", "blend") == tables
    assert pictures_of(tmp_path / "out", "blend") == pictures
    assert not (job / "images" / ".staged-0123").exists()


def test_overwriting_takes_the_pictures_away(photographs, module, tmp_path):
    local("blend", photographs, tmp_path / "out", model=module, limit=4)
    local("blend", photographs, tmp_path / "out", model=module, limit=2, mode="overwrite")
    assert set(pictures_of(tmp_path / "out", "blend")) == {"00.png", "01.png"}


def test_verify_looks_at_the_pictures(photographs, module, tmp_path):
    local("blend", photographs, tmp_path / "out", model=module, limit=3)
    folder = tmp_path / "out" / "blend" / "images"
    (folder / "00.png").unlink()
    (folder / "02.png").write_bytes((folder / "01.png").read_bytes())
    assert verify(tmp_path / "out") == [
        "blend/images/00.png: missing, though the row of 00.png names it",
        "blend/images/02.png: changed since it was committed (sha256 differs)",
    ]


def test_another_attempt_at_a_committed_shard_changes_nothing(photographs, module, tmp_path):
    """A worker that was thought lost comes back with other bytes: the first commit stands, its pictures too."""
    from afterimage.workflows.task import run_shard

    def twice(task, calls, stop):
        for [part], *rest in calls:
            yield from run_shard([part], *rest)
            before = pictures_of(tmp_path / "out", "blend")
            again = run_shard([part._replace(job=replace(part.job, seed=5))], *rest)
            assert again == [committed(part.folder)[rest[0]]]
            assert pictures_of(tmp_path / "out", "blend") == before

    run("blend", photographs, tmp_path / "out", model=module, limit=3, executor=twice)
    assert verify(tmp_path / "out") == []


def test_keep_none_still_writes_the_picture(photographs, module, tmp_path):
    local("blend", photographs, tmp_path / "out", model=module, limit=2, keep="none")
    row = rows_of(tmp_path / "out", "blend")[0]
    assert not {"drawing", "thumbnail", "difference"} & set(row)
    assert row["loss"] is not None
    assert len(pictures_of(tmp_path / "out", "blend")) == 2


def test_the_predicted_size_is_that_of_the_files(tmp_path, module):
    inputs = write_photographs(tmp_path / "inputs", 4, (200, 300))
    style = tmp_path / "style.png"
    Image.fromarray(photograph(20, 30, 1)).save(style)
    summary = local("blend", inputs, tmp_path / "out", model="demo")
    files = [path for path in (tmp_path / "out" / "blend").rglob("*") if path.suffix in (".png", ".parquet")]
    written = sum(path.stat().st_size for path in files)
    assert 0.4 * written < summary.predicted_bytes < 2.5 * written


def test_contents_keep_their_proportions_and_styles_their_weights(module, tmp_path):
    inputs = write_photographs(tmp_path / "inputs", 3, (40, 60))
    Image.fromarray(photograph(90, 30, 5)).save(inputs / "tall.png")
    for name, color in (("red", (255, 0, 0)), ("blue", (0, 0, 255))):
        Image.new("RGB", (20, 10), color).save(tmp_path / f"{name}.png")
    styles = f"{tmp_path}/red.png=1,{tmp_path}/blue.png=3"
    local("tint", inputs, tmp_path / "out", model=module, style=styles, strength=1.0)
    rows = rows_of(tmp_path / "out", "tint")
    assert [(row["file_height"], row["file_width"]) for row in rows] == [(32, 48)] * 3 + [(48, 16)]
    for row in rows:
        assert (made(tmp_path / "out", "tint", row) == [64, 0, 191]).all()
        assert row["prediction"] is None
    config = json.loads((tmp_path / "out" / "tint" / "run.json").read_text())
    assert [(one["name"], one["weight"]) for one in config["config"]["named"]] == [("style", 1), ("style", 3)]
    assert config["named"][0]["uri"].endswith("/red.png")
    shutil.copy(tmp_path / "red.png", tmp_path / "moved.png")
    moved = {tmp_path / "moved.png": 1, str(tmp_path / "blue.png"): 3}
    assert local("tint", inputs, tmp_path / "out", model=module, style=moved, strength=1.0).computed == 0
    with pytest.raises(RefusedError, match=r"named was .*, now "):
        local("tint", inputs, tmp_path / "out", model=module, style=tmp_path / "red.png", strength=1.0)


def test_a_mask_for_each_style_says_what_of_it_counts(module, tmp_path):
    inputs = write_photographs(tmp_path / "inputs", 1, (32, 48))
    flag = np.zeros((8, 12, 3), np.uint8)
    flag[:, 6:] = (255, 0, 102)
    Image.fromarray(flag).save(tmp_path / "flag.png")
    Image.fromarray((flag[..., 0] > 0).astype(np.uint8) * 255).save(tmp_path / "right.png")
    given = {"model": module, "style": tmp_path / "flag.png", "strength": 1.0}
    local("tint", inputs, tmp_path / "out", style_mask=tmp_path / "right.png", **given)
    pixels = made(tmp_path / "out", "tint", rows_of(tmp_path / "out", "tint")[0])
    assert (pixels == (255, 0, 102)).all()


def test_a_mask_says_where(module, tmp_path):
    inputs = write_photographs(tmp_path / "inputs", 2, (32, 48))
    Image.new("RGB", (4, 4), "white").save(tmp_path / "white.png")
    mask = np.zeros((32, 48, 3), np.uint8)
    mask[:, 24:] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    given = {"model": module, "style": tmp_path / "white.png", "strength": 1.0}
    local("tint", inputs, tmp_path / "out", mask=tmp_path / "mask.png", **given)
    for row in rows_of(tmp_path / "out", "tint"):
        pixels, before = made(tmp_path / "out", "tint", row), np.asarray(Image.open(inputs / row["key"]))
        np.testing.assert_array_equal(pixels[:, :24], before[:, :24])
        assert (pixels[:, 24:] == 255).all()
    Image.fromarray(mask[:, :40]).save(tmp_path / "narrow.png")
    with pytest.raises(UsageError, match=r"mask: expected the size of 00.png, 48×32 pixels, got narrow.png of 40×32"):
        local("tint", inputs, tmp_path / "two", mask=tmp_path / "narrow.png", **given)
    assert not (tmp_path / "two").exists()


def test_pictures_of_classes_and_neurons(module, tmp_path):
    subjects = ["b", 4, "convolutions.2:3", "convolutions.0", "b"]
    local("invent", subjects, tmp_path / "out", model=module, seed=3)
    rows = {row["key"]: row for row in rows_of(tmp_path / "out", "invent")}
    assert list(rows) == ["b", "e", "convolutions.2%3A3", *(f"convolutions.0%3A{channel}" for channel in range(6))]
    assert [row["target"] for row in rows.values()] == ["b", "e"] + [None] * 7
    for key, shade in {"b": 1, "e": 4, "convolutions.2%3A3": 3, "convolutions.0%3A5": 5}.items():
        assert rows[key]["error"] is None
        expected = noise(torch.tensor([seed_of(3, key)]), 3, 24, 24).lerp(torch.tensor(shade / 5), 0.7)
        pixels = made(tmp_path / "out", "invent", {"file": rows[key]["file"].replace("%3A", ":")})
        np.testing.assert_array_equal(pixels, (expected[0] * 255).round().byte().permute(1, 2, 0))
    assert set(pictures_of(tmp_path / "out", "invent")) >= {"b.png", "convolutions.2:3.png"}
    assert rows["b"]["uri"] == "subject:class:b"
    assert verify(tmp_path / "out") == []
    with pytest.raises(RefusedError, match=r"added \(a, c, d, …\)"):
        local("invent", ["all"], tmp_path / "out", model=module, seed=3)
    summary = local("invent", ["all"], tmp_path / "every", model=module)
    assert [row["target"] for row in rows_of(tmp_path / "every", "invent")] == list("abcde")
    assert summary.statuses == {"ok": 5}


def test_subjects_and_pictures_do_not_share_a_folder(module, inputs, tmp_path):
    local("invent", ["a"], tmp_path / "out", model=module)
    with pytest.raises(RefusedError, match="made from classes or neurons, now it would be pictures"):
        local("blend", inputs, tmp_path / "out", model=module, mode="extend")


def test_a_method_may_need_no_network(inputs, tmp_path, monkeypatch):
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    local("darken", inputs, tmp_path / "out")
    rows = rows_of(tmp_path / "out", "darken")
    assert [(row["file_height"], row["status"]) for row in rows] == [(64, "ok")] * 5
    assert json.loads((tmp_path / "out" / "darken" / "run.json").read_text())["model"]["name"] == "none"


@pytest.mark.parametrize(
    ("verb", "given", "message"),
    [
        ("blend", {"amount": 2.0}, "amount: expected at most 1, got 2.0"),
        ("blend", {"heatmap_size": 8}, "blend has no option 'heatmap_size'"),
        ("blend", {"keep": "heatmap"}, "option 'keep' takes one of none, all"),
        ("blend", {"style": "a.png"}, "blend has no option 'style'"),
        ("tint", {}, "tint needs a picture: --style FILE"),
        ("tint", {"style": "nowhere.png"}, "style: cannot use 'nowhere.png': No such file"),
        ("tint", {"style": __file__}, "style: cannot use .*expected one of JPEG"),
        ("tint", {"style": "STYLE", "layer": "convolution.0"}, "no layer 'convolution.0'.*nearest: convolutions.0"),
        ("tint", {"style": "STYLE=0.2,STYLE"}, "a weight for each picture or for none"),
        ("tint", {"style": "STYLE=-1"}, "weights of 0 or above"),
        ("tint", {"style": "STYLE", "mask": ["STYLE", "STYLE"]}, "mask: expected one picture, got 2"),
        (
            "tint",
            {"style": "STYLE", "mask": "STYLE=0.5"},
            "mask: expected no weights, got '.*=0.5'; give those of style",
        ),
        ("tint", {"style": "STYLE", "target": "a"}, "tint has no option 'target'"),
    ],
)
def test_a_mistake_is_told_before_the_work(verb, given, message, module, inputs, tmp_path):
    Image.new("RGB", (8, 8), "red").save(tmp_path / "style.png")
    named = str(tmp_path / "style.png")

    def filled(value):
        if isinstance(value, list):
            return [filled(one) for one in value]
        return value.replace("STYLE", named) if isinstance(value, str) else value

    with pytest.raises(UsageError, match=message):
        local(verb, inputs, tmp_path / "out", model=module, **{name: filled(value) for name, value in given.items()})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("subject", "message"),
    [
        ("f", "no class and no layer 'f'"),
        ("convolution.1", "no class and no layer 'convolution.1' in Mixed; nearest: convolutions.1"),
        ("convolution.1:3", "no layer 'convolution.1' in Mixed; nearest: convolutions.1"),
        ("convolutions.1:6", "out of range"),
        ("convolutions.1:3:32:0", "out of range"),
        ("convolutions.1:3:2", "expected layer, layer:channel or layer:channel:y:x"),
        ("5", "class index: expected 0 to 4, got 5"),
    ],
)
def test_an_unknown_subject_is_told_with_what_is_near(subject, message, module, tmp_path):
    with pytest.raises(UsageError, match=message):
        local("invent", [subject], tmp_path / "out", model=module)
    assert not (tmp_path / "out").exists()


def test_a_changed_style_stops_the_run(module, inputs, tmp_path):
    style = tmp_path / "style.png"
    Image.new("RGB", (8, 8), "red").save(style)

    def late(task, calls, stop):
        from afterimage.workflows import named

        named.pixels_of.cache_clear()
        Image.new("RGB", (8, 8), "blue").save(style)
        for call in calls:
            yield task(*call)

    with pytest.raises(RefusedError, match=r"style: style\.png is not the file that the run was planned with"):
        run("tint", inputs, tmp_path / "out", model=module, style=Path(style), executor=late)


def test_progress_within_an_image_is_told_to_the_bar(module, inputs, tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(underway, "SECONDS_BETWEEN_WRITES", 0.0)

    def watching(task, calls, stop):
        for parts, *rest in calls:
            before = underway.NUMBER.pack
            monkeypatch.setattr(underway, "NUMBER", Recording(before, told))
            yield from task(parts, *rest)

    run("blend", inputs, tmp_path / "out", model=module, limit=2, steps=4, batch_size=2, executor=watching)
    assert told == [0.5, 1.0, 1.5, 2.0, 2.0]


class Recording:
    """Packs numbers as they are packed, and keeps them."""

    def __init__(self, pack, told):
        self._pack, self._told = pack, told

    def pack(self, number):
        self._told.append(number)
        return self._pack(number)


def test_an_option_may_be_called_as_the_arguments_of_a_run(inputs, tmp_path):
    run("darken", inputs, tmp_path / "out", out=0.5, executor=serial)
    assert {row["file_width"] for row in rows_of(tmp_path / "out", "darken")} == {16}


def test_cores_without_a_picture_of_their_own_help_with_the_others(module, inputs, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))
    Image.new("RGB", (8, 8), "red").save(tmp_path / "style.png")
    given = {"model": module, "style": tmp_path / "style.png", "size": 32}

    def threads(job, **more):
        local("tint", inputs, tmp_path / "out", name=job, **given, **more)
        return json.loads((tmp_path / "out" / job / "run.json").read_text())["config"]["threads"]

    assert threads("five") == 8 // 5
    assert threads("chosen", threads=3) == 3
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0})
    assert threads("chosen", threads=3) == 3
    local("blend", inputs, tmp_path / "one", model=module, limit=1)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(64)))
    assert local("blend", inputs, tmp_path / "one", model=module, limit=1).computed == 0, "what it began with, it keeps"


def test_commands_offer_what_bears_on_them(capsys):
    def helped(verb):
        with pytest.raises(SystemExit):
            cli.command_of(methods()[verb])(["--help"])
        return " ".join(capsys.readouterr().out.split())

    tint, invent, blend, saliency = map(helped, ("tint", "invent", "blend", "saliency"))
    assert "--model, --loss-net MODEL" in tint
    assert "without it demo" in tint
    assert re.search(r"--fit \[.*\] .*\[default: inside\]", tint)
    assert re.search(r"--size SIZE .*default: 48", tint)
    for flag in ("--style", "--mask", "--seed", "--sweep", "--strength"):
        assert f"{flag} " in tint
    assert "SUBJECT... OUT" in invent
    for flag in ("--of", "--target", "--labels", "--size", "--fit", "--max-pixels"):
        assert f"{flag} " not in invent
    for flag in ("--target", "--seed", "--labels", "--keep [none|all]"):
        assert f"{flag} " in blend
    assert "--heatmap-size " not in blend
    for flag in ("--seed", "--sweep"):
        assert f"{flag} " not in saliency


def test_a_loss_network_is_called_so_in_errors(inputs, tmp_path):
    Image.new("RGB", (8, 8), "red").save(tmp_path / "style.png")
    with pytest.raises(UsageError, match=r"name its network too, as --loss-net resnet50 --weights x\.safetensors"):
        local("tint", inputs, tmp_path / "out", model="x.safetensors", style=tmp_path / "style.png")


def test_an_option_may_not_be_called_as_a_setting(monkeypatch):
    class Odd:
        """Odd."""

        labels: str = registry.option("a", "labels")

        def __call__(self, model: torch.nn.Module, images: torch.Tensor) -> registry.Image: ...

    registry.register(Odd, verb="odd")
    with pytest.raises(TypeError, match="odd: expected options that no setting or picture is called as, got labels"):
        cli.command_of(methods()["odd"])
