"""The pages of a folder's jobs, made from synthetic rows that are committed as a run commits them."""

import json
import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
import simplejpeg

from afterimage.errors import UsageError
from afterimage.registry import Detail, Kind
from afterimage.workflows import manifest, rows, shards
from afterimage.workflows.clock import Clock
from afterimage.workflows.pages.survey import quotas
from afterimage.workflows.pages.templates import percent
from afterimage.workflows.pages.write import write_pages

CATEGORIES = ["cat", "dog", "fox"]
HOSTILE = "</script><script>alert(1)</script>\"'><img src=x onerror=alert(2)>😀\u200fعربي & {{ 7 * 7 }}.png"
MULTILINE = "two\nlines<script>alert(3)</script>.png"
SHARD = 8


def jpeg(tone: int, side: int = 16) -> bytes:
    return simplejpeg.encode_jpeg(np.full((side, side, 3), tone, np.uint8), 90, colorspace="RGB")


def row(
    key: str, label: str | None = "cat", prediction: str = "cat", probability: float = 0.5, side: int = 16
) -> rows.Row:
    made = rows.Row(key, f"file:///{key}", label, width=640, height=480)
    made.prediction, made.probability, made.target, made.target_probability = prediction, probability, "fox", 0.25
    made.pictures = {name: jpeg(tone, side) for name, tone in zip(rows.PICTURES, (20, 120, 220), strict=True)}
    return made


def failure(key: str, status: str = "decode_failed", error: str = "cut short", label: str | None = "cat") -> rows.Row:
    made = rows.Row(key, f"file:///{key}", label)
    made.fail(status, error)
    return made


def write_manifest(out: Path, keys: list[str]) -> None:
    items = [manifest.Item(key, f"file:///{key}", 1, None) for key in keys]
    manifest.write(out, manifest.divide(items, SHARD))


def write_job(
    out: Path,
    made: list[rows.Row],
    name: str = "saliency",
    keep: rows.Keep = "all",
    categories: list[str] | None = None,
    details: Sequence[Detail] = (),
) -> None:
    kind = Kind("heatmap", 1)
    folder = out / name
    folder.mkdir(parents=True)
    for shard in range(0, len(made), SHARD):
        table = rows.table(made[shard : shard + SHARD], kind, keep, details)
        parquet = rows.parquet_options(kind, keep, details)
        shards.commit(folder / "shards", shard // SHARD, 0, table, parquet, Clock())
    config: dict[str, Any] = {"options": {"score": "logit", "of": None}, "target": "2", "precision": "fp32"}
    config |= {"device": "cpu", "keep": keep, "model": {"model": "tiny", "weights": None}}
    run = {"verb": "saliency", "name": name, "config": config, "config_sha256": "c0", "manifest_sha256": "a0"}
    run["model"] = {"name": "tiny", "digest": "d0", "categories": CATEGORIES if categories is None else categories}
    run["details"] = [{"name": one.name, "kind": one.kind.name} for one in details]
    (folder / "run.json").write_text(json.dumps({**run, "versions": {"torch": "2"}}))


class Reader(HTMLParser):
    """Collects each card's text, the pictures, the links and the tags of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.cards: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.links: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.text, self.inside = "", False
        self.feed(text)
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = dict(attributes)
        self.tags.append(tag)
        self.ids += [found["id"]] if found.get("id") else []
        self.images += [found] if tag == "img" else []
        self.links += [found["href"]] if tag == "a" and found.get("href") else []
        if tag == "article":
            self.cards.append("")
            self.inside = True

    def handle_endtag(self, tag: str) -> None:
        self.inside = self.inside and tag != "article"

    def handle_data(self, data: str) -> None:
        self.text += " " + data
        if self.inside:
            self.cards[-1] = " ".join((self.cards[-1] + " " + data).split())


def read(page: Path) -> Reader:
    return Reader(page.read_text(encoding="utf-8"))


def names(page: Reader) -> list[str]:
    return [card.split()[0] for card in page.cards]


def test_order_is_confident_mistakes_then_failures_by_status_then_keys(tmp_path: Path) -> None:
    made = [
        row("z.png"),
        row("sure.png", prediction="dog", probability=0.9),
        failure("lost.png", "missing"),
        row("a.png"),
        row("unsure.png", prediction="fox", probability=0.4),
        failure("cut.png", "decode_failed"),
        row("strange.png", label="aardvark", prediction="dog", probability=0.99),
        row("unlabelled.png", label=None),
        row("surer.png", label="dog", prediction="fox", probability=0.95),
        failure("absent.png", "missing"),
    ]
    write_manifest(tmp_path, [one.key for one in made])
    write_job(tmp_path, made)
    page = read(write_pages(tmp_path))
    assert names(page) == [
        *("surer.png", "sure.png", "unsure.png"),
        *("absent.png", "lost.png", "cut.png"),
        *("a.png", "strange.png", "unlabelled.png", "z.png"),
    ]
    assert [("✗ wrong" in card, "✓ right" in card, "! failed" in card) for card in page.cards] == (
        3 * [(True, False, False)] + 3 * [(False, False, True)] + [(False, right, False) for right in (1, 0, 0, 1)]
    )
    assert "decode_failed cut short" in page.cards[5]
    assert {"wrong", "missing", "decode_failed", "rest"} < set(page.ids)
    assert {"index.html#missing", "index.html#decode_failed"} < set(page.links)


def test_summary_counts_what_the_rows_say(tmp_path: Path) -> None:
    made = [row(f"{index:02d}.png", probability=0.25) for index in range(6)]
    made += [row(f"w{index}.png", prediction="dog", probability=1.0) for index in range(3)]
    made += [
        row("strange.png", label="aardvark"),
        row("bare.png", label=None),
        failure("x.png"),
        failure("y.png", "missing"),
    ]
    write_manifest(tmp_path, [*(one.key for one in made), "not yet 1.png", "not yet 2.png"])
    write_job(tmp_path, made)
    text = read(write_pages(tmp_path)).text
    assert "Images 13 of 15" in text
    assert "Accuracy 66.7 % 6 of 9 labelled" in text
    assert f"Mean probability {100 * (6 * 0.25 + 3 * 1.0 + 2 * 0.5) / 11:.1f} %" in text
    assert "ok 11 missing 1 decode_failed 1 not yet done 2" in text
    assert "target fox · score logit · fp32 · cpu" in text


def test_labels_without_a_model_that_knows_them_are_neither_right_nor_wrong(tmp_path: Path) -> None:
    made = [row("a.png", label="cat", prediction="7"), row("b.png", label="7", prediction="7")]
    write_manifest(tmp_path, ["a.png", "b.png"])
    write_job(tmp_path, made, categories=[])
    page = read(write_pages(tmp_path))
    assert "Accuracy" not in page.text
    assert "images" in page.ids
    assert not any("wrong" in card or "right" in card for card in page.cards)


def test_jobs_are_joined_by_key(tmp_path: Path) -> None:
    keys = [f"{index:02d}.png" for index in range(20)]
    write_manifest(tmp_path, keys)
    write_job(tmp_path, [row(key) for key in keys], "saliency")
    write_job(tmp_path, [row(key) for key in reversed(keys[:SHARD])], "guided")  # its second shard is not done yet
    page = read(write_pages(tmp_path))
    assert names(page) == keys
    assert [image["alt"] for image in page.images[:5]] == [
        *("00.png", "guided of 00.png", "guided over 00.png", "saliency of 00.png", "saliency over 00.png")
    ]
    assert len(page.images) == SHARD * 5 + (20 - SHARD) * 3
    assert page.cards[0].count("Predicted") == 1


def test_jobs_that_disagree_each_say_what_they_predict(tmp_path: Path) -> None:
    keys = ["agreed.png", "disputed.png", "half.png"]
    write_manifest(tmp_path, keys)
    write_job(tmp_path, [row("agreed.png"), row("disputed.png"), row("half.png")], "one")
    write_job(tmp_path, [row("agreed.png"), row("disputed.png", prediction="dog"), failure("half.png")], "two")
    page = read(write_pages(tmp_path))
    assert names(page) == ["disputed.png", "half.png", "agreed.png"]
    disputed, half, agreed = page.cards
    assert disputed.count("Predicted") == 2
    assert re.search(r"one ✓ right.*cat.*two ✗ wrong.*dog", disputed)
    assert "two : decode_failed cut short" in half
    assert "cat 50.0" in half
    assert agreed.count("Predicted") == 1


def test_later_generations_replace_earlier_rows(tmp_path: Path) -> None:
    write_manifest(tmp_path, ["a.png"])
    write_job(tmp_path, [failure("a.png")])
    table = rows.table([row("a.png")], Kind("heatmap", 1), "all")
    shards.commit(tmp_path / "saliency/shards", 0, 1, table, {}, Clock())
    page = read(write_pages(tmp_path))
    assert "✓ right" in page.cards[0]
    assert "decode_failed" not in page.text


def test_everything_is_escaped(tmp_path: Path) -> None:
    keys = [quote(HOSTILE), quote(MULTILINE), "invalid%FFutf8.png"]
    hostile = row(keys[0], label="<b>cat</b>", prediction="<i>dog</i>")
    write_manifest(tmp_path, keys)
    write_job(tmp_path, [hostile, failure(keys[1], error="<u>broken</u>"), row(keys[2])], name="na<me>")
    file = write_pages(tmp_path)
    page = read(file)
    assert not {"script", "b onerror", "i onerror", "u"} & set(page.tags)
    assert [image for image in page.images if not (image["src"] or "").startswith("data:image/jpeg;base64,")] == []
    assert any(" ".join(HOSTILE.split()) in card for card in page.cards)
    assert quote(MULTILINE) in names(page)
    assert "invalid%FFutf8.png" in names(page)
    assert "<u>broken</u>" in page.text
    assert "<i>dog</i>" in page.text
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in file.read_text()
    assert not re.search(r"(?:src|href)=\"(?:https?:)?//", file.read_text())


def test_pages_are_linked_and_stale_ones_go(tmp_path: Path) -> None:
    keys = [f"{index:02d}.png" for index in range(25)]
    write_manifest(tmp_path, keys)
    write_job(tmp_path, [row(key) for key in keys])
    first = write_pages(tmp_path, page_size=10)
    pages = [first, *(first.with_name(f"{number}.html") for number in (2, 3))]
    assert [names(read(page)) for page in pages] == [keys[:10], keys[10:20], keys[20:]]
    assert "11–20 of 25" in read(pages[1]).text
    assert {"index.html", "3.html"} <= set(read(pages[1]).links)
    assert "4.html" not in read(pages[2]).links
    assert "continued" in read(pages[1]).text
    write_pages(tmp_path, page_size=20)
    assert sorted(path.name for path in first.parent.glob("*.html")) == ["2.html", "index.html"]
    assert [path for path in first.parent.iterdir() if path.is_dir() or path.suffix == ".tmp"] == []


def test_a_bounded_number_of_rows_is_shown_and_no_kind_of_failure_is_crowded_out(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    sure = rng.permutation(np.linspace(0.1, 0.9, 160))
    made = [row(f"w{index:03d}.png", prediction="dog", probability=float(sure[index])) for index in range(160)]
    made += [failure(f"f{index}.png", "missing" if index % 2 else "too_large") for index in range(10)]
    made += [row(f"r{index:02d}.png") for index in range(40)]
    made = [made[index] for index in rng.permutation(len(made))]
    write_manifest(tmp_path, [one.key for one in made])
    write_job(tmp_path, made)
    page = read(write_pages(tmp_path, limit=20, floor=3))
    most = [f"w{index:03d}.png" for index in np.argsort(-sure)[:11]]
    rest = ["r00.png", "r01.png", "r02.png"]
    assert names(page) == [*most, "f1.png", "f3.png", "f5.png", "f0.png", "f2.png", "f4.png", *rest]
    assert "The pages show 20 of 210 images" in page.text
    assert "Wrong predictions 160" in page.text
    assert "Accuracy 20.0 % 40 of 200 labelled" in page.text


@pytest.mark.parametrize("limit", [0, 5, 17, 100])
def test_quotas_share_out_no_more_than_there_is(limit: int) -> None:
    sections = Counter({0: 12, 3: 1, 10: 40})
    places = quotas(sections, limit + 6, 2)
    assert sum(places.values()) == min(limit + 6, 53)
    assert all(min(sections[section], 2) <= places[section] <= sections[section] for section in sections)


@pytest.mark.parametrize("keep", ["none", "heatmap"])
def test_a_run_without_pictures_has_cards_without_pictures(tmp_path: Path, keep: rows.Keep) -> None:
    write_manifest(tmp_path, ["a.png"])
    write_job(tmp_path, [row("a.png", prediction="dog")], keep=keep)
    page = read(write_pages(tmp_path))
    assert page.images == []
    assert "a.png 640 × 480 ✗ wrong Predicted dog 50.0 % Label cat Target fox 25.0 %" in page.cards[0]
    assert f"--keep {keep}" in page.text


def test_a_run_with_nothing_committed_has_a_page(tmp_path: Path) -> None:
    write_manifest(tmp_path, ["a.png"])
    write_job(tmp_path, [])
    page = read(write_pages(tmp_path))
    assert page.cards == []
    assert "Images 0 of 1" in page.text
    assert "Nothing is committed yet" in page.text


def test_a_folder_without_jobs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="found no job"):
        write_pages(tmp_path)


def test_large_pictures_are_embedded_smaller(tmp_path: Path) -> None:
    write_manifest(tmp_path, ["a.png"])
    write_job(tmp_path, [row("a.png", side=1200)])
    page = read(write_pages(tmp_path))
    assert [(image["width"], image["height"]) for image in page.images] == 3 * [("448", "448")]


@pytest.mark.parametrize(
    ("share", "text"),
    [(0, "0.0 %"), (1e-5, "<0.1 %"), (0.5, "50.0 %"), (0.99949, "99.9 %"), (0.9996, ">99.9 %"), (1.0, "100.0 %")],
)
def test_percentages_do_not_round_to_certainty(share: float, text: str) -> None:
    assert percent(share).replace("\u202f", " ") == text


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    executable = shutil.which("chromium")
    if executable is None:
        pytest.skip("no chromium: install Debian's package 'chromium'")
    playwright = pytest.importorskip("playwright.sync_api", reason="no Playwright: install the extra 'browser'")
    quiet = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]
    quiet += ["--disable-component-update", "--disable-sync", "--no-first-run"]
    quiet += ["--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]  # WebGL without a GPU
    with playwright.sync_playwright() as driver:
        launched = driver.chromium.launch(executable_path=executable, args=quiet)
        yield launched
        launched.close()


@pytest.fixture
def opened(browser: Any) -> Iterator[Callable[[Path], Any]]:
    """Open a page from disk; afterwards, nothing may have been requested, run, or complained about."""
    requests, complaints = [], []
    tab = browser.new_page()
    tab.on("request", lambda request: requests.append(request.url))
    # Of software rendering: the browser itself reads what WebGL drew.
    tab.on("console", lambda message: "GPU stall due to ReadPixels" in message.text or complaints.append(message.text))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on("dialog", lambda dialog: (complaints.append(dialog.message), dialog.dismiss()))

    def open_page(path: Path) -> Any:
        tab.goto(path.resolve().as_uri())
        return tab

    yield open_page
    tab.close()
    assert requests
    assert [url for url in requests if not url.startswith(("file:", "data:"))] == []
    assert complaints == []


@pytest.mark.browser
def test_in_chromium_the_page_loads_from_disk_alone(tmp_path: Path, opened: Callable[[Path], Any]) -> None:
    made = [row(f"{index:03d}.png") for index in range(240)]
    made += [row(f"w{index}.png", prediction="dog", probability=0.5 + index / 20) for index in range(5)]
    made += [failure("cut.png"), row(quote(HOSTILE), prediction="fox", probability=0.99), row(quote(MULTILINE))]
    write_manifest(tmp_path, [one.key for one in made])
    write_job(tmp_path, made, "saliency")
    write_job(tmp_path, made, "guided")
    tab = opened(write_pages(tmp_path))
    assert tab.locator("article").count() == 200
    assert tab.locator("article h3 bdi").first.text_content() == HOSTILE
    titles = tab.locator("article h3 bdi").all_text_contents()
    assert titles[1:6] == [f"w{index}.png" for index in (4, 3, 2, 1, 0)]
    assert titles[6] == "cut.png"
    assert tab.locator("article.wrong").count() == 6
    widths = tab.locator("img").evaluate_all("images => images.map(image => image.naturalWidth)")
    assert len(widths) == 199 * 5
    assert min(widths) > 0
    assert tab.evaluate("document.scripts.length") == 0
    tab.locator("a[rel=next]").first.click()
    tab.wait_for_load_state()
    assert tab.url.endswith("/2.html")
    assert tab.locator("article").count() == 48
    assert quote(MULTILINE) in tab.locator("article h3 bdi").all_text_contents()
    tab.get_by_role("link", name="Decode failed").click()
    assert tab.url.endswith("/index.html#decode_failed")


@pytest.mark.browser
@pytest.mark.parametrize("width", [360, 800, 1920])
def test_in_chromium_nothing_overflows_sideways(tmp_path: Path, opened: Callable[[Path], Any], width: int) -> None:
    made = [row("x" * 240 + ".png", prediction="dog"), row("y.png", side=224), failure("z.png", error="e" * 400)]
    write_manifest(tmp_path, [one.key for one in made])
    write_job(tmp_path, made)
    tab = opened(write_pages(tmp_path))
    tab.set_viewport_size({"width": width, "height": 900})
    assert tab.evaluate("document.documentElement.scrollWidth") == width
