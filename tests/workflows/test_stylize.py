"""Photographs through a style network: files like those that came in, what they say of themselves, runs over them."""

import io
import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from afterimage import FastStyle, RefusedError, UsageError, load_model
from afterimage.models.style import StyleRuntime, export_style_net, save_style_net
from afterimage.workflows import cli, run, verify
from afterimage.workflows.codecs import Decoded
from afterimage.workflows.decode import decode
from afterimage.workflows.photos import PhotoFiles, kept, srgb_profile
from tests.networks import mixed, styled
from tests.workflows import fixtures
from tests.workflows.fixtures import encoded, photograph
from tests.workflows.test_run import files_of, local, rows_of

DATE, CAMERA, LOCATION, ORIENTATION, MAKER = 0x0132, 0x8769, 0x8825, 0x0112, 0x010F
TAKEN, OFFSET, FRACTION, LENS = 0x9003, 0x9010, 0x9291, 0xA434
WHEN, PLACE = "2024:05:06 07:08:09", {1: "N", 2: (48.0, 31.0, 12.5), 3: "E", 4: (9.0, 3.0, 27.0)}
TOLD = {TAKEN: WHEN, OFFSET: "+02:00", FRACTION: "125"}
PIXELS = photograph(48, 72)
TURNED = np.rot90(PIXELS, -1)
"""The picture upright, where its EXIF says that the camera was turned."""
ALPHA = np.linspace(0, 255, PIXELS[..., 0].size).reshape(48, 72).astype(np.uint8)


def exif(orientation: int = 1) -> bytes:
    tags = Image.Exif()
    tags[DATE], tags[ORIENTATION], tags[MAKER] = WHEN, orientation, "a maker"
    tags[CAMERA], tags[LOCATION] = {**TOLD, LENS: "a lens"}, PLACE
    return tags.tobytes()


def heic(pixels, **options) -> bytes:
    pillow_heif = pytest.importorskip("pillow_heif")
    file = io.BytesIO()
    pillow_heif.from_pillow(Image.fromarray(pixels)).save(file, quality=-1, **options)
    return file.getvalue()


def photos() -> dict[str, bytes]:
    """Return files by name: of every format, turned, in another color space, with alpha, in folders."""
    with_alpha = np.dstack([PIXELS, ALPHA])
    return {
        "turned.jpg": encoded(PIXELS, "JPEG", quality=95, exif=exif(6)),
        "turned.png": encoded(PIXELS, "PNG", exif=exif(6)),
        "turned.webp": encoded(PIXELS, "WEBP", lossless=True, exif=exif(6)),
        "turned.tif": encoded(PIXELS, "TIFF", exif=exif(6)),
        "phone.heic": heic(PIXELS, exif=exif(6)),
        "tree/wide.JPG": encoded(PIXELS, "JPEG", quality=95, icc_profile=fixtures.adobe_profile()),
        "tree/clear.png": encoded(with_alpha, "PNG"),
        "tree/clear.webp": encoded(with_alpha, "WEBP", lossless=True),
        "tree/clear.tiff": encoded(with_alpha, "TIFF"),
        "tree/small.avif": encoded(with_alpha, "AVIF", quality=100),
        "tree/plain.bmp": encoded(PIXELS, "BMP"),
    }


NAMES = {
    "turned.jpg": "turned.jpg",
    "turned.png": "turned.png",
    "turned.webp": "turned.webp",
    "turned.tif": "turned.tif",
    "phone.heic": "phone.jpg",
    "tree/wide.JPG": "tree/wide.JPG",
    "tree/clear.png": "tree/clear.png",
    "tree/clear.webp": "tree/clear.webp",
    "tree/clear.tiff": "tree/clear.tiff",
    "tree/small.avif": "tree/small.jpg",
    "tree/plain.bmp": "tree/plain.png",
}


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    file = tmp_path_factory.mktemp("nets") / "net.safetensors"
    save_style_net(styled(), file)
    return str(file)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return write(tmp_path_factory.mktemp("photos"), photos())


@pytest.fixture(scope="module")
def painted(net, inputs, tmp_path_factory):
    out = tmp_path_factory.mktemp("painted") / "out"
    assert paint(inputs, out, net).statuses == {"ok": len(NAMES)}
    return out


def paint(inputs, out, net, **given):
    return local("stylize", inputs, out, model=net, **{"engine": "torch", **given})


def made(out, name):
    return Image.open(out / "stylize" / "images" / name)


def pictures_of(out):
    folder = out / "stylize" / "images"
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def as_tensor(pixels):
    return torch.from_numpy(np.array(pixels)).permute(2, 0, 1)[None] / 255


def levels(images):
    return images[0].mul(255).round().byte().permute(1, 2, 0).numpy()


def error(one, other, side=1):
    """Return the mean difference of two pictures, of the means of squares of `side` pixels."""
    apart = np.asarray(one, np.float64) - np.asarray(other, np.float64)
    height, width = (length // side * side for length in apart.shape[:2])
    blocks = apart[:height, :width].reshape(height // side, side, width // side, side, -1)
    return float(np.abs(blocks.mean((1, 3))).mean())


def test_files_are_named_as_the_inputs_and_are_what_their_names_say(painted):
    assert set(pictures_of(painted)) == set(NAMES.values())
    rows = {row["key"]: row for row in rows_of(painted, "stylize")}
    for key, name in NAMES.items():
        image = made(painted, name)
        ending = Path(name).suffix.lower()
        assert Image.registered_extensions()[ending] == image.format
        assert rows[key]["file"] == f"images/{name}"
        assert (rows[key]["file_width"], rows[key]["file_height"]) == image.size
        assert image.size == ((48, 72) if "turned" in name or "phone" in name else (72, 48))
    assert verify(painted) == []


def test_what_is_painted_is_the_upright_picture_in_srgb(painted, inputs):
    net = styled()
    for key, name in NAMES.items():
        given = decode((inputs / key).read_bytes())
        expected = levels(FastStyle()(net, as_tensor(given)))
        found = decode(pictures_of(painted)[name])
        # lossless files differ by the rounding of colors under an alpha; of lossy ones, WebP has one color for 4 pixels
        side, limit = (8, 4) if Path(name).suffix.lower() in (".jpg", ".webp") else (1, 0.5)
        if "clear" not in key:
            assert error(found, expected, side) < limit, key
    for key in ("turned.png", "turned.webp", "turned.tif"):
        np.testing.assert_array_equal(decode((inputs / key).read_bytes()), TURNED)


def test_files_say_that_they_are_srgb_and_upright(painted):
    for name, data in pictures_of(painted).items():
        image = Image.open(io.BytesIO(data))
        if image.format == "PNG":
            assert image.info["srgb"] == 0
        else:
            profile = ImageCms.ImageCmsProfile(io.BytesIO(image.info["icc_profile"]))
            assert "sRGB" in ImageCms.getProfileDescription(profile)
        assert image.getexif().get(ORIENTATION, 1) == 1, name


def test_alpha_is_kept_and_over_white_the_file_shows_the_painting(painted, inputs):
    expected = levels(FastStyle()(styled(), as_tensor(decode((inputs / "tree/clear.png").read_bytes()))))
    for name in ("tree/clear.png", "tree/clear.webp", "tree/clear.tiff"):
        image = made(painted, name)
        assert image.mode == "RGBA"
        np.testing.assert_array_equal(np.asarray(image)[..., 3], ALPHA)
        over = decode(pictures_of(painted)[name])
        reachable = expected >= 255 - ALPHA[..., None]  # nothing darker than the white that shines through
        if "webp" not in name:
            assert np.abs(over.astype(int) - expected)[reachable].max() <= 1
        assert error(over[40:], expected[40:], 8) < 6  # where nearly all is opaque
    assert made(painted, "tree/small.jpg").mode == "RGB"


def test_the_date_stays_and_all_else_goes(painted, inputs, net, tmp_path):
    names = ["turned.jpg", "turned.png", "turned.webp", "turned.tif", "phone.jpg"]
    for name in names:
        found = made(painted, name).getexif()
        assert found[DATE] == WHEN, name
        assert found.get_ifd(CAMERA) == TOLD
        assert not {MAKER, LOCATION} & set(found)
    assert all(b"a lens" not in data and b"a maker" not in data for data in pictures_of(painted).values())
    paint(inputs, tmp_path / "out", net, keep_location=True)
    for name in names:
        found = made(tmp_path / "out", name).getexif()
        assert found.get_ifd(LOCATION) == PLACE, name
        assert (found.get_ifd(CAMERA), MAKER in found) == (TOLD, False)


@pytest.mark.parametrize(
    "block",
    [b"", b"Exif\0\0", b"no such block", b"Exif\0\0MM\0*\xff\xff\xff\xff", exif()[:60], fixtures.exif(6)],
)
def test_an_exif_block_without_dates_or_broken_leaves_none(block):
    assert kept(block, location=True) == b""


def test_a_second_run_computes_nothing_and_leaves_the_files(net, inputs, tmp_path):
    paint(inputs, tmp_path / "out", net, engine="auto")
    before = pictures_of(tmp_path / "out")
    config = json.loads((tmp_path / "out/stylize/run.json").read_text())["config"]
    assert config["engine"] in ("amx", "onnxruntime", "openvino", "torch")
    assert config["photos"] == {"format": None, "quality": 92, "keep_location": False}
    assert paint(inputs, tmp_path / "out", net, engine="auto").computed == 0
    other = next(name for name in ("torch", "onnxruntime") if name != config["engine"])
    with pytest.raises(RefusedError, match=f"engine was '{config['engine']}', now '{other}'"):
        paint(inputs, tmp_path / "out", net, engine=other)
    with pytest.raises(RefusedError, match=r"photos.quality was 92, now 80"):
        paint(inputs, tmp_path / "out", net, engine="auto", quality=80)
    assert pictures_of(tmp_path / "out") == before


def test_a_resumed_run_keeps_the_engine_that_it_began_with(net, inputs, tmp_path, monkeypatch):
    from afterimage.models.style import runtime

    monkeypatch.setattr(runtime, "fastest", lambda *given: ("torch", "torch, said so"))
    paint(inputs, tmp_path / "out", net, engine="auto", shard_size=4)
    before = pictures_of(tmp_path / "out")
    (tmp_path / "out/stylize/shards/00001.g0.commit.json").unlink()
    monkeypatch.setattr(runtime, "fastest", lambda *given: ("onnxruntime", "another today"))
    assert paint(inputs, tmp_path / "out", net, engine="auto", shard_size=4).computed == 4
    assert pictures_of(tmp_path / "out") == before


def test_dask_and_the_plain_map_give_the_same_bytes(net, inputs, tmp_path):
    given = {"model": net, "engine": "onnxruntime", "threads": 1, "shard_size": 4}
    local("stylize", inputs, tmp_path / "plain", **given)
    run("stylize", inputs, tmp_path / "dask", workers=2, **given)
    assert pictures_of(tmp_path / "plain") == pictures_of(tmp_path / "dask")
    assert files_of(tmp_path / "plain", "stylize") == files_of(tmp_path / "dask", "stylize")


def test_without_strength_the_picture_comes_back(net, inputs, tmp_path):
    paint(inputs, tmp_path / "out", net, strength=0.0, format="png", work_size=32)
    for key in photos():
        name = NAMES[key]
        ending = "" if key.startswith(("turned", "tree/clear")) else Path(name).stem
        file = f"{key}.png" if not ending else str(Path(name).with_suffix(".png"))
        given = decode((inputs / key).read_bytes())
        if "clear" not in key and "small" not in key:
            np.testing.assert_array_equal(decode(pictures_of(tmp_path / "out")[file]), given, err_msg=key)
    clear = np.asarray(made(tmp_path / "out", "tree/clear.png.png")).astype(int)
    colors = np.abs(clear[..., :3] - PIXELS)
    # 8 bits over white, divided by the opacity: half a level of the one is 255 / 2a of the other, and it is rounded
    assert (colors <= np.ceil(0.5 * 255 / np.maximum(ALPHA, 1) + 0.5)[..., None])[ALPHA > 0].all()


def test_strokes_are_alike_whatever_the_resolution():
    """A scene at 4 times the pixels is painted as the scene is, but for what the resampling itself changes."""
    small = torch.nn.functional.interpolate(as_tensor(photograph(128, 192)), size=(64, 96), mode="area")
    large = torch.nn.functional.interpolate(small, size=(256, 384), mode="bicubic", antialias=True).clamp(0, 1)
    method, net = FastStyle(work_size=96), styled()

    def shrunk(images):
        return torch.nn.functional.interpolate(images, size=(64, 96), mode="area")

    painted = method(net, small)
    apart = float((shrunk(method(net, large)) - painted).abs().mean())
    without = float((shrunk(FastStyle()(net, large)) - painted).abs().mean())
    # The content comes down as it was, to 1 level of 255, which the network makes more of; the painting's finest
    # strokes, of single pixels, lose 4 levels on the way up and down.
    assert apart < 0.05
    assert without > 2 * apart, "at full size the strokes are others"
    assert method(net, large).shape == large.shape


def test_work_size_brings_any_shape_to_what_the_network_takes():
    assert FastStyle(work_size=64)(styled(), torch.rand(1, 3, 16, 600)).shape == (1, 3, 16, 600)


def test_colors_stay_and_luminance_is_the_paintings():
    from afterimage.images.colors import luminance

    content = as_tensor(PIXELS).double() * 0.2 + 0.4  # within the cube, so that nothing is clipped
    net = styled().double()
    with torch.no_grad():
        net.deconv3.conv2d.weight.mul_(0.1)
        net.deconv3.conv2d.bias.fill_(127)
    painted, kept_colors = FastStyle()(net, content), FastStyle(keep_color=True)(net, content)
    torch.testing.assert_close(luminance(kept_colors), luminance(painted))
    torch.testing.assert_close(kept_colors - luminance(kept_colors), content - luminance(content))
    half = FastStyle(strength=0.5, keep_color=True)(net, content)
    torch.testing.assert_close(half, (content + kept_colors) / 2)


def test_styles_are_mixed_by_shares():
    net, content = styled().double(), as_tensor(PIXELS).double()

    def expected(*shares):
        return net(content, content.new_tensor([shares]))

    for style, shares in [
        (None, (1, 0)),
        ("the scream", (0, 1)),
        ("starry-night=0.3,the-scream=0.7", (0.3, 0.7)),
        ("Starry_Night=1, the-scream=3", (0.25, 0.75)),
        ("starry-night,the-scream", (0.5, 0.5)),
    ]:
        torch.testing.assert_close(FastStyle(style=style)(net, content), expected(*shares))


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"strength": 1.5}, "strength: expected 0 to 1, got 1.5"),
        ({"work_size": 8}, "work_size: expected 16 pixels or more, got 8"),
        ({"style": "a=x"}, "style: expected NAME, or NAME=SHARE"),
        ({"style": "a=-1"}, "style: expected NAME, or NAME=SHARE"),
        ({"style": "a=0"}, "style: expected a share above 0, got 'a=0'"),
        ({"style": "stary-night"}, "nearest: starry-night"),
        ({"quality": 0}, "quality: expected 1 to 100, got 0"),
        ({"format": "gif"}, "option 'format' takes one of jpeg, png, webp, tiff"),
        ({"engine": "tensorrt"}, "option 'engine' takes one of auto, amx, onnxruntime, openvino, torch"),
        ({"model": "resnet50"}, "'resnet50' is no style network"),
        ({"model": "no-such-net"}, "'no-such-net' is no style network"),
        ({"model": "missing.onnx"}, "missing.onnx"),
        ({"model": load_model(mixed(), crop=32, mean=(0, 0, 0), std=(1, 1, 1))}, "'Mixed' is no style network"),
        ({"target": "cat"}, "stylize has no option 'target'"),
        ({"labels": "folders"}, "stylize has no option 'labels'"),
        ({"fit": "inside"}, "stylize has no option 'fit'"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(net, inputs, tmp_path, given, said):
    with pytest.raises(UsageError) as caught:
        paint(inputs, tmp_path / "out", **{"net": net, **given} if "model" not in given else {"net": given["model"]})
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_style_network_is_for_painting_alone(net, inputs, tmp_path):
    with pytest.raises(UsageError, match="is a style network, which only paints; saliency looks into networks"):
        local("saliency", inputs, tmp_path / "out", model=net)
    with pytest.raises(UsageError, match=r"style network, which only paints; .* --loss-net resnet50"):
        local("texture", inputs, tmp_path / "out", model=load_model(net))
    for option in ("format", "quality", "engine", "keep_location"):
        with pytest.raises(UsageError, match=f"saliency has no option '{option}'"):
            local("saliency", inputs, tmp_path / "out", model="demo", **{option: None})


def test_bad_files_cost_a_row_each(net, inputs, tmp_path):
    folder = write(tmp_path / "inputs", {"good.png": (inputs / "turned.png").read_bytes()})
    expected = fixtures.write_faulty(folder / "bad")
    write(folder, {"tiny.png": encoded(PIXELS[:12], "PNG"), "long.webp": encoded(photograph(16, 16380), "WEBP")})
    wide = photograph(16, 64).repeat(300, axis=1)
    write(folder, {"long.bmp": encoded(wide, "BMP")})
    paint(folder, tmp_path / "out", net, format="webp")
    rows = {row["key"]: row for row in rows_of(tmp_path / "out", "stylize")}
    assert rows["good.png"]["status"] == rows["long.webp"]["status"] == "ok"
    assert rows["tiny.png"]["status"] == "model_failed"
    assert "16 × 16 pixels or more" in rows["tiny.png"]["error"]
    assert (rows["long.bmp"]["status"], rows["long.bmp"]["file"]) == ("too_large", None)
    assert "webp holds at most 16383 pixels a side" in rows["long.bmp"]["error"]
    unlike = {row["key"]: row["status"] for row in rows.values() if row["key"].startswith("bad/")}
    assert len(unlike) == len(expected)
    broken = {name for name, status in expected.items() if status != "ok"}
    assert sum(status != "ok" for status in unlike.values()) >= len(broken)
    assert verify(tmp_path / "out") == []


def test_without_the_extra_heic_is_unsupported(monkeypatch, inputs):
    import sys

    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    from afterimage.workflows.codecs import ImageError

    with pytest.raises(ImageError, match=r"pip install 'afterimage\[heif\]'") as caught:
        decode((inputs / "phone.heic").read_bytes())
    assert caught.value.status == "unsupported"


def test_heic_is_measured_before_it_is_decoded(inputs):
    from afterimage.workflows.codecs import ImageError
    from afterimage.workflows.decode import size_of

    data = (inputs / "phone.heic").read_bytes()
    with pytest.raises(ImageError, match="--max-pixels is 100") as caught:
        decode(data, max_pixels=100)
    assert caught.value.status == "too_large"
    assert size_of(str(inputs / "phone.heic").encode()) == (72, 48)
    assert error(decode(data), TURNED, 8) < 2  # HEVC has one color for 4 pixels


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "tiff"])
def test_quality_and_format_make_the_file(kind):
    photo = Decoded(PIXELS)
    name = b"a." + kind.encode()
    small, large, again = (PhotoFiles(None, quality, False).encoded(name, PIXELS, photo) for quality in (30, 95, 95))
    assert large == again
    if kind in ("jpeg", "webp"):
        assert len(small) < len(large) / 2
        assert error(decode(large), PIXELS) < error(decode(small), PIXELS)
    else:
        assert small == large
        np.testing.assert_array_equal(decode(large), PIXELS)


def test_the_profile_does_not_tell_when_it_was_made():
    assert struct.unpack(">6H", srgb_profile()[24:36]) == (2000, 1, 1, 0, 0, 0)


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "tiff"])
def test_the_predicted_size_is_that_of_the_files(net, tmp_path, kind):
    for number in range(3):
        write(tmp_path / "inputs", {f"{number}.jpg": encoded(photograph(300, 400, number), "JPEG")})
    summary = paint(tmp_path / "inputs", tmp_path / "out", net, format=kind)
    files = [path for path in (tmp_path / "out/stylize").rglob("*") if path.is_file() and path.suffix != ".json"]
    assert 0.4 < sum(path.stat().st_size for path in files) / summary.predicted_bytes < 2.5


def test_bfloat16_is_autocast_and_leaves_the_norms_as_they_are(net, inputs, painted, tmp_path):
    paint(inputs, tmp_path / "out", net, precision="bf16")
    config = json.loads((tmp_path / "out/stylize/run.json").read_text())["config"]
    assert config["precision"] == "bf16"
    for name in ("turned.png", "tree/plain.png"):
        apart = error(decode(pictures_of(tmp_path / "out")[name]), decode(pictures_of(painted)[name]))
        # 8 bits of a number: some 2 levels through 16 convolutions; weights rounded once for all would say nothing
        assert 0 < apart < 4


def test_onnx_files_and_modules_paint_as_weights_do(net, inputs, painted, tmp_path):
    export_style_net(styled(), tmp_path / "net.onnx")
    runtime = StyleRuntime(styled(), engine="onnxruntime")  # what computes it is the run's own choice
    for number, model in enumerate((str(tmp_path / "net.onnx"), load_model(net), styled(), runtime)):
        paint(inputs, tmp_path / str(number), model)
        assert pictures_of(tmp_path / str(number)) == pictures_of(painted)


def test_the_command_takes_the_network_and_its_styles(net, inputs, tmp_path, capsys):
    words = "--style starry-night=0.3,the-scream=0.7 --strength 0.7 --dry-run --net"
    with pytest.raises(SystemExit) as ended:
        cli.main(["stylize", str(inputs), f"{tmp_path}/out", *words.split(), net])
    assert ended.value.code == 0
    assert f"{len(NAMES)} images" in capsys.readouterr().out
    with pytest.raises(SystemExit) as ended:
        cli.main(["stylize", "--help"])
    told = capsys.readouterr().out
    assert all(f"--{name}" in told for name in ("net", "style", "keep-color", "work-size", "engine", "keep-location"))
    assert not any(f"--{name} " in told for name in ("target", "labels", "weights", "crop", "fit", "heatmap-size"))


def test_a_sweep_lays_styles_and_strengths_on_a_sheet(net, inputs, tmp_path):
    sweep = {"style": ["starry-night", "the-scream"], "strength": [0.3, 1.0]}
    summary = paint(inputs, tmp_path / "out", net, sweep=sweep, limit=2)
    assert len(summary.sweep) == 4
    assert len(list((tmp_path / "out/stylize/sheets").rglob("*.png"))) == 2


def test_an_embedded_network_goes_by_its_name(inputs, painted, tmp_path, monkeypatch):
    from afterimage.models.style import source

    monkeypatch.setattr(source, "NETS", tmp_path)
    with pytest.raises(UsageError, match="'paintings' is no style network; expected an embedded one"):
        paint(inputs, tmp_path / "out", None)
    with pytest.raises(UsageError, match="no network 'paintings'"):
        load_model("paintings")
    save_style_net(styled(), tmp_path / "paintings.safetensors")
    assert paint(inputs, tmp_path / "out", None, limit=2).statuses == {"ok": 2}
    found = pictures_of(tmp_path / "out")
    assert found == {name: pictures_of(painted)[name] for name in found}
    with pytest.raises(UsageError, match="nearest: paintings"):
        paint(inputs, tmp_path / "other", "painting")
    with pytest.raises(UsageError, match="paintings brings its own weights"):
        load_model("paintings", weights="none")


def test_the_page_shows_content_beside_painting(painted):
    text = (painted / "page/index.html").read_text()
    assert "../stylize/images/tree/wide.JPG" in text
    assert text.count("<article") == len(NAMES)
    assert text.count("data:image/jpeg") >= 2 * len(NAMES)
