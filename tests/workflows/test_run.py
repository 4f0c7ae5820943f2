"""Runs end to end: a row for every input, the same bytes from every executor, resume, refusals, retries."""

import json
from pathlib import Path
from urllib.parse import unquote_to_bytes

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from afterimage import RefusedError, Saliency, UsageError, load_model
from afterimage.workflows import run, serial, status, verify
from afterimage.workflows.rows import STATUSES, heatmap_of
from afterimage.workflows.shards import committed, read_shard
from tests.networks import mixed
from tests.workflows.fixtures import photograph, write_faulty

CHOSEN = {"weights": "none", "crop": 32, "mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}


def write_photographs(folder: Path, count: int, size: tuple[int, int] = (40, 60)) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.fromarray(photograph(*size, number)).save(folder / f"{number:02d}.png")
    return folder


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    return write_photographs(tmp_path_factory.mktemp("photographs"), 11)


@pytest.fixture(scope="module")
def module():
    return load_model(mixed(), crop=32, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25), categories=list("abcde"))


def as_image(path: Path) -> torch.Tensor:
    return torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1)[None] / 255


def local(verb, inputs, out, **given):
    return run(verb, inputs, out, executor=serial, **given)


def rows_of(out, job="saliency"):
    folder = Path(out) / job / "shards"
    return [row for commit in committed(folder).values() for row in read_shard(folder, commit).to_pylist()]


def files_of(out, job="saliency"):
    return {path.name: path.read_bytes() for path in (Path(out) / job / "shards").glob("*.parquet")}


def test_rows_hold_what_the_method_gives(module, tmp_path):
    inputs = write_photographs(tmp_path / "inputs", 11, (32, 32))  # the network's input size: left untouched
    summary = local("saliency", inputs, tmp_path / "out", model=module, batch_size=4, shard_size=5)
    assert summary.statuses == {"ok": 11}
    rows = rows_of(tmp_path / "out")
    assert [row["key"] for row in rows] == [f"{number:02d}.png" for number in range(11)]
    for row in rows:
        image = as_image(inputs / row["key"])
        assert (row["height"], row["width"], row["crop_box_x0"], row["crop_box_y1"]) == (32, 32, 0, 32)
        logits = module(image)[0].detach()
        assert row["prediction"] == row["target"] == "abcde"[int(logits.argmax())]
        assert row["probability"] == pytest.approx(float(logits.softmax(0).max()), abs=1e-4)
        expected = Saliency()(module, image)[0].numpy()
        stored = heatmap_of(row, "heatmap")
        # float16 of the share of the largest value: 11 bits; batches of four in channels-last order add float32 noise
        assert np.abs(stored - expected).max() <= 2e-3 * expected.max()
        assert row["heatmap_scale"] == pytest.approx(float(expected.max()), rel=1e-3)


def test_dask_and_the_plain_map_give_the_same_bytes(photographs, module, tmp_path):
    given = {"model": module, "batch_size": 4, "shard_size": 3}
    run("saliency", photographs, tmp_path / "dask", workers=2, **given)
    local("saliency", photographs, tmp_path / "plain", **given)
    assert len(files_of(tmp_path / "plain")) == 4
    assert files_of(tmp_path / "dask") == files_of(tmp_path / "plain")


def test_every_input_has_one_row_whatever_is_wrong_with_it(module, tmp_path):
    folder = tmp_path / "inputs"
    write_photographs(folder / "good", 3)
    expected = write_faulty(folder / "bad")
    summary = local("guided-backprop", folder, tmp_path / "out", model=module, batch_size=4, shard_size=16)
    rows = {row["key"]: row for row in rows_of(tmp_path / "out", "guided-backprop")}
    assert sum(summary.statuses.values()) == len(rows) == summary.total
    assert set(summary.statuses) <= set(STATUSES)
    found = {unquote_to_bytes(key): row for key, row in rows.items()}
    for name, wanted in expected.items():
        row = found[b"bad/" + name]
        assert row["status"] == wanted, name
        assert (row["error"] is None) == (wanted == "ok")
        assert (row["gradient"] is not None) == (wanted == "ok")
        assert row["error"] is None or (len(row["error"]) <= 500 and "\n" not in row["error"])
    assert all(found[f"good/{number:02d}.png".encode()]["status"] == "ok" for number in range(3))
    assert not verify(tmp_path / "out")


def test_an_image_that_breaks_the_model_costs_one_row(photographs, tmp_path):
    class Picky(torch.nn.Module):
        def forward(self, images):
            means = images.mean((1, 2, 3))
            if (means > 0.99).any():
                raise ValueError("too bright for this network")
            return torch.stack([means, means.reciprocal(), (means - 0.5).sqrt()], 1)

    folder = write_photographs(tmp_path / "inputs", 6)
    Image.new("RGB", (32, 32), "white").save(folder / "02.png")
    Image.new("RGB", (32, 32), (64, 64, 64)).save(folder / "03.png")
    network = load_model(Picky(), crop=32, mean=(0, 0, 0), std=(1, 1, 1))
    for number in (0, 1, 4, 5):
        Image.new("RGB", (32, 32), (200 + number, 180, 190)).save(folder / f"{number:02d}.png")
    local("saliency", folder, tmp_path / "out", model=network, batch_size=4)
    rows = rows_of(tmp_path / "out")
    assert [row["status"] for row in rows] == ["ok", "ok", "model_failed", "nonfinite", "ok", "ok"]
    assert "too bright" in rows[2]["error"]


def test_resume_computes_what_is_missing_and_changes_nothing(photographs, module, tmp_path):
    given = {"model": module, "batch_size": 4, "shard_size": 3}
    local("saliency", photographs, tmp_path / "out", **given)
    whole = files_of(tmp_path / "out")
    shards = tmp_path / "out" / "saliency" / "shards"
    for name in ("00001.g0.commit.json", "00002.g0.commit.json", "00002.g0.parquet"):
        (shards / name).unlink()
    (shards / "00001.g0.parquet").write_bytes(b"half a file of a process that was killed")
    kept = (shards / "00000.g0.parquet").stat()
    summary = local("saliency", photographs, tmp_path / "out", **given)
    assert summary.computed == 6
    assert files_of(tmp_path / "out") == whole
    assert (shards / "00000.g0.parquet").stat() == kept
    assert local("saliency", photographs, tmp_path / "out", **given).computed == 0


def test_another_configuration_is_refused_with_the_difference(photographs, module, tmp_path):
    local("saliency", photographs, tmp_path / "out", model=module)
    before = files_of(tmp_path / "out")
    with pytest.raises(RefusedError, match=r"options.score was 'logit', now 'probability'; .*--name NAME"):
        local("saliency", photographs, tmp_path / "out", model=module, score="probability")
    with pytest.raises(RefusedError, match="batch_size was 4, now 2"):
        local("saliency", photographs, tmp_path / "out", model=module, batch_size=2)
    assert files_of(tmp_path / "out") == before
    local("saliency", photographs, tmp_path / "out", model=module, score="probability", name="second")
    assert [job["job"] for job in status(tmp_path / "out")] == ["saliency", "second"]
    summary = local("saliency", photographs, tmp_path / "out", model=module, batch_size=2, mode="overwrite")
    assert summary.computed == 11


def test_other_inputs_are_refused_or_extend_the_run(module, tmp_path):
    folder = write_photographs(tmp_path / "inputs", 5)
    given = {"model": module, "shard_size": 3}
    local("saliency", folder, tmp_path / "out", **given)
    before = files_of(tmp_path / "out")
    write_photographs(folder / "new", 2)
    with pytest.raises(RefusedError, match=r"2 added \(new/00.png, new/01.png, …\).*--mode extend"):
        local("saliency", folder, tmp_path / "out", **given)
    summary = local("saliency", folder, tmp_path / "out", mode="extend", **given)
    assert (summary.total, summary.computed) == (7, 2)
    after = files_of(tmp_path / "out")
    assert {name: after[name] for name in before} == before
    assert not verify(tmp_path / "out")
    with pytest.raises(RefusedError, match="9 of these files under other keys"):
        local("saliency", [folder, folder / "new"], tmp_path / "out", mode="extend", **given)
    (folder / "00.png").unlink()
    with pytest.raises(RefusedError, match="1 removed"):
        local("saliency", folder, tmp_path / "out", **given)


def test_retry_makes_a_generation_and_keeps_what_was_ok(module, tmp_path):
    folder = write_photographs(tmp_path / "inputs", 5)
    good = (folder / "03.png").read_bytes()
    (folder / "03.png").write_bytes(good[: len(good) // 2])
    given = {"model": module, "shard_size": 3}
    assert local("saliency", folder, tmp_path / "out", **given).failed == 1
    before = files_of(tmp_path / "out")
    (folder / "03.png").write_bytes(good)
    with pytest.raises(RefusedError, match="1 resized"):
        local("saliency", folder, tmp_path / "out", **given)
    summary = local("saliency", folder, tmp_path / "out", retry_failed=True, **given)
    assert summary.statuses == {"ok": 5}
    after = files_of(tmp_path / "out")
    assert set(after) - set(before) == {"00001.g1.parquet"}
    assert {name: after[name] for name in before} == before
    assert [row["key"] for row in rows_of(tmp_path / "out")] == [f"{number:02d}.png" for number in range(5)]
    assert not verify(tmp_path / "out")
    (folder / "01.png").write_bytes(good)
    with pytest.raises(RefusedError, match="resized"):
        local("saliency", folder, tmp_path / "out", retry_failed=True, **given)


def test_overwriting_begins_after_what_can_fail(photographs, module, tmp_path):
    local("saliency", photographs, tmp_path / "out", model=module)
    before = files_of(tmp_path / "out")
    with pytest.raises(UsageError, match="no Dask scheduler answers"):
        run("saliency", photographs, tmp_path / "out", model=module, mode="overwrite", scheduler="tcp://127.0.0.1:9")
    assert files_of(tmp_path / "out") == before
    assert before


def test_two_first_runs_of_one_folder_share_its_manifest(photographs, module, tmp_path):
    def interleaved(task, calls, stop):
        with pytest.raises(RefusedError, match="another run has begun"):
            runs._begin([late], Settings())
        return serial(task, calls, stop)

    from afterimage.registry import method
    from afterimage.workflows import runs
    from afterimage.workflows.plan import plan_run
    from afterimage.workflows.settings import Settings

    chosen = Settings(model=module)
    late = plan_run(method("guided-backprop"), chosen, {}, [photographs], tmp_path / "out", lambda line: None)
    run("saliency", photographs, tmp_path / "out", model=module, executor=interleaved)
    assert not verify(tmp_path / "out")


def test_threads_of_one_worker_do_not_mix_their_rows(module, tmp_path):
    from distributed import LocalCluster

    inputs = write_photographs(tmp_path / "inputs", 24, (32, 32))
    given = {"model": module, "shard_size": 2, "batch_size": 2}
    local("saliency", inputs, tmp_path / "plain", **given)
    address = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0", "protocol": "tcp"}
    with LocalCluster(n_workers=1, threads_per_worker=4, processes=False, **address) as cluster:
        run("saliency", inputs, tmp_path / "threads", scheduler=cluster.scheduler_address, **given)
    assert files_of(tmp_path / "threads") == files_of(tmp_path / "plain")


def test_the_calling_process_keeps_its_threads(photographs, module, tmp_path):
    before = torch.get_num_threads()
    local("saliency", photographs, tmp_path / "out", model=module, threads=before + 1, limit=2)
    assert torch.get_num_threads() == before


def test_other_categories_are_another_run(photographs, module, tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("a\nb\nc\nd\ne\n")
    given = {"model": "tests.networks:mixed", "crop": 32, "mean": (0.5,) * 3, "std": (0.25,) * 3, "limit": 3}
    local("saliency", photographs, tmp_path / "out", categories=str(names), **given)
    names.write_text("a\nb\nc\nd\nx\n")
    with pytest.raises(RefusedError, match=r"model\.categories"):
        local("saliency", photographs, tmp_path / "out", categories=str(names), **given)
    with pytest.raises(UsageError, match="categories: the model has its own already"):
        local("saliency", photographs, tmp_path / "two", model=module, categories=str(names))


def test_labels_know_right_from_wrong(module, tmp_path):
    for label in ("a", "B", "zebra"):
        write_photographs(tmp_path / "inputs" / label, 2)
    local("saliency", tmp_path / "inputs", tmp_path / "out", model=module, labels="folders")
    assert [row["label"] for row in rows_of(tmp_path / "out")] == ["b", "b", "a", "a", "zebra", "zebra"]
    with pytest.raises(UsageError, match=r"1 labels name none of its classes \(zebra\)"):
        local("saliency", tmp_path / "inputs", tmp_path / "other", model=module, labels="folders", target="label")
    table = tmp_path / "labels.csv"
    table.write_text("file,class\nB/00.png,2\nB/01.png,b\na/00.png,a\na/01.png,a\nzebra/00.png,c\nzebra/01.png,c\n")
    given = {"labels": f"{table}:class", "target": "label"}  # by name and by index
    local("saliency", tmp_path / "inputs", tmp_path / "third", model=module, **given)
    assert [row["target"] for row in rows_of(tmp_path / "third")] == ["c", "b", "a", "a", "c", "c"]


@pytest.mark.parametrize(("target", "name"), [("c", "c"), ("3", "d"), (4, "e")])
def test_targets_by_name_and_index(module, tmp_path, target, name):
    inputs = write_photographs(tmp_path / "inputs", 3, (32, 32))
    local("saliency", inputs, tmp_path / "out", model=module, target=target)
    rows = rows_of(tmp_path / "out")
    assert [row["target"] for row in rows] == [name] * 3
    probability = float(module(as_image(inputs / "00.png")).detach()[0].softmax(0)["abcde".index(name)])
    assert rows[0]["target_probability"] == pytest.approx(probability, abs=1e-4)


def test_keep_decides_what_is_stored(photographs, module, tmp_path):
    given = {"model": module, "limit": 2}
    local("saliency", photographs, tmp_path / "out", keep="none", name="none", **given)
    local("saliency", photographs, tmp_path / "out", keep="heatmap", name="heatmap", **given)
    local("saliency", photographs, tmp_path / "out", keep="all", heatmap_size=16, name="all", **given)
    columns = {name: set(rows_of(tmp_path / "out", name)[0]) for name in ("none", "heatmap", "all")}
    assert "heatmap" not in columns["none"]
    assert columns["heatmap"] - columns["none"] >= {"heatmap", "heatmap_scale"}
    assert columns["all"] - columns["heatmap"] == {"drawing", "thumbnail", "overlay"}
    small, large = (heatmap_of(rows_of(tmp_path / "out", name)[0], "heatmap") for name in ("all", "heatmap"))
    np.testing.assert_allclose(small, large.reshape(1, 16, 2, 16, 2).mean((2, 4)), atol=2e-3 * large.max())


def test_pictures_of_any_size_where_the_network_takes_them(photographs, module, tmp_path):
    inputs = write_photographs(tmp_path / "inputs", 3)
    Image.fromarray(photograph(52, 33, 9)).save(inputs / "01.png")
    local("saliency", inputs, tmp_path / "out", model=module, fit="none")
    sizes = [(row["heatmap_height"], row["heatmap_width"]) for row in rows_of(tmp_path / "out")]
    assert sizes == [(40, 60), (52, 33), (40, 60)]


@pytest.mark.parametrize(("fit", "box"), [("squash", (0, 0, 60, 40)), ("pad", (0, -10, 60, 50))])
def test_other_ways_to_fit_a_picture(photographs, module, tmp_path, fit, box):
    local("saliency", photographs, tmp_path / "out", model=module, fit=fit, limit=1)
    (row,) = rows_of(tmp_path / "out")
    assert row["heatmap_height"] == row["heatmap_width"] == 32
    found = [row[f"crop_box_{corner}"] for corner in ("x0", "y0", "x1", "y1")]
    np.testing.assert_allclose(found, box, atol=2)  # a pixel of the input stands for 1.9 of the picture


def test_bfloat16_is_near_and_written_down(module, tmp_path):
    inputs = write_photographs(tmp_path / "inputs", 4, (32, 32))
    for precision in ("fp32", "bf16"):
        local("saliency", inputs, tmp_path / "out", model=module, precision=precision, name=precision)
    exact, rounded = (
        [heatmap_of(row, "heatmap") for row in rows_of(tmp_path / "out", name)] for name in ("fp32", "bf16")
    )
    for one, other in zip(exact, rounded, strict=True):
        # 8 bits of mantissa, and a ReLU here and there that decides otherwise
        assert 0 < np.linalg.norm(one - other) < 0.25 * np.linalg.norm(one)
    run_json = json.loads((tmp_path / "out" / "bf16" / "run.json").read_text())
    assert run_json["config"]["precision"] == "bf16"


def test_neurons_explain_themselves_and_predictions_stay(photographs, module, tmp_path):
    local("saliency", photographs, tmp_path / "out", model=module, of="convolutions.2:3", limit=2)
    row = rows_of(tmp_path / "out")[0]
    assert row["prediction"] in "abcde"
    assert row["target"] is None
    with pytest.raises(UsageError, match=r"a class .* or a neuron"):
        local("saliency", photographs, tmp_path / "two", model=module, of="convolutions.2:3", target="a")


def test_a_dry_run_writes_nothing(photographs, module, tmp_path):
    summary = local("saliency", photographs, tmp_path / "out", model=module, shard_size=4, dry_run=True)
    assert summary.shards == 3
    assert summary.predicted_bytes > 0
    assert not (tmp_path / "out").exists()


def test_the_predicted_size_is_that_of_the_files(photographs, module, tmp_path):
    summary = local("guided-backprop", photographs, tmp_path / "out", model=module)
    written = sum(len(content) for content in files_of(tmp_path / "out", "guided-backprop").values())
    assert 0.4 * written < summary.predicted_bytes < 2.5 * written


def test_refusals_name_what_was_expected(photographs, module, tmp_path):
    for given, message in [
        ({"scor": "logit"}, "no option 'scor'; nearest: score"),
        ({"of": "convolution.1"}, "nearest: convolutions.1"),
        ({"of": "convolutions.1:77"}, "out of range"),
        ({"target": "f"}, "no class 'f'"),
        ({"target": "label"}, "add --labels"),
        ({"labels": "nowhere.csv:class"}, "no file 'nowhere.csv'"),
        ({"batch_size": 0}, "positive"),
        ({"device": "tpu"}, "expected auto, cpu, cuda"),
        ({"name": "../elsewhere"}, "name of a folder"),
    ]:
        with pytest.raises(UsageError, match=message):
            local("saliency", photographs, tmp_path / "out", model=module, **given)
        assert not (tmp_path / "out").exists()
    with pytest.raises(UsageError, match="no images in"):
        local("saliency", tmp_path, tmp_path / "out", model=module)
    with pytest.raises(UsageError, match="no folder, file, list or glob"):
        local("saliency", tmp_path / "nowhere", tmp_path / "out", model=module)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("do not touch")
    with pytest.raises(UsageError, match="files of its own"):
        local("saliency", photographs, tmp_path / "mine", model=module)
    with pytest.raises(UsageError, match="no network 'resnet5'; nearest: resnet50"):
        local("saliency", photographs, tmp_path / "out", model="resnet5")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU, so that asking for one is no mistake")
def test_a_gpu_that_is_not_there_is_an_error(photographs, module, tmp_path):
    with pytest.raises(UsageError, match="cuda was asked for and torch finds no GPU"):
        local("saliency", photographs, tmp_path / "out", model=module, device="cuda")


def test_verify_finds_what_changed(photographs, module, tmp_path):
    local("saliency", photographs, tmp_path / "out", model=module, shard_size=4)
    assert verify(tmp_path / "out") == []
    shards = tmp_path / "out" / "saliency" / "shards"
    content = bytearray((shards / "00001.g0.parquet").read_bytes())
    content[len(content) // 2] ^= 1
    (shards / "00001.g0.parquet").write_bytes(content)
    (shards / "00002.g0.commit.json").unlink()
    assert verify(tmp_path / "out") == [
        "saliency: shard 2 is missing",
        "saliency/00001.g0.parquet: changed since it was committed (sha256 differs)",
    ]


def test_a_second_process_is_kept_out(photographs, module, tmp_path):
    from afterimage.workflows.files import locked

    with locked(tmp_path / "out" / "saliency" / ".lock"), pytest.raises(RefusedError, match="another process"):
        local("saliency", photographs, tmp_path / "out", model=module, mode="incremental")


def test_a_stopped_run_drains_and_goes_on(photographs, module, tmp_path):
    given = {"model": module, "shard_size": 3}

    def two_shards(task, calls, stop):
        for number, commit in enumerate(serial(task, calls, stop)):
            yield commit
            if number == 1:
                stop.set()

    summary = run("saliency", photographs, tmp_path / "out", executor=two_shards, **given)
    assert summary.interrupted
    assert summary.computed == 6
    assert local("saliency", photographs, tmp_path / "out", **given).computed == 5


def test_the_manifest_is_readable_and_frozen(photographs, module, tmp_path):
    local("saliency", photographs, tmp_path / "out", model=module, shard_size=4, limit=9)
    table = pq.read_table(tmp_path / "out" / "manifest.parquet")
    assert table.column_names == ["key", "uri", "size", "label", "shard", "index"]
    assert table["shard"].to_pylist() == [0] * 4 + [1] * 4 + [2]
    run_json = json.loads((tmp_path / "out" / "saliency" / "run.json").read_text())
    assert run_json["model"]["categories"] == list("abcde")
    assert run_json["config"]["geometry"]["size"] == [32, 32]
    assert len(run_json["config"]["model"]["digest"]) == 64
