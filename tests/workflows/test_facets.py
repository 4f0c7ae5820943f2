"""Facets from files: clusters of a folder, what cannot be used, the command."""

import numpy as np
import pytest
from PIL import Image

from afterimage import UsageError
from afterimage.workflows.cli import main
from afterimage.workflows.facets import find


@pytest.fixture
def photos(tmp_path):
    """Six dark pictures with a bright stripe, three bright ones with a dark square, one broken file."""
    random = np.random.default_rng(0)
    for number in range(9):
        pixels = random.normal(60 if number < 6 else 190, 4, (128, 128, 3))
        if number < 6:
            pixels[:, 60:70] = 240
        else:
            pixels[30:90, 30:90] = 10
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(tmp_path / f"{number}.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    return tmp_path


def test_a_facet_is_the_mean_of_its_sort(photos, tmp_path):
    files, unusable = find([photos], tmp_path / "facets", model="demo", count=2)
    assert [file.name for file in files] == ["facet-1.png", "facet-2.png"]
    assert list(unusable) == ["broken.png"]
    for file, numbers in zip(files, (range(6), range(6, 9)), strict=True):
        mean = np.mean([np.asarray(Image.open(photos / f"{number}.png"), float) for number in numbers], 0)
        assert np.abs(np.asarray(Image.open(file), float) - mean).max() <= 0.51  # rounded to levels


def test_the_command_names_what_it_wrote_and_refuses_in_one_line(photos, tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        main(["facets", str(photos), str(tmp_path / "facets"), "--model", "demo", "--count", "2"])
    out, err = capsys.readouterr()
    assert (end.value.code, len(out.split())) == (0, 2)
    assert err.startswith("not used: broken.png")
    with pytest.raises(UsageError, match="facets: expected"):
        find([photos], tmp_path / "more", model="demo", count=30)
