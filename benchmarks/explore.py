"""Rows of the page that explores embeddings: points on a grid, and the page itself in headless Chromium."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray

from benchmarks import STORE
from benchmarks.agreement import Agreement, excess
from benchmarks.outcome import Outcome
from benchmarks.row import Configuration, Row

NEAR = Agreement(excess, 0.01, "mean squared distance, in cells, between points and their cells, beyond the optimum's")
SAME = Agreement(excess, 0.0, "nothing to compare with")
SIDE = 1400, 900
FRAMES = 120
TIMES = 3
SOFTWARE = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]


def rows(quick: bool) -> Iterator[Row]:
    """The grid of 2,000 points beside the optimum, that of more; the page of 100,000 points."""
    for count in (500,) if quick else (2000, 10_000, 100_000):
        ours = Configuration("afterimage", "benchmarks.explore:in_parts", "ours", {"count": count})
        optimum = Configuration("optimum", "benchmarks.explore:at_once", "reference", {"count": count})
        alone = count > 2000
        yield Row(
            f"explore.grid.{count}",
            f"{count:,} points on a grid",
            (ours,) if alone else (ours, optimum),
            SAME if alone else NEAR,
            items=count,
            item="point",
            repeat=3,
            warmup=int(not alone),
            min_seconds=0.0,
        )
    count = 2000 if quick else 100_000
    yield Row(
        f"explore.page.{count}",
        f"the page of {count:,} images in headless Chromium without a GPU, {SIDE[0]} × {SIDE[1]}",
        (Configuration("afterimage", "benchmarks.explore:page", "ours", {"count": count}),),
        SAME,
        repeat=1,
        warmup=0,
        min_seconds=0.0,
        blocked=None if shutil.which("chromium") else "no chromium: install Debian's package 'chromium'",
    )


def clusters(count: int) -> NDArray[np.float64]:
    """Return points `(count, 2)` in ten clusters."""
    random = np.random.default_rng(0)
    middles = random.normal(size=(10, 2)) * 5
    points: NDArray[np.float64] = middles[random.integers(0, 10, count)] + random.normal(size=(count, 2))
    return points


def in_parts(count: int) -> Callable[[], dict[str, NDArray[np.float64]]]:
    """The grid as large numbers of points get theirs."""
    return _grid(count, exact=0)


def at_once(count: int) -> Callable[[], dict[str, NDArray[np.float64]]]:
    """The optimum, by scipy's solver."""
    return _grid(count, exact=count)


def _grid(count: int, exact: int) -> Callable[[], dict[str, NDArray[np.float64]]]:
    from afterimage.vectors.grid import cost, grid

    points = clusters(count)
    return lambda: {"cost": np.array([cost(points, grid(points, exact))])}


def page(count: int) -> Callable[[], Outcome]:
    """Open the page in a browser just started and move the map, 2 pixels a frame, three times; see its figures."""
    from afterimage.workflows import explore
    from tests.workflows.explored import write_embedded

    STORE.mkdir(exist_ok=True)
    folder = TemporaryDirectory(dir=STORE, prefix="explore-")
    write_embedded(Path(folder.name), [f"folder/{number:06d}.jpg" for number in range(count)], shard=512, near=15)
    explore(folder.name)

    def call() -> Outcome:
        seen = [_seen(Path(folder.name, "explore", "index.html")) for _ in range(TIMES)]
        figures = {name: float(np.median([one[name] for one in seen])) for name in seen[0]}
        return Outcome(lambda: {"count": np.array([count])}, figures)

    return call


def _seen(file: Path) -> dict[str, float]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"), args=SOFTWARE)
        tab = browser.new_page(viewport={"width": SIDE[0], "height": SIDE[1]})
        tab.goto(file.resolve().as_uri())
        tab.wait_for_selector("body[data-state]")
        ready = tab.evaluate("performance.now()")
        tab.wait_for_timeout(1500)
        gaps = tab.evaluate(MOVE, FRAMES)
        browser.close()
    return {
        "shown_seconds": ready / 1e3,
        "frames_per_second": 1e3 / float(np.mean(gaps)),
        "frame_ms_95": float(np.quantile(gaps, 0.95)),
    }


MOVE = """frames => new Promise(done => {
  const stage = document.getElementById("stage"), gaps = [];
  stage.setPointerCapture = () => {};
  const send = (type, x, y) => stage.dispatchEvent(new PointerEvent(type, {
    bubbles: true, pointerId: 1, clientX: x, clientY: y, button: type === "pointermove" ? -1 : 0 }));
  send("pointerdown", 600, 450);
  let before = null, count = 0;
  requestAnimationFrame(function step(now) {
    if (before !== null) gaps.push(now - before);
    before = now;
    send("pointermove", 600 + 2 * count, 450);
    if (count++ < frames) requestAnimationFrame(step);
    else { send("pointerup", 600, 450); done(gaps); }
  });
})"""
