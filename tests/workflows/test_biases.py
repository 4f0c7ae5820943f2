"""Where the evidence lies: known answers through tables, annotations in every form, the embedded data set's bias."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import simplejpeg
import torch
from click.testing import CliRunner
from PIL import Image

from afterimage.errors import RefusedError, UsageError
from afterimage.models.demo import CATEGORIES, PLANTED
from afterimage.registry import Kind
from afterimage.workflows import bias, manifest, rows, run, shards
from afterimage.workflows.biases import command, told
from afterimage.workflows.clock import Clock
from afterimage.workflows.demo.write import write

KIND = Kind("heatmap", 1)


def row(key: str, heatmap: torch.Tensor, target: str = "dog", crop: tuple[float, ...] | None = None) -> rows.Row:
    """A row of an image of 200 × 100 pixels, width by height; the network saw `crop`, all of it unless told."""
    made = rows.Row(key, f"file:///{key}", "fox", width=200, height=100)
    made.crop_box = crop or (0.0, 0.0, 200.0, 100.0)
    made.prediction = made.target = target
    (made.heatmap,) = rows.halved(heatmap[None])
    level = np.full((*heatmap.shape[1:], 3), 90, np.uint8)
    made.pictures = {name: simplejpeg.encode_jpeg(level, 90, colorspace="RGB") for name in rows.PICTURES}
    return made


def write_job(
    out: Path, made: list[rows.Row], size: int = 3, keep: rows.Keep = "heatmap", verb: str = "saliency"
) -> Path:
    items = [manifest.Item(one.key, one.uri, 1, None) for one in made]
    manifest.write(out, manifest.divide(items, size), afresh=True)
    for number, start in enumerate(range(0, len(made), size)):
        table = rows.table(made[start : start + size], KIND, keep)
        shards.commit(out / verb / "shards", number, 0, table, rows.parquet_options(KIND, keep), Clock())
    config = {"options": {}, "target": "predicted", "precision": "fp32", "device": "cpu", "keep": keep}
    run = {"verb": verb, "name": verb, "config": config, "config_sha256": "c", "manifest_sha256": "m", "versions": {}}
    run |= {"model": {"name": "tiny", "digest": "d", "categories": ["dog", "fox"]}}
    (out / verb / "run.json").write_text(json.dumps(run))
    return out


def uniform() -> torch.Tensor:
    return torch.full((1, 10, 20), 0.5)


def point(y: int, x: int) -> torch.Tensor:
    heatmap = torch.zeros(1, 10, 20)
    heatmap[0, y, x] = 2
    return heatmap


def few() -> list[rows.Row]:
    right = (100.0, 0.0, 200.0, 100.0)
    made = [row("a/uniform.jpg", uniform()), row("a/hit.jpg", point(4, 5)), row("a/miss.jpg", point(9, 19), "fox")]
    made += [row("a/none.jpg", uniform()), row("b/cut.jpg", uniform(), "fox", right), row("b/away.jpg", uniform())]
    made[-1].crop_box = right
    return [*made, row("b%20c/black.jpg", torch.zeros(1, 10, 20), "fox")]


BOXES = {
    "a/uniform.jpg": [(0, 0, 100, 50), (50, 0, 150, 50)],
    "a/hit.jpg": [(40, 40, 60, 60)],
    "a/miss.jpg": [(40, 40, 60, 60)],
    "b/cut.jpg": [(50, 0, 150, 100)],
    "b/away.jpg": [(10, 10, 90, 90)],
    "b c/black.jpg": [(10, 10, 90, 90)],
}


def csv_of(folder: Path, boxes: dict[str, Any] = BOXES, label: str = "dog") -> Path:
    lines = [f"{key},{','.join(map(str, box))},{label}" for key, own in boxes.items() for box in own]
    (folder / "boxes.csv").write_text("\n".join(["key,x0,y0,x1,y1,label", *lines]) + "\n")
    return folder / "boxes.csv"


def coco_of(folder: Path) -> Path:
    images = [{"id": 7 + place, "file_name": name, "width": 200, "height": 100} for place, name in enumerate(BOXES)]
    boxes = [
        {"image_id": 7 + place, "category_id": 1, "bbox": [x0, y0, x1 - x0, y1 - y0]}
        for place, own in enumerate(BOXES.values())
        for x0, y0, x1, y1 in own
    ]
    given = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "dog"}]}
    (folder / "boxes.json").write_text(json.dumps(given))
    return folder / "boxes.json"


def masks_of(folder: Path) -> Path:
    for number, (name, own) in enumerate(BOXES.items()):
        mask = np.zeros((100, 200), np.uint8)
        for x0, y0, x1, y1 in own:
            mask[y0:y1, x0:x1] = number + 1
        path = folder / "masks" / (f"{name}.png" if number % 2 else f"{name.removesuffix('.jpg')}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask).save(path)
    return folder / "masks"


def test_boxes_give_known_shares(tmp_path: Path) -> None:
    write_job(tmp_path, few())
    made = bias(tmp_path, boxes=str(csv_of(tmp_path)))
    found = {one["key"]: one for one in made.derived.table().to_pylist()}
    figures = {key: (one["inside"], one["expected"], one["hit"]) for key, one in found.items() if not one["reason"]}
    assert figures == {
        "a/uniform.jpg": (pytest.approx(75 / 200), pytest.approx(75 / 200), False),
        "a/hit.jpg": (1, pytest.approx(0.02), True),
        "a/miss.jpg": (0, pytest.approx(0.02), False),
        "b/cut.jpg": (pytest.approx(0.5), pytest.approx(0.5), False),
    }
    assert made.left_out == {
        "no object known": ["a/none.jpg"],
        "object outside the crop": ["b/away.jpg"],
        "no positive evidence": ["b%20c/black.jpg"],
    }
    assert [(one.name, one.images, one.known) for one in made.classes] == [("fox", 3, 2), ("dog", 4, 2)]
    assert made.classes[0].density == pytest.approx(0.25 / 0.26)
    assert made.derived.outdated == []
    assert "fox" in told(made)


@pytest.mark.parametrize("form", ["coco", "masks"])
def test_coco_and_masks_say_what_csv_says(tmp_path: Path, form: str) -> None:
    write_job(tmp_path, few())
    expected = bias(tmp_path, boxes=str(csv_of(tmp_path)), name="expected").derived.table()
    given = {"masks": str(masks_of(tmp_path))} if form == "masks" else {"boxes": str(coco_of(tmp_path))}
    assert bias(tmp_path, **given).derived.table().to_pylist() == expected.to_pylist()


def test_file_names_that_occur_once_will_do_and_others_are_told(tmp_path: Path) -> None:
    write_job(tmp_path, few())
    given = csv_of(tmp_path, {"hit.jpg": [(40, 40, 60, 60)], "else.jpg": [(0, 0, 1, 1)]})
    made = bias(tmp_path, boxes=str(given))
    assert made.unknown == ["else.jpg"]
    assert len(made.left_out["no object known"]) == 6


def test_only_boxes_of_the_class_explained_count(tmp_path: Path) -> None:
    write_job(tmp_path, few())
    made = bias(tmp_path, boxes=str(csv_of(tmp_path, label="Dog")), match_labels=True)
    assert {one.name: one.known for one in made.classes} == {"dog": 2, "fox": 0}


def many() -> list[rows.Row]:
    random = torch.Generator().manual_seed(0)
    made = []
    for number in range(40):
        heatmap = torch.rand(1, 10, 20, generator=random)
        heatmap[0, 7:9, 2:5] += 5 * (number % 2)
        made.append(row(f"{number:03}.jpg", heatmap, ("dog", "fox")[number % 2]))
    return made


def test_streaming_over_shards_equals_all_at_once(tmp_path: Path) -> None:
    boxes = str(csv_of(tmp_path, {one.key: [(number, 3, 90 + number, 77)] for number, one in enumerate(many())}))
    found = [bias(write_job(tmp_path / str(size), many(), size), boxes=boxes, limit=15) for size in (1, 7, 100)]
    tables = [one.derived.table() for one in found]
    assert tables[0].equals(tables[1])
    assert tables[0].equals(tables[2])
    assert found[0].classes == found[1].classes == found[2].classes
    clustered = [one for one in tables[0].to_pylist() if one["cluster"] is not None]
    assert len(clustered) == 2 * 15


@pytest.mark.parametrize("keep", ["heatmap", "all"])
def test_the_page_loads_nothing_and_escapes(tmp_path: Path, keep: rows.Keep) -> None:
    hostile = "%3Cscript%3Ealert(1)%3C%2Fscript%3E.jpg"
    made = [row(hostile, point(4, 5), "<b>dog</b>"), *few()]
    write_job(tmp_path, made, keep=keep)
    for name, boxes in (("bias", str(csv_of(tmp_path, BOXES | {hostile: [(1, 1, 9, 9)]}))), ("free", None)):
        text = bias(tmp_path, boxes=boxes, name=name).page.read_text()
        assert "<script" not in text
        assert "<b>dog" not in text
        assert "&lt;b&gt;dog" in text
        assert "http" not in text.replace("http-equiv", "")
        assert text.count("<img") == (text.count('class="line"') if boxes else 8)


def fails(tmp_path: Path, message: str, **given: Any) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        bias(tmp_path, **given)
    assert "\n" not in str(caught.value)


def test_what_cannot_be_done_is_said_in_one_line(tmp_path: Path) -> None:
    fails(tmp_path, "found no job in it")
    write_job(tmp_path, few())
    fails(tmp_path, "no job 'saliencey', but saliency; nearest: saliency", job="saliencey")
    fails(tmp_path, "expected --boxes or --masks, got both", boxes="a.csv", masks="b")
    fails(tmp_path, "no file 'a.csv'", boxes="a.csv")
    fails(tmp_path, "no folder 'nowhere'", masks="nowhere")
    fails(tmp_path, "names none of the images; it has 'x.jpg'", boxes=str(csv_of(tmp_path, {"x.jpg": [(0, 0, 1, 1)]})))
    box = "hit.jpg: expected a box inside the upright original of 200 × 100 pixels, got x0, y0, x1, y1 = 0, 0, 20, 200"
    fails(tmp_path, box, boxes=str(csv_of(tmp_path, {"hit.jpg": [(0, 0, 20, 200)]})))
    fails(tmp_path, "expected x0 < x1", boxes=str(csv_of(tmp_path, {"hit.jpg": [(9, 0, 2, 20)]})))
    fails(tmp_path, "expected four numbers", boxes=str(csv_of(tmp_path, {"hit.jpg": [("left", 0, 2, 20)]})))
    (tmp_path / "other.json").write_text('{"images": []}')
    fails(tmp_path, "expected COCO's images", boxes=str(tmp_path / "other.json"))
    (tmp_path / "other.csv").write_text("name,x\na,1\n")
    fails(tmp_path, "expected columns key,x0,y0,x1,y1", boxes=str(tmp_path / "other.csv"))
    Image.new("L", (20, 20)).save(masks_of(tmp_path) / "a" / "none.png")
    fails(
        tmp_path, "expected a mask as large as the upright original, 200 × 100, got 20 × 20", masks=f"{tmp_path}/masks"
    )
    with pytest.raises(RefusedError, match="holds another job"):
        bias(tmp_path, name="saliency")


def test_a_job_without_heatmaps_is_told_how_to_have_some(tmp_path: Path) -> None:
    write_job(tmp_path, few(), keep="none")
    fails(tmp_path, "expected stored heatmaps, but it was run with --keep none; run it with --keep heatmap")


def test_the_command_prints_a_table(tmp_path: Path) -> None:
    write_job(tmp_path, few())
    result = CliRunner().invoke(command(), [str(tmp_path), "--boxes", str(csv_of(tmp_path))])
    assert result.exit_code == 0, result.output
    assert "left out, no object known: 1 (a/none.jpg)" in result.output
    assert str(tmp_path / "bias" / "index.html") in result.output


@pytest.mark.slow
def test_the_planted_class_is_found_with_masks_and_without(tmp_path: Path) -> None:
    images = write(tmp_path / "data", 20 * len(CATEGORIES))
    run("saliency", images, tmp_path / "out", model="demo", labels="folders", keep="heatmap", heatmap_size=64)
    with_masks = bias(tmp_path / "out", masks=str(tmp_path / "data" / "masks"), name="with-masks")
    assert with_masks.classes[0].name == PLANTED
    assert with_masks.doubtful == [PLANTED]
    assert min(with_masks.classes, key=lambda one: one.hits or 0).name == PLANTED
    without = bias(tmp_path / "out")
    assert without.classes[0].name == PLANTED
    assert without.doubtful == [PLANTED]
