"""The main job on the embedded default, as `make demo` runs it, on fewer pictures."""

import re

from afterimage.models.demo import CATEGORIES, PLANTED
from afterimage.workflows import status
from afterimage.workflows.demo.show import evidence, show
from afterimage.workflows.demo.write import write


def test_the_demo_writes_a_page_and_tells_what_the_ground_truth_says(tmp_path):
    told = show(tmp_path, count=2 * len(CATEGORIES))
    assert re.search(rf"{PLANTED} \(planted on snow\) +2 ", told)
    page = re.search(r"^page: (.*)$", told, re.MULTILINE)
    assert page
    assert page[1] == str(tmp_path / "results" / "page" / "index.html")
    assert [job["statuses"] for job in status(tmp_path / "results")] == [{"ok": 28}] * 2
    found = list(evidence(tmp_path))
    assert sum(one.right for one in found) >= 24
    for one in found:
        assert one.mask.shape == one.saliency.shape == one.guided.shape == (128, 128)
        assert 0 < one.mask.float().mean() < 0.12
    assert show(tmp_path, count=28) == told, "a second run finds everything done"


def test_the_data_set_is_written_once(tmp_path):
    images = write(tmp_path, 14)
    before = {path: path.stat().st_mtime_ns for path in images.rglob("*.png")}
    assert len(before) == 14
    assert {path: path.stat().st_mtime_ns for path in write(tmp_path, 14).rglob("*.png")} == before
