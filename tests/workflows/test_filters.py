"""The command filters: pictures, page, record; several networks; a folder that jobs share; what is refused."""

import json
import re
from base64 import b64decode

import numpy as np
import pytest
from PIL import Image

from afterimage import RefusedError, UsageError, filters, load_model
from afterimage.images.lattice import GAP, written
from afterimage.workflows.cli import main
from afterimage.workflows.filters import captions, picture
from afterimage.workflows.inputs import check_out
from afterimage.workflows.settings import Settings

HEAD = written("0").shape[1]


def record(out):
    return json.loads((out / "filters" / "filters.json").read_text())["filters"]


def test_the_first_layer_in_color_and_a_deeper_one_as_rows_and_columns(tmp_path):
    colored, page = picture(tmp_path, model="demo")
    assert [colored.name, page.name] == ["demo.features.0.0.png", "index.html"]
    pixels = np.asarray(Image.open(colored))
    expected = filters(load_model("demo"))[6].permute(1, 2, 0).numpy() * 255  # the second of the second row of five
    top, left = 2 * GAP + HEAD + 55 + HEAD, 2 * GAP + 55
    assert np.abs(pixels[top : top + 55 : 11, left : left + 55 : 11] - expected).max() <= 0.51  # rounded to levels
    grey, _ = picture(tmp_path, model="demo", layer="features.1.0", filters=7, channels=9)
    pixels = np.asarray(Image.open(grey))
    assert (pixels[..., :1] == pixels).all()
    expected = filters(load_model("demo"), "features.1.0")[:7, :9].numpy() * 255
    below, beside = HEAD + 2 * GAP, written("0").shape[2] + 2 * GAP
    assert pixels.shape[:2] == (below + 7 * 27, beside + 9 * 27)
    for row in range(7):
        for column in range(9):
            top, left = below + 27 * row, beside + 27 * column
            found = pixels[top : top + 24 : 8, left : left + 24 : 8, 0]
            assert np.abs(found - expected[row, column]).max() <= 0.51
    assert list(record(tmp_path)) == [colored.name, grey.name]


def test_the_page_holds_the_pictures_and_loads_nothing(tmp_path):
    picture(tmp_path, model="demo,squeezenet1_1", weights="DEFAULT,none")
    picture(tmp_path, model="demo", layer="features.1.0")
    text = (tmp_path / "filters" / "index.html").read_text()
    assert "Filters of layers after the first are not directly interpretable" in text
    assert "48 × 24 × 3 × 3 · a row per filter, a column per input channel · 16 more filters not shown" in text
    assert "untrained: random weights" in text
    assert "<script" not in text
    assert not re.search(r'src="(?!data:)', text)
    embedded = [b64decode(data) for data in re.findall(r'src="data:image/png;base64,([^"]+)"', text)]
    assert embedded == [(tmp_path / "filters" / file).read_bytes() for file in record(tmp_path)]
    assert re.findall(r'<a href="([^"]+\.png)"', text) == list(record(tmp_path))
    assert list(record(tmp_path)) == [
        "demo.features.0.0.png",
        "squeezenet1_1-untrained.features.0.png",
        "demo.features.1.0.png",
    ]


def test_what_a_column_is_where_a_convolution_has_groups():
    entry = {"shape": [64, 1, 3, 3], "groups": 32, "colored": False, "filters_shown": 64, "channels_shown": 1}
    assert list(captions(entry | {"weights": "DEFAULT"})) == [
        "64 × 1 × 3 × 3",
        "depthwise: filter n reads input channel ⌊n / 2⌋ alone",
    ]
    entry = {"shape": [128, 4, 3, 3], "groups": 32, "colored": False, "filters_shown": 32, "channels_shown": 4}
    assert list(captions(entry | {"weights": "none"})) == [
        "128 × 4 × 3 × 3",
        "32 groups: a row per filter, a column per channel of its own group; "
        "column c of filter n is input channel 4 · ⌊n / 4⌋ + c",
        "96 more filters not shown",
        "untrained: random weights",
    ]


def test_the_pictures_lie_beside_jobs_without_disturbing_them(tmp_path, capsys):
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    for number in range(2):
        Image.fromarray(np.full((40, 40, 3), 60 * number, np.uint8)).save(photos / f"{number}.png")
    picture(out, model="demo")
    check_out(out)  # a run may begin where only filters are
    (out / "mine.txt").write_text("not ours")
    with pytest.raises(UsageError, match="has files of its own"):
        picture(out, model="demo")
    (out / "mine.txt").unlink()
    from afterimage.workflows.cluster import serial
    from afterimage.workflows.runs import run

    run("saliency", photos, out, model="demo", executor=serial)
    picture(out, model="demo", layer="features.1.0")
    for verb in ("status", "verify", "page"):
        with pytest.raises(SystemExit) as end:
            main([verb, str(out)])
        assert end.value.code == 0
    assert len(record(out)) == 2
    with pytest.raises(UsageError, match="name: expected the name of a folder below OUT, got 'filters'"):
        Settings(name="filters")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"layer": "classifier"}, "layer 'classifier' of demo is a Linear, expected a convolution"),
        ({"layer": "features.1.9"}, r"no layer 'features\.1\.9' in demo; nearest: features\.1"),
        ({"model": "demo,demo"}, "expected each network once"),
        ({"weights": "DEFAULT,none"}, "weights: expected one for all, or one for each of 1 networks, got 2"),
        ({"filters": 0}, "filters: expected a positive number, got 0"),
        ({"channels": -1}, "channels: expected a positive number, got -1"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_written(tmp_path, given, message):
    with pytest.raises(UsageError, match=message):
        picture(tmp_path / "out", **{"model": "demo", **given})
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_not_ours_is_refused(tmp_path):
    (tmp_path / "manifest.parquet").write_bytes(b"")
    (tmp_path / "filters").mkdir()
    (tmp_path / "filters" / "run.json").write_text("{}")
    with pytest.raises(RefusedError, match="holds something else"):
        picture(tmp_path, model="demo")


def test_the_command_names_its_files_and_refuses_in_one_line(tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        main(["filters", str(tmp_path / "out"), "--model", "demo"])
    out, _ = capsys.readouterr()
    assert (end.value.code, len(out.split())) == (0, 2)
    with pytest.raises(SystemExit) as end:
        main(["filters", str(tmp_path / "out"), "--model", "demo", "--layer", "feature.0.0"])
    _, err = capsys.readouterr()
    assert (end.value.code, err.count("\n")) == (2, 1)
    assert "nearest: features.0.0" in err
