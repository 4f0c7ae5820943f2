"""Neighbors over a data set: the table as viewers take it, what is left out, what is refused."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from sklearn.neighbors import NearestNeighbors

from afterimage import RefusedError, UsageError
from afterimage.workflows import matches, neighborhood, neighbors
from afterimage.workflows.cli import main
from afterimage.workflows.pixels import of_picture
from tests.workflows.embedded import write_job
from tests.workflows.fixtures import photograph


@pytest.fixture
def out(tmp_path):
    random = np.random.default_rng(0)
    vectors = random.normal(size=(40, 12)).astype(np.float32)
    vectors[11, 3], vectors[12] = np.inf, 0
    write_job(
        tmp_path,
        vectors,
        failed={4: "decode_failed", 5: "decode_failed", 6: "missing"},
        pictures=[photograph(40, 48, seed) for seed in range(40)],
    )
    return tmp_path


def test_the_table_has_places_distances_and_keys(out):
    found = neighbors(out, count=5)
    assert found.left_out == {
        "decode_failed": ["0-00004.jpg", "0-00005.jpg"],
        "missing": ["0-00006.jpg"],
        "nonfinite vector": ["0-00011.jpg"],
    }
    table = pq.read_table(found.derived.folder / "table.parquet")
    assert table.column_names == ["key", "neighbors", "neighbor_keys", "pixel_neighbors", "pixel_neighbor_keys"]
    rows, kept = table.to_pylist(), [number for number in range(40) if number not in (4, 5, 6, 11)]
    assert [row["key"] for row in rows] == [f"0-{number:05d}.jpg" for number in kept]
    vectors = np.random.default_rng(0).normal(size=(40, 12)).astype(np.float32)
    vectors[12] = 0
    pixels = np.stack([of_picture(photograph(40, 48, seed)) for seed in range(40)])
    for space, values in (("", vectors), ("pixel_", pixels)):
        distances, ids = NearestNeighbors(n_neighbors=5).fit(values[kept].astype(np.float64)).kneighbors()
        assert [row[f"{space}neighbors"]["ids"] for row in rows] == ids.tolist()
        assert [row[f"{space}neighbor_keys"] for row in rows] == [[rows[i]["key"] for i in one] for one in ids]
        assert np.allclose([row[f"{space}neighbors"]["distances"] for row in rows], distances, rtol=1e-6)
    assert not found.derived.outdated
    with Image.open(found.derived.folder / "neighbors.png") as picture:
        assert picture.width > 500


def test_vectors_without_direction_are_left_out_where_directions_are_compared(out):
    found = neighbors(out, metric="cosine", count=3, no_pixels=True)
    assert found.left_out["zero vector"] == ["0-00012.jpg"]
    assert found.derived.table().column_names == ["key", "neighbors", "neighbor_keys"]


def test_neighbors_of_a_key_are_those_of_the_table(out):
    row = neighbors(out, count=4, no_pixels=True).derived.table().to_pylist()[20]
    found = matches(out, of=row["key"], count=4)
    assert [one.key for one in found] == row["neighbor_keys"]
    assert [one.distance for one in found] == row["neighbors"]["distances"]


def test_an_approximate_search_says_its_recall(tmp_path, monkeypatch, capsys):
    write_job(tmp_path, np.random.default_rng(0).normal(size=(900, 8)).astype(np.float32), size=300)
    exact = neighbors(tmp_path, no_pixels=True).derived.table()
    monkeypatch.setattr(neighborhood, "EXACT_UP_TO", 500)
    found = neighbors(tmp_path, no_pixels=True, recall=0.9)
    (recall,) = found.recall.values()
    same = [
        len({*ours} & {*theirs})
        for ours, theirs in zip(
            found.derived.table()["neighbor_keys"].to_pylist(), exact["neighbor_keys"].to_pylist(), strict=True
        )
    ]
    assert recall >= 0.9
    assert np.mean(same) / 10 == pytest.approx(recall, abs=0.02)  # the sample is every second one
    assert found.derived.options["recall_reached"] == found.recall
    with pytest.raises(SystemExit):
        main(["neighbors", str(tmp_path), "--no-pixels"])
    assert "neighbors: approximate, recall 0.9" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"count": 40}, "count: expected at most 35, as many as there are other pictures, got 40"),
        ({"count": 0}, "count: expected a positive number, got 0"),
        ({"embedding": "other"}, "no embeddings in 'other'.*there is embed"),
    ],
)
def test_what_cannot_be_found_is_refused_in_a_line(out, given, message):
    with pytest.raises(UsageError, match=message):
        neighbors(out, **given)
    assert not (out / "neighbors").exists()


def test_unknown_and_unsound_keys_are_named(out):
    with pytest.raises(UsageError, match=r"of: expected the key of a picture, got '0-0002'; nearest: 0-0003"):
        matches(out, of="0-0002")
    with pytest.raises(UsageError, match=r"of: '0-00004.jpg' has no vector: decode_failed"):
        matches(out, of="0-00004.jpg")


def test_a_job_without_pictures_has_no_pixels(tmp_path):
    write_job(tmp_path, np.eye(20, dtype=np.float32))
    with pytest.raises(UsageError, match="kept no pictures; use --no-pixels"):
        neighbors(tmp_path, count=3)


def test_another_jobs_folder_is_left_alone(out):
    (out / "mine").mkdir()
    (out / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(RefusedError, match="holds another job"):
        neighbors(out, name="mine")


def test_the_command_prints_matches_and_what_is_left_out(out, capsys):
    with pytest.raises(SystemExit) as end:
        main(["neighbors", str(out), "--of", "0-00000.jpg", "--count", "2", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert (end.value.code, [sorted(one) for one in found]) == (0, [["distance", "key"]] * 2)
    with pytest.raises(SystemExit) as end:
        main(["neighbors", str(out)])
    said = capsys.readouterr()
    assert end.value.code == 0
    assert said.out.split() == [str(out / "neighbors" / name) for name in ("neighbors.png", "table.parquet")]
    assert said.err == (
        "left out: 2 decode_failed (0-00004.jpg, 0-00005.jpg); 1 missing (0-00006.jpg); "
        "1 nonfinite vector (0-00011.jpg)\n"
    )
