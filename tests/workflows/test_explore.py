"""The page to explore embeddings: its table, its pictures, what it refuses, and the page in Chromium."""

import io
import json
import threading
from base64 import b64decode
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from afterimage import UsageError
from afterimage.errors import RefusedError
from afterimage.vectors.grid import grid
from afterimage.workflows import explore
from afterimage.workflows.cli import main
from afterimage.workflows.derived import open_derived, parent_digest, write_derived
from afterimage.workflows.files import digest_file
from afterimage.workflows.pages import explore as page
from afterimage.workflows.pages.explore import sheets
from tests.workflows.explored import CLASSES, jpeg, nearest, projected, tone, write_embedded, write_maps, write_run
from tests.workflows.test_pages import HOSTILE, browser, opened

__all__ = ["browser", "opened"]

COUNT = 150
FAILED = ["cut.jpg", "torn.jpg"]


def keys(count: int = COUNT) -> list[str]:
    return [quote(HOSTILE), *(f"folder/{number:03d}.jpg" for number in range(1, count))]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("explored")
    write_embedded(out, keys(), FAILED)
    write_maps(out, keys()[:-3], failed=keys()[5:7])
    explore(out)
    return out


def handed(file: Path) -> Any:
    """Return the value that a script hands over."""
    text = file.read_text(encoding="ascii")
    assert text.startswith("afterimage(")
    assert "<" not in text
    return json.loads(f"[{text.strip()[len('afterimage(') : -1]}]")[1]


def test_the_table_joins_all_that_is_known(made: Path) -> None:
    table = pq.read_table(made / "explore" / "table.parquet")
    assert table.column_names == [
        *("key", "uri", "label", "prediction", "probability", "projection_x", "projection_y", "pca_x", "pca_y"),
        *("grid_row", "grid_column", "neighbors", "thumbnail"),
    ]
    assert table["key"].to_pylist() == keys()
    near = pq.read_table(made / "neighbors" / "table.parquet")
    for row, other in zip(table.to_pylist(), near.to_pylist(), strict=True):
        assert [keys()[one] for one in row["neighbors"]["ids"]] == other["neighbor_keys"]
        assert row["neighbors"]["distances"] == other["neighbors"]["distances"]
        assert Image.open(io.BytesIO(row["thumbnail"]["bytes"])).size == (32, 32)
    cells = grid(np.stack([table["projection_x"], table["projection_y"]], 1))
    assert table["grid_row"].to_pylist() == cells.row.tolist()
    assert table["grid_column"].to_pylist() == cells.column.tolist()


def test_every_picture_lies_in_its_cell_of_sheets_and_mosaic(made: Path) -> None:
    table = pq.read_table(made / "explore" / "table.parquet", columns=["grid_row", "grid_column", "thumbnail"])
    mosaic = np.asarray(Image.open(made / "explore" / "mosaic.jpg"), np.float32)
    level = handed(made / "explore" / "data" / "map.js")["levels"][0]
    assert level == {"side": 128, "cells": 8}
    for row in table.to_pylist():
        expected = np.asarray(Image.open(io.BytesIO(row["thumbnail"]["bytes"])), np.float32).mean((0, 1))
        down, right = row["grid_row"], row["grid_column"]
        cell = mosaic[128 * down : 128 * down + 128, 128 * right : 128 * right + 128]
        assert np.abs(cell.mean((0, 1)) - expected).max() < 4  # of 255: twice encoded as JPEG
    first = np.asarray(Image.open(made / "explore" / "sheets" / "128" / "0-0.jpg"), np.float32)
    inner = slice(0, -2)  # a decoder takes colors from the next block, which a sheet has not
    assert np.abs((first - mosaic[: first.shape[0], : first.shape[1]])[inner, inner]).max() < 1


def test_coarser_sheets_are_means_of_finer_ones(tmp_path: Path) -> None:
    pictures = sheets.cells(tmp_path / "cells.npy", 18, 33, 64)
    tones = np.random.default_rng(0).integers(0, 256, (18, 33))
    pictures[:] = tones[:, :, None, None, None]
    assert sheets.write_sheets(tmp_path, pictures, tmp_path) == [{"side": 64, "cells": 16}, {"side": 16, "cells": 64}]
    assert sorted(path.name for path in (tmp_path / "64").iterdir()) == [
        f"{r}-{c}.jpg" for r in (0, 1) for c in range(3)
    ]
    coarse = np.asarray(Image.open(tmp_path / "16" / "0-0.jpg"), np.float32).mean(2)
    assert coarse.shape == (18 * 16, 33 * 16)
    assert np.abs(coarse.reshape(18, 16, 33, 16).mean((1, 3)) - tones).max() < 2


def test_a_thumbnail_is_the_middle_of_its_picture() -> None:
    wide = np.zeros((40, 200, 3), np.uint8)
    wide[:, 80:120] = 250
    assert sheets.square(jpeg(wide), 64).min() > 225  # but for the ringing of JPEG at the edges
    small = sheets.square(jpeg(tone(0, 0)), 64)
    assert np.array_equal(small[::2, ::2], small[1::2, 1::2])  # enlarged without blur


def test_what_the_page_knows_of_the_whole(made: Path) -> None:
    found = handed(made / "explore" / "data" / "map.js")
    assert (found["count"], found["leftOut"], found["statuses"]) == (COUNT, 2, {"decode_failed": 2})
    assert [one["key"] for one in found["listed"]] == FAILED
    facets = {facet["name"]: facet for facet in found["facets"]}
    assert [*facets] == ["label", "prediction", "verdict", "saliency status"]
    assert sorted(facets["label"]["values"]) == sorted(CLASSES)
    assert dict(zip(facets["saliency status"]["values"], facets["saliency status"]["counts"], strict=True)) == {
        "ok": COUNT - 5,
        "not yet done": 3,
        "nonfinite": 2,
    }
    places = np.frombuffer(b64decode(found["projection_x"]), "<f4")
    assert places.tolist() == pq.read_table(made / "explore" / "table.parquet")["projection_x"].to_pylist()
    assert found["notes"] == []


def test_an_image_brings_what_other_jobs_made_of_it(made: Path) -> None:
    rows = handed(made / "explore" / "data" / "rows" / "00000.js")
    assert rows[0]["key"] == quote(HOSTILE)
    assert [job["name"] for job in rows[0]["jobs"]] == ["saliency"]
    assert b64decode(rows[0]["jobs"][0]["pictures"][0].partition(",")[2]) == jpeg(tone(0, 0))
    assert (rows[5]["jobs"][0]["status"], rows[5]["jobs"][0]["pictures"]) == ("nonfinite", [])
    assert handed(made / "explore" / "data" / "rows" / "00009.js")[-1]["jobs"] == []


def test_what_is_out_of_date_or_has_no_place_is_said(tmp_path: Path) -> None:
    points, _ = write_embedded(tmp_path, keys(20))
    parents = {"embed": "an older one"}
    write_derived(tmp_path, "project", "project", {}, parents, projected(keys(18), points[:18]))
    write_derived(
        tmp_path,
        "neighbors",
        "neighbors",
        {},
        {"embed": parent_digest(tmp_path / "embed")},
        nearest(keys(20), points, 19),
    )
    explore(tmp_path)
    found = handed(tmp_path / "explore" / "data" / "map.js")
    assert found["notes"] == [
        f"The map is older than embed: run afterimage project {tmp_path} again.",
        "2 images have no place on the map and are not shown.",
    ]
    table = pq.read_table(tmp_path / "explore" / "table.parquet")
    assert table["key"].to_pylist() == keys(18)
    assert all(
        sorted([number, *row["ids"]]) == list(range(18)) for number, row in enumerate(table["neighbors"].to_pylist())
    )


def test_one_line_says_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UsageError, match="no such folder"):
        explore(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="afterimage embed INPUT"):
        explore(tmp_path)
    write_embedded(tmp_path, keys(5))
    (tmp_path / "project" / "derived.json").unlink()
    with pytest.raises(SystemExit) as end:
        main(["explore", str(tmp_path)])
    assert end.value.code == 2
    assert f"make it with 'afterimage project {tmp_path}'" in capsys.readouterr().err


def test_another_job_of_that_name_is_left_alone(tmp_path: Path) -> None:
    write_embedded(tmp_path, keys(5))
    (tmp_path / "explore").mkdir()
    write_run(tmp_path / "explore", "saliency", "heatmap")
    with pytest.raises(RefusedError, match="holds another job"):
        explore(tmp_path)


def test_a_second_time_replaces_the_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_embedded(tmp_path, keys(40))
    explore(tmp_path)
    (tmp_path / "explore" / "sheets" / "128" / "9-9.jpg").write_bytes(b"stale")
    with pytest.raises(SystemExit) as end:
        main(["explore", str(tmp_path)])
    assert end.value.code == 0
    assert str(tmp_path / "explore" / "index.html") in capsys.readouterr().out
    assert not (tmp_path / "explore" / "sheets" / "128" / "9-9.jpg").exists()
    record = open_derived(tmp_path, "explore")
    assert record is not None
    assert record.outdated == []
    assert record.record["rows"] == 40


def test_two_images_make_a_page(tmp_path: Path) -> None:
    write_embedded(tmp_path, keys(2))
    explore(tmp_path)
    found = handed(tmp_path / "explore" / "data" / "map.js")
    assert (found["count"], found["rows"], found["columns"]) == (2, 1, 2)


def test_the_vendored_library_is_what_was_published() -> None:
    folder = Path(page.__file__).parent
    told = (folder / "twgl.txt").read_text(encoding="utf-8")
    assert f"sha256 {digest_file(folder / 'twgl.js')}" in told
    for script in folder.glob("*.js"):  # the page's policy forbids what makes code from text
        text = script.read_text(encoding="utf-8")
        assert "eval(" not in text
        assert "new Function" not in text
        assert "innerHTML" not in text


# In Chromium


@pytest.fixture
def served(made: Path) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(made / "explore")))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/"
    server.shutdown()
    server.server_close()


def shown(tab: Any) -> Any:
    """Wait until a tab has all it needs, and return it."""
    tab.wait_for_selector("body[data-state=ready]")
    return tab


def settled(tab: Any, fits: Callable[[str], bool]) -> None:
    """Wait until the panel's heading fits; the page's policy forbids Playwright's own waiting for an expression."""
    heading = tab.locator("#panel h2")
    for _ in range(300):
        if fits(heading.text_content()):
            return
        tab.wait_for_timeout(100)
    raise AssertionError(heading.text_content())


def pixels(tab: Any) -> np.ndarray:
    """Return what the map's stage shows."""
    return np.asarray(Image.open(io.BytesIO(tab.locator("#stage").screenshot())).convert("RGB"), np.int16)


@pytest.mark.browser
def test_in_chromium_the_map_pans_zooms_and_tells_of_a_click(made: Path, opened: Callable[[Path], Any]) -> None:
    tab = shown(opened(made / "explore" / "index.html"))
    before = pixels(tab)
    assert np.ptp(before[200:600, 400:900], (0, 1)).min() > 60  # something is drawn
    tab.mouse.move(700, 500)
    tab.mouse.down()
    tab.mouse.move(760, 530, steps=3)
    tab.mouse.up()
    tab.wait_for_timeout(400)
    after = pixels(tab)
    assert np.abs(after[330:530, 460:860] - before[300:500, 400:800]).mean() < 0.1 * np.abs(after - before).mean() + 2
    tab.keyboard.press("/")
    tab.keyboard.type("017")
    tab.keyboard.press("Enter")
    panel = tab.locator("#panel")
    panel.wait_for()
    assert panel.locator("h2").text_content() == "folder/017.jpg"
    assert panel.locator("ol.near").first.locator("li").count() == 5
    row = pq.read_table(made / "neighbors" / "table.parquet").to_pylist()[17]
    told = panel.locator("ol.near .far").all_text_contents()
    assert [float(one) for one in told] == pytest.approx(row["neighbors"]["distances"], rel=6e-3)  # three digits
    assert panel.locator(".job img").count() == 2
    panel.locator("ol.near button").nth(1).click()
    settled(tab, lambda name: name == keys()[row["neighbors"]["ids"][1]])
    assert panel.locator("img").evaluate_all("all => all.every(one => one.complete && one.naturalWidth > 0)")
    tab.mouse.move(600, 400)
    tab.mouse.wheel(0, -500)
    tab.wait_for_timeout(400)
    assert np.abs(pixels(tab) - after).mean() > 2


@pytest.mark.browser
def test_in_chromium_a_hostile_name_is_only_text(made: Path, opened: Callable[[Path], Any]) -> None:
    tab = shown(opened(made / "explore" / "index.html"))
    tab.fill("#search", "script")
    assert tab.locator("#results button").all_text_contents() == [HOSTILE]
    tab.locator("#results button").click()
    tab.locator("#panel").wait_for()
    assert tab.locator("#panel h2").text_content() == HOSTILE
    assert tab.locator("#panel script, #results script, #filters b > b").count() == 0
    assert "<b>bee</b>" in tab.locator("#facets bdi").all_text_contents()


@pytest.mark.browser
def test_in_chromium_filters_leave_out_what_is_not_chosen(made: Path, opened: Callable[[Path], Any]) -> None:
    tab = shown(opened(made / "explore" / "index.html"))
    rows = pq.read_table(made / "explore" / "table.parquet", columns=["label", "prediction"]).to_pylist()
    wrong = sum(row["label"] == "cat" and row["prediction"] != "cat" for row in rows)
    tab.get_by_role("group", name="label").get_by_role("button", name="cat").click()
    tab.get_by_role("group", name="verdict").get_by_role("button", name="wrong").click()
    assert tab.locator("#shown").text_content() == f"{wrong} of {COUNT} shown"
    assert tab.get_by_role("button", name="cat").first.get_attribute("aria-pressed") == "true"
    tab.keyboard.press("g")
    tab.wait_for_timeout(300)
    veiled = pixels(tab)
    tab.get_by_role("button", name="Clear filters").click()
    tab.wait_for_timeout(300)
    assert tab.locator("#shown").text_content() == ""
    assert np.abs(pixels(tab) - veiled).mean() > 10


@pytest.mark.browser
def test_in_chromium_keys_do_all(made: Path, opened: Callable[[Path], Any]) -> None:
    tab = shown(opened(made / "explore" / "index.html"))
    tab.keyboard.press("g")
    assert tab.get_by_role("button", name="Grid").get_attribute("aria-pressed") == "true"
    tab.focus("#stage")
    tab.keyboard.press("ArrowRight")
    tab.locator("#panel").wait_for()
    table = pq.read_table(made / "explore" / "table.parquet", columns=["grid_row", "grid_column"]).to_pylist()
    place = dict(zip(keys(), ((row["grid_row"], row["grid_column"]) for row in table), strict=True))
    first = place[tab.locator("#panel h2").text_content()]
    name = tab.locator("#panel h2").text_content()
    tab.keyboard.press("ArrowLeft")
    settled(tab, lambda other: other != name)
    assert place[tab.locator("#panel h2").text_content()] == (first[0], first[1] - 1)
    tab.keyboard.press("Escape")
    tab.locator("#panel").wait_for(state="hidden")
    assert tab.evaluate("document.activeElement.id") == "stage"
    tab.keyboard.press("/")
    assert tab.evaluate("document.activeElement.id") == "search"
    tab.keyboard.press("Escape")
    tab.get_by_role("button", name="About").press("Enter")
    assert all(name in tab.locator("#about").text_content() for name in FAILED)
    tab.keyboard.press("Escape")
    assert not tab.locator("#about").is_visible()


@pytest.mark.browser
def test_in_chromium_it_works_over_http_and_loads_only_its_own(browser: Any, served: str) -> None:
    tab = browser.new_page(color_scheme="dark")
    complaints, requests = [], []
    tab.on("console", lambda message: "ReadPixels" in message.text or complaints.append(message.text))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on("request", lambda request: requests.append(request.url))
    tab.goto(served)
    shown(tab).focus("#stage")
    tab.keyboard.press("ArrowUp")
    tab.locator("#panel img").first.wait_for()
    tab.close()
    assert complaints == []
    assert {url for url in requests if not url.startswith((served, "data:"))} == set()
