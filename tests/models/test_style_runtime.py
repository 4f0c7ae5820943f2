"""Painting by a runtime: engines agree with the network, whatever is given comes back as it came."""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from afterimage.errors import UsageError
from afterimage.models.network import digest
from afterimage.models.style import StyleNet, StyleRuntime, export_style_net, save_style_net
from afterimage.models.style.engines import OnnxRuntimeEngine
from afterimage.ops.tile_convolution import has_tiles
from tests.networks import lively

STYLES = ("starry night", "scream")
ENGINES = ("amx", "onnxruntime", "openvino", "torch")
CLOSE = 2e-5  # float32 through sixteen layers, in three orders of adding
BY_TILES = 3e-4  # factors of 16 or 17 bits through sixteen layers


def have(engine):
    """Skip where an engine is not to be had."""
    if engine == "openvino":
        pytest.importorskip("openvino", reason="OpenVINO is not installed: pip install 'afterimage[openvino]'")
    if engine == "amx" and not has_tiles():
        pytest.skip("this processor has no AMX, or AFTERIMAGE_ISA or AFTERIMAGE_KERNELS hides it")


def close(engine):
    return BY_TILES if engine == "amx" else CLOSE


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return lively(StyleNet(4, STYLES, {"steps": 3})).eval().requires_grad_(False)


@pytest.fixture(params=ENGINES)
def runtime(request, net):
    have(request.param)
    return StyleRuntime(net, engine=request.param, threads=1)


@pytest.mark.parametrize("size", [(16, 16), (17, 33), (64, 48), (255, 511)])
def test_engines_paint_as_the_network_does(runtime, net, size):
    images = torch.rand(3, 3, *size)
    shares = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.25, 0.75]])
    strength = torch.tensor([1.0, 0.0, 0.3])
    came = runtime(images, strength, shares)
    torch.testing.assert_close(came, net(images, shares, strength), atol=close(runtime.engine), rtol=0)
    assert torch.equal(came[1], images[1])
    alone = torch.cat([runtime(images[[k]], strength[[k]], shares[k]) for k in range(3)])
    torch.testing.assert_close(came, alone, atol=CLOSE, rtol=0)
    assert came.is_contiguous()


@pytest.mark.parametrize("pixels", ["float32", "uint8"])
def test_files_are_painted_with(net, tmp_path, pixels):
    export_style_net(net, tmp_path / "net.onnx", pixels=pixels)
    save_style_net(net, tmp_path / "net.safetensors")
    images = torch.rand(1, 3, 20, 30)
    for name in ("net.onnx", "net.safetensors"):
        runtime = StyleRuntime(tmp_path / name, engine="onnxruntime", threads=1)
        assert (runtime.styles, runtime.about, runtime.engine) == (STYLES, {"steps": 3}, "onnxruntime")
        assert digest(runtime.net) == digest(net)
        torch.testing.assert_close(runtime(images), net(images), atol=CLOSE, rtol=0)


def test_eight_bits_are_the_rounded_picture(runtime):
    levels = torch.randint(256, (2, 18, 21, 3), dtype=torch.uint8)
    exact = runtime(levels.movedim(3, 1) / 255, 0.7) * 255
    came = runtime(levels, 0.7)
    assert came.dtype == torch.uint8
    assert torch.equal(came, exact.round().byte().movedim(1, 3))
    array = runtime(levels.numpy(), 0.7)
    assert isinstance(array, np.ndarray)
    assert np.array_equal(array, came.numpy())
    one = runtime(levels[0].numpy(), 0.7)
    assert one.shape == (18, 21, 3)
    assert np.abs(one.astype(int) - array[0]).max() <= 1  # a batch of another size adds in another order
    assert np.array_equal(runtime(levels.numpy(), 0), levels.numpy())


def test_a_sequence_keeps_its_order(net):
    runtime = StyleRuntime(net, engine="torch", threads=1, batch_size=2)
    rng = np.random.default_rng(0)
    images = [rng.integers(256, size=(*size, 3), dtype=np.uint8) for size in [(16, 20), (24, 16)] * 3 + [(17, 17)]]
    strength = torch.linspace(0, 1, len(images))
    came = runtime(images, strength, {"scream": 2, "starry night": 1})
    assert isinstance(came, list)
    for place, (image, painted) in enumerate(zip(images, came, strict=True)):
        alone = runtime(image, float(strength[place]), {"scream": 2 / 3, "starry night": 1 / 3})
        assert painted.shape == image.shape
        assert np.abs(painted.astype(int) - alone).max() <= 1
    assert np.array_equal(came[0], images[0])
    assert runtime([]) == []


def test_shares_by_name_or_number(net):
    runtime = StyleRuntime(net, engine="torch", threads=1)
    images = torch.rand(2, 3, 16, 16)
    scream = runtime(images, shares={"scream": 5})
    assert torch.equal(scream, runtime(images, shares=torch.tensor([0.0, 3.0])))
    assert torch.equal(scream, runtime(images, shares=torch.tensor([[0.0, 1.0]] * 2)))
    assert not torch.equal(scream, runtime(images))
    assert torch.equal(runtime(images), runtime(images, shares=dict.fromkeys(STYLES, 0.2)))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"shares": {"screem": 1}}, "not 'screem'; nearest: scream"),
        ({"shares": {"xyz": 1}}, "paints starry night, scream, not .xyz."),
        ({"shares": {"scream": 0}}, "none below 0 and some above"),
        ({"shares": {"scream": -1, "starry night": 3}}, "none below 0"),
        ({"shares": {"scream": float("nan")}}, "none below 0"),
        ({"shares": torch.ones(3)}, r"expected a tensor \(2,\) or \(1, 2\), got \(1, 3\)"),
        ({"strength": 1.5}, r"strength: expected values in \[0, 1\]"),
        ({"strength": float("nan")}, "strength: expected values"),
        ({"strength": [0.5, 0.5]}, "one for each of 1 images"),
        ({"images": torch.rand(1, 3, 15, 40)}, "at least 16 × 16 pixels, got 15 × 40"),
        ({"images": torch.rand(1, 3, 16, 16) + 0.5}, r"values in \[0, 1\], got 0\..* to 1\..*; divide levels by 255"),
        ({"images": torch.full((1, 3, 16, 16), torch.nan)}, r"\[0, 1\], got NaN"),
        ({"images": torch.rand(3, 16, 16)}, r"got torch.float32 \(3, 16, 16\)"),
        ({"images": torch.ones(1, 3, 16, 16, dtype=torch.int64)}, "got torch.int64"),
        ({"images": np.zeros((16, 16, 4), np.uint8)}, r"uint8 \(N, H, W, 3\) or \(H, W, 3\), got uint8 \(16, 16, 4\)"),
        ({"images": np.zeros((15, 16, 3), np.uint8)}, "at least 16 × 16"),
        ({"images": [np.zeros((16, 16, 3))]}, r"image 0: expected a uint8 array \(H, W, 3\), got float64"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line(net, given, told):
    runtime = StyleRuntime(net, engine="torch", threads=1)
    with pytest.raises(UsageError, match=told) as caught:
        runtime(**{"images": torch.rand(1, 3, 16, 16), **given})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("engine", [*ENGINES, "auto"])
def test_what_is_not_there_is_an_error(net, engine, device):
    have("openvino" if engine == "auto" else engine)
    if device == "cuda":
        if torch.cuda.is_available() and engine not in ("amx", "openvino"):
            pytest.skip("there is a GPU")
        with pytest.raises(UsageError, match="cuda"):
            StyleRuntime(net, engine=engine, device=device)
    if engine == "onnxruntime":
        with pytest.raises(UsageError, match="fp32, not bf16"):
            StyleRuntime(net, engine=engine, precision="bf16", device=device)


@pytest.mark.parametrize(
    "wrong", [{"engine": "onnx"}, {"device": "gpu"}, {"precision": "fp16"}, {"threads": 0}, {"batch_size": 0}]
)
def test_settings_are_checked(net, wrong):
    with pytest.raises(UsageError, match=f"{next(iter(wrong))}: expected"):
        StyleRuntime(net, **{"engine": "torch", **wrong})


@pytest.mark.parametrize("engine", ["amx", "torch"])
def test_bfloat16_is_near(net, engine):
    have(engine)
    runtime = StyleRuntime(net, engine=engine, precision="bf16", threads=1)
    images = torch.rand(1, 3, 32, 32)
    came = runtime(images)
    assert came.dtype == torch.float32
    error = (came - net(images)).abs().mean()
    assert 1e-5 < error < 0.05  # eight bits of mantissa, through sixteen layers


def test_threads_are_passed_on(net):
    for count in (1, 3):
        engine = OnnxRuntimeEngine(net, "cpu", "fp32", count)
        options = engine.session.get_session_options()
        assert options.intra_op_num_threads == count
        assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
        assert engine.session.get_providers()[0] == "CPUExecutionProvider"
    seen = []
    runtime = StyleRuntime(net, engine="torch", threads=3)
    last = runtime._engine.quick.last
    runtime._engine.quick.last = lambda maps: (seen.append(torch.get_num_threads()), last(maps))[1]
    before = torch.get_num_threads()
    runtime(torch.rand(1, 3, 16, 16))
    assert (seen, torch.get_num_threads()) == ([3], before)


@pytest.mark.parametrize("width", [4, 8])
@pytest.mark.parametrize("kind", ["noise", "bright edge", "ramp"])
def test_tiles_are_off_by_tens_of_times_what_float32_is(kind, width):
    """Factors have 16 bits instead of 24; norms draw it out of pictures that are nearly flat."""
    have("amx")
    torch.manual_seed(0)
    single = lively(StyleNet(width)).eval().requires_grad_(False)
    images = {
        "noise": torch.rand(1, 3, 83, 98),
        "bright edge": torch.full((1, 3, 64, 640), 0.5),
        "ramp": torch.linspace(0, 1, 200).expand(1, 3, 200, 200),
    }[kind].clone()
    if kind == "bright edge":
        images[..., :2] = 1
    exact = copy.deepcopy(single).double()(images.double())
    ours, eager = (
        (came.double() - exact).abs().max() for came in (StyleRuntime(single, engine="amx")(images), single(images))
    )
    assert ours < 64 * eager


def test_tiles_paint_the_same_with_any_number_of_threads_and_callers(net):
    have("amx")
    images = torch.rand(2, 3, 70, 45)
    one = StyleRuntime(net, engine="amx", threads=1)(images)
    runtime = StyleRuntime(net, engine="amx", threads=3)
    with ThreadPoolExecutor(4) as pool:  # which share the memory that it works in
        for came in pool.map(runtime, [images] * 8):
            assert torch.equal(came, one)


def test_threads_are_passed_on_to_openvino(net):
    pytest.importorskip("openvino", reason="OpenVINO is not installed: pip install 'afterimage[openvino]'")
    runtime = StyleRuntime(net, engine="openvino", threads=1)
    assert runtime._engine.compiled.get_property("INFERENCE_NUM_THREADS") == 1


def test_the_fastest_engine_is_measured_once(net):
    first = StyleRuntime(net, threads=1)
    assert first.engine in ENGINES
    assert first.probe.startswith(f"{first.engine}, the fastest")
    assert "\n" not in first.probe
    assert StyleRuntime(net, threads=1).probe == first.probe  # the times are those of the first


def test_a_runtime_can_be_sent(runtime):
    images = torch.rand(1, 3, 16, 16)
    sent = pickle.loads(pickle.dumps(runtime))
    assert (sent.engine, sent.probe, sent.styles) == (runtime.engine, runtime.probe, runtime.styles)
    torch.testing.assert_close(sent(images), runtime(images), atol=CLOSE, rtol=0)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_network_of_the_papers_width(engine):
    """Its blocks are those that torch filters by Winograd's transforms."""
    have(engine)
    torch.manual_seed(0)
    net = lively(StyleNet(32)).eval().requires_grad_(False)
    images = torch.rand(1, 3, 83, 98)
    runtime = StyleRuntime(net, engine=engine, threads=1)
    torch.testing.assert_close(runtime(images), net(images), atol=max(1e-4, close(engine)), rtol=0)
    if engine == "torch":
        assert len(runtime._engine.quick.transformed) == 10
