"""A new picture is embedded as those of the job were, to the bit."""

import json
import os

import numpy as np
import pytest

from afterimage import RefusedError, UsageError
from afterimage.workflows import matches, run, serial
from afterimage.workflows.vectors import open_vectors
from tests.workflows.fixtures import jpeg, photograph


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    folder = tmp_path_factory.mktemp("query")
    (folder / "photos").mkdir()
    for seed in range(6):
        (folder / "photos" / f"{seed}.jpg").write_bytes(jpeg(photograph(140, 160 + seed, seed)))
    run("embed", [folder / "photos"], folder / "out", model="demo", executor=serial)
    return folder


def test_a_picture_of_the_job_is_found_at_no_distance(job):
    vectors = open_vectors(job / "out").load()
    for seed in (0, 5):  # the last batch is padded
        found = matches(job / "out", query=job / "photos" / f"{seed}.jpg", count=3)
        exact = np.linalg.norm(vectors.values.astype(float) - vectors.values[seed], axis=1)
        assert [one.key for one in found] == [f"{place}.jpg" for place in np.argsort(exact)[:3]]
        assert found[0].distance == 0
        assert [one.distance for one in found[1:]] == pytest.approx(np.sort(exact)[1:3], rel=1e-6)


def test_what_cannot_be_embedded_is_refused_in_a_line(job, tmp_path):
    (tmp_path / "text.jpg").write_text("no picture")
    for name, message in (("text.jpg", "query: .*text.jpg: starts with"), ("none.jpg", "query: .*none.jpg: ")):
        with pytest.raises(UsageError, match=message):
            matches(job / "out", query=tmp_path / name, count=3)
    with pytest.raises(UsageError, match="count: expected at most 6"):
        matches(job / "out", query=job / "photos" / "0.jpg")


def test_another_network_is_refused(job, tmp_path):
    os.symlink(job / "out" / "embed" / "shards", _folder(tmp_path / "embed") / "shards")
    record = json.loads((job / "out" / "embed" / "run.json").read_text())
    record["model"]["digest"] = "0" * 64
    (tmp_path / "embed" / "run.json").write_text(json.dumps(record))
    with pytest.raises(RefusedError, match="digests differ"):
        matches(tmp_path, query=job / "photos" / "0.jpg", count=2)
    record["model"]["name"] = "(module from Python)"
    (tmp_path / "embed" / "run.json").write_text(json.dumps(record))
    with pytest.raises(UsageError, match="was made with a network from Python"):
        matches(tmp_path, query=job / "photos" / "0.jpg", count=2)


def _folder(path):
    path.mkdir(parents=True)
    return path
