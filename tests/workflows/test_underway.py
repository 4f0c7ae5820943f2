"""What the progress bar knows of shards that are not committed yet."""

import io

import pytest
from rich.console import Console
from rich.progress import Progress

from afterimage.workflows import progress, underway
from afterimage.workflows.progress import Bar, Lines, speed
from afterimage.workflows.underway import Portion, forget, images_under_way, telling


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


def test_lines_tell_of_what_follows_the_images(capsys, monkeypatch):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 1e9)
    tell = Lines(40, {}).part("neurons")
    for done in range(1, 4):
        tell(done, 3)
    assert capsys.readouterr().err == "3 of 3 neurons\n"  # the others came too soon


def test_what_follows_the_images_has_a_bar_of_its_own():
    with Progress(console=Console(file=io.StringIO())) as live:
        tell = Bar(live, 40, {"ok": 40}).part("neurons")
        assert not live.finished
        tell(2, 3)
        assert [(task.description, task.completed, task.total) for task in live.tasks] == [
            ("images", 40, 40),
            ("neurons", 2, 3),
        ]


@pytest.mark.parametrize(("rate", "text"), [(0, "0.0/s"), (31.26, "31.3/s"), (1, "1.0/s"), (0.125, "8.0 s each")])
def test_slow_rates_are_told_in_seconds(rate, text):
    assert speed(rate) == text


def test_an_image_that_takes_long_counts_by_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(underway, "SECONDS_BETWEEN_WRITES", 0.0)
    with telling(tmp_path, 0) as tell:
        portion = Portion(tell, 4)
        step = portion.steps(4)
        for done, expected in [(1, 0.5), (4, 2), (3, 2), (8, 4), (16, 4)]:
            step(done, 8)
            assert images_under_way(tmp_path) == expected
        portion.end()
        assert images_under_way(tmp_path) == 4


def test_images_that_are_done_again_count_once(tmp_path, monkeypatch):
    """A batch that failed half-way is done again one by one."""
    monkeypatch.setattr(underway, "SECONDS_BETWEEN_WRITES", 0.0)
    with telling(tmp_path, 0) as tell:
        portion = Portion(tell, 3)
        portion.steps(3)(5, 10)
        for _ in range(3):
            portion.steps(1)(10, 10)
        assert images_under_way(tmp_path) == 3
        portion.end()
        assert images_under_way(tmp_path) == 3


def test_a_reader_that_comes_in_the_middle_of_a_write_counts_nothing(tmp_path):
    (tmp_path / ".00001.underway").write_bytes(b"")
    assert images_under_way(tmp_path) == 0


def test_lines_tell_how_far_a_single_image_is(capsys, monkeypatch):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    Lines(1, {}).glance(0.25)
    assert capsys.readouterr().err.startswith("0.2 of 1 images, ")
