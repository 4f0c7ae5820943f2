"""What the page shows of methods that make pictures: input beside result, curves, named pictures, subjects, sheets."""

import re
from pathlib import Path
from urllib.parse import unquote

import pytest
from PIL import Image

from afterimage.workflows.pages.traces import trace
from afterimage.workflows.pages.write import write_pages
from tests.workflows.painters import painting
from tests.workflows.test_pages import HOSTILE, browser, names, opened, read
from tests.workflows.test_run import local, module, write_photographs

__all__ = ["browser", "module", "opened", "painting"]
pytestmark = pytest.mark.usefixtures("painting")


@pytest.fixture
def inputs(tmp_path):
    return write_photographs(tmp_path / "inputs", 3, (200, 300))


def test_an_input_stands_beside_what_was_made_of_it(module, inputs, tmp_path):
    summary = local("blend", inputs, tmp_path / "out", model=module, target="c", steps=7)
    text, page = Path(summary.page).read_text(), read(Path(summary.page))
    assert [image["alt"] for image in page.images[:3]] == ["00.png", "blend of 00.png", "difference of 00.png"]
    assert re.search(r"loss 7 steps 0\.\d+ 0\.\d+ seen as [a-e] success (yes|no)", page.cards[0])
    assert re.search(r"Predicted [a-e] [\d.]+ % Target (c|as predicted)", page.cards[0])
    assert text.count("<polyline") == 3
    assert re.search(r"Success [\d.]+ % \d of 3 Mean final loss 0\.\d+", page.text)
    assert "target c · amount 0.25 · steps 7 · kind even · seed 0" in page.text
    assert not re.search(r"(?:src|href)=\"(?:https?:)?//", text)


def test_a_result_is_linked_to_its_file(module, tmp_path):
    inputs = tmp_path / "inputs"
    inputs.mkdir()
    for name in ("a b.png", "50%25.png", HOSTILE.replace("/", "∕")[:60] + ".png"):
        Image.new("RGB", (40, 40), "teal").save(inputs / name)
    page = Path(local("blend", inputs, tmp_path / "out", model=module, name="my job").page)
    links = [link for link in read(page).links if "/images/" in link]
    assert len(links) == 3
    assert all((page.parent / unquote(link)).is_file() for link in links)
    assert not {"script", "b onerror"} & set(read(page).tags)


def test_named_pictures_stand_once_at_the_top(module, inputs, tmp_path):
    for name in ("red", "blue"):
        Image.new("RGB", (30, 20), name).save(tmp_path / f"{name}.png")
    styles = f"{tmp_path}/red.png=1,{tmp_path}/blue.png=3"
    page = read(Path(local("tint", inputs, tmp_path / "out", model=module, style=styles, size=200).page))
    assert [image["alt"] for image in page.images[:2]] == ["style: red.png · 1", "style: blue.png · 3"]
    assert len(page.images) == 2 + 3 * 2
    assert "target" not in page.text.partition("All settings")[0]
    (tmp_path / "red.png").unlink()
    assert len(read(write_pages(tmp_path / "out")).images) == 8, "the page does not need the file"


def test_subjects_are_titles_in_the_order_in_which_they_were_asked_for(module, tmp_path):
    subjects = ["e", "b", "convolutions.3", "a"]
    page = read(Path(local("invent", subjects, tmp_path / "out", model=module, side=200, shard_size=4).page))
    channels = [f"convolutions.3:{channel}" for channel in range(6)]
    assert names(page) == ["e", "b", *channels, "a"]
    assert len(page.images) == 9
    assert not any("Target" in card or "Predicted" in card for card in page.cards)


def test_what_diverged_shows_its_last_picture(module, inputs, tmp_path):
    Image.new("RGB", (32, 32), "white").save(inputs / "white.png")
    page = read(Path(local("blend", inputs, tmp_path / "out", model=module).page))
    assert names(page)[0] == "white.png"
    assert "diverged the loss ceased to be finite" in page.cards[0]
    assert "blend of white.png" in [image["alt"] for image in page.images[:3]]
    assert "diverged" in page.ids


def test_a_run_that_kept_no_pictures_says_where_they_are(module, inputs, tmp_path):
    page = read(Path(local("blend", inputs, tmp_path / "out", model=module, keep="none").page))
    assert page.images == []
    assert "those that it made are in blend/images" in page.text
    assert "seen as" in page.cards[0]


def test_sheets_stand_above_and_their_jobs_in_order(module, inputs, tmp_path):
    summary = local("blend", inputs, tmp_path / "out", model=module, sweep=["amount=0.9,0.1,0.5"])
    page = read(Path(summary.page))
    assert [image["alt"] for image in page.images[:4]] == [
        "success by amount", *(f"sheet of {number:02d}.png" for number in range(3)),
    ]  # fmt: skip
    assert re.search(r"blend by amount amount images mean final loss success 0\.9 3 ok", page.text)
    assert re.search(r"image amount 0\.9 .* amount 0\.1 .* amount 0\.5 ", page.cards[0])
    for link in page.links:
        assert link.startswith("#") or (tmp_path / "out" / "page" / unquote(link).partition("#")[0]).exists()


def test_maps_and_pictures_share_a_page(module, inputs, tmp_path):
    local("saliency", inputs, tmp_path / "out", model=module)
    page = read(Path(local("blend", inputs, tmp_path / "out", model=module).page))
    assert [image["alt"] for image in page.images[:5]] == [
        *("00.png", "blend of 00.png", "difference of 00.png", "saliency of 00.png", "saliency over 00.png")
    ]


def test_curves_are_drawn_from_left_to_right_and_within_their_box():
    for values in ([3.0, 1.0], [1.0] * 5, [-2.0, 5.0, 0.0], [1e6 / (1 + step) for step in range(5000)]):
        made = trace("loss", values)
        points = [tuple(map(float, point.split(","))) for point in made.points.split()]
        assert [x for x, _ in points] == sorted({x for x, _ in points})
        assert (points[0][0], points[-1][0]) == (0, 100)
        assert all(0 <= y <= 100 for _, y in points)
        assert len(points) <= 120
        assert (made.first, made.last, made.count) == (values[0], values[-1], len(values))
    assert trace("loss", [1.0, 3.0]).points == "0.0,100.0 100.0,0.0"
    assert (trace("loss", [1e3, 1.0]).logarithmic, trace("loss", [1e3, -1.0]).logarithmic) == (True, False)
    assert trace("loss", [1.0]) is None


@pytest.mark.browser
@pytest.mark.parametrize("width", [360, 1500])
def test_in_chromium_nothing_overflows_sideways(module, inputs, tmp_path, opened, width):
    Image.new("RGB", (900, 40), "red").save(tmp_path / ("x" * 200 + ".png"))
    style = tmp_path / ("x" * 200 + ".png")
    local("tint", inputs, tmp_path / "out", model=module, style=style, size=200, name="alone")
    page = local("tint", inputs, tmp_path / "out", model=module, style=style, sweep=["strength=0.1,0.9"]).page
    tab = opened(Path(page))
    tab.set_viewport_size({"width": width, "height": 900})
    assert tab.evaluate("document.documentElement.scrollWidth") == width
