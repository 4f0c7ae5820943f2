"""`style-export`: an ONNX file, or a model repository that Triton serves."""

import numpy as np
import onnxruntime
import pytest
import torch

from afterimage.errors import UsageError
from afterimage.models.style import StyleNet, load_style_net, save_style_net
from afterimage.workflows.style_exporting import style_export


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("nets") / "two.safetensors"
    save_style_net(StyleNet(4, ("a", "b")), path)
    return path


def computed(path, images):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    count = len(images)
    weights = np.tile(np.float32([0.25, 0.75]), (count, 1))
    given = {"images": images, "strength": np.ones(count, np.float32), "style_weights": weights}
    return session.run(["painted"], given)[0]


def test_a_file_is_written_that_computes_what_the_network_does(net, tmp_path):
    path = style_export(net, tmp_path / "new" / "net.onnx")
    images = torch.rand(1, 3, 19, 30)
    expected = load_style_net(net)(images, torch.tensor([[0.25, 0.75]])).detach()
    # float32 in another order of sums
    np.testing.assert_allclose(computed(path, images.numpy()), expected, atol=1e-4)
    assert [one.name for one in path.parent.iterdir()] == ["net.onnx"]


def test_a_repository_for_triton_gains_versions_and_never_changes_one(net, tmp_path):
    first = style_export(net, tmp_path, layout="triton", pixels="uint8")
    before = first.read_bytes()
    second = style_export(net, tmp_path, layout="triton", pixels="uint8")
    assert [first, second] == [tmp_path / "two" / version / "model.onnx" for version in "12"]
    assert first.read_bytes() == before
    assert sorted(one.name for one in (tmp_path / "two").iterdir()) == ["1", "2", "config.pbtxt"]
    config = (tmp_path / "two" / "config.pbtxt").read_text()
    session = onnxruntime.InferenceSession(second, providers=["CPUExecutionProvider"])
    types = {"tensor(uint8)": "TYPE_UINT8", "tensor(float)": "TYPE_FP32"}
    for one in (*session.get_inputs(), *session.get_outputs()):
        # behind the batch, sizes that are not fixed are -1; a number for each picture is a 1 to Triton
        sizes = ", ".join(str(size) if isinstance(size, int) else "-1" for size in one.shape[1:]) or "1"
        assert f'{{ name: "{one.name}", data_type: {types[one.type]}, dims: [ {sizes} ]' in config
    assert computed(second, np.zeros((2, 16, 20, 3), np.uint8)).shape == (2, 16, 20, 3)


def test_what_does_not_fit_is_refused_in_a_line(net, tmp_path):
    with pytest.raises(UsageError, match=r"ends in \.onnx"):
        style_export(net, tmp_path / "net.pb")
    with pytest.raises(UsageError, match=r"ends in \.safetensors"):
        style_export(tmp_path / "net.onnx", tmp_path / "other.onnx")
    style_export(net, tmp_path / "repository", layout="triton")
    with pytest.raises(UsageError, match="another network or other pixels"):
        style_export(net, tmp_path / "repository", layout="triton", pixels="uint8")
    (tmp_path / "file").touch()
    with pytest.raises(UsageError, match="is a file"):
        style_export(net, tmp_path / "file", layout="triton")
