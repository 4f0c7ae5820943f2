"""Projections over a data set: the table, images added later, what is refused."""

import builtins
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.decomposition import PCA

from afterimage import UsageError
from afterimage.workflows import project
from afterimage.workflows.cli import main
from tests.workflows.embedded import write_job
from tests.workflows.fixtures import photograph

ALL = ["projection_x", "projection_y", "pca_x", "pca_y"]


def vectors(count: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    return (random.normal(size=(count, 9)) * np.arange(9, 0, -1) + 5).astype(np.float32)


def places(out: Path, columns: list[str]) -> dict[str, list[float]]:
    from afterimage.workflows.derived import needed

    return {
        row["key"]: [row[name] for name in columns] for row in needed(out, "project", "project").table().to_pylist()
    }


def test_the_table_has_both_planes(tmp_path):
    values = vectors(40)
    values[3, 0] = np.nan
    pictures = [photograph(30, 40, seed) for seed in range(40)]
    keys = write_job(tmp_path, values, failed={9: "missing"}, pictures=pictures)
    found = project(tmp_path)
    assert found.left_out == {"missing": [keys[9]], "nonfinite vector": [keys[3]]}
    kept = [place for place in range(40) if place not in (3, 9)]
    assert found.derived.table().column_names == ["key", *ALL]
    reference = PCA(2, svd_solver="full").fit(values[kept].astype(np.float64))
    expected = reference.transform(values[kept].astype(np.float64))
    ours = np.array(list(places(tmp_path, ["pca_x", "pca_y"]).values()))
    assert np.allclose(np.abs(ours), np.abs(expected), atol=1e-5)  # kept in float32
    assert found.share == pytest.approx(reference.explained_variance_ratio_.sum(), abs=1e-9)
    assert found.derived.options["perplexity"] == pytest.approx(37 / 3)
    with Image.open(tmp_path / "project" / "projection.png") as picture:
        assert len(picture.getcolors(2**24)) > 1000  # photographs, not dots


def test_images_added_later_leave_the_others_where_they_are(tmp_path):
    write_job(tmp_path, vectors(60))
    project(tmp_path)
    before, state = places(tmp_path, ALL), (tmp_path / "project" / "state.npz").read_bytes()
    new = write_job(tmp_path, np.concatenate([vectors(60)[:8] + 1e-3, vectors(5, seed=1)]), first=9)
    found = project(tmp_path, add=True)
    after = places(tmp_path, ALL)
    assert (found.placed, list(after)) == (13, [*before, *new])
    assert {key: after[key] for key in before} == before
    assert (tmp_path / "project" / "state.npz").read_bytes() == state
    assert not found.derived.outdated
    layout = np.array([one[:2] for one in before.values()])
    spread = np.ptp(layout, 0).max()
    for key, twin in zip(new[:8], before, strict=False):  # all but the same vectors lie all but there
        assert np.abs(np.array(after[key][2:]) - before[twin][2:]).max() < 0.01
        assert np.abs(np.array(after[key][:2]) - before[twin][:2]).max() < 0.25 * spread
    assert project(tmp_path, add=True).placed == 0
    assert places(tmp_path, ALL) == after


def test_principal_components_alone(tmp_path, capsys):
    write_job(tmp_path, vectors(3))
    with pytest.raises(SystemExit) as end:
        main(["project", str(tmp_path), "--method", "pca"])
    assert end.value.code == 0
    assert capsys.readouterr().out.startswith("3 images placed; the first two principal components hold 100.0% of")
    found = places(tmp_path, ALL)
    assert all(one[:2] == one[2:] for one in found.values())
    write_job(tmp_path, vectors(2, seed=1), first=1)
    assert project(tmp_path, add=True).placed == 2


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "t-SNE: expected at least 7 images, got 3; use --method pca"),
        ({"add": True}, "no 'project' there; make it with 'afterimage project"),
        ({"components": 0}, "components: expected a positive number, got 0"),
    ],
)
def test_what_cannot_be_done_is_refused_in_a_line(tmp_path, given, message):
    write_job(tmp_path, vectors(3))
    with pytest.raises(UsageError, match=message):
        project(tmp_path, **given)
    assert not (tmp_path / "project").exists()


def test_images_are_not_added_to_another_embedding(tmp_path):
    write_job(tmp_path, vectors(20))
    project(tmp_path, method="pca")
    run = tmp_path / "embed" / "run.json"
    run.write_text(run.read_text().replace('"config_sha256": "0"', '"config_sha256": "1"'))
    with pytest.raises(UsageError, match=r"is not the embedding that .* was made from; leave out --add"):
        project(tmp_path, add=True)


def test_a_missing_library_is_named(tmp_path, monkeypatch):
    write_job(tmp_path, vectors(20))
    there = builtins.__import__

    def without(name, *rest):
        if name == "openTSNE":
            raise ImportError(name)
        return there(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UsageError, match=r"t-SNE needs openTSNE: pip install 'afterimage\[tsne\]', or --method pca"):
        project(tmp_path)
