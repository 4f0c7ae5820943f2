"""What the page shows of a method's details: framed pictures, figures before and after, maps of classes."""

import base64
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from afterimage.registry import Detail, Kind
from afterimage.workflows import rows
from afterimage.workflows.details import cells
from afterimage.workflows.pages.templates import plain
from afterimage.workflows.pages.write import write_pages
from tests.workflows.test_pages import HOSTILE, jpeg, read, row, write_job, write_manifest

KINDS = {
    "worst": Kind("images", 3),
    "worst_box": Kind("boxes"),
    "worst_fall": Kind("values"),
    "worst_probability": Kind("values"),
    "contrast": Kind("values"),
    "classes": Kind("class_grid"),
}
DETAILS = [Detail(name, kind) for name, kind in KINDS.items()]
GRID = [[0, 0, 0, 1], [0, 2, 2, 1]]


def detailed(key: str, side: int = 16, grid: list[list[int]] = GRID) -> rows.Row:
    made = row(key, side=side)
    made.pictures["worst"] = jpeg(200, side)
    box = torch.tensor([0, side // 4, side // 2, side])
    figures = {"worst_fall": 6.871, "worst_probability": 0.031, "contrast": -0.5}
    for detail in DETAILS:
        name = detail.name
        value = {"worst_box": box, "classes": torch.tensor(grid)}.get(name)
        if name in figures:
            value = torch.tensor(figures[name])
        made.details |= {} if value is None else cells(detail, value)
    return made


def test_a_picture_has_its_frame_and_its_figures(tmp_path: Path) -> None:
    write_manifest(tmp_path, ["a.png"])
    write_job(tmp_path, [detailed("a.png", 64)], "occlusion", details=DETAILS)
    text = write_pages(tmp_path).read_text()
    page = read(tmp_path / "page" / "index.html")
    assert [image["alt"] for image in page.images][3:] == ["worst window of a.png", "classes of a.png"]
    # the target's probability is 0.25 in these rows; the frame keeps half a pixel from the border to be seen
    assert "worst window fall 6.87 probability 25.0 % → 3.1 %" in page.cards[0]
    assert "contrast −0.500" in page.cards[0]
    assert '<svg viewBox="0 0 64 64"' in text
    assert '<rect class="line" x="16.0" y="0.5" width="47.5" height="31.5"/>' in text


def test_a_frame_follows_a_picture_that_is_made_smaller(tmp_path: Path) -> None:
    write_manifest(tmp_path, ["a.png"])
    write_job(tmp_path, [detailed("a.png", 896)], "occlusion", details=DETAILS)
    text = write_pages(tmp_path).read_text()
    assert '<svg viewBox="0 0 448 448"' in text
    assert '<rect class="line" x="112.0" y="3.6" width="332.4" height="220.4"/>' in text


def test_a_map_of_classes_has_a_legend(tmp_path: Path) -> None:
    write_manifest(tmp_path, ["a.png"])
    write_job(tmp_path, [detailed("a.png")], "occlusion", details=DETAILS)
    page = read(write_pages(tmp_path))
    assert "classes cat 50.0 % dog 25.0 % fox 25.0 %" in page.cards[0]
    source = page.images[-1]["src"] or ""
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(source.split(",")[1]))).convert("RGB"))
    legend = re.findall(r'<i style="background:#(\w{6})">', (tmp_path / "page" / "index.html").read_text())
    colors = [[int(one[at : at + 2], 16) for at in (0, 2, 4)] for one in legend]
    assert len({tuple(color) for color in colors}) == 3
    assert picture.tolist() == [[colors[index] for index in line] for line in GRID]


def test_many_classes_share_the_last_color(tmp_path: Path) -> None:
    grid = [[index // 2 for index in range(12)], [5, 5, 6, 7, 8, 9, 3, 3, 3, 1, 1, 1]]
    write_manifest(tmp_path, ["a.png"])
    names = [f"class {index}" for index in range(10)]
    write_job(tmp_path, [detailed("a.png", grid=grid)], "occlusion", categories=names, details=DETAILS)
    page = read(write_pages(tmp_path))
    legend = page.cards[0].partition("classes ")[2]
    listed = re.findall(r"(class \d|\d others)", legend)
    assert set(listed[:3]) == {"class 1", "class 3", "class 5"}
    assert listed[4:] == ["6 others"]
    assert sum(float(share) for share in re.findall(r"([\d.]+) %", legend)[:5]) == pytest.approx(100, abs=0.3)


def test_classes_without_names_are_numbers(tmp_path: Path) -> None:
    write_manifest(tmp_path, ["a.png"])
    write_job(tmp_path, [detailed("a.png")], "occlusion", categories=[], details=DETAILS)
    assert "classes 0 50.0 % 1 25.0 % 2 25.0 %" in read(write_pages(tmp_path)).cards[0]


@pytest.mark.parametrize("keep", ["none", "heatmap"])
def test_without_pictures_the_figures_stay(tmp_path: Path, keep: rows.Keep) -> None:
    write_manifest(tmp_path, ["a.png"])
    write_job(tmp_path, [detailed("a.png")], "occlusion", keep=keep, details=DETAILS)
    page = read(write_pages(tmp_path))
    assert page.images == []
    assert "worst window fall 6.87 probability 25.0 % → 3.1 %" in page.cards[0]


def test_details_that_an_image_does_not_have_are_left_out(tmp_path: Path) -> None:
    bare = row("a.png")
    bare.details = {"worst_fall": 1.0}
    write_manifest(tmp_path, ["a.png"])
    write_job(tmp_path, [bare], "occlusion", details=DETAILS)
    page = read(write_pages(tmp_path))
    assert len(page.images) == 3
    assert "worst window fall 1.00" in page.cards[0]
    assert "classes" not in page.cards[0]
    assert "→" not in page.cards[0]


def test_names_are_escaped_and_jobs_joined(tmp_path: Path) -> None:
    write_manifest(tmp_path, ["a.png"])
    write_job(tmp_path, [detailed("a.png")], "occlusion", categories=["cat", HOSTILE, "fox"], details=DETAILS)
    write_job(tmp_path, [row("a.png")], "saliency")
    page = read(write_pages(tmp_path))
    assert not {"script", "b onerror"} & set(page.tags)
    assert " ".join(HOSTILE.split()) in page.cards[0]
    assert len(page.images) == 7
    assert page.cards[0].count("Predicted") == 1


def test_a_run_of_a_version_that_knew_no_details_has_its_page(tmp_path: Path) -> None:
    write_manifest(tmp_path, ["a.png"])
    write_job(tmp_path, [row("a.png")])
    file = tmp_path / "saliency" / "run.json"
    run = json.loads(file.read_text())
    del run["details"]
    file.write_text(json.dumps(run))
    assert len(read(write_pages(tmp_path)).images) == 3


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3.1, "3.10"),
        (-12.345, "−12.3"),
        (0.012345, "0.0123"),
        (123.4, "123"),
        (0, "0.00"),
        (-4321.2, "−4,321"),
        (6.51e6, "6.51 × 10⁶"),
        (-1.5e-5, "−1.50 × 10⁻⁵"),
    ],
)
def test_numbers_have_three_digits(value: float, text: str) -> None:
    assert plain(value) == text
