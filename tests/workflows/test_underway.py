"""What the progress bar knows of shards that are not committed yet."""

import pytest

from afterimage.workflows import progress, underway
from afterimage.workflows.progress import Lines, speed
from afterimage.workflows.underway import forget, images_under_way, telling


def test_a_shard_tells_how_far_it_is_and_leaves_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(underway, "SECONDS_BETWEEN_WRITES", 0.0)
    assert images_under_way(tmp_path / "shards") == 0
    with telling(tmp_path / "shards", 3) as one, telling(tmp_path / "shards", 4) as other:
        one(4)
        other(2)
        one(1)
        assert images_under_way(tmp_path / "shards") == 7
    assert images_under_way(tmp_path / "shards") == 0
    assert list((tmp_path / "shards").iterdir()) == []


def test_a_fast_shard_writes_nothing(tmp_path):
    with telling(tmp_path / "shards", 0) as tell:
        for _ in range(100):
            tell(4)
        assert not (tmp_path / "shards").exists()


def test_what_a_killed_worker_left_is_forgotten(tmp_path):
    (tmp_path / ".00007.underway").write_bytes(bytes(5))
    (tmp_path / "00006.g0.commit.json").write_text("{}")
    forget(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["00006.g0.commit.json"]


def test_an_attempt_does_not_count_what_a_killed_one_told(tmp_path, monkeypatch):
    monkeypatch.setattr(underway, "SECONDS_BETWEEN_WRITES", 0.0)
    (tmp_path / ".00007.underway").write_bytes(bytes(5))
    with telling(tmp_path, 7) as tell:
        tell(1)
        assert images_under_way(tmp_path) == 1


def test_lines_count_shards_under_way_and_take_nothing_back(capsys, monkeypatch):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    lines = Lines(40, {"ok": 10})
    lines.glance(0)
    assert capsys.readouterr().err == "", "nothing is said of a run that has done nothing"
    lines.glance(5)
    lines.glance(0)  # its shard was committed, and the commit not yet told
    lines.advance({"ok": 15, "missing": 1})
    lines.glance(30)
    told = capsys.readouterr().err.splitlines()
    assert [line.split(" images")[0] for line in told] == ["15 of 40", "15 of 40", "26 of 40", "40 of 40"]
    assert told[2].endswith("failed: 1 missing")


@pytest.mark.parametrize(("rate", "text"), [(0, "0.0/s"), (31.26, "31.3/s"), (1, "1.0/s"), (0.125, "8.0 s each")])
def test_slow_rates_are_told_in_seconds(rate, text):
    assert speed(rate) == text
