"""Vectors and peaks over data sets, and several methods from one pass over the images."""

import json
import re

import numpy as np
import pyarrow as pa
import pytest
import torch

from afterimage import UsageError, load_model
from afterimage.methods.embedding import Embedding
from afterimage.methods.patches import Patches
from afterimage.workflows import neurons, run, verify
from afterimage.workflows.beside import beside
from afterimage.workflows.pages.neurons import cut, region
from afterimage.workflows.shards import committed, read_shard
from afterimage.workflows.strongest import strongest
from afterimage.workflows.vectors import open_vectors
from tests.networks import mixed
from tests.workflows.fixtures import write_faulty
from tests.workflows.test_run import as_image, files_of, local, rows_of, write_photographs

GIVEN = {"batch_size": 4, "shard_size": 4}
LAYER = "convolutions.4"


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    return write_photographs(tmp_path_factory.mktemp("photographs"), 11, (32, 32))


@pytest.fixture(scope="module")
def module():
    return load_model(mixed(), crop=32, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25), categories=list("abcde"))


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("float16", 1e-3)])
def test_vectors_are_stored_as_the_method_gives_them(inputs, module, tmp_path, dtype, tolerance):
    local("embed", inputs, tmp_path, model=module, dtype=dtype, **GIVEN)
    vectors = open_vectors(tmp_path)
    keys, values = vectors.load()
    assert (values.shape, values.dtype) == ((11, 6), dtype)
    for key, value in zip(keys, values, strict=True):
        expected = Embedding()(module, as_image(inputs / key))[0].numpy()
        np.testing.assert_allclose(value, expected, rtol=tolerance, atol=tolerance)
    row = rows_of(tmp_path, "embed")[0]
    assert row["prediction"] in "abcde"
    assert row["target"] is None
    assert row["thumbnail"]["bytes"]
    assert not {"drawing", "overlay"} & set(row)


@pytest.mark.parametrize(("verb", "layer"), [("embed", "input:head"), ("activations", "relu")])
def test_the_layer_that_nobody_named_is_recorded(inputs, module, tmp_path, verb, layer):
    local(verb, inputs, tmp_path, model=module, **GIVEN)
    assert json.loads((tmp_path / verb / "run.json").read_text())["config"]["options"]["layer"] == layer
    assert local(verb, inputs, tmp_path, model=module, **GIVEN).computed == 0


def test_inputs_that_failed_have_no_vector(module, tmp_path):
    write_faulty(tmp_path / "inputs")
    local("embed", tmp_path / "inputs", tmp_path / "out", model=module, keep="none")
    vectors = open_vectors(tmp_path / "out")
    assert len(vectors) + sum(vectors.left_out.values()) == len(rows_of(tmp_path / "out", "embed"))
    assert vectors.left_out
    assert all((row["embedding"] is None) == (row["status"] != "ok") for row in rows_of(tmp_path / "out", "embed"))


def test_several_methods_share_their_passes_and_give_what_they_give_alone(inputs, module, tmp_path):
    verbs = {"saliency": {}, "embed": {}, "patches": {"layer": LAYER, "top": 3}}
    for verb, options in verbs.items():
        local(verb, inputs, tmp_path / verb, model=module, **GIVEN, **options)
    calls = []
    hook = module.register_forward_hook(lambda *_: calls.append(1))
    try:
        also = f"saliency,patches:layer={LAYER},top=3"
        local("embed", inputs, tmp_path / "all", model=module, also=also, keep="all", **GIVEN)
    finally:
        hook.remove()
    for verb in verbs:
        together, alone = files_of(tmp_path / "all", verb), files_of(tmp_path / verb, verb)
        assert together == alone, verb
    assert verify(tmp_path / "all") == []


def test_the_network_is_called_once_a_batch_for_all(inputs, module, tmp_path, monkeypatch):
    network = load_model(mixed(), crop=32, mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    calls = []
    monkeypatch.setattr("afterimage.workflows.task.prepared", lambda *_: network)
    network.register_forward_hook(lambda *_: calls.append(1))
    local("embed", inputs, tmp_path, model=module, also="saliency,patches", **GIVEN)
    assert len(calls) == 3  # eleven pictures in batches of four


def test_what_is_done_already_is_not_done_again(inputs, module, tmp_path):
    local("embed", inputs, tmp_path, model=module, **GIVEN)
    before = files_of(tmp_path, "embed")
    summary = local("embed", inputs, tmp_path, model=module, also=["patches"], **GIVEN)
    assert summary.computed == 11
    assert files_of(tmp_path, "embed") == before
    assert len(files_of(tmp_path, "patches")) == 3


def test_the_drawing_of_neurons_tells_how_far_it_is(inputs, module, tmp_path, capsys):
    local("patches", inputs, tmp_path, model=module, layer=LAYER, limit=2, progress=True, **GIVEN)
    assert re.search(r"^(\d+) of \1 neurons$", capsys.readouterr().err, re.MULTILINE)


def test_dask_gives_the_same_bytes(inputs, module, tmp_path):
    local("embed", inputs, tmp_path / "plain", model=module, also="patches", **GIVEN)
    run("embed", inputs, tmp_path / "dask", model=module, also="patches", workers=1, **GIVEN)
    for verb in ("embed", "patches"):
        assert files_of(tmp_path / "plain", verb) == files_of(tmp_path / "dask", verb)


def expected_top(inputs, module, top):
    peaks = {
        path.name: Patches(layer=LAYER)(module, as_image(path))[0].numpy() for path in sorted(inputs.glob("*.png"))
    }
    found = []
    for channel in range(6):
        order = sorted(peaks, key=lambda key: (-peaks[key][channel, 0], key))
        found += [(channel, rank, key, *map(int, peaks[key][channel, 1:])) for rank, key in enumerate(order[:top])]
    return found


def top_of(out):
    rows = strongest(out / "patches", 3).to_pylist()
    return [(row["channel"], row["rank"], row["key"], row["y"], row["x"]) for row in rows]


def test_the_top_does_not_depend_on_shards_and_grows_without_a_rescan(inputs, module, tmp_path):
    given = {"model": module, "layer": LAYER, "top": 3, "batch_size": 4}
    expected = expected_top(inputs, module, 3)
    for size in (1, 4, 11):
        local("patches", inputs, tmp_path / f"{size}", shard_size=size, **given)
        assert top_of(tmp_path / f"{size}") == expected
    local("patches", inputs, tmp_path / "grown", limit=6, shard_size=3, **given)
    before = files_of(tmp_path / "grown", "patches")
    local("patches", inputs, tmp_path / "grown", mode="extend", shard_size=3, **given)
    after = files_of(tmp_path / "grown", "patches")
    assert {name: after[name] for name in before} == before
    assert top_of(tmp_path / "grown") == expected


def test_the_top_is_right_after_a_retry(inputs, module, tmp_path):
    import shutil

    folder = tmp_path / "inputs"
    shutil.copytree(inputs, folder)
    good = (folder / "03.png").read_bytes()
    (folder / "03.png").write_bytes(b"")
    given = {"model": module, "layer": LAYER, "top": 3, **GIVEN}
    local("patches", folder, tmp_path / "out", **given)
    assert "03.png" not in {key for _, _, key, _, _ in top_of(tmp_path / "out")}
    (folder / "03.png").write_bytes(good)
    local("patches", folder, tmp_path / "out", retry_failed=True, **given)
    assert top_of(tmp_path / "out") == expected_top(inputs, module, 3)


def test_rows_hold_no_more_than_the_shards_top(inputs, module, tmp_path):
    local("patches", inputs, tmp_path, model=module, layer=LAYER, top=2, **GIVEN)
    folder = tmp_path / "patches" / "shards"
    for commit in committed(folder).values():
        lists = read_shard(folder, commit)["peaks"].to_pylist()
        channels = [peak["channel"] for one in lists for peak in one]
        assert {channel: channels.count(channel) for channel in set(channels)} == dict.fromkeys(range(6), 2)


def test_neurons_are_drawn_with_what_they_see(inputs, module, tmp_path):
    local("patches", inputs, tmp_path, model=module, layer=LAYER, top=3, **GIVEN)
    found = neurons(tmp_path, model=module, channels="1,3-4")
    page = found.page.read_text()
    assert [f'id="n{channel}"' in page for channel in range(6)] == [False, True, False, True, True, False]
    assert page.count("guided backprop of it") == 9
    assert "A neuron sees 11 × 11 pixels" in page
    table = found.derived.table()
    assert len(table) == 18
    row = table.to_pylist()[0]
    assert (row["patch_x1"] - row["patch_x0"], row["patch_y0"] + 5) == (11, row["y"])
    assert found.derived.outdated == []
    for bad, message in [("7", "channels: expected 0 to 5, got 7"), ("a", "channels: expected numbers and ranges")]:
        with pytest.raises(UsageError, match=message):
            neurons(tmp_path, model=module, channels=bad)
    with pytest.raises(UsageError, match="no patches in 'other'"):
        neurons(tmp_path, patches="other")


def test_a_neuron_that_sees_everything_is_shown_with_its_region(inputs, module, tmp_path):
    local("patches", inputs, tmp_path, model=module, layer="head", top=2, **GIVEN)
    assert "the frame leaves out a twentieth" in (tmp_path / "neurons" / "index.html").read_text()


def test_the_region_leaves_out_a_twentieth_at_each_side():
    gradient = np.zeros((3, 10, 20), np.float32)
    gradient[1, 2:7, 4:14] = -1.0
    gradient[0, 0, 0] = gradient[2, 9, 19] = 0.5  # 1 % each
    assert region(gradient) == (4, 2, 14, 7)
    assert region(np.zeros((3, 4, 4), np.float32)) is None


def test_a_patch_is_cut_with_grey_beyond_the_picture():
    picture = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
    found = cut(picture, (-1, 2, 2, 6), 128)
    assert found.shape == (4, 3, 3)
    assert np.array_equal(found[:2, 1:], picture[2:4, :2])
    assert (found[2:] == 128).all()
    assert (found[:, 0] == 128).all()
    assert np.array_equal(cut(picture, (-9, -9, 20, 20), 128), picture)  # who sees everything is shown the picture


def test_neurons_are_drawn_again_only_where_something_was_added(inputs, module, tmp_path):
    local("patches", inputs, tmp_path, model=module, layer=LAYER, top=3, **GIVEN)
    page = neurons(tmp_path, model=module, channels="4").page
    before = page.read_text()
    local("patches", inputs, tmp_path, model=module, layer=LAYER, top=3, **GIVEN)
    assert page.read_text() == before


def test_patches_need_pictures_of_one_size(inputs, module, tmp_path):
    with pytest.raises(UsageError, match="patches cuts by one receptive field, which needs pictures of one size"):
        local("patches", inputs, tmp_path, model=module, layer=LAYER, fit="none")


def test_methods_beside_are_read_from_text():
    found = beside(["saliency,patches:layer=layer4.1,top=5", "embed:pool=max"], {"batch_size": 8, "keep": "heatmap"})
    assert [one.verb for one, _ in found] == ["saliency", "patches", "embed"]
    assert [(asked.settings.batch_size, asked.settings.keep) for _, asked in found] == [
        (8, "heatmap"),
        (8, "none"),
        (8, "none"),
    ]
    assert [asked.options for _, asked in found] == [{}, {"layer": "layer4.1", "top": 5}, {"pool": "max"}]
    assert beside(None, {}) == []


@pytest.mark.parametrize(
    ("also", "message"),
    [
        ("salience", "no method 'salience'"),
        ("saliency,saliency", "each method once, got saliency twice"),
        ("top=3", r"expected VERB\[:OPTION=VALUE"),
        ("patches:top", r"expected VERB\[:OPTION=VALUE"),
        ("patches:size=3,tap=4", "patches has no option 'tap'"),
    ],
)
def test_what_cannot_be_read_is_refused(also, message):
    with pytest.raises(UsageError, match=message):
        beside(also, {})


def test_what_cannot_share_a_pass_is_refused(inputs, module, tmp_path):
    for also, message in [
        ("deep-dream", "embed and deep-dream cannot share a forward pass"),
        ("embed", "expected each method once"),
        ("patches:layer=nothing", "no layer 'nothing'"),
    ]:
        with pytest.raises(UsageError, match=message):
            local("embed", inputs, tmp_path, model=module, also=also)
    assert not (tmp_path / "embed").exists()


def test_a_flattened_layer_needs_pictures_of_one_size(inputs, module, tmp_path):
    with pytest.raises(UsageError, match="flattened maps of pictures of several sizes differ in length"):
        local("embed", inputs, tmp_path, model=module, layer=LAYER, pool="flatten", fit="none")


def test_numbers_beyond_float16_fail_their_row(tmp_path):
    inputs = write_photographs(tmp_path / "inputs", 2, (32, 32))
    network = mixed()
    with torch.no_grad():
        network.convolutions[4].weight *= 1e9
    local("embed", inputs, tmp_path / "out", model=load_model(network, crop=32, mean=(0,) * 3, std=(1,) * 3),
          layer=LAYER, pool="max", dtype="float16")  # fmt: skip
    assert {row["status"] for row in rows_of(tmp_path / "out", "embed")} == {"nonfinite"}
    folder = tmp_path / "out" / "embed" / "shards"
    assert read_shard(folder, committed(folder)[0]).schema.field("embedding").type == pa.list_(pa.float16(), 6)
