import json
import pickle
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torch import nn
from torchvision import models

from afterimage import UsageError, load_model
from afterimage.models import demo
from afterimage.models.layers import activations, named
from afterimage.models.network import unique
from afterimage.models.sources import torchvision_names, torchvision_preset
from afterimage.models.zoo import Network, Preset, class_index, digest, pending_download

CUSTOM = {"crop": 32, "mean": (0.1, 0.2, 0.3), "std": (0.5, 0.6, 0.7)}


class Tiny(nn.Module):
    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(inplace=True))
        self.head = nn.Linear(6, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(images).mean((2, 3)))


@pytest.fixture
def squeezenet_file(shared: Callable[[str], Path]) -> Path:
    return shared("models") / "squeezenet1_0.safetensors"


@pytest.fixture
def squeezenet_state() -> dict[str, torch.Tensor]:
    return models.squeezenet1_1(weights=None).state_dict()


def test_logits_are_those_of_torchvision_with_its_own_transforms(squeezenet_file: Path) -> None:
    from safetensors.torch import load_file
    from skimage.data import chelsea

    model = load_model("squeezenet1_0", weights=squeezenet_file)
    transforms = models.SqueezeNet1_0_Weights.DEFAULT.transforms()
    reference = models.squeezenet1_0(weights=None)
    reference.load_state_dict(load_file(squeezenet_file))
    image = torch.from_numpy(chelsea()).permute(2, 0, 1)[None]
    resized = torchvision.transforms.functional.resize(image, [model.preset.resize], antialias=True)
    cropped = torchvision.transforms.functional.center_crop(resized, list(model.preset.size)) / 255
    with torch.no_grad():
        logits, expected = model(cropped), reference.eval()(transforms(image))
    assert torch.equal(logits, expected)
    assert model.categories is not None
    assert model.categories[logits.argmax()] == "Egyptian cat"
    assert float(logits.softmax(1).max()) == pytest.approx(0.71, abs=0.005)  # as published to two digits


@pytest.mark.parametrize("name", torchvision_names())
def test_preset_of_every_torchvision_network(name: str) -> None:
    transforms = models.get_model_weights(name).DEFAULT.transforms()
    preset = torchvision_preset(name)
    assert preset.size == (transforms.crop_size[0],) * 2
    assert (preset.resize, preset.mean) == (transforms.resize_size[0], tuple(transforms.mean))
    assert preset == Preset(**{k: tuple(v) if isinstance(v, list) else v for k, v in _json(preset).items()})


def _json(preset: Preset) -> dict[str, object]:
    return json.loads(json.dumps(asdict(preset)))


def test_pending_download_ends_when_the_file_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    pending = pending_download("resnet18")
    assert pending is not None
    url, size = pending
    assert url == "https://download.pytorch.org/models/resnet18-f37072fd.pth"
    assert 44e6 < size < 48e6  # 11.7 million float32
    assert pending_download("resnet18", "none") is None
    assert pending_download("demo") is None
    file = tmp_path / "hub" / "checkpoints" / "resnet18-f37072fd.pth"
    file.parent.mkdir(parents=True)
    torch.save(models.resnet18(weights=None).state_dict(), file)
    assert pending_download("resnet18") is None
    assert load_model("resnet18").name == "resnet18"  # the cached file, without a download


def test_a_failed_download_names_the_ways_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*args: object, **kwargs: object) -> None:
        raise OSError("Network is unreachable")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    with pytest.raises(UsageError, match=r"Network is unreachable.*--weights FILE.*--model demo") as error:
        load_model("resnet18")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
@pytest.mark.parametrize("heads", [True, False])
def test_auxiliary_heads_in_a_local_file_are_left_out(name: str, heads: bool, tmp_path: Path) -> None:
    network = models.get_model(name, weights=None, aux_logits=heads, init_weights=False, transform_input=True).eval()
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    model = load_model(name, weights=tmp_path / "weights.pt")
    assert not any("aux" in layer.lower() for layer in named(model))
    images = torch.rand(1, 3, 96, 96)
    with torch.no_grad():
        assert torch.equal(model(images), network(model.normalize(images)))


@pytest.mark.parametrize("name", ["squeezenet1_1", "mobilenet_v3_small", "shufflenet_v2_x0_5"])
def test_number_of_classes_comes_from_the_file(name: str, tmp_path: Path) -> None:
    network = models.get_model(name, weights=None, num_classes=7)
    torch.save({"state_dict": {f"module.{k}": v for k, v in network.state_dict().items()}}, tmp_path / "w.pth")
    before = torch.random.get_rng_state()
    model = load_model(name, weights=tmp_path / "w.pth", categories=list("abcdefg"))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert model.categories == tuple("abcdefg")
    assert model(torch.rand(2, 3, 64, 64)).shape == (2, 7)
    assert load_model(name, weights=tmp_path / "w.pth").categories is None
    with pytest.raises(UsageError, match="expected 7 names"):
        load_model(name, weights=tmp_path / "w.pth", categories=["a"])


def test_unknown_network_names_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"no network 'resnet5'; nearest: resnet50"):
        load_model("resnet5")
    with pytest.raises(UsageError, match=r"file of weights.*--weights w\.safetensors"):
        load_model("w.safetensors")


def test_weights_that_do_not_fit_name_the_keys(squeezenet_state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    state = squeezenet_state
    state["extra.weight"] = state.pop("features.0.weight")
    state["features.3.squeeze.bias"] = torch.zeros(3)
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(UsageError, match=r"features\.0\.weight.*extra\.weight.*squeeze\.bias \(3,\) for \(16,\)"):
        load_model("squeezenet1_1", weights=tmp_path / "w.safetensors")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nonfinite_weights_name_the_tensor(
    squeezenet_state: dict[str, torch.Tensor], value: float, tmp_path: Path
) -> None:
    squeezenet_state["features.0.bias"][3] = value
    torch.save(squeezenet_state, tmp_path / "w.pt")
    with pytest.raises(UsageError, match=r"'features\.0\.bias' holds NaN or infinite"):
        load_model("squeezenet1_1", weights=tmp_path / "w.pt")


class Bomb:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.target,))


@pytest.mark.parametrize("save", [lambda bomb, path: path.write_bytes(pickle.dumps(bomb, 2)), torch.save])
def test_a_pickle_bomb_is_not_executed(save: Callable[[object, Path], None], tmp_path: Path) -> None:
    save({"state_dict": Bomb(tmp_path / "exploded")}, tmp_path / "w.pt")
    with pytest.raises(UsageError, match=r"was not unpickled: save model\.state_dict\(\)"):
        load_model("squeezenet1_1", weights=tmp_path / "w.pt")
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize(
    "content",
    [b"", b"x", b"\xff" * 64, (2**40).to_bytes(8, "little") + b"{}", (8).to_bytes(8, "little") + b"not json"],
)
@pytest.mark.parametrize("name", ["w.safetensors", "w.pt"])
def test_a_damaged_file_is_a_usage_error_with_its_cause(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError) as error:
        load_model("squeezenet1_1", weights=tmp_path / name)
    assert error.value.__cause__ is not None
    assert "\n" not in str(error.value)


def test_overlapping_offsets_are_refused(tmp_path: Path) -> None:
    entry = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}
    header = json.dumps({"a": entry, "b": entry}).encode()
    (tmp_path / "w.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(8))
    with pytest.raises(UsageError, match="not a valid safetensors file"):
        load_model("squeezenet1_1", weights=tmp_path / "w.safetensors")


def test_missing_files_are_usage_errors(tmp_path: Path) -> None:
    for weights in (tmp_path / "absent.pt", tmp_path):
        with pytest.raises(UsageError, match="no weights file"):
            load_model("squeezenet1_1", weights=weights)
    with pytest.raises(UsageError, match="no exported program"):
        load_model(str(tmp_path / "absent.pt2"))


def test_function_of_a_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = "from torch import nn\ndef build():\n    return nn.Sequential(nn.Flatten(), nn.Linear(12, 2))\nother = 3\n"
    (tmp_path / "afterimage_test_nets.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "afterimage_test_nets", raising=False)
    model = load_model("afterimage_test_nets:build", crop=2, mean=(0, 0, 0), std=(1, 1, 1))
    assert model.source is not None
    assert len(model.source) == 64
    assert not model.network.training
    with pytest.raises(UsageError, match=r"no function 'bild'.*nearest: build"):
        load_model("afterimage_test_nets:bild")
    with pytest.raises(UsageError, match="no function 'other'"):
        load_model("afterimage_test_nets:other")
    with pytest.raises(UsageError, match=r"has to return a torch\.nn\.Module, returned dict"):
        load_model("builtins:dict")
    with pytest.raises(UsageError, match=r"no module 'absent_package\.nets'"):
        load_model("absent_package.nets:build")


def test_a_module_from_python_is_used_as_it_is() -> None:
    network = Tiny().train()
    model = load_model(network, categories=["a", "b", "c", "d"], **CUSTOM)
    assert model.network is network
    assert network.training
    assert all(parameter.requires_grad for parameter in network.parameters())
    images = torch.rand(2, 3, 32, 32)
    mean, std = (torch.tensor(CUSTOM[key])[:, None, None] for key in ("mean", "std"))
    network.eval()
    assert torch.equal(model(images), network((images - mean) / std))
    assert model.preset == Preset((32, 32), 32, CUSTOM["mean"], CUSTOM["std"])
    with pytest.raises(UsageError, match="brings its own weights"):
        load_model(network, weights="w.pt", **CUSTOM)
    with pytest.raises(UsageError, match=r"Tiny does not say.*--crop --mean --std"):
        load_model(network)


def test_normalization_is_float32_before_the_weights_dtype() -> None:
    network = nn.Identity()
    network.register_parameter("weight", nn.Parameter(torch.ones(1, dtype=torch.bfloat16)))
    model = Network(network, Preset((4, 4), 4, (0.48, 0.45, 0.4), (0.2, 0.2, 0.2)))
    images = torch.rand(1, 3, 4, 4)
    expected = ((images - torch.tensor([0.48, 0.45, 0.4])[:, None, None]) / 0.2).bfloat16()
    assert torch.equal(model(images), expected)
    assert model.double()(images.double()).dtype == torch.float64
    for wrong in (torch.rand(3, 4, 4), torch.rand(1, 1, 4, 4), torch.zeros(1, 3, 4, 4, dtype=torch.uint8)):
        with pytest.raises(UsageError, match="expected floating-point"):
            model(wrong)


def test_geometry_options() -> None:
    model = load_model("resnet18", weights=None)
    assert (model.preset.resize, model.preset.size) == (256, (224, 224))
    assert load_model(model, crop=448).preset.resize == 512
    assert load_model(model, crop=(100, 448), size=120).preset == Preset(
        (100, 448), 120, model.preset.mean, model.preset.std
    )
    assert load_model(model, mean=(0.5, 0.5, 0.5)).preset.std == model.preset.std
    for wrong in (
        {"size": 100}, {"size": "256"}, {"mean": (0.5,)}, {"mean": 0.5}, {"mean": "abc"}, {"mean": (0, 0, None)},
        {"std": (0, 1, 1)}, {"std": (1, float("nan"), 1)}, {"crop": 0}, {"crop": (3,)}, {"crop": (2.5, 2)},
        {"crop": "9"},
    ):  # fmt: skip
        with pytest.raises(UsageError, match="expected"):
            load_model(model, **wrong)


def test_categories_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "names.txt").write_text("ant\nbee\n caf\u00e9 \ndog\n\n", encoding="utf-8")
    assert load_model(Tiny(), categories=tmp_path / "names.txt", **CUSTOM).categories == ("ant", "bee", "café", "dog")
    (tmp_path / "gap.txt").write_text("ant\n\nbee\n")
    with pytest.raises(UsageError, match="line 2"):
        load_model(Tiny(), categories=tmp_path / "gap.txt", **CUSTOM)
    with pytest.raises(UsageError, match="cannot read"):
        load_model(Tiny(), categories=tmp_path / "absent.txt", **CUSTOM)


def test_class_index() -> None:
    names = unique(["tench", "crane", "Egyptian cat", "crane", "T-shirt", "12"])
    assert names == ("tench", "crane", "Egyptian cat", "crane (3)", "T-shirt", "12")
    for query, index in {"egyptian_cat": 2, "crane": 1, "CRANE (3)": 3, "t shirt": 4, "12": 5, "2": 2}.items():
        assert class_index(names, query) == index
    assert class_index(names, 0) == 0
    assert class_index(None, "7") == 7
    with pytest.raises(UsageError, match="no class 'egiptian cat' among the network's 6; nearest: Egyptian cat"):
        class_index(names, "egiptian cat")
    with pytest.raises(UsageError, match="no class '--3'"):
        class_index(names, "--3")
    for wrong in (6, -1, "13"):
        with pytest.raises(UsageError, match="expected 0 to 5"):
            class_index(names, wrong)
    with pytest.raises(UsageError, match="no category names"):
        class_index(nn.Identity(), "cat")


def test_categories_of_torchvision_are_unique() -> None:
    for name in ("resnet50", "vit_b_16"):
        categories = unique(models.get_model_weights(name).DEFAULT.meta["categories"])
        assert [class_index(categories, category) for category in categories] == list(range(1000))


def test_digest_changes_with_what_changes_the_result() -> None:
    torch.manual_seed(0)
    network = Tiny()
    model = load_model(network, **CUSTOM)
    first = digest(model)
    assert first == digest(load_model(network, **CUSTOM))
    assert first != digest(load_model(network, **{**CUSTOM, "mean": (0.1, 0.2, 0.31)}))
    assert digest(network) == digest(network.train())
    network.body[1].running_mean[2] += 1e-6
    changed = digest(model)
    assert changed != first
    network.body[2] = nn.ReLU6()
    assert digest(model) not in (first, changed)
    assert digest(network) != digest(network.half())


def test_digest_sees_settings_that_are_no_weights() -> None:
    assert digest(nn.Threshold(0, 0)) != digest(nn.Threshold(1, 3))
    assert digest(nn.MaxPool2d(2)) != digest(nn.MaxPool2d(2, stride=1))


@pytest.mark.parametrize(
    ("content", "came"),
    [
        ({}, "an empty one"),
        ({"model": {"a": torch.ones(1)}, "epoch": 3}, r"a mapping with 'model' \(dict\), 'epoch' \(int\)"),
    ],
)
def test_other_mappings_are_described(content: object, came: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(UsageError, match=f"expected a state dict of tensors, got {came}"):
        load_model("demo", weights=tmp_path / "a.pt")


def _export(path: Path, dynamic: bool) -> Tiny:
    network = Tiny().eval()
    shapes = ({0: torch.export.Dim("batch")},) if dynamic else None
    torch.export.save(torch.export.export(network, (torch.rand(2, 3, 32, 32),), dynamic_shapes=shapes), path)
    return network


def test_exported_program_keeps_names_and_hooks(tmp_path: Path) -> None:
    network = _export(tmp_path / "tiny.pt2", dynamic=True)
    options = {key: CUSTOM[key] for key in ("mean", "std")}
    model = load_model(str(tmp_path / "tiny.pt2"), **options)
    assert (model.name, model.preset.size) == ("tiny", (32, 32))
    assert set(named(load_model(network, **CUSTOM))) == set(named(model))
    images = torch.rand(5, 3, 32, 32)
    torch.testing.assert_close(model(images), network(model.normalize(images)), rtol=0, atol=1e-6)
    found = activations(model, images, ["body.0", "body"])
    expected = activations(network, model.normalize(images), ["body.0", "body"])
    for name in expected:  # one float32 convolution, whichever way it is called
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-6)
    with pytest.raises(UsageError, match="expected 4 names"):
        load_model(str(tmp_path / "tiny.pt2"), categories=["a"], **options)
    with pytest.raises(UsageError, match=r"exported for images \('any', 3, 32, 32\), got \(1, 3, 16, 16\)"):
        model(torch.rand(1, 3, 16, 16))


def test_exported_program_of_fixed_batch_says_so(tmp_path: Path) -> None:
    _export(tmp_path / "tiny.pt2", dynamic=False)
    model = load_model(str(tmp_path / "tiny.pt2"), mean=(0, 0, 0), std=(1, 1, 1))
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 4)
    with pytest.raises(UsageError, match="batches of 2, got 3: export with a dynamic batch dimension"):
        model(torch.rand(3, 3, 32, 32))


def test_pickles_in_an_exported_program_are_not_executed(tmp_path: Path) -> None:
    import zipfile

    _export(tmp_path / "tiny.pt2", dynamic=True)
    torch.save(Bomb(tmp_path / "exploded"), tmp_path / "bomb.pt")
    with zipfile.ZipFile(tmp_path / "tiny.pt2") as good, zipfile.ZipFile(tmp_path / "bad.pt2", "w") as bad:
        for name in good.namelist():
            inputs = "sample_inputs" in name
            bad.writestr(name, (tmp_path / "bomb.pt").read_bytes() if inputs else good.read(name))
    with pytest.raises(UsageError, match="holds pickled objects"):
        load_model(str(tmp_path / "bad.pt2"), mean=(0, 0, 0), std=(1, 1, 1))
    assert not (tmp_path / "exploded").exists()
    (tmp_path / "text.pt2").write_text("text")
    with pytest.raises(UsageError, match="is not a program"):
        load_model(str(tmp_path / "text.pt2"))


def test_timm(tmp_path: Path) -> None:
    timm = pytest.importorskip("timm")
    model = load_model("timm/test_resnet.r160_in1k", weights=None)
    config = timm.get_pretrained_cfg("test_resnet.r160_in1k")
    assert model.preset.size == config.input_size[1:]
    assert (model.preset.mean, model.preset.interpolation) == (config.mean, config.interpolation)
    assert model.categories is not None
    assert model.categories[285] == "Egyptian cat"
    network = timm.create_model("test_resnet", num_classes=3).eval()
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    tuned = load_model("timm:test_resnet", weights=tmp_path / "w.safetensors")
    images = torch.rand(1, 3, 160, 160)
    assert tuned.categories is None
    torch.testing.assert_close(tuned(images), network(tuned.normalize(images)), rtol=0, atol=0)
    with pytest.raises(UsageError, match="no network 'resnet1888' in timm; nearest"):
        load_model("timm/resnet1888")


def test_demo_with_weights_of_ones_own(tmp_path: Path) -> None:
    network = demo.DemoNet().eval()
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    model = load_model("demo", weights=tmp_path / "w.safetensors")
    assert model.categories == demo.CATEGORIES
    assert model.preset == Preset((demo.SIZE, demo.SIZE), demo.SIZE, demo.MEAN, demo.STD)
    images = torch.rand(2, 3, demo.SIZE, demo.SIZE)
    assert torch.equal(model(images), network(model.normalize(images)))


def test_without_timm_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UsageError, match=r"pip install 'afterimage\[timm\]'"):
        load_model("timm/resnet18")
