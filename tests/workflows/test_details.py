"""What methods know beside their map, from the call to the columns: occlusion, and methods made up for the purpose."""

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from afterimage import Occlusion, RefusedError, UsageError, registry
from afterimage.workflows import run, verify
from afterimage.workflows.rows import COMMON, PICTURES, heatmap_of, schema
from tests.workflows.test_run import as_image, files_of, local, module, photographs, rows_of, write_photographs

__all__ = ["module", "photographs"]
SMALL = {"window": 8, "stride": 6}
BOX = [f"worst_box_{corner}" for corner in ("x0", "y0", "x1", "y1")]
OWN = ["worst", *BOX, "worst_fall", "worst_probability", "classes", "classes_rows", "classes_columns"]


@pytest.fixture
def inputs(tmp_path):
    return write_photographs(tmp_path / "inputs", 5, (32, 32))  # the network's input size: left untouched


def columns_of(out, job="occlusion"):
    return pq.read_schema(next((out / job / "shards").glob("*.parquet"))).names


@pytest.mark.parametrize("batch_size", [1, 4])
def test_rows_hold_what_occlusion_knows(module, inputs, tmp_path, batch_size):
    local("occlusion", inputs, tmp_path / "out", model=module, batch_size=batch_size, **SMALL)
    rows = rows_of(tmp_path / "out", "occlusion")
    assert [row["status"] for row in rows] == ["ok"] * 5
    for row in rows:
        image = as_image(inputs / row["key"])
        with torch.no_grad():
            probabilities = module(image)[0].softmax(0)
        assert row["prediction"] == row["target"] == "abcde"[int(probabilities.argmax())]
        assert row["probability"] == pytest.approx(float(probabilities.max()), abs=1e-5)
        expected = Occlusion(**SMALL).details(module, image)
        x0, y0, x1, y1 = (row[name] for name in BOX)
        assert [y0, x0, y1, x1] == expected.worst_box[0].tolist()
        assert row["worst_fall"] == pytest.approx(float(expected.worst_fall[0]), abs=1e-5)
        assert row["worst_probability"] == pytest.approx(float(expected.worst_probability[0]), abs=1e-5)
        grid = np.reshape(row["classes"], (row["classes_rows"], row["classes_columns"]))
        assert grid.tolist() == expected.classes[0].tolist()
        # float16 of the share of the largest value
        stored = heatmap_of(row, "heatmap")
        np.testing.assert_allclose(stored, expected.heatmap[0], atol=2e-3 * row["heatmap_scale"])


def test_the_worst_picture_is_the_image_with_the_window_covered(module, inputs, tmp_path):
    local("occlusion", inputs, tmp_path / "out", model=module, limit=1, fill=(1.0, 0.0, 0.0), window=16, stride=16)
    (row,) = rows_of(tmp_path / "out", "occlusion")
    assert row["worst"]["path"] == "00.png.worst.jpg"
    (tmp_path / "worst.jpg").write_bytes(row["worst"]["bytes"])
    worst = np.asarray(Image.open(tmp_path / "worst.jpg"), np.int16)
    image = np.asarray(Image.open(inputs / "00.png"), np.int16)
    x0, y0, x1, y1 = (row[name] for name in BOX)
    outside = np.ones((32, 32), bool)
    outside[y0:y1, x0:x1] = False
    # medians: JPEG blurs the window's border, its colors at half the resolution
    assert np.median(np.abs(worst - [255, 0, 0])[y0:y1, x0:x1]) < 8
    assert np.median(np.abs(worst - image)[outside]) < 8


def test_columns_stand_in_their_order_and_keep_decides(module, inputs, tmp_path):
    for keep in ("none", "heatmap", "all"):
        local("occlusion", inputs, tmp_path / "out", model=module, limit=1, keep=keep, name=keep, **SMALL)
    common = [name for name, _ in COMMON]
    heatmap = ["heatmap", *(f"heatmap_{fact}" for fact in ("scale", "channels", "height", "width"))]
    figures = [*BOX, "worst_fall", "worst_probability"]
    assert columns_of(tmp_path / "out", "none") == common + figures
    assert columns_of(tmp_path / "out", "heatmap") == common + heatmap + OWN[1:]
    assert columns_of(tmp_path / "out", "all") == common + heatmap + OWN + list(PICTURES)
    run_json = json.loads((tmp_path / "out" / "all" / "run.json").read_text())
    assert [one["name"] for one in run_json["details"]] == [one.name for one in registry.method("occlusion").details]


def test_dask_and_the_plain_map_give_the_same_bytes(photographs, module, tmp_path):
    given = {"model": module, "shard_size": 3, "limit": 7, **SMALL}
    run("occlusion", photographs, tmp_path / "dask", workers=2, **given)
    local("occlusion", photographs, tmp_path / "plain", **given)
    assert len(files_of(tmp_path / "plain", "occlusion")) == 3
    assert files_of(tmp_path / "dask", "occlusion") == files_of(tmp_path / "plain", "occlusion")


def test_a_run_goes_on_and_other_windows_are_refused(module, inputs, tmp_path):
    given = {"model": module, "shard_size": 2, **SMALL}
    local("occlusion", inputs, tmp_path / "out", **given)
    before = files_of(tmp_path / "out", "occlusion")
    (tmp_path / "out" / "occlusion" / "shards" / "00001.g0.commit.json").unlink()
    (tmp_path / "out" / "occlusion" / "shards" / "00001.g0.parquet").unlink()
    assert local("occlusion", inputs, tmp_path / "out", **given).computed == 2
    assert files_of(tmp_path / "out", "occlusion") == before
    with pytest.raises(RefusedError, match=r"options\.window was '8', now '8x12'"):
        local("occlusion", inputs, tmp_path / "out", **{**given, "window": "8x12"})
    assert not verify(tmp_path / "out")


def test_failed_inputs_have_empty_details_and_are_retried(module, inputs, tmp_path):
    good = (inputs / "03.png").read_bytes()
    (inputs / "03.png").write_bytes(good[: len(good) // 2])
    given = {"model": module, "shard_size": 5, **SMALL}
    assert local("occlusion", inputs, tmp_path / "out", **given).statuses == {"ok": 4, "decode_failed": 1}
    broken = rows_of(tmp_path / "out", "occlusion")[3]
    assert {broken[name] for name in OWN if name not in ("worst", "classes")} == {None}
    assert (broken["worst"], broken["classes"]) == (None, None)
    (inputs / "03.png").write_bytes(good)
    assert local("occlusion", inputs, tmp_path / "out", retry_failed=True, **given).statuses == {"ok": 5}
    rows = rows_of(tmp_path / "out", "occlusion")
    assert None not in [row["worst_fall"] for row in rows]


def test_the_target_is_what_falls(module, tmp_path):
    for label in ("a", "c"):
        write_photographs(tmp_path / "inputs" / label, 2, (32, 32))
    given = {"model": module, "labels": "folders", **SMALL}
    local("occlusion", tmp_path / "inputs", tmp_path / "out", target="label", name="label", **given)
    local("occlusion", tmp_path / "inputs", tmp_path / "out", target="d", name="d", **given)
    assert [row["target"] for row in rows_of(tmp_path / "out", "label")] == ["a", "a", "c", "c"]
    for job, classes in (("label", [0, 0, 2, 2]), ("d", [3] * 4)):
        for row, target in zip(rows_of(tmp_path / "out", job), classes, strict=True):
            image = as_image(tmp_path / "inputs" / row["key"])
            details = Occlusion(**SMALL).details(module, image, torch.tensor([target]))
            assert row["worst_probability"] == pytest.approx(float(details.worst_probability[0]), abs=1e-5)
            assert row["worst_fall"] == pytest.approx(float(details.worst_fall[0]), abs=1e-5)


def test_of_a_neuron_there_is_no_class_and_the_prediction_stays(module, inputs, tmp_path):
    local("occlusion", inputs, tmp_path / "out", model=module, of="convolutions.2:3", limit=2, **SMALL)
    for row in rows_of(tmp_path / "out", "occlusion"):
        probabilities = module(as_image(inputs / row["key"]))[0].detach().softmax(0)
        assert row["prediction"] == "abcde"[int(probabilities.argmax())]
        assert (row["target"], row["worst_probability"], row["classes"]) == (None, None, None)
        assert row["worst_fall"] is not None
        assert row["worst"] is not None


@pytest.mark.parametrize("given", [{"window": 33}, {"window": "16x40"}, {"window": 64, "of": "convolutions.2:3"}])
def test_a_window_larger_than_the_input_is_refused_before_the_work(module, inputs, tmp_path, given):
    with pytest.raises(UsageError, match="window"):
        local("occlusion", inputs, tmp_path / "out", model=module, **given)
    assert not (tmp_path / "out").exists()


def test_a_slow_method_works_image_by_image(module, inputs, tmp_path):
    local("saliency", inputs, tmp_path / "fast", model=module)
    local("occlusion", inputs, tmp_path / "slow", model=module, **SMALL)
    local("occlusion", inputs, tmp_path / "both", model=module, batch_size=4, shard_size=3, **SMALL)
    local("occlusion", inputs, tmp_path / "fast", model=module, **SMALL)  # in a folder whose shards are frozen
    local("saliency", inputs, tmp_path / "slow", model=module, device="cpu")
    found = {}
    jobs = (("fast", "saliency"), ("slow", "occlusion"), ("both", "occlusion"), ("fast", "occlusion"))
    for out, job in (*jobs, ("slow", "saliency")):
        config = json.loads((tmp_path / out / job / "run.json").read_text())["config"]
        found[out, job] = config["batch_size"], len(files_of(tmp_path / out, job))
    assert found == {
        ("fast", "saliency"): (4, 1),
        ("slow", "occlusion"): (1, 2),  # shards of four
        ("both", "occlusion"): (4, 2),
        ("fast", "occlusion"): (1, 1),
        ("slow", "saliency"): (4, 2),  # no empty slots but in the last shard
    }


def test_the_predicted_size_is_that_of_the_files(photographs, module, tmp_path):
    summary = local("occlusion", photographs, tmp_path / "out", model=module, shard_size=11, **SMALL)
    written = sum(len(content) for content in files_of(tmp_path / "out", "occlusion").values())
    assert 0.4 * written < summary.predicted_bytes < 2.5 * written


class Known(NamedTuple):
    heatmap: registry.Heatmap
    fall: registry.Values


@pytest.fixture
def methods(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    """Return a function that registers, for one test, a method whose details call a function of model and images."""
    registry.methods()
    monkeypatch.setattr(registry, "_registered", dict(registry._registered))

    def declare(details: Any) -> None:
        class Odd:
            """What is odd."""

            def __call__(self, model: nn.Module, images: Tensor, target: Tensor | None = None) -> registry.Heatmap: ...

            def details(self, model: nn.Module, images: Tensor, target: Tensor | None = None) -> Known:
                return Known(images.mean(1, keepdim=True), details(model, images))

        registry.register(Odd, verb="odd")

    return declare


def whiten(images):
    return torch.full_like(images, 0.9)


@pytest.mark.parametrize(
    "calls",
    [
        lambda model, images: (model(images), model(whiten(images))),
        lambda model, images: (model(whiten(images)), model(images), model(whiten(images))),
        lambda model, images: (model(whiten(images)), model(whiten(images)[:1])),
        lambda model, images: (model(torch.cat([images, whiten(images)])),),
        lambda model, images: (model(images.double()), model(images.flip(0))),
        lambda model, images: (),
    ],
    ids=["first", "between", "never", "within a longer batch", "in another type or order", "no call"],
)
def test_predictions_are_those_of_the_images_themselves(methods, module, inputs, tmp_path, calls):
    def details(model, images):
        with torch.no_grad():
            calls(model, images)
        return images.mean((1, 2, 3))

    methods(details)
    local("odd", inputs, tmp_path / "out", model=module, batch_size=2)
    for row in rows_of(tmp_path / "out", "odd"):
        image = as_image(inputs / row["key"])
        probabilities = module(image)[0].detach().softmax(0)
        assert row["status"] == "ok"
        assert row["prediction"] == "abcde"[int(probabilities.argmax())]
        assert row["probability"] == pytest.approx(float(probabilities.max()), abs=1e-5)
        assert row["fall"] == pytest.approx(float(image.mean()), abs=1e-5)


def test_a_detail_that_is_not_finite_costs_its_row(methods, module, inputs, tmp_path):
    dark = [as_image(path).mean() for path in sorted(inputs.iterdir())]
    darkest = int(np.argmin(dark))
    methods(lambda model, images: 1 / (images.mean((1, 2, 3)) > min(dark) + 1e-3).float())
    local("odd", inputs, tmp_path / "out", model=module)
    rows = rows_of(tmp_path / "out", "odd")
    assert [row["status"] for row in rows] == ["nonfinite" if place == darkest else "ok" for place in range(5)]


def test_a_detail_may_not_take_the_name_of_another_column():
    fall = registry.Kind("values")
    with pytest.raises(TypeError, match="names that no other column has, got label"):
        schema(registry.Kind("heatmap", 1), "all", [registry.Detail("label", fall)])
