"""A universal patch trained on a folder: the file, its record, what cannot be used, and success over the data set."""

import hashlib
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from PIL import Image

from afterimage import UsageError
from afterimage.workflows import run, serial
from afterimage.workflows.universal_patch import command, train
from tests.workflows.fixtures import photograph

GIVEN = {"target": "star", "model": "demo", "steps": 6, "batch_size": 2, "device": "cpu"}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in").mkdir()
    for number in range(3):
        Image.fromarray(photograph(128, 128, number)).save(tmp_path / "in" / f"{number}.png")
    return tmp_path / "in"


def test_it_is_saved_with_its_record(folder, tmp_path):
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff nothing")
    told = []
    found = train([folder], tmp_path / "star.png", lambda *done: told.append(done), **GIVEN, patch_size="40x32")
    data = (tmp_path / "star.png").read_bytes()
    record = json.loads((tmp_path / "star.json").read_text())
    assert found.patch.shape == (40, 32, 3)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "star.png")), found.patch)
    assert record["sha256"] == hashlib.sha256(data).hexdigest()
    assert (record["config"]["patch_size"], record["inputs"], len(record["losses"])) == ("40x32", 4, 6)
    assert set(record["unusable"]) <= {"broken.jpg"}
    assert record["losses"][-1] > record["losses"][0]
    assert told[-1] == (6, 6)
    train([folder], tmp_path / "again.png", **GIVEN, patch_size="40x32")
    assert (tmp_path / "again.png").read_bytes() == data


def test_success_over_a_data_set_is_a_run_with_the_patch(folder, tmp_path):
    patch = train([folder], tmp_path / "star.png", **GIVEN, patch_size=48).patch
    given = {"model": "demo", "attack": "patch", "place": "5:9", "target": "star", "patch": tmp_path / "star.png"}
    assert run("fool", folder, tmp_path / "out", executor=serial, **given).statuses == {"ok": 3}
    rows = pq.read_table(next((tmp_path / "out/fool/shards").glob("*.parquet"))).to_pylist()
    assert {row["success"] == 1.0 for row in rows} == {row["seen_as"] == "star" for row in rows}
    for row in rows:
        made = np.asarray(Image.open(tmp_path / "out/fool" / row["file"])).copy()
        np.testing.assert_array_equal(made[5:53, 9:57], patch)
        made[5:53, 9:57] = 0
        original = np.asarray(Image.open(folder / row["key"])).copy()
        original[5:53, 9:57] = 0
        np.testing.assert_array_equal(made, original)


def test_the_command_trains_and_says_what_came_of_it(folder, tmp_path):
    words = [str(folder), str(tmp_path / "p.png"), "--target", "star", "--model", "demo", "--steps", "2"]
    result = CliRunner().invoke(command(), [*words, "--patch-size", "20", "--batch-size", "1", "--device", "cpu"])
    assert result.exit_code == 0, result.output
    assert "mean log-probability of star -" in result.output
    assert np.asarray(Image.open(tmp_path / "p.png")).shape == (20, 20, 3)


def test_what_cannot_be_is_refused(folder, tmp_path):
    with pytest.raises(UsageError, match=r"target: expected a class that is to be seen"):
        train([folder], tmp_path / "p.png", **{**GIVEN, "target": ""})
    with pytest.raises(UsageError, match=r"no class 'stair'.*nearest: star"):
        train([folder], tmp_path / "p.png", **{**GIVEN, "target": "stair"})
    with pytest.raises(UsageError, match=r"ends in .png, got 'p.jpg'"):
        train([folder], tmp_path / "p.jpg", **GIVEN)
    with pytest.raises(UsageError, match=r"lies inside the images, got 200 × 200 pixels"):
        train([folder], tmp_path / "p.png", **GIVEN, patch_size=200)
    for path in folder.iterdir():
        path.write_bytes(b"no picture")
    with pytest.raises(UsageError, match=r"expected pictures, got \d that cannot be used"):
        train([folder], tmp_path / "p.png", **GIVEN)
    assert not (tmp_path / "p.png").exists()
