"""Exported style networks: they paint as the network does, at any size; files that keep no contract are refused."""

import json
import os
import pickle

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from afterimage.errors import UsageError
from afterimage.models.network import digest
from afterimage.models.style import ExportError, StyleNet, export_style_net, read_style_onnx, save_style_net
from afterimage.models.style import export as exporting
from tests.networks import lively

STYLES = ("starry night", "scream", "mosaic")


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return lively(StyleNet(4, STYLES, {"steps": 3})).eval()


@pytest.fixture(scope="module")
def file(net, tmp_path_factory):
    path = tmp_path_factory.mktemp("nets") / "net.onnx"
    export_style_net(net, path)
    return path


@pytest.fixture
def broken(file, tmp_path):
    """Return a function that writes the file anew after an edit of its model, and returns the path."""

    def write(edit):
        model = onnx.load(file)
        edit(model)
        path = tmp_path / "broken.onnx"
        path.write_bytes(model.SerializeToString())
        return path

    return write


def painted(path, images, strength, shares):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    given = {"images": images, "strength": strength.numpy(), "style_weights": shares.numpy()}
    return session.run(["painted"], given)[0]


def noise(count, height, width):
    torch.manual_seed(height)
    images = torch.randint(256, (count, 3, height, width)) / 255
    return images, torch.tensor([0.6, 0.0, 1.0])[:count], torch.softmax(torch.randn(count, len(STYLES)), 1)


@pytest.mark.parametrize("shape", [(1, 16, 16), (2, 17, 33), (3, 18, 47), (3, 64, 48), (2, 255, 511)])
def test_the_file_paints_as_the_network_does(file, net, shape):
    images, strength, shares = noise(*shape)
    came = torch.from_numpy(painted(file, images.numpy(), strength, shares))
    expected = net.double()(images.double(), shares.double(), strength.double())
    net.float()
    assert ((expected > 0) & (expected < 1)).double().mean() > 0.2
    # some thousand products per sum and sixteen layers of float32: 1e-6 of the values each
    torch.testing.assert_close(came.double(), expected.detach(), atol=2e-5, rtol=0)
    assert torch.equal(came[1:2], images[1:2])


def test_eight_bits_are_the_rounded_picture(net, tmp_path):
    export_style_net(net, tmp_path / "bytes.onnx", pixels="uint8")
    images, strength, shares = noise(3, 33, 50)
    levels = (images * 255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()
    came = painted(tmp_path / "bytes.onnx", levels, strength, shares)
    with torch.no_grad():
        exact = (net(images, shares, strength) * 255).permute(0, 2, 3, 1).numpy()
    assert came.dtype == np.uint8
    # half a level of rounding, and of float32 what the test above allows
    assert np.abs(came - exact).max() <= 0.5 + 255 * 2e-5
    assert np.array_equal(came[1], levels[1])
    assert read_style_onnx(tmp_path / "bytes.onnx")[1].pixels == "uint8"


@pytest.mark.slow
@pytest.mark.parametrize("pixels", ["float32", "uint8"])
def test_a_large_picture_is_painted_as_the_network_does(net, tmp_path, pixels):
    export_style_net(net, tmp_path / "net.onnx", pixels=pixels)
    exporting.compare(net, tmp_path / "net.onnx", [(1, 1080, 1920)])


def test_the_file_is_read_back(file, net):
    read, facts = read_style_onnx(file)
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in read.state_dict().items())
    assert (read.styles, read.about, read.width, read.training) == (STYLES, {"steps": 3}, 4, False)
    assert (facts.styles, facts.about, facts.width, facts.pixels) == (STYLES, {"steps": 3}, 4, "float32")
    assert facts.digest == digest(net)
    assert (
        facts.versions["torch"] == torch.__version__.partition("+")[0] or facts.versions["torch"] == torch.__version__
    )


def test_the_file_stands_alone(file):
    model = onnx.load(file)
    assert [(one.domain, one.version) for one in model.opset_import] == [("", 18)]
    assert {node.domain for node in model.graph.node} == {""}
    assert os.listdir(file.parent) == ["net.onnx"]
    assert os.stat(file).st_mode & 0o444 == 0o444 & ~_mask()


def _mask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_a_file_that_paints_otherwise_is_not_kept(net, tmp_path, monkeypatch):
    def wrong(net, pixels):
        changed = StyleNet(net.width, net.styles)
        changed.load_state_dict(net.state_dict() | {"deconv3.conv2d.bias": torch.full((3,), 50.0)})
        return right(changed, pixels)

    right = exporting.style_model
    monkeypatch.setattr(exporting, "style_model", wrong)
    (tmp_path / "net.onnx").write_text("the former")
    with pytest.raises(ExportError, match="otherwise than its network"):
        export_style_net(net, tmp_path / "net.onnx")
    assert os.listdir(tmp_path) == ["net.onnx"]
    assert (tmp_path / "net.onnx").read_text() == "the former"


def test_what_cannot_be_exported_is_refused(tmp_path):
    net = StyleNet(4)
    with pytest.raises(UsageError, match="cannot write"):
        export_style_net(net, tmp_path / "absent" / "net.onnx")
    with torch.no_grad():
        net.res2.conv1.conv2d.bias[1] = torch.nan
    with pytest.raises(UsageError, match=r"res2\.conv1\.conv2d\.bias.*NaN"):
        export_style_net(net, tmp_path / "net.onnx")
    assert not os.listdir(tmp_path)


def refusal(path):
    with pytest.raises(UsageError) as caught:
        read_style_onnx(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_is_no_onnx_file_is_refused(file, tmp_path):
    assert "no file" in refusal(tmp_path / "absent.onnx")
    assert "no file" in refusal(tmp_path)
    path = tmp_path / "other.onnx"
    whole = file.read_bytes()
    for content in (
        b"",
        b"\0",
        os.urandom(1000),
        b"<html></html>",
        pickle.dumps({"a": [1, 2]}),
        pickle.dumps(np.ones(9)),
    ):
        path.write_bytes(content)
        assert "not an ONNX file" in refusal(path)
    save_style_net(StyleNet(4), path)
    assert "not an ONNX file" in refusal(path)
    for share in (0.1, 0.5, 0.9, 0.999):
        path.write_bytes(whole[: int(share * len(whole))])
        refusal(path)


@pytest.mark.parametrize("location", ["weights.bin", "../weights.bin", "/etc/hostname", "link.bin"])
def test_weights_outside_the_file_are_not_opened(broken, tmp_path, location):
    (tmp_path / "link.bin").symlink_to("/etc/hostname")

    def edit(model):
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)

    text = refusal(broken(edit))
    assert location in text
    assert "not opened" in text


def test_weights_outside_the_file_are_found_in_inner_graphs(broken):
    def edit(model):
        inner = TensorProto(name="hidden", data_location=TensorProto.EXTERNAL)
        inner.external_data.add(key="location", value="../secret")
        constant = helper.make_node("Constant", [], ["c"])
        constant.attribute.append(helper.make_attribute("value", inner))
        branch = helper.make_graph([constant], "branch", [], [helper.make_tensor_value_info("c", 1, [1])])
        model.graph.node.append(helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch))

    assert "'../secret'" in refusal(broken(edit))


def renamed(name, new):
    def edit(model):
        for value in (*model.graph.input, *model.graph.output):
            value.name = new if value.name == name else value.name
        for node in model.graph.node:
            for names in (node.input, node.output):
                names[:] = [new if one == name else one for one in names]

    return edit


def side(place, size):
    def edit(model):
        model.graph.input[0].type.tensor_type.shape.dim[place].dim_value = size

    return edit


def meta(name, value):
    def edit(model):
        for one in model.metadata_props:
            if one.key == f"afterimage.{name}":
                one.value = json.dumps(value)

    return edit


def without(name):
    def edit(model):
        kept = [one for one in model.metadata_props if one.key != f"afterimage.{name}"]
        del model.metadata_props[:]
        model.metadata_props.extend(kept)

    return edit


def weight(name, change):
    def edit(model):
        for tensor in model.graph.initializer:
            if tensor.name == name:
                tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor).copy()), name))

    return edit


def damaged(value):
    value.flat[0] = np.nan
    return value


def custom(model):
    model.graph.node[0].domain = "com.example"
    model.opset_import.add(domain="com.example", version=1)


def of_type(kind):
    def edit(model):
        model.graph.input[0].type.tensor_type.elem_type = kind

    return edit


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        (custom, "ONNX's own operators only, got com.example.Mul"),
        (lambda model: model.opset_import.add(domain="ai.onnx.ml", version=3), "the domain 'ai.onnx.ml'"),
        (lambda model: setattr(model.opset_import[0], "version", 99), "needs opset 99, newer than"),
        (renamed("images", "input1"), "expected inputs images, strength, style_weights and output painted, got input1"),
        (renamed("painted", "output"), "to output"),
        (side(2, 224), "takes images float32 any×3×224×any only: images would have to be resized to it"),
        (side(1, 1), "expected images float32 any×3×any×any, got images float32 any×1×any×any"),
        (of_type(TensorProto.DOUBLE), "expected images float32 any×3×any×any, got images double"),
        (lambda model: model.graph.input[0].type.tensor_type.shape.dim.pop(), "got images float32 any×3×any"),
        (weight("in2.bias", damaged), "'in2.bias' holds NaN"),
        (weight("in2.bias", lambda value: value + 1), "weights are not those that it names"),
        (weight("conv2.conv2d.weight", lambda value: value[:, :2]), "of another shape: conv2.conv2d.weight"),
        (lambda model: model.graph.initializer.pop(0), "1 missing"),
        (without("kind"), "no style network of afterimage"),
        (without("styles"), "without 'styles'"),
        (meta("width", 100_000), "of another shape"),
        (meta("width", "wide"), "damaged"),
        (meta("contract", 2), "newer than 1"),
        (meta("pixels", "float16"), "expected pixels of float32 or uint8"),
        (meta("styles", ["a", "a", "b"]), "different names"),
    ],
)
def test_files_that_keep_no_contract_are_refused(broken, edit, told):
    assert told in refusal(broken(edit))


@pytest.mark.parametrize("sides", [(1, 3, 224, 224), (1, 3, "h", "w")])
def test_networks_of_others_are_refused_with_what_they_take(tmp_path, sides):
    value = helper.make_tensor_value_info
    inputs, outputs = [value("input1", 1, sides)], [value("output1", 1, sides)]
    graph = helper.make_graph([helper.make_node("Relu", ["input1"], ["output1"])], "candy", inputs, outputs)
    (tmp_path / "candy.onnx").write_bytes(helper.make_model(graph).SerializeToString())
    text = refusal(tmp_path / "candy.onnx")
    assert "it takes input1 float32 1×3×" in text
    assert "afterimage style-export" in text
    assert ("resized to its fixed 224×224" in text) == (sides[2] == 224)
