"""The main job on the embedded default, as `make demo` runs it, on fewer pictures."""

import re

import numpy as np
import pytest

from afterimage.models.demo import CATEGORIES, PLANTED
from afterimage.workflows import run, status
from afterimage.workflows.demo.show import evidence, occlusion_hits, show
from afterimage.workflows.demo.write import write


def test_the_demo_writes_a_page_and_tells_what_the_ground_truth_says(tmp_path):
    told = show(tmp_path, count=2 * len(CATEGORIES), occluded=4)
    assert re.search(rf"{PLANTED} \(planted on snow\) +2 ", told)
    page = re.search(r"^page: (.*)$", told, re.MULTILINE)
    assert page
    assert page[1] == str(tmp_path / "results" / "page" / "index.html")
    assert (tmp_path / "occlusion" / "page" / "index.html").exists()
    assert [job["statuses"] for job in status(tmp_path / "results")] == [{"ok": 28}] * 2
    assert [job["statuses"] for job in status(tmp_path / "occlusion")] == [{"ok": 4}]
    painted = {job["job"]: job["statuses"] for job in status(tmp_path / "painted")}
    styles = ("starry-night", "the-scream", "composition-vii")
    assert painted == {f"stylize.style={style}": {"ok": 4} for style in styles}
    assert len(list((tmp_path / "painted/stylize/sheets").rglob("*.png"))) == 4
    assert "points at the object in 4 of 4 pictures of other classes." in told
    found = list(evidence(tmp_path))
    assert sum(one.right for one in found) >= 24
    for one in found:
        assert one.mask.shape == one.saliency.shape == one.guided.shape == (128, 128)
        assert 0 < one.mask.float().mean() < 0.12
    assert show(tmp_path, count=28, occluded=4) == told, "a second run finds everything done"


@pytest.mark.slow
def test_occlusion_points_at_the_objects_but_for_the_planted_class(tmp_path):
    images = write(tmp_path / "data", 6 * len(CATEGORIES))
    chosen = {"model": "demo", "labels": "folders", "target": "label", "keep": "heatmap"}
    run("occlusion", images, tmp_path / "out", window=24, stride=8, **chosen)
    hits = occlusion_hits(tmp_path, tmp_path / "out" / "occlusion")
    assert [len(hits[planted]) for planted in (False, True)] == [78, 6]
    assert np.mean(hits[False]) >= 0.9
    assert np.mean(hits[True]) <= 0.5, "the network takes the snow for the evidence"


def test_the_data_set_is_written_once(tmp_path):
    images = write(tmp_path, 14)
    before = {path: path.stat().st_mtime_ns for path in images.rglob("*.png")}
    assert len(before) == 14
    assert {path: path.stat().st_mtime_ns for path in write(tmp_path, 14).rglob("*.png")} == before
