"""The command style-train: files, resumption, interrupts, what is refused, the page, the squares that it draws."""

import json
import os
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from afterimage import UsageError
from afterimage.errors import RefusedError
from afterimage.models.style.net import load_style_net
from afterimage.workflows import manifest
from afterimage.workflows.crops import Crops, cut
from afterimage.workflows.demo.glass import draw_glass
from afterimage.workflows.files import digest_file, locked
from afterimage.workflows.style_training import command, train
from afterimage.workflows.style_work import named_styles
from tests.workflows.fixtures import photograph

GIVEN = {
    "loss_net": "demo", "width": 2, "steps": 6, "batch_size": 2, "crop": 32, "style_size": 32, "compare": 0,
    "device": "cpu", "seed": 5,
}  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in").mkdir()
    for number in range(7):
        Image.fromarray(photograph(40 + 10 * number, 50, number)).save(tmp_path / "in" / f"{number}.png")
    Image.fromarray(photograph(48, 40, 99)).save(tmp_path / "wave.png")
    Image.fromarray(photograph(40, 40, 98)).save(tmp_path / "<b>&.png")
    return tmp_path


def given(folder, styles=("wave.png",), **more):
    chosen = ",".join(str(folder / style) for style in styles)
    return {**GIVEN, "style": chosen, "content": str(folder / "in"), **more}


def test_the_file_holds_the_network_and_how_it_was_made(folder):
    said = []
    styles = (folder / "wave.png", folder / "<b>&.png")
    more = {"compare": 3, "style": f"{styles[0]},two={styles[1]}"}
    found = train(folder / "net.safetensors", said.append, **{**given(folder), **more})
    net = load_style_net(found.file)
    assert (net.width, net.styles) == (2, ("wave", "two"))
    assert net.about == found.about
    about = net.about
    assert about["styles"] == {"wave": digest_file(styles[0]), "two": digest_file(styles[1])}
    assert (about["contents"], len(about["held_out"]), about["steps"]) == (4, 3, 6)
    assert set(about["held_out_loss"]) == {"content", "style", "tv", "range"}
    assert about["worth"]["adam"]["pictures"] == 6
    assert about["versions"]["torch"].startswith("2.")
    assert re.search(r"step 6/6 .* s a step, \d+\.\d% of it waiting for pictures", "\n".join(said))


def test_the_page_says_how_it_went_and_escapes_names(folder):
    page = train(folder / "net.safetensors", **given(folder, ["wave.png", "<b>&.png"])).page.read_text()
    assert "&lt;b&gt;&amp;" in page
    assert "<b>&" not in page
    assert "default-src 'none'" in page
    assert "http" not in page.replace("http-equiv", "")
    assert page.count("<polyline") == 5
    for step in (1, 3, 6):
        assert f"After {step} step" in page
    assert page.count('class="sample" src="data:image/jpeg;base64,') == 3


def test_a_stopped_training_goes_on_to_the_same_network(folder, monkeypatch):
    whole = train(folder / "whole.safetensors", **given(folder))
    assert whole.finished
    from afterimage.workflows import style_training

    watch = style_training._Watch.__call__
    monkeypatch.setattr(style_training._Watch, "__call__", lambda self, one: watch(self, one) or one.done == 2)
    part = train(folder / "part.safetensors", **given(folder))
    assert (part.finished, part.file.exists(), part.page.exists()) == (False, False, True)
    monkeypatch.undo()
    said = []
    rest = train(folder / "part.safetensors", said.append, **given(folder))
    assert "going on after step 2 of 6" in said
    one, other = (load_style_net(found.file).state_dict() for found in (whole, rest))
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert train(folder / "part.safetensors", **given(folder)).about == rest.about


@pytest.mark.slow
def test_an_interrupt_leaves_a_checkpoint_and_exits_130(folder):
    options = [f"--{name.replace('_', '-')}={value}" for name, value in given(folder, steps=100_000).items()]
    code = "import sys; from afterimage.workflows.command import main; main()"
    running = subprocess.Popen(
        [sys.executable, "-c", code, "style-train", str(folder / "net.safetensors"), *options],
        stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"}, text=True,
    )  # fmt: skip
    assert running.stderr is not None
    for line in running.stderr:
        if line.startswith("step"):
            break
    running.send_signal(signal.SIGINT)
    told = running.stderr.read()
    assert running.wait(60) == 130, told
    assert "the same command goes on from here" in told
    assert (folder / "net.training/checkpoint.safetensors").exists()
    assert not (folder / "net.safetensors").exists()


def test_other_settings_are_refused_with_the_difference(folder):
    train(folder / "net.safetensors", **given(folder))
    with pytest.raises(RefusedError, match=r"other settings: steps was 6, now 7; repeat those, name another FILE"):
        train(folder / "net.safetensors", **given(folder, steps=7))
    Image.fromarray(photograph(48, 40, 97)).save(folder / "wave.png")
    with pytest.raises(RefusedError, match=r"styles\.wave was '[0-9a-f]{64}', now"):
        train(folder / "net.safetensors", **given(folder))
    with locked(folder / "other.training/.lock"), pytest.raises(RefusedError, match="trained by another process"):
        train(folder / "other.safetensors", **given(folder))
    (folder / "net.training/checkpoint.safetensors").write_bytes(b"nothing")
    Image.fromarray(photograph(48, 40, 99)).save(folder / "wave.png")
    with pytest.raises(UsageError, match="cannot be read"):
        train(folder / "net.safetensors", **given(folder))


def test_a_training_begins_with_the_weights_of_a_network(folder):
    first = train(folder / "first.safetensors", **given(folder))
    start = str(first.file)
    found = train(folder / "next.safetensors", **given(folder, start=start, steps=1, rate=1e-12))
    assert found.about["start_sha256"] == digest_file(first.file)
    one, other = (load_style_net(file).state_dict() for file in (first.file, found.file))
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=0, atol=1e-8)
    with pytest.raises(UsageError, match=r"start: expected a network of width 3 with 1 styles, got one of width 2"):
        train(folder / "bad.safetensors", **given(folder, start=start, width=3))


def test_what_cannot_be_used_is_told_once_and_refused_if_none_is_left(folder):
    for name in ("a.jpg", "b.jpg"):
        (folder / "in" / name).write_bytes(b"\xff\xd8\xff nothing")
    said = []
    train(folder / "net.safetensors", said.append, **given(folder, held_out=str(folder / "wave.png"), steps=12))
    assert sorted(line.split(":")[1].strip() for line in said if line.startswith("not used")) == ["a.jpg", "b.jpg"]
    for path in (folder / "in").glob("*.png"):
        path.unlink()
    with pytest.raises(UsageError, match=r"content: expected pictures, got 2 that cannot be used"):
        train(folder / "bad.safetensors", **given(folder, held_out=str(folder / "wave.png")))
    with pytest.raises(UsageError, match="held_out: expected a photograph"):
        train(folder / "bad.safetensors", **given(folder))


def test_a_training_that_diverges_keeps_its_last_checkpoint(folder, monkeypatch):
    from afterimage.images.style_training import Course
    from afterimage.workflows import style_training

    monkeypatch.setattr(style_training._Watch, "EVERY", 0.0)
    step = Course.step

    def broken(self, images):
        if self.done == 3:
            self.net.conv1.conv2d.bias.data[0] = torch.nan
        return step(self, images)

    monkeypatch.setattr(Course, "step", broken)
    with pytest.raises(UsageError, match="the training diverged: the loss of step 4 is not finite"):
        train(folder / "net.safetensors", **given(folder))
    from safetensors.torch import load_file

    kept = load_file(folder / "net.training/checkpoint.safetensors")
    assert int(kept["done"]) == 3
    assert all(bool(value.isfinite().all()) for value in kept.values())


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"style": ""}, "style: expected pictures"),
        ({"content": ""}, "content: expected pictures"),
        ({"crop": 8}, "crop: expected 16 or above, got 8"),
        ({"width": 0}, "width: expected 1 or above, got 0"),
        ({"precision": "fp16"}, "precision"),
        ({"rate": 0.0}, "a finite rate above 0"),
        ({"tv": -1.0}, "tv: expected a finite number of 0 or above"),
        ({"style": "nothing.png"}, "style: nothing.png cannot be used"),
    ],
)
def test_bad_options_are_refused(folder, bad, message):
    with pytest.raises(UsageError, match=message):
        train(folder / "net.safetensors", **{**given(folder), **bad})


def test_bad_names_are_refused(folder):
    with pytest.raises(UsageError, match=r"expected a name that ends in \.safetensors, got 'net\.pt'"):
        train(folder / "net.pt", **given(folder))
    with pytest.raises(UsageError, match="expected different names, got 'a' twice"):
        named_styles("a.jpg,x/a.png")
    assert {name: str(path) for name, path in named_styles("x/a.jpg, b=c.png").items()} == {
        "a": "x/a.jpg",
        "b": "c.png",
    }


def test_the_command_takes_the_options(folder):
    options = [f"--{name.replace('_', '-')}={value}" for name, value in given(folder, compare=2).items()]
    found = CliRunner().invoke(command(), [str(folder / "net.safetensors"), *options], catch_exceptions=False)
    assert found.exit_code == 0
    assert re.search(r"held-out loss content \d+\.\d+, style \d+\.\d+, tv \d+\.\d+", found.output)
    assert json.loads((folder / "net.training/config.json").read_text())["width"] == 2


def test_squares_follow_from_seed_and_step(folder):
    items = manifest.scan([folder / "in"])
    one = Crops(items, 32, 3, seed=1, say=print)
    drawn = [one.draw(step) for step in range(4)]
    with Crops(items, 32, 3, seed=1, say=print).ahead(2, 4) as take:
        assert torch.equal(take(2), drawn[2])
        assert torch.equal(take(3), drawn[3])
    assert not torch.equal(Crops(items, 32, 3, seed=2, say=print).draw(0), drawn[0])
    assert drawn[0].shape == (3, 3, 32, 32)
    assert 0 <= drawn[0].min() < drawn[0].max() <= 1


def test_an_epoch_takes_each_picture_once(folder, monkeypatch):
    from afterimage.workflows import crops

    seen = []
    decode = crops.decode
    monkeypatch.setattr(crops, "decode", lambda data, most: seen.append(data) or decode(data, most))
    one = Crops(manifest.scan([folder / "in"]), 16, 7, seed=1, say=print)
    for step in range(2):
        one.draw(step)
        assert len(set(seen)) == len(seen) == 7
        seen.clear()


def test_a_square_lies_in_the_picture_and_keeps_its_proportions():
    rows, columns = np.mgrid[:60, :90]
    picture = np.stack([rows * 4, columns * 2, rows * 0], 2).astype(np.uint8)
    for draws in ((0.0, 0.0, 0.0, 0.9), (0.3, 0.5, 0.7, 0.9), (0.999, 0.99, 0.99, 0.9)):
        window = 20 * 3 ** draws[0]
        square = cut(picture, 20, draws).astype(float)
        step = window / 20
        top, left = draws[2] * (60 - window), draws[1] * (90 - window)
        places = (np.arange(20) + 0.5) * step - 0.5
        inside = slice(2, -2)  # where the filter reaches beyond the picture, a ramp bends
        np.testing.assert_allclose(square[inside, 10, 0], 4 * (top + places)[inside], atol=1.1)
        np.testing.assert_allclose(square[10, inside, 1], 2 * (left + places)[inside], atol=1.1)
    plain, mirrored = (cut(picture, 20, (0.5, 0.5, 0.5, last)) for last in (0.9, 0.1))
    np.testing.assert_array_equal(plain[:, ::-1], mirrored)
    assert cut(picture[:10], 20, (0.5, 0.5, 0.5, 0.9)).shape == (20, 20, 3)


def test_glass_is_a_function_of_its_seed_and_has_leads_and_panes():
    one = draw_glass(96, 128, 3)
    assert one.shape == (96, 128, 3)
    assert one.dtype == np.uint8
    np.testing.assert_array_equal(one, draw_glass(96, 128, 3))
    assert (one != draw_glass(96, 128, 4)).mean() > 0.5
    dark = (one.max(2) < 40).mean()
    assert 0.08 < dark < 0.35  # leads some 3 of 30 pixels wide, on both axes, and dark panes
    from afterimage.workflows.demo.glass import cells

    seeds = np.array([[10.0, 10.0], [10.0, 30.0]], np.float32)
    panes, gap = cells(seeds, 20, 40)
    assert panes[5, 3] == 0
    assert panes[5, 33] == 1
    np.testing.assert_allclose(gap[4], abs(np.arange(40) - 20), atol=1e-5)
