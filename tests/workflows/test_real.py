"""The methods with a real ImageNet network over real photographs, from files to rows."""

import numpy as np
import pytest
import torch
from PIL import Image

from afterimage.drawing import smoothed
from afterimage.workflows import run, serial, verify
from afterimage.workflows.rows import heatmap_of
from tests.workflows.test_run import rows_of

EXPECTED = {
    "chelsea.png": "Egyptian cat",
    "coffee.png": "espresso",
    "camera.png": "tripod",
    "motorcycle.png": "moped",
    "rocket.png": "missile",
    "tubingen.png": "castle",
}
# Where the cup with coffee and spoon and the camera on its tripod are in the 224 × 224 crop: rows and
# columns, read off the pictures by eye.
OBJECTS = {
    "coffee.png": (range(0, 160), range(25, 190)),
    "camera.png": (range(40, 224), range(90, 180)),
}


@pytest.fixture(scope="module")
def results(shared, tmp_path_factory):
    data = pytest.importorskip("skimage.data")
    weights = shared("models") / "squeezenet1_0.safetensors"
    folder, out = tmp_path_factory.mktemp("photographs"), tmp_path_factory.mktemp("results") / "out"
    pictures = {name: getattr(data, name)() for name in ("chelsea", "coffee", "camera", "rocket")}
    pictures["motorcycle"] = data.stereo_motorcycle()[0]
    pictures["tubingen"] = np.asarray(Image.open(shared("images") / "tubingen.jpg"))
    for name, pixels in pictures.items():
        Image.fromarray(pixels).save(folder / f"{name}.png")
    for verb in ("saliency", "guided-backprop"):
        run(verb, folder, out, model="squeezenet1_0", weights=str(weights), executor=serial)
    return out


@pytest.mark.parametrize("job", ["saliency", "guided-backprop"])
def test_the_network_sees_what_is_there(results, job):
    assert {row["key"]: row["prediction"] for row in rows_of(results, job)} == EXPECTED
    assert not verify(results)


@pytest.mark.parametrize(("job", "column"), [("saliency", "heatmap"), ("guided-backprop", "gradient")])
def test_the_evidence_lies_on_the_object(results, job, column):
    rows = {row["key"]: np.abs(heatmap_of(row, column)).max(0) for row in rows_of(results, job)}
    for key, (ys, xs) in OBJECTS.items():
        grid = smoothed(torch.from_numpy(rows[key])[None, None])[0, 0]
        y, x = divmod(int(grid.argmax()), grid.shape[1])
        step = 224 / len(grid)
        assert (int(y * step) in ys, int(x * step) in xs) == (True, True), key


# Chelsea's face from the eyes down, in the same crop.
MUZZLE = (range(90, 224), range(45, 180))


@pytest.mark.slow
def test_occlusion_falls_on_the_object(shared, tmp_path):
    data = pytest.importorskip("skimage.data")
    for name in ("chelsea", "coffee", "camera"):
        (tmp_path / "in").mkdir(exist_ok=True)
        Image.fromarray(getattr(data, name)()).save(tmp_path / "in" / f"{name}.png")
    weights = shared("models") / "squeezenet1_0.safetensors"
    run("occlusion", tmp_path / "in", tmp_path / "out", model="squeezenet1_0", weights=str(weights), executor=serial)
    for row in rows_of(tmp_path / "out", "occlusion"):
        ys, xs = (OBJECTS | {"chelsea.png": MUZZLE})[row["key"]]
        y, x = divmod(int(heatmap_of(row, "heatmap")[0].argmax()), 224)
        assert row["prediction"] == EXPECTED[row["key"]]
        assert (y in ys, x in xs) == (True, True), row["key"]
        assert row["worst_fall"] > 0
        assert row["worst_probability"] < row["target_probability"]
        top = row["worst_box_y0"], row["worst_box_x0"]
        assert (top[0] + 16 in ys, top[1] + 16 in xs) == (True, True), row["key"]


def test_guided_backprop_is_sharper_than_the_gradient(results):
    """The few strongest pixels of guided backprop hold more of it than those of saliency: fine lines, not noise."""

    def concentration(job, column):
        strengths = [np.sort(np.abs(heatmap_of(row, column)).max(0).ravel()) for row in rows_of(results, job)]
        return np.mean([strength[-2500:].sum() / strength.sum() for strength in strengths])

    assert concentration("guided-backprop", "gradient") > 1.2 * concentration("saliency", "heatmap")
